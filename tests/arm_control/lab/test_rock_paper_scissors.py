"""Rock, paper, scissors: exploitability by hand, the gradient by finite differences, and the claim."""

import numpy as np
import pytest

from arm_control.lab import rock_paper_scissors
from arm_control.lab.rock_paper_scissors import (
    EXPERIMENT,
    PAYOFF,
    Settings,
    exploitability,
    natural_gradient,
    softmax,
)

SMALL = Settings(updates=10_000)


def measure_all(settings: Settings) -> list[dict]:
    """The rows of three seeds."""
    return [{**case, **EXPERIMENT.measure(settings, case)} for case in EXPERIMENT.cases(settings, 3)]


def test_exploitability_of_policies_worked_out_by_hand() -> None:
    """Pure: 1. Uniform: 0. Half rock, half paper: scissors wins half the time and loses half, paper wins 1/2."""
    assert [exploitability(pure) for pure in np.eye(3)] == [1.0, 1.0, 1.0]
    assert exploitability(np.full(3, 1 / 3)) == pytest.approx(0.0)
    assert exploitability(np.array([0.5, 0.5, 0.0])) == pytest.approx(0.5)


def test_the_natural_gradient_is_the_gradient_divided_by_the_probabilities() -> None:
    """Finite differences of J = p A q in the logits, divided by p: the Fisher matrix's inverse up to a constant."""
    logits = np.array([0.3, -0.2, 0.5])
    opponent = np.array([0.2, 0.5, 0.3])
    steps = 1e-6 * np.eye(3)
    differences = [
        (softmax(logits + step) @ PAYOFF @ opponent - softmax(logits - step) @ PAYOFF @ opponent) / 2e-6
        for step in steps
    ]
    policy = softmax(logits)
    assert natural_gradient(policy, opponent) == pytest.approx(np.array(differences) / policy, abs=1e-6)


def test_the_claim_holds_at_a_reduced_size() -> None:
    """The average of 10,000 policies is hardly exploited, while the last ones cycle."""
    assert EXPERIMENT.judge(SMALL, measure_all(SMALL)).holds


def test_the_claim_fails_with_the_wrong_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Players who descend their payoff spiral as well, but one whose opponent does not move ends at a pure policy."""
    monkeypatch.setattr(rock_paper_scissors, "natural_gradient", lambda policy, opponent: np.array([1.0, 0.0, 0.0]))
    assert not EXPERIMENT.judge(SMALL, measure_all(SMALL)).holds
