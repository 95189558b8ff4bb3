"""Stochastic policies: from observations to a distribution over actions, and to the action of its mode."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from policies.agent import Spec
from policies.common.action_grid import ActionGrid
from policies.common.branching_head import BranchingHead
from policies.common.distributions import ClippedGaussian, Gaussian, Softmax, SquashedGaussian
from policies.common.heads import Trunk, raise_if_nan
from policies.common.networks import ActionScaling, Encoder, mlp, shrink_last_layer
from policies.common.settings import MAX_STD, MIN_STD, PolicyGradientSettings

GAUSSIANS = {"gaussian": Gaussian, "squashed": SquashedGaussian, "clipped": ClippedGaussian}


class LSTM(nn.Module):
    """An LSTM cell (Hochreiter and Schmidhuber 1997), whose output is appended to the encoded observations.

    Its recurrent state is one tensor (batch, size), hidden and cell state; zeros at the start of an episode.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(features, hidden)
        self.size = 2 * hidden

    def forward(self, features: Tensor, recurrent_state: Tensor) -> tuple[Tensor, Tensor]:
        """Features with the hidden state (batch, features + hidden), and the next recurrent state (batch, size)."""
        hidden, cell = self.cell(features, recurrent_state.chunk(2, -1))
        return torch.cat([features, hidden], -1), torch.cat([hidden, cell], -1)

    def unroll(
        self, features: Tensor, next_features: Tensor, recurrent_state: Tensor, ended: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Process a rollout in order, from the recurrent state (num_envs, size) before it.

        Features are (steps, num_envs, features), `ended` (steps, num_envs). Returns the features with the hidden state,
        (steps, num_envs, features + hidden), of the states before and after each step. Only the former have gradients.
        """
        outputs = []
        next_outputs = []
        for current, following, end in zip(features, next_features, ended, strict=True):
            output, recurrent_state = self(current, recurrent_state)
            outputs.append(output)
            # The state after the step, which is not that of the next step if the episode ended.
            with torch.no_grad():
                next_output, _ = self(following, recurrent_state)
            next_outputs.append(next_output)
            # Reset at the end of an episode.
            recurrent_state = recurrent_state * (1.0 - end[:, None])
        return torch.stack(outputs), torch.stack(next_outputs)


def make_lstm(settings: PolicyGradientSettings, features: int) -> tuple[LSTM | None, int]:
    """The LSTM of a policy, None for a feed-forward one, and the number of features including its output."""
    if not settings.recurrent:
        return None, features
    return LSTM(features, settings.hidden_units), features + settings.hidden_units


class GaussianPolicy(nn.Module):
    """Normal steps from the measured value, in units of the largest step: plain, squashed or clipped.

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
        # `memory` is the name of the LSTM in saved states.
        self.memory, self.features = make_lstm(settings, self.encoder.size)
        self.net = mlp(self.features, settings.hidden_units, outputs, layer_norm=False)
        shrink_last_layer(self.net)
        log_std = torch.full((self._actions,), math.log(settings.initial_std))
        self.log_std = nn.Parameter(log_std, requires_grad=settings.std != "fixed")

    def distribution(self, features: Tensor, observation: Tensor) -> Gaussian:
        """Distribution of the steps, from encoded observations (..., features)."""
        mean, *more = self.net(features).split(self._actions, -1)
        log_std = self.log_std + (more[0] if more else torch.zeros_like(mean))
        std = bounded(log_std, math.log(MIN_STD), math.log(MAX_STD)).exp()
        return self._kind(mean, std)

    def uniform(self, features: Tensor, observation: Tensor) -> Gaussian:
        """A wide distribution that does not depend on the observations, for the steps before learning starts."""
        mean = torch.zeros(*features.shape[:-1], self._actions)
        return self._kind(mean, torch.ones_like(mean))

    def action(self, step: Tensor, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """Actions (batch, actions) in the environment's units, for steps in units of the largest."""
        return self.scaling.step_to_action(step, observation, achieved_goal, desired_goal)

    def forward(
        self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor, recurrent_state: Tensor | None = None
    ) -> Any:
        """The deterministic actions (batch, actions); of a recurrent policy, also the next recurrent state."""
        return self._act(None, observation, achieved_goal, desired_goal, recurrent_state)

    def sample(
        self,
        generator: np.random.Generator,
        observation: Tensor,
        achieved_goal: Tensor,
        desired_goal: Tensor,
        recurrent_state: Tensor | None = None,
    ) -> Any:
        """Actions (batch, actions) drawn from the policy; of a recurrent one, also the next recurrent state."""
        return self._act(generator, observation, achieved_goal, desired_goal, recurrent_state)

    def _act(
        self,
        generator: np.random.Generator | None,
        observation: Tensor,
        achieved_goal: Tensor,
        desired_goal: Tensor,
        recurrent_state: Tensor | None,
    ) -> Any:
        """Actions drawn by a generator or, without one, of the mode."""
        features = self.encoder(observation, achieved_goal, desired_goal)
        if self.memory is not None:
            features, recurrent_state = self.memory(features, recurrent_state)
        distribution = self.distribution(features, observation)
        chosen = distribution.mode() if generator is None else distribution.sample(generator)
        step = distribution.action(chosen)
        action = self.action(step, observation, achieved_goal, desired_goal)
        return action if self.memory is None else (action, recurrent_state)


class SoftmaxPolicy(nn.Module):
    """A softmax over each joint's positions on the degree grid: 3 x 91 logits for 753,571 actions."""

    def __init__(self, spec: Spec, settings: PolicyGradientSettings) -> None:
        super().__init__()
        self.encoder = Encoder(spec, settings.fourier_octaves)
        self.grid = ActionGrid(spec)
        # `memory` is the name of the LSTM in saved states.
        self.memory, self.features = make_lstm(settings, self.encoder.size)
        self.trunk = Trunk(spec, self.features, settings.hidden_units, append_positions=True)
        self.head = BranchingHead(self.grid, settings.hidden_units, self.trunk.max_step)
        for layer in (self.head.table, self.head.gains):
            shrink_last_layer(layer)

    def distribution(self, features: Tensor, observation: Tensor) -> Softmax:
        """Distribution of the grid positions, from encoded observations (batch, features)."""
        logits = self.head.branch_values(self.trunk(features, observation))
        if not torch.compiler.is_exporting():
            for joint_logits in logits:
                raise_if_nan(joint_logits)
        return Softmax(tuple(logits))

    def uniform(self, features: Tensor, observation: Tensor) -> Softmax:
        """The uniform distribution over all positions, for the steps before learning starts."""
        return Softmax(tuple(torch.zeros(*features.shape[:-1], positions) for positions in self.grid.shape))

    def action(self, step: Tensor, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """The environment's actions: the positions themselves."""
        return step

    def forward(
        self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor, recurrent_state: Tensor | None = None
    ) -> Any:
        """The most probable actions (batch, actions); of a recurrent policy, also the next recurrent state."""
        distribution, recurrent_state = self._distribution(observation, achieved_goal, desired_goal, recurrent_state)
        action = self.grid.values(distribution.mode())
        return action if self.memory is None else (action, recurrent_state)

    def sample(
        self,
        generator: np.random.Generator,
        observation: Tensor,
        achieved_goal: Tensor,
        desired_goal: Tensor,
        recurrent_state: Tensor | None = None,
    ) -> Any:
        """Actions (batch, actions) drawn from the softmax; of a recurrent policy, also the next recurrent state."""
        distribution, recurrent_state = self._distribution(observation, achieved_goal, desired_goal, recurrent_state)
        action = self.grid.values(distribution.sample(generator))
        return action if self.memory is None else (action, recurrent_state)

    def suboptimality(self, action: Tensor, *observed: Tensor) -> tuple[Tensor, Tensor]:
        """Difference (batch,) between the largest sum of logits and that of actions, and the largest sum (batch,).

        `action` (batch, actions) is in the environment's units. NaN for an action that is not on the grid.
        """
        logits = self._distribution(*observed)[0].logits
        largest = torch.stack([joint_logits.amax(-1) for joint_logits in logits]).sum(0)
        positions = self.grid.positions_of(action).unbind(-1)
        chosen = []
        for joint_logits, position in zip(logits, positions, strict=True):
            chosen.append(joint_logits.gather(-1, position[:, None])[:, 0])
        difference = largest - torch.stack(chosen).sum(0)
        return torch.where(self.grid.contains(action), difference, torch.nan), largest

    def prepare_export(self) -> None:
        """Do nothing: there is nothing to precompute."""

    def action_gap(self, *observed: Tensor) -> Tensor:
        """Difference (batch,) between the largest and the second largest sum of logits."""
        gaps = []
        for joint_logits in self._distribution(*observed)[0].logits:
            largest, second = joint_logits.topk(2).values.unbind(-1)
            gaps.append(largest - second)
        return torch.stack(gaps).amin(0)

    def _distribution(
        self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor, recurrent_state: Tensor | None = None
    ) -> tuple[Softmax, Tensor | None]:
        """The distribution for observations that are not encoded yet, and the next recurrent state."""
        features = self.encoder(observation, achieved_goal, desired_goal)
        if self.memory is not None:
            features, recurrent_state = self.memory(features, recurrent_state)
        return self.distribution(features, observation), recurrent_state


Actor = GaussianPolicy | SoftmaxPolicy


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """clip(x, low, high) with the gradient of x, except, at a bound, where descent would move x further beyond it.

    With the gradient of a plain clip, which is zero beyond the bounds, x could not return.
    """
    # The hook must not refer to x itself: the two would keep each other alive.
    at_low = x <= low
    at_high = x >= high

    def mask_outward(gradient: Tensor) -> Tensor:
        """Zero where a step against the gradient moves x outwards."""
        return gradient.where(~((at_low & (gradient > 0)) | (at_high & (gradient < 0))), 0.0)

    if x.requires_grad:
        x = x * 1.0  # limits the hook to this use of x
        x.register_hook(mask_outward)  # type: ignore[no-untyped-call]
    # Straight-through: the value is clipped, the gradient is that of x.
    return x + (x.clamp(low, high) - x).detach()
