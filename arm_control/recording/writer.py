"""Writing recordings: the file, and the process to which a `Recorder` sends its ticks.

The process ends when the pipe is closed, even if the control loop was killed.
"""

import contextlib
import fcntl
import math
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import msgspec
from mcap.writer import Writer

from arm_control.process.printing import counted
from arm_control.recording.pipe import HEADER
from arm_control.recording.schema import EVENT, KINDS, METADATA, POST_MORTEM, TICK, Event, Soundness, Tick, joint_names

FLUSH_S = 0.2  # at most this much is lost if this process is killed
REST_S = 0.05  # between reads of the pipe: waking this process costs the loop more than writing a tick
CHUNK_BYTES = 1 << 16
KEPT_BYTES = 16 << 20  # of the last seconds, however many ticks they have
AFTERMATH_S = 2.0  # of a fault, in a post-mortem
DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {
    TICK: msgspec.msgpack.Decoder(Tick),
    EVENT: msgspec.msgpack.Decoder(Event),
}


class RecordingFile:
    """A recording that is being written to a stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._writer = Writer(stream, chunk_size=CHUNK_BYTES, enable_data_crcs=True)
        self._writer.start(library="arm-control")
        for topic, (name, kind) in zip(("/tick", "/event"), KINDS.items(), strict=True):
            schema = self._writer.register_schema(name, "jsonschema", msgspec.json.encode(schema_of(kind)))
            self._writer.register_channel(topic, "json", schema)

    def add_metadata(self, metadata: Mapping[str, str]) -> None:
        """Write the metadata."""
        self._writer.add_metadata(METADATA, dict(metadata))
        self._stream.flush()

    def add(self, channel: int, log_time_ns: int, data: bytes) -> None:
        """Add a tick or an event as JSON."""
        self._writer.add_message(channel, log_time_ns, data, log_time_ns)

    def flush(self) -> None:
        """Pass everything so far to the operating system."""
        self._writer.flush()  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """Write the index and the end."""
        self._writer.finish()  # type: ignore[no-untyped-call]
        self._stream.flush()


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON schema of a tick or event, without unions, which viewers of MCAP files do not support.

    Fields that may be None are optional instead.
    """
    _, components = msgspec.json.schema_components([kind])
    schema: dict[str, Any] = components[kind.__name__]
    for name, field in schema["properties"].items():
        if "anyOf" in field:
            schema["properties"][name] = next(choice for choice in field["anyOf"] if choice != {"type": "null"})
    return schema


class Message(NamedTuple):
    """An encoded tick or event."""

    channel: int
    time_s: float
    data: bytes
    is_fault: bool


class FullRecording:
    """A file with all ticks and events. Its methods raise OSError if writing fails."""

    def __init__(self, path: Path, stream: BinaryIO, metadata: Mapping[str, str]) -> None:
        self.path = path
        with contextlib.suppress(OSError):  # shows viewers that the file is growing; some file systems have no locks
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._stream = stream
        self._file = RecordingFile(stream)
        self._zero_ns = int(metadata["wall_at_zero_ns"])
        self._file.add_metadata(metadata)

    def add(self, message: Message) -> None:
        """Write a message, at the latest with the next flush."""
        self._file.add(message.channel, max(0, self._zero_ns + round(1e9 * message.time_s)), message.data)

    def flush(self) -> None:
        """Write what is not written yet."""
        self._file.flush()

    def finish(self) -> None:
        """End the file."""
        self._file.finish()
        self._stream.close()


class PostMortem:
    """A file that is written only if the arm is stopped by a fault: from some seconds before to 2 s after it."""

    def __init__(self, path: Path, metadata: Mapping[str, str], keep_last_seconds: float) -> None:
        self.path = path
        self._metadata = {**metadata, POST_MORTEM: "true"}
        self._keep_s = keep_last_seconds
        self._kept: deque[Message] = deque()
        self._bytes = 0
        self._until_s: float | None = None
        self._file: FullRecording | None = None

    def add(self, message: Message) -> None:
        """Keep a message, or write it after a fault."""
        if self._until_s is not None:
            if message.time_s > self._until_s:
                self.finish()
            elif self._file is not None:
                self._file.add(message)
            return
        # Keep the last seconds, within a bound on the memory.
        self._kept.append(message)
        self._bytes += len(message.data)
        while message.time_s - self._kept[0].time_s > self._keep_s or self._bytes > KEPT_BYTES:
            self._bytes -= len(self._kept.popleft().data)
        # A fault: begin the file with what was kept.
        if message.is_fault:
            self._until_s = message.time_s + AFTERMATH_S
            self._file = FullRecording(self.path, self.path.open("xb"), self._metadata)
            while self._kept:
                self._file.add(self._kept.popleft())

    def flush(self) -> None:
        """Write what is not written yet."""
        if self._file is not None:
            self._file.flush()

    def finish(self) -> None:
        """End the file, if there is one."""
        if self._file is not None:
            file = self._file
            self._file = None
            file.finish()


class Messages:
    """Messages from the pipe, validated and passed to every output that still works."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        names = joint_names(metadata)
        self._sound = Soundness(None if names is None else len(names))
        self._time_s = 0.0
        self.outputs: list[FullRecording | PostMortem] = []
        self.problems: list[str] = []

    def take(self, kind: int, dropped: int, payload: bytes) -> None:
        """Decode and add a message, after an event for the messages dropped before it."""
        # Decode and check it.
        what = None
        fault = None
        if kind in DECODERS:
            try:
                what = DECODERS[kind].decode(payload)
                fault = self._sound.fault(what)
            except msgspec.MsgspecError as error:
                fault = str(error)
        if what is not None and fault is None:
            self._time_s = what.time_s
        # Add an event for what was dropped, the message itself included if it is invalid.
        if dropped:
            subject = counted(dropped, "tick or event before this was", "ticks and events before this were", form="")
            self._add(EVENT, Event(self._time_s, "drops", f"{subject} dropped"))
        if fault is not None:
            self._add(EVENT, Event(self._time_s, "drops", f"one is invalid and was dropped: {fault}"))
        elif what is not None:
            self._add(kind, what)

    def _add(self, channel: int, what: Tick | Event) -> None:
        is_fault = isinstance(what, Event) and what.kind == "refusal"
        message = Message(channel, what.time_s, msgspec.json.encode(what), is_fault)
        self.each(lambda output: output.add(message))

    def each(self, do: Callable[[FullRecording | PostMortem], None]) -> None:
        """Call a function with every output, and remove those that fail."""
        for output in list(self.outputs):
            with self.excluding(output.path):
                do(output)

    @contextlib.contextmanager
    def excluding(self, path: Path) -> Iterator[None]:
        """Note an error of a file and stop writing to it."""
        try:
            yield
        except OSError as error:
            self.problems.append(f"cannot write {path}, which ends early: {error.strerror or error}")
            self.outputs = [output for output in self.outputs if output.path != path]


def take_all(pipe: BinaryIO, messages: Messages) -> None:
    """Read messages until the pipe ends or no output works any more, flushing every `FLUSH_S`."""
    buffer = b""
    due_s = math.inf
    while messages.outputs:
        # Flush when it is due, otherwise wait for more until then.
        if (wait_s := due_s - time.monotonic()) <= 0.0:
            messages.each(lambda output: output.flush())
            due_s = math.inf
            continue
        if not select.select([pipe], [], [], None if wait_s == math.inf else wait_s)[0]:
            continue
        if not (more := pipe.read(CHUNK_BYTES)):
            break
        # New messages are flushed after FLUSH_S at the latest.
        due_s = min(due_s, time.monotonic() + FLUSH_S)
        buffer = buffer + more
        # Take the complete messages; the rest stays in the buffer.
        start = 0
        while len(buffer) - start >= HEADER.size:
            size, kind, dropped = HEADER.unpack_from(buffer, start)
            if len(buffer) - start < size:
                break
            messages.take(kind, dropped, buffer[start + HEADER.size : start + size])
            start += size
        buffer = buffer[start:]
        # Rest, unless the pipe holds more than was read.
        if len(more) < CHUNK_BYTES:
            time.sleep(REST_S)
    messages.each(lambda output: output.finish())


def read_exactly(pipe: BinaryIO, size: int) -> bytes:
    """Read `size` bytes. Raises EOFError if the pipe ends before."""
    data = b""
    while len(data) < size:
        if not (more := pipe.read(size - len(data))):
            raise EOFError("the pipe ended before the order of what to record was complete")
        data += more
    return data


def main() -> NoReturn:
    """Write the messages from standard input; the exit code is 1 if not all could be written."""
    # Only the end of the pipe ends this process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # drop the real-time priority of the control loop
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.nice(5)
    # What to record comes first, as JSON with its length before it.
    with open(0, "rb", buffering=0) as pipe:
        order = msgspec.json.decode(read_exactly(pipe, int.from_bytes(read_exactly(pipe, 4), "little")))
        metadata = order["metadata"]
        messages = Messages(order["metadata"])
        if "path" in order:
            path = Path(order["path"])
            with messages.excluding(path):
                messages.outputs.append(FullRecording(path, os.fdopen(order["file"], "wb"), metadata))
        if order["post_mortem"] is not None:
            messages.outputs.append(PostMortem(Path(order["post_mortem"]), metadata, order["keep_last_seconds"]))
        take_all(pipe, messages)
    with contextlib.suppress(OSError):  # the reader may have closed the pipe
        print("; ".join(messages.problems), file=sys.stderr, flush=True)
    # Exit without closing streams: one that failed would fail again, with a traceback.
    os._exit(1 if messages.problems else 0)


if __name__ == "__main__":
    main()
