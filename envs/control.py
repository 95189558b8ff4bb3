"""Control modes: an action is a target angle, or a change of the measured angle or of the previous target.

The action spaces are in `envs.actions`; targets are then limited by `envs.limits.limit_target`.
"""

from typing import Any, Literal

ActionKind = Literal["degrees", "index", "positions"]
Control = Literal["absolute", "from_measured", "from_target"]


def target_of(action_deg: Any, control: Control, measured_deg: Any, previous_target_deg: Any) -> Any:
    """The target angles (..., joints) for an action (..., joints), in degrees, before they are limited."""
    if control == "absolute":
        return action_deg
    base_deg = measured_deg if control == "from_measured" else previous_target_deg
    return base_deg + action_deg
