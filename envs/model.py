"""The URDF of an arm that simulators and viewers load, generated from the chain that was read and checked.

Links and joints are named link0, link1, … and joint1, joint2, … by their indices among the chain's links: `joint3`
holds `link3`. Frames are massless. Shapes are for drawing only.
"""

import logging
import math
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from envs.urdf import Chain, Link, Origin, Visual

LARGEST_MESH = 2**27  # bytes
MESH_SUFFIXES = (".stl", ".obj", ".dae")  # that PyBullet reads
BONE_RADIUS = 0.02  # of the lines that represent an arm without shapes, as a fraction of its length
SCHEMES = ("package://", "model://", "file://")
LOG = logging.getLogger(__name__)
WEIGHTLESS = '<inertial><mass value="0"/><inertia ixx="0" ixy="0" ixz="0" iyy="0" iyz="0" izz="0"/></inertial>'


class Drawing(NamedTuple):
    """A URDF with shapes, and the files that it refers to, by their names in it."""

    urdf: str
    files: dict[str, Path]


def joint_names(chain: Chain) -> list[str]:
    """The names of the revolute joints in generated URDFs."""
    return [f"joint{place}" for place, link in enumerate(chain.links) if link.joint is not None]


def tip_name(chain: Chain) -> str:
    """The name of the tip's link in generated URDFs."""
    return next(f"link{place}" for place, link in enumerate(chain.links) if link.name == chain.tip_link)


def simulated_urdf(chain: Chain) -> str:
    """The URDF of the arm without its shapes. Raises ValueError for a joint whose link has no mass."""
    heavy_joints = {link.carrier for link in chain.links if link.inertial is not None}
    for number, joint in enumerate(chain.joints):
        if number not in heavy_joints:
            raise ValueError(
                f"link '{joint.link}' turns but weighs nothing: neither it nor a link that is fixed to it has a mass; "
                "expected an <inertial> with the mass and inertia of each moving part"
            )
    return _urdf(chain, lambda place: "")


def mesh_files(chain: Chain, folder: Path | None) -> list[Path]:
    """The mesh files of the arm that exist in the folder of its URDF."""
    names: set[str] = set()
    for link in chain.links:
        names.update(visual.mesh_file for visual in link.visuals if visual.mesh_file is not None)
    paths = []
    for name in sorted(names):
        path = find_file(name, folder)
        if path is not None and path.suffix.lower() in MESH_SUFFIXES:
            paths.append(path)
    return paths


def drawn_urdf(chain: Chain, folder: Path | None, usable: Container[Path] | None = None) -> Drawing:
    """The URDF of the arm with its shapes, except meshes that are missing, outside the folder or not `usable`.

    One warning is logged about those. If no moving part has a shape, the arm is drawn as lines from joint to joint.
    """
    if usable is None:
        usable = mesh_files(chain, folder)
    names: dict[Path, str] = {}
    missing: list[str] = []
    # The shapes of each link, except those whose mesh cannot be drawn.
    shapes: list[list[str]] = []
    for link in chain.links:
        shapes.append([])
        for visual in link.visuals:
            called = None
            if visual.mesh_file is not None:
                path = find_file(visual.mesh_file, folder)
                if path is None or path not in usable:
                    missing.append(visual.mesh_file)
                    continue
                called = names.setdefault(path, f"file{len(names)}{path.suffix.lower()}")
            shapes[-1].append(_visual(visual, called))
    if missing:
        count = sum(len(link.visuals) for link in chain.links)
        _warn_once(
            f"arm '{chain.name}': drawn without {len(missing)} of its {count} shapes, such as '{missing[0]}': expected "
            f"files of type {', '.join(MESH_SUFFIXES)} in the folder of the URDF{f', {folder}' if folder else ''}"
        )
    # If no moving link has a shape, draw lines instead.
    moving = [place for place, link in enumerate(chain.links) if link.carrier is not None]
    if not any(shapes[place] for place in moving):
        for place, bones in _bones(chain).items():
            shapes[place].extend(bones)
    urdf = _urdf(chain, lambda place: "".join(shapes[place]))
    return Drawing(urdf, {name: path for path, name in names.items()})


def find_file(name: str, folder: Path | None) -> Path | None:
    """The path of a file named in a URDF of the folder; None if it is missing, too large or outside the folder."""
    if folder is None:
        return None
    for scheme in SCHEMES:
        name = name.removeprefix(scheme)
    inside = folder.resolve()
    # "package://NAME/PATH": the folder may be the package itself.
    _, _, without_package = name.partition("/")
    for candidate in (name, without_package):
        # The name may be too long for the file system, or a symbolic link may refer to itself.
        with suppress(OSError, RuntimeError):
            path = (inside / candidate).resolve()
            if path.is_relative_to(inside) and path.is_file() and path.stat().st_size <= LARGEST_MESH:
                return path
    return None


@lru_cache
def _warn_once(text: str) -> None:
    LOG.warning(text)


def _urdf(chain: Chain, shapes: Callable[[int], str]) -> str:
    parts = []
    for place, link in enumerate(chain.links):
        parts.append(f'<link name="link{place}">{_inertial(link)}{shapes(place)}</link>')
        if link.parent is not None:
            parts.append(_joint(chain, place, link))
    return '<robot name="arm">\n' + "\n".join(parts) + "\n</robot>\n"


def _joint(chain: Chain, place: int, link: Link) -> str:
    ends = f'<parent link="link{link.parent}"/><child link="link{place}"/>{_origin(link.origin)}'
    if link.joint is None:
        return f'<joint name="joint{place}" type="fixed">{ends}</joint>'
    joint = chain.joints[link.joint]
    lower, upper, velocity = map(math.radians, (joint.lower_deg, joint.upper_deg, joint.max_speed_deg_s))
    return (
        f'<joint name="joint{place}" type="revolute">{ends}<axis xyz="{_joined(joint.axis.tolist())}"/>'
        f'<limit lower="{lower!r}" upper="{upper!r}" effort="{joint.max_torque_nm!r}" velocity="{velocity!r}"/></joint>'
    )


def _inertial(link: Link) -> str:
    inertial = link.inertial
    if inertial is None:
        return WEIGHTLESS
    names = ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")
    moments = " ".join(f'{name}="{value!r}"' for name, value in zip(names, inertial.inertia_kg_m2, strict=True))
    return f'<inertial>{_origin(inertial.origin)}<mass value="{inertial.mass_kg!r}"/><inertia {moments}/></inertial>'


def _visual(visual: Visual, mesh: str | None) -> str:
    if visual.shape == "capsule":
        return "".join(_visual(part, None) for part in _capsule_parts(visual))
    size = "".join(f' {name}="{_joined(values)}"' for name, values in visual.size.items())
    if mesh is not None:
        size += f' filename="{mesh}"'
    colour = ""
    if visual.rgba is not None:
        rgba = _joined(visual.rgba)
        colour = f'<material name="{rgba}"><color rgba="{rgba}"/></material>'
    return f"<visual>{_origin(visual.origin)}<geometry><{visual.shape}{size}/></geometry>{colour}</visual>"


def _capsule_parts(capsule: Visual) -> list[Visual]:
    """A cylinder and two spheres: not every viewer supports capsules."""
    parts = [replace(capsule, shape="cylinder")]
    half_m = capsule.origin.rotation @ (0.0, 0.0, capsule.size["length"][0] / 2)
    for end_m in (half_m, -half_m):
        origin = Origin(tuple((np.array(capsule.origin.xyz_m) + end_m).tolist()))
        parts.append(replace(capsule, origin=origin, shape="sphere", size={"radius": capsule.size["radius"]}))
    return parts


def _bones(chain: Chain) -> dict[int, list[str]]:
    """Visuals by link: spheres at the links' frames, and cylinders between them."""
    longest_m = sum(math.hypot(*link.origin.xyz_m) for link in chain.links)
    radius_m = BONE_RADIUS * (longest_m or 1.0)
    bones: dict[int, list[str]] = {place: [] for place in range(len(chain.links))}
    for place, link in enumerate(chain.links):
        ball = Visual(Origin(), "sphere", {"radius": (1.5 * radius_m,)}, None, None)
        bones[place].append(_visual(ball, None))
        x, y, z = link.origin.xyz_m
        length_m = math.hypot(x, y, z)
        if link.parent is None or length_m < radius_m:
            continue
        # A cylinder's axis is its z: pitch and yaw turn it to (x, y, z).
        turned = Origin((x / 2, y / 2, z / 2), (0.0, math.atan2(math.hypot(x, y), z), math.atan2(y, x)))
        size = {"radius": (radius_m,), "length": (length_m,)}
        bones[link.parent].append(_visual(Visual(turned, "cylinder", size, None, None), None))
    return bones


def _origin(origin: Origin) -> str:
    return f'<origin xyz="{_joined(origin.xyz_m)}" rpy="{_joined(origin.rpy_rad)}"/>'


def _joined(numbers: Iterable[float]) -> str:
    return " ".join(map(repr, numbers))
