"""Hindsight goals: transitions relearned for goals that they were not made for.

Andrychowicz et al. 2017, "Hindsight experience replay" (arXiv:1707.01495): an arm moves the same way whatever its goal.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from policies.agent import ComputeReward, Spec
from policies.replay_buffer import ReplayBuffer


class RelabelSettings(Protocol):
    """What `sample_relabelled` must be told."""

    @property
    def batch_size(self) -> int: ...
    @property
    def relabel_near(self) -> float: ...
    @property
    def relabel_other(self) -> float: ...
    @property
    def relabel_distance(self) -> float: ...


def sample_relabelled(
    replay: ReplayBuffer,
    spec: Spec,
    settings: RelabelSettings,
    compute_reward: ComputeReward,
    generator: np.random.Generator,
) -> dict[str, Tensor]:
    """A batch in which some transitions are relearned for other goals, their rewards computed anew.

    A goal moves, if it does, whatever the arm does; so another transition's goal, before and after the step, is as
    good as the own one, and so is the own one elsewhere.
    """
    point = spec.goal_point_size
    batch = replay.sample(settings.batch_size, generator)
    achieved = batch["next_achieved_goal"]
    away = generator.normal(size=achieved[:, :point].shape) * generator.random((len(achieved), 1))
    other = replay.sample(settings.batch_size, generator)
    lot = generator.random((len(achieved), 1))
    near = lot < settings.relabel_near
    swapped = ~near & (lot < settings.relabel_near + settings.relabel_other)
    goal, next_goal = (np.where(swapped, other[name], batch[name]) for name in ("desired_goal", "next_desired_goal"))
    # Moved so that after the step it is near where the tip went.
    shift = achieved[:, :point] + settings.relabel_distance * away - next_goal[:, :point]
    goal[:, :point] += near * shift
    next_goal[:, :point] += near * shift
    reward = compute_reward(achieved, next_goal, None).astype(np.float32)
    relearned = batch | {"desired_goal": goal, "next_desired_goal": next_goal}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in relearned.items()}
    return tensors | {"reward": torch.from_numpy(reward), "terminated": tensors["terminated"].squeeze(-1)}
