"""The networks' parts: what they see, how their actions are scaled, and the layers between."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from policies.agent import Spec
from policies.common.normalizer import Normalizer

SQUASH_PENALTY = 0.003  # of squared outputs: keeps them where tanh still has a slope
DISPLACEMENT_OCTAVES = 2  # more octaves for the few inputs that say how far from the goal an action leads
# Lengths in metres, for a task of size 1.
SOFTNESS = 1e-4  # nearer than this, the direction of the goal fades
ARRIVAL_DIRECTIONS = (0.001, 0.006, 0.03)  # softness of the directions of the goal from where an action leads
ARRIVAL_DISTANCES = (0.003, 0.01, 0.05)  # l of exp(-d / l), of the distance d from there to the goal
SMALLEST_SQUARE = 1e-12
SMALLEST_APPROACH = 0.01  # below, the step that leads to an action would be without bounds
LEAD_S = 0.1  # a moving goal is as far away as it is now, and as it moves in this time


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


def direction(displacement: Tensor, softness: float) -> Tensor:
    """x / (|x| + softness): nearly the unit vector of a displacement (..., size), and zero where there is none."""
    distance = torch.linalg.vector_norm(displacement, dim=-1, keepdim=True)
    return displacement * torch.reciprocal(distance + softness)


class Encoder(nn.Module):
    """The inputs of every network: observation, tip, goal and the displacement between them.

    Normalised, as Fourier features; and the direction of the goal, which has the same size however near the goal is.
    """

    def __init__(self, spec: Spec, octaves: int) -> None:
        super().__init__()
        raw = spec.observation_size + 3 * spec.goal_size
        self.normalizer = Normalizer(raw)
        self.octaves = octaves
        self._point = spec.point_size
        self._unit = spec.size
        self.softness = SOFTNESS * spec.size
        self.size = raw * (1 + 2 * octaves) + self._point
        lengths = len(ARRIVAL_DIRECTIONS) * self._point + len(ARRIVAL_DISTANCES)
        self.arrival_size = self._point * (1 + 2 * (octaves + DISPLACEMENT_OCTAVES)) + lengths

    @staticmethod
    def raw(observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """The inputs before normalisation, (batch, raw)."""
        return torch.cat([observation, achieved_goal, desired_goal, desired_goal - achieved_goal], -1)

    def fit(self, *columns: NDArray[np.float32]) -> None:
        """Take the normalisation from observations, tips and goals, (many, size) each."""
        self.normalizer.fit(self.raw(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns)))

    def forward(self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        x = fourier_features(self.normalizer(self.raw(observation, achieved_goal, desired_goal)), self.octaves)
        displacement = (desired_goal - achieved_goal)[..., : self._point]
        return torch.cat([x, direction(displacement, self.softness)], -1)

    def arrival(self, point: Tensor, desired_goal: Tensor) -> Tensor:
        """Features of the displacement from a point to the goal, with detail near the goal: (batch, arrival_size)."""
        displacement = desired_goal[:, : self._point] - point
        std = self.normalizer.std[-desired_goal.shape[-1] :][: self._point]
        features = [fourier_features(displacement / std, self.octaves + DISPLACEMENT_OCTAVES)]
        features += [direction(displacement, softness * self._unit) for softness in ARRIVAL_DIRECTIONS]
        # The square root has no slope at zero, where kinematics lead to the goal itself.
        distance = (displacement.square().sum(-1, keepdim=True) + SMALLEST_SQUARE).sqrt()
        features += [torch.exp(-distance / (length * self._unit)) for length in ARRIVAL_DISTANCES]
        return torch.cat(features, -1)


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
        self.target_columns = spec.target_columns
        self._unit = spec.measured_unit
        self._point = spec.point_size
        self.slowing_distance = spec.slowing_distance
        self.rest_distance = spec.rest_distance

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

    def previous(self, observation: Tensor) -> Tensor:
        """The target sent last, in -1..1; the present value where it is not observed."""
        if self.target_columns is None:
            return self.present(observation)
        return self.to_unit(observation[..., list(self.target_columns)] * self._unit)

    def approach(self, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """The fraction (batch, 1) of a step that is taken, from 0 at the goal to 1.

        g = (distance to the goal + LEAD_S * speed of the goal - rest distance) / slowing distance, within 0 and 1
        """
        if self.slowing_distance == 0.0:
            return torch.ones_like(achieved_goal[..., :1])
        displacement = (desired_goal - achieved_goal)[..., : self._point]
        distance = torch.linalg.vector_norm(displacement, dim=-1, keepdim=True)
        if desired_goal.shape[-1] > self._point:
            velocity = desired_goal[..., self._point :]
            distance = distance + LEAD_S * torch.linalg.vector_norm(velocity, dim=-1, keepdim=True)
        return torch.clamp((distance - self.rest_distance) / self.slowing_distance, 0.0, 1.0)

    def unit_target(self, observation: Tensor, step: Tensor, approach: Tensor) -> Tensor:
        """The target in -1..1, not yet clipped, for a step in units of the largest.

        target = previous target + g (present value + step - previous target)

        So the target stays where it is at the goal, whatever the readings' noise and the network say; and it goes on
        moving until the tip is there, also where servos give way under the arm's weight.
        """
        target = self.present(observation) + self.max_step * step
        if self.slowing_distance == 0.0:
            return target
        previous = self.previous(observation)
        return previous + approach * (target - previous)

    def step_to(self, unit_action: Tensor, observation: Tensor, approach: Tensor) -> Tensor:
        """The step of `unit_target` that leads to an action, which may be longer than the largest step."""
        previous = self.previous(observation)
        target = previous + (unit_action - previous) / approach.clamp(min=SMALLEST_APPROACH)
        return (target - self.present(observation)) / self.max_step

    def stepped(self, step: Tensor, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """The action, in the environment's units, for a step in units of the largest."""
        target = self.unit_target(observation, step, self.approach(achieved_goal, desired_goal))
        return self.from_unit(torch.clamp(target, -1.0, 1.0))


class DeterministicPolicy(nn.Module):
    """mu: (observation, achieved_goal, desired_goal) -> actions in the environment's units, all scaling inside."""

    def __init__(self, spec: Spec, hidden: int, octaves: int) -> None:
        super().__init__()
        self.encoder = Encoder(spec, octaves)
        self.scaling = ActionScaling(spec)
        self.net = mlp(self.encoder.size, hidden, len(spec.action_low), layer_norm=False)
        start_small(self.net)  # near "stay where you are", away from tanh's flat ends

    def forward(self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        step = torch.tanh(self.net(self.encoder(observation, achieved_goal, desired_goal)))
        return self.scaling.stepped(step, observation, achieved_goal, desired_goal)


SMALLEST_LEARNING_RATE = 0.02  # of the first one


def linear_schedule(learning_rate: float, progress: float) -> float:
    """The learning rate that falls in a straight line to a fiftieth while `progress` goes from 0 to 1."""
    return learning_rate * max(SMALLEST_LEARNING_RATE, 1.0 - progress)
