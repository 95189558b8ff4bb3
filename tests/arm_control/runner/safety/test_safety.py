"""Safety: what passes, what is clamped and counted, what is refused and latched; the stop; the workspace."""

import dataclasses
import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from locations import DESK

from arm_control.drivers.base import JointState
from arm_control.runner.safety import (
    Safety,
    SafetyLevel,
    SafetySettings,
    WorkspaceError,
)
from envs.arm import RADIANS, Arm
from envs.limits import Box, JointLimits

ARM = Arm()
LOW, HIGH = ARM.limits.lower_deg, ARM.limits.upper_deg
START = [20.0, 30.0, 40.0]
STILL = [0.0, 0.0, 0.0]
PERIOD_S = 1 / 30
EVERYWHERE: Box = (-9.0, -9.0, -9.0, 9.0, 9.0, 9.0)


def reading(now_s: float = 0.0, angles: list[float] | None = None, **more: Any) -> JointState:
    return JointState(now_s, START if angles is None else angles, more.pop("speeds", STILL), **more)


class Follower:
    """An arm that is wherever it was told to be, and the safety before it."""

    def __init__(
        self,
        start: list[float] = START,
        period_s: float = PERIOD_S,
        limits: JointLimits = ARM.limits,
        **settings: Any,
    ) -> None:
        self.safety = Safety(ARM, limits, period_s, SafetySettings(**settings))
        self.now_s = 0.0
        self.safety.start(reading(0.0, list(start)), 0.0)
        self.sent = [list(self.safety.target_deg)]

    def tick(
        self,
        answer: list[float] | None,
        state: Callable[[JointState], JointState] = lambda state: state,
        follow: bool = False,
        ticks: int = 1,
    ) -> None:
        """One period: a reading, which `state` may spoil, and an answer; None where the last one goes on."""
        self.now_s += self.safety.period_s
        here = JointState(self.now_s, self.sent[-1], list(self.safety.speed_deg_s))
        self.safety.reads(state(here), self.now_s)
        safety = self.safety
        sent = safety.go_on() if answer is None else safety.admit(answer, follow=follow, ticks=ticks)
        self.sent.append(sent)

    def step(self, answer: list[float], ticks: int) -> None:
        """An answer that holds for several periods."""
        self.tick(answer, ticks=ticks)
        for _ in range(ticks - 1):
            self.tick(None)

    def ticks(self, count: int, answer: list[float], **more: Any) -> "Follower":
        for _ in range(count):
            self.tick(answer, **more)
        return self

    @property
    def check(self) -> str | None:
        return None if self.safety.fault is None else self.safety.fault.check

    @property
    def speeds(self) -> np.ndarray:
        return np.diff(self.sent, axis=0) / self.safety.period_s

    def assert_within_limits(self) -> None:
        limits, period_s = self.safety.limits, self.safety.period_s
        sent = np.array(self.sent)
        speeds = np.vstack([np.zeros(3), self.speeds])
        assert (sent >= limits.lower_deg).all()
        assert (sent <= limits.upper_deg).all()
        rounding = 1e-10 / period_s
        assert (abs(speeds) <= np.array(limits.max_speed_deg_s) + rounding).all()
        changes = abs(np.diff(speeds, axis=0))
        assert (changes <= np.array(limits.max_acceleration_deg_s2) * period_s + 2 * rounding).all()

    def assert_stops(self) -> None:
        """From now on it only slows down, and then rests, whatever it is told."""
        before, limits = len(self.sent) - 2, self.safety.limits
        pairs = zip(self.safety.speed_deg_s, limits.max_acceleration_deg_s2, strict=True)
        needed = math.ceil(max(abs(speed) / limit for speed, limit in pairs) / self.safety.period_s)
        for angle in (90.0, 0.0, math.nan, 45.0):
            self.ticks(needed // 4 + 10, [angle] * 3)
        speeds = self.speeds[before:]
        assert (abs(speeds[1:]) <= abs(speeds[:-1]) + 1e-6).all()
        assert (speeds[1:] * speeds[:-1] >= -1e-6).all()  # never back
        assert (speeds[needed + 2 :] == 0.0).all()
        assert not self.safety.moving
        self.assert_within_limits()


def test_a_healthy_answer_passes_and_is_reached() -> None:
    arm = Follower().ticks(60, [80.0, 10.0, 50.0])
    assert (arm.check, arm.safety.clamped, arm.safety.level) == (None, {}, SafetyLevel.OK)
    np.testing.assert_allclose(arm.sent[-1], [80.0, 10.0, 50.0], atol=1e-9)
    arm.assert_within_limits()


# Answers.


@pytest.mark.parametrize(
    "answer",
    [
        [math.nan, 30.0, 40.0],
        [20.0, math.inf, 40.0],
        [20.0, 30.0, -math.inf],
        [20.0, 30.0],
        [20.0, 30.0, 40.0, 50.0],
        [],
    ],
)
def test_an_answer_that_is_not_one_finite_number_a_joint_is_refused(answer: list[float]) -> None:
    arm = Follower().ticks(8, [80.0, 80.0, 80.0])
    arm.tick(answer)
    assert arm.check == "finite"
    assert arm.safety.level is SafetyLevel.FAULT
    assert "wanted 3 finite target angles" in str(arm.safety.fault)
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
def test_answers_outside_the_range_pass_are_clamped_or_refused(
    joint: int, side: int, beyond: float, check: str | None, counted: int
) -> None:
    answer = list(START)
    answer[joint] = HIGH[joint] + beyond if side > 0 else LOW[joint] - beyond
    arm = Follower().ticks(10, answer)
    assert arm.check == check
    assert arm.safety.clamped["position"] == counted
    assert arm.safety.level is (SafetyLevel.FAULT if check else SafetyLevel.CLAMPED if counted else SafetyLevel.OK)
    if check is None:
        arm.ticks(60, answer)
        assert arm.sent[-1][joint] == pytest.approx(HIGH[joint] if side > 0 else LOW[joint], abs=1e-9)
        arm.assert_within_limits()
    else:
        assert ARM.joint_names[joint] in arm.safety.fault.text
        arm.assert_stops()


def test_the_range_is_that_of_the_tightened_limits() -> None:
    tight = dataclasses.replace(ARM.limits, upper_deg=(60.0, 90.0, 90.0))
    arm = Follower(limits=tight).ticks(60, [64.0, 30.0, 40.0])
    assert arm.check is None
    assert arm.safety.clamped["position"] == 60
    assert arm.sent[-1][0] == pytest.approx(60.0)
    assert Follower(limits=tight).ticks(1, [66.0, 30.0, 40.0]).check == "position"


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
def test_whatever_is_answered_the_targets_keep_the_limits(
    answers: list[tuple[list[float], int]], period_s: float, speed: float, acceleration: float, how: str
) -> None:
    limits = JointLimits(
        (5.0, 0.0, 10.0),
        (90.0, 80.0, 85.0),
        tuple(speed * limit for limit in ARM.limits.max_speed_deg_s),
        tuple(acceleration * limit for limit in ARM.limits.max_acceleration_deg_s2),
    )
    arm = Follower(period_s=period_s, limits=limits)
    for answer, count in answers:
        if how == "interpolated":  # over another number of ticks each time
            arm.step(answer, count)
        else:
            arm.ticks(count, answer, follow=how == "followed")
    arm.assert_within_limits()
    arm.safety.fault_stop("test", "stop")
    arm.assert_stops()


@given(st.lists(st.floats(), max_size=5), st.integers(0, 30))
def test_any_numbers_at_all_either_pass_or_stop_the_arm(answer: list[float], ticks: int) -> None:
    arm = Follower().ticks(ticks, [90.0, 0.0, 90.0])
    arm.tick(answer)
    arm.ticks(3, [45.0] * 3)
    assert all(math.isfinite(angle) for sent in arm.sent for angle in sent)
    arm.assert_within_limits()


def test_an_answer_for_several_ticks_is_reached_and_is_ahead_meanwhile() -> None:
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


def test_a_share_blends_from_where_the_arm_began() -> None:
    safety = Follower(period_s=10.0).safety  # one period is long enough for any way
    assert safety.admit([80.0, 70.0, 40.0], blend=0.0) == pytest.approx(START)
    for _ in range(30):
        target = safety.admit([80.0, 70.0, 40.0], blend=0.25)
    assert target == pytest.approx([35.0, 40.0, 40.0])


@pytest.mark.parametrize(("share", "check", "clamps"), [(0.95, None, False), (1.02, None, True), (1.5, "speed", True)])
def test_a_recording_is_to_be_kept_up_with(share: float, check: str | None, clamps: bool) -> None:
    """One that moves at so large a share of the speed limit, for up to 60 degrees."""
    safety = Follower([0.0, 0.0, 0.0], period_s=1 / 100).safety
    angle, pace = 0.0, 0.0
    while angle < 60.0 and safety.fault is None:
        pace = min(share * ARM.limits.max_speed_deg_s[0], pace + 0.8 * ARM.limits.max_acceleration_deg_s2[0] / 100)
        angle += pace / 100
        safety.admit([angle, 0.0, 0.0], follow=True)
    assert (safety.fault and safety.fault.check) == check
    assert bool(safety.clamped["speed"]) == clamps


def test_a_policy_may_be_far_ahead_of_its_targets_a_recording_may_not() -> None:
    safety = Follower().safety
    safety.admit([80.0, 30.0, 40.0])
    assert safety.fault is None
    safety.admit([80.0, 30.0, 40.0], follow=True)
    assert safety.fault.check == "speed"
    assert "base_yaw is to move faster" in safety.fault.text


# Readings.


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
def test_a_single_reading(spoil: dict[str, Any], check: str | None) -> None:
    arm = Follower()
    arm.tick(START, state=lambda state: dataclasses.replace(state, **spoil))
    assert arm.check == check
    assert arm.sent[-1] == START
    assert arm.safety.level is (SafetyLevel.FAULT if check else SafetyLevel.OK)
    if check:
        arm.assert_stops()


@pytest.mark.parametrize("spoil", [{"angles_deg": [math.nan] * 3}, {"alerts": ("base_yaw: overheating",)}])
def test_a_reading_stops_an_arm_on_its_way(spoil: dict[str, Any]) -> None:
    arm = Follower(period_s=1 / 200).ticks(30, [90.0, 0.0, 90.0])
    arm.tick([90.0, 0.0, 90.0], state=lambda state: dataclasses.replace(state, **spoil))
    assert arm.safety.moving
    arm.assert_stops()
    deceleration = -np.diff(abs(arm.speeds[30:60, 0])) * 200
    assert deceleration.max() == pytest.approx(ARM.limits.max_acceleration_deg_s2[0])  # and as hard as it may


def test_the_time_between_readings_allows_a_way() -> None:
    safety = Follower(period_s=0.05, stale_s=1.0).safety
    safety.reads(reading(0.5, [20.0, 30.0, 90.0]), 0.5)
    assert safety.fault is None
    safety.reads(reading(0.5, [20.0, 30.0, 84.0]), 0.55)  # of the same moment
    assert safety.fault.check == "jump"


@pytest.mark.parametrize(
    ("stamp", "now", "check"),
    [(1.0, 1.0, None), (1.0, 1.099, None), (1.0, 1.101, "stale"), (1.0, 0.901, None), (1.0, 0.899, "stale")],
)
def test_an_old_reading_and_one_of_the_future_are_refused(stamp: float, now: float, check: str | None) -> None:
    arm = Follower()
    arm.safety.start(reading(now), now)
    arm.safety.reads(reading(stamp), now)
    assert arm.check == check


def test_readings_that_do_not_come_are_borne_for_a_while() -> None:
    arm = Follower(period_s=0.03)
    for tick in range(1, 4):
        arm.safety.reads(None, 0.03 * tick)
        assert arm.check is None
    arm.safety.reads(None, 0.12)
    assert arm.check == "stale"
    assert "120 ms old, allowed 100" in arm.safety.fault.text


@pytest.mark.parametrize(
    ("angles", "check"),
    [
        ([-4.9, 30.0, 94.9], None),
        ([-5.1, 30.0, 40.0], "start"),
        ([20.0, 30.0, 95.1], "start"),
        ([20.0, 200.0, 40.0], "start"),
    ],
)
def test_where_an_arm_may_start(angles: list[float], check: str | None) -> None:
    arm = Follower(angles)
    assert arm.check == check
    assert arm.safety.placed == (check is None)
    if check is not None:
        assert "move the arm there by hand" in arm.safety.fault.text


def test_an_arm_that_starts_a_hair_outside_is_inside_and_one_further_out_comes_back_softly() -> None:
    assert Follower([-0.9, 30.0, 90.5]).safety.target_deg == [0.0, 30.0, 90.0]
    arm = Follower([-4.0, 30.0, 40.0], period_s=1 / 200)
    assert arm.sent[0] == [-4.0, 30.0, 40.0]
    arm.ticks(100, [0.0, 30.0, 40.0])
    assert arm.check is None
    way = [sent[0] for sent in arm.sent]
    assert all(before <= after for before, after in pairwise(way))
    assert way[-1] == pytest.approx(0.0, abs=1e-6)
    assert abs(np.diff(arm.speeds[:, 0], prepend=0.0)).max() <= ARM.limits.max_acceleration_deg_s2[0] / 200 + 1e-6


@pytest.mark.parametrize("spoil", [{"angles_deg": [math.nan] * 3}, {"angles_deg": [1.0]}, {"speeds_deg_s": [1e9] * 3}])
def test_a_first_reading_that_makes_no_sense_says_nowhere(spoil: dict[str, Any]) -> None:
    safety = Safety(ARM, ARM.limits, PERIOD_S)
    safety.start(dataclasses.replace(reading(), **spoil), 0.0)
    assert (safety.fault.check, safety.placed, safety.moving) == ("reading", False, False)


def test_a_first_reading_outside_the_workspace_is_refused() -> None:
    arm = Follower(workspace_m=(-1.0, -1.0, 0.0, 1.0, 1.0, 0.3))
    assert (arm.check, arm.safety.placed) == ("workspace", False)


@pytest.mark.parametrize(("gap", "seconds", "check"), [(19.0, 9.0, None), (21.0, 0.8, None), (21.0, 1.5, "tracking")])
def test_a_joint_that_does_not_follow_is_noticed(gap: float, seconds: float, check: str | None) -> None:
    """0.6 s after the latest arm that is allowed would have come near: 0.25 s, and then e^(-t / 0.1 s) < 1 / 21."""
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
def test_a_servo_at_full_load_for_long_is_noticed(load: float, seconds: float, check: str | None) -> None:
    arm = Follower(period_s=0.01)
    spoil = lambda state: dataclasses.replace(state, loads=[0.1, 0.2, load])  # noqa: E731
    arm.ticks(round(seconds / 0.01), START, state=spoil)
    assert arm.check == check


def test_what_was_over_in_between_begins_anew() -> None:
    arm = Follower(period_s=0.01)
    for _ in range(5):
        arm.ticks(50, START, state=lambda state: dataclasses.replace(state, loads=[1.0] * 3))
        arm.tick(START)
        arm.ticks(1, START, state=lambda state: dataclasses.replace(state, loads=[0.2] * 3))
    assert arm.check is None


# The latch.


def test_the_first_reason_is_kept_and_nothing_moves_until_a_reset() -> None:
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
def test_what_a_single_reading_shows_stops_the_arm_for_good(spoil: dict[str, Any], check: str) -> None:
    """In motion, and whatever the readings after it."""
    arm = Follower()
    arm.ticks(5, [80.0, 80.0, 80.0])
    assert arm.safety.moving
    arm.tick([80.0] * 3, state=lambda state: dataclasses.replace(state, **spoil))
    assert arm.check == check
    arm.assert_stops()
    assert arm.check == check


def test_a_reset_goes_on_from_the_target_of_a_joint_that_was_held_and_from_the_reading_of_one_that_was_not() -> None:
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
def test_parking_is_whatever_the_health_and_nothing_else(spoil: dict[str, Any], check: str) -> None:
    for parking in (False, True):
        arm = Follower(period_s=0.01)
        arm.tick([math.nan] * 3)
        arm.safety.reset(reading(0.01), 0.01, parking=parking)
        for tick in range(2, 90):
            now_s = 0.01 * tick
            state = reading(now_s, [20.0 + min(tick, 22) * ("angles_deg" in spoil and check == "tracking"), 30.0, 40.0])
            arm.safety.reads(
                dataclasses.replace(state, **({} if check == "tracking" else spoil)),  # a push, not a jump
                now_s,
            )
        healthy = check in ("health", "temperature", "voltage", "load")
        assert arm.check == (None if parking and healthy else check)
    if parking and healthy:  # and only while parking
        arm.safety.reset(dataclasses.replace(reading(1.0), **spoil), 1.0)
        assert (arm.check is None) == (check == "load")


def test_a_reset_to_what_is_still_wrong_is_refused_again_and_moves_nothing() -> None:
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
def test_a_reset_that_is_refused_moves_no_target_to_what_it_read(more: dict[str, Any]) -> None:
    arm = Follower()
    arm.tick([math.nan] * 3)
    stamp = 1.0 if more else 0.5
    arm.safety.reset(dataclasses.replace(reading(stamp, [60.0, 70.0, 80.0]), **more), 1.0)
    assert arm.check == ("temperature" if more else "stale")
    assert arm.safety.toward([90.0] * 3) == START


def test_the_tick_that_refuses_a_recording_slows_down_already() -> None:
    arm = Follower([10.0, 30.0, 40.0], period_s=0.01)
    angle = 10.0
    while arm.check is None:
        angle += 2.0
        arm.tick([min(angle, 90.0), 30.0, 40.0], follow=True)
    assert arm.check == "speed"
    assert abs(arm.speeds[-1, 0]) < abs(arm.speeds[-2, 0])
    arm.assert_stops()


def test_after_a_stall_the_targets_start_from_rest() -> None:
    arm = Follower(period_s=1 / 200).ticks(40, [90.0, 30.0, 40.0])
    here = arm.sent[-1][0]
    arm.safety.stood_still()
    arm.tick([90.0, 30.0, 40.0])
    assert arm.sent[-1][0] - here == pytest.approx(ARM.limits.max_acceleration_deg_s2[0] / 200**2)


# Limits.


@pytest.mark.parametrize(
    "wider",
    [
        {"lower_deg": (-1.0, 0.0, 0.0)},
        {"upper_deg": (90.0, 90.0, 91.0)},
        {"max_speed_deg_s": (1000.0, 1.0, 1.0)},
        {"max_acceleration_deg_s2": (1.0, 1e5, 1.0)},
    ],
)
def test_limits_wider_than_the_arms_are_refused(wider: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="safety: wanted limits within the arm's"):
        Safety(ARM, dataclasses.replace(ARM.limits, **wider), PERIOD_S)


def test_limits_of_another_number_of_joints_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted \d joints, got \d"):
        Safety(ARM, JointLimits((0.0,), (9.0,), (1.0,), (1.0,)), PERIOD_S)


def test_tightened_limits_are_the_tighter_of_both_field_by_field() -> None:
    one = JointLimits((0.0, -10.0), (90.0, 50.0), (100.0, 10.0), (5.0, 50.0))
    other = JointLimits((-5.0, 0.0), (80.0, 60.0), (50.0, 20.0), (6.0, 40.0))
    both = JointLimits((0.0, 0.0), (80.0, 50.0), (50.0, 10.0), (5.0, 40.0))
    assert one.tightened(other) == other.tightened(one) == both
    assert both.tightened(one) == both
    with pytest.raises(ValueError, match="lower < upper"):
        one.tightened(JointLimits((95.0, 0.0), (99.0, 1.0), (1.0, 1.0), (1.0, 1.0)))
    with pytest.raises(ValueError, match="wanted 2 joints, got 3"):
        one.tightened(ARM.limits)


@pytest.mark.parametrize(
    "box",
    [
        (0.0, 0.0, 0.0, 1.0, 1.0),
        (0.0, 0.0, 0.0, 1.0, 0.0, 1.0),
        (0.0, 0.0, 0.0, 1.0, math.inf, 1.0),
        (math.nan, 0.0, 0.0, 1.0, 1.0, 1.0),
    ],
)
def test_a_workspace_that_is_no_box_is_refused(box: Any) -> None:
    with pytest.raises(ValueError, match="workspace: wanted x, y, z lowest and x, y, z highest"):
        SafetySettings(workspace_m=box)


# The arm's links.


def turned(axis: str, angle_deg: float) -> np.ndarray:
    c, s = math.cos(angle_deg * RADIANS), math.sin(angle_deg * RADIANS)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]] if axis == "z" else [[c, 0, s], [0, 1, 0], [-s, 0, c]])


def link_ends(angles_deg: list[float]) -> list[np.ndarray]:
    """The default arm's, link by link: column 0.2 m, turntable 0.05 m, upper arm 0.25 m, forearm 0.2 m."""
    frame, place, ends = np.eye(3), np.array([0.0, 0.0, 0.2]), []
    for axis, angle, length in zip("zyy", angles_deg, (0.05, 0.25, 0.2), strict=True):
        frame = frame @ turned(axis, angle)
        place = place + frame @ [0.0, 0.0, length]
        ends.append(place)
    return ends


poses = st.lists(st.floats(0.0, 90.0), min_size=3, max_size=3)


@given(poses)
def test_link_ends_are_those_of_forward_kinematics_by_matrices(pose: list[float]) -> None:
    np.testing.assert_allclose(ARM.link_ends(pose), link_ends(pose), atol=1e-12)
    assert ARM.link_ends(pose)[-1] == ARM.tip_position(pose)


def test_link_ends_by_hand() -> None:
    np.testing.assert_allclose(ARM.link_ends([0.0, 0.0, 0.0]), [[0, 0, 0.25], [0, 0, 0.5], [0, 0, 0.7]], atol=1e-12)
    np.testing.assert_allclose(
        ARM.link_ends([90.0, 90.0, 90.0]), [[0, 0, 0.25], [0, 0.25, 0.25], [0, 0.25, 0.05]], atol=1e-12
    )


@given(poses, poses)
def test_no_link_end_moves_further_than_the_levers_say(here: list[float], there: list[float]) -> None:
    bound = sum(lever * abs(b - a) * RADIANS for a, b, lever in zip(here, there, ARM.levers_m, strict=True))
    moved = np.linalg.norm(np.subtract(ARM.link_ends(there), ARM.link_ends(here)), axis=1)
    assert moved.max() <= bound + 1e-12


def test_levers_by_hand() -> None:
    assert ARM.levers_m == pytest.approx((0.5, 0.45, 0.2))


# The workspace.


def beyond_m(box: Box, table_m: float | None, pose: list[float]) -> float:
    """How far outside, from the kinematics above."""
    ends = np.array(link_ends(pose))
    table = -math.inf if table_m is None else table_m - ends[:, 2].min()
    return float(max((np.array(box[:3]) - ends).max(), (ends - np.array(box[3:])).max(), table))


@given(poses, st.floats(-0.5, 0.5), st.sampled_from(range(6)))
def test_outside_is_the_worst_links_distance_beyond_a_side(pose: list[float], wall: float, side: int) -> None:
    box = list(EVERYWHERE)
    box[side] = wall
    safety = Safety(ARM, ARM.limits, PERIOD_S, SafetySettings(table_m=None, workspace_m=tuple(box)))
    assert safety.workspace.outside_m(pose) == pytest.approx(beyond_m(tuple(box), None, pose), abs=1e-12)


def test_without_table_and_box_nothing_is_outside() -> None:
    assert Safety(ARM, ARM.limits, PERIOD_S, SafetySettings(table_m=None)).workspace.outside_m([90.0] * 3) == -math.inf


def test_goals_and_poses_outside_are_told_by_how_much() -> None:
    safety = Safety(ARM, ARM.limits, PERIOD_S, SafetySettings(table_m=0.1, workspace_m=EVERYWHERE))
    safety.workspace.check_point((0.3, 0.3, 0.1))
    safety.workspace.check_pose([0.0] * 3, "a pose")
    with pytest.raises(WorkspaceError, match=r"goal \(0.3000, 0.3000, 0.0500\) m is 50 mm outside the workspace"):
        safety.workspace.check_point((0.3, 0.3, 0.05))
    with pytest.raises(WorkspaceError, match="a pose is 50 mm outside the workspace"):
        safety.workspace.check_pose([0.0, 90.0, 90.0], "a pose")


class TestWhatIsOutside:
    """Messages say which link's end is where, and which flag moves that side of the workspace."""

    @given(poses, st.floats(-0.6, 0.6), st.sampled_from(range(7)))
    def test_link_side_distance_and_flag_are_those_of_the_worst(
        self, pose: list[float], wall: float, side: int
    ) -> None:
        """A box with one wall inside reach, or a table (6), against the kinematics above."""
        box = list(EVERYWHERE)
        box[min(side, 5)] = 9.0 if side == 6 else wall
        ends = np.array(link_ends(pose))
        axis = 2 if side == 6 else side % 3
        beyond = wall - ends[:, axis] if side in (0, 1, 2, 6) else ends[:, axis] - wall
        settings = SafetySettings(table_m=wall) if side == 6 else SafetySettings(None, tuple(box))  # type: ignore[arg-type]
        safety = Safety(ARM, ARM.limits, PERIOD_S, settings)
        if beyond.max() <= 1e-6:
            safety.workspace.check_pose(pose, "it")
            return
        with pytest.raises(WorkspaceError) as caught:
            safety.workspace.check_pose(pose, "it", "a remedy")
        said = re.fullmatch(
            r"it is (less than 0\.01|[\d.]+) mm outside the workspace: the end of (\w+) is (less than 0\.01|[\d.]+) mm "
            r"(below|above) (the table at )?([xyz]) = (\S+) m (of the box )?\((--\w+)\); a remedy",
            str(caught.value),
        )
        assert said is not None
        total, name, far, where, table, letter, place, _, flag = said.groups()
        assert total == far != "0"
        if far[0] != "l":
            assert float(far) == pytest.approx(1000.0 * beyond.max(), rel=0.06)
        assert beyond[ARM.link_names.index(name)] == pytest.approx(beyond.max(), abs=1e-12)
        assert (where, letter) == ("above" if side in (3, 4, 5) else "below", "xyz"[axis])
        assert (table is not None, flag) == ((True, "--table") if side == 6 else (False, "--workspace"))
        assert float(place) == pytest.approx(wall, rel=1e-5)

    @pytest.mark.parametrize(
        ("beyond_m", "said"),
        [(2e-6, "less than 0.01 mm"), (2e-5, "0.02 mm"), (4e-4, "0.4 mm"), (0.0032, "3.2 mm"), (0.032, "32 mm")],
    )
    def test_a_distance_outside_is_never_zero(self, beyond_m: float, said: str) -> None:
        safety = Safety(ARM, ARM.limits, PERIOD_S, SafetySettings(table_m=0.25))
        with pytest.raises(WorkspaceError, match=rf"m is {re.escape(said)} outside the workspace: it is .*\(--table\)"):
            safety.workspace.check_point((0.3, 0.3, 0.25 - beyond_m))

    def test_rounding_is_not_outside(self) -> None:
        """At its lower limits, the tip of this arm is at the table, but for the rounding of floating point numbers."""
        desk = Arm(DESK)
        pose = list(desk.limits.lower_deg)
        safety = Safety(desk, desk.limits, PERIOD_S)
        assert 0.0 < abs(safety.workspace.outside_m(pose)) < 1e-6
        safety.workspace.check_pose(pose, "the parking pose")
        safety.start(reading(0.0, pose), 0.0)
        for tick in range(90):
            safety.reads(reading(tick * PERIOD_S, list(safety.target_deg)), tick * PERIOD_S)
            safety.admit([0.0, -90.0, 30.0 if tick > 60 else -90.0])
        assert safety.fault is None

    def test_a_start_outside_names_the_link_and_the_table(self) -> None:
        arm = Follower([0.0, 90.0, 90.0], table_m=0.1)
        assert "starts 50 mm outside the workspace: the end of tip is 50 mm below the table" in arm.safety.fault.text

    def test_a_refusal_on_the_way_names_the_link_and_the_table(self) -> None:
        arm = table_arm(0.2, 1 / 30)
        arm.ticks(60, [0.0, 90.0, 90.0])
        assert re.search(r"the end of tip is \d+ mm below the table at z = 0.2 m", arm.safety.fault.text)


class TestDefaultPose:
    """The pose to start and to park in is one that safety accepts."""

    @pytest.mark.parametrize("table_m", [None, 0.0, 0.2, -0.3])
    def test_of_the_default_arm_it_is_straight_up(self, table_m: float | None) -> None:
        safety = Safety(ARM, ARM.limits, PERIOD_S, SafetySettings(table_m=table_m))
        assert safety.workspace.default_pose_deg() == [0.0, 0.0, 0.0]

    @given(st.floats(-0.2, 0.3), st.floats(0.3, 0.6))
    def test_it_is_inside_table_and_box(self, table_m: float, top_m: float) -> None:
        desk = Arm(DESK)
        box = (-0.3, -0.3, -0.3, 0.3, 0.3, top_m)
        limits = JointLimits((-80.0, 10.0, -80.0), (80.0,) * 3, (90.0,) * 3, (90.0,) * 3)
        safety = Safety(desk, limits, PERIOD_S, SafetySettings(table_m=min(table_m, 0.1), workspace_m=box))
        pose = safety.workspace.default_pose_deg()
        safety.workspace.check_pose(pose, "the parking pose")
        assert pose == limits.clip(pose)


def table_arm(table_m: float, period_s: float) -> Follower:
    return Follower([0.0, 60.0, 30.0], period_s, table_m=table_m)


def test_a_policy_that_leans_on_the_table_is_held_above_it_and_refused_after_a_second() -> None:
    arm = table_arm(0.25, 1 / 200)  # below, the tip would be at 0.202
    answer = [0.0, 60.0, 90.0]
    arm.ticks(200, answer)
    assert arm.check is None
    assert arm.safety.clamped["workspace"] > 50
    assert arm.safety.level is SafetyLevel.CLAMPED
    lowest = min(link_ends(sent)[-1][2] for sent in arm.sent)
    assert 0.25 <= lowest <= 0.252
    arm.ticks(200, answer)
    assert arm.check == "workspace"
    assert "held at the edge of the workspace for 1 s" in arm.safety.fault.text
    arm.assert_stops()


def test_a_policy_that_leaves_the_table_in_time_goes_on() -> None:
    arm = table_arm(0.25, 1 / 200)
    for _ in range(3):
        arm.ticks(230, [0.0, 60.0, 90.0])
        assert arm.safety.level is SafetyLevel.CLAMPED
        arm.ticks(100, [0.0, 60.0, 30.0])
        assert arm.safety.level is SafetyLevel.OK
        np.testing.assert_allclose(arm.sent[-1], [0.0, 60.0, 30.0], atol=1e-6)
    assert arm.check is None


def test_a_policy_that_runs_at_the_table_is_refused_in_time() -> None:
    arm = table_arm(0.2, 1 / 30)
    arm.ticks(60, [0.0, 90.0, 90.0])
    assert arm.check == "workspace"
    assert "mm outside the workspace" in arm.safety.fault.text
    assert min(link_ends(sent)[-1][2] for sent in arm.sent) >= 0.2


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Box, float | None, list[float]]:
    """A box, a table, and a pose inside by a margin."""
    pose = draw(poses)
    ends = np.array(link_ends(pose))
    margins = [draw(st.floats(0.002, 0.3)) for _ in range(6)]
    low, high = ends.min(0) - margins[:3], ends.max(0) + margins[3:]
    return (*low.tolist(), *high.tolist()), draw(st.sampled_from([None, float(low[2]), 0.0])), pose


@pytest.mark.slow
@settings(max_examples=150)
@given(
    boxes(),
    st.sampled_from([10.0, 13.0, 30.0, 50.0, 100.0, 200.0, 333.0, 1000.0]),
    st.lists(st.tuples(poses, st.floats(0.02, 1.0)), min_size=1, max_size=6),
    st.floats(0.2, 1.0),
    st.integers(1, 9),
)
def test_no_link_end_ever_leaves_the_workspace(
    place: tuple[Box, float | None, list[float]],
    rate: float,
    answers: list[tuple[list[float], float]],
    slow: float,
    hold: int,
) -> None:
    box, table_m, start = place
    limits = dataclasses.replace(
        ARM.limits,
        max_speed_deg_s=tuple(slow * speed for speed in ARM.limits.max_speed_deg_s),
        max_acceleration_deg_s2=(
            ARM.limits.max_acceleration_deg_s2[0],
            slow * ARM.limits.max_acceleration_deg_s2[1],
            0.5 * ARM.limits.max_acceleration_deg_s2[2],
        ),
    )
    arm = Follower(start, 1 / rate, limits, table_m=table_m, workspace_m=box)
    assert arm.check is None
    for answer, seconds in answers:
        for _ in range(math.ceil(min(seconds * rate, 150) / hold)):
            arm.step(answer, hold)
    if arm.check is None:
        arm.safety.fault_stop("test", "brake from here")
    arm.assert_stops()
    worst = max(beyond_m(box, table_m, sent) for sent in arm.sent)
    assert worst <= 1e-6


@settings(max_examples=60)
@given(boxes(), poses, st.sampled_from([10.0, 30.0, 200.0, 1000.0]))
def test_a_pose_is_reached_when_the_way_there_is_well_inside(
    place: tuple[Box, float | None, list[float]], goal: list[float], rate: float
) -> None:
    box, table_m, start = place
    goal = [a + 0.3 * (b - a) for a, b in zip(start, goal, strict=True)]
    # Each joint anywhere between start and goal: the limiter brings them there one before the other.
    corners = [
        [a + share * (b - a) for a, b, share in zip(start, goal, (i, j, k), strict=True)]
        for i in np.linspace(0, 1, 5)
        for j in np.linspace(0, 1, 5)
        for k in np.linspace(0, 1, 5)
    ]
    assume(max(beyond_m(box, table_m, corner) for corner in corners) < -0.001)
    arm = Follower(start, 1 / rate, table_m=table_m, workspace_m=box).ticks(math.ceil(1.5 * rate) + 20, goal)
    assert arm.check is None
    np.testing.assert_allclose(arm.sent[-1], goal, atol=1e-6)


def test_held_at_a_wall_an_arm_may_come_back_at_any_rate() -> None:
    for rate in (10, 30, 200, 1000):
        arm = Follower([0.0, 60.0, 30.0], 1 / rate, table_m=0.2, wall_s=math.inf)
        arm.ticks(2 * rate, [0.0, 60.0, 90.0])
        if arm.check is not None:  # too fast for one period at low rates
            arm.safety.reset(reading(arm.now_s, arm.sent[-1]), arm.now_s)
        arm.ticks(2 * rate, [0.0, 60.0, 30.0])
        assert arm.check is None
        np.testing.assert_allclose(arm.sent[-1], [0.0, 60.0, 30.0], atol=1e-6)
