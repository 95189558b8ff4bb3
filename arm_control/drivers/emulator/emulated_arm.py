"""An arm built of emulated servos: its calibration, where its servos start, and their dynamics."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arm_control.drivers.dynamixel.calibration import (
    TICKS_PER_DEGREE,
    Calibration,
    JointCalibration,
    clip_to_servo,
    load_calibration,
)
from arm_control.drivers.dynamixel.control_table import MODEL_NUMBER, REGISTERS, SPEED_UNIT_DEG_S, TICKS_PER_TURN
from arm_control.drivers.emulator.servo_dynamics import ServoDynamics
from arm_control.process.console import say
from arm_control.process.printing import counted
from envs.arm import Arm
from envs.imperfections import IDEAL_LAG_S, Imperfections

LEAST_LAG_S = 0.005
DIRECTION = 1


def load_or_make_calibration(path: str, arm: Arm, ids: Sequence[int], *, check_ids: bool) -> Calibration:
    """The calibration in a file; if there is none, that of the arm on the servos `ids`, which is not written yet.

    Raises ValueError for a file of another arm, or of other servos if `check_ids`, and for one that cannot be written.
    """
    if Path(path).exists():
        calibration = load_calibration(path)
        calibration.check_arm(arm)
        found = tuple(joint.servo_id for joint in calibration.joints)
        if check_ids and tuple(ids) != found:
            raise ValueError(f"--ids: the calibration {path} is of servos {list(found)}, got {list(ids)}")
        return calibration
    if not Path(path).parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {Path(path).parent}")
    return make_calibration(arm, ids)


def make_calibration(arm: Arm, ids: Sequence[int]) -> Calibration:
    """The calibration of an arm whose servos are mounted with the middle of their turn at that of the joint's range.

    A servo measures one turn, so the range of a joint may be clipped, which is reported. Raises ValueError for another
    number of servos than joints.
    """
    if len(ids) != len(arm.joint_names):
        raise ValueError(
            f"--calibration: the arm has {counted(len(arm.joint_names), 'joint')}, got {counted(len(ids), 'servo')}"
        )
    fastest_deg_s = REGISTERS["velocity_limit"].initial * SPEED_UNIT_DEG_S
    joints = []
    for id, name, (low, high, speed, acceleration) in zip(ids, arm.joint_names, arm.limits.by_joint, strict=True):
        # tick = zero + angle * ticks_per_degree is half a turn in the middle of the range.
        zero = round(TICKS_PER_TURN / 2.0 - (low + high) / 2.0 * TICKS_PER_DEGREE)
        first, last = clip_to_servo(low, high, zero, DIRECTION)
        if (first, last) != (low, high):
            say(
                f"{name}: its range of {low:g} to {high:g} degrees is clipped to {first:.2f} to {last:.2f}, which is "
                "what a servo can measure"
            )
        joint = JointCalibration(
            name=name,
            servo_id=id,
            model_number=MODEL_NUMBER,
            zero_tick=float(zero),
            direction=DIRECTION,
            ticks_per_degree=TICKS_PER_DEGREE,
            lower_deg=first,
            upper_deg=last,
            max_speed_deg_s=min(speed, fastest_deg_s),
            max_acceleration_deg_s2=acceleration,
        )
        joints.append(joint)
    calibration = Calibration(arm.name, tuple(joints))
    calibration.check()
    return calibration


def start_ticks(arm: Arm, calibration: Calibration) -> tuple[int, ...]:
    """Where the servos stand when the arm is in its default pose."""
    pose_deg = arm.default_pose_deg(calibration.limits)
    return tuple(joint.ticks(angle) for joint, angle in zip(calibration.joints, pose_deg, strict=True))


def draw_dynamics(imperfections: Imperfections, seed: int) -> ServoDynamics:
    """Delay, lag and noise drawn from the ranges of imperfections; a servo has their whole delay before it moves."""
    generator = np.random.default_rng(seed)
    action_delay_s = generator.uniform(*imperfections.action_delay_s)
    observation_delay_s = generator.uniform(*imperfections.observation_delay_s)
    lag_s = generator.uniform(*imperfections.servo_lag_s) or IDEAL_LAG_S
    return ServoDynamics(
        lag_s=max(LEAST_LAG_S, lag_s),
        delay_s=action_delay_s + observation_delay_s,
        noise_deg=generator.uniform(*imperfections.angle_noise_deg),
    )
