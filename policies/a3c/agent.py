"""A3C: asynchronous advantage actor-critic (Mnih et al. 2016, arXiv:1602.01783, Algorithm S3).

Workers, each with its own environments and copy of the networks, learn concurrently. Each copies the shared parameters,
makes a few steps, and applies its gradient to the shared parameters without a lock: another worker may have updated
them in between, or be updating them at the same time.

Differences from the paper:
- A worker has several environments, since PyTorch takes hardly longer for eight states than for one.
- Policy and value are separate networks, as in the paper's continuous tasks; the standard deviation may depend on the
  state.
- Advantages may be divided by their root mean square, and gradients are clipped.
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
from policies.common.rollout import AdvantageEstimate, Steps

SharedMemory = NDArray[np.uint8]
DECAY = 0.99  # alpha of equation (S1)
EPSILON = 1e-5  # of equation (S2)


def make(
    spec: Spec,
    settings: A3CSettings,
    compute_reward: ComputeReward,
    seed: int,
    *,
    shared_memory: Callable[[int], SharedMemory] | None = None,
    first: bool = True,
) -> PolicyGradient:
    """Create the agent of one worker.

    `shared_memory` returns the workers' shared memory of a number of bytes; by default, the agent has its own. The
    `first` agent writes its parameters to it.
    """

    def share_parameters(parameters: list[torch.nn.Parameter]) -> SharedRMSProp:
        """Parameters and statistics in the shared memory."""
        if shared_memory is None:
            return SharedRMSProp(parameters)
        shared = SharedRMSProp(parameters, shared_memory(SharedRMSProp.bytes_needed(parameters)))
        if first:
            shared.publish()
        return shared

    return PolicyGradient(spec, settings, seed, a3c, share_parameters)


def a3c(steps: Steps, value: Tensor, next_value: Tensor, settings: A3CSettings) -> AdvantageEstimate:
    """Bootstrapped returns minus the value.

    R_t  =  r_t + gamma R_t+1, from the value after the last step on,  A_t  =  R_t - V(s_t),  value target  =  R_t
    """
    r = returns(steps.reward, next_value, steps.terminated, steps.ended, settings.discount)
    return AdvantageEstimate(advantage=r - value, value_target=r, mask=torch.ones_like(value))


class SharedRMSProp:
    """Parameters, the statistics g of RMSProp, and the average of the parameters, in memory shared by several workers.

    (S1)  g      <-  alpha g + (1 - alpha) dtheta^2
    (S2)  theta  <-  theta - eta dtheta / sqrt(g + epsilon)

    The memory holds the number of updates (int64), and the three arrays one after the other (float32).
    """

    def __init__(self, parameters: list[torch.nn.Parameter], memory: SharedMemory | None = None) -> None:
        """Use `memory`, `bytes_needed` zeros or already in use by others; by default, allocate it."""
        # The arrays in the shared memory: parameters, RMSProp's statistics, average.
        size = sum(parameter.numel() for parameter in parameters)
        self._local = parameters
        is_own = memory is None
        if memory is None:
            memory = np.zeros(self.bytes_needed(parameters), np.uint8)
        self._version = torch.from_numpy(memory[:8].view(np.int64))
        flat = torch.from_numpy(memory[8 : 8 + 12 * size].view(np.float32))
        self._shared, self._square, self._average = torch.split(flat, size)
        self._copied = 0
        self.staleness = 0
        if is_own:
            self.publish()

    @staticmethod
    def bytes_needed(parameters: list[torch.nn.Parameter]) -> int:
        """Size of the shared memory for these parameters."""
        return 8 + 12 * sum(parameter.numel() for parameter in parameters)

    @torch.no_grad()
    def publish(self) -> None:
        """Overwrite the shared parameters and their average with the local parameters."""
        self._shared.copy_(torch.cat([parameter.flatten() for parameter in self._local]))
        self._average.copy_(self._shared)

    def copy(self) -> None:
        """Overwrite the local parameters with the shared ones."""
        self._copied = int(self._version)
        _unflatten(self._shared, self._local)

    def copy_average(self, parameters: list[torch.nn.Parameter]) -> None:
        """Copy the average of the shared parameters into `parameters`, which may be only the first ones."""
        _unflatten(self._average, parameters)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update the shared parameters with the gradients of the local ones.

        The gradients are copied. The once common alternative, to make the worker's gradient tensor that of the shared
        parameters, applies wrong gradients since PyTorch 2 replaces gradients instead of zeroing them.
        """
        gradients = []
        for parameter in self._local:
            gradient = torch.zeros(parameter.numel()) if parameter.grad is None else parameter.grad.flatten()
            gradients.append(gradient)
        dtheta = torch.cat(gradients)

        # (S1)  g <- alpha g + (1 - alpha) dtheta^2
        self._square.mul_(DECAY).addcmul_(dtheta, dtheta, value=1.0 - DECAY)
        # (S2)  theta <- theta - eta dtheta / sqrt(g + epsilon)
        self._shared.addcdiv_(dtheta, (self._square + EPSILON).sqrt_(), value=-learning_rate)

        version = int(self._version)
        self._average.lerp_(self._shared, averaging.weight(version + 1))
        self.staleness = version - self._copied  # updates of others since this worker's copy
        self._version.add_(1)

    def state_dict(self) -> dict[str, Any]:
        """Shared parameters, statistics, average and counters."""
        return {
            "shared": self._shared,
            "square": self._square,
            "average": self._average,
            "version": int(self._version),
            "copied": self._copied,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self._shared.copy_(state["shared"])
        self._square.copy_(state["square"])
        self._average.copy_(state["average"])
        self._version.fill_(state["version"])
        self._copied = state["copied"]


@torch.no_grad()
def _unflatten(flat: Tensor, parameters: list[torch.nn.Parameter]) -> None:
    """Copy the values of a flat tensor into parameters, one after the other."""
    begin = 0
    for parameter in parameters:
        end = begin + parameter.numel()
        parameter.copy_(flat[begin:end].view_as(parameter))
        begin = end
