"""Settings of the one-step actor-critic."""

from dataclasses import dataclass

from policies.common.settings import PolicyGradientSettings


@dataclass(frozen=True)
class ActorCriticSettings(PolicyGradientSettings):
    """One-step actor-critic (Sutton and Barto 2018, section 13.5)."""

    discounted_start: bool = False
    """Weight the update of the t-th step of an episode by gamma^t (I <- gamma I in the book's algorithm)."""
