"""Samples of older policies: closed forms, and the claim, broken on purpose."""

import numpy as np
import pytest

from arm_control.lab import on_policy
from arm_control.lab.on_policy import (
    EXPERIMENT,
    MEAN,
    Settings,
    exact_moments,
    importance_weight,
    old_mean,
    score,
)

SMALL = Settings(samples=20_000)


def holds() -> bool:
    """Return True if the claim holds with five seeds at a reduced size."""
    rows = [{**case, **EXPERIMENT.measure(SMALL, case)} for case in EXPERIMENT.cases(SMALL, 5)]
    return EXPERIMENT.judge(SMALL, rows).holds


class TestClosedForms:
    """Closed forms that the sampled estimates are compared with."""

    @pytest.mark.parametrize("delta", [0.0, -0.3, 0.5])
    def test_the_mean_of_an_estimate_is_the_derived_one(self, delta: float) -> None:
        """-2 e + delta ((10 - e^2) / sigma^2 - 1) without weights, -2 (mu - a*) = 2 with them."""
        std = 0.5
        e = MEAN + delta
        derived = -2.0 * e + delta * ((10.0 - e**2) / std**2 - 1.0)
        assert exact_moments(MEAN + delta, std, "plain")[0] == pytest.approx(derived)
        assert exact_moments(MEAN + delta, std, "weighted")[0] == pytest.approx(2.0)

    def test_the_moments_agree_with_integrals(self) -> None:
        """Both means and variances, by the trapezoidal rule under the density of the old policy."""
        mean = -1.4
        std = 0.5
        action = np.linspace(mean - 6.0, mean + 6.0, 100_001)
        old_density = np.exp(-0.5 * ((action - mean) / std) ** 2) / (std * np.sqrt(2.0 * np.pi))
        gradient = (10.0 - action**2) * score(action, std)
        for method, weight in (("plain", 1.0), ("weighted", importance_weight(action, mean, std))):
            first = np.trapezoid(old_density * weight * gradient, action)
            second = np.trapezoid(old_density * (weight * gradient) ** 2, action)
            assert exact_moments(mean, std, method) == pytest.approx((first, second - first**2), rel=1e-6)

    def test_old_means_lead_to_the_present_one(self) -> None:
        """Three exact gradient steps, mu <- mu - 2 alpha mu, from the mean of three updates ago."""
        settings = Settings()
        mean = old_mean(settings, 3)
        for _ in range(3):
            mean += settings.learning_rate * -2.0 * mean
        assert mean == pytest.approx(MEAN)


class TestClaim:
    """The claim at a reduced size, and what must break it."""

    def test_the_claim_holds(self) -> None:
        """Five seeds of 20,000 samples at each age."""
        assert holds()

    @pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.9], ids=["inverse", "no weights", "weights too small"])
    def test_the_claim_fails_with_wrong_weights(self, exponent: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """The ratio of densities upside down, no ratio, and a ratio that corrects too little."""
        monkeypatch.setattr(on_policy, "importance_weight", lambda *args: importance_weight(*args) ** exponent)
        assert not holds()

    def test_the_claim_fails_with_the_wrong_sign_of_the_score(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Then the exact moments change along with the sampled ones, but not the gradient."""
        monkeypatch.setattr(on_policy, "score", lambda action, std: -score(action, std))
        assert not holds()
