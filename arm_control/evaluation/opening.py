"""Opening a controller to evaluate or watch: a run folder, an exported policy, or zero, random or ik by name."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arm_control.evaluation.controllers import (
    Controller,
    FloatArray,
    IKController,
    Observation,
    RandomController,
    actions_for,
    zero_controller,
)
from arm_control.evaluation.metrics import evaluate_controller
from arm_control.policy_file.contract import GOAL, GOAL_VELOCITY, MEMORY, READINGS
from arm_control.runs.arm import open_arm
from arm_control.runs.config import TrainConfig
from arm_control.runs.run_folder import PolicyOrigin
from arm_control.runs.seeding import SAMPLING
from arm_control.runs.task_options_flag import TaskOptions
from envs.arm import DEFAULT_URDF, Arm
from envs.imperfections import Imperfections, imperfections_from_json
from envs.observation import split_observation
from policies.registry import AGENTS

PLAIN = ("zero", "random", "ik")


@dataclass(frozen=True)
class OpenedController:
    """A controller, and the configuration of its environment."""

    name: str
    controller: Controller
    config: TrainConfig
    origin: PolicyOrigin | None = None
    """The run's policy that was loaded (best or last); None for other controllers."""
    sampled: bool = False
    """True if its actions are drawn from a stochastic policy."""


class ExportedPolicyController:
    """An exported policy as a controller for `arm_control.evaluation`."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._recurrent_state: FloatArray | None = None

    def reset(self) -> None:
        """Reset the recurrent state."""
        self._recurrent_state = None

    def __call__(self, observation: Observation, arms: list[Any]) -> NDArray[Any]:
        """The policy's actions."""
        # Raw readings and goal, from the observation, for those inputs that the policy has.
        readings = split_observation(observation["observation"].astype(np.float64))
        goal_m, velocity_m_s = np.split(observation["desired_goal"], [3], axis=1)
        columns = dict(zip((*READINGS, GOAL, GOAL_VELOCITY), (*readings, goal_m, velocity_m_s), strict=True))
        inputs = {}
        for tensor in self._runner.contract.inputs:
            if tensor.name != MEMORY:
                inputs[tensor.name] = columns[tensor.name]
        # The recurrent state, of a policy that has one.
        state = self._runner.contract.next_memory
        if state is not None:
            if self._recurrent_state is None:
                self._recurrent_state = np.zeros((len(arms), state.size), np.float32)
            inputs[MEMORY] = self._recurrent_state
        targets, self._recurrent_state = self._runner.infer_recurrent(inputs)
        return actions_for(targets, arms)


def open_controller(
    source: str,
    seed: int,
    *,
    arm: str | None = None,
    env: str | None = None,
    imperfections: str | Imperfections | None = None,
    last: bool = False,
    stochastic: bool = False,
) -> OpenedController:
    """Open a run folder, a policy file, or `zero`, `random` or `ik`. Raises ValueError for anything else.

    `imperfections` replace those of the training. A run's policy is the best validated one, or the `last` one;
    `stochastic` draws its actions, by the seed. Raises ValueError for that if the policy has no distribution.
    """
    # Flags that do not go with the source.
    path = Path(source)
    if last and not path.is_dir():
        raise ValueError(f"--last: {source} is no run folder")
    if stochastic and (source in PLAIN or path.is_file()):
        raise ValueError(f"--stochastic: {source} has no distribution of actions; expected {stochastic_runs()}")
    if source in PLAIN:
        plain = TrainConfig("ddpg", arm=arm, env=env or "", imperfections=imperfections or "ideal")
        return OpenedController(source, plain_controller(source, seed), plain)
    if env is not None:
        raise ValueError(f"--env {env}: {source} has its own environment; --env is for {', '.join(PLAIN)}")
    # A policy brings its own environment; only the imperfections may be replaced.
    if path.is_dir():
        sampling_seed = seed if stochastic else None
        opened = open_run(path, arm, last=last, sampling_seed=sampling_seed)
    elif path.exists():
        opened = open_policy_file(path, arm)
    else:
        raise ValueError(f"no run folder and no policy {source}; expected one of them, or {', '.join(PLAIN)}")
    if imperfections is None:
        return opened
    return dataclasses.replace(opened, config=dataclasses.replace(opened.config, imperfections=imperfections))


def plain_controller(name: str, seed: int) -> Controller:
    """A controller without learning: zero, random or ik."""
    if name == "zero":
        return zero_controller
    if name == "random":
        # Not the same actions as the reference whose normalised return is 0.
        return RandomController(seed + 1)
    return IKController()


def stochastic_runs() -> str:
    """The runs whose policies are stochastic, in words."""
    names = [name for name, settings in AGENTS.items() if settings().stochastic]
    return f"the run folder of a stochastic policy ({', '.join(names)})"


def open_run(path: Path, arm: str | None, *, last: bool, sampling_seed: int | None) -> OpenedController:
    """Open a run's best validated policy, or its last one, on the run's arm or a matching one in the file `arm`.

    With a seed, its actions are drawn. Raises ValueError for that if the policy is deterministic.
    """
    from arm_control.evaluation.torch_controller import TorchController
    from arm_control.runs.agent import load_policy

    loaded = load_policy(path, last=last)
    config = loaded.config
    generator = None
    if sampling_seed is not None:
        if not config.settings.stochastic:
            raise ValueError(
                f"--stochastic: the policy of {config.agent} is deterministic; expected {stochastic_runs()}"
            )
        generator = np.random.default_rng(np.random.SeedSequence((SAMPLING, sampling_seed)))
    if arm is not None:
        matching = open_arm(Arm(config.arm or DEFAULT_URDF), arm)
        config = dataclasses.replace(config, arm=str(matching.urdf))
    controller = TorchController(loaded.policy, generator)
    sampled = generator is not None
    return OpenedController(str(path), controller, config, loaded.origin, sampled)


def open_policy_file(path: Path, arm: str | None) -> OpenedController:
    """Open an exported policy, in the environment of its contract."""
    from arm_control.runner import PolicyRunner

    runner = PolicyRunner.load(path)
    contract = runner.contract
    config = TrainConfig(
        agent=contract.agent,
        env=contract.environment,
        goal_tolerance_m=contract.goal_tolerance_m,
        task_options=TaskOptions(contract.given_task_options),
        imperfections=imperfections_from_json(contract.imperfections),
        episode_steps=contract.episode_steps,
        control_rate_hz=contract.control_rate_hz,
        arm=str(open_arm(runner.arm, arm).urdf),
    )
    return OpenedController(str(path), ExportedPolicyController(runner), config)


def evaluate(
    source: str | Path,
    *,
    goals: int = 1000,
    seed: int = 0,
    arm: str | None = None,
    env: str | None = None,
    imperfections: str | Imperfections | None = None,
    last: bool = False,
    stochastic: bool = False,
) -> dict[str, Any]:
    """The figures of `evaluate_controller` for a run folder, a policy file, or `zero`, `random` or `ik`.

    And `policy`: which of a run's policies was evaluated; None for other controllers. And `stochastic`: whether its
    actions were drawn instead of its deterministic ones.
    """
    opened = open_controller(
        str(source), seed, arm=arm, env=env, imperfections=imperfections, last=last, stochastic=stochastic
    )
    policy = None if opened.origin is None else dataclasses.asdict(opened.origin)
    figures = evaluate_controller(opened.controller, opened.config, goals=goals, seed=seed)
    return {"policy": policy, "stochastic": opened.sampled, **figures}
