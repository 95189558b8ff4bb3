"""Interaction: some arms, the agent that acts on them, and the steps that they make together."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from arm_control.config import ENVIRONMENTS, TrainConfig
from arm_control.evaluation import Observation, environment_maker
from arm_control.printing import counted
from envs.arm import RADIANS, Arm
from envs.tasks import DEFAULT_REACH_M, split_observation, target_of
from envs.vector import ArmVectorEnv
from policies.agent import Agent, Spec, Transition
from policies.ddpg import DDPG
from policies.dpg import DPG
from policies.dqn import DQN
from policies.policy_gradient import PolicyGradient
from policies.settings import DPGSettings, PolicyGradientSettings


class Advance(NamedTuple):
    """What has been done: steps of all arms together, updates, and the agent's metrics of the last one."""

    steps: int
    updates: int
    metrics: dict[str, float]


class Interaction:
    """Arms side by side, in this process or in several of their own, and one agent for all of them."""

    def __init__(self, config: TrainConfig, seeds: Sequence[int], **options: Any) -> None:
        """An arm for each of the `seeds`; `options` are for `make_agent`."""
        self._config = config
        make_env = environment_maker(config)
        self._one_arm: Any = make_env().unwrapped  # for what is the same of all
        try:
            self.agent = make_agent(config, self._one_arm, **options)
            self.arms: SyncVectorEnv | ArmVectorEnv
            if config.processes > 1:
                self.arms = ArmVectorEnv(make_env, len(seeds), config.processes)
            else:
                self.arms = SyncVectorEnv([make_env] * len(seeds), autoreset_mode=AutoresetMode.SAME_STEP)
        except BaseException:
            self._one_arm.close()
            raise
        self.observation: Observation = self.arms.reset(seed=[*seeds])[0]

    def advance(self, progress: Callable[[int], float]) -> Advance:
        """One action of every arm, which may last several steps, and the agent's updates for it.

        `progress` says how far the training will be after so many steps more.
        """
        repeat = self._config.settings.action_repeat
        action = self.agent.act(self.observation, explore=True)
        for _ in range(repeat):
            following, reward, terminated, truncated, info = self.arms.step(action)
        ended = terminated | truncated
        next_observation = following
        if ended.any():
            # An arm that was reset within the step: the transition ends in what it saw before.
            next_observation = {key: value.copy() for key, value in following.items()}
            for index in np.flatnonzero(ended):
                for key, value in next_observation.items():
                    value[index] = info["final_obs"][index][key]
        self.agent.observe(
            Transition(self.observation, action, reward.astype(np.float32), next_observation, terminated, ended)
        )
        self.observation = following
        steps = self.arms.num_envs * repeat
        metrics = self.agent.update(progress(steps))
        return Advance(steps, int(metrics.pop("updates", 0)), metrics)

    def policy(self) -> torch.nn.Module:
        """The agent's present controller."""
        return self.agent.policy()

    def load_networks(self, state: dict[str, Any]) -> None:
        """Start from the networks of another run's `state_dict`."""
        self.agent.load_networks(state["agent"])

    def state_dict(self) -> dict[str, Any]:
        """All that the steps to come depend on."""
        return {
            "agent": self.agent.state_dict(),
            "arm_urdf": self._one_arm.arm.urdf_text,
            "arms": self._states(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`. Raises ValueError for another arm, or another number of them."""
        check_arm(self._one_arm.arm, state["arm_urdf"])
        self.agent.load_state_dict(state["agent"])
        if len(state["arms"]) != self.arms.num_envs:
            raise ValueError(
                f"the checkpoint is of {counted(len(state['arms']), 'arm')}, config.json says {self.arms.num_envs}"
            )
        if isinstance(self.arms, ArmVectorEnv):
            self.observation = self.arms.restore_state(state["arms"])
        else:
            rows = [arm.restore_state(s) for arm, s in zip(self._bare_arms, state["arms"], strict=True)]
            self.observation = {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    def close(self) -> None:
        """Close the arms."""
        self.arms.close()
        self._one_arm.close()

    @property
    def _bare_arms(self) -> list[Any]:
        assert isinstance(self.arms, SyncVectorEnv)
        return [arm.unwrapped for arm in self.arms.envs]

    def _states(self) -> list[Any]:
        if isinstance(self.arms, ArmVectorEnv):
            return self.arms.save_state()
        return [arm.save_state() for arm in self._bare_arms]


def make_agent(config: TrainConfig, env: Any, seed: int | None = None, **options: Any) -> Agent:
    """The agent that `config` names, for one environment's sizes, bounds and reward.

    Its seed is the configuration's unless given; `options` are for `PolicyGradient`.
    """
    if env.actions != config.settings.actions:
        wanted = ENVIRONMENTS[config.settings.actions]
        policy = (
            f" with --policy {settings.policy}"
            if isinstance(settings := config.settings, PolicyGradientSettings)
            else ""
        )
        raise ValueError(f"agent {config.agent}{policy} wants --env {wanted}, got {config.env}, of {env.action_space}")
    if env.episode_steps % (repeat := config.settings.action_repeat):
        raise ValueError(f"--action-repeat: wanted a divisor of an episode's {env.episode_steps} steps, got {repeat}")
    spaces, limits = env.observation_space.spaces, env.arm.limits
    step_deg = tuple(speed * env.simulation.control_period_s for speed in limits.max_speed_deg_s)
    joints = env.arm.joint_count
    # On an arm that acts late, targets that go on from the previous one would overshoot by what is still to come.
    acts_at_once = env.imperfections.mean_delay_s < env.simulation.control_period_s
    absolute, box = config.control == "absolute", env.action_space
    low, high = (box.low, box.high) if env.grid is None else (limits.lower_deg, limits.upper_deg)
    spec = Spec(
        observation_size=spaces["observation"].shape[0],
        goal_size=spaces["desired_goal"].shape[0],
        goal_point_size=3,
        action_low=tuple(map(float, low)),
        action_high=tuple(map(float, high)),
        # The angles come first in `observation`; an action that is a change is not measured by anything.
        measured_columns=tuple(range(joints)) if absolute else None,
        measured_unit=1.0 / RADIANS,
        target_columns=tuple(range(2 * joints, 3 * joints)) if absolute and acts_at_once else None,
        rest_distance=env.arm.reach_m * RADIANS * env.imperfections.reading_error_deg,
        size=env.arm.reach_m / DEFAULT_REACH_M,
        max_step=step_deg if absolute else None,  # a change has its largest in its space
        kinematics=lambda observation, action: _lead(env, observation, action),
        grid_shape=env.grid.shape if env.grid is not None else None,
    )
    seed = config.seed if seed is None else seed
    if isinstance(config.settings, PolicyGradientSettings):
        return PolicyGradient(spec, config.settings, seed, **options)
    if isinstance(config.settings, DPGSettings):
        return DPG(spec, config.settings, seed)
    agent: Callable[..., Agent] = {"ddpg": DDPG, "dqn": DQN, "branching-dqn": DQN}[config.agent]
    return agent(spec, config.settings, env.compute_reward, seed)


def _lead(env: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Where the tip is (batch, 3) once the joints are where actions (batch, joints) ask for."""
    measured, _, previous_target, _ = split_observation(observation)
    tip: torch.Tensor = env.arm.forward_kinematics(target_of(action, env.control, measured, previous_target), torch)
    return tip


def check_arm(arm: Arm, urdf_text: str) -> None:
    """Raise ValueError if the run's arm has changed since its training."""
    if not arm.moves_like(Arm(arm.urdf, text=urdf_text)):
        raise ValueError(
            f"the arm in {arm.urdf} is not the one that the run was trained on: its joints or lengths differ"
        )
