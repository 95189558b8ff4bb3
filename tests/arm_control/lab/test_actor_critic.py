"""One-step actor-critic on the chain: the gradient, the targets, online learning, and the claim."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from arm_control.lab import actor_critic
from arm_control.lab.actor_critic import (
    DISCOUNT,
    EXPERIMENT,
    MONTE_CARLO,
    ONE_STEP,
    Learner,
    Settings,
    exact_gradient,
    expected_update,
    learn_from_returns,
    learn_online,
    performance,
)

SMALL = Settings(steps=1_000, target_episodes=500)
THETA = np.array([0.5, -1.0, 0.2, 0.0, 1.0])


def claim_holds() -> bool:
    """Return True if the claim holds at a reduced size."""
    rows = [{**case, **EXPERIMENT.measure(SMALL, case)} for case in EXPERIMENT.cases(SMALL, 4)]
    return EXPERIMENT.judge(SMALL, rows).holds


class TestUpdates:
    """The exact gradient and the expected update."""

    def test_the_gradient_is_that_of_finite_differences(self) -> None:
        """dJ / dtheta by central differences of J."""
        steps = 1e-5 * np.eye(len(THETA))
        differences = [(performance(THETA + step) - performance(THETA - step)) / 2e-5 for step in steps]
        assert exact_gradient(THETA, DISCOUNT) == pytest.approx(differences, rel=1e-6)

    def test_the_factor_makes_the_expected_update_the_gradient(self) -> None:
        """With I to 1e-10, and without not even in proportion."""
        exact = exact_gradient(THETA, DISCOUNT)
        assert expected_update(THETA, DISCOUNT, True) == pytest.approx(exact, rel=1e-10)
        without = expected_update(THETA, DISCOUNT, False)
        assert without @ exact / np.linalg.norm(without) / np.linalg.norm(exact) < 0.99

    def test_without_discount_the_factor_makes_no_difference(self) -> None:
        """At gamma = 1 both are the gradient."""
        exact = exact_gradient(THETA, 1.0)
        assert expected_update(THETA, 1.0, True) == pytest.approx(exact, rel=1e-10)
        assert expected_update(THETA, 1.0, False) == pytest.approx(exact, rel=1e-10)


class TestLearning:
    """The tables that learn."""

    def test_one_update_by_hand(self) -> None:
        """Step sizes 0.5, theta = -1, V = 0, target -1 at t = 2, right: delta = -1, score = 1 - 0.2689, I = 0.81."""
        learner = Learner(replace(SMALL, learning_rate=0.5, value_learning_rate=0.5))
        learner.learn(2, 3, 1, -1.0)
        assert learner.value[3] == -0.5
        assert learner.theta[3] == pytest.approx(-1.0 - 0.5 * 0.81 * 0.7310586)
        assert (learner.theta[:3] == -1.0).all()

    def test_returns_of_an_episode_by_hand(self) -> None:
        """Two steps return -1.9 and -1, of which the critic takes 0.2."""
        learner = Learner(SMALL)
        learn_from_returns(learner, [(3, 1), (4, 1)])
        assert learner.value[3:5] == pytest.approx([-0.38, -0.2])

    def test_monte_carlo_waits_for_the_end_of_the_episode(self) -> None:
        """Until then its policy is that of the start, while one-step moves at once."""
        curve, end = learn_online(SMALL, MONTE_CARLO, 0)
        assert (curve[:end] == curve[0]).all()
        assert curve[end] != curve[0]
        assert learn_online(SMALL, ONE_STEP, 0)[0][1] != curve[0]


class TestClaim:
    """The claim at a reduced size, and with mistakes."""

    def test_holds(self) -> None:
        """One-step learns online, and I makes its update the gradient."""
        assert claim_holds()

    @pytest.mark.parametrize(
        ("name", "mistake"),
        [
            ("expected_update", lambda original: lambda theta, discount, factor: -original(theta, discount, factor)),
            ("expected_update", lambda original: lambda theta, discount, factor: original(theta, discount, False)),
            ("expected_update", lambda original: lambda theta, discount, factor: original(theta, discount, True)),
        ],
        ids=["sign", "no factor", "always the factor"],
    )
    def test_fails_with_a_mistake(
        self, name: str, mistake: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A wrong sign, and the factor left out or never left out."""
        monkeypatch.setattr(actor_critic, name, mistake(getattr(actor_critic, name)))
        assert not claim_holds()

    def test_fails_if_nothing_is_learned_during_an_episode(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Updates that change nothing raise the return by exactly 0."""
        monkeypatch.setattr(Learner, "learn", lambda *given: None)
        assert not claim_holds()

    def test_fails_with_the_wrong_sign_of_the_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A negative step size lowers the return within the first episode."""
        monkeypatch.setattr(f"{__name__}.SMALL", replace(SMALL, learning_rate=-0.2))
        assert not claim_holds()
