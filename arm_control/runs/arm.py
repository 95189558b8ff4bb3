"""Opening the arm of a policy from a URDF file."""

from envs.arm import DEFAULT_URDF, Arm


def open_arm(expected: Arm, urdf: str | None) -> Arm:
    """The arm in the file `urdf`, or the default one. Raises ValueError if it moves unlike the policy's arm."""
    arm = Arm(DEFAULT_URDF if urdf is None else urdf)
    if not arm.moves_like(expected):
        hint = "name its URDF file with --arm" if urdf is None else "its joints, limits or lengths differ"
        raise ValueError(f"the policy was trained on the arm {expected.name}, which is not that of {arm.urdf}: {hint}")
    return arm
