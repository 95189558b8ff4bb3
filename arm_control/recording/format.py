"""Recordings of an arm's motion: one format, MCAP, for simulated and real arms.

A control loop hands its ticks to a `Recorder`, which never waits: it puts each into a pipe, from which a process of its
own (`arm_control.recording.writer`) writes the file. `read_recording` reads such a file, also one that a crash cut
short, and `recover` makes a whole one of it.

| in the file | what |
|---|---|
| metadata `arm_control.recording` | what was recorded, as strings |
| channel `/tick`, schema `arm_control.Tick` | a `Tick` as JSON; fields that are None are left out |
| channel `/event`, schema `arm_control.Event` | an `Event` as JSON |

A number that is not finite, which only what was measured or said by a policy can be, is null in the file and NaN when
read. `log_time` is the wall clock at zero of the monotonic clock (metadata `wall_at_zero_ns`) plus the tick's `time_s`.
"""

import contextlib
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from arm_control.process.printing import counted

METADATA = "arm_control.recording"
POST_MORTEM = "post_mortem"  # name in the metadata of one
HEADER = struct.Struct("<HBI")  # of a message in the pipe: its length with this, its kind, how many were dropped before
TICK, EVENT, END = 1, 2, 3  # kinds of messages; the first two are also the ids of their channels
PIPE_BUF = select.PIPE_BUF  # what fits is written as a whole or not at all
PIPE_BYTES = 1 << 20  # about 10 s of ticks at 200 Hz
TEXT_BYTES = 3000  # of an event, so that it fits
CLOSE_S = 5.0

MAX_TOTAL = 1 << 30  # bytes of JSON in memory

# What a file may claim, so that nothing that reads it is overwhelmed.
MOST_JOINTS = 32
LONGEST_NAME = 256  # of phases, bands, kinds of events and joints
LARGEST_DEG, LARGEST_M, LARGEST_US = 1e6, 1e3, 1e15
PERIODS_S = (1e-4, 1.0)


class Tick(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a control loop. Angles and speeds in degrees and degrees/s, in the order of the joints."""

    time_s: float  # when it began, on the monotonic clock
    phase: str  # "soft start", "run", "wait", "hold" or "park"
    goal_m: tuple[float, ...] | None = None  # x, y, z, and the velocity of a goal that moves
    goal_error_mm: float | None = None  # of the goal before, whose time is over with this tick's reading; mostly None
    stamp_s: float | None = None  # of the reading; None if there was none
    angle_deg: list[float] | None = None
    speed_deg_s: list[float] | None = None
    temperature_c: list[float] | None = None
    load: list[float] | None = None
    voltage_v: list[float] | None = None
    raw_deg: list[float] | None = None  # what the policy said; None in a tick that it was not asked
    target_deg: list[float] | None = None  # what was sent; None if nothing was
    band: str  # "pass", "clamp" or "refuse"
    period_error_us: float  # how much later than due it began
    read_us: float
    decide_us: float
    safety_us: float
    write_us: float


class Event(msgspec.Struct, frozen=True):
    """Something that happened: the text says what.

    Kinds: "refusal", "failure", "driver", "phase", "goal" (one begins), "drops" and "end".
    """

    time_s: float
    kind: str
    text: str


KINDS: dict[str, type[Tick] | type[Event]] = {"arm_control.Tick": Tick, "arm_control.Event": Event}
PER_JOINT = ("angle_deg", "speed_deg_s", "temperature_c", "load", "voltage_v", "raw_deg", "target_deg")


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
            raise ValueError("a recorder wants a file for everything, one for the post-mortem, or both, not the same")
        if not 0 < keep_last_seconds <= 3600:
            raise ValueError(f"keep_last_seconds: wanted more than 0 and up to 3600, got {keep_last_seconds}")
        joint_names(metadata)
        for file in wanted:
            _check_new(file)
        self.path, self.post_mortem = Path(path) if path else None, Path(post_mortem) if post_mortem else None
        self.ticks = 0
        """How many were recorded."""
        self.dropped = 0
        self.problem: str | None = None
        """What went wrong, known once it is closed."""
        self._untold, self._why = 0, ""
        self._buffer, self._encode = bytearray(PIPE_BUF), msgspec.msgpack.Encoder(enc_hook=float).encode_into
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


def _check_new(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists already: name another file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"cannot write {path}: {path.parent} is no folder that can be written to")


def _start_writer(path: Path | None, order: dict[str, Any]) -> tuple[int, "subprocess.Popen[bytes]"]:
    """The pipe to a new writing process, and that process."""
    root = str(Path(__file__).resolve().parents[1])
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


def joint_names(metadata: Mapping[str, str]) -> list[str] | None:
    """The names, if they are said. Raises ValueError if they are said badly."""
    if "joint_names" not in metadata:
        return None
    try:
        names = msgspec.json.decode(metadata["joint_names"], type=list[str])
    except (msgspec.MsgspecError, RecursionError):
        raise ValueError(f"joint_names: wanted a JSON list of names, got {metadata['joint_names'][:80]!r}") from None
    if len(names) > MOST_JOINTS or any(len(name) > LONGEST_NAME for name in names):
        raise ValueError(f"joint_names: expected at most {MOST_JOINTS} names of at most {LONGEST_NAME} characters")
    return names


class Soundness:
    """Whether ticks and events can be written and read: times, finite numbers, as many as there are joints."""

    def __init__(self, joints: int | None) -> None:
        self.joints = joints  # None until the first tick says it

    def fault(self, what: Tick | Event) -> str | None:
        """What is wrong; None if nothing is."""
        if not 0.0 <= what.time_s < 1e9:
            return f"time_s is {what.time_s}"
        if isinstance(what, Event):
            if len(what.kind) > LONGEST_NAME or len(what.text.encode("utf-8", "replace")) > TEXT_BYTES:
                return f"an event of {len(what.kind)} and {len(what.text)} characters"
            return None
        if len(what.phase) > LONGEST_NAME or len(what.band) > LONGEST_NAME:
            return f"a phase and a band of {len(what.phase)} and {len(what.band)} characters"
        for name in PER_JOINT:
            values = getattr(what, name)
            if values is None:
                continue
            if self.joints is None and len(values) <= MOST_JOINTS:
                self.joints = len(values)
            if len(values) != self.joints:
                return f"{name} has {len(values)} numbers for {self.joints or f'at most {MOST_JOINTS}'} joints"
        if what.goal_m is not None and len(what.goal_m) not in (3, 6):
            return f"goal_m has {len(what.goal_m)} numbers, not 3 or 6"
        times = (what.period_error_us, what.read_us, what.decide_us, what.safety_us, what.write_us)
        bounded = (times, LARGEST_US), (what.goal_m or (), LARGEST_M), (what.target_deg or (), LARGEST_DEG)
        for values, largest in bounded:
            if not all(-largest <= value <= largest for value in values):
                return "a goal, a target or a duration is not finite, or absurdly large"
        return None


@dataclass
class Recording:
    """What a file of a recorder holds."""

    metadata: dict[str, str]
    ticks: list[Tick]
    events: list[Event]
    whole: bool
    """Whether it was closed, and nothing in it is damaged."""
    lost: str
    """What could not be read; empty if nothing is known to be missing."""


@dataclass(frozen=True)
class Recovery:
    """What was saved from a recording, and what was not."""

    ticks: int
    events: int
    lost: str


def read_recording(path: str | Path) -> Recording:
    """Read a recording, whole or cut short by a crash: up to the cut, and without chunks that are damaged.

    Ticks and events come in the order of their log times, whatever their order in the file. Raises ValueError if it is
    none of arm-control's, if nothing in it can be read, if it has more than 1 GiB of JSON, or if what it holds makes no
    sense.
    """
    from arm_control.recording.reader import Scan

    scan = Scan(Path(path))
    found: list[tuple[int, Tick | Event]] = []  # with log times
    sound, total = Soundness(None), 0
    for row in scan:
        total += len(row.data)
        if total > MAX_TOTAL:
            most = f"{MAX_TOTAL >> 20} MiB of JSON"
            raise ValueError(f"{path} is too long to be read into memory: it has more than {most}")
        try:
            found.append((row.log_time_ns, row.decode(sound)))
        except ValueError as error:
            raise ValueError(f"{path}: {row.name} {len(found) + 1} makes no sense: {error}") from None
    found.sort(key=lambda pair: pair[0])
    ticks = [what for _, what in found if isinstance(what, Tick)]
    events = [what for _, what in found if isinstance(what, Event)]
    try:
        names = joint_names(scan.metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if names is not None and sound.joints not in (None, len(names)):
        raise ValueError(f"{path} names {len(names)} joints, but its ticks have {sound.joints}")
    return Recording(scan.metadata, ticks, events, scan.whole, scan.lost)


def recover(path: str | Path, out: str | Path) -> Recovery:
    """Write what can be read of a recording to a new, whole and indexed file, in the order of log times.

    Raises ValueError if nothing can be read, or if there is such a file already.
    """
    from arm_control.recording.reader import Scan
    from arm_control.recording.writer import RecordingFile
    from arm_control.runs.files import written_whole

    scan, sound = Scan(Path(path)), Soundness(None)
    _check_new(Path(out))
    counts = {Tick: 0, Event: 0}
    latest_ns, in_order = 0, True
    with written_whole(Path(out)) as aside:
        with aside.open("wb") as stream:
            file = RecordingFile(stream)
            for row in scan:
                try:
                    row.decode(sound)
                except ValueError as error:
                    scan.lose(len(row.data), str(error))
                    if scan.hopeless:
                        break
                    continue
                file.add(TICK if row.kind is Tick else EVENT, row.log_time_ns, row.data)
                counts[row.kind] += 1
                in_order &= row.log_time_ns >= latest_ns
                latest_ns = row.log_time_ns
            if not any(counts.values()):
                raise ValueError(f"{path} holds nothing that can be read: {scan.lost or 'no ticks and no events'}")
            file.add_metadata(scan.metadata)
            file.finish()
        if not in_order:
            _sort_recording(aside)
    return Recovery(counts[Tick], counts[Event], scan.lost)


def _sort_recording(path: Path) -> None:
    """Write a whole recording anew, in the order of log times.

    In memory are the chunks whose times overlap.
    """
    from mcap.reader import make_reader

    from arm_control.recording.writer import RecordingFile
    from arm_control.runs.files import written_whole

    with path.open("rb") as unsorted, written_whole(path) as aside, aside.open("wb") as stream:
        reader = make_reader(unsorted)
        file = RecordingFile(stream)
        for _, channel, message in reader.iter_messages(log_time_order=True):
            file.add(channel.id, message.log_time, message.data)
        for record in reader.iter_metadata():
            file.add_metadata(record.metadata)
        file.finish()
