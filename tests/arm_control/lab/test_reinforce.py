"""Variance of REINFORCE and a task without episodes: closed forms, the learner, and the claim."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from arm_control.lab import reinforce
from arm_control.lab.reinforce import (
    ACTOR_CRITIC,
    BASELINE,
    BEST_REWARD,
    EXPERIMENT,
    NO_BASELINE,
    REWARD_MEAN,
    REWARD_OF_RIGHT,
    REWARD_STD,
    RING,
    SLOPES,
    Learner,
    Settings,
    average_reward,
    estimate_advantages,
    exact_gradient,
    exact_slope,
    exact_variance,
    learn_on_ring,
    make_steps,
    sample_updates,
)

SMALL = Settings(lengths=(8, 32, 128), updates=1_000, steps=500)


def claim_holds(settings: Settings = SMALL) -> bool:
    """Return True if the claim holds at a reduced size."""
    rows = [{**case, **EXPERIMENT.measure(settings, case)} for case in EXPERIMENT.cases(settings, 4)]
    return EXPERIMENT.judge(settings, rows).holds


def enumerated_variance(method: str, length: int) -> float:
    """The variance of the update over all action sequences and noise of one standard deviation up or down.

    Such noise has the same mean and variance as normal noise, and the variance of the update depends on nothing else.
    """
    signs = np.array(list(product((-1.0, 1.0), repeat=2 * length))).T
    x = signs[:length]
    reward = REWARD_MEAN + REWARD_OF_RIGHT * x + REWARD_STD * signs[length:]
    values = REWARD_MEAN * np.arange(length, -1.0, -1.0)[:, None] * np.ones_like(x[:1])
    ended = np.zeros_like(reward)
    ended[-1] = 1.0
    steps = make_steps(reward, ended, ended)
    value = torch.from_numpy(values[:-1])
    next_value = torch.from_numpy(values[1:])
    advantage = estimate_advantages(method, steps, value, next_value, 1.0).advantage.numpy()
    return float((advantage * x / 2.0).sum(axis=0).var())


class TestVariance:
    """The update of an episode of T steps."""

    @pytest.mark.parametrize("method", SLOPES)
    def test_the_closed_form_is_that_of_all_episodes(self, method: str) -> None:
        """All 4 to 256 outcomes of 1 to 4 steps, with the project's own advantages."""
        for length in (1, 2, 3, 4):
            assert exact_variance(method, length) == pytest.approx(enumerated_variance(method, length), rel=1e-12)

    def test_closed_forms_by_hand(self) -> None:
        """T = 2: 4 Var g = 5 + 0.25 + 3, 0.25 + 3 and 2; the gradient is 1/2."""
        assert exact_variance(NO_BASELINE, 2) == 8.25 / 4
        assert exact_variance(BASELINE, 2) == 3.25 / 4
        assert exact_variance(ACTOR_CRITIC, 2) == 2 / 4
        assert exact_gradient(2) == 0.5

    def test_the_slopes_of_long_episodes(self) -> None:
        """3, 2 and 1 in the limit."""
        settings = Settings(lengths=(10_000, 100_000))
        for method, slope in SLOPES.items():
            assert exact_slope(settings, method) == pytest.approx(slope, abs=1e-3)

    def test_all_methods_have_the_same_mean(self) -> None:
        """The exact gradient of an episode of 20 steps, 5, within 4 standard errors of 4,000 updates."""
        for method, updates in sample_updates(20, 4_000, np.random.default_rng(0)).items():
            standard_error = (exact_variance(method, 20) / 4_000) ** 0.5
            assert abs(updates.mean() - 5.0) < 4.0 * standard_error


class TestRing:
    """The task in which no episode ends."""

    def test_the_average_reward_of_known_policies(self) -> None:
        """0 for any policy that turns back at one state and half the time elsewhere; 0.8 laps in 5 steps at best."""
        assert average_reward(np.zeros(RING)) == pytest.approx(0.0, abs=1e-15)
        assert average_reward(np.full(RING, 50.0)) == pytest.approx(BEST_REWARD)
        assert average_reward(np.full(RING, -50.0)) == pytest.approx(-BEST_REWARD)

    def test_the_average_reward_is_that_of_a_long_run(self) -> None:
        """A policy that differs from state to state, over 40,000 steps side by side."""
        theta = np.array([2.0, -0.5, 1.0, 0.3, 1.5])
        generator = np.random.default_rng(0)
        state = np.zeros(400, np.int64)
        total = 0.0
        for step in range(200):
            goes_right = generator.random(400) < reinforce.go_right(theta[state])
            moves_right = goes_right == (generator.random(400) >= reinforce.SLIP)
            following = (state + np.where(moves_right, 1, -1)) % RING
            if step >= 100:
                total += np.sum(moves_right & (following == 0)) - np.sum(~moves_right & (state == 0))
            state = following
        assert total / 40_000 == pytest.approx(average_reward(theta), abs=0.005)

    def test_one_update_of_the_actor_critic_by_hand(self) -> None:
        """V = 2 ahead and 1 here: delta = 1 + 0.9 * 2 - 1 = 1.8; the score of right is 1/2; step sizes 0.1."""
        learner = Learner(SMALL, ACTOR_CRITIC)
        learner.value[:2] = (1.0, 2.0)
        learner.observe(0, 1, 1.0, 1, False)
        assert learner.theta[0] == pytest.approx(0.1 * 1.8 * 0.5)
        assert learner.value[0] == pytest.approx(1.0 + 0.1 * 1.8)
        assert learner.updates == 1

    def test_reinforce_updates_at_the_end_of_an_episode_by_hand(self) -> None:
        """Two steps, rewards 0 and 1, V = 0: G is 0.9 and 1; left and right have the scores -1/2 and 1/2."""
        learner = Learner(SMALL, BASELINE)
        learner.observe(3, 0, 0.0, 4, False)
        assert learner.updates == 0
        learner.observe(4, 1, 1.0, 0, True)
        assert learner.updates == 1
        assert learner.theta[3:] == pytest.approx([-0.1 * 0.9 * 0.5, 0.1 * 1.0 * 0.5])
        assert learner.value[3:] == pytest.approx([0.09, 0.1])

    def test_reinforce_stands_without_episodes(self) -> None:
        """No update, and the same policy, in contrast to episodes of 50 steps."""
        curve, updates = learn_on_ring(SMALL, BASELINE, None, 0)
        assert updates == 0
        assert (curve == curve[0]).all()
        assert learn_on_ring(SMALL, BASELINE, 50, 0)[1] == SMALL.steps // 50


class TestClaim:
    """The claim at a reduced size, and with mistakes."""

    def test_holds(self) -> None:
        """Slopes as derived, and only REINFORCE stands."""
        assert claim_holds()

    def test_fails_with_the_wrong_sign_of_the_steps(self) -> None:
        """A negative step size lowers the average reward."""
        assert not claim_holds(replace(SMALL, learning_rate=-0.1))

    def test_fails_if_an_episode_of_reinforce_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """REINFORCE then learns, contrary to the claim."""
        monkeypatch.setattr(reinforce, "learn_on_ring", lambda s, method, _, seed: learn_on_ring(s, method, 50, seed))
        assert not claim_holds()

    @pytest.mark.parametrize(
        "mistake",
        [
            lambda original: lambda method, *given: original(ACTOR_CRITIC, *given),
            lambda original: lambda method, *given: original(BASELINE, *given),
            lambda original: lambda method, steps, value, *given: original(method, steps, 0.0 * value, *given),
            lambda original: (
                lambda method, steps, *given: original(method, replace(steps, reward=-steps.reward), *given)
            ),
        ],
        ids=["always TD errors", "always returns", "value left out", "sign of the reward"],
    )
    def test_fails_with_a_mistake_in_the_advantage(
        self, mistake: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One estimator for all methods, an advantage that does not subtract V, and a wrong sign."""
        monkeypatch.setattr(reinforce, "estimate_advantages", mistake(estimate_advantages))
        assert not claim_holds()
