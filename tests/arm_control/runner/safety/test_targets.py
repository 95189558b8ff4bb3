"""Checks of commands and limits of targets: ok, clamped or fault."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safe_arm import ARM, HIGH, LOW, START, Follower

from arm_control.runner.safety import SafetyLevel
from envs.limits import JointLimits


class TestCommands:
    """Commands that pass."""

    @pytest.mark.parametrize(
        "command",
        [
            [math.nan, 30.0, 40.0],
            [20.0, math.inf, 40.0],
            [20.0, 30.0, -math.inf],
            [20.0, 30.0],
            [20.0, 30.0, 40.0, 50.0],
            [],
        ],
    )
    def test_a_command_must_be_one_finite_number_a_joint(self, command: list[float]) -> None:
        """NaN, infinity and other lengths are faults."""
        arm = Follower().ticks(8, [80.0, 80.0, 80.0])
        arm.tick(command)
        assert arm.check == "finite"
        assert arm.safety.level is SafetyLevel.FAULT
        assert "expected 3 finite target angles" in str(arm.safety.fault)
        arm.assert_stops()

    @pytest.mark.parametrize("joint", range(3))
    @pytest.mark.parametrize("side", [-1, 1])
    @pytest.mark.parametrize(
        ("beyond", "check", "counted"),
        [
            (0.0, None, 0),
            (0.0009, None, 0),
            (0.01, None, 10),
            (4.999, None, 10),
            (5.001, "position", 0),
            (1e30, "position", 0),
        ],
    )
    def test_commands_outside_the_range_are_clamped_or_a_fault(
        self, joint: int, side: int, beyond: float, check: str | None, counted: int
    ) -> None:
        """Up to 0.001 degrees pass, up to 5 degrees are clamped and counted, beyond is a fault."""
        command = list(START)
        command[joint] = HIGH[joint] + beyond if side > 0 else LOW[joint] - beyond
        arm = Follower().ticks(10, command)
        assert arm.check == check
        assert arm.safety.clamped["position"] == counted
        assert arm.safety.level is (SafetyLevel.FAULT if check else SafetyLevel.CLAMPED if counted else SafetyLevel.OK)
        if check is None:
            arm.ticks(60, command)
            assert arm.sent[-1][joint] == pytest.approx(HIGH[joint] if side > 0 else LOW[joint], abs=1e-9)
            arm.assert_within_limits()
        else:
            assert ARM.joint_names[joint] in arm.safety.fault.text
            arm.assert_stops()

    def test_the_range_is_that_of_the_tightened_limits(self) -> None:
        """The run's own limits count, not the arm's."""
        tight = dataclasses.replace(ARM.limits, upper_deg=(60.0, 90.0, 90.0))
        arm = Follower(limits=tight).ticks(60, [64.0, 30.0, 40.0])
        assert arm.check is None
        assert arm.safety.clamped["position"] == 60
        assert arm.sent[-1][0] == pytest.approx(60.0)
        assert Follower(limits=tight).ticks(1, [66.0, 30.0, 40.0]).check == "position"

    @given(st.lists(st.floats(), max_size=5), st.integers(0, 30))
    def test_any_command_gives_finite_targets_within_limits(self, command: list[float], ticks: int) -> None:
        """Any list of floats, valid or not."""
        arm = Follower().ticks(ticks, [90.0, 0.0, 90.0])
        arm.tick(command)
        arm.ticks(3, [45.0] * 3)
        assert all(math.isfinite(angle) for sent in arm.sent for angle in sent)
        arm.assert_within_limits()


class TestTargets:
    """The targets that are sent."""

    @given(
        st.lists(
            st.tuples(st.lists(st.floats(-95.0, 185.0), min_size=3, max_size=3), st.integers(1, 20)),
            min_size=1,
            max_size=15,
        ),
        st.sampled_from([1 / 10, 1 / 30, 1 / 200, 1 / 1000]),
        st.floats(0.1, 1.0),
        st.floats(0.1, 1.0),
        st.sampled_from(["one by one", "interpolated", "followed"]),
    )
    def test_targets_keep_the_limits_for_any_commands(
        self, commands: list[tuple[list[float], int]], period_s: float, speed: float, acceleration: float, how: str
    ) -> None:
        """At any rate and limits, one by one, interpolated or followed."""
        limits = JointLimits(
            (5.0, 0.0, 10.0),
            (90.0, 80.0, 85.0),
            tuple(speed * limit for limit in ARM.limits.max_speed_deg_s),
            tuple(acceleration * limit for limit in ARM.limits.max_acceleration_deg_s2),
        )
        arm = Follower(period_s=period_s, limits=limits)
        for command, count in commands:
            if how == "interpolated":  # over another number of ticks each time
                arm.step(command, count)
            else:
                arm.ticks(count, command, follow=how == "followed")
        arm.assert_within_limits()
        arm.safety.fault_stop("test", "stop")
        arm.assert_stops()

    def test_an_interpolated_command_is_reached_and_ahead_meanwhile(self) -> None:
        """At full speed the lead of 8 ticks is that of 3.5 periods, and at rest it is 0."""
        arm = Follower(period_s=1 / 240)
        ahead = []
        for _ in range(40):
            arm.step([80.0, 10.0, 50.0], 8)
            ahead.append(list(arm.safety.ahead_deg))
            previous = [here + there for here, there in zip(arm.safety.target_deg, ahead[-1], strict=True)]
            assert arm.safety.previous_step_deg(8) == pytest.approx(previous)
        assert (arm.check, arm.safety.clamped) == (None, {})
        np.testing.assert_allclose(arm.sent[-1], [80.0, 10.0, 50.0], atol=1e-9)
        # Half of seven ticks, at full speed; and nothing at rest.
        assert np.max(ahead) == pytest.approx(3.5 / 240 * np.max(arm.speeds))
        np.testing.assert_allclose(ahead[-1], 0.0, atol=1e-9)
        arm.step([20.0, 70.0, 50.0], 8)
        assert max(map(abs, arm.safety.ahead_deg)) > 0.1
        arm.tick([20.0, 70.0, 50.0])  # a step of one tick is sent as it is
        assert arm.safety.ahead_deg == [0.0] * 3
        arm.assert_within_limits()

    def test_a_blend_starts_from_the_arms_own_angles(self) -> None:
        """A quarter of the displacement, by hand."""
        safety = Follower(period_s=10.0).safety  # one period is long enough for any motion
        assert safety.admit([80.0, 70.0, 40.0], blend=0.0) == pytest.approx(START)
        for _ in range(30):
            target = safety.admit([80.0, 70.0, 40.0], blend=0.25)
        assert target == pytest.approx([35.0, 40.0, 40.0])


class TestRecordings:
    """Targets of a recording, which must be kept up with."""

    @pytest.mark.parametrize(
        ("share", "check", "clamps"), [(0.95, None, False), (1.02, None, True), (1.5, "speed", True)]
    )
    def test_a_recording_faster_than_the_limit_is_a_fault(self, share: float, check: str | None, clamps: bool) -> None:
        """At 0.95, 1.02 and 1.5 of the speed limit, for up to 60 degrees."""
        safety = Follower([0.0, 0.0, 0.0], period_s=1 / 100).safety
        angle, pace = 0.0, 0.0
        while angle < 60.0 and safety.fault is None:
            pace = min(share * ARM.limits.max_speed_deg_s[0], pace + 0.8 * ARM.limits.max_acceleration_deg_s2[0] / 100)
            angle += pace / 100
            safety.admit([angle, 0.0, 0.0], follow=True)
        assert (safety.fault and safety.fault.check) == check
        assert bool(safety.clamped["speed"]) == clamps

    def test_a_policy_may_be_far_ahead_of_its_targets_a_recording_may_not(self) -> None:
        """The same command passes for a policy and is a speed fault for a recording."""
        safety = Follower().safety
        safety.admit([80.0, 30.0, 40.0])
        assert safety.fault is None
        safety.admit([80.0, 30.0, 40.0], follow=True)
        assert safety.fault.check == "speed"
        assert "degrees behind the recording" in safety.fault.text
