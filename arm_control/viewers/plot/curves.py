"""The learning curves of run folders in one plot."""

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from arm_control.evaluation.learning_curves import Progress, progress_of
from arm_control.process.printing import counted
from arm_control.runs.run_folder import RunFolder
from arm_control.viewers.common.figures import COLOURS, finish, label_plainly, ticks_between
from arm_control.viewers.plot.figure import png

LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = "os^Dv"
LONGEST_NAME = 100  # characters in the legend
MARKERS_PER_LINE = 10


def save_curves(folders: Sequence[str | Path], path: str | Path) -> None:
    """Plot the learning curves of runs, the seeds of one configuration as one curve with its interval.

    Raises ValueError for a folder that is no run, or one without a validation yet.
    """
    target = png(path)
    draw_curves(curves_of(folders), target)


def curves_of(folders: Sequence[str | Path]) -> dict[str, Progress]:
    """Learning curves by their names in the legend. Runs that differ only in their seeds form one curve."""
    # Group the runs by their configuration without the seed.
    runs: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for folder in dict.fromkeys(map(str, folders)):
        run, config = RunFolder.open(folder)
        rows = run.read_metrics()
        if not rows:
            raise ValueError(f"{folder} has no learning curve yet: no progress report has been written")
        without_seed = {key: value for key, value in config.items() if key != "seed"}
        configuration = json.dumps(without_seed, sort_keys=True)
        runs.setdefault(configuration, []).append((folder, {"agent": config["agent"], "curve": rows}))
    # One curve for each group, with its interval over the seeds.
    curves = {}
    for seeds in runs.values():
        names, drawn = zip(*seeds, strict=True)
        count = counted(len(names), "seed")
        if len(names) > 1:
            count += ", 95 % interval"
        curves[f"{drawn[0]['agent']}, {count}: {', '.join(names)}"] = progress_of({"runs": drawn}, "elapsed_s")
    return curves


def draw_curves(curves: dict[str, Progress], path: Path) -> None:
    """Validation errors with their intervals, and the fractions of goals within 10 mm, against training time."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    error_axes, success_axes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    lines = zip(curves.items(), cycle(COLOURS), cycle(LINE_STYLES), cycle(MARKERS), strict=False)
    for (name, curve), colour, style, marker in lines:
        every = max(1, len(curve.x) // MARKERS_PER_LINE)
        drawn = {"color": colour, "linestyle": style, "marker": marker, "markersize": 4, "markevery": every}
        error, low, high = curve.error
        label = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
        error_axes.plot(curve.x, error, **drawn, label=label)
        error_axes.fill_between(curve.x, low, high, color=colour, alpha=0.2, linewidth=0)
        success_axes.plot(curve.x, curve.success[10], **drawn)
    error_axes.set_ylabel("mean error (mm)")
    _scale_errors(error_axes, list(curves.values()))
    success_axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    success_axes.set_ylim(-0.05, 1.05)
    success_axes.set_ylabel("fraction of goals\nwithin 10 mm")
    success_axes.set_xlabel("training time (s)")
    figure.legend(*error_axes.get_legend_handles_labels(), loc="outside upper left", frameon=False, fontsize=9)
    finish(figure, (error_axes, success_axes), path)


def _scale_errors(axes: Axes, curves: Sequence[Progress]) -> None:
    """Make the error axis logarithmic, with at least two ticks."""
    lowest_mm = min(curve.error.min() for curve in curves)
    highest_mm = max(curve.error.max() for curve in curves)
    axes.set_yscale("log")
    label_plainly(axes.yaxis)
    ticks = ticks_between(lowest_mm, highest_mm)
    if len(ticks) < 2:
        ticks = [float(f"{mm:.2g}") for mm in np.geomspace(lowest_mm, highest_mm, 3)]
    axes.set_yticks(ticks)
