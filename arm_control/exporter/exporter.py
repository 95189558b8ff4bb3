"""Export: a run's policy and the arm's kinematics as one ONNX file with its contract, verified before it is kept."""

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from arm_control.exporter.agreement import TOLERANCE_DEG, ExportError, verify
from arm_control.exporter.graph import ExportedPolicy, trace
from arm_control.exporter.states import (
    FloatArray,
    Inputs,
    chosen,
    environment_observation,
    environment_path,
    random_states,
)
from arm_control.policy_file.contract import (
    GOAL,
    GOAL_VELOCITY,
    MEMORY,
    NEXT_MEMORY,
    PREVIOUS_TARGET_SPEED,
    SCHEMA_VERSION,
    TARGET,
    Contract,
    GoldenSamples,
    JointContract,
    TensorContract,
    task_option_fields,
)
from arm_control.runner.policy_runner import PolicyFileError, PolicyRunner
from arm_control.runs.agent import LoadedPolicy, load_policy
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.runs.files import check_no_link, written_whole
from arm_control.runs.run_folder import RunFolder
from envs.arm import Arm
from envs.bullet import bullet_version
from envs.imperfections import open_imperfections
from policies.agent import GridPolicy

RANDOM_STATES = 10_000
SEARCHED_STATES = 1_000  # for a policy that searches a grid of actions, which takes milliseconds per state
GOLDEN_SAMPLES = 16


def export(run: str | Path, output: str | Path | None = None) -> Path:
    """Write a run's best validated policy to `output` (default: `policy.onnx` in the run folder)."""
    return write_policy(load_policy(run), run, output)


def write_policy(loaded: LoadedPolicy, run: str | Path, output: str | Path | None = None) -> Path:
    """Write a policy of a run to `output` (default: `policy.onnx` in the run folder).

    Raises ExportError, keeping nothing, unless onnxruntime agrees with PyTorch and with the environment's own
    observation to 0.001 degrees on 10,000 random states and on the corners of the state space. For a policy that
    searches a grid, where rounding may decide between two equal actions, the Q-value of the action that onnxruntime
    chooses must be within 1e-5 of the largest, on 1,000 of those states.
    """
    target = output_path(run, output)
    config = loaded.config
    policy = loaded.policy.eval()
    facts = environment_facts(config)
    states = compared_states(facts, policy)
    targets, memory = environment_path(facts.arm, policy, config.control, states)
    contract = make_contract(config, facts, golden_samples(states, targets, memory))
    module = ExportedPolicy(facts.arm, policy, config.control)
    model = trace(module, contract)

    # The file is kept only if it loads, reproduces its golden samples, and agrees on all states.
    with written_whole(target) as aside:
        onnx.save_model(model, aside)
        try:
            runner = PolicyRunner.load(aside)
        except PolicyFileError as error:
            raise ExportError(f"export failed, nothing kept: {error}") from None
        verify(runner, module, facts.arm, states, targets)
    return target


def output_path(run: str | Path, output: str | Path | None) -> Path:
    """The file to write. Raises ValueError if its folder does not exist, or for a link in a run's folder."""
    if output is None:
        path = RunFolder(run).policy
        check_no_link(path)
    else:
        path = Path(output)
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    return path


@dataclass(frozen=True)
class EnvironmentFacts:
    """The properties of the training environment that a contract contains."""

    arm: Arm
    control_rate_hz: float
    moving: bool = False
    episode_steps: int | None = None


def environment_facts(config: TrainConfig) -> EnvironmentFacts:
    """The facts of a run's environment."""
    env: Any = environment_maker(config)().unwrapped
    try:
        return EnvironmentFacts(env.arm, 1.0 / env.simulation.control_period_s, env.task.moving, env.episode_steps)
    finally:
        env.close()


def compared_states(facts: EnvironmentFacts, policy: nn.Module) -> Inputs:
    """The states on which the file is compared with PyTorch; the first ones become golden samples."""
    generator = np.random.default_rng(0)
    states = random_states(facts.arm, RANDOM_STATES, generator, moving=facts.moving)
    count = len(states[GOAL])
    recurrent = getattr(policy, "memory", None)
    if recurrent is not None:
        # The state of an LSTM is mostly between -1 and 1.
        states[MEMORY] = generator.uniform(-1.0, 1.0, (count, recurrent.size)).astype(np.float32)
    if isinstance(policy, GridPolicy):
        states = chosen(states, generator.permutation(count)[:SEARCHED_STATES])
        # Golden samples are the states with the largest margin of the best action, which rounding does not change.
        with torch.no_grad():
            margins = policy.action_gap(*environment_observation(facts.arm, states)).numpy()
        states = chosen(states, np.argsort(-margins, kind="stable"))
    return states


def golden_samples(inputs: Inputs, target_deg: FloatArray, next_memory: FloatArray | None) -> GoldenSamples:
    """The first states, with the outputs of the policy."""
    return GoldenSamples(
        inputs={name: values[:GOLDEN_SAMPLES].tolist() for name, values in inputs.items()},
        target_deg=target_deg[:GOLDEN_SAMPLES].tolist(),
        next_memory=None if next_memory is None else next_memory[:GOLDEN_SAMPLES].tolist(),
        tolerance_deg=TOLERANCE_DEG,
    )


def make_contract(config: TrainConfig, facts: EnvironmentFacts, golden: GoldenSamples) -> Contract:
    """The contract of the exported policy."""
    # The tensors of the graph, by the kind of policy.
    arm = facts.arm
    joints = arm.joint_count
    inputs = [
        TensorContract("joint_angle_deg", joints, "degrees", "measured joint angles"),
        TensorContract("joint_speed_deg_s", joints, "degrees/s", "measured joint speeds"),
        TensorContract("previous_target_deg", joints, "degrees", "last target sent, after the limiter"),
        TensorContract(PREVIOUS_TARGET_SPEED, joints, "degrees/s", "speed of the limiter at that target"),
        TensorContract(GOAL, 3, "metres", "goal of the tip, in the base frame"),
    ]
    if GOAL_VELOCITY in golden.inputs:
        inputs.append(TensorContract(GOAL_VELOCITY, 3, "m/s", "velocity of the goal"))
    next_memory = None
    if golden.next_memory:
        inputs.append(memory_tensor(MEMORY, golden, "zeros at the start of an episode"))
        next_memory = memory_tensor(NEXT_MEMORY, golden, "input of the next step")
    return Contract(
        schema_version=SCHEMA_VERSION,
        arm=arm.name,
        joints=joint_contracts(arm),
        arm_urdf=arm.urdf_text,
        control_rate_hz=facts.control_rate_hz,
        environment=config.env,
        goal_tolerance_m=config.goal_tolerance_m,
        **task_option_fields(config.task_options),
        imperfections=open_imperfections(config.imperfections).to_json(),
        inputs=inputs,
        output=TensorContract(TARGET, joints, "degrees", "target joint angles, not yet limited in speed"),
        next_memory=next_memory,
        agent=config.agent,
        config_sha256=config.sha256(),
        versions=package_versions(),
        golden=golden,
        episode_steps=facts.episode_steps,
    )


def joint_contracts(arm: Arm) -> list[JointContract]:
    """Name and limits of each joint."""
    joints = []
    for name, limits in zip(arm.joint_names, arm.limits.by_joint, strict=True):
        joints.append(JointContract(name, *limits))
    return joints


def package_versions() -> dict[str, str]:
    """The versions of the packages that the policy was trained and exported with."""
    versions = {"python": platform.python_version()}
    for name in ("arm-control", "torch", "onnx", "onnxruntime"):
        versions[name] = version(name)
    versions["pybullet"] = bullet_version()
    return versions


def memory_tensor(name: str, golden: GoldenSamples, meaning: str) -> TensorContract:
    """The recurrent state, which has no unit."""
    return TensorContract(name, len(golden.inputs[MEMORY][0]), "1", f"recurrent state: {meaning}")
