"""Arm: a serial arm read from a URDF, with its limits and kinematics.

Angles are in degrees and lengths in metres, as everywhere except in observations and PyBullet.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.files import read_file
from envs.inverse_kinematics import InverseKinematics
from envs.inverse_kinematics import UnreachableGoalError as UnreachableGoalError
from envs.kinematics import RADIANS as RADIANS
from envs.kinematics import Kinematics, rotation_parts
from envs.limits import ABOVE_TABLE, ROUNDING_M, Box, JointLimits
from envs.traced_kinematics import TracedKinematics
from envs.urdf import GRAVITY_M_S2, LARGEST_URDF, decode_urdf, read_chain

Array = NDArray[np.float64]

ASSETS = Path(__file__).resolve().parent.parent / "assets"
DEFAULT_URDF = ASSETS / "arm3.urdf"

TABLE_CLEARANCE_M = 0.02  # of a default pose above the table, where possible: more than noise and backlash
DEFAULT_POSES = 512  # candidates if the pose with every joint at zero is outside the box


def urdf_file(arm: str | Path) -> Path:
    """The URDF file of an arm: a path, or the name of an arm in `assets`, such as arm1, unless a file has this name."""
    path = Path(arm)
    shipped = ASSETS / f"{path}.urdf"
    is_name = path.name == str(arm)
    return shipped if is_name and shipped.is_file() and not path.exists() else path


class Arm:
    """A serial arm of revolute joints, read from a URDF file.

    Attributes: `name`, `urdf`, `urdf_text`, `chain` (links included), `mesh_folder`, `joint_names`, `limits`
    (JointLimits), `max_torque_nm`, `tip_link`, `link_names` (of the moving links, the tip's last).
    """

    def __init__(self, urdf: str | Path = DEFAULT_URDF, *, text: str | None = None) -> None:
        """Read the URDF file (see `urdf_file`), or its content from `text` where there is no file.

        Raises ValueError, naming the fault, for anything but a serial arm. Meshes are opened only when the arm is
        drawn, from the folder of the file: an arm from a text has none.
        """
        self.urdf = urdf_file(urdf).resolve()
        self.mesh_folder = self.urdf.parent if text is None else None
        try:
            self.urdf_text = decode_urdf(read_file(self.urdf, LARGEST_URDF)) if text is None else text
            self.chain = read_chain(self.urdf_text)
            joints = self.chain.joints
            self.limits = JointLimits(
                tuple(joint.lower_deg for joint in joints),
                tuple(joint.upper_deg for joint in joints),
                tuple(joint.max_speed_deg_s for joint in joints),
                tuple(joint.max_acceleration_deg_s2 for joint in joints),
            )
        except OSError as error:
            raise ValueError(f"cannot read arm {urdf}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"arm {urdf}: {error}") from None
        self.name = self.chain.name
        self.tip_link = self.chain.tip_link
        self.joint_names = tuple(joint.name for joint in joints)
        self.link_names = (*(joint.link for joint in joints[:-1]), self.tip_link)
        self.max_torque_nm = tuple(joint.max_torque_nm for joint in joints)
        self.kinematics = Kinematics(self.chain)

    @cached_property
    def _traced(self) -> TracedKinematics:
        return TracedKinematics(self.kinematics, self.joint_count)

    @property
    def joint_count(self) -> int:
        return len(self.chain.joints)

    @cached_property
    def reach_m(self) -> float:
        """Upper bound of the tip's distance from the base frame's origin, in metres."""
        to_joints = sum(np.linalg.norm(joint.offset_m) for joint in self.chain.joints)
        return float(to_joints + np.linalg.norm(self.chain.tip_offset_m))

    @cached_property
    def levers_m(self) -> tuple[float, ...]:
        """Largest lever of each joint: turning it by 1 rad moves no point of the links further than this, in metres."""
        # The length of each link after its joint; a lever is the sum of those from the joint to the tip.
        lengths = [float(np.linalg.norm(joint.offset_m)) for joint in self.chain.joints[1:]]
        lengths.append(float(np.linalg.norm(self.chain.tip_offset_m)))
        return tuple(sum(lengths[index:]) for index in range(self.joint_count))

    def moves_like(self, other: "Arm") -> bool:
        """Return True if the other arm has the same joints, limits and lengths; masses and shapes may differ."""
        if self.joint_names != other.joint_names or self.limits != other.limits:
            return False
        return np.allclose(self._geometry, other._geometry, rtol=0, atol=1e-9)

    @property
    def _geometry(self) -> Array:
        """Offsets, rotations and axes of all joints and the offset of the tip, as one vector."""
        parts: list[Array] = []
        for joint in self.chain.joints:
            parts.extend((joint.offset_m, *joint.rotation, joint.axis))
        return np.concatenate([*parts, self.chain.tip_offset_m])

    def tip_position(self, angles_deg: Any, xp: Any = math) -> tuple[Any, Any, Any]:
        """x, y, z of the tip in metres from one angle per joint: floats with `math`, columns with NumPy or PyTorch."""
        if xp is math:
            tip_m: tuple[float, float, float] = self._traced.tip_position(angles_deg)
            return tip_m
        return self.kinematics.tip_position(angles_deg, xp.cos, xp.sin)

    def tip_motion(self, angles_deg: Any, speeds_deg_s: Any, xp: Any = math) -> tuple[Any, ...]:
        """x, y, z of the tip in metres and its velocity in m/s, from angles and speeds, as `tip_position`."""
        if xp is math:
            motion: tuple[float, ...] = self._traced.tip_motion(angles_deg, speeds_deg_s)
            return motion
        return self.kinematics.tip_motion(angles_deg, speeds_deg_s, xp.cos, xp.sin)

    def link_ends(self, angles_deg: Any, xp: Any = math) -> list[tuple[Any, Any, Any]]:
        """x, y, z in metres of the far end of each moving link, the tip's last, as `tip_position`."""
        if xp is math:
            ends_m: list[tuple[float, float, float]] = self._traced.link_ends(angles_deg)
            return ends_m
        return self.kinematics.link_ends(angles_deg, xp.cos, xp.sin)

    def jacobian(self, angles_deg: ArrayLike) -> Array:
        """Jacobian of the tip position, (..., 3, joints), in metres per degree."""
        return self.kinematics.jacobian(angles_deg)

    def outside_m(self, angles_deg: Array, box: Box) -> Array:
        """Largest distance in metres (...,) of a link's end outside a box, in poses (..., joints); negative inside."""
        worst_m = np.full(angles_deg.shape[:-1], -np.inf)
        columns = [angles_deg[..., index] for index in range(self.joint_count)]
        for end in self.link_ends(columns, np):
            for value, low, high in zip(end, box[:3], box[3:], strict=True):
                worst_m = np.maximum(worst_m, np.maximum(low - value, value - high))
        return worst_m

    def default_pose_deg(self, limits: JointLimits | None = None, box: Box = ABOVE_TABLE) -> list[float]:
        """The default pose to start and park in: within the limits, with all links' ends inside the box.

        Every joint at zero, or as near to it as the limits allow, if that is inside the box; otherwise the nearest to
        it of a fixed random set of poses. Poses with clearance above the box's floor take precedence. If no pose is
        inside, the one that is least outside.
        """
        # Candidates: zero, then random poses by their largest angle from it, in tenths of a degree for readability.
        limits = limits or self.limits
        low = np.array(limits.lower_deg)
        high = np.array(limits.upper_deg)
        zero = np.clip(0.0, low, high)
        others = np.random.default_rng(0).uniform(low, high, (DEFAULT_POSES, self.joint_count))
        others = np.clip(np.round(others, 1), low, high)
        others = others[np.argsort(np.abs(others - zero).max(axis=1), kind="stable")]
        poses = np.vstack([zero, others])
        # The first one inside the box with clearance, otherwise the first one inside.
        for clearance_m in (TABLE_CLEARANCE_M, 0.0):
            raised = (box[0], box[1], box[2] + clearance_m, *box[3:])
            inside = self.outside_m(poses, raised) <= ROUNDING_M
            if inside.any():
                break
        best = inside.argmax() if inside.any() else self.outside_m(poses, box).argmin()
        pose: list[float] = poses[best].tolist()
        return pose

    def tip_with_lengths(self, factors: Sequence[float]) -> Callable[[Sequence[float]], tuple[float, float, float]]:
        """`tip_position` of an arm with its link lengths multiplied by factors (joints + 1,), from the base on."""
        *lengths, last = factors
        joints = []
        for joint, length in zip(self.chain.joints, lengths, strict=True):
            joints.append(replace(joint, offset_m=joint.offset_m * length))
        chain = replace(self.chain, joints=tuple(joints), tip_offset_m=self.chain.tip_offset_m * last)
        return TracedKinematics(Kinematics(chain), len(joints)).tip_position

    def forward_kinematics(self, angles_deg: Any, xp: Any = np, speeds_deg_s: Any = None) -> Any:
        """Tip position (..., 3) in metres from joint angles (..., joints) in degrees; `xp` is numpy or torch.

        With speeds (..., joints) in degrees/s, position and velocity in m/s, (..., 6).
        """
        return self.kinematics.tip(angles_deg, xp, speeds_deg_s)

    def gravity_torques_nm(self, angles_deg: ArrayLike) -> Array:
        """Torques (..., joints) in N m that hold the arm still against gravity in poses (..., joints)."""
        radians = np.asarray(angles_deg, dtype=np.float64) * RADIANS
        batch = radians.shape[:-1]
        cosines = np.cos(radians)[..., None, None]
        sines = np.sin(radians)[..., None, None]
        # From the base outwards, in its frame: each joint's position and axis, and the mass and first moment of the
        # links that it carries.
        place = np.zeros((*batch, 3))
        turned = np.broadcast_to(np.eye(3), (*batch, 3, 3))
        places: list[Array] = []
        axes: list[Array] = []
        carried: list[tuple[float, Array]] = []  # mass, and mass times centre
        for index, joint in enumerate(self.chain.joints):
            constant, cosine, sine = rotation_parts(joint)
            place = place + turned @ joint.offset_m
            axes.append(turned @ joint.rotation @ joint.axis)
            places.append(place)
            turned = turned @ (constant + cosines[..., index, :, :] * cosine + sines[..., index, :, :] * sine)
            # Add up the links that turn with this joint.
            mass_kg = 0.0
            moment = np.zeros(3)
            for link in self.chain.links:
                if link.carrier == index and link.inertial is not None:
                    centre_m = link.offset_m + link.rotation @ np.array(link.inertial.origin.xyz_m)
                    mass_kg += link.inertial.mass_kg
                    moment = moment + link.inertial.mass_kg * centre_m
            carried.append((mass_kg, mass_kg * place + turned @ moment))
        # Torque of a joint = g z . (axis x sum of mass (centre - position)), over all links from it to the tip.
        torques = []
        for index, (axis, at) in enumerate(zip(axes, places, strict=True)):
            mass_kg = sum(mass for mass, _ in carried[index:])
            levers = sum(moment for _, moment in carried[index:]) - mass_kg * at
            torques.append(GRAVITY_M_S2 * np.cross(axis, levers)[..., 2])
        return np.stack(torques, -1)

    @cached_property
    def _inverse(self) -> InverseKinematics:
        return InverseKinematics(self.name, self.kinematics, self.limits)

    def inverse_kinematics(
        self, goals_m: ArrayLike, tolerance_m: float = 1e-6, *, start_deg: ArrayLike | None = None
    ) -> Array:
        """Joint angles (..., joints) with the tip at goals (..., 3): `InverseKinematics.solve`."""
        return self._inverse.solve(goals_m, tolerance_m, start_deg=start_deg)

    def descend(self, angles_deg: Array, goals_m: Array, tolerance_m: float, steps: int = 200) -> Array:
        """Angles (n, joints) that bring the tip nearer to goals (n, 3): `InverseKinematics.descend`."""
        return self._inverse.descend(angles_deg, goals_m, tolerance_m, steps)

    def nearest_reachable(self, point_m: Sequence[float]) -> tuple[float, float, float]:
        """The reachable point nearest to this one: `InverseKinematics.nearest_reachable`."""
        return self._inverse.nearest_reachable(point_m)
