"""Recording a control loop without blocking it.

`Recorder` puts each tick into a pipe, from which a separate process (`arm_control.recording.writer`) writes the file.
"""

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from arm_control.process.printing import counted
from arm_control.recording.pipe import END, HEADER, PIPE_BUF, PIPE_BYTES
from arm_control.recording.schema import EVENT, TEXT_BYTES, TICK, Event, Tick, joint_names

CLOSE_S = 5.0


class Recorder:
    """Records a control loop without blocking it.

    `tick` and `event` are called from one thread, and never raise. A message that does not fit into the pipe, because
    the writing process is too slow or has ended, is dropped: it is counted in `dropped`, and reported in the file (an
    `Event` "drops"). If this process dies, the writing process still finishes the file.
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

        `path` receives every message; `post_mortem`, only after an `Event` "refusal", the messages from
        `keep_last_seconds` before it to 2 s after. `metadata` describes the run; its `joint_names` is a JSON list.
        Raises ValueError for a file that exists already or cannot be written, and for invalid metadata.
        """
        # Check the arguments before a process is started.
        self.path = Path(path) if path else None
        self.post_mortem = Path(post_mortem) if post_mortem else None
        check_outputs([file for file in (path, post_mortem) if file is not None])
        if not 0 < keep_last_seconds <= 3600:
            raise ValueError(f"keep_last_seconds: expected more than 0 and up to 3600, got {keep_last_seconds}")
        joint_names(metadata)
        # Counts.
        self.ticks = 0
        """Number of ticks that were put into the pipe."""
        self.dropped = 0
        """Number of messages that were dropped."""
        self.problem: str | None = None
        """The errors, known once the recorder is closed."""
        self._unreported = 0  # messages dropped since the last one that was sent
        self._drop_reason = ""  # of the first dropped message
        # The pipe, and the process at its other end.
        self._buffer = bytearray(PIPE_BUF)
        self._encode = msgspec.msgpack.Encoder(enc_hook=float).encode_into
        order = {
            "metadata": _encoded_metadata(metadata),
            "post_mortem": None if post_mortem is None else str(Path(post_mortem).absolute()),
            "keep_last_seconds": keep_last_seconds,
        }
        self._pipe, self._process = _start_writer(None if path is None else Path(path).absolute(), order)
        self.writer = self._process.pid
        self._open = True

    def tick(self, tick: Tick) -> None:
        """Record a tick, or drop it."""
        self._send(TICK, tick)

    def event(self, event: Event) -> None:
        """Record an event, or drop it; a text of more than 3000 bytes is cut off."""
        self._send(EVENT, Event(event.time_s, event.kind, _encodable(event.text, TEXT_BYTES)))

    def _send(self, kind: int, what: Tick | Event) -> None:
        if not self._open:
            return self._drop("it was closed")
        try:
            self._encode(what, self._buffer, HEADER.size)
            size = len(self._buffer)
            if size > PIPE_BUF:
                return self._drop(f"a message of {size} bytes is too large")
            HEADER.pack_into(self._buffer, 0, size, kind, self._unreported)
            os.write(self._pipe, self._buffer)
            self._unreported = 0
            self.ticks += kind == TICK
        except BlockingIOError:
            self._drop("its writer was too slow")
        except OSError:
            self._drop("its writer was gone")
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            self._drop(f"it cannot be written: {error}")

    def _drop(self, why: str) -> None:
        self._drop_reason = self._drop_reason or why
        self.dropped += 1
        self._unreported += 1

    def close(self, timeout_s: float = CLOSE_S) -> str | None:
        """Wait until the file is finished; returns all errors in one line, None if there are none."""
        end = time.monotonic() + timeout_s
        if self._open:
            self._open = False
            # The messages dropped last have no later message that could report them.
            if self._unreported:
                with contextlib.suppress(OSError):
                    select.select([], [self._pipe], [], timeout_s)
                    os.write(self._pipe, HEADER.pack(HEADER.size, END, self._unreported))
            os.close(self._pipe)
        elif self._process.returncode is not None:
            return self.problem
        problems = self._wait(max(0.0, end - time.monotonic()))
        if self.dropped:
            dropped = counted(self.dropped, "tick or event was", "ticks and events were", form="")
            problems.append(f"{dropped} dropped ({self._drop_reason})")
        self.problem = f"{self.path or self.post_mortem}: {'; '.join(problems)}" if problems else None
        return self.problem

    def _wait(self, timeout_s: float) -> list[str]:
        """Wait for the writing process; returns its errors."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return [f"its writer (process {self.writer}) is still writing"]
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            lines = stderr.read().decode(errors="replace").strip().splitlines()
        if code < 0:
            return [f"its writer was killed (signal {-code}), so the end may be missing"]
        if code == 0:
            return []
        return [lines[-1] if lines else f"its writer ended with exit code {code}"]

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _encodable(text: str, max_bytes: int | None = None) -> str:
    """The text as valid UTF-8, which a file name need not be, cut off after `max_bytes`."""
    return text.encode("utf-8", "replace")[:max_bytes].decode("utf-8", "ignore")


def _encoded_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of the file, with the wall clock at zero of the monotonic clock."""
    encoded = {"wall_at_zero_ns": str(time.time_ns() - time.monotonic_ns())}
    for name, text in metadata.items():
        encoded[name] = _encodable(text)
    return encoded


def check_outputs(files: Sequence[str | Path]) -> None:
    """Raise ValueError unless there are files, different ones, and all of them can be created."""
    paths = [Path(file).absolute() for file in files]
    if not paths or len(set(paths)) < len(paths):
        raise ValueError("a recorder requires a file for everything, one for the post-mortem, or both, not the same")
    for path in paths:
        check_new_file(path)


def check_new_file(path: Path) -> None:
    """Raise ValueError for a file that exists already, or in a folder that cannot be written to."""
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists already: choose another file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"cannot write {path}: {path.parent} is not a writable folder")


def _start_writer(path: Path | None, order: dict[str, Any]) -> tuple[int, "subprocess.Popen[bytes]"]:
    """Start a writing process; returns the descriptor of the pipe to it, and the process.

    `order` is what it is to write, sent as JSON, with its length before it.
    """
    root = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root}
    with contextlib.ExitStack() as stack:
        # Create the file here, so that an error is raised before the run begins.
        try:
            file = None if path is None else stack.enter_context(path.open("xb"))
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror}") from None
        if path is not None:
            stack.callback(path.unlink)
        # Start the process, with the pipe as its standard input.
        reading, writing = os.pipe()
        stack.callback(os.close, writing)
        with open(reading, "rb"):
            with contextlib.suppress(OSError):  # the user has too many large pipes
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "arm_control.recording.writer"],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=() if file is None else (file.fileno(),),
                env=environment,
                start_new_session=True,  # without signals of Ctrl-C and of a closed terminal
            )
        # Send the order; from then on, writing does not block.
        if file is not None:
            order |= {"path": str(path), "file": file.fileno()}
            file.close()
        text = json.dumps(order).encode()
        with contextlib.suppress(BrokenPipeError), open(writing, "wb", closefd=False) as pipe:
            pipe.write(len(text).to_bytes(4, "little") + text)
        os.set_blocking(writing, False)
        stack.pop_all()
    return writing, process
