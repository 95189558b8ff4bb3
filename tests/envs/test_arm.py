"""Arm: forward and inverse kinematics, limits, and rejected URDFs."""

import math
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from urdf_parts import CROOKED, joint, link, robot

from envs.arm import ASSETS, DEFAULT_URDF, Arm, UnreachableGoalError
from envs.bullet import pybullet

Array = NDArray[np.float64]

BOUND_M = 1e-5  # 0.01 mm


@pytest.fixture(scope="module")
def arm() -> Arm:
    return Arm()


@pytest.fixture
def crooked(tmp_path: Path) -> Arm:
    """Two oblique joints with rotated frames and fixed joints before, between and after them."""
    (tmp_path / "crooked.urdf").write_text(CROOKED)
    return Arm(tmp_path / "crooked.urdf")


def poses(arm: Arm, count: int, seed: int) -> Array:
    low, high = arm.limits.lower_deg, arm.limits.upper_deg
    return np.random.default_rng(seed).uniform(low, high, (count, arm.joint_count))


def pybullet_tips(arm: Arm, angles_deg: Array) -> Array:
    client = pybullet.connect(pybullet.DIRECT)
    try:
        body = pybullet.loadURDF(str(arm.urdf), useFixedBase=True, physicsClientId=client)
        infos = [
            pybullet.getJointInfo(body, index, physicsClientId=client)
            for index in range(pybullet.getNumJoints(body, physicsClientId=client))
        ]
        joints = {info[1].decode(): info[0] for info in infos}
        tip = next(info[0] for info in infos if info[12].decode() == arm.tip_link)
        tips = []
        for row in np.radians(angles_deg):
            for name, angle in zip(arm.joint_names, row, strict=True):
                pybullet.resetJointState(body, joints[name], angle, physicsClientId=client)
            tips.append(pybullet.getLinkState(body, tip, computeForwardKinematics=1, physicsClientId=client)[4])
        return np.array(tips)
    finally:
        pybullet.disconnect(client)


def worst(difference: Array) -> float:
    return float(np.linalg.norm(difference, axis=-1).max())


def assert_reached(arm: Arm, goals_m: Array) -> None:
    angles = arm.inverse_kinematics(goals_m)
    assert (angles >= np.array(arm.limits.lower_deg)).all()
    assert (angles <= np.array(arm.limits.upper_deg)).all()
    assert worst(arm.forward_kinematics(angles) - goals_m) <= BOUND_M


class TestInverseKinematics:
    """Poses for goals: within the limits, and within 0.01 mm."""

    def test_reaches_random_goals(self, arm: Arm) -> None:
        """The tips of 5000 random poses are reached."""
        assert_reached(arm, arm.forward_kinematics(poses(arm, 5000, seed=6)))

    def test_reaches_a_grid_of_poses_limits_included(self, arm: Arm) -> None:
        """The tips of a 10-degree grid of poses, its edges on the limits, are reached."""
        grid = np.array(list(product(range(0, 91, 10), repeat=3)), dtype=np.float64)
        assert_reached(arm, arm.forward_kinematics(grid))

    @pytest.mark.parametrize(
        "angles_deg",
        [
            pytest.param(
                [[yaw, shoulder, 0.0] for yaw in (0, 33, 90) for shoulder in (0, 20, 45, 90)], id="straight arm"
            ),
            pytest.param([[yaw, 0.0, 0.0] for yaw in (0, 45, 90)], id="tip on the axis"),
            pytest.param([[yaw, 1e-4, 1e-4] for yaw in (0, 45, 90)], id="tip beside the axis"),
            pytest.param(list(product((0.0, 90.0), repeat=3)), id="corners"),
            pytest.param([[yaw, s, e] for yaw in (0, 90) for s in (0, 90) for e in (1e-3, 0.1, 89.9)], id="faces"),
        ],
    )
    def test_reaches_singular_and_extreme_goals(self, arm: Arm, angles_deg: list[list[float]]) -> None:
        """Goals of singular poses and of poses at the limits are reached."""
        assert_reached(arm, arm.forward_kinematics(np.array(angles_deg, dtype=np.float64)))

    def test_reaches_goals_close_to_the_limits_in_one_batch(self, arm: Arm) -> None:
        """Goals of poses 1e-7 to 1 degree from the limits are reached in one batch."""
        generator = np.random.default_rng(11)
        beside = 10.0 ** generator.uniform(-7, 0, (4000, 3))  # degrees
        angles = np.where(generator.random((4000, 3)) < 0.5, beside, 90.0 - beside)
        angles = np.where(generator.random((4000, 3)) < 0.3, poses(arm, 4000, seed=12), angles)
        assert_reached(arm, arm.forward_kinematics(angles))

    def test_a_converged_row_is_unaffected_by_a_slow_one(self, arm: Arm) -> None:
        """A row that converges early, with a singular Jacobian, stays correct while another row iterates."""
        # With the joints at their limits held, the first goal's pose has a singular Jacobian; the second takes longer.
        assert_reached(
            arm, np.array([[0.20000000488969033, 0.0, 0.49999999608824763], [0.04443957, 0.01428388, 0.69447646]])
        )

    def test_reaches_goals_of_a_crooked_arm(self, crooked: Arm) -> None:
        """Goals of an arm with oblique axes are reached too."""
        assert_reached(crooked, crooked.forward_kinematics(poses(crooked, 500, seed=7)))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("goal_m", "missed_mm"),
        [
            ((0.0, 0.0, 0.701), "1.00"),  # 1 mm above the straight arm
            ((0.46, 0.0, 0.25), "10.00"),  # 10 mm beyond it, level
            ((0.0, 0.0, 5.0), "4300.00"),
            ((0.0, 0.25, 0.0), "50.00"),  # below the lowest point
            ((-0.2, 0.0, 0.5), ""),  # behind
            ((0.05, 0.05, 0.25), ""),  # too near the shoulder
        ],
    )
    def test_the_error_names_an_unreachable_goal_and_its_distance(
        self, arm: Arm, goal_m: tuple[float, ...], missed_mm: str
    ) -> None:
        """UnreachableGoalError names the goal, the arm and the remaining distance (hand-computed where it is given)."""
        x, y, z = goal_m
        with pytest.raises(UnreachableGoalError) as caught:
            arm.inverse_kinematics(goal_m)
        assert str(caught.value).startswith(f"goal ({x:.4f}, {y:.4f}, {z:.4f}) m is out of reach of arm3")
        assert f"{missed_mm} mm away" in str(caught.value)

    def test_one_unreachable_goal_fails_the_batch(self, arm: Arm) -> None:
        """A batch with one unreachable goal raises an error that names that goal."""
        goals = arm.forward_kinematics(poses(arm, 20, seed=8))
        goals[13] = (0.0, 0.0, 0.9)
        with pytest.raises(UnreachableGoalError, match=r"goal \(0\.0000, 0\.0000, 0\.9000\)"):
            arm.inverse_kinematics(goals)

    @pytest.mark.parametrize(
        "goal_m", [(math.nan, 0, 0.5), (0, math.inf, 0.5), (0, 0, -math.inf), (0.1, 0.2), (0.1, 0.2, 0.3, 0.4), 0.3]
    )
    def test_rejects_goals_that_are_not_three_finite_numbers(self, arm: Arm, goal_m: Any) -> None:
        """NaN, infinities and goals of other lengths raise ValueError."""
        with pytest.raises(ValueError, match=r"expected goals \(\.\.\., 3\) of finite numbers"):
            arm.inverse_kinematics(goal_m)


class TestForwardKinematics:
    """Tip positions and their derivatives."""

    def test_agrees_with_pybullet_over_10000_poses(self, arm: Arm) -> None:
        """The tips of 10,000 random poses are within 0.01 mm of PyBullet's."""
        angles = poses(arm, 10_000, seed=1)
        assert worst(arm.forward_kinematics(angles) - pybullet_tips(arm, angles)) <= BOUND_M

    def test_a_crooked_arm_agrees_with_pybullet(self, crooked: Arm) -> None:
        """Oblique axes and rotated fixed joints are composed as in PyBullet, to 0.01 mm."""
        assert crooked.joint_names == ("lean", "twist")
        assert crooked.tip_link == "tip"
        angles = poses(crooked, 1000, seed=2)
        assert worst(crooked.forward_kinematics(angles) - pybullet_tips(crooked, angles)) <= BOUND_M

    @pytest.mark.parametrize(
        ("angles_deg", "tip_m"),
        [
            ((0, 0, 0), (0, 0, 0.7)),  # straight up: 0.2 + 0.05 + 0.25 + 0.2
            ((0, 90, 0), (0.45, 0, 0.25)),
            ((90, 90, 0), (0, 0.45, 0.25)),
            ((0, 0, 90), (0.2, 0, 0.5)),
            ((90, 90, 90), (0, 0.25, 0.05)),
            ((45, 90, 90), (0.25 / math.sqrt(2), 0.25 / math.sqrt(2), 0.05)),
            ((0, 30, 30), (0.125 + 0.2 * math.sqrt(0.75), 0, 0.25 + 0.25 * math.sqrt(0.75) + 0.1)),
        ],
    )
    def test_hand_computed_tips(self, arm: Arm, angles_deg: tuple[float, ...], tip_m: tuple[float, ...]) -> None:
        """Tips of seven poses, computed by hand from the link lengths 0.2, 0.05, 0.25 and 0.2 m."""
        assert arm.tip_position(angles_deg) == pytest.approx(tip_m, abs=1e-12)

    @pytest.mark.parametrize("which", ["arm", "crooked"])
    def test_floats_arrays_and_tensors_give_the_same_tip(self, which: str, request: pytest.FixtureRequest) -> None:
        """Floats, float64 arrays and tensors agree to 1e-14 m, float32 tensors to 1e-6 m, and dtypes are kept."""
        arm: Arm = request.getfixturevalue(which)
        angles = poses(arm, 200, seed=3)
        arrays = arm.forward_kinematics(angles)
        floats = np.array([arm.tip_position(row) for row in angles.tolist()])
        tensors = arm.forward_kinematics(torch.tensor(angles), torch)
        assert tensors.dtype == torch.float64
        assert np.abs(arrays - floats).max() < 1e-14
        assert np.abs(arrays - tensors.numpy()).max() < 1e-14
        singles = arm.forward_kinematics(torch.tensor(angles, dtype=torch.float32), torch)
        assert singles.dtype == torch.float32
        assert np.abs(arrays - singles.numpy()).max() < 1e-6

    def test_kinematics_keep_leading_axes(self, arm: Arm) -> None:
        """Leading axes of a batch are kept by forward kinematics, the Jacobian and inverse kinematics."""
        angles = poses(arm, 30, seed=4)
        boxed = angles.reshape(2, 5, 3, 3)
        tips = arm.forward_kinematics(angles)
        assert np.array_equal(arm.forward_kinematics(boxed), tips.reshape(2, 5, 3, 3))
        assert np.array_equal(arm.jacobian(boxed), arm.jacobian(angles).reshape(2, 5, 3, 3, 3))
        assert arm.inverse_kinematics(tips.reshape(2, 5, 3, 3)).shape == (2, 5, 3, 3)
        assert arm.inverse_kinematics(tips[0]).shape == (3,)

    def test_a_constant_coordinate_has_the_batch_shape(self) -> None:
        """A coordinate that no joint moves is broadcast to the batch (hand-computed tips of a joint about x)."""
        text = robot(
            link("a"),
            link("b"),
            link("c"),
            joint("j", "a", "b", inside=LIMIT),
            joint("f", "b", "c", "fixed", '<origin xyz="0 0 1"/>'),
        )
        tips = Arm("flat.urdf", text=text).forward_kinematics(
            np.array([[0.0], [90.0]])
        )  # about x: nothing moves along x
        assert tips == pytest.approx(np.array([[0, 0, 1], [0, -1, 0]]), abs=1e-12)

    @pytest.mark.parametrize("which", ["arm", "crooked"])
    def test_the_jacobian_is_the_derivative_of_the_tip(self, which: str, request: pytest.FixtureRequest) -> None:
        """The Jacobian equals central differences of the tip to 1e-9 m per degree."""
        arm: Arm = request.getfixturevalue(which)
        angles, step = poses(arm, 500, seed=5), 0.01
        moves = step * np.eye(arm.joint_count)
        ahead, behind = (arm.forward_kinematics(angles[:, None] + sign * moves) for sign in (1, -1))
        differences = ((ahead - behind) / (2 * step)).swapaxes(-1, -2)
        assert np.abs(arm.jacobian(angles) - differences).max() < 1e-9  # metres per degree, of up to 8e-3

    def test_no_tip_is_further_than_the_reach(self, arm: Arm, crooked: Arm) -> None:
        """The reach is 0.7 m, the sum of the link lengths, and no random tip is further away."""
        assert arm.reach_m == pytest.approx(0.7, abs=1e-12)
        for each in (arm, crooked):
            assert worst(each.forward_kinematics(poses(each, 2000, seed=9))) <= each.reach_m


class TestLimits:
    """Limits read from the URDF, or derived from torques."""

    def test_limits_are_converted_to_degrees(self, crooked: Arm) -> None:
        """Radians of the URDF become degrees (hand-computed); torques stay in N m."""
        limits = crooked.limits
        assert limits.lower_deg == pytest.approx((-85.94366927, -28.64788976), abs=1e-8)
        assert limits.upper_deg == pytest.approx((114.59155903, 57.29577951), abs=1e-8)
        assert limits.max_speed_deg_s == pytest.approx((171.88733854,) * 2, abs=1e-8)
        assert limits.max_acceleration_deg_s2[0] == pytest.approx(math.degrees(7), rel=1e-12)
        assert crooked.max_torque_nm == (1.0, 2.0)

    @pytest.mark.parametrize(
        ("effort", "seconds"),
        [
            # 2 kg, 0.5 m from the second joint and 0.9 m from the first, at 3 rad/s. The first bears 2 * 0.9 * 9.81 =
            # 17.658 N m of weight, and 2 * 0.9 * (0.9 + 0.5) * 3 = 7.56 N m s of momentum; the second 9.81 and 4.2.
            (20.0, 7.56 / (20 - 17.658)),
            (100.0, 0.15),
            (15.0, 7.56 / 1.5),  # too weak to hold it: a tenth of the torque is left
        ],
    )
    def test_missing_accelerations_are_derived_from_the_torques(
        self, effort: float, seconds: float, tmp_path: Path
    ) -> None:
        """The derived limit is speed over the time in which the spare torque brakes the momentum (hand-computed)."""
        limit = f'<limit lower="0" upper="1" effort="{effort}" velocity="3"/>'
        inertia = '<inertia ixx="1" iyy="1" izz="1"/>'
        weight = f'<link name="c"><inertial><origin xyz="0 0.3 0.4"/><mass value="2"/>{inertia}</inertial></link>'
        text = robot(
            '<link name="a"/><link name="b"/>',
            weight,
            joint("i", "a", "b", inside=f'<origin xyz="0 0 7"/>{limit}'),
            joint("j", "b", "c", inside=f'<origin xyz="0.4 0 0"/>{limit}'),
        )
        limits = Arm(tmp_path / "arm.urdf", text=text).limits
        assert limits.max_acceleration_deg_s2 == pytest.approx((math.degrees(3) / seconds,) * 2, rel=1e-9)


TWO_LINKS = link("a") + link("b")


LIMIT = '<limit lower="0" upper="1" effort="1" velocity="1"/>'


class TestParsing:
    """Loading of arms, and files that are not serial arms."""

    def test_text_and_file_give_the_same_arm(self) -> None:
        """An arm made from the URDF's text has the limits and kinematics of the one read from the file."""
        arm, copy = Arm(), Arm("elsewhere.urdf", text=DEFAULT_URDF.read_text())
        assert copy.limits == arm.limits
        assert np.array_equal(copy.forward_kinematics(poses(arm, 10, 10)), arm.forward_kinematics(poses(arm, 10, 10)))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            pytest.param("<robot><link", "not well-formed XML", id="broken XML"),
            pytest.param("", "not well-formed XML", id="empty file"),
            pytest.param(
                robot(TWO_LINKS, link("c"), joint("j", "a", "b"), joint("k", "a", "c")),
                "link 'a' has several branches",
                id="branches",
            ),
            pytest.param(
                robot(TWO_LINKS, link("c"), link("d"), joint("j", "a", "b"), joint("k", "c", "d")),
                "one chain of links with one base, got bases",
                id="two chains",
            ),
            pytest.param(
                robot(TWO_LINKS, link("c"), joint("j", "a", "c"), joint("k", "b", "c")),
                "link 'c' has several parents",
                id="two parents",
            ),
            pytest.param(
                robot(
                    TWO_LINKS, link("c"), link("d"), joint("j", "a", "b"), joint("k", "c", "d"), joint("l", "d", "c")
                ),
                "joints that the base is not connected to",
                id="a ring beside the arm",
            ),
            pytest.param(
                robot(TWO_LINKS, joint("j", "a", "b", inside="")), "joint 'j' requires a <limit>", id="missing limit"
            ),
            pytest.param(
                robot(TWO_LINKS, joint("j", "a", "b", inside='<limit lower="0" upper="1" effort="1"/>')),
                "joint 'j' requires a <limit>",
                id="missing speed",
            ),
            pytest.param(
                robot(TWO_LINKS, joint("j", "a", "b", inside='<limit lower="1" upper="0" effort="1" velocity="1"/>')),
                "expected lower < upper",
                id="reversed range",
            ),
            pytest.param(
                robot(TWO_LINKS, joint("j", "a", "b", inside='<limit lower="0" upper="nan" effort="1" velocity="1"/>')),
                "finite",
                id="NaN limit",
            ),
            pytest.param(
                robot(TWO_LINKS, joint("j", "a", "b", inside='<limit lower="0" upper="1" effort="1" velocity="0"/>')),
                "a positive velocity and an effort",
                id="no speed",
            ),
            pytest.param(
                robot(TWO_LINKS, joint("j", "a", "b", "fixed")),
                "expected 1 to 7 revolute joints, got none",
                id="only fixed",
            ),
            pytest.param(robot(link("a")), "expected 1 to 7 revolute joints, got none", id="no joint"),
        ],
    )
    def test_rejects_what_is_not_a_serial_arm(self, text: str, message: str, tmp_path: Path) -> None:
        """Branches, rings, unsupported joints and invalid limits raise an error that names the element."""
        path = tmp_path / "bad.urdf"
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            Arm(path)

    @pytest.mark.parametrize(
        "inside",
        [
            pytest.param(f'{LIMIT}<axis xyz="0 0 0"/>', id="axis of no length"),
            pytest.param(f'{LIMIT}<axis xyz="0 0 nan"/>', id="NaN axis"),
            pytest.param(f'{LIMIT}<axis xyz="0 1"/>', id="axis of two numbers"),
            pytest.param(f'{LIMIT}<origin xyz="0 0 up"/>', id="origin in words"),
            pytest.param(f'{LIMIT}<origin xyz="0 0 inf"/>', id="infinite origin"),
            pytest.param(f'{LIMIT}<origin rpy="0 0"/>', id="rpy of two numbers"),
            pytest.param('<limit lower="0" upper="1" effort="nan" velocity="1"/>', id="NaN torque"),
            pytest.param('<limit lower="0" upper="1" effort="-1" velocity="1"/>', id="negative torque"),
            pytest.param(
                '<limit lower="0" upper="1" effort="1" velocity="1" acceleration="-1"/>', id="braking for ever"
            ),
            pytest.param('<limit lower="zero" upper="1" effort="1" velocity="1"/>', id="limit in words"),
        ],
    )
    @pytest.mark.filterwarnings("error")
    def test_rejects_invalid_numbers_naming_the_joint(self, inside: str) -> None:
        """Non-numbers, non-finite values and zero axes raise an error that names file and joint, without a warning."""
        with pytest.raises(ValueError, match=r"arm bad\.urdf.*'wobble'"):
            Arm("bad.urdf", text=robot(TWO_LINKS, joint("wobble", "a", "b", inside=inside)))

    def test_rejects_a_ring_of_links(self) -> None:
        """A cycle of links raises ValueError instead of being followed for ever."""
        ring = robot(*(link(name) for name in "abc"), joint("i", "a", "b"), joint("j", "b", "c"), joint("k", "c", "b"))
        script = "import sys; from envs.arm import Arm; Arm('ring.urdf', text=sys.argv[1])"
        # In a process of its own, which can be stopped if it walks round the ring for ever.
        done = subprocess.run([sys.executable, "-c", script, ring], capture_output=True, text=True, timeout=20)
        assert "ValueError: arm " in done.stderr

    @pytest.mark.parametrize(("name", "reason"), [("none.urdf", "No such file"), (".", "Is a directory")])
    def test_rejects_unreadable_files(self, name: str, reason: str, tmp_path: Path) -> None:
        """A missing file or a folder raises ValueError with the system's reason."""
        with pytest.raises(ValueError, match=f"cannot read arm .*: {reason}"):
            Arm(tmp_path / name)


class TestShippedArms:
    """Arms named without their file."""

    def test_a_name_is_a_file_of_the_assets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """From any folder."""
        monkeypatch.chdir(tmp_path)
        assert Arm("arm1").urdf == ASSETS / "arm1.urdf"
        assert Arm("arm3").urdf == DEFAULT_URDF

    def test_a_file_of_the_same_name_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file `arm1` in the working folder is read instead of the shipped arm."""
        monkeypatch.chdir(tmp_path)
        Path("arm1").write_text(DEFAULT_URDF.read_text())
        assert Arm("arm1").joint_count == 3

    @pytest.mark.parametrize("name", ["arm1.urdf", "./arm1", "arm2", "imperfections/arm1"])
    def test_other_names_are_files(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Paths, names with an ending and unknown names are not looked up in the assets."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=f"cannot read arm {name}"):
            Arm(name)


class TestNearestReachable:
    """The reachable point nearest to a given one."""

    @pytest.mark.parametrize("which", ["arm", "crooked"])
    def test_a_reachable_point_is_its_own_nearest(self, which: str, request: pytest.FixtureRequest) -> None:
        """A reachable point is returned unchanged to 0.1 mm."""
        arm: Arm = request.getfixturevalue(which)
        for pose in poses(arm, 50, seed=8):
            point = arm.tip_position(pose.tolist())
            np.testing.assert_allclose(arm.nearest_reachable(point), point, atol=1e-4)

    def test_it_is_reachable_and_no_sampled_tip_is_nearer(self, arm: Arm) -> None:
        """The point is reachable, and no tip of 20,000 random poses is nearer by more than 0.1 mm."""
        generator = np.random.default_rng(9)
        tips = arm.forward_kinematics(poses(arm, 20_000, seed=10))
        for point in generator.uniform(-1.5, 1.5, (50, 3)):
            nearest = np.array(arm.nearest_reachable(point.tolist()))
            assert_reached(arm, nearest[None])
            assert np.linalg.norm(nearest - point) <= np.linalg.norm(tips - point, axis=-1).min() + 1e-4


PLANAR = robot(
    link("base"),
    link("upper"),
    link("fore"),
    link("tip"),
    joint(
        "shoulder",
        "base",
        "upper",
        inside='<origin xyz="0 0 0.3"/><axis xyz="0 0 1"/>'
        '<limit lower="-3.1" upper="3.1" effort="1" velocity="1" acceleration="5"/>',
    ),
    joint(
        "elbow",
        "upper",
        "fore",
        inside='<origin xyz="0.3 0 0"/><axis xyz="0 0 1"/>'
        '<limit lower="-3" upper="3" effort="1" velocity="2" acceleration="5"/>',
    ),
    joint("end", "fore", "tip", "fixed", '<origin xyz="0.2 0 0"/>'),
)


class TestNearSolution:
    """Inverse kinematics from a start pose: the solution that is reached soonest."""

    @pytest.fixture
    def planar(self) -> Arm:
        """Two joints about z, with links of 0.3 and 0.2 m: two poses for each goal."""
        return Arm("planar.urdf", text=PLANAR)

    def solutions(self, arm: Arm, goal_m: Array) -> Array:
        """The poses given by the law of cosines that are within the limits."""
        x, y = goal_m[:2]
        bend = math.acos(max(-1.0, min(1.0, (x * x + y * y - 0.3**2 - 0.2**2) / (2 * 0.3 * 0.2))))
        poses_deg = []
        for elbow in (bend, -bend):
            shoulder = math.atan2(y, x) - math.atan2(0.2 * math.sin(elbow), 0.3 + 0.2 * math.cos(elbow))
            wrapped = (shoulder + math.pi) % (2 * math.pi) - math.pi
            poses_deg.append([math.degrees(wrapped), math.degrees(elbow)])
        both = np.array(poses_deg)
        inside = (both >= arm.limits.lower_deg) & (both <= arm.limits.upper_deg)
        return both[inside.all(axis=1)]

    def test_returns_the_nearer_of_both_elbow_poses(self, planar: Arm) -> None:
        """Of the two closed-form poses, the one that the slower joint reaches first is returned."""
        starts_deg = poses(planar, 400, seed=21)
        goals_m = planar.forward_kinematics(poses(planar, 400, seed=22))
        found_deg = planar.inverse_kinematics(goals_m, 1e-6, start_deg=starts_deg)
        assert worst(planar.forward_kinematics(found_deg) - goals_m) <= 1e-6
        speed = np.degrees([1.0, 2.0])
        for start, goal, found in zip(starts_deg, goals_m, found_deg, strict=True):
            nearest_s = min((np.abs(pose - start) / speed).max() for pose in self.solutions(planar, goal))
            assert (np.abs(found - start) / speed).max() <= nearest_s + 1e-3

    def test_without_a_start_either_solution_is_returned(self, planar: Arm) -> None:
        """Without a start, the result is one of the two closed-form poses."""
        goals_m = planar.forward_kinematics(poses(planar, 50, seed=23))
        for goal, found in zip(goals_m, planar.inverse_kinematics(goals_m, 1e-7), strict=True):
            assert np.abs(self.solutions(planar, goal) - found).max(axis=1).min() < 1e-2

    def test_an_unreachable_goal_is_rejected_from_a_start_too(self, planar: Arm) -> None:
        """A start pose does not suppress UnreachableGoalError."""
        with pytest.raises(UnreachableGoalError):
            planar.inverse_kinematics((0.6, 0.0, 0.3), start_deg=(0.0, 0.0))

    def test_a_descent_depends_on_no_other_row(self, arm: Arm) -> None:
        """Each row of a batch gives the same bits alone, whether the others converge or not."""
        starts_deg = poses(arm, 40, seed=24)
        goals_m = arm.forward_kinematics(poses(arm, 40, seed=25))
        goals_m[7] = (0.0, 0.0, 2.0)
        together = arm.descend(starts_deg, goals_m, 1e-6, 50)
        for row in range(40):
            alone = arm.descend(starts_deg[[row]], goals_m[[row]], 1e-6, 50)
            assert np.array_equal(alone[0], together[row])

    def test_the_start_poses_are_not_modified(self, arm: Arm) -> None:
        """The array of start poses belongs to the caller and stays unchanged."""
        starts_deg = poses(arm, 5, seed=26)
        before = starts_deg.copy()
        arm.descend(starts_deg, arm.forward_kinematics(poses(arm, 5, seed=27)), 1e-6)
        assert np.array_equal(starts_deg, before)
