"""Keys pressed in the terminal while the control loop runs."""

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
    """Yield a function that returns the latest key pressed since its last call, "" for none; None without a terminal.

    A closed terminal gives no keys. Neither does the terminal of a background job: reading or restoring it would stop
    the job (SIGTTIN, SIGTTOU), with the arm in motion.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        yield None
        return
    descriptor = sys.stdin.fileno()

    def key() -> str:
        """The latest key in lower case, or an empty string."""
        try:
            if not select.select([descriptor], [], [], 0.0)[0]:
                return ""
            return os.read(descriptor, 1024).decode(errors="replace").lower()[-1:]
        except OSError:
            return ""

    # Ignore the signals that would stop a background job.
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTTIN, signal.SIGTTOU)}
    before = None
    try:
        with contextlib.suppress(termios.error, OSError):
            if in_foreground(descriptor):
                before = termios.tcgetattr(descriptor)
                # Keys are read without Enter; Ctrl-C is still a signal.
                tty.setcbreak(descriptor, termios.TCSANOW)
        yield key
    finally:
        with contextlib.suppress(termios.error, OSError):
            if before is not None and in_foreground(descriptor):
                # TCSANOW does not wait for output, which may never drain.
                termios.tcsetattr(descriptor, termios.TCSANOW, before)
        for number, handler in previous.items():
            signal.signal(number, handler)


def in_foreground(terminal: int) -> bool:
    """Return True if this process runs in the foreground of the terminal."""
    return os.tcgetpgrp(terminal) == os.getpgrp()
