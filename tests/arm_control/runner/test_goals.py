"""The policy's work: its rate, its goals, and the error at the end of each."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_arm import ARM, FakeClock, ScriptedPolicy, Skilled, lost
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import MemoryRecorder
from rig import EASE_S, GOALS, POSES, SOFT_STEPS, Rig, from_step

from arm_control.cli import main
from arm_control.recording.schema import Event
from arm_control.viewers.common.trajectory import TicksInMemory, Trajectory, events_and_episodes, open_trajectory
from arm_control.viewers.page.html import table_of
from arm_control.viewers.plot.figure import trajectory_figure
from envs.tasks.track import MovingGoal, Track


class TestResults:
    """Errors and times of reaching."""

    def test_errors_and_times_to_reach_are_those_of_the_motion(self) -> None:
        """A goal of the commanded pose is reached; another one is missed by its distance."""
        pose = POSES[0]
        here, there = (goal.goal_m for goal in GOALS[:2])
        rig = Rig(ScriptedPolicy(pose), GOALS[:2], seconds=2.0)
        reach, miss = rig.run().goals
        assert reach.error_mm < 0.1
        assert reach.time_to_reach_s is not None
        assert 0.5 < reach.time_to_reach_s <= EASE_S  # within the soft start
        assert miss.error_mm == pytest.approx(1000 * math.dist(here, there), abs=0.5)
        assert miss.time_to_reach_s is None

    def test_a_goal_that_is_left_again_was_not_reached(self) -> None:
        """The time of reaching is None if the goal is left before its end."""
        rig = Rig(ScriptedPolicy(from_step(SOFT_STEPS + 20, POSES[1])), GOALS[:1], seconds=2.0)
        (result,) = rig.run().goals
        assert result.time_to_reach_s is None
        assert result.error_mm > 50.0


class TestRates:
    """Rates of the loop and of the policy."""

    def test_a_loop_slower_than_the_policy_is_an_error(self) -> None:
        """The arm is parked."""
        rig = Rig(rate=20.0)
        with pytest.raises(ValueError, match="expected a rate of at least the policy's 30 Hz, got 20"):
            rig.run()
        rig.assert_parked()

    @pytest.mark.parametrize("rate", [30.0, 40.0, 50.0, 99.0, 200.0, 1000.0])
    def test_the_policy_runs_at_its_own_rate(self, rate: float) -> None:
        """At 30 to 1,000 Hz it decides every 1/30 s, and all targets keep the limits."""
        decided_s: list[float] = []
        policy = ScriptedPolicy(lambda call: decided_s.append(rig.clock.now_s()) or POSES[call // 10 % 3])
        rig = Rig(policy, GOALS[:2], rate=rate)
        report = rig.run()
        assert policy.calls == SOFT_STEPS + 30
        np.testing.assert_allclose(np.array(decided_s) - decided_s[0], np.arange(len(decided_s)) / 30, atol=1 / rate)
        assert report.faults == []
        rig.assert_within_limits()
        np.testing.assert_allclose(np.diff(rig.arm.sent_s), 1 / rate, rtol=1e-6)
        rig.assert_parked()

    @pytest.mark.parametrize("rate", [10.0, 17.0])
    def test_a_slow_policy_runs_at_a_slow_rate(self, rate: float) -> None:
        """A policy of 10 Hz reaches its goals at 10 and 17 Hz."""
        rig = Rig(Skilled(1 / 10), rate=rate, seconds=2.0)
        rig.run()
        assert [goal.error_mm < 1.0 for goal in rig.results] == [True] * 3
        rig.assert_within_limits()
        rig.assert_parked()


def trajectory_of(recorder: MemoryRecorder) -> Trajectory:
    """The kept ticks and events as viewers open them."""
    start_s, end_s = recorder.ticks[0].time_s, recorder.ticks[-1].time_s
    kept: Any = SimpleNamespace(start_s=start_s, end_s=end_s, events=recorder.events)
    events, episodes = events_and_episodes(kept)
    return Trajectory("kept", ARM, 1 / 30, TicksInMemory(recorder.ticks), episodes=episodes, events=events)


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
    def test_for_any_timing(
        self, late_s: list[float], lost_reads: set[int], rate: float, numbers: list[int | None]
    ) -> None:
        """With overruns, lost replies (no two at once), and goals that have to be waited for."""

        def fault(rig: Rig) -> None:
            rig.arm.faulty_read = lost if rig.reads / 3 in lost_reads else lambda state: state

        clock = FakeClock(oversleep=lambda wait: late_s[wait % len(late_s)])
        # Poses other than the goals', so that the arm is still moving when their time is over.
        policy = ScriptedPolicy(lambda call: POSES[call // 7 % 3])
        goals = [None if number is None else GOALS[number] for number in (0, *numbers)]
        recorder = MemoryRecorder()
        rig = Rig(policy, goals, rate=rate, seconds=0.5, clock=clock, fault=fault, recorder=recorder)
        report = rig.run()
        trajectory = trajectory_of(recorder)
        assert report.faults == []
        assert [trajectory.error_at_end_mm(episode) for episode in trajectory.episodes] == [
            result.error_mm for result in report.goals
        ]
        assert table_errors(trajectory) == [f"{result.error_mm:.2f}" for result in report.goals]

    def test_it_is_the_distance_when_the_goals_time_is_over(self) -> None:
        """Computed here from that tick's angles."""
        recorder = MemoryRecorder()
        rig = Rig(ScriptedPolicy(lambda call: POSES[call // 7 % 3]), GOALS[:2], seconds=0.5, recorder=recorder)
        results = rig.run().goals
        run = [place for place, tick in enumerate(recorder.ticks) if tick.phase == "run"]
        for result, goal, place in zip(results, GOALS, (run[15], run[-1] + 1), strict=False):
            tick = recorder.ticks[place]
            wanted_mm = 1000.0 * math.dist(ARM.tip_position(tick.angle_deg or []), goal.goal_m)
            assert result.error_mm == pytest.approx(wanted_mm, rel=1e-12)
            assert tick.goal_error_mm == result.error_mm

    def test_of_a_moving_goal_it_is_the_rms_error(self) -> None:
        """The page of the recording states the same."""
        path = Track(path="circle", speed_m_s=0.1).draw_path(ARM, np.random.default_rng(3))
        recorder = MemoryRecorder()
        goals = [MovingGoal(path, 45, 1 / 30), GOALS[0]]
        rig = Rig(ScriptedPolicy(POSES[0]), goals, seconds=1.5, recorder=recorder)
        errors_mm = [f"{result.error_mm:.2f}" for result in rig.run().goals]
        assert table_errors(trajectory_of(recorder)) == errors_mm

    def test_recordings_without_the_error_are_evaluated_from_their_ticks(self) -> None:
        """Recordings made before ticks stored the error give the same to 1e-9."""
        recorder = MemoryRecorder()
        late_s = (0.0, 0.001, 0.02)
        clock = FakeClock(oversleep=lambda wait: late_s[wait % 3])
        rig = Rig(ScriptedPolicy(lambda call: POSES[call // 7 % 3]), seconds=0.5, clock=clock, recorder=recorder)
        errors_mm = [result.error_mm for result in rig.run().goals]
        recorder.ticks = [msgspec.structs.replace(tick, goal_error_mm=None) for tick in recorder.ticks]
        recorder.events = [Event(event.time_s + 3e-4, event.kind, event.text) for event in recorder.events]
        trajectory = trajectory_of(recorder)
        assert [trajectory.error_at_end_mm(episode) for episode in trajectory.episodes] == pytest.approx(
            errors_mm, rel=1e-9
        )

    def test_plots_mark_each_error(self) -> None:
        """One dot at the end of each goal, at its error."""
        recorder = MemoryRecorder()
        rig = Rig(ScriptedPolicy(lambda call: POSES[call // 7 % 3]), seconds=0.5, recorder=recorder)
        errors_mm = [result.error_mm for result in rig.run().goals]
        trajectory = trajectory_of(recorder)
        (dots,) = trajectory_figure([trajectory]).axes[ARM.joint_count].collections
        ends_s = [episode.end_s for episode in trajectory.episodes]
        np.testing.assert_allclose(dots.get_offsets(), np.transpose([ends_s, errors_mm]))

    def test_the_page_of_a_recording_states_what_the_run_printed(
        self, tiny_policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Through the command line, to the printed digit."""
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
