"""What the arm is to do: observation, goal, reward and success, as pure functions.

They work on arrays of one or many arms (`xp=numpy`) and are traced by the exporter (`xp=torch`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.arm import RADIANS, Arm, UnreachableGoalError
from envs.limits import MOST_EPISODE_STEPS, ROUNDING_M, TABLE_M, JointLimits
from envs.paths import KINDS, TRIES, Path, PathKind, draw_path

RewardKind = Literal["dense", "sparse"]
Control = Literal["absolute", "from_measured", "from_target"]
Goal = tuple[float, ...]

GOAL_TRIES = 1000  # random poses, before an arm is taken to reach nothing above the table
DEFAULT_REACH_M = 0.7  # of the default arm, for which the lengths of the dense reward are given
DENSE_LENGTH_M = 0.01  # of the dense reward's exponential
# A task's numbers of steps are for this control period, and for joints that cross their ranges in no more than this.
TASK_PERIOD_S = 1 / 30
TASK_CROSSING_S = 25 * TASK_PERIOD_S


def observe(
    arm: Arm,
    angles_deg: Any,
    speeds_deg_s: Any,
    previous_target_deg: Any,
    previous_target_speed_deg_s: Any,
    xp: Any = np,
    *,
    moving: bool = False,
) -> tuple[Any, Any]:
    """`observation` (..., 4 joints) and `achieved_goal` (..., 3 or 6) from the raw readings, each (..., joints).

    observation: angles (rad), speeds (rad/s), previous target (rad) and its speed (rad/s), which together are the state
    of `limit_target`. achieved_goal: tip position x, y, z (m), and for a `moving` goal its velocity (m/s).
    """
    readings = xp.concatenate((angles_deg, speeds_deg_s, previous_target_deg, previous_target_speed_deg_s), -1)
    return readings * RADIANS, arm.forward_kinematics(angles_deg, xp, speeds_deg_s if moving else None)


def observe_one(
    arm: Arm,
    angles_deg: Sequence[float],
    speeds_deg_s: Sequence[float],
    previous_target_deg: Sequence[float],
    previous_target_speed_deg_s: Sequence[float],
    *,
    moving: bool = False,
) -> tuple[list[float], tuple[float, ...]]:
    """The same for one arm, in a quarter of the time. The exporter compares the two on every export."""
    readings = (*angles_deg, *speeds_deg_s, *previous_target_deg, *previous_target_speed_deg_s)
    tip = arm.tip_motion(angles_deg, speeds_deg_s) if moving else arm.tip_position(angles_deg)
    return [reading * RADIANS for reading in readings], tip


def split_observation(observation: Any) -> tuple[Any, Any, Any, Any]:
    """The readings (..., joints) in degrees and degrees/s from which `observe` makes an `observation` (..., 4 joints).

    Measured angles, measured speeds, previous target, and its speed.
    """
    readings = observation / RADIANS
    joints = observation.shape[-1] // 4
    angles_deg = readings[..., :joints]
    speeds_deg_s = readings[..., joints : 2 * joints]
    previous_target_deg = readings[..., 2 * joints : 3 * joints]
    previous_target_speed_deg_s = readings[..., 3 * joints :]
    return angles_deg, speeds_deg_s, previous_target_deg, previous_target_speed_deg_s


def target_of(action_deg: Any, control: Control, measured_deg: Any, previous_target_deg: Any) -> Any:
    """The target angles (..., joints) that an action (..., joints) asks for, in degrees, not yet limited."""
    if control == "absolute":
        return action_deg
    return (measured_deg if control == "from_measured" else previous_target_deg) + action_deg


def distance(achieved_goal: Any, desired_goal: Any) -> NDArray[np.float64]:
    """Distance (...,) in metres between the points with which goals (..., 3 or 6) begin."""
    difference = np.subtract(achieved_goal, desired_goal, dtype=np.float64)
    x, y, z = difference[..., 0], difference[..., 1], difference[..., 2]
    squares: NDArray[np.float64] = x * x + y * y + z * z
    return np.sqrt(squares)


def steps_for(steps: int, limits: JointLimits, period_s: float) -> int:
    """A task's number of steps, such as an episode's, for an arm and a control period: longer for slower arms.

    In tenths of the task's own number, which many action repeats divide.
    """
    slowness = max(1.0, limits.crossing_s / TASK_CROSSING_S)
    tenths = math.ceil(10.0 * slowness * TASK_PERIOD_S / period_s - 1e-6)
    return min(max(1, steps * tenths // 10), max(steps, MOST_EPISODE_STEPS))


class Course(Protocol):
    """The goals of one episode."""

    def goal(self, step: int) -> Goal:
        """The goal after so many steps."""

    def to_json(self) -> Any:
        """As plain values, for the task's `course_from_json`."""


class Task(Protocol):
    """What an environment wants to know of its task."""

    moving: ClassVar[bool]  # whether goals have velocities: 6 numbers instead of 3
    error_name: ClassVar[str]  # what `errors_m` gives, for people
    episode_steps: ClassVar[int]

    @property
    def goal_tolerance_m(self) -> float:
        """How near is near enough."""

    def reward(self, distance_m: Any) -> Any:
        """Reward (...,) for being this far from the goal."""

    def check_arm(self, arm: Arm) -> None:
        """Raise ValueError for an arm that has no goals to draw."""

    def draw_course(self, arm: Arm, generator: np.random.Generator, steps: int, period_s: float) -> Course:
        """Random goals for an episode of so many steps, all of them above the table."""

    def course_from_json(self, values: Any, steps: int, period_s: float) -> Course:
        """Go back to a course."""

    def errors_m(self, distances_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """The error (...,) of an episode from its distances to the goal (..., steps + 1), the first at reset."""


def _check(kind: str, tolerance_m: float) -> None:
    if kind not in ("dense", "sparse"):
        raise ValueError(f"wanted reward dense or sparse, got '{kind}'")
    if not (0 < tolerance_m < math.inf):
        raise ValueError(f"wanted a positive goal tolerance in metres, got {tolerance_m}")


def _reward(kind: RewardKind, tolerance_m: float, reach_m: float, distance_m: Any) -> Any:
    """Reward (...,) for being this far from the goal.

    `dense`: -d + exp(-d / 10 mm) for a distance d in metres, from -0.7 at arm's length to 1 at the goal: the first term
    leads there from anywhere, the second one makes the last millimetres worth their while. Far from the goal the reward
    changes little, so that a detour pays where a joint is at its limit on the wrong side of the goal.
    For an arm of another reach than the default one's 0.7 m all lengths are in proportion.
    `sparse`: 0 within the tolerance, else -1.
    """
    if kind == "dense":
        d = distance_m * (DEFAULT_REACH_M / reach_m)
        return -d + np.exp(-d / DENSE_LENGTH_M)
    return np.where(distance_m <= tolerance_m, 0.0, -1.0)


def draw_goal(
    arm: Arm, generator: np.random.Generator, *, table_m: float = TABLE_M, tries: int = GOAL_TRIES
) -> tuple[float, float, float]:
    """The tip of a pose drawn uniformly from the joint ranges, again while the tip is below the table.

    Raises ValueError if it is so in all tries.
    """
    limits = arm.limits
    highest_m = -math.inf
    for _ in range(tries):
        tip_m: tuple[float, float, float] = arm.tip_position(
            generator.uniform(limits.lower_deg, limits.upper_deg).tolist()
        )
        if tip_m[2] >= table_m - ROUNDING_M:
            return tip_m
        highest_m = max(highest_m, tip_m[2])
    raise ValueError(
        f"{arm.name} reaches nothing above the table at z = {table_m:g} m: the highest of {tries} random poses has its "
        f"tip at z = {highest_m:.3f} m (does the first joint's origin in the URDF give the height of the base?)"
    )


@dataclass(frozen=True)
class Reach:
    """Reach a goal with the tip and stay there: the tip of a pose drawn uniformly from the joint ranges.

    Only tips at or above the table, z = 0 in the base's frame, are goals.
    """

    reward_kind: RewardKind = "dense"
    goal_tolerance_m: float = 0.01
    reach_m: float = DEFAULT_REACH_M
    moving: ClassVar[bool] = False
    error_name: ClassVar[str] = "error at the last step"
    episode_steps: ClassVar[int] = 50

    def __post_init__(self) -> None:
        _check(self.reward_kind, self.goal_tolerance_m)

    def reward(self, distance_m: Any) -> Any:
        """Reward (...,) for being this far from the goal."""
        return _reward(self.reward_kind, self.goal_tolerance_m, self.reach_m, distance_m)

    def check_arm(self, arm: Arm) -> None:
        """Raise ValueError for an arm that reaches nothing above the table."""
        draw_goal(arm, np.random.default_rng(0))

    def draw_course(self, arm: Arm, generator: np.random.Generator, steps: int, period_s: float) -> "StillGoal":
        """A reachable goal, the same in all steps, sought ten times as long as when the arm was checked."""
        return StillGoal(draw_goal(arm, generator, tries=10 * GOAL_TRIES))

    def course_from_json(self, values: Any, steps: int, period_s: float) -> "StillGoal":
        """Go back to a goal."""
        return StillGoal(tuple(values))

    def errors_m(self, distances_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """The distance at the last step, (...,), from those of an episode (..., steps + 1)."""
        return distances_m[..., -1]


@dataclass(frozen=True)
class StillGoal:
    """One goal for a whole episode."""

    goal_m: Goal

    def goal(self, step: int) -> Goal:
        """The goal."""
        return self.goal_m

    def to_json(self) -> Goal:
        """As plain values."""
        return self.goal_m


@dataclass(frozen=True)
class Track:
    """Follow a goal that goes round a smooth closed path, drawn at random for each episode (`envs.paths`)."""

    reward_kind: RewardKind = "dense"
    goal_tolerance_m: float = 0.01
    reach_m: float = DEFAULT_REACH_M
    path: PathKind | Literal["any"] = "any"
    speed_m_s: float = 0.2
    settle_steps: int = 30  # in which the arm may get to the path
    moving: ClassVar[bool] = True
    error_name: ClassVar[str] = "RMS error of tracking"
    episode_steps: ClassVar[int] = 200

    def __post_init__(self) -> None:
        _check(self.reward_kind, self.goal_tolerance_m)
        if self.path not in (*KINDS, "any"):
            raise ValueError(f"wanted a path of {', '.join(KINDS)} or any, got '{self.path}'")
        if not (0 < self.speed_m_s < math.inf):
            raise ValueError(f"wanted a positive speed of the goal in m/s, got {self.speed_m_s}")

    def reward(self, distance_m: Any) -> Any:
        """Reward (...,) for being this far from where the goal is now."""
        return _reward(self.reward_kind, self.goal_tolerance_m, self.reach_m, distance_m)

    def draw_path(self, arm: Arm, generator: np.random.Generator, table_m: float = TABLE_M) -> Path:
        """A random path above the table. Raises ValueError if the arm can follow none at this speed."""
        return draw_path(arm, self._kinds, self.speed_m_s, generator, table_m=table_m)

    def check_arm(self, arm: Arm) -> None:
        """Raise ValueError for an arm that reaches nothing above the table, or can follow no path at this speed."""
        draw_goal(arm, np.random.default_rng(0))
        self.draw_path(arm, np.random.default_rng(0))

    @property
    def _kinds(self) -> tuple[PathKind, ...]:
        return KINDS if self.path == "any" else (self.path,)

    def draw_course(self, arm: Arm, generator: np.random.Generator, steps: int, period_s: float) -> "MovingGoal":
        """The goals along a random path, sought ten times as long as when the speed was found to be possible."""
        return MovingGoal(draw_path(arm, self._kinds, self.speed_m_s, generator, 10 * TRIES), steps, period_s)

    def course_from_json(self, values: Any, steps: int, period_s: float) -> "MovingGoal":
        """Go back to a path."""
        return MovingGoal(Path.from_json(values), steps, period_s)

    def errors_m(self, distances_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """The RMS distance (...,) after `settle_steps`, from those of an episode (..., steps + 1)."""
        settled = min(self.settle_steps, distances_m.shape[-1] - 1)
        errors: NDArray[np.float64] = np.sqrt((distances_m[..., settled:] ** 2).mean(-1))
        return errors


def error_mm(distances_m: Sequence[float], *, moving: bool, settle_steps: int = Track.settle_steps) -> float:
    """The error of one goal in mm, from the tip's distances to it: first where it began, last where its time was over.

    That of a goal that stays is the last distance, that of a `moving` one the RMS distance (`Track.errors_m`).
    """
    task = Track(settle_steps=settle_steps) if moving else Reach()
    return 1000.0 * float(task.errors_m(np.array(distances_m)))


class MovingGoal:
    """Goals along a path: position (m) and velocity (m/s) at each step."""

    def __init__(self, path: Path, steps: int, period_s: float) -> None:
        self.path = path
        self._goals = [tuple(row) for row in path.motion(np.arange(steps + 1) * period_s).tolist()]

    def goal(self, step: int) -> Goal:
        """The goal after so many steps; after the last one it stays there."""
        return self._goals[min(step, len(self._goals) - 1)]

    def to_json(self) -> dict[str, Any]:
        """The path as plain values."""
        return self.path.to_json()


def check_goal(arm: Arm, goal_m: Sequence[float]) -> tuple[float, float, float]:
    """The goal as three floats. Raises ValueError if it is not three finite numbers or the arm cannot reach it."""
    goal = np.asarray(goal_m, dtype=np.float64)
    if goal.shape != (3,):
        raise ValueError(f"wanted a goal x,y,z in metres, got {goal_m}")
    arm.inverse_kinematics(goal, tolerance_m=1e-5)
    return float(goal[0]), float(goal[1]), float(goal[2])


__all__ = [
    "Control",
    "Course",
    "MovingGoal",
    "Reach",
    "RewardKind",
    "StillGoal",
    "Task",
    "Track",
    "UnreachableGoalError",
    "check_goal",
    "distance",
    "draw_goal",
    "error_mm",
    "observe",
    "observe_one",
    "split_observation",
    "target_of",
]
