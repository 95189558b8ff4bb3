"""The printed table of an evaluation."""

from typing import Any

from arm_control.evaluation.metrics import LADDER_MM
from arm_control.process.printing import printable_lines
from arm_control.runner.rest import Rest, format_rest
from arm_control.runs.run_folder import PolicyOrigin
from envs.imperfections import imperfections_from_json
from envs.tasks import environment_of


def format_evaluation(name: str, figures: dict[str, Any]) -> str:
    """Format the figures of a controller as a table."""
    reach = figures["time_to_reach_s"]
    goals = environment_of(figures["env"]).task.goals_name
    imperfections = imperfections_from_json(figures["imperfections"]).name
    where = "" if imperfections == "ideal" else f", {imperfections} arm"
    policy = figures.get("policy")
    which = "" if policy is None else f", {PolicyOrigin(**policy)}"
    sampled = ", sampled actions" if figures.get("stochastic") else ""
    lines = [
        f"{name}{which}{sampled}: {figures['goals']} held-out {goals}, seed {figures['seed']}{where}",
        f"  {figures['error']:<22}   mean {figures['mean_error_mm']:.2f} mm, "
        f"median {figures['median_error_mm']:.2f} mm, "
        f"95 % below {figures['p95_error_mm']:.2f} mm, worst {figures['max_error_mm']:.2f} mm",
    ]
    # Success by distance, and the time to reach.
    for mm in map(str, LADDER_MM):
        low, high = figures["success_interval"][mm]
        lines.append(f"  within {mm:>2} mm   {figures['success'][mm]:7.1%}   (95 % interval {low:.1%} to {high:.1%})")
    lines.append(f"  time to reach and stay   {'never' if reach is None else f'{reach:.2f} s (median)'}")
    # Figures that may be undefined.
    rest = figures["rest"]
    shown = f"undefined: {figures['undefined']['rest']}" if rest is None else format_rest(Rest(**rest))
    lines.append(f"  at rest (last 0.5 s)   {shown}")
    normalised = figures["normalised_return"]
    if normalised is None:
        lines.append(f"  normalised return   undefined: {figures['undefined']['normalised_return']}")
    else:
        lines.append(f"  normalised return   {normalised:.3f}   (0 random targets, 1 inverse kinematics)")
    return printable_lines(lines)
