"""The runner's own motions, made without the policy: easing to a pose, holding, and parking.

Each is a script: the targets of consecutive ticks, in degrees, in the order of the joints.
"""

import math
from collections.abc import Iterator, Sequence

from arm_control.drivers.base import JointState
from arm_control.runner.clocks import Clock
from arm_control.runner.safety import Safety
from arm_control.runner.ticks import Ticker

# Close enough to the parking pose, and slow enough, to switch the torque off.
PARKED_DEG = 3.0
PARKED_DEG_S = 5.0

Script = Iterator[list[float]]
"""The targets of a phase, one per tick; between two of them the loop has sent one and read the arm."""


def smoothstep(x: float) -> float:
    """A smooth transition from 0 to 1, at rest at both ends: 3 x^2 - 2 x^3."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


def ease(safety: Safety, pose_deg: Sequence[float], *, min_s: float, speed_fraction: float) -> Script:
    """Targets of a slow motion from the present target to a pose.

    It takes at least `min_s`, and longer if a joint would exceed `speed_fraction` of its speed limit on average.
    """
    # The duration: that of the joint with the longest path relative to its speed limit.
    start_deg = list(safety.target_deg)
    fastest_s = 0.0
    for start, end, max_speed in zip(start_deg, pose_deg, safety.limits.max_speed_deg_s, strict=True):
        fastest_s = max(fastest_s, abs(end - start) / max_speed)
    length_s = max(min_s, fastest_s / speed_fraction)
    # A straight line in joint space: q = start + smoothstep(t / length) (end - start)
    ticks = math.ceil(length_s / safety.period_s)
    for tick in range(1, ticks + 1):
        fraction = smoothstep(tick / ticks)
        pairs = zip(start_deg, pose_deg, strict=True)
        yield safety.toward([start + fraction * (end - start) for start, end in pairs])
    # The limiter may need longer to come to rest.
    while safety.moving:
        yield safety.toward(pose_deg)


def hold(safety: Safety) -> Script:
    """Targets that come to rest at the present one, without end."""
    while True:
        yield safety.toward(safety.target_deg)


class Parking:
    """The motion to the parking pose, and the check that the arm rests there."""

    def __init__(
        self,
        safety: Safety,
        ticker: Ticker,
        clock: Clock,
        pose_deg: Sequence[float] | None,
        *,
        min_s: float,
        speed_fraction: float,
        timeout_s: float,
    ) -> None:
        """`timeout_s` is the time to reach the pose once the targets are there; see `ease` for the other times.

        Raises ValueError for a pose outside limits or workspace.
        """
        self.pose_deg = parking_pose(safety, pose_deg)
        self._safety = safety
        self._ticker = ticker
        self._clock = clock
        self._min_s = min_s
        self._speed_fraction = speed_fraction
        self._timeout_s = timeout_s

    def targets(self) -> Script:
        """Targets to the parking pose, until the arm rests there; a fault if it does not."""
        safety = self._safety
        yield from ease(safety, self.pose_deg, min_s=self._min_s, speed_fraction=self._speed_fraction)
        end_s = self._clock.now_s() + self._timeout_s
        while not self.is_at_rest():
            if self._clock.now_s() > end_s:
                safety.fault_stop("parking", self._fault_text(self._ticker.state))
            yield safety.toward(self.pose_deg)

    def is_at_rest(self) -> bool:
        """Return True if the arm is in its parking pose and does not move."""
        state = self._ticker.state
        pairs = zip(state.angles_deg, self.pose_deg, strict=True)
        is_near = all(abs(angle - park) <= PARKED_DEG for angle, park in pairs)
        return is_near and all(abs(speed) <= PARKED_DEG_S for speed in state.speeds_deg_s)

    def _fault_text(self, state: JointState) -> str:
        angles_deg = [round(angle, 1) for angle in state.angles_deg]
        park_deg = [round(angle, 1) for angle in self.pose_deg]
        cause = ", ".join(state.alerts) or "is it blocked?"
        return f"the arm is at {angles_deg} degrees, not in its parking pose {park_deg}: {cause}"


def parking_pose(safety: Safety, pose_deg: Sequence[float] | None) -> list[float]:
    """The pose to park in, by default that of the workspace. Raises ValueError for one outside limits or workspace."""
    park_deg = safety.workspace.default_pose_deg() if pose_deg is None else list(pose_deg)
    limits = safety.limits
    if len(park_deg) != safety.arm.joint_count or park_deg != limits.clip(park_deg):
        ranges = ", ".join(f"{low:g} to {high:g}" for low, high, _, _ in limits.by_joint)
        raise ValueError(f"parking pose: expected an angle for each joint, {ranges} degrees, got {park_deg}")
    safety.workspace.check_pose(park_deg, f"the parking pose {park_deg}", "choose another pose with --park")
    return park_deg
