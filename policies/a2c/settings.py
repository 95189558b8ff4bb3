"""Settings of A2C."""

from dataclasses import dataclass

from policies.common.settings import PolicyGradientSettings, check_numbers


@dataclass(frozen=True)
class A2CSettings(PolicyGradientSettings):
    """Advantage actor-critic: all arms step together, and the network learns from all their steps."""

    steps_per_update: int = 10
    """Steps of each arm before each update."""
    gae_lambda: float = 0.95
    """lambda: from 0, the next value alone, to 1, all rewards up to the last step."""
    recurrent: bool = False
    """Let policy and value remember what they saw, by an LSTM, for arms that do not show all (late or noisy ones)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, ("steps_per_update",), fractions=("gae_lambda",))

    @property
    def rollout_steps(self) -> int | None:
        """Steps of each arm before each update."""
        return self.steps_per_update
