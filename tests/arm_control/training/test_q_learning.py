"""Q-learning agents through the commands: training, resuming, export with the argmax, and invalid input."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Rejected, exact
from onnx import numpy_helper
from short_trainings import short_validations

from arm_control.cli import main
from arm_control.evaluation.controllers import actions_for
from arm_control.evaluation.opening import evaluate
from arm_control.exporter import exporter
from arm_control.exporter.agreement import ExportError
from arm_control.exporter.exporter import export
from arm_control.exporter.states import environment_observation, random_states
from arm_control.runner import PolicyRunner
from arm_control.runs.agent import load_policy
from arm_control.runs.checkpoint import load_latest, save_checkpoint
from arm_control.runs.config import TrainConfig
from arm_control.training import loop
from arm_control.training.loop import Training, train
from envs.arm import Arm
from policies.branching_dqn.settings import BranchingDQNSettings
from policies.common.settings import AgentSettings
from policies.dqn.agent import GreedyPolicy
from policies.dqn.settings import DQNSettings
from policies.registry import AGENTS

COARSE_DEG = 30.0  # 4 x 4 x 4 actions
SMALL = {
    "hidden_units": 8,
    "learning_rate": 0.02,
    "fourier_octaves": 1,
    "batch_size": 16,
    "learning_starts": 64,
    "target_period": 7,
}
LEARNERS: dict[str, tuple[str, AgentSettings]] = {
    "zero": ("dqn", DQNSettings(**SMALL, head="zero")),  # type: ignore[arg-type]
    "random": ("dqn", DQNSettings(**SMALL, head="random", double_q=False)),  # type: ignore[arg-type]
    "features": ("dqn", DQNSettings(**SMALL, head="features")),  # type: ignore[arg-type]
    "branching": ("branching-dqn", BranchingDQNSettings(**SMALL)),  # type: ignore[arg-type]
}
INERTIAL = (
    '<inertial><mass value="0.02"/><inertia ixx="1e-4" ixy="0" ixz="0" iyy="1e-4" iyz="0" izz="1e-4"/></inertial>'
)
ONE_JOINT = f"""<robot name="one">
  <link name="base">{INERTIAL}</link>
  <link name="rod">{INERTIAL}</link>
  <link name="tip">{INERTIAL}</link>
  <joint name="shoulder" type="revolute">
    <parent link="base"/><child link="rod"/><origin xyz="0 0 0.1"/><axis xyz="0 1 0"/>
    <limit lower="0" upper="1.5707963267948966" effort="1.5" velocity="6"/>
  </joint>
  <joint name="end" type="fixed"><parent link="rod"/><child link="tip"/><origin xyz="0 0 0.3"/></joint>
</robot>
"""


@pytest.fixture(autouse=True)
def quick_trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few reports and short validations and exports for all trainings of this module."""
    monkeypatch.setattr(exporter, "RANDOM_STATES", 1000)
    with short_validations(reports=2):
        yield


def config_of(name: str, **other: Any) -> TrainConfig:
    agent, settings = LEARNERS[name]
    return TrainConfig(
        agent, settings, **{"num_envs": 4, "steps": 1200, "seed": 5, "grid_step_deg": COARSE_DEG, **other}
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short run of each learner on the coarse grid; not to be written to."""
    with short_validations(reports=2):
        folder = tmp_path_factory.mktemp("runs")
        return {name: train(config_of(name), folder / name, quiet=True) for name in LEARNERS}


@pytest.fixture(scope="module")
def policies(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Their exported policies; not to be written to."""
    folder = tmp_path_factory.mktemp("policies")
    return {name: export(run, folder / f"{name}.onnx") for name, run in runs.items()}


INVALID = {
    "train dqn --env ArmReach-v0": "agent dqn requires --env ArmReachDiscrete-v0, got ArmReach-v0",
    "train branching-dqn --env ArmReachDiscrete-v0": "requires --env ArmReachMultiDiscrete-v0",
    "train ddpg --env ArmReachDiscrete-v0": "agent ddpg requires --env ArmReach-v0",
    "train dqn --grid-step-deg 7": "expected a grid step that divides the joint ranges (0 to 90",
    "bench argmax --grid-step-deg 7": "expected a grid step that divides the joint ranges (0 to 90",
    "bench argmax --rounds 0": "--rounds: expected a number from 1",
    "bench argmax --save figure.txt": "expected a file that ends in .png",
    "bench ablation --minutes 0": "--minutes: expected a positive number",
    "bench ablation --seeds 0": "--seeds: expected a number from 1",
    "train ddpg --grid-step-deg 5": "actions in ArmReach-v0 are on no grid",
    "train dqn --hidden-units 712": "a head of 2.00 GiB, and an ONNX file holds at most 2",
    "train dqn --hidden-units 2000": "expected at most 7",
    "train dqn --action-repeat 7": "expected a divisor of an episode's 50 steps, got 7",
    "train dqn --target-period 0": "target-period: expected a positive number",
    "train dqn --max-epsilon 1.5": "max-epsilon: expected a number from 0 to 1",
    "train dqn --head other": "head",
}


class TestTraining:
    """Trainings on a coarse grid."""

    def test_each_agent_has_a_default_environment(self) -> None:
        """It is the one with the agent's kind of actions."""
        assert {name: TrainConfig(name).env for name in AGENTS} == {
            "ddpg": "ArmReach-v0",
            "dqn": "ArmReachDiscrete-v0",
            "branching-dqn": "ArmReachMultiDiscrete-v0",
            **dict.fromkeys(("a2c", "a3c", "actor-critic", "dpg", "reinforce"), "ArmReach-v0"),
        }
        assert all(isinstance(TrainConfig(name).settings, AGENTS[name]) for name in AGENTS)

    @pytest.mark.parametrize("name", LEARNERS)
    def test_a_configuration_is_read_back_equal_from_json(self, name: str) -> None:
        """For each head and agent."""
        config = config_of(name)
        assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config

    @pytest.mark.slow
    @pytest.mark.parametrize("name", LEARNERS)
    def test_a_resumed_run_is_bit_equal(self, name: str, tmp_path: Path) -> None:
        """Interrupted within a target network's period, it ends with an equal state."""
        with (
            Training(config_of(name)) as whole,
            Training(config_of(name)) as first,
            Training(config_of(name)) as second,
        ):
            for _ in range(60):
                whole.advance()
            for _ in range(37):  # in the middle of a target's period
                first.advance()
            assert first.updates > 0
            save_checkpoint(tmp_path, first.step, first.state_dict())
            second.load_state_dict(load_latest(tmp_path)[1])
            for _ in range(23):
                second.advance()
            for training_, place in ((whole, "whole"), (second, "second")):
                save_checkpoint(tmp_path / place, training_.step, training_.state_dict())
            states = [exact(load_latest(tmp_path / place)[1]) for place in ("whole", "second")]
            assert states[0] == states[1]

    def test_an_action_is_held_for_action_repeat_steps(self) -> None:
        """Five steps by default, and all of them are counted."""
        config = config_of("zero")
        with Training(config) as training_:
            assert config.settings.action_repeat == 5
            before = [arm._steps for arm in training_.learner._bare_arms]
            training_.advance()
            assert [arm._steps for arm in training_.learner._bare_arms] == [steps + 5 for steps in before]
            assert training_.step == 5 * config.num_envs

    def test_coverage_of_the_grid_is_reported(self, runs: dict[str, Path]) -> None:
        """Coverage and the fraction of untried picks are within 0 to 1."""
        for run in runs.values():
            last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
            assert 0 < last["coverage"] <= 1
            assert 0 <= last["untried_picks"] <= 1

    @pytest.mark.slow
    @pytest.mark.soak
    def test_one_joint_is_solved_to_the_grids_resolution(self, tmp_path: Path) -> None:
        """The error is at most 15 % above that of rounded inverse kinematics."""
        urdf = tmp_path / "one.urdf"
        urdf.write_text(ONE_JOINT)
        settings = DQNSettings(
            hidden_units=128,
            fourier_octaves=4,
            learning_rate=3e-3,
            batch_size=256,
            updates_per_step=10,
            relabel_near=0.8,
            relabel_other=0.2,
        )
        run = train(TrainConfig("dqn", settings, arm=str(urdf), steps=80_000), tmp_path / "run", quiet=True)
        got = evaluate(run, goals=300)
        # Inverse kinematics, rounded to the nearest of the 91.
        floor = evaluate("ik", goals=300, arm=str(urdf), env="ArmReachDiscrete-v0")
        assert floor["mean_error_mm"] > 1.0
        assert got["mean_error_mm"] <= 1.15 * floor["mean_error_mm"]

    def test_a_run_starts_from_the_networks_of_another(self, runs: dict[str, Path]) -> None:
        """The table of the loaded head is bit-equal."""
        _, expected, _ = load_policy(runs["zero"])
        with Training(config_of("zero", seed=9)) as training_:
            training_.learner.agent.load_networks(load_latest(runs["zero"] / "checkpoints")[1]["agent"])
            got = training_.learner.agent.policy()
            assert torch.equal(got.head.table, expected.head.table)  # type: ignore[union-attr,arg-type]

    def test_targets_are_converted_to_actions_of_the_grid(self) -> None:
        """Action numbers of four poses, by hand."""
        config = config_of("zero")
        with Training(config) as training_:
            arms = training_.learner._bare_arms
            targets = np.array([[0.0, 30.0, 90.0], [90.0, 90.0, 90.0], [0.0, 0.0, 0.0], [60.0, 0.0, 30.0]])
            assert actions_for(targets, arms).tolist() == [7, 63, 0, 33]


class TestExport:
    """Exported files choose the largest Q."""

    @pytest.mark.parametrize("name", LEARNERS)
    def test_file_and_run_have_the_same_error(
        self, name: str, runs: dict[str, Path], policies: dict[str, Path]
    ) -> None:
        """To 0.5 mm, in the run's own environment."""
        # The file's environment is the whole-degree grid, on which the coarse one's angles are as well.
        of_run, of_file = (evaluate(source[name], goals=6) for source in (runs, policies))
        assert of_file["env"] == of_run["env"]
        assert of_file["mean_error_mm"] == pytest.approx(of_run["mean_error_mm"], abs=0.5)

    @pytest.mark.parametrize("name", LEARNERS)
    def test_the_file_chooses_the_largest_q(self, name: str, runs: dict[str, Path], policies: dict[str, Path]) -> None:
        """Found by a search through all 64 actions, for 200 random states."""
        _, policy, _ = load_policy(runs[name])
        assert isinstance(policy, GreedyPolicy)
        arm = Arm()
        states = {key: rows[:200] for key, rows in random_states(arm, 400, np.random.default_rng(3)).items()}
        targets = PolicyRunner.load(policies[name]).infer(states)
        assert set(np.unique(targets)) <= {0.0, 30.0, 60.0, 90.0}
        x = policy.features(*environment_observation(arm, states))
        every = policy.grid.positions(torch.arange(policy.grid.size))
        q = torch.stack([policy.head.q(x, place.expand(len(x), -1)) for place in every], dim=1)
        index = policy.grid.index(policy.grid.positions_of(torch.from_numpy(targets)))
        got = q.gather(1, index[:, None])[:, 0]
        assert (q.amax(dim=1) - got <= 1e-5 * q.amax(dim=1).abs().clamp(min=1.0)).all()
        assert len(np.unique(targets, axis=0)) > 1

    @pytest.mark.parametrize("name", LEARNERS)
    def test_golden_samples_have_a_clear_maximum(
        self, name: str, runs: dict[str, Path], policies: dict[str, Path]
    ) -> None:
        """Their margin over the second best is larger than the median of random states."""
        golden = PolicyRunner.load(policies[name]).contract.golden
        _, policy, _ = load_policy(runs[name])
        assert isinstance(policy, GreedyPolicy)
        inputs = {key: np.array(rows, np.float32) for key, rows in golden.inputs.items()}
        margin = policy.action_gap(*environment_observation(Arm(), inputs))
        anywhere = random_states(Arm(), 300, np.random.default_rng(4))
        others = policy.action_gap(*environment_observation(Arm(), anywhere))
        assert len(margin) == 16
        assert margin.min() > others.median()
        assert margin.min() > 1e-5

    @pytest.mark.slow
    def test_a_graph_with_worse_choices_is_not_kept(
        self, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Weights changed by 1e-3 are detected."""
        trace = exporter.trace

        def perturbed(module: Any, contract: Any) -> Any:
            contract = replace(contract, golden=replace(contract.golden, tolerance_deg=0.01))
            model = trace(module, contract)
            table = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
            values = numpy_helper.to_array(table)
            table.CopyFrom(numpy_helper.from_array(values + np.float32(1e-3) * np.sign(values), table.name))
            return model

        monkeypatch.setattr(exporter, "trace", perturbed)
        with pytest.raises(ExportError, match=r"is below the largest|golden samples"):
            export(runs["random"], tmp_path / "policy.onnx")
        assert list(tmp_path.iterdir()) == []

    def test_the_shortfall_of_choices(self, runs: dict[str, Path]) -> None:
        """0 for the best action, positive for another, NaN off the grid."""
        _, policy, _ = load_policy(runs["branching"])
        assert isinstance(policy, GreedyPolicy)
        states = {key: rows[:5] for key, rows in random_states(Arm(), 10, np.random.default_rng(5)).items()}
        seen = environment_observation(Arm(), states)
        with torch.no_grad():
            best = policy(*seen)
            shortfall, largest = policy.suboptimality(best, *seen)
            assert (shortfall.abs() <= 1e-6 * largest.abs().clamp(min=1.0)).all()
            other = torch.where(best == 30.0, 60.0, 30.0)
            assert (policy.suboptimality(other, *seen)[0] > 1e-4).all()
            assert policy.suboptimality(best + 0.5, *seen)[0].isnan().all()

    @pytest.mark.slow
    def test_the_file_of_the_whole_degree_grid_holds_all_weights(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """9 weights of 4 bytes for each of 753,571 actions; the checkpoint holds learned ones only."""
        monkeypatch.setattr(exporter, "SEARCHED_STATES", 100)
        monkeypatch.setattr(loop, "REPORTS", 1)
        config = config_of("random", grid_step_deg=1.0, steps=400)
        run = train(config, tmp_path / "run", quiet=True)
        checkpoint = sum(file.stat().st_size for file in (run / "checkpoints").rglob("*.safetensors"))
        assert checkpoint < 10e6  # not the 27 MB of every action's weights: only of those that were learned
        assert main(["export", str(run)]) == 0
        policy = run / "policy.onnx"
        assert policy.stat().st_size == pytest.approx(9 * 4 * 753_571, rel=0.01)
        assert "27 MB" in capfd.readouterr().out
        assert main(["run", str(policy), "--random", "1", "--pace", "fast", "--seconds-per-goal", "0.2"]) == 0


class TestBadInput:
    """Invalid settings."""

    @pytest.mark.parametrize("words", INVALID)
    def test_invalid_settings_are_one_line_and_leave_nothing(
        self, rejected: Rejected, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Exit code 2, and no file."""
        monkeypatch.chdir(tmp_path)
        assert INVALID[words] in rejected(*words.split())
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_too_little_memory_is_an_error_before_it_is_allocated(self, tmp_path: Path) -> None:
        """Four copies of 601 weights a unit for 753,571 actions, by hand."""
        code = (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9, 2 * 10**9));"
            "from arm_control.cli import main; sys.exit(main(['train', 'dqn', '--hidden-units', '600']))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        expected = 4 * 4 * 601 * 753_571 / 1e6
        assert f"a head of 600 units for each of 753,571 actions needs {expected:,.0f} MB" in done.stderr
        assert "MB are free" in done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_init_requires_networks_of_the_same_kind(self, runs: dict[str, Path], tmp_path: Path) -> None:
        """Another head, or another size."""
        other = config_of("zero", init=str(runs["features"]))
        with pytest.raises(ValueError, match="--init"):
            train(other, tmp_path / "run", quiet=True)
        wider = replace(config_of("zero"), init=str(runs["zero"]), settings=DQNSettings(**SMALL | {"hidden_units": 9}))
        with pytest.raises(ValueError, match="--init"):
            train(wider, tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()
