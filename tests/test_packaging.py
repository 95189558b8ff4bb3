"""The built distributions: their contents, and their installation in clean environments."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from locations import ROOT
from trees import PACKAGES

pytestmark = pytest.mark.slow


def run(*words: object, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command without this tree and debugging settings in its environment."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "ARM_CONTROL_DEBUG")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """The built wheel."""
    [wheel] = dist.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of a clean environment with the wheel and no extras."""
    folder = tmp_path_factory.mktemp("base")
    run(sys.executable, "-m", "venv", folder, folder=folder)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    run(*pip, wheel, folder=folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def full(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of an environment that uses the packages of the extras from the tests' environment."""
    folder = tmp_path_factory.mktemp("full")
    run(sys.executable, "-m", "venv", folder, folder=folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, folder=folder)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "extras.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def tracked(folder: str, pattern: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(pattern) if "__pycache__" not in path.parts}


class TestContents:
    """Contents of the distributions."""

    def test_the_wheel_contains_packages_and_assets_only(self, wheel: Path) -> None:
        """The wheel has all modules, the assets, the licence and the declared extras, and no other folder."""
        names = set(zipfile.ZipFile(wheel).namelist())
        tops = {name.split("/")[0] for name in names}
        [information] = [top for top in tops if top.endswith(".dist-info")]
        assert tops == {*PACKAGES, information}
        assert {name for name in names if name.endswith(".py")} == set().union(*(tracked(p, "*.py") for p in PACKAGES))
        assert "assets/arm3.urdf" in names
        assert {name for name in names if name.startswith("assets/")} == tracked("assets", "*.*")
        assert f"{information}/licenses/LICENSE" in names
        metadata = zipfile.ZipFile(wheel).read(f"{information}/METADATA").decode()
        assert "License-Expression: MIT" in metadata
        assert "Requires-Python: >=3.11" in metadata
        for extra in ("sim", "train", "view", "all", "dev"):
            assert f"Provides-Extra: {extra}\n" in metadata

    def test_the_sdist_contains_what_the_tests_need(self, dist: Path) -> None:
        """The sdist has packages, tests and constraints, and no runs, environments or builds."""
        [sdist] = dist.glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        wanted = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "assets/arm3.urdf"}
        assert wanted | {"tests/conftest.py", "tests/test_packaging.py"} <= names
        assert set().union(*(tracked(package, "*.py") for package in PACKAGES)) <= names
        assert not [name for name in names if name.startswith(("runs", ".venv", "dist"))]


class TestInstalls:
    """Installations in clean environments, used from another folder."""

    @pytest.mark.soak
    def test_a_base_install_runs_policies_and_names_missing_extras(
        self, base: Path, tiny_policy: Path, tmp_path: Path
    ) -> None:
        """Help, `inspect` and PolicyRunner work; other commands name the extra in one line and write nothing."""
        command = base / "arm-control"
        assert "usage: arm-control COMMAND" in run(command, "--help", folder=tmp_path).stdout
        assert "--learning-rate" in run(command, "train", "ddpg", "--help", folder=tmp_path).stdout
        assert "16 samples re-run" in run(command, "inspect", tiny_policy, folder=tmp_path).stdout
        program = (
            "import arm_control, sys; from arm_control import PolicyRunner; runner = PolicyRunner.load(sys.argv[1]);"
            "print(arm_control.__file__); print(runner.step([10.0, 20.0, 30.0], [0.0] * 3, [0.2, 0.2, 0.2]))"
        )
        where, target = run(base / "python", "-c", program, tiny_policy, folder=tmp_path).stdout.splitlines()
        assert where.startswith(str(base.parent))
        assert all(0.0 <= angle <= 90.0 for angle in json.loads(target))
        for words, extra in (
            (["train", "ddpg", "--steps", "8"], "train"),
            (["run", tiny_policy, "--random", "1"], "sim"),
            (["evaluate", tiny_policy, "--goals", "1"], ""),
            (["replay", tiny_policy, "--save", "x.mp4"], "view"),
        ):
            error = run(command, *words, folder=tmp_path, code=2).stderr
            assert error.startswith("arm-control: error: this requires ")
            assert f"pip install '.[{extra}" in error
            assert error.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.soak
    def test_a_base_install_brings_neither_pytorch_nor_pybullet(self, base: Path) -> None:
        """The base install has numpy, onnxruntime and small packages, but neither torch, pybullet nor other heavy
        ones."""
        listed = run(base / "python", "-m", "pip", "list", "--format", "json", folder=base).stdout
        names = {package["name"].lower() for package in json.loads(listed)}
        assert {"arm-control", "numpy", "onnxruntime", "gymnasium", "tyro", "msgspec"} <= names
        assert not {"torch", "pybullet", "onnx", "matplotlib", "tensorboard", "pillow", "imageio-ffmpeg"} & names

    @pytest.mark.soak
    def test_an_install_with_extras_trains_exports_and_runs_from_another_folder(
        self, full: Path, tmp_path: Path
    ) -> None:
        """Training, export, evaluation and running work from another folder, with the installed URDF."""
        program = "import arm_control, envs.arm; print(arm_control.__file__); print(envs.arm.DEFAULT_URDF)"
        where, urdf = run(full / "python", "-c", program, folder=tmp_path).stdout.splitlines()
        assert where.startswith(str(full.parent))
        assert urdf.startswith(str(full.parent))
        assert Path(urdf).is_file()
        command = full / "arm-control"
        run(command, "train", "ddpg", "--steps", "8", "--hidden-units", "16", "--out", "tiny", folder=tmp_path)
        run(command, "export", "tiny", "-o", "policy.onnx", folder=tmp_path)
        run(command, "evaluate", "tiny", "--goals", "2", "--json", "evaluation.json", folder=tmp_path)
        run(command, "run", "policy.onnx", "--random", "2", "--pace", "fast", "--json", "run.json", folder=tmp_path)
        assert len(json.loads((tmp_path / "run.json").read_text())["goals"]) == 2
        assert {path.name for path in tmp_path.iterdir()} == {"tiny", "policy.onnx", "evaluation.json", "run.json"}
