"""Settings of A2C."""

from dataclasses import dataclass

from policies.common.settings import PolicyGradientSettings, check_numbers


@dataclass(frozen=True)
class A2CSettings(PolicyGradientSettings):
    """Synchronous advantage actor-critic: each update uses the latest steps of all environments."""

    steps_per_update: int = 10
    """Steps of each environment between updates."""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation: from 0, one-step TD errors, to 1, all rewards of the rollout."""
    recurrent: bool = False
    """Add an LSTM to policy and value, for partially observed arms (with delay or noise)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, ("steps_per_update",), fractions=("gae_lambda",))

    @property
    def rollout_steps(self) -> int | None:
        """Steps of each environment between updates."""
        return self.steps_per_update
