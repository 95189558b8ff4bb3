"""Reading the state of all servos: retries, late replies, and the rate that a bus allows."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dynamixel_arm import calibration, connected, one_line, send
from emulated import Clock

from arm_control.cli import main, parse_flags
from arm_control.drivers.dynamixel.bus import NoReplyError
from arm_control.drivers.dynamixel.control_table import BAUD_RATES, REGISTERS
from arm_control.drivers.dynamixel.driver import open_dynamixel
from arm_control.drivers.dynamixel.state_reader import SHAPES, STATE, fastest_rate_hz, rate_hint
from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.opening import load_driver
from arm_control.runner.connection import check_rate
from arm_control.runner.planning import plan_policy
from arm_control.runner.session_config import SessionConfig
from envs.arm import Arm


class TestReads:
    """Sizes and durations of reads."""

    def test_shapes(self) -> None:
        """All read sizes are different and contain every register of the state."""
        assert len({size for _, size in SHAPES}) == len(SHAPES)
        for start, size in SHAPES:
            assert start in {register.address for register in REGISTERS.values()}
            assert all(start <= r.address and r.address + r.size <= start + size <= 148 for r in STATE.values())
            assert start + size <= 148

    def test_fastest_rate(self) -> None:
        """17 + 3 x 60 + 29 bytes of 10 bits and two latencies of 1 ms, by hand."""
        # 17 + 3 x 60 + 29 bytes of 10 bits, and two adaptor latencies of 1 ms.
        assert fastest_rate_hz(1_000_000, 3) == pytest.approx(1.0 / (0.00226 + 0.002))
        assert fastest_rate_hz(57_600, 3) < 50 < fastest_rate_hz(1_000_000, 6)


class TestMissingReplies:
    """Replies that are lost, damaged or late."""

    @pytest.mark.slow
    @pytest.mark.parametrize("fault", ["lost", "corrupt", "duplicated"])
    def test_retries(self, servos: Emulator, clock: Clock, fault: str) -> None:
        """Reads are repeated and counted, and angles stay correct."""
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

    def test_late_replies_are_dropped(self, servos: Emulator, clock: Clock) -> None:
        """A reply of another size than expected is not used."""
        with connected(servos.path, patience_s=0.01) as driver:
            driver.enable()
            for target in (20.0, 40.0, 60.0, 30.0, 70.0):
                servos.inject("late")  # by 50 ms
                with pytest.raises(NoReplyError):
                    driver.read()
                servos.heal()
                send(driver, [target] * 3)
                clock.advance(0.09)
                moved = servos.positions()
                state = driver.read()
                joints = calibration().joints
                assert state.angles_deg == pytest.approx([j.degrees(moved[j.servo_id]) for j in joints], abs=1e-9)

    def test_a_silent_servo_is_named(self, servos: Emulator) -> None:
        """The error has the servo and the number of reads."""
        with connected(servos.path, patience_s=0.005, retry_within_s=1.0) as driver:
            driver.enable()
            servos.inject("silent", 2)
            with pytest.raises(NoReplyError, match=r"no reply from servo 2 \(shoulder\)") as error:
                driver.read()
            one_line(error)
            assert driver.retried == 2
        servos.heal()
        with connected(servos.path, patience_s=0.05, retry_within_s=0.01) as driver:
            servos.inject("silent", 2)
            with pytest.raises(NoReplyError, match="reads sent: 1;"):
                driver.read()


class TestRates:
    """Rates that a baud rate allows."""

    @staticmethod
    def hertz(baud: int, servos: int) -> float:
        """Bytes on the wire: sync read 14 + n, n replies of 11 + 49, sync write 14 + 5 n; 10 bits each, and 2 ms."""
        size = (14 + servos) + 60 * servos + (14 + 5 * servos)
        return 1.0 / (10.0 * size / baud + 0.002)

    @pytest.mark.parametrize("baud", BAUD_RATES)
    @pytest.mark.parametrize("rate", [None, 45.0, 240.0, 1000.0])
    def test_the_error_suggests_a_rate_that_is_accepted(
        self, tiny_policy: Path, servos: Emulator, tmp_path: Path, baud: int, rate: float | None
    ) -> None:
        """For every baud rate: the suggested rate and those of faster ones agree with the bytes on the wire."""
        calibration().save(tmp_path / "calibration.json")

        def check(rate: float | None) -> None:
            options = ["--port", servos.path, "--calibration", str(tmp_path / "calibration.json")]
            words = [str(tiny_policy), "--driver", "dynamixel", *options, "--option", f"baud={baud}", "--random", "1"]
            words += [] if rate is None else ["--rate", repr(rate)]
            command = parse_flags(SessionConfig, "run", words, None)
            plan = plan_policy(command, load_driver("dynamixel"))
            driver: Any = SimpleNamespace(fastest_rate_hz=fastest_rate_hz(baud, 3), rate_hint=rate_hint(baud, 3))
            check_rate(driver, plan)

        expected, allowed = rate or 30.0, self.hertz(baud, 3)
        if expected <= allowed:
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

    def test_a_baud_rate_must_be_a_whole_number(self, servos: Emulator, tmp_path: Path) -> None:
        """It is not rounded."""
        calibration().save(tmp_path / "calibration.json")
        options = {"port": servos.path, "calibration": str(tmp_path / "calibration.json"), "baud": "1000000.5"}
        with pytest.raises(ValueError, match=r"baud 1000000\.5; expected a whole number"):
            open_dynamixel(Arm(), options)

    def test_the_command_reports_the_rate_in_one_line(
        self, tiny_policy: Path, servos: Emulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """With the torque still off."""
        calibration().save(tmp_path / "calibration.json")
        options = ["--port", servos.path, "--calibration", str(tmp_path / "calibration.json"), "--random", "1"]
        words = ["run", str(tiny_policy), "--driver", "dynamixel", *options, "--option", "baud=57600"]
        assert main(words) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        assert "the arm's connection allows at most 24.2 Hz" in error
        assert servos.register("torque_enable", 1) == 0
