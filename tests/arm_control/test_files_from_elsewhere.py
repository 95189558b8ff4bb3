"""Every command with hostile files: printed text, read files, written files, and bounded work."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import Any, get_type_hints

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_files import with_contract
from recordings import durations

import arm_control.bench
import arm_control.commands
from arm_control.cli import main
from arm_control.comparison.baselines import BaselineConfig
from arm_control.drivers.dynamixel.calibration import TICKS_PER_DEGREE, Calibration, JointCalibration
from arm_control.process.discovery import load_command, module_names
from arm_control.recording import scan as recording_scan
from arm_control.recording.index import IndexedRecording
from arm_control.recording.reading import read_recording
from arm_control.recording.recovery import recover
from arm_control.recording.schema import EVENT, TICK, Event, Tick
from arm_control.recording.writer import RecordingFile
from arm_control.runner.safety.workspace import Workspace
from arm_control.runs import files, run_folder
from arm_control.runs.checkpoint import list_checkpoints
from arm_control.runs.config import TrainConfig
from arm_control.runs.files import read_json, write_text, written_whole
from arm_control.runs.run_folder import RunFolder
from arm_control.viewers.common.trajectory import open_trajectory
from arm_control.viewers.plot.figure import trajectory_figure
from envs.arm import DEFAULT_URDF, Arm
from policies.registry import AGENTS

ARM = Arm(DEFAULT_URDF)
GOAL = ",".join(map(repr, ARM.tip_position([20.0, 40.0, 60.0])))
QUICK = ["--pace", "fast", "--seconds-per-goal", "0.2"]
# Clears the screen, returns to the start of the line, begins another line, and turns the direction of text.
HOSTILE = "x\x1b[2J\x9b31m\r\ngolden 999 samples re-run\u2028\u202egnp"

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def never_waits() -> Iterator[None]:
    """A command that waits for a pipe fails instead of hanging."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def tick(number: int, **fields: Any) -> Tick:
    """A tick of a moving arm."""
    angles = [10.0 + 0.1 * number] * 3
    values: dict[str, Any] = {
        "time_s": 1.0 + number / 30,
        "phase": "run",
        "goal_m": (0.3, 0.15, 0.3),
        "angle_deg": angles,
        "speed_deg_s": [3.0] * 3,
        "target_deg": angles,
        "band": "pass",
        **durations(1.0),
    }
    return Tick(**values | fields)


def recording(
    path: Path, *, events: tuple[Event, ...] = (), metadata: dict[str, str] | None = None, **fields: Any
) -> Path:
    """A recording of the default arm with all expected metadata."""
    known = {
        "wall_at_zero_ns": "0",
        "arm": ARM.name,
        "arm_urdf": ARM.urdf_text,
        "joint_names": json.dumps(ARM.joint_names),
        "period_s": repr(1 / 30),
        "driver": "sim",
        "goal_tolerance_m": "0.01",
    }
    stream = BytesIO()
    file = RecordingFile(stream)
    file.add_metadata(known | (metadata or {}))
    for event in events:
        file.add(EVENT, round(1e9 * event.time_s), msgspec.json.encode(event))
    for number in range(30):
        file.add(TICK, round(1e9 + number * 1e9 / 30), msgspec.json.encode(tick(number, **fields)))
    file.finish()
    path.write_bytes(stream.getvalue())
    return path


def calibration(**changes: Any) -> Calibration:
    """A calibration of the default arm, its first joint changed."""
    joints = [
        {
            "name": name,
            "servo_id": number,
            "model_number": 1060,
            "zero_tick": 1536.0,
            "direction": 1,
            "ticks_per_degree": TICKS_PER_DEGREE,
            "lower_deg": 0.0,
            "upper_deg": 90.0,
            "max_speed_deg_s": 300.0,
            "max_acceleration_deg_s2": 2000.0,
        }
        for number, name in enumerate(ARM.joint_names, 1)
    ]
    joints[0] |= changes
    return Calibration("arm3", tuple(JointCalibration(**joint) for joint in joints))  # type: ignore[arg-type]


def printed(capfd: Capture, *words: object, code: int) -> str:
    """Run a command, check its exit code, and that its output is printable; returns the output."""
    capfd.readouterr()
    got = main(list(map(str, words)))
    out, error = capfd.readouterr()
    assert got == code, error
    assert (out + error).replace("\n", "").isprintable(), ascii(out + error)
    if got == 2:
        assert len(error.splitlines()) == 1
        assert len(error) < 2200
    return out + error


class TestTerminal:
    """Text of files and file names cannot control the terminal or forge a line."""

    def test_inspecting_a_policy_shows_escapes(self, tiny_policy: Path, tmp_path: Path, capfd: Capture) -> None:
        """Agent, meanings, versions and units of a contract may be any text."""

        def spoof(contract: Any) -> None:
            contract["agent"] = contract["environment"] = contract["config_sha256"] = HOSTILE
            contract["versions"][HOSTILE] = HOSTILE
            for tensor in (*contract["inputs"], contract["output"]):
                tensor["meaning"] = tensor["unit"] = HOSTILE

        honest = printed(capfd, "inspect", tiny_policy, code=0)
        text = printed(capfd, "inspect", with_contract(tiny_policy, tmp_path, spoof), code=0)
        assert len(text.splitlines()) == len(honest.splitlines())
        assert "\\x1b[2J" in text

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [f"{HOSTILE}.onnx", "\udcff\x1b[1m.onnx", "\u202e.onnx"])
    def test_file_names_are_shown_with_escapes(
        self, tiny_policy: Path, tmp_path: Path, capfd: Capture, name: str
    ) -> None:
        """Of files that are read, missing or written, also with bytes that are not UTF-8."""
        path = tmp_path / name
        shutil.copy(tiny_policy, path)
        for words in (
            ["inspect", path],
            ["run", path, "--goal", GOAL, *QUICK, "--json", tmp_path / f"{HOSTILE}.json"],
            ["run", path, "--goal", GOAL, *QUICK, "--record", tmp_path / f"{name}.mcap"],
            ["evaluate", path, "--goals", "1"],
        ):
            text = printed(capfd, *words, code=0)
            assert not any(line.startswith("golden 999") for line in text.splitlines())
        path.unlink()
        for words in (
            ["inspect", path],
            ["evaluate", "ik", "--arm", path],
            ["resume", path],
            ["recover", path],
            ["run", tiny_policy, "--goals-file", path, *QUICK],
            ["calibrate", "--restamp", path],
            ["train", "ddpg", "--arm", path, "--out", tmp_path / "run"],
        ):
            printed(capfd, *words, code=2)

    @pytest.mark.slow
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
    @given(text=st.text(min_size=1, max_size=60))
    def test_a_goal_with_trailing_text_is_rejected_in_one_line(
        self, tiny_policy: Path, capfd: Capture, text: str
    ) -> None:
        """Any text but blanks."""
        printed(capfd, "run", tiny_policy, "--goal", f"{GOAL} {text}", *QUICK, code=2 if text.strip() else 0)

    def test_goals_files_are_quoted_with_escapes(self, tiny_policy: Path, tmp_path: Path, capfd: Capture) -> None:
        """Only line feeds and carriage returns count as line ends."""
        path = tmp_path / "goals.txt"
        for text in ("1,2\x1b[2J", "1,2\u2028golden", "1,2\x85x\x0c", "\u202e1,2"):
            path.write_text(f"\ufeff{GOAL}\n{text}\n")
            assert "goals.txt, line 2" in printed(capfd, "run", tiny_policy, "--goals-file", path, *QUICK, code=2)

    @pytest.mark.slow
    @pytest.mark.parametrize("field", ["agent", "env", "arm", "init", "reward", HOSTILE])
    def test_configurations_are_quoted_with_escapes(
        self, tiny_run: Path, tmp_path: Path, capfd: Capture, field: str
    ) -> None:
        """By every command that reads a run folder."""
        run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
        values = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(values | {field: HOSTILE}))
        # What a training began with is a note that nothing reads.
        codes = (0, 0, 2, 0) if field == "init" else (2, 2, 2, 2)
        for code, words in zip(
            codes, (["evaluate", run, "--goals", "1"], ["export", run], ["report", run], ["resume", run]), strict=True
        ):
            printed(capfd, *words, code=code)

    def test_names_in_calibrations_are_quoted_with_escapes(self, tmp_path: Path, capfd: Capture) -> None:
        """Of files with a valid hash."""
        path = tmp_path / "calibration.json"
        for made in (calibration(name=HOSTILE), msgspec.structs.replace(calibration(), arm=HOSTILE)):
            path.write_text(made.to_json())
            printed(capfd, "calibrate", "--restamp", path, code=2)

    def test_texts_in_recordings_are_shown_with_escapes(self, tmp_path: Path, capfd: Capture) -> None:
        """Goals, phases, levels, faults, drivers and imperfections, on plots too."""
        events = (Event(1.0, "goal", HOSTILE), Event(1.5, "refusal", HOSTILE), Event(1.6, HOSTILE, HOSTILE))
        texts = {"driver": HOSTILE, "imperfections": HOSTILE, "environment": HOSTILE, "arm": HOSTILE}
        path = recording(tmp_path / "log.mcap", events=events, metadata=texts, phase=HOSTILE, band=HOSTILE)
        for code, words in (
            (0, ["replay", path, "--save", tmp_path / "plot.png"]),
            (2, ["replay", path, "--verify"]),
            (2, ["identify", path]),
            (2, ["run", path, "--pace", "fast"]),
            (0, ["recover", path, "--out", tmp_path / "whole.mcap"]),
        ):
            printed(capfd, *words, code=code)
        trajectory = open_trajectory(path)
        with contextlib.closing(trajectory):
            segment = trajectory.segment(0.0, trajectory.length_s)
            shown = [episode.name for episode in trajectory.episodes] + segment.phase + segment.band
            shown += [text for event in trajectory.events for text in (event.kind, event.text)]
            assert len(trajectory.episodes) == 1
            assert all(text.isprintable() and len(text) <= 500 for text in shown)
            labels = [
                text.get_text()
                for text in trajectory_figure([trajectory]).findobj(lambda part: hasattr(part, "get_text"))
            ]
        assert any("\\x1b" in label for label in labels)
        assert "".join(labels).replace("\n", "").isprintable()

    def test_a_report_holds_nothing_but_numbers_and_known_names(
        self, tiny_run: Path, tiny_policy: Path, tmp_path: Path, capfd: Capture
    ) -> None:
        """Texts in the figures of other commands are rejected or not used."""
        run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
        shutil.copy(tiny_policy, run / "policy.onnx")
        assert main(["evaluate", "zero", "--goals", "1", "--json", str(run / "evaluation.json")]) == 0
        assert main(["run", str(tiny_policy), "--goal", GOAL, *QUICK, "--json", str(run / "run.json")]) == 0
        used = {"goals", "mean_error_mm", "median_error_mm", "p95_error_mm", "max_error_mm", "success", "stochastic"}
        used |= {"success_interval", "time_to_reach_s", "normalised_return", "rest", "undefined", "timings_us"}
        for name in ("evaluation.json", "run.json"):
            before = (run / name).read_text()
            values = json.loads(before)
            for field in values:
                (run / name).write_text(json.dumps(values | {field: HOSTILE}))
                (run / "report.md").unlink(missing_ok=True)
                printed(capfd, "report", run, code=2 if field in used else 0)
                if field not in used:
                    text = (run / "report.md").read_text()
                    assert "golden 999" not in text
                    assert text.replace("\n", "").isprintable()
            (run / name).write_text(before)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that must not change."""
    path = tmp_path / "victim" / "diary.txt"
    path.parent.mkdir()
    path.write_text("dear diary")
    return path


class TestLinks:
    """Nothing is written through a planted link."""

    def test_names_of_temporary_files_cannot_be_guessed(self, tmp_path: Path) -> None:
        """They are random, in the same folder, and keep the ending."""
        names = set()
        for _ in range(10):
            with written_whole(tmp_path / "j.json") as aside:
                assert aside.stat().st_size == 0
                assert (aside.parent, aside.suffix) == (tmp_path, ".json")
                names.add(aside.name)
        assert len(names) == 10
        assert [path.name for path in tmp_path.iterdir()] == ["j.json"]

    @pytest.mark.slow
    @pytest.mark.parametrize("link", ["to the victim", "to nothing"])
    @pytest.mark.parametrize("writer", ["json", "plot", "page", "recover", "export", "calibrate"])
    def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(
        self,
        writer: str,
        link: str,
        victim: Path,
        tiny_run: Path,
        tmp_path: Path,
        capfd: Capture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """For every writer, even if the name was guessed."""
        monkeypatch.setattr(files.secrets, "token_hex", lambda _: "guessed")
        target = tmp_path / {"plot": "out.png", "page": "out.html", "recover": "out.mcap"}.get(writer, "out.json")
        planted = tmp_path / f".out.guessed.partial{target.suffix}"
        planted.symlink_to(victim if link == "to the victim" else tmp_path / "victim" / "new.txt")
        log = recording(tmp_path / "log.mcap")
        commands: dict[str, list[object]] = {
            "json": ["evaluate", "zero", "--goals", "1", "--json", target],
            "plot": ["replay", log, "--save", target],
            "page": ["replay", log, "--save", target],
            "recover": ["recover", log, "--out", target],
            "export": ["export", tiny_run, "-o", target],
        }
        if writer == "calibrate":
            with pytest.raises(OSError, match="cannot write"):
                calibration().save(target)
        else:
            assert f"cannot write {target}" in printed(capfd, *commands[writer], code=2)
        assert victim.read_text() == "dear diary"
        assert [path.name for path in victim.parent.iterdir()] == ["diary.txt"]
        assert not target.exists()

    def test_a_users_own_link_is_followed(self, tmp_path: Path) -> None:
        """Its target is written, and the link is kept."""
        (tmp_path / "real").mkdir()
        (tmp_path / "latest.json").symlink_to(tmp_path / "real" / "1.json")
        write_text(tmp_path / "latest.json", "figures")
        assert (tmp_path / "real" / "1.json").read_text() == "figures"
        assert (tmp_path / "latest.json").is_symlink()

    def test_another_users_link_in_a_shared_folder_is_not_followed(
        self, victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As the kernel's `protected_symlinks` for opening, which does not cover renaming."""
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o1777)
        (shared / "j.json").symlink_to(victim)
        own = (shared / "j.json").lstat().st_uid
        lstat = Path.lstat

        def of_another(path: Path) -> os.stat_result:
            status = lstat(path)
            return os.stat_result((*status[:4], own + 1, *status[5:])) if path.name == "j.json" else status

        monkeypatch.setattr(Path, "lstat", of_another)
        with pytest.raises(OSError, match="another user's symbolic link in a shared folder"):
            write_text(shared / "j.json", "figures")
        assert victim.read_text() == "dear diary"
        shared.chmod(0o755)
        write_text(shared / "j.json", "figures")
        assert victim.read_text() == "figures"

    @pytest.mark.parametrize("name", ["metrics.jsonl", "curve.png", "config.json", "checkpoints", "tensorboard"])
    def test_a_run_folder_with_a_link_is_not_trained_in(
        self, name: str, victim: Path, tiny_run: Path, tmp_path: Path, capfd: Capture
    ) -> None:
        """A run folder may come from others, who chose the names in it."""
        run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
        (run / name).rename(tmp_path / "victim" / name)
        (run / name).symlink_to(tmp_path / "victim" / name)
        before = {path: path.read_bytes() for path in victim.parent.rglob("*") if path.is_file()}
        assert f"{name} is a symbolic link" in printed(capfd, "resume", run, code=2)
        assert {path: path.read_bytes() for path in victim.parent.rglob("*") if path.is_file()} == before

    def test_an_export_and_a_report_do_not_follow_links_of_a_run_folder(
        self, victim: Path, tiny_run: Path, tiny_policy: Path, tmp_path: Path, capfd: Capture
    ) -> None:
        """Their default file names are fixed."""
        run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
        (run / "policy.onnx").symlink_to(victim)
        assert "policy.onnx is a symbolic link" in printed(capfd, "export", run, code=2)
        (run / "policy.onnx").unlink()
        shutil.copy(tiny_policy, run / "policy.onnx")
        assert main(["evaluate", "zero", "--goals", "1", "--json", str(run / "evaluation.json")]) == 0
        assert main(["run", str(tiny_policy), "--goal", GOAL, *QUICK, "--json", str(run / "run.json")]) == 0
        (run / "report.md").symlink_to(victim)
        assert "report.md is a symbolic link" in printed(capfd, "report", run, code=2)
        assert victim.read_text() == "dear diary"

    def test_an_emulator_replaces_links_to_closed_ports_only(self, tmp_path: Path) -> None:
        """A link to an unmounted disk is kept."""
        from arm_control.drivers.emulator.emulator import Emulator

        link = tmp_path / "arm"
        link.symlink_to("/mnt/backup/arm")
        with pytest.raises(ValueError, match="cannot link"), Emulator(link=link):
            pass
        assert str(link.readlink()) == "/mnt/backup/arm"


IN_RUN = ["config.json", "metrics.jsonl", "evaluation.json", "run.json", "manifest.json", "tensors.safetensors"]


class TestReaders:
    """Files named by flags or in run folders must be regular and of bounded size."""

    @pytest.mark.parametrize("kind", ["pipe", "zero", "folder", "huge"])
    @pytest.mark.parametrize("flag", ["--arm", "--goals-file", "--calibration", "--restamp", "POLICY", "RECORDING"])
    def test_a_file_of_a_flag(self, flag: str, kind: str, tiny_policy: Path, tmp_path: Path, capfd: Capture) -> None:
        """Pipes, devices, folders and huge files are one line with exit code 2, at once."""
        path = self.make(kind, tmp_path / ("file.mcap" if flag == "RECORDING" else "file"))
        commands: dict[str, list[list[object]]] = {
            "--arm": [
                ["evaluate", "ik", "--arm", path],
                ["run", tiny_policy, "--goal", GOAL, "--arm", path],
                ["train", "ddpg", "--arm", path, "--out", tmp_path / "run"],
                ["compare", "ddpg", f"ddpg --arm {path}", "--out", tmp_path / "run"],
                ["emulate", "dynamixel", "--calibration", tmp_path / "c.json", "--arm", path],
            ],
            "--goals-file": [["run", tiny_policy, "--goals-file", path, *QUICK]],
            "--calibration": [
                ["run", tiny_policy, "--goal", GOAL, "--driver", "dynamixel", "--port", "x", "--calibration", path],
                ["emulate", "dynamixel", "--calibration", path],
            ],
            "--restamp": [["calibrate", "--restamp", path]],
            "POLICY": [["inspect", path], ["run", path, "--goal", GOAL], ["evaluate", path], ["replay", path]],
            "RECORDING": [
                ["run", path, "--pace", "fast"],
                ["replay", path, "--save", tmp_path / "x.png"],
                ["recover", path],
                ["identify", path],
            ],
        }
        for words in commands[flag]:
            if kind == "folder" and flag == "POLICY" and words[0] in ("evaluate", "replay"):
                continue  # a folder may be a run
            if kind == "huge" and flag == "RECORDING":
                continue  # recordings have no maximum length
            printed(capfd, *words, code=2)

    @pytest.mark.parametrize("kind", ["pipe", "zero", "folder", "huge"])
    @pytest.mark.parametrize("name", IN_RUN)
    def test_a_file_of_a_run_folder(
        self, name: str, kind: str, tiny_run: Path, tiny_policy: Path, tmp_path: Path, capfd: Capture
    ) -> None:
        """By every command that reads it."""
        run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
        shutil.copy(tiny_policy, run / "policy.onnx")
        (run / "evaluation.json").write_text("{}")
        path = run / name
        if name in ("manifest.json", "tensors.safetensors"):
            path = list_checkpoints(run / "checkpoints")[-1] / name
        path.unlink(missing_ok=True)
        self.make(kind, path)
        commands: dict[str, list[list[object]]] = {
            "metrics.jsonl": [["report", run], ["resume", run], ["replay", run, "--save", tmp_path / "x.png"]],
            "evaluation.json": [["report", run]],
            "run.json": [["report", run]],
        }
        usual: list[list[object]] = [["resume", run], ["evaluate", run, "--goals", "1"], ["export", run]]
        for words in commands.get(name, usual):
            printed(capfd, *words, code=2)

    @pytest.mark.parametrize("kind", ["pipe", "zero", "folder", "huge"])
    def test_a_result_of_a_comparison(self, kind: str, tmp_path: Path, capfd: Capture) -> None:
        """Before anything is trained."""
        folder = tmp_path / "out" / "ddpg-seed0"
        folder.mkdir(parents=True)
        self.make(kind, folder / "trial.json")
        words = ["compare", "ddpg", "--seeds", "1", "--no-intervals", "--steps", "8", "--out", tmp_path / "out"]
        assert "trial.json is damaged" in printed(capfd, *words, code=2)

    def test_the_error_of_a_pipe_suggests_standard_input(self, tiny_policy: Path, capfd: Capture) -> None:
        """`--goals-file -` reads it."""
        reading, writing = os.pipe()
        try:
            message = printed(capfd, "run", tiny_policy, "--goals-file", f"/dev/fd/{reading}", *QUICK, code=2)
        finally:
            os.close(reading)
            os.close(writing)
        assert "--goals-file - reads standard input" in message

    def test_an_endless_line_on_standard_input_is_rejected(
        self, tiny_policy: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before it fills the memory."""

        class Endless:
            """A stream like /dev/zero, without line feeds."""

            def readline(self, size: int) -> str:
                """The requested number of characters, without a line feed."""
                assert 0 < size < 10**6
                return "0" * size

        monkeypatch.setattr("sys.stdin", Endless())
        assert "expected lines of at most" in printed(capfd, "run", tiny_policy, "--goals-file", "-", *QUICK, code=2)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[" * 100_000, "it is nested too deeply"),
            ('{"a":' * 100_000, "it is nested too deeply"),
            ("1" * 5000, "digits"),
            ("", "Expecting value"),
            ("\xff", "can't decode byte 0xff"),
        ],
        ids=["list", "object", "digits", "nothing", "no UTF-8"],
    )
    def test_unreadable_json_is_a_value_error(self, text: str, message: str, tmp_path: Path) -> None:
        """Deep nesting, many digits, and invalid UTF-8."""
        (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=message):
            read_json(tmp_path / "x.json", 10**6)

    @staticmethod
    def make(kind: str, path: Path) -> Path:
        """A pipe without a writer, an endless device, a folder, or an empty file of a terabyte."""
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        else:
            with path.open("wb") as file:
                file.truncate(2**40)
        return path


class TestLengthsOfNames:
    """Texts of 20,000 characters are rejected, or cut where they are shown."""

    @pytest.mark.parametrize("length", [300, 20_000, 200_000])
    def test_a_long_joint_name_in_a_recording(self, length: int, tmp_path: Path, capfd: Capture) -> None:
        """One line, where PyBullet would crash at names of a kilobyte."""
        name = "x" * length
        text = ARM.urdf_text.replace("base_yaw", name)
        names = json.dumps([name, *ARM.joint_names[1:]])
        path = recording(tmp_path / "log.mcap", metadata={"arm_urdf": text, "joint_names": names})
        for words in (
            ["replay", path, "--save", tmp_path / "video.mp4"],
            ["replay", path, "--verify"],
            ["run", path, "--pace", "fast"],
            ["identify", path],
        ):
            printed(capfd, *words, code=2)

    @pytest.mark.parametrize(
        ("what", "kept"),
        [({"phase": "x" * 257}, False), ({"band": "x" * 20_000}, False), ({"phase": "x" * 256}, True)],
    )
    def test_long_phases_and_levels_are_rejected(self, what: dict[str, str], kept: bool, tmp_path: Path) -> None:
        """257 characters are too long, 256 are accepted."""
        path = recording(tmp_path / "log.mcap", **what)
        if kept:
            assert len(read_recording(path).ticks) == 30
        else:
            with pytest.raises(ValueError, match="tick 1 is invalid"):
                read_recording(path)

    @pytest.mark.parametrize("event", [Event(1.0, "x" * 257, ""), Event(1.0, "goal", "\u6f22" * 1001)])
    def test_long_events_are_rejected(self, event: Event, tmp_path: Path) -> None:
        """The recorder cuts texts at 3,000 bytes."""
        with pytest.raises(ValueError, match="event 1 is invalid"):
            read_recording(recording(tmp_path / "log.mcap", events=(event,)))

    @pytest.mark.parametrize(
        "metadata",
        [
            {"joint_names": json.dumps(["x" * 257, "b", "c"])},
            {"joint_names": json.dumps([str(number) for number in range(33)])},
        ],
        ids=["long", "many"],
    )
    def test_long_or_too_many_joint_names_are_rejected(
        self, metadata: dict[str, str], tmp_path: Path, capfd: Capture
    ) -> None:
        """In the metadata, beside those of the URDF."""
        path = recording(tmp_path / "log.mcap", metadata=metadata)
        printed(capfd, "run", path, "--pace", "fast", code=2)
        printed(capfd, "replay", path, "--save", tmp_path / "x.png", code=2)


class TestNumbers:
    """Impossible numbers in recordings are rejected."""

    @pytest.mark.parametrize("period", ["5e-324", "1e-9", "0", "-1", "nan", "inf", "1e300", "1.1", "x", ""])
    def test_impossible_periods(self, period: str, tmp_path: Path, capfd: Capture) -> None:
        """A run of such a recording would not end, or not start."""
        path = recording(tmp_path / "log.mcap", metadata={"period_s": period})
        printed(capfd, "run", path, "--pace", "fast", code=2)
        printed(capfd, "replay", path, "--save", tmp_path / "x.png", code=2)

    @pytest.mark.parametrize("tolerance", ["nan", "inf", "-1", "0", "1e300", "x"])
    def test_impossible_tolerances(self, tolerance: str, tmp_path: Path) -> None:
        """Viewers would draw them."""
        with pytest.raises(ValueError, match=r"log\.mcap"):
            open_trajectory(recording(tmp_path / "log.mcap", metadata={"goal_tolerance_m": tolerance}))

    @pytest.mark.parametrize(
        "fields",
        [
            {"goal_m": (1e300, 0.0, 0.0)},
            {"target_deg": [1e300, 0.0, 0.0]},
            {"read_us": 1e300},
            {"goal_m": (1e3 + 1, 0.0, 0.0)},
        ],
        ids=["goal", "target", "time", "goal just beyond"],
    )
    def test_impossible_goals_targets_and_durations(self, fields: dict[str, Any], tmp_path: Path) -> None:
        """The error calls them absurdly large."""
        with pytest.raises(ValueError, match="absurdly large"):
            read_recording(recording(tmp_path / "log.mcap", **fields))

    def test_absurd_readings_are_kept_and_not_drawn(self, tmp_path: Path) -> None:
        """They may be the reason for a fault stop."""
        path = recording(tmp_path / "log.mcap", angle_deg=[1e300, 0.0, 0.0], speed_deg_s=[-1e300, 1.0, 2.0])
        assert read_recording(path).ticks[0].angle_deg == [1e300, 0.0, 0.0]
        with contextlib.closing(open_trajectory(path)) as trajectory:
            segment = trajectory.segment(0.0, trajectory.length_s)
        assert np.isnan(segment.angle_deg[:, 0]).all()
        assert (segment.angle_deg[:, 1] == 0.0).all()
        assert np.isnan(segment.speed_deg_s[:, 0]).all()

    def test_a_recording_of_many_years_is_not_replayed(self, tmp_path: Path, capfd: Capture) -> None:
        """A video would have a billion frames."""
        path = recording(tmp_path / "log.mcap")
        stream = BytesIO()
        file = RecordingFile(stream)
        file.add_metadata(read_recording(path).metadata)
        for time_s in (1.0, 9e8):
            file.add(TICK, round(1e9 * time_s), msgspec.json.encode(tick(0, time_s=time_s)))
        file.finish()
        path.write_bytes(stream.getvalue())
        assert "s long; expected at most" in printed(capfd, "replay", path, "--save", tmp_path / "x.mp4", code=2)
        assert "s long; expected at most" in printed(capfd, "replay", path, "ik", "--save", tmp_path / "x.png", code=2)


class TestTraining:
    """A rejected command changes nothing."""

    def test_a_rejected_resume_keeps_the_reports_of_the_run(self, tiny_run: Path, tmp_path: Path) -> None:
        """Rows after the last checkpoint belong to the process that still trains."""
        run = RunFolder(shutil.copytree(tiny_run, tmp_path / "run"))
        last = run.read_metrics()[-1]
        with run.metrics.open("a") as file:
            file.write(json.dumps(last | {"step": last["step"] + 10}) + "\n")
        before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
        with run.locked():
            assert main(["resume", str(run.path)]) == 2
        assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
        # It is what the resume does otherwise.
        assert main(["resume", str(run.path)]) == 0
        assert run.read_metrics()[-1]["step"] == last["step"]

    def test_a_run_that_was_replaced_after_opening_is_not_locked(
        self, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process may remove it between opening and locking."""
        run = RunFolder(shutil.copytree(tiny_run, tmp_path / "run"))
        opened = run_folder.open_regular

        def open_and_replace(path: Path) -> Any:
            file = opened(path)
            text = path.read_text()
            path.unlink()
            path.write_text(text)
            return file

        monkeypatch.setattr(run_folder, "open_regular", open_and_replace)
        with pytest.raises(ValueError, match="is being trained by another process"), run.locked():
            pass


def whole_numbers(kind: type[Any]) -> list[str]:
    """The names of a dataclass's fields that are whole numbers."""
    hints = get_type_hints(kind)
    return [field.name for field in dataclasses.fields(kind) if hints[field.name] in (int, int | None)]


SAMPLES: dict[str, dict[str, Any]] = {
    "Resume": {"run": "run"},
    "Evaluate": {"source": "ik"},
    "Compare": {"agents": ("ddpg",)},
    "Export": {"run": "run"},
    "Inspect": {"policy": "policy.onnx"},
    "Run": {"source": "policy.onnx", "random": 1},
    "Replay": {"sources": ("ik",)},
    "Report": {"run": "run"},
    "Recover": {"log": "log.mcap"},
    "Identify": {"log": "log.mcap"},
    "Emulate": {"kind": "dynamixel"},
    "BenchDelay": {"sources": ("ik",)},
    "Lab": {"name": "corridor", "settings": None},
    **{settings.__name__: {} for settings in AGENTS.values()},
    "TrainConfig": {"agent": "ddpg"},
    "BaselineConfig": {"agent": "sb3-ppo"},
}
KINDS = [
    *(
        load_command(package, name).flags
        for package in (arm_control.commands, arm_control.bench)
        for name in module_names(package)
        if name not in ("train", "bench")
    ),
    *AGENTS.values(),
    TrainConfig,
    BaselineConfig,
]
WHOLE = [(kind, name) for kind in KINDS for name in whole_numbers(kind)]


class TestWholeNumbers:
    """Every whole number on the command line has an upper bound."""

    @pytest.mark.parametrize(("kind", "name"), WHOLE, ids=lambda value: getattr(value, "__name__", value))
    @pytest.mark.parametrize("value", [99999999999999999999, 10**300, -(10**20)])
    def test_absurd_numbers_are_rejected(self, kind: type[Any], name: str, value: int) -> None:
        """Of every command, bench, agent and comparison, future ones included."""
        kind(**SAMPLES.get(kind.__name__, {}))
        with pytest.raises(ValueError, match=r"want|expected|got") as error:
            kind(**SAMPLES.get(kind.__name__, {}) | {name: value})
        assert name.replace("_", "-") in str(error.value) or name in str(error.value)

    def test_the_list_of_fields_is_not_empty(self) -> None:
        """More than 60 fields are tried."""
        assert len(WHOLE) > 60

    @pytest.mark.parametrize("digits", [20, 5000])
    def test_the_command_line_rejects_them_in_one_line(self, digits: int, tiny_policy: Path, capfd: Capture) -> None:
        """Also numbers of more digits than Python reads."""
        printed(capfd, "run", tiny_policy, "--random", "9" * digits, *QUICK, code=2)
        printed(capfd, "emulate", "dynamixel", "--servos", "9" * digits, code=2)
        printed(capfd, "emulate", "dynamixel", "--ids", "9" * digits, code=2)
        printed(capfd, "emulate", "dynamixel", "--fault", f"overload@1:{'9' * digits}", code=2)

    def test_the_search_for_random_goals_ends(
        self, tiny_policy: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a thousand poses outside the workspace."""
        tried = []
        monkeypatch.setattr(Workspace, "outside_m", lambda self, pose: tried.append(pose) or 1.0)
        printed(capfd, "run", tiny_policy, "--random", "100000", *QUICK, code=2)
        assert len(tried) == 1000

    @pytest.mark.parametrize(
        "words",
        [
            ["--max-speed", "5e-324"],
            ["--max-speed", "0.09"],
            ["--max-acceleration", "1e-300"],
            ["--max-acceleration", "1e300"],
            ["--table", "1e300"],
        ],
    )
    def test_speeds_at_which_a_run_would_not_end_are_rejected(
        self, words: list[str], tiny_policy: Path, capfd: Capture
    ) -> None:
        """With the bounds of values in files."""
        assert f"{words[0]}: expected" in printed(capfd, "run", tiny_policy, "--goal", GOAL, *QUICK, *words, code=2)


def record(code: int, body: bytes) -> bytes:
    """A record of an MCAP file."""
    return struct.pack("<BQ", code, len(body)) + body


def chunk(rows: bytes, compressed: bytes) -> bytes:
    """A chunk record, at 1 s."""
    head = struct.pack("<QQQI", 10**9, 10**9, len(rows), zlib.crc32(rows))
    return record(6, head + struct.pack("<I", 4) + b"zstd" + struct.pack("<Q", len(compressed)) + compressed)


def message(data: bytes, channel: int = TICK, log_time_ns: int = 10**9) -> bytes:
    """A message record."""
    return record(5, struct.pack("<HIQQ", channel, 0, log_time_ns, log_time_ns) + data)


def cut_recording(path: Path) -> bytes:
    """The bytes of a sound recording without its end: more can follow."""
    data = recording(path).read_bytes()
    return data[: data.index(b"\x0f\x04" + bytes(7))]


class Unpacked:
    """Records the sizes of decompressed chunks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        unpack = recording_scan._chunk_data

        def count(body: bytes, most: int) -> bytes:
            data = unpack(body, most)
            self.sizes.append(len(data))
            return data

        monkeypatch.setattr(recording_scan, "_chunk_data", count)


def recovered(path: Path) -> None:
    """Recover a recording beside itself."""
    recover(path, path.with_name("recovered.mcap"))


def indexed(path: Path) -> None:
    """Open a recording as viewers do."""
    IndexedRecording(path).close()


class TestWorkOfReading:
    """Reading takes work in proportion to a file's size."""

    @pytest.mark.slow
    @pytest.mark.parametrize("read", [recovered, read_recording, indexed])
    @pytest.mark.parametrize("content", ["nothing", "bad ticks", "ticks", "events"])
    def test_decompressed_bytes_are_bounded(
        self, read: Callable[[Path], object], content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A hundred chunks of 4 MB in a few kilobytes, which would be 400 MB."""
        rows = {
            "nothing": bytes(4 << 20),
            "bad ticks": message(b"{}") * 100_000,
            "ticks": message(msgspec.json.encode(tick(0))) * 10_000,
            "events": message(b'{"time_s":1,"kind":"x","text":""}', EVENT) * 50_000,
        }[content]
        packed = zstandard.compress(rows, 19)
        assert len(rows) > 100 * len(packed)
        path = tmp_path / "log.mcap"
        path.write_bytes(cut_recording(tmp_path / "sound.mcap") + chunk(rows, packed) * 100)
        unpacked = Unpacked(monkeypatch)
        with contextlib.suppress(ValueError):  # of ticks that are none
            read(path)
        assert sum(unpacked.sizes) > len(rows)
        passes = 3 if read is indexed else 1  # for the first tick, the last one and the events
        assert sum(unpacked.sizes) <= passes * ((16 << 20) + 64 * path.stat().st_size)

    def test_malformed_rows_are_limited_to_ten_thousand(self, tmp_path: Path) -> None:
        """A chunk of a megabyte holds thirty thousand."""
        sound = cut_recording(tmp_path / "sound.mcap")
        rows = message(b"{}") * 30_000
        path = tmp_path / "log.mcap"
        path.write_bytes(sound + chunk(rows, zstandard.compress(rows)))
        recovery = recover(path, tmp_path / "out.mcap")
        assert recovery.ticks == 30
        assert recovery.lost.endswith("and 10000 more faults)")

    @pytest.mark.parametrize("data", [b'{"angle_deg":[' + b"null," * 20_000 + b"null]}", b"[" * 40_000, b" " * 40_000])
    def test_a_long_row_is_not_decoded(self, data: bytes, tmp_path: Path) -> None:
        """Rows of the recorder have at most 18,000 bytes."""
        path = tmp_path / "log.mcap"
        path.write_bytes(cut_recording(tmp_path / "sound.mcap") + message(data))
        with pytest.raises(ValueError, match=f"tick 31 is invalid: it has {len(data)} bytes"):
            read_recording(path)

    def test_an_arm_at_rest_is_read_whole(self, tmp_path: Path) -> None:
        """Its rows compress more than any others, and are still within the bounds."""
        stream = BytesIO()
        file = RecordingFile(stream)
        file.add_metadata({"joint_names": json.dumps(ARM.joint_names)})
        still = [1.0, 2.0, 3.0]
        for number in range(2000):
            at_rest = tick(0, time_s=1.0 + number / 1000, angle_deg=still, target_deg=still, speed_deg_s=[0.0] * 3)
            file.add(TICK, 10**9 + number * 10**6, msgspec.json.encode(at_rest))
        file.finish()
        (tmp_path / "log.mcap").write_bytes(stream.getvalue())
        read = read_recording(tmp_path / "log.mcap")
        assert (len(read.ticks), read.whole, read.lost) == (2000, True, "")

    def test_an_index_with_repeated_chunks_is_not_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The chunks are read in order instead, each a few times at most."""
        path = recording(tmp_path / "log.mcap", events=(Event(1.0, "goal", "goal 1"),))
        honest = Unpacked(monkeypatch)
        indexed(path)
        data = path.read_bytes()
        footer = len(data) - 37
        start = struct.unpack_from("<Q", data, footer + 9)[0]
        # The chunk index in the summary: its opcode is 8.
        at = start
        while data[at] != 8:
            at += 9 + struct.unpack_from("<Q", data, at + 1)[0]
        entry = data[at : at + 9 + struct.unpack_from("<Q", data, at + 1)[0]]
        end = struct.pack("<BQQQI", 2, 20, start, 0, 0) + data[-8:]
        path.write_bytes(data[:footer] + entry * 5000 + end)
        unpacked = Unpacked(monkeypatch)
        with contextlib.closing(IndexedRecording(path)) as opened:
            assert len(list(opened)) == 30
            assert [event.text for event in opened.events] == ["goal 1"]
        assert len(unpacked.sizes) <= len(honest.sizes) + 3

    @pytest.mark.parametrize("zeros", [1, 9, 4096, 1_000_000])
    def test_zeros_at_the_end_are_counted_as_lost(self, zeros: int, tmp_path: Path) -> None:
        """A file system may leave them after a crash."""
        path = tmp_path / "log.mcap"
        path.write_bytes(cut_recording(tmp_path / "sound.mcap") + bytes(zeros))
        read = read_recording(path)
        assert len(read.ticks) == 30
        assert read.lost.startswith(f"{zeros} byte{'s' * (zeros > 1)} (the file ends within a record")

    def test_the_next_intact_chunk_after_zeros_is_found(self, tmp_path: Path) -> None:
        """As after a lost block in the middle of a file."""
        sound = cut_recording(tmp_path / "sound.mcap")
        more = message(msgspec.json.encode(tick(40)), log_time_ns=10**10)
        path = tmp_path / "log.mcap"
        path.write_bytes(sound + bytes(4096) + chunk(more, zstandard.compress(more)))
        read = read_recording(path)
        assert [tick.time_s for tick in read.ticks[-2:]] == [1.0 + 29 / 30, 1.0 + 40 / 30]
        assert read.lost.startswith("4096 bytes")

    def test_goals_and_faults_at_a_time_equal_a_linear_search(self, tmp_path: Path) -> None:
        """For 501 times among 200 events."""
        events = []
        for number in range(200):
            kind = ("goal", "refusal", "phase", "driver")[number % 7 % 4]
            events.append(Event(1.0 + number / 250, kind, f"{kind} {number}"))
        with contextlib.closing(open_trajectory(recording(tmp_path / "log.mcap", events=tuple(events)))) as trajectory:
            for time_s in np.linspace(-0.01, 0.99, 501).tolist():
                begun = [
                    episode
                    for episode in trajectory.episodes
                    if episode.start_s - 1e-9 <= time_s < episode.end_s - 1e-9
                ]
                assert trajectory.episode_at(time_s) == (begun[0] if begun else None)
                marks = [e for e in trajectory.events if e.time_s <= time_s + 1e-9 and e.kind in ("refusal", "phase")]
                refusal = marks[-1].text if marks and marks[-1].kind == "refusal" else None
                assert trajectory.fault_at(time_s) == refusal
