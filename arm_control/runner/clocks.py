"""The clocks of a control loop: real time, or simulated time that passes as fast as it can."""

import time
from typing import Protocol


class Clock(Protocol):
    """The time of a control loop."""

    waits: bool
    """Whether a person can be waited for: not where no time passes."""

    def now_s(self) -> float:
        """The time in s."""

    def wait_until(self, due_s: float) -> None:
        """Return when it is due; at once if it was."""


class RealTime:
    """The monotonic clock."""

    waits = True

    def now_s(self) -> float:
        """The monotonic time in s."""
        return time.monotonic()

    def wait_until(self, due_s: float) -> None:
        """Sleep."""
        left_s = due_s - time.monotonic()
        if left_s > 0.0:
            time.sleep(left_s)


class FastTime:
    """A clock of its own that jumps to whatever is due: a simulated arm needs nobody to wait."""

    waits = False

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        """The simulated time in s."""
        return self._now_s

    def wait_until(self, due_s: float) -> None:
        """Jump."""
        self._now_s = max(self._now_s, due_s)
