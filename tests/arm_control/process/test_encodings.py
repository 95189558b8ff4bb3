"""Text files and standard streams are UTF-8 in any locale."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from locations import ROOT
from recordings import durations

from arm_control.cli import main
from arm_control.drivers.dynamixel.calibration import load_calibration
from arm_control.recording.recorder import Recorder
from arm_control.recording.schema import Tick
from arm_control.runs.files import read_json
from envs.arm import DEFAULT_URDF, Arm

ARM = Arm()
GOALS = [ARM.tip_position(pose) for pose in ([20.0, 40.0, 60.0], [30.0, 30.0, 30.0])]
LINES = [",".join(map(repr, goal)) for goal in GOALS]
QUICK = ["--pace", "fast", "--seconds-per-goal", "0.2"]
ASCII = {"LC_ALL": "POSIX"}  # the streams and files of this locale, without UTF-8 mode

Capture = pytest.CaptureFixture[str]


def under_locale(
    locale: dict[str, str], words: list[str], folder: Path, *, goals: bytes = b"", code: str | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command, or a program, under a locale, with everything off by which Python would use UTF-8 anyway."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    environment = kept | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)} | locale
    command = [sys.executable, *(["-m", "arm_control.cli", *words] if code is None else ["-c", code])]
    return subprocess.run(command, cwd=folder, env=environment, input=goals, capture_output=True, timeout=120)


class TestGoals:
    """Files of goals from other systems."""

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["Unix", "Windows", "old Mac"])
    @pytest.mark.parametrize("mark", ["\ufeff", "\ufeff\ufeff"], ids=["a mark", "two files joined"])
    def test_line_ends_and_byte_order_marks(
        self, end: str, mark: str, tiny_policy: Path, tmp_path: Path, capfd: Capture
    ) -> None:
        """Unix, Windows and old Mac line ends, with one mark or two."""
        path = tmp_path / "goals.csv"
        path.write_bytes(f"{mark}{end.join(LINES)}{end}".encode())
        assert main(["run", str(tiny_policy), "--goals-file", str(path), *QUICK]) == 0
        assert "over 2 goals" in capfd.readouterr().out

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_other_encodings_are_rejected_in_one_line(
        self, encoding: str, tiny_policy: Path, tmp_path: Path, capfd: Capture
    ) -> None:
        """UTF-16 and UTF-32, with and without a byte order mark."""
        path = tmp_path / "goals.csv"
        path.write_bytes("\r\n".join(LINES).encode(encoding))
        assert main(["run", str(tiny_policy), "--goals-file", str(path), *QUICK]) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        assert "UTF-16" in error
        assert "expected UTF-8 text" in error

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("goals", "code", "message"),
        [
            ("\ufeff" + "\r\n".join(LINES), 0, b"over 2 goals"),
            ("# Greifpunkt Süd\n" + "\n".join(LINES), 0, b"over 2 goals"),
            ("\n".join(LINES).encode("utf-16"), 2, b"expected goals as UTF-8 text"),
            ("# Süd\n".encode("latin-1"), 2, b"expected goals as UTF-8 text"),
        ],
        ids=["byte order mark", "comment", "UTF-16", "Latin-1"],
    )
    def test_standard_input_is_utf_8_under_any_locale(
        self, goals: str | bytes, code: int, message: bytes, tiny_policy: Path, tmp_path: Path
    ) -> None:
        """As files are; UTF-16 and Latin-1 are errors."""
        data = goals if isinstance(goals, bytes) else goals.encode()
        words = ["run", str(tiny_policy), "--goals-file", "-", *QUICK]
        done = under_locale(ASCII, words, tmp_path, goals=data)
        assert done.returncode == code, done.stderr
        assert message in done.stdout + done.stderr
        assert b"Traceback" not in done.stderr


class TestOtherFiles:
    """Calibrations and JSON files."""

    def test_a_calibration_edited_on_windows_is_read(self, tmp_path: Path) -> None:
        """With a byte order mark and Windows line ends."""
        from arm_control.drivers.dynamixel.calibration import Calibration, JointCalibration
        from arm_control.drivers.dynamixel.control_table import MODEL_NUMBER

        joint = JointCalibration("Süd", 1, MODEL_NUMBER, 1024.0, 1, 4096 / 360, 0.0, 90.0, 100.0, 1000.0)
        calibration = Calibration("Größe", (joint,))
        path = tmp_path / "calibration.json"
        path.write_bytes(("\ufeff" + calibration.to_json().replace("\n", "\r\n")).encode())
        assert load_calibration(path) == calibration

    @pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
    def test_json_in_another_encoding_is_an_error(self, encoding: str, tmp_path: Path) -> None:
        """PowerShell's redirection writes UTF-16."""
        (tmp_path / "x.json").write_bytes('{"name": "Süd"}'.encode(encoding))
        with pytest.raises(ValueError, match="expected UTF-8 text"):
            read_json(tmp_path / "x.json", 1000)


class TestLocales:
    """The locale has no effect on files, and output never fails."""

    @pytest.mark.slow
    def test_text_beyond_ascii_in_an_ascii_locale(self, tmp_path: Path) -> None:
        """An arm's name is read, recorded and recovered; file names are printed as escapes."""
        urdf = tmp_path / "arm.urdf"
        urdf.write_text(DEFAULT_URDF.read_text().replace('name="arm3"', 'name="Größe"', 1), encoding="utf-8")
        with Recorder(tmp_path / "Größe.mcap", {"arm": "Größe"}) as recorder:
            recorder.tick(Tick(time_s=1.0, phase="run", band="pass", **durations(1.0)))
        done = under_locale(ASCII, ["recover", "Größe.mcap"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
        assert b"-recovered.mcap: 1 tick, 0 events; unreadable: nothing" in done.stdout
        words = ["evaluate", "ik", "--arm", "arm.urdf", "--goals", "1", "--json", "Größe.json"]
        done = under_locale(ASCII, words, tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "Größe.json").exists()

    def test_what_an_output_cannot_encode_is_a_visible_escape(self, tmp_path: Path) -> None:
        """A name from a UTF-8 file is no error on an ASCII terminal."""
        (tmp_path / "policies").mkdir()  # a folder of that name does no harm
        code = "import arm_control.cli as cli; cli.main = lambda: print('Gr\\xf6\\xdfe \\u2192'); cli.program()"
        done = under_locale(ASCII, [], tmp_path, code=code)
        assert (done.returncode, done.stdout) == (0, b"Gr\\xf6\\xdfe \\u2192\n"), done.stderr

    @pytest.mark.parametrize("path", ["arm_control", "envs", "policies"])
    def test_every_text_file_is_opened_with_its_encoding(self, path: str) -> None:
        """The source has no call that would use the locale's encoding."""
        missing = [
            f"{file.relative_to(ROOT)}, line {line}"
            for file in sorted((ROOT / path).rglob("*.py"))
            for line in without_encoding(file.read_text())
        ]
        assert not missing

    @pytest.mark.parametrize(
        "code",
        [
            "open(path)",
            "open(path, 'w')",
            "path.open()",
            "path.open('a')",
            "path.open(mode='w')",
            "path.read_text()",
            "path.write_text(text)",
            "subprocess.run(words, text=True)",
        ],
    )
    def test_a_missing_encoding_is_found(self, code: str) -> None:
        """The check above finds each kind of call, and nothing in binary ones."""
        assert [*without_encoding(code)] == [1]
        start = code.removesuffix(")")
        assert not [*without_encoding(f"{start}{'' if start.endswith('(') else ', '}encoding='utf-8')")]
        assert not [*without_encoding("open(path, 'rb'); path.open('xb'); os.open(path, flags); RunFolder.open(path)")]


def without_encoding(code: str) -> Iterator[int]:
    """The lines of calls that read, write or decode text by the encoding of the locale."""
    for call in ast.walk(ast.parse(code)):
        if not isinstance(call, ast.Call):
            continue
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        if "encoding" in keywords:
            continue
        is_method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        modes = [keywords["mode"]] if "mode" in keywords else call.args[0 if is_method else 1 :][:1]
        mode = ast.literal_eval(modes[0]) if modes and isinstance(modes[0], ast.Constant) else None
        # A method whose first argument is no mode, as os.open and RunFolder.open, opens something else.
        opens = name == "open" and (not is_method or not modes or isinstance(mode, str))
        if (
            (is_method and name in ("read_text", "write_text"))
            or (opens and "b" not in (mode or "r"))
            or (isinstance(text := keywords.get("text"), ast.Constant) and text.value is True)
        ):
            yield call.lineno
