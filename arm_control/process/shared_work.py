"""SharedWork: a list of independent tasks, shared between this process and helper processes."""

import contextlib
import os
import pickle
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Self, TypeVar

from envs.vector.process import START_S, Failure, WorkerProcess, message, serve_calls

ANSWER_S = 600.0  # timeout of a piece in a helper
POLL_S = 0.1

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def spare_cores() -> int:
    """Number of cores that this process may use beside its own one."""
    return len(os.sched_getaffinity(0)) - 1


class SharedWork(Generic[Piece, Result]):
    """Computes `work(piece)` for several pieces. Entering it starts the helpers; `finish` returns the results.

    `work` must be picklable: each process has its own copy, whose result for a piece must not depend on other pieces.
    Pieces at which a helper fails are repeated in this process, so that errors of the work are raised here.
    """

    def __init__(self, work: Callable[[Piece], Result], pieces: Sequence[Piece], helpers: int) -> None:
        self._work = work
        self._pieces = list(pieces)
        self._left = deque(range(len(self._pieces)))
        self._results: dict[int, Result] = {}
        self._pickled = pickle.dumps(work) if helpers > 0 else b""
        self._stopping = threading.Event()
        # A thread for each helper process, which waits for its replies.
        self._threads = []
        for number in range(helpers):
            thread = threading.Thread(target=self._help, args=(number,), name=f"helper {number}", daemon=True)
            self._threads.append(thread)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def done(self) -> int:
        """Number of pieces that are done."""
        return len(self._results)

    def finish(self, on_piece: Callable[[], None]) -> list[Result]:
        """Do the remaining pieces, wait for the helpers, and return the results in order.

        `on_piece` is called after each piece, and regularly while waiting.
        """
        while self.done < len(self._pieces):
            place = self._take()
            if place is not None:
                self._results[place] = self._work(self._pieces[place])
            else:
                # Helpers are working on the last pieces; one that fails puts its piece back.
                self._stopping.wait(POLL_S / 10)
            on_piece()
        return [self._results[place] for place in range(len(self._pieces))]

    def _take(self) -> int | None:
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def _help(self, number: int) -> None:
        """Start a helper process and let it do one piece after the other."""
        try:
            worker = WorkerProcess(f"helper {number}", serve)
        except OSError:
            return
        try:
            self._ask(worker, message("make", self._pickled), START_S)
            while not self._stopping.is_set() and (place := self._take()) is not None:
                try:
                    self._results[place] = self._ask(worker, message("do", self._pieces[place]), ANSWER_S)
                except BaseException:
                    self._left.append(place)
                    raise
        except (InterruptedError, RuntimeError, ValueError):
            return
        finally:
            worker.disconnect()
            worker.join()

    def _ask(self, worker: WorkerProcess, question: bytes, timeout_s: float) -> Any:
        """Return the helper's reply. Raises its error, or InterruptedError if the work is stopped meanwhile."""
        worker.send(question)
        end_s = time.monotonic() + timeout_s
        ready = select.poll()
        ready.register(worker.fileno(), select.POLLIN)
        while not ready.poll(1000 * POLL_S):
            if self._stopping.is_set():
                raise InterruptedError
            if time.monotonic() > end_s:
                raise RuntimeError(f"{worker} has not replied for {timeout_s:g} s")
        reply = worker.receive(timeout_s)
        if isinstance(reply, Failure):
            raise reply.error
        return reply


class Helper:
    """The side of the helper process."""

    def make(self, work: bytes) -> None:
        """Load the pickled work."""
        self._work: Callable[[Any], Any] = pickle.loads(work)

    def do(self, piece: Any) -> Any:
        """Return the result of a piece."""
        return self._work(piece)

    def close(self) -> None:
        """Close the work, if it has a `close`."""
        with contextlib.suppress(AttributeError):
            self._work.close()  # type: ignore[attr-defined]


def serve(connection_fd: int) -> None:
    """Serve calls of a `Helper` until the caller disconnects."""
    serve_calls(connection_fd, Helper(), lambda: "helper")
