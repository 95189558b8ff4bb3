"""The settings of each command: one frozen dataclass is its flags and its help.

Only what `--help` needs is imported here.
"""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Literal

import tyro

from arm_control.config import (
    MOST_GOALS,
    MOST_SEEDS,
    OptionalImperfectionsFlag,
    TrainConfig,
    as_imperfections,
    check_choice,
    check_count,
    check_grid_step,
    check_length,
    check_png,
    check_seed,
    parse_numbers,
)
from arm_control.drivers.control_table import BAUD_RATES
from arm_control.drivers.opening import available_drivers
from envs.limits import ACCELERATIONS_DEG_S2, SPEEDS_DEG_S, Box
from policies.settings import AGENTS

MOST_RUN_GOALS = 100_000  # of one run on an arm; at 2 s each, more than two days
MOST_ROUNDS = 10_000
LARGEST_ID = 252  # of a servo
HIGHEST_TABLE_M = 100.0


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
    """URDF file of the arm: for a policy of another than the default one, or for zero, random, ik; a run has its own
    and takes one that matches."""
    env: str | None = None
    """The environment's id, for zero, random and ik (ArmReach-v0, unless given); a run or policy has its own."""
    imperfections: OptionalImperfectionsFlag = None
    """Dynamics randomisation of the arm: a preset, or a file written by 'identify --json' (that of the training, unless
    given)."""
    last: bool = False
    """Evaluate the last policy of a run, not the best validated one."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        check_count("goals", self.goals, MOST_GOALS)
        check_seed("seed", self.seed)


@dataclass(frozen=True)
class Compare:
    """Train agents over several seeds, each for the same time, and report performance with confidence intervals.

    With the same --out as before, finished trainings are skipped and the others resume; those of
    Stable-Baselines3, which keep no checkpoints, begin anew.
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
    imperfections: OptionalImperfectionsFlag = None
    """Dynamics randomisation of the arm, for all agents: a preset, or a file written by 'identify --json'."""
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
        check_count("seeds", self.seeds, MOST_SEEDS)
        check_count("goals", self.goals, MOST_GOALS)
        check_seed("first-seed", self.first_seed)
        check_seed("goals-seed", self.goals_seed)
        check_length(self.steps, self.minutes)
        if self.intervals and self.seeds == 1:
            raise ValueError("--seeds: an interval wants at least 2, got 1: more seeds, or --no-intervals")


@dataclass(frozen=True)
class Export:
    """Write a run's policy as one ONNX file, and keep it only if onnxruntime agrees with PyTorch.

    The policy is the best validated one. The two are compared on 10,000 states and all corners, or on 1,000 of them for
    a policy that searches a grid of actions.
    """

    run: tyro.conf.Positional[str]
    """The run's folder."""
    output: Annotated[str | None, tyro.conf.arg(aliases=("-o",))] = None
    """The file (policy.onnx in the run's folder, unless given)."""
    last: bool = False
    """Export the last policy of the run, not the best validated one."""


@dataclass(frozen=True)
class Inspect:
    """Print what an exported policy promises, after re-running its golden samples."""

    policy: tyro.conf.Positional[str]
    """The ONNX file."""


@dataclass(frozen=True)
class Run:
    """Drive an arm through goals or along paths with an exported policy, or as it was recorded. Ctrl-C parks the arm.

    Exits with 3 if safety stopped it. While it holds the arm: r resets and goes on, p parks.
    """

    source: tyro.conf.Positional[str]
    """The ONNX file, or a recording of 'run', ending in .mcap. Space pauses a recording, s stops it."""
    driver: str = "sim"
    """The arm to drive: sim, dynamixel, or the name of an installed driver."""
    port: str | None = None
    """The arm's serial port, such as /dev/ttyUSB0."""
    calibration: str | None = None
    """The arm's calibration file, as 'arm-control calibrate' writes it."""
    option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE for a driver that wants more; may be given several times."""
    goal: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A goal as x,y,z in metres; may be given several times."""
    goals_file: str | None = None
    """File with a goal x,y,z on each line; - for standard input."""
    random: int | None = None
    """Draw this many goals above the table instead; for a policy that follows a moving goal, this many paths."""
    seed: int = 0
    """Seed of --random."""
    seconds_per_goal: float = 2.0
    """Time for each goal. The first one has 2 s more, in which the arm starts softly."""
    speed: float = 1.0
    """How much of its speed a recording keeps, up to 1."""
    rate: float | None = None
    """Targets a second, up to 1000 or what the arm's bus allows; the policy is asked at its own rate, which is the
    least, and its targets are interpolated."""
    max_speed: float | None = None
    """Largest speed of a joint in degrees/s, where the arm's own is larger."""
    max_acceleration: float | None = None
    """Largest acceleration of a joint in degrees/s^2, where the arm's own is larger."""
    workspace: str | None = None
    """x,y,z,X,Y,Z in metres: the box that no link's end may leave."""
    table: float | None = None
    """Height of the table in metres, which no link's end may go below (0, unless given; the simulated arm has none)."""
    park: str | None = None
    """Angles in degrees, one a joint: where the arm is put before its torque goes off (every joint at 0, or if that is
    outside the limits or the workspace, the nearest pose found inside, unless given)."""
    shadow: bool = False
    """Read, decide and check, but send nothing to the arm."""
    record: str | None = None
    """Record every tick into this file, ending in .mcap."""
    pace: Literal["realtime", "fast"] = "realtime"
    """Keep the policy's rate, or let the simulated arm go as fast as it can."""
    imperfections: OptionalImperfectionsFlag = None
    """Dynamics of the simulated arm (ideal, unless given), or those expected of a real one (measured ones that the
    policy was trained with, otherwise xl430, a guess): a preset, or a file written by 'identify --json'. Delay and lag
    matter where --rate is higher than the policy's."""
    arm: str | None = None
    """URDF file of the simulated arm, for a policy that was trained on another than the default one."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        goals = sum((bool(self.goal), self.goals_file is not None, self.random is not None))
        if self.of_recording and goals:
            raise ValueError(
                f"{self.source} is a recording, which has its own goals: wanted no --goal, --goals-file, --random"
            )
        if not self.of_recording and goals != 1:
            got = "several" if goals else "none"
            raise ValueError(f"wanted goals by just one of --goal, --goals-file and --random, got {got}")
        if not 0.05 <= self.speed <= 1.0 or (self.speed != 1.0 and not self.of_recording):
            raise ValueError(f"--speed: wanted 0.05 to 1, and a recording, got {self.speed} and {self.source}")
        if self.random is not None:
            check_count("random", self.random, MOST_RUN_GOALS)
        check_seed("seed", self.seed)
        if not 0 < self.seconds_per_goal <= 3600:
            raise ValueError(f"--seconds-per-goal: wanted more than 0 and up to 3600, got {self.seconds_per_goal}")
        if self.rate is not None and not 10 <= self.rate <= 1000:
            raise ValueError(f"--rate: wanted 10 to 1000 Hz, got {self.rate}")
        for name, (least, most) in (("max_speed", SPEEDS_DEG_S), ("max_acceleration", ACCELERATIONS_DEG_S2)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag}: wanted a positive number, from {least:g} to {most:g}, got {value}")
        if self.table is not None and not abs(self.table) <= HIGHEST_TABLE_M:
            raise ValueError(f"--table: wanted a height in metres, up to {HIGHEST_TABLE_M:g}, got {self.table}")
        self.box, self.park_deg  # noqa: B018  (raise for what is no numbers)
        if self.record is not None and not self.record.endswith(".mcap"):
            raise ValueError(f"--record: wanted a file ending in .mcap, got {self.record}")
        check_choice("driver", self.driver, available_drivers())
        for text in self.option:
            if not all(text.partition("=")[::2]):
                raise ValueError(f"--option: wanted NAME=VALUE, got '{text}'")
        if self.driver != "sim":
            for name, default in (("pace", "realtime"), ("arm", None)):
                if getattr(self, name) != default:
                    raise ValueError(f"--{name}: is for the simulated arm, not for --driver {self.driver}")
            if self.of_recording and self.imperfections is not None:
                raise ValueError("--imperfections: a recording on a real arm expects nothing of it")
        elif self.driver_options:
            raise ValueError(f"--{next(iter(self.driver_options))}: is not for the simulated arm; wanted --driver too")

    @property
    def of_recording(self) -> bool:
        """Whether the source is a recording rather than a policy."""
        return self.source.endswith(".mcap")

    @property
    def box(self) -> Box | None:
        """The workspace as numbers."""
        if self.workspace is None:
            return None
        x, y, z, far_x, far_y, far_z = parse_numbers("workspace", self.workspace, "x,y,z,X,Y,Z in metres", 6)
        return x, y, z, far_x, far_y, far_z

    @property
    def park_deg(self) -> tuple[float, ...] | None:
        """The parking pose as numbers."""
        return None if self.park is None else parse_numbers("park", self.park, "an angle in degrees for each joint")

    @property
    def driver_options(self) -> dict[str, str]:
        """What the driver is told, by name."""
        given = {"port": self.port, "calibration": self.calibration}
        options = {name: value for name, value in given.items() if value is not None}
        return options | dict(text.split("=", 1) for text in self.option)


@dataclass(frozen=True)
class Replay:
    """Watch a controller or a recording: in the simulator's window, in a browser, as a video or as plots.

    A single controller moves its simulated arm live, without end; with --goals or --save, through so many goals.
    """

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, policy files, recordings (ending in .mcap), or zero, random, ik. The browser and the plots compare
    two; the plots of run folders alone are their learning curves, however many."""
    viewer: Literal["window", "web", "video", "plot"] | None = None
    """The way to look at it (as the ending of --save says; otherwise the window, but web for two sources, with --port
    or --host, and where there is no display)."""
    save: str | None = None
    """The file to write: .mp4 for video, .png for plots, .html for a web page that needs no server."""
    goals: int | None = None
    """How many goals a controller goes through (6 in files and comparisons; otherwise it moves without end)."""
    seed: int = 0
    """Which goals. No seed's are ever used in training."""
    verify: bool = False
    """Instead of showing it, re-run a recording of the simulated arm, and say whether every reading is bit-exact."""
    port: int | None = None
    """Port of the web viewer (8080, unless given)."""
    host: str | None = None
    """Address that the web viewer listens at (127.0.0.1, which only this machine reaches, unless given), without any
    password."""
    arm: str | None = None
    """URDF file of the arm: for a policy or recording of another than the default one; a run has its own and takes one
    that matches, such as one with meshes to draw."""
    env: str | None = None
    """The environment's id, for zero, random and ik (ArmReach-v0, unless given); a run or policy has its own."""
    imperfections: OptionalImperfectionsFlag = None
    """Dynamics randomisation of a controller's arm: a preset, or a file written by 'identify --json' (that of the
    training, unless given)."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("wanted something to watch: run folders, policies, recordings, or zero, random, ik")
        if self.goals is not None:
            check_count("goals", self.goals, MOST_GOALS)
        check_seed("seed", self.seed)
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"--port: wanted 1 to 65535, got {self.port}")
        if self.verify:
            self._check_verify()
            return
        if self.save is not None:
            wanted = {".mp4": "video", ".png": "plot", ".html": "web"}
            suffix = PurePath(self.save).suffix.lower()
            if suffix not in wanted or self.viewer not in (None, wanted[suffix]):
                endings = [ending for ending, viewer in wanted.items() if self.viewer in (None, viewer)]
                ask = f"a file ending in {', '.join(endings)}" if endings else "no file with --viewer window"
                raise ValueError(f"--save: wanted {ask}, got {self.save}")
            object.__setattr__(self, "viewer", wanted[suffix])
        elif self.viewer in ("video", "plot"):
            raise ValueError(f"--viewer {self.viewer} writes a file: name it with --save")
        if (self.viewer in ("window", "video", "plot") or self.save is not None) and (self.port or self.host):
            raise ValueError("--port and --host are for --viewer web without --save")

    def _check_verify(self) -> None:
        if len(self.sources) != 1 or not self.sources[0].lower().endswith(".mcap"):
            raise ValueError(f"--verify: wanted one recording, ending in .mcap, got {' '.join(self.sources)}")
        names = ("viewer", "save", "goals", "seed", "port", "host", "env", "imperfections")
        if unused := [f"--{name}" for name in names if getattr(self, name)]:
            raise ValueError(f"--verify shows nothing: wanted no {', '.join(unused)}")


@dataclass(frozen=True)
class Report:
    """Write a one-page report.md into a run's folder, from its evaluation.json, run.json and policy.onnx."""

    run: tyro.conf.Positional[str]
    """The run's folder."""


@dataclass(frozen=True)
class Recover:
    """Make a whole recording of one that a crash cut short. The damaged file is left as it is."""

    log: tyro.conf.Positional[str]
    """The recording."""
    out: str | None = None
    """The new file (LOG-recovered.mcap beside it, unless given)."""


@dataclass(frozen=True)
class Calibrate:
    """Measure how the servos stand to the joints, with the arm moved by hand, and write that into a file.

    The torque is off meanwhile. Nothing is written unless all joints are measured.
    """

    port: str | None = None
    """The arm's serial port, such as /dev/ttyUSB0 (the only one that there is, unless given)."""
    out: str = "calibration.json"
    """The file to write."""
    overwrite: bool = False
    """Replace the file if there is one."""
    arm: str | None = None
    """URDF file of the arm (the default arm, unless given)."""
    ids: str | None = None
    """Servo ids as 1,2,3 in the order of the joints (those that answer, in ascending order, unless given)."""
    baud: int = 1_000_000
    """The bus's baud rate."""
    restamp: str | None = None
    """Instead of all that, check this file, which was edited by hand, and write its new hash into it."""

    def __post_init__(self) -> None:
        self.servo_ids  # noqa: B018  (raises for what are none)
        if self.baud not in BAUD_RATES:
            raise ValueError(f"--baud: wanted one of {', '.join(map(str, BAUD_RATES))}, got {self.baud}")
        if self.restamp is not None and (self.port is not None or self.ids is not None):
            raise ValueError("--restamp needs no arm: wanted neither --port nor --ids")

    @property
    def servo_ids(self) -> tuple[int, ...] | None:
        """The ids as numbers. Raises ValueError for what are none, or not different ones."""
        if self.ids is None:
            return None
        try:
            ids = tuple(int(word) for word in self.ids.split(","))
        except ValueError:
            ids = ()
        if not ids or len(set(ids)) != len(ids) or not all(0 <= id <= LARGEST_ID for id in ids):
            raise ValueError(f"--ids: wanted different servo ids from 0 to 252, as in 1,2,3, got '{self.ids}'")
        return ids


@dataclass(frozen=True)
class Emulate:
    """Emulate servos at a virtual serial port (pty): real packets, movement and faults, to try an arm without one.

    A fault is KIND[=PROBABILITY][@SECONDS][:ID], and may be given several times. Of all answers: lost, corrupt, late,
    duplicated, noise, as in lost=0.01. Once, seconds after the torque was first on: overload, voltage, overheating,
    encoder, shock, reboot, stuck, slow (half speed), frozen (the same reading for ever), drift (2 degrees/s), swapped
    (with the next servo), wrap, silent, disconnect, as in overload@5:2 for servo 2.
    """

    kind: tyro.conf.Positional[Literal["dynamixel"]]
    """The kind of servos: XL430-W250."""
    servos: int | None = None
    """How many, with ids from 1 (3, unless ids are given)."""
    ids: str | None = None
    """Their ids instead, as 1,2,3."""
    link: str | None = None
    """A file that leads to the port while it is there, such as runs/arm; otherwise its path is printed."""
    calibration: str | None = None
    """Calibration file of the emulated arm, written if there is none; the arm then starts with every joint at 0, or in
    the nearest pose found above the table."""
    arm: str | None = None
    """URDF file of the arm that the calibration is of (the default arm, unless given)."""
    fault: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What goes wrong: see above."""
    start: str | None = None
    """Where the servos start, in ticks, as 2048,2048,2048; one number for all."""
    lag_s: float | None = None
    """Lag of a joint behind a goal that moves at constant speed, in seconds (0.05, unless given)."""
    imperfections: OptionalImperfectionsFlag = None
    """Delay, lag and noise of the servos, drawn from a preset or a file that 'identify --json' has written; backlash,
    load and the rest are not emulated."""
    sag_deg_s: float = 0.0
    """How fast a joint sinks without torque; negative: towards lower ticks."""
    keeps_goal: bool = False
    """When the torque goes on, go to the goal that was written before instead of staying."""
    seed: int = 0
    """Which answers go wrong, and which imperfections are drawn."""

    def __post_init__(self) -> None:
        if self.lag_s is not None and self.imperfections is not None:
            raise ValueError("expected one of --lag-s and --imperfections, got both")
        if self.servos is not None and self.ids is not None:
            raise ValueError("wanted one of --servos and --ids, got both")
        if self.servos is not None:
            check_count("servos", self.servos, LARGEST_ID)
        self.servo_ids  # noqa: B018  (raises for what are none)
        self.start_ticks  # noqa: B018
        check_seed("seed", self.seed)

    @property
    def servo_ids(self) -> tuple[int, ...]:
        """The ids as numbers. Raises ValueError for what are none."""
        return tuple(range(1, (self.servos or 3) + 1)) if self.ids is None else _numbers("ids", self.ids)

    @property
    def start_ticks(self) -> tuple[int, ...] | None:
        """The start as numbers. Raises ValueError for what are none."""
        return None if self.start is None else _numbers("start", self.start)


def _numbers(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"--{flag}: wanted whole numbers as 1,2,3, got '{text}'") from None


@dataclass(frozen=True)
class Identify:
    """Measure delay, servo lag and noise of an arm from a recording of 'run', for --imperfections of train and run."""

    log: tyro.conf.Positional[str]
    """The recording, of a run over several goals."""
    json: str | None = None
    """Also write the figures into this file."""


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
        check_count("goals", self.goals, MOST_GOALS)
        check_seed("seed", self.seed)


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
        check_count("seeds", self.seeds, MOST_SEEDS)
        check_count("goals", self.goals, MOST_GOALS)
        check_png(self.save)
        check_length(None, self.minutes)
        check_grid_step(self.grid_step_deg)


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
        check_count("rounds", self.rounds, MOST_ROUNDS)
        check_grid_step(self.grid_step_deg)
        check_png(self.save)


@dataclass(frozen=True)
class BenchRunner:
    """What an inference and a tick of the control loop cost, and how steadily ticks come, beside other libraries."""

    seconds: float = 60.0
    """How long the control loop runs at 500 Hz, and an empty one beside it."""
    rounds: int = 20
    """How often inferences and ticks are timed, in turns, 500 of each kind; the figures are medians over the rounds."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 3600:
            raise ValueError(f"--seconds: wanted 0.1 to 3600, got {self.seconds}")
        check_count("rounds", self.rounds, MOST_ROUNDS)


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
        check_count("rounds", self.rounds, MOST_ROUNDS)


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
        check_count("goals", self.goals, MOST_GOALS)
        check_seed("seed", self.seed)
        if not self.sources:
            raise ValueError("wanted run folders, policy files, or zero, random, ik; got none")
        check_png(self.save)


@dataclass(frozen=True)
class BenchDeterminism:
    """Whether every environment does the same again, bit for bit, however it is asked."""

    imperfections: tuple[str, ...] = ("ideal", "rough")
    """The arms to check: presets, or files that 'identify --json' has written."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        if not self.imperfections:
            raise ValueError("--imperfections: got none; expected ideal, xl430, rough, late, or files")
        for what in self.imperfections:
            as_imperfections(what)


@dataclass(frozen=True)
class BenchViewer:
    """Whether watching an arm slows its control loop: how steadily it ticks with and without viewers, in turns."""

    seconds: float = 60.0
    """How long the control loop runs at 500 Hz, half of it watched."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 3600:
            raise ValueError(f"--seconds: wanted 0.1 to 3600, got {self.seconds}")
