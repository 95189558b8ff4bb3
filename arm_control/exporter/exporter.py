"""Export: a run's policy and the arm's kinematics as one ONNX file with its contract, verified before it is kept."""

import logging
import math
import platform
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from arm_control.exporter.fusion import fuse
from arm_control.policy_file.contract import (
    GOAL,
    GOAL_VELOCITY,
    INPUTS,
    MEMORY,
    METADATA_KEY,
    NEXT_MEMORY,
    PREVIOUS_TARGET_SPEED,
    READINGS,
    SCHEMA_VERSION,
    Contract,
    GoldenSamples,
    JointContract,
    TensorContract,
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
from envs.tasks import Control, observe, observe_one, target_of
from policies.common.actors import SoftmaxPolicy
from policies.dqn.agent import GreedyPolicy

FloatArray = NDArray[np.float32]
Inputs = dict[str, FloatArray]

SEARCHING = (GreedyPolicy, SoftmaxPolicy)  # policies that choose the best of several actions

TOLERANCE_DEG = 1e-3
TOLERANCE_MEMORY = 1e-4
TOLERANCE_Q = 1e-5  # of the largest Q, or of 1 where that is smaller
RANDOM_STATES = 10_000
SEARCHED_STATES = 1_000  # for a policy that looks through many actions, which takes milliseconds each time
GOLDEN_SAMPLES = 16
AT_ONCE = 64  # rows: 200 MB of Q-values over the whole degree grid


class ExportError(ValueError):
    """The exported graph does not do what the policy does."""


class ExportedPolicy(nn.Module):
    """The graph: raw readings and goal -> observation -> policy -> target angles, all in degrees and metres."""

    lower: Tensor
    upper: Tensor

    def __init__(self, arm: Arm, policy: nn.Module, control: Control) -> None:
        super().__init__()
        self._arm, self._control = arm, control
        self.policy = policy
        if isinstance(policy, GreedyPolicy):
            policy.head.freeze()
        self.register_buffer("lower", torch.tensor(arm.limits.lower_deg))
        self.register_buffer("upper", torch.tensor(arm.limits.upper_deg))

    def fused(self) -> nn.Module:
        """What is traced: the same with fewer operations, where that is possible."""
        return (fuse(self._arm, self.policy) if self._control == "absolute" else None) or self

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

        Of a policy with a memory, also the memory from now on.
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


def export(run: str | Path, output: str | Path | None = None) -> Path:
    """Write a run's best validated policy to `output` (default: `policy.onnx` in the run folder)."""
    return write_policy(load_policy(run), run, output)


def write_policy(loaded: LoadedPolicy, run: str | Path, output: str | Path | None = None) -> Path:
    """Write a policy of a run to `output` (default: `policy.onnx` in the run folder).

    Raises ExportError, keeping nothing, unless onnxruntime agrees with PyTorch and with the environment's own
    observation to 0.001 degrees on 10,000 random states and on the corners of the state space. Of a policy that
    searches a grid, where rounding may tip the balance between two equals, the Q-value of what onnxruntime chooses must
    be within 1e-5 of the largest, on 1,000 of those states.
    """
    folder = RunFolder(run)
    config = loaded.config
    policy = loaded.policy
    target = folder.policy if output is None else Path(output)
    if output is None:
        check_no_link(target)
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {target}: there is no folder {target.parent}")
    env = environment_maker(config)()
    try:
        arm: Arm = env.unwrapped.arm  # type: ignore[attr-defined]
        control_rate_hz = 1.0 / env.unwrapped.simulation.control_period_s  # type: ignore[attr-defined]
        moving: bool = env.unwrapped.task.moving  # type: ignore[attr-defined]
        episode_steps: int = env.unwrapped.episode_steps  # type: ignore[attr-defined]
    finally:
        env.close()

    policy.eval()
    generator = np.random.default_rng(0)
    states = random_states(arm, RANDOM_STATES, generator, moving=moving)
    if (memory := getattr(policy, "memory", None)) is not None:  # what an LSTM remembers is from -1 to 1, mostly
        states[MEMORY] = generator.uniform(-1.0, 1.0, (len(states["goal_m"]), memory.size)).astype(np.float32)
    if isinstance(policy, SEARCHING):
        states = chosen(states, generator.permutation(len(states["goal_m"]))[:SEARCHED_STATES])
        with torch.no_grad():
            margins = policy.margin(*environment_observation(arm, states)).numpy()
        states = chosen(states, np.argsort(-margins, kind="stable"))  # golden samples are those that nothing tips
    wanted, remembered = environment_path(arm, policy, config.control, states)
    contract = make_contract(config, arm, control_rate_hz, golden_samples(states, wanted, remembered), episode_steps)
    module = ExportedPolicy(arm, policy, config.control)
    model = trace(module, contract)

    with written_whole(target) as aside:
        onnx.save_model(model, aside)
        try:
            runner = PolicyRunner.load(aside)
        except PolicyFileError as error:
            raise ExportError(f"export failed, nothing kept: {error}") from None
        verify(runner, module, arm, states, wanted)
    return target


def random_states(arm: Arm, count: int, generator: np.random.Generator, *, moving: bool = False) -> Inputs:
    """`count` random states, then corners of their ranges, as the graph's inputs.

    The first 12 columns, of three joints all readings, have every combination of corners; the others have random ones.
    """
    limits, joints = arm.limits, arm.joint_count
    low, high, speed = (np.array(v) for v in (limits.lower_deg, limits.upper_deg, limits.max_speed_deg_s))
    goal = np.full(6 if moving else 3, arm.reach_m)  # of a moving one, the velocity up to the reach in a second
    lower, upper = np.concatenate([low, -speed, low, -speed, -goal]), np.concatenate([high, speed, high, speed, goal])
    # Half of the goals are reachable ones, half anywhere that the arm's length allows.
    random = generator.uniform(lower, upper, (count, len(lower)))
    tips = arm.forward_kinematics(generator.uniform(low, high, (count // 2, joints)))
    random[: count // 2, 4 * joints : 4 * joints + 3] = tips
    corners = (
        np.array(np.meshgrid(*([0.0, 1.0] for _ in range(min(len(lower), 12))))).reshape(min(len(lower), 12), -1).T
    )
    corners = np.concatenate([corners, generator.integers(0, 2, (len(corners), len(lower) - corners.shape[1]))], axis=1)
    rows = np.concatenate([random, lower + corners * (upper - lower)]).astype(np.float32)
    ends = [joints, 2 * joints, 3 * joints, 4 * joints, *([4 * joints + 3] if moving else [])]
    names = (*INPUTS, GOAL_VELOCITY) if moving else INPUTS
    return dict(zip(names, map(np.ascontiguousarray, np.split(rows, ends, axis=1)), strict=True))


def chosen(inputs: Inputs, rows: NDArray[np.int64]) -> Inputs:
    """These rows of the graph's inputs."""
    return {name: np.ascontiguousarray(values[rows]) for name, values in inputs.items()}


def environment_observation(arm: Arm, inputs: Inputs) -> tuple[Tensor, ...]:
    """What a policy sees in training: observation, tip and goal as the environment works them out, in float64.

    And its memory, of a policy that has one.
    """
    rows = zip(*(inputs[name].astype(np.float64).tolist() for name in READINGS), strict=True)
    goal = np.concatenate([inputs[name] for name in (GOAL, GOAL_VELOCITY) if name in inputs], axis=1)
    seen = [observe_one(arm, *readings, moving=goal.shape[1] > 3) for readings in rows]
    columns = (np.array([row[0] for row in seen]), np.array([row[1] for row in seen]), goal)
    seen_by_policy = (*columns, *([inputs[MEMORY]] if MEMORY in inputs else []))
    return tuple(torch.from_numpy(column.astype(np.float32)) for column in seen_by_policy)


@torch.no_grad()
def environment_path(
    arm: Arm, policy: nn.Module, control: Control, inputs: Inputs
) -> tuple[FloatArray, FloatArray | None]:
    """Targets by the way that training takes: the environment's float64 observation, then the PyTorch policy.

    And the memory from now on, of a policy that has one.
    """
    action, remembered = policy(*environment_observation(arm, inputs)), None
    if MEMORY in inputs:
        action, remembered = action
    targets: FloatArray = target_of(action.numpy(), control, inputs["joint_angle_deg"], inputs["previous_target_deg"])
    if control != "absolute":
        targets = np.clip(targets, arm.limits.lower_deg, arm.limits.upper_deg).astype(np.float32)
    return targets, None if remembered is None else remembered.numpy()


def golden_samples(inputs: Inputs, target_deg: FloatArray, next_memory: FloatArray | None) -> GoldenSamples:
    """The first of these."""
    return GoldenSamples(
        inputs={name: values[:GOLDEN_SAMPLES].tolist() for name, values in inputs.items()},
        target_deg=target_deg[:GOLDEN_SAMPLES].tolist(),
        next_memory=None if next_memory is None else next_memory[:GOLDEN_SAMPLES].tolist(),
        tolerance_deg=TOLERANCE_DEG,
    )


def make_contract(
    config: TrainConfig, arm: Arm, control_rate_hz: float, golden: GoldenSamples, episode_steps: int | None = None
) -> Contract:
    """What the exported policy promises."""
    limits, joints = arm.limits, arm.joint_count
    columns = (limits.lower_deg, limits.upper_deg, limits.max_speed_deg_s, limits.max_acceleration_deg_s2)
    return Contract(
        schema_version=SCHEMA_VERSION,
        arm=arm.name,
        joints=[JointContract(name, *row) for name, *row in zip(arm.joint_names, *columns, strict=True)],
        arm_urdf=arm.urdf_text,
        control_rate_hz=control_rate_hz,
        environment=config.env,
        goal_tolerance_m=config.goal_tolerance_m,
        path=config.path,
        speed_m_s=config.speed_m_s,
        imperfections=open_imperfections(config.imperfections).to_json(),
        inputs=[
            TensorContract("joint_angle_deg", joints, "degrees", "measured joint angles"),
            TensorContract("joint_speed_deg_s", joints, "degrees/s", "measured joint speeds"),
            TensorContract("previous_target_deg", joints, "degrees", "the limited target sent last"),
            TensorContract(PREVIOUS_TARGET_SPEED, joints, "degrees/s", "the speed of the limited target sent last"),
            TensorContract("goal_m", 3, "metres", "where the tip is to go, in the base's frame"),
            *(
                [TensorContract(GOAL_VELOCITY, 3, "m/s", "how the goal moves")]
                if GOAL_VELOCITY in golden.inputs
                else []
            ),
            *([memory_tensor(MEMORY, golden, "zeros at the start of an episode")] if golden.next_memory else []),
        ],
        output=TensorContract("target_deg", joints, "degrees", "target joint angles, not yet limited in speed"),
        next_memory=memory_tensor(NEXT_MEMORY, golden, "the memory from now on") if golden.next_memory else None,
        agent=config.agent,
        config_sha256=config.sha256(),
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("arm-control", "torch", "onnx", "onnxruntime")},
            "pybullet": bullet_version(),
        },
        golden=golden,
        episode_steps=episode_steps,
    )


def memory_tensor(name: str, golden: GoldenSamples, meaning: str) -> TensorContract:
    """A memory, which has no unit."""
    return TensorContract(name, len(golden.inputs[MEMORY][0]), "1", f"what the policy remembers: {meaning}")


def trace(module: ExportedPolicy, contract: Contract) -> Any:
    """The ONNX model with the contract in its metadata and nothing of this machine in it; fused, if it can be."""
    # A batch of 1 would be baked in.
    example = {tensor.name: torch.zeros(2, tensor.size) for tensor in contract.inputs}
    graph = module.fused()
    # The exporter tells of operators of packages that are not there, and of its own deprecations.
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
    for node in model.graph.node:  # stack traces with this machine's paths
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, contract.to_json()
    onnx.checker.check_model(model, full_check=True)
    return model


@torch.no_grad()
def verify(runner: PolicyRunner, module: ExportedPolicy, arm: Arm, states: Inputs, wanted: FloatArray) -> None:
    """Raise ExportError unless the file gives what PyTorch and the environment's own path give."""
    parts = [runner.recall(chosen(states, rows)) for rows in slices(len(wanted))]
    got = np.concatenate([part[0] for part in parts])
    traced = None if isinstance(module.policy, GreedyPolicy) else traced_outputs(module, states)
    if traced is not None and len(traced) > 1:
        memory = np.concatenate([part[1] for part in parts if part[1] is not None])
        difference = np.abs(memory - traced[1]).max(axis=1)
        check_rows(difference, TOLERANCE_MEMORY, "onnxruntime and PyTorch remember what differs by {:.3g}", states)
    if isinstance(module.policy, SEARCHING):
        shortfall, largest = module.policy.shortfall(torch.from_numpy(got), *environment_observation(arm, states))
        check_rows((shortfall / largest.abs().clamp(min=1.0)).numpy(), TOLERANCE_Q, CHOSEN_WORSE, states)
    else:
        assert traced is not None
        for name, other in (("PyTorch", traced[0]), ("the environment's observation and PyTorch", wanted)):
            difference = np.abs(got - other).max(axis=1)
            check_rows(difference, TOLERANCE_DEG, f"onnxruntime and {name} differ by {{:.3g}} degrees", states)
    limits = arm.limits
    if (got < np.array(limits.lower_deg) - 1e-4).any() or (got > np.array(limits.upper_deg) + 1e-4).any():
        raise ExportError("export failed, nothing kept: a target lies outside the joint limits")


def traced_outputs(module: ExportedPolicy, states: Inputs) -> list[FloatArray]:
    """What the module that is traced gives by itself: targets and, of a policy that has one, the memory."""
    outputs = module(**{name: torch.from_numpy(values) for name, values in states.items()})
    return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def agreement(config: TrainConfig) -> str:
    """What `export` has made sure of, for people."""
    if config.settings.actions == "degrees":
        return f"onnxruntime and PyTorch agree to {TOLERANCE_DEG:g} degrees"
    return f"onnxruntime's choice is worth PyTorch's best to {TOLERANCE_Q:g}"


CHOSEN_WORSE = "the action that onnxruntime chooses is worse than the best one, by {:.3g} of that one's value"


def check_rows(difference: FloatArray, allowed: float, what: str, states: Inputs) -> None:
    """Raise ExportError, with the worst of the states, if one's difference is larger than allowed, or NaN."""
    worst = float(difference.max()) if np.isfinite(difference).all() else float("nan")
    if not worst <= allowed:
        place = int(np.argmax(np.where(np.isfinite(difference), difference, np.inf)))
        row = {key: values[place].tolist() for key, values in states.items()}
        raise ExportError(f"export failed, nothing kept: {what.format(worst)} (allowed {allowed:g}) at {row}")


def slices(rows: int) -> list[NDArray[np.int64]]:
    """Row numbers, AT_ONCE of them at a time."""
    return np.array_split(np.arange(rows), math.ceil(rows / AT_ONCE))
