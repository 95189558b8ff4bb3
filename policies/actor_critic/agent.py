"""One-step actor-critic (Sutton and Barto 2018, section 13.5, "One-step Actor-Critic (episodic)").

Differences from the book's algorithm: an update uses one step of all environments; and the factor I = gamma^t, which
weights late steps of an episode less, is optional (`discounted_start`).
"""

import torch

from policies.actor_critic.settings import ActorCriticSettings
from policies.agent import ComputeReward, Spec
from policies.common.policy_gradient import PolicyGradient
from policies.common.returns import td_errors
from policies.common.rollout import AdvantageEstimate, Steps


def actor_critic(
    steps: Steps, value: torch.Tensor, next_value: torch.Tensor, settings: ActorCriticSettings
) -> AdvantageEstimate:
    """The TD error as the advantage, optionally weighted by I.

    A_t  =  delta_t  =  r_t + gamma V(s_t+1) - V(s_t),      I  =  gamma^t,      value target  =  V(s_t) + delta_t
    """
    delta = td_errors(steps.reward, value, next_value, steps.terminated, settings.discount)
    i = settings.discount**steps.episode_step if settings.discounted_start else 1.0
    return AdvantageEstimate(advantage=delta, value_target=value + delta, mask=torch.ones_like(delta), weight=i)


def make(spec: Spec, settings: ActorCriticSettings, compute_reward: ComputeReward, seed: int) -> PolicyGradient:
    """Create the agent."""
    return PolicyGradient(spec, settings, seed, actor_critic)
