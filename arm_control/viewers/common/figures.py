"""Shared code of the figures: colours, axes in millimetres, and writing them as PNG files.

Figures are objects of their own, so that drawing changes no setting of the program that draws (no `pyplot`).
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter

from arm_control.process.printing import printable
from arm_control.runs.files import written_whole

# Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE = "#0072B2"
ORANGE = "#D55E00"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00")
LONGEST_LABEL = 120  # characters
TICKS_MM = tuple(digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5))  # for arms of any size


def label_plainly(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers, such as 20 instead of 2 x 10^1."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def ticks_between(lowest_mm: float, highest_mm: float) -> list[float]:
    """The round numbers of millimetres in a range."""
    return [mm for mm in TICKS_MM if lowest_mm <= mm <= highest_mm]


def finish(figure: Figure, panels: Sequence[Axes], path: Path) -> None:
    """Give panels their grid and frame, and write the figure."""
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def make_printable(figure: Figure) -> None:
    """Escape what is not printable in the texts of a figure, such as names from files, and cut long lines.

    Dollar signs do not start a formula, except in the labels that matplotlib gives a logarithmic axis.
    """
    # Labels that matplotlib writes as formulas, such as 10^1.
    formulas = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatter):
                formulas.update(axis.get_ticklabels(which="both"))
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
