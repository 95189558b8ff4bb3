"""The driver of arms that are built from Dynamixel servos: `--driver dynamixel --port PORT --calibration FILE`."""

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from arm_control.drivers.base import DriverError, JointState, TorqueLeftOnError, round_down
from arm_control.drivers.dynamixel.bus import ALERT, DEFAULT_BAUD, PATIENCE_S, Bus, NoAnswerError, values
from arm_control.drivers.dynamixel.calibration import LAST_TICK, Calibration, JointCalibration, load_calibration
from arm_control.drivers.dynamixel.control_table import (
    BAUD_RATES,
    HARDWARE_ERRORS,
    LOAD_UNIT,
    POSITION_MODE,
    REGISTERS,
    SPEED_UNIT_DEG_S,
    VOLTAGE_UNIT_V,
    WATCHDOG_TRIPPED,
    WATCHDOG_UNIT_S,
)
from arm_control.drivers.dynamixel.port import USB_SERIAL
from envs.arm import Arm

OLDEST_FIRMWARE = 38  # that has a bus watchdog (e-Manual, register 98)
WATCHDOG_S, LARGEST_WATCHDOG = 0.2, 127
RETRIES = 2
RETRY_WITHIN_S = 0.015
USB_S = 0.001  # that an adaptor adds to an answer, at best
GENTLE_DEG_S = 15.0  # while the torque goes on
SPEED_MARGIN = 1.1  # of the servo's own limit above the arm's
ROUNDING_DEG = 1e-3

# What a tick asks of every servo at once. The watchdog is in it: besides that it tripped, it tells a reboot (0 again).
STATE = {
    name: REGISTERS[name]
    for name in (
        "bus_watchdog",
        "present_load",
        "present_velocity",
        "present_position",
        "present_voltage",
        "present_temperature",
    )
}
# The same in different sizes. After an answer that did not come, the next question has another size: the late answer is
# then not taken for that to the new question. Starts are those of registers, and nothing from 148 on is wanted.
SHAPES = tuple((start, end - start) for start in (98, 90, 88, 84, 82, 80) for end in (147, 148))

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
# What a calibration relies on, and 'arm-control calibrate' sets.
WANTED = {"operating_mode": POSITION_MODE, "drive_mode": 0, "homing_offset": 0}


class DynamixelDriver:
    """An arm of Dynamixel servos on one serial port.

    `retried` counts the questions that were asked again, `firmware` is that of each joint's servo. From `enable` to
    `disable` the servos stop by themselves, and hold, once they have heard nothing for `watchdog_s`.
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
        """Connect, and see that the servos are those of the calibration. Their torque stays as it is.

        A reading is asked for again up to `retries` times, none later than `retry_within_s`; `patience_s` is how long
        an answer may take beside its bytes. Raises DriverError, in one line, for an arm that is not as it should be.
        """
        self._watchdog = round(watchdog_s / WATCHDOG_UNIT_S) if math.isfinite(watchdog_s) else 0
        if not 1 <= self._watchdog <= LARGEST_WATCHDOG:
            raise DriverError(f"watchdog: wanted 0.02 to 2.54 s, in steps of 0.02, got {watchdog_s:g}")
        calibration.check()
        self.calibration = calibration
        self.joint_names = calibration.joint_names
        self.limits = calibration.limits
        self.calibration_sha256: str | None = calibration.sha256
        self.retried = 0
        self.firmware: dict[str, int] = {}
        self._joints = calibration.joints
        self._ids = [joint.servo_id for joint in calibration.joints]
        self._retries, self._retry_within_s = retries, retry_within_s
        self._shape = 0
        self._enabled = self._greeted = False
        self._fault: str | None = None
        self.fastest_rate_hz = fastest_rate_hz(baud, len(self._ids))
        self.rate_hint = rate_hint(baud, len(self._ids))
        self._bus = Bus(port, baud, patience_s=patience_s, usb_serial=usb_serial)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def enable(self) -> None:
        """Switch the torque on with every joint staying where it is, and the servos' watchdogs with it.

        Also takes over an arm whose torque is on already, as after a crash. A port that was gone is opened again, and
        its servos are looked at as at first. Raises DriverError, and then switches off again what it has switched on;
        TorqueLeftOnError if that fails too, or if the torque was on before.
        """
        if self._bus.is_gone:
            self._greeted = False
            self._bus.reopen()
        if not self._greeted:
            self._greet()
        switched: list[JointCalibration] = []
        on_before: list[str] = []
        try:
            for joint in self._joints:
                health = self._bus.read(joint.servo_id, HEALTH)
                torque_is_on = health["torque_enable"] == 1
                if torque_is_on:
                    on_before.append(joint.name)
                self._check_hardware(joint, health["hardware_error_status"])
                if not torque_is_on:
                    switched.append(joint)  # before it is: a servo may obey although its answer gets lost
                self._hold_here(joint, torque_is_on=torque_is_on)
            for joint, speed in zip(self._joints, self.limits.max_speed_deg_s, strict=True):
                # A second wall behind the runner's limits. No acceleration: its ramp would begin anew at every target.
                limit = math.ceil(SPEED_MARGIN * speed / SPEED_UNIT_DEG_S)
                self._bus.confirm(joint.servo_id, "profile_velocity", limit)
            for joint in self._joints:  # last, since from now on silence counts
                self._bus.confirm(joint.servo_id, "bus_watchdog", self._watchdog)
        except BaseException as error:
            left_on = on_before + self._switched_off_but(switched)
            if left_on and isinstance(error, DriverError):
                raise TorqueLeftOnError(f"{error}; the torque may be on: {', '.join(left_on)}") from error
            raise
        self._enabled, self._fault = True, None

    def _switched_off_but(self, joints: list[JointCalibration]) -> list[str]:
        """Switch the torque of these joints off; returns the names of those that do not confirm it."""
        failed = []
        for joint in joints:
            try:
                self._bus.confirm(joint.servo_id, "torque_enable", 0)
            except DriverError:
                failed.append(joint.name)
        return failed

    def read(self) -> JointState:
        """Angles, speeds, loads, voltages and temperatures of all servos, and their alerts.

        The stamp is when the first question was sent, so that no reading is older than it says. Raises DriverError if
        a servo does not answer, or is no longer as `enable` left it: stopped by its watchdog, or rebooted.
        """
        answers, stamp_s = self._ask()
        read = [answers[joint.servo_id][0] for joint in self._joints]
        alerts = [text for joint in self._joints if answers[joint.servo_id][1] & ALERT for text in self._alerts(joint)]
        if self._enabled:
            self._check_watchdogs([its["bus_watchdog"] for its in read], alerts)
        pairs = list(zip(self._joints, read, strict=True))
        return JointState(
            stamp_s,
            [joint.degrees(its["present_position"]) for joint, its in pairs],
            [joint.direction * its["present_velocity"] * SPEED_UNIT_DEG_S for joint, its in pairs],
            temperatures_c=[float(its["present_temperature"]) for its in read],
            loads=[joint.direction * its["present_load"] * LOAD_UNIT for joint, its in pairs],
            voltages_v=[its["present_voltage"] * VOLTAGE_UNIT_V for its in read],
            alerts=tuple(alerts),
        )

    def write(self, target_deg: list[float]) -> None:
        """Send target angles, which no servo confirms; the next reading tells whether servos still obey.

        Raises DriverError for targets outside the calibrated range, which whoever limits them has let through, and for
        what the last reading found wrong.
        """
        if self._fault is not None:
            raise DriverError(self._fault)
        if len(target_deg) != len(self._joints):
            raise DriverError(f"wanted {len(self._joints)} target angles, got {len(target_deg)}")
        goals = {}
        for joint, angle in zip(self._joints, target_deg, strict=True):
            # Not finite: no comparison holds. Inside, a goal is 0 to 4095, whose bytes need no stuffing, which the SDK
            # leaves out.
            if not joint.lower_deg - ROUNDING_DEG <= angle <= joint.upper_deg + ROUNDING_DEG:
                raise DriverError(
                    f"{joint.name} was told to go to {angle:g} degrees, its calibration allows {joint.lower_deg:g} to "
                    f"{joint.upper_deg:g}: nothing was sent"
                )
            goals[joint.servo_id] = min(max(joint.ticks(angle), 0), LAST_TICK)
        self._bus.write_all("goal_position", goals)

    def disable(self) -> None:
        """Switch every servo's torque off, confirmed. Raises DriverError, after all were tried, for those still on."""
        self._enabled, self._fault = False, None
        failed = []
        for joint in self._joints:
            with suppress(DriverError):  # the torque matters more
                self._bus.write(joint.servo_id, "bus_watchdog", 0)
            try:
                self._bus.confirm(joint.servo_id, "torque_enable", 0)
            except DriverError as error:
                failed.append(f"{joint.name} ({error})")
        if failed:
            raise DriverError(f"the torque may still be on: {', '.join(failed)}")

    def close(self) -> None:
        """Let go of the port. Torque and watchdogs stay as they are: an enabled arm stops, and holds; twice is fine."""
        self._bus.close()

    # Connecting.

    def _greet(self) -> None:
        """Raise DriverError unless the servos are there, healthy and set as the calibration wants them."""
        models = {joint.servo_id: self._bus.ping(joint.servo_id) for joint in self._joints}
        if missing := [joint for joint in self._joints if models[joint.servo_id] is None]:
            there = ", ".join(f"{id} (model {model})" for id, model in self._bus.scan().items())
            raise DriverError(
                f"{', '.join(map(_name, missing))} did not answer on {self._bus.path} at {self._bus.baud} baud; "
                f"answering: {there or 'none'}; is it powered, and its id and baud rate right?"
            )
        for joint in self._joints:
            if models[joint.servo_id] != joint.model_number:
                raise DriverError(
                    f"{_name(joint)} is of model {models[joint.servo_id]}, the calibration is of {joint.model_number}: "
                    "calibrate again"
                )
        self._bus.enable_answers(self._ids)
        for joint in self._joints:
            self._check_settings(joint)
        self._greeted = True

    def _check_settings(self, joint: JointCalibration) -> None:
        id = joint.servo_id
        settings, health = self._bus.read(id, SETTINGS), self._bus.read(id, HEALTH)
        self._check_hardware(joint, health["hardware_error_status"])
        if settings["firmware"] < OLDEST_FIRMWARE:
            raise DriverError(
                f"{_name(joint)} has firmware {settings['firmware']}, wanted {OLDEST_FIRMWARE} or later, which stops "
                "when it hears nothing: update it with Dynamixel Wizard"
            )
        self.firmware[joint.name] = settings["firmware"]
        for name, wanted in WANTED.items():
            if settings[name] != wanted:
                raise DriverError(
                    f"{_name(joint)} has {name.replace('_', ' ')} {settings[name]}, wanted {wanted}: calibrate again"
                )
        low, high = joint.tick_range
        least, most = settings["min_position_limit"], settings["max_position_limit"]
        if low < least or high > most:
            raise DriverError(
                f"{_name(joint)} takes goals from {least} to {most} ticks, its calibrated range is {low} to {high}: "
                "widen its position limits with Dynamixel Wizard, or calibrate a smaller range"
            )
        if (fastest := settings["velocity_limit"] * SPEED_UNIT_DEG_S) < joint.max_speed_deg_s:
            raise DriverError(
                f"{_name(joint)} turns at most {fastest:.0f} degrees/s by its velocity limit, its calibration wants "
                f"{joint.max_speed_deg_s:.0f}: raise the one with Dynamixel Wizard, or lower the other"
            )
        # Kept without power, so once is enough; with the torque on it cannot be set, and costs half a millisecond.
        if settings["return_delay"] and not health["torque_enable"]:
            self._bus.confirm(id, "return_delay", 0)

    def _check_hardware(self, joint: JointCalibration, status: int) -> None:
        if status:
            raise DriverError(
                f"{_name(joint)} reports {', '.join(hardware_errors(status))}: find the cause, then switch its power "
                "off and on"
            )

    # Switching on.

    def _hold_here(self, joint: JointCalibration, *, torque_is_on: bool) -> None:
        """Make where the joint is its goal, torque on."""
        id = joint.servo_id
        self._bus.confirm(id, "bus_watchdog", 0)  # one that tripped takes no goals
        self._bus.confirm(id, "profile_acceleration", 0)
        # A joint that sinks between these lines comes back without a jump.
        self._bus.confirm(id, "profile_velocity", max(1, round(GENTLE_DEG_S / SPEED_UNIT_DEG_S)))
        here = self._bus.read(id, ["present_position"])["present_position"]
        if not 0 <= here <= LAST_TICK:
            raise DriverError(
                f"{_name(joint)} reads {here} ticks, wanted 0 to {LAST_TICK}: it has turned past its edge; switch its "
                "power off and on"
            )
        self._bus.write(id, "goal_position", here)
        if torque_is_on:
            return
        self._bus.confirm(id, "torque_enable", 1)
        # Servos differ in whether a goal that was written without torque counts.
        self._bus.write(id, "goal_position", here)

    # Reading.

    def _ask(self) -> tuple[dict[int, tuple[dict[str, int], int]], float]:
        """Registers and error byte of every servo by id, and when the first were asked. Raises DriverError."""
        begin_s = time.monotonic()
        answers: dict[int, tuple[dict[str, int], int]] = {}
        missing, asked = self._ids, 0
        while asked <= self._retries and (not asked or time.monotonic() - begin_s < self._retry_within_s):
            self.retried += asked > 0
            asked += 1
            start, size = SHAPES[self._shape]
            for id, (data, error) in self._bus.read_all(missing, start, size).items():
                if data:
                    answers[id] = values(data, start, STATE), error
            missing = [id for id in self._ids if id not in answers]
            if not missing:
                return answers, begin_s
            self._shape = (self._shape + 1) % len(SHAPES)
        silent = ", ".join(_name(joint) for joint in self._joints if joint.servo_id in missing)
        raise NoAnswerError(
            f"no answer from {silent} in {1000 * (time.monotonic() - begin_s):.0f} ms, questions asked: {asked}; "
            "a loose cable, or no power?"
        )

    def _check_watchdogs(self, read: list[int], alerts: list[str]) -> None:
        """Raise DriverError, and keep why, unless the servos' watchdogs are as `enable` has set them."""
        changed: dict[int, list[str]] = {}
        for joint, watchdog in zip(self._joints, read, strict=True):
            if watchdog != self._watchdog:
                changed.setdefault(watchdog, []).append(_name(joint))
        if not changed:
            return
        faults = []
        for watchdog, names in sorted(changed.items(), reverse=True):
            servos = ", ".join(names)
            if watchdog == WATCHDOG_TRIPPED:
                silence_ms = 1000 * self._watchdog * WATCHDOG_UNIT_S
                faults.append(
                    f"{servos}: stopped by the bus watchdog, having heard nothing for {silence_ms:.0f} ms: holding "
                    "until the arm is enabled again"
                )
            elif watchdog == 0:
                faults.append(f"{servos}: rebooted, and without torque: did the power fail?")
            else:
                faults.append(
                    f"{servos}: bus watchdog {watchdog}, wanted {self._watchdog}: is another program on the bus?"
                )
        self._fault = "; ".join([*faults, *alerts])
        raise DriverError(self._fault)

    def _alerts(self, joint: JointCalibration) -> list[str]:
        try:
            status = self._bus.read(joint.servo_id, HEALTH, attempts=1)["hardware_error_status"]
        except NoAnswerError:
            status = 0
        return [f"{joint.name}: {error}" for error in hardware_errors(status) or ["hardware error"]]


def hardware_errors(status: int) -> list[str]:
    """The names of the errors in a hardware error status."""
    return [HARDWARE_ERRORS.get(bit, f"error {bit}") for bit in range(8) if status & 1 << bit]


def fastest_rate_hz(baud: int, servos: int) -> float:
    """How often so many servos can be read and written to: their bytes, 10 bits each, and the adaptor's latency.

    Twice that latency, since it is that long at best.
    """
    question, answers, goals = 14 + servos, servos * (11 + SHAPES[0][1]), 14 + 5 * servos
    return 1.0 / ((question + answers + goals) * 10.0 / baud + 2.0 * USB_S)


def rate_hint(baud: int, servos: int) -> str:
    """The rates that higher baud rates allow, and how to set one; empty at the highest."""
    rates = [
        f"{round_down(fastest_rate_hz(faster, servos)):g} Hz at {faster} baud" for faster in BAUD_RATES if faster > baud
    ]
    if not rates:
        return ""
    return f"{', '.join(rates)}: set the servos' baud rate with Dynamixel Wizard, and --option baud=BAUD"


def open_dynamixel(arm: Arm, options: Mapping[str, str]) -> DynamixelDriver:
    """Connect to an arm with the options port, calibration, and perhaps baud and watchdog (in s).

    Raises ValueError for wrong options and for a calibration of another arm, DriverError for an arm that is not there.
    """
    known = {"port", "calibration", "baud", "watchdog"}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"driver dynamixel: wanted options {', '.join(sorted(known))}, got {', '.join(unknown)}")
    for name in ("port", "calibration"):
        if not options.get(name):
            raise ValueError(f"driver dynamixel: wanted --{name}, got none")
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
        raise ValueError(f"driver dynamixel: wanted a number for {name}, got {text!r}")
    return number


def _name(joint: JointCalibration) -> str:
    return f"servo {joint.servo_id} ({joint.name})"
