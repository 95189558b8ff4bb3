"""`arm-control lab`: one experiment and all of them, one clear line for bad input, and runs that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_experiment import Toy, installed

from arm_control.cli import main
from arm_control.lab.common import experiment as declarations
from arm_control.lab.common.experiment import load_experiment


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """The toy experiment; the working directory is an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with installed(tmp_path / "lab", monkeypatch) as toy:
        yield toy


class TestList:
    """`arm-control lab` and `arm-control lab --help`"""

    @pytest.mark.parametrize("words", [["lab"], ["lab", "--help"], ["lab", "-h"]])
    def test_lists_the_experiments_with_their_claims(
        self, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each in a line, and what `all` does."""
        assert main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        for name in declarations.experiment_names():
            [line] = [line for line in lines if line.startswith(f"  {name} ")]
            assert line.endswith(load_experiment(name).claim)
        assert any(line.startswith("  all  ") for line in lines)

    def test_loads_no_heavy_library(self) -> None:
        """The list comes at once: neither PyTorch nor PyBullet is imported."""
        code = "import sys; from arm_control.cli import main; main(['lab']); print(sorted(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        modules = done.stdout.splitlines()[-1]
        assert "'arm_control.lab.common.experiment'" in modules
        for library in ("torch", "pybullet", "scipy", "onnx", "matplotlib"):
            assert f"'{library}'" not in modules


class TestOneExperiment:
    """`arm-control lab NAME`"""

    def test_prints_the_claim_and_what_was_measured(self, toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
        """Two sentences, whether it holds, and where the figure is."""
        assert main(["lab", "toy"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            "Claim: The square of 1 is 1.",
            "Measured: Squares are [0.0, 1.0, 4.0, 9.0], p* & q* <1>. The claim holds.",
            "Figure: runs/lab/toy/figure.png",
        ]
        assert Path("runs/lab/toy/figure.png").exists()

    def test_writes_its_figures(self, toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
        """As JSON, with the settings and the rows; a claim that does not hold is no error."""
        assert main(["lab", "toy", "--scale", "2", "--cubed", "--seeds", "2", "--json", "toy.json"]) == 0
        assert "The claim holds." in capsys.readouterr().out
        figures = json.loads(Path("toy.json").read_text())
        assert figures["settings"] == {"scale": 2.0, "pause_s": 0.001, "cubed": True}
        assert [row["square"] for row in figures["rows"]] == [0.0, 2.0]

    def test_quick_has_a_folder_of_its_own_and_keeps_given_flags(self, toy: Toy) -> None:
        """The scale is given, the pause is reduced."""
        assert main(["lab", "toy", "--quick", "--scale", "3", "--json", "toy.json"]) == 0
        figures = json.loads(Path("toy.json").read_text())
        assert figures["settings"] == {"scale": 3.0, "pause_s": 0.002, "cubed": False}
        assert figures["seeds"] == 3
        assert Path("runs/lab/toy-quick/results.json").exists()
        assert not Path("runs/lab/toy").exists()


class TestAll:
    """`arm-control lab all`"""

    @pytest.fixture(autouse=True)
    def only_toy(self, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of the experiments, toy is the only one."""
        monkeypatch.setattr(declarations, "experiment_names", lambda: ["toy"])

    def test_writes_the_page(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A line for each experiment, and where the page is."""
        assert main(["lab", "all", "--quick", "--out", "page", "--json", "all.json"]) == 0
        said = capsys.readouterr()
        assert said.err.startswith("[1/1] toy: The claim holds.")
        assert said.out == "1 of 1 claims hold as stated. See page/index.html\n"
        assert "The square of 1 is 1." in Path("page/index.html").read_text(encoding="utf-8")
        assert "The square of 1 is 1." in Path("page/index.md").read_text(encoding="utf-8")
        [experiment] = json.loads(Path("all.json").read_text())["experiments"]
        assert (experiment["name"], experiment["quick"], experiment["holds"]) == ("toy", True, True)

    def test_a_folder_of_something_else_is_found_before_anything_is_measured(
        self, toy: Toy, rejected: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That of the last experiment, too."""
        monkeypatch.setattr(declarations, "experiment_names", lambda: ["toy", "corridor"])
        Path("runs/lab/corridor").mkdir(parents=True)
        Path("runs/lab/corridor/notes.txt").touch()
        assert "corridor holds something else than the experiment corridor" in rejected("lab", "all")
        assert toy.measured() == []


class TestBadInput:
    """One clear line each, before anything is measured."""

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["tooy"], "unknown experiment 'tooy' (did you mean toy?); available: "),
            (["--quick"], "expected the experiment first; available: "),
            (["toy", "--seeds", "1"], "--seeds: expected at least 2, for an interval, got 1"),
            (["toy", "--seeds", "0"], "--seeds: expected a number from 1 to 1000, got 0"),
            (["toy", "--seeds", "many"], "--seeds: "),
            (["toy", "--scale", "nan"], "--scale: expected a positive number, up to 1e+12, got nan"),
            (["toy", "--scale", "inf"], "--scale: expected a positive number, up to 1e+12, got inf"),
            (["toy", "--scale", "-1"], "--scale: expected a positive number, up to 1e+12, got -1"),
            (["toy", "--pause-s", "0"], "--pause-s: expected a positive number, up to 1e+12, got 0"),
            (["toy", "--colour", "red"], "--colour"),
            (["toy", "--json", "no-such-folder/toy.json"], "cannot write no-such-folder/toy.json"),
            (["toy", "--json", "."], "cannot write .: it is a folder"),
            (["all", "--json", "no-such-folder/all.json"], "cannot write no-such-folder/all.json"),
            (["all", "--seeds", "3"], "--seeds"),
        ],
    )
    def test_is_reported_in_one_line(self, toy: Toy, words: list[str], said: str, rejected: Callable[..., str]) -> None:
        """With exit code 2."""
        assert said in rejected("lab", *words)
        assert toy.measured() == []
        assert not Path("runs").exists()

    def test_an_unknown_name_lists_the_experiments(self, rejected: Callable[..., str]) -> None:
        """All of them."""
        error = rejected("lab", "no-such-experiment")
        for name in (*declarations.experiment_names(), "all"):
            assert f" {name}" in error

    def test_a_calculation_without_randomness_has_no_seeds(
        self, toy: Toy, rejected: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """More of them would give the same."""
        fixed = replace(load_experiment("toy"), seeds=1, quick_seeds=1, min_seeds=1)
        monkeypatch.setattr("arm_control.lab.toy.EXPERIMENT", fixed)
        assert "--seeds: toy is a calculation without randomness" in rejected("lab", "toy", "--seeds", 3)

    def test_a_folder_of_something_else(self, toy: Toy, rejected: Callable[..., str]) -> None:
        """Somebody's files, and the folder of another experiment."""
        Path("mine/toy").mkdir(parents=True)
        Path("mine/toy/notes.txt").write_text("mine")
        assert "mine/toy holds something else than the experiment toy" in rejected("lab", "toy", "--out", "mine")
        Path("mine/toy/notes.txt").unlink()
        Path("mine/toy/experiment.json").write_text('{"experiment": "corridor"}')
        assert "mine/toy holds something else than the experiment toy" in rejected("lab", "toy", "--out", "mine")
        assert "Not a directory" in rejected("lab", "toy", "--out", "mine/toy/experiment.json")
        assert toy.measured() == []

    def test_a_damaged_row(self, toy: Toy, rejected: Callable[..., str]) -> None:
        """The file is named."""
        assert main(["lab", "toy"]) == 0
        path = sorted(Path("runs/lab/toy").glob("case-*.json"))[0]
        path.write_text("{")
        assert f"{path} is damaged" in rejected("lab", "toy")


def lab_process(words: list[str], **options: Any) -> subprocess.Popen[str]:
    """`arm-control lab` in a process of its own, leader of a process group."""
    command = [sys.executable, "-m", "arm_control.cli", "lab", *words]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options)


@pytest.mark.slow
def test_a_run_that_is_killed_continues_where_it_was(tmp_path: Path) -> None:
    """`kill -9` in the middle: rows that are there stay as they are, and the end is that of a run without a break."""
    words = ["rock-paper-scissors", "--seeds", "6", "--updates", "8000"]
    broken = tmp_path / "broken"
    process = lab_process([*words, "--out", str(broken)])
    deadline_s = time.monotonic() + 300
    while not (kept := sorted(broken.rglob("case-*.json"))):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(kept) < 6
    written = {path: path.stat().st_mtime_ns for path in kept}

    for folder in (broken, tmp_path / "whole"):
        process = lab_process([*words, "--out", str(folder)])
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    assert written == {path: path.stat().st_mtime_ns for path in kept}
    rows = []
    for folder in (broken, tmp_path / "whole"):
        results = json.loads((folder / "rock-paper-scissors" / "results.json").read_text())
        rows.append([{**row, "seconds": 0.0} for row in results["rows"]])
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_ctrl_c_ends_a_run_without_a_traceback(tmp_path: Path) -> None:
    """Exit code 130, and rows that are complete."""
    words = ["rock-paper-scissors", "--seeds", "100", "--out", str(tmp_path / "lab")]
    process = lab_process(words, env={**os.environ, "ARM_CONTROL_DEBUG": ""})
    deadline_s = time.monotonic() + 100
    while not list(tmp_path.rglob("experiment.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    for path in tmp_path.rglob("case-*.json"):
        assert "average" in json.loads(path.read_text())
