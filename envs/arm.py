"""Arm: what a URDF says of a serial arm, and its kinematics.

Angles are in degrees and lengths in metres, as everywhere outside PyBullet.
"""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.limits import JointLimits
from envs.urdf import Chain, Joint, read_chain

Array = NDArray[np.float64]

ASSETS = Path(__file__).resolve().parent.parent / "assets"
DEFAULT_URDF = ASSETS / "arm3.urdf"
RADIANS = math.pi / 180.0


STARTS = 32  # poses from which inverse kinematics tries to reach a goal before it gives up


class UnreachableGoalError(ValueError):
    """A goal that no pose inside the joint limits reaches."""


def _rotation_parts(joint: Joint) -> tuple[Array, Array, Array]:
    """Matrices (3, 3) that rotate by q: constant + cos q * cosine + sin q * sine (Rodrigues' formula)."""
    along = np.outer(joint.axis, joint.axis)
    x, y, z = joint.axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return joint.rotation @ along, joint.rotation @ (np.eye(3) - along), joint.rotation @ cross


def _tip_source(chain: Chain) -> str:
    """Python for the tip's place, worked out from the tip to the base, with every constant folded.

    For arm3 it is a dozen lines, ten times as fast as a loop over matrices, and as few nodes when traced.
    """
    lines = []
    position: list[float | str] = [float(value) for value in chain.tip_offset_m]
    for index, joint in reversed(list(enumerate(chain.joints))):
        lines += [f"angle = angles[{index}] * {RADIANS!r}", "c, s = cos(angle), sin(angle)"]
        parts = [np.where(np.abs(part) < 1e-12, 0.0, part).tolist() for part in _rotation_parts(joint)]
        moved: list[float | str] = []
        for row, name in enumerate("xyz"):
            constant, terms = float(joint.offset_m[row]), []
            for part, factor in zip(parts, ("", "c", "s"), strict=True):
                for number, value in zip(part[row], position, strict=True):
                    if number == 0.0 or value == 0.0:
                        continue
                    if isinstance(value, float):
                        number, value = number * value, ""
                    if not (factor or value):
                        constant += number
                        continue
                    scale = "" if number == 1.0 else "-" if number == -1.0 else f"{number!r} * "
                    terms.append(scale + " * ".join(filter(None, (factor, value))))
            if constant or not terms:
                terms.append(repr(constant))
            if terms == [repr(constant)]:
                moved.append(constant)
            else:
                lines.append(f"{name}{index} = {' + '.join(terms)}")
                moved.append(f"{name}{index}")
        position = moved
    lines.append(f"return {', '.join(map(str, position))}")
    return "def tip(angles, cos, sin):\n    " + "\n    ".join(lines) + "\n"


class Arm:
    """A serial arm of revolute joints, read from a URDF file.

    Attributes: `name`, `urdf`, `urdf_text`, `joint_names`, `limits` (JointLimits), `max_torque_nm`, `tip_link`.
    """

    def __init__(self, urdf: str | Path = DEFAULT_URDF, *, text: str | None = None) -> None:
        """Read the URDF, or its `text` where the file is elsewhere. Raises ValueError, naming the fault, for no arm."""
        self.urdf = Path(urdf).resolve()
        try:
            self.urdf_text = self.urdf.read_text() if text is None else text
            self._chain = read_chain(self.urdf_text, self.urdf.parent if text is None else None)
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read arm {urdf}: {getattr(error, 'strerror', error)}") from None
        except ValueError as error:
            raise ValueError(f"arm {urdf}: {error}") from None
        joints = self._chain.joints
        self.name, self.tip_link = self._chain.name, self._chain.tip_link
        self.joint_names = tuple(joint.name for joint in joints)
        self.limits = JointLimits(
            tuple(joint.lower_deg for joint in joints),
            tuple(joint.upper_deg for joint in joints),
            tuple(joint.max_speed_deg_s for joint in joints),
            tuple(joint.max_acceleration_deg_s2 for joint in joints),
        )
        self.max_torque_nm = tuple(joint.max_torque_nm for joint in joints)
        namespace: dict[str, Any] = {}
        exec(_tip_source(self._chain), namespace)  # nothing but finite numbers of the URDF goes into it
        self._tip = namespace["tip"]

    @property
    def joint_count(self) -> int:
        return len(self._chain.joints)

    @cached_property
    def reach_m(self) -> float:
        """No tip position is further than this from the base frame's origin."""
        return float(
            sum(np.linalg.norm(joint.offset_m) for joint in self._chain.joints)
            + np.linalg.norm(self._chain.tip_offset_m)
        )

    def moves_like(self, other: "Arm") -> bool:
        """Whether the other arm has the same joints, limits and lengths, whatever it looks like or weighs."""
        return (self.joint_names, self.limits) == (other.joint_names, other.limits) and np.allclose(
            self._geometry, other._geometry, rtol=0, atol=1e-9
        )

    @property
    def _geometry(self) -> Array:
        parts = [(joint.offset_m, *joint.rotation, joint.axis) for joint in self._chain.joints]
        return np.concatenate([*(part for joint in parts for part in joint), self._chain.tip_offset_m])

    def tip_position(self, angles_deg: Any, xp: Any = math) -> tuple[Any, Any, Any]:
        """x, y, z of the tip in metres from one angle a joint: floats with `math`, columns with NumPy or PyTorch."""
        x, y, z = self._tip(angles_deg, xp.cos, xp.sin)
        return x, y, z

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
        for index, joint in enumerate(self._chain.joints):
            origin = origin + rotation @ joint.offset_m
            origins.append(origin)
            axes.append(rotation @ joint.rotation @ joint.axis)
            angle = radians[..., index, None, None]
            constant, cosine, sine = _rotation_parts(joint)
            rotation = rotation @ (constant + np.cos(angle) * cosine + np.sin(angle) * sine)
        tip = origin + rotation @ self._chain.tip_offset_m
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
        for rank in np.argsort(distance, axis=1)[:, :STARTS].T:
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
            damping = np.clip(np.where(better, damping * 0.3, damping * 4.0), 1e-6, 1.0)
        return angles
