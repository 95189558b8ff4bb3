"""Figures, each an object of its own: nothing is set for the program that asks for one."""

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from arm_control.evaluation.metrics import LADDER_MM
from arm_control.evaluation.statistics import bootstrap_interval, interquartile_mean, three_digits
from arm_control.process.printing import printable
from arm_control.runs.files import written_whole

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's palette, told apart by the colour-blind
POINTS = 40  # of a learning curve
LONGEST_LABEL = 120  # characters
TICKS_MM = tuple(digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5))  # for arms of any size
LEAST_RANGE_DEG = 0.01  # below which ranges are drawn on a linear scale
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00")  # theirs too; with the markers, 20 lines that differ


def draw_learning_curve(rows: list[dict[str, Any]], path: Path, tolerance_mm: float, error_name: str) -> None:
    """Validation error and success against training time, as a PNG written whole or not at all."""
    seconds = [row["elapsed_s"] for row in rows]
    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    above.plot(seconds, [row["mean_error_mm"] for row in rows], color=BLUE, marker="o", markersize=4)
    above.set_yscale("log")
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    above.yaxis.set_minor_formatter(NullFormatter())
    errors_mm = [row["mean_error_mm"] for row in rows]
    above.set_yticks([mm for mm in TICKS_MM if 0.5 * min(errors_mm) <= mm <= max(200, 2 * max(errors_mm))])
    above.set_ylabel(f"mean {error_name}\n(mm)")
    above.set_title("Distance from tip to goal, validation goals", loc="left", fontsize=11)
    last = rows[-1]["mean_error_mm"]
    above.annotate(f"{last:.2f} mm", (seconds[-1], last), (6, 0), textcoords="offset points", va="center", color=BLUE)
    above.margins(x=0.12)
    below.plot(seconds, [row["success"] for row in rows], color=ORANGE, marker="s", markersize=4)
    below.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.set_ylim(-0.05, 1.05)
    below.set_ylabel(f"share of episodes\nwithin {tolerance_mm:g} mm")
    below.set_xlabel("training time (s)")
    _finish(figure, (above, below), path)


def draw_lines(lines: dict[str, tuple[list[float], list[float]]], path: Path, *, title: str, x: str, y: str) -> None:
    """Lines by their names over a logarithmic y axis, as a PNG written whole or not at all."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (name, (xs, ys)), colour, marker in zip(lines.items(), cycle(COLOURS), cycle("os^D"), strict=False):
        axes.plot(xs, ys, color=colour, marker=marker, markersize=4, label=name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    lowest, highest = (f([value for _, ys in lines.values() for value in ys]) for f in (min, max))
    axes.set_yticks([mm for mm in TICKS_MM if 0.5 * lowest <= mm <= 2 * highest])
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(frameon=False)
    _finish(figure, (axes,), path)


def draw_costs(rows: list[dict[str, Any]], path: Path) -> None:
    """What a decision, an update and the memory come to against the number of joints; computed values are hollow."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    all_axes = figure.subplots(1, 3)
    titles = {"decision_ms": "One decision (ms)", "update_ms": "One update (ms)", "memory_mb": "Memory to learn (MB)"}
    names = list(dict.fromkeys(row["agent"] for row in rows))
    for axes, (column, title) in zip(all_axes, titles.items(), strict=True):
        for name, colour, marker in zip(names, COLOURS, "os^", strict=False):
            measured = [row for row in rows if row["agent"] == name and not row["computed"]]
            computed = [row for row in rows if row["agent"] == name and row["computed"]]
            points = [(row["joints"], row[column]) for row in measured]
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=name)
            further = [points[-1], *((row["joints"], row[column]) for row in computed)]
            axes.plot(*zip(*further, strict=True), color=colour, linestyle=":")
            axes.plot(*zip(*further[1:], strict=True), color=colour, marker=marker, fillstyle="none", linestyle="")
        axes.set_yscale("log")
        axes.set_title(title, loc="left", fontsize=11)
        joints = sorted({row["joints"] for row in rows})
        axes.set_xticks(joints)
        axes.set_xlabel("joints (hollow: computed)")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    _finish(figure, tuple(all_axes), path)


def draw_ladder(curves: dict[str, list[NDArray[np.float64]]], path: Path, *, floor_mm: float | None) -> None:
    """Validation errors, from rows of (seconds, steps, error in mm): a colour for each name, a line for each seed.

    `floor_mm` is the least error that the grid allows, if it is known.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    all_axes = figure.subplots(1, 2, sharey=True)
    for axes, column, label in zip(all_axes, (0, 1), ("training time (s)", "environment steps"), strict=True):
        for (name, runs), colour, marker in zip(curves.items(), cycle(COLOURS), cycle("os^Dv"), strict=False):
            for place, run in enumerate(runs):
                seen = run[run[:, column] > 0]
                style = {"color": colour, "marker": marker, "markersize": 3.5, "linewidth": 1.2}
                axes.plot(seen[:, column], seen[:, 2], **style, label=name if place == 0 else None)
        if floor_mm is not None:
            axes.axhline(floor_mm, color="black", linestyle="--", linewidth=1)
        axes.set_yscale("log")
        axes.set_yticks([1, 2, 5, 10, 20, 50, 100, 200, 400])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label)
    all_axes[1].set_xscale("log")
    all_axes[0].set_ylabel("mean error at the last step (mm)")
    all_axes[0].set_title("Validation goals; one line a seed", loc="left", fontsize=11)
    note = {"xytext": (0, -4), "textcoords": "offset points", "va": "top", "ha": "right", "fontsize": 9}
    for axes in all_axes if floor_mm is not None else ():
        axes.annotate("best of the degree grid", (axes.get_xlim()[1], floor_mm), **note)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=5, frameon=False)
    _finish(figure, tuple(all_axes), path)


@dataclass(frozen=True)
class Progress:
    """How agents learn: at `x` (n,), the error and its interval's ends (3, n) in mm, and success (n,) by mm."""

    x: NDArray[np.float64]
    error: NDArray[np.float64]
    success: dict[int, NDArray[np.float64]]


def progress_of(agent: dict[str, Any], field: str) -> Progress:
    """How an agent learned, against `step` or `elapsed_s`, over what its runs have in common."""
    curves = [run["curve"] for run in agent["runs"] if "failed" not in run]
    last = min(curve[-1][field] for curve in curves)
    if field == "step":  # on a logarithmic axis
        x = np.geomspace(max(next(row[field] for row in curve if row[field] > 0) for curve in curves), last, POINTS)
    else:
        x = np.linspace(max(curve[0][field] for curve in curves), last, POINTS)

    def along(name: str) -> Any:
        """A figure of each run at each x, (POINTS, runs)."""
        return np.array(
            [np.interp(x, [row[field] for row in curve], [row[name] for row in curve]) for curve in curves]
        ).T

    errors = along("mean_error_mm")
    ends = [bootstrap_interval(interquartile_mean, runs) if len(curves) > 1 else (runs[0], runs[0]) for runs in errors]
    return Progress(
        x,
        np.column_stack([interquartile_mean(errors), ends]).T,
        {mm: interquartile_mean(along(f"success_{mm}_mm")) for mm in LADDER_MM},
    )


def draw_comparison(figures: dict[str, Any], agents: dict[str, dict[str, Any]], path: Path) -> None:
    """Each agent's error, a mark a seed, its mean, its interval and what bounds it; how many goals it reaches; rest.

    The panel of rest is left out where no agent has such figures.
    """
    names = sorted(agents, key=lambda name: agents[name]["mean_error_mm"], reverse=True)
    places = np.arange(len(names))
    rests = [agents[name].get("rest") for name in names]
    widths = [6.6, 4.4]
    if any(rest is not None for rest in rests):
        widths.append(3.3)
    figure = Figure(figsize=(sum(widths), 1.8 + 0.36 * len(names)), layout="constrained")
    left, right, *others = figure.subplots(1, len(widths), width_ratios=widths, sharey=True)
    for axes in others:
        _draw_rest(axes, names, rests)
    for place, name in enumerate(names):
        agent = agents[name]
        colour, marker = (ORANGE, "D") if name.startswith("sb3-") else (BLUE, "o")
        if (interval := agent.get("mean_error_mm_interval")) is not None:
            left.plot(interval, (place, place), color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        seeds = [run["mean_error_mm"] for run in agent["runs"] if "failed" not in run]
        left.plot(
            seeds, [place] * len(seeds), color=colour, marker=marker, fillstyle="none", markersize=5, linestyle=""
        )
        left.plot(agent["mean_error_mm"], place, color=colour, marker="|", markersize=14, markeredgewidth=2)
        left.annotate(
            three_digits(agent["mean_error_mm"]),
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
        )
    seeds = [run["mean_error_mm"] for agent in agents.values() for run in agent["runs"] if "failed" not in run]
    left.set_xscale("log")
    lowest, highest = 0.6 * min([*seeds, 1.0]), 1.3 * max(seeds)
    left.set_xlim(lowest, highest)
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set_xticks([mm for mm in TICKS_MM if lowest <= mm <= highest])
    note = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 8}
    for row, (name, error) in enumerate(figures["references"].items()):
        if error > lowest:
            left.axvline(error, color="black", linestyle="--", linewidth=1)
            left.annotate(f"{name}, {three_digits(error)} mm", (error, 1.0), (3, 3 + 11 * row), **note)
        else:
            left.annotate(f"\u2190 {name}, {error:.1g} mm", (lowest, 1.0), (0, 3 + 11 * row), **note)
    left.set_xlabel(
        f"mean error on {figures['goals']:,} held-out goals (mm); a mark a seed, bar: 95 % interval\n"
        "blue circles: arm-control, orange diamonds: Stable-Baselines3"
    )
    left.set_yticks(places, names)
    left.set_ylim(-0.6, len(names) - 0.4)
    tolerances = list(agents[names[0]]["success"])
    shares = np.array([[agents[name]["success"][mm] for mm in tolerances] for name in names])
    right.imshow(shares, cmap="Blues", vmin=0, vmax=1.4, aspect="auto", origin="lower")
    for row, column in np.ndindex(*shares.shape):
        right.annotate(f"{100 * shares[row, column]:.0f}", (column, row), ha="center", va="center", fontsize=9)
    right.set_xticks(range(len(tolerances)), tolerances)
    right.set_xlabel("share of the goals (%) within so many mm")
    right.tick_params(axis="y", left=False)
    _finish(figure, (left,), path)


def _draw_rest(axes: Axes, names: list[str], rests: list[dict[str, float] | None]) -> None:
    """Each agent's angle range at rest: its mean, and a line to that of the worst goal."""
    for place, (name, rest) in enumerate(zip(names, rests, strict=True)):
        if rest is None:
            continue
        colour, marker = (ORANGE, "D") if name.startswith("sb3-") else (BLUE, "o")
        mean_deg = rest["angle_range_deg"]
        worst_deg = rest["worst_angle_range_deg"]
        axes.plot((mean_deg, worst_deg), (place, place), color=colour, linewidth=1)
        axes.plot(mean_deg, place, color=colour, marker=marker, markersize=5, linestyle="")
        axes.plot(worst_deg, place, color=colour, marker="|", markersize=8, linestyle="")
    axes.set_xscale("symlog", linthresh=LEAST_RANGE_DEG)
    axes.set_xlim(left=0.0)
    axes.set_xticks([0.0, 0.01, 0.1, 1.0, 10.0])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("angle range at rest (deg):\nmean, and bar: worst goal")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", left=False)


def draw_progress(agents: dict[str, Progress], path: Path, *, references: dict[str, float], x: str, scale: str) -> None:
    """A panel an agent: its error, beside all others' in grey, and below it the shares of goals within 50 to 1 mm.

    `references` are errors in mm by their names: dashed lines, those far below the others an arrow.
    """
    columns = min(4, len(agents))
    rows = -(-len(agents) // columns)
    figure = Figure(figsize=(3.1 * columns, 3.4 * rows + 0.5), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False, sharex=True, height_ratios=[3, 2] * rows)
    shades = matplotlib.colormaps["Blues"](np.linspace(0.25, 0.95, len(LADDER_MM)))
    lowest, highest = (f(f(progress.error.ravel()) for progress in agents.values()) for f in (min, max))
    bottom = min([0.8 * float(lowest), *(0.4 * error for error in references.values() if error > 0.5)])
    ticks = (1, 3, 10, 30, 100, 300) if highest > 20 * bottom else TICKS_MM
    note = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 7, "ha": "right"}
    for place in range(len(agents), rows * columns):
        for half in (0, 1):
            grid[2 * (place // columns) + half, place % columns].set_visible(False)
    for place, (name, own) in enumerate(agents.items()):
        above, below = (grid[2 * (place // columns) + half, place % columns] for half in (0, 1))
        colour = ORANGE if name.startswith("sb3-") else BLUE
        for other in agents.values():
            above.plot(
                other.x, other.error[0], color="0.8", linewidth=0.8, label="all agents" if other is own else None
            )
        if (own.error[1] < own.error[2]).any():
            band = {"color": colour, "alpha": 0.3, "linewidth": 0, "label": "95 % interval"}
            above.fill_between(own.x, own.error[1], own.error[2], **band)
        above.plot(own.x, own.error[0], color=colour, linewidth=1.8)
        for row, (reference, error) in enumerate(references.items()):
            if error > bottom:
                above.axhline(
                    error, color="black", linestyle="--", linewidth=0.8, label=f"{reference}, {three_digits(error)} mm"
                )
            else:
                above.annotate(f"\u2193 {reference}, {error:.1g} mm", (1.0, bottom), (-2, 3 + 9 * row), **note)
        above.set_title(name, fontsize=9, loc="left")
        above.set_yscale("log")
        above.set_ylim(bottom, 1.25 * highest)
        above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        above.yaxis.set_minor_formatter(NullFormatter())
        above.set_yticks([mm for mm in ticks if bottom <= mm <= 1.25 * highest])
        for mm, shade in zip(LADDER_MM, shades, strict=True):
            below.fill_between(own.x, own.success[mm], color=shade, linewidth=0, label=f"{mm} mm")
        below.set_xscale(scale)
        below.xaxis.set_minor_formatter(NullFormatter())
        below.set_ylim(0, 1)
        below.yaxis.set_major_formatter(PercentFormatter(1.0))
        if place % columns == 0:
            above.set_ylabel("mean error (mm)")
            below.set_ylabel("goals within")
        if place + columns >= len(agents):
            below.set_xlabel(x)
            below.tick_params(labelbottom=True)
    lines, areas = (list(zip(*axes.get_legend_handles_labels(), strict=True)) for axes in grid[:2, 0])
    handles, labels = zip(*areas, *lines, strict=True)
    figure.legend(handles, labels, loc="outside upper right", ncols=min(9, 2 * columns + 1), frameon=False, fontsize=8)
    _finish(figure, tuple(grid.flat), path)


def draw_curves(curves: dict[str, Progress], path: Path) -> None:
    """Validation errors with their intervals, and the shares of goals within 10 mm, against training time, together."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    lines = zip(curves.items(), cycle(COLOURS), cycle(("-", "--", "-.", ":")), cycle("os^Dv"), strict=False)
    for (name, curve), colour, style, marker in lines:
        every = max(1, len(curve.x) // 10)
        drawn = {"color": colour, "linestyle": style, "marker": marker, "markersize": 4, "markevery": every}
        error, low, high = curve.error
        above.plot(curve.x, error, **drawn, label=name if len(name) <= 100 else f"{name[:97]}...")
        above.fill_between(curve.x, low, high, color=colour, alpha=0.2, linewidth=0)
        below.plot(curve.x, curve.success[10], **drawn)
    lowest, highest = (f(f(curve.error.ravel()) for curve in curves.values()) for f in (min, max))
    above.set_yscale("log")
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    above.yaxis.set_minor_formatter(NullFormatter())
    ticks: list[float] = [mm for mm in TICKS_MM if lowest <= mm <= highest]
    above.set_yticks(ticks if len(ticks) > 1 else [float(f"{mm:.2g}") for mm in np.geomspace(lowest, highest, 3)])
    above.set_ylabel("mean error (mm)")
    below.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.set_ylim(-0.05, 1.05)
    below.set_ylabel("share of goals\nwithin 10 mm")
    below.set_xlabel("training time (s)")
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper left", frameon=False, fontsize=9)
    _finish(figure, (above, below), path)


def _finish(figure: Figure, all_axes: tuple[Axes, ...], path: Path) -> None:
    for axes in all_axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def make_printable(figure: Figure) -> None:
    """Escape what is not printable in the texts of a figure, such as names from files, and cut long lines.

    Dollars in them are dollars: no text is read as a formula but the labels that matplotlib gives a logarithmic axis.
    """
    formulas = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if isinstance(axis.get_major_formatter(), LogFormatter)
        for label in axis.get_ticklabels(which="both")
    }
    for text in figure.findobj(Text):
        text.set_parse_math(text in formulas)
        shown = "\n".join(printable(line, LONGEST_LABEL) for line in text.get_text().split("\n"))
        if shown != text.get_text():
            text.set_text(shown)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    make_printable(figure)
    with written_whole(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
