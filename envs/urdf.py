"""Reading a serial arm of revolute joints from a URDF, and refusing anything else in one clear sentence."""

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# A URDF has no acceleration limit. Our own attribute `acceleration` gives one; without it, joints reach their full
# speed in this time, or in as much more as their torques need to move the stretched arm, all at once.
LEAST_TIME_TO_FULL_SPEED_S = 0.15
LEAST_TORQUE_LEFT = 0.1  # by the arm's weight, of the whole torque
GRAVITY_M_S2 = 9.81
MOST_JOINTS = 7


@dataclass(frozen=True)
class Joint:
    """A revolute joint: its frame in its parent's, its axis in its own frame, and what it may do."""

    name: str
    offset_m: Array  # (3,)
    rotation: Array  # (3, 3)
    axis: Array  # (3,), of length 1
    lower_deg: float
    upper_deg: float
    max_speed_deg_s: float
    max_acceleration_deg_s2: float
    max_torque_nm: float
    link: str  # that it turns


@dataclass(frozen=True)
class Chain:
    """The joints from base to tip, fixed ones folded into the next, and the tip in the frame of the last."""

    name: str
    joints: tuple[Joint, ...]
    tip_offset_m: Array
    tip_link: str


def read_chain(text: str, folder: Path | None = None) -> Chain:
    """Read a URDF's text. Raises ValueError for one that is not a single chain of 1 to 7 revolute joints with limits.

    With the `folder` that the file lies in, also for meshes that are missing or lie outside it.
    """
    if "<!DOCTYPE" in text:  # before the parser sees it: a few lines of entities can make gigabytes
        raise ValueError("wanted a URDF without a DOCTYPE, in which entities may be defined")
    try:
        robot = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"not well-formed XML ({error})") from None
    if folder is not None:
        _check_meshes(robot, folder)
    elements = _serial(robot)
    turning = sum(element.get("type") == "revolute" for element in elements)
    if not 1 <= turning <= MOST_JOINTS:  # before anything is worked out, which may take the cube of their number
        raise ValueError(f"wanted 1 to {MOST_JOINTS} revolute joints, got {turning or 'none'}")
    time_to_full_speed_s = _time_to_full_speed(robot, elements)
    joints = []
    offset, rotation = np.zeros(3), np.eye(3)
    for element in elements:
        own_offset, own_rotation = _origin(element)
        offset, rotation = offset + rotation @ own_offset, rotation @ own_rotation
        if element.get("type") == "revolute":
            limits = _limits(element, time_to_full_speed_s)
            link = _link(element, "child")
            joints.append(Joint(element.get("name", ""), offset, rotation, _axis(element), *limits, link))
            offset, rotation = np.zeros(3), np.eye(3)
    if len({joint.name for joint in joints}) != len(joints):
        raise ValueError(f"wanted a name of its own for each joint, got {[joint.name for joint in joints]}")
    return Chain(robot.get("name", "arm"), tuple(joints), offset, _link(elements[-1], "child"))


def _check_meshes(robot: ElementTree.Element, folder: Path) -> None:
    for mesh in robot.iter("mesh"):
        name = mesh.get("filename", "")
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"mesh '{name}' lies outside the folder of the URDF")
        if not path.is_file():
            raise ValueError(f"mesh '{name}' is missing: there is no file {path}")


def _serial(robot: ElementTree.Element) -> list[ElementTree.Element]:
    """The joint elements from the base to the tip, in order."""
    joints = robot.findall("joint")
    kinds = {str(joint.get("type")) for joint in joints}
    if not kinds <= {"revolute", "fixed"}:
        raise ValueError(f"wanted only revolute and fixed joints, got {sorted(kinds)}")
    by_parent: dict[str, ElementTree.Element] = {}
    children: set[str] = set()
    for joint in joints:
        parent, child = _link(joint, "parent"), _link(joint, "child")
        if parent in by_parent:
            raise ValueError(f"wanted one chain of links, but link '{parent}' has several branches")
        if child in children:
            raise ValueError(f"wanted one chain of links, but link '{child}' has several parents")
        by_parent[parent] = joint
        children.add(child)
    roots = [name for name in by_parent if name not in children]
    if len(roots) != 1:
        raise ValueError(f"wanted one chain of links with one base, got bases {roots}")
    chain, link = [], roots[0]
    while link in by_parent:  # ends: no link has two parents, so none comes twice
        chain.append(by_parent[link])
        link = _link(chain[-1], "child")
    if len(chain) != len(joints):
        raise ValueError("wanted one chain of links, got joints that the base is not connected to")
    return chain


def _link(joint: ElementTree.Element, end: str) -> str:
    element = joint.find(end)
    return "" if element is None else element.get("link", "")


def _numbers(owner: ElementTree.Element, tag: str, attribute: str, default: str, of: str | None = None) -> Array:
    """Three finite numbers of an attribute of a joint's (or whose it is `of`) element."""
    element = owner.find(tag)
    text = default if element is None else element.get(attribute, default)
    try:
        numbers = np.array([float(word) for word in text.split()])
    except ValueError:
        numbers = np.array([])
    if numbers.shape != (3,) or not np.isfinite(numbers).all():
        of = of or f"joint '{owner.get('name')}'"
        raise ValueError(f"{of}: wanted three finite numbers in {tag} {attribute}, got '{text}'")
    return numbers


def _origin(joint: ElementTree.Element) -> tuple[Array, Array]:
    """Translation (3,) and rotation (3, 3) of a joint's frame in its parent (URDF: fixed-axis roll, pitch, yaw)."""
    angles = _numbers(joint, "origin", "rpy", "0 0 0")
    (cr, cp, cy), (sr, sp, sy) = np.cos(angles), np.sin(angles)
    rotation = np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )
    return _numbers(joint, "origin", "xyz", "0 0 0"), rotation


def _axis(joint: ElementTree.Element) -> Array:
    axis = _numbers(joint, "axis", "xyz", "1 0 0")
    length = float(np.linalg.norm(axis))
    if length < 1e-6:
        raise ValueError(f"joint '{joint.get('name')}': wanted an axis, got one of no length")
    return axis / length


def _time_to_full_speed(robot: ElementTree.Element, elements: list[ElementTree.Element]) -> float:
    """Seconds in which all joints together can reach full speed, the arm stretched out and held against gravity.

    A bound: each link counts as far from each joint as the lengths allow.
    """
    masses = {link.get("name"): _mass(link) for link in robot.findall("link")}
    place, joints, links = 0.0, [], []  # along the stretched arm
    for element in elements:
        place += float(np.linalg.norm(_numbers(element, "origin", "xyz", "0 0 0")))
        if element.get("type") == "revolute":
            joints.append((place, *_limit_numbers(element, "velocity", "effort")))
        mass, centre = masses.get(_link(element, "child"), (0.0, 0.0))
        links.append((place + centre, mass))
    times = [LEAST_TIME_TO_FULL_SPEED_S]
    for at, _, effort in joints:
        beyond = [(centre, centre - at, mass) for centre, mass in links if centre >= at]
        weight = sum(mass * lever * GRAVITY_M_S2 for _, lever, mass in beyond)
        momentum = sum(
            mass * lever * max(centre - other, 0.0) * speed
            for centre, lever, mass in beyond
            for other, speed, _ in joints
        )
        if effort > 0:
            times.append(momentum / max(effort - weight, LEAST_TORQUE_LEFT * effort))
    return max(times)


def _mass(link: ElementTree.Element) -> tuple[float, float]:
    """Mass (kg) of a link and how far its centre is from the link's frame (m)."""
    inertial = link.find("inertial")
    mass = None if inertial is None else inertial.find("mass")
    if inertial is None or mass is None:
        return 0.0, 0.0
    try:
        value = float(mass.get("value", "0"))
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ValueError(f"link '{link.get('name')}': wanted a mass of at least 0 kg, got '{mass.get('value')}'")
    return value, float(np.linalg.norm(_numbers(inertial, "origin", "xyz", "0 0 0", of=f"link '{link.get('name')}'")))


def _limits(joint: ElementTree.Element, time_to_full_speed_s: float) -> tuple[float, float, float, float, float]:
    """Lower and upper angle, speed and acceleration in degrees, and torque in N m."""
    lower, upper, effort, velocity = _limit_numbers(joint, "lower", "upper", "effort", "velocity")
    (acceleration,) = _limit_numbers(joint, "acceleration", default=velocity / time_to_full_speed_s)
    if lower >= upper or min(effort, velocity, acceleration) <= 0:
        got = {key: value for element in joint.findall("limit") for key, value in element.attrib.items()}
        raise ValueError(
            f"joint '{joint.get('name')}': wanted lower < upper and positive effort and velocity, got {got}"
        )
    degrees = math.degrees
    return degrees(lower), degrees(upper), degrees(velocity), degrees(acceleration), effort


def _limit_numbers(joint: ElementTree.Element, *names: str, default: float = 0.0) -> list[float]:
    """Finite numbers of a joint's <limit>."""
    name, element = joint.get("name"), joint.find("limit")
    if element is None or "velocity" not in element.attrib or "effort" not in element.attrib:
        raise ValueError(f"joint '{name}' wants a <limit> with lower, upper, effort, velocity")
    try:
        numbers = [float(element.get(key, default)) for key in names]
    except ValueError:
        raise ValueError(f"joint '{name}': wanted numbers in its <limit>, got {element.attrib}") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"joint '{name}': wanted finite numbers in its <limit>, got {element.attrib}")
    return numbers
