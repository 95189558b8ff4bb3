"""Which room may look into which, and what the light ones do not load."""

import subprocess
import sys
import sysconfig
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from locations import ROOT

HEAVY = ("torch", "pybullet", "onnx", "onnxscript", "matplotlib", "tensorboard", "safetensors", "PIL", "viser")


def test_the_import_contracts_hold() -> None:
    command = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 5 kept, 0 broken" in done.stdout


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
def test_light_imports_load_none_of_the_heavy_packages(statement: str) -> None:
    code = f"import sys\n{statement}\nloaded = set({HEAVY}) & set(sys.modules)\nassert not loaded, loaded\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_learning_loads_no_simulation_and_the_world_no_learning() -> None:
    for statement, absent in (
        ("import policies.ddpg.agent", ("pybullet", "gymnasium", "envs", "arm_control")),
        ("import envs.arm_env", ("torch", "policies", "arm_control")),
    ):
        code = f"import sys\n{statement}\nloaded = set({absent}) & set(sys.modules)\nassert not loaded, loaded\n"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "before",
    [
        "",
        "from arm_control import train, evaluate, export, resume",
        "import arm_control.exporter.exporter, arm_control.training.loop",
    ],
)
def test_the_packages_names_are_functions_and_classes_whatever_was_imported_before(before: str) -> None:
    code = (
        f"{before}\n"
        "import arm_control\n"
        "assert {*arm_control.__all__} == {'PolicyRunner', 'TrainConfig', 'evaluate', 'export', 'resume', 'train'}\n"
        "for name in arm_control.__all__ * 2:\n"
        "    assert callable(getattr(arm_control, name)), name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_name_that_the_package_has_not_is_an_attribute_error() -> None:
    import arm_control

    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        arm_control.trian  # noqa: B018


def test_no_module_imports_itself_through_others() -> None:
    """The graph of all imports, also of those inside functions, has no cycle."""
    graph = grimp.build_graph("arm_control", "envs", "policies", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError
