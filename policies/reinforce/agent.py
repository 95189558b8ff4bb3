"""REINFORCE: Monte Carlo policy gradient (Williams 1992, doi:10.1007/BF00992696), with a baseline.

Sutton and Barto 2018, sections 13.3 and 13.4.

Differences from the book's algorithm:
- No factor gamma^t before the gradient: late steps of an episode count as much as early ones.
- A time limit is not the end of the task. The value baseline, where there is one, stands for the rewards that would
  have come after it; without one they are left out.
- Several arms' episodes may end at different times; an update then leaves out what has not ended, mostly long episodes.
  Where all are of one length, as the arm's are, nothing is.
- The gradient is a mean over the steps of several arms' episodes, and may be scaled
  (`policies.common.policy_gradient`).
"""

import torch

from policies.agent import ComputeReward, Spec
from policies.common.policy_gradient import PolicyGradient
from policies.common.returns import complete, returns
from policies.common.rollout import Credit, Steps
from policies.reinforce.settings import ReinforceSettings


def reinforce(steps: Steps, value: torch.Tensor, next_value: torch.Tensor, settings: ReinforceSettings) -> Credit:
    """G_t - b(s_t): what came of each step, less a baseline that does not depend on its action."""
    known = next_value if settings.baseline == "value" else torch.zeros_like(next_value)
    g = returns(steps.reward, known, steps.terminated, steps.ended, settings.discount)
    learned_from = complete(steps.ended)  # the rest of the other episodes is not known yet
    if settings.baseline == "value":
        baseline = value
    elif settings.baseline == "average":  # of the other arms: one's own return depends on one's own action
        arms = g.shape[1]
        baseline = (g.sum(1, keepdim=True) - g) / max(1, arms - 1)
    else:
        baseline = torch.zeros_like(g)
    return Credit(advantage=g - baseline, target=g, learned_from=learned_from)


def make(spec: Spec, settings: ReinforceSettings, compute_reward: ComputeReward, seed: int) -> PolicyGradient:
    """The agent."""
    return PolicyGradient(spec, settings, seed, reinforce)
