"""A3C: asynchronous advantage actor-critic (Mnih et al. 2016, arXiv:1602.01783, Algorithm S3).

Workers, each with arms and a copy of the network of its own, learn at the same time. Each copies the shared parameters,
makes a few steps, and takes its gradient to the shared parameters at once, without a lock: another worker may have
moved them since, or be at it.

Differences from the paper:
- A worker may have several arms, since PyTorch's cost for one state is nearly that for eight.
- Policy and value are separate networks, as in the paper's continuous tasks; the standard deviation may depend on the
  state.
- Advantages may be divided by their root mean square, and long gradients are cut.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.a3c.settings import A3CSettings
from policies.agent import ComputeReward, Spec
from policies.common import averaging
from policies.common.policy_gradient import PolicyGradient
from policies.common.returns import returns
from policies.common.rollout import Credit, Steps

Memory = NDArray[np.uint8]
DECAY = 0.99  # alpha of equation (S1)
EPSILON = 1e-5


def make(
    spec: Spec,
    settings: A3CSettings,
    compute_reward: ComputeReward,
    seed: int,
    *,
    shared_memory: Callable[[int], Memory] | None = None,
    first: bool = True,
) -> PolicyGradient:
    """The agent of one worker.

    `shared_memory` gives the memory, of so many bytes, that the workers' parameters are in; by default it is the
    agent's own. The first agent there puts its parameters into it.
    """

    def share(parameters: list[torch.nn.Parameter]) -> SharedRMSProp:
        """The parameters in that memory."""
        if shared_memory is None:
            return SharedRMSProp(parameters)
        shared = SharedRMSProp(parameters, shared_memory(SharedRMSProp.bytes_needed(parameters)))
        if first:
            shared.publish()
        return shared

    return PolicyGradient(spec, settings, seed, a3c, share)


def a3c(steps: Steps, value: Tensor, next_value: Tensor, settings: A3CSettings) -> Credit:
    """R - V(s): R is what followed, R <- r + gamma R, from the value after the last step on."""
    r = returns(steps.reward, next_value, steps.terminated, steps.ended, settings.discount)
    return Credit(advantage=r - value, target=r, learned_from=torch.ones_like(value))


class SharedRMSProp:
    """Parameters, RMSProp's statistics and the average of them, in memory that several workers may share.

    Equations (S1) and (S2):  g <- alpha g + (1 - alpha) dtheta^2,  theta <- theta - eta dtheta / sqrt(g + epsilon).
    """

    def __init__(self, parameters: list[torch.nn.Parameter], memory: Memory | None = None) -> None:
        """Those of `memory`, of `bytes_needed` zeros or shared already; by default in memory of its own."""
        size = sum(parameter.numel() for parameter in parameters)
        self._local = parameters
        own = memory is None
        memory = np.zeros(self.bytes_needed(parameters), np.uint8) if memory is None else memory
        self._version = torch.from_numpy(memory[:8].view(np.int64))
        flat = torch.from_numpy(memory[8 : 8 + 12 * size].view(np.float32))
        self._shared, self._square, self._average = torch.split(flat, size)
        self._copied = 0
        self.staleness = 0
        if own:
            self.publish()

    @staticmethod
    def bytes_needed(parameters: list[torch.nn.Parameter]) -> int:
        """The size of the shared memory for such parameters."""
        return 8 + 12 * sum(parameter.numel() for parameter in parameters)

    @torch.no_grad()
    def publish(self) -> None:
        """Make the local parameters the shared ones, and their average."""
        self._shared.copy_(torch.cat([parameter.flatten() for parameter in self._local]))
        self._average.copy_(self._shared)

    def copy(self) -> None:
        """Make the shared parameters the local ones."""
        self._copied = int(self._version)
        _unflatten(self._shared, self._local)

    def copy_average(self, parameters: list[torch.nn.Parameter]) -> None:
        """Copy the average of the shared parameters into others, of which there may be only the first few."""
        _unflatten(self._average, parameters)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Descend along the local parameters' gradients.

        They are copied: to let the shared parameters' gradients be the workers' own, as was once common, applies
        wrong ones since PyTorch 2 replaces gradients instead of zeroing them.
        """
        gradient = torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in self._local])
        self._square.mul_(DECAY).addcmul_(gradient, gradient, value=1.0 - DECAY)
        self._shared.addcdiv_(gradient, (self._square + EPSILON).sqrt_(), value=-rate)
        version = int(self._version)
        self._average.lerp_(self._shared, averaging.weight(version + 1))
        self.staleness = version - self._copied  # updates of others since this one's copy
        self._version.add_(1)

    def state_dict(self) -> dict[str, Any]:
        """Shared parameters, statistics and average."""
        return {
            "shared": self._shared,
            "square": self._square,
            "average": self._average,
            "version": int(self._version),
            "copied": self._copied,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self._shared.copy_(state["shared"])
        self._square.copy_(state["square"])
        self._average.copy_(state["average"])
        self._version.fill_(state["version"])
        self._copied = state["copied"]


@torch.no_grad()
def _unflatten(flat: Tensor, parameters: list[torch.nn.Parameter]) -> None:
    """Copy the numbers of a flat tensor into parameters, one after the other."""
    begin = 0
    for parameter in parameters:
        end = begin + parameter.numel()
        parameter.copy_(flat[begin:end].view_as(parameter))
        begin = end
