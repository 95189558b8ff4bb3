"""What the arm is to do: observation, goal, reward and success, as pure functions.

They work on arrays of one or many arms (`xp=numpy`) and are traced by the exporter (`xp=torch`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from envs.arm import RADIANS, Arm, UnreachableGoalError

RewardKind = Literal["dense", "sparse"]


def observe(arm: Arm, angles_deg: Any, speeds_deg_s: Any, previous_target_deg: Any, xp: Any = np) -> tuple[Any, Any]:
    """`observation` (..., 3 joints) and `achieved_goal` (..., 3) from the raw readings, each (..., joints).

    observation: angles (rad), speeds (rad/s), previous target (rad). achieved_goal: tip position x, y, z (m).
    """
    readings = xp.concatenate((angles_deg, speeds_deg_s, previous_target_deg), -1)
    return readings * RADIANS, arm.forward_kinematics(angles_deg, xp)


def observe_one(
    arm: Arm, angles_deg: Sequence[float], speeds_deg_s: Sequence[float], previous_target_deg: Sequence[float]
) -> tuple[list[float], tuple[float, float, float]]:
    """The same for one arm, in a quarter of the time. The exporter compares the two on every export."""
    readings = (*angles_deg, *speeds_deg_s, *previous_target_deg)
    return [reading * RADIANS for reading in readings], arm.tip_position(angles_deg)


def distance(achieved_goal: Any, desired_goal: Any) -> NDArray[np.float64]:
    """Distance (...,) in metres between points (..., 3)."""
    difference = np.subtract(achieved_goal, desired_goal, dtype=np.float64)
    x, y, z = difference[..., 0], difference[..., 1], difference[..., 2]
    squares: NDArray[np.float64] = x * x + y * y + z * z
    return np.sqrt(squares)


@dataclass(frozen=True)
class Reach:
    """Reach a goal with the tip and stay there.

    `dense`: -5 d + exp(-d / 10 mm) / 2 + exp(-d / 50 mm) / 2 for a distance d in metres, from -3.5 at arm's length to 1
    at the goal: the first term leads there from anywhere, the others make the last millimetres worth their while.
    `sparse`: 0 within `goal_tolerance_m` of the goal, else -1.
    """

    reward_kind: RewardKind = "dense"
    goal_tolerance_m: float = 0.01

    def __post_init__(self) -> None:
        if self.reward_kind not in ("dense", "sparse"):
            raise ValueError(f"wanted reward dense or sparse, got '{self.reward_kind}'")
        if not (0 < self.goal_tolerance_m < math.inf):
            raise ValueError(f"wanted a positive goal tolerance in metres, got {self.goal_tolerance_m}")

    def reward(self, distance_m: Any) -> Any:
        """Reward (...,) for being this far from the goal."""
        if self.reward_kind == "dense":
            return -5.0 * distance_m + 0.5 * np.exp(-distance_m / 0.01) + 0.5 * np.exp(-distance_m / 0.05)
        return np.where(distance_m <= self.goal_tolerance_m, 0.0, -1.0)

    def draw_goal(self, arm: Arm, generator: np.random.Generator) -> tuple[float, float, float]:
        """A reachable goal: the tip of a pose drawn uniformly from the joint ranges."""
        return arm.tip_position(generator.uniform(arm.limits.lower_deg, arm.limits.upper_deg).tolist())


def check_goal(arm: Arm, goal_m: Sequence[float]) -> tuple[float, float, float]:
    """The goal as three floats. Raises ValueError if it is not three finite numbers or the arm cannot reach it."""
    goal = np.asarray(goal_m, dtype=np.float64)
    if goal.shape != (3,):
        raise ValueError(f"wanted a goal x,y,z in metres, got {goal_m}")
    arm.inverse_kinematics(goal, tolerance_m=1e-5)
    return float(goal[0]), float(goal[1]), float(goal[2])


__all__ = ["Reach", "RewardKind", "UnreachableGoalError", "check_goal", "distance", "observe", "observe_one"]
