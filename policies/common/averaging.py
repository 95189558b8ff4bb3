"""Averaging of a policy's parameters over its latest updates, which is less noisy than the last ones."""

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

ETA = 19.0  # averages over about the last twentieth of all updates

PolicyModule = TypeVar("PolicyModule", bound=nn.Module)


def weight(update: int) -> float:
    """Weight of the parameters after the `update`-th update, from 1, in the average so far.

    Polynomial-decay averaging (Shamir and Zhang 2013, arXiv:1212.1824, section 4): (eta + 1) / (t + eta), which is 1
    for the first update. The average covers the same fraction of a training, however long it is.
    """
    return (ETA + 1.0) / (update + ETA)


class PolicyAverage(Generic[PolicyModule]):
    """A copy of a policy that holds the average of its parameters."""

    def __init__(self, policy: PolicyModule) -> None:
        self.policy: PolicyModule = copy.deepcopy(policy).requires_grad_(False)
        self._updates = 0

    @torch.no_grad()
    def update(self, policy: PolicyModule) -> None:
        """Include the parameters after an update:  average <- average + weight (parameters - average)."""
        self._updates += 1
        parameters = [parameter.detach() for parameter in policy.parameters()]
        torch._foreach_lerp_(list(self.policy.parameters()), parameters, weight(self._updates))
        self.copy_buffers(policy)

    @torch.no_grad()
    def copy_buffers(self, policy: PolicyModule) -> None:
        """Copy what is not learned by gradients, such as the normalisation of the inputs."""
        for own, other in zip(self.policy.buffers(), policy.buffers(), strict=True):
            own.copy_(other)

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates in it."""
        return {"policy": self.policy.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self.policy.load_state_dict(state["policy"])
        self._updates = state["updates"]
