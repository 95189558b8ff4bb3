"""Comparison: agents and peers trained over several seeds with the same budget, and how sure their figures are.

Every training is a process of its own (`arm_control.comparison.trial`), on as many cores as its agent has processes.
Finished ones are skipped.
"""

import json
import os
import queue
import re
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from arm_control.comparison.baselines import PeerConfig
from arm_control.comparison.trial import Trial
from arm_control.evaluation.controllers import IKController
from arm_control.evaluation.grid_floor import grid_floor
from arm_control.evaluation.metrics import LADDER_MM, evaluate_controller
from arm_control.evaluation.statistics import bootstrap_interval, interquartile_mean, three_digits
from arm_control.process.console import say
from arm_control.process.own_packages import python_command
from arm_control.process.printing import counted, printable, printable_lines
from arm_control.process.signals import AWAKE_S
from arm_control.runner.rest import Rest
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.runs.files import check_no_link, write_text
from arm_control.runs.run_folder import RunFolder
from envs.imperfections import imperfections_from_json, open_imperfections

# Followed by what `arm_control.comparison.trial.main` reads.
TRIAL_COMMAND = python_command("from arm_control.comparison.trial import main; sys.exit(main())")
SOLVED_MM = 5.0
COLUMNS = 15  # of the table
# Of a task, beside the environment.
SHARED = ("goal_tolerance_m", "arm", "imperfections", "path", "speed_m_s", "episode_steps", "control_rate_hz")

Config = TrainConfig | PeerConfig


@dataclass(frozen=True)
class Plan:
    """Length and number of an agent's trainings, the held-out goals, and the folder of the runs."""

    seeds: int
    first_seed: int
    minutes: float | None
    steps: int | None
    goals: int
    goals_seed: int
    out: Path


def compare(configs: dict[str, Config], plan: Plan, *, intervals: bool) -> dict[str, Any]:
    """Train and evaluate agents by their names, with 95 % `intervals` if requested.

    Raises ValueError, before anything is trained, for a folder of another comparison.
    """
    trials = {
        (name, seed): trial_of(plan, name, config, seed)
        for seed in range(plan.first_seed, plan.first_seed + plan.seeds)
        for name, config in configs.items()
    }
    results = run_trials({f"{name}, seed {seed}": trial for (name, seed), trial in trials.items()})
    agents = {name: agent_figures(name, trials, results) for name in configs}
    for figures in agents.values():
        figures |= beside(figures, next(iter(agents.values())), intervals=intervals)
    first = next(iter(configs.values()))
    return {
        "task": {"env": first.env, "imperfections": open_imperfections(first.imperfections).to_json()},
        "minutes": plan.minutes,
        "steps": plan.steps,
        "goals": plan.goals,
        "goals_seed": plan.goals_seed,
        "seeds": plan.seeds,
        "agents": agents,
        "references": references(plan, next(iter(configs.values()))),
    }


def references(plan: Plan, config: Config) -> dict[str, float]:
    """Mean errors in mm: of inverse kinematics on the same goals, and of the best grid pose, for the default arm."""
    task = config.task if isinstance(config, PeerConfig) else config
    env = "ArmTrack-v0" if task.env == "ArmTrack-v0" else "ArmReach-v0"
    plain = TrainConfig("ddpg", env=env, **{name: getattr(task, name) for name in SHARED})
    judged = evaluate_controller(IKController(), plain, goals=plan.goals, seed=plan.goals_seed)
    errors = {"inverse kinematics": float(judged["mean_error_mm"])}
    if task.arm is None and env == "ArmReach-v0":
        errors["best pose of the degree grid"] = float(grid_floor(10_000, 0, 1.0)["best_mean_mm"])
    return errors


def check_same_task(configs: dict[str, Config]) -> None:
    """Raise ValueError unless all agents are trained for the same arm and goals."""
    tasks = {}
    for name, config in configs.items():
        task = config.task if isinstance(config, PeerConfig) else config
        tasks[name] = {"goals that move": task.env == "ArmTrack-v0", **{key: getattr(task, key) for key in SHARED}}
        tasks[name]["imperfections"] = open_imperfections(task.imperfections).to_json()
    first = next(iter(tasks))
    for name, its in tasks.items():
        for key, value in its.items():
            if value != tasks[first][key]:
                raise ValueError(
                    f"'{first}' and '{name}' have different tasks, {key.replace('_', '-')} {tasks[first][key]} and "
                    f"{value}: wanted one for all"
                )


def trial_of(plan: Plan, name: str, config: Config, seed: int) -> Trial:
    """An agent's training with a seed, and its folder."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
    config = replace(_at_home(config), seed=seed, minutes=plan.minutes, steps=plan.steps)
    return Trial(config, plan.out / f"{slug}-seed{seed}", plan.goals, plan.goals_seed)


def _at_home(config: Config) -> Config:
    """With the arm's file as a run folder has it: found from anywhere."""
    if isinstance(config, TrainConfig) and config.arm is not None:
        return replace(config, arm=str(Path(config.arm).resolve()))
    return config


Result = dict[str, Any]


def run_trials(trials: dict[str, Trial]) -> dict[str, Result]:
    """The results of trials by their names; of one that has crashed, `{"failed": its last words}`.

    Those that want several cores come first, one after the other. Raises ValueError or OSError, before anything is
    trained, for a folder of another comparison or of two trials, and for what `check_trials` finds.
    """
    results = {name: result for name, trial in trials.items() if (result := trial.result()) is not None}
    folders: dict[Path, str] = {}
    for name, trial in trials.items():
        if (other := folders.setdefault(trial.folder, name)) != name:
            raise ValueError(f"'{other}' and '{name}' would have the same folder {trial.folder}")
    left = {name: trial for name, trial in trials.items() if name not in results}
    check_trials(left)
    begin = time.monotonic()

    def tell(name: str, result: Result) -> None:
        """Keep a result and say how far it is."""
        results[name] = result
        to_do, spent = (sum(trial.cores for it, trial in left.items() if (it in results) == done) for done in (0, 1))
        minutes = (time.monotonic() - begin) * to_do / spent / 60
        outcome = result.get("failed") or f"{result['mean_error_mm']:.2f} mm"
        say(f"[{len(results)}/{len(trials)}] {name}: {outcome}  (about {minutes:.0f} min left)")

    if results:
        say(f"[{len(results)}/{len(trials)}] done before")
    cores = sorted(os.sched_getaffinity(0))
    for width in sorted({trial.cores for trial in left.values()}, reverse=True):
        _run_on(cores, width, {name: trial for name, trial in left.items() if trial.cores == width}, tell)
    return results


def check_trials(trials: dict[str, Trial]) -> None:
    """Raise ValueError or OSError for trials that cannot be trained: their arm, their grid, their folder.

    Each would fail by itself otherwise, after those before it were trained.
    """
    checked: set[str] = set()
    for name, trial in trials.items():
        # The same environment for every seed: once is enough.
        task = trial.config.task if isinstance(trial.config, PeerConfig) else trial.config
        options = f"{task.env} {task.environment_options()}"
        if options not in checked:
            checked.add(options)
            try:
                environment_maker(task)().close()
            except ValueError as error:
                raise ValueError(f"'{name}': {error}") from None
        if isinstance(trial.config, TrainConfig) and trial.config.init is not None:
            RunFolder.open(trial.config.init)
    for trial in trials.values():
        trial.folder.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(trial.folder.parent, os.W_OK):
            raise OSError(f"cannot write into {trial.folder.parent}")


def check_results(agents: dict[str, Any]) -> None:
    """Raise RuntimeError, with the reasons, for a comparison in which no training succeeded."""
    runs = [run for agent in agents.values() for run in agent["runs"]]
    if all("failed" in run for run in runs):
        reasons = "; ".join(sorted({run["failed"] for run in runs}))
        raise RuntimeError(f"all {len(runs)} trainings failed: {reasons}")


def _run_on(cores: list[int], width: int, trials: dict[str, Trial], tell: Callable[[str, Result], None]) -> None:
    """Run trials of `width` cores, as many at once as there are cores for; an error or Ctrl-C ends them all."""
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    at_once = max(1, len(cores) // width)
    for place in range(at_once):
        free.put(cores[place * width : (place + 1) * width])
    stopping, processes = threading.Event(), set[subprocess.Popen[str]]()

    def work(trial: Trial) -> Result:
        """One of them, on cores of its own, which its process inherits from this thread."""
        if stopping.is_set():
            raise KeyboardInterrupt
        own = free.get()
        os.sched_setaffinity(0, own)
        try:
            return run_process(trial, processes, stopping)
        finally:
            free.put(own)

    with ThreadPoolExecutor(at_once) as pool:
        waiting: dict[Future[Result], str] = {pool.submit(work, trial): name for name, trial in trials.items()}
        try:
            while waiting:
                for future in wait(waiting, AWAKE_S, return_when=FIRST_COMPLETED).done:
                    tell(waiting.pop(future), future.result())
        except BaseException:
            stopping.set()
            try:
                for process in list(processes):
                    process.terminate()
                pool.shutdown(cancel_futures=True)
            except KeyboardInterrupt:  # a second request: the trials end at once, and go on from older checkpoints
                for process in list(processes):
                    process.kill()
            raise


def run_process(trial: Trial, processes: set[subprocess.Popen[str]], stopping: threading.Event) -> Result:
    """Run a trial in a process, which is among `processes` meanwhile; it ends at once if they are stopping."""
    words = [str(os.getpid()), str(trial.folder), json.dumps(trial.to_json())]
    with subprocess.Popen(
        [*TRIAL_COMMAND, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        process_group=0,  # a Ctrl-C comes to it once, from here
    ) as process:
        processes.add(process)
        if stopping.is_set():  # since this trial was taken up: it was not yet among those that were terminated
            process.terminate()
        said = process.communicate()[1].splitlines()
        processes.discard(process)
    if process.returncode == 0 and (result := trial.result()) is not None:
        return result
    if process.returncode < 0:
        said = [f"killed by signal {-process.returncode}{' (out of memory?)' if process.returncode == -9 else ''}"]
    last = said[-1].removeprefix("arm-control: error: ") if said else f"exit code {process.returncode}"
    return {"failed": last}


def agent_figures(name: str, trials: dict[tuple[str, int], Trial], results: dict[str, Result]) -> dict[str, Any]:
    """An agent's runs, and interquartile means over those that have come to their end."""
    own = {seed: trial for (agent, seed), trial in trials.items() if agent == name}
    # The seed of the training, not that of the goals, which a result names.
    runs = [{**results[f"{name}, seed {seed}"], "seed": seed} for seed in own]
    figures: dict[str, Any] = {"cores": next(iter(own.values())).cores, "seeds": len(runs), "runs": runs}
    done = [run for run in runs if "failed" not in run]
    figures["seeds_solved"] = sum(run["mean_error_mm"] <= SOLVED_MM for run in done)
    if not done:
        return figures
    for key in ("mean_error_mm", "memory_mb", "decision_us"):
        figures[key] = float(interquartile_mean([run[key] for run in done]))
    normalised = [run["normalised_return"] for run in done]
    # Undefined for one run is undefined for all: they share the goals.
    figures["normalised_return"] = None if None in normalised else float(interquartile_mean(normalised))
    figures["rest"] = _rest_over_seeds([run.get("rest") for run in done])
    figures["steps"] = float(interquartile_mean([run["last"]["step"] for run in done]))
    figures["success"] = {
        str(mm): float(interquartile_mean([run["success"][str(mm)] for run in done])) for mm in LADDER_MM
    }
    return figures


def _rest_over_seeds(rests: list[dict[str, float] | None]) -> dict[str, float] | None:
    """Interquartile means over the seeds, but the largest range of all; None if a seed has no such figures."""
    measured = [Rest(**rest) for rest in rests if rest is not None]
    if len(measured) < len(rests):
        return None
    means = {
        name: float(interquartile_mean([getattr(rest, name) for rest in measured]))
        for name in ("target_step_deg", "angle_range_deg", "reversals")
    }
    return means | {"worst_angle_range_deg": max(rest.worst_angle_range_deg for rest in measured)}


def beside(figures: dict[str, Any], first: dict[str, Any], *, intervals: bool) -> dict[str, Any]:
    """95 % intervals of an agent's figures, and of its error beside that of the first agent."""
    own, other = ([run for run in agent["runs"] if "failed" not in run] if agent else [] for agent in (figures, first))
    if not own:
        return {}
    result: dict[str, Any] = {}
    if intervals and len(own) > 1:
        for name in ("mean_error_mm", "normalised_return"):
            values = [run[name] for run in own]
            if None not in values:
                result[f"{name}_interval"] = bootstrap_interval(interquartile_mean, values)
        result["success_interval"] = {
            str(mm): bootstrap_interval(interquartile_mean, [run["success"][str(mm)] for run in own])
            for mm in LADDER_MM
        }
    if figures is first or not other:
        return result
    errors = [[run["mean_error_mm"] for run in runs] for runs in (own, other)]
    for name, statistic in (("error_over_first", _ratio), ("error_minus_first_mm", _difference)):
        result[name] = float(statistic(*map(np.array, errors)))
        if intervals and min(map(len, errors)) > 1:
            result[f"{name}_interval"] = bootstrap_interval(statistic, *errors)
    return result


def _ratio(errors: Any, others: Any) -> Any:
    return interquartile_mean(errors) / interquartile_mean(others)


def _difference(errors: Any, others: Any) -> Any:
    return interquartile_mean(errors) - interquartile_mean(others)


def write_comparison(figures: dict[str, Any], out: Path) -> str:
    """Write `comparison.json`, `table.md` and the figures; returns the table."""
    from arm_control.viewers.curves import draw_comparison, draw_progress, progress_of

    table = format_comparison(figures)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("comparison.json", "table.md", "errors.png", "progress-by-time.png", "progress-by-steps.png"):
        check_no_link(out / name)
    write_text(out / "comparison.json", json.dumps(figures, indent=1) + "\n")
    write_text(out / "table.md", table + "\n")
    done = {name: agent for name, agent in figures["agents"].items() if "mean_error_mm" in agent}
    if done:
        draw_comparison(figures, done, out / "errors.png")
        by_time, by_steps = ({name: progress_of(done[name], field) for name in done} for field in ("elapsed_s", "step"))
        for progress, name, x, scale in (
            (by_time, "progress-by-time", "training time (s)", "linear"),
            (by_steps, "progress-by-steps", "environment steps", "log"),
        ):
            draw_progress(progress, out / f"{name}.png", references=figures["references"], x=x, scale=scale)
    return table


def format_comparison(figures: dict[str, Any]) -> str:
    """The figures as a table for people, in Markdown."""
    steps, minutes = figures["steps"], figures["minutes"]
    length = counted(steps, "step") if minutes is None else counted(minutes, "minute", form="g")
    task, agents, seeds = figures["task"], figures["agents"], figures["seeds"]
    imperfections = imperfections_from_json(task["imperfections"]).name
    arm = "" if imperfections == "ideal" else f", {imperfections} arm"
    sure = ", with 95 % bootstrap intervals," if any("mean_error_mm_interval" in it for it in agents.values()) else ""
    lines = [
        f"{length}{arm}, {counted(seeds, 'seed')}, {counted(figures['goals'], 'held-out goal')}; "
        f"interquartile means{sure} over the seeds; solved: a mean error of at most 5 mm; at rest: in the last 0.5 s",
        "",
        f"| agent | cores | mean error (mm) | times {_cell(next(iter(agents)))} | within 10 mm | 5 mm | 2 mm | "
        "target step at rest (deg) | range at rest (deg), largest | reversals | "
        "normalised return | solved | steps | memory | decision |",
        "|---" * COLUMNS + "|",
    ]
    for name, agent in agents.items():
        words = [run["failed"] for run in agent["runs"] if "failed" in run]
        failed = _cell(f"{len(words)} of {agent['seeds']} failed: {'; '.join(sorted(set(words)))}")
        shown = _cell(name)
        if "mean_error_mm" not in agent:
            lines.append(f"| {shown} | {agent['cores']} | {failed} |" + " |" * (COLUMNS - 3))
            continue
        cells = [
            shown + (f" ({failed})" if words else ""),
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
        lines.append(f"| {' | '.join(cells)} |")
    for name, error in figures["references"].items():
        lines.append(f"| *{name}* | | {three_digits(error)} |" + " |" * (COLUMNS - 3))
    return printable_lines(lines)


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
    """A text that stays in its cell of a Markdown table."""
    return printable(text).replace("|", "\\|")


def _figure(agent: dict[str, Any], name: str, written: Callable[[float], str]) -> str:
    if agent[name] is None:
        return "undefined"
    interval = agent.get(f"{name}_interval")
    return written(agent[name]) + (f" ({written(interval[0])} to {written(interval[1])})" if interval else "")
