"""States on which an exported policy is compared, and the environment's own outputs for them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from arm_control.policy_file.contract import (
    GOAL,
    GOAL_VELOCITY,
    INPUTS,
    MEMORY,
    READINGS,
)
from envs.arm import Arm
from envs.control import Control, target_of
from envs.observation import observe_one

FloatArray = NDArray[np.float32]
Inputs = dict[str, FloatArray]

CORNER_COLUMNS = 12  # of which all 2^12 combinations of corners are included


def random_states(arm: Arm, count: int, generator: np.random.Generator, *, moving: bool = False) -> Inputs:
    """`count` random states, then corners of their ranges, as the graph's inputs.

    The first 12 columns (all readings of three joints) have every combination of corners, the others random corners.
    """
    joints = arm.joint_count
    low = np.array(arm.limits.lower_deg)
    high = np.array(arm.limits.upper_deg)
    speed = np.array(arm.limits.max_speed_deg_s)
    # The ranges of the columns; the velocity of a moving goal is up to the arm's reach per second.
    goal = np.full(6 if moving else 3, arm.reach_m)
    lower = np.concatenate([low, -speed, low, -speed, -goal])
    upper = np.concatenate([high, speed, high, speed, goal])

    # Random states. The goals of the first half are reachable, the others anywhere in the cube around the reach.
    random = generator.uniform(lower, upper, (count, len(lower)))
    tips = arm.forward_kinematics(generator.uniform(low, high, (count // 2, joints)))
    random[: count // 2, 4 * joints : 4 * joints + 3] = tips

    # Corners, as 0 for the lower and 1 for the upper bound.
    combined = min(len(lower), CORNER_COLUMNS)
    corners = np.array(np.meshgrid(*([0.0, 1.0] for _ in range(combined)))).reshape(combined, -1).T
    others = generator.integers(0, 2, (len(corners), len(lower) - combined))
    corners = np.concatenate([corners, others], axis=1)

    # Split the columns by input.
    rows = np.concatenate([random, lower + corners * (upper - lower)]).astype(np.float32)
    names = list(INPUTS)
    ends = [joints, 2 * joints, 3 * joints, 4 * joints]
    if moving:
        names.append(GOAL_VELOCITY)
        ends.append(4 * joints + 3)
    columns = np.split(rows, ends, axis=1)
    return {name: np.ascontiguousarray(column) for name, column in zip(names, columns, strict=True)}


def chosen(inputs: Inputs, rows: NDArray[np.int64]) -> Inputs:
    """The selected rows of the graph's inputs."""
    return {name: np.ascontiguousarray(values[rows]) for name, values in inputs.items()}


def environment_observation(arm: Arm, inputs: Inputs) -> tuple[Tensor, ...]:
    """The inputs of a policy in training: observation, tip and goal as the environment computes them, in float64.

    For a recurrent policy, also its state.
    """
    rows = zip(*(inputs[name].astype(np.float64).tolist() for name in READINGS), strict=True)
    goal = np.concatenate([inputs[name] for name in (GOAL, GOAL_VELOCITY) if name in inputs], axis=1)
    seen = [observe_one(arm, *readings, moving=goal.shape[1] > 3) for readings in rows]
    columns = (np.array([row[0] for row in seen]), np.array([row[1] for row in seen]), goal)
    seen_by_policy = (*columns, *([inputs[MEMORY]] if MEMORY in inputs else []))
    return tuple(torch.from_numpy(column.astype(np.float32)) for column in seen_by_policy)


@torch.no_grad()
def environment_path(
    arm: Arm, policy: nn.Module, control: Control, inputs: Inputs
) -> tuple[FloatArray, FloatArray | None]:
    """Targets in degrees computed as in training: the environment's float64 observation, then the PyTorch policy.

    For a recurrent policy, also the next recurrent states.
    """
    action = policy(*environment_observation(arm, inputs))
    remembered = None
    if MEMORY in inputs:
        action, remembered = action
    targets: FloatArray = target_of(action.numpy(), control, inputs["joint_angle_deg"], inputs["previous_target_deg"])
    if control != "absolute":
        targets = np.clip(targets, arm.limits.lower_deg, arm.limits.upper_deg).astype(np.float32)
    return targets, None if remembered is None else remembered.numpy()
