"""FlatHead: one column of weights for each action, and an Adam that updates only the columns of a batch's actions."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policies.common.action_grid import ActionGrid
from policies.common.heads import BatchColumns
from policies.dqn.enumerated_head import Columns, EnumeratedHead

ALIGNED = 64  # actions
ADAM_BETAS = (0.9, 0.999)  # PyTorch's defaults
ADAM_EPSILON = 1e-8


class FlatHead(EnumeratedHead):
    """One column of weights and a bias for each action: the function of `nn.Linear(hidden, actions)`.

    Q(s, a)  =  x . w_a + b_a

    Gradients are accumulated on copies of the columns of a batch's actions (`gather`), and `LazyAdam` changes only
    these. Therefore a state contains only the columns that were ever in a batch, and a target network copies only
    those that changed since its last copy.
    """

    table: Tensor

    def __init__(self, grid: ActionGrid, hidden: int, *, random: bool, seed: int) -> None:
        super().__init__(grid, ALIGNED)
        self._random = random
        self._seed = seed
        # Align rows with cache lines, which is an eighth faster.
        padded = math.ceil(grid.size / ALIGNED) * ALIGNED
        self.register_buffer("table", untouched_zeros(hidden + 1, padded)[:, : grid.size], persistent=False)
        if random:
            self._draw()
        self.learned = torch.zeros(grid.size, dtype=torch.bool)  # which columns differ from their initial values
        self.changed: list[Tensor] = []  # actions whose columns the target network has not copied yet

    @staticmethod
    def bytes_needed(grid: ActionGrid, hidden: int) -> int:
        """Memory of a head, its target, and the two moments of Adam."""
        return 4 * 4 * (hidden + 1) * grid.size

    def _draw(self) -> None:
        """Initialise weights and biases like `nn.Linear`."""
        bound = 1.0 / math.sqrt(len(self.table) - 1)
        self.table.uniform_(-bound, bound, generator=torch.Generator().manual_seed(self._seed))

    def columns_optimizer(self) -> "LazyAdam":
        """Adam for the columns."""
        return LazyAdam(self)

    def project(self, x: Tensor) -> Tensor:
        """Append a 1, which is multiplied with the bias."""
        return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)

    def columns(self) -> Columns:
        """A function that returns views of the table."""
        return lambda start, stop: self.table[:, start:stop]

    def gather(self, positions: Tensor) -> BatchColumns:
        """Copy the columns of these actions, for gradients."""
        actions, place = self.grid.index(positions).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        return BatchColumns(actions, self.table[:, actions].requires_grad_(torch.is_grad_enabled()), place)

    def q(self, x: Tensor, positions: Tensor, gathered: BatchColumns | None = None) -> Tensor:
        """Q (batch,) of these actions, with gradients for their gathered columns."""
        if gathered is None:
            gathered = self.gather(positions)
        # Q(s, a) = x . w_a + b_a
        return (self.project(x) * gathered.columns[:, gathered.place].T).sum(dim=1)

    def put(self, actions: Tensor, columns: Tensor) -> None:
        """Set the columns (rows, actions) of these actions."""
        self.table[:, actions] = columns
        self.learned[actions] = True
        self.changed.append(actions)

    def copy_from(self, other: "FlatHead") -> None:
        """Copy the columns that have changed since the last call."""
        if other.changed:
            changed = torch.cat(other.changed).unique()  # type: ignore[no-untyped-call]
            self.put(changed, other.table[:, changed])
            other.changed.clear()
            self.changed.clear()

    def get_extra_state(self) -> dict[str, Any]:
        """The initialisation of the head, and the columns that differ from it."""
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
        """Restore a state. Raises RuntimeError if its size differs."""
        if state["size"] != list(self.table.shape):
            raise RuntimeError(f"expected a head of {list(self.table.shape)} weights, got {state['size']}")
        self._random = state["random"]
        self._seed = state["seed"]
        self.table.zero_()
        if self._random:
            self._draw()
        self.learned.zero_()
        self.put(state["actions"], state["columns"])
        self.changed = [state["changed"]]


class LazyAdam:
    """Adam (Kingma and Ba 2015, Algorithm 1) that updates only the columns of the last batch's actions.

    The moments and the step count of an action do not change while it is in no batch. PyTorch's Adam would decay its
    moments, and move its column, in every update.
    """

    def __init__(self, head: FlatHead) -> None:
        self._head = head
        self._mean = untouched_zeros(*head.table.shape)
        self._square = untouched_zeros(*head.table.shape)
        self._count = torch.zeros(head.grid.size, dtype=torch.int32)

    def step(self, gathered: BatchColumns, learning_rate: float) -> None:
        """Update the gathered columns by their gradients."""
        actions = gathered.actions
        gradient = gathered.columns.grad
        assert gradient is not None

        # t <- t + 1,  m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2
        count = self._count[actions] + 1
        first, second = ADAM_BETAS
        mean = torch.lerp(gradient, self._mean[:, actions], first)
        square = torch.lerp(gradient.square(), self._square[:, actions], second)

        # theta <- theta - alpha m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon)
        denominator = (square / (1.0 - second**count)).sqrt() + ADAM_EPSILON
        step = learning_rate / (1.0 - first**count) * mean / denominator
        self._head.put(actions, gathered.columns.detach() - step)
        self._mean[:, actions] = mean
        self._square[:, actions] = square
        self._count[actions] = count

    def state_dict(self) -> dict[str, Tensor]:
        """Moments and step counts of the actions that were ever in a batch."""
        actions = self._count.nonzero()[:, 0]
        return {
            "actions": actions,
            "mean": self._mean[:, actions],
            "square": self._square[:, actions],
            "count": self._count[actions],
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state of `state_dict`."""
        for tensor in (self._mean, self._square, self._count):
            tensor.zero_()
        actions = state["actions"]
        self._mean[:, actions] = state["mean"]
        self._square[:, actions] = state["square"]
        self._count[actions] = state["count"]


def untouched_zeros(*shape: int) -> Tensor:
    """Zeros that the operating system allocates only when they are written to, as NumPy's do."""
    return torch.from_numpy(np.zeros(shape, np.float32))
