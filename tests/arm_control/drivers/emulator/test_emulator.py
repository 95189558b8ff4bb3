"""Emulated servos, seen by the vendor's SDK, and by bytes where the SDK cannot send what is to be tested."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import dynamixel_sdk
import numpy as np
import pytest
import serial
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from locations import DESK, ROOT

from arm_control.cli import main
from arm_control.commands.emulate import Emulate
from arm_control.drivers.dynamixel.calibration import Calibration, load_calibration
from arm_control.drivers.dynamixel.control_table import REGISTERS, SPEED_UNIT_DEG_S
from arm_control.drivers.dynamixel.driver import open_dynamixel
from arm_control.drivers.emulator.emulated_arm import make_calibration, start_ticks
from arm_control.drivers.emulator.emulator import HISTORY, Emulator
from arm_control.drivers.emulator.fault_injection import LATE_S, NOISE_TICKS
from arm_control.drivers.emulator.faults import KINDS, Fault, parse_fault
from arm_control.drivers.emulator.protocol import (
    BROADCAST_ID,
    MAX_LENGTH,
    Instruction,
    PacketReader,
    crc16,
    make_packet,
    make_status,
)
from arm_control.drivers.emulator.servo import ServoDynamics
from envs.arm import DEFAULT_URDF, Arm
from envs.imperfections import IDEAL_LAG_S

TICKS_PER_SPEED_UNIT = SPEED_UNIT_DEG_S / 360.0 * 4096
PATIENCE_MS = 5000.0  # of the SDK, where an answer is sure to come


class Clock:
    """The servos' time, which passes when told to."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    """Servos whose time stands still do nothing while a slow machine thinks."""
    return Clock()


@pytest.fixture
def servos(clock: Clock) -> Emulator:
    """Three servos without a port: their answers are asked for directly."""
    return Emulator(start_ticks=(1000, 2000, 3000), clock=clock)


def ask(servos: Emulator, id: int, instruction: int, *parameters: int) -> list[tuple[int, int, bytes]]:
    """Id, error byte and data of all that is answered."""
    return answers(servos, make_packet(id, instruction, bytes(parameters)))


def answers(servos: Emulator, data: bytes) -> list[tuple[int, int, bytes]]:
    """The same for any bytes."""
    reader = PacketReader()
    found = reader.feed(b"".join(answer for _, answer in servos.answer(data)))
    assert not reader.waiting
    assert all(packet.instruction == Instruction.STATUS for packet in found)
    return [(packet.id, packet.parameters[0], packet.parameters[1:]) for packet in found]


def write(servos: Emulator, id: int, name: str, value: int) -> int:
    """The error byte of the answer."""
    register = REGISTERS[name]
    data = value.to_bytes(register.size, "little", signed=register.signed)
    [(_, error, _)] = ask(servos, id, Instruction.WRITE, *register.address.to_bytes(2, "little"), *data)
    return error


@contextmanager
def sdk(path: str) -> Iterator[tuple[Any, Any]]:
    """The vendor's SDK on a port; it waits long for answers, since a slow machine is no fault."""
    port, packets = dynamixel_sdk.PortHandler(path), dynamixel_sdk.PacketHandler(2.0)
    assert port.openPort()
    assert port.setBaudRate(1_000_000)
    try:
        yield port, packets
    finally:
        port.closePort()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits for answers that are sure to come, however slow the machine is."""
    monkeypatch.setattr(
        dynamixel_sdk.PortHandler, "setPacketTimeout", lambda port, _: port.setPacketTimeoutMillis(PATIENCE_MS)
    )


# Packets


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
        (make_packet(254, 0x82, bytes.fromhex("8400 0400 01 02")), "FF FF FD 00 FE 09 00 82 84 00 04 00 01 02 CE FA"),
    ],
)
def test_packets_are_those_of_the_e_manual(packet: bytes, wire: str) -> None:
    assert packet == bytes.fromhex(wire)


def test_a_ping_of_the_e_manual_is_answered(servos: Emulator) -> None:
    [(delay, answer)] = servos.answer(bytes.fromhex("FFFFFD00010300 01 194E"))
    # Model 1060 = 0x0424, firmware 45 = 0x2D.
    assert answer[:-2] == bytes.fromhex("FFFFFD00010700 55 00 2404 2D")
    assert int.from_bytes(answer[-2:], "little") == crc16(answer[:-2])
    assert delay == pytest.approx(500e-6)  # the factory's return delay: 250 times 2 us


def test_a_header_within_data_is_stuffed_both_ways(servos: Emulator) -> None:
    # Goal velocity -1 and profile acceleration 253 lie side by side: FF FF FF FF FD 00 00 00.
    data = bytes.fromhex("FFFFFFFF FD000000")
    packet = make_packet(1, Instruction.WRITE, bytes([104, 0]) + data)
    assert bytes.fromhex("FFFFFFFF FDFD 000000") in packet
    assert packet[5] == 3 + 2 + 8 + 1  # the length counts the stuffing
    assert answers(servos, packet) == [(1, 0, b"")]
    [(_, wire)] = servos.answer(make_packet(1, Instruction.READ, bytes([104, 0, 8, 0])))
    assert bytes.fromhex("FFFFFFFF FDFD 000000") in wire
    assert ask(servos, 1, Instruction.READ, 104, 0, 8, 0) == [(1, 0, data)]


def test_the_sdks_unstuffed_packets_are_taken_as_they_are(servos: Emulator, patient: None) -> None:
    with servos, sdk(servos.path) as (port, packets):
        data = [0xFF, 0xFF, 0xFF, 0xFF, 0xFD, 0, 0, 0]
        assert packets.writeTxRx(port, 1, 104, 8, data) == (0, 0)
        assert packets.readTxRx(port, 1, 104, 8) == (data, 0, 0)


def test_broken_packets_have_no_answer_and_hide_none(servos: Emulator) -> None:
    ping, other = make_packet(1, Instruction.PING), make_packet(2, Instruction.PING)
    wrong = ping[:-1] + bytes([ping[-1] ^ 1])
    assert answers(servos, wrong) == []
    assert [id for id, _, _ in answers(servos, wrong + ping)] == [1]
    assert [id for id, _, _ in answers(servos, ping + other)] == [1, 2]
    assert [id for id, _, _ in answers(servos, b"\x00\xff\xff\xff\xfd\xff" + ping)] == [1]
    assert answers(servos, ping[:4]) == []
    assert [id for id, _, _ in answers(servos, ping[4:])] == [1]
    assert [id for id, _, _ in answers(servos, b"\xff" + ping)] == [1]
    # Half a packet takes the beginning of the next for its end; the checksum says so.
    assert [id for id, _, _ in answers(servos, ping[:-2] + other)] == [2]
    assert answers(servos, make_status(1, 0)) == []
    assert answers(servos, make_packet(77, Instruction.PING)) == []


def test_a_packet_that_never_ends_is_given_up(servos: Emulator, patient: None) -> None:
    with servos, sdk(servos.path) as (port, packets):
        port.ser.write(bytes.fromhex("FFFFFD0001 0003 03") + make_packet(2, Instruction.PING))  # 768 bytes to come
        deadline = time.monotonic() + 20.0
        while not port.ser.in_waiting and time.monotonic() < deadline:
            time.sleep(0.02)
        assert port.ser.read(14)[4] == 2  # the ping that it had hidden
        assert packets.ping(port, 1) == (1060, 0, 0)


# Instructions


def test_the_sdk_finds_and_reads_the_servos(servos: Emulator, patient: None) -> None:
    with servos, sdk(servos.path) as (port, packets):
        assert packets.ping(port, 3) == (1060, 0, 0)
        found, result = packets.broadcastPing(port)
        assert (found, result) == ({1: [1060, 45], 2: [1060, 45], 3: [1060, 45]}, 0)
        assert packets.read4ByteTxRx(port, 2, 132) == (2000, 0, 0)
        assert packets.read2ByteTxRx(port, 2, 144) == (120, 0, 0)
        assert packets.read1ByteTxRx(port, 2, 146) == (30, 0, 0)


def test_the_sdk_reads_and_writes_three_servos_at_once(servos: Emulator, clock: Clock, patient: None) -> None:
    with servos, sdk(servos.path) as (port, packets):
        goals, state = (
            dynamixel_sdk.GroupSyncWrite(port, packets, 116, 4),
            dynamixel_sdk.GroupSyncRead(port, packets, 126, 21),
        )
        for id in (1, 2, 3):
            assert packets.write1ByteTxRx(port, id, 64, 1) == (0, 0)
            goals.addParam(id, list((1500 + 100 * id).to_bytes(4, "little")))
            state.addParam(id)
        assert goals.txPacket() == 0
        assert state.txRxPacket() == 0  # so the goals have arrived
        clock.advance(3.0)
        assert state.txRxPacket() == 0
        assert all(state.isAvailable(id, 126, 21) for id in (1, 2, 3))
        assert [state.getData(id, 132, 4) for id in (1, 2, 3)] == [1600, 1700, 1800]
    assert list(servos.history) == [(50.0, id, 1500 + 100 * id) for id in (1, 2, 3)]
    assert servos.positions() == {1: 1600, 2: 1700, 3: 1800}


def test_the_sdk_reads_and_writes_in_bulk(servos: Emulator, patient: None) -> None:
    with servos, sdk(servos.path) as (port, packets):
        writes, reads = dynamixel_sdk.GroupBulkWrite(port, packets), dynamixel_sdk.GroupBulkRead(port, packets)
        writes.addParam(1, 65, 1, [1])
        writes.addParam(2, 112, 4, [50, 0, 0, 0])
        assert writes.txPacket() == 0
        reads.addParam(1, 65, 1)
        reads.addParam(2, 112, 4)
        assert reads.txRxPacket() == 0
        assert (reads.getData(1, 65, 1), reads.getData(2, 112, 4)) == (1, 50)


def test_errors_have_the_e_manuals_numbers(servos: Emulator, clock: Clock) -> None:
    assert write(servos, 1, "torque_enable", 1) == 0
    assert write(servos, 1, "goal_position", 3000) == 0
    clock.advance(0.2)
    assert ask(servos, 1, Instruction.CLEAR, 0x01, 0x44, 0x58, 0x4C, 0x22) == [(1, 1, b"")]  # while it moves
    assert ask(servos, 1, 0x77) == [(1, 2, b"")]
    assert ask(servos, 1, Instruction.ACTION) == [(1, 2, b"")]  # with nothing to do
    assert write(servos, 1, "torque_enable", 2) == 4
    assert write(servos, 1, "status_return_level", 3) == 4
    assert ask(servos, 1, Instruction.WRITE, 116, 0, 0, 8) == [(1, 5, b"")]  # half a goal
    assert write(servos, 1, "goal_position", 4096) == 6
    assert write(servos, 1, "goal_velocity", -266) == 6
    assert write(servos, 1, "present_position", 0) == 7
    assert write(servos, 1, "return_delay", 0) == 7  # EEPROM, while the torque is on
    assert ask(servos, 1, Instruction.WRITE, 99, 0, 1) == [(1, 7, b"")]
    assert ask(servos, 1, Instruction.READ, 0xFF, 0x0F, 4, 0) == [(1, 7, b"")]
    assert [goal for _, _, goal in servos.history] == [3000]
    assert write(servos, 1, "torque_enable", 0) == 0
    assert write(servos, 1, "return_delay", 0) == 0
    assert [delay for delay, _ in servos.answer(make_packet(1, Instruction.PING))] == [0.0]


def test_a_write_over_several_registers_is_done_as_a_whole(servos: Emulator) -> None:
    both = [*(30).to_bytes(4, "little"), *(40).to_bytes(4, "little")]
    assert ask(servos, 1, Instruction.WRITE, 108, 0, *both) == [(1, 0, b"")]
    assert (servos.register("profile_acceleration", 1), servos.register("profile_velocity", 1)) == (30, 40)
    wrong = [*(31).to_bytes(4, "little"), *(99_999).to_bytes(4, "little")]
    assert ask(servos, 1, Instruction.WRITE, 108, 0, *wrong) == [(1, 4, b"")]
    assert servos.register("profile_acceleration", 1) == 30


def test_registered_writes_wait_for_the_action(servos: Emulator) -> None:
    for id in (1, 2):
        assert ask(servos, id, Instruction.REG_WRITE, 65, 0, 1) == [(id, 0, b"")]
        assert (servos.register("led", id), servos.register("registered_instruction", id)) == (0, 1)
    assert ask(servos, BROADCAST_ID, Instruction.ACTION) == []
    assert [servos.register("led", id) for id in (1, 2, 3)] == [1, 1, 0]


@pytest.mark.parametrize(("level", "ping", "read", "written"), [(0, 1, 0, 0), (1, 1, 1, 0), (2, 1, 1, 1)])
def test_the_status_return_level_says_what_is_answered(
    servos: Emulator, level: int, ping: int, read: int, written: int
) -> None:
    ask(servos, 1, Instruction.WRITE, 68, 0, level)
    assert len(ask(servos, 1, Instruction.PING)) == ping
    assert len(ask(servos, 1, Instruction.READ, 132, 0, 4, 0)) == read
    assert len(ask(servos, 1, Instruction.WRITE, 65, 0, 1)) == written
    assert servos.register("led", 1) == 1


def test_what_is_sent_to_all_is_done_and_not_answered(servos: Emulator) -> None:
    assert ask(servos, BROADCAST_ID, Instruction.WRITE, 65, 0, 1) == []
    assert [servos.register("led", id) for id in (1, 2, 3)] == [1, 1, 1]
    assert ask(servos, BROADCAST_ID, Instruction.READ, 65, 0, 1, 0) == []
    assert [id for id, _, _ in ask(servos, BROADCAST_ID, Instruction.PING)] == [1, 2, 3]


def test_a_new_id_counts_at_once(servos: Emulator) -> None:
    assert write(servos, 3, "id", 33) == 0
    assert ask(servos, 3, Instruction.PING) == []
    assert len(ask(servos, 33, Instruction.PING)) == 1
    assert set(servos.positions()) == {1, 2, 33}


# Movement


def test_a_servo_reaches_its_goal_within_its_velocity_limit(servos: Emulator, clock: Clock) -> None:
    write(servos, 1, "velocity_limit", 50)
    write(servos, 1, "torque_enable", 1)
    write(servos, 1, "goal_position", 3000)
    before, fastest = 1000, 50 * TICKS_PER_SPEED_UNIT
    for _ in range(100):
        clock.advance(0.05)
        here = servos.positions()[1]
        assert before <= here <= min(3000, before + fastest * 0.05 + 1.0)  # never back, never beyond
        assert 0 <= servos.register("present_velocity", 1) <= 50
        before = here
    assert before == 3000
    assert servos.register("present_velocity", 1) == servos.register("moving", 1) == 0
    assert servos.register("present_load", 1) == 0
    assert servos.register("moving_status", 1) & 1


def test_it_moves_the_same_however_often_it_is_looked_at() -> None:
    ends = []
    for looks in (1, 7, 300):
        clock = Clock()
        servos = Emulator(start_ticks=1000, clock=clock)
        write(servos, 1, "torque_enable", 1)
        write(servos, 1, "goal_position", 2500)
        for _ in range(looks):
            clock.advance(0.3 / looks)
            servos.positions()
        ends.append(servos.positions()[1])
    assert max(ends) - min(ends) <= 2
    assert 1100 < ends[0] < 2500


@pytest.mark.parametrize("acceleration", [0, 20])
def test_profiles_are_kept(servos: Emulator, clock: Clock, acceleration: int) -> None:
    write(servos, 1, "profile_velocity", 40)
    write(servos, 1, "profile_acceleration", acceleration)
    write(servos, 1, "torque_enable", 1)
    write(servos, 1, "goal_position", 2500)
    speed = 40 * TICKS_PER_SPEED_UNIT
    # Way over speed, and a trapezoid takes speed over acceleration longer; 214.577 rev/min^2 are 244.1 ticks/s^2.
    duration = 1500 / speed + (speed / (acceleration * 214.577 / 3600 * 4096) if acceleration else 0.0)
    clock.advance(duration / 2)
    assert servos.positions()[1] == pytest.approx(1750, abs=0.05 * speed + 20)
    assert servos.register("velocity_trajectory", 1) == 40
    assert servos.register("moving", 1) == 1
    clock.advance(duration / 2 - 0.05)
    assert servos.positions()[1] < 2500
    clock.advance(0.5)
    assert servos.positions()[1] == 2500
    assert servos.register("velocity_trajectory", 1) == servos.register("moving", 1) == 0


def test_a_joint_that_follows_evenly_lags_by_the_lag() -> None:
    clock = Clock()
    servos = Emulator((1,), start_ticks=1000, clock=clock, dynamics=ServoDynamics(lag_s=0.1))
    write(servos, 1, "profile_velocity", 60)
    write(servos, 1, "torque_enable", 1)
    write(servos, 1, "goal_position", 3000)
    clock.advance(1.0)
    behind = servos.register("position_trajectory", 1) - servos.positions()[1]
    assert behind == pytest.approx(0.1 * 60 * TICKS_PER_SPEED_UNIT, rel=0.05)
    assert servos.register("present_load", 1) > 0


class TestImperfectServos:
    """Delay and noise of emulated servos."""

    def test_a_delayed_servo_does_the_same_later(self) -> None:
        """Goals act after the delay, each after its own."""
        clock = Clock()
        prompt = Emulator((1,), start_ticks=1000, clock=clock)
        late = Emulator((1,), start_ticks=1000, clock=clock, dynamics=ServoDynamics(delay_s=0.1))
        seen: dict[str, list[int]] = {"prompt": [], "late": []}
        for servos in (prompt, late):
            write(servos, 1, "torque_enable", 1)
        for step in range(60):
            if step % 3 == 0:  # goals come faster than the delay passes
                for servos in (prompt, late):
                    write(servos, 1, "goal_position", 1000 + 20 * step)
            clock.advance(0.02)
            seen["prompt"].append(prompt.positions()[1])
            seen["late"].append(late.positions()[1])
        assert seen["late"][:4] == [1000] * 4
        np.testing.assert_allclose(seen["late"][5:], seen["prompt"][:-5], atol=1)
        assert seen["prompt"][-1] > 1800

    def test_goals_that_wait_are_dropped_with_the_torque(self) -> None:
        """A servo that is switched off and on again holds where it is."""
        clock = Clock()
        servos = Emulator((1,), start_ticks=1000, clock=clock, dynamics=ServoDynamics(delay_s=0.1))
        write(servos, 1, "torque_enable", 1)
        write(servos, 1, "goal_position", 2000)
        clock.advance(0.05)
        write(servos, 1, "torque_enable", 0)
        write(servos, 1, "torque_enable", 1)
        clock.advance(1.0)
        assert servos.positions()[1] == 1000

    def test_readings_are_as_noisy_as_told(self) -> None:
        """The standard deviation of 2,000 readings, to 10 %; the servo itself does not move."""
        servos = Emulator((1,), start_ticks=1000, seed=3, clock=Clock(), dynamics=ServoDynamics(noise_deg=0.5))
        register = REGISTERS["present_position"]
        readings = []
        for _ in range(2000):
            packet = make_packet(1, Instruction.READ, struct.pack("<HH", register.address, register.size))
            (_, _, data) = answers(servos, packet)[0]
            readings.append(int.from_bytes(data, "little", signed=True))
        assert np.std(readings) == pytest.approx(0.5 / 360 * 4096, rel=0.1)
        assert np.mean(readings) == pytest.approx(1000, abs=0.5)
        assert servos.positions()[1] == 1000

    def test_values_are_drawn_from_a_description_by_the_seed(self, tmp_path: Path) -> None:
        """Delays of actions and readings add up; the ideal servo's lag is its own."""
        ranges = {"action_delay_s": [0.02, 0.03], "observation_delay_s": [0.01, 0.01], "servo_lag_s": [0.08, 0.09]}
        path = tmp_path / "arm.json"
        content = {"format": "arm-control imperfections", "version": 1, "imperfections": ranges}
        path.write_text(json.dumps(content))
        drawn = [Emulate("dynamixel", imperfections=str(path), seed=seed).dynamics for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        for dynamics in drawn:
            assert 0.08 <= dynamics.lag_s <= 0.09
            assert 0.03 <= dynamics.delay_s <= 0.04
            assert dynamics.noise_deg == 0.0
        assert Emulate("dynamixel", imperfections="ideal").dynamics == ServoDynamics(lag_s=IDEAL_LAG_S)
        assert Emulate("dynamixel", lag_s=0.07).dynamics == ServoDynamics(lag_s=0.07)


def test_switching_on_holds_where_it_is_whatever_goal_was_there(servos: Emulator, clock: Clock) -> None:
    write(servos, 1, "goal_position", 3000)
    assert servos.register("goal_position", 1) == 3000  # kept, and not obeyed without torque
    clock.advance(1.0)
    assert servos.positions()[1] == 1000
    write(servos, 1, "torque_enable", 1)
    assert servos.register("goal_position", 1) == 1000
    clock.advance(1.0)
    assert servos.positions()[1] == 1000


def test_a_servo_that_keeps_its_goal_goes_there(clock: Clock) -> None:
    servos = Emulator(start_ticks=1000, clock=clock, dynamics=ServoDynamics(keeps_goal=True))
    write(servos, 1, "goal_position", 3000)
    write(servos, 1, "torque_enable", 1)
    clock.advance(3.0)
    assert servos.positions()[1] == 3000


def test_without_torque_a_joint_sags_as_told(clock: Clock) -> None:
    servos = Emulator(start_ticks=1000, clock=clock, dynamics=ServoDynamics(sag_deg_s=-36.0))
    clock.advance(1.0)
    assert servos.positions()[1] == pytest.approx(1000 - 409.6, abs=20)
    write(servos, 1, "torque_enable", 1)
    held = servos.positions()[1]
    clock.advance(1.0)
    assert servos.positions()[1] == pytest.approx(held, abs=20)
    write(servos, 1, "torque_enable", 0)
    clock.advance(60.0)
    assert servos.positions()[1] == 0


def test_a_homing_offset_moves_readings_and_goals(servos: Emulator, clock: Clock) -> None:
    write(servos, 1, "homing_offset", -300)
    assert servos.register("present_position", 1) == 700
    write(servos, 1, "torque_enable", 1)
    write(servos, 1, "goal_position", 800)
    clock.advance(2.0)
    assert servos.register("present_position", 1) == 800


def test_extended_mode_goes_over_several_turns_which_a_reboot_forgets(servos: Emulator, clock: Clock) -> None:
    write(servos, 1, "operating_mode", 4)
    write(servos, 1, "torque_enable", 1)
    assert write(servos, 1, "goal_position", -5000) == 0
    clock.advance(10.0)
    assert servos.positions()[1] == -5000
    write(servos, 1, "torque_enable", 0)
    write(servos, 1, "operating_mode", 3)
    assert servos.positions()[1] == -5000 % 4096
    assert write(servos, 1, "operating_mode", 1) == 4  # not emulated, so not taken
    assert write(servos, 1, "drive_mode", 1) == 4


# The bus watchdog


def moving_with_watchdog(servos: Emulator, clock: Clock) -> None:
    """Servo 1 on its way, and its watchdog set to 100 ms."""
    assert write(servos, 1, "torque_enable", 1) == 0
    assert write(servos, 1, "goal_position", 3500) == 0
    assert write(servos, 1, "bus_watchdog", 5) == 0
    for _ in range(10):
        clock.advance(0.03)
        ask(servos, 2, Instruction.PING)  # any packet on the bus counts


def test_the_watchdog_trips_after_its_time_and_not_before(servos: Emulator, clock: Clock) -> None:
    moving_with_watchdog(servos, clock)
    clock.advance(0.099)
    assert servos.register("bus_watchdog", 1) == 5
    clock.advance(0.002)
    assert servos.register("bus_watchdog", 1) == -1
    assert ask(servos, 1, Instruction.READ, 98, 0, 1, 0) == [(1, 0, b"\xff")]
    assert any("watchdog" in line for line in servos.events)


def test_a_tripped_watchdog_stops_the_servo_and_refuses_goals_until_it_is_cleared(
    servos: Emulator, clock: Clock
) -> None:
    moving_with_watchdog(servos, clock)
    clock.advance(0.1)
    before = servos.positions()[1]
    ways = []
    for _ in range(50):
        clock.advance(0.01)
        here = servos.positions()[1]
        ways.append(here - before)
        before = here
    assert all(after <= way + 1 for way, after in pairwise(ways))  # slower and slower, in whole ticks
    assert min(ways) == ways[-1] == 0  # and not back
    assert ways[0] > 5
    assert before < 3000
    assert servos.register("torque_enable", 1) == 1
    for name in ("goal_position", "goal_velocity", "goal_pwm"):
        assert write(servos, 1, name, 100) == 4
    sync = make_packet(BROADCAST_ID, Instruction.SYNC_WRITE, bytes([116, 0, 4, 0, 1, 100, 0, 0, 0]))
    assert answers(servos, sync) == []
    assert [goal for _, _, goal in servos.history] == [3500]
    assert write(servos, 1, "bus_watchdog", 0) == 0
    clock.advance(5.0)
    assert servos.positions()[1] == before
    assert write(servos, 1, "goal_position", 2000) == 0
    clock.advance(3.0)
    assert servos.positions()[1] == 2000


def test_the_watchdog_sleeps_without_torque(servos: Emulator, clock: Clock) -> None:
    write(servos, 1, "bus_watchdog", 1)
    clock.advance(10.0)
    assert servos.register("bus_watchdog", 1) == 1


# Faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("lost=0.01", Fault("lost", 0.01)),
        ("corrupt=1e-2:2", Fault("corrupt", 0.01, None, 2)),
        ("late=0.5@3", Fault("late", 0.5, 3.0)),
        ("overload@5:2", Fault("overload", None, 5.0, 2)),
        ("stuck", Fault("stuck")),
        ("disconnect@0.5", Fault("disconnect", None, 0.5)),
    ],
)
def test_faults_are_read_as_they_are_written(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault
    assert parse_fault(str(fault)) == fault


@pytest.mark.parametrize(
    "text",
    [
        *("", "gremlins", "LOST=1", "lost =1", "lost", "lost=", "lost=2", "lost=nan", "lost=0.1=0.2"),
        *("overload=0.5", "overload@", "overload@-1", "overload@nan", "overload@1e999", "overload:x", "overload:2@5"),
        *("disconnect:1", "swapped", "swapped@2"),
    ],
)
def test_faults_that_are_none_are_told_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|unknown") as caught:
        parse_fault(text)
    assert "\n" not in str(caught.value)


def test_any_text_is_a_fault_or_refused() -> None:
    outcomes = set()
    almost = st.from_regex(rf"({'|'.join(KINDS)}|[a-z]{{3,10}})(=[0-9.e]+)?(@[0-9.e]+)?(:\d+)?", fullmatch=True)

    @settings(max_examples=300)
    @given(st.text(max_size=30) | almost)
    def check(text: str) -> None:
        try:
            fault = parse_fault(text)
        except ValueError as error:
            assert "expected" in str(error) or "unknown" in str(error)
            outcomes.add("refused")
        else:
            assert text.startswith(fault.kind)
            assert parse_fault(str(fault)) == fault
            outcomes.add("a fault")

    check()
    assert outcomes == {"a fault", "refused"}


def test_faults_of_servos_that_are_not_there_are_refused(servos: Emulator) -> None:
    with pytest.raises(ValueError, match=r"no servo 9; expected one of \[1, 2, 3\]"):
        Emulator(faults=[parse_fault("overload@5:9")]).positions()
    with pytest.raises(ValueError, match="no servo 9"):
        servos.inject("stuck", id=9)
    with pytest.raises(ValueError, match="unknown fault 'gremlins'"):
        servos.inject("gremlins")


def test_answers_are_lost_in_the_share_asked_for_and_the_same_with_the_same_seed() -> None:
    def lost(seed: int) -> list[int]:
        servos = Emulator(faults=[parse_fault("lost=0.3:1")], seed=seed)
        ping = make_packet(1, Instruction.PING)
        return [index for index in range(1000) if not servos.answer(ping)]

    assert 240 < len(lost(0)) < 360
    assert lost(0) == lost(0) != lost(1)
    assert len(Emulator(faults=[parse_fault("lost=1:1")]).answer(make_packet(2, Instruction.PING))) == 1


def test_the_sdk_sees_answers_that_go_wrong(servos: Emulator) -> None:
    with servos, sdk(servos.path) as (port, packets):
        servos.inject("lost", id=1)
        assert packets.ping(port, 1)[1] == dynamixel_sdk.COMM_RX_TIMEOUT
        servos.heal("lost", id=1)
        servos.inject("corrupt")
        for _ in range(5):
            assert packets.read4ByteTxRx(port, 1, 132)[1] in (
                dynamixel_sdk.COMM_RX_CORRUPT,
                dynamixel_sdk.COMM_RX_TIMEOUT,
            )


def test_late_and_duplicated_answers(servos: Emulator) -> None:
    servos.inject("late")
    [(delay, answer)] = servos.answer(make_packet(1, Instruction.PING))
    assert delay > LATE_S
    servos.heal()
    servos.inject("duplicated")
    assert [copy for _, copy in servos.answer(make_packet(1, Instruction.PING))] == [answer, answer]


def test_an_answer_that_is_late_still_comes(servos: Emulator) -> None:
    servos.inject("late")
    with servos, closing(serial.Serial(servos.path, timeout=20.0)) as port:
        port.write(make_packet(1, Instruction.PING))
        begin = time.monotonic()
        assert port.read(14)[4] == 1
        assert time.monotonic() - begin > 0.8 * LATE_S


def test_noise_is_small_and_in_positions_only(servos: Emulator) -> None:
    servos.inject("noise", probability=0.5)
    read = [int.from_bytes(ask(servos, 2, Instruction.READ, 132, 0, 4, 0)[0][2], "little") for _ in range(100)]
    assert all(abs(ticks - 2000) <= NOISE_TICKS for ticks in read)
    assert len(set(read)) > 3
    assert servos.positions()[2] == 2000
    assert ask(servos, 2, Instruction.READ, 144, 0, 2, 0) == [(2, 0, b"\x78\x00")]


@pytest.mark.parametrize(
    ("kind", "bit", "stays_on"),
    [
        ("voltage", 0, True),
        ("overheating", 2, False),
        ("encoder", 3, True),
        ("shock", 4, False),
        ("overload", 5, False),
    ],
)
def test_hardware_errors_alert_and_switch_off_as_the_shutdown_register_says(
    servos: Emulator, clock: Clock, patient: None, kind: str, bit: int, stays_on: bool
) -> None:
    with servos, sdk(servos.path) as (port, packets):
        assert packets.write1ByteTxRx(port, 2, 64, 1) == (0, 0)
        servos.inject(kind, id=2)
        assert packets.read1ByteTxRx(port, 2, 70) == (1 << bit, 0, 0x80)
        assert packets.read1ByteTxRx(port, 2, 64) == (int(stays_on), 0, 0x80)
        assert packets.read1ByteTxRx(port, 1, 70) == (0, 0, 0)
        if not stays_on:
            assert packets.write1ByteTxRx(port, 2, 64, 1) == (0, 0x80)
            assert packets.read1ByteTxRx(port, 2, 64)[0] == 0  # only a reboot helps
        servos.heal(kind)
        assert packets.reboot(port, 2) == (0, 0x80)
        clock.advance(0.5)
        assert packets.read1ByteTxRx(port, 2, 70) == (0, 0, 0)


def test_what_it_measures_shows_why(servos: Emulator) -> None:
    servos.inject("voltage", id=1)
    servos.inject("overheating", id=2)
    assert servos.register("present_voltage", 1) == 50
    assert servos.register("present_temperature", 2) > servos.register("temperature_limit", 2)


def test_a_reboot_is_silent_for_a_while_and_forgets_what_is_in_ram(servos: Emulator, clock: Clock) -> None:
    write(servos, 1, "velocity_limit", 100)
    write(servos, 1, "profile_velocity", 30)
    write(servos, 1, "bus_watchdog", 10)
    write(servos, 1, "torque_enable", 1)
    servos.inject("reboot", id=1)
    assert ask(servos, 1, Instruction.PING) == []
    clock.advance(0.2)
    assert ask(servos, 1, Instruction.PING) == []
    clock.advance(0.2)
    assert len(ask(servos, 1, Instruction.PING)) == 1
    for name, value in (("torque_enable", 0), ("bus_watchdog", 0), ("profile_velocity", 0), ("velocity_limit", 100)):
        assert servos.register(name, 1) == value


def test_a_stuck_joint_stays_with_all_its_load(servos: Emulator, clock: Clock) -> None:
    write(servos, 1, "torque_enable", 1)
    servos.inject("stuck", id=1)
    write(servos, 1, "goal_position", 3000)
    clock.advance(2.0)
    assert servos.positions()[1] == 1000
    assert servos.register("present_load", 1) == 1000
    servos.heal("stuck")
    clock.advance(2.0)
    assert servos.positions()[1] == 3000


def test_a_wrap_around_is_a_turn_off_until_the_torque_goes_on(servos: Emulator) -> None:
    servos.inject("wrap", id=2)
    assert servos.register("present_position", 2) == 2000 + 4096
    write(servos, 2, "torque_enable", 1)
    assert servos.register("present_position", 2) == 2000


def test_a_slow_servo_turns_at_half_of_its_velocity_limit(servos: Emulator, clock: Clock) -> None:
    servos.inject("slow", id=1)
    for servo, goal in ((1, 3000), (2, 4000)):
        write(servos, servo, "torque_enable", 1)
        write(servos, servo, "goal_position", goal)
    clock.advance(0.4)
    limit = servos.register("velocity_limit", 1) * TICKS_PER_SPEED_UNIT
    places = servos.positions()
    assert places[2] - 2000 == pytest.approx(0.4 * limit, rel=0.05)
    assert places[1] - 1000 == pytest.approx(0.2 * limit, rel=0.05)
    servos.heal("slow")
    clock.advance(0.2)
    assert servos.positions()[1] - places[1] == pytest.approx(0.2 * limit, rel=0.05)


def test_a_frozen_reading_stays_while_the_servo_moves(servos: Emulator, clock: Clock) -> None:
    write(servos, 1, "torque_enable", 1)
    servos.inject("frozen", id=1)
    write(servos, 1, "goal_position", 3000)
    clock.advance(2.0)
    assert (servos.register("present_position", 1), servos.positions()[1]) == (1000, 3000)
    servos.heal("frozen")
    assert servos.register("present_position", 1) == 3000


def test_a_reading_drifts_by_2_degrees_a_second_while_the_servo_rests(servos: Emulator, clock: Clock) -> None:
    servos.inject("drift", id=1)
    clock.advance(9.0)
    assert servos.register("present_position", 1) == pytest.approx(1000 + 18 / 360 * 4096, abs=1)
    assert servos.positions()[1] == 1000
    servos.heal("drift")
    assert servos.register("present_position", 1) == 1000


def test_swapped_servos_answer_with_each_others_position(servos: Emulator) -> None:
    servos.inject("swapped", id=3)
    assert [servos.register("present_position", id) for id in (1, 2, 3)] == [3000, 2000, 1000]
    assert servos.positions() == {1: 1000, 2: 2000, 3: 3000}
    servos.heal("swapped", id=1)  # the other of the two
    assert [servos.register("present_position", id) for id in (1, 2, 3)] == [1000, 2000, 3000]
    with pytest.raises(ValueError, match="expected at least two servos"):
        Emulator((7,)).inject("swapped", id=7)


def test_a_silent_servo_hears_nothing_either(servos: Emulator, clock: Clock) -> None:
    write(servos, 2, "torque_enable", 1)
    write(servos, 2, "bus_watchdog", 5)
    servos.inject("silent", id=2)
    assert ask(servos, 2, Instruction.PING) == []
    assert [id for id, _, _ in ask(servos, BROADCAST_ID, Instruction.SYNC_READ, 132, 0, 4, 0, 1, 2, 3)] == [1, 3]
    clock.advance(0.2)
    ask(servos, 1, Instruction.PING)
    assert servos.register("bus_watchdog", 2) == -1
    servos.heal("silent")
    assert len(ask(servos, 2, Instruction.PING)) == 1


def test_events_come_so_long_after_the_torque_is_first_on(clock: Clock) -> None:
    servos = Emulator(faults=[parse_fault("overload@5:2"), parse_fault("lost=1@7")], clock=clock)
    clock.advance(100.0)
    write(servos, 1, "torque_enable", 1)
    write(servos, 2, "torque_enable", 1)
    clock.advance(4.9)
    assert servos.register("hardware_error_status", 2) == 0
    clock.advance(0.2)
    assert servos.register("hardware_error_status", 2) == 1 << 5
    assert servos.register("torque_enable", 2) == 0
    assert servos.register("torque_enable", 1) == 1
    assert len(ask(servos, 1, Instruction.PING)) == 1
    clock.advance(2.0)
    assert ask(servos, 1, Instruction.PING) == []


def ask_for_ever(port: serial.Serial) -> None:
    """Well, 20 s."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        port.write(make_packet(1, Instruction.PING))
        port.read(1)


def test_an_unplugged_port_is_gone(tmp_path: Path) -> None:
    link = tmp_path / "arm"
    with Emulator(link=link) as servos, closing(serial.Serial(str(link), timeout=20.0)) as port:
        port.write(make_packet(1, Instruction.PING))
        assert port.read(14)[4] == 1
        servos.inject("disconnect")
        with pytest.raises(OSError, match=r"Input/output error|no data|write failed"):
            ask_for_ever(port)
        assert not link.is_symlink()
        servos.positions()


def test_a_link_that_a_killed_emulator_left_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, openpty = tmp_path / "arm", os.openpty

    def reused() -> tuple[int, int]:
        """A port with the number of the one that the link still leads to."""
        master, slave = openpty()
        link.symlink_to(os.ttyname(slave))
        return master, slave

    monkeypatch.setattr(os, "openpty", reused)
    with Emulator(link=link) as servos:
        assert os.path.realpath(link) == servos.path
    assert not link.is_symlink()


# Whatever is sent

BYTES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        make_packet,
        st.sampled_from([1, 2, 3, 77, BROADCAST_ID]),
        st.sampled_from([*Instruction, 0, 0x77, 0xFF]),
        st.one_of(
            st.binary(max_size=40),
            st.builds(lambda address, data: bytes([address, 0]) + data, st.integers(0, 150), st.binary(max_size=12)),
            st.sampled_from([bytes([64, 0, 1]), bytes([116, 0, 0, 8, 0, 0]), b"\x01\x44\x58\x4c\x22"]),
        ),
    ),
    st.just(b"\xff\xff\xfd"),
    st.just(b"\xff\xff\xfd\x00\x01\xff\x03"),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(BYTES, st.floats(0.0, 0.3)), max_size=12), st.integers(1, 70))
def test_no_bytes_end_it(pieces: list[tuple[bytes, float]], split: int) -> None:
    clock = Clock()
    servos = Emulator(clock=clock)
    for data, seconds in pieces:
        for start in range(0, len(data), split):
            servos.answer(data[start : start + split])
        clock.advance(seconds)
    servos.answer(bytes(MAX_LENGTH + 7))  # whatever packet was begun
    clock.advance(1.0)  # after a reboot
    assert len(answers(servos, make_packet(BROADCAST_ID, Instruction.PING))) == 3
    assert len(servos.positions()) >= 1


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=5))
def test_no_bytes_end_it_at_its_port(junk: list[bytes]) -> None:
    with Emulator() as servos, closing(serial.Serial(servos.path, timeout=0.3)) as port:
        for data in junk:
            port.write(data)
        deadline = time.monotonic() + 20.0
        answer = b""
        while len(answer) < 14 and time.monotonic() < deadline:  # at the latest once the bus has been quiet
            port.write(make_packet(1, Instruction.PING))
            answer = port.read(14)
        assert answer[4] == 1


def test_nothing_grows_with_time(servos: Emulator, clock: Clock) -> None:
    sync = make_packet(BROADCAST_ID, Instruction.SYNC_WRITE, bytes([116, 0, 4, 0, 1, 100, 0, 0, 0]))
    for _ in range(2000):
        clock.advance(0.002)
        servos.answer(sync)
        write(servos, 1, "torque_enable", 1)
        write(servos, 1, "torque_enable", 0)
    assert servos.history.maxlen == HISTORY
    assert len(servos.events) == servos.events.maxlen == 1000


def test_bytes_that_nobody_reads_are_lost_and_block_nothing(servos: Emulator) -> None:
    with servos, closing(serial.Serial(servos.path, timeout=20.0)) as port:
        for _ in range(400):  # about 100 kB of answers
            port.write(make_packet(1, Instruction.READ, bytes([0, 0, 148, 0])))
            port.flush()
        port.reset_input_buffer()
        deadline = time.monotonic() + 20.0
        while servos.register("led", 1) == 0 and time.monotonic() < deadline:
            port.write(make_packet(1, Instruction.WRITE, bytes([65, 0, 1])))
            time.sleep(0.02)
            port.reset_input_buffer()
        assert servos.register("led", 1) == 1


class TestSettings:
    """Settings out of range are reported in one line."""

    @pytest.mark.parametrize(
        "wrong", [{"ids": ()}, {"ids": (1, 1)}, {"ids": (253,)}, {"start_ticks": 4096}, {"start_ticks": (1, 2)}]
    )
    def test_ids_and_positions(self, wrong: dict[str, Any]) -> None:
        """Of the emulator: ids are unique, and each servo has a start position."""
        with pytest.raises(ValueError, match="expected") as caught:
            Emulator(**wrong)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"lag_s": 0.0},
            {"lag_s": float("nan")},
            {"sag_deg_s": float("inf")},
            {"delay_s": -0.1},
            {"delay_s": float("nan")},
            {"noise_deg": 11.0},
        ],
    )
    def test_dynamics(self, wrong: dict[str, Any]) -> None:
        """Of the servos: finite, and within the bounds that the message names."""
        with pytest.raises(ValueError, match="expected") as caught:
            ServoDynamics(**wrong)
        assert "\n" not in str(caught.value)


# The command


@contextmanager
def command(*flags: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`arm-control emulate dynamixel` in a process of its own, killed if a test leaves it."""
    words = [sys.executable, "-m", "arm_control.cli", "emulate", "dynamixel", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        words, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[str]) -> str:
    """What it says once it is ready."""
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.slow
@pytest.mark.alone  # servos that answer too late, because others compute, are given up
def test_an_emulated_arm_is_driven_with_the_calibration_that_was_written_for_it(tmp_path: Path) -> None:
    with command("--link", "arm", "--calibration", "arm.json", folder=tmp_path) as process:
        assert "servos 1, 2, 3 (XL430-W250) at arm" in first_line(process)
        assert load_calibration(tmp_path / "arm.json").joint_names == Arm().joint_names
        options = {"port": str(tmp_path / "arm"), "calibration": str(tmp_path / "arm.json"), "watchdog": "2.5"}
        with closing(open_dynamixel(Arm(), options)) as driver:
            assert driver.read().angles_deg == pytest.approx([0.0, 0.0, 0.0], abs=0.1)
            driver.enable()
            driver.disable()
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stderr is not None
        said, wrong = process.stdout.read(), process.stderr.read()
        assert process.wait(60) == 130
    assert "--driver dynamixel --port arm --calibration arm.json" in said
    assert "servo 2: torque on at 1536 ticks" in said
    assert wrong == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arm.json"]


def test_the_command_ends_on_sigterm_and_takes_over_a_link_that_was_left(tmp_path: Path) -> None:
    (tmp_path / "arm").symlink_to("/dev/pts/none")
    with command("--ids", "7,8", "--link", "arm", "--start", "100,200", folder=tmp_path) as process:
        assert "servos 7, 8 " in first_line(process)
        with sdk(str(tmp_path / "arm")) as (port, packets):
            # On a slow machine the answer may come too late.
            assert any(packets.ping(port, 8)[0] == 1060 for _ in range(20))
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert not (tmp_path / "arm").is_symlink()


def test_the_command_ends_when_its_port_is_taken_away(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["emulate", "dynamixel", "--fault", "disconnect"]) == 0
    assert "fault disconnect" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--fault", "gremlins"], "unknown fault 'gremlins'; available: lost, corrupt"),
        (["--fault", "lost=lots"], "expected a fault as KIND[=PROBABILITY][@SECONDS][:ID]"),
        (["--fault", "overload@5:9"], "no servo 9; expected one of [1, 2, 3]"),
        (["--servos", "0"], "wanted a number from 1"),
        (["--servos", "2", "--ids", "1,2"], "got both"),
        (["--ids", "1,x"], "expected whole numbers as 1,2,3, got '1,x'"),
        (["--ids", "1,1"], "expected different ones"),
        (["--start", "9999"], "expected one from 0 to 4095"),
        (["--lag-s", "0"], "expected 0.005 to 1 s"),
        (["--lag-s", "0.1", "--imperfections", "rough"], "expected one of --lag-s and --imperfections, got both"),
        (["--imperfections", "ruff"], "unknown imperfections 'ruff'; expected ideal"),
        (["--link", "/nowhere/arm"], "cannot link /nowhere/arm"),
        (["--servos", "2", "--calibration", "new.json"], "the arm has 3 joints, got 2 servos"),
        (["--calibration", "/nowhere/new.json"], "there is no folder /nowhere"),
        (["--calibration", "new.json", "--fault", "stuck:9"], "no servo 9"),
    ],
)
def test_wrong_flags_are_told_in_one_line(
    flags: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["emulate", "dynamixel", *flags]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_link_never_takes_the_place_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "arm").write_text("mine")
    assert main(["emulate", "dynamixel", "--link", str(tmp_path / "arm")]) == 2
    assert "cannot link" in capsys.readouterr().err
    assert (tmp_path / "arm").read_text() == "mine"


def test_next_to_no_time_may_pass_between_two_questions() -> None:
    now = 100.0
    emulator = Emulator((1,), clock=lambda: now)
    for passed in (1e-3, 1e-12, 5e-324, 1e-9):
        now += passed
        emulator.positions()
    assert emulator.positions() == {1: 2048}


class TestStartOfAnEmulatedArm:
    """The pose in which servos stand that a calibration belongs to."""

    @staticmethod
    def started(urdf: Path) -> tuple[Calibration, list[float]]:
        """The calibration that is made for an arm, and the servos' start angles by it."""
        arm = Arm(urdf)
        calibration = make_calibration(arm, range(1, arm.joint_count + 1))
        joints = zip(calibration.joints, start_ticks(arm, calibration), strict=True)
        return calibration, [joint.degrees(ticks) for joint, ticks in joints]

    @pytest.mark.parametrize("urdf", [DEFAULT_URDF, DESK], ids=["default", "desk"])
    def test_it_is_the_default_pose(self, urdf: Path) -> None:
        """Every joint at 0 degrees, to a tick."""
        assert self.started(urdf)[1] == pytest.approx([0.0, 0.0, 0.0], abs=0.1)

    def test_a_joint_of_a_whole_turn_has_the_servos_range(self, tmp_path: Path) -> None:
        """One turn is ticks 0 to 4095; the joint's own range is -180 to 180 degrees."""
        urdf = tmp_path / "turn.urdf"
        urdf.write_text(DESK.read_text().replace("1.5708", "3.141592653589793", 2))
        calibration, angles_deg = self.started(urdf)
        calibration.check()
        assert calibration.joints[0].tick_range == (0, 4095)
        assert angles_deg == pytest.approx([0.0, 0.0, 0.0], abs=0.1)
