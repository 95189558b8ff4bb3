"""The fault latch: counts of what was clamped, and the first fault, which stops the arm until a person resets it."""

from collections import Counter
from dataclasses import dataclass
from enum import Enum


class SafetyLevel(Enum):
    """The safety level of a tick; the values are those of `Tick.band` in recordings and never change."""

    OK = "pass"
    CLAMPED = "clamp"
    FAULT = "refuse"


@dataclass(frozen=True)
class Fault:
    """The check that stopped the arm, and what it found."""

    check: str
    text: str


class FaultLatch:
    """Holds the first fault until it is cleared, the level of the present tick, and the number of clamps by check."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.level = SafetyLevel.OK
        self.clamped: Counter[str] = Counter()

    def begin_tick(self) -> None:
        """Start a tick: its level is OK unless a fault is latched."""
        self.level = SafetyLevel.OK if self.fault is None else SafetyLevel.FAULT

    def trip(self, check: str, text: str) -> None:
        """Latch a fault; the first one is kept."""
        self.level = SafetyLevel.FAULT
        if self.fault is None:
            self.fault = Fault(check, text)

    def clamp(self, check: str) -> None:
        """Count a value that was clamped in this tick."""
        self.clamped[check] += 1
        if self.level is SafetyLevel.OK:
            self.level = SafetyLevel.CLAMPED

    def clear(self) -> None:
        """Clear the fault."""
        self.fault = None
