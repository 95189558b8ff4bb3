"""Reading recordings after crashes and damage."""

import os
import re
import struct
import tracemalloc
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.records import Chunk
from recordings import FLIPPED, WHOLE, foreign, tick, write

from arm_control.recording.reading import read_recording
from arm_control.recording.recovery import recover
from arm_control.recording.scan import CHUNK_MARK, MARK_OFFSET
from arm_control.recording.schema import EVENT, Tick


def is_part(ticks: list[Tick], whole: list[Tick]) -> bool:
    """Return True if the ticks are among those of the whole, in the same order."""
    rest = iter(whole)
    return all(tick in rest for tick in ticks)


JSON = msgspec.json.encode(tick()).decode()


class TestDamage:
    """Truncated and damaged recordings."""

    @pytest.mark.slow
    def test_a_truncated_recording_is_read_up_to_its_end(self, tmp_path: Path) -> None:
        """Cut at each byte, the whole chunks before the cut are read."""
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

    def test_damage_never_changes_a_tick(self, tmp_path: Path) -> None:
        """With random bytes changed, ticks are read as written or left out, also by recovery."""
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

    def test_chunks_after_damage_are_read(self, tmp_path: Path) -> None:
        """One of five chunks is lost, wherever the damage is."""
        for place in (len(WHOLE) // 3, WHOLE.index(b"zstd") + 20):  # somewhere, and in the first chunk with its schemas
            data = bytearray(WHOLE)
            data[place] ^= 1
            (tmp_path / "log.mcap").write_bytes(data)
            recording = read_recording(tmp_path / "log.mcap")
            assert len(recording.ticks) == 16
            assert recording.events
            assert not recording.whole
            assert "damaged chunk" in recording.lost

    @pytest.mark.parametrize("hole", [1, 9, 200])
    def test_reading_resumes_at_the_next_intact_chunk(self, tmp_path: Path, hole: int) -> None:
        """An overwritten chunk header loses its own four ticks only."""
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

    def test_bytes_after_the_end_are_not_read(self, tmp_path: Path) -> None:
        """A trailing byte makes the file incomplete and changes nothing else."""
        (tmp_path / "log.mcap").write_bytes(WHOLE + b"x")
        assert not read_recording(tmp_path / "log.mcap").whole
        assert read_recording(tmp_path / "log.mcap").ticks == FLIPPED

    def test_a_recording_may_have_no_tick(self, tmp_path: Path) -> None:
        """It is whole, and its list of ticks is empty."""
        (tmp_path / "log.mcap").write_bytes(write([]))
        assert read_recording(tmp_path / "log.mcap").ticks == []
        assert read_recording(tmp_path / "log.mcap").whole


class TestInvalidContent:
    """Files that are no recordings."""

    @settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.binary(max_size=200)
        | st.lists(st.tuples(st.sampled_from([*range(1, 16), 200]), st.binary(max_size=60), st.integers(-3, 3))).map(
            lambda records: b"".join(
                struct.pack("<BQ", code, max(0, len(body) + wrong)) + body for code, body, wrong in records
            )
        )
    )
    def test_arbitrary_bytes_are_rejected(self, tmp_path: Path, data: bytes) -> None:
        """Random bytes and records raise nothing but a ValueError that names the file."""
        for start in (b"", WHOLE[:8], WHOLE[: WHOLE.index(b"zstd") - 41]):
            (tmp_path / "log.mcap").write_bytes(start + data)
            with pytest.raises(ValueError, match=r"log\.mcap"):
                read_recording(tmp_path / "log.mcap")

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "is no MCAP file: it is empty"),
            (b"no recording at all", "is no MCAP file"),
            (foreign(JSON.encode(), name="foxglove.JointStates"), "is no recording of arm-control"),
            (foreign(JSON[:-1].encode()), "tick 1 is invalid: Input data was truncated"),
            (foreign(b"\xff"), "is invalid"),
            (foreign(b"[" * 30_000), "nested too deeply"),
            (foreign(b'{"x": ' + b"[" * 30_000), "nested too deeply"),
            (foreign(JSON.replace("1.5", "NaN").encode()), "is invalid: JSON is malformed"),
            (foreign(JSON.replace("1.5", "null").encode()), r"Expected `float`, got `null` - at `\$.period_error_us`"),
            (foreign(JSON.replace("1.5", "1e999").encode()), "Number out of range"),
            (foreign(JSON.replace("10.1", "null").encode()), "is not finite"),
            (foreign(JSON.replace("10.1,", "").encode()), "target_deg has 2 numbers for 3 joints"),
            (foreign(JSON.replace("-0.2,", "").encode()), "goal_m has 2 numbers"),
            (foreign(JSON.replace('"time_s":1.0', '"time_s":-1').encode()), "time_s is -1"),
            (foreign(b"5"), "is invalid: Expected `object`"),
            (write([tick()], metadata={"joint_names": '["base"]'}), "names 1 joints, but its ticks have 3"),
            (write([tick()], metadata={"joint_names": "["}), "joint_names: expected a JSON list"),
        ],
    )
    def test_malformed_content_is_rejected_in_one_line(self, tmp_path: Path, data: bytes, message: str) -> None:
        """The line names the file, the tick and the field."""
        path = tmp_path / "log.mcap"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message) as raised:
            read_recording(path)
        assert "\n" not in str(raised.value)
        assert str(path) in str(raised.value)

    def test_only_regular_files_are_read(self, tmp_path: Path) -> None:
        """Folders, pipes and missing files are errors."""
        os.mkfifo(tmp_path / "pipe")
        for path, message in (
            (tmp_path, "Is a directory"),
            (tmp_path / "pipe", "not a regular file"),
            (tmp_path / "none", "no recording"),
        ):
            with pytest.raises(ValueError, match=message):
                read_recording(path)


def chunk(compressed: bytes, says: int) -> bytes:
    """A chunk record with this stated size of its content."""
    from mcap.data_stream import RecordBuilder

    builder = RecordBuilder()
    Chunk("zstd", compressed, 0, 0, 0, says).write(builder)
    return builder.end()


class TestBounds:
    """Time and memory of reading hostile files."""

    def test_the_search_for_chunks_ends(self, tmp_path: Path) -> None:
        """10,000 false chunk headers are rejected."""
        bad = b"\x06" + bytes(MARK_OFFSET - 1) + CHUNK_MARK + bytes(100)
        start = WHOLE[: WHOLE.index(b"zstd") - 41]
        (tmp_path / "log.mcap").write_bytes(start + b"\xff" * 9 + bad * 10_000)
        with pytest.raises(ValueError, match="holds nothing that can be read"):
            read_recording(tmp_path / "log.mcap")

    def test_memory_is_bounded(self, tmp_path: Path) -> None:
        """Compressed zeros and huge stated sizes take less than 150 MB."""
        start = WHOLE[: WHOLE.index(b"zstd") - 41]  # with the metadata
        zeros = zstandard.compress(bytes(64 << 20))
        text = b'{"time_s":1,"kind":"x","text":"' + b"a" * (10 << 20) + b'"}'
        message = struct.pack("<BQHIQQ", 5, 22 + len(text), EVENT, 0, 0, 0) + text
        wide = zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
        ).compressobj()
        wide_zeros = wide.compress(bytes(1 << 20)) + wide.flush()
        for name, data, expected_message in (
            ("says too much", chunk(zeros, 64 << 20), "a chunk of 67108864 bytes"),
            ("says far too much", chunk(zeros, 1 << 63), "a chunk of"),
            ("says too little", chunk(zeros, 1000), "a damaged chunk"),
            ("wants a wide window", chunk(wide_zeros, 1 << 20), "a damaged chunk"),
            (
                "many",
                chunk(zstandard.compress(message), len(message)) * 20,
                "event 1 is invalid: it has 104857.. bytes",
            ),
            ("long record", struct.pack("<BQ", 6, 1 << 62) + zeros, "its length is damaged"),
        ):
            path = tmp_path / f"{name}.mcap"
            path.write_bytes(start + data)
            tracemalloc.start()
            with pytest.raises(ValueError, match=expected_message):
                read_recording(path)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 150e6, name
