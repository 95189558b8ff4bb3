"""The report of a run: its goals, ticks, faults and timings, as figures and as lines for people."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from arm_control.process.printing import counted
from arm_control.runner.rest import Rest, format_rest, joint_rest
from arm_control.runner.safety import Fault
from arm_control.runner.timings import PERCENTILES, Timings

PARTS = ("read", "check", "decide", "limit", "write", "record")  # of a tick
PATH_NAMES = {"eight": "figure of eight"}


@dataclass(frozen=True)
class GoalResult:
    """How near the tip came to one goal, and when it was within the tolerance for good (None: it was not).

    The error is that at the end or, for a goal on a `path`, the RMS once the arm has settled.
    """

    goal_m: tuple[float, ...]  # at the end
    path: str | None
    error_mm: float
    time_to_reach_s: float | None
    rest: Rest | None = None  # of a goal that stays, by the sent targets and the measured angles

    def figures(self) -> dict[str, Any]:
        """The same as plain values."""
        path = {} if self.path is None else {"path": self.path}
        return {
            "goal_m": self.goal_m,
            **path,
            "error_mm": self.error_mm,
            "time_to_reach_s": self.time_to_reach_s,
            "rest": None if self.rest is None else dataclasses.asdict(self.rest),
        }


def new_timings() -> dict[str, Timings]:
    """Timings of the parts of a tick, of whole ticks, and of how far from due they began."""
    return {name: Timings() for name in (*PARTS, "tick", "period error")}


@dataclass
class LoopReport:
    """The goals, ticks and faults of a run."""

    period_s: float
    goals: list[GoalResult] = field(default_factory=list)
    ticks: int = 0
    overruns: int = 0
    shifted_s: float = 0.0  # by how much overruns have put off the ticks after them
    lost_replies: int = 0  # readings and targets that did not get through
    loop_s: float = 0.0
    timings: dict[str, Timings] = field(default_factory=new_timings)
    clamped: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    parked: bool = False
    interrupted: bool = False

    @property
    def rest(self) -> Rest | None:
        """The figures of rest over all goals; None if no goal has any."""
        return joint_rest([goal.rest for goal in self.goals if goal.rest is not None])

    @property
    def mean_error_mm(self) -> float | None:
        """The mean error over all goals; None if there are none."""
        if not self.goals:
            return None
        return sum(goal.error_mm for goal in self.goals) / len(self.goals)

    def figures(self) -> dict[str, Any]:
        """The same as plain values."""
        rest = self.rest
        timings_us = {name: timings.figures_us() for name, timings in self.timings.items()}
        return {
            "goals": [goal.figures() for goal in self.goals],
            "mean_error_mm": self.mean_error_mm,
            "rest": None if rest is None else dataclasses.asdict(rest),
            "ticks": self.ticks,
            "overruns": self.overruns,
            "shifted_s": self.shifted_s,
            "lost_replies": self.lost_replies,
            "wanted_rate_hz": 1.0 / self.period_s,
            "rate_hz": self.ticks / self.loop_s if self.loop_s else None,
            "timings_us": timings_us if self.ticks else None,
            "clamped": self.clamped,
            "faults": [{"check": fault.check, "text": fault.text} for fault in self.faults],
            "parked": self.parked,
            "interrupted": self.interrupted,
        }


def format_report(report: LoopReport, *, fast: bool) -> Iterator[str]:
    """Yield the lines that summarise a run, below its goals."""
    if report.goals:
        rest = report.rest
        at_rest = "" if rest is None else f"; at rest (last 0.5 s): {format_rest(rest)}"
        yield f"mean error {report.mean_error_mm:.2f} mm over {counted(len(report.goals), 'goal')}{at_rest}"
    if report.ticks and not fast:
        yield (
            f"loop {report.ticks / report.loop_s:.1f} Hz, expected {1 / report.period_s:.1f}; "
            f"{counted(report.ticks, 'tick', form='')}, {counted(report.overruns, 'overrun', form='')}, "
            f"{counted(report.lost_replies, 'reply', 'replies', form='')} lost"
        )
    if not report.ticks:
        return
    for name in ("period error", "tick", "decide", "limit", "read", "write")[fast:]:
        timings = report.timings[name]
        times = (f"{label} {1e6 * timings.percentile_s(part):.0f}" for label, part in PERCENTILES.items())
        yield f"  {name:<12} {', '.join(times)}, worst {1e6 * timings.worst_s:.0f} us"
    clamped = ", ".join(f"{check} {count}" for check, count in report.clamped.items()) or "nothing"
    yield f"clamped: {clamped}; faults: {len(report.faults) or 'none'}"


def format_goal(result: GoalResult) -> str:
    """One line of the table of goals."""
    x, y, z = result.goal_m
    reached = "not reached" if result.time_to_reach_s is None else f"{result.time_to_reach_s:.2f} s"
    end = reached if result.path is None else f"RMS on a {PATH_NAMES.get(result.path, result.path)}"
    return f"  {x:8.4f} {y:8.4f} {z:8.4f}   {result.error_mm:7.2f} mm   {end}"
