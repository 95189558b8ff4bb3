"""Normalizer: inputs shifted and scaled to zero mean and unit variance, inside the model."""

import torch
from torch import Tensor, nn

SMALLEST_STD = 1e-3


class Normalizer(nn.Module):
    """(x - mean) / std, both stored as buffers, which checkpoints and exported graphs contain."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    @torch.no_grad()
    def fit(self, samples: Tensor) -> None:
        """Set mean and standard deviation from `samples` (batch, size); a constant input is only shifted."""
        self.mean.copy_(samples.mean(0))
        std = samples.std(0, correction=0)
        self.std.copy_(torch.where(std > SMALLEST_STD, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised inputs (..., size)."""
        return (x - self.mean) / self.std
