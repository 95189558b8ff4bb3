"""The score function: closed forms against quadrature and the agents' Gaussian, and the claim, broken on purpose."""

import numpy as np
import pytest
import torch

from arm_control.lab import score_function
from arm_control.lab.score_function import (
    EXPERIMENT,
    MEAN,
    Settings,
    check_derivation,
    density,
    exact_variance,
    line_errors,
    reward,
    sample_gradients,
    score_of_mean,
    score_of_std,
)
from policies.common.distributions import Gaussian

SMALL = Settings(samples=2**16, variance_samples=20_000)
Array = np.ndarray


def holds() -> bool:
    """Return True if the claim holds with four seeds at a reduced size."""
    rows = [{**case, **EXPERIMENT.measure(SMALL, case)} for case in EXPERIMENT.cases(SMALL, 4)]
    return EXPERIMENT.judge(SMALL, rows).holds


class TestClosedForms:
    """Closed forms that the sampled estimates are compared with."""

    @pytest.mark.parametrize("std", [0.05, 0.5, 3.0])
    def test_mean_and_variance_of_the_estimate_agree_with_quadrature(self, std: float) -> None:
        """Gauss-Hermite quadrature with 20 nodes is exact for E[g] and E[g^2], polynomials of degree 3 and 6."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(20)
        weights = weights / np.sqrt(2.0 * np.pi)
        action = MEAN + std * nodes
        g = reward(action) * score_of_mean(action, MEAN, std)
        assert weights @ g == pytest.approx(4.0)
        assert weights @ g**2 - 16.0 == pytest.approx(exact_variance(std))

    def test_the_scores_are_those_of_the_agents_gaussian(self) -> None:
        """Automatic differentiation of the log-density that the project's agents use."""
        action = np.array([-1.0, 0.3, 2.5])
        mean = torch.full((3, 1), 0.7, dtype=torch.float64, requires_grad=True)
        std = torch.full((3, 1), 0.4, dtype=torch.float64, requires_grad=True)
        log_density = Gaussian(mean, std).log_prob(torch.from_numpy(action)[:, None])
        assert np.exp(log_density.detach().numpy()) == pytest.approx(density(action, 0.7, 0.4))
        for_mean, for_std = torch.autograd.grad(log_density.sum(), (mean, std))
        assert score_of_mean(action, 0.7, 0.4) == pytest.approx(for_mean[:, 0].numpy())
        assert score_of_std(action, 0.7, 0.4) == pytest.approx(for_std[:, 0].numpy())


class TestDerivation:
    """Each line by numerical integration."""

    def test_each_line_has_its_closed_form(self) -> None:
        """By hand with mu = 0, a* = 2, sigma = 0.5: dJ / dmu = 4 and dJ / dsigma = -1."""
        for_mean = check_derivation(0.0, 0.5, "mean", score_of_mean)
        for_std = check_derivation(0.0, 0.5, "std", score_of_std)
        assert for_mean["lines"] == pytest.approx([4.0, 4.0, 4.0, 0.0], abs=1e-6)
        assert for_std["lines"] == pytest.approx([-1.0, -1.0, -1.0, 0.0], abs=1e-6)
        assert max(line_errors(Settings(), {"mean": for_mean, "std": for_std})) < 1e-6

    def test_a_wrong_score_breaks_the_identity_and_the_zero_mean(self) -> None:
        """Without the -1, the score of sigma has a mean of 1 / sigma."""
        wrong = check_derivation(0.0, 0.5, "std", lambda action, mean, std: ((action - mean) / std) ** 2 / std)
        assert wrong["identity_error"] > 0.1
        assert wrong["lines"][3] == pytest.approx(2.0)


class TestClaim:
    """The claim at a reduced size, and what must break it."""

    def test_the_claim_holds(self) -> None:
        """Four seeds of 65,536 samples."""
        assert holds()

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda action, mean, std: -(action - mean) / std**2,
            lambda action, mean, std: (action - mean) / std,
            lambda action, mean, std: (action - mean) / std**2 + 0.1,
        ],
        ids=["wrong sign", "missing factor 1 / sigma", "mean not zero"],
    )
    def test_the_claim_fails_with_a_wrong_score(self, wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each of these is another function than the derivative of the log-density."""
        monkeypatch.setattr(score_function, "score_of_mean", wrong)
        assert not holds()

    def test_sampling_alone_detects_a_biased_estimate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a correct derivation, but each sampled gradient too small by a tenth."""
        monkeypatch.setattr(
            score_function,
            "sample_gradients",
            lambda std, count, generator: 0.9 * sample_gradients(std, count, generator),
        )
        assert not holds()
