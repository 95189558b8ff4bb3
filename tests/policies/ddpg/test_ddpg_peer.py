"""DDPG against Stable-Baselines3's: the same networks and batches make the same losses, gradients and weights."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from learners import minus_l1_distance, random_transitions
from stable_baselines3.common.buffers import ReplayBufferSamples
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from policies.agent import Spec, Transition
from policies.ddpg import agent as ddpg
from policies.ddpg.agent import DDPG
from policies.ddpg.settings import DDPGSettings

SPEC = Spec(5, 2, (-2.0, 0.0), (6.0, 1.0))  # nothing is measured: a step is from the middle of the range
SETTINGS = DDPGSettings(
    hidden_units=16,
    fourier_octaves=0,
    learning_rate=2e-3,
    batch_size=32,
    learning_starts=64,
    buffer_size=256,
    discount=0.9,
    tau=0.03,
    relabel_near=0.0,
    relabel_other=0.0,
    slowing_distance=0.0,
)
FEATURES, ROWS = 5 + 3 * 2 + 2, 200  # observation, tip, goal, displacement, and its direction


class Scaled(nn.Module):
    """The inputs of our critic: features, actions, and actions as scaled fractions of max_step."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([inputs, inputs[:, FEATURES:] * ddpg.Critic.STEP_SCALE], -1)


class Space(gymnasium.Env[Any, Any]):
    """An environment that is never stepped: features and actions from -1 to 1."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)


def experience() -> tuple[Transition, np.ndarray[Any, Any]]:
    """Random steps, numbered in the first column of `observation`, and which of them terminated."""
    transition = random_transitions(SPEC, ROWS, terminated=0.4)
    terminated = transition.ended & (np.random.default_rng(1).random(ROWS) < 0.6)
    return replace(transition, terminated=terminated), terminated


class Same:
    """A replay buffer for the other library that returns the rows that our agent draws."""

    def __init__(self, agent: DDPG, terminated: np.ndarray[Any, Any]) -> None:
        self.agent, self.terminated = agent, torch.from_numpy(terminated).double()
        self.drawn: list[dict[str, Tensor]] = []

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """The batch of our latest update, with the features that our networks see."""
        assert (env, batch_size) == (None, SETTINGS.batch_size)
        batch, policy = self.drawn[-1], self.agent._policy
        with torch.no_grad():
            s = policy.encoder(*(batch[name] for name in ("observation", "achieved_goal", "desired_goal")))
            next_s = policy.encoder(batch["next_observation"], batch["next_achieved_goal"], batch["desired_goal"])
        done = self.terminated[batch["observation"][:, 0].long()][:, None]
        action = policy.scaling.to_unit(batch["action"])
        return ReplayBufferSamples(s, action, next_s, done, batch["reward"][:, None])


def peer(agent: DDPG, rows: Same) -> stable_baselines3.DDPG:
    """The other library's agent with our weights."""
    model = stable_baselines3.DDPG(
        "MlpPolicy",
        Space(),
        learning_rate=SETTINGS.learning_rate,
        gamma=SETTINGS.discount,
        tau=SETTINGS.tau,
        batch_size=SETTINGS.batch_size,
        buffer_size=1,
        policy_kwargs={"net_arch": [16, 16]},
        device="cpu",
    )
    model.policy.double()
    model.actor.mu.load_state_dict(agent._actor.state_dict())
    model.actor_target.mu.load_state_dict(agent._target_actor.state_dict())
    for theirs, ours in ((model.critic, agent._critic), (model.critic_target, agent._target_critic)):
        theirs.qf0 = nn.Sequential(Scaled(), copy.deepcopy(ours.net))
        theirs.q_networks = [theirs.qf0]
    model.critic.optimizer = torch.optim.Adam(model.critic.parameters(), SETTINGS.learning_rate)
    model.replay_buffer = rows  # type: ignore[assignment]
    model.set_logger(Logger(None, []))
    return model


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[DDPG, stable_baselines3.DDPG]]:
    """Both agents in double precision, before the first update; target networks differ from the online ones."""
    monkeypatch.setattr(ddpg, "SQUASH_PENALTY", 0.0)
    monkeypatch.setattr(stable_baselines3.common.policies, "preprocess_obs", lambda obs, *_, **__: obs)  # to float32
    transition, terminated = experience()
    agent = DDPG(SPEC, SETTINGS, minus_l1_distance, 0)
    agent.observe(transition)
    for module in (agent._policy, agent._average.policy, agent._critic, agent._target_actor, agent._target_critic):
        module.double()
    generator = torch.Generator().manual_seed(0)
    for module in (agent._target_actor, agent._target_critic):
        for tensor in module.parameters():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    rows, draw = Same(agent, terminated), ddpg.sample_relabelled

    def sample(*arguments: Any, **more: Any) -> dict[str, Tensor]:
        rows.drawn.append({name: value.double() for name, value in draw(*arguments, **more).items()})
        return rows.drawn[-1]

    monkeypatch.setattr(ddpg, "sample_relabelled", sample)
    with torch.random.fork_rng():
        model = peer(agent, rows)
        yield agent, model


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def gradients(module: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])


class TestPeer:
    """Updates of DDPG and of Stable-Baselines3's DDPG from the same weights and batches."""

    def test_losses_and_gradients_agree(self, both: tuple[DDPG, stable_baselines3.DDPG]) -> None:
        """Critic loss, actor loss and both gradients agree to 1e-6 in double precision."""
        agent, model = both
        actor = copy.deepcopy(agent._actor)
        metrics = agent.update(0.0)
        at_step: list[Tensor] = []  # their critic's gradient, before their actor's loss adds to it
        model.critic.optimizer.register_step_pre_hook(lambda *_: at_step.append(gradients(model.critic)))
        model.train(1, SETTINGS.batch_size)
        batch, logged = model.replay_buffer.sample(SETTINGS.batch_size), model.logger.name_to_value  # type: ignore[union-attr]
        assert set(batch.dones[:, 0].tolist()) == {0.0, 1.0}
        assert metrics["critic_loss"] == pytest.approx(logged["train/critic_loss"], abs=1e-6)
        # Both actors ascend the critic that was just updated.
        ascended = agent._critic.net(
            Scaled()(torch.cat([batch.observations, torch.tanh(actor(batch.observations))], -1))
        )
        assert -ascended.mean().item() == pytest.approx(logged["train/actor_loss"], abs=1e-6)
        for ours, theirs in ((gradients(agent._critic), at_step[0]), (gradients(agent._actor), gradients(model.actor))):
            assert len(ours) > 400
            assert theirs.abs().max() > 1e-3
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)

    def test_weights_agree_after_twenty_updates(self, both: tuple[DDPG, stable_baselines3.DDPG]) -> None:
        """Actor, critic and both targets agree to 1e-6 after 20 updates."""
        agent, model = both
        before = weights(agent._actor)
        for _ in range(20):
            agent.update(0.0)
            model.train(1, SETTINGS.batch_size)
        assert (weights(agent._actor) - before).abs().max() > 0.01
        for ours, theirs in (
            (agent._actor, model.actor),
            (agent._critic, model.critic),
            (agent._target_actor, model.actor_target),
            (agent._target_critic, model.critic_target),
        ):
            torch.testing.assert_close(weights(ours), weights(theirs), rtol=0, atol=1e-6)
