"""Settings of DPG."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from policies.common.settings import AgentSettings, check_fourier_octaves, check_numbers, check_slowing_distance


@dataclass(frozen=True)
class DPGSettings(AgentSettings):
    """The deterministic policy gradient itself (Silver et al. 2014), learned online."""

    num_envs: ClassVar[int] = 32

    critic: Literal["compatible", "q", "sarsa"] = "compatible"
    """What says how actions should change: COPDAC-Q's compatible features, a network, or one of the actions taken."""
    hidden_units: int = 16
    """Units in each of the actor's two hidden layers."""
    critic_units: int = 64
    """Units in each of the critic's two hidden layers."""
    fourier_octaves: int = 2
    """Octaves of sines and cosines added to each input of the networks."""
    learning_rate: float = 1e-4
    """The actor's step size at the start; it falls to nearly zero over the training."""
    critic_learning_rate: float = 1e-3
    """The critic's step size at the start; it falls likewise."""
    discount: float = 0.9
    """gamma: how much a reward one step later counts."""
    noise: float = 0.3
    """Standard deviation of the exploration noise, as a share of the largest step."""
    max_step: float = 2.0
    """Farthest from the measured angle that a target is asked for, in what a joint can move in one control period."""
    slowing_distance: float = 0.02
    """Distance to the goal, in metres, within which steps get smaller in proportion to it (0: never; for an arm with a
    reach of 0.7 m, and in proportion for others)."""
    learning_starts: int = 4_000
    """Steps of random actions before learning starts, for the inputs' scale."""

    def __post_init__(self) -> None:
        positive = ("hidden_units", "critic_units", "learning_rate", "critic_learning_rate", "noise", "max_step")
        check_numbers(self, (*positive, "learning_starts"), fractions=("discount",))
        check_slowing_distance(self.slowing_distance)
        check_fourier_octaves(self.fourier_octaves)
