"""Inverse kinematics: joint angles that put the tip on a goal, by damped least squares.

From angles q with the tip at p, a step toward a goal g is, with the Jacobian J and a damping d (Wampler 1986):

    dq = J^T (J J^T + d^2 I)^-1 (g - p)

The damping is reduced after a step that brings the tip nearer; a step that does not is rejected, and the damping
increased (Levenberg-Marquardt). A joint at a limit is held there while a step would push it beyond.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.kinematics import RADIANS, Kinematics
from envs.limits import JointLimits

Array = NDArray[np.float64]

POSES = 512  # random starting poses over the joint ranges
STARTS = 32  # the nearest of them, which are tried for a goal
NEAR_STEPS = 40  # iterations from each, when all of them are tried for the solution nearest to the present pose


class UnreachableGoalError(ValueError):
    """A goal that no pose inside the joint limits reaches."""


class InverseKinematics:
    """Inverse kinematics of one arm."""

    def __init__(self, name: str, kinematics: Kinematics, limits: JointLimits) -> None:
        self._name = name
        self._kinematics = kinematics
        self._low = np.array(limits.lower_deg)
        self._high = np.array(limits.upper_deg)
        self._max_speed_deg_s = np.array(limits.max_speed_deg_s)
        self._joints = len(limits.lower_deg)

    def solve(self, goals_m: ArrayLike, tolerance_m: float = 1e-6, *, start_deg: ArrayLike | None = None) -> Array:
        """Joint angles (..., joints) in degrees, within the limits, with the tip at `goals_m` (..., 3).

        The first solution found from the nearest poses of a fixed random set. With `start_deg` (..., joints), the one
        that the arm reaches soonest from there, of the solutions found from it and from those poses. Raises
        UnreachableGoalError if no solution is within `tolerance_m`, ValueError for a non-finite goal.
        """
        # The starting poses whose tips are nearest to each goal.
        goals = np.asarray(goals_m, dtype=np.float64)
        if goals.shape[-1:] != (3,) or not np.isfinite(goals).all():
            raise ValueError(f"expected goals (..., 3) of finite numbers in metres, got {goals.tolist()}")
        flat = goals.reshape(-1, 3)
        poses, tips = self._starting_poses
        distance = np.linalg.norm(tips[None] - flat[:, None], axis=-1)
        starts = poses[np.argsort(distance, axis=1)[:, :STARTS]]
        if start_deg is None:
            best_angles = np.zeros((len(flat), self._joints))
            best_error = np.full(len(flat), np.inf)
        else:
            present = np.clip(start_deg, self._low, self._high).reshape(len(flat), -1)
            best_angles, best_error = self._nearest_solutions(flat, present, starts, tolerance_m)
        # Descend from one starting pose after the other, for the goals that have no solution yet.
        for start in np.moveaxis(starts, 1, 0):
            unsolved = best_error > tolerance_m
            if not unsolved.any():
                break
            angles = self.descend(start[unsolved], flat[unsolved], tolerance_m)
            error = np.linalg.norm(self._kinematics.tip(angles) - flat[unsolved], axis=-1)
            better = error < best_error[unsolved]
            rows = np.flatnonzero(unsolved)[better]
            best_angles[rows] = angles[better]
            best_error[rows] = error[better]
        if (best_error > tolerance_m).any():
            worst = int(np.argmax(best_error))
            x, y, z = flat[worst]
            raise UnreachableGoalError(
                f"goal ({x:.4f}, {y:.4f}, {z:.4f}) m is out of reach of {self._name}: the nearest point found is "
                f"{best_error[worst] * 1000:.2f} mm away"
            )
        return best_angles.reshape(*goals.shape[:-1], self._joints)

    def _travel_time_s(self, from_deg: Array, to_deg: Array) -> Array:
        """Time (...,) in seconds in which all joints get from one pose (..., joints) to another at full speed."""
        seconds: Array = (np.abs(to_deg - from_deg) / self._max_speed_deg_s).max(axis=-1)
        return seconds

    def _nearest_solutions(
        self, goals: Array, present_deg: Array, starts: Array, tolerance_m: float
    ) -> tuple[Array, Array]:
        """The solution for each goal that is reached soonest, (n, joints), and its error in metres (n,).

        Where no solution is found, the pose that comes nearest to the goal.
        """
        # Descend from the present pose and from all starts at once.
        candidates = np.concatenate([present_deg[:, None], starts], axis=1)
        count = candidates.shape[1]
        repeated = np.repeat(goals, count, axis=0)
        angles = self.descend(candidates.reshape(-1, self._joints), repeated, tolerance_m, NEAR_STEPS)
        error = np.linalg.norm(self._kinematics.tip(angles) - repeated, axis=-1).reshape(-1, count)
        angles = angles.reshape(-1, count, self._joints)
        # Cost of a solution: the time to reach it. Of any other pose: more than all times, by its error.
        seconds = self._travel_time_s(present_deg[:, None], angles)
        cost = np.where(error <= tolerance_m, seconds, seconds.max() + 1.0 + error)
        rows = np.arange(len(goals))
        best = cost.argmin(axis=1)
        return angles[rows, best], error[rows, best]

    def nearest_reachable(self, point_m: Sequence[float]) -> tuple[float, float, float]:
        """The reachable point nearest to this one, a local optimum from the nearest of 512 random poses."""
        point = np.array([point_m], np.float64)
        poses, tips = self._starting_poses
        start = poses[np.linalg.norm(tips - point, axis=-1).argmin()]
        pose = self.descend(start[None], point, 1e-6, 60)[0].tolist()
        x, y, z = self._kinematics.tip_position(pose, math.cos, math.sin)
        return float(x), float(y), float(z)

    @cached_property
    def _starting_poses(self) -> tuple[Array, Array]:
        """Random poses over the joint ranges, always the same, and their tip positions."""
        poses = np.random.default_rng(0).uniform(self._low, self._high, (POSES, self._joints))
        return poses, self._kinematics.tip(poses)

    def descend(self, angles_deg: Array, goals_m: Array, tolerance_m: float, steps: int = 200) -> Array:
        """Minimise the distance of the tip to goals (n, 3) from these angles (n, joints): a local optimum (n, joints).

        Each row stops on its own, a tenth of the tolerance from its goal, so that its result depends on no other row.
        """
        found = np.array(angles_deg, dtype=np.float64)
        rows = np.arange(len(found))  # those that have not stopped; the arrays below hold only these
        angles = found
        goals = goals_m
        damping = np.full(len(found), 1e-3)
        error = goals - self._kinematics.tip(angles)
        for _ in range(steps):
            # Stop the rows that have reached their goals.
            size = np.linalg.norm(error, axis=-1)
            away = size > 0.1 * tolerance_m
            if not away.all():
                found[rows] = angles
                rows = rows[away]
                angles = angles[away]
                goals = goals[away]
                damping = damping[away]
                error = error[away]
                size = size[away]
                if not len(rows):
                    return found
            # Accept the steps that bring the tip nearer, and adapt the damping.
            candidate = np.clip(angles + self._step_deg(angles, error, damping), self._low, self._high)
            candidate_error = goals - self._kinematics.tip(candidate)
            better = np.linalg.norm(candidate_error, axis=-1) < size
            angles = np.where(better[:, None], candidate, angles)
            error = np.where(better[:, None], candidate_error, error)
            damping = np.clip(np.where(better, damping * 0.3, damping * 4.0), 1e-6, 1.0)
        found[rows] = angles
        return found

    def _step_deg(self, angles_deg: Array, error_m: Array, damping: Array) -> Array:
        """Damped least-squares steps (n, joints) for errors of the tip (n, 3)."""
        # Hold joints at a limit where the gradient points beyond it.
        jacobian = self._kinematics.jacobian(angles_deg) / RADIANS
        downhill = np.einsum("nij,ni->nj", jacobian, error_m)
        blocked = ((angles_deg <= self._low) & (downhill < 0)) | ((angles_deg >= self._high) & (downhill > 0))
        jacobian = np.where(blocked[:, None, :], 0.0, jacobian)
        # dq = J^T (J J^T + d^2 I)^-1 (g - p)
        normal = jacobian @ jacobian.swapaxes(-1, -2) + (damping**2)[:, None, None] * np.eye(3)
        solved = np.linalg.solve(normal, error_m[..., None])[..., 0]
        step_deg: Array = np.einsum("nij,ni->nj", jacobian, solved) / RADIANS
        return step_deg
