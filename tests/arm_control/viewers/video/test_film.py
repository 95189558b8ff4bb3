"""The video: frames, captions, and whole files."""

import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from recordings import durations

from arm_control.cli import main
from arm_control.evaluation.opening import open_controller
from arm_control.recording.schema import Event, Tick
from arm_control.viewers.common.live import roll_out
from arm_control.viewers.common.trajectory import TicksInMemory, Trajectory
from arm_control.viewers.video.film import CAPTION_HEIGHT, write_video
from envs.arm import Arm
from envs.scene import Scene

# imageio-ffmpeg leaves the closing of its pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

Frames = NDArray[np.uint8]
GOALS = 2
STEPS = 50  # of an episode


@pytest.fixture(scope="module")
def trajectory() -> Trajectory:
    return roll_out(open_controller("ik", 0), GOALS, 0)


@pytest.fixture(scope="module")
def short() -> Trajectory:
    """A trajectory of 0.2 s, for tests that do not look at the frames."""
    return cut(roll_out(open_controller("ik", 0), 1, 0), 7)


def cut(trajectory: Trajectory, ticks: int) -> Trajectory:
    """The first ticks of a trajectory."""
    kept = TicksInMemory(trajectory._ticks.ticks(0.0, math.inf)[:ticks])
    return Trajectory(trajectory.name, trajectory.arm, trajectory.period_s, kept, tolerance_m=trajectory.tolerance_m)


@pytest.fixture(scope="module")
def video(trajectory: Trajectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "out.mp4"
    assert write_video(trajectory, path) == GOALS * STEPS
    return path


@pytest.fixture(scope="module")
def frames(video: Path) -> Frames:
    return frames_of(video)


def frames_of(video: Path) -> Frames:
    """All frames, (frames, height, width, 3)."""
    reader = imageio_ffmpeg.read_frames(str(video))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in reader])


def green(frame: Frames) -> NDArray[np.bool_]:
    """Where a frame has the goal's green."""
    red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
    return (green > red + 40) & (green > blue + 25)


class TestDrawing:
    """Drawing of single frames."""

    def test_partial_redrawing_equals_full_redrawing(self, trajectory: Trajectory, frames: Frames) -> None:
        """But for artefacts of the encoder, in less than 0.2 % of the pixels."""
        scene = Scene(trajectory.arm)
        for number in (0, 7, STEPS - 1, STEPS, STEPS + 7):
            now = trajectory.sample(number / 30)
            scene.show(now.angle_deg[0].tolist(), now.goal_m[0].tolist())
            whole = np.asarray(Image.fromarray(scene.picture(1280, 880)).reduce(2)).astype(int)
            apart = np.abs(whole - frames[number, :440]).max(axis=-1)
            assert (apart > 60).mean() < 0.002  # but for what the encoder does to edges
        scene.close()


def tick(time_s: float, angles_deg: list[float] | None, **fields: Any) -> Tick:
    return Tick(time_s=time_s, phase="run", band="pass", angle_deg=angles_deg, **(durations() | fields))


class TestFrames:
    """The frames of a video."""

    def test_size_rate_and_length_are_those_of_the_episodes(self, video: Path, frames: Frames) -> None:
        """640 x 480 at 30 Hz in H.264 that every player shows, with a frame for each step."""
        reader = imageio_ffmpeg.read_frames(str(video))
        properties: dict[str, Any] = next(reader)
        reader.close()
        assert properties["size"] == (640, 480)
        assert properties["fps"] == 30
        assert properties["codec"] == "h264"
        assert properties["pix_fmt"].startswith("yuv420p")  # what every player and browser shows
        assert properties["duration"] == pytest.approx(GOALS * STEPS / 30, abs=0.02)
        assert frames.shape == (GOALS * STEPS, 480, 640, 3)
        assert [path.name for path in video.parent.iterdir()] == ["out.mp4"]

    @pytest.mark.slow
    def test_the_picture_changes_during_each_goal(self, frames: Frames) -> None:
        """The arm moves."""
        picture = frames[:, : 480 - CAPTION_HEIGHT].astype(int)
        for goal in range(GOALS):
            first, middle, last = (picture[goal * STEPS + step] for step in (0, 8, STEPS - 1))
            assert (np.abs(middle - first).max(axis=-1) > 40).mean() > 0.005
            assert (np.abs(last - first).max(axis=-1) > 40).mean() > 0.005

    def test_each_goal_is_a_green_ball(self, frames: Frames) -> None:
        """At a place of its own."""
        places = []
        for goal in range(GOALS):
            mask = green(frames[goal * STEPS, : 480 - CAPTION_HEIGHT])
            assert 50 < mask.sum() < 5000
            rows, columns = np.nonzero(mask)
            places.append((rows.mean(), columns.mean()))
            assert max(np.ptp(rows), np.ptp(columns)) < 60  # one ball
        assert np.hypot(*np.subtract(*places)) > 20

    def test_the_caption_shows_when_a_goal_is_reached(self, frames: Frames) -> None:
        """Dark on a light ground, with a green word at the end of each goal."""
        strips = frames[:, 480 - CAPTION_HEIGHT :].astype(int)
        for goal in range(GOALS):
            first, last = strips[goal * STEPS], strips[goal * STEPS + STEPS - 1]
            for strip in (first, last):
                assert (strip.min(axis=-1) > 230).mean() > 0.8
                assert 300 < (strip.max(axis=-1) < 110).sum() < 4000
                assert (strip.max(axis=-1) < 110)[:, :140].any()  # which goal
                assert (strip.max(axis=-1) < 110)[:, 300:480].any()  # how near
            word = slice(500, 640)
            assert green(first[:, word]).sum() == 0
            assert green(last[:, word]).sum() > 100  # "reached"
        assert (np.abs(strips[10] - strips[11]).max(axis=-1) > 60).any()  # time goes on

    def test_the_arm_does_not_jump_between_goals(self, frames: Frames) -> None:
        """The change between two goals is no larger than between other frames."""
        picture = frames[:, : 480 - CAPTION_HEIGHT].astype(int)

        def changed(first: int) -> float:
            unmarked = ~(green(picture[first]) | green(picture[first + 1]))
            return float((np.abs(picture[first + 1] - picture[first]).max(axis=-1) > 40)[unmarked].mean())

        steps = [changed(first) for first in range(GOALS * STEPS - 1)]
        assert steps[STEPS - 1] <= max(steps[: STEPS - 1])

    def test_files_are_reproducible(self, tmp_path: Path) -> None:
        """Equal trajectories give equal bytes, others do not."""
        for name, seed in (("first", 0), ("again", 0), ("other", 1)):
            assert write_video(cut(roll_out(open_controller("ik", 0), 1, seed), 7), tmp_path / f"{name}.mp4") == 6
        first, again, other = ((tmp_path / f"{name}.mp4").read_bytes() for name in ("first", "again", "other"))
        assert first == again != other

    @pytest.mark.parametrize("rate_hz", [12.5, 200.0])
    def test_trajectories_of_any_rate_play_in_real_time(self, rate_hz: float, tmp_path: Path) -> None:
        """Two seconds at 12.5 or 200 Hz are 60 frames."""
        ticks = [tick(at / rate_hz, [20.0 + at / rate_hz, 30.0, 40.0]) for at in range(round(2 * rate_hz) + 1)]
        path = tmp_path / "out.mp4"
        assert write_video(Trajectory("swing", Arm(), 1 / rate_hz, TicksInMemory(ticks)), path) == 60
        assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (60, pytest.approx(2.0, abs=0.04))

    def test_missing_readings_and_goals(self, tmp_path: Path) -> None:
        """Such ticks are frames too."""
        ticks = [tick(at / 30, None if at % 3 == 0 else [at, 30.0, 40.0]) for at in range(13)]
        assert write_video(Trajectory("gaps", Arm(), 1 / 30, TicksInMemory(ticks)), tmp_path / "out.mp4") == 12

    def test_a_fault_is_shown_in_red_while_it_lasts(self, tmp_path: Path) -> None:
        """From 0.5 s to 0.8 s, and not before or after."""
        ticks = [tick(at / 30, [20.0, 30.0, 40.0], goal_m=(0.2, 0.2, 0.3)) for at in range(31)]
        events = [Event(0.5, "refusal", "tracking: 20 degrees from the target"), Event(0.8, "phase", "park")]
        path = tmp_path / "out.mp4"
        write_video(Trajectory("stopped", Arm(), 1 / 30, TicksInMemory(ticks), events=events), path)

        def red(frame: Frames) -> int:
            channels = np.moveaxis(frame.astype(int), -1, 0)
            return int(((channels[0] > channels[1] + 80) & (channels[0] > channels[2] + 80)).sum())

        for number, shown in ((5, False), (14, False), (16, True), (22, True), (26, False)):
            frame = frames_of(path)[number]
            assert (red(frame[:30]) > 200) == shown
            assert (red(frame[440:, 490:]) > 50) == shown


def replayed(source: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = folder / "out.MP4"
    assert main(["replay", str(source), "--viewer", "video", "--goals", "1", "--save", str(path)]) == 0
    name = "/".join(source.parts[-2:])
    assert capfd.readouterr().out == f"{path}: {STEPS} frames of {name}, {STEPS / 30:.1f} s\n"
    assert list(folder.iterdir()) == [path]
    assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] == STEPS


class TestReplay:
    """Videos by the command line."""

    def test_replaying_a_policy(self, tiny_policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """A policy file becomes a video."""
        replayed(tiny_policy, tmp_path, capfd)

    @pytest.mark.slow
    def test_replaying_a_run(self, tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """A run folder becomes a video."""
        replayed(tiny_run, tmp_path, capfd)


class TestFile:
    """Writing the file."""

    @pytest.mark.parametrize("name", ["out.avi", "out", "out.mp4.txt", ".mp4"])
    def test_another_ending_is_an_error(self, short: Trajectory, tmp_path: Path, name: str) -> None:
        """No file is made."""
        with pytest.raises(ValueError, match=r"expected a file ending in \.mp4"):
            write_video(short, tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_paths_that_cannot_be_written(self, short: Trajectory, tmp_path: Path) -> None:
        """Missing folders, files in the place of a folder, and the reverse."""
        (tmp_path / "file").touch()
        (tmp_path / "folder.mp4").mkdir()
        before = sorted(tmp_path.rglob("*"))
        for name in ("missing/out.mp4", "file/out.mp4", "folder.mp4"):
            with pytest.raises((ValueError, OSError), match="cannot write"):
                write_video(short, tmp_path / name)
            assert sorted(tmp_path.rglob("*")) == before

    def test_an_error_keeps_the_older_video(
        self, short: Trajectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No partial file is left."""
        calls = 0

        def fails(self: Trajectory, time_s: float) -> Any:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise ValueError("no more")
            return sample(self, time_s)

        sample = Trajectory.sample
        monkeypatch.setattr(Trajectory, "sample", fails)
        path = tmp_path / "out.mp4"
        path.write_bytes(b"an older video")
        with pytest.raises(ValueError, match="no more"):
            write_video(short, path)
        assert calls == 4
        assert path.read_bytes() == b"an older video"
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
    def test_a_full_disk_keeps_the_older_video(
        self, files_at_most: Callable[[int], Any], short: Trajectory, tmp_path: Path, share: float
    ) -> None:
        """At any size of the disk, and no partial file is left."""
        path = tmp_path / "out.mp4"
        write_video(short, path)
        whole = path.stat().st_size
        path.write_bytes(b"an older video")
        with files_at_most(int(share * whole)), pytest.raises(OSError, match="cannot write"):
            write_video(short, path)
        assert path.read_bytes() == b"an older video"
        assert list(tmp_path.iterdir()) == [path]

    def test_the_index_precedes_the_data(self, video: Path) -> None:
        """So that it plays while it is loaded; there is no sound."""
        data = video.read_bytes()
        assert 0 < data.find(b"moov") < data.find(b"mdat")
        printed = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", video], capture_output=True, text=True).stderr
        assert printed.count("Stream #") == 1
