"""Where a viewer is in what it shows: playing or paused, at a speed, from one moment of the wall clock to the next."""

import math
import time
from collections.abc import Callable, Sequence

from arm_control.viewers.common.motion import Motion

SLOWEST, FASTEST = 0.1, 10.0
FRAME_S = 1 / 30
BEHIND_S = 0.6  # a recording that is being written is followed so long after


class Playback:
    """A position in time that moves by itself while it plays.

    It goes by the clock alone: however seldom it is asked, and however long a picture takes, no time is lost.
    """

    def __init__(
        self, period_s: float, length_s: float = math.inf, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """It plays from 0 to `length_s`, and stops there. A step is one `period_s`."""
        self.period_s, self.length_s = period_s, length_s
        self._now_s = now_s
        self._speed, self._playing = 1.0, True
        self._set(0.0)

    def _set(self, position_s: float) -> None:
        self._since_s, self._from_s = self._now_s(), min(max(0.0, position_s), self.length_s)

    @property
    def position_s(self) -> float:
        """Where it is now."""
        if not self._playing:
            return self._from_s
        return min(self._from_s + self._speed * (self._now_s() - self._since_s), self.length_s)

    @property
    def playing(self) -> bool:
        """Whether it moves by itself; at the end it does not."""
        return self._playing and self.position_s < self.length_s

    @property
    def speed(self) -> float:
        """How much time passes in one second of the clock."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        self._set(self.position_s)
        self._speed = min(max(SLOWEST, speed), FASTEST)

    def play(self) -> None:
        """Move on; from the end, begin again."""
        self._set(0.0 if self.position_s >= self.length_s else self.position_s)
        self._playing = True

    def pause(self) -> None:
        """Stay."""
        self._set(self.position_s)
        self._playing = False

    def toggle(self) -> None:
        """Play if it stays, stay if it plays."""
        if self.playing:
            self.pause()
        else:
            self.play()

    def seek(self, position_s: float) -> None:
        """Go there, and go on as before; what has come to its end stays there."""
        self._playing = self.playing
        self._set(position_s)

    def step(self, periods: int = 1) -> None:
        """Pause, and go so many periods on, or back."""
        self.pause()
        self._set((round(self.position_s / self.period_s) + periods) * self.period_s)


def playback_of(motions: Sequence[Motion]) -> Playback:
    """A playback of motions: where the first is to be opened it waits, and one that grows is followed."""
    first = motions[0]
    playback = Playback(first.period_s, max(motion.length_s for motion in motions))
    if first.opens_at_s > 0.0:
        playback.pause()
        playback.seek(first.opens_at_s)
    elif first.growing:
        playback.seek(playback.length_s - BEHIND_S)
    return playback


def paced(update: Callable[[], bool]) -> None:
    """Call `update` 30 times a second until it returns False.

    It is due at absolute times, so that delays do not add up; a time that was missed is left out.
    """
    due_s = time.monotonic()
    while update():
        due_s = max(due_s + FRAME_S, time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))
