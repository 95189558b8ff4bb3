"""The control loop: the life cycle of a run from soft start to rest, and what it does about faults."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_arm import ARM, START, FakeArm, FakeClock, ScriptedPolicy, Skilled, lost
from helpers import drive
from rig import COURSES, EASE_S, LOST_S, LOW, POSES, SOFT_STEPS, Rig, from_step, once

from arm_control.drivers.base import DriverError, JointState, TorqueLeftOnError
from arm_control.drivers.simulation import SimulationDriver
from arm_control.runner import PolicyRunner
from arm_control.runner.clocks import FastTime
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import PARKED_DEG, PARKED_DEG_S, ControlLoop, smooth
from arm_control.runner.safety import Safety, SafetySettings, WorkspaceError


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
        ValueError, match=r"parking pose: expected an angle for each joint, 0 to 90, .* got \[45.0, 10.0, 91.0\]"
    ):
        Rig(park_deg=[45.0, 10.0, 91.0])
    with pytest.raises(ValueError, match="parking pose: expected an angle for each joint"):
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
    assert any("STOPPED, and held. finite: expected 3 finite target angles" in text for text in rig.said)
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
    rig = Rig(policy, dry_run=True, settings=SafetySettings(tracking_deg=math.inf))
    report = rig.run()
    assert rig.arm.verbs == []
    assert rig.reads > 20
    assert rig.checks == (["finite"] if fails else [])
    assert len(report.goals) == (0 if fails else 3)
    assert not report.parked
    lines = [text for text in rig.said if "would send" in text]
    assert len(lines) == report.ticks // 30
    assert lines[0].startswith("  reads 20.0 30.0 40.0, would send ")


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
