"""Student's interval, by hand."""

import math

import pytest

from arm_control.lab.common.statistics import mean_interval


class TestMeanInterval:
    """The mean of a few values with its 95 % interval."""

    def test_of_two_values_by_hand(self) -> None:
        """1 and 3: the standard error is 1, and the 97.5 % quantile of t with one degree of freedom is 12.706."""
        assert mean_interval([1.0, 3.0]) == pytest.approx((2.0, 2.0 - 12.7062, 2.0 + 12.7062), abs=1e-4)

    def test_of_five_values_by_hand(self) -> None:
        """1 to 5: the standard error is sqrt(2.5 / 5), and the quantile with four degrees of freedom 2.7764."""
        half_width = 2.7764 * math.sqrt(0.5)
        assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx((3.0, 3.0 - half_width, 3.0 + half_width), abs=1e-4)

    def test_of_equal_values(self) -> None:
        """The interval has no width."""
        assert mean_interval([0.5] * 10) == (0.5, 0.5, 0.5)

    @pytest.mark.parametrize("values", [[], [1.0]])
    def test_requires_two_values(self, values: list[float]) -> None:
        """One value has no spread."""
        with pytest.raises(ValueError, match="at least two values, got"):
            mean_interval(values)

    def test_is_written_in_four_digits(self) -> None:
        """The mean, and the interval in parentheses."""
        assert str(mean_interval([1.0, 3.0])) == "2 (-10.71 to 14.71)"
