"""Actions of an environment: their space, and the target angles that they mean."""

from typing import Any

import numpy as np
from gymnasium import spaces

from envs.control import ActionKind, Control, target_of
from envs.degree_grid import DegreeGrid
from envs.limits import JointLimits

ROUNDING_DEG = 1e-3  # by which an action may lie outside its space: rounding to float32


class Actions:
    """Actions of one kind for joints with these limits. `space` is their space, `grid` is None for actions in degrees.

    Raises ValueError for a kind of control that does not go with the kind of actions, or a grid step that does not
    divide the joint ranges.
    """

    def __init__(
        self, limits: JointLimits, kind: ActionKind, control: Control, *, grid_step_deg: float, period_s: float
    ) -> None:
        if kind != "degrees" and control != "absolute":
            raise ValueError(f"expected control 'absolute' with actions on the degree grid, got '{control}'")
        self._kind = kind
        self._control = control
        self._shape = (len(limits.lower_deg),)
        self.grid = DegreeGrid(limits.lower_deg, limits.upper_deg, grid_step_deg) if kind != "degrees" else None
        # Absolute actions reach from limit to limit; a change is at most what a joint can move in a control period.
        low = limits.lower_deg
        high = limits.upper_deg
        if control != "absolute":
            high = tuple(speed * period_s for speed in limits.max_speed_deg_s)
            low = tuple(-step for step in high)
        self._low = np.array(low, np.float32)
        self._high = np.array(high, np.float32)
        self._bounds = [(a - ROUNDING_DEG, b + ROUNDING_DEG) for a, b in zip(low, high, strict=True)]
        self.space = self._make_space()

    def _make_space(self) -> spaces.Space[Any]:
        if self.grid is None:
            return spaces.Box(self._low, self._high)
        if self._kind == "index":
            return spaces.Discrete(self.grid.size)
        return spaces.MultiDiscrete(list(self.grid.shape))

    def target_deg(self, action: Any, measured_deg: list[float], previous_target_deg: list[float]) -> list[float]:
        """The target angles (joints,) that an action means, before they are limited.

        Raises ValueError for an action of another shape or type, non-finite, or outside the space.
        """
        if self.grid is not None:
            # An index or positions on the grid.
            if self._kind == "index" and np.ndim(action) != 0:
                raise ValueError(f"expected one grid index, got {action!r}")
            positions = self.grid.positions(action) if self._kind == "index" else action
            on_grid: list[float] = self.grid.degrees(positions).tolist()
            return on_grid
        array = np.asarray(action)
        if array.shape != self._shape or array.dtype.kind not in "fiu":
            raise ValueError(f"expected an action of {self._accepted()}, got {action!r}")
        angles: list[float] = array.tolist()
        for angle, (low, high) in zip(angles, self._bounds, strict=True):
            if not low <= angle <= high:  # NaN compares as false
                raise ValueError(f"expected an action of {self._accepted()}, got {angles}")
        if self._control == "absolute":
            return angles
        changed: list[float] = target_of(np.array(angles), self._control, measured_deg, previous_target_deg).tolist()
        return changed

    def _accepted(self) -> str:
        what = "target angles" if self._control == "absolute" else "changes of the target angles"
        return f"{self._shape[0]} numbers, {what} from {self._low.tolist()} to {self._high.tolist()} degrees"
