"""The average of a policy's parameters."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from policies.common.averaging import ETA, PolicyAverage, weight


class OneNumber(nn.Module):
    """A policy of one parameter and one buffer."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.register_buffer("scale", torch.zeros(1))

    def become(self, number: float) -> "OneNumber":
        """Set the parameter."""
        with torch.no_grad():
            self.number.fill_(number)
        return self


def average_of(numbers: list[float]) -> float:
    """The average after a policy has had these values, one an update."""
    policy = OneNumber()
    average = PolicyAverage(policy)
    for number in numbers:
        average.update(policy.become(number))
    return float(average.policy.number.detach())


class TestValues:
    """Values of the average."""

    def test_before_any_update_it_is_the_policy_as_it_began(self) -> None:
        """Before any update it is a copy of the initial policy, which does not change with the policy."""
        policy = OneNumber().become(3.0)
        average = PolicyAverage(policy)
        policy.become(5.0)
        assert float(average.policy.number.detach()) == 3.0

    def test_the_first_update_replaces_the_untrained_parameters(self) -> None:
        """The first update has weight 1 and replaces the untrained parameters."""
        assert weight(1) == 1.0
        assert average_of([7.0]) == 7.0

    def test_two_updates_by_hand(self) -> None:
        """The second update has weight 20 / 21 and the first 1 / 21."""
        assert average_of([0.0, 21.0]) == pytest.approx(20.0)

    @pytest.mark.parametrize("count", [1, 2, 30, 1000])
    def test_parameters_that_grow_evenly(self, count: int) -> None:
        """For theta_t = t the average is ((eta + 1) t + 1) / (eta + 2): it lags by the same fraction of any length."""
        wanted = ((ETA + 1.0) * count + 1.0) / (ETA + 2.0)
        assert average_of([float(t) for t in range(1, count + 1)]) == pytest.approx(wanted)

    @given(numbers=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
    def test_it_lies_between_the_smallest_and_the_largest(self, numbers: list[float]) -> None:
        """The average stays within the range of the averaged values."""
        average = average_of(numbers)
        assert min(numbers) - 1e-9 <= average <= max(numbers) + 1e-9

    def test_it_reduces_noise(self) -> None:
        """Over 400 updates, of which a twentieth counts, an alternation of size 1 shrinks to 0.05 or less."""
        numbers = [(-1.0) ** t for t in range(400)]
        assert abs(average_of(numbers)) <= 0.05


class TestState:
    """Buffers, gradients and continuation."""

    def test_buffers_are_copied_not_averaged(self) -> None:
        """Buffers, such as the fitted normalisation, are copied at each update."""
        policy = OneNumber()
        average = PolicyAverage(policy)
        average.update(policy)
        policy.scale.fill_(9.0)
        average.update(policy)
        assert average.policy.scale.tolist() == [9.0]

    def test_it_is_not_trained(self) -> None:
        """No parameter of the average requires a gradient."""
        assert not any(parameter.requires_grad for parameter in PolicyAverage(OneNumber()).policy.parameters())

    def test_a_restored_average_continues_exactly(self) -> None:
        """The number of updates is part of the state, so that a restored average continues bit for bit."""
        policy = OneNumber()
        first = PolicyAverage(policy)
        for number in (1.0, 4.0, 9.0):
            first.update(policy.become(number))
        second = PolicyAverage(OneNumber())
        state: dict[str, Any] = first.state_dict()
        second.load_state_dict(state)
        for average in (first, second):
            average.update(policy.become(16.0))
        assert torch.equal(first.policy.number, second.policy.number)
