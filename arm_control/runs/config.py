"""TrainConfig: the flags of a training, stored as `config.json` in its run folder.

Imported for `--help`, so it imports neither PyTorch nor PyBullet.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
import numpy as np
import tyro

from arm_control.runs.checks import MOST_PROCESSES, check_choice, check_grid_step, check_length, check_range, check_seed
from arm_control.runs.imperfections_flag import ImperfectionsFlag, as_imperfections
from arm_control.runs.older_formats import present_config
from arm_control.runs.task_options_flag import TaskOptions
from envs.arm import urdf_file
from envs.control import ActionKind, Control
from envs.files import read_file
from envs.imperfections import imperfections_from_json
from envs.limits import MOST_EPISODE_STEPS, TOLERANCES_M
from envs.tasks import ENVIRONMENTS, check_task_options, environment_of, id_with_actions
from envs.tasks.reward import RewardKind
from envs.urdf import LARGEST_URDF
from policies.common.settings import AgentSettings
from policies.registry import AGENTS

ARM_FILE = "arm.urdf"  # in the folder of a run, unless it has the default arm
DEFAULT_STEPS = 200_000
CONTROL_RATES_HZ = (1.0, 10_000.0)
PHYSICS_RATE_HZ = 240.0  # lowest rate of physics steps, as in envs.simulation

DEFAULT_TASK = "reach"  # of envs/tasks/


def default_environment(actions: ActionKind) -> str:
    """The id of the default task's environment with actions of this kind."""
    id = id_with_actions(DEFAULT_TASK, actions)
    assert id is not None
    return id


@dataclass(frozen=True)
class TrainConfig:
    """Agent, environment and length of a training."""

    agent: tyro.conf.Suppress[str]
    settings: Annotated[
        AgentSettings, tyro.conf.arg(name="agent", help="Settings of the agent."), tyro.conf.AvoidSubcommands
    ] = None  # type: ignore[assignment]
    env: str = ""
    """Environment id."""
    reward: RewardKind = "dense"
    """Reward of the environment. With a sparse reward, DDPG needs a longer horizon: --n-step 3."""
    goal_tolerance_m: float = 0.01
    """Distance within which a goal is reached, in metres."""
    arm: str | None = None
    """Another arm: a URDF file, or the name of a shipped arm, such as arm1, which has one joint."""
    grid_step_deg: float = 1.0
    """Step of the degree grid in degrees, for agents with discrete actions."""
    control: Control = "absolute"
    """Meaning of an action: a target angle, or a change of the measured angle or of the last target."""
    imperfections: ImperfectionsFlag = "ideal"
    """Dynamics randomisation of servos and sensors: ideal, xl430 (an estimate for these servos), rough, late, or a
    file written by 'identify --json'."""
    task_options: TaskOptions = field(default_factory=TaskOptions)
    """Options of the environment's task."""
    episode_steps: int | None = None
    """Length of an episode in control steps (default: that of the task, which is longer for a slow arm; for ArmReach-v0
    twice the time in which the slowest joint crosses its range, and at least 1.67 s)."""
    control_rate_hz: Annotated[float | None, tyro.conf.arg(name="control-rate")] = None
    """Control rate in Hz (default: 30)."""
    num_envs: int = None  # type: ignore[assignment]
    """Number of environments simulated in parallel."""
    processes: int = 1
    """Number of processes among which the environments are divided. It affects the speed, not the result."""
    seed: int = 0
    """Seed of all random numbers."""
    steps: int | None = None
    """Length of the training in steps of all environments together (default: 200000, unless --minutes is given)."""
    minutes: float | None = None
    """Length of the training in minutes, instead of --steps."""
    init: str | None = None
    """Run folder whose networks to start from."""

    def __post_init__(self) -> None:
        check_choice("agent", self.agent, AGENTS)
        self._resolve_defaults()
        check_choice("environment", self.env, environment_ids())
        check_seed("seed", self.seed)
        check_length(self.steps, self.minutes)
        self._check_parallel_environments()
        self._check_environment()

    def _resolve_defaults(self) -> None:
        """Fill in the agent's defaults (its settings, environment and number of arms) and the file of the arm."""
        set_field = partial(object.__setattr__, self)
        if self.settings is None:
            set_field("settings", AGENTS[self.agent]())
        if not self.env:
            set_field("env", default_environment(self.settings.actions))
        if self.num_envs is None:
            set_field("num_envs", self.settings.num_envs)
        if isinstance(self.arm, str):
            set_field("arm", str(urdf_file(self.arm)))
        set_field("imperfections", as_imperfections(self.imperfections))

    def _check_parallel_environments(self) -> None:
        if not 1 <= self.num_envs <= MOST_PROCESSES:
            raise ValueError(f"--num-envs: expected from 1 to {MOST_PROCESSES}, got {self.num_envs}")
        if not 1 <= self.processes <= self.num_envs:
            raise ValueError(
                f"--processes: expected from 1 to {self.num_envs}, one for each environment, got {self.processes}"
            )
        self.settings.check_num_envs(self.num_envs, self.processes)

    def _check_environment(self) -> None:
        check_task_options(self.env, self.task_options)
        if self.grid_step_deg != 1.0 and not self.on_grid:
            raise ValueError(f"--grid-step-deg: actions in {self.env} are on no grid")
        check_grid_step(self.grid_step_deg)
        check_range("goal-tolerance-m", self.goal_tolerance_m, TOLERANCES_M, "m")
        if self.episode_steps is not None:
            check_range("episode-steps", self.episode_steps, (1, MOST_EPISODE_STEPS))
        if self.control_rate_hz is not None:
            check_range("control-rate", self.control_rate_hz, CONTROL_RATES_HZ, "Hz")

    @property
    def on_grid(self) -> bool:
        """True if the environment's actions are those of the degree grid."""
        return environment_of(self.env).actions != "degrees"

    def progress(self, step: int, elapsed_s: float) -> float:
        """From 0 at the start of a training to 1 at its end."""
        if self.minutes is not None:
            return min(1.0, elapsed_s / (60.0 * self.minutes))
        return min(1.0, step / (self.steps or DEFAULT_STEPS))

    def to_json(self) -> dict[str, Any]:
        """Plain values for `config.json`: strings, numbers, lists and dicts."""
        return plain_values(self)

    @staticmethod
    def from_json(config: dict[str, Any], folder: Path | None = None) -> "TrainConfig":
        """Rebuild a configuration from the values of `to_json`, with the arm's file in the run's `folder`.

        Raises ValueError, naming the field, for values that do not fit.
        """
        # Bring values of older formats up to date.
        values = present_config(config)
        values.pop("version", None)
        try:
            read = _read(values)
        except ValueError as error:
            raise ValueError(f"config.json is damaged: {error}") from None
        if folder is not None and read.arm == ARM_FILE:
            return replace(read, arm=str(folder / ARM_FILE))
        return read

    def as_read_back(self) -> "TrainConfig":
        """The configuration as it will be read from its run folder.

        Raises ValueError, naming the field, for a value that could not be read back, such as an unknown choice.
        """
        try:
            return _read(self.to_json())
        except TypeError as error:  # a value that JSON cannot represent
            raise ValueError(f"the configuration cannot be stored: {error}") from None

    def identity(self) -> dict[str, Any]:
        """Like `to_json`, but with the hash of the arm's file instead of its path.

        Raises OSError for a file that cannot be read.
        """
        values = self.to_json()
        if self.arm is not None:
            values["arm"] = "sha256:" + hashlib.sha256(read_file(self.arm, LARGEST_URDF)).hexdigest()
        return values

    def sha256(self) -> str:
        """Hash of the configuration, stored in exported policies."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def environment_options(self) -> dict[str, Any]:
        """The keyword arguments of `gymnasium.make`."""
        # The options that are fields of this configuration, and those of the task.
        names = ["reward", "goal_tolerance_m", "arm", "control", "imperfections", "episode_steps"]
        if self.on_grid:
            names.append("grid_step_deg")
        options = {name: getattr(self, name) for name in names} | self.task_options
        if self.control_rate_hz is not None:
            # The fewest physics steps per control period with at least the lowest rate.
            substeps = math.ceil(PHYSICS_RATE_HZ / self.control_rate_hz - 1e-9)
            options["control_period_s"] = 1.0 / self.control_rate_hz
            options["physics_step_s"] = 1.0 / (substeps * self.control_rate_hz)
        return {name: value for name, value in options.items() if value is not None}


def plain_values(config: Any) -> dict[str, Any]:
    """A configuration's dataclass as JSON values; NumPy numbers and paths are converted.

    Raises TypeError for values that JSON cannot represent.
    """
    values: dict[str, Any] = json.loads(msgspec.json.encode(config, enc_hook=_plain))
    return values


def _plain(value: Any) -> Any:
    """A path or NumPy number as a JSON value. Raises TypeError for anything else."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"got a {type(value).__name__}; expected strings, numbers and paths")


def _read(values: dict[str, Any]) -> TrainConfig:
    """The configuration with these JSON values. Raises ValueError, naming the field, for those that do not fit."""
    agent = str(values.get("agent"))
    check_choice("agent", agent, AGENTS)
    # Convert each field by its own type, since msgspec does not support unions of dataclasses.
    kinds = get_type_hints(TrainConfig) | {"settings": AGENTS[agent]}
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name == "imperfections":
            given[name] = imperfections_from_json(value)
        elif name == "task_options":
            given[name] = TaskOptions(_converted(name, value, dict[str, Any]))
        else:
            given[name] = _converted(name, value, kinds.get(name))
    read = TrainConfig(**given)
    if read.to_json() != values:
        raise ValueError(f"expected the fields {list(read.to_json())}, got {list(values)}, or others in settings")
    return read


def _converted(name: str, value: Any, kind: Any) -> Any:
    """A JSON value converted to a field's type. Raises ValueError, naming the field, if it does not fit."""
    if kind is None:
        raise ValueError(f"there is no field {name}")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from None


def environment_ids() -> list[str]:
    """The ids that `envs` registers."""
    return sorted(ENVIRONMENTS)
