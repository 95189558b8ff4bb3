"""Checks of the servos on connecting."""

import pytest
from dynamixel_arm import calibration, connected, one_line

from arm_control.drivers.base import DriverError
from arm_control.drivers.dynamixel.control_table import REGISTERS
from arm_control.drivers.emulator.emulator import Emulator


class TestConnecting:
    """Servos that are missing, or not as the calibration expects."""

    @pytest.mark.slow
    def test_missing_servos(self, servos: Emulator) -> None:
        """The error names the missing servo and those that reply."""
        with pytest.raises(DriverError) as error, connected(servos.path, calibration=calibration(servo_id=(1, 2, 9))):
            pass
        text = one_line(error)
        assert "servo 9 (elbow) did not reply" in text
        assert "replying: 1 (model 1060), 2 (model 1060), 3 (model 1060)" in text

    @pytest.mark.parametrize(
        ("register", "value", "message"),
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
    def test_other_settings(self, servos: Emulator, register: str, value: int, message: str) -> None:
        """Each setting is checked, the error has both values, and the port is free afterwards."""
        servos.set_register(register, 2, value)
        with pytest.raises(DriverError) as error, connected(servos.path):
            pass
        text = one_line(error)
        assert "servo 2 (shoulder)" in text
        assert message in text
        servos.set_register(register, 2, REGISTERS[register].initial)
        with connected(servos.path):  # nothing was left locked
            pass

    def test_return_delay(self, servos: Emulator) -> None:
        """It is set to 0, but for servos whose torque is on."""
        with connected(servos.path) as driver:
            assert [servos.register("return_delay", id) for id in (1, 2, 3)] == [0, 0, 0]
            driver.enable()
            servos.set_register("return_delay", 1, 250)
            driver.close()
        with connected(servos.path):
            assert servos.register("return_delay", 1) == 250
