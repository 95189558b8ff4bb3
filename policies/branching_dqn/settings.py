"""Settings of branching DQN."""

from dataclasses import dataclass
from typing import ClassVar

from policies.common.settings import ActionKind, QLearningSettings


@dataclass(frozen=True)
class BranchingDQNSettings(QLearningSettings):
    """Deep Q-learning with one output for each position of each joint (Tavakoli et al. 2018, Seyde et al. 2023)."""

    actions: ClassVar[ActionKind] = "positions"

    batch_size: int = 128
    """Transitions in the minibatch of one update."""
