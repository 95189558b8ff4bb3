"""The Dynamixel driver, with the vendor's SDK and emulated servos: genuine packets, and whatever goes wrong."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from locations import ROOT

from arm_control.cli import main, parse_flags
from arm_control.drivers.base import DriverError
from arm_control.drivers.dynamixel.bus import Bus, NoAnswerError, RefusedError
from arm_control.drivers.dynamixel.calibration import TICKS_PER_DEGREE, Calibration, JointCalibration
from arm_control.drivers.dynamixel.control_table import BAUD_RATES, REGISTERS
from arm_control.drivers.dynamixel.driver import DynamixelDriver, open_dynamixel
from arm_control.drivers.dynamixel.port import check_latency
from arm_control.drivers.dynamixel.state_reader import SHAPES, STATE, fastest_rate_hz, rate_hint
from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.servo import ServoDynamics
from arm_control.drivers.opening import load_driver
from arm_control.runner.connection import check_rate
from arm_control.runner.planning import plan_policy
from arm_control.runner.session_config import SessionConfig
from envs.arm import Arm

NAMES = ("base_yaw", "shoulder", "elbow")
SLOW = {"patience_s": 0.5, "retry_within_s": 10.0}  # where nothing is lost, a slow machine is no fault


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    """The servos' time: no watchdog trips while the machine is slow."""
    return Clock()


@pytest.fixture
def servos(clock: Clock) -> Iterator[Emulator]:
    """Three healthy servos whose time stands still."""
    with Emulator(start_ticks=(1200, 2048, 2500), clock=clock, dynamics=ServoDynamics(keeps_goal=True)) as emulator:
        yield emulator


def calibration(**changes: Any) -> Calibration:
    """The elbow turns the other way round."""
    joints = []
    for index, name in enumerate(NAMES):
        fields: dict[str, Any] = {
            "name": name,
            "servo_id": index + 1,
            "model_number": 1060,
            "zero_tick": 3000.0 if index == 2 else 1100.0,
            "direction": -1 if index == 2 else 1,
            "ticks_per_degree": TICKS_PER_DEGREE,
            "lower_deg": 0.0,
            "upper_deg": 90.0,
            "max_speed_deg_s": 300.0,
            "max_acceleration_deg_s2": 2000.0,
        }
        joints.append(JointCalibration(**fields | {k: v[index] for k, v in changes.items()}))
    return Calibration("arm3", tuple(joints))


@contextmanager
def connected(port: str, **options: Any) -> Iterator[DynamixelDriver]:
    with closing(DynamixelDriver(port, options.pop("calibration", calibration()), **SLOW | options)) as driver:
        yield driver


def send(driver: DynamixelDriver, target: list[float]) -> None:
    """Write, and wait until the servos have it, which only a reading tells."""
    driver.write(target)
    driver.read()


def settled(emulator: Emulator, clock: Clock) -> dict[int, int]:
    """Where the servos are after a second; the driver says nothing meanwhile, which would end it for watchdogs."""
    clock.advance(1.0)
    return emulator.positions()


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


# Readings and targets.


def test_a_reading_is_in_the_joints_degrees_and_signs(servos: Emulator, clock: Clock) -> None:
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


def test_goals_are_the_nearest_ticks_and_nothing_else_is_sent(servos: Emulator) -> None:
    with connected(servos.path) as driver:
        driver.enable()
        before = len(servos.history)
        send(driver, [0.0, 45.04, 90.0])
        assert [(id, ticks) for _, id, ticks in list(servos.history)[before:]] == [(1, 1100), (2, 1612), (3, 1976)]


@pytest.mark.parametrize("target", [[math.nan, 1, 1], [1, math.inf, 1], [1, 1, 90.01], [-0.01, 1, 1], [1, 1], []])
def test_targets_that_safety_should_have_stopped_are_not_sent(servos: Emulator, target: list[float]) -> None:
    with connected(servos.path) as driver:
        driver.enable()
        before = list(servos.history)
        with pytest.raises(DriverError) as error:
            driver.write(target)
        one_line(error)
        driver.read()
        assert list(servos.history) == before


def test_every_size_of_a_question_has_all_that_a_reading_needs() -> None:
    assert len({size for _, size in SHAPES}) == len(SHAPES)
    for start, size in SHAPES:
        assert start in {register.address for register in REGISTERS.values()}
        assert all(start <= r.address and r.address + r.size <= start + size <= 148 for r in STATE.values())
        assert start + size <= 148


def test_how_often_an_arm_can_be_asked_follows_from_its_bytes() -> None:
    # 17 + 3 x 60 + 29 bytes of 10 bits, and two adaptor latencies of 1 ms.
    assert fastest_rate_hz(1_000_000, 3) == pytest.approx(1.0 / (0.00226 + 0.002))
    assert fastest_rate_hz(57_600, 3) < 50 < fastest_rate_hz(1_000_000, 6)


# Torque.


def test_enabling_moves_nothing_whatever_goal_was_there(servos: Emulator, clock: Clock) -> None:
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


def test_a_sinking_joint_is_caught_gently() -> None:
    with (
        Emulator(start_ticks=(1200, 2048, 2500), dynamics=ServoDynamics(sag_deg_s=-40.0, keeps_goal=True)) as emulator,
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


def test_an_arm_left_by_a_crash_is_taken_over_where_it_is(servos: Emulator, clock: Clock) -> None:
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


def test_only_disable_switches_the_torque_off(servos: Emulator, clock: Clock) -> None:
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


def test_disabling_tries_every_servo_and_names_those_that_fail(servos: Emulator) -> None:
    with connected(servos.path, patience_s=0.05) as driver:
        driver.enable()
        servos.inject("silent", 1)
        with pytest.raises(DriverError, match="torque may still be on: base_yaw") as error:
            driver.disable()
        one_line(error)
        assert [servos.register("torque_enable", id) for id in (1, 2, 3)] == [1, 0, 0]


def test_enabling_that_fails_switches_off_again_what_it_switched_on(servos: Emulator) -> None:
    with connected(servos.path, patience_s=0.05) as driver:
        servos.inject("silent", 3)
        with pytest.raises(NoAnswerError, match="servo 3"):
            driver.enable()
        assert [servos.register("torque_enable", id) for id in (1, 2)] == [0, 0]


DRIVE = """
import sys, time
from test_driver import calibration
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


@pytest.mark.slow
def test_the_arm_stops_and_holds_when_its_program_is_killed() -> None:
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


def wait_until(holds: Callable[[], bool]) -> None:
    """Fails only after a time that no machine needs."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


# What goes wrong meanwhile.


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["lost", "corrupt", "duplicated"])
def test_answers_that_go_wrong_are_asked_for_again_and_counted(servos: Emulator, clock: Clock, fault: str) -> None:
    with connected(servos.path, patience_s=0.02, retries=30) as driver:
        driver.enable()
        servos.inject(fault, probability=0.15)
        for tick in range(60):
            target = 40.0 + 0.5 * tick
            send(driver, [target] * 3)
            clock.advance(0.08)
            state = driver.read()
            assert state.angles_deg == pytest.approx([target] * 3, abs=35.0)
        servos.heal()
        if fault != "duplicated":  # which needs no second question, unless the machine is busy
            assert driver.retried > 0
        for _ in range(20):
            clock.advance(0.05)
            state = driver.read()
        assert state.angles_deg == pytest.approx([target] * 3, abs=0.05)


def test_a_late_answer_is_never_taken_for_that_to_a_later_question(servos: Emulator, clock: Clock) -> None:
    with connected(servos.path, patience_s=0.01) as driver:
        driver.enable()
        for target in (20.0, 40.0, 60.0, 30.0, 70.0):
            servos.inject("late")  # by 50 ms
            with pytest.raises(NoAnswerError):
                driver.read()
            servos.heal()
            send(driver, [target] * 3)
            clock.advance(0.09)
            moved = servos.positions()
            state = driver.read()
            joints = calibration().joints
            assert state.angles_deg == pytest.approx([j.degrees(moved[j.servo_id]) for j in joints], abs=1e-9)


def test_a_servo_that_answers_no_more_is_named_after_few_questions(servos: Emulator) -> None:
    with connected(servos.path, patience_s=0.005, retry_within_s=1.0) as driver:
        driver.enable()
        servos.inject("silent", 2)
        with pytest.raises(NoAnswerError, match=r"no answer from servo 2 \(shoulder\)") as error:
            driver.read()
        one_line(error)
        assert driver.retried == 2
    servos.heal()
    with connected(servos.path, patience_s=0.05, retry_within_s=0.01) as driver:
        servos.inject("silent", 2)
        with pytest.raises(NoAnswerError, match="reads sent: 1;"):
            driver.read()


def test_an_unplugged_arm_is_told_at_once_and_every_time(servos: Emulator) -> None:
    with connected(servos.path) as driver:
        driver.enable()
        servos.inject("disconnect")
        wait_until(lambda: not servos.is_open)
        for call in (driver.read, driver.read, lambda: driver.write([1.0] * 3), driver.enable, driver.disable):
            begin = time.monotonic()
            said = "is the adaptor plugged in" if call == driver.enable else "unplugged"  # enable opens it again
            with pytest.raises(DriverError, match=said) as error:
                call()
            assert time.monotonic() - begin < 5.0
            assert "\n" not in str(error.value)
        driver.close()


@pytest.mark.slow
def test_an_arm_that_is_plugged_in_again_is_greeted_and_enabled(tmp_path: Path, clock: Clock) -> None:
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
                with pytest.raises(DriverError, match=r"servo 3 \(elbow\) did not answer"):
                    driver.enable()
        with pytest.raises(DriverError, match="unplugged"):
            driver.read()
        with Emulator(start_ticks=(1400, 2048, 2500), clock=clock, link=link) as back:
            driver.enable()
            assert driver.read().angles_deg[0] == pytest.approx(300 / TICKS_PER_DEGREE)
            assert [back.register("torque_enable", id) for id in (1, 2, 3)] == [1, 1, 1]
            driver.disable()


def test_a_reboot_is_noticed_at_the_next_reading(servos: Emulator, clock: Clock) -> None:
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


def test_a_tripped_watchdog_is_noticed_though_no_goal_is_answered(servos: Emulator, clock: Clock) -> None:
    with connected(servos.path) as driver:
        driver.enable()
        send(driver, [20.0] * 3)
        clock.advance(0.3)
        driver.write([30.0] * 3)  # refused by the servos, silently
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
    ("fault", "name", "torque"), [("overload", "overload", 0), ("voltage", "input voltage", 1), ("shock", "shock", 0)]
)
def test_a_servos_complaint_is_in_the_very_next_reading(
    servos: Emulator, clock: Clock, fault: str, name: str, torque: int
) -> None:
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


def test_a_reading_that_jumps_by_a_turn_is_told_as_it_is(servos: Emulator) -> None:
    with connected(servos.path) as driver:
        before = driver.read().angles_deg
        servos.inject("wrap", 1)
        assert driver.read().angles_deg[0] == pytest.approx(before[0] + 360.0)
        with pytest.raises(DriverError, match="turned past its edge"):
            driver.enable()
        assert servos.register("torque_enable", 1) == 0


def test_an_interrupted_question_does_not_block_the_port(servos: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(servos.path) as driver:
        packets = driver._bus._packets

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(packets, "rxPacket", interrupt)
            with pytest.raises(KeyboardInterrupt):
                driver.read()
        assert len(driver.read().angles_deg) == 3


def test_the_wall_clock_may_be_set_meanwhile(servos: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(servos.path, patience_s=0.02) as driver:
        readings = iter(range(10**6, 0, -1))
        monkeypatch.setattr(time, "time", lambda: float(next(readings)))  # backwards
        for _ in range(2):
            driver.read()
            servos.inject("silent")
            with pytest.raises(NoAnswerError):
                driver.read()
            servos.heal()


# Connecting.


@pytest.mark.slow
def test_servos_that_are_not_there_are_named_with_those_that_are(servos: Emulator) -> None:
    with pytest.raises(DriverError) as error, connected(servos.path, calibration=calibration(servo_id=(1, 2, 9))):
        pass
    text = one_line(error)
    assert "servo 9 (elbow) did not answer" in text
    assert "answering: 1 (model 1060), 2 (model 1060), 3 (model 1060)" in text


@pytest.mark.parametrize(
    ("register", "value", "said"),
    [
        ("model_number", 1020, "is of model 1020, the calibration is of 1060"),
        ("firmware", 37, "has firmware 37; expected 38"),
        ("operating_mode", 4, "operating mode 4; expected 3"),
        ("drive_mode", 1, "drive mode 1; expected 0"),
        ("homing_offset", -50, "homing offset -50; expected 0"),
        ("max_position_limit", 2000, "takes goals from 0 to 2000 ticks, its calibrated range is 1100 to 2124"),
        ("min_position_limit", 1200, "takes goals from 1200 to 4095"),
        ("velocity_limit", 100, "turns at most 137 degrees/s"),
        ("hardware_error_status", 0b100000, "reports overload"),
        ("hardware_error_status", 0b1001, "reports input voltage, motor encoder"),
    ],
)
def test_servos_that_are_not_as_calibrated_are_refused(servos: Emulator, register: str, value: int, said: str) -> None:
    servos.set_register(register, 2, value)
    with pytest.raises(DriverError) as error, connected(servos.path):
        pass
    text = one_line(error)
    assert "servo 2 (shoulder)" in text
    assert said in text
    servos.set_register(register, 2, REGISTERS[register].initial)
    with connected(servos.path):  # nothing was left locked
        pass


def test_the_return_delay_is_set_unless_the_torque_is_on(servos: Emulator) -> None:
    with connected(servos.path) as driver:
        assert [servos.register("return_delay", id) for id in (1, 2, 3)] == [0, 0, 0]
        driver.enable()
        servos.set_register("return_delay", 1, 250)
        driver.close()
    with connected(servos.path):
        assert servos.register("return_delay", 1) == 250


def test_two_programs_do_not_share_a_port(servos: Emulator) -> None:
    with connected(servos.path) as driver:
        driver.enable()
        with pytest.raises(DriverError, match="used by another program") as error, connected(servos.path):
            pass
        one_line(error)
        assert driver.read().alerts == ()


def test_ports_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for port in (tmp_path / "absent", file, pipe, tmp_path, "/dev/null", "a\0b", ""):
        with pytest.raises(DriverError, match=r"port") as error, connected(str(port)):
            pass
        one_line(error)
    with pytest.raises(DriverError, match="ports here: "), connected(str(tmp_path / "absent")):
        pass


def test_wrong_rates_and_watchdogs_are_refused(servos: Emulator) -> None:
    for options in ({"baud": 1234}, {"watchdog_s": 0.0}, {"watchdog_s": 3.0}, {"watchdog_s": math.nan}):
        with pytest.raises(DriverError, match=r"baud rate|watchdog") as error, connected(servos.path, **options):
            pass
        one_line(error)


def test_an_adaptor_that_holds_answers_back_is_refused_with_what_mends_it(servos: Emulator, tmp_path: Path) -> None:
    timer = tmp_path / Path(servos.path).name / "latency_timer"
    timer.parent.mkdir()
    timer.write_text("16\n")
    with pytest.raises(DriverError) as error, connected(servos.path, usb_serial=tmp_path):
        pass
    assert f"by 16 ms; expected 1: echo 1 | sudo tee {timer}" in one_line(error)
    timer.write_text("1\n")
    with connected(servos.path, usb_serial=tmp_path):
        pass
    timer.write_text("what?")
    check_latency(servos.path, tmp_path)


def test_registers_that_are_refused_say_why(servos: Emulator) -> None:
    bus = Bus(servos.path, patience_s=0.5)
    with closing(bus):
        with pytest.raises(
            RefusedError, match="servo 1 has limits that exclude the value: goal position 5000"
        ) as error:
            bus.write(1, "goal_position", 5000)
        one_line(error)
        with pytest.raises(RefusedError, match="does not accept the value"):
            bus.write(1, "bus_watchdog", -5)
        assert bus.read(1, ["goal_position", "torque_enable"])["torque_enable"] == 0


def test_opening_by_name_wants_a_port_and_a_calibration_of_this_arm(servos: Emulator, tmp_path: Path) -> None:
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


class TestStatusReturnLevel:
    """Servos that are set to answer pings alone, or no writes, are set to answer everything."""

    @pytest.mark.parametrize("levels", [(0, 0, 0), (1, 1, 1), (2, 0, 1)])
    def test_a_servo_that_does_not_answer_everything_is_set_to(self, servos: Emulator, levels: tuple[int, ...]) -> None:
        """As another program left it: the register is written over the bus, without an answer to wait for."""
        with closing(Bus(servos.path)) as bus:
            for id, level in enumerate(levels, 1):
                bus.write_all("status_return_level", {id: level})
                assert bus.ping(id) == 1060
                assert servos.register("status_return_level", id) == level
        with connected(servos.path) as driver:
            assert [servos.register("status_return_level", id) for id in (1, 2, 3)] == [2, 2, 2]
            driver.enable()
            send(driver, [10.0, 10.0, 80.0])
            driver.disable()

    def test_a_servo_that_stays_silent_is_named_with_the_remedy(
        self, servos: Emulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that answers pings has power."""
        with closing(Bus(servos.path)) as bus:
            bus.write_all("status_return_level", {2: 0})
            monkeypatch.setattr(Bus, "write_all", lambda self, name, by_id: None)
            with pytest.raises(NoAnswerError) as error:
                bus.enable_answers([1, 2, 3])
        text = one_line(error)
        assert "servo 2 on" in text
        assert "status return level (register 68)" in text
        assert "powered" not in text


class TestRates:
    """What a baud rate allows is said once, before anything moves, with a rate that is then accepted."""

    @staticmethod
    def hertz(baud: int, servos: int) -> float:
        """Bytes on the wire: sync read 14 + n, n answers of 11 + 49, sync write 14 + 5 n; 10 bits each, and 2 ms."""
        size = (14 + servos) + 60 * servos + (14 + 5 * servos)
        return 1.0 / (10.0 * size / baud + 0.002)

    @pytest.mark.parametrize("baud", BAUD_RATES)
    @pytest.mark.parametrize("rate", [None, 45.0, 240.0, 1000.0])
    def test_a_refusal_names_a_rate_that_is_accepted(
        self, tiny_policy: Path, servos: Emulator, tmp_path: Path, baud: int, rate: float | None
    ) -> None:
        """For a policy of 30 Hz: the fastest that it names passes, and what it names for faster rates is true."""
        calibration().save(tmp_path / "calibration.json")

        def check(rate: float | None) -> None:
            options = ["--port", servos.path, "--calibration", str(tmp_path / "calibration.json")]
            words = [str(tiny_policy), "--driver", "dynamixel", *options, "--option", f"baud={baud}", "--random", "1"]
            words += [] if rate is None else ["--rate", repr(rate)]
            command = parse_flags(SessionConfig, "run", words, None)
            plan = plan_policy(command, load_driver("dynamixel"))
            driver: Any = SimpleNamespace(fastest_rate_hz=fastest_rate_hz(baud, 3), rate_hint=rate_hint(baud, 3))
            check_rate(driver, plan)

        wanted, allowed = rate or 30.0, self.hertz(baud, 3)
        if wanted <= allowed:
            check(rate)
            return
        with pytest.raises(ValueError, match="Hz") as error:
            check(rate)
        text = one_line(error)
        if allowed < 30.0:
            assert "--rate" not in text
            assert "expected at least the 30 Hz of the policy" in text
            assert "46.2 Hz at 115200 baud" in text
        else:
            named = re.search(r"expected --rate 30 to ([\d.]+)", text)
            assert named is not None
            assert 0.99 * allowed < float(named[1]) <= allowed
            check(float(named[1]))
        for hertz, faster in re.findall(r"([\d.]+) Hz at (\d+) baud", text):
            assert int(faster) > baud
            assert 0.99 * self.hertz(int(faster), 3) < float(hertz) <= self.hertz(int(faster), 3)

    def test_a_baud_rate_that_is_no_whole_number_is_refused(self, servos: Emulator, tmp_path: Path) -> None:
        """It was cut to one."""
        calibration().save(tmp_path / "calibration.json")
        options = {"port": servos.path, "calibration": str(tmp_path / "calibration.json"), "baud": "1000000.5"}
        with pytest.raises(ValueError, match=r"baud 1000000\.5; expected a whole number"):
            open_dynamixel(Arm(), options)

    def test_what_the_driver_says_is_what_the_command_says(
        self, tiny_policy: Path, servos: Emulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """From the command line, with the torque still off."""
        calibration().save(tmp_path / "calibration.json")
        options = ["--port", servos.path, "--calibration", str(tmp_path / "calibration.json"), "--random", "1"]
        words = ["run", str(tiny_policy), "--driver", "dynamixel", *options, "--option", "baud=57600"]
        assert main(words) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        assert "the arm's connection allows at most 24.2 Hz" in error
        assert servos.register("torque_enable", 1) == 0
