"""PolicyRunner: an exported policy, verified at load, for anybody's own control loop."""

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
    """An ONNX file that is not a policy of arm-control, or does not keep its contract."""


class PolicyRunner:
    """Runs an exported policy with onnxruntime; loads neither PyTorch nor PyBullet.

        runner = PolicyRunner.load("policy.onnx")
        runner.start(angles_deg)                       # where the arm is now
        while True:                                    # at runner.contract.control_rate_hz
            target_deg = runner.step(angles_deg, speeds_deg_s, goal_m)

    `step` holds the contract's position, speed and acceleration limits, whatever the policy says.
    """

    def __init__(self, session: onnxruntime.InferenceSession, contract: Contract) -> None:
        self._session = session
        self.contract = contract
        self.limits = contract.limits
        self.period_s = 1.0 / contract.control_rate_hz
        self.arm = Arm("policy.urdf", text=contract.arm_urdf)
        if self.arm.joint_names != contract.joint_names:
            raise ValueError(f"its arm has joints {self.arm.joint_names}, its contract {contract.joint_names}")
        contract.check_tensors()
        _check_shapes(session, contract)
        if not _same_limits(self.arm.limits, self.limits):
            raise ValueError(f"its arm has the limits {self.arm.limits}, its contract {self.limits}")
        self._outputs = [tensor.name for tensor in contract.outputs]
        self._bind()
        self.target_deg: list[float] | None = None
        self._target_speed_deg_s = [0.0] * len(contract.joints)

    @classmethod
    def load(cls, path: str | Path) -> "PolicyRunner":
        """Read a policy, check its contract, and re-run its golden samples.

        Raises PolicyFileError, with what is wrong, for a file that is not ONNX, has external data or no contract,
        whose shapes differ from its contract, or whose golden samples do not come out.
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
            raise PolicyFileError(f"policy {path} is refused: {printable(error)}") from None
        return runner

    def start(self, angles_deg: Sequence[float]) -> None:
        """Begin where the arm is, at rest: the next targets leave from there."""
        self._check_length("angles", angles_deg)
        self.target_deg = start_target(angles_deg, self.limits)
        self._target_speed_deg_s = [0.0] * len(self.contract.joints)
        self.forget()

    def forget(self) -> None:
        """Let a policy with a memory begin anew, as it did with each goal in training; others forget nothing."""
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
        """The next target in degrees, within the limits, from the arm's readings and the goal.

        Raises ValueError for a goal that moves, unless the policy follows one.
        """
        self._check_length("angles", angles_deg)
        self._check_length("speeds", speeds_deg_s)
        if self.target_deg is None:
            self.start(angles_deg)
        assert self.target_deg is not None
        desired = self.decide(
            angles_deg, speeds_deg_s, self.target_deg, self._target_speed_deg_s, goal_m, goal_velocity_m_s
        )
        self.target_deg, self._target_speed_deg_s = limit_target(
            desired, self.target_deg, self._target_speed_deg_s, self.limits, self.period_s
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
        """The policy's command in degrees, before any limit, for a loop that holds the limits itself.

        `previous_target_deg` and `previous_target_speed_deg_s` are what `limit_target` returned in the step before;
        a policy with a contract before version 4 does not take the speed.

        Nothing is allocated on the way through onnxruntime: inputs and outputs stay where they are. As many numbers as
        there are joints are a caller's duty. Raises ValueError for a goal that moves, unless the policy follows one.
        """
        if self._follows:
            # In the order in which `_bind` has laid them side by side.
            goal_m = (*goal_m, *goal_velocity_m_s)
        elif any(goal_velocity_m_s):
            raise ValueError(f"expected a goal at rest: the policy was trained on {self.contract.environment}")
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
        """What the graph itself says, (batch, joints) in degrees, for inputs (batch, size) by name."""
        return self.recall(inputs)[0]

    def recall(self, inputs: Mapping[str, ArrayLike]) -> tuple[FloatArray, FloatArray | None]:
        """The same and, of a policy that has one, the memory from now on, (batch, size)."""
        arrays = {name: np.asarray(values, np.float32) for name, values in inputs.items()}
        target, *memory = self._session.run(self._outputs, arrays)
        return target, memory[0] if memory else None

    def _bind(self) -> None:
        """Tell onnxruntime where inputs and outputs are, for good: one row, all inputs side by side, in one array.

        Written by one call, for which the arrays' own assignments would take half as long as a small network. A reading
        that an older policy does not take has its place there, too, but is bound to nothing.
        """
        contract = self.contract
        binding = self._session.io_binding()
        taken = {tensor.name: tensor.size for tensor in contract.inputs}
        sizes = dict.fromkeys(READINGS, len(contract.joints)) | {GOAL: 3}
        sizes |= {name: taken[name] for name in (GOAL_VELOCITY, MEMORY) if name in taken}
        given = np.zeros(sum(sizes.values()), np.float32)
        numbers = len(given) - sizes.get(MEMORY, 0)
        self._readings = given[:numbers].data.cast("B")
        self._memory = given[numbers:]
        self._write = struct.Struct(f"{numbers}f").pack_into
        start = 0
        for name, size in sizes.items():
            if name in taken:
                binding.bind_input(name, "cpu", 0, np.float32, (1, size), given[start:].ctypes.data)
            start += size
        outputs = [np.zeros(tensor.size, np.float32) for tensor in contract.outputs]
        for tensor, output in zip(contract.outputs, outputs, strict=True):
            binding.bind_output(tensor.name, "cpu", 0, np.float32, (1, tensor.size), output.ctypes.data)
        self._command = outputs[0]
        self._next_memory = outputs[1] if len(outputs) > 1 else None
        self._binding = binding
        self._run = self._session.run_with_iobinding
        self._follows = contract.follows

    def _check_length(self, what: str, values: Sequence[float]) -> None:
        if len(values) != len(self.contract.joints):
            raise ValueError(f"expected {what} of {counted(len(self.contract.joints), 'joint')}, got {list(values)}")

    def _check_golden_samples(self) -> None:
        golden = self.contract.golden
        try:
            # One row first: onnxruntime plans its memory by its first run, and any other size is slower for good.
            self._run(self._binding)
            got = self.recall(golden.inputs)
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise ValueError(f"its golden samples do not run ({_first_line(error)})") from None
        difference = np.abs(got[0] - np.array(golden.target_deg)).ravel()
        if golden.next_memory is not None:
            difference = np.append(difference, np.abs(got[1] - np.array(golden.next_memory)))
        worst = float(difference.max()) if np.isfinite(difference).all() else float("nan")
        if not worst <= golden.tolerance_deg:
            raise ValueError(
                f"its golden samples do not match: off by {worst:.4g} degrees, allowed {golden.tolerance_deg:g}; "
                "the file was changed after its export"
            )


def open_session(content: bytes) -> onnxruntime.InferenceSession:
    """Open a model in onnxruntime on one thread that never spins. Raises ValueError for one that it cannot load."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise ValueError(f"onnxruntime cannot load it ({_first_line(error)})") from None


def _same_limits(ours: JointLimits, promised: JointLimits) -> bool:
    """Whether an arm has the limits of a contract, whose angles may not be rounded to whole degrees."""
    rounding_deg = math.degrees(LIMIT_ROUNDING_RAD)
    angles = zip(ours.lower_deg + ours.upper_deg, promised.lower_deg + promised.upper_deg, strict=False)
    rates = (ours.max_speed_deg_s, ours.max_acceleration_deg_s2)
    return all(abs(mine - its) <= rounding_deg for mine, its in angles) and rates == (
        promised.max_speed_deg_s,
        promised.max_acceleration_deg_s2,
    )


def _check_shapes(session: onnxruntime.InferenceSession, contract: Contract) -> None:
    def described(nodes: Any) -> dict[str, tuple[str, int, Any]]:
        return {node.name: (node.type, len(node.shape), node.shape[-1] if node.shape else None) for node in nodes}

    def promised(tensors: Any) -> dict[str, tuple[str, int, Any]]:
        return {tensor.name: ("tensor(float)", 2, tensor.size) for tensor in tensors}

    for kind, nodes, tensors in (
        ("inputs", session.get_inputs(), contract.inputs),
        ("outputs", session.get_outputs(), contract.outputs),
    ):
        got = described(nodes)
        wanted = promised(tensors)
        if got != wanted:
            # Only those that differ: a line that names them all is too long to be read.
            other = {name: shape for name, shape in got.items() if wanted.get(name) != shape}
            missed = {name: shape for name, shape in wanted.items() if got.get(name) != shape}
            raise ValueError(f"its {kind} are {other}, its contract promises {missed} (type, axes, size)")
        if any(isinstance(node.shape[0], int) for node in nodes):
            raise ValueError(f"its {kind} have a fixed batch of {[node.shape[0] for node in nodes]}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
