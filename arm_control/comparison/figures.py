"""Figures of a comparison: interquartile means over the seeds, and bootstrap intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from arm_control.comparison.scheduling import Result
from arm_control.evaluation.metrics import LADDER_MM
from arm_control.evaluation.statistics import bootstrap_interval, interquartile_mean
from arm_control.runner.rest import Rest

SOLVED_MM = 5.0  # a seed is solved when its mean error is at most this
REST_MEANS = ("target_step_deg", "angle_range_deg", "reversals")


def figures_by_agent(
    runs: dict[str, list[Result]], cores: dict[str, int], *, intervals: bool
) -> dict[str, dict[str, Any]]:
    """Each agent's figures from its runs, relative to the first agent's; with 95 % intervals if requested."""
    first_runs = next(iter(runs.values()))
    agents = {}
    for name, own_runs in runs.items():
        figures = agent_figures(own_runs, cores[name])
        if intervals:
            figures |= intervals_of(own_runs)
        if own_runs is not first_runs:
            figures |= relative_to_first(own_runs, first_runs, intervals=intervals)
        agents[name] = figures
    return agents


def agent_figures(runs: Sequence[Result], cores: int) -> dict[str, Any]:
    """Interquartile means over an agent's completed runs, and the runs themselves, one per seed."""
    done = completed(runs)
    figures: dict[str, Any] = {"cores": cores, "seeds": len(runs), "runs": list(runs)}
    figures["seeds_solved"] = sum(run["mean_error_mm"] <= SOLVED_MM for run in done)
    if not done:
        return figures
    # Means over the seeds.
    for name in ("mean_error_mm", "memory_mb", "decision_us"):
        figures[name] = mean_over(done, name)
    # All runs have the same goals, so that a return undefined for one is undefined for all.
    undefined = any(run["normalised_return"] is None for run in done)
    figures["normalised_return"] = None if undefined else mean_over(done, "normalised_return")
    figures["rest"] = rest_over_seeds(done)
    figures["steps"] = mean_over([run["last"] for run in done], "step")
    figures["success"] = {}
    for mm in LADDER_MM:
        figures["success"][str(mm)] = mean_over([run["success"] for run in done], str(mm))
    return figures


def completed(runs: Sequence[Result]) -> list[Result]:
    """The runs that did not fail."""
    return [run for run in runs if "failed" not in run]


def mean_over(rows: Sequence[dict[str, Any]], name: str) -> float:
    """Interquartile mean of one column."""
    return float(interquartile_mean([row[name] for row in rows]))


def rest_over_seeds(runs: Sequence[Result]) -> dict[str, float] | None:
    """Interquartile means over the seeds, and the largest range of all; None if a seed has no such figures."""
    measured = []
    for run in runs:
        if run.get("rest") is None:
            return None
        measured.append(Rest(**run["rest"]))
    figures = {}
    for name in REST_MEANS:
        figures[name] = float(interquartile_mean([getattr(rest, name) for rest in measured]))
    figures["worst_angle_range_deg"] = max(rest.worst_angle_range_deg for rest in measured)
    return figures


def intervals_of(runs: Sequence[Result]) -> dict[str, Any]:
    """95 % bootstrap intervals of an agent's figures; none for fewer than two completed runs."""
    done = completed(runs)
    intervals: dict[str, Any] = {}
    if len(done) < 2:
        return intervals
    for name in ("mean_error_mm", "normalised_return"):
        values = [run[name] for run in done]
        if None not in values:
            intervals[f"{name}_interval"] = bootstrap_interval(interquartile_mean, values)
    intervals["success_interval"] = {}
    for mm in map(str, LADDER_MM):
        successes = [run["success"][mm] for run in done]
        intervals["success_interval"][mm] = bootstrap_interval(interquartile_mean, successes)
    return intervals


def relative_to_first(runs: Sequence[Result], first: Sequence[Result], *, intervals: bool) -> dict[str, Any]:
    """Ratio and difference of an agent's error and that of the first agent, with intervals if requested."""
    errors = np.array([run["mean_error_mm"] for run in completed(runs)])
    first_errors = np.array([run["mean_error_mm"] for run in completed(first)])
    figures: dict[str, Any] = {}
    if not len(errors) or not len(first_errors):
        return figures
    for name, statistic in (("error_over_first", _ratio), ("error_minus_first_mm", _difference)):
        figures[name] = float(statistic(errors, first_errors))
        if intervals and min(len(errors), len(first_errors)) > 1:
            figures[f"{name}_interval"] = bootstrap_interval(statistic, errors, first_errors)
    return figures


def _ratio(errors: Any, others: Any) -> Any:
    return interquartile_mean(errors) / interquartile_mean(others)


def _difference(errors: Any, others: Any) -> Any:
    return interquartile_mean(errors) - interquartile_mean(others)
