"""Interpolated targets and their predictor: at any rate a policy observes what it would at its own."""

import math
from typing import Any

import numpy as np
import pytest
from fake_arm import ARM, START, FakeArm, FakeClock, ScriptedPolicy
from hypothesis import given
from hypothesis import strategies as st

from arm_control.drivers.opening import load_driver
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import ControlLoop
from arm_control.runner.planning import imperfections_of
from arm_control.runner.prediction import Predictor
from arm_control.runner.safety import Safety
from arm_control.runner.session_config import SessionConfig
from envs.imperfections import IDEAL_LAG_S, PRESETS, Imperfections
from envs.limits import limit_target
from envs.tasks.base import StillGoal
from envs.tasks.track import MovingGoal, Track

PERIOD_S = 0.01


class TestPredictor:
    """The predictor of readings."""

    def test_a_lag_of_one_half_and_a_delay_of_two_ticks(self) -> None:
        """Angles and speeds by hand, and none after `forget`."""
        # A lag that halves a difference in each tick; a delay of two ticks.
        arm = Imperfections(action_delay_s=0.015, observation_delay_s=0.005, servo_lag_s=PERIOD_S / math.log(2.0))
        predictor = Predictor(arm, 1, PERIOD_S)
        predicted = []
        for ahead in (8.0, 0.0, 0.0, 0.0, 0.0):
            predictor.tick([ahead])
            predicted.append(predictor.angles([1.0])[0])
        assert predicted == pytest.approx([1.0, 1.0, 5.0, 3.0, 2.0])
        # What is left of a difference goes by with the time constant: 0 - 1 degrees, by ln 2 / 0.01 a second.
        assert predictor.speeds([3.0]) == pytest.approx([3.0 - 100.0 * math.log(2.0)])
        predictor.reset()
        predictor.tick([8.0])
        assert (predictor.angles([1.0]), predictor.speeds([3.0])) == ([1.0], [3.0])

    @given(st.integers(0, 80), st.floats(0.005, 0.2), st.lists(st.floats(-90.0, 90.0), min_size=1, max_size=100))
    def test_predictions_are_exact_for_the_assumed_arm(self, quarters: int, lag_s: float, steps: list[float]) -> None:
        """Any delay, lag and steps: the exact response to the steps, while other targets are sent."""
        delay_s = quarters * PERIOD_S / 4
        left = math.exp(-PERIOD_S / 4 / lag_s)

        def response(targets: list[float]) -> tuple[list[float], list[float]]:
            """Angles and speeds of a servo that is late and lags, at the end of each tick."""
            angle, angles, speeds = 0.0, [], []
            for target in [0.0] * quarters + [target for target in targets for _ in range(4)]:
                angle = target + left * (angle - target)
                angles.append(angle)
                speeds.append((target - angle) / lag_s)
            return angles[3 : 4 * len(targets) : 4], speeds[3 : 4 * len(targets) : 4]

        sent = [0.3 * step for step in steps]  # whatever was sent instead
        predictor = Predictor(Imperfections(action_delay_s=delay_s, servo_lag_s=lag_s), 1, PERIOD_S)
        predicted = []
        for step, target, angle, speed in zip(steps, sent, *response(sent), strict=True):
            predictor.tick([step - target])
            predicted.append((*predictor.angles([angle]), *predictor.speeds([speed])))
        np.testing.assert_allclose(predicted, np.transpose(response(steps)), rtol=0, atol=1e-9 / lag_s)


class TestAssumedArm:
    """Delay and lag that are assumed."""

    def test_they_are_the_means_of_the_trained_ranges(self) -> None:
        """18.5 and 35 ms of `xl430`, from its ranges."""
        xl430 = PRESETS["xl430"]
        assert (xl430.mean_delay_s, xl430.mean_lag_s) == pytest.approx((0.0185, 0.035))
        assert (PRESETS["ideal"].mean_delay_s, PRESETS["ideal"].mean_lag_s) == (0.0, IDEAL_LAG_S)

    def test_a_real_arm_is_assumed_to_be_an_xl430_by_default(self) -> None:
        """A measured arm of the training and `--imperfections` take precedence."""

        def expected(trained: Imperfections = PRESETS["rough"], **words: str) -> Imperfections:
            config = SessionConfig("policy.onnx", random=1, **words)  # type: ignore[arg-type]
            return imperfections_of(config, load_driver(config.driver), trained)

        measured = Imperfections(action_delay_s=(0.03, 0.04))
        assert (expected(), expected(imperfections="rough")) == (PRESETS["ideal"], PRESETS["rough"])
        real = {"driver": "dynamixel", "port": "/dev/ttyUSB0", "calibration": "calibration.json"}
        assert (expected(**real), expected(**real, imperfections="ideal")) == (PRESETS["xl430"], PRESETS["ideal"])
        # A policy that was trained for a measured arm is for that arm, unless another one is named.
        assert expected(measured, **real) == measured
        assert expected(measured, **real, imperfections="late") == PRESETS["late"]
        assert expected(measured) == PRESETS["ideal"]
        with pytest.raises(ValueError, match="--imperfections: has no effect on a recording on a real arm"):
            SessionConfig("run.mcap", imperfections="ideal", **real).check_driver(load_driver("dynamixel"))  # type: ignore[arg-type]


class Hasty(ScriptedPolicy):
    """Approaches a pose with a gain at which a little more delay would oscillate; keeps what it observed."""

    def __init__(self) -> None:
        super().__init__([])
        self.known: list[list[float]] = []
        self.actions: list[list[float]] = []

    def decide(
        self,
        angles: list[float],
        speeds: list[float],
        previous: list[float],
        previous_speed: list[float],
        *_: object,
    ) -> list[float]:
        self.known.append([*angles, *speeds, *previous, *previous_speed])
        action = ARM.limits.clip(
            [here + 2.0 * (there - here) for here, there in zip(angles, [60.0, 50.0, 20.0], strict=True)]
        )
        self.actions.append(action)
        return action


def known(rate_hz: float, lag_s: float = IDEAL_LAG_S, policy: Hasty | None = None) -> tuple[np.ndarray, float]:
    """The observations of a policy of 30 Hz at this rate, and the arm's final error in degrees."""
    policy = policy or Hasty()
    clock = FakeClock()
    arm = FakeArm(clock, lag_s=lag_s)
    loop = ControlLoop(arm, Safety(ARM, ARM.limits, 1 / rate_hz), clock)
    goal = StillGoal(ARM.tip_position([60.0, 50.0, 20.0]))
    end: list[list[float]] = []
    work = GoalWork(policy, [goal], seconds_per_goal=1.5, on_goal=lambda _: end.append(list(arm.angles_deg)))  # type: ignore[arg-type]
    report = loop.run(work)
    assert report.clamped == {}
    assert report.faults == []
    return np.array(policy.known), float(np.abs(np.array(end[0]) - [60.0, 50.0, 20.0]).max())


class Pursuer(ScriptedPolicy):
    """Commands the pose of its goal, ahead by the lag of the servos."""

    def decide(
        self,
        angles: list[float],
        speeds: list[float],
        previous: list[float],
        previous_speed: list[float],
        *goal: tuple[float, ...],
    ) -> Any:
        at, velocity = goal
        return ARM.inverse_kinematics(np.array(at) + (IDEAL_LAG_S + 0.5 / 30) * np.array(velocity)).tolist()


class TestHigherRates:
    """Policies of 30 Hz in faster loops."""

    @pytest.mark.parametrize("rate_hz", [60.0, 90.0, 240.0, 990.0])
    def test_at_multiples_of_its_rate_the_observations_are_the_same(self, rate_hz: float) -> None:
        """To 1e-6, including the speed of the previous target."""
        own, _ = known(30.0)
        np.testing.assert_allclose(known(rate_hz)[0], own, rtol=0, atol=1e-6)
        assert abs(own[0, :3] - START).max() == 0.0
        # The speed of the previous target is that at which its limiter got there: the change in the step before.
        np.testing.assert_allclose(own[1:, 9:], 30.0 * np.diff(own[:, 6:9], axis=0), rtol=0, atol=1e-9)
        assert abs(own[:, 9:]).max() > 20.0

    @pytest.mark.parametrize("rate_hz", [30.0, 50.0, 60.0, 100.0, 200.0, 1000.0])
    def test_at_any_rate_the_target_speed_is_that_of_the_policys_own_limiter(self, rate_hz: float) -> None:
        """From each step to the next, `limit_target` gives that speed, soft start included."""
        policy = Hasty()
        inputs, _ = known(rate_hz, policy=policy)
        for step in range(len(inputs) - 1):
            # The ticks of this step: the nearest whole ones to its beginning and end.
            end = round((step + 1) / 30 * rate_hz)
            ticks = end - round(step / 30 * rate_hz)
            # The soft start: blended with the start by 3 x^2 - 2 x^3 for two seconds.
            x = min(1.0, end / rate_hz / 2.0)
            share = 3.0 * x**2 - 2.0 * x**3
            desired = [here + share * (there - here) for here, there in zip(START, policy.actions[step], strict=True)]
            target = inputs[step, 6:9].tolist()
            speed = inputs[step, 9:].tolist()
            _, end_speed = limit_target(desired, target, speed, ARM.limits, ticks / rate_hz)
            np.testing.assert_allclose(inputs[step + 1, 9:], end_speed, rtol=0, atol=1e-6)
        assert np.abs(inputs[:, 9:]).max() > 20.0

    @pytest.mark.parametrize("rate_hz", [50.0, 100.0, 200.0, 1000.0])
    def test_at_other_rates_the_pose_is_reached(self, rate_hz: float) -> None:
        """The final error is below 0.5 degrees."""
        assert known(rate_hz)[1] < 0.5

    def test_a_wrong_lag_causes_no_error_at_rest(self) -> None:
        """A lag of 30 ms instead of the assumed one."""
        assert known(240.0, lag_s=0.03)[1] < 0.5

    @pytest.mark.parametrize("rate_hz", [60.0, 100.0, 240.0])
    def test_a_moving_goal_is_followed_as_closely_at_a_higher_rate(self, rate_hz: float) -> None:
        """Within 0.5 mm of the error at 30 Hz; the delay alone would cost 3 to 6 mm."""
        trajectory = MovingGoal(Track(path="circle").draw_path(ARM, np.random.default_rng(2)), 120, 1 / 30)

        def error_mm(rate_hz: float) -> float:
            clock = FakeClock()
            loop = ControlLoop(FakeArm(clock, lag_s=IDEAL_LAG_S), Safety(ARM, ARM.limits, 1 / rate_hz), clock)
            (result,) = loop.run(GoalWork(Pursuer([]), [trajectory], seconds_per_goal=4.0)).goals  # type: ignore[arg-type]
            return result.error_mm

        assert error_mm(rate_hz) < error_mm(30.0) + 0.5  # the delay alone would be worth 3 to 6 mm
