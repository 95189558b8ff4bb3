"""The video: what is in the file, and that there is no file unless it is whole."""

import dataclasses
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from arm_control.cli import main
from arm_control.replay.video import CAPTION_HEIGHT, write_video
from arm_control.sources import Source, open_source
from envs.tasks import Reach

# imageio-ffmpeg leaves the closing of its pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

GOALS = 2
STEPS = 50  # of an episode


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source("ik", 0)


@pytest.fixture
def short(source: Source, monkeypatch: pytest.MonkeyPatch) -> Source:
    """The same with episodes of 6 steps, where it does not matter what is seen."""
    monkeypatch.setattr(Reach, "episode_steps", 6)
    return source


@pytest.fixture(scope="module")
def video(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "out.mp4"
    assert write_video(source, path, goals=GOALS, seed=0) == GOALS * STEPS
    return path


@pytest.fixture(scope="module")
def frames(video: Path) -> NDArray[np.uint8]:
    """All frames, (frames, height, width, 3)."""
    reader = imageio_ffmpeg.read_frames(str(video))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in reader])


def green(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a frame has the goal's colour: green by far."""
    red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
    return (green > red + 40) & (green > blue + 25)


def test_size_rate_and_length_are_those_of_the_episodes(video: Path, frames: NDArray[np.uint8]) -> None:
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


def test_the_picture_moves_within_each_goal(frames: NDArray[np.uint8]) -> None:
    picture = frames[:, : 480 - CAPTION_HEIGHT].astype(int)
    for goal in range(GOALS):
        first, middle, last = (picture[goal * STEPS + step] for step in (0, 8, STEPS - 1))
        assert (np.abs(middle - first).max(axis=-1) > 40).mean() > 0.005
        assert (np.abs(last - first).max(axis=-1) > 40).mean() > 0.005


def test_each_goal_is_marked_in_green_in_a_place_of_its_own(frames: NDArray[np.uint8]) -> None:
    places = []
    for goal in range(GOALS):
        mask = green(frames[goal * STEPS, : 480 - CAPTION_HEIGHT])
        assert 50 < mask.sum() < 5000
        rows, columns = np.nonzero(mask)
        places.append((rows.mean(), columns.mean()))
        assert max(np.ptp(rows), np.ptp(columns)) < 60  # one ball
    assert np.hypot(*np.subtract(*places)) > 20


def test_the_caption_is_dark_on_light_and_tells_when_the_goal_is_reached(frames: NDArray[np.uint8]) -> None:
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


def test_goals_follow_each_other_without_a_jump_of_the_arm(frames: NDArray[np.uint8]) -> None:
    picture = frames[:, : 480 - CAPTION_HEIGHT].astype(int)

    def changed(first: int) -> float:
        unmarked = ~(green(picture[first]) | green(picture[first + 1]))
        return float((np.abs(picture[first + 1] - picture[first]).max(axis=-1) > 40)[unmarked].mean())

    steps = [changed(first) for first in range(GOALS * STEPS - 1)]
    assert steps[STEPS - 1] <= max(steps[: STEPS - 1])


def test_the_same_seed_gives_the_same_file_and_another_another(short: Source, tmp_path: Path) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        assert write_video(short, tmp_path / f"{name}.mp4", goals=1, seed=seed) == 6
    first, again, other = ((tmp_path / f"{name}.mp4").read_bytes() for name in ("first", "again", "other"))
    assert first == again != other


def replayed(source: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = folder / "out.MP4"
    assert main(["replay", str(source), "--viewer", "video", "--goals", "1", "--save", str(path)]) == 0
    assert re.fullmatch(rf"{path}: {STEPS} frames, 1 goals?\n", capfd.readouterr().out)
    assert list(folder.iterdir()) == [path]
    assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] == STEPS


def test_replay_shows_a_policy(tiny_policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    replayed(tiny_policy, tmp_path, capfd)


@pytest.mark.slow
def test_replay_shows_a_run(tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    replayed(tiny_run, tmp_path, capfd)


@pytest.mark.parametrize("name", ["out.avi", "out", "out.mp4.txt", ".mp4"])
def test_another_suffix_is_refused(source: Source, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"wanted a file that ends in \.mp4"):
        write_video(source, tmp_path / name, goals=1, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_a_file_in_the_way_and_a_folder_in_the_files_place_are_refused(
    short: Source, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for name in ("missing/out.mp4", "file/out.mp4", "folder.mp4"):
        with pytest.raises((ValueError, OSError), match="cannot write"):
            write_video(short, tmp_path / name, goals=1, seed=0)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_controller_that_fails_on_the_way_leaves_the_older_video_and_nothing_else(
    short: Source, tmp_path: Path
) -> None:
    calls = 0

    def fails(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise ValueError("no more")
        return short.controller(*arguments)

    path = tmp_path / "out.mp4"
    path.write_bytes(b"an older video")
    with pytest.raises(ValueError, match="no more"):
        write_video(dataclasses.replace(short, controller=fails), path, goals=1, seed=0)
    assert calls == 4
    assert path.read_bytes() == b"an older video"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_a_full_disk_is_told_and_leaves_the_older_video(
    files_at_most: Callable[[int], Any], short: Source, tmp_path: Path, share: float
) -> None:
    path = tmp_path / "out.mp4"
    write_video(short, path, goals=1, seed=0)
    whole = path.stat().st_size
    path.write_bytes(b"an older video")
    with files_at_most(int(share * whole)), pytest.raises(OSError, match="cannot write"):
        write_video(short, path, goals=1, seed=0)
    assert path.read_bytes() == b"an older video"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_can_be_played_before_it_is_whole_and_has_no_sound(video: Path) -> None:
    data = video.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    told = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", video], capture_output=True, text=True).stderr
    assert told.count("Stream #") == 1
