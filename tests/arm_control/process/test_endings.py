"""Endings of commands that are interrupted, or lose their terminal, their reader or their disk.

The exit codes are those of the help: 0, 1 where the output was lost, 2 for an error, 3 for a stopped arm, 130 for a
request to stop. An arm in motion is parked, whatever was lost; only a second, deliberate request leaves it as it is.
"""

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from endings import Program, kill, start
from helpers import children, stuck

from arm_control.drivers.dynamixel.calibration import TICKS_PER_DEGREE, Calibration, JointCalibration
from arm_control.drivers.emulator.emulator import Emulator
from arm_control.process.signals import REPEAT_S
from arm_control.runs.checkpoint import load_latest
from envs.arm import Arm

pytestmark = pytest.mark.slow

INTERRUPTED, OUTPUT_LOST, BAD_INPUT, FINISHED = 130, 1, 2, 0
ZERO_TICK = 1024


@dataclass(frozen=True)
class Event:
    """An event during a program, and the exit code that follows if the program would otherwise go on."""

    happen: Callable[[Program], None]
    code: int
    terminal: bool = False
    stdout: str | None = None
    before: tuple[str, ...] = ()


def send(*numbers: signal.Signals, apart_s: float = 0.0) -> Callable[[Program], None]:
    """Send signals to the whole group."""

    def happen(program: Program) -> None:
        for place, number in enumerate(numbers):
            if place:
                time.sleep(apart_s)
            program.signal_group(number)

    return happen


def repeat(number: signal.Signals) -> Callable[[Program], None]:
    """Send a signal again and again until the program has ended, also while its interpreter exits."""

    def happen(program: Program) -> None:
        while program.process.poll() is None:
            program.signal_group(number)
            time.sleep(0.001)

    return happen


def lose(*names: str, then: signal.Signals | None = None) -> Callable[[Program], None]:
    """Close the reader of streams, and then send a signal."""

    def happen(program: Program) -> None:
        program.close(*names)
        if then is not None:
            program.signal_group(then)

    return happen


def suspend(program: Program) -> None:
    """Stop the program for less than it takes an arm's watchdog to notice, continue it, and end it."""
    program.signal_group(signal.SIGSTOP)
    time.sleep(0.05)
    program.signal_group(signal.SIGCONT)
    time.sleep(0.2)
    program.signal_group(signal.SIGTERM)


SIGNALS = {name: getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")}
EVENTS = {
    **{name: Event(send(number), INTERRUPTED) for name, number in SIGNALS.items()},
    **{f"{name} delivered twice": Event(send(number, number), INTERRUPTED) for name, number in SIGNALS.items()},
    "SIGHUP and SIGTERM": Event(send(signal.SIGHUP, signal.SIGTERM), INTERRUPTED),
    "closed terminal": Event(lose("terminal"), INTERRUPTED, terminal=True),
    "Ctrl-C that ends the reader too": Event(lose("stdout", "stderr", then=signal.SIGINT), INTERRUPTED),
    "no reader of stderr, then SIGTERM": Event(lose("stderr", then=signal.SIGTERM), INTERRUPTED),
    "suspended and continued": Event(suspend, INTERRUPTED),
    "timeout": Event(lambda program: None, 124, before=("timeout", "6")),
}
# Those that `make test` tries; `test_whole_chain.py` has single signals.
SHOWN = (
    "SIGTERM delivered twice",
    "SIGHUP and SIGTERM",
    "closed terminal",
    "Ctrl-C that ends the reader too",
    "timeout",
    "no reader of stdout",
    "full disk",
)
# What ends no motion and no training, but loses the output.
LOSSES = {
    "no reader of stdout": Event(lose("stdout"), OUTPUT_LOST),
    "no reader of stderr": Event(lose("stderr"), FINISHED),
    "full disk": Event(lambda program: None, BAD_INPUT, stdout="/dev/full"),
}


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    """The programs that a test started, killed at its end."""
    started: list[Program] = []
    yield started
    for program in started:
        kill(program)


def run_to_end(
    programs: list[Program], event: Event, words: list[object], folder: Path, ready: Callable[[Program], None]
) -> int:
    """Start a command, let the event happen once it is ready, and return its exit code."""
    program = start(words, folder, terminal=event.terminal, stdout=event.stdout, before=event.before)
    programs.append(program)
    ready(program)
    event.happen(program)
    return program.end()


class TestAnArmInMotion:
    """`arm-control run` on emulated servos: any ending parks the arm."""

    pytestmark = pytest.mark.alone  # the servos answer in real time

    @pytest.fixture
    def servos(self) -> Iterator[Emulator]:
        with Emulator(start_ticks=ZERO_TICK) as emulator:
            yield emulator

    @pytest.fixture
    def words(self, servos: Emulator, tiny_policy: Path, tmp_path: Path) -> list[object]:
        arm = Arm()
        joints = tuple(
            JointCalibration(name, place + 1, 1060, float(ZERO_TICK), 1, TICKS_PER_DEGREE, *limits)
            for place, (name, limits) in enumerate(zip(arm.joint_names, arm.limits.by_joint, strict=True))
        )
        Calibration(arm.name, joints).save(tmp_path / "calibration.json")
        options = ["--driver", "dynamixel", "--port", servos.path, "--calibration", "calibration.json"]
        return ["run", tiny_policy, *options, "--json", "run.json"]

    @staticmethod
    def moving(servos: Emulator) -> Callable[[Program], None]:
        """Waits until the policy moves the arm."""

        def ready(program: Program) -> None:
            end = time.monotonic() + 60
            while len(servos.history) < 3 * 90:  # 3 s of targets at 30 Hz: past the soft start
                assert time.monotonic() < end
                assert program.process.poll() is None, program.printed
                time.sleep(0.01)

        return ready

    @staticmethod
    def torque(servos: Emulator) -> set[int]:
        return {servos.register("torque_enable", id) for id in (1, 2, 3)}

    @pytest.mark.parametrize(
        "name", [pytest.param(name, marks=() if name in SHOWN else pytest.mark.soak) for name in EVENTS]
    )
    def test_a_request_parks_the_arm(
        self, name: str, programs: list[Program], servos: Emulator, words: list[object], tmp_path: Path
    ) -> None:
        """However it is delivered, and whatever output is lost; the figures are written."""
        event = EVENTS[name]
        code = run_to_end(programs, event, [*words, "--random", "50"], tmp_path, self.moving(servos))
        assert code == event.code, programs[0].printed
        assert self.torque(servos) == {0}
        figures = json.loads((tmp_path / "run.json").read_text())
        assert (figures["parked"], figures["interrupted"], figures["faults"]) == (True, True, [])

    @pytest.mark.parametrize(
        "name", [pytest.param(name, marks=() if name in SHOWN else pytest.mark.soak) for name in LOSSES]
    )
    def test_lost_output_does_not_end_a_run(
        self, name: str, programs: list[Program], servos: Emulator, words: list[object], tmp_path: Path
    ) -> None:
        """All goals are visited, and the arm is parked."""
        event = LOSSES[name]
        short = ["--random", "2", "--seconds-per-goal", "0.5"]
        code = run_to_end(programs, event, [*words, *short], tmp_path, self.moving(servos))
        assert code == event.code, programs[0].printed
        assert self.torque(servos) == {0}
        figures = json.loads((tmp_path / "run.json").read_text())
        assert (len(figures["goals"]), figures["parked"], figures["interrupted"]) == (2, True, False)

    def test_a_second_request_exits_without_parking(
        self, programs: list[Program], servos: Emulator, words: list[object], tmp_path: Path
    ) -> None:
        """At once, with the torque on and a message."""
        event = Event(send(signal.SIGINT, signal.SIGINT, apart_s=REPEAT_S + 0.2), INTERRUPTED)
        code = run_to_end(programs, event, [*words, "--random", "50"], tmp_path, self.moving(servos))
        assert code == event.code
        assert self.torque(servos) == {1}
        assert b"not parked" in programs[0].printed

    def test_a_terminal_that_closes_while_the_arm_is_held_parks_it(
        self, programs: list[Program], servos: Emulator, words: list[object], tmp_path: Path
    ) -> None:
        """A fault stop keeps its exit code 3, also if the figures cannot be written."""

        def stopped(program: Program) -> None:
            self.moving(servos)(program)
            servos.inject("voltage", id=2)
            program.read_until(lambda printed: b"STOPPED" in printed)
            servos.heal()
            time.sleep(0.5)

        words = [*words[:-1], tmp_path / "gone" / "run.json", "--random", "50"]
        (tmp_path / "gone").mkdir()
        event = EVENTS["closed terminal"]
        program = start(words, tmp_path, terminal=True)
        programs.append(program)
        stopped(program)
        (tmp_path / "gone").rmdir()
        event.happen(program)
        assert program.end() == 3
        assert self.torque(servos) == {0}

    def test_an_unreachable_goal_on_standard_input_parks_the_arm(
        self, programs: list[Program], servos: Emulator, words: list[object], tmp_path: Path
    ) -> None:
        """Its check takes long, and makes neither readings stale nor the parking late."""
        (tmp_path / "goals").write_text("0,0,5\n")
        stdin = str(tmp_path / "goals")
        program = start([*words, "--goals-file", "-", "--rate", "100"], tmp_path, stdin=stdin)
        programs.append(program)
        assert program.end() == BAD_INPUT
        assert b"standard input, line 1" in program.printed
        assert b"stale" not in program.printed
        assert self.torque(servos) == {0}


def loaded(module: str) -> Callable[[Program], None]:
    """Waits until the program has loaded a compiled module, which is well after its handlers are installed."""

    def ready(program: Program) -> None:
        program.read_until(lambda _: module in Path(f"/proc/{program.command_pid()}/maps").read_text())

    return ready


def printed(text: bytes) -> Callable[[Program], None]:
    """Waits until the program has printed a text."""
    return lambda program: program.read_until(lambda so_far: text in so_far)


def wrote(folder: Path, pattern: str) -> Callable[[Program], None]:
    """Waits until there is a file."""
    return lambda program: program.read_until(lambda _: bool(list(folder.glob(pattern))))


TRAINED = "ddpg --hidden-units 8 --learning-starts 256 --episode-steps 5"  # validated early, its episodes being short
LONG = {
    "train": ["train", *TRAINED.split(), "--steps", "10000000", "--out", "run"],
    "compare": ["compare", TRAINED, "--steps", "10000000", "--seeds", "2", "--out", "runs"],
    "evaluate": ["evaluate", "ik", "--goals", "100000", "--json", "figures.json"],
    "emulate": ["emulate", "dynamixel", "--link", "arm"],
    "replay": ["replay", "ik", "--viewer", "web", "--port", "8900"],
}
LONG_SHOWN = {
    ("evaluate", "SIGTERM repeated to the end"),
    ("train", "closed terminal"),
    ("train", "SIGHUP delivered twice"),
    ("train", "timeout"),
    ("compare", "SIGTERM delivered twice"),
    ("evaluate", "SIGHUP"),
    ("emulate", "Ctrl-C that ends the reader too"),
    ("replay", "SIGTERM"),
}


# Signals for more than a second are a second request: this is for a command that ends sooner.
LONG_EVENTS = EVENTS | {"SIGTERM repeated to the end": Event(repeat(signal.SIGTERM), INTERRUPTED)}


class TestLongCommands:
    """Commands that run until they are interrupted."""

    @pytest.mark.timeout(300)
    @pytest.mark.parametrize(
        ("command", "name"),
        [
            pytest.param(command, name, marks=() if (command, name) in LONG_SHOWN else pytest.mark.soak)
            for command in LONG
            for name in LONG_EVENTS
            if name in EVENTS or command == "evaluate"
        ],
    )
    def test_a_request_ends_it_cleanly(self, command: str, name: str, programs: list[Program], tmp_path: Path) -> None:
        """Exit code 130, no partial file and no process; trainings save a checkpoint."""
        ready = {
            "train": wrote(tmp_path, "run/metrics.jsonl"),
            "compare": wrote(tmp_path, "runs/*/metrics.jsonl"),
            "evaluate": loaded("pybullet"),
            "emulate": printed(b"Ctrl-C"),
            "replay": printed(b"http"),
        }[command]
        event = LONG_EVENTS[name]
        if event.before:
            event = dataclasses.replace(event, before=("timeout", "15"))
        before = set(children())
        assert run_to_end(programs, event, LONG[command], tmp_path, ready) == event.code, programs[0].printed
        assert b"Traceback" not in programs[0].printed
        assert stuck(sorted(set(children()) - before)) == []
        assert not list(tmp_path.rglob("*partial*"))
        assert not (tmp_path / "figures.json").exists()
        assert not (tmp_path / "arm").is_symlink()
        for run in tmp_path.glob("run*/config.json"):
            load_latest(run.parent / "checkpoints")

    @pytest.mark.parametrize(
        "name", ["no reader of stderr", pytest.param("no reader of stdout", marks=pytest.mark.soak)]
    )
    def test_a_training_continues_without_its_output(self, name: str, programs: list[Program], tmp_path: Path) -> None:
        """It then ends cleanly on request."""

        def lose_and_wait(program: Program) -> None:
            LOSSES[name].happen(program)
            reported = (tmp_path / "run/metrics.jsonl").stat().st_size
            program.read_until(lambda _: (tmp_path / "run/metrics.jsonl").stat().st_size > reported)
            program.signal_group(signal.SIGTERM)

        words = [*LONG["train"], "--steps", "20000"]  # a report every 1,000 steps
        event = dataclasses.replace(LOSSES[name], happen=lose_and_wait)
        assert run_to_end(programs, event, words, tmp_path, wrote(tmp_path, "run/metrics.jsonl")) == INTERRUPTED


SHORT = {
    "inspect": ["inspect", "POLICY"],
    "evaluate": ["evaluate", "zero", "--goals", "1", "--json", "figures.json"],
    "export": ["export", "RUN", "-o", "exported.onnx"],
    "run": ["run", "POLICY", "--random", "2", "--pace", "fast", "--json", "figures.json"],
    "replay": ["replay", "POLICY", "--goals", "1", "--save", "video.mp4"],
    "bench grid": ["bench", "grid", "--goals", "10", "--json", "figures.json"],
    "train": ["train", "ddpg", "--steps", "8", "--hidden-units", "8", "--out", "trained"],
}
SHORT_SHOWN = ("inspect", "evaluate", "run")


class TestShortCommands:
    """Commands that end by themselves."""

    @pytest.mark.parametrize(
        ("command", "name"),
        [
            pytest.param(command, name, marks=() if command in SHORT_SHOWN else pytest.mark.soak)
            for command in SHORT
            for name in LOSSES
        ],
    )
    def test_lost_output_does_not_affect_files(
        self, command: str, name: str, programs: list[Program], tiny_run: Path, tiny_policy: Path, tmp_path: Path
    ) -> None:
        """The exit code reports lost output, but for a training, which prints on standard error."""
        event = LOSSES[name]
        names: dict[str, object] = {"POLICY": tiny_policy, "RUN": tiny_run}
        words = [names.get(word, word) for word in SHORT[command]]
        code = run_to_end(programs, event, words, tmp_path, lambda program: None)
        assert code == (FINISHED if command == "train" else event.code), programs[0].printed
        assert b"Traceback" not in programs[0].printed
        for word in words:
            if str(word) in ("figures.json", "exported.onnx", "video.mp4", "trained"):
                assert (tmp_path / str(word)).exists()
