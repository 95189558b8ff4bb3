"""BranchingHead: Q-values or logits of each joint's grid positions, added up."""

import copy

import torch
from torch import Tensor, nn

from policies.common.action_grid import ActionGrid
from policies.common.heads import BatchColumns, refuse_nan

RAMPS = (0.125, 0.25, 0.5, 1.0)  # of the largest step: how far ramps around the present position reach


class BranchingHead(nn.Module):
    """Q(s, a) as the mean of what each joint's position is worth (DecQN, Seyde et al. 2023, equation 4).

    The largest of all combinations is that of each joint's best position: exact, from the sum of the joints' positions
    (273 of them) instead of their product.

    A position is worth an output of its own and, what a table is slow to learn, something for how far it is from where
    the joint is: in ramps of several widths, since little of a long step comes about in one control period.
    """

    width: Tensor

    def __init__(self, grid: ActionGrid, hidden: int, max_step: Tensor) -> None:
        """`max_step` (actions,): the grid positions that a joint can pass in one control period."""
        super().__init__()
        self.grid = grid
        self.joints = len(grid.shape)
        self.table = nn.Linear(hidden, sum(grid.shape))
        self.gains = nn.Linear(hidden, self.joints * 2 * len(RAMPS))
        self.register_buffer("width", max_step[:, None] * torch.tensor(RAMPS), persistent=False)

    def _ramps(self, step: Tensor, joint: int | slice) -> Tensor:
        """Steps (..., 1) in grid positions as ramps that end at several widths, with their sign and without."""
        ramps = torch.clamp(step / self.width[joint], -1.0, 1.0)
        return torch.cat([ramps, ramps.abs()], dim=-1)

    def worths(self, x: Tensor) -> list[Tensor]:
        """What each joint's positions are worth, (batch, positions) for each joint."""
        features = x[:, : -self.joints]
        present = x[:, -self.joints :]
        gains = self.gains(features).view(len(x), self.joints, -1)
        worths = []
        for joint, table in enumerate(self.table(features).split(self.grid.shape, dim=1)):
            step = torch.arange(self.grid.shape[joint]) - present[:, joint, None]
            ramps = self._ramps(step[:, :, None], joint)
            worths.append((table + torch.bmm(ramps, gains[:, joint, :, None])[:, :, 0]) / self.joints)
        return worths

    def greedy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The largest Q (batch,) and its positions (batch, actions); the lowest index if there are several."""
        worths = self.worths(x)
        positions = torch.stack([worth.argmax(dim=1) for worth in worths], dim=1)
        q = torch.stack([worth.amax(dim=1) for worth in worths]).sum(dim=0)
        return (q if torch.compiler.is_exporting() else refuse_nan(q)), positions

    def maximum(self, x: Tensor) -> Tensor:
        """The largest Q (batch,)."""
        return self.greedy(x)[0]

    def gather(self, positions: Tensor) -> None:
        """None: all that it learns is in its parameters."""

    def q(self, x: Tensor, positions: Tensor, gathered: BatchColumns | None = None) -> Tensor:
        """Q (batch,) of these actions, with gradients."""
        features = x[:, : -self.joints]
        present = x[:, -self.joints :]
        offsets = torch.tensor([sum(self.grid.shape[:joint]) for joint in range(self.joints)])
        table = self.table(features).gather(1, positions + offsets)
        ramps = self._ramps((positions - present)[:, :, None], slice(None))
        gains = self.gains(features).view(ramps.shape)
        # Q(s, a) = mean over joints of  table_j(a_j) + gains_j . ramps(a_j - present_j)
        q: Tensor = (table + (gains * ramps).sum(dim=-1)).mean(dim=1)
        return q

    def margin(self, x: Tensor) -> Tensor:
        """By how much (batch,) the largest Q surpasses the next."""
        tops = [worth.topk(2).values for worth in self.worths(x)]
        return torch.stack([top[:, 0] - top[:, 1] for top in tops]).amin(dim=0)

    def follow(self, other: "BranchingHead") -> None:
        """Copy it."""
        self.load_state_dict(other.state_dict())

    def freeze(self) -> None:
        """Do nothing: there is nothing to work out."""

    def own_optimizer(self) -> None:
        """None: all that it learns is in its parameters."""


def make_branching_heads(grid: ActionGrid, hidden: int, max_step: Tensor) -> tuple[BranchingHead, BranchingHead]:
    """A head and its target, alike."""
    head = BranchingHead(grid, hidden, max_step)
    return head, copy.deepcopy(head).requires_grad_(False)
