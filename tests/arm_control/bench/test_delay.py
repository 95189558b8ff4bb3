"""The delay bench: the same goals with delayed servos, as a table, a figure and JSON."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Rejected

from arm_control.bench import delay as module
from arm_control.bench.delay import DELAYS_MS, bench_delay, format_delay
from arm_control.cli import main
from arm_control.evaluation.controllers import IKController
from arm_control.evaluation.episodes import roll_out
from arm_control.evaluation.opening import evaluate
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.runs.seeding import EVALUATION, derived_seeds
from envs.tasks.reach import Reach

DELAYS = [str(delay) for delay in DELAYS_MS]


class TestCommand:
    """The command `bench delay`."""

    @pytest.mark.slow
    def test_table_figure_and_json_hold_each_controller_at_each_delay(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Without delay the figures are those of `evaluate`, and the table is rounded from the JSON."""
        figures_file, picture = tmp_path / "delay.json", tmp_path / "delay.png"
        words = ["ik", "zero", "--goals", "6", "--seed", "3", "--save", str(picture), "--json", str(figures_file)]
        assert main(["bench", "delay", *words]) == 0, capfd.readouterr().err
        figures = json.loads(figures_file.read_text())
        assert (figures["goals"], figures["seed"]) == (6, 3)
        assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert len(picture.read_bytes()) > 5000
        assert sorted(path.name for path in tmp_path.iterdir()) == ["delay.json", "delay.png"]
        for table in (figures["mean_error_mm"], figures["success_10_mm"]):
            assert list(table) == ["ik", "zero"]
            assert all(list(row) == DELAYS for row in table.values())
        # A pose that is commanded from the first step on is reached despite any delay.
        assert max(figures["mean_error_mm"]["ik"].values()) < 0.1
        assert set(figures["success_10_mm"]["ik"].values()) == {1.0}
        for source in ("ik", "zero"):
            expected = evaluate(source, goals=6, seed=3)
            assert figures["mean_error_mm"][source]["0"] == pytest.approx(expected["mean_error_mm"], rel=1e-12)
            assert figures["success_10_mm"][source]["0"] == expected["success"]["10"]
        table = capfd.readouterr().out
        assert "6 held-out goals, seed 3" in table
        for source in ("ik", "zero"):
            (line,) = re.findall(rf"^  {source} .*$", table, re.MULTILINE)
            cells = re.findall(r"([\d.]+) \((\d+)%\)", line)
            for delay, (error, share) in zip(DELAYS, cells, strict=True):
                assert float(error) == pytest.approx(figures["mean_error_mm"][source][delay], abs=0.051)
                assert float(share) == pytest.approx(100 * figures["success_10_mm"][source][delay], abs=0.51)

    def test_an_exported_policy_has_the_errors_of_its_run(
        self, tiny_run: Path, tiny_policy: Path, monkeypatch: Any
    ) -> None:
        """To 0.05 mm, with and without a delay."""
        monkeypatch.setattr(module, "DELAYS_MS", (0, 100))
        # In long episodes the rounding of a policy that has hardly learned, and so never rests, adds up.
        monkeypatch.setattr(module, "environment_maker", functools.partial(module.environment_maker, episode_steps=10))
        run, policy = str(tiny_run), str(tiny_policy)
        errors = bench_delay((run, policy), 3, 0)["mean_error_mm"]
        assert errors[policy] == pytest.approx(errors[run], abs=0.05)

    def test_the_table_is_aligned_for_names_of_any_length(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All rows have the same width."""
        row = dict.fromkeys(DELAYS, 1.25)
        names = {"a": row, "a long name of a run": row}
        table = format_delay({"goals": 1, "seed": 0, "mean_error_mm": names, "success_10_mm": names})
        assert len({len(line) for line in table.splitlines()[1:]}) == 1

    @pytest.mark.slow
    def test_a_delay_equals_an_episode_that_is_shorter_by_it(
        self,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """100 ms are three control periods of 1/30 s, 200 ms six."""
        seeds = derived_seeds(1, EVALUATION, 8)
        ideal = roll_out(IKController(), environment_maker(TrainConfig("ddpg")), seeds).distances_m.mean(0) * 1000
        monkeypatch.setattr(Reach, "episode_steps", 10)
        errors = bench_delay(("ik",), 8, 1)["mean_error_mm"]["ik"]
        assert np.diff(list(errors.values())).min() > 1
        # 100 ms are three control periods, 200 ms six.
        assert errors["0"] == pytest.approx(ideal[10])
        assert errors["100"] == pytest.approx(ideal[7], abs=0.1)
        assert errors["200"] == pytest.approx(ideal[4], abs=0.1)
        assert ideal[7] < errors["125"] < ideal[6]


class TestBadInput:
    """Errors before anything is measured."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "expected run folders, policy files, or zero, random, ik; got none"),
            (["ik", "--save", "delay.jpg"], "--save: expected a file that ends in .png, got delay.jpg"),
            (["ik", "--save", "delay"], "--save: expected a file that ends in .png, got delay"),
            (["ik", "--goals", "0"], "--goals: "),
            (["ik", "--seed", "-1"], "--seed: "),
            (["nowhere"], "no run folder and no policy nowhere"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_invalid_flags(
        self, rejected: Rejected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
    ) -> None:
        """One line and exit code 2, and no file."""
        monkeypatch.chdir(tmp_path)
        assert message in rejected("bench", "delay", *words)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("flag", ["--save", "--json"])
    def test_unwritable_files_are_reported_first(
        self, rejected: Rejected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
    ) -> None:
        """Missing folders, files in the place of a folder, and the reverse."""
        monkeypatch.setattr(module, "roll_out", lambda *_: pytest.fail("the work was begun"))
        (tmp_path / "file").write_text("kept")
        (tmp_path / "folder.png").mkdir()
        for target in (tmp_path / "missing" / "x.png", tmp_path / "file" / "x.png", tmp_path / "folder.png"):
            assert f"cannot write {target}" in rejected("bench", "delay", "ik", "--goals", "1", flag, target)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]

    def test_a_missing_source_is_reported_first(
        self, rejected: Rejected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Although another source could be measured."""
        monkeypatch.setattr(module, "roll_out", lambda *_: pytest.fail("the work was begun"))
        assert f"no run folder and no policy {tmp_path / 'nowhere'}" in rejected(
            "bench", "delay", "ik", tmp_path / "nowhere", "--goals", "1"
        )
