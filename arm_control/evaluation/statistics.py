"""How sure a figure of several seeds is: interquartile means and bootstrap intervals (Agarwal et al. 2021)."""

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
    """The percentile interval of a statistic of one or several groups of runs, each of which is resampled by itself.

    `statistic` maps one array (..., n) a group to (...). The draws are the same each time. Few runs give an interval
    that is too narrow rather than too wide: it knows nothing worse than the worst run.
    """
    generator = np.random.default_rng(0)
    drawn = []
    for group in strata:
        values = np.asarray(group, dtype=np.float64)
        drawn.append(values[generator.integers(len(values), size=(RESAMPLES, len(values)))])
    tail = 50 * (1 - confidence)
    low, high = np.percentile(statistic(*drawn), [tail, 100 - tail])
    return float(low), float(high)


def three_digits(value: float) -> str:
    """A number as tables and figures have it, such as 1.02, 15.0 or 107."""
    value = float(f"{value:.3g}")  # 9.996 is 10.0
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
