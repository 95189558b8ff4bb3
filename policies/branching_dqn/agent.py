"""Branching DQN: Q-values of each joint's positions, summed (Tavakoli et al. 2018, Seyde et al. 2023).

The algorithm is in `policies.dqn.agent`, the head in `policies.common.branching_head`. The maximum over all
combinations is the sum of the joints' maxima: its cost grows with the sum of the numbers of positions, not their
product.
"""

from torch import Tensor

from policies.agent import ComputeReward, Spec
from policies.branching_dqn.settings import BranchingDQNSettings
from policies.common.action_grid import ActionGrid
from policies.common.branching_head import BranchingHead, make_branching_heads
from policies.dqn.agent import DQN


def make(spec: Spec, settings: BranchingDQNSettings, compute_reward: ComputeReward, seed: int) -> DQN:
    """Create the agent."""

    def make_heads(grid: ActionGrid, max_step: Tensor) -> tuple[BranchingHead, BranchingHead]:
        """Create a head and its target."""
        return make_branching_heads(grid, settings.hidden_units, max_step)

    return DQN(spec, settings, compute_reward, seed, make_heads, append_positions=True)
