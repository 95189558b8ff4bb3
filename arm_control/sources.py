"""What can be evaluated, run and watched: a run folder, an exported policy, or a plain controller by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arm_control.config import TrainConfig
from arm_control.evaluation import (
    Controller,
    FloatArray,
    MakeEnv,
    Observation,
    RandomController,
    environment_maker,
    evaluate_controller,
    ik_controller,
    zero_controller,
)
from envs.arm import DEFAULT_URDF, RADIANS, Arm

PLAIN = ("zero", "random", "ik")


@dataclass(frozen=True)
class Source:
    """A controller and the environment it is for."""

    name: str
    controller: Controller
    make_env: MakeEnv
    goal_tolerance_m: float


class RunnerController:
    """An exported policy as a controller for `arm_control.evaluation`."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def __call__(self, observation: Observation, arms: list[Any]) -> FloatArray:
        """The policy's targets, (arms, joints) in degrees."""
        readings = observation["observation"].astype(np.float64) / RADIANS
        angles, speeds, previous = np.split(readings, 3, axis=1)
        targets: FloatArray = self._runner.infer(
            {
                "joint_angle_deg": angles,
                "joint_speed_deg_s": speeds,
                "previous_target_deg": previous,
                "goal_m": observation["desired_goal"],
            }
        )
        return targets


def open_source(source: str, seed: int, arm: str | None = None) -> Source:
    """Open a run folder, a policy file, or `zero`, `random` or `ik`. Raises ValueError for anything else."""
    if source in PLAIN:
        plain = TrainConfig("ddpg", arm=arm)
        controllers: dict[str, Controller] = {
            "zero": zero_controller,
            "random": RandomController(seed + 1),  # not the very actions that define a normalised return of 0
            "ik": ik_controller,
        }
        return Source(source, controllers[source], environment_maker(plain), plain.goal_tolerance_m)
    path = Path(source)
    if path.is_dir():
        from arm_control.training import PolicyController, load_policy, use_one_thread

        if arm is not None:
            raise ValueError(f"--arm {arm}: a run folder knows its own arm; --arm is for policy files")
        use_one_thread()
        config, policy = load_policy(path)
        return Source(source, PolicyController(policy), environment_maker(config), config.goal_tolerance_m)
    if not path.exists():
        raise ValueError(f"no run folder and no policy {source}; wanted one of them, or {', '.join(PLAIN)}")
    from arm_control.runner import PolicyRunner

    runner = PolicyRunner.load(path)
    contract = runner.contract
    config = TrainConfig(
        agent=contract.agent,
        env=contract.environment,
        goal_tolerance_m=contract.goal_tolerance_m,
        arm=str(open_arm(runner.arm, arm).urdf),
    )
    return Source(source, RunnerController(runner), environment_maker(config), contract.goal_tolerance_m)


def evaluate(source: str | Path, *, goals: int = 1000, seed: int = 0, arm: str | None = None) -> dict[str, Any]:
    """The figures of `arm_control.evaluation.evaluate_controller` for a run folder, a policy file, or a plain name."""
    opened = open_source(str(source), seed, arm)
    return evaluate_controller(
        opened.controller, opened.make_env, goals=goals, seed=seed, tolerance_m=opened.goal_tolerance_m
    )


def open_arm(promised: Arm, urdf: str | None) -> Arm:
    """The arm in the file `urdf`, or the default one. Raises ValueError if a policy's contract promises another."""
    arm = Arm(DEFAULT_URDF if urdf is None else urdf)
    if not arm.moves_like(promised):
        wanted = "name its URDF file with --arm" if urdf is None else "its joints, limits or lengths differ"
        raise ValueError(
            f"the policy was trained on the arm {promised.name}, which is not that of {arm.urdf}: {wanted}"
        )
    return arm
