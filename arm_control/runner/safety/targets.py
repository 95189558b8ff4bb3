"""Limiting targets: from a policy's commands, or the targets of a recording, to targets that the arm can follow.

Every target keeps the limits of position, speed and acceleration (`envs.limits.limit_target`), and leaves room to stop
inside the workspace. Once a fault is latched, the targets decelerate within the acceleration limit and stay at rest.
Angles are in degrees, speeds in degrees/s, in the order of the joints.
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

# Smaller deviations do not count as clamped: a command outside the range by single-precision rounding, and a target
# behind a recording because the limiter cuts a corner of it.
ROUNDING_DEG = 1e-3
CORNER_DEG = 0.5
REST_DEG_S = 1e-6  # a slower target is at rest: rounding leaves a small speed


class TargetLimiter:
    """Holds the present target and its speed, and computes the next one."""

    def __init__(
        self,
        arm: Arm,
        limits: JointLimits,
        period_s: float,
        settings: SafetySettings,
        latch: FaultLatch,
        workspace: Workspace,
    ) -> None:
        self._joint_names = arm.joint_names
        self._limits = limits
        self._period_s = period_s
        self._settings = settings
        self._latch = latch
        self._workspace = workspace
        self.target_deg: list[float] = list(limits.lower_deg)
        self.speed_deg_s: list[float] = [0.0] * arm.joint_count
        self._zeros = [0.0] * arm.joint_count
        self.ahead_deg: list[float] = self._zeros
        """The lead of the policy's own target over the interpolated one."""
        self.now_s = -math.inf
        """The time of the present tick."""
        self._start_deg = list(self.target_deg)  # the pose that commands are blended with
        self._followed_deg: list[float] | None = None  # the last target of a recording
        self._step_deg = list(self.target_deg)  # the policy's own target at the end of its step
        # The interpolated targets and speeds of the remaining ticks of that step, in reverse order.
        self._segment: list[tuple[list[float], list[float]]] = []
        self._wall_timer = Timer()

    def rest(self) -> None:
        """Rest at the present target, and discard the step or recording that was being followed."""
        self._wall_timer = Timer()
        self._followed_deg = None
        self.ahead_deg = self._zeros
        self.stood_still()

    def place(self, target_deg: list[float]) -> None:
        """Make this the present target."""
        self.target_deg = target_deg

    def blend_from_here(self) -> None:
        """Make the present target the pose that `admit` blends commands with."""
        self._start_deg = list(self.target_deg)

    def stood_still(self) -> None:
        """Set the targets' speed to zero: the arm has come to rest at the last one."""
        self.speed_deg_s = [0.0] * len(self.target_deg)

    @property
    def moving(self) -> bool:
        """True if the targets are moving."""
        return any(abs(speed) > REST_DEG_S for speed in self.speed_deg_s)

    def admit(
        self, command_deg: Sequence[float], *, blend: float = 1.0, follow: bool = False, ticks: int = 1
    ) -> list[float]:
        """The target to send for a policy's command, both in degrees.

        `blend` goes from the start pose (0) to the command (1). With `follow`, the command is a target of a recording,
        which the arm must keep up with instead of reaching it in its own time. A command that holds for several `ticks`
        is one step of the policy, interpolated; `go_on` gives the targets of its other ticks.
        """
        if self._latch.fault is not None or not self._is_finite(command_deg) or not self._is_in_range(command_deg):
            self.brake()
            return list(self.target_deg)
        # A command slightly outside its range needs no clipping: the limiter stays inside.
        desired = command_deg
        if blend < 1.0:
            pairs = zip(self._start_deg, command_deg, strict=True)
            desired = [start + blend * (command - start) for start, command in pairs]
        if follow:
            self._follow(self._limits.clip(desired))
            return list(self.target_deg)
        if ticks == 1:
            self.ahead_deg = self._zeros
            target, speed = limit_target(desired, self.target_deg, self.speed_deg_s, self._limits, self._period_s)
            self._advance(target, speed)
            return list(self.target_deg)
        self._step_deg, segment = interpolate_target(
            desired, self.target_deg, self.speed_deg_s, self._limits, self._period_s, ticks
        )
        self._segment = segment[::-1]
        return self.go_on()

    def go_on(self) -> list[float]:
        """The target for the next tick of a command that holds for several; braking once a fault is latched.

        An arm that the workspace has held back catches up within its limits.
        """
        if self._latch.fault is not None:
            self.brake()
            return list(self.target_deg)
        planned_deg, planned_deg_s = self._segment.pop()
        self.ahead_deg = [step - planned for step, planned in zip(self._step_deg, planned_deg, strict=True)]
        target, speed = follow_target(
            planned_deg, planned_deg_s, self.target_deg, self.speed_deg_s, self._limits, self._period_s
        )
        self._advance(target, speed)
        return list(self.target_deg)

    def previous_step_deg(self, ticks: int) -> list[float]:
        """The policy's own previous target in degrees, at the beginning of a step of `ticks` ticks.

        Its speed is `speed_deg_s` at any rate, because interpolated targets end a step at the speed of the step.
        """
        if ticks == 1:
            return self.target_deg
        return lead_target(self.target_deg, self.speed_deg_s, self._limits, self._period_s, ticks)

    def toward(self, desired_deg: Sequence[float]) -> list[float]:
        """The next target of the runner's own motion to a pose, such as parking; braking once a fault is latched."""
        if self._latch.fault is not None:
            self.brake()
            return list(self.target_deg)
        target, speed = limit_target(desired_deg, self.target_deg, self.speed_deg_s, self._limits, self._period_s)
        self._advance(target, speed)
        return list(self.target_deg)

    def brake(self) -> None:
        """Decelerate at the acceleration limits."""
        self.target_deg, self.speed_deg_s = brake_target(
            self.target_deg, self.speed_deg_s, self._limits, self._period_s
        )

    # Checks of commands.

    def _is_finite(self, command_deg: Sequence[float]) -> bool:
        """Check that a command has a finite angle for each joint."""
        count = len(self._joint_names)
        if len(command_deg) == count and all(map(math.isfinite, command_deg)):
            return True
        self._latch.trip("finite", f"expected {count} finite target angles in degrees, got {list(command_deg)}")
        return False

    def _is_in_range(self, command_deg: Sequence[float]) -> bool:
        """Check that a command is within the joints' ranges, or outside by no more than what is clamped."""
        clamped = False
        joints = zip(self._joint_names, command_deg, self._limits.by_joint, strict=True)
        for name, command, (low, high, _, _) in joints:
            if low <= command <= high:
                continue
            outside_deg = max(low - command, command - high)
            if outside_deg > self._settings.clamp_deg:
                self._latch.trip("position", f"{name}: command of {command:.1f} degrees, expected {low:g} to {high:g}")
                return False
            clamped |= outside_deg > ROUNDING_DEG
        if clamped:
            self._latch.clamp("position")
        return True

    # Targets.

    def _follow(self, desired_deg: list[float]) -> None:
        """Move one tick along recorded targets, at their speed or, to catch up with them, another one."""
        # The speed of the recorded targets, by their difference since the last tick.
        before_deg = desired_deg if self._followed_deg is None else self._followed_deg
        self._followed_deg = desired_deg
        pairs = zip(before_deg, desired_deg, strict=True)
        desired_deg_s = [(now - before) / self._period_s for before, now in pairs]
        target, speed = follow_target(
            desired_deg, desired_deg_s, self.target_deg, self.speed_deg_s, self._limits, self._period_s
        )
        self._check_following(desired_deg, target)
        if self._latch.fault is None:
            self._advance(target, speed)
        else:
            self.brake()

    def _check_following(self, desired_deg: Sequence[float], target_deg: Sequence[float]) -> None:
        """Check that a target does not fall far behind the recorded one that it follows."""
        behind = [abs(desired - target) for desired, target in zip(desired_deg, target_deg, strict=True)]
        worst = max(behind)
        if worst > self._settings.clamp_deg:
            name = self._joint_names[behind.index(worst)]
            self._latch.trip(
                "speed", f"{name} falls {worst:.1f} degrees behind the recording, which exceeds its limits"
            )
        elif worst > CORNER_DEG:
            self._latch.clamp("speed")

    def _advance(self, target: list[float], speed: list[float]) -> None:
        """Take this target if the arm can stop inside the workspace from there; otherwise brake."""
        workspace = self._workspace
        outside_m = workspace.outside_while_braking_m(target, speed) if workspace.has_walls else -math.inf
        leaves = outside_m > ROUNDING_M
        # An arm that is held at a wall may move along it and back inside.
        if leaves and outside_m <= self._settings.clamp_m:
            leaves = outside_m >= workspace.outside_m(self.target_deg)
        held_s = self._wall_timer.held_s(leaves, self.now_s)
        if not leaves:
            self.target_deg = target
            self.speed_deg_s = speed
            return
        # It leaves: a fault if it does so by far or for long, otherwise clamped.
        if outside_m > self._settings.clamp_m:
            where = workspace.describe_worst_while_braking(target, speed)
            self._latch.trip("workspace", f"a link would get {millimetres(outside_m)} outside the workspace: {where}")
        elif held_s > self._settings.wall_s:
            where = workspace.describe_worst_while_braking(target, speed)
            self._latch.trip(
                "workspace",
                f"a link was held at the boundary of the workspace for {self._settings.wall_s:g} s: beyond it, {where}",
            )
        else:
            self._latch.clamp("workspace")
        self.brake()
