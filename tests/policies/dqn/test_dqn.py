"""DQN: one update by hand, exploration, states, and a task that it must solve, for each of its heads."""

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import assert_equal, make, random_observation
from torch import Tensor
from torch.nn.functional import relu

from policies.agent import FloatArray, Observation, Spec, Transition
from policies.branching_dqn.settings import BranchingDQNSettings
from policies.common.heads import BatchColumns
from policies.common.hindsight import sample_relabelled
from policies.common.settings import QLearningSettings
from policies.dqn import agent as dqn
from policies.dqn.agent import DQN
from policies.dqn.flat_head import FlatHead, LazyAdam
from policies.dqn.settings import DQNSettings

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
MOVING = replace(ARM, goal_point_size=1)
SMALL = {
    "hidden_units": 16,
    "fourier_octaves": 2,
    "learning_rate": 1e-3,
    "double_q": True,
    "target_period": 100,
    "updates_per_step": 1,
    "min_epsilon": 0.001,
    "max_epsilon": 0.4,
    "batch_size": 32,
    "learning_starts": 64,
    "buffer_size": 256,
    "discount": 0.9,
    "relabel_near": 0.0,
    "relabel_other": 0.0,
    "relabel_distance": 0.1,
}
KINDS = ["random", "zero", "features", "branching"]


def settings_of(kind: str, **changed: Any) -> Any:
    """Small settings for a head of this kind."""
    if kind == "branching":
        return BranchingDQNSettings(**(SMALL | changed))
    return DQNSettings(head=kind, **({"action_repeat": 1} | SMALL | changed))  # type: ignore[arg-type]


def minus_distance(achieved_goal: FloatArray, desired_goal: FloatArray, info: Any) -> Any:
    return -np.abs(achieved_goal - desired_goal)[:, :1].sum(-1)


def shape_of(spec: Spec) -> tuple[int, ...]:
    assert spec.grid_shape is not None
    return spec.grid_shape


def transitions(spec: Spec, kind: str, count: int, *, terminated: float = 0.3, seed: int = 0) -> Transition:
    """Random transitions; the first column of `observation` is the row's number."""
    generator = np.random.default_rng(seed)
    first = random_observation(spec, count, generator)
    following = random_observation(spec, count, generator)
    first["observation"][:, 0] = np.arange(count)
    following["desired_goal"] = first["desired_goal"].copy()
    if spec.goal_point_size is not None:
        following["desired_goal"][:, 0] += first["desired_goal"][:, 1]
    positions = generator.integers(shape_of(spec), size=(count, len(shape_of(spec))))
    action = positions if kind == "branching" else np.ravel_multi_index(tuple(positions.T), shape_of(spec))
    reward = minus_distance(following["achieved_goal"], following["desired_goal"], None)
    ended = generator.random(count) < terminated
    return Transition(first, action, reward, following, ended, ended)


def observation(spec: Spec, num_envs: int, seed: int = 5) -> Observation:
    return transitions(spec, "zero", num_envs, seed=seed).observation


def tensors(seen: Observation) -> list[Tensor]:
    return [torch.from_numpy(seen[name]) for name in ("observation", "achieved_goal", "desired_goal")]


def filled(spec: Spec, kind: str, settings: Any, *, terminated: float = 0.3, seed: int = 0) -> DQN:
    """An agent with replay whose network and target differ from each other and from new ones, as after many updates."""
    agent = make(spec, settings, seed, minus_distance)
    agent.observe(transitions(spec, kind, 200, terminated=terminated, seed=seed))
    generator = torch.Generator().manual_seed(seed)
    modules: list[Any] = [agent._policy.trunk, agent._target_trunk, agent._head, agent._target_head]
    for module in modules:
        for parameter in module.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        if isinstance(module, FlatHead):
            actions = torch.arange(0, module.grid.size, 2)
            module.put(actions, 0.5 * torch.randn(len(module.table), len(actions), generator=generator))
    return agent


def index_of(action: Any, spec: Spec) -> Any:
    """Indices (batch,) of actions as an agent gives them, or of positions."""
    return action if action.ndim == 1 else np.ravel_multi_index(tuple(np.asarray(action).T), shape_of(spec))


# --------------------------------------------------------------------------------- the update, worked out another way

Weights = dict[str, Tensor]


def wide(module: Any) -> Weights:
    """A module's weights as leaves in double precision."""
    named = {"table": module.table} if isinstance(module, FlatHead) else dict(module.named_parameters())
    return {name: value.detach().clone().double().requires_grad_() for name, value in named.items()}


def fourier(x: Tensor, octaves: int) -> Tensor:
    scales = [2.0**octave for octave in range(-1, octaves - 1)]
    return torch.hstack([x, *(torch.sin(k * x) for k in scales), *(torch.cos(k * x) for k in scales)])


class ByHand:
    """Q of every action as a formula of plain tensors."""

    def __init__(self, spec: Spec, kind: str, stored: Transition) -> None:
        self.spec, self.kind, self.shape = spec, kind, shape_of(spec)
        self.actions = torch.tensor(list(itertools.product(*map(range, self.shape))))
        raw = self.raw(*(value.double() for value in tensors(stored.observation)))
        self.mean, self.std = raw.mean(0), raw.std(0, correction=0)
        self.low, self.high = torch.tensor(spec.action_low).double(), torch.tensor(spec.action_high).double()
        self.steps = torch.tensor(self.shape) - 1

    @staticmethod
    def raw(observation: Tensor, tip: Tensor, goal: Tensor) -> Tensor:
        return torch.hstack([observation, tip, goal, goal - tip])

    def present(self, observation: Tensor) -> Tensor:
        """The joints' positions on the grid."""
        if self.spec.measured_columns is None:
            return (self.steps / 2).expand(len(observation), -1)
        angles = observation[:, list(self.spec.measured_columns)] * self.spec.measured_unit
        return (angles - self.low) / (self.high - self.low) * self.steps

    def q(self, trunk: Weights, head: Weights, observation: Tensor, tip: Tensor, goal: Tensor) -> Tensor:
        """Q of every action, (batch, actions)."""
        s = fourier((self.raw(observation, tip, goal) - self.mean) / self.std, 2)
        displacement = (goal - tip)[:, : self.spec.goal_point_size]
        distance = displacement.square().sum(1, keepdim=True).sqrt()
        s = torch.hstack([s, displacement / (distance + 1e-4)])
        x = relu(s @ trunk["net.0.weight"].T + trunk["net.0.bias"])
        x = relu(x @ trunk["net.2.weight"].T + trunk["net.2.bias"])
        if self.kind in ("random", "zero"):
            return x @ head["table"][:-1] + head["table"][-1]
        if self.kind == "features":
            total = torch.zeros(1).double()
            for joint, count in enumerate(self.shape):
                angle = torch.linspace(-math.pi, math.pi, count).double()[:, None]
                layer = fourier(angle, 3) @ head[f"layers.{joint}.weight"].T + head[f"layers.{joint}.bias"]
                total = total + layer[self.actions[:, joint]]
            return (x @ head["mix.weight"].T + head["mix.bias"]) @ relu(total).T
        if self.spec.max_step is None:
            far = self.steps / 2.0
        else:
            far = torch.tensor(self.spec.max_step) / (self.high - self.low) * self.steps
        table = x @ head["table.weight"].T + head["table.bias"]
        gains = (x @ head["gains.weight"].T + head["gains.bias"]).reshape(len(x), 1, len(self.shape), 8)
        step = self.actions[None] - self.present(observation)[:, None]
        ramps = torch.stack([(step / (far * fraction)).clamp(-1, 1) for fraction in (1 / 8, 1 / 4, 1 / 2, 1)], dim=-1)
        gain = (gains[..., :4] * ramps + gains[..., 4:] * ramps.abs()).sum(-1)
        offsets = torch.tensor([sum(self.shape[:joint]) for joint in range(len(self.shape))])
        return (table[:, self.actions + offsets] + gain).mean(-1)


def frozen(agent: DQN, spec: Spec, settings: Any) -> dict[str, Tensor]:
    """The batch that the next update will draw, in double precision."""
    before = copy.deepcopy(agent.state_dict()["generator"])
    batch = sample_relabelled(
        agent._replay, spec, settings, minus_distance, agent._generator, discount=settings.discount
    )
    agent._generator.bit_generator.state = before
    return {name: value.double() for name, value in batch.items()}


def assert_close(got: Tensor | None, wanted: Tensor | None, name: str) -> None:
    """Assert equality within single precision."""
    assert got is not None
    assert wanted is not None
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}: {text}")


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> list[BatchColumns]:
    """The columns that the optimiser of a flat head has moved, with their gradients."""
    moved: list[BatchColumns] = []
    step = LazyAdam.step

    def recorded(self: LazyAdam, gathered: BatchColumns, learning_rate: float) -> None:
        moved.append(gathered)
        step(self, gathered, learning_rate)

    monkeypatch.setattr(LazyAdam, "step", recorded)
    return moved


def copies(agent: DQN) -> tuple[Any, Any]:
    """All weights of the network and of its target."""
    pairs: list[Any] = []
    for trunk, head in ((agent._policy.trunk, agent._head), (agent._target_trunk, agent._target_head)):
        weights = {"table": head.table} if isinstance(head, FlatHead) else dict(head.named_parameters())  # type: ignore[attr-defined]
        pairs.append(copy.deepcopy({"trunk": dict(trunk.state_dict()), "head": weights}))
    return pairs[0], pairs[1]


class TestUpdate:
    """One update, compared with the formulas of the DQN and double-DQN papers in plain tensors."""

    @pytest.mark.parametrize("double_q", [True, False], ids=["double", "plain-q"])
    @pytest.mark.parametrize("spec", [ARM, PLAIN, MOVING], ids=["arm", "plain", "moving"])
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("seed", "terminated", "relabelled"), [(0, 0.0, 0.0), (1, 0.3, 0.3), (2, 0.3, 0.0)])
    def test_one_update_equals_the_papers(
        self,
        seed: int,
        terminated: float,
        relabelled: float,
        kind: str,
        spec: Spec,
        double_q: bool,
        stepped: list[BatchColumns],
    ) -> None:
        """Loss, mean Q and all gradients equal the formulas over an enumeration of actions, for each head."""
        settings = settings_of(kind, double_q=double_q, relabel_near=relabelled, relabel_other=relabelled)
        agent = filled(spec, kind, settings, terminated=terminated, seed=seed)
        by_hand = ByHand(spec, kind, transitions(spec, kind, 200, terminated=terminated, seed=seed))
        trunk, head = wide(agent._policy.trunk), wide(agent._head)
        target_trunk, target_head = wide(agent._target_trunk), wide(agent._target_head)
        batch = frozen(agent, spec, settings)
        metrics = agent.update(0.0)
        assert set(batch["terminated"].tolist()) == ({0.0} if terminated == 0.0 else {0.0, 1.0})

        now = [batch[name] for name in ("observation", "achieved_goal", "desired_goal")]
        following = [batch[f"next_{name}"] for name in ("observation", "achieved_goal", "desired_goal")]
        with torch.no_grad():
            judged = by_hand.q(target_trunk, target_head, *following)
            chosen = by_hand.q(trunk, head, *following).argmax(dim=1)
            next_q = {True: judged.gather(1, chosen[:, None])[:, 0], False: judged.amax(dim=1)}
            assert (next_q[False] - next_q[True]).max() > 0.1  # the two targets differ
            y = torch.where(batch["terminated"] == 1, batch["reward"], batch["reward"] + 0.9 * next_q[double_q])
        action = batch["action"].long()
        index = torch.as_tensor(index_of(action, spec))
        q = by_hand.q(trunk, head, *now).gather(1, index[:, None])[:, 0]
        loss = ((q - y) ** 2).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert metrics["q"] == pytest.approx(q.mean().item(), abs=1e-5)

        gradients = {name: parameter.grad for name, parameter in agent._policy.trunk.named_parameters()}
        assert gradients.keys() == trunk.keys()
        for name, wanted in trunk.items():
            assert_close(gradients[name], wanted.grad, name)
        assert trunk["net.0.weight"].grad is not None
        assert trunk["net.0.weight"].grad.abs().max() > 1e-2
        if isinstance(agent._head, FlatHead):
            [gathered] = stepped
            actions = gathered.actions
            columns = gathered.columns
            wanted_grad = head["table"].grad
            assert wanted_grad is not None
            assert_close(columns.grad, wanted_grad[:, actions], "table")
            assert wanted_grad.abs().sum(0).nonzero()[:, 0].tolist() == actions.tolist()
        else:
            gradients = {name: parameter.grad for name, parameter in agent._head.named_parameters()}
            assert gradients.keys() == head.keys()
            for name, wanted in head.items():
                assert_close(gradients[name], wanted.grad, name)

    @pytest.mark.parametrize("kind", KINDS)
    def test_trunk_and_head_take_adams_first_step(self, kind: str, stepped: list[BatchColumns]) -> None:
        """Parameters move by -rate g / (|g| + eps); a table's other columns stay unchanged."""
        settings = settings_of(kind)
        agent = filled(ARM, kind, settings)
        head: Any = agent._head
        earlier = copy.deepcopy([dict(agent._policy.trunk.named_parameters()), dict(head.named_parameters())])
        table = head.table.clone() if isinstance(head, FlatHead) else None
        metrics = agent.update(0.25)
        rate = 0.75 * settings.learning_rate
        assert metrics["learning_rate"] == rate
        pairs = [
            (parameter.detach(), before[name].detach(), parameter.grad)
            for module, before in zip((agent._policy.trunk, head), earlier, strict=True)
            for name, parameter in module.named_parameters()
        ]
        if table is not None:
            [gathered] = stepped
            actions = gathered.actions
            columns = gathered.columns
            pairs.append((head.table[:, actions], table[:, actions], columns.grad))
            rest = torch.ones(head.grid.size, dtype=torch.bool)
            rest[actions] = False
            assert rest.any()
            assert torch.equal(head.table[:, rest], table[:, rest])
        assert len(pairs) >= 5
        for after, before, gradient in pairs:
            # m = (1 - b1) g and v = (1 - b2) g^2, both corrected for their bias: the first step is g / (|g| + eps).
            assert gradient is not None
            step = -rate * gradient / (gradient.abs() + 1e-8)
            assert step.abs().max() > 0.5 * rate
            torch.testing.assert_close(after, before + step, rtol=0, atol=1e-6)

    def test_with_zero_q_values_the_target_is_the_reward(self) -> None:
        """With a zero head the loss is the mean squared reward, and only the batch's columns learn."""
        agent = make(ARM, settings := settings_of("zero"), 0, minus_distance)
        agent.observe(transitions(ARM, "zero", 200))
        batch = frozen(agent, ARM, settings)
        trunk = copy.deepcopy(agent._policy.trunk.state_dict())
        metrics = agent.update(0.0)
        assert metrics["q"] == 0.0
        assert metrics["loss"] == pytest.approx((batch["reward"] ** 2).mean().item(), rel=1e-5)
        assert_equal(agent._policy.trunk.state_dict(), trunk)  # zero weights pass no gradient on
        assert isinstance(agent._head, FlatHead)
        used = np.unique(index_of(batch["action"].long(), ARM))
        assert agent._head.learned.nonzero()[:, 0].tolist() == used.tolist()
        assert (agent._head.table[-1, used] < 0).all()  # rewards are negative, and Q moves towards them
        assert (agent._head.table[:, ~agent._head.learned] == 0).all()

    @pytest.mark.parametrize("period", [1, 3])
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_target_is_copied_every_period(self, kind: str, period: int) -> None:
        """After each update, the target equals the network at the last multiple of target_period."""
        agent = make(ARM, settings_of(kind, target_period=period), 0, minus_distance)
        agent.observe(transitions(ARM, kind, 200))
        network, wanted = copies(agent)
        assert_equal(wanted, network)
        for number in range(1, 3 * period + 3):
            agent.update(0.0)
            network, target = copies(agent)
            if number % period == 0:
                wanted = network
            else:
                with pytest.raises(AssertionError):
                    assert_equal(target, network)
            assert_equal(target, wanted)

    def test_the_learning_rate_falls_to_a_fiftieth_of_the_first(self) -> None:
        """The schedule is linear in the progress with a floor of a fiftieth."""
        agent = filled(PLAIN, "zero", settings_of("zero"))
        rates = [agent.update(progress)["learning_rate"] for progress in (0.0, 0.5, 0.98, 0.99, 1.0)]
        assert rates == pytest.approx([1e-3, 5e-4, 2e-5, 2e-5, 2e-5])

    @pytest.mark.parametrize("kind", KINDS)
    def test_updates_per_step_equals_repeated_updates(self, kind: str) -> None:
        """`updates_per_step=3` gives the state and metrics of three single updates, bit for bit."""
        once, thrice = (filled(ARM, kind, settings_of(kind, updates_per_step=n, target_period=2)) for n in (1, 3))
        for _ in range(3):
            wanted = once.update(0.5)
        assert thrice.update(0.5) == wanted | {"updates": 3}
        assert_equal(thrice.state_dict(), once.state_dict())
        assert once.state_dict()["updates"] == 3


class TestActions:
    """Indices and positions of actions."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_replay_stores_positions(self, kind: str) -> None:
        """Indices are stored as positions, and the caller's array is not modified."""
        agent, done = make(ARM, settings_of(kind), 0, minus_distance), transitions(ARM, kind, 200)
        action = done.action.copy()
        agent.observe(done)
        positions = np.stack(np.unravel_index(index_of(action, ARM), (7, 6)), axis=1)
        np.testing.assert_array_equal(agent._replay.column("action"), positions)
        assert len(set(positions.max(axis=1))) > 1
        np.testing.assert_array_equal(done.action, action)  # the caller's array is unchanged
        batch = frozen(agent, ARM, settings_of(kind))
        np.testing.assert_array_equal(batch["action"], positions[batch["observation"][:, 0].long()])

    @pytest.mark.parametrize(
        ("kind", "shape"),
        [
            ("zero", (91, 91, 91)),
            ("branching", (91, 91, 91)),
            # Beyond 2^24, above which single precision has no odd numbers.
            ("zero", (4100, 4100)),
            ("features", (4100, 4100)),
            ("branching", (4100, 4100)),
            ("branching", (91, 91, 91, 91)),
        ],
        ids=str,
    )
    def test_large_action_indices_are_stored_exactly(self, kind: str, shape: tuple[int, ...]) -> None:
        """On grids beyond 2^24 actions, the learned columns and counters are exactly the actions that were taken."""
        spec = Spec(5, 2, (0.0,) * len(shape), (90.0,) * len(shape), grid_shape=shape)
        settings = settings_of(kind, hidden_units=1)
        agent = make(spec, settings, 0, minus_distance)
        done = transitions(spec, kind, 64)
        last = np.arange(64) + math.prod(shape) - 64
        action = np.stack(np.unravel_index(last, shape), axis=1) if kind == "branching" else last
        agent.observe(replace(done, action=action))
        batch = frozen(agent, spec, settings)
        agent.update(0.0)
        used = set(last[batch["observation"][:, 0].long()].tolist())
        assert len(used) > 10
        assert any(index % 2 for index in used)
        if isinstance(agent._head, FlatHead):
            assert set(agent._head.learned.nonzero()[:, 0].tolist()) == used
            assert set(agent._head.get_extra_state()["actions"].tolist()) == used
        state = agent.state_dict()
        assert state["tried"].tolist() == last.tolist()
        assert set(state["updated"].tolist()) == used
        assert set(index_of(batch["action"].long(), spec).tolist()) == used

    def test_an_action_beyond_2_to_the_24_is_chosen_exactly(self) -> None:
        """An odd index above 2^24, which float32 cannot hold, is chosen, stored and exported exactly."""
        spec = Spec(5, 2, (0.0, 0.0), (90.0, 90.0), grid_shape=(4100, 4100))
        settings = settings_of("zero", hidden_units=1, min_epsilon=1e-9, max_epsilon=1e-9)
        agent = make(spec, settings, 0, minus_distance)
        agent.observe(replace(transitions(spec, "zero", 64), action=np.arange(64)))
        best = 4100**2 - 1234 - 1
        assert best > 2**24
        assert best % 2 == 1
        assert isinstance(agent._head, FlatHead)
        agent._head.put(torch.tensor([best]), torch.ones(2, 1))
        done = transitions(spec, "zero", 3)
        for explore in (False, True):
            action = agent.act(done.observation, explore=explore)
            assert action.tolist() == [best] * 3
        assert agent.state_dict()["picks"] == [3, 3]
        agent.observe(replace(done, action=action))
        assert agent.state_dict()["tried"].tolist() == [*range(64), best]
        agent.act(done.observation, explore=True)
        assert agent.state_dict()["picks"] == [6, 3]
        with torch.no_grad():
            values = agent.policy()(*tensors(done.observation))
        assert agent._grid.positions_of(values).tolist() == [[best // 4100, best % 4100]] * 3


class TestActing:
    """Greedy actions and exploration."""

    @pytest.mark.parametrize("spec", [ARM, PLAIN], ids=["arm", "plain"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_greedy_action_maximises_the_formula(self, kind: str, spec: Spec) -> None:
        """The greedy action is the argmax of the formula's Q, and the policy returns its value on the grid."""
        agent = filled(spec, kind, settings_of(kind))
        agent.update(0.0)
        by_hand, seen = ByHand(spec, kind, transitions(spec, kind, 200)), observation(spec, 50, seed=8)
        q = by_hand.q(wide(agent._policy.trunk), wide(agent._head), *(value.double() for value in tensors(seen)))
        best = q.argmax(dim=1)
        assert len(set(best.tolist())) > 2
        action = agent.act(seen, explore=False)
        assert action.dtype == np.int64
        assert action.shape == ((50, 2) if kind == "branching" else (50,))
        assert index_of(action, spec).tolist() == best.tolist()
        with torch.no_grad():
            values = agent.policy()(*tensors(seen))
        assert values.shape == (50, 2)
        spans = zip(spec.action_low, spec.action_high, shape_of(spec), strict=True)
        on_grid = [
            np.linspace(low, high, count)[by_hand.actions[best, joint]]
            for joint, (low, high, count) in enumerate(spans)
        ]
        np.testing.assert_allclose(values, np.stack(on_grid, axis=1), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_shortfall_and_margin_equal_the_formula(self, kind: str) -> None:
        """Shortfall and margin equal the formula's Q values; actions off the grid give NaN."""
        agent = filled(ARM, kind, settings_of(kind))
        agent.update(0.0)
        by_hand, seen, policy = ByHand(ARM, kind, transitions(ARM, kind, 200)), observation(ARM, 42), agent.policy()
        with torch.no_grad():
            q = by_hand.q(wide(agent._policy.trunk), wide(agent._head), *(value.double() for value in tensors(seen)))
            top, second = q.topk(2, dim=1).values.T
            values = policy.grid.values(by_hand.actions)  # every action, for another observation each
            shortfall, largest = policy.suboptimality(values, *tensors(seen))
            assert_close(largest, top, "largest")
            assert_close(shortfall, top - q.diagonal(), "shortfall")
            assert_close(policy.action_gap(*tensors(seen)), top - second, "margin")
            best, _ = policy.suboptimality(policy(*tensors(seen)), *tensors(seen))
            torch.testing.assert_close(best, torch.zeros(42), rtol=0, atol=1e-5)
            nearby, _ = policy.suboptimality(values + 1e-4 * policy.grid.step, *tensors(seen))
            torch.testing.assert_close(nearby, shortfall)
            for off in (
                0.01 * policy.grid.step,
                torch.tensor([0.0, 0.5]),
                torch.tensor([0.0, math.nan]),
                torch.tensor([1e9, 0]),
            ):
                assert policy.suboptimality(values + off, *tensors(seen))[0].isnan().all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_without_exploration_actions_are_deterministic(self, kind: str) -> None:
        """Greedy actions repeat, and each environment's does not depend on the others."""
        agent = filled(ARM, kind, settings_of(kind, min_epsilon=1.0, max_epsilon=1.0))
        seen = observation(ARM, 6)
        first = agent.act(seen, explore=False)
        agent.act(seen, explore=True)
        np.testing.assert_array_equal(agent.act(seen, explore=False), first)
        # Each environment's action does not depend on the others.
        for index in range(6):
            alone = {name: value[index : index + 1] for name, value in seen.items()}
            np.testing.assert_array_equal(agent.act(alone, explore=False), first[index : index + 1])

    @pytest.mark.parametrize("kind", ["zero", "branching"])
    def test_random_exploration_is_uniform(self, kind: str) -> None:
        """Frequencies of 20,000 actions are within five standard deviations of uniform, until learning starts."""
        agent = make(PLAIN, settings_of(kind, min_epsilon=1e-9, max_epsilon=1e-9), 0, minus_distance)
        seen = observation(PLAIN, 20_000)
        agent.observe(transitions(PLAIN, kind, 63))
        action = agent.act(seen, explore=True)
        assert action.dtype == np.int64
        assert action.shape == ((20_000, 2) if kind == "branching" else (20_000,))
        counts = np.bincount(index_of(action, PLAIN), minlength=15)
        assert len(counts) == 15
        assert np.abs(counts - 20_000 / 15).max() < 5 * math.sqrt(20_000 / 15 * 14 / 15)
        assert not np.array_equal(agent.act(seen, explore=True), action)
        agent.observe(transitions(PLAIN, kind, 1))  # the 64th
        np.testing.assert_array_equal(agent.act(seen, explore=True), agent.act(seen, explore=False))

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["zero", "branching"])
    def test_each_environment_has_its_own_epsilon(self, kind: str) -> None:
        """Epsilons are a geometric sequence, 0.02, 0.1, 0.5: frequencies are within five standard deviations."""
        agent = filled(ARM, kind, settings_of(kind, min_epsilon=0.02, max_epsilon=0.5))
        seen, rounds = observation(ARM, 3), 4000
        calm = index_of(agent.act(seen, explore=False), ARM)
        actions = np.stack([index_of(agent.act(seen, explore=True), ARM) for _ in range(rounds)])
        for index, epsilon in enumerate((0.02, 0.1, 0.5)):
            fraction = epsilon * 41 / 42  # a random action may be the best one
            spread = 5 * math.sqrt(fraction * (1 - fraction) / rounds)
            assert (actions[:, index] != calm[index]).mean() == pytest.approx(fraction, abs=spread)
        # The random ones are uniform over the other 41, and each environment draws its own.
        counts = np.delete(np.bincount(actions[:, 2], minlength=42), calm[2])
        assert np.abs(counts - rounds * 0.5 / 42).max() < 5 * math.sqrt(rounds * 0.5 / 42)
        both = (actions[:, 1] != calm[1]) & (actions[:, 2] != calm[2])
        assert both.mean() == pytest.approx(0.05, abs=0.02)

    @pytest.mark.slow
    @pytest.mark.parametrize(("num_envs", "epsilons"), [(1, (0.1,)), (2, (0.02, 0.5))], ids=["one", "two"])
    @pytest.mark.parametrize("kind", ["zero", "branching"])
    def test_epsilon_of_one_and_of_two_environments(
        self, kind: str, num_envs: int, epsilons: tuple[float, ...]
    ) -> None:
        """One environment uses the geometric mean of the epsilons, two use both ends."""
        agent = filled(ARM, kind, settings_of(kind, min_epsilon=0.02, max_epsilon=0.5))
        seen, rounds = observation(ARM, num_envs), 4000
        calm = index_of(agent.act(seen, explore=False), ARM)
        actions = np.stack([index_of(agent.act(seen, explore=True), ARM) for _ in range(rounds)])
        for index, epsilon in enumerate(epsilons):
            fraction = epsilon * 41 / 42  # a random action may be the best one
            spread = 5 * math.sqrt(fraction * (1 - fraction) / rounds)
            assert (actions[:, index] != calm[index]).mean() == pytest.approx(fraction, abs=spread)

    @given(st.sampled_from(KINDS), st.sampled_from([1, 2, 7]), st.booleans(), st.booleans(), st.integers(0, 100))
    def test_actions_are_on_the_grid(self, kind: str, num_envs: int, warm: bool, explore: bool, seed: int) -> None:
        """Actions are int64 indices or positions on the grid, exploring or not."""
        settings = settings_of(kind, min_epsilon=0.5, max_epsilon=1.0)
        agent = filled(ARM, kind, settings, seed=seed) if warm else make(ARM, settings, seed, minus_distance)
        action = agent.act(observation(ARM, num_envs, seed), explore=explore)
        assert action.dtype == np.int64
        assert action.shape == ((num_envs, 2) if kind == "branching" else (num_envs,))
        assert (action >= 0).all()
        assert (action < (np.array([7, 6]) if kind == "branching" else 42)).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_counts_greedy_picks_and_untried_ones(self, kind: str) -> None:
        """Only greedy actions during learning count, as untried until an observed transition contains them."""
        agent = make(ARM, settings_of(kind, min_epsilon=1.0, max_epsilon=1.0), 0, minus_distance)
        seen = observation(ARM, 40)
        assert agent.state_dict()["tried"].tolist() == []
        agent.act(seen, explore=True)
        assert agent.state_dict()["picks"] == [0, 0]  # random, not picked
        calm = index_of(agent.act(seen, explore=False), ARM)

        def do(index: int, count: int) -> None:
            action = np.full(count, index)
            if kind == "branching":
                action = np.stack(np.unravel_index(action, (7, 6)), axis=1)
            agent.observe(replace(transitions(ARM, kind, count), action=action))

        elsewhere = next(index for index in range(42) if index not in calm)
        do(elsewhere, 64)
        assert agent.state_dict()["tried"].tolist() == [elsewhere]
        agent.act(seen, explore=True)
        assert agent.state_dict()["picks"] == [40, 40]
        agent.act(seen, explore=False)
        assert agent.state_dict()["picks"] == [40, 40]  # only exploring actions count
        do(int(calm[7]), 1)
        assert agent.state_dict()["tried"].tolist() == sorted([elsewhere, calm[7]])
        agent.act(seen, explore=True)
        assert agent.state_dict()["picks"] == [80, 40 + int((calm != calm[7]).sum())]
        do(elsewhere, 300)  # more than the replay remembers
        assert agent.state_dict()["tried"].tolist() == sorted([elsewhere, calm[7]])

    @pytest.mark.parametrize("kind", KINDS)
    def test_metrics_report_coverage_and_untried_picks(self, kind: str) -> None:
        """`coverage` is the fraction of learned actions, `untried_picks` that of picks never tried."""
        agent = make(ARM, settings_of(kind, min_epsilon=1.0, max_epsilon=1.0), 0, minus_distance)
        agent.observe(transitions(ARM, kind, 64))
        learned: set[int] = set()
        for _ in range(4):
            action = frozen(agent, ARM, settings_of(kind))["action"].long()
            learned |= set(index_of(action, ARM).tolist())
            metrics = agent.update(0.0)
            assert metrics["coverage"] == pytest.approx(len(learned) / 42)
            assert metrics["untried_picks"] == 0.0  # of none
        assert 10 < len(learned) < 42
        agent.act(observation(ARM, 40), explore=True)
        picks, untried = agent.state_dict()["picks"]
        assert picks == 40
        assert agent.update(0.0)["untried_picks"] == untried / 40

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_diverged_agent_raises_an_error(self, kind: str) -> None:
        """With a NaN weight, `act` and `update` raise an error that states that the training has diverged."""
        agent = filled(ARM, kind, settings_of(kind))
        agent._policy.trunk.net[2].bias.data[0] = math.nan  # type: ignore[union-attr, operator]
        with pytest.raises(ValueError, match="NaN"):
            agent.act(observation(ARM, 3), explore=False)
        with pytest.raises(ValueError, match="NaN"):
            agent.update(0.0)


def train(agent: DQN, kind: str, steps: range, *, greedy: bool = False) -> list[dict[str, float]]:
    """Act, observe and update as a training does, with greedy actions in between if `greedy`; returns the metrics."""
    metrics = []
    for step in steps:
        done = transitions(ARM, kind, 20, seed=step)
        if greedy:
            agent.act(observation(ARM, 1 + step, seed=step), explore=False)
        action = agent.act(done.observation, explore=True)
        agent.observe(replace(done, action=action))
        if greedy:
            agent.act(done.observation, explore=False)
        metrics.append(agent.update(step / 100))
    return metrics


class TestReproducibility:
    """Seeds, generators and states."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_nothing_is_learned_before_learning_starts(self, kind: str) -> None:
        """With one transition less than `learning_starts`, `update` returns nothing and changes nothing."""
        agent = make(ARM, settings_of(kind), 0, minus_distance)
        agent.observe(transitions(ARM, kind, 63))
        before = copy.deepcopy(agent.state_dict())
        assert agent.update(0.0) == {}
        assert_equal(agent.state_dict(), before)
        agent.observe(transitions(ARM, kind, 1))
        assert set(agent.update(0.0)) == {
            "loss",
            "q",
            "learning_rate",
            "coverage",
            "untried_picks",
            "updates",
        }

    def test_the_normaliser_is_fitted_once(self) -> None:
        """Mean and std are those of the transitions before learning starts, and later ones do not change them."""
        agent = make(ARM, settings_of("zero"), 0, minus_distance)
        first = transitions(ARM, "zero", 100)
        agent.observe(first)
        agent.update(0.0)
        raw = ByHand.raw(*tensors(first.observation))
        normalizer = copy.deepcopy(agent._policy.encoder.normalizer)
        torch.testing.assert_close(normalizer.mean, raw.mean(0))
        torch.testing.assert_close(normalizer.std, raw.std(0, correction=0))
        agent.observe(transitions(ARM, "zero", 100, seed=1))
        agent.update(0.0)
        assert_equal(agent._policy.encoder.normalizer.state_dict(), normalizer.state_dict())

    @pytest.mark.parametrize("kind", KINDS)
    def test_agents_are_determined_by_the_seed(self, kind: str) -> None:
        """Equal seeds give equal states and actions, others different ones."""
        first, second, other = (make(ARM, settings_of(kind), seed, minus_distance) for seed in (7, 7, 8))
        assert_equal(first.state_dict(), second.state_dict())
        trunks = [agent.state_dict()["trunk"]["net.0.weight"] for agent in (first, other)]
        assert not torch.equal(trunks[0], trunks[1])
        if kind != "zero":
            seen = torch.randn(5, 18 if kind == "branching" else 16, generator=torch.Generator().manual_seed(0))
            assert torch.equal(first._head.maximum(seen), second._head.maximum(seen))
            assert not torch.equal(first._head.maximum(seen), other._head.maximum(seen))
        seen = observation(ARM, 40)
        np.testing.assert_array_equal(action := first.act(seen, explore=True), second.act(seen, explore=True))
        assert (action != other.act(seen, explore=True)).any()

    @pytest.mark.parametrize("kind", KINDS)
    def test_torchs_global_generator_is_not_used(self, kind: str) -> None:
        """Making an agent does not advance PyTorch's global generator."""
        torch.manual_seed(1)
        wanted = torch.rand(3)
        torch.manual_seed(1)
        make(ARM, settings_of(kind), 0, minus_distance)
        assert torch.equal(torch.rand(3), wanted)

    @pytest.mark.parametrize("kind", KINDS)
    def test_greedy_actions_do_not_change_the_state(self, kind: str) -> None:
        """Greedy actions leave the whole state, generator included, before and after learning starts."""
        agent = make(ARM, settings_of(kind), 0, minus_distance)
        for step in range(6):  # learning starts with step 4
            before = copy.deepcopy(agent.state_dict())
            for num_envs in (1, 20):
                agent.act(observation(ARM, num_envs), explore=False)
            assert agent.state_dict()["generator"] == before["generator"]
            assert_equal(agent.state_dict(), before)
            train(agent, kind, range(step, step + 1))
            assert agent.state_dict()["generator"] != before["generator"]

    @pytest.mark.parametrize("kind", KINDS)
    def test_greedy_actions_do_not_affect_training(self, kind: str) -> None:
        """A training with greedy actions in between equals one without, bit for bit."""
        settings = settings_of(kind, target_period=3, relabel_near=0.3, relabel_other=0.3)
        watched, alone = (make(ARM, settings, 3, minus_distance) for _ in range(2))
        assert train(watched, kind, range(12), greedy=True) == train(alone, kind, range(12))
        assert_equal(watched.state_dict(), alone.state_dict())
        for mine, other in zip(copies(watched), copies(alone), strict=True):
            assert_equal(mine, other)
        seen = observation(ARM, 40)
        np.testing.assert_array_equal(watched.act(seen, explore=True), alone.act(seen, explore=True))

    @pytest.mark.parametrize("steps", [9, 10, 3], ids=["within a period", "after one", "before learning"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_continues_from_its_state_exactly(self, kind: str, steps: int) -> None:
        """Stopped before learning, within a target period or after one, it continues bit for bit."""
        settings = settings_of(
            kind, target_period=7, relabel_near=0.3, relabel_other=0.3
        )  # learning starts with step 4
        whole, first, second = (make(ARM, settings, seed, minus_distance) for seed in (3, 3, 99))
        wanted = train(whole, kind, range(2 * steps))
        got = train(first, kind, range(steps))
        train(second, kind, range(50, 57))  # which must leave no trace
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        assert_equal(second.state_dict(), first.state_dict())
        got += train(second, kind, range(steps, 2 * steps))
        assert got == wanted
        assert_equal(second.state_dict(), whole.state_dict())
        for mine, other in zip(copies(second), copies(whole), strict=True):
            assert_equal(mine, other)
        seen = observation(ARM, 30)
        np.testing.assert_array_equal(second.act(seen, explore=True), whole.act(seen, explore=True))
        assert torch.equal(second.policy()(*tensors(seen)), whole.policy()(*tensors(seen)))
        assert whole.state_dict()["updates"] == max(0, 2 * steps - 3)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_copied_state_is_independent(self, kind: str) -> None:
        """Later updates do not modify a copied state, nor does an agent that loaded it."""
        agent = filled(ARM, kind, settings_of(kind, target_period=2))
        agent.update(0.0)
        state = copy.deepcopy(agent.state_dict())
        kept = copy.deepcopy(state)
        copied = make(ARM, settings_of(kind, target_period=2), 1, minus_distance)
        copied.load_state_dict(state)
        for _ in range(3):
            agent.update(0.0)
        assert_equal(state, kept)

    @pytest.mark.parametrize("kind", KINDS)
    def test_load_networks_takes_networks_only(self, kind: str) -> None:
        """Networks, targets and normaliser are taken over, everything else stays the agent's own, and it learns on."""
        settings = settings_of(kind)
        teacher, pupil = filled(ARM, kind, settings, seed=1), make(ARM, settings, 2, minus_distance)
        teacher.update(0.0)
        before, state = copy.deepcopy(pupil.state_dict()), copy.deepcopy(teacher.state_dict())
        pupil.load_networks(state)
        seen, after = observation(ARM, 50), copy.deepcopy(pupil.state_dict())
        names = ("encoder", "trunk", "head", "target_trunk", "target_head", "normalizer_fitted")
        for name in names:
            assert_equal(after[name], state[name])
        assert after.keys() == before.keys()
        for name in before.keys() - set(names):
            assert_equal(after[name], before[name])
        for mine, other in zip(copies(pupil), copies(teacher), strict=True):
            assert_equal(mine, other)
        np.testing.assert_array_equal(pupil.act(seen, explore=False), teacher.act(seen, explore=False))
        # It continues to learn from there, with the loaded normalisation.
        pupil.observe(transitions(ARM, kind, 64, seed=8))
        assert pupil.update(0.0)["updates"] == 1
        assert_equal(pupil.state_dict()["encoder"], state["encoder"])

    @pytest.mark.parametrize(("kind", "other"), [("zero", "features"), ("features", "random"), ("branching", "zero")])
    def test_rejects_networks_of_another_head(self, kind: str, other: str) -> None:
        """Networks of an agent with another head raise RuntimeError."""
        state = make(ARM, settings_of(other), 0, minus_distance).state_dict()
        with pytest.raises(RuntimeError):
            make(ARM, settings_of(kind), 0, minus_distance).load_networks(state)

    @pytest.mark.parametrize("shape", [(3, 5), (5, 2), (3, 3), (15,)], ids=str)
    @pytest.mark.parametrize("kind", KINDS)
    def test_rejects_states_of_another_grid(self, kind: str, shape: tuple[int, ...]) -> None:
        """A state of another grid raises RuntimeError and changes nothing, even if all sizes fit."""
        other = Spec(5, 2, (-2.0, 0.0)[: len(shape)], (6.0, 1.0)[: len(shape)], grid_shape=shape)
        trained = filled(PLAIN, kind, settings_of(kind))
        trained.update(0.0)
        state = copy.deepcopy(trained.state_dict())
        assert state["grid"] == [5, 3]
        agent = make(other, settings_of(kind), 1, minus_distance)
        before = copy.deepcopy(agent.state_dict())
        assert before["grid"] == list(shape)
        for load in (agent.load_networks, agent.load_state_dict):
            with pytest.raises(RuntimeError, match=r"expected a grid of .* positions, got \[5, 3\]"):
                load(state)
            assert_equal(agent.state_dict(), before)
        same = make(PLAIN, settings_of(kind), 1, minus_distance)
        same.load_networks(state)
        same.load_state_dict(state)
        assert_equal(same.state_dict(), trained.state_dict())


def minus_square(achieved_goal: FloatArray, desired_goal: FloatArray, info: Any) -> Any:
    return -np.square(achieved_goal - desired_goal).sum(-1)


class TestLearning:
    """A task that the agent must solve."""

    @pytest.mark.slow
    @pytest.mark.parametrize("double_q", [True, False], ids=["double", "plain-q"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_nearest_action_is_learned(self, kind: str, double_q: bool) -> None:
        """One step, reward -(action - goal)^2, 5 x 5 actions: over 98 % are nearest to the goal (by chance 4 %)."""
        spec, generator = Spec(1, 2, (-1.0, -1.0), (1.0, 1.0), grid_shape=(5, 5)), np.random.default_rng(0)
        settings = settings_of(
            kind,
            hidden_units=32,
            learning_rate=1e-2,
            batch_size=64,
            learning_starts=200,
            buffer_size=10_000,
            target_period=50,
            relabel_near=0.4,
            relabel_other=0.4,
            min_epsilon=0.01,
            double_q=double_q,
        )
        agent = make(spec, settings, 0, minus_square)

        def draw(count: int) -> tuple[Any, Observation]:
            """Random actions, and goals to which they are the nearest ones."""
            best = generator.integers(5, size=(count, 2))
            goal = (best * 0.5 - 1.0 + generator.uniform(-0.12, 0.12, (count, 2))).astype(np.float32)
            return best, see(goal, np.zeros_like(goal))

        def see(goal: FloatArray, achieved: FloatArray) -> Observation:
            return {
                "observation": np.zeros((len(goal), 1), np.float32),
                "achieved_goal": achieved,
                "desired_goal": goal,
            }

        def value(action: Any) -> FloatArray:
            positions = action if action.ndim == 2 else np.stack(np.unravel_index(action, (5, 5)), axis=1)
            return (positions * 0.5 - 1.0).astype(np.float32)

        for step in range(500):
            _, seen = draw(8)
            action = agent.act(seen, explore=True)
            reward, goal = minus_square(value(action), seen["desired_goal"], None), seen["desired_goal"]
            agent.observe(
                Transition(seen, action, reward, see(goal, value(action)), np.ones(8, bool), np.ones(8, bool))
            )
            agent.update(step / 500)
        best, seen = draw(1000)
        right = (value(agent.act(seen, explore=False)) == value(best)).all(1)
        assert right.mean() > 0.98  # by chance, one in 25


class TestSettings:
    """Validation of settings."""

    @pytest.mark.parametrize("kind", [QLearningSettings, DQNSettings, BranchingDQNSettings])
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
                "action_repeat",
                "target_period",
                "min_epsilon",
                "max_epsilon",
                "relabel_distance",
            )
            for bad in (0, -1, math.nan, math.inf)
        ]
        + [
            ({name: bad}, name.replace("_", "-"))
            for name in ("discount", "min_epsilon", "max_epsilon", "relabel_near", "relabel_other")
            for bad in (-0.01, 1.01, math.nan)
        ]
        + [({"fourier_octaves": bad}, "fourier-octaves") for bad in (-1, 11, math.nan)]
        + [
            ({"relabel_near": 0.6, "relabel_other": 0.5}, "relabel-near and relabel-other"),
            ({"batch_size": 64, "learning_starts": 63}, "learning-starts"),
            ({"learning_starts": -1}, "learning-starts"),
            ({"learning_starts": 500, "buffer_size": 499}, "learning-starts"),
            ({"batch_size": 3000}, "learning-starts"),
        ],
        ids=str,
    )
    def test_rejects_invalid_settings_by_name(self, kind: Any, values: dict[str, Any], named: str) -> None:
        """Values out of range and inconsistent sizes raise an error that begins with the flag's name."""
        with pytest.raises(ValueError, match=f"{named}: expected"):
            kind(**values)

    def test_settings_at_their_bounds_are_accepted(self) -> None:
        """Bounds of ranges and a batch as large as the buffer are accepted."""
        for kind in (DQNSettings, BranchingDQNSettings):
            kind(discount=0, min_epsilon=1, max_epsilon=1, relabel_near=1, relabel_other=0, fourier_octaves=0)
            kind(batch_size=5, learning_starts=5, buffer_size=5, target_period=1, action_repeat=1)


class TestRelabelling:
    """Goals near the tip are drawn around the point that an action leads to."""

    @pytest.mark.parametrize("kind", ["zero", "branching"])
    def test_goals_lie_around_the_point_that_the_action_leads_to(
        self, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With known kinematics, relabelled goals are within relabel_distance of the action's own point."""

        def kinematics(observation: Tensor, action: Tensor) -> Tensor:
            return action + observation[:, 1:3]

        spec = replace(ARM, kinematics=kinematics)
        agent = filled(spec, kind, settings_of(kind, relabel_near=1.0))
        drawn: list[dict[str, Tensor]] = []

        def sampled(*arguments: Any, **options: Any) -> dict[str, Tensor]:
            drawn.append(sample_relabelled(*arguments, **options))
            return drawn[-1]

        monkeypatch.setattr(dqn, "sample_relabelled", sampled)
        agent.update(0.0)
        [batch] = drawn
        # Grid positions in degrees: 7 from 0 to 90, 6 from 10 to 60.
        degrees = torch.tensor([0.0, 10.0]) + batch["action"] * torch.tensor([15.0, 10.0])
        distances = torch.linalg.vector_norm(batch["desired_goal"] - kinematics(batch["observation"], degrees), dim=1)
        assert float(distances.min()) > 0.0005
        assert float(distances.max()) < 0.1001
        assert batch["action"].unique(dim=0).shape[0] > 10
