"""Joint limits, and limiting of targets in position, speed and acceleration, for the simulated and the real arm."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite, sqrt
from typing import Protocol

ROUNDING = 1e-9  # fraction of a limit
# Accepted values of limits: within these every motion ends in finite time and no sum of squares overflows.
LARGEST_ANGLE_DEG = 36_000.0
SPEEDS_DEG_S = (0.1, 1e5)
ACCELERATIONS_DEG_S2 = (0.1, 1e7)

MOST_EPISODE_STEPS = 10_000
TOLERANCES_M = (1e-6, 10.0)  # of goals
GOAL_SPEEDS_M_S = (1e-6, 100.0)

ROUNDING_M = 1e-6  # tolerance of a box's sides: a URDF's 1.5708 rad is 90.0002 degrees

Box = tuple[float, float, float, float, float, float]  # lowest x, y, z and highest x, y, z in metres
TABLE_M = 0.0  # default height of the table in the base's frame
ABOVE_TABLE: Box = (-inf, -inf, TABLE_M, inf, inf, inf)


class LimitedJoint(Protocol):
    """A joint with limits, of a policy's contract or a calibration."""

    @property
    def lower_deg(self) -> float: ...
    @property
    def upper_deg(self) -> float: ...
    @property
    def max_speed_deg_s(self) -> float: ...
    @property
    def max_acceleration_deg_s2(self) -> float: ...


@dataclass(frozen=True)
class JointLimits:
    """Limits of each joint, in the order of the joints: degrees, degrees/s and degrees/s^2."""

    lower_deg: tuple[float, ...]
    upper_deg: tuple[float, ...]
    max_speed_deg_s: tuple[float, ...]
    max_acceleration_deg_s2: tuple[float, ...]

    def __post_init__(self) -> None:
        columns = (self.lower_deg, self.upper_deg, self.max_speed_deg_s, self.max_acceleration_deg_s2)
        if len({len(column) for column in columns}) != 1 or not self.lower_deg:
            raise ValueError(f"joint limits: expected one value a joint in each field, got {self}")
        if not all(isfinite(value) for column in columns for value in column):
            raise ValueError(f"joint limits: expected finite values, got {self}")
        if any(low >= high for low, high in zip(self.lower_deg, self.upper_deg, strict=True)):
            raise ValueError(f"joint limits: expected lower < upper, got {self.lower_deg} and {self.upper_deg} degrees")
        if min(self.max_speed_deg_s) <= 0 or min(self.max_acceleration_deg_s2) <= 0:
            raise ValueError(f"joint limits: expected positive speeds and accelerations, got {self}")
        # Plausible sizes.
        angles = (*self.lower_deg, *self.upper_deg)
        bounded = (
            ("angles", "degrees", angles, (-LARGEST_ANGLE_DEG, LARGEST_ANGLE_DEG)),
            ("speeds", "degrees/s", self.max_speed_deg_s, SPEEDS_DEG_S),
            ("accelerations", "degrees/s^2", self.max_acceleration_deg_s2, ACCELERATIONS_DEG_S2),
        )
        for name, unit, values, (least, most) in bounded:
            if min(values) < least or max(values) > most:
                raise ValueError(f"joint limits: expected {name} from {least:g} to {most:g} {unit}, got {values}")

    @classmethod
    def of_joints(cls, joints: Iterable[LimitedJoint]) -> "JointLimits":
        """The limits of these joints. Raises ValueError for impossible ones."""
        rows = [
            (joint.lower_deg, joint.upper_deg, joint.max_speed_deg_s, joint.max_acceleration_deg_s2) for joint in joints
        ]
        return cls(*zip(*rows, strict=True)) if rows else cls((), (), (), ())

    @cached_property
    def by_joint(self) -> tuple[tuple[float, float, float, float], ...]:
        """Lower angle, upper angle, speed and acceleration of each joint."""
        columns = (self.lower_deg, self.upper_deg, self.max_speed_deg_s, self.max_acceleration_deg_s2)
        return tuple(zip(*columns, strict=True))

    @cached_property
    def crossing_s(self) -> float:
        """Time in seconds in which every joint can cross its whole range, from rest to rest."""
        slowest_s = 0.0
        for low, high, max_speed, max_acceleration in self.by_joint:
            # Without reaching full speed: range = a (t / 2)^2; otherwise t = range / v + v / a.
            seconds = 2.0 * sqrt((high - low) / max_acceleration)
            if high - low > max_speed**2 / max_acceleration:
                seconds = (high - low) / max_speed + max_speed / max_acceleration
            slowest_s = max(slowest_s, seconds)
        return slowest_s

    def clip(self, angles_deg: Sequence[float]) -> list[float]:
        """The nearest angles inside the limits. Measured angles may lie slightly outside."""
        bounds = zip(angles_deg, self.lower_deg, self.upper_deg, strict=True)
        return [min(max(angle, low), high) for angle, low, high in bounds]

    def tightened(self, other: "JointLimits") -> "JointLimits":
        """The tighter limits of both, field by field.

        Raises ValueError if the numbers of joints differ or ranges do not overlap.
        """
        if len(other.by_joint) != len(self.by_joint):
            raise ValueError(f"joint limits: expected {len(self.by_joint)} joints, got {len(other.by_joint)}")
        return JointLimits(
            tuple(map(max, self.lower_deg, other.lower_deg)),
            tuple(map(min, self.upper_deg, other.upper_deg)),
            tuple(map(min, self.max_speed_deg_s, other.max_speed_deg_s)),
            tuple(map(min, self.max_acceleration_deg_s2, other.max_acceleration_deg_s2)),
        )


def stopping_speed(distance_deg: float, change_deg_s: float, max_acceleration_deg_s2: float) -> float:
    """The fastest speed at which a joint can move and still stop within a distance.

    `change_deg_s` is the change of speed in one period at the maximum acceleration.
    """
    # v * period + v^2 / (2 a) = distance, solved for v, with change = a * period
    return sqrt(change_deg_s * change_deg_s + 2.0 * max_acceleration_deg_s2 * distance_deg) - change_deg_s


def next_speed(desired_deg_s: float, speed_deg_s: float, max_speed_deg_s: float, change_deg_s: float) -> float:
    """The speed nearest to the desired one, within the speed limit and at most `change_deg_s` from `speed_deg_s`."""
    # Comparisons, since calls of `min` and `max` would cost more than all the arithmetic of a step.
    if desired_deg_s > max_speed_deg_s:
        desired_deg_s = max_speed_deg_s
    elif desired_deg_s < -max_speed_deg_s:
        desired_deg_s = -max_speed_deg_s
    if desired_deg_s < speed_deg_s - change_deg_s:
        return speed_deg_s - change_deg_s
    if desired_deg_s > speed_deg_s + change_deg_s:
        return speed_deg_s + change_deg_s
    return desired_deg_s


def next_target(target_deg: float, speed_deg_s: float, period_s: float, low_deg: float, high_deg: float) -> float:
    """The target after a period at this speed; a target inside the range stays inside in spite of rounding."""
    following_deg = target_deg + speed_deg_s * period_s
    # A target outside the range is not clipped: it returns within the speed limits.
    if low_deg <= target_deg <= high_deg:
        if following_deg < low_deg:
            return low_deg
        if following_deg > high_deg:
            return high_deg
    return following_deg


def limit_target(
    desired_deg: Sequence[float],
    target_deg: Sequence[float],
    speed_deg_s: Sequence[float],
    limits: JointLimits,
    period_s: float,
) -> tuple[list[float], list[float]]:
    """The next target toward `desired_deg` (joints,), and its speed (joints,) in degrees/s.

    `target_deg` and `speed_deg_s` are the previous results of this function (at the start: the arm's pose, at rest).
    Called once per period, it keeps targets inside the position limits, within the speed and acceleration limits, and
    brings them to rest on a constant desired angle without overshoot. Raises ValueError for a non-finite angle.
    """
    targets: list[float] = []
    speeds: list[float] = []
    joints = zip(desired_deg, target_deg, speed_deg_s, limits.by_joint, strict=True)
    for desired, target, speed, (low, high, max_speed, max_acceleration) in joints:
        if not isfinite(desired):
            raise ValueError(f"expected finite target angles in degrees, got {[float(d) for d in desired_deg]}")
        if desired < low:
            desired = low
        elif desired > high:
            desired = high
        # The fastest speed from which it can still stop on the desired angle.
        gap = desired - target
        change = max_acceleration * period_s
        approach = stopping_speed(abs(gap), change, max_acceleration)
        if gap < 0.0:
            approach = -approach
        following_speed = next_speed(approach, speed, max_speed, change)
        targets.append(next_target(target, following_speed, period_s, low, high))
        speeds.append(following_speed)
    return targets, speeds


def interpolate_target(
    desired_deg: Sequence[float],
    target_deg: Sequence[float],
    speed_deg_s: Sequence[float],
    limits: JointLimits,
    period_s: float,
    ticks: int,
) -> tuple[list[float], list[tuple[list[float], list[float]]]]:
    """One step of `limit_target` of `ticks` periods: its target, and the target and speed of each period within it.

    The speed changes linearly from that before the step to that after it, so that each period has the acceleration of
    the step, which is within the limit: a quadratic B-spline through the targets of the steps. Interpolated targets lag
    half a step behind those of the steps; `lead_target` gives the difference.
    """
    start_deg = lead_target(target_deg, speed_deg_s, limits, period_s, ticks)
    step_deg, end_deg_s = limit_target(desired_deg, start_deg, speed_deg_s, limits, ticks * period_s)
    interpolated = []
    here = target_deg
    for tick in range(1, ticks + 1):
        fraction = tick / ticks
        speeds = [before + fraction * (after - before) for before, after in zip(speed_deg_s, end_deg_s, strict=True)]
        here = [angle + speed * period_s for angle, speed in zip(here, speeds, strict=True)]
        interpolated.append((here, speeds))
    return step_deg, interpolated


def lead_target(
    target_deg: Sequence[float], speed_deg_s: Sequence[float], limits: JointLimits, period_s: float, ticks: int
) -> list[float]:
    """The target of the step of `ticks` periods to which interpolated targets at `target_deg` belong."""
    ahead_s = 0.5 * (ticks - 1) * period_s
    led = []
    for target, speed, (low, high, _, _) in zip(target_deg, speed_deg_s, limits.by_joint, strict=True):
        lead = target + ahead_s * speed
        if low <= target <= high:
            lead = min(max(lead, low), high)
        led.append(lead)
    return led


def follow_target(
    desired_deg: Sequence[float],
    desired_speed_deg_s: Sequence[float],
    target_deg: Sequence[float],
    speed_deg_s: Sequence[float],
    limits: JointLimits,
    period_s: float,
) -> tuple[list[float], list[float]]:
    """The next target on a path that is now at `desired_deg`, moving at `desired_speed_deg_s`; and its speed.

    `limit_target` would slow down to stop at each desired angle and so lag behind a moving one; this adds the path's
    own speed. A path within the limits is followed exactly. Raises ValueError for a non-finite angle or speed.
    """
    targets: list[float] = []
    speeds: list[float] = []
    joints = zip(desired_deg, desired_speed_deg_s, target_deg, speed_deg_s, limits.by_joint, strict=True)
    for desired, desired_speed, target, speed, (low, high, max_speed, max_acceleration) in joints:
        if not (isfinite(desired) and isfinite(desired_speed)):
            raise ValueError(f"expected finite target angles in degrees, got {[float(d) for d in desired_deg]}")
        change = max_acceleration * period_s
        # The fastest speeds from which it can still stop within its range, which takes precedence over the path.
        fastest_up = stopping_speed(max(0.0, high - target), change, max_acceleration)
        fastest_down = stopping_speed(max(0.0, target - low), change, max_acceleration)
        # Where the limits allow it, go to the path directly: on a path at the limit of acceleration, catching up as
        # below would leave no room to correct rounding errors.
        direct_speed = (desired - target) / period_s
        if (
            low <= desired <= high
            and -fastest_down - ROUNDING <= direct_speed <= fastest_up + ROUNDING
            and abs(direct_speed) <= max_speed * (1.0 + ROUNDING)
            and abs(direct_speed - speed) <= change * (1.0 + ROUNDING)
            and abs(direct_speed - desired_speed) <= change
        ):
            targets.append(desired)
            speeds.append(direct_speed)
            continue
        # Catch up: the path's speed, plus the excess that can still be shed by the time the gap is closed.
        gap = desired - (target + desired_speed * period_s)
        excess = stopping_speed(abs(gap), change, max_acceleration)
        approach = desired_speed + (excess if gap > 0.0 else -excess)
        approach = min(max(approach, -fastest_down), fastest_up)
        following_speed = next_speed(approach, speed, max_speed, change)
        targets.append(next_target(target, following_speed, period_s, low, high))
        speeds.append(following_speed)
    return targets, speeds
