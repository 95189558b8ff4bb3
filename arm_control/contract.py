"""The contract: what an exported policy promises, as lossless JSON in the metadata of its ONNX file.

Written by `arm_control.exporter`, read and enforced by `arm_control.runner`. No PyTorch here.
"""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from envs.limits import JointLimits

METADATA_KEY = "arm_control.contract"
SCHEMA_VERSION = 2
INPUTS = ("joint_angle_deg", "joint_speed_deg_s", "previous_target_deg", "goal_m")
GOAL_VELOCITY = "goal_velocity_m_s"  # one more input, of a policy that follows a moving goal
MEMORY, NEXT_MEMORY = "memory", "next_memory"  # the last input and output, of a policy that remembers
LARGEST_TOLERANCE_DEG = 0.01


@dataclass(frozen=True)
class JointContract:
    """One joint: its name and what it may do."""

    name: str
    lower_deg: float
    upper_deg: float
    max_speed_deg_s: float
    max_acceleration_deg_s2: float


@dataclass(frozen=True)
class TensorContract:
    """An input or output of the graph, float32 (batch, size)."""

    name: str
    size: int
    unit: str
    meaning: str


@dataclass(frozen=True)
class GoldenSamples:
    """Inputs by name, each (samples, size), and the targets that the policy gave, within `tolerance_deg`.

    And the memories, of a policy that has one, within the same number.
    """

    inputs: dict[str, list[list[float]]]
    target_deg: list[list[float]]
    tolerance_deg: float
    next_memory: list[list[float]] | None = None


@dataclass(frozen=True)
class Contract:
    """Everything a runner must know of a policy beside its graph."""

    schema_version: int
    arm: str
    joints: list[JointContract]  # in the order of every array
    arm_urdf: str  # the arm's own description, from which the runner takes its kinematics
    control_rate_hz: float
    environment: str
    goal_tolerance_m: float
    path: Literal["circle", "eight", "spline", "any"] | None  # of a moving goal
    speed_m_s: float | None  # of a moving goal
    imperfections: Literal["ideal", "xl430", "rough", "late"]  # of the arm that it was trained on
    inputs: list[TensorContract]
    output: TensorContract
    agent: str
    config_sha256: str
    versions: dict[str, str]
    golden: GoldenSamples
    next_memory: TensorContract | None = None  # of a policy that remembers: the second output, its memory from now on

    @property
    def follows(self) -> bool:
        """Whether the policy follows a moving goal, whose velocity it is then told."""
        return any(tensor.name == GOAL_VELOCITY for tensor in self.inputs)

    @property
    def outputs(self) -> list[TensorContract]:
        """What the graph gives: the target, and the memory of a policy that has one."""
        return [self.output] if self.next_memory is None else [self.output, self.next_memory]

    @property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(joint.name for joint in self.joints)

    @property
    def limits(self) -> JointLimits:
        """The joints' limits. Raises ValueError if they make no sense."""
        return JointLimits(
            tuple(joint.lower_deg for joint in self.joints),
            tuple(joint.upper_deg for joint in self.joints),
            tuple(joint.max_speed_deg_s for joint in self.joints),
            tuple(joint.max_acceleration_deg_s2 for joint in self.joints),
        )

    def to_json(self) -> str:
        """The contract at full precision: reading it back gives an equal one."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def from_json(text: str) -> "Contract":
        """Read a contract. Raises ValueError, naming the field, for one that is malformed or newer."""
        try:
            version = msgspec.json.decode(text, type=dict[str, Any]).get("schema_version")
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
            raise ValueError(f"the contract is no JSON object ({error})") from None
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"the contract has schema version {version!r}, this program reads {SCHEMA_VERSION}: "
                "export the policy again, or update arm-control"
            )
        try:
            contract = msgspec.json.decode(text, type=Contract)
        except msgspec.ValidationError as error:
            raise ValueError(f"the contract is malformed: {error}") from None
        contract._check()
        return contract

    def _check(self) -> None:
        self.limits  # noqa: B018  (raises for limits that make no sense)
        if not 0 < self.control_rate_hz <= 10_000:
            raise ValueError(f"the contract is malformed: control_rate_hz is {self.control_rate_hz}")
        if not 0 < self.golden.tolerance_deg <= LARGEST_TOLERANCE_DEG:
            raise ValueError(
                f"the contract is malformed: golden tolerance {self.golden.tolerance_deg:g} degrees, "
                f"wanted up to {LARGEST_TOLERANCE_DEG:g}"
            )
        samples = len(self.golden.target_deg)
        sizes = {tensor.name: tensor.size for tensor in self.inputs}
        if not samples or set(sizes) != set(self.golden.inputs):
            raise ValueError("the contract is malformed: its golden samples do not match its inputs")
        sizes |= {tensor.name: tensor.size for tensor in self.outputs}
        if sizes.get(MEMORY) != sizes.get(NEXT_MEMORY):
            raise ValueError("the contract is malformed: its memories before and after a step are not of one size")
        given = [self.golden.target_deg, *([] if self.golden.next_memory is None else [self.golden.next_memory])]
        if len(given) != len(self.outputs):
            raise ValueError("the contract is malformed: its golden samples do not match its outputs")
        names = [tensor.name for tensor in self.outputs]
        for name, rows in (*self.golden.inputs.items(), *zip(names, given, strict=True)):
            size = sizes[name]
            if len(rows) != samples or any(len(row) != size for row in rows):
                raise ValueError(f"the contract is malformed: golden samples of '{name}' are not ({samples}, {size})")
