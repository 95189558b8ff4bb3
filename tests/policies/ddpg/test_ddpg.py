"""DDPG: one update by hand, exploration, and a task that it must solve."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import assert_equal, minus_l1_distance, random_transitions
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import layer_norm, relu

from policies.agent import OBSERVATION_KEYS, FloatArray, Observation, Spec, Transition
from policies.common.hindsight import sample_relabelled
from policies.ddpg import agent as ddpg
from policies.ddpg.agent import DDPG
from policies.ddpg.settings import DDPGSettings

DEGREES = 180.0 / math.pi
ARM = Spec(5, 2, (0.0, 10.0), (90.0, 60.0), measured_columns=(1, 2), measured_unit=DEGREES)
PLAIN = Spec(5, 2, (-2.0, 0.0), (6.0, 1.0))


def lead(observation: Tensor, action: Tensor) -> Tensor:
    """Example kinematics: a point from an observation and an action."""
    return torch.sin(action[:, :1] / 20.0) + 0.1 * action[:, 1:] * observation[:, 3:4]


# An arm of small steps with known kinematics, whose goals have a velocity.
MOVING = replace(ARM, max_step=(9.0, 5.0), kinematics=lead, goal_point_size=1)
# The same arm, scaled to the distances of the random goals, with observed targets.
LARGE = replace(MOVING, size=20.0, rest_distance=0.3, target_columns=(4, 3))
# Goals without a velocity, no kinematics, and targets that are not observed.
UNSEEN = replace(ARM, size=20.0, rest_distance=0.3)
SMALL = DDPGSettings(
    hidden_units=16,
    fourier_octaves=2,
    max_step=1.5,
    batch_size=32,
    learning_starts=64,
    buffer_size=256,
    discount=0.9,
    tau=0.03,
    relabel_near=0.0,
    relabel_other=0.0,
    relabel_distance=0.1,
    slowing_distance=0.0,
)
SLOWING_DISTANCE = 0.08


def filled(spec: Spec, settings: DDPGSettings, *, terminated: float = 0.3, seed: int = 0) -> DDPG:
    """An agent with replay whose target networks differ from the others, as after many updates."""
    agent = DDPG(spec, settings, minus_l1_distance, seed)
    agent.observe(random_transitions(spec, 200, terminated=terminated, seed=seed))
    state = copy.deepcopy(agent.state_dict())
    generator = torch.Generator().manual_seed(seed)
    for name in ("target_actor", "target_critic"):
        for tensor in state[name].values():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    agent.load_state_dict(state)
    return agent


# --------------------------------------------------------------------------------- the update, worked out another way

Weights = dict[str, Tensor]


def wide(state: Weights) -> Weights:
    """Weights as leaves in double precision."""
    return {name: value.double().requires_grad_() for name, value in state.items()}


def fourier(x: Tensor, octaves: int) -> Tensor:
    scales = [2.0**octave for octave in range(-1, octaves - 1)]
    return torch.hstack([x, *(torch.sin(k * x) for k in scales), *(torch.cos(k * x) for k in scales)])


def length(x: Tensor) -> Tensor:
    """The Euclidean length of each row, (batch, 1)."""
    return (x**2).sum(1, keepdim=True).sqrt()


def softened(x: Tensor, softness: float) -> Tensor:
    """The direction of each row: x / (|x| + softness)."""
    return x / (length(x) + softness)


@dataclass
class ByHand:
    """Actor and critic as formulas of plain tensors."""

    spec: Spec
    settings: DDPGSettings
    mean: Tensor
    std: Tensor

    @property
    def octaves(self) -> int:
        return self.settings.fourier_octaves

    @property
    def points(self) -> int:
        """The number of a goal's coordinates that are its position."""
        return 1 if self.spec.goal_point_size == 1 else 2

    def features(self, observation: Tensor, tip: Tensor, goal: Tensor) -> Tensor:
        raw = torch.hstack([observation, tip, goal, goal - tip])
        x = fourier((raw - self.mean) / self.std, self.octaves)
        return torch.hstack([x, softened(goal[:, : self.points] - tip[:, : self.points], 0.0001 * self.spec.size)])

    def unit(self, action: Tensor) -> Tensor:
        low, high = torch.tensor(self.spec.action_low).double(), torch.tensor(self.spec.action_high).double()
        return (action - (low + high) / 2) / ((high - low) / 2)

    def present(self, observation: Tensor) -> Tensor:
        if self.spec.measured_columns is None:
            return torch.zeros(len(observation), len(self.spec.action_low)).double()
        return self.unit(observation[:, list(self.spec.measured_columns)] * self.spec.measured_unit)

    def previous(self, observation: Tensor) -> Tensor:
        """The target sent last, where it is observed."""
        if self.spec.target_columns is None:
            return self.present(observation)
        return self.unit(observation[:, list(self.spec.target_columns)] * self.spec.measured_unit)

    def fraction(self, tip: Tensor, goal: Tensor) -> Tensor:
        """g: from 0 within the rest distance of the goal to 1."""
        if self.settings.slowing_distance == 0:
            return torch.ones(len(goal), 1).double()
        point, velocity = goal.split([self.points, 2 - self.points], 1)
        away = length(point - tip[:, : self.points]) + 0.1 * length(velocity) - self.spec.rest_distance
        return (away / (self.settings.slowing_distance * self.spec.size)).clip(0, 1)

    @property
    def step(self) -> Tensor:
        """The largest step in unit actions."""
        low, high = torch.tensor(self.spec.action_low).double(), torch.tensor(self.spec.action_high).double()
        return (
            torch.ones(2).double()
            if self.spec.max_step is None
            else 1.5 * torch.tensor(self.spec.max_step) / (high - low) * 2
        )

    def output(self, w: Weights, s: Tensor) -> Tensor:
        hidden = relu(s @ w["0.weight"].T + w["0.bias"])
        hidden = relu(hidden @ w["2.weight"].T + w["2.bias"])
        return hidden @ w["4.weight"].T + w["4.bias"]

    def mu(self, w: Weights, s: Tensor, observation: Tensor, fraction: Tensor) -> Tensor:
        """The action before clipping: target = previous + g (present + step - previous)."""
        previous = self.previous(observation)
        stepped = self.present(observation) + self.step * torch.tanh(self.output(w, s))
        return previous + fraction * (stepped - previous)

    def missed(self, observation: Tensor, goal: Tensor, action: Tensor) -> Tensor:
        """The critic's features of the point that an action leads to; none without kinematics."""
        if self.spec.kinematics is None:
            return goal[:, :0]
        low, high = torch.tensor(self.spec.action_low).double(), torch.tensor(self.spec.action_high).double()
        point = lead(observation, (low + high) / 2 + action * (high - low) / 2)
        away, size = goal[:, :1] - point, self.spec.size
        detail = fourier(away / self.std[-2], self.octaves + 2)
        directions = [softened(away, millimetres / 1000 * size) for millimetres in (1, 6, 30)]
        nearness = [torch.exp(-length(away) / (millimetres / 1000 * size)) for millimetres in (3, 10, 50)]
        return torch.hstack([detail, *directions, *nearness])

    def q(self, w: Weights, s: Tensor, action: Tensor, observation: Tensor, goal: Tensor, fraction: Tensor) -> Tensor:
        present, previous = self.present(observation), self.previous(observation)
        actions = [action, 1.5 * (action - present) / self.step]
        if self.settings.slowing_distance > 0:
            # The step before it was slowed down: the inverse of `mu`.
            step = (previous + (action - previous) / fraction.clip(min=0.01) - present) / self.step
            actions.append(2 * torch.tanh(step))
        missed = self.missed(observation, goal, action)
        hidden = torch.hstack([s, missed, fourier(torch.hstack(actions), self.octaves)])
        for linear, norm in (("net.0", "net.1"), ("net.3", "net.4")):
            hidden = hidden @ w[f"{linear}.weight"].T + w[f"{linear}.bias"]
            hidden = relu(layer_norm(hidden, hidden.shape[1:], w[f"{norm}.weight"], w[f"{norm}.bias"]))
        return (hidden @ w["net.6.weight"].T + w["net.6.bias"])[:, 0]


def in_double(agent: DDPG, monkeypatch: pytest.MonkeyPatch) -> DDPG:
    """The same agent in double precision, so that differences from the formulas are not rounding."""
    for module in (agent._policy, agent._average.policy, agent._critic, agent._target_actor, agent._target_critic):
        module.double()

    def sample(*arguments: Any, **options: Any) -> dict[str, Tensor]:
        return {name: value.double() for name, value in sample_relabelled(*arguments, **options).items()}

    monkeypatch.setattr(ddpg, "sample_relabelled", sample)
    return agent


@contextmanager
def frozen(agent: DDPG, spec: Spec, settings: DDPGSettings) -> Iterator[dict[str, Tensor]]:
    """The batch that the next update will draw."""
    before = copy.deepcopy(agent.state_dict()["generator"])
    batch = sample_relabelled(
        agent._replay, spec, settings, minus_l1_distance, agent._generator, discount=settings.discount
    )
    batch = {name: value.double() for name, value in batch.items()}
    agent._generator.bit_generator.state = before
    yield batch


def gradients(module: torch.nn.Module) -> Weights:
    """The gradients of the last update."""
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


def assert_same(got: Weights, wanted: Weights) -> None:
    assert got.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(got[name].double(), wanted[name].double(), rtol=0, atol=1e-6, msg=name)


class TestUpdate:
    """One update, compared with the formulas of Lillicrap et al. (2016) in plain tensors."""

    @pytest.mark.parametrize(
        ("spec", "slowing_distance"),
        [(ARM, 0.0), (PLAIN, 0.0), (MOVING, 0.0), (LARGE, 0.0), (LARGE, SLOWING_DISTANCE), (UNSEEN, SLOWING_DISTANCE)],
        ids=["arm", "plain", "moving", "large", "large-slowing", "unseen-slowing"],
    )
    @pytest.mark.parametrize("terminated", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize(("seed", "relabelled"), [(0, 0.0), (1, 0.3)])
    def test_one_update_equals_the_paper(
        self,
        spec: Spec,
        slowing_distance: float,
        terminated: float,
        relabelled: float,
        seed: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Losses and gradients of critic and actor are those of the plain formulas, with and without slowing."""
        settings = replace(SMALL, relabel_near=relabelled, relabel_other=relabelled, slowing_distance=slowing_distance)
        agent = in_double(filled(spec, settings, terminated=terminated, seed=seed), monkeypatch)
        raw = torch.from_numpy(
            np.hstack(
                [
                    (observation := random_transitions(spec, 200, terminated=terminated, seed=seed).observation)[
                        "observation"
                    ],
                    observation["achieved_goal"],
                    observation["desired_goal"],
                    observation["desired_goal"] - observation["achieved_goal"],
                ]
            )
        ).double()
        by_hand = ByHand(spec, settings, raw.mean(0), raw.std(0, correction=0))
        before = copy.deepcopy(agent.state_dict())
        actor = {
            name.removeprefix("net."): value for name, value in before["policy"].items() if name.startswith("net.")
        }
        with frozen(agent, spec, settings) as batch:
            metrics = agent.update(0.0)
        after = agent.state_dict()
        assert set(batch["terminated"].tolist()) == {0.0: {0.0}, 0.3: {0.0, 1.0}, 1.0: {1.0}}[terminated]

        goal = batch["desired_goal"]
        s = by_hand.features(batch["observation"], batch["achieved_goal"], goal)
        next_s = by_hand.features(batch["next_observation"], batch["next_achieved_goal"], goal)
        seen, after_step = batch["observation"], batch["next_observation"]
        fraction = by_hand.fraction(batch["achieved_goal"], goal)
        next_fraction = by_hand.fraction(batch["next_achieved_goal"], goal)
        if slowing_distance:
            # Among them are steps at rest, slowed ones and whole ones.
            assert fraction.min() == 0.0
            assert ((fraction > 0.0) & (fraction < 1.0)).any()
            assert fraction.max() == 1.0

        with torch.no_grad():
            next_action = by_hand.mu(wide(before["target_actor"]), next_s, after_step, next_fraction).clamp(-1, 1)
            next_q = by_hand.q(wide(before["target_critic"]), next_s, next_action, after_step, goal, next_fraction)
            y = torch.where(batch["terminated"] == 1, batch["reward"], batch["reward"] + 0.9 * next_q)
        critic = wide(before["critic"])
        taken = by_hand.unit(batch["action"])
        q = by_hand.q(critic, s, taken, seen, goal, fraction)
        loss = ((q - y) ** 2).mean()
        loss.backward()
        assert metrics["critic_loss"] == pytest.approx(loss.item(), abs=1e-6)
        assert metrics["q"] == pytest.approx(q.mean().item(), abs=1e-6)
        assert_same(gradients(agent._critic), {name: value.grad for name, value in critic.items()})

        # The actor climbs the critic that has just learned; at a bound, only inwards.
        weights = wide(actor)
        mu = by_hand.mu(weights, s, seen, fraction)
        action = mu + (mu.clamp(-1, 1) - mu).detach()
        action.register_hook(lambda down: torch.where(mu * down < 0, torch.where(mu.abs() >= 1, 0.0, down), down))
        climbed = by_hand.q(wide(after["critic"]), s, action, seen, goal, fraction).mean()
        (0.003 * (by_hand.output(weights, s) ** 2).sum(-1).mean() - climbed).backward()
        wanted = {name: value.grad for name, value in weights.items()}
        assert max(value.abs().max() for value in wanted.values()) > 1e-3
        assert_same(gradients(agent._policy.net), wanted)

    def test_q_is_that_of_the_update(self) -> None:
        """The mean Q of the batch, before the update that reports it."""
        agent = filled(ARM, SMALL)
        agent.update(0.0)
        with frozen(agent, ARM, SMALL) as batch:
            seen = {name: batch[name].float().numpy() for name in OBSERVATION_KEYS}
            q = agent.q(seen, batch["action"].float().numpy())
            metrics = agent.update(0.0)
        assert q.shape == (SMALL.batch_size,)
        assert q.mean() == pytest.approx(metrics["q"], abs=1e-6)

    def test_each_network_takes_adams_first_step(self) -> None:
        """Parameters move by -rate g / (|g| + eps), Adam's first step, with the scheduled rate."""
        agent = filled(PLAIN, SMALL)
        before = copy.deepcopy(agent.state_dict())
        metrics = agent.update(0.25)
        rate = 0.75 * SMALL.learning_rate
        assert metrics["learning_rate"] == rate
        old = {name.removeprefix("net."): value for name, value in before["policy"].items() if name.startswith("net.")}
        for module, earlier in ((agent._policy.net, old), (agent._critic, before["critic"])):
            for name, parameter in module.named_parameters():
                gradient = parameter.grad
                assert gradient is not None
                # m = (1 - b1) g and v = (1 - b2) g^2, both corrected for their bias: the first step is g / (|g| + eps).
                step = -rate * gradient / (gradient.abs() + 1e-8)
                torch.testing.assert_close(parameter.detach(), earlier[name] + step, rtol=0, atol=1e-6, msg=name)

    @pytest.mark.parametrize("tau", [0.0, 0.03, 1.0])
    def test_targets_are_polyak_averages(self, tau: float) -> None:
        """Targets become tau x new weights + (1 - tau) x old targets, after the update."""
        agent = filled(ARM, replace(SMALL, tau=tau))
        before = copy.deepcopy(agent.state_dict())
        agent.update(0.0)
        after = agent.state_dict()
        policy = {f"{name.removeprefix('net.')}": value for name, value in after["policy"].items() if "net." in name}
        for name, online in (("target_actor", policy), ("target_critic", after["critic"])):
            wanted = {key: tau * online[key] + (1 - tau) * before[name][key] for key in before[name]}
            assert_same(after[name], wanted)
            assert tau == 0.0 or any(not torch.equal(after[name][key], before[name][key]) for key in wanted)

    def test_the_learning_rate_falls_to_a_fiftieth_of_the_first(self) -> None:
        """The schedule is linear in the progress with a floor of a fiftieth."""
        agent = filled(PLAIN, SMALL)
        rates = [agent.update(progress)["learning_rate"] for progress in (0.0, 0.5, 0.98, 0.99, 1.0)]
        assert rates == pytest.approx([1e-3, 5e-4, 2e-5, 2e-5, 2e-5])

    def test_updates_per_step_equals_repeated_updates(self) -> None:
        """`updates_per_step=3` gives the state and metrics of three single updates, bit for bit."""
        once, thrice = filled(ARM, SMALL), filled(ARM, replace(SMALL, updates_per_step=3))
        for _ in range(3):
            wanted = once.update(0.5)
        assert thrice.update(0.5) == wanted | {"updates": 3}
        assert_equal(thrice.state_dict(), once.state_dict())


def observation(spec: Spec, num_envs: int, seed: int = 5) -> Observation:
    return random_transitions(spec, num_envs, seed=seed).observation


class TestActing:
    """Actions and exploration."""

    def test_without_exploration_actions_are_deterministic(self) -> None:
        """The policy's own action is returned each time, and the generator is not advanced."""
        agent = filled(ARM, SMALL)
        agent.update(0.0)
        seen = observation(ARM, 6)
        generator = copy.deepcopy(agent.state_dict()["generator"])
        first, second = agent.act(seen, explore=False), agent.act(seen, explore=False)
        np.testing.assert_array_equal(first, second)
        assert agent.state_dict()["generator"] == generator
        parts = [torch.from_numpy(seen[name]) for name in ("observation", "achieved_goal", "desired_goal")]
        np.testing.assert_array_equal(first, agent._policy(*parts).detach().numpy())
        assert first.dtype == np.float32

    def test_random_exploration_is_uniform(self) -> None:
        """Histograms of 20,000 actions are within five standard deviations of uniform."""
        agent = DDPG(PLAIN, SMALL, minus_l1_distance, seed=0)
        actions = agent.act(observation(PLAIN, 20_000), explore=True)
        low, high = np.array(PLAIN.action_low), np.array(PLAIN.action_high)
        assert (actions >= low).all()
        assert (actions <= high).all()
        fraction = (actions - low) / (high - low)
        for column in fraction.T:
            counts = np.histogram(column, 10, (0, 1))[0]
            assert np.abs(counts - 2000).max() < 5 * math.sqrt(20_000 * 0.1 * 0.9)

    def test_each_environment_has_its_own_noise_size(self) -> None:
        """Noise sizes are a geometric sequence of min_noise to max_noise; a tenth of the actions are uniform."""
        spec = replace(PLAIN, action_low=(-1000.0,) * 2, action_high=(1000.0,) * 2)
        agent = filled(spec, replace(SMALL, min_noise=0.0005, max_noise=0.05))  # of the largest step, 1000
        seen = observation(spec, 3)
        calm = agent.act(seen, explore=False)
        away = np.stack([agent.act(seen, explore=True) - calm for _ in range(3000)])
        random = (np.abs(away) > 300.0).any(-1)  # six std of the largest noise: drawn uniformly instead
        for index, size in enumerate((0.5, 5.0, 50.0)):
            assert np.median(np.abs(away[:, index])) == pytest.approx(
                0.6745 * size, rel=0.25
            )  # of a normal distribution
            assert away[~random[:, index], index].std() == pytest.approx(size, rel=0.1) or size < 50.0
            assert random[:, index].mean() == pytest.approx(0.1 * (1 - 0.3**2), abs=0.03)

    @given(st.sampled_from([ARM, PLAIN]), st.sampled_from([1, 2, 7]), st.booleans(), st.integers(0, 100))
    def test_actions_are_within_the_bounds_for_any_noise(
        self, spec: Spec, num_envs: int, warm: bool, seed: int
    ) -> None:
        """Actions are float32 within the bounds, before and after learning starts, for noise up to 1e4."""
        settings = replace(SMALL, min_noise=1.0, max_noise=1e4)
        agent = filled(spec, settings, seed=seed) if warm else DDPG(spec, settings, minus_l1_distance, seed)
        actions = agent.act(observation(spec, num_envs, seed), explore=True)
        assert actions.shape == (num_envs, 2)
        assert actions.dtype == np.float32
        assert (actions >= np.array(spec.action_low, np.float32)).all()
        assert (actions <= np.array(spec.action_high, np.float32)).all()


class TestReproducibility:
    """Seeds, generators and states."""

    def test_nothing_is_learned_before_learning_starts(self) -> None:
        """With one transition less than `learning_starts`, `update` returns nothing and changes nothing."""
        agent = DDPG(ARM, SMALL, minus_l1_distance, seed=0)
        agent.observe(random_transitions(ARM, SMALL.learning_starts - 1))
        before = copy.deepcopy(agent.state_dict())
        assert agent.update(0.0) == {}
        assert_equal(agent.state_dict(), before)
        agent.observe(random_transitions(ARM, 1))
        assert set(agent.update(0.0)) == {"critic_loss", "q", "learning_rate", "updates"}

    def test_agents_are_determined_by_the_seed(self) -> None:
        """Equal seeds give equal states and actions, others different ones."""
        first, second, other = (DDPG(ARM, SMALL, minus_l1_distance, seed) for seed in (7, 7, 8))
        assert_equal(first.state_dict(), second.state_dict())
        assert not torch.equal(
            first.state_dict()["policy"]["net.0.weight"], other.state_dict()["policy"]["net.0.weight"]
        )
        seen = observation(ARM, 4)
        np.testing.assert_array_equal(first.act(seen, explore=True), second.act(seen, explore=True))
        plain = [
            DDPG(PLAIN, SMALL, minus_l1_distance, seed).act(observation(PLAIN, 4), explore=True) for seed in (7, 8)
        ]
        assert (plain[0] != plain[1]).all()

    def test_torchs_global_generator_is_not_used(self) -> None:
        """Making an agent does not advance PyTorch's global generator."""
        torch.manual_seed(1)
        wanted = torch.rand(3)
        torch.manual_seed(1)
        DDPG(ARM, SMALL, minus_l1_distance, seed=0)
        assert torch.equal(torch.rand(3), wanted)

    def test_it_continues_from_its_state_exactly(self) -> None:
        """From a restored state, metrics, states and actions continue bit for bit."""
        settings = replace(SMALL, relabel_near=0.3, relabel_other=0.3)
        agent, copied = filled(ARM, settings), DDPG(ARM, settings, minus_l1_distance, seed=99)
        for _ in range(3):
            agent.update(0.1)
        copied.load_state_dict(copy.deepcopy(agent.state_dict()))
        for step in range(3):
            for each in (agent, copied):
                each.observe(random_transitions(ARM, 60, seed=step))
            assert agent.update(0.2) == copied.update(0.2)
        seen = observation(ARM, 4)
        np.testing.assert_array_equal(agent.act(seen, explore=True), copied.act(seen, explore=True))
        assert_equal(copied.state_dict(), agent.state_dict())

    def test_load_networks_takes_networks_only(self) -> None:
        """Policy, critic and targets are taken over; optimisers, replay and generator stay the agent's own."""
        teacher, pupil = filled(ARM, SMALL, seed=1), DDPG(ARM, SMALL, minus_l1_distance, seed=2)
        teacher.update(0.0)
        before, state = copy.deepcopy(pupil.state_dict()), copy.deepcopy(teacher.state_dict())
        pupil.load_networks(state)
        seen, after = observation(ARM, 5), pupil.state_dict()
        np.testing.assert_array_equal(pupil.act(seen, explore=False), teacher.act(seen, explore=False))
        for name in ("policy", "critic", "target_actor", "target_critic"):
            assert_equal(after[name], state[name])
        for name in ("actor_optimizer", "critic_optimizer", "replay", "generator"):
            assert_equal(after[name], before[name])


def minus_square(achieved_goal: FloatArray, desired_goal: FloatArray, info: Any) -> Any:
    return -np.square(achieved_goal - desired_goal).sum(-1)


class TestLearning:
    """A task that the agent must solve."""

    @pytest.mark.parametrize("seed", range(2))
    def test_actions_learn_to_match_the_goal(self, seed: int) -> None:
        """One step, reward -(action - goal)^2: actions come within 3 % of the range on average."""
        spec, generator = Spec(1, 2, (-2.0, 3.0), (2.0, 5.0)), np.random.default_rng(seed)
        settings = DDPGSettings(
            hidden_units=64,
            fourier_octaves=0,
            learning_rate=1e-2,
            batch_size=256,
            learning_starts=500,
            # Where the tip is before the step is not near where the action leads: other goals alone.
            relabel_near=0.0,
            relabel_other=0.8,
            min_noise=0.02,
            max_noise=1.0,
            slowing_distance=0.0,
        )
        agent = DDPG(spec, settings, minus_square, seed)

        def draw(count: int) -> NDArray[np.float32]:
            return generator.uniform(spec.action_low, spec.action_high, (count, 2)).astype(np.float32)

        def see(goal: FloatArray, achieved: FloatArray) -> Observation:
            return {
                "observation": np.zeros((len(goal), 1), np.float32),
                "achieved_goal": achieved,
                "desired_goal": goal,
            }

        start = np.full((8, 2), (0.0, 4.0), np.float32)  # where an action of no step leads
        for step in range(1000):
            seen = see(draw(8), start)
            action = agent.act(seen, explore=True)
            reward = minus_square(action, seen["desired_goal"], None)
            agent.observe(
                Transition(seen, action, reward, see(seen["desired_goal"], action), np.ones(8, bool), np.ones(8, bool))
            )
            agent.update(step / 1000)
        goal = draw(1000)
        miss = np.abs(agent.act(see(goal, np.repeat(start[:1], 1000, 0)), explore=False) - goal)
        fraction = miss / np.subtract(spec.action_high, spec.action_low)
        assert fraction.mean() < 0.03  # the middle of the range misses by 0.25
        assert np.percentile(fraction, 99) < 0.1


class TestSettings:
    """Validation of settings."""

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({name: bad}, name.replace("_", "-"))
            for name in (
                "hidden_units",
                "learning_rate",
                "batch_size",
                "buffer_size",
                "updates_per_step",
                "min_noise",
                "max_noise",
                "relabel_distance",
            )
            for bad in (0, -1, math.nan, math.inf)
        ]
        + [
            ({name: bad}, name.replace("_", "-"))
            for name in ("discount", "tau", "relabel_near", "relabel_other")
            for bad in (-0.01, 1.01, math.nan)
        ]
        + [({"fourier_octaves": bad}, "fourier-octaves") for bad in (-1, 11, math.nan)]
        + [
            ({"relabel_near": 0.6, "relabel_other": 0.5}, "relabel-near and relabel-other"),
            ({"learning_starts": 127}, "learning-starts"),
            ({"learning_starts": -1}, "learning-starts"),
            ({"learning_starts": 500, "buffer_size": 499}, "learning-starts"),
            ({"batch_size": 3000}, "learning-starts"),
        ],
        ids=str,
    )
    def test_rejects_invalid_settings_by_name(self, values: dict[str, Any], named: str) -> None:
        """Values out of range and inconsistent sizes raise an error that begins with the flag's name."""
        with pytest.raises(ValueError, match=f"{named}: expected"):
            DDPGSettings(**values)

    def test_settings_at_their_bounds_are_accepted(self) -> None:
        """Bounds of ranges and a batch as large as the buffer are accepted."""
        DDPGSettings(discount=0, tau=1, relabel_near=1, relabel_other=0, fourier_octaves=0)
        DDPGSettings(batch_size=5, learning_starts=5, buffer_size=5)


class TestAblations:
    """Variants without target networks, replay or one-step returns."""

    def test_without_target_networks_the_online_ones_are_used(self) -> None:
        """Losses without targets equal those with tau = 1, and differ from those with slow targets."""
        losses = {}
        for name, changed in (
            ("without", {"target_networks": False, "tau": 0.01}),
            ("at once", {"tau": 1.0}),
            ("slowly", {"tau": 0.01}),
        ):
            agent = DDPG(ARM, replace(SMALL, **changed), minus_l1_distance, 0)
            agent.observe(random_transitions(ARM, 200, terminated=0.3, seed=0))
            losses[name] = [agent.update(0.0)["critic_loss"] for _ in range(5)]
        assert losses["without"] == losses["at once"]
        assert losses["without"][0] == losses["slowly"][0]
        assert losses["without"][-1] != losses["slowly"][-1]

    def test_without_replay_batches_come_from_the_last_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Batches contain rows of the last step only."""
        batches = []

        def recorded(*arguments: Any, **options: Any) -> dict[str, Tensor]:
            batches.append(sample_relabelled(*arguments, **options))
            return batches[-1]

        monkeypatch.setattr(ddpg, "sample_relabelled", recorded)
        for replay in (True, False):
            settings = replace(SMALL, replay=replay, relabel_near=0.0, relabel_other=0.0)
            agent = filled(ARM, settings, terminated=0.3, seed=0)
            last = random_transitions(ARM, 4, terminated=0.3, seed=1)
            agent.observe(last)
            agent.update(0.0)
            seen = {tuple(row) for row in batches[-1]["observation"].tolist()}
            newest = {tuple(row) for row in last.observation["observation"].tolist()}
            assert (seen <= newest) == (not replay)

    @pytest.mark.parametrize("n_step", [1, 3])
    def test_n_step_targets_equal_the_formula(self, n_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """The loss is that of the sum of n rewards plus gamma^n Q', computed from the batch."""
        batches = []

        def recorded(*arguments: Any, **options: Any) -> dict[str, Tensor]:
            batches.append(sample_relabelled(*arguments, **options))
            return batches[-1]

        monkeypatch.setattr(ddpg, "sample_relabelled", recorded)
        agent = DDPG(ARM, replace(SMALL, n_step=n_step), minus_l1_distance, 0)
        for number in range(60):
            step = random_transitions(ARM, 5, terminated=0.0, seed=number)
            agent.observe(replace(step, ended=np.zeros(5, bool), terminated=np.zeros(5, bool)))
        agent._policy.encoder.fit(*(agent._replay.column(name) for name in OBSERVATION_KEYS))
        before = copy.deepcopy(agent)
        metrics = agent.update(0.0)
        [batch] = batches
        discount = SMALL.discount
        assert float((batch["bootstrap"] == discount**n_step).double().mean()) > 0.8  # all but the newest
        with torch.no_grad():
            view = before._inputs.view(batch)
            next_view = before._inputs.view(batch, "next_")
            next_a = before._inputs.mu(before._target_actor(next_view.features), next_view).clamp(-1.0, 1.0)
            y = batch["reward"] + batch["bootstrap"] * before._inputs.q(before._target_critic, next_view, next_a)
            a = before._policy.scaling.to_unit(batch["action"])
            q = before._inputs.q(before._critic, view, a)
        assert metrics["critic_loss"] == pytest.approx(float((q - y).square().mean()), rel=1e-4)
