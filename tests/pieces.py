"""Work for the tests of `SharedWork`, in a file that a helper process loads at once."""

import os
import signal
import time


class Square:
    """Squares numbers and reports in which process; one number may kill its process."""

    def __init__(self, deadly: int | None = None) -> None:
        self._here = os.getpid()
        self._deadly = deadly

    def __call__(self, number: int) -> tuple[int, bool]:
        """The square, and whether a helper process computed it."""
        in_helper = os.getpid() != self._here
        if in_helper and number == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if not in_helper:
            time.sleep(0.01)  # so that helpers get some of the work
        return number * number, in_helper


class Refuse:
    """Raises ValueError for 3."""

    def __call__(self, number: int) -> int:
        """The number itself."""
        if number == 3:
            raise ValueError("expected anything but 3")
        return number
