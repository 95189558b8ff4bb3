"""The contract of an exported policy: lossless JSON in the metadata of its ONNX file.

Written by `arm_control.exporter.exporter`, read and enforced by `arm_control.runner`; without PyTorch.

The tensors of the graph are float32 (batch, size). Joints are in the order of the contract, points in the base frame:

| tensor | size | unit | meaning |
|---|---|---|---|
| input `joint_angle_deg` | joints | degrees | measured angles |
| input `joint_speed_deg_s` | joints | degrees/s | measured speeds |
| input `previous_target_deg` | joints | degrees | the last target that was sent, after the limiter |
| input `previous_target_speed_deg_s` | joints | degrees/s | the limiter's speed at that target; since version 4 |
| input `goal_m` | 3 | m | the goal of the tip |
| input `goal_velocity_m_s` | 3 | m/s | only for policies that follow moving goals |
| input `memory` | any | 1 | only for recurrent policies: the recurrent state |
| output `target_deg` | joints | degrees | the command, before the limiter |
| output `next_memory` | as `memory` | 1 | only for recurrent policies: the next recurrent state |

A contract may come from an untrusted source: the length of its text, the number of its entries and the length of its
error messages are bounded, and all its numbers are finite.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from arm_control.process.printing import printable
from envs.imperfections import imperfections_from_json
from envs.limits import GOAL_SPEEDS_M_S, MOST_EPISODE_STEPS, TOLERANCES_M, JointLimits
from envs.urdf import LARGEST_URDF

METADATA_KEY = "arm_control.contract"
SCHEMA_VERSION = 4
# Older versions that are still read. Version 2: imperfections are always the name of a preset. Version 3: the speed of
# the previous target is not among the inputs.
OLDER_VERSIONS = (2, 3)
PREVIOUS_TARGET_SPEED = "previous_target_speed_deg_s"
TARGET_SPEED_SINCE = 4  # the version from which every policy has that input
READINGS = ("joint_angle_deg", "joint_speed_deg_s", "previous_target_deg", PREVIOUS_TARGET_SPEED)  # a number a joint
GOAL = "goal_m"
INPUTS = (*READINGS, GOAL)
GOAL_VELOCITY = "goal_velocity_m_s"  # a further input of policies that follow moving goals
TARGET = "target_deg"  # the output
# The last input and the last output of a recurrent policy.
MEMORY = "memory"
NEXT_MEMORY = "next_memory"
LARGEST_TOLERANCE_DEG = 0.01
LONGEST_TEXT = 2**20  # characters of JSON; the largest of arm-control's have 17,000
LONGEST_NAME = 256  # characters of every other text
MOST_JOINTS = 32
MOST_INPUTS = 16
MOST_VERSIONS = 64
MOST_OPTIONS = 64
OWN_FIELDS = ("path", "speed_m_s")  # the options of a task that are fields of the contract
MOST_GOLDEN_SAMPLES = 16
LARGEST_SIZE = 2**16  # of an input or output
RATES_HZ = (1.0, 10_000.0)


@dataclass(frozen=True)
class JointContract:
    """One joint: its name and its limits."""

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
    """Inputs by name, each (samples, size), with the outputs that the graph reproduces within `tolerance_deg`.

    `next_memory` are the next recurrent states of a recurrent policy, with the same tolerance.
    """

    inputs: dict[str, list[list[float]]]
    target_deg: list[list[float]]
    tolerance_deg: float
    next_memory: list[list[float]] | None = None


@dataclass(frozen=True)
class Contract:
    """The properties of a policy that a runner requires, in addition to its graph."""

    schema_version: int
    arm: str
    joints: list[JointContract]  # in the order of every array
    arm_urdf: str  # the text of the arm's URDF, for its kinematics
    control_rate_hz: float
    environment: str
    goal_tolerance_m: float
    # Options of ArmTrack-v0, which have had separate fields since version 2; None if not given.
    path: Literal["circle", "eight", "spline", "any"] | None
    speed_m_s: float | None
    # Imperfections of the arm in training: the name of a preset, or ranges by field.
    imperfections: str | dict[str, list[float]]
    inputs: list[TensorContract]
    output: TensorContract
    agent: str
    config_sha256: str
    versions: dict[str, str]
    golden: GoldenSamples
    next_memory: TensorContract | None = None  # the second output of a recurrent policy
    episode_steps: int | None = None  # of the episodes in training
    task_options: dict[str, str | float | int | bool] | None = None  # options of other tasks, if given

    @property
    def follows(self) -> bool:
        """True if the policy follows moving goals, and so has their velocity as an input."""
        return any(tensor.name == GOAL_VELOCITY for tensor in self.inputs)

    @property
    def given_task_options(self) -> dict[str, Any]:
        """The options of the task in training, by name."""
        options: dict[str, Any] = dict(self.task_options or {})
        for name in OWN_FIELDS:
            value = getattr(self, name)
            if value is not None:
                options[name] = value
        return options

    @property
    def outputs(self) -> list[TensorContract]:
        """The outputs of the graph: the target and, of a recurrent policy, the next recurrent state."""
        return [self.output] if self.next_memory is None else [self.output, self.next_memory]

    def check_tensors(self) -> None:
        """Raise ValueError unless inputs and outputs match the contract's version and its arm."""
        version = self.schema_version
        joints = len(self.joints)
        sizes = {tensor.name: tensor.size for tensor in self.inputs}
        takes_speed = PREVIOUS_TARGET_SPEED in sizes
        if takes_speed != (version >= TARGET_SPEED_SINCE):
            raise ValueError(
                f"contract version {version} {'with' if takes_speed else 'without'} the input {PREVIOUS_TARGET_SPEED}; "
                f"expected it from version {TARGET_SPEED_SINCE} on, and not before (export the policy again)"
            )
        # The expected size of each input.
        expected = {name: joints for name in READINGS if takes_speed or name != PREVIOUS_TARGET_SPEED}
        expected[GOAL] = 3
        if self.follows:
            expected[GOAL_VELOCITY] = 3
        if MEMORY in sizes:
            expected[MEMORY] = sizes[MEMORY]
        if sizes != expected:
            raise ValueError(f"inputs: {_sizes(sizes)}; expected {_sizes(expected)}")
        if self.output.size != joints:
            raise ValueError(f"output: {self.output.name} ({self.output.size}); expected {joints}, one for each joint")

    @property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(joint.name for joint in self.joints)

    @property
    def limits(self) -> JointLimits:
        """The joints' limits. Raises ValueError for invalid ones."""
        return JointLimits.of_joints(self.joints)

    def to_json(self) -> str:
        """The contract at full precision: reading it back gives an equal one."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def from_json(text: str) -> "Contract":
        """Read a contract.

        Raises ValueError, in one line that names the field, for one that is malformed, newer, or beyond the bounds.
        """
        try:
            if len(text) > LONGEST_TEXT:
                raise ValueError(f"the contract has {len(text)} characters, expected at most {LONGEST_TEXT}")
            return _read(text)
        except ValueError as error:
            raise ValueError(printable(error)) from None

    def _check(self) -> None:
        # Bounds first, so that the other checks are fast.
        self._check_bounds()
        JointLimits.of_joints(self.joints)  # raises ValueError for invalid limits
        try:
            imperfections_from_json(self.imperfections)
        except ValueError as error:
            raise ValueError(f"the contract is malformed: {error}") from None
        ranges = (
            ("control_rate_hz", self.control_rate_hz, RATES_HZ),
            ("goal_tolerance_m", self.goal_tolerance_m, TOLERANCES_M),
            ("speed_m_s", self.speed_m_s, GOAL_SPEEDS_M_S),
            ("episode_steps", self.episode_steps, (1, MOST_EPISODE_STEPS)),
        )
        for name, value, (least, most) in ranges:
            if value is not None and not least <= value <= most:
                raise ValueError(f"the contract is malformed: {name} is {value}; expected {least:g} to {most:g}")
        if not 0 < self.golden.tolerance_deg <= LARGEST_TOLERANCE_DEG:
            raise ValueError(
                f"the contract is malformed: golden tolerance {self.golden.tolerance_deg:g} degrees, "
                f"expected up to {LARGEST_TOLERANCE_DEG:g}"
            )
        self._check_samples()

    def _check_bounds(self) -> None:
        tensors = [*self.inputs, *self.outputs]
        # What is counted, how often it occurs, and its bounds.
        counts = [
            ("joints", len(self.joints), 0, MOST_JOINTS),  # without joints, the limits raise ValueError
            ("inputs", len(self.inputs), 0, MOST_INPUTS),
            ("versions", len(self.versions), 0, MOST_VERSIONS),
            ("task options", len(self.task_options or {}), 0, MOST_OPTIONS),
            ("golden samples", len(self.golden.target_deg), 0, MOST_GOLDEN_SAMPLES),
            ("arm_urdf's characters", len(self.arm_urdf), 0, LARGEST_URDF),
        ]
        for tensor in tensors:
            counts.append((f"size of '{tensor.name}'", tensor.size, 1, LARGEST_SIZE))
        for what, count, least, most in counts:
            if not least <= count <= most:
                raise ValueError(f"the contract is malformed: {what}: expected {least} to {most}, got {count}")
        for name in self._texts():
            if len(name) > LONGEST_NAME:
                raise ValueError(
                    f"the contract is malformed: expected texts of at most {LONGEST_NAME} characters, got {len(name)}: "
                    f"'{name[:40]}...'"
                )
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise ValueError("the contract is malformed: two inputs or outputs have the same name")

    def _texts(self) -> Iterator[str]:
        """All texts except for the URDF."""
        yield from (self.arm, self.environment, self.agent, self.config_sha256, *self.versions, *self.versions.values())
        for name, value in (self.task_options or {}).items():
            yield name
            if isinstance(value, str):
                yield value
        yield from (joint.name for joint in self.joints)
        for tensor in (*self.inputs, *self.outputs):
            yield from (tensor.name, tensor.unit, tensor.meaning)

    def _check_samples(self) -> None:
        samples = len(self.golden.target_deg)
        sizes = {tensor.name: tensor.size for tensor in self.inputs}
        if not samples or set(sizes) != set(self.golden.inputs):
            raise ValueError("the contract is malformed: its golden samples do not match its inputs")
        sizes |= {tensor.name: tensor.size for tensor in self.outputs}
        if sizes.get(MEMORY) != sizes.get(NEXT_MEMORY):
            raise ValueError("the contract is malformed: memory and next_memory differ in size")
        # Each output has samples, and each sample the size of its tensor.
        given = [self.golden.target_deg]
        if self.golden.next_memory is not None:
            given.append(self.golden.next_memory)
        if len(given) != len(self.outputs):
            raise ValueError("the contract is malformed: its golden samples do not match its outputs")
        names = [tensor.name for tensor in self.outputs]
        for name, rows in (*self.golden.inputs.items(), *zip(names, given, strict=True)):
            size = sizes[name]
            if len(rows) != samples or any(len(row) != size for row in rows):
                raise ValueError(f"the contract is malformed: golden samples of '{name}' are not ({samples}, {size})")
            if not all(math.isfinite(value) for row in rows for value in row):
                raise ValueError(f"the contract is malformed: golden samples of '{name}' are not all finite")


def task_option_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a contract that hold these options of a task."""
    fields: dict[str, Any] = {name: options.get(name) for name in OWN_FIELDS}
    others = {name: value for name, value in options.items() if name not in OWN_FIELDS}
    return fields | {"task_options": others or None}


def _sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} ({size})" for name, size in sizes.items())


class _Version(msgspec.Struct):
    """The version alone: contracts of other versions may have other fields."""

    schema_version: msgspec.Raw = msgspec.Raw(b"None")  # undecoded, since it may be of any length


def _read(text: str) -> Contract:
    # Read the version first.
    try:
        version = bytes(msgspec.json.decode(text, type=_Version).schema_version)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
        raise ValueError(f"the contract is not a JSON object ({error})") from None
    known = (*OLDER_VERSIONS, SCHEMA_VERSION)
    if version.strip() not in [str(number).encode() for number in known]:
        readable = f"{', '.join(map(str, OLDER_VERSIONS))} and {SCHEMA_VERSION}"
        raise ValueError(
            f"the contract has schema version {version[:20].decode(errors='replace')}, this program reads "
            f"{readable}: export the policy again, or update arm-control"
        )
    # Read and check all fields.
    try:
        contract = msgspec.json.decode(text, type=Contract)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"the contract is malformed: {error}") from None
    contract._check()
    return contract
