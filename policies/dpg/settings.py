"""Settings of DPG."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from policies.common.settings import AgentSettings, check_fourier_octaves, check_numbers, check_slowing_distance


@dataclass(frozen=True)
class DPGSettings(AgentSettings):
    """Deterministic policy gradient (Silver et al. 2014), learned online."""

    num_envs: ClassVar[int] = 32

    critic: Literal["compatible", "q", "sarsa"] = "compatible"
    """Critic: compatible features (COPDAC-Q), a Q-network trained off-policy, or one trained with the actions taken
    (SARSA)."""
    hidden_units: int = 16
    """Units in each of the actor's two hidden layers."""
    critic_units: int = 64
    """Units in each of the critic's two hidden layers."""
    fourier_octaves: int = 2
    """Octaves of Fourier features (sines and cosines) of each input of the networks."""
    learning_rate: float = 3e-4
    """Initial learning rate of the actor; it falls linearly to nearly zero over the training."""
    critic_learning_rate: float = 2e-3
    """Initial learning rate of the critic; it falls in the same way."""
    discount: float = 0.9
    """gamma: discount factor per action."""
    noise: float = 0.3
    """Initial standard deviation of the exploration noise, in units of the largest step."""
    final_noise: float = 0.03
    """Standard deviation of the exploration noise at the end of the training, to which it falls linearly."""
    max_step: float = 2.0
    """Largest distance of a target from the measured angle, as a multiple of what a joint can move in one control
    period."""
    slowing_distance: float = 0.02
    """Distance to the goal, in metres, within which steps are scaled down in proportion to it; 0 disables this. Stated
    for a reach of 0.7 m, and scaled in proportion to the arm's reach."""
    learning_starts: int = 4_000
    """Random steps, of all environments together, before learning starts; they fit the inputs' normalisation."""

    def __post_init__(self) -> None:
        positive = ("hidden_units", "critic_units", "learning_rate", "critic_learning_rate", "noise", "final_noise")
        check_numbers(self, (*positive, "max_step", "learning_starts"), fractions=("discount",))
        check_slowing_distance(self.slowing_distance)
        check_fourier_octaves(self.fourier_octaves)
