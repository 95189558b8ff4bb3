"""Settings of `arm-control run`: the arm to drive, its goals, limits and safety."""

from dataclasses import dataclass
from typing import Literal

import tyro

from arm_control.drivers.base import DriverType
from arm_control.drivers.opening import available_drivers
from arm_control.runs.checks import (
    check_choice,
    check_count,
    check_seed,
    parse_numbers,
)
from arm_control.runs.imperfections_flag import OptionalImperfectionsFlag
from envs.limits import ACCELERATIONS_DEG_S2, SPEEDS_DEG_S, Box

MOST_RUN_GOALS = 100_000  # of one run on an arm; at 2 s each, more than two days
HIGHEST_TABLE_M = 100.0
LOWEST_RATE_HZ = 10.0
HIGHEST_RATE_HZ = 1000.0


@dataclass(frozen=True)
class SessionConfig:
    """What to drive, with what, and how."""

    source: tyro.conf.Positional[str]
    """The ONNX file, or a recording of 'run', ending in .mcap. Space pauses a recording, s stops it."""
    driver: str = "sim"
    """The arm to drive: sim, dynamixel, or another installed driver."""
    port: str | None = None
    """The arm's serial port, such as /dev/ttyUSB0."""
    calibration: str | None = None
    """The arm's calibration file, as 'arm-control calibrate' writes it."""
    option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An option of the driver as NAME=VALUE; may be given several times."""
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

    def __post_init__(self) -> None:
        self._check_goals()
        self._check_motion()
        self._check_arm()
        parse_workspace(self.workspace)
        parse_pose(self.park)
        driver_options(self)

    def _check_goals(self) -> None:
        given = sum((bool(self.goal), self.goals_file is not None, self.random is not None))
        if self.of_recording and given:
            raise ValueError(
                f"{self.source} is a recording, which has its own goals: expected no --goal, --goals-file, --random"
            )
        if not self.of_recording and given != 1:
            got = "several" if given else "none"
            raise ValueError(f"expected goals by just one of --goal, --goals-file and --random, got {got}")
        if self.random is not None:
            check_count("random", self.random, MOST_RUN_GOALS)
        check_seed("seed", self.seed)
        if not 0 < self.seconds_per_goal <= 3600:
            raise ValueError(f"--seconds-per-goal: expected more than 0 and up to 3600, got {self.seconds_per_goal}")

    def _check_motion(self) -> None:
        if not 0.05 <= self.speed <= 1.0 or (self.speed != 1.0 and not self.of_recording):
            raise ValueError(f"--speed: expected 0.05 to 1, and a recording, got {self.speed} and {self.source}")
        if self.rate is not None and not LOWEST_RATE_HZ <= self.rate <= HIGHEST_RATE_HZ:
            raise ValueError(f"--rate: expected {LOWEST_RATE_HZ:g} to {HIGHEST_RATE_HZ:g} Hz, got {self.rate}")
        check_limit("max-speed", self.max_speed, SPEEDS_DEG_S)
        check_limit("max-acceleration", self.max_acceleration, ACCELERATIONS_DEG_S2)

    def _check_arm(self) -> None:
        if self.table is not None and not abs(self.table) <= HIGHEST_TABLE_M:
            raise ValueError(f"--table: expected a height in metres, up to {HIGHEST_TABLE_M:g}, got {self.table}")
        if self.record is not None and not self.record.endswith(".mcap"):
            raise ValueError(f"--record: expected a file ending in .mcap, got {self.record}")
        check_choice("driver", self.driver, available_drivers())

    def check_driver(self, driver_type: DriverType) -> None:
        """Raise ValueError for flags that are only for a simulated arm if the driver is of a real one."""
        if driver_type.simulated:
            return
        if self.pace != "realtime":
            raise ValueError(f"--pace: is for the simulated arm, not for --driver {self.driver}")
        if self.arm is not None:
            raise ValueError(f"--arm: is for the simulated arm, not for --driver {self.driver}")
        if self.of_recording and self.imperfections is not None:
            raise ValueError("--imperfections: a recording on a real arm expects nothing of it")

    @property
    def of_recording(self) -> bool:
        """Whether the source is a recording rather than a policy."""
        return self.source.endswith(".mcap")


def check_limit(flag: str, value: float | None, bounds: tuple[float, float]) -> None:
    """Raise ValueError for a limit, if there is one, that no joint may have."""
    least, most = bounds
    if value is not None and not least <= value <= most:
        raise ValueError(f"--{flag}: expected a positive number, from {least:g} to {most:g}, got {value}")


def parse_workspace(text: str | None) -> Box | None:
    """The box of --workspace; None without one. Raises ValueError for anything but six numbers."""
    if text is None:
        return None
    x, y, z, far_x, far_y, far_z = parse_numbers("workspace", text, "x,y,z,X,Y,Z in metres", 6)
    return x, y, z, far_x, far_y, far_z


def parse_pose(text: str | None) -> tuple[float, ...] | None:
    """The pose of --park in degrees; None without one. Raises ValueError for anything but numbers."""
    return None if text is None else parse_numbers("park", text, "an angle in degrees for each joint")


def driver_options(config: SessionConfig) -> dict[str, str]:
    """The options of the driver by name: --port, --calibration, and each --option. Raises ValueError for a bad one."""
    given = {"port": config.port, "calibration": config.calibration}
    options = {name: value for name, value in given.items() if value is not None}
    for text in config.option:
        name, _, value = text.partition("=")
        if not name or not value:
            raise ValueError(f"--option: expected NAME=VALUE, got '{text}'")
        options[name] = value
    return options
