"""The simulator's window on a virtual screen, driven by keys and the mouse."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import wait_until
from numpy.typing import NDArray
from PIL import ImageGrab

pytestmark = [pytest.mark.slow, pytest.mark.alone]

# The window as `show_window` runs it, which also writes down what it is in.
SHOW = """
import json, sys, time
from arm_control.viewers.common.live import LiveArm, roll_out
from arm_control.viewers.window.window import Window
from arm_control.evaluation.opening import open_controller
source = open_controller("ik", 0)
window = Window(LiveArm(source, 0) if sys.argv[1] == "live" else roll_out(source, 3, 0))
while window.update():
    now, _ = window._advance()
    state = {"position_s": window.playback.position_s, "time_s": float(now.time_s[0]),
             "playing": window.playback.playing, "speed": window.playback.speed,
             "angles_deg": now.angle_deg[0].tolist(), "goal_m": now.goal_m[0].tolist(),
             "manual": window.live is not None and window.live.manual_deg is not None, "text": window._text(now)[0]}
    with open(sys.argv[2], "w") as file:
        file.write(json.dumps(state) + "\\n")
    time.sleep(1 / 60)
"""
SPEED, SECOND, THIRD = (106, 150, 194)  # how far down sliders are, and from where to where they go
LEFT, RIGHT = 795, 988
SCENE = (slice(24, 640), slice(252, 772))  # of the screen, between the panels
WORDS = (slice(60, 200), slice(252, 772))


class Shown:
    """A window on a virtual screen of its own."""

    def __init__(self, display: str, state: Path) -> None:
        self._environment, self._state = {**os.environ, "DISPLAY": display}, state
        self._display = display

    @property
    def state(self) -> dict[str, Any]:
        """The state at the last picture."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if self._state.exists() and (text := self._state.read_text()).endswith("\n"):
                found: dict[str, Any] = json.loads(text)
                return found
            time.sleep(0.05)
        raise AssertionError("it shows nothing")

    def screen(self) -> NDArray[np.int64]:
        """The pixels, (768, 1024, 3)."""
        return np.asarray(ImageGrab.grab(xdisplay=self._display).convert("RGB")).astype(int)

    def do(self, *words: object) -> None:
        """Move the mouse, or press keys."""
        subprocess.run(["xdotool", *map(str, words)], env=self._environment, check=True, timeout=60)

    def press(self, key: str) -> None:
        self.do("mousemove", 512, 300, "key", key)  # let go at once, perhaps within one picture

    def drag(self, row: int, share: float) -> None:
        """Drag a slider to a fraction of its range."""
        column = round(LEFT + share * (RIGHT - LEFT))
        self.do("mousemove", column, row, "mousedown", 1)
        time.sleep(0.2)
        self.do("mousemove", column + 1, row)
        time.sleep(0.2)
        self.do("mouseup", 1)


@contextmanager
def screen() -> Iterator[str]:
    """The name of a virtual screen."""
    missing = [name for name in ("Xvfb", "xdotool") if shutil.which(name) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"requires {' and '.join(missing)}")
    # Without -noreset it restarts after its last client, and rejects the next one meanwhile.
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "1024x768x24", "-nolisten", "tcp", "-noreset"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield f":{server.stdout.readline().strip()}"
        finally:
            server.terminate()


@contextmanager
def window(kind: str, folder: Path) -> Iterator[tuple[Shown, "subprocess.Popen[str]"]]:
    state = folder / "state.json"
    with screen() as display:
        words = [sys.executable, "-c", SHOW, kind, str(state)]
        environment = {**os.environ, "DISPLAY": display}
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            shown = Shown(display, state)
            wait_until(lambda: process.poll() is not None or state.exists())
            assert process.poll() is None
            wait_until(lambda: words_in(shown) > 100)
            yield shown, process
        finally:
            process.kill()
            print(process.communicate()[1])


def words_in(shown: Shown) -> int:
    """Dark pixels where the numbers are."""
    return int((shown.screen()[WORDS].max(axis=-1) < 90).sum())


def balls(shot: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where the goal's green is; the y axis is a lighter one."""
    red, green, blue = np.moveaxis(shot[SCENE], -1, 0)
    return (green > red + 25) & (green > blue + 10) & (green < 170)


def arm(shot: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where the arm's orange link is."""
    red, green, blue = np.moveaxis(shot[SCENE], -1, 0)
    return (red > green + 60) & (green > blue + 30)


def middle(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    assert mask.sum() > 5
    return np.argwhere(mask).mean(axis=0)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    with window("live", tmp_path_factory.mktemp("live")) as (shown, _):
        yield shown


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    with window("played", tmp_path_factory.mktemp("played")) as (shown, _):
        yield shown


def pause(shown: Shown) -> dict[str, Any]:
    if shown.state["playing"]:
        shown.press("space")
        wait_until(lambda: not shown.state["playing"])
    time.sleep(1.0)  # until the picture is of this
    return shown.state


class TestWindow:
    """Keys, sliders and pictures of the window."""

    def test_arm_goal_and_numbers_are_visible_and_change(self, live: Shown) -> None:
        """By their colours on the screen."""
        if not live.state["playing"]:
            live.press("space")
        shots = []
        for _ in range(8):
            shots.append(live.screen())
            time.sleep(0.7)
        assert all(arm(shot).sum() > 100 for shot in shots)
        assert max(balls(shot).sum() for shot in shots) > 20
        places = np.array([middle(arm(shot)) for shot in shots])
        assert np.ptp(places, axis=0).max() > 10  # pixels
        words = [shot[WORDS].max(axis=-1) < 90 for shot in shots]
        assert all(150 < mask.sum() < 8000 for mask in words)
        assert (words[0] != words[-1]).sum() > 20  # other numbers

    def test_space_pauses_and_an_arrow_steps(self, live: Shown) -> None:
        """By one period; the time of a live arm does not go back."""
        stood = pause(live)
        time.sleep(0.5)
        assert live.state["time_s"] == stood["time_s"]
        assert "paused" in live.state["text"]
        live.press("Right")
        wait_until(lambda: live.state["time_s"] == pytest.approx(stood["time_s"] + 1 / 30))
        live.press("Left")  # a live arm's time does not go back
        time.sleep(0.5)
        assert live.state["time_s"] == pytest.approx(stood["time_s"] + 1 / 30)

    def test_n_draws_the_next_goal(self, live: Shown) -> None:
        """The ball moves."""
        before = pause(live)
        first = balls(live.screen())
        live.press("n")
        wait_until(lambda: live.state["goal_m"] != before["goal_m"])
        time.sleep(1.0)
        second = balls(live.screen())
        assert (first != second).sum() > 20
        assert second.sum() > 20

    def test_keys_and_the_slider_set_the_speed(self, live: Shown) -> None:
        """Both change the playback's speed."""
        pause(live)
        speed = live.state["speed"]
        live.press("plus")
        wait_until(lambda: live.state["speed"] == pytest.approx(1.25 * speed))
        live.press("minus")
        wait_until(lambda: live.state["speed"] == pytest.approx(speed))
        live.drag(SPEED, 0.5)
        wait_until(lambda: 4.0 < live.state["speed"] < 6.5)
        live.drag(SPEED, 0.0)
        wait_until(lambda: live.state["speed"] < 0.5)

    def test_a_joint_slider_takes_manual_control_and_m_returns_it(self, live: Shown) -> None:
        """The controller continues afterwards."""
        if not live.state["playing"]:
            live.press("space")
        live.drag(SPEED, 0.3)
        others = pause(live)["angles_deg"][1:]
        live.drag(SECOND, 0.9)  # the base: sideways
        wait_until(lambda: live.state["manual"])
        assert "by hand" in live.state["text"]
        live.press("space")
        wait_until(lambda: 70 < live.state["angles_deg"][0] < 90)
        time.sleep(1.0)
        assert live.state["angles_deg"][1:] == pytest.approx(others, abs=3.0)
        far = middle(arm(live.screen()))
        live.drag(THIRD, 0.8)  # the shoulder: down
        wait_until(lambda: live.state["angles_deg"][1] > 60)
        time.sleep(1.0)
        assert live.state["angles_deg"][0] > 70
        assert np.linalg.norm(middle(arm(live.screen())) - far) > 10
        live.press("m")
        wait_until(lambda: not live.state["manual"])

    def test_a_trajectory_is_scrubbed_stepped_and_skipped(self, played: Shown) -> None:
        """By the slider and by keys."""
        pause(played)
        played.drag(SECOND, 0.5)  # its time
        wait_until(lambda: 2.0 < played.state["position_s"] < 3.0)
        time.sleep(2.0)  # until the mouse has come to rest
        at = played.state["position_s"]
        played.press("Left")
        wait_until(lambda: played.state["position_s"] == pytest.approx(at - 1 / 30, abs=0.018))
        played.press("n")
        wait_until(lambda: played.state["position_s"] == pytest.approx(100 / 30, abs=1e-6))
        assert "goal 3 of 3" in played.state["text"]
        time.sleep(1.0)
        assert balls(played.screen()).sum() > 20

    @pytest.mark.parametrize("key", ["q", "Escape"])
    def test_a_key_closes_the_window(self, key: str) -> None:
        """Exit code 0."""
        with screen() as display:
            environment = {**os.environ, "DISPLAY": display}
            words = [sys.executable, "-m", "arm_control.cli", "replay", "ik"]  # the window is the default
            process = subprocess.Popen(
                words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            try:
                assert process.stdout is not None
                assert (
                    process.stdout.readline() == "sliders, from the top: speed, base_yaw, shoulder, elbow, next goal\n"
                )
                assert "q or Esc: close" in process.stdout.readline()
                time.sleep(3.0)
                shown = Shown(display, Path("unused"))
                end = time.monotonic() + 60
                while process.poll() is None and time.monotonic() < end:
                    shown.press(key)
                    time.sleep(0.5)
                out, error = process.communicate(timeout=30)
            finally:
                process.kill()
                process.communicate()
        assert process.returncode == 0, error
        assert out == ""
        assert "Traceback" not in error
