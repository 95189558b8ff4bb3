"""A PyTorch policy as a controller."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from arm_control.evaluation.controllers import Observation, actions_for
from policies.agent import StochasticPolicy, tensors_of


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: for small networks, more threads are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class TorchController:
    """A PyTorch policy as a controller for `arm_control.evaluation`."""

    def __init__(self, policy: torch.nn.Module, generator: np.random.Generator | None = None) -> None:
        """With a generator, which requires a `StochasticPolicy`, actions are drawn from the policy."""
        self._policy = policy
        self._decide: Any = policy
        if generator is not None:
            self._decide = partial(cast(StochasticPolicy, policy).sample, generator)
        self._recurrent_state: torch.Tensor | None = None

    def reset(self) -> None:
        """Reset the recurrent state."""
        self._recurrent_state = None

    @one_thread()
    @torch.no_grad()
    def __call__(self, observation: Observation, arms: list[Any]) -> Any:
        """The policy's actions."""
        inputs = tensors_of(observation)
        memory = getattr(self._policy, "memory", None)
        if memory is None:
            return actions_for(self._decide(*inputs).numpy(), arms)
        if self._recurrent_state is None:
            self._recurrent_state = torch.zeros(len(arms), memory.size)
        action, self._recurrent_state = self._decide(*inputs, self._recurrent_state)
        return actions_for(action.numpy(), arms)
