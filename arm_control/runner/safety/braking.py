"""Braking: slowing all joints down as fast as their acceleration limits allow, and where that leads.

One step of braking changes each joint's speed v by a dt towards zero, a its acceleration limit:

    v_k = sign(v_0) max(0, |v_0| - k a dt),    q_k = q_{k-1} + v_k dt

so that after k steps, while the joint still moves,

    q_k = q_0 + k (v_0 - sign(v_0) (k + 1) a dt / 2) dt
"""

import math
from collections.abc import Sequence

from envs.limits import JointLimits, next_speed, next_target


def brake_target(
    target_deg: Sequence[float], speed_deg_s: Sequence[float], limits: JointLimits, period_s: float
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

    def __init__(
        self, target_deg: Sequence[float], speed_deg_s: Sequence[float], limits: JointLimits, period_s: float
    ) -> None:
        self.steps = 0
        """After so many steps every joint is at rest."""
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
