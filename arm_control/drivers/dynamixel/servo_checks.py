"""Checks of the servos before an arm is driven: present, without alarms, and set as the calibration expects."""

from collections.abc import Mapping, Sequence

from arm_control.drivers.base import DriverError
from arm_control.drivers.dynamixel.bus import Bus
from arm_control.drivers.dynamixel.calibration import JointCalibration
from arm_control.drivers.dynamixel.control_table import HARDWARE_ERRORS, POSITION_MODE, SPEED_UNIT_DEG_S

OLDEST_FIRMWARE = 38  # with a bus watchdog (e-Manual, register 98)

SETTINGS = (
    "firmware",
    "return_delay",
    "drive_mode",
    "operating_mode",
    "homing_offset",
    "velocity_limit",
    "max_position_limit",
    "min_position_limit",
)
HEALTH = ("torque_enable", "hardware_error_status", "bus_watchdog")
# Settings that a calibration depends on; 'arm-control calibrate' writes them.
WANTED = {"operating_mode": POSITION_MODE, "drive_mode": 0, "homing_offset": 0}


def check_servos(bus: Bus, joints: Sequence[JointCalibration]) -> dict[str, int]:
    """Check the servos of an arm; returns the firmware version of each by joint name.

    Raises DriverError for servos that do not reply, or differ from the calibration.
    """
    # Every servo replies, and is of the calibrated model.
    models = {joint.servo_id: bus.ping(joint.servo_id) for joint in joints}
    missing = [joint for joint in joints if models[joint.servo_id] is None]
    if missing:
        replying = ", ".join(f"{id} (model {model})" for id, model in bus.scan().items())
        raise DriverError(
            f"{', '.join(map(servo_name, missing))} did not reply on {bus.path} at {bus.baud} baud; "
            f"replying: {replying or 'none'}; is it powered, and its id and baud rate right?"
        )
    for joint in joints:
        if models[joint.servo_id] != joint.model_number:
            raise DriverError(
                f"{servo_name(joint)} is of model {models[joint.servo_id]}, the calibration is of "
                f"{joint.model_number}: calibrate again"
            )
    # Its registers can be read once it acknowledges every instruction.
    bus.enable_replies([joint.servo_id for joint in joints])
    firmware = {}
    for joint in joints:
        firmware[joint.name] = _check_servo(bus, joint)
    return firmware


def check_hardware(joint: JointCalibration, status: int) -> None:
    """Raise DriverError if a servo's hardware error status is not zero."""
    if status:
        raise DriverError(
            f"{servo_name(joint)} reports {', '.join(hardware_errors(status))}: find the cause, then switch its power "
            "off and on"
        )


def hardware_errors(status: int) -> list[str]:
    """The names of the errors in a hardware error status."""
    return [HARDWARE_ERRORS.get(bit, f"error {bit}") for bit in range(8) if status & 1 << bit]


def servo_name(joint: JointCalibration) -> str:
    """A joint's servo in messages, such as "servo 2 (shoulder)"."""
    return f"servo {joint.servo_id} ({joint.name})"


def _check_servo(bus: Bus, joint: JointCalibration) -> int:
    """Check one servo; returns its firmware version."""
    settings = bus.read(joint.servo_id, SETTINGS)
    health = bus.read(joint.servo_id, HEALTH)
    check_hardware(joint, health["hardware_error_status"])
    if settings["firmware"] < OLDEST_FIRMWARE:
        raise DriverError(
            f"{servo_name(joint)} has firmware {settings['firmware']}; expected {OLDEST_FIRMWARE} or later, which has "
            "a bus watchdog: update it with Dynamixel Wizard"
        )
    for name, expected in WANTED.items():
        if settings[name] != expected:
            raise DriverError(
                f"{servo_name(joint)} has {name.replace('_', ' ')} {settings[name]}; expected {expected}: "
                "calibrate again"
            )
    _check_limits(joint, settings)
    # Stored without power, so once is enough. It delays each reply by 0.5 ms, and cannot be set with the torque on.
    if settings["return_delay"] and not health["torque_enable"]:
        bus.confirm(joint.servo_id, "return_delay", 0)
    return settings["firmware"]


def _check_limits(joint: JointCalibration, settings: Mapping[str, int]) -> None:
    """Raise DriverError if a servo's own limits are tighter than those of the calibration."""
    low, high = joint.tick_range
    least = settings["min_position_limit"]
    most = settings["max_position_limit"]
    if low < least or high > most:
        raise DriverError(
            f"{servo_name(joint)} takes goals from {least} to {most} ticks, its calibrated range is {low} to {high}: "
            "widen its position limits with Dynamixel Wizard, or calibrate a smaller range"
        )
    fastest_deg_s = settings["velocity_limit"] * SPEED_UNIT_DEG_S
    if fastest_deg_s < joint.max_speed_deg_s:
        raise DriverError(
            f"{servo_name(joint)} turns at most {fastest_deg_s:.0f} degrees/s by its velocity limit, less than the "
            f"{joint.max_speed_deg_s:.0f} of the calibration: raise the one with Dynamixel Wizard, or lower the other"
        )
