"""Comparisons: figures of runs, scheduling of trials, invalid input, kept results, and interrupted comparisons."""

import importlib.util
import json
import mmap
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from helpers import Size, children, running, stuck

from arm_control.cli import main
from arm_control.comparison import comparison, scheduling
from arm_control.comparison.baselines import BaselineConfig
from arm_control.comparison.comparison import check_same_task
from arm_control.comparison.figures import agent_figures, figures_by_agent
from arm_control.comparison.scheduling import run_trials
from arm_control.comparison.table import format_comparison, write_comparison
from arm_control.comparison.trial import Trial, median_us, peak_memory
from arm_control.evaluation.grid_floor import grid_floor
from arm_control.evaluation.learning_curves import progress_of
from arm_control.evaluation.metrics import LADDER_MM
from arm_control.runs.config import TrainConfig
from envs.arm import DEFAULT_URDF
from envs.imperfections import Imperfections

TINY = "ddpg --hidden-units 8 --fourier-octaves 0 --learning-starts 256"
LONG = f"{TINY} --episode-steps 5"  # validated early, its episodes being short


def result(error_mm: float, **other: Any) -> dict[str, Any]:
    """A trial's, whose error falls from 100 mm and whose goals are all within 10 mm and none within 5."""
    rows = [
        {"step": 100 * row, "elapsed_s": 2.0 * row, "mean_error_mm": 100 + (error_mm - 100) * row / 10}
        | {f"success_{mm}_mm": float(mm >= 10) * row / 10 for mm in LADDER_MM}
        for row in range(11)
    ]
    figures = {
        "mean_error_mm": error_mm,
        "success": {str(mm): float(mm >= 10) for mm in LADDER_MM},
        "normalised_return": 1 - error_mm / 100,
        "rest": {
            "target_step_deg": 0.1 * error_mm,
            "angle_range_deg": error_mm,
            "worst_angle_range_deg": 2 * error_mm,
            "reversals": 0.01 * error_mm,
        },
        "memory_mb": 500.0,
        "decision_us": 40.0,
        "last": rows[-1],
        "curve": rows,
    }
    return figures | other


def trial(folder: Path, agent: str = "ddpg", processes: int = 1, seed: int = 0) -> Trial:
    return Trial(TrainConfig(agent, processes=processes, seed=seed), folder, goals=10, goals_seed=0)


def figures_of(errors: dict[str, list[float | str]]) -> dict[str, Any]:
    """A comparison's figures, from each agent's errors; words for one that has failed."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for name, own in errors.items():
        runs[name] = []
        for seed, error in enumerate(own):
            run = {"failed": error} if isinstance(error, str) else result(error)
            runs[name].append(run | {"seed": seed})
    agents = figures_by_agent(runs, dict.fromkeys(runs, 1), intervals=True)
    return {
        "task": {"env": "ArmReach-v0", "imperfections": "ideal"},
        "minutes": None,
        "steps": 1000,
        "goals": 10,
        "seeds": 3,
        "agents": agents,
        "references": {"inverse kinematics": 0.001, "best pose of the degree grid": 1.94},
    }


class Machine:
    """Stands in for the processes: what ran at the same time, on which cores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
        self.log: list[tuple[str, tuple[int, ...], int]] = []
        self.at_once = 0
        self.lock = threading.Lock()
        self.bound: dict[int, set[int]] = {}
        monkeypatch.setattr(scheduling.os, "sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.setattr(
            scheduling.os, "sched_setaffinity", lambda _, own: self.bound.update({threading.get_ident(): set(own)})
        )
        monkeypatch.setattr(scheduling, "run_process", self.run)
        self.work: Callable[[Trial], dict[str, Any]] = lambda trial: result(1.0)

    def run(self, trial: Trial, *_: Any) -> dict[str, Any]:
        with self.lock:
            self.at_once += 1
            self.log.append((trial.folder.name, tuple(sorted(self.bound[threading.get_ident()])), self.at_once))
        time.sleep(0.02)
        try:
            return self.work(trial)
        finally:
            with self.lock:
                self.at_once -= 1


class TestFigures:
    """Figures of an agent, made from those of its runs."""

    def test_figures_are_interquartile_means_with_intervals(self, tmp_path: Path) -> None:
        """Interquartile means, ranges and ratios of three runs are those worked out by hand."""
        agents = figures_of({"one": [1.0, 2.0, 9.0], "other": [4.0, 8.0, 36.0]})["agents"]
        one, other = agents["one"], agents["other"]
        assert one["mean_error_mm"] == pytest.approx((0.25 + 2 + 2.25) / 1.5)
        assert one["normalised_return"] == pytest.approx(1 - (0.25 + 2 + 2.25) / 150)
        # Interquartile means of 1, 2 and 9, but the largest range of all.
        assert one["rest"] == pytest.approx(
            {"target_step_deg": 0.3, "angle_range_deg": 3.0, "worst_angle_range_deg": 18.0, "reversals": 0.03}
        )
        assert (one["seeds"], one["seeds_solved"], other["seeds_solved"]) == (3, 2, 1)
        assert [run["seed"] for run in one["runs"]] == [0, 1, 2]  # of the trainings; a result has that of its goals
        assert one["success"] == {"50": 1.0, "20": 1.0, "10": 1.0, "5": 0.0, "2": 0.0, "1": 0.0}
        assert (one["steps"], one["memory_mb"], one["decision_us"], one["cores"]) == (1000, 500, 40, 1)
        # Of three runs, the same one is drawn three times often enough to be the interval's end.
        assert one["mean_error_mm_interval"] == (1.0, 9.0)
        assert one["success_interval"]["10"] == (1.0, 1.0)
        assert "error_over_first" not in one
        assert other["error_over_first"] == pytest.approx(4.0)
        assert other["error_minus_first_mm"] == pytest.approx(3 * one["mean_error_mm"])
        low, high = other["error_over_first_interval"]
        assert low < 4.0 < high
        assert (low, high) != (4.0, 4.0)  # as it would be of runs in pairs

    def test_a_failed_run_is_counted_and_left_out_of_the_means(self, tmp_path: Path) -> None:
        """The mean is over the other runs; the table counts the failures and quotes the last one."""
        figures = figures_of({"one": [1.0, "it broke", 3.0], "other": ["gone", "gone", "gone"]})
        one, other = figures["agents"].values()
        assert one["mean_error_mm"] == pytest.approx(2.0)
        assert one["seeds_solved"] == 2
        assert "mean_error_mm" not in other
        table = format_comparison(figures)
        assert "| one (1 of 3 failed: it broke) | 1 | 2.00 (1.00 to 3.00) |" in table
        assert "| other | 1 | 3 of 3 failed: gone |" in table
        assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
        write_comparison(figures, tmp_path)
        assert (tmp_path / "errors.png").exists()

    @pytest.mark.parametrize("lacks", ["is null", "is missing"])
    def test_rest_of_a_seed_that_lacks_it_is_undefined_for_the_agent(self, lacks: str, tmp_path: Path) -> None:
        """One run without figures of rest, or from an older version, leaves the agent's undefined."""
        older = result(2.0, rest=None)
        if lacks == "is missing":
            del older["rest"]
        figures = figures_of({"other": [1.0, 3.0], "one": [1.0, 2.0]})
        figures["agents"]["one"] |= agent_figures([result(1.0), older], 1)
        assert figures["agents"]["one"]["rest"] is None
        assert figures["agents"]["one"]["mean_error_mm"] == pytest.approx(1.5)
        other, one = (line for line in format_comparison(figures).splitlines() if line.startswith("| o"))
        assert "| 0.200 | 2.000, 6.000 | 2.0% |" in other
        assert "| undefined | undefined | undefined |" in one
        for agents in (figures["agents"], {"one": figures["agents"]["one"]}):
            write_comparison(figures | {"agents": agents}, tmp_path)
            assert (tmp_path / "errors.png").exists()
            (tmp_path / "errors.png").unlink()

    def test_an_undefined_return_of_one_seed_is_undefined_for_the_agent(self) -> None:
        """All seeds share the goals, so one undefined return makes the agent's undefined."""
        runs = [
            result(1.0, normalised_return=0.5),
            result(1.0, normalised_return=None),
            result(1.0, normalised_return=None),
        ]
        figures = figures_by_agent({"one": runs}, {"one": 1}, intervals=True)["one"]
        assert figures["normalised_return"] is None
        assert "normalised_return_interval" not in figures
        assert figures["mean_error_mm"] == pytest.approx(1.0)

    def test_learning_curves_are_averaged_where_all_runs_have_one(self, tmp_path: Path) -> None:
        """Mean and interval of two straight curves are their closed form, from the later start to the earlier end."""
        agent = figures_of({"one": [0.0, 20.0]})["agents"]["one"]
        agent["runs"][1]["curve"] = agent["runs"][1]["curve"][:6]  # it comes to 500 steps
        progress = progress_of(agent, "step")
        assert (progress.x[0], progress.x[-1]) == pytest.approx((100, 500))
        # 100 mm - 10 mm a row of the one, and - 8 mm of the other.
        assert progress.error[0] == pytest.approx(100 - 9 * progress.x / 100)
        assert progress.error[1] == pytest.approx(100 - 10 * progress.x / 100)
        assert progress.error[2] == pytest.approx(100 - 8 * progress.x / 100)
        assert progress.success[10] == pytest.approx(progress.x / 1000)
        assert (progress.success[5] == 0).all()
        by_time = progress_of(agent, "elapsed_s")
        assert (by_time.x[0], by_time.x[-1]) == (0, 10)
        agent["runs"][0]["curve"] = agent["runs"][0]["curve"][
            2:
        ]  # first looked at after 4 s: nothing is known of before
        assert (progress_of(agent, "elapsed_s").x[0], progress_of(agent, "step").x[0]) == pytest.approx((4, 200))

    def test_the_error_of_the_degree_grid_is_the_documented_one(self) -> None:
        """The reference row's 1.94 mm is the mean distance to the best pose of 10,000 goals."""
        assert grid_floor(10_000, 0, 1.0)["best_mean_mm"] == pytest.approx(1.94, abs=0.005)


class TestExitCode:
    """The exit code of a comparison with failed runs."""

    @pytest.mark.parametrize(
        ("errors", "code", "message"),
        [
            ([["it broke", "it broke"], ["gone", "it broke"]], 2, "all 4 trainings failed: gone; it broke"),
            ([["it broke", 2.0], ["gone", "gone"]], 0, ""),
            ([[1.0, 2.0], [3.0, 4.0]], 0, ""),
        ],
    )
    def test_a_comparison_in_which_no_training_succeeded_is_an_error_after_its_table(
        self,
        errors: list[list[float | str]],
        code: int,
        message: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Code 2 and the reasons follow the table only if every training failed."""
        outcomes = {
            f"{agent}, seed {seed}": {"failed": error} if isinstance(error, str) else result(error, seed=17)
            for agent, row in zip(("ddpg", "dqn"), errors, strict=True)
            for seed, error in enumerate(row)
        }
        monkeypatch.setattr(comparison, "run_trials", lambda trials: outcomes)
        monkeypatch.setattr(comparison, "references", lambda command, config: {})
        words = ["compare", "ddpg", "dqn", "--seeds", "2", "--steps", "8", "--out", str(tmp_path)]
        assert main([*words, "--json", str(tmp_path / "figures.json")]) == code
        out, error = capsys.readouterr()
        assert "| ddpg |" in out or "| ddpg (" in out
        assert message in error
        assert error.count("\n") == (code == 2)
        assert (tmp_path / "table.md").exists()
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert figures["seeds"] == 2
        # The seeds of the trainings; a result has that of its goals.
        assert [run["seed"] for run in figures["agents"]["dqn"]["runs"]] == [0, 1]


class TestBadInput:
    """Errors before any training starts: one line, exit code 2."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["bench", "ablation", "--grid-step-deg", "7"], "expected a grid step that divides the joint ranges"),
            (["bench", "ablation", "--grid-step-deg", "0"], "--grid-step-deg: expected from 0.01"),
            (["bench", "ablation", "--grid-step-deg", "nan"], "--grid-step-deg: expected from 0.01"),
            (["bench", "ablation", "--seeds", "1001"], "--seeds: expected a number from 1 to 1000"),
            (["compare", "dqn --grid-step-deg 7", "ddpg"], "'dqn --grid-step-deg 7, seed 0': expected a grid step"),
            (["compare", "ddpg", "dqn --grid-step-deg 45 --arm none.urdf"], "different tasks"),
            (["compare", "ddpg --arm none.urdf"], "cannot read arm"),
            (["compare", "ddpg --env ArmTrack-v0 --speed-m-s 50"], "expected a speed"),
            (["compare", "ddpg --init none"], "no run folder none"),
            (["compare", "ddpg", "--out", "file/runs"], "file"),
            (["bench", "ablation", "--out", "file/runs"], "file"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_settings_that_every_training_would_reject_are_reported_first(
        self,
        words: list[str],
        message: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Nothing is started, and no file is left behind."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").write_text("kept")
        monkeypatch.setattr(scheduling, "run_process", lambda *_: pytest.fail("a training was started"))
        assert main(words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "expected agents to compare"),
            (["ddqg"], "unknown agent 'ddqg' (did you mean ddpg?)"),
            (["sb3-pop"], "unknown agent 'sb3-pop' (did you mean sb3-ppo?)"),
            ([""], "unknown agent ''"),
            (["ddpg", "ddpg "], "duplicate agent 'ddpg'"),
            (["ddpg --seed 3"], "'ddpg --seed 3': --seed applies to all agents: expected it outside the quotes"),
            (["sb3-a2c --minutes 3"], "--minutes applies to all agents"),
            (["ddpg --hiden-units 3"], "did you mean --hidden-units?"),
            (["sb3-a2c --settings best"], "settings"),
            (["ddpg", "--seeds", "1"], "an interval requires at least 2, got 1"),
            (["ddpg", "--seeds", "0", "--no-intervals"], "--seeds: expected a number from 1 to 1000, got 0"),
            (["ddpg", "--steps", "5", "--minutes", "1"], "expected one of --steps and --minutes"),
            (["ddpg", "--steps", "0"], "--steps: "),
            (["sb3-ddpg", "--steps", "0"], "--steps: "),
            (["sb3-ddpg --env ArmReachMultiDiscrete-v0"], "requires actions in degrees"),
            (["ddpg", "sb3-ddpg", "--minutes", "nan"], "--minutes: "),
            (["ddpg", "a2c --imperfections rough"], "'ddpg' and 'a2c --imperfections rough' have different tasks"),
            (["ddpg", "ddpg --env ArmTrack-v0"], "different tasks"),
            (["ddpg", "ddpg --episode-steps 60"], "different tasks, episode-steps None and 60"),
            (["ddpg", "ddpg --goal-tolerance-m 0.02"], "different tasks, goal-tolerance-m 0.01 and 0.02"),
            (["a2c --processes 2", "a2c-processes-2"], "unknown agent 'a2c-processes-2'"),
        ],
    )
    def test_invalid_flags_are_one_line_and_create_no_folder(
        self, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Unknown agents, flags, numbers and different tasks are each reported in one line."""
        out = tmp_path / "out"
        assert main(["compare", *words, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not out.exists()

    @pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                "ddpg --hiden-units 3",
                "--hiden-units, 3 (did you mean --hidden-units?); see arm-control train ddpg --help",
            ),
            (
                "sb3-a2c --settings best",
                "Expected one of ('defaults', 'zoo').; see arm-control compare 'sb3-a2c --help'",
            ),
        ],
    )
    def test_an_agents_invalid_flag_is_reported_in_any_encoding(self, words: str, message: str, encoding: str) -> None:
        """The line suggests the flag or its values and names the help, in UTF-8 and in ASCII."""
        done = subprocess.run(
            [sys.executable, "-m", "arm_control.cli", "compare", words],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": encoding},
            text=True,
        )
        assert done.returncode == 2
        assert done.stderr.endswith(message + "\n")
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize("name", ["ddpg", "sb3-ppo"])
    def test_the_help_of_an_agent_lists_its_flags(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        """`compare "AGENT --help"` prints that agent's settings."""
        assert main(["compare", f"{name} --help"]) == 0
        assert "--discount" in capsys.readouterr().out

    def test_a_missing_library_is_reported_with_its_extra(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A baseline whose library is missing is an error with the pip command that installs it."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        assert main(["compare", "ddpg", "sb3-ppo"]) == 2
        assert (
            "requires stable_baselines3, which is not installed: pip install '.[baselines]'" in capsys.readouterr().err
        )

    def test_actions_and_rewards_of_other_kinds_are_the_same_task(self) -> None:
        """Agents with different actions and rewards may be compared."""
        same = {"a": TrainConfig("ddpg", reward="sparse"), "b": TrainConfig("dqn"), "c": BaselineConfig("sb3-td3")}
        check_same_task(same)

    def test_a_missing_initial_run_is_reported_before_training(self, tmp_path: Path) -> None:
        """No folder is created for a trial whose `--init` does not exist."""
        broken = Trial(TrainConfig("ddpg", init="nowhere", steps=10), tmp_path / "ours", 10, 0)
        with pytest.raises(ValueError, match="no run folder nowhere"):
            run_trials({"broken": broken})
        assert not (tmp_path / "ours").exists()


class TestTable:
    """The table and the figures drawn from it."""

    def test_the_table_gives_figures_with_their_intervals_and_references(self, tmp_path: Path) -> None:
        """Each row holds the figures with intervals, the comparison with the first agent, or a reference."""
        lines = format_comparison(figures_of({"one": [1.0, 2.0], "other": [40.0, 80.0]})).splitlines()
        assert lines[0].startswith("1,000 steps, 3 seeds, 10 held-out goals")
        assert lines[4].startswith(
            "| one | 1 | 1.50 (1.00 to 2.00) |  | 100.0% | 0.0% | 0.0% | 0.150 | 1.500, 4.000 | 1.5% "
            "| 0.985 (0.980 to 0.990) | 2 of 2"
        )
        assert lines[5].startswith("| other | 1 | 60.0 (40.0 to 80.0) | 40.0 (20.0 to 80.0) |")
        assert lines[6].startswith("| *inverse kinematics* | | 0.00 |")
        assert lines[7].startswith("| *best pose of the degree grid* | | 1.94 |")

    def test_a_name_or_a_reason_stays_in_its_cell(self, tmp_path: Path) -> None:
        """Vertical bars and control characters of names and reasons are escaped."""
        table = format_comparison(figures_of({"one | two": ["a | b\x1b[2J"], "other": [1.0, "c | d"]}))
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
        assert table.replace("\n", "").isprintable()

    def test_a_comparison_of_failed_runs_only_has_a_table_and_no_figure(self, tmp_path: Path) -> None:
        """Without a single result the failures are listed and no figure is drawn."""
        figures = figures_of({"one": ["it broke"]})
        assert "1 of 1 failed: it broke" in write_comparison(figures, tmp_path)
        assert not (tmp_path / "errors.png").exists()

    @pytest.mark.slow
    def test_the_figures_are_drawn_for_one_agent_and_for_many(self, tmp_path: Path) -> None:
        """All three figures show the curve of each agent in a colour of its own."""
        for count in (1, 6):
            out = tmp_path / str(count)
            out.mkdir()
            write_comparison(
                figures_of({f"sb3-{n}" if n % 2 else f"{n}": [n + 1.0, n + 2.0] for n in range(count)}), out
            )
            for name in ("errors", "progress-by-time", "progress-by-steps"):
                picture = matplotlib.image.imread(out / f"{name}.png")
                assert min(picture.shape[:2]) > 150
                blue, orange = (
                    (np.abs(picture[..., :3] - colour).max(axis=-1) < 0.02).sum()
                    for colour in ((0, 0x72 / 255, 0xB2 / 255), (0xD5 / 255, 0x5E / 255, 0))
                )
                assert blue > 50
                assert (orange > 50) == (count > 1)
            assert json.loads((out / "comparison.json").read_text())["agents"]["0"]["seeds"] == 2


class TestScheduling:
    """Trials run side by side, each on cores of its own."""

    def test_runs_of_two_cores_come_first_and_no_two_share_a_core(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Wide trials start first, and each trial is bound to cores that no other uses."""
        machine = Machine(monkeypatch, cores=4)
        trials = {f"wide{n}": trial(tmp_path / f"wide{n}", processes=2) for n in range(3)}
        trials |= {f"thin{n}": trial(tmp_path / f"thin{n}") for n in range(8)}
        results = run_trials(dict(sorted(trials.items())))
        assert set(results) == set(trials)
        names = [name for name, _, _ in machine.log]
        assert all(name.startswith("wide") for name in names[:3])
        assert {cores for name, cores, _ in machine.log if name.startswith("wide")} <= {(0, 1), (2, 3)}
        assert {cores for name, cores, _ in machine.log if name.startswith("thin")} == {(0,), (1,), (2,), (3,)}
        assert max(at_once for name, _, at_once in machine.log if name.startswith("wide")) == 2
        assert max(at_once for name, _, at_once in machine.log if name.startswith("thin")) == 4

    def test_one_core_runs_all_trials_one_after_the_other(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A trial of two cores runs on one if there is only one."""
        machine = Machine(monkeypatch, cores=1)
        run_trials({"wide": trial(tmp_path / "wide", processes=2), "thin": trial(tmp_path / "thin")})
        assert [(cores, at_once) for _, cores, at_once in machine.log] == [((0,), 1), ((0,), 1)]

    def test_progress_is_printed_with_the_time_left(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each finished trial is a numbered line with its error or the reason of its failure."""
        machine = Machine(monkeypatch, cores=1)
        machine.work = lambda trial: result(2.0) if trial.folder.name == "a" else {"failed": "it broke"}
        run_trials({name: trial(tmp_path / name) for name in "ab"})
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith("[1/2] a: 2.00 mm  (about 0 min left)")
        assert second.startswith("[2/2] b: it broke")

    def test_an_interruption_starts_no_further_trial(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """After Ctrl-C at most the trial that had just been taken is started."""
        machine = Machine(monkeypatch, cores=1)

        def press(trial: Trial) -> dict[str, Any]:
            raise KeyboardInterrupt

        machine.work = press
        with pytest.raises(KeyboardInterrupt):
            run_trials({name: trial(tmp_path / name) for name in "abcdef"})
        assert len(machine.log) <= 2

    def test_two_trials_in_one_folder_are_an_error(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Trials that would share a folder are rejected before one starts."""
        Machine(monkeypatch, cores=1)
        with pytest.raises(ValueError, match="'a' and 'b' would have the same folder"):
            run_trials({"a": trial(tmp_path / "same"), "b": trial(tmp_path / "same")})


class TestResultFile:
    """Results that an earlier comparison left in its folder."""

    @pytest.mark.parametrize(
        ("there", "message"),
        [
            ({"goals": 20}, "with goals 20 instead of 10"),
            ({"goals_seed": 1}, "with goals_seed 1 instead of 0"),
            ({"config": {"minutes": 1.0}}, "with minutes 1.0 instead of None"),
        ],
    )
    def test_a_result_with_other_settings_is_an_error(
        self, there: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        """The error names the setting that differs, with both values."""
        expected = trial(tmp_path)
        values = expected.to_json()
        values |= {**there, "config": values["config"] | there.get("config", {})}
        expected.result_file.write_text(json.dumps({"trial": values, "result": {}}))
        with pytest.raises(ValueError, match="is of another comparison, " + message):
            expected.result()

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"trial": [], "result": {}}', "[" * 100_000])
    def test_a_damaged_result_is_an_error(self, text: str, tmp_path: Path) -> None:
        """Text that is not the JSON of a result is reported as damage."""
        expected = trial(tmp_path)
        expected.result_file.write_text(text)
        with pytest.raises(ValueError, match=r"trial\.json is damaged"):
            expected.result()

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            (field, value)
            for field in result(1.0)
            for value in (None, "x", [], [{}], {"10": "all"})
            if (field, value) not in (("normalised_return", None), ("rest", None))  # which are undefined
        ],
    )
    def test_a_result_without_its_figures_is_damaged(self, field: str, value: Any, tmp_path: Path) -> None:
        """Every figure that is missing or of another type is detected."""
        expected = trial(tmp_path)
        kept = {"trial": expected.to_json(), "result": result(1.0)}
        expected.result_file.write_text(json.dumps(kept))
        assert expected.result() == kept["result"]
        expected.result_file.write_text(json.dumps(kept | {"result": result(1.0, **{field: value})}))
        with pytest.raises(ValueError, match=r"trial\.json is damaged"):
            expected.result()

    def test_a_folder_without_a_run_is_an_error(self, tmp_path: Path) -> None:
        """A folder of other files is not overwritten."""
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(ValueError, match="is no run folder"):
            trial(tmp_path).result()

    def test_a_trial_is_read_back_equal_from_json(self, tmp_path: Path) -> None:
        """Agents, baselines and measured imperfections survive the JSON that starts a process."""
        measured = Imperfections(action_delay_s=(0.03, 0.04))
        for config in (
            TrainConfig("a2c", minutes=1.0, imperfections="late"),
            TrainConfig("a2c", imperfections=measured),
            BaselineConfig("sb3-ppo", steps=10, processes=2),
            BaselineConfig("sb3-ppo", imperfections=measured),
        ):
            one = Trial(config, tmp_path, 10, 3)
            assert Trial.from_json(tmp_path, json.loads(json.dumps(one.to_json()))) == one
        assert trial(tmp_path, "a3c").cores == 2
        assert Trial(BaselineConfig("sb3-ppo", processes=2), tmp_path, 1, 0).cores == 2

    def test_a_finished_trial_is_recognised_after_its_files_moved(self, tmp_path: Path) -> None:
        """Folder and URDF may be moved; a changed URDF is another comparison."""
        here, there = tmp_path / "here.urdf", tmp_path / "there.urdf"
        shutil.copy(DEFAULT_URDF, here)
        before = Trial(TrainConfig("ddpg", arm=str(here), steps=8), tmp_path / "before", 10, 3)
        before.folder.mkdir()
        before.result_file.write_text(json.dumps({"trial": before.identity(), "result": result(1.0)}))
        shutil.move(before.folder, tmp_path / "after")
        shutil.move(here, there)
        after = Trial(TrainConfig("ddpg", arm=str(there), steps=8), tmp_path / "after", 10, 3)
        assert after.result() == result(1.0)
        there.write_text(there.read_text().replace('xyz="0 0 0.25"', 'xyz="0 0 0.26"'))
        with pytest.raises(ValueError, match="is of another comparison, with arm sha256:"):
            after.result()

    @pytest.mark.parametrize("config", [TrainConfig("ddpg", steps=8), BaselineConfig("sb3-ppo", steps=8)])
    def test_a_trial_of_another_format_of_run_folders_is_another_comparison(
        self, config: TrainConfig | BaselineConfig, tmp_path: Path
    ) -> None:
        """An older format had other observations, so its figures are not mixed with new ones."""
        one = Trial(config, tmp_path, 10, 3)
        older = {name: value for name, value in one.identity().items() if name != "format_version"}
        one.result_file.write_text(json.dumps({"trial": older, "result": result(1.0)}))
        with pytest.raises(ValueError, match="is of another comparison, with format_version None instead of"):
            one.result()


class TestMeasurements:
    """Memory and decision times of a trial."""

    def test_memory_includes_that_of_child_processes(self) -> None:
        """300 MB here and 600 MB in a child are both counted; shared pages are not counted twice."""
        code = "import sys; held = bytearray(b'x' * 600_000_000); print(len(held), flush=True); sys.stdin.read()"
        with peak_memory() as alone_mb:
            pass
        with peak_memory() as with_child_mb:
            process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()
            held = np.frombuffer(mmap.mmap(-1, 300_000_000), np.uint8)
            held[:] = 1
        process.communicate()
        assert 750 < with_child_mb() - alone_mb() < 1100

    def test_decisions_are_timed_by_their_median(self) -> None:
        """One call of 50 ms in 100 of 1 ms does not change the decision time."""
        calls = iter(range(1000))
        assert 900 < median_us(lambda: time.sleep(0.05 if next(calls) % 100 == 0 else 0.001)) < 10_000


# A trial that trains nothing: after a moment it leaves a result that depends on its agent and seed alone.
STUB_TRIAL = """
import json, os, sys, time, zlib
from pathlib import Path
from arm_control.evaluation.metrics import LADDER_MM
from arm_control.comparison.trial import end_with

parent, folder, values = sys.argv[1:]
end_with(int(parent))
time.sleep(0.3)
trial = json.loads(values)
error_mm = 1.0 + zlib.crc32(f"{trial['config']['agent']} {trial['config']['seed']}".encode()) % 100
row = {"step": 100, "elapsed_s": 1.0, "mean_error_mm": error_mm} | {f"success_{mm}_mm": 0.5 for mm in LADDER_MM}
result = {
    "mean_error_mm": error_mm, "success": {str(mm): 0.5 for mm in LADDER_MM}, "normalised_return": 0.5,
    "memory_mb": 1.0, "decision_us": 1.0, "last": row, "curve": [row, row | {"step": 200, "elapsed_s": 2.0}],
}
aside = Path(f"{folder}.aside{os.getpid()}")
aside.mkdir(parents=True)
(aside / "trial.json").write_text(json.dumps({"trial": trial, "result": result}))
os.replace(aside, folder)
"""
# The command, with that in place of its trials.
STUBBED_COMMAND = """
import sys
from arm_control import cli
from arm_control.comparison import comparison, scheduling

scheduling.TRIAL_COMMAND = (sys.executable, "-c", sys.argv[1])
sys.exit(cli.main(sys.argv[2:]))
"""


class TestInterruption:
    """Trials that crash, and comparisons that are killed, interrupted and resumed."""

    @pytest.mark.slow
    def test_a_trial_that_crashes_is_a_row_with_its_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last line of the process's standard error is the reason, and no folder is left."""
        code = "import sys; sys.exit('arm-control: error: it broke')"
        monkeypatch.setattr(scheduling, "TRIAL_COMMAND", (sys.executable, "-c", code))
        assert run_trials({"broken": trial(tmp_path / "ours")}) == {"broken": {"failed": "it broke"}}
        assert not (tmp_path / "ours").exists()

    @pytest.mark.slow
    def test_a_trial_ends_when_its_comparison_is_killed(self, tmp_path: Path) -> None:
        """Trials of a killed comparison save a checkpoint and exit."""
        words = ["compare", LONG, "--steps", "100000000", "--seeds", "2", "--out", str(tmp_path)]
        process = subprocess.Popen(
            [sys.executable, "-m", "arm_control.cli", *words], stderr=subprocess.DEVNULL, start_new_session=True
        )
        expected = [
            tmp_path / f"{LONG.replace(' --', '-').replace(' ', '-')}-seed{seed}/metrics.jsonl" for seed in (0, 1)
        ]
        end = time.monotonic() + 120
        at_once = min(2, len(os.sched_getaffinity(0)))
        while sum(path.exists() for path in expected) < at_once:
            assert time.monotonic() < end
            time.sleep(0.1)
        trials = children(process.pid)
        assert len(trials) == at_once
        process.kill()
        process.wait()
        assert stuck(trials) == []
        for path in expected[:at_once]:
            assert list((path.parent / "checkpoints").glob("step-*"))  # it was stopped, not killed

    @pytest.mark.slow
    def test_a_comparison_that_is_killed_at_random_moments_repeats_no_finished_trial(
        self, tmp_path: Path, size: Size
    ) -> None:
        """Killed and resumed, it gives the figures of an uninterrupted one and leaves no process."""
        words = ["compare", "ddpg", "sb3-a2c", "--steps", "100", "--seeds", "3", "--goals", "10", "--out"]
        start = [sys.executable, "-c", STUBBED_COMMAND, STUB_TRIAL, *words]
        whole, out = tmp_path / "whole", tmp_path / "killed"
        message = subprocess.run([*start, str(whole)], capture_output=True, text=True, check=True).stderr
        assert message.count(" mm  (about ") == 6
        again = subprocess.run([*start, str(whole)], capture_output=True, text=True, check=True).stderr
        assert again == "[6/6] already finished\n"

        moments = random.Random(0)
        kills, most_kills = 0, size(3, full=20, of="kills")
        kept = 0
        while True:
            finished = {path: path.stat().st_mtime_ns for path in out.glob("*/trial.json")}
            kept += len(finished)
            process = subprocess.Popen([*start, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if kills < most_kills:
                time.sleep(moments.uniform(1.0, 4.0))
                kills += 1
                # On a slow machine nothing is finished yet: the last kill waits for a trial that is then kept.
                while kills == most_kills and not list(out.glob("*/trial.json")) and process.poll() is None:
                    time.sleep(0.05)
                trials = children(process.pid)
                process.kill()
                process.communicate()
                assert stuck(trials) == []
            else:
                error = process.communicate(timeout=60)[1]
                assert process.returncode == 0, error
                break
            assert all(path.stat().st_mtime_ns == when for path, when in finished.items())
            if len(finished) == 6:  # all are finished: start again
                shutil.rmtree(out)
        assert kept > 0
        assert json.loads((whole / "comparison.json").read_text()) == json.loads((out / "comparison.json").read_text())

    @pytest.mark.soak
    @pytest.mark.slow
    def test_real_trials_give_the_same_table_after_kills(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Killed at random moments and resumed, real trainings give the uninterrupted figures."""
        words = ["compare", TINY, "sb3-a2c", "--steps", "1500", "--seeds", "2", "--goals", "10"]
        assert main([*words, "--out", str(tmp_path / "whole"), "--json", str(tmp_path / "whole.json")]) == 0
        printed = capfd.readouterr()
        assert printed.err.count(" min left)") == 4

        out = tmp_path / "killed"
        for seconds in (*random.Random(0).sample(range(4, 40), 4), 600):  # the last comes to its end
            finished = {path: path.stat().st_mtime_ns for path in out.glob("*/trial.json")}
            process = subprocess.Popen(
                [sys.executable, "-m", "arm_control.cli", *words, "--out", str(out)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                error = process.communicate(timeout=seconds)[1]
            except subprocess.TimeoutExpired:
                trials = children(process.pid)
                process.kill()
                error = process.communicate()[1]
                assert stuck(trials) == []
            assert all(path.stat().st_mtime_ns == when for path, when in finished.items())
        assert process.returncode == 0, error

        def deterministic(agents: dict[str, Any]) -> Any:
            """All but what the clock and memory say."""
            if isinstance(agents, dict):
                times = ("elapsed_s", "memory_mb", "decision_us")
                return {key: deterministic(value) for key, value in agents.items() if key not in times}
            return [deterministic(value) for value in agents] if isinstance(agents, list) else agents

        one, other = (json.loads((folder / "comparison.json").read_text()) for folder in (tmp_path / "whole", out))
        assert deterministic(one) == deterministic(other)
        assert json.loads((tmp_path / "whole.json").read_text()) == one
        assert set(one["agents"]) == {TINY, "sb3-a2c"}
        assert one["agents"]["sb3-a2c"]["seeds_solved"] == 0

        # A further call trains nothing; with another agent it trains that one only.
        capfd.readouterr()
        assert main([*words, "--out", str(out)]) == 0
        assert "min left" not in capfd.readouterr().err
        assert main([*words[:2], *words[3:], "--out", str(out)]) == 0

        # Another comparison's folder, and nothing lost.
        assert main([*words[:3], "--steps", "1400", *words[5:], "--out", str(out)]) == 2
        assert "is of another comparison, with steps 1500 instead of 1400" in capfd.readouterr().err

    @pytest.mark.slow
    def test_ctrl_c_leaves_no_process_and_resumable_runs(self, tmp_path: Path) -> None:
        """Every trial saves a checkpoint before it exits."""
        words = ["compare", LONG, "--steps", "100000000", "--seeds", "2", "--out", str(tmp_path)]
        process = subprocess.Popen(
            [sys.executable, "-m", "arm_control.cli", *words],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        end = time.monotonic() + 120
        while not list(tmp_path.glob("*/metrics.jsonl")):
            assert time.monotonic() < end
            time.sleep(0.1)
        trials = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in error
        assert not [pid for pid in trials if running(pid)]
        assert all(list(folder.glob("checkpoints/step-*")) for folder in tmp_path.glob("*-seed*"))
