"""The command line: what each command prints and writes, and one line with exit code 2 for every error."""

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import Rejected, Size, content
from short_trainings import short_validations

import arm_control.commands
from arm_control.cli import main
from arm_control.exporter import exporter
from arm_control.process.discovery import module_names
from arm_control.runner import PolicyRunner
from arm_control.runs.checkpoint import list_checkpoints, load_latest
from arm_control.runs.config import TrainConfig
from arm_control.runs.run_folder import RunFolder
from arm_control.training.progress import Reporter
from envs.arm import DEFAULT_URDF, Arm
from policies.registry import AGENTS

ARM = Arm(DEFAULT_URDF)
GOALS = [ARM.tip_position(pose) for pose in ([20.0, 40.0, 60.0], [70.0, 30.0, 20.0], [45.0, 80.0, 10.0])]
TEXTS = [",".join(map(repr, goal)) for goal in GOALS]
QUICK = ["--pace", "fast", "--seconds-per-goal", "0.2"]
ROW = re.compile(r"^ +-?[\d.]+ +-?[\d.]+ +-?[\d.]+ +[\d.]+ mm   (not reached|[\d.]+ s)$", re.MULTILINE)


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def strict_json(path: Path) -> Any:
    """The value of a JSON file, which must not hold NaN or Infinity."""

    def reject(word: str) -> None:
        raise AssertionError(f"{path} holds {word}")

    return json.loads(path.read_text(), parse_constant=reject)


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value)))


def damage_config(text: str) -> Callable[[Path], None]:
    return lambda run: (run / "config.json").write_text(text) and None


def flip(path: Path, place: float) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def latest(run: Path) -> Path:
    return list_checkpoints(run / "checkpoints")[-1]


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def one_digit(run: Path) -> None:
    """Change a digit of the manifest, which stays valid JSON, as a bit flipped on the disk would."""
    path = latest(run) / "manifest.json"
    text = path.read_text()
    place = re.search(r'"elapsed_s": \d+\.\d', text)
    assert place is not None
    digit = text[place.end() - 1]
    path.write_text(text[: place.end() - 1] + ("1" if digit == "0" else "0") + text[place.end() :])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda run: (run / "config.json").unlink(), "is no run folder: it has no config.json"),
    "empty config": (damage_config(""), "config.json is damaged"),
    "cut config": (lambda run: cut(run / "config.json", 0.5), "config.json is damaged"),
    "binary config": (lambda run: (run / "config.json").write_bytes(b"\xff\xfe"), "config.json is damaged"),
    "list as config": (damage_config("[]"), "config.json has format version None"),
    "newer config": (
        lambda run: edit_json(run / "config.json", lambda value: value | {"version": 7}),
        "config.json has format version 7",
    ),
    "older config": (
        lambda run: edit_json(run / "config.json", lambda value: value | {"version": 3}),
        "config.json has format version 3, this program reads 5 and 6: its observation lacks",
    ),
    "config of the version before": (
        lambda run: edit_json(run / "config.json", lambda value: value | {"version": 4}),
        "config.json has format version 4, this program reads 5 and 6: its checkpoints lack the averaged",
    ),
    "config without fields": (damage_config('{"version": 5}'), "config.json is damaged"),
    "config with an unknown agent": (
        lambda run: edit_json(run / "config.json", lambda value: value | {"agent": "alphago"}),
        "unknown agent 'alphago'",
    ),
    "config with a negative setting": (
        lambda run: edit_json(
            run / "config.json", lambda value: value | {"settings": value["settings"] | {"batch_size": -1}}
        ),
        "batch-size: expected a positive number, got -1",
    ),
    "config of other networks": (
        lambda run: edit_json(
            run / "config.json", lambda value: value | {"settings": value["settings"] | {"hidden_units": 17}}
        ),
        "",
    ),
    "no checkpoints": (lambda run: shutil.rmtree(run / "checkpoints"), "no checkpoint in"),
    "cut tensors": (lambda run: cut(latest(run) / "tensors.safetensors", 0.9), "tensors.safetensors is damaged"),
    "empty tensors": (lambda run: cut(latest(run) / "tensors.safetensors", 0), "tensors.safetensors is damaged"),
    "a bit of the tensors": (lambda run: flip(latest(run) / "tensors.safetensors", 0.7), "does not match its hash"),
    "a bit of their header": (lambda run: flip(latest(run) / "tensors.safetensors", 0), "does not match its hash"),
    "no tensors": (lambda run: (latest(run) / "tensors.safetensors").unlink(), "tensors.safetensors is missing"),
    "cut manifest": (lambda run: cut(latest(run) / "manifest.json", 0.9), "manifest.json is damaged"),
    "empty manifest": (lambda run: cut(latest(run) / "manifest.json", 0), "manifest.json is damaged"),
    "no manifest": (lambda run: (latest(run) / "manifest.json").unlink(), "manifest.json is damaged"),
    "list as manifest": (lambda run: (latest(run) / "manifest.json").write_text("[]"), "manifest.json is damaged"),
    "a digit of the manifest": (one_digit, "manifest.json is damaged"),
    "manifest without files": (
        lambda run: edit_json(latest(run) / "manifest.json", lambda value: value | {"files": []}),
        "manifest.json is damaged",
    ),
    "manifest without state": (
        lambda run: edit_json(latest(run) / "manifest.json", lambda value: value | {"state": {}}),
        "manifest.json is damaged",
    ),
    "newer manifest": (
        lambda run: edit_json(latest(run) / "manifest.json", lambda value: value | {"version": 2}),
        "has format version 2, this program reads 1: it was written by a newer arm-control",
    ),
}


def figures_of(capfd: pytest.CaptureFixture[str], path: Path, *words: object) -> tuple[Any, str]:
    """The figures and the output of a command."""
    capfd.readouterr()
    assert main([*map(str, words), "--json", str(path)]) == 0, capfd.readouterr().err
    return strict_json(path), capfd.readouterr().out


class TestBadInput:
    """Invalid words and flags; no file is left."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["trian", "ddpg"], "unknown command 'trian' (did you mean train?); available: bench, calibrate"),
            (["--nonsense"], "unknown command '--nonsense'"),
            (["train"], "agent first; available: a2c, a3c, actor-critic, branching-dqn, ddpg, dpg, dqn, reinforce"),
            (["train", "--num-envs", "4"], "agent first; available: a2c, a3c, actor-critic"),
            (["train", "a3c", "--num-envs", "3"], "--num-envs: expected a multiple of 2 workers, got 3"),
            (["train", "a3c", "--processes", "2"], "--processes: expected 1 (a3c"),
            (["train", "a2c", "--processes", "40"], "--processes: expected from 1 to 32"),
            (
                ["train", "a2c", "--policy", "softmax"],
                "agent a2c with --policy softmax requires --env ArmReachMultiDiscrete-v0",
            ),
            (["train", "a2c", "--policy", "softmax", "--std", "fixed"], "a softmax policy has no standard deviation"),
            (["train", "a2c", "--initial-std", "3"], "initial-std: expected from 0.01 to 2.0, got 3.0"),
            (["train", "a2c", "--entropy-coef", "-1"], "entropy-coef: expected a number from 0, got -1.0"),
            (["train", "reinforce", "--baseline", "average", "--num-envs", "1"], "expected at least 2 environments"),
            (["train", "ddpg", "--n-step", "0"], "n-step: expected a positive number, got 0"),
            (["train", "dpg", "--critic", "oracle"], "oracle"),
            (["train", "ddgp"], "unknown agent 'ddgp' (did you mean ddpg?); available: a2c, a3c, actor-critic"),
            (
                ["train", "ddpg", "--env", "ArmReech-v0"],
                "unknown environment 'ArmReech-v0' (did you mean ArmReach-v0?)",
            ),
            (["train", "ddpg", "--env", "CartPole-v1"], "unknown environment 'CartPole-v1'; available: ArmReach-v0"),
            (["train", "ddpg", "--colour", "red"], "--colour"),
            (["train", "ddpg", "more"], "more"),
            (["train", "ddpg", "--reward", "spare"], "'spare' for argument '--reward'"),
            (["train", "ddpg", "--num-envs", "0"], "--num-envs: expected from 1 to 512, got 0"),
            (["train", "ddpg", "--num-envs", "-4"], "--num-envs: expected from 1 to 512, got -4"),
            (["train", "ddpg", "--num-envs", "nan"], "--num-envs"),
            (["train", "ddpg", "--seed", "-1"], "--seed: expected a number from 0"),
            (["train", "ddpg", "--steps", "0"], "--steps: expected a positive number, up to 1000000000000, got 0"),
            (["train", "ddpg", "--steps", "-5"], "--steps: expected a positive number, up to 1000000000000, got -5"),
            (["train", "ddpg", "--minutes", "nan"], "--minutes: expected a positive number, up to 527040, got nan"),
            (["train", "ddpg", "--minutes", "-1"], "--minutes: expected a positive number, up to 527040, got -1.0"),
            (["train", "ddpg", "--minutes", "inf"], "--minutes: expected a positive number, up to 527040, got inf"),
            (["train", "ddpg", "--minutes", "1", "--steps", "9"], "expected one of --steps and --minutes, got both"),
            (["train", "ddpg", "--episode-steps", "0"], "--episode-steps: expected from 1 to 10000, got 0"),
            (["train", "ddpg", "--episode-steps", "10001"], "--episode-steps: expected"),
            (["train", "ddpg", "--control-rate", "0"], "--control-rate: expected from 1 to 10000 Hz, got 0"),
            (["train", "ddpg", "--control-rate", "nan"], "--control-rate: expected"),
            (["train", "ddpg", "--goal-tolerance-m", "nan"], "--goal-tolerance-m: expected from 1e-06 to 10 m"),
            (["train", "ddpg", "--goal-tolerance-m", "-0.01"], "--goal-tolerance-m: expected from 1e-06 to 10 m"),
            (["train", "ddpg", "--learning-rate", "nan"], "learning-rate: expected a positive number, got nan"),
            (["train", "ddpg", "--learning-rate", "-1"], "learning-rate: expected a positive number, got -1"),
            (["train", "ddpg", "--discount", "1.5"], "discount: expected a number from 0 to 1, got 1.5"),
            (["train", "ddpg", "--discount", "nan"], "discount: expected a number from 0 to 1, got nan"),
            (["evaluate", "zero", "--last"], "--last: zero is no run folder"),
            (["train", "ddpg", "--tau", "-0.1"], "tau: expected a number from 0 to 1"),
            (["train", "ddpg", "--batch-size", "0"], "batch-size: expected a positive number, got 0"),
            (["train", "ddpg", "--learning-starts", "1"], "learning-starts: expected from batch-size to buffer-size"),
            (["train", "ddpg", "--arm", "no-such.urdf"], "no-such.urdf"),
            (["train", "ddpg", "--init", "no-such-run"], "no run folder no-such-run"),
            (["resume"], "resume"),
            (["resume", "no-such-run"], "no run folder no-such-run"),
            (["evaluate"], "evaluate"),
            (
                ["evaluate", "no-such-run"],
                "no run folder and no policy no-such-run; expected one of them, or zero, random",
            ),
            (["evaluate", "ik", "--goals", "0"], "--goals: expected a number from 1 to 1000000, got 0"),
            (["evaluate", "ik", "--goals", "-3"], "--goals: expected a number from 1 to 1000000, got -3"),
            (["evaluate", "ik", "--goals", "nan"], "--goals"),
            (["evaluate", "ik", "--seed", "-1"], "--seed: expected a number from 0"),
            (["evaluate", "ik", "--json", "no-such-folder/x.json"], "cannot write no-such-folder/x.json"),
            (["export", "no-such-run"], "no run folder no-such-run"),
            (["inspect", "no-such.onnx"], "cannot read policy no-such.onnx: No such file"),
            (["inspect", "a.onnx", "b.onnx"], "b.onnx"),
            (["run", "no-such.onnx", "--random", "1"], "cannot read policy no-such.onnx"),
            (["replay"], "expected a source: run folders, policies, recordings, or zero, random, ik"),
            (["replay", "no-such-run"], "no run folder and no policy no-such-run"),
            (["replay", "ik", "--viewer", "video"], "--viewer video only writes files: expected --save FILE"),
            (
                ["replay", "ik", "--viewer", "window", "--save", "x.png"],
                "expected no file with --viewer window, got x.png",
            ),
            (["replay", "ik", "--viewer", "plot", "--save", "x.mp4"], "expected a file ending in .png, got x.mp4"),
            (["replay", "ik", "--save", "x.gif"], "expected a file ending in .html, .png, .mp4, got x.gif"),
            (
                ["replay", "ik", "--save", "x.mp4", "--port", "80"],
                "--port: expected --viewer web without --save",
            ),
            (["replay", "ik", "--port", "0"], "--port: expected 1 to 65535, got 0"),
            (["replay", "ik", "zero", "--save", "x.mp4"], "--viewer video: expected at most 1 source, got 2"),
            (["replay", "ik", "zero", "random", "--save", "x.png"], "--viewer plot: expected at most 2 sources, got 3"),
            (["replay", "ik", "--verify"], "--verify: expected one recording, ending in .mcap, got ik"),
            (["replay", "no-such.mcap", "--save", "x.png"], "no-such.mcap"),
            (["replay", "ik", "--viewer", "holodeck"], "holodeck"),
            (
                ["replay", "ik", "--save", "x.mp4", "--goals", "0"],
                "--goals: expected a number from 1 to 1000000, got 0",
            ),
            (["report", "no-such-run"], "no run folder no-such-run"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_invalid_commands_and_flags(
        self, rejected: Rejected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
    ) -> None:
        """Unknown names with suggestions, missing arguments, and numbers out of range."""
        monkeypatch.chdir(tmp_path)
        assert message in rejected(*words)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "expected exactly one of --goal, --goals-file and --random"),
            (["--random", "2", "--goal", TEXTS[0]], "expected exactly one of"),
            (["--random", "0"], "--random: expected a number from 1 to 100000, got 0"),
            (["--random", "1", "--seed", "-2"], "--seed: expected a number from 0, of at most 63 bits, got -2"),
            (
                ["--random", "1", "--driver", "simm"],
                "unknown driver 'simm' (did you mean sim?); available: dynamixel, sim",
            ),
            (["--random", "1", "--pace", "slow"], "'slow' for argument '--pace'"),
            (
                ["--random", "1", "--seconds-per-goal", "nan"],
                "--seconds-per-goal: expected more than 0",
            ),
            (
                ["--random", "1", "--seconds-per-goal", "-1"],
                "--seconds-per-goal: expected more than 0",
            ),
            (["--random", "1", "--json", "missing/x.json"], "cannot write missing/x.json: there is no folder missing"),
            (["--random", "1", "--arm", "no-such.urdf"], "no-such.urdf"),
            (["--goal", "a,b,c"], "--goal: expected a goal x,y,z of finite numbers in metres, got 'a,b,c'"),
            (["--goal", "0.1,0.2"], "--goal: expected a goal x,y,z of finite numbers in metres, got '0.1,0.2'"),
            (["--goal", "0.1,0.2,0.3,0.4"], "--goal: expected a goal x,y,z"),
            (["--goal", ""], "--goal: expected a goal x,y,z"),
            (["--goal", "nan,0.1,0.1"], "--goal: expected a goal x,y,z of finite numbers in metres, got 'nan,0.1,0.1'"),
            (["--goal", "0.1,-inf,0.1"], "--goal: expected a goal x,y,z of finite numbers"),
            (["--goal", "9,9,9"], "--goal: goal (9.0000, 9.0000, 9.0000) m is out of reach of arm3"),
            (["--goal=-0.2,0.1,0.2"], "out of reach"),
            (["--goal", "-0.2,0.1,0.2"], "out of reach"),
            (["--goal", TEXTS[0], "--goal", "9,9,9"], "out of reach"),
            (["--goals-file", "missing.txt"], "cannot read goals from missing.txt"),
            (["--goals-file", "."], "cannot read goals from ."),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_invalid_goals_and_settings_of_run(
        self,
        rejected: Rejected,
        tiny_policy: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        words: list[str],
        message: str,
    ) -> None:
        """Rejected before the arm moves."""
        monkeypatch.chdir(tmp_path)
        assert message in rejected("run", tiny_policy, *words)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            ("", "there is no goal in"),
            ("\n \n", "there is no goal in"),
            ("# nothing but a comment\n", "there is no goal in"),
            (f"# first\n\n{TEXTS[0]}\n1,2\n{TEXTS[1]}\n", "goals.txt, line 4: expected a goal x,y,z"),
            (f"{TEXTS[0]}\nnan nan nan\n", "goals.txt, line 2: expected a goal x,y,z of finite numbers"),
            (
                f"{TEXTS[0]}\n{TEXTS[1]}\n9 9 9  # far away",
                "goals.txt, line 3: goal (9.0000, 9.0000, 9.0000) m is out of",
            ),
            ("\x00\x01\xff", "goals.txt"),
        ],
    )
    def test_an_invalid_goals_file(
        self,
        rejected: Rejected,
        capfd: pytest.CaptureFixture[str],
        tiny_policy: Path,
        tmp_path: Path,
        lines: str,
        message: str,
    ) -> None:
        """The error has the line number, and earlier figures are kept."""
        goals, figures = tmp_path / "goals.txt", tmp_path / "run.json"
        goals.write_bytes(lines.encode("latin-1"))
        figures.write_text("earlier figures")
        assert message in rejected("run", tiny_policy, "--goals-file", goals, "--json", figures, *QUICK)
        assert figures.read_text() == "earlier figures"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["goals.txt", "run.json"]

    @pytest.mark.slow
    def test_an_invalid_goal_on_standard_input(
        self, rejected: Rejected, tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error has the line number, and no figures are written."""
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TEXTS[0]}\n# then\n9,9,9\n{TEXTS[1]}\n"))
        words = ["run", tiny_policy, "--goals-file", "-", "--json", tmp_path / "run.json", *QUICK]
        message = rejected(*words, after_output=True)
        assert "standard input, line 3: goal (9.0000, 9.0000, 9.0000) m is out of reach" in message
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("words", "choices"),
        [
            (["replay", "ik", "--viewer", "None"], "('page', 'plot', 'video', 'web', 'window')"),
            (["replay", "ik", "--viewer", "tv"], "('page', 'plot', 'video', 'web', 'window')"),
            (["evaluate", "ik", "--goals", "None"], "'None'"),
            (["evaluate", "ik", "--seed", "None"], "'None'"),
        ],
    )
    def test_none_is_not_a_value_of_a_flag(self, rejected: Rejected, words: list[str], choices: str) -> None:
        """The listed choices are without None."""
        message = rejected(*words)
        assert choices in message
        assert "'None'," not in message
        assert ", 'None'" not in message

    def test_the_arm_flag_is_not_ignored(self, rejected: Rejected, tiny_run: Path) -> None:
        """A missing URDF is an error for a run that has its own."""
        assert "no-such.urdf" in rejected("evaluate", tiny_run, "--goals", "1", "--arm", "no-such.urdf")


class TestDamagedFiles:
    """Runs, checkpoints and policies that cannot be read."""

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_damaged_or_newer_run_is_rejected_by_every_command(
        self, rejected: Rejected, run_copy: Path, tmp_path: Path, damage: str
    ) -> None:
        """Export, resume, evaluate, replay and `--init` give the same line and change no file."""
        spoil, message = DAMAGES[damage]
        spoil(run_copy)
        before = content(tmp_path)
        for words in (
            ["export", run_copy, "-o", tmp_path / "policy.onnx"],
            ["resume", run_copy],
            ["evaluate", run_copy, "--goals", "1", "--json", tmp_path / "evaluation.json"],
            ["replay", run_copy, "--goals", "1", "--save", tmp_path / "video.mp4"],
            ["train", "ddpg", "--steps", "8", "--hidden-units", "16", "--init", run_copy, "--out", tmp_path / "new"],
        ):
            if damage.startswith("config ") and words[0] == "train":
                continue  # a start from its networks does not need the rest of its configuration
            assert message in rejected(*words)
            assert content(tmp_path) == before

    def test_the_error_of_a_missing_run_lists_existing_runs(self, rejected: Rejected, run_copy: Path) -> None:
        """Run folders beside the missing one are named."""
        assert rejected("export", run_copy.parent / "rum").endswith(f"; available in {run_copy.parent}: run\n")

    @pytest.mark.parametrize(
        ("data", "message"),
        [(b"", "not an ONNX model"), (b"not onnx", "not an ONNX model"), (b"\xff" * 64, "not an ONNX model")],
    )
    def test_a_file_that_is_no_policy_is_rejected_by_every_command(
        self, rejected: Rejected, tmp_path: Path, data: bytes, message: str
    ) -> None:
        """Inspect, evaluate, run and replay name the file and the reason."""
        path = tmp_path / "policy.onnx"
        path.write_bytes(data)
        for words in (
            ["inspect", path],
            ["evaluate", path, "--goals", "1", "--json", tmp_path / "evaluation.json"],
            ["run", path, "--random", "1", "--json", tmp_path / "run.json"],
            ["replay", path, "--goals", "1", "--save", tmp_path / "video.mp4"],
        ):
            line = rejected(*words)
            assert f"policy {path} is invalid: " in line
            assert message in line
            assert list(tmp_path.iterdir()) == [path]


class TestOutput:
    """Where output is written."""

    def test_a_folder_with_files_is_not_used_for_a_training(self, rejected: Rejected, tmp_path: Path) -> None:
        """Its files are kept."""
        out = tmp_path / "out"
        out.mkdir()
        (out / "thesis.txt").write_text("three years of work")
        assert f"{out} exists already: choose another folder" in rejected("train", "ddpg", "--steps", "8", "--out", out)
        assert content(tmp_path) == {"out": None, "out/thesis.txt": b"three years of work"}

    @pytest.mark.slow
    @pytest.mark.parametrize("make", ["a file in the way", "nobody can write"])
    def test_output_that_cannot_be_written(
        self, rejected: Rejected, tiny_run: Path, tiny_policy: Path, tmp_path: Path, make: str
    ) -> None:
        """The error names the folder, and no partial file is left."""
        if make == "nobody can write" and not Path("/proc/self").is_dir():
            pytest.skip("requires /proc, where nobody can write")
        (tmp_path / "file").write_text("kept")
        folder = tmp_path / "file" if make == "a file in the way" else Path("/proc")
        for words in (
            ["train", "ddpg", "--steps", "8", "--out", folder / "run"],
            ["export", tiny_run, "-o", folder / "policy.onnx"],
            ["evaluate", "ik", "--goals", "1", "--json", folder / "x.json"],
            ["run", tiny_policy, "--random", "1", *QUICK, "--json", folder / "x.json"],
            ["replay", "ik", "--goals", "1", "--save", folder / "x.mp4"],
        ):
            assert str(folder) in rejected(*words, after_output=True)
            assert content(tmp_path) == {"file": b"kept"}

    @pytest.mark.usefixtures("file_permissions")
    def test_a_read_only_folder(self, rejected: Rejected, tiny_run: Path, tiny_policy: Path, tmp_path: Path) -> None:
        """The error names the folder, and no partial file is left."""
        tmp_path.chmod(0o555)
        try:
            for words in (
                ["train", "ddpg", "--steps", "8", "--out", tmp_path / "run"],
                ["export", tiny_run, "-o", tmp_path / "policy.onnx"],
                ["replay", "ik", "--goals", "1", "--save", tmp_path / "x.mp4"],
            ):
                assert str(tmp_path) in rejected(*words, after_output=True)
                assert list(tmp_path.iterdir()) == []
            # Figures are printed only by a command that has begun: these fail before.
            for words in (
                ["evaluate", "ik", "--goals", "1", "--json", tmp_path / "x.json"],
                ["run", tiny_policy, "--random", "1", *QUICK, "--json", tmp_path / "x.json"],
            ):
                assert str(tmp_path) in rejected(*words)
                assert list(tmp_path.iterdir()) == []
        finally:
            tmp_path.chmod(0o755)

    def test_a_full_disk_keeps_earlier_figures(
        self, files_at_most: Callable[[int], Any], rejected: Rejected, tiny_policy: Path, tmp_path: Path
    ) -> None:
        """Files are limited to 4 kB here."""
        path = tmp_path / "run.json"
        path.write_text("earlier figures")
        with files_at_most(4000):
            line = rejected("run", tiny_policy, "--random", "40", *QUICK, "--json", path, after_output=True)
        assert f"cannot write {path}" in line
        assert content(tmp_path) == {"run.json": b"earlier figures"}

    def test_a_full_disk_leaves_no_partial_checkpoint(
        self, files_at_most: Callable[[int], Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Files are limited to 60 kB here."""
        out = tmp_path / "run"
        with files_at_most(60_000):
            assert main(["train", "ddpg", "--steps", "8", "--out", str(out)]) == 2
        *_, line = capfd.readouterr().err.splitlines()
        assert line.startswith(f"arm-control: error: cannot write a checkpoint into {out / 'checkpoints'}")
        assert not out.exists()

    def test_a_folder_in_the_place_of_the_figures_is_an_error_first(
        self, rejected: Rejected, capfd: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        """Nothing is evaluated before the error."""
        assert f"cannot write {tmp_path}" in rejected("evaluate", "ik", "--goals", "1", "--json", tmp_path)
        assert list(tmp_path.iterdir()) == []
        assert main(["evaluate", "ik", "--goals", "1", "--json", str(tmp_path)]) == 2
        assert capfd.readouterr().out == ""


class TestGoals:
    """Where goals come from."""

    @pytest.mark.slow
    def test_goals_from_flags_a_file_or_standard_input(
        self, tiny_policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same goals give the same errors; the table and the timings are printed."""
        file, json_file = tmp_path / "goals.txt", tmp_path / "run.json"
        x, y, z = GOALS[1]
        lines = f"# three goals\n\n{TEXTS[0]}\n  {x!r} {y!r}   {z!r}   # with blanks\n{TEXTS[2]}"
        file.write_text(lines)
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        results = []
        for source in (
            [word for text in TEXTS for word in ("--goal", text)],
            ["--goals-file", file],
            ["--goals-file", "-"],
        ):
            figures, printed = figures_of(capfd, json_file, "run", tiny_policy, *source, *QUICK)
            assert len(ROW.findall(printed)) == 3
            assert "16 golden samples verified" in printed
            assert f"mean error {figures['mean_error_mm']:.2f} mm over 3 goals" in printed
            for word in ("decide", "limit", "p50", "p99", "p99.9", "clamped: nothing; faults: none"):
                assert word in printed
            assert [tuple(goal["goal_m"]) for goal in figures["goals"]] == GOALS
            results.append([goal["error_mm"] for goal in figures["goals"]])
        assert results[0] == results[1] == results[2]  # the same motion, wherever the goals came from

    @pytest.mark.slow
    def test_random_goals_depend_on_the_seed(
        self, tiny_policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Equal seeds give equal goals, and their number is that of the flag."""
        runs = []
        for seed in (0, 0, 1):
            words = ["run", tiny_policy, "--random", 4, "--seed", seed, *QUICK]
            figures, printed = figures_of(capfd, tmp_path / "run.json", *words)
            assert len(ROW.findall(printed)) == len(figures["goals"]) == 4
            runs.append([goal["goal_m"] for goal in figures["goals"]])
        assert runs[0] == runs[1] != runs[2]

    def test_no_goal_on_standard_input_is_no_error(
        self, tiny_policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Figures are strict JSON with an undefined mean error."""
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        figures, printed = figures_of(capfd, tmp_path / "run.json", "run", tiny_policy, "--goals-file", "-", *QUICK)
        assert (figures["goals"], figures["mean_error_mm"]) == ([], None)
        assert "mean error" not in printed


ALL_COMMANDS = ("ddpg", "a2c")  # an agent off policy and one on policy


class TestCommands:
    """Commands that succeed."""

    def test_a_run_and_its_exported_policy_have_the_same_figures(
        self, tiny_run: Path, tiny_policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Errors to 0.05 mm, and the normalised return to 0.001."""
        words = ["--goals", 20, "--seed", 3]
        trained, printed = figures_of(capfd, tmp_path / "run.json", "evaluate", tiny_run, *words)
        exported, _ = figures_of(capfd, tmp_path / "policy.json", "evaluate", tiny_policy, *words)
        for name in ("mean_error_mm", "median_error_mm", "p95_error_mm", "max_error_mm"):
            assert exported[name] == pytest.approx(trained[name], abs=0.05)
        assert exported["normalised_return"] == pytest.approx(trained["normalised_return"], abs=1e-3)
        assert set(trained["success"]) == set(trained["success_interval"]) == {"50", "20", "10", "5", "2", "1"}
        assert trained["goals"] == 20
        assert f"mean {trained['mean_error_mm']:.2f} mm" in printed

    def test_inspect_prints_the_contract(self, tiny_policy: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Joints, limits, inputs, golden samples, task and versions."""
        assert main(["inspect", str(tiny_policy)]) == 0
        printed = capfd.readouterr().out
        contract = PolicyRunner.load(tiny_policy).contract
        for joint in contract.joints:
            assert re.search(rf"{joint.name} +0 to 90 degrees, up to {joint.max_speed_deg_s:.1f} degrees/s", printed)
        for tensor in (*contract.inputs, contract.output):
            assert f"{tensor.name} (batch, {tensor.size}), {tensor.unit}: {tensor.meaning}" in printed
        for text in ("30 Hz", "16 samples re-run, all within 0.001 degrees", "ddpg", "ArmReach-v0", "within 10 mm"):
            assert text in printed
        for name, version in contract.versions.items():
            assert f"{name} {version}" in printed

    def test_a_trained_run_can_be_exported_and_inspected(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The run folder has its files, and the flags are in config.json."""
        monkeypatch.chdir(tmp_path)
        assert main(["train", "ddpg", "--steps", "8", "--hidden-units", "16", "--seed", "5"]) == 0
        run = tmp_path / "runs" / "ddpg-seed5"
        assert "finished at step 8 " in capfd.readouterr().err
        assert {path.name for path in run.iterdir()} == {
            "config.json",
            "checkpoints",
            "metrics.jsonl",
            "tensorboard",
            "curve.png",
        }
        assert main(["export", str(run), "-o", "policy.onnx"]) == 0
        assert "policy.onnx: " in capfd.readouterr().out
        assert main(["inspect", "policy.onnx"]) == 0
        config = json.loads((run / "config.json").read_text())
        assert (config["seed"], config["steps"], config["settings"]["hidden_units"]) == (5, 8, 16)

    def test_the_remaining_time_is_printed_once_known(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A quarter of the steps in 10 s leaves 30 s."""
        now_s = [100.0]
        monkeypatch.setattr("arm_control.training.progress.time.monotonic", lambda: now_s[0])
        run = RunFolder(tmp_path)
        reporter = Reporter(run, TrainConfig("ddpg", steps=1000), 0, 0.0, quiet=True)
        try:
            assert "left" not in reporter._line(0, 0, 0.0, 0.0)
            now_s[0] += 10.0
            assert reporter._line(250, 1, 10.0, 0.25).endswith("  30 s left")  # a quarter in 10 s
            assert reporter._line(1000, 1, 40.0, 1.0).endswith("   0 s left")
        finally:
            reporter._tensorboard.close()  # type: ignore[no-untyped-call]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "every_command"),
        [(name, name in ALL_COMMANDS) for name in AGENTS]
        + [pytest.param(name, True, marks=pytest.mark.soak) for name in AGENTS if name not in ALL_COMMANDS],
    )
    def test_every_agent_goes_through_the_same_commands(
        self, name: str, every_command: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: Size
    ) -> None:
        """Trained, resumed and exported, which compares onnxruntime with PyTorch; two go through all commands."""
        monkeypatch.setattr(exporter, "RANDOM_STATES", size(1000, full=exporter.RANDOM_STATES, of="parity states"))
        run = str(tmp_path / "run")
        grid = ["--grid-step-deg", "30"] if TrainConfig(name).on_grid else []
        with short_validations(reports=2):
            assert main(["train", name, "--steps", "2000", "--hidden-units", "8", *grid, "--out", run]) == 0
            assert main(["resume", run]) == 0
        assert main(["export", run]) == 0
        if not every_command:
            return
        assert main(["evaluate", run, "--goals", "3", "--json", f"{run}/evaluation.json"]) == 0
        assert main(["inspect", f"{run}/policy.onnx"]) == 0
        assert main(["run", f"{run}/policy.onnx", "--random", "1", *QUICK, "--json", f"{run}/run.json"]) == 0
        assert main(["replay", run, "--viewer", "video", "--goals", "1", "--save", f"{run}/video.mp4"]) == 0
        assert main(["report", run]) == 0
        assert f"# {name} on ArmReach" in (tmp_path / "run/report.md").read_text()


@pytest.fixture(scope="module")
def reportable(tiny_run: Path, tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with all that a report is made of; not to be written to."""
    run = tmp_path_factory.mktemp("reportable") / "run"
    shutil.copytree(tiny_run, run)
    shutil.copy(tiny_policy, run / "policy.onnx")
    assert main(["evaluate", "zero", "--goals", "1", "--json", str(run / "evaluation.json")]) == 0
    assert main(["run", str(tiny_policy), "--random", "1", *QUICK, "--json", str(run / "run.json")]) == 0
    return run


class TestReport:
    """`arm-control report`."""

    def test_missing_files_are_named_with_the_command_that_makes_them(
        self, rejected: Rejected, run_copy: Path, tiny_policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Once complete, it holds the figures and links every file with a plain name."""

        def report(message: str) -> None:
            before = content(run_copy)
            assert message in rejected("report", run_copy)
            assert content(run_copy) == before

        report("evaluation.json is missing: make it with 'arm-control evaluate")
        assert main(["evaluate", str(run_copy), "--goals", "3", "--json", str(run_copy / "evaluation.json")]) == 0
        report("run.json is missing: make it with 'arm-control run")
        words = ["run", str(tiny_policy), "--random", "2", *QUICK, "--json", str(run_copy / "run.json")]
        assert main(words) == 0
        report("arm-control export")
        shutil.copy(tiny_policy, run_copy / "policy.onnx")
        for name in ("video.mp4", "page.html", ".hidden", "a](x) [b.png"):
            (run_copy / name).write_bytes(b"")
        capfd.readouterr()
        assert main(["report", str(run_copy)]) == 0
        assert capfd.readouterr().out.strip() == str(run_copy / "report.md")
        text = (run_copy / "report.md").read_text()
        evaluation = strict_json(run_copy / "evaluation.json")
        assert f"**{evaluation['mean_error_mm']:.2f} mm**" in text
        for word in ("3 held-out goals", "curve.png", "policy.onnx", "2 goals", "| 10 mm |", "2,000 steps"):
            assert word in text
        # Every file of the folder is linked, but for the report itself and names that are no plain ones.
        links = re.findall(r"^- \[(.*?)\]\((.*?)\)", text, re.MULTILINE)
        files = {path.name for path in run_copy.iterdir() if path.is_file()}
        assert {target for _, target in links} == files - {"report.md", ".hidden", "a](x) [b.png"}
        assert {"page.html", "video.mp4", "run.json", "metrics.jsonl"} <= {target for _, target in links}

    @pytest.mark.parametrize("name", ["evaluation.json", "run.json", "metrics.jsonl"])
    @pytest.mark.parametrize("text", ["{\n", "{}\n", "[]\n", "null\n", '"text"\n', '{"goals": 3}\n'])
    def test_damaged_figures_are_an_error(
        self, rejected: Rejected, reportable: Path, tmp_path: Path, name: str, text: str
    ) -> None:
        """The error names the file, and no report is written."""
        run = Path(shutil.copytree(reportable, tmp_path / "run"))
        (run / name).write_text(text)
        assert name in rejected("report", run)
        assert not (run / "report.md").exists()

    def test_text_of_its_files_is_not_copied(self, rejected: Rejected, reportable: Path, tmp_path: Path) -> None:
        """Markup in figures does not appear, and an unknown environment is rejected."""
        run = Path(shutil.copytree(reportable, tmp_path / "run"))
        markup = {"error": "x\n# <img src=y>|[here](z)"}
        (run / "evaluation.json").write_text(json.dumps(strict_json(run / "evaluation.json") | markup))
        assert main(["report", str(run)]) == 0
        assert "<img" not in (run / "report.md").read_text()
        config = strict_json(run / "config.json") | {"env": markup["error"]}
        (run / "config.json").write_text(json.dumps(config))
        assert "config.json is damaged" in rejected("report", run)

    def test_error_and_rest_come_first(self, reportable: Path, tmp_path: Path) -> None:
        """Above the learning curve; figures of older versions have an undefined rest."""
        run = Path(shutil.copytree(reportable, tmp_path / "run"))
        figures = strict_json(run / "evaluation.json")
        rest = {"target_step_deg": 0.1234, "angle_range_deg": 1.5, "worst_angle_range_deg": 2.25, "reversals": 0.875}
        (run / "evaluation.json").write_text(json.dumps(figures | {"rest": rest}))
        assert main(["report", str(run)]) == 0
        top = (run / "report.md").read_text().partition("![learning curve]")[0]
        for text in (f"**{figures['mean_error_mm']:.2f} mm**", "**1.500**, 2.250 degrees", "0.123 degrees, 87.5%"):
            assert text in top
        for name in ("evaluation.json", "run.json"):
            older = strict_json(run / name)
            del older["rest"]
            (run / name).write_text(json.dumps(older))
        assert main(["report", str(run)]) == 0
        top = (run / "report.md").read_text().partition("![learning curve]")[0]
        assert "| at rest | undefined" in top

    def test_a_run_without_goals_is_an_error(
        self, rejected: Rejected, reportable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The message suggests running the policy again."""
        run = Path(shutil.copytree(reportable, tmp_path / "run"))
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        words = ["run", str(run / "policy.onnx"), "--goals-file", "-", *QUICK, "--json", str(run / "run.json")]
        assert main(words) == 0
        assert "run.json has no goal: run the policy again" in rejected("report", run)


# Runs commands while some packages cannot be imported; prints exit code, output and errors of each as JSON.
WITHOUT = """
import contextlib, importlib.abc, io, json, sys
missing, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from arm_control.cli import main
results = []
for words in commands:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    results.append((code, out.getvalue(), err.getvalue()))
assert not set(missing) & set(sys.modules)
print(json.dumps(results))
"""


def without(missing: list[str], commands: list[list[str]], folder: Path) -> list[tuple[int, str, str]]:
    arguments = [sys.executable, "-c", WITHOUT, json.dumps(missing), json.dumps(commands)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    results: list[tuple[int, str, str]] = json.loads(done.stdout.splitlines()[-1])
    return results


class TestMissingPackages:
    """Installations without the extras."""

    @pytest.mark.parametrize(
        ("package", "extra", "commands"),
        [
            (
                "torch",
                "train",
                [
                    ["train", "ddpg", "--steps", "8", "--out", "new"],
                    ["resume", "RUN"],
                    ["evaluate", "RUN", "--goals", "1", "--json", "x.json"],
                    ["export", "RUN", "-o", "x.onnx"],
                ],
            ),
            (
                "pybullet",
                "sim",
                [
                    ["train", "ddpg", "--steps", "8", "--out", "new"],
                    ["run", "POLICY", "--random", "1", "--json", "x.json"],
                    ["evaluate", "ik", "--goals", "1", "--json", "x.json"],
                ],
            ),
            pytest.param(
                "safetensors",
                "train",
                [["resume", "RUN"], ["train", "ddpg", "--steps", "8", "--out", "new"]],
                marks=pytest.mark.slow,
            ),
            pytest.param(
                "matplotlib",
                "view",
                [["train", "ddpg", "--steps", "8", "--out", "new"], ["replay", "POLICY", "--save", "x.png"]],
                marks=pytest.mark.slow,
            ),
            pytest.param(
                "tensorboard", "train", [["train", "ddpg", "--steps", "8", "--out", "new"]], marks=pytest.mark.slow
            ),
            ("onnx", "train", [["export", "RUN", "-o", "x.onnx"]]),
            pytest.param("onnxscript", "train", [["export", "RUN", "-o", "x.onnx"]], marks=pytest.mark.slow),
            ("imageio_ffmpeg", "view", [["replay", "POLICY", "--goals", "1", "--save", "x.mp4"]]),
            ("PIL", "view", [["replay", "POLICY", "--goals", "1", "--save", "x.mp4"]]),
            ("viser", "view", [["replay", "POLICY", "--viewer", "web"], ["replay", "POLICY", "--save", "x.html"]]),
            ("websockets", "view", [["replay", "POLICY", "--viewer", "web"], ["replay", "POLICY", "--save", "x.html"]]),
            ("markupsafe", "view", [["replay", "POLICY", "--viewer", "web"], ["replay", "POLICY", "--save", "x.html"]]),
            ("yourdfpy", "view", [["replay", "POLICY", "--viewer", "web"], ["replay", "POLICY", "--save", "x.html"]]),
        ],
    )
    def test_a_missing_package_is_reported_with_its_extra(
        self, run_copy: Path, tiny_policy: Path, tmp_path: Path, package: str, extra: str, commands: list[list[str]]
    ) -> None:
        """One line with the pip command, and no file is left."""
        here = tmp_path / "here"
        here.mkdir()
        before = content(run_copy)
        names = {"RUN": str(run_copy), "POLICY": str(tiny_policy)}
        commands = [[names.get(word, word) for word in words] for words in commands]
        for code, _, error in without([package], commands, here):
            assert error == (
                f"arm-control: error: this requires {package}, which is not installed: "
                f"pip install '.[{extra}]' in the folder of arm-control\n"
            )
            assert code == 2
        assert content(here) == {}
        assert content(run_copy) == before

    @pytest.mark.slow
    def test_replaying_a_policy_needs_no_pytorch(self, tiny_policy: Path, tmp_path: Path) -> None:
        """A video is made without PyTorch, ONNX, TensorBoard, Matplotlib and safetensors."""
        words = ["replay", str(tiny_policy), "--goals", "1", "--save", "x.mp4"]
        [(code, _, error)] = without(["torch", "onnx", "tensorboard", "matplotlib", "safetensors"], [words], tmp_path)
        assert (code, error) == (0, "")
        assert (tmp_path / "x.mp4").stat().st_size > 0

    def test_help_needs_none_of_the_extras(self, tmp_path: Path) -> None:
        """The help of every command is complete on the base installation."""
        commands = [[], ["--help"], ["-h"], ["--version"], ["train", "ddpg", "--help"]]
        commands += [[name, "--help"] for name in module_names(arm_control.commands)]
        missing = ["torch", "pybullet", "onnx", "onnxscript", "matplotlib", "tensorboard", "safetensors", "PIL"]
        results = without([*missing, "imageio_ffmpeg", "viser", "yourdfpy"], commands, tmp_path)
        assert [(code, error) for code, _, error in results] == [(0, "")] * len(commands)
        overview = results[0][1]
        assert results[1][1] == results[2][1] == overview
        assert all(f"\n  {name} " in overview for name in module_names(arm_control.commands))
        assert re.fullmatch(r"arm-control \d+\.\d+\.\d+\n", results[3][1])
        helps = dict(zip([" ".join(words[:-1]) for words in commands], [out for _, out, _ in results], strict=True))
        flags = {
            "train ddpg": "--env --reward --arm --seed --steps --minutes --init --out --learning-rate --discount",
            "train": "ddpg",
            "evaluate": "--goals --seed --arm --json",
            "export": "--output -o",
            "run": "--driver --goal --goals-file --random --seconds-per-goal --pace --json",
            "replay": "--viewer --save --goals --seed --verify --port --host",
        }
        for command, words in flags.items():
            assert all(word in helps[command] for word in words.split()), command
        # Source comments are no help texts.
        assert not any("type: ignore" in text for text in helps.values())


@contextmanager
def started(*words: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, ended whatever happens."""
    unlike_a_shell = ("ARM_CONTROL_DEBUG", "PYTHONUNBUFFERED")
    environment = {name: value for name, value in os.environ.items() if name not in unlike_a_shell}
    process = subprocess.Popen(
        [sys.executable, "-m", "arm_control.cli", *map(str, words)], text=True, env=environment, **options
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


# Validated early, because its episodes are short.
LONG = [
    "--steps",
    "10_000_000",
    "--num-envs",
    "2",
    "--hidden-units",
    "16",
    "--batch-size",
    "16",
    "--learning-starts",
    "16",
]
LONG += ["--episode-steps", "5"]


class TestSignals:
    """Ctrl-C."""

    @pytest.mark.slow
    @pytest.mark.parametrize("moment", ["at the start", "while it learns"])
    def test_ctrl_c_ends_a_training_with_a_checkpoint(self, tmp_path: Path, moment: str) -> None:
        """Exit code 130, a learning curve, and the command that resumes."""
        run = tmp_path / "run"
        with started("train", "ddpg", *LONG, "--out", run, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("training: ddpg on ArmReach-v0")
            if moment == "while it learns":
                assert " steps " in process.stderr.readline()
                time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in error
        assert f"resume with: arm-control resume {run}" in error
        if moment == "while it learns":
            assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
        step, state = load_latest(run / "checkpoints")
        assert step == state["step"]
        assert step > 0 or moment == "at the start"
        # The first report comes with the first update.
        reported = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
        assert len(reported) == 1 or moment == "at the start"

    @pytest.mark.slow
    def test_ctrl_c_parks_the_arm_and_writes_the_figures_so_far(self, tiny_policy: Path, tmp_path: Path) -> None:
        """Exit code 130, and two lines on standard error."""
        words = ["run", tiny_policy, "--random", 1000, "--seconds-per-goal", 0.3, "--json", tmp_path / "run.json"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with started(*words, **pipes) as process:
            assert process.stdout is not None
            while not ROW.match(process.stdout.readline()):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
        assert process.returncode == 130
        assert error == "parking; a second request exits at once, without parking\ninterrupted; the arm is parked\n"
        figures = strict_json(tmp_path / "run.json")
        assert figures["interrupted"] is True
        assert 1 <= len(figures["goals"]) < 1000
        assert all(math.isfinite(goal["error_mm"]) for goal in figures["goals"])

    def test_ctrl_c_ends_a_run_that_waits_for_its_next_goal(self, tiny_policy: Path) -> None:
        """The arm is parked within seconds."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with started("run", tiny_policy, "--goals-file", "-", *QUICK, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(TEXTS[0] + "\n")
            process.stdin.flush()
            while not ROW.match(process.stdout.readline()):
                assert process.poll() is None
            time.sleep(0.5)  # until it waits
            process.send_signal(signal.SIGINT)
            code = process.wait(timeout=8)
            error = process.stderr.read() if process.stderr else ""
        assert code == 130
        assert error == "parking; a second request exits at once, without parking\ninterrupted; the arm is parked\n"


class TestStandardOutput:
    """Standard output that is closed or full, and tracebacks."""

    @pytest.mark.parametrize("words", [["inspect", "POLICY"], ["--help"], ["run", "--help"], ["run", "POLICY"]])
    def test_a_closed_pipe_causes_no_traceback(self, tiny_policy: Path, words: list[str]) -> None:
        """Nothing is printed on standard error."""
        words = [str(tiny_policy) if word == "POLICY" else word for word in words]
        words += ["--random", "2", *QUICK] if words[0] == "run" and words[-1] != "--help" else []
        reader, writer = os.pipe()
        os.close(reader)
        try:
            with started(*words, stdout=writer, stderr=subprocess.PIPE) as process:
                _, error = process.communicate(timeout=60)
        finally:
            os.close(writer)
        assert error == ""

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="requires /dev/full")
    @pytest.mark.parametrize("words", [["inspect", "POLICY"], ["--help"], ["export", "--help"]])
    def test_standard_output_on_a_full_disk(self, tiny_policy: Path, words: list[str]) -> None:
        """One line and exit code 2."""
        words = [str(tiny_policy) if word == "POLICY" else word for word in words]
        with open("/dev/full", "w") as full, started(*words, stdout=full, stderr=subprocess.PIPE) as process:
            _, error = process.communicate(timeout=60)
        assert error.startswith("arm-control: error: ")
        assert error.count("\n") == 1
        assert process.returncode == 2

    @pytest.mark.parametrize("words", [["inspect", "POLICY"], ["--help"], ["run", "--help"]])
    def test_without_standard_output(self, tiny_policy: Path, words: list[str]) -> None:
        """Commands started with standard output closed succeed."""
        words = [str(tiny_policy) if word == "POLICY" else word for word in words]
        script = 'exec "$@" >&-'
        command = ["sh", "-c", script, "sh", sys.executable, "-m", "arm_control.cli", *words]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")

    def test_arm_control_debug_shows_the_traceback(self, tmp_path: Path) -> None:
        """Exit code 1, with the type and message of the error."""
        command = [sys.executable, "-m", "arm_control.cli", "inspect", "no-such.onnx"]
        environment = os.environ | {"ARM_CONTROL_DEBUG": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)
        assert done.returncode == 1
        assert "Traceback (most recent call last)" in done.stderr
        assert "PolicyFileError: cannot read policy no-such.onnx" in done.stderr


class TestWhichPolicy:
    """`evaluate` and `export` name the policy of the run that they use."""

    @pytest.mark.parametrize(
        ("flags", "kind", "words"),
        [([], "best", "best validated policy (step "), (["--last"], "last", "last policy (step ")],
    )
    def test_the_best_one_unless_last_is_given(
        self,
        flags: list[str],
        kind: str,
        words: str,
        tiny_run: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """On standard output, and in the JSON file of `evaluate`."""
        figures = tmp_path / "figures.json"
        assert main(["evaluate", str(tiny_run), "--goals", "2", "--json", str(figures), *flags]) == 0
        assert words in capsys.readouterr().out
        policy = json.loads(figures.read_text())["policy"]
        assert policy["kind"] == kind
        assert (policy["validation_error_mm"] is None) == (kind == "last")
        assert main(["export", str(tiny_run), "-o", str(tmp_path / "policy.onnx"), *flags]) == 0
        assert words in capsys.readouterr().out

    def test_last_does_not_apply_to_a_policy_file(self, tiny_policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A policy file holds one policy."""
        assert main(["evaluate", str(tiny_policy), "--last"]) == 2
        assert "is no run folder" in capsys.readouterr().err
