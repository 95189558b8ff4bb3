"""Settings of the one-step actor-critic."""

from dataclasses import dataclass

from policies.common.settings import PolicyGradientSettings


@dataclass(frozen=True)
class ActorCriticSettings(PolicyGradientSettings):
    """One-step actor-critic (Sutton and Barto 2018, section 13.5)."""

    discounted_start: bool = False
    """Whether a step counts the less the later it comes in its episode: I <- gamma I of the book's algorithm."""
