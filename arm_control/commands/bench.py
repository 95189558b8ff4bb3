"""`arm-control bench NAME`: measure a part of this program."""

from dataclasses import dataclass

import arm_control.bench
from arm_control.process.discovery import Variants, load_command, module_names


@dataclass(frozen=True)
class Bench:
    """Measure a part of this program: its speed, accuracy or exactness."""


def run(command: Bench) -> None:
    """Do nothing: each bench has a `run` of its own."""


def variants() -> Variants:
    """The benches."""
    return Variants("bench", module_names(arm_control.bench), lambda name: load_command(arm_control.bench, name))
