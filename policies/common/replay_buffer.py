"""ReplayBuffer: the last transitions, one row each, sampled uniformly."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.agent import FloatArray, Spec, Transition

BETWEEN = ("achieved_between", "desired_between")


class ReplayBuffer:
    """A ring of transitions in one float32 array, so that a batch is a single gather.

    Where an action is held for several control steps (`action_repeat`), it also keeps the goals after each of them but
    the last: `achieved_between` and `desired_between`, which the rewards of relabelled transitions depend on.
    """

    def __init__(self, capacity: int, spec: Spec, action_repeat: int = 1) -> None:
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
        self._between = action_repeat - 1  # control steps of a transition but the last
        self._without_between = sum(sizes.values())  # width of a row without the goals after these
        if self._between:
            sizes |= dict.fromkeys(BETWEEN, self._between * spec.goal_size)
        ends = np.cumsum(list(sizes.values())).tolist()
        self.columns = {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}
        self._rows = np.zeros((capacity, ends[-1]), np.float32)
        self._next = 0
        self._arms = 1  # rows of each step
        self.size = 0

    @property
    def capacity(self) -> int:
        return len(self._rows)

    def add(self, transition: Transition) -> None:
        """Store one step of several arms, over the oldest rows once the ring is full."""
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
        rows = np.concatenate(fields, axis=-1, dtype=np.float32)
        self._arms = len(rows)
        self._rows[(self._next + np.arange(len(rows))) % self.capacity] = rows
        self._next = (self._next + len(rows)) % self.capacity
        self.size = min(self.size + len(rows), self.capacity)

    def sample(self, batch: int, generator: np.random.Generator) -> dict[str, FloatArray]:
        """`batch` transitions drawn with replacement, by field."""
        return self.at(self.draw(batch, generator))

    def draw(self, batch: int, generator: np.random.Generator, *, latest: bool = False) -> NDArray[np.int64]:
        """Places of `batch` transitions drawn with replacement, from all or from the latest step of all arms."""
        if latest:
            return (self._next - 1 - generator.integers(self._arms, size=batch)) % self.capacity
        return generator.integers(self.size, size=batch)

    def at(self, places: NDArray[np.int64]) -> dict[str, FloatArray]:
        """The transitions at these places, by field."""
        rows = self._rows[places]
        return {name: rows[:, columns] for name, columns in self.columns.items()}

    def following(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Places of the same arms' next steps, and whether there is one of the same episode."""
        newer = (self._next - 1 - places) % self.capacity  # rows stored after each
        goes_on = self._rows[places, self.columns["ended"].start] == 0.0
        return (places + self._arms) % self.capacity, goes_on & (newer >= self._arms)

    def column(self, name: str) -> FloatArray:
        """One field of all stored transitions, (size, width); a view."""
        return self._rows[: self.size, self.columns[name]]

    def state_dict(self) -> dict[str, Any]:
        """The stored rows and the place of the next one."""
        return {"rows": self._rows[: self.size].copy(), "next": self._next, "arms": self._arms}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`. Raises ValueError for rows of another width or too many of them.

        Checkpoints of earlier versions lack the goals between repeated steps: those after the last step stand for them.
        """
        rows: NDArray[np.float32] = np.asarray(state["rows"])
        if self._between and rows.ndim == 2 and rows.shape[1] == self._without_between:
            achieved = np.tile(rows[:, self.columns["next_achieved_goal"]], self._between)
            desired = np.tile(rows[:, self.columns["next_desired_goal"]], self._between)
            rows = np.concatenate([rows, achieved, desired], axis=1)
        if rows.ndim != 2 or rows.shape[1] != self._rows.shape[1] or len(rows) > self.capacity:
            raise ValueError(f"replay: expected up to {self._rows.shape} rows, got {rows.shape}")
        self.size = len(rows)
        self._next = int(state["next"])
        self._arms = int(state["arms"])
        self._rows[: self.size] = rows
