"""`arm-control calibrate`: measure the relation of servo ticks to joint angles while the arm is moved by hand."""

from dataclasses import dataclass
from pathlib import Path

from arm_control.drivers.dynamixel.bus import Bus
from arm_control.drivers.dynamixel.calibration import Calibration, load_calibration
from arm_control.drivers.dynamixel.control_table import BAUD_RATES, LARGEST_ID
from arm_control.drivers.dynamixel.measuring import choose_ids, format_calibration, measure_joint, prepare
from arm_control.drivers.dynamixel.port import only_port
from arm_control.drivers.dynamixel.terminal_operator import TerminalOperator
from arm_control.process.console import say
from arm_control.process.printing import printable
from envs.arm import DEFAULT_URDF, Arm


@dataclass(frozen=True)
class Calibrate:
    """Measure zero, direction and range of each servo while the arm is moved by hand, and write them into a file.

    The torque is switched off first. The file is written once all joints are measured.
    """

    port: str | None = None
    """Serial port of the arm, such as /dev/ttyUSB0 (default: the only serial port)."""
    out: str = "calibration.json"
    """File to write."""
    overwrite: bool = False
    """Replace an existing file."""
    arm: str | None = None
    """URDF file of the arm (default: the default arm)."""
    ids: str | None = None
    """Servo ids in the order of the joints, such as 1,2,3 (default: all that reply, in ascending order)."""
    baud: int = 1_000_000
    """Baud rate of the bus."""
    restamp: str | None = None
    """Calibration file that was edited by hand: check it and update its hash, without measuring anything."""

    def __post_init__(self) -> None:
        if self.ids is not None:
            _parse_ids(self.ids)
        if self.baud not in BAUD_RATES:
            raise ValueError(f"--baud: expected one of {', '.join(map(str, BAUD_RATES))}, got {self.baud}")
        if self.restamp is not None and (self.port is not None or self.ids is not None):
            raise ValueError("--restamp needs no arm: expected neither --port nor --ids")

    @property
    def servo_ids(self) -> tuple[int, ...] | None:
        """The ids as numbers; None if not given."""
        return None if self.ids is None else _parse_ids(self.ids)


def _parse_ids(text: str) -> tuple[int, ...]:
    try:
        ids = tuple(int(word) for word in text.split(","))
    except ValueError:
        ids = ()
    if not ids or len(set(ids)) != len(ids) or not all(0 <= id <= LARGEST_ID for id in ids):
        raise ValueError(f"--ids: expected different servo ids from 0 to {LARGEST_ID}, such as 1,2,3, got '{text}'")
    return ids


def run(command: Calibrate) -> None:
    """Calibrate an arm, or write a new hash into a calibration.

    Raises ValueError, DriverError or KeyboardInterrupt. In these cases nothing is written, and servos that were
    switched off stay off.
    """
    arm = Arm(command.arm or DEFAULT_URDF)
    if command.restamp is not None:
        restamp(command.restamp, arm)
        return
    out = Path(command.out)
    if out.exists() and not command.overwrite:
        raise ValueError(f"{out} exists already: choose another file with --out, or replace it with --overwrite")
    if not out.parent.is_dir():
        raise ValueError(f"cannot write {out}: there is no folder {out.parent}")
    # Measure all joints, one after the other.
    operator = TerminalOperator()
    bus = Bus(command.port or only_port(), command.baud)
    try:
        ids = choose_ids(bus, arm, command.servo_ids, operator)
        prepare(bus, ids, operator)
        measured = []
        for index in range(arm.joint_count):
            measured.append(measure_joint(bus, arm, ids, index, operator))
    except KeyboardInterrupt:
        say("")
        say("interrupted: nothing was written")
        raise
    finally:
        bus.close()
    # Check the calibration against the arm, then write it.
    calibration = Calibration(arm.name, tuple(one.joint for one in measured))
    calibration.check_arm(arm)
    calibration.save(out)
    print(format_calibration(measured))
    print(f"{printable(out)}: calibration {calibration.sha256[:12]}; the torque is off")


def restamp(path: str, arm: Arm) -> None:
    """Check a calibration that was edited by hand, and update its hash."""
    calibration = load_calibration(path, hashed=False)
    calibration.check_arm(arm)
    calibration.save(path)
    print(f"{printable(path)}: valid; new hash {calibration.sha256[:12]}")
