"""A timer for how long a condition has held."""

from dataclasses import dataclass


@dataclass
class Timer:
    """Measures how long a condition has held without interruption."""

    since_s: float | None = None

    def held_s(self, holds: bool, now_s: float) -> float:
        """Update with whether the condition holds now; returns how long it has held, in s."""
        if not holds:
            self.since_s = None
            return 0.0
        if self.since_s is None:
            self.since_s = now_s
        return now_s - self.since_s
