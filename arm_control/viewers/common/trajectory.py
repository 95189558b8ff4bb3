"""The trajectory of an arm: recorded by `arm-control run`, or simulated with a controller.

Every viewer reads a `Trajectory` as the columns of a `Segment`; times begin at 0.
"""

import bisect
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from arm_control.process.printing import printable
from arm_control.recording.index import IndexedRecording
from arm_control.recording.schema import LARGEST_DEG, POST_MORTEM, Event, Tick
from arm_control.runner.recorded import arm_of, tolerance_of
from envs.arm import DEFAULT_URDF, Arm
from envs.tasks.reward import dense_reward

FloatArray = NDArray[np.float64]
ROUNDING_S = 1e-9
LONGEST_LABEL = 80  # characters of the names of goals, phases and safety levels in a recording
LONGEST_S = 4 * 3600.0  # of a trajectory that is processed from start to end
REFRESH_S = 0.25  # between two checks for new ticks of a growing recording
LAST_TICKS = 100  # at the end of an episode, which are searched for its last reading
TIMINGS = ("period_error_us", "read_us", "decide_us", "safety_us", "write_us")


class Episode(NamedTuple):
    """A named part of a trajectory, such as the movement to one goal."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Segment:
    """Ticks of a trajectory as columns, NaN for missing values: time (n,), angles (n, joints), goal (n, 3)."""

    arm: Arm
    time_s: FloatArray
    angle_deg: FloatArray
    speed_deg_s: FloatArray
    target_deg: FloatArray
    goal_m: FloatArray
    timings_us: FloatArray  # (n, 5), as in TIMINGS
    band: list[str]
    phase: list[str]

    def __len__(self) -> int:
        return len(self.time_s)

    def trace_m(self, points: int) -> FloatArray:
        """The known tip positions, thinned to about this many points (n, 3), including the last one."""
        known = self.tip_m[~np.isnan(self.tip_m).any(axis=1)]
        return known[::-1][:: max(1, len(known) // points)][::-1]

    def row(self, index: int) -> "Segment":
        """A segment of one of the ticks."""
        at = slice(index, index + 1 or None)
        return Segment(
            self.arm,
            self.time_s[at],
            self.angle_deg[at],
            self.speed_deg_s[at],
            self.target_deg[at],
            self.goal_m[at],
            self.timings_us[at],
            self.band[at],
            self.phase[at],
        )

    @cached_property
    def tip_m(self) -> FloatArray:
        """Tip positions by forward kinematics of the measured angles, (n, 3)."""
        tip: FloatArray = self.arm.forward_kinematics(self.angle_deg)
        return tip

    @cached_property
    def error_mm(self) -> FloatArray:
        """Distance from the tip to the goal, (n,)."""
        errors: FloatArray = 1000.0 * np.linalg.norm(self.tip_m - self.goal_m, axis=-1)
        return errors

    @cached_property
    def reward(self) -> FloatArray:
        """The dense reward of the environments for that distance, (n,)."""
        reward: FloatArray = dense_reward(self.arm.reach_m, self.error_mm / 1000.0)
        return reward


class Ticks(Protocol):
    """Storage of the ticks of a trajectory."""

    start_s: float
    end_s: float

    def ticks(self, start_s: float, end_s: float, most: int | None = None) -> list[Tick]:
        """The ticks from one time to another, thinned evenly to about `most`."""


def _time_s(entry: Tick | Event) -> float:
    return entry.time_s


class TicksInMemory:
    """Ticks in a list, in the order of their times."""

    def __init__(self, ticks: list[Tick]) -> None:
        self._ticks = ticks
        self.start_s = ticks[0].time_s
        self.end_s = ticks[-1].time_s

    def ticks(self, start_s: float, end_s: float, most: int | None = None) -> list[Tick]:
        """The ticks from one time to another, thinned evenly to about `most`."""
        first = bisect.bisect_left(self._ticks, start_s, key=_time_s)
        end = bisect.bisect_right(self._ticks, end_s, first, key=_time_s)
        found = self._ticks[first:end]
        return found if most is None else found[:: max(1, len(found) // most)]


class Trajectory:
    """An arm's trajectory of any length: only the segments that are requested are in memory."""

    def __init__(
        self,
        name: str,
        arm: Arm,
        period_s: float,
        ticks: Ticks,
        *,
        episodes: Sequence[Episode] = (),
        events: Sequence[Event] = (),
        tolerance_m: float | None = None,
        opens_at_s: float = 0.0,
    ) -> None:
        """Times of `episodes` and `events` begin at 0; without episodes, the whole trajectory is one."""
        self.name = name
        self.arm = arm
        self.period_s = period_s
        self.events = list(events)
        self.tolerance_m = tolerance_m
        self.opens_at_s = opens_at_s
        self._ticks = ticks
        self._recording = ticks if isinstance(ticks, IndexedRecording) else None
        self._refreshed_s = -math.inf
        self.length_s = ticks.end_s - ticks.start_s
        self.episodes = list(episodes) or [whole(ticks)]
        self._stops = stops_of(self.events)

    @property
    def lost(self) -> str:
        """The damage found so far; empty without damage."""
        return "" if self._recording is None else self._recording.lost

    @property
    def growing(self) -> bool:
        """True while the recording is being written."""
        return self._recording is not None and self._recording.growing

    def refresh(self) -> bool:
        """Read new ticks of a growing recording, at most every REFRESH_S; returns True if there were any."""
        recording = self._recording
        now_s = time.monotonic()
        if recording is None or now_s < self._refreshed_s + REFRESH_S:
            return False
        self._refreshed_s = now_s
        if not recording.refresh():
            return False
        self.length_s = recording.end_s - recording.start_s
        self.events, self.episodes = events_and_episodes(recording)
        self._stops = stops_of(self.events)
        return True

    def segment(self, start_s: float, end_s: float, most: int | None = None) -> Segment:
        """The ticks from one time to another, both included, thinned evenly to about `most`.

        The segment is empty in a gap of a recording.
        """
        zero_s = self._ticks.start_s
        ticks = self._ticks.ticks(zero_s + start_s - ROUNDING_S, zero_s + end_s + ROUNDING_S, most)
        return to_segment(self.arm, ticks, zero_s)

    def close(self) -> None:
        """Close the recording, if there is one."""
        if self._recording is not None:
            self._recording.close()

    def episode_at(self, time_s: float) -> Episode | None:
        """The episode at a time; None before, between and after episodes."""
        # Episodes do not overlap, so that only the last one that has begun can contain the time.
        number = bisect.bisect_right(self.episodes, time_s + ROUNDING_S, key=lambda episode: episode.start_s)
        if number == 0 or time_s >= self.episodes[number - 1].end_s - ROUNDING_S:
            return None
        return self.episodes[number - 1]

    def error_at_end_mm(self, episode: Episode) -> float:
        """The error of an episode's goal in mm, as recorded in the tick in which the episode ended; NaN if unknown.

        If no tick has it, because the goal was interrupted: the distance from tip to goal at the end.
        """
        end_s = self.tick_s(episode.end_s)
        zero_s = self._ticks.start_s
        # The recorded error. A simulation of recorded goals may have no tick at the end, but has one within a period.
        latest_s = episode.end_s + self.period_s
        for tick in self._ticks.ticks(zero_s + end_s - ROUNDING_S, zero_s + latest_s + ROUNDING_S):
            if tick.goal_error_mm is not None and math.isfinite(tick.goal_error_mm):
                return tick.goal_error_mm
        # The distance in the last ticks of the episode.
        start_s = max(self.tick_s(episode.start_s), end_s - LAST_TICKS * self.period_s)
        rows = self.segment(start_s, end_s)
        tips_m = rows.tip_m[~np.isnan(rows.tip_m).any(axis=1)]
        # The tick in which an episode ends has its last reading but may already have the next goal.
        goals_m = rows.goal_m[: max(1, len(rows) - 1)]
        goals_m = goals_m[~np.isnan(goals_m).any(axis=1)]
        if not len(tips_m) or not len(goals_m):
            return math.nan
        return 1000.0 * math.dist(tips_m[-1], goals_m[-1])

    def tick_s(self, time_s: float) -> float:
        """The time of the last tick at or before this one, in which an event of this time happened."""
        return float(self.sample(time_s).time_s[0])

    def fault_at(self, time_s: float) -> str | None:
        """The reason of the fault stop at a time; None if the arm is not stopped."""
        number = bisect.bisect_right(self._stops, time_s + ROUNDING_S, key=_time_s)
        # A phase after the fault stop means that the arm continues or parks.
        if number == 0 or self._stops[number - 1].kind == "phase":
            return None
        return self._stops[number - 1].text

    def sample(self, time_s: float) -> Segment:
        """The last tick at or before a time as a segment of one row; before the first tick, that one."""
        # Search back over longer and longer times, for a recording may have gaps.
        back_s = 2.0 * self.period_s
        while True:
            found = self.segment(time_s - back_s, time_s)
            if len(found):
                return found.row(-1)
            if time_s - back_s <= 0.0:
                return self.segment(0.0, self.period_s).row(0)
            back_s *= 4.0


def to_segment(arm: Arm, ticks: Sequence[Tick], zero_s: float = 0.0) -> Segment:
    """Ticks as columns, their times since `zero_s`."""
    unknown = [math.nan] * arm.joint_count

    def column(name: str) -> FloatArray:
        """A value per joint, (n, joints); NaN also for readings too large to draw."""
        rows = []
        for tick in ticks:
            row = getattr(tick, name)
            rows.append(unknown if row is None else row)
        values = np.array(rows, np.float64).reshape(len(ticks), arm.joint_count)
        return np.where(np.abs(values) <= LARGEST_DEG, values, math.nan)

    # The columns that are not per joint.
    times_s = []
    goals_m: list[Sequence[float]] = []
    timings_us: list[list[float]] = []
    for tick in ticks:
        times_s.append(tick.time_s - zero_s)
        goals_m.append((math.nan,) * 3 if tick.goal_m is None else tick.goal_m[:3])
        timings_us.append([getattr(tick, name) for name in TIMINGS])
    return Segment(
        arm,
        np.array(times_s, np.float64),
        column("angle_deg"),
        column("speed_deg_s"),
        column("target_deg"),
        np.array(goals_m, np.float64).reshape(len(ticks), 3),
        np.array(timings_us, np.float64).reshape(len(ticks), len(TIMINGS)),
        [printable(tick.band, LONGEST_LABEL) for tick in ticks],
        [printable(tick.phase, LONGEST_LABEL) for tick in ticks],
    )


def open_trajectory(path: str | Path, urdf: str | None = None) -> Trajectory:
    """Open the trajectory of a recording, drawn as the arm in the file `urdf` if given.

    Raises ValueError for a file that is no recording, has no readable tick, or is of another arm.
    """
    recording = IndexedRecording(path)
    metadata = recording.metadata
    try:
        arm, period_s = arm_of(path, metadata)
        arm = drawn_arm(path, arm, urdf)
        tolerance_m = tolerance_of(metadata)
    except ValueError as error:
        recording.close()
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    events, episodes = events_and_episodes(recording)
    # A post-mortem recording opens at its first fault stop.
    fault_s = next((event.time_s for event in events if event.kind == "refusal"), 0.0)
    return Trajectory(
        printable(Path(path).name),
        arm,
        period_s,
        recording,
        episodes=episodes,
        events=events,
        tolerance_m=tolerance_m,
        opens_at_s=fault_s if POST_MORTEM in metadata else 0.0,
    )


def events_and_episodes(recording: IndexedRecording) -> tuple[list[Event], list[Episode]]:
    """The events of a recording and an episode for each goal; their times begin at 0."""
    zero_s = recording.start_s
    events = []
    for event in recording.events:
        kind = printable(event.kind, LONGEST_LABEL)
        events.append(Event(event.time_s - zero_s, kind, printable(event.text)))
    # A goal, a phase and a fault stop each end the episode before it; only a goal begins one.
    marks = [event for event in events if event.kind in ("goal", "phase", "refusal")]
    ends_s = [event.time_s for event in marks[1:]]
    ends_s.append(recording.end_s - zero_s)
    episodes = []
    for event, end_s in zip(marks, ends_s, strict=False):
        if event.kind == "goal" and end_s > event.time_s:
            episodes.append(Episode(printable(event.text, LONGEST_LABEL), event.time_s, end_s))
    return events, episodes or [whole(recording)]


def stops_of(events: Sequence[Event]) -> list[Event]:
    """The events that stop an arm or let it continue."""
    return [event for event in events if event.kind in ("refusal", "phase")]


def check_length(trajectory: Trajectory) -> None:
    """Raise ValueError for a trajectory longer than LONGEST_S, as after a jump in the times of a recording."""
    if trajectory.length_s > LONGEST_S:
        raise ValueError(f"{trajectory.name} is {trajectory.length_s:,.0f} s long; expected at most {LONGEST_S:,.0f} s")


def whole(ticks: Ticks) -> Episode:
    """One episode for the whole trajectory."""
    return Episode("all", 0.0, ticks.end_s - ticks.start_s)


def drawn_arm(path: str | Path, arm: Arm, urdf: str | None) -> Arm:
    """The arm to draw for a recording: from the file `urdf` if given, else the default arm if equal, else its own."""
    if urdf is not None:
        given = Arm(urdf)
        if not arm.moves_like(given):
            raise ValueError(
                f"{path} is of the arm {arm.name}: expected that in {urdf} (joints, limits or lengths differ)"
            )
        return given
    default = Arm(DEFAULT_URDF)
    return default if arm.moves_like(default) else arm


def described(trajectories: Sequence[Trajectory]) -> str:
    """The names and lengths of trajectories."""
    return " and ".join(f"{trajectory.name}, {trajectory.length_s:.1f} s" for trajectory in trajectories)
