"""The web viewer: a page for any browser that shows the arm and lets the user drag its goal."""

import contextlib
import errno
import math
import queue
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import viser
from markupsafe import Markup
from viser import uplot

from arm_control.viewers.common.live import LiveArm
from arm_control.viewers.common.playback import FASTEST, SLOWEST, Playback, paced, playback_of
from arm_control.viewers.common.stage import BLUE, ORANGE, TRACE_POINTS, TRACE_S, Stage, serving
from arm_control.viewers.common.trajectory import FloatArray, Segment, Trajectory
from arm_control.viewers.web.panel import as_text, numbers, offered, put, rounded
from envs.arm import Arm

PLOTS_S = 1 / 8  # between two drawings of plots and numbers
PLOTTED_S = 10.0
AHEAD_S = 2.5  # of them after the current time
SHOWN_EVENT_S = 3.0  # how long an event is shown
MOST_POINTS = 600  # of a line in a plot
PLOT_HEIGHT = 110
NOW = uplot.Series(label="now", stroke="black", auto=False, points=uplot.Series_Points(show=True, size=7, fill="black"))
SHOWN_ANYWAY = ("phase", "goal", "refusal")  # kinds of events that the numbers show
MAX_REQUESTS = 100  # that wait for the next update: more than users make, and quickly handled


def serve(
    shown: LiveArm | Sequence[Trajectory],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    say: Callable[[str], None] = print,
) -> None:
    """Serve a page until Ctrl-C. Raises OSError for an address that it cannot listen on."""
    check_port(host, port)
    with serving(host, port) as server:
        if server.get_port() != port:  # another program took it in the meantime
            raise OSError(f"port {port} is in use: --port names another")
        page = LivePage(server, shown) if isinstance(shown, LiveArm) else PlayedPage(server, shown)
        name = f"[{host}]" if ":" in host else host
        say(f"http://{name}:{port}   open it in a browser; Ctrl-C ends it")
        paced(page.update)


def check_port(host: str, port: int) -> None:
    """Raise OSError for an address that cannot be listened on: viser would silently take another port."""
    try:
        # A name can have IPv4 and IPv6 addresses, and the server listens on all of them.
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.create_server(address, family=family):
                pass
    except (OSError, UnicodeError) as error:  # an invalid host name
        why = getattr(error, "strerror", None) or "no such host"
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        reason = "is in use" if taken else f"cannot be opened on {host} ({why})"
        raise OSError(f"port {port} {reason}: --port names another") from None


class Page:
    """What both kinds of pages share: the scene, playback, numbers and plots. One thread calls `update`.

    Requests of browsers arrive in other threads, and wait in a queue for the next update.
    """

    steps: tuple[str, ...] = ("back", "on")

    def __init__(self, server: viser.ViserServer, sources: Sequence[LiveArm | Trajectory], playback: Playback) -> None:
        self.server = server
        self.playback = playback
        self._names = [source.name for source in sources]
        self.stage = Stage(server, [source.arm for source in sources])
        self._requests: queue.Queue[Callable[[], None]] = queue.Queue(MAX_REQUESTS)
        self._drawn_s = self._plotted_s = -math.inf
        self._position_s = math.nan
        self.numbers = server.gui.add_html("")
        self._play = server.gui.add_button("Pause", icon=viser.Icon.PLAYER_PAUSE)
        self._step = server.gui.add_button_group("Step", self.steps)
        self._speed = server.gui.add_slider("Speed", min=SLOWEST, max=FASTEST, step=0.1, initial_value=1.0)
        self.on(self._play, lambda _: self.playback.toggle())
        self.on(self._step, lambda step: self.step(-1 if step == "back" else 1))
        self.on(self._speed, lambda speed: setattr(self.playback, "speed", speed))

    def on(self, handle: Any, do: Callable[[Any], None]) -> None:
        """Call `do` with the value that the user gave a control, in the thread of `update`."""

        def used(event: Any) -> None:
            """Queue a change for the next update; ignore those that the program made."""
            if event.client_id is None:
                return
            value = offered(handle, event.target.value)
            self.request(self.show_controls if value is None else lambda: do(value))

        clicked = isinstance(handle, viser.GuiButtonHandle | viser.GuiButtonGroupHandle)
        (handle.on_click if clicked else handle.on_update)(used)

    def request(self, do: Callable[[], None]) -> None:
        """Queue a call for the next `update`; dropped if too many are waiting."""
        with contextlib.suppress(queue.Full):
            self._requests.put_nowait(do)

    def show_controls(self) -> None:
        """Show the current values, after a browser sent one that its control does not offer."""
        put(self._speed, self.playback.speed)

    def add_plots(self, arm: Arm) -> None:
        """Add plots of each joint, the tip error and the reward; a dot marks the current time."""
        colours = [f"rgb{BLUE}", f"rgb{ORANGE}"]
        command_colours = [colours[1]] if len(self._names) == 1 else colours
        names = [""] if len(self._names) == 1 else [f" {name}" for name in self._names]
        # All plots share their series: solid lines for measured values, dashed ones for commands.
        measured = []
        commanded = []
        lines = []
        for name, colour, command_colour in zip(names, colours, command_colours, strict=False):
            measured.append(uplot.Series(label=f"measured{name}", stroke=colour, width=2))
            commanded.append(uplot.Series(label=f"commanded{name}", stroke=command_colour, width=1, dash=(6, 4)))
            lines.append(uplot.Series(label=f"value{name}", stroke=colour, width=2))
        self.error = self._add_plot("tip to goal (mm)", lines)
        self.angles = []
        for name, (low_deg, high_deg, _, _) in zip(arm.joint_names, arm.limits.by_joint, strict=True):
            margin_deg = 0.05 * (high_deg - low_deg)
            span = (low_deg - margin_deg, high_deg + margin_deg)
            self.angles.append(self._add_plot(f"{name} (degrees)", [*measured, *commanded], span))
        self.reward = self._add_plot("reward", lines)

    def _add_plot(
        self, title: str, series: Sequence[uplot.Series], span: tuple[float, float] | None = None
    ) -> viser.GuiUplotHandle:
        return self.server.gui.add_uplot(
            data=tuple(np.zeros(2) for _ in range(2 + len(series))),
            series=(uplot.Series(label="s"), *series, NOW),
            title=title,
            scales={"x": uplot.Scale(time=False)} | ({} if span is None else {"y": uplot.Scale(range=span)}),
            legend=uplot.Legend(show=False),
            height=PLOT_HEIGHT,
        )

    def update(self) -> bool:
        """Handle requests, advance, and draw what has changed; returns True, since only Ctrl-C ends the viewer."""
        # Handle requests. Later ones wait, so that a flood of requests does not block the update.
        requested = self._requests.qsize()
        for _ in range(requested):
            self._requests.get()()
        # Hold the position while no browser is connected.
        if not self.server.get_clients():
            self.rest()
            return True
        # Draw the scene as often as it changes, plots and numbers less often.
        position_s = self.advance()
        if requested or position_s != self._position_s:
            self._position_s = position_s
            self.draw(position_s)
            self._drawn_s = time.monotonic()
        if self._drawn_s > self._plotted_s and time.monotonic() >= self._plotted_s + PLOTS_S:
            self._plotted_s = time.monotonic()
            self._play.label = "Pause" if self.playback.playing else "Play"
            self._play.icon = viser.Icon.PLAYER_PAUSE if self.playback.playing else viser.Icon.PLAYER_PLAY
            self.write(position_s)
        return True

    def plot(self, segments: Sequence[Segment], position_s: float) -> None:
        """Plot the columns of one or two segments against the times of the first, and mark the position."""
        times = segments[0].time_s
        if len(times) < 2:
            return
        # All rows but the last one at or before the position, where the dot is.
        marked = max(0, np.searchsorted(times, position_s + 1e-9, side="right") - 1)
        others = np.arange(len(times)) != marked

        def along(columns: list[FloatArray]) -> list[FloatArray]:
            """A column of each segment, at the first one's times."""
            more = zip(segments[1:], columns[1:], strict=True)
            return [columns[0], *(np.interp(times, segment.time_s, column) for segment, column in more)]

        def put_lines(plot: viser.GuiUplotHandle, lines: list[FloatArray], dashed: list[FloatArray]) -> None:
            """Plot the rows without missing values: an axis cannot begin with NaN."""
            known = ~np.isnan(lines).any(axis=0)
            known |= not known.any()
            columns = (times, *lines, *dashed, np.where(others, np.nan, lines[0]))
            plot.data = tuple(column[known] for column in columns)

        for joint, plot in enumerate(self.angles):
            measured = along([it.angle_deg[:, joint] for it in segments])
            put_lines(plot, measured, along([it.target_deg[:, joint] for it in segments]))
        put_lines(self.error, along([it.error_mm for it in segments]), [])
        put_lines(self.reward, along([it.reward for it in segments]), [])

    def step(self, periods: int) -> None:
        """Pause, and step by control periods."""
        self.playback.step(periods)

    def rest(self) -> None:
        """Called instead of drawing while no browser is connected."""

    def advance(self) -> float:
        """Advance; returns the current position in s."""
        raise NotImplementedError

    def draw(self, position_s: float) -> None:
        """Show the scene at a time."""
        raise NotImplementedError

    def write(self, position_s: float) -> None:
        """Show the numbers and plots at a time."""
        raise NotImplementedError


class PlayedPage(Page):
    """Plays one trajectory, or two overlaid."""

    def __init__(self, server: viser.ViserServer, trajectories: Sequence[Trajectory]) -> None:
        """Start where the first trajectory opens; follow one that grows."""
        self.trajectories = list(trajectories)
        super().__init__(server, trajectories, playback_of(trajectories))
        first = trajectories[0]
        length_s = self.playback.length_s
        self.timeline = server.gui.add_slider(
            "Time (s)", min=0.0, max=max(rounded(length_s), 0.01), step=0.01, initial_value=0.0
        )
        self.episodes = server.gui.add_dropdown("Episode", self._episode_names())
        self.on(self.timeline, self.playback.seek)
        self.on(self.episodes, self._choose)
        self.add_plots(first.arm)
        self._left_s = self.playback.position_s

    def _episode_names(self) -> list[str]:
        return [f"{episode.name}, {episode.start_s:.1f} s" for episode in self.trajectories[0].episodes]

    def _choose(self, name: str) -> None:
        names = self._episode_names()
        if name in names:
            self.playback.seek(self.trajectories[0].episodes[names.index(name)].start_s)

    def rest(self) -> None:
        """Hold the position until a browser connects, unless the recording is growing."""
        if not self.trajectories[0].growing:
            self.playback.seek(self._left_s)

    def advance(self) -> float:
        """Read what was recorded since the last call; returns the current position in s."""
        new = [trajectory.refresh() for trajectory in self.trajectories]
        if any(new):
            self.playback.length_s = max(trajectory.length_s for trajectory in self.trajectories)
            self.timeline.max = rounded(self.playback.length_s)
            if (names := self._episode_names()) != list(self.episodes.options):
                self.episodes.options = names
        self._left_s = self.playback.position_s
        return self._left_s

    def draw(self, position_s: float) -> None:
        """Show the scene at a time."""
        for place, trajectory in enumerate(self.trajectories):
            recent = trajectory.segment(position_s - TRACE_S, position_s, most=200)
            self.stage.show(place, trajectory.sample(position_s), recent.trace_m(TRACE_POINTS))

    def write(self, position_s: float) -> None:
        """Show the numbers and plots at a time."""
        put(self.timeline, rounded(position_s))
        first = self.trajectories[0]
        if (episode := first.episode_at(position_s)) is not None:
            name = f"{episode.name}, {episode.start_s:.1f} s"
            if name in self.episodes.options:
                put(self.episodes, name)
        name = first.sample(position_s).phase[0] if episode is None else episode.name
        now = Markup("<b>{}</b> at {:.2f} s of {:.1f} s").format(name, position_s, self.playback.length_s)
        lines = [now]
        for trajectory, colour in zip(self.trajectories, (BLUE, ORANGE), strict=False):
            lines.append(numbers(trajectory.sample(position_s), trajectory.name, colour))
            if (fault := trajectory.fault_at(position_s)) is not None:
                lines.append(Markup("<b>STOPPED.</b> {}").format(fault))
            if trajectory.lost:
                lines.append(Markup("<b>Damaged:</b> {}").format(trajectory.lost))
            lines += [
                Markup("{} at {:.2f} s: {}").format(event.kind, event.time_s, event.text)
                for event in trajectory.events
                if position_s - SHOWN_EVENT_S < event.time_s <= position_s and event.kind not in SHOWN_ANYWAY
            ]
        self.numbers.content = as_text(lines)
        end_s = min(max(PLOTTED_S, position_s + AHEAD_S), self.playback.length_s)
        shown = [trajectory.segment(end_s - PLOTTED_S, end_s, most=MOST_POINTS) for trajectory in self.trajectories]
        held = [
            it if len(it) else trajectory.sample(end_s) for it, trajectory in zip(shown, self.trajectories, strict=True)
        ]
        self.plot(held, position_s)


class LivePage(Page):
    """Shows a live arm; the user can move its goal or its joints."""

    steps = ("on",)  # a simulation only steps forward

    def __init__(self, server: viser.ViserServer, live: LiveArm) -> None:
        self.live = live
        super().__init__(server, [live], Playback(live.period_s))
        self._next = server.gui.add_button("Next goal", icon=viser.Icon.TARGET)
        self.on(self._next, lambda _: self._change(live.next_goal))
        self.handle: viser.TransformControlsHandle | None = None
        if not live.moving:
            self.handle = server.scene.add_transform_controls(
                "/handle", scale=0.12, disable_rotations=True, depth_test=False
            )
            self._dragged: tuple[float, float, float] | None = None
            self.handle.on_update(self._drag)
            self._hold_goal()
        limits = live.arm.limits
        with server.gui.add_folder("By hand", expand_by_default=False):
            self.manual = server.gui.add_checkbox("Move the joints", initial_value=False)
            self.joints = [
                server.gui.add_slider(name, min=low, max=high, step=0.5, initial_value=low, disabled=True)
                for name, low, high in zip(live.arm.joint_names, limits.lower_deg, limits.upper_deg, strict=True)
            ]
        self.on(self.manual, self._take)
        for joint, slider in enumerate(self.joints):
            self.on(slider, partial(self._turn, joint))
        self.add_plots(live.arm)

    def _change(self, do: Callable[[], None]) -> None:
        do()
        self._hold_goal()

    def _hold_goal(self) -> None:
        """Move the handle to the goal."""
        if self.handle is not None:
            self.handle.position = tuple(self.live.recent(0.0).goal_m[-1].tolist())

    def _drag(self, event: Any) -> None:
        """Queue a drag; only the last position of each update counts."""
        self._dragged = tuple(float(value) for value in event.target.position)  # type: ignore[assignment]
        ended = event.phase == "end"
        self.request(lambda: self._move_goal(ended))

    def _move_goal(self, ended: bool) -> None:
        # Another may arrive in the meantime.
        dragged = self._dragged
        self._dragged = None
        if dragged is not None:
            self.live.move_goal(dragged)
        if ended:  # to the nearest reachable point
            self._hold_goal()

    def _take(self, by_hand: bool) -> None:
        """Give control of the joints to the user, or back to the controller."""
        for slider in self.joints:
            slider.disabled = not by_hand
        self.live.manual_deg = self._slider_angles() if by_hand else None
        self.show_controls()

    def _turn(self, joint: int, angle_deg: float) -> None:
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
        put(self.manual, self.live.manual_deg is not None)
        for slider, angle_deg in zip(self.joints, self._slider_angles(), strict=True):
            put(slider, angle_deg)

    def step(self, periods: int) -> None:
        """Pause, and simulate one control period."""
        self.live.step_paused(self.playback)

    def rest(self) -> None:
        """Hold the arm while no browser is connected."""
        self.playback.seek(self.live.time_s)

    def advance(self) -> float:
        """Simulate up to the current time; a machine that is too slow skips time."""
        before = self.live.episode_name
        self.live.follow(self.playback)
        if self.live.episode_name != before:
            self._hold_goal()
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
                put(slider, angle_deg)
        words = Markup("<b>{}</b> at {:.2f} s").format(self.live.episode_name, position_s)
        self.numbers.content = as_text([words, numbers(recent.row(-1), self.live.name, BLUE)])
        self.plot([recent], position_s)
