"""Settings of the safety checks beside the joints' limits."""

import math
from dataclasses import dataclass

from arm_control.runner.safety.tracking import MAX_DELAY_S, MAX_LAG_S
from envs.limits import Box


@dataclass(frozen=True)
class SafetySettings:
    """What causes a fault beside the joints' limits, and what is clamped instead."""

    table_m: float | None = 0.0
    """Height of the table, which no link may go below, in metres; None for an arm without one."""
    workspace_m: Box | None = None
    """Lowest x, y, z and highest x, y, z that the end of any moving link may have, in metres."""
    clamp_deg: float = 5.0
    """A command is clamped up to this far outside a joint's range, and so is a target up to this far behind a
    recording; beyond that it is a fault."""
    clamp_m: float = 0.02
    """A target is held back if its link ends would get up to this far outside the workspace; beyond, it is a fault."""
    wall_s: float = 1.0
    """How long a policy may push against the workspace, where it is held."""
    stale_s: float = 0.1
    """Age of a reading."""
    tracking_deg: float = 20.0
    """How far a joint may be from its expected angle (infinite: a dry run, in which nothing is checked) ..."""
    tracking_s: float = 0.6
    """... for so long; a servo at full load is given the same time."""
    tip_deg: float = 3.5
    """How far the tip may be from its expected position, as an error of the joint with the longest lever. An XL430 that
    holds the arm out level gives way by 2.1 degrees (0.24 of its 1.4 N m, 885 PWM units at 6.25 a tick: e-Manual,
    register 84); dead band and backlash of `--imperfections rough` add 0.3 and 0.8."""
    still_deg: float = 3.0
    """How far a target may move while the joint's reading stays constant: more than friction, dead band and backlash
    explain."""
    max_delay_s: float = MAX_DELAY_S
    """The delay of a healthy arm is up to this ..."""
    max_lag_s: float = MAX_LAG_S
    """... and its servos' lag up to this."""
    temperature_c: float = 72.0
    """The temperature at which an XL430 shuts itself down (e-Manual, register 31)."""
    load: float = 1.0
    """Load as a fraction of the servo's largest."""
    voltage_v: tuple[float, float] = (6.0, 14.0)
    """Lowest and highest supply voltage: an XL430's own limits (e-Manual, registers 32 and 34)."""

    def __post_init__(self) -> None:
        if self.workspace_m is not None and not is_box(self.workspace_m):
            raise ValueError(
                f"workspace: expected x, y, z lowest and x, y, z highest in metres, got {self.workspace_m}"
            )


def is_box(box: Box) -> bool:
    """Whether these are six finite numbers, each lowest one below its highest."""
    if len(box) != 6 or not all(map(math.isfinite, box)):
        return False
    return all(low < high for low, high in zip(box[:3], box[3:], strict=True))
