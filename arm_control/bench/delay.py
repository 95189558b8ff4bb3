"""The error of controllers against the action delay: the time between a command and the servo's response."""

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import tyro

from arm_control.evaluation.episodes import roll_out
from arm_control.evaluation.opening import open_controller
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
    """Measure the error of controllers against an action delay of up to 200 ms."""

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, policy files, or zero, random, ik."""
    goals: int = 300
    """Number of goals."""
    seed: int = 0
    """Seed of the goals."""
    save: str | None = None
    """PNG file to plot the figures to."""
    json: str | None = None
    """JSON file to write the figures to."""

    def __post_init__(self) -> None:
        check_count("goals", self.goals, MOST_GOALS)
        check_seed("seed", self.seed)
        if not self.sources:
            raise ValueError("expected run folders, policy files, or zero, random, ik; got none")
        check_png(self.save)


def run(command: BenchDelay) -> None:
    """Print and draw errors against delays."""
    check_writable(command.save)
    check_writable(command.json)
    figures = bench_delay(command.sources, command.goals, command.seed)
    if command.save is not None:
        draw_delay(figures, Path(command.save))
    report_figures(command.json, figures, format_delay(figures))


MARKERS = "os^D"
DELAYS_MS = (0, 25, 50, 75, 100, 125, 150, 175, 200)


def bench_delay(sources: tuple[str, ...], goals: int, seed: int) -> dict[str, Any]:
    """Mean error in mm of each controller at each delay, on the same held-out goals and an otherwise ideal arm."""
    errors: dict[str, dict[str, float]] = {}
    success: dict[str, dict[str, float]] = {}
    # Open all controllers before anything is simulated.
    opened_controllers = {source: open_controller(source, seed) for source in sources}
    for source, opened in opened_controllers.items():
        errors[source] = {}
        success[source] = {}
        # Evaluate at each delay, on the same goals.
        for delay_ms in DELAYS_MS:
            late = Imperfections(action_delay_s=(delay_ms / 1000, delay_ms / 1000))
            make_env = environment_maker(opened.config, imperfections=late)
            error_mm = roll_out(opened.controller, make_env, derived_seeds(seed, EVALUATION, goals)).error_mm
            errors[source][str(delay_ms)] = float(error_mm.mean())
            success[source][str(delay_ms)] = float((error_mm <= 10.0).mean())
    return {"goals": goals, "seed": seed, "mean_error_mm": errors, "success_10_mm": success}


def format_delay(figures: dict[str, Any]) -> str:
    """Format the figures as a table."""
    width = max(map(len, figures["mean_error_mm"]))
    lines = [
        f"mean error in mm (fraction within 10 mm) on {figures['goals']} held-out goals, seed {figures['seed']}, "
        "by action delay in ms",
        "  " + " " * width + "".join(f"{delay:>14}" for delay in DELAYS_MS),
    ]
    for source, errors in figures["mean_error_mm"].items():
        line = f"  {source:<{width}}"
        for delay in DELAYS_MS:
            success = figures["success_10_mm"][source][str(delay)]
            cell = f"{errors[str(delay)]:.1f} ({success:.0%})"
            line += f"{cell:>14}"
        lines.append(line)
    return printable_lines(lines)


def draw_delay(figures: dict[str, Any], path: Path) -> None:
    """Plot the mean errors against the delay, a line for each source."""
    from matplotlib.figure import Figure

    from arm_control.viewers.common.figures import COLOURS, finish, label_plainly, ticks_between

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    all_errors_mm: list[float] = []
    styles = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    for (source, by_delay), (colour, marker) in zip(figures["mean_error_mm"].items(), styles, strict=False):
        delays_ms = [float(delay) for delay in by_delay]
        errors_mm = list(by_delay.values())
        axes.plot(delays_ms, errors_mm, color=colour, marker=marker, markersize=4, label=source)
        all_errors_mm += errors_mm
    axes.set_yscale("log")
    label_plainly(axes.yaxis)
    axes.set_yticks(ticks_between(0.5 * min(all_errors_mm), 2 * max(all_errors_mm)))
    axes.set_title(f"Error against action delay, {figures['goals']} held-out goals", loc="left", fontsize=11)
    axes.set_xlabel("delay between command and servo (ms)")
    axes.set_ylabel("mean error (mm)")
    axes.legend(frameon=False)
    finish(figure, (axes,), path)
