"""`arm-control bench NAME`: measure a part of this program."""

import arm_control.bench
from arm_control.process.discovery import Variants, command_summary, load_command, module_names

SUMMARY = "Measure a part of this program: its speed, accuracy or exactness."


def variants() -> Variants:
    """The benches."""
    return Variants(
        "bench",
        SUMMARY,
        module_names(arm_control.bench),
        load=lambda name: load_command(arm_control.bench, name),
        summarise=lambda name: command_summary(arm_control.bench, name),
    )
