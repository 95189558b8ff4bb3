"""Comparison: agents and baselines trained over several seeds with the same budget, with confidence intervals.

Every training runs in a process of its own (`arm_control.comparison.trial`), on as many cores as its agent has
processes. Finished ones are skipped.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arm_control.comparison.baselines import BaselineConfig
from arm_control.comparison.figures import figures_by_agent
from arm_control.comparison.scheduling import Result, run_trials
from arm_control.comparison.trial import Trial
from arm_control.evaluation.controllers import IKController
from arm_control.evaluation.grid_floor import grid_floor
from arm_control.evaluation.metrics import evaluate_controller
from arm_control.runs.config import DEFAULT_TASK, TrainConfig
from envs.imperfections import open_imperfections
from envs.tasks import continuous_id, environment_of

# Settings that all agents of a comparison must have in common, beside the environment's task.
SHARED = ("goal_tolerance_m", "arm", "imperfections", "task_options", "episode_steps", "control_rate_hz")

Config = TrainConfig | BaselineConfig


@dataclass(frozen=True)
class Plan:
    """Number and length of the trainings of each agent, the held-out goals, and the folder of the runs."""

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
    # Train and evaluate, seed by seed.
    trials: dict[str, Trial] = {}
    for seed in range(plan.first_seed, plan.first_seed + plan.seeds):
        for name, config in configs.items():
            trials[_title(name, seed)] = trial_of(plan, name, config, seed)
    results = run_trials(trials)

    # Collect the results by agent.
    runs: dict[str, list[Result]] = {}
    cores: dict[str, int] = {}
    for name in configs:
        cores[name] = trials[_title(name, plan.first_seed)].cores
        runs[name] = []
        for seed in range(plan.first_seed, plan.first_seed + plan.seeds):
            # "seed" is that of the goals in a result, and that of the training in a comparison.
            runs[name].append({**results[_title(name, seed)], "seed": seed})

    first = next(iter(configs.values()))
    return {
        "task": {"env": first.env, "imperfections": open_imperfections(first.imperfections).to_json()},
        "minutes": plan.minutes,
        "steps": plan.steps,
        "goals": plan.goals,
        "goals_seed": plan.goals_seed,
        "seeds": plan.seeds,
        "agents": figures_by_agent(runs, cores, intervals=intervals),
        "references": references(plan, first),
    }


def _title(name: str, seed: int) -> str:
    return f"{name}, seed {seed}"


def references(plan: Plan, config: Config) -> dict[str, float]:
    """Reference errors in mm: inverse kinematics on the same goals and, for the default arm, the best grid pose."""
    task = config.task if isinstance(config, BaselineConfig) else config
    env = continuous_id(task.env)
    plain = TrainConfig("ddpg", env=env, **{name: getattr(task, name) for name in SHARED})
    judged = evaluate_controller(IKController(), plain, goals=plan.goals, seed=plan.goals_seed)
    errors = {"inverse kinematics": float(judged["mean_error_mm"])}
    if task.arm is None and environment_of(env).task_name == DEFAULT_TASK:
        errors["best pose of the degree grid"] = float(grid_floor(10_000, 0, 1.0)["best_mean_mm"])
    return errors


def check_same_task(configs: dict[str, Config]) -> None:
    """Raise ValueError unless all agents are trained for the same arm and goals."""
    tasks = {}
    for name, config in configs.items():
        task = config.task if isinstance(config, BaselineConfig) else config
        tasks[name] = {"task": environment_of(task.env).task_name, **{key: getattr(task, key) for key in SHARED}}
        tasks[name]["imperfections"] = open_imperfections(task.imperfections).to_json()
    first = next(iter(tasks))
    for name, its in tasks.items():
        for key, value in its.items():
            if value != tasks[first][key]:
                raise ValueError(
                    f"'{first}' and '{name}' have different tasks, {key.replace('_', '-')} {tasks[first][key]} and "
                    f"{value}: expected one for all"
                )


def trial_of(plan: Plan, name: str, config: Config, seed: int) -> Trial:
    """An agent's training with a seed, and its folder."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
    config = replace(_with_absolute_path(config), seed=seed, minutes=plan.minutes, steps=plan.steps)
    return Trial(config, plan.out / f"{slug}-seed{seed}", plan.goals, plan.goals_seed)


def _with_absolute_path(config: Config) -> Config:
    """The configuration with an absolute path of the arm's file, which works from any folder."""
    if isinstance(config, TrainConfig) and config.arm is not None:
        return replace(config, arm=str(Path(config.arm).resolve()))
    return config


def check_results(agents: dict[str, Any]) -> None:
    """Raise RuntimeError, with the reasons, for a comparison in which no training succeeded."""
    runs = []
    for agent in agents.values():
        runs += agent["runs"]
    if all("failed" in run for run in runs):
        reasons = "; ".join(sorted({run["failed"] for run in runs}))
        raise RuntimeError(f"all {len(runs)} trainings failed: {reasons}")
