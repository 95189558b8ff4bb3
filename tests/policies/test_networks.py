"""The networks' parts: normaliser, Fourier features, action scaling and the policy's bounds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from policies.agent import Spec
from policies.networks import ActionScaling, Critic, DeterministicPolicy, Encoder, fourier_features, mlp
from policies.normalizer import Normalizer

DEGREES = 180.0 / math.pi
ARM = Spec(9, 3, (0.0,) * 3, (90.0,) * 3, measured_columns=(0, 1, 2), measured_unit=DEGREES)
UNEVEN = Spec(4, 2, (-10.0, 5.0), (30.0, 6.0))
SPECS = {"arm": ARM, "uneven": UNEVEN}


def draw(spec: Spec, rows: int, size: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random observation, achieved and desired goal."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (spec.observation_size, spec.goal_size, spec.goal_size)
    first, second, third = (size * torch.randn(rows, width, generator=generator) for width in sizes)
    return first, second, third


def test_normalizer_takes_mean_and_population_deviation_of_each_column() -> None:
    normalizer = Normalizer(2)
    normalizer.fit(torch.tensor([[0.0, -1.0], [2.0, -1.0], [4.0, 5.0]]))
    assert normalizer.mean.tolist() == [2.0, 1.0]
    torch.testing.assert_close(normalizer.std, torch.tensor([math.sqrt(8 / 3), math.sqrt(8.0)]))
    wanted = torch.tensor([[(6.0 - 2.0) / math.sqrt(8 / 3), (1.0 + 3.0) / math.sqrt(8.0)]])
    torch.testing.assert_close(normalizer(torch.tensor([[6.0, 5.0]])), wanted)


def test_a_constant_column_is_only_shifted() -> None:
    normalizer = Normalizer(2)
    normalizer.fit(torch.tensor([[7.0, 0.0], [7.0, 1.0]]))
    assert normalizer.mean.tolist() == [7.0, 0.5]
    assert normalizer.std.tolist() == [1.0, 0.5]
    assert normalizer(torch.tensor([[7.0, 0.5], [9.0, 1.0]])).tolist() == [[0.0, 0.0], [2.0, 1.0]]


def test_a_normalizer_that_saw_nothing_changes_nothing() -> None:
    x = torch.tensor([[1.5, -2.0]])
    assert torch.equal(Normalizer(2)(x), x)


def test_a_normalizer_travels_in_the_state_dict() -> None:
    fitted, copy = Normalizer(3), Normalizer(3)
    fitted.fit(torch.arange(12.0).reshape(4, 3) ** 2)
    copy.load_state_dict(fitted.state_dict())
    x = torch.tensor([[1.0, 2.0, 3.0]])
    assert torch.equal(copy(x), fitted(x))
    assert not torch.equal(fitted(x), x)


def test_fourier_features_are_sines_and_cosines_of_half_the_input_the_input_and_so_on() -> None:
    a, b = 0.3, -2.0
    x = torch.tensor([[a, b]], dtype=torch.float64)
    scaled = [a / 2, b / 2, a, b, 2 * a, 2 * b]
    wanted = [a, b, *map(math.sin, scaled), *map(math.cos, scaled)]
    torch.testing.assert_close(fourier_features(x, 3), torch.tensor([wanted], dtype=torch.float64))


def test_no_octaves_leave_the_input_as_it_is() -> None:
    x = torch.tensor([[0.3, -2.0]])
    assert torch.equal(fourier_features(x, 0), x)


@pytest.mark.parametrize("octaves", [0, 1, 4])
def test_the_encoder_sees_observation_tip_goal_and_the_way_between(octaves: int) -> None:
    encoder = Encoder(UNEVEN, octaves)
    observation, tip, goal = (
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        torch.tensor([[5.0, 6.0]]),
        torch.tensor([[8.0, 1.0]]),
    )
    features = encoder(observation, tip, goal)
    assert features.shape == (1, encoder.size)
    assert features[0, :10].tolist() == [1, 2, 3, 4, 5, 6, 8, 1, 3, -5]


def test_the_encoder_normalises_before_it_takes_fourier_features() -> None:
    encoder = Encoder(Spec(1, 1, (0.0,), (1.0,)), 1)
    encoder.normalizer.fit(torch.tensor([[10.0, 0.0, 0.0, 0.0], [14.0, 0.0, 0.0, 0.0]]))
    features = encoder(torch.tensor([[16.0]]), torch.zeros(1, 1), torch.zeros(1, 1))
    torch.testing.assert_close(features, torch.tensor([[2.0, 0, 0, 0, math.sin(1.0), 0, 0, 0, math.cos(1.0), 1, 1, 1]]))


def test_unit_actions_are_minus_one_at_the_lower_bound_and_one_at_the_upper() -> None:
    scaling = ActionScaling(UNEVEN)
    actions = torch.tensor([[-10.0, 5.0], [30.0, 6.0], [10.0, 5.5], [0.0, 5.75]])
    wanted = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [-0.5, 0.5]])
    torch.testing.assert_close(scaling.to_unit(actions), wanted)
    torch.testing.assert_close(scaling.from_unit(wanted), actions)


@given(st.sampled_from(sorted(SPECS)), st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3))
def test_to_unit_undoes_from_unit(name: str, values: list[float]) -> None:
    spec = SPECS[name]
    scaling = ActionScaling(spec)
    unit = torch.tensor(values[: len(spec.action_low)])
    torch.testing.assert_close(scaling.to_unit(scaling.from_unit(unit)), unit, rtol=0, atol=2e-5)


@pytest.mark.parametrize("beyond", [1.0 + 1e-6, 2.0, 1e30, math.inf])
def test_unit_actions_beyond_one_are_clipped_to_the_bounds(beyond: float) -> None:
    scaling = ActionScaling(UNEVEN)
    assert scaling.from_unit(torch.tensor([beyond, beyond])).tolist() == [30.0, 6.0]
    assert scaling.from_unit(torch.tensor([-beyond, -beyond])).tolist() == [-10.0, 5.0]


def test_the_present_value_is_the_measured_one_in_the_actions_scale() -> None:
    observation = torch.zeros(2, 9)
    observation[:, :3] = torch.tensor([[0.0, 45.0, 90.0], [22.5, 67.5, 99.0]]) / DEGREES
    wanted = torch.tensor([[-1.0, 0.0, 1.0], [-0.5, 0.5, 1.2]])
    torch.testing.assert_close(ActionScaling(ARM).present(observation), wanted)


@pytest.mark.parametrize("columns", [(0, 1), (2, 3), (1, 3), (3, 0)])
def test_the_present_value_is_read_from_the_columns_that_are_named(columns: tuple[int, int]) -> None:
    spec = Spec(4, 2, (-1.0, -1.0), (1.0, 1.0), measured_columns=columns)
    present = ActionScaling(spec).present(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    torch.testing.assert_close(present, torch.tensor([[0.1 * (column + 1) for column in columns]]))


def test_where_nothing_measures_it_the_present_value_is_the_middle_of_the_range() -> None:
    assert torch.equal(ActionScaling(UNEVEN).present(torch.ones(5, 4)), torch.zeros(5, 2))


@given(
    st.sampled_from(sorted(SPECS)), st.sampled_from([0.0, 0.1, 1.0, 100.0, 1e6]), st.integers(0, 1000), st.booleans()
)
def test_actions_are_always_within_the_bounds(name: str, size: float, seed: int, wild: bool) -> None:
    spec = SPECS[name]
    torch.manual_seed(seed)
    policy = DeterministicPolicy(spec, 8, 2)
    if wild:
        policy.net[-1].weight.data.mul_(1e4)
    action = policy(*draw(spec, 20, size, seed))
    assert (action >= torch.tensor(spec.action_low)).all()
    assert (action <= torch.tensor(spec.action_high)).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_new_policy_stays_close_to_the_present_angles(seed: int) -> None:
    torch.manual_seed(seed)
    policy = DeterministicPolicy(ARM, 128, 4)
    angles = 90.0 * torch.rand(500, 3)
    observation, tip, goal = draw(ARM, 500, 1.0, seed)
    observation[:, :3] = angles / DEGREES
    policy.encoder.normalizer.fit(Encoder.raw(observation, tip, goal))
    step = policy(observation, tip, goal) - angles
    assert step.abs().max() < 5.0
    assert step.std() > 0


def test_every_bound_can_be_reached_from_every_present_angle() -> None:
    policy = DeterministicPolicy(ARM, 8, 0)
    observation, tip, goal = draw(ARM, 50, 1.0, 0)
    observation[:, :3] = 45.0 / DEGREES
    for sign, bound in ((1.0, 90.0), (-1.0, 0.0)):
        policy.net[-1].weight.data.zero_()
        policy.net[-1].bias.data.fill_(20.0 * sign)
        torch.testing.assert_close(policy(observation, tip, goal), torch.full((50, 3), bound))


def test_an_mlp_with_given_weights_gives_the_answer_by_hand() -> None:
    net = mlp(1, 2, 1, layer_norm=False)
    weights = [[[1.0], [-1.0]], [0.0, 0.5], [[1.0, 2.0], [-3.0, 0.0]], [0.0, 1.0], [[1.0, 10.0]], [7.0]]
    for parameter, values in zip(net.parameters(), weights, strict=True):
        parameter.data.copy_(torch.tensor(values))
    # x = 2: (2, -1.5) -> (2, 0); (2, -5) -> (2, 0); 2 + 7.   x = -1: (-1, 1.5) -> (0, 1.5); (3, 1) -> same; 3 + 10 + 7.
    assert net(torch.tensor([[2.0], [-1.0]])).flatten().tolist() == [9.0, 20.0]


def test_the_critic_gives_one_value_a_row_and_sees_the_action() -> None:
    torch.manual_seed(0)
    critic = Critic(UNEVEN, 16, 2, 10, 3)
    features, present, way = torch.randn(6, 10), torch.zeros(6, 2), torch.randn(6, 3)
    first, second, third = (
        critic(features, torch.full((6, 2), -0.5), present, way),
        critic(features, torch.full((6, 2), 0.5), present, way),
        critic(features, torch.full((6, 2), 0.5), present, way + 1.0),
    )
    assert first.shape == (6,)
    assert (first != second).all()
    assert (second != third).all()
