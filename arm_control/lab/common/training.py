"""Training of the project's own agents within an experiment."""

import tempfile
from pathlib import Path
from typing import Any

from arm_control.evaluation.opening import evaluate
from arm_control.runs.config import TrainConfig
from arm_control.runs.run_folder import RunFolder
from arm_control.training.loop import train


def train_and_evaluate(config: TrainConfig, goals: int) -> dict[str, Any]:
    """Train an agent in a temporary folder, and evaluate it on held-out goals.

    Returns its `error_mm` (mean over the goals, at the last step), its `median_mm`, and its `curve`: rows of logged
    metrics (docs/policy-gradient.md lists them), of which each has `step`, `elapsed_s` and `mean_error_mm`.
    """
    with tempfile.TemporaryDirectory(prefix="arm-control-lab-") as folder:
        path = train(config, Path(folder) / "run", quiet=True)
        figures = evaluate(path, goals=goals)
        curve = RunFolder(path).read_metrics()
    return {"error_mm": figures["mean_error_mm"], "median_mm": figures["median_error_mm"], "curve": curve}
