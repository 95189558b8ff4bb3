"""ReplayBuffer: the latest transitions, one row each, sampled uniformly."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.agent import FloatArray, Spec, Transition

BETWEEN = ("achieved_between", "desired_between")


class ReplayBuffer:
    """A ring buffer of transitions in one float32 array, so that a batch is a single gather.

    If an action is held for several control steps (`action_repeat`), it also stores the goals after each control step
    but the last, `achieved_between` and `desired_between`, on which the rewards of relabelled transitions depend.

    The index of a transition is its row in the array.
    """

    def __init__(self, capacity: int, spec: Spec, action_repeat: int = 1) -> None:
        # The fields of a row, with their widths.
        sizes = {
            "observation": spec.observation_size,
            "achieved_goal": spec.goal_size,
            "desired_goal": spec.goal_size,
            "action": len(spec.action_low),
            "reward": 1,
            "next_observation": spec.observation_size,
            "next_achieved_goal": spec.goal_size,
            "next_desired_goal": spec.goal_size,
            "terminated": 1,
            "ended": 1,
        }
        self._between = action_repeat - 1  # number of control steps of a transition but the last
        self._width_without_between = sum(sizes.values())  # width of a row without the goals after these
        if self._between:
            sizes |= dict.fromkeys(BETWEEN, self._between * spec.goal_size)
        # The columns of each field, side by side.
        ends = np.cumsum(list(sizes.values())).tolist()
        self.columns: dict[str, slice] = {}  # columns of each field
        for (name, size), end in zip(sizes.items(), ends, strict=True):
            self.columns[name] = slice(end - size, end)
        self._rows = np.zeros((capacity, ends[-1]), np.float32)
        self._next = 0  # row of the next transition
        self._num_envs = 1  # rows of one step
        self.size = 0  # number of stored transitions

    @property
    def capacity(self) -> int:
        """Largest number of stored transitions."""
        return len(self._rows)

    def add(self, transition: Transition) -> None:
        """Store one step of all environments, overwriting the oldest transitions once the buffer is full."""
        fields = [
            transition.observation["observation"],
            transition.observation["achieved_goal"],
            transition.observation["desired_goal"],
            transition.action,
            transition.reward[:, None],
            transition.next_observation["observation"],
            transition.next_observation["achieved_goal"],
            transition.next_observation["desired_goal"],
            transition.terminated[:, None],
            transition.ended[:, None],
        ]
        if self._between:
            for goals in (transition.achieved_between, transition.desired_between):
                assert goals is not None
                fields.append(goals.reshape(len(goals), -1))
        # Write the rows where the oldest ones are.
        rows = np.concatenate(fields, axis=-1, dtype=np.float32)
        indices = (self._next + np.arange(len(rows))) % self.capacity
        self._num_envs = len(rows)
        self._rows[indices] = rows
        self._next = (self._next + len(rows)) % self.capacity
        self.size = min(self.size + len(rows), self.capacity)

    def sample(self, batch: int, generator: np.random.Generator) -> dict[str, FloatArray]:
        """Fields (batch, size) of `batch` transitions drawn with replacement."""
        return self.at(self.draw(batch, generator))

    def draw(self, batch: int, generator: np.random.Generator, *, latest: bool = False) -> NDArray[np.int64]:
        """Indices (batch,) of transitions drawn with replacement from all or, with `latest`, from the last step."""
        if latest:
            return (self._next - 1 - generator.integers(self._num_envs, size=batch)) % self.capacity
        return generator.integers(self.size, size=batch)

    def at(self, indices: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Fields (batch, size) of the transitions with these indices."""
        rows = self._rows[indices]
        return {name: rows[:, columns] for name, columns in self.columns.items()}

    def following(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Indices (batch,) of the same environments' next steps, and whether these belong to the same episode."""
        newer = (self._next - 1 - indices) % self.capacity  # number of transitions stored after each
        is_stored = newer >= self._num_envs
        continues = self._rows[indices, self.columns["ended"].start] == 0.0
        return (indices + self._num_envs) % self.capacity, continues & is_stored

    def column(self, name: str) -> FloatArray:
        """One field of all stored transitions, (transitions, size of the field); a view."""
        return self._rows[: self.size, self.columns[name]]

    def state_dict(self) -> dict[str, Any]:
        """The stored rows and the index of the next one."""
        return {"rows": self._rows[: self.size].copy(), "next": self._next, "arms": self._num_envs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`. Raises ValueError for rows of another width, or more than the capacity.

        Checkpoints of earlier versions lack the goals between repeated steps. Those after the last step replace them.
        """
        rows: NDArray[np.float32] = np.asarray(state["rows"])
        if self._between and rows.ndim == 2 and rows.shape[1] == self._width_without_between:
            achieved = np.tile(rows[:, self.columns["next_achieved_goal"]], self._between)
            desired = np.tile(rows[:, self.columns["next_desired_goal"]], self._between)
            rows = np.concatenate([rows, achieved, desired], axis=1)
        if rows.ndim != 2 or rows.shape[1] != self._rows.shape[1] or len(rows) > self.capacity:
            raise ValueError(f"replay: expected up to {self._rows.shape} rows, got {rows.shape}")
        self.size = len(rows)
        self._next = int(state["next"])
        self._num_envs = int(state["arms"])
        self._rows[: self.size] = rows
