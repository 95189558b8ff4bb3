"""BranchingHead: Q-values or logits of each joint's grid positions, summed over the joints."""

import copy

import torch
from torch import Tensor, nn

from policies.common.action_grid import ActionGrid
from policies.common.heads import BatchColumns, raise_if_nan

RAMPS = (0.125, 0.25, 0.5, 1.0)  # widths of the ramps around the measured position, as fractions of the largest step


class BranchingHead(nn.Module):
    """Q(s, a) as the mean of one value per joint's position (DecQN, Seyde et al. 2023, equation 4).

    The maximum over all combinations consists of each joint's best position: exact, from the sum of the numbers of
    positions (273) instead of their product (753,571).

    The value of a position is an output of its own plus a function of its displacement from the measured position,
    which a table of outputs is slow to learn:

        Q_j(s, p)  =  table_j(s, p) + gains_j(s) . ramps(p - p_j),      Q(s, a)  =  mean over joints of  Q_j(s, a_j)

    The ramps have several widths, since an arm makes only a part of a long step in one control period.

    The features x (batch, hidden + joints) end with the measured positions p_j.
    """

    ramp_width: Tensor

    def __init__(self, grid: ActionGrid, hidden: int, max_step: Tensor) -> None:
        """Create the layers. `max_step` (actions,) is each joint's largest step in grid positions."""
        super().__init__()
        self.grid = grid
        self.joints = len(grid.shape)
        self.table = nn.Linear(hidden, sum(grid.shape))
        self.gains = nn.Linear(hidden, self.joints * 2 * len(RAMPS))
        self.register_buffer("ramp_width", max_step[:, None] * torch.tensor(RAMPS), persistent=False)

    def _ramps(self, step: Tensor, joint: int | slice) -> Tensor:
        """Steps (..., 1) in grid positions, clipped at each width, signed and absolute: (..., 2 * len(RAMPS))."""
        ramps = torch.clamp(step / self.ramp_width[joint], -1.0, 1.0)
        return torch.cat([ramps, ramps.abs()], dim=-1)

    def branch_values(self, x: Tensor) -> list[Tensor]:
        """Values of each joint's positions, (batch, positions) for each joint; their sum over joints is Q."""
        features = x[:, : -self.joints]
        measured = x[:, -self.joints :]
        gains = self.gains(features).view(len(x), self.joints, -1)
        values = []
        for joint, table in enumerate(self.table(features).split(self.grid.shape, dim=1)):
            # Q_j(s, p) / joints, for all positions p
            step = torch.arange(self.grid.shape[joint]) - measured[:, joint, None]
            ramps = self._ramps(step[:, :, None], joint)
            values.append((table + torch.bmm(ramps, gains[:, joint, :, None])[:, :, 0]) / self.joints)
        return values

    def greedy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The maximum of Q (batch,) and its positions (batch, actions); the lowest index of several maxima."""
        # max over a of Q(s, a) = sum over joints of  max over p of Q_j(s, p) / joints
        values = self.branch_values(x)
        positions = torch.stack([branch.argmax(dim=1) for branch in values], dim=1)
        q = torch.stack([branch.amax(dim=1) for branch in values]).sum(dim=0)
        return (q if torch.compiler.is_exporting() else raise_if_nan(q)), positions

    def maximum(self, x: Tensor) -> Tensor:
        """The maximum of Q (batch,)."""
        return self.greedy(x)[0]

    def gather(self, positions: Tensor) -> None:
        """None: all weights are parameters."""

    def q(self, x: Tensor, positions: Tensor, gathered: BatchColumns | None = None) -> Tensor:
        """Q (batch,) of these actions, with gradients."""
        features = x[:, : -self.joints]
        measured = x[:, -self.joints :]
        offsets = torch.tensor([sum(self.grid.shape[:joint]) for joint in range(self.joints)])
        table = self.table(features).gather(1, positions + offsets)
        ramps = self._ramps((positions - measured)[:, :, None], slice(None))
        gains = self.gains(features).view(ramps.shape)
        # Q(s, a) = mean over joints of  table_j(s, a_j) + gains_j(s) . ramps(a_j - p_j)
        q: Tensor = (table + (gains * ramps).sum(dim=-1)).mean(dim=1)
        return q

    def action_gap(self, x: Tensor) -> Tensor:
        """Difference (batch,) between the largest and the second largest Q, which differ in one joint's position."""
        gaps = []
        for branch in self.branch_values(x):
            largest, second = branch.topk(2).values.unbind(dim=1)
            gaps.append(largest - second)
        return torch.stack(gaps).amin(dim=0)

    def copy_from(self, other: "BranchingHead") -> None:
        """Copy the weights of another head."""
        self.load_state_dict(other.state_dict())

    def prepare_export(self) -> None:
        """Do nothing: there is nothing to precompute."""

    def columns_optimizer(self) -> None:
        """None: all weights are parameters."""


def make_branching_heads(grid: ActionGrid, hidden: int, max_step: Tensor) -> tuple[BranchingHead, BranchingHead]:
    """A head and its target, with the same weights."""
    head = BranchingHead(grid, hidden, max_step)
    return head, copy.deepcopy(head).requires_grad_(False)
