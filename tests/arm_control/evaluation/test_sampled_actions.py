"""`--stochastic`: actions drawn from the stochastic policy of a run, repeatable by the seed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Rejected
from short_trainings import short_validations

from arm_control.cli import main
from arm_control.evaluation.opening import open_controller
from arm_control.runs.config import TrainConfig
from arm_control.training.loop import train
from arm_control.viewers.common.live import roll_out
from policies.a2c.settings import A2CSettings
from policies.reinforce.settings import ReinforceSettings

RUNS = {
    "gaussian": TrainConfig("reinforce", ReinforceSettings(hidden_units=16, learning_starts=200), steps=800),
    "softmax": TrainConfig(
        "a2c",
        A2CSettings(policy="softmax", hidden_units=16, learning_starts=200),
        env="ArmReachMultiDiscrete-v0",
        num_envs=4,
        steps=400,
    ),
    "recurrent": TrainConfig(
        "a2c", A2CSettings(recurrent=True, hidden_units=16, learning_starts=200), num_envs=4, steps=400
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short run of each kind of stochastic policy."""
    folder = tmp_path_factory.mktemp("stochastic")
    with short_validations():
        return {name: train(config, folder / name, quiet=True) for name, config in RUNS.items()}


def evaluated(run: Path, file: Path, *flags: str) -> dict[str, Any]:
    """The figures that `evaluate` writes for a run."""
    assert main(["evaluate", str(run), "--goals", "5", "--json", str(file), *flags]) == 0
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures


class TestController:
    """The controller that draws its actions."""

    @pytest.mark.parametrize("name", RUNS)
    def test_the_seed_decides_the_actions(self, runs: dict[str, Path], name: str) -> None:
        """The same seed gives the same targets bit for bit; the deterministic policy gives others."""
        targets = []
        for stochastic in (True, True, False):
            source = open_controller(str(runs[name]), 3, stochastic=stochastic)
            targets.append(roll_out(source, 1, 3).segment(0.0, 2.0).target_deg)
        np.testing.assert_array_equal(targets[0], targets[1])
        assert not np.array_equal(targets[0], targets[2])

    def test_another_seed_draws_other_actions(self, runs: dict[str, Path]) -> None:
        """For the same goals."""
        targets = []
        for seed in (3, 4):
            source = open_controller(str(runs["gaussian"]), seed, stochastic=True)
            targets.append(roll_out(source, 1, 3).segment(0.0, 2.0).target_deg)
        assert not np.array_equal(targets[0], targets[1])


class TestCommands:
    """`evaluate` and `replay`."""

    def test_the_figures_say_that_actions_were_sampled(
        self, runs: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """The table and the JSON of `evaluate`, which are repeatable and differ from the deterministic policy's."""
        drawn = evaluated(runs["gaussian"], tmp_path / "drawn.json", "--stochastic")
        assert "sampled actions" in capfd.readouterr().out
        again = evaluated(runs["gaussian"], tmp_path / "again.json", "--stochastic")
        mode = evaluated(runs["gaussian"], tmp_path / "mode.json")
        assert "sampled" not in capfd.readouterr().out.splitlines()[-1]
        assert drawn == again
        assert drawn["stochastic"] is True
        assert mode["stochastic"] is False
        assert drawn["mean_error_mm"] != mode["mean_error_mm"]
        # Only the controller differs, not the goals.
        assert drawn["return_ik"] == mode["return_ik"]

    @pytest.mark.parametrize("viewer", ["png", "html", pytest.param("mp4", marks=pytest.mark.slow)])
    def test_viewers_show_sampled_actions(
        self, runs: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], viewer: str
    ) -> None:
        """The trajectory, also in a plot, which otherwise shows the learning curves of a run."""
        capfd.readouterr()
        file = tmp_path / f"run.{viewer}"
        assert main(["replay", str(runs["gaussian"]), "--stochastic", "--goals", "1", "--save", str(file)]) == 0
        assert "gaussian (sampled actions), 1.7 s" in capfd.readouterr().out
        assert file.exists()

    @pytest.mark.parametrize("command", [["evaluate"], ["replay", "--save", "x.html"]], ids=["evaluate", "replay"])
    def test_what_has_no_distribution_is_rejected(
        self, tiny_run: Path, tiny_policy: Path, rejected: Rejected, command: list[str]
    ) -> None:
        """Runs of deterministic agents, policy files, and controllers by name, in one line and with exit code 2."""
        for source in (str(tiny_run), str(tiny_policy), "zero", "random", "ik"):
            error = rejected(*command, source, "--stochastic")
            assert "--stochastic: " in error
            assert "a2c, a3c, actor-critic, reinforce" in error
