"""The work of a recording: its targets once more, in their own time, on an arm."""

import bisect
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from arm_control.recording.reading import Recording, read_recording
from arm_control.recording.schema import PERIODS_S, Tick, joint_names
from arm_control.runner.loop import ControlLoop, Script
from arm_control.runner.safety import Safety
from envs.arm import Arm
from envs.limits import TOLERANCES_M

PHASES = ("soft start", "run", "wait")  # those that are moved through again; a stop and the way to rest are not
JOIN_DEG_S = 45.0  # speed on the way from before a gap to after it
PAUSE_S = 0.5  # to slow down to a pause, and to get back to speed


class RecordingWork:
    """Brings the arm slowly to where the recording begins, and then moves it as it was moved then.

    At its own rate it is followed target by target. At another, or slower, it goes along the mean of the last recorded
    period (a quadratic B-spline): so the accelerations of its targets are not exceeded, as they would be along a curve
    through all of them. Space pauses and goes on, s stops: a pause slows the recording's time down, so that the arm
    stays on its way. After a reset it goes on from where it was.
    """

    def __init__(
        self, recording: Recording, *, speed: float = 1.0, say: Callable[[str], None] = lambda text: None
    ) -> None:
        """`speed` is the fraction of the recorded speed. Raises ValueError for one in which nothing was sent."""
        rows = [tick for tick in recording.ticks if tick.target_deg is not None and tick.phase in PHASES]
        if len(rows) < 2:
            raise ValueError("it holds no targets that were sent to an arm")
        self._period_s = float(recording.metadata["period_s"])
        self.gaps = 0
        """Places where it was stopped, or ticks are missing."""
        self.times_s = [0.0]
        for before, after in pairwise(rows):
            self.times_s.append(self.times_s[-1] + self._passed_s(before, after))
        self.targets_deg = [row.target_deg or [] for row in rows]
        self.goals_m = [row.goal_m for row in rows]
        # The integral of the targets up to each of them (trapezoids).
        times = np.array(self.times_s)
        targets = np.array(self.targets_deg)
        areas = 0.5 * (targets[1:] + targets[:-1]) * np.diff(times)[:, None]
        self._integrals = np.vstack([np.zeros(targets.shape[1]), np.cumsum(areas, axis=0)]).tolist()
        self._speed = speed
        self._say = say
        self._at_s = 0.0

    def _passed_s(self, before: Tick, after: Tick) -> float:
        """The time from one target to the next, as it is moved through again."""
        period_s = self._period_s
        passed_s = after.time_s - before.time_s
        if passed_s <= 0.0:
            raise ValueError("its ticks are not in the order of time")
        if passed_s > 2.0 * period_s:  # a stop, or ticks that were lost: the arm goes on slowly
            self.gaps += 1
            return max(period_s, math.dist(before.target_deg or (), after.target_deg or ()) / JOIN_DEG_S)
        if passed_s > 0.5 * period_s:  # targets are made for a period each, however late they were sent
            return period_s
        return passed_s

    @property
    def length_s(self) -> float:
        """How long it takes at its own speed."""
        return self.times_s[-1]

    def check(self, safety: Safety) -> None:
        """Raise ValueError if a target lies outside the limits or the workspace, before anything moves."""
        limits = safety.limits
        for time_s, target in zip(self.times_s, self.targets_deg, strict=True):
            place = f"its target at {time_s:.2f} s, {[round(angle, 2) for angle in target]} degrees,"
            if target != limits.clip(target):
                raise ValueError(f"{place} is outside the arm's limits {limits.lower_deg} to {limits.upper_deg}")
            safety.workspace.check_pose(target, place)
        self._check_speeds(safety)

    def _check_speeds(self, safety: Safety) -> None:
        """Raise ValueError if a joint would turn faster than it may."""
        speeds = np.abs(np.diff(self.targets_deg, axis=0) / np.diff(self.times_s)[:, None])
        fractions = speeds / np.array(safety.limits.max_speed_deg_s)
        tick, joint = np.unravel_index(int(fractions.argmax()), fractions.shape)
        if self._speed * fractions.max() <= 1.0 + 1e-6:
            return
        name = safety.arm.joint_names[joint]
        allowed = safety.limits.max_speed_deg_s[joint]
        raise ValueError(
            f"at {self.times_s[tick]:.2f} s its {name} turns by {self._speed * speeds[tick, joint]:.0f} degrees/s, "
            f"allowed {allowed:.0f}: --speed {math.floor(100.0 / fractions.max()) / 100.0:g} or less"
        )

    def __call__(self, loop: ControlLoop) -> Script:
        """The targets from where the recording is."""
        # Move slowly to where the recording is.
        loop.ticker.phase = "soft start"
        as_recorded = self._speed == 1.0 and math.isclose(loop.period_s, self._period_s)
        yield from loop.ease(self._target_deg(as_recorded))
        # Follow it, slowing its time down for a pause.
        loop.ticker.phase = "run"
        is_running = True
        pace = 0.0  # fraction of the recorded speed
        # An odd number of ticks: while it rises they add up to whole ones, so that every target then comes as it was.
        change = 1.0 / (2 * round(0.5 * PAUSE_S / loop.period_s) + 1)
        while True:
            pressed = loop.key() if loop.key is not None else ""
            if pressed == "s":
                return
            if pressed == " ":
                is_running = not is_running
                self._say("going on" if is_running else "paused: space goes on, s stops")
            pace = min(1.0, pace + change) if is_running else max(0.0, pace - change)
            self._at_s += self._speed * pace * loop.period_s
            if self._at_s > self.length_s + 1e-6:
                break
            loop.ticker.goal_m = self.goals_m[self._place()]
            yield loop.admit(self._target_deg(as_recorded), follow=True)
        # It may end in motion: from there the arm comes to rest at its last target.
        while True:
            yield loop.safety.toward(self.targets_deg[-1])
            if not loop.safety.moving:
                return

    def _place(self) -> int:
        return min(bisect.bisect_right(self.times_s, self._at_s), len(self.times_s) - 1)

    def _target_deg(self, as_recorded: bool) -> list[float]:
        """Where the recording is now, on the line from target to target; or that line's mean over the last period."""
        angles, integral = self._line(self._at_s)
        if as_recorded:
            return angles
        _, before = self._line(self._at_s - self._period_s)
        return [(now - then) / self._period_s for now, then in zip(integral, before, strict=True)]

    def _line(self, at_s: float) -> tuple[list[float], list[float]]:
        """The angles at a time, and their integral from the beginning, before which they were the same."""
        if at_s <= 0.0:
            return self.targets_deg[0], [angle * at_s for angle in self.targets_deg[0]]
        at_s = min(at_s, self.length_s)
        after = min(bisect.bisect_right(self.times_s, at_s), len(self.times_s) - 1)
        passed_s = at_s - self.times_s[after - 1]
        fraction = passed_s / (self.times_s[after] - self.times_s[after - 1])
        angles = []
        integral = []
        for here, there, so_far in zip(
            self.targets_deg[after - 1], self.targets_deg[after], self._integrals[after - 1], strict=True
        ):
            angle = (1.0 - fraction) * here + fraction * there
            angles.append(angle)
            integral.append(so_far + 0.5 * (here + angle) * passed_s)
        return angles, integral


def open_recording(path: str | Path) -> tuple[Recording, Arm]:
    """A recording and the arm that it is of. Raises ValueError, naming the file, for one that does not say it."""
    recording = read_recording(path)
    return recording, arm_of(path, recording.metadata)[0]


def arm_of(path: str | Path, metadata: Mapping[str, str]) -> tuple[Arm, float]:
    """A recording's arm, and its period in s. Raises ValueError, naming the file, if it does not say them."""
    missing = {"arm", "arm_urdf", "joint_names", "period_s"} - set(metadata)
    if missing:
        raise ValueError(f"{path} does not say its {', '.join(sorted(missing))}: not of 'arm-control run', or damaged")
    try:
        arm = Arm("recorded.urdf", text=metadata["arm_urdf"])
        names = tuple(joint_names(metadata) or ())
        period_s = float(metadata["period_s"])
        if names != arm.joint_names:
            raise ValueError(f"its arm has joints {arm.joint_names}, its ticks {names}")
        least_s, most_s = PERIODS_S
        if not least_s <= period_s <= most_s:
            raise ValueError(f"its period is {period_s} s; expected {least_s:g} to {most_s:g}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return arm, period_s


def tolerance_of(metadata: Mapping[str, str]) -> float | None:
    """How near to a goal a recording's arm was to come, in metres; None if it does not say. Raises ValueError."""
    text = metadata.get("goal_tolerance_m")
    if text is None:
        return None
    least_m, most_m = TOLERANCES_M
    if not least_m <= float(text) <= most_m:
        raise ValueError(f"its goal tolerance is {text} m; expected {least_m:g} to {most_m:g}")
    return float(text)
