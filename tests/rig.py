"""A control loop around a fake arm, with scripted key presses."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from fake_arm import ARM, START, FakeArm, FakeClock, ScriptedPolicy, Skilled

from arm_control.drivers.base import JointState
from arm_control.runner import PolicyRunner
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import ControlLoop, LoopSettings
from arm_control.runner.motions import PARKED_DEG
from arm_control.runner.report import GoalResult, LoopReport
from arm_control.runner.safety import Safety, SafetySettings
from envs.tasks.base import GoalTrajectory, StillGoal

LOW = np.array(ARM.limits.lower_deg)
POSES = [[20.0, 40.0, 60.0], [70.0, 30.0, 20.0], [45.0, 80.0, 10.0]]
GOALS = [StillGoal(ARM.tip_position(pose)) for pose in POSES]
EASE_S = LoopSettings.ease_s
LOST_S = LoopSettings.lost_s
SOFT_STEPS = round(EASE_S * 30)


class Rig:
    """A loop around a fake arm; `keys` are pressed one after another, whenever the loop reads the keyboard.

    `fault(rig)` runs before each reading.
    """

    def __init__(
        self,
        policy: ScriptedPolicy | PolicyRunner | None = None,
        goals: Iterable[GoalTrajectory | None] = GOALS,
        *,
        rate: float = 30.0,
        seconds: float = 0.5,
        keys: Sequence[str] | None = None,
        stop: Callable[["Rig"], bool] = lambda rig: False,
        fault: Callable[["Rig"], None] = lambda rig: None,
        clock: FakeClock | None = None,
        arm: FakeArm | None = None,
        settings: SafetySettings | None = None,
        **loop: Any,
    ) -> None:
        self.policy = Skilled() if policy is None else policy
        self.clock = clock or FakeClock(waits=keys is not None)
        self.arm = arm or FakeArm(self.clock)
        read, self.fault = self.arm.read, fault

        def faulty() -> JointState:
            self.reads += 1
            self.fault(self)
            return read()

        self.arm.read = faulty  # type: ignore[method-assign]
        self.reads = 0
        self.messages: list[str] = []
        self._keys = iter(keys or ())
        self.results: list[GoalResult] = []
        self.loop = ControlLoop(
            self.arm,
            Safety(ARM, ARM.limits, 1 / rate, settings or SafetySettings()),
            self.clock,
            stopped=lambda: stop(self),
            key=None if keys is None else lambda: next(self._keys, ""),
            say=self.messages.append,
            **loop,
        )
        self.work = GoalWork(
            self.policy,  # type: ignore[arg-type]
            goals,
            seconds_per_goal=seconds,
            on_goal=self.results.append,
        )

    def run(self) -> LoopReport:
        return self.loop.run(self.work)

    @property
    def checks(self) -> list[str]:
        return [fault.check for fault in self.loop.report.faults]

    @property
    def torque_off(self) -> bool:
        return "disable" in self.arm.verbs

    def assert_parked(self) -> None:
        """Assert that torque was switched off once, at the very end, with the arm at rest in its parking pose."""
        assert self.loop.report.parked
        assert self.arm.verbs[0] == "enable"
        assert self.arm.verbs[-1] == "disable"
        assert set(self.arm.verbs[1:-1]) <= {"write"}
        np.testing.assert_allclose(self.arm.disabled_at_deg, self.loop.parking.pose_deg, atol=PARKED_DEG)
        np.testing.assert_allclose(self.arm.sent[-1], self.loop.parking.pose_deg, atol=1e-6)

    def assert_held(self) -> None:
        """Assert that torque is on and targets are at rest."""
        assert not self.loop.report.parked
        assert not self.torque_off
        assert not self.loop.safety.moving
        if len(self.arm.sent) > 1:
            assert self.arm.sent[-1] == pytest.approx(self.arm.sent[-2], abs=1e-6)

    def assert_within_limits(self, start: Sequence[float] = START) -> None:
        assert_within_limits([list(start), *self.arm.sent], self.loop.period_s)


def assert_within_limits(targets: list[list[float]], period_s: float) -> None:
    """Assert that targets keep all limits; the first one is where the arm was at rest."""
    position = np.array(targets)
    speed = np.vstack([np.zeros(3), np.diff(position, axis=0) / period_s])
    change = np.abs(np.diff(speed, axis=0))
    rounding = 1e-10 / period_s
    assert (position >= ARM.limits.lower_deg).all()
    assert (position <= ARM.limits.upper_deg).all()
    assert (np.abs(speed) <= np.array(ARM.limits.max_speed_deg_s) + rounding).all()
    assert (change <= np.array(ARM.limits.max_acceleration_deg_s2) * period_s + 2 * rounding).all()


def from_step(step: int, then: Any, before: Any = POSES[0]) -> Callable[[int], list[float]]:
    """Actions that change at a step; an exception is raised."""

    def action(call: int) -> list[float]:
        chosen = before if call < step else then
        if isinstance(chosen, Exception):
            raise chosen
        return list(chosen)

    return action


def once(step: int, action: Any, otherwise: Any = POSES[0]) -> Callable[[int], list[float]]:
    """Actions of which the one at a step differs."""
    return lambda call: list(action) if call == step else list(otherwise)
