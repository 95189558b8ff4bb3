"""The simulator's own window: a moving arm, with keys and sliders."""

import bisect
import contextlib
import os
import time
from collections.abc import Iterator

import numpy as np

from arm_control.viewers.common.live import LiveArm
from arm_control.viewers.common.playback import FASTEST, SLOWEST, Playback, paced, playback_of
from arm_control.viewers.common.trajectory import Segment, Trajectory
from envs.bullet import pybullet
from envs.scene import Scene

# Each update of text or trace waits for the next picture, so they are rare.
TEXT_UPDATE_S = 0.2
TRACE_UPDATE_S = 0.15
TRACE_S = 3.0
TRACE_POINTS = 60
FASTER = 1.25  # factor of the speed for one key press
INK = (0.1, 0.1, 0.12)
BLUE = (0.0, 0.45, 0.7)
RED = (0.75, 0.15, 0.0)
KEYS = "space: pause   arrows: step   + -: speed   n: next   {by_hand}q or Esc: close"
ESCAPE = 27


def show_window(shown: Trajectory | LiveArm) -> None:
    """Show a trajectory, or a controller that moves its arm live, until q or Esc is pressed.

    PyBullet does not handle the window's close button: it makes the X library exit the process with code 1.
    Raises RuntimeError if there is no display.
    """
    with quiet():  # PyBullet prints details of the graphics card
        window = Window(shown)
    keys = KEYS.format(by_hand="m or a joint's slider: by hand   " if isinstance(shown, LiveArm) else "")
    print(f"sliders, from the top: {', '.join(window.sliders)}\n{keys}", flush=True)
    with quiet():
        try:
            paced(window.update)
        except pybullet.error:
            if window.is_open():
                raise  # otherwise the user closed it while a picture was drawn
        finally:
            window.close()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress standard output, also that of C libraries."""
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


class Window:
    """The window, its controls, and what it shows."""

    def __init__(self, shown: Trajectory | LiveArm) -> None:
        """Start where the trajectory opens; follow one that grows."""
        self.live = shown if isinstance(shown, LiveArm) else None
        self.trajectory = shown if isinstance(shown, Trajectory) else None
        self._arm = shown.arm
        period_s = shown.period_s
        self.playback = Playback(period_s) if self.trajectory is None else playback_of([self.trajectory])
        self._scene = Scene(shown.arm, window=True)
        self._client = {"physicsClientId": self._scene.client}
        # Hide the simulator's own panels, and show the sliders.
        for panel in ("RGB_BUFFER_PREVIEW", "DEPTH_BUFFER_PREVIEW", "SEGMENTATION_MARK_PREVIEW", "KEYBOARD_SHORTCUTS"):
            pybullet.configureDebugVisualizer(getattr(pybullet, f"COV_ENABLE_{panel}"), 0, **self._client)
        pybullet.configureDebugVisualizer(pybullet.COV_ENABLE_GUI, 1, **self._client)
        self.sliders: dict[str, int] = {}
        self._add("speed", SLOWEST, FASTEST, 1.0)
        if self.trajectory is not None:
            self._add("time (s)", 0.0, max(self.trajectory.length_s, period_s), 0.0)
        else:
            for name, (low, high, _, _) in zip(shown.arm.joint_names, shown.arm.limits.by_joint, strict=True):
                self._add(name, low, high, low)
        self._add("next goal", 1.0, 0.0, 0.0)  # a button
        self._read = {name: self._value(name) for name in self.sliders}
        self._text_id = -1  # none yet
        self._trace_id = -1
        self._held: set[int] = set()  # keys
        self._written_s = -np.inf
        self._traced_s = -np.inf
        self._text_position_m = (0.0, -0.25 * shown.arm.reach_m, 1.15 * shown.arm.reach_m)

    def _add(self, name: str, low: float, high: float, at: float) -> None:
        self.sliders[name] = pybullet.addUserDebugParameter(name, low, high, at, **self._client)

    def _value(self, name: str) -> float:
        value: float = pybullet.readUserDebugParameter(self.sliders[name], **self._client)
        return value

    def is_open(self) -> bool:
        """Return True while the window is open."""
        return bool(pybullet.isConnected(**self._client))

    def close(self) -> None:
        """Close the window; closing twice is allowed."""
        self._scene.close()

    def update(self) -> bool:
        """Handle input, advance and draw; returns False once the user closes the window."""
        if not self.is_open() or not self._handle_keys():
            return False
        self._handle_sliders()
        now, recent = self._advance()
        goal_m = None if np.isnan(now.goal_m).any() else now.goal_m[0]
        if not np.isnan(now.angle_deg).any():
            self._scene.show(now.angle_deg[0].tolist(), goal_m)
        self._draw_trace(recent)
        self._write(now)
        return True

    def _handle_keys(self) -> bool:
        """Handle pressed keys; returns False if the window is to be closed."""
        for code in self._pressed():
            if code in (ord("q"), ESCAPE):
                return False
            if code == ord(" "):
                self.playback.toggle()
            elif code in (pybullet.B3G_RIGHT_ARROW, pybullet.B3G_LEFT_ARROW):
                self._step(1 if code == pybullet.B3G_RIGHT_ARROW else -1)
            elif code in (ord("+"), ord("="), pybullet.B3G_UP_ARROW):
                self.playback.speed *= FASTER
            elif code in (ord("-"), pybullet.B3G_DOWN_ARROW):
                self.playback.speed /= FASTER
            elif code == ord("n"):
                self._next()
            elif code == ord("m") and self.live is not None:
                self.live.manual_deg = self._angles_deg() if self.live.manual_deg is None else None
        return True

    def _pressed(self) -> list[int]:
        """Keys pressed since the last picture. PyBullet reports only the release of a key that was also released."""
        pressed = []
        for code, state in pybullet.getKeyboardEvents(**self._client).items():
            tapped = state & pybullet.KEY_WAS_RELEASED and code not in self._held
            if tapped or state & pybullet.KEY_WAS_TRIGGERED:
                pressed.append(code)
            if state & pybullet.KEY_WAS_RELEASED:
                self._held.discard(code)
            else:
                self._held.add(code)
        return pressed

    def _handle_sliders(self) -> None:
        """Handle the sliders that were moved."""
        read = {name: self._value(name) for name in self.sliders}
        moved = {name for name, value in read.items() if value != self._read[name]}
        self._read = read
        if "speed" in moved:
            self.playback.speed = read["speed"]
        if "time (s)" in moved:
            self.playback.seek(read["time (s)"])
        if "next goal" in moved:
            self._next()
        names = self._arm.joint_names
        # Switch to manual control; joints that were not moved keep their targets.
        if self.live is not None and moved & set(names):
            held = self.live.manual_deg or self._angles_deg()
            joints = zip(names, held, strict=True)
            self.live.manual_deg = [read[name] if name in moved else angle for name, angle in joints]

    def _angles_deg(self) -> list[float]:
        """The pose of a live arm."""
        assert self.live is not None
        angles: list[float] = self.live.recent(0.0).angle_deg[-1].tolist()
        return angles

    def _step(self, periods: int) -> None:
        """Pause, and step by control periods; a live arm only steps forward."""
        if self.live is None:
            self.playback.step(periods)
        elif periods > 0:
            self.live.step_paused(self.playback)

    def _next(self) -> None:
        """Continue with the next goal or episode; after the last episode with the first."""
        if self.live is not None:
            self.live.next_goal()
        elif self.trajectory is not None:
            starts_s = [episode.start_s for episode in self.trajectory.episodes]
            number = bisect.bisect_right(starts_s, self.playback.position_s)
            self.playback.seek(starts_s[number % len(starts_s)])

    def _advance(self) -> tuple[Segment, Segment]:
        """Advance; returns the current sample and the last seconds."""
        if self.live is not None:
            self.live.follow(self.playback)
            recent = self.live.recent(TRACE_S)
            return recent.row(-1), recent
        assert self.trajectory is not None
        if self.trajectory.refresh():
            self.playback.length_s = self.trajectory.length_s
        now_s = self.playback.position_s
        return self.trajectory.sample(now_s), self.trajectory.segment(now_s - TRACE_S, now_s, most=2 * TRACE_POINTS)

    def _draw_trace(self, recent: Segment) -> None:
        """Draw the trace of the tip."""
        if time.monotonic() < self._traced_s + TRACE_UPDATE_S:
            return
        self._traced_s = time.monotonic()
        points = recent.trace_m(TRACE_POINTS).tolist()
        if points:
            self._trace_id = pybullet.addUserDebugPoints(
                points, [BLUE] * len(points), 4, replaceItemUniqueId=self._trace_id, **self._client
            )

    def _write(self, now: Segment) -> None:
        """Write the numbers above the arm."""
        if time.monotonic() < self._written_s + TEXT_UPDATE_S:
            return
        self._written_s = time.monotonic()
        text, colour = self._text(now)
        self._text_id = pybullet.addUserDebugText(
            text, self._text_position_m, colour, 1.3, replaceItemUniqueId=self._text_id, **self._client
        )

    def _text(self, now: Segment) -> tuple[str, tuple[float, float, float]]:
        """The goal, the error, the reward and the time; the reason of a fault stop."""
        time_s = float(now.time_s[0])
        pace = f"{self.playback.speed:.2g}x" if self.playback.playing else "paused"
        if self.live is not None:
            name = "by hand" if self.live.manual_deg is not None else self.live.episode_name
        else:
            assert self.trajectory is not None
            if (fault := self.trajectory.fault_at(time_s)) is not None:
                return f"{time_s:.2f} s   STOPPED: {fault}", RED
            episode = self.trajectory.episode_at(time_s)
            name = now.phase[0] if episode is None else episode.name
        error = "" if np.isnan(now.error_mm[0]) else f"   {now.error_mm[0]:.1f} mm   reward {now.reward[0]:.3f}"
        return f"{name}{error}   {time_s:.2f} s   {pace}", INK
