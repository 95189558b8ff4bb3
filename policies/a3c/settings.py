"""Settings of A3C."""

from dataclasses import dataclass
from typing import ClassVar

from policies.common.settings import PolicyGradientSettings, check_numbers


@dataclass(frozen=True)
class A3CSettings(PolicyGradientSettings):
    """Asynchronous advantage actor-critic (Mnih et al. 2016): workers update shared parameters without locks."""

    num_envs: ClassVar[int] = 16

    learning_rate: float = 3e-4
    """Initial learning rate of RMSProp; it falls linearly to nearly zero over the training."""
    workers: int = 2
    """Number of worker processes, among which the environments are divided evenly."""
    asynchronous: bool = True
    """Update asynchronously; otherwise workers take turns, and a run is reproducible bit for bit."""
    steps_per_update: int = 10
    """t_max: steps of each environment between updates."""
    whole_episodes: bool = False
    """Update after whole episodes instead of a fixed number of steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, ("steps_per_update",), fractions=())
        if not 1 <= self.workers <= 64:
            raise ValueError(f"workers: expected from 1 to 64, got {self.workers}")

    @property
    def rollout_steps(self) -> int | None:
        """t_max; None: whole episodes."""
        return None if self.whole_episodes else self.steps_per_update

    @property
    def worker_processes(self) -> int:
        """Number of processes that act and learn on shared parameters."""
        return self.workers

    def check_num_envs(self, num_envs: int, processes: int) -> None:
        """Raise ValueError unless the environments can be divided among the workers, which are the only processes."""
        if processes > 1:
            raise ValueError(
                f"--processes: expected 1 (a3c simulates its environments in its --workers), got {processes}"
            )
        if num_envs % self.workers:
            raise ValueError(f"--num-envs: expected a multiple of {self.workers} workers, got {num_envs}")
