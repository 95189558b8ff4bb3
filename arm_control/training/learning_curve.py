"""The learning curve of one training, `curve.png` in its run folder."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from arm_control.viewers.common.figures import BLUE, ORANGE, finish, label_plainly, ticks_between

HIGHEST_TICK_MM = 200.0  # of the error axis, which reaches at least this far


def draw_learning_curve(rows: list[dict[str, Any]], path: Path, tolerance_mm: float, error_name: str) -> None:
    """Validation error and success against training time, as a PNG written whole or not at all."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    error_axes, success_axes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    _draw_errors(error_axes, rows)
    error_axes.set_ylabel(f"mean {error_name}\n(mm)")
    error_axes.set_title("Distance from tip to goal, validation goals", loc="left", fontsize=11)
    seconds = [row["elapsed_s"] for row in rows]
    success_axes.plot(seconds, [row["success"] for row in rows], color=ORANGE, marker="s", markersize=4)
    success_axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    success_axes.set_ylim(-0.05, 1.05)
    success_axes.set_ylabel(f"fraction of episodes\nwithin {tolerance_mm:g} mm")
    success_axes.set_xlabel("training time (s)")
    finish(figure, (error_axes, success_axes), path)


def _draw_errors(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """The mean errors on a logarithmic axis, the last one as a number."""
    seconds = [row["elapsed_s"] for row in rows]
    errors_mm = [row["mean_error_mm"] for row in rows]
    axes.plot(seconds, errors_mm, color=BLUE, marker="o", markersize=4)
    axes.set_yscale("log")
    label_plainly(axes.yaxis)
    axes.set_yticks(ticks_between(0.5 * min(errors_mm), max(HIGHEST_TICK_MM, 2 * max(errors_mm))))
    last_mm = errors_mm[-1]
    axes.annotate(
        f"{last_mm:.2f} mm", (seconds[-1], last_mm), (6, 0), textcoords="offset points", va="center", color=BLUE
    )
    axes.margins(x=0.12)
