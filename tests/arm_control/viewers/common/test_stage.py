"""The shapes of an arm in the browser."""

from pathlib import Path

import numpy as np
import pytest

from arm_control.viewers.common.stage import _shapes
from envs.arm import Arm

VISUAL = "<visual><geometry>{}</geometry></visual>"


def arm_with(folder: Path, geometry: str) -> Arm:
    """The default arm with a further visual shape at its forearm."""
    text = Arm().urdf_text.replace('<link name="forearm">', f'<link name="forearm">{VISUAL.format(geometry)}')
    (folder / "arm.urdf").write_text(text)
    return Arm(folder / "arm.urdf")


class TestShapes:
    """Shapes made from a URDF."""

    def test_joints_are_in_the_arms_order(self) -> None:
        """The tip is where the arm's own kinematics puts it."""
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
    def test_invalid_shapes_are_left_out(self, geometry: str, tmp_path: Path) -> None:
        """The rest of the arm is drawn, and no file outside its folder is read."""
        (tmp_path / "secret.stl").write_text("solid")
        folder = tmp_path / "arm"
        folder.mkdir()
        for suffix in ("stl", "dae", "obj"):
            (folder / f"damaged.{suffix}").write_bytes(b"\0" * 100)
        shapes = _shapes(arm_with(folder, geometry))
        assert len(shapes.scene.geometry) >= len(_shapes(Arm()).scene.geometry)

    def test_an_arm_is_drawn_from_the_text_of_its_urdf(self) -> None:
        """Without a folder with meshes, as in a recording."""
        arm = Arm("recorded.urdf", text=Arm().urdf_text)
        assert len(_shapes(arm).scene.geometry) == len(_shapes(Arm()).scene.geometry) > 10
