"""The short corridor: its closed form, its simulation, and the learned policy."""

import numpy as np
import pytest

from arm_control.lab.corridor import BEST_P, EXPERIMENT, Settings, expected_return, run_episodes


def test_the_closed_form_has_the_published_values() -> None:
    """Sutton and Barto 2018, example 13.1: -11.6 at the optimum, and -82 and -44 of epsilon-greedy policies."""
    assert expected_return(BEST_P) == pytest.approx(-11.657, abs=1e-3)
    assert expected_return(np.array([0.05, 0.95])) == pytest.approx([-82.1, -44.2], abs=0.05)


def test_simulated_episodes_have_the_expected_return() -> None:
    """The mean of 20,000 simulated episodes lies within four standard errors of J(p)."""
    steps, rights = run_episodes(0.6, 20_000, np.random.default_rng(0))
    standard_error = steps.std() / len(steps) ** 0.5
    assert abs(-steps.mean() - expected_return(0.6)) < 4 * standard_error
    assert rights.sum() / steps.sum() == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize(("rate", "holds"), [(0.01, True), (-0.01, False)])
def test_the_claim_holds_only_with_the_right_sign_of_the_gradient(rate: float, holds: bool) -> None:
    """At a reduced size the learned policy reaches the optimum; descending instead of ascending, it does not."""
    settings = Settings(updates=150, sampled_episodes=500, learning_rate=rate)
    rows = [{**case, **EXPERIMENT.measure(settings, case)} for case in EXPERIMENT.cases(settings, 2)]
    assert EXPERIMENT.judge(settings, rows).holds is holds
