"""DYNAMIXEL packets: ROBOTIS e-Manual, Protocol 2.0.

    FF FF FD 00 | id | length (2) | instruction, parameters | CRC (2)

The instruction of a reply is 0x55, and its first parameter is an error number. The length counts the bytes after it,
CRC included, after byte stuffing: FF FF FD within instruction and parameters is followed by another FD, so that it is
not taken for a header.
"""

from dataclasses import dataclass
from enum import IntEnum

HEADER = b"\xff\xff\xfd"
BROADCAST_ID = 254
ALERT = 0x80  # set beside the error number while the hardware error status is not zero
MAX_LENGTH = 1024  # of a packet's length field; a larger value is taken for noise


class Instruction(IntEnum):
    """Instructions of packets."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    FACTORY_RESET = 0x06
    REBOOT = 0x08
    CLEAR = 0x10
    STATUS = 0x55
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83
    BULK_READ = 0x92
    BULK_WRITE = 0x93


class ErrorNumber(IntEnum):
    """Error numbers of replies."""

    NONE = 0
    RESULT_FAIL = 1
    INSTRUCTION = 2
    CRC = 3
    DATA_RANGE = 4
    DATA_LENGTH = 5
    DATA_LIMIT = 6
    ACCESS = 7


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x8005 if crc & 0x8000 else 0)) & 0xFFFF
        table.append(crc)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc16(data: bytes) -> int:
    """The checksum of a packet: polynomial 0x8005, initial value 0, no reflection."""
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFF00) ^ _CRC_TABLE[crc >> 8 ^ byte]
    return crc


def stuff(data: bytes) -> bytes:
    """Insert FD bytes, so that the bytes contain no header."""
    return data.replace(HEADER, HEADER + b"\xfd")


def unstuff(data: bytes) -> bytes:
    """Undo `stuff`."""
    return data.replace(HEADER + b"\xfd", HEADER)


def make_packet(id: int, instruction: int, parameters: bytes = b"") -> bytes:
    """Make an instruction packet, stuffed and with its checksum."""
    body = stuff(bytes([instruction]) + parameters)
    packet = HEADER + b"\x00" + bytes([id]) + (len(body) + 2).to_bytes(2, "little") + body
    return packet + crc16(packet).to_bytes(2, "little")


def make_status(id: int, error: int, parameters: bytes = b"") -> bytes:
    """Make a servo's reply."""
    return make_packet(id, Instruction.STATUS, bytes([error]) + parameters)


@dataclass(frozen=True, slots=True)
class Packet:
    """A received packet: the id of its receiver, instruction and parameters, without stuffing."""

    id: int
    instruction: int
    parameters: bytes


class PacketReader:
    """Finds packets in a stream of bytes that may come in pieces and with noise in between."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Packet]:
        """Add bytes; returns the packets that are now complete, without those whose checksum is wrong."""
        self._bytes += data
        packets = []
        while (packet := self._next()) is not None:
            packets.append(packet)
        return packets

    def discard_incomplete(self) -> list[Packet]:
        """Drop an incomplete packet after a long silence; returns packets within its bytes."""
        packets = []
        while self._bytes:
            del self._bytes[0]
            packets += self.feed(b"")
        return packets

    @property
    def has_incomplete(self) -> bool:
        """True if part of a possible packet has been received."""
        return bool(self._bytes)

    def _next(self) -> Packet | None:
        received = self._bytes
        while True:
            # Skip to the next header.
            start = received.find(HEADER)
            if start < 0:
                del received[: max(0, len(received) - 2)]  # the last two may begin a header
                return None
            del received[:start]
            if len(received) < 7:
                return None
            # A header followed by impossible values is noise: continue the search behind it.
            length = received[5] | received[6] << 8
            if received[3] == 0xFD or received[4] in (0xFD, 0xFF) or not 3 <= length <= MAX_LENGTH:
                del received[:3]
                continue
            end = 7 + length
            if len(received) < end:
                return None
            # A damaged packet may contain the header of the next one.
            if crc16(bytes(received[: end - 2])) != received[end - 2] | received[end - 1] << 8:
                del received[:3]
                continue
            body = unstuff(bytes(received[7 : end - 2]))
            packet = Packet(received[4], body[0], body[1:])
            del received[:end]
            return packet
