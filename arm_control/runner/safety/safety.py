"""`Safety`: the interface between a policy and a driver, composed of latch, reading checks, target limiter, workspace.

There are three safety levels. A command within the limits is OK. One slightly beyond them is clamped, and counted. One
far beyond, or a reading that no healthy arm gives, is a fault. A fault latches: from then on the targets decelerate
within the acceleration limit, come to rest and stay there, until a person resets the fault or has the arm parked.
"""

from collections import Counter
from collections.abc import Sequence

from arm_control.drivers.base import JointState
from arm_control.runner.safety.latch import Fault, FaultLatch, SafetyLevel
from arm_control.runner.safety.readings import ReadingMonitor
from arm_control.runner.safety.settings import SafetySettings
from arm_control.runner.safety.targets import TargetLimiter
from arm_control.runner.safety.workspace import Workspace, millimetres
from arm_control.runner.start import start_target
from envs.arm import Arm
from envs.limits import ROUNDING_M, JointLimits


class Safety:
    """Checks readings and commands, and computes the targets.

        safety.start(state, now_s)                  # the present reading; the arm is at rest
        while True:                                 # once per control period
            safety.reads(driver.read(), now_s)
            driver.write(safety.admit(command_deg))

    `fault` is the fault that stopped the arm, None if there is none; `clamped` counts clamps by check.
    """

    def __init__(self, arm: Arm, limits: JointLimits, period_s: float, settings: SafetySettings | None = None) -> None:
        """`limits` may be tighter than the arm's own. Raises ValueError if they are wider."""
        if limits.tightened(arm.limits) != limits:
            raise ValueError(f"safety: expected limits within the arm's {arm.limits}, got {limits}")
        settings = settings or SafetySettings()
        self.arm = arm
        self.limits = limits
        self.period_s = period_s
        self.settings = settings
        self.placed = False
        """True if the targets start from a valid reading of the arm; before that, none may be sent."""
        self.latch = FaultLatch()
        self.workspace = Workspace(arm, limits, period_s, settings)
        self.readings = ReadingMonitor(arm, limits, period_s, settings, self.latch)
        self.targets = TargetLimiter(arm, limits, period_s, settings, self.latch, self.workspace)

    def start(self, state: JointState, now_s: float) -> None:
        """Start at the present reading, at rest and without a fault; an invalid start pose is a fault immediately."""
        self.placed = False
        self._begin(state, now_s, parking=False)

    def reset(self, state: JointState, now_s: float, *, parking: bool = False) -> None:
        """Clear a fault on a person's request and continue from the present reading; `parking` skips the health checks.

        A joint that is still where it was held, except for noise, backlash and sag, continues from its target: starting
        from its reading would let it sink. The targets must be at rest.
        """
        self._begin(state, now_s, parking=parking)

    def _begin(self, state: JointState, now_s: float, *, parking: bool) -> None:
        self.latch.clear()
        self.readings.forget(parking=parking)
        self.targets.rest()
        self.targets.now_s = now_s
        if not self.readings.is_sane(state):
            return
        # Check the start pose.
        self.readings.check_place(state)
        target_deg = self._start_target(state)
        outside_m = self.workspace.outside_m(target_deg)
        if outside_m > ROUNDING_M:
            self.fault_stop(
                "workspace",
                f"the arm starts {millimetres(outside_m)} outside the workspace: "
                f"{self.workspace.describe_worst(target_deg)}; switch its power off and move it inside by hand",
            )
        self.reads(state, now_s)
        # Place the targets there, unless one of the checks found a fault.
        if self.latch.fault is None:
            self.placed = True
            self.targets.place(target_deg)
            self.readings.follow(state, now_s)
        self.targets.blend_from_here()

    def _start_target(self, state: JointState) -> list[float]:
        """The first target in degrees; a joint that is still close to where it was held keeps its target."""
        target_deg = start_target(state.angles_deg, self.limits)
        if not self.placed:
            return target_deg
        for joint, (angle, held) in enumerate(zip(state.angles_deg, self.targets.target_deg, strict=True)):
            if abs(angle - held) <= self.settings.clamp_deg:
                target_deg[joint] = held
        return target_deg

    def reads(self, state: JointState | None, now_s: float, why: str = "") -> bool:
        """Check the reading of this tick, or its absence for the reason `why`; returns True if it is plausible."""
        self.targets.now_s = now_s
        self.latch.begin_tick()
        return self.readings.judge(state, self.targets.target_deg, now_s, why)

    def admit(
        self, command_deg: Sequence[float], *, blend: float = 1.0, follow: bool = False, ticks: int = 1
    ) -> list[float]:
        """The target to send for a policy's command; see `TargetLimiter.admit`."""
        return self.targets.admit(command_deg, blend=blend, follow=follow, ticks=ticks)

    def go_on(self) -> list[float]:
        """The target for the next tick of a command that holds for several; see `TargetLimiter.go_on`."""
        return self.targets.go_on()

    def toward(self, desired_deg: Sequence[float]) -> list[float]:
        """The next target of the runner's own motion to a pose; see `TargetLimiter.toward`."""
        return self.targets.toward(desired_deg)

    def previous_step_deg(self, ticks: int) -> list[float]:
        """The policy's own previous target; see `TargetLimiter.previous_step_deg`."""
        return self.targets.previous_step_deg(ticks)

    def fault_stop(self, check: str, text: str) -> None:
        """Latch a fault, which stops the arm; the first one is kept."""
        self.latch.trip(check, text)

    def stood_still(self) -> None:
        """Set the targets' speed to zero after a pause without targets, in which the arm has come to rest."""
        self.targets.stood_still()

    def target_lost(self) -> None:
        """Allow for a last target that may not have reached the arm."""
        self.readings.target_lost()

    @property
    def fault(self) -> Fault | None:
        """The fault that stopped the arm, until a reset."""
        return self.latch.fault

    @property
    def level(self) -> SafetyLevel:
        """The safety level of the present tick."""
        return self.latch.level

    @property
    def clamped(self) -> Counter[str]:
        """The number of clamps by check."""
        return self.latch.clamped

    @property
    def target_deg(self) -> list[float]:
        """The present target, in degrees."""
        return self.targets.target_deg

    @property
    def speed_deg_s(self) -> list[float]:
        """The speed of the present target, in degrees/s."""
        return self.targets.speed_deg_s

    @property
    def ahead_deg(self) -> list[float]:
        """The lead of the policy's own target over the interpolated one, in degrees."""
        return self.targets.ahead_deg

    @property
    def moving(self) -> bool:
        """True if the targets are moving."""
        return self.targets.moving
