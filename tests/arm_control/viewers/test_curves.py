"""Figures: what they show as text, and that drawing them changes nothing for the program that asks for them."""

import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from documentation import ROOT
from matplotlib.figure import Figure

from arm_control.viewers.curves import draw_learning_curve, make_printable

ROWS = [
    {"elapsed_s": 1.0, "mean_error_mm": 100.0, "success": 0.0},
    {"elapsed_s": 9.0, "mean_error_mm": 3.0, "success": 1.0},
]

HOST = """
import sys
import matplotlib
before = list(dict.items(matplotlib.rcParams))  # to read the backend is to choose one
import arm_control.viewers.plot
from arm_control.viewers.curves import draw_learning_curve
from pathlib import Path
draw_learning_curve({rows}, Path(sys.argv[1]), 10.0, "error")
assert list(dict.items(matplotlib.rcParams)) == before
assert "matplotlib.pyplot" not in sys.modules  # which would choose how windows are opened
"""


def test_a_program_that_draws_keeps_its_own_settings(tmp_path: Path) -> None:
    """Those of matplotlib, and a backend that it has chosen or not."""
    program = HOST.replace("{rows}", repr(ROWS))
    subprocess.run([sys.executable, "-c", program, tmp_path / "curve.png"], cwd=ROOT, check=True, timeout=120)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("parses", [True, False])
def test_names_are_no_formulas_but_the_labels_of_a_logarithmic_axis_are(parses: bool) -> None:
    """Whatever the program's own setting is."""
    with matplotlib.rc_context({"text.parse_math": parses}):
        figure = Figure()
        axes = figure.subplots()
        axes.plot([1, 2], [1.0, 1e5], label="costs $5 and $6")
        axes.set_yscale("log")
        axes.set_title("$a$")
        axes.set_xticks([1, 2], ["$one$", "two"])
        legend = axes.legend()
        make_printable(figure)
    assert [label.get_parse_math() for label in axes.get_yticklabels()] == [True] * len(axes.get_yticklabels())
    assert "$\\mathdefault{10^{4}}$" in [label.get_text() for label in axes.get_yticklabels()]
    for text in (axes.title, *axes.get_xticklabels(), *legend.get_texts()):
        assert not text.get_parse_math(), text


def test_a_curve_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A folder in the file's place."""
    (tmp_path / "curve.png").mkdir()
    with pytest.raises(OSError, match=r"curve\.png"):
        draw_learning_curve(ROWS, tmp_path / "curve.png", 10.0, "error")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
