"""Braking: slowing all joints down as fast as their acceleration limits allow, and where that leads.

One step of braking changes each joint's speed v by a dt towards zero, a its acceleration limit:

    v_k = sign(v_0) max(0, |v_0| - k a dt),    q_k = q_{k-1} + v_k dt

so that after k steps, while the joint still moves,

    q_k = q_0 + k (v_0 - sign(v_0) (k + 1) a dt / 2) dt
"""

import math
from collections.abc import Callable, Sequence

from envs.arm import RADIANS
from envs.limits import JointLimits, next_speed, next_target

# A bound on the work of one check: a segment is halved so often, until every piece is surely inside or outside.
HALVINGS = 6

Pose = Sequence[float]
OutsideM = Callable[[Pose], float]


def brake_target(
    target_deg: Pose, speed_deg_s: Pose, limits: JointLimits, period_s: float
) -> tuple[list[float], list[float]]:
    """The next target and its speed, slowing down as fast as allowed."""
    targets: list[float] = []
    speeds: list[float] = []
    for target, speed, (low, high, _, acceleration) in zip(target_deg, speed_deg_s, limits.by_joint, strict=True):
        following_speed = next_speed(0.0, speed, math.inf, acceleration * period_s)
        targets.append(next_target(target, following_speed, period_s, low, high))
        speeds.append(following_speed)
    return targets, speeds


class BrakingPath:
    """The poses that braking from a target on leads through, in closed form."""

    def __init__(self, target_deg: Pose, speed_deg_s: Pose, limits: JointLimits, period_s: float) -> None:
        self.steps = 0
        """After so many steps every joint is at rest."""
        self._start_deg = target_deg
        self._joints: list[tuple[float, float, float, int]] = []
        for angle, speed, acceleration in zip(target_deg, speed_deg_s, limits.max_acceleration_deg_s2, strict=True):
            change = acceleration * period_s
            stop = int(abs(speed) / change)
            if stop > self.steps:
                self.steps = stop
            self._joints.append((angle, speed * period_s, math.copysign(0.5 * change * period_s, speed), stop))

    def pose(self, step: int) -> list[float]:
        """The pose after so many steps of braking."""
        angles = []
        for angle, first_deg, less_deg, stop in self._joints:
            done = step if step < stop else stop
            # q_k = q_0 + k (v_0 - sign(v_0) (k + 1) a dt / 2) dt
            angles.append(angle + (first_deg - less_deg * (done + 1)) * done)
        return angles

    def outside_m(self, levers_m: Sequence[float], outside_m: OutsideM) -> float:
        """How far outside the workspace a link gets, at worst, on this path; `outside_m` says it of one pose.

        A link's end moves no further than its joints' turns times their levers. Where that is not enough to know, the
        path is halved.
        """
        start_m = outside_m(self._start_deg)
        if self.steps == 0:
            return start_m
        search = _Search(self, levers_m, outside_m)
        return search.worst_m(0, self._start_deg, start_m, self.steps, self.pose(self.steps), None, HALVINGS)

    def worst_pose(self, outside_m: OutsideM) -> list[float]:
        """The pose on this path that is farthest outside."""
        return max(map(self.pose, range(self.steps + 1)), key=outside_m)


class _Search:
    """Bisection of a braking path for the pose that is farthest outside."""

    def __init__(self, path: BrakingPath, levers_m: Sequence[float], outside_m: OutsideM) -> None:
        self._path = path
        self._levers_m = levers_m
        self._outside_m = outside_m

    def worst_m(
        self,
        start: int,
        start_deg: Pose,
        start_m: float,
        end: int,
        end_deg: Pose,
        end_m: float | None,
        halvings: int,
    ) -> float:
        """How far outside it gets between two steps, or a bound above that if it is not halved any more."""
        # No link end moves further than the sum over joints of |turn| x lever.
        span_m = 0.0
        for here, there, lever_m in zip(start_deg, end_deg, self._levers_m, strict=True):
            span_m += abs(there - here) * lever_m
        span_m *= RADIANS
        if start_m + span_m <= 0.0:
            return start_m
        if end_m is None:
            end_m = self._outside_m(end_deg)
        # What lies between is nearer than the span to both ends, taken together.
        bound_m = 0.5 * (start_m + end_m + span_m)
        if bound_m <= 0.0 or end - start == 1:
            return max(start_m, end_m)
        if halvings == 0:
            return bound_m
        middle = (start + end) // 2
        middle_deg = self._path.pose(middle)
        middle_m = self._outside_m(middle_deg)
        return max(
            self.worst_m(start, start_deg, start_m, middle, middle_deg, middle_m, halvings - 1),
            self.worst_m(middle, middle_deg, middle_m, end, end_deg, end_m, halvings - 1),
        )
