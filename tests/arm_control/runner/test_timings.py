"""Percentiles of times."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arm_control.runner.timings import PERCENTILES, Timings


class TestTimings:
    """Percentiles from logarithmic bins."""

    @pytest.mark.parametrize("kind", ["lognormal", "uniform", "one", "two"])
    def test_percentiles_equal_numpys_within_3_percent(self, kind: str) -> None:
        """For lognormal and uniform times, and for one and two values."""
        generator = np.random.default_rng(3)
        times = {
            "lognormal": 1e-4 * generator.lognormal(size=20_000),
            "uniform": generator.uniform(1e-6, 1e-2, 20_000),
            "one": np.array([3.7e-4]),
            "two": np.array([1e-5, 1e-3]),
        }[kind]
        timings = Timings()
        for value in times:
            timings.add(float(value))
        figures = timings.figures_us()
        for name, share in PERCENTILES.items():
            expected = 1e6 * np.quantile(times, share, method="inverted_cdf")
            assert expected * (1 - 1e-9) <= figures[name] <= expected * 1.03
        assert figures["worst"] == pytest.approx(1e6 * times.max())
        assert timings.count == len(times)

    @given(st.lists(st.floats(-1.0, 1e6), max_size=50), st.floats(0.0, 1.0))
    def test_percentiles_never_exceed_the_worst(self, times: list[float], share: float) -> None:
        """For any times, also negative ones, and any fraction."""
        timings = Timings()
        for value in times:
            timings.add(value)
        assert 0.0 <= timings.percentile_s(share) <= timings.worst_s == max([0.0, *times])
