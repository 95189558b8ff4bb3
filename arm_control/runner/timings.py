"""How long something took, tick after tick, in memory that does not grow."""

import math
from typing import Any

PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
STEPS = 32  # buckets for each doubling of the time: percentiles are right to 2 %
SMALLEST_S = 1e-8
BUCKETS = 40 * STEPS


class Timings:
    """A histogram of times in seconds, its buckets growing by the same factor."""

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self._smallest = 1.0 / SMALLEST_S
        self.count = 0
        self.worst_s = 0.0

    def add(self, time_s: float) -> None:
        """Count one time; a negative one counts as none."""
        scaled = time_s * self._smallest
        place = int(STEPS * math.log2(scaled)) if scaled > 1.0 else 0
        self._counts[place if place < BUCKETS else -1] += 1
        self.count += 1
        if time_s > self.worst_s:
            self.worst_s = time_s

    def percentile_s(self, fraction: float) -> float:
        """The time that this fraction of all did not exceed, to the bucket's upper edge. 0 if there was none."""
        left = fraction * self.count
        for place, count in enumerate(self._counts):
            left -= count
            if left <= 0:
                return min(self.worst_s, SMALLEST_S * 2.0 ** ((place + 1) / STEPS)) if self.count else 0.0
        return self.worst_s

    def figures_us(self) -> dict[str, Any]:
        """Percentiles and the worst, in microseconds."""
        times = {name: 1e6 * self.percentile_s(fraction) for name, fraction in PERCENTILES.items()}
        return {**times, "worst": 1e6 * self.worst_s}
