"""Train a controller for a small robot arm, export it to ONNX, and run it without PyTorch.

    from arm_control import PolicyRunner, TrainConfig, evaluate, export, train

Names are loaded when first used, so that the runner needs neither PyTorch nor PyBullet.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from arm_control.process.own_packages import check_own_packages

if TYPE_CHECKING:
    from arm_control.evaluation.opening import evaluate
    from arm_control.exporter.exporter import export
    from arm_control.runner import PolicyRunner
    from arm_control.runs.config import TrainConfig
    from arm_control.training.loop import resume, train

_HOMES = {
    "PolicyRunner": "arm_control.runner",
    "TrainConfig": "arm_control.runs.config",
    "evaluate": "arm_control.evaluation.opening",
    "export": "arm_control.exporter.exporter",
    "resume": "arm_control.training.loop",
    "train": "arm_control.training.loop",
}

__all__ = ["PolicyRunner", "TrainConfig", "evaluate", "export", "resume", "train"]

check_own_packages()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'arm_control' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
