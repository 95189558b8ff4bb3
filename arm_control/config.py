"""The settings of each command: one frozen dataclass is its flags, its help and, for a training, its `config.json`.

Only what `--help` needs is imported here.
"""

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
import tyro

from arm_control.drivers import DRIVERS
from policies.settings import AGENTS, A3CSettings, ActionKind, AgentSettings, ReinforceSettings

DEFAULT_STEPS = 200_000

# Where the arm is to reach a goal by actions of each kind.
ENVIRONMENTS: dict[ActionKind, str] = {
    "degrees": "ArmReach-v0",
    "index": "ArmReachDiscrete-v0",
    "positions": "ArmReachMultiDiscrete-v0",
}

# As in envs.tasks, envs.paths and envs.imperfections, which this file, being help, does not load.
Control = Literal["absolute", "from_measured", "from_target"]
PathChoice = Literal["circle", "eight", "spline", "any"]
Preset = Literal["ideal", "xl430", "rough", "late"]


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and for how long."""

    agent: tyro.conf.Suppress[str]
    settings: Annotated[AgentSettings, tyro.conf.arg(name="agent"), tyro.conf.AvoidSubcommands] = None  # type: ignore[assignment]
    env: str = ""
    """The environment's id."""
    reward: Literal["dense", "sparse"] = "dense"
    """The reward that the environment gives. A sparse one wants DDPG to look farther: --discount 0.9 --n-step 3."""
    goal_tolerance_m: float = 0.01
    """How near the tip must be to a goal to have reached it, in metres."""
    arm: str | None = None
    """URDF file of another arm."""
    grid_step_deg: float = 1.0
    """For agents on the degree grid, how far apart its angles are, in degrees."""
    control: Control = "absolute"
    """What an action is: a target, or a change of the measured angle or of the last target."""
    imperfections: Preset = "ideal"
    """How imperfect the arm's servos and sensors are."""
    path: PathChoice | None = None
    """For ArmTrack-v0, the path of the goal (any of the three, unless given)."""
    speed_m_s: float | None = None
    """For ArmTrack-v0, the goal's mean speed in m/s (0.2, unless given)."""
    arms: int = None  # type: ignore[assignment]
    """Arms simulated side by side."""
    processes: int = 1
    """Processes among which the arms are divided. More are faster for many arms, and change nothing else."""
    seed: int = 0
    """Seed of everything random."""
    steps: int | None = None
    """Length of the training in steps, those of all arms together (200000, unless --minutes is given)."""
    minutes: float | None = None
    """Length of the training in minutes, instead of --steps."""
    init: str | None = None
    """Run folder from whose networks to start."""

    def __post_init__(self) -> None:
        check_choice("agent", self.agent, AGENTS)
        if self.settings is None:  # the agent's own
            object.__setattr__(self, "settings", AGENTS[self.agent]())
        if not self.env:
            object.__setattr__(self, "env", ENVIRONMENTS[self.settings.actions])
        if self.arms is None:
            object.__setattr__(self, "arms", self.settings.arms)
        check_choice("environment", self.env, environment_ids())
        if self.steps is not None and self.minutes is not None:
            raise ValueError("wanted one of --steps and --minutes, got both")
        if not 1 <= self.arms <= 512:
            raise ValueError(f"--arms: wanted from 1 to 512, got {self.arms}")
        if not 1 <= self.processes <= self.arms:
            raise ValueError(f"--processes: wanted from 1 to {self.arms}, one for each arm, got {self.processes}")
        if isinstance(self.settings, A3CSettings):
            if self.processes > 1:
                raise ValueError(f"--processes: the arms of a3c are in its --workers, got {self.processes} processes")
            if self.arms % self.settings.workers:
                raise ValueError(f"--arms: wanted a multiple of {self.settings.workers} workers, got {self.arms}")
        if isinstance(self.settings, ReinforceSettings) and self.settings.baseline == "average" and self.arms == 1:
            raise ValueError("--baseline average: wanted at least 2 arms, whose returns to average, got 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed: wanted a number from 0, of at most 63 bits, got {self.seed}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--steps: wanted a positive number, got {self.steps}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"--minutes: wanted a positive number, got {self.minutes}")
        for name, value in (("path", self.path), ("speed-m-s", self.speed_m_s)):
            if value is not None and self.env != "ArmTrack-v0":
                raise ValueError(f"--{name}: the goal moves in ArmTrack-v0 only, not in {self.env}")
        if self.grid_step_deg != 1.0 and not self.on_grid:
            raise ValueError(f"--grid-step-deg: actions in {self.env} are on no grid")
        if not 0 < self.goal_tolerance_m < math.inf:
            raise ValueError(f"--goal-tolerance-m: wanted a positive length in metres, got {self.goal_tolerance_m}")

    @property
    def on_grid(self) -> bool:
        """Whether the environment's actions are those of the degree grid."""
        return self.env in (ENVIRONMENTS["index"], ENVIRONMENTS["positions"])

    def progress(self, step: int, elapsed_s: float) -> float:
        """From 0 at the start of a training to 1 at its end."""
        if self.minutes is not None:
            return min(1.0, elapsed_s / (60.0 * self.minutes))
        return min(1.0, step / (self.steps or DEFAULT_STEPS))

    def to_json(self) -> dict[str, Any]:
        """As it is kept in the run folder."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(config: dict[str, Any]) -> "TrainConfig":
        """Read one back. Raises ValueError, naming the field, for one that does not fit."""
        values = {key: value for key, value in config.items() if key != "version"}
        try:
            agent = str(values.get("agent"))
            check_choice("agent", agent, AGENTS)
            # Each by its own type: msgspec knows no union of dataclasses.
            kinds = get_type_hints(TrainConfig) | {"settings": AGENTS[agent]}
            read = TrainConfig(**{name: _converted(name, value, kinds.get(name)) for name, value in values.items()})
            if read.to_json() != values:
                raise ValueError(f"wanted the fields {list(read.to_json())}, got {list(values)}, or others in settings")
            return read
        except ValueError as error:
            raise ValueError(f"config.json is damaged: {error}") from None

    def sha256(self) -> str:
        """The hash by which an exported policy names the configuration it was trained with."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def environment_options(self) -> dict[str, Any]:
        """The keyword arguments of `gymnasium.make`."""
        names: tuple[str, ...] = ("reward", "goal_tolerance_m", "arm", "control", "imperfections", "path", "speed_m_s")
        if self.on_grid:
            names += ("grid_step_deg",)
        options = {name: getattr(self, name) for name in names}
        return {name: value for name, value in options.items() if value is not None}


def _converted(name: str, value: Any, kind: Any) -> Any:
    """A value of JSON as a field's type. Raises ValueError, naming the field, for one that does not fit."""
    if kind is None:
        raise ValueError(f"there is no field {name}")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from None


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


def environment_ids() -> list[str]:
    """The ids that `envs` registers."""
    import gymnasium

    import envs  # noqa: F401  (registers them)

    return sorted(name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("envs."))


def check_choice(kind: str, name: str, available: Iterable[str]) -> None:
    """Raise ValueError, with what there is and what was likely meant, unless `name` is available."""
    names = list(available)
    if name not in names:
        close = difflib.get_close_matches(name, names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"unknown {kind} '{name}'{hint}; available: {', '.join(names)}")


def check_png(path: str | None) -> None:
    """Raise ValueError unless a file's name, if there is one, is that of a picture."""
    if path is not None and not path.lower().endswith(".png"):
        raise ValueError(f"--save: wanted a file that ends in .png, got {path}")


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise ValueError unless a count is at least this."""
    if value < least:
        raise ValueError(f"--{name}: wanted a number from {least}, got {value}")
