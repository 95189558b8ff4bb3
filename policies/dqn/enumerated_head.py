"""EnumeratedHead: the exact maximum over all actions of the grid, computed block by block.

The Q-values of all actions are never in memory at once: 753,571 actions and a batch of 64 would need 190 MB.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from policies.common.action_grid import ActionGrid
from policies.common.heads import BatchColumns, HeadOptimizer, raise_if_nan

BLOCK_NUMBERS = 2**17  # Q-values in one block, of all rows of a batch together: 0.5 MB, which fits into the cache

Columns = Callable[[int, int], Tensor]  # (start, stop) -> the columns of these actions, (rows, stop - start)


class EnumeratedHead(nn.Module, ABC):
    """A head that searches all actions: Q(s, a) is the dot product of projected features and the action's column."""

    def __init__(self, grid: ActionGrid, block_multiple: int) -> None:
        """Create the head. Blocks have a multiple of `block_multiple` actions."""
        super().__init__()
        self.grid = grid
        self.block_multiple = block_multiple
        self._export_columns: Tensor | None = None  # the columns of all actions, for an exported graph

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """Project features (batch, hidden) to the vectors (batch, rows) that are multiplied with the columns."""

    @abstractmethod
    def columns(self) -> Columns:
        """A function that returns the columns of a range of actions, (rows, stop - start).

        It is called with multiples of `block_multiple`, except for the end of the last block.
        """

    @torch.no_grad()
    def maximum(self, x: Tensor) -> Tensor:
        """The maximum of Q (batch,)."""
        maxima = torch.stack([q.amax(dim=1) for _, q in self._blocks(x)])
        return raise_if_nan(maxima.amax(dim=0))

    @torch.no_grad()
    def greedy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The maximum of Q (batch,) and its positions (batch, actions); the lowest index of several maxima."""
        if torch.compiler.is_exporting():
            return self._greedy_at_once(x)
        best = torch.full((len(x),), -torch.inf)
        index = torch.zeros(len(x), dtype=torch.int64)
        for start, q in self._blocks(x):
            block_maximum = q.amax(dim=1)
            # Search a block for the argmax only if it raises the maximum, which is rare after the first blocks.
            for row in (block_maximum > best).nonzero()[:, 0].tolist():
                index[row] = start + q[row].argmax()
            best = torch.maximum(best, block_maximum)  # propagates NaN
        return raise_if_nan(best), self.grid.positions(index)

    def _blocks(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the first index and the Q-values (batch, block) of each block, all in the same memory."""
        features = self.project(x)
        columns = self.columns()
        block = max(1, BLOCK_NUMBERS // (len(x) * self.block_multiple)) * self.block_multiple
        buffer = torch.empty(len(x) * block)
        for start in range(0, self.grid.size, block):
            block_columns = columns(start, min(start + block, self.grid.size))
            q = buffer[: len(x) * block_columns.shape[1]].view(len(x), -1)
            yield start, torch.mm(features, block_columns, out=q)

    def gather(self, positions: Tensor) -> BatchColumns | None:
        """Copy the columns of these actions, for gradients; None if they are computed from parameters."""
        return None

    def columns_optimizer(self) -> HeadOptimizer | None:
        """An optimiser of the columns; None if they are computed from parameters."""
        return None

    @torch.no_grad()
    def prepare_export(self) -> None:
        """Precompute the columns of all actions."""
        self._export_columns = self.columns()(0, self.grid.size)

    def _greedy_at_once(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`greedy` without a loop, for an exported graph: the best position of the first joint, then of the others."""
        assert self._export_columns is not None
        # max over actions = max over the first joint's positions of the max over the other joints' positions
        q = torch.matmul(self.project(x), self._export_columns)
        rest = self.grid.size // self.grid.shape[0]
        by_first = q.reshape(-1, self.grid.shape[0], rest)
        first = by_first.amax(dim=2).argmax(dim=1, keepdim=True)
        row = by_first.gather(1, first[:, :, None].expand(-1, 1, rest))[:, 0]
        return q.amax(dim=1), self.grid.positions(first[:, 0] * rest + row.argmax(dim=1))

    @torch.no_grad()
    def action_gap(self, x: Tensor) -> Tensor:
        """Difference (batch,) between the largest and the second largest Q."""
        # The two largest of each block, and the two largest of those.
        candidates = [q.topk(min(2, q.shape[1]), dim=1).values for _, q in self._blocks(x)]
        largest, second = torch.cat(candidates, dim=1).topk(2, dim=1).values.unbind(dim=1)
        return largest - second
