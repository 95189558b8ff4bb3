"""Limiting of joint targets in position, speed and acceleration: one function for the simulated and the real arm."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite, sqrt
from typing import Protocol

ROUNDING = 1e-9  # share of a limit
# What a file may claim: between these every motion ends in finite time and no sum of squares overflows.
LARGEST_ANGLE_DEG = 36_000.0
SPEEDS_DEG_S = (0.1, 1e5)
ACCELERATIONS_DEG_S2 = (0.1, 1e7)

MOST_EPISODE_STEPS = 10_000
TOLERANCES_M = (1e-6, 10.0)  # how near a goal is reached
GOAL_SPEEDS_M_S = (1e-6, 100.0)

ROUNDING_M = 1e-6  # so far beyond a side is not outside: a URDF's 1.5708 rad is 90.0002 degrees

Box = tuple[float, float, float, float, float, float]  # lowest x, y, z and highest x, y, z in metres
TABLE_M = 0.0  # the table's height in the base's frame, unless something else is said
ABOVE_TABLE: Box = (-inf, -inf, TABLE_M, inf, inf, inf)


class LimitedJoint(Protocol):
    """A joint of a file that says what it may do: of a contract, a calibration."""

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
    """What each joint may do, in the order of the joints: degrees, degrees/s and degrees/s^2."""

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
        angles = (*self.lower_deg, *self.upper_deg)
        for name, unit, values, (least, most) in (
            ("angles", "degrees", angles, (-LARGEST_ANGLE_DEG, LARGEST_ANGLE_DEG)),
            ("speeds", "degrees/s", self.max_speed_deg_s, SPEEDS_DEG_S),
            ("accelerations", "degrees/s^2", self.max_acceleration_deg_s2, ACCELERATIONS_DEG_S2),
        ):
            if min(values) < least or max(values) > most:
                raise ValueError(f"joint limits: expected {name} from {least:g} to {most:g} {unit}, got {values}")

    @classmethod
    def of_joints(cls, joints: Iterable[LimitedJoint]) -> "JointLimits":
        """The limits of these joints. Raises ValueError if they make no sense."""
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
        """The nearest angles inside the limits: measured ones may lie a hair outside."""
        bounds = zip(angles_deg, self.lower_deg, self.upper_deg, strict=True)
        return [min(max(angle, low), high) for angle, low, high in bounds]

    def tightened(self, other: "JointLimits") -> "JointLimits":
        """The tighter of both, field by field.

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
    """The fastest speed at which a joint can move on and still stop within a distance.

    The solution v of v * period + v^2 / (2 a) = distance, where a period changes the speed by change = a * period.
    """
    return sqrt(change_deg_s * change_deg_s + 2.0 * max_acceleration_deg_s2 * distance_deg) - change_deg_s


def next_speed(wanted_deg_s: float, speed_deg_s: float, max_speed_deg_s: float, change_deg_s: float) -> float:
    """The speed nearest to the wanted one that keeps the speed limit and is at most `change` away from `speed_deg_s`.

    Comparisons, since `min` and `max` would cost more than all the arithmetic of a step.
    """
    if wanted_deg_s > max_speed_deg_s:
        wanted_deg_s = max_speed_deg_s
    elif wanted_deg_s < -max_speed_deg_s:
        wanted_deg_s = -max_speed_deg_s
    if wanted_deg_s < speed_deg_s - change_deg_s:
        return speed_deg_s - change_deg_s
    if wanted_deg_s > speed_deg_s + change_deg_s:
        return speed_deg_s + change_deg_s
    return wanted_deg_s


def next_target(target_deg: float, speed_deg_s: float, period_s: float, low_deg: float, high_deg: float) -> float:
    """The target after a period at this speed; rounding takes it out of the range no further than it already is."""
    following_deg = target_deg + speed_deg_s * period_s
    if low_deg <= target_deg <= high_deg:  # an arm that starts outside comes back no faster than it may
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
    """The next target toward `desired_deg`, and the speed at which it gets there.

    `target_deg` and `speed_deg_s` are the target and speed that this function returned last (at the start: where the
    arm is, at rest). Called once a period with its own results, it keeps every target inside the position limits,
    never changes faster than the speed limit nor accelerates harder than the acceleration limit, and comes to rest
    on a constant desired angle without passing it. Raises ValueError for a non-finite angle.
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
        # As fast as it can go and still stop on the desired angle.
        gap = desired - target
        change = max_acceleration * period_s
        wanted = stopping_speed(abs(gap), change, max_acceleration)
        if gap < 0.0:
            wanted = -wanted
        following_speed = next_speed(wanted, speed, max_speed, change)
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
    """One step of `limit_target` that is `ticks` periods long, and the targets and speeds of each period in it.

    The speed goes evenly from that before the step to that after it, so that the step's acceleration, which is within
    the limit, is also that of each period: with many of them, a quadratic B-spline through the targets of the steps.
    Such targets are half a step behind the steps' own, `lead_target` says by how much.
    """
    start_deg = lead_target(target_deg, speed_deg_s, limits, period_s, ticks)
    step_deg, end_deg_s = limit_target(desired_deg, start_deg, speed_deg_s, limits, ticks * period_s)
    way = []
    here = target_deg
    for tick in range(1, ticks + 1):
        share = tick / ticks
        speeds = [before + share * (after - before) for before, after in zip(speed_deg_s, end_deg_s, strict=True)]
        here = [angle + speed * period_s for angle, speed in zip(here, speeds, strict=True)]
        way.append((here, speeds))
    return step_deg, way


def lead_target(
    target_deg: Sequence[float], speed_deg_s: Sequence[float], limits: JointLimits, period_s: float, ticks: int
) -> list[float]:
    """The target of the step, `ticks` periods long, that interpolated targets at `target_deg` have come from."""
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
    """The next target on a way that moves on: now at `desired_deg`, with `desired_speed_deg_s`; and its speed.

    As `limit_target`, which would stop at each desired angle and so stay behind a moving one, with the way's own speed
    added. A way that keeps the limits itself is followed exactly. Raises ValueError for a non-finite angle or speed.
    """
    targets: list[float] = []
    speeds: list[float] = []
    joints = zip(desired_deg, desired_speed_deg_s, target_deg, speed_deg_s, limits.by_joint, strict=True)
    for desired, desired_speed, target, speed, (low, high, max_speed, max_acceleration) in joints:
        if not (isfinite(desired) and isfinite(desired_speed)):
            raise ValueError(f"expected finite target angles in degrees, got {[float(d) for d in desired_deg]}")
        change = max_acceleration * period_s
        # No faster than it can still stop before the ends of its range, which takes precedence over the path.
        fastest_up = stopping_speed(max(0.0, high - target), change, max_acceleration)
        fastest_down = stopping_speed(max(0.0, target - low), change, max_acceleration)
        straight = (desired - target) / period_s
        if (
            low <= desired <= high
            and -fastest_down - ROUNDING <= straight <= fastest_up + ROUNDING
            and abs(straight) <= max_speed * (1.0 + ROUNDING)
            and abs(straight - speed) <= change * (1.0 + ROUNDING)
            and abs(straight - desired_speed) <= change
        ):
            # The limits let it be on the path. Otherwise a path at the very limit of acceleration would leave no room
            # to correct rounding errors.
            targets.append(desired)
            speeds.append(straight)
            continue
        # The path's own speed, and as much more as can be taken back before it has caught up.
        gap = desired - (target + desired_speed * period_s)
        catching_up = stopping_speed(abs(gap), change, max_acceleration)
        wanted = desired_speed + (catching_up if gap > 0.0 else -catching_up)
        wanted = min(max(wanted, -fastest_down), fastest_up)
        following_speed = next_speed(wanted, speed, max_speed, change)
        targets.append(next_target(target, following_speed, period_s, low, high))
        speeds.append(following_speed)
    return targets, speeds
