"""Q, V and A on the chain: the exact values by hand, the learned ones, and the claim."""

import numpy as np
import pytest

from arm_control.lab import advantage
from arm_control.lab.advantage import EXPERIMENT, LEARN, METHODS, Settings, average
from arm_control.lab.common.chain import (
    GOAL,
    RIGHT,
    STATES,
    Episodes,
    exact_values,
    run_episodes,
    transition_probabilities,
)

SMALL = Settings(episodes=(100, 300, 1_000, 3_000, 10_000))


def claim_holds(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return True if the claim holds at a reduced size, where the slopes are less precise and may differ by more."""
    monkeypatch.setattr(advantage, "SLOPE_TOLERANCE", 0.3)
    rows = [{**case, **EXPERIMENT.measure(SMALL, case)} for case in EXPERIMENT.cases(SMALL, 10)]
    return EXPERIMENT.judge(SMALL, rows).holds


def one_episode() -> Episodes:
    """Each state twice and each action from it, of which the second one of the last state reaches the goal."""
    state = np.repeat(np.arange(STATES), 2)[:, None]
    action = np.tile([1, 0], STATES)[:, None]
    following = np.append(state[1:], [[GOAL]], axis=0)
    return Episodes(state, action, following, np.ones_like(state, bool))


class TestChain:
    """The chain's exact values and its episodes."""

    def test_probabilities_sum_to_one(self) -> None:
        """From each state, for each action."""
        assert transition_probabilities().sum(axis=-1) == pytest.approx(np.ones((STATES, 2)))

    def test_values_satisfy_the_equations_of_the_last_state(self) -> None:
        """Q(4, right) = -1 + 0.5 * 0.1 V(3), as 0.9 of it ends; V = 0.7 Q(right) + 0.3 Q(left)."""
        value, q = exact_values(np.full(STATES, 0.7), 0.5)
        assert q[-1, RIGHT] == pytest.approx(-1 + 0.5 * 0.1 * value[3])
        assert value[:STATES] == pytest.approx(q @ [0.3, 0.7])
        assert value[GOAL] == 0.0

    def test_values_of_a_policy_that_never_reaches_the_goal_far_away(self) -> None:
        """Always left with a discount of 0.9: almost -1 / (1 - 0.9) in the first state."""
        value, _ = exact_values(np.zeros(STATES), 0.9)
        assert value[0] == pytest.approx(-10.0, abs=0.05)

    def test_simulated_episodes_have_the_expected_return(self) -> None:
        """The mean discounted return of 20,000 episodes from state 0 lies within four standard errors of V(0)."""
        right = np.full(STATES, 0.6)
        episodes = run_episodes(right, np.zeros(20_000, np.int64), np.random.default_rng(0))
        weights = 0.9 ** np.arange(len(episodes.running))
        returns = -(weights[:, None] * episodes.running).sum(axis=0)
        standard_error = returns.std() / len(returns) ** 0.5
        assert abs(returns.mean() - exact_values(right, 0.9)[0][0]) < 4 * standard_error


class TestLearning:
    """Estimates of both methods from given episodes."""

    def test_monte_carlo_of_one_episode(self) -> None:
        """The last of ten steps returns -1, the one before -1.9, and the first one -10 (1 - 0.9^10)."""
        q, _, _ = LEARN["Monte Carlo"](one_episode())
        assert q[STATES - 1] == pytest.approx([-1.0, -1.9])
        assert q[0, RIGHT] == pytest.approx(-10 * (1 - 0.9**10))

    @pytest.mark.parametrize("method", METHODS)
    def test_advantages_average_to_zero(self, method: str) -> None:
        """sum_a pi(a | s) A(s, a) = 0, and A = Q - V, however few episodes there are."""
        generator = np.random.default_rng(0)
        episodes = run_episodes(advantage.GOES_RIGHT, generator.integers(STATES, size=100), generator)
        q, v, a = LEARN[method](episodes)
        assert average(a) == pytest.approx(np.zeros(STATES + 1), abs=1e-12)
        assert a == pytest.approx(q - v[:STATES, None], abs=1e-12)


class TestClaim:
    """The claim at a reduced size, and with mistakes."""

    @pytest.mark.slow
    def test_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With ten seeds, which show each mistake."""
        assert claim_holds(monkeypatch)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "mistake"),
        [
            ("returns", lambda reward, *rest: rest[0] * 0 + reward),
            ("returns", lambda *given: advantage_returns(*given[:-1], 1.0)),
            ("td_errors", lambda reward, value, next_value, at_goal, discount: reward + discount * next_value),
            ("td_errors", lambda reward, value, next_value, at_goal, discount: value - reward - discount * next_value),
        ],
        ids=["no future", "no discount", "no value", "sign"],
    )
    def test_fails_with_a_mistake(self, name: str, mistake, monkeypatch: pytest.MonkeyPatch) -> None:
        """Returns without what comes after or undiscounted, and delta without V(s) or of the wrong sign."""
        monkeypatch.setattr(advantage, name, mistake)
        assert not claim_holds(monkeypatch)

    @pytest.mark.parametrize("episodes", [(100,), (10, 1000)])
    def test_settings_that_cannot_be_judged_are_an_error(self, episodes: tuple[int, ...]) -> None:
        """One number of episodes, and fewer than see each action."""
        with pytest.raises(ValueError, match="--episodes"):
            EXPERIMENT.cases(Settings(episodes), 5)


advantage_returns = advantage.returns
