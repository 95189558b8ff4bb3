"""The few verbs that every agent has, and what it must be told of its task."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Actions = NDArray[np.float32] | NDArray[np.int64]
OBSERVED = ("observation", "achieved_goal", "desired_goal")
Observation = dict[str, FloatArray]  # these, each (arms, size)


@dataclass(frozen=True)
class Spec:
    """Sizes and bounds of a goal-based task, in the environment's own units.

    Actions are continuous, from `action_low` to `action_high`, or, where there is a `grid_shape`, chosen from so many
    evenly spaced values each, both ends included.

    Where an action sets a target for something that is also measured (a joint's angle), `measured_columns` says which
    columns of `observation` measure it, one an action, and `measured_unit` what to multiply them by to get the
    action's unit. Policies then act relative to the present value, which makes small corrections easy to learn, and
    ask for values at most `max_step` (in the action's unit) from it.

    `kinematics` says to which point of the goal's kind (batch, point size) an action (batch, actions) leads from an
    observation (batch, size), once what it asks for has come about.

    `target_columns` are the columns of `observation`, in the same unit, that hold the targets sent last. With them and
    a `slowing_distance` (in the unit of the goal's point), steps get smaller as the goal gets nearer, and none is made
    within the `rest_distance`; see `policies.common.networks.ActionScaling`. Lengths in an agent's settings are for a
    task of `size` 1, and in proportion for others.

    A goal begins with `goal_point_size` numbers (None: all are) that say where it is, on which the reward depends; the
    rest say how it moves.
    """

    observation_size: int
    goal_size: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    measured_columns: tuple[int, ...] | None = None
    measured_unit: float = 1.0
    target_columns: tuple[int, ...] | None = None
    slowing_distance: float = 0.0
    rest_distance: float = 0.0
    size: float = 1.0
    goal_point_size: int | None = None
    max_step: tuple[float, ...] | None = None
    kinematics: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    grid_shape: tuple[int, ...] | None = None

    def with_steps(self, step_factor: float, slowing_distance: float) -> "Spec":
        """The same with `max_step` multiplied by `step_factor`, and steps that slow down within this distance."""
        max_step = tuple(step_factor * step for step in self.max_step) if self.max_step else None
        return replace(self, max_step=max_step, slowing_distance=slowing_distance * self.size)

    @property
    def point_size(self) -> int:
        """Number of coordinates of a goal's position."""
        return self.goal_point_size or self.goal_size


class ComputeReward(Protocol):
    """Reward (batch,) of ending a step at `achieved_goal` (batch, size) when the goal was `desired_goal`."""

    def __call__(self, achieved_goal: FloatArray, desired_goal: FloatArray, info: Any, /) -> Any: ...


@dataclass(frozen=True)
class Transition:
    """One action of several arms at once; every field has a leading axis of arms.

    `terminated` says where the task itself ended, `ended` where the episode did, for that or for a time limit.

    An action may be held for several control steps. `reward` is then the mean of their rewards, and `achieved_between`
    and `desired_between`, (arms, control steps - 1, size), are the goals after each of them but the last.
    """

    observation: Observation
    action: Actions
    reward: FloatArray
    next_observation: Observation
    terminated: NDArray[np.bool_]
    ended: NDArray[np.bool_]
    achieved_between: FloatArray | None = None
    desired_between: FloatArray | None = None


class Agent(Protocol):
    """A learner. One loop (`arm_control.training.loop`) drives them all: act, step the arms, observe, update."""

    def act(self, observation: Observation, *, explore: bool) -> Actions:
        """Actions as the environment takes them: (arms, joints), in its units or grid positions, or indices (arms,)."""

    def observe(self, transition: Transition) -> None:
        """Remember what happened."""

    def update(self, progress: float) -> dict[str, float]:
        """Learn from what was observed; `progress` runs from 0 to 1 over the training.

        Returns metrics by name, the number of `updates` done among them; nothing if there was none.
        """

    def policy(self) -> torch.nn.Module:
        """The deterministic controller: (observation, achieved_goal, desired_goal) -> actions (batch, joints).

        In the environment's units, all scaling inside; of a grid, the units that its positions stand for. Agents that
        follow a policy gradient average its parameters (`policies.common.averaging`); `act` uses those of the last
        update.
        """

    def load_networks(self, state: dict[str, Any]) -> None:
        """Start from the networks, and nothing else, of another agent's `state_dict`."""

    def state_dict(self) -> dict[str, Any]:
        """All that the training to come depends on: nested dicts of tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""


@runtime_checkable
class SharingAgent(Agent, Protocol):
    """An agent that can learn beside others, in processes of their own, on the same parameters.

    Its `make` takes the options `shared_memory`, a function that gives memory of so many bytes, and `first`, whether
    its parameters are to be put there.
    """

    normalizer_fitted: bool  # whether the scale of the inputs is known, so that workers can be started

    def join(self, state: dict[str, Any]) -> None:
        """Take over the shared parameters, and the inputs' scale of another one's `state_dict`."""


@runtime_checkable
class GridPolicy(Protocol):
    """A policy that chooses the best action of a grid, where rounding may decide between two equals."""

    def shortfall(self, action: torch.Tensor, *observed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How much less than the largest value (batch,) actions in their units (batch, actions) have, and that value.

        NaN for an action that is not on the grid.
        """

    def margin(self, *observed: torch.Tensor) -> torch.Tensor:
        """By how much (batch,) the largest value surpasses the next."""

    def prepare_export(self) -> None:
        """Compute now what a graph would otherwise compute for each decision."""


def tensors_of(observation: Observation) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a policy takes, in its order."""
    first, second, third = (torch.from_numpy(observation[name]) for name in OBSERVED)
    return first, second, third
