"""The parts that all pages share: scene, playback controls, numbers and plots."""

import contextlib
import math
import queue
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import viser
from viser import uplot

from arm_control.viewers.common.live import LiveArm
from arm_control.viewers.common.playback import FASTEST, SLOWEST, Playback
from arm_control.viewers.common.stage import BLUE, ORANGE, Stage
from arm_control.viewers.common.trajectory import FloatArray, Segment, Trajectory
from arm_control.viewers.web.panel import checked_value, set_value
from envs.arm import Arm

PLOTS_S = 1 / 8  # period of drawing plots and numbers
PLOTTED_S = 10.0  # time span of plots
PLOT_HEIGHT = 110
NOW = uplot.Series(label="now", stroke="black", auto=False, points=uplot.Series_Points(show=True, size=7, fill="black"))
MAX_REQUESTS = 100  # in the queue for the next update: more than users make, and quickly handled


class Page:
    """A page: scene, playback controls, numbers and plots.

    One thread calls `update`. Requests of browsers arrive in other threads and are queued for the next update.
    """

    steps: tuple[str, ...] = ("back", "forward")

    def __init__(self, server: viser.ViserServer, sources: Sequence[LiveArm | Trajectory], playback: Playback) -> None:
        self.server = server
        self.playback = playback
        self._names = [source.name for source in sources]
        self.stage = Stage(server, [source.arm for source in sources])
        self._requests: queue.Queue[Callable[[], None]] = queue.Queue(MAX_REQUESTS)
        self._drawn_s = -math.inf
        self._plotted_s = -math.inf
        self._position_s = math.nan
        self.numbers = server.gui.add_html("")
        self._play = server.gui.add_button("Pause", icon=viser.Icon.PLAYER_PAUSE)
        self._step = server.gui.add_button_group("Step", self.steps)
        self._speed = server.gui.add_slider("Speed", min=SLOWEST, max=FASTEST, step=0.1, initial_value=1.0)
        self.on_change(self._play, lambda _: self.playback.toggle())
        self.on_change(self._step, lambda step: self.step(-1 if step == "back" else 1))
        self.on_change(self._speed, lambda speed: setattr(self.playback, "speed", speed))

    def on_change(self, handle: Any, do: Callable[[Any], None]) -> None:
        """Call `do` with the value that the user gave a control, in the thread of `update`."""

        def changed(event: Any) -> None:
            """Queue a change by a user for the next update; ignore those that the program made."""
            if event.client_id is None:
                return
            value = checked_value(handle, event.target.value)
            self.request(self.show_controls if value is None else lambda: do(value))

        if isinstance(handle, viser.GuiButtonHandle | viser.GuiButtonGroupHandle):
            handle.on_click(changed)
        else:
            handle.on_update(changed)

    def request(self, do: Callable[[], None]) -> None:
        """Queue a call for the next `update`; dropped if too many are waiting."""
        with contextlib.suppress(queue.Full):
            self._requests.put_nowait(do)

    def show_controls(self) -> None:
        """Show the current values, after a browser sent one that its control does not offer."""
        set_value(self._speed, self.playback.speed)

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
            self.hold()
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

        def align(columns: list[FloatArray]) -> list[FloatArray]:
            """A column of each segment, at the first one's times."""
            aligned = [columns[0]]
            for segment, column in zip(segments[1:], columns[1:], strict=True):
                aligned.append(np.interp(times, segment.time_s, column))
            return aligned

        def put_lines(plot: viser.GuiUplotHandle, lines: list[FloatArray], dashed: list[FloatArray]) -> None:
            """Plot the rows without missing values: an axis cannot begin with NaN."""
            known = ~np.isnan(lines).any(axis=0)
            known |= not known.any()
            columns = (times, *lines, *dashed, np.where(others, np.nan, lines[0]))
            plot.data = tuple(column[known] for column in columns)

        for joint, plot in enumerate(self.angles):
            measured = align([it.angle_deg[:, joint] for it in segments])
            put_lines(plot, measured, align([it.target_deg[:, joint] for it in segments]))
        put_lines(self.error, align([it.error_mm for it in segments]), [])
        put_lines(self.reward, align([it.reward for it in segments]), [])

    def step(self, periods: int) -> None:
        """Pause, and step by control periods."""
        self.playback.step(periods)

    def hold(self) -> None:
        """Hold the position; called instead of drawing while no browser is connected."""

    def advance(self) -> float:
        """Advance; returns the current position in s."""
        raise NotImplementedError

    def draw(self, position_s: float) -> None:
        """Show the scene at a time."""
        raise NotImplementedError

    def write(self, position_s: float) -> None:
        """Show the numbers and plots at a time."""
        raise NotImplementedError
