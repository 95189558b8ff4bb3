"""Recording a control loop: `Recorder` never makes it wait.

It puts each tick into a pipe, from which a process of its own (`arm_control.recording.writer`) writes the file.
"""

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from arm_control.process.printing import counted
from arm_control.recording.pipe import END, HEADER, PIPE_BUF, PIPE_BYTES
from arm_control.recording.schema import EVENT, TEXT_BYTES, TICK, Event, Tick, joint_names

CLOSE_S = 5.0


class Recorder:
    """Records a control loop without ever making it wait.

    `tick` and `event` are called from one thread, and never raise. What does not fit into the pipe to the writing
    process, because that is too slow or gone, is counted in `dropped`, and told in the file (an `Event` "drops").
    If this process dies, the writing process still finishes the file.
    """

    def __init__(
        self,
        path: str | Path | None,
        metadata: Mapping[str, str],
        *,
        post_mortem: str | Path | None = None,
        keep_last_seconds: float = 10.0,
    ) -> None:
        """Start the writing process.

        `path` gets everything; `post_mortem`, only if an `Event` "refusal" comes, what was recorded from
        `keep_last_seconds` before it to 2 s after. `metadata` says what is recorded; its `joint_names` is a JSON list.
        Raises ValueError for a file that exists already or cannot be written, and for bad metadata.
        """
        wanted = [Path(file).absolute() for file in (path, post_mortem) if file is not None]
        if not wanted or len({*wanted}) < len(wanted):
            raise ValueError(
                "a recorder requires a file for everything, one for the post-mortem, or both, not the same"
            )
        if not 0 < keep_last_seconds <= 3600:
            raise ValueError(f"keep_last_seconds: expected more than 0 and up to 3600, got {keep_last_seconds}")
        joint_names(metadata)
        for file in wanted:
            check_new_file(file)
        self.path = Path(path) if path else None
        self.post_mortem = Path(post_mortem) if post_mortem else None
        self.ticks = 0
        """How many were recorded."""
        self.dropped = 0
        self.problem: str | None = None
        """What went wrong, known once it is closed."""
        self._untold = 0
        self._why = ""
        self._buffer = bytearray(PIPE_BUF)
        self._encode = msgspec.msgpack.Encoder(enc_hook=float).encode_into
        self._pipe, self._process = _start_writer(
            None if path is None else wanted[0],
            {
                "metadata": {
                    "wall_at_zero_ns": str(time.time_ns() - time.monotonic_ns()),
                    **{name: _encodable(text) for name, text in metadata.items()},
                },
                "post_mortem": None if post_mortem is None else str(wanted[-1]),
                "keep_last_seconds": keep_last_seconds,
            },
        )
        self.writer = self._process.pid
        self._open = True

    def tick(self, tick: Tick) -> None:
        """Record a tick, or count it as dropped."""
        self._send(TICK, tick)

    def event(self, event: Event) -> None:
        """Record an event, or count it as dropped; a text of more than 3000 bytes is cut."""
        self._send(EVENT, Event(event.time_s, event.kind, _encodable(event.text, TEXT_BYTES)))

    def _send(self, kind: int, what: Tick | Event) -> None:
        if not self._open:
            return self._drop("it was closed")
        try:
            self._encode(what, self._buffer, HEADER.size)
            size = len(self._buffer)
            if size > PIPE_BUF:
                return self._drop(f"a message of {size} bytes is too large")
            HEADER.pack_into(self._buffer, 0, size, kind, self._untold)
            os.write(self._pipe, self._buffer)
            self._untold = 0
            self.ticks += kind == TICK
        except BlockingIOError:
            self._drop("its writer was too slow")
        except OSError:
            self._drop("its writer was gone")
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            self._drop(f"it cannot be written: {error}")

    def _drop(self, why: str) -> None:
        self._why = self._why or why
        self.dropped += 1
        self._untold += 1

    def close(self, timeout_s: float = CLOSE_S) -> str | None:
        """Let the writer finish, and return what went wrong in one line, None if nothing did."""
        end = time.monotonic() + timeout_s
        if self._open:
            self._open = False
            if self._untold:
                with contextlib.suppress(OSError):
                    select.select([], [self._pipe], [], timeout_s)
                    os.write(self._pipe, HEADER.pack(HEADER.size, END, self._untold))
            os.close(self._pipe)
        elif self._process.returncode is not None:
            return self.problem
        problems = self._wait(max(0.0, end - time.monotonic()))
        if self.dropped:
            dropped = counted(self.dropped, "tick or event was", "ticks and events were", form="")
            problems.append(f"{dropped} dropped ({self._why})")
        self.problem = f"{self.path or self.post_mortem}: {'; '.join(problems)}" if problems else None
        return self.problem

    def _wait(self, timeout_s: float) -> list[str]:
        """Wait for the writer; returns what it says went wrong."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return [f"its writer (process {self.writer}) still writes"]
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            said = stderr.read().decode(errors="replace").strip().splitlines()
        if code < 0:
            return [f"its writer was killed (signal {-code}), so the end may be missing"]
        return [said[-1] if said else f"its writer ended with exit code {code}"] if code else []

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _encodable(text: str, most: int | None = None) -> str:
    """The text in UTF-8, which a file's name may not be, and of so many bytes at most."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


def check_new_file(path: Path) -> None:
    """Raise ValueError for a file that exists already, or in a folder that cannot be written to."""
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists already: name another file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"cannot write {path}: {path.parent} is no folder that can be written to")


def _start_writer(path: Path | None, order: dict[str, Any]) -> tuple[int, "subprocess.Popen[bytes]"]:
    """The pipe to a new writing process, and that process."""
    root = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root}
    with contextlib.ExitStack() as stack:
        try:
            file = None if path is None else stack.enter_context(path.open("xb"))
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror}") from None
        if path is not None:
            stack.callback(path.unlink)
        reading, writing = os.pipe()
        stack.callback(os.close, writing)
        with open(reading, "rb"):
            with contextlib.suppress(OSError):  # where the user has too many large pipes already
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "arm_control.recording.writer"],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=() if file is None else (file.fileno(),),
                env=environment,
                start_new_session=True,  # Ctrl-C and a closed terminal are for the loop alone
            )
        if file is not None:
            order |= {"path": str(path), "file": file.fileno()}
            file.close()
        text = json.dumps(order).encode()
        with contextlib.suppress(BrokenPipeError), open(writing, "wb", closefd=False) as pipe:
            pipe.write(len(text).to_bytes(4, "little") + text)
        os.set_blocking(writing, False)
        stack.pop_all()
    return writing, process
