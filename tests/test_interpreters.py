"""The simulator on newer interpreters: the golden trajectories and the quick tests of the environments."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from locations import ROOT

NEWER = ("3.12", "3.13", "3.14")
TOOLS = ("hypothesis", "pybullet-arm64", "pytest", "pytest-timeout", "scipy")
# These tests require PyTorch or Stable-Baselines3, which are not installed for other interpreters.
LEFT_OUT = ("test_arm.py", "test_arm_env.py", "test_control.py", "tasks/test_track.py")

pytestmark = [pytest.mark.slow, pytest.mark.soak]


def interpreters() -> list[str]:
    """The newer interpreters that are installed here, on the path or by pyenv."""
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for version in NEWER:
        candidates = [shutil.which(f"python{version}"), *folder.glob(f"{version}.*/bin/python")]
        for candidate in candidates:
            if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
                found.append(str(candidate))
                break
    return found


def run(*words: object, folder: Path) -> str:
    """Standard output of a command, with nothing of this environment's packages."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


class TestNewerInterpreters:
    """The simulator on newer versions of Python."""

    @pytest.mark.parametrize("interpreter", interpreters())
    def test_the_simulator_is_the_same_on_newer_interpreters(self, interpreter: str, tmp_path: Path) -> None:
        """Installed with its extra `sim`, it passes the environments' quick tests, golden trajectories included."""
        run(interpreter, "-m", "venv", tmp_path / "venv", folder=tmp_path)
        python = tmp_path / "venv" / "bin" / "python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
        run(*pip, f"{ROOT}[sim]", *TOOLS, folder=tmp_path)
        # The tests alone, so that the installed packages are tested.
        shutil.copytree(ROOT / "tests", tmp_path / "tests")
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        left_out = [f"--ignore=tests/envs/{name}" for name in LEFT_OUT]
        quick = ["-m", "not slow and not soak and not alone"]
        output = run(
            python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *quick, *left_out, "tests/envs", folder=tmp_path
        )
        assert "passed" in output
        assert "skipped" not in output
        figures = run(
            python.with_name("arm-control"), "evaluate", "ik", "--goals", "5", "--json", "ik.json", folder=tmp_path
        )
        assert "5 held-out goals" in figures
