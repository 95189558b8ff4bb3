"""Hindsight goals: transitions relabelled for other goals than the ones they were collected with.

Andrychowicz et al. 2017, "Hindsight experience replay" (arXiv:1707.01495): the dynamics do not depend on the goal.

A batch is made in three steps: draw transitions (`ReplayBuffer.draw`), choose new goals for some of them
(`choose_goals`), and compute their rewards for these goals, over one step or several (`n_step`).
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

Batch = dict[str, FloatArray]  # fields of `ReplayBuffer`, (batch, size) each
TipAtTarget = Callable[[Batch], FloatArray]


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
    """New goals for some transitions of a batch, the same for every step of an n-step transition.

    A goal moves independently of the arm. Therefore the goal of another transition, before and after its step, can
    replace a transition's own, and so can its own goal displaced.
    """

    swapped: NDArray[np.bool_]  # (batch, 1): whether the transition gets the goal of another one
    shift: FloatArray  # (batch, point size): displacement of the goal's position, 0 if it is not relabelled

    def relabel(self, batch: Batch, other: Batch) -> Batch:
        """Return the batch with its new goals. `other` are the transitions from which goals are taken."""
        relabelled = dict(batch)
        for name in GOALS:
            if name not in batch:  # only batches with repeated actions have goals between
                continue
            goal = np.where(self.swapped, other[name], batch[name])
            # A view (batch, goals, goal size): `desired_between` holds several goals side by side.
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
    tip_at_target: TipAtTarget | None = None,
) -> dict[str, Tensor]:
    """Sample a batch, relabel some of its transitions for other goals, and compute the rewards.

    Returns the fields of the replay buffer, (batch, size), with `reward`, `terminated` and `bootstrap` (batch,).
    `reward` is a discounted sum over `steps` steps, fewer at the end of an episode, and `bootstrap` the factor of the
    value after them (see `n_step`). With `latest`, all transitions are of the last step of all environments. For
    `tip_at_target` see `choose_goals`.
    """
    # Draw the transitions, and as many others whose goals some of them get.
    indices = replay.draw(settings.batch_size, generator, latest=latest)
    other_indices = replay.draw(settings.batch_size, generator, latest=latest)

    # Choose the new goals.
    goals = choose_goals(replay.at(indices), replay.at(other_indices), spec, settings, generator, tip_at_target)

    # Relabel, and compute the rewards.
    relabelled = n_step(replay, indices, other_indices, goals, compute_reward, discount, steps)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in relabelled.items()}
    for name in ("reward", "terminated", "bootstrap"):
        tensors[name] = tensors[name].squeeze(-1)
    return tensors


def choose_goals(
    batch: Batch,
    other: Batch,
    spec: Spec,
    settings: RelabelSettings,
    generator: np.random.Generator,
    tip_at_target: TipAtTarget | None,
) -> NewGoals:
    """Choose which transitions get a goal near the tip, and which one, and which get the goal of another transition.

    Goals near the tip lie around its position before the step or, with `tip_at_target`, around the points (batch,
    point size) that it computes from a batch: the tip's positions at the actions' targets. Agents with large steps
    need the latter, since few goals near the tip are where one of their actions leads. Goals around the tip *after*
    the step would depend on hidden state, and bias the rewards.
    """
    # With probability relabel_near a goal near the tip, with probability relabel_other another transition's goal.
    drawn = generator.random((len(batch["reward"]), 1))
    near = drawn < settings.relabel_near
    swapped = ~near & (drawn < settings.relabel_near + settings.relabel_other)

    # shift = centre + displacement - goal, with the length of the displacement log-uniform
    point = spec.goal_point_size
    goal = np.where(swapped, other["desired_goal"], batch["desired_goal"])
    centre = batch["achieved_goal"][:, :point] if tip_at_target is None else tip_at_target(batch)
    max_distance = settings.relabel_distance * spec.size
    displacement = displacements(centre.shape, max_distance / RELABEL_RATIO, max_distance, generator)
    return NewGoals(swapped, near * (centre + displacement - goal[:, :point]))


def n_step(
    replay: ReplayBuffer,
    indices: NDArray[np.int64],
    other_indices: NDArray[np.int64],
    goals: NewGoals,
    compute_reward: ComputeReward,
    discount: float,
    steps: int,
) -> dict[str, NDArray[np.floating]]:
    """Relabelled transitions over n steps: `steps`, or fewer if the episode ends or no more of it is stored.

    Fields (batch, size) of the replay buffer, those after the step taken from the last of the n steps, and

    reward     R = sum over k < n of  gamma^k r_t+k
    bootstrap  gamma^n, or 0 if the task ended:  Q(s_t, a_t)  <-  R + bootstrap * max Q(s_t+n, .)
    """
    # R = r_t,  bootstrap = gamma
    batch = goals.relabel(replay.at(indices), replay.at(other_indices))
    batch["reward"] = rewards(batch, compute_reward)
    bootstrap = discount * (1.0 - batch["terminated"].astype(np.float64))
    continues = np.ones_like(goals.swapped)
    for step in range(1, steps):
        # The next step of the same episode, and of the one whose goal was taken.
        indices, own_continues = replay.following(indices)
        other_indices, other_continues = replay.following(other_indices)
        continues &= own_continues[:, None] & (other_continues[:, None] | ~goals.swapped)
        following = goals.relabel(replay.at(indices), replay.at(other_indices))

        # R <- R + gamma^k r_t+k
        batch["reward"] += continues * np.float32(discount**step) * rewards(following, compute_reward)

        # bootstrap <- gamma^(k+1),  and the state after k + 1 steps
        following_bootstrap = discount ** (step + 1) * (1.0 - following["terminated"].astype(np.float64))
        bootstrap = np.where(continues, following_bootstrap, bootstrap)
        for name in AFTER_STEP:
            batch[name] = np.where(continues, following[name], batch[name])
    return {**batch, "bootstrap": bootstrap}


def rewards(batch: Batch, compute_reward: ComputeReward) -> FloatArray:
    """Rewards (batch, 1) of the transitions for their goals.

    If an action is held for K control steps, the mean over these:  r = 1/K sum of R(achieved goal, desired goal)
    The sum is divided by K so that Q-values, and the learning rate that suits them, do not depend on K.
    """
    achieved_goal = batch["next_achieved_goal"]
    reward: FloatArray = compute_reward(achieved_goal, batch["next_desired_goal"], None).astype(np.float32)
    if "achieved_between" in batch:
        shape = (len(reward), -1, achieved_goal.shape[1])
        achieved = batch["achieved_between"].reshape(shape)
        desired = batch["desired_between"].reshape(shape)
        for step in range(achieved.shape[1]):
            reward = reward + compute_reward(achieved[:, step], desired[:, step], None).astype(np.float32)
        reward = reward / np.float32(achieved.shape[1] + 1)
    return reward[:, None]


def displacements(
    shape: tuple[int, int], min_length: float, max_length: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Vectors (batch, size) with uniformly random directions and log-uniform lengths."""
    direction = generator.normal(size=shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = np.exp(generator.uniform(np.log(min_length), np.log(max_length), (shape[0], 1)))
    return (length * direction).astype(np.float32)
