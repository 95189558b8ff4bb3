"""Forward kinematics against products of homogeneous matrices, for straight, crooked and long arms."""

import math
from pathlib import Path

import numpy as np
import pybullet_data
import pytest
from numpy.typing import NDArray

from envs.arm import RADIANS, Arm
from envs.observation import observe, observe_one
from envs.urdf import Joint

Array = NDArray[np.float64]

KUKA = Path(pybullet_data.getDataPath()) / "kuka_iiwa" / "model.urdf"
INERTIAL = '<inertial><mass value="0.1"/><inertia ixx="1e-4" iyy="1e-4" izz="1e-4" ixy="0" ixz="0" iyz="0"/></inertial>'
OBLIQUE = f"""
    <robot name="oblique">
      <link name="base">{INERTIAL}</link><link name="upper">{INERTIAL}</link><link name="lower">{INERTIAL}</link>
      <link name="tip">{INERTIAL}</link>
      <joint name="lean" type="revolute"><parent link="base"/><child link="upper"/>
        <origin xyz="0.05 0.06 -0.07" rpy="-0.7 0.2 1.1"/><axis xyz="0.6 0 -0.8"/>
        <limit lower="-1.5" upper="2" effort="1" velocity="3"/></joint>
      <joint name="twist" type="revolute"><parent link="upper"/><child link="lower"/>
        <origin xyz="-0.03 0.09 0.12" rpy="0.1 -1.3 0.8"/><axis xyz="1 2 -2"/>
        <limit lower="-0.5" upper="1" effort="2" velocity="3"/></joint>
      <joint name="mount" type="fixed"><parent link="lower"/><child link="tip"/>
        <origin xyz="0.08 -0.05 0.1"/></joint>
    </robot>
"""


@pytest.fixture(params=["arm3", "kuka", "oblique"])
def arm(request: pytest.FixtureRequest) -> Arm:
    """Arms with axes along those of their frames, and with axes in any direction."""
    if request.param == "oblique":
        return Arm("oblique.urdf", text=OBLIQUE)
    return Arm(KUKA) if request.param == "kuka" else Arm()


def poses(arm: Arm, seed: int) -> Array:
    """Random poses (50, joints) in degrees."""
    limits = arm.limits
    return np.random.default_rng(seed).uniform(limits.lower_deg, limits.upper_deg, (50, arm.joint_count))


def matrix(joint: Joint, angle_deg: float) -> Array:
    """The transformation (4, 4) of a joint, with the matrix exponential of its rotation written as a series."""
    x, y, z = joint.axis * math.radians(angle_deg)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned = np.eye(3)
    term = np.eye(3)
    for order in range(1, 40):
        term = term @ skew / order
        turned = turned + term
    transformation = np.eye(4)
    transformation[:3, :3] = joint.rotation @ turned
    transformation[:3, 3] = joint.offset_m
    return transformation


def ends(arm: Arm, pose_deg: Array) -> Array:
    """The far ends of all links, (joints, 3)."""
    joints = arm.chain.joints
    offsets = [joint.offset_m for joint in joints[1:]] + [arm.chain.tip_offset_m]
    transformation = np.eye(4)
    found = []
    for joint, angle_deg, offset_m in zip(joints, pose_deg, offsets, strict=True):
        transformation = transformation @ matrix(joint, angle_deg)
        found.append((transformation @ [*offset_m, 1.0])[:3])
    return np.array(found)


class TestPlaces:
    """Tip and links."""

    def test_links_end_where_the_matrices_take_them(self, arm: Arm) -> None:
        """The last one at the tip."""
        for pose in poses(arm, 1):
            expected = ends(arm, pose)
            assert np.array(arm.link_ends(pose.tolist())) == pytest.approx(expected, abs=1e-12)
            assert arm.tip_position(pose.tolist()) == pytest.approx(expected[-1], abs=1e-12)

    def test_columns_give_the_same_as_floats(self, arm: Arm) -> None:
        """Bit for bit, but for sines and cosines of NumPy."""
        angles = poses(arm, 2)
        floats = np.array([arm.link_ends(pose) for pose in angles.tolist()])
        for link, end in enumerate(arm.link_ends(list(angles.T), np)):
            for axis, column in enumerate(end):  # a number where no joint moves the link's end along the axis
                assert floats[:, link, axis] == pytest.approx(np.broadcast_to(column, len(angles)), abs=1e-14)


class TestVelocities:
    """The tip's velocity."""

    def test_is_the_jacobian_times_the_speeds(self, arm: Arm) -> None:
        """And the position is that without speeds, bit for bit."""
        angles = poses(arm, 3)
        speeds = np.random.default_rng(4).uniform(-200.0, 200.0, angles.shape)
        jacobians = arm.jacobian(angles)
        for pose, speed, jacobian in zip(angles, speeds, jacobians, strict=True):
            motion = arm.tip_motion(pose.tolist(), speed.tolist())
            assert motion[:3] == arm.tip_position(pose.tolist())
            assert motion[3:] == pytest.approx(jacobian @ speed, abs=1e-12)

    def test_is_zero_at_rest(self, arm: Arm) -> None:
        """In all three directions."""
        assert arm.tip_motion([10.0] * arm.joint_count, [0.0] * arm.joint_count)[3:] == (0.0, 0.0, 0.0)


class TestObservation:
    """`observe_one`, the faster version of `observe`."""

    @pytest.mark.parametrize("moving", [False, True])
    def test_floats_give_the_same_as_arrays(self, arm: Arm, moving: bool) -> None:
        """The observation bit for bit, the tip but for sines and cosines of NumPy."""
        readings = [poses(arm, seed) for seed in range(4)]
        observations, tips = observe(arm, *readings, moving=moving)
        for row in range(len(observations)):
            observation, tip = observe_one(arm, *(reading[row].tolist() for reading in readings), moving=moving)
            assert observation == observations[row].tolist()
            assert tip == pytest.approx(tips[row], abs=1e-12)
        assert observations[:, : arm.joint_count] == pytest.approx(readings[0] * RADIANS, abs=0)


class TestTracedKinematics:
    """The straight-line functions for floats."""

    def test_they_equal_the_reference_to_the_last_bit(self, arm: Arm) -> None:
        """The tip, its velocity and the ends of all links in 50 poses."""
        reference = arm.kinematics
        generator = np.random.default_rng(7)
        for pose in poses(arm, 7).tolist():
            speeds = generator.normal(0.0, 100.0, arm.joint_count).tolist()
            assert arm.tip_position(pose) == reference.tip_position(pose, math.cos, math.sin)
            assert arm.tip_motion(pose, speeds) == reference.tip_motion(pose, speeds, math.cos, math.sin)
            assert arm.link_ends(pose) == reference.link_ends(pose, math.cos, math.sin)
