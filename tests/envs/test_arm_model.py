"""The shipped URDFs against their sources: parts, data sheet and geometry, and the body that PyBullet loads."""

import math
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.arm import ASSETS, DEFAULT_URDF, Arm
from envs.bullet import pybullet

Array = NDArray[np.float64]
Part = tuple[float, Array, float]  # mass, its own inertia about x, y, z, height of its centre

ALUMINIUM, PLA, POLYURETHANE = 2700.0, 1240.0, 1200.0  # kg/m^3
SERVO_KG, SERVO_SIZE = 0.0572, (0.0285, 0.034, 0.0465)
GRID_DEG = range(0, 91, 5)


def box(mass: float, x: float, y: float, z: float, height: float) -> Part:
    return mass, mass / 12 * np.array([y * y + z * z, x * x + z * z, x * x + y * y]), height


def servo(height: float) -> Part:
    return box(SERVO_KG, *SERVO_SIZE, height)


def plate(height: float) -> Part:
    return box(PLA * 0.034 * 0.044 * 0.004, 0.034, 0.044, 0.004, height)


def square_tube(side: float, wall: float, length: float, height: float) -> Part:
    outer, inner = side, side - 2 * wall
    mass_outer, mass_inner = ALUMINIUM * outer**2 * length, ALUMINIUM * inner**2 * length
    inertia = box(mass_outer, outer, outer, length, 0)[1] - box(mass_inner, inner, inner, length, 0)[1]
    return mass_outer - mass_inner, inertia, height


def round_tube(diameter: float, wall: float, length: float, height: float) -> Part:
    outer, inner = diameter / 2, diameter / 2 - wall
    mass = ALUMINIUM * math.pi * (outer**2 - inner**2) * length
    across = mass * (3 * (outer**2 + inner**2) + length**2) / 12
    return mass, np.array([across, across, mass * (outer**2 + inner**2) / 2]), height


def disc(diameter: float, thickness: float, height: float) -> Part:
    radius = diameter / 2
    mass = PLA * math.pi * radius**2 * thickness
    across = mass * (3 * radius**2 + thickness**2) / 12
    return mass, np.array([across, across, mass * radius**2 / 2]), height


def ball(diameter: float) -> Part:
    mass = POLYURETHANE * math.pi * diameter**3 / 6
    return mass, np.full(3, 0.4 * mass * (diameter / 2) ** 2), 0.0


PARTS = {
    "column": [square_tube(0.04, 0.002, 0.2, 0.1)],
    "turntable": [disc(0.05, 0.004, 0.002), servo(0.038)],
    "upper_arm": [plate(0.015), round_tube(0.016, 0.001, 0.2, 0.115), servo(0.238)],
    "forearm": [plate(0.015), round_tube(0.012, 0.001, 0.175, 0.1025)],
    "tip": [ball(0.012)],
}
ONE_JOINT_PARTS = {
    "stand": [square_tube(0.04, 0.002, 0.215, 0.1075), servo(0.238)],
    "pointer": PARTS["forearm"],
    "tip": PARTS["tip"],
}
ONE_JOINT_URDF = ASSETS / "arm1.urdf"
LINKS = [(DEFAULT_URDF, link, parts) for link, parts in PARTS.items()]
LINKS += [(ONE_JOINT_URDF, link, parts) for link, parts in ONE_JOINT_PARTS.items()]
TORQUES = r"needs (\S+) N m against gravity and (\S+) kg m\^2 x 40 = (\S+) N m to accelerate:\s+(\S+) N m, (\d+) %"


def mass_centre_inertia(parts: list[Part]) -> tuple[float, float, Array]:
    mass = sum(part[0] for part in parts)
    centre = sum(part[0] * part[2] for part in parts) / mass
    steiner = np.array([1.0, 1.0, 0.0])  # every part stands on the z axis
    return mass, centre, sum((i + m * (z - centre) ** 2 * steiner for m, i, z in parts), np.zeros(3))


class Body:
    """The arm in its own physics client, with links and joints by name."""

    def __init__(self, urdf: Path, *, fixed: bool = True) -> None:
        self.client = pybullet.connect(pybullet.DIRECT)
        flags = pybullet.URDF_USE_INERTIA_FROM_FILE
        self.id = pybullet.loadURDF(str(urdf), useFixedBase=fixed, flags=flags, physicsClientId=self.client)
        pybullet.setGravity(0, 0, -9.81, physicsClientId=self.client)
        count = pybullet.getNumJoints(self.id, physicsClientId=self.client)
        infos = [pybullet.getJointInfo(self.id, index, physicsClientId=self.client) for index in range(count)]
        self.links = {info[12].decode(): info[0] for info in infos}
        self.links[pybullet.getBodyInfo(self.id, physicsClientId=self.client)[0].decode()] = -1
        self.joints = {info[1].decode(): info for info in infos}

    def pose(self, angles_deg: tuple[float, ...]) -> None:
        for joint, angle in enumerate(angles_deg):
            pybullet.resetJointState(self.id, joint, math.radians(angle), physicsClientId=self.client)

    def distance(self, link: str, other: int, other_link: int) -> float:
        """Metres between a link and a link of a body; more than 1 m counts as 1 m."""
        points = pybullet.getClosestPoints(
            self.id, other, 1.0, self.links[link], other_link, physicsClientId=self.client
        )
        return min((point[8] for point in points), default=1.0)


@pytest.fixture
def body() -> Iterator[Body]:
    body = Body(DEFAULT_URDF)
    yield body
    pybullet.disconnect(body.client)


@pytest.fixture
def loaded() -> Iterator[Callable[..., Body]]:
    """A function that loads a URDF as a body, for the length of the test."""
    bodies = []

    def load(urdf: Path, *, fixed: bool = True) -> Body:
        body = Body(urdf, fixed=fixed)
        bodies.append(body)
        return body

    yield load
    for body in bodies:
        pybullet.disconnect(body.client)


@pytest.fixture(params=["collision", "visual"])
def solid_body(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Body]:
    """The arm with its collision shapes, then with its visual shapes as collision shapes."""
    tree = ElementTree.parse(DEFAULT_URDF)
    for link in tree.getroot().findall("link"):
        for shape in link.findall("collision" if request.param == "visual" else "visual"):
            link.remove(shape)
        for shape in link.findall("visual"):
            shape.tag = "collision"
    tree.write(tmp_path / "solid.urdf")
    body = Body(tmp_path / "solid.urdf")
    yield body
    pybullet.disconnect(body.client)


class TestDataSheet:
    """Masses, inertias and limits, from parts and data sheet."""

    @pytest.mark.parametrize(("urdf", "link", "parts"), LINKS)
    def test_mass_centre_and_inertia_of_each_link_are_those_of_its_parts(
        self, urdf: Path, link: str, parts: list[Part], loaded: Callable[..., Body]
    ) -> None:
        """Written and loaded values equal the closed forms of the parts' solids, moved by Steiner's theorem (1e-7)."""
        mass, centre, inertia = mass_centre_inertia(parts)
        inertial = ElementTree.parse(urdf).getroot().find(f"link[@name='{link}']/inertial")
        assert inertial is not None
        origin, mass_element, inertia_element = inertial.find("origin"), inertial.find("mass"), inertial.find("inertia")
        assert mass_element is not None
        assert inertia_element is not None
        written = {name: float(value) for name, value in inertia_element.attrib.items()}
        assert float(mass_element.attrib["value"]) == pytest.approx(mass, rel=1e-7)
        assert [written[name] for name in ("ixx", "iyy", "izz")] == pytest.approx(inertia.tolist(), rel=1e-7)
        assert [written[name] for name in ("ixy", "ixz", "iyz")] == [0, 0, 0]
        xyz = "0 0 0" if origin is None else origin.attrib["xyz"]
        assert [float(word) for word in xyz.split()] == pytest.approx([0, 0, centre], abs=1e-10)

        # With a free base, since PyBullet reports a mass of 0 for a fixed one.
        body = loaded(urdf, fixed=False)
        dynamics = pybullet.getDynamicsInfo(body.id, body.links[link], physicsClientId=body.client)
        assert dynamics[0] == pytest.approx(mass, rel=1e-7)
        assert dynamics[2] == pytest.approx(inertia.tolist(), rel=1e-7)
        assert dynamics[3] == pytest.approx([0, 0, centre], abs=1e-10)
        assert dynamics[4] == pytest.approx([0, 0, 0, 1], abs=1e-12)

    @pytest.mark.parametrize(("urdf", "parts"), [(DEFAULT_URDF, PARTS), (ONE_JOINT_URDF, ONE_JOINT_PARTS)])
    def test_the_body_has_no_other_links(
        self, urdf: Path, parts: dict[str, list[Part]], loaded: Callable[..., Body]
    ) -> None:
        """The URDF has exactly the links whose parts are listed."""
        assert set(loaded(urdf).links) == set(parts)

    @pytest.mark.parametrize("joint", ["base_yaw", "shoulder", "elbow"])
    def test_joint_limits_torque_and_speed_are_those_of_the_servo(self, joint: str, body: Body) -> None:
        """PyBullet loads 0 to 90 degrees, 1.4 N m and 57 rev/min, as in the servo's data sheet."""
        info = body.joints[joint]
        assert info[2] == pybullet.JOINT_REVOLUTE
        assert (info[8], info[9]) == pytest.approx((0.0, math.pi / 2), abs=1e-12)
        assert info[10] == 1.4
        assert info[11] == pytest.approx(57 * 2 * math.pi / 60, rel=1e-4)  # 57 rev/min, written with four figures

    def test_arm_reads_the_servos_limits(self) -> None:
        """`Arm` reads names and limits of the same data sheet, in degrees, and the acceleration of 40 rad/s^2."""
        arm = Arm()
        assert arm.joint_names == ("base_yaw", "shoulder", "elbow")
        assert arm.tip_link == "tip"
        assert arm.limits.lower_deg == (0.0,) * 3
        assert arm.limits.upper_deg == pytest.approx((90.0,) * 3, abs=1e-12)
        assert arm.limits.max_speed_deg_s == pytest.approx((57 * 360 / 60,) * 3, rel=1e-4)
        assert arm.limits.max_acceleration_deg_s2 == pytest.approx((math.degrees(40),) * 3, rel=1e-12)
        assert arm.max_torque_nm == (1.4,) * 3

    def test_the_headers_torques_of_the_level_arm_hold(self, body: Body) -> None:
        """The torques stated in the URDF's header equal PyBullet's inverse dynamics and the sums over the parts."""
        claim = re.search(TORQUES, DEFAULT_URDF.read_text())
        assert claim is not None
        gravity, inertia, accelerating, together, fraction = (float(group) for group in claim.groups())

        level, still = [0.0, math.pi / 2, 0.0], [0.0, 0.0, 0.0]
        torque = pybullet.calculateInverseDynamics(body.id, level, still, still, physicsClientId=body.client)
        matrix = pybullet.calculateMassMatrix(body.id, level, physicsClientId=body.client)
        true_gravity, true_inertia = abs(torque[1]), matrix[1][1]

        lever = {"upper_arm": 0.0, "forearm": 0.25, "tip": 0.45}  # from the shoulder's axis to each link's frame
        sums = [(m, z + lever[link], i) for link in lever for m, z, i in [mass_centre_inertia(PARTS[link])]]
        assert true_gravity == pytest.approx(9.81 * sum(m * x for m, x, _ in sums), rel=1e-6)
        assert true_inertia == pytest.approx(sum(i[1] + m * x**2 for m, x, i in sums), rel=1e-6)

        assert gravity == pytest.approx(true_gravity, abs=0.005)
        assert inertia == pytest.approx(true_inertia, abs=0.00005)
        assert accelerating == pytest.approx(40 * true_inertia, abs=0.005)
        assert together == pytest.approx(true_gravity + 40 * true_inertia, abs=0.005)
        assert fraction == pytest.approx(100 * (true_gravity + 40 * true_inertia) / 1.4, abs=0.5)

    def test_the_torques_in_the_header_of_the_one_joint_arm_hold(self, loaded: Callable[..., Body]) -> None:
        """They equal PyBullet's inverse dynamics of the level arm, to the figures that are written."""
        claim = re.search(TORQUES, ONE_JOINT_URDF.read_text())
        assert claim is not None
        gravity, inertia, accelerating, together, percent = (float(group) for group in claim.groups())
        body = loaded(ONE_JOINT_URDF)
        level = [math.pi / 2]
        [torque] = pybullet.calculateInverseDynamics(body.id, level, [0.0], [0.0], physicsClientId=body.client)
        [[true_inertia]] = pybullet.calculateMassMatrix(body.id, level, physicsClientId=body.client)
        true_torque = abs(torque) + 40 * true_inertia
        assert gravity == pytest.approx(abs(torque), abs=0.0005)
        assert inertia == pytest.approx(true_inertia, abs=0.000005)
        assert accelerating == pytest.approx(40 * true_inertia, abs=0.0005)
        assert together == pytest.approx(true_torque, abs=0.0005)
        assert percent == pytest.approx(100 * true_torque / 1.4, abs=0.5)

    def test_the_one_joint_arm_has_the_limits_of_the_default_one(self) -> None:
        """Those of the servo; the tip turns 0.2 m around 0.25 m above the table."""
        arm = Arm(ONE_JOINT_URDF)
        default = Arm()
        assert arm.joint_names == ("shoulder",)
        for name in ("lower_deg", "upper_deg", "max_speed_deg_s", "max_acceleration_deg_s2"):
            assert getattr(arm.limits, name) == getattr(default.limits, name)[:1]
        assert arm.max_torque_nm == default.max_torque_nm[:1]
        assert arm.tip_position([0.0]) == pytest.approx((0.0, 0.0, 0.45))
        assert arm.tip_position([90.0]) == pytest.approx((0.2, 0.0, 0.25))


class TestGeometry:
    """Heights and clearances of the links over a 5-degree grid of poses."""

    def test_the_tips_lowest_point_is_50_mm_above_the_table(self) -> None:
        """The tip's lowest point is 0.25 - 0.2 = 0.05 m above the table."""
        grid = np.array(list(product(GRID_DEG, repeat=3)), dtype=np.float64)
        heights = Arm().forward_kinematics(grid)[:, 2]
        assert heights.min() == pytest.approx(0.05, abs=1e-9)

    def test_every_moving_part_stays_above_the_table_in_every_pose(self, solid_body: Body) -> None:
        """No part comes closer to the table than the tip, 50 mm less its radius."""
        client = {"physicsClientId": solid_body.client}
        shape = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=(1, 1, 0.05), **client)
        table = pybullet.createMultiBody(baseCollisionShapeIndex=shape, basePosition=(0, 0, -0.05), **client)
        moving = [link for link in PARTS if link != "column"]
        lowest = dict.fromkeys(moving, 1.0)
        for angles in product(GRID_DEG, repeat=3):
            solid_body.pose(angles)
            for link in moving:
                lowest[link] = min(lowest[link], solid_body.distance(link, table, -1))
        assert min(lowest.values()) > 0.035, lowest
        assert min(lowest, key=lambda link: lowest[link]) == "tip"
        radius = max(
            info[3][0] for info in pybullet.getCollisionShapeData(solid_body.id, solid_body.links["tip"], **client)
        )
        assert lowest["tip"] == pytest.approx(0.05 - radius, abs=1e-4)

    def test_links_that_are_not_neighbours_never_touch(self, solid_body: Body) -> None:
        """The six pairs of links that are not adjacent stay more than 1 mm apart."""
        chain = list(PARTS)
        pairs = [(a, b) for i, a in enumerate(chain) for b in chain[i + 2 :]]
        nearest = dict.fromkeys(pairs, 1.0)
        for angles in product(GRID_DEG, repeat=3):
            solid_body.pose(angles)
            for a, b in pairs:
                nearest[a, b] = min(nearest[a, b], solid_body.distance(a, solid_body.id, solid_body.links[b]))
        assert len(pairs) == 6
        assert min(nearest.values()) > 0.001, nearest

    def test_contacts_are_detected(self, solid_body: Body) -> None:
        """Poses beyond the ranges bring links into contact, so that the two tests above can fail."""
        solid_body.pose((0.0, 0.0, 178.0))
        assert solid_body.distance("tip", solid_body.id, solid_body.links["upper_arm"]) < 0.02
        solid_body.pose((0.0, 180.0, 0.0))
        assert solid_body.distance("upper_arm", solid_body.id, solid_body.links["column"]) < 0.0
