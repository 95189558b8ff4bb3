"""The interface of an agent, and the description of its task (`Spec`)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Actions = NDArray[np.float32] | NDArray[np.int64]
OBSERVATION_KEYS = ("observation", "achieved_goal", "desired_goal")
Observation = dict[str, FloatArray]  # by `OBSERVATION_KEYS`, each (num_envs, size)


@dataclass(frozen=True)
class Spec:
    """Sizes and bounds of a goal-based task, in the environment's own units."""

    observation_size: int
    """Size of `observation`."""
    goal_size: int
    """Size of `achieved_goal` and `desired_goal`."""
    action_low: tuple[float, ...]
    """Lower bound of each action."""
    action_high: tuple[float, ...]
    """Upper bound of each action."""
    measured_columns: tuple[int, ...] | None = None
    """Columns of `observation` that measure what the actions set (joint angles), one an action. Policies then output a
    step relative to the measured value, which makes small corrections easy to learn. None: actions are not measured."""
    measured_unit: float = 1.0
    """Factor from the unit of these columns to that of the actions."""
    target_columns: tuple[int, ...] | None = None
    """Columns of `observation`, in the same unit, that hold the previous targets. None: not observed."""
    slowing_distance: float = 0.0
    """Distance to the goal, in the unit of its position, within which steps are scaled down in proportion to it; see
    `policies.common.networks.ActionScaling`. 0: steps are not scaled."""
    rest_distance: float = 0.0
    """Distance to the goal within which the target stays constant."""
    size: float = 1.0
    """Size of the task: lengths in an agent's settings are multiplied by it."""
    goal_point_size: int | None = None
    """Number of coordinates of a goal's position, which come first in a goal and determine the reward; the rest is its
    velocity. None: the whole goal is a position."""
    max_step: tuple[float, ...] | None = None
    """Largest step of each action from the measured value, in the action's unit. None: half the range."""
    kinematics: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    """Function from observations (batch, observation_size) and actions (batch, actions) to the achieved positions
    (batch, point_size) once the actions' targets are reached. None: not known."""
    grid_shape: tuple[int, ...] | None = None
    """Number of evenly spaced values of each action, both bounds included. None: actions are continuous."""

    def with_step_scaling(self, step_factor: float, slowing_distance: float) -> "Spec":
        """A copy with `max_step` multiplied by `step_factor`, and this slowing distance (for a task of size 1)."""
        max_step = tuple(step_factor * step for step in self.max_step) if self.max_step else None
        return replace(self, max_step=max_step, slowing_distance=slowing_distance * self.size)

    @property
    def point_size(self) -> int:
        """Number of coordinates of a goal's position."""
        return self.goal_point_size or self.goal_size


class ComputeReward(Protocol):
    """Rewards (batch,) for ending a step at `achieved_goal` (batch, size) with the goal `desired_goal` (batch, size).

    Gymnasium's `compute_reward` of a goal-based environment.
    """

    def __call__(self, achieved_goal: FloatArray, desired_goal: FloatArray, info: Any, /) -> Any: ...


@dataclass(frozen=True)
class Transition:
    """One step of all environments; every field has a leading axis of size num_envs."""

    observation: Observation
    """Observations before the step."""
    action: Actions
    """Actions, as `Agent.act` returned them."""
    reward: FloatArray
    """Rewards. If an action is held for several control steps, the mean of their rewards."""
    next_observation: Observation
    """Observations after the step, before any reset."""
    terminated: NDArray[np.bool_]
    """True if the task itself ended: nothing comes after."""
    ended: NDArray[np.bool_]
    """True if the episode ended, by termination or a time limit."""
    achieved_between: FloatArray | None = None
    """Achieved goals (num_envs, control steps - 1, size) after each control step but the last."""
    desired_between: FloatArray | None = None
    """Desired goals after these control steps."""


class Agent(Protocol):
    """A learner. One loop (`arm_control.training.loop`) serves all agents: act, step, observe, update."""

    def act(self, observation: Observation, *, explore: bool) -> Actions:
        """Actions for all environments: (num_envs, actions) in their units or grid positions, or indices (num_envs,).

        Deterministic without `explore`.
        """

    def observe(self, transition: Transition) -> None:
        """Store one step of all environments."""

    def update(self, progress: float) -> dict[str, float]:
        """Learn from the stored steps. `progress` is the fraction of the training done, from 0 to 1.

        Returns metrics by name, with the number of `updates`; an empty dict if there was no update.
        """

    def policy(self) -> torch.nn.Module:
        """The deterministic controller: (observation, achieved_goal, desired_goal) -> actions (batch, actions).

        In the environment's units, with normalisation and scaling inside; grid positions are converted to units.
        Policy-gradient agents average its parameters (`policies.common.averaging`); `act` uses the latest ones.
        """

    def load_networks(self, state: dict[str, Any]) -> None:
        """Load the networks, and nothing else, from another agent's `state_dict`."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on: nested dicts of tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""


@runtime_checkable
class ParameterSharingAgent(Agent, Protocol):
    """An agent whose copies, in several processes, learn on the same parameters.

    Its `make` takes two more options: `shared_memory`, a function that returns shared memory of a number of bytes, and
    `first`, whether this copy's parameters are written to it.
    """

    normalizer_fitted: bool  # whether the inputs' normalisation is known, so that workers can be started

    def join(self, state: dict[str, Any]) -> None:
        """Use the shared parameters, and the inputs' normalisation of another copy's `state_dict`."""


class StochasticPolicy(Protocol):
    """A policy with a distribution over actions; as a module it returns the mode.

    The settings of its agent declare it (`policies.common.settings.AgentSettings.stochastic`).
    """

    def sample(
        self,
        generator: np.random.Generator,
        observation: torch.Tensor,
        achieved_goal: torch.Tensor,
        desired_goal: torch.Tensor,
        recurrent_state: torch.Tensor | None = None,
    ) -> Any:
        """Actions drawn from the distribution, in the form in which the module returns the mode."""


@runtime_checkable
class GridPolicy(Protocol):
    """A policy that selects the best action of a grid, where rounding may decide between two equal ones."""

    def suboptimality(self, action: torch.Tensor, *observed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Difference (batch,) between the maximum and the values of actions, and the maximum (batch,).

        `action` (batch, actions) is in the environment's units. NaN for an action that is not on the grid.
        """

    def action_gap(self, *observed: torch.Tensor) -> torch.Tensor:
        """Difference (batch,) between the largest value and the second largest."""

    def prepare_export(self) -> None:
        """Precompute what an exported graph would otherwise compute in every decision."""


def tensors_of(observation: Observation) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Observation, achieved goal and desired goal as tensors: the inputs of a policy."""
    first, second, third = (torch.from_numpy(observation[name]) for name in OBSERVATION_KEYS)
    return first, second, third
