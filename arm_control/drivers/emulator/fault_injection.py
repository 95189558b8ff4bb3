"""Applying faults to emulated servos and to their replies, and ending them."""

import random
from collections.abc import Callable, Iterator, Sequence

from arm_control.drivers.dynamixel.control_table import TICKS_PER_TURN
from arm_control.drivers.emulator.faults import ERROR_BITS, EVENTS, REPLY_FAULTS, Fault
from arm_control.drivers.emulator.servo import BROKEN_SUPPLY_V, ROOM_TEMPERATURE_C, SUPPLY_V, Servo

LATE_S = 0.05
NOISE_TICKS = 5
OVERHEATED_C = 5.0  # above the servo's limit


class FaultInjector:
    """The faults of some servos: those of replies, those that are due later, and events when they begin.

    Replies go wrong at random, by the `generator`. `say` receives a line for each fault that begins.
    """

    def __init__(self, servos: Sequence[Servo], generator: random.Random, say: Callable[[str], None]) -> None:
        self.disconnected = False
        self._servos = servos
        self._random = generator
        self._say = say
        self._of_replies: list[Fault] = []
        self._waiting: list[Fault] = []  # until some time after the torque was first on
        self._silent: set[int] = set()

    def add(self, fault: Fault, now: float) -> None:
        """Begin a fault, or keep it until its time. Raises ValueError for one of a servo that does not exist."""
        if fault.id is not None:
            find_servo(self._servos, fault.id)
        if fault.kind == "swapped" and len(self._servos) < 2:
            raise ValueError("fault swapped: expected at least two servos on the bus, got one")
        if fault.at_s is not None:
            self._waiting.append(fault)
            return
        self._say(f"fault {fault}")
        if fault.kind in REPLY_FAULTS:
            self._of_replies.append(fault)
            return
        if fault.kind == "disconnect":
            self.disconnected = True
        for servo in self._servos:
            if fault.concerns(servo.id):
                self._begin(fault.kind, servo, now)

    def begin_due(self, torque_s: float, now: float) -> None:
        """Begin the faults that are due when the torque was first on `torque_s` ago."""
        due = [fault for fault in self._waiting if (fault.at_s or 0.0) <= torque_s]
        self._waiting = [fault for fault in self._waiting if (fault.at_s or 0.0) > torque_s]
        for fault in due:
            self.add(Fault(fault.kind, fault.probability, None, fault.id), now)

    def end(self, kind: str | None, id: int | None) -> None:
        """End the faults of a kind, or all (None), of a servo, or all (None). Hardware errors stay until a reboot."""
        for faults in (self._of_replies, self._waiting):
            faults[:] = [fault for fault in faults if kind not in (None, fault.kind) or id not in (None, fault.id)]
        kinds = EVENTS if kind is None else (kind,)
        for servo in self._servos:
            if id in (None, servo.id):
                for event in kinds:
                    self._end(event, servo)

    def is_silent(self, servo: Servo) -> bool:
        """Return True if a servo is disconnected: it receives nothing and sends no replies."""
        return servo.id in self._silent

    def happens(self, kind: str, servo: Servo) -> bool:
        """Draw whether a reply of this servo goes wrong in this way; returns True if it does."""
        for fault in self._of_replies:
            if fault.kind != kind or not fault.concerns(servo.id):
                continue
            if self._random.random() < (fault.probability or 0.0):
                return True
        return False

    def reading_noise(self, servo: Servo) -> int:
        """Draw the error in ticks that the fault `noise` adds to a reading."""
        if self.happens("noise", servo):
            return self._random.randint(-NOISE_TICKS, NOISE_TICKS)
        return 0

    def spoil(self, servo: Servo, status: bytes, delay: float) -> Iterator[tuple[float, bytes]]:
        """Yield a reply as it arrives, with its delay in s: not at all, damaged, late, or twice."""
        if not self._of_replies:
            yield delay, status
            return
        if self.happens("lost", servo):
            return
        if self.happens("corrupt", servo):
            # Not in the header: then it would be lost rather than corrupt.
            index = self._random.randrange(7, len(status))
            damaged = status[index] ^ 1 << self._random.randrange(8)
            status = status[:index] + bytes([damaged]) + status[index + 1 :]
        if self.happens("late", servo):
            delay += LATE_S
        yield delay, status
        if self.happens("duplicated", servo):
            yield delay, status

    def _begin(self, kind: str, servo: Servo, now: float) -> None:
        """Let an event happen to a servo."""
        match kind:
            case "voltage":
                servo.supply_v = BROKEN_SUPPLY_V
            case "overheating":
                servo.temperature_c = servo["temperature_limit"] + OVERHEATED_C
            case "stuck":
                servo.stuck = True
            case "slow":
                servo.slow = True
            case "frozen":
                servo.frozen_ticks = servo.ticks
            case "drift":
                servo.drifts_since = now
            case "swapped":
                following = self._servos[(self._servos.index(servo) + 1) % len(self._servos)]
                servo.swapped_with = following
                following.swapped_with = servo
            case "wrap":
                servo.wrap_ticks += TICKS_PER_TURN
            case "silent":
                self._silent.add(servo.id)
            case "reboot":
                servo.reboot()
        if kind in ERROR_BITS:
            servo.fail(ERROR_BITS[kind])

    def _end(self, kind: str, servo: Servo) -> None:
        """Undo an event, where it can be undone."""
        match kind:
            case "voltage":
                servo.supply_v = SUPPLY_V
            case "overheating":
                servo.temperature_c = min(servo.temperature_c, ROOM_TEMPERATURE_C)
            case "stuck":
                servo.stuck = False
            case "slow":
                servo.slow = False
            case "frozen":
                servo.frozen_ticks = None
            case "drift":
                servo.drifts_since = None
            case "swapped":
                partner = servo.swapped_with
                servo.swapped_with = None
                if partner is not None:
                    partner.swapped_with = None
            case "wrap":
                servo.wrap_ticks = 0
            case "silent":
                self._silent.discard(servo.id)


def find_servo(servos: Sequence[Servo], id: int) -> Servo:
    """The servo with an id. Raises ValueError if there is none."""
    for servo in servos:
        if servo.id == id:
            return servo
    raise ValueError(f"no servo {id}; expected one of {[servo.id for servo in servos]}")
