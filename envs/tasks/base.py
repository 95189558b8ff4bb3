"""The `Task` protocol, which `ArmEnv` and the program use, and helpers that tasks share.

A task is one file of this folder. It defines a frozen dataclass with the methods of `Task`, names it in `TASK`, and
lists the environment ids that it registers, each with its kind of action, in `ENVIRONMENTS`:

    TASK = Reach
    ENVIRONMENTS = {"ArmReach-v0": "degrees"}

Fields marked with `Option` are the task's options: keywords of `gymnasium.make`, flags of `arm-control train`, and
stored with the run and with the exported policy.
"""

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from envs.arm import Arm
from envs.control import ActionKind
from envs.limits import MOST_EPISODE_STEPS, ROUNDING_M, TABLE_M, JointLimits
from envs.tasks.reward import RewardKind

Goal = tuple[float, ...]  # position x, y, z (m), and of a moving goal its velocity (m/s)

GOAL_TRIES = 1000  # random poses tried before concluding that the arm reaches nothing above the table
SETTLE_STEPS = 30  # control steps for catching up with a moving goal; its error counts from then on
# Numbers of steps in tasks are for this control period, and for joints that cross their ranges within this time.
TASK_PERIOD_S = 1 / 30
TASK_CROSSING_S = 25 * TASK_PERIOD_S


# ----------------------------------------------------------------------------------------------------------- protocols


class GoalTrajectory(Protocol):
    """The goals of one episode."""

    @property
    def path_kind(self) -> str | None:
        """Kind of the path that the goal moves along, for display; None for a fixed goal."""

    @property
    def pose_deg(self) -> tuple[float, ...] | None:
        """A pose that has the tip at a fixed goal, where one is known."""

    def goal(self, step: int) -> Goal:
        """The goal after so many steps."""

    def error_m(self, distances_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """The error (...,) of an episode from its distances to the goal (..., steps + 1), the first at reset."""

    def to_json(self) -> Any:
        """Plain values from which the task's `goals_from_json` rebuilds the goals."""


class Task(Protocol):
    """A task: what it draws as goals, rewards, and reports as its error."""

    moving: ClassVar[bool]  # whether goals have velocities: 6 numbers instead of 3
    error_name: ClassVar[str]  # of what `errors_m` returns, for display
    error_key: ClassVar[str | None]  # of the error so far in the environment's `info`, if it is not `distance_m`
    goals_name: ClassVar[str]  # the plural noun for what is drawn: "goals", "paths"
    episode_steps: ClassVar[int]  # for a control period of 1/30 s

    @property
    def goal_tolerance_m(self) -> float:
        """Distance within which a goal is reached, in metres."""

    @classmethod
    def for_arm(
        cls, arm: Arm, period_s: float, *, reward: RewardKind = "dense", goal_tolerance_m: float = 0.01, **options: Any
    ) -> Self:
        """The task for an arm and a control period. Raises ValueError for options out of range."""

    def reward(self, distance_m: Any) -> Any:
        """Reward (...,) at this distance (...,) from the goal."""

    def check_arm(self, arm: Arm) -> None:
        """Raise ValueError for an arm for which no goals can be drawn."""

    def draw_goals(
        self, arm: Arm, generator: np.random.Generator, steps: int, period_s: float, *, table_m: float = TABLE_M
    ) -> GoalTrajectory:
        """Random goals for an episode of so many steps, all of them above the table."""

    def goals_from_json(self, values: Any, steps: int, period_s: float) -> GoalTrajectory:
        """Rebuild a goal trajectory from `to_json`. Raises ValueError for one of another task."""

    def errors_m(self, distances_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """The error (...,) of an episode from its distances to the goal (..., steps + 1), the first at reset."""

    def error_so_far(self, step: int, distance_m: float, total: float) -> tuple[float, float]:
        """The error in metres after a step, and the running total to pass in at the next one (at first 0)."""


# ------------------------------------------------------------------------------------------------------------- options


@dataclass(frozen=True)
class Option:
    """Marks a field of a task's dataclass as an option: `speed_m_s: Annotated[float, Option("...")] = 0.2`."""

    help: str  # what it sets, with its unit
    limits: tuple[float, float] | None = None  # of a number: the least and the most
    unit: str = ""
    # Set by `options_of`, from the field that this marks.
    name: str = ""
    kind: Any = str  # str, int, float, bool or a Literal of strings
    default: Any = None

    def check(self, value: Any) -> None:
        """Raise ValueError for a value that is not of the option's kind or outside its limits."""
        if get_origin(self.kind) is Literal:
            if value not in get_args(self.kind):
                raise ValueError(f"{self.name}: expected {', '.join(get_args(self.kind))}, got '{value}'")
            return
        accepted = {float: numbers.Real, int: numbers.Integral}.get(self.kind, self.kind)
        if not isinstance(value, accepted) or (isinstance(value, bool) and self.kind is not bool):
            raise ValueError(f"{self.name}: expected a value of type {self.kind.__name__}, got {value!r}")
        if self.limits is not None:
            least, most = self.limits
            if not least <= value <= most:
                raise ValueError(f"{self.name}: expected from {least:g} to {most:g} {self.unit}, got {value}")


def options_of(task: type[Any]) -> dict[str, Option]:
    """The options that a task declares, by their names."""
    options: dict[str, Option] = {}
    hints = get_type_hints(task, include_extras=True)
    for field in dataclasses.fields(task):
        hint = hints[field.name]
        if get_origin(hint) is not Annotated:
            continue
        kind, *marks = get_args(hint)
        for mark in marks:
            if isinstance(mark, Option):
                options[field.name] = dataclasses.replace(mark, name=field.name, kind=kind, default=field.default)
    return options


def check_options(task: Any) -> None:
    """Raise ValueError unless each of a task's options has a value that it accepts."""
    for name, declared in options_of(type(task)).items():
        declared.check(getattr(task, name))


# ------------------------------------------------------------------------------------------------------- environments


@dataclass(frozen=True)
class Environment:
    """An environment id: a task with one kind of action."""

    id: str
    task_name: str  # of the task's file
    task: type[Task]
    actions: ActionKind

    @property
    def options(self) -> dict[str, Option]:
        """The task's options by their names."""
        return options_of(self.task)


def steps_for(steps: int, limits: JointLimits, period_s: float) -> int:
    """Scale a task's number of steps, such as an episode's, to an arm and a control period: longer for slower arms.

    The result is a whole number of tenths of the task's own, so that common action repeats divide it.
    """
    slowness = max(1.0, limits.crossing_s / TASK_CROSSING_S)
    tenths = math.ceil(10.0 * slowness * TASK_PERIOD_S / period_s - 1e-6)
    return min(max(1, steps * tenths // 10), max(steps, MOST_EPISODE_STEPS))


# -------------------------------------------------------------------------------------------------------------- errors


def last_distance(distances_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance at the last step (...,), from those of an episode (..., steps + 1)."""
    return distances_m[..., -1]


def rms_distance(distances_m: NDArray[np.float64], settle_steps: int = SETTLE_STEPS) -> NDArray[np.float64]:
    """RMS distance (...,) from `settle_steps` on, from the distances of an episode (..., steps + 1)."""
    settled = min(settle_steps, distances_m.shape[-1] - 1)
    errors: NDArray[np.float64] = np.sqrt((distances_m[..., settled:] ** 2).mean(-1))
    return errors


# --------------------------------------------------------------------------------------------------------------- goals


@dataclass(frozen=True)
class StillGoal:
    """One fixed goal for a whole episode."""

    goal_m: Goal
    pose_deg: tuple[float, ...] | None = dataclasses.field(default=None, compare=False)
    """A pose that has the tip there, where the goal was drawn as one."""

    @property
    def path_kind(self) -> None:
        """None: there is no path."""
        return None

    def goal(self, step: int) -> Goal:
        """The goal, the same at every step."""
        return self.goal_m

    def error_m(self, distances_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """The distance at the last step."""
        return last_distance(distances_m)

    def to_json(self) -> Goal:
        """As plain values."""
        return self.goal_m


def draw_pose(
    arm: Arm, generator: np.random.Generator, *, table_m: float = TABLE_M, tries: int = GOAL_TRIES
) -> StillGoal:
    """The tip position of a pose drawn uniformly from the joint ranges; tips below the table are drawn again.

    Raises ValueError if all tries are below it.
    """
    limits = arm.limits
    highest_m = -math.inf
    for _ in range(tries):
        pose_deg = generator.uniform(limits.lower_deg, limits.upper_deg).tolist()
        tip_m: tuple[float, float, float] = arm.tip_position(pose_deg)
        if tip_m[2] >= table_m - ROUNDING_M:
            return StillGoal(tip_m, tuple(pose_deg))
        highest_m = max(highest_m, tip_m[2])
    raise ValueError(
        f"{arm.name} reaches nothing above the table at z = {table_m:g} m: the highest of {tries} random poses has its "
        f"tip at z = {highest_m:.3f} m (does the first joint's origin in the URDF give the height of the base?)"
    )


def check_goal(arm: Arm, goal_m: Any) -> tuple[float, float, float]:
    """Return the goal as three floats. Raises ValueError unless it is three finite numbers within the arm's reach."""
    goal = np.asarray(goal_m, dtype=np.float64)
    if goal.shape != (3,):
        raise ValueError(f"expected a goal x,y,z in metres, got {goal_m}")
    arm.inverse_kinematics(goal, tolerance_m=1e-5)
    return float(goal[0]), float(goal[1]), float(goal[2])
