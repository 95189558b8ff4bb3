"""The graph of an exported policy: from raw readings and a goal to target angles, traced by PyTorch."""

import logging
import warnings
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from arm_control.exporter.fusion import fuse
from arm_control.policy_file.contract import (
    METADATA_KEY,
    Contract,
)
from envs.arm import Arm
from envs.control import Control, target_of
from envs.observation import observe
from policies.agent import GridPolicy


class ExportedPolicy(nn.Module):
    """The graph: raw readings and goal -> observation -> policy -> target angles, all in degrees and metres."""

    lower: Tensor
    upper: Tensor

    def __init__(self, arm: Arm, policy: nn.Module, control: Control) -> None:
        super().__init__()
        self._arm = arm
        self._control = control
        self.policy = policy
        if isinstance(policy, GridPolicy):
            policy.prepare_export()
        self.register_buffer("lower", torch.tensor(arm.limits.lower_deg))
        self.register_buffer("upper", torch.tensor(arm.limits.upper_deg))

    def fused(self) -> nn.Module:
        """The module that is traced: the fused policy, or this one if it cannot be fused."""
        if self._control != "absolute":
            return self
        return fuse(self._arm, self.policy) or self

    def forward(
        self,
        joint_angle_deg: Tensor,
        joint_speed_deg_s: Tensor,
        previous_target_deg: Tensor,
        previous_target_speed_deg_s: Tensor,
        goal_m: Tensor,
        goal_velocity_m_s: Tensor | None = None,
        memory: Tensor | None = None,
    ) -> Any:
        """Targets (batch, joints) in degrees, from readings (batch, joints) and a goal (batch, 3) in metres and m/s.

        For a recurrent policy, also the next recurrent state.
        """
        readings = (joint_angle_deg, joint_speed_deg_s, previous_target_deg, previous_target_speed_deg_s)
        goal = goal_m if goal_velocity_m_s is None else torch.cat((goal_m, goal_velocity_m_s), -1)
        observation, tip = observe(self._arm, *readings, torch, moving=goal_velocity_m_s is not None)
        if memory is None:
            action: Tensor = self.policy(observation, tip, goal)
        else:
            action, memory = self.policy(observation, tip, goal, memory)
        target: Tensor = target_of(action, self._control, joint_angle_deg, previous_target_deg)
        if self._control != "absolute":
            target = torch.clamp(target, self.lower, self.upper)
        return target if memory is None else (target, memory)


def trace(module: ExportedPolicy, contract: Contract) -> Any:
    """The ONNX model, with the contract in its metadata and without data of this machine; fused if possible."""
    # Trace with a batch of 2, because the exporter would treat a batch of 1 as constant.
    example = {tensor.name: torch.zeros(2, tensor.size) for tensor in contract.inputs}
    graph = module.fused()
    # Silence the warnings about optional packages and about deprecations within PyTorch.
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.eval(),
                kwargs=example,
                dynamo=True,
                verbose=False,
                input_names=list(example),
                output_names=[tensor.name for tensor in contract.outputs],
                dynamic_shapes={name: {0: "batch"} for name in example},
            )
    finally:
        registry.setLevel(level)
    assert program is not None
    model = program.model_proto
    # Remove stack traces, which contain paths of this machine, and add the contract.
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key = METADATA_KEY
    entry.value = contract.to_json()
    onnx.checker.check_model(model, full_check=True)
    return model
