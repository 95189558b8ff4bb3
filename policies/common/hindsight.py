"""Hindsight goals: transitions relabelled for goals that they were not made for.

Andrychowicz et al. 2017, "Hindsight experience replay" (arXiv:1707.01495): an arm moves the same way whatever its goal.

A batch is made in three steps: transitions are drawn (`ReplayBuffer.draw`), some of them get another goal
(`choose_goals`), and their rewards are computed for it, over one step or several (`n_step`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.agent import ComputeReward, FloatArray, Spec
from policies.common.replay_buffer import ReplayBuffer

RELABEL_RATIO = 100.0  # of the largest to the smallest distance of a goal near the tip
GOALS = ("desired_goal", "next_desired_goal", "desired_between")
AFTER_STEP = ("next_observation", "next_achieved_goal", "next_desired_goal", "terminated")

Batch = dict[str, FloatArray]
LeadsTo = Callable[[Batch], FloatArray]


class RelabelSettings(Protocol):
    """The settings of an agent that `sample_relabelled` uses."""

    @property
    def batch_size(self) -> int: ...
    @property
    def relabel_near(self) -> float: ...
    @property
    def relabel_other(self) -> float: ...
    @property
    def relabel_distance(self) -> float: ...


@dataclass(frozen=True)
class NewGoals:
    """Which transitions of a batch get another goal: the same for every step of an n-step transition.

    A goal moves, if it does, whatever the arm does. So another transition's goal, before and after the step, is as good
    as the own one, and so is the own one elsewhere.
    """

    swapped: NDArray[np.bool_]  # (batch, 1): the transition gets the goal of another one
    shift: FloatArray  # (batch, point size): the displacement of the goal's position, 0 for goals that stay

    def relabel(self, batch: Batch, other: Batch) -> Batch:
        """The batch with its new goals; `other` are the transitions that goals are taken from."""
        relabelled = dict(batch)
        for name in GOALS:
            if name not in batch:  # without repeated steps there are no goals between
                continue
            goal = np.where(self.swapped, other[name], batch[name])
            # One goal, or several after another.
            goals = goal.reshape(len(goal), -1, batch["desired_goal"].shape[1])
            goals[:, :, : self.shift.shape[1]] += self.shift[:, None]
            relabelled[name] = goal
        return relabelled


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
    leads_to: LeadsTo | None = None,
) -> dict[str, Tensor]:
    """A batch in which some transitions are relabelled for other goals, their rewards computed for these.

    `reward` is a sum over `steps` steps, fewer at an episode's end, and `bootstrap` the factor of the value after them;
    see `n_step`. With `latest`, all transitions are of the last step of all arms. For `leads_to` see `choose_goals`.
    """
    # Draw the transitions, and as many others whose goals some of them get.
    places = replay.draw(settings.batch_size, generator, latest=latest)
    other_places = replay.draw(settings.batch_size, generator, latest=latest)

    # Choose the new goals.
    goals = choose_goals(replay.at(places), replay.at(other_places), spec, settings, generator, leads_to)

    # Compute the rewards for them.
    relabelled = n_step(replay, places, other_places, goals, compute_reward, discount, steps)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in relabelled.items()}
    return tensors | {name: tensors[name].squeeze(-1) for name in ("reward", "terminated", "bootstrap")}


def choose_goals(
    batch: Batch,
    other: Batch,
    spec: Spec,
    settings: RelabelSettings,
    generator: np.random.Generator,
    leads_to: LeadsTo | None,
) -> NewGoals:
    """Draw which transitions get a goal near the tip, and where, and which get the goal of another transition.

    Goals near the tip lie around where it was before the step or, with `leads_to`, around the points (batch, point
    size) that it computes from a batch's observations and actions. Agents whose actions lead far need the latter: few
    goals near the tip are where one of their actions leads. Around the tip after the step, a goal would depend on what
    is hidden from the agent.
    """
    # With probability relabel_near a goal near the tip, with probability relabel_other another transition's goal.
    drawn = generator.random((len(batch["reward"]), 1))
    near = drawn < settings.relabel_near
    swapped = ~near & (drawn < settings.relabel_near + settings.relabel_other)

    # shift = centre + displacement - goal, with a displacement whose length is spread evenly in the logarithm
    point = spec.goal_point_size
    goal = np.where(swapped, other["desired_goal"], batch["desired_goal"])
    centre = batch["achieved_goal"][:, :point] if leads_to is None else leads_to(batch)
    farthest = settings.relabel_distance * spec.size
    displacement = displacements(centre.shape, farthest / RELABEL_RATIO, farthest, generator)
    return NewGoals(swapped, near * (centre + displacement - goal[:, :point]))


def n_step(
    replay: ReplayBuffer,
    places: NDArray[np.int64],
    other_places: NDArray[np.int64],
    goals: NewGoals,
    compute_reward: ComputeReward,
    discount: float,
    steps: int,
) -> dict[str, NDArray[np.floating]]:
    """Transitions over several steps, as many as were stored of the same episode, up to `steps`.

    reward     R = sum over k < n of  gamma^k r_t+k
    bootstrap  gamma^n, or 0 where the task ended:  Q(s_t, a_t)  <-  R + bootstrap * max Q(s_t+n, .)
    """
    batch = goals.relabel(replay.at(places), replay.at(other_places))
    batch["reward"] = rewards(batch, compute_reward)
    bootstrap = discount * (1.0 - batch["terminated"].astype(np.float64))
    continues = np.ones_like(goals.swapped)
    for step in range(1, steps):
        # The next step of the same episode, and of the one that the goal is from.
        places, own_continues = replay.following(places)
        other_places, other_continues = replay.following(other_places)
        continues &= own_continues[:, None] & (other_continues[:, None] | ~goals.swapped)
        following = goals.relabel(replay.at(places), replay.at(other_places))

        # R <- R + gamma^k r_t+k
        batch["reward"] += continues * np.float32(discount**step) * rewards(following, compute_reward)
        later = discount ** (step + 1) * (1.0 - following["terminated"].astype(np.float64))
        bootstrap = np.where(continues, later, bootstrap)
        for name in AFTER_STEP:
            batch[name] = np.where(continues, following[name], batch[name])
    return {**batch, "bootstrap": bootstrap}


def rewards(batch: Batch, compute_reward: ComputeReward) -> FloatArray:
    """The reward (batch, 1) of each transition for its goal.

    Of an action that is held for K control steps:  r = 1/K sum over these of  R(achieved goal, desired goal) after each
    The sum is divided by K so that Q-values, and the learning rate that suits them, do not depend on K.
    """
    achieved_goal = batch["next_achieved_goal"]
    reward: FloatArray = compute_reward(achieved_goal, batch["next_desired_goal"], None).astype(np.float32)
    if "achieved_between" in batch:
        between = (len(reward), -1, achieved_goal.shape[1])
        achieved = batch["achieved_between"].reshape(between)
        desired = batch["desired_between"].reshape(between)
        for step in range(achieved.shape[1]):
            reward = reward + compute_reward(achieved[:, step], desired[:, step], None).astype(np.float32)
        reward = reward / np.float32(achieved.shape[1] + 1)
    return reward[:, None]


def displacements(
    shape: tuple[int, int], nearest: float, farthest: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Vectors (batch, size) in uniformly random directions, their lengths spread evenly in the logarithm."""
    direction = generator.normal(size=shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = np.exp(generator.uniform(np.log(nearest), np.log(farthest), (shape[0], 1)))
    return (length * direction).astype(np.float32)
