"""Video of a trajectory as an mp4, rendered without a display, faster than real time."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from arm_control.runs.files import written_whole
from arm_control.viewers.common.trajectory import Segment, Trajectory, check_length
from envs.scene import Part, Scene

Frame = NDArray[np.uint8]

WIDTH = 640
HEIGHT = 480
RATE_HZ = 30
SUPERSAMPLING = 2  # PyBullet's software renderer does not smooth edges
CAPTION_HEIGHT = 40
INK = (30, 30, 34)
GREEN = (0, 120, 60)
RED = (190, 40, 0)
PAPER = (255, 255, 255)
STILL_DEG = 0.05  # smaller changes are not rendered


def write_video(trajectory: Trajectory, path: str | Path) -> int:
    """Write the mp4 whole or not at all; returns the number of frames."""
    # Check everything before the first frame is rendered.
    target = Path(path)
    if target.suffix.lower() != ".mp4":
        raise ValueError(f"expected a file ending in .mp4, got {target}")
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {target}: there is no folder {target.parent}")
    check_length(trajectory)
    if shutil.which(encoder_path()) is None:
        raise RuntimeError(f"cannot write {target}: no ffmpeg was found: pip install imageio-ffmpeg")
    # Encode frame by frame; count the frames of the file, since the encoder reports no errors.
    frames = 0
    with written_whole(target) as aside:
        aside.touch()  # raises a short error where the folder cannot be written to
        encoder = imageio_ffmpeg.write_frames(
            str(aside),
            (WIDTH, HEIGHT),
            fps=RATE_HZ,
            macro_block_size=2,
            output_params=["-preset", "veryfast", "-crf", "20", "-movflags", "+faststart"],
        )
        try:
            encoder.send(None)
        except (IndexError, RuntimeError, OSError):  # no known encoder, or it does not start
            raise RuntimeError(f"cannot write {target}: {encoder_path()} has no codec for it") from None
        try:
            for frame in video_frames(trajectory):
                encoder.send(frame)
                frames += 1
        finally:
            encoder.close()
        if frames_in(aside) != frames:
            raise OSError("the encoder did not write all frames; is the disk full?")
    return frames


def encoder_path() -> str:
    """The path of ffmpeg; empty if there is none."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        return ""


def frames_in(path: Path) -> int:
    """The number of frames of a video file; 0 if it is no video."""
    try:
        return int(imageio_ffmpeg.count_frames_and_secs(str(path))[0])
    except RuntimeError:
        return 0


def video_frames(trajectory: Trajectory) -> Iterator[Frame]:
    """The captioned frames of a trajectory, RATE_HZ per second."""
    film = Film(trajectory)
    try:
        for number in range(max(1, round(trajectory.length_s * RATE_HZ))):
            yield film.frame(number / RATE_HZ)
    finally:
        film.close()


class Film:
    """Renders the frames of a trajectory; only the part of the picture that changed is drawn again."""

    def __init__(self, trajectory: Trajectory) -> None:
        self._trajectory = trajectory
        self._scene = Scene(trajectory.arm)
        self._shown: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        # The part of the last picture that the arm covers; at first, all of it is drawn.
        self._part = Part(0, 0, WIDTH * SUPERSAMPLING, (HEIGHT - CAPTION_HEIGHT) * SUPERSAMPLING)
        self._picture = np.empty((HEIGHT - CAPTION_HEIGHT, WIDTH, 3), np.uint8)
        self._caption_font = ImageFont.load_default(20)
        self._fault_font = ImageFont.load_default(14)

    def frame(self, time_s: float) -> Frame:
        """The picture at a time, antialiased, with its caption below, (480, 640, 3)."""
        now = self._trajectory.sample(time_s)
        self._draw(now)
        frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        frame[: HEIGHT - CAPTION_HEIGHT] = self._picture
        frame[HEIGHT - CAPTION_HEIGHT :] = self._caption(now, time_s)
        if (fault := self._trajectory.fault_at(time_s)) is not None:
            frame[:30] = self._strip(30, [(10, "la", fault, RED)], self._fault_font)
        return frame

    def _draw(self, now: Segment) -> None:
        """Update the picture."""
        angles_deg = now.angle_deg[0]
        goal_m = now.goal_m[0]
        # A missing reading shows the last pose.
        if np.isnan(angles_deg).any():
            angles_deg = np.array(self._trajectory.arm.default_pose_deg()) if self._shown is None else self._shown[0]
        # Keep the picture if nothing has changed visibly.
        if self._shown is not None:
            angles, goal = self._shown
            if np.abs(angles - angles_deg).max() < STILL_DEG and np.array_equal(goal, goal_m, equal_nan=True):
                return
        size = (WIDTH * SUPERSAMPLING, (HEIGHT - CAPTION_HEIGHT) * SUPERSAMPLING)
        self._scene.show(angles_deg.tolist(), None if np.isnan(goal_m).any() else goal_m.tolist())
        # Render the part that covers the arm as it was and as it is.
        before = self._part
        after = self._scene.occupied(*size)
        left_top = map(min, before[:2], after[:2])
        right_bottom = map(max, before[2:], after[2:])
        part = Part(*left_top, *right_bottom)
        self._shown = (angles_deg, goal_m)
        self._part = after
        # Antialias: average blocks of SUPERSAMPLING x SUPERSAMPLING pixels.
        left, top, right, bottom = (edge // SUPERSAMPLING for edge in part)
        large = Image.fromarray(self._scene.picture(*size, part))
        self._picture[top:bottom, left:right] = np.asarray(large.reduce(SUPERSAMPLING))

    def _caption(self, now: Segment, time_s: float) -> Frame:
        """The goal, the time since it began, and the error."""
        # The texts: horizontal position, anchor, text, colour.
        trajectory = self._trajectory
        error_mm = float(now.error_mm[0])
        episode = trajectory.episode_at(time_s)
        name, since_s = (now.phase[0], 0.0) if episode is None else episode[:2]
        texts = [(150, "ra", name, INK), (290, "ra", f"{time_s - since_s:.2f} s", INK)]
        if not np.isnan(error_mm):
            texts.append((480, "ra", f"error {error_mm:.1f} mm", INK))
        if trajectory.fault_at(time_s) is not None:
            texts.append((500, "la", "stopped", RED))
        elif episode is not None and trajectory.tolerance_m is not None and error_mm <= 1000.0 * trajectory.tolerance_m:
            texts.append((500, "la", "on it" if episode.name.startswith("path") else "reached", GREEN))
        return self._strip(CAPTION_HEIGHT, texts, self._caption_font)

    def _strip(self, height: int, texts: list[tuple[int, str, str, tuple[int, int, int]]], font: Any) -> Frame:
        strip = Image.new("RGB", (WIDTH, height), PAPER)
        draw = ImageDraw.Draw(strip)
        for x, anchor, text, colour in texts:
            draw.text((x, 7), text, colour, font, anchor=anchor)
        return np.asarray(strip)

    def close(self) -> None:
        """Close the scene."""
        self._scene.close()
