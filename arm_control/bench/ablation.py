"""Ablation from a value for every action to a policy: the error of each variant after the same training time."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arm_control.comparison.scheduling import run_trials
from arm_control.comparison.trial import Trial
from arm_control.evaluation.torch_controller import one_thread
from arm_control.process.printing import counted
from arm_control.runs.checkpoint import load_latest
from arm_control.runs.checks import (
    MOST_GOALS,
    MOST_SEEDS,
    check_count,
    check_grid_step,
    check_length,
    check_png,
)
from arm_control.runs.config import TrainConfig
from arm_control.runs.figures import check_writable, report_figures
from arm_control.runs.run_folder import RunFolder
from arm_control.training.collector import Collector
from arm_control.training.loop import Training
from arm_control.viewers.common.figures import COLOURS, finish, label_plainly
from policies.branching_dqn.settings import BranchingDQNSettings
from policies.common.settings import AgentSettings
from policies.ddpg.settings import DDPGSettings
from policies.dqn.settings import DQNSettings


@dataclass(frozen=True)
class BenchAblation:
    """Train five agents, from a value for every action to a policy, for the same time and compare their errors."""

    minutes: float = 3.0
    """Duration of each training in minutes, on one core; two run at once."""
    seeds: int = 3
    """Number of trainings of each variant."""
    goals: int = 1000
    """Number of held-out goals."""
    grid_step_deg: float = 1.0
    """Step of the grid in degrees."""
    out: str = "runs/ablation"
    """Folder of the runs; finished runs are skipped."""
    save: str | None = None
    """PNG file to plot the figures to."""
    json: str | None = None
    """JSON file to write the figures to."""

    def __post_init__(self) -> None:
        check_count("seeds", self.seeds, MOST_SEEDS)
        check_count("goals", self.goals, MOST_GOALS)
        check_png(self.save)
        check_length(None, self.minutes)
        check_grid_step(self.grid_step_deg)


def run(command: BenchAblation) -> None:
    """Print and draw the error of each variant."""
    check_writable(command.save)
    check_writable(command.json)
    figures = bench_ablation(Length(command.minutes, command.grid_step_deg), command.seeds, command.goals, command.out)
    if command.save is not None:
        draw(figures, Path(command.save))
    report_figures(command.json, figures, format_ablation(figures))


HIDDEN_UNITS = 64
VARIANTS: dict[str, tuple[str, AgentSettings]] = {
    "flat, random": ("dqn", DQNSettings(hidden_units=HIDDEN_UNITS, head="random")),
    "flat, zero": ("dqn", DQNSettings(hidden_units=HIDDEN_UNITS, head="zero")),
    "action features": ("dqn", DQNSettings(hidden_units=HIDDEN_UNITS, head="features")),
    "branching": ("branching-dqn", BranchingDQNSettings(hidden_units=HIDDEN_UNITS)),
    "ddpg": ("ddpg", DDPGSettings(hidden_units=HIDDEN_UNITS)),
}
GRID_FLOOR_MM = 1.94  # of whole degrees: arm-control bench grid
TIMINGS = 15
CURVE = ("elapsed_s", "step", "mean_error_mm")  # the columns of a curve
MARKERS = "os^Dv"


@dataclass(frozen=True)
class Length:
    """Length of each training, and the step of the grid."""

    minutes: float
    grid_step_deg: float


@one_thread()
def bench_ablation(length: Length, seeds: int, goals: int, out: str) -> dict[str, Any]:
    """Train and evaluate every variant with every seed, then time a decision and an update of each.

    Raises ValueError for a folder of another ablation, RuntimeError if a training fails.
    """
    # Train every variant with every seed.
    trials = {}
    for seed in range(seeds):
        for name in VARIANTS:
            trials[f"{name}, seed {seed}"] = trial_of(name, seed, length, goals, Path(out))
    results = run_trials(trials)
    for name, result in results.items():
        if "failed" in result:
            raise RuntimeError(f"{name}: {result['failed']}")
    # Summarise the runs of each variant, and time a decision and an update of the first one.
    rows: list[dict[str, Any]] = []
    error: dict[str, float] = {}
    for name in VARIANTS:
        runs = [results[f"{name}, seed {seed}"] for seed in range(seeds)]
        decision_ms, update_ms = time_run(trials[f"{name}, seed 0"].folder)
        row = {"variant": name, **summarise(runs), "decision_ms": decision_ms, "update_ms": update_ms}
        rows.append(row)
        error[name] = float(np.mean(row["errors_mm"]))
    ratios = {
        "flat_over_branching": min(error["flat, random"], error["flat, zero"]) / error["branching"],
        "branching_over_ddpg": error["branching"] / error["ddpg"],
    }
    return {**asdict(length), "seeds": seeds, "goals": goals, "variants": rows, "ratios": ratios}


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The error and curve of each run, and means over the runs at the end of training."""
    last = [run["last"] for run in runs]
    curves = []
    for run in runs:
        points = []
        for row in run["curve"]:
            points.append([row[column] for column in CURVE])
        curves.append(points)
    return {
        "errors_mm": [run["mean_error_mm"] for run in runs],
        "steps": float(np.mean([row["step"] for row in last])),
        "updates": float(np.mean([row["updates"] for row in last])),
        "coverage": mean_or_none([row.get("coverage") for row in last]),
        "untried_picks": mean_or_none([row.get("untried_picks") for row in last]),
        "peak_memory_mb": float(max(run["memory_mb"] for run in runs)),
        "curves": curves,
    }


def trial_of(name: str, seed: int, length: Length, goals: int, out: Path) -> Trial:
    """The training of a variant, and its folder."""
    agent, settings = VARIANTS[name]
    step_deg = 1.0 if agent == "ddpg" else length.grid_step_deg
    config = TrainConfig(agent, settings, grid_step_deg=step_deg, seed=seed, minutes=length.minutes)
    return Trial(config, out / f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}", goals, 0)


def time_run(path: Path) -> tuple[float, float]:
    """Median ms of one arm's decision and of one update."""
    config = TrainConfig.from_json(RunFolder.open(path)[1])
    with Training(config) as training:
        learner = training.learner
        assert isinstance(learner, Collector)
        training.load_state_dict(load_latest(RunFolder(path).checkpoints)[1])
        # The decision of a single arm.
        one = {key: value[:1] for key, value in learner.observation.items()}
        decision = median_ms(lambda: learner.agent.act(one, explore=False))
        # A training that was stopped before its first update first collects the steps for it.
        updates = 0
        while not updates:
            updates = learner.advance(lambda _: 1.0).updates
        update = median_ms(lambda: learner.agent.update(1.0)) / updates
        return decision, update


def median_ms(work: Callable[[], Any]) -> float:
    """The median duration of an operation in ms, after a warm-up."""
    work()
    times = []
    for _ in range(TIMINGS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return 1000.0 * median(times)


def mean_or_none(values: list[Any]) -> float | None:
    """The mean; None if a value is missing."""
    return None if None in values else float(np.mean(values))


def format_ablation(figures: dict[str, Any]) -> str:
    """Format the figures as a Markdown table."""
    lines = [
        f"{counted(figures['minutes'], 'minute', form='g')} on one core each, {counted(figures['seeds'], 'seed')}, "
        f"{counted(figures['goals'], 'held-out goal')}",
        "",
        "| variant | mean error of each seed (mm) | steps | updates | actions ever in an update | "
        "greedy actions never tried | peak memory | decision | update |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in figures["variants"]:
        errors = ", ".join(f"{error:.1f}" if error >= 10 else f"{error:.2f}" for error in row["errors_mm"])
        coverage = percentage(row["coverage"], 1)
        untried = percentage(row["untried_picks"], 0)
        lines.append(
            f"| {row['variant']} | {errors} | {row['steps']:,.0f} | {row['updates']:,.0f} | {coverage} | {untried} "
            f"| {row['peak_memory_mb']:,.0f} MB | {row['decision_ms']:.2f} ms | {row['update_ms']:.1f} ms |"
        )
    return "\n".join(lines)


def percentage(fraction: float | None, digits: int) -> str:
    """A fraction in percent; "-" for None."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f} %"


def draw(figures: dict[str, Any], path: Path) -> None:
    """Plot the validation error against training time and against steps: a colour per variant, a line per seed."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    abscissae = (("elapsed_s", "training time (s)"), ("step", "environment steps"))
    for axes, (column, label) in zip(panels, abscissae, strict=True):
        styles = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
        for row, (colour, marker) in zip(figures["variants"], styles, strict=False):
            draw_variant(axes, row, CURVE.index(column), color=colour, marker=marker)
        axes.set_yscale("log")
        axes.set_yticks([1, 2, 5, 10, 20, 50, 100, 200, 400])
        label_plainly(axes.yaxis)
        axes.set_xlabel(label)
    panels[1].set_xscale("log")
    panels[0].set_ylabel("mean error at the last step (mm)")
    panels[0].set_title("Validation goals; one line per seed", loc="left", fontsize=11)
    if figures["grid_step_deg"] == 1.0:
        for axes in panels:
            draw_grid_floor(axes)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=5, frameon=False)
    finish(figure, panels, path)


def draw_variant(axes: Axes, row: dict[str, Any], column: int, *, color: str, marker: str) -> None:
    """The error of each seed of a variant against a column of its curve, from its first positive value."""
    label: str | None = row["variant"]
    for curve in row["curves"]:
        points = np.array(curve)
        seen = points[points[:, column] > 0]
        errors_mm = seen[:, CURVE.index("mean_error_mm")]
        axes.plot(seen[:, column], errors_mm, color=color, marker=marker, markersize=3.5, linewidth=1.2, label=label)
        label = None  # once in the legend


def draw_grid_floor(axes: Axes) -> None:
    """The least error that the degree grid allows, as a dashed line."""
    axes.axhline(GRID_FLOOR_MM, color="black", linestyle="--", linewidth=1)
    axes.annotate(
        "best of the degree grid",
        (axes.get_xlim()[1], GRID_FLOOR_MM),
        xytext=(0, -4),
        textcoords="offset points",
        va="top",
        ha="right",
        fontsize=9,
    )
