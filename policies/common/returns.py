"""Returns and advantages as pure functions of steps in order, (steps, num_envs) each.

`terminated` is 1.0 where the task itself ended: nothing comes after. `ended` is 1.0 where the episode ended, by
termination or a time limit: at a time limit, the value of the last state, `next_value`, replaces the rest of the
return.
"""

import torch
from torch import Tensor


def td_errors(reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, discount: float) -> Tensor:
    """TD errors (steps, num_envs) (Sutton and Barto 2018, section 13.5); V of a terminal state is 0."""
    # delta_t = r_t + gamma V(s_t+1) - V(s_t)
    return reward + discount * (1.0 - terminated) * next_value - value


def advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    ended: Tensor,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates (steps, num_envs) (Schulman et al. 2016, arXiv:1506.02438, equation 16).

    With lambda = 1, the return up to the end of the episode, or to the last step and the value after it, minus V(s_t).
    """
    delta = td_errors(reward, value, next_value, terminated, discount)
    advantage = torch.empty_like(delta)
    following = torch.zeros_like(delta[0])
    for step in reversed(range(len(delta))):
        # A_t = delta_t + gamma lambda A_t+1, where A_t+1 is 0 after the end of an episode
        following = delta[step] + discount * gae_lambda * (1.0 - ended[step]) * following
        advantage[step] = following
    return advantage


def returns(reward: Tensor, next_value: Tensor, terminated: Tensor, ended: Tensor, discount: float) -> Tensor:
    """Discounted returns (steps, num_envs) up to the end of the episode, or to the last step and the value after it."""
    # G_t = r_t + gamma G_t+1: the advantages with lambda = 1 and values of 0, except where the following steps are
    # not part of the rollout
    zero = torch.zeros_like(reward)
    bootstraps = ended.clone()
    bootstraps[-1] = 1.0
    return advantages(reward, zero, next_value * bootstraps, terminated, ended, discount, 1.0)


def in_complete_episode(ended: Tensor) -> Tensor:
    """Mask (steps, num_envs): 1.0 where the episode of a step ends within these steps, else 0.0."""
    return ended.flip(0).cummax(0).values.flip(0)
