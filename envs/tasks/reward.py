"""The reward of all tasks, from the distance d between the tip and its goal after a step.

| `reward` | value | range |
|---|---|---|
| `dense` | -d + exp(-d / 10 mm), d in metres | -0.7 at arm's length to 1 at the goal |
| `sparse` | 0 if d is at most the goal tolerance, else -1 | -1 or 0 |
"""

import math
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

RewardKind = Literal["dense", "sparse"]

DEFAULT_REACH_M = 0.7  # of the default arm, for which the lengths of the dense reward are given
DENSE_LENGTH_M = 0.01  # in the dense reward's exponential


def check_reward(kind: str, tolerance_m: float) -> None:
    """Raise ValueError for an unknown kind of reward, or for a tolerance that is not positive and finite."""
    if kind not in get_args(RewardKind):
        raise ValueError(f"expected reward dense or sparse, got '{kind}'")
    if not (0 < tolerance_m < math.inf):
        raise ValueError(f"expected a positive goal tolerance in metres, got {tolerance_m}")


def distance(achieved_goal: Any, desired_goal: Any) -> NDArray[np.float64]:
    """Distance (...,) in metres between the positions of two goals (..., 3 or 6); velocities do not count."""
    difference = np.subtract(achieved_goal, desired_goal, dtype=np.float64)
    x = difference[..., 0]
    y = difference[..., 1]
    z = difference[..., 2]
    squares: NDArray[np.float64] = x * x + y * y + z * z
    return np.sqrt(squares)


def distance_reward(kind: RewardKind, tolerance_m: float, reach_m: float, distance_m: Any) -> Any:
    """Reward (...,) at a distance (...,) from the goal, of an arm with this reach."""
    if kind == "dense":
        return dense_reward(reach_m, distance_m)
    return np.where(distance_m <= tolerance_m, 0.0, -1.0)


def dense_reward(reach_m: float, distance_m: Any) -> Any:
    """Dense reward (...,) at a distance (...,) in metres from the goal: -d + exp(-d / 10 mm).

    The first term leads to the goal from anywhere, the second rewards the last millimetres. Far from the goal the
    reward changes little, so that a detour pays where a joint is at its limit on the wrong side of the goal.
    """
    # The distance in proportion to the reach: an arm of any size gets the same rewards in corresponding poses.
    d = distance_m * (DEFAULT_REACH_M / reach_m)
    # r = -d + exp(-d / 10 mm)
    return -d + np.exp(-d / DENSE_LENGTH_M)
