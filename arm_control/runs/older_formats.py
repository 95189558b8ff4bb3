"""Older configurations of run folders, converted to the present fields."""

from typing import Any

# Fields that did not exist, with the value that they had in effect.
ADDED = {"episode_steps": None, "control_rate_hz": None}
# Options of ArmTrack-v0 that were fields of their own.
TASK_OPTIONS = ("path", "speed_m_s")


def present_config(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of any readable version with the present fields; one of this version is returned as it is."""
    values = {**ADDED, **config}
    if "task_options" not in values:
        values["task_options"] = {}
        for name in TASK_OPTIONS:
            value = values.pop(name, None)
            if value is not None:
                values["task_options"][name] = value
    return values
