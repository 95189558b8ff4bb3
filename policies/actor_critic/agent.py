"""One-step actor-critic (Sutton and Barto 2018, section 13.5, "One-step Actor-Critic (episodic)").

Difference from the book's algorithm: several arms make a step, and learn from it, together; and the factor I = gamma^t,
by which late steps of an episode count less, is left out unless asked for.
"""

import torch

from policies.actor_critic.settings import ActorCriticSettings
from policies.agent import ComputeReward, Spec
from policies.common.policy_gradient import PolicyGradient
from policies.common.returns import td_errors
from policies.common.rollout import Credit, Steps


def actor_critic(steps: Steps, value: torch.Tensor, next_value: torch.Tensor, settings: ActorCriticSettings) -> Credit:
    """delta, with the weight I: how much better than expected each step went, as far as the value after it says."""
    delta = td_errors(steps.reward, value, next_value, steps.terminated, settings.discount)
    i = settings.discount**steps.place if settings.discounted_start else 1.0
    return Credit(advantage=delta, target=value + delta, learned_from=torch.ones_like(delta), weight=i)


def make(spec: Spec, settings: ActorCriticSettings, compute_reward: ComputeReward, seed: int) -> PolicyGradient:
    """The agent."""
    return PolicyGradient(spec, settings, seed, actor_critic)
