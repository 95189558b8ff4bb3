"""Commands and programs of README and docs: valid as printed, and executed at a tiny size."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documentation import (
    PAGES,
    README,
    SHORTER,
    SHORTER_PYTHON,
    adds_code,
    commands,
    exercises,
    mentioned_commands,
    programs,
    saved_files,
    shortened,
    shortened_python,
    write_saved_files,
)
from locations import ROOT
from short_trainings import short_validations
from trees import copy_program

from arm_control import cli
from arm_control.commands.compare import Compare, contestants
from arm_control.comparison import scheduling, trial
from arm_control.comparison.trial import Trial
from arm_control.exporter import exporter

COMMANDS = {page: commands(page) for page in PAGES}
# Pages whose commands work as they stand, and those whose commands need the code that the page adds.
PLAIN = [page for page in PAGES if not adds_code(page)]
EXTENDING = [page for page in PAGES if adds_code(page)]
PRINTED = list(dict.fromkeys(command for page in PLAIN for command in (*COMMANDS[page], *mentioned_commands(page))))


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def check(command: str) -> None:
    """Parse a command and check its settings, without running it. Raises ValueError for one that is invalid."""
    parsed = cli.parse(shlex.split(command))
    if parsed is not None and isinstance(parsed.flags, Compare):
        contestants(parsed.flags)


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with files that printed commands read and others write."""
    for name in re.findall(r"^identify .*--json (\S+)", "\n".join(PRINTED), re.MULTILINE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "assets" / "imperfections" / "xl430.json", tmp_path / name)
    for page in PLAIN:
        write_saved_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestPrintedCommands:
    """Every command of every page, as printed."""

    def test_there_are_commands_to_check(self) -> None:
        """The README has at least 15 commands and all pages 60: the blocks are found."""
        assert len(COMMANDS[README]) >= 15
        assert len(PRINTED) >= 60

    @pytest.mark.parametrize("command", PRINTED)
    def test_a_printed_command_is_valid(self, command: str, measured: Path) -> None:
        """All flags exist, and their values are accepted."""
        check(command)

    @pytest.mark.parametrize(
        "command",
        [
            "train ddpg --hiden-units 8",
            "train ddqg",
            "compare ddpg 'a2c --recurent'",
            "compare ddpg 'a2c --imperfections rough'",
            "bench argmax --rounds 0",
            "run policy.onnx",
        ],
    )
    def test_an_outdated_command_is_found(self, command: str) -> None:
        """The check fails for unknown flags, agents and values, also inside a comparison."""
        with pytest.raises(ValueError, match=r"hiden|ddqg|recurent|different tasks|rounds|goals"):
            check(command)


class TestShortForms:
    """The table of short forms fits the pages."""

    @pytest.mark.parametrize("entry", SHORTER, ids=lambda entry: f"{entry[0]} {entry[1]}")
    def test_every_entry_applies(self, entry: tuple[str, str, str]) -> None:
        """Each entry applies to a command, so that outdated ones are noticed."""
        start, pattern, _ = entry
        commands_of_pages = [command for page in PAGES for command in COMMANDS[page]]
        assert any(command.startswith(start) and re.search(pattern, command) for command in commands_of_pages)

    @pytest.mark.parametrize("pattern", [pattern for pattern, _ in SHORTER_PYTHON])
    def test_every_entry_for_programs_applies(self, pattern: str) -> None:
        """Each entry for Python programs applies to one, so that outdated ones are noticed."""
        assert any(re.search(pattern, program) for page in PAGES for program in programs(page))

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_no_command_stays_long(self, page: Path, measured: Path) -> None:
        """Shortened commands train few steps with one seed, and evaluate few goals."""
        for command in COMMANDS[page]:
            short = shortened(command)
            if page in PLAIN:
                check(short)
            name = " ".join(short.split()[:2])
            if name.startswith(("train", "compare")):
                assert re.search(r"--steps [1-9]\d{,2}( |$)", short), short
            if name.startswith("bench"):
                assert short != command or "delay" in name, short
            assert not re.search(r"--(steps|goals|random) \d{4,}|--goals (?!100\b)\d{3,}|--seeds [2-9]", short), short
            assert "--minutes" not in short or name == "bench ablation", short


class TestExercises:
    """The exercises of the page for a class."""

    PAGE = ROOT / "docs" / "class.md"

    def test_each_section_has_three(self) -> None:
        """And each has a solution."""
        sections = re.split(r"^## ", self.PAGE.read_text(), flags=re.MULTILINE)
        counts = [len(re.findall(r"change\s`", section)) for section in sections if "**Exercises**" in section]
        assert len(counts) >= 7
        assert set(counts) == {3}
        solutions = re.findall(r"^[123]\. ", sections[-1], re.MULTILINE)
        assert len(solutions) == sum(counts) == len(exercises(self.PAGE))

    @pytest.mark.parametrize(("file", "line", "replacement"), exercises(PAGE))
    def test_its_line_occurs_once_in_its_file(self, file: str, line: str, replacement: str) -> None:
        """And the changed file is valid Python."""
        source = (ROOT / file).read_text()
        assert source.count(line) == 1
        compile(source.replace(line, replacement), file, "exec")


@contextlib.contextmanager
def terminal(words: list[str], folder: Path) -> Iterator[None]:
    """A command that runs in another terminal until it is interrupted."""
    command = [sys.executable, "-m", "arm_control.cli", *words]
    process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # wait until it is ready
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short validations, and the trainings of a comparison in this process instead of one of their own each.

    `test_comparison.py` runs comparisons with their processes, `make demo` the commands as a shell does.
    """
    alone = threading.Lock()

    def run_here(one: Trial, *_: Any) -> dict[str, Any]:
        with alone:
            one.run()
        result = one.result()
        assert result is not None
        return result

    monkeypatch.setattr(exporter, "RANDOM_STATES", 100)
    monkeypatch.setattr(exporter, "SEARCHED_STATES", 20)
    monkeypatch.setattr(trial, "REPORTS", 2)
    monkeypatch.setattr(scheduling, "run_process", run_here)
    with short_validations(reports=2):
        yield


def run_on_servos(words: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and output of a command on emulated servos, in another process: a fault stop holds for ever."""
    command = [sys.executable, "-m", "arm_control.cli", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def install(project: Path) -> None:
    """Install a project of one module, as pip would, for a PYTHONPATH with its folder."""
    described = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    information = project / f"{described['name'].replace('-', '_')}-{described['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: {described['version']}\n"
    )
    lines = []
    for group, entries in described["entry-points"].items():
        lines.append(f"[{group}]")
        lines += [f"{name} = {value}" for name, value in entries.items()]
    (information / "entry_points.txt").write_text("\n".join(lines))


class TestPages:
    """Commands, programs and added code of the pages, executed."""

    @pytest.mark.slow
    @pytest.mark.usefixtures("one_process")
    @pytest.mark.parametrize(
        "page",
        [
            pytest.param(page, marks=pytest.mark.alone if page.name == "running.md" else ())
            for page in PLAIN
            if COMMANDS[page]
        ],
        ids=lambda page: page.name,
    )
    def test_the_commands_of_the_pages_work(
        self,
        page: Path,
        tmp_path: Path,
        tiny_policy: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """Each command of a page's shell blocks succeeds at a tiny size, in order and in one folder."""
        if page.name in ("running.md", "watching.md"):  # what `make demo` leaves
            (tmp_path / "runs/demo").mkdir(parents=True)
            shutil.copy(tiny_policy, tmp_path / "runs/demo/policy.onnx")
        write_saved_files(page, tmp_path)
        monkeypatch.chdir(tmp_path)
        comparisons = {command for other in PAGES[: PAGES.index(page)] for command in COMMANDS[other]}
        with contextlib.ExitStack() as others:
            for command in COMMANDS[page]:
                if command.startswith("compare") and command in comparisons:
                    continue
                words = shlex.split(shortened(command))
                if words[0] == "emulate":  # in another terminal
                    others.enter_context(terminal(words, tmp_path))
                    continue
                if "dynamixel" in words:
                    code, output = run_on_servos(words, tmp_path)
                else:
                    code = cli.main(words)
                    output = "".join(capfd.readouterr())
                assert code == 0, f"{command}\n{output}"
        if page == README:
            assert (tmp_path / "runs/mine/policy.onnx").exists()
            assert (tmp_path / "runs/mine/video.mp4").exists()

    @pytest.mark.slow
    @pytest.mark.parametrize("page", [page for page in PLAIN if programs(page)], ids=lambda page: page.name)
    def test_the_python_of_the_pages_works(self, page: Path, tmp_path: Path) -> None:
        """Each Python program of a page succeeds at a tiny size, in a process of its own."""
        write_saved_files(page, tmp_path)
        for program in programs(page):
            code = shortened_python(program)
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=tmp_path,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"

    @pytest.mark.slow
    @pytest.mark.parametrize("page", EXTENDING, ids=lambda page: page.name)
    def test_the_code_that_a_page_adds_works(self, page: Path, tmp_path: Path, tiny_policy: Path) -> None:
        """Files that a page adds to a copy of the program work, with the page's tests, programs and commands."""
        copy_program(tmp_path)
        write_saved_files(page, tmp_path)
        (tmp_path / "runs/first").mkdir(parents=True)  # of the first tutorial
        shutil.copy(tiny_policy, tmp_path / "runs/first/policy.onnx")
        paths = [tmp_path]
        for settings in tmp_path.glob("*/pyproject.toml"):
            install(settings.parent)
            paths.append(settings.parent)

        def run(*words: str) -> None:
            path = os.pathsep.join(map(str, paths))
            done = subprocess.run(
                [sys.executable, *words],
                cwd=tmp_path,
                env=environment() | {"PYTHONPATH": path},
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"

        for name in saved_files(page):
            if Path(name).name.startswith("test_"):
                run("-m", "pytest", "-q", "-p", "no:cacheprovider", name)
        for program in programs(page):
            run("-c", shortened_python(program))
        for command in COMMANDS[page]:
            run("-m", "arm_control.cli", *shlex.split(shortened(command)))

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_links_and_files_named_in_the_pages_exist(self, page: Path) -> None:
        """Relative links and named files outside of code blocks exist; `make docs` also checks anchors."""
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name} names {target}"
        for target in re.findall(r"`((?:envs|policies|arm_control|assets|tests)/[\w./]*)`", text):
            assert (ROOT / target).exists() or target in saved_files(page), f"{page.name} names {target}"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("length", "largest_error_mm", "least_success"),
        [
            (["LENGTH=--steps 16000", "GOALS=100"], 2.0, 95.0),
            pytest.param([], 1.0, 99.0, marks=[pytest.mark.soak, pytest.mark.alone]),
        ],
        ids=["short", "as documented"],
    )
    def test_make_demo_trains_to_a_millimetre_and_writes_its_report(
        self, length: list[str], largest_error_mm: float, least_success: float, tmp_path: Path
    ) -> None:
        """`make demo` in a copy of the tree reaches the documented error and success, and writes all its files."""
        copy_program(tmp_path)
        shutil.copy(ROOT / "Makefile", tmp_path)
        make = ["make", "demo", f"BIN={Path(sys.executable).parent}", "READY=", *length]
        demo_environment = environment() | {"PYTHONPATH": str(tmp_path), "DISPLAY": ""}
        done = subprocess.run(make, cwd=tmp_path, env=demo_environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        report = (tmp_path / "runs/demo/report.md").read_text()
        error = re.search(r"mean error at the last step \| \*\*([\d.]+) mm", report)
        success = re.search(r"\| 10 mm \| ([\d.]+)%", report)
        assert error is not None
        assert success is not None
        assert float(error[1]) <= largest_error_mm
        assert float(success[1]) >= least_success
        for name in ("curve.png", "policy.onnx", "video.mp4", "page.html"):
            assert (tmp_path / "runs/demo" / name).stat().st_size > 10_000
