"""What a URDF says of a serial arm: its chain of joints, its links, and what they weigh and look like."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
    """A shape that is drawn: its frame in the link's, its dimensions (m; a mesh: its scale), and its colour."""

    origin: Origin
    shape: str  # box, cylinder, capsule, sphere or mesh
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
