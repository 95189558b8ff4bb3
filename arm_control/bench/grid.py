"""The discretisation error of the degree grid."""

from dataclasses import dataclass
from typing import Any

from arm_control.evaluation.grid_floor import grid_floor
from arm_control.process.printing import counted
from arm_control.runs.checks import (
    MOST_GOALS,
    check_count,
    check_seed,
)
from arm_control.runs.figures import check_writable, report_figures


@dataclass(frozen=True)
class BenchGrid:
    """Compute the discretisation error of the degree grid: the distance of its best pose from random goals."""

    goals: int = 10_000
    """Number of goals."""
    seed: int = 0
    """Seed of the goals."""
    step_deg: float = 1.0
    """Step of the grid in degrees."""
    json: str | None = None
    """JSON file to write the figures to."""

    def __post_init__(self) -> None:
        check_count("goals", self.goals, MOST_GOALS)
        check_seed("seed", self.seed)


def run(command: BenchGrid) -> None:
    """Print the discretisation error."""
    check_writable(command.json)
    figures = grid_floor(command.goals, command.seed, command.step_deg)
    report_figures(command.json, figures, format_grid(figures))


def format_grid(figures: dict[str, Any]) -> str:
    """Format the figures as a table."""
    step = counted(figures["step_deg"], "degree", form="g")
    lines = [f"{counted(figures['actions'], 'action')}, {step} apart; {counted(figures['goals'], 'random goal')}"]
    for name, title in (("rounding", "exact pose, rounded to the grid"), ("best", "best pose of the whole grid")):
        mean = figures[f"{name}_mean_mm"]
        p95 = figures[f"{name}_p95_mm"]
        worst = figures[f"{name}_worst_mm"]
        lines.append(f"  {title:<32} mean {mean:.2f} mm, 95 % below {p95:.2f} mm, worst {worst:.2f} mm")
    return "\n".join(lines)
