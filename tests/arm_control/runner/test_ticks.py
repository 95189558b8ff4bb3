"""Ticks of the control loop: their timing, and how each is recorded."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_arm import ARM, FakeArm, FakeClock, ScriptedPolicy, lost
from hypothesis import given
from hypothesis import strategies as st
from rig import EASE_S, POSES, SOFT_STEPS, Rig, from_step, once

from arm_control.recording.reading import read_recording
from arm_control.recording.recorder import Recorder
from arm_control.runner.safety import SafetySettings


class TestTiming:
    """Overruns and periods."""

    def test_overruns_shift_later_ticks_and_small_delays_do_not(self) -> None:
        """Counts, gaps and shifts equal those of the scripted delays."""
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
    def test_two_targets_are_never_closer_than_four_fifths_of_a_period(
        self, lateness: list[float], rate: float
    ) -> None:
        """For any delays, due times and overruns computed here by the rule."""
        period_s = 1 / rate
        clock = FakeClock(oversleep=lambda wait: period_s * lateness[wait % len(lateness)])
        rig = Rig(goals=[], rate=rate, clock=clock, arm=FakeArm(clock))
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

    def test_after_a_stall_the_targets_start_from_rest(self) -> None:
        """The first step after 0.5 s is within the acceleration limit."""
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


class TestRecording:
    """The recording of a run."""

    def test_every_tick_is_recorded_with_its_target(self, tmp_path: Path) -> None:
        """Targets and times are those that the arm received; events follow in order."""
        rig = Rig(seconds=0.3, rate=100.0)
        recording = recorded(rig, tmp_path / "run.mcap")
        assert recording.whole
        assert len(recording.ticks) == rig.loop.report.ticks
        assert [tick.target_deg for tick in recording.ticks] == rig.arm.sent
        np.testing.assert_allclose([tick.time_s for tick in recording.ticks], rig.arm.sent_s)
        assert {tick.band for tick in recording.ticks} == {"pass"}
        actions = [tick.raw_deg for tick in recording.ticks if tick.phase == "soft start"]
        assert actions[0] == pytest.approx(POSES[0])
        assert all(tick.angle_deg is not None and tick.stamp_s == tick.time_s for tick in recording.ticks)
        assert [event.kind for event in recording.events] == ["phase", "goal", "goal", "goal", "phase", "driver", "end"]
        assert [event.text for event in recording.events if event.kind == "goal"] == ["goal 1", "goal 2", "goal 3"]
        assert recording.events[-1].text == "parked, torque off"
        assert not (tmp_path / "run.post-mortem.mcap").exists()

    @pytest.mark.parametrize(
        "message", [[math.nan, 1.0, 2.0], [1.0, math.inf, 2.0], [500.0, 1.0, 1.0], [1.0], []], ids=str
    )
    def test_a_fault_stop_leaves_a_post_mortem(self, tmp_path: Path, message: list[float]) -> None:
        """It holds the fault and the raw action that caused it."""
        rig = Rig(ScriptedPolicy(once(30, message)))
        whole = recorded(rig, tmp_path / "run.mcap")
        post_mortem = read_recording(tmp_path / "run.post-mortem.mcap")
        check = "position" if message and message[0] == 500.0 else "finite"
        for recording in (whole, post_mortem):
            (event,) = (event for event in recording.events if event.kind == "refusal")
            assert event.text.startswith(f"{check}: ")
            (tick,) = (tick for tick in recording.ticks if tick.band == "refuse" and tick.phase == "soft start")
            if len(message) == 3:
                assert tick.raw_deg == pytest.approx(
                    [math.nan if not math.isfinite(a) else a for a in message], nan_ok=True
                )
        assert len(whole.ticks) == rig.loop.report.ticks
        assert [tick.target_deg for tick in whole.ticks] == rig.arm.sent
        assert whole.events[-1].text == "torque left on"

    @pytest.mark.parametrize("message", [[math.nan] * 3, [20.0], []], ids=str)
    def test_invalid_and_missing_readings_are_recorded(self, tmp_path: Path, message: list[float]) -> None:
        """Each is a tick, and none is dropped."""

        def fault(rig: Rig) -> None:
            rig.arm.faulty_read = lambda state: (
                lost()
                if rig.reads == 20
                else dataclasses.replace(state, angles_deg=message)
                if rig.reads == 30
                else state
            )

        rig = Rig(fault=fault)
        recording = recorded(rig, tmp_path / "run.mcap")
        assert rig.checks == ["reading"]
        assert len(recording.ticks) == rig.loop.report.ticks
        assert [tick.stamp_s is None for tick in recording.ticks].count(True) == 1
        assert [event.kind for event in recording.events].count("drops") == 0

    def test_a_dry_run_records_actions_without_targets(self, tmp_path: Path) -> None:
        """Raw actions are kept, targets are None."""
        rig = Rig(dry_run=True, settings=SafetySettings(tracking_deg=math.inf))
        recording = recorded(rig, tmp_path / "run.mcap")
        assert len(recording.ticks) == rig.loop.report.ticks > 0
        assert all(
            tick.target_deg is None and tick.raw_deg is not None for tick in recording.ticks if tick.phase == "run"
        )
