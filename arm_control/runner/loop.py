"""The control loop: read, decide, write, once a period, goal after goal; and what it did."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from arm_control.drivers import Driver
from arm_control.runner.policy_runner import PolicyRunner
from envs.tasks import Course, Goal, MovingGoal, Reach, Track


@dataclass(frozen=True)
class GoalResult:
    """How near the tip came to one goal, and when it was within the tolerance for good (None: it was not).

    The error is that at the end or, for a goal on a `path`, the RMS once the arm has settled.
    """

    goal_m: Goal  # at the end
    path: str | None
    error_mm: float
    time_to_reach_s: float | None


@dataclass
class LoopReport:
    """What a loop did."""

    period_s: float
    goals: list[GoalResult] = field(default_factory=list)
    policy_s: list[float] = field(default_factory=list)  # inference and limits, each tick
    late_ticks: int = 0  # ticks that began more than half a period late
    loop_s: float = 0.0
    interrupted: bool = False

    def figures(self) -> dict[str, Any]:
        """The same as plain values."""
        ticks = len(self.policy_s)
        latency = {name: float(np.percentile(self.policy_s, q)) * 1e6 for name, q in PERCENTILES.items() if ticks}
        return {
            "goals": [
                {
                    "goal_m": goal.goal_m,
                    **({} if goal.path is None else {"path": goal.path}),
                    "error_mm": goal.error_mm,
                    "time_to_reach_s": goal.time_to_reach_s,
                }
                for goal in self.goals
            ],
            "mean_error_mm": float(np.mean([goal.error_mm for goal in self.goals])) if self.goals else None,
            "ticks": ticks,
            "late_ticks": self.late_ticks,
            "wanted_rate_hz": 1.0 / self.period_s,
            "rate_hz": ticks / self.loop_s if self.loop_s else None,
            "inference_and_limits_us": latency or None,
            "interrupted": self.interrupted,
        }


PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}


def run_goals(
    runner: PolicyRunner,
    driver: Driver,
    courses: Iterable[Course],
    *,
    seconds_per_goal: float,
    real_time: bool,
    stopped: Callable[[], bool] = lambda: False,
    on_goal: Callable[[GoalResult], None] = lambda result: None,
) -> LoopReport:
    """Drive the arm to each goal, or along each path, in turn, then park it.

    Ticks are due at whole multiples of the period from each goal's start, on the monotonic clock, so lateness does not
    add up; a tick that is missed by more than a period moves the multiples on. Not in `real_time`, they follow each
    other at once. Raises ValueError if the driver's joints are not the contract's.
    """
    if driver.joint_names != runner.contract.joint_names:
        raise ValueError(f"the policy moves joints {runner.contract.joint_names}, the arm has {driver.joint_names}")
    report = LoopReport(runner.period_s)
    try:
        driver.enable()
        runner.start(driver.read().angles_deg)
        for course in courses:
            if stopped():
                break
            result = _run_goal(runner, driver, course, seconds_per_goal, real_time, stopped, report)
            if result is None:
                break
            report.goals.append(result)
            on_goal(result)
    finally:
        driver.park()
    report.interrupted = stopped()
    return report


def _run_goal(
    runner: PolicyRunner,
    driver: Driver,
    course: Course,
    seconds: float,
    real_time: bool,
    stopped: Callable[[], bool],
    report: LoopReport,
) -> GoalResult | None:
    """Run one goal to its end; None if asked to stop on the way."""
    period = runner.period_s
    ticks = max(1, round(seconds / period))
    reached: int | None = None
    distances_m: list[float] = []  # the first before anything moves
    runner.forget()
    begin = due = time.monotonic()
    try:
        for tick in range(1, ticks + 1):
            if stopped():
                return None
            if real_time:
                due = _wait(due + period, period, report)
            goal, state = course.goal(tick - 1), driver.read()
            if tick == 1:
                distances_m.append(math.dist(runner.arm.tip_position(state.angles_deg), goal[:3]))
            start = time.perf_counter()
            target = runner.step(state.angles_deg, state.speeds_deg_s, goal[:3], goal[3:] or (0.0, 0.0, 0.0))
            report.policy_s.append(time.perf_counter() - start)
            driver.write(target)
            goal = course.goal(tick)[:3]
            distances_m.append(math.dist(runner.arm.tip_position(driver.read().angles_deg), goal))
            if distances_m[-1] > runner.contract.goal_tolerance_m:
                reached = None
            elif reached is None:
                reached = tick
    finally:
        report.loop_s += time.monotonic() - begin
    path = course.path.kind if isinstance(course, MovingGoal) else None
    task = Reach() if path is None else Track()
    error_mm = 1000 * float(task.errors_m(np.array(distances_m)))
    return GoalResult(goal, path, error_mm, None if reached is None else reached * period)


def _wait(due: float, period: float, report: LoopReport) -> float:
    """Sleep until a tick is due; returns when it was due, moved on by whole periods if one was missed entirely."""
    now = time.monotonic()
    if now < due:
        time.sleep(due - now)
        now = time.monotonic()
    report.late_ticks += now - due > period / 2
    return due + max(0, math.floor((now - due) / period)) * period
