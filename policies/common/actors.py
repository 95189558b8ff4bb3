"""Stochastic policies: from what is observed to a distribution over actions, and to the action of its mode."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from policies.agent import Spec
from policies.common.action_grid import ActionGrid
from policies.common.branching_head import BranchingHead
from policies.common.distributions import ClippedGaussian, Gaussian, Softmax, SquashedGaussian
from policies.common.heads import Trunk, refuse_nan
from policies.common.networks import ActionScaling, Encoder, mlp, start_small
from policies.common.settings import MAX_STD, MIN_STD, PolicyGradientSettings

GAUSSIANS = {"gaussian": Gaussian, "squashed": SquashedGaussian, "clipped": ClippedGaussian}


class Memory(nn.Module):
    """An LSTM cell (Hochreiter and Schmidhuber 1997) beside the encoded observations: what was seen before.

    Its state is one tensor (batch, size): zeros when an episode begins.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(features, hidden)
        self.size = 2 * hidden

    def forward(self, features: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Features (batch, features + hidden) with what is remembered, and the memory from now on."""
        hidden, cell = self.cell(features, memory.chunk(2, -1))
        return torch.cat([features, hidden], -1), torch.cat([hidden, cell], -1)

    def unroll(self, features: Tensor, next_features: Tensor, memory: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
        """The same for steps in order (steps, arms, features), from a memory; and for the states after each."""
        along = []
        after = []
        for now, following, end in zip(features, next_features, ended, strict=True):
            seen, memory = self(now, memory)
            along.append(seen)
            with torch.no_grad():
                after.append(self(following, memory)[0])
            memory = memory * (1.0 - end[:, None])
        return torch.stack(along), torch.stack(after)


def remembering(settings: PolicyGradientSettings, features: int) -> tuple[Memory | None, int]:
    """The memory that a policy is to have, and the features that it then has."""
    if not settings.recurrent:
        return None, features
    return Memory(features, settings.hidden_units), features + settings.hidden_units


class GaussianPolicy(nn.Module):
    """Normal steps from the present value, in units of the largest step, squashed or clipped or as they are.

    Their standard deviation is fixed, a parameter, or an output of the network.
    """

    log_std: Tensor

    def __init__(self, spec: Spec, settings: PolicyGradientSettings) -> None:
        super().__init__()
        self.encoder = Encoder(spec, settings.fourier_octaves)
        self.scaling = ActionScaling(spec)
        self._kind = GAUSSIANS[settings.policy]
        self._actions = len(spec.action_low)
        outputs = self._actions * (2 if settings.std == "state" else 1)
        self.memory, self.features = remembering(settings, self.encoder.size)
        self.net = mlp(self.features, settings.hidden_units, outputs, layer_norm=False)
        start_small(self.net)
        log_std = torch.full((self._actions,), math.log(settings.initial_std))
        self.log_std = nn.Parameter(log_std, requires_grad=settings.std != "fixed")

    def distribution(self, features: Tensor, observation: Tensor) -> Gaussian:
        """Of the step, from encoded observations (..., features)."""
        mean, *more = self.net(features).split(self._actions, -1)
        log_std = self.log_std + (more[0] if more else torch.zeros_like(mean))
        return self._kind(mean, bounded(log_std, math.log(MIN_STD), math.log(MAX_STD)).exp())

    def uniform(self, features: Tensor, observation: Tensor) -> Gaussian:
        """A wide distribution that does not depend on what is observed, to begin with."""
        mean = torch.zeros(*features.shape[:-1], self._actions)
        return self._kind(mean, torch.ones_like(mean))

    def action(self, step: Tensor, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """The environment's action for a step in units of the largest."""
        return self.scaling.stepped(step, observation, achieved_goal, desired_goal)

    def forward(
        self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor, memory: Tensor | None = None
    ) -> Any:
        """The action; of a policy with a memory, also the memory from now on."""
        features = self.encoder(observation, achieved_goal, desired_goal)
        if self.memory is not None:
            features, memory = self.memory(features, memory)
        drawn = self.distribution(features, observation)
        action = self.action(drawn.action(drawn.mode()), observation, achieved_goal, desired_goal)
        return action if self.memory is None else (action, memory)


class SoftmaxPolicy(nn.Module):
    """A softmax over each joint's positions on the degree grid: 3 x 91 logits for 753,571 actions."""

    def __init__(self, spec: Spec, settings: PolicyGradientSettings) -> None:
        super().__init__()
        self.encoder = Encoder(spec, settings.fourier_octaves)
        self.grid = ActionGrid(spec)
        self.memory, self.features = remembering(settings, self.encoder.size)
        self.trunk = Trunk(spec, self.features, settings.hidden_units, tells_positions=True)
        self.head = BranchingHead(self.grid, settings.hidden_units, self.trunk.max_step)
        for layer in (self.head.table, self.head.gains):
            start_small(layer)

    def distribution(self, features: Tensor, observation: Tensor) -> Softmax:
        """Of the positions, from encoded observations (batch, features)."""
        logits = self.head.worths(self.trunk(features, observation))
        if not torch.compiler.is_exporting():
            for part in logits:
                refuse_nan(part)
        return Softmax(tuple(logits))

    def uniform(self, features: Tensor, observation: Tensor) -> Softmax:
        """All positions alike, to begin with."""
        return Softmax(tuple(torch.zeros(*features.shape[:-1], positions) for positions in self.grid.shape))

    def action(self, step: Tensor, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """The environment's action: the positions themselves."""
        return step

    def forward(
        self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor, memory: Tensor | None = None
    ) -> Any:
        """The action; of a policy with a memory, also the memory from now on."""
        logits, memory = self._logits(observation, achieved_goal, desired_goal, memory)
        action = self.grid.values(logits.mode())
        return action if self.memory is None else (action, memory)

    def shortfall(self, action: Tensor, *observed: Tensor) -> tuple[Tensor, Tensor]:
        """How much less than the largest sum of logits (batch,) actions in degrees (batch, actions) have, and that sum.

        NaN for an action that is not on the grid.
        """
        logits = self._logits(*observed)[0].logits
        largest = torch.stack([part.amax(-1) for part in logits]).sum(0)
        places = self.grid.positions_of(action).unbind(-1)
        chosen = torch.stack([part.gather(-1, at[:, None])[:, 0] for part, at in zip(logits, places, strict=True)])
        return torch.where(self.grid.holds(action), largest - chosen.sum(0), torch.nan), largest

    def prepare_export(self) -> None:
        """Do nothing: the graph is the network itself."""

    def margin(self, *observed: Tensor) -> Tensor:
        """By how much (batch,) the largest sum of logits surpasses the next."""
        tops = [part.topk(2).values for part in self._logits(*observed)[0].logits]
        return torch.stack([top[:, 0] - top[:, 1] for top in tops]).amin(0)

    def _logits(
        self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor, memory: Tensor | None = None
    ) -> tuple[Softmax, Tensor | None]:
        features = self.encoder(observation, achieved_goal, desired_goal)
        if self.memory is not None:
            features, memory = self.memory(features, memory)
        return self.distribution(features, observation), memory


Actor = GaussianPolicy | SoftmaxPolicy


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """clip(x, low, high), but of the gradient, at a bound, what leads away from it: x neither sticks nor runs off."""
    # Not x itself in the hook: they would hold each other for ever.
    at_low = x <= low
    at_high = x >= high

    def inwards(gradient: Tensor) -> Tensor:
        """The gradient without what would take x, which moves against it, farther out."""
        return gradient.where(~((at_low & (gradient > 0)) | (at_high & (gradient < 0))), 0.0)

    if x.requires_grad:
        x = x * 1.0  # so that the hook is on this use alone
        x.register_hook(inwards)  # type: ignore[no-untyped-call]
    return x + (x.clamp(low, high) - x).detach()
