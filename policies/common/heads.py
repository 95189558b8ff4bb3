"""What all heads have in common. A head is the last layer of a network over a grid of actions.

It sees the trunk's features (batch, hidden) and knows Q for every action of the grid, whose exact maximum it finds.
`BranchingHead` (`policies.common.branching_head`) adds up a value of each joint's position; the heads in
`policies.dqn.heads` search all actions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from policies.agent import Spec
from policies.common.networks import ActionScaling, mlp


@dataclass(frozen=True)
class BatchColumns:
    """Copies of the columns of a batch's actions, on which gradients accumulate."""

    actions: Tensor  # indices of the different actions, ascending
    columns: Tensor  # (column, actions)
    place: Tensor  # (batch,): which of the columns each row of the batch has


class HeadOptimizer(Protocol):
    """Optimiser of what a head learns beside its `parameters`."""

    def step(self, gathered: "BatchColumns", learning_rate: float) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Head(Protocol):
    """Q over the grid, of features (batch, hidden) and positions (batch, actions)."""

    def greedy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The largest Q (batch,) and where it is, (batch, actions); of several, the one with the lowest index."""

    def maximum(self, x: Tensor) -> Tensor:
        """The largest Q (batch,)."""

    def gather(self, positions: Tensor) -> BatchColumns | None:
        """Copies of these actions' columns, for gradients; None for a head that has all it learns as parameters."""

    def q(self, x: Tensor, positions: Tensor, gathered: BatchColumns | None = None) -> Tensor:
        """Q (batch,) of these actions, with gradients for parameters, and for the columns gathered for the actions."""

    def margin(self, x: Tensor) -> Tensor:
        """By how much (batch,) the largest Q surpasses the next."""

    def follow(self, other: Any) -> None:
        """Become a copy of another head."""

    def freeze(self) -> None:
        """Work out now what a graph would otherwise work out anew for each decision."""

    def own_optimizer(self) -> HeadOptimizer | None:
        """An optimiser of what the head learns beside its parameters; None if there is nothing."""

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Any) -> Any: ...


def refuse_nan(q: Tensor) -> Tensor:
    """The same values of actions. Raises ValueError if one is NaN: it has no place in an order."""
    if torch.isnan(q).any():
        raise ValueError("expected values that can be compared, got NaN: the training has diverged")
    return q


class Trunk(nn.Module):
    """The layers below the head, and, for a head that uses them, the present grid positions of the joints."""

    halves: Tensor

    def __init__(self, spec: Spec, inputs: int, hidden: int, *, tells_positions: bool) -> None:
        super().__init__()
        self.scaling = ActionScaling(spec)
        self.net = mlp(inputs, hidden, 1, layer_norm=False)[:-1]
        self.tells_positions = tells_positions
        assert spec.grid_shape is not None
        self.register_buffer("halves", (torch.tensor(spec.grid_shape) - 1) / 2, persistent=False)

    @property
    def max_step(self) -> Tensor:
        """How many grid positions a joint can pass in one control period, (actions,)."""
        return self.scaling.max_step * self.halves

    def forward(self, features: Tensor, observation: Tensor) -> Tensor:
        x: Tensor = self.net(features)
        if not self.tells_positions:
            return x
        return torch.cat([x, (self.scaling.present(observation) + 1.0) * self.halves], dim=1)
