"""The table of a comparison, and the files that it writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arm_control.evaluation.learning_curves import progress_of
from arm_control.evaluation.statistics import three_digits
from arm_control.process.printing import counted, printable, printable_lines
from arm_control.runs.files import check_no_link, write_text
from envs.imperfections import imperfections_from_json

COLUMNS = 15  # of the table


def write_comparison(figures: dict[str, Any], out: Path) -> str:
    """Write `comparison.json`, `table.md` and the plots, and return the table."""
    from arm_control.comparison.plots import draw_comparison, draw_progress

    table = format_comparison(figures)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("comparison.json", "table.md", "errors.png", "progress-by-time.png", "progress-by-steps.png"):
        check_no_link(out / name)
    write_text(out / "comparison.json", json.dumps(figures, indent=1) + "\n")
    write_text(out / "table.md", table + "\n")
    done = {name: agent for name, agent in figures["agents"].items() if "mean_error_mm" in agent}
    if done:
        draw_comparison(figures, done, out / "errors.png")
        abscissae = (
            ("elapsed_s", "progress-by-time", "training time (s)", "linear"),
            ("step", "progress-by-steps", "environment steps", "log"),
        )
        for field, name, x, scale in abscissae:
            progress = {agent: progress_of(done[agent], field) for agent in done}
            draw_progress(progress, out / f"{name}.png", references=figures["references"], x=x, scale=scale)
    return table


def format_comparison(figures: dict[str, Any]) -> str:
    """Format the figures as a Markdown table."""
    agents = figures["agents"]
    lines = [
        _description(figures),
        "",
        f"| agent | cores | mean error (mm) | times {_cell(next(iter(agents)))} | within 10 mm | 5 mm | 2 mm | "
        "target step at rest (deg) | range at rest (deg), largest | reversals | "
        "normalised return | solved | steps | memory | decision |",
        "|---" * COLUMNS + "|",
    ]
    for name, agent in agents.items():
        lines.append(_agent_row(name, agent))
    for name, error in figures["references"].items():
        lines.append(f"| *{name}* | | {three_digits(error)} |" + " |" * (COLUMNS - 3))
    return printable_lines(lines)


def _description(figures: dict[str, Any]) -> str:
    """The line above the table: task, budget, seeds and statistics."""
    steps = figures["steps"]
    minutes = figures["minutes"]
    length = counted(steps, "step") if minutes is None else counted(minutes, "minute", form="g")
    imperfections = imperfections_from_json(figures["task"]["imperfections"]).name
    arm = "" if imperfections == "ideal" else f", {imperfections} arm"
    has_intervals = any("mean_error_mm_interval" in agent for agent in figures["agents"].values())
    intervals = ", with 95 % bootstrap intervals," if has_intervals else ""
    return (
        f"{length}{arm}, {counted(figures['seeds'], 'seed')}, {counted(figures['goals'], 'held-out goal')}; "
        f"interquartile means{intervals} over the seeds; solved: a mean error of at most 5 mm; "
        "at rest: in the last 0.5 s"
    )


def _agent_row(name: str, agent: dict[str, Any]) -> str:
    """The row of an agent; of one whose trainings have all failed, the reasons."""
    failures = [run["failed"] for run in agent["runs"] if "failed" in run]
    failed = _cell(f"{len(failures)} of {agent['seeds']} failed: {'; '.join(sorted(set(failures)))}")
    shown = _cell(name)
    if "mean_error_mm" not in agent:
        return f"| {shown} | {agent['cores']} | {failed} |" + " |" * (COLUMNS - 3)
    cells = [
        shown + (f" ({failed})" if failures else ""),
        str(agent["cores"]),
        _figure(agent, "mean_error_mm", three_digits),
        _figure(agent, "error_over_first", three_digits) if "error_over_first" in agent else "",
        *(f"{agent['success'][mm]:.1%}" for mm in ("10", "5", "2")),
        *_rest_cells(agent["rest"]),
        _figure(agent, "normalised_return", "{:.3f}".format),
        f"{agent['seeds_solved']} of {agent['seeds']}",
        f"{agent['steps']:,.0f}",
        f"{agent['memory_mb']:,.0f} MB",
        f"{agent['decision_us']:,.0f} us",
    ]
    return f"| {' | '.join(cells)} |"


def _rest_cells(rest: dict[str, float] | None) -> tuple[str, str, str]:
    """Target step, range with the largest one, and reversals."""
    if rest is None:
        return ("undefined",) * 3
    return (
        f"{rest['target_step_deg']:.3f}",
        f"{rest['angle_range_deg']:.3f}, {rest['worst_angle_range_deg']:.3f}",
        f"{rest['reversals']:.1%}",
    )


def _cell(text: str) -> str:
    """A text escaped for a cell of a Markdown table."""
    return printable(text).replace("|", "\\|")


def _figure(agent: dict[str, Any], name: str, written: Callable[[float], str]) -> str:
    """A figure of an agent with its interval, if it has one."""
    if agent[name] is None:
        return "undefined"
    interval = agent.get(f"{name}_interval")
    if not interval:
        return written(agent[name])
    low, high = interval
    return f"{written(agent[name])} ({written(low)} to {written(high)})"
