"""Evaluation on held-out goals: how near, how often, how fast; the same figures for every controller."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import gymnasium
import numpy as np
from numpy.typing import NDArray

import envs  # noqa: F401  (registers the environments)
from arm_control.config import TrainConfig
from arm_control.printing import printable_lines
from envs.arm import RADIANS, Arm
from envs.imperfections import imperfections_from_json, open_imperfections
from envs.tasks import Task

if TYPE_CHECKING:
    from envs.arm_env import ArmEnv

LADDER_MM = (50, 20, 10, 5, 2, 1)
VALIDATION_GOALS = 50
ARMS_AT_ONCE = 25

# Seeds of different purposes never meet, whatever number a person gives to each.
TRAINING, VALIDATION, EVALUATION, LEARNING = range(4)

FloatArray = NDArray[np.float32]
Observation = dict[str, FloatArray]


def derived_seeds(seed: int, purpose: int, count: int) -> list[int]:
    """`count` environment seeds for one purpose; those of other purposes and seeds are others."""
    return [
        int(word) for word in np.random.SeedSequence((purpose, seed)).generate_state(count, np.uint64) >> np.uint64(1)
    ]


MakeEnv = Callable[[], gymnasium.Env[Any, Any]]


def environment_maker(config: TrainConfig, **other: Any) -> MakeEnv:
    """A picklable function that makes a run's environment, or one with `other` options.

    It leaves out Gymnasium's checker, which halves the speed.
    """
    options = config.environment_options() | other
    return functools.partial(gymnasium.make, config.env, disable_env_checker=True, **options)


class Controller(Protocol):
    """Anything that maps the observations of several arms to their actions."""

    def __call__(self, observation: Observation, arms: list[Any]) -> NDArray[Any]: ...


def begin_episodes(controller: Controller) -> None:
    """Let a controller with a memory forget what it saw."""
    if isinstance(controller, Remembering):
        controller.forget()


@runtime_checkable
class Remembering(Protocol):
    """A controller with a memory."""

    def forget(self) -> None:
        """Begin anew."""


def actions_for(targets_deg: NDArray[np.floating], arms: list[Any]) -> NDArray[Any]:
    """The actions (arms, ...) that ask for these target angles (arms, joints), or for the nearest on an arm's grid."""
    grid, kind = arms[0].grid, arms[0].actions
    if grid is None:
        return targets_deg.astype(np.float32)
    positions: NDArray[Any] = grid.nearest(targets_deg)
    return positions if kind == "positions" else grid.index(positions)


def zero_controller(observation: Observation, arms: list[Any]) -> NDArray[Any]:
    """Every joint to its lower limit."""
    return actions_for(np.array([arm.arm.limits.lower_deg for arm in arms]), arms)


class RandomController:
    """A uniformly random target at every step: the 0 of the normalised return."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(np.random.SeedSequence((EVALUATION, seed)))

    def __call__(self, observation: Observation, arms: list[Any]) -> FloatArray:
        """Draw new targets."""
        space = arms[0].action_space
        return self._generator.uniform(space.low, space.high, (len(arms), len(space.low))).astype(np.float32)


# How far ahead of a moving goal the planner aims: what limiter and servo lag behind, measured to be best.
LEAD_S = 0.05
DOWNHILL_STEPS = 60
STUCK_M = 0.02


def ik_controller(observation: Observation, arms: list[Any]) -> FloatArray:
    """The pose that inverse kinematics gives for the goal, or for where it will be: the 1 of the normalised return."""
    arm: Arm = arms[0].arm
    goal = observation["desired_goal"].astype(np.float64)
    if goal.shape[1] == 3:
        return actions_for(arm.inverse_kinematics(goal, tolerance_m=1e-5), arms)
    measured = observation["observation"][:, : arm.joint_count].astype(np.float64) / RADIANS
    ahead = goal[:, :3] + LEAD_S * goal[:, 3:]
    # Downhill from where the arm is, since what is ahead of a path may be just out of reach; and if that leads nowhere,
    # to any pose for where the goal is now.
    start = np.clip(measured, arm.limits.lower_deg, arm.limits.upper_deg)
    angles = arm.descend(start, ahead, tolerance_m=1e-5, steps=DOWNHILL_STEPS)
    stuck = np.linalg.norm(arm.forward_kinematics(angles) - ahead, axis=-1) > STUCK_M
    if stuck.any():
        angles[stuck] = arm.inverse_kinematics(goal[stuck, :3], tolerance_m=1e-4)
    return actions_for(angles, arms)


@dataclass(frozen=True)
class Rollouts:
    """Distances to the goal (goals, steps + 1) in metres, the first at reset, of a task, and the control period."""

    distances_m: NDArray[np.float64]
    task: Task
    control_period_s: float

    @property
    def error_mm(self) -> NDArray[np.float64]:
        """The error (goals,) as the task has it: at the last step, or the RMS of tracking."""
        return 1000.0 * self.task.errors_m(self.distances_m)

    @property
    def returns(self) -> NDArray[np.float64]:
        """Sum of minus the distance over the episode, whatever reward was trained on."""
        sums: NDArray[np.float64] = self.distances_m[:, 1:].sum(axis=1)
        return -sums


class Arms:
    """Environments side by side, kept from one roll-out to the next: to make one takes longer than an episode."""

    def __init__(self, make_env: MakeEnv, count: int) -> None:
        """Make `count` environments, but no more than ARMS_AT_ONCE."""
        self._envs: list[Any] = [make_env().unwrapped for _ in range(min(ARMS_AT_ONCE, count))]

    def roll_out(self, controller: Controller, seeds: list[int]) -> Rollouts:
        """One episode a seed; a controller without memory gives each the result that it has alone."""
        rows = []
        for start in range(0, len(seeds), len(self._envs)):
            together = self._envs[: len(seeds) - start]
            rows.append(_episodes(controller, together, seeds[start : start + len(together)]))
        env = cast("ArmEnv", self._envs[0])
        return Rollouts(np.concatenate(rows), env.task, env.simulation.control_period_s)

    def close(self) -> None:
        """Close them all."""
        for env in self._envs:
            env.close()


def roll_out(controller: Controller, make_env: MakeEnv, seeds: list[int]) -> Rollouts:
    """One episode a seed, in environments of its own."""
    with contextlib.closing(Arms(make_env, len(seeds))) as arms:
        return arms.roll_out(controller, seeds)


def _episodes(controller: Controller, arms: list[Any], seeds: list[int]) -> NDArray[np.float64]:
    begin_episodes(controller)
    results = [arm.reset(seed=seed) for arm, seed in zip(arms, seeds, strict=True)]
    observations = [observation for observation, _ in results]
    distances = [[info["distance_m"] for _, info in results]]
    truncated = False
    while not truncated:
        batch = {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
        steps = [arm.step(action) for arm, action in zip(arms, controller(batch, arms), strict=True)]
        observations = [step[0] for step in steps]
        distances.append([step[4]["distance_m"] for step in steps])
        truncated = steps[0][3]
    return np.array(distances).T


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927, equation 2 of Brown, Cai and DasGupta 2001)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def time_to_reach(rollouts: Rollouts, tolerance_m: float) -> float | None:
    """Median time in s until the tip is within the tolerance for good, over the episodes in which it ends there."""
    outside = rollouts.distances_m > tolerance_m
    reached = ~outside[:, -1]
    if not reached.any():
        return None
    steps = outside.shape[1] - np.argmax(outside[:, ::-1], axis=1)  # the step after the last one outside
    steps = np.where(outside.any(axis=1), steps, 0)
    return float(np.median(steps[reached])) * rollouts.control_period_s


class Validation:
    """What a training reports of its controller on the way, on a few goals of its own: `metrics.jsonl` has it."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._seeds = derived_seeds(config.seed, VALIDATION, VALIDATION_GOALS)
        self._arms: Arms | None = None

    def __call__(self, controller: Controller) -> dict[str, float]:
        """The errors, successes and return of the controller as it is now."""
        if self._arms is None:
            self._arms = Arms(environment_maker(self._config), len(self._seeds))
        rollouts = self._arms.roll_out(controller, self._seeds)
        error = rollouts.error_mm
        return {
            "mean_error_mm": float(error.mean()),
            "success": float((error <= 1000 * self._config.goal_tolerance_m).mean()),
            **{f"success_{mm}_mm": float((error <= mm).mean()) for mm in LADDER_MM},
            "return": float(rollouts.returns.mean()),
        }

    def close(self) -> None:
        """Close its arms."""
        if self._arms is not None:
            self._arms.close()


def evaluate_controller(
    controller: Controller,
    config: TrainConfig,
    *,
    goals: int,
    seed: int,
) -> dict[str, Any]:
    """Errors in mm, success ladder, time to reach, return, in the environment of a configuration.

    The error is the distance at the last step or, of a moving goal, the RMS distance once the arm has settled.
    `normalised_return` is 0 for uniformly random targets and 1 for the inverse-kinematics controller on the very
    same starts and goals.
    """
    seeds = derived_seeds(seed, EVALUATION, goals)
    rollouts = roll_out(controller, environment_maker(config), seeds)
    # Of continuous targets, whatever the controller's own actions are.
    env = "ArmTrack-v0" if config.env == "ArmTrack-v0" else "ArmReach-v0"
    make_reference = environment_maker(dataclasses.replace(config, env=env, control="absolute", grid_step_deg=1.0))
    with contextlib.closing(Arms(make_reference, goals)) as arms:
        random = arms.roll_out(RandomController(seed), seeds).returns.mean()
        planned = arms.roll_out(ik_controller, seeds).returns.mean()
    error = rollouts.error_mm
    successes = {mm: int((error <= mm).sum()) for mm in LADDER_MM}
    return {
        "env": config.env,
        "error": rollouts.task.error_name,
        "imperfections": open_imperfections(config.imperfections).to_json(),
        "goals": goals,
        "seed": seed,
        "mean_error_mm": float(error.mean()),
        "median_error_mm": float(np.median(error)),
        "p95_error_mm": float(np.percentile(error, 95)),
        "max_error_mm": float(error.max()),
        "success": {str(mm): count / goals for mm, count in successes.items()},
        "success_interval": {str(mm): list(wilson_interval(count, goals)) for mm, count in successes.items()},
        "time_to_reach_s": time_to_reach(rollouts, config.goal_tolerance_m),
        "return": float(rollouts.returns.mean()),
        "normalised_return": float((rollouts.returns.mean() - random) / (planned - random)),
        "return_random": float(random),
        "return_ik": float(planned),
    }


def format_evaluation(name: str, figures: dict[str, Any]) -> str:
    """The figures as a table for people."""
    reach = figures["time_to_reach_s"]
    goals = "paths" if figures["env"] == "ArmTrack-v0" else "goals"
    imperfections = imperfections_from_json(figures["imperfections"]).name
    where = "" if imperfections == "ideal" else f", {imperfections} arm"
    lines = [
        f"{name}: {figures['goals']} held-out {goals}, seed {figures['seed']}{where}",
        f"  {figures['error']:<22}   mean {figures['mean_error_mm']:.2f} mm, "
        f"median {figures['median_error_mm']:.2f} mm, "
        f"95 % below {figures['p95_error_mm']:.2f} mm, worst {figures['max_error_mm']:.2f} mm",
    ]
    for mm in map(str, LADDER_MM):
        low, high = figures["success_interval"][mm]
        lines.append(f"  within {mm:>2} mm   {figures['success'][mm]:7.1%}   (95 % interval {low:.1%} to {high:.1%})")
    lines.append(f"  time to reach and stay   {'never' if reach is None else f'{reach:.2f} s (median)'}")
    lines.append(f"  normalised return   {figures['normalised_return']:.3f}   (0 random targets, 1 inverse kinematics)")
    return printable_lines(lines)
