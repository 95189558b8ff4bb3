"""Parsing and checking the XML of a URDF: attributes, numbers, names, types of joints, and references to links.

Anything but a URDF of revolute and fixed joints is a ValueError with one clear sentence.
"""

import re
from xml.etree import ElementTree

from envs.urdf.chain import Origin

MOST_JOINTS = 7

# Bounds of a file's content.
LARGEST_URDF = 2**18  # bytes
MOST_ALL_JOINTS = 100  # with fixed ones; PyBullet takes 127 links
DEEPEST_ELEMENT = 32
LONGEST_TEXT = 256  # of a name or any other attribute, in bytes of UTF-8
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
XML_ENCODING = re.compile(r"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([^"']*)""")
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


def decode_urdf(data: bytes) -> str:
    """Decode a URDF file in its declared encoding, to a text that is correct when encoded as UTF-8.

    Raises ValueError as `parse`.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    else:
        declared = XML_ENCODING.match(text)
        if declared is None or declared[1].lower() in ("utf-8", "utf8", "us-ascii", "ascii"):
            return text
    # Another encoding: serialise the elements again, without the declaration, which would be wrong in UTF-8.
    return ElementTree.tostring(parse(data), encoding="unicode")


def parse(text: str | bytes) -> ElementTree.Element:
    """The <robot> element. Raises ValueError for another kind of file, naming the kind."""
    if len(text) > LARGEST_URDF:
        raise ValueError(f"expected a URDF of at most {LARGEST_URDF:,} characters, got {len(text):,}")
    # Checked before parsing: a few lines of nested entities can expand to gigabytes.
    if _contains(text, "<!DOCTYPE"):
        raise ValueError("expected a URDF without a DOCTYPE, in which entities may be defined")
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
    """Return True if a text contains an ASCII substring; for bytes, in any encoding that the parser accepts."""
    if isinstance(text, str):
        return part in text
    return any(part.encode(codec) in text for codec in ("ascii", "utf-16-le", "utf-16-be"))


def _check_kind(robot: ElementTree.Element) -> None:
    """Raise ValueError unless it is a URDF, and remove the namespaces from its elements."""
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
    """Raise ValueError for names and attributes that are too long, nested too deeply or not printable."""
    # Level by level, without recursion: the depth of a file is unbounded.
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
        children: list[ElementTree.Element] = []
        for element in level:
            children.extend(element)
        level = children
        depth += 1


def _check_numbers(robot: ElementTree.Element) -> None:
    """Raise ValueError for numbers that are not finite or too large, also in attributes that are not used."""
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


def joint_elements(robot: ElementTree.Element) -> tuple[list[ElementTree.Element], list[ElementTree.Element]]:
    """The revolute and the fixed joints. Raises ValueError for other types, and for too many."""
    turning: list[ElementTree.Element] = []
    fixed: list[ElementTree.Element] = []
    names: set[str] = set()
    for joint in robot.findall("joint"):
        name = joint.get("name", "")
        kind = joint.get("type", "")
        if not name or name in names:
            raise ValueError(
                f"expected a name of its own for each joint, got '{name}' {'twice' if name else ''}".rstrip()
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
        raise ValueError(f"expected 1 to {MOST_JOINTS} revolute joints, got {len(turning) or 'none'}")
    count = len(turning) + len(fixed)
    if count > MOST_ALL_JOINTS:
        raise ValueError(f"expected at most {MOST_ALL_JOINTS} joints, fixed ones included, got {count}")
    return turning, fixed


def link_elements(robot: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The links by name."""
    links: dict[str, ElementTree.Element] = {}
    for link in robot.findall("link"):
        name = link.get("name", "")
        if not name or name in links:
            raise ValueError(
                f"expected a name of its own for each link, got '{name}' {'twice' if name else ''}".rstrip()
            )
        links[name] = link
    return links


def check_references(links: dict[str, ElementTree.Element], joints: list[ElementTree.Element]) -> None:
    """Raise ValueError unless the joints connect the links to one tree."""
    children: set[str] = set()
    joined: set[str] = set()
    for joint in joints:
        for end in ("parent", "child"):
            name = linked(joint, end)
            if name not in links:
                what = f"its {end} '{name}' is not among the links" if name else f"it has no {end}"
                raise ValueError(f"joint '{joint.get('name')}': {what}; expected two links of the file")
            joined.add(name)
        child = linked(joint, "child")
        if child in children:
            raise ValueError(f"expected one chain of links, but link '{child}' has several parents")
        children.add(child)
    # Every link is joined to another, and all but the base are children.
    for name in links:
        if name not in joined:
            raise ValueError(f"link '{name}' is loose: no joint joins it to another link (join it, or remove it)")
    bases = [name for name in links if name not in children]
    if len(bases) != 1:
        raise ValueError(f"expected one chain of links with one base, got bases {bases}")


def linked(joint: ElementTree.Element, end: str) -> str:
    """The name of a joint's parent or child link (`end`); empty if it has none."""
    element = joint.find(end)
    return "" if element is None else element.get("link", "")


def numbers(
    owner: str, element: ElementTree.Element | None, tag: str, attribute: str, count: int, default: str | None = None
) -> tuple[float, ...]:
    """The `count` numbers of an attribute. Raises ValueError, naming the `owner`, if missing without a default."""
    text = default if element is None else element.get(attribute, default)
    if text is None:
        raise ValueError(f"{owner} has no {attribute} in its <{tag}>")
    found = tuple(float(word) for word in text.split())
    if len(found) != count:
        expected = "a number" if count == 1 else f"{count} numbers"
        raise ValueError(f"{owner}: expected {expected} in {tag} {attribute}, got '{text}'")
    return found


def origin(owner: ElementTree.Element, named: str) -> Origin:
    """The frame of an element from its <origin>; by default, that of its parent element."""
    element = owner.find("origin")
    xyz_m = numbers(named, element, "origin", "xyz", 3, "0 0 0")
    rpy_rad = numbers(named, element, "origin", "rpy", 3, "0 0 0")
    return Origin(xyz_m, rpy_rad)
