"""Hindsight goals: transitions relabelled for goals that they were not made for.

Andrychowicz et al. 2017, "Hindsight experience replay" (arXiv:1707.01495): an arm moves the same way whatever its goal.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.agent import ComputeReward, FloatArray, Spec
from policies.common.replay_buffer import ReplayBuffer

RELABEL_RATIO = 100.0  # of the largest to the smallest distance of a goal near the tip


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
    *,
    discount: float,
    steps: int = 1,
    latest: bool = False,
    leads_to: Callable[[dict[str, FloatArray]], FloatArray] | None = None,
) -> dict[str, Tensor]:
    """A batch in which some transitions are relabelled for other goals, their rewards computed anew.

    A goal moves, if it does, whatever the arm does; so another transition's goal, before and after the step, is as
    good as the own one, and so is the own one elsewhere.

    Goals near the tip lie around where it was before the step or, with `leads_to`, around the points (batch, point
    size) that it makes of a batch's observations and actions. Agents whose actions lead far need the latter: few goals
    near the tip are where one of their actions leads.

    A transition is as many `steps` as were stored of its episode, up to this number: `reward` is then the sum of
    discount^k r_k, and what comes after it that of the last one. `bootstrap` is what to multiply the value after it by:
    discount^steps, or 0 where the task ended. With `latest`, all are of the last step of all arms.
    """
    point = spec.goal_point_size
    places = replay.draw(settings.batch_size, generator, latest=latest)
    batch = replay.at(places)
    other_places = replay.draw(settings.batch_size, generator, latest=latest)
    other = replay.at(other_places)

    # Choose the transitions that get a goal near the tip, and those that get the goal of another transition.
    drawn = generator.random((settings.batch_size, 1))
    near = drawn < settings.relabel_near
    swapped = ~near & (drawn < settings.relabel_near + settings.relabel_other)
    goal = np.where(swapped, other["desired_goal"], batch["desired_goal"])
    next_goal = np.where(swapped, other["next_desired_goal"], batch["next_desired_goal"])

    # Around the tip before the step, or where the action leads: around the tip after the step, a goal would depend on
    # what is hidden from the agent.
    centre = batch["achieved_goal"][:, :point] if leads_to is None else leads_to(batch)
    farthest = settings.relabel_distance * spec.size
    away = displacements(centre.shape, farthest / RELABEL_RATIO, farthest, generator)
    shift = near * (centre + away - goal[:, :point])
    goal[:, :point] += shift
    next_goal[:, :point] += shift
    achieved = batch["next_achieved_goal"]
    reward = compute_reward(achieved, next_goal, None).astype(np.float32)[:, None]
    relabelled = batch | {"desired_goal": goal, "next_desired_goal": next_goal, "reward": reward}
    bootstrap = discount * (1.0 - batch["terminated"].astype(np.float64))
    goes_on = np.ones_like(near)
    for step in range(1, steps):
        (places, own_goes_on), (other_places, other_goes_on) = map(replay.following, (places, other_places))
        goes_on &= own_goes_on[:, None] & (other_goes_on[:, None] | ~swapped)
        batch, other = replay.at(places), replay.at(other_places)
        batch["next_desired_goal"] = np.where(swapped, other["next_desired_goal"], batch["next_desired_goal"])
        batch["next_desired_goal"][:, :point] += shift
        reward = compute_reward(batch["next_achieved_goal"], batch["next_desired_goal"], None)[:, None]
        relabelled["reward"] += goes_on * np.float32(discount**step) * reward.astype(np.float32)
        later = discount ** (step + 1) * (1.0 - batch["terminated"].astype(np.float64))
        bootstrap = np.where(goes_on, later, bootstrap)
        for name in ("next_observation", "next_achieved_goal", "next_desired_goal", "terminated"):
            relabelled[name] = np.where(goes_on, batch[name], relabelled[name])
    relabelled["bootstrap"] = bootstrap
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in relabelled.items()}
    return tensors | {name: tensors[name].squeeze(-1) for name in ("reward", "terminated", "bootstrap")}


def displacements(
    shape: tuple[int, int], nearest: float, farthest: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Vectors (batch, size) in uniformly random directions, their lengths spread evenly in the logarithm."""
    direction = generator.normal(size=shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = np.exp(generator.uniform(np.log(nearest), np.log(farthest), (shape[0], 1)))
    return (length * direction).astype(np.float32)
