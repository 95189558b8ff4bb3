"""The settings of each agent: plain dataclasses without PyTorch, so that `--help` works on the base install."""

import math
from dataclasses import dataclass


def _check(settings: object, positive: tuple[str, ...], fractions: tuple[str, ...]) -> None:
    """Raise ValueError unless these fields are positive and finite, and these from 0 to 1."""
    for name in positive:
        if not 0 < (value := getattr(settings, name)) < math.inf:
            raise ValueError(f"{name.replace('_', '-')}: wanted a positive number, got {value}")
    for name in fractions:
        if not 0 <= (value := getattr(settings, name)) <= 1:
            raise ValueError(f"{name.replace('_', '-')}: wanted a number from 0 to 1, got {value}")


@dataclass(frozen=True)
class DDPGSettings:
    """Deep deterministic policy gradient (Lillicrap et al. 2015) with goal relabelling."""

    hidden_units: int = 128
    """Units in each of the two hidden layers of actor and critic."""
    fourier_octaves: int = 2
    """Octaves of sines and cosines added to each input of the networks."""
    learning_rate: float = 1e-3
    """Adam's step size for actor and critic at the start; it falls to nearly zero over the training."""
    discount: float = 0.5
    """gamma of equation (5): how much a reward one step later counts."""
    target_rate: float = 0.03
    """tau of Algorithm 1: how far the target networks follow in one update."""
    batch_size: int = 256
    """Transitions in one update."""
    replay_capacity: int = 400_000
    """Transitions remembered."""
    random_steps: int = 2_000
    """Steps of uniformly random actions before learning starts."""
    updates_per_step: int = 1
    """Updates for each step of all arms together."""
    largest_step: float = 2.0
    """Farthest from the measured angle that a target is asked for, in what a joint can move in one control period."""
    smallest_noise: float = 0.01
    """Standard deviation of the exploration noise of the calmest arm, as a share of the largest step."""
    largest_noise: float = 0.5
    """The same of the wildest arm; the others lie between, in equal ratios."""
    relabel_near: float = 0.4
    """Share of a batch relearned for a goal near where the tip went."""
    relabel_other: float = 0.4
    """Share of a batch relearned for the goal of another transition."""
    relabel_distance: float = 0.02
    """How near a goal near the tip is: the largest standard deviation, in the goal's unit (metres)."""

    def __post_init__(self) -> None:
        positive = ("hidden_units", "learning_rate", "batch_size", "replay_capacity", "updates_per_step")
        noises = ("largest_step", "smallest_noise", "largest_noise", "relabel_distance")
        _check(self, positive + noises, fractions=("discount", "target_rate", "relabel_near", "relabel_other"))
        if not 0 <= self.fourier_octaves <= 10:
            raise ValueError(f"fourier-octaves: wanted a number from 0 to 10, got {self.fourier_octaves}")
        if self.relabel_near + self.relabel_other > 1:
            raise ValueError(
                "relabel-near and relabel-other: wanted shares that add up to at most 1, got "
                f"{self.relabel_near} and {self.relabel_other}"
            )
        if not self.batch_size <= self.random_steps <= self.replay_capacity:
            raise ValueError(
                "random-steps: wanted from batch-size to replay-capacity, "
                f"{self.batch_size} to {self.replay_capacity}, got {self.random_steps}"
            )


# Every agent by the name that the command line gives it.
AGENTS: dict[str, type[DDPGSettings]] = {"ddpg": DDPGSettings}
