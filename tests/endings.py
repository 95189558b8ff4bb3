"""Programs that are started and interrupted as by a person, a shell or a terminal: see `test_endings.py`."""

import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers import children
from locations import ROOT

DEADLINE_S = 120.0


@dataclass
class Program:
    """A running command in its own session, with the test's ends of its streams."""

    process: "subprocess.Popen[bytes]"
    streams: dict[str, int] = field(default_factory=dict)  # descriptors to read from: "stdout", "stderr", or "terminal"
    printed: bytes = b""

    def read_until(self, ready: Callable[[bytes], bool]) -> None:
        """Read its output until `ready` holds. Raises AssertionError if it ends before or takes too long."""
        end = time.monotonic() + DEADLINE_S
        while not ready(self.printed):
            assert time.monotonic() < end, self.printed.decode(errors="replace")
            assert self._read() or self.process.poll() is None, self.printed.decode(errors="replace")

    def _read(self) -> bool:
        """Read the available output; returns True if there was any."""
        found = False
        for name in select.select(list(self.streams.values()), [], [], 0.05)[0]:
            try:
                data = os.read(name, 1 << 16)
            except OSError:  # a terminal whose program has ended
                data = b""
            self.printed += data
            found = found or bool(data)
        return found

    def close(self, *names: str) -> None:
        """Close the test's end of streams or of the terminal."""
        for name in names:
            os.close(self.streams.pop(name))

    def command_pid(self) -> int:
        """The process id of the command itself, where another program started it."""
        return next(iter(children(self.process.pid)), self.process.pid)

    def signal_group(self, number: signal.Signals) -> None:
        """Signal its process group, as a terminal does for a key."""
        os.killpg(self.process.pid, number)

    def end(self) -> int:
        """Read until it ends; returns its exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "hangs: " + self.printed.decode(errors="replace")
            if self.streams:
                self._read()
            else:
                time.sleep(0.02)
        while self.streams and self._read():
            pass
        self.close(*self.streams)
        return self.process.returncode


def start(
    words: Sequence[object],
    folder: Path,
    *,
    terminal: bool = False,
    stdin: str = os.devnull,
    stdout: str | None = None,
    before: Sequence[str] = (),
) -> Program:
    """Start `arm-control`, in a new session, with pipes or a terminal; `before` is a program that starts it.

    `stdin` is a file that it reads; `stdout`, one that takes its standard output.
    """
    command = [*before, sys.executable, "-m", "arm_control.cli", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DISPLAY": ""}
    if terminal:
        ours, its = os.openpty()

        def take_terminal() -> None:
            fcntl.ioctl(its, termios.TIOCSCTTY, 0)

        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(its)
        return Program(process, {"terminal": ours})
    out, err = os.pipe(), os.pipe()
    source = os.open(stdin, os.O_RDONLY)
    output = out[1] if stdout is None else os.open(stdout, os.O_WRONLY)
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=source,
        stdout=output,
        stderr=err[1],
        start_new_session=True,
    )
    for descriptor in {source, out[1], output, err[1]}:
        os.close(descriptor)
    return Program(process, {"stdout": out[0], "stderr": err[0]})


def kill(program: Program) -> None:
    """Kill the program if it is still running, and close its streams."""
    if program.process.poll() is None:
        os.killpg(program.process.pid, signal.SIGKILL)
    program.process.wait()
    program.close(*list(program.streams))
