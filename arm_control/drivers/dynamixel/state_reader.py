"""Reading the state of all servos in a control loop: sync reads, repeated for missing replies, and their rate."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from arm_control.drivers.base import round_down
from arm_control.drivers.dynamixel.bus import Bus, NoReplyError, values
from arm_control.drivers.dynamixel.calibration import JointCalibration
from arm_control.drivers.dynamixel.control_table import BAUD_RATES, REGISTERS
from arm_control.drivers.dynamixel.servo_checks import servo_name

USB_S = 0.001  # shortest latency that an adaptor adds to a reply
RETRIES = 2  # of a read with missing replies
RETRY_WITHIN_S = 0.015  # no retry begins later than this

# The registers of the state. The watchdog shows whether it has stopped the servo, and also a reboot (0 again).
STATE_NAMES = (
    "bus_watchdog",
    "present_load",
    "present_velocity",
    "present_position",
    "present_voltage",
    "present_temperature",
)
STATE = {name: REGISTERS[name] for name in STATE_NAMES}
# Address and size of reads that contain the state. After a missing reply the next read has another size, so that a late
# reply is not taken for a reply to the new read. Each starts at a register and ends before address 148.
SHAPES = tuple((start, end - start) for start in (98, 90, 88, 84, 82, 80) for end in (147, 148))


@dataclass(frozen=True, slots=True)
class ServoState:
    """The registers of one servo by name, and the error byte of its reply."""

    registers: dict[str, int]
    error: int


class StateReader:
    """Reads the state of all servos; `retried` counts the reads that were repeated."""

    def __init__(self, bus: Bus, joints: Sequence[JointCalibration], *, retries: int, retry_within_s: float) -> None:
        """A read is repeated up to `retries` times, and not after `retry_within_s`."""
        self.retried = 0
        self._bus = bus
        self._joints = joints
        self._ids = [joint.servo_id for joint in joints]
        self._retries = retries
        self._retry_within_s = retry_within_s
        self._shape = 0  # which of SHAPES is next

    def read(self) -> tuple[list[ServoState], float]:
        """The states in the order of the joints, and when the first read was sent. Raises NoReplyError."""
        # Read the missing servos again until there are no retries left.
        begin_s = time.monotonic()
        states: dict[int, ServoState] = {}
        missing = self._ids
        attempts = 0
        while attempts == 0 or (attempts <= self._retries and time.monotonic() - begin_s < self._retry_within_s):
            self.retried += attempts > 0
            attempts += 1
            start, size = SHAPES[self._shape]
            for id, (data, error) in self._bus.read_all(missing, start, size).items():
                if data:
                    states[id] = ServoState(values(data, start, STATE), error)
            missing = [id for id in self._ids if id not in states]
            if not missing:
                return [states[id] for id in self._ids], begin_s
            self._shape = (self._shape + 1) % len(SHAPES)
        # Some servos did not reply.
        silent = ", ".join(servo_name(joint) for joint in self._joints if joint.servo_id in missing)
        raise NoReplyError(
            f"no reply from {silent} in {1000 * (time.monotonic() - begin_s):.0f} ms, reads sent: {attempts}; "
            "a loose cable, or no power?"
        )


def fastest_rate_hz(baud: int, servos: int) -> float:
    """The highest rate at which so many servos can be read and written to.

    With n servos, a period has the bytes of the sync read (14 + n), of the replies (n times 11 and the data) and of the
    sync write (14 + 5 n), 10 bits each, and twice the shortest latency of the adaptor, which is often exceeded.
    """
    read_bytes = 14 + servos
    reply_bytes = servos * (11 + SHAPES[0][1])
    write_bytes = 14 + 5 * servos
    return 1.0 / ((read_bytes + reply_bytes + write_bytes) * 10.0 / baud + 2.0 * USB_S)


def rate_hint(baud: int, servos: int) -> str:
    """The rates that higher baud rates allow, and how to set one; empty at the highest."""
    rates = []
    for faster in BAUD_RATES:
        if faster > baud:
            rates.append(f"{round_down(fastest_rate_hz(faster, servos)):g} Hz at {faster} baud")
    if not rates:
        return ""
    return f"{', '.join(rates)}: set the servos' baud rate with Dynamixel Wizard, and --option baud=BAUD"
