"""Arms of other makers: the KUKA iiwa of pybullet_data, a desk arm of ±90° joints, random ones."""

import math
import time
import tracemalloc
from pathlib import Path

import gymnasium
import numpy as np
import pybullet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from locations import DESK, KUKA
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import envs  # noqa: F401  (registers the environments)
from envs.arm import Arm, UnreachableGoalError
from envs.limits import JointLimits
from envs.tasks.base import Task
from envs.tasks.reach import Reach
from envs.tasks.track import Track


@pytest.fixture(scope="module")
def kuka() -> Arm:
    return Arm(KUKA)


class TestKuka:
    """The KUKA iiwa of pybullet_data, with seven joints."""

    def test_reads_its_urdf(self, kuka: Arm) -> None:
        """Names, limits and torques are those that its URDF states."""
        assert kuka.joint_count == 7
        assert kuka.joint_names[0] == "lbr_iiwa_joint_1"
        assert np.allclose(kuka.limits.upper_deg, [170, 120, 170, 120, 170, 120, 175])
        assert kuka.max_torque_nm == (300.0,) * 7

    def test_its_tip_agrees_with_pybullet(self, kuka: Arm) -> None:
        """The tips of 200 random poses are within 0.01 mm of PyBullet's."""
        poses = np.random.default_rng(0).uniform(kuka.limits.lower_deg, kuka.limits.upper_deg, (200, 7))
        client = pybullet.connect(pybullet.DIRECT)
        try:
            body = pybullet.loadURDF(str(KUKA), useFixedBase=True, physicsClientId=client)
            for pose, tip in zip(poses, kuka.forward_kinematics(poses), strict=True):
                for joint, angle in enumerate(np.radians(pose)):
                    pybullet.resetJointState(body, joint, angle, physicsClientId=client)
                place = pybullet.getLinkState(body, 6, computeForwardKinematics=True, physicsClientId=client)[4]
                assert np.linalg.norm(tip - place) < 1e-5
        finally:
            pybullet.disconnect(client)

    @pytest.mark.slow
    def test_inverse_kinematics_reaches_99_percent_of_random_tips(self, kuka: Arm) -> None:
        """Of 1000 tips of random poses at least 990 are reached within 0.01 mm and the limits."""
        poses = np.random.default_rng(1).uniform(kuka.limits.lower_deg, kuka.limits.upper_deg, (1000, 7))
        reached = 0
        for goal in kuka.forward_kinematics(poses):
            try:
                angles = kuka.inverse_kinematics(goal)
            except UnreachableGoalError:
                continue
            assert (angles >= kuka.limits.lower_deg).all()
            assert (angles <= kuka.limits.upper_deg).all()
            reached += bool(np.linalg.norm(kuka.forward_kinematics(angles) - goal) <= 1e-5)
        assert reached >= 990

    @pytest.mark.parametrize(
        ("name", "size"),
        [("ArmReach-v0", (7,)), ("ArmReachMultiDiscrete-v0", (7,)), ("ArmReachDiscrete-v0", ())],
    )
    def test_spaces_follow_from_the_arm(self, name: str, size: tuple[int, ...]) -> None:
        """Seven joints give 28 observations and actions of seven angles, seven positions or one index."""
        env = gymnasium.make(name, arm=str(KUKA), grid_step_deg=5.0)
        assert env.action_space.shape == size
        observation, _ = env.reset(seed=0)
        assert observation["observation"].shape == (28,)
        for _ in range(60):
            observation, reward, _, truncated, _ = env.step(env.action_space.sample())
            assert env.observation_space.contains(observation)
            assert np.isfinite(reward)
            if truncated:
                env.reset()
        env.close()

    def test_its_inverse_kinematics_controls_it(self, kuka: Arm) -> None:
        """Sent as the target, the pose from inverse kinematics brings the tip within 1 mm of the goal in an episode."""
        env = gymnasium.make("ArmReach-v0", arm=str(KUKA))
        observation, _ = env.reset(seed=3)
        target = kuka.inverse_kinematics(observation["desired_goal"], 1e-5).astype(np.float32)
        for _ in range(50):
            *_, info = env.step(target)
        assert info["distance_m"] < 1e-3
        env.close()


class TestRejectedArms:
    """URDFs that are rejected before they cost time or memory."""

    def test_rejects_more_than_seven_joints(self, tmp_path: Path) -> None:
        """An eighth revolute joint raises ValueError."""
        links = "".join(f'<link name="l{n}"/>' for n in range(9))
        joint = '<joint name="j{0}" type="revolute"><parent link="l{0}"/><child link="l{1}"/>{2}</joint>'
        limit = '<limit lower="0" upper="1" effort="1" velocity="1"/>'
        joints = "".join(joint.format(n, n + 1, limit) for n in range(8))
        (tmp_path / "long.urdf").write_text(f'<robot name="long">{links}{joints}</robot>')
        with pytest.raises(ValueError, match="expected 1 to 7 revolute joints, got 8"):
            Arm(tmp_path / "long.urdf")

    def test_rejects_thousands_of_joints_without_delay(self) -> None:
        """1800 joints are rejected within 5 s of CPU time, before limits are derived, which is cubic in the joints."""
        joint = (
            '<joint name="j{0}" type="revolute"><parent link="l{0}"/><child link="l{1}"/>'
            '<limit lower="0" upper="1" effort="1" velocity="1"/></joint>'
        )
        text = f'<robot name="long">{"".join(joint.format(n, n + 1) for n in range(1800))}</robot>'
        begin = time.process_time()
        with pytest.raises(ValueError, match="expected 1 to 7 revolute joints, got 1800"):
            Arm("long.urdf", text=text)
        assert time.process_time() - begin < 5.0  # their momenta, by the cube of their number, would take many minutes

    @pytest.mark.parametrize(
        "doctype",
        [
            '<!DOCTYPE robot SYSTEM "file:///etc/hostname">',
            "<!DOCTYPE robot [<!ENTITY a '&#65;'>]>",
            "<!DOCTYPE robot [<!ENTITY a0 'ha'>"
            + "".join(f"<!ENTITY a{n + 1} '{f'&a{n};' * 10}'>" for n in range(9))
            + "]>",
        ],
        ids=["external", "entity", "billion laughs"],
    )
    def test_rejects_a_doctype_before_entities_expand(self, doctype: str) -> None:
        """A DOCTYPE is rejected with less than 1 MiB allocated: no external file, no exponential entity expansion."""
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="a URDF without a DOCTYPE"):
                Arm("laughs.urdf", text=f'<?xml version="1.0"?>{doctype}<robot name="x"><link name="&a9;"/></robot>')
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()


Vector = tuple[float, float, float]
places = st.tuples(*[st.floats(-0.3, 0.3)] * 3)
turns = st.tuples(*[st.floats(-3.1, 3.1)] * 3)
axes = st.sampled_from([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.6, 0.0, -0.8)])
ranges = st.tuples(st.floats(-180.0, 170.0), st.floats(5.0, 350.0)).map(lambda r: (r[0], min(r[0] + r[1], 180.0)))
joints = st.lists(st.tuples(places, turns, axes, ranges), min_size=1, max_size=7)
Joints = list[tuple[Vector, Vector, Vector, tuple[float, float]]]


def words(values: tuple[float, ...]) -> str:
    return " ".join(map(repr, values))


def made(joints: Joints, tip_m: Vector) -> Arm:
    """An arm of these joints: origin and rotation in the previous link, axis, range in degrees."""
    parts = ['<link name="l0"/>']
    for number, (place, turn, axis, (low, high)) in enumerate(joints):
        limit = f'lower="{math.radians(low)!r}" upper="{math.radians(high)!r}" effort="1" velocity="1"'
        parts.append(
            f'<link name="l{number + 1}"/><joint name="j{number}" type="revolute"><parent link="l{number}"/>'
            f'<child link="l{number + 1}"/><origin xyz="{words(place)}" rpy="{words(turn)}"/>'
            f'<axis xyz="{words(axis)}"/><limit {limit}/></joint>'
        )
    parts.append(
        f'<link name="tip"/><joint name="mount" type="fixed"><parent link="l{len(joints)}"/><child link="tip"/>'
        f'<origin xyz="{words(tip_m)}"/></joint>'
    )
    return Arm("made.urdf", text=f'<robot name="made">{"".join(parts)}</robot>')


def ends_of(joints: Joints, tip_m: Vector, angles_deg: list[float]) -> NDArray[np.float64]:
    """Positions of the far ends of an arm's links, by a chain of SciPy's rotations."""
    ends = []
    at, turned = np.zeros(3), Rotation.identity()
    for (place, turn, axis, _), angle in zip(joints, angles_deg, strict=True):
        at = at + turned.apply(place)
        ends.append(at)
        turned = turned * Rotation.from_euler("xyz", turn) * Rotation.from_rotvec(math.radians(angle) * np.array(axis))
    return np.array([*ends[1:], at + turned.apply(tip_m)])


class TestDefaultPose:
    """The pose in which an arm starts and is parked by default."""

    def test_is_zero_where_zero_is_allowed(self) -> None:
        """Arms whose ranges contain zero start with every joint at zero."""
        for arm in (Arm(), Arm(DESK), Arm(KUKA)):
            assert arm.default_pose_deg() == [0.0] * arm.joint_count

    @settings(max_examples=30)
    @given(joints, places)
    def test_is_within_the_limits_and_above_the_table_if_possible(self, joints: Joints, tip_m: Vector) -> None:
        """For random arms, the pose is within the limits and its link ends at least 20 mm up, by SciPy's rotations."""
        arm = made(joints, tip_m)
        pose = arm.default_pose_deg()
        low, high = np.array(arm.limits.lower_deg), np.array(arm.limits.upper_deg)
        assert ((low <= pose) & (pose <= high)).all()
        assert pose == made(joints, tip_m).default_pose_deg()
        lowest_m = ends_of(joints, tip_m, pose)[:, 2].min()
        zero = np.clip(0.0, low, high).tolist()
        if ends_of(joints, tip_m, zero)[:, 2].min() >= 0.021:
            assert pose == zero
        generator = np.random.default_rng(1)
        others = [generator.uniform(low, high).tolist() for _ in range(20)]
        possible = [ends_of(joints, tip_m, other)[:, 2].min() >= 0.021 for other in others]
        if sum(possible) >= 2:  # a pose in ten or so: among 512 of them there is surely one
            assert lowest_m >= 0.02 - 1e-6

    def test_avoids_the_table_if_zero_does_not(self) -> None:
        """A level link of 0.3 m at -0.1 m must rise by asin(0.12 / 0.3) = 23.58 degrees or more, whatever the axis'
        sign."""
        for axis in ((0.0, 1.0, 0.0), (0.0, -1.0, 0.0)):
            joints: Joints = [((0.0, 0.0, -0.1), (0.0, 0.0, 0.0), axis, (-90.0, 90.0))]
            pose = made(joints, (0.3, 0.0, 0.0)).default_pose_deg()
            # Above z = 0.02 from asin(0.12 / 0.3) = 23.58 degrees on.
            assert 23.58 <= abs(pose[0]) <= 30.0
            assert np.sign(pose[0]) == -axis[1]

    def test_respects_a_box_and_narrower_limits(self) -> None:
        """A workspace box and narrower limits restrict the pose."""
        arm = Arm()
        low = arm.default_pose_deg(box=(-1.0, -1.0, 0.0, 1.0, 1.0, 0.6))  # straight up it is 0.7 m high
        assert max(end[2] for end in arm.link_ends(low)) <= 0.6
        assert arm.default_pose_deg(box=(0.0, 0.0, 0.0, 1.0, 1.0, 0.7)) == [0.0] * 3
        narrow = JointLimits((5.0, 10.0, 15.0), (80.0,) * 3, (1.0,) * 3, (1.0,) * 3)
        assert arm.default_pose_deg(narrow) == [5.0, 10.0, 15.0]

    def test_is_the_least_violating_pose_if_none_is_inside(self) -> None:
        """If no pose is above the table, the highest one is returned: here -90 degrees."""
        joints: Joints = [((0.0, 0.0, -0.5), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (-90.0, 90.0))]
        pose = made(joints, (0.3, 0.0, 0.0)).default_pose_deg()
        assert pose[0] == pytest.approx(-90.0, abs=1.0)


class TestGoalsAboveTheTable:
    """Goals are at or above z = 0, for any arm."""

    def low_arm(self) -> Arm:
        """A desk arm whose shoulder is 120 mm below the table."""
        text = DESK.read_text().replace('<origin xyz="0 0 0.08"/>', '<origin xyz="0 0 -0.16"/>')
        return Arm("low.urdf", text=text)

    def hanging_arm(self) -> str:
        """The URDF of an arm under a ceiling, all of it below z = 0."""
        return DESK.read_text().replace('<origin xyz="0 0 0.08"/>', '<origin xyz="0 0 -0.6"/>')

    @pytest.mark.parametrize("seed", range(3))
    def test_reach_goals_of_an_arm_that_reaches_below_the_table(self, seed: int) -> None:
        """Goals of an arm with over 20 % of its tips below the table are above it, down to 20 mm, and reachable."""
        arm, generator = self.low_arm(), np.random.default_rng(seed)
        poses = generator.uniform(arm.limits.lower_deg, arm.limits.upper_deg, (300, 3))
        assert (arm.forward_kinematics(poses)[:, 2] < 0.0).mean() > 0.2
        task = Reach(reach_m=arm.reach_m)
        goals = np.array([task.draw_goals(arm, generator, 50, 1 / 30).goal_m for _ in range(300)])
        assert goals[:, 2].min() >= 0.0
        assert goals[:, 2].min() < 0.02  # down to the table
        np.testing.assert_allclose(arm.forward_kinematics(arm.inverse_kinematics(goals[:20])), goals[:20], atol=1e-5)

    @pytest.mark.parametrize("kind", ["circle", "eight", "spline"])
    def test_paths_of_an_arm_that_reaches_below_the_table(self, kind: str) -> None:
        """All 5000 points along each drawn path are at or above z = 0."""
        arm, generator = self.low_arm(), np.random.default_rng(0)
        task = Track(path=kind, speed_m_s=0.05, reach_m=arm.reach_m)  # type: ignore[arg-type]
        for _ in range(5):
            path = task.draw_goals(arm, generator, 200, 1 / 30).path
            assert path.motion(np.linspace(0.0, path.period_s, 5000))[:, 2].min() >= 0.0

    def test_goals_of_the_environments(self, tmp_path: Path) -> None:
        """The first goals of both environments with such an arm are at or above z = 0."""
        file = tmp_path / "low.urdf"
        file.write_text(self.low_arm().urdf_text)
        for name in ("ArmReach-v0", "ArmTrack-v0"):
            options = {"speed_m_s": 0.05} if name == "ArmTrack-v0" else {}
            env = gymnasium.make(name, arm=str(file), **options)
            goals = [env.reset(seed=seed)[0]["desired_goal"] for seed in range(20)]
            assert min(goal[2] for goal in goals) >= 0.0
            env.close()

    def test_goals_of_the_default_arm_need_no_second_draw(self) -> None:
        """The default arm's goals are the tips of one uniform pose each, with no pose rejected."""
        arm, generator, same = Arm(), np.random.default_rng(4), np.random.default_rng(4)
        for _ in range(200):
            goal = Reach().draw_goals(arm, generator, 50, 1 / 30).goal_m
            assert goal == arm.tip_position(same.uniform(arm.limits.lower_deg, arm.limits.upper_deg).tolist())
        assert generator.bit_generator.state == same.bit_generator.state

    @pytest.mark.parametrize("task", [Reach(), Track()], ids=["reach", "track"])
    def test_rejects_an_arm_that_reaches_nothing_above_the_table(self, task: Task) -> None:
        """An arm that hangs below z = 0 is rejected by both tasks with its highest point."""
        with pytest.raises(ValueError, match=r"deskarm reaches nothing above the table at z = 0 m.*z = -0\.2\d\d m"):
            task.check_arm(Arm("hanging.urdf", text=self.hanging_arm()))
