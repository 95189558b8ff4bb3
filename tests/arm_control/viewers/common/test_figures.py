"""Figures: text, and no side effects on matplotlib's settings."""

import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from documentation import ROOT
from matplotlib.figure import Figure

from arm_control.viewers.common.figures import make_printable

HOST = """
import sys
import matplotlib
before = list(dict.items(matplotlib.rcParams))  # to read the backend is to choose one
import arm_control.viewers.plot.figure
from arm_control.viewers.common.figures import finish
from matplotlib.figure import Figure
from pathlib import Path
figure = Figure()
finish(figure, (figure.subplots(),), Path(sys.argv[1]))
assert list(dict.items(matplotlib.rcParams)) == before
assert "matplotlib.pyplot" not in sys.modules  # which would choose how windows are opened
"""


class TestFigures:
    """Shared functions of all figures."""

    def test_matplotlibs_settings_are_kept(self, tmp_path: Path) -> None:
        """Its parameters, and its choice of a backend."""
        subprocess.run([sys.executable, "-c", HOST, tmp_path / "curve.png"], cwd=ROOT, check=True, timeout=120)
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize("parses", [True, False])
    def test_only_logarithmic_labels_are_formulas(self, parses: bool) -> None:
        """Dollar signs in names are text, whatever the program's own setting."""
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
