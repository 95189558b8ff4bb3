"""Plots of a comparison: error, success and rest of each agent, and its learning curve."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from arm_control.evaluation.learning_curves import Progress
from arm_control.evaluation.metrics import LADDER_MM
from arm_control.evaluation.statistics import three_digits
from arm_control.viewers.common.figures import BLUE, ORANGE, TICKS_MM, finish, label_plainly, ticks_between

BASELINE_PREFIX = "sb3-"
LINEAR_RANGE_DEG = 0.01  # smaller ranges at rest are drawn on a linear scale
MOST_COLUMNS = 4  # of panels, in the figure of progress


def draw_comparison(figures: dict[str, Any], agents: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot each agent's errors by seed with their mean and interval, its success, and its range at rest.

    The panel of rest is left out where no agent has such figures.
    """
    names = sorted(agents, key=lambda name: agents[name]["mean_error_mm"], reverse=True)
    rests = [agents[name].get("rest") for name in names]
    widths = [6.6, 4.4]
    if any(rest is not None for rest in rests):
        widths.append(3.3)
    figure = Figure(figsize=(sum(widths), 1.8 + 0.36 * len(names)), layout="constrained")
    error_axes, success_axes, *rest_axes = figure.subplots(1, len(widths), width_ratios=widths, sharey=True)
    for axes in rest_axes:
        _draw_rest(axes, names, rests)
    for row, name in enumerate(names):
        _draw_errors(error_axes, row, name, agents[name])
    _scale_errors(error_axes, figures, agents)
    error_axes.set_yticks(np.arange(len(names)), names)
    error_axes.set_ylim(-0.6, len(names) - 0.4)
    _draw_success(success_axes, [agents[name]["success"] for name in names])
    finish(figure, (error_axes,), path)


def _style(name: str) -> tuple[str, str]:
    """Colour and marker of an agent."""
    return (ORANGE, "D") if name.startswith(BASELINE_PREFIX) else (BLUE, "o")


def _seed_errors_mm(agent: dict[str, Any]) -> list[float]:
    """The mean error of each run that did not fail."""
    return [run["mean_error_mm"] for run in agent["runs"] if "failed" not in run]


def _draw_errors(axes: Axes, row: int, name: str, agent: dict[str, Any]) -> None:
    """Plot a marker for each seed, a bar for the mean, a band for the interval, and the mean as a number."""
    colour, marker = _style(name)
    interval = agent.get("mean_error_mm_interval")
    if interval is not None:
        axes.plot(interval, (row, row), color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
    seeds = _seed_errors_mm(agent)
    axes.plot(seeds, [row] * len(seeds), color=colour, marker=marker, fillstyle="none", markersize=5, linestyle="")
    axes.plot(agent["mean_error_mm"], row, color=colour, marker="|", markersize=14, markeredgewidth=2)
    mean = three_digits(agent["mean_error_mm"])
    axes.annotate(mean, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)


def _scale_errors(axes: Axes, figures: dict[str, Any], agents: dict[str, dict[str, Any]]) -> None:
    """Make the axis logarithmic, with a dashed line for each reference, or an arrow to one far below."""
    # The range of the axis: the errors of all seeds, and at least 1 mm.
    seeds = []
    for agent in agents.values():
        seeds += _seed_errors_mm(agent)
    lowest = 0.6 * min([*seeds, 1.0])
    highest = 1.3 * max(seeds)
    axes.set_xscale("log")
    axes.set_xlim(lowest, highest)
    label_plainly(axes.xaxis)
    axes.set_xticks(ticks_between(lowest, highest))
    note: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 8}
    for row, (name, error) in enumerate(figures["references"].items()):
        if error > lowest:
            axes.axvline(error, color="black", linestyle="--", linewidth=1)
            axes.annotate(f"{name}, {three_digits(error)} mm", (error, 1.0), (3, 3 + 11 * row), **note)
        else:
            axes.annotate(f"\u2190 {name}, {error:.1g} mm", (lowest, 1.0), (0, 3 + 11 * row), **note)
    axes.set_xlabel(
        f"mean error on {figures['goals']:,} held-out goals (mm); a mark a seed, bar: 95 % interval\n"
        "blue circles: arm-control, orange diamonds: Stable-Baselines3"
    )


def _draw_success(axes: Axes, success: list[dict[str, float]]) -> None:
    """Draw a table of percentages: rows are agents, columns tolerances in mm."""
    tolerances = list(success[0])
    fractions = np.array([list(row.values()) for row in success])
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1.4, aspect="auto", origin="lower")
    for row, column in np.ndindex(*fractions.shape):
        axes.annotate(f"{100 * fractions[row, column]:.0f}", (column, row), ha="center", va="center", fontsize=9)
    axes.set_xticks(range(len(tolerances)), tolerances)
    axes.set_xlabel("goals (%) within this distance (mm)")
    axes.tick_params(axis="y", left=False)


def _draw_rest(axes: Axes, names: list[str], rests: list[dict[str, float] | None]) -> None:
    """Plot each agent's angle range at rest: its mean, and a line to that of the worst goal."""
    for row, (name, rest) in enumerate(zip(names, rests, strict=True)):
        if rest is None:
            continue
        colour, marker = _style(name)
        mean_deg = rest["angle_range_deg"]
        worst_deg = rest["worst_angle_range_deg"]
        axes.plot((mean_deg, worst_deg), (row, row), color=colour, linewidth=1)
        axes.plot(mean_deg, row, color=colour, marker=marker, markersize=5, linestyle="")
        axes.plot(worst_deg, row, color=colour, marker="|", markersize=8, linestyle="")
    axes.set_xscale("symlog", linthresh=LINEAR_RANGE_DEG)
    axes.set_xlim(left=0.0)
    axes.set_xticks([0.0, 0.01, 0.1, 1.0, 10.0])
    label_plainly(axes.xaxis)
    axes.set_xlabel("angle range at rest (deg):\nmean, and bar: worst goal")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", left=False)


def draw_progress(agents: dict[str, Progress], path: Path, *, references: dict[str, float], x: str, scale: str) -> None:
    """Plot a panel per agent: its error with all others in grey, and below the fractions of goals within 50 to 1 mm.

    `references` are errors in mm by their names: dashed lines, or arrows to those far below the others.
    """
    column_count = min(MOST_COLUMNS, len(agents))
    row_count = -(-len(agents) // column_count)
    figure = Figure(figsize=(3.1 * column_count, 3.4 * row_count + 0.5), layout="constrained")
    panels = figure.subplots(2 * row_count, column_count, squeeze=False, sharex=True, height_ratios=[3, 2] * row_count)
    # Hide the panels that are left over in the last row.
    for place in range(row_count * column_count):
        row, column = divmod(place, column_count)
        if place >= len(agents):
            panels[2 * row, column].set_visible(False)
            panels[2 * row + 1, column].set_visible(False)
    for place, name in enumerate(agents):
        row, column = divmod(place, column_count)
        error_axes = panels[2 * row, column]
        success_axes = panels[2 * row + 1, column]
        _draw_error_progress(error_axes, agents, name, references)
        _draw_success_progress(success_axes, agents[name], scale)
        if column == 0:
            error_axes.set_ylabel("mean error (mm)")
            success_axes.set_ylabel("goals within")
        if place + column_count >= len(agents):
            success_axes.set_xlabel(x)
            success_axes.tick_params(labelbottom=True)
    _add_legend(figure, panels[0, 0], panels[1, 0], columns=min(9, 2 * column_count + 1))
    finish(figure, tuple(panels.flat), path)


def _draw_error_progress(axes: Axes, agents: dict[str, Progress], name: str, references: dict[str, float]) -> None:
    """Plot one agent's error with its interval, and the others' in grey."""
    # All agents in grey, and above them this one with its interval.
    own = agents[name]
    colour, _ = _style(name)
    for other in agents.values():
        label = "all agents" if other is own else None
        axes.plot(other.x, other.error[0], color="0.8", linewidth=0.8, label=label)
    if (own.error[1] < own.error[2]).any():
        axes.fill_between(
            own.x, own.error[1], own.error[2], color=colour, alpha=0.3, linewidth=0, label="95 % interval"
        )
    axes.plot(own.x, own.error[0], color=colour, linewidth=1.8)
    # One range of errors for all panels. It includes the references, except those near 0.
    highest = max(progress.error.max() for progress in agents.values())
    lowest = min(progress.error.min() for progress in agents.values())
    bottom = 0.8 * float(lowest)
    for error in references.values():
        if error > 0.5:
            bottom = min(bottom, 0.4 * error)
    note: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "fontsize": 7,
        "ha": "right",
    }
    # A line for each reference, or an arrow to one below the range.
    for row, (reference, error) in enumerate(references.items()):
        if error > bottom:
            label = f"{reference}, {three_digits(error)} mm"
            axes.axhline(error, color="black", linestyle="--", linewidth=0.8, label=label)
        else:
            axes.annotate(
                f"\u2193 {reference}, {error:.1g} mm",
                (1.0, bottom),
                (-2, 3 + 9 * row),
                **note,
            )
    axes.set_title(name, fontsize=9, loc="left")
    axes.set_yscale("log")
    axes.set_ylim(bottom, 1.25 * highest)
    label_plainly(axes.yaxis)
    ticks = (1, 3, 10, 30, 100, 300) if highest > 20 * bottom else TICKS_MM
    axes.set_yticks([mm for mm in ticks if bottom <= mm <= 1.25 * highest])


def _draw_success_progress(axes: Axes, own: Progress, scale: str) -> None:
    """Plot the fractions of goals within each tolerance, a darker area for a smaller one."""
    shades = matplotlib.colormaps["Blues"](np.linspace(0.25, 0.95, len(LADDER_MM)))
    for mm, shade in zip(LADDER_MM, shades, strict=True):
        axes.fill_between(own.x, own.success[mm], color=shade, linewidth=0, label=f"{mm} mm")
    axes.set_xscale(scale)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _add_legend(figure: Figure, error_axes: Axes, success_axes: Axes, *, columns: int) -> None:
    """One legend for all panels."""
    error_handles, error_labels = error_axes.get_legend_handles_labels()
    success_handles, success_labels = success_axes.get_legend_handles_labels()
    figure.legend(
        [*success_handles, *error_handles],
        [*success_labels, *error_labels],
        loc="outside upper right",
        ncols=columns,
        frameon=False,
        fontsize=8,
    )
