"""The control loop: a run from soft start to parking, and its response to faults."""

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
from rig import EASE_S, GOALS, LOST_S, LOW, POSES, SOFT_STEPS, Rig, from_step, once

from arm_control.drivers.base import DriverError, JointState, TorqueLeftOnError
from arm_control.drivers.simulation import SimulationDriver
from arm_control.runner import PolicyRunner
from arm_control.runner.clocks import FastTime
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import ControlLoop
from arm_control.runner.motions import PARKED_DEG, PARKED_DEG_S, smoothstep
from arm_control.runner.safety import Safety, SafetySettings, WorkspaceError


def faulty_rig(**more: Any) -> Rig:
    """A rig whose policy returns NaN once, at full speed, in the seventh step after the soft start."""
    actions = [POSES[0]] * (SOFT_STEPS + 3) + [POSES[1]] * 3 + [[math.nan] * 3]
    policy = ScriptedPolicy(lambda call: actions[call] if call < len(actions) else POSES[2])
    return Rig(policy, **{"rate": 100.0, **more})


def hot(rig: Rig) -> None:
    rig.arm.faulty_read = lambda state: dataclasses.replace(
        state, temperatures_c=[80.0 if rig.reads > 90 else 40.0, 40.0, 40.0]
    )


def lose_from_75(rig: Rig) -> None:
    if rig.reads >= 75:
        rig.arm.faulty_read = rig.arm.faulty_write = lost


class TestLifeCycle:
    """A run without faults."""

    def test_the_arm_visits_all_goals_and_parks_before_its_torque_is_off(self) -> None:
        """Every error is below 1 mm, targets keep the limits, and no fault occurs."""
        rig = Rig(seconds=1.5)
        report = rig.run()
        assert (report.faults, report.clamped, report.interrupted, report.overruns, report.lost_replies) == (
            [],
            {},
            False,
            0,
            0,
        )
        assert [result.goal_m for result in report.goals] == [goal.goal_m for goal in GOALS]
        assert rig.results == report.goals
        assert all(result.error_mm < 1.0 for result in report.goals)
        assert rig.policy.calls == SOFT_STEPS + 3 * 45
        assert rig.policy.forgotten == 3
        assert report.ticks == len(rig.arm.sent)
        rig.assert_parked()
        rig.assert_within_limits()

    @pytest.mark.parametrize("rate", [30.0, 100.0, 500.0])
    def test_the_soft_start_blends_from_the_arms_own_angles(self, rate: float) -> None:
        """Targets follow smoothstep(t / T) of the displacement, at any rate."""
        rig = Rig(rate=rate)
        rig.run()
        rig.assert_within_limits()
        soft = np.array(rig.arm.sent[: round(EASE_S * rate)]) - START
        expected = np.array(POSES[0]) - START
        np.testing.assert_allclose(soft[0], 0.0, atol=0.05)
        # Behind the blend of start pose and action by at most the lag of the limiter.
        for tick in (round(share * EASE_S * rate) for share in (0.25, 0.5, 0.75)):
            np.testing.assert_allclose(soft[tick], smoothstep(tick / rate / EASE_S) * expected, atol=2.0)
        np.testing.assert_allclose(soft[-1], expected, atol=0.1)

    def test_phases_follow_in_order(self, tmp_path: Path) -> None:
        """Wait, soft start, run, wait, run and park, with the number of ticks of each."""
        seen: list[str] = []
        rig = Rig(goals=[None, None, GOALS[0], None, GOALS[1]])
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

    def test_a_run_without_goals_parks(self) -> None:
        """Its report is strict JSON with an undefined mean error."""
        rig = Rig(goals=[])
        figures = json.loads(json.dumps(rig.run().figures(), allow_nan=False))
        assert (figures["goals"], figures["mean_error_mm"], figures["parked"]) == ([], None, True)
        rig.assert_parked()

    def test_an_arm_with_other_joints_is_rejected_before_it_is_enabled(self) -> None:
        """The order of the joints counts."""
        clock = FakeClock()
        arm = FakeArm(clock)
        arm.joint_names = ("shoulder", "base", "elbow")
        with pytest.raises(ValueError, match=r"the policy moves joints .* the arm has \('shoulder', 'base', 'elbow'\)"):
            Rig(arm=arm, clock=clock)
        assert arm.verbs == []

    @pytest.mark.parametrize("imperfections", ["ideal", "xl430", "rough"])
    @pytest.mark.parametrize("rate", [30.0, 100.0])
    def test_a_healthy_arm_has_no_clamps_and_no_faults(self, imperfections: str, rate: float) -> None:
        """For ideal and imperfect simulated arms at 30 and 100 Hz."""
        clock = FastTime()
        driver = SimulationDriver(ARM, 1 / rate, imperfections, clock.now_s)
        try:
            loop = ControlLoop(driver, Safety(ARM, ARM.limits, 1 / rate), clock)
            report = loop.run(GoalWork(Skilled(), GOALS, seconds_per_goal=2.0))  # type: ignore[arg-type]
        finally:
            driver.close()
        assert (report.faults, report.clamped, report.parked, len(report.goals)) == ([], {}, True, 3)
        assert max(goal.error_mm for goal in report.goals) < {"ideal": 1.0, "xl430": 20.0, "rough": 60.0}[imperfections]

    def test_a_trained_policy_runs_on_the_simulated_arm(self, tiny_policy: Path) -> None:
        """All goals are reported, and the arm rests in its parking pose."""
        driver, results = SimulationDriver(ARM, 1 / 30), []
        try:
            report = drive(PolicyRunner.load(tiny_policy), driver, GOALS, seconds_per_goal=0.5, on_goal=results.append)
            state = driver.read()
        finally:
            driver.close()
        assert results == report.goals
        assert (report.faults, report.clamped, report.parked, report.overruns) == ([], {}, True, 0)
        np.testing.assert_allclose(state.angles_deg, LOW, atol=PARKED_DEG)
        np.testing.assert_allclose(state.speeds_deg_s, 0.0, atol=PARKED_DEG_S)


class TestParking:
    """The parking pose."""

    def test_the_parking_pose_can_be_chosen_and_is_checked(self) -> None:
        """Poses outside limits or workspace, or of other lengths, are errors."""
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

    @pytest.mark.parametrize(
        ("offset", "noise_deg", "check", "message"),
        [
            (4.0, 0.2, "parking", "not in its parking pose [34.0, 30.0, 40.0]"),  # the tip is off by 22 mm
            (4.0, 0.0, "frozen", "base_yaw has stayed at 30.1 degrees while its target moved by more than 3"),
            (60.0, 0.2, "tracking", "the tip has been"),
        ],
    )
    def test_an_arm_that_does_not_reach_its_parking_pose_keeps_its_torque(
        self, offset: float, noise_deg: float, check: str, message: str
    ) -> None:
        """A blocked joint is a fault of parking, stillness or tracking, by how far it is off."""
        park = [30.0 + offset, 30.0, 40.0]

        def block(rig: Rig) -> None:
            if rig.arm.angles_deg[0] >= 30.0:
                rig.arm.blocked = {0}

        def flicker(state: JointState) -> JointState:
            sign = 1 if rig.reads % 2 else -1
            return dataclasses.replace(state, angles_deg=[angle + sign * noise_deg for angle in state.angles_deg])

        rig = Rig(goals=[], park_deg=park, fault=block)
        rig.arm.faulty_read = flicker
        report = rig.run()
        assert rig.checks == [check]
        assert report.figures()["faults"][0]["check"] == check
        assert message in report.faults[0].text
        rig.assert_held()
        rig.assert_within_limits()

    @pytest.mark.parametrize("key", ["p", "r"])
    def test_after_an_obstacle_is_removed_a_key_parks(self, key: str) -> None:
        """Either key works once the joint moves again."""

        def block(rig: Rig) -> None:
            rig.arm.blocked = {0} if rig.reads < 500 else set()

        rig = Rig(goals=[], fault=block, keys=["", "", key, "", key, *[""] * 300, key])
        rig.run()
        assert rig.checks == ["frozen", "parking", "parking"]
        rig.assert_parked()

    def test_an_arm_that_still_moves_in_its_parking_pose_keeps_its_torque(self) -> None:
        """The speed must be below `PARKED_DEG_S`."""

        def swing(state: JointState) -> JointState:
            return dataclasses.replace(state, speeds_deg_s=[0.0, PARKED_DEG_S + 1.0, 0.0])

        rig = Rig(goals=[])
        rig.arm.faulty_read = swing
        rig.run()
        assert rig.checks == ["parking"]
        rig.assert_held()


class TestStop:
    """Requests to stop."""

    @pytest.mark.parametrize("polls", [1, 2, 20, SOFT_STEPS, SOFT_STEPS + 2, SOFT_STEPS + 25, 10_000])
    def test_a_request_to_stop_parks_whenever_it_comes(self, polls: int) -> None:
        """From the first poll to the last tick, with the goals finished so far."""
        calls = 0

        def stop(rig: Rig) -> bool:
            nonlocal calls
            calls += 1
            return calls >= polls

        rig = Rig(stop=stop, rate=30.0)
        report = rig.run()
        assert report.interrupted == (polls < 10_000)
        assert len(report.goals) == (3 if polls == 10_000 else max(0, polls - SOFT_STEPS - 1) // 15)
        json.dumps(report.figures(), allow_nan=False)
        rig.assert_parked()
        rig.assert_within_limits()

    def test_a_request_to_stop_while_waiting_for_goals_parks(self) -> None:
        """A source that never yields a goal does not block the stop."""

        def for_ever() -> Iterator[None]:
            while True:
                yield None

        rig = Rig(goals=for_ever(), stop=lambda rig: rig.reads > 40)
        assert rig.run().interrupted
        rig.assert_parked()


class TestFaultStop:
    """Fault stops, and what a person can do after one."""

    def test_a_fault_brakes_and_holds_with_torque_on(self) -> None:
        """Speeds only fall, and the message has the reason."""
        rig = faulty_rig()
        report = rig.run()
        assert rig.checks == ["finite"]
        assert report.goals == []
        rig.assert_held()
        rig.assert_within_limits()
        speeds = np.diff(rig.arm.sent, axis=0) * 100
        braking = speeds[np.argmax(np.abs(speeds[:, 0])) :]
        assert np.abs(braking[0, 0]) > 60.0
        assert (np.abs(braking[1:]) <= np.abs(braking[:-1]) + 1e-6).all()
        assert any("STOPPED, and held. finite: expected 3 finite target angles" in text for text in rig.messages)
        assert report.parked is report.interrupted is False

    def test_a_reset_continues_softly_with_the_next_goal(self) -> None:
        """The goal of the fault is skipped."""
        rig = faulty_rig(keys=[*[""] * 50, "r"])
        report = rig.run()
        assert rig.checks == ["finite"]
        assert [goal.goal_m for goal in report.goals] == [goal.goal_m for goal in GOALS[1:]]
        assert rig.policy.calls == SOFT_STEPS + 7 + SOFT_STEPS + 30
        assert rig.messages[-1] == "r: continue with the rest; p or Ctrl-C or SIGTERM: park"
        held = next(place for place, pair in enumerate(pairwise(rig.arm.sent)) if place > 210 and pair[0] == pair[1])
        soft = np.array(rig.arm.sent[held:]) - rig.arm.sent[held]
        leaves = int(np.argmax(np.abs(soft).max(1) > 0.0))
        assert leaves > 50
        assert np.abs(soft[leaves]).max() < 0.1
        assert 0.2 < np.abs(soft[leaves + 100] / (np.array(POSES[2]) - rig.arm.sent[held])).max() < 0.8
        rig.assert_parked()
        rig.assert_within_limits()

    @pytest.mark.parametrize("by", ["key", "stop"])
    def test_from_a_hold_the_arm_can_be_parked(self, by: str) -> None:
        """By key and by a request to stop."""
        if by == "key":
            rig = faulty_rig(keys=["", "", "x", "p"])
        else:
            rig = faulty_rig(keys=[], stop=lambda rig: rig.reads > 400)
        report = rig.run()
        assert rig.checks == ["finite"]
        assert report.interrupted == (by == "stop")
        rig.assert_parked()
        rig.assert_within_limits()

    def test_keys_are_read_only_when_the_arm_rests(self) -> None:
        """No key is read while it brakes."""
        rig = faulty_rig(keys=["r"])
        moving: list[bool] = []
        key = rig.loop.key
        rig.loop.key = lambda: moving.append(rig.loop.safety.moving) or key()  # type: ignore[func-returns-value,misc]
        rig.run()
        assert moving
        assert not any(moving)
        rig.assert_parked()

    def test_a_persisting_health_fault_prevents_resets_but_not_parking(self) -> None:
        """A hot servo is a fault after each reset."""
        rig = Rig(fault=hot, keys=["r", "r", "", "p"])
        rig.run()
        assert rig.checks == ["temperature"] * 3
        rig.assert_parked()

    @pytest.mark.parametrize("keys", [["p"], ["p", "", "p"]])
    def test_a_fault_while_parking_holds(self, keys: list[str]) -> None:
        """A joint that is blocked while parking keeps the torque on."""

        def block(rig: Rig) -> None:
            hot(rig)
            rig.arm.blocked = {1} if rig.reads > 90 else set()

        # The request to stop ends the run: it tries to park again, which is a fault too.
        rig = Rig(fault=block, keys=keys, stop=lambda rig: rig.reads > 1500)
        rig.run()
        assert rig.checks[0] == "temperature"
        assert len(rig.checks) == keys.count("p") + 2
        assert rig.checks[1:] == ["tracking"] * (keys.count("p") + 1)
        rig.assert_held()

    def test_a_fault_while_parking_after_a_stop_request_ends_holding(self) -> None:
        """No further key is offered."""

        def block(rig: Rig) -> None:
            rig.arm.blocked = {1} if rig.reads > 90 else set()

        rig = Rig(fault=block, keys=[], stop=lambda rig: rig.reads > 90)
        assert rig.run().interrupted
        assert rig.checks == ["tracking"]
        rig.assert_held()
        assert rig.messages[-1].startswith("STOPPED, and held.")  # no key is offered that would have no effect

    @pytest.mark.parametrize("key", ["r", "p"])
    def test_after_an_encoder_jump_one_key_continues(self, key: str) -> None:
        """A jump by 360 degrees and back needs one reset or parking."""

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


class TestUnknownPosition:
    """Arms whose readings do not show where they are."""

    @pytest.mark.parametrize(
        ("spoil", "check"),
        [
            ({"angles_deg": [math.nan] * 3}, "reading"),
            ({"angles_deg": [20.0]}, "reading"),
            ({"speeds_deg_s": [1e6] * 3}, "reading"),
            ({"angles_deg": [-100.0, 30.0, 40.0]}, "start"),
        ],
    )
    def test_an_arm_at_an_unknown_position_receives_no_target(self, spoil: dict[str, Any], check: str) -> None:
        """With valid readings again, a reset continues with all goals."""
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


class TestLostReplies:
    """Replies that do not arrive."""

    @pytest.mark.parametrize("what", ["read", "write"])
    @pytest.mark.parametrize("every", [2, 3, 7])
    def test_single_lost_replies_are_counted_and_tolerated(self, what: str, every: int) -> None:
        """Every second, third or seventh lost reading or target is no fault."""
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

    def test_a_key_takes_effect_once_the_arm_replies(self) -> None:
        """It then enables the arm again."""

        def lose(rig: Rig) -> None:
            rig.arm.faulty_read = lost if 70 <= rig.reads < 90 else lambda state: state

        rig = Rig(fault=lose, keys=["r"] * 40)
        report = rig.run()
        assert rig.checks == ["stale"]
        assert 5 <= report.lost_replies < 20
        assert any("cannot re-enable the arm: no reply" in text for text in rig.messages)
        assert rig.arm.verbs.count("enable") > 1
        assert report.parked
        rig.assert_within_limits()

    def test_a_tripped_watchdog_is_cleared_by_a_key(self) -> None:
        """Servos whose watchdog has tripped reply only after they are enabled."""

        def trip(rig: Rig) -> None:
            tripped = rig.reads >= 70 and rig.arm.verbs.count("enable") == 1
            rig.arm.faulty_read = lost if tripped else lambda state: state

        rig = Rig(fault=trip, keys=[*[""] * 200, "r"])  # long after a run without a keyboard would have given up
        report = rig.run()
        assert rig.checks == ["stale"]
        assert report.parked
        assert rig.arm.verbs.count("enable") == 2
        rig.assert_within_limits()

    @pytest.mark.parametrize("waits", [False, True])
    def test_lost_communication_stops_and_then_ends_the_run(self, waits: bool) -> None:
        """In real time it gives up after `LOST_S`; the torque is left as it is."""
        rig = Rig(fault=lose_from_75, clock=FakeClock(waits=waits))
        silent_s = 5.0 + 73 / 30
        if waits:
            with pytest.raises(DriverError, match="no reply"):
                rig.run()
            assert rig.clock.now_s() - silent_s == pytest.approx(LOST_S, abs=0.2)
            assert rig.checks == ["stale", "lost"]
            assert "lost communication for 2 s: giving up" in rig.messages[-1]
        else:
            rig.run()
            assert rig.checks == ["stale"]
        assert not rig.torque_off
        rig.assert_within_limits()

    def test_with_a_keyboard_a_silent_arm_is_held_until_a_stop_request(self) -> None:
        """It does not give up by itself."""
        rig = Rig(fault=lose_from_75, keys=["p", "r"], stop=lambda rig: rig.clock.now_s() > 5.0 + 73 / 30 + 3 * LOST_S)
        rig.run()
        assert rig.checks == ["stale"]
        assert rig.clock.now_s() > 5.0 + 73 / 30 + 3 * LOST_S
        assert not rig.torque_off
        rig.assert_within_limits()

    def test_an_arm_that_never_replies_is_not_enabled(self) -> None:
        """The error is raised before any call but reads."""
        rig = Rig()
        rig.arm.faulty_read = lost
        with pytest.raises(DriverError, match="no reply"):
            rig.run()
        assert rig.arm.verbs == []  # exit code 2 means that nothing is energised
        assert not rig.loop.torque_on


class TestTorqueReport:
    """After an error, the report states whether the torque may be on."""

    @pytest.mark.parametrize("reading", [2, 3])
    def test_an_arm_that_falls_silent_when_enabled_counts_as_energised(self, reading: int) -> None:
        """At its second or third reading."""
        rig = Rig()
        rig.fault = lambda rig: setattr(rig.arm, "faulty_read", lost) if rig.reads == reading else None
        with pytest.raises(DriverError) if reading == 2 else contextlib.nullcontext():
            rig.run()
        assert rig.arm.verbs[0] == "enable"
        assert not rig.torque_off
        assert rig.loop.torque_on

    @pytest.mark.parametrize(("error", "on"), [(DriverError, False), (TorqueLeftOnError, True)])
    def test_a_failed_enable_reports_whether_torque_may_be_on(self, error: type[DriverError], on: bool) -> None:
        """By the type of the driver's error."""

        def fails() -> None:
            raise error("no")

        rig = Rig()
        rig.arm.enable = fails  # type: ignore[method-assign]
        with pytest.raises(error):
            rig.run()
        assert rig.loop.torque_on is on

    def test_a_failed_disable_is_an_error(self) -> None:
        """The run does not count as parked."""
        rig = Rig()
        rig.arm.disable = lost  # type: ignore[method-assign]
        with pytest.raises(DriverError, match="no reply"):
            rig.run()
        assert not rig.loop.report.parked


class TestFailingPolicies:
    """Policies that raise an error."""

    @pytest.mark.parametrize("step", [0, 1, 30, SOFT_STEPS, SOFT_STEPS + 10])
    def test_a_policys_error_is_raised_after_parking(self, step: int) -> None:
        """In whichever step it fails."""
        rig = Rig(ScriptedPolicy(from_step(step, RuntimeError("out of memory"))))
        with pytest.raises(RuntimeError, match="out of memory"):
            rig.run()
        rig.assert_parked()
        rig.assert_within_limits()

    def test_a_policys_error_is_raised_when_parking_fails_too(self) -> None:
        """The arm is held with torque on."""
        rig = Rig(ScriptedPolicy(from_step(SOFT_STEPS, RuntimeError("out of memory"))))
        rig.fault = lambda rig: rig.arm.blocked.update({1} if rig.policy.calls > SOFT_STEPS else ())  # type: ignore[union-attr]
        with pytest.raises(RuntimeError, match="out of memory"):
            rig.run()
        assert rig.checks == ["tracking"]
        rig.assert_held()


class TestDryRun:
    """Dry runs."""

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_dry_run_sends_nothing(self, fails: bool) -> None:
        """Neither targets nor enable; goals pass by time, faults are reported, and targets are printed."""
        policy = ScriptedPolicy(once(30, [math.nan] * 3)) if fails else None
        rig = Rig(policy, dry_run=True, settings=SafetySettings(tracking_deg=math.inf))
        report = rig.run()
        assert rig.arm.verbs == []
        assert rig.reads > 20
        assert rig.checks == (["finite"] if fails else [])
        assert len(report.goals) == (0 if fails else 3)
        assert not report.parked
        lines = [text for text in rig.messages if "would send" in text]
        assert len(lines) == report.ticks // 30
        assert lines[0].startswith("  reads 20.0 30.0 40.0, would send ")
