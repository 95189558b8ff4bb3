"""Agreement of an exported policy with PyTorch and with the environment's observation."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from arm_control.exporter.graph import ExportedPolicy
from arm_control.exporter.states import FloatArray, Inputs, chosen, environment_observation
from arm_control.policy_file.contract import MEMORY
from arm_control.runner.policy_runner import PolicyRunner
from arm_control.runs.config import TrainConfig
from envs.arm import Arm
from policies.agent import GridPolicy

TOLERANCE_DEG = 1e-3
LIMIT_TOLERANCE_DEG = 1e-4
TOLERANCE_MEMORY = 1e-4
TOLERANCE_Q = 1e-5  # as a fraction of the largest |Q|, or of 1 where that is smaller
AT_ONCE = 64  # rows of a batch: 200 MB of Q-values over the whole degree grid


class ExportError(ValueError):
    """The exported graph does not reproduce the policy."""


@torch.no_grad()
def verify(runner: PolicyRunner, module: ExportedPolicy, arm: Arm, states: Inputs, targets: FloatArray) -> None:
    """Raise ExportError unless the outputs of the file agree with PyTorch, on the environment's own observations too.

    `targets` (states, joints) are those of the policy on the environment's own observations, in degrees.
    """
    # Run the file in batches.
    parts = [runner.infer_recurrent(chosen(states, rows)) for rows in slices(len(targets))]
    exported = np.concatenate([part[0] for part in parts])
    searching = isinstance(module.policy, GridPolicy)
    recurrent = MEMORY in states
    # A search over the whole grid is compared by its Q-values only: running it in PyTorch would take minutes.
    traced = traced_outputs(module, states) if recurrent or not searching else []
    # The recurrent state.
    if recurrent:
        memory = np.concatenate([part[1] for part in parts if part[1] is not None])
        difference = np.abs(memory - traced[1]).max(axis=1)
        what = "the recurrent states of onnxruntime and PyTorch differ by {:.3g}"
        check_rows(difference, TOLERANCE_MEMORY, what, states)
    # The targets: by their Q-values if they are searched, otherwise by their angles.
    if isinstance(module.policy, GridPolicy):
        seen = environment_observation(arm, states)
        shortfall, largest = module.policy.suboptimality(torch.from_numpy(exported), *seen)
        check_rows((shortfall / largest.abs().clamp(min=1.0)).numpy(), TOLERANCE_Q, CHOSEN_WORSE, states)
    else:
        for name, other in (("PyTorch", traced[0]), ("the environment's observation and PyTorch", targets)):
            difference = np.abs(exported - other).max(axis=1)
            check_rows(difference, TOLERANCE_DEG, f"onnxruntime and {name} differ by {{:.3g}} degrees", states)
    # The joint limits.
    below = exported < np.array(arm.limits.lower_deg) - LIMIT_TOLERANCE_DEG
    above = exported > np.array(arm.limits.upper_deg) + LIMIT_TOLERANCE_DEG
    if below.any() or above.any():
        raise ExportError("export failed, nothing kept: a target lies outside the joint limits")


def traced_outputs(module: ExportedPolicy, states: Inputs) -> list[FloatArray]:
    """The outputs of the PyTorch module: targets and, of a recurrent policy, the next recurrent states."""
    outputs = module(**{name: torch.from_numpy(values) for name, values in states.items()})
    if not isinstance(outputs, tuple):
        return [outputs.numpy()]
    return [output.numpy() for output in outputs]


def agreement(config: TrainConfig) -> str:
    """The agreement that `export` has verified, as text."""
    if config.settings.actions == "degrees":
        return f"onnxruntime and PyTorch agree to {TOLERANCE_DEG:g} degrees"
    return f"the actions of onnxruntime have PyTorch's largest Q-value to {TOLERANCE_Q:g}"


CHOSEN_WORSE = "the Q-value of the action chosen by onnxruntime is below the largest by a fraction of {:.3g}"


def check_rows(difference: FloatArray, allowed: float, what: str, states: Inputs) -> None:
    """Raise ExportError, with the worst state, if a difference is larger than allowed, or NaN."""
    worst = float(difference.max()) if np.isfinite(difference).all() else float("nan")
    if not worst <= allowed:
        place = int(np.argmax(np.where(np.isfinite(difference), difference, np.inf)))
        row = {key: values[place].tolist() for key, values in states.items()}
        raise ExportError(f"export failed, nothing kept: {what.format(worst)} (allowed {allowed:g}) at {row}")


def slices(rows: int) -> list[NDArray[np.int64]]:
    """Row numbers in batches of at most AT_ONCE."""
    return np.array_split(np.arange(rows), math.ceil(rows / AT_ONCE))
