"""Import contracts between the packages, and modules that load no heavy ones."""

import subprocess
import sys
import sysconfig
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from locations import ROOT

HEAVY = ("torch", "pybullet", "onnx", "onnxscript", "matplotlib", "tensorboard", "safetensors", "PIL", "viser")
NAMES = {"PolicyRunner", "TrainConfig", "evaluate", "export", "resume", "train"}


def run(code: str) -> None:
    """Run a program in another process, where nothing is imported yet."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def assert_not_loaded(statement: str, absent: tuple[str, ...]) -> None:
    """Assert that an import statement loads none of these packages."""
    run(f"import sys\n{statement}\nloaded = set({absent}) & set(sys.modules)\nassert not loaded, loaded\n")


class TestLightImports:
    """Modules that must not load heavy packages."""

    @pytest.mark.parametrize(
        "statement",
        [
            "import arm_control",
            "import envs",
            "import policies",
            "import policies.common.settings",
            "import envs.arm, envs.limits, envs.tasks",
            "import arm_control.policy_file.contract, arm_control.runs.config, arm_control.cli",
            "import arm_control.runner, arm_control.runner.loop, arm_control.drivers, arm_control.runner.description",
            "import arm_control.runner.session, arm_control.evaluation.metrics",
            "import arm_control.commands.replay, arm_control.recording.index, arm_control.viewers.common.trajectory",
            "from arm_control import PolicyRunner, TrainConfig",
        ],
    )
    def test_light_imports_load_none_of_the_heavy_packages(self, statement: str) -> None:
        """Settings, contracts, runner and commands load none of torch, pybullet, onnx and other heavy packages."""
        assert_not_loaded(statement, HEAVY)

    @pytest.mark.slow
    def test_agents_load_no_simulation_and_environments_no_torch(self) -> None:
        """Agents load neither pybullet nor gymnasium, and environments neither torch nor policies."""
        for statement, absent in (
            ("import policies.ddpg.agent", ("pybullet", "gymnasium", "envs", "arm_control")),
            ("import envs.arm_env", ("torch", "policies", "arm_control")),
        ):
            assert_not_loaded(statement, absent)


class TestPackageNames:
    """The names that the package arm_control exports."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "before",
        [
            "",
            "from arm_control import train, evaluate, export, resume",
            "import arm_control.exporter.exporter, arm_control.training.loop",
        ],
    )
    def test_names_are_callables_whatever_was_imported_before(self, before: str) -> None:
        """Importing a module of the same name first does not replace a function such as `arm_control.train`."""
        code = (
            f"{before}\n"
            "import arm_control\n"
            f"assert {{*arm_control.__all__}} == {NAMES}\n"
            "for name in arm_control.__all__ * 2:\n"
            "    assert callable(getattr(arm_control, name)), name\n"
        )
        run(code)

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        """An unknown name raises AttributeError, as for any module."""
        import arm_control

        with pytest.raises(AttributeError, match="no attribute 'trian'"):
            arm_control.trian  # noqa: B018


class TestContracts:
    """The layers of the project."""

    def test_the_import_contracts_hold(self) -> None:
        """import-linter keeps all five contracts."""
        command = Path(sysconfig.get_path("scripts")) / "lint-imports"
        done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Contracts: 5 kept, 0 broken" in done.stdout

    def test_imports_have_no_cycle(self) -> None:
        """The graph of all imports, also of those inside functions, has no cycle."""
        graph = grimp.build_graph("arm_control", "envs", "policies", cache_dir=None)
        imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
        TopologicalSorter(imports).prepare()  # raises CycleError
