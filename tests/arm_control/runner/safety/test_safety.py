"""Safety as a whole: start, fault stops, resets and limits."""

import dataclasses
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from safe_arm import ARM, PERIOD_S, START, Follower, reading

from arm_control.runner.safety import Safety, SafetyLevel
from envs.limits import JointLimits


class TestStart:
    """The first reading."""

    def test_a_valid_command_is_reached(self) -> None:
        """Level ok, nothing clamped, and the last target is the command."""
        arm = Follower().ticks(60, [80.0, 10.0, 50.0])
        assert (arm.check, arm.safety.clamped, arm.safety.level) == (None, {}, SafetyLevel.OK)
        np.testing.assert_allclose(arm.sent[-1], [80.0, 10.0, 50.0], atol=1e-9)
        arm.assert_within_limits()

    @pytest.mark.parametrize(
        ("angles", "check"),
        [
            ([-4.9, 30.0, 94.9], None),
            ([-5.1, 30.0, 40.0], "start"),
            ([20.0, 30.0, 95.1], "start"),
            ([20.0, 200.0, 40.0], "start"),
        ],
    )
    def test_where_an_arm_may_start(self, angles: list[float], check: str | None) -> None:
        """Up to 5 degrees outside its limits; the message for larger ones suggests to move it by hand."""
        arm = Follower(angles)
        assert arm.check == check
        assert arm.safety.placed == (check is None)
        if check is not None:
            assert "move the arm there by hand" in arm.safety.fault.text

    def test_a_start_outside_the_limits_is_corrected(self) -> None:
        """Within 1 degree the target is clipped; within 5 it returns within the acceleration limit."""
        assert Follower([-0.9, 30.0, 90.5]).safety.target_deg == [0.0, 30.0, 90.0]
        arm = Follower([-4.0, 30.0, 40.0], period_s=1 / 200)
        assert arm.sent[0] == [-4.0, 30.0, 40.0]
        arm.ticks(100, [0.0, 30.0, 40.0])
        assert arm.check is None
        base_deg = [sent[0] for sent in arm.sent]
        assert all(before <= after for before, after in pairwise(base_deg))
        assert base_deg[-1] == pytest.approx(0.0, abs=1e-6)
        assert abs(np.diff(arm.speeds[:, 0], prepend=0.0)).max() <= ARM.limits.max_acceleration_deg_s2[0] / 200 + 1e-6

    @pytest.mark.parametrize(
        "spoil", [{"angles_deg": [math.nan] * 3}, {"angles_deg": [1.0]}, {"speeds_deg_s": [1e9] * 3}]
    )
    def test_an_invalid_first_reading_places_no_target(self, spoil: dict[str, Any]) -> None:
        """The arm counts as not placed."""
        safety = Safety(ARM, ARM.limits, PERIOD_S)
        safety.start(dataclasses.replace(reading(), **spoil), 0.0)
        assert (safety.fault.check, safety.placed, safety.moving) == ("reading", False, False)

    def test_a_start_outside_the_workspace_is_a_fault(self) -> None:
        """The arm counts as not placed."""
        arm = Follower(workspace_m=(-1.0, -1.0, 0.0, 1.0, 1.0, 0.3))
        assert (arm.check, arm.safety.placed) == ("workspace", False)


class TestFaultStop:
    """A fault stop lasts until a reset."""

    def test_the_first_reason_is_kept_and_nothing_moves_until_a_reset(self) -> None:
        """Later faults do not replace it, and after a reset the arm moves again."""
        arm = Follower()
        arm.tick([math.nan] * 3)
        arm.ticks(3, [80.0] * 3, state=lambda state: dataclasses.replace(state, alerts=("elbow: overload",)))
        arm.safety.fault_stop("stale", "another")
        assert arm.check == "finite"
        assert arm.safety.toward([80.0] * 3) == START
        arm.assert_stops()
        arm.safety.reset(reading(arm.now_s), arm.now_s)
        assert arm.check is None
        arm.ticks(60, [60.0, 60.0, 60.0])
        np.testing.assert_allclose(arm.sent[-1], 60.0)
        arm.assert_within_limits()

    @pytest.mark.parametrize(
        ("spoil", "check"),
        [
            ({"alerts": ("elbow: overload",)}, "health"),
            ({"temperatures_c": [99.0] * 3}, "temperature"),
            ({"voltages_v": [1.0] * 3}, "voltage"),
            ({"angles_deg": [math.nan] * 3}, "reading"),
            ({"angles_deg": [200.0, 30.0, 40.0]}, "jump"),
            ({"stamp_s": 0.6}, "stale"),
        ],
    )
    def test_a_single_invalid_reading_stops_the_arm_for_good(self, spoil: dict[str, Any], check: str) -> None:
        """In motion, and whatever the readings after it."""
        arm = Follower()
        arm.ticks(5, [80.0, 80.0, 80.0])
        assert arm.safety.moving
        arm.tick([80.0] * 3, state=lambda state: dataclasses.replace(state, **spoil))
        assert arm.check == check
        arm.assert_stops()
        assert arm.check == check

    def test_braking_begins_in_the_tick_of_the_fault(self) -> None:
        """A recording that is too fast is slower in that very tick."""
        arm = Follower([10.0, 30.0, 40.0], period_s=0.01)
        angle = 10.0
        while arm.check is None:
            angle += 2.0
            arm.tick([min(angle, 90.0), 30.0, 40.0], follow=True)
        assert arm.check == "speed"
        assert abs(arm.speeds[-1, 0]) < abs(arm.speeds[-2, 0])
        arm.assert_stops()

    def test_after_a_stall_the_targets_start_from_rest(self) -> None:
        """The first step is acceleration x period^2."""
        arm = Follower(period_s=1 / 200).ticks(40, [90.0, 30.0, 40.0])
        here = arm.sent[-1][0]
        arm.safety.stood_still()
        arm.tick([90.0, 30.0, 40.0])
        assert arm.sent[-1][0] - here == pytest.approx(ARM.limits.max_acceleration_deg_s2[0] / 200**2)


class TestReset:
    """Resets after a fault stop."""

    def test_a_reset_continues_from_targets_or_readings(self) -> None:
        """Joints that held keep their target, displaced ones continue from their reading."""
        arm = Follower()
        arm.tick([math.nan] * 3)
        arm.safety.reset(reading(0.1, [17.0, 41.0, 40.2]), 0.1)
        assert arm.safety.target_deg == [20.0, 41.0, 40.0]
        assert arm.safety.admit([90.0] * 3, blend=0.0) == [20.0, 41.0, 40.0]
        assert not arm.safety.moving

    @pytest.mark.parametrize(
        ("spoil", "check"),
        [
            ({"alerts": ("elbow: overload",)}, "health"),
            ({"temperatures_c": [99.0] * 3}, "temperature"),
            ({"voltages_v": [1.0] * 3}, "voltage"),
            ({"loads": [1.0] * 3}, "load"),
            ({"angles_deg": [math.nan] * 3}, "reading"),
            ({"angles_deg": [200.0, 30.0, 40.0]}, "jump"),
            ({"stamp_s": 0.0}, "stale"),
            ({"angles_deg": [42.0, 30.0, 40.0]}, "tracking"),
        ],
    )
    def test_parking_ignores_health_checks_only(self, spoil: dict[str, Any], check: str) -> None:
        """Temperature, voltage, load and alarms do not prevent parking; all other checks do."""
        for parking in (False, True):
            arm = Follower(period_s=0.01)
            arm.tick([math.nan] * 3)
            arm.safety.reset(reading(0.01), 0.01, parking=parking)
            for tick in range(2, 90):
                now_s = 0.01 * tick
                state = reading(
                    now_s, [20.0 + min(tick, 22) * ("angles_deg" in spoil and check == "tracking"), 30.0, 40.0]
                )
                arm.safety.reads(
                    dataclasses.replace(state, **({} if check == "tracking" else spoil)),  # a push, not a jump
                    now_s,
                )
            healthy = check in ("health", "temperature", "voltage", "load")
            assert arm.check == (None if parking and healthy else check)
        if parking and healthy:  # and only while parking
            arm.safety.reset(dataclasses.replace(reading(1.0), **spoil), 1.0)
            assert (arm.check is None) == (check == "load")

    def test_a_reset_with_a_persisting_fault_is_a_fault_again(self) -> None:
        """The target does not move."""
        arm = Follower()
        arm.tick([math.nan] * 3)
        for spoil, check in (
            ({"angles_deg": [math.nan] * 3}, "reading"),
            ({"angles_deg": [96.0, 30.0, 40.0]}, "start"),
            ({"stamp_s": -1.0}, "stale"),
        ):
            arm.safety.reset(dataclasses.replace(reading(), **spoil), 0.0, parking=True)
            assert arm.check == check
            assert arm.safety.toward([90.0] * 3) == START

    @pytest.mark.parametrize("more", [{}, {"temperatures_c": [99.0] * 3}])
    def test_a_failed_reset_keeps_the_target(self, more: dict[str, Any]) -> None:
        """A stale or hot arm's reading is not used as a target."""
        arm = Follower()
        arm.tick([math.nan] * 3)
        stamp = 1.0 if more else 0.5
        arm.safety.reset(dataclasses.replace(reading(stamp, [60.0, 70.0, 80.0]), **more), 1.0)
        assert arm.check == ("temperature" if more else "stale")
        assert arm.safety.toward([90.0] * 3) == START


class TestLimits:
    """Limits of the safety."""

    @pytest.mark.parametrize(
        "wider",
        [
            {"lower_deg": (-1.0, 0.0, 0.0)},
            {"upper_deg": (90.0, 90.0, 91.0)},
            {"max_speed_deg_s": (1000.0, 1.0, 1.0)},
            {"max_acceleration_deg_s2": (1.0, 1e5, 1.0)},
        ],
    )
    def test_limits_wider_than_the_arms_are_rejected(self, wider: dict[str, Any]) -> None:
        """Positions, speeds and accelerations."""
        with pytest.raises(ValueError, match="safety: expected limits within the arm's"):
            Safety(ARM, dataclasses.replace(ARM.limits, **wider), PERIOD_S)

    def test_limits_of_another_number_of_joints_are_rejected(self) -> None:
        """One joint for an arm of three."""
        with pytest.raises(ValueError, match=r"expected \d joints, got \d"):
            Safety(ARM, JointLimits((0.0,), (9.0,), (1.0,), (1.0,)), PERIOD_S)

    def test_tightened_limits_are_the_tighter_of_both_field_by_field(self) -> None:
        """By hand for two joints; ranges that do not overlap are an error."""
        one = JointLimits((0.0, -10.0), (90.0, 50.0), (100.0, 10.0), (5.0, 50.0))
        other = JointLimits((-5.0, 0.0), (80.0, 60.0), (50.0, 20.0), (6.0, 40.0))
        both = JointLimits((0.0, 0.0), (80.0, 50.0), (50.0, 10.0), (5.0, 40.0))
        assert one.tightened(other) == other.tightened(one) == both
        assert both.tightened(one) == both
        with pytest.raises(ValueError, match="lower < upper"):
            one.tightened(JointLimits((95.0, 0.0), (99.0, 1.0), (1.0, 1.0), (1.0, 1.0)))
        with pytest.raises(ValueError, match="expected 2 joints, got 3"):
            one.tightened(ARM.limits)
