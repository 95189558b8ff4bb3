"""The ablation bench: trainings, timings and figures of every variant."""

import json
from pathlib import Path

import pytest

from arm_control.bench import ablation
from arm_control.bench.ablation import VARIANTS, Length, bench_ablation, trial_of
from arm_control.cli import main

WORDS = ["bench", "ablation", "--minutes", "0.1", "--seeds", "1", "--goals", "2", "--grid-step-deg", "30"]


class TestAblation:
    """Trainings, timings and figures of the variants."""

    @pytest.mark.soak  # the page on discretisation runs a shorter one
    def test_the_command_trains_each_variant_once(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Figures, table and picture are written, and a second call skips finished runs."""
        out, figure, file = tmp_path / "runs", tmp_path / "ablation.png", tmp_path / "ablation.json"
        words = [*WORDS, "--out", str(out), "--save", str(figure), "--json", str(file)]
        assert main(words) == 0
        printed = capfd.readouterr()
        assert printed.err.count(" min left)") == len(VARIANTS)
        assert all(f"| {name} |" in printed.out for name in VARIANTS)
        figures = json.loads(file.read_text())
        assert [row["variant"] for row in figures["variants"]] == list(VARIANTS)
        assert set(figures["ratios"]) == {"flat_over_branching", "branching_over_ddpg"}
        for row in figures["variants"]:
            assert 0 < row["errors_mm"][0] < 1000
            assert row["peak_memory_mb"] > 50
            assert row["decision_ms"] > 0
            assert row["update_ms"] > 0
            assert (row["coverage"] is None) == (row["variant"] == "ddpg")
        assert figure.stat().st_size > 10_000

        # A second call trains nothing and gives the same errors.
        assert main(words) == 0
        assert " min left)" not in capfd.readouterr().err
        again = json.loads(file.read_text())
        assert [row["errors_mm"] for row in again["variants"]] == [row["errors_mm"] for row in figures["variants"]]

        # Another ablation's folder.
        assert main([*words[:3], "0.05", *words[4:]]) == 2
        assert "is of another comparison, with minutes 0.1 instead of 0.05" in capfd.readouterr().err

    def test_a_failed_training_is_an_error_with_its_reason(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The error names the variant and the seed."""
        monkeypatch.setattr(
            ablation,
            "run_trials",
            lambda trials: {name: {"failed": "what it said"} for name in trials if "zero" in name},
        )
        with pytest.raises(RuntimeError, match="flat, zero, seed 0: what it said"):
            bench_ablation(Length(0.1, 30), seeds=1, goals=2, out=str(tmp_path))

    def test_the_variants_of_a_seed_have_folders_and_grids_of_their_own(self, tmp_path: Path) -> None:
        """Five folders for a seed; DDPG keeps the default grid, which it does not use."""
        trials = [trial_of(name, 3, Length(1.0, 30.0), 10, tmp_path) for name in VARIANTS]
        assert len({trial.folder for trial in trials}) == len(VARIANTS)
        assert {trial.config.seed for trial in trials} == {3}
        assert [getattr(trial.config, "grid_step_deg", None) for trial in trials] == [30, 30, 30, 30, 1]
