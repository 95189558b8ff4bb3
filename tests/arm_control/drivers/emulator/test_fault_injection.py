"""Injected faults of replies and of servos."""

import time
from contextlib import closing

import dynamixel_sdk
import pytest
import serial
from emulated import TICKS_PER_SPEED_UNIT, Clock, ask, sdk, write

from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.fault_injection import LATE_S, NOISE_TICKS
from arm_control.drivers.emulator.faults import parse_fault
from arm_control.drivers.emulator.protocol import (
    BROADCAST_ID,
    Instruction,
    make_packet,
)


class TestReplyFaults:
    """Replies that go wrong at random."""

    def test_unknown_servos(self, servos: Emulator) -> None:
        """An unknown servo or kind of fault is an error."""
        with pytest.raises(ValueError, match=r"no servo 9; expected one of \[1, 2, 3\]"):
            Emulator(faults=[parse_fault("overload@5:9")]).positions()
        with pytest.raises(ValueError, match="no servo 9"):
            servos.inject("stuck", id=9)
        with pytest.raises(ValueError, match="unknown fault 'gremlins'"):
            servos.inject("gremlins")

    def test_lost_replies(self) -> None:
        """30 % of 1,000 replies to within 6 %, repeatable by the seed."""

        def lost(seed: int) -> list[int]:
            servos = Emulator(faults=[parse_fault("lost=0.3:1")], seed=seed)
            ping = make_packet(1, Instruction.PING)
            return [index for index in range(1000) if not servos.reply(ping)]

        assert 240 < len(lost(0)) < 360
        assert lost(0) == lost(0) != lost(1)
        assert len(Emulator(faults=[parse_fault("lost=1:1")]).reply(make_packet(2, Instruction.PING))) == 1

    def test_result_codes_of_the_sdk(self, servos: Emulator) -> None:
        """Lost and corrupt replies give the SDK's own result codes."""
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

    def test_late_and_duplicated_replies(self, servos: Emulator) -> None:
        """Late ones have a delay, duplicated ones come in two copies."""
        servos.inject("late")
        [(delay, reply)] = servos.reply(make_packet(1, Instruction.PING))
        assert delay > LATE_S
        servos.heal()
        servos.inject("duplicated")
        assert [copy for _, copy in servos.reply(make_packet(1, Instruction.PING))] == [reply, reply]

    def test_a_late_reply_is_sent(self, servos: Emulator) -> None:
        """It arrives at the port after its delay, in real time."""
        servos.inject("late")
        with servos, closing(serial.Serial(servos.path, timeout=20.0)) as port:
            port.write(make_packet(1, Instruction.PING))
            begin = time.monotonic()
            assert port.read(14)[4] == 1
            assert time.monotonic() - begin > 0.8 * LATE_S

    def test_noise(self, servos: Emulator) -> None:
        """Positions are off by up to 5 ticks, and no other register changes."""
        servos.inject("noise", probability=0.5)
        read = [int.from_bytes(ask(servos, 2, Instruction.READ, 132, 0, 4, 0)[0][2], "little") for _ in range(100)]
        assert all(abs(ticks - 2000) <= NOISE_TICKS for ticks in read)
        assert len(set(read)) > 3
        assert servos.positions()[2] == 2000
        assert ask(servos, 2, Instruction.READ, 144, 0, 2, 0) == [(2, 0, b"\x78\x00")]


class TestEvents:
    """Faults that begin at one time."""

    def test_stuck(self, servos: Emulator, clock: Clock) -> None:
        """The servo does not move and reports full load."""
        write(servos, 1, "torque_enable", 1)
        servos.inject("stuck", id=1)
        write(servos, 1, "goal_position", 3000)
        clock.advance(2.0)
        assert servos.positions()[1] == 1000
        assert servos.register("present_load", 1) == 1000
        servos.heal("stuck")
        clock.advance(2.0)
        assert servos.positions()[1] == 3000

    def test_wrap(self, servos: Emulator) -> None:
        """Readings are 4096 ticks too large until the torque goes on."""
        servos.inject("wrap", id=2)
        assert servos.register("present_position", 2) == 2000 + 4096
        write(servos, 2, "torque_enable", 1)
        assert servos.register("present_position", 2) == 2000

    def test_slow(self, servos: Emulator, clock: Clock) -> None:
        """The servo moves at half of its velocity limit."""
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

    def test_frozen(self, servos: Emulator, clock: Clock) -> None:
        """The reading is constant while the servo moves."""
        write(servos, 1, "torque_enable", 1)
        servos.inject("frozen", id=1)
        write(servos, 1, "goal_position", 3000)
        clock.advance(2.0)
        assert (servos.register("present_position", 1), servos.positions()[1]) == (1000, 3000)
        servos.heal("frozen")
        assert servos.register("present_position", 1) == 3000

    def test_drift(self, servos: Emulator, clock: Clock) -> None:
        """Readings drift by 2 degrees/s while the servo rests."""
        servos.inject("drift", id=1)
        clock.advance(9.0)
        assert servos.register("present_position", 1) == pytest.approx(1000 + 18 / 360 * 4096, abs=1)
        assert servos.positions()[1] == 1000
        servos.heal("drift")
        assert servos.register("present_position", 1) == 1000

    def test_swapped(self, servos: Emulator) -> None:
        """The readings of two servos are exchanged, their positions are not."""
        servos.inject("swapped", id=3)
        assert [servos.register("present_position", id) for id in (1, 2, 3)] == [3000, 2000, 1000]
        assert servos.positions() == {1: 1000, 2: 2000, 3: 3000}
        servos.heal("swapped", id=1)  # the other of the two
        assert [servos.register("present_position", id) for id in (1, 2, 3)] == [1000, 2000, 3000]
        with pytest.raises(ValueError, match="expected at least two servos"):
            Emulator((7,)).inject("swapped", id=7)

    def test_silent(self, servos: Emulator, clock: Clock) -> None:
        """The servo neither replies nor executes instructions, and its watchdog trips."""
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

    def test_start_times(self, clock: Clock) -> None:
        """`@SECONDS` counts from the first torque."""
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
