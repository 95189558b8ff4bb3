"""Histograms of durations, in constant memory."""

from math import log2
from typing import Any

PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
STEPS = 32  # buckets per doubling of the time: percentiles are exact to 2 %
SMALLEST_S = 1e-8
BUCKETS = 40 * STEPS


class Timings:
    """A histogram of times in seconds with logarithmic buckets: bucket k begins at SMALLEST_S 2^(k / STEPS)."""

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self._smallest = 1.0 / SMALLEST_S
        self.count = 0
        self.worst_s = 0.0

    def add(self, time_s: float) -> None:
        """Add a time; a negative one counts as 0."""
        scaled = time_s * self._smallest
        # k = STEPS log2(t / SMALLEST_S); the last bucket also holds everything longer.
        bucket = int(STEPS * log2(scaled)) if scaled > 1.0 else 0
        self._counts[bucket if bucket < BUCKETS else -1] += 1
        self.count += 1
        if time_s > self.worst_s:
            self.worst_s = time_s

    def percentile_s(self, fraction: float) -> float:
        """The time that this fraction of all times does not exceed, rounded up to a bucket's end; 0 without any."""
        if not self.count:
            return 0.0
        remaining = fraction * self.count
        for bucket, count in enumerate(self._counts):
            remaining -= count
            if remaining <= 0:
                upper_s: float = SMALLEST_S * 2.0 ** ((bucket + 1) / STEPS)
                return min(self.worst_s, upper_s)
        return self.worst_s

    def figures_us(self) -> dict[str, Any]:
        """Percentiles and the longest time, in microseconds."""
        times = {name: 1e6 * self.percentile_s(fraction) for name, fraction in PERCENTILES.items()}
        return {**times, "worst": 1e6 * self.worst_s}
