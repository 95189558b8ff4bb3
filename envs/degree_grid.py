"""DegreeGrid: discretised joint angles, for agents with a value function over discrete actions.

With steps of one degree, a three-joint arm from 0 to 90 degrees has 91 x 91 x 91 = 753,571 actions. They are computed
from their indices, not stored.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Integers = NDArray[np.int64]
Degrees = NDArray[np.float64]

LARGEST_SIZE = 2**62


class DegreeGrid:
    """All combinations of each joint's angles from its lower to its upper limit, `step_deg` apart.

    An action is one index, or one position per joint, or the angles themselves. Indices are in the order of
    `itertools.product`: the last joint's position changes fastest. All methods take arrays of any shape.
    """

    def __init__(self, lower_deg: Sequence[float], upper_deg: Sequence[float], step_deg: float = 1.0) -> None:
        """Raises ValueError unless the step divides each joint's range and 64 bits can hold the indices."""
        if not 0 < step_deg < math.inf:
            raise ValueError(f"expected a positive grid step in degrees, got {step_deg}")
        # The number of steps in each joint's range, which must be whole.
        steps = [(high - low) / step_deg for low, high in zip(lower_deg, upper_deg, strict=True)]
        divides = [round(count) >= 1 and math.isclose(count, round(count), abs_tol=1e-6) for count in steps]
        if not all(divides):
            ranges = ", ".join(f"{low:g} to {high:g}" for low, high in zip(lower_deg, upper_deg, strict=True))
            raise ValueError(f"expected a grid step that divides the joint ranges ({ranges} degrees), got {step_deg:g}")
        self.shape = tuple(round(count) + 1 for count in steps)  # number of positions of each joint
        self.size = math.prod(self.shape)
        if self.size > LARGEST_SIZE:
            raise ValueError(f"expected a grid that 64-bit indices can count, got {self.size} actions")
        self.step_deg = step_deg
        self._lower = np.array(lower_deg, dtype=np.float64)
        self._counts = np.array(self.shape, dtype=np.int64)
        # Difference of index between neighbours along each joint: (91 * 91, 91, 1).
        self._strides = np.array([math.prod(self.shape[joint + 1 :]) for joint in range(len(self.shape))], np.int64)

    def positions(self, index: ArrayLike) -> Integers:
        """Positions (..., joints) of indices (...,). Raises ValueError for an index outside the grid."""
        indices = _integers(index)
        if ((indices < 0) | (indices >= self.size)).any():
            raise ValueError(f"expected grid indices from 0 to {self.size - 1}, got {np.asarray(index).tolist()}")
        places: Integers = indices[..., None] // self._strides % self._counts
        return places

    def index(self, positions: ArrayLike) -> Integers:
        """Indices (...,) of positions (..., joints). Raises ValueError for a position outside the grid."""
        indices: Integers = np.asarray((self._checked(positions) * self._strides).sum(axis=-1))
        return indices

    def degrees(self, positions: ArrayLike) -> Degrees:
        """Angles (..., joints) of positions (..., joints). Raises ValueError for a position outside the grid."""
        angles: Degrees = self._lower + self._checked(positions) * self.step_deg
        return angles

    def nearest(self, angles_deg: ArrayLike) -> Integers:
        """Positions (..., joints) nearest to angles (..., joints), at the edge of the grid for angles beyond it."""
        steps = np.rint((np.asarray(angles_deg, dtype=np.float64) - self._lower) / self.step_deg)
        return np.clip(steps, 0, self._counts - 1).astype(np.int64)

    def _checked(self, positions: ArrayLike) -> Integers:
        places = _integers(positions)
        if places.shape[-1:] != self._counts.shape or ((places < 0) | (places >= self._counts)).any():
            highest = [count - 1 for count in self.shape]
            raise ValueError(f"expected {len(self.shape)} grid positions from 0 to {highest}, got {places.tolist()}")
        return places


def _integers(values: ArrayLike) -> Integers:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"expected whole numbers for the grid, got {array.tolist()}")
    return array.astype(np.int64)
