"""The notebooks of the docs: valid files without outputs, whose code runs from top to bottom."""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from locations import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def code_of(notebook: Path) -> str:
    """The code cells of a notebook as one program."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.fixture
def drawn() -> Iterator[None]:
    """Draw into memory, and close all figures afterwards."""
    backend = matplotlib.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture
def executed(tmp_path: Path, drawn: None) -> Any:
    """A function that executes a notebook of this name; returns its variables."""

    def execute(name: str) -> dict[str, Any]:
        program = tmp_path / "notebook.py"
        program.write_text(code_of(ROOT / "docs" / "notebooks" / f"{name}.ipynb"), encoding="utf-8")
        return runpy.run_path(str(program))

    return execute


class TestFiles:
    """The files themselves."""

    def test_there_are_notebooks(self) -> None:
        """Those that the tests below execute."""
        assert [path.stem for path in NOTEBOOKS] == ["policy-gradient", "values-and-policies"]

    @pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
    def test_a_notebook_is_stored_without_outputs(self, notebook: Path) -> None:
        """In format 4.5, whose cells have ids."""
        content = json.loads(notebook.read_text(encoding="utf-8"))
        assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
        ids = [cell["id"] for cell in content["cells"]]
        assert len(set(ids)) == len(ids)
        for cell in content["cells"]:
            assert cell["cell_type"] in ("markdown", "code")
            if cell["cell_type"] == "code":
                assert cell["outputs"] == []
                assert cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
class TestExecution:
    """The code, and what it shows."""

    def test_values_and_policies(self, executed: Any) -> None:
        """Each cell runs and draws; times, returns and exploitabilities are what the text says."""
        found = executed("values-and-policies")
        assert len(plt.get_fignums()) == 4
        assert len(found["positions"]) == 753_571
        # Successive actions differ by one degree, but for the jump at the end of each row of 91.
        assert found["mean_deg"][0] == pytest.approx(2.0, abs=0.05)
        assert found["times_ms"]["flat"][2] > 20.0 * found["times_ms"]["policy"][2]
        assert int(np.argmax(found["sampled"])) == 2
        assert found["average"][-1] < 0.1 < max(found["last"][-1_000:])

    def test_the_policy_gradient(self, executed: Any) -> None:
        """Each cell runs and draws; slopes, variances and advantages are what the text says."""
        found = executed("policy-gradient")
        assert len(plt.get_fignums()) == 4
        slope = np.polyfit(np.log(found["sizes"]), np.log(found["errors"]), 1)[0]
        assert slope == pytest.approx(-0.5, abs=0.1)
        assert found["updates"]["value"].var() < 0.1 * found["updates"]["none"].var()
        assert np.abs(found["learned"]["Monte Carlo"] - found["exact"]).max() < 1.0
        assert found["curve"][0] == found["curve"][found["first_ends"]["Monte Carlo"] - 1]
