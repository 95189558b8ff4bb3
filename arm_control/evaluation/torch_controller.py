"""A PyTorch policy as a controller."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from arm_control.evaluation.controllers import Observation, actions_for
from policies.agent import tensors_of


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: the networks are small, and a second one costs more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class TorchController:
    """A PyTorch policy as a controller for `arm_control.evaluation`."""

    def __init__(self, policy: torch.nn.Module) -> None:
        self._policy = policy
        self._memory: torch.Tensor | None = None

    def forget(self) -> None:
        """Begin anew."""
        self._memory = None

    @one_thread()
    @torch.no_grad()
    def __call__(self, observation: Observation, arms: list[Any]) -> Any:
        """The policy's actions."""
        seen = tensors_of(observation)
        if (memory := getattr(self._policy, "memory", None)) is None:
            return actions_for(self._policy(*seen).numpy(), arms)
        before = torch.zeros(len(arms), memory.size) if self._memory is None else self._memory
        action, self._memory = self._policy(*seen, before)
        return actions_for(action.numpy(), arms)
