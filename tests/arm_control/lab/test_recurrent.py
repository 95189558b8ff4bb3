"""Recurrent policies: the closed form of the point, its episodes, and the judgement."""

from typing import Any

import numpy as np
import pytest

from arm_control.evaluation.torch_controller import one_thread
from arm_control.lab.common.experiment import Row
from arm_control.lab.recurrent import (
    DELAY,
    EXPERIMENT,
    FEED_FORWARD,
    IDEAL,
    LATE,
    MOTION,
    POINT,
    POLICIES,
    RECURRENT,
    SPEED_STD,
    STEPS,
    Points,
    Settings,
    best_memoryless_error,
    measure_arm_motion,
    point_errors,
    root_mean_square,
    train_for_points,
    unexplained_fraction,
)

BOUND = root_mean_square(best_memoryless_error(np.arange(STEPS)))
SMALL = Settings(updates=80, arm_steps=5_000, goals=10)
SEEDS = 3


def made_up_rows(point: dict[str, float], arm: dict[tuple[str, str], float]) -> list[Row]:
    """Rows with these errors, which vary a little from seed to seed."""
    rows: list[Row] = []
    for seed in range(SEEDS):
        for policy, error in point.items():
            rows.append(
                {"part": POINT, "policy": policy, "seed": seed, "errors": np.full(STEPS, error * (1 + seed / 100))}
            )
        rows.append({"part": MOTION, "seed": seed, "unexplained": 0.001})
        for (preset, policy), error in arm.items():
            rows.append({"part": preset, "policy": policy, "seed": seed, "error_mm": error * (1 + seed / 100)})
    return rows


MEMORY_WINS_POINT = {FEED_FORWARD: BOUND, RECURRENT: 0.4}
MEMORY_WINS_ARM = {
    (LATE, FEED_FORWARD): 40.0,
    (LATE, RECURRENT): 5.0,
    (IDEAL, FEED_FORWARD): 0.1,
    (IDEAL, RECURRENT): 0.1,
}


@pytest.fixture(scope="module")
def recurrent_agent() -> Any:
    """An agent with an LSTM after 80 updates on the point."""
    with one_thread():
        return train_for_points(SMALL, RECURRENT, 0)


class TestPoint:
    """The point whose speed is hidden."""

    def test_the_best_error_without_memory_by_hand(self) -> None:
        """At t = 0, 5 * 0.2 is unknown; at t = 5, where x has twice the variance of its start, half of the square."""
        assert best_memoryless_error(0) == pytest.approx(1.0)
        assert best_memoryless_error(5) == pytest.approx(0.5**0.5)

    def test_it_is_the_error_of_the_best_linear_policy(self) -> None:
        """The residuals of a regression of the position to come on the present one, over 200,000 episodes."""
        points = Points(200_000, np.random.default_rng(0))
        for step in (0, 3, 7):
            present = points.position(step)[:, 0]
            to_come = points.position(step + DELAY)[:, 0]
            residuals = to_come - np.polyval(np.polyfit(present, to_come, 1), present)
            assert residuals.std() == pytest.approx(best_memoryless_error(step), rel=0.01)

    def test_two_positions_determine_the_one_to_come(self) -> None:
        """x_t + D (x_t - x_t-1) has no error."""
        points = Points(100, np.random.default_rng(0))
        action = points.position(3) + DELAY * (points.position(3) - points.position(2))
        assert points.error(3, action) == pytest.approx(np.zeros(100), abs=1e-12)

    def test_the_speed_is_not_observed(self) -> None:
        """Position and step are all of it, and two points at the same place look alike."""
        points = Points(50, np.random.default_rng(0))
        points.start[:] = 1.0
        assert (points.observe(0)["observation"] == np.array([1.0, 0.0])).all()
        assert points.observe(4)["observation"][:, :1] == pytest.approx(1.0 + 4.0 * points.speed)
        assert points.speed.std() == pytest.approx(SPEED_STD, rel=0.3)

    def test_only_memory_beats_the_best_without(self, recurrent_agent: Any) -> None:
        """After 80 updates the LSTM is below the bound, and the feed-forward policy is not."""
        feed_forward = EXPERIMENT.measure(SMALL, {"part": POINT, "policy": FEED_FORWARD, "seed": 0})["errors"]
        assert root_mean_square(point_errors(recurrent_agent, RECURRENT, 0)) < 0.95 * BOUND
        assert root_mean_square(feed_forward) > 0.99 * BOUND

    def test_forgetting_loses_the_advantage(self, recurrent_agent: Any) -> None:
        """With the recurrent state of a new episode at each step, the same LSTM is no better than the bound."""
        module = recurrent_agent.policy()

        class Forgetful:
            """The policy without what it remembers."""

            def policy(self) -> Any:
                return lambda *inputs: (module(*inputs[:-1], 0.0 * inputs[-1])[0], inputs[-1])

        forgetful: Any = Forgetful()
        assert root_mean_square(point_errors(forgetful, RECURRENT, 0)) > 0.99 * BOUND


class TestMotion:
    """The motion that an observation leaves unexplained."""

    def test_the_unexplained_fraction_of_known_variables(self) -> None:
        """Outputs 2 a + 3 + b of inputs a, with b as the part that is not observed: 1 of 5."""
        a, b = np.random.default_rng(0).standard_normal((2, 100_000, 1))
        assert unexplained_fraction(a, 2.0 * a + 3.0 + b) == pytest.approx(0.2, rel=0.02)
        assert unexplained_fraction(a, 2.0 * a + 3.0) == pytest.approx(0.0, abs=1e-12)

    def test_the_last_target_explains_the_motion_of_the_arm(self) -> None:
        """Almost all of it, within the delay."""
        assert measure_arm_motion(0)["unexplained"] < 0.01


class TestJudgement:
    """The judgement of made-up rows."""

    def test_holds_where_memory_wins_both(self) -> None:
        """With and without the ideal arm."""
        rows = made_up_rows(MEMORY_WINS_POINT, MEMORY_WINS_ARM)
        assert EXPERIMENT.judge(Settings(), rows).holds
        assert EXPERIMENT.judge(Settings(ideal=False), rows).holds

    @pytest.mark.parametrize(
        ("policy", "error"),
        [(RECURRENT, 1.1 * BOUND), (FEED_FORWARD, 0.5 * BOUND)],
        ids=["LSTM above the bound", "feed-forward below it"],
    )
    def test_fails_with_other_errors_of_the_point(self, policy: str, error: float) -> None:
        """A policy without memory below the bound would have seen the speed."""
        rows = made_up_rows(MEMORY_WINS_POINT | {policy: error}, MEMORY_WINS_ARM)
        assert not EXPERIMENT.judge(Settings(), rows).holds

    @pytest.mark.parametrize(
        ("part", "error"),
        [((LATE, RECURRENT), 41.0), ((IDEAL, FEED_FORWARD), 60.0)],
        ids=["LSTM worse on the arm", "LSTM better where nothing is hidden"],
    )
    def test_fails_with_other_errors_of_the_arm(self, part: tuple[str, str], error: float) -> None:
        """An LSTM that is better everywhere is not better by memory."""
        rows = made_up_rows(MEMORY_WINS_POINT, MEMORY_WINS_ARM | {part: error})
        assert not EXPERIMENT.judge(Settings(), rows).holds

    def test_an_interval_that_does_not_decide_is_named(self) -> None:
        """Two seeds that contradict each other."""
        rows = made_up_rows(MEMORY_WINS_POINT, MEMORY_WINS_ARM)
        for row in rows:
            if row["part"] == LATE and row["policy"] == RECURRENT and row["seed"] == 0:
                row["error_mm"] = 80.0
        verdict = EXPERIMENT.judge(Settings(), rows)
        assert not verdict.holds
        assert "does not decide" in verdict.measured

    def test_each_policy_is_trained_for_each_part(self) -> None:
        """Both for the point and for each preset of the arm, and its motion."""
        cases = EXPERIMENT.cases(Settings(), 2)
        assert len(cases) == 2 * (3 * len(POLICIES) + 1)
        assert len(EXPERIMENT.cases(Settings(ideal=False), 2)) == 2 * (2 * len(POLICIES) + 1)


@pytest.mark.slow
def test_the_arm_learns_with_the_preset() -> None:
    """A short training on the arm of one joint gives a curve and an error."""
    row = EXPERIMENT.measure(SMALL, {"part": LATE, "policy": RECURRENT, "seed": 0})
    assert len(row["steps"]) == len(row["curve"])
    assert 0.0 < row["error_mm"] < 700.0
