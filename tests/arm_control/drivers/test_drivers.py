"""Drivers by name, those of other packages too, and the conformance suite: ours pass, and each fault is found."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from locations import DESK

from arm_control.cli import main
from arm_control.drivers.base import DriverError, JointState
from arm_control.drivers.conformance import CHECKS
from arm_control.drivers.opening import available_drivers, load_driver
from arm_control.drivers.simulation import SimulationDriver
from envs.arm import Arm

ARM = Arm()


@pytest.fixture
def simulated() -> Iterator[SimulationDriver]:
    driver = SimulationDriver(ARM, 1 / 50)
    yield driver
    driver.close()


@pytest.mark.parametrize("check", CHECKS)
def test_the_simulated_arm_conforms(simulated: SimulationDriver, check: str) -> None:
    CHECKS[check](simulated)


class TestSimulatedStart:
    """Where a simulated arm is when nothing was sent yet."""

    @pytest.mark.parametrize("urdf", [None, DESK], ids=["default", "desk"])
    def test_it_is_the_default_pose(self, urdf: Path | None) -> None:
        arm = ARM if urdf is None else Arm(urdf)
        driver = SimulationDriver(arm, 1 / 50)
        assert driver.read().angles_deg == pytest.approx([0.0] * 3, abs=1e-9)
        driver.close()

    def test_another_pose_can_be_named(self) -> None:
        driver = SimulationDriver(ARM, 1 / 50, start_deg=[10.0, 20.0, 30.0])
        assert driver.read().angles_deg == pytest.approx([10.0, 20.0, 30.0])
        driver.close()


class ModelArm:
    """An arm in memory that does everything right; its subclasses each do one thing wrong."""

    joint_names: Any = ARM.joint_names
    limits = ARM.limits
    calibration_sha256: str | None = None
    fastest_rate_hz = 100.0

    def __init__(self) -> None:
        self.angles = [20.0, 30.0, 40.0]

    def enable(self) -> None:
        pass

    def read(self) -> JointState:
        return JointState(time.monotonic(), list(self.angles), [0.0] * 3)

    def write(self, target_deg: list[float]) -> None:
        if len(target_deg) != 3 or not all(-1 < angle < 91 for angle in target_deg):
            raise DriverError(f"wanted three angles from 0 to 90 degrees, got {target_deg}")
        self.angles = list(target_deg)

    def disable(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("check", CHECKS)
def test_an_arm_that_does_everything_right_conforms(check: str) -> None:
    CHECKS[check](ModelArm())


def wrong(**methods: Any) -> ModelArm:
    return type("WrongArm", (ModelArm,), methods)()


def jumping(self: ModelArm) -> None:
    self.angles = [0.0, 0.0, 0.0]


def backwards(self: ModelArm, target_deg: list[float]) -> None:
    ModelArm.write(self, target_deg)
    self.angles = [40.0 - angle for angle in target_deg]


def shared(self: ModelArm) -> JointState:
    self.state = getattr(self, "state", None) or JointState(0.0, self.angles, [0.0] * 3)
    self.state.angles_deg[0] += 1e-6
    return self.state


def keeping(self: ModelArm, target_deg: list[float]) -> None:
    ModelArm.write(self, target_deg)
    self.angles = target_deg


def trusting(self: ModelArm, target_deg: list[float]) -> None:
    self.angles = list(target_deg)


def reading(stamp: Callable[[], float] = time.monotonic, **values: Any) -> Callable[[ModelArm], JointState]:
    def read(self: ModelArm) -> JointState:
        told = {"angles_deg": list(self.angles), "speeds_deg_s": [0.0] * 3} | values
        return JointState(stamp(), **told)

    return read


def twice(self: ModelArm) -> None:
    if getattr(self, "closed", False):
        raise DriverError("it is closed")
    self.closed = True


@pytest.mark.parametrize(
    ("check", "methods"),
    [
        ("names and limits", {"joint_names": ["a", "b", "c"]}),
        ("names and limits", {"joint_names": ("a", "a", "c")}),
        ("names and limits", {"joint_names": ("a", "b")}),
        ("names and limits", {"calibration_sha256": "abc"}),
        ("readings", {"read": reading(time.time)}),
        ("readings", {"read": reading(lambda: 5.0)}),
        ("readings", {"read": reading(angles_deg=[1.0, 2.0])}),
        ("readings", {"read": reading(speeds_deg_s=[math.nan] * 3)}),
        ("readings", {"read": reading(temperatures_c=[30.0])}),
        ("enable holds", {"enable": jumping}),
        ("small move", {"write": backwards}),
        ("own copies", {"read": shared}),
        ("own copies", {"write": keeping}),
        ("bad targets", {"write": trusting}),
        ("disable and close", {"close": twice}),
    ],
)
def test_an_arm_that_does_one_thing_wrong_is_found(
    check: str, methods: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arm_control.drivers.conformance.TIME_S", 0.1)
    with pytest.raises((AssertionError, DriverError)):
        CHECKS[check](wrong(**methods))


class TestNames:
    """Drivers by name: entry points of this package and of others."""

    def test_our_own_are_entry_points(self) -> None:
        """The simulated arm is an entry point like any other."""
        assert {"sim", "dynamixel"} <= set(available_drivers())

    def test_only_the_simulation_declares_itself_simulated(self) -> None:
        """A bare function as an entry point is a real arm."""
        assert load_driver("sim").simulated
        assert not load_driver("dynamixel").simulated

    def test_the_simulated_arm_has_no_options(self, tiny_policy: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """A port without a driver is reported with the likely cause."""
        assert main(["run", str(tiny_policy), "--goal", "0.2372,0.3338,0.2699", "--port", "x"]) == 2
        assert "driver sim: unexpected --port" in capfd.readouterr().err
