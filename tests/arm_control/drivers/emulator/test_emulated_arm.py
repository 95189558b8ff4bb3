"""The computed calibration of an emulated arm, and its start pose."""

from pathlib import Path

import pytest
from locations import DESK

from arm_control.drivers.dynamixel.calibration import Calibration
from arm_control.drivers.emulator.emulated_arm import make_calibration, start_ticks
from envs.arm import DEFAULT_URDF, Arm


class TestStart:
    """The start pose of servos with a computed calibration."""

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
        """Ticks 0 to 4095 of a joint of -180 to 180 degrees."""
        urdf = tmp_path / "turn.urdf"
        urdf.write_text(DESK.read_text().replace("1.5708", "3.141592653589793", 2))
        calibration, angles_deg = self.started(urdf)
        calibration.check()
        assert calibration.joints[0].tick_range == (0, 4095)
        assert angles_deg == pytest.approx([0.0, 0.0, 0.0], abs=0.1)
