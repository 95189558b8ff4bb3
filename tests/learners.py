"""Agents made from their settings alone, as `policies.registry` makes them by their names."""

from typing import Any

import numpy as np

from policies.agent import Spec
from policies.common.settings import AgentSettings
from policies.registry import AGENTS, make_agent

NAMES = {kind: name for name, kind in AGENTS.items()}


def minus_distance(achieved_goal: Any, desired_goal: Any, info: Any = None) -> Any:
    """The dense reward: the negative distance of a point from the goal."""
    return -np.linalg.norm(achieved_goal - desired_goal, axis=-1)


def make(
    spec: Spec, settings: AgentSettings, seed: int = 0, compute_reward: Any = minus_distance, **options: Any
) -> Any:
    """The agent that these settings belong to."""
    return make_agent(NAMES[type(settings)], spec, settings, compute_reward, seed, **options)
