"""Learning curves over several seeds: error with its interval, and success, against time or steps."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arm_control.evaluation.metrics import LADDER_MM
from arm_control.evaluation.statistics import bootstrap_interval, interquartile_mean

POINTS = 40  # of a learning curve


@dataclass(frozen=True)
class Progress:
    """A learning curve: at `x` (n,), error and ends of its interval (3, n) in mm, and success (n,) by tolerance."""

    x: NDArray[np.float64]
    error: NDArray[np.float64]
    success: dict[int, NDArray[np.float64]]


def _first_positive(curve: list[dict[str, Any]], field: str) -> float:
    """The first positive value of a column of a curve."""
    value: float = next(row[field] for row in curve if row[field] > 0)
    return value


def progress_of(agent: dict[str, Any], field: str) -> Progress:
    """An agent's learning curve against `step` or `elapsed_s`, over the range that all its runs cover."""
    curves = [run["curve"] for run in agent["runs"] if "failed" not in run]
    # The points at which all curves are interpolated.
    last = min(curve[-1][field] for curve in curves)
    if field == "step":
        # Evenly spaced on a logarithmic axis, from the first validation after step 0.
        first = max(_first_positive(curve, field) for curve in curves)
        x = np.geomspace(first, last, POINTS)
    else:
        first = max(curve[0][field] for curve in curves)
        x = np.linspace(first, last, POINTS)

    def interpolated(name: str) -> NDArray[np.float64]:
        """A figure of each run at each x, (POINTS, runs)."""
        columns = []
        for curve in curves:
            positions = [row[field] for row in curve]
            values = [row[name] for row in curve]
            columns.append(np.interp(x, positions, values))
        return np.array(columns).T

    # The error with its interval, which is empty for a single run.
    errors = interpolated("mean_error_mm")
    intervals = []
    for runs in errors:
        intervals.append(bootstrap_interval(interquartile_mean, runs) if len(curves) > 1 else (runs[0], runs[0]))
    success = {}
    for mm in LADDER_MM:
        success[mm] = interquartile_mean(interpolated(f"success_{mm}_mm"))
    return Progress(x, np.column_stack([interquartile_mean(errors), intervals]).T, success)
