"""Parts of networks: normaliser, Fourier features, directions, action scaling, slowing and bounds."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from policies.agent import Spec
from policies.common.actors import GaussianPolicy
from policies.common.networks import (
    ActionScaling,
    DeterministicPolicy,
    Encoder,
    direction,
    fourier_features,
    mlp,
)
from policies.common.normalizer import Normalizer
from policies.common.settings import PolicyGradientSettings
from policies.ddpg.critic import Critic

DEGREES = 180.0 / math.pi
ARM = Spec(9, 3, (0.0,) * 3, (90.0,) * 3, measured_columns=(0, 1, 2), measured_unit=DEGREES)
UNEVEN = Spec(4, 2, (-10.0, 5.0), (30.0, 6.0))
SPECS = {"arm": ARM, "uneven": UNEVEN}
# With the targets sent last: steps get smaller within 20 mm, and there are none within 1 mm of the goal.
SLOWING = replace(ARM, target_columns=(6, 7, 8), slowing_distance=0.02, rest_distance=0.001, max_step=(9.0, 18.0, 4.5))
# The same with goals that have a velocity.
MOVING = replace(SLOWING, goal_size=6, goal_point_size=3)


def draw(spec: Spec, rows: int, size: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random observation, achieved and desired goal."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (spec.observation_size, spec.goal_size, spec.goal_size)
    first, second, third = (size * torch.randn(rows, width, generator=generator) for width in sizes)
    return first, second, third


class TestNormalizer:
    """Normalisation of inputs."""

    def test_it_uses_mean_and_population_std_of_each_column(self) -> None:
        """Mean and population std of each column, and a normalised row, computed by hand."""
        normalizer = Normalizer(2)
        normalizer.fit(torch.tensor([[0.0, -1.0], [2.0, -1.0], [4.0, 5.0]]))
        assert normalizer.mean.tolist() == [2.0, 1.0]
        torch.testing.assert_close(normalizer.std, torch.tensor([math.sqrt(8 / 3), math.sqrt(8.0)]))
        wanted = torch.tensor([[(6.0 - 2.0) / math.sqrt(8 / 3), (1.0 + 3.0) / math.sqrt(8.0)]])
        torch.testing.assert_close(normalizer(torch.tensor([[6.0, 5.0]])), wanted)

    def test_a_constant_column_is_only_shifted(self) -> None:
        """A constant column gets std 1, so that it is shifted and not scaled."""
        normalizer = Normalizer(2)
        normalizer.fit(torch.tensor([[7.0, 0.0], [7.0, 1.0]]))
        assert normalizer.mean.tolist() == [7.0, 0.5]
        assert normalizer.std.tolist() == [1.0, 0.5]
        assert normalizer(torch.tensor([[7.0, 0.5], [9.0, 1.0]])).tolist() == [[0.0, 0.0], [2.0, 1.0]]

    def test_an_unfitted_normalizer_is_the_identity(self) -> None:
        """Before `fit`, inputs are returned unchanged."""
        x = torch.tensor([[1.5, -2.0]])
        assert torch.equal(Normalizer(2)(x), x)

    def test_its_statistics_are_in_the_state_dict(self) -> None:
        """A normaliser restored from a state dict normalises as the fitted one."""
        fitted, copy = Normalizer(3), Normalizer(3)
        fitted.fit(torch.arange(12.0).reshape(4, 3) ** 2)
        copy.load_state_dict(fitted.state_dict())
        x = torch.tensor([[1.0, 2.0, 3.0]])
        assert torch.equal(copy(x), fitted(x))
        assert not torch.equal(fitted(x), x)


class TestEncoder:
    """Features of observation, tip and goal."""

    def test_fourier_features_by_hand(self) -> None:
        """The input, and sines and cosines of x/2, x and 2x, computed with the math module."""
        a, b = 0.3, -2.0
        x = torch.tensor([[a, b]], dtype=torch.float64)
        scaled = [a / 2, b / 2, a, b, 2 * a, 2 * b]
        wanted = [a, b, *map(math.sin, scaled), *map(math.cos, scaled)]
        torch.testing.assert_close(fourier_features(x, 3), torch.tensor([wanted], dtype=torch.float64))

    def test_zero_octaves_return_the_input(self) -> None:
        """With zero octaves there are no sines and cosines."""
        x = torch.tensor([[0.3, -2.0]])
        assert torch.equal(fourier_features(x, 0), x)

    @pytest.mark.parametrize("octaves", [0, 1, 4])
    def test_features_are_observation_tip_goal_displacement_and_direction(self, octaves: int) -> None:
        """Features by hand: observation, tip, goal, goal - tip, and its direction (length plus 1e-4)."""
        encoder = Encoder(UNEVEN, octaves)
        observation, tip, goal = (
            torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
            torch.tensor([[5.0, 6.0]]),
            torch.tensor([[8.0, 1.0]]),
        )
        features = encoder(observation, tip, goal)
        assert features.shape == (1, encoder.size)
        assert features[0, :10].tolist() == [1, 2, 3, 4, 5, 6, 8, 1, 3, -5]
        length = math.sqrt(3**2 + 5**2) + 1e-4
        torch.testing.assert_close(features[0, -2:], torch.tensor([3 / length, -5 / length]))

    def test_inputs_are_normalised_before_fourier_features(self) -> None:
        """(16 - 12) / 2 = 2 enters sine and cosine, as computed by hand."""
        encoder = Encoder(Spec(1, 1, (0.0,), (1.0,)), 1)
        encoder.normalizer.fit(torch.tensor([[10.0, 0.0, 0.0, 0.0], [14.0, 0.0, 0.0, 0.0]]))
        features = encoder(torch.tensor([[16.0]]), torch.zeros(1, 1), torch.zeros(1, 1))
        # x, sin(x/2) and cos(x/2) of the four inputs, and the direction of a goal that is reached.
        wanted = [2.0, 0, 0, 0, math.sin(1.0), 0, 0, 0, math.cos(1.0), 1, 1, 1, 0]
        torch.testing.assert_close(features, torch.tensor([wanted]))


class TestActionScaling:
    """Actions in units from -1 to 1."""

    def test_bounds_map_to_minus_one_and_one(self) -> None:
        """Bounds, middle and quarters map as computed by hand, both ways."""
        scaling = ActionScaling(UNEVEN)
        actions = torch.tensor([[-10.0, 5.0], [30.0, 6.0], [10.0, 5.5], [0.0, 5.75]])
        wanted = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [-0.5, 0.5]])
        torch.testing.assert_close(scaling.to_unit(actions), wanted)
        torch.testing.assert_close(scaling.from_unit(wanted), actions)

    @given(st.sampled_from(sorted(SPECS)), st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3))
    def test_to_unit_inverts_from_unit(self, name: str, values: list[float]) -> None:
        """The two maps are inverse to 2e-5."""
        spec = SPECS[name]
        scaling = ActionScaling(spec)
        unit = torch.tensor(values[: len(spec.action_low)])
        torch.testing.assert_close(scaling.to_unit(scaling.from_unit(unit)), unit, rtol=0, atol=2e-5)

    @pytest.mark.parametrize("beyond", [1.0 + 1e-6, 2.0, 1e30, math.inf])
    def test_unit_actions_beyond_one_are_clipped_to_the_bounds(self, beyond: float) -> None:
        """Unit actions beyond 1, infinity included, give the bounds."""
        scaling = ActionScaling(UNEVEN)
        assert scaling.from_unit(torch.tensor([beyond, beyond])).tolist() == [30.0, 6.0]
        assert scaling.from_unit(torch.tensor([-beyond, -beyond])).tolist() == [-10.0, 5.0]

    def test_the_present_value_is_the_measured_angle_in_unit_actions(self) -> None:
        """Measured radians become unit actions (computed by hand), beyond 1 if the angle is."""
        observation = torch.zeros(2, 9)
        observation[:, :3] = torch.tensor([[0.0, 45.0, 90.0], [22.5, 67.5, 99.0]]) / DEGREES
        wanted = torch.tensor([[-1.0, 0.0, 1.0], [-0.5, 0.5, 1.2]])
        torch.testing.assert_close(ActionScaling(ARM).measured(observation), wanted)

    @pytest.mark.parametrize("columns", [(0, 1), (2, 3), (1, 3), (3, 0)])
    def test_the_present_value_is_read_from_the_columns_that_are_named(self, columns: tuple[int, int]) -> None:
        """`measured_columns` selects the columns, in their order."""
        spec = Spec(4, 2, (-1.0, -1.0), (1.0, 1.0), measured_columns=columns)
        present = ActionScaling(spec).measured(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
        torch.testing.assert_close(present, torch.tensor([[0.1 * (column + 1) for column in columns]]))

    def test_without_measured_columns_the_present_value_is_the_middle(self) -> None:
        """Without measured columns, the present value is 0."""
        assert torch.equal(ActionScaling(UNEVEN).measured(torch.ones(5, 4)), torch.zeros(5, 2))


class TestDeterministicPolicy:
    """The policy network."""

    @given(
        st.sampled_from(sorted(SPECS)),
        st.sampled_from([0.0, 0.1, 1.0, 100.0, 1e6]),
        st.integers(0, 1000),
        st.booleans(),
    )
    def test_actions_are_always_within_the_bounds(self, name: str, size: float, seed: int, large_weights: bool) -> None:
        """Actions are within the bounds for any weights and observations."""
        spec = SPECS[name]
        torch.manual_seed(seed)
        policy = DeterministicPolicy(spec, 8, 2)
        if large_weights:
            policy.net[-1].weight.data.mul_(1e4)
        action = policy(*draw(spec, 20, size, seed))
        assert (action >= torch.tensor(spec.action_low)).all()
        assert (action <= torch.tensor(spec.action_high)).all()

    @pytest.mark.parametrize("seed", range(5))
    def test_a_new_policy_stays_close_to_the_present_angles(self, seed: int) -> None:
        """A new policy's actions are within 5 degrees of the measured angles."""
        torch.manual_seed(seed)
        policy = DeterministicPolicy(ARM, 128, 4)
        angles = 90.0 * torch.rand(500, 3)
        observation, tip, goal = draw(ARM, 500, 1.0, seed)
        observation[:, :3] = angles / DEGREES
        policy.encoder.normalizer.fit(Encoder.raw(observation, tip, goal))
        step = policy(observation, tip, goal) - angles
        assert step.abs().max() < 5.0
        assert step.std() > 0

    def test_every_bound_can_be_reached(self) -> None:
        """With a saturated output, the action is exactly the bound."""
        policy = DeterministicPolicy(ARM, 8, 0)
        observation, tip, goal = draw(ARM, 50, 1.0, 0)
        observation[:, :3] = 45.0 / DEGREES
        for sign, bound in ((1.0, 90.0), (-1.0, 0.0)):
            policy.net[-1].weight.data.zero_()
            policy.net[-1].bias.data.fill_(20.0 * sign)
            torch.testing.assert_close(policy(observation, tip, goal), torch.full((50, 3), bound))

    def test_an_mlp_by_hand(self) -> None:
        """Outputs of a network with given weights equal those computed by hand."""
        net = mlp(1, 2, 1, layer_norm=False)
        weights = [[[1.0], [-1.0]], [0.0, 0.5], [[1.0, 2.0], [-3.0, 0.0]], [0.0, 1.0], [[1.0, 10.0]], [7.0]]
        for parameter, values in zip(net.parameters(), weights, strict=True):
            parameter.data.copy_(torch.tensor(values))
        # x = 2: (2, -1.5) -> (2, 0); (2, -5) -> (2, 0); 2 + 7.
        # x = -1: (-1, 1.5) -> (0, 1.5); (3, 1) -> (3, 1); 3 + 10 + 7.
        assert net(torch.tensor([[2.0], [-1.0]])).flatten().tolist() == [9.0, 20.0]


class TestCritic:
    """The critic network."""

    @pytest.mark.parametrize("slowing_distance", [0.0, 0.02])
    def test_it_depends_on_all_its_inputs(self, slowing_distance: float) -> None:
        """One value a row, which changes with each of the inputs."""
        torch.manual_seed(0)
        critic = Critic(replace(UNEVEN, slowing_distance=slowing_distance), 16, 2, 10, 3)
        inputs = [torch.randn(6, size) for size in (10, 2, 2, 2, 3)]  # features, action, step, slowed step, arrival
        shown: list[Any] = list(inputs)
        if not slowing_distance:
            shown[3] = None
        before = critic(*shown)
        assert before.shape == (6,)
        for place, value in enumerate(inputs):
            changed = list(shown)
            if changed[place] is not None:
                changed[place] = value + 0.5
                assert (critic(*changed) != before).all()


class TestDirection:
    """The direction of a displacement: of unit length, but fading to zero where there is none."""

    def test_it_is_the_displacement_over_its_length_and_the_softness(self) -> None:
        """(3, 4) has length 5; with a softness of 0.25 it is divided by 5.25."""
        got = direction(torch.tensor([[3.0, 4.0], [0.15, -0.2]]), 0.25)
        torch.testing.assert_close(got, torch.tensor([[3 / 5.25, 4 / 5.25], [0.3, -0.4]]))

    @given(st.lists(st.floats(-1.0, 1.0), min_size=3, max_size=3), st.floats(0.01, 100.0))
    def test_far_away_its_length_is_one_however_far(self, values: list[float], distance: float) -> None:
        """For displacements above 1 cm, the length is 1 within softness over distance."""
        away = np.array(values)
        if np.linalg.norm(away) < 0.1:
            away = np.ones(3)
        away *= distance / np.linalg.norm(away)
        got = direction(torch.from_numpy(away)[None], 1e-4)[0].numpy()
        assert np.linalg.norm(got) == pytest.approx(1.0, abs=1.01e-4 / distance)
        assert got @ away == pytest.approx(np.linalg.norm(got) * distance)

    def test_at_zero_it_is_zero_with_the_slope_of_the_softness(self) -> None:
        """x / (|x| + s) is 0 with slope 1/s at 0, and never NaN."""
        x = torch.zeros(2, 3, requires_grad=True)
        out = direction(x, 0.5)
        assert torch.equal(out, torch.zeros(2, 3))
        out.sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, torch.full((2, 3), 2.0))

    @pytest.mark.parametrize("size", [0.3, 5.0])
    def test_a_larger_task_at_distances_as_much_larger_gives_the_same_features(self, size: float) -> None:
        """Scaling the task's size and all distances alike leaves the features unchanged."""
        observation, tip, goal = draw(ARM, 8, 0.01, 0)
        usual, other = Encoder(ARM, 0), Encoder(replace(ARM, size=size), 0)
        torch.testing.assert_close(
            other(observation, size * tip, size * goal)[:, -3:], usual(observation, tip, goal)[:, -3:]
        )
        # After the displacement itself and its sines and cosines: three directions and three distances.
        torch.testing.assert_close(
            other.goal_error_features(size * tip, size * goal)[:, -12:],
            usual.goal_error_features(tip, goal)[:, -12:],
            rtol=1e-5,
            atol=1e-6,
        )


class TestArrival:
    """Features of the point that an action leads to, for the critic."""

    def test_it_is_the_displacement_with_detail_its_direction_and_its_nearness(self) -> None:
        """4 and 3 mm off, 5 mm in all, in a task of twice the usual size: features computed by hand."""
        encoder = Encoder(replace(UNEVEN, size=2.0), 0)
        got = encoder.goal_error_features(torch.tensor([[0.1, 0.2]]), torch.tensor([[0.104, 0.197]]))
        x, y = 0.004, -0.003
        detail = [x, y]
        detail += [math.sin(v * k) for k in (0.5, 1) for v in (x, y)]
        detail += [math.cos(v * k) for k in (0.5, 1) for v in (x, y)]
        directions = [v / (0.005 + softness) for softness in (0.002, 0.012, 0.06) for v in (x, y)]
        nearness = [math.exp(-0.005 / distance) for distance in (0.006, 0.02, 0.1)]
        torch.testing.assert_close(got, torch.tensor([detail + directions + nearness]), rtol=1e-4, atol=1e-6)
        assert encoder.goal_error_size == got.shape[1]

    def test_at_the_goal_all_of_it_has_a_finite_slope(self) -> None:
        """Gradients are finite at the goal, where the distance itself is not differentiable."""
        point = torch.tensor([[0.1, 0.2]], requires_grad=True)
        Encoder(UNEVEN, 1).goal_error_features(point, point.detach()).sum().backward()
        assert point.grad is not None
        assert point.grad.isfinite().all()


class TestApproach:
    """The fraction of a step that is taken near the goal."""

    @pytest.mark.parametrize(
        ("distance_m", "fraction"), [(0.0, 0.0), (0.0009, 0.0), (0.006, 0.25), (0.011, 0.5), (0.022, 1.0), (0.7, 1.0)]
    )
    def test_it_grows_from_the_rest_distance_over_the_slowing_distance_to_one(
        self, distance_m: float, fraction: float
    ) -> None:
        """(distance - 1 mm) / 20 mm, clipped to 0 and 1, in any direction."""
        tip = torch.tensor([[0.1, -0.2, 0.3]])
        for along in ([1.0, 0.0, 0.0], [0.0, 0.6, -0.8], [2 / 3, -1 / 3, 2 / 3]):
            got = ActionScaling(SLOWING).step_fraction(tip, tip + distance_m * torch.tensor([along]))
            assert got.shape == (1, 1)
            assert got.item() == pytest.approx(fraction, abs=1e-5)

    @pytest.mark.parametrize(("speed_m_s", "fraction"), [(0.0, 0.25), (0.05, 0.5), (0.1, 0.75), (3.0, 1.0)])
    def test_the_goals_speed_adds_a_tenth_of_a_second_to_the_distance(self, speed_m_s: float, fraction: float) -> None:
        """6 mm away: (6 mm + 0.1 s x speed - 1 mm) / 20 mm; the tip's own velocity does not count."""
        tip = torch.tensor([[0.1, -0.2, 0.3, 9.0, 9.0, 9.0]])
        goal = torch.tensor([[0.1, -0.206, 0.3, 0.6 * speed_m_s, 0.0, -0.8 * speed_m_s]])
        assert ActionScaling(MOVING).step_fraction(tip, goal).item() == pytest.approx(fraction, abs=1e-5)

    def test_without_a_slowing_distance_steps_are_whole(self) -> None:
        """A slowing distance of 0 gives whole steps, also at the goal."""
        tip = torch.zeros(4, 3)
        assert torch.equal(ActionScaling(ARM).step_fraction(tip, tip), torch.ones(4, 1))

    @pytest.mark.parametrize("size", [0.5, 3.0])
    def test_an_agents_slowing_distance_is_in_proportion_to_the_tasks_size(self, size: float) -> None:
        """At half of the scaled slowing distance, half of a step is taken."""
        spec = replace(SLOWING, size=size, rest_distance=0.0).with_step_scaling(2.0, 0.04)
        assert spec.max_step == (18.0, 36.0, 9.0)
        goal = torch.tensor([[0.02 * size, 0.0, 0.0]])
        assert ActionScaling(spec).step_fraction(torch.zeros(1, 3), goal).item() == pytest.approx(0.5)


UNIT = st.floats(-1.0, 1.0)
ANGLES = st.lists(st.floats(-360.0, 360.0), min_size=3, max_size=3)


def readings(angles_deg: list[float], targets_deg: list[float]) -> Tensor:
    """An observation, (1, 9) in double precision, of `SLOWING`."""
    return torch.tensor([[*angles_deg, 7.0, -8.0, 9.0, *targets_deg]], dtype=torch.float64) / DEGREES


class TestUnitTarget:
    """Steps from the present value and the previous target to the next target, and back."""

    @given(ANGLES, ANGLES, st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3))
    def test_at_the_goal_the_target_stays(self, angles: list[float], targets: list[float], step: list[float]) -> None:
        """With an approach of 0 the next target is exactly the previous one, whatever is measured."""
        scaling, seen = ActionScaling(SLOWING), readings(angles, targets)
        approach = torch.zeros(1, 1, dtype=torch.float64)
        got = scaling.unit_target(seen, torch.tensor([step], dtype=torch.float64), approach)
        assert torch.equal(got, scaling.previous_target(seen))
        # In -1..1, of a range from 0 to 90 degrees.
        np.testing.assert_allclose(got[0].numpy(), np.array(targets) / 45.0 - 1.0, rtol=0, atol=1e-9)

    @given(ANGLES, ANGLES, st.lists(UNIT, min_size=3, max_size=3), st.floats(0.0, 1.0))
    def test_elsewhere_it_interpolates_towards_angle_plus_step(
        self, angles: list[float], targets: list[float], step: list[float], fraction: float
    ) -> None:
        """target = previous + g (angle + step - previous), in degrees."""
        scaling, seen = ActionScaling(SLOWING), readings(angles, targets)
        approach = torch.tensor([[fraction]], dtype=torch.float64)
        got = scaling.unit_target(seen, torch.tensor([step], dtype=torch.float64), approach)
        stepped = np.array(angles) + np.array(step) * (9.0, 18.0, 4.5)
        wanted_deg = np.array(targets) + fraction * (stepped - np.array(targets))
        np.testing.assert_allclose(45.0 * (got[0].numpy() + 1.0), wanted_deg, rtol=0, atol=1e-5)

    @given(ANGLES, ANGLES, st.lists(st.floats(-3.0, 3.0), min_size=3, max_size=3), st.floats(0.01, 1.0))
    def test_step_to_inverts_unit_target(
        self, angles: list[float], targets: list[float], step: list[float], fraction: float
    ) -> None:
        """For fractions from 0.01, `step_to` returns the step that gave the target."""
        scaling, seen = ActionScaling(SLOWING), readings(angles, targets)
        approach = torch.tensor([[fraction]], dtype=torch.float64)
        requested = torch.tensor([step], dtype=torch.float64)
        got = scaling.step_for_target(scaling.unit_target(seen, requested, approach), seen, approach)
        torch.testing.assert_close(got, requested, rtol=0, atol=1e-8)

    def test_at_the_goal_step_to_uses_a_hundredth(self) -> None:
        """From 40 to 40.45 degrees: 0.45 over 0.01 is 45 degrees, divided by the largest steps (by hand)."""
        scaling, seen = ActionScaling(SLOWING), readings([31.0] * 3, [40.0] * 3)
        target = torch.tensor([[40.45 / 45.0 - 1.0] * 3], dtype=torch.float64)
        got = scaling.step_for_target(target, seen, torch.zeros(1, 1, dtype=torch.float64))
        wanted_deg = 40.0 + 45.0 - 31.0
        torch.testing.assert_close(got[0], wanted_deg / torch.tensor([9.0, 18.0, 4.5]).double(), rtol=1e-5, atol=0)

    def test_where_targets_are_not_observed_steps_are_from_the_present_value(self) -> None:
        """Without target columns the previous target is the angle, so that target = angle + g step."""
        scaling, seen = ActionScaling(replace(SLOWING, target_columns=None)), readings([30.0] * 3, [80.0] * 3)
        got = scaling.unit_target(seen, torch.ones(1, 3).double(), torch.full((1, 1), 0.5).double())
        wanted_deg = torch.tensor([[34.5, 39.0, 32.25]]).double()
        torch.testing.assert_close(45.0 * (got + 1.0), wanted_deg, rtol=0, atol=1e-5)


def slowing_policy(kind: str, spec: Spec) -> Any:
    """A policy with large steps that depend on the observation."""
    torch.manual_seed(0)
    policy: Any = DeterministicPolicy(spec, 16, 2)
    if kind != "deterministic":
        policy = GaussianPolicy(spec, PolicyGradientSettings(policy=kind, hidden_units=16))  # type: ignore[arg-type]
    policy.net[-1].weight.data.mul_(100.0)
    return policy.requires_grad_(False)


@pytest.mark.parametrize("spec", [SLOWING, MOVING], ids=["still", "moving"])
@pytest.mark.parametrize("kind", ["deterministic", "gaussian", "squashed", "clipped"])
class TestRest:
    """A policy as a whole, at its goal and near it."""

    @staticmethod
    def seen(spec: Spec) -> tuple[Tensor, Tensor, Tensor]:
        """Random readings, targets and tips, with stationary goals at the tips."""
        observation, tip, _ = draw(spec, 64, 1.0, 0)
        observation[:, 6:] = torch.rand(64, 3, generator=torch.Generator().manual_seed(1)) * 90.0 / DEGREES
        goal = tip.clone()
        goal[:, 3:] = 0.0
        return observation, tip, goal

    def test_at_the_goal_the_target_stays_whatever_is_measured(self, kind: str, spec: Spec) -> None:
        """The action is the previous target, and identical for all other readings, bit for bit."""
        policy = slowing_policy(kind, spec)
        observation, tip, goal = self.seen(spec)
        target = policy(observation, tip, goal)
        torch.testing.assert_close(target, observation[:, 6:] * DEGREES, rtol=0, atol=3e-5)
        other = observation.clone()
        other[:, :6] = 50.0 * torch.randn(64, 6, generator=torch.Generator().manual_seed(2))
        assert torch.equal(policy(other, tip, goal), target)

    def test_it_stays_within_the_rest_distance_and_moves_beyond_it(self, kind: str, spec: Spec) -> None:
        """0.9 mm away it rests; 2 mm away it moves by a twentieth of what it moves far away."""
        policy = slowing_policy(kind, spec)
        observation, tip, goal = self.seen(spec)
        at_goal = policy(observation, tip, goal)
        tip[:, :3] = 0.0
        moved = {}
        for distance_m in (0.0009, 0.002, 0.5):
            goal[:, :3] = distance_m * torch.tensor([0.6, 0.0, -0.8])
            moved[distance_m] = (policy(observation, tip, goal) - at_goal).abs()
        assert moved[0.0009].max() == 0.0
        assert (moved[0.002] > 0.0).float().mean() > 0.9
        # The measured angles are some tens of degrees away from the targets.
        assert 0.02 < moved[0.002].mean() / moved[0.5].mean() < 0.1

    def test_a_goal_that_moves_away_is_followed(self, kind: str, spec: Spec) -> None:
        """A goal with a velocity is followed, also where its position is reached."""
        policy = slowing_policy(kind, spec)
        observation, tip, goal = self.seen(spec)
        at_goal = policy(observation, tip, goal)
        goal[:, 3:] = 0.2
        moved = (policy(observation, tip, goal) - at_goal).abs().mean()
        assert (moved > 1.0) == (spec is MOVING)
