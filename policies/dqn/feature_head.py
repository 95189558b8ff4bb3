"""FeatureHead: an action's column of weights computed from its angles."""

import math

import torch
from torch import Tensor, nn

from policies.common.action_grid import ActionGrid
from policies.common.heads import BatchColumns
from policies.common.networks import fourier_features
from policies.dqn.enumerated_head import Columns, EnumeratedHead

ANGLE_OCTAVES = 3  # of the features of an action's angles


class FeatureHead(EnumeratedHead):
    """Columns computed from the actions' angles by one layer of rectified units: what is learned of one holds for all.

    Before its rectifier that layer is a sum over the joints, so a block costs one addition for each number.
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
        """Mixed, so that Q can have any sign."""
        mixed: Tensor = self.mix(x)
        return mixed

    def _parts(self) -> list[Tensor]:
        """What each joint's positions add, (hidden, positions) for each joint."""
        return [layer(getattr(self, f"angles_{place}")).T for place, layer in enumerate(self.layers)]

    def columns(self) -> Columns:
        """Computed when they are asked for."""
        *others, last = self._parts()
        row = self.grid.shape[-1]
        memory = torch.empty(0)  # the block's, used again for the next: asking for it anew costs as much as the sums

        def block_columns(start: int, stop: int) -> Tensor:
            """Those of whole rows of the last joint's positions, until the next call."""
            nonlocal memory
            places = self.grid.positions(torch.arange(start, stop, row))
            before = torch.zeros(len(last), len(places))
            for joint, part in enumerate(others):
                before = before + part[:, places[:, joint]]
            size = len(last) * (stop - start)
            if memory.numel() < size:
                memory = torch.empty(size)
            block = memory[:size].view(len(last), -1, row)
            return torch.add(before[:, :, None], last[:, None, :], out=block).relu_().view(len(last), -1)

        return block_columns

    def q(self, x: Tensor, positions: Tensor, gathered: BatchColumns | None = None) -> Tensor:
        """Q (batch,) of these actions, with gradients."""
        parts = zip(self._parts(), positions.T, strict=True)
        # Q(s, a) = mix(x) . relu(sum over joints of W_j angles(a_j))
        total = torch.stack([part[:, places] for part, places in parts]).sum(dim=0)
        return (self.project(x) * torch.relu(total).T).sum(dim=1)

    def follow(self, other: "FeatureHead") -> None:
        """Copy it."""
        self.load_state_dict(other.state_dict())
