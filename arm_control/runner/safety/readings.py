"""Checks of readings: plausible values, healthy servos, and an arm that follows its targets."""

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

# A speed above this multiple of the joint's limit is an invalid reading.
MAX_SPEED_FACTOR = 3.0
# Between two readings a joint may turn by this multiple of its speed limit times the time between them, ...
JUMP_SPEED_FACTOR = 1.5
# ... and by this much more: noise and backlash of an arm with the imperfections `rough` are below it.
JUMP_DEG = 5.0


class ReadingMonitor:
    """Checks the readings of one arm, and trips the latch for those that no healthy arm gives.

    In this order: a single reading, its change since the last one, its age, the servos' health, and, once the arm is
    expected to follow its targets, its deviation from the expected motion.
    """

    def __init__(
        self, arm: Arm, limits: JointLimits, period_s: float, settings: SafetySettings, latch: FaultLatch
    ) -> None:
        # The arm and its bounds.
        self._joint_names = arm.joint_names
        self._joint_count = arm.joint_count
        self._limits = limits
        self._settings = settings
        self._latch = latch
        self._max_reading_deg_s = [MAX_SPEED_FACTOR * speed for speed in arm.limits.max_speed_deg_s]
        self._max_jump_deg_s = [JUMP_SPEED_FACTOR * speed for speed in arm.limits.max_speed_deg_s]
        self._levers_m = arm.levers_m
        self._max_tip_m = RADIANS * settings.tip_deg * max(arm.levers_m)
        # The motion that the targets make expected, and how long it has deviated.
        self._expected = ExpectedMotion(arm, period_s, settings.max_delay_s, settings.max_lag_s)
        self._still = StillJoints(arm.joint_count, settings.max_delay_s, settings.max_lag_s)
        self._is_followed = False  # whether the arm is expected to follow the targets
        self._parking = False
        self._now_s = -math.inf
        self._last: JointState | None = None
        self._tracking_timer = Timer()
        self._load_timer = Timer()

    def forget(self, *, parking: bool) -> None:
        """Discard earlier readings and expect no motion; while `parking`, the servos' health is not checked."""
        self._is_followed = False
        self._parking = parking
        self._last = None
        self._tracking_timer = Timer()
        self._load_timer = Timer()

    def follow(self, state: JointState, now_s: float) -> None:
        """Expect the arm to follow its targets from now on, except in a dry run, in which nothing is sent."""
        self._is_followed = math.isfinite(self._settings.tracking_deg)
        self._expected.start(state.angles_deg, now_s)
        self._still.start(state.angles_deg, now_s)

    def target_lost(self) -> None:
        """Allow for a last target that may not have reached the arm."""
        if self._is_followed:
            self._expected.lost()

    def judge(self, state: JointState | None, target_deg: Sequence[float], now_s: float, why: str) -> bool:
        """Check the reading of a tick, or its absence for the reason `why`; returns True if it is plausible.

        `target_deg` is the target that has been acting since the previous tick.
        """
        self._now_s = now_s
        plausible = state is not None and self.is_sane(state) and self._is_plausible(state)
        # The expected motion advances in every tick, whether or not there is a reading.
        if self._is_followed:
            self._expected.sent(target_deg, now_s)
            self._still.sent(target_deg, now_s)
        if plausible:
            assert state is not None
            self._judge_plausible(state)
        self._check_stale(why)
        return plausible

    def _judge_plausible(self, state: JointState) -> None:
        # A repeated reading, as after a lost reply, is compared with the expected motion only once.
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
        """Check that a reading has a finite number for each joint, and no implausible speed."""
        fault = self._sanity_fault(state)
        if fault is not None:
            self._latch.trip("reading", fault)
        return fault is None

    def _sanity_fault(self, state: JointState) -> str | None:
        # One number for each joint.
        count = self._joint_count
        if len(state.angles_deg) != count or len(state.speeds_deg_s) != count:
            return f"expected readings of {counted(count, 'joint')}, got {state.angles_deg} and {state.speeds_deg_s}"
        for health in (state.temperatures_c, state.voltages_v, state.loads):
            if health is not None and len(health) != count:
                return f"expected temperatures, voltages and loads of {counted(count, 'joint')}, got {health}"
        # Finite values, and speeds that the joints can have.
        if not all(map(math.isfinite, (state.stamp_s, *state.angles_deg, *state.speeds_deg_s))):
            return f"a reading is not finite: {state.angles_deg} degrees, {state.speeds_deg_s} degrees/s"
        speeds = zip(self._joint_names, state.speeds_deg_s, self._max_reading_deg_s, strict=True)
        for name, speed, max_speed in speeds:
            if abs(speed) > max_speed:
                return f"{name} reads {speed:.0f} degrees/s, more than {MAX_SPEED_FACTOR:g} times its speed limit"
        return None

    def check_place(self, state: JointState) -> None:
        """Check that every joint starts within its range, or outside by no more than what is clamped."""
        margin_deg = self._settings.clamp_deg
        joints = zip(self._joint_names, state.angles_deg, self._limits.by_joint, strict=True)
        for name, angle, (low, high, _, _) in joints:
            if not low - margin_deg <= angle <= high + margin_deg:
                self._latch.trip(
                    "start",
                    f"{name} starts at {angle:.1f} degrees, expected {low:g} to {high:g}: "
                    "switch its power off and move the arm there by hand, or calibrate again",
                )

    # Changes since the last reading, and its age.

    def _is_plausible(self, state: JointState) -> bool:
        """Check that no joint is further from the last reading than it can have turned since."""
        if self._last is None:
            return True
        passed_s = max(0.0, state.stamp_s - self._last.stamp_s)
        joints = zip(self._joint_names, state.angles_deg, self._last.angles_deg, self._max_jump_deg_s, strict=True)
        for name, now, before, speed in joints:
            if abs(now - before) > speed * passed_s + JUMP_DEG:
                self._latch.trip(
                    "jump",
                    f"{name} jumped from {before:.1f} to {now:.1f} degrees in "
                    f"{1000 * passed_s:.0f} ms: a loose cable, or an encoder that wrapped around",
                )
                return False
        return True

    def _check_stale(self, why: str) -> None:
        if self._last is None:
            return
        age_s = self._now_s - self._last.stamp_s
        max_age_s = self._settings.stale_s
        # A stamp from the future is as invalid as an old one.
        if not -max_age_s <= age_s <= max_age_s:
            reason = f": {why}" if why else ""
            self._latch.trip(
                "stale", f"the last good reading is {1000 * age_s:.0f} ms old, allowed {1000 * max_age_s:.0f}{reason}"
            )

    # Health.

    def _check_health(self, state: JointState) -> None:
        # Comparisons are written so that NaN is a fault.
        names = self._joint_names
        if state.alerts:
            self._latch.trip("health", f"servo alarm: {', '.join(state.alerts)}")
        if state.temperatures_c is not None:
            limit_c = self._settings.temperature_c
            for joint, celsius in enumerate(state.temperatures_c):
                if not celsius < limit_c:
                    self._latch.trip("temperature", f"{names[joint]} is at {celsius:g} C, allowed below {limit_c:g}")
        if state.voltages_v is not None:
            low, high = self._settings.voltage_v
            for joint, volts in enumerate(state.voltages_v):
                if not low <= volts <= high:
                    self._latch.trip("voltage", f"{names[joint]} is at {volts:g} V, allowed {low:g} to {high:g}")
        if state.loads is not None:
            self._check_loads(state.loads)

    def _check_loads(self, loads: Sequence[float]) -> None:
        full_load = self._settings.load
        overloaded = [joint for joint, load in enumerate(loads) if not abs(load) < full_load]
        max_s = self._settings.tracking_s
        if self._load_timer.held_s(bool(overloaded), self._now_s) > max_s:
            name = self._joint_names[overloaded[0]]
            self._latch.trip("load", f"{name} has been at full load for {max_s:g} s: is it blocked?")

    # Deviations from the expected motion.

    def _check_tracking(self, state: JointState) -> None:
        """Check that no joint stays far from its expected angle."""
        pairs = zip(state.angles_deg, self._expected.angles_deg, strict=True)
        gaps = [abs(angle - expected) for angle, expected in pairs]
        worst = max(gaps)
        settings = self._settings
        if self._tracking_timer.held_s(worst > settings.tracking_deg, self._now_s) > settings.tracking_s:
            self._latch.trip(
                "tracking",
                f"{self._joint_names[gaps.index(worst)]} has been more than {settings.tracking_deg:g} degrees "
                f"from its expected angle for {settings.tracking_s:g} s: is it blocked, or its torque off?",
            )

    def _check_still(self, state: JointState) -> None:
        """Check that no reading stays constant while its target moves."""
        joint = self._still.find(state.angles_deg, self._now_s, self._settings.still_deg)
        if joint is not None and not self._parking:
            self._latch.trip(
                "frozen",
                f"{self._joint_names[joint]} has stayed at {state.angles_deg[joint]:.1f} degrees while its target "
                f"moved by more than {self._settings.still_deg:g}: is it blocked, or its encoder stuck?",
            )

    def _check_tip(self, state: JointState) -> None:
        """Check that the tip does not stay far from its expected position."""
        off_m = self._expected.tip_off_m
        if off_m <= self._max_tip_m or self._parking:
            return
        # The joint whose deviation moves the tip most is the likely cause.
        joints = zip(self._levers_m, state.angles_deg, self._expected.angles_deg, strict=True)
        gaps_m = [lever_m * abs(angle - expected) for lever_m, angle, expected in joints]
        worst = gaps_m.index(max(gaps_m))
        name = self._joint_names[worst]
        angle = state.angles_deg[worst]
        expected = self._expected.angles_deg[worst]
        self._latch.trip(
            "tracking",
            f"the tip has been {1000 * off_m:.0f} mm from its expected position, mean over {WINDOW_S:g} s, allowed "
            f"{1000 * self._max_tip_m:.0f}; {name} is at {angle:.1f} degrees, expected {expected:.1f}: is a servo "
            "stuck, slow or overloaded, or a reading wrong or swapped?",
        )
