"""Figures of a controller on held-out goals: error, success, time to reach, rest and normalised return."""

import dataclasses
import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arm_control.evaluation.controllers import Controller
from arm_control.evaluation.episodes import Rollouts
from arm_control.evaluation.references import NEAR, reference_fault
from arm_control.evaluation.simulation import Simulated, simulate
from arm_control.runner.rest import rest_figures
from arm_control.runs.config import TrainConfig
from envs.imperfections import open_imperfections

LADDER_MM = (50, 20, 10, 5, 2, 1)  # distances within which successes are counted


def evaluate_controller(controller: Controller, config: TrainConfig, *, goals: int, seed: int) -> dict[str, Any]:
    """Errors in mm, success, time to reach, return and rest, in the environment of a configuration.

    The error is the distance at the last step or, for a moving goal, the RMS distance once the arm has settled.
    `normalised_return` is 0 for uniformly random targets and 1 for the inverse-kinematics controller on the same
    starts and goals. `rest` holds the figures of `arm_control.runner.rest`, by the true angles. A figure that is not
    defined is None, with the reason in `undefined`. On a terminal, a long evaluation shows its progress on standard
    error.
    """
    # Episodes of the controller and of the references, on the same starts and goals.
    simulated = simulate(controller, config, goals, seed)
    own = simulated.own
    error_mm = own.error_mm
    returns = return_figures(simulated, config.goal_tolerance_m)
    # Figures that may be undefined.
    rest = None
    undefined = returns.pop("undefined")
    if own.rest_fault is None:
        rest = dataclasses.asdict(rest_figures(own.targets_deg, own.angles_deg))
    else:
        undefined["rest"] = own.rest_fault
    return {
        "env": config.env,
        "error": own.task.error_name,
        "imperfections": open_imperfections(config.imperfections).to_json(),
        "goals": goals,
        "seed": seed,
        "mean_error_mm": float(error_mm.mean()),
        "median_error_mm": float(np.median(error_mm)),
        "p95_error_mm": float(np.percentile(error_mm, 95)),
        "max_error_mm": float(error_mm.max()),
        **success_figures(error_mm),
        "time_to_reach_s": time_to_reach(own, config.goal_tolerance_m),
        "rest": rest,
        **returns,
        "undefined": undefined,
    }


def success_figures(error_mm: NDArray[np.float64]) -> dict[str, Any]:
    """Fractions of goals within the distances of LADDER_MM, with 95 % intervals."""
    success: dict[str, float] = {}
    success_interval: dict[str, list[float]] = {}
    for mm in LADDER_MM:
        count = int((error_mm <= mm).sum())
        success[str(mm)] = count / len(error_mm)
        success_interval[str(mm)] = list(wilson_interval(count, len(error_mm)))
    return {"success": success, "success_interval": success_interval}


def return_figures(simulated: Simulated, goal_tolerance_m: float) -> dict[str, Any]:
    """Mean returns of the controller and the references, and the normalised return or why it is undefined."""
    mean_return = float(simulated.own.returns.mean())
    random_return = float(simulated.random.returns.mean())
    planned_return = float(simulated.planned.returns.mean())
    near_mm = 1000 * max(goal_tolerance_m, NEAR * simulated.reach_m)
    fault = reference_fault(simulated.planned.error_mm, near_mm, random_return, planned_return)
    normalised_return = None
    undefined = {}
    if fault is None:
        # (R - R_random) / (R_ik - R_random)
        normalised_return = (mean_return - random_return) / (planned_return - random_return)
    else:
        undefined["normalised_return"] = fault
    return {
        "return": mean_return,
        "normalised_return": normalised_return,
        "return_random": random_return,
        "return_ik": planned_return,
        "undefined": undefined,
    }


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927, equation 2 of Brown, Cai and DasGupta 2001)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / trials
    # (p + z^2 / 2n  +-  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    middle = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def time_to_reach(rollouts: Rollouts, tolerance_m: float) -> float | None:
    """Median time in s until the tip is within the tolerance and stays there, over the episodes that end within it."""
    outside = rollouts.distances_m > tolerance_m
    reached = ~outside[:, -1]
    if not reached.any():
        return None
    # The step after the last one outside, found from the end; 0 for episodes that are never outside.
    steps = outside.shape[1] - np.argmax(outside[:, ::-1], axis=1)
    steps = np.where(outside.any(axis=1), steps, 0)
    return float(np.median(steps[reached])) * rollouts.control_period_s
