"""Recovering the readable part of a recording."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

import msgspec
import pytest
from mcap.reader import make_reader
from recordings import NAMES, WHOLE, foreign, tick

from arm_control.cli import main
from arm_control.recording.reading import read_recording
from arm_control.recording.recovery import recover
from arm_control.recording.schema import TICK
from arm_control.recording.writer import RecordingFile


class TestRecovery:
    """`arm-control recover`."""

    def test_a_truncated_recording_becomes_a_whole_one(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """All readable ticks are in the new file, which is never overwritten."""
        cut = WHOLE[: len(WHOLE) // 2]
        path, out = tmp_path / "log.mcap", tmp_path / "log-recovered.mcap"
        path.write_bytes(cut)
        read = read_recording(path)
        assert 0 < len(read.ticks) < 20
        assert main(["recover", str(path)]) == 0
        printed = capfd.readouterr().out
        assert re.fullmatch(
            rf"{out}: {len(read.ticks)} ticks, 0 events; unreadable: \d+ bytes \(the file ends within a record.*\)\n",
            printed,
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
    def test_a_file_without_ticks_is_an_error(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], data: bytes | None
    ) -> None:
        """One line and exit code 2; no file is made."""
        path = tmp_path / "log.mcap"
        if data is not None:
            path.write_bytes(data)
        assert main(["recover", str(path)]) == 2
        printed = capfd.readouterr().err
        assert printed.startswith("arm-control: error: ")
        assert printed.count("\n") == 1
        assert str(path) in printed
        assert [*tmp_path.iterdir()] == ([] if data is None else [path])

    def test_malformed_ticks_are_left_out(self, tmp_path: Path) -> None:
        """Their bytes are counted as lost."""
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

    def test_a_full_disk_leaves_no_partial_file(
        self, tmp_path: Path, files_at_most: Callable[[int], AbstractContextManager[None]]
    ) -> None:
        """Files are limited to 1 kB here."""
        (tmp_path / "log.mcap").write_bytes(WHOLE)
        with files_at_most(1000), pytest.raises(OSError, match="cannot write"):
            recover(tmp_path / "log.mcap", tmp_path / "out.mcap")
        assert [path.name for path in tmp_path.iterdir()] == ["log.mcap"]
