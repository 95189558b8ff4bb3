"""`arm-control compare AGENT...`: train agents over several seeds and compare them."""

import dataclasses
import importlib.util
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from arm_control.process.errors import PROGRAM
from arm_control.process.flags import parse_flags
from arm_control.runs.checks import (
    MOST_GOALS,
    MOST_SEEDS,
    check_choice,
    check_count,
    check_length,
    check_seed,
)
from arm_control.runs.config import TrainConfig
from arm_control.runs.figures import check_writable, report_figures
from arm_control.runs.imperfections_flag import OptionalImperfectionsFlag
from policies.registry import AGENTS

if TYPE_CHECKING:
    from arm_control.comparison.baselines import BaselineConfig
    from envs.imperfections import Imperfections


DEFAULT_MINUTES = 3.0


@dataclass(frozen=True)
class Compare:
    """Train agents with several seeds and the same budget, and report performance with confidence intervals.

    If --out is the folder of an earlier comparison, finished trainings are skipped and the others resume; those of
    Stable-Baselines3 have no checkpoints and start again.
    """

    agents: tyro.conf.Positional[tuple[str, ...]]
    """Agents, or learners of Stable-Baselines3: sb3-a2c, sb3-ddpg, sb3-ppo, sb3-td3. Quote an agent with flags of its
    own: "a2c --processes 2". Errors are also given relative to the first agent."""
    seeds: int = 3
    """Number of trainings of each agent."""
    first_seed: int = 0
    """Seed of the first training; each further training has the next seed."""
    minutes: float | None = None
    """Length of each training in minutes, not counting validations (default: 3, unless --steps is given)."""
    steps: int | None = None
    """Length of each training in steps, instead of --minutes."""
    goals: int = 1000
    """Number of held-out goals."""
    goals_seed: int = 0
    """Seed of the goals; none of them is used in training."""
    intervals: bool = True
    """Report 95 % intervals, which require at least 2 seeds."""
    imperfections: OptionalImperfectionsFlag = None
    """Dynamics randomisation of the arm, for all agents: a preset, or a file written by 'identify --json'."""
    out: str = "runs/comparison"
    """Folder of the runs, the table and the figures."""
    json: str | None = None
    """JSON file to write the figures to, besides comparison.json in --out."""

    def __post_init__(self) -> None:
        if not self.agents:
            raise ValueError(f"expected agents to compare; available: {', '.join(AGENTS)}, and sb3-a2c, sb3-ddpg, ...")
        check_count("seeds", self.seeds, MOST_SEEDS)
        check_count("goals", self.goals, MOST_GOALS)
        check_seed("first-seed", self.first_seed)
        check_seed("goals-seed", self.goals_seed)
        check_length(self.steps, self.minutes)
        if self.intervals and self.seeds == 1:
            raise ValueError("--seeds: an interval requires at least 2, got 1 (add seeds, or use --no-intervals)")

    @property
    def length_minutes(self) -> float | None:
        """Length of each training in minutes; None where --steps gives it."""
        if self.minutes is None and self.steps is None:
            return DEFAULT_MINUTES
        return self.minutes


def run(command: Compare) -> None:
    """Train, evaluate and compare the agents. Raises RuntimeError if no training succeeded."""
    from arm_control.comparison.comparison import Plan, check_results, compare
    from arm_control.comparison.table import write_comparison

    # Check everything before the first training.
    configs = contestants(command)
    if configs is None:
        return
    check_writable(command.json)
    plan = Plan(
        seeds=command.seeds,
        first_seed=command.first_seed,
        minutes=command.length_minutes,
        steps=command.steps,
        goals=command.goals,
        goals_seed=command.goals_seed,
        out=Path(command.out),
    )
    figures = compare(configs, plan, intervals=command.intervals)
    report_figures(command.json, figures, write_comparison(figures, Path(command.out)))
    check_results(figures["agents"])


def contestants(command: Compare) -> "dict[str, TrainConfig | BaselineConfig] | None":
    """The settings of a comparison's agents by their names; None after printing the help of one.

    Raises ValueError for agents that are invalid, repeated, or of different tasks.
    """
    from arm_control.comparison.comparison import check_same_task

    configs: dict[str, TrainConfig | BaselineConfig] = {}
    for agent in command.agents:
        arguments = shlex.split(agent)
        name = shlex.join(arguments)
        if name in configs:
            raise ValueError(f"duplicate agent '{name}'")
        config = parse_contestant(arguments, command.imperfections)
        if config is None:
            return None
        configs[name] = config
    check_same_task(configs)
    return configs


def parse_contestant(
    arguments: list[str], imperfections: "str | Imperfections | None"
) -> "TrainConfig | BaselineConfig | None":
    """The settings of an agent or baseline with its own flags; None after printing its help."""
    from arm_control.comparison.baselines import BASELINES, BaselineConfig

    # The name, then the flags of the agent.
    name, *flags = arguments or [""]
    check_choice("agent", name, [*AGENTS, *BASELINES])
    if name in BASELINES and importlib.util.find_spec("stable_baselines3") is None:
        raise ModuleNotFoundError(name="stable_baselines3")
    default = BaselineConfig(name) if name in BASELINES else TrainConfig(name)
    program = f"{PROGRAM} train {name}"
    see = None
    if name in BASELINES:
        program = f"{PROGRAM} compare {name}"
        see = f"{PROGRAM} compare '{name} --help'"
    config: TrainConfig | BaselineConfig | None = parse_flags(type(default), program, flags, default, see)
    if config is None:
        return None
    # Seed and budget are those of the comparison.
    for field in ("seed", "steps", "minutes"):
        if getattr(config, field) != getattr(default, field):
            raise ValueError(
                f"'{shlex.join(arguments)}': --{field} applies to all agents: expected it outside the quotes"
            )
    return config if imperfections is None else dataclasses.replace(config, imperfections=imperfections)
