"""Coverage: how much of the action grid a learner has ever tried, and learned from."""

from typing import Any

import torch
from torch import Tensor


class Coverage:
    """Actions that were ever tried or in an update, and greedy choices of actions that were not."""

    def __init__(self, actions: int) -> None:
        self._actions = actions
        self._tried = torch.zeros(actions, dtype=torch.bool)
        self._updated = torch.zeros(actions, dtype=torch.bool)
        self._updated_count = 0  # counting them anew would cost as much as a tenth of an update
        self._greedy_picks = 0
        self._untried_picks = 0

    def try_actions(self, index: Tensor) -> None:
        """Note actions (arms,) that were made."""
        self._tried[index] = True

    def pick(self, index: Tensor) -> None:
        """Note actions (arms,) that were chosen greedily while exploring."""
        self._greedy_picks += len(index)
        self._untried_picks += int((~self._tried[index]).sum())

    def update_actions(self, index: Tensor) -> None:
        """Note the actions (batch,) of an update."""
        different = index.unique()  # type: ignore[no-untyped-call]
        self._updated_count += int((~self._updated[different]).sum())
        self._updated[different] = True

    def metrics(self) -> dict[str, float]:
        """The fraction of actions ever in an update, and of greedy choices that were never tried before."""
        return {
            "coverage": self._updated_count / self._actions,
            "untried_picks": self._untried_picks / max(1, self._greedy_picks),
        }

    def state_dict(self) -> dict[str, Any]:
        """The actions' indices, and the counts of greedy choices."""
        return {
            "tried": self._tried.nonzero()[:, 0],
            "updated": self._updated.nonzero()[:, 0],
            "picks": [self._greedy_picks, self._untried_picks],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        for flags, name in ((self._tried, "tried"), (self._updated, "updated")):
            flags.zero_()
            flags[state[name]] = True
        self._updated_count = len(state["updated"])
        self._greedy_picks, self._untried_picks = state["picks"]
