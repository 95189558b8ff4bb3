"""A2C: advantage actor-critic, the synchronous twin of A3C (Mnih et al. 2016, arXiv:1602.01783).

All arms make a few steps with the same policy, then it learns once from all of them. Differences from A3C's algorithm,
beside that: generalised advantages (Schulman et al. 2016), of which A3C's are those with lambda = 1; Adam.
"""

import torch

from policies.a2c.settings import A2CSettings
from policies.agent import ComputeReward, Spec
from policies.common.policy_gradient import PolicyGradient
from policies.common.returns import advantages
from policies.common.rollout import Credit, Steps


def a2c(steps: Steps, value: torch.Tensor, next_value: torch.Tensor, settings: A2CSettings) -> Credit:
    """The sum of (gamma lambda)^k delta_t+k: how much better than expected the steps from each one on went."""
    advantage = advantages(
        steps.reward, value, next_value, steps.terminated, steps.ended, settings.discount, settings.gae_lambda
    )
    return Credit(advantage=advantage, target=value + advantage, learned_from=torch.ones_like(value))


def make(spec: Spec, settings: A2CSettings, compute_reward: ComputeReward, seed: int) -> PolicyGradient:
    """The agent."""
    return PolicyGradient(spec, settings, seed, a2c)
