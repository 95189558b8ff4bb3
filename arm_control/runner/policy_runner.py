"""PolicyRunner: an exported policy, verified when it is loaded, for use in any control loop."""

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray

from arm_control.policy_file.contract import GOAL, GOAL_VELOCITY, MEMORY, METADATA_KEY, READINGS, Contract
from arm_control.policy_file.onnx_file import read_model
from arm_control.process.printing import counted, printable
from arm_control.runner.start import start_target
from envs.arm import Arm
from envs.limits import JointLimits, limit_target
from envs.tasks.base import check_goal
from envs.urdf import LIMIT_ROUNDING_RAD

FloatArray = NDArray[np.float32]


class PolicyFileError(ValueError):
    """A file that is not a policy of arm-control, or does not match its contract."""


class PolicyRunner:
    """Runs an exported policy with onnxruntime; loads neither PyTorch nor PyBullet.

        runner = PolicyRunner.load("policy.onnx")
        runner.start(angles_deg)                       # the present reading
        while True:                                    # at runner.contract.control_rate_hz
            target_deg = runner.step(angles_deg, speeds_deg_s, goal_m)

    `step` limits every target to the position, speed and acceleration of the contract, whatever the policy commands.
    """

    def __init__(self, session: onnxruntime.InferenceSession, contract: Contract) -> None:
        self._session = session
        self.contract = contract
        self.limits = contract.limits
        self.period_s = 1.0 / contract.control_rate_hz
        # Check that contract, arm and graph match.
        self.arm = Arm("policy.urdf", text=contract.arm_urdf)
        if self.arm.joint_names != contract.joint_names:
            raise ValueError(f"its arm has joints {self.arm.joint_names}, its contract {contract.joint_names}")
        contract.check_tensors()
        _check_shapes(session, contract)
        if not _same_limits(self.arm.limits, self.limits):
            raise ValueError(f"its arm has the limits {self.arm.limits}, its contract {self.limits}")
        self._outputs = [tensor.name for tensor in contract.outputs]
        self._bind()
        # The state of the limiter, for `step`.
        self._joint_count = len(contract.joints)
        self.target_deg: list[float] | None = None
        self._target_speed_deg_s = [0.0] * self._joint_count

    @classmethod
    def load(cls, path: str | Path) -> "PolicyRunner":
        """Read a policy, check its contract, and re-run its golden samples.

        Raises PolicyFileError for a file that is not ONNX, has external data or no contract, whose shapes differ from
        its contract, or that does not reproduce its golden samples.
        """
        try:
            session = open_session(read_model(path))
            text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
            if text is None:
                raise ValueError("it has no contract: it was not written by 'arm-control export'")
            runner = cls(session, Contract.from_json(text))
            runner._check_golden_samples()
        except OSError as error:
            raise PolicyFileError(f"cannot read policy {path}: {error.strerror or error}") from None
        except ValueError as error:
            raise PolicyFileError(f"policy {path} is invalid: {printable(error)}") from None
        return runner

    def start(self, angles_deg: Sequence[float]) -> None:
        """Start at these measured angles, at rest: the first target is there."""
        self._check_length("angles", angles_deg)
        self.target_deg = start_target(angles_deg, self.limits)
        self._target_speed_deg_s = [0.0] * self._joint_count
        self.reset_memory()

    def reset_memory(self) -> None:
        """Reset the state of a recurrent policy, as at the start of each episode of its training."""
        self._memory[:] = 0.0

    def check_goal(self, goal_m: Sequence[float]) -> tuple[float, float, float]:
        """The goal as three floats. Raises ValueError for one that is not finite or that the arm cannot reach."""
        return check_goal(self.arm, goal_m)

    def step(
        self,
        angles_deg: Sequence[float],
        speeds_deg_s: Sequence[float],
        goal_m: Sequence[float],
        goal_velocity_m_s: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> list[float]:
        """The next target in degrees, within the limits, from the readings and the goal in the base frame.

        Raises ValueError for a goal that moves, unless the policy was trained on moving goals.
        """
        self._check_length("angles", angles_deg)
        self._check_length("speeds", speeds_deg_s)
        if self.target_deg is None:
            self.start(angles_deg)
        assert self.target_deg is not None
        # Infer, then limit.
        command_deg = self.decide(
            angles_deg, speeds_deg_s, self.target_deg, self._target_speed_deg_s, goal_m, goal_velocity_m_s
        )
        self.target_deg, self._target_speed_deg_s = limit_target(
            command_deg, self.target_deg, self._target_speed_deg_s, self.limits, self.period_s
        )
        return list(self.target_deg)

    def decide(
        self,
        angles_deg: Sequence[float],
        speeds_deg_s: Sequence[float],
        previous_target_deg: Sequence[float],
        previous_target_speed_deg_s: Sequence[float],
        goal_m: Sequence[float],
        goal_velocity_m_s: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> list[float]:
        """The policy's command in degrees, not limited, for a loop that applies the limits itself.

        `previous_target_deg` and `previous_target_speed_deg_s` are the results of `limit_target` in the step before; a
        policy with a contract before version 4 does not use the speed. The lengths of the arguments are not checked.
        Raises ValueError for a goal that moves, unless the policy was trained on moving goals.
        """
        if self._follows:
            goal_m = (*goal_m, *goal_velocity_m_s)
        elif any(goal_velocity_m_s):
            raise ValueError(f"expected a goal at rest: the policy was trained on {self.contract.environment}")
        # Write the inputs, in the order in which `_bind` has arranged them, run the graph, read the outputs.
        self._write(
            self._readings,
            0,
            *angles_deg,
            *speeds_deg_s,
            *previous_target_deg,
            *previous_target_speed_deg_s,
            *goal_m,
        )
        self._run(self._binding)
        if self._next_memory is not None:
            self._memory[:] = self._next_memory
        command_deg: list[float] = self._command.tolist()
        return command_deg

    def infer(self, inputs: Mapping[str, ArrayLike]) -> FloatArray:
        """The outputs of the graph for a batch of inputs (batch, size) by name: commands (batch, joints) in degrees."""
        return self.infer_recurrent(inputs)[0]

    def infer_recurrent(self, inputs: Mapping[str, ArrayLike]) -> tuple[FloatArray, FloatArray | None]:
        """As `infer`, and the next recurrent states (batch, size); None if the policy is not recurrent."""
        arrays = {name: np.asarray(values, np.float32) for name, values in inputs.items()}
        command_deg, *memory = self._session.run(self._outputs, arrays)
        return command_deg, memory[0] if memory else None

    def _bind(self) -> None:
        """Bind the inputs and outputs of single inferences (batch 1) to fixed memory, so that none is allocated later.

        The inputs lie side by side in one array, which a single call fills: an assignment for each would take half as
        long as a small network. A reading that an older policy does not use is in the array, but not bound.
        """
        # The order of the inputs: readings, goal, goal velocity, recurrent state.
        contract = self.contract
        binding = self._session.io_binding()
        used = {tensor.name: tensor.size for tensor in contract.inputs}
        sizes = dict.fromkeys(READINGS, len(contract.joints)) | {GOAL: 3}
        for name in (GOAL_VELOCITY, MEMORY):
            if name in used:
                sizes[name] = used[name]
        # One array for all of them. `decide` writes the numbers before the recurrent state with one call.
        values = np.zeros(sum(sizes.values()), np.float32)
        written = len(values) - sizes.get(MEMORY, 0)
        self._readings = values[:written].data.cast("B")
        self._memory = values[written:]
        self._write = struct.Struct(f"{written}f").pack_into
        start = 0
        for name, size in sizes.items():
            if name in used:
                binding.bind_input(name, "cpu", 0, np.float32, (1, size), values[start:].ctypes.data)
            start += size
        # The outputs: the command and, of a recurrent policy, the next state.
        outputs = [np.zeros(tensor.size, np.float32) for tensor in contract.outputs]
        for tensor, output in zip(contract.outputs, outputs, strict=True):
            binding.bind_output(tensor.name, "cpu", 0, np.float32, (1, tensor.size), output.ctypes.data)
        self._command = outputs[0]
        self._next_memory = outputs[1] if len(outputs) > 1 else None
        self._binding = binding
        self._run = self._session.run_with_iobinding
        self._follows = contract.follows

    def _check_length(self, what: str, values: Sequence[float]) -> None:
        if len(values) != self._joint_count:
            raise ValueError(f"expected {what} of {counted(self._joint_count, 'joint')}, got {list(values)}")

    def _check_golden_samples(self) -> None:
        """Raise ValueError unless the graph reproduces its golden samples."""
        golden = self.contract.golden
        try:
            # First with batch 1: onnxruntime plans its memory for the shapes of the first run, others stay slower.
            self._run(self._binding)
            command_deg, memory = self.infer_recurrent(golden.inputs)
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise ValueError(f"its golden samples do not run ({_first_line(error)})") from None
        difference = np.abs(command_deg - np.array(golden.target_deg)).ravel()
        if golden.next_memory is not None:
            assert memory is not None
            difference = np.append(difference, np.abs(memory - np.array(golden.next_memory)))
        worst = float(difference.max()) if np.isfinite(difference).all() else float("nan")
        if not worst <= golden.tolerance_deg:
            raise ValueError(
                f"its golden samples do not match: off by {worst:.4g} degrees, allowed {golden.tolerance_deg:g}; "
                "the file was changed after its export"
            )


def open_session(content: bytes) -> onnxruntime.InferenceSession:
    """Open a model in onnxruntime, on one thread without spinning. Raises ValueError for one that it cannot load."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise ValueError(f"onnxruntime cannot load it ({_first_line(error)})") from None


def _same_limits(ours: JointLimits, others: JointLimits) -> bool:
    """Return True if the limits are equal, except for angles that a URDF gives in rounded radians."""
    rates = (ours.max_speed_deg_s, ours.max_acceleration_deg_s2)
    if rates != (others.max_speed_deg_s, others.max_acceleration_deg_s2):
        return False
    rounding_deg = math.degrees(LIMIT_ROUNDING_RAD)
    angles = zip(ours.lower_deg + ours.upper_deg, others.lower_deg + others.upper_deg, strict=False)
    return all(abs(our - other) <= rounding_deg for our, other in angles)


def _check_shapes(session: onnxruntime.InferenceSession, contract: Contract) -> None:
    """Raise ValueError unless the graph has the inputs and outputs of the contract, with a free batch axis."""

    def of_graph(nodes: Any) -> dict[str, tuple[str, int, Any]]:
        """Type, number of axes and size of each input or output."""
        shapes = {}
        for node in nodes:
            size = node.shape[-1] if node.shape else None
            shapes[node.name] = (node.type, len(node.shape), size)
        return shapes

    def of_contract(tensors: Any) -> dict[str, tuple[str, int, Any]]:
        """The same by the contract."""
        return {tensor.name: ("tensor(float)", 2, tensor.size) for tensor in tensors}

    both = (
        ("inputs", session.get_inputs(), contract.inputs),
        ("outputs", session.get_outputs(), contract.outputs),
    )
    for kind, nodes, tensors in both:
        got = of_graph(nodes)
        expected = of_contract(tensors)
        if got != expected:
            # Report only those that differ.
            differing = {name: shape for name, shape in got.items() if expected.get(name) != shape}
            missing = {name: shape for name, shape in expected.items() if got.get(name) != shape}
            raise ValueError(f"its {kind} are {differing}, its contract has {missing} (type, axes, size)")
        if any(isinstance(node.shape[0], int) for node in nodes):
            raise ValueError(f"its {kind} have a fixed batch of {[node.shape[0] for node in nodes]}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
