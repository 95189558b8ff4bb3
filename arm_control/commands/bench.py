"""`arm-control bench NAME`: measure a part of this program."""

import arm_control.bench
from arm_control.process.discovery import Variants, load_command, module_names

SUMMARY = "Measure a part of this program: its speed, accuracy or exactness."


def variants() -> Variants:
    """The benches."""
    names = module_names(arm_control.bench)
    return Variants("bench", SUMMARY, names, lambda name: load_command(arm_control.bench, name))
