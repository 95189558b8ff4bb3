"""Braking: decelerating all joints at their acceleration limits, and the path that this takes.

One step of braking changes the speed v of each joint by a dt towards zero, where a is its acceleration limit and dt the
control period (degrees and seconds):

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
    """One step of braking: the next target in degrees and its speed in degrees/s."""
    targets: list[float] = []
    speeds: list[float] = []
    for target, speed, (low, high, _, acceleration) in zip(target_deg, speed_deg_s, limits.by_joint, strict=True):
        following_speed = next_speed(0.0, speed, math.inf, acceleration * period_s)
        targets.append(next_target(target, following_speed, period_s, low, high))
        speeds.append(following_speed)
    return targets, speeds


class BrakingPath:
    """The poses along the braking path from a target, in closed form."""

    def __init__(
        self, target_deg: Sequence[float], speed_deg_s: Sequence[float], limits: JointLimits, period_s: float
    ) -> None:
        self.steps = 0
        """Number of steps until every joint is at rest."""
        # For each joint: q_0, v_0 dt, sign(v_0) a dt^2 / 2, and the number of steps until it is at rest.
        self._joints: list[tuple[float, float, float, int]] = []
        for angle, speed, acceleration in zip(target_deg, speed_deg_s, limits.max_acceleration_deg_s2, strict=True):
            change = acceleration * period_s
            stop = int(abs(speed) / change)
            if stop > self.steps:
                self.steps = stop
            self._joints.append((angle, speed * period_s, math.copysign(0.5 * change * period_s, speed), stop))

    def pose(self, step: int) -> list[float]:
        """The pose in degrees after a number of braking steps."""
        angles = []
        for angle, first_deg, less_deg, stop in self._joints:
            done = step if step < stop else stop
            # q_k = q_0 + k (v_0 - sign(v_0) (k + 1) a dt / 2) dt
            angles.append(angle + (first_deg - less_deg * (done + 1)) * done)
        return angles
