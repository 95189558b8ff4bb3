"""The simulated arm as a driver."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from locations import DESK

from arm_control.drivers.conformance import CHECKS
from arm_control.drivers.simulation import SimulationDriver
from envs.arm import Arm

ARM = Arm()


@pytest.fixture
def simulated() -> Iterator[SimulationDriver]:
    """The default arm at 50 Hz."""
    driver = SimulationDriver(ARM, 1 / 50)
    yield driver
    driver.close()


class TestConformance:
    """The checks for drivers."""

    @pytest.mark.parametrize("check", CHECKS)
    def test_checks(self, simulated: SimulationDriver, check: str) -> None:
        """Every check passes."""
        CHECKS[check](simulated)


class TestSimulatedStart:
    """Where a simulated arm is when nothing was sent yet."""

    @pytest.mark.parametrize("urdf", [None, DESK], ids=["default", "desk"])
    def test_it_is_the_default_pose(self, urdf: Path | None) -> None:
        """Every joint at 0 degrees."""
        arm = ARM if urdf is None else Arm(urdf)
        driver = SimulationDriver(arm, 1 / 50)
        assert driver.read().angles_deg == pytest.approx([0.0] * 3, abs=1e-9)
        driver.close()

    def test_another_pose_can_be_named(self) -> None:
        """By start_deg."""
        driver = SimulationDriver(ARM, 1 / 50, start_deg=[10.0, 20.0, 30.0])
        assert driver.read().angles_deg == pytest.approx([10.0, 20.0, 30.0])
        driver.close()
