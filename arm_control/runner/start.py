"""The start rule: from which targets an arm starts, given where it reads as being."""

from collections.abc import Sequence

from envs.limits import JointLimits

# Noise and backlash of an arm at rest: one that starts so little outside a joint's range is inside it.
READING_NOISE_DEG = 1.0


def start_target(angles_deg: Sequence[float], limits: JointLimits) -> list[float]:
    """The first target of an arm at rest at these angles, in degrees.

    A reading a little outside a joint's range is noise: no target is to follow it there. A joint that is really outside
    comes back from where it is.
    """
    target_deg = []
    for angle, inside in zip(angles_deg, limits.clip(angles_deg), strict=True):
        target_deg.append(inside if abs(angle - inside) <= READING_NOISE_DEG else float(angle))
    return target_deg
