"""Measuring a calibration: each joint is moved by hand to two known angles, and its servo reads the ticks there.

In order: `choose_ids` assigns servos to joints, `prepare` switches their torque off and sets what the driver expects,
`measure_joint` measures one joint. Requests go to an `Operator`.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from arm_control.drivers.dynamixel.bus import Bus
from arm_control.drivers.dynamixel.calibration import (
    LAST_TICK,
    SCALE_TOLERANCE,
    TICKS_PER_DEGREE,
    JointCalibration,
    clip_to_servo,
)
from arm_control.drivers.dynamixel.control_table import MODEL_NUMBER, SPEED_UNIT_DEG_S, TICKS_PER_TURN
from arm_control.drivers.dynamixel.servo_checks import HEALTH, SETTINGS, WANTED, hardware_errors
from arm_control.process.printing import printable, printable_lines
from envs.arm import Arm

REFERENCE_DEG = 90.0  # the second pose, if the joint reaches it
SAMPLES = 5  # of each pose
SAMPLE_S = 0.02
STILL_TICKS = 12  # about a degree
HORN_STEP_DEG = 15.0  # a horn fits onto the servo's teeth in steps of at most this


class Operator(Protocol):
    """The person who moves the arm."""

    def show(self, text: str) -> None:
        """Show a line."""

    def confirm(self, text: str, measured: Callable[[], str] | None = None) -> None:
        """Show a request, perhaps with a live value, and wait until it is confirmed. Raises ValueError if it is not."""


class Fit(NamedTuple):
    """The line through two poses: zero tick, direction, measured scale, and how far each pose is from the line."""

    zero_tick: float
    direction: int
    ticks_per_degree: float
    off_deg: float


@dataclass(frozen=True)
class Measured:
    """A calibrated joint, the measured scale in ticks per degree, and how far each pose is off."""

    joint: JointCalibration
    ticks_per_degree: float
    off_deg: float


class WrapError(ValueError):
    """The edge of the servo's turn lies within the joint's range."""


def fit_joint(near: tuple[float, float], far: tuple[float, float]) -> Fit:
    """Fit a joint to two poses: an angle in degrees and the tick there.

    The calibration keeps the encoder's own scale, because a pose set by hand is less exact; with the zero tick, both
    poses are off by the same amount. Raises ValueError, with the reason, for poses that no servo can have.
    """
    near_deg, near_tick = near
    far_deg, far_tick = far
    expected = TICKS_PER_DEGREE * (far_deg - near_deg)
    turned = far_tick - near_tick
    direction = 1 if turned > 0 else -1
    if not _fits(turned, expected):
        if _fits(turned - TICKS_PER_TURN, expected) or _fits(turned + TICKS_PER_TURN, expected):
            raise WrapError(
                f"between {near_deg:g} and {far_deg:g} degrees the servo passes its edge, from {near_tick:g} to "
                f"{far_tick:g} ticks: take the horn off, turn it by about 180 degrees, mount it, and calibrate again"
            )
        raise ValueError(
            f"the servo turned by {abs(turned) / TICKS_PER_DEGREE:.1f} degrees, expected {far_deg - near_deg:g} within "
            f"{100 * SCALE_TOLERANCE:g} %"
        )
    # tick = zero + direction * angle * scale, at each pose
    near_zero = near_tick - direction * near_deg * TICKS_PER_DEGREE
    far_zero = far_tick - direction * far_deg * TICKS_PER_DEGREE
    return Fit(
        zero_tick=(near_zero + far_zero) / 2.0,
        direction=direction,
        ticks_per_degree=abs(turned) / (far_deg - near_deg),
        off_deg=abs(near_zero - far_zero) / 2.0 / TICKS_PER_DEGREE,
    )


def choose_ids(bus: Bus, arm: Arm, wanted: Sequence[int] | None, operator: Operator) -> list[int]:
    """Search for servos and assign one to each joint: those of `wanted` in that order, or all in ascending order.

    Raises ValueError unless each joint has a servo of the known model.
    """
    # Search the bus.
    operator.show(f"looking for servos on {printable(bus.path)} ...")
    found = bus.scan()
    ids = list(found) if wanted is None else list(wanted)
    if len(ids) != arm.joint_count or not set(ids) <= set(found):
        replying = ", ".join(f"{id} (model {model})" for id, model in found.items()) or "none"
        named = "" if wanted is None else f", --ids names {', '.join(map(str, wanted))}"
        hint = "; --ids 1,2,3 assigns them, in the order of the joints" if wanted is None and found else ""
        raise ValueError(
            f"expected a servo for each of {', '.join(arm.joint_names)}{named}; replying at {bus.baud} baud: "
            f"{replying}{hint}"
        )
    for id in ids:
        if found[id] != MODEL_NUMBER:
            raise ValueError(f"servo {id} is of model {found[id]}; expected {MODEL_NUMBER} (XL430-W250)")
    for name, id in zip(arm.joint_names, ids, strict=True):
        operator.show(f"  {name}: servo {id}")
    return ids


def prepare(bus: Bus, ids: Sequence[int], operator: Operator) -> None:
    """Switch the torque off, once the arm is held, and set what the driver expects. Raises ValueError for alarms."""
    bus.enable_replies(ids)
    health = {id: bus.read(id, HEALTH) for id in ids}
    for id in ids:
        status = health[id]["hardware_error_status"]
        if status:
            raise ValueError(
                f"servo {id} reports {', '.join(hardware_errors(status))}: find the cause, then switch its power off "
                "and on"
            )
    if any(health[id]["torque_enable"] for id in ids):
        operator.confirm("The torque is on. Hold the arm, and press Enter to switch it off")
    for id in ids:
        bus.confirm(id, "bus_watchdog", 0)
        bus.confirm(id, "torque_enable", 0)
        settings = bus.read(id, SETTINGS)
        for name, value in WANTED.items():
            if settings[name] != value:
                bus.confirm(id, name, value)
                operator.show(f"  servo {id}: {name.replace('_', ' ')} was {settings[name]}, is now {value}")


def measure_joint(bus: Bus, arm: Arm, ids: Sequence[int], index: int, operator: Operator) -> Measured:
    """Measure a joint of the arm, repeatedly until its two poses fit.

    Raises ValueError for a servo that is mounted wrongly, or whose own limits are too narrow.
    """
    name = arm.joint_names[index]
    id = ids[index]
    low_deg, high_deg, speed, acceleration = arm.limits.by_joint[index]
    fit = _fit_poses(bus, name, ids, id, _reference_poses(low_deg, high_deg), operator)
    low_deg, high_deg = _measurable_range(f"{name} (servo {id})", low_deg, high_deg, fit, operator)
    # The servo's own limits restrict speed, and must contain the joint's range.
    settings = bus.read(id, SETTINGS)
    joint = JointCalibration(
        name=name,
        servo_id=id,
        model_number=MODEL_NUMBER,
        zero_tick=fit.zero_tick,
        direction=fit.direction,
        ticks_per_degree=TICKS_PER_DEGREE,
        lower_deg=low_deg,
        upper_deg=high_deg,
        max_speed_deg_s=min(speed, settings["velocity_limit"] * SPEED_UNIT_DEG_S),
        max_acceleration_deg_s2=acceleration,
    )
    joint.check()
    first, last = joint.tick_range
    least = settings["min_position_limit"]
    most = settings["max_position_limit"]
    if first < least or last > most:
        raise ValueError(
            f"{name} (servo {id}) takes goals from {least} to {most} ticks, its range is {first} to {last}: widen its "
            "position limits with Dynamixel Wizard"
        )
    return Measured(joint, fit.ticks_per_degree, fit.off_deg)


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
    lines.append(f"the file has the encoder's own scale, {TICKS_PER_DEGREE:.3f} ticks a degree")
    return printable_lines(lines)


def _fits(turned: float, expected: float) -> bool:
    return abs(abs(turned) / expected - 1.0) <= SCALE_TOLERANCE


def _fit_poses(
    bus: Bus, name: str, ids: Sequence[int], id: int, angles_deg: tuple[float, float], operator: Operator
) -> Fit:
    """Ask for both poses until they fit. Raises ValueError if the edge of the servo's turn lies between them."""
    near_deg, far_deg = angles_deg
    request = f"Move {name} (servo {id}) to"
    while True:
        near = _measure_pose(bus, ids, f"{request} {near_deg:g} degrees and press Enter", id, operator)
        far = _measure_pose(bus, ids, f"{request} {far_deg:g} degrees and press Enter", id, operator)
        try:
            return fit_joint((near_deg, near[id]), (far_deg, far[id]))
        except WrapError as error:
            raise ValueError(f"{name} (servo {id}): {error}") from None
        except ValueError as error:
            # Was another servo moved instead?
            turned = {other: abs(far[other] - near[other]) for other in ids}
            most = max(ids, key=lambda other: turned[other])
            hint = "" if most == id else f"; servo {most} turned more: are --ids in the order of the joints?"
            operator.show(f"  {error}{hint}; once more")


def _measure_pose(bus: Bus, ids: Sequence[int], request: str, id: int, operator: Operator) -> dict[int, float]:
    """The ticks of every servo, by id, once the request is confirmed and servo `id` is still."""

    def present_ticks() -> str:
        """The servo's reading, which shows whether it is the right one."""
        return f"{bus.read(id, ['present_position'])['present_position']:5d} ticks"

    while True:
        operator.confirm(request, present_ticks)
        samples: dict[int, list[int]] = {other: [] for other in ids}
        for _ in range(SAMPLES):
            for other in ids:
                samples[other].append(bus.read(other, ["present_position"])["present_position"])
            time.sleep(SAMPLE_S)
        if max(samples[id]) - min(samples[id]) <= STILL_TICKS:
            return {other: statistics.median(ticks) for other, ticks in samples.items()}
        operator.show("  it is still moving: hold it still; once more")


def _reference_poses(low_deg: float, high_deg: float) -> tuple[float, float]:
    """Two angles that are easy to set by hand: 0 and 90 degrees if the joint reaches them, otherwise its limits."""
    near_deg = min(max(0.0, low_deg), high_deg)
    far_deg = min(REFERENCE_DEG, high_deg)
    if far_deg - near_deg < REFERENCE_DEG / 3.0:
        return low_deg, high_deg
    return near_deg, far_deg


def _measurable_range(
    title: str, lower_deg: float, upper_deg: float, fit: Fit, operator: Operator
) -> tuple[float, float]:
    """The joint's range, clipped to the servo's single turn where mounting the horn better would not help."""
    middle_deg = (lower_deg + upper_deg) / 2.0
    middle_tick = fit.zero_tick + fit.direction * middle_deg * TICKS_PER_DEGREE
    off_deg = abs(middle_tick - LAST_TICK / 2.0) / TICKS_PER_DEGREE
    clipped = clip_to_servo(lower_deg, upper_deg, fit.zero_tick, fit.direction)
    if clipped == (lower_deg, upper_deg) or off_deg > HORN_STEP_DEG:
        return lower_deg, upper_deg
    operator.show(
        f"  {title}: its range of {lower_deg:g} to {upper_deg:g} degrees is clipped to {clipped[0]:.2f} to "
        f"{clipped[1]:.2f}, which is what the servo can measure"
    )
    return clipped
