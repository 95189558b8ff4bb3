"""Requests to stop: Ctrl-C, SIGTERM, and SIGHUP of a closed terminal.

A terminal, a shell and programs such as `timeout` may deliver one request several times, to the process and to its
group. Signals within REPEAT_S of a request therefore belong to it; a later one is a second request, which ends the
program immediately.

A run parks its arm at the first request (`arm_control.runner.loop`); exit codes are in `arm_control.process.errors`.
"""

import atexit
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEAT_S = 1.0
# How often the main thread of a program with several threads must wake up. Two signals at once may both be taken by
# another thread, and do not wake it (the kernel restarts its wait); Python runs handlers in the main thread only.
AWAKE_S = 0.2

Handler = Callable[[int, FrameType | None], None]


class _Requests:
    """The time of the latest request, shared by all handlers of this process."""

    def __init__(self) -> None:
        self.depth = 0  # of nested `_handling` blocks
        self._latest_s = -math.inf

    def forget(self) -> None:
        """Let the next signal be a new request."""
        self._latest_s = -math.inf

    def is_new(self) -> bool:
        """Return True if the present signal is a new request, and not a repeated delivery."""
        now_s = time.monotonic()
        if now_s - self._latest_s <= REPEAT_S:
            return False
        self._latest_s = now_s
        return True


_requests = _Requests()


class Stop:
    """Returns True after a request to stop; a second request raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        return self.requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not _requests.is_new():
            return
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _requests.is_new():
        raise KeyboardInterrupt


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Yield a `Stop` that the first request sets. Ctrl-C counts even in a shell's background job, which ignores it."""
    stop = Stop()
    with _handling(stop._handle, ignored_too=(signal.SIGINT, signal.SIGTERM)):
        yield stop


def interrupt_program() -> None:
    """Raise KeyboardInterrupt at each request until this process exits, so that no repeat kills it."""
    _install(_interrupt)
    _requests.depth += 1
    # At exit the interpreter restores default handlers, except for signals that are ignored.
    atexit.register(_ignore_requests)


def _ignore_requests() -> None:
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)


def _install(handler: Handler, ignored_too: tuple[signal.Signals, ...] = ()) -> dict[signal.Signals, Any]:
    """Install a handler for all requests, except for ignored signals, such as SIGHUP under nohup.

    Signals in `ignored_too` are handled even if they are ignored. Returns the handlers that it replaces.
    """
    previous: dict[signal.Signals, Any] = {}
    for number in REQUESTS:
        if number in ignored_too or signal.getsignal(number) != signal.SIG_IGN:
            previous[number] = signal.signal(number, handler)
    return previous


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread at each request."""
    with _handling(_interrupt):
        yield


@contextmanager
def _handling(handler: Handler, ignored_too: tuple[signal.Signals, ...] = ()) -> Iterator[None]:
    """Handle all requests; see `_install`."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    previous = _install(handler, ignored_too)
    if _requests.depth == 0:
        _requests.forget()
    _requests.depth += 1
    try:
        yield
    finally:
        _requests.depth -= 1
        for number, before in previous.items():
            signal.signal(number, before)
