"""The control loop: an arm's life from soft start to rest, what it does about faults, its cadence and its figures."""

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_arm import ARM, START, FakeArm, FakeClock, ScriptedPolicy, Skilled, lost
from helpers import drive
from hypothesis import given, settings
from hypothesis import strategies as st

from arm_control.cli import main
from arm_control.drivers.base import DriverError, JointState, TorqueLeftOnError
from arm_control.drivers.simulation import SimulationDriver
from arm_control.recording.reading import read_recording
from arm_control.recording.recorder import Recorder
from arm_control.recording.schema import Event, Tick
from arm_control.runner import PolicyRunner
from arm_control.runner.clocks import FastTime, RealTime
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import PARKED_DEG, PARKED_DEG_S, ControlLoop, LoopSettings, smooth
from arm_control.runner.report import GoalResult, LoopReport
from arm_control.runner.safety import Safety, SafetySettings, WorkspaceError
from arm_control.runner.timings import PERCENTILES, Timings
from arm_control.viewers.common.trajectory import TicksInMemory, Trajectory, events_and_episodes, open_trajectory
from arm_control.viewers.page.html import table_of
from arm_control.viewers.plot.figure import trajectory_figure
from envs.tasks.base import Course, StillGoal
from envs.tasks.track import MovingGoal, Track

LOW = np.array(ARM.limits.lower_deg)
POSES = [[20.0, 40.0, 60.0], [70.0, 30.0, 20.0], [45.0, 80.0, 10.0]]
COURSES = [StillGoal(ARM.tip_position(pose)) for pose in POSES]
EASE_S = LoopSettings.ease_s
LOST_S = LoopSettings.lost_s
SOFT_STEPS = round(EASE_S * 30)


class Rig:
    """A loop around a fake arm, and a person who presses `keys`, one each time that the loop asks for one.

    `fault(rig)` runs before each reading.
    """

    def __init__(
        self,
        policy: ScriptedPolicy | PolicyRunner | None = None,
        courses: Iterable[Course | None] = COURSES,
        *,
        rate: float = 30.0,
        seconds: float = 0.5,
        keys: Sequence[str] | None = None,
        stop: Callable[["Rig"], bool] = lambda rig: False,
        fault: Callable[["Rig"], None] = lambda rig: None,
        clock: FakeClock | None = None,
        arm: FakeArm | None = None,
        settings: SafetySettings | None = None,
        **loop: Any,
    ) -> None:
        self.policy = Skilled() if policy is None else policy
        self.clock = clock or FakeClock(waits=keys is not None)
        self.arm = arm or FakeArm(self.clock)
        read, self.fault = self.arm.read, fault

        def faulty() -> JointState:
            self.reads += 1
            self.fault(self)
            return read()

        self.arm.read = faulty  # type: ignore[method-assign]
        self.reads = 0
        self.said: list[str] = []
        self._keys = iter(keys or ())
        self.results: list[GoalResult] = []
        self.loop = ControlLoop(
            self.arm,
            Safety(ARM, ARM.limits, 1 / rate, settings or SafetySettings()),
            self.clock,
            stopped=lambda: stop(self),
            key=None if keys is None else lambda: next(self._keys, ""),
            say=self.said.append,
            **loop,
        )
        self.work = GoalWork(
            self.policy,  # type: ignore[arg-type]
            courses,
            seconds_per_goal=seconds,
            on_goal=self.results.append,
        )

    def run(self) -> LoopReport:
        return self.loop.run(self.work)

    @property
    def checks(self) -> list[str]:
        return [fault.check for fault in self.loop.report.faults]

    @property
    def torque_off(self) -> bool:
        return "disable" in self.arm.verbs

    def assert_parked(self) -> None:
        """Torque off once, at the very end, of an arm that rests in its parking pose."""
        assert self.loop.report.parked
        assert self.arm.verbs[0] == "enable"
        assert self.arm.verbs[-1] == "disable"
        assert set(self.arm.verbs[1:-1]) <= {"write"}
        np.testing.assert_allclose(self.arm.disabled_at_deg, self.loop.park_deg, atol=PARKED_DEG)
        np.testing.assert_allclose(self.arm.sent[-1], self.loop.park_deg, atol=1e-6)

    def assert_held(self) -> None:
        """Torque on, targets at rest."""
        assert not self.loop.report.parked
        assert not self.torque_off
        assert not self.loop.safety.moving
        if len(self.arm.sent) > 1:
            assert self.arm.sent[-1] == pytest.approx(self.arm.sent[-2], abs=1e-6)

    def assert_within_limits(self, start: Sequence[float] = START) -> None:
        assert_within_limits([list(start), *self.arm.sent], self.loop.period_s)


def assert_within_limits(targets: list[list[float]], period_s: float) -> None:
    """All targets, the first of them where the arm was at rest."""
    position = np.array(targets)
    speed = np.vstack([np.zeros(3), np.diff(position, axis=0) / period_s])
    change = np.abs(np.diff(speed, axis=0))
    rounding = 1e-10 / period_s
    assert (position >= ARM.limits.lower_deg).all()
    assert (position <= ARM.limits.upper_deg).all()
    assert (np.abs(speed) <= np.array(ARM.limits.max_speed_deg_s) + rounding).all()
    assert (change <= np.array(ARM.limits.max_acceleration_deg_s2) * period_s + 2 * rounding).all()


def from_step(step: int, then: Any, before: Any = POSES[0]) -> Callable[[int], list[float]]:
    """An answer that changes with the n-th question; an exception is raised."""

    def answer(asked: int) -> list[float]:
        said = before if asked < step else then
        if isinstance(said, Exception):
            raise said
        return list(said)

    return answer


def once(step: int, said: Any, otherwise: Any = POSES[0]) -> Callable[[int], list[float]]:
    return lambda asked: list(said) if asked == step else list(otherwise)


# A life without faults.


def test_the_arm_starts_softly_goes_through_all_goals_parks_and_only_then_is_its_torque_off() -> None:
    rig = Rig(seconds=1.5)
    report = rig.run()
    assert (report.faults, report.clamped, report.interrupted, report.overruns, report.lost_replies) == (
        [],
        {},
        False,
        0,
        0,
    )
    assert [result.goal_m for result in report.goals] == [course.goal_m for course in COURSES]
    assert rig.results == report.goals
    assert all(result.error_mm < 1.0 for result in report.goals)
    assert rig.policy.asked == SOFT_STEPS + 3 * 45
    assert rig.policy.forgotten == 3
    assert report.ticks == len(rig.arm.sent)
    rig.assert_parked()
    rig.assert_within_limits()


@pytest.mark.parametrize("rate", [30.0, 100.0, 500.0])
def test_the_first_target_is_where_the_arm_is_and_the_next_ones_leave_it_softly(rate: float) -> None:
    rig = Rig(rate=rate)
    rig.run()
    rig.assert_within_limits()
    soft = np.array(rig.arm.sent[: round(EASE_S * rate)]) - START
    wanted = np.array(POSES[0]) - START
    np.testing.assert_allclose(soft[0], 0.0, atol=0.05)
    # Behind the blend of start and answer by no more than the limiter stays behind what moves.
    for tick in (round(share * EASE_S * rate) for share in (0.25, 0.5, 0.75)):
        np.testing.assert_allclose(soft[tick], smooth(tick / rate / EASE_S) * wanted, atol=2.0)
    np.testing.assert_allclose(soft[-1], wanted, atol=0.1)


def test_phases_are_told_in_their_order(tmp_path: Path) -> None:
    seen: list[str] = []
    rig = Rig(courses=[None, None, COURSES[0], None, COURSES[1]])
    finish = rig.loop.ticker.finish

    def noting(target: list[float], phase: str) -> None:
        seen.append(phase)
        finish(target, phase)

    rig.loop.ticker.finish = noting  # type: ignore[method-assign]
    rig.run()
    order = [phase for place, phase in enumerate(seen) if place == 0 or seen[place - 1] != phase]
    assert order == ["wait", "soft start", "run", "wait", "run", "park"]
    assert seen.count("wait") == 3
    assert seen.count("soft start") == SOFT_STEPS
    assert seen.count("run") == 30
    rig.assert_parked()


def test_errors_and_times_to_reach_are_those_of_the_motion() -> None:
    pose = POSES[0]
    here, there = (course.goal_m for course in COURSES[:2])
    rig = Rig(ScriptedPolicy(pose), COURSES[:2], seconds=2.0)
    reach, miss = rig.run().goals
    assert reach.error_mm < 0.1
    assert reach.time_to_reach_s is not None
    assert 0.5 < reach.time_to_reach_s <= EASE_S  # within the soft start
    assert miss.error_mm == pytest.approx(1000 * math.dist(here, there), abs=0.5)
    assert miss.time_to_reach_s is None


def test_a_goal_that_is_left_again_was_not_reached() -> None:
    rig = Rig(ScriptedPolicy(from_step(SOFT_STEPS + 20, POSES[1])), COURSES[:1], seconds=2.0)
    (result,) = rig.run().goals
    assert result.time_to_reach_s is None
    assert result.error_mm > 50.0


def test_no_goals_at_all_park_the_arm_and_make_a_report_that_is_strict_json() -> None:
    rig = Rig(courses=[])
    figures = json.loads(json.dumps(rig.run().figures(), allow_nan=False))
    assert (figures["goals"], figures["mean_error_mm"], figures["parked"]) == ([], None, True)
    rig.assert_parked()


def test_a_pose_to_park_in_can_be_named_and_is_checked() -> None:
    rig = Rig(park_deg=[45.0, 10.0, 80.0])
    rig.run()
    np.testing.assert_allclose(rig.arm.disabled_at_deg, [45.0, 10.0, 80.0], atol=0.1)
    rig.assert_parked()
    with pytest.raises(
        ValueError, match=r"parking pose: wanted an angle for each joint, 0 to 90, .* got \[45.0, 10.0, 91.0\]"
    ):
        Rig(park_deg=[45.0, 10.0, 91.0])
    with pytest.raises(ValueError, match="parking pose: wanted an angle for each joint"):
        Rig(park_deg=[45.0, 10.0])
    with pytest.raises(WorkspaceError, match=r"the parking pose .* is 150 mm outside the workspace"):
        Rig(park_deg=[0.0, 90.0, 90.0], settings=SafetySettings(table_m=0.2))


def test_an_arm_with_other_joints_is_refused_before_anything_is_asked_of_it() -> None:
    clock = FakeClock()
    arm = FakeArm(clock)
    arm.joint_names = ("shoulder", "base", "elbow")
    with pytest.raises(ValueError, match=r"the policy moves joints .* the arm has \('shoulder', 'base', 'elbow'\)"):
        Rig(arm=arm, clock=clock)
    assert arm.verbs == []


def test_a_loop_slower_than_the_policy_is_refused_and_the_arm_parked() -> None:
    rig = Rig(rate=20.0)
    with pytest.raises(ValueError, match="wanted a rate of at least the policy's 30 Hz, got 20"):
        rig.run()
    rig.assert_parked()


# The ends.


@pytest.mark.parametrize("polls", [1, 2, 20, SOFT_STEPS, SOFT_STEPS + 2, SOFT_STEPS + 25, 10_000])
def test_a_request_to_stop_parks_whenever_it_comes(polls: int) -> None:
    asked = 0

    def stop(rig: Rig) -> bool:
        nonlocal asked
        asked += 1
        return asked >= polls

    rig = Rig(stop=stop, rate=30.0)
    report = rig.run()
    assert report.interrupted == (polls < 10_000)
    assert len(report.goals) == (3 if polls == 10_000 else max(0, polls - SOFT_STEPS - 1) // 15)
    json.dumps(report.figures(), allow_nan=False)
    rig.assert_parked()
    rig.assert_within_limits()


def test_a_request_to_stop_while_waiting_for_goals_parks() -> None:
    def for_ever() -> Iterator[None]:
        while True:
            yield None

    rig = Rig(courses=for_ever(), stop=lambda rig: rig.reads > 40)
    assert rig.run().interrupted
    rig.assert_parked()


@pytest.mark.parametrize(
    ("offset", "noise_deg", "check", "said"),
    [
        (4.0, 0.2, "parking", "not in its parking pose [34.0, 30.0, 40.0]"),  # the tip is off by 22 mm
        (4.0, 0.0, "frozen", "base_yaw has stayed at 30.1 degrees while its target moved by more than 3"),
        (60.0, 0.2, "tracking", "the tip has been"),
    ],
)
def test_an_arm_that_does_not_come_to_its_parking_pose_keeps_its_torque(
    offset: float, noise_deg: float, check: str, said: str
) -> None:
    park = [30.0 + offset, 30.0, 40.0]

    def block(rig: Rig) -> None:
        if rig.arm.angles_deg[0] >= 30.0:
            rig.arm.blocked = {0}

    def flicker(state: JointState) -> JointState:
        sign = 1 if rig.reads % 2 else -1
        return dataclasses.replace(state, angles_deg=[angle + sign * noise_deg for angle in state.angles_deg])

    rig = Rig(courses=[], park_deg=park, fault=block)
    rig.arm.faulty_read = flicker
    report = rig.run()
    assert rig.checks == [check]
    assert report.figures()["faults"][0]["check"] == check
    assert said in report.faults[0].text
    rig.assert_held()
    rig.assert_within_limits()


@pytest.mark.parametrize("key", ["p", "r"])
def test_a_person_who_clears_the_way_parks_it_after_all(key: str) -> None:
    def block(rig: Rig) -> None:
        rig.arm.blocked = {0} if rig.reads < 500 else set()

    rig = Rig(courses=[], fault=block, keys=["", "", key, "", key, *[""] * 300, key])
    rig.run()
    assert rig.checks == ["frozen", "parking", "parking"]
    rig.assert_parked()


def test_an_arm_that_still_moves_in_its_parking_pose_keeps_its_torque() -> None:
    def swing(state: JointState) -> JointState:
        return dataclasses.replace(state, speeds_deg_s=[0.0, PARKED_DEG_S + 1.0, 0.0])

    rig = Rig(courses=[])
    rig.arm.faulty_read = swing
    rig.run()
    assert rig.checks == ["parking"]
    rig.assert_held()


# Refusals.


def refused_rig(**more: Any) -> Rig:
    """Says something that is no number in the fifth step after the soft start, at full speed, and then never again."""
    answers = [POSES[0]] * (SOFT_STEPS + 3) + [POSES[1]] * 3 + [[math.nan] * 3]
    policy = ScriptedPolicy(lambda asked: answers[asked] if asked < len(answers) else POSES[2])
    return Rig(policy, **{"rate": 100.0, **more})


def test_a_refusal_brakes_and_holds_with_torque_on() -> None:
    rig = refused_rig()
    report = rig.run()
    assert rig.checks == ["finite"]
    assert report.goals == []
    rig.assert_held()
    rig.assert_within_limits()
    speeds = np.diff(rig.arm.sent, axis=0) * 100
    braking = speeds[np.argmax(np.abs(speeds[:, 0])) :]
    assert np.abs(braking[0, 0]) > 60.0
    assert (np.abs(braking[1:]) <= np.abs(braking[:-1]) + 1e-6).all()
    assert any("STOPPED, and held. finite: wanted 3 finite target angles" in text for text in rig.said)
    assert report.parked is report.interrupted is False


def test_after_a_reset_the_arm_starts_softly_and_goes_on_with_the_next_goal() -> None:
    rig = refused_rig(keys=[*[""] * 50, "r"])
    report = rig.run()
    assert rig.checks == ["finite"]
    assert [goal.goal_m for goal in report.goals] == [course.goal_m for course in COURSES[1:]]
    assert rig.policy.asked == SOFT_STEPS + 7 + SOFT_STEPS + 30
    assert rig.said[-1] == "r: go on with what is left; p or Ctrl-C or SIGTERM: park"
    held = next(place for place, pair in enumerate(pairwise(rig.arm.sent)) if place > 210 and pair[0] == pair[1])
    soft = np.array(rig.arm.sent[held:]) - rig.arm.sent[held]
    leaves = int(np.argmax(np.abs(soft).max(1) > 0.0))
    assert leaves > 50
    assert np.abs(soft[leaves]).max() < 0.1
    assert 0.2 < np.abs(soft[leaves + 100] / (np.array(POSES[2]) - rig.arm.sent[held])).max() < 0.8
    rig.assert_parked()
    rig.assert_within_limits()


@pytest.mark.parametrize("way", ["key", "stop"])
def test_from_a_hold_the_arm_can_be_parked(way: str) -> None:
    if way == "key":
        rig = refused_rig(keys=["", "", "x", "p"])
    else:
        rig = refused_rig(keys=[], stop=lambda rig: rig.reads > 400)
    report = rig.run()
    assert rig.checks == ["finite"]
    assert report.interrupted == (way == "stop")
    rig.assert_parked()
    rig.assert_within_limits()


def test_a_person_is_asked_only_when_the_arm_rests() -> None:
    rig = refused_rig(keys=["r"])
    moving: list[bool] = []
    key = rig.loop.key
    rig.loop.key = lambda: moving.append(rig.loop.safety.moving) or key()  # type: ignore[func-returns-value,misc]
    rig.run()
    assert moving
    assert not any(moving)
    rig.assert_parked()


def hot(rig: Rig) -> None:
    rig.arm.faulty_read = lambda state: dataclasses.replace(
        state, temperatures_c=[80.0 if rig.reads > 90 else 40.0, 40.0, 40.0]
    )


def test_what_is_still_wrong_after_a_reset_is_refused_again_and_parking_goes_all_the_same() -> None:
    rig = Rig(fault=hot, keys=["r", "r", "", "p"])
    rig.run()
    assert rig.checks == ["temperature"] * 3
    rig.assert_parked()


@pytest.mark.parametrize("keys", [["p"], ["p", "", "p"]])
def test_a_second_refusal_while_parking_holds(keys: list[str]) -> None:
    def block(rig: Rig) -> None:
        hot(rig)
        rig.arm.blocked = {1} if rig.reads > 90 else set()

    # A request to stop ends what nobody could end otherwise: it parks once more, which is refused as well.
    rig = Rig(fault=block, keys=keys, stop=lambda rig: rig.reads > 1500)
    rig.run()
    assert rig.checks[0] == "temperature"
    assert len(rig.checks) == keys.count("p") + 2
    assert rig.checks[1:] == ["tracking"] * (keys.count("p") + 1)
    rig.assert_held()


def test_a_refusal_while_parking_after_a_request_to_stop_ends_holding() -> None:
    def block(rig: Rig) -> None:
        rig.arm.blocked = {1} if rig.reads > 90 else set()

    rig = Rig(fault=block, keys=[], stop=lambda rig: rig.reads > 90)
    assert rig.run().interrupted
    assert rig.checks == ["tracking"]
    rig.assert_held()
    assert rig.said[-1].startswith("STOPPED, and held.")  # nobody is asked for what would not be waited for


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        ({"angles_deg": [math.nan] * 3}, "reading"),
        ({"angles_deg": [20.0]}, "reading"),
        ({"speeds_deg_s": [1e6] * 3}, "reading"),
        ({"angles_deg": [-100.0, 30.0, 40.0]}, "start"),
    ],
)
def test_of_an_arm_that_is_nobody_knows_where_nothing_is_asked(spoil: dict[str, Any], check: str) -> None:
    rig = Rig(keys=["r", "p", "", "p"], stop=lambda rig: rig.reads > 100)
    rig.arm.faulty_read = lambda state: dataclasses.replace(state, **spoil)
    rig.run()
    assert set(rig.checks) == {check}
    assert rig.arm.verbs == ["enable"]
    # A person repairs it, and goes on.
    rig = Rig(keys=["", "", "r"])
    rig.arm.faulty_read = lambda state: dataclasses.replace(state, **(spoil if rig.reads < 4 else {}))
    rig.run()
    assert rig.checks == [check]
    assert len(rig.results) == 3
    rig.assert_parked()
    rig.assert_within_limits()


@pytest.mark.parametrize("key", ["r", "p"])
def test_after_an_encoder_that_jumped_one_key_is_enough(key: str) -> None:
    def jump(rig: Rig) -> None:
        rig.arm.faulty_read = lambda state: (
            dataclasses.replace(state, angles_deg=[a + 360.0 for a in state.angles_deg])
            if 70 <= rig.reads < 80
            else state
        )

    rig = Rig(fault=jump, keys=[*[""] * 30, key])
    rig.run()
    assert rig.checks == ["jump"]
    rig.assert_parked()
    rig.assert_within_limits()


def test_a_key_does_nothing_until_the_arm_answers_and_then_switches_it_on_again() -> None:
    def lose(rig: Rig) -> None:
        rig.arm.faulty_read = lost if 70 <= rig.reads < 90 else lambda state: state

    rig = Rig(fault=lose, keys=["r"] * 40)
    report = rig.run()
    assert rig.checks == ["stale"]
    assert 5 <= report.lost_replies < 20
    assert any("it does not answer: no reply" in text for text in rig.said)
    assert rig.arm.verbs.count("enable") > 1
    assert report.parked
    rig.assert_within_limits()


def test_an_arm_that_has_stopped_by_itself_is_switched_on_again_by_a_key() -> None:
    """As servos whose watchdog has tripped, which say nothing else until they are enabled."""

    def trip(rig: Rig) -> None:
        tripped = rig.reads >= 70 and rig.arm.verbs.count("enable") == 1
        rig.arm.faulty_read = lost if tripped else lambda state: state

    rig = Rig(fault=trip, keys=[*[""] * 200, "r"])  # long after an arm that nobody watches would be given up
    report = rig.run()
    assert rig.checks == ["stale"]
    assert report.parked
    assert rig.arm.verbs.count("enable") == 2
    rig.assert_within_limits()


# The bus.


@pytest.mark.parametrize("what", ["read", "write"])
@pytest.mark.parametrize("every", [2, 3, 7])
def test_single_lost_replies_are_counted_and_survived(what: str, every: int) -> None:
    count = 0

    def lose(value: Any) -> Any:
        nonlocal count
        count += 1
        return lost() if count > 5 and count % every == 0 else value

    rig = Rig(rate=100.0, seconds=1.5)
    setattr(rig.arm, f"faulty_{what}", lose)
    report = rig.run()
    assert report.faults == []
    assert report.lost_replies == sum(n % every == 0 for n in range(6, count + 1)) > 50
    assert all(goal.error_mm < 2.0 for goal in report.goals)
    rig.assert_parked()
    rig.assert_within_limits()


def lose_from_75(rig: Rig) -> None:
    if rig.reads >= 75:
        rig.arm.faulty_read = rig.arm.faulty_write = lost


@pytest.mark.parametrize("waits", [False, True])
def test_a_bus_that_is_silent_for_long_stops_the_arm_and_then_ends_the_run_with_torque_as_it_was(waits: bool) -> None:
    rig = Rig(fault=lose_from_75, clock=FakeClock(waits=waits))
    silent_s = 5.0 + 73 / 30
    if waits:
        with pytest.raises(DriverError, match="no reply"):
            rig.run()
        assert rig.clock.now_s() - silent_s == pytest.approx(LOST_S, abs=0.2)
        assert rig.checks == ["stale", "lost"]
        assert "lost communication for 2 s: giving up" in rig.said[-1]
    else:
        rig.run()
        assert rig.checks == ["stale"]
    assert not rig.torque_off
    rig.assert_within_limits()


def test_a_silent_arm_that_a_person_watches_is_held_until_they_ask_for_the_end() -> None:
    rig = Rig(fault=lose_from_75, keys=["p", "r"], stop=lambda rig: rig.clock.now_s() > 5.0 + 73 / 30 + 3 * LOST_S)
    rig.run()
    assert rig.checks == ["stale"]
    assert rig.clock.now_s() > 5.0 + 73 / 30 + 3 * LOST_S
    assert not rig.torque_off
    rig.assert_within_limits()


def test_an_arm_that_does_not_answer_at_all_is_told_before_anything_moves() -> None:
    rig = Rig()
    rig.arm.faulty_read = lost
    with pytest.raises(DriverError, match="no reply"):
        rig.run()
    assert rig.arm.verbs == []  # exit code 2 says that nothing is energised
    assert not rig.loop.torque_on


@pytest.mark.parametrize("reading", [2, 3])
def test_an_arm_that_falls_silent_when_it_is_switched_on_is_known_to_have_its_torque_on(reading: int) -> None:
    rig = Rig()
    rig.fault = lambda rig: setattr(rig.arm, "faulty_read", lost) if rig.reads == reading else None
    with pytest.raises(DriverError) if reading == 2 else contextlib.nullcontext():
        rig.run()
    assert rig.arm.verbs[0] == "enable"
    assert not rig.torque_off
    assert rig.loop.torque_on


@pytest.mark.parametrize(("error", "on"), [(DriverError, False), (TorqueLeftOnError, True)])
def test_an_arm_that_cannot_be_switched_on_says_whether_its_torque_may_be_on(
    error: type[DriverError], on: bool
) -> None:
    def fails() -> None:
        raise error("no")

    rig = Rig()
    rig.arm.enable = fails  # type: ignore[method-assign]
    with pytest.raises(error):
        rig.run()
    assert rig.loop.torque_on is on


def test_an_arm_that_cannot_be_switched_off_is_told() -> None:
    rig = Rig()
    rig.arm.disable = lost  # type: ignore[method-assign]
    with pytest.raises(DriverError, match="no reply"):
        rig.run()
    assert not rig.loop.report.parked


@pytest.mark.parametrize("step", [0, 1, 30, SOFT_STEPS, SOFT_STEPS + 10])
def test_a_policy_that_fails_is_told_once_the_arm_is_parked(step: int) -> None:
    rig = Rig(ScriptedPolicy(from_step(step, RuntimeError("out of memory"))))
    with pytest.raises(RuntimeError, match="out of memory"):
        rig.run()
    rig.assert_parked()
    rig.assert_within_limits()


def test_a_policy_that_fails_when_the_arm_cannot_park_is_told_with_torque_on() -> None:
    rig = Rig(ScriptedPolicy(from_step(SOFT_STEPS, RuntimeError("out of memory"))))
    rig.fault = lambda rig: rig.arm.blocked.update({1} if rig.policy.asked > SOFT_STEPS else ())  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="out of memory"):
        rig.run()
    assert rig.checks == ["tracking"]
    rig.assert_held()


@pytest.mark.parametrize("fails", [False, True])
def test_a_shadow_reads_asks_and_sends_nothing_at_all(fails: bool) -> None:
    policy = ScriptedPolicy(once(30, [math.nan] * 3)) if fails else None
    rig = Rig(policy, shadow=True, settings=SafetySettings(tracking_deg=math.inf))
    report = rig.run()
    assert rig.arm.verbs == []
    assert rig.reads > 20
    assert rig.checks == (["finite"] if fails else [])
    assert len(report.goals) == (0 if fails else 3)
    assert not report.parked
    lines = [text for text in rig.said if "would send" in text]
    assert len(lines) == report.ticks // 30
    assert lines[0].startswith("  reads 20.0 30.0 40.0, would send ")


# Rates and cadence.


@pytest.mark.parametrize("rate", [30.0, 40.0, 50.0, 99.0, 200.0, 1000.0])
def test_the_policy_is_asked_at_its_own_rate_and_targets_in_between_keep_the_limits_at_the_loops(rate: float) -> None:
    asked_s: list[float] = []
    policy = ScriptedPolicy(lambda asked: asked_s.append(rig.clock.now_s()) or POSES[asked // 10 % 3])
    rig = Rig(policy, COURSES[:2], rate=rate)
    report = rig.run()
    assert policy.asked == SOFT_STEPS + 30
    np.testing.assert_allclose(np.array(asked_s) - asked_s[0], np.arange(len(asked_s)) / 30, atol=1 / rate)
    assert report.faults == []
    rig.assert_within_limits()
    np.testing.assert_allclose(np.diff(rig.arm.sent_s), 1 / rate, rtol=1e-6)
    rig.assert_parked()


@pytest.mark.parametrize("rate", [10.0, 17.0])
def test_a_slow_policy_runs_at_a_slow_rate(rate: float) -> None:
    rig = Rig(Skilled(1 / 10), rate=rate, seconds=2.0)
    rig.run()
    assert [goal.error_mm < 1.0 for goal in rig.results] == [True] * 3
    rig.assert_within_limits()
    rig.assert_parked()


def test_late_ticks_put_off_those_after_them_and_small_delays_do_not_add_up() -> None:
    period_s = 1 / 100
    lateness = [0.0, 0.1, 0.19, 0.15, 0.0, 0.21, 0.0, 0.7, 3.0, 0.05, 1.1]

    def oversleep(wait: int) -> float:
        return period_s * lateness[wait % len(lateness)]

    clock = FakeClock(oversleep=oversleep)
    rig = Rig(rate=100.0, clock=clock, arm=FakeArm(clock))
    report = rig.run()
    gaps = np.diff(rig.arm.sent_s) / period_s
    assert gaps.min() >= 0.8 - 1e-6
    rounds = report.ticks / len(lateness)
    assert report.overruns == pytest.approx(4 * rounds, abs=4)
    # Each round puts off the rest by its late ticks alone.
    late = sum(late for late in lateness if late > 0.2)
    length = (rig.arm.sent_s[-1] - rig.arm.sent_s[0]) / period_s
    assert length == pytest.approx(report.ticks + rounds * late, abs=late + 4)
    assert report.shifted_s == pytest.approx(rounds * late * period_s, abs=(late + 4) * period_s)
    assert report.faults == []
    worst = report.figures()["timings_us"]["period error"]["worst"]
    assert worst == pytest.approx(3.0 * period_s * 1e6)
    rig.assert_within_limits()
    rig.assert_parked()


@given(st.lists(st.floats(0.0, 4.0), min_size=1, max_size=30), st.sampled_from([30.0, 100.0, 500.0]))
def test_two_targets_are_never_closer_than_four_fifths_of_a_period(lateness: list[float], rate: float) -> None:
    period_s = 1 / rate
    clock = FakeClock(oversleep=lambda wait: period_s * lateness[wait % len(lateness)])
    rig = Rig(courses=[], rate=rate, clock=clock, arm=FakeArm(clock))
    report = rig.run()
    assert (np.diff(rig.arm.sent_s) >= (0.8 - 1e-6) * period_s).all()
    # By hand: when each tick is due, and when it begins.
    due_s, begun_s, late = 5.0, [], 0
    for wait in range(1, report.ticks + 2):
        begun_s.append(due_s + period_s * lateness[wait % len(lateness)])
        if begun_s[-1] - due_s > 0.2 * period_s:
            late, due_s = late + 1, begun_s[-1]
        due_s += period_s
    np.testing.assert_allclose(rig.arm.sent_s, begun_s[: report.ticks], rtol=0, atol=1e-6)
    assert abs(report.overruns - late) <= 1 or min(abs(share - 0.2) for share in lateness) < 1e-6


def test_after_a_stall_the_targets_leave_from_rest() -> None:
    at = round((EASE_S + 0.1) * 200)
    clock = FakeClock(oversleep=lambda wait: 0.5 if wait == at else 0.0)
    rig = Rig(ScriptedPolicy(from_step(SOFT_STEPS + 1, POSES[1])), rate=200.0, clock=clock, arm=FakeArm(clock))
    report = rig.run()
    gap = int(np.argmax(np.diff(rig.arm.sent_s)))
    before, after = (np.abs(np.subtract(rig.arm.sent[i + 1], rig.arm.sent[i])).max() * 200 for i in (gap - 1, gap))
    assert before > 100.0
    assert after <= ARM.limits.max_acceleration_deg_s2[0] / 200 + 1e-6
    assert (report.overruns, report.faults) == (1, [])
    rig.assert_parked()


def test_the_clocks() -> None:
    fast, real = FastTime(), RealTime()
    assert (fast.waits, real.waits) == (False, True)
    fast.wait_until(3.0)
    fast.wait_until(1.0)
    assert fast.now_s() == 3.0
    begin = real.now_s()
    real.wait_until(begin - 1.0)
    real.wait_until(begin + 0.01)
    assert real.now_s() >= begin + 0.01


# Figures.


@pytest.mark.parametrize("kind", ["lognormal", "uniform", "one", "two"])
def test_percentiles_of_times_are_numpys_within_3_percent(kind: str) -> None:
    generator = np.random.default_rng(3)
    times = {
        "lognormal": 1e-4 * generator.lognormal(size=20_000),
        "uniform": generator.uniform(1e-6, 1e-2, 20_000),
        "one": np.array([3.7e-4]),
        "two": np.array([1e-5, 1e-3]),
    }[kind]
    timings = Timings()
    for value in times:
        timings.add(float(value))
    figures = timings.figures_us()
    for name, share in PERCENTILES.items():
        wanted = 1e6 * np.quantile(times, share, method="inverted_cdf")
        assert wanted * (1 - 1e-9) <= figures[name] <= wanted * 1.03
    assert figures["worst"] == pytest.approx(1e6 * times.max())
    assert timings.count == len(times)


@given(st.lists(st.floats(-1.0, 1e6), max_size=50), st.floats(0.0, 1.0))
def test_percentiles_never_exceed_the_worst(times: list[float], share: float) -> None:
    timings = Timings()
    for value in times:
        timings.add(value)
    assert 0.0 <= timings.percentile_s(share) <= timings.worst_s == max([0.0, *times])


def test_figures_are_those_of_the_report() -> None:
    rig = Rig(seconds=1.0)
    report = rig.run()
    figures = json.loads(json.dumps(report.figures(), allow_nan=False))
    assert figures["mean_error_mm"] == pytest.approx(sum(goal.error_mm for goal in rig.results) / 3)
    assert figures["wanted_rate_hz"] == pytest.approx(30.0)
    assert figures["rate_hz"] > 0
    assert figures["ticks"] == report.ticks == report.timings["tick"].count
    assert figures["goals"][2]["goal_m"] == list(COURSES[2].goal_m)
    for timings in figures["timings_us"].values():
        assert 0.0 <= timings["p50"] <= timings["p99"] <= timings["p99.9"] <= timings["worst"] * (1 + 1e-12)


# The simulated arm.


@pytest.mark.parametrize("imperfections", ["ideal", "xl430", "rough"])
@pytest.mark.parametrize("rate", [30.0, 100.0])
def test_a_healthy_policy_on_a_healthy_arm_clamps_nothing_and_refuses_nothing(imperfections: str, rate: float) -> None:
    clock = FastTime()
    driver = SimulationDriver(ARM, 1 / rate, imperfections, clock.now_s)
    try:
        loop = ControlLoop(driver, Safety(ARM, ARM.limits, 1 / rate), clock)
        report = loop.run(GoalWork(Skilled(), COURSES, seconds_per_goal=2.0))  # type: ignore[arg-type]
    finally:
        driver.close()
    assert (report.faults, report.clamped, report.parked, len(report.goals)) == ([], {}, True, 3)
    assert max(goal.error_mm for goal in report.goals) < {"ideal": 1.0, "xl430": 20.0, "rough": 60.0}[imperfections]


def test_a_trained_policy_goes_through_its_goals_on_the_simulated_arm(tiny_policy: Path) -> None:
    driver, told = SimulationDriver(ARM, 1 / 30), []
    try:
        report = drive(PolicyRunner.load(tiny_policy), driver, COURSES, seconds_per_goal=0.5, on_goal=told.append)
        state = driver.read()
    finally:
        driver.close()
    assert told == report.goals
    assert (report.faults, report.clamped, report.parked, report.overruns) == ([], {}, True, 0)
    np.testing.assert_allclose(state.angles_deg, LOW, atol=PARKED_DEG)
    np.testing.assert_allclose(state.speeds_deg_s, 0.0, atol=PARKED_DEG_S)


# The recording.


def recorded(rig: Rig, path: Path) -> Any:
    recorder = Recorder(
        path, {"joint_names": json.dumps(ARM.joint_names)}, post_mortem=path.with_suffix(".post-mortem.mcap")
    )
    rig.loop.ticker.recorder = recorder
    try:
        rig.run()
    finally:
        assert recorder.close() is None
    assert recorder.dropped == 0
    return read_recording(path)


def test_every_tick_is_recorded_once_with_what_the_arm_got(tmp_path: Path) -> None:
    rig = Rig(seconds=0.3, rate=100.0)
    recording = recorded(rig, tmp_path / "run.mcap")
    assert recording.whole
    assert len(recording.ticks) == rig.loop.report.ticks
    assert [tick.target_deg for tick in recording.ticks] == rig.arm.sent
    np.testing.assert_allclose([tick.time_s for tick in recording.ticks], rig.arm.sent_s)
    assert {tick.band for tick in recording.ticks} == {"pass"}
    answers = [tick.raw_deg for tick in recording.ticks if tick.phase == "soft start"]
    assert answers[0] == pytest.approx(POSES[0])
    assert all(tick.angle_deg is not None and tick.stamp_s == tick.time_s for tick in recording.ticks)
    assert [event.kind for event in recording.events] == ["phase", "goal", "goal", "goal", "phase", "driver", "end"]
    assert [event.text for event in recording.events if event.kind == "goal"] == ["goal 1", "goal 2", "goal 3"]
    assert recording.events[-1].text == "parked, torque off"
    assert not (tmp_path / "run.post-mortem.mcap").exists()


@pytest.mark.parametrize("said", [[math.nan, 1.0, 2.0], [1.0, math.inf, 2.0], [500.0, 1.0, 1.0], [1.0], []], ids=str)
def test_a_refusal_leaves_a_post_mortem_with_the_tick_that_was_refused(tmp_path: Path, said: list[float]) -> None:
    rig = Rig(ScriptedPolicy(once(30, said)))
    whole = recorded(rig, tmp_path / "run.mcap")
    post_mortem = read_recording(tmp_path / "run.post-mortem.mcap")
    check = "position" if said and said[0] == 500.0 else "finite"
    for recording in (whole, post_mortem):
        (event,) = (event for event in recording.events if event.kind == "refusal")
        assert event.text.startswith(f"{check}: ")
        (tick,) = (tick for tick in recording.ticks if tick.band == "refuse" and tick.phase == "soft start")
        if len(said) == 3:
            assert tick.raw_deg == pytest.approx([math.nan if not math.isfinite(a) else a for a in said], nan_ok=True)
    assert len(whole.ticks) == rig.loop.report.ticks
    assert [tick.target_deg for tick in whole.ticks] == rig.arm.sent
    assert whole.events[-1].text == "torque left on"


@pytest.mark.parametrize("said", [[math.nan] * 3, [20.0], []], ids=str)
def test_readings_that_make_no_sense_and_those_that_do_not_come_are_ticks_of_the_recording_too(
    tmp_path: Path, said: list[float]
) -> None:
    def fault(rig: Rig) -> None:
        rig.arm.faulty_read = lambda state: (
            lost() if rig.reads == 20 else dataclasses.replace(state, angles_deg=said) if rig.reads == 30 else state
        )

    rig = Rig(fault=fault)
    recording = recorded(rig, tmp_path / "run.mcap")
    assert rig.checks == ["reading"]
    assert len(recording.ticks) == rig.loop.report.ticks
    assert [tick.stamp_s is None for tick in recording.ticks].count(True) == 1
    assert [event.kind for event in recording.events].count("drops") == 0


def test_a_shadows_recording_says_what_was_answered_and_that_nothing_was_sent(tmp_path: Path) -> None:
    rig = Rig(shadow=True, settings=SafetySettings(tracking_deg=math.inf))
    recording = recorded(rig, tmp_path / "run.mcap")
    assert len(recording.ticks) == rig.loop.report.ticks > 0
    assert all(tick.target_deg is None and tick.raw_deg is not None for tick in recording.ticks if tick.phase == "run")


class MemoryRecorder:
    """Keeps what a recorder would write."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.events: list[Event] = []

    def tick(self, tick: Tick) -> None:
        self.ticks.append(tick)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def trajectory(self) -> Trajectory:
        """What viewers see of it."""
        start_s, end_s = self.ticks[0].time_s, self.ticks[-1].time_s
        kept: Any = SimpleNamespace(start_s=start_s, end_s=end_s, events=self.events)
        events, episodes = events_and_episodes(kept)
        return Trajectory("kept", ARM, 1 / 30, TicksInMemory(self.ticks), episodes=episodes, events=events)


def table_errors(trajectory: Trajectory) -> list[str]:
    """The errors in a page's table."""
    return re.findall(r"<td>([\d.]+)</td>", table_of([trajectory], 0.0, math.inf))


class TestErrorsAtTheEnd:
    """A run and every view of its recording state the same error for each goal."""

    @settings(max_examples=20)
    @given(
        st.lists(st.floats(0.0, 0.015), min_size=1, max_size=8),
        st.sets(st.integers(1, 60), max_size=12),
        st.sampled_from([30.0, 60.0, 100.0]),
        st.lists(st.sampled_from([0, 1, 2, None]), max_size=3),
    )
    def test_whatever_the_ticks_are(
        self, late_s: list[float], lost_reads: set[int], rate: float, numbers: list[int | None]
    ) -> None:
        """Late ticks, replies that are lost (no two at once), goals that have to be waited for."""

        def fault(rig: Rig) -> None:
            rig.arm.faulty_read = lost if rig.reads / 3 in lost_reads else lambda state: state

        clock = FakeClock(oversleep=lambda wait: late_s[wait % len(late_s)])
        # Not where the goals are, so that the arm is on its way when their time is over.
        policy = ScriptedPolicy(lambda asked: POSES[asked // 7 % 3])
        courses = [None if number is None else COURSES[number] for number in (0, *numbers)]
        recorder = MemoryRecorder()
        rig = Rig(policy, courses, rate=rate, seconds=0.5, clock=clock, fault=fault, recorder=recorder)
        report = rig.run()
        trajectory = recorder.trajectory()
        assert report.faults == []
        assert [trajectory.error_at_end_mm(episode) for episode in trajectory.episodes] == [
            result.error_mm for result in report.goals
        ]
        assert table_errors(trajectory) == [f"{result.error_mm:.2f}" for result in report.goals]

    def test_by_hand_it_is_the_distance_in_the_tick_in_which_the_goals_time_is_over(self) -> None:
        recorder = MemoryRecorder()
        rig = Rig(ScriptedPolicy(lambda asked: POSES[asked // 7 % 3]), COURSES[:2], seconds=0.5, recorder=recorder)
        results = rig.run().goals
        run = [place for place, tick in enumerate(recorder.ticks) if tick.phase == "run"]
        for result, course, place in zip(results, COURSES, (run[15], run[-1] + 1), strict=False):
            tick = recorder.ticks[place]
            wanted_mm = 1000.0 * math.dist(ARM.tip_position(tick.angle_deg or []), course.goal_m)
            assert result.error_mm == pytest.approx(wanted_mm, rel=1e-12)
            assert tick.goal_error_mm == result.error_mm

    def test_of_a_goal_that_moves_it_is_the_rms(self) -> None:
        path = Track(path="circle", speed_m_s=0.1).draw_path(ARM, np.random.default_rng(3))
        recorder = MemoryRecorder()
        courses = [MovingGoal(path, 45, 1 / 30), COURSES[0]]
        rig = Rig(ScriptedPolicy(POSES[0]), courses, seconds=1.5, recorder=recorder)
        errors_mm = [f"{result.error_mm:.2f}" for result in rig.run().goals]
        assert table_errors(recorder.trajectory()) == errors_mm

    def test_without_it_in_the_recording_it_is_worked_out_from_the_ticks(self) -> None:
        """As of a recording that was made before ticks had it."""
        recorder = MemoryRecorder()
        late_s = (0.0, 0.001, 0.02)
        clock = FakeClock(oversleep=lambda wait: late_s[wait % 3])
        rig = Rig(ScriptedPolicy(lambda asked: POSES[asked // 7 % 3]), seconds=0.5, clock=clock, recorder=recorder)
        errors_mm = [result.error_mm for result in rig.run().goals]
        recorder.ticks = [msgspec.structs.replace(tick, goal_error_mm=None) for tick in recorder.ticks]
        recorder.events = [Event(event.time_s + 3e-4, event.kind, event.text) for event in recorder.events]
        trajectory = recorder.trajectory()
        assert [trajectory.error_at_end_mm(episode) for episode in trajectory.episodes] == pytest.approx(
            errors_mm, rel=1e-9
        )

    def test_plots_have_a_dot_at_each(self) -> None:
        recorder = MemoryRecorder()
        rig = Rig(ScriptedPolicy(lambda asked: POSES[asked // 7 % 3]), seconds=0.5, recorder=recorder)
        errors_mm = [result.error_mm for result in rig.run().goals]
        trajectory = recorder.trajectory()
        (dots,) = trajectory_figure([trajectory]).axes[ARM.joint_count].collections
        ends_s = [episode.end_s for episode in trajectory.episodes]
        np.testing.assert_allclose(dots.get_offsets(), np.transpose([ends_s, errors_mm]))

    def test_what_a_run_prints_is_in_the_page_of_its_recording(
        self, tiny_policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        log = tmp_path / "run.mcap"
        words = ["--random", "2", "--seconds-per-goal", "0.4", "--pace", "fast", "--record", str(log)]
        assert main(["run", str(tiny_policy), *words]) == 0
        printed = re.findall(r"([\d.]+) mm   (?:not reached|[\d.]+ s)", capfd.readouterr().out)
        trajectory = open_trajectory(log)
        while trajectory.growing:  # a slow machine still writes
            trajectory.refresh()
        assert len(printed) == 2
        assert table_errors(trajectory) == printed
        trajectory.close()
