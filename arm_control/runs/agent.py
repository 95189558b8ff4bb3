"""Agent and policy of a run, rebuilt from its configuration and checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from arm_control.runs.checkpoint import load_latest
from arm_control.runs.config import TrainConfig, default_environment
from arm_control.runs.environment import environment_maker
from arm_control.runs.run_folder import PolicyOrigin, RunFolder
from envs.arm import RADIANS, Arm
from envs.control import target_of
from envs.observation import split_observation
from envs.tasks.reward import DEFAULT_REACH_M
from policies import registry
from policies.agent import Agent, Spec


def make_agent(config: TrainConfig, env: Any, seed: int | None = None, **options: Any) -> Agent:
    """Make a configuration's agent for the sizes, bounds and reward of an environment.

    The seed is the configuration's unless given; `options` are keyword arguments of the agent.
    """
    # Check that environment and agent go together.
    if env.actions != config.settings.actions:
        wanted = default_environment(config.settings.actions)
        chosen = f" with {flag}" if (flag := config.settings.actions_flag) else ""
        raise ValueError(
            f"agent {config.agent}{chosen} requires --env {wanted}, got {config.env}, of {env.action_space}"
        )
    if env.episode_steps % (repeat := config.settings.action_repeat):
        raise ValueError(f"--action-repeat: expected a divisor of an episode's {env.episode_steps} steps, got {repeat}")
    # Describe the task to the agent, which knows no environment.
    spaces = env.observation_space.spaces
    limits = env.arm.limits
    step_deg = tuple(speed * env.simulation.control_period_s for speed in limits.max_speed_deg_s)
    joints = env.arm.joint_count
    # With a delay, targets relative to the previous one would overshoot by the motion that is still to come.
    acts_at_once = env.imperfections.mean_delay_s < env.simulation.control_period_s
    absolute = config.control == "absolute"
    box = env.action_space
    low, high = (box.low, box.high) if env.grid is None else (limits.lower_deg, limits.upper_deg)
    spec = Spec(
        observation_size=spaces["observation"].shape[0],
        goal_size=spaces["desired_goal"].shape[0],
        goal_point_size=3,
        action_low=tuple(map(float, low)),
        action_high=tuple(map(float, high)),
        # The measured angles are first in `observation`; they correspond to absolute actions only.
        measured_columns=tuple(range(joints)) if absolute else None,
        measured_unit=1.0 / RADIANS,
        target_columns=tuple(range(2 * joints, 3 * joints)) if absolute and acts_at_once else None,
        rest_distance=env.arm.reach_m * RADIANS * env.imperfections.reading_error_deg,
        size=env.arm.reach_m / DEFAULT_REACH_M,
        max_step=step_deg if absolute else None,  # the space of changes is bounded already
        kinematics=lambda observation, action: _lead(env, observation, action),
        grid_shape=env.grid.shape if env.grid is not None else None,
    )
    seed = config.seed if seed is None else seed
    return registry.make_agent(config.agent, spec, config.settings, env.compute_reward, seed, **options)


def _lead(env: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Tip positions (batch, 3) at the target angles of actions (batch, joints)."""
    measured, _, previous_target, _ = split_observation(observation)
    tip: torch.Tensor = env.arm.forward_kinematics(target_of(action, env.control, measured, previous_target), torch)
    return tip


def check_arm(arm: Arm, urdf_text: str) -> None:
    """Raise ValueError if the run's arm has changed since its training."""
    if not arm.moves_like(Arm(arm.urdf, text=urdf_text)):
        raise ValueError(
            f"the arm in {arm.urdf} is not the one that the run was trained on: its joints or lengths differ"
        )


class LoadedPolicy(NamedTuple):
    """A run's configuration, one of its policies, and which one that is."""

    config: TrainConfig
    policy: torch.nn.Module
    origin: PolicyOrigin


def load_policy(path: str | Path, *, last: bool = False) -> LoadedPolicy:
    """Load the best validated policy of a run, or its last one."""
    # The run's configuration and its latest checkpoint, which holds both policies.
    run, values = RunFolder.open(path)
    config = TrainConfig.from_json(values, run.path)
    step, state = load_latest(run.checkpoints)
    best = None if last else state["best"]
    env: Any = environment_maker(config)().unwrapped
    try:
        check_arm(env.arm, state["arm_urdf"])
        agent = make_agent(config, env)
        fit_state(lambda: agent.load_state_dict(state["agent"]), str(run.config))
        policy = agent.policy()
        if best is None:  # also if the run was stopped before its first validation
            return LoadedPolicy(config, policy, PolicyOrigin("last", step, None))
        fit_state(lambda: policy.load_state_dict(best["policy"]), str(run.config))
    finally:
        env.close()
    return LoadedPolicy(config, policy, PolicyOrigin("best", best["step"], best["mean_error_mm"]))


def fit_state(load: Callable[[], object], what: str) -> None:
    """Load a state. Raises ValueError with the last line of PyTorch's error if it does not fit."""
    try:
        load()
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{what} does not fit the checkpoint, of other settings or another arm: {reason}") from None
