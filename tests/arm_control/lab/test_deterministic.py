"""The quadratic bandit: the critic, the four steps and their expectation, and the claim."""

from dataclasses import replace

import numpy as np
import pytest

from arm_control.lab import deterministic
from arm_control.lab.deterministic import (
    ADVANTAGE,
    ARMS,
    DETERMINISTIC,
    EXPERIMENT,
    NATURAL,
    STOCHASTIC,
    Settings,
    fit_critic,
    policy_gradient,
)

SMALL = Settings(dimensions=(3, 50), stds=(0.01, 0.5, 2.0), rates_per_decade=2, sweep_runs=3)


def sample_batches(batches: int, dimension: int, std: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deviations, rewards and the closed form of dJ / dtheta at theta = 0."""
    generator = np.random.default_rng(0)
    curvature = np.linspace(0.1, 1.0, dimension)
    deviation = std * generator.standard_normal((batches, 2 * dimension, dimension))
    reward = -((deviation - 4.0) ** 2 @ curvature)
    return deviation, reward, 8.0 * curvature


def claim_holds() -> bool:
    """Return True if the claim holds at a reduced size."""
    rows = [{**case, **EXPERIMENT.measure(SMALL, case)} for case in EXPERIMENT.cases(SMALL, 5)]
    return EXPERIMENT.judge(SMALL, rows).holds


class TestSteps:
    """The critic and the steps of the four arms."""

    def test_the_critic_is_the_least_squares_fit(self) -> None:
        """Weights and bias of each batch are those of NumPy's solver with a column of ones."""
        features, reward, _ = sample_batches(3, 4, 0.5)
        weights, bias = fit_critic(features, reward)
        for batch in range(3):
            columns = np.column_stack([features[batch], np.ones(8)])
            expected = np.linalg.lstsq(columns, reward[batch])[0]
            assert [*weights[batch], bias[batch]] == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("arm", ARMS)
    def test_the_expected_step_is_the_gradient(self, arm: str) -> None:
        """The mean over 10,000 batches lies within five standard errors of -2 C (theta - a*)."""
        deviation, reward, gradient = sample_batches(10_000, 4, 0.5)
        step = policy_gradient(arm, deviation, reward, 0.5)
        standard_error = step.std(axis=0) / len(step) ** 0.5
        assert (np.abs(step.mean(axis=0) - gradient) < 5 * standard_error).all()

    def test_the_natural_step_is_the_deterministic_one(self) -> None:
        """The same in each batch but for rounding; the weights of the critics differ by sigma^2."""
        deviation, reward, _ = sample_batches(100, 10, 0.01)
        natural = policy_gradient(NATURAL, deviation, reward, 0.01)
        exact = policy_gradient(DETERMINISTIC, deviation, reward, 0.01)
        assert natural == pytest.approx(exact, rel=1e-8)
        score_weights, _ = fit_critic(deviation / 0.01**2, reward)
        assert score_weights == pytest.approx(0.01**2 * exact, rel=1e-8)

    def test_a_fitted_critic_in_place_of_the_reward_is_no_baseline(self) -> None:
        """The residuals are orthogonal to the features: the step with Q(a) is the step with r(a)."""
        deviation, reward, _ = sample_batches(100, 10, 1.0)
        weights, bias = fit_critic(deviation, reward)
        fitted = (deviation * weights[:, None]).sum(-1) + bias[:, None]
        expected = policy_gradient(STOCHASTIC, deviation, reward, 1.0)
        assert policy_gradient(STOCHASTIC, deviation, fitted, 1.0) == pytest.approx(expected, rel=1e-8)


class TestClaim:
    """The claim at a reduced size, and with mistakes."""

    @pytest.mark.slow
    def test_holds(self) -> None:
        """The deterministic lead grows and is of several orders of magnitude."""
        assert claim_holds()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "mistake",
        [
            # The wrong sign, of the arm that should lead.
            lambda arm, true_step, std: -true_step(arm) if arm == DETERMINISTIC else true_step(arm),
            # A missing factor of the natural step.
            lambda arm, true_step, std: true_step(arm) * std**2 if arm == NATURAL else true_step(arm),
            # A baseline in the arm that should have none.
            lambda arm, true_step, std: true_step(ADVANTAGE if arm == STOCHASTIC else arm),
        ],
        ids=["sign", "factor", "baseline"],
    )
    def test_fails_with_a_mistake(self, mistake, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wrong sign, a missing factor, or a stochastic arm that has a baseline."""

        def mistaken(arm: str, deviation: np.ndarray, reward: np.ndarray, std: float) -> np.ndarray:
            return mistake(arm, lambda name: policy_gradient(name, deviation, reward, std), std)

        monkeypatch.setattr(deterministic, "policy_gradient", mistaken)
        assert not claim_holds()

    @pytest.mark.parametrize("wrong", [{"dimensions": (3,)}, {"samples": 99}])
    def test_settings_that_cannot_be_judged_are_an_error(self, wrong: dict) -> None:
        """One dimension, and fewer samples than a batch."""
        with pytest.raises(ValueError, match=f"--{next(iter(wrong))}"):
            EXPERIMENT.cases(replace(SMALL, **wrong), 5)
