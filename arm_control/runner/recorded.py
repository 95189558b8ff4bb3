"""The work of a recording: its targets are sent to the arm again, with their original timing."""

import bisect
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from arm_control.recording.reading import Recording, read_recording
from arm_control.recording.schema import PERIODS_S, Tick, joint_names
from arm_control.runner.loop import ControlLoop
from arm_control.runner.motions import Script
from arm_control.runner.safety import Safety
from envs.arm import Arm
from envs.limits import TOLERANCES_M

PHASES = ("soft start", "run", "wait")  # the phases that are replayed; holding and parking are not
GAP_SPEED_DEG_S = 45.0  # at which a gap is crossed
PAUSE_S = 0.5  # in which a pause slows down, and its end speeds up


class RecordingWork:
    """Eases the arm to the beginning of a recording, then follows its targets.

    At the recorded rate, the arm follows the recording target by target. At another rate, or slower, it follows the
    moving average of the targets over one recorded period (a quadratic B-spline): a curve through all targets would
    exceed their accelerations. Space pauses and continues, s stops. A pause slows the time of the recording down, so
    that the arm stays on its path. After a reset, it continues from the same time.
    """

    def __init__(
        self, recording: Recording, *, speed: float = 1.0, say: Callable[[str], None] = lambda text: None
    ) -> None:
        """`speed` is a fraction of the recorded speed. Raises ValueError for a recording without sent targets."""
        rows = [tick for tick in recording.ticks if tick.target_deg is not None and tick.phase in PHASES]
        if len(rows) < 2:
            raise ValueError("it has no targets that were sent to an arm")
        # Times of the targets from the first one on, in s; gaps are shortened or lengthened.
        self._period_s = float(recording.metadata["period_s"])
        self.gaps = 0
        """Number of gaps, where the arm was stopped or ticks are missing."""
        self.times_s = [0.0]
        for before, after in pairwise(rows):
            self.times_s.append(self.times_s[-1] + self._interval_s(before, after))
        self.targets_deg = [row.target_deg or [] for row in rows]
        self.goals_m = [row.goal_m for row in rows]
        # The integral of the targets up to each of them, by trapezoids: I_k = I_(k-1) + (q_k + q_(k-1)) dt / 2.
        times = np.array(self.times_s)
        targets = np.array(self.targets_deg)
        areas = 0.5 * (targets[1:] + targets[:-1]) * np.diff(times)[:, None]
        self._integrals = np.vstack([np.zeros(targets.shape[1]), np.cumsum(areas, axis=0)]).tolist()
        self._speed = speed
        self._say = say
        self._at_s = 0.0  # the present time of the recording

    def _interval_s(self, before: Tick, after: Tick) -> float:
        """The time from one target to the next in the replay, in s."""
        period_s = self._period_s
        interval_s = after.time_s - before.time_s
        if interval_s <= 0.0:
            raise ValueError("its ticks are not in the order of time")
        # A gap: the arm was stopped, or ticks are missing. It is crossed slowly.
        if interval_s > 2.0 * period_s:
            self.gaps += 1
            distance_deg = math.dist(before.target_deg or (), after.target_deg or ())
            return max(period_s, distance_deg / GAP_SPEED_DEG_S)
        # Each target was made for a whole period, however late it was sent.
        if interval_s > 0.5 * period_s:
            return period_s
        return interval_s

    @property
    def length_s(self) -> float:
        """Duration at the recorded speed, in s."""
        return self.times_s[-1]

    def check(self, safety: Safety) -> None:
        """Raise ValueError if a target lies outside the limits or the workspace, before anything moves."""
        limits = safety.limits
        for time_s, target in zip(self.times_s, self.targets_deg, strict=True):
            subject = f"its target at {time_s:.2f} s, {[round(angle, 2) for angle in target]} degrees,"
            if target != limits.clip(target):
                raise ValueError(f"{subject} is outside the arm's limits {limits.lower_deg} to {limits.upper_deg}")
            safety.workspace.check_pose(target, subject)
        self._check_speeds(safety)

    def _check_speeds(self, safety: Safety) -> None:
        """Raise ValueError if a joint would exceed its speed limit."""
        # Speeds as fractions of the limits, (targets - 1, joints).
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
        """The targets from the present time of the recording on."""
        # Ease to the present target.
        loop.ticker.phase = "soft start"
        as_recorded = self._speed == 1.0 and math.isclose(loop.period_s, self._period_s)
        yield from loop.ease(self._target_deg(as_recorded))
        # Follow the recording, whose time slows down for a pause.
        loop.ticker.phase = "run"
        is_running = True
        pace = 0.0  # fraction of the recorded speed
        # In 2 n + 1 ticks the pace rises by 1 / (2 n + 1) each: its sum is n + 1, so that at full pace the times are
        # again those of recorded targets.
        change = 1.0 / (2 * round(0.5 * PAUSE_S / loop.period_s) + 1)
        while True:
            pressed = loop.key() if loop.key is not None else ""
            if pressed == "s":
                return
            if pressed == " ":
                is_running = not is_running
                self._say("continuing" if is_running else "paused: space continues, s stops")
            pace = min(1.0, pace + change) if is_running else max(0.0, pace - change)
            self._at_s += self._speed * pace * loop.period_s
            if self._at_s > self.length_s + 1e-6:
                break
            loop.ticker.goal_m = self.goals_m[self._index_at(self._at_s)]
            yield loop.admit(self._target_deg(as_recorded), follow=True)
        # The recording may end in motion: come to rest at its last target.
        while True:
            yield loop.safety.toward(self.targets_deg[-1])
            if not loop.safety.moving:
                return

    def _index_at(self, at_s: float) -> int:
        """The index of the first target after a time; of the last target at the end."""
        return min(bisect.bisect_right(self.times_s, at_s), len(self.times_s) - 1)

    def _target_deg(self, as_recorded: bool) -> list[float]:
        """The present target of the recording, or the mean of its targets over the last recorded period."""
        angles, integral = self._interpolate(self._at_s)
        if as_recorded:
            return angles
        # mean = (I(t) - I(t - period)) / period
        _, before = self._interpolate(self._at_s - self._period_s)
        return [(now - then) / self._period_s for now, then in zip(integral, before, strict=True)]

    def _interpolate(self, at_s: float) -> tuple[list[float], list[float]]:
        """The angles at a time, linear between targets, and their integral from 0 s on; constant before 0 s."""
        if at_s <= 0.0:
            return self.targets_deg[0], [angle * at_s for angle in self.targets_deg[0]]
        at_s = min(at_s, self.length_s)
        after = self._index_at(at_s)
        since_s = at_s - self.times_s[after - 1]
        fraction = since_s / (self.times_s[after] - self.times_s[after - 1])
        angles = []
        integrals = []
        joints = zip(self.targets_deg[after - 1], self.targets_deg[after], self._integrals[after - 1], strict=True)
        for start, end, integral in joints:
            angle = (1.0 - fraction) * start + fraction * end
            angles.append(angle)
            integrals.append(integral + 0.5 * (start + angle) * since_s)
        return angles, integrals


def open_recording(path: str | Path) -> tuple[Recording, Arm]:
    """A recording and its arm. Raises ValueError, naming the file, for one without an arm."""
    recording = read_recording(path)
    return recording, arm_of(path, recording.metadata)[0]


def arm_of(path: str | Path, metadata: Mapping[str, str]) -> tuple[Arm, float]:
    """The arm of a recording, and its control period in s. Raises ValueError, naming the file, if they are missing."""
    missing = {"arm", "arm_urdf", "joint_names", "period_s"} - set(metadata)
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: not made by 'arm-control run', or damaged")
    try:
        arm = Arm("recorded.urdf", text=metadata["arm_urdf"])
        names = tuple(joint_names(metadata) or ())
        period_s = float(metadata["period_s"])
        if names != arm.joint_names:
            raise ValueError(f"its arm has joints {arm.joint_names}, its ticks {names}")
        shortest_s, longest_s = PERIODS_S
        if not shortest_s <= period_s <= longest_s:
            raise ValueError(f"its period is {period_s} s; expected {shortest_s:g} to {longest_s:g}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return arm, period_s


def tolerance_of(metadata: Mapping[str, str]) -> float | None:
    """The goal tolerance of a recording in metres; None if it has none. Raises ValueError for one out of range."""
    text = metadata.get("goal_tolerance_m")
    if text is None:
        return None
    smallest_m, largest_m = TOLERANCES_M
    if not smallest_m <= float(text) <= largest_m:
        raise ValueError(f"its goal tolerance is {text} m; expected {smallest_m:g} to {largest_m:g}")
    return float(text)
