"""Means over seeds with their confidence intervals."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student_t


class Mean(NamedTuple):
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Such as 1.234 (1.105 to 1.363)."""
        return f"{self.mean:.4g} ({self.low:.4g} to {self.high:.4g})"


def mean_interval(values: ArrayLike) -> Mean:
    """The mean of values (n,) with Student's 95 % interval, which holds for few seeds, too.

    Raises ValueError for fewer than two values.
    """
    samples = np.asarray(values, dtype=np.float64)
    count = len(samples)
    if count < 2:
        raise ValueError(f"an interval requires at least two values, got {count}")
    mean = float(samples.mean())
    standard_error = float(samples.std(ddof=1)) / count**0.5
    half_width = float(student_t.ppf(0.975, count - 1)) * standard_error
    return Mean(mean, mean - half_width, mean + half_width)
