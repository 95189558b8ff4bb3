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
    """The conformance checks."""

    @pytest.mark.parametrize("check", CHECKS)
    def test_checks(self, simulated: SimulationDriver, check: str) -> None:
        """Every check passes for the simulated arm."""
        CHECKS[check](simulated)


class TestStart:
    """The pose of a simulated arm before its first target."""

    @pytest.mark.parametrize("urdf", [None, DESK], ids=["default", "desk"])
    def test_it_is_the_default_pose(self, urdf: Path | None) -> None:
        """Every joint is at 0 degrees, also if its range is -90 to 90 degrees."""
        arm = ARM if urdf is None else Arm(urdf)
        driver = SimulationDriver(arm, 1 / 50)
        assert driver.read().angles_deg == pytest.approx([0.0] * 3, abs=1e-9)
        driver.close()

    def test_another_pose_can_be_given(self) -> None:
        """The argument `start_deg` sets it."""
        driver = SimulationDriver(ARM, 1 / 50, start_deg=[10.0, 20.0, 30.0])
        assert driver.read().angles_deg == pytest.approx([10.0, 20.0, 30.0])
        driver.close()
