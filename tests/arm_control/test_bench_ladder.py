"""The ladder: every rung is trained once, goes on where it was, and is told apart from another ladder's."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arm_control.bench.ladder import RUNGS, folder, run_process
from arm_control.cli import main

WORDS = ["bench", "ladder", "--minutes", "0.15", "--seeds", "1", "--goals", "2", "--grid-step-deg", "30"]


@pytest.mark.slow
def test_a_ladder_is_trained_evaluated_drawn_and_not_done_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, figure, file = tmp_path / "runs", tmp_path / "ladder.png", tmp_path / "ladder.json"
    words = [*WORDS, "--out", str(out), "--save", str(figure), "--json", str(file)]
    assert main(words) == 0
    said = capfd.readouterr()
    assert said.err.count(": train") == len(RUNGS)
    assert all(f"| {name} |" in said.out for name in RUNGS)
    figures = json.loads(file.read_text())
    assert [row["rung"] for row in figures["rungs"]] == list(RUNGS)
    assert set(figures["ratios"]) == {"flat_over_branching", "branching_over_ddpg"}
    for row in figures["rungs"]:
        assert 0 < row["errors_mm"][0] < 1000
        assert row["peak_memory_mb"] > 50
        assert row["decision_ms"] > 0
        assert row["update_ms"] > 0
        assert (row["coverage"] is None) == (row["rung"] == "ddpg")
    assert figure.stat().st_size > 10_000

    # Once more: nothing is trained, the errors are the same.
    assert main(words) == 0
    assert ": train" not in capfd.readouterr().err
    again = json.loads(file.read_text())
    assert [row["errors_mm"] for row in again["rungs"]] == [row["errors_mm"] for row in figures["rungs"]]

    # One that was not evaluated yet goes on.
    (folder(out, "branching", 0) / "ladder.json").unlink()
    assert main(words) == 0
    assert "branching-seed0: resume" in capfd.readouterr().err

    # Another ladder's folder.
    assert main([*words[:3], "0.05", *words[4:]]) == 2
    assert "is of another ladder, of 0.15 minutes, 30 degrees and 2 goals" in capfd.readouterr().err


def test_a_training_that_fails_is_told_with_its_own_last_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="wanted a positive number"):
        run_process(["train", "ddpg", "--steps", "-1", "--out", str(tmp_path / "run")])


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_runs_that_go_on(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "arm_control.cli", *WORDS, "--out", str(tmp_path / "runs")]
    words[words.index("0.15")] = "10"
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wanted = [folder(tmp_path / "runs", name, 0) / "metrics.jsonl" for name in list(RUNGS)[:2]]
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in wanted):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (2, 130)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert sorted(path.parent.name for path in (tmp_path / "runs").glob("*/config.json")) == [
        path.parent.name for path in sorted(wanted)
    ]
    assert all(list((path.parent / "checkpoints").glob("step-*")) for path in wanted)
