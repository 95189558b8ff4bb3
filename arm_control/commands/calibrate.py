"""`arm-control calibrate`: a person moves each joint to two known angles, and the servos tell where that is."""

import select
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from arm_control.drivers.dynamixel.bus import Bus
from arm_control.drivers.dynamixel.calibration import (
    LAST_TICK,
    SCALE_TOLERANCE,
    TICKS_PER_DEGREE,
    Calibration,
    JointCalibration,
    clip_to_servo,
    load_calibration,
)
from arm_control.drivers.dynamixel.control_table import (
    BAUD_RATES,
    LARGEST_ID,
    MODEL_NUMBER,
    SPEED_UNIT_DEG_S,
    TICKS_PER_TURN,
)
from arm_control.drivers.dynamixel.driver import HEALTH, SETTINGS, WANTED, hardware_errors
from arm_control.drivers.dynamixel.port import serial_ports
from arm_control.process.console import say
from arm_control.process.printing import printable, printable_lines, unwrapped
from envs.arm import DEFAULT_URDF, Arm


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


REFERENCE_DEG = 90.0  # the second pose, if the joint goes so far
SAMPLES, SAMPLE_S = 5, 0.02
STILL_TICKS = 12  # about a degree
HORN_STEP_DEG = 15.0  # a horn fits onto the servo's teeth every so many degrees, or fewer
REFRESH_S = 0.1


@dataclass(frozen=True)
class Measured:
    """A calibrated joint, and what its two poses say of the scale: ticks per degree, and how far each is off."""

    joint: JointCalibration
    ticks_per_degree: float
    off_deg: float


def run(command: Calibrate) -> None:
    """Calibrate an arm, or stamp a file anew.

    Raises ValueError or DriverError, in one line, and KeyboardInterrupt; nothing is written then, and the torque of
    servos that were switched off stays off.
    """
    arm = Arm(command.arm or DEFAULT_URDF)
    if command.restamp is not None:
        calibration = load_calibration(command.restamp, hashed=False)
        calibration.check_arm(arm)
        calibration.save(command.restamp)
        print(f"{printable(command.restamp)}: its values are sound; hash {calibration.sha256[:12]}")
        return
    out = Path(command.out)
    if out.exists() and not command.overwrite:
        raise ValueError(f"{out} exists already: name another file (--out), or replace it (--overwrite)")
    if not out.parent.is_dir():
        raise ValueError(f"cannot write {out}: there is no folder {out.parent}")
    bus = Bus(command.port or _only_port(), command.baud)
    try:
        ids = _choose_ids(bus, arm, command.servo_ids)
        _prepare(bus, ids)
        measured = [_measure_joint(bus, arm, ids, index) for index in range(arm.joint_count)]
    except KeyboardInterrupt:
        say("")
        say("interrupted: nothing was written")
        raise
    finally:
        bus.close()
    calibration = Calibration(arm.name, tuple(one.joint for one in measured))
    calibration.check_arm(arm)
    calibration.save(out)
    print(format_calibration(measured))
    print(f"{printable(out)}: calibration {calibration.sha256[:12]}; torque is off")


def format_calibration(measured: Sequence[Measured]) -> str:
    """The joints as a table."""
    lines = ["joint         servo  zero tick  direction   ticks a degree      range (degrees, ticks)     poses off by"]
    for one in measured:
        joint = one.joint
        low, high = joint.tick_range
        lines.append(
            f"{joint.name:<13} {joint.servo_id:>5} {joint.zero_tick:>10.1f} {joint.direction:>+10d} "
            f"{one.ticks_per_degree:>9.3f} measured {joint.lower_deg:>7.1f} to {joint.upper_deg:.1f}, "
            f"{low} to {high} {one.off_deg:>8.2f} degrees"
        )
    lines.append(f"kept is the encoder's own scale, {TICKS_PER_DEGREE:.3f} ticks a degree")
    return printable_lines(lines)


def fit_joint(near: tuple[float, float], far: tuple[float, float]) -> tuple[float, int, float, float]:
    """Zero tick, direction, measured ticks per degree, and how far each pose is off in degrees.

    `near` and `far` are an angle in degrees and the tick there. The scale that is kept is the encoder's own, since a
    pose that is set by hand is worse; so the zero tick is where both poses are off alike. Raises ValueError for poses
    that no servo can have, saying why.
    """
    (near_deg, near_tick), (far_deg, far_tick) = near, far
    wanted = TICKS_PER_DEGREE * (far_deg - near_deg)
    turned = far_tick - near_tick
    direction = 1 if turned > 0 else -1
    if not _fits(turned, wanted):
        for around in (turned - TICKS_PER_TURN, turned + TICKS_PER_TURN):
            if _fits(around, wanted):
                raise WrapError(
                    f"between {near_deg:g} and {far_deg:g} degrees the servo passes its edge, from {near_tick:g} to "
                    f"{far_tick:g} ticks: take the horn off, turn it by about 180 degrees, mount it, and calibrate "
                    "again"
                )
        raise ValueError(
            f"the servo turned by {abs(turned) / TICKS_PER_DEGREE:.1f} degrees, wanted {far_deg - near_deg:g} within "
            f"{100 * SCALE_TOLERANCE:g} %"
        )
    zeros = [tick - direction * angle * TICKS_PER_DEGREE for angle, tick in (near, far)]
    off_deg = abs(zeros[0] - zeros[1]) / 2.0 / TICKS_PER_DEGREE
    return sum(zeros) / 2.0, direction, abs(turned) / (far_deg - near_deg), off_deg


class WrapError(ValueError):
    """A servo whose edge lies within the joint's range."""


def _fits(turned: float, wanted: float) -> bool:
    return abs(abs(turned) / wanted - 1.0) <= SCALE_TOLERANCE


def _only_port() -> str:
    ports = serial_ports()
    if len(ports) != 1:
        raise ValueError(f"wanted --port: the serial ports here are {', '.join(ports) or 'none at all'}")
    return ports[0]


def _choose_ids(bus: Bus, arm: Arm, wanted: Sequence[int] | None) -> list[int]:
    """The servos in the order of the joints. Raises ValueError unless each joint has one that is known and healthy."""
    print(f"looking for servos on {printable(bus.path)} ...", flush=True)
    found = bus.scan()
    there = ", ".join(f"{id} (model {model})" for id, model in found.items()) or "none"
    ids = list(found) if wanted is None else list(wanted)
    joints = ", ".join(arm.joint_names)
    if len(ids) != arm.joint_count or not set(ids) <= set(found):
        asked = "" if wanted is None else f", --ids names {', '.join(map(str, wanted))}"
        raise ValueError(
            f"wanted a servo for each of {joints}{asked}; answering at {bus.baud} baud: {there}"
            + ("; --ids 1,2,3 says which, in the order of the joints" if wanted is None and found else "")
        )
    for id in ids:
        if found[id] != MODEL_NUMBER:
            raise ValueError(f"servo {id} is of model {found[id]}, wanted {MODEL_NUMBER} (XL430-W250)")
    for name, id in zip(arm.joint_names, ids, strict=True):
        print(f"  {name}: servo {id}")
    return ids


def _prepare(bus: Bus, ids: Sequence[int]) -> None:
    """Torque off, once the person holds the arm; and the settings that the driver wants."""
    bus.enable_answers(ids)
    health = {id: bus.read(id, HEALTH) for id in ids}
    for id in ids:
        if status := health[id]["hardware_error_status"]:
            raise ValueError(
                f"servo {id} reports {', '.join(hardware_errors(status))}: find the cause, then switch its power off "
                "and on"
            )
    if any(health[id]["torque_enable"] for id in ids):
        _press_enter("The torque is on. Hold the arm, and press Enter to switch it off")
    for id in ids:
        bus.confirm(id, "bus_watchdog", 0)
        bus.confirm(id, "torque_enable", 0)
        settings = bus.read(id, SETTINGS)
        for name, value in WANTED.items():
            if settings[name] != value:
                bus.confirm(id, name, value)
                print(f"  servo {id}: {name.replace('_', ' ')} was {settings[name]}, is now {value}")


def _measure_joint(bus: Bus, arm: Arm, ids: Sequence[int], index: int) -> Measured:
    """Both poses of a joint, again until they fit. Raises ValueError for a servo that is mounted wrongly."""
    name, id = arm.joint_names[index], ids[index]
    low, high, speed, acceleration = arm.limits.by_joint[index]
    near_deg, far_deg = _reference_poses(low, high)
    while True:
        near = _measure_pose(bus, ids, f"Move {name} (servo {id}) to {near_deg:g} degrees and press Enter", id)
        far = _measure_pose(bus, ids, f"Move {name} (servo {id}) to {far_deg:g} degrees and press Enter", id)
        try:
            zero, direction, scale, off_deg = fit_joint((near_deg, near[id]), (far_deg, far[id]))
            break
        except WrapError as error:
            raise ValueError(f"{name} (servo {id}): {error}") from None
        except ValueError as error:
            turned = {other: abs(far[other] - near[other]) for other in ids}
            most = max(ids, key=lambda other: turned[other])
            instead = "" if most == id else f"; servo {most} turned more: are --ids in the order of the joints?"
            print(f"  {error}{instead}; once more")
    low, high = _measurable_range(f"{name} (servo {id})", low, high, zero, direction)
    settings = bus.read(id, SETTINGS)
    joint = JointCalibration(
        name=name,
        servo_id=id,
        model_number=MODEL_NUMBER,
        zero_tick=zero,
        direction=direction,
        ticks_per_degree=TICKS_PER_DEGREE,
        lower_deg=low,
        upper_deg=high,
        max_speed_deg_s=min(speed, settings["velocity_limit"] * SPEED_UNIT_DEG_S),
        max_acceleration_deg_s2=acceleration,
    )
    joint.check()
    first, last = joint.tick_range
    least, most = settings["min_position_limit"], settings["max_position_limit"]
    if first < least or last > most:
        raise ValueError(
            f"{name} (servo {id}) takes goals from {least} to {most} ticks, its range is {first} to {last}: widen its "
            "position limits with Dynamixel Wizard"
        )
    return Measured(joint, scale, off_deg)


def _measurable_range(
    title: str, lower_deg: float, upper_deg: float, zero_tick: float, direction: int
) -> tuple[float, float]:
    """The joint's range, clipped to the servo's single turn where mounting the horn better would not help."""
    middle_tick = zero_tick + direction * (lower_deg + upper_deg) / 2.0 * TICKS_PER_DEGREE
    off_deg = abs(middle_tick - LAST_TICK / 2.0) / TICKS_PER_DEGREE
    clipped = clip_to_servo(lower_deg, upper_deg, zero_tick, direction)
    if clipped == (lower_deg, upper_deg) or off_deg > HORN_STEP_DEG:
        return lower_deg, upper_deg
    print(
        f"  {title}: its range of {lower_deg:g} to {upper_deg:g} degrees is clipped to {clipped[0]:.2f} to "
        f"{clipped[1]:.2f}, which is what the servo can measure"
    )
    return clipped


def _reference_poses(low_deg: float, high_deg: float) -> tuple[float, float]:
    """Two angles that a person can set: 0 and 90 if the joint goes there, otherwise its limits."""
    near, far = min(max(0.0, low_deg), high_deg), min(REFERENCE_DEG, high_deg)
    return (near, far) if far - near >= REFERENCE_DEG / 3.0 else (low_deg, high_deg)


def _measure_pose(bus: Bus, ids: Sequence[int], text: str, id: int) -> dict[int, float]:
    """Where every servo is once the person has pressed Enter and `id` is still: ticks by id."""

    def show() -> str:
        """The servo's tick, for a person to see that it is the right one."""
        return f"{bus.read(id, ['present_position'])['present_position']:5d} ticks"

    while True:
        _press_enter(text, show)
        samples: dict[int, list[int]] = {other: [] for other in ids}
        for _ in range(SAMPLES):
            for other in ids:
                samples[other].append(bus.read(other, ["present_position"])["present_position"])
            time.sleep(SAMPLE_S)
        if max(samples[id]) - min(samples[id]) <= STILL_TICKS:
            return {other: statistics.median(ticks) for other, ticks in samples.items()}
        print("  it is still moving: hold it still; once more")


def _press_enter(text: str, show: Callable[[], str] | None = None) -> None:
    """Wait for an empty line, with what `show` says beside the text on a terminal.

    Raises ValueError if standard input ends.
    """
    live = show is not None and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    while True:
        if live and show is not None:
            while True:
                unwrapped(sys.stdout).write("\r")
                print(f"{text}  [{show()}] ", end="", flush=True)
                if select.select([sys.stdin], [], [], REFRESH_S)[0]:
                    break
        else:
            print(text, flush=True)
        line = "" if sys.stdin is None else sys.stdin.readline()
        if not line:
            raise ValueError("standard input ended before the arm was calibrated: nothing was written")
        if not line.strip():
            return
        print(f"  wanted Enter alone, got {line.strip()[:40]!r}; Ctrl-C gives up")
