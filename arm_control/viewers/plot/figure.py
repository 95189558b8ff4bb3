"""Plots: what an arm was told, what it did, how near it came and what it cost, as a PNG."""

from collections.abc import Sequence
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arm_control.viewers.common.figures import BLUE, COLOURS, ORANGE, TICKS_MM, label_plainly, make_printable, save
from arm_control.viewers.common.motion import TIMINGS, FloatArray, Motion, Stretch

MOST_TICKS = 20_000  # that are drawn, of a long recording evenly
MOST_LINES, MOST_NAMES = 80, 12  # of episodes: more would hide the curves
MOST_REFUSALS = 4  # that are told, below each other
LONGEST_JOINT = 16  # characters of a name beside an axis
BANDS = {"pass": ("0.85", ""), "clamp": (COLOURS[4], "///"), "refuse": ("black", "")}
STYLES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


def save_plot(motions: Sequence[Motion], path: str | Path) -> None:
    """Draw motions of the same arm into a PNG, written whole or not at all."""
    target = png(path)
    save(motion_figure(motions), target)


def png(path: str | Path) -> Path:
    """The path of a picture; raises ValueError if it ends otherwise."""
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise ValueError(f"wanted a file that ends in .png, got {target}")
    return target


def shortened(text: str, longest: int = 60) -> str:
    """A text that fits into a figure's legend or beside an axis, without characters that have no glyph."""
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[: longest + 1])
    return shown if len(text) <= longest else f"{shown[: longest - 3]}..."


def motion_figure(motions: Sequence[Motion]) -> Figure:
    """One or two motions of the same arm against time: angles, tip error, speeds, safety bands and times."""
    arm, limits = motions[0].arm, motions[0].arm.limits
    stretches = [motion.stretch(0.0, motion.length_s, most=MOST_TICKS) for motion in motions]
    timed = [stretch for stretch in stretches if np.any(stretch.timings_us)]
    bands = len({band for stretch in stretches for band in stretch.band} - {"pass"}) > 0 or bool(timed)
    heights = [*[1.4] * arm.joint_count, 1.9, 1.4, *([0.3 * len(motions)] if bands else []), *[1.4] * len(timed)]
    figure = Figure(figsize=(10, 1.1 + sum(heights)), layout="constrained")
    panels: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    colours = (BLUE, ORANGE)
    for joint, axes in enumerate(panels[: arm.joint_count]):
        draw_angles(axes, motions, stretches, joint, colours)
        low, high = limits.lower_deg[joint], limits.upper_deg[joint]
        for limit in (low, high):
            axes.axhline(limit, color="black", linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 1.5, 3, 4.5, 6, 9, 10]))
        axes.set_ylabel(f"{shortened(arm.joint_names[joint], LONGEST_JOINT)}\n(degrees)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    error, speed, *others = panels[arm.joint_count :]
    draw_error(error, motions, stretches, colours)
    draw_speeds(speed, stretches, colours)
    if bands:
        draw_bands(others.pop(0), motions, stretches)
    for axes, stretch in zip(others, timed, strict=True):
        draw_timings(axes, stretch)
    mark_episodes(panels, motions[0])
    panels[-1].set_xlabel("time (s)")
    panels[-1].set_xlim(0.0, max(motion.length_s for motion in motions) or 1.0)
    titles = [shortened(motions[0].name)] if len(motions) == 1 else []  # the legend names two
    if any(thinned(stretch, motion) for stretch, motion in zip(stretches, motions, strict=True)):
        titles.append("not all ticks are drawn")
    figure.suptitle(", ".join(titles), x=0.01, ha="left", fontsize=11)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels(panels)
    make_printable(figure)
    return figure


def thinned(stretch: Stretch, motion: Motion) -> bool:
    """Whether ticks were left out because there are so many."""
    return len(stretch) > 2 and bool(np.median(np.diff(stretch.time_s)) > 1.5 * motion.period_s)


def draw_angles(
    axes: Axes, motions: Sequence[Motion], stretches: Sequence[Stretch], joint: int, colours: Sequence[str]
) -> None:
    """A joint, measured and commanded."""
    for motion, stretch, colour, width in zip(motions, stretches, colours, (2.0, 1.1), strict=False):  # seen in print
        told = ORANGE if len(motions) == 1 else colour
        whose = "" if len(motions) == 1 else f" {shortened(motion.name)}"
        measured = broken(stretch, stretch.angle_deg[:, joint])
        axes.plot(*measured, color=colour, linewidth=width, label=f"measured{whose}")
        axes.plot(
            *broken(stretch, stretch.target_deg[:, joint]),
            color=told,
            linewidth=0.7 * width,
            linestyle="--",
            label=f"commanded{whose}",
        )


def draw_error(axes: Axes, motions: Sequence[Motion], stretches: Sequence[Stretch], colours: Sequence[str]) -> None:
    """The distance from tip to goal, on a logarithmic axis, and what counts as reached."""
    largest = 1.0
    for stretch, colour, style in zip(stretches, colours, STYLES, strict=False):
        axes.plot(*broken(stretch, stretch.error_mm), color=colour, linewidth=1.4, linestyle=style)
        largest = max(largest, np.nanmax(stretch.error_mm, initial=1.0))
    for motion, colour in zip(motions, colours, strict=False):
        mark_errors(axes, motion, colour)
    if (tolerance_m := motions[0].tolerance_m) is not None:
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


def mark_errors(axes: Axes, motion: Motion, colour: str) -> None:
    """A dot where each goal's time is over, at the error that `arm-control run` prints, while there is room."""
    if len(motion.episodes) > MOST_LINES:
        return
    errors_mm = [motion.error_at_end_mm(episode) for episode in motion.episodes]
    axes.scatter([episode.end_s for episode in motion.episodes], errors_mm, s=18.0, color=colour, zorder=3)


def draw_speeds(axes: Axes, stretches: Sequence[Stretch], colours: Sequence[str]) -> None:
    """The joints' speeds, a line style each, and their limits."""
    arm = stretches[0].arm
    for stretch, colour in zip(stretches, colours, strict=False):
        for joint, style in zip(range(arm.joint_count), cycle(STYLES), strict=False):
            shade = COLOURS[joint % len(COLOURS)] if len(stretches) == 1 else colour
            label = shortened(arm.joint_names[joint]) if stretch is stretches[0] else None
            speeds = broken(stretch, stretch.speed_deg_s[:, joint])
            axes.plot(*speeds, color=shade, linestyle=style, linewidth=1.1, label=label)
    for limit in {limit for most in arm.limits.max_speed_deg_s for limit in (-most, most)}:
        axes.axhline(limit, color="black", linewidth=0.8, linestyle=(0, (1, 2)))
    axes.set_ylabel("speed\n(degrees/s)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), fontsize=8, frameon=False)


def draw_bands(axes: Axes, motions: Sequence[Motion], stretches: Sequence[Stretch]) -> None:
    """What safety made of each target: a strip for each motion."""
    for place, (motion, stretch) in enumerate(zip(motions, stretches, strict=True)):
        for band, (colour, hatch) in BANDS.items():
            spans = [
                (stretch.time_s[first], stretch.time_s[last] + motion.period_s - stretch.time_s[first])
                for first, last in runs_of(stretch.band, band)
            ]
            label = band if place == 0 else None
            axes.broken_barh(
                spans, (-place - 0.45, 0.9), facecolor=colour, hatch=hatch, edgecolor="0.3", lw=0, label=label
            )
    axes.set_ylim(0.5 - len(motions), 0.5)
    axes.set_yticks([])
    axes.set_ylabel("safety", rotation=0, ha="right", va="center")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False, handlelength=1.2)


def draw_timings(axes: Axes, stretch: Stretch) -> None:
    """How late ticks began, and what their parts took, on a logarithmic axis."""
    for name, times, colour, style in zip(TIMINGS, stretch.timings_us.T, COLOURS, STYLES, strict=False):
        shown = np.where(times > 0.0, times, np.nan)
        if np.isfinite(shown).any():
            label = name.removesuffix("_us").replace("_", " ")
            axes.plot(*broken(stretch, shown), color=colour, linewidth=0.8, linestyle=style, label=label)
    axes.set_yscale("log")
    label_plainly(axes.yaxis)
    axes.set_ylabel("times\n(microseconds)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), fontsize=8, frameon=False)


def mark_episodes(panels: Sequence[Axes], motion: Motion) -> None:
    """A line where each goal begins, and its name, while there is room; and where the arm was stopped, and why."""
    above: dict[str, Any] = {
        "xycoords": ("data", "axes fraction"),
        "textcoords": "offset points",
        "fontsize": 8,
        "va": "bottom",
    }
    for episode in motion.episodes if 1 < len(motion.episodes) <= MOST_LINES else ():
        for axes in panels:
            axes.axvline(episode.start_s, color="0.55", linewidth=0.8)
        if len(motion.episodes) <= MOST_NAMES:
            panels[0].annotate(shortened(episode.name), (episode.start_s, 1.0), (2, 1), color="0.3", **above)
    refusals = [event for event in motion.events if event.kind == "refusal"]
    for place, event in enumerate(refusals):
        for axes in panels:
            axes.axvline(event.time_s, color="black", linewidth=1.4)
        if place < MOST_REFUSALS:
            side, shift = ("right", -4) if event.time_s > 0.5 * motion.length_s else ("left", 4)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            text = f"stopped: {shortened(event.text)}"
            panels[0].annotate(text, (event.time_s, 0.72 - 0.2 * place), (shift, 0), ha=side, bbox=box, **above)


def broken(stretch: Stretch, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Times and values of a line that is interrupted where ticks are missing."""
    times = stretch.time_s
    if len(times) < 3:
        return times, values
    steps = np.diff(times)
    gaps = np.flatnonzero(steps > 20.0 * np.median(steps)) + 1
    return np.insert(times, gaps, np.nan), np.insert(values, gaps, np.nan)


def runs_of(bands: Sequence[str], wanted: str) -> list[tuple[int, int]]:
    """First and last places of each run of a band."""
    found, at = [], 0
    for band, run in groupby(bands):
        length = sum(1 for _ in run)
        if band == wanted:
            found.append((at, at + length - 1))
        at += length
    return found
