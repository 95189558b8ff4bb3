"""Worker processes, which serve one call after the other over a pipe and, optionally, shared memory."""

import contextlib
import json
import math
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("start_worker.py")
# One thread per worker: by default these libraries start one per core, in every worker.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
START_S = 60.0  # timeout of a worker's start and imports
GRACE_S = 2.0  # timeout of a worker's exit, after which it is killed
# A worker spins for this time before it sleeps: waking a core takes some 50 us, as much as a step of an arm, and a
# caller that only chooses actions returns within about this time.
SPIN_S = 200e-6


@dataclass(frozen=True)
class Failure:
    """A worker's error, sent to the caller."""

    error: Exception
    trace: str

    def noted(self) -> Exception:
        """The error, with the worker's traceback as a note."""
        self.error.add_note(self.trace)
        return self.error


class WorkerProcess:
    """The caller's side of a worker process, which runs `server`, a module's function, with a pipe and shared memory.

    The process has a process group of its own, so that only the caller receives Ctrl-C, and exits when the caller does.
    """

    def __init__(self, title: str, server: Callable[..., None], memory: int | None = None) -> None:
        self._title = title
        self._connection, theirs = Pipe()
        # A new interpreter: forking is unsafe with threads, and multiprocessing would run the caller's script again in
        # each worker, heavy imports included, and leave a server and a tracker process behind.
        inherited = [theirs.fileno()] if memory is None else [theirs.fileno(), memory]
        program = [sys.executable, "-P", str(PROGRAM)]  # -P: do not put the program's folder on sys.path
        arguments = [json.dumps(sys.path), server.__module__, server.__name__, *map(str, inherited)]
        try:
            self._process = subprocess.Popen(
                [*program, *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                env={**os.environ, **ONE_THREAD},
                process_group=0,
            )
        except BaseException:
            self._connection.close()
            raise
        finally:
            theirs.close()
        self._poll = select.poll()
        self._poll.register(self._connection.fileno(), select.POLLIN)

    def __str__(self) -> str:
        return self._title

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """File descriptor that becomes readable when a reply arrives or the worker dies."""
        return self._connection.fileno()

    def send(self, message: bytes) -> None:
        """Send a message made by `message`. Raises WorkerDeath if the worker is dead."""
        try:
            self._connection.send_bytes(message)
        except OSError:
            raise self._death() from None

    def receive(self, timeout_s: float) -> Any:
        """Wait for the reply. Raises WorkerDeath if the worker is dead, RuntimeError after the timeout."""
        # In slices of a second, so that time while the process is suspended (Ctrl-Z, sleep) counts as one at most.
        slices = math.ceil(timeout_s)
        for _ in range(slices):
            if self._poll.poll(1000 * timeout_s / slices) or self._process.poll() is not None:
                break
        else:
            raise RuntimeError(f"{self} has not replied for {timeout_s:g} s")
        try:
            return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._death() from None

    def disconnect(self) -> None:
        """Close the connection, on which the worker exits."""
        self._connection.close()

    def join(self) -> None:
        """Wait for the worker's exit, and kill it after a timeout."""
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
        finally:
            self._process.kill()
            self._process.wait()

    def _death(self) -> "WorkerDeath":
        try:
            code = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return WorkerDeath(f"{self} has closed its connection")
        if code >= 0:
            return WorkerDeath(f"{self} ended with exit code {code}")
        name = next((number.name for number in signal.Signals if number == -code), f"signal {-code}")
        return WorkerDeath(f"{self} was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}")


class WorkerDeath(RuntimeError):
    """A worker process has ended."""


def end_all(workers: Iterable[WorkerProcess], owner: int) -> None:
    """End all workers and wait for them; does nothing in a forked copy of the process `owner`."""
    if os.getpid() != owner:
        return
    workers = list(workers)
    for worker in workers:
        worker.disconnect()
    for worker in workers:
        worker.join()


def message(name: str, *arguments: Any) -> bytes:
    """The message that calls a worker's method."""
    return pickle.dumps((name, *arguments))


def serve_calls(connection_fd: int, worker: Any, place: Callable[[], str]) -> None:
    """Serve calls of the worker's methods until the caller disconnects; error messages begin with `place()`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(connection_fd)
    ready = select.poll()
    ready.register(connection_fd, select.POLLIN)
    try:
        while True:
            _spin(ready)
            name, *arguments = pickle.loads(connection.recv_bytes())
            try:
                reply = pickle.dumps(getattr(worker, name)(*arguments))
            except Exception as error:
                reply = pickle.dumps(_failure(error, place()))
            connection.send_bytes(reply)
    except (EOFError, OSError):
        pass
    finally:
        worker.close()


def _spin(ready: select.poll) -> None:
    """Wait for the next message for a moment without sleeping, yielding the core to other processes."""
    end = time.perf_counter() + SPIN_S
    while not ready.poll(0) and time.perf_counter() < end:
        os.sched_yield()


def _failure(error: Exception, place: str) -> Failure:
    """The error with the place in front of its text: of its own type if that is a ValueError or RuntimeError."""
    kind = next((kind for kind in (ValueError, RuntimeError) if isinstance(error, kind)), None)
    text = f"{place}: {error}" if kind else f"{place}: {type(error).__name__}: {error}"
    trace = "In the worker:\n" + traceback.format_exc()
    try:
        failure = Failure(type(error)(text) if kind else RuntimeError(text), trace)
        pickle.loads(pickle.dumps(failure))
        return failure
    except Exception:  # a type that cannot be made from its text, or pickled
        return Failure((kind or RuntimeError)(text), trace)
