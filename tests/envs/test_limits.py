"""The limiter of targets: its three limits for any desired angles, and steps computed by hand."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.arm import Arm
from envs.limits import (
    JointLimits,
    interpolate_target,
    lead_target,
    limit_target,
    next_speed,
    next_target,
    stopping_speed,
)

ONE = JointLimits((0.0,), (90.0,), (100.0,), (200.0,))
PERIOD_S = 0.1  # with ONE: a speed changes by 20 degrees/s a period


def follow(
    desired: Sequence[float], start: float, limits: JointLimits, period_s: float, speed: float = 0.0
) -> tuple[list[float], list[float]]:
    """Targets and speeds of one joint that follows `desired`."""
    target_deg, speed_deg_s = [start], [speed]
    targets, speeds = [start], [speed]
    for angle in desired:
        target_deg, speed_deg_s = limit_target([angle], target_deg, speed_deg_s, limits, period_s)
        targets.append(target_deg[0])
        speeds.append(speed_deg_s[0])
    return targets, speeds


angles = st.floats(-720.0, 720.0)
periods = st.floats(0.001, 0.1)


@st.composite
def joints(draw: st.DrawFn) -> JointLimits:
    low = draw(st.floats(-180.0, 170.0))
    high = low + draw(st.floats(1.0, 360.0))
    return JointLimits((low,), (high,), (draw(st.floats(1.0, 1000.0)),), (draw(st.floats(1.0, 1e5)),))


class TestLimitTarget:
    """The limiter of targets: position, speed and acceleration."""

    @given(
        joints(), periods, st.floats(0.0, 1.0), st.lists(st.tuples(angles, st.integers(1, 30)), min_size=1, max_size=40)
    )
    def test_all_limits_hold_for_any_desired_angles(
        self, limits: JointLimits, period_s: float, start: float, desired_angles: list[tuple[float, int]]
    ) -> None:
        """Targets, their differences and second differences stay within the limits, for any joint and period."""
        (low,), (high,) = limits.lower_deg, limits.upper_deg
        (max_speed,), (max_acceleration,) = limits.max_speed_deg_s, limits.max_acceleration_deg_s2
        desired = [angle for angle, held in desired_angles for _ in range(held)]
        targets, speeds = follow(desired, low + start * (high - low) * (1 - 1e-12), limits, period_s)
        assert all(low <= target <= high for target in targets)
        rounding = 1e-12 * max(abs(low), abs(high)) / period_s  # of a speed that is taken from two targets
        moved = [0.0] + [(after - before) / period_s for before, after in pairwise(targets)]
        for reported, actual in zip(speeds, moved, strict=True):
            assert abs(reported) <= max_speed
            assert abs(actual) <= max_speed + rounding
            assert actual == pytest.approx(reported, abs=rounding + 1e-9 * max_speed)
        for before, after in pairwise(moved):
            assert abs(after - before) <= max_acceleration * period_s * (1 + 1e-9) + 2 * rounding + 1e-9 * max_speed

    @pytest.mark.slow
    @given(joints(), periods, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
    def test_a_constant_angle_is_reached_without_overshoot(
        self, limits: JointLimits, period_s: float, start: float, end: float
    ) -> None:
        """From rest the target moves monotonically and arrives in the trapezoidal-profile time plus rounding to
        periods."""
        (low,), (high,) = limits.lower_deg, limits.upper_deg
        begin, goal = (low + share * (high - low) * (1 - 1e-12) for share in (start, end))
        distance, speed, acceleration = abs(goal - begin), limits.max_speed_deg_s[0], limits.max_acceleration_deg_s2[0]
        # Speeding up, cruising and braking without periods, and then as many periods as the rounding to them may cost.
        ideal_s = (
            distance / speed + speed / acceleration
            if distance * acceleration > speed**2
            else 2 * math.sqrt(distance / acceleration)
        )
        steps = math.ceil(ideal_s / period_s) + 20 + math.ceil(speed / acceleration / period_s)
        targets, speeds = follow([goal] * min(steps, 100_000), begin, limits, period_s)
        sign = math.copysign(1.0, goal - begin)
        rounding = 1e-12 * max(abs(low), abs(high), 1.0)
        assert all(sign * (goal - target) >= -rounding for target in targets)
        assert all(sign * (after - before) >= -rounding for before, after in pairwise(targets))
        if steps <= 100_000:
            assert targets[-1] == pytest.approx(goal, abs=1e-9)
            assert speeds[-1] == pytest.approx(0.0, abs=1e-6)

    @given(st.floats(0.0, 90.0), st.floats(0.0, 90.0))
    def test_the_default_joints_come_to_rest_on_the_angle(self, start: float, goal: float) -> None:
        """The default arm's joints stop on the desired angle to 1e-13 degrees."""
        limits = Arm().limits
        one = JointLimits(
            *((column[0],) for column in (limits.lower_deg, limits.upper_deg, limits.max_speed_deg_s)),
            (limits.max_acceleration_deg_s2[0],),
        )
        targets, speeds = follow([goal] * 60, start, one, 1 / 30)
        assert targets[-1] == pytest.approx(goal, rel=0, abs=1e-13)
        assert speeds[-1] == pytest.approx(0.0, abs=1e-11)

    def test_acceleration_cruise_and_reversal_by_hand(self) -> None:
        """Speeds and targets of 13 periods at a T = 20 degrees/s, computed by hand."""
        targets, speeds = follow([90.0] * 6 + [0.0] * 7, 0.0, ONE, PERIOD_S)
        assert speeds == pytest.approx([0, 20, 40, 60, 80, 100, 100, 80, 60, 40, 20, 0, -20, -40])
        assert targets == pytest.approx([0, 2, 6, 12, 20, 30, 40, 48, 54, 58, 60, 60, 58, 54])

    def test_braking_by_hand(self) -> None:
        """The braking speed solves v T + v^2 / (2 a) = the remaining distance (computed by hand)."""
        # 3 degrees to go at 20 degrees/s: v T + v^2 / (2 a) = 2 + 1. Then 1 degree: v = sqrt(20^2 + 400 x 1) - 20.
        targets, speeds = follow([13.0] * 2, 10.0, ONE, PERIOD_S, speed=20.0)
        assert speeds == pytest.approx([20, 20, math.sqrt(800) - 20])
        assert targets == pytest.approx([10, 12, 12 + 0.1 * (math.sqrt(800) - 20)])

    def test_too_fast_to_stop_it_brakes_at_the_limit(self) -> None:
        """1 degree before the goal at 100 degrees/s, the speed falls by a T a period (computed by hand)."""
        targets, speeds = follow([41.0] * 4, 40.0, ONE, PERIOD_S, speed=100.0)
        assert speeds == pytest.approx([100, 80, 60, 40, 20])
        assert targets == pytest.approx([40, 48, 54, 58, 60])

    def test_each_joint_has_its_own_limits(self) -> None:
        """Three joints with different limits are limited independently (computed by hand)."""
        limits = JointLimits((0.0, -10.0, 5.0), (90.0, 10.0, 50.0), (100.0, 10.0, 1000.0), (200.0, 1000.0, 1e6))
        targets, speeds = limit_target([90.0, -999.0, 999.0], [0.0, 0.0, 49.0], [0.0, 0.0, 0.0], limits, PERIOD_S)
        # 1: accelerates. 2: at full speed at once. 3: stops on its limit: c = 1e5, sqrt(c^2 + 2e6 x 1) - c = 9.9995.
        assert speeds == pytest.approx([20, -10, math.sqrt(1e10 + 2e6) - 1e5])
        assert targets == pytest.approx([2, -1, 49 + 0.1 * (math.sqrt(1e10 + 2e6) - 1e5)])

    def test_desired_angles_are_clipped_to_the_limits(self) -> None:
        """Angles beyond the range give the motion to its ends."""
        beyond, _ = follow([1e6] * 40 + [-1e6] * 40, 45.0, ONE, PERIOD_S)
        exactly, _ = follow([90.0] * 40 + [0.0] * 40, 45.0, ONE, PERIOD_S)
        assert beyond == exactly
        assert beyond[40] == pytest.approx(90.0, abs=1e-9)
        assert beyond[-1] == pytest.approx(0.0, abs=1e-9)


class TestInterpolation:
    """Steps that are divided into ticks."""

    def test_interpolated_targets_by_hand(self) -> None:
        """Two steps of two ticks equal those computed by hand, and the last tick leads to the step's target."""
        # Steps of two ticks: from rest to 20 degrees/s as limit_target does, by way of 10; then to 40, by way of 30.
        step_deg, way = interpolate_target([90.0], [0.0], [0.0], ONE, PERIOD_S / 2, 2)
        assert step_deg == pytest.approx([2.0])
        assert [target[0] for target, _ in way] == pytest.approx([0.5, 1.5])
        assert [speed[0] for _, speed in way] == pytest.approx([10.0, 20.0])
        assert lead_target(*way[-1], ONE, PERIOD_S / 2, 2) == pytest.approx(step_deg)
        step_deg, way = interpolate_target([90.0], *way[-1], ONE, PERIOD_S / 2, 2)
        assert step_deg == pytest.approx([6.0])
        assert [target[0] for target, _ in way] == pytest.approx([3.0, 5.0])

    @given(joints(), periods, st.integers(1, 40), st.floats(0.0, 1.0), st.lists(angles, min_size=1, max_size=40))
    def test_interpolated_steps_equal_the_limiter_and_respect_the_limits(
        self, limits: JointLimits, step_s: float, ticks: int, start: float, desired_angles: list[float]
    ) -> None:
        """Step targets equal `limit_target`'s, and each tick keeps position, speed and acceleration limits."""
        (low,), (high,) = limits.lower_deg, limits.upper_deg
        (max_speed,), (max_acceleration,) = limits.max_speed_deg_s, limits.max_acceleration_deg_s2
        begin, period_s = low + start * (high - low) * (1 - 1e-12), step_s / ticks
        steps, _ = follow(desired_angles, begin, limits, step_s)
        target, speed, sent, own = [begin], [0.0], [begin], [begin]
        for desired in desired_angles:
            step_deg, way = interpolate_target([desired], target, speed, limits, period_s, ticks)
            own.append(step_deg[0])
            sent += [angles_deg[0] for angles_deg, _ in way]
            target, speed = way[-1]
        size = max(abs(low), abs(high), 1.0)
        assert own == pytest.approx(steps, rel=0, abs=1e-7 * size)
        assert min(sent) >= low - 1e-9 * size
        assert max(sent) <= high + 1e-9 * size
        speeds = [0.0] + [(after - before) / period_s for before, after in pairwise(sent)]
        rounding = 1e-12 * size / period_s + 1e-9 * max_speed
        assert max(map(abs, speeds)) <= max_speed + rounding
        for before, after in pairwise(speeds):
            assert abs(after - before) <= max_acceleration * period_s * (1 + 1e-9) + 2 * rounding


class TestValidation:
    """Invalid angles and limits."""

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_rejects_non_finite_angles_without_changing_its_arguments(self, bad: float) -> None:
        """NaN and infinities raise ValueError, and the given target and speed are not modified."""
        limits = Arm().limits
        target, speed = [10.0, 20.0, 30.0], [1.0, 2.0, 3.0]
        with pytest.raises(ValueError, match="expected finite target angles in degrees, got"):
            limit_target([45.0, 45.0, bad], target, speed, limits, 1 / 30)
        assert (target, speed) == ([10.0, 20.0, 30.0], [1.0, 2.0, 3.0])

    def test_rejects_a_wrong_number_of_angles(self) -> None:
        """Two angles for three joints raise ValueError."""
        with pytest.raises(ValueError, match=r"shorter|longer"):
            limit_target([1.0, 2.0], [0.0] * 3, [0.0] * 3, Arm().limits, 1 / 30)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (((), (), (), ()), "one value a joint in each field"),
            (((0.0,), (90.0, 90.0), (1.0,), (1.0,)), "one value a joint in each field"),
            (((0.0,), (math.inf,), (1.0,), (1.0,)), "finite"),
            (((0.0,), (90.0,), (math.nan,), (1.0,)), "finite"),
            (((0.0,), (90.0,), (1.0,), (math.inf,)), "finite"),
            (((90.0,), (90.0,), (1.0,), (1.0,)), "lower < upper"),
            (((91.0,), (90.0,), (1.0,), (1.0,)), "lower < upper"),
            (((0.0,), (90.0,), (0.0,), (1.0,)), "positive speeds and accelerations"),
            (((0.0,), (90.0,), (1.0,), (-1.0,)), "positive speeds and accelerations"),
        ],
    )
    def test_rejects_invalid_limits(self, columns: Any, message: str) -> None:
        """Missing, reversed, non-finite or non-positive limits raise an error that says which."""
        with pytest.raises(ValueError, match=f"joint limits: expected .*{message}"):
            JointLimits(*columns)

    def test_limits_are_immutable(self) -> None:
        """Assigning to a field of JointLimits raises AttributeError."""
        with pytest.raises(AttributeError):
            ONE.max_speed_deg_s = (1e9,)  # type: ignore[misc]


class TestCrossing:
    """The time in which every joint can cross its range."""

    def test_by_hand(self) -> None:
        """Trapezoidal and triangular profiles by hand: 1 + 2 + 1 s and 3 + 3 s; the slowest joint counts."""
        # 90 degrees at 30 degrees/s: 1 s to speed up over 15 degrees, 2 s for 60, and 1 s to slow down.
        assert JointLimits((0.0,), (90.0,), (30.0,), (30.0,)).crossing_s == pytest.approx(4.0)
        # 90 degrees by 10 degrees/s^2: 3 s for each half of 45.
        assert JointLimits((-45.0,), (45.0,), (100.0,), (10.0,)).crossing_s == pytest.approx(6.0)
        assert JointLimits((0.0, -45.0), (90.0, 45.0), (30.0, 100.0), (30.0, 10.0)).crossing_s == pytest.approx(6.0)

    @given(joints())
    def test_the_limiter_takes_that_time(self, limits: JointLimits) -> None:
        """With 400 periods in the crossing time, the limiter arrives within 10 % of them."""
        steps = 400
        period_s = limits.crossing_s / steps
        target, speed = limits.lower_deg, (0.0,) * len(limits.lower_deg)
        taken = 0
        while any(
            abs(a - b) > 1e-3 * (b - c) for a, b, c in zip(target, limits.upper_deg, limits.lower_deg, strict=True)
        ):
            target, speed = limit_target(limits.upper_deg, target, speed, limits, period_s)  # type: ignore[assignment]
            taken += 1
        assert 0.9 * steps < taken < 1.1 * steps


class TestHelpers:
    """The functions of which every limiter is made."""

    @pytest.mark.parametrize("distance", [0.0, 0.01, 3.0, 90.0])
    def test_the_stopping_speed_uses_the_whole_distance(self, distance: float) -> None:
        """One period at that speed and v^2 / (2 a) of braking add up to the distance."""
        period_s = 0.01
        acceleration = 400.0
        speed = stopping_speed(distance, acceleration * period_s, acceleration)
        assert speed * period_s + speed**2 / (2 * acceleration) == pytest.approx(distance, abs=1e-12)

    @pytest.mark.parametrize(
        ("wanted", "expected"), [(3.0, 3.0), (9.0, 4.0), (-9.0, 0.0), (0.0, 0.0), (math.inf, 4.0), (-math.inf, 0.0)]
    )
    def test_the_next_speed_is_limited_by_the_acceleration(self, wanted: float, expected: float) -> None:
        """From 2, with a change of at most 2, the next speed is between 0 and 4."""
        assert next_speed(wanted, 2.0, 100.0, 2.0) == expected

    def test_the_next_speed_is_limited_in_both_directions(self) -> None:
        """The speed limit of 5 applies to both signs."""
        assert next_speed(9.0, 4.0, 5.0, 2.0) == 5.0
        assert next_speed(-9.0, -4.0, 5.0, 2.0) == -5.0

    def test_a_target_inside_its_range_stays_inside(self) -> None:
        """A target inside of the range is clipped to it; one outside moves at its speed."""
        assert next_target(89.0, 60.0, 0.1, 0.0, 90.0) == 90.0
        assert next_target(1.0, -60.0, 0.1, 0.0, 90.0) == 0.0
        assert next_target(100.0, -60.0, 0.1, 0.0, 90.0) == 94.0
