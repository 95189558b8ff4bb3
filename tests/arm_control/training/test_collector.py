"""Agents as they are made for an environment: lengths and columns that they need to slow down near the goal."""

import math
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from locations import DESK

from arm_control.runs.agent import make_agent
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.training.collector import Collector
from envs.arm import RADIANS
from policies.agent import Spec, Transition
from policies.ddpg.settings import DDPGSettings
from policies.dqn.settings import DQNSettings

REACH_M = {"default": 0.7, "desk": 0.08 + 0.04 + 0.15 + 0.12}
SETTINGS = DDPGSettings(hidden_units=8, fourier_octaves=0, slowing_distance=0.03)


def made(**options: Any) -> tuple[Spec, Any]:
    """The spec of an agent that was made for an environment; its observation after a few steps, and its target."""
    config = TrainConfig("ddpg", SETTINGS, **options)
    with closing(environment_maker(config)().unwrapped) as env:
        agent: Any = make_agent(config, env)
        env.reset(seed=0)
        for _ in range(3):
            observation, *_ = env.step(env.action_space.high)
        return agent._spec, (observation["observation"], list(env.target_deg))


class TestSlowing:
    """Lengths and columns of an agent's specification, from which it slows down near the goal."""

    @pytest.mark.parametrize(
        ("imperfections", "reading_error_deg"), [("ideal", 0.0), ("xl430", 360 / 4096 / 2 + 0.05 / 2)]
    )
    @pytest.mark.parametrize("arm", REACH_M)
    def test_lengths_are_in_proportion_to_the_arms_reach(
        self, arm: str, imperfections: str, reading_error_deg: float
    ) -> None:
        """Rest distance = reach x reading error in radians; other lengths scale with reach / 0.7 m."""
        options = {} if arm == "default" else {"arm": str(DESK)}
        spec, _ = made(imperfections=imperfections, **options)
        assert spec.rest_distance == pytest.approx(REACH_M[arm] * math.radians(reading_error_deg))
        assert spec.size == pytest.approx(REACH_M[arm] / 0.7)
        assert spec.slowing_distance == pytest.approx(0.03 * REACH_M[arm] / 0.7)

    def test_the_columns_of_target_and_measured_angles(self) -> None:
        """Observed values equal the limited target, which the arm has not reached yet."""
        spec, (observation, target) = made()
        assert spec.target_columns is not None
        assert spec.measured_columns is not None
        observed_deg = observation[list(spec.target_columns)] * spec.measured_unit
        np.testing.assert_allclose(observed_deg, target, rtol=0, atol=1e-4)
        measured_deg = observation[list(spec.measured_columns)] / RADIANS
        assert np.abs(measured_deg - target).max() > 0.5

    @pytest.mark.parametrize("control", ["from_measured", "from_target"])
    def test_relative_actions_have_no_target_column(self, control: str) -> None:
        """No observed value has the unit of such an action."""
        spec, _ = made(control=control)
        assert spec.target_columns is None
        assert spec.measured_columns is None


class TestRepeatedSteps:
    """An action that is held for several control steps makes one transition."""

    def test_its_reward_is_the_mean_and_its_goals_are_those_after_each_step(self) -> None:
        """As in environments that are stepped one by one with the same action."""
        settings = DQNSettings(hidden_units=8, action_repeat=5, learning_starts=100)
        config = TrainConfig("dqn", settings, grid_step_deg=30.0, num_envs=2)
        seen: list[Transition] = []
        with closing(Collector(config, [3, 4])) as collector:
            collector.agent.observe = seen.append  # type: ignore[method-assign]
            assert collector.advance(lambda steps: 0.0).steps == 10
        [transition] = seen
        assert transition.achieved_between is not None
        assert transition.desired_between is not None
        for arm, seed in enumerate((3, 4)):
            with closing(environment_maker(config)()) as env:
                env.reset(seed=seed)
                steps = [env.step(transition.action[arm]) for _ in range(5)]
            goals = [step[0]["achieved_goal"] for step in steps]
            assert transition.reward[arm] == pytest.approx(np.mean([step[1] for step in steps]))
            np.testing.assert_array_equal(transition.achieved_between[arm], goals[:-1])
            np.testing.assert_array_equal(transition.next_observation["achieved_goal"][arm], goals[-1])
            np.testing.assert_array_equal(transition.desired_between[arm][0], steps[0][0]["desired_goal"])

    def test_without_repeats_there_are_no_goals_between(self) -> None:
        """Single steps have no intermediate goals."""
        seen: list[Transition] = []
        with closing(Collector(TrainConfig("ddpg", SETTINGS, num_envs=2), [3, 4])) as collector:
            collector.agent.observe = seen.append  # type: ignore[method-assign]
            collector.advance(lambda steps: 0.0)
        assert seen[0].achieved_between is None
        assert seen[0].desired_between is None
