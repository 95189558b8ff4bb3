"""Track: follow a goal that moves along a smooth closed path, drawn at random for each episode (`envs.tasks.paths`)."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from envs.arm import Arm
from envs.limits import GOAL_SPEEDS_M_S, TABLE_M
from envs.tasks.base import SETTLE_STEPS, Goal, Option, check_options, draw_pose, rms_distance, steps_for
from envs.tasks.paths import KINDS, TRIES, Path, draw_path
from envs.tasks.reward import DEFAULT_REACH_M, RewardKind, check_reward, distance_reward

PathChoice = Literal["circle", "eight", "spline", "any"]


@dataclass(frozen=True)
class Track:
    """Follow a moving goal with the tip of the arm.

    ## Observation space
    As in `envs.arm_env.ArmEnv`; the goal's velocity belongs to the goal, not to `observation`.

    | key | index | meaning | unit | range |
    |---|---|---|---|---|
    | `achieved_goal` | 0 to 2 | tip position x, y, z, by the measured angles | m | the arm's reach |
    | | 3 to 5 | tip velocity, by the measured angles and speeds | m/s | stretched out, all joints at full speed |
    | `desired_goal` | 0 to 2 | the goal's position now | m | as above |
    | | 3 to 5 | the goal's velocity now | m/s | as above |

    ## Reward
    d is the distance from the tip to the goal's position after the step; velocities do not count.

    ## Starting state
    The arm starts at rest in a pose drawn uniformly from the joint ranges, the goal anywhere on a random closed path:
    a `circle` or a figure of `eight` in any plane, or a `spline` of random control points (`path="any"`, the default,
    draws one of the three), with a radius of 5 to 15 % of the arm's reach. The goal's mean speed is `speed_m_s` (0.2
    m/s; constant on a circle). Paths are rejected that leave the joint ranges, require more than 80 % of a joint's
    speed or acceleration limit, or go below the table at z = 0. `reset(options={"angles_deg": ...})` sets the pose.

    ## End of an episode
    Truncated after `episode_steps` steps; never terminated. Unless given, that is 200 steps of 1/30 s for the default
    arm, and longer for a slower one in the same proportion as for `Reach`.

    ## Info
    `distance_m`: from the tip to the goal's position, in metres. `rms_error_m`: root mean square of that over the
    episode from its 30th step on (later for a slow arm); before that step, the distance. `is_success`: True if
    `rms_error_m` is within `goal_tolerance_m`.

    ## Arguments
    `path` and `speed_m_s`. Raises ValueError for a speed at which the arm can follow no path.
    """

    reward_kind: RewardKind = "dense"
    goal_tolerance_m: float = 0.01
    reach_m: float = DEFAULT_REACH_M
    path: Annotated[PathChoice, Option("the path of the goal")] = "any"
    speed_m_s: Annotated[float, Option("the goal's mean speed in m/s", GOAL_SPEEDS_M_S, "m/s")] = 0.2
    settle_steps: int = SETTLE_STEPS  # for getting to the path; the error counts from then on
    moving: ClassVar[bool] = True
    error_name: ClassVar[str] = "RMS error of tracking"
    error_key: ClassVar[str | None] = "rms_error_m"
    goals_name: ClassVar[str] = "paths"
    episode_steps: ClassVar[int] = 200

    def __post_init__(self) -> None:
        check_reward(self.reward_kind, self.goal_tolerance_m)
        check_options(self)

    @classmethod
    def for_arm(
        cls, arm: Arm, period_s: float, *, reward: RewardKind = "dense", goal_tolerance_m: float = 0.01, **options: Any
    ) -> Self:
        """The task for an arm: its reach scales the reward, and slower arms have longer to settle."""
        settle_steps = steps_for(SETTLE_STEPS, arm.limits, period_s)
        return cls(reward, goal_tolerance_m, arm.reach_m, settle_steps=settle_steps, **options)

    def reward(self, distance_m: Any) -> Any:
        """Reward (...,) at this distance (...,) from the goal's position now."""
        return distance_reward(self.reward_kind, self.goal_tolerance_m, self.reach_m, distance_m)

    def check_arm(self, arm: Arm) -> None:
        """Raise ValueError for an arm that reaches nothing above the table, or can follow no path at this speed."""
        draw_pose(arm, np.random.default_rng(0))
        self.draw_path(arm, np.random.default_rng(0))

    def draw_path(self, arm: Arm, generator: np.random.Generator, table_m: float = TABLE_M, tries: int = TRIES) -> Path:
        """Draw a path above the table. Raises ValueError if the arm can follow none at this speed."""
        kinds = KINDS if self.path == "any" else (self.path,)
        return draw_path(arm, kinds, self.speed_m_s, generator, tries, table_m=table_m)

    def draw_goals(
        self, arm: Arm, generator: np.random.Generator, steps: int, period_s: float, *, table_m: float = TABLE_M
    ) -> "MovingGoal":
        """Draw goals along a random path, with ten times as many tries as `check_arm`."""
        path = self.draw_path(arm, generator, table_m, tries=10 * TRIES)
        return MovingGoal(path, steps, period_s, self.settle_steps)

    def goals_from_json(self, values: Any, steps: int, period_s: float) -> "MovingGoal":
        """Rebuild the goals along a path. Raises ValueError for the goals of another task."""
        if not isinstance(values, dict):
            raise ValueError(f"expected a path, got {values}")
        return MovingGoal(Path.from_json(values), steps, period_s, self.settle_steps)

    def errors_m(self, distances_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """RMS distance (...,) from `settle_steps` on, from the distances of an episode (..., steps + 1)."""
        return rms_distance(distances_m, self.settle_steps)

    def error_so_far(self, step: int, distance_m: float, total: float) -> tuple[float, float]:
        """The RMS distance since `settle_steps` (before that, the distance), and the sum of its squares."""
        settled_steps = step - self.settle_steps + 1
        if settled_steps < 1:
            return distance_m, total
        # RMS = sqrt(sum of d^2 / number of steps)
        total += distance_m * distance_m
        return math.sqrt(total / settled_steps), total


class MovingGoal:
    """Goals along a path: position (m) and velocity (m/s) at each step."""

    pose_deg = None

    def __init__(self, path: Path, steps: int, period_s: float, settle_steps: int = SETTLE_STEPS) -> None:
        self.path = path
        self._settle_steps = settle_steps
        self._goals = [tuple(row) for row in path.motion(np.arange(steps + 1) * period_s).tolist()]

    @property
    def path_kind(self) -> str:
        """The kind of the path."""
        return self.path.kind

    def goal(self, step: int) -> Goal:
        """The goal after so many steps; past the end of the episode, the last one."""
        return self._goals[min(step, len(self._goals) - 1)]

    def error_m(self, distances_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """RMS distance once the arm has settled."""
        return rms_distance(distances_m, self._settle_steps)

    def to_json(self) -> dict[str, Any]:
        """The path as plain values."""
        return self.path.to_json()


TASK = Track
ENVIRONMENTS = {"ArmTrack-v0": "degrees"}
