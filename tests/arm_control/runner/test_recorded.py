"""Recordings on an arm: targets repeated through the safety, with a slow start, pauses and stops by key."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import durations

from arm_control.cli import main
from arm_control.drivers.base import JointState
from arm_control.recording.reading import Recording, read_recording
from arm_control.recording.recorder import Recorder
from arm_control.recording.schema import Tick
from arm_control.runner.clocks import FastTime
from arm_control.runner.loop import ControlLoop
from arm_control.runner.recorded import RecordingWork, open_recording
from arm_control.runner.report import LoopReport
from arm_control.runner.safety import Safety
from envs.arm import Arm
from envs.limits import JointLimits, follow_target, limit_target

ARM = Arm()
PERIOD_S = 1 / 50


class PerfectArm:
    """An arm that reaches each target at once, and keeps the targets."""

    joint_names, limits, calibration_sha256, fastest_rate_hz = ARM.joint_names, ARM.limits, None, 1000.0

    def __init__(self, clock: FastTime, angles_deg: list[float]) -> None:
        self.clock, self.angles_deg, self.sent, self.torque = clock, angles_deg, [], False

    def enable(self) -> None:
        self.torque = True

    def read(self) -> JointState:
        return JointState(self.clock.now_s(), list(self.angles_deg), [0.0] * 3)

    def write(self, target_deg: list[float]) -> None:
        self.angles_deg = list(target_deg)
        self.sent.append(list(target_deg))

    def disable(self) -> None:
        self.torque = False

    def close(self) -> None:
        pass


def smooth_targets(seconds: float = 4.0, period_s: float = PERIOD_S, gain: float = 1.0) -> list[list[float]]:
    """Targets of a smooth motion, from rest to rest."""
    times = np.arange(0.0, seconds + 1e-9, period_s)
    ease = np.sin(np.pi * times / seconds) ** 2
    return (np.array([30.0, 40.0, 20.0]) + gain * ease[:, None] * np.array([40.0, -25.0, 30.0])).tolist()


def recording(targets: list[list[float]], period_s: float = PERIOD_S, **changes: Any) -> Recording:
    ticks = [
        Tick(
            time_s=100.0 + place * period_s,
            phase="run",
            target_deg=target,
            band="pass",
            **durations(),
        )
        for place, target in enumerate(targets)
    ]
    return Recording({"period_s": repr(period_s), **changes}, ticks, [], True, "")


def played(
    work: RecordingWork,
    period_s: float = PERIOD_S,
    keys: dict[int, str] | None = None,
    limits: JointLimits = ARM.limits,
) -> tuple[PerfectArm, LoopReport, list[list[float]]]:
    """The arm, what the loop did, and the targets of the recording itself."""
    clock = FastTime()
    arm = PerfectArm(clock, [10.0, 10.0, 10.0])
    phases: list[str] = []
    polls = 0

    def key() -> str:
        nonlocal polls
        polls += 1
        return (keys or {}).get(polls, "")

    loop = ControlLoop(arm, Safety(ARM, limits, period_s), clock, key=key)
    finish = loop.ticker.finish

    def noting(target: list[float], phase: str) -> None:
        phases.append(phase)
        finish(target, phase)

    loop.ticker.finish = noting  # type: ignore[method-assign]
    report = loop.run(work)
    return arm, report, [target for target, phase in zip(arm.sent, phases, strict=True) if phase == "run"]


def largest_acceleration(targets: list[list[float]], period_s: float) -> float:
    return float(np.abs(np.diff(targets, 2, axis=0)).max() / period_s**2)


class TestRepetition:
    """A recording at its own rate and at others."""

    def test_at_its_own_rate_all_targets_are_repeated(self) -> None:
        """Slower at first, then within 0.05 degrees of each target."""
        targets = smooth_targets()
        arm, report, sent = played(RecordingWork(recording(targets)))
        assert (report.faults, report.clamped, report.parked, arm.torque) == ([], {}, True, False)
        # While the recording's time gets up to speed it is slower; then every target is there again.
        seen = np.array(sent)
        gaps = [float(np.abs(seen - np.array(target)).max(1).min()) for target in targets]
        assert max(gaps) < 0.05
        np.testing.assert_allclose(sent[-1], targets[-1], atol=1e-6)
        assert len(sent) == pytest.approx(len(targets) + 0.5 * 0.5 / PERIOD_S, abs=3)

    @pytest.mark.parametrize("rate", [30.0, 60.0, 100.0, 150.0, 200.0])
    def test_targets_at_the_limits_are_repeated_exactly(self, rate: float) -> None:
        """Targets that use all of the acceleration are sent again to 1e-6 degrees, at five rates."""
        generator = np.random.default_rng(int(rate))
        target, speed, targets = [45.0] * 3, [0.0] * 3, [[45.0] * 3] * round(rate)
        for _ in range(round(2 * rate)):
            desired = generator.uniform(0, 90, 3).tolist()
            target, speed = limit_target(desired, target, speed, ARM.limits, 1 / rate)
            targets.append(target)
        _, report, sent = played(RecordingWork(recording(targets, 1 / rate)), 1 / rate)
        assert (report.faults, report.clamped) == ([], {})
        ramp = 2 * round(0.25 * rate) + 1  # ticks, in which half as many periods and a half pass
        after = targets[(ramp + 1) // 2 :]
        np.testing.assert_allclose(sent[ramp - 1 :][: len(after)], after, atol=1e-6)
        np.testing.assert_allclose(sent[-1], targets[-1], atol=1e-6)

    @pytest.mark.parametrize("rate", [37.0, 100.0, 333.0])
    def test_at_another_rate_it_follows_the_same_path(self, rate: float) -> None:
        """Within 0.1 degrees of the path, and within the acceleration limit."""
        targets = smooth_targets()
        _, report, sent = played(RecordingWork(recording(targets)), 1 / rate)
        assert (report.faults, report.clamped) == ([], {})
        line = np.array(smooth_targets(period_s=1e-3))
        assert max(float(np.abs(line - np.array(target)).max(1).min()) for target in sent) < 0.1
        assert largest_acceleration(sent, 1 / rate) <= max(ARM.limits.max_acceleration_deg_s2) * (1 + 1e-6)

    @pytest.mark.parametrize(("rate", "speed"), [(40.0, 1.0), (60.0, 1.0), (100.0, 1.0), (500.0, 1.0), (30.0, 0.4)])
    def test_acceleration_limits_hold_at_other_rates_and_speeds(self, rate: float, speed: float) -> None:
        """No clamp and no fault for targets that use all of the acceleration."""
        generator = np.random.default_rng(int(rate))
        target, its_speed, targets = [45.0] * 3, [0.0] * 3, [[45.0] * 3] * 30
        for _ in range(150):
            desired = generator.uniform(0, 90, 3).tolist()
            target, its_speed = limit_target(desired, target, its_speed, ARM.limits, 1 / 30)
            targets.append(target)
        _, report, sent = played(RecordingWork(recording(targets, 1 / 30), speed=speed), 1 / rate)
        assert (report.faults, report.clamped) == ([], {})
        assert largest_acceleration(sent, 1 / rate) <= max(ARM.limits.max_acceleration_deg_s2) * (1 + 1e-6)
        np.testing.assert_allclose(sent[-1], targets[-1], atol=1e-6)
        assert np.abs(np.array(sent)).max() > 0.9 * np.abs(np.array(targets)).max()

    def test_at_a_tenth_of_the_speed_it_takes_ten_times_as_long(self) -> None:
        """Within 5 %."""
        targets = smooth_targets(2.0)
        _, _, sent = played(RecordingWork(recording(targets), speed=0.1))
        assert len(sent) == pytest.approx(10 * len(targets), rel=0.05)
        assert np.abs(np.diff(sent, axis=0)).max() < 0.11 * np.abs(np.diff(targets, axis=0)).max()

    def test_the_approach_to_its_start_is_slow(self) -> None:
        """Two seconds, below a quarter of the speed limit."""
        arm, _, _ = played(RecordingWork(recording(smooth_targets())))
        begin = arm.sent[: round(2.0 / PERIOD_S)]
        np.testing.assert_allclose(begin[0], [10.0] * 3, atol=0.1)
        np.testing.assert_allclose(begin[-1], smooth_targets()[0], atol=1e-3)
        assert np.abs(np.diff(begin, axis=0)).max() / PERIOD_S < 0.25 * max(ARM.limits.max_speed_deg_s)

    def test_a_gap_is_crossed_slowly(self) -> None:
        """A jump of more than 20 degrees between ticks is moved at 45 degrees/s at most."""
        whole = recording(smooth_targets())
        ticks = whole.ticks[:40] + [
            Tick(**{field: getattr(tick, field) for field in tick.__struct_fields__} | {"time_s": tick.time_s + 7.0})
            for tick in whole.ticks[80:]
        ]
        _, report, sent = played(RecordingWork(dataclasses.replace(whole, ticks=ticks)))
        assert report.faults == []
        jump = math.dist(whole.ticks[39].target_deg or (), whole.ticks[80].target_deg or ())
        assert jump > 20.0
        assert len(sent) * PERIOD_S > (len(ticks) - 2) * PERIOD_S + jump / 45.0


class TestKeys:
    """Keys while a recording is repeated."""

    def test_space_pauses_and_continues_and_s_parks(self) -> None:
        """The arm rests while paused."""
        targets = smooth_targets()
        message: list[str] = []
        _, report, sent = played(RecordingWork(recording(targets), say=message.append), keys={60: " ", 160: " "})
        assert message == ["paused: space continues, s stops", "continuing"]
        assert report.faults == []
        resting = np.abs(np.diff(sent, axis=0)).max(1) < 1e-9
        assert resting[60 + 30 : 158].all()
        np.testing.assert_allclose(sent[-1], targets[-1], atol=1e-6)
        arm, report, sent = played(RecordingWork(recording(targets)), keys={80: "s"})
        assert len(sent) == 79
        assert (report.parked, arm.torque, report.interrupted) == (True, False, False)


class TestChecks:
    """Recordings that the arm cannot repeat."""

    def test_one_faster_than_the_limits_is_a_fault(self) -> None:
        """Targets keep the speed limit, and the torque stays on."""
        limits = dataclasses.replace(ARM.limits, max_speed_deg_s=(20.0, 20.0, 20.0))
        clock = FastTime()
        arm = PerfectArm(clock, [10.0] * 3)
        report = ControlLoop(arm, Safety(ARM, limits, PERIOD_S), clock).run(
            RecordingWork(recording(smooth_targets(2.0)))
        )
        assert [fault.check for fault in report.faults] == ["speed"]
        assert arm.torque
        assert np.abs(np.diff(arm.sent, axis=0)).max() / PERIOD_S <= 20.0 + 1e-6

    def test_targets_outside_limits_or_workspace_are_rejected_first(self) -> None:
        """The error has the time and, for speeds, the `--speed` that would do."""
        work = RecordingWork(recording(smooth_targets(gain=1.6)))
        with pytest.raises(ValueError, match=r"its target at \d\.\d\d s, \[.*\] degrees, is outside the arm's limits"):
            work.check(Safety(ARM, ARM.limits, PERIOD_S))
        narrow = Safety(
            ARM, ARM.limits, PERIOD_S, dataclasses.replace(Safety(ARM, ARM.limits, 0.1).settings, table_m=0.45)
        )
        with pytest.raises(ValueError, match=r"its target at .* mm outside the workspace"):
            RecordingWork(recording(smooth_targets())).check(narrow)
        slow = Safety(ARM, dataclasses.replace(ARM.limits, max_speed_deg_s=(20.0, 20.0, 20.0)), PERIOD_S)
        with pytest.raises(ValueError, match=r"its base_yaw turns by 31 degrees/s, allowed 20: --speed 0.63 or less"):
            RecordingWork(recording(smooth_targets())).check(slow)
        RecordingWork(recording(smooth_targets()), speed=0.63).check(slow)


class TestFollowTarget:
    """The limiter for recorded targets."""

    @given(
        seed=st.integers(0, 2**32 - 1),
        period_s=st.sampled_from([1 / 1000, 1 / 200, 1 / 30, 1 / 10]),
        wild=st.sampled_from([1.0, 100.0, 1e6]),
    )
    def test_targets_keep_all_limits(self, seed: int, period_s: float, wild: float) -> None:
        """For any targets and speeds, at any rate."""
        generator = np.random.default_rng(seed)
        low, high = np.array(ARM.limits.lower_deg), np.array(ARM.limits.upper_deg)
        target, speed = generator.uniform(low, high).tolist(), [0.0] * 3
        for _ in range(200):
            desired = generator.uniform(low, high).tolist()
            before_deg, before = np.array(target), np.array(speed)
            expected = (generator.standard_normal(3) * wild).tolist()
            target, speed = follow_target(desired, expected, target, speed, ARM.limits, period_s)
            moved = (np.array(target) - before_deg) / period_s
            assert (np.array(target) >= low).all()
            assert (np.array(target) <= high).all()
            assert (np.abs(moved) <= np.array(ARM.limits.max_speed_deg_s) + 1e-6).all()
            most = np.array(ARM.limits.max_acceleration_deg_s2) * period_s
            assert (np.abs(moved - before) <= most + 1e-6).all()

    def test_targets_of_the_limiter_are_followed_exactly(self) -> None:
        """To 1e-6 degrees."""
        generator = np.random.default_rng(0)
        target, speed = [45.0] * 3, [0.0] * 3
        followed, its_speed = list(target), [0.0] * 3
        for _ in range(300):
            before = target
            target, speed = limit_target(generator.uniform(0, 90, 3).tolist(), target, speed, ARM.limits, PERIOD_S)
            moving = [(there - here) / PERIOD_S for here, there in zip(before, target, strict=True)]
            followed, its_speed = follow_target(target, moving, followed, its_speed, ARM.limits, PERIOD_S)
            np.testing.assert_allclose(followed, target, atol=1e-6)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_inputs_must_be_finite(self, bad: float) -> None:
        """NaN and infinity are a ValueError."""
        for desired, speed in (([bad, 1.0, 1.0], [0.0] * 3), ([1.0] * 3, [0.0, bad, 0.0])):
            with pytest.raises(ValueError, match="finite"):
                follow_target(desired, speed, [1.0] * 3, [0.0] * 3, ARM.limits, PERIOD_S)


def ran(*words: Any) -> int:
    return main(["run", *map(str, words)])


@pytest.fixture(scope="module")
def recorded(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "run.mcap"
    assert ran(tiny_policy, "--random", 2, "--seconds-per-goal", 1, "--pace", "fast", "--record", path) == 0
    return path


class TestCommand:
    """`arm-control run RECORDING`."""

    def test_a_recorded_run_is_repeated_without_its_policy(
        self, recorded: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Its last targets agree to 0.01 degrees, and its metadata names the first recording."""
        again = tmp_path / "again.mcap"
        assert ran(recorded, "--pace", "fast", "--record", again) == 0
        out = capfd.readouterr().out
        assert f"{recorded}: 4.0 s of targets, all within limits and workspace" in out
        assert "clamped: nothing; faults: none" in out
        first, second = read_recording(recorded), read_recording(again)
        ends = [[tick.target_deg for tick in each.ticks if tick.phase == "run"][-1] for each in (first, second)]
        np.testing.assert_allclose(ends[0], ends[1], atol=0.01)
        assert second.metadata["recording"] == str(recorded)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ("--goal", "0.1,0.2,0.3"),
                "is a recording, whose goals are its own|is a recording, which has its own goals",
            ),
            (("--speed", "2"), "--speed: expected 0.05 to 1"),
            (("--speed", "nan"), "--speed: expected 0.05 to 1"),
            (("--table", "0.4"), "mm outside the workspace"),
            (("--driver", "sims"), "unknown driver 'sims'"),
            (("--rate", "5"), "--rate: expected 10 to 1000 Hz"),
        ],
    )
    def test_flags_that_do_not_apply_are_rejected_in_one_line(
        self, recorded: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
    ) -> None:
        """Goals, and speeds, rates, drivers and tables out of range."""
        import re

        assert ran(recorded, *words, "--pace", "fast") == 2
        err = capfd.readouterr().err
        assert re.search(message, err)
        assert err.count("\n") == 1

    def test_other_files_are_rejected_in_one_line(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Empty, foreign, missing, and recordings without a tick."""
        empty, foreign, still = tmp_path / "empty.mcap", tmp_path / "foreign.mcap", tmp_path / "still.mcap"
        empty.touch()
        Recorder(foreign, {"joint_names": '["a"]'}).close()
        metadata = {
            "arm": "arm3",
            "arm_urdf": ARM.urdf_text,
            "joint_names": json.dumps(ARM.joint_names),
            "period_s": "0.02",
        }
        Recorder(still, metadata).close()
        for path in (empty, foreign, still, tmp_path / "missing.mcap"):
            assert ran(path, "--pace", "fast") == 2
            err = capfd.readouterr().err
            assert err.count("\n") == 1, err
            assert path.name in err

    def test_metadata_must_have_a_valid_arm_and_period(self, tmp_path: Path) -> None:
        """Invalid URDF, joint names and periods are errors."""
        good = {
            "arm": "arm3",
            "arm_urdf": ARM.urdf_text,
            "joint_names": json.dumps(ARM.joint_names),
            "period_s": "0.02",
        }
        for place, (change, message) in enumerate(
            [
                ({"arm_urdf": "no arm"}, "XML"),
                ({"joint_names": '["a", "b", "c"]'}, "its arm has joints"),
                ({"period_s": "nan"}, "period"),
                ({"period_s": "soon"}, "soon"),
                ({"period_s": "0"}, "period"),
            ]
        ):
            path = tmp_path / f"{place}.mcap"
            Recorder(path, good | change).close()
            with pytest.raises(ValueError, match=message):
                open_recording(path)
