"""The content of a URDF: the chain of joints of a serial arm, and its links with their masses and shapes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Joint:
    """A revolute joint: its frame in its parent's, its axis in its own frame, and its limits."""

    name: str
    offset_m: Array  # (3,)
    rotation: Array  # (3, 3)
    axis: Array  # (3,), of length 1
    lower_deg: float
    upper_deg: float
    max_speed_deg_s: float
    max_acceleration_deg_s2: float
    max_torque_nm: float
    link: str  # its child


@dataclass(frozen=True)
class Origin:
    """A frame in another: translation, and rotation by fixed-axis roll, pitch and yaw."""

    xyz_m: tuple[float, ...] = (0.0, 0.0, 0.0)
    rpy_rad: tuple[float, ...] = (0.0, 0.0, 0.0)

    @property
    def rotation(self) -> Array:
        """The rotation matrix (3, 3)."""
        (cr, cp, cy) = np.cos(self.rpy_rad)
        (sr, sp, sy) = np.sin(self.rpy_rad)
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
    """A drawn shape: its frame in the link's, its dimensions (m; of a mesh: its scale), and its colour."""

    origin: Origin
    shape: str  # box, cylinder, capsule, sphere or mesh
    size: Mapping[str, tuple[float, ...]]
    mesh_file: str | None
    rgba: tuple[float, ...] | None


@dataclass(frozen=True)
class Link:
    """A link and the joint to its parent. A list of links, parents before children, is the tree of the arm."""

    name: str
    parent: int | None  # index among the links; None for the base
    origin: Origin  # of its joint in the parent
    joint: int | None  # the revolute joint to its parent, an index among the chain's joints; None for a fixed joint
    carrier: int | None  # the last revolute joint between the base and it, likewise; None if there is none
    offset_m: Array  # (3,), in the carrier's frame, or the base's
    rotation: Array  # (3, 3), likewise
    inertial: Inertial | None  # None: massless
    visuals: tuple[Visual, ...]


@dataclass(frozen=True)
class Chain:
    """The revolute joints from base to tip, the tip's offset in the frame of the last one, and all links.

    Fixed joints are merged into the next revolute one.
    """

    name: str
    joints: tuple[Joint, ...]
    tip_offset_m: Array
    tip_link: str
    links: tuple[Link, ...]
