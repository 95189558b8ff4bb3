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

MOST_RUN_GOALS = 100_000  # at 2 s each, more than two days
HIGHEST_TABLE_M = 100.0
LOWEST_RATE_HZ = 10.0
HIGHEST_RATE_HZ = 1000.0


@dataclass(frozen=True)
class SessionConfig:
    """Settings of a run on an arm."""

    source: tyro.conf.Positional[str]
    """Policy file (ONNX), or a recording (ending in .mcap) to replay; during a replay, space pauses and s stops."""
    driver: str = "sim"
    """Driver of the arm: sim, dynamixel, or another installed one."""
    port: str | None = None
    """Serial port of the arm, such as /dev/ttyUSB0."""
    calibration: str | None = None
    """Calibration file of the arm, written by 'arm-control calibrate'."""
    option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Option of the driver as NAME=VALUE; may be given several times."""
    goal: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Goal x,y,z in metres in the base frame; may be given several times."""
    goals_file: str | None = None
    """File with one goal x,y,z per line; - for standard input."""
    random: int | None = None
    """Number of random goals above the table; of random paths, for a policy that follows moving goals."""
    seed: int = 0
    """Seed of --random."""
    seconds_per_goal: float = 2.0
    """Time for each goal in s; before the first one, there is a soft start of 2 s."""
    speed: float = 1.0
    """Speed of a replay as a fraction of the recorded one, 0.05 to 1."""
    rate: float | None = None
    """Control rate in Hz, from the policy's rate (the default) up to 1000 Hz or the limit of the arm's bus. The policy
    runs at its own rate, and its targets are interpolated."""
    max_speed: float | None = None
    """Speed limit of all joints in degrees/s; applies where it is lower than the arm's own limit."""
    max_acceleration: float | None = None
    """Acceleration limit of all joints in degrees/s^2; applies where it is lower than the arm's own limit."""
    workspace: str | None = None
    """Box x,y,z,X,Y,Z in metres (lowest, then highest corner) that no link end may leave."""
    table: float | None = None
    """Height of the table in metres, below which no link end may move (default: 0; none for a simulated arm)."""
    park: str | None = None
    """Parking pose, an angle in degrees for each joint, in which the torque is switched off (default: all joints at 0,
    or the nearest pose found within limits and workspace)."""
    shadow: bool = False
    """Dry run: read, infer and check, but send nothing to the arm."""
    record: str | None = None
    """File, ending in .mcap, to which every tick is recorded."""
    pace: Literal["realtime", "fast"] = "realtime"
    """Run in real time, or as fast as possible (simulated arm only)."""
    imperfections: OptionalImperfectionsFlag = None
    """Dynamics of a simulated arm (default: ideal), or those expected of a real one (default: the measured ones that
    the policy was trained with, else xl430, an estimate): a preset, or a file written by 'identify --json'. Delay and
    lag are used at a --rate above the policy's."""
    arm: str | None = None
    """URDF file of the simulated arm, for a policy that was trained on another arm than the default one."""

    def __post_init__(self) -> None:
        self._check_goals()
        self._check_motion()
        self._check_arm()
        parse_workspace(self.workspace)
        parse_pose(self.park)
        driver_options(self)

    def _check_goals(self) -> None:
        given = sum((bool(self.goal), self.goals_file is not None, self.random is not None))
        # A policy needs goals from exactly one source, a recording has its own.
        if self.of_recording and given:
            raise ValueError(
                f"{self.source} is a recording, which has its own goals: expected no --goal, --goals-file, --random"
            )
        if not self.of_recording and given != 1:
            got = "several" if given else "none"
            raise ValueError(f"expected exactly one of --goal, --goals-file and --random, got {got}")
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
        """Raise ValueError for flags of a simulated arm if the driver is of a real one."""
        if driver_type.simulated:
            return
        if self.pace != "realtime":
            raise ValueError(f"--pace: applies to the simulated arm only, not to --driver {self.driver}")
        if self.arm is not None:
            raise ValueError(f"--arm: applies to the simulated arm only, not to --driver {self.driver}")
        if self.of_recording and self.imperfections is not None:
            raise ValueError("--imperfections: has no effect on a recording on a real arm")

    @property
    def of_recording(self) -> bool:
        """True if the source is a recording, False if it is a policy."""
        return self.source.endswith(".mcap")


def check_limit(flag: str, value: float | None, bounds: tuple[float, float]) -> None:
    """Raise ValueError for a limit out of range; None is no limit."""
    lowest, highest = bounds
    if value is not None and not lowest <= value <= highest:
        raise ValueError(f"--{flag}: expected a positive number, from {lowest:g} to {highest:g}, got {value}")


def parse_workspace(text: str | None) -> Box | None:
    """The box of --workspace; None without one. Raises ValueError for a text that is not six numbers."""
    if text is None:
        return None
    x, y, z, far_x, far_y, far_z = parse_numbers("workspace", text, "x,y,z,X,Y,Z in metres", 6)
    return x, y, z, far_x, far_y, far_z


def parse_pose(text: str | None) -> tuple[float, ...] | None:
    """The pose of --park in degrees; None without one. Raises ValueError for a text that is not numbers."""
    return None if text is None else parse_numbers("park", text, "an angle in degrees for each joint")


def driver_options(config: SessionConfig) -> dict[str, str]:
    """The options of the driver by name: --port, --calibration, and each --option. Raises ValueError for a bad one."""
    # The flags that every driver may have, then its own options.
    given = {"port": config.port, "calibration": config.calibration}
    options = {name: value for name, value in given.items() if value is not None}
    for text in config.option:
        name, _, value = text.partition("=")
        if not name or not value:
            raise ValueError(f"--option: expected NAME=VALUE, got '{text}'")
        options[name] = value
    return options
