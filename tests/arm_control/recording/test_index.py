"""Recordings opened through their index: any interval, in bounded memory, also of damaged files."""

import contextlib
import itertools
import random
import struct
import sys
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType, Writer
from recordings import NAMES, durations, foreign

from arm_control.recording import index as recording_index
from arm_control.recording.index import HEAD, KEPT_BYTES, IndexedRecording
from arm_control.recording.reading import read_recording
from arm_control.recording.recorder import Recorder
from arm_control.recording.recovery import recover
from arm_control.recording.schema import EVENT, TICK, Event, Tick
from arm_control.recording.writer import RecordingFile

CHUNK, DATA_END = b"\x06", b"\x0f"
ZERO_NS = 10**18  # log time of 0 s


def tick(number: int, period_s: float = 0.01) -> Tick:
    """A tick of three joints at 100 s and so many periods, with its number as an angle."""
    angles = [float(number), 20.0, 30.0]
    return Tick(time_s=100.0 + number * period_s, phase="run", angle_deg=angles, band="pass", **durations(1.0))


def write(path: Path, rows: Sequence[Tick | Event], *, each: int = 20) -> bytes:
    """A whole recording with so many rows in a chunk, and log times as the recorder gives them."""
    stream = BytesIO()
    file = RecordingFile(stream)
    file.add_metadata(NAMES)
    for number, row in enumerate(rows):
        kind = TICK if isinstance(row, Tick) else EVENT
        file.add(kind, ZERO_NS + round(1e9 * row.time_s), msgspec.json.encode(row))
        if number % each == each - 1:
            file.flush()
    file.finish()
    path.write_bytes(stream.getvalue())
    return stream.getvalue()


def chunks(data: bytes | bytearray) -> list[tuple[int, int]]:
    """Where the chunks are in a file, with their heads, and how long."""
    at, found = 8, []
    while at + HEAD.size <= len(data):
        code, length = HEAD.unpack_from(data, at)
        if code == CHUNK[0]:
            found.append((at, HEAD.size + length))
        at += HEAD.size + length
    return found


def opened(path: Path) -> tuple[list[Tick], list[Event], str]:
    """All that is in a recording."""
    recording = IndexedRecording(path)
    try:
        ticks = recording.ticks(0.0, 1e9)
        return ticks, recording.events, recording.lost
    finally:
        recording.close()


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten minutes at 100 Hz."""
    path = tmp_path_factory.mktemp("long") / "long.mcap"
    write(path, [tick(number) for number in range(60_000)])
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some seconds, with events among the ticks and a gap."""
    path = tmp_path_factory.mktemp("whole") / "whole.mcap"
    numbers = [*range(150), *range(400, 550)]
    rows: list[Tick | Event] = [tick(number) for number in numbers]
    rows[60:60] = [Event(rows[59].time_s, "goal", "goal 1")]
    rows[200:200] = [Event(rows[199].time_s, "refusal", "lost: a cable")]
    write(path, rows)
    return path


def boundaries(data: bytes) -> set[int]:
    """Where records end, and where nothing is missing but the index."""
    found: set[int] = set()
    at = 8
    while at + HEAD.size <= len(data):
        code, length = HEAD.unpack_from(data, at)
        if code == DATA_END[0]:
            return found | {*range(at + HEAD.size + length, len(data) + 1)}
        at += HEAD.size + length
        found.add(at)
    return found


class TestIntervals:
    """Ticks of an interval."""

    def test_it_equals_reading_the_whole_file(self, tmp_path: Path) -> None:
        """Ticks and events are those of `read_recording`."""
        rows: list[Tick | Event] = [tick(number) for number in range(300)]
        rows[150:150] = [Event(101.5, "goal", "goal 1")]
        with Recorder(tmp_path / "log.mcap", NAMES) as recorder:
            for row in rows:
                recorder.tick(row) if isinstance(row, Tick) else recorder.event(row)
        known = read_recording(tmp_path / "log.mcap")
        assert len(known.ticks) == 300
        assert opened(tmp_path / "log.mcap") == (known.ticks, known.events, "")

    @given(start_s=st.floats(99.0, 107.0), length_s=st.floats(0.0, 8.0))
    def test_any_interval(self, whole: Path, start_s: float, length_s: float) -> None:
        """Any start and length give exactly the ticks within, also across a gap."""
        known = read_recording(whole).ticks
        recording = IndexedRecording(whole)
        found = recording.ticks(start_s, start_s + length_s)
        assert found == [tick for tick in known if start_s <= tick.time_s <= start_s + length_s]
        recording.close()

    def test_both_ends_are_included(self, whole: Path) -> None:
        """An interval from one tick's time to another's includes both."""
        recording = IndexedRecording(whole)
        first, last = tick(39), tick(61)  # the last of a chunk, and in the next but one
        assert recording.ticks(first.time_s, last.time_s) == [tick(number) for number in range(39, 62)]
        assert list(recording) == recording.ticks(0.0, 1e9)
        recording.close()

    @pytest.mark.parametrize("most", [1, 7, 100, 1999, 2000, 5000])
    def test_many_ticks_are_thinned_out_evenly(self, long: Path, most: int) -> None:
        """Between half and twice the requested number, over the whole interval."""
        recording = IndexedRecording(long)
        numbers = [tick.angle_deg[0] for tick in recording.ticks(100.0, 700.0, most) if tick.angle_deg]
        recording.close()
        assert most / 2 <= len(numbers) <= 2 * most
        steps = [after - before for before, after in itertools.pairwise(numbers)]
        assert all(0 < step <= 4 * 60_000 / most for step in steps)
        assert numbers[0] <= 60_000 / most
        assert numbers[-1] >= 60_000 - 4 * 60_000 / most

    def test_few_ticks_are_all_returned(self, long: Path) -> None:
        """Below the limit nothing is left out."""
        recording = IndexedRecording(long)
        assert recording.ticks(300.0, 310.0, 2000) == recording.ticks(300.0, 310.0)
        recording.close()

    def test_threads_read_correctly_side_by_side(self, long: Path) -> None:
        """Four threads read random intervals of one recording."""
        recording = IndexedRecording(long)
        wrong: list[float] = []

        def look(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(60):
                first = chance.randrange(59_000)
                found = recording.ticks(99.9999 + first * 0.01, 100.0001 + (first + 50) * 0.01)
                if [tick.angle_deg[0] for tick in found if tick.angle_deg] != [
                    float(first + step) for step in range(51)
                ]:
                    wrong.append(first)

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(before)
            recording.close()
        assert not wrong


class Counted:
    """A file that counts what is read of it."""

    def __init__(self, file: Any) -> None:
        self._file, self.bytes = file, 0

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        self.bytes += len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class TestBounds:
    """Memory and bytes that are read."""

    def test_damage_does_not_load_all_ticks(self, long: Path, tmp_path: Path) -> None:
        """A damaged chunk still allows thinning out."""
        data = bytearray(long.read_bytes())
        found = chunks(data)
        at, length = found[len(found) // 2]
        data[at + length // 2] ^= 255
        (tmp_path / "damaged.mcap").write_bytes(data)
        recording = IndexedRecording(tmp_path / "damaged.mcap")
        assert 500 <= len(recording.ticks(0.0, 1e9, 1000)) <= 2000
        recording.close()

    @pytest.mark.parametrize("index", [True, False])
    def test_a_long_recording_is_never_read_whole(
        self, long: Path, tmp_path: Path, index: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Opening reads the index alone, and 10 s of 600 s less than 1/40 of the file."""
        data = long.read_bytes()
        path = long if index else tmp_path / "cut.mcap"
        if not index:
            path.write_bytes(data[: sum(chunks(data)[-1])])
        files: list[Counted] = []
        real = recording_index.open_regular

        def counting(path: Path) -> Any:
            files.append(Counted(real(path)))
            return files[-1]

        monkeypatch.setattr(recording_index, "open_regular", counting)
        monkeypatch.setattr(IndexedRecording, "_is_locked", lambda self: False)
        recording = IndexedRecording(path)
        assert recording.end_s - recording.start_s == pytest.approx(599.99)
        (file,) = files
        at_open, summary = file.bytes, len(data) - struct.unpack_from("<Q", data, len(data) - 28)[0]
        assert at_open < (summary + 20_000 if index else len(data) / 4)
        recording.ticks(400.0, 410.0)
        assert file.bytes - at_open < len(data) / 40  # 10 s of 600 s
        recording.close()

    def test_the_cache_is_bounded(self, long: Path) -> None:
        """Decoded chunks of ten minutes stay within `KEPT_BYTES`."""
        recording = IndexedRecording(long)
        sizes = []
        for start_s in range(100, 700, 10):
            recording.ticks(start_s, start_s + 10)
            sizes.append(recording._kept_bytes)
            assert sizes[-1] == sum(size for _, size in recording._kept.values())
        assert KEPT_BYTES / 2 < max(sizes) <= KEPT_BYTES  # it was full
        recording.close()

    @pytest.mark.parametrize("length", [1 << 24, 1 << 40, (1 << 64) - 1])
    @pytest.mark.parametrize("place", ["chunk", "footer", "index"])
    def test_hostile_lengths_allocate_no_memory(self, whole: Path, tmp_path: Path, length: int, place: str) -> None:
        """Lengths up to 2^64 - 1 take less than 8 MiB, and lose one chunk at most."""
        data = bytearray(whole.read_bytes())
        summary = struct.unpack_from("<Q", data, len(data) - 28)[0]
        if place == "chunk":
            struct.pack_into("<Q", data, chunks(data)[3][0] + 1, length)
        elif place == "footer":
            struct.pack_into("<Q", data, len(data) - 28, length)
        else:
            at = summary
            while data[at] != 0x08:  # to the first index of a chunk
                at += HEAD.size + HEAD.unpack_from(data, at)[1]
            struct.pack_into("<QQ", data, at + HEAD.size + 16, length, min(length, 1 << 30))  # its offset and length
            struct.pack_into("<I", data, len(data) - 12, 0)  # no checksum of the index
        path = tmp_path / "hostile.mcap"
        path.write_bytes(data)
        opened(whole)
        tracemalloc.start()
        try:
            ticks, _, _ = opened(path)
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
        assert len(ticks) >= 300 - 20


class TestDamage:
    """Damaged and truncated files."""

    def test_a_file_without_its_index_gives_the_same(self, whole: Path, tmp_path: Path) -> None:
        """Chunk headers are read in place of the index."""
        data = whole.read_bytes()
        at, length = chunks(data)[-1]
        cut = tmp_path / "cut.mcap"
        cut.write_bytes(data[: at + length])
        ticks, events, _ = opened(whole)
        assert opened(cut) == (ticks, events, "")
        assert [event.kind for event in events] == ["goal", "refusal"]

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(part=st.floats(0.0, 1.0))
    def test_a_truncated_file_opens_up_to_its_end(self, whole: Path, tmp_path: Path, part: float) -> None:
        """All whole chunks before any cut are read, and what is missing is reported."""
        data = whole.read_bytes()
        size = int(part * len(data))
        cut = tmp_path / "cut.mcap"
        cut.write_bytes(data[:size])
        kept = [place for place in chunks(data) if sum(place) <= size]
        if not kept:
            with pytest.raises(ValueError, match=r"cut\.mcap") as refused:
                opened(cut)
            assert "\n" not in str(refused.value)
            return
        ticks, _, lost = opened(cut)
        known = opened(whole)[0]
        assert ticks == known[: len(ticks)]
        assert len(ticks) >= min(300, 20 * len(kept) - 2)  # two events among them
        assert lost or size in boundaries(data), "what is cut within a record is said to be"

    @pytest.mark.slow
    def test_flipped_bits_lose_whole_chunks_only(self, whole: Path, tmp_path: Path) -> None:
        """With 600 random damages no tick changes, or the file is rejected in one line."""
        data, known = whole.read_bytes(), opened(whole)[0]
        chance, path = random.Random(0), tmp_path / "flipped.mcap"
        seen_lost = 0
        for cut in (len(data), sum(chunks(data)[-1])):  # with an index and without
            for _ in range(300):
                flipped = bytearray(data[:cut])
                for _ in range(chance.choice((1, 1, 3, 30))):
                    flipped[chance.randrange(cut)] ^= 1 << chance.randrange(8)
                path.write_bytes(flipped)
                try:
                    ticks, _, lost = opened(path)
                except ValueError as refused:
                    assert "flipped.mcap" in str(refused)
                    assert "\n" not in str(refused)
                    continue
                seen_lost += bool(lost)
                assert ticks
                assert {tick.time_s for tick in ticks} <= {tick.time_s for tick in known}
        assert seen_lost > 100

    def test_a_damaged_chunk_is_left_out_and_counted_once(self, whole: Path, tmp_path: Path) -> None:
        """Its bytes are counted once for three readings."""
        data = bytearray(whole.read_bytes())
        at, length = chunks(data)[2]
        data[at + length // 2] ^= 255
        path = tmp_path / "damaged.mcap"
        path.write_bytes(data)
        recording = IndexedRecording(path)
        known = read_recording(whole).ticks
        for _ in range(3):
            found = recording.ticks(0.0, 1e9)
            assert found == known[:40] + known[60:]
            recording._kept.clear()
        assert recording.lost == f"{length} bytes (a damaged chunk)"
        recording.close()

    @pytest.mark.parametrize("byte", [0, 3, 5, 7])
    @pytest.mark.parametrize("end", [False, True])
    def test_wrong_chunk_times_hide_no_tick_without_an_index(self, tmp_path: Path, byte: int, end: bool) -> None:
        """Any flipped byte of a chunk's start or end time leaves all 400 ticks."""
        path = tmp_path / "x.mcap"
        data = bytearray(write(path, [tick(number) for number in range(400)]))
        heads = chunks(data)
        at, _ = heads[len(heads) // 2]
        data[at + HEAD.size + 8 * end + byte] ^= 0x80
        path.write_bytes(data[: heads[-1][0] + heads[-1][1]])  # without the index
        ticks, _, _ = opened(path)
        assert [row.angle_deg[0] for row in ticks if row.angle_deg] == list(map(float, range(400)))

    def test_a_malformed_tick_is_left_out_and_reported_once(self, tmp_path: Path) -> None:
        """The reason appears once for three readings."""
        rows = [tick(number) for number in range(60)]
        rows[30] = msgspec.structs.replace(rows[30], angle_deg=[1.0])
        write(tmp_path / "odd.mcap", rows)
        recording = IndexedRecording(tmp_path / "odd.mcap")
        for _ in range(3):
            assert recording.ticks(0.0, 1e9) == rows[:30] + rows[31:]
            recording._kept.clear()
        assert "angle_deg has 1 numbers for 3 joints" in recording.lost
        assert "more" not in recording.lost
        recording.close()

    def test_a_malformed_first_tick_does_not_shift_the_times(self, tmp_path: Path) -> None:
        """Every other tick is found at its own time."""
        rows = [tick(number) for number in range(60)]
        write(tmp_path / "odd.mcap", [msgspec.structs.replace(rows[0], angle_deg=[1.0]), *rows[1:]])
        recording = IndexedRecording(tmp_path / "odd.mcap")
        for number, row in enumerate(rows[1:], 1):
            assert recording.ticks(row.time_s, row.time_s) == [row], number
        recording.close()

    def test_a_huge_length_within_a_chunk_is_damage(self, whole: Path, tmp_path: Path) -> None:
        """2^64 - 1 bytes of records lose that chunk only."""
        data = bytearray(whole.read_bytes())
        at, length = chunks(data)[3]
        place = at + HEAD.size + 8 + 8 + 8 + 4 + 4 + len("zstd")  # times, size, checksum, compression
        assert struct.unpack_from("<Q", data, place) == (length - (place + 8 - at),)
        struct.pack_into("<Q", data, place, (1 << 64) - 1)
        path = tmp_path / "odd.mcap"
        path.write_bytes(data)
        ticks, _, lost = opened(path)
        assert 280 <= len(ticks) < 300
        assert lost.startswith(f"{length} bytes")
        assert read_recording(path).ticks == ticks

    def test_trailing_zeros_are_damage(self, whole: Path, tmp_path: Path) -> None:
        """16 GiB of zeros, as after a crash, are reported without being read as records."""
        data = whole.read_bytes()
        end = sum(chunks(data)[-1])
        path = tmp_path / "zeros.mcap"
        with path.open("wb") as file:
            file.write(data[:end])
            file.truncate(end + (1 << 34))  # 2 billion empty records, if they were some
        ticks, _, lost = opened(path)
        assert len(ticks) == 300
        assert lost.startswith(f"{1 << 34} bytes")

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda path: path.write_bytes(b""), "is no MCAP file"),
            (lambda path: path.write_text("hello, world\n" * 9), "is no MCAP file"),
            (lambda path: path.mkdir(), "Is a directory"),
            (lambda path: None, "no recording"),
            (lambda path: path.write_bytes(foreign(b"{}", "other.Thing")), "is no recording of arm-control"),
            (lambda path: write(path, []), "holds no tick"),
            (lambda path: write(path, [Event(1.0, "end", "parked")]), "holds no tick"),
        ],
    )
    def test_other_files_are_rejected_in_one_line(self, tmp_path: Path, make: Any, message: str) -> None:
        """Empty, other and missing files, folders, and recordings without ticks."""
        path = tmp_path / "thing.mcap"
        make(path)
        with pytest.raises(ValueError, match=message) as refused:
            IndexedRecording(path)
        assert "thing.mcap" in str(refused.value)
        assert "\n" not in str(refused.value)


ORDERS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "as recorded": lambda messages: messages,
    "reversed": lambda messages: messages[::-1],
    "shuffled": lambda messages: random.Random(0).sample(messages, len(messages)),
}
WRITERS: dict[str, dict[str, Any]] = {
    "uncompressed chunks": {"compression": CompressionType.NONE, "chunk_size": 4096},
    "lz4 chunks": {"compression": CompressionType.LZ4, "chunk_size": 4096},
    "one large chunk": {"compression": CompressionType.ZSTD, "chunk_size": 10 << 20},
    "no chunks": {"use_chunking": False},
    "no chunks, no index": {"use_chunking": False, "index_types": IndexType.NONE, "use_statistics": False},
    "no index": {"index_types": IndexType.NONE, "chunk_size": 4096},
    "chunks without indexes of messages": {"index_types": IndexType.CHUNK | IndexType.METADATA, "chunk_size": 4096},
    "an index without metadata": {"index_types": IndexType.CHUNK | IndexType.MESSAGE, "chunk_size": 4096},
    "no summary": {
        "index_types": IndexType.NONE,
        "use_statistics": False,
        "use_summary_offsets": False,
        "repeat_channels": False,
        "repeat_schemas": False,
    },
}


def rewritten(source: Path, path: Path, order: str, **settings: Any) -> tuple[list[Tick], list[Event]]:
    """Rewrite a recording as another program may, with a further channel; returns what mcap's reader finds in it."""
    reader = make_reader(BytesIO(source.read_bytes()))
    summary = reader.get_summary()
    assert summary is not None
    with path.open("wb") as file:
        writer = Writer(file, **settings)
        writer.start(library="another")
        other = writer.register_channel("/other", "cdr", writer.register_schema("other/Thing", "ros2msg", b""))
        channels = {}
        for channel in summary.channels.values():
            schema = summary.schemas[channel.schema_id]
            number = writer.register_schema(schema.name, schema.encoding, schema.data)
            channels[channel.id] = writer.register_channel(f"/robot{channel.topic}", channel.message_encoding, number)
        for _, channel, message in ORDERS[order](list(reader.iter_messages())):
            writer.add_message(channels[channel.id], message.log_time, message.data, message.publish_time)
            writer.add_message(other, message.log_time, b"\0\1\0\0", message.log_time)
        for metadata in reader.iter_metadata():
            writer.add_metadata(metadata.name, metadata.metadata)
        writer.finish()  # type: ignore[no-untyped-call]
    found: dict[str, list[Any]] = {"/robot/tick": [], "/robot/event": [], "/other": []}
    with path.open("rb") as file:
        for _, channel, message in make_reader(file).iter_messages(log_time_order=True):
            found[channel.topic].append(message.data)
    ticks = [msgspec.json.decode(data, type=Tick) for data in found["/robot/tick"]]
    return ticks, [msgspec.json.decode(data, type=Event) for data in found["/robot/event"]]


class TestFilesOfOtherWriters:
    """Files of other writers give what mcap's own reader finds, ordered by log time."""

    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("settings", WRITERS.values(), ids=WRITERS)
    def test_all_ticks_and_events_are_read_by_log_time(
        self, whole: Path, tmp_path: Path, settings: dict[str, Any], order: str
    ) -> None:
        """By index, in intervals, at once and after recovery; the time line is that of the ticks."""
        path, recovered = tmp_path / "log.mcap", tmp_path / "recovered.mcap"
        ticks, events = rewritten(whole, path, order, **settings)
        assert len(ticks) == 300
        with contextlib.closing(IndexedRecording(path)) as recording:
            assert (recording.start_s, recording.end_s) == (ticks[0].time_s, ticks[-1].time_s)
            assert list(recording) == recording.ticks(0.0, 1e9) == ticks
            assert recording.ticks(101.0, 101.2) == [tick for tick in ticks if 101.0 <= tick.time_s <= 101.2]
            assert recording.events == events
            assert recording.metadata == NAMES
            assert recording.lost == ""
        assert recover(path, recovered).lost == ""
        for file in (path, recovered):
            read = read_recording(file)
            assert (read.ticks, read.events, read.metadata, read.lost) == (ticks, events, NAMES, "")
        with recovered.open("rb") as file:
            times = [message.log_time for _, _, message in make_reader(file).iter_messages(log_time_order=False)]
        assert times == sorted(times)

    def test_a_file_without_chunks_is_decoded_where_it_is_read(self, tmp_path: Path) -> None:
        """Its messages are read in runs of 64 kB."""
        source, path = tmp_path / "source.mcap", tmp_path / "log.mcap"
        write(source, [tick(number) for number in range(6000)])
        rewritten(source, path, "as recorded", use_chunking=False)
        with contextlib.closing(IndexedRecording(path)) as recording:
            assert recording.end_s - recording.start_s == pytest.approx(59.99)
            assert len(recording._kept) <= 3
            assert recording.ticks(130.0, 135.0) == [tick(number) for number in range(3000, 3501)]
            assert len(recording._kept) <= 7

    def test_a_truncated_file_without_chunks(self, whole: Path, tmp_path: Path) -> None:
        """Whole messages before the cut are read, the rest is counted as lost."""
        path = tmp_path / "log.mcap"
        ticks, _ = rewritten(whole, path, "as recorded", use_chunking=False)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        found, _, lost = opened(path)
        assert found == ticks[: len(found)]
        assert 100 < len(found) < 200
        assert "the file ends within a record" in lost

    @pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
    def test_a_damaged_lz4_chunk_is_left_out(self, whole: Path, tmp_path: Path, at: float) -> None:
        """The ticks before and after it are read."""
        path = tmp_path / "log.mcap"
        ticks, _ = rewritten(whole, path, "as recorded", compression=CompressionType.LZ4, chunk_size=4096)
        data = bytearray(path.read_bytes())
        place, length = chunks(data)[int(at * len(chunks(data)))]
        data[place + length // 2] ^= 255
        path.write_bytes(data)
        found, _, lost = opened(path)
        assert 200 < len(found) < 300
        assert {tick.time_s for tick in found} < {tick.time_s for tick in ticks}
        assert lost == f"{length} bytes (a damaged chunk)"
