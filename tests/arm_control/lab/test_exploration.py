"""Throws at a goal: their closed forms, the scores, and the learned standard deviations."""

import numpy as np
import pytest

from arm_control.lab import exploration
from arm_control.lab.common.experiment import Row
from arm_control.lab.exploration import (
    EXPERIMENT,
    FIXED_LARGE,
    FIXED_SMALL,
    HIDDEN,
    LEARNED,
    OF_STATE,
    SEEN,
    Array,
    best_stds,
    expected_throws,
    hit_probability,
    mean_throws,
    policy_gradient,
    run_episodes,
)


class TestClosedForms:
    """Closed forms."""

    def test_probability_of_a_hit_by_hand(self) -> None:
        """With sigma = w at the goal: within one standard deviation, 68.3 %."""
        assert hit_probability(np.array([0.0]), 0.0, 0.25) == pytest.approx([0.6827], abs=1e-4)

    def test_a_precise_policy_hits_a_goal_that_is_seen_at_once(self) -> None:
        """One throw."""
        assert expected_throws(SEEN, 0.0, 1e-3) == pytest.approx(1.0)

    def test_hidden_goals_have_the_limit_of_small_targets(self) -> None:
        """T is close to sqrt(2 pi) sigma exp(1 / (2 sigma^2)) / (2 w), whose minimum is at 1."""
        for std in (0.7, 1.0, 2.0):
            limit = np.sqrt(2.0 * np.pi) * std * np.exp(0.5 / std**2) / (2.0 * exploration.WIDTH)
            assert expected_throws(HIDDEN, 0.0, std) == pytest.approx(limit, rel=0.05)

    def test_best_standard_deviations_are_minima(self) -> None:
        """A change of 1 % in either direction takes more throws, and so does a mean beside 0."""
        for kind in (LEARNED, OF_STATE):
            best = best_stds(kind)
            least = mean_throws(np.zeros(2), best)
            for other in (0.99 * best, 1.01 * best):
                assert mean_throws(np.zeros(2), other) > least
            assert mean_throws(np.array([0.0, 0.1]), best) > least
        assert best_stds(LEARNED) == pytest.approx([0.810, 0.810], abs=1e-3)
        assert best_stds(OF_STATE)[HIDDEN] == pytest.approx(0.989, abs=1e-3)


class TestSampling:
    """Episodes and the gradient from them."""

    def test_simulated_episodes_have_the_expected_number_of_throws(self) -> None:
        """The mean of 20,000 episodes lies within four standard errors of the closed form."""
        generator = np.random.default_rng(0)
        goal = generator.choice([-1.0, 1.0], 20_000)
        throws, _, _ = run_episodes(np.full(20_000, 0.2), np.full(20_000, 0.8), goal, generator)
        standard_error = throws.std() / len(throws) ** 0.5
        assert abs(throws.mean() - expected_throws(HIDDEN, 0.2, 0.8)) < 4.0 * standard_error

    def test_gradient_has_the_direction_of_the_closed_form(self) -> None:
        """That of -T by mu and log sigma of both states, by finite differences; the length is scaled."""
        means = np.array([0.1, 0.2])
        stds = np.array([0.5, 0.7])
        estimate = np.concatenate(policy_gradient(means, stds, 400_000, np.random.default_rng(1)))
        exact = np.zeros(4)
        small = 1e-4
        for at in range(2):
            shift = small * np.eye(2)[at]
            exact[at] = mean_throws(means - shift, stds) - mean_throws(means + shift, stds)
            exact[2 + at] = mean_throws(means, stds * np.exp(-shift)) - mean_throws(means, stds * np.exp(shift))
        cosine = estimate @ exact / (np.linalg.norm(estimate) * np.linalg.norm(exact))
        assert cosine > 0.99


def wrong_sign(means: Array, stds: Array, episodes: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """A gradient that makes sigma descend the return."""
    by_mean, by_log_std = policy_gradient(means, stds, episodes, generator)
    return by_mean, -by_log_std


def without_minus_one(means: Array, stds: Array, episodes: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """A gradient whose score of log sigma lacks the term -1, which is weighted with the number of throws."""
    state = np.arange(episodes) % 2
    goal = np.where(state == SEEN, 0.0, generator.choice([-1.0, 1.0], episodes))
    throws, mean_score, std_score = run_episodes(means[state], stds[state], goal, generator)
    advantage = throws.mean() - throws
    advantage /= np.sqrt(np.mean(advantage**2)) + 1e-9
    by_mean = np.bincount(state, advantage * mean_score) / episodes
    return by_mean, np.bincount(state, advantage * (std_score + throws)) / episodes


def rows_with(learned: float, hidden: float, seen: float, throws: list[float]) -> list[Row]:
    """Rows of two seeds with these standard deviations and numbers of throws, by kind, at the end."""
    last = {FIXED_SMALL: [0.5, 0.5], FIXED_LARGE: [2.0, 2.0], LEARNED: [learned, learned], OF_STATE: [seen, hidden]}
    rows: list[Row] = []
    for (kind, stds), count in zip(last.items(), throws, strict=True):
        rows += [{"kind": kind, "std": [np.multiply(stds, scale)], "throws": count * scale} for scale in (0.999, 1.001)]
    return rows


class TestJudgement:
    """The judgement of the claim, by made-up rows."""

    @pytest.mark.parametrize(
        ("learned", "hidden", "seen", "throws", "holds"),
        [
            (0.81, 0.99, 0.1, [9.6, 10.7, 6.4, 4.6], True),
            (0.90, 0.99, 0.1, [9.6, 10.7, 6.4, 4.6], False),
            (0.81, 0.90, 0.1, [9.6, 10.7, 6.4, 4.6], False),
            (0.81, 0.99, 0.2, [9.6, 10.7, 6.4, 4.6], False),
            (0.81, 0.99, 0.1, [6.3, 10.7, 6.4, 4.6], False),
            (0.81, 0.99, 0.1, [9.6, 10.7, 6.4, 6.4], False),
        ],
        ids=["holds", "not the best of both", "not the best if hidden", "wide if seen", "fixed as good", "no gain"],
    )
    def test_optima_are_reached_and_learning_helps(
        self, learned: float, hidden: float, seen: float, throws: list[float], holds: bool
    ) -> None:
        """Within 5 % of the exact optima, and with fewer throws the more is learned."""
        assert EXPERIMENT.judge(EXPERIMENT.settings, rows_with(learned, hidden, seen, throws)).holds is holds


@pytest.mark.slow
class TestClaim:
    """The claim at a reduced size."""

    @pytest.mark.parametrize("broken", [None, wrong_sign, without_minus_one])
    def test_holds_only_with_the_right_gradient(self, broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not with the wrong sign of that of the standard deviation, nor without one of its terms."""
        if broken is not None:
            monkeypatch.setattr(exploration, "policy_gradient", broken)
            monkeypatch.setattr(exploration, "LONGEST_EPISODE", 40)  # where it no longer hits
        settings = EXPERIMENT.quick
        rows: list[Row] = []
        for case in EXPERIMENT.cases(settings, 2):
            rows.append({**case, **EXPERIMENT.measure(settings, case)})
        assert EXPERIMENT.judge(settings, rows).holds is (broken is None)
