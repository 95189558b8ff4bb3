"""Judging readings: whether they make sense, and whether arm and servos are healthy and follow their targets."""

import math
from collections.abc import Sequence

from arm_control.drivers.base import JointState
from arm_control.process.printing import counted
from arm_control.runner.safety.latch import FaultLatch
from arm_control.runner.safety.settings import SafetySettings
from arm_control.runner.safety.timer import Timer
from arm_control.runner.safety.tracking import WINDOW_S, ExpectedMotion, StillJoints
from envs.arm import RADIANS, Arm
from envs.limits import JointLimits

# A joint that turns faster than this many times its limit is a wrong reading.
LIKELY_SPEED = 3.0
# A reading this far from the one before is wrong, whatever the speed: noise and play of a rough arm are below it.
JUMP_DEG = 5.0


class ReadingMonitor:
    """Judges the readings of one arm, and trips the latch for those that no healthy arm gives.

    Before an arm is followed, only what a single reading shows is checked.
    """

    def __init__(
        self, arm: Arm, limits: JointLimits, period_s: float, settings: SafetySettings, latch: FaultLatch
    ) -> None:
        self._arm = arm
        self._limits = limits
        self._settings = settings
        self._latch = latch
        self._max_speed_deg_s = arm.limits.max_speed_deg_s
        self._levers_m = arm.levers_m
        self._max_tip_m = RADIANS * settings.tip_deg * max(arm.levers_m)
        self._expected = ExpectedMotion(arm, period_s, settings.max_delay_s, settings.max_lag_s)
        self._still = StillJoints(arm.joint_count, settings.max_delay_s, settings.max_lag_s)
        self._is_followed = False  # whether the arm is expected to follow the targets
        self._parking = False
        self._now_s = -math.inf
        self._last: JointState | None = None
        self._tracking_timer = Timer()
        self._load_timer = Timer()

    def forget(self, *, parking: bool) -> None:
        """Forget earlier readings, and expect nothing of the arm; while `parking`, its health does not matter."""
        self._is_followed = False
        self._parking = parking
        self._last = None
        self._tracking_timer = Timer()
        self._load_timer = Timer()

    def follow(self, state: JointState, now_s: float) -> None:
        """Expect the arm to follow its targets from here on, unless it is only watched (a dry run)."""
        self._is_followed = math.isfinite(self._settings.tracking_deg)
        self._expected.start(state.angles_deg, now_s)
        self._still.start(state.angles_deg, now_s)

    def target_lost(self) -> None:
        """Take into account that the last target may not have reached the arm."""
        if self._is_followed:
            self._expected.lost()

    def judge(self, state: JointState | None, target_deg: Sequence[float], now_s: float, why: str) -> bool:
        """Judge the reading of a tick, or that none came and why; returns whether it tells where the arm is.

        `target_deg` is the target that has acted since the tick before.
        """
        self._now_s = now_s
        likely = state is not None and self.is_sane(state) and self._is_likely(state)
        if self._is_followed:
            self._expected.sent(target_deg, now_s)
            self._still.sent(target_deg, now_s)
        if likely:
            assert state is not None
            self._judge_likely(state)
        self._check_stale(why)
        return likely

    def _judge_likely(self, state: JointState) -> None:
        # A reading that is repeated, as after a lost reply, says nothing new.
        is_new = self._last is None or state.stamp_s > self._last.stamp_s
        self._last = state
        if not self._parking:
            self._check_health(state)
        if self._is_followed and is_new:
            self._expected.compare(state.angles_deg)
            self._check_tracking(state)
            self._check_still(state)
            self._check_tip(state)

    # A single reading.

    def is_sane(self, state: JointState) -> bool:
        """Check that a reading holds as many finite numbers as there are joints, and no absurd speed."""
        fault = self._sanity_fault(state)
        if fault is not None:
            self._latch.trip("reading", fault)
        return fault is None

    def _sanity_fault(self, state: JointState) -> str | None:
        # As many numbers as joints.
        count = self._arm.joint_count
        if len(state.angles_deg) != count or len(state.speeds_deg_s) != count:
            return f"expected readings of {counted(count, 'joint')}, got {state.angles_deg} and {state.speeds_deg_s}"
        for health in (state.temperatures_c, state.voltages_v, state.loads):
            if health is not None and len(health) != count:
                return f"expected temperatures, voltages and loads of {counted(count, 'joint')}, got {health}"
        # Finite, and possible.
        if not all(map(math.isfinite, (state.stamp_s, *state.angles_deg, *state.speeds_deg_s))):
            return f"a reading is not finite: {state.angles_deg} degrees, {state.speeds_deg_s} degrees/s"
        for joint, speed in enumerate(state.speeds_deg_s):
            if abs(speed) > LIKELY_SPEED * self._max_speed_deg_s[joint]:
                name = self._arm.joint_names[joint]
                return f"{name} reads {speed:.0f} degrees/s, {LIKELY_SPEED:g} times what it can do"
        return None

    def check_place(self, state: JointState) -> None:
        """Check that every joint starts within its range, or so little outside that it may come back."""
        most_deg = self._settings.clamp_deg
        joints = zip(self._arm.joint_names, state.angles_deg, self._limits.by_joint, strict=True)
        for name, angle, (low, high, _, _) in joints:
            if not low - most_deg <= angle <= high + most_deg:
                self._latch.trip(
                    "start",
                    f"{name} starts at {angle:.1f} degrees, expected {low:g} to {high:g}: "
                    "switch its power off and move the arm there by hand, or calibrate again",
                )

    # Against the reading before.

    def _is_likely(self, state: JointState) -> bool:
        """Check that no joint is further from the last reading than it can have turned in between."""
        if self._last is None:
            return True
        passed_s = max(0.0, state.stamp_s - self._last.stamp_s)
        joints = zip(state.angles_deg, self._last.angles_deg, self._max_speed_deg_s, strict=True)
        for joint, (now, before, speed) in enumerate(joints):
            if abs(now - before) > 1.5 * speed * passed_s + JUMP_DEG:
                self._latch.trip(
                    "jump",
                    f"{self._arm.joint_names[joint]} jumped from {before:.1f} to {now:.1f} degrees in "
                    f"{1000 * passed_s:.0f} ms: a loose cable, or an encoder that wrapped around",
                )
                return False
        return True

    def _check_stale(self, why: str) -> None:
        if self._last is None:
            return
        age_s = self._now_s - self._last.stamp_s
        most_s = self._settings.stale_s
        if not -most_s <= age_s <= most_s:
            reason = f": {why}" if why else ""
            self._latch.trip(
                "stale", f"the last good reading is {1000 * age_s:.0f} ms old, allowed {1000 * most_s:.0f}{reason}"
            )

    # Health.

    def _check_health(self, state: JointState) -> None:
        names = self._arm.joint_names
        if state.alerts:
            self._latch.trip("health", f"servo alarm: {', '.join(state.alerts)}")
        if state.temperatures_c is not None:
            most_c = self._settings.temperature_c
            for joint, celsius in enumerate(state.temperatures_c):
                if not celsius < most_c:
                    self._latch.trip("temperature", f"{names[joint]} is at {celsius:g} C, allowed below {most_c:g}")
        if state.voltages_v is not None:
            low, high = self._settings.voltage_v
            for joint, volts in enumerate(state.voltages_v):
                if not low <= volts <= high:
                    self._latch.trip("voltage", f"{names[joint]} is at {volts:g} V, allowed {low:g} to {high:g}")
        if state.loads is not None:
            self._check_loads(state.loads)

    def _check_loads(self, loads: Sequence[float]) -> None:
        full = [joint for joint, load in enumerate(loads) if not abs(load) < self._settings.load]
        most_s = self._settings.tracking_s
        if self._load_timer.held_s(bool(full), self._now_s) > most_s:
            name = self._arm.joint_names[full[0]]
            self._latch.trip("load", f"{name} has been at full load for {most_s:g} s: is something in its way?")

    # Following.

    def _check_tracking(self, state: JointState) -> None:
        pairs = zip(state.angles_deg, self._expected.angles_deg, strict=True)
        gaps = [abs(angle - expected) for angle, expected in pairs]
        worst = max(gaps)
        settings = self._settings
        if self._tracking_timer.held_s(worst > settings.tracking_deg, self._now_s) > settings.tracking_s:
            self._latch.trip(
                "tracking",
                f"{self._arm.joint_names[gaps.index(worst)]} has been more than {settings.tracking_deg:g} degrees "
                f"from its expected angle for {settings.tracking_s:g} s: is it blocked, or its torque off?",
            )

    def _check_still(self, state: JointState) -> None:
        joint = self._still.find(state.angles_deg, self._now_s, self._settings.still_deg)
        if joint is not None and not self._parking:
            self._latch.trip(
                "frozen",
                f"{self._arm.joint_names[joint]} has stayed at {state.angles_deg[joint]:.1f} degrees while its target "
                f"moved by more than {self._settings.still_deg:g}: is it blocked, or its encoder stuck?",
            )

    def _check_tip(self, state: JointState) -> None:
        off_m = self._expected.tip_off_m
        if off_m <= self._max_tip_m or self._parking:
            return
        # The joint whose deviation moves the tip most is the likely cause.
        joints = zip(self._levers_m, state.angles_deg, self._expected.angles_deg, strict=True)
        gaps_m = [lever_m * abs(angle - expected) for lever_m, angle, expected in joints]
        worst = gaps_m.index(max(gaps_m))
        name = self._arm.joint_names[worst]
        angle = state.angles_deg[worst]
        expected = self._expected.angles_deg[worst]
        self._latch.trip(
            "tracking",
            f"the tip has been {1000 * off_m:.0f} mm from its expected position, mean over {WINDOW_S:g} s, allowed "
            f"{1000 * self._max_tip_m:.0f}; {name} is at {angle:.1f} degrees, expected {expected:.1f}: is a servo "
            "stuck, slow or overloaded, or a reading wrong or swapped?",
        )
