"""Objectives of value and policy: exact values and gradients, and the claim, broken on purpose."""

from typing import Any

import numpy as np
import pytest

from arm_control.lab import objective
from arm_control.lab.common.experiment import Row
from arm_control.lab.objective import (
    ACTIONS,
    DISCOUNT,
    EXACT,
    EXPERIMENT,
    LOSSES,
    POLICY_AGENT,
    STATES,
    VALUE_AGENT,
    Settings,
    falls,
    greedy,
    measure_arm,
    optimal_q,
    performance,
    policy_gradient,
    random_task,
    softmax,
    values,
    without_gain,
)

SMALL = Settings(tasks=8, updates=150, value_steps=2_400, policy_steps=4_800, intervals=24, goals=2)
TASK = random_task(6, np.random.default_rng(0))
# A training with one interval in which the loss falls and the return does not rise.
TRAINING = {"steps": [1, 2, 3], "arm_loss": [3.0, 2.0, 4.0], "arm_return": [-2.0, -2.5, -1.0]}


def rows_of(exact: Row, arm_return: tuple[float, ...] = (-2.0, -2.5, -1.0)) -> list[Row]:
    """The rows of exact tasks with a training of each agent."""
    training = {**TRAINING, "arm_return": list(arm_return)}
    return [{"part": EXACT, **exact}, *({"part": agent, "seed": 0, **training} for agent in LOSSES)]


def holds(settings: Settings) -> bool:
    """True if the claim holds with these exact tasks."""
    exact = EXPERIMENT.measure(settings, {"part": EXACT})
    return EXPERIMENT.judge(settings, rows_of(exact)).holds


class TestExactValues:
    """Values, performance and gradient of a random task."""

    def test_the_task_is_a_markov_decision_process(self) -> None:
        """Probabilities add up to 1, over three states each."""
        np.testing.assert_allclose(TASK.transition.sum(axis=-1), 1.0)
        assert ((TASK.transition > 0.0).sum(axis=-1) <= 3).all()

    def test_values_agree_with_repeated_backups(self) -> None:
        """V <- sum_a pi (r + gamma P V), 400 times; d sums to 1 / (1 - gamma)."""
        policy = softmax(np.random.default_rng(1).normal(size=(STATES, ACTIONS)))
        value = np.zeros(STATES)
        for _ in range(400):
            value = (policy * (TASK.reward + DISCOUNT * TASK.transition @ value)).sum(axis=1)
        exact, q, visits = values(TASK, policy)
        np.testing.assert_allclose(exact, value, atol=1e-12)
        np.testing.assert_allclose((policy * q).sum(axis=1), value, atol=1e-12)
        assert visits.sum() == pytest.approx(1.0 / (1.0 - DISCOUNT))
        # J = sum_s d(s) r_pi(s)
        assert performance(TASK, policy) == pytest.approx(float(visits @ (policy * TASK.reward).sum(axis=1)))

    def test_the_optimal_q_satisfies_bellmans_equation(self) -> None:
        """Q* = r + gamma P max Q*; no action changed in one state is better."""
        q = optimal_q(TASK)
        np.testing.assert_allclose(q, TASK.reward + DISCOUNT * TASK.transition @ q.max(axis=1), atol=1e-9)
        best = performance(TASK, greedy(q))
        for state in range(STATES):
            for action in range(ACTIONS):
                changed = greedy(q)
                changed[state] = np.eye(ACTIONS)[action]
                assert performance(TASK, changed) <= best + 1e-12

    def test_the_policy_gradient_is_the_derivative_of_the_return(self) -> None:
        """By central differences in each parameter."""
        theta = np.random.default_rng(2).normal(size=6)
        gradient = policy_gradient(TASK, softmax(TASK.features @ theta))
        for index in range(6):
            step = 1e-5 * np.eye(6)[index]
            above = performance(TASK, softmax(TASK.features @ (theta + step)))
            below = performance(TASK, softmax(TASK.features @ (theta - step)))
            assert gradient[index] == pytest.approx((above - below) / 2e-5, abs=1e-7)


class TestCounts:
    """Values that count as falling."""

    def test_values_within_rounding_do_not_fall(self) -> None:
        """Of three changes one is a fall, one rounding."""
        assert falls([3.0, 2.0, 2.0 - 1e-12, 5.0]) == 1

    def test_intervals_without_gain(self) -> None:
        """Loss falls: return rises, falls, stays; loss rises: return falls."""
        flags = without_gain([5.0, 4.0, 3.0, 2.0, 3.0], [0.0, 1.0, 0.5, 0.5, 0.0])
        assert flags.tolist() == [False, True, True, False]


class TestClaim:
    """The claim at a reduced size, and what must break it."""

    def test_the_claim_holds(self) -> None:
        """Eight tasks."""
        assert holds(SMALL)

    @pytest.mark.parametrize("rate", [-0.1, 2.5], ids=["ascending", "too large"])
    def test_the_claim_fails_if_the_loss_rises(self, rate: float) -> None:
        """Steps in the wrong direction, and steps beyond 2 / curvature."""
        assert not holds(Settings(tasks=2, updates=50, value_step=rate))

    def test_the_claim_fails_if_the_policy_descends(self) -> None:
        """With the wrong sign of its gradient the return falls at every step."""
        assert not holds(Settings(tasks=2, updates=50, policy_step=-0.3))

    def test_the_claim_fails_with_a_wrong_gradient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the visits d(s) and the advantage, each action's own reward decides: the return falls at times."""

        def myopic(task: Any, policy: Any) -> Any:
            advantage = task.reward - (policy * task.reward).sum(axis=1, keepdims=True)
            return 10.0 * np.einsum("sa,sa,sak->k", policy, advantage, task.features) / STATES

        monkeypatch.setattr(objective, "policy_gradient", myopic)
        assert not holds(SMALL)

    def test_the_claim_fails_if_the_loss_decides_the_return(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a feature for each state and action, learned at one rate, no action of a state is overtaken."""

        def table(features: int, generator: np.random.Generator) -> Any:
            task = random_task(features, generator)
            return task._replace(features=np.eye(STATES * ACTIONS).reshape(STATES, ACTIONS, -1))

        monkeypatch.setattr(objective, "random_task", table)
        assert not holds(SMALL)

    def test_the_claim_fails_if_the_arms_return_follows_the_loss(self) -> None:
        """No interval in which the loss falls and the return does not rise."""
        exact = EXPERIMENT.measure(SMALL, {"part": EXACT})
        assert not EXPERIMENT.judge(SMALL, rows_of(exact, arm_return=(-2.0, -1.0, -3.0))).holds


@pytest.mark.slow
@pytest.mark.parametrize("agent", [VALUE_AGENT, POLICY_AGENT])
def test_a_training_is_followed_from_its_first_update(agent: str) -> None:
    """An evaluation after the first update, then one for each interval that is complete."""
    row = measure_arm(SMALL, agent, seed=0)
    assert len(row["steps"]) == len(row["arm_loss"]) == len(row["arm_return"]) >= 2
    assert row["steps"] == sorted(set(row["steps"]))
    assert min(row["arm_loss"]) > 0.0
    assert max(row["arm_return"]) < 0.0
