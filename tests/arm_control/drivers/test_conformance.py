"""The conformance checks for drivers: a correct driver passes, and each kind of fault is found."""

import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from arm_control.drivers.base import DriverError, JointState
from arm_control.drivers.conformance import CHECKS
from envs.arm import Arm

ARM = Arm()


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
            raise DriverError(f"expected three angles from 0 to 90 degrees, got {target_deg}")
        self.angles = list(target_deg)

    def disable(self) -> None:
        pass

    def close(self) -> None:
        pass


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


def reading(stamp: Callable[[], float] = time.monotonic, **changes: Any) -> Callable[[ModelArm], JointState]:
    def read(self: ModelArm) -> JointState:
        values = {"angles_deg": list(self.angles), "speeds_deg_s": [0.0] * 3} | changes
        return JointState(stamp(), **values)

    return read


def twice(self: ModelArm) -> None:
    if getattr(self, "closed", False):
        raise DriverError("it is closed")
    self.closed = True


class TestChecks:
    """The checks, on arms in memory."""

    @pytest.mark.parametrize("check", CHECKS)
    def test_a_correct_driver_passes(self, check: str) -> None:
        """Every check passes for the model arm."""
        CHECKS[check](ModelArm())

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
    def test_a_faulty_driver_fails(self, check: str, methods: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """The check for that fault fails."""
        monkeypatch.setattr("arm_control.drivers.conformance.TIME_S", 0.1)
        with pytest.raises((AssertionError, DriverError)):
            CHECKS[check](wrong(**methods))
