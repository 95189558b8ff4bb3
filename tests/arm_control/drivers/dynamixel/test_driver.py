"""The DYNAMIXEL driver on emulated servos: readings, targets, torque, faults and options."""

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from dynamixel_arm import calibration, connected, one_line, send, settled
from emulated import Clock
from helpers import wait_until
from locations import ROOT

from arm_control.drivers.base import DriverError
from arm_control.drivers.dynamixel.bus import Bus, NoReplyError
from arm_control.drivers.dynamixel.calibration import TICKS_PER_DEGREE
from arm_control.drivers.dynamixel.driver import open_dynamixel
from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.servo_dynamics import ServoDynamics
from envs.arm import Arm

DRIVE = """
import sys, time
from dynamixel_arm import calibration
from arm_control.drivers.dynamixel.driver import DynamixelDriver
driver = DynamixelDriver(sys.argv[1], calibration(), watchdog_s=0.5, patience_s=0.2)
driver.enable()
angle = driver.read().angles_deg[0]
print("moving", flush=True)
while True:
    angle = min(90.0, angle + 0.1)
    driver.write([angle, 40.0, 40.0])
    driver.read()
    time.sleep(0.02)
"""


class TestReadingAndWriting:
    """Angles and targets in degrees of the joints."""

    def test_readings(self, servos: Emulator, clock: Clock) -> None:
        """Angles, speeds and loads have the signs of the joints; values are ticks over ticks per degree."""
        with connected(servos.path) as driver:
            before = time.monotonic()
            state = driver.read()
            assert before <= state.stamp_s <= time.monotonic()
            expected = [100 / TICKS_PER_DEGREE, 948 / TICKS_PER_DEGREE, 500 / TICKS_PER_DEGREE]
            assert state.angles_deg == pytest.approx(expected, abs=1e-9)
            assert (state.speeds_deg_s, state.loads, state.alerts) == ([0.0] * 3, [0.0] * 3, ())
            assert (state.temperatures_c, state.voltages_v) == ([30.0] * 3, pytest.approx([12.0] * 3))
            driver.enable()
            send(driver, [80.0, 10.0, 80.0])
            clock.advance(0.05)
            state = driver.read()
            for values in (state.speeds_deg_s, state.loads):
                assert values is not None
                assert [math.copysign(1.0, value) for value in values] == [1.0, -1.0, 1.0]
            for _ in range(40):
                clock.advance(0.04)
                state = driver.read()
            assert state.angles_deg == pytest.approx([80.0, 10.0, 80.0], abs=0.05)
            assert driver.retried == 0

    def test_goals_are_the_nearest_ticks(self, servos: Emulator) -> None:
        """0, 45.04 and 90 degrees in ticks, by hand; nothing but goal positions is written."""
        with connected(servos.path) as driver:
            driver.enable()
            before = len(servos.history)
            send(driver, [0.0, 45.04, 90.0])
            assert [(id, ticks) for _, id, ticks in list(servos.history)[before:]] == [(1, 1100), (2, 1612), (3, 1976)]

    @pytest.mark.parametrize("target", [[math.nan, 1, 1], [1, math.inf, 1], [1, 1, 90.01], [-0.01, 1, 1], [1, 1], []])
    def test_invalid_targets_are_not_sent(self, servos: Emulator, target: list[float]) -> None:
        """Targets that are not finite, out of range, or of too few joints."""
        with connected(servos.path) as driver:
            driver.enable()
            before = list(servos.history)
            with pytest.raises(DriverError) as error:
                driver.write(target)
            one_line(error)
            driver.read()
            assert list(servos.history) == before


class TestTorque:
    """Switching the torque on and off."""

    def test_enabling_moves_nothing(self, servos: Emulator, clock: Clock) -> None:
        """The present position becomes the goal; watchdog and speed limit are set."""
        bus = Bus(servos.path, patience_s=0.5)
        for id in (1, 2, 3):
            bus.write(id, "goal_position", 300)
        bus.close()
        here = servos.positions()
        with connected(servos.path) as driver:
            driver.enable()
            assert [servos.register("torque_enable", id) for id in (1, 2, 3)] == [1, 1, 1]
            assert [servos.register("bus_watchdog", id) for id in (1, 2, 3)] == [10, 10, 10]
            # 300 degrees/s are 218.3 units of 0.229 rev/min; a tenth above.
            assert [servos.register("profile_velocity", id) for id in (1, 2, 3)] == [241, 241, 241]
            for _ in range(20):
                clock.advance(0.05)
                driver.read()
        assert servos.positions() == here

    def test_a_sinking_joint_is_caught_gently(self) -> None:
        """It returns to its position at less than 60 degrees/s."""
        with (
            Emulator(
                start_ticks=(1200, 2048, 2500), dynamics=ServoDynamics(sag_deg_s=-40.0, keeps_goal=True)
            ) as emulator,
            connected(emulator.path, watchdog_s=2.5) as driver,
        ):
            driver.enable()
            caught = driver.read()
            fastest = 0.0
            for _ in range(20):
                time.sleep(0.01)
                fastest = max(fastest, *map(abs, driver.read().speeds_deg_s))
            assert fastest < 60.0
            assert driver.read().angles_deg == pytest.approx(caught.angles_deg, abs=8.0)

    def test_taking_over_an_arm_after_a_crash(self, servos: Emulator, clock: Clock) -> None:
        """Its torque is on and its watchdog has tripped; it holds, and then moves again."""
        with connected(servos.path) as driver:
            driver.enable()
            send(driver, [80.0, 10.0, 80.0])
            clock.advance(0.08)
        stopped = settled(servos, clock)
        assert [servos.register("bus_watchdog", id) for id in (1, 2, 3)] == [-1, -1, -1]
        assert [servos.register("torque_enable", id) for id in (1, 2, 3)] == [1, 1, 1]
        assert stopped[1] < calibration().joints[0].ticks(70.0)
        with connected(servos.path) as driver:
            driver.enable()
            for _ in range(10):
                clock.advance(0.05)
                driver.read()
            assert servos.positions() == stopped
            assert [servos.register("bus_watchdog", id) for id in (1, 2, 3)] == [10, 10, 10]
            send(driver, [50.0, 50.0, 50.0])
            for _ in range(20):
                clock.advance(0.05)
                state = driver.read()
            assert state.angles_deg == pytest.approx([50.0] * 3, abs=0.1)

    def test_only_disable_switches_the_torque_off(self, servos: Emulator, clock: Clock) -> None:
        """Closing leaves it on."""
        with connected(servos.path) as driver:
            driver.enable()
            driver.close()
            driver.close()
            with pytest.raises(DriverError, match="closed"):
                driver.read()
        here = settled(servos, clock)
        assert [servos.register("torque_enable", id) for id in (1, 2, 3)] == [1, 1, 1]
        with connected(servos.path) as driver:
            driver.disable()
            assert [servos.register("torque_enable", id) for id in (1, 2, 3)] == [0, 0, 0]
            assert [servos.register("bus_watchdog", id) for id in (1, 2, 3)] == [0, 0, 0]
            assert driver.read().angles_deg[0] == calibration().joints[0].degrees(here[1])

    def test_disabling_tries_every_servo_and_names_those_that_fail(self, servos: Emulator) -> None:
        """All others are switched off."""
        with connected(servos.path, patience_s=0.05) as driver:
            driver.enable()
            servos.inject("silent", 1)
            with pytest.raises(DriverError, match="torque may still be on: base_yaw") as error:
                driver.disable()
            one_line(error)
            assert [servos.register("torque_enable", id) for id in (1, 2, 3)] == [1, 0, 0]

    def test_enabling_that_fails_switches_off_again(self, servos: Emulator) -> None:
        """No servo is left with torque."""
        with connected(servos.path, patience_s=0.05) as driver:
            servos.inject("silent", 3)
            with pytest.raises(NoReplyError, match="servo 3"):
                driver.enable()
            assert [servos.register("torque_enable", id) for id in (1, 2)] == [0, 0]

    @pytest.mark.slow
    def test_the_arm_stops_and_holds_when_its_program_is_killed(self) -> None:
        """The watchdogs of the servos stop it."""
        with Emulator(start_ticks=(1200, 1600, 2500)) as emulator:
            program = subprocess.Popen(
                [sys.executable, "-c", DRIVE, emulator.path],
                stdout=subprocess.PIPE,
                cwd=Path(__file__).parent,
                env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            )
            with program:
                assert program.stdout is not None
                assert program.stdout.readline() == b"moving\n"
                wait_until(lambda: emulator.positions()[1] > 1230)
                program.send_signal(signal.SIGKILL)
            wait_until(lambda: [emulator.register("bus_watchdog", id) for id in (1, 2, 3)] == [-1, -1, -1])
            time.sleep(0.3)
            held = emulator.positions()
            time.sleep(0.3)
            assert emulator.positions() == held
            assert held[1] < calibration().joints[0].ticks(90.0)
            assert [emulator.register("torque_enable", id) for id in (1, 2, 3)] == [1, 1, 1]


class TestFaults:
    """Unplugged ports, reboots, watchdogs and alarms."""

    def test_unplugged(self, servos: Emulator) -> None:
        """Every call raises an error within 5 s."""
        with connected(servos.path) as driver:
            driver.enable()
            servos.inject("disconnect")
            wait_until(lambda: not servos.is_open)
            for call in (driver.read, driver.read, lambda: driver.write([1.0] * 3), driver.enable, driver.disable):
                begin = time.monotonic()
                message = "is the adaptor plugged in" if call == driver.enable else "unplugged"  # enable opens it again
                with pytest.raises(DriverError, match=message) as error:
                    call()
                assert time.monotonic() - begin < 5.0
                assert "\n" not in str(error.value)
            driver.close()

    @pytest.mark.slow
    def test_plugged_in_again(self, tmp_path: Path, clock: Clock) -> None:
        """Enabling opens the port again and checks the servos."""
        link = tmp_path / "arm"
        with (
            Emulator(start_ticks=(1200, 2048, 2500), clock=clock, link=link) as servos,
            connected(str(link)) as driver,
        ):
            driver.enable()
            servos.inject("disconnect")
            wait_until(lambda: not servos.is_open)
            with pytest.raises(DriverError, match="unplugged"):
                driver.read()
            with Emulator(ids=(1, 2), clock=clock, link=link):  # another arm
                for _ in range(2):
                    with pytest.raises(DriverError, match=r"servo 3 \(elbow\) did not reply"):
                        driver.enable()
            with pytest.raises(DriverError, match="unplugged"):
                driver.read()
            with Emulator(start_ticks=(1400, 2048, 2500), clock=clock, link=link) as back:
                driver.enable()
                assert driver.read().angles_deg[0] == pytest.approx(300 / TICKS_PER_DEGREE)
                assert [back.register("torque_enable", id) for id in (1, 2, 3)] == [1, 1, 1]
                driver.disable()

    def test_reboot(self, servos: Emulator, clock: Clock) -> None:
        """Reads and writes are errors until the arm is enabled again."""
        with connected(servos.path, watchdog_s=2.0) as driver:
            driver.enable()
            servos.inject("reboot", 2)
            clock.advance(0.35)  # it is silent meanwhile
            for _ in range(2):
                with pytest.raises(DriverError, match=r"servo 2 \(shoulder\): rebooted") as error:
                    driver.read()
                one_line(error)
                with pytest.raises(DriverError, match="rebooted"):
                    driver.write([10.0] * 3)
            driver.enable()
            assert driver.read().alerts == ()
            assert servos.register("torque_enable", 2) == 1

    def test_tripped_watchdog(self, servos: Emulator, clock: Clock) -> None:
        """The next reading is an error, until the arm is enabled again."""
        with connected(servos.path) as driver:
            driver.enable()
            send(driver, [20.0] * 3)
            clock.advance(0.3)
            driver.write([30.0] * 3)  # rejected by the servos without a reply
            with pytest.raises(DriverError, match="stopped by the bus watchdog after 200 ms without") as error:
                driver.read()
            one_line(error)
            with pytest.raises(DriverError, match="bus watchdog"):
                driver.write([30.0] * 3)
            driver.enable()
            send(driver, [30.0] * 3)
            for _ in range(20):
                clock.advance(0.05)
                state = driver.read()
            assert state.angles_deg == pytest.approx([30.0] * 3, abs=0.1)

    @pytest.mark.parametrize(
        ("fault", "name", "torque"),
        [("overload", "overload", 0), ("voltage", "input voltage", 1), ("shock", "shock", 0)],
    )
    def test_alarms(self, servos: Emulator, clock: Clock, fault: str, name: str, torque: int) -> None:
        """Each is an alert with the joint's name, and prevents enabling."""
        with connected(servos.path) as driver:
            driver.enable()
            servos.inject(fault, 2)
            clock.advance(0.01)
            state = driver.read()
            assert len(state.alerts) == 1
            assert state.alerts[0].startswith("shoulder: ")
            assert name in state.alerts[0]
            assert servos.register("torque_enable", 2) == torque
            with pytest.raises(DriverError, match=r"servo 2 \(shoulder\) reports .*switch its power off"):
                driver.enable()

    def test_a_reading_off_by_a_turn(self, servos: Emulator) -> None:
        """It is reported as read, and such an arm is not enabled."""
        with connected(servos.path) as driver:
            before = driver.read().angles_deg
            servos.inject("wrap", 1)
            assert driver.read().angles_deg[0] == pytest.approx(before[0] + 360.0)
            with pytest.raises(DriverError, match="turned past its edge"):
                driver.enable()
            assert servos.register("torque_enable", 1) == 0


class TestOpening:
    """Options of the driver."""

    def test_baud_and_watchdog(self, servos: Emulator) -> None:
        """Baud rates and watchdog times out of range are errors."""
        for options in ({"baud": 1234}, {"watchdog_s": 0.0}, {"watchdog_s": 3.0}, {"watchdog_s": math.nan}):
            with pytest.raises(DriverError, match=r"baud rate|watchdog") as error, connected(servos.path, **options):
                pass
            one_line(error)

    def test_port_and_calibration(self, servos: Emulator, tmp_path: Path) -> None:
        """Missing, unknown and invalid options, and the calibration of another arm, are errors."""
        file = tmp_path / "calibration.json"
        calibration().save(file)
        options = {"port": servos.path, "calibration": str(file)}
        with closing(open_dynamixel(Arm(), options | {"watchdog": "0.2"})) as driver:
            assert driver.joint_names == Arm().joint_names
            assert driver.calibration_sha256 == calibration().sha256
        for wrong in (
            {"port": servos.path},
            {"calibration": str(file)},
            options | {"speed": "1"},
            options | {"baud": "fast"},
            options | {"watchdog": "nan"},
            options | {"calibration": str(tmp_path / "absent.json")},
        ):
            with pytest.raises(ValueError, match=r"driver dynamixel|does not exist") as error:
                open_dynamixel(Arm(), wrong)
            one_line(error)
        joints = calibration(name=("a", "b", "c"))
        joints.save(file)
        with pytest.raises(ValueError, match="expected 'arm3' with"):
            open_dynamixel(Arm(), options)
