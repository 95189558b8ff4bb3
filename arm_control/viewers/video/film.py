"""Video: a motion as an mp4, written without a display, faster than it takes."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from arm_control.runs.files import written_whole
from arm_control.viewers.common.motion import Motion, Stretch, check_length
from envs.scene import Part, Scene

Frame = NDArray[np.uint8]

WIDTH, HEIGHT, RATE_HZ = 640, 480, 30
SUPERSAMPLING = 2  # PyBullet's software renderer does not smooth edges
CAPTION_HEIGHT = 40
INK, GREEN, RED, PAPER = (30, 30, 34), (0, 120, 60), (190, 40, 0), (255, 255, 255)
STILL_DEG = 0.05  # within which an arm looks the same


def write_video(motion: Motion, path: str | Path) -> int:
    """Write the mp4 whole or not at all; returns the number of frames."""
    target = Path(path)
    if target.suffix.lower() != ".mp4":
        raise ValueError(f"wanted a file that ends in .mp4, got {target}")
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {target}: there is no folder {target.parent}")
    check_length(motion)
    if shutil.which(encoder_path()) is None:
        raise RuntimeError(f"cannot write {target}: no ffmpeg was found, which 'pip install imageio-ffmpeg' brings")
    frames = 0
    with written_whole(target) as aside:
        aside.touch()  # ffmpeg's own words for a folder that cannot be written to are many
        encoder = imageio_ffmpeg.write_frames(
            str(aside),
            (WIDTH, HEIGHT),
            fps=RATE_HZ,
            macro_block_size=2,
            output_params=["-preset", "veryfast", "-crf", "20", "-movflags", "+faststart"],
        )
        try:
            encoder.send(None)
        except (IndexError, RuntimeError, OSError):  # it has no encoder that imageio-ffmpeg knows, or does not start
            raise RuntimeError(f"cannot write {target}: {encoder_path()} has no codec for it") from None
        try:
            for frame in video_frames(motion):
                encoder.send(frame)
                frames += 1
        finally:
            encoder.close()
        if frames_in(aside) != frames:
            raise OSError("the encoder did not write all frames; is the disk full?")
    return frames


def encoder_path() -> str:
    """Where ffmpeg is; empty if there is none."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        return ""


def frames_in(path: Path) -> int:
    """Frames of a video file; 0 if it is none."""
    try:
        return int(imageio_ffmpeg.count_frames_and_secs(str(path))[0])
    except RuntimeError:
        return 0


def video_frames(motion: Motion) -> Iterator[Frame]:
    """A frame for every 30th of a second of the motion, captioned."""
    film = Film(motion)
    try:
        for number in range(max(1, round(motion.length_s * RATE_HZ))):
            yield film.frame(number / RATE_HZ)
    finally:
        film.close()


class Film:
    """Makes frames of a motion, drawing anew only what has changed in a picture."""

    def __init__(self, motion: Motion) -> None:
        self._motion, self._scene = motion, Scene(motion.arm)
        self._shown: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._part = Part(0, 0, WIDTH * SUPERSAMPLING, (HEIGHT - CAPTION_HEIGHT) * SUPERSAMPLING)  # where the arm was
        self._picture = np.empty((HEIGHT - CAPTION_HEIGHT, WIDTH, 3), np.uint8)
        self._fonts = ImageFont.load_default(20), ImageFont.load_default(14)

    def frame(self, time_s: float) -> Frame:
        """The picture at a time with smooth edges, and the caption under it, (480, 640, 3)."""
        now = self._motion.moment(time_s)
        self._draw(now)
        frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        frame[: HEIGHT - CAPTION_HEIGHT] = self._picture
        frame[HEIGHT - CAPTION_HEIGHT :] = self._caption(now, time_s)
        if (refusal := self._motion.refusal_at(time_s)) is not None:
            frame[:30] = self._strip(30, [(10, "la", refusal, RED)], self._fonts[1])
        return frame

    def _draw(self, now: Stretch) -> None:
        """Bring the picture up to date."""
        angles_deg, goal_m = now.angle_deg[0], now.goal_m[0]
        if np.isnan(angles_deg).any():  # a reading that was lost: the arm is shown where it was
            angles_deg = np.array(self._motion.arm.default_pose_deg()) if self._shown is None else self._shown[0]
        if self._shown is not None:
            angles, goal = self._shown
            if np.abs(angles - angles_deg).max() < STILL_DEG and np.array_equal(goal, goal_m, equal_nan=True):
                return
        size = WIDTH * SUPERSAMPLING, (HEIGHT - CAPTION_HEIGHT) * SUPERSAMPLING
        self._scene.show(angles_deg.tolist(), None if np.isnan(goal_m).any() else goal_m.tolist())
        there = self._scene.occupied(*size)
        was = self._part
        part = Part(*map(min, was[:2], there[:2]), *map(max, was[2:], there[2:]))
        self._shown, self._part = (angles_deg, goal_m), there
        left, top, right, bottom = (edge // SUPERSAMPLING for edge in part)
        large = Image.fromarray(self._scene.picture(*size, part))
        self._picture[top:bottom, left:right] = np.asarray(large.reduce(SUPERSAMPLING))

    def _caption(self, now: Stretch, time_s: float) -> Frame:
        """Which goal it is, since when, and how near the arm is."""
        motion, error_mm = self._motion, float(now.error_mm[0])
        episode = motion.episode_at(time_s)
        name, since_s = (now.phase[0], 0.0) if episode is None else episode[:2]
        texts = [(150, "ra", name, INK), (290, "ra", f"{time_s - since_s:.2f} s", INK)]
        if not np.isnan(error_mm):
            texts.append((480, "ra", f"error {error_mm:.1f} mm", INK))
        if motion.refusal_at(time_s) is not None:
            texts.append((500, "la", "stopped", RED))
        elif episode is not None and motion.tolerance_m is not None and error_mm <= 1000.0 * motion.tolerance_m:
            texts.append((500, "la", "on it" if episode.name.startswith("path") else "reached", GREEN))
        return self._strip(CAPTION_HEIGHT, texts, self._fonts[0])

    def _strip(self, height: int, texts: list[tuple[int, str, str, tuple[int, int, int]]], font: Any) -> Frame:
        strip = Image.new("RGB", (WIDTH, height), PAPER)
        draw = ImageDraw.Draw(strip)
        for x, anchor, text, colour in texts:
            draw.text((x, 7), text, colour, font, anchor=anchor)
        return np.asarray(strip)

    def close(self) -> None:
        """Close the scene."""
        self._scene.close()
