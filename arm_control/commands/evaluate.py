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
    """Measure a controller on held-out goals."""

    source: tyro.conf.Positional[str]
    """A run folder, a policy file, or one of zero, random, ik."""
    goals: int = 1000
    """How many goals."""
    seed: int = 0
    """Which goals. No seed's are ever used in training."""
    arm: str | None = None
    """URDF file of the arm: for a policy of another than the default one, or for zero, random, ik; a run has its own
    and takes one that matches."""
    env: str | None = None
    """The environment's id, for zero, random and ik (ArmReach-v0, unless given); a run or policy has its own."""
    imperfections: OptionalImperfectionsFlag = None
    """Dynamics randomisation of the arm: a preset, or a file written by 'identify --json' (that of the training, unless
    given)."""
    last: bool = False
    """Evaluate the last policy of a run, not the best validated one."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        check_count("goals", self.goals, MOST_GOALS)
        check_seed("seed", self.seed)


def run(command: Evaluate) -> None:
    """Print the figures of a controller."""
    from arm_control.evaluation.metrics import format_evaluation
    from arm_control.evaluation.sources import evaluate

    check_writable(command.json)
    figures = evaluate(
        command.source,
        goals=command.goals,
        seed=command.seed,
        arm=command.arm,
        env=command.env,
        imperfections=command.imperfections,
        last=command.last,
    )
    report_figures(command.json, figures, format_evaluation(command.source, figures))
