"""What stochastic policies draw from: Gaussians, plain, squashed or clipped, and the softmax.

Each draws a `choice` (batch, actions), from which `action` makes the action. `log_prob` is the log-density (of a
softmax the log-probability) of that action, not only of the choice, and `entropy` that of the actions that come out.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)
NODES, WEIGHTS = (torch.from_numpy(array).float() for array in np.polynomial.hermite_e.hermegauss(32))
WEIGHTS /= math.sqrt(2.0 * math.pi)  # of an expectation over the standard normal


class Distribution(Protocol):
    """A distribution over the actions of a batch of states."""

    def sample(self, generator: np.random.Generator) -> Tensor:
        """Draw a choice (batch, actions)."""

    def mode(self) -> Tensor:
        """The choice (batch, actions) of a policy that does not explore."""

    def action(self, choice: Tensor) -> Tensor:
        """The action (batch, actions) of a choice."""

    def log_prob(self, choice: Tensor) -> Tensor:
        """Log-density (batch,) of the action of a choice."""

    def entropy(self) -> Tensor:
        """Entropy (batch,) of the action, in nats."""


@dataclass(frozen=True)
class Gaussian:
    """Independent normal actions; `mean` and `std` are (batch, actions)."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: np.random.Generator) -> Tensor:
        """mean + std * noise."""
        noise = torch.from_numpy(generator.standard_normal(tuple(self.mean.shape), np.float32))
        return self.mean + self.std * noise

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def action(self, choice: Tensor) -> Tensor:
        """The choice itself."""
        return choice

    def log_prob(self, choice: Tensor) -> Tensor:
        """log N(choice; mean, std), summed over the actions."""
        z = (choice - self.mean) / self.std
        return (-0.5 * z * z - self.std.log() - HALF_LOG_2_PI).sum(-1)

    def entropy(self) -> Tensor:
        """log(std sqrt(2 pi e)), summed over the actions."""
        return (self.std.log() + HALF_LOG_2_PI + 0.5).sum(-1)


@dataclass(frozen=True)
class SquashedGaussian(Gaussian):
    """tanh of a normal choice: actions from -1 to 1 (Haarnoja et al. 2018, arXiv:1801.01290, appendix C)."""

    def action(self, choice: Tensor) -> Tensor:
        """tanh(choice)."""
        return torch.tanh(choice)

    def log_prob(self, choice: Tensor) -> Tensor:
        """log N(choice) - log(d tanh(choice) / d choice), equation (21)."""
        return super().log_prob(choice) - log_slope_of_tanh(choice).sum(-1)

    def entropy(self) -> Tensor:
        """That of the normal choice + E[log slope]; the expectation by Gauss-Hermite quadrature at 32 points."""
        points = self.mean[..., None] + self.std[..., None] * NODES
        return super().entropy() + (log_slope_of_tanh(points) * WEIGHTS).sum(-1).sum(-1)


@dataclass(frozen=True)
class ClippedGaussian(Gaussian):
    """A normal choice clipped to -1..1, so that both ends have a probability of their own.

    Its log-density at an end is the logarithm of that probability (Fujita and Maeda 2018, arXiv:1802.07564, eq. 5).
    """

    def action(self, choice: Tensor) -> Tensor:
        """clip(choice, -1, 1)."""
        return torch.clamp(choice, -1.0, 1.0)

    def log_prob(self, choice: Tensor) -> Tensor:
        """log N(choice) between the ends; at them the logarithm of all that is beyond."""
        z = (choice - self.mean) / self.std
        inside = -0.5 * z * z - self.std.log() - HALF_LOG_2_PI
        at_low, at_high = self._log_ends()
        return torch.where(choice <= -1.0, at_low, torch.where(choice >= 1.0, at_high, inside)).sum(-1)

    def entropy(self) -> Tensor:
        """-E[log_prob]: of the normal between the ends, in closed form, and of the two ends."""
        low = (-1.0 - self.mean) / self.std
        high = (1.0 - self.mean) / self.std
        log_ends = self._log_ends()
        share = 1.0 - log_ends[0].exp() - log_ends[1].exp()
        edges = (torch.exp(-0.5 * low * low) * low - torch.exp(-0.5 * high * high) * high) / math.sqrt(2.0 * math.pi)
        inside = share * (self.std.log() + HALF_LOG_2_PI + 0.5) + 0.5 * edges
        return (inside - sum(log_end.exp() * log_end for log_end in log_ends)).sum(-1)

    def _log_ends(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the two ends."""
        ndtr = torch.special.log_ndtr
        return ndtr((-1.0 - self.mean) / self.std), ndtr((self.mean - 1.0) / self.std)


@dataclass(frozen=True)
class Softmax:
    """Independent choices, each among as many values as its logits (batch, values) have; one tensor a choice."""

    logits: tuple[Tensor, ...]

    def sample(self, generator: np.random.Generator) -> Tensor:
        """The largest logit after Gumbel noise (Gumbel 1954; the "Gumbel-max trick")."""
        noisy = (
            part + torch.from_numpy(generator.gumbel(size=tuple(part.shape)).astype(np.float32)) for part in self.logits
        )
        return torch.stack([part.argmax(-1) for part in noisy], -1)

    def mode(self) -> Tensor:
        """The most probable values."""
        return torch.stack([part.argmax(-1) for part in self.logits], -1)

    def action(self, choice: Tensor) -> Tensor:
        """The choice itself."""
        return choice

    def log_prob(self, choice: Tensor) -> Tensor:
        """log(exp(logit) / sum of exp(logits)), summed over the choices."""
        pairs = zip(self.logits, choice.long().unbind(-1), strict=True)
        return torch.stack(
            [torch.log_softmax(part, -1).gather(-1, place[..., None])[..., 0] for part, place in pairs], -1
        ).sum(-1)

    def entropy(self) -> Tensor:
        """-sum p log p, summed over the choices."""
        logs = [torch.log_softmax(part, -1) for part in self.logits]
        return torch.stack([-(log.exp() * log).sum(-1) for log in logs], -1).sum(-1)


def log_slope_of_tanh(x: Tensor) -> Tensor:
    """log(1 - tanh(x)^2), exact for large x too."""
    return 2.0 * (math.log(2.0) - x - torch.nn.functional.softplus(-2.0 * x))
