"""Helpers for tests on emulated servos: a clock, and packets to servos that need no port."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dynamixel_sdk

from arm_control.drivers.dynamixel.control_table import REGISTERS, SPEED_UNIT_DEG_S
from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.protocol import Instruction, PacketReader, make_packet

TICKS_PER_SPEED_UNIT = SPEED_UNIT_DEG_S / 360.0 * 4096


class Clock:
    """The servos' time, which only `advance` moves."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        self.now_s += seconds


def ask(servos: Emulator, id: int, instruction: int, *parameters: int) -> list[tuple[int, int, bytes]]:
    """Send an instruction; returns id, error byte and data of each reply."""
    return replies(servos, make_packet(id, instruction, bytes(parameters)))


def replies(servos: Emulator, data: bytes) -> list[tuple[int, int, bytes]]:
    """Send any bytes; returns id, error byte and data of each reply."""
    reader = PacketReader()
    found = reader.feed(b"".join(reply for _, reply in servos.reply(data)))
    assert not reader.has_incomplete
    assert all(packet.instruction == Instruction.STATUS for packet in found)
    return [(packet.id, packet.parameters[0], packet.parameters[1:]) for packet in found]


def write(servos: Emulator, id: int, name: str, value: int) -> int:
    """Write a register; returns the error byte of the reply."""
    register = REGISTERS[name]
    data = value.to_bytes(register.size, "little", signed=register.signed)
    [(_, error, _)] = ask(servos, id, Instruction.WRITE, *register.address.to_bytes(2, "little"), *data)
    return error


@contextmanager
def sdk(path: str) -> Iterator[tuple[Any, Any]]:
    """The vendor's SDK on an open port."""
    port, packets = dynamixel_sdk.PortHandler(path), dynamixel_sdk.PacketHandler(2.0)
    assert port.openPort()
    assert port.setBaudRate(1_000_000)
    try:
        yield port, packets
    finally:
        port.closePort()
