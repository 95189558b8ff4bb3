"""Figures."""

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from arm_control.run_folder import written_whole

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's palette, told apart by the colour-blind
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00")  # theirs too; with the markers, 20 lines that differ


def draw_learning_curve(rows: list[dict[str, Any]], path: Path, tolerance_mm: float, error_name: str) -> None:
    """Validation error and success against training time, as a PNG written whole or not at all."""
    seconds = [row["elapsed_s"] for row in rows]
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=[3, 2], layout="constrained")
    above.plot(seconds, [row["mean_error_mm"] for row in rows], color=BLUE, marker="o", markersize=4)
    above.set_yscale("log")
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    above.yaxis.set_minor_formatter(NullFormatter())
    above.set_yticks(
        [mm for mm in (1, 2, 5, 10, 20, 50, 100, 200) if mm >= 0.5 * min(row["mean_error_mm"] for row in rows)]
    )
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
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (name, (xs, ys)), colour, marker in zip(lines.items(), cycle(COLOURS), cycle("os^D"), strict=False):
        axes.plot(xs, ys, color=colour, marker=marker, markersize=4, label=name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    lowest, highest = (f([value for _, ys in lines.values() for value in ys]) for f in (min, max))
    axes.set_yticks([mm for mm in (1, 2, 5, 10, 20, 50, 100, 200, 500) if 0.5 * lowest <= mm <= 2 * highest])
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(frameon=False)
    _finish(figure, (axes,), path)


def draw_costs(rows: list[dict[str, Any]], path: Path) -> None:
    """What a decision, an update and the memory come to against the number of joints; computed values are hollow."""
    figure, all_axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
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
    figure, all_axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
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


def _finish(figure: Figure, all_axes: tuple[Axes, ...], path: Path) -> None:
    for axes in all_axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        with written_whole(path) as aside:
            figure.savefig(aside, format="png", dpi=120)
    finally:
        plt.close(figure)
