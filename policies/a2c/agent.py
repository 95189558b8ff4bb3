"""A2C: advantage actor-critic, the synchronous variant of A3C (Mnih et al. 2016, arXiv:1602.01783).

All environments make a few steps with the same policy, followed by one update from all of them. Further differences
from A3C: generalised advantage estimation (Schulman et al. 2016), of which A3C's is the case lambda = 1, and Adam.
"""

import torch

from policies.a2c.settings import A2CSettings
from policies.agent import ComputeReward, Spec
from policies.common.policy_gradient import PolicyGradient
from policies.common.returns import advantages
from policies.common.rollout import AdvantageEstimate, Steps


def a2c(steps: Steps, value: torch.Tensor, next_value: torch.Tensor, settings: A2CSettings) -> AdvantageEstimate:
    """Generalised advantage estimation.

    A_t  =  sum over k of  (gamma lambda)^k delta_t+k,      value target  =  V(s_t) + A_t
    """
    advantage = advantages(
        steps.reward, value, next_value, steps.terminated, steps.ended, settings.discount, settings.gae_lambda
    )
    return AdvantageEstimate(advantage=advantage, value_target=value + advantage, mask=torch.ones_like(value))


def make(spec: Spec, settings: A2CSettings, compute_reward: ComputeReward, seed: int) -> PolicyGradient:
    """Create the agent."""
    return PolicyGradient(spec, settings, seed, a2c)
