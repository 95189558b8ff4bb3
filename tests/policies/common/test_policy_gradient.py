"""The agent of REINFORCE, actor-critic, A2C and A3C: losses, updates, states, and tasks that it must solve."""

import copy
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from learners import assert_equal, make, random_observation
from numpy.typing import NDArray
from stable_baselines3 import A2C
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from arm_control.runs.checkpoint import load_checkpoint, save_checkpoint
from policies.a2c.settings import A2CSettings
from policies.a3c.settings import A3CSettings
from policies.actor_critic.settings import ActorCriticSettings
from policies.agent import OBSERVATION_KEYS, Actions, FloatArray, Observation, Spec, Transition, tensors_of
from policies.common import policy_gradient
from policies.common.policy_gradient import PolicyGradient
from policies.common.settings import PolicyGradientSettings
from policies.ddpg.settings import DDPGSettings
from policies.dpg.settings import DPGSettings
from policies.reinforce.settings import ReinforceSettings

DEGREES = 180.0 / math.pi
ARM = Spec(
    5,
    2,
    (0.0, 10.0),
    (90.0, 60.0),
    measured_columns=(1, 2),
    measured_unit=DEGREES,
    max_step=(9.0, 5.0),
    grid_shape=(7, 6),
)
PLAIN = Spec(5, 2, (-2.0, 0.0), (6.0, 1.0), grid_shape=(5, 3))
SMALL: dict[str, Any] = {
    "hidden_units": 16,
    "fourier_octaves": 1,
    "learning_starts": 30,
    "max_step": 1.5,
    "slowing_distance": 0.0,
}
POLICIES = ("gaussian", "squashed", "clipped", "softmax")
METHODS = ("reinforce-none", "reinforce-average", "reinforce-value", "actor-critic", "a2c", "a3c")

METRICS = {"policy_loss", "value_loss", "entropy", "std", "value", "gradient_norm", "learning_rate", "updates"}


def settings_of(method: str, **changed: Any) -> PolicyGradientSettings:
    """Small settings of a method."""
    values = SMALL | changed
    if values.get("policy") == "softmax":  # which has no std
        values = {name: value for name, value in values.items() if "std" not in name}
    name, _, baseline = method.partition("reinforce-")
    if baseline:
        return ReinforceSettings(baseline=baseline, **values)  # type: ignore[arg-type]
    if name in ("a2c", "a3c"):
        return (A2CSettings if name == "a2c" else A3CSettings)(**{"steps_per_update": 4} | values)
    return ActorCriticSettings(**values)


def draw(spec: Spec, rows: int, seed: int | tuple[int, ...]) -> Observation:
    """Random observations, from a seed."""
    return random_observation(spec, rows, np.random.default_rng(seed))


def observe(agent: PolicyGradient, spec: Spec, step: int, num_envs: int = 6, **changed: Any) -> Transition:
    """Let the agent act on random observations of this step and observe a random transition."""
    generator = np.random.default_rng(step)
    before, after = draw(spec, num_envs, (step, 0)), draw(spec, num_envs, (step, 1))
    action = agent.act(before, explore=True)
    reward = generator.normal(size=num_envs).astype(np.float32) + 0.1 * np.sin(action).sum(-1).astype(np.float32)
    ended = generator.random(num_envs) < 0.3
    terminated = ended & (generator.random(num_envs) < 0.5)
    transition = replace(Transition(before, action, reward, after, terminated, ended), **changed)
    agent.observe(transition)
    return transition


def fitted(spec: Spec, settings: PolicyGradientSettings, seed: int = 0) -> PolicyGradient:
    """An agent past its random steps, with means and logits that differ, as after many updates."""
    agent = make(spec, settings, seed)
    while not agent.normalizer_fitted:
        observe(agent, spec, 1000 + len(agent._rollout), num_envs=30)
        assert agent.update(0.0) == {}
    generator = torch.Generator().manual_seed(seed)
    for parameter in agent._parameters:
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return agent


def play(agent: PolicyGradient, spec: Spec, steps: Iterable[int]) -> list[dict[str, float]]:
    metrics = []
    for step in steps:
        observe(agent, spec, step)
        metrics.append(agent.update(step / 100))
    return metrics


def gradients(agent: PolicyGradient) -> dict[str, Tensor]:
    """The gradients of the last update, by the names of the policy's and the value's parameters."""
    modules = {"policy": agent._policy, "value": agent._value}
    return {
        f"{which}.{name}": parameter.grad.clone()
        for which, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


class Recorded(gymnasium.Env[Observation, Any]):
    """An environment with random observations and episode ends; `rows` records the transitions."""

    def __init__(self, spec: Spec, actions: gymnasium.Space[Any], seed: int, last: int | None) -> None:
        everything = {name: spaces.Box(-np.inf, np.inf, value.shape[1:]) for name, value in draw(spec, 1, seed).items()}
        self.observation_space, self.action_space = spaces.Dict(everything), actions
        self._spec, self._last = spec, last
        self._generator = np.random.default_rng(seed)
        self.rows: list[tuple[Any, ...]] = []

    def _look(self) -> Observation:
        self._seen = {name: v[0] for name, v in draw(self._spec, 1, int(self._generator.integers(2**32))).items()}
        return self._seen

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Observation, dict[str, Any]]:
        return self._look(), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        before, reward = self._seen, float(np.sin(action).sum() + self._generator.normal())
        terminated, truncated = (bool(self._generator.random() < 0.2) for _ in range(2))
        truncated = truncated or len(self.rows) + 1 == self._last
        self.rows.append((before, reward, self._look(), terminated, terminated or truncated))
        return self._seen, reward, terminated, truncated, {}


class Encoded(BaseFeaturesExtractor):
    """The features of the agent's networks."""

    def __init__(self, observation_space: gymnasium.Space[Any], encoder: Any) -> None:
        super().__init__(observation_space, encoder.size)
        self._encoder = encoder

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        features: Tensor = self._encoder(*(observation[name] for name in OBSERVATION_KEYS))
        return features


class Logits(nn.Module):
    """The agent's head as one layer of all logits, for a task without measured angles."""

    def __init__(self, agent: PolicyGradient) -> None:
        super().__init__()
        self.head = copy.deepcopy(agent._policy.head)
        self._middle = agent._policy.trunk.middle

    def forward(self, latent: Tensor) -> Tensor:
        return torch.cat(self.head.branch_values(torch.cat([latent, self._middle.expand(len(latent), -1)], -1)), -1)


def peer_of(agent: PolicyGradient, envs: list[Recorded], steps: int, gae_lambda: float) -> A2C:
    """Stable-Baselines3's A2C with the agent's networks."""
    policy, settings = agent._policy, agent._settings
    peer = A2C(
        "MultiInputPolicy",
        DummyVecEnv([lambda env=env: env for env in envs]),
        n_steps=steps,
        gamma=settings.discount,
        gae_lambda=gae_lambda,
        ent_coef=settings.entropy_coef,
        vf_coef=0.5,
        max_grad_norm=settings.max_grad_norm,
        use_rms_prop=False,
        seed=0,
        device="cpu",
        policy_kwargs={
            "features_extractor_class": Encoded,
            "features_extractor_kwargs": {"encoder": copy.deepcopy(policy.encoder)},
        },
    )
    peer.set_logger(configure(None, []))
    extractor = peer.policy.mlp_extractor
    if settings.policy == "softmax":
        extractor.policy_net, peer.policy.action_net = copy.deepcopy(policy.trunk.net), Logits(agent)
    else:
        extractor.policy_net, peer.policy.action_net = copy.deepcopy(policy.net[:-1]), copy.deepcopy(policy.net[-1])
        peer.policy.log_std.data.copy_(policy.log_std)
    extractor.value_net, peer.policy.value_net = copy.deepcopy(agent._value[:-1]), copy.deepcopy(agent._value[-1])
    return peer


def gradients_of_peer(peer: A2C, agent: PolicyGradient) -> dict[str, Tensor]:
    """Its gradients under the agent's names."""
    policy, extractor = peer.policy, peer.policy.mlp_extractor
    parts = [("value", extractor.value_net, ""), ("value", policy.value_net, f"{len(agent._value) - 1}.")]
    if agent._settings.policy == "softmax":
        parts += [("policy.trunk.net", extractor.policy_net, ""), ("policy", policy.action_net, "")]
    else:
        parts += [
            ("policy.net", extractor.policy_net, ""),
            ("policy.net", policy.action_net, f"{len(agent._policy.net) - 1}."),
        ]
    found = {
        f"{which}.{prefix}{name}": parameter.grad
        for which, module, prefix in parts
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    return found if agent._settings.policy == "softmax" else found | {"policy.log_std": policy.log_std.grad}


class TestPeer:
    """Losses and gradients, compared with Stable-Baselines3's A2C."""

    @pytest.mark.parametrize("policy", ["gaussian", "softmax"])
    @pytest.mark.parametrize(
        ("method", "steps", "gae_lambda", "last"),
        [("a2c", 7, 0.9, None), ("a2c", 7, 1.0, None), ("actor-critic", 1, 0.0, None), ("reinforce-value", 7, 1.0, 7)],
    )
    def test_losses_and_gradients_equal_stable_baselines3(
        self, method: str, steps: int, gae_lambda: float, last: int | None, policy: str
    ) -> None:
        """On the same steps, its collection, advantages and update give our losses and gradients to 1e-6."""
        more = {"gae_lambda": gae_lambda, "steps_per_update": steps} if method == "a2c" else {}
        settings = settings_of(
            method,
            policy=policy,
            std="learned",
            discount=0.9,
            scale_advantage=False,
            entropy_coef=0.02,
            max_grad_norm=1e9,
            **more,
        )
        agent = fitted(PLAIN, settings)
        actions = spaces.MultiDiscrete(PLAIN.grid_shape) if policy == "softmax" else spaces.Box(-1.0, 1.0, (2,))
        envs = [Recorded(PLAIN, actions, seed, last) for seed in range(5)]
        peer = peer_of(agent, envs, steps, gae_lambda)
        peer.learn(steps * len(envs))
        choices = peer.rollout_buffer.actions.reshape(len(envs), steps, 2).swapaxes(0, 1)
        flags = []
        for choice, rows in zip(choices, zip(*(env.rows for env in envs), strict=True), strict=True):
            before, reward, after, terminated, ended = zip(*rows, strict=True)
            agent._sample = torch.from_numpy(choice.astype(np.int64 if policy == "softmax" else np.float32))
            first, following = (
                {name: np.stack([row[name] for row in seen]) for name in OBSERVATION_KEYS} for seen in (before, after)
            )
            flags.append(np.array([terminated, ended]))
            agent.observe(Transition(first, choice, np.float32(reward), following, *flags[-1]))
        assert steps == 1 or (np.stack(flags).sum((0, 2)) > (2, 5)).all()  # terminated or truncated, of 35 steps
        metrics, logged = agent.update(0.0), peer.logger.name_to_value
        assert metrics["policy_loss"] == pytest.approx(logged["train/policy_loss"], rel=0, abs=1e-6)
        assert metrics["value_loss"] == pytest.approx(logged["train/value_loss"], rel=0, abs=1e-6)
        assert metrics["entropy"] == pytest.approx(-logged["train/entropy_loss"], rel=0, abs=1e-6)
        got, wanted = gradients(agent), gradients_of_peer(peer, agent)
        assert got.keys() == wanted.keys()
        assert sum(gradient.abs().max() > 1e-3 for gradient in wanted.values()) > 10
        for name, gradient in wanted.items():
            torch.testing.assert_close(got[name], gradient, rtol=0, atol=1e-6, msg=name)


def ending(*ends: bool) -> dict[str, NDArray[np.bool_]]:
    return {"terminated": np.zeros(len(ends), bool), "ended": np.array(ends)}


class TestClipping:
    """Separate clipping of the policy's and the value's gradients."""

    @pytest.mark.parametrize("policy", ["squashed", "softmax"])
    @pytest.mark.parametrize("method", ["actor-critic", "a2c", "a3c", "reinforce-value"])
    def test_a_large_loss_of_the_value_leaves_the_policys_step_as_it_is(
        self, method: str, policy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Weighting the value's loss 100,000 times as much leaves the policy's step bit for bit."""
        steps = []
        for weight in (0.5, 5e4):
            monkeypatch.setattr(policy_gradient, "VALUE_WEIGHT", weight)
            agent = fitted(ARM, settings_of(method, policy=policy, max_grad_norm=0.1))
            before = copy.deepcopy(agent._policy.state_dict())
            last = 0 if method == "actor-critic" else 3  # the step with which it learns
            for step in range(last + 1):
                ends = np.full(6, step == last)
                observe(agent, ARM, step, terminated=ends, ended=ends)
                metrics = agent.update(0.0)
            after = agent._policy.state_dict()
            steps.append((metrics["gradient_norm"], {name: after[name] - before[name] for name in after}))
            value = [parameter.grad for parameter in agent._value.parameters() if parameter.grad is not None]
            assert float(torch.cat([part.flatten() for part in value]).norm()) <= 0.1 + 1e-6
        assert steps[0][0] == steps[1][0]
        assert_equal(steps[1][1], steps[0][1])
        assert max(moved.abs().max() for moved in steps[0][1].values()) > 1e-4

    def test_each_is_cut_to_the_largest_norm_and_shorter_ones_stay(self) -> None:
        """With a limit between the two norms, only the longer gradient is scaled."""

        def learned(largest: float) -> PolicyGradient:
            """An agent after rewards so large that the value's gradient is the longer one."""
            agent = fitted(PLAIN, settings_of("a2c", policy="gaussian", max_grad_norm=largest))
            for step in range(4):
                observe(agent, PLAIN, step, reward=np.full(6, 10.0 + step, np.float32))
                agent.update(0.0)
            return agent

        whole = learned(1e9)
        norms = {}
        for which in ("policy", "value"):
            parts = [g.double().flatten() for name, g in gradients(whole).items() if name.startswith(which)]
            norms[which] = float(torch.cat(parts).norm())
        assert norms["value"] > 2.0 * norms["policy"] > 0.0
        between = math.sqrt(norms["value"] * norms["policy"])
        uncut = gradients(whole)
        for name, gradient in gradients(learned(between)).items():
            factor = min(1.0, between / norms[name.partition(".")[0]])
            torch.testing.assert_close(gradient, factor * uncut[name], rtol=1e-4, atol=1e-8, msg=name)


class TestSlowing:
    """Steps near the goal, where targets are observed."""

    SPEC = replace(ARM, target_columns=(3, 4), rest_distance=0.002)

    @pytest.mark.parametrize("policy", ["gaussian", "squashed", "clipped"])
    def test_an_exploring_action_is_slowed_down_and_what_is_learned_from_is_the_step(self, policy: str) -> None:
        """action = previous + g (angle + step - previous), g = (distance - rest distance) / slowing distance."""
        agent = fitted(self.SPEC, settings_of("a2c", policy=policy, slowing_distance=0.04))
        seen = draw(self.SPEC, 5, seed=0)
        seen["observation"][:, 1:] = np.array([30.0, 45.0, 35.0, 40.0]) / DEGREES
        fraction = np.array([0.0, 0.0, 0.25, 0.75, 1.0])[:, None]
        distance = np.array([0.0, 0.002, 0.012, 0.032, 5.0])[:, None]
        seen["desired_goal"] = (seen["achieved_goal"] + distance * (0.6, -0.8)).astype(np.float32)
        action = agent.act(seen, explore=True)
        assert agent._sample is not None
        choice = agent._sample.numpy()
        step = {"gaussian": choice, "squashed": np.tanh(choice), "clipped": np.clip(choice, -1.0, 1.0)}[policy]
        stepped = np.array([30.0, 45.0]) + 1.5 * step * ARM.max_step
        wanted = np.clip((35.0, 40.0) + fraction * (stepped - (35.0, 40.0)), ARM.action_low, ARM.action_high)
        np.testing.assert_allclose(action, wanted, rtol=0, atol=2e-3)

    @pytest.mark.parametrize("bad", [-0.001, -math.inf, math.nan, math.inf, 10.001])
    @pytest.mark.parametrize(
        "settings", [DDPGSettings, DPGSettings, ReinforceSettings, ActorCriticSettings, A2CSettings]
    )
    def test_rejects_an_invalid_slowing_distance_by_name(self, settings: Any, bad: float) -> None:
        """Negative, non-finite and huge distances raise a one-line error that names the flag."""
        with pytest.raises(ValueError, match="slowing-distance") as error:
            settings(slowing_distance=bad)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("good", [0.0, 1e-6, 10.0])
    @pytest.mark.parametrize("settings", [DDPGSettings, DPGSettings, A3CSettings])
    def test_a_slowing_distance_at_its_bounds_is_accepted(self, settings: Any, good: float) -> None:
        """0, which disables slowing, and the upper bound of 10 are accepted."""
        assert settings(slowing_distance=good).slowing_distance == good


class TestUpdates:
    """Updates of the methods: their times and results."""

    @pytest.mark.parametrize("policy", POLICIES)
    @pytest.mark.parametrize("method", ["reinforce-value", "actor-critic", "a2c"])
    def test_random_steps_only_fit_the_normaliser(self, method: str, policy: str) -> None:
        """The random steps set mean and std of the inputs (NumPy's), once, and train nothing."""
        agent = make(ARM, settings_of(method, policy=policy), seed=0)
        before = copy.deepcopy(agent.state_dict())
        rows = []
        for step in range(5):
            seen = observe(agent, ARM, step).observation
            rows.append(np.hstack([*seen.values(), seen["desired_goal"] - seen["achieved_goal"]]))
            if step < 4:
                assert not agent.normalizer_fitted
            assert agent.update(0.0) == {}
        after = agent.state_dict()
        for name in ("value", "optimizer"):
            assert_equal(after[name], before[name])
        raw = np.concatenate(rows)
        for name, value in after["policy"].items():
            statistics = {"encoder.normalizer.mean": raw.mean(0), "encoder.normalizer.std": raw.std(0)}
            np.testing.assert_allclose(value, statistics.get(name, before["policy"][name]), rtol=1e-5, atol=1e-6)
        assert after["normalizer_fitted"]
        assert len(agent._rollout) == 0
        fit = copy.deepcopy(agent._policy.encoder.state_dict())
        play(agent, ARM, range(20))
        assert_equal(agent._policy.encoder.state_dict(), fit)
        assert not torch.equal(agent.state_dict()["value"]["0.weight"], before["value"]["0.weight"])

    @pytest.mark.parametrize(
        ("method", "wanted"),
        [
            ("actor-critic", "1111111"),
            ("a2c", "0001000"),
            ("reinforce-value", "0010001"),
            ("reinforce-none", "0010001"),
        ],
    )
    def test_each_method_updates_on_its_own_schedule(self, method: str, wanted: str) -> None:
        """Actor-critic updates each step, A2C every four, REINFORCE once all episodes ended; steps are then dropped."""
        agent = fitted(PLAIN, settings_of(method))
        ends = [
            (True, False),
            (True, False),
            (False, True),
            (False, True),
            (False, False),
            (False, False),
            (True, True),
        ]
        for step, (update, end) in enumerate(zip(wanted, ends, strict=True)):
            observe(agent, PLAIN, step, num_envs=2, **ending(*end))
            before = copy.deepcopy(agent.state_dict())
            metrics = agent.update(0.0)
            if update == "1":
                assert set(metrics) == METRICS
                assert metrics["updates"] == 1
                assert len(agent._rollout) == 0
            else:
                assert metrics == {}
                assert_equal(agent.state_dict(), before)

    @pytest.mark.parametrize("method", ["reinforce-none", "reinforce-value"])
    @pytest.mark.parametrize(("step", "matters"), [(0, True), (1, True), (2, False), (3, False)])
    def test_reinforce_ignores_unfinished_episodes(self, method: str, step: int, matters: bool) -> None:
        """Rewards of steps after the last complete episode do not affect the gradient."""
        states = []
        for reward in (0.0, 5.0):
            agent = fitted(PLAIN, settings_of(method, scale_advantage=False))
            for place, ends in enumerate([(False, False), (True, False), (False, False), (False, True)]):
                rewards = np.array([reward if place == step else 1.0, 2.0], np.float32)
                observe(agent, PLAIN, place, num_envs=2, reward=rewards, **ending(*ends))
            assert agent.update(0.0)["updates"] == 1
            states.append(gradients(agent))
        assert matters == any(not torch.equal(states[0][name], states[1][name]) for name in states[0])

    @pytest.mark.parametrize("policy", POLICIES)
    def test_an_update_is_adams_first_step_with_the_clipped_gradient(self, policy: str) -> None:
        """The gradient is scaled to max_grad_norm, and the step is -rate g / (|g| + eps), Adam's first."""
        cut, whole = (fitted(ARM, settings_of("a2c", policy=policy, max_grad_norm=largest)) for largest in (0.01, 1e9))
        before = copy.deepcopy(cut.state_dict())
        metrics = [play(agent, ARM, range(4))[-1] for agent in (cut, whole)]
        assert metrics[0] == metrics[1]
        norms = {
            which: math.sqrt(
                sum(float(g.square().sum()) for name, g in gradients(whole).items() if name.startswith(which))
            )
            for which in ("policy", "value")
        }
        assert metrics[0]["gradient_norm"] == pytest.approx(norms["policy"], rel=1e-5)
        assert min(norms.values()) > 0.02
        uncut, rate, after = gradients(whole), metrics[0]["learning_rate"], cut.state_dict()
        assert rate == pytest.approx(0.97 * 1e-3)
        for name, gradient in gradients(cut).items():
            which, _, parameter = name.partition(".")
            torch.testing.assert_close(gradient, uncut[name] * 0.01 / norms[which], rtol=1e-4, atol=1e-8, msg=name)
            # m = (1 - b1) g and v = (1 - b2) g^2, both corrected for their bias: the first step is g / (|g| + eps).
            step = after[which][parameter] - before[which][parameter]
            torch.testing.assert_close(step, -rate * gradient / (gradient.abs() + 1e-8), rtol=0, atol=1e-6, msg=name)

    def test_the_learning_rate_falls_to_a_fiftieth_of_the_first(self) -> None:
        """The schedule is linear in the progress with a floor of a fiftieth."""
        agent = fitted(PLAIN, settings_of("actor-critic"))
        rates = []
        for step, progress in enumerate((0.0, 0.5, 0.98, 0.99, 1.0)):
            observe(agent, PLAIN, step)
            rates.append(agent.update(progress)["learning_rate"])
        assert rates == pytest.approx([1e-3, 5e-4, 2e-5, 2e-5, 2e-5])


def policy_gradients(settings: PolicyGradientSettings, *, scale: float = 1.0) -> list[dict[str, Tensor]]:
    """The policy's gradient after each of four steps, of episodes of two, while the networks stay as they are."""
    agent = fitted(PLAIN, replace(settings, max_grad_norm=1e9))
    networks = copy.deepcopy(agent.state_dict())
    found = []
    for step in range(4):
        rewards = scale * np.array([2.0, -1.5], np.float32)
        observe(agent, PLAIN, step, num_envs=2, reward=rewards, **ending(*[step % 2 == 1] * 2))
        agent.update(0.0)
        found.append({name: g for name, g in gradients(agent).items() if name.startswith("policy")})
        agent.load_networks(networks)
    return found


class TestSettings:
    """Effects of the settings."""

    def test_discounted_start_weights_gradients_by_gamma_t(self) -> None:
        """With `discounted_start`, the gradient of step t is that without, times gamma^t (0.8)."""
        settings = ActorCriticSettings(**SMALL, policy="gaussian", scale_advantage=False, discount=0.8)
        plain, discounted = (policy_gradients(replace(settings, discounted_start=enabled)) for enabled in (False, True))
        for step, i in enumerate((1.0, 0.8, 1.0, 0.8)):
            assert max(gradient.abs().max() for gradient in plain[step].values()) > 0.1
            for name, gradient in plain[step].items():
                torch.testing.assert_close(discounted[step][name], i * gradient, rtol=1e-4, atol=1e-6, msg=name)

    def test_scaled_advantages_are_independent_of_the_rewards_scale(self) -> None:
        """Rewards 100 times as large leave the gradient with scaled advantages, and not without."""
        scaled = settings_of("reinforce-none", policy="clipped", scale_advantage=True)
        small, large, unscaled = (
            policy_gradients(settings, scale=scale)[1]
            for settings, scale in ((scaled, 1.0), (scaled, 100.0), (replace(scaled, scale_advantage=False), 100.0))
        )
        for name, gradient in small.items():
            torch.testing.assert_close(large[name], gradient, rtol=2e-3, atol=1e-5, msg=name)
        assert max(g.abs().max() for g in unscaled.values()) > 20 * max(g.abs().max() for g in large.values())

    @pytest.mark.parametrize("policy", ["gaussian", "squashed", "clipped"])
    def test_only_squashed_means_are_penalised(self, policy: str) -> None:
        """Without rewards, the gradient is that of 0.003 |mean|^2 for squashed policies and zero for others."""
        agent = fitted(PLAIN, settings_of("reinforce-none", policy=policy, max_grad_norm=1e9))
        seen = tensors_of(observe(agent, PLAIN, 1, reward=np.zeros(6, np.float32), ended=np.ones(6, bool)).observation)
        before = copy.deepcopy(agent._policy)
        agent.update(0.0)
        mean = before.distribution(before.encoder(*seen), seen[0]).mean
        (0.003 * mean.square().sum(-1).mean()).backward()
        for (name, parameter), wanted in zip(agent._policy.named_parameters(), before.parameters(), strict=True):
            if policy == "squashed" and wanted.grad is not None:
                torch.testing.assert_close(parameter.grad, wanted.grad, rtol=1e-4, atol=1e-7, msg=name)
            else:
                assert parameter.grad is not None
                assert not parameter.grad.any()

    @pytest.mark.parametrize("kind", ["fixed", "learned", "state"])
    def test_std_is_fixed_learned_or_state_dependent(self, kind: str) -> None:
        """After 60 steps a fixed std is 0.25, a learned one differs, and only a state-dependent one varies."""
        agent = make(PLAIN, settings_of("a2c", std=kind, initial_std=0.25, learning_rate=0.01), 0)
        play(agent, PLAIN, range(60))
        seen = tensors_of(draw(PLAIN, 50, seed=7))
        std = agent._policy.distribution(agent.policy().encoder(*seen), seen[0]).std
        assert torch.allclose(std, torch.full((50, 2), 0.25), rtol=1e-6) == (kind == "fixed")
        assert (std.std(0) < 1e-6).all() == (kind != "state")


class TestActing:
    """Actions and exploration."""

    @pytest.mark.parametrize("policy", POLICIES)
    def test_without_exploration_actions_are_deterministic(self, policy: str) -> None:
        """The policy's own action is returned each time, and the agent's state does not change."""
        agent = fitted(ARM, settings_of("a2c", policy=policy))
        seen = draw(ARM, 6, seed=5)
        before = copy.deepcopy(agent.state_dict())
        first, second = agent.act(seen, explore=False), agent.act(seen, explore=False)
        np.testing.assert_array_equal(first, second)
        assert_equal(agent.state_dict(), before)
        by_policy = agent._policy(*tensors_of(seen)).detach().numpy()
        if policy == "softmax":
            assert first.dtype == np.int64
            low, high, top = (np.array(values) for values in (ARM.action_low, ARM.action_high, (6, 5)))
            np.testing.assert_allclose(by_policy, low + first * (high - low) / top, rtol=1e-6)
        else:
            assert first.dtype == np.float32
            np.testing.assert_array_equal(first, by_policy)
        assert (agent.act(seen, explore=True) != first).any()

    @given(st.sampled_from(POLICIES), st.sampled_from([ARM, PLAIN]), st.booleans(), st.integers(0, 100))
    def test_actions_are_within_the_bounds(self, policy: str, spec: Spec, learning: bool, seed: int) -> None:
        """Exploring actions are within the bounds or on the grid, before and after learning starts."""
        settings = settings_of("a2c", policy=policy, initial_std=2.0, learning_starts=5)
        agent = (fitted if learning else make)(spec, settings, seed)
        action = agent.act(draw(spec, 20, seed), explore=True)
        assert action.shape == (20, 2)
        low, high = (0, np.array(spec.grid_shape) - 1) if policy == "softmax" else (spec.action_low, spec.action_high)
        assert (action >= np.array(low, action.dtype)).all()
        assert (action <= np.array(high, action.dtype)).all()

    def test_random_steps_are_uniform_over_the_grid(self) -> None:
        """Frequencies of positions in 20,000 random steps are within five standard stds of uniform."""
        agent = make(ARM, settings_of("a2c", policy="softmax"), seed=0)
        positions = agent.act(draw(ARM, 20_000, seed=0), explore=True)
        for column, values in zip(positions.T, (7, 6), strict=True):
            fraction = 1 / values
            counts = np.bincount(column, minlength=values)
            assert np.abs(counts - 20_000 * fraction).max() < 5 * math.sqrt(20_000 * fraction * (1 - fraction))


class TestReproducibility:
    """Seeds, generators and checkpoints."""

    def test_agents_are_determined_by_the_seed(self) -> None:
        """Equal seeds give equal metrics and states after 13 steps, others different ones."""
        agents = [make(ARM, settings_of("a2c"), seed) for seed in (7, 7, 8)]
        first, second, other = (play(agent, ARM, range(13))[-1] for agent in agents)
        assert first["updates"] == 1
        assert first == second
        assert first != other
        assert_equal(agents[0].state_dict(), agents[1].state_dict())

    def test_torchs_global_generator_is_not_used(self) -> None:
        """Making an agent, acting and learning do not advance PyTorch's global generator."""
        torch.manual_seed(1)
        wanted = torch.rand(3)
        torch.manual_seed(1)
        play(make(ARM, settings_of("a2c"), seed=0), ARM, range(12))
        assert torch.equal(torch.rand(3), wanted)

    @pytest.mark.parametrize("stop", [3, 20], ids=["in-the-random-steps", "in-the-middle-of-a-rollout"])
    @pytest.mark.parametrize("policy", ["squashed", "softmax"])
    @pytest.mark.parametrize("method", METHODS)
    def test_it_continues_from_a_checkpoint_exactly(self, method: str, policy: str, stop: int, tmp_path: Path) -> None:
        """From a checkpoint within the random steps or a rollout, metrics, states and actions continue bit for bit."""
        changed = {"discounted_start": True, "scale_advantage": False} if method == "actor-critic" else {}
        settings = settings_of(method, policy=policy, entropy_coef=0.01, **changed)
        agent, copied = (make(ARM, settings, seed) for seed in (3, 99))
        play(agent, ARM, range(stop))
        assert stop == 3 or agent.normalizer_fitted
        assert (len(agent._rollout) > 0) == (stop == 3 or method != "actor-critic")
        path = save_checkpoint(tmp_path, stop, agent.state_dict())
        copied.load_state_dict(load_checkpoint(path)[1])
        assert_equal(copied.state_dict(), agent.state_dict())
        wanted = play(agent, ARM, range(stop, stop + 25))
        assert sum(bool(metrics) for metrics in wanted) >= 2
        assert play(copied, ARM, range(stop, stop + 25)) == wanted
        assert_equal(copied.state_dict(), agent.state_dict())
        seen = draw(ARM, 4, seed=5)
        np.testing.assert_array_equal(agent.act(seen, explore=True), copied.act(seen, explore=True))

    @pytest.mark.parametrize("policy", ["squashed", "softmax"])
    def test_load_networks_takes_networks_only(self, policy: str) -> None:
        """Policy, value and normaliser are taken over; optimiser, rollout and generator stay the agent's own."""
        settings = settings_of("a2c", policy=policy)
        teacher, pupil = fitted(ARM, settings, seed=1), make(ARM, settings, seed=2)
        play(teacher, ARM, range(6))
        before, state = copy.deepcopy(pupil.state_dict()), copy.deepcopy(teacher.state_dict())
        pupil.load_networks(state)
        after = pupil.state_dict()
        seen = draw(ARM, 5, seed=5)
        np.testing.assert_array_equal(pupil.act(seen, explore=False), teacher.act(seen, explore=False))
        for name in ("policy", "value", "normalizer_fitted"):
            assert_equal(after[name], state[name])
        for name in ("optimizer", "rollout", "generator"):
            assert_equal(after[name], before[name])
        assert any(play(pupil, ARM, range(4)))  # it has a fitted normaliser and learns at once


# ------------------------------------------------------------------------------------------------------ probes
# Small tasks that each need one thing more (after Andy Jones, "Debugging reinforcement learning systems", 2021).


PROBE = Spec(1, 1, (-2.0,), (2.0,), grid_shape=(5,))
BOTH = Spec(1, 2, (-2.0, 3.0), (2.0, 5.0), grid_shape=(3, 4))


@dataclass(frozen=True)
class Task:
    """Episodes of `length` steps. Observed are the step's number, the action before, and a goal, one each episode.

    At a time limit, where it does not terminate, the observation is that of the start. Actions and goals are fractions
    of the actions' range; goals may be of those on the grid.
    """

    reward: Callable[[Observation, FloatArray], Any]  # of what was observed and the action, (num_envs,)
    spec: Spec = PROBE
    length: int = 1
    terminates: bool = True
    on_grid: bool = False

    def fraction(self, action: Actions) -> FloatArray:
        """An action as fractions of the range."""
        if self.on_grid:
            return np.float32(action / (np.array(self.spec.grid_shape) - 1))
        low, high = (np.array(bound, np.float32) for bound in (self.spec.action_low, self.spec.action_high))
        return (action - low) / (high - low)

    def goals(self, count: int, generator: np.random.Generator) -> FloatArray:
        shape = (count, self.spec.goal_size)
        if not self.on_grid:
            return np.float32(generator.uniform(0.05, 0.95, shape))
        return np.float32(generator.integers(self.spec.grid_shape, size=shape) / (np.array(self.spec.grid_shape) - 1))

    @staticmethod
    def see(number: NDArray[np.int64], before: FloatArray, goal: FloatArray) -> Observation:
        started = (number > 0).astype(np.float32)[:, None]
        return {
            "observation": number.astype(np.float32)[:, None],
            "achieved_goal": started * before,
            "desired_goal": goal,
        }


def learned(settings: PolicyGradientSettings, task: Task, steps: int, seed: int = 0) -> PolicyGradient:
    """An agent after so many steps of 48 environments."""
    agent, generator, num_envs = make(task.spec, settings, seed), np.random.default_rng(seed), 48
    number, goal = np.zeros(num_envs, np.int64), task.goals(num_envs, generator)
    seen = task.see(number, np.zeros_like(goal), goal)
    for step in range(steps):
        action = agent.act(seen, explore=True)
        fraction = task.fraction(action)
        reward = np.float32(task.reward(seen, fraction))
        number = (number + 1) % task.length
        ended = number == 0
        after = task.see(number, fraction, goal)
        agent.observe(Transition(seen, action, reward, after, ended & task.terminates, ended))
        agent.update(step / steps)
        goal = np.where(ended[:, None], task.goals(num_envs, generator), goal)
        seen = task.see(number, fraction, goal)
    return agent


def quick(method: str, **changed: Any) -> PolicyGradientSettings:
    values = {
        "hidden_units": 32,
        "fourier_octaves": 0,
        "learning_rate": 1e-2,
        "learning_starts": 200,
        "discount": 0.5,
        "std": "learned",
        "initial_std": 0.4,
        "entropy_coef": 0.01,
    }
    # So that updates come anywhere in episodes of two.
    steps = {"steps_per_update": 3} if method in ("a2c", "a3c") else {}
    return settings_of(method, **values | steps | changed)


def value_of(agent: PolicyGradient, task: Task, number: int, goal: float = 0.5) -> float:
    """The value of the state that the agent reaches with its deterministic action."""
    goals, nothing = np.full((1, 1), goal, np.float32), np.zeros((1, 1), np.float32)
    before = task.fraction(agent.act(task.see(np.array([0]), nothing, goals), explore=False))
    seen = task.see(np.array([number]), before, goals)
    return agent._value(agent._policy.encoder(*tensors_of(seen))).item()


def miss_of(agent: PolicyGradient, task: Task, number: int = 0) -> FloatArray:
    """The distances of actions from 500 goals, as fractions of the range."""
    goal = task.goals(500, np.random.default_rng(9))
    seen = task.see(np.full(500, number), goal, goal)
    return np.abs(task.fraction(agent.act(seen, explore=False)) - goal)


class TestProbes:
    """Probe tasks that each need one more ability (after Andy Jones, 2021)."""

    @pytest.mark.parametrize("method", METHODS)
    def test_values_depend_on_the_observation(self, method: str) -> None:
        """One-step episodes with the goal as reward: the value equals the goal within 0.05."""
        task = Task(lambda seen, action: seen["desired_goal"][:, 0])
        agent = learned(quick(method), task, steps=200)
        for goal in (0.1, 0.3, 0.6, 0.9):
            assert value_of(agent, task, 0, goal) == pytest.approx(goal, abs=0.05)

    @pytest.mark.parametrize("method", METHODS)
    def test_later_rewards_are_discounted(self, method: str) -> None:
        """A reward of 1 in the second step gives values of gamma = 0.5 and 1 within 0.05."""
        task = Task(lambda seen, action: seen["observation"][:, 0], length=2)
        agent = learned(quick(method), task, steps=300)
        assert value_of(agent, task, 0) == pytest.approx(0.5, abs=0.05)
        assert value_of(agent, task, 1) == pytest.approx(1.0, abs=0.05)

    @pytest.mark.slow
    @pytest.mark.parametrize("terminates", [True, False], ids=["terminated", "truncated"])
    @pytest.mark.parametrize("method", METHODS)
    def test_truncation_bootstraps_where_a_value_is_known(self, method: str, terminates: bool) -> None:
        """A reward of 1 each step: 1 + gamma if episodes of two steps terminate, 1 / (1 - gamma) if truncated."""
        task = Task(lambda seen, action: np.ones(48), length=2, terminates=terminates)
        agent = learned(quick(method), task, steps=400)
        ends = terminates or method in ("reinforce-none", "reinforce-average")
        for number, wanted in enumerate((1.5, 1.0) if ends else (2.0, 2.0)):
            assert value_of(agent, task, number) == pytest.approx(wanted, abs=0.1)

    @pytest.mark.slow
    @pytest.mark.parametrize(("method", "policy"), [*((method, "squashed") for method in METHODS), ("a2c", "softmax")])
    def test_actions_get_credit_for_later_rewards(self, method: str, policy: str) -> None:
        """Where the second step rewards the first action, that action comes within 8 % of the goal."""

        def late(seen: Observation, action: FloatArray) -> Any:
            return -4.0 * seen["observation"][:, 0] * np.square(seen["achieved_goal"] - seen["desired_goal"])[:, 0]

        task = Task(late, length=2, on_grid=policy == "softmax")
        agent = learned(quick(method, policy=policy, std="fixed"), task, steps=500)
        assert miss_of(agent, task).mean() < 0.08  # the middle misses by 0.22 or, on the grid, 0.3

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("method", "policy"),
        [*itertools.product(METHODS, ["squashed", "softmax"]), ("a2c", "gaussian"), ("a2c", "clipped")],
    )
    def test_actions_learn_to_match_the_goal(self, method: str, policy: str) -> None:
        """Actions come within 3 % of goals, or match over 95 % of grid goals, with every method and policy."""

        def near(seen: Observation, action: FloatArray) -> Any:
            return -4.0 * np.square(action - seen["desired_goal"]).sum(-1)

        def same(seen: Observation, action: FloatArray) -> Any:
            return (action == seen["desired_goal"]).mean(-1)

        on_grid = policy == "softmax"
        task = Task(same if on_grid else near, BOTH, length=2, terminates=False, on_grid=on_grid)
        agent = learned(quick(method, policy=policy), task, steps=500)
        miss = np.concatenate([miss_of(agent, task, number) for number in (0, 1)])
        if on_grid:
            assert (miss == 0.0).mean() > 0.95  # one of twelve goals
        else:
            assert miss.mean() < 0.03  # the middle misses by 0.22
            assert np.percentile(miss, 99) < 0.1

    def test_the_entropy_bonus_sets_the_std(self) -> None:
        """J = -E[step^2] + c entropy has the optimum std = sqrt(c / 2): 0.3 for c = 0.18, near 0 without."""
        task = Task(lambda seen, action: -np.square(2.0 * action - 1.0)[:, 0])
        stds = []
        for bonus in (0.0, 0.18):
            settings = quick("reinforce-average", policy="gaussian", entropy_coef=bonus, scale_advantage=False)
            stds.append(learned(settings, task, steps=300).policy().log_std.exp().item())
        assert stds[0] < 0.2
        assert stds[1] == pytest.approx(0.3, rel=0.1)
