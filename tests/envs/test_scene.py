"""Rendering: pictures without a display, windows with one, and motion that neither changes."""

import ctypes.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.passive_env_checker import env_render_passive_checker
from locations import ROOT
from numpy.typing import NDArray

from envs.arm_env import ArmEnv

Picture = NDArray[np.uint8]

START_DEG, GOAL_M = (45.0, 30.0, 30.0), (0.25, 0.25, 0.4)


@pytest.fixture(autouse=True)
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)


@pytest.fixture
def env() -> Iterator[ArmEnv]:
    env = ArmEnv("reach", render_mode="rgb_array")
    yield env
    env.close()


def picture(env: ArmEnv, angles_deg: tuple[float, ...] = START_DEG, goal_m: tuple[float, ...] = GOAL_M) -> Picture:
    env.reset(options={"angles_deg": angles_deg, "goal_m": goal_m})
    rendered: Picture = env.render()
    return rendered


def centre(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean row and column of the pixels that are set."""
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


def green(picture: Picture) -> NDArray[np.bool_]:
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return (green > red + 50) & (green > blue + 30)


def orange(picture: Picture) -> NDArray[np.bool_]:
    """The upper arm's tube."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return (red > green + 50) & (green > blue + 30)


class TestPictures:
    """Rendered pictures, without a display."""

    def test_a_picture_without_a_display_shows_the_arm_and_its_goal(self, env: ArmEnv) -> None:
        """480 x 640 pixels with a green ball, an orange upper arm and shading."""
        image = picture(env)
        assert image.shape == (480, 640, 3)
        assert image.dtype == np.uint8
        assert 100 < green(image).sum() < 5000
        assert orange(image).sum() > 300
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50  # shaded, not flat

    def test_gymnasium_accepts_the_picture(self) -> None:
        """Gymnasium's passive render checker accepts the picture."""
        env = gymnasium.make("envs:ArmReach-v0", render_mode="rgb_array").unwrapped
        env.reset(seed=0)
        env_render_passive_checker(env)
        env.close()

    def test_the_goals_ball_moves_with_the_goal_and_the_arm_stays(self, env: ArmEnv) -> None:
        """A higher goal is higher in the picture, a nearer one larger, and the arm's pixels do not change."""
        low, high = picture(env, goal_m=(0.25, 0.25, 0.35)), picture(env, goal_m=(0.25, 0.25, 0.45))
        assert centre(green(high))[0] < centre(green(low))[0] - 20  # rows count from the top
        # The camera looks along +y and -x: towards +x is nearer and to the right, towards +y further and to the right.
        near, far = picture(env, goal_m=(0.35, 0.1, 0.4)), picture(env, goal_m=(0.1, 0.35, 0.4))
        assert green(near).sum() > 1.2 * green(far).sum()
        either = green(low) | green(high)
        assert np.array_equal(orange(low) & ~either, orange(high) & ~either)

    def test_the_arm_moves_in_the_picture_and_the_goal_stays(self, env: ArmEnv) -> None:
        """A lowered upper arm is lower in the picture, after a reset and after steps, with the ball in place."""
        up, forward = picture(env, (45.0, 0.0, 0.0)), picture(env, (45.0, 80.0, 0.0))
        assert centre(orange(forward))[0] > centre(orange(up))[0] + 20
        assert abs(centre(green(up))[0] - centre(green(forward))[0]) < 5

        env.reset(options={"angles_deg": (0, 0, 0), "goal_m": GOAL_M})
        before = env.render()
        for _ in range(10):
            env.step(np.array([0, 90, 0], np.float32))
        assert centre(orange(env.render()))[0] > centre(orange(before))[0] + 5

    def test_the_same_state_gives_the_same_picture(self, env: ArmEnv) -> None:
        """Pictures of equal states are equal, pixel by pixel."""
        first = picture(env)
        picture(env, (0.0, 0.0, 0.0), (0.3, 0.1, 0.45))
        assert np.array_equal(picture(env), first)


TRAJECTORY = """
import sys, numpy as np
from envs.arm_env import ArmEnv
env = ArmEnv("reach", render_mode=sys.argv[1] if len(sys.argv) > 1 else None)
env.reset(seed=3)
for action in np.random.default_rng(4).uniform(0, 90, (30, 3)).astype(np.float32):
    observation, reward, *_ = env.step(action)
    if env.render_mode:
        env.render()
    print([float(x).hex() for x in observation["observation"]], reward.hex())
env.close()
"""


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if key != "DISPLAY"} | environment
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=ROOT, env=variables, timeout=120
    )


class TestMotion:
    """Rendering does not affect the motion."""

    def test_rendering_does_not_change_the_motion(self) -> None:
        """30 steps with and without rendering print the same hexadecimal floats."""
        unseen, seen = run(TRAJECTORY), run(TRAJECTORY, "rgb_array")
        assert unseen.returncode == 0, unseen.stderr
        assert len(unseen.stdout.splitlines()) == 30
        assert seen.stdout == unseen.stdout


NO_WINDOW = """
import gymnasium
env = gymnasium.make("envs:ArmReach-v0", render_mode="human")
try:
    env.reset(seed=0)
except RuntimeError as error:
    print(error)
env.close()
env = gymnasium.make("envs:ArmReach-v0", render_mode="rgb_array")
env.reset(seed=0)
print("still here", env.render().shape)
"""


def display_available() -> bool:
    return shutil.which("Xvfb") is not None and ctypes.util.find_library("X11") is not None


@pytest.fixture
def virtual_display() -> Iterator[str]:
    if not display_available() and not os.environ.get("CI"):
        pytest.skip("no Xvfb here")
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "1024x768x24", "-nolisten", "tcp", "-noreset"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        yield f":{server.stdout.readline().strip()}"
        server.terminate()


class TestWindow:
    """Human render mode, with and without a display."""

    @pytest.mark.parametrize(
        ("environment", "display"),
        [({}, "not set"), ({"DISPLAY": ":9876"}, ":9876"), ({"DISPLAY": "nonsense"}, "nonsense")],
    )
    def test_human_mode_without_a_display_raises_runtime_error(self, environment: dict[str, str], display: str) -> None:
        """The error names DISPLAY and the alternative, and the process can still render pictures."""
        done = run(NO_WINDOW, **environment)
        assert done.returncode == 0, done.stderr
        error, survived = done.stdout.splitlines()
        assert error.startswith(f"a window requires a display, and there is none (DISPLAY={display});")
        assert "rgb_array" in error
        assert survived == "still here (480, 640, 3)"

    @pytest.mark.slow
    def test_a_window_opens_on_a_display_and_does_not_change_the_motion(self, virtual_display: str) -> None:
        """Under Xvfb, the trajectory of human mode equals the one without rendering."""
        unseen, seen = run(TRAJECTORY), run(TRAJECTORY, "human", DISPLAY=virtual_display)
        assert seen.returncode == 0, seen.stderr
        trajectory = [line for line in seen.stdout.splitlines() if line.startswith("['")]  # PyBullet's window talks
        assert trajectory == unseen.stdout.splitlines()
