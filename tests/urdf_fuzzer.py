"""Random URDF files, good and bad, and what must hold for each: `python urdf_fuzzer.py SEED COUNT FOLDER`.

The file of each is written before it is read, so that one that crashes the process is left behind.
"""

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from envs.arm import DEFAULT_URDF, Arm
from envs.simulation import Simulation
from envs.urdf import LARGEST_URDF

HELD_DEG = 0.1
SECONDS = 0.5
NUMBERS = (
    *("nan", "inf", "-inf", "0", "-0.0", "-1", "1", "3", "1e-300", "5e-324", "1e-12", "1e-6", "1e-3", "1e3", "1e6"),
    *("1e9", "1e300", "1e999", "", "x", "0x10", "1_0", "\u0661", "1,5", "1 2", "1e", "${pi}", "1.5708", "3.1416"),
)
KINDS = ("revolute", "fixed", "continuous", "prismatic", "floating", "planar", "spherical", "", "Revolute")
NAMES = (
    "",
    "a",
    "\u00e9paule",
    "x" * 256,
    "x" * 257,
    "a b",
    "&#10;",
    "&lt;&amp;",
    "\u202e",
    "link0",
    "joint1",
    "%s%n%d",
)
CODECS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252", "utf-32", "koi8-r")
DECLARED = (*CODECS, "us-ascii", "iso-8859-1", "no-such-codec", "utf-7", "idna", "base64", "shift_jis", "")
NUMBER = re.compile(r'(?<=[" ])-?\d[\d.e+-]*(?=[" ])')


def arm_text(pick: random.Random) -> str:
    """An arm of random size, masses and strength, most of them plausible."""
    turning = pick.randint(1, pick.choice((2, 3, 7)))
    size_m = 10 ** pick.uniform(-2.0, 0.5)
    mass_kg = 10 ** pick.uniform(-3.0, 1.0) * size_m
    links = [link(pick, "base", mass_kg, size_m)]
    joints = []
    parent = "base"
    for number in range(turning):
        child = f"part{number}"
        links.append(link(pick, child, mass_kg, size_m))
        # Enough to hold the stretched arm of the heaviest parts, mostly.
        effort = turning**2 * 2 * mass_kg * size_m * 9.81 * 10 ** pick.uniform(-1.0, 2.0)
        low = pick.choice((0.0, -1.5708, pick.uniform(-3.1, 0.0)))
        high = low + pick.choice((1.5708, pick.uniform(0.1, 3.0)))
        limit = f'<limit lower="{low}" upper="{high}" effort="{effort}" velocity="{pick.uniform(0.5, 7.0)}"/>'
        axis = pick.choice(("0 0 1", "0 1 0", "1 0 0", "0.6 0 -0.8", "1 2 3"))
        joints.append(joint(f"joint{number}", "revolute", parent, child, f'<axis xyz="{axis}"/>{limit}', size_m, pick))
        for frame in range(pick.choice((0, 0, 1, 2))):
            name = f"frame{number}_{frame}"
            links.append(link(pick, name, 0.1 * mass_kg, size_m) if pick.random() < 0.3 else f'<link name="{name}"/>')
            joints.append(joint(f"mount_{name}", "fixed", child, name, "", size_m, pick))
            if pick.random() < 0.3:
                child = name
        parent = child
    elements = [*links, *joints]
    if pick.random() < 0.3:
        pick.shuffle(elements)
    return '<robot name="fuzz">\n' + "\n".join(elements) + "\n</robot>"


def link(pick: random.Random, name: str, mass_kg: float, size_m: float) -> str:
    """A link of about that mass and size."""
    mass_kg *= 10 ** pick.uniform(-1.0, 0.3)
    length = size_m * pick.uniform(0.2, 1.0)
    inertia = mass_kg * length**2 / 12
    moments = [inertia * pick.choice((1.0, 0.1, 0.01)) for _ in "xyz"]
    moments[2] = min(moments[2], moments[0] + moments[1])
    off = inertia * 0.005 if pick.random() < 0.2 else 0.0
    return (
        f'<link name="{name}"><inertial><origin xyz="0 0 {length / 2}" rpy="0 0 {pick.choice((0, 0.3))}"/>'
        f'<mass value="{mass_kg}"/><inertia ixx="{moments[0]}" iyy="{moments[1]}" izz="{moments[2]}" ixy="{off}" '
        f'ixz="0" iyz="0"/></inertial><visual><geometry><box size="{length} {length} {length}"/></geometry></visual>'
        f'<collision><geometry><sphere radius="{length}"/></geometry></collision></link>'
    )


def joint(name: str, kind: str, parent: str, child: str, more: str, size_m: float, pick: random.Random) -> str:
    """A joint at a random place of its parent."""
    place = " ".join(str(size_m * pick.choice((0.0, 0.0, pick.uniform(-1, 1)))) for _ in "xy")
    return (
        f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
        f'<origin xyz="{place} {size_m}" rpy="{pick.choice((0, 0, 1.5708))} 0 {pick.choice((0, 0.7))}"/>{more}</joint>'
    )


def change_number(text: str, pick: random.Random) -> str:
    """Replace a number."""
    found = list(NUMBER.finditer(text))
    if not found:
        return text
    at = pick.choice(found)
    return text[: at.start()] + pick.choice(NUMBERS) + text[at.end() :]


def scale_number(text: str, pick: random.Random) -> str:
    """Scale a number by some orders of magnitude."""
    found = list(NUMBER.finditer(text))
    if not found:
        return text
    at = pick.choice(found)
    try:
        number = float(at[0]) * 10 ** pick.uniform(-12.0, 12.0)
    except ValueError:
        return text
    return f"{text[: at.start()]}{number}{text[at.end() :]}"


def change_name(text: str, pick: random.Random) -> str:
    """Replace a name, once or everywhere."""
    found = re.findall(r'(?:name|link)="([^"]*)"', text)
    if not found:
        return text
    name = f'"{pick.choice(found)}"'
    return text.replace(name, f'"{pick.choice((*NAMES, *found))}"', pick.choice((1, -1)))


def change_kind(text: str, pick: random.Random) -> str:
    """Replace the type of a joint."""
    return text.replace(f'type="{pick.choice(("revolute", "fixed"))}"', f'type="{pick.choice(KINDS)}"', 1)


def drop_element(text: str, pick: random.Random) -> str:
    """Remove an element or an attribute."""
    found = list(re.finditer(r"<(\w+)[^>]*/>|<(\w+)[^>]*>.*?</\2>| \w+=\"[^\"]*\"", text))
    if not found:
        return text
    at = pick.choice(found)
    return text[: at.start()] + text[at.end() :]


def double_element(text: str, pick: random.Random) -> str:
    """Duplicate an element."""
    found = list(re.finditer(r"<(\w+)[^>]*/>|<(link|joint)[^>]*>.*?</\2>", text))
    if not found:
        return text
    at = pick.choice(found)
    return text[: at.end()] + at[0] + text[at.end() :]


def add_element(text: str, pick: random.Random) -> str:
    """An element that other programs write, or an invalid one."""
    added = pick.choice(
        (
            '<link name="loose"/>',
            '<joint name="extra" type="fixed"><parent link="base"/><child link="base"/></joint>',
            '<joint name="extra" type="revolute"><parent link="part0"/><child link="side"/><limit lower="0" upper="1" '
            'effort="1" velocity="1"/></joint><link name="side"/>',
            '<link name="side"/><joint name="extra" type="fixed"><parent link="part0"/><child link="side"/></joint>',
            '<transmission name="t"><joint name="joint0"/><actuator name="m"/></transmission>',
            '<gazebo reference="base"><mu1>nan</mu1></gazebo>',
            '<xacro:include filename="x"/>',
            "<a>" * 40 + "</a>" * 40,
            "<!-- <!DOCTYPE robot> -->",
            "<material/>",
            "text",
            *(f'<link name="e{n}"/>' for n in range(3)),
        )
    )
    return text.replace("</robot>", f"{added}</robot>")


def add_mimic(text: str, pick: random.Random) -> str:
    """Add a mimic joint, which has no motor."""
    return text.replace("<limit", '<mimic joint="joint0" multiplier="-1"/><limit', 1)


def add_many(text: str, pick: random.Random) -> str:
    """Add many frames, in a chain or side by side."""
    count = pick.choice((3, 20, 60, 99, 130))
    deep = pick.random() < 0.5
    parts = []
    for number in range(count):
        parent = f"many{number - 1}" if deep and number else "part0"
        ends = f'<parent link="{parent}"/><child link="many{number}"/>'
        parts.append(f'<link name="many{number}"/><joint name="to{number}" type="fixed">{ends}</joint>')
    return text.replace("</robot>", "".join(parts) + "</robot>")


def change_root(text: str, pick: random.Random) -> str:
    """Replace the root element."""
    root = pick.choice(("mujoco", "sdf", "gazebo", "COLLADA", "html", "Robot", 'robot xmlns="http://example.org"'))
    return text.replace("<robot", f"<{root}", 1).replace("</robot>", f"</{root.split()[0]}>")


def cut(text: str, pick: random.Random) -> str:
    """Remove a part of the text."""
    at = pick.randrange(len(text) + 1)
    return text[:at] + text[min(len(text), at + pick.choice((1, 10, 10_000))) :]


def grow(text: str, pick: random.Random) -> str:
    """Pad the text to the largest allowed size, or beyond."""
    return text + " " * (LARGEST_URDF - len(text) + pick.choice((-1, 0, 1)))


def add_doctype(text: str, pick: random.Random) -> str:
    """Add a DOCTYPE with an entity."""
    return f"<!DOCTYPE robot [<!ENTITY a '{'x' * 100}'>]>{text}"


TEXT_CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    *(change_number, change_number, change_number, scale_number, scale_number, scale_number, change_name, change_name),
    *(change_kind, drop_element, drop_element, double_element, add_element, add_element, add_mimic, add_many),
    *(change_root, cut, grow, add_doctype),
)


def encoded(text: str, pick: random.Random) -> bytes:
    """The file's bytes, mostly in UTF-8, else in any encoding, declared or not."""
    if pick.random() < 0.7:
        return text.encode()
    codec = pick.choice(CODECS)
    declared = codec if pick.random() < 0.7 else pick.choice(DECLARED)
    data = f'<?xml version="1.0" encoding="{declared}"?>\n{text}'.encode(codec, "replace")
    if pick.random() < 0.2:
        damaged = bytearray(data)
        for _ in range(pick.randint(1, 5)):
            damaged[pick.randrange(len(damaged))] = pick.randrange(256)
        data = bytes(damaged)
    return data


def make(seed: int) -> bytes:
    """The file of a seed."""
    pick = random.Random(seed)
    text = DEFAULT_URDF.read_text() if pick.random() < 0.1 else arm_text(pick)
    for _ in range(pick.choice((0, 1, 1, 1, 2, 3))):
        text = pick.choice(TEXT_CHANGES)(text, pick)
    return encoded(text, pick)


def check(path: Path, seed: int) -> str:
    """Raise AssertionError unless the arm in a file is rejected in one line, or held against gravity."""
    try:
        arm = Arm(path)
        simulation = Simulation(arm)
    except ValueError as error:
        line = str(error)
        assert line.isprintable(), line
        assert line.startswith(("arm ", "cannot read arm ")), line
        assert len(line) < 1000, line
        return "refused"
    low = np.array(arm.limits.lower_deg)
    high = np.array(arm.limits.upper_deg)
    poses = [arm.default_pose_deg(), low.tolist(), np.random.default_rng(seed).uniform(low, high).tolist()]
    with simulation:
        for pose in poses:
            simulation.reset(pose)
            simulation.advance(round(240 * SECONDS))
            simulation.measure()
            off_deg = np.abs(np.subtract(simulation.angles_deg, pose))
            # NaN compares as false.
            assert (off_deg <= HELD_DEG).all(), f"off by {off_deg} degrees at {pose}"
    return "held"


def main() -> None:
    """Check files and write the counts of the results to the folder."""
    first, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    path = folder / "arm.urdf"
    counts: Counter[str] = Counter()
    for seed in range(first, first + count):
        path.write_bytes(make(seed))
        (folder / "seed").write_text(str(seed))
        counts[check(path, seed)] += 1
    (folder / "counts.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    main()
