"""Returns and advantages: by hand, where episodes end within the steps, and by their definitions."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from policies.common.returns import advantages, in_complete_episode, returns, td_errors

DISCOUNTS = st.sampled_from([0.0, 0.5, 0.9, 1.0])


@dataclass(frozen=True)
class Path:
    """Steps (steps, num_envs) and the values before and after each."""

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


# Three steps of four environments, one line each: (1) its episode continues; (2) it terminates after the second step;
# (3) it is truncated there; (4) one is truncated after the first step and another terminates after the third.
# Next values of 500 and 700 follow terminated steps and must not be used.
BY_HAND = Path(
    reward=torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [1.0, 2.0, 4.0]]).T,
    value=torch.tensor([[3.0, 10.0, 20.0], [3.0, 10.0, 5.0], [3.0, 10.0, 5.0], [3.0, 6.0, 8.0]]).T,
    next_value=torch.tensor([[10.0, 20.0, 30.0], [10.0, 500.0, 30.0], [10.0, 20.0, 30.0], [40.0, 8.0, 700.0]]).T,
    terminated=torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).T,
    ended=torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]).T,
)


@st.composite
def paths(draw: st.DrawFn) -> Path:
    """Random steps; the value after a step is that before the next, but where the episode ended."""
    steps, num_envs, seed = draw(st.integers(1, 8)), draw(st.integers(1, 4)), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(steps, num_envs, generator=generator, dtype=torch.float64)

    ended = (torch.rand(steps, num_envs, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))).double()
    terminated = ended * (torch.rand(steps, num_envs, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0])))
    value, after = normal(), normal()
    following = torch.cat([value[1:], after[-1:]])
    return Path(normal(), value, torch.where(ended > 0, after, following), terminated, ended)


def assert_close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


class TestDefinitions:
    """Random steps, compared with loops over the definitions."""

    def test_arguments_are_not_modified(self) -> None:
        """The given tensors stay unchanged."""
        nowhere = torch.zeros(3, 4)
        path = replace(BY_HAND, terminated=nowhere, ended=nowhere.clone())
        before = [tensor.clone() for tensor in vars(path).values()]
        path.advantages(0.9, 0.9)
        path.returns(0.9)
        in_complete_episode(path.ended)
        assert all(torch.equal(tensor, kept) for tensor, kept in zip(vars(path).values(), before, strict=True))

    @given(paths(), DISCOUNTS, st.sampled_from([0.0, 0.4, 0.95, 1.0]))
    def test_advantages_are_discounted_sums_of_td_errors(self, path: Path, discount: float, decay: float) -> None:
        """A_t is the sum of (gamma lambda)^k delta_(t+k) up to the episode's end."""
        delta = path.delta(discount)
        wanted = torch.zeros_like(delta)
        for start in range(len(delta)):
            for index in range(delta.shape[1]):
                for step in range(start, len(delta)):
                    wanted[start, index] += (discount * decay) ** (step - start) * delta[step, index]
                    if path.ended[step, index]:
                        break
        assert_close(path.advantages(discount, decay), wanted)

    @given(paths(), DISCOUNTS)
    def test_returns_are_discounted_rewards_plus_the_bootstrap_value(self, path: Path, discount: float) -> None:
        """R_t is the sum of gamma^k r_(t+k) plus the discounted value after the last step, 0 if it terminated."""
        wanted = torch.zeros_like(path.reward)
        for start in range(len(wanted)):
            for index in range(wanted.shape[1]):
                for step in range(start, len(wanted)):
                    wanted[start, index] += discount ** (step - start) * path.reward[step, index]
                    if path.ended[step, index] or step == len(wanted) - 1:
                        rest = 0.0 if path.terminated[step, index] else path.next_value[step, index]
                        wanted[start, index] += discount ** (step - start + 1) * rest
                        break
        assert_close(path.returns(discount), wanted)

    @given(paths(), DISCOUNTS)
    def test_advantages_for_lambda_0_and_1(self, path: Path, discount: float) -> None:
        """lambda = 1 gives returns less values, lambda = 0 gives TD errors."""
        assert_close(path.advantages(discount, 1.0), path.returns(discount) - path.value)
        assert torch.equal(path.advantages(discount, 0.0), path.delta(discount))

    @given(paths())
    def test_complete_steps_are_followed_by_an_end(self, path: Path) -> None:
        """A step is complete if an episode of its environment ends at it or later."""
        wanted = [
            [float(path.ended[step:, index].any()) for index in range(path.ended.shape[1])]
            for step in range(len(path.ended))
        ]
        assert in_complete_episode(path.ended).tolist() == wanted

    @given(paths(), st.data())
    def test_episodes_and_environments_do_not_affect_each_other(self, path: Path, data: st.DataObject) -> None:
        """Changes after an episode's end or in another environment leave advantages and returns bit for bit."""
        steps, num_envs = path.reward.shape
        step, index = data.draw(st.integers(0, steps - 1)), data.draw(st.integers(0, num_envs - 1))
        ended, terminated = path.ended.clone(), path.terminated.clone()
        ended[step, index] = 1.0
        terminated[step, index] = float(data.draw(st.booleans()))
        path = replace(path, ended=ended, terminated=terminated)
        later = torch.zeros(steps, num_envs, dtype=torch.bool)
        later[step + 1 :, index] = True
        others = (torch.arange(num_envs) != index).expand(steps, num_envs)
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


class TestByHand:
    """Three steps of four environments, computed by hand with gamma = 0.5."""

    def test_td_errors(self) -> None:
        """r + gamma V(s') - V(s): V(s') is omitted after a termination, not after a truncation."""
        wanted = [
            [1 + 5 - 3, 2 + 10 - 10, 4 + 15 - 20],
            [1 + 5 - 3, 2 - 10, 4 + 15 - 5],  # nothing comes after what is terminated
            [1 + 5 - 3, 2 + 10 - 10, 4 + 15 - 5],  # a time limit is no end
            [1 + 20 - 3, 2 + 4 - 6, 4 - 8],
        ]
        assert BY_HAND.delta(0.5).T.tolist() == wanted

    def test_advantages(self) -> None:
        """With gamma = lambda = 0.5, the next step's TD error counts a quarter."""
        wanted = [
            [3 + 0.25 * 1.75, 2 + 0.25 * -1, -1.0],
            [3 + 0.25 * -8, -8.0, 14.0],
            [3 + 0.25 * 2, 2.0, 14.0],
            [18.0, 0 + 0.25 * -4, -4.0],
        ]
        assert BY_HAND.advantages(0.5, 0.5).T.tolist() == wanted

    def test_returns(self) -> None:
        """The value after a step counts where an episode was truncated or the steps end."""
        wanted = [
            [1 + 0.5 * 11.5, 2 + 0.5 * 19, 4 + 0.5 * 30],
            [1 + 0.5 * 2, 2.0, 4 + 0.5 * 30],
            [1 + 0.5 * 12, 2 + 0.5 * 20, 4 + 0.5 * 30],
            [1 + 0.5 * 40, 2 + 0.5 * 4, 4.0],
        ]
        assert BY_HAND.returns(0.5).T.tolist() == wanted

    def test_complete(self) -> None:
        """Steps are complete up to the last end of an episode in their environment."""
        assert in_complete_episode(BY_HAND.ended).T.tolist() == [
            [0.0, 0.0, 0.0],
            [1.0, 1.0, 0.0],
            [1.0, 1.0, 0.0],
            [1.0, 1.0, 1.0],
        ]

    @pytest.mark.parametrize(("terminated", "ended"), [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
    def test_the_value_after_a_step_counts_unless_it_is_terminated(self, terminated: float, ended: float) -> None:
        """Raising V(s') by 4 raises TD error, advantage and return by 0.5 x 4, or by 0 after a termination."""

        def step(next_value: float) -> Path:
            one = torch.ones(1, 1)
            return Path(one, 2 * one, next_value * one, terminated * one, ended * one)

        low, high = step(1.0), step(5.0)
        gain = 0.0 if terminated else 0.5 * 4.0
        assert (high.delta(0.5) - low.delta(0.5)).item() == gain
        assert (high.advantages(0.5, 0.9) - low.advantages(0.5, 0.9)).item() == gain
        assert (high.returns(0.5) - low.returns(0.5)).item() == gain
