"""Interquartile means, bootstrap intervals and their coverage, and numbers with three digits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from arm_control.evaluation.statistics import bootstrap_interval, interquartile_mean, three_digits

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20)


class TestInterquartileMean:
    """The mean of the middle half of the values."""

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([7], 7),
            ([1, 5], 3),
            ([1, 2, 9], (0.25 * 1 + 2 + 0.25 * 9) / 1.5),  # three: the outer ones count a quarter each
            ([100, 2, 4, -50], 3),  # four: the middle two
            ([0, 1, 2, 3, 100], (0.75 * 1 + 2 + 0.75 * 3) / 2.5),
        ],
    )
    def test_small_samples(self, values: list[float], expected: float) -> None:
        """One to five values, with fractional weights worked out by hand."""
        assert interquartile_mean(values) == pytest.approx(expected, rel=1e-14)

    @given(st.integers(1, 6).flatmap(lambda n: st.lists(st.floats(-1e3, 1e3), min_size=4 * n, max_size=4 * n)))
    def test_of_a_multiple_of_four_it_is_scipys_trimmed_mean(self, values: list[float]) -> None:
        """For 4 n values it equals `scipy.stats.trim_mean` at a quarter."""
        assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-9)

    @given(VALUES, st.floats(-10, 10), st.randoms())
    def test_it_is_equivariant_under_shifts_and_independent_of_order(
        self, values: list[float], shift: float, random: object
    ) -> None:
        """It lies between the extremes, moves with a shift, and ignores the order."""
        mean = interquartile_mean(values)
        assert min(values) - 1e-9 <= mean <= max(values) + 1e-9
        assert interquartile_mean(values[::-1]) == pytest.approx(mean, abs=1e-9)
        assert interquartile_mean(np.array(values) + shift) == pytest.approx(mean + shift, abs=1e-9)

    def test_it_is_taken_along_the_last_axis(self) -> None:
        """Rows of a matrix give one mean each, by hand."""
        assert interquartile_mean([[1, 2, 3, 4], [4, 0, 8, 4]]).tolist() == [2.5, 4]


class TestBootstrapInterval:
    """Percentile intervals of resampled runs."""

    def test_an_interval_of_equal_values_is_that_value(self) -> None:
        """Without variation the interval has no width."""
        assert bootstrap_interval(interquartile_mean, [2.5, 2.5, 2.5]) == (2.5, 2.5)

    def test_the_interval_of_a_mean_is_that_of_the_binomial_distribution(self) -> None:
        """For ten zeros and ten ones the ends are the binomial quantiles at 2.5 % and 97.5 %."""
        # The mean of 20 draws from ten zeros and ten ones is a binomial share: its quantiles are known.
        low, high = bootstrap_interval(lambda runs: runs.mean(axis=-1), [0.0] * 10 + [1.0] * 10)
        expected = stats.binom(20, 0.5).ppf([0.025, 0.975]) / 20
        assert (low, high) == pytest.approx(expected, abs=1e-12)

    def test_each_group_is_resampled_independently(self) -> None:
        """Runs are neither paired between groups nor exchanged."""
        # Of paired resamples, the difference would always be 10.
        low, high = bootstrap_interval(
            lambda ours, theirs: (theirs - ours).mean(axis=-1), [0, 1, 2, 3], [10, 11, 12, 13]
        )
        assert low < 9.5
        assert high > 10.5
        # No run of the one ever stands in for a run of the other.
        seen = []

        def keep(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
            seen.append((set(ours.ravel()), set(theirs.ravel()), ours.shape, theirs.shape))
            return ours.mean(axis=-1)

        bootstrap_interval(keep, [1.0, 2.0], [3.0, 4.0, 5.0])
        assert seen == [({1.0, 2.0}, {3.0, 4.0, 5.0}, (10_000, 2), (10_000, 3))]

    def test_an_interval_is_the_same_each_time(self) -> None:
        """The resampling is seeded."""
        values = np.random.default_rng(3).normal(size=5)
        assert bootstrap_interval(interquartile_mean, values) == bootstrap_interval(interquartile_mean, values)

    @pytest.mark.parametrize(("runs", "least"), [(10, 0.88), (30, 0.92)])
    def test_coverage_of_normal_samples(self, runs: int, least: float) -> None:
        """In 300 samples the true mean is covered at the nominal rate, less a known bias for few runs."""
        # Percentile intervals of few runs are known to be narrow: 95 % of 30 normal runs, rather less of ten.
        generator = np.random.default_rng(0)
        held = 0
        for _ in range(300):
            low, high = bootstrap_interval(interquartile_mean, generator.normal(size=runs))
            held += low <= 0.0 <= high
        assert least <= held / 300 <= 0.99

    def test_a_higher_confidence_gives_a_wider_interval(self) -> None:
        """99 % contains 50 % strictly."""
        values = np.random.default_rng(1).normal(size=8)
        narrow = bootstrap_interval(interquartile_mean, values, confidence=0.5)
        wide = bootstrap_interval(interquartile_mean, values, confidence=0.99)
        assert wide[0] < narrow[0] < narrow[1] < wide[1]


class TestThreeDigits:
    """Numbers in tables."""

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            (0.002, "0.00"),
            (1.0249, "1.02"),
            (9.994, "9.99"),
            (9.996, "10.0"),
            (15, "15.0"),
            (99.96, "100"),
            (107.4, "107"),
        ],
    )
    def test_numbers_are_written_with_three_digits(self, value: float, written: str) -> None:
        """Three significant digits, with at most two decimals, also where rounding adds a digit."""
        assert three_digits(value) == written
