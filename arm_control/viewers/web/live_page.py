"""The page of a live arm, whose goal or joints the user can move."""

from functools import partial
from typing import Any

import viser
from markupsafe import Markup

from arm_control.viewers.common.live import LiveArm
from arm_control.viewers.common.playback import Playback
from arm_control.viewers.common.stage import BLUE, TRACE_POINTS, TRACE_S
from arm_control.viewers.web.page import PLOTTED_S, Page
from arm_control.viewers.web.panel import as_html, numbers, set_value


class LivePage(Page):
    """Shows a live arm; the user can move its goal or its joints."""

    steps = ("forward",)  # a simulation only steps forward

    def __init__(self, server: viser.ViserServer, live: LiveArm) -> None:
        self.live = live
        super().__init__(server, [live], Playback(live.period_s))
        self._next = server.gui.add_button("Next goal", icon=viser.Icon.TARGET)
        self.on_change(self._next, lambda _: self._next_goal())
        # A handle to drag the goal, unless it follows a path.
        self.handle: viser.TransformControlsHandle | None = None
        if not live.moving:
            self.handle = server.scene.add_transform_controls(
                "/handle", scale=0.12, disable_rotations=True, depth_test=False
            )
            self._dragged: tuple[float, float, float] | None = None
            self.handle.on_update(self._drag)
            self._move_handle()
        # Manual control: a slider for each joint.
        limits = live.arm.limits
        with server.gui.add_folder("By hand", expand_by_default=False):
            self.manual = server.gui.add_checkbox("Move the joints", initial_value=False)
            self.joints = []
            for name, low, high in zip(live.arm.joint_names, limits.lower_deg, limits.upper_deg, strict=True):
                slider = server.gui.add_slider(name, min=low, max=high, step=0.5, initial_value=low, disabled=True)
                self.joints.append(slider)
        self.on_change(self.manual, self._set_manual)
        for joint, slider in enumerate(self.joints):
            self.on_change(slider, partial(self._set_target, joint))
        self.add_plots(live.arm)

    def _next_goal(self) -> None:
        self.live.next_goal()
        self._move_handle()

    def _move_handle(self) -> None:
        """Move the handle to the goal."""
        if self.handle is not None:
            self.handle.position = tuple(self.live.recent(0.0).goal_m[-1].tolist())

    def _drag(self, event: Any) -> None:
        """Queue a drag; only the last position of each update counts."""
        self._dragged = tuple(float(value) for value in event.target.position)  # type: ignore[assignment]
        ended = event.phase == "end"
        self.request(lambda: self._move_goal(ended))

    def _move_goal(self, ended: bool) -> None:
        # Take the latest position: another drag may arrive in the meantime.
        dragged = self._dragged
        self._dragged = None
        if dragged is not None:
            self.live.move_goal(dragged)
        # Snap the handle to the goal, which is the nearest reachable point.
        if ended:
            self._move_handle()

    def _set_manual(self, by_hand: bool) -> None:
        """Give control of the joints to the user, or back to the controller."""
        for slider in self.joints:
            slider.disabled = not by_hand
        self.live.manual_deg = self._slider_angles() if by_hand else None
        self.show_controls()

    def _set_target(self, joint: int, angle_deg: float) -> None:
        """Set the target of a joint under manual control."""
        if self.live.manual_deg is not None:
            self.live.manual_deg[joint] = angle_deg

    def _slider_angles(self) -> list[float]:
        """The angles for the joints' sliders: the targets under manual control, else the measured angles."""
        if self.live.manual_deg is not None:
            return self.live.manual_deg
        measured_deg = self.live.recent(0.0).angle_deg[-1].tolist()
        return [round(2.0 * angle) / 2.0 for angle in self.live.arm.limits.clip(measured_deg)]

    def show_controls(self) -> None:
        """Show the current values."""
        super().show_controls()
        set_value(self.manual, self.live.manual_deg is not None)
        for slider, angle_deg in zip(self.joints, self._slider_angles(), strict=True):
            set_value(slider, angle_deg)

    def step(self, periods: int) -> None:
        """Pause, and simulate one control period."""
        self.live.step_paused(self.playback)

    def hold(self) -> None:
        """Hold the arm while no browser is connected."""
        self.playback.seek(self.live.time_s)

    def advance(self) -> float:
        """Simulate up to the current time; a machine that is too slow skips time."""
        before = self.live.episode_name
        self.live.follow(self.playback)
        if self.live.episode_name != before:
            self._move_handle()
        return self.live.time_s

    def draw(self, position_s: float) -> None:
        """Show the arm's current pose."""
        recent = self.live.recent(TRACE_S)
        self.stage.show(0, recent.row(-1), recent.trace_m(TRACE_POINTS))

    def write(self, position_s: float) -> None:
        """Show the current numbers and plots."""
        recent = self.live.recent(PLOTTED_S)
        if self.live.manual_deg is None:
            for slider, angle_deg in zip(self.joints, self._slider_angles(), strict=True):
                set_value(slider, angle_deg)
        heading = Markup("<b>{}</b> at {:.2f} s").format(self.live.episode_name, position_s)
        self.numbers.content = as_html([heading, numbers(recent.row(-1), self.live.name, BLUE)])
        self.plot([recent], position_s)
