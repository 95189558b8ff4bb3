"""Worker processes: each serves calls, one after the other, over a pipe and a piece of shared memory."""

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
# A worker needs one thread; by default these libraries start one a core, in every worker.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
START_S = 60.0  # in which a worker has to import what it needs
GRACE_S = 2.0  # in which a worker has to end before it is killed
# Waking a core that has gone to sleep takes some 50 us, as much as a step of an arm. The caller is back within about
# this time if it does no more than choose actions.
SPIN_S = 200e-6


@dataclass(frozen=True)
class Failure:
    """A worker's error, on its way to the caller."""

    error: Exception
    trace: str

    def noted(self) -> Exception:
        """The error, with a note of where it came from."""
        self.error.add_note(self.trace)
        return self.error


class WorkerProcess:
    """The caller's end of a process that runs `server`, a function of a module, with its end of a pipe, and memory.

    It is in a process group of its own, so that Ctrl-C is left to the caller, and ends when the caller does.
    """

    def __init__(self, title: str, server: Callable[..., None], memory: int | None = None) -> None:
        self._title = title
        self._connection, theirs = Pipe()
        # A fresh interpreter: forking is unsafe beside threads, and multiprocessing would run the caller's script again
        # in each worker, heavy imports included, and leave a server and a tracker process behind.
        handed = [theirs.fileno()] if memory is None else [theirs.fileno(), memory]
        program = [sys.executable, "-P", str(PROGRAM)]  # -P: no folder of the program in front of sys.path
        arguments = [json.dumps(sys.path), server.__module__, server.__name__, *map(str, handed)]
        try:
            self._process = subprocess.Popen(
                [*program, *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=handed,
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
        """What becomes readable when a reply, or its death, has come."""
        return self._connection.fileno()

    def send(self, message: bytes) -> None:
        """Send a `message`. Raises WorkerDeath if the worker is dead."""
        try:
            self._connection.send_bytes(message)
        except OSError:
            raise self._death() from None

    def receive(self, timeout_s: float) -> Any:
        """The reply. Raises WorkerDeath if the worker is dead, RuntimeError if it is too slow."""
        # In slices, so that Ctrl-Z or a laptop's sleep costs no more than one of them.
        slices = math.ceil(timeout_s)
        for _ in range(slices):
            if self._poll.poll(1000 * timeout_s / slices) or self._process.poll() is not None:
                break
        else:
            raise RuntimeError(f"{self} has not answered for {timeout_s:g} s")
        try:
            return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise self._death() from None

    def hang_up(self) -> None:
        """Let it end."""
        self._connection.close()

    def bury(self) -> None:
        """Wait for its end, and kill it if that takes long."""
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
    """Let them all end, and see that they do; but not from a forked copy of their owner, a process id."""
    if os.getpid() != owner:
        return
    workers = list(workers)
    for worker in workers:
        worker.hang_up()
    for worker in workers:
        worker.bury()


def message(name: str, *arguments: Any) -> bytes:
    """A call of a worker's method."""
    return pickle.dumps((name, *arguments))


def serve_calls(connection_fd: int, worker: Any, place: Callable[[], str]) -> None:
    """Do what the caller's messages ask for until the caller is gone; errors begin with the `place` of the moment."""
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
    """Stay awake for a moment, in case the next message comes soon; other processes get the core."""
    end = time.perf_counter() + SPIN_S
    while not ready.poll(0) and time.perf_counter() < end:
        os.sched_yield()


def _failure(error: Exception, place: str) -> Failure:
    """The error, its text beginning with the place; of its own type, if that is one that a caller would expect."""
    kind = next((kind for kind in (ValueError, RuntimeError) if isinstance(error, kind)), None)
    text = f"{place}: {error}" if kind else f"{place}: {type(error).__name__}: {error}"
    trace = "In the worker:\n" + traceback.format_exc()
    try:
        failure = Failure(type(error)(text) if kind else RuntimeError(text), trace)
        pickle.loads(pickle.dumps(failure))
        return failure
    except Exception:  # one that is not made from its text
        return Failure((kind or RuntimeError)(text), trace)
