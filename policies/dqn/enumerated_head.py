"""EnumeratedHead: the exact maximum over every action of the grid, block by block.

All Q-values are never held at once: of 753,571 actions and a batch of 64 they would take 190 MB.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from policies.common.action_grid import ActionGrid
from policies.common.heads import BatchColumns, HeadOptimizer, refuse_nan

BLOCK_NUMBERS = 2**17  # Q-values of a block, those of all rows of a batch together: half a megabyte, as caches like it

Columns = Callable[[int, int], Tensor]


class EnumeratedHead(nn.Module, ABC):
    """A head that looks through every action: Q(s, a) is the product of the features and the action's column."""

    def __init__(self, grid: ActionGrid, quantum: int) -> None:
        """Blocks are of a multiple of `quantum` actions."""
        super().__init__()
        self.grid = grid
        self.quantum = quantum
        self._frozen: Tensor | None = None

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """What is multiplied with a column, (batch, column), from features (batch, hidden)."""

    @abstractmethod
    def columns(self) -> Columns:
        """A function that gives the columns of the actions from one index to another, (column, stop - start).

        The first is a multiple of the quantum, and so is the second, but for the last block.
        """

    @torch.no_grad()
    def maximum(self, x: Tensor) -> Tensor:
        """The largest Q (batch,) of all actions."""
        tops = torch.stack([q.amax(dim=1) for _, q in self._blocks(x)])
        return refuse_nan(tops.amax(dim=0))

    @torch.no_grad()
    def greedy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The largest Q (batch,) and its positions (batch, actions); the lowest index if there are several."""
        if torch.compiler.is_exporting():
            return self._greedy_at_once(x)
        best = torch.full((len(x),), -torch.inf)
        index = torch.zeros(len(x), dtype=torch.int64)
        for start, q in self._blocks(x):
            top = q.amax(dim=1)
            for row in (top > best).nonzero()[:, 0].tolist():  # few, once the first blocks are through
                index[row] = start + q[row].argmax()
            best = torch.maximum(best, top)  # which keeps a NaN
        return refuse_nan(best), self.grid.positions(index)

    def _blocks(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The first index and the Q-values (batch, block) of one block of actions after another, in the same memory."""
        features = self.project(x)
        columns = self.columns()
        block = max(1, BLOCK_NUMBERS // (len(x) * self.quantum)) * self.quantum
        buffer = torch.empty(len(x) * block)
        for start in range(0, self.grid.size, block):
            these = columns(start, min(start + block, self.grid.size))
            yield start, torch.mm(features, these, out=buffer[: len(x) * these.shape[1]].view(len(x), -1))

    def gather(self, positions: Tensor) -> BatchColumns | None:
        """Copies of the columns of these actions, where columns are no parameters."""
        return None

    def own_optimizer(self) -> HeadOptimizer | None:
        """An optimiser of the columns, where they are no parameters."""
        return None

    @torch.no_grad()
    def freeze(self) -> None:
        """Work out all columns, for a graph."""
        self._frozen = self.columns()(0, self.grid.size)

    def _greedy_at_once(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same for a graph, which has no loop: the best first position, then the best of what goes with it."""
        assert self._frozen is not None
        # max over all actions = max over the first joint's positions of the max over the rest
        q = torch.matmul(self.project(x), self._frozen)
        rest = self.grid.size // self.grid.shape[0]
        by_first = q.reshape(-1, self.grid.shape[0], rest)
        first = by_first.amax(dim=2).argmax(dim=1, keepdim=True)
        row = by_first.gather(1, first[:, :, None].expand(-1, 1, rest))[:, 0]
        return q.amax(dim=1), self.grid.positions(first[:, 0] * rest + row.argmax(dim=1))

    @torch.no_grad()
    def margin(self, x: Tensor) -> Tensor:
        """By how much (batch,) the largest Q surpasses the next."""
        each = [q.topk(min(2, q.shape[1]), dim=1).values for _, q in self._blocks(x)]
        tops = torch.cat(each, dim=1).topk(2, dim=1).values
        return tops[:, 0] - tops[:, 1]
