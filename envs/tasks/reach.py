"""Reach: bring the tip to a goal and keep it there."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from envs.arm import Arm
from envs.limits import TABLE_M
from envs.tasks.base import GOAL_TRIES, StillGoal, draw_pose, last_distance
from envs.tasks.reward import DEFAULT_REACH_M, RewardKind, check_reward, distance_reward


@dataclass(frozen=True)
class Reach:
    """Reach a goal with the tip of the arm, and stay there.

    ## Observation space
    As in `envs.arm_env.ArmEnv`, with goals that are points:

    | key | index | meaning | unit | range |
    |---|---|---|---|---|
    | `achieved_goal` | 0 to 2 | tip position x, y, z, by the measured angles | m | the arm's reach |
    | `desired_goal` | 0 to 2 | goal position x, y, z | m | the arm's reach |

    ## Starting state
    The arm is at rest in a pose drawn uniformly from the joint ranges. The goal is the tip position of another such
    pose, so it is always reachable; a pose with its tip below the table, z = 0, is drawn again.
    `reset(options={"angles_deg": ..., "goal_m": ...})` sets either of them.

    ## End of an episode
    Truncated after `episode_steps` steps; never terminated. Unless given, an episode lasts twice as long as the slowest
    joint takes from one end of its range to the other, and at least 1.67 s: 50 steps of 1/30 s for the default arm.

    ## Info
    `distance_m`: from the tip to the goal, in metres; for an imperfect arm from the true tip position, not the measured
    one. `is_success`: True if that is within `goal_tolerance_m`.
    """

    reward_kind: RewardKind = "dense"
    goal_tolerance_m: float = 0.01
    reach_m: float = DEFAULT_REACH_M
    moving: ClassVar[bool] = False
    error_name: ClassVar[str] = "error at the last step"
    error_key: ClassVar[str | None] = None
    goals_name: ClassVar[str] = "goals"
    episode_steps: ClassVar[int] = 50

    def __post_init__(self) -> None:
        check_reward(self.reward_kind, self.goal_tolerance_m)

    @classmethod
    def for_arm(
        cls, arm: Arm, period_s: float, *, reward: RewardKind = "dense", goal_tolerance_m: float = 0.01, **options: Any
    ) -> Self:
        """The task for an arm, whose reach scales the reward."""
        return cls(reward, goal_tolerance_m, arm.reach_m, **options)

    def reward(self, distance_m: Any) -> Any:
        """Reward (...,) at this distance (...,) from the goal."""
        return distance_reward(self.reward_kind, self.goal_tolerance_m, self.reach_m, distance_m)

    def check_arm(self, arm: Arm) -> None:
        """Raise ValueError for an arm that reaches nothing above the table."""
        draw_pose(arm, np.random.default_rng(0))

    def draw_goals(
        self, arm: Arm, generator: np.random.Generator, steps: int, period_s: float, *, table_m: float = TABLE_M
    ) -> StillGoal:
        """Draw a reachable goal, fixed for the episode, with ten times as many tries as `check_arm`."""
        return draw_pose(arm, generator, table_m=table_m, tries=10 * GOAL_TRIES)

    def goals_from_json(self, values: Any, steps: int, period_s: float) -> StillGoal:
        """Rebuild a goal. Raises ValueError for the goals of another task."""
        if not isinstance(values, list | tuple):
            raise ValueError(f"expected a goal x, y, z in metres, got {values}")
        return StillGoal(tuple(values))

    def errors_m(self, distances_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """The distance at the last step, (...,), from those of an episode (..., steps + 1)."""
        return last_distance(distances_m)

    def error_so_far(self, step: int, distance_m: float, total: float) -> tuple[float, float]:
        """The distance after a step; there is no running total."""
        return distance_m, total


TASK = Reach
ENVIRONMENTS = {"ArmReach-v0": "degrees", "ArmReachDiscrete-v0": "index", "ArmReachMultiDiscrete-v0": "positions"}
