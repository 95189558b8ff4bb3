"""Training of the project's own agents within an experiment."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arm_control.evaluation.opening import evaluate
from arm_control.runs.agent import LoadedPolicy, load_policy
from arm_control.runs.config import TrainConfig
from arm_control.runs.run_folder import RunFolder
from arm_control.training.loop import train


def train_and_evaluate(
    config: TrainConfig, goals: int, look: Callable[[LoadedPolicy], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Train an agent in a temporary folder, and evaluate it on held-out goals.

    Returns its `error_mm` (mean over the goals, at the last step), its `median_mm`, and its `curve`: rows of logged
    metrics (docs/policy-gradient.md lists them), of which each has `step`, `elapsed_s` and `mean_error_mm`; and what
    `look`, if it is given, returns for the trained policy.
    """
    with tempfile.TemporaryDirectory(prefix="arm-control-lab-") as folder:
        path = train(config, Path(folder) / "run", quiet=True)
        figures = evaluate(path, goals=goals)
        curve = RunFolder(path).read_metrics()
        seen = look(load_policy(path)) if look is not None else {}
    return {"error_mm": figures["mean_error_mm"], "median_mm": figures["median_error_mm"], "curve": curve, **seen}
