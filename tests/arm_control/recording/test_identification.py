"""Identification of delay and lag: accuracy, tolerance of poor recordings, pooled figures, and the command."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from recordings import MemoryRecorder

from arm_control.cli import main
from arm_control.drivers.simulation import SimulationDriver
from arm_control.evaluation import validation
from arm_control.exporter import exporter
from arm_control.exporter.exporter import export
from arm_control.recording.identification import compare_presets, identify_recording, pool
from arm_control.recording.identification_table import format_identification
from arm_control.recording.reading import Recording
from arm_control.recording.recorder import Recorder
from arm_control.recording.schema import Tick
from arm_control.recording.servo_fit import JointFit
from arm_control.runner import PolicyRunner
from arm_control.runner.clocks import FastTime
from arm_control.runner.loop import ControlLoop
from arm_control.runner.motions import Script
from arm_control.runner.safety import Safety
from envs.arm import DEFAULT_URDF, Arm
from envs.imperfections import IDEAL_LAG_S, PRESETS, Imperfections, imperfections_from_json, open_imperfections
from envs.limits import JointLimits, limit_target
from envs.simulation import IDEAL_LAG_S as SIMULATED_LAG_S

ARM = Arm(DEFAULT_URDF)
STEP_DEG = 360 / 4096
PAUSE_S = 1.5  # at each pose; the motion to it takes half
GENTLE = JointLimits((0.0,) * 3, (90.0,) * 3, (150.0,) * 3, (800.0,) * 3)


def simulated(
    imperfections: Imperfections, rate: float, *, seconds: float = 24.0, seed: int = 1, limits: JointLimits = ARM.limits
) -> Recording:
    """A simulated arm that moves between random poses, in the loop that runs real ones."""
    clock, log, generator = FastTime(), MemoryRecorder(), np.random.default_rng(seed)
    driver = SimulationDriver(ARM, 1 / rate, imperfections, clock.now_s)  # type: ignore[arg-type]  # no preset's

    def work(loop: ControlLoop) -> Script:
        for _ in range(round(seconds / PAUSE_S)):
            pose = generator.uniform(5.0, 85.0, 3).tolist()
            for _ in range(round(PAUSE_S * rate)):
                yield loop.safety.toward(pose)

    loop = ControlLoop(driver, Safety(ARM, limits, 1 / rate), clock, recorder=log)  # type: ignore[arg-type]
    report = loop.run(work)
    driver.close()
    assert report.parked
    return Recording(metadata(rate, driver="sim"), log.ticks, log.events, True, "")


def metadata(rate: float, **more: str) -> dict[str, str]:
    return {"joint_names": json.dumps(ARM.joint_names), "period_s": repr(1 / rate), "shadow": "false", **more}


def by_hand(
    delay_s: float,
    lag_s: float,
    *,
    rate: float = 100.0,
    seconds: float = 20.0,
    computing_s: float = 0.0,
    uneven: bool = False,
    still: Sequence[int] = (),
    blocked: tuple[float, float] = (math.inf, math.inf),
) -> Recording:
    """An arm that is just a dead time and a lag, exact from target to target and from reading to reading.

    Its joints in `still` get no other target than the first; while `blocked`, from and until, none of them moves.
    """
    generator, period_s = np.random.default_rng(3), 1 / rate
    desired, target, speed = [45.0] * 3, [45.0] * 3, [0.0] * 3
    angle, servo, time_s, due_s = np.array(target), np.array(target), 0.0, 0.0
    coming: list[tuple[float, list[float]]] = []  # when targets act
    ticks: list[Tick] = []

    def until(end_s: float) -> None:
        nonlocal angle, servo, time_s
        while True:
            step_s = min(end_s, coming[0][0] if coming else math.inf) - time_s
            if not blocked[0] <= time_s < blocked[1]:
                angle = servo + (angle - servo) * math.exp(-step_s / lag_s)
            time_s += step_s
            if not coming or coming[0][0] > time_s:
                return
            servo = np.array(coming.pop(0)[1])

    for index in range(round(seconds * rate)):
        late_s = 0.0
        if uneven:
            late_s = float(generator.exponential(0.02) if generator.random() < 0.05 else generator.uniform(0, 5e-4))
        begun_s = due_s + late_s
        due_s += period_s + (late_s if late_s > 0.2 * period_s else 0.0)
        until(begun_s)
        if index % round(PAUSE_S * rate) == 0:
            desired = [45.0 if joint in still else float(generator.uniform(0, 90)) for joint in range(3)]
        target, speed = limit_target(desired, target, speed, ARM.limits, period_s)
        took_s = computing_s * (float(generator.uniform(0.5, 1.5)) if uneven else 1.0)
        coming.append((begun_s + took_s + delay_s, target))
        held = blocked[1] - 1.0 <= begun_s < blocked[1]
        ticks.append(
            Tick(
                time_s=begun_s,
                phase="hold" if held else "run",
                stamp_s=begun_s,
                angle_deg=angle.tolist(),
                target_deg=list(target),
                band="refuse" if held else "pass",
                period_error_us=1e6 * late_s,
                read_us=0.0,
                decide_us=1e6 * took_s,
                safety_us=0.0,
                write_us=50.0,
            )
        )
    return Recording(metadata(rate, driver="dynamixel"), ticks, [], True, "")


def errors_ms(recording: Recording, delay_s: float, lag_s: float) -> tuple[float, float]:
    """Errors of the estimated delay and lag of all joints, in ms."""
    figures = identify_recording(recording)
    return 1000 * abs(figures["delay_s"]["value"] - delay_s), 1000 * abs(figures["lag_s"]["value"] - lag_s)


def write(recording: Recording, path: Path) -> Path:
    with Recorder(path, recording.metadata) as recorder:
        for tick in recording.ticks:
            recorder.tick(tick)
    assert recorder.problem is None
    return path


# Rate, delay and lag of a simulated arm, and the largest errors of the estimates in ms.
SIMULATED = [
    *((200.0, delay, lag, 1.5, 1.0) for delay, lag in ((0.0, 0.019), (0.05, 0.05), (0.2, 0.1))),
    *((100.0, delay, lag, 1.5, 1.0) for delay, lag in ((0.02, 0.019), (0.1, 0.035), (0.15, 0.05))),
    *((30.0, delay, lag, 1.5, 1.0) for delay, lag in ((0.0, 0.1), (0.05, 0.05), (0.15, 0.035))),
    *((30.0, delay, 0.019, 11.2, 5.0) for delay in (0.0, 0.1, 0.2)),
]


def without(recording: Recording, spoil: Callable[[int, Tick], Tick | None]) -> Recording:
    ticks = [spoil(index, tick) for index, tick in enumerate(recording.ticks)]
    return dataclasses.replace(recording, ticks=[tick for tick in ticks if tick is not None])


SPOILED: dict[str, Callable[[np.random.Generator], Callable[[int, Tick], Tick | None]]] = {
    "lost readings": lambda random: (
        lambda index, tick: (
            msgspec.structs.replace(tick, angle_deg=None, stamp_s=None) if random.random() < 0.2 else tick
        )
    ),
    "numbers that are none": lambda random: (
        lambda index, tick: msgspec.structs.replace(tick, angle_deg=[math.nan] * 3) if random.random() < 0.2 else tick
    ),
    "wrong readings": lambda random: (
        lambda index, tick: (
            msgspec.structs.replace(tick, angle_deg=[90.0 * random.random()] * 3) if random.random() < 0.02 else tick
        )
    ),
    "dropped ticks": lambda random: lambda index, tick: None if random.random() < 0.1 else tick,
    "holes": lambda random: lambda index, tick: None if index % 400 > 310 else tick,
    "an offset": lambda random: (
        lambda index, tick: msgspec.structs.replace(tick, angle_deg=[angle + 2.0 for angle in tick.angle_deg or []])
    ),
    "no stamps": lambda random: lambda index, tick: msgspec.structs.replace(tick, stamp_s=None),
}


def fit(delay_ms: float, lag_ms: float, deviation_ms: float) -> JointFit:
    variance = 1e-6 * deviation_ms**2
    return JointFit("a", 100.0, None, 1e-3 * delay_ms, 1e-3 * lag_ms, ((variance, 0.0), (0.0, variance)))


class TestAccuracy:
    """Known delays and lags are estimated."""

    @pytest.mark.parametrize(
        ("rate", "delay_s", "lag_s"), [(30, 0.0, 0.05), (30, 0.043, 0.027), (200, 0.11, 0.019), (50, 0.4, 0.2)]
    )
    def test_an_exact_delay_and_lag_with_uneven_ticks(self, rate: float, delay_s: float, lag_s: float) -> None:
        """Estimates are within 0.2 ms of the simulated dead time and first-order lag."""
        recording = by_hand(delay_s, lag_s, rate=rate, computing_s=0.002, uneven=True)
        figures = identify_recording(recording)
        assert figures["delay_s"]["value"] == pytest.approx(delay_s, abs=2e-4)
        assert figures["lag_s"]["value"] == pytest.approx(lag_s, abs=2e-4)
        assert figures["computing_s"] == pytest.approx(0.002, rel=0.1)
        # In training nothing is computed between a reading and its target, so that time belongs to the delay there.
        low, high = figures["imperfections"]["action_delay_s"]
        assert low - 1e-5 <= delay_s + figures["computing_s"] <= high + 1e-5  # rounded so

    def test_computing_time_is_not_counted_for_a_simulated_arm(self) -> None:
        """Simulated time stands still while the policy computes."""
        recording = by_hand(0.06, 0.03)
        slow = [msgspec.structs.replace(tick, decide_us=5000.0) for tick in recording.ticks]
        recording = dataclasses.replace(recording, ticks=slow, metadata=metadata(100.0, driver="sim"))
        assert identify_recording(recording)["computing_s"] == 0.0
        assert max(errors_ms(recording, 0.06, 0.03)) < 0.2

    @pytest.mark.slow
    @pytest.mark.parametrize(("rate", "delay_s", "lag_s", "delay_ms", "lag_ms"), SIMULATED)
    def test_a_simulated_arm_with_noise_and_quantisation(
        self, rate: float, delay_s: float, lag_s: float, delay_ms: float, lag_ms: float
    ) -> None:
        """Delay, lag, resolution and noise are estimated within the documented errors."""
        imperfections = Imperfections(
            action_delay_s=delay_s,  # type: ignore[arg-type]  # a number stands for a range
            servo_lag_s=lag_s,  # type: ignore[arg-type]
            resolution_deg=(STEP_DEG, STEP_DEG),
            angle_noise_deg=(0.05, 0.05),
        )
        step_s = 1 / rate / math.ceil(240 / rate)
        figures = identify_recording(simulated(imperfections, rate))
        assert 1000 * abs(figures["delay_s"]["value"] - round(delay_s / step_s) * step_s) < delay_ms
        assert 1000 * abs(figures["lag_s"]["value"] - lag_s) < lag_ms
        for joint in figures["joints"]:
            assert joint["explained"] > 0.99
            assert joint["resolution_deg"] == pytest.approx(STEP_DEG, rel=1e-4)
            assert joint["noise_deg"] == pytest.approx(0.05, abs=0.005)
        assert Imperfections(**figures["imperfections"]).any

    def test_slower_targets_are_better_at_a_low_rate(self) -> None:
        """At 30 Hz, slow targets avoid the torque limit and give errors below 1 ms."""
        # At 30 Hz and full speed a target is 11 degrees from the last: an ideal servo is at its torque's end.
        arm = Imperfections(action_delay_s=(0.1, 0.1))
        assert max(errors_ms(simulated(arm, 30.0, limits=GENTLE), 0.1, SIMULATED_LAG_S)) < 1.0

    @pytest.mark.parametrize(
        ("preset", "most_ms"),
        [("xl430", 2.0), ("rough", 5.0)],
    )
    def test_backlash_dead_band_friction_and_payload_cost_little(self, preset: str, most_ms: float) -> None:
        """With the largest values of a preset, the error is at most 2 ms (`xl430`) or 5 ms (`rough`)."""
        worst = PRESETS[preset]
        arm = dataclasses.replace(
            worst,
            **{
                name: (value, value)
                for name, (_, value) in dataclasses.asdict(worst).items()
                if name not in ("length_error", "action_delay_s", "servo_lag_s")
            },
            action_delay_s=(0.05, 0.05),
            servo_lag_s=(0.035, 0.035),
        )
        recording = simulated(arm, 100.0)
        assert max(errors_ms(recording, 0.05 + worst.observation_delay_s[1], 0.035)) < most_ms

    def test_the_ideal_lag_is_that_of_the_simulation(self) -> None:
        """The constant for policies equals the one of the simulation to 0.4 ms."""
        assert pytest.approx(SIMULATED_LAG_S, abs=4e-4) == IDEAL_LAG_S


class TestPoorRecordings:
    """Recordings that lack readings, or hold wrong ones."""

    @pytest.mark.slow
    @pytest.mark.parametrize("name", SPOILED)
    def test_missing_and_wrong_data_are_ignored(self, name: str) -> None:
        """Lost or wrong readings, gaps and offsets change the estimates by less than 0.2 or 1 ms."""
        recording = without(by_hand(0.06, 0.03, uneven=True), SPOILED[name](np.random.default_rng(5)))
        assert max(errors_ms(recording, 0.06, 0.03)) < (1.0 if name == "dropped ticks" else 0.2)

    def test_a_fault_stop_and_the_second_before_it_are_left_out(self) -> None:
        """A blocked arm's readings until its hold are not used."""
        recording = by_hand(0.06, 0.03, blocked=(8.3, 10.2))
        figures = identify_recording(recording)
        assert max(errors_ms(recording, 0.06, 0.03)) < 0.5
        assert figures["readings"] - figures["readings_used"] == pytest.approx(400, abs=5)  # a start, and a hold

    def test_a_joint_that_does_not_move_is_not_measured(self) -> None:
        """The reason is given, and the other joints are measured."""
        figures = identify_recording(by_hand(0.06, 0.03, still=[1]))
        first, second, third = figures["joints"]
        assert "60 degrees of motion" in second["unmeasured"]
        assert (second["delay_s"], second["lag_s"]) == (None, None)
        assert first["unmeasured"] is third["unmeasured"] is None
        assert figures["delay_s"]["value"] == pytest.approx(0.06, abs=5e-4)
        text = format_identification({"recording": "x.mcap", **figures})
        assert "shoulder      not measured: expected at least 60 degrees of motion" in text

    def test_a_joint_that_is_blocked_is_not_measured(self) -> None:
        """The reason is given, and the other joints are measured."""

        def block(index: int, tick: Tick) -> Tick:
            assert tick.angle_deg is not None
            return msgspec.structs.replace(tick, angle_deg=[45.0, *tick.angle_deg[1:]])

        figures = identify_recording(without(by_hand(0.06, 0.03), block))
        assert "was it blocked" in figures["joints"][0]["unmeasured"]
        assert figures["delay_s"]["value"] == pytest.approx(0.06, abs=5e-4)


class TestPooledFigures:
    """Estimates of several joints, and the nearest preset."""

    def test_joints_are_weighted_by_their_variance(self) -> None:
        """By hand: inverse-variance weights, and an interval widened by the reduced chi-square."""
        delay, lag = pool([fit(10, 20, 1), fit(10, 20, 1)])
        assert delay["value"] == pytest.approx(0.010)
        assert delay["high"] - delay["value"] == pytest.approx(1.96e-3 / math.sqrt(2))
        delay, lag = pool([fit(10, 20, 1), fit(13, 20, 2)])
        assert delay["value"] == pytest.approx(0.0106)  # four to one
        assert lag["value"] == pytest.approx(0.020)
        far, _ = pool([fit(10, 20, 1), fit(30, 20, 1)])
        # Both are 10 standard deviations from the mean, with 2 degrees of freedom: chi-square 200 / 2.
        assert far["high"] - far["value"] == pytest.approx(1.96e-3 / math.sqrt(2) * 10)

    @pytest.mark.parametrize(
        ("delay_ms", "lag_ms", "nearest", "inside"),
        [
            (0, 19, "ideal", {"ideal", "rough"}),
            (20, 40, "xl430", {"xl430", "rough"}),
            (151, 20, "late", {"late", "rough"}),
            (100, 60, "rough", {"rough"}),
            (300, 60, "rough", set()),
            (20, 200, "rough", set()),
        ],
    )
    def test_the_nearest_preset_is_the_narrowest_that_contains_the_arm(
        self, delay_ms: float, lag_ms: float, nearest: str, inside: set[str]
    ) -> None:
        """By hand, for delays and lags inside and outside the presets."""
        delay, lag = ({"value": v / 1000, "low": v / 1000, "high": v / 1000} for v in (delay_ms, lag_ms))
        presets = compare_presets(delay, lag, 0.0)
        assert {name for name, preset in presets.items() if preset["inside"]} == inside
        assert min(presets, key=lambda name: (presets[name]["off_by_s"], presets[name]["width_s"])) == nearest


@pytest.fixture(scope="module")
def late_log(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of a policy with `late` servos; not to be written to."""
    log = tmp_path_factory.mktemp("logs") / "late.mcap"
    words = ["--random", "12", "--pace", "fast", "--imperfections", "late", "--record", str(log), "--rate", "100"]
    assert main(["run", str(tiny_policy), *words]) == 0
    return log


def rejected(path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    capfd.readouterr()
    assert main(["identify", str(path), "--json", str(path.parent / "figures.json")]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("arm-control: error: ")
    assert printed.err.count(str(path)) == 1
    assert not (path.parent / "figures.json").exists()
    return printed.err


class TestCommand:
    """`arm-control identify`."""

    def test_it_needs_neither_pybullet_nor_scipy_nor_torch(self) -> None:
        """The module loads none of them."""
        code = (
            "import sys, arm_control.recording.identification as _\n"
            "assert not {'torch', 'pybullet', 'scipy'} & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def test_a_recorded_run_is_identified(
        self, late_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A run with `late` servos gives that preset, 0.15 s, and a file for `--imperfections`."""
        path = tmp_path / "late.json"
        assert main(["identify", str(late_log), "--json", str(path)]) == 0
        printed, figures = capfd.readouterr().out, json.loads(path.read_text())
        assert "of a simulated arm, late\n" in printed
        assert "\nthe nearest preset is late\n" in printed
        assert f"arm-control train ddpg --imperfections {path}\n" in printed
        assert figures["preset"] == "late"
        assert figures["delay_s"]["value"] == pytest.approx(0.15, abs=0.003)
        assert figures["lag_s"]["value"] == pytest.approx(SIMULATED_LAG_S, abs=0.003)
        # The file is what --imperfections takes.
        measured = open_imperfections(str(path))
        assert measured.name == "custom"
        low, high = measured.action_delay_s
        assert 0.145 < low <= high < 0.155

    @pytest.mark.slow
    def test_measured_ranges_are_kept_from_training_to_the_policy(
        self, late_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Run folder, policy, recording and its verification keep the ranges without the file."""
        monkeypatch.setattr(validation, "VALIDATION_GOALS", 1)
        monkeypatch.setattr(exporter, "RANDOM_STATES", 100)
        path, run = tmp_path / "arm.json", tmp_path / "run"
        assert main(["identify", str(late_log), "--json", str(path)]) == 0
        measured = open_imperfections(str(path))
        words = [
            "--hidden-units",
            "16",
            "--batch-size",
            "16",
            "--learning-starts",
            "16",
            "--steps",
            "64",
            "--num-envs",
            "4",
        ]
        assert main(["train", "ddpg", "--imperfections", str(path), *words, "--out", str(run)]) == 0
        recorded = tmp_path / "run.mcap"
        policy = export(run)
        words = ["--random", "1", "--pace", "fast", "--imperfections", str(path), "--record", str(recorded)]
        assert main(["run", str(policy), *words]) == 0
        path.unlink()
        contract = PolicyRunner.load(policy).contract
        assert imperfections_from_json(contract.imperfections) == measured
        capfd.readouterr()
        assert main(["inspect", str(policy)]) == 0
        assert f"action_delay_s {measured.action_delay_s[0]:g} to" in capfd.readouterr().out
        assert main(["replay", str(recorded), "--verify"]) == 0
        assert main(["evaluate", str(run), "--goals", "1"]) == 0
        assert "custom arm" in capfd.readouterr().out

    def test_a_truncated_recording_is_identified(
        self, late_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """70 % of a file give the delay to 5 ms, with a warning."""
        cut = tmp_path / "cut.mcap"
        cut.write_bytes(late_log.read_bytes()[: int(0.7 * late_log.stat().st_size)])
        assert main(["identify", str(cut), "--json", str(tmp_path / "cut.json")]) == 0
        figures = json.loads((tmp_path / "cut.json").read_text())
        assert "it was cut short or is damaged" in capfd.readouterr().out
        assert not figures["whole"]
        assert figures["delay_s"]["value"] == pytest.approx(0.15, abs=0.005)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: by_hand(0.05, 0.03, still=[0, 1, 2]),
                "no joint can be measured: base_yaw: expected at least 60 degrees",
            ),
            (lambda: by_hand(0.05, 0.03, seconds=0.5), "expected at least 100 targets and readings, got 50 and 50"),
            (lambda: by_hand(0.05, 0.03, seconds=1.5), "usable readings"),
            (lambda: by_hand(0.05, 0.03, seconds=10.0, blocked=(0.0, math.inf)), "was it blocked, its torque off"),
            (lambda: by_hand(0.8, 0.03), "expected a delay below 0.6 s"),
        ],
    )
    def test_a_recording_without_enough_motion_is_rejected(
        self, make: Callable[[], Recording], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """The line names what is missing: motion, readings, torque, or a shorter delay."""
        assert message in rejected(write(make(), tmp_path / "log.mcap"), capfd)

    def test_a_dry_run_is_rejected(self, tiny_policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Nothing was sent in a dry run."""
        log = tmp_path / "log.mcap"
        assert main(["run", str(tiny_policy), "--random", "1", "--pace", "fast", "--shadow", "--record", str(log)]) == 0
        assert "dry run, in which nothing was sent" in rejected(log, capfd)

    def test_files_that_are_no_recordings_are_rejected(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Missing files, folders, empty and other files."""
        (tmp_path / "folder.mcap").mkdir()
        (tmp_path / "empty.mcap").touch()
        (tmp_path / "text.mcap").write_text("not a recording")
        for name, message in {
            "none.mcap": "no recording",
            "folder.mcap": "Is a directory",
            "empty.mcap": "is no MCAP file",
            "text.mcap": "is no MCAP file",
        }.items():
            assert message in rejected(tmp_path / name, capfd)
