"""Recordings: exact, never in the control loop's way, and readable after whatever crash."""

import json
import math
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zstandard
from helpers import children, stuck
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from locations import ROOT
from mcap.reader import make_reader
from mcap.records import Chunk
from mcap.writer import CompressionType, Writer

from arm_control.cli import main
from arm_control.recording.format import EVENT, METADATA, TICK, Event, Recorder, Tick, read_recording, recover
from arm_control.recording.reader import CHUNK_MARK, MARK_OFFSET
from arm_control.recording.writer import Message, PostMortem, RecordingFile, schema_of

NAMES = {"joint_names": '["base", "shoulder", "elbow"]'}
LOOP = """
import os, sys, time
from arm_control.recording.format import Event, Recorder, Tick

recorder = Recorder(sys.argv[1], {"joint_names": '["base"]'})
for number in range(int(sys.argv[2])):
    times = dict.fromkeys(["period_error_us", "read_us", "decide_us", "safety_us", "write_us"], 0.0)
    recorder.tick(Tick(time_s=time.monotonic(), phase="run", angle_deg=[float(number)], band="pass", **times))
    os.write(1, b".")
    time.sleep(0.001)
os.write(1, b"\\n")
sys.stdin.read()
"""


def tick(time_s: float = 1.0, **fields: object) -> Tick:
    """A tick of three joints."""
    values = {
        "time_s": time_s,
        "phase": "run",
        "goal_m": (0.1, -0.2, 0.3),
        "angle_deg": [10.0, 20.0, 30.0],
        "target_deg": [10.1, 20.1, 0.1 + 0.2],
        "band": "pass",
        "period_error_us": 1.5,
        "read_us": 900.0,
        "decide_us": 80.0,
        "safety_us": 20.0,
        "write_us": 50.0,
    }
    return Tick(**(values | fields))  # type: ignore[arg-type]


def write(
    ticks: list[Tick], *, each: int = 4, metadata: dict[str, str] = NAMES, events: tuple[Event, ...] = ()
) -> bytes:
    """A whole recording, with so many ticks in a chunk."""
    stream = BytesIO()
    file = RecordingFile(stream)
    file.add_metadata(metadata)
    for number, what in enumerate([*ticks, *events]):
        kind = TICK if isinstance(what, Tick) else EVENT
        file.add(kind, number, msgspec.json.encode(what))
        if number % each == each - 1:
            file.flush()
    file.finish()
    return stream.getvalue()


def wait_for(true: Callable[[], object], what: str) -> None:
    """Until it is true."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def readable(path: Path) -> int:
    """How many ticks can be read."""
    try:
        return len(read_recording(path).ticks)
    except ValueError:
        return 0


def is_part(ticks: list[Tick], whole: list[Tick]) -> bool:
    """Whether the ticks are among those of the whole, in the same order."""
    rest = iter(whole)
    return all(tick in rest for tick in ticks)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path / "log.mcap", NAMES) as recorder:
        yield recorder


@pytest.fixture
def writer(recorder: Recorder) -> int:
    """The process that writes for it."""
    return recorder.writer


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Callable[[int], tuple["subprocess.Popen[bytes]", int]]]:
    """Starts a process that records so many ticks and then waits; returns it, and the process that writes."""
    started: list[subprocess.Popen[bytes]] = []

    def start(ticks: int) -> tuple["subprocess.Popen[bytes]", int]:
        words = [sys.executable, "-c", LOOP, str(tmp_path / "log.mcap"), str(ticks)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        (writer,) = children(process.pid)
        return process, writer

    yield start
    for process in started:
        with process:
            process.kill()


def kill_and_count(process: "subprocess.Popen[bytes]") -> int:
    """How many ticks it has recorded when it is dead, and perhaps one more."""
    process.kill()
    assert process.stdout is not None
    return 1 + len(process.stdout.read().strip())


def test_what_is_recorded_is_read_bit_for_bit(tmp_path: Path) -> None:
    draw = random.Random(0)

    def number(most: float = sys.float_info.max) -> float:
        while not abs(value := struct.unpack("<d", draw.randbytes(8))[0]) <= most:
            pass
        return float(value)

    def three(most: float = sys.float_info.max) -> list[float] | None:
        return None if draw.random() < 0.3 else [number(most), 5e-324, -0.0]

    ticks = [
        tick(
            draw.random() * 10 ** draw.randint(-9, 8),
            goal_m=draw.choice([None, (number(1e3), 0.0, 1.0), (number(1e3),) * 6]),
            stamp_s=draw.choice([None, number()]),
            angle_deg=three(),
            temperature_c=three(),
            target_deg=three(1e6),
            raw_deg=draw.choice([None, [math.nan, number(), 1.0]]),
            phase="schön",
            read_us=number(1e15),
        )
        for _ in range(100)
    ]
    ticks.sort(key=lambda one: one.time_s)
    events = [Event(2.0, "goal", "x \0 \n \u2028 \U0001f600"), Event(3.0, "end", "")]
    metadata = NAMES | {
        "arm": "ä",
        "policy": os.fsdecode(b"\xff.onnx"),
        "urdf": "x" * 2_000_000,
        "wall_at_zero_ns": "12",
    }
    with Recorder(tmp_path / "log.mcap", metadata) as recorder:
        for each in ticks:
            recorder.tick(each)
        for event in events:
            recorder.event(event)
        assert recorder.close() is None
        assert recorder.close() is None
    recording = read_recording(tmp_path / "log.mcap")
    assert repr(recording.ticks) == repr(ticks)
    assert recording.events == events
    assert recording.metadata == metadata | {"policy": "?.onnx"}
    assert recording.whole
    assert recording.lost == ""
    assert recorder.dropped == 0


def test_other_programs_open_it_with_its_index_and_times(tmp_path: Path) -> None:
    before = time.time_ns()
    ticks = [tick(time.monotonic()) for _ in range(500)]
    after = time.time_ns()
    with Recorder(tmp_path / "log.mcap", NAMES) as recorder:
        for each in ticks:
            recorder.tick(each)
    with (tmp_path / "log.mcap").open("rb") as stream:
        reader = make_reader(stream)
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count == 500
        assert len(summary.chunk_indexes) >= 2
        (metadata,) = reader.iter_metadata()
        assert metadata.name == METADATA
        zero = int(metadata.metadata["wall_at_zero_ns"])
        found = list(reader.iter_messages("/tick"))
    for (schema, channel, message), each in zip(found, ticks, strict=True):
        assert schema is not None
        assert (schema.name, schema.encoding, channel.message_encoding) == ("arm_control.Tick", "jsonschema", "json")
        assert message.log_time == zero + round(1e9 * each.time_s)
        assert before - 1e8 < message.log_time < after + 1e8
        assert json.loads(message.data)["angle_deg"] == each.angle_deg
    assert json.loads(schema.data)["type"] == "object"


def test_the_schemas_say_what_is_in_a_message() -> None:
    schema = schema_of(Tick)
    assert "anyOf" not in json.dumps(schema)
    assert "$ref" not in json.dumps(schema)
    assert {*schema["required"]} == {
        *json.loads(msgspec.json.encode(tick(goal_m=None, angle_deg=None, target_deg=None)))
    }
    assert schema["properties"]["angle_deg"] == {"type": "array", "items": {"type": "number"}}


def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    there = tmp_path / "there.mcap"
    there.write_text("mine")
    for post_mortem in (False, True):

        def start(path: Path, post_mortem: bool = post_mortem) -> None:
            Recorder(None, NAMES, post_mortem=path) if post_mortem else Recorder(path, NAMES)

        with pytest.raises(ValueError, match=r"there\.mcap exists already"):
            start(there)
        with pytest.raises(ValueError, match="is no folder that can be written to"):
            start(tmp_path / "none" / "log.mcap")
    with pytest.raises(ValueError, match="joint_names: wanted a JSON list"):
        Recorder(tmp_path / "log.mcap", {"joint_names": "base"})
    with pytest.raises(ValueError, match="wants a file"):
        Recorder(None, NAMES)
    with pytest.raises(ValueError, match="keep_last_seconds"):
        Recorder(None, NAMES, post_mortem=tmp_path / "log.mcap", keep_last_seconds=math.nan)
    assert there.read_text() == "mine"
    assert [*tmp_path.iterdir()] == [there]


def test_a_writer_that_stands_still_costs_ticks_but_no_time(recorder: Recorder, writer: int) -> None:
    os.kill(writer, signal.SIGSTOP)
    sent = 0
    while recorder.dropped < 50:
        recorder.tick(tick(float(sent)))
        sent += 1
        assert sent < 100_000
    os.kill(writer, signal.SIGCONT)
    told = False
    while not told:
        before = recorder.dropped
        recorder.tick(tick(float(sent)))
        sent += 1
        told = recorder.dropped == before
        time.sleep(0.01)
    said = recorder.close()
    assert said is not None
    assert said.endswith(f"{recorder.dropped} ticks and events were dropped (its writer was too slow)")
    assert recorder.path is not None
    recording = read_recording(recorder.path)
    assert recording.whole
    assert len(recording.ticks) == sent - recorder.dropped
    assert [event.kind for event in recording.events] == ["drops"]
    assert recording.events[0].text.startswith(f"{recorder.dropped} ticks and events")


def test_the_last_drops_are_told_too(recorder: Recorder, writer: int) -> None:
    os.kill(writer, signal.SIGSTOP)
    while recorder.dropped < 3:
        recorder.tick(tick())
    os.kill(writer, signal.SIGCONT)
    recorder.close()
    assert recorder.path is not None
    assert [event.text[:2] for event in read_recording(recorder.path).events] == ["3 "]


def test_what_cannot_be_written_is_dropped_and_told(recorder: Recorder) -> None:
    recorder.tick(tick(angle_deg=[np.float64(angle) for angle in (10.0, 20.0, 30.0)]))
    recorder.tick(tick(angle_deg=[1.0] * 1000))
    recorder.tick(tick(phase="\ud800"))
    recorder.tick(tick(angle_deg=object()))
    assert recorder.dropped == 3
    recorder.event(Event(1.0, "driver", "\ud800" + "ü" * 5000))
    for wrong in (
        {"time_s": math.nan},
        {"angle_deg": [1.0]},
        {"target_deg": [1.0, math.inf, 0.0]},
        {"goal_m": (1.0,)},
        {"read_us": math.nan},
        {"angle_deg": "wrong"},
        {"phase": 3},
    ):
        recorder.tick(tick(**wrong))  # type: ignore[arg-type]
    assert "a message of" in (recorder.close() or "")
    recorder.tick(tick())
    recorder.event(Event(1.0, "end", "too late"))
    assert recorder.dropped == 5
    assert recorder.path is not None
    recording = read_recording(recorder.path)
    assert recording.whole
    assert recording.ticks == [tick()]
    assert [event.text[:9] for event in recording.events if event.kind == "drops"] == ["3 ticks a"] + ["one makes"] * 7
    assert recording.events[1].text.startswith("?üüü")


def test_killing_the_loop_loses_nothing(
    tmp_path: Path, loop: Callable[[int], tuple["subprocess.Popen[bytes]", int]]
) -> None:
    process, writer = loop(100_000)
    wait_for(lambda: readable(tmp_path / "log.mcap"), "nothing was written")
    recorded = kill_and_count(process)
    assert stuck([writer]) == []
    recording = read_recording(tmp_path / "log.mcap")
    assert recording.whole
    assert recorded <= len(recording.ticks) <= recorded + 1
    assert [each.angle_deg for each in recording.ticks] == [[float(n)] for n in range(len(recording.ticks))]


def test_killing_loop_and_writer_leaves_all_but_the_last_moment(
    tmp_path: Path, loop: Callable[[int], tuple["subprocess.Popen[bytes]", int]]
) -> None:
    process, writer = loop(300)
    assert process.stdout is not None
    process.stdout.readline()
    # With nothing more to come, and no end of the pipe: it must be the writer's own clock that brings them out.
    wait_for(lambda: readable(tmp_path / "log.mcap") == 300, "the last ticks are not written without a close")
    os.kill(writer, signal.SIGKILL)
    kill_and_count(process)
    recording = read_recording(tmp_path / "log.mcap")
    assert len(recording.ticks) == 300
    assert not recording.whole
    assert recording.lost == ""


def test_the_writer_ends_for_nothing_but_the_end_of_the_pipe(recorder: Recorder, writer: int) -> None:
    assert recorder.path is not None
    wait_for(recorder.path.read_bytes, "nothing was written")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(writer, number)
    recorder.tick(tick())
    assert recorder.close() is None
    assert read_recording(recorder.path).ticks == [tick()]


def test_without_its_writer_the_loop_goes_on(recorder: Recorder, writer: int) -> None:
    recorder.tick(tick())
    assert recorder.path is not None
    wait_for(lambda: readable(recorder.path), "nothing was written")
    os.kill(writer, signal.SIGKILL)
    wait_for(lambda: recorder.tick(tick()) or recorder.dropped, "the loss of the writer is not seen")
    before = recorder.dropped
    for _ in range(100):
        recorder.tick(tick())
    assert recorder.dropped == before + 100
    said = recorder.close()
    assert said is not None
    assert "its writer was killed (signal 9)" in said
    assert "its writer was gone" in said
    assert "\n" not in said
    assert read_recording(recorder.path).ticks[0] == tick()


def test_a_writer_that_does_not_end_is_told(recorder: Recorder, writer: int) -> None:
    os.kill(writer, signal.SIGSTOP)
    assert f"its writer (process {writer}) still writes" in (recorder.close(timeout_s=0.1) or "")
    os.kill(writer, signal.SIGCONT)
    assert recorder.close(timeout_s=60) is None
    assert recorder.path is not None
    assert read_recording(recorder.path).whole


@pytest.mark.parametrize("size", [100, 30_000])
def test_a_full_disk_is_told_and_what_was_written_is_read(
    tmp_path: Path, files_at_most: Callable[[int], AbstractContextManager[None]], size: int
) -> None:
    draw = random.Random(0)
    with files_at_most(size):
        recorder = Recorder(tmp_path / "log.mcap", NAMES)
    sent: list[Tick] = []

    def send() -> bool:
        for _ in range(20):
            sent.append(tick(float(len(sent)), raw_deg=[draw.random() for _ in range(3)]))
            recorder.tick(sent[-1])
        return recorder.dropped > 0

    wait_for(send, "the disk is never full")
    said = recorder.close()
    assert said is not None
    assert f"cannot write {tmp_path / 'log.mcap'}, which ends early: File too large; " in said
    if size == 100:
        assert readable(tmp_path / "log.mcap") == 0
    else:
        ticks = read_recording(tmp_path / "log.mcap").ticks
        assert 0 < len(ticks) < len(sent)
        assert ticks == sent[: len(ticks)]


def test_a_post_mortem_holds_the_last_seconds_before_a_refusal(tmp_path: Path) -> None:
    after = tmp_path / "after.mcap"
    times = [number / 10 for number in range(1000)]
    for path in (None, tmp_path / "log.mcap"):
        with Recorder(path, NAMES, post_mortem=after, keep_last_seconds=5.0) as recorder:
            for time_s in times:
                if time_s == 80.0:
                    recorder.event(Event(time_s, "goal", "one more"))
                    recorder.event(Event(time_s, "refusal", "speed: too fast"))
                if time_s == 81.0:
                    recorder.event(Event(time_s, "refusal", "again"))
                recorder.tick(tick(time_s))
            assert recorder.close() is None
        recording = read_recording(after)
        assert recording.whole
        assert [each.time_s for each in recording.ticks] == [time_s for time_s in times if 75.0 <= time_s <= 82.0]
        assert [event.text for event in recording.events] == ["one more", "speed: too fast", "again"]
        assert recording.metadata["joint_names"] == NAMES["joint_names"]
        after.unlink()
    assert [each.time_s for each in read_recording(tmp_path / "log.mcap").ticks] == times


def test_without_a_refusal_there_is_no_post_mortem(tmp_path: Path) -> None:
    with Recorder(None, NAMES, post_mortem=tmp_path / "after.mcap") as recorder:
        recorder.tick(tick())
        recorder.event(Event(1.0, "end", "all done"))
        assert recorder.close() is None
    assert [*tmp_path.iterdir()] == []


def test_a_post_mortem_that_cannot_be_written_does_not_cost_the_recording(tmp_path: Path) -> None:
    after = tmp_path / "after.mcap"
    with Recorder(tmp_path / "log.mcap", NAMES, post_mortem=after) as recorder:
        after.write_text("mine")
        recorder.event(Event(1.0, "refusal", "stale"))
        recorder.tick(tick())
        assert f"cannot write {after}, which ends early: File exists" in (recorder.close() or "")
    assert read_recording(tmp_path / "log.mcap").ticks == [tick()]
    assert after.read_text() == "mine"


@pytest.mark.parametrize(("step_s", "size"), [(0.005, 500), (0.0, 50_000)])
def test_waiting_for_a_refusal_takes_no_more_and_more_memory(tmp_path: Path, step_s: float, size: int) -> None:
    post_mortem = PostMortem(tmp_path / "after.mcap", NAMES | {"wall_at_zero_ns": "0"}, keep_last_seconds=10.0)
    tracemalloc.start()
    for number in range(20_000):
        post_mortem.add(Message(TICK, number * step_s, bytes(size), False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.slow
def test_a_recording_cut_anywhere_is_read_up_to_the_cut(tmp_path: Path) -> None:
    ticks = [tick(float(number)) for number in range(9)]
    data, path = write(ticks, each=3), tmp_path / "log.mcap"
    counts = []
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            recording = read_recording(path)
        except ValueError as error:
            assert str(error).startswith(f"{path} ")
            assert "\n" not in str(error)
            counts.append(0)
        else:
            assert not recording.whole
            assert recording.ticks == ticks[: len(recording.ticks)]
            counts.append(len(recording.ticks))
    assert sorted({*counts}) == [0, 3, 6, 9]
    assert counts == sorted(counts)


FLIPPED = [tick(float(number), raw_deg=[number / 7, number / 3, -number / 9]) for number in range(20)]
WHOLE = write(FLIPPED, events=(Event(30.0, "end", "all done"),))


def test_damage_never_changes_a_tick(tmp_path: Path) -> None:
    outcomes = set()

    @settings(max_examples=400)
    @given(
        flips=st.dictionaries(st.integers(0, len(WHOLE) - 1), st.integers(1, 255), min_size=1, max_size=4),
        cut=st.integers(0, len(WHOLE)) | st.none(),
    )
    def check(flips: dict[int, int], cut: int | None) -> None:
        data = bytearray(WHOLE)
        for place, flip in flips.items():
            data[place] ^= flip
        path = tmp_path / "log.mcap"
        path.write_bytes(data[:cut])
        try:
            recording = read_recording(path)
        except ValueError as error:
            assert str(error).startswith(str(path))
            outcomes.add("refused")
            return
        assert is_part(recording.ticks, FLIPPED)
        assert not recording.whole
        (tmp_path / "out.mcap").unlink(missing_ok=True)
        assert recover(path, tmp_path / "out.mcap").ticks == len(recording.ticks)
        outcomes.add("a part")

    check()
    assert outcomes == {"refused", "a part"}


def test_what_comes_after_damage_is_read_too(tmp_path: Path) -> None:
    for place in (len(WHOLE) // 3, WHOLE.index(b"zstd") + 20):  # somewhere, and in the first chunk with its schemas
        data = bytearray(WHOLE)
        data[place] ^= 1
        (tmp_path / "log.mcap").write_bytes(data)
        recording = read_recording(tmp_path / "log.mcap")
        assert len(recording.ticks) == 16
        assert recording.events
        assert not recording.whole
        assert "damaged chunk" in recording.lost


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200)
    | st.lists(st.tuples(st.sampled_from([*range(1, 16), 200]), st.binary(max_size=60), st.integers(-3, 3))).map(
        lambda records: b"".join(
            struct.pack("<BQ", code, max(0, len(body) + wrong)) + body for code, body, wrong in records
        )
    )
)
def test_arbitrary_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    for start in (b"", WHOLE[:8], WHOLE[: WHOLE.index(b"zstd") - 41]):
        (tmp_path / "log.mcap").write_bytes(start + data)
        with pytest.raises(ValueError, match=r"log\.mcap"):
            read_recording(tmp_path / "log.mcap")


def foreign(data: bytes, name: str = "arm_control.Tick", encoding: str = "json") -> bytes:
    """A file with one message, as another program may write it."""
    stream = BytesIO()
    writer = Writer(stream, compression=CompressionType.NONE)
    writer.start()
    channel = writer.register_channel("/tick", encoding, writer.register_schema(name, "jsonschema", b"{}"))
    writer.add_message(channel, 1, data, 1)
    writer.finish()  # type: ignore[no-untyped-call]
    return stream.getvalue()


JSON = msgspec.json.encode(tick()).decode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no MCAP file: it is empty"),
        (b"no recording at all", "is no MCAP file"),
        (foreign(JSON.encode(), name="foxglove.JointStates"), "is no recording of arm-control"),
        (foreign(JSON[:-1].encode()), "tick 1 makes no sense: Input data was truncated"),
        (foreign(b"\xff"), "makes no sense"),
        (foreign(b"[" * 30_000), "nested too deeply"),
        (foreign(b'{"x": ' + b"[" * 30_000), "nested too deeply"),
        (foreign(JSON.replace("1.5", "NaN").encode()), "makes no sense: JSON is malformed"),
        (foreign(JSON.replace("1.5", "null").encode()), r"Expected `float`, got `null` - at `\$.period_error_us`"),
        (foreign(JSON.replace("1.5", "1e999").encode()), "Number out of range"),
        (foreign(JSON.replace("10.1", "null").encode()), "is not finite"),
        (foreign(JSON.replace("10.1,", "").encode()), "target_deg has 2 numbers for 3 joints"),
        (foreign(JSON.replace("-0.2,", "").encode()), "goal_m has 2 numbers"),
        (foreign(JSON.replace('"time_s":1.0', '"time_s":-1').encode()), "time_s is -1"),
        (foreign(b"5"), "makes no sense: Expected `object`"),
        (write([tick()], metadata={"joint_names": '["base"]'}), "names 1 joints, but its ticks have 3"),
        (write([tick()], metadata={"joint_names": "["}), "joint_names: wanted a JSON list"),
    ],
)
def test_a_recording_that_makes_no_sense_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "log.mcap"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=said) as raised:
        read_recording(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_what_is_no_file_is_no_recording(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / "none", "no recording"),
    ):
        with pytest.raises(ValueError, match=said):
            read_recording(path)


@pytest.mark.parametrize("hole", [1, 9, 200])
def test_behind_a_hole_everything_is_read_from_the_next_sound_chunk_on(tmp_path: Path, hole: int) -> None:
    marks = [found.start() - MARK_OFFSET for found in re.finditer(re.escape(CHUNK_MARK), WHOLE)]
    starts = [start for start in marks if WHOLE[start] == 6]  # the others are in the index
    assert len(starts) == 6  # five of four ticks, and the event
    for number, start in enumerate(starts[:5]):
        for begin in (start + 8, start):  # its length is too large; it is no chunk at all
            (tmp_path / "log.mcap").write_bytes(WHOLE[:begin] + b"\xff" * hole + WHOLE[begin + hole :])
            read = read_recording(tmp_path / "log.mcap")
            assert read.ticks == FLIPPED[: 4 * number] + FLIPPED[4 * number + 4 :]
            assert not read.whole
            assert "bytes" in read.lost
            assert [event.text for event in read.events] == ["all done"]


def test_no_file_is_searched_for_ever(tmp_path: Path) -> None:
    bad = b"\x06" + bytes(MARK_OFFSET - 1) + CHUNK_MARK + bytes(100)
    start = WHOLE[: WHOLE.index(b"zstd") - 41]
    (tmp_path / "log.mcap").write_bytes(start + b"\xff" * 9 + bad * 10_000)
    with pytest.raises(ValueError, match="holds nothing that can be read"):
        read_recording(tmp_path / "log.mcap")


def test_what_follows_the_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "log.mcap").write_bytes(WHOLE + b"x")
    assert not read_recording(tmp_path / "log.mcap").whole
    assert read_recording(tmp_path / "log.mcap").ticks == FLIPPED


def test_a_file_without_a_tick_is_a_recording(tmp_path: Path) -> None:
    (tmp_path / "log.mcap").write_bytes(write([]))
    assert read_recording(tmp_path / "log.mcap").ticks == []
    assert read_recording(tmp_path / "log.mcap").whole


def chunk(compressed: bytes, says: int) -> bytes:
    """A chunk record that says how much is in it."""
    from mcap.data_stream import RecordBuilder

    builder = RecordBuilder()
    Chunk("zstd", compressed, 0, 0, 0, says).write(builder)
    return builder.end()


def test_a_small_file_does_not_take_a_lot_of_memory(tmp_path: Path) -> None:
    start = WHOLE[: WHOLE.index(b"zstd") - 41]  # with the metadata
    zeros = zstandard.compress(bytes(64 << 20))
    text = b'{"time_s":1,"kind":"x","text":"' + b"a" * (10 << 20) + b'"}'
    message = struct.pack("<BQHIQQ", 5, 22 + len(text), EVENT, 0, 0, 0) + text
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    ).compressobj()
    wide_zeros = wide.compress(bytes(1 << 20)) + wide.flush()
    for name, data, said in (
        ("says too much", chunk(zeros, 64 << 20), "a chunk of 67108864 bytes"),
        ("says far too much", chunk(zeros, 1 << 63), "a chunk of"),
        ("says too little", chunk(zeros, 1000), "a damaged chunk"),
        ("wants a wide window", chunk(wide_zeros, 1 << 20), "a damaged chunk"),
        (
            "many",
            chunk(zstandard.compress(message), len(message)) * 20,
            "event 1 makes no sense: it has 104857.. bytes",
        ),
        ("long record", struct.pack("<BQ", 6, 1 << 62) + zeros, "its length is damaged"),
    ):
        path = tmp_path / f"{name}.mcap"
        path.write_bytes(start + data)
        tracemalloc.start()
        with pytest.raises(ValueError, match=said):
            read_recording(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150e6, name


def test_recover_makes_a_whole_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cut = WHOLE[: len(WHOLE) // 2]
    path, out = tmp_path / "log.mcap", tmp_path / "log-recovered.mcap"
    path.write_bytes(cut)
    read = read_recording(path)
    assert 0 < len(read.ticks) < 20
    assert main(["recover", str(path)]) == 0
    said = capfd.readouterr().out
    assert re.fullmatch(
        rf"{out}: {len(read.ticks)} ticks, 0 events; unreadable: \d+ bytes \(the file ends within a record.*\)\n", said
    )
    recovered = read_recording(out)
    assert recovered.whole
    assert recovered.ticks == read.ticks
    assert recovered.metadata == read.metadata
    with out.open("rb") as stream:
        times = [message.log_time for _, _, message in make_reader(stream).iter_messages()]
    assert times == [*range(len(read.ticks))]
    assert path.read_bytes() == cut
    whole = out.read_bytes()
    assert main(["recover", str(path)]) == 2
    assert "exists already" in capfd.readouterr().err
    assert out.read_bytes() == whole
    assert main(["recover", str(out), "--out", str(tmp_path / "again.mcap")]) == 0
    assert "unreadable: nothing" in capfd.readouterr().out


@pytest.mark.parametrize("data", [b"", b"x" * 100, WHOLE[:200], foreign(b"{}"), None])
def test_recover_says_when_there_is_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], data: bytes | None
) -> None:
    path = tmp_path / "log.mcap"
    if data is not None:
        path.write_bytes(data)
    assert main(["recover", str(path)]) == 2
    said = capfd.readouterr().err
    assert said.startswith("arm-control: error: ")
    assert said.count("\n") == 1
    assert str(path) in said
    assert [*tmp_path.iterdir()] == ([] if data is None else [path])


def test_recover_leaves_out_ticks_that_make_no_sense(tmp_path: Path) -> None:
    stream = BytesIO()
    file = RecordingFile(stream)
    file.add_metadata(NAMES)
    for data in (msgspec.json.encode(tick()), b"{}", msgspec.json.encode(tick(2.0))):
        file.add(TICK, 1, data)
    file.finish()
    (tmp_path / "log.mcap").write_bytes(stream.getvalue())
    saved = recover(tmp_path / "log.mcap", tmp_path / "out.mcap")
    assert saved.ticks == 2
    assert saved.lost.startswith("2 bytes (Object missing required field")
    assert read_recording(tmp_path / "out.mcap").ticks == [tick(), tick(2.0)]


def test_a_full_disk_leaves_no_half_recovered_file(
    tmp_path: Path, files_at_most: Callable[[int], AbstractContextManager[None]]
) -> None:
    (tmp_path / "log.mcap").write_bytes(WHOLE)
    with files_at_most(1000), pytest.raises(OSError, match="cannot write"):
        recover(tmp_path / "log.mcap", tmp_path / "out.mcap")
    assert [path.name for path in tmp_path.iterdir()] == ["log.mcap"]


def test_the_control_loop_loads_nothing_for_it() -> None:
    absent = ("mcap", "torch", "pybullet", "numpy", "zstandard")
    code = f"import sys, arm_control.recording.format; assert not {{*{absent}}} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
