"""Checks of readings: each alone, against the one before, and over time."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from safe_arm import ARM, START, Follower, reading

from arm_control.runner.safety import SafetyLevel


class TestSingleReadings:
    """One reading by itself, or against the one before."""

    @pytest.mark.parametrize(
        ("spoil", "check"),
        [
            ({"angles_deg": [math.nan, 30.0, 40.0]}, "reading"),
            ({"angles_deg": [20.0, 30.0, math.inf]}, "reading"),
            ({"speeds_deg_s": [0.0, math.nan, 0.0]}, "reading"),
            ({"stamp_s": math.nan}, "reading"),
            ({"stamp_s": math.inf}, "reading"),
            ({"angles_deg": [20.0, 30.0]}, "reading"),
            ({"angles_deg": [20.0, 30.0, 40.0, 50.0]}, "reading"),
            ({"speeds_deg_s": []}, "reading"),
            ({"speeds_deg_s": [0.0, 1027.0, 0.0]}, "reading"),
            ({"speeds_deg_s": [0.0, -1027.0, 0.0]}, "reading"),
            ({"speeds_deg_s": [0.0, 1025.0, 0.0]}, None),
            ({"angles_deg": [20.0, 30.0, 400.0]}, "jump"),
            ({"angles_deg": [20.0, 30.0, -320.0]}, "jump"),
            ({"angles_deg": [20.0, 53.0, 40.0]}, "jump"),
            ({"angles_deg": [20.0, 52.0, 40.0]}, None),
            ({"temperatures_c": [40.0, 72.0, 40.0]}, "temperature"),
            ({"temperatures_c": [40.0, math.nan, 40.0]}, "temperature"),
            ({"temperatures_c": [40.0, 71.9, -10.0]}, None),
            ({"temperatures_c": [40.0]}, "reading"),
            ({"voltages_v": [12.0, 5.9, 12.0]}, "voltage"),
            ({"voltages_v": [12.0, 14.1, 12.0]}, "voltage"),
            ({"voltages_v": [12.0, math.nan, 12.0]}, "voltage"),
            ({"voltages_v": [6.0, 14.0, 11.1]}, None),
            ({"voltages_v": []}, "reading"),
            ({"loads": [1.5, -1.5, 1.0]}, None),  # not for long
            ({"loads": [0.0] * 4}, "reading"),
            ({"alerts": ("elbow: overload",)}, "health"),
        ],
    )
    def test_a_single_reading(self, spoil: dict[str, Any], check: str | None) -> None:
        """Each kind of invalid value, and the last valid one beside it, gives its check or none."""
        arm = Follower()
        arm.tick(START, state=lambda state: dataclasses.replace(state, **spoil))
        assert arm.check == check
        assert arm.sent[-1] == START
        assert arm.safety.level is (SafetyLevel.FAULT if check else SafetyLevel.OK)
        if check:
            arm.assert_stops()

    @pytest.mark.parametrize("spoil", [{"angles_deg": [math.nan] * 3}, {"alerts": ("base_yaw: overheating",)}])
    def test_an_invalid_reading_brakes_a_moving_arm(self, spoil: dict[str, Any]) -> None:
        """It brakes at the acceleration limit, by a finite difference of its targets."""
        arm = Follower(period_s=1 / 200).ticks(30, [90.0, 0.0, 90.0])
        arm.tick([90.0, 0.0, 90.0], state=lambda state: dataclasses.replace(state, **spoil))
        assert arm.safety.moving
        arm.assert_stops()
        deceleration = -np.diff(abs(arm.speeds[30:60, 0])) * 200
        assert deceleration.max() == pytest.approx(ARM.limits.max_acceleration_deg_s2[0])  # and as hard as it may

    def test_the_allowed_change_grows_with_the_time_between_readings(self) -> None:
        """6 degrees within 0.05 s pass, and none within no time."""
        safety = Follower(period_s=0.05, stale_s=1.0).safety
        safety.reads(reading(0.5, [20.0, 30.0, 90.0]), 0.5)
        assert safety.fault is None
        safety.reads(reading(0.5, [20.0, 30.0, 84.0]), 0.55)  # of the same moment
        assert safety.fault.check == "jump"


class TestStaleReadings:
    """Readings that are old or missing."""

    @pytest.mark.parametrize(
        ("stamp", "now", "check"),
        [(1.0, 1.0, None), (1.0, 1.099, None), (1.0, 1.101, "stale"), (1.0, 0.901, None), (1.0, 0.899, "stale")],
    )
    def test_old_and_future_readings_are_faults(self, stamp: float, now: float, check: str | None) -> None:
        """Readings older or newer than 0.1 s."""
        arm = Follower()
        arm.safety.start(reading(now), now)
        arm.safety.reads(reading(stamp), now)
        assert arm.check == check

    def test_missing_readings_are_tolerated_for_a_time(self) -> None:
        """The fourth missing reading of 30 ms periods is 120 ms old, and a fault."""
        arm = Follower(period_s=0.03)
        for tick in range(1, 4):
            arm.safety.reads(None, 0.03 * tick)
            assert arm.check is None
        arm.safety.reads(None, 0.12)
        assert arm.check == "stale"
        assert "120 ms old, allowed 100" in arm.safety.fault.text


class TestSustainedFaults:
    """Conditions that become faults after some time."""

    @pytest.mark.parametrize(
        ("gap", "seconds", "check"), [(19.0, 9.0, None), (21.0, 0.8, None), (21.0, 1.5, "tracking")]
    )
    def test_a_joint_that_does_not_follow_is_a_fault(self, gap: float, seconds: float, check: str | None) -> None:
        """After 0.6 s beyond the slowest allowed arm: 0.25 s, and e^(-t / 0.1 s) < 1 / 21."""
        arm = Follower(period_s=0.01, tip_deg=math.inf, still_deg=math.inf)
        arm.safety.targets.place([20.0 + gap, 30.0, 40.0])
        for _ in range(round(seconds / 0.01)):
            arm.now_s += 0.01
            arm.safety.reads(reading(arm.now_s), arm.now_s)
        assert arm.check == check
        if check:
            assert "base_yaw has been more than 20 degrees from its expected angle" in arm.safety.fault.text

    @pytest.mark.parametrize(
        ("load", "seconds", "check"),
        [(0.99, 9.0, None), (1.0, 0.55, None), (1.0, 0.7, "load"), (-1.2, 0.7, "load"), (math.nan, 0.7, "load")],
    )
    def test_sustained_full_load_is_a_fault(self, load: float, seconds: float, check: str | None) -> None:
        """Full load in either direction for more than 0.6 s."""
        arm = Follower(period_s=0.01)
        spoil = lambda state: dataclasses.replace(state, loads=[0.1, 0.2, load])  # noqa: E731
        arm.ticks(round(seconds / 0.01), START, state=spoil)
        assert arm.check == check

    def test_an_interrupted_condition_starts_again(self) -> None:
        """Full load five times for 0.5 s is no fault."""
        arm = Follower(period_s=0.01)
        for _ in range(5):
            arm.ticks(50, START, state=lambda state: dataclasses.replace(state, loads=[1.0] * 3))
            arm.tick(START)
            arm.ticks(1, START, state=lambda state: dataclasses.replace(state, loads=[0.2] * 3))
        assert arm.check is None
