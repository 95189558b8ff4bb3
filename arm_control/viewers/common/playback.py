"""The playback position of a viewer: playing or paused, at a speed."""

import math
import time
from collections.abc import Callable, Sequence

from arm_control.viewers.common.trajectory import Trajectory

SLOWEST = 0.1
FASTEST = 10.0
FRAME_S = 1 / 30
BEHIND_S = 0.6  # delay behind a recording that is being written


class Playback:
    """A position in time that advances with the clock while it plays."""

    def __init__(
        self, period_s: float, length_s: float = math.inf, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Play from 0 to `length_s`, and stop there. A step is one `period_s`."""
        self.period_s = period_s
        self.length_s = length_s
        self._now_s = now_s
        self._speed = 1.0
        self._playing = True
        self._set(0.0)

    def _set(self, position_s: float) -> None:
        self._since_s = self._now_s()
        self._from_s = min(max(0.0, position_s), self.length_s)

    @property
    def position_s(self) -> float:
        """The current position in s."""
        if not self._playing:
            return self._from_s
        return min(self._from_s + self._speed * (self._now_s() - self._since_s), self.length_s)

    @property
    def playing(self) -> bool:
        """True while the position advances; False at the end."""
        return self._playing and self.position_s < self.length_s

    @property
    def speed(self) -> float:
        """Seconds of playback per second of the clock."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        self._set(self.position_s)
        self._speed = min(max(SLOWEST, speed), FASTEST)

    def play(self) -> None:
        """Start playing; from the end, start again from 0."""
        self._set(0.0 if self.position_s >= self.length_s else self.position_s)
        self._playing = True

    def pause(self) -> None:
        """Stop at the current position."""
        self._set(self.position_s)
        self._playing = False

    def toggle(self) -> None:
        """Switch between playing and paused."""
        if self.playing:
            self.pause()
        else:
            self.play()

    def seek(self, position_s: float) -> None:
        """Jump to a position and stay playing or paused; a playback at its end is paused."""
        self._playing = self.playing
        self._set(position_s)

    def step(self, periods: int = 1) -> None:
        """Pause, and step forward by this many periods, or back if negative."""
        self.pause()
        self._set((round(self.position_s / self.period_s) + periods) * self.period_s)


def playback_of(trajectories: Sequence[Trajectory]) -> Playback:
    """A playback of trajectories: paused where the first one opens, or following one that grows."""
    # A post-mortem opens at its fault; a growing recording is followed; any other plays from its start.
    first = trajectories[0]
    playback = Playback(first.period_s, max(trajectory.length_s for trajectory in trajectories))
    if first.opens_at_s > 0.0:
        playback.pause()
        playback.seek(first.opens_at_s)
    elif first.growing:
        playback.seek(playback.length_s - BEHIND_S)
    return playback


def paced(update: Callable[[], bool]) -> None:
    """Call `update` 30 times a second until it returns False.

    It is due at absolute times, so that delays do not add up; missed times are skipped.
    """
    due_s = time.monotonic()
    while update():
        due_s = max(due_s + FRAME_S, time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))
