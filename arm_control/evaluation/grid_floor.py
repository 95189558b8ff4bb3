"""The discretisation error of the degree grid: the distance from a goal to the best of all whole-degree poses.

A lower bound for controllers that are restricted to the grid, but not for those with continuous angles.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from arm_control.runs.seeding import EVALUATION
from envs.arm import Arm
from envs.degree_grid import DegreeGrid

LARGEST_GRID = 20_000_000  # poses, all of which are held in memory


def grid_floor(goals: int, seed: int, step_deg: float) -> dict[str, Any]:
    """Errors in mm of rounding the exact pose to the grid, and of the best grid pose, over random reachable goals."""
    arm = Arm()
    grid = DegreeGrid(arm.limits.lower_deg, arm.limits.upper_deg, step_deg)
    if grid.size > LARGEST_GRID:
        raise ValueError(f"--step-deg: expected a grid of at most {LARGEST_GRID:,} poses, got {grid.size:,}")
    # Goals are the tips of random poses, so that the exact pose of each is known.
    generator = np.random.default_rng(np.random.SeedSequence((EVALUATION, seed)))
    poses = generator.uniform(arm.limits.lower_deg, arm.limits.upper_deg, (goals, arm.joint_count))
    rounded, best = grid_errors_m(arm, grid, poses)
    return {
        "actions": grid.size,
        "step_deg": step_deg,
        "goals": goals,
        "seed": seed,
        **{f"rounding_{name}_mm": value for name, value in _summary(rounded).items()},
        **{f"best_{name}_mm": value for name, value in _summary(best).items()},
        "ratios": {"best_over_rounding": float(best.mean() / rounded.mean())},
    }


def grid_errors_m(
    arm: Arm, grid: DegreeGrid, poses_deg: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances (goals,) in metres from the tips of these poses to those of the nearest and the best grid pose."""
    goals = arm.forward_kinematics(poses_deg)
    rounded = arm.forward_kinematics(grid.degrees(grid.nearest(poses_deg)))
    # The nearest of the tips of all grid poses, by a k-d tree.
    every_tip = arm.forward_kinematics(grid.degrees(grid.positions(np.arange(grid.size))))
    best, _ = KDTree(every_tip).query(goals)
    return np.linalg.norm(rounded - goals, axis=-1), best


def _summary(errors_m: NDArray[np.float64]) -> dict[str, float]:
    millimetres = 1000 * errors_m
    return {
        "mean": float(millimetres.mean()),
        "p95": float(np.percentile(millimetres, 95)),
        "worst": float(millimetres.max()),
    }
