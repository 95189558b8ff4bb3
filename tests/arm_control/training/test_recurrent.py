"""A2C with recurrent state: training, checkpoints, evaluation, export and the runner."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import drive
from learners import make

from arm_control import PolicyRunner
from arm_control.drivers.simulation import SimulationDriver
from arm_control.evaluation.episodes import roll_out
from arm_control.evaluation.opening import ExportedPolicyController
from arm_control.evaluation.torch_controller import TorchController
from arm_control.exporter.exporter import export
from arm_control.policy_file.contract import MEMORY, NEXT_MEMORY
from arm_control.runs.agent import load_policy
from arm_control.runs.checkpoint import load_latest
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.training.loop import Training, train
from envs.arm import RADIANS, Arm
from envs.tasks.base import StillGoal
from policies.a2c.settings import A2CSettings
from policies.agent import Spec, Transition
from policies.common.actors import LSTM

SETTINGS = A2CSettings(recurrent=True, hidden_units=8, fourier_octaves=1, learning_starts=40)
CONFIG = TrainConfig("a2c", SETTINGS, num_envs=2, steps=500)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(CONFIG, tmp_path_factory.mktemp("recurrent") / "run", quiet=True)


@pytest.fixture(scope="module")
def policy_file(run: Path) -> Path:
    return export(run)


class TestTraining:
    """Recurrent state in training."""

    def test_unrolled_steps_equal_single_steps(self) -> None:
        """Features of a sequence equal those of one step at a time, with zeros after an episode's end."""
        torch.manual_seed(0)
        memory = LSTM(3, 4)
        features, following = torch.randn(5, 2, 3), torch.randn(5, 2, 3)
        ended = torch.zeros(5, 2)
        ended[1, 0] = ended[3, 1] = 1.0
        start = torch.randn(2, 8)
        along, after = memory.unroll(features, following, start, ended)
        state = start.clone()
        for step in range(5):
            seen, state = memory(features[step], state)
            torch.testing.assert_close(along[step], seen)
            torch.testing.assert_close(after[step], memory(following[step], state)[0])
            for arm in range(2):
                if ended[step, arm]:
                    state = state.clone()
                    state[arm] = 0.0
        torch.testing.assert_close(along[2, 0], memory(features[2], torch.zeros(2, 8))[0][0])
        assert not torch.allclose(along[2, 1], memory(features[2], torch.zeros(2, 8))[0][1])

    def test_a_run_resumed_within_a_rollout_is_bit_equal(self) -> None:
        """Interrupted at step 67 of 130, it ends with equal parameters."""

        def state(training: Training) -> Any:
            return training.state_dict()["agent"]["policy"]

        with Training(CONFIG) as whole, Training(CONFIG) as first, Training(CONFIG) as second:
            for _ in range(130):
                whole.advance()
            for _ in range(67):
                first.advance()
            second.load_state_dict(first.state_dict())
            for _ in range(63):
                second.advance()
            for name, value in state(whole).items():
                assert torch.equal(value, state(second)[name]), name

    @pytest.mark.slow
    def test_it_solves_a_task_that_requires_memory(self) -> None:
        """The goal is shown in the first step only; without memory the best mean error is 0.5."""
        spec = Spec(observation_size=1, goal_size=1, action_low=(-1.0,), action_high=(1.0,))
        missed = {}
        for recurrent in (False, True):
            settings = A2CSettings(
                recurrent=recurrent,
                hidden_units=16,
                fourier_octaves=0,
                learning_starts=100,
                learning_rate=5e-3,
                discount=0.9,
                slowing_distance=0.0,
            )
            agent = make(spec, settings)
            generator = np.random.default_rng(0)
            arms = 32

            def observe(step: int, goal: Any) -> Any:
                shown = goal if step == 0 else np.zeros_like(goal)
                place = np.full((len(goal), 1), step, np.float32)
                return {"observation": place, "achieved_goal": np.zeros_like(goal), "desired_goal": shown}

            errors = []
            for episode in range(700):
                goal = generator.uniform(-1.0, 1.0, (arms, 1)).astype(np.float32)
                for step in range(3):
                    action = agent.act(observe(step, goal), explore=True)
                    miss = np.abs(action - goal)[:, 0]
                    reward = np.where(step == 2, 1.0 - miss, 0.0).astype(np.float32)
                    end = np.full(arms, step == 2)
                    agent.observe(Transition(observe(step, goal), action, reward, observe(step + 1, goal), end, end))
                    agent.update(episode / 700)
                errors.append(miss.mean())
            missed[recurrent] = float(np.mean(errors[-50:]))
        assert missed[False] > 0.4  # the best without memory is 0.5, for the middle
        assert missed[True] < 0.25

    def test_a_checkpoint_holds_the_recurrent_state(self, run: Path) -> None:
        """One row for each environment."""
        _, state = load_latest(run / "checkpoints")
        assert state["agent"]["memory"][0].shape == (2, 16)


class TestExportedPolicy:
    """Recurrent state in the exported file and the runner."""

    def test_the_runner_carries_the_recurrent_state(self, run: Path, policy_file: Path) -> None:
        """Targets equal those of the trained policy for 20 steps, and `forget` sets zeros."""
        config, policy, _ = load_policy(run)
        runner = PolicyRunner.load(policy_file)
        names = [tensor.name for tensor in runner.contract.inputs]
        assert (names[-1], runner.contract.outputs[-1].name) == (MEMORY, NEXT_MEMORY)
        env: Any = environment_maker(config)().unwrapped
        observation, _ = env.reset(seed=3)
        controller = TorchController(policy)
        angles = (observation["observation"][:3] / RADIANS).tolist()
        runner.start(angles)
        memories = []
        for _ in range(20):
            readings = observation["observation"] / RADIANS
            batch = {key: value[None] for key, value in observation.items()}
            expected = controller(batch, [env])[0]
            inputs = dict(
                zip(
                    names,
                    [row[None] for row in np.split(readings, 4)] + [observation["desired_goal"][None]],
                    strict=False,
                )
            )
            inputs[MEMORY] = np.zeros((1, 16), np.float32) if not memories else memories[-1]
            target, memory = runner.infer_recurrent(inputs)
            np.testing.assert_allclose(target[0], expected, atol=2e-3)
            memories.append(memory)
            runner.step(readings[:3].tolist(), readings[3:6].tolist(), observation["desired_goal"].tolist())
            observation = env.step(expected)[0]
        assert np.abs(memories[-1]).max() > 0.01
        assert np.abs(runner._memory - memories[-1]).max() < 0.05  # its own limiter's targets differ a little
        runner.reset_memory()
        assert not runner._memory.any()

    def test_file_and_run_folder_have_the_same_episodes(self, run: Path, policy_file: Path) -> None:
        """Distances agree to 0.1 mm, and an episode does not depend on those before it."""
        config, policy, _ = load_policy(run)
        make_env = environment_maker(config)
        from_run, from_file = TorchController(policy), ExportedPolicyController(PolicyRunner.load(policy_file))
        together = roll_out(from_run, make_env, [1, 2, 3]).distances_m
        np.testing.assert_allclose(roll_out(from_file, make_env, [1, 2, 3]).distances_m, together, atol=1e-4)
        np.testing.assert_allclose(roll_out(from_run, make_env, [3]).distances_m[0], together[2], atol=1e-6)

    def test_each_goal_starts_with_zero_recurrent_state(
        self, policy_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is zero at steps 0 and 75: after 2 s of soft start and 0.5 s of the first goal at 30 Hz."""
        runner, before = PolicyRunner.load(policy_file), []
        decide = runner.decide

        def noted(*readings: Any) -> Any:
            before.append(np.abs(runner._memory).max())
            return decide(*readings)

        monkeypatch.setattr(runner, "decide", noted)
        arm = Arm()
        driver = SimulationDriver(arm, runner.period_s)
        goals = [StillGoal(arm.tip_position(angles)) for angles in ([20.0, 30.0, 40.0], [60.0, 50.0, 10.0])]
        try:
            drive(runner, driver, goals, seconds_per_goal=0.5)
        finally:
            driver.close()
        assert [place for place, value in enumerate(before) if value == 0.0] == [0, 75]
        assert len(before) == 90  # 2 s of soft start, then half a second for each goal
