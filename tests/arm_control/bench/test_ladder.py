"""The ladder: every rung is trained once, and what was timed and drawn is of those runs."""

import json
from pathlib import Path

import pytest

from arm_control.bench import ladder
from arm_control.bench.ladder import RUNGS, Length, bench_ladder, trial_of
from arm_control.cli import main

WORDS = ["bench", "ladder", "--minutes", "0.1", "--seeds", "1", "--goals", "2", "--grid-step-deg", "30"]


@pytest.mark.soak  # the page on discretisation runs a shorter one
def test_a_ladder_is_trained_evaluated_drawn_and_not_done_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, figure, file = tmp_path / "runs", tmp_path / "ladder.png", tmp_path / "ladder.json"
    words = [*WORDS, "--out", str(out), "--save", str(figure), "--json", str(file)]
    assert main(words) == 0
    said = capfd.readouterr()
    assert said.err.count(" min left)") == len(RUNGS)
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
    assert " min left)" not in capfd.readouterr().err
    again = json.loads(file.read_text())
    assert [row["errors_mm"] for row in again["rungs"]] == [row["errors_mm"] for row in figures["rungs"]]

    # Another ladder's folder.
    assert main([*words[:3], "0.05", *words[4:]]) == 2
    assert "is of another comparison, with minutes 0.1 instead of 0.05" in capfd.readouterr().err


def test_a_training_that_fails_is_told_with_its_own_last_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        ladder, "run_trials", lambda trials: {name: {"failed": "what it said"} for name in trials if "zero" in name}
    )
    with pytest.raises(RuntimeError, match="flat, zero, seed 0: what it said"):
        bench_ladder(Length(0.1, 30), seeds=1, goals=2, out=str(tmp_path))


def test_the_rungs_of_a_seed_have_folders_and_grids_of_their_own(tmp_path: Path) -> None:
    trials = [trial_of(name, 3, Length(1.0, 30.0), 10, tmp_path) for name in RUNGS]
    assert len({trial.folder for trial in trials}) == len(RUNGS)
    assert {trial.config.seed for trial in trials} == {3}
    assert [getattr(trial.config, "grid_step_deg", None) for trial in trials] == [30, 30, 30, 30, 1]
