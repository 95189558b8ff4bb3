"""Settings of the safety checks, other than the joint limits."""

import math
from dataclasses import dataclass

from arm_control.runner.safety.tracking import MAX_DELAY_S, MAX_LAG_S
from envs.limits import Box


@dataclass(frozen=True)
class SafetySettings:
    """Thresholds of the checks: up to where a value is clamped, and where it becomes a fault."""

    table_m: float | None = 0.0
    """Height of the table in metres in the base frame: no link end may go below it; None for no table."""
    workspace_m: Box | None = None
    """Box for the ends of all moving links: lowest x, y, z, highest x, y, z in metres in the base frame."""
    clamp_deg: float = 5.0
    """A command up to this far outside a joint's range is clamped, and so is a target up to this far behind a
    recording; further is a fault."""
    clamp_m: float = 0.02
    """If a link end would leave the workspace by up to this distance, the arm brakes instead; further is a fault."""
    wall_s: float = 1.0
    """Longest time for which a policy may push against the boundary of the workspace."""
    stale_s: float = 0.1
    """Greatest age of the last plausible reading."""
    tracking_deg: float = 20.0
    """Greatest distance of a joint from its expected angle (infinite: a dry run, without these checks) ..."""
    tracking_s: float = 0.6
    """... and the longest time beyond it; also the longest time at full load."""
    tip_deg: float = 3.5
    """Greatest distance of the tip from its expected position, as an angle of the joint with the longest lever. An
    XL430 that holds the arm out level sags by 2.1 degrees (0.24 of its 1.4 N m, 885 PWM units at 6.25 per tick:
    e-Manual, register 84); dead band and backlash of `--imperfections rough` add 0.3 and 0.8."""
    still_deg: float = 3.0
    """Greatest motion of a target while the joint's reading stays constant: more than friction, dead band and backlash
    account for."""
    max_delay_s: float = MAX_DELAY_S
    """Greatest delay of a healthy arm ..."""
    max_lag_s: float = MAX_LAG_S
    """... and greatest lag of its servos."""
    temperature_c: float = 72.0
    """The temperature at which an XL430 shuts itself down (e-Manual, register 31)."""
    load: float = 1.0
    """Full load, as a fraction of the servo's maximum."""
    voltage_v: tuple[float, float] = (6.0, 14.0)
    """Lowest and highest supply voltage: the limits of an XL430 (e-Manual, registers 32 and 34)."""

    def __post_init__(self) -> None:
        if self.workspace_m is not None and not is_box(self.workspace_m):
            raise ValueError(
                f"workspace: expected x, y, z lowest and x, y, z highest in metres, got {self.workspace_m}"
            )


def is_box(box: Box) -> bool:
    """Return True if these are six finite numbers, each lowest one below its highest."""
    if len(box) != 6 or not all(map(math.isfinite, box)):
        return False
    return all(low < high for low, high in zip(box[:3], box[3:], strict=True))
