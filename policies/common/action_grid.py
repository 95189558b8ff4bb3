"""ActionGrid: conversion between grid positions, action indices and the environment's units, inside a network.

The numbering is that of `envs.degree_grid.DegreeGrid`, which validates the actions that an environment receives. This
one works on tensors, and its buffers are exported with a policy. A test compares the two.
"""

import math

import torch
from torch import Tensor, nn

from policies.agent import Spec

TOLERANCE = 1e-3  # of a step, within which a value is on the grid


class ActionGrid(nn.Module):
    """All combinations of evenly spaced values of each action, in row-major order: the last action varies fastest.

    index = sum over actions of  position_i * stride_i,     value_i = low_i + step_i * position_i
    """

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
        strides = [math.prod(self.shape[action + 1 :]) for action in range(len(self.shape))]
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
        """Values (batch, actions) in the environment's units of positions (batch, actions)."""
        return self.low + self.step * positions

    def positions_of(self, values: Tensor) -> Tensor:
        """Positions (batch, actions) nearest to values (batch, actions) in the environment's units."""
        nearest = torch.round((values - self.low) / self.step).long()
        return torch.minimum(nearest.clamp(min=0), self.counts - 1)

    def contains(self, values: Tensor) -> Tensor:
        """Mask (batch,) of the values (batch, actions), in the environment's units, that are on the grid."""
        distance = (self.values(self.positions_of(values)) - values).abs().amax(dim=1)
        return distance < TOLERANCE * self.step.min()
