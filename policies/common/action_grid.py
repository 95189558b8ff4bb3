"""ActionGrid: actions as positions on a grid, as one index, and in the environment's units, inside a network.

It numbers actions as `envs.degree_grid.DegreeGrid` does, with PyTorch's integers and buffers that are exported with a
policy; that one checks positions and indices from outside, in double precision. A test compares them.
"""

import math

import torch
from torch import Tensor, nn

from policies.agent import Spec


class ActionGrid(nn.Module):
    """All combinations of each action's evenly spaced values; of their indices, the last action's changes fastest."""

    low: Tensor
    step: Tensor
    counts: Tensor
    strides: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        assert spec.grid_shape is not None
        self.shape = spec.grid_shape
        self.size = math.prod(self.shape)
        low = torch.tensor(spec.action_low)
        counts = torch.tensor(self.shape)
        strides = [math.prod(self.shape[place + 1 :]) for place in range(len(self.shape))]
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("step", (torch.tensor(spec.action_high) - low) / (counts - 1), persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("strides", torch.tensor(strides), persistent=False)

    def positions(self, index: Tensor) -> Tensor:
        """Positions (batch, actions) of indices (batch,)."""
        return index[:, None] // self.strides % self.counts

    def index(self, positions: Tensor) -> Tensor:
        """Indices (batch,) of positions (batch, actions)."""
        return (positions * self.strides).sum(-1)

    def values(self, positions: Tensor) -> Tensor:
        """Positions (batch, actions) in the environment's units."""
        return self.low + self.step * positions

    def positions_of(self, values: Tensor) -> Tensor:
        """The positions (batch, actions) nearest to values in the environment's units."""
        nearest = torch.round((values - self.low) / self.step).long()
        return torch.minimum(nearest.clamp(min=0), self.counts - 1)

    def holds(self, values: Tensor) -> Tensor:
        """Whether values (batch, actions) in the environment's units are on the grid, (batch,)."""
        off = (self.values(self.positions_of(values)) - values).abs().amax(dim=1)
        return off < 1e-3 * self.step.min()
