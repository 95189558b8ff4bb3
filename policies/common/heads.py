"""The interface of a head: the last layer of a Q-network over a grid of actions, and the layers below it.

A head computes Q-values from the trunk's features (batch, hidden), and their exact maximum over all actions of the
grid. `BranchingHead` (`policies.common.branching_head`) sums values of each joint's positions; the heads in
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
    """Copies of the weight columns of a batch's actions, which accumulate gradients."""

    actions: Tensor  # indices of the batch's distinct actions, ascending
    columns: Tensor  # (rows of the weights, distinct actions)
    place: Tensor  # (batch,): the column of each transition's action


class HeadOptimizer(Protocol):
    """Optimiser of the weight columns of a head that are not among its `parameters`."""

    def step(self, gathered: "BatchColumns", learning_rate: float) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Head(Protocol):
    """Q-values over the grid, from features (batch, hidden) and positions (batch, actions)."""

    def greedy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The maximum of Q (batch,) and its positions (batch, actions); the lowest index of several maxima."""

    def maximum(self, x: Tensor) -> Tensor:
        """The maximum of Q (batch,)."""

    def gather(self, positions: Tensor) -> BatchColumns | None:
        """Copy the weight columns of these actions, for gradients; None if all weights are parameters."""

    def q(self, x: Tensor, positions: Tensor, gathered: BatchColumns | None = None) -> Tensor:
        """Q (batch,) of these actions, with gradients for the parameters and the gathered columns."""

    def action_gap(self, x: Tensor) -> Tensor:
        """Difference (batch,) between the largest and the second largest Q."""

    def copy_from(self, other: Any) -> None:
        """Copy the weights of another head."""

    def prepare_export(self) -> None:
        """Precompute what an exported graph would otherwise compute in every decision."""

    def columns_optimizer(self) -> HeadOptimizer | None:
        """An optimiser of the weight columns that are not parameters; None if there are none."""

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Any) -> Any: ...


def raise_if_nan(q: Tensor) -> Tensor:
    """Return values unchanged. Raises ValueError if one is NaN, which has no order."""
    if torch.isnan(q).any():
        raise ValueError("expected values that can be compared, got NaN: the training has diverged")
    return q


class Trunk(nn.Module):
    """The hidden layers below a head; with `append_positions`, followed by the joints' measured grid positions."""

    middle: Tensor

    def __init__(self, spec: Spec, inputs: int, hidden: int, *, append_positions: bool) -> None:
        super().__init__()
        self.scaling = ActionScaling(spec)
        self.net = mlp(inputs, hidden, 1, layer_norm=False)[:-1]
        self.append_positions = append_positions
        assert spec.grid_shape is not None
        # The grid position of the unit action 0, and the number of positions from there to 1.
        self.register_buffer("middle", (torch.tensor(spec.grid_shape) - 1) / 2, persistent=False)

    @property
    def max_step(self) -> Tensor:
        """Largest step of each joint in grid positions, (actions,)."""
        return self.scaling.max_step * self.middle

    def forward(self, features: Tensor, observation: Tensor) -> Tensor:
        """Features x for the head, (batch, hidden) or, with positions, (batch, hidden + joints)."""
        x: Tensor = self.net(features)
        if not self.append_positions:
            return x
        positions = (self.scaling.measured(observation) + 1.0) * self.middle
        return torch.cat([x, positions], dim=1)
