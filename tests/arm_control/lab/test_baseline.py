"""Baselines: hand-computed returns, closed forms, the project's own REINFORCE, and the claim, broken on purpose."""

from typing import Any

import numpy as np
import pytest
import torch

from arm_control.lab import baseline
from arm_control.lab.baseline import (
    BASELINES,
    EXPERIMENT,
    LARGEST_BIAS,
    Settings,
    baseline_of,
    exact_gradient,
    exact_values,
    largest_bias,
    measure_gradient,
    returns_of,
    run_episodes,
)
from arm_control.lab.corridor import BEST_P, GOAL, expected_return
from policies.common.rollout import Steps
from policies.reinforce.agent import reinforce
from policies.reinforce.settings import ReinforceSettings

SMALL = Settings(measured_updates=3_000)


def gradient_rows(settings: Settings) -> list[dict[str, Any]]:
    """Bias and variance of three seeds."""
    return [measure_gradient(settings, np.random.default_rng(seed)) for seed in range(3)]


class TestClosedForms:
    """Values and gradients of the corridor."""

    @pytest.mark.parametrize("p", [0.3, BEST_P, 0.8])
    def test_the_value_of_the_first_state_is_the_return(self, p: float) -> None:
        """With the prize in addition, which each policy gets once."""
        assert exact_values(p, 100.0)[0] == pytest.approx(100.0 + expected_return(p))

    @pytest.mark.parametrize("p", [0.3, BEST_P, 0.8])
    def test_the_gradient_is_the_slope_of_the_return(self, p: float) -> None:
        """Central differences in theta, where dp / dtheta = p (1 - p)."""
        slope = (expected_return(p + 1e-6) - expected_return(p - 1e-6)) / 2e-6
        assert exact_gradient(p) == pytest.approx(slope * p * (1.0 - p), abs=1e-6)


class TestBaselines:
    """Baselines of the returns of two short episodes."""

    # Right, right, right leads through states 0, 1, 0; right, left, right through 0, 1, 2 to the goal.
    STATES = np.array([[0, 0], [1, 1], [0, 2], [1, GOAL]])
    ACTIONS = np.array([[1, 1], [1, 0], [1, 1], [1, 1]])

    def test_returns_by_hand(self) -> None:
        """The first episode is cut off after four steps, without the prize."""
        expected = [[-4.0, 7.0], [-3.0, 8.0], [-2.0, 9.0], [-1.0, 0.0]]
        assert returns_of(self.STATES, self.ACTIONS, 10.0).tolist() == expected

    def test_baselines_by_hand(self) -> None:
        """The other episode's return, and the value of each state."""
        returns = returns_of(self.STATES, self.ACTIONS, 10.0)
        values = np.array([5.0, 6.0, 7.0, 0.0])
        assert baseline_of("none", returns, self.STATES, values).tolist() == np.zeros((4, 2)).tolist()
        assert baseline_of("average", returns, self.STATES, values).tolist() == returns[:, ::-1].tolist()
        assert baseline_of("value", returns, self.STATES, values).tolist() == values[self.STATES].tolist()

    @pytest.mark.parametrize("kind", BASELINES)
    def test_advantages_are_those_of_the_agent(self, kind: Any) -> None:
        """The project's REINFORCE on the same episodes, three learners of four episodes each."""
        states, actions = run_episodes(np.full((3, 4), 0.5), 5_000, np.random.default_rng(0))
        values = np.random.default_rng(1).normal(size=(3, GOAL + 1))
        returns = returns_of(states, actions, 100.0)
        advantage = returns - baseline_of(kind, returns, states, values)
        running = states != GOAL
        for learner in range(3):
            reward = torch.from_numpy(returns - np.vstack([returns[1:], np.zeros((1, 3, 4))]))[:, learner]
            ended = (
                torch.ones_like(reward) - torch.from_numpy(np.vstack([running[1:], np.zeros((1, 3, 4))]))[:, learner]
            )
            steps = Steps((), (), torch.zeros(*reward.shape, 1), reward, ended, ended, torch.zeros_like(reward))
            value = torch.from_numpy(values[learner][states[:, learner]])
            settings = ReinforceSettings(baseline=kind, discount=1.0)
            expected = reinforce(steps, value, torch.zeros_like(value), settings).advantage.numpy()
            alive = running[:, learner]
            assert advantage[:, learner][alive] == pytest.approx(expected[alive])


class TestClaim:
    """The claim at a reduced size, and what must break it."""

    def test_no_baseline_adds_bias(self) -> None:
        """Three seeds of 3,000 updates."""
        assert largest_bias(SMALL, gradient_rows(SMALL)) < LARGEST_BIAS

    def test_an_average_that_includes_the_own_return_adds_bias(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of four episodes, it takes a quarter of the gradient away."""

        def own_average(kind: str, returns: Any, states: Any, values: Any) -> Any:
            return np.broadcast_to(returns.mean(axis=-1, keepdims=True), returns.shape)

        monkeypatch.setattr(baseline, "baseline_of", own_average)
        assert largest_bias(SMALL, gradient_rows(SMALL)) > LARGEST_BIAS

    def test_the_wrong_sign_of_the_update_is_a_bias(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Descending the return, by the same amount."""
        update_of = baseline.update_of
        monkeypatch.setattr(baseline, "update_of", lambda *args: -update_of(*args))
        assert largest_bias(SMALL, gradient_rows(SMALL)) > LARGEST_BIAS

    def test_fewer_than_two_episodes_are_refused(self) -> None:
        """There is no average of the others."""
        with pytest.raises(ValueError, match="--episodes"):
            EXPERIMENT.cases(Settings(episodes=1), 2)
