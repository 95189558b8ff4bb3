"""Returns and advantages: by hand, where episodes end within the steps, and by their definitions."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from policies.common.returns import advantages, complete, returns, td_errors

DISCOUNTS = st.sampled_from([0.0, 0.5, 0.9, 1.0])


@dataclass(frozen=True)
class Path:
    """Steps (steps, arms) and the values before and after each."""

    reward: Tensor
    value: Tensor
    next_value: Tensor
    terminated: Tensor
    ended: Tensor

    def delta(self, discount: float) -> Tensor:
        return td_errors(self.reward, self.value, self.next_value, self.terminated, discount)

    def advantages(self, discount: float, gae_lambda: float) -> Tensor:
        return advantages(self.reward, self.value, self.next_value, self.terminated, self.ended, discount, gae_lambda)

    def returns(self, discount: float) -> Tensor:
        return returns(self.reward, self.next_value, self.terminated, self.ended, discount)


# Three steps of four arms, a line each: one that goes on; one that is terminated after its second step, one that is
# truncated there; one that is truncated after its first and terminated after its third. No episode has a value of 500
# or 700: they are those after a terminated step.
BY_HAND = Path(
    reward=torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [1.0, 2.0, 4.0]]).T,
    value=torch.tensor([[3.0, 10.0, 20.0], [3.0, 10.0, 5.0], [3.0, 10.0, 5.0], [3.0, 6.0, 8.0]]).T,
    next_value=torch.tensor([[10.0, 20.0, 30.0], [10.0, 500.0, 30.0], [10.0, 20.0, 30.0], [40.0, 8.0, 700.0]]).T,
    terminated=torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).T,
    ended=torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]).T,
)


def test_td_errors_by_hand() -> None:
    wanted = [
        [1 + 5 - 3, 2 + 10 - 10, 4 + 15 - 20],
        [1 + 5 - 3, 2 - 10, 4 + 15 - 5],  # nothing comes after what is terminated
        [1 + 5 - 3, 2 + 10 - 10, 4 + 15 - 5],  # a time limit is no end
        [1 + 20 - 3, 2 + 4 - 6, 4 - 8],
    ]
    assert BY_HAND.delta(0.5).T.tolist() == wanted


def test_advantages_by_hand() -> None:
    """With gamma = lambda = 0.5 an error of the next step counts a quarter."""
    wanted = [
        [3 + 0.25 * 1.75, 2 + 0.25 * -1, -1.0],
        [3 + 0.25 * -8, -8.0, 14.0],
        [3 + 0.25 * 2, 2.0, 14.0],
        [18.0, 0 + 0.25 * -4, -4.0],
    ]
    assert BY_HAND.advantages(0.5, 0.5).T.tolist() == wanted


def test_returns_by_hand() -> None:
    """With gamma = 0.5; a value counts only where an episode was cut off, or the steps are at their end."""
    wanted = [
        [1 + 0.5 * 11.5, 2 + 0.5 * 19, 4 + 0.5 * 30],
        [1 + 0.5 * 2, 2.0, 4 + 0.5 * 30],
        [1 + 0.5 * 12, 2 + 0.5 * 20, 4 + 0.5 * 30],
        [1 + 0.5 * 40, 2 + 0.5 * 4, 4.0],
    ]
    assert BY_HAND.returns(0.5).T.tolist() == wanted


def test_complete_by_hand() -> None:
    assert complete(BY_HAND.ended).T.tolist() == [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]


def test_nothing_that_was_given_is_changed() -> None:
    nowhere = torch.zeros(3, 4)
    path = replace(BY_HAND, terminated=nowhere, ended=nowhere.clone())
    before = [tensor.clone() for tensor in vars(path).values()]
    path.advantages(0.9, 0.9)
    path.returns(0.9)
    complete(path.ended)
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(vars(path).values(), before, strict=True))


@st.composite
def paths(draw: st.DrawFn) -> Path:
    """Random ones; the value after a step is that before the next, but where the episode ended."""
    steps, arms, seed = draw(st.integers(1, 8)), draw(st.integers(1, 4)), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(steps, arms, generator=generator, dtype=torch.float64)

    ended = (torch.rand(steps, arms, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))).double()
    terminated = ended * (torch.rand(steps, arms, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0])))
    value, after = normal(), normal()
    following = torch.cat([value[1:], after[-1:]])
    return Path(normal(), value, torch.where(ended > 0, after, following), terminated, ended)


def assert_close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@given(paths(), DISCOUNTS, st.sampled_from([0.0, 0.4, 0.95, 1.0]))
def test_advantages_are_sums_of_td_errors_up_to_the_episodes_end(path: Path, discount: float, decay: float) -> None:
    delta = path.delta(discount)
    wanted = torch.zeros_like(delta)
    for start in range(len(delta)):
        for arm in range(delta.shape[1]):
            for step in range(start, len(delta)):
                wanted[start, arm] += (discount * decay) ** (step - start) * delta[step, arm]
                if path.ended[step, arm]:
                    break
    assert_close(path.advantages(discount, decay), wanted)


@given(paths(), DISCOUNTS)
def test_returns_are_discounted_rewards_and_the_value_of_what_was_cut_off(path: Path, discount: float) -> None:
    wanted = torch.zeros_like(path.reward)
    for start in range(len(wanted)):
        for arm in range(wanted.shape[1]):
            for step in range(start, len(wanted)):
                wanted[start, arm] += discount ** (step - start) * path.reward[step, arm]
                if path.ended[step, arm] or step == len(wanted) - 1:
                    rest = 0.0 if path.terminated[step, arm] else path.next_value[step, arm]
                    wanted[start, arm] += discount ** (step - start + 1) * rest
                    break
    assert_close(path.returns(discount), wanted)


@given(paths(), DISCOUNTS)
def test_with_all_traces_advantages_are_returns_less_values_and_with_none_td_errors(
    path: Path, discount: float
) -> None:
    assert_close(path.advantages(discount, 1.0), path.returns(discount) - path.value)
    assert torch.equal(path.advantages(discount, 0.0), path.delta(discount))


@given(paths())
def test_steps_are_complete_if_their_arm_ends_an_episode_then_or_later(path: Path) -> None:
    wanted = [
        [float(path.ended[step:, arm].any()) for arm in range(path.ended.shape[1])] for step in range(len(path.ended))
    ]
    assert complete(path.ended).tolist() == wanted


@given(paths(), st.data())
def test_what_comes_after_an_ended_step_or_in_another_arm_changes_nothing(path: Path, data: st.DataObject) -> None:
    steps, arms = path.reward.shape
    step, arm = data.draw(st.integers(0, steps - 1)), data.draw(st.integers(0, arms - 1))
    ended, terminated = path.ended.clone(), path.terminated.clone()
    ended[step, arm] = 1.0
    terminated[step, arm] = float(data.draw(st.booleans()))
    path = replace(path, ended=ended, terminated=terminated)
    later = torch.zeros(steps, arms, dtype=torch.bool)
    later[step + 1 :, arm] = True
    others = (torch.arange(arms) != arm).expand(steps, arms)
    for where, unmoved in ((later, ~later), (others, ~others)):
        changed = replace(
            path,
            reward=torch.where(where, path.reward + 1e3, path.reward),
            value=torch.where(where, path.value - 1e3, path.value),
            next_value=torch.where(where, path.next_value + 1e3, path.next_value),
        )
        for before, after in (
            (path.advantages(0.9, 0.9), changed.advantages(0.9, 0.9)),
            (path.returns(0.9), changed.returns(0.9)),
        ):
            assert torch.equal(before[unmoved], after[unmoved])
            assert not torch.equal(before, after) or not where.any()


@pytest.mark.parametrize(("terminated", "ended"), [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_the_value_after_a_step_counts_unless_it_is_terminated(terminated: float, ended: float) -> None:
    def step(next_value: float) -> Path:
        one = torch.ones(1, 1)
        return Path(one, 2 * one, next_value * one, terminated * one, ended * one)

    low, high = step(1.0), step(5.0)
    gain = 0.0 if terminated else 0.5 * 4.0
    assert (high.delta(0.5) - low.delta(0.5)).item() == gain
    assert (high.advantages(0.5, 0.9) - low.advantages(0.5, 0.9)).item() == gain
    assert (high.returns(0.5) - low.returns(0.5)).item() == gain
