"""Work for the tests of `SharedWork`, in a file that a helper process loads at once."""

import os
import signal
import time


class Square:
    """Squares numbers, and says in which process; a number may be one that its process does not survive."""

    def __init__(self, deadly: int | None = None) -> None:
        self._here = os.getpid()
        self._deadly = deadly

    def __call__(self, number: int) -> tuple[int, bool]:
        """The square, and True if another process than the caller's made it."""
        away = os.getpid() != self._here
        if away and number == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if not away:
            time.sleep(0.01)  # so that helpers get a share
        return number * number, away


class Refuse:
    """Refuses 3."""

    def __call__(self, number: int) -> int:
        """The number."""
        if number == 3:
            raise ValueError("expected anything but 3")
        return number
