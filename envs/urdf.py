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

# Bounds of what a file may hold. PyBullet crashes at names of a kilobyte, and takes neither more than 127 links nor
# elements nested a hundred deep.
LARGEST_URDF = 2**18  # bytes
LARGEST_MESH = 2**27
MOST_ALL_JOINTS = 100  # with fixed ones
DEEPEST_ELEMENT = 32
LONGEST_TEXT = 256  # of a name or any other attribute, in bytes of UTF-8
LEAST_EFFORT_NM = 1e-4
# The largest magnitude of each number that a simulator reads, in metres, radians, kilograms, seconds and newtons.
LARGEST_NUMBERS: dict[str, dict[str, float]] = {
    "origin": {"xyz": 1e3, "rpy": 1e3},
    "axis": {"xyz": 1e3},
    "mass": {"value": 1e6},
    "inertia": dict.fromkeys(("ixx", "ixy", "ixz", "iyy", "iyz", "izz"), 1e6),
    "limit": {"lower": 1e3, "upper": 1e3, "effort": 1e6, "velocity": 1e4, "acceleration": 1e6},
    "dynamics": {"damping": 1e6, "friction": 1e6},
    "box": {"size": 1e3},
    "cylinder": {"radius": 1e3, "length": 1e3},
    "capsule": {"radius": 1e3, "length": 1e3},
    "sphere": {"radius": 1e3},
    "mesh": {"scale": 1e6},
}


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
    if len(text) > LARGEST_URDF:
        raise ValueError(f"expected a URDF of at most {LARGEST_URDF:,} characters, got {len(text):,}")
    if "<!DOCTYPE" in text:  # before the parser sees it: a few lines of entities can make gigabytes
        raise ValueError("wanted a URDF without a DOCTYPE, in which entities may be defined")
    try:
        robot = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"not well-formed XML ({error})") from None
    _check_texts(robot)
    if folder is not None:
        _check_meshes(robot, folder)
    elements = _serial(robot)
    turning = sum(element.get("type") == "revolute" for element in elements)
    if not 1 <= turning <= MOST_JOINTS:  # before anything is worked out, which may take the cube of their number
        raise ValueError(f"wanted 1 to {MOST_JOINTS} revolute joints, got {turning or 'none'}")
    if len(elements) > MOST_ALL_JOINTS:
        raise ValueError(f"expected at most {MOST_ALL_JOINTS} joints, fixed ones included, got {len(elements)}")
    _check_numbers(robot)
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


def _check_texts(robot: ElementTree.Element) -> None:
    """Raise ValueError for names and other attributes that a simulator or a terminal cannot take."""
    level, depth = [robot], 1
    while level:
        if depth > DEEPEST_ELEMENT:
            raise ValueError(f"expected elements nested at most {DEEPEST_ELEMENT} deep")
        for element in level:
            for text in (element.tag, *element.attrib, *element.attrib.values()):
                size = len(text.encode())
                if size > LONGEST_TEXT:
                    raise ValueError(
                        f"expected names and attributes of at most {LONGEST_TEXT} bytes, got {size} in "
                        f"<{element.tag[:40]}>: '{text[:40]}...'"
                    )
                if not text.isprintable():
                    raise ValueError(f"expected printable names and attributes, got {text!r} in <{element.tag[:40]}>")
        level = [child for element in level for child in element]
        depth += 1


def _check_numbers(robot: ElementTree.Element) -> None:
    """Raise ValueError for numbers that are not finite or absurdly large, also those that only the simulator reads."""
    for owner in robot:
        for element in owner.iter():
            for attribute, largest in LARGEST_NUMBERS.get(element.tag, {}).items():
                text = element.get(attribute, "")
                try:
                    fits = all(abs(float(word)) <= largest for word in text.split())
                except ValueError:
                    fits = False
                if not fits:
                    raise ValueError(
                        f"{owner.tag} '{owner.get('name')}': expected finite numbers of at most {largest:g} in "
                        f"{element.tag} {attribute}, got '{text}'"
                    )


def _check_meshes(robot: ElementTree.Element, folder: Path) -> None:
    for element in (*robot.iter("mesh"), *robot.iter("texture")):
        kind, name = element.tag, element.get("filename", "")
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"{kind} '{name}' lies outside the folder of the URDF")
        if not path.is_file():
            raise ValueError(f"{kind} '{name}' is missing: there is no file {path}")
        if (size := path.stat().st_size) > LARGEST_MESH:
            raise ValueError(f"{kind} '{name}' is too large: {size:,} bytes; expected at most {LARGEST_MESH:,}")


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
        if effort >= LEAST_EFFORT_NM:
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
    if lower >= upper or min(velocity, acceleration) <= 0 or effort < LEAST_EFFORT_NM:
        got = {key: value for element in joint.findall("limit") for key, value in element.attrib.items()}
        raise ValueError(
            f"joint '{joint.get('name')}': wanted lower < upper, a positive velocity and an effort of at least "
            f"{LEAST_EFFORT_NM:g} N m, got {got}"
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
