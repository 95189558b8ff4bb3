"""The observation of an arm from its raw readings, and the inverse.

The exporter traces `observe` into the policy file, whose inputs are therefore raw readings.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.arm import RADIANS, Arm


def observe(
    arm: Arm,
    angles_deg: Any,
    speeds_deg_s: Any,
    previous_target_deg: Any,
    previous_target_speed_deg_s: Any,
    xp: Any = np,
    *,
    moving: bool = False,
) -> tuple[Any, Any]:
    """`observation` (..., 4 joints) and `achieved_goal` (..., 3 or 6) from the raw readings, each (..., joints).

    observation: angles (rad), speeds (rad/s), previous target (rad) and its speed (rad/s); the last two are the state
    of `envs.limits.limit_target`. achieved_goal: tip position x, y, z (m), and for a `moving` goal its velocity (m/s).
    `xp` is numpy, or torch while the exporter traces.
    """
    readings = xp.concatenate((angles_deg, speeds_deg_s, previous_target_deg, previous_target_speed_deg_s), -1)
    return readings * RADIANS, arm.forward_kinematics(angles_deg, xp, speeds_deg_s if moving else None)


def observe_one(
    arm: Arm,
    angles_deg: Sequence[float],
    speeds_deg_s: Sequence[float],
    previous_target_deg: Sequence[float],
    previous_target_speed_deg_s: Sequence[float],
    *,
    moving: bool = False,
) -> tuple[list[float], tuple[float, ...]]:
    """`observe` for one arm with plain floats: 3 us instead of 12 us of a step, which takes about 56 us.

    Every export compares the two.
    """
    readings = (*angles_deg, *speeds_deg_s, *previous_target_deg, *previous_target_speed_deg_s)
    tip = arm.tip_motion(angles_deg, speeds_deg_s) if moving else arm.tip_position(angles_deg)
    return [reading * RADIANS for reading in readings], tip


def split_observation(observation: Any) -> tuple[Any, Any, Any, Any]:
    """The raw readings of an `observation` (..., 4 joints), each (..., joints), in degrees and degrees/s.

    Measured angles, measured speeds, previous target, and its speed: the inverse of `observe`.
    """
    readings = observation / RADIANS
    joints = observation.shape[-1] // 4
    angles_deg = readings[..., :joints]
    speeds_deg_s = readings[..., joints : 2 * joints]
    previous_target_deg = readings[..., 2 * joints : 3 * joints]
    previous_target_speed_deg_s = readings[..., 3 * joints :]
    return angles_deg, speeds_deg_s, previous_target_deg, previous_target_speed_deg_s
