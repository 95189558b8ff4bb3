"""What a delay between a command and the servo's acting on it costs: the reach error of controllers against it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from arm_control.evaluation.episodes import roll_out
from arm_control.evaluation.sources import open_source
from arm_control.process.printing import printable_lines
from arm_control.runs.checks import (
    MOST_GOALS,
    check_count,
    check_png,
    check_seed,
)
from arm_control.runs.environment import environment_maker
from arm_control.runs.figures import check_writable, report_figures
from arm_control.runs.seeding import EVALUATION, derived_seeds
from envs.imperfections import Imperfections


@dataclass(frozen=True)
class BenchDelay:
    """How far controllers miss when servos act late, by up to 200 ms."""

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, policy files, or zero, random, ik."""
    goals: int = 300
    """How many goals."""
    seed: int = 0
    """Which goals."""
    save: str | None = None
    """Also draw the figure into this file, ending in .png."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        check_count("goals", self.goals, MOST_GOALS)
        check_seed("seed", self.seed)
        if not self.sources:
            raise ValueError("wanted run folders, policy files, or zero, random, ik; got none")
        check_png(self.save)


def run(command: BenchDelay) -> None:
    """Print and draw errors against delays."""
    check_writable(command.save)
    check_writable(command.json)
    figures = bench_delay(command.sources, command.goals, command.seed)
    if command.save is not None:
        draw_delay(figures, Path(command.save))
    report_figures(command.json, figures, format_delay(figures))


DELAYS_MS = (0, 25, 50, 75, 100, 125, 150, 175, 200)


def bench_delay(sources: tuple[str, ...], goals: int, seed: int) -> dict[str, Any]:
    """Mean error in mm of each controller at each delay, the arm being ideal otherwise, on the same held-out goals."""
    errors: dict[str, dict[str, float]] = {}
    success: dict[str, dict[str, float]] = {}
    for source, opened in [(source, open_source(source, seed)) for source in sources]:
        errors[source], success[source] = {}, {}
        for delay_ms in DELAYS_MS:
            late = Imperfections(action_delay_s=(delay_ms / 1000, delay_ms / 1000))
            make_env = environment_maker(opened.config, imperfections=late)
            error_mm = roll_out(opened.controller, make_env, derived_seeds(seed, EVALUATION, goals)).error_mm
            errors[source][str(delay_ms)] = float(error_mm.mean())
            success[source][str(delay_ms)] = float((error_mm <= 10.0).mean())
    return {"goals": goals, "seed": seed, "mean_error_mm": errors, "success_10_mm": success}


def format_delay(figures: dict[str, Any]) -> str:
    """The figures as a table for people."""
    width = max(map(len, figures["mean_error_mm"]))
    lines = [
        f"mean error in mm (share within 10 mm) on {figures['goals']} held-out goals, seed {figures['seed']}, "
        "by action delay in ms",
        "  " + " " * width + "".join(f"{delay:>14}" for delay in DELAYS_MS),
    ]
    for source, errors in figures["mean_error_mm"].items():
        cells = [
            f"{errors[str(delay)]:.1f} ({figures['success_10_mm'][source][str(delay)]:.0%})" for delay in DELAYS_MS
        ]
        lines.append(f"  {source:<{width}}" + "".join(f"{cell:>14}" for cell in cells))
    return printable_lines(lines)


def draw_delay(figures: dict[str, Any], path: Path) -> None:
    """The same as a PNG."""
    from arm_control.viewers.curves import draw_lines

    lines = {
        source: ([float(delay) for delay in errors], list(errors.values()))
        for source, errors in figures["mean_error_mm"].items()
    }
    draw_lines(
        lines,
        path,
        title=f"Error against action delay, {figures['goals']} held-out goals",
        x="delay between command and servo (ms)",
        y="mean error (mm)",
    )
