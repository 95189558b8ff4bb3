"""The report of a run: goals, ticks, faults and timings, as figures and as printed lines."""

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
    """The distance of the tip from one goal, by the measured angles."""

    goal_m: tuple[float, ...]  # x, y, z in the base frame, at the end
    path: str | None  # the kind of path of a goal that moves
    error_mm: float  # at the end; for a goal that moves, the RMS once the arm has settled
    time_to_reach_s: float | None  # after which the tip stayed within the tolerance; None if it did not
    rest: Rest | None = None  # at a goal that does not move, by the sent targets and the measured angles

    def figures(self) -> dict[str, Any]:
        """The result as values for JSON."""
        figures: dict[str, Any] = {"goal_m": self.goal_m}
        if self.path is not None:
            figures["path"] = self.path
        figures["error_mm"] = self.error_mm
        figures["time_to_reach_s"] = self.time_to_reach_s
        figures["rest"] = None if self.rest is None else dataclasses.asdict(self.rest)
        return figures


def new_timings() -> dict[str, Timings]:
    """Empty timings of the parts of a tick, of whole ticks, and of the period error."""
    return {name: Timings() for name in (*PARTS, "tick", "period error")}


@dataclass
class LoopReport:
    """The goals, ticks and faults of a run."""

    period_s: float
    goals: list[GoalResult] = field(default_factory=list)
    ticks: int = 0
    overruns: int = 0
    shifted_s: float = 0.0  # total delay of later ticks by overruns
    lost_replies: int = 0  # readings and targets that failed
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
        """The report as values for JSON."""
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
    """Yield the lines that summarise a run, below its goals; without timings for a simulated clock (`fast`)."""
    # The errors, and how still the arm rested.
    if report.goals:
        rest = report.rest
        at_rest = "" if rest is None else f"; at rest (last 0.5 s): {format_rest(rest)}"
        yield f"mean error {report.mean_error_mm:.2f} mm over {counted(len(report.goals), 'goal')}{at_rest}"
    # The rate of the loop.
    if report.ticks and not fast:
        yield (
            f"loop {report.ticks / report.loop_s:.1f} Hz, expected {1 / report.period_s:.1f}; "
            f"{counted(report.ticks, 'tick', form='')}, {counted(report.overruns, 'overrun', form='')}, "
            f"{counted(report.lost_replies, 'reply', 'replies', form='')} lost"
        )
    if not report.ticks:
        return
    # Durations in microseconds; a simulated clock has no period error.
    for name in ("period error", "tick", "decide", "limit", "read", "write")[fast:]:
        timings = report.timings[name]
        times = []
        for label, fraction in PERCENTILES.items():
            times.append(f"{label} {1e6 * timings.percentile_s(fraction):.0f}")
        yield f"  {name:<12} {', '.join(times)}, worst {1e6 * timings.worst_s:.0f} us"
    # What the safety checks did.
    clamped = ", ".join(f"{check} {count}" for check, count in report.clamped.items()) or "nothing"
    yield f"clamped: {clamped}; faults: {len(report.faults) or 'none'}"


def format_goal(result: GoalResult) -> str:
    """One line of the table of goals."""
    x, y, z = result.goal_m
    if result.path is not None:
        remark = f"RMS on a {PATH_NAMES.get(result.path, result.path)}"
    elif result.time_to_reach_s is None:
        remark = "not reached"
    else:
        remark = f"{result.time_to_reach_s:.2f} s"
    return f"  {x:8.4f} {y:8.4f} {z:8.4f}   {result.error_mm:7.2f} mm   {remark}"
