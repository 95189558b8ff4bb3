"""Evaluation on held-out goals: how near, how often, how fast; the same figures for every controller."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

import gymnasium
import numpy as np
from numpy.typing import NDArray

import envs  # noqa: F401  (registers the environments)
from arm_control.config import DEFAULT_STEPS, TrainConfig
from arm_control.console import ProgressLine
from arm_control.printing import printable_lines
from arm_control.rest import Rest, RestWindow, format_rest, rest_fault, rest_figures, rest_steps
from arm_control.run_folder import PolicyOrigin
from arm_control.shared_work import SharedWork, spare_cores
from envs.arm import RADIANS, Arm
from envs.imperfections import imperfections_from_json, open_imperfections
from envs.tasks import Task

if TYPE_CHECKING:
    from envs.arm_env import ArmEnv

LADDER_MM = (50, 20, 10, 5, 2, 1)
VALIDATION_GOALS = 50
LEAST_VALIDATION_GOALS = 5
REPORTS = 20  # validations and reports in a training, at most
KEPT_WITHIN = 1.5  # times the lowest validation error, for a later policy to be kept
VALIDATION_SHARE = 0.25  # of a training's steps or time: validations take at most a fifth of the whole
ARMS_AT_ONCE = 25
HELPER_STEPS = 20_000  # for each so many steps of the references, another process is worth its start
MOST_HELPERS = 4
LEAST_REACHED = 0.5  # of the goals, by inverse kinematics: else the goals are no measure
NEAR = 1 / 70  # of an arm's reach, 10 mm for the default one: as near to a goal as inverse kinematics should get
LEAST_GAIN = 0.1  # of the random return, by which that of inverse kinematics must be better

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
        return self.draw(arms[0].action_space, len(arms))

    def draw(self, space: Any, *shape: int) -> FloatArray:
        """The next targets (*shape, joints)."""
        return self._generator.uniform(space.low, space.high, (*shape, len(space.low))).astype(np.float32)

    def skip(self, numbers: int) -> None:
        """Leave out so many of the numbers to come, one a joint."""
        cast(np.random.PCG64, self._generator.bit_generator).advance(numbers)


# How far ahead of a moving goal the planner aims: what limiter and servo lag behind, measured to be best at 30 Hz.
LEAD_S = 0.05
LEAD_PERIOD_S = 1 / 30
DOWNHILL_STEPS = 60
STUCK_M = 0.02


class IKController:
    """The pose that inverse kinematics gives for the goal, or for where it will be: the 1 of the normalised return.

    Of several poses, the one that the arm reaches soonest. It is worked out once for a goal that stands still; for one
    that moves, at each step from the pose of the step before.
    """

    def __init__(self) -> None:
        self._goals: NDArray[np.float64] | None = None
        self._poses_deg = np.empty((0, 0))

    def forget(self) -> None:
        """Begin anew."""
        self._goals = None

    def __call__(self, observation: Observation, arms: list[Any]) -> NDArray[Any]:
        """The poses, as actions."""
        arm: Arm = arms[0].arm
        goals = observation["desired_goal"].astype(np.float64)
        measured_deg = observation["observation"][:, : arm.joint_count].astype(np.float64) / RADIANS
        present_deg = np.clip(measured_deg, arm.limits.lower_deg, arm.limits.upper_deg)
        if goals.shape[1] == 3:
            self._plan_still(arm, goals, present_deg)
        else:
            self._plan_moving(arm, goals, present_deg, arms[0].simulation.control_period_s)
        self._goals = goals
        return actions_for(self._poses_deg, arms)

    def _plan_still(self, arm: Arm, goals: NDArray[np.float64], present_deg: NDArray[np.float64]) -> None:
        """Poses for the goals that have changed."""
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
        """Poses for where the goals will be by the time that the arm is there."""
        lead_s = LEAD_S + period_s - LEAD_PERIOD_S
        ahead = goals[:, :3] + lead_s * goals[:, 3:]
        # Downhill from the poses of the step before, since what is ahead of a path may be just out of reach; and if
        # that leads nowhere, to any pose for where the goal is now.
        follows = self._goals is not None and self._goals.shape == goals.shape
        start_deg = self._poses_deg if follows else present_deg
        self._poses_deg = arm.descend(start_deg, ahead, tolerance_m=1e-5, steps=DOWNHILL_STEPS)
        stuck = np.linalg.norm(arm.forward_kinematics(self._poses_deg) - ahead, axis=-1) > STUCK_M
        if stuck.any():
            here_deg = present_deg[stuck]
            self._poses_deg[stuck] = arm.inverse_kinematics(goals[stuck, :3], tolerance_m=1e-4, start_deg=here_deg)


def _no_angles() -> NDArray[np.float64]:
    return np.empty((0, 0, 0))


@dataclass(frozen=True)
class Rollouts:
    """Distances to the goal (goals, steps + 1) in metres, the first at reset, of a task, and the control period.

    `targets_deg` and `angles_deg` (goals, steps + 1, joints): sent targets and true angles of the last 0.5 s; they are
    empty where not recorded.
    """

    distances_m: NDArray[np.float64]
    task: Task
    control_period_s: float
    targets_deg: NDArray[np.float64] = field(default_factory=_no_angles)
    angles_deg: NDArray[np.float64] = field(default_factory=_no_angles)

    @property
    def error_mm(self) -> NDArray[np.float64]:
        """The error (goals,) as the task has it: at the last step, or the RMS of tracking."""
        return 1000.0 * self.task.errors_m(self.distances_m)

    @property
    def returns(self) -> NDArray[np.float64]:
        """Sum of minus the distance over the episode, whatever reward was trained on."""
        sums: NDArray[np.float64] = self.distances_m[:, 1:].sum(axis=1)
        return -sums

    @property
    def rest_fault(self) -> str | None:
        """The reason why there are no figures of rest; None if there are."""
        episode_steps = self.distances_m.shape[1] - 1
        return rest_fault(rest_steps(self.control_period_s, episode_steps), moving=self.task.moving)


class Arms:
    """Environments side by side, kept from one roll-out to the next: to make one takes longer than an episode."""

    def __init__(self, make_env: MakeEnv, count: int) -> None:
        """Make `count` environments, but no more than ARMS_AT_ONCE."""
        self._envs: list[Any] = [make_env().unwrapped for _ in range(min(ARMS_AT_ONCE, count))]

    def roll_out(
        self, controller: Controller, seeds: Sequence[int], on_episodes: Callable[[int], None] = lambda _: None
    ) -> Rollouts:
        """One episode a seed; a controller without memory gives each the result that it has alone.

        `on_episodes` is called with the number of episodes done so far.
        """
        parts = []
        for start in range(0, len(seeds), len(self._envs)):
            together = self._envs[: len(seeds) - start]
            parts.append(_episodes(controller, together, seeds[start : start + len(together)]))
            on_episodes(start + len(together))
        return _joined(parts)

    @property
    def first(self) -> "ArmEnv":
        """One of them, for what is the same of all."""
        return cast("ArmEnv", self._envs[0])

    def close(self) -> None:
        """Close them all."""
        for env in self._envs:
            env.close()


def roll_out(controller: Controller, make_env: MakeEnv, seeds: list[int]) -> Rollouts:
    """One episode a seed, in environments of its own."""
    with contextlib.closing(Arms(make_env, len(seeds))) as arms:
        return arms.roll_out(controller, seeds)


def _episodes(controller: Controller, arms: list[Any], seeds: Sequence[int]) -> Rollouts:
    first: ArmEnv = arms[0]
    window = RestWindow(first.simulation.control_period_s, first.episode_steps)
    begin_episodes(controller)
    results = [arm.reset(seed=seed) for arm, seed in zip(arms, seeds, strict=True)]
    observations = [observation for observation, _ in results]
    distances = [[info["distance_m"] for _, info in results]]
    _add_to(window, arms)
    truncated = False
    while not truncated:
        batch = {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
        steps = [arm.step(action) for arm, action in zip(arms, controller(batch, arms), strict=True)]
        observations = [step[0] for step in steps]
        distances.append([step[4]["distance_m"] for step in steps])
        _add_to(window, arms)
        truncated = steps[0][3]
    return _rollouts(first, np.array(distances).T, window)


def _add_to(window: RestWindow, arms: Sequence["ArmEnv"]) -> None:
    """Add what was sent to each arm, and where its joints really are: readings of an imperfect arm have noise."""
    window.add_targets([arm.target_deg for arm in arms])
    window.add_angles([arm.simulation.angles_deg for arm in arms])


def _rollouts(env: "ArmEnv", distances_m: NDArray[np.float64], window: RestWindow) -> Rollouts:
    """Episodes in environments such as this one."""
    period_s = env.simulation.control_period_s
    return Rollouts(distances_m, env.task, period_s, window.targets_deg, window.angles_deg)


def _joined(parts: Sequence[Rollouts]) -> Rollouts:
    """Roll-outs of the same task, one after the other."""
    return dataclasses.replace(
        parts[0],
        distances_m=np.concatenate([part.distances_m for part in parts]),
        targets_deg=np.concatenate([part.targets_deg for part in parts]),
        angles_deg=np.concatenate([part.angles_deg for part in parts]),
    )


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


def validation_goals(config: TrainConfig, episode_steps: int) -> int:
    """Number of goals of each validation: fewer where so many in all would take more than a training's share."""
    if config.minutes is not None:
        return VALIDATION_GOALS
    budget_steps = VALIDATION_SHARE * (config.steps or DEFAULT_STEPS)
    affordable = round(budget_steps / (REPORTS * episode_steps))
    return min(VALIDATION_GOALS, max(LEAST_VALIDATION_GOALS, affordable))


class Validation:
    """Evaluates the controller during a training, on a few goals of its own, for `metrics.jsonl`.

    Its arms are kept from one to the next.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._seeds: list[int] = []
        self._arms: Arms | None = None
        self.count = 0  # of validations so far, those before a resumption included
        self._seconds = 0.0  # that those of this process took

    def is_due(self, step: int, elapsed_s: float) -> bool:
        """True for the first one, at the training's end, and in between while they take a bounded share of it.

        Of its steps, which a resumed training repeats; of a training by --minutes, of its time.
        """
        if self.count == 0 or self._config.progress(step, elapsed_s) >= 1.0:
            return True
        if self._config.minutes is not None:
            return self._seconds <= VALIDATION_SHARE * elapsed_s
        episode_steps = self._open().first.episode_steps
        return (self.count + 1) * len(self._seeds) * episode_steps <= VALIDATION_SHARE * step

    def _open(self) -> Arms:
        if self._arms is None:
            make_env = environment_maker(self._config)
            with contextlib.closing(make_env()) as env:
                episode_steps: int = env.unwrapped.episode_steps  # type: ignore[attr-defined]
            self._seeds = derived_seeds(self._config.seed, VALIDATION, validation_goals(self._config, episode_steps))
            self._arms = Arms(make_env, len(self._seeds))
        return self._arms

    def __call__(self, controller: Controller) -> dict[str, float]:
        """The errors, successes and return of the controller as it is now."""
        begin_s = time.monotonic()
        arms = self._open()
        rollouts = arms.roll_out(controller, self._seeds)
        self._seconds += time.monotonic() - begin_s
        self.count += 1
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


def is_kept(error_mm: float, lowest_mm: float) -> bool:
    """Return True if a policy replaces the one kept before it, given its validation error and the lowest so far.

    Validation has too few goals to resolve small differences, and longer training helps. So the latest policy is kept
    unless its error is clearly higher than the lowest.
    """
    return error_mm <= KEPT_WITHIN * lowest_mm


Reference = Literal["random", "ik"]


@dataclass(frozen=True)
class Batch:
    """Some episodes of a reference, from the one with this number on."""

    reference: Reference
    first: int
    seeds: tuple[int, ...]
    evaluated: bool = False
    """True if the reference itself is evaluated, so that its rest is measured."""


class ReferenceEpisodes:
    """Simulates what an evaluation is measured against: uniformly random targets, and inverse kinematics.

    On the starts and goals of the evaluation, with continuous targets whatever the actions of the controller are.
    """

    def __init__(self, config: TrainConfig, seed: int) -> None:
        env = "ArmTrack-v0" if config.env == "ArmTrack-v0" else "ArmReach-v0"
        self._config = dataclasses.replace(config, env=env, control="absolute", grid_step_deg=1.0)
        self._seed = seed
        self._arms: Arms | None = None

    def fits(self, config: TrainConfig) -> bool:
        """True if a configuration's environment is just that of the references."""
        own = self._config
        return config.env == own.env and config.environment_options() == own.environment_options()

    def share(self, arms: Arms) -> None:
        """Simulate in these environments, which fit, instead of others."""
        self._arms = arms

    def __call__(self, batch: Batch) -> Rollouts:
        """The episodes of a batch. They depend on no others."""
        moving = self._config.env == "ArmTrack-v0"
        if self._arms is None:
            # Targets that are known beforehand need no arms side by side, which take memory and time to make.
            self._arms = Arms(environment_maker(self._config), len(batch.seeds) if moving else 1)
        if moving and batch.reference == "ik":
            return self._arms.roll_out(IKController(), batch.seeds)
        env = self._arms.first
        targets = self._random_targets(env, batch) if batch.reference == "random" else _ik_targets(env, batch.seeds)
        parts = []
        for number, seed in enumerate(batch.seeds):
            parts.append(_open_loop(env, seed, targets[:, number], measure_rest=batch.evaluated))
        return _joined(parts)

    def _random_targets(self, env: "ArmEnv", batch: Batch) -> FloatArray:
        """Targets (steps, episodes, joints), as one controller draws them for all batches, one after the other."""
        controller = RandomController(self._seed)
        controller.skip(batch.first * env.episode_steps * env.arm.joint_count)
        return controller.draw(env.action_space, env.episode_steps, len(batch.seeds))

    def close(self) -> None:
        """Close its arms."""
        if self._arms is not None:
            self._arms.close()


def _open_loop(env: "ArmEnv", seed: int, targets: FloatArray, *, measure_rest: bool) -> Rollouts:
    """One episode with known targets (steps, joints)."""
    period_s = env.simulation.control_period_s
    distances = [env.reset(seed=seed)[1]["distance_m"]]
    if not measure_rest:
        distances += [env.step(target)[4]["distance_m"] for target in targets]
        return Rollouts(np.array([distances]), env.task, period_s)
    window = RestWindow(period_s, env.episode_steps)
    _add_to(window, [env])
    for target in targets:
        distances.append(env.step(target)[4]["distance_m"])
        _add_to(window, [env])
    return _rollouts(env, np.array([distances]), window)


def _ik_targets(env: "ArmEnv", seeds: Sequence[int]) -> FloatArray:
    """Targets (steps, episodes, joints): the poses of inverse kinematics for goals that stand still."""
    observations = [env.reset(seed=seed)[0] for seed in seeds]
    batch = {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
    poses: FloatArray = IKController()(batch, [env])
    return np.broadcast_to(poses, (env.episode_steps, *poses.shape))


def evaluate_controller(
    controller: Controller,
    config: TrainConfig,
    *,
    goals: int,
    seed: int,
) -> dict[str, Any]:
    """Errors in mm, success ladder, time to reach, return and rest, in the environment of a configuration.

    The error is the distance at the last step or, of a moving goal, the RMS distance once the arm has settled.
    `normalised_return` is 0 for uniformly random targets and 1 for the inverse-kinematics controller on the very
    same starts and goals. `rest` holds the figures of `arm_control.rest`, by the true angles. A figure that is not
    defined is None, with the reason in `undefined`. On a terminal, a long evaluation shows on standard error how far
    it is.
    """
    rollouts, random, planned, reach_m = _simulate(controller, config, goals, seed)
    random_return = float(random.returns.mean())
    planned_return = float(planned.returns.mean())
    near_mm = 1000 * max(config.goal_tolerance_m, NEAR * reach_m)
    fault = reference_fault(planned.error_mm, near_mm, random_return, planned_return)
    no_rest = rollouts.rest_fault
    rest = None if no_rest else dataclasses.asdict(rest_figures(rollouts.targets_deg, rollouts.angles_deg))
    reasons = {"normalised_return": fault, "rest": no_rest}
    mean_return = float(rollouts.returns.mean())
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
        "rest": rest,
        "return": mean_return,
        "normalised_return": None if fault else (mean_return - random_return) / (planned_return - random_return),
        "return_random": random_return,
        "return_ik": planned_return,
        "undefined": {name: reason for name, reason in reasons.items() if reason},
    }


def _simulate(
    controller: Controller, config: TrainConfig, goals: int, seed: int
) -> tuple[Rollouts, Rollouts, Rollouts, float]:
    """Roll-outs of the controller, of random targets and of inverse kinematics; and the arm's reach in metres."""
    seeds = derived_seeds(seed, EVALUATION, goals)
    references = ReferenceEpisodes(config, seed)
    # What is inverse kinematics itself need not be simulated again, nor on arms side by side.
    is_ik = isinstance(controller, IKController) and references.fits(config)
    kinds: tuple[Reference, ...] = ("random", "ik")
    batches = [
        Batch(kind, first, tuple(seeds[first : first + ARMS_AT_ONCE]), evaluated=is_ik and kind == "ik")
        for kind in kinds
        for first in range(0, goals, ARMS_AT_ONCE)
    ]
    own_goals = 0 if is_ik else goals
    progress = ProgressLine("evaluating")
    with contextlib.ExitStack() as stack:
        stack.callback(progress.clear)
        arms = stack.enter_context(contextlib.closing(Arms(environment_maker(config), max(1, own_goals))))
        stack.callback(references.close)
        reference_steps = len(kinds) * goals * arms.first.episode_steps
        helpers = min(spare_cores(), reference_steps // HELPER_STEPS, MOST_HELPERS)
        work = stack.enter_context(SharedWork(references, batches, helpers))
        if references.fits(config) and not is_ik:
            references.share(arms)

        def show(episodes: int) -> None:
            """Show how far the evaluation is, after so many of the controller's episodes."""
            reference_goals = len(kinds) * goals * work.done / len(batches)
            progress.show((episodes + reference_goals) / (own_goals + len(kinds) * goals))

        own = None if is_ik else arms.roll_out(controller, seeds, show)
        parts = work.finish(lambda: show(own_goals))
    count = len(batches) // len(kinds)
    random = _joined(parts[:count])
    planned = _joined(parts[count:])
    return planned if own is None else own, random, planned, arms.first.arm.reach_m


def reference_fault(
    planned_error_mm: NDArray[np.float64], near_mm: float, random_return: float, planned_return: float
) -> str | None:
    """The reason why returns cannot be measured against those of inverse kinematics; None if they can."""
    reached = float((planned_error_mm <= near_mm).mean())
    if reached < LEAST_REACHED:
        return (
            f"inverse kinematics itself reaches {reached:.1%} of the goals within {near_mm:.3g} mm "
            "(episodes too short for the arm, or an arm too imperfect)"
        )
    if planned_return - random_return < LEAST_GAIN * abs(random_return):
        returns = f"{planned_return:.3g} and {random_return:.3g}"
        return f"inverse kinematics is hardly better than random targets: returns of {returns}"
    return None


def format_evaluation(name: str, figures: dict[str, Any]) -> str:
    """The figures as a table for people."""
    reach = figures["time_to_reach_s"]
    goals = "paths" if figures["env"] == "ArmTrack-v0" else "goals"
    imperfections = imperfections_from_json(figures["imperfections"]).name
    where = "" if imperfections == "ideal" else f", {imperfections} arm"
    policy = figures.get("policy")
    which = "" if policy is None else f", {PolicyOrigin(**policy)}"
    lines = [
        f"{name}{which}: {figures['goals']} held-out {goals}, seed {figures['seed']}{where}",
        f"  {figures['error']:<22}   mean {figures['mean_error_mm']:.2f} mm, "
        f"median {figures['median_error_mm']:.2f} mm, "
        f"95 % below {figures['p95_error_mm']:.2f} mm, worst {figures['max_error_mm']:.2f} mm",
    ]
    for mm in map(str, LADDER_MM):
        low, high = figures["success_interval"][mm]
        lines.append(f"  within {mm:>2} mm   {figures['success'][mm]:7.1%}   (95 % interval {low:.1%} to {high:.1%})")
    lines.append(f"  time to reach and stay   {'never' if reach is None else f'{reach:.2f} s (median)'}")
    rest = figures["rest"]
    shown = f"undefined: {figures['undefined']['rest']}" if rest is None else format_rest(Rest(**rest))
    lines.append(f"  at rest (last 0.5 s)   {shown}")
    normalised = figures["normalised_return"]
    if normalised is None:
        lines.append(f"  normalised return   undefined: {figures['undefined']['normalised_return']}")
    else:
        lines.append(f"  normalised return   {normalised:.3f}   (0 random targets, 1 inverse kinematics)")
    return printable_lines(lines)
