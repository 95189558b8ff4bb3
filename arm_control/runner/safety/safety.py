"""`Safety`: one object between a policy and a driver, composed of the latch, the readings, the targets, the workspace.

Three levels. What keeps the limits is OK. What is a little beyond them is clamped, and counted. What is far beyond, or
what no healthy policy or arm does, is a fault, and that latches: from then on the targets slow down within the
acceleration limit, come to rest and stay there, until a person resets it or has the arm parked.
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
    """Judges readings and commands, and makes the targets.

        safety.start(state, now_s)                  # where the arm is, at rest
        while True:                                 # once a period
            safety.reads(driver.read(), now_s)
            driver.write(safety.admit(command_deg))

    `fault` says why the arm was stopped, None while it was not; `clamped` counts by check.
    """

    def __init__(self, arm: Arm, limits: JointLimits, period_s: float, settings: SafetySettings | None = None) -> None:
        """Limits may be tighter than the arm's own, never wider. Raises ValueError if they are."""
        if limits.tightened(arm.limits) != limits:
            raise ValueError(f"safety: expected limits within the arm's {arm.limits}, got {limits}")
        settings = settings or SafetySettings()
        self.arm = arm
        self.limits = limits
        self.period_s = period_s
        self.settings = settings
        self.placed = False
        """Whether it is known where the arm is: before that no target makes sense, and none may be sent."""
        self.latch = FaultLatch()
        self.workspace = Workspace(arm, limits, period_s, settings)
        self.readings = ReadingMonitor(arm, limits, period_s, settings, self.latch)
        self.targets = TargetLimiter(arm, limits, period_s, settings, self.latch, self.workspace)

    def start(self, state: JointState, now_s: float) -> None:
        """Begin where the arm is, at rest, with no fault; a reading that is no start is a fault at once."""
        self.placed = False
        self._begin(state, now_s, parking=False)

    def reset(self, state: JointState, now_s: float, *, parking: bool = False) -> None:
        """Clear a fault, as a person has asked: go on from where the arm is, and if `parking`, whatever its health.

        A joint that is where it was held, but for noise, play and its own weight, goes on from its target: to begin at
        its reading would let it sink. A stop still in progress counts as over: the caller waits for rest first.
        """
        self._begin(state, now_s, parking=parking)

    def _begin(self, state: JointState, now_s: float, *, parking: bool) -> None:
        self.latch.clear()
        self.readings.forget(parking=parking)
        self.targets.rest()
        self.targets.now_s = now_s
        if not self.readings.is_sane(state):
            return
        # Judge where the arm is.
        self.readings.check_place(state)
        target_deg = self._start_target(state)
        outside_m = self.workspace.outside_m(target_deg)
        if outside_m > ROUNDING_M:
            self.fault_stop(
                "workspace",
                f"the arm starts {millimetres(outside_m)} outside the workspace: "
                f"{self.workspace.describe_worst(target_deg)}; move it inside by hand, its power off",
            )
        self.reads(state, now_s)
        # An old reading, or one of an arm that may not move, moves no target.
        if self.latch.fault is None:
            self.placed = True
            self.targets.place(target_deg)
            self.readings.follow(state, now_s)
        self.targets.blend_from_here()

    def _start_target(self, state: JointState) -> list[float]:
        """Where to go on from: a joint that is still about where it was held, from its target."""
        target_deg = start_target(state.angles_deg, self.limits)
        if not self.placed:
            return target_deg
        for joint, (angle, held) in enumerate(zip(state.angles_deg, self.targets.target_deg, strict=True)):
            if abs(angle - held) <= self.settings.clamp_deg:
                target_deg[joint] = held
        return target_deg

    def reads(self, state: JointState | None, now_s: float, why: str = "") -> bool:
        """Judge this tick's reading, or none and why it did not come; returns whether it tells where the arm is."""
        self.targets.now_s = now_s
        self.latch.begin_tick()
        return self.readings.judge(state, self.targets.target_deg, now_s, why)

    def admit(
        self, command_deg: Sequence[float], *, blend: float = 1.0, follow: bool = False, ticks: int = 1
    ) -> list[float]:
        """The target to send for a policy's command; see `TargetLimiter.admit`."""
        return self.targets.admit(command_deg, blend=blend, follow=follow, ticks=ticks)

    def go_on(self) -> list[float]:
        """The target to send in the next tick of a command that holds for several; see `TargetLimiter.go_on`."""
        return self.targets.go_on()

    def toward(self, desired_deg: Sequence[float]) -> list[float]:
        """The next target of the runner's own motion to a pose; see `TargetLimiter.toward`."""
        return self.targets.toward(desired_deg)

    def previous_step_deg(self, ticks: int) -> list[float]:
        """The policy's own previous target; see `TargetLimiter.previous_step_deg`."""
        return self.targets.previous_step_deg(ticks)

    def fault_stop(self, check: str, text: str) -> None:
        """Stop the arm and latch; the first fault is kept."""
        self.latch.trip(check, text)

    def stood_still(self) -> None:
        """Take into account that no target was sent for long: the arm has come to rest at the last one."""
        self.targets.stood_still()

    def target_lost(self) -> None:
        """Take into account that the last target may not have reached the arm."""
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
        """How often something was clamped, by check."""
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
        """By how much the policy's own target is ahead of the interpolated one, in degrees."""
        return self.targets.ahead_deg

    @property
    def moving(self) -> bool:
        """Whether the targets are moving."""
        return self.targets.moving
