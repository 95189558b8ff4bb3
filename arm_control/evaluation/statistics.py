"""Statistics over seeds: interquartile means and bootstrap confidence intervals (Agarwal et al. 2021)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
Interval = tuple[float, float]


def interquartile_mean(values: ArrayLike) -> NDArray[np.float64]:
    """The mean of the middle half along the last axis; of (..., n) values, (...).

    A value that is partly in the middle half counts for that part: of three values, the lowest and highest count a
    quarter each and the middle one once.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    count = ordered.shape[-1]
    edges = np.clip(np.arange(count + 1), 0.25 * count, 0.75 * count)
    middle: NDArray[np.float64] = ordered @ np.diff(edges) / (0.5 * count)
    return middle


def bootstrap_interval(
    statistic: Callable[..., NDArray[np.float64]], *strata: ArrayLike, confidence: float = 0.95
) -> Interval:
    """Percentile bootstrap interval of a statistic of one or several groups of runs, resampled separately.

    `statistic` maps one array (..., n) per group to (...). The generator's seed is fixed. With few runs the interval
    tends to be too narrow, since it cannot contain anything worse than the worst run.
    """
    # Resample each group with replacement; the interval is between percentiles of the statistic.
    generator = np.random.default_rng(0)
    drawn = []
    for group in strata:
        values = np.asarray(group, dtype=np.float64)
        drawn.append(values[generator.integers(len(values), size=(RESAMPLES, len(values)))])
    tail = 50 * (1 - confidence)
    low, high = np.percentile(statistic(*drawn), [tail, 100 - tail])
    return float(low), float(high)


def three_digits(value: float) -> str:
    """A number with three significant digits, such as 1.02, 15.0 or 107."""
    value = float(f"{value:.3g}")  # 9.996 is 10.0
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
