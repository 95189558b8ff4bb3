"""The figures of a run's report."""

import json

import pytest
from rig import GOALS, Rig


def test_figures_equal_the_results_of_the_run() -> None:
    """Means, rates and counts are computed from the results, and percentiles are ordered."""
    rig = Rig(seconds=1.0)
    report = rig.run()
    figures = json.loads(json.dumps(report.figures(), allow_nan=False))
    assert figures["mean_error_mm"] == pytest.approx(sum(goal.error_mm for goal in rig.results) / 3)
    assert figures["wanted_rate_hz"] == pytest.approx(30.0)
    assert figures["rate_hz"] > 0
    assert figures["ticks"] == report.ticks == report.timings["tick"].count
    assert figures["goals"][2]["goal_m"] == list(GOALS[2].goal_m)
    for timings in figures["timings_us"].values():
        assert 0.0 <= timings["p50"] <= timings["p99"] <= timings["p99.9"] <= timings["worst"] * (1 + 1e-12)
