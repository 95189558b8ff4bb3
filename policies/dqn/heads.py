"""Heads that look through every action of the grid, block by block, and never hold all their Q-values.

`FlatHead` has one column of weights for each action, `FeatureHead` computes an action's column from its angles.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from policies.common.action_grid import ActionGrid
from policies.common.heads import Head, refuse_nan
from policies.common.memory import check_memory
from policies.common.networks import fourier_features
from policies.dqn.settings import DQNSettings

BLOCK_NUMBERS = 2**17  # Q-values of a block, those of all rows of a batch together: half a megabyte, as caches like it
ALIGNED = 64  # actions
LARGEST_EXPORT = 2**31 - 2**22  # bytes: protobuf's limit, less room for the rest of the file
ANGLE_OCTAVES = 3  # of the features of an action's angles
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8  # PyTorch's own

Columns = Callable[[int, int], Tensor]


class EnumeratedHead(nn.Module, ABC):
    """A head that looks through every action: Q(s, a) is the product of the features and the action's column."""

    def __init__(self, grid: ActionGrid, quantum: int) -> None:
        """Blocks are of a multiple of `quantum` actions."""
        super().__init__()
        self.grid, self.quantum = grid, quantum
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
        tops = [q.amax(dim=1) for _, q in self._blocks(x)]
        return refuse_nan(torch.stack(tops).amax(dim=0))

    @torch.no_grad()
    def greedy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The largest Q (batch,) and its positions (batch, actions); the lowest index if there are several."""
        if torch.compiler.is_exporting():
            return self._greedy_at_once(x)
        best, index = torch.full((len(x),), -torch.inf), torch.zeros(len(x), dtype=torch.int64)
        for start, q in self._blocks(x):
            top = q.amax(dim=1)
            for row in (top > best).nonzero()[:, 0].tolist():  # few, once the first blocks are through
                index[row] = start + q[row].argmax()
            best = torch.maximum(best, top)  # which keeps a NaN
        return refuse_nan(best), self.grid.positions(index)

    def _blocks(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The first index and the Q-values (batch, block) of one block of actions after another, in the same memory."""
        features, columns = self.project(x), self.columns()
        block = max(1, BLOCK_NUMBERS // (len(x) * self.quantum)) * self.quantum
        buffer = torch.empty(len(x) * block)
        for start in range(0, self.grid.size, block):
            these = columns(start, min(start + block, self.grid.size))
            yield start, torch.mm(features, these, out=buffer[: len(x) * these.shape[1]].view(len(x), -1))

    def own_optimizer(self) -> "LazyAdam | None":
        """An optimiser of the columns, where they are no parameters."""
        return None

    @torch.no_grad()
    def freeze(self) -> None:
        """Work out all columns, for a graph."""
        self._frozen = self.columns()(0, self.grid.size)

    def _greedy_at_once(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same for a graph, which has no loop: the best first position, then the best of what goes with it."""
        assert self._frozen is not None
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


class FlatHead(EnumeratedHead):
    """One column of weights and a bias for each action: what `nn.Linear(hidden, actions)` computes.

    A batch's gradients go to a copy of the columns of its actions, which is all that `LazyAdam` then changes. So a
    state holds only columns that were ever in a batch, and a target has only those to copy that were since its last.
    """

    table: Tensor

    def __init__(self, grid: ActionGrid, hidden: int, *, random: bool, seed: int) -> None:
        super().__init__(grid, ALIGNED)
        self._random, self._seed = random, seed
        # Rows are whole cache lines apart: an eighth faster.
        padded = math.ceil(grid.size / ALIGNED) * ALIGNED
        self.register_buffer("table", untouched_zeros(hidden + 1, padded)[:, : grid.size], persistent=False)
        if random:
            self._draw()
        self.learned = torch.zeros(grid.size, dtype=torch.bool)  # which columns are no longer as they began
        self.changed: list[Tensor] = []  # actions whose columns a follower has not copied yet
        self.batch: tuple[Tensor, Tensor] | None = None  # actions and their columns, which get the gradients

    @staticmethod
    def bytes_needed(grid: ActionGrid, hidden: int) -> int:
        """The memory of a head with its two moments and its target."""
        return 4 * 4 * (hidden + 1) * grid.size

    def _draw(self) -> None:
        """Weights and biases as `nn.Linear` draws them."""
        bound = 1.0 / math.sqrt(len(self.table) - 1)
        self.table.uniform_(-bound, bound, generator=torch.Generator().manual_seed(self._seed))

    def own_optimizer(self) -> "LazyAdam":
        """Adam for the columns."""
        return LazyAdam(self)

    def project(self, x: Tensor) -> Tensor:
        """With a 1, which the bias is multiplied with."""
        return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)

    def columns(self) -> Columns:
        """Views."""
        return lambda start, stop: self.table[:, start:stop]

    def q(self, x: Tensor, positions: Tensor) -> Tensor:
        """Q (batch,) of these actions, with gradients."""
        actions, place = self.grid.index(positions).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        columns = self.table[:, actions]
        if torch.is_grad_enabled():
            self.batch = actions, columns.requires_grad_()
        return (self.project(x) * columns[:, place].T).sum(dim=1)

    def put(self, actions: Tensor, columns: Tensor) -> None:
        """Change the columns of these actions."""
        self.table[:, actions] = columns
        self.learned[actions] = True
        self.changed.append(actions)

    def follow(self, other: "FlatHead") -> None:
        """Copy the columns that have changed since the last call."""
        if other.changed:
            changed = torch.cat(other.changed).unique()  # type: ignore[no-untyped-call]
            self.put(changed, other.table[:, changed])
            other.changed.clear()
            self.changed.clear()

    def get_extra_state(self) -> dict[str, Any]:
        """How the head began, and the columns that are no longer so."""
        actions = self.learned.nonzero()[:, 0]
        return {
            "random": self._random,
            "seed": self._seed,
            "size": list(self.table.shape),
            "actions": actions,
            "columns": self.table[:, actions],
            "changed": torch.cat([actions[:0], *self.changed]).unique(),  # type: ignore[no-untyped-call]
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises RuntimeError for one of another size."""
        if state["size"] != list(self.table.shape):
            raise RuntimeError(f"wanted a head of {list(self.table.shape)} weights, got {state['size']}")
        self._random, self._seed = state["random"], state["seed"]
        self.table.zero_()
        if self._random:
            self._draw()
        self.learned.zero_()
        self.put(state["actions"], state["columns"])
        self.changed = [state["changed"]]


class LazyAdam:
    """Adam (Kingma and Ba 2015, Algorithm 1) for the columns of a flat head, those of the last batch only.

    An action's moments and count rest while it is in no batch; Adam's own would decay, and go on moving its column.
    """

    def __init__(self, head: FlatHead) -> None:
        self._head = head
        self._mean, self._square = (untouched_zeros(*head.table.shape) for _ in range(2))
        self._count = torch.zeros(head.grid.size, dtype=torch.int32)

    def step(self, learning_rate: float) -> None:
        """Learn from what `q` and `backward` left."""
        assert self._head.batch is not None
        actions, columns = self._head.batch
        gradient = columns.grad
        assert gradient is not None
        count = self._count[actions] + 1
        first, second = ADAM_BETAS
        mean = torch.lerp(gradient, self._mean[:, actions], first)
        square = torch.lerp(gradient.square(), self._square[:, actions], second)
        denominator = (square / (1.0 - second**count)).sqrt() + ADAM_EPSILON
        self._head.put(actions, columns.detach() - learning_rate / (1.0 - first**count) * mean / denominator)
        self._mean[:, actions], self._square[:, actions], self._count[actions] = mean, square, count

    def state_dict(self) -> dict[str, Tensor]:
        """Moments and counts of the actions that have any."""
        actions = self._count.nonzero()[:, 0]
        return {
            "actions": actions,
            "mean": self._mean[:, actions],
            "square": self._square[:, actions],
            "count": self._count[actions],
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        for tensor in (self._mean, self._square, self._count):
            tensor.zero_()
        actions = state["actions"]
        self._mean[:, actions], self._square[:, actions] = state["mean"], state["square"]
        self._count[actions] = state["count"]


def untouched_zeros(*shape: int) -> Tensor:
    """Zeros that take up no memory until they are written to, as NumPy's do."""
    return torch.from_numpy(np.zeros(shape, np.float32))


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
            if memory.numel() < (size := len(last) * (stop - start)):
                memory = torch.empty(size)
            block = memory[:size].view(len(last), -1, row)
            return torch.add(before[:, :, None], last[:, None, :], out=block).relu_().view(len(last), -1)

        return block_columns

    def q(self, x: Tensor, positions: Tensor) -> Tensor:
        """Q (batch,) of these actions, with gradients."""
        parts = zip(self._parts(), positions.T, strict=True)
        total = torch.stack([part[:, places] for part, places in parts]).sum(dim=0)
        return (self.project(x) * torch.relu(total).T).sum(dim=1)

    def follow(self, other: "FeatureHead") -> None:
        """Copy it."""
        self.load_state_dict(other.state_dict())


def make_heads(settings: DQNSettings, grid: ActionGrid, seed: int) -> tuple[Head, Head]:
    """A head and its target, alike.

    Raises ValueError for a head that no ONNX file can hold, MemoryError for one that the memory cannot.
    """
    hidden = settings.hidden_units
    exported = 4 * (hidden + 1) * grid.size
    if exported > LARGEST_EXPORT:
        widest = max(0, LARGEST_EXPORT // (4 * grid.size) - 1)
        raise ValueError(
            f"hidden-units: {hidden} on {grid.size:,} actions make a head of {exported / 2**30:.2f} GiB, and an ONNX "
            f"file holds at most 2 (protobuf's limit): wanted at most {widest}"
        )
    if settings.head == "features":
        features = FeatureHead(grid, hidden)
        return features, copy.deepcopy(features).requires_grad_(False)
    # PyTorch itself would be killed, not refused.
    check_memory(FlatHead.bytes_needed(grid, hidden), f"a head of {hidden} units for each of {grid.size:,} actions")
    first, second = (FlatHead(grid, hidden, random=settings.head == "random", seed=seed) for _ in range(2))
    return first, second
