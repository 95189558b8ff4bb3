"""Action distributions of stochastic policies: Gaussians (plain, squashed or clipped), and the softmax.

Each draws a `sample` (batch, actions), from which `action` computes the action. `log_prob` is the log-density (of a
softmax the log-probability) of that action, and `entropy` the entropy of the actions, both summed over the independent
actions of a state.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)

# Gauss-Hermite quadrature of expectations over the standard normal:  E[f(z)] = sum of weight * f(node)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
NODES = torch.from_numpy(_NODES).float()
WEIGHTS = torch.from_numpy(_WEIGHTS).float()
WEIGHTS /= math.sqrt(2.0 * math.pi)


class Distribution(Protocol):
    """A distribution over the actions of a batch of states."""

    def sample(self, generator: np.random.Generator) -> Tensor:
        """Draw a sample (batch, actions)."""

    def mode(self) -> Tensor:
        """The sample (batch, actions) of a policy that does not explore."""

    def action(self, sample: Tensor) -> Tensor:
        """The action (batch, actions) of a sample."""

    def log_prob(self, sample: Tensor) -> Tensor:
        """Log-density (batch,) of the action of a sample."""

    def entropy(self) -> Tensor:
        """Entropy (batch,) of the action, in nats."""


@dataclass(frozen=True)
class Gaussian:
    """Independent normal actions; `mean` and `std` are (batch, actions)."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: np.random.Generator) -> Tensor:
        """mean + std * noise, (batch, actions)."""
        noise = torch.from_numpy(generator.standard_normal(tuple(self.mean.shape), np.float32))
        return self.mean + self.std * noise

    def mode(self) -> Tensor:
        """The mean (batch, actions)."""
        return self.mean

    def action(self, sample: Tensor) -> Tensor:
        """The sample itself."""
        return sample

    def log_prob(self, sample: Tensor) -> Tensor:
        """log N(sample; mean, std), (batch,)."""
        # log N = -(x - mean)^2 / (2 std^2) - log std - log(2 pi) / 2
        z = (sample - self.mean) / self.std
        return (-0.5 * z * z - self.std.log() - HALF_LOG_2_PI).sum(-1)

    def entropy(self) -> Tensor:
        """log(std sqrt(2 pi e)), (batch,)."""
        return (self.std.log() + HALF_LOG_2_PI + 0.5).sum(-1)


@dataclass(frozen=True)
class SquashedGaussian(Gaussian):
    """tanh of a normal sample: actions from -1 to 1 (Haarnoja et al. 2018, arXiv:1801.01290, appendix C)."""

    def action(self, sample: Tensor) -> Tensor:
        """tanh(sample)."""
        return torch.tanh(sample)

    def log_prob(self, sample: Tensor) -> Tensor:
        """log N(sample) - log(d tanh(sample) / d sample), equation (21)."""
        return super().log_prob(sample) - log_tanh_derivative(sample).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy of the normal sample + E[log(d tanh / d sample)], by Gauss-Hermite quadrature."""
        points = self.mean[..., None] + self.std[..., None] * NODES
        return super().entropy() + (log_tanh_derivative(points) * WEIGHTS).sum(-1).sum(-1)


@dataclass(frozen=True)
class ClippedGaussian(Gaussian):
    """A normal sample clipped to -1..1, so that each bound has a probability mass of its own.

    The log-density at a bound is the logarithm of that mass (Fujita and Maeda 2018, arXiv:1802.07564, equation 5).
    """

    def action(self, sample: Tensor) -> Tensor:
        """clip(sample, -1, 1)."""
        return torch.clamp(sample, -1.0, 1.0)

    def log_prob(self, sample: Tensor) -> Tensor:
        """log N(sample) between the bounds; at a bound the log-probability of all samples beyond it."""
        z = (sample - self.mean) / self.std
        inside = -0.5 * z * z - self.std.log() - HALF_LOG_2_PI
        at_low, at_high = self._log_mass_at_bounds()
        return torch.where(sample <= -1.0, at_low, torch.where(sample >= 1.0, at_high, inside)).sum(-1)

    def entropy(self) -> Tensor:
        """-E[log_prob]: of the truncated normal in closed form, and of the two bounds."""
        # The bounds in units of std:  l = (-1 - mean) / std,  h = (1 - mean) / std
        low = (-1.0 - self.mean) / self.std
        high = (1.0 - self.mean) / self.std

        # Between them:  P(inside) log(std sqrt(2 pi e)) + (l N(l) - h N(h)) / 2
        log_masses = self._log_mass_at_bounds()
        inside_mass = 1.0 - log_masses[0].exp() - log_masses[1].exp()
        edges = (torch.exp(-0.5 * low * low) * low - torch.exp(-0.5 * high * high) * high) / math.sqrt(2.0 * math.pi)
        inside = inside_mass * (self.std.log() + HALF_LOG_2_PI + 0.5) + 0.5 * edges

        # At them:  -P log P
        return (inside - sum(log_mass.exp() * log_mass for log_mass in log_masses)).sum(-1)

    def _log_mass_at_bounds(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities (batch, actions) of the lower and the upper bound."""
        ndtr = torch.special.log_ndtr
        return ndtr((-1.0 - self.mean) / self.std), ndtr((self.mean - 1.0) / self.std)


@dataclass(frozen=True)
class Softmax:
    """Independent categorical distributions, one an action, each with logits (batch, values)."""

    logits: tuple[Tensor, ...]

    def sample(self, generator: np.random.Generator) -> Tensor:
        """Values (batch, actions) drawn by the Gumbel-max trick (Gumbel 1954): argmax of logit + Gumbel noise."""
        values = []
        for logits in self.logits:
            noise = generator.gumbel(size=tuple(logits.shape)).astype(np.float32)
            values.append((logits + torch.from_numpy(noise)).argmax(-1))
        return torch.stack(values, -1)

    def mode(self) -> Tensor:
        """The most probable values (batch, actions)."""
        return torch.stack([logits.argmax(-1) for logits in self.logits], -1)

    def action(self, sample: Tensor) -> Tensor:
        """The sample itself."""
        return sample

    def log_prob(self, sample: Tensor) -> Tensor:
        """log(exp(logit) / sum of exp(logits)), (batch,)."""
        log_probs = []
        for logits, value in zip(self.logits, sample.long().unbind(-1), strict=True):
            log_probs.append(torch.log_softmax(logits, -1).gather(-1, value[..., None])[..., 0])
        return torch.stack(log_probs, -1).sum(-1)

    def entropy(self) -> Tensor:
        """-sum of p log p, (batch,)."""
        entropies = []
        for logits in self.logits:
            log_p = torch.log_softmax(logits, -1)
            entropies.append(-(log_p.exp() * log_p).sum(-1))
        return torch.stack(entropies, -1).sum(-1)


def log_tanh_derivative(x: Tensor) -> Tensor:
    """log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), exact for large x too."""
    return 2.0 * (math.log(2.0) - x - torch.nn.functional.softplus(-2.0 * x))
