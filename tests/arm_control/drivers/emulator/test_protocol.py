"""Packets, compared with the bytes of the e-Manual's examples."""

import time

import pytest
from emulated import ask, replies, sdk

from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.protocol import (
    BROADCAST_ID,
    Instruction,
    crc16,
    make_packet,
    make_status,
)


class TestPackets:
    """Packets as bytes."""

    @pytest.mark.parametrize(
        ("packet", "wire"),
        [
            (make_packet(1, Instruction.PING), "FF FF FD 00 01 03 00 01 19 4E"),
            (make_packet(BROADCAST_ID, Instruction.PING), "FF FF FD 00 FE 03 00 01 31 42"),
            (make_status(1, 0, b"\x06\x04\x26"), "FF FF FD 00 01 07 00 55 00 06 04 26 65 5D"),
            (make_packet(1, Instruction.READ, b"\x84\x00\x04\x00"), "FF FF FD 00 01 07 00 02 84 00 04 00 1D 15"),
            (
                make_packet(1, Instruction.WRITE, bytes.fromhex("7400 00020000")),
                "FF FF FD 00 01 09 00 03 7400 00020000 CA 89",
            ),
            (make_status(1, 0, b"\xa6\x00\x00\x00"), "FF FF FD 00 01 08 00 55 00 A6 00 00 00 8C C0"),
            (
                make_packet(254, 0x82, bytes.fromhex("8400 0400 01 02")),
                "FF FF FD 00 FE 09 00 82 84 00 04 00 01 02 CE FA",
            ),
        ],
    )
    def test_packets_of_the_e_manual(self, packet: bytes, wire: str) -> None:
        """Headers, lengths and checksums are those of the e-Manual."""
        assert packet == bytes.fromhex(wire)

    def test_ping_of_the_e_manual(self, servos: Emulator) -> None:
        """The reply is that of the e-Manual, after the factory's return delay."""
        [(delay, reply)] = servos.reply(bytes.fromhex("FFFFFD00010300 01 194E"))
        # Model 1060 = 0x0424, firmware 45 = 0x2D.
        assert reply[:-2] == bytes.fromhex("FFFFFD00010700 55 00 2404 2D")
        assert int.from_bytes(reply[-2:], "little") == crc16(reply[:-2])
        assert delay == pytest.approx(500e-6)  # the factory's return delay: 250 times 2 us

    def test_stuffing(self, servos: Emulator) -> None:
        """FF FF FD within data is followed by FD, and the length counts it."""
        # Goal velocity -1 and profile acceleration 253 lie side by side: FF FF FF FF FD 00 00 00.
        data = bytes.fromhex("FFFFFFFF FD000000")
        packet = make_packet(1, Instruction.WRITE, bytes([104, 0]) + data)
        assert bytes.fromhex("FFFFFFFF FDFD 000000") in packet
        assert packet[5] == 3 + 2 + 8 + 1  # the length counts the stuffing
        assert replies(servos, packet) == [(1, 0, b"")]
        [(_, wire)] = servos.reply(make_packet(1, Instruction.READ, bytes([104, 0, 8, 0])))
        assert bytes.fromhex("FFFFFFFF FDFD 000000") in wire
        assert ask(servos, 1, Instruction.READ, 104, 0, 8, 0) == [(1, 0, data)]

    def test_unstuffed_packets_of_the_sdk(self, servos: Emulator, patient: None) -> None:
        """The SDK's writes without stuffing are accepted."""
        with servos, sdk(servos.path) as (port, packets):
            data = [0xFF, 0xFF, 0xFF, 0xFF, 0xFD, 0, 0, 0]
            assert packets.writeTxRx(port, 1, 104, 8, data) == (0, 0)
            assert packets.readTxRx(port, 1, 104, 8) == (data, 0, 0)

    def test_broken_packets(self, servos: Emulator) -> None:
        """A packet after a broken one is found."""
        ping, other = make_packet(1, Instruction.PING), make_packet(2, Instruction.PING)
        wrong = ping[:-1] + bytes([ping[-1] ^ 1])
        assert replies(servos, wrong) == []
        assert [id for id, _, _ in replies(servos, wrong + ping)] == [1]
        assert [id for id, _, _ in replies(servos, ping + other)] == [1, 2]
        assert [id for id, _, _ in replies(servos, b"\x00\xff\xff\xff\xfd\xff" + ping)] == [1]
        assert replies(servos, ping[:4]) == []
        assert [id for id, _, _ in replies(servos, ping[4:])] == [1]
        assert [id for id, _, _ in replies(servos, b"\xff" + ping)] == [1]
        # Half a packet is completed by the beginning of the next, which the checksum detects.
        assert [id for id, _, _ in replies(servos, ping[:-2] + other)] == [2]
        assert replies(servos, make_status(1, 0)) == []
        assert replies(servos, make_packet(77, Instruction.PING)) == []

    def test_incomplete_packets(self, servos: Emulator, patient: None) -> None:
        """An incomplete packet is dropped after a silence."""
        with servos, sdk(servos.path) as (port, packets):
            port.ser.write(bytes.fromhex("FFFFFD0001 0003 03") + make_packet(2, Instruction.PING))  # 768 bytes to come
            deadline = time.monotonic() + 20.0
            while not port.ser.in_waiting and time.monotonic() < deadline:
                time.sleep(0.02)
            assert port.ser.read(14)[4] == 2  # the ping that it had hidden
            assert packets.ping(port, 1) == (1060, 0, 0)
