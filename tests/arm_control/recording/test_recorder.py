"""The recorder: exact content, no delay of the control loop, and whole files after crashes."""

import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from helpers import children, stuck, wait_until
from locations import ROOT
from mcap.reader import make_reader
from recordings import NAMES, tick

from arm_control.recording.reading import read_recording
from arm_control.recording.recorder import Recorder
from arm_control.recording.schema import METADATA, TICK, Event, Tick
from arm_control.recording.writer import Message, PostMortem

LOOP = """
import os, sys, time
from arm_control.recording.recorder import Recorder
from arm_control.recording.schema import Event, Tick

recorder = Recorder(sys.argv[1], {"joint_names": '["base"]'})
for number in range(int(sys.argv[2])):
    times = dict.fromkeys(["period_error_us", "read_us", "decide_us", "safety_us", "write_us"], 0.0)
    recorder.tick(Tick(time_s=time.monotonic(), phase="run", angle_deg=[float(number)], band="pass", **times))
    os.write(1, b".")
    time.sleep(0.001)
os.write(1, b"\\n")
sys.stdin.read()
"""


def readable(path: Path) -> int:
    """The number of ticks that can be read."""
    try:
        return len(read_recording(path).ticks)
    except ValueError:
        return 0


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path / "log.mcap", NAMES) as recorder:
        yield recorder


@pytest.fixture
def writer(recorder: Recorder) -> int:
    """The id of the recorder's writing process."""
    return recorder.writer


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Callable[[int], tuple["subprocess.Popen[bytes]", int]]]:
    """Start a process that records this many ticks and then waits; returns it, and its writer's process id."""
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
    """Kill a process; returns the number of ticks that it has recorded, to one."""
    process.kill()
    assert process.stdout is not None
    return 1 + len(process.stdout.read().strip())


class TestContent:
    """Contents of a recording."""

    def test_values_are_read_back_bit_for_bit(self, tmp_path: Path) -> None:
        """Random floats of all magnitudes, NaN, -0.0, Unicode and long metadata."""
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

    def test_the_mcap_reader_finds_index_schemas_and_times(self, tmp_path: Path) -> None:
        """Log times are wall-clock times of the monotonic stamps."""
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
            assert (schema.name, schema.encoding, channel.message_encoding) == (
                "arm_control.Tick",
                "jsonschema",
                "json",
            )
            assert message.log_time == zero + round(1e9 * each.time_s)
            assert before - 1e8 < message.log_time < after + 1e8
            assert json.loads(message.data)["angle_deg"] == each.angle_deg
        assert json.loads(schema.data)["type"] == "object"

    def test_messages_that_cannot_be_written_are_dropped_and_counted(self, recorder: Recorder) -> None:
        """Oversized, invalid and malformed messages are counted, the others written."""
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
        assert [event.text[:9] for event in recording.events if event.kind == "drops"] == ["3 ticks a"] + [
            "one is in"
        ] * 7
        assert recording.events[1].text.startswith("?üüü")

    def test_importing_it_loads_no_large_package(self) -> None:
        """Neither mcap nor NumPy, PyTorch, PyBullet or zstandard is loaded."""
        absent = ("mcap", "torch", "pybullet", "numpy", "zstandard")
        code = f"import sys, arm_control.recording.recorder; assert not {{*{absent}}} & {{*sys.modules}}"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


class TestErrors:
    """Files that cannot be written."""

    def test_a_file_that_cannot_be_written_is_an_error_at_once(self, tmp_path: Path) -> None:
        """Existing files, missing folders and invalid settings; existing files are kept."""
        there = tmp_path / "there.mcap"
        there.write_text("mine")
        for post_mortem in (False, True):

            def start(path: Path, post_mortem: bool = post_mortem) -> None:
                Recorder(None, NAMES, post_mortem=path) if post_mortem else Recorder(path, NAMES)

            with pytest.raises(ValueError, match=r"there\.mcap exists already"):
                start(there)
            with pytest.raises(ValueError, match="is not a writable folder"):
                start(tmp_path / "none" / "log.mcap")
        with pytest.raises(ValueError, match="joint_names: expected a JSON list"):
            Recorder(tmp_path / "log.mcap", {"joint_names": "base"})
        with pytest.raises(ValueError, match="requires a file"):
            Recorder(None, NAMES)
        with pytest.raises(ValueError, match="keep_last_seconds"):
            Recorder(None, NAMES, post_mortem=tmp_path / "log.mcap", keep_last_seconds=math.nan)
        assert there.read_text() == "mine"
        assert [*tmp_path.iterdir()] == [there]

    @pytest.mark.parametrize("size", [100, 30_000])
    def test_a_full_disk_is_reported_and_written_ticks_are_readable(
        self, tmp_path: Path, files_at_most: Callable[[int], AbstractContextManager[None]], size: int
    ) -> None:
        """Files are limited to 100 bytes and to 30 kB."""
        draw = random.Random(0)
        with files_at_most(size):
            recorder = Recorder(tmp_path / "log.mcap", NAMES)
        sent: list[Tick] = []

        def send() -> bool:
            for _ in range(20):
                sent.append(tick(float(len(sent)), raw_deg=[draw.random() for _ in range(3)]))
                recorder.tick(sent[-1])
            return recorder.dropped > 0

        wait_until(send, "the disk is never full")
        message = recorder.close()
        assert message is not None
        assert f"cannot write {tmp_path / 'log.mcap'}, which ends early: File too large; " in message
        if size == 100:
            assert readable(tmp_path / "log.mcap") == 0
        else:
            ticks = read_recording(tmp_path / "log.mcap").ticks
            assert 0 < len(ticks) < len(sent)
            assert ticks == sent[: len(ticks)]


class TestSlowWriter:
    """A writing process that falls behind or does not end."""

    def test_a_stopped_writer_drops_ticks_without_blocking(self, recorder: Recorder, writer: int) -> None:
        """Dropped ticks are counted, and recorded as an event once it continues."""
        os.kill(writer, signal.SIGSTOP)
        sent = 0
        while recorder.dropped < 50:
            recorder.tick(tick(float(sent)))
            sent += 1
            assert sent < 100_000
        os.kill(writer, signal.SIGCONT)
        accepted = False
        while not accepted:
            before = recorder.dropped
            recorder.tick(tick(float(sent)))
            sent += 1
            accepted = recorder.dropped == before
            time.sleep(0.01)
        message = recorder.close()
        assert message is not None
        assert message.endswith(f"{recorder.dropped} ticks and events were dropped (its writer was too slow)")
        assert recorder.path is not None
        recording = read_recording(recorder.path)
        assert recording.whole
        assert len(recording.ticks) == sent - recorder.dropped
        assert [event.kind for event in recording.events] == ["drops"]
        assert recording.events[0].text.startswith(f"{recorder.dropped} ticks and events")

    def test_drops_before_the_end_are_recorded_too(self, recorder: Recorder, writer: int) -> None:
        """Drops without a later tick are recorded on closing."""
        os.kill(writer, signal.SIGSTOP)
        while recorder.dropped < 3:
            recorder.tick(tick())
        os.kill(writer, signal.SIGCONT)
        recorder.close()
        assert recorder.path is not None
        assert [event.text[:2] for event in read_recording(recorder.path).events] == ["3 "]

    def test_closing_reports_a_writer_that_still_writes(self, recorder: Recorder, writer: int) -> None:
        """A second `close` waits for it."""
        os.kill(writer, signal.SIGSTOP)
        assert f"its writer (process {writer}) is still writing" in (recorder.close(timeout_s=0.1) or "")
        os.kill(writer, signal.SIGCONT)
        assert recorder.close(timeout_s=60) is None
        assert recorder.path is not None
        assert read_recording(recorder.path).whole


class TestCrashes:
    """Processes that are killed."""

    def test_killing_the_loop_loses_nothing(
        self, tmp_path: Path, loop: Callable[[int], tuple["subprocess.Popen[bytes]", int]]
    ) -> None:
        """The writer completes the file with every tick that was recorded."""
        process, writer = loop(100_000)
        wait_until(lambda: readable(tmp_path / "log.mcap"), "nothing was written")
        recorded = kill_and_count(process)
        assert stuck([writer]) == []
        recording = read_recording(tmp_path / "log.mcap")
        assert recording.whole
        assert recorded <= len(recording.ticks) <= recorded + 1
        assert [each.angle_deg for each in recording.ticks] == [[float(n)] for n in range(len(recording.ticks))]

    def test_killing_loop_and_writer_keeps_what_was_flushed(
        self, tmp_path: Path, loop: Callable[[int], tuple["subprocess.Popen[bytes]", int]]
    ) -> None:
        """Ticks are flushed by the writer's own clock, without waiting for a close."""
        process, writer = loop(300)
        assert process.stdout is not None
        process.stdout.readline()
        # With nothing more to come, and no end of the pipe: it must be the writer's own clock that brings them out.
        wait_until(lambda: readable(tmp_path / "log.mcap") == 300, "the last ticks are not written without a close")
        os.kill(writer, signal.SIGKILL)
        kill_and_count(process)
        recording = read_recording(tmp_path / "log.mcap")
        assert len(recording.ticks) == 300
        assert not recording.whole
        assert recording.lost == ""

    def test_the_writer_ignores_signals(self, recorder: Recorder, writer: int) -> None:
        """SIGINT, SIGTERM and SIGHUP do not end it before the recorder is closed."""
        assert recorder.path is not None
        wait_until(recorder.path.read_bytes, "nothing was written")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(writer, number)
        recorder.tick(tick())
        assert recorder.close() is None
        assert read_recording(recorder.path).ticks == [tick()]

    def test_recording_continues_without_its_writer(self, recorder: Recorder, writer: int) -> None:
        """Further ticks are dropped and counted; closing reports the reason."""
        recorder.tick(tick())
        assert recorder.path is not None
        wait_until(lambda: readable(recorder.path), "nothing was written")
        os.kill(writer, signal.SIGKILL)
        wait_until(lambda: recorder.tick(tick()) or recorder.dropped, "the loss of the writer is not seen")
        before = recorder.dropped
        for _ in range(100):
            recorder.tick(tick())
        assert recorder.dropped == before + 100
        message = recorder.close()
        assert message is not None
        assert "its writer was killed (signal 9)" in message
        assert "its writer was gone" in message
        assert "\n" not in message
        assert read_recording(recorder.path).ticks[0] == tick()


class TestPostMortem:
    """Recordings of the last seconds before a fault stop."""

    def test_it_holds_the_seconds_around_a_fault_stop(self, tmp_path: Path) -> None:
        """5 s before and 2 s after the first fault, with or without a recording."""
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

    def test_without_a_fault_stop_there_is_none(self, tmp_path: Path) -> None:
        """No file is made."""
        with Recorder(None, NAMES, post_mortem=tmp_path / "after.mcap") as recorder:
            recorder.tick(tick())
            recorder.event(Event(1.0, "end", "all done"))
            assert recorder.close() is None
        assert [*tmp_path.iterdir()] == []

    def test_an_unwritable_post_mortem_does_not_affect_the_recording(self, tmp_path: Path) -> None:
        """The error is reported on closing."""
        after = tmp_path / "after.mcap"
        with Recorder(tmp_path / "log.mcap", NAMES, post_mortem=after) as recorder:
            after.write_text("mine")
            recorder.event(Event(1.0, "refusal", "stale"))
            recorder.tick(tick())
            assert f"cannot write {after}, which ends early: File exists" in (recorder.close() or "")
        assert read_recording(tmp_path / "log.mcap").ticks == [tick()]
        assert after.read_text() == "mine"

    @pytest.mark.parametrize(("step_s", "size"), [(0.005, 500), (0.0, 50_000)])
    def test_memory_is_bounded_while_waiting(self, tmp_path: Path, step_s: float, size: int) -> None:
        """20,000 messages take less than 20 MB, also if time stands still."""
        post_mortem = PostMortem(tmp_path / "after.mcap", NAMES | {"wall_at_zero_ns": "0"}, keep_last_seconds=10.0)
        tracemalloc.start()
        for number in range(20_000):
            post_mortem.add(Message(TICK, number * step_s, bytes(size), False))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20e6
