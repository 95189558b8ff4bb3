"""Forward kinematics of a serial arm: positions and velocities of its tip and links, and the Jacobian of the tip.

A joint has an offset o, a fixed rotation R, a unit axis a and an angle q (right-handed about the axis; 0 as in the
URDF). A point p in the frame of its link has, in the frame of the previous link, the coordinates (Rodrigues' formula)

    p' = o + R (a a^T + (I - a a^T) cos q + [a]_x sin q) p  =  o + (A + B cos q + C sin q) p

The tip is transformed like this by all joints, from the last one to the base. Axes are mostly parallel to those of a
frame, so that most entries of A, B and C are zero; only the others are used. The same code computes with floats, NumPy
columns and PyTorch columns, which the exporter traces into an equally small graph.

For single poses in floats `envs.traced_kinematics` computes the same, equal to the last bit, in a quarter of the time.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.urdf import Chain, Joint

Array = NDArray[np.float64]
Function = Callable[[Any], Any]
Vector = Sequence[Any]  # x, y, z: numbers or columns, None for one that is always zero

RADIANS = math.pi / 180.0
ZERO = 1e-12  # entries of a matrix up to this are rounding errors


class Row(NamedTuple):
    """One coordinate of p' as a function of p: the nonzero entries of A, B and C, and the offset."""

    terms: tuple[tuple[float, int, int], ...]  # the entry, its matrix (0 for A, 1 for B, 2 for C) and its column
    offset: float


def rotation_parts(joint: Joint) -> tuple[Array, Array, Array]:
    """The matrices A, B and C (3, 3) of a joint."""
    along = np.outer(joint.axis, joint.axis)
    return joint.rotation @ along, joint.rotation @ (np.eye(3) - along), joint.rotation @ cross_matrix(joint.axis)


def cross_matrix(axis: Array) -> Array:
    """The matrix [a]_x (3, 3) that takes p to a x p."""
    x, y, z = axis
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


class Kinematics:
    """Forward kinematics of a chain of joints."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._parts = [rotation_parts(joint) for joint in chain.joints]
        self._rows = [_rows(parts, joint.offset_m) for parts, joint in zip(self._parts, chain.joints, strict=True)]
        self._turns = [_rows(parts, np.zeros(3)) for parts in self._parts]
        self._crosses = [_rows([cross_matrix(joint.axis)], np.zeros(3)) for joint in chain.joints]
        # A link ends at the origin of the next joint, the last one at the tip.
        self._tip = _vector(chain.tip_offset_m)
        self._link_ends = [*(_vector(joint.offset_m) for joint in chain.joints[1:]), self._tip]

    def tip_position(self, angles_deg: Vector, cos: Function, sin: Function) -> tuple[Any, Any, Any]:
        """x, y, z of the tip in metres from one angle, or one column of angles, per joint."""
        cosines, sines = _cosines_and_sines(angles_deg, cos, sin)
        return self._in_base(self._tip, len(self._rows), cosines, sines)

    def link_ends(self, angles_deg: Vector, cos: Function, sin: Function) -> list[tuple[Any, Any, Any]]:
        """x, y, z in metres of the far end of each moving link, the tip's last."""
        cosines, sines = _cosines_and_sines(angles_deg, cos, sin)
        return [self._in_base(end, link, cosines, sines) for link, end in enumerate(self._link_ends, 1)]

    def _in_base(self, point: Vector, joints: int, cosines: Vector, sines: Vector) -> tuple[Any, Any, Any]:
        """Coordinates in the base frame of a point of the link that follows the first `joints` joints."""
        for index in range(joints - 1, -1, -1):
            point = _transformed(self._rows[index], cosines[index], sines[index], point)
        return _numbers(point)

    def tip_motion(self, angles_deg: Vector, speeds_deg_s: Vector, cos: Function, sin: Function) -> tuple[Any, ...]:
        """x, y, z of the tip in metres and its velocity in m/s, from angles and speeds, as `tip_position`."""
        cosines, sines = _cosines_and_sines(angles_deg, cos, sin)
        point = self._tip
        velocity: Vector = (None, None, None)
        for index in range(len(self._rows) - 1, -1, -1):
            # Rotation at the rate w about the axis a adds the velocity w a x p to a point p.
            rate = speeds_deg_s[index] * RADIANS
            velocity = _with_turning(velocity, self._crosses[index], rate, point)
            velocity = _transformed(self._turns[index], cosines[index], sines[index], velocity)
            point = _transformed(self._rows[index], cosines[index], sines[index], point)
        return (*_numbers(point), *_numbers(velocity))

    def tip(self, angles_deg: Any, xp: Any = np, speeds_deg_s: Any = None) -> Any:
        """Tip position (..., 3) in metres from arrays of angles (..., joints) in degrees; `xp` is numpy or torch.

        With speeds (..., joints) in degrees/s, position and velocity in m/s, (..., 6).
        """
        columns = [angles_deg[..., index] for index in range(len(self._rows))]
        rows: tuple[Any, ...]
        if speeds_deg_s is None:
            rows = self.tip_position(columns, xp.cos, xp.sin)
        else:
            speeds = [speeds_deg_s[..., index] for index in range(len(self._rows))]
            rows = self.tip_motion(columns, speeds, xp.cos, xp.sin)
        # A coordinate that no joint changes is a plain number: broadcast it to the others' shape.
        zero = 0.0 * columns[0]
        return xp.stack([row + zero for row in rows], -1)

    def jacobian(self, angles_deg: ArrayLike) -> Array:
        """Jacobian of the tip position, (..., 3, joints), in metres per degree, at angles (..., joints)."""
        radians = np.asarray(angles_deg, dtype=np.float64) * RADIANS
        cosines = np.cos(radians)[..., None, None]
        sines = np.sin(radians)[..., None, None]
        # From the last joint to the base: `lever` is the tip's position, `columns` its derivatives by the angles of the
        # joints so far, all in the frame of the present joint's parent.
        lever = np.broadcast_to(self._chain.tip_offset_m, (*radians.shape[:-1], 3))
        columns: list[Array] = []
        for index in reversed(range(len(self._parts))):
            joint = self._chain.joints[index]
            constant, cosine, sine = self._parts[index]
            rotation = constant + cosines[..., index, :, :] * cosine + sines[..., index, :, :] * sine
            # Derivative of the tip by this joint's angle: axis x lever.
            x, y, z = np.moveaxis(lever, -1, 0)
            ax, ay, az = joint.axis
            turning = np.stack([ay * z - az * y, az * x - ax * z, ax * y - ay * x], -1)
            moved = rotation @ np.stack([lever, turning, *columns], -1)
            lever = moved[..., 0] + joint.offset_m
            columns = [moved[..., place] for place in range(1, moved.shape[-1])]
        return np.stack(columns, -1) * RADIANS


def _cosines_and_sines(angles_deg: Vector, cos: Function, sin: Function) -> tuple[list[Any], list[Any]]:
    cosines: list[Any] = []
    sines: list[Any] = []
    for angle_deg in angles_deg:
        angle = angle_deg * RADIANS
        cosines.append(cos(angle))
        sines.append(sin(angle))
    return cosines, sines


def _rows(parts: Sequence[Array], offset_m: Array) -> tuple[Row, ...]:
    """The rows of a joint's matrices A, B and C."""
    rows: list[Row] = []
    for axis in range(3):
        terms: list[tuple[float, int, int]] = []
        for matrix, part in enumerate(parts):
            for column, entry in enumerate(part[axis].tolist()):
                if abs(entry) >= ZERO:
                    terms.append((entry, matrix, column))
        rows.append(Row(tuple(terms), float(offset_m[axis])))
    return tuple(rows)


def _transformed(rows: Sequence[Row], cosine: Any, sine: Any, vector: Vector) -> Vector:
    """o + (A + B cos q + C sin q) p."""
    factors = (None, cosine, sine)
    result: list[Any] = []
    for terms, offset in rows:
        total: Any = None
        for entry, matrix, column in terms:
            value = vector[column]
            if value is None:
                continue
            factor = factors[matrix]
            if factor is not None:
                value = factor * value if entry == 1.0 else entry * factor * value
            elif entry != 1.0:
                value = entry * value
            total = value if total is None else total + value
        if offset:
            total = offset if total is None else total + offset
        result.append(total)
    return result


def _with_turning(velocity: Vector, cross: Sequence[Row], rate: Any, point: Vector) -> Vector:
    """v + w a x p: a velocity, plus that of a point p rotating at the rate w about the axis a."""
    result: list[Any] = []
    for before, (terms, _) in zip(velocity, cross, strict=True):
        total: Any = None
        for entry, _, column in terms:
            value = point[column]
            if value is not None:
                value = rate * value if entry == 1.0 else entry * rate * value
                total = value if total is None else total + value
        if before is not None:
            total = before if total is None else before + total
        result.append(total)
    return result


def _vector(values: Array) -> Vector:
    """Three numbers, with None for zero."""
    return [None if abs(value) < ZERO else value for value in values.tolist()]


def _numbers(vector: Vector) -> tuple[Any, Any, Any]:
    """x, y, z, with 0 for None."""
    x, y, z = vector
    return (0.0 if x is None else x, 0.0 if y is None else y, 0.0 if z is None else z)
