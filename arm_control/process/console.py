"""Output that survives the loss of its terminal, pipe or log file."""

import contextlib
import io
import os
import queue
import select
import sys
import threading
import time
from typing import TextIO

from arm_control.process.printing import LONGEST_LINE, printable, unwrapped
from arm_control.process.signals import AWAKE_S

PROGRESS_FROM_S = 1.0
PROGRESS_EVERY_S = 0.5


def say(text: str, *, live: bool = False, end: str = "\n") -> None:
    """Write one printable line to standard error; a `live` one replaces the terminal's present line.

    Never raises: if standard error is closed or fails, this and later lines are lost.
    """
    write(unwrapped(sys.stderr), ("\x1b[2K" if live else "") + printable(text, LONGEST_LINE) + end)


def write(stream: TextIO | None, text: str) -> OSError | None:
    """Write to a stream, which is replaced by the null device if it fails; returns the error, if any."""
    if stream is None:
        return None
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        abandon(stream)
        return error if isinstance(error, OSError) else None
    return None


def abandon(stream: TextIO) -> None:
    """Redirect a stream that failed to the null device, so that Python's own flush at exit does not fail again."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class ProgressLine:
    """Shows the progress of a long operation in a line on standard error, if that is a terminal.

    The line appears after a second, changes at most twice a second, and is removed at the end.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        stream = sys.stderr
        self._live = stream is not None and not stream.closed and stream.isatty()
        self._begin_s = self._last_s = time.monotonic()
        self._shown = False

    def show(self, fraction: float) -> None:
        """Show a progress from 0 to 1, and the time left."""
        now_s = time.monotonic()
        if not self._live or now_s - self._last_s < PROGRESS_EVERY_S or now_s - self._begin_s < PROGRESS_FROM_S:
            return
        self._last_s = now_s
        # The time left, if the progress so far continues.
        self._shown = True
        left = ""
        if fraction > 0:
            left_s = (now_s - self._begin_s) * (1 - fraction) / fraction
            left = f"  {left_s:4.0f} s left"
        say(f"{self._what}  {fraction:4.0%}{left}", live=True, end="\r")

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            write(unwrapped(sys.stderr), "\x1b[2K\r")


class Console:
    """Writes printable lines to standard output and standard error from a thread, in the order of the calls.

    `out` and `err` never raise and never block, also for a pipe whose reader has exited or does not read, and for a
    terminal that was closed or stopped by Ctrl-S. Closing waits until all is written or a stream has failed.
    """

    output_error: OSError | None = None
    """The error with which standard output was lost; None if it was not."""

    def __init__(self) -> None:
        self._output = unwrapped(sys.stdout)
        self._error = unwrapped(sys.stderr)
        self._lines: queue.SimpleQueue[tuple[TextIO, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_lines, name="console", daemon=True)

    def __enter__(self) -> "Console":
        # Flush what is buffered, to keep the order.
        write(self._error, "")
        self.output_error = write(self._output, "")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.put(None)
        while self._thread.is_alive():
            self._thread.join(AWAKE_S)

    def out(self, text: str) -> None:
        """Write a line to standard output."""
        self._lines.put((self._output, printable(text, LONGEST_LINE) + "\n"))

    def err(self, text: str) -> None:
        """Write a line to standard error."""
        self._lines.put((self._error, printable(text, LONGEST_LINE) + "\n"))

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            stream, text = line
            try:
                _write_unbuffered(stream, text)
            except (OSError, ValueError) as error:
                if stream is self._output and isinstance(error, OSError):
                    self.output_error = error
                abandon(stream)


def _write_unbuffered(stream: TextIO, text: str) -> None:
    """Write to the file descriptor: a thread blocked in the stream's buffer would hold its lock at exit."""
    try:
        descriptor = stream.fileno()
    except (io.UnsupportedOperation, AttributeError):  # not a file, as in a notebook
        stream.write(text)
        stream.flush()
        return
    # Write all bytes, waiting where the descriptor is not ready.
    data = text.encode(stream.encoding or "utf-8", errors="backslashreplace")
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another program made the terminal non-blocking
            select.select([], [descriptor], [])
