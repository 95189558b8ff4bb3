"""Safety: everything between what a policy says and what a driver is told, in one place.

Three bands. What keeps the limits passes. What is a little beyond them is clamped, and counted. What is far beyond, or
what no healthy policy or arm does, is refused, and that latches: from then on the targets slow down within the
acceleration limit, come to rest and stay there, until a person resets it or has the arm parked.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from arm_control.drivers.base import JointState
from arm_control.process.printing import counted
from arm_control.runner.tracking import MAX_DELAY_S, MAX_LAG_S, WINDOW_S, ExpectedMotion, StillJoints
from envs.arm import RADIANS, Arm
from envs.limits import (
    ROUNDING_M,
    TABLE_M,
    Box,
    JointLimits,
    follow_target,
    interpolate_target,
    lead_target,
    limit_target,
)

# What is clamped rather than refused.
CLAMPED_DEG = 5.0  # outside a joint's range; behind what a recording asks for
CLAMPED_M = 0.02  # outside the workspace
# What is neither: rounding of a graph in single precision; a recording that the limiter cuts a corner of.
ROUNDING_DEG = 1e-3
CORNER_DEG = 0.5
REST_DEG_S = 1e-6  # of a target: rounding leaves it a little
# Noise and play of an arm at rest: one that starts so little outside a joint's range is inside it.
NOISE_DEG = 1.0
# A joint that turns faster than this many times its limit is a wrong reading.
LIKELY_SPEED = 3.0
# A reading this far from the one before is wrong, whatever the speed: noise and play of a rough arm are below it.
JUMP_DEG = 5.0
# A bound on the work of one check: a way to a stop is halved so often, until every piece is surely inside or outside.
HALVINGS = 6


class WorkspaceError(ValueError):
    """A goal, a pose or an arm that does not fit into the workspace."""


@dataclass(frozen=True)
class SafetySettings:
    """What is refused beside the joints' limits."""

    table_m: float | None = 0.0
    """Height of the table, which no link may go below, in metres; None for an arm without one."""
    workspace_m: Box | None = None
    """Lowest x, y, z and highest x, y, z that the end of any moving link may have, in metres."""
    wall_s: float = 1.0
    """How long a policy may push against the workspace, where it is held."""
    stale_s: float = 0.1
    """Age of a reading."""
    tracking_deg: float = 20.0
    """How far a joint may be from its expected angle (infinite: a shadow run, in which nothing is checked) ..."""
    tracking_s: float = 0.6
    """... for so long; a servo at full load is given the same time."""
    tip_deg: float = 3.5
    """How far the tip may be from its expected position, as an error of the joint with the longest lever. An XL430 that
    holds the arm out level gives way by 2.1 degrees (0.24 of its 1.4 N m, 885 PWM units at 6.25 a tick: e-Manual,
    register 84); dead band and backlash of `--imperfections rough` add 0.3 and 0.8."""
    still_deg: float = 3.0
    """How far a target may move while the joint's reading stays constant: more than friction, dead band and backlash
    explain."""
    max_delay_s: float = MAX_DELAY_S
    """The delay of a healthy arm is up to this ..."""
    max_lag_s: float = MAX_LAG_S
    """... and its servos' lag up to this."""
    temperature_c: float = 72.0
    """The temperature at which an XL430 shuts itself down (e-Manual, register 31)."""
    load: float = 1.0
    """Load as a share of the servo's largest."""
    voltage_v: tuple[float, float] = (6.0, 14.0)
    """Lowest and highest supply voltage: an XL430's own limits (e-Manual, registers 32 and 34)."""

    def __post_init__(self) -> None:
        box = self.workspace_m
        if box is not None and not (
            len(box) == 6
            and all(map(math.isfinite, box))
            and all(low < high for low, high in zip(box, box[3:], strict=False))
        ):
            raise ValueError(f"workspace: wanted x, y, z lowest and x, y, z highest in metres, got {box}")


def millimetres(distance_m: float) -> str:
    """A distance for people, never zero if it is none."""
    distance_mm = 1000.0 * distance_m
    if distance_mm >= 9.95:
        return f"{distance_mm:.0f} mm"
    return f"{distance_mm:.2g} mm" if distance_mm >= 0.01 else "less than 0.01 mm"


@dataclass(frozen=True)
class Refusal:
    """Why the arm was stopped: the check that failed, and what it saw."""

    check: str
    text: str


@dataclass
class _Timer:
    """For how long something has been so."""

    since_s: float | None = None

    def held_s(self, so: bool, now_s: float) -> float:
        """Tell whether it is so now; returns for how long it has been."""
        if not so:
            self.since_s = None
            return 0.0
        if self.since_s is None:
            self.since_s = now_s
        return now_s - self.since_s


@dataclass
class _Timers:
    tracking: _Timer = field(default_factory=_Timer)
    load: _Timer = field(default_factory=_Timer)
    wall: _Timer = field(default_factory=_Timer)


class Safety:
    """Judges readings and answers, and makes the targets.

        safety.start(state, now_s)                  # where the arm is, at rest
        while True:                                 # once a period
            safety.reads(driver.read(), now_s)
            driver.write(safety.admit(answer_deg))

    Every target keeps the limits of position, speed and acceleration (`envs.limits.limit_target`), and leaves room to
    stop inside the workspace. `refusal` says why the arm was stopped, None while it was not; `clamped` counts by check.
    """

    def __init__(
        self, arm: Arm, limits: JointLimits, period_s: float, settings: SafetySettings = SafetySettings()
    ) -> None:
        """Limits may be tighter than the arm's own, never wider. Raises ValueError if they are."""
        if limits.tightened(arm.limits) != limits:
            raise ValueError(f"safety: wanted limits within the arm's {arm.limits}, got {limits}")
        self.arm, self.limits, self.period_s, self.settings = arm, limits, period_s, settings
        self.refusal: Refusal | None = None
        self.clamped: Counter[str] = Counter()
        self.band = "pass"
        self.placed = False
        """Whether it is known where the arm is: before that no target makes sense, and none may be sent."""
        self.target_deg: list[float] = list(limits.lower_deg)
        self.speed_deg_s: list[float] = [0.0] * arm.joint_count
        self._start_deg = list(self.target_deg)
        self._followed_deg: list[float] | None = None  # what was followed in the last step
        self._level_deg = [0.0] * arm.joint_count
        self.ahead_deg: list[float] = self._level_deg
        """By how much the policy's own target is ahead of the interpolated one."""
        self._step_deg = list(self.target_deg)  # the policy's own target
        self._way: list[tuple[list[float], list[float]]] = []  # there: targets and speeds, the last one first
        self._now_s = -math.inf
        self._last: JointState | None = None
        self._timers = _Timers()
        self._parking = False
        box = settings.workspace_m or (-math.inf,) * 3 + (math.inf,) * 3
        table = -math.inf if settings.table_m is None else settings.table_m
        self._table_is_floor = table >= box[2]
        self._box = (box[0], box[1], max(box[2], table), *box[3:])
        self._has_walls = any(map(math.isfinite, self._box))
        self._levers_m, self._max_speed_deg_s = arm.levers_m, arm.limits.max_speed_deg_s
        self._expected = ExpectedMotion(arm, period_s, settings.max_delay_s, settings.max_lag_s)
        self._still = StillJoints(arm.joint_count, settings.max_delay_s, settings.max_lag_s)
        self._is_followed = False  # whether the arm is expected to follow the targets
        self._tip_m = RADIANS * settings.tip_deg * max(self._levers_m)

    def start(self, state: JointState, now_s: float) -> None:
        """Begin where the arm is, at rest, with nothing refused; a reading that is no start is refused at once."""
        self.placed = False
        self._begin(state, now_s)

    def reset(self, state: JointState, now_s: float, *, parking: bool = False) -> None:
        """Forget a refusal, as a person has asked: go on from where the arm is, and if `parking`, whatever its health.

        A joint that is where it was held, but for noise, play and its own weight, goes on from its target: to begin at
        its reading would let it sink. A stop that was not over is: the caller waits for rest first.
        """
        self._parking = parking
        self._begin(state, now_s)

    def _begin(self, state: JointState, now_s: float) -> None:
        self.refusal, self._last, self._timers, self._now_s = None, None, _Timers(), now_s
        self._followed_deg = None
        self.ahead_deg = self._level_deg
        self.speed_deg_s = [0.0] * self.arm.joint_count
        self._is_followed = False
        if not self._is_sane(state):
            return
        self._check_place(state)
        target_deg = [
            held
            if self.placed and abs(angle - held) <= CLAMPED_DEG
            # Noise is no place to go on from; an arm that is really outside comes back from where it is.
            else (inside if abs(angle - inside) <= NOISE_DEG else angle)
            for angle, inside, held in zip(
                state.angles_deg, self.limits.clip(state.angles_deg), self.target_deg, strict=True
            )
        ]
        if (outside_m := self.outside_m(target_deg)) > ROUNDING_M:
            self.refuse(
                "workspace",
                f"the arm starts {millimetres(outside_m)} outside the workspace: {self._where(target_deg)}; "
                "move it inside by hand, its power off",
            )
        self.reads(state, now_s)
        if self.refusal is None:  # an old reading, or one of an arm that may not move, moves no target
            self.target_deg, self.placed = target_deg, True
            self._is_followed = math.isfinite(self.settings.tracking_deg)
            self._expected.start(state.angles_deg, now_s)
            self._still.start(state.angles_deg, now_s)
        self._start_deg = list(self.target_deg)

    def stood_still(self) -> None:
        """Say that no target was sent for long: the arm has come to rest at the last one, and starts from there."""
        self.speed_deg_s = [0.0] * self.arm.joint_count

    def target_lost(self) -> None:
        """Say that the last target may not have reached the arm."""
        if self._is_followed:
            self._expected.lost()

    def refuse(self, check: str, text: str) -> None:
        """Stop the arm and latch; the first reason is kept."""
        self.band = "refuse"
        if self.refusal is None:
            self.refusal = Refusal(check, text)

    def reads(self, state: JointState | None, now_s: float, why: str = "") -> bool:
        """Judge this tick's reading, or none and why it did not come; returns whether it tells where the arm is."""
        self._now_s = now_s
        self.band = "pass" if self.refusal is None else "refuse"
        likely = state is not None and self._is_sane(state) and self._is_likely(state)
        if self._is_followed:
            self._expected.sent(self.target_deg, now_s)
            self._still.sent(self.target_deg, now_s)
        if likely:
            assert state is not None
            # A reading that is repeated, as after a lost reply, says nothing new.
            is_new = self._last is None or state.stamp_s > self._last.stamp_s
            self._last = state
            self._check_health(state)
            if self._is_followed and is_new:
                self._expected.compare(state.angles_deg)
                self._check_tracking(state)
                self._check_still(state)
                self._check_tip(state)
        self._check_stale(why)
        return likely

    def admit(
        self, answer_deg: Sequence[float], *, share: float = 1.0, follow: bool = False, ticks: int = 1
    ) -> list[float]:
        """The target to send for a policy's answer, in degrees, one a joint.

        `share` blends from where the arm started (0) to the answer (1). With `follow`, the answer is a recorded target,
        which the arm has to keep up with, not one that it may be long on its way to. An answer that holds for several
        `ticks` is one step of the policy's, interpolated; `go_on` gives the targets of the other ticks.
        """
        if self.refusal is None and self._is_finite(answer_deg) and self._is_in_range(answer_deg):
            desired = answer_deg  # a little outside: the limiter stays inside
            if share < 1.0:
                desired = [here + share * (there - here) for here, there in zip(self._start_deg, desired, strict=True)]
            if follow:
                self._follow(self.limits.clip(desired))
            elif ticks == 1:
                self.ahead_deg = self._level_deg
                self._advance(*limit_target(desired, *self._now, self.limits, self.period_s))
            else:
                self._step_deg, way = interpolate_target(desired, *self._now, self.limits, self.period_s, ticks)
                self._way = way[::-1]
                return self.go_on()
        else:
            self._brake()
        return list(self.target_deg)

    def go_on(self) -> list[float]:
        """The target to send in the next tick of an answer that holds for several; braking once something is refused.

        Where the workspace has held the arm back, it catches up within its limits.
        """
        if self.refusal is None:
            way_deg, way_deg_s = self._way.pop()
            self.ahead_deg = [step - way for step, way in zip(self._step_deg, way_deg, strict=True)]
            self._advance(*follow_target(way_deg, way_deg_s, *self._now, self.limits, self.period_s))
        else:
            self._brake()
        return list(self.target_deg)

    def previous_step_deg(self, ticks: int) -> list[float]:
        """The policy's own previous target, at the beginning of a step of so many ticks, in degrees.

        Its speed is `speed_deg_s` at any rate: interpolated targets end a step at the speed of the step.
        """
        return self.target_deg if ticks == 1 else lead_target(*self._now, self.limits, self.period_s, ticks)

    def toward(self, desired_deg: Sequence[float]) -> list[float]:
        """The target to send on the runner's own way to a pose, such as parking; braking once something is refused."""
        if self.refusal is None:
            self._advance(*limit_target(desired_deg, *self._now, self.limits, self.period_s))
        else:
            self._brake()
        return list(self.target_deg)

    @property
    def moving(self) -> bool:
        """Whether the targets are moving."""
        return any(abs(speed) > REST_DEG_S for speed in self.speed_deg_s)

    def outside_m(self, angles_deg: Sequence[float]) -> float:
        """How far the worst link's end is outside the workspace, in metres; negative inside."""
        if not self._has_walls:
            return -math.inf
        low_x, low_y, low_z, high_x, high_y, high_z = self._box
        worst_m = -math.inf
        for x, y, z in self.arm.link_ends(angles_deg):  # written out: this is most of the work near a wall
            beyond_m = max(low_x - x, x - high_x, low_y - y, y - high_y, low_z - z, z - high_z)
            if beyond_m > worst_m:
                worst_m = beyond_m
        return worst_m

    def _beyond_m(self, point_m: Sequence[float]) -> float:
        x, y, z = point_m
        low_x, low_y, low_z, high_x, high_y, high_z = self._box
        return max(low_x - x, x - high_x, low_y - y, y - high_y, low_z - z, z - high_z)

    def check_point(self, point_m: Sequence[float]) -> None:
        """Raise WorkspaceError for a goal outside the workspace."""
        if (beyond_m := self._beyond_m(point_m)) > ROUNDING_M:
            place = ", ".join(f"{value:.4f}" for value in point_m)
            raise WorkspaceError(
                f"goal ({place}) m is {millimetres(beyond_m)} outside the workspace: it is {self._side(point_m)}"
            )

    def check_pose(self, angles_deg: Sequence[float], what: str, remedy: str = "") -> None:
        """Raise WorkspaceError for a pose outside the workspace, with a remedy, if there is one."""
        if (outside_m := self.outside_m(angles_deg)) > ROUNDING_M:
            raise WorkspaceError(
                f"{what} is {millimetres(outside_m)} outside the workspace: {self._where(angles_deg)}"
                + (f"; {remedy}" if remedy else "")
            )

    def default_pose_deg(self) -> list[float]:
        """The pose to start and to park in, unless another is named: inside the workspace, and above a table."""
        low_x, low_y, low_z, *high = self._box
        floor_m = low_z if math.isfinite(low_z) else TABLE_M
        return self.arm.default_pose_deg(self.limits, (low_x, low_y, floor_m, high[0], high[1], high[2]))

    def _where(self, angles_deg: Sequence[float]) -> str:
        """Which link's end is where in the workspace, or out of it: that of the worst one."""
        ends = zip(self.arm.link_names, self.arm.link_ends(angles_deg), strict=True)
        name, end_m = max(ends, key=lambda end: self._beyond_m(end[1]))
        return f"the end of {name} is {self._side(end_m)}"

    def _side(self, point_m: Sequence[float]) -> str:
        """Beyond which side of the workspace a point is, and the flag that moves that side."""
        sides: list[tuple[float, str]] = []
        for axis, value, low, high in zip("xyz", point_m, self._box, self._box[3:], strict=False):
            below = f"{millimetres(low - value)} below {axis} = {low:g} m of the box (--workspace)"
            if axis == "z" and self._table_is_floor:
                below = f"{millimetres(low - value)} below the table at z = {low:g} m (--table)"
            sides.append((low - value, below))
            sides.append(
                (value - high, f"{millimetres(value - high)} above {axis} = {high:g} m of the box (--workspace)")
            )
        return max(sides)[1]

    def _clamp(self, check: str) -> None:
        self.clamped[check] += 1
        if self.band == "pass":
            self.band = "clamp"

    # Readings.

    def _is_sane(self, state: JointState) -> bool:
        """Numbers, one a joint, and of this world."""
        count = self.arm.joint_count
        if len(state.angles_deg) != count or len(state.speeds_deg_s) != count:
            self.refuse(
                "reading",
                f"wanted readings of {counted(count, 'joint')}, got {state.angles_deg} and {state.speeds_deg_s}",
            )
            return False
        for health in (state.temperatures_c, state.voltages_v, state.loads):
            if health is not None and len(health) != count:
                self.refuse(
                    "reading", f"wanted temperatures, voltages and loads of {counted(count, 'joint')}, got {health}"
                )
                return False
        if not all(map(math.isfinite, (state.stamp_s, *state.angles_deg, *state.speeds_deg_s))):
            self.refuse(
                "reading", f"a reading is not finite: {state.angles_deg} degrees, {state.speeds_deg_s} degrees/s"
            )
            return False
        for joint, speed in enumerate(state.speeds_deg_s):
            if abs(speed) > LIKELY_SPEED * self._max_speed_deg_s[joint]:
                name = self.arm.joint_names[joint]
                self.refuse("reading", f"{name} reads {speed:.0f} degrees/s, {LIKELY_SPEED:g} times what it can do")
                return False
        return True

    def _is_likely(self, state: JointState) -> bool:
        """No further from the last reading than a joint can have turned in between."""
        if self._last is None:
            return True
        passed_s = max(0.0, state.stamp_s - self._last.stamp_s)
        joints = zip(state.angles_deg, self._last.angles_deg, self._max_speed_deg_s, strict=True)
        for joint, (now, before, speed) in enumerate(joints):
            if abs(now - before) > 1.5 * speed * passed_s + JUMP_DEG:
                self.refuse(
                    "jump",
                    f"{self.arm.joint_names[joint]} jumped from {before:.1f} to {now:.1f} degrees in "
                    f"{1000 * passed_s:.0f} ms: a loose cable, or an encoder that wrapped around",
                )
                return False
        return True

    def _check_place(self, state: JointState) -> None:
        for name, angle, (low, high, _, _) in zip(
            self.arm.joint_names, state.angles_deg, self.limits.by_joint, strict=True
        ):
            if not low - CLAMPED_DEG <= angle <= high + CLAMPED_DEG:
                self.refuse(
                    "start",
                    f"{name} starts at {angle:.1f} degrees, wanted {low:g} to {high:g}: "
                    "switch its power off and move the arm there by hand, or calibrate again",
                )

    def _check_health(self, state: JointState) -> None:
        if self._parking:
            return
        settings, names = self.settings, self.arm.joint_names
        if state.alerts:
            self.refuse("health", f"servo alarm: {', '.join(state.alerts)}")
        if state.temperatures_c is not None:
            hottest_c = settings.temperature_c
            for joint, celsius in enumerate(state.temperatures_c):
                if not celsius < hottest_c:
                    self.refuse("temperature", f"{names[joint]} is at {celsius:g} C, allowed below {hottest_c:g}")
        if state.voltages_v is not None:
            low, high = settings.voltage_v
            for joint, volts in enumerate(state.voltages_v):
                if not low <= volts <= high:
                    self.refuse("voltage", f"{names[joint]} is at {volts:g} V, allowed {low:g} to {high:g}")
        if state.loads is not None:
            most = settings.load
            full = [joint for joint, load in enumerate(state.loads) if not abs(load) < most]
            if self._timers.load.held_s(bool(full), self._now_s) > settings.tracking_s:
                self.refuse(
                    "load",
                    f"{names[full[0]]} has been at full load for {settings.tracking_s:g} s: is something in its way?",
                )

    def _check_tracking(self, state: JointState) -> None:
        pairs = zip(state.angles_deg, self._expected.angles_deg, strict=True)
        gaps = [abs(angle - expected) for angle, expected in pairs]
        worst = max(gaps)
        if self._timers.tracking.held_s(worst > self.settings.tracking_deg, self._now_s) > self.settings.tracking_s:
            self.refuse(
                "tracking",
                f"{self.arm.joint_names[gaps.index(worst)]} has been more than {self.settings.tracking_deg:g} degrees "
                f"from its expected angle for {self.settings.tracking_s:g} s: is it blocked, or its torque off?",
            )

    def _check_still(self, state: JointState) -> None:
        joint = self._still.find(state.angles_deg, self._now_s, self.settings.still_deg)
        if joint is not None and not self._parking:
            self.refuse(
                "frozen",
                f"{self.arm.joint_names[joint]} has stayed at {state.angles_deg[joint]:.1f} degrees while its target "
                f"moved by more than {self.settings.still_deg:g}: is it blocked, or its encoder stuck?",
            )

    def _check_tip(self, state: JointState) -> None:
        off_m = self._expected.tip_off_m
        if off_m <= self._tip_m or self._parking:
            return
        joints = zip(self._levers_m, state.angles_deg, self._expected.angles_deg, strict=True)
        gaps_m = [lever_m * abs(angle - expected) for lever_m, angle, expected in joints]
        worst = gaps_m.index(max(gaps_m))
        name = self.arm.joint_names[worst]
        angle = state.angles_deg[worst]
        expected = self._expected.angles_deg[worst]
        self.refuse(
            "tracking",
            f"the tip has been {1000 * off_m:.0f} mm from its expected position, mean over {WINDOW_S:g} s, allowed "
            f"{1000 * self._tip_m:.0f}; {name} is at {angle:.1f} degrees, expected {expected:.1f}: is a servo stuck, "
            "slow or overloaded, or a reading wrong or swapped?",
        )

    def _check_stale(self, why: str) -> None:
        if self._last is None:
            return
        age_s = self._now_s - self._last.stamp_s
        if not -self.settings.stale_s <= age_s <= self.settings.stale_s:
            self.refuse(
                "stale",
                f"the last good reading is {1000 * age_s:.0f} ms old, allowed {1000 * self.settings.stale_s:.0f}"
                + (f": {why}" if why else ""),
            )

    # Answers.

    def _is_finite(self, answer_deg: Sequence[float]) -> bool:
        if len(answer_deg) == self.arm.joint_count and all(map(math.isfinite, answer_deg)):
            return True
        self.refuse("finite", f"wanted {self.arm.joint_count} finite target angles in degrees, got {list(answer_deg)}")
        return False

    def _is_in_range(self, answer_deg: Sequence[float]) -> bool:
        clamped = False
        for joint, (answer, (low, high, _, _)) in enumerate(zip(answer_deg, self.limits.by_joint, strict=True)):
            if low <= answer <= high:
                continue
            beyond = max(low - answer, answer - high)
            if beyond > CLAMPED_DEG:
                name = self.arm.joint_names[joint]
                self.refuse("position", f"{name} is told to go to {answer:.1f} degrees, wanted {low:g} to {high:g}")
                return False
            clamped |= beyond > ROUNDING_DEG
        if clamped:
            self._clamp("position")
        return True

    def _check_following(self, desired_deg: Sequence[float], target_deg: Sequence[float]) -> None:
        behind = [abs(desired - target) for desired, target in zip(desired_deg, target_deg, strict=True)]
        worst = max(behind)
        if worst > CLAMPED_DEG:
            self.refuse(
                "speed",
                f"{self.arm.joint_names[behind.index(worst)]} is to move faster than it may: its limits leave it "
                f"{worst:.1f} degrees behind",
            )
        elif worst > CORNER_DEG:
            self._clamp("speed")

    # Targets.

    @property
    def _now(self) -> tuple[list[float], list[float]]:
        return self.target_deg, self.speed_deg_s

    def _follow(self, desired_deg: list[float]) -> None:
        """One step along a way that moves: at its own speed, and faster or slower only to catch up with it."""
        before = desired_deg if self._followed_deg is None else self._followed_deg
        speed = [(there - here) / self.period_s for here, there in zip(before, desired_deg, strict=True)]
        target, speed = follow_target(desired_deg, speed, *self._now, self.limits, self.period_s)
        self._followed_deg = desired_deg
        self._check_following(desired_deg, target)
        if self.refusal is None:
            self._advance(target, speed)
        else:
            self._brake()

    def _advance(self, target: list[float], speed: list[float]) -> None:
        """One step, if the arm can then still stop inside the workspace; otherwise it slows down."""
        outside_m = self._outside_on_the_way_m(target, speed) if self._has_walls else -math.inf
        # Held at a wall, an arm may always come back.
        leaves = outside_m > ROUNDING_M and not (outside_m <= CLAMPED_M and outside_m < self.outside_m(self.target_deg))
        held_s = self._timers.wall.held_s(leaves, self._now_s)
        if not leaves:
            self.target_deg, self.speed_deg_s = target, speed
            return
        if outside_m > CLAMPED_M:
            where = self._where_at_worst(target, speed)
            self.refuse("workspace", f"a link would get {millimetres(outside_m)} outside the workspace: {where}")
        elif held_s > self.settings.wall_s:
            where = self._where_at_worst(target, speed)
            self.refuse(
                "workspace",
                f"a link was held at the edge of the workspace for {self.settings.wall_s:g} s: on its way, {where}",
            )
        else:
            self._clamp("workspace")
        self._brake()

    def _brake(self) -> None:
        """Slow down as fast as allowed."""
        for joint, (low, high, _, acceleration) in enumerate(self.limits.by_joint):
            speed, change = self.speed_deg_s[joint], acceleration * self.period_s
            speed = max(0.0, speed - change) if speed > 0.0 else min(0.0, speed + change)
            here = self.target_deg[joint]
            target = here + speed * self.period_s
            if low <= here <= high:  # rounding: the limiter has left room to stop
                target = min(max(target, low), high)
            self.target_deg[joint], self.speed_deg_s[joint] = target, speed

    def _outside_on_the_way_m(self, target_deg: Sequence[float], speed_deg_s: Sequence[float]) -> float:
        """How far outside the workspace a link gets, at worst, at a target and at those of braking from there on.

        In metres. A link's end moves no further than its joints' turns times their levers. Where that is not enough to
        know, the way is halved.
        """
        pose, end = self._braking(target_deg, speed_deg_s)
        here_m = self.outside_m(target_deg)
        if end == 0:
            return here_m
        return self._worst_between_m(pose, 0, target_deg, here_m, end, pose(end), None, HALVINGS)

    def _where_at_worst(self, target_deg: Sequence[float], speed_deg_s: Sequence[float]) -> str:
        """Which link's end would be where, at worst on the same way."""
        pose, end = self._braking(target_deg, speed_deg_s)
        return self._where(max(map(pose, range(end + 1)), key=self.outside_m))

    def _braking(
        self, target_deg: Sequence[float], speed_deg_s: Sequence[float]
    ) -> tuple[Callable[[int], list[float]], int]:
        """The pose after so many calls of `_brake` from a target on, and after how many it is at rest."""
        period_s, end = self.period_s, 0
        joints = []
        for angle, speed, limit in zip(target_deg, speed_deg_s, self.limits.max_acceleration_deg_s2, strict=True):
            change = limit * period_s
            stop = int(abs(speed) / change)
            if stop > end:
                end = stop
            joints.append((angle, speed * period_s, math.copysign(0.5 * change * period_s, speed), stop))

        def pose(tick: int) -> list[float]:
            """After so many calls of `_brake`: the k-th goes on by (speed - k change) period."""
            angles = []
            for angle, way, less, stop in joints:
                done = tick if tick < stop else stop
                angles.append(angle + (way - less * (done + 1)) * done)
            return angles

        return pose, end

    def _worst_between_m(
        self,
        pose: Callable[[int], list[float]],
        start: int,
        start_deg: Sequence[float],
        start_m: float,
        end: int,
        end_deg: Sequence[float],
        end_m: float | None,
        halvings: int,
    ) -> float:
        span_m = 0.0
        for here, there, lever_m in zip(start_deg, end_deg, self._levers_m, strict=True):
            span_m += abs(there - here) * lever_m
        span_m *= RADIANS
        if start_m + span_m <= 0.0:
            return start_m
        if end_m is None:
            end_m = self.outside_m(end_deg)
        # What lies between is nearer than the span to both ends, taken together.
        bound_m = 0.5 * (start_m + end_m + span_m)
        if bound_m <= 0.0 or end - start == 1:
            return max(start_m, end_m)
        if halvings == 0:
            return bound_m
        middle = (start + end) // 2
        middle_deg = pose(middle)
        middle_m = self.outside_m(middle_deg)
        return max(
            self._worst_between_m(pose, start, start_deg, start_m, middle, middle_deg, middle_m, halvings - 1),
            self._worst_between_m(pose, middle, middle_deg, middle_m, end, end_deg, end_m, halvings - 1),
        )
