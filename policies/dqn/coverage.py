"""Coverage: the fractions of the action grid that were ever executed, and ever part of an update."""

from typing import Any

import torch
from torch import Tensor


class Coverage:
    """Records which actions were executed or part of an update, and counts greedy actions that were never executed."""

    def __init__(self, actions: int) -> None:
        self._actions = actions
        self._tried = torch.zeros(actions, dtype=torch.bool)
        self._updated = torch.zeros(actions, dtype=torch.bool)
        self._updated_count = 0  # running total: counting the flags takes up to a tenth of an update
        self._greedy_count = 0
        self._greedy_untried_count = 0

    def record_executed(self, index: Tensor) -> None:
        """Record the indices (num_envs,) of executed actions."""
        self._tried[index] = True

    def record_greedy(self, index: Tensor) -> None:
        """Record the indices (num_envs,) of greedy actions while exploring."""
        self._greedy_count += len(index)
        self._greedy_untried_count += int((~self._tried[index]).sum())

    def record_updated(self, index: Tensor) -> None:
        """Record the indices (batch,) of the actions of an update."""
        distinct = index.unique()  # type: ignore[no-untyped-call]
        self._updated_count += int((~self._updated[distinct]).sum())
        self._updated[distinct] = True

    def metrics(self) -> dict[str, float]:
        """Fraction of all actions ever part of an update, and of greedy actions that were never executed before."""
        return {
            "coverage": self._updated_count / self._actions,
            "untried_picks": self._greedy_untried_count / max(1, self._greedy_count),
        }

    def state_dict(self) -> dict[str, Any]:
        """Indices of executed and updated actions, and the counts of greedy actions."""
        return {
            "tried": self._tried.nonzero()[:, 0],
            "updated": self._updated.nonzero()[:, 0],
            "picks": [self._greedy_count, self._greedy_untried_count],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        for flags, name in ((self._tried, "tried"), (self._updated, "updated")):
            flags.zero_()
            flags[state[name]] = True
        self._updated_count = len(state["updated"])
        self._greedy_count, self._greedy_untried_count = state["picks"]
