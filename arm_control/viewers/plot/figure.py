"""Plots of trajectories as a PNG: angles, targets, errors, speeds, safety levels and timings."""

from collections.abc import Sequence
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arm_control.runner.safety.latch import SafetyLevel
from arm_control.viewers.common.figures import BLUE, COLOURS, ORANGE, TICKS_MM, label_plainly, make_printable, save
from arm_control.viewers.common.trajectory import TIMINGS, FloatArray, Segment, Trajectory
from envs.arm import Arm

MOST_TICKS = 20_000  # that are drawn; longer recordings are thinned evenly
MOST_LINES = 80  # of episodes: more would hide the curves
MOST_NAMES = 12
MOST_FAULTS = 4  # whose text is shown, one below the other
LONGEST_JOINT = 16  # characters of a name beside an axis
# Colour and hatch of each safety level.
LEVELS = {
    SafetyLevel.OK: ("0.85", ""),
    SafetyLevel.CLAMPED: (COLOURS[4], "///"),
    SafetyLevel.FAULT: ("black", ""),
}
# Annotations at a time, and at a height as a fraction of the panel.
TEXT_AT_TIME: dict[str, Any] = {
    "xycoords": ("data", "axes fraction"),
    "textcoords": "offset points",
    "fontsize": 8,
    "va": "bottom",
}
STYLES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


def save_plot(trajectories: Sequence[Trajectory], path: str | Path) -> None:
    """Draw trajectories of the same arm into a PNG, written whole or not at all."""
    target = png(path)
    save(trajectory_figure(trajectories), target)


def png(path: str | Path) -> Path:
    """The path of a PNG file. Raises ValueError for another ending."""
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise ValueError(f"expected a file ending in .png, got {target}")
    return target


def shortened(text: str, longest: int = 60) -> str:
    """A text short enough for a legend or an axis, with a placeholder for characters without a glyph."""
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[: longest + 1])
    return shown if len(text) <= longest else f"{shown[: longest - 3]}..."


def trajectory_figure(trajectories: Sequence[Trajectory]) -> Figure:
    """One or two trajectories of the same arm against time: angles, tip error, speeds, safety levels and timings."""
    arm = trajectories[0].arm
    segments = [trajectory.segment(0.0, trajectory.length_s, most=MOST_TICKS) for trajectory in trajectories]
    timed = [segment for segment in segments if np.any(segment.timings_us)]
    has_levels = bool(timed) or any(set(segment.band) - {SafetyLevel.OK.value} for segment in segments)
    # Heights in inches: a panel for each joint, the error, the speeds, the safety levels, and timings.
    heights = [1.4] * arm.joint_count + [1.9, 1.4]
    if has_levels:
        heights.append(0.3 * len(trajectories))
    heights += [1.4] * len(timed)
    figure = Figure(figsize=(10, 1.1 + sum(heights)), layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    # Draw the panels from top to bottom.
    colours = (BLUE, ORANGE)
    for joint, axes in enumerate(panels[: arm.joint_count]):
        draw_angles(axes, trajectories, segments, joint, colours)
        scale_angles(axes, arm, joint)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    error, speed, *others = panels[arm.joint_count :]
    draw_error(error, trajectories, segments, colours)
    draw_speeds(speed, segments, colours)
    if has_levels:
        draw_safety_levels(others.pop(0), trajectories, segments)
    for axes, segment in zip(others, timed, strict=True):
        draw_timings(axes, segment)
    mark_episodes(panels, trajectories[0])
    mark_faults(panels, trajectories[0])
    panels[-1].set_xlabel("time (s)")
    panels[-1].set_xlim(0.0, max(trajectory.length_s for trajectory in trajectories) or 1.0)
    # The legend names two trajectories, the title a single one.
    titles = [shortened(trajectories[0].name)] if len(trajectories) == 1 else []
    if any(thinned(segment, trajectory) for segment, trajectory in zip(segments, trajectories, strict=True)):
        titles.append("not all ticks are drawn")
    figure.suptitle(", ".join(titles), x=0.01, ha="left", fontsize=11)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels(panels)
    make_printable(figure)
    return figure


def scale_angles(axes: Axes, arm: Arm, joint: int) -> None:
    """The limits of a joint as lines, and a range around them."""
    low_deg = arm.limits.lower_deg[joint]
    high_deg = arm.limits.upper_deg[joint]
    for limit_deg in (low_deg, high_deg):
        axes.axhline(limit_deg, color="black", linewidth=0.8, linestyle=(0, (1, 2)))
    margin_deg = 0.12 * (high_deg - low_deg)
    axes.set_ylim(low_deg - margin_deg, high_deg + margin_deg)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 1.5, 3, 4.5, 6, 9, 10]))
    axes.set_ylabel(f"{shortened(arm.joint_names[joint], LONGEST_JOINT)}\n(degrees)")


def thinned(segment: Segment, trajectory: Trajectory) -> bool:
    """Return True if ticks were left out because there are too many to draw."""
    return len(segment) > 2 and bool(np.median(np.diff(segment.time_s)) > 1.5 * trajectory.period_s)


def draw_angles(
    axes: Axes, trajectories: Sequence[Trajectory], segments: Sequence[Segment], joint: int, colours: Sequence[str]
) -> None:
    """The measured and commanded angle of a joint."""
    for trajectory, segment, colour, width in zip(trajectories, segments, colours, (2.0, 1.1), strict=False):
        command_colour = ORANGE if len(trajectories) == 1 else colour
        whose = "" if len(trajectories) == 1 else f" {shortened(trajectory.name)}"
        measured = broken(segment, segment.angle_deg[:, joint])
        axes.plot(*measured, color=colour, linewidth=width, label=f"measured{whose}")
        axes.plot(
            *broken(segment, segment.target_deg[:, joint]),
            color=command_colour,
            linewidth=0.7 * width,
            linestyle="--",
            label=f"commanded{whose}",
        )


def draw_error(
    axes: Axes, trajectories: Sequence[Trajectory], segments: Sequence[Segment], colours: Sequence[str]
) -> None:
    """The distance from tip to goal on a logarithmic axis, and the tolerance."""
    largest = 1.0
    for segment, colour, style in zip(segments, colours, STYLES, strict=False):
        axes.plot(*broken(segment, segment.error_mm), color=colour, linewidth=1.4, linestyle=style)
        largest = max(largest, np.nanmax(segment.error_mm, initial=1.0))
    for trajectory, colour in zip(trajectories, colours, strict=False):
        mark_errors(axes, trajectory, colour)
    # The tolerance, within which a goal counts as reached.
    if (tolerance_m := trajectories[0].tolerance_m) is not None:
        axes.axhline(1000.0 * tolerance_m, color="black", linewidth=0.8, linestyle=(0, (1, 2)))
        place: dict[str, Any] = {
            "xycoords": ("axes fraction", "data"),
            "textcoords": "offset points",
            "fontsize": 8,
            "ha": "right",
        }
        axes.annotate(f"reached: {1000.0 * tolerance_m:g} mm", (1.0, 1000.0 * tolerance_m), (-2, 3), **place)
    axes.set_yscale("log")
    axes.set_ylim(0.01, 1.5 * largest)
    axes.set_yticks([mm for mm in TICKS_MM[6::3] if mm <= 1.5 * largest])
    label_plainly(axes.yaxis)
    axes.set_ylabel("tip to goal\n(mm)")


def mark_errors(axes: Axes, trajectory: Trajectory, colour: str) -> None:
    """A dot at the end of each episode, at the error that `arm-control run` prints, unless there are too many."""
    if len(trajectory.episodes) > MOST_LINES:
        return
    errors_mm = [trajectory.error_at_end_mm(episode) for episode in trajectory.episodes]
    axes.scatter([episode.end_s for episode in trajectory.episodes], errors_mm, s=18.0, color=colour, zorder=3)


def draw_speeds(axes: Axes, segments: Sequence[Segment], colours: Sequence[str]) -> None:
    """The joints' speeds, a line style each, and their limits."""
    arm = segments[0].arm
    for segment, colour in zip(segments, colours, strict=False):
        for joint, style in zip(range(arm.joint_count), cycle(STYLES), strict=False):
            shade = COLOURS[joint % len(COLOURS)] if len(segments) == 1 else colour
            label = shortened(arm.joint_names[joint]) if segment is segments[0] else None
            speeds = broken(segment, segment.speed_deg_s[:, joint])
            axes.plot(*speeds, color=shade, linestyle=style, linewidth=1.1, label=label)
    for max_speed_deg_s in set(arm.limits.max_speed_deg_s):
        for limit_deg_s in (-max_speed_deg_s, max_speed_deg_s):
            axes.axhline(limit_deg_s, color="black", linewidth=0.8, linestyle=(0, (1, 2)))
    axes.set_ylabel("speed\n(degrees/s)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), fontsize=8, frameon=False)


def draw_safety_levels(axes: Axes, trajectories: Sequence[Trajectory], segments: Sequence[Segment]) -> None:
    """The safety level of each target: a strip for each trajectory."""
    for place, (trajectory, segment) in enumerate(zip(trajectories, segments, strict=True)):
        for level, (colour, hatch) in LEVELS.items():
            spans = []  # start and duration of each run of this level
            for first, last in runs_of(segment.band, level.value):
                start_s = segment.time_s[first]
                spans.append((start_s, segment.time_s[last] + trajectory.period_s - start_s))
            label = level.name.lower() if place == 0 else None
            axes.broken_barh(
                spans, (-place - 0.45, 0.9), facecolor=colour, hatch=hatch, edgecolor="0.3", lw=0, label=label
            )
    axes.set_ylim(0.5 - len(trajectories), 0.5)
    axes.set_yticks([])
    axes.set_ylabel("safety", rotation=0, ha="right", va="center")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False, handlelength=1.2)


def draw_timings(axes: Axes, segment: Segment) -> None:
    """The period error of ticks and the duration of their parts, on a logarithmic axis."""
    for name, times, colour, style in zip(TIMINGS, segment.timings_us.T, COLOURS, STYLES, strict=False):
        shown = np.where(times > 0.0, times, np.nan)
        if np.isfinite(shown).any():
            label = name.removesuffix("_us").replace("_", " ")
            axes.plot(*broken(segment, shown), color=colour, linewidth=0.8, linestyle=style, label=label)
    axes.set_yscale("log")
    label_plainly(axes.yaxis)
    axes.set_ylabel("times\n(microseconds)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), fontsize=8, frameon=False)


def mark_episodes(panels: Sequence[Axes], trajectory: Trajectory) -> None:
    """A line and a name at the start of each goal, unless there are too many."""
    if not 1 < len(trajectory.episodes) <= MOST_LINES:
        return
    for episode in trajectory.episodes:
        for axes in panels:
            axes.axvline(episode.start_s, color="0.55", linewidth=0.8)
        if len(trajectory.episodes) <= MOST_NAMES:
            name = shortened(episode.name)
            panels[0].annotate(name, (episode.start_s, 1.0), (2, 1), color="0.3", **TEXT_AT_TIME)


def mark_faults(panels: Sequence[Axes], trajectory: Trajectory) -> None:
    """A line at each fault stop, and the reasons of the first ones."""
    faults = [event for event in trajectory.events if event.kind == "refusal"]
    for place, event in enumerate(faults):
        for axes in panels:
            axes.axvline(event.time_s, color="black", linewidth=1.4)
        if place < MOST_FAULTS:
            # The text is on the side of the line that has more room.
            side, shift = ("right", -4) if event.time_s > 0.5 * trajectory.length_s else ("left", 4)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            text = f"stopped: {shortened(event.text)}"
            at = (event.time_s, 0.72 - 0.2 * place)
            panels[0].annotate(text, at, (shift, 0), ha=side, bbox=box, **TEXT_AT_TIME)


def broken(segment: Segment, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Times and values of a line, interrupted by NaN where ticks are missing."""
    times = segment.time_s
    if len(times) < 3:
        return times, values
    steps = np.diff(times)
    gaps = np.flatnonzero(steps > 20.0 * np.median(steps)) + 1
    return np.insert(times, gaps, np.nan), np.insert(values, gaps, np.nan)


def runs_of(bands: Sequence[str], level: str) -> list[tuple[int, int]]:
    """First and last index of each run of a safety level."""
    found = []
    first = 0
    for band, run in groupby(bands):
        length = sum(1 for _ in run)
        if band == level:
            found.append((first, first + length - 1))
        first += length
    return found
