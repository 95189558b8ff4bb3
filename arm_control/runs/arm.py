"""The arm that a run or a policy file is for, opened from a URDF file."""

from envs.arm import DEFAULT_URDF, Arm


def open_arm(promised: Arm, urdf: str | None) -> Arm:
    """The arm in the file `urdf`, or the default one. Raises ValueError if a policy's contract promises another."""
    arm = Arm(DEFAULT_URDF if urdf is None else urdf)
    if not arm.moves_like(promised):
        wanted = "name its URDF file with --arm" if urdf is None else "its joints, limits or lengths differ"
        raise ValueError(
            f"the policy was trained on the arm {promised.name}, which is not that of {arm.urdf}: {wanted}"
        )
    return arm
