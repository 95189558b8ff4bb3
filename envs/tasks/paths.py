"""Random paths for a moving goal: smooth closed curves that the arm can follow at the goal's speed."""

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

RADIUS = (0.05, 0.15)  # smallest and largest, as a fraction of the arm's reach
SPLINE_POINTS = 7
LIMIT_FRACTION = 0.8  # of the joints' speed and acceleration limits, which a path may use
CANDIDATES = 8  # paths drawn and checked at once, in each try
TRIES = 80
# Clearance above the table as a fraction of the arm's reach: more than a path sinks between two of its points.
TABLE_CLEARANCE = 0.001
# Points at which each path is checked, and at which a promising one is checked again.
POINTS = 24
FINE_POINTS = 192


@dataclass(frozen=True)
class Path:
    """A closed curve about `centre_m`, traversed once in `period_s` from its starting point `phase` (0 to 1).

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
        position, derivative = _curve(self.kind, np.array(self.shape_m), turns)
        return np.concatenate([position + self.centre_m, derivative / self.period_s], axis=-1)

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` rebuilds the path."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Path":
        """Rebuild a path from the values of `to_json`."""
        shape = tuple(tuple(row) for row in values["shape_m"])
        return Path(values["kind"], tuple(values["centre_m"]), shape, values["phase"], values["period_s"])


def _curve(kind: PathKind, shape: Array, turns: Array) -> tuple[Array, Array]:
    """Position (..., 3) relative to the centre and its derivative by `turns` (...,), of shapes (..., points, 3)."""
    if kind == "spline":
        return _spline(shape, turns)
    a = shape[..., 0, :]
    b = shape[..., 1, :]
    if turns.ndim == shape.ndim - 1:  # several points on each of several shapes
        a = a[..., None, :]
        b = b[..., None, :]
    u = 2 * math.pi * turns[..., None]
    if kind == "circle":
        # a cos u + b sin u
        return a * np.cos(u) + b * np.sin(u), 2 * math.pi * (b * np.cos(u) - a * np.sin(u))
    # a sin u + b sin(2u) / 2
    return a * np.sin(u) + b * np.sin(2 * u) / 2, 2 * math.pi * (a * np.cos(u) + b * np.cos(2 * u))


def _spline(control_points: Array, turns: Array) -> tuple[Array, Array]:
    """Point on a closed uniform cubic B-spline and its derivative by `turns`, as `_curve`."""
    # The segment of each turn, and the fraction f of it that has been traversed.
    count = control_points.shape[-2]
    along = (turns % 1.0) * count
    segment = np.minimum(np.floor(along), count - 1).astype(np.int64)
    f = along - segment
    # Weights of a segment's four control points: the uniform cubic B-spline basis, and its derivative by f.
    weights = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], -1) / 6
    slopes = np.stack([-((1 - f) ** 2), 3 * f**2 - 4 * f, -3 * f**2 + 2 * f + 1, f**2], -1) * (count / 2)
    rows = (segment[..., None] + np.arange(4)) % count
    flat_rows = rows.reshape(*control_points.shape[:-2], -1, 1)
    points = np.take_along_axis(control_points, flat_rows, axis=-2).reshape(*rows.shape, 3)
    return (weights[..., None] * points).sum(-2), (slopes[..., None] * points).sum(-2)


def draw_path(
    arm: Arm,
    kinds: Sequence[PathKind],
    speed_m_s: float,
    generator: np.random.Generator,
    tries: int = TRIES,
    *,
    table_m: float = TABLE_M,
) -> Path:
    """Draw a random path above the table that the arm can follow at this mean speed with 80 % of its joints' limits.

    Each try checks 8 random paths. Raises ValueError, with the fastest speed found, if none will do.
    """
    fastest = 0.0
    lowest_m = table_m + TABLE_CLEARANCE * arm.reach_m
    for _ in range(tries):
        # Draw candidates of one kind, each about the tip of a random pose.
        kind = kinds[int(generator.integers(len(kinds)))]
        poses = generator.uniform(arm.limits.lower_deg, arm.limits.upper_deg, (CANDIDATES, arm.joint_count))
        radii = generator.uniform(*RADIUS, CANDIDATES) * arm.reach_m
        phases = generator.random(CANDIDATES)
        shapes = _draw_shapes(kind, radii, generator)
        # Check all coarsely; check finely those that are fast enough, and the best one for the error message.
        possible, _ = _fastest(arm, kind, poses, shapes, POINTS, lowest_m)
        promising = (possible >= speed_m_s) | ((possible > fastest) & (possible == possible.max()))
        for row in np.flatnonzero(promising).tolist():
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
    """Random shapes (candidates, points, 3): two half axes in a random plane, or random control points."""
    if kind == "spline":
        return generator.normal(size=(len(radii), SPLINE_POINTS, 3)) * radii[:, None, None]
    # Two random vectors, made orthonormal (Gram-Schmidt).
    a, b = np.moveaxis(generator.normal(size=(len(radii), 2, 3)), 1, 0)
    a = a / np.linalg.norm(a, axis=-1, keepdims=True)
    b = b - (a * b).sum(-1, keepdims=True) * a
    b = b / np.linalg.norm(b, axis=-1, keepdims=True)
    return np.stack([a, b], 1) * radii[:, None, None]


def _fastest(
    arm: Arm, kind: PathKind, poses_deg: Array, shapes_m: Array, points: int, lowest_m: float
) -> tuple[Array, Array]:
    """Highest mean speeds (candidates,) in m/s at which the arm can follow paths, and the paths' lengths in m.

    A path is centred at the tip of its pose. The speed is 0 if the arm cannot follow it or it goes below `lowest_m`.
    """
    # Points on each path, and the joint angles that have the tip there.
    turns = np.broadcast_to(np.arange(points) / points, (len(poses_deg), points))
    offsets_m, derivatives = _curve(kind, shapes_m, turns)
    lengths_m = np.linalg.norm(derivatives, axis=-1).mean(-1)
    points_m = arm.forward_kinematics(poses_deg)[:, None] + offsets_m
    angles = _follow(arm, poses_deg, points_m)
    # Whether each path can be followed at all.
    limits = arm.limits
    missed_m = np.linalg.norm(arm.forward_kinematics(angles) - points_m, axis=-1).max(-1)
    inside = ((angles >= limits.lower_deg) & (angles <= limits.upper_deg)).all((-1, -2))
    above = points_m[..., 2].min(-1) >= lowest_m
    # Joint speeds and accelerations at one revolution per second, by finite differences.
    ahead = np.roll(angles, -1, axis=1)
    behind = np.roll(angles, 1, axis=1)
    speed = np.abs(ahead - angles) * points
    acceleration = np.abs(ahead - 2 * angles + behind) * points**2
    # Speeds grow in proportion to the revolutions per second, accelerations with their square.
    max_speed = LIMIT_FRACTION * np.array(limits.max_speed_deg_s)
    max_acceleration = LIMIT_FRACTION * np.array(limits.max_acceleration_deg_s2)
    by_speed = max_speed / np.maximum(speed.max(1), 1e-9)
    by_acceleration = np.sqrt(max_acceleration / np.maximum(acceleration.max(1), 1e-9))
    revolutions_per_s = np.minimum(by_speed, by_acceleration).min(-1)
    return np.where(inside & above & (missed_m < 1e-4), lengths_m * revolutions_per_s, 0.0), lengths_m


def _follow(arm: Arm, poses_deg: Array, points_m: Array) -> Array:
    """Angles (candidates, n, joints) that bring the tip to points (candidates, n, 3), starting from the poses.

    Five damped least-squares steps, as in `envs.inverse_kinematics`.
    """
    angles = np.repeat(poses_deg[:, None], points_m.shape[1], axis=1)
    for _ in range(5):
        # dq = J^T (J J^T + d^2 I)^-1 (g - p)
        error = points_m - arm.forward_kinematics(angles)
        jacobian = arm.jacobian(angles) / RADIANS
        normal = jacobian @ jacobian.swapaxes(-1, -2) + 1e-8 * np.eye(3)
        step = jacobian.swapaxes(-1, -2) @ np.linalg.solve(normal, error[..., None])
        angles = angles + np.clip(step[..., 0] / RADIANS, -30.0, 30.0)
    return angles
