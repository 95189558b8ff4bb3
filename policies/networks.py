"""The networks' parts: what they see, how their actions are scaled, and the layers between."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from policies.agent import Spec
from policies.normalizer import Normalizer

SQUASH_PENALTY = 0.003  # of squared outputs: keeps them where tanh still has a slope
WAY_OCTAVES = 2  # more octaves for the few inputs that say how far an action misses the goal


def mlp(inputs: int, hidden: int, outputs: int, *, layer_norm: bool) -> nn.Sequential:
    """Two hidden layers of rectified units, optionally with layer normalisation before each rectifier."""
    layers: list[nn.Module] = []
    for size in (inputs, hidden):
        layers += [nn.Linear(size, hidden), *([nn.LayerNorm(hidden)] if layer_norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


def start_small(net: nn.Module) -> None:
    """Let the last layer give nearly nothing at first."""
    last = net[-1] if isinstance(net, nn.Sequential) else net
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()


def fourier_features(x: Tensor, octaves: int) -> Tensor:
    """x (batch, n) with the sines and cosines of x/2, x, 2x, ...: (batch, n (1 + 2 octaves)).

    Plain layers are slow to learn detail; these inputs carry it (Tancik et al. 2020, "Fourier features let networks
    learn high frequency functions in low dimensional domains").
    """
    if octaves == 0:
        return x
    scaled = torch.cat([x * 2.0 ** (octave - 1) for octave in range(octaves)], -1)
    return torch.cat([x, torch.sin(scaled), torch.cos(scaled)], -1)


class Encoder(nn.Module):
    """What every network sees: observation, tip, goal and the way between them, normalised, as Fourier features."""

    def __init__(self, spec: Spec, octaves: int) -> None:
        super().__init__()
        raw = spec.observation_size + 3 * spec.goal_size
        self.normalizer = Normalizer(raw)
        self.octaves = octaves
        self.size = raw * (1 + 2 * octaves)
        self.way_size = (spec.goal_point_size or spec.goal_size) * (1 + 2 * (octaves + WAY_OCTAVES))

    @staticmethod
    def raw(observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """The inputs before normalisation, (batch, raw)."""
        return torch.cat([observation, achieved_goal, desired_goal, desired_goal - achieved_goal], -1)

    def fit(self, *columns: NDArray[np.float32]) -> None:
        """Take the normalisation from observations, tips and goals, (many, size) each."""
        self.normalizer.fit(self.raw(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns)))

    def forward(self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        return fourier_features(self.normalizer(self.raw(observation, achieved_goal, desired_goal)), self.octaves)

    def way(self, point: Tensor, desired_goal: Tensor) -> Tensor:
        """The way from a point to the goal, in the scale of the inputs, with detail: (batch, way_size)."""
        size, goal_size = point.shape[-1], desired_goal.shape[-1]
        scale = self.normalizer.std[-goal_size:][:size]
        return fourier_features((desired_goal[:, :size] - point) / scale, self.octaves + WAY_OCTAVES)


class ActionScaling(nn.Module):
    """Actions in the environment's units <-> actions from -1 to 1, and the present value of what they set."""

    low: Tensor
    high: Tensor
    max_step: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(spec.action_low), persistent=False)
        self.register_buffer("high", torch.tensor(spec.action_high), persistent=False)
        max_step = spec.max_step or [
            (high - low) / 2 for low, high in zip(spec.action_low, spec.action_high, strict=True)
        ]
        self.register_buffer("max_step", torch.tensor(max_step) * 2.0 / (self.high - self.low), persistent=False)
        self._columns = spec.measured_columns
        self._unit = spec.measured_unit

    def to_unit(self, action: Tensor) -> Tensor:
        """From the environment's units to -1..1."""
        return 2.0 * (action - self.low) / (self.high - self.low) - 1.0

    def from_unit(self, unit_action: Tensor) -> Tensor:
        """From -1..1 to the environment's units, clipped to their bounds."""
        action = self.low + 0.5 * (unit_action + 1.0) * (self.high - self.low)
        return torch.clamp(action, self.low, self.high)

    def present(self, observation: Tensor) -> Tensor:
        """The present value of what the actions set, in -1..1; the middle of the range where nothing measures it."""
        if self._columns is None:
            return torch.zeros(*observation.shape[:-1], len(self.low))
        return self.to_unit(observation[..., list(self._columns)] * self._unit)

    def stepped(self, observation: Tensor, step: Tensor) -> Tensor:
        """The action, in the environment's units, that is a step from the present value, in units of the largest."""
        return self.from_unit(torch.clamp(self.present(observation) + self.max_step * step, -1.0, 1.0))


class DeterministicPolicy(nn.Module):
    """mu: (observation, achieved_goal, desired_goal) -> actions in the environment's units, all scaling inside."""

    def __init__(self, spec: Spec, hidden: int, octaves: int) -> None:
        super().__init__()
        self.encoder = Encoder(spec, octaves)
        self.scaling = ActionScaling(spec)
        self.net = mlp(self.encoder.size, hidden, len(spec.action_low), layer_norm=False)
        start_small(self.net)  # near "stay where you are", away from tanh's flat ends

    def unit_action(self, net: nn.Module, features: Tensor, present: Tensor) -> Tensor:
        """The action in -1..1: a squashed step from the present value."""
        return torch.clamp(present + self.scaling.max_step * torch.tanh(net(features)), -1.0, 1.0)

    def forward(self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        features = self.encoder(observation, achieved_goal, desired_goal)
        return self.scaling.from_unit(self.unit_action(self.net, features, self.scaling.present(observation)))


class Critic(nn.Module):
    """Q: features and unit action -> expected return (batch,)."""

    STEP_SCALE = 1.5  # steps from the present value are from -max_step to max_step: scale them towards unit variance

    def __init__(self, spec: Spec, hidden: int, octaves: int, features: int, way: int) -> None:
        super().__init__()
        self.octaves = octaves
        self.scaling = ActionScaling(spec)
        self.net = mlp(features + way + 2 * len(spec.action_low) * (1 + 2 * octaves), hidden, 1, layer_norm=True)

    def forward(self, features: Tensor, unit_action: Tensor, present: Tensor, way: Tensor) -> Tensor:
        step = (unit_action - present) / self.scaling.max_step
        action = torch.cat([unit_action, step * self.STEP_SCALE], -1)
        q: Tensor = self.net(torch.cat([features, way, fourier_features(action, self.octaves)], -1))
        return q.squeeze(-1)


SMALLEST_LEARNING_RATE = 0.02  # of the first one


def falling_rate(learning_rate: float, progress: float) -> float:
    """The learning rate that falls in a straight line to a fiftieth while `progress` goes from 0 to 1."""
    return learning_rate * max(SMALLEST_LEARNING_RATE, 1.0 - progress)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's moments, by the parameter's place."""
    return {str(place): dict(moments) for place, moments in optimizer.state_dict()["state"].items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from `optimizer_state`."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {int(place): m for place, m in state.items()}, "param_groups": groups})
