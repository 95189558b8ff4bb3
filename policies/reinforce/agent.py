"""REINFORCE: Monte Carlo policy gradient (Williams 1992, doi:10.1007/BF00992696), with a baseline.

Sutton and Barto 2018, sections 13.3 and 13.4.

Differences from the book's algorithm:
- No factor gamma^t before the gradient: late steps of an episode have the same weight as early ones.
- A time limit is not the end of the task. The value baseline replaces the rest of the return after it; with the other
  baselines, the rest is omitted.
- Episodes of several environments may end at different times. Episodes that have not ended at an update are omitted,
  which are mostly long ones. If all have the same length, as the arm's do, none is omitted.
- The gradient is a mean over the steps of several episodes, and may be scaled (`policies.common.policy_gradient`).
"""

import torch

from policies.agent import ComputeReward, Spec
from policies.common.policy_gradient import PolicyGradient
from policies.common.returns import in_complete_episode, returns
from policies.common.rollout import AdvantageEstimate, Steps
from policies.reinforce.settings import ReinforceSettings


def reinforce(
    steps: Steps, value: torch.Tensor, next_value: torch.Tensor, settings: ReinforceSettings
) -> AdvantageEstimate:
    """Monte Carlo returns minus a baseline that does not depend on the action.

    A_t  =  G_t - b(s_t),      G_t  =  r_t + gamma r_t+1 + gamma^2 r_t+2 + ...,      value target  =  G_t
    """
    # G_t, which bootstraps at a time limit if there is a value.
    bootstrap_value = next_value if settings.baseline == "value" else torch.zeros_like(next_value)
    g = returns(steps.reward, bootstrap_value, steps.terminated, steps.ended, settings.discount)

    # b(s_t)
    if settings.baseline == "value":
        baseline = value
    elif settings.baseline == "average":
        # The mean return of the other environments: an environment's own return depends on its action.
        num_envs = g.shape[1]
        baseline = (g.sum(1, keepdim=True) - g) / max(1, num_envs - 1)
    else:
        baseline = torch.zeros_like(g)
    return AdvantageEstimate(advantage=g - baseline, value_target=g, mask=in_complete_episode(steps.ended))


def make(spec: Spec, settings: ReinforceSettings, compute_reward: ComputeReward, seed: int) -> PolicyGradient:
    """Create the agent."""
    return PolicyGradient(spec, settings, seed, reinforce)
