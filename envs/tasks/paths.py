"""Paths: smooth closed curves for a moving goal, each one that the arm can follow at its speed."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from envs.arm import RADIANS, Arm
from envs.limits import TABLE_M

Array = NDArray[np.float64]
PathKind = Literal["circle", "eight", "spline"]
KINDS: tuple[PathKind, ...] = get_args(PathKind)

RADIUS = (0.05, 0.15)  # of the arm's reach, from the smallest to the largest
SPLINE_POINTS = 7
SHARE = 0.8  # of the joints' speed and acceleration limits that a path may need
CANDIDATES = 8  # paths drawn and tried at once
TABLE_CLEARANCE = 0.001  # of the arm's reach, above the table: more than a path sinks between two points of it
TRIES = 80  # so many times, before giving up
# Points on a path at which it is tried, and tried again more finely if it may be the one.
POINTS = 24
FINE_POINTS = 192


@dataclass(frozen=True)
class Path:
    """A closed curve about `centre_m`, gone round once in `period_s`; `phase`, from 0 to 1, is where it begins.

    `shape_m` is, for a circle and a figure of eight, the two half axes a and b (with u = 2 pi t / period):
    a cos u + b sin u, and a sin u + b sin(2u) / 2 (Gerono's lemniscate). For a spline it is the control points of a
    closed uniform cubic B-spline.
    """

    kind: PathKind
    centre_m: tuple[float, ...]
    shape_m: tuple[tuple[float, ...], ...]
    phase: float
    period_s: float

    def motion(self, times_s: Any) -> Array:
        """Position (m) and velocity (m/s) at times (n,), as rows (n, 6)."""
        turns = self.phase + np.asarray(times_s, dtype=np.float64) / self.period_s
        place, rate = _curve(self.kind, np.array(self.shape_m), turns)
        return np.concatenate([place + self.centre_m, rate / self.period_s], axis=-1)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Path":
        """Read one back."""
        shape = tuple(tuple(row) for row in values["shape_m"])
        return Path(values["kind"], tuple(values["centre_m"]), shape, values["phase"], values["period_s"])


def _curve(kind: PathKind, shape: Array, turns: Array) -> tuple[Array, Array]:
    """Place (..., 3) and its derivative by the turns (...,), of shapes (..., points, 3)."""
    if kind == "spline":
        count = shape.shape[-2]
        along = (turns % 1.0) * count
        first = np.minimum(np.floor(along), count - 1).astype(np.int64)
        f = along - first
        weights = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], -1) / 6
        rates = np.stack([-((1 - f) ** 2), 3 * f**2 - 4 * f, -3 * f**2 + 2 * f + 1, f**2], -1) * (count / 2)
        rows = (first[..., None] + np.arange(4)) % count
        points = np.take_along_axis(shape, rows.reshape(*shape.shape[:-2], -1, 1), axis=-2).reshape(*rows.shape, 3)
        return (weights[..., None] * points).sum(-2), (rates[..., None] * points).sum(-2)
    u = 2 * math.pi * turns[..., None]
    a = shape[..., 0, :]
    b = shape[..., 1, :]
    if turns.ndim == shape.ndim - 1:  # several points on each of several shapes
        a = a[..., None, :]
        b = b[..., None, :]
    if kind == "circle":
        return a * np.cos(u) + b * np.sin(u), 2 * math.pi * (b * np.cos(u) - a * np.sin(u))
    return a * np.sin(u) + b * np.sin(2 * u) / 2, 2 * math.pi * (a * np.cos(u) + b * np.cos(2 * u))


def draw_path(
    arm: Arm,
    kinds: Sequence[PathKind],
    speed_m_s: float,
    generator: np.random.Generator,
    tries: int = TRIES,
    *,
    table_m: float = TABLE_M,
) -> Path:
    """A random path above the table that the arm can follow at this mean speed within a share of its joints' limits.

    Raises ValueError, saying what the arm could do, if there is none among 8 random ones a try.
    """
    fastest = 0.0
    lowest_m = table_m + TABLE_CLEARANCE * arm.reach_m
    for _ in range(tries):
        kind = kinds[int(generator.integers(len(kinds)))]
        poses = generator.uniform(arm.limits.lower_deg, arm.limits.upper_deg, (CANDIDATES, arm.joint_count))
        radii = generator.uniform(*RADIUS, CANDIDATES) * arm.reach_m
        phases = generator.random(CANDIDATES)
        shapes = _draw_shapes(kind, radii, generator)
        possible, _ = _fastest(arm, kind, poses, shapes, POINTS, lowest_m)
        hopeful = (possible >= speed_m_s) | ((possible > fastest) & (possible == possible.max()))
        for row in np.flatnonzero(hopeful).tolist():
            (possible_m_s,), (length_m,) = _fastest(arm, kind, poses[[row]], shapes[[row]], FINE_POINTS, lowest_m)
            fastest = max(fastest, float(possible_m_s))
            if possible_m_s >= speed_m_s:
                shape = tuple(map(tuple, shapes[row].tolist()))
                centre = arm.tip_position(poses[row].tolist())
                return Path(kind, centre, shape, float(phases[row]), float(length_m) / speed_m_s)
    raise ValueError(
        f"expected a speed at which {arm.name} can follow a path ({', '.join(kinds)}), got {speed_m_s:g} m/s: "
        f"of {tries * CANDIDATES} random paths above the table, z = {table_m:g} m, the best allows {fastest:.3g} m/s"
    )


def _draw_shapes(kind: PathKind, radii: Array, generator: np.random.Generator) -> Array:
    """Random shapes (candidates, points, 3): a plane turned at random, or control points all around."""
    if kind == "spline":
        return generator.normal(size=(len(radii), SPLINE_POINTS, 3)) * radii[:, None, None]
    a, b = np.moveaxis(generator.normal(size=(len(radii), 2, 3)), 1, 0)
    a = a / np.linalg.norm(a, axis=-1, keepdims=True)
    b = b - (a * b).sum(-1, keepdims=True) * a
    b = b / np.linalg.norm(b, axis=-1, keepdims=True)
    return np.stack([a, b], 1) * radii[:, None, None]


def _fastest(
    arm: Arm, kind: PathKind, poses_deg: Array, shapes_m: Array, points: int, lowest_m: float
) -> tuple[Array, Array]:
    """Mean speeds (candidates,) in m/s at which the arm could go round (0: it cannot), and the lengths in m.

    Not below `lowest_m`.
    """
    turns = np.broadcast_to(np.arange(points) / points, (len(poses_deg), points))
    places, rates = _curve(kind, shapes_m, turns)
    lengths_m = np.linalg.norm(rates, axis=-1).mean(-1)
    points_m = arm.forward_kinematics(poses_deg)[:, None] + places
    limits = arm.limits
    angles = _follow(arm, poses_deg, points_m)
    missed = np.linalg.norm(arm.forward_kinematics(angles) - points_m, axis=-1).max(-1)
    inside = ((angles >= limits.lower_deg) & (angles <= limits.upper_deg)).all((-1, -2))
    ahead = np.roll(angles, -1, axis=1)  # at one round a second
    speed = np.abs(ahead - angles) * points
    acceleration = np.abs(ahead - 2 * angles + np.roll(angles, 1, axis=1)) * points**2
    by_speed = SHARE * np.array(limits.max_speed_deg_s) / np.maximum(speed.max(1), 1e-9)
    by_acceleration = np.sqrt(SHARE * np.array(limits.max_acceleration_deg_s2) / np.maximum(acceleration.max(1), 1e-9))
    rounds_a_second = np.minimum(by_speed, by_acceleration).min(-1)
    above = points_m[..., 2].min(-1) >= lowest_m
    return np.where(inside & above & (missed < 1e-4), lengths_m * rounds_a_second, 0.0), lengths_m


def _follow(arm: Arm, poses_deg: Array, points_m: Array) -> Array:
    """Angles (candidates, n, joints) that bring the tip to the points, by damped Newton steps from the poses."""
    angles = np.repeat(poses_deg[:, None], points_m.shape[1], axis=1)
    for _ in range(5):
        error = points_m - arm.forward_kinematics(angles)
        jacobian = arm.jacobian(angles) / RADIANS
        normal = jacobian @ jacobian.swapaxes(-1, -2) + 1e-8 * np.eye(3)
        step = jacobian.swapaxes(-1, -2) @ np.linalg.solve(normal, error[..., None])
        angles = angles + np.clip(step[..., 0] / RADIANS, -30.0, 30.0)
    return angles
