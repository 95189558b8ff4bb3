"""Lines, bands and references of the lab's figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from arm_control.viewers.common.figures import COLOURS

__all__ = ["COLOURS", "MARKERS", "band", "reference"]

MARKERS = "os^Dv"


def band(axes: Axes, x: ArrayLike, lines: Sequence[ArrayLike], label: str, place: int, **style: Any) -> None:
    """Draw the median of several lines (n,) of the same x, and their lowest to highest as a band.

    `place` chooses colour and marker, so that a line can be told from others without its colour.
    """
    values = np.asarray(lines, dtype=np.float64)
    colour = COLOURS[place % len(COLOURS)]
    style = {"marker": MARKERS[place % len(MARKERS)], "markersize": 4, "markevery": 0.1, **style}
    axes.plot(x, np.median(values, axis=0), color=colour, label=label, **style)
    if len(values) > 1:
        axes.fill_between(np.asarray(x), values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)


def reference(axes: Axes, y: float, label: str) -> None:
    """Draw a dashed horizontal line: a closed form or a published value."""
    axes.axhline(y, color="black", linestyle="--", linewidth=1)
    axes.annotate(
        label,
        (1.0, y),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
    )
