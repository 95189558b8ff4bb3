"""Compatibility with Stable-Baselines3: its agents learn on ArmReach-v0 without an adapter."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import RescaleAction
from stable_baselines3 import DDPG, SAC, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm

import envs  # noqa: F401  (registers the environments)

pytestmark = pytest.mark.slow

STEPS = 400  # eight episodes
Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]


def as_it_is(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    return env


def rescaled(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    return RescaleAction(env, -1.0, 1.0)


def weights(model: BaseAlgorithm) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()]).clone()


def check_learned(model: BaseAlgorithm, before: torch.Tensor, env: gymnasium.Env[Any, Any]) -> None:
    """Check that the policy has changed, is finite, and gives actions in the action space."""
    assert model.num_timesteps >= STEPS
    after = weights(model)
    assert torch.isfinite(after).all()
    assert not torch.equal(after, before)
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        action, _ = model.predict(observation, deterministic=True)
        assert env.action_space.contains(action)
        observation = env.step(action)[0]


@pytest.mark.parametrize("wrap", [pytest.param(as_it_is, marks=pytest.mark.soak), rescaled])
def test_ddpg_learns_on_the_dense_reward(wrap: Wrap) -> None:
    """DDPG updates its policy, with actions in degrees or rescaled to -1 to 1."""
    with wrap(gymnasium.make("ArmReach-v0")) as env:
        model = DDPG(
            "MultiInputPolicy", env, learning_starts=100, seed=0, device="cpu", policy_kwargs={"net_arch": [64]}
        )
        before = weights(model)
        model.learn(STEPS)
        check_learned(model, before, env)


@pytest.mark.parametrize(
    ("algorithm", "wrap"),
    [
        (SAC, as_it_is),
        pytest.param(SAC, rescaled, marks=pytest.mark.soak),
        pytest.param(DDPG, as_it_is, marks=pytest.mark.soak),
        pytest.param(DDPG, rescaled, marks=pytest.mark.soak),
    ],
)
def test_hindsight_replay_learns_on_the_sparse_reward(algorithm: type[SAC] | type[DDPG], wrap: Wrap) -> None:
    """Relabelled rewards equal -1 or 0 by the distance, and far more are 0 than without relabelling."""
    with wrap(gymnasium.make("ArmReach-v0", reward="sparse")) as env:
        model = algorithm(
            "MultiInputPolicy",
            env,
            replay_buffer_class=HerReplayBuffer,
            replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "future"},
            learning_starts=100,
            seed=0,
            device="cpu",
            policy_kwargs={"net_arch": [64]},
        )
        before = weights(model)
        model.learn(STEPS)
        check_learned(model, before, env)
        batch = model.replay_buffer.sample(1000)  # type: ignore[union-attr]
        rewards = batch.rewards.numpy().flatten()
        tips, goals = (batch.next_observations[name].numpy() for name in ("achieved_goal", "desired_goal"))
        np.testing.assert_array_equal(rewards, np.where(np.linalg.norm(tips - goals, axis=1) <= 0.01, 0.0, -1.0))
        # 4 of 5 goals are tips of the episode's rest, the transition's own among them: 4/5 (1 + 1/2 + ... + 1/50) / 50.
        assert (rewards == 0).mean() > max(0.05, 2 * (model.replay_buffer.rewards[:STEPS] == 0).mean())
        assert (batch.dones == 0).all()  # the end of an episode is a time limit, not an end of the task
