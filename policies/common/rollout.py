"""Rollout storage: the latest steps of all environments in order, for agents that use each step once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.agent import OBSERVATION_KEYS, FloatArray, Transition
from policies.common.networks import Encoder


@dataclass(frozen=True)
class Steps:
    """Steps in order, (steps, num_envs, ...) each; flags are 0.0 or 1.0."""

    observation: tuple[Tensor, ...]  # in the order of `OBSERVATION_KEYS`
    next_observation: tuple[Tensor, ...]
    sample: Tensor  # what was drawn from the policy, before squashing or clipping
    reward: Tensor
    terminated: Tensor
    ended: Tensor
    episode_step: Tensor  # number of steps since the start of the episode

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True)
class AdvantageEstimate:
    """The result of an advantage estimator for a rollout, (steps, num_envs) each."""

    advantage: Tensor
    value_target: Tensor
    mask: Tensor  # 1.0, or 0.0 for a step that is left out of the update
    weight: Tensor | float = 1.0  # factor of the step's advantage

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the steps that are not masked, of values (steps, num_envs)."""
        return (x * self.mask).sum() / self.mask.sum()


class Rollout:
    """Collects steps until an update takes them."""

    def __init__(self) -> None:
        self._rows: list[list[NDArray[Any]]] = []
        self._episode_step = np.zeros(0, np.int64)
        self._has_ended = np.zeros(0, np.bool_)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def count(self) -> int:
        """Number of steps of all environments together."""
        return len(self) * len(self._episode_step)

    @property
    def every_env_has_ended(self) -> bool:
        """True if an episode of each environment has ended since the last `take`."""
        return len(self) > 0 and bool(self._has_ended.all())

    def add(self, transition: Transition, sample: NDArray[Any]) -> None:
        """Append one step of all environments, and the samples (num_envs, actions) of its actions."""
        num_envs = len(sample)
        if len(self._episode_step) != num_envs:
            self._episode_step = np.zeros(num_envs, np.int64)
        if not self._rows:
            self._has_ended = np.zeros(num_envs, np.bool_)

        # The fields of `Steps`, in their order.
        row: list[NDArray[Any]] = []
        for observation in (transition.observation, transition.next_observation):
            row += [observation[key] for key in OBSERVATION_KEYS]
        row += [sample, transition.reward]
        row += [transition.terminated.astype(np.float32), transition.ended.astype(np.float32)]
        row.append(self._episode_step)
        self._rows.append(row)

        # Count the steps of the episodes, and note those that have ended.
        self._episode_step = np.where(transition.ended, 0, self._episode_step + 1)
        self._has_ended = self._has_ended | transition.ended

    def observations(self) -> tuple[FloatArray, ...]:
        """All stored observations, (steps * num_envs, size) for each of `OBSERVATION_KEYS`."""
        columns = []
        for column in range(len(OBSERVATION_KEYS)):
            columns.append(np.concatenate([row[column] for row in self._rows]))
        return tuple(columns)

    def take(self, kept: int = 0) -> Steps:
        """Return all steps, and remove them except for the last `kept` ones."""
        columns = [torch.from_numpy(column) for column in self._columns()]
        self._rows = self._rows[len(self._rows) - kept :]
        keys = len(OBSERVATION_KEYS)
        return Steps(tuple(columns[:keys]), tuple(columns[keys : 2 * keys]), *columns[2 * keys :])

    def _columns(self) -> list[NDArray[Any]]:
        return [np.stack(column) for column in zip(*self._rows, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """The stored steps, and each environment's position in its episode."""
        return {"columns": self._columns(), "place": self._episode_step, "has_ended": self._has_ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        columns = [np.asarray(column) for column in state["columns"]]
        self._rows = [list(row) for row in zip(*columns, strict=True)]
        self._episode_step = np.asarray(state["place"])
        self._has_ended = np.asarray(state["has_ended"])


def fit_normalizer(rollout: Rollout, encoder: Encoder, learning_starts: int) -> bool:
    """Fit the normalisation of the inputs to a rollout of random steps, and discard them.

    Returns False, and does nothing, if there are fewer than `learning_starts` steps.
    """
    if rollout.count < learning_starts:
        return False
    encoder.fit(*rollout.observations())
    rollout.take()
    return True
