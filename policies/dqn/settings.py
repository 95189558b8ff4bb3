"""Settings of DQN."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from policies.common.settings import ActionKind, QLearningSettings


@dataclass(frozen=True)
class DQNSettings(QLearningSettings):
    """Deep Q-learning (Mnih et al. 2015) with one output for every action of the degree grid."""

    actions: ClassVar[ActionKind] = "index"

    action_repeat: int = 5
    """Control steps for which an action is held while learning (the paper's frame skip); their rewards are averaged."""
    updates_per_step: int = 5
    """Updates for each action of all arms together."""
    head: Literal["random", "zero", "features"] = "zero"
    """How the outputs' weights start, at random or at zero; or features: computed from each action's angles."""
