"""Stochastic policies: std, steps and bounds of Gaussian ones, and softmax policies against an enumeration."""

import copy
import gc
import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from policies.a2c.settings import A2CSettings
from policies.agent import Spec
from policies.common.action_grid import ActionGrid
from policies.common.actors import GaussianPolicy, SoftmaxPolicy, bounded
from policies.common.branching_head import RAMPS
from policies.common.distributions import ClippedGaussian, Gaussian, SquashedGaussian
from policies.common.networks import shrink_last_layer
from policies.common.settings import PolicyGradientSettings

DEGREES = 180.0 / math.pi
ARM = Spec(
    5,
    2,
    (0.0, 10.0),
    (90.0, 60.0),
    measured_columns=(1, 2),
    measured_unit=DEGREES,
    max_step=(36.0, 15.0),
    grid_shape=(7, 6),
)
PLAIN = Spec(5, 2, (-2.0, 0.0), (6.0, 1.0), grid_shape=(5, 3))
SPECS = {"arm": ARM, "plain": PLAIN}
KINDS = {"gaussian": Gaussian, "squashed": SquashedGaussian, "clipped": ClippedGaussian}
STD_KINDS = ["fixed", "learned", "state"]
NAN, INFINITY = math.nan, math.inf


def gaussian(spec: Spec, seed: int = 0, **changed: Any) -> GaussianPolicy:
    settings = PolicyGradientSettings(**({"hidden_units": 16} | changed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GaussianPolicy(spec, settings)


def softmax(spec: Spec, seed: int = 0, *, size: float = 30.0) -> SoftmaxPolicy:
    """A softmax policy with enlarged last layers, so that actions differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = SoftmaxPolicy(spec, PolicyGradientSettings(policy="softmax", hidden_units=16))
    with torch.no_grad():
        policy.head.table.weight.mul_(size)
        policy.head.gains.weight.mul_(size)
    return policy


def seen(spec: Spec, rows: int, seed: int = 0, size: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Random observation, achieved and desired goal."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (spec.observation_size, spec.goal_size, spec.goal_size)
    first, second, third = (size * torch.randn(rows, width, generator=generator) for width in sizes)
    return first, second, third


def measured(*angles: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Observations of `ARM` at these angles (degrees)."""
    first, second, third = seen(ARM, len(angles))
    first[:, 1:3] = torch.tensor(angles) / DEGREES
    return first, second, third


def drawn(policy: Any, observed: tuple[Tensor, ...]) -> Any:
    with torch.no_grad():
        return policy.distribution(policy.encoder(*observed), observed[0])


def constant(layer: Any, *bias: float) -> None:
    """Make a layer's output constant."""
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor(bias))


class TestRandomExploration:
    """Exploration before learning starts."""

    @pytest.mark.parametrize("policy", KINDS)
    def test_it_is_standard_normal(self, policy: str) -> None:
        """Steps are drawn with mean 0 and std 1, whatever is observed."""
        actor = gaussian(ARM, policy=policy, std="fixed", initial_std=0.1)
        constant(actor.net[-1], 5.0, 5.0)
        observed = seen(ARM, 4)
        wide = actor.uniform(actor.encoder(*observed), observed[0])
        assert type(wide) is KINDS[policy]
        assert torch.equal(wide.mean, torch.zeros(4, 2))
        assert torch.equal(wide.std, torch.ones(4, 2))


class TestGaussianPolicy:
    """Gaussian policies: std, steps and bounds."""

    @pytest.mark.parametrize("policy", KINDS)
    @pytest.mark.parametrize("kind", STD_KINDS)
    @pytest.mark.parametrize("initial_std", [0.01, 0.3, 2.0])
    def test_a_new_policy_has_the_initial_std_and_small_steps(self, policy: str, kind: str, initial_std: float) -> None:
        """A new policy's std is `initial_std` (20 % for a network's) and its mean steps are below 0.15."""
        first = drawn(gaussian(ARM, policy=policy, std=kind, initial_std=initial_std), seen(ARM, 50))
        assert type(first) is KINDS[policy]
        assert first.mean.shape == first.std.shape == (50, 2)
        assert 0 < first.mean.abs().max() < 0.15
        close = 0.2 if kind == "state" else 1e-6  # the network's own part is small, not zero
        torch.testing.assert_close(first.std, torch.full((50, 2), initial_std), rtol=close, atol=0)

    @pytest.mark.parametrize("kind", STD_KINDS)
    def test_which_std_is_trained_and_which_depends_on_the_state(self, kind: str) -> None:
        """A fixed std has no gradient, a learned one has, and only a state-dependent one varies over observations."""
        policy = gaussian(ARM, std=kind)
        names = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
        assert names == {name for name, _ in policy.net.named_parameters(prefix="net")} | (
            set() if kind == "fixed" else {"log_std"}
        )
        observed = seen(ARM, 20)
        std = drawn(policy, observed).std
        assert (std == std[0]).all().item() == (kind != "state")
        log_prob: Any = policy.distribution(policy.encoder(*observed), observed[0]).log_prob(torch.ones(20, 2))
        log_prob.sum().backward()
        last, gradient = policy.net[-1], policy.log_std.grad
        assert isinstance(last, nn.Linear)
        assert last.weight.grad is not None
        assert len(last.weight.grad) == (4 if kind == "state" else 2)
        assert (last.weight.grad.abs().sum(1) > 0).all()
        assert (gradient is None) == (kind == "fixed")
        assert gradient is None or (gradient != 0).all()

    @pytest.mark.parametrize("kind", STD_KINDS)
    def test_std_is_bounded(self, kind: str) -> None:
        """The std stays between 0.01 and 2.0, whatever its parameters are."""
        policy = gaussian(ARM, std=kind)
        observed = seen(ARM, 5)
        for far, wanted in ((-20.0, 0.01), (20.0, 2.0)):
            policy.log_std.data.fill_(far)
            torch.testing.assert_close(drawn(policy, observed).std, torch.full((5, 2), wanted))
        if kind == "state":
            policy.log_std.data.zero_()
            constant(policy.net[-1], 0.0, 0.0, -50.0, 50.0)
            torch.testing.assert_close(drawn(policy, observed).std, torch.tensor([[0.01, 2.0]] * 5))
            constant(policy.net[-1], 0.3, -0.7, math.log(0.5), math.log(1.5))
            torch.testing.assert_close(drawn(policy, observed).std, torch.tensor([[0.5, 1.5]] * 5))
            torch.testing.assert_close(drawn(policy, observed).mean, torch.tensor([[0.3, -0.7]] * 5))

    @pytest.mark.parametrize(
        ("policy", "step"),
        [("gaussian", (0.5, -1.5)), ("squashed", (math.tanh(0.5), math.tanh(-1.5))), ("clipped", (0.5, -1.0))],
    )
    @pytest.mark.parametrize("kind", STD_KINDS)
    def test_actions_are_measured_angles_plus_steps_within_the_bounds(
        self, policy: str, step: tuple[float, float], kind: str
    ) -> None:
        """Action = angle + max_step x step, clipped to the bounds; without a measured angle, from the middle."""
        actor = gaussian(ARM, policy=policy, std=kind)
        constant(actor.net[-1], 0.5, -1.5, *((0.1, 0.2) if kind == "state" else ()))
        angles = [(45.0, 40.0), (10.0, 59.0), (80.0, 12.0), (95.0, 5.0)]
        wanted = [
            [min(max(first + 36.0 * step[0], 0.0), 90.0), min(max(second + 15.0 * step[1], 10.0), 60.0)]
            for first, second in angles
        ]
        assert wanted[0] == [45.0 + 36.0 * step[0], 40.0 + 15.0 * step[1]]
        assert wanted[2] == [90.0, 10.0]
        with torch.no_grad():
            torch.testing.assert_close(actor(*measured(*angles)), torch.tensor(wanted), rtol=0, atol=1e-4)
        # Where nothing is measured, from the middle and by half the range.
        actor = gaussian(PLAIN, policy=policy, std=kind)
        constant(actor.net[-1], 0.5, -1.5, *((0.1, 0.2) if kind == "state" else ()))
        wanted = [[2.0 + 4.0 * step[0], max(0.5 + 0.5 * step[1], 0.0)]] * 3
        with torch.no_grad():
            torch.testing.assert_close(actor(*seen(PLAIN, 3)), torch.tensor(wanted), rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("policy", "step"),
        [("gaussian", (0.5, -1.5)), ("squashed", (math.tanh(0.5), math.tanh(-1.5))), ("clipped", (0.5, -1.0))],
    )
    @pytest.mark.parametrize("size", [1.0, 0.5])
    def test_steps_slow_down_near_the_goal(self, policy: str, step: tuple[float, float], size: float) -> None:
        """target = previous + g (angle + step - previous), with g = (distance - rest distance) / slowing distance."""
        spec = replace(ARM, target_columns=(3, 4), rest_distance=0.002, size=size).with_step_scaling(0.5, 0.04)
        actor = gaussian(spec, policy=policy, std="fixed")
        constant(actor.net[-1], 0.5, -1.5)
        observation, tip, goal = measured((45.0, 40.0), (45.0, 40.0), (45.0, 40.0), (10.0, 59.0))
        targets = [(50.0, 30.0), (50.0, 30.0), (50.0, 30.0), (0.0, 60.0)]
        observation[:, 3:] = torch.tensor(targets) / DEGREES
        fractions = [0.0, 0.25, 1.0, 0.75]
        distances = [fraction * 0.04 * size + 0.002 for fraction in fractions]
        goal = tip + torch.tensor([[0.6 * distance, -0.8 * distance] for distance in distances])
        # Half of the largest steps of 36 and 15 degrees.
        wanted = [
            [
                target[0] + fraction * (angle[0] + 18.0 * step[0] - target[0]),
                target[1] + fraction * (angle[1] + 7.5 * step[1] - target[1]),
            ]
            for target, fraction, angle in zip(targets, fractions, [(45.0, 40.0)] * 3 + [(10.0, 59.0)], strict=True)
        ]
        with torch.no_grad():
            torch.testing.assert_close(actor(observation, tip, goal), torch.tensor(wanted), rtol=0, atol=2e-3)

    @given(
        st.sampled_from(sorted(SPECS)),
        st.sampled_from(sorted(KINDS)),
        st.sampled_from(STD_KINDS),
        st.sampled_from([0.1, 1.0, 100.0, 1e6]),
        st.integers(0, 1000),
    )
    def test_the_policys_action_is_the_mode_and_all_actions_are_within_bounds(
        self, name: str, policy: str, kind: str, size: float, seed: int
    ) -> None:
        """The deterministic action is that of the distribution's mode, and no sample leaves the bounds."""
        spec = SPECS[name]
        actor = gaussian(spec, seed, policy=policy, std=kind, initial_std=2.0)
        actor.net[-1].weight.data.mul_(size)  # type: ignore[operator]
        observed = seen(spec, 20, seed, size)
        likely = drawn(actor, observed)
        with torch.no_grad():
            greedy = actor(*observed)
            assert torch.equal(greedy, actor.action(likely.action(likely.mean), *observed))
            for choice in (likely.mean, likely.mean + 3 * likely.std, likely.mean - 1e3 * likely.std):
                action = actor.action(likely.action(choice), *observed)
                assert (action >= torch.tensor(spec.action_low)).all()
                assert (action <= torch.tensor(spec.action_high)).all()

    @pytest.mark.parametrize("kind", STD_KINDS)
    def test_leading_axes_do_not_affect_distributions(self, kind: str) -> None:
        """Batches of shape (3, 2) give the distributions of the same six rows."""
        policy = gaussian(ARM, std=kind)
        observed = seen(ARM, 6)
        whole, parts = drawn(policy, observed), drawn(policy, tuple(column.view(3, 2, -1) for column in observed))
        assert parts.mean.shape == parts.std.shape == (3, 2, 2)
        for together, apart in ((whole.mean, parts.mean), (whole.std, parts.std)):
            torch.testing.assert_close(apart.reshape(6, 2), together)

    @pytest.mark.parametrize("kind", STD_KINDS)
    def test_the_state_dict_holds_the_std(self, kind: str) -> None:
        """A policy restored from a state dict has the same std and actions."""
        first, second = gaussian(ARM, 1, std=kind), gaussian(ARM, 2, std=kind, initial_std=1.0)
        first.encoder.fit(*(column.numpy() for column in seen(ARM, 30, seed=5)))
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        observed = seen(ARM, 7)
        assert torch.equal(drawn(second, observed).std, drawn(first, observed).std)
        assert torch.equal(second(*observed), first(*observed))


class TestSample:
    """Actions drawn from a policy as a controller."""

    @pytest.mark.parametrize("policy", KINDS)
    def test_gaussian_actions_are_the_distribution_s(self, policy: str) -> None:
        """The action of mean + std * noise, with the noise of the same generator."""
        actor = gaussian(ARM, policy=policy)
        observed = seen(ARM, 4)
        with torch.no_grad():
            actions = actor.sample(np.random.default_rng(1), *observed)
            distribution = drawn(actor, observed)
            noise = torch.from_numpy(np.random.default_rng(1).standard_normal((4, 2), np.float32))
            step = distribution.action(distribution.mean + distribution.std * noise)
            expected = actor.action(step, *observed)
            assert torch.equal(actions, expected)
            assert not torch.equal(actions, actor(*observed))

    def test_softmax_actions_have_the_softmax_s_frequencies(self) -> None:
        """Of 20,000 draws in one state, within five standard errors; the values are on the grid."""
        actor = softmax(PLAIN, size=100.0)
        rows = 20_000
        observed = [column.expand(rows, -1) for column in seen(PLAIN, 1)]
        with torch.no_grad():
            actions = actor.sample(np.random.default_rng(0), *observed)
            logits = actor.distribution(actor.encoder(*observed), observed[0]).logits
        assert actor.grid.contains(actions).all()
        positions = actor.grid.positions_of(actions)
        for joint, joint_logits in enumerate(logits):
            p = torch.softmax(joint_logits[0], -1)
            frequency = torch.bincount(positions[:, joint], minlength=len(p)) / rows
            assert p.max() < 0.95
            assert ((frequency - p).abs() < 5.0 * (p * (1 - p) / rows).sqrt() + 1e-6).all()

    @pytest.mark.parametrize("policy", ["squashed", "softmax"])
    def test_a_recurrent_policy_also_returns_its_next_state(self, policy: str) -> None:
        """It is the one that the deterministic policy returns."""
        settings = A2CSettings(policy=policy, recurrent=True, hidden_units=16)  # type: ignore[arg-type]
        actor = SoftmaxPolicy(ARM, settings) if policy == "softmax" else GaussianPolicy(ARM, settings)
        observed = seen(ARM, 3)
        recurrent_state = torch.ones(3, 32)
        with torch.no_grad():
            _, following = actor.sample(np.random.default_rng(0), *observed, recurrent_state)
            _, expected = actor(*observed, recurrent_state)
        assert torch.equal(following, expected)


class TestStartSmall:
    """Initialisation of last layers."""

    @pytest.mark.parametrize("whole", [False, True])
    def test_it_scales_the_last_layer_only(self, whole: bool) -> None:
        """The last layer's weights are divided by ten and its bias is zero; other layers are unchanged."""
        first, last = nn.Linear(3, 4), nn.Linear(4, 2)
        before = copy.deepcopy((first, last))
        shrink_last_layer(nn.Sequential(first, last) if whole else last)
        torch.testing.assert_close(last.weight, 0.1 * before[1].weight)
        assert (last.bias == 0).all()
        assert torch.equal(first.weight, before[0].weight)
        assert torch.equal(first.bias, before[0].bias)


def every_action(spec: Spec) -> tuple[Tensor, Tensor]:
    """Positions and values of all actions, (all actions, joints) each, from nested loops."""
    assert spec.grid_shape is not None
    positions = list(itertools.product(*map(range, spec.grid_shape)))
    values = [
        [
            low + (high - low) * place / (count - 1)
            for low, high, place, count in zip(spec.action_low, spec.action_high, action, spec.grid_shape, strict=True)
        ]
        for action in positions
    ]
    return torch.tensor(positions), torch.tensor(values)


def sums_of_logits(spec: Spec, policy: SoftmaxPolicy, observed: tuple[Tensor, ...]) -> Tensor:
    """Sums of logits (batch, all actions), in the order of `every_action`."""
    logits = drawn(policy, observed).logits
    positions = every_action(spec)[0]
    rows = [
        [sum(part[row, at].item() for part, at in zip(logits, action, strict=True)) for action in positions.tolist()]
        for row in range(len(observed[0]))
    ]
    return torch.tensor(rows)


OFF = [
    (45.0, 15.0),
    (37.5, 20.0),
    (37.5, 15.0),
    (45.0, 20.02),
    (105.0, 20.0),
    (-15.0, 20.0),
    (45.0, 70.0),
    (NAN, 20.0),
    (45.0, NAN),
    (INFINITY, 20.0),
    (45.0, -INFINITY),
]


class TestSoftmaxPolicy:
    """Softmax policies over the action grid, compared with an enumeration of all actions."""

    @pytest.mark.parametrize("name", SPECS)
    @pytest.mark.parametrize("seed", range(3))
    def test_the_policys_action_is_the_most_probable_one(self, name: str, seed: int) -> None:
        """The deterministic action has the largest enumerated probability, and the probabilities add up to 1."""
        spec, policy = SPECS[name], softmax(SPECS[name], seed)
        observed = seen(spec, 20, seed)
        likely = drawn(policy, observed)
        positions, values = every_action(spec)
        log_prob = torch.stack([likely.log_prob(action.expand(20, -1)) for action in positions], 1)
        torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(20))
        best = log_prob.argmax(1)
        assert len(set(best.tolist())) > 2
        with torch.no_grad():
            action = policy(*observed)
        torch.testing.assert_close(action, values[best], rtol=0, atol=1e-5)
        assert policy.grid.contains(action).all()
        assert torch.equal(likely.action(likely.mode()), positions[best])
        assert torch.equal(policy.action(positions, *observed), positions)

    @pytest.mark.parametrize("name", SPECS)
    def test_shortfall_and_margin_equal_an_enumeration(self, name: str) -> None:
        """Shortfall (largest sum of logits less the action's) and margin equal an enumeration to 1e-5."""
        spec, policy, rows = SPECS[name], softmax(SPECS[name], 3), 8
        observed = seen(spec, rows, 1)
        sums, (_, values) = sums_of_logits(spec, policy, observed), every_action(spec)
        with torch.no_grad():
            for index, action in enumerate(values):
                shortfall, largest = policy.suboptimality(action.expand(rows, -1), *observed)
                torch.testing.assert_close(largest, sums.amax(1), rtol=0, atol=1e-5)
                torch.testing.assert_close(shortfall, sums.amax(1) - sums[:, index], rtol=0, atol=1e-5)
                assert (shortfall >= 0).all()
            own, _ = policy.suboptimality(policy(*observed), *observed)
            assert (own == 0).all()
            top, second = sums.sort(1, descending=True).values[:, :2].T
            torch.testing.assert_close(policy.action_gap(*observed), top - second, rtol=0, atol=1e-5)
            assert (policy.action_gap(*observed) > 0).all()

    def test_the_margin_of_equal_actions_is_zero(self) -> None:
        """The margin is half the difference of two outputs (computed by hand), and 0 for equal ones."""
        policy = softmax(PLAIN)
        constant(policy.head.gains, *(0.0,) * 2 * 2 * len(RAMPS))
        constant(policy.head.table, 0.0, 3.0, 1.0, 2.0, 0.0, -1.0, 0.5, -2.0)
        with torch.no_grad():
            assert policy.action_gap(*seen(PLAIN, 2)).tolist() == [0.5, 0.5]  # a logit is half of an output
            policy.head.table.bias[6] = -1.0
            policy.head.table.bias[7] = -1.0
            assert policy.action_gap(*seen(PLAIN, 2)).tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("action", OFF, ids=str)
    def test_actions_off_the_grid_have_a_nan_shortfall(self, action: tuple[float, float]) -> None:
        """Actions off the grid, NaN and infinities give NaN for their own row only."""
        policy, observed = softmax(ARM), seen(ARM, 3)
        batch = torch.tensor([(45.0, 20.0), action, (90.0, 60.0)])
        assert policy.grid.contains(batch).tolist() == [True, False, True]
        with torch.no_grad():
            shortfall, largest = policy.suboptimality(batch, *observed)
        assert shortfall.isnan().tolist() == [False, True, False]
        assert largest.isfinite().all()

    @pytest.mark.parametrize("name", SPECS)
    def test_the_grid_contains_values_within_a_thousandth_of_a_step(self, name: str) -> None:
        """Values 0.0009 steps away are on the grid, 0.0011 steps away are not."""
        grid, (_, values) = ActionGrid(SPECS[name]), every_action(SPECS[name])
        smallest = {"arm": 10.0, "plain": 0.5}[name]
        assert grid.contains(values).all()
        for joint in (0, 1):
            for side in (-1.0, 1.0):
                away = torch.zeros(2)
                away[joint] = side * smallest
                assert grid.contains(values + 0.0009 * away).all()
                assert not grid.contains(values + 0.0011 * away).any()
                assert not grid.contains(values + 0.5 * away).any()

    @pytest.mark.parametrize("name", SPECS)
    def test_logits_depend_on_the_distance_from_the_measured_angle(self, name: str) -> None:
        """With known gains the logits are sums of ramps of the distance, by the formula; the nearest position wins."""
        spec, policy = SPECS[name], softmax(SPECS[name])
        constant(policy.head.table, *(0.0,) * sum(spec.grid_shape or ()))
        constant(policy.head.gains, *([0.0] * len(RAMPS) + [-1.0] * len(RAMPS)) * 2)
        angles = [(45.0, 40.0), (8.0, 57.0), (85.0, 13.0), (31.0, 24.0), (99.0, 3.0)]
        observed = measured(
            *angles
        )  # of the other spec nothing is measured: it is in the middle, and passes half its range
        centres = torch.tensor(angles if name == "arm" else [(2.0, 0.5)] * 5)
        largest = (36.0, 15.0) if name == "arm" else (4.0, 0.5)
        logits = drawn(policy, observed).logits
        for joint, (part, count) in enumerate(zip(logits, spec.grid_shape or (), strict=True)):
            values = torch.linspace(spec.action_low[joint], spec.action_high[joint], count)
            away = (values - centres[:, joint, None]).abs() / largest[joint]
            wanted = -torch.stack([torch.clamp(away / ramp, max=1.0) for ramp in RAMPS]).sum(0) / 2
            torch.testing.assert_close(part, wanted, rtol=0, atol=1e-5)
        with torch.no_grad():
            action = policy(*observed)
        nearest = [(45.0, 40.0), (15.0, 60.0), (90.0, 10.0), (30.0, 20.0), (90.0, 10.0)]
        assert action.tolist() == [list(pair) for pair in (nearest if name == "arm" else [(2.0, 0.5)] * 5)]

    def test_a_new_policy_is_nearly_uniform(self) -> None:
        """Random exploration is exactly uniform, and the logits of a new policy are below 0.3."""
        policy, observed = softmax(ARM, size=1.0), seen(ARM, 4)
        even = policy.uniform(policy.encoder(*observed), observed[0])
        for part, count in zip(even.logits, (7, 6), strict=True):
            assert torch.equal(torch.softmax(part, 1), torch.full((4, count), 1 / count))
        for part in drawn(policy, observed).logits:
            assert 0 < part.abs().max() < 0.3

    def test_a_degree_grid_has_3_x_91_logits_with_gradients(self) -> None:
        """Logits grow with the sum of positions, not with their product, and every parameter gets a gradient."""
        spec = Spec(
            5, 2, (0.0,) * 3, (90.0,) * 3, measured_columns=(0, 1, 2), measured_unit=DEGREES, grid_shape=(91,) * 3
        )
        policy, observed = softmax(spec), seen(spec, 16)
        assert all(parameter.requires_grad for parameter in policy.parameters())
        likely = policy.distribution(policy.encoder(*observed), observed[0])
        assert [part.shape for part in likely.logits] == [(16, 91)] * 3
        action = policy(*observed)
        assert torch.equal(action, action.round())
        assert torch.equal(action, likely.mode().float())
        log_prob: Any = likely.log_prob(likely.mode())
        log_prob.sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())

    def test_the_state_dict_is_complete(self) -> None:
        """A policy restored from a state dict has the same actions and margins."""
        first, second = softmax(ARM, 1), softmax(ARM, 2)
        first.encoder.fit(*(column.numpy() for column in seen(ARM, 30, seed=5)))
        observed = seen(ARM, 20)
        assert not torch.equal(second(*observed), first(*observed))
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        assert torch.equal(second(*observed), first(*observed))
        assert torch.equal(second.action_gap(*observed), first.action_gap(*observed))


class TestBounded:
    """Clipping whose gradient leads back inside the bounds."""

    def test_gradients_at_a_bound_only_lead_inwards(self) -> None:
        """Outside of the bounds, gradients that lead further out are zero, and others pass (computed by hand)."""
        x = torch.tensor([-5.0, -5.0, 0.0, 0.0, 5.0, 5.0], requires_grad=True)
        descent = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])  # x moves against these
        out = bounded(x, -2.0, 2.0)
        torch.testing.assert_close(out.detach(), torch.tensor([-2.0, -2.0, 0.0, 0.0, 2.0, 2.0]))
        (out * descent).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [0.0, -1.0, 1.0, -1.0, 1.0, 0.0]

    def test_it_does_not_leak_tensors(self) -> None:
        """Twenty backward passes leave no tensors behind: the hook does not reference its own tensor."""

        def tensors() -> int:
            gc.collect()
            return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

        x = torch.zeros(3, requires_grad=True)
        bounded(x, -2.0, 2.0).sum().backward()
        before = tensors()
        for _ in range(20):
            bounded(x, -2.0, 2.0).sum().backward()
        assert tensors() <= before + 2
