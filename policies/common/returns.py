"""Returns and advantages of steps in order, as pure functions of arrays (steps, arms).

`terminated` says where the task itself ended: nothing comes after. `ended` says where an episode ended for any reason:
at a time limit the value of the state that was reached, `next_value`, stands for what would have come.
"""

import torch
from torch import Tensor


def td_errors(reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, discount: float) -> Tensor:
    """delta = r + gamma V(s') - V(s), where V of a terminal state is 0 (Sutton and Barto 2018, section 13.5)."""
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
    """A_t = delta_t + gamma lambda A_t+1 (Schulman et al. 2016, arXiv:1506.02438, equation 16).

    With lambda = 1: the rewards up to the episode's end, or to the last step and the value after it, minus V(s_t).
    """
    delta = td_errors(reward, value, next_value, terminated, discount)
    advantage = torch.empty_like(delta)
    following = torch.zeros_like(delta[0])
    for step in reversed(range(len(delta))):
        following = delta[step] + discount * gae_lambda * (1.0 - ended[step]) * following
        advantage[step] = following
    return advantage


def returns(reward: Tensor, next_value: Tensor, terminated: Tensor, ended: Tensor, discount: float) -> Tensor:
    """G_t = r_t + gamma G_t+1, up to the episode's end or the last step, and from there on `next_value`."""
    zero = torch.zeros_like(reward)
    last = ended.clone()
    last[-1] = 1.0  # a value stands for the rest only where the rest is not seen
    return advantages(reward, zero, next_value * last, terminated, ended, discount, 1.0)


def complete(ended: Tensor) -> Tensor:
    """1.0 where a step's episode ends within these steps, else 0.0."""
    return ended.flip(0).cummax(0).values.flip(0)
