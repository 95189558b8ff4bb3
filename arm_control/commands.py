"""The settings of each command: one frozen dataclass is its flags and its help.

Only what `--help` needs is imported here.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from arm_control.config import (
    Preset,
    TrainConfig,
    check_choice,
    check_count,
    check_png,
)
from arm_control.drivers import DRIVERS
from policies.settings import AGENTS


@dataclass(frozen=True)
class Train:
    """Train an agent into a run folder. Ctrl-C ends it cleanly, with a checkpoint; 'resume' goes on from there."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    out: str | None = None
    """The run's folder (runs/AGENT-seedSEED, unless given)."""


@dataclass(frozen=True)
class Resume:
    """Go on with an interrupted run. One of --steps then ends bit for bit as if it had not been interrupted."""

    run: tyro.conf.Positional[str]
    """The run's folder."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a controller on held-out goals."""

    source: tyro.conf.Positional[str]
    """A run folder, a policy file, or one of zero, random, ik."""
    goals: int = 1000
    """How many goals."""
    seed: int = 0
    """Which goals. No seed's are ever used in training."""
    arm: str | None = None
    """URDF file of the arm, for a policy that was trained on another than the default one."""
    env: str | None = None
    """The environment's id, for zero, random and ik (ArmReach-v0, unless given); a run or policy has its own."""
    imperfections: Preset | None = None
    """How imperfect the arm is (as in training, unless given)."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        check_count("goals", self.goals)
        check_count("seed", self.seed, least=0)


@dataclass(frozen=True)
class Compare:
    """Train agents over several seeds, each for the same time, and say how good they are and how sure that is.

    Started again with the same --out, it does nothing twice that has come to its end, and goes on with the rest.
    """

    agents: tyro.conf.Positional[tuple[str, ...]]
    """Agents, or learners of Stable-Baselines3: sb3-a2c, sb3-ddpg, sb3-ppo, sb3-td3. One with flags of its own goes in
    quotes: "a2c --processes 2". The first is what the others are measured against."""
    seeds: int = 3
    """Trainings of each agent."""
    first_seed: int = 0
    """The first one's seed; the others count on from it."""
    minutes: float | None = None
    """Length of each training in minutes (3, unless --steps is given), not counting validations."""
    steps: int | None = None
    """Length of each training in steps, instead of --minutes."""
    goals: int = 1000
    """How many held-out goals."""
    goals_seed: int = 0
    """Which goals. No seed's are ever used in training."""
    intervals: bool = True
    """Whether to give 95 % intervals, which want at least 2 seeds."""
    imperfections: Preset | None = None
    """How imperfect the arm's servos and sensors are, for all."""
    out: str = "runs/comparison"
    """Folder of the runs, the table and the figures."""
    json: str | None = None
    """Also write the figures into this file (comparison.json in --out has them anyway)."""

    def __post_init__(self) -> None:
        if not self.agents:
            raise ValueError(f"wanted agents to compare; available: {', '.join(AGENTS)}, and sb3-a2c and others")
        if self.minutes is not None and self.steps is not None:
            raise ValueError("wanted one of --steps and --minutes, got both")
        if self.minutes is None and self.steps is None:
            object.__setattr__(self, "minutes", 3.0)
        for name in ("seeds", "goals"):
            check_count(name, getattr(self, name))
        for name in ("first_seed", "goals_seed"):
            check_count(name.replace("_", "-"), getattr(self, name), least=0)
        if self.intervals and self.seeds == 1:
            raise ValueError("--seeds: an interval wants at least 2, got 1: more seeds, or --no-intervals")


@dataclass(frozen=True)
class Export:
    """Write a run's policy as one ONNX file, and keep it only if onnxruntime agrees with PyTorch.

    On 10,000 states and all corners; on 1,000 of them for a policy that searches a grid of actions.
    """

    run: tyro.conf.Positional[str]
    """The run's folder."""
    output: Annotated[str | None, tyro.conf.arg(aliases=("-o",))] = None
    """The file (policy.onnx in the run's folder, unless given)."""


@dataclass(frozen=True)
class Inspect:
    """Print what an exported policy promises, after re-running its golden samples."""

    policy: tyro.conf.Positional[str]
    """The ONNX file."""


@dataclass(frozen=True)
class Run:
    """Drive an arm through goals, or along paths, with an exported policy. Ctrl-C parks the arm."""

    policy: tyro.conf.Positional[str]
    """The ONNX file."""
    driver: str = "sim"
    """The arm to drive: sim."""
    goal: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A goal as x,y,z in metres; may be given several times."""
    goals_file: str | None = None
    """File with a goal x,y,z on each line; - for standard input."""
    random: int | None = None
    """Draw this many goals instead; for a policy that follows a moving goal, this many paths."""
    seed: int = 0
    """Seed of --random."""
    seconds_per_goal: float = 2.0
    """Time for each goal."""
    pace: Literal["realtime", "fast"] = "realtime"
    """Keep the policy's rate, or let the simulated arm go as fast as it can."""
    imperfections: Preset = "ideal"
    """How imperfect the simulated arm is."""
    arm: str | None = None
    """URDF file of the arm, for a policy that was trained on another than the default one."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        check_choice("driver", self.driver, DRIVERS)
        if sum((bool(self.goal), self.goals_file is not None, self.random is not None)) != 1:
            raise ValueError("wanted goals by just one of --goal, --goals-file and --random, got none or several")
        if self.random is not None:
            check_count("random", self.random)
        check_count("seed", self.seed, least=0)
        if not 0 < self.seconds_per_goal <= 3600:
            raise ValueError(f"--seconds-per-goal: wanted more than 0 and up to 3600, got {self.seconds_per_goal}")


@dataclass(frozen=True)
class Replay:
    """Watch a controller go through several goals."""

    source: tyro.conf.Positional[str]
    """A run folder, a policy file, or one of zero, random, ik."""
    save: str
    """The file to write, ending in .mp4."""
    viewer: Literal["video"] = "video"
    """The way to look at it."""
    goals: int = 6
    """How many goals."""
    seed: int = 0
    """Which goals."""
    arm: str | None = None
    """URDF file of the arm, for a policy that was trained on another than the default one."""
    env: str | None = None
    """The environment's id, for zero, random and ik (ArmReach-v0, unless given); a run or policy has its own."""
    imperfections: Preset | None = None
    """How imperfect the arm is (as in training, unless given)."""

    def __post_init__(self) -> None:
        check_count("goals", self.goals)
        check_count("seed", self.seed, least=0)


@dataclass(frozen=True)
class Report:
    """Write a one-page report.md into a run's folder, from its evaluation.json, run.json and policy.onnx."""

    run: tyro.conf.Positional[str]
    """The run's folder."""


@dataclass(frozen=True)
class BenchGrid:
    """How near the best whole-degree pose comes to a goal: what no controller on the degree grid can beat."""

    goals: int = 10_000
    """How many goals."""
    seed: int = 0
    """Which goals."""
    step_deg: float = 1.0
    """The grid's step in degrees."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        check_count("goals", self.goals)
        check_count("seed", self.seed, least=0)


@dataclass(frozen=True)
class BenchLadder:
    """Train from a value for every action to a policy, rung by rung, each for the same time: what each remedy gains."""

    minutes: float = 3.0
    """Length of each training in minutes, on one core; two run at once."""
    seeds: int = 3
    """Trainings of each rung."""
    goals: int = 1000
    """How many held-out goals."""
    grid_step_deg: float = 1.0
    """The grid's step in degrees."""
    out: str = "runs/ladder"
    """Folder of the runs; those that are there already are not done again."""
    save: str | None = None
    """Also draw the figure into this file, ending in .png."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        check_count("seeds", self.seeds)
        check_count("goals", self.goals)
        check_png(self.save)
        if not 0 < self.minutes < math.inf:
            raise ValueError(f"--minutes: wanted a positive number, got {self.minutes}")


@dataclass(frozen=True)
class BenchArgmax:
    """What a decision and an update cost over 91, 91 x 91 and 91 x 91 x 91 actions, and with no grid at all."""

    grid_step_deg: float = 1.0
    """The grid's step in degrees."""
    rounds: int = 9
    """How often each piece of work is timed, in turns; the figures are medians."""
    save: str | None = None
    """Also draw the figure into this file, ending in .png."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)
        check_png(self.save)


@dataclass(frozen=True)
class BenchSimulation:
    """How fast the arm is simulated, alone and many at once, beside its physics engine and other libraries."""

    seconds: float = 1.0
    """Length of each measurement."""
    rounds: int = 5
    """How often each is repeated, in turns; the figures are medians."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 60:
            raise ValueError(f"--seconds: wanted more than 0 and up to 60, got {self.seconds}")
        check_count("rounds", self.rounds)


@dataclass(frozen=True)
class BenchDelay:
    """How far controllers miss when servos act late, by up to 200 ms."""

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, policy files, or zero, random, ik."""
    goals: int = 300
    """How many goals."""
    seed: int = 0
    """Which goals."""
    save: str | None = None
    """Also draw the figure into this file, ending in .png."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        check_count("goals", self.goals)
        check_count("seed", self.seed, least=0)
        if not self.sources:
            raise ValueError("wanted run folders, policy files, or zero, random, ik; got none")
        check_png(self.save)


@dataclass(frozen=True)
class BenchDeterminism:
    """Whether every environment does the same again, bit for bit, however it is asked."""

    imperfections: tuple[Preset, ...] = ("ideal", "rough")
    """The arms to check."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        if not self.imperfections:
            raise ValueError("--imperfections: wanted ideal, xl430, rough or late, got none")
