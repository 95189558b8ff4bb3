"""What a delay between a command and the servo's acting on it costs: the reach error of controllers against it."""

from pathlib import Path
from typing import Any

from arm_control.evaluation import EVALUATION, derived_seeds, environment_maker, roll_out
from arm_control.printing import printable_lines
from arm_control.sources import open_source
from envs.imperfections import Imperfections

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
    from arm_control.plots import draw_lines

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
