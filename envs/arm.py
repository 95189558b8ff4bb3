"""Arm: what a URDF says of a serial arm, and its kinematics.

Angles are in degrees and lengths in metres, as everywhere outside PyBullet.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.limits import JointLimits

Array = NDArray[np.float64]

ASSETS = Path(__file__).resolve().parent.parent / "assets"
DEFAULT_URDF = ASSETS / "arm3.urdf"
RADIANS = math.pi / 180.0

# A URDF has no acceleration limit. Our own attribute `acceleration` gives one; without it, a joint may reach its
# full speed in this time.
DEFAULT_TIME_TO_FULL_SPEED_S = 0.15


class UnreachableGoalError(ValueError):
    """A goal that no pose inside the joint limits reaches."""


@dataclass(frozen=True)
class _Joint:
    """A revolute joint: p_parent = offset + (fixed + cos q * cosine + sin q * sine) p_child (Rodrigues' formula)."""

    name: str
    offset: Array
    rotation: Array
    axis: Array

    @cached_property
    def matrices(self) -> tuple[Array, Array, Array]:
        """The constant, cosine and sine parts of the joint's rotation, each (3, 3)."""
        along = np.outer(self.axis, self.axis)
        x, y, z = self.axis
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        return self.rotation @ along, self.rotation @ (np.eye(3) - along), self.rotation @ cross

    @cached_property
    def rows(self) -> list[tuple[float, list[tuple[int, float, float, float]]]]:
        """The same by rows, zeros left out: (offset, [(column, constant, cosine, sine), ...])."""
        parts = [np.where(np.abs(part) < 1e-12, 0.0, part) for part in self.matrices]
        return [
            (
                float(self.offset[row]),
                [
                    (column, float(parts[0][row, column]), float(parts[1][row, column]), float(parts[2][row, column]))
                    for column in range(3)
                    if any(part[row, column] != 0.0 for part in parts)
                ],
            )
            for row in range(3)
        ]


def _accumulate(total: Any, factor: Any, value: Any) -> Any:
    """total + factor * value, leaving out additions of 0 and products with 1, so that traced graphs stay small."""
    if (isinstance(value, float) and value == 0.0) or (isinstance(factor, float) and factor == 0.0):
        return total
    product = value if isinstance(factor, float) and factor == 1.0 else factor * value
    return product if isinstance(total, float) and total == 0.0 else total + product


class Arm:
    """A serial arm of revolute joints, read from a URDF file.

    Attributes: `name`, `urdf`, `urdf_text`, `joint_names`, `limits` (JointLimits), `max_torque_nm`, `tip_link`.
    """

    def __init__(self, urdf: str | Path = DEFAULT_URDF, *, text: str | None = None) -> None:
        """Read the URDF, or its `text` where the file is elsewhere. Raises ValueError, naming the fault, for no arm."""
        self.urdf = Path(urdf).resolve()
        if text is None and not self.urdf.is_file():
            raise ValueError(f"arm {urdf}: no such file")
        try:
            self.urdf_text = self.urdf.read_text() if text is None else text
            robot = ElementTree.fromstring(self.urdf_text)
        except (ElementTree.ParseError, UnicodeDecodeError) as error:
            raise ValueError(f"arm {urdf}: not well-formed XML ({error})") from None
        self.name = robot.get("name", self.urdf.stem)
        chain = _serial_chain(robot, self.urdf)
        self.tip_link = _link(chain[-1], "child")
        self._joints: list[_Joint] = []
        limits: list[tuple[float, float, float, float, float]] = []
        offset, rotation = np.zeros(3), np.eye(3)
        for element in chain:
            # Fixed joints are folded into the frame of the revolute joint that follows them.
            own_offset, own_rotation = _origin(element)
            offset, rotation = offset + rotation @ own_offset, rotation @ own_rotation
            if element.get("type") == "fixed":
                continue
            self._joints.append(_Joint(element.get("name", ""), offset, rotation, _axis(element)))
            limits.append(_limits(element, self.urdf))
            offset, rotation = np.zeros(3), np.eye(3)
        if not self._joints:
            raise ValueError(f"arm {urdf}: wanted at least one revolute joint, got none")
        self._tip_offset = offset
        self.joint_names = tuple(joint.name for joint in self._joints)
        lower, upper, speed, acceleration, torque = zip(*limits, strict=True)
        self.limits = JointLimits(lower, upper, speed, acceleration)
        self.max_torque_nm: tuple[float, ...] = torque

    @property
    def joint_count(self) -> int:
        return len(self._joints)

    @cached_property
    def reach_m(self) -> float:
        """No tip position is further than this from the base frame's origin."""
        return float(sum(np.linalg.norm(joint.offset) for joint in self._joints) + np.linalg.norm(self._tip_offset))

    def moves_like(self, other: "Arm") -> bool:
        """Whether the other arm has the same joints, limits and lengths, whatever it looks like or weighs."""
        return (self.joint_names, self.limits) == (other.joint_names, other.limits) and np.allclose(
            self._geometry, other._geometry, rtol=0, atol=1e-9
        )

    @property
    def _geometry(self) -> Array:
        parts = [(joint.offset, *joint.rotation, joint.axis) for joint in self._joints]
        return np.concatenate([*(part for joint in parts for part in joint), self._tip_offset])

    def tip_position(self, angles_deg: Any, xp: Any = math) -> tuple[Any, Any, Any]:
        """x, y, z of the tip in metres from one angle a joint: floats with `math`, columns with NumPy or PyTorch."""
        position: tuple[Any, ...] = tuple(float(value) for value in self._tip_offset)
        for joint, angle_deg in zip(reversed(self._joints), reversed(angles_deg), strict=True):
            cosine, sine = xp.cos(angle_deg * RADIANS), xp.sin(angle_deg * RADIANS)
            moved = []
            for offset, terms in joint.rows:
                total: Any = 0.0
                for column, constant, cosine_part, sine_part in terms:
                    value = position[column]
                    if cosine_part:
                        total = _accumulate(total, cosine_part, _accumulate(0.0, cosine, value))
                    if sine_part:
                        total = _accumulate(total, sine_part, _accumulate(0.0, sine, value))
                    if constant:
                        total = _accumulate(total, constant, value)
                moved.append(total + offset if offset else total)
            position = tuple(moved)
        return position[0], position[1], position[2]

    def forward_kinematics(self, angles_deg: Any, xp: Any = np) -> Any:
        """Tip position (..., 3) in metres from joint angles (..., joints) in degrees; `xp` is numpy or torch."""
        columns = [angles_deg[..., index] for index in range(self.joint_count)]
        x, y, z = self.tip_position(columns, xp)
        zero = 0.0 * columns[0]  # a coordinate that no joint moves is a plain number: give it the others' shape
        return xp.stack((x + zero, y + zero, z + zero), -1)

    def jacobian(self, angles_deg: ArrayLike) -> Array:
        """Derivative of the tip by the angles, (..., 3, joints), in metres per degree."""
        radians = np.asarray(angles_deg, dtype=np.float64) * RADIANS
        shape = radians.shape[:-1]
        rotation = np.broadcast_to(np.eye(3), (*shape, 3, 3))
        origin = np.zeros((*shape, 3))
        axes, origins = [], []
        for index, joint in enumerate(self._joints):
            origin = origin + rotation @ joint.offset
            origins.append(origin)
            axes.append(rotation @ joint.rotation @ joint.axis)
            angle = radians[..., index, None, None]
            constant, cosine, sine = joint.matrices
            rotation = rotation @ (constant + np.cos(angle) * cosine + np.sin(angle) * sine)
        tip = origin + rotation @ self._tip_offset
        columns = [np.cross(axis, tip - start) for axis, start in zip(axes, origins, strict=True)]
        return np.stack(columns, -1) * RADIANS

    def inverse_kinematics(self, goals_m: ArrayLike, tolerance_m: float = 1e-6) -> Array:
        """Joint angles (..., joints) in degrees, inside the limits, that put the tip on `goals_m` (..., 3).

        Damped least squares (Wampler 1986; Levenberg-Marquardt damping) from the nearest poses of a fixed random set;
        a joint at a limit is held there while the step would push it out. Raises UnreachableGoalError for a goal
        that ends further than `tolerance_m` from the tip, ValueError for a non-finite one.
        """
        goals = np.asarray(goals_m, dtype=np.float64)
        if goals.shape[-1:] != (3,) or not np.isfinite(goals).all():
            raise ValueError(f"wanted goals (..., 3) of finite numbers in metres, got {goals.tolist()}")
        flat = goals.reshape(-1, 3)
        poses, tips = self._starting_poses
        distance = np.linalg.norm(tips[None] - flat[:, None], axis=-1)
        best_angles = np.zeros((len(flat), self.joint_count))
        best_error = np.full(len(flat), np.inf)
        for rank in np.argsort(distance, axis=1)[:, :8].T:
            todo = best_error > tolerance_m
            if not todo.any():
                break
            angles = self._descend(poses[rank[todo]], flat[todo], tolerance_m)
            error = np.linalg.norm(self.forward_kinematics(angles) - flat[todo], axis=-1)
            better = error < best_error[todo]
            rows = np.flatnonzero(todo)[better]
            best_angles[rows], best_error[rows] = angles[better], error[better]
        if (best_error > tolerance_m).any():
            worst = int(np.argmax(best_error))
            x, y, z = flat[worst]
            raise UnreachableGoalError(
                f"goal ({x:.4f}, {y:.4f}, {z:.4f}) m is out of reach of {self.name}: the nearest point found is "
                f"{best_error[worst] * 1000:.2f} mm away"
            )
        return best_angles.reshape(*goals.shape[:-1], self.joint_count)

    @cached_property
    def _starting_poses(self) -> tuple[Array, Array]:
        """Poses all over the joint ranges and their tips, the same ones every time."""
        low, high = np.array(self.limits.lower_deg), np.array(self.limits.upper_deg)
        poses = np.random.default_rng(0).uniform(low, high, (512, self.joint_count))
        return poses, self.forward_kinematics(poses)

    def _descend(self, angles: Array, goals: Array, tolerance_m: float, steps: int = 200) -> Array:
        low, high = np.array(self.limits.lower_deg), np.array(self.limits.upper_deg)
        damping = np.full(len(angles), 1e-3)
        error = goals - self.forward_kinematics(angles)
        for _ in range(steps):
            size = np.linalg.norm(error, axis=-1)
            if (size <= 0.1 * tolerance_m).all():
                break
            jacobian = self.jacobian(angles) / RADIANS
            downhill = np.einsum("nij,ni->nj", jacobian, error)
            blocked = ((angles <= low) & (downhill < 0)) | ((angles >= high) & (downhill > 0))
            jacobian = np.where(blocked[:, None, :], 0.0, jacobian)
            normal = jacobian @ jacobian.swapaxes(-1, -2) + (damping**2)[:, None, None] * np.eye(3)
            step = np.einsum("nij,ni->nj", jacobian, np.linalg.solve(normal, error[..., None])[..., 0]) / RADIANS
            candidate = np.clip(angles + step, low, high)
            candidate_error = goals - self.forward_kinematics(candidate)
            better = np.linalg.norm(candidate_error, axis=-1) < size
            angles = np.where(better[:, None], candidate, angles)
            error = np.where(better[:, None], candidate_error, error)
            damping = np.clip(np.where(better, damping * 0.3, damping * 4.0), 1e-9, 1.0)
        return angles


def _link(joint: ElementTree.Element, end: str) -> str:
    element = joint.find(end)
    return "" if element is None else element.get("link", "")


def _serial_chain(robot: ElementTree.Element, urdf: Path) -> list[ElementTree.Element]:
    """The joints from the base to the tip, in order."""
    joints = robot.findall("joint")
    kinds = {joint.get("type") for joint in joints}
    if not kinds <= {"revolute", "fixed"}:
        raise ValueError(f"arm {urdf}: wanted only revolute and fixed joints, got {sorted(map(str, kinds))}")
    by_parent: dict[str, ElementTree.Element] = {}
    for joint in joints:
        parent = _link(joint, "parent")
        if parent in by_parent:
            raise ValueError(f"arm {urdf}: wanted one chain of links, but link '{parent}' has several branches")
        by_parent[parent] = joint
    children = {_link(joint, "child") for joint in joints}
    roots = [name for name in by_parent if name not in children]
    if len(roots) != 1:
        raise ValueError(f"arm {urdf}: wanted one chain of links with one base, got bases {roots}")
    chain, link = [], roots[0]
    while link in by_parent:
        chain.append(by_parent[link])
        link = _link(chain[-1], "child")
    return chain


def _numbers(text: str | None, default: str) -> Array:
    return np.array([float(word) for word in (text or default).split()])


def _origin(joint: ElementTree.Element) -> tuple[Array, Array]:
    """Translation (3,) and rotation (3, 3) of a joint's frame in its parent (URDF: fixed-axis roll, pitch, yaw)."""
    origin = joint.find("origin")
    attributes = {} if origin is None else origin.attrib
    (cr, cp, cy), (sr, sp, sy) = (f(_numbers(attributes.get("rpy"), "0 0 0")) for f in (np.cos, np.sin))
    rotation = np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )
    return _numbers(attributes.get("xyz"), "0 0 0"), rotation


def _axis(joint: ElementTree.Element) -> Array:
    element = joint.find("axis")
    axis = _numbers(None if element is None else element.get("xyz"), "1 0 0")
    return axis / np.linalg.norm(axis)


def _limits(joint: ElementTree.Element, urdf: Path) -> tuple[float, float, float, float, float]:
    """Lower, upper, speed, acceleration in degrees, and torque in N m."""
    element = joint.find("limit")
    if element is None or "velocity" not in element.attrib or "effort" not in element.attrib:
        raise ValueError(f"arm {urdf}: joint '{joint.get('name')}' wants a <limit> with lower, upper, effort, velocity")
    lower, upper, effort, velocity = (float(element.get(k, "0")) for k in ("lower", "upper", "effort", "velocity"))
    acceleration = float(element.get("acceleration", velocity / DEFAULT_TIME_TO_FULL_SPEED_S))
    return (*(math.degrees(value) for value in (lower, upper, velocity, acceleration)), effort)  # type: ignore[return-value]
