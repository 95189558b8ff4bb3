"""Instruction packets on a bus of emulated servos, and the servos' replies: ROBOTIS e-Manual, Protocol 2.0.

There is no port and no thread here: the caller passes bytes and the time, one call at a time.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from arm_control.drivers.dynamixel.control_table import RETURN_DELAY_UNIT_S
from arm_control.drivers.emulator.fault_injection import FaultInjector
from arm_control.drivers.emulator.protocol import (
    ALERT,
    BROADCAST_ID,
    ErrorNumber,
    Instruction,
    Packet,
    PacketReader,
    make_status,
)
from arm_control.drivers.emulator.servo import Servo

CLEAR_TURNS = b"\x01\x44\x58\x4c\x22"

# A reply as it arrives: delay in s after the instruction, and the packet.
Arrival = tuple[float, bytes]


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of one servo to an instruction, sent if its status return level is at least `level`."""

    servo: Servo
    level: int
    error: int
    data: bytes = b""


class ServoBus:
    """Servos on one bus: it finds packets in the bytes received, executes them, and returns the replies."""

    def __init__(
        self, servos: Sequence[Servo], faults: FaultInjector, generator: random.Random, noise_ticks: float
    ) -> None:
        """`noise_ticks` is the standard deviation of the positions that servos report, drawn from the generator."""
        self._servos = servos
        self._faults = faults
        self._random = generator
        self._noise_ticks = noise_ticks
        self._reader = PacketReader()

    @property
    def has_incomplete_packet(self) -> bool:
        """True if part of a possible packet has been received."""
        return self._reader.has_incomplete

    def receive(self, data: bytes, now: float) -> list[Arrival]:
        """Execute the packets that are complete with these bytes."""
        return self._execute_all(self._reader.feed(data), now)

    def discard_incomplete(self, now: float) -> list[Arrival]:
        """Drop an incomplete packet, and execute packets within its bytes."""
        return self._execute_all(self._reader.discard_incomplete(), now)

    def _execute_all(self, packets: Sequence[Packet], now: float) -> list[Arrival]:
        arrivals: list[Arrival] = []
        for packet in packets:
            arrivals.extend(self._execute(packet, now))
        return arrivals

    def _execute(self, packet: Packet, now: float) -> Iterator[Arrival]:
        """Execute a packet; yield the replies in the order of the bus, each after the return delays so far."""
        awake = [servo for servo in self._servos if not self._faults.is_silent(servo) and servo.awake(now)]
        for servo in awake:
            servo.hear(now)
        delay_s = 0.0
        for reply in self._replies(packet, awake):
            servo = reply.servo
            delay_s += servo["return_delay"] * RETURN_DELAY_UNIT_S
            if servo["status_return_level"] >= reply.level:
                status = make_status(servo.id, reply.error | ALERT * servo.alert, reply.data)
                yield from self._faults.spoil(servo, status, delay_s)
            # A servo replies first, then reboots.
            if packet.instruction == Instruction.REBOOT:
                servo.reboot()

    def _replies(self, packet: Packet, awake: list[Servo]) -> Iterator[Reply]:
        instruction = packet.instruction
        is_broadcast = packet.id == BROADCAST_ID
        if instruction == Instruction.STATUS:
            return  # of another device
        if instruction in (Instruction.SYNC_READ, Instruction.BULK_READ):
            if is_broadcast:
                yield from self._read_several(packet, awake)
        elif instruction in (Instruction.SYNC_WRITE, Instruction.BULK_WRITE):
            if is_broadcast:
                _write_several(packet, awake)
        elif is_broadcast:
            yield from self._broadcast(packet, awake)
        else:
            for servo in awake:
                if servo.id == packet.id:
                    yield self._execute_on(servo, packet)

    def _read_several(self, packet: Packet, awake: list[Servo]) -> Iterator[Reply]:
        """Replies to a sync or bulk read, in the order in which it names the servos."""
        for id, address, size in _split_read(packet.instruction, packet.parameters):
            for servo in awake:
                if servo.id == id:
                    error, data = self._read(servo, address, size)
                    yield Reply(servo, 1, error, data)

    def _broadcast(self, packet: Packet, awake: list[Servo]) -> Iterator[Reply]:
        """Execute an instruction on all servos in the order of their ids; they reply only to pings."""
        for servo in sorted(awake, key=lambda servo: servo.id):
            reply = self._execute_on(servo, packet)
            if packet.instruction == Instruction.PING:
                yield reply
            elif packet.instruction == Instruction.REBOOT:
                servo.reboot()

    def _execute_on(self, servo: Servo, packet: Packet) -> Reply:
        """Execute an instruction for a single servo."""
        parameters = packet.parameters
        address = int.from_bytes(parameters[:2], "little")
        rest = parameters[2:]
        match packet.instruction:
            case Instruction.PING:
                model = servo["model_number"].to_bytes(2, "little")
                return Reply(servo, 0, ErrorNumber.NONE, model + bytes([servo["firmware"]]))
            case Instruction.READ:
                if len(parameters) != 4:
                    return Reply(servo, 1, ErrorNumber.DATA_LENGTH)
                error, data = self._read(servo, address, int.from_bytes(rest, "little"))
                return Reply(servo, 1, error, data)
            case Instruction.WRITE:
                return Reply(servo, 2, servo.write(address, rest))
            case Instruction.REG_WRITE:
                return Reply(servo, 2, servo.register_write(address, rest))
            case Instruction.ACTION:
                return Reply(servo, 2, servo.action())
            case Instruction.REBOOT:
                return Reply(servo, 2, ErrorNumber.NONE)
            case Instruction.CLEAR:
                known = parameters == CLEAR_TURNS
                return Reply(servo, 2, servo.clear_turns() if known else ErrorNumber.DATA_RANGE)
        return Reply(servo, 2, ErrorNumber.INSTRUCTION)

    def _read(self, servo: Servo, address: int, size: int) -> tuple[int, bytes]:
        servo.noise_ticks = self._faults.reading_noise(servo)
        if self._noise_ticks:
            servo.noise_ticks += round(self._random.gauss(0.0, self._noise_ticks))
        return servo.read(address, size)


def _write_several(packet: Packet, awake: list[Servo]) -> None:
    """Execute a sync or bulk write, which has no reply."""
    for id, address, data in _split_write(packet.instruction, packet.parameters):
        for servo in awake:
            if servo.id == id:
                servo.write(address, data)


def _split_read(instruction: int, parameters: bytes) -> list[tuple[int, int, int]]:
    """The id, address and size of each part of a sync or bulk read."""
    if instruction == Instruction.SYNC_READ:
        # Address (2), size (2), ids
        address = int.from_bytes(parameters[:2], "little")
        size = int.from_bytes(parameters[2:4], "little")
        return [(id, address, size) for id in parameters[4:]]
    # Id, address (2), size (2), and so on
    reads = []
    for start in range(0, len(parameters) - 4, 5):
        address = int.from_bytes(parameters[start + 1 : start + 3], "little")
        size = int.from_bytes(parameters[start + 3 : start + 5], "little")
        reads.append((parameters[start], address, size))
    return reads


def _split_write(instruction: int, parameters: bytes) -> list[tuple[int, int, bytes]]:
    """The id, address and data of each part of a sync or bulk write."""
    writes = []
    if instruction == Instruction.SYNC_WRITE:
        # Address (2), size (2), then id and data of each servo
        address = int.from_bytes(parameters[:2], "little")
        size = int.from_bytes(parameters[2:4], "little")
        for start in range(4, len(parameters) - size, size + 1):
            writes.append((parameters[start], address, parameters[start + 1 : start + 1 + size]))
        return writes
    # Id, address (2), size (2) and data, and so on
    start = 0
    while start + 5 <= len(parameters):
        address = int.from_bytes(parameters[start + 1 : start + 3], "little")
        size = int.from_bytes(parameters[start + 3 : start + 5], "little")
        data = parameters[start + 5 : start + 5 + size]
        if len(data) == size:
            writes.append((parameters[start], address, data))
        start += 5 + size
    return writes
