"""FeatureHead: weight columns computed from the angles of each action."""

import math

import torch
from torch import Tensor, nn

from policies.common.action_grid import ActionGrid
from policies.common.heads import BatchColumns
from policies.common.networks import fourier_features
from policies.dqn.enumerated_head import Columns, EnumeratedHead

ANGLE_OCTAVES = 3  # octaves of the Fourier features of an action's angles


class FeatureHead(EnumeratedHead):
    """Columns computed from the actions' angles by one layer of ReLUs, so that learning generalises over actions.

    Q(s, a)  =  mix(x) . relu(sum over joints of  W_j features(angle of a_j))

    The layer is a sum over the joints, so that a block takes one addition per weight.
    """

    def __init__(self, grid: ActionGrid, hidden: int) -> None:
        super().__init__(grid, grid.shape[-1])
        self.mix = nn.Linear(hidden, hidden)
        size = 1 + 2 * ANGLE_OCTAVES
        self.layers = nn.ModuleList(nn.Linear(size, hidden) for _ in grid.shape)
        for place, count in enumerate(grid.shape):
            angles = fourier_features(torch.linspace(-math.pi, math.pi, count)[:, None], ANGLE_OCTAVES)
            self.register_buffer(f"angles_{place}", angles, persistent=False)

    def project(self, x: Tensor) -> Tensor:
        """Mix the features linearly, so that Q can have either sign."""
        mixed: Tensor = self.mix(x)
        return mixed

    def _parts(self) -> list[Tensor]:
        """Terms of the layer's sum for each joint's positions, (hidden, positions) for each joint."""
        return [layer(getattr(self, f"angles_{place}")).T for place, layer in enumerate(self.layers)]

    def columns(self) -> Columns:
        """A function that computes the columns of whole rows of the grid: all positions of the last joint."""
        *others, last = self._parts()
        row = self.grid.shape[-1]
        memory = torch.empty(0)  # reused for all blocks: allocating it takes as long as the additions

        def block_columns(start: int, stop: int) -> Tensor:
            """Columns (hidden, stop - start), valid until the next call."""
            nonlocal memory
            # Sum over the joints except the last, one column a row of the grid.
            positions = self.grid.positions(torch.arange(start, stop, row))
            row_sum = torch.zeros(len(last), len(positions))
            for joint, part in enumerate(others):
                row_sum = row_sum + part[:, positions[:, joint]]

            # relu(sum over all joints)
            size = len(last) * (stop - start)
            if memory.numel() < size:
                memory = torch.empty(size)
            block = memory[:size].view(len(last), -1, row)
            return torch.add(row_sum[:, :, None], last[:, None, :], out=block).relu_().view(len(last), -1)

        return block_columns

    def q(self, x: Tensor, positions: Tensor, gathered: BatchColumns | None = None) -> Tensor:
        """Q (batch,) of these actions, with gradients."""
        # Q(s, a) = mix(x) . relu(sum over joints of W_j features(angle of a_j))
        terms = []
        for part, joint_positions in zip(self._parts(), positions.T, strict=True):
            terms.append(part[:, joint_positions])
        total = torch.stack(terms).sum(dim=0)
        return (self.project(x) * torch.relu(total).T).sum(dim=1)

    def copy_from(self, other: "FeatureHead") -> None:
        """Copy the weights of another head."""
        self.load_state_dict(other.state_dict())
