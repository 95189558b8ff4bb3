"""Settings of REINFORCE."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from policies.common.settings import PolicyGradientSettings


@dataclass(frozen=True)
class ReinforceSettings(PolicyGradientSettings):
    """Monte Carlo policy gradient (Williams 1992), with a baseline."""

    num_envs: ClassVar[int] = 8

    baseline: Literal["none", "average", "value"] = "value"
    """Baseline subtracted from each return: none, the average of the other environments, or the state's value."""

    @property
    def rollout_steps(self) -> int | None:
        """None: updates need whole episodes."""
        return None

    def check_num_envs(self, num_envs: int, processes: int) -> None:
        """Raise ValueError if the baseline needs other environments' returns and there is one environment."""
        if self.baseline == "average" and num_envs == 1:
            raise ValueError(
                "--baseline average: expected at least 2 environments, to average the returns of the others, got 1"
            )
