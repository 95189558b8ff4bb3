"""Forward kinematics against products of homogeneous matrices, for straight, crooked and long arms."""

import math

import numpy as np
import pytest
from locations import KUKA
from numpy.typing import NDArray
from urdf_parts import CROOKED

from envs.arm import RADIANS, Arm
from envs.observation import observe, observe_one
from envs.urdf import Joint

Array = NDArray[np.float64]


@pytest.fixture(params=["arm3", "kuka", "crooked"])
def arm(request: pytest.FixtureRequest) -> Arm:
    """Arms with axes along those of their frames, and with axes in any direction."""
    if request.param == "crooked":
        return Arm("crooked.urdf", text=CROOKED)
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
    """Positions of the tip and of the links' ends."""

    def test_link_ends_equal_homogeneous_matrices(self, arm: Arm) -> None:
        """Link ends equal products of 4 x 4 matrices to 1e-12 m, and the last one is the tip."""
        for pose in poses(arm, 1):
            expected = ends(arm, pose)
            assert np.array(arm.link_ends(pose.tolist())) == pytest.approx(expected, abs=1e-12)
            assert arm.tip_position(pose.tolist()) == pytest.approx(expected[-1], abs=1e-12)

    def test_columns_give_the_same_as_floats(self, arm: Arm) -> None:
        """Columns of a batch equal floats to 1e-14 m: NumPy's sines and cosines may differ in the last bit."""
        angles = poses(arm, 2)
        floats = np.array([arm.link_ends(pose) for pose in angles.tolist()])
        for link, end in enumerate(arm.link_ends(list(angles.T), np)):
            for axis, column in enumerate(end):  # a number where no joint moves the link's end along the axis
                assert floats[:, link, axis] == pytest.approx(np.broadcast_to(column, len(angles)), abs=1e-14)


class TestVelocities:
    """The tip's velocity."""

    def test_is_the_jacobian_times_the_speeds(self, arm: Arm) -> None:
        """The velocity is J(q) dq/dt to 1e-12 m/s, and the position is `tip_position`, bit for bit."""
        angles = poses(arm, 3)
        speeds = np.random.default_rng(4).uniform(-200.0, 200.0, angles.shape)
        jacobians = arm.jacobian(angles)
        for pose, speed, jacobian in zip(angles, speeds, jacobians, strict=True):
            motion = arm.tip_motion(pose.tolist(), speed.tolist())
            assert motion[:3] == arm.tip_position(pose.tolist())
            assert motion[3:] == pytest.approx(jacobian @ speed, abs=1e-12)

    def test_is_zero_at_rest(self, arm: Arm) -> None:
        """With all joint speeds zero, the velocity is exactly zero."""
        assert arm.tip_motion([10.0] * arm.joint_count, [0.0] * arm.joint_count)[3:] == (0.0, 0.0, 0.0)


class TestObservation:
    """`observe_one`, the faster version of `observe`."""

    @pytest.mark.parametrize("moving", [False, True])
    def test_observe_one_equals_observe(self, arm: Arm, moving: bool) -> None:
        """The observation is equal bit for bit, the tip to 1e-12 because of NumPy's sines and cosines."""
        readings = [poses(arm, seed) for seed in range(4)]
        observations, tips = observe(arm, *readings, moving=moving)
        for row in range(len(observations)):
            observation, tip = observe_one(arm, *(reading[row].tolist() for reading in readings), moving=moving)
            assert observation == observations[row].tolist()
            assert tip == pytest.approx(tips[row], abs=1e-12)
        assert observations[:, : arm.joint_count] == pytest.approx(readings[0] * RADIANS, abs=0)


class TestTracedKinematics:
    """The straight-line functions for floats, traced from the reference."""

    def test_they_equal_the_reference_to_the_last_bit(self, arm: Arm) -> None:
        """Tip, its velocity and all link ends equal the reference in 50 poses, bit for bit."""
        reference = arm.kinematics
        generator = np.random.default_rng(7)
        for pose in poses(arm, 7).tolist():
            speeds = generator.normal(0.0, 100.0, arm.joint_count).tolist()
            assert arm.tip_position(pose) == reference.tip_position(pose, math.cos, math.sin)
            assert arm.tip_motion(pose, speeds) == reference.tip_motion(pose, speeds, math.cos, math.sin)
            assert arm.link_ends(pose) == reference.link_ends(pose, math.cos, math.sin)
