"""The quadratic bandit and the arm: the critic, the four steps and their expectation, and the claim."""

from dataclasses import replace

import numpy as np
import pytest

from arm_control.lab import deterministic
from arm_control.lab.deterministic import (
    ADVANTAGE,
    ARM,
    DETERMINISTIC,
    EXPERIMENT,
    METHODS,
    NATURAL,
    STOCHASTIC,
    Settings,
    fit_critic,
    judge_arm,
    make_task,
    policy_gradient,
    samples_to_goal,
    tip,
)

SMALL = Settings(
    dimensions=(3, 50),
    stds=(0.01, 0.5, 2.0),
    rates_per_decade=2,
    sweep_runs=3,
    joints=(3, 5),
    arm_samples=1_500,
    arm_runs=15,
)


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
    """The critic and the steps of the four methods."""

    def test_the_critic_is_the_least_squares_fit(self) -> None:
        """Weights and bias of each batch are those of NumPy's solver with a column of ones."""
        features, reward, _ = sample_batches(3, 4, 0.5)
        weights, bias = fit_critic(features, reward)
        for batch in range(3):
            columns = np.column_stack([features[batch], np.ones(8)])
            expected = np.linalg.lstsq(columns, reward[batch])[0]
            assert [*weights[batch], bias[batch]] == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("method", METHODS)
    def test_the_expected_step_is_the_gradient(self, method: str) -> None:
        """The mean over 10,000 batches lies within five standard errors of -2 C (theta - a*)."""
        deviation, reward, gradient = sample_batches(10_000, 4, 0.5)
        step = policy_gradient(method, deviation, reward, 0.5)
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


class TestTasks:
    """The bandit and the arm."""

    def test_the_tip_by_hand(self) -> None:
        """Straight along x; one joint of two bent by 90 degrees; each bent, relative to the link before."""
        quarter = np.pi / 2
        poses = np.array([[0.0, 0.0], [0.0, quarter], [quarter, quarter]])
        assert tip(poses) == pytest.approx([1.0, 0.5 + 0.5j, -0.5 + 0.5j])

    def test_the_cost_of_an_arm_is_the_squared_distance_of_its_tip(self) -> None:
        """By the law of cosines for goals at a known distance: two poses with opposite tips have tip^2 + goal^2."""
        task = make_task(ARM, 3, 4, np.random.default_rng(0))
        pose = np.array([0.1, 0.2, 0.3])
        opposite = pose + np.array([np.pi, 0.0, 0.0])
        cost = task.cost(np.broadcast_to([pose, opposite], (1, 4, 2, 3)))
        squared_goal = cost.mean(axis=-1) - abs(tip(pose)) ** 2
        assert ((squared_goal > 0.3**2) & (squared_goal < 0.9**2)).all()

    @pytest.mark.parametrize("method", METHODS)
    def test_steps_on_the_arm_follow_the_slope_of_the_cost(self, method: str) -> None:
        """With narrow noise the mean step is, within five standard errors, minus the cost's finite difference."""
        generator = np.random.default_rng(1)
        task = make_task(ARM, 3, 1, generator)
        pose = np.full(3, task.start)
        around = pose + 1e-6 * np.concatenate([np.eye(3), -np.eye(3)])
        costs = task.cost(around[None, None])[0, 0]
        slope = (costs[:3] - costs[3:]) / 2e-6
        deviation = 1e-3 * generator.standard_normal((20_000, 1, 6, 3))
        step = policy_gradient(method, deviation, -task.cost(pose + deviation), 1e-3)[:, 0]
        standard_error = step.std(axis=0) / len(step) ** 0.5
        assert (np.abs(step.mean(axis=0) + slope) < 5 * standard_error + 1e-5).all()


class TestSamplesToGoal:
    """The samples until the tip of the arm is near its goal, and their judgement."""

    def test_the_first_update_near_the_goal_counts(self) -> None:
        """By hand, with 4 samples for each update of 2 joints: the second, the first, and never, counted as all."""
        costs = np.array([[[1.0, 1e-5, 1.0]], [[1e-5, 1.0, 1.0]], [[1.0, 1.0, 1.0]]])
        assert samples_to_goal(costs, 2).tolist() == [[8.0, 4.0, 12.0]]

    @pytest.mark.parametrize(
        ("stochastic", "holds", "words"),
        [
            ({3: 400.0, 5: 400.0}, True, "does not grow"),
            ({3: 200.0, 5: 1_000.0}, True, "this lead grows"),
            ({3: 400.0, 5: 90.0}, False, "does not grow"),
        ],
        ids=["constant", "growing", "lost"],
    )
    def test_the_lead_must_be_there_for_each_number_of_joints(
        self, stochastic: dict[int, float], holds: bool, words: str
    ) -> None:
        """Its growth is reported, but is no part of the verdict."""
        rows = []
        for joints, samples in stochastic.items():
            for method, mean in ((STOCHASTIC, samples), (ADVANTAGE, 100.0), (DETERMINISTIC, 100.0)):
                of_runs = [0.9 * mean, mean, 1.1 * mean] if method == STOCHASTIC else [mean, 1.1 * mean, mean]
                rows.append({"task": ARM, "dimension": joints, "method": method, "samples_to_goal": of_runs})
        is_lead, sentence = judge_arm(SMALL, rows)
        assert is_lead is holds
        assert words in sentence


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
            # The wrong sign, of the method that should lead.
            lambda method, true_step, std: -true_step(method) if method == DETERMINISTIC else true_step(method),
            # A missing factor of the natural step.
            lambda method, true_step, std: true_step(method) * std**2 if method == NATURAL else true_step(method),
            # A baseline in the method that should have none.
            lambda method, true_step, std: true_step(ADVANTAGE if method == STOCHASTIC else method),
        ],
        ids=["sign", "factor", "baseline"],
    )
    def test_fails_with_a_mistake(self, mistake, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wrong sign, a missing factor, or a stochastic method that has a baseline."""

        def mistaken(method: str, deviation: np.ndarray, reward: np.ndarray, std: float) -> np.ndarray:
            return mistake(method, lambda name: policy_gradient(name, deviation, reward, std), std)

        monkeypatch.setattr(deterministic, "policy_gradient", mistaken)
        assert not claim_holds()

    @pytest.mark.parametrize("wrong", [{"dimensions": (3,)}, {"samples": 99}, {"joints": (3,)}, {"arm_samples": 9}])
    def test_settings_that_cannot_be_judged_are_an_error(self, wrong: dict) -> None:
        """One dimension, and fewer samples than a batch."""
        with pytest.raises(ValueError, match="--" + next(iter(wrong)).replace("_", "-")):
            EXPERIMENT.cases(replace(SMALL, **wrong), 5)
