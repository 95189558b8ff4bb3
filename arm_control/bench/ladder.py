"""The ladder from a value for every action to a policy: how far each rung comes in the same time, on the same trunk.

Every training is a process of its own, so that its memory can be told; two run at once, and what is there already is
not done again.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from arm_control.checkpoint import load_latest
from arm_control.config import TrainConfig
from arm_control.interaction import Interaction
from arm_control.plots import draw_ladder
from arm_control.run_folder import RunFolder, write_text
from arm_control.training import Training, use_one_thread
from policies.settings import DDPGSettings, QLearningSettings

HIDDEN_UNITS = 64
RUNGS: dict[str, list[str]] = {
    "flat, random": ["dqn", "--head", "random"],
    "flat, zero": ["dqn", "--head", "zero"],
    "action features": ["dqn", "--head", "features"],
    "branching": ["branching-dqn"],
    "ddpg": ["ddpg"],
}
GRID_FLOOR_MM = 1.94  # of whole degrees: arm-control bench grid
AT_ONCE = 2
TIMINGS = 15


@dataclass(frozen=True)
class Length:
    """How long a ladder's trainings are, and on which grid."""

    minutes: float
    grid_step_deg: float


def bench_ladder(length: Length, seeds: int, goals: int, out: str) -> dict[str, Any]:
    """Train and evaluate every rung with every seed, then time a decision and an update of each."""
    use_one_thread()
    work = [(name, seed) for seed in range(seeds) for name in RUNGS]
    pool, failed = ThreadPoolExecutor(AT_ONCE), threading.Event()

    def do(job: tuple[str, int]) -> dict[str, Any]:
        """One of them. Once one has failed, or was interrupted, none begins any more."""
        if failed.is_set():
            raise RuntimeError("another training has failed")
        try:
            return run_rung(*job, length, goals, Path(out))
        except BaseException:
            failed.set()
            raise

    try:
        done = list(pool.map(do, work))
    finally:
        pool.shutdown(cancel_futures=True)
    rows: list[dict[str, Any]] = []
    for name in RUNGS:
        runs = [result for (rung, _), result in zip(work, done, strict=True) if rung == name]
        errors = [run["mean_error_mm"] for run in runs]
        decision_ms, update_ms = time_run(folder(Path(out), name, 0))
        rows.append(
            {
                "rung": name,
                "command": " ".join(["train", *RUNGS[name], "--hidden-units", str(HIDDEN_UNITS)]),
                "errors_mm": errors,
                "steps": float(np.mean([run["steps"] for run in runs])),
                "updates": float(np.mean([run["updates"] for run in runs])),
                "coverage": mean_or_none([run["coverage"] for run in runs]),
                "untried_picks": mean_or_none([run["untried_picks"] for run in runs]),
                "peak_memory_mb": float(max(run["peak_memory_mb"] for run in runs)),
                "decision_ms": decision_ms,
                "update_ms": update_ms,
                "curves": [run["curve"] for run in runs],
            }
        )
    error = {str(row["rung"]): float(np.mean(row["errors_mm"])) for row in rows}
    ratios = {
        "flat_over_branching": min(error["flat, random"], error["flat, zero"]) / error["branching"],
        "branching_over_ddpg": error["branching"] / error["ddpg"],
    }
    return {**asdict(length), "seeds": seeds, "goals": goals, "rungs": rows, "ratios": ratios}


def folder(out: Path, name: str, seed: int) -> Path:
    """The run folder of a rung."""
    return out / f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}"


def run_rung(name: str, seed: int, length: Length, goals: int, out: Path) -> dict[str, Any]:
    """Train, or go on, and evaluate; the figures are kept in the run's folder.

    Raises ValueError for a folder of another ladder, RuntimeError if a command fails.
    """
    path = folder(out, name, seed)
    step_deg = 1.0 if name == "ddpg" else length.grid_step_deg
    words = ["train", *RUNGS[name], "--hidden-units", str(HIDDEN_UNITS), "--seed", str(seed)]
    words += ["--minutes", str(length.minutes), "--out", str(path)]
    words += [] if step_deg == 1.0 else ["--grid-step-deg", str(step_deg)]
    kept = path / "ladder.json"
    if path.exists():
        config = RunFolder.open(path)[1]
        result: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"goals": goals}
        there = (config["minutes"], config["grid_step_deg"], result["goals"])
        if there != (length.minutes, step_deg, goals):
            raise ValueError(
                f"{path} is of another ladder, of {there[0]:g} minutes, {there[1]:g} degrees and {there[2]} goals: "
                "name another folder (--out)"
            )
        if kept.exists():
            return result
        words = ["resume", str(path)]
    print(f"{path}: {words[0]}", file=sys.stderr, flush=True)
    peak_mb = run_process(words)
    evaluation = path / "evaluation.json"
    run_process(["evaluate", str(path), "--goals", str(goals), "--json", str(evaluation)])
    rows, figures = RunFolder(path).read_metrics(), json.loads(evaluation.read_text())
    result = {
        "goals": goals,
        "mean_error_mm": figures["mean_error_mm"],
        "success": figures["success"],
        "steps": rows[-1]["step"],
        "updates": rows[-1]["updates"],
        "coverage": rows[-1].get("coverage"),
        "untried_picks": rows[-1].get("untried_picks"),
        "peak_memory_mb": peak_mb,
        "curve": [[row["elapsed_s"], row["step"], row["mean_error_mm"]] for row in rows],
    }
    write_text(kept, json.dumps(result) + "\n")
    print(f"{path}: {figures['mean_error_mm']:.2f} mm", file=sys.stderr, flush=True)
    return result


def run_process(words: list[str]) -> float:
    """Run a command of this program; its peak memory in MB. Raises RuntimeError with its last line if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "arm_control.cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stderr is not None
        try:
            lines = process.stderr.read().splitlines()
        except BaseException:
            process.terminate()
            raise
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(lines[-1] if lines else f"{' '.join(words)}: exit code {process.returncode}")
    return usage.ru_maxrss / 1000.0  # of kB, as Linux has it


def time_run(path: Path) -> tuple[float, float]:
    """Median ms of one arm's decision and of one update."""
    config = TrainConfig.from_json(RunFolder.open(path)[1])
    assert isinstance(config.settings, DDPGSettings | QLearningSettings)
    with Training(config) as training:
        learner = training.learner
        assert isinstance(learner, Interaction)
        training.load_state_dict(load_latest(RunFolder(path).checkpoints)[1])
        one = {key: value[:1] for key, value in learner.observation.items()}
        decision = median_ms(lambda: learner.agent.act(one, explore=False))
        updates = config.settings.updates_per_step
        return decision, median_ms(lambda: learner.agent.update(1.0)) / updates


def median_ms(work: Callable[[], Any]) -> float:
    """The median duration of a piece of work, after once for nothing."""
    work()
    times = []
    for _ in range(TIMINGS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return 1000.0 * median(times)


def mean_or_none(values: list[Any]) -> float | None:
    """The mean, or nothing if there is a value missing."""
    return None if None in values else float(np.mean(values))


def format_ladder(figures: dict[str, Any]) -> str:
    """The figures as a table for people, in Markdown."""
    lines = [
        f"{figures['minutes']:g} minutes on one core each, {figures['seeds']} seeds, "
        f"{figures['goals']:,} held-out goals",
        "",
        "| rung | mean error of each seed (mm) | steps | updates | actions ever in an update | "
        "greedy picks never tried | peak memory | decision | update |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in figures["rungs"]:
        errors = ", ".join(f"{error:.{1 if error >= 10 else 2}f}" for error in row["errors_mm"])
        shares = [
            "-" if row[name] is None else f"{100 * row[name]:.{digits}f} %"
            for name, digits in (("coverage", 1), ("untried_picks", 0))
        ]
        lines.append(
            f"| {row['rung']} | {errors} | {row['steps']:,.0f} | {row['updates']:,.0f} | {shares[0]} | {shares[1]} "
            f"| {row['peak_memory_mb']:,.0f} MB | {row['decision_ms']:.2f} ms | {row['update_ms']:.1f} ms |"
        )
    return "\n".join(lines)


def draw(figures: dict[str, Any], path: Path) -> None:
    """Error against training time and against steps, a line a seed."""
    curves = {row["rung"]: [np.array(curve) for curve in row["curves"]] for row in figures["rungs"]}
    draw_ladder(curves, path, floor_mm=GRID_FLOOR_MM if figures["grid_step_deg"] == 1.0 else None)
