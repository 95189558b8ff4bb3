"""Collector: steps parallel environments with an agent's actions, and lets the agent learn from the transitions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from arm_control.evaluation.controllers import Observation
from arm_control.process.printing import counted
from arm_control.runs.agent import check_arm, make_agent
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from envs.vector.env import ArmVectorEnv
from policies.agent import FloatArray, Transition


class Advance(NamedTuple):
    """Progress of one call: environment steps of all arms together, updates, and the metrics of the last update."""

    steps: int
    updates: int
    metrics: dict[str, float]


class Collector:
    """Parallel environments, in this process or in worker processes, and the agent that acts on all of them."""

    def __init__(self, config: TrainConfig, seeds: Sequence[int], **options: Any) -> None:
        """Make an environment for each of the `seeds`; `options` are for `make_agent`."""
        self._config = config
        make_env = environment_maker(config)
        self._one_arm: Any = make_env().unwrapped  # for the spaces and the arm, which are the same for all
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
        """Take one action on every arm, repeated if the settings say so, and let the agent update.

        `progress` gives the training's progress (0 to 1) after a number of further steps.
        """
        # Act, and repeat the action; only the last of the repeated steps may end an episode.
        repeat = self._config.settings.action_repeat
        action = self.agent.act(self.observation, explore=True)
        rewards = []
        between = []
        for step in range(repeat):
            following, reward, terminated, truncated, info = self.arms.step(action)
            ended = terminated | truncated
            rewards.append(reward)
            if step + 1 < repeat:
                if ended.any():
                    raise RuntimeError("an episode ended before the last of an action's repeated steps")
                between.append(following)
        # Arms whose episodes ended were reset within the step: their transitions end in the final observations.
        next_observation = following
        if ended.any():
            next_observation = {key: value.copy() for key, value in following.items()}
            for index in np.flatnonzero(ended):
                for key, value in next_observation.items():
                    value[index] = info["final_obs"][index][key]
        # Store the transitions.
        self.agent.observe(
            Transition(
                observation=self.observation,
                action=action,
                # r = (r_1 + ... + r_K) / K, over the K repeated steps
                reward=np.mean(rewards, axis=0).astype(np.float32),
                next_observation=next_observation,
                terminated=terminated,
                ended=ended,
                achieved_between=_goals_of(between, "achieved_goal"),
                desired_between=_goals_of(between, "desired_goal"),
            )
        )
        self.observation = following
        # Learn.
        steps = self.arms.num_envs * repeat
        metrics = self.agent.update(progress(steps))
        return Advance(steps, int(metrics.pop("updates", 0)), metrics)

    def policy(self) -> torch.nn.Module:
        """The agent's present policy."""
        return self.agent.policy()

    def load_networks(self, state: dict[str, Any]) -> None:
        """Start from the networks of another run's `state_dict`."""
        self.agent.load_networks(state["agent"])

    def state_dict(self) -> dict[str, Any]:
        """The complete state: agent and environments."""
        return {
            "agent": self.agent.state_dict(),
            "arm_urdf": self._one_arm.arm.urdf_text,
            "arms": self._states(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`. Raises ValueError for another arm, or another number of arms."""
        check_arm(self._one_arm.arm, state["arm_urdf"])
        self.agent.load_state_dict(state["agent"])
        if len(state["arms"]) != self.arms.num_envs:
            raise ValueError(
                f"the checkpoint is of {counted(len(state['arms']), 'arm')}, config.json says {self.arms.num_envs}"
            )
        if isinstance(self.arms, ArmVectorEnv):
            self.observation = self.arms.restore_state(state["arms"])
        else:
            rows = [arm.restore_state(saved) for arm, saved in zip(self._bare_arms, state["arms"], strict=True)]
            for key in self.observation:
                self.observation[key] = np.stack([row[key] for row in rows])

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


def _goals_of(observations: Sequence[Observation], name: str) -> FloatArray | None:
    """The goals called `name` in several observations, (arms, observations, size); None if there are none."""
    if not observations:
        return None
    return np.stack([observation[name] for observation in observations], axis=1)
