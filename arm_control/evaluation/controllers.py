"""The `Controller` protocol, and controllers without learning: zero, random and inverse kinematics."""

from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from arm_control.runs.seeding import EVALUATION
from envs.arm import RADIANS, Arm

FloatArray = NDArray[np.float32]
Observation = dict[str, FloatArray]


class Controller(Protocol):
    """Anything that maps the observations of several arms to their actions."""

    def __call__(self, observation: Observation, arms: list[Any]) -> NDArray[Any]: ...


def begin_episodes(controller: Controller) -> None:
    """Reset a controller's state, if it has any, for new episodes."""
    if isinstance(controller, StatefulController):
        controller.reset()


@runtime_checkable
class StatefulController(Protocol):
    """A controller with a state, such as a recurrent policy."""

    def reset(self) -> None:
        """Reset the state for new episodes."""


def actions_for(targets_deg: NDArray[np.floating], arms: list[Any]) -> NDArray[Any]:
    """The actions (arms, ...) with these target angles (arms, joints), or the nearest ones on the degree grid."""
    grid = arms[0].grid
    kind = arms[0].actions
    if grid is None:
        return targets_deg.astype(np.float32)
    positions: NDArray[Any] = grid.nearest(targets_deg)
    return positions if kind == "positions" else grid.index(positions)


def zero_controller(observation: Observation, arms: list[Any]) -> NDArray[Any]:
    """Move every joint to its lower limit."""
    return actions_for(np.array([arm.arm.limits.lower_deg for arm in arms]), arms)


class RandomController:
    """A uniformly random target at every step; its return is the 0 of the normalised return."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(np.random.SeedSequence((EVALUATION, seed)))

    def __call__(self, observation: Observation, arms: list[Any]) -> FloatArray:
        """Draw new targets."""
        return self.draw(arms[0].action_space, len(arms))

    def draw(self, space: Any, *shape: int) -> FloatArray:
        """The next targets (*shape, joints)."""
        return self._generator.uniform(space.low, space.high, (*shape, len(space.low))).astype(np.float32)

    def skip(self, numbers: int) -> None:
        """Skip so many of the next random numbers; a target takes one per joint."""
        cast(np.random.PCG64, self._generator.bit_generator).advance(numbers)


# Time by which targets lead a moving goal, to compensate the lag of limiter and servo; tuned at 30 Hz.
LEAD_S = 0.05
LEAD_PERIOD_S = 1 / 30
DESCENT_STEPS = 60
STUCK_M = 0.02  # remaining distance of a descent that has failed


class IKController:
    """Inverse kinematics of the goal, or of the predicted position of a moving one: the 1 of the normalised return.

    Of several solutions, the one that the arm reaches soonest. It is computed once for a fixed goal, and at each step
    for a moving one, from the previous pose.
    """

    def __init__(self) -> None:
        self._goals: NDArray[np.float64] | None = None
        self._poses_deg = np.empty((0, 0))

    def reset(self) -> None:
        """Forget the goals of the previous episodes."""
        self._goals = None

    def __call__(self, observation: Observation, arms: list[Any]) -> NDArray[Any]:
        """The poses, as actions."""
        arm: Arm = arms[0].arm
        goals = observation["desired_goal"].astype(np.float64)
        measured_deg = observation["observation"][:, : arm.joint_count].astype(np.float64) / RADIANS
        present_deg = np.clip(measured_deg, arm.limits.lower_deg, arm.limits.upper_deg)
        if goals.shape[1] == 3:
            self._plan_fixed(arm, goals, present_deg)
        else:
            self._plan_moving(arm, goals, present_deg, arms[0].simulation.control_period_s)
        self._goals = goals
        return actions_for(self._poses_deg, arms)

    def _plan_fixed(self, arm: Arm, goals: NDArray[np.float64], present_deg: NDArray[np.float64]) -> None:
        """Compute poses for the goals that have changed."""
        changed = np.ones(len(goals), dtype=bool)
        if self._goals is not None and self._goals.shape == goals.shape:
            changed = (self._goals != goals).any(axis=1)
        else:
            self._poses_deg = present_deg.copy()
        if changed.any():
            start_deg = present_deg[changed]
            self._poses_deg[changed] = arm.inverse_kinematics(goals[changed], tolerance_m=1e-5, start_deg=start_deg)

    def _plan_moving(
        self, arm: Arm, goals: NDArray[np.float64], present_deg: NDArray[np.float64], period_s: float
    ) -> None:
        """Compute poses for the positions that the goals will have when the arm gets there."""
        # Predicted position = position + lead * velocity
        lead_s = LEAD_S + period_s - LEAD_PERIOD_S
        ahead = goals[:, :3] + lead_s * goals[:, 3:]
        # Descend from the previous poses: a predicted position may be just out of reach, so an exact solution is not
        # required.
        follows = self._goals is not None and self._goals.shape == goals.shape
        start_deg = self._poses_deg if follows else present_deg
        self._poses_deg = arm.descend(start_deg, ahead, tolerance_m=1e-5, steps=DESCENT_STEPS)
        # Where that fails, use any solution for the present position.
        stuck = np.linalg.norm(arm.forward_kinematics(self._poses_deg) - ahead, axis=-1) > STUCK_M
        if stuck.any():
            here_deg = present_deg[stuck]
            self._poses_deg[stuck] = arm.inverse_kinematics(goals[stuck, :3], tolerance_m=1e-4, start_deg=here_deg)
