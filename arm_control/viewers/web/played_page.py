"""The page of one recorded or simulated trajectory, or of two overlaid."""

from collections.abc import Sequence

import viser
from markupsafe import Markup

from arm_control.viewers.common.playback import playback_of
from arm_control.viewers.common.stage import BLUE, ORANGE, TRACE_POINTS, TRACE_S
from arm_control.viewers.common.trajectory import Trajectory
from arm_control.viewers.web.page import PLOTTED_S, Page
from arm_control.viewers.web.panel import as_html, numbers, rounded, set_value

AHEAD_S = 2.5  # part of the plots' time span after the current time
SHOWN_EVENT_S = 3.0  # how long an event is shown
MOST_POINTS = 600  # of a line in a plot
ALREADY_SHOWN = ("phase", "goal", "refusal")  # kinds of events that the numbers show


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
        self.on_change(self.timeline, self.playback.seek)
        self.on_change(self.episodes, self._choose)
        self.add_plots(first.arm)
        self._left_s = self.playback.position_s

    def _episode_names(self) -> list[str]:
        return [f"{episode.name}, {episode.start_s:.1f} s" for episode in self.trajectories[0].episodes]

    def _choose(self, name: str) -> None:
        names = self._episode_names()
        if name in names:
            self.playback.seek(self.trajectories[0].episodes[names.index(name)].start_s)

    def hold(self) -> None:
        """Hold the position until a browser connects, unless the recording is growing."""
        if not self.trajectories[0].growing:
            self.playback.seek(self._left_s)

    def advance(self) -> float:
        """Read what was recorded since the last call; returns the current position in s."""
        have_grown = [trajectory.refresh() for trajectory in self.trajectories]
        if any(have_grown):
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
        # The position on the timeline, and the episode there.
        set_value(self.timeline, rounded(position_s))
        first = self.trajectories[0]
        if (episode := first.episode_at(position_s)) is not None:
            name = f"{episode.name}, {episode.start_s:.1f} s"
            if name in self.episodes.options:
                set_value(self.episodes, name)
        name = first.sample(position_s).phase[0] if episode is None else episode.name
        now = Markup("<b>{}</b> at {:.2f} s of {:.1f} s").format(name, position_s, self.playback.length_s)
        # The numbers, and recent events, of each trajectory.
        lines = [now]
        for trajectory, colour in zip(self.trajectories, (BLUE, ORANGE), strict=False):
            lines.append(numbers(trajectory.sample(position_s), trajectory.name, colour))
            if (fault := trajectory.fault_at(position_s)) is not None:
                lines.append(Markup("<b>STOPPED.</b> {}").format(fault))
            if trajectory.lost:
                lines.append(Markup("<b>Damaged:</b> {}").format(trajectory.lost))
            for event in trajectory.events:
                is_recent = position_s - SHOWN_EVENT_S < event.time_s <= position_s
                if is_recent and event.kind not in ALREADY_SHOWN:
                    lines.append(Markup("{} at {:.2f} s: {}").format(event.kind, event.time_s, event.text))
        self.numbers.content = as_html(lines)
        # Plots around the position.
        end_s = min(max(PLOTTED_S, position_s + AHEAD_S), self.playback.length_s)
        shown = []
        for trajectory in self.trajectories:
            segment = trajectory.segment(end_s - PLOTTED_S, end_s, most=MOST_POINTS)
            # In a gap of a recording, hold the last tick before it.
            shown.append(segment if len(segment) else trajectory.sample(end_s))
        self.plot(shown, position_s)
