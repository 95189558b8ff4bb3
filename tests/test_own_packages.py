"""Other packages named `envs` or `policies`: reported in one line, before any of their code runs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from locations import ROOT
from trees import copy_program

from arm_control.process.own_packages import PACKAGES, python_command

FOREIGN = "print('foreign code runs')\n"
COMMAND = [sys.executable, "-m", "arm_control.cli", "--version"]


def run(words: list[str], folder: Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with arm-control found at `path`."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def as_module(folder: Path, name: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(FOREIGN)
    return path


def as_package(folder: Path, name: str) -> Path:
    path = folder / name / "__init__.py"
    path.parent.mkdir()
    path.write_text(FOREIGN)
    return path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages with a copy of arm-control."""
    folder = tmp_path_factory.mktemp("site-packages")
    copy_program(folder)
    return folder


def copied(installed: Path, folder: Path) -> Path:
    """A copy of an installation made of hard links: unlink a file before changing it."""
    site = folder / "site-packages"
    shutil.copytree(installed, site, copy_function=os.link)
    return site


@pytest.mark.parametrize("name", PACKAGES)
class TestShadowing:
    """Another module or package that precedes arm-control's on sys.path."""

    @pytest.mark.parametrize("make", [as_module, as_package])
    def test_the_command_reports_it_in_one_line(
        self, name: str, make: Callable[[Path, str], Path], tmp_path: Path
    ) -> None:
        """`python -m arm_control.cli` beside it ends with exit code 2 and one line that names the foreign file."""
        foreign = make(tmp_path, name)
        done = run(COMMAND, tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"arm-control: error: another package '{name}' hides that of arm-control: ")
        assert str(foreign) in done.stderr
        assert "rename or uninstall" in done.stderr

    def test_a_script_beside_it_gets_an_import_error(self, name: str, tmp_path: Path) -> None:
        """A script beside it gets an ImportError that names the foreign file, and no foreign code runs."""
        foreign = as_package(tmp_path, name)
        (tmp_path / "script.py").write_text("from arm_control import PolicyRunner\n")
        done = run([sys.executable, "script.py"], tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        last = done.stderr.splitlines()[-1]
        assert last.startswith("ImportError: another package")
        assert str(foreign) in last

    def test_an_already_imported_one_is_found(self, name: str, tmp_path: Path) -> None:
        """A foreign package that was imported first also raises ImportError."""
        as_module(tmp_path, name)
        code = f"import sys, {name}; sys.path.remove(''); import arm_control"
        done = run([sys.executable, "-c", code], tmp_path)
        assert done.returncode == 1
        assert "ImportError: another package" in done.stderr

    def test_one_later_on_the_path_is_ignored(self, name: str, tmp_path: Path) -> None:
        """A package later on the path, and a folder of the name without Python files, have no effect."""
        (tmp_path / "work" / name).mkdir(parents=True)
        (tmp_path / "work" / name / "notes.txt").write_text("mine")
        (tmp_path / "behind").mkdir()
        as_module(tmp_path / "behind", name)
        code = f"import sys; sys.path.append({str(tmp_path / 'behind')!r}); import arm_control, {name}; print('ours')"
        done = run([sys.executable, "-c", code], tmp_path / "work")
        assert (done.returncode, done.stdout, done.stderr) == (0, "ours\n", "")

    def test_child_processes_ignore_the_current_folder(self, name: str, tmp_path: Path) -> None:
        """Child processes import the packages that their parent found."""
        as_module(tmp_path, name)
        done = run([*python_command("import arm_control, envs, policies; print('ours')")], tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "ours\n", "")


@pytest.mark.parametrize("name", PACKAGES)
class TestOverwriting:
    """Another distribution's files in place of arm-control's, in one site-packages."""

    def test_overwritten_files_are_reported_in_one_line(self, name: str, installed: Path, tmp_path: Path) -> None:
        """The error names the file, and the other distribution if its metadata is present."""
        site = copied(installed, tmp_path)
        own = site / name / "__init__.py"
        own.unlink()
        own.write_text(FOREIGN)
        info = site / "other_things-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-things\nVersion: 1.0\n")
        (info / "top_level.txt").write_text(f"{name}\n")
        done = run(COMMAND, tmp_path, site)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert f"another package '{name}' was installed over that of arm-control: {own}" in done.stderr
        assert "other-things" in done.stderr

    def test_missing_files_are_reported_in_one_line(self, name: str, installed: Path, tmp_path: Path) -> None:
        """Uninstalling the other distribution removes shared files; the error names the one that is missing."""
        site = copied(installed, tmp_path)
        (site / name / "__init__.py").unlink()
        done = run(COMMAND, tmp_path, site)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert f"package '{name}' is missing: expected {site / name / '__init__.py'}" in done.stderr
