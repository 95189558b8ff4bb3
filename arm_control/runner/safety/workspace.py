"""The workspace: a box and a table that no link's end may leave."""

import math
from collections.abc import Sequence

from arm_control.runner.safety.braking import BrakingPath
from arm_control.runner.safety.settings import SafetySettings
from envs.arm import RADIANS, Arm
from envs.limits import ROUNDING_M, TABLE_M, JointLimits

# Bounds the work of one check: a path is bisected at most this often.
HALVINGS = 6


class WorkspaceError(ValueError):
    """A goal or a pose outside the workspace."""


def millimetres(distance_m: float) -> str:
    """A positive distance as text in mm, never rounded to zero."""
    distance_mm = 1000.0 * distance_m
    if distance_mm >= 9.95:
        return f"{distance_mm:.0f} mm"
    return f"{distance_mm:.2g} mm" if distance_mm >= 0.01 else "less than 0.01 mm"


class Workspace:
    """Checks points, poses and braking paths of one arm against the box and the table; metres in the base frame."""

    def __init__(self, arm: Arm, limits: JointLimits, period_s: float, settings: SafetySettings) -> None:
        self._arm = arm
        self._levers_m = arm.levers_m
        self._limits = limits
        self._period_s = period_s
        box = settings.workspace_m or (-math.inf,) * 3 + (math.inf,) * 3
        table = -math.inf if settings.table_m is None else settings.table_m
        # The floor is the table, or the bottom of the box if that is higher.
        self._table_is_floor = table >= box[2]
        self._box = (box[0], box[1], max(box[2], table), *box[3:])
        self.has_walls = any(map(math.isfinite, self._box))

    def outside_m(self, angles_deg: Sequence[float]) -> float:
        """The largest distance of a link end outside the workspace in metres; negative inside."""
        if not self.has_walls:
            return -math.inf
        low_x, low_y, low_z, high_x, high_y, high_z = self._box
        worst_m = -math.inf
        # As `_beyond_m`, written out: this is most of the work near a wall.
        for x, y, z in self._arm.link_ends(angles_deg):
            beyond_m = max(low_x - x, x - high_x, low_y - y, y - high_y, low_z - z, z - high_z)
            if beyond_m > worst_m:
                worst_m = beyond_m
        return worst_m

    def outside_while_braking_m(self, target_deg: Sequence[float], speed_deg_s: Sequence[float]) -> float:
        """The largest distance of a link end outside the workspace, at a target and while braking from it, in metres.

        A link end moves no further than the sum over joints of |turn| x lever. Where that bound does not decide, the
        path is bisected.
        """
        path = BrakingPath(target_deg, speed_deg_s, self._limits, self._period_s)
        here_m = self.outside_m(target_deg)
        if path.steps == 0:
            return here_m
        return self._worst_between_m(path, 0, target_deg, here_m, path.steps, path.pose(path.steps), None, HALVINGS)

    def _worst_between_m(
        self,
        path: BrakingPath,
        start: int,
        start_deg: Sequence[float],
        start_m: float,
        end: int,
        end_deg: Sequence[float],
        end_m: float | None,
        halvings: int,
    ) -> float:
        """The largest distance outside between two steps of a path in metres; after all bisections, an upper bound."""
        # span = sum over joints of |turn| x lever, turns in radians
        span_m = 0.0
        for here, there, lever_m in zip(start_deg, end_deg, self._levers_m, strict=True):
            span_m += abs(there - here) * lever_m
        span_m *= RADIANS
        if start_m + span_m <= 0.0:
            return start_m
        if end_m is None:
            end_m = self.outside_m(end_deg)
        # The distances of a point between from both ends add up to at most the span.
        bound_m = 0.5 * (start_m + end_m + span_m)
        if bound_m <= 0.0 or end - start == 1:
            return max(start_m, end_m)
        if halvings == 0:
            return bound_m
        middle = (start + end) // 2
        middle_deg = path.pose(middle)
        middle_m = self.outside_m(middle_deg)
        return max(
            self._worst_between_m(path, start, start_deg, start_m, middle, middle_deg, middle_m, halvings - 1),
            self._worst_between_m(path, middle, middle_deg, middle_m, end, end_deg, end_m, halvings - 1),
        )

    def describe_worst_while_braking(self, target_deg: Sequence[float], speed_deg_s: Sequence[float]) -> str:
        """Describe the link end that gets furthest outside while braking from a target."""
        path = BrakingPath(target_deg, speed_deg_s, self._limits, self._period_s)
        poses = map(path.pose, range(path.steps + 1))
        return self.describe_worst(max(poses, key=self.outside_m))

    def check_point(self, point_m: Sequence[float]) -> None:
        """Raise WorkspaceError for a goal outside the workspace."""
        beyond_m = self._beyond_m(point_m)
        if beyond_m > ROUNDING_M:
            place = ", ".join(f"{value:.4f}" for value in point_m)
            raise WorkspaceError(
                f"goal ({place}) m is {millimetres(beyond_m)} outside the workspace: it is {self._side(point_m)}"
            )

    def check_pose(self, angles_deg: Sequence[float], what: str, remedy: str = "") -> None:
        """Raise WorkspaceError for a pose outside the workspace; `what` is its name in the message."""
        outside_m = self.outside_m(angles_deg)
        if outside_m > ROUNDING_M:
            hint = f"; {remedy}" if remedy else ""
            raise WorkspaceError(
                f"{what} is {millimetres(outside_m)} outside the workspace: {self.describe_worst(angles_deg)}{hint}"
            )

    def default_pose_deg(self) -> list[float]:
        """The default start and parking pose: inside the workspace, and above the table or z = 0."""
        low_x, low_y, low_z, *high = self._box
        floor_m = low_z if math.isfinite(low_z) else TABLE_M
        return self._arm.default_pose_deg(self._limits, (low_x, low_y, floor_m, high[0], high[1], high[2]))

    def describe_worst(self, angles_deg: Sequence[float]) -> str:
        """Describe the link end that is furthest outside."""
        ends = zip(self._arm.link_names, self._arm.link_ends(angles_deg), strict=True)
        name, end_m = max(ends, key=lambda end: self._beyond_m(end[1]))
        return f"the end of {name} is {self._side(end_m)}"

    def _beyond_m(self, point_m: Sequence[float]) -> float:
        x, y, z = point_m
        low_x, low_y, low_z, high_x, high_y, high_z = self._box
        return max(low_x - x, x - high_x, low_y - y, y - high_y, low_z - z, z - high_z)

    def _side(self, point_m: Sequence[float]) -> str:
        """Describe the side of the workspace that a point is furthest beyond, with the flag that sets that side."""
        sides: list[tuple[float, str]] = []
        for axis, value, low, high in zip("xyz", point_m, self._box, self._box[3:], strict=False):
            below = f"{millimetres(low - value)} below {axis} = {low:g} m of the box (--workspace)"
            if axis == "z" and self._table_is_floor:
                below = f"{millimetres(low - value)} below the table at z = {low:g} m (--table)"
            above = f"{millimetres(value - high)} above {axis} = {high:g} m of the box (--workspace)"
            sides.append((low - value, below))
            sides.append((value - high, above))
        return max(sides)[1]
