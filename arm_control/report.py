"""A one-page report of a run: what was trained, how good it is, what was exported, how it ran."""

import json
import re
from pathlib import Path
from typing import Any

from arm_control.evaluation import LADDER_MM
from arm_control.run_folder import RunFolder, write_text
from arm_control.runner import PolicyRunner

EVALUATION_FIGURES = (
    "error",
    "goals",
    "mean_error_mm",
    "median_error_mm",
    "p95_error_mm",
    "max_error_mm",
    "success",
    "success_interval",
    "time_to_reach_s",
    "normalised_return",
)
RUN_FIGURES = ("goals", "mean_error_mm", "timings_us")


def write_report(path: str | Path) -> Path:
    """Write `report.md` into a run folder, from the files that the other commands left there."""
    run, config = RunFolder.open(path)
    rows = run.read_metrics()
    if not rows:
        raise ValueError(f"{run.metrics} has no report yet: train the run first")
    evaluation = _read(run.path / "evaluation.json", "evaluate", EVALUATION_FIGURES)
    ran = _read(run.path / "run.json", "run", RUN_FIGURES)
    if not run.policy.exists():
        raise ValueError(f"{run.policy} is missing: make it with 'arm-control export {run.path}'")
    contract = PolicyRunner.load(run.policy).contract
    last, settings = rows[-1], config["settings"]
    batch = f" of {plain(settings['batch_size'])} transitions" if "batch_size" in settings else ""
    reach = evaluation["time_to_reach_s"]
    if not ran["goals"]:
        raise ValueError(f"{run.path / 'run.json'} has no goal: run the policy again, to the end")
    decide, limit = ran["timings_us"]["decide"], ran["timings_us"]["limit"]
    lines = [
        f"# {plain(config['agent'])} on {plain(config['env'])}, seed {plain(config['seed'])}",
        "",
        f"Trained for {last['elapsed_s']:.0f} s: {last['step']:,} steps by {plain(config['arms'])} arms, "
        f"{last['updates']:,} updates{batch}.",
        "",
        "![learning curve](curve.png)",
        "",
        f"## How good it is: {evaluation['goals']:,} held-out goals",
        "",
        "| | |",
        "|---|---|",
        f"| mean {plain(evaluation['error'])} | **{evaluation['mean_error_mm']:.2f} mm** |",
        f"| median, 95 % below, worst | {evaluation['median_error_mm']:.2f}, {evaluation['p95_error_mm']:.2f}, "
        f"{evaluation['max_error_mm']:.2f} mm |",
        f"| time to reach {1000 * contract.goal_tolerance_m:g} mm and stay | "
        f"{'never' if reach is None else f'{reach:.2f} s'} (median) |",
        f"| normalised return (0 random, 1 inverse kinematics) | {evaluation['normalised_return']:.3f} |",
        "",
        "| within | of the goals | 95 % interval (Wilson) |",
        "|---|---|---|",
    ]
    for mm in map(str, LADDER_MM):
        low, high = evaluation["success_interval"][mm]
        lines.append(f"| {mm} mm | {evaluation['success'][mm]:.1%} | {low:.1%} to {high:.1%} |")
    lines += [
        "",
        "## The exported policy",
        "",
        f"[policy.onnx](policy.onnx), {run.policy.stat().st_size / 1000:.0f} kB: raw joint readings and a goal in, "
        f"{len(contract.joints)} target angles out, at {contract.control_rate_hz:g} Hz. Its golden samples were re-run "
        "when this page was written.",
        "",
        f"Run through the ONNX runner on the simulated arm, {len(ran['goals'])} goals: mean error "
        f"{ran['mean_error_mm']:.2f} mm. A decision took {decide['p50']:.0f} us (median; p99 {decide['p99']:.0f} us), "
        f"limits and safety {limit['p50']:.0f} us (p99 {limit['p99']:.0f} us).",
        "",
    ]
    video = run.path / "video.mp4"
    if video.exists():
        lines += ["Watch it: [video.mp4](video.mp4)", ""]
    target = run.path / "report.md"
    write_text(target, "\n".join(lines))
    return target


def plain(value: object) -> str:
    """A value from a file as text of one line in which nothing is markup, of Markdown or of HTML."""
    return re.sub(r"([][\\`*_{}<>#!|])", r"\\\1", " ".join(str(value).split()))


def _read(path: Path, command: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except OSError:
        raise ValueError(f"{path} is missing: make it with 'arm-control {command} ... --json {path}'") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    if not isinstance(values, dict) or not set(wanted) <= set(values):
        raise ValueError(f"{path} is damaged: wanted the figures {', '.join(wanted)} of 'arm-control {command}'")
    return values
