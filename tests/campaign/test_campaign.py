"""The fault campaign: thousands of short lives of an arm, each with a fault of one class at a random moment.

In none may a target outside the limits of position, speed, acceleration or workspace reach the driver; after a fault
stop the arm only slows down, until a person decides; its torque goes off only at rest in its parking pose; and each
episode ends parked or held, with the fault reported. `Monitor` judges that with its own arithmetic, not with that of
`Safety`.
For each of the checks it is shown that without it the campaign fails, and with which words of the judge.

An episode is made from its class and a number alone; both are in the message of one that fails.
"""

import dataclasses
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from fake_arm import ARM, FakeClock, ScriptedPolicy
from helpers import Size

import arm_control.runner.safety.targets as targets_module
from arm_control.drivers.base import DriverError, JointState
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import ControlLoop, LoopSettings, LoopState
from arm_control.runner.motions import Parking
from arm_control.runner.safety import Fault, Safety, SafetySettings
from arm_control.runner.safety.readings import ReadingMonitor
from arm_control.runner.safety.targets import TargetLimiter
from arm_control.runner.safety.workspace import Workspace
from envs.limits import JointLimits
from envs.tasks.base import StillGoal

SMALL, FULL = 12, 250  # episodes of each class; the full campaign runs in `make soak`
RATES = [30, 30, 33, 40, 50, 50, 60, 75, 100, 125, 200, 333, 500]
EASE_S = 0.4
LOOP_SETTINGS = LoopSettings(ease_s=EASE_S, parking_s=0.6, lost_s=0.6)  # shorter than in life
MOST_TICKS_S = 6.0  # until a request to stop ends the patience of the person
STALL_S = 0.1
Angles = list[float]


class Violation(BaseException):
    """A violated safety property; no error of the program, which the loop would handle."""

    def __init__(self, what: str, values: tuple[Any, ...]) -> None:
        super().__init__(f"{what}: {values}")
        self.what = what


def check(so: bool, what: str, *values: Any) -> None:
    if not so:
        raise Violation(what, values)


def link_ends(angles: Sequence[float]) -> list[tuple[float, float, float]]:
    """The default arm's: 0.25 m up, then 0.25 m and 0.2 m in the plane that the base turns."""
    base, shoulder, elbow = (math.radians(angle) for angle in angles)
    ends, reach, height = [(0.0, 0.0, 0.25)], 0.0, 0.25
    for length, tilt in ((0.25, shoulder), (0.2, shoulder + elbow)):
        reach += length * math.sin(tilt)
        height += length * math.cos(tilt)
        ends.append((reach * math.cos(base), reach * math.sin(base), height))
    return ends


def moves(speeds: Sequence[float]) -> bool:
    """More than rounding does, in degrees/s."""
    return max(map(abs, speeds)) > 1e-5


class Monitor:
    """Judges every target and every verb that comes to the driver."""

    def __init__(
        self, limits: JointLimits, period_s: float, box: Sequence[float], park: Angles, no_writes: bool
    ) -> None:
        self.limits, self.period_s, self.box, self.park, self.no_writes = limits, period_s, box, park, no_writes
        self.targets: Angles | None = None
        self.speeds = [0.0, 0.0, 0.0]
        self.sent_s = -math.inf
        self.latched = self.pardoned = False
        self.reason: Fault | None = None
        self.off = False

    def note_fault(self, fault: Fault | None) -> None:
        if fault is not None and not self.latched:
            self.latched, self.pardoned, self.reason = True, False, fault

    def pardon(self) -> None:
        """A person has decided to go on or to park: that ends a stop, once it is over."""
        self.pardoned = True

    def write(self, target: Angles, reading: JointState | None, now_s: float, fault: Fault | None) -> None:
        check(not self.no_writes, "a target for an arm that must not move", target)
        check(not self.off, "a target after the torque was off", target)
        check(len(target) == 3 and all(map(math.isfinite, target)), "no three finite targets", target)
        starts = self.targets is None
        if self.latched and self.pardoned and fault is not self.reason:  # none, or already the next
            check(not moves(self.speeds), "a reset before the arm was at rest", self.speeds)
            # One that is refused at once leaves the targets where they were held.
            starts = fault is None or target != self.targets
            self.latched = False
        self.note_fault(fault)
        before = self._starts(reading) if starts else self.targets
        assert before is not None
        if now_s - self.sent_s > self.period_s + STALL_S + 1e-9:
            self.speeds = [0.0, 0.0, 0.0]  # the arm has come to rest in between
        speeds = []
        for joint, (low, high, most, hardest) in enumerate(self.limits.by_joint):
            here, there, was = before[joint], target[joint], self.speeds[joint]
            check(min(low, here) - 1e-9 <= there <= max(high, here) + 1e-9, "outside the range", joint, here, there)
            speed, rounding = (there - here) / self.period_s, 1e-9 / self.period_s
            check(abs(speed) <= most + rounding, "too fast", joint, speed, most)
            check(
                abs(speed - was) <= hardest * self.period_s + 2 * rounding, "too hard", joint, was, speed, here, there
            )
            if self.latched:
                check(abs(speed) <= abs(was) + 2 * rounding, "speeds up after a fault stop", joint, was, speed)
                check(
                    speed * was >= 0.0 or abs(speed) <= 2 * rounding,
                    "turns round after a fault stop",
                    joint,
                    was,
                    speed,
                )
            speeds.append(0.0 if abs(speed) <= 2 * rounding else speed)
        low_x, low_y, low_z, high_x, high_y, high_z = self.box
        for x, y, z in link_ends(target):
            beyond = max(low_x - x, x - high_x, low_y - y, y - high_y, low_z - z, z - high_z)
            check(beyond <= 1e-6, "outside the workspace", target, beyond)
        self.targets, self.speeds, self.sent_s = list(target), speeds, now_s

    def _starts(self, reading: JointState | None) -> Angles:
        """Where joints start: where they were held, if they are near it, or read; at their end from a degree beyond."""
        check(reading is not None and len(reading.angles_deg) == 3, "a start from nowhere", reading)
        assert reading is not None
        before = []
        for joint, (low, high, _, _) in enumerate(self.limits.by_joint):
            angle = reading.angles_deg[joint]
            inside = min(max(angle, low), high)
            if self.targets is not None and abs(angle - self.targets[joint]) <= 5.0:
                before.append(self.targets[joint])
            else:
                before.append(inside if abs(angle - inside) <= 1.0 else angle)
        return before

    def disable(self, angles: Angles, speeds: Angles) -> None:
        check(not self.off, "torque off twice")
        far = max(abs(angle - park) for angle, park in zip(angles, self.park, strict=True))
        check(far <= 3.5, "torque off, not in the parking pose", angles, self.park)
        check(max(map(abs, speeds)) <= 8.0, "torque off while moving", speeds)
        check(not moves(self.speeds), "torque off while the targets move", self.speeds)
        check(not self.latched, "torque off after a fault stop")
        self.off = True


class Episode:
    """A random life: limits, rate, places and people, to which a fault is added."""

    def __init__(self, name: str, seed: int) -> None:
        self.rng = rng = random.Random(f"{name} {seed}")
        self.rate = rng.choice(RATES)
        self.period_s = 1.0 / self.rate
        self.limits = ARM.limits
        if rng.random() < 0.6:
            self.limits = JointLimits(
                tuple(rng.uniform(0.0, 10.0) for _ in range(3)),
                tuple(rng.uniform(80.0, 90.0) for _ in range(3)),
                tuple(speed * rng.uniform(0.5, 1.0) for speed in ARM.limits.max_speed_deg_s),
                tuple(limit * rng.uniform(0.5, 1.0) for limit in ARM.limits.max_acceleration_deg_s2),
            )
        self.start = self.pose()
        self.park = self.pose() if rng.random() < 0.5 else list(self.limits.lower_deg)
        margin = rng.choice([0.001, 0.05, 0.3])
        self.box: tuple[float, ...] = (-margin, -margin, 0.05 - margin, 0.45 + margin, 0.45 + margin, 0.7 + margin)
        self.table_m: float | None = rng.choice([None, -0.1, 0.0])
        self.seconds = rng.uniform(0.2, 0.5)
        self.goals = rng.randint(1, 3)
        self.poses = [self.pose() for _ in range(20)]
        self.hold_steps = rng.randint(3, 15)
        # The reading, counted from 0, in which a fault begins, and for how many it goes on.
        self.at = rng.randint(2, max(3, int((EASE_S + 0.8 * self.goals * self.seconds) * self.rate)))
        self.lasts = rng.choice([1, 2, 5, 10**9])
        self.tau_s = rng.uniform(0.01, 0.06)
        self.person = rng.choice(["nobody", "nobody", "resets", "parks", "stops", "any"])
        # What a fault sets.
        self.say: Callable[[int, Angles], Angles] = lambda step, answer: answer
        self.spoil: Callable[[JointState], JointState] = lambda state: state
        self.lose_write: Callable[[], bool] = lambda: False
        self.late: Callable[[], float] = lambda: 0.0
        self.block: Callable[[], set[int]] = set
        self.slow: Callable[[], set[int]] = set  # which reach half of the speed that is allowed
        self.stop_at = math.inf
        self.interrupt_at = math.inf
        self.work: Callable[[ControlLoop], Iterator[Angles]] | None = None
        self.expects = Expectation()
        # What happened.
        self.reads = self.steps = 0
        self.fired = False
        self.said: list[str] = []

    def pose(self, within: float = 0.0) -> Angles:
        """A random one inside the limits."""
        pairs = zip(self.limits.lower_deg, self.limits.upper_deg, strict=True)
        return [self.rng.uniform(low + within, high - within) for low, high in pairs]

    @property
    def joint(self) -> int:
        return self.rng.randrange(3)

    @property
    def now(self) -> bool:
        """True if the fault affects this reading; then it is marked as fired."""
        so = self.at <= self.reads < self.at + self.lasts
        self.fired |= so
        return so

    def lasts_s(self, seconds: float) -> None:
        """Let the fault last for so long, or for ever."""
        self.lasts = self.rng.choice([math.ceil(seconds * self.rate) + 2, 10**9])

    def answers(self, asked: int) -> Angles:
        self.steps = asked
        return self.say(asked, list(self.poses[asked // self.hold_steps % len(self.poses)]))


@dataclasses.dataclass
class Expectation:
    """The permitted endings of an episode."""

    checks: tuple[str | None, ...] = (None,)  # of the first fault; None: that there is none
    raises: tuple[type[BaseException], ...] = ()
    clamps: str | None = None
    no_writes: bool = False
    counts: str | None = None  # a figure of the report that is more than 0


class Clock(FakeClock):
    def __init__(self, episode: Episode) -> None:
        super().__init__(waits=episode.person != "nobody")
        self.episode = episode

    def wait_until(self, due_s: float) -> None:
        super().wait_until(due_s)
        self.time_s += self.episode.late()


class Bus:
    """A simulated arm, with the faults between it and the loop, and the monitor where the targets leave."""

    joint_names, calibration_sha256, fastest_rate_hz = ARM.joint_names, None, 1000.0

    def __init__(self, episode: Episode, clock: Clock, monitor: Monitor) -> None:
        self.episode, self.clock, self.monitor = episode, clock, monitor
        self.limits = episode.limits
        self.angles, self.targets, self.speeds = list(episode.start), list(episode.start), [0.0, 0.0, 0.0]
        self.at_s = clock.now_s()
        self.reading: JointState | None = None
        self.safety: Safety | None = None
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def move(self) -> None:
        """Servos of the first order, which are no faster than servos are."""
        passed_s = self.clock.now_s() - self.at_s
        self.at_s += passed_s
        if passed_s <= 0.0:
            return
        blocked, slow = self.episode.block(), self.episode.slow()
        near = 1.0 - math.exp(-passed_s / self.episode.tau_s)
        for joint, target in enumerate(self.targets):
            most_deg_s = 1.1 * ARM.limits.max_speed_deg_s[joint]
            if joint in slow:
                most_deg_s = 0.5 * self.limits.max_speed_deg_s[joint]
            most = most_deg_s * passed_s
            way = 0.0 if joint in blocked else min(max((target - self.angles[joint]) * near, -most), most)
            self.angles[joint] += way
            self.speeds[joint] = way / passed_s

    def read(self) -> JointState:
        self.move()
        episode = self.episode
        assert self.safety is not None
        self.monitor.note_fault(self.safety.fault)
        try:
            if episode.reads >= episode.interrupt_at:
                raise KeyboardInterrupt
            state = JointState(
                self.clock.now_s(), list(self.angles), list(self.speeds), [40.0] * 3, [0.1, -0.3, 0.2], [11.8] * 3
            )
            if not self.enabled:  # whether the arm answers at all; faults come later
                return state
            self.reading = episode.spoil(state)
            return self.reading
        finally:
            episode.reads += self.enabled

    def write(self, target_deg: list[float]) -> None:
        self.move()
        assert self.safety is not None
        self.monitor.write(target_deg, self.reading, self.clock.now_s(), self.safety.fault)
        if self.episode.lose_write():
            raise DriverError("no reply")
        self.targets = list(target_deg)

    def disable(self) -> None:
        self.move()
        self.monitor.disable(self.angles, self.speeds)

    def close(self) -> None:
        pass


def live(name: str, seed: int) -> Episode:
    """Run an episode; raises Violation."""
    episode = Episode(name, seed)
    FAULTS[name](episode)
    clock = Clock(episode)
    floor = max(episode.box[2], -math.inf if episode.table_m is None else episode.table_m)
    box = (*episode.box[:2], floor, *episode.box[3:])
    monitor = Monitor(episode.limits, episode.period_s, box, episode.park, episode.expects.no_writes)
    bus = Bus(episode, clock, monitor)
    rng, end_s = random.Random(seed), clock.now_s() + MOST_TICKS_S
    asked_to_stop = False

    def key() -> str:
        choices = {"resets": "r", "parks": "p", "stops": "", "any": rng.choice("rp xs")}[episode.person]
        pressed = choices if rng.random() < 0.2 else ""
        if pressed in ("r", "p"):
            monitor.pardon()
        return pressed

    def stopped() -> bool:
        nonlocal asked_to_stop
        held = bool(episode.said) and episode.person == "stops" and rng.random() < 0.05
        if not asked_to_stop and (held or episode.reads >= episode.stop_at or clock.now_s() > end_s):
            asked_to_stop = True
            monitor.pardon()
        return asked_to_stop

    safety = bus.safety = Safety(
        ARM,
        episode.limits,
        episode.period_s,
        SafetySettings(table_m=episode.table_m, workspace_m=episode.box),  # type: ignore[arg-type]
    )
    loop = ControlLoop(
        bus,
        safety,
        clock,
        park_deg=episode.park,
        stopped=stopped,
        key=key if clock.waits else None,
        say=episode.said.append,
        settings=LOOP_SETTINGS,
    )
    policy = ScriptedPolicy(episode.answers)
    goals = [StillGoal((0.2, 0.2, 0.3))] * episode.goals
    work = episode.work or GoalWork(policy, goals, seconds_per_goal=episode.seconds)  # type: ignore[arg-type]
    raised: BaseException | None = None
    try:
        loop.run(work)
    except (Exception, KeyboardInterrupt) as error:
        raised = error
    judge(episode, loop, monitor, bus, raised)
    return episode


def judge(episode: Episode, loop: ControlLoop, monitor: Monitor, bus: Bus, raised: BaseException | None) -> None:
    """The ending of the episode."""
    report, expects = loop.report, episode.expects
    if raised is not None:
        check(isinstance(raised, expects.raises), f"unexpected {type(raised).__name__}", repr(raised))
    elif expects.raises and episode.fired:
        # Before an arm is lost, or a second Ctrl-C comes, it may have ended.
        check({DriverError, KeyboardInterrupt} & {*expects.raises} != set(), "an error that did not come", expects)
    check(report.parked == monitor.off, "the report is wrong about the torque")
    ended_by_hand = isinstance(raised, (KeyboardInterrupt, DriverError))
    if not report.parked and not ended_by_hand:
        check(not loop.safety.moving and not moves(monitor.speeds), "neither parked nor held")
        check(bool(report.faults), "held without a reason")
    for fault in report.faults:
        if fault.check != "lost":
            check(any(f"{fault.check}: {fault.text}" in text for text in episode.said), "a fault unreported", fault)
    first = report.faults[0].check if report.faults else None
    if episode.fired and not isinstance(raised, KeyboardInterrupt):
        wanted = " or ".join(name or "nothing" for name in dict.fromkeys(expects.checks))
        check(first in expects.checks, f"{first or 'nothing'} instead of {wanted}", report.faults)
    else:
        check(first is None, "a fault stop without a fault", report.faults)
    if expects.clamps and episode.fired:
        check(loop.safety.clamped[expects.clamps] > 0, "not clamped", expects.clamps)
    if expects.counts and episode.fired:
        check(getattr(report, expects.counts) > 0, "not counted", expects.counts)


# The faults.

FAULTS: dict[str, Callable[[Episode], None]] = {}
FaultMaker = Callable[[Episode], None]


def fault(
    *checks: str | None,
    clamps: str | None = None,
    raises: tuple[type[BaseException], ...] = (),
    no_writes: bool = False,
    counts: str | None = None,
) -> Callable[[FaultMaker], FaultMaker]:
    """A class of faults, and what may come of it; without checks it is one that a healthy arm lives with."""

    def add(make: FaultMaker) -> FaultMaker:
        def with_expectation(episode: Episode) -> None:
            episode.expects = Expectation(checks or (None,), raises, clamps, no_writes, counts)
            make(episode)

        FAULTS[make.__name__] = with_expectation
        return make

    return add


def changed(values: Sequence[float], joint: int, value: float) -> Angles:
    return [value if place == joint else old for place, old in enumerate(values)]


@fault()
def nothing_is_wrong(e: Episode) -> None:
    e.fired = True


# Policy: from some question on, or once.


def saying(e: Episode, spoil: Callable[[int, Angles], Angles]) -> None:
    at = e.rng.randint(0, int(30 * (EASE_S + 0.9 * e.goals * e.seconds)))
    lasts = e.lasts

    def say(step: int, answer: Angles) -> Angles:
        if at <= step < at + lasts:
            e.fired = True
            return spoil(step, answer)
        return answer

    e.say = say


@fault("finite")
def policy_nan(e: Episode) -> None:
    joint = e.joint
    saying(e, lambda step, answer: changed(answer, joint, math.nan))


@fault("finite")
def policy_infinite(e: Episode) -> None:
    joint, value = e.joint, e.rng.choice([math.inf, -math.inf])
    saying(e, lambda step, answer: changed(answer, joint, value))


@fault("finite")
def policy_wrong_length(e: Episode) -> None:
    count = e.rng.choice([0, 1, 2, 4, 7])
    saying(e, lambda step, answer: [45.0] * count)


def beyond(e: Episode, by: float) -> tuple[int, float]:
    joint = e.joint
    return joint, e.rng.choice([e.limits.lower_deg[joint] - by, e.limits.upper_deg[joint] + by])


@fault("position")
def policy_far_outside(e: Episode) -> None:
    joint, angle = beyond(e, e.rng.choice([5.01, 10.0, 90.0, 360.0, 1e6, 1e300]))
    saying(e, lambda step, answer: changed(answer, joint, angle))


@fault(clamps="position")
def policy_a_little_outside(e: Episode) -> None:
    joint, angle = beyond(e, e.rng.uniform(0.002, 4.99))
    saying(e, lambda step, answer: changed(answer, joint, angle))


@fault("position")
def policy_drifts_away(e: Episode) -> None:
    joint, start = e.joint, e.start
    e.fired = True
    e.goals = 3
    e.seconds = 0.5
    e.say = lambda step, answer: changed(start, joint, start[joint] + min(1.0, step / 40) * (8.0 + 90.0))


@fault()
def policy_jumps_at_once(e: Episode) -> None:
    corner = [e.rng.choice(pair) for pair in zip(e.limits.lower_deg, e.limits.upper_deg, strict=True)]
    e.lasts = 10**9
    saying(e, lambda step, answer: corner)


@fault()
def policy_oscillates(e: Episode) -> None:
    every, e.lasts = e.rng.choice([1, 2, 3, 5, 9]), 10**9
    ends = [list(e.limits.lower_deg), list(e.limits.upper_deg)]
    saying(e, lambda step, answer: ends[step // every % 2])


@fault()
def policy_is_noise(e: Episode) -> None:
    e.lasts = 10**9
    saying(e, lambda step, answer: e.pose())


@fault(None, raises=(RuntimeError,))
def policy_raises(e: Episode) -> None:
    def fail(step: int, answer: Angles) -> Angles:
        raise RuntimeError("the policy failed")

    saying(e, fail)


def in_a_room(e: Episode) -> None:
    """A box whose walls lie within the arm's range, around where it is and is parked."""
    e.park = [a + e.rng.uniform(-3.0, 3.0) for a in e.start]
    e.park = [min(max(a, low), high) for a, (low, high, _, _) in zip(e.park, e.limits.by_joint, strict=True)]
    corners = [[(e.start, e.park)[which >> joint & 1][joint] for joint in range(3)] for which in range(8)]
    points = [point for pose in corners for point in link_ends(pose)]
    margins = [e.rng.uniform(0.01, 0.1) for _ in range(6)]
    low = [min(point[axis] for point in points) - margins[axis] for axis in range(3)]
    high = [max(point[axis] for point in points) + margins[axis + 3] for axis in range(3)]
    e.box, e.table_m = (*low, *high), None


def is_inside(e: Episode, pose: Angles, margin: float = 0.0) -> bool:
    floor = max(e.box[2], -math.inf if e.table_m is None else e.table_m)
    low = (*e.box[:2], floor)
    return all(
        low[axis] + margin <= point[axis] <= e.box[axis + 3] - margin for point in link_ends(pose) for axis in range(3)
    )


@fault("workspace")
def policy_pushes_at_a_wall(e: Episode) -> None:
    in_a_room(e)
    for _ in range(1000):
        if not is_inside(e, outside := e.pose(), -0.005):
            break
    else:
        outside = e.start
    e.fired = not is_inside(e, outside, -0.005)
    e.say = lambda step, answer: outside
    e.goals, e.seconds = 1, 2.0


@fault("workspace")
def policy_leans_on_the_table(e: Episode) -> None:
    """Slowly: held above it, and no more than 20 mm."""
    e.limits = ARM.limits
    e.start, e.park = [45.0, 60.0, 30.0], [45.0, 50.0, 30.0]
    e.table_m, e.box = 0.25, (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)
    e.limits = dataclasses.replace(e.limits, max_speed_deg_s=(20.0, 20.0, 20.0))
    e.goals, e.seconds, e.fired = 1, 4.0, True
    depth = e.rng.uniform(75.0, 90.0)
    e.say = lambda step, answer: [45.0, 60.0, depth]
    e.person = "nobody"


@fault("workspace", "parking", None)
def policy_thrashes_in_a_room(e: Episode) -> None:
    in_a_room(e)
    e.lasts, e.fired = 10**9, True
    e.hold_steps = e.rng.choice([1, 2, 4, 8])


@fault("speed")
def recording_too_fast(e: Episode) -> None:
    e.fired = True
    e.start = e.pose(10.0)
    low, high = e.limits.lower_deg, e.limits.upper_deg
    joint = e.joint
    up = e.start[joint] < 0.5 * (low[joint] + high[joint])
    pace = e.rng.uniform(2.0, 5.0) * e.limits.max_speed_deg_s[joint] * (1.0 if up else -1.0)
    done: list[bool] = []

    def work(loop: ControlLoop) -> Iterator[Angles]:
        if done:
            return
        done.append(True)
        yield from loop.ease(e.start)
        for tick in range(math.ceil(0.4 * e.rate)):
            angle = min(max(e.start[joint] + tick * e.period_s * pace, low[joint]), high[joint])
            yield loop.admit(changed(e.start, joint, angle), follow=True)

    e.work = work


# Readings.


def spoiling(e: Episode, spoil: Callable[[JointState], dict[str, Any]]) -> None:
    e.spoil = lambda state: dataclasses.replace(state, **spoil(state)) if e.now else state


@fault("reading")
def reading_not_finite(e: Episode) -> None:
    joint, value = e.joint, e.rng.choice([math.nan, math.inf, -math.inf])
    which = e.rng.choice(["angles_deg", "speeds_deg_s", "stamp_s"])
    spoiling(e, lambda state: {which: value if which == "stamp_s" else changed(getattr(state, which), joint, value)})


@fault("reading", no_writes=True)
def first_reading_not_finite(e: Episode) -> None:
    e.at, e.lasts, joint = 0, 10**9, e.joint
    spoiling(e, lambda state: {"angles_deg": changed(state.angles_deg, joint, math.nan)})


@fault("reading")
def reading_wrong_length(e: Episode) -> None:
    which = e.rng.choice(["angles_deg", "speeds_deg_s", "temperatures_c", "loads", "voltages_v"])
    count = e.rng.choice([0, 1, 2, 4])
    spoiling(e, lambda state: {which: [10.0] * count})


@fault("reading")
def reading_absurd_speed(e: Episode) -> None:
    joint = e.joint
    speed = e.rng.choice([-1, 1]) * e.rng.uniform(3.01, 100.0) * ARM.limits.max_speed_deg_s[joint]
    spoiling(e, lambda state: {"speeds_deg_s": changed(state.speeds_deg_s, joint, speed)})


@fault("stale")
def reading_frozen(e: Episode) -> None:
    e.lasts_s(0.1)
    kept: list[JointState] = []

    def spoil(state: JointState) -> JointState:
        if not e.now:
            kept[:] = [state]
        return kept[0]

    e.spoil = spoil


@fault("stale")
def reading_of_the_future(e: Episode) -> None:
    ahead = e.rng.choice([0.11, 0.5, 1e3, 1e9])
    spoiling(e, lambda state: {"stamp_s": state.stamp_s + ahead})


@fault("stale", "jump")
def stamp_steps_back(e: Episode) -> None:
    behind = e.rng.choice([0.11, 0.5, 5.0, 1e6])
    spoiling(e, lambda state: {"stamp_s": state.stamp_s - behind})


@fault()
def stamp_jitters(e: Episode) -> None:
    e.lasts = 10**9
    most = 0.3 * e.period_s
    spoiling(e, lambda state: {"stamp_s": state.stamp_s + e.rng.uniform(-most, 0.0)})


@fault("jump")
def encoder_jumps(e: Episode) -> None:
    joint, by = e.joint, e.rng.choice([-1, 1]) * e.rng.uniform(45.0, 300.0)
    spoiling(e, lambda state: {"angles_deg": changed(state.angles_deg, joint, state.angles_deg[joint] + by)})


@fault("jump")
def encoder_wraps(e: Episode) -> None:
    joint, by = e.joint, e.rng.choice([-360.0, 360.0])
    spoiling(e, lambda state: {"angles_deg": changed(state.angles_deg, joint, state.angles_deg[joint] + by)})


@fault("start", no_writes=True)
def start_far_outside(e: Episode) -> None:
    joint, angle = beyond(e, e.rng.uniform(5.01, 170.0))
    e.start, e.fired = changed(e.start, joint, angle), True


@fault("workspace", no_writes=True)
def start_outside_the_workspace(e: Episode) -> None:
    e.fired = True
    e.limits, e.table_m, e.box = ARM.limits, 0.2, (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)
    e.park, e.start = [0.0, 0.0, 0.0], [e.rng.uniform(0, 90), e.rng.uniform(80, 90), e.rng.uniform(50, 90)]


@fault()
def start_a_little_outside(e: Episode) -> None:
    joint, angle = beyond(e, e.rng.uniform(0.0, 4.95))
    e.start, e.fired = changed(e.start, joint, angle), True
    e.box = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)


@fault()
def readings_are_noisy(e: Episode) -> None:
    e.lasts = 10**9
    spoiling(e, lambda state: {"angles_deg": [angle + e.rng.gauss(0.0, 0.2) for angle in state.angles_deg]})


def swinging(e: Episode, joint: int, seconds: float) -> None:
    """The policy moves a joint from end to end, as fast as is allowed, the arm stretched out."""
    low, high = e.limits.lower_deg[joint], e.limits.upper_deg[joint]
    level, e.lasts = [45.0, 80.0, 5.0], 10**9
    e.say = lambda step, answer: changed(level, joint, (low, high)[step // 24 % 2])  # for 0.8 s each
    e.goals, e.seconds = 1, seconds


@fault("tracking", "frozen")
def joint_is_stuck(e: Episode) -> None:
    joint = e.joint
    low, high = e.limits.lower_deg[joint], e.limits.upper_deg[joint]
    there = high if e.start[joint] < 0.5 * (low + high) else low
    e.fired, e.at = True, 0
    e.block = lambda: {joint}
    e.say = lambda step, answer: changed(answer, joint, there)
    e.goals, e.seconds = 1, 1.6


@fault("tracking")
def joint_is_stuck_near_its_target(e: Episode) -> None:
    """Where it is less than 20 degrees away, and its reading is not quite still."""
    joint, by = e.rng.randrange(2), e.rng.uniform(9.0, 18.0)
    e.start = changed([45.0, 80.0, 5.0], joint, 60.0)
    e.lasts, e.fired, e.at = 10**9, True, 2
    e.block = lambda: {joint}
    there = changed(e.start, joint, 60.0 + by * e.rng.choice([-1, 1]))
    e.say = lambda step, answer: there
    e.goals, e.seconds = 1, 1.6
    spoiling(e, lambda state: {"angles_deg": [angle + e.rng.uniform(-0.3, 0.3) for angle in state.angles_deg]})


@fault("tracking")
def servo_is_slow(e: Episode) -> None:
    """At half speed. Under a limit of 200 degrees/s that may look like a servo which is as late as is allowed."""
    e.limits = ARM.limits
    joint = e.rng.randrange(2)
    swinging(e, joint, 3.5)
    e.at = e.rng.randint(2, e.rate)
    e.slow = lambda: {joint} if e.now else set()


@fault("frozen", "tracking")
def encoder_is_frozen(e: Episode) -> None:
    """At a plausible value, with fresh stamps; the servo goes where it is sent."""
    joint, kept = e.joint, [0.0]
    swinging(e, joint, 2.5)
    e.at = e.rng.randint(2, e.rate)

    def spoil(state: JointState) -> JointState:
        if not e.now:
            kept[0] = state.angles_deg[joint]
            return state
        return dataclasses.replace(
            state,
            angles_deg=changed(state.angles_deg, joint, kept[0]),
            speeds_deg_s=changed(state.speeds_deg_s, joint, 0.0),
        )

    e.spoil = spoil


@fault("frozen")
def encoder_is_frozen_over_a_small_move(e: Episode) -> None:
    """Of the elbow, with the shortest lever: the tip is off by less than is allowed."""
    e.start = [45.0, 45.0, 45.0]
    end = changed(e.start, 2, 45.0 + e.rng.uniform(4.0, 7.0) * e.rng.choice([-1, 1]))
    e.say = lambda step, answer: end
    e.goals, e.seconds, e.fired = 1, 2.5, True
    e.spoil = lambda state: dataclasses.replace(state, angles_deg=changed(state.angles_deg, 2, 45.0))


@fault("jump", "tracking", "frozen")
def readings_are_swapped(e: Episode) -> None:
    """Of two joints, from the beginning or later."""
    joint, other = e.rng.sample(range(3), 2)
    swinging(e, joint, 2.5)
    e.at = e.rng.choice([0, e.rng.randint(2, e.rate)])

    def swapped(values: Sequence[float]) -> Angles:
        return changed(changed(values, joint, values[other]), other, values[joint])

    spoiling(e, lambda state: {"angles_deg": swapped(state.angles_deg), "speeds_deg_s": swapped(state.speeds_deg_s)})


@fault("tracking")
def reading_drifts(e: Episode) -> None:
    """By 2 to 5 degrees/s, while the servo goes where it is sent."""
    joint, drift_deg_s = e.rng.randrange(2), e.rng.uniform(2.0, 5.0) * e.rng.choice([-1, 1])
    e.start, e.lasts = [45.0, 60.0, 5.0], 10**9
    still = list(e.start)
    e.say = lambda step, answer: still
    e.goals, e.seconds = 1, 4.0
    spoiling(
        e,
        lambda state: {
            "angles_deg": changed(
                state.angles_deg, joint, state.angles_deg[joint] + drift_deg_s * (e.reads - e.at) * e.period_s
            )
        },
    )


@fault("parking", "frozen", "tracking")
def joint_is_blocked_before_it_is_parked(e: Episode) -> None:
    park_blocked(e, e.joint, e.rng.uniform(4.0, 18.0))


@fault("parking")
def joint_is_blocked_near_its_parking_pose(e: Episode) -> None:
    """The elbow, whose readings are noisy, so near that the tip is off by less than is allowed."""
    park_blocked(e, 2, e.rng.uniform(4.0, 6.0))
    e.at, e.lasts = 2, 10**9
    spoiling(e, lambda state: {"angles_deg": [angle + e.rng.uniform(-0.3, 0.3) for angle in state.angles_deg]})


def park_blocked(e: Episode, joint: int, by: float) -> None:
    """A joint is blocked from the beginning, so far from where it is to be parked."""
    e.start = changed(e.start, joint, e.limits.lower_deg[joint] + 2 + by)
    e.park = changed(e.park, joint, e.limits.lower_deg[joint] + 2)
    e.fired = True
    e.block = lambda: {joint}
    start = e.start
    e.say = lambda step, answer: start


@fault("load")
def servo_at_full_load(e: Episode) -> None:
    e.lasts_s(0.65)
    joint, load = e.joint, e.rng.choice([1.0, -1.0, 1.3, math.nan])
    e.goals, e.seconds = 3, 0.5  # long enough that it shows
    e.at = e.rng.randint(2, round(1.0 * e.rate))
    spoiling(e, lambda state: {"loads": changed(state.loads or [], joint, load)})


@fault()
def servo_at_full_load_for_a_moment(e: Episode) -> None:
    joint, e.lasts = e.joint, max(1, int(0.5 * e.rate))
    spoiling(e, lambda state: {"loads": changed(state.loads or [], joint, 1.0)})


@fault("temperature")
def servo_too_hot(e: Episode) -> None:
    joint, celsius = e.joint, e.rng.choice([72.0, 80.0, 1e3, math.nan])
    spoiling(e, lambda state: {"temperatures_c": changed(state.temperatures_c or [], joint, celsius)})


@fault("voltage")
def supply_too_low(e: Episode) -> None:
    joint, volts = e.joint, e.rng.choice([5.9, 3.0, 0.0, math.nan])
    spoiling(e, lambda state: {"voltages_v": changed(state.voltages_v or [], joint, volts)})


@fault("voltage")
def supply_too_high(e: Episode) -> None:
    joint, volts = e.joint, e.rng.uniform(14.01, 60.0)
    spoiling(e, lambda state: {"voltages_v": changed(state.voltages_v or [], joint, volts)})


@fault("health")
def servo_complains(e: Episode) -> None:
    spoiling(e, lambda state: {"alerts": ("elbow: overload",)})


# Bus.


def no_reply(state: JointState) -> JointState:
    raise DriverError("no reply")


@fault(counts="lost_replies")
def reads_are_lost(e: Episode) -> None:
    """Single ones, not two in a row."""
    chance, last = e.rng.uniform(0.05, 0.5), [-2]

    def spoil(state: JointState) -> JointState:
        if e.reads > 2 and e.reads > last[0] + 1 and e.rng.random() < chance:
            last[0], e.fired = e.reads, True
            return no_reply(state)
        return state

    e.spoil = spoil


@fault("stale", counts="lost_replies")
def reads_are_lost_in_a_burst(e: Episode) -> None:
    e.lasts = math.ceil(e.rng.uniform(0.12, 0.4) * e.rate) + 1
    e.spoil = lambda state: no_reply(state) if e.now else state


@fault(counts="lost_replies")
def writes_are_lost(e: Episode) -> None:
    chance = e.rng.uniform(0.05, 0.3)

    def lose() -> bool:
        lost = e.rng.random() < chance
        e.fired |= lost
        return lost

    e.lose_write = lose


@fault("frozen", counts="lost_replies")
def writes_are_lost_for_good(e: Episode) -> None:
    e.at = e.rng.randint(2, round(EASE_S * e.rate))
    e.start = [low + 2.0 for low in e.limits.lower_deg]
    e.park = [high - 2.0 for high in e.limits.upper_deg]
    low = e.start
    e.say = lambda step, answer: low
    e.lose_write = lambda: e.reads >= e.at
    e.fired = True


@fault("stale", raises=(DriverError,), counts="lost_replies")
def bus_is_dead(e: Episode) -> None:
    e.lasts = 10**9
    e.spoil = lambda state: no_reply(state) if e.now else state
    e.lose_write = lambda: e.fired


# Clock.


@fault(counts="overruns")
def ticks_are_late(e: Episode) -> None:
    chance, most = e.rng.uniform(0.05, 0.9), min(e.rng.choice([0.3, 1.0, 3.0]) * e.period_s, 0.09)

    def late() -> float:
        late_s = e.rng.uniform(0.0, most) if e.rng.random() < chance else 0.0
        e.fired |= late_s > 0.21 * e.period_s
        return late_s

    e.late = late


@fault(counts="overruns")
def process_is_suspended(e: Episode) -> None:
    e.lasts, length = 1, e.rng.choice([0.11, 0.5, 3.0, 3600.0])
    e.late = lambda: length if e.now else 0.0
    e.person = "nobody"


# Process.


@fault()
def asked_to_stop(e: Episode) -> None:
    e.stop_at, e.fired = e.rng.randint(0, e.at), True


@fault(raises=(KeyboardInterrupt,))
def asked_to_stop_twice(e: Episode) -> None:
    e.stop_at, e.fired = e.rng.randint(0, e.at), True
    e.interrupt_at = e.stop_at + e.rng.randint(2, e.rate)


@fault("finite", "temperature", "jump", "position")
def keys_at_random(e: Episode) -> None:
    e.person, e.lasts = "any", e.rng.choice([1, 5, 50])
    FAULTS[e.rng.choice(["policy_nan", "servo_too_hot", "encoder_jumps", "policy_far_outside"])](e)


@fault()
def two_at_once(e: Episode) -> None:
    names = e.rng.sample(["policy_nan", "servo_too_hot", "bus_is_dead", "servo_complains", "policy_far_outside"], 2)
    expects = [e.expects]
    for name in names:
        FAULTS[name](e)
        expects.append(e.expects)
    e.expects = Expectation(tuple(check for expect in expects[1:] for check in expect.checks), (DriverError,))


# Running it.


def run_class(name: str, seeds: range) -> int:
    """Returns in how many of the episodes the fault came about."""
    fired = 0
    for seed in seeds:
        try:
            fired += live(name, seed).fired
        except (Violation, Exception) as error:
            raise AssertionError(f"live({name!r}, {seed}): {error}") from error
    return fired


@pytest.mark.parametrize("name", FAULTS)
def test_the_campaign(name: str, size: Size) -> None:
    """No episode violates a rule, and the fault occurs in most of them."""
    episodes = size(SMALL, full=FULL, of="episodes")
    fired = run_class(name, range(episodes))
    assert fired >= (0.8 if episodes == FULL else 0.6) * episodes


# Without any one of the checks it fails.


def without(monkeypatch: pytest.MonkeyPatch, what: str) -> dict[str, str]:
    """Take a check away; returns the classes that should show it, and what the judge then says of them."""

    def health_without(**fields: Any) -> None:
        judged = ReadingMonitor._check_health
        monkeypatch.setattr(
            ReadingMonitor, "_check_health", lambda self, state: judged(self, dataclasses.replace(state, **fields))
        )

    def always(owner: Any, name: str, value: Any) -> None:
        monkeypatch.setattr(owner, name, lambda *_: value)

    def settings_with(**fields: Any) -> None:
        begin = Safety.__init__

        def init(self: Safety, arm: Any, limits: Any, period_s: float, settings: SafetySettings) -> None:
            begin(self, arm, limits, period_s, dataclasses.replace(settings, **fields))

        monkeypatch.setattr(Safety, "__init__", init)

    if what == "finite":
        always(TargetLimiter, "_is_finite", True)
        return {
            "policy_nan": "unexpected ValueError",
            "policy_infinite": "position instead of finite",
            "policy_wrong_length": "unexpected ValueError",
        }
    if what == "range":
        always(TargetLimiter, "_is_in_range", True)
        return {"policy_far_outside": "nothing instead of position", "policy_a_little_outside": "not clamped"}
    if what == "sane reading":
        always(ReadingMonitor, "is_sane", True)
        return {
            "reading_not_finite": "nothing instead of reading",
            "reading_absurd_speed": "nothing instead of reading",
            "reading_wrong_length": "unexpected ValueError",
        }
    if what == "likely reading":
        always(ReadingMonitor, "_is_plausible", True)
        return {"encoder_jumps": "nothing instead of jump", "encoder_wraps": "nothing instead of jump"}
    if what == "place of the start":
        always(ReadingMonitor, "check_place", None)
        return {"start_far_outside": "a target for an arm that must not move"}
    if what == "temperature":
        health_without(temperatures_c=None)
        return {"servo_too_hot": "nothing instead of temperature"}
    if what == "voltage":
        health_without(voltages_v=None)
        return {"supply_too_low": "nothing instead of voltage", "supply_too_high": "nothing instead of voltage"}
    if what == "load":
        health_without(loads=None)
        return {"servo_at_full_load": "nothing instead of load"}
    if what == "alerts":
        health_without(alerts=())
        return {"servo_complains": "nothing instead of health"}
    if what == "tracking":
        # On this arm the tip shows it first; an arm with a joint of a short lever has this check alone.
        settings_with(tip_deg=math.inf, still_deg=math.inf)
        assert run_class("joint_is_stuck", range(10)) == 10
        always(ReadingMonitor, "_check_tracking", None)
        return {"joint_is_stuck": "parking instead of tracking or frozen"}
    if what == "tip":
        always(ReadingMonitor, "_check_tip", None)
        return {
            "joint_is_stuck_near_its_target": "parking instead of tracking",
            "servo_is_slow": "nothing instead of tracking",
            "reading_drifts": "parking instead of tracking",
        }
    if what == "frozen":
        always(ReadingMonitor, "_check_still", None)
        return {"encoder_is_frozen_over_a_small_move": "tracking instead of frozen"}
    if what == "stale":
        always(ReadingMonitor, "_check_stale", None)
        return {
            "reading_frozen": "nothing instead of stale",
            "reading_of_the_future": "nothing instead of stale",
            "reads_are_lost_in_a_burst": "nothing instead of stale",
        }
    if what == "workspace of the start":
        always(Workspace, "outside_m", -math.inf)
        return {"start_outside_the_workspace": "a target for an arm that must not move"}
    if what == "workspace on the way":
        always(Workspace, "outside_while_braking_m", -math.inf)
        return {
            "policy_pushes_at_a_wall": "outside the workspace",
            "policy_leans_on_the_table": "outside the workspace",
        }
    if what == "workspace while braking":
        monkeypatch.setattr(Workspace, "outside_while_braking_m", lambda self, target, speed: self.outside_m(target))
        return {"policy_pushes_at_a_wall": "outside the workspace"}
    if what == "time at the wall":
        settings_with(wall_s=math.inf)
        return {"policy_leans_on_the_table": "nothing instead of workspace"}
    if what == "following":
        always(TargetLimiter, "_check_following", None)
        return {"recording_too_fast": "nothing instead of speed"}
    if what == "limiter":
        monkeypatch.setattr(targets_module, "limit_target", lambda desired, *_: (list(desired), [0.0] * 3))
        return {"policy_jumps_at_once": "too hard", "nothing_is_wrong": "too hard"}
    if what == "limiter of what is followed":
        monkeypatch.setattr(targets_module, "follow_target", lambda desired, *_: (list(desired), [0.0] * 3))
        return {"recording_too_fast": "too fast"}
    if what == "brake":
        monkeypatch.setattr(TargetLimiter, "brake", lambda self: self.stood_still())
        return {"policy_nan": "too hard", "servo_too_hot": "too hard"}
    if what == "rest after a stall":
        always(TargetLimiter, "stood_still", None)
        return {"process_is_suspended": "too hard"}
    if what == "knowing where the arm is":
        begin = Safety._begin

        def placed(self: Safety, state: JointState, now_s: float, *, parking: bool) -> None:
            begin(self, state, now_s, parking=parking)
            self.placed = True

        monkeypatch.setattr(Safety, "_begin", placed)
        return {
            "first_reading_not_finite": "a target for an arm that must not move",
            "start_far_outside": "a target for an arm that must not move",
        }
    if what == "latch":
        reads = Safety.reads

        def forgetful(self: Safety, state: JointState | None, now_s: float, why: str = "") -> bool:
            self.latch.clear()
            return reads(self, state, now_s, why)

        monkeypatch.setattr(Safety, "reads", forgetful)
        return {"policy_nan": "speeds up after a fault stop"}
    if what == "hold":
        # What a reading shows stops the work before the latch matters; then it is the loop that waits for a person.
        def go_on(self: ControlLoop) -> LoopState:
            self._reset(self.state)
            self.ticker.finish(self.safety.toward(self.safety.target_deg), "hold")
            self.ticker.begin()
            if self.stopped():
                return LoopState.END
            return LoopState.PARK if self._is_parking else LoopState.WORK

        monkeypatch.setattr(ControlLoop, "_hold", go_on)
        return {"servo_too_hot": "speeds up after a fault stop"}
    if what == "parked before torque off":
        always(Parking, "is_at_rest", True)
        return {
            "joint_is_blocked_before_it_is_parked": "torque off, not in the parking pose",
            "joint_is_blocked_near_its_parking_pose": "torque off, not in the parking pose",
        }
    if what == "torque on when parking fails":

        def let_go(self: ControlLoop) -> LoopState:
            self.driver.disable()
            return LoopState.END

        monkeypatch.setattr(ControlLoop, "_hold", let_go)
        return {
            "joint_is_blocked_before_it_is_parked": "torque off, not in the parking pose",
            "policy_nan": "torque off, not in the parking pose",
        }
    if what == "clamping at the end of a joint":
        settings_with(clamp_deg=1e9)
        return {
            "policy_far_outside": "nothing instead of position",
            "start_far_outside": "a target for an arm that must not move",
        }
    raise AssertionError(what)


CHECKS = [
    "finite",
    "range",
    "sane reading",
    "likely reading",
    "place of the start",
    "temperature",
    "voltage",
    "load",
    "alerts",
    "tracking",
    "tip",
    "frozen",
    "stale",
    "workspace of the start",
    "workspace on the way",
    "workspace while braking",
    "time at the wall",
    "following",
    "limiter",
    "limiter of what is followed",
    "brake",
    "rest after a stall",
    "knowing where the arm is",
    "latch",
    "hold",
    "parked before torque off",
    "torque on when parking fails",
    "clamping at the end of a joint",
]


@pytest.mark.parametrize("what", CHECKS)
def test_without_a_check_the_campaign_fails(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Each class that is for it, by itself, and for that reason."""
    for name, words in without(monkeypatch, what).items():
        assert judge_says(words, name, range(40)), name


def judge_says(words: str, name: str, seeds: range) -> bool:
    """Return True if one of the episodes fails with these words."""
    for seed in seeds:
        try:
            live(name, seed)
        except Violation as violation:
            if violation.what == words:
                return True
    return False
