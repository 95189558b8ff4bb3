"""Building the chain of an arm from the checked elements of a URDF, from the base to the tip."""

from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from envs.urdf.chain import Array, Chain, Joint, Link, Origin
from envs.urdf.inertia import inertial
from envs.urdf.joints import axis, limits, time_to_full_speed
from envs.urdf.visuals import materials, visuals
from envs.urdf.xml import check_references, joint_elements, link_elements, linked, origin, parse


class Turning(NamedTuple):
    """A revolute joint: its element, the index of its child link, and its frame in that of the previous joint."""

    element: ElementTree.Element
    link: int
    offset_m: Array
    rotation: Array


def read_chain(text: str) -> Chain:
    """Read the chain of an arm from the text of a URDF.

    Raises ValueError unless it is a single chain of 1 to 7 revolute joints with limits. Links and branches that are
    fixed to a link of the chain belong to it. Of several ends, the tip is the one furthest from the last joint.
    """
    # Read and check the elements.
    robot = parse(text)
    turning, fixed = joint_elements(robot)
    links = link_elements(robot)
    check_references(links, [*turning, *fixed])
    # Place the links along the chain, and find its tip.
    placed, joints = _place_links(robot, links)
    if len(placed) != len(links):
        raise ValueError("expected one chain of links, got joints that the base is not connected to")
    time_to_full_speed_s = time_to_full_speed(placed, [joint.element for joint in joints])
    tip = _tip(placed, len(joints) - 1)
    return Chain(
        robot.get("name", "arm"),
        tuple(_joint(joint, placed[joint.link].name, time_to_full_speed_s) for joint in joints),
        tip.offset_m,
        tip.name,
        tuple(placed),
    )


def _place_links(
    robot: ElementTree.Element, elements: dict[str, ElementTree.Element]
) -> tuple[list[Link], list[Turning]]:
    """All links connected to the base, parents before children, and the revolute joints between them."""
    known_materials = materials(robot)
    below: dict[str, list[ElementTree.Element]] = {}
    children: set[str] = set()
    for element in robot.findall("joint"):
        below.setdefault(linked(element, "parent"), []).append(element)
        children.add(linked(element, "child"))
    base = next(name for name in elements if name not in children)
    links: list[Link] = []
    turning: list[Turning] = []
    # Visit the links depth first, in the order of the file.
    waiting: list[tuple[str, int | None, ElementTree.Element | None]] = [(base, None, None)]
    while waiting:
        name, parent, joint = waiting.pop()
        # The link's frame in that of the last revolute joint before it, which carries it.
        frame = Origin() if joint is None else origin(joint, f"joint '{joint.get('name')}'")
        above = None if parent is None else links[parent]
        carrier = None if above is None else above.carrier
        offset = np.array(frame.xyz_m)
        rotation = frame.rotation
        if above is not None:
            offset = above.offset_m + above.rotation @ offset
            rotation = above.rotation @ rotation
        # A revolute joint begins a frame of its own.
        turned_by: int | None = None
        if joint is not None and joint.get("type") == "revolute":
            if turning and carrier != len(turning) - 1:
                _refuse_branches(links, turning[-1].link, parent)
            turned_by = carrier = len(turning)
            turning.append(Turning(joint, len(links), offset, rotation))
            offset = np.zeros(3)
            rotation = np.eye(3)
        mass = inertial(elements[name])
        shapes = visuals(elements[name], known_materials)
        links.append(Link(name, parent, frame, turned_by, carrier, offset, rotation, mass, shapes))
        for other in reversed(below.get(name, [])):
            waiting.append((linked(other, "child"), len(links) - 1, other))
    return links, turning


def _joint(joint: Turning, link: str, time_to_full_speed_s: float) -> Joint:
    """A revolute joint with its axis and limits."""
    direction = axis(joint.element)
    allowed = limits(joint.element, time_to_full_speed_s)
    return Joint(joint.element.get("name", ""), joint.offset_m, joint.rotation, direction, *allowed, link)


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
        f"expected one chain of revolute joints, but link '{fork}' has several branches with some (remove all but one, "
        "or make their joints fixed)"
    )


def _tip(links: list[Link], last_joint: int) -> Link:
    """The end of the arm furthest from the last joint; of equal ones, that with most links, then the file's first."""
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
