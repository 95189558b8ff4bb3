"""Video: a controller going through several goals, as an mp4, without a display."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from arm_control.evaluation import EVALUATION, begin_episodes, derived_seeds, environment_maker
from arm_control.run_folder import written_whole
from arm_control.sources import Source
from envs.scene import Scene

Frame = NDArray[np.uint8]

WIDTH, HEIGHT = 640, 480
SUPERSAMPLING = 2  # PyBullet's software renderer does not smooth edges
CAPTION_HEIGHT = 40
INK, GREEN, PAPER = (30, 30, 34), (0, 120, 60), (255, 255, 255)


def write_video(source: Source, path: str | Path, *, goals: int, seed: int) -> int:
    """Write the mp4 whole or not at all; returns the number of frames."""
    target = Path(path)
    if target.suffix.lower() != ".mp4":
        raise ValueError(f"wanted a file that ends in .mp4, got {target}")
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {target}: there is no folder {target.parent}")
    frames = 0
    env: Any = environment_maker(source.config)().unwrapped
    try:
        with written_whole(target) as aside:
            aside.touch()  # ffmpeg's own words for a folder that cannot be written to are many
            encoder = imageio_ffmpeg.write_frames(
                str(aside),
                (WIDTH, HEIGHT),
                fps=env.metadata["render_fps"],
                macro_block_size=2,
                output_params=["-preset", "veryfast", "-crf", "20", "-movflags", "+faststart"],
            )
            encoder.send(None)
            try:
                for frame in video_frames(source, env, goals, seed):
                    encoder.send(frame)
                    frames += 1
            finally:
                encoder.close()
            if frames_in(aside) != frames:
                raise OSError("the encoder did not write all frames; is the disk full?")
    finally:
        env.close()
    return frames


def frames_in(path: Path) -> int:
    """Frames of a video file; 0 if it is none."""
    try:
        return int(imageio_ffmpeg.count_frames_and_secs(str(path))[0])
    except RuntimeError:
        return 0


def video_frames(source: Source, env: Any, goals: int, seed: int) -> Iterator[Frame]:
    """Goal after goal from where the arm is, each frame one control period, captioned."""
    scene = Scene(env.arm)
    thing, success = ("path", "on it") if env.task.moving else ("goal", "reached")
    try:
        angles: list[float] | None = None
        for number, goal_seed in enumerate(derived_seeds(seed, EVALUATION, goals), 1):
            options = {} if angles is None else {"angles_deg": env.arm.limits.clip(angles)}
            observation, info = env.reset(seed=goal_seed, options=options)
            begin_episodes(source.controller)
            truncated, step = False, 0
            while not truncated:
                batch = {key: value[None] for key, value in observation.items()}
                observation, _, _, truncated, info = env.step(source.controller(batch, [env])[0])
                step += 1
                scene.show(env.simulation.angles_deg, observation["desired_goal"].tolist()[:3])
                caption = (
                    f"{thing} {number} of {goals}",
                    f"{step * env.simulation.control_period_s:.2f} s",
                    f"error {1000 * info['distance_m']:.1f} mm",
                )
                yield compose(scene, caption, success if info["is_success"] else "")
            angles = env.simulation.angles_deg
    finally:
        scene.close()


def compose(scene: Scene, caption: tuple[str, str, str], success: str) -> Frame:
    """One frame: the picture with smooth edges, and the caption under it."""
    height = HEIGHT - CAPTION_HEIGHT
    large = scene.picture(WIDTH * SUPERSAMPLING, height * SUPERSAMPLING)
    blocks = large.reshape(height, SUPERSAMPLING, WIDTH, SUPERSAMPLING, 3)
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    frame[:height] = blocks.mean(axis=(1, 3), dtype=np.float32).astype(np.uint8)
    strip = Image.new("RGB", (WIDTH, CAPTION_HEIGHT), PAPER)
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(20)
    for right, text in zip((150, 290, 480), caption, strict=True):
        draw.text((right, 7), text, INK, font, anchor="ra")
    draw.text((500, 7), success, GREEN, font)
    frame[height:] = np.asarray(strip)
    return frame
