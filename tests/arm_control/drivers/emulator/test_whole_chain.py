"""The whole chain: policy, runner, the vendor's SDK, a virtual serial port and emulated servos, in own processes."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import wait_until
from recordings import durations

from arm_control.drivers.dynamixel.calibration import TICKS_PER_DEGREE, Calibration, JointCalibration
from arm_control.drivers.emulator.emulator import Emulator
from arm_control.recording.reading import read_recording
from arm_control.recording.recorder import Recorder
from arm_control.recording.schema import Tick
from envs.arm import Arm

ARM = Arm()
ZERO_TICK = 1024
WATCHDOG_S = 0.2

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # in real time


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    joints = tuple(
        JointCalibration(name, place + 1, 1060, float(ZERO_TICK), 1, TICKS_PER_DEGREE, *limits)
        for place, (name, limits) in enumerate(zip(ARM.joint_names, ARM.limits.by_joint, strict=True))
    )
    Calibration(ARM.name, joints).save(tmp_path / "calibration.json")
    return tmp_path / "calibration.json"


@pytest.fixture
def servos() -> Iterator[Emulator]:
    with Emulator(start_ticks=ZERO_TICK) as emulator:
        yield emulator


Runner = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of a minute in which every joint keeps moving, far from where the arm parks."""
    path = tmp_path_factory.mktemp("motion") / "motion.mcap"
    metadata = {
        "arm": ARM.name,
        "arm_urdf": ARM.urdf_text,
        "joint_names": json.dumps(ARM.joint_names),
        "period_s": "0.02",
    }
    with Recorder(path, metadata) as recorder:
        for tick in range(3000):
            turn = 2 * math.pi * tick / 100
            target = [45 + 20 * math.sin(turn + place) for place in range(3)]
            recorder.tick(Tick(time_s=10 + 0.02 * tick, phase="run", target_deg=target, band="pass", **durations()))
            if tick % 500 == 0:
                time.sleep(0.2)  # faster than the pipe takes them they would be dropped
    assert len(read_recording(path).ticks) == 3000
    return path


@pytest.fixture
def runner(motion: Path, calibration: Path, servos: Emulator, tmp_path: Path) -> Iterator[Runner]:
    """Start `arm-control run` on the emulated arm."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, source: Path = motion) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "arm_control.cli", "run", str(source), "--driver", "dynamixel"]
        command += ["--port", servos.path, "--calibration", str(calibration), "--rate", "100", *words]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path.cwd())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def moving(servos: Emulator) -> Callable[[], bool]:
    """A condition: the latest goals of the servos keep changing."""

    def condition() -> bool:
        latest = list(servos.history)[-150:]
        return len(latest) == 150 and all(
            len({ticks for _, id, ticks in latest[-60:] if id == servo}) > 5 for servo in (2, 3)
        )

    return condition


def degrees(servos: Emulator) -> dict[int, list[tuple[float, float]]]:
    """The goals that reached each servo: time and degrees."""
    goals: dict[int, list[tuple[float, float]]] = {}
    for now, id, ticks in servos.history:
        goals.setdefault(id, []).append((now, (ticks - ZERO_TICK) / TICKS_PER_DEGREE))
    return goals


def assert_within_limits(servos: Emulator, *, but: int | None = None) -> None:
    """Check that goals keep the position limits to a tick, and the speed limits over ten goals."""
    for id, goals in degrees(servos).items():
        if id == but:
            continue
        angles = np.array(goals)[:, 1]
        low, high, speed, _ = ARM.limits.by_joint[id - 1]
        assert angles.min() >= low - 1 / TICKS_PER_DEGREE
        assert angles.max() <= high + 1 / TICKS_PER_DEGREE
        # Each target is for a period of 10 ms or more, whenever the machine came to send it.
        assert np.abs(angles[10:] - angles[:-10]).max(initial=0.0) <= 10 * 0.01 * speed + 2 / TICKS_PER_DEGREE


def torque(servos: Emulator) -> dict[int, bool]:
    """The torque of each servo by its id: True if it is on."""
    return {id: bool(servos.register("torque_enable", id)) for id in (1, 2, 3)}


def undisturbed(start: Callable[[], "subprocess.Popen[str]"], folder: Path) -> tuple[int, str, str]:
    """Exit code and output of a run to its end, repeated if the machine paused for so long that the run was stopped.

    A machine that pauses for a tenth of a second makes readings stale, and the runner stops the arm, rightly. The
    recordings that a stopped run left in the folder are deleted, since the runner overwrites none.
    """
    for _ in range(3):
        for recording in folder.glob("*.mcap"):
            recording.unlink()
        process = start()
        out, err = process.communicate(timeout=120)
        if "error: stale: " not in err:
            break
    return process.returncode, out, err


FAULTS: list[tuple[str, dict[str, Any], str, bool | None]] = [
    # kind; servo; message of the runner; whether it can still park
    ("overload", {"id": 2}, "health: servo alarm: shoulder: overload", False),
    ("overheating", {"id": 1}, "health: servo alarm: base_yaw: overheating", False),
    ("voltage", {"id": 3}, "health: servo alarm: elbow: input voltage|voltage: elbow is at 5 V", True),
    ("encoder", {"id": 1}, "health: servo alarm: base_yaw: motor encoder", True),
    ("shock", {"id": 3}, "health: servo alarm: elbow: electrical shock", False),
    ("wrap", {"id": 1}, "jump: base_yaw jumped from .* a loose cable, or an encoder that wrapped around", False),
    ("stuck", {"id": 2}, "frozen: shoulder|tracking: the tip|load: shoulder", False),
    ("reboot", {"id": 2}, "stale: the last good reading is", None),  # if it has started again in time
    ("silent", {"id": 1}, "stale: the last good reading is", False),
    ("disconnect", {}, "stale: the last good reading is", False),
]

# One that parks, one that leaves the torque on, and two without replies; the campaign covers all of them.
SHOWN = ("voltage", "stuck", "reboot", "disconnect")


class TestRun:
    """Runs without faults."""

    def test_the_arm_visits_its_goals_and_parks(
        self, runner: Runner, servos: Emulator, tiny_policy: Path, tmp_path: Path
    ) -> None:
        """The servos receive exactly the recorded targets, within limits, and end without torque."""
        words = ("--random", "3", "--seconds-per-goal", "1", "--json", "run.json", "--record", "run.mcap")
        code, out, err = undisturbed(lambda: runner(*words, source=tiny_policy), tmp_path)
        assert code == 0, err
        figures = json.loads((tmp_path / "run.json").read_text())
        assert len(figures["goals"]) == 3
        assert (figures["parked"], figures["faults"], figures["clamped"]) == (True, [], {})
        assert "real-time priority: " in out
        assert torque(servos) == {1: False, 2: False, 3: False}
        assert_within_limits(servos)
        recording = read_recording(tmp_path / "run.mcap")
        assert recording.whole
        assert len(recording.ticks) == figures["ticks"]
        assert recording.ticks[100].temperature_c is not None
        sent = [
            [round(angle * TICKS_PER_DEGREE) + ZERO_TICK for angle in tick.target_deg or ()] for tick in recording.ticks
        ]
        for place, id in enumerate((1, 2, 3)):
            took = [ticks for _, servo, ticks in servos.history if servo == id]
            assert took[-len(sent) :] == [row[place] for row in sent]

    def test_a_noisy_connection(self, runner: Runner, servos: Emulator, tiny_policy: Path, tmp_path: Path) -> None:
        """With 2 % of the packets lost, corrupted, duplicated or noisy, the run completes and parks."""
        for kind in ("lost", "corrupt", "duplicated", "noise"):
            servos.inject(kind, probability=0.02)
        words = ("--random", "3", "--seconds-per-goal", "1", "--json", "run.json")
        code, _, err = undisturbed(lambda: runner(*words, source=tiny_policy), tmp_path)
        assert code == 0, err
        figures = json.loads((tmp_path / "run.json").read_text())
        assert (figures["parked"], figures["faults"]) == (True, [])
        assert_within_limits(servos)


class TestStop:
    """Ends of a run while the arm is moving."""

    @pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_request_to_stop_in_motion_parks_and_switches_the_torque_off(
        self, runner: Runner, servos: Emulator, end: signal.Signals
    ) -> None:
        """SIGINT, SIGTERM and SIGHUP park the arm and exit with 130."""
        process = runner()
        wait_until(moving(servos))
        process.send_signal(end)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "interrupted; the arm is parked" in err
        assert torque(servos) == {1: False, 2: False, 3: False}
        assert_within_limits(servos)

    def test_after_sigkill_the_watchdogs_stop_the_arm_and_the_recording_is_whole(
        self, runner: Runner, servos: Emulator, tmp_path: Path
    ) -> None:
        """The next run starts where the arm stands, without a jump."""
        process = runner("--record", "run.mcap")
        wait_until(moving(servos))
        process.kill()
        killed = time.monotonic()
        process.communicate()
        wait_until(lambda: sum("watchdog tripped" in line for line in servos.events) == 3)
        tripped = time.monotonic()
        last = max(now for now, _, _ in servos.history)
        assert last <= killed + 0.01
        places = servos.positions()
        time.sleep(0.3)
        assert servos.positions() == pytest.approx(places, abs=1)
        assert torque(servos) == {1: True, 2: True, 3: True}
        assert tripped - last >= WATCHDOG_S * 0.9
        # The process that writes the recording finishes it by itself.
        wait_until(lambda: (tmp_path / "run.mcap").exists() and read_recording(tmp_path / "run.mcap").whole)
        recording = read_recording(tmp_path / "run.mcap")
        assert killed - recording.ticks[-1].time_s < 0.5
        # The next run takes over where the arm is, without a jump, and parks it.
        before = len(servos.history)
        process = runner()
        wait_until(lambda: len(servos.history) > before + 300)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        resumed = {id: [t for _, servo, t in list(servos.history)[before:] if servo == id] for id in (1, 2, 3)}
        for id in (1, 2, 3):
            assert abs(resumed[id][0] - places[id]) <= 3
        assert torque(servos) == {1: False, 2: False, 3: False}


class TestFaults:
    """Faults of servos, cable and connection while the arm is moving."""

    @pytest.mark.parametrize(
        ("kind", "where", "message", "parks"),
        [pytest.param(*fault, id=fault[0], marks=() if fault[0] in SHOWN else pytest.mark.soak) for fault in FAULTS],
    )
    def test_a_fault_stops_the_arm_with_its_reason(
        self,
        runner: Runner,
        servos: Emulator,
        tmp_path: Path,
        kind: str,
        where: dict[str, Any],
        message: str,
        parks: bool | None,
    ) -> None:
        """Exit code 3, the fault on standard error, targets within limits, and a post-mortem recording."""
        process = runner("--json", "run.json")
        wait_until(moving(servos))
        servos.inject(kind, **where)
        time.sleep(1.5)  # a stuck joint is known after 0.6 s
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        try:
            _, err = process.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 3, err
        assert re.search(message, err), err
        assert "Traceback" not in err
        # Before parking, the goal of a blocked joint is set to its present position.
        assert_within_limits(servos, but=where["id"] if kind == "stuck" else None)
        figures = json.loads((tmp_path / "run.json").read_text())
        assert figures["faults"]
        assert parks in (None, figures["parked"])
        assert ("the arm is not parked, and its torque is on" in err) is not figures["parked"]
        (post_mortem,) = tmp_path.glob("post-mortem-*.mcap")
        recording = read_recording(post_mortem)
        assert any(event.kind == "refusal" and re.search(message, event.text) for event in recording.events)
