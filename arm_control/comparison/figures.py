"""Figures of a comparison: interquartile means over the seeds, and bootstrap intervals."""

from typing import Any

import numpy as np

from arm_control.comparison.scheduling import Result
from arm_control.comparison.trial import Trial
from arm_control.evaluation.metrics import LADDER_MM
from arm_control.evaluation.statistics import bootstrap_interval, interquartile_mean
from arm_control.runner.rest import Rest

SOLVED_MM = 5.0


def agent_figures(name: str, trials: dict[tuple[str, int], Trial], results: dict[str, Result]) -> dict[str, Any]:
    """An agent's runs, and interquartile means over those that have come to their end."""
    own = {seed: trial for (agent, seed), trial in trials.items() if agent == name}
    # The seed of the training, not that of the goals, which a result names.
    runs = [{**results[f"{name}, seed {seed}"], "seed": seed} for seed in own]
    figures: dict[str, Any] = {"cores": next(iter(own.values())).cores, "seeds": len(runs), "runs": runs}
    done = [run for run in runs if "failed" not in run]
    figures["seeds_solved"] = sum(run["mean_error_mm"] <= SOLVED_MM for run in done)
    if not done:
        return figures
    for key in ("mean_error_mm", "memory_mb", "decision_us"):
        figures[key] = float(interquartile_mean([run[key] for run in done]))
    normalised = [run["normalised_return"] for run in done]
    # Undefined for one run is undefined for all: they share the goals.
    figures["normalised_return"] = None if None in normalised else float(interquartile_mean(normalised))
    figures["rest"] = _rest_over_seeds([run.get("rest") for run in done])
    figures["steps"] = float(interquartile_mean([run["last"]["step"] for run in done]))
    figures["success"] = {
        str(mm): float(interquartile_mean([run["success"][str(mm)] for run in done])) for mm in LADDER_MM
    }
    return figures


def _rest_over_seeds(rests: list[dict[str, float] | None]) -> dict[str, float] | None:
    """Interquartile means over the seeds, but the largest range of all; None if a seed has no such figures."""
    measured = [Rest(**rest) for rest in rests if rest is not None]
    if len(measured) < len(rests):
        return None
    means = {
        name: float(interquartile_mean([getattr(rest, name) for rest in measured]))
        for name in ("target_step_deg", "angle_range_deg", "reversals")
    }
    return means | {"worst_angle_range_deg": max(rest.worst_angle_range_deg for rest in measured)}


def beside(figures: dict[str, Any], first: dict[str, Any], *, intervals: bool) -> dict[str, Any]:
    """95 % intervals of an agent's figures, and of its error beside that of the first agent."""
    own, other = ([run for run in agent["runs"] if "failed" not in run] if agent else [] for agent in (figures, first))
    if not own:
        return {}
    result: dict[str, Any] = {}
    if intervals and len(own) > 1:
        for name in ("mean_error_mm", "normalised_return"):
            values = [run[name] for run in own]
            if None not in values:
                result[f"{name}_interval"] = bootstrap_interval(interquartile_mean, values)
        result["success_interval"] = {
            str(mm): bootstrap_interval(interquartile_mean, [run["success"][str(mm)] for run in own])
            for mm in LADDER_MM
        }
    if figures is first or not other:
        return result
    errors = [[run["mean_error_mm"] for run in runs] for runs in (own, other)]
    for name, statistic in (("error_over_first", _ratio), ("error_minus_first_mm", _difference)):
        result[name] = float(statistic(*map(np.array, errors)))
        if intervals and min(map(len, errors)) > 1:
            result[f"{name}_interval"] = bootstrap_interval(statistic, *errors)
    return result


def _ratio(errors: Any, others: Any) -> Any:
    return interquartile_mean(errors) / interquartile_mean(others)


def _difference(errors: Any, others: Any) -> Any:
    return interquartile_mean(errors) - interquartile_mean(others)
