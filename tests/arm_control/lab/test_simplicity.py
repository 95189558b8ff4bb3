"""Right actions before right values: the figures by hand, the states, and the claim, broken on purpose."""

from typing import Any

import numpy as np
import pytest

from arm_control.lab.common.experiment import Row
from arm_control.lab.simplicity import (
    BASE,
    EXPERIMENT,
    Settings,
    away_states,
    discounted_return,
    for_good,
    relative_error,
    right_from,
    right_share,
)
from envs.observation import split_observation
from policies.ddpg.agent import DDPG

SMALL = Settings(steps=6_800, states=4, checkpoints=9)  # 600 updates


def row_of(right: list[float], error: list[float]) -> Row:
    """A training with checkpoints after 1, 10, 100 and 1,000 updates."""
    return {"seed": 0, "updates": [1, 10, 100, 1_000], "right": right, "error": error}


class TestFigures:
    """The figures, by hand."""

    def test_right_actions_turn_towards_the_goal(self) -> None:
        """Up to a goal that is up: right; down, or nowhere: wrong; down to a goal that is down: right."""
        assert right_share([5.0, -5.0, 0.0, 80.0], [0.0, 0.0, 0.0, 90.0], [1.0, 1.0, 1.0, -1.0]) == 0.5

    def test_the_return_is_discounted(self) -> None:
        """1 + 2 / 2 + 4 / 4 = 3 and 0 + 1 / 2 + 0 = 0.5."""
        rewards = np.array([[1.0, 0.0], [2.0, 1.0], [4.0, 0.0]])
        assert discounted_return(rewards, 0.5).tolist() == [3.0, 0.5]

    def test_the_error_is_relative(self) -> None:
        """Errors of 3 and 4 of returns of 6 and 8 are one half; Q = 0 has an error of 1."""
        assert relative_error([9.0, 4.0], [6.0, 8.0]) == pytest.approx(0.5)
        assert relative_error([0.0, 0.0], [6.0, -8.0]) == pytest.approx(1.0)

    @pytest.mark.parametrize(
        ("reached", "first"),
        [([False, True, True], 1), ([True, False, True], 2), ([True, True], 0), ([True, False], None)],
    )
    def test_reached_for_good(self, reached: list[bool], first: int | None) -> None:
        """Right actions that are lost again do not count."""
        assert for_good(reached) == first


class TestStates:
    """The states in which the arm points away from the goal."""

    def test_the_base_has_to_turn_all_the_way(self) -> None:
        """The base is at an end of its range, and the goal is where the tip would be at the other one."""
        for state in away_states(2):
            observation = state.env.reset(seed=0, options=state.options)[0]
            angles_deg = split_observation(observation["observation"])[0].astype(float)
            assert angles_deg[BASE] == pytest.approx(0.0 if state.goal_direction > 0 else 90.0, abs=1e-3)
            angles_deg[BASE] = 90.0 - angles_deg[BASE]
            tip_m = state.env.arm.tip_position(angles_deg.tolist())
            assert observation["desired_goal"] == pytest.approx(tip_m, abs=1e-5)
            state.env.close()


class TestClaim:
    """The judgement of the claim."""

    @pytest.mark.parametrize(
        ("right", "error", "holds"),
        [
            ([0.5, 1.0, 1.0, 1.0], [1.0, 0.9, 0.6, 0.05], True),
            ([0.5, 1.0, 1.0, 1.0], [1.0, 0.9, 0.6, 0.5], True),  # known even later
            ([0.5, 1.0, 1.0, 1.0], [1.0, 0.4, 0.3, 0.05], False),  # the value is about right by then
            ([0.5, 0.6, 0.9, 1.0], [1.0, 0.9, 0.6, 0.6], False),  # right at the end only: not known to be before
            ([0.5, 0.6, 0.9, 1.0], [1.0, 0.9, 0.05, 0.05], False),  # the value is known first
            ([0.5, 1.0, 1.0, 0.5], [1.0, 0.9, 0.6, 0.05], False),  # not right for good
        ],
    )
    def test_holds_only_if_the_action_is_right_first(self, right: list[float], error: list[float], holds: bool) -> None:
        """Two seeds with the same curves."""
        rows = [row_of(right, error)] * 2
        assert EXPERIMENT.judge(SMALL, rows).holds is holds

    @pytest.mark.slow
    def test_the_claim_fails_if_the_actor_descends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the wrong sign of dQ/da the policy never becomes right."""
        gradient: Any = DDPG._action_gradient
        monkeypatch.setattr(DDPG, "_action_gradient", lambda *args: -gradient(*args))
        rows = measured_rows()
        assert not EXPERIMENT.judge(SMALL, rows).holds
        assert all(right_from(row) is None for row in rows)


def measured_rows() -> list[Row]:
    """Two seeds at a reduced size."""
    return [{**case, **EXPERIMENT.measure(SMALL, case)} for case in EXPERIMENT.cases(SMALL, 2)]
