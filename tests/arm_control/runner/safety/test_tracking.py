"""Tracking checks: no false alarm for healthy arms, and each fault within its stated time."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_arm import ARM, FakeArm, FakeClock, Skilled
from helpers import Size
from hypothesis import given, settings
from hypothesis import strategies as st

from arm_control.drivers.simulation import SimulationDriver
from arm_control.runner.clocks import FastTime
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import ControlLoop
from arm_control.runner.safety import Safety, SafetySettings
from arm_control.runner.safety.tracking import MAX_DELAY_S, MAX_LAG_S, WINDOW_S, ExpectedMotion, StillJoints
from envs.imperfections import PRESETS, Imperfections
from envs.limits import limit_target
from envs.tasks.base import StillGoal

ALLOWED_M = math.radians(SafetySettings().tip_deg) * max(ARM.levers_m)
LEVEL = [20.0, 90.0, 0.0]  # the tip is 0.45 m from the base's axis
ZIGZAG = [[0.0, 80.0, 10.0], [90.0, 80.0, 10.0], [0.0, 20.0, 80.0], [90.0, 90.0, 10.0]]

Angles = list[float]


def targets_between(poses: list[Angles], rate: float, hold_s: float) -> list[Angles]:
    """Targets within the limits, from the first pose on, for this many seconds towards each."""
    target, speed, targets = poses[0], [0.0] * 3, []
    for pose in poses:
        for _ in range(round(hold_s * rate)):
            target, speed = limit_target(pose, target, speed, ARM.limits, 1.0 / rate)
            targets.append(target)
    return targets


def readings_of(targets: list[Angles], period_s: float, delay_s: float, lag_s: float) -> list[Angles]:
    """The exact response of a dead time and a first-order lag, at the end of each period."""
    events = sorted({tick * period_s for tick in range(1, len(targets) + 1)})
    changes = [(tick * period_s + delay_s, target) for tick, target in enumerate(targets)]
    angles, followed, now_s, readings = np.array(targets[0]), np.array(targets[0]), 0.0, []
    for end_s in events:
        while changes and changes[0][0] < end_s - 1e-12:
            at_s, target = changes.pop(0)
            angles = followed + (angles - followed) * math.exp(-(at_s - now_s) / lag_s)
            now_s, followed = at_s, np.array(target)
        angles = followed + (angles - followed) * math.exp(-(end_s - now_s) / lag_s)
        now_s = end_s
        readings.append(angles.tolist())
    return readings


def worst_off_m(targets: list[Angles], readings: list[Angles], period_s: float) -> float:
    """The largest deviation of the tip from its expected position."""
    expected = ExpectedMotion(ARM, period_s)
    expected.start(readings[0], 0.0)
    worst_m = 0.0
    for tick, (target, reading) in enumerate(zip(targets, readings, strict=True), 1):
        expected.sent(target, tick * period_s)
        expected.compare(reading)
        worst_m = max(worst_m, expected.tip_off_m)
    return worst_m


poses = st.lists(st.lists(st.floats(0.0, 90.0), min_size=3, max_size=3), min_size=2, max_size=6)


class TestExpectedMotion:
    """The tip against its expected position."""

    @settings(max_examples=40)
    @given(
        poses,
        st.sampled_from([30.0, 45.0, 60.0, 100.0, 240.0, 500.0]),
        st.sampled_from([0.1, 0.4, 1.0]),
        st.floats(0.0, MAX_DELAY_S),
        st.floats(0.004, MAX_LAG_S),
    )
    def test_any_allowed_delay_and_lag_stays_within_the_bound(
        self, poses: list[Angles], rate: float, hold_s: float, delay_s: float, lag_s: float
    ) -> None:
        """Any delay and lag uses at most two thirds of what is allowed."""
        targets = targets_between(poses, rate, hold_s)
        readings = readings_of(targets, 1.0 / rate, delay_s, lag_s)
        assert worst_off_m(targets, readings, 1.0 / rate) < 0.67 * ALLOWED_M

    @pytest.mark.parametrize("period_s", [1 / 30, 1 / 100, 1 / 500])
    def test_a_joint_that_is_off_moves_the_tip_by_the_chord(self, period_s: float) -> None:
        """The mean deviation approaches 2 r sin(a / 2) with the window's time constant."""
        expected = ExpectedMotion(ARM, period_s)
        expected.start(LEVEL, 0.0)
        chord_m = 2.0 * 0.45 * math.sin(math.radians(5.0) / 2.0)
        for tick in range(1, round(1.5 * WINDOW_S / period_s) + 1):
            expected.sent(LEVEL, tick * period_s)
            expected.compare([LEVEL[0] + 5.0, *LEVEL[1:]])
        now_s = tick * period_s
        steps_s = max(period_s, 0.01 if period_s < 0.01 else period_s)
        assert expected.tip_off_m == pytest.approx(chord_m * -math.expm1(-now_s / WINDOW_S), rel=2.0 * steps_s)
        assert expected.angles_deg == pytest.approx(LEVEL)

    def test_the_expected_angles_are_those_of_the_arms_own_delay_and_lag(self) -> None:
        """Within 0.5 degrees of an arm of 0.1 s and 45 ms, whose targets are 40 degrees ahead."""
        targets = targets_between([[10.0, 20.0, 30.0], [80.0, 70.0, 60.0], [10.0, 20.0, 30.0]], 100.0, 1.0)
        readings = readings_of(targets, 0.01, 0.1, 0.045)
        expected = ExpectedMotion(ARM, 0.01)
        expected.start(readings[0], 0.0)
        gaps, ahead = [], []
        for tick, (target, reading) in enumerate(zip(targets, readings, strict=True), 1):
            expected.sent(target, 0.01 * tick)
            expected.compare(reading)
            if tick > 200:  # on the second motion; during the first it is estimated
                gaps.append(np.abs(np.subtract(expected.angles_deg, reading)).max())
                ahead.append(np.abs(np.subtract(target, reading)).max())
        assert max(gaps) < 0.5
        assert max(ahead) > 40.0

    @pytest.mark.parametrize("stands_still", [True, False], ids=["a simulated arm", "a real arm"])
    def test_overruns_are_no_fault(self, stands_still: bool) -> None:
        """Two ticks of each motion are late by 90 ms; a real arm moves meanwhile, a simulated one does not."""
        rate = 30.0
        targets = targets_between(ZIGZAG, rate, 0.6)
        late = [tick for tick in range(len(targets)) if tick % 18 in (6, 8)]
        late_s = [0.09 * sum(tick >= at for at in late) for tick in range(len(targets))]
        at_s = [(tick + 1) / rate + late_s[tick] for tick in range(len(targets))]
        readings = readings_of(targets, 1.0 / rate, MAX_DELAY_S, MAX_LAG_S)
        if not stands_still:
            # In steps of 1/300 s, with the target that was there held for 27 more of them.
            held = [target for tick, target in enumerate(targets) for _ in range(10 + 27 * (tick in late))]
            fine = readings_of(held, 1.0 / 300.0, MAX_DELAY_S, MAX_LAG_S)
            readings = [fine[round(300.0 * now_s) - 1] for now_s in at_s]
        expected = ExpectedMotion(ARM, 1.0 / rate)
        expected.start(readings[0], 0.0)
        for target, reading, now_s in zip(targets, readings, at_s, strict=True):
            expected.sent(target, now_s)
            expected.compare(reading)
            assert expected.tip_off_m < ALLOWED_M

    def test_lost_targets_are_no_fault(self) -> None:
        """Two in five do not arrive, and the loop reports them as lost."""
        targets = targets_between(ZIGZAG, 30.0, 0.4)
        lost = np.random.default_rng(8).random(len(targets)) < 0.4
        arrived, last = [], targets[0]
        for target, is_lost in zip(targets, lost, strict=True):
            last = last if is_lost else target
            arrived.append(last)
        readings = readings_of(arrived, 1 / 30, 0.0, 0.02)
        expected = ExpectedMotion(ARM, 1 / 30)
        expected.start(readings[0], 0.0)
        for tick, (target, reading) in enumerate(zip(targets, readings, strict=True)):
            if lost[tick]:
                expected.lost()
            expected.sent(target, (tick + 1) / 30)
            expected.compare(reading)
            assert expected.tip_off_m < ALLOWED_M


class TestStillJoints:
    """Readings that stand still while their targets move."""

    @staticmethod
    def found_s(target_deg: Callable[[float], float], reading_deg: Callable[[float], float]) -> float | None:
        """When, in steps of 10 ms, the only joint is found; None if it is not within 5 s."""
        still = StillJoints(1)
        still.start([reading_deg(0.0)], 0.0)
        for tick in range(1, 501):
            now_s = 0.01 * tick
            still.sent([target_deg(now_s)], now_s)
            if still.find([reading_deg(now_s)], now_s, 3.0) is not None:
                return now_s
        return None

    def test_it_is_found_when_the_slowest_arm_would_have_moved(self) -> None:
        """3 degrees at 10 degrees/s take 0.3 s, and the slowest arm needs 0.45 s more."""
        found_s = self.found_s(lambda now_s: 20.0 + 10.0 * now_s, lambda now_s: 20.0)
        assert found_s == pytest.approx(0.3 + 0.45, abs=0.035)

    @pytest.mark.parametrize(
        ("target_deg", "reading_deg"),
        [
            (lambda s: 20.0, lambda s: 20.0),
            (lambda s: min(22.9, 20.0 + 10.0 * s), lambda s: 20.0),
            # It moves: by one step of an encoder with 4,096 a turn, in time.
            (lambda s: 20.0 + 5.0 * s, lambda s: 20.0 + 360 / 4096 * math.floor(s / 0.5)),
            # As late and slow as is allowed, and quantised.
            (lambda s: 20.0 + 60.0 * s, lambda s: 20.0 + 0.088 * round(60.0 * max(0.0, s - 0.35) / 0.088)),
            # A few readings that are repeated.
            (lambda s: 20.0 + 15.0 * s, lambda s: 20.0 + 15.0 * (s - s % 0.2)),
        ],
        ids=["at rest", "less than 3 degrees", "one step in time", "late and slow", "repeated"],
    )
    def test_slow_and_resting_joints_are_not_found(
        self, target_deg: Callable[[float], float], reading_deg: Callable[[float], float]
    ) -> None:
        """Joints that rest, move slowly, are quantised, or whose target hardly moves."""
        assert self.found_s(target_deg, reading_deg) is None

    def test_targets_from_before_it_stood_still_do_not_count(self) -> None:
        """A joint that has arrived rests with its target."""
        assert self.found_s(lambda s: min(60.0, 20.0 + 80.0 * s), lambda s: min(60.0, 20.0 + 80.0 * s)) is None


class TestHealthyArms:
    """No false alarm, and the arms that must be stopped."""

    @pytest.mark.parametrize("rate", [30.0, 100.0, 500.0])
    @pytest.mark.parametrize("preset", PRESETS)
    def test_a_simulated_arm_with_any_of_its_presets_imperfections(self, preset: str, rate: float, size: Size) -> None:
        """Other draws of them in each run, short goals and long ones.

        With up to 0.1 kg (`rough`) at 0.6 of the acceleration: at all of it, one arm in 40 cannot swing its payload.
        """
        share = 0.6 if preset == "rough" else 1.0
        hardest = tuple(share * most for most in ARM.limits.max_acceleration_deg_s2)
        limits = dataclasses.replace(ARM.limits, max_acceleration_deg_s2=hardest)
        for seed in range(size(1, full=40, of="runs")):
            generator = np.random.default_rng([seed, round(rate)])
            clock = FastTime()
            driver = SimulationDriver(ARM, 1.0 / rate, preset, clock.now_s)
            body: Any = driver._body
            if PRESETS[preset].any:
                body.randomise(generator)
                body.start(generator)
            goals = [StillGoal(ARM.tip_position(generator.uniform(0.0, 90.0, 3).tolist())) for _ in range(4)]
            seconds = float(generator.choice([0.2, 0.5, 1.5]))
            loop = ControlLoop(driver, Safety(ARM, limits, 1.0 / rate), clock)
            try:
                report = loop.run(GoalWork(Skilled(), goals, seconds_per_goal=seconds))  # type: ignore[arg-type]
            finally:
                driver.close()
            assert (report.faults, report.parked) == ([], True), (seed, preset, rate)

    @pytest.mark.parametrize("is_described", [True, False])
    def test_an_arm_slower_than_the_presets_has_to_be_described(self, is_described: bool) -> None:
        """A delay of 0.4 s and a lag of 0.25 s are a fault unless the settings allow them."""
        clock = FastTime()
        driver = SimulationDriver(
            ARM, 0.01, Imperfections(action_delay_s=(0.4, 0.4), servo_lag_s=(0.25, 0.25)), clock.now_s
        )
        settings = SafetySettings(max_delay_s=0.4, max_lag_s=0.25) if is_described else SafetySettings()
        goals = [StillGoal(ARM.tip_position(angles)) for angles in ([80.0, 80.0, 5.0], [5.0, 10.0, 80.0])]
        loop = ControlLoop(driver, Safety(ARM, ARM.limits, 0.01, settings), clock)
        try:
            report = loop.run(GoalWork(Skilled(), goals, seconds_per_goal=1.5))  # type: ignore[arg-type]
        finally:
            driver.close()
        assert (report.faults == []) == is_described

    def test_an_arm_that_cannot_lift_its_payload_is_stopped(self) -> None:
        """0.2 kg on the default arm: its shoulder stays behind."""
        clock = FastTime()
        driver = SimulationDriver(ARM, 0.01, Imperfections(payload_kg=(0.2, 0.2)), clock.now_s)
        body: Any = driver._body
        body.randomise(np.random.default_rng(0))
        goals = [StillGoal(ARM.tip_position(angles)) for angles in ([45.0, 90.0, 5.0], [45.0, 5.0, 5.0])]
        loop = ControlLoop(driver, Safety(ARM, ARM.limits, 0.01), clock)
        try:
            report = loop.run(GoalWork(Skilled(), goals, seconds_per_goal=1.5))  # type: ignore[arg-type]
        finally:
            driver.close()
        assert report.faults[0].check == "tracking"
        assert "shoulder is at" in report.faults[0].text

    def test_a_dry_run_is_not_checked(self) -> None:
        """Nothing follows its targets."""
        clock = FakeClock()
        arm = FakeArm(clock)
        safety = Safety(ARM, ARM.limits, 1 / 30, SafetySettings(tracking_deg=math.inf))
        loop = ControlLoop(arm, safety, clock, dry_run=True)
        goals = [StillGoal(ARM.tip_position([80.0, 80.0, 10.0]))] * 2
        report = loop.run(GoalWork(Skilled(), goals, seconds_per_goal=2.0))  # type: ignore[arg-type]
        assert report.faults == []
