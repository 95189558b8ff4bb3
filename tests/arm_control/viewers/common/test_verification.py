"""Verification: recordings of the simulated arm are re-simulated bit for bit, or the first difference is reported."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mcap.reader import make_reader
from other_arms import KUKA

from arm_control.cli import main
from arm_control.recording.reading import Recording, read_recording
from arm_control.recording.schema import POST_MORTEM, TICK, Tick
from arm_control.recording.writer import RecordingFile
from arm_control.viewers.common.verification import verify


@pytest.fixture(scope="module")
def record(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def recorded(*flags: str, source: Path = tiny_policy, seconds: float = 1.0) -> Path:
        path = tmp_path_factory.mktemp("recorded") / "run.mcap"
        words = ["run", str(source), "--pace", "fast", "--record", str(path), *flags]
        if source == tiny_policy:
            words += ["--random", "2", "--seconds-per-goal", str(seconds)]
        assert main(words) == 0
        return path

    return recorded


@pytest.fixture(scope="module")
def plain(record: Callable[..., Path]) -> Path:
    return record()


def rewritten(recording: Recording, path: Path, ticks: list[Tick], **metadata: str) -> Path:
    """A whole recording of these ticks."""
    with path.open("wb") as stream:
        file = RecordingFile(stream)
        for tick in ticks:
            file.add(TICK, round(1e9 * tick.time_s), msgspec.json.encode(tick))
        file.add_metadata(recording.metadata | metadata)
        file.finish()
    return path


class TestExactRecordings:
    """Recordings that are re-simulated bit for bit."""

    def test_a_recording_of_the_simulated_arm_is_verified(self, plain: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """All its ticks are equal, and the exit code is 0."""
        ticks = len(read_recording(plain).ticks)
        assert verify(plain) == (ticks, "")
        assert main(["replay", str(plain), "--verify"]) == 0
        assert capfd.readouterr() == (f"{plain}: {ticks} ticks, all readings identical bit for bit\n", "")

    def test_the_file_ending_may_be_in_capitals(self, plain: Path, tmp_path: Path) -> None:
        """`.MCAP` is a recording too."""
        path = tmp_path / "RUN.MCAP"
        path.write_bytes(plain.read_bytes())
        assert main(["replay", str(path), "--verify"]) == 0

    @pytest.mark.parametrize(
        "flags", [("--imperfections", "xl430"), ("--rate", "100"), ("--shadow",), ("--max-speed", "30")], ids=" ".join
    )
    def test_recordings_with_other_settings_are_verified(
        self, record: Callable[..., Path], flags: tuple[str, ...]
    ) -> None:
        """Imperfect arms, other rates, dry runs and lower speed limits."""
        path = record(*flags)
        assert verify(path) == (len(read_recording(path).ticks), "")

    def test_the_recording_of_a_repeated_recording_is_verified(self, record: Callable[..., Path], plain: Path) -> None:
        """Recorded targets are re-simulated as a policy's are."""
        path = record(source=plain)
        assert verify(path) == (len(read_recording(path).ticks), "")

    def test_a_truncated_recording_is_verified_up_to_its_end(
        self, record: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """With a note."""
        whole, cut = record(seconds=10.0), tmp_path / "cut.mcap"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 5])
        ticks, missing = verify(cut)
        assert 0 < ticks < len(read_recording(whole).ticks)
        assert missing
        assert main(["replay", str(cut), "--verify"]) == 0
        assert capfd.readouterr().out.endswith(f"; missing: {missing}\n")


class TestDifferences:
    """Recordings that differ from their re-simulation."""

    @pytest.mark.parametrize("place", [0, 17, -1])
    def test_a_changed_reading_is_the_first_difference(self, plain: Path, tmp_path: Path, place: int) -> None:
        """The line has its time and the size of the difference."""
        recording = read_recording(plain)
        ticks = recording.ticks
        assert ticks[place].angle_deg is not None
        angles = [*ticks[place].angle_deg]
        angles[1] += 0.25
        ticks[place] = msgspec.structs.replace(ticks[place], angle_deg=angles)
        number, time_s = place % len(ticks) + 1, ticks[place].time_s - ticks[0].time_s
        path = rewritten(recording, tmp_path / "changed.mcap", ticks)
        with pytest.raises(
            RuntimeError, match=rf"tick {number}, at {time_s:.3f} s, .*: shoulder .*, 0\.25 degrees apart$"
        ):
            verify(path)

    def test_the_smallest_change_of_a_speed_is_detected(self, plain: Path, tmp_path: Path) -> None:
        """One unit in the last place."""
        recording = read_recording(plain)
        tick = recording.ticks[20]
        assert tick.speed_deg_s is not None
        speeds = [math.nextafter(tick.speed_deg_s[0], math.inf), *tick.speed_deg_s[1:]]
        recording.ticks[20] = msgspec.structs.replace(tick, speed_deg_s=speeds)
        with pytest.raises(RuntimeError, match=r"tick 21, .*base_yaw's speed .*e-\d+ degrees/s apart$"):
            verify(rewritten(recording, tmp_path / "changed.mcap", recording.ticks))

    def test_a_changed_target_shows_in_the_next_reading(self, plain: Path, tmp_path: Path) -> None:
        """That reading is the first difference."""
        recording = read_recording(plain)
        tick = recording.ticks[20]
        assert tick.target_deg is not None
        recording.ticks[20] = msgspec.structs.replace(tick, target_deg=[tick.target_deg[0] + 1.0, *tick.target_deg[1:]])
        with pytest.raises(RuntimeError, match=r"tick 22, .*base_yaw"):
            verify(rewritten(recording, tmp_path / "changed.mcap", recording.ticks))

    def test_other_imperfections_differ(self, record: Callable[..., Path], tmp_path: Path) -> None:
        """The metadata names others than the run had."""
        recording = read_recording(record("--imperfections", "xl430"))
        path = rewritten(recording, tmp_path / "changed.mcap", recording.ticks, imperfections="ideal")
        with pytest.raises(RuntimeError, match="is the first that differs"):
            verify(path)

    def test_missing_ticks_are_named_as_the_likely_cause(self, record: Callable[..., Path], tmp_path: Path) -> None:
        """A damaged chunk makes later readings differ."""
        whole = record(seconds=10.0)
        with whole.open("rb") as stream:
            summary = make_reader(stream).get_summary()
        assert summary is not None
        data, at = whole.read_bytes(), summary.chunk_indexes[0].chunk_start_offset + 1000
        path = tmp_path / "damaged.mcap"
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        with pytest.raises(RuntimeError, match=r"differs .*; the recording is incomplete \(.+\)"):
            verify(path)


class TestBadInput:
    """Recordings that cannot be re-simulated."""

    @pytest.mark.parametrize(
        ("metadata", "words", "message"),
        [
            ({"driver": "dynamixel"}, (), "recorded on the driver dynamixel: only a simulated arm can be re-simulated"),
            ({POST_MORTEM: "true"}, (), "is a post-mortem, which begins in mid-motion"),
            ({"start_deg": "[1, 2]"}, (), "start_deg: expected a pose within the arm's limits, got '[1, 2]'"),
            ({"start_deg": "[0, 0, 91]"}, (), "start_deg: expected a pose within the arm's limits"),
            ({"start_deg": "nowhere"}, (), "start_deg: expected a pose within the arm's limits"),
            ({}, ("--arm", KUKA), "is of the arm arm3: expected that in"),
            ({}, ("--goals", "2"), "--verify shows nothing: expected no --goals"),
            ({}, ("--viewer", "web", "--save", "x.html"), "expected no --viewer, --save"),
            ({}, ("again.mcap",), "--verify: expected one recording"),
        ],
    )
    def test_other_recordings_are_rejected_in_one_line(
        self,
        plain: Path,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        metadata: dict[str, Any],
        words: tuple[str, ...],
        message: str,
    ) -> None:
        """Recordings of real arms, post-mortems, invalid start poses, other arms, and flags of other modes."""
        recording = read_recording(plain)
        path = rewritten(recording, tmp_path / "run.mcap", recording.ticks, **metadata)
        assert main(["replay", str(path), *words, "--verify"]) == 2
        out, error = capfd.readouterr()
        assert out == ""
        assert message in error
        assert error.count("\n") == 1
