"""Settings of DQN."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from policies.common.settings import ActionKind, QLearningSettings


@dataclass(frozen=True)
class DQNSettings(QLearningSettings):
    """Deep Q-learning (Mnih et al. 2015) with one output for each action of the degree grid."""

    actions: ClassVar[ActionKind] = "index"

    action_repeat: int = 5
    """Control steps for which an action is held in training (the paper's frame skip); their rewards are averaged."""
    updates_per_step: int = 5
    """Updates after each action of all environments."""
    head: Literal["random", "zero", "features"] = "zero"
    """Weights of the outputs: initialised randomly or with zeros, or (features) computed from each action's angles."""
