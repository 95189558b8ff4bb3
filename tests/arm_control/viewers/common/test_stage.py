"""The shapes of an arm in the browser: those of the simulator's pictures, whatever its URDF holds."""

from pathlib import Path

import numpy as np
import pytest

from arm_control.viewers.common.stage import _shapes
from envs.arm import Arm

VISUAL = "<visual><geometry>{}</geometry></visual>"


def arm_with(folder: Path, geometry: str) -> Arm:
    """The default arm, its forearm drawn as something else too."""
    text = Arm().urdf_text.replace('<link name="forearm">', f'<link name="forearm">{VISUAL.format(geometry)}')
    (folder / "arm.urdf").write_text(text)
    return Arm(folder / "arm.urdf")


class TestShapes:
    """What is drawn in the browser."""

    def test_its_joints_are_the_arms_in_their_order(self) -> None:
        """The tip is where the arm's own kinematics has it."""
        arm = Arm()
        shapes = _shapes(arm)
        pose = np.array([10.0, 40.0, 70.0])
        shapes.update_cfg(np.radians(pose))
        tip = shapes.get_transform("link4")[:3, 3]
        assert tip == pytest.approx(arm.tip_position(pose.tolist()), abs=1e-9)

    @pytest.mark.parametrize(
        "geometry",
        [
            '<mesh filename="none.stl"/>',
            '<mesh filename="package://arm/none.stl"/>',
            '<mesh filename="../secret.stl"/>',
            '<mesh filename="damaged.stl"/>',
            '<mesh filename="damaged.dae"/>',
            '<mesh filename="damaged.obj"/>',
            '<capsule radius="0.01" length="0.1"/>',
            '<sphere radius="-1"/>',
            '<cylinder radius="0" length="1e-300"/>',
            '<box size="0 1 -1"/>',
        ],
    )
    def test_what_cannot_be_drawn_is_left_out(self, geometry: str, tmp_path: Path) -> None:
        """The rest of the arm is there, and nothing outside its folder is read."""
        (tmp_path / "secret.stl").write_text("solid")
        folder = tmp_path / "arm"
        folder.mkdir()
        for suffix in ("stl", "dae", "obj"):
            (folder / f"damaged.{suffix}").write_bytes(b"\0" * 100)
        shapes = _shapes(arm_with(folder, geometry))
        assert len(shapes.scene.geometry) >= len(_shapes(Arm()).scene.geometry)

    def test_an_arm_from_a_recording_is_drawn_from_its_text(self) -> None:
        """There is no folder with its meshes."""
        arm = Arm("recorded.urdf", text=Arm().urdf_text)
        assert len(_shapes(arm).scene.geometry) == len(_shapes(Arm()).scene.geometry) > 10
