"""Registers, bus watchdog, reboots and hardware errors of emulated servos."""

from itertools import pairwise

import pytest
from emulated import Clock, ask, replies, sdk, write

from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.protocol import (
    BROADCAST_ID,
    Instruction,
    make_packet,
)


def moving_with_watchdog(servos: Emulator, clock: Clock) -> None:
    """Start servo 1 moving with a watchdog of 100 ms."""
    assert write(servos, 1, "torque_enable", 1) == 0
    assert write(servos, 1, "goal_position", 3500) == 0
    assert write(servos, 1, "bus_watchdog", 5) == 0
    for _ in range(10):
        clock.advance(0.03)
        ask(servos, 2, Instruction.PING)  # any packet on the bus counts


class TestWatchdog:
    """The bus watchdog stops a servo that receives nothing."""

    def test_it_trips_after_its_time(self, servos: Emulator, clock: Clock) -> None:
        """100 ms after the last packet on the bus, to 2 ms."""
        moving_with_watchdog(servos, clock)
        clock.advance(0.099)
        assert servos.register("bus_watchdog", 1) == 5
        clock.advance(0.002)
        assert servos.register("bus_watchdog", 1) == -1
        assert ask(servos, 1, Instruction.READ, 98, 0, 1, 0) == [(1, 0, b"\xff")]
        assert any("watchdog" in line for line in servos.events)

    def test_a_tripped_watchdog_holds_until_it_is_cleared(self, servos: Emulator, clock: Clock) -> None:
        """The servo brakes and holds; goals are errors until the register is set to 0."""
        moving_with_watchdog(servos, clock)
        clock.advance(0.1)
        before = servos.positions()[1]
        steps = []
        for _ in range(50):
            clock.advance(0.01)
            here = servos.positions()[1]
            steps.append(here - before)
            before = here
        assert all(after <= step + 1 for step, after in pairwise(steps))  # slower and slower, in whole ticks
        assert min(steps) == steps[-1] == 0  # and not back
        assert steps[0] > 5
        assert before < 3000
        assert servos.register("torque_enable", 1) == 1
        for name in ("goal_position", "goal_velocity", "goal_pwm"):
            assert write(servos, 1, name, 100) == 4
        sync = make_packet(BROADCAST_ID, Instruction.SYNC_WRITE, bytes([116, 0, 4, 0, 1, 100, 0, 0, 0]))
        assert replies(servos, sync) == []
        assert [goal for _, _, goal in servos.history] == [3500]
        assert write(servos, 1, "bus_watchdog", 0) == 0
        clock.advance(5.0)
        assert servos.positions()[1] == before
        assert write(servos, 1, "goal_position", 2000) == 0
        clock.advance(3.0)
        assert servos.positions()[1] == 2000

    def test_it_does_not_trip_without_torque(self, servos: Emulator, clock: Clock) -> None:
        """Ten seconds without a packet change nothing."""
        write(servos, 1, "bus_watchdog", 1)
        clock.advance(10.0)
        assert servos.register("bus_watchdog", 1) == 1


class TestHardware:
    """Hardware errors, measurements and reboots."""

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
    def test_hardware_errors(
        self, servos: Emulator, clock: Clock, patient: None, kind: str, bit: int, stays_on: bool
    ) -> None:
        """The alert bit is set, the shutdown register decides about the torque, and a reboot clears it."""
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

    def test_measurements_show_the_cause(self, servos: Emulator) -> None:
        """Voltage and temperature are out of range."""
        servos.inject("voltage", id=1)
        servos.inject("overheating", id=2)
        assert servos.register("present_voltage", 1) == 50
        assert servos.register("present_temperature", 2) > servos.register("temperature_limit", 2)

    def test_reboot(self, servos: Emulator, clock: Clock) -> None:
        """EEPROM registers are kept, RAM registers are reset."""
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
        for name, value in (
            ("torque_enable", 0),
            ("bus_watchdog", 0),
            ("profile_velocity", 0),
            ("velocity_limit", 100),
        ):
            assert servos.register(name, 1) == value


class TestByHand:
    """Changes of a servo that do not use its bus."""

    def test_a_servo_without_torque_is_turned(self, servos: Emulator) -> None:
        """Its reading changes."""
        servos.turn(2, 2500)
        assert servos.positions() == {1: 1000, 2: 2500, 3: 3000}

    def test_a_servo_with_torque_is_not_turned(self, servos: Emulator) -> None:
        """Turning it is an error."""
        write(servos, 2, "torque_enable", 1)
        with pytest.raises(ValueError, match="its torque is on"):
            servos.turn(2, 2500)

    def test_any_register_can_be_set(self, servos: Emulator) -> None:
        """Also registers that cannot be written over the bus."""
        servos.set_register("model_number", 3, 1020)
        assert servos.register("model_number", 3) == 1020
