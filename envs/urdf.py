"""Reading a serial arm of revolute joints from a URDF, and refusing anything else in one clear sentence.

Nothing else reads the file: simulators and viewers get a text of our own (`envs.model`), made of what was checked here.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
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

# Bounds of what a file may hold.
LARGEST_URDF = 2**18  # bytes
MOST_ALL_JOINTS = 100  # with fixed ones; PyBullet takes 127 links
DEEPEST_ELEMENT = 32
LONGEST_TEXT = 256  # of a name or any other attribute, in bytes of UTF-8
LEAST_EFFORT_NM = 1e-4
# Limits are written in radians, often with three or four decimals: 1.571 or 1.5708 are meant as 90 degrees.
LIMIT_ROUNDING_RAD = 5e-4
# How far below zero a principal moment of inertia may be, as a fraction of the largest: rounding of the file's digits.
INERTIA_ROUNDING = 1e-3
PRINCIPAL_SLACK = 1e-4
# The largest magnitude of each number that is read, in metres, radians, kilograms, seconds and newtons.
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
# The numbers of each shape: attributes, and how many numbers each holds.
SHAPES: dict[str, dict[str, int]] = {
    "box": {"size": 3},
    "cylinder": {"radius": 1, "length": 1},
    "capsule": {"radius": 1, "length": 1},
    "sphere": {"radius": 1},
    "mesh": {"scale": 3},
}
XML_ENCODING = re.compile(r"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([^"']*)""")


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
class Origin:
    """A frame in another: translation, and rotation by fixed-axis roll, pitch and yaw."""

    xyz_m: tuple[float, ...] = (0.0, 0.0, 0.0)
    rpy_rad: tuple[float, ...] = (0.0, 0.0, 0.0)

    @property
    def rotation(self) -> Array:
        """The rotation matrix (3, 3)."""
        (cr, cp, cy), (sr, sp, sy) = np.cos(self.rpy_rad), np.sin(self.rpy_rad)
        return np.array(
            [
                [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
                [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
                [-sp, cp * sr, cp * cr],
            ]
        )


@dataclass(frozen=True)
class Inertial:
    """A mass above zero, its centre's frame in the link's, and the inertia there: ixx, ixy, ixz, iyy, iyz, izz."""

    origin: Origin
    mass_kg: float
    inertia_kg_m2: tuple[float, ...]


@dataclass(frozen=True)
class Visual:
    """A shape that is drawn: its frame in the link's, its dimensions (m; a mesh: its scale), and its colour."""

    origin: Origin
    shape: str  # of SHAPES
    size: Mapping[str, tuple[float, ...]]
    mesh_file: str | None
    rgba: tuple[float, ...] | None


@dataclass(frozen=True)
class Link:
    """A link, and the joint that holds it: the tree of the arm in its flat form, parents before children."""

    name: str
    parent: int | None  # its place among the links; None for the base
    origin: Origin  # of its joint in the parent
    joint: int | None  # that turns it about its parent, its place among the chain's joints; None if it is fixed
    carrier: int | None  # the last turning joint from the base to it; None if nothing turns it
    offset_m: Array  # (3,), in the carrier's frame, or the base's
    rotation: Array  # (3, 3), likewise
    inertial: Inertial | None  # None: it weighs nothing
    visuals: tuple[Visual, ...]


@dataclass(frozen=True)
class Chain:
    """The joints from base to tip, fixed ones folded into the next, the tip in the frame of the last, and all links."""

    name: str
    joints: tuple[Joint, ...]
    tip_offset_m: Array
    tip_link: str
    links: tuple[Link, ...]


def decode_urdf(data: bytes) -> str:
    """The text of a URDF file in whatever encoding it declares, such that encoding it as UTF-8 is right.

    Raises ValueError as `read_chain` for what is no URDF at all.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    else:
        declared = XML_ENCODING.match(text)
        if declared is None or declared[1].lower() in ("utf-8", "utf8", "us-ascii", "ascii"):
            return text
    # Written anew from the elements, without the declaration, which would be wrong from now on.
    return ElementTree.tostring(_parse(data), encoding="unicode")


def read_chain(text: str) -> Chain:
    """Read a URDF's text.

    Raises ValueError for one that is not a single chain of 1 to 7 revolute joints with limits. Links and branches that
    are fixed to a link of the chain are part of it. Of several ends, the tip is the one furthest from the last joint.
    """
    robot = _parse(text)
    turning, fixed = _joint_elements(robot)
    links = _link_elements(robot)
    _check_references(links, [*turning, *fixed])
    return _build(robot, links)


def _parse(text: str | bytes) -> ElementTree.Element:
    """The <robot> element. Raises ValueError for another kind of file, saying which it is."""
    if len(text) > LARGEST_URDF:
        raise ValueError(f"expected a URDF of at most {LARGEST_URDF:,} characters, got {len(text):,}")
    # Before the parser sees it: a few lines of entities can make gigabytes.
    if _contains(text, "<!DOCTYPE"):
        raise ValueError("wanted a URDF without a DOCTYPE, in which entities may be defined")
    try:
        robot = ElementTree.fromstring(text.removeprefix("\ufeff") if isinstance(text, str) else text)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        if "unbound prefix" in str(error) and _contains(text, "xacro:"):
            raise ValueError(XACRO) from None
        raise ValueError(f"not well-formed XML ({error})") from None
    _check_texts(robot)
    _check_kind(robot)
    _check_numbers(robot)
    return robot


def _contains(text: str | bytes, part: str) -> bool:
    """Whether an ASCII part is in a text, or in the bytes of one in any encoding that the parser takes."""
    if isinstance(text, str):
        return part in text
    return any(part.encode(codec) in text for codec in ("ascii", "utf-16-le", "utf-16-be"))


XACRO = "it is a xacro macro file: expand it first with 'xacro FILE > arm.urdf'"
# By the root element.
OTHER_KINDS = {
    "mujoco": "a MuJoCo model (MJCF)",
    "mujocoinclude": "a MuJoCo model (MJCF)",
    "sdf": "a Gazebo model (SDF)",
    "gazebo": "a Gazebo model (SDF)",
    "world": "a Gazebo model (SDF)",
    "COLLADA": "a COLLADA mesh",
    "launch": "a ROS launch file",
}


def _check_kind(robot: ElementTree.Element) -> None:
    """Raise ValueError unless it is a URDF, and drop the namespaces from its elements."""
    for element in robot.iter():
        namespace, _, name = element.tag.rpartition("}")
        if "xacro" in namespace:
            raise ValueError(XACRO)
        element.tag = name
    if kind := OTHER_KINDS.get(robot.tag):
        raise ValueError(f"it is {kind}; expected a URDF, whose first element is <robot> (convert it first)")
    if robot.tag != "robot":
        raise ValueError(f"its first element is <{robot.tag}>; expected a URDF, whose first element is <robot>")


def _check_texts(robot: ElementTree.Element) -> None:
    """Raise ValueError for names and other attributes that a terminal or a file's header cannot take."""
    level = [robot]
    depth = 1
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
    """Raise ValueError for numbers that are not finite or absurdly large, also those that nothing here uses."""
    for owner in (*robot.findall("link"), *robot.findall("joint")):
        for element in owner.iter():
            for attribute, largest in LARGEST_NUMBERS.get(element.tag, {}).items():
                text = element.get(attribute, "")
                try:
                    # NaN compares as false.
                    fits = all(abs(float(word)) <= largest for word in text.split())
                except ValueError:
                    if "${" in text:
                        raise ValueError(XACRO) from None
                    fits = False
                if not fits:
                    raise ValueError(
                        f"{owner.tag} '{owner.get('name')}': expected finite numbers of at most {largest:g} in "
                        f"{element.tag} {attribute}, got '{text}'"
                    )


def _joint_elements(robot: ElementTree.Element) -> tuple[list[ElementTree.Element], list[ElementTree.Element]]:
    """The revolute and the fixed joints. Raises ValueError for others, or too many."""
    turning: list[ElementTree.Element] = []
    fixed: list[ElementTree.Element] = []
    names: set[str] = set()
    for joint in robot.findall("joint"):
        name = joint.get("name", "")
        kind = joint.get("type", "")
        if not name or name in names:
            raise ValueError(
                f"wanted a name of its own for each joint, got '{name}' {'twice' if name else ''}".rstrip()
            )
        names.add(name)
        if kind == "continuous":
            raise ValueError(
                f"joint '{name}' is of type 'continuous'; expected revolute or fixed joints (make it revolute, with a "
                "<limit> that has lower, upper, effort and velocity)"
            )
        if kind not in ("revolute", "fixed"):
            raise ValueError(
                f"joint '{name}' is of type '{kind}'; expected revolute or fixed joints (make it fixed, or remove it "
                "and what it carries, such as a gripper's fingers)"
            )
        if kind == "revolute" and (mimic := joint.find("mimic")) is not None:
            raise ValueError(
                f"joint '{name}' mimics joint '{mimic.get('joint')}'; expected joints with a servo of their own (make "
                "it fixed, or remove it and what it carries, such as a gripper's fingers)"
            )
        (turning if kind == "revolute" else fixed).append(joint)
    if not 1 <= len(turning) <= MOST_JOINTS:
        raise ValueError(f"wanted 1 to {MOST_JOINTS} revolute joints, got {len(turning) or 'none'}")
    count = len(turning) + len(fixed)
    if count > MOST_ALL_JOINTS:
        raise ValueError(f"expected at most {MOST_ALL_JOINTS} joints, fixed ones included, got {count}")
    return turning, fixed


def _link_elements(robot: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The links by name."""
    links: dict[str, ElementTree.Element] = {}
    for link in robot.findall("link"):
        name = link.get("name", "")
        if not name or name in links:
            raise ValueError(f"wanted a name of its own for each link, got '{name}' {'twice' if name else ''}".rstrip())
        links[name] = link
    return links


def _check_references(links: dict[str, ElementTree.Element], joints: list[ElementTree.Element]) -> None:
    """Raise ValueError unless the joints join the links to one tree."""
    children: set[str] = set()
    joined: set[str] = set()
    for joint in joints:
        for end in ("parent", "child"):
            name = _link(joint, end)
            if name not in links:
                what = f"its {end} '{name}' is not among the links" if name else f"it has no {end}"
                raise ValueError(f"joint '{joint.get('name')}': {what}; expected two links of the file")
            joined.add(name)
        child = _link(joint, "child")
        if child in children:
            raise ValueError(f"wanted one chain of links, but link '{child}' has several parents")
        children.add(child)
    for name in links:
        if name not in joined:
            raise ValueError(f"link '{name}' is loose: no joint joins it to another link (join it, or remove it)")
    bases = [name for name in links if name not in children]
    if len(bases) != 1:
        raise ValueError(f"wanted one chain of links with one base, got bases {bases}")


def _build(robot: ElementTree.Element, elements: dict[str, ElementTree.Element]) -> Chain:
    """The chain, from the base outwards."""
    materials = _materials(robot)
    below: dict[str, list[ElementTree.Element]] = {}
    children: set[str] = set()
    for element in robot.findall("joint"):
        below.setdefault(_link(element, "parent"), []).append(element)
        children.add(_link(element, "child"))
    base = next(name for name in elements if name not in children)
    links: list[Link] = []
    turning: list[tuple[ElementTree.Element, int, Array, Array]] = []
    # Depth first, in the order of the file.
    waiting: list[tuple[str, int | None, ElementTree.Element | None]] = [(base, None, None)]
    while waiting:
        name, parent, joint = waiting.pop()
        origin = Origin() if joint is None else _origin(joint, f"joint '{joint.get('name')}'")
        above = None if parent is None else links[parent]
        carrier = None if above is None else above.carrier
        offset = np.array(origin.xyz_m)
        rotation = origin.rotation
        if above is not None:
            offset = above.offset_m + above.rotation @ offset
            rotation = above.rotation @ rotation
        turned_by: int | None = None
        if joint is not None and joint.get("type") == "revolute":
            if turning and carrier != len(turning) - 1:
                _refuse_branches(links, turning[-1][1], parent)
            turned_by = carrier = len(turning)
            turning.append((joint, len(links), offset, rotation))
            offset = np.zeros(3)
            rotation = np.eye(3)
        inertial = _inertial(elements[name])
        visuals = _visuals(elements[name], materials)
        links.append(Link(name, parent, origin, turned_by, carrier, offset, rotation, inertial, visuals))
        waiting.extend((_link(other, "child"), len(links) - 1, other) for other in reversed(below.get(name, [])))
    if len(links) != len(elements):
        raise ValueError("wanted one chain of links, got joints that the base is not connected to")
    time_to_full_speed_s = _time_to_full_speed(links, [joint for joint, *_ in turning])
    joints = [
        Joint(
            joint.get("name", ""),
            offset,
            rotation,
            _axis(joint),
            *_limits(joint, time_to_full_speed_s),
            links[place].name,
        )
        for joint, place, offset, rotation in turning
    ]
    tip = _tip(links, len(joints) - 1)
    return Chain(robot.get("name", "arm"), tuple(joints), tip.offset_m, tip.name, tuple(links))


def _refuse_branches(links: list[Link], one: int, other: int | None) -> None:
    """Raise ValueError, naming the link from which two branches with revolute joints start."""
    inner: set[int | None] = set()
    place: int | None = one
    while place is not None:
        inner.add(place)
        place = links[place].parent
    while other is not None and other not in inner:
        other = links[other].parent
    fork = links[other or 0].name
    raise ValueError(
        f"wanted one chain of revolute joints, but link '{fork}' has several branches with some (remove all but one, "
        "or make their joints fixed)"
    )


def _tip(links: list[Link], last_joint: int) -> Link:
    """Of the ends that the last joint carries: the furthest from it, then that of most links, then the file's first."""
    parents = {link.parent for link in links}
    ends = [link for place, link in enumerate(links) if link.carrier == last_joint and place not in parents]

    def rank(end: Link) -> tuple[float, int]:
        """Distance from the last joint (m) and number of links from the base."""
        links_from_base = 0
        link = end
        while link.parent is not None:
            links_from_base += 1
            link = links[link.parent]
        return round(float(np.linalg.norm(end.offset_m)), 6), links_from_base

    return max(ends, key=rank)


def _link(joint: ElementTree.Element, end: str) -> str:
    element = joint.find(end)
    return "" if element is None else element.get("link", "")


def _numbers(
    owner: str, element: ElementTree.Element | None, tag: str, attribute: str, count: int, default: str | None = None
) -> tuple[float, ...]:
    """So many numbers of an attribute, which `owner` needs unless there is a default."""
    text = default if element is None else element.get(attribute, default)
    if text is None:
        raise ValueError(f"{owner} has no {attribute} in its <{tag}>")
    numbers = tuple(float(word) for word in text.split())
    if len(numbers) != count:
        wanted = "a number" if count == 1 else f"{count} numbers"
        raise ValueError(f"{owner}: expected {wanted} in {tag} {attribute}, got '{text}'")
    return numbers


def _origin(owner: ElementTree.Element, named: str) -> Origin:
    element = owner.find("origin")
    xyz_m = _numbers(named, element, "origin", "xyz", 3, "0 0 0")
    rpy_rad = _numbers(named, element, "origin", "rpy", 3, "0 0 0")
    return Origin(xyz_m, rpy_rad)


def _axis(joint: ElementTree.Element) -> Array:
    named = f"joint '{joint.get('name')}'"
    axis = np.array(_numbers(named, joint.find("axis"), "axis", "xyz", 3, "1 0 0"))
    length = float(np.linalg.norm(axis))
    if length < 1e-6:
        raise ValueError(f"{named}: wanted an axis, got one of no length")
    return axis / length


def _inertial(link: ElementTree.Element) -> Inertial | None:
    """A link's mass and inertia; None for a frame, which weighs nothing. Raises ValueError for impossible ones."""
    element = link.find("inertial")
    if element is None:
        return None
    named = f"link '{link.get('name')}'"
    origin = _origin(element, named)
    (mass_kg,) = _numbers(named, element.find("mass"), "mass", "value", 1)
    if mass_kg < 0.0:
        raise ValueError(f"{named}: wanted a mass of at least 0 kg, got {mass_kg:g}")
    if mass_kg == 0.0:
        return None
    inertia = element.find("inertia")
    if inertia is None:
        raise ValueError(f"{named} has a mass but no <inertia>; expected both in its <inertial>")
    diagonal = ("ixx", "iyy", "izz")
    values = {
        name: _numbers(named, inertia, "inertia", name, 1, None if name in diagonal else "0")[0]
        for name in LARGEST_NUMBERS["inertia"]
    }
    return Inertial(origin, mass_kg, _possible_inertia(named, *values.values()))


def _possible_inertia(
    named: str, ixx: float, ixy: float, ixz: float, iyy: float, iyz: float, izz: float
) -> tuple[float, ...]:
    """The inertia, and where no body can have it, the nearest to it that one can have: PyBullet takes no other.

    Raises ValueError for a principal moment below 0.
    """
    moments, axes = np.linalg.eigh([[ixx, ixy, ixz], [ixy, iyy, iyz], [ixz, iyz, izz]])
    least, _, largest = moments.tolist()
    if least < -INERTIA_ROUNDING * max(largest, 0.0):
        raise ValueError(
            f"{named}: impossible <inertia>: its principal moments are {', '.join(f'{m:.3g}' for m in moments)} kg m^2;"
            " expected none below 0"
        )
    # PyBullet finds principal axes of its own, less exactly.
    slack = PRINCIPAL_SLACK if any((ixy, ixz, iyz)) else 0.0
    possible = np.maximum(moments, slack * largest)
    # A principal moment is at most the sum of the other two.
    possible[2] = min(largest, (1.0 - slack) * (possible[0] + possible[1]))
    if np.array_equal(possible, moments):
        return ixx, ixy, ixz, iyy, iyz, izz
    tensor = axes * possible @ axes.T
    return tuple(float(tensor[row, column]) for row, column in zip(*np.triu_indices(3), strict=True))


def _materials(robot: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The materials that are defined somewhere in the file, by name; the first of a name counts."""
    materials: dict[str, ElementTree.Element] = {}
    for material in robot.iter("material"):
        if len(material):
            materials.setdefault(material.get("name", ""), material)
    return materials


def _visuals(link: ElementTree.Element, materials: dict[str, ElementTree.Element]) -> tuple[Visual, ...]:
    named = f"link '{link.get('name')}'"
    visuals = []
    for element in link.findall("visual"):
        geometry = element.find("geometry")
        shape = next((child for child in geometry if child.tag in SHAPES), None) if geometry is not None else None
        if shape is None:
            continue
        # A mesh's scale may be left out; other shapes have no dimensions by default.
        default = "1 1 1" if shape.tag == "mesh" else None
        size = {
            attribute: _numbers(named, shape, shape.tag, attribute, count, default)
            for attribute, count in SHAPES[shape.tag].items()
        }
        material = element.find("material")
        if material is not None and not len(material):
            material = materials.get(material.get("name", ""))
        visuals.append(
            Visual(
                _origin(element, named),
                shape.tag,
                size,
                shape.get("filename", "") if shape.tag == "mesh" else None,
                None if material is None else _colour(material),
            )
        )
    return tuple(visuals)


def _colour(material: ElementTree.Element) -> tuple[float, ...] | None:
    """Red, green, blue and opacity, from 0 to 1; None if there is none that makes sense: that spoils no arm."""
    colour = material.find("color")
    if colour is None:
        return None
    try:
        rgba = tuple(float(word) for word in colour.get("rgba", "").split())
    except ValueError:
        return None
    return rgba if len(rgba) == 4 and all(0.0 <= value <= 1.0 for value in rgba) else None


def _time_to_full_speed(all_links: list[Link], turning: list[ElementTree.Element]) -> float:
    """Seconds in which all joints together can reach full speed, the arm stretched out and held against gravity.

    A bound: each link counts as far from each joint as the lengths allow.
    """
    places: list[float] = []  # of the links along the stretched arm
    joints: list[tuple[float, float, float]] = []
    links: list[tuple[float, float]] = []
    for link in all_links:
        place = float(np.linalg.norm(link.origin.xyz_m))
        if link.parent is not None:
            place += places[link.parent]
        places.append(place)
        if link.joint is not None:
            velocity, effort = _limit_numbers(turning[link.joint], "velocity", "effort")
            joints.append((place, velocity, effort))
        if link.inertial is not None and link.carrier is not None:
            links.append((place + float(np.linalg.norm(link.inertial.origin.xyz_m)), link.inertial.mass_kg))
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


def _limits(joint: ElementTree.Element, time_to_full_speed_s: float) -> tuple[float, float, float, float, float]:
    """Lower and upper angle, speed and acceleration in degrees, and torque in N m."""
    lower, upper, effort, velocity = _limit_numbers(joint, "lower", "upper", "effort", "velocity")
    (acceleration,) = _limit_numbers(joint, "acceleration", default=velocity / time_to_full_speed_s)
    lower_deg = _whole_degrees(lower)
    upper_deg = _whole_degrees(upper)
    if lower_deg >= upper_deg or min(velocity, acceleration) <= 0 or effort < LEAST_EFFORT_NM:
        got = {key: value for element in joint.findall("limit") for key, value in element.attrib.items()}
        raise ValueError(
            f"joint '{joint.get('name')}': wanted lower < upper, a positive velocity and an effort of at least "
            f"{LEAST_EFFORT_NM:g} N m, got {got}"
        )
    return lower_deg, upper_deg, math.degrees(velocity), math.degrees(acceleration), effort


def _whole_degrees(limit_rad: float) -> float:
    """A limit in degrees: the whole degree that it was rounded from, if there is one."""
    limit_deg = math.degrees(limit_rad)
    whole_deg = float(round(limit_deg))
    return whole_deg if abs(math.radians(whole_deg) - limit_rad) <= LIMIT_ROUNDING_RAD else limit_deg


def _limit_numbers(joint: ElementTree.Element, *names: str, default: float = 0.0) -> list[float]:
    """Finite numbers of a joint's <limit>."""
    name = joint.get("name")
    element = joint.find("limit")
    if element is None or "velocity" not in element.attrib or "effort" not in element.attrib:
        raise ValueError(f"joint '{name}' wants a <limit> with lower, upper, effort, velocity")
    return [_numbers(f"joint '{name}'", element, "limit", key, 1, repr(default))[0] for key in names]
