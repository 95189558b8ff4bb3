"""Settings of A3C."""

from dataclasses import dataclass
from typing import ClassVar

from policies.common.settings import PolicyGradientSettings, check_numbers


@dataclass(frozen=True)
class A3CSettings(PolicyGradientSettings):
    """Asynchronous advantage actor-critic (Mnih et al. 2016): workers learn side by side, without waiting."""

    num_envs: ClassVar[int] = 16

    workers: int = 2
    """Worker processes, among which the arms are divided evenly."""
    asynchronous: bool = True
    """Let workers learn whenever they can; otherwise they take turns, and a run is the same each time, bit for bit."""
    steps_per_update: int = 10
    """t_max: steps of each arm before each update."""
    whole_episodes: bool = False
    """Update after whole episodes instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, ("steps_per_update",), fractions=())
        if not 1 <= self.workers <= 64:
            raise ValueError(f"workers: expected from 1 to 64, got {self.workers}")

    @property
    def rollout_steps(self) -> int | None:
        """t_max; None for whole episodes."""
        return None if self.whole_episodes else self.steps_per_update

    @property
    def worker_processes(self) -> int:
        """Number of processes that learn on shared parameters."""
        return self.workers

    def check_num_envs(self, num_envs: int, processes: int) -> None:
        """Raise ValueError unless the arms can be divided among the workers, which are the only processes."""
        if processes > 1:
            raise ValueError(f"--processes: the arms of a3c are in its --workers, got {processes} processes")
        if num_envs % self.workers:
            raise ValueError(f"--num-envs: expected a multiple of {self.workers} workers, got {num_envs}")
