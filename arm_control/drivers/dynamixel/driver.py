"""The driver of arms built of DYNAMIXEL servos: `--driver dynamixel --port PORT --calibration FILE`."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from arm_control.drivers.base import DriverError, JointState, TorqueLeftOnError
from arm_control.drivers.dynamixel.bus import ALERT, DEFAULT_BAUD, PATIENCE_S, Bus, NoReplyError
from arm_control.drivers.dynamixel.calibration import LAST_TICK, Calibration, JointCalibration, load_calibration
from arm_control.drivers.dynamixel.control_table import (
    LOAD_UNIT,
    SPEED_UNIT_DEG_S,
    VOLTAGE_UNIT_V,
    WATCHDOG_TRIPPED,
    WATCHDOG_UNIT_S,
)
from arm_control.drivers.dynamixel.port import USB_SERIAL
from arm_control.drivers.dynamixel.servo_checks import (
    HEALTH,
    check_hardware,
    check_servos,
    hardware_errors,
    servo_name,
)
from arm_control.drivers.dynamixel.state_reader import (
    RETRIES,
    RETRY_WITHIN_S,
    ServoState,
    StateReader,
    fastest_rate_hz,
    rate_hint,
)
from envs.arm import Arm

WATCHDOG_S = 0.2  # after which servos stop without communication
LARGEST_WATCHDOG = 127  # units of the register
GENTLE_DEG_S = 15.0  # speed limit of the servos while the torque goes on
SPEED_MARGIN = 1.1  # ratio of the servos' own speed limit to the arm's
ROUNDING_DEG = 1e-3  # by which a target may exceed its range


class DynamixelDriver:
    """An arm of DYNAMIXEL servos on one serial port.

    `firmware` is the version of each joint's servo. From `enable` to `disable`, the servos stop and hold by themselves
    after `watchdog_s` without communication.
    """

    def __init__(
        self,
        port: str,
        calibration: Calibration,
        *,
        baud: int = DEFAULT_BAUD,
        watchdog_s: float = WATCHDOG_S,
        retries: int = RETRIES,
        retry_within_s: float = RETRY_WITHIN_S,
        patience_s: float = PATIENCE_S,
        usb_serial: Path = USB_SERIAL,
    ) -> None:
        """Connect, and check that the servos are those of the calibration. Their torque does not change.

        A read is repeated up to `retries` times within `retry_within_s`. A reply times out after `patience_s` beside
        the time of its bytes. Raises DriverError, in one line, if the arm cannot be driven.
        """
        self._watchdog = round(watchdog_s / WATCHDOG_UNIT_S) if math.isfinite(watchdog_s) else 0
        if not 1 <= self._watchdog <= LARGEST_WATCHDOG:
            raise DriverError(f"watchdog: expected 0.02 to 2.54 s, in steps of 0.02, got {watchdog_s:g}")
        # What a control loop reads from its driver.
        calibration.check()
        self.calibration = calibration
        self.joint_names = calibration.joint_names
        self.limits = calibration.limits
        self.calibration_sha256: str | None = calibration.sha256
        self.fastest_rate_hz = fastest_rate_hz(baud, len(calibration.joints))
        self.rate_hint = rate_hint(baud, len(calibration.joints))
        self.firmware: dict[str, int] = {}
        # The state of the connection.
        self._joints = calibration.joints
        self._enabled = False
        self._checked = False  # whether the servos were checked since the port was opened
        self._fault: str | None = None  # why `write` raises until the next `enable`
        self._bus = Bus(port, baud, patience_s=patience_s, usb_serial=usb_serial)
        self._reader = StateReader(self._bus, self._joints, retries=retries, retry_within_s=retry_within_s)
        # Check the servos; the port is closed if they are not accepted.
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    @property
    def retried(self) -> int:
        """The number of reads that were repeated."""
        return self._reader.retried

    def enable(self) -> None:
        """Switch the torque on, holding the present pose, and start the servos' watchdogs.

        Also takes over an arm whose torque is on already, as after a crash. A port that was gone is opened again, and
        its servos are checked again. Raises DriverError after switching off what it has switched on; TorqueLeftOnError
        if that fails too, or if the torque was on before.
        """
        # Open a lost port again.
        if self._bus.is_gone:
            self._checked = False
            self._bus.reopen()
        if not self._checked:
            self._check()
        # Switch on; switch everything off again if one step fails.
        switched: list[JointCalibration] = []
        on_before: list[str] = []
        try:
            for joint in self._joints:
                self._hold_joint(joint, switched, on_before)
            self._limit_speeds()
            # Last, because from now on the servos stop without communication.
            for joint in self._joints:
                self._bus.confirm(joint.servo_id, "bus_watchdog", self._watchdog)
        except BaseException as error:
            left_on = on_before + self._switch_off(switched)
            if left_on and isinstance(error, DriverError):
                raise TorqueLeftOnError(f"{error}; the torque may be on: {', '.join(left_on)}") from error
            raise
        self._enabled = True
        self._fault = None

    def read(self) -> JointState:
        """Read angles, speeds, loads, voltages, temperatures and alarms of all servos.

        The stamp is the time before the read was sent, so no reading is older than its stamp. Raises DriverError if a
        servo does not reply, or is no longer as `enable` left it: stopped by its watchdog, or rebooted.
        """
        states, stamp_s = self._reader.read()
        # Alarms, and servos that have stopped or rebooted.
        alerts = self._alerts(states)
        if self._enabled:
            self._check_watchdogs(states, alerts)
        # Convert the registers to the joints' units.
        angles: list[float] = []
        speeds: list[float] = []
        loads: list[float] = []
        temperatures: list[float] = []
        voltages: list[float] = []
        for joint, state in zip(self._joints, states, strict=True):
            registers = state.registers
            angles.append(joint.degrees(registers["present_position"]))
            speeds.append(joint.direction * registers["present_velocity"] * SPEED_UNIT_DEG_S)
            loads.append(joint.direction * registers["present_load"] * LOAD_UNIT)
            temperatures.append(float(registers["present_temperature"]))
            voltages.append(registers["present_voltage"] * VOLTAGE_UNIT_V)
        return JointState(
            stamp_s,
            angles,
            speeds,
            temperatures_c=temperatures,
            loads=loads,
            voltages_v=voltages,
            alerts=tuple(alerts),
        )

    def write(self, target_deg: list[float]) -> None:
        """Send target angles, without acknowledgement; the next reading shows whether the servos still follow.

        Raises DriverError for targets outside the calibrated range, and for a fault that the last reading found.
        """
        if self._fault is not None:
            raise DriverError(self._fault)
        if len(target_deg) != len(self._joints):
            raise DriverError(f"expected {len(self._joints)} target angles, got {len(target_deg)}")
        goals = {}
        for joint, angle in zip(self._joints, target_deg, strict=True):
            # Also false for an angle that is not finite. Inside, a goal is 0 to 4095, whose bytes need no stuffing,
            # which the SDK leaves out.
            if not joint.lower_deg - ROUNDING_DEG <= angle <= joint.upper_deg + ROUNDING_DEG:
                raise DriverError(
                    f"{joint.name}: target {angle:g} degrees is outside its calibrated range of {joint.lower_deg:g} to "
                    f"{joint.upper_deg:g}: nothing was sent"
                )
            goals[joint.servo_id] = min(max(joint.ticks(angle), 0), LAST_TICK)
        self._bus.write_all("goal_position", goals)

    def disable(self) -> None:
        """Switch every servo's torque off, confirmed. Raises DriverError, after all were tried, for those still on."""
        self._enabled = False
        self._fault = None
        failed = []
        for joint in self._joints:
            with suppress(DriverError):  # the torque is more important
                self._bus.write(joint.servo_id, "bus_watchdog", 0)
            try:
                self._bus.confirm(joint.servo_id, "torque_enable", 0)
            except DriverError as error:
                failed.append(f"{joint.name} ({error})")
        if failed:
            raise DriverError(f"the torque may still be on: {', '.join(failed)}")

    def close(self) -> None:
        """Close the port. Torque and watchdogs do not change: an enabled arm stops and holds. Closing twice is fine."""
        self._bus.close()

    def _check(self) -> None:
        self.firmware = check_servos(self._bus, self._joints)
        self._checked = True

    # Enabling

    def _hold_joint(self, joint: JointCalibration, switched: list[JointCalibration], on_before: list[str]) -> None:
        """Switch a joint's torque on in its present pose; adds it to `switched`, or to `on_before` if it was on."""
        health = self._bus.read(joint.servo_id, HEALTH)
        torque_is_on = health["torque_enable"] == 1
        if torque_is_on:
            on_before.append(joint.name)
        check_hardware(joint, health["hardware_error_status"])
        if not torque_is_on:
            switched.append(joint)  # beforehand: the servo may switch on although its reply is lost
        self._hold_here(joint, torque_is_on=torque_is_on)

    def _hold_here(self, joint: JointCalibration, *, torque_is_on: bool) -> None:
        """Make the present position the goal, then switch the torque on."""
        id = joint.servo_id
        self._bus.confirm(id, "bus_watchdog", 0)  # a servo whose watchdog has tripped accepts no goals
        self._bus.confirm(id, "profile_acceleration", 0)
        # A joint that sinks between these lines returns slowly.
        self._bus.confirm(id, "profile_velocity", max(1, round(GENTLE_DEG_S / SPEED_UNIT_DEG_S)))
        here = self._bus.read(id, ["present_position"])["present_position"]
        if not 0 <= here <= LAST_TICK:
            raise DriverError(
                f"{servo_name(joint)} reads {here} ticks, expected 0 to {LAST_TICK}: it has turned past its edge; "
                "switch its power off and on"
            )
        self._bus.write(id, "goal_position", here)
        if torque_is_on:
            return
        self._bus.confirm(id, "torque_enable", 1)
        # Firmware versions differ in whether a goal that was written without torque is kept.
        self._bus.write(id, "goal_position", here)

    def _limit_speeds(self) -> None:
        """Set the servos' own speed limits, a second safeguard behind those of the runner.

        There is no acceleration limit, because the servo would restart its ramp at every target.
        """
        for joint, speed in zip(self._joints, self.limits.max_speed_deg_s, strict=True):
            limit = math.ceil(SPEED_MARGIN * speed / SPEED_UNIT_DEG_S)
            self._bus.confirm(joint.servo_id, "profile_velocity", limit)

    def _switch_off(self, joints: Sequence[JointCalibration]) -> list[str]:
        """Switch the torque of these joints off; returns the names of those that do not confirm it."""
        failed = []
        for joint in joints:
            try:
                self._bus.confirm(joint.servo_id, "torque_enable", 0)
            except DriverError:
                failed.append(joint.name)
        return failed

    # Reading

    def _alerts(self, states: Sequence[ServoState]) -> list[str]:
        """The alarms of the servos whose replies have the alert bit, such as "shoulder: overload"."""
        alerts = []
        for joint, state in zip(self._joints, states, strict=True):
            if not state.error & ALERT:
                continue
            try:
                status = self._bus.read(joint.servo_id, HEALTH, attempts=1)["hardware_error_status"]
            except NoReplyError:
                status = 0
            for error in hardware_errors(status) or ["hardware error"]:
                alerts.append(f"{joint.name}: {error}")
        return alerts

    def _check_watchdogs(self, states: Sequence[ServoState], alerts: Sequence[str]) -> None:
        """Raise DriverError, and keep the reason, unless the servos' watchdogs are as `enable` has set them."""
        changed: dict[int, list[str]] = {}
        for joint, state in zip(self._joints, states, strict=True):
            watchdog = state.registers["bus_watchdog"]
            if watchdog != self._watchdog:
                changed.setdefault(watchdog, []).append(servo_name(joint))
        if not changed:
            return
        faults = []
        for watchdog, names in sorted(changed.items(), reverse=True):
            faults.append(f"{', '.join(names)}: {self._watchdog_fault(watchdog)}")
        self._fault = "; ".join([*faults, *alerts])
        raise DriverError(self._fault)

    def _watchdog_fault(self, watchdog: int) -> str:
        """The cause of a watchdog register that differs from what `enable` has set."""
        if watchdog == WATCHDOG_TRIPPED:
            silence_ms = 1000 * self._watchdog * WATCHDOG_UNIT_S
            return (
                f"stopped by the bus watchdog after {silence_ms:.0f} ms without communication: holding until the arm "
                "is enabled again"
            )
        if watchdog == 0:
            return "rebooted, and without torque: did the power fail?"
        return f"bus watchdog {watchdog}, expected {self._watchdog}: is another program on the bus?"


def open_dynamixel(arm: Arm, options: Mapping[str, str]) -> DynamixelDriver:
    """Connect to an arm with the options port and calibration, and optionally baud and watchdog (in s).

    Raises ValueError for bad options and for a calibration of another arm, DriverError if the arm cannot be reached.
    """
    # Check the options before the port is opened.
    known = {"port", "calibration", "baud", "watchdog"}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"driver dynamixel: expected options {', '.join(sorted(known))}, got {', '.join(unknown)}")
    for name in ("port", "calibration"):
        if not options.get(name):
            raise ValueError(f"driver dynamixel: expected --{name}, got none")
    calibration = load_calibration(options["calibration"])
    calibration.check_arm(arm)
    baud = _number(options, "baud", DEFAULT_BAUD)
    if not baud.is_integer():
        raise ValueError(f"driver dynamixel: baud {options['baud']}; expected a whole number")
    driver = DynamixelDriver(
        options["port"],
        calibration,
        baud=int(baud),
        watchdog_s=_number(options, "watchdog", WATCHDOG_S),
    )
    driver.limits = calibration.limits.tightened(arm.limits)  # by no more than rounding
    return driver


def _number(options: Mapping[str, str], name: str, default: float) -> float:
    text = options.get(name, "")
    try:
        number = float(text) if text else float(default)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"driver dynamixel: expected a number for {name}, got {text!r}")
    return number
