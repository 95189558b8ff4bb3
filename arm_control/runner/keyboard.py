"""Keys of the terminal, while the control loop runs."""

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def keyboard() -> Iterator[Callable[[], str] | None]:
    """Yield a function that returns the latest key pressed since its last call; None where there is no terminal.

    A terminal that was closed has no keys, and neither has the foreground terminal of a background job: reading or
    restoring it would stop the job (SIGTTIN, SIGTTOU), with the arm in motion.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        yield None
        return
    descriptor = sys.stdin.fileno()

    def key() -> str:
        """The key, or nothing."""
        try:
            if not select.select([descriptor], [], [], 0.0)[0]:
                return ""
            return os.read(descriptor, 1024).decode(errors="replace").lower()[-1:]
        except OSError:
            return ""

    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTTIN, signal.SIGTTOU)}
    before = None
    try:
        with contextlib.suppress(termios.error, OSError):
            if in_foreground(descriptor):
                before = termios.tcgetattr(descriptor)
                tty.setcbreak(descriptor, termios.TCSANOW)  # keys come at once, without Enter; Ctrl-C is still a signal
        yield key
    finally:
        with contextlib.suppress(termios.error, OSError):
            if before is not None and in_foreground(descriptor):
                termios.tcsetattr(descriptor, termios.TCSANOW, before)  # at once: output may never drain
        for number, handler in previous.items():
            signal.signal(number, handler)


def in_foreground(terminal: int) -> bool:
    """Whether this process is in the terminal's foreground, and not a background job."""
    return os.tcgetpgrp(terminal) == os.getpgrp()
