"""Rest: how still an arm is at its goal, by the sent targets and the joint angles of the last 0.5 s of an episode.

A controller with a small error can still jitter: its targets change at every control step, and the joints with them.
With c(k) = u(k) - u(k - 1), the change of a joint's sent target u from one control step to the next:

    target step    mean of |c(k)| over steps, joints and episodes
    reversals      fraction of the pairs c(k), c(k + 1) with opposite signs, over steps, joints and episodes
    angle range    highest minus lowest angle, of the joint for which that is largest: mean and maximum over episodes

A change of less than 0.001 degrees counts as none in `reversals` (a dead band): float32 targets are rounded by up to
0.000004 degrees at 90 degrees, and the finest servos resolve 0.005.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arm_control.process.printing import counted

REST_WINDOW_S = 0.5
LEAST_STEPS = 2  # in the window: fewer do not have two consecutive changes
DEAD_BAND_DEG = 1e-3  # smaller changes of a target do not count as reversals

# Angles in degrees of each joint of each episode, (episodes, joints), at one control step.
Angles = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Rest:
    """The figures of one or several episodes: angles in degrees, reversals as a fraction."""

    target_step_deg: float
    angle_range_deg: float
    worst_angle_range_deg: float
    reversals: float


def rest_steps(control_period_s: float, episode_steps: int) -> int:
    """Number of control steps in the last 0.5 s of an episode; a shorter episode counts as a whole."""
    return min(round(REST_WINDOW_S / control_period_s), episode_steps)


def rest_fault(steps: int, *, moving: bool) -> str | None:
    """The reason why an episode with `steps` control steps in the window has no figures; None if it has."""
    if moving:
        return "the goal moves"
    if steps < LEAST_STEPS:
        return f"the last {REST_WINDOW_S:g} s have {counted(steps, 'control step')}; expected at least {LEAST_STEPS}"
    return None


def rest_figures(targets_deg: ArrayLike, angles_deg: ArrayLike) -> Rest:
    """The figures of sent targets (episodes, steps + 1, joints) and joint angles (episodes, samples, joints).

    Both begin with the values at the beginning of the window. Raises ValueError for fewer than two steps.
    """
    targets = np.asarray(targets_deg, dtype=np.float64)
    angles = np.asarray(angles_deg, dtype=np.float64)
    if targets.ndim != 3 or targets.shape[1] <= LEAST_STEPS:
        raise ValueError(
            f"targets of shape {targets.shape}; expected (episodes, steps + 1, joints) of at least {LEAST_STEPS} steps"
        )
    # c(k) = u(k) - u(k - 1)
    changes = np.diff(targets, axis=1)
    # A reversal: c(k) c(k + 1) < 0, where a change within the dead band is 0.
    signs = np.where(np.abs(changes) >= DEAD_BAND_DEG, np.sign(changes), 0.0)
    reversed_signs = signs[:, 1:] * signs[:, :-1] < 0.0
    # The peak-to-peak angle of the worst joint of each episode.
    ranges_deg: NDArray[np.float64] = np.ptp(angles, axis=1).max(axis=1)
    return Rest(
        target_step_deg=float(np.abs(changes).mean()),
        angle_range_deg=float(ranges_deg.mean()),
        worst_angle_range_deg=float(ranges_deg.max()),
        reversals=float(reversed_signs.mean()),
    )


def joint_rest(parts: Sequence[Rest]) -> Rest | None:
    """The figures of several episodes of the same length, from those of each; None without episodes."""
    if not parts:
        return None
    return Rest(
        target_step_deg=float(np.mean([part.target_step_deg for part in parts])),
        angle_range_deg=float(np.mean([part.angle_range_deg for part in parts])),
        worst_angle_range_deg=max(part.worst_angle_range_deg for part in parts),
        reversals=float(np.mean([part.reversals for part in parts])),
    )


def format_rest(rest: Rest) -> str:
    """The figures as part of a printed line."""
    return (
        f"target step {rest.target_step_deg:.3f} deg, range of the worst joint {rest.angle_range_deg:.3f} deg "
        f"(largest {rest.worst_angle_range_deg:.3f}), reversals {rest.reversals:.1%}"
    )


class RestWindow:
    """Holds the sent targets and the joint angles of the last 0.5 s of one episode, or of several in parallel."""

    def __init__(self, control_period_s: float, episode_steps: int, *, samples_per_step: float = 1.0) -> None:
        """Angles are added `samples_per_step` times a control step, on average."""
        self.steps = rest_steps(control_period_s, episode_steps)
        self._targets_deg: deque[Angles] = deque(maxlen=self.steps + 1)
        self._angles_deg: deque[Angles] = deque(maxlen=round(self.steps * samples_per_step) + 1)

    def add_targets(self, targets_deg: Angles) -> None:
        """Add the targets (episodes, joints) sent in a control step; first, those before the first step."""
        self._targets_deg.append(targets_deg)

    def add_angles(self, angles_deg: Angles) -> None:
        """Add the present joint angles (episodes, joints)."""
        self._angles_deg.append(angles_deg)

    @property
    def targets_deg(self) -> NDArray[np.float64]:
        """The targets in degrees, (episodes, steps + 1, joints)."""
        return np.array(list(self._targets_deg)).swapaxes(0, 1)

    @property
    def angles_deg(self) -> NDArray[np.float64]:
        """The angles in degrees, (episodes, samples, joints)."""
        return np.array(list(self._angles_deg)).swapaxes(0, 1)
