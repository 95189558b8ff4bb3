"""Parts of the control loop's benches: an arm in memory, and percentiles."""

import numpy as np
import pytest

from arm_control.bench._setup import MemoryDriver, percentiles_us
from envs.arm import Arm


class TestMemoryDriver:
    """The arm in memory."""

    def test_its_readings_are_the_last_target(self) -> None:
        """Speeds are changes over the period of 2 ms; health values are present."""
        arm = Arm()
        driver = MemoryDriver(arm, lambda: 7.0, 0.002)
        driver.write([1.0, 2.0, 3.0])
        driver.write([1.1, 2.0, 2.9])
        state = driver.read()
        assert (state.stamp_s, state.angles_deg) == (7.0, [1.1, 2.0, 2.9])
        assert state.speeds_deg_s == pytest.approx([50.0, 0.0, -50.0])
        assert None not in (state.temperatures_c, state.loads, state.voltages_v)


class TestPercentiles:
    """Percentiles over rounds."""

    def test_percentiles_are_medians_over_rounds(self) -> None:
        """One disturbed round of three does not change p50 and p99, but p99 of all and the worst."""
        quiet, disturbed = np.linspace(1e-6, 2e-6, 101), np.linspace(1e-3, 2e-3, 101)
        figures = percentiles_us(np.array([*quiet, *disturbed, *quiet]), 3)
        assert figures["p50"] == pytest.approx(1.5)
        assert figures["p99"] == pytest.approx(1.99)
        assert figures["p99_of_all"] > 1900.0
        assert figures["worst"] == pytest.approx(2000.0)
