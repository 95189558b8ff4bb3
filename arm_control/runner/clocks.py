"""The clocks of a control loop: real time, or simulated time that passes as fast as the computation allows."""

import time
from typing import Protocol


class Clock(Protocol):
    """The time of a control loop."""

    waits: bool
    """True if it passes in real time, so that a person can respond."""

    def now_s(self) -> float:
        """The time in s."""

    def wait_until(self, due_s: float) -> None:
        """Return at this time; immediately if it has passed."""


class RealTime:
    """The monotonic clock."""

    waits = True

    def now_s(self) -> float:
        """The monotonic time in s."""
        return time.monotonic()

    def wait_until(self, due_s: float) -> None:
        """Sleep until this time."""
        remaining_s = due_s - time.monotonic()
        if remaining_s > 0.0:
            time.sleep(remaining_s)


class FastTime:
    """A simulated clock, which jumps to the time that is waited for."""

    waits = False

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        """The simulated time in s."""
        return self._now_s

    def wait_until(self, due_s: float) -> None:
        """Jump to this time."""
        self._now_s = max(self._now_s, due_s)
