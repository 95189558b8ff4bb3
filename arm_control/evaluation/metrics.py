"""Figures of a controller on held-out goals: error, success, time to reach, rest and normalised return."""

import contextlib
import dataclasses
import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

import envs  # noqa: F401  (registers the environments)
from arm_control.process.console import ProgressLine
from arm_control.process.printing import printable_lines
from arm_control.process.shared_work import SharedWork, spare_cores
from arm_control.runner.rest import Rest, format_rest, rest_figures
from arm_control.runs.config import TrainConfig
from arm_control.runs.run_folder import PolicyOrigin
from envs.imperfections import imperfections_from_json, open_imperfections
from envs.tasks import environment_of

if TYPE_CHECKING:
    pass
from arm_control.evaluation.controllers import Controller, IKController
from arm_control.evaluation.episodes import ARMS_AT_ONCE, Arms, Rollouts, _joined
from arm_control.evaluation.references import (
    HELPER_STEPS,
    MOST_HELPERS,
    NEAR,
    Batch,
    Reference,
    ReferenceEpisodes,
    reference_fault,
)
from arm_control.runs.environment import environment_maker
from arm_control.runs.seeding import EVALUATION, derived_seeds

LADDER_MM = (50, 20, 10, 5, 2, 1)


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
    same starts and goals. `rest` holds the figures of `arm_control.runner.rest`, by the true angles. A figure that is
    not defined is None, with the reason in `undefined`. On a terminal, a long evaluation shows its progress on standard
    error.
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


def format_evaluation(name: str, figures: dict[str, Any]) -> str:
    """The figures as a table for people."""
    reach = figures["time_to_reach_s"]
    goals = environment_of(figures["env"]).task.goals_name
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
