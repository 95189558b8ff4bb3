"""Saving and restoring the parts of an agent by name: networks, optimisers, buffers, generators."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch


class Stateful(Protocol):
    """An object with a state of its own."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


Part = Stateful | torch.optim.Optimizer | np.random.Generator


def save_parts(parts: Mapping[str, Part]) -> dict[str, Any]:
    """Return the state of each part by name."""
    state: dict[str, Any] = {}
    for name, part in parts.items():
        if isinstance(part, np.random.Generator):
            state[name] = part.bit_generator.state
        elif isinstance(part, torch.optim.Optimizer):
            state[name] = optimizer_state(part)
        else:
            state[name] = part.state_dict()
    return state


def load_parts(parts: Mapping[str, Part], state: Mapping[str, Any]) -> None:
    """Restore each part from a state of `save_parts`. Raises KeyError if the state of a part is missing."""
    for name, part in parts.items():
        if isinstance(part, np.random.Generator):
            part.bit_generator.state = state[name]
        elif isinstance(part, torch.optim.Optimizer):
            load_optimizer_state(part, state[name])
        else:
            part.load_state_dict(state[name])


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's moments, by the position of the parameter."""
    moments = optimizer.state_dict()["state"]
    return {str(position): dict(values) for position, values in moments.items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore moments from `optimizer_state`; hyperparameters such as the learning rate are kept."""
    groups = optimizer.state_dict()["param_groups"]
    moments = {int(position): values for position, values in state.items()}
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
