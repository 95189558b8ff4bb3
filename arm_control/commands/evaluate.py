"""`arm-control evaluate`: measure a controller on held-out goals."""

from dataclasses import dataclass

import tyro

from arm_control.runs.checks import (
    MOST_GOALS,
    check_count,
    check_seed,
)
from arm_control.runs.figures import check_writable, report_figures
from arm_control.runs.imperfections_flag import OptionalImperfectionsFlag


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a controller on held-out goals: error, success, time to reach and rest."""

    source: tyro.conf.Positional[str]
    """Run folder, policy file, or the controller zero, random or ik."""
    goals: int = 1000
    """Number of goals."""
    seed: int = 0
    """Seed of the goals; none of them is used in training."""
    arm: str | None = None
    """URDF file of the arm, or the name of a shipped one (arm1): for zero, random and ik, or for a policy of another
    arm than the default one; for a run, it must match the arm of the training."""
    env: str | None = None
    """Environment id, for zero, random and ik (default: ArmReach-v0); runs and policies have their own."""
    imperfections: OptionalImperfectionsFlag = None
    """Dynamics randomisation of the arm: a preset, or a file written by 'identify --json' (default: that of the
    training)."""
    last: bool = False
    """Evaluate the last policy of a run instead of the best validated one."""
    stochastic: bool = False
    """Draw the actions from a run's stochastic policy, by the seed, instead of its deterministic actions."""
    json: str | None = None
    """JSON file to write the figures to."""

    def __post_init__(self) -> None:
        check_count("goals", self.goals, MOST_GOALS)
        check_seed("seed", self.seed)


def run(command: Evaluate) -> None:
    """Evaluate a controller, and print or write its figures."""
    from arm_control.evaluation.opening import evaluate
    from arm_control.evaluation.table import format_evaluation

    check_writable(command.json)
    figures = evaluate(
        command.source,
        goals=command.goals,
        seed=command.seed,
        arm=command.arm,
        env=command.env,
        imperfections=command.imperfections,
        last=command.last,
        stochastic=command.stochastic,
    )
    report_figures(command.json, figures, format_evaluation(command.source, figures))
