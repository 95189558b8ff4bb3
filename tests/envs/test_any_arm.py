"""An arm that nobody here made: the KUKA iiwa that comes with PyBullet, seven joints."""

import time
import tracemalloc
from pathlib import Path

import gymnasium
import numpy as np
import pybullet
import pybullet_data
import pytest

import envs  # noqa: F401  (registers the environments)
from envs.arm import Arm, UnreachableGoalError

KUKA = Path(pybullet_data.getDataPath()) / "kuka_iiwa" / "model.urdf"


@pytest.fixture(scope="module")
def kuka() -> Arm:
    return Arm(KUKA)


def test_what_its_urdf_says(kuka: Arm) -> None:
    assert kuka.joint_count == 7
    assert kuka.joint_names[0] == "lbr_iiwa_joint_1"
    assert np.allclose(kuka.limits.upper_deg, [170, 120, 170, 120, 170, 120, 175])
    assert kuka.max_torque_nm == (300.0,) * 7


def test_its_tip_is_where_pybullet_has_it(kuka: Arm) -> None:
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
def test_inverse_kinematics_reaches_what_forward_kinematics_made(kuka: Arm) -> None:
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
def test_spaces_follow_from_the_arm(name: str, size: tuple[int, ...]) -> None:
    env = gymnasium.make(name, arm=str(KUKA), grid_step_deg=5.0)
    assert env.action_space.shape == size
    observation, _ = env.reset(seed=0)
    assert observation["observation"].shape == (21,)
    for _ in range(60):
        observation, reward, _, truncated, _ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        assert np.isfinite(reward)
        if truncated:
            env.reset()
    env.close()


def test_its_own_inverse_kinematics_controls_it(kuka: Arm) -> None:
    env = gymnasium.make("ArmReach-v0", arm=str(KUKA))
    observation, _ = env.reset(seed=3)
    target = kuka.inverse_kinematics(observation["desired_goal"], 1e-5).astype(np.float32)
    for _ in range(50):
        *_, info = env.step(target)
    assert info["distance_m"] < 1e-3
    env.close()


def mesh(name: str) -> str:
    return f"""<robot name="m"><link name="a"/>
    <link name="b"><visual><geometry><mesh filename="{name}"/></geometry></visual></link>
    <joint name="j" type="revolute"><parent link="a"/><child link="b"/>
    <limit lower="0" upper="1" effort="1" velocity="1"/></joint></robot>"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.stl", "mesh 'none.stl' is missing"),
        ("../secret.stl", "outside the folder"),
        ("/etc/hostname", "outside the folder"),
    ],
)
def test_a_mesh_that_is_missing_or_elsewhere_is_refused(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "secret.stl").write_text("solid")
    folder = tmp_path / "arm"
    folder.mkdir()
    (folder / "arm.urdf").write_text(mesh(name))
    with pytest.raises(ValueError, match=said):
        Arm(folder / "arm.urdf")


def test_more_than_seven_joints_are_refused(tmp_path: Path) -> None:
    links = "".join(f'<link name="l{n}"/>' for n in range(9))
    joint = '<joint name="j{0}" type="revolute"><parent link="l{0}"/><child link="l{1}"/>{2}</joint>'
    limit = '<limit lower="0" upper="1" effort="1" velocity="1"/>'
    joints = "".join(joint.format(n, n + 1, limit) for n in range(8))
    (tmp_path / "long.urdf").write_text(f'<robot name="long">{links}{joints}</robot>')
    with pytest.raises(ValueError, match="wanted 1 to 7 revolute joints, got 8"):
        Arm(tmp_path / "long.urdf")


def test_thousands_of_joints_are_refused_before_anything_is_worked_out() -> None:
    joint = (
        '<joint name="j{0}" type="revolute"><parent link="l{0}"/><child link="l{1}"/>'
        '<limit lower="0" upper="1" effort="1" velocity="1"/></joint>'
    )
    text = f'<robot name="long">{"".join(joint.format(n, n + 1) for n in range(1800))}</robot>'
    begin = time.process_time()
    with pytest.raises(ValueError, match="wanted 1 to 7 revolute joints, got 1800"):
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
def test_a_urdf_with_entities_is_refused_before_they_grow(doctype: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="a URDF without a DOCTYPE"):
            Arm("laughs.urdf", text=f'<?xml version="1.0"?>{doctype}<robot name="x"><link name="&a9;"/></robot>')
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
