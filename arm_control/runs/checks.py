"""Checks of flags, with the accepted values in each error."""

import difflib
import math
from collections.abc import Iterable

MOST_STEPS = 10**12
MOST_MINUTES = 366 * 24 * 60
MOST_GOALS = 1_000_000  # held-out goals, each of which takes about 10 ms
MOST_ROUNDS = 10_000
MOST_SEEDS = 1000
MOST_PROCESSES = 512
GRID_STEPS_DEG = (0.01, 360.0)


def check_choice(kind: str, name: str, available: Iterable[str]) -> None:
    """Raise ValueError, with the available names and the closest one, unless `name` is available."""
    names = list(available)
    if name not in names:
        close = difflib.get_close_matches(name, names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"unknown {kind} '{name}'{hint}; available: {', '.join(names)}")


def check_png(path: str | None) -> None:
    """Raise ValueError for a file name that does not end in .png; None is accepted."""
    if path is not None and not path.lower().endswith(".png"):
        raise ValueError(f"--save: expected a file that ends in .png, got {path}")


def check_count(name: str, value: int, most: int) -> None:
    """Raise ValueError unless a count is from 1 to `most`."""
    if not 1 <= value <= most:
        raise ValueError(f"--{name}: expected a number from 1 to {most}, got {value}")


def check_range(name: str, value: float, limits: tuple[float, float], unit: str = "") -> None:
    """Raise ValueError unless a number is within limits, both included; also for NaN."""
    least, most = limits
    if not least <= value <= most:
        raise ValueError(f"--{name}: expected from {least:g} to {most:g}{f' {unit}' if unit else ''}, got {value}")


def check_seed(name: str, value: int) -> None:
    """Raise ValueError unless a seed is from 0 and has at most 63 bits."""
    if not 0 <= value < 2**63:
        raise ValueError(f"--{name}: expected a number from 0, of at most 63 bits, got {value}")


def check_length(steps: int | None, minutes: float | None) -> None:
    """Raise ValueError if both lengths are given, or for one that is not positive, not finite, or too large."""
    if steps is not None and minutes is not None:
        raise ValueError("expected one of --steps and --minutes, got both")
    if steps is not None and not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"--steps: expected a positive number, up to {MOST_STEPS}, got {steps}")
    if minutes is not None and not 0 < minutes <= MOST_MINUTES:
        raise ValueError(f"--minutes: expected a positive number, up to {MOST_MINUTES}, got {minutes}")


def check_grid_step(step_deg: float) -> None:
    """Raise ValueError for a step of the degree grid that is out of range."""
    check_range("grid-step-deg", step_deg, GRID_STEPS_DEG, "degrees")


def parse_numbers(name: str, text: str, expected: str, count: int | None = None) -> tuple[float, ...]:
    """Parse finite numbers separated by commas. Raises ValueError, naming what is `expected`, for anything else."""
    try:
        numbers = tuple(float(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)) or (count is not None and len(numbers) != count):
        raise ValueError(f"--{name}: expected {expected}, got '{text}'")
    return numbers
