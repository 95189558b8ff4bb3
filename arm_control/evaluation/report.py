"""A one-page report of a run: its evaluation, training, exported policy and simulated run."""

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from arm_control.evaluation.metrics import LADDER_MM
from arm_control.process.printing import counted, printable_lines
from arm_control.runner import PolicyRunner
from arm_control.runner.rest import Rest, format_rest
from arm_control.runs.config import TrainConfig
from arm_control.runs.files import check_no_link, read_json, write_text
from arm_control.runs.run_folder import RunFolder
from envs.tasks import environment_of
from envs.tasks.base import Task

LARGEST_FIGURES = 2**26  # bytes
# Descriptions of the files in a run folder, by name or by ending.
FILES = {
    "config.json": "the configuration of the training",
    "curve.png": "the learning curve",
    "evaluation.json": "the figures above",
    "metrics.jsonl": "the validations during the training",
    "policy.onnx": "the exported policy",
    "run.json": "the run on the simulated arm",
    "*.html": "the arm in a browser, to turn and play; opens offline",
    "*.mcap": "a recording",
    "*.mp4": "a video",
}


class Evaluation(msgspec.Struct):
    """The figures from `arm-control evaluate --json` that the report shows."""

    goals: int
    mean_error_mm: float
    median_error_mm: float
    p95_error_mm: float
    max_error_mm: float
    success: dict[str, float]
    success_interval: dict[str, tuple[float, float]]
    time_to_reach_s: float | None
    normalised_return: float | None
    rest: Rest | None = None  # None in older files
    undefined: dict[str, str] = {}
    stochastic: bool = False  # also in older files

    def __post_init__(self) -> None:
        wanted = {*map(str, LADDER_MM)}
        if not (wanted <= self.success.keys() and wanted <= self.success_interval.keys()):
            raise ValueError(f"expected the success within {', '.join(map(str, LADDER_MM))} mm")


class Percentiles(msgspec.Struct):
    """Times in microseconds."""

    p50: float
    p99: float


class Timings(msgspec.Struct):
    """The parts of a tick that the report names."""

    decide: Percentiles
    limit: Percentiles


class Ran(msgspec.Struct):
    """The figures from `arm-control run --json` that the report shows; without ticks, errors and times are None."""

    goals: list[dict[str, Any]]
    mean_error_mm: float | None
    timings_us: Timings | None
    rest: Rest | None = None  # None in older files


Figures = TypeVar("Figures", Evaluation, Ran)


def write_report(path: str | Path) -> Path:
    """Write `report.md` into a run folder, from the files that other commands have written there, and return its path.

    Raises ValueError for files that are missing or damaged.
    """
    # Read the files.
    run, values = RunFolder.open(path)
    config = TrainConfig.from_json(values, run.path)
    rows = run.read_metrics()
    if not rows:
        raise ValueError(f"{run.metrics} has no report yet: train the run first")
    evaluation = _read(run.path / "evaluation.json", "evaluate", Evaluation)
    ran = _read(run.path / "run.json", "run", Ran)
    if not run.policy.exists():
        raise ValueError(f"{run.policy} is missing: make it with 'arm-control export {run.path}'")
    target = run.path / "report.md"
    check_no_link(target)
    contract = PolicyRunner.load(run.policy).contract
    if not ran.goals or ran.mean_error_mm is None or ran.timings_us is None:
        raise ValueError(f"{run.path / 'run.json'} has no goal: run the policy again, to the end")
    # Write the page.
    task = environment_of(config.env).task
    lines = [
        f"# {config.agent} on {config.env}, seed {config.seed}",
        "",
        *_evaluated(evaluation, task, 1000 * contract.goal_tolerance_m),
        "## Training",
        "",
        *_trained(config, rows[-1]),
        "## Exported policy",
        "",
        f"[policy.onnx](policy.onnx), {run.policy.stat().st_size / 1000:.0f} kB: raw joint readings and a goal in, "
        f"{counted(len(contract.joints), 'target angle')} out, at {contract.control_rate_hz:g} Hz. Its golden samples "
        "were re-run when this page was written.",
        "",
        *_run(ran, ran.mean_error_mm, ran.timings_us),
    ]
    lines += ["## Files", "", *_links(run.path, target.name), ""]
    write_text(target, printable_lines(lines))
    return target


def _evaluated(evaluation: Evaluation, task: type[Task], tolerance_mm: float) -> list[str]:
    """The section about accuracy and rest on held-out goals."""
    # Figures that may be undefined.
    reach = evaluation.time_to_reach_s
    normalised = f"undefined: {evaluation.undefined.get('normalised_return', 'no reference')}"
    if evaluation.normalised_return is not None:
        normalised = f"{evaluation.normalised_return:.3f}"
    sampled = ", sampled actions" if evaluation.stochastic else ""
    lines = [
        f"## Evaluation: {counted(evaluation.goals, 'held-out goal')}{sampled}",
        "",
        "| | |",
        "|---|---|",
        f"| mean {task.error_name} | **{evaluation.mean_error_mm:.2f} mm** |",
        f"| median, 95 % below, worst | {evaluation.median_error_mm:.2f}, {evaluation.p95_error_mm:.2f}, "
        f"{evaluation.max_error_mm:.2f} mm |",
        *_at_rest(evaluation.rest, moving=task.moving),
        f"| time to reach {tolerance_mm:g} mm and stay | {'never' if reach is None else f'{reach:.2f} s'} (median) |",
        f"| normalised return (0 random, 1 inverse kinematics) | {normalised} |",
        "",
        "| within | of the goals | 95 % interval (Wilson) |",
        "|---|---|---|",
    ]
    # Success by distance.
    for mm in map(str, LADDER_MM):
        low, high = evaluation.success_interval[mm]
        lines.append(f"| {mm} mm | {evaluation.success[mm]:.1%} | {low:.1%} to {high:.1%} |")
    return [*lines, ""]


def _at_rest(rest: Rest | None, *, moving: bool) -> list[str]:
    """The figures of the last 0.5 s of an episode."""
    if moving:
        return ["| at rest | undefined: the goal moves |"]
    if rest is None:
        return ["| at rest | undefined: evaluation.json has no such figures (evaluate the run again) |"]
    return [
        f"| angle range at rest (worst joint): mean, worst goal | **{rest.angle_range_deg:.3f}**, "
        f"{rest.worst_angle_range_deg:.3f} degrees |",
        f"| target step at rest, reversals | {rest.target_step_deg:.3f} degrees, {rest.reversals:.1%} |",
    ]


def _trained(config: TrainConfig, last: dict[str, Any]) -> list[str]:
    """Length of the training, from its last validation, and the learning curve."""
    batch = f" of {size} transitions" if (size := getattr(config.settings, "batch_size", None)) else ""
    return [
        f"Trained for {last['elapsed_s']:.0f} s: {counted(last['step'], 'step')} by {counted(config.num_envs, 'arm')}, "
        f"{counted(last['updates'], 'update')}{batch}.",
        "",
        "![learning curve](curve.png)",
        "",
    ]


def _run(ran: Ran, mean_error_mm: float, timings_us: Timings) -> list[str]:
    """Figures of the exported policy's run on the simulated arm."""
    decide = timings_us.decide
    limit = timings_us.limit
    at_rest = "" if ran.rest is None else f"; at rest: {format_rest(ran.rest)}"
    return [
        f"Run through the ONNX runner on the simulated arm, {counted(len(ran.goals), 'goal')}: mean error "
        f"{mean_error_mm:.2f} mm{at_rest}. A decision took {decide.p50:.0f} us (median; p99 {decide.p99:.0f} us), "
        f"limits and safety {limit.p50:.0f} us (p99 {limit.p99:.0f} us).",
        "",
    ]


def _links(folder: Path, report: str) -> list[str]:
    """A link to each file of the run's folder, with a description of known ones."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    lines = []
    for name in names:
        # The folder may be untrusted: skip names that could be Markdown.
        if name == report or not re.fullmatch(r"[\w.-]+", name, re.ASCII):
            continue
        what = FILES.get(name) or FILES.get(f"*{Path(name).suffix}")
        lines.append(f"- [{name}]({name})" + (f": {what}" if what else ""))
    return lines


def _read(path: Path, command: str, kind: type[Figures]) -> Figures:
    try:
        figures = msgspec.convert(read_json(path, LARGEST_FIGURES), kind)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: make it with 'arm-control {command} ... --json {path}'") from None
    except msgspec.ValidationError as error:
        raise ValueError(f"{path} is damaged: it lacks figures of 'arm-control {command}' ({error})") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({getattr(error, 'strerror', None) or error})") from None
    return figures
