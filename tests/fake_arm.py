"""Scripted stand-ins for the parts around a control loop: an arm, a policy and a clock."""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from arm_control.drivers.base import DriverError, JointState
from envs.arm import Arm
from envs.limits import JointLimits

ARM = Arm()
START = (20.0, 30.0, 40.0)


class FakeClock:
    """A clock that jumps to the due time, and `oversleep(n)` seconds further in its n-th wait."""

    def __init__(
        self, *, waits: bool = False, oversleep: Callable[[int], float] = lambda wait: 0.0, most: int = 50_000
    ) -> None:
        self.waits, self._oversleep, self._most = waits, oversleep, most
        self.time_s = 5.0
        self.count = 0

    def now_s(self) -> float:
        return self.time_s

    def wait_until(self, due_s: float) -> None:
        self.count += 1
        assert self.count < self._most, "the loop does not end"
        self.time_s = max(self.time_s, due_s) + self._oversleep(self.count)


class FakeArm:
    """Joints that each follow their target with a first-order lag.

    `verbs` are the calls except `read`, `sent` and `sent_s` the targets with their times. `faulty_read` and
    `faulty_write` may spoil a reading, swallow a target, or raise.
    """

    joint_names = ARM.joint_names
    limits: JointLimits = ARM.limits
    calibration_sha256: str | None = None
    fastest_rate_hz = 1000.0

    def __init__(
        self,
        clock: FakeClock,
        angles_deg: Sequence[float] = START,
        lag_s: float = 0.04,
        *,
        faulty_read: Callable[[JointState], JointState] = lambda state: state,
        faulty_write: Callable[[list[float]], list[float] | None] = lambda target: target,
    ) -> None:
        self._clock, self._lag_s = clock, lag_s
        self.faulty_read, self.faulty_write = faulty_read, faulty_write
        self.angles_deg = list(angles_deg)
        self.blocked: set[int] = set()  # joints that cannot move
        self._target_deg = list(angles_deg)
        self._at_s = clock.now_s()
        self.verbs: list[str] = []
        self.sent: list[list[float]] = []
        self.sent_s: list[float] = []
        self.disabled_at_deg: list[float] | None = None

    def _advance(self) -> None:
        now_s = self._clock.now_s()
        left = math.exp(-(now_s - self._at_s) / self._lag_s)
        self._at_s = now_s
        for joint, target in enumerate(self._target_deg):
            if joint not in self.blocked:
                self.angles_deg[joint] = target + (self.angles_deg[joint] - target) * left

    def enable(self) -> None:
        self.verbs.append("enable")

    def read(self) -> JointState:
        self._advance()
        speeds = [
            0.0 if joint in self.blocked else (target - angle) / self._lag_s
            for joint, (target, angle) in enumerate(zip(self._target_deg, self.angles_deg, strict=True))
        ]
        return self.faulty_read(JointState(self._clock.now_s(), list(self.angles_deg), speeds))

    def write(self, target_deg: list[float]) -> None:
        self._advance()
        self.verbs.append("write")
        self.sent.append(list(target_deg))
        self.sent_s.append(self._clock.now_s())
        if (target := self.faulty_write(list(target_deg))) is not None:
            self._target_deg = target

    def disable(self) -> None:
        self._advance()
        self.disabled_at_deg = list(self.angles_deg)
        self.verbs.append("disable")

    def close(self) -> None:
        self.verbs.append("close")


def lost(*_: Any) -> Any:
    """As a fault: raise the error of a missing reply."""
    raise DriverError("no reply")


class ScriptedPolicy:
    """The part of a policy that `GoalWork` uses; `action(n)` is its n-th action, counted from 0."""

    arm = ARM
    contract = SimpleNamespace(goal_tolerance_m=0.005, imperfections="ideal")

    def __init__(self, action: Callable[[int], list[float]] | list[float], period_s: float = 1 / 30) -> None:
        self.action = action if callable(action) else lambda calls: action
        self.period_s = period_s
        self.calls = 0
        self.forgotten = 0

    def reset_memory(self) -> None:
        self.forgotten += 1

    def decide(self, *inputs: Any) -> list[float]:
        self.calls += 1
        return self.action(self.calls - 1)


class Skilled(ScriptedPolicy):
    """A policy whose action is the pose that puts the tip on the goal."""

    def __init__(self, period_s: float = 1 / 30) -> None:
        super().__init__([], period_s)
        self._poses: dict[tuple[float, ...], list[float]] = {}

    def decide(
        self,
        angles: Any,
        speeds: Any,
        previous: Any,
        previous_speed: Any,
        goal_m: Sequence[float],
        velocity: Any,
    ) -> list[float]:
        self.calls += 1
        goal = tuple(goal_m)
        if goal not in self._poses:
            self._poses[goal] = ARM.inverse_kinematics(np.array(goal)).tolist()
        return self._poses[goal]
