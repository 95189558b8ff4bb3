"""Rollout: the latest steps of all arms, in order, for learners that use each once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.agent import OBSERVED, FloatArray, Transition
from policies.common.networks import Encoder


@dataclass(frozen=True)
class Steps:
    """Steps in order, (steps, arms, ...): observations in the order of `OBSERVED`, flags as 0.0 and 1.0."""

    observation: tuple[Tensor, ...]
    next_observation: tuple[Tensor, ...]
    choice: Tensor
    reward: Tensor
    terminated: Tensor
    ended: Tensor
    place: Tensor  # steps since the episode began

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True)
class Credit:
    """What a method makes of some steps, (steps, arms) each."""

    advantage: Tensor  # how much better than expected the step went
    target: Tensor  # what the state's value should have been
    learned_from: Tensor  # 1.0, or 0.0 for a step that is left out
    weight: Tensor | float = 1.0  # of the step's advantage

    def mean(self, x: Tensor) -> Tensor:
        """The mean of values (steps, arms) over the steps that are learned from."""
        return (x * self.learned_from).sum() / self.learned_from.sum()


class Rollout:
    """Collects steps until they are taken."""

    def __init__(self) -> None:
        self._rows: list[list[NDArray[Any]]] = []
        self._place = np.zeros(0, np.int64)
        self._has_ended = np.zeros(0, np.bool_)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def count(self) -> int:
        """Steps of all arms together."""
        return len(self) * len(self._place)

    @property
    def every_arm_has_ended(self) -> bool:
        """Whether an episode of each arm has ended since the last steps were taken."""
        return len(self) > 0 and bool(self._has_ended.all())

    def add(self, transition: Transition, choice: NDArray[Any]) -> None:
        """Append one step of all arms, with the choices (arms, actions) that its actions were made of."""
        if len(self._place) != len(choice):
            self._place = np.zeros(len(choice), np.int64)
        if not self._rows:
            self._has_ended = np.zeros(len(choice), np.bool_)
        before = transition.observation
        after = transition.next_observation
        self._rows.append(
            [
                *(before[name] for name in OBSERVED),
                *(after[name] for name in OBSERVED),
                choice,
                transition.reward,
                transition.terminated.astype(np.float32),
                transition.ended.astype(np.float32),
                self._place,
            ]
        )
        self._place = np.where(transition.ended, 0, self._place + 1)
        self._has_ended = self._has_ended | transition.ended

    def observed(self) -> tuple[FloatArray, ...]:
        """All observations so far, (steps * arms, size) for each of `OBSERVED`."""
        return tuple(np.concatenate([row[place] for row in self._rows]) for place in range(len(OBSERVED)))

    def take(self, kept: int = 0) -> Steps:
        """All steps, in order; of which the rollout keeps only the last ones, so many."""
        columns = [torch.from_numpy(column) for column in self._columns()]
        self._rows = self._rows[len(self._rows) - kept :]
        return Steps(tuple(columns[:3]), tuple(columns[3:6]), *columns[6:])

    def _columns(self) -> list[NDArray[Any]]:
        return [np.stack(column) for column in zip(*self._rows, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """The steps so far, and where in its episode each arm is."""
        return {"columns": self._columns(), "place": self._place, "has_ended": self._has_ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        columns = [np.asarray(column) for column in state["columns"]]
        self._rows = [list(row) for row in zip(*columns, strict=True)]
        self._place = np.asarray(state["place"])
        self._has_ended = np.asarray(state["has_ended"])


def fit_from(rollout: Rollout, encoder: Encoder, learning_starts: int) -> bool:
    """Take the inputs' scale from a rollout of random steps and forget them, if there are enough; says whether."""
    if rollout.count < learning_starts:
        return False
    encoder.fit(*rollout.observed())
    rollout.take()
    return True
