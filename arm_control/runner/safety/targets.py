"""Making targets: a policy's commands and a recording's targets, limited so that the arm can follow and stop.

Every target keeps the limits of position, speed and acceleration (`envs.limits.limit_target`), and leaves room to stop
inside the workspace. Once a fault is latched, targets slow down within the acceleration limit and stay at rest.
"""

import math
from collections.abc import Sequence

from arm_control.runner.safety.braking import brake_target
from arm_control.runner.safety.latch import FaultLatch
from arm_control.runner.safety.settings import SafetySettings
from arm_control.runner.safety.timer import Timer
from arm_control.runner.safety.workspace import Workspace, millimetres
from envs.arm import Arm
from envs.limits import ROUNDING_M, JointLimits, follow_target, interpolate_target, lead_target, limit_target

# What is not even clamped: rounding of a graph in single precision; a recording that the limiter cuts a corner of.
ROUNDING_DEG = 1e-3
CORNER_DEG = 0.5
REST_DEG_S = 1e-6  # of a target: rounding leaves it a little


class TargetLimiter:
    """Holds the present target and its speed, and makes the next one."""

    def __init__(
        self,
        arm: Arm,
        limits: JointLimits,
        period_s: float,
        settings: SafetySettings,
        latch: FaultLatch,
        workspace: Workspace,
    ) -> None:
        self._arm = arm
        self._limits = limits
        self._period_s = period_s
        self._settings = settings
        self._latch = latch
        self._workspace = workspace
        self.target_deg: list[float] = list(limits.lower_deg)
        self.speed_deg_s: list[float] = [0.0] * arm.joint_count
        self._level_deg = [0.0] * arm.joint_count
        self.ahead_deg: list[float] = self._level_deg
        """By how much the policy's own target is ahead of the interpolated one."""
        self.now_s = -math.inf
        """The time of the present tick."""
        self._start_deg = list(self.target_deg)
        self._followed_deg: list[float] | None = None  # what was followed in the last step
        self._step_deg = list(self.target_deg)  # the policy's own target
        self._segment: list[tuple[list[float], list[float]]] = []  # there: targets and speeds, the last one first
        self._wall_timer = Timer()

    def rest(self) -> None:
        """Come to rest at the present target: nothing is followed or interpolated any more."""
        self._wall_timer = Timer()
        self._followed_deg = None
        self.ahead_deg = self._level_deg
        self.stood_still()

    def place(self, target_deg: list[float]) -> None:
        """Start from this target."""
        self.target_deg = target_deg

    def blend_from_here(self) -> None:
        """Blend commands with the present target from now on, as `admit` describes it."""
        self._start_deg = list(self.target_deg)

    def stood_still(self) -> None:
        """Set the speed of the targets to zero: the arm has come to rest at the last one."""
        self.speed_deg_s = [0.0] * self._arm.joint_count

    @property
    def moving(self) -> bool:
        """Whether the targets are moving."""
        return any(abs(speed) > REST_DEG_S for speed in self.speed_deg_s)

    def admit(
        self, command_deg: Sequence[float], *, blend: float = 1.0, follow: bool = False, ticks: int = 1
    ) -> list[float]:
        """The target to send for a policy's command, in degrees, one a joint.

        `blend` goes from where the arm started (0) to the command (1). With `follow`, the command is a recorded target,
        which the arm has to keep up with, not one that it may take long to reach. A command that holds for several
        `ticks` is one step of the policy's, interpolated; `go_on` gives the targets of the other ticks.
        """
        if self._latch.fault is not None or not self._is_finite(command_deg) or not self._is_in_range(command_deg):
            self.brake()
            return list(self.target_deg)
        desired = command_deg  # a little outside: the limiter stays inside
        if blend < 1.0:
            desired = [here + blend * (there - here) for here, there in zip(self._start_deg, desired, strict=True)]
        if follow:
            self._follow(self._limits.clip(desired))
        elif ticks == 1:
            self.ahead_deg = self._level_deg
            self._advance(*limit_target(desired, *self._now, self._limits, self._period_s))
        else:
            self._step_deg, segment = interpolate_target(desired, *self._now, self._limits, self._period_s, ticks)
            self._segment = segment[::-1]
            return self.go_on()
        return list(self.target_deg)

    def go_on(self) -> list[float]:
        """The target to send in the next tick of a command that holds for several; braking once a fault is latched.

        Where the workspace has held the arm back, it catches up within its limits.
        """
        if self._latch.fault is None:
            at_deg, at_deg_s = self._segment.pop()
            self.ahead_deg = [step - at for step, at in zip(self._step_deg, at_deg, strict=True)]
            self._advance(*follow_target(at_deg, at_deg_s, *self._now, self._limits, self._period_s))
        else:
            self.brake()
        return list(self.target_deg)

    def previous_step_deg(self, ticks: int) -> list[float]:
        """The policy's own previous target, at the beginning of a step of so many ticks, in degrees.

        Its speed is `speed_deg_s` at any rate: interpolated targets end a step at the speed of the step.
        """
        if ticks == 1:
            return self.target_deg
        return lead_target(*self._now, self._limits, self._period_s, ticks)

    def toward(self, desired_deg: Sequence[float]) -> list[float]:
        """The next target of the runner's own motion to a pose, such as parking; braking once a fault is latched."""
        if self._latch.fault is None:
            self._advance(*limit_target(desired_deg, *self._now, self._limits, self._period_s))
        else:
            self.brake()
        return list(self.target_deg)

    def brake(self) -> None:
        """Slow down as fast as allowed."""
        self.target_deg, self.speed_deg_s = brake_target(*self._now, self._limits, self._period_s)

    # Commands.

    def _is_finite(self, command_deg: Sequence[float]) -> bool:
        count = self._arm.joint_count
        if len(command_deg) == count and all(map(math.isfinite, command_deg)):
            return True
        self._latch.trip("finite", f"expected {count} finite target angles in degrees, got {list(command_deg)}")
        return False

    def _is_in_range(self, command_deg: Sequence[float]) -> bool:
        clamped = False
        for joint, (command, (low, high, _, _)) in enumerate(zip(command_deg, self._limits.by_joint, strict=True)):
            if low <= command <= high:
                continue
            beyond = max(low - command, command - high)
            if beyond > self._settings.clamp_deg:
                name = self._arm.joint_names[joint]
                self._latch.trip(
                    "position", f"{name} is told to go to {command:.1f} degrees, expected {low:g} to {high:g}"
                )
                return False
            clamped |= beyond > ROUNDING_DEG
        if clamped:
            self._latch.clamp("position")
        return True

    # Targets.

    @property
    def _now(self) -> tuple[list[float], list[float]]:
        return self.target_deg, self.speed_deg_s

    def _follow(self, desired_deg: list[float]) -> None:
        """One step along recorded targets: at their own speed, and faster or slower only to catch up with them."""
        before = desired_deg if self._followed_deg is None else self._followed_deg
        speed = [(there - here) / self._period_s for here, there in zip(before, desired_deg, strict=True)]
        target, speed = follow_target(desired_deg, speed, *self._now, self._limits, self._period_s)
        self._followed_deg = desired_deg
        self._check_following(desired_deg, target)
        if self._latch.fault is None:
            self._advance(target, speed)
        else:
            self.brake()

    def _check_following(self, desired_deg: Sequence[float], target_deg: Sequence[float]) -> None:
        behind = [abs(desired - target) for desired, target in zip(desired_deg, target_deg, strict=True)]
        worst = max(behind)
        if worst > self._settings.clamp_deg:
            name = self._arm.joint_names[behind.index(worst)]
            self._latch.trip(
                "speed", f"{name} is to move faster than it may: its limits leave it {worst:.1f} degrees behind"
            )
        elif worst > CORNER_DEG:
            self._latch.clamp("speed")

    def _advance(self, target: list[float], speed: list[float]) -> None:
        """Take this target, if the arm can then still stop inside the workspace; otherwise slow down."""
        workspace = self._workspace
        outside_m = workspace.outside_while_braking_m(target, speed) if workspace.has_walls else -math.inf
        leaves = outside_m > ROUNDING_M
        # Held at a wall, an arm may always come back.
        if leaves and outside_m <= self._settings.clamp_m:
            leaves = outside_m >= workspace.outside_m(self.target_deg)
        held_s = self._wall_timer.held_s(leaves, self.now_s)
        if not leaves:
            self.target_deg = target
            self.speed_deg_s = speed
            return
        if outside_m > self._settings.clamp_m:
            where = workspace.describe_worst_while_braking(target, speed)
            self._latch.trip("workspace", f"a link would get {millimetres(outside_m)} outside the workspace: {where}")
        elif held_s > self._settings.wall_s:
            where = workspace.describe_worst_while_braking(target, speed)
            self._latch.trip(
                "workspace",
                f"a link was held at the edge of the workspace for {self._settings.wall_s:g} s: on its way, {where}",
            )
        else:
            self._latch.clamp("workspace")
        self.brake()
