"""The start rule: the first target of an arm, from its measured angles."""

from collections.abc import Sequence

from envs.limits import JointLimits

# Noise and backlash of an arm at rest: a reading outside a joint's range by no more counts as inside.
READING_NOISE_DEG = 1.0


def start_target(angles_deg: Sequence[float], limits: JointLimits) -> list[float]:
    """The first target of an arm at rest at these angles, in degrees.

    A reading slightly outside a joint's range is noise, and is clipped to the range. A joint that is further outside
    starts from its reading, and moves back from there.
    """
    target_deg = []
    for angle, inside in zip(angles_deg, limits.clip(angles_deg), strict=True):
        target_deg.append(inside if abs(angle - inside) <= READING_NOISE_DEG else float(angle))
    return target_deg
