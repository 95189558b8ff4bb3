"""Building blocks of networks: encoder of the inputs, layers, scaling of the actions."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from policies.agent import Spec
from policies.common.normalizer import Normalizer

SQUASH_PENALTY = 0.003  # coefficient of the squared outputs before tanh: keeps them where tanh is not saturated
GOAL_ERROR_OCTAVES = 2  # additional octaves of the critic's few inputs for the distance of an action's target
# Lengths in metres, for a task of size 1.
SOFTNESS = 1e-4  # within this distance, the direction of the goal fades to zero
GOAL_ERROR_SOFTNESS = (0.001, 0.006, 0.03)  # the same for the directions from an action's target to the goal
GOAL_ERROR_LENGTHS = (0.003, 0.01, 0.05)  # l of exp(-d / l), with the distance d from there to the goal
MIN_SQUARED_DISTANCE = 1e-12
MIN_STEP_FRACTION = 0.01  # the step to a target is unbounded as the fraction tends to 0
MIN_LEARNING_RATE = 0.02  # as a fraction of the initial one
LEAD_S = 0.1  # the distance of a moving goal includes its displacement in this time


def mlp(inputs: int, hidden: int, outputs: int, *, layer_norm: bool) -> nn.Sequential:
    """Multilayer perceptron with two hidden layers of ReLUs, optionally with layer normalisation before each ReLU."""
    layers: list[nn.Module] = []
    for size in (inputs, hidden):
        layers.append(nn.Linear(size, hidden))
        if layer_norm:
            layers.append(nn.LayerNorm(hidden))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


def shrink_last_layer(net: nn.Module) -> None:
    """Scale down the last layer, so that the initial outputs are close to zero."""
    last = net[-1] if isinstance(net, nn.Sequential) else net
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()


def fourier_features(x: Tensor, octaves: int) -> Tensor:
    """x (batch, n) with the sines and cosines of x/2, x, 2x, ...: (batch, n (1 + 2 octaves)).

    With them, networks learn fine detail faster (Tancik et al. 2020, "Fourier features let networks learn high
    frequency functions in low dimensional domains").
    """
    if octaves == 0:
        return x
    scaled = torch.cat([x * 2.0 ** (octave - 1) for octave in range(octaves)], -1)
    return torch.cat([x, torch.sin(scaled), torch.cos(scaled)], -1)


def direction(displacement: Tensor, softness: float) -> Tensor:
    """x / (|x| + softness): approximate unit vector of a displacement (..., size), zero for a zero displacement."""
    distance = torch.linalg.vector_norm(displacement, dim=-1, keepdim=True)
    return displacement * torch.reciprocal(distance + softness)


class Encoder(nn.Module):
    """Encoder of the networks' inputs: observation, achieved goal, desired goal and the displacement between them.

    The features are the normalised inputs, their Fourier features, and the direction of the goal, whose norm does not
    shrink with the distance.
    """

    def __init__(self, spec: Spec, octaves: int) -> None:
        super().__init__()
        raw = spec.observation_size + 3 * spec.goal_size  # see `raw`
        self.normalizer = Normalizer(raw)
        self.octaves = octaves
        self._point = spec.point_size
        self._unit = spec.size
        self.softness = SOFTNESS * spec.size
        self.size = raw * (1 + 2 * octaves) + self._point
        displacement_features = self._point * (1 + 2 * (octaves + GOAL_ERROR_OCTAVES))
        distance_features = len(GOAL_ERROR_SOFTNESS) * self._point + len(GOAL_ERROR_LENGTHS)
        self.goal_error_size = displacement_features + distance_features

    @staticmethod
    def raw(observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """The inputs before normalisation, (batch, raw)."""
        return torch.cat([observation, achieved_goal, desired_goal, desired_goal - achieved_goal], -1)

    def fit(self, *columns: NDArray[np.float32]) -> None:
        """Set the normalisation from observations, achieved goals and desired goals, (samples, size) each."""
        tensors = [torch.from_numpy(np.ascontiguousarray(column)) for column in columns]
        self.normalizer.fit(self.raw(*tensors))

    def forward(self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """Features (batch, size) of observations and goals."""
        x = fourier_features(self.normalizer(self.raw(observation, achieved_goal, desired_goal)), self.octaves)
        displacement = (desired_goal - achieved_goal)[..., : self._point]
        return torch.cat([x, direction(displacement, self.softness)], -1)

    def goal_error_features(self, point: Tensor, desired_goal: Tensor) -> Tensor:
        """Features (batch, goal_error_size) of the displacement from points (batch, point size) to the goals.

        Their resolution is highest near the goal.
        """
        # The displacement, scaled as the encoder's own displacement, which comes last among its inputs.
        displacement = desired_goal[:, : self._point] - point
        std = self.normalizer.std[-desired_goal.shape[-1] :][: self._point]
        features = [fourier_features(displacement / std, self.octaves + GOAL_ERROR_OCTAVES)]

        # Directions x / (|x| + softness), and exp(-d / l) of the distance d.
        for softness in GOAL_ERROR_SOFTNESS:
            features.append(direction(displacement, softness * self._unit))
        # The square root has no derivative at zero, where a target is at the goal.
        distance = (displacement.square().sum(-1, keepdim=True) + MIN_SQUARED_DISTANCE).sqrt()
        for length in GOAL_ERROR_LENGTHS:
            features.append(torch.exp(-distance / (length * self._unit)))
        return torch.cat(features, -1)


class ActionScaling(nn.Module):
    """Conversion of actions between the environment's units, -1..1, and steps from the measured value.

    A policy outputs a step, in units of the largest step. The action is the target (`unit_target`)

        target  =  previous target + g (measured value + max_step * step - previous target)

    whose factor g (`step_fraction`) falls to 0 at the goal. There the target is constant, whatever the noise of the
    readings and the output of the network. It is relative to the previous target, so that it moves until the tip is at
    the goal, even if the servos sag under the arm's weight.
    """

    low: Tensor
    high: Tensor
    max_step: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(spec.action_low), persistent=False)
        self.register_buffer("high", torch.tensor(spec.action_high), persistent=False)
        half_range = [(high - low) / 2 for low, high in zip(spec.action_low, spec.action_high, strict=True)]
        max_step = spec.max_step or half_range
        self.register_buffer("max_step", torch.tensor(max_step) * 2.0 / (self.high - self.low), persistent=False)
        self._columns = spec.measured_columns
        self.target_columns = spec.target_columns
        self._unit = spec.measured_unit
        self._point = spec.point_size
        self.slowing_distance = spec.slowing_distance
        self.rest_distance = spec.rest_distance

    def to_unit(self, action: Tensor) -> Tensor:
        """Convert actions (batch, actions) from the environment's units to -1..1."""
        return 2.0 * (action - self.low) / (self.high - self.low) - 1.0

    def from_unit(self, unit_action: Tensor) -> Tensor:
        """Convert actions (batch, actions) from -1..1 to the environment's units, clipped to their bounds."""
        action = self.low + 0.5 * (unit_action + 1.0) * (self.high - self.low)
        return torch.clamp(action, self.low, self.high)

    def measured(self, observation: Tensor) -> Tensor:
        """Measured values (batch, actions) of what the actions set, in -1..1; 0 if they are not measured."""
        if self._columns is None:
            return torch.zeros(*observation.shape[:-1], len(self.low))
        return self.to_unit(observation[..., list(self._columns)] * self._unit)

    def previous_target(self, observation: Tensor) -> Tensor:
        """Previous targets (batch, actions) in -1..1; the measured values if they are not observed."""
        if self.target_columns is None:
            return self.measured(observation)
        return self.to_unit(observation[..., list(self.target_columns)] * self._unit)

    def step_fraction(self, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """Fraction g (batch, 1) of a step that is taken, from 0 at the goal to 1.

        g = (distance to the goal + LEAD_S * speed of the goal - rest distance) / slowing distance, clipped to 0..1
        """
        if self.slowing_distance == 0.0:
            return torch.ones_like(achieved_goal[..., :1])
        displacement = (desired_goal - achieved_goal)[..., : self._point]
        distance = torch.linalg.vector_norm(displacement, dim=-1, keepdim=True)
        if desired_goal.shape[-1] > self._point:
            velocity = desired_goal[..., self._point :]
            distance = distance + LEAD_S * torch.linalg.vector_norm(velocity, dim=-1, keepdim=True)
        return torch.clamp((distance - self.rest_distance) / self.slowing_distance, 0.0, 1.0)

    def unit_target(self, observation: Tensor, step: Tensor, step_fraction: Tensor) -> Tensor:
        """Targets (batch, actions) in units of -1..1, not yet clipped, for steps in units of the largest.

        target = previous target + g (measured value + max_step * step - previous target)
        """
        target = self.measured(observation) + self.max_step * step
        if self.slowing_distance == 0.0:
            return target
        previous = self.previous_target(observation)
        return previous + step_fraction * (target - previous)

    def step_for_target(self, unit_action: Tensor, observation: Tensor, step_fraction: Tensor) -> Tensor:
        """Inverse of `unit_target`: the step (batch, actions) to an action, which may exceed the largest step.

        step = (previous target + (action - previous target) / g - measured value) / max_step
        """
        previous = self.previous_target(observation)
        target = previous + (unit_action - previous) / step_fraction.clamp(min=MIN_STEP_FRACTION)
        return (target - self.measured(observation)) / self.max_step

    def step_to_action(self, step: Tensor, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """Actions (batch, actions), in the environment's units, for steps in units of the largest."""
        target = self.unit_target(observation, step, self.step_fraction(achieved_goal, desired_goal))
        return self.from_unit(torch.clamp(target, -1.0, 1.0))


class DeterministicPolicy(nn.Module):
    """mu(s): (observation, achieved_goal, desired_goal) -> actions (batch, actions) in the environment's units."""

    def __init__(self, spec: Spec, hidden: int, octaves: int) -> None:
        super().__init__()
        self.encoder = Encoder(spec, octaves)
        self.scaling = ActionScaling(spec)
        self.net = mlp(self.encoder.size, hidden, len(spec.action_low), layer_norm=False)
        shrink_last_layer(self.net)  # initial steps are close to zero, where tanh is not saturated

    def forward(self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """The actions mu(s)."""
        step = torch.tanh(self.net(self.encoder(observation, achieved_goal, desired_goal)))
        return self.scaling.step_to_action(step, observation, achieved_goal, desired_goal)


def linear_schedule(learning_rate: float, progress: float) -> float:
    """Learning rate that falls linearly with `progress` (0 to 1), down to a fiftieth of the initial one."""
    return learning_rate * max(MIN_LEARNING_RATE, 1.0 - progress)
