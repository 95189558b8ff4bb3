"""The control loop: read, judge, decide, write, once a period; and the arm's life from its first reading to its rest.

A tick is due a period after the one before was due, on the monotonic clock, so that small delays do not add up. One
that begins more than a fifth of a period late counts as late, and the later ones are due that much later too: targets
are made for a whole period, and sending them faster to catch up would exceed the speed that they were made for.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from arm_control.drivers.base import Driver, DriverError, JointState, TorqueLeftOnError
from arm_control.recording.schema import Event, Tick
from arm_control.runner.rest import Rest, joint_rest
from arm_control.runner.safety import Refusal, Safety
from arm_control.runner.timings import Timings

if TYPE_CHECKING:
    from arm_control.recording.recorder import Recorder

LATE_SHARE = 0.2  # of a period
EASE_S = 2.0  # least time of a soft start, and of the way to the parking pose
EASE_SPEED_SHARE = 0.25  # of the speed limit, on average on such a way
PARKED_DEG, PARKED_DEG_S = 3.0, 5.0  # near enough to the parking pose, and to rest, to switch the torque off
PARKING_TIME_S = 3.0  # to get that near, once the targets are there
LOST_S = 2.0  # an arm that has not answered for so long is lost
PHASES = ("read", "check", "decide", "limit", "write", "record")


class Clock(Protocol):
    """What a loop goes by."""

    waits: bool
    """Whether a person can be waited for: not where no time passes."""

    def now_s(self) -> float:
        """The time in s."""

    def wait_until(self, due_s: float) -> None:
        """Return when it is due; at once if it was."""


class RealTime:
    """The monotonic clock."""

    waits = True

    def now_s(self) -> float:
        """The monotonic time in s."""
        return time.monotonic()

    def wait_until(self, due_s: float) -> None:
        """Sleep."""
        if (left_s := due_s - time.monotonic()) > 0.0:
            time.sleep(left_s)


class FastTime:
    """A clock of its own that jumps to whatever is due: a simulated arm needs nobody to wait."""

    waits = False

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        """The simulated time in s."""
        return self._now_s

    def wait_until(self, due_s: float) -> None:
        """Jump."""
        self._now_s = max(self._now_s, due_s)


@dataclass(frozen=True)
class GoalResult:
    """How near the tip came to one goal, and when it was within the tolerance for good (None: it was not).

    The error is that at the end or, for a goal on a `path`, the RMS once the arm has settled.
    """

    goal_m: tuple[float, ...]  # at the end
    path: str | None
    error_mm: float
    time_to_reach_s: float | None
    rest: Rest | None = None  # of a goal that stays, by the sent targets and the measured angles


@dataclass
class LoopReport:
    """What a loop did."""

    period_s: float
    goals: list[GoalResult] = field(default_factory=list)
    ticks: int = 0
    late_ticks: int = 0
    shifted_s: float = 0.0  # by how much late ticks have put off those after them
    lost_replies: int = 0  # readings and targets that did not get through
    loop_s: float = 0.0
    timings: dict[str, Timings] = field(
        default_factory=lambda: {name: Timings() for name in (*PHASES, "tick", "period error")}
    )
    clamped: dict[str, int] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    parked: bool = False
    interrupted: bool = False

    @property
    def rest(self) -> Rest | None:
        """The figures of rest over all goals; None if no goal has any."""
        return joint_rest([goal.rest for goal in self.goals if goal.rest is not None])

    def figures(self) -> dict[str, Any]:
        """The same as plain values."""
        rest = self.rest
        return {
            "goals": [
                {
                    "goal_m": goal.goal_m,
                    **({} if goal.path is None else {"path": goal.path}),
                    "error_mm": goal.error_mm,
                    "time_to_reach_s": goal.time_to_reach_s,
                    "rest": None if goal.rest is None else dataclasses.asdict(goal.rest),
                }
                for goal in self.goals
            ],
            "mean_error_mm": sum(goal.error_mm for goal in self.goals) / len(self.goals) if self.goals else None,
            "rest": None if rest is None else dataclasses.asdict(rest),
            "ticks": self.ticks,
            "late_ticks": self.late_ticks,
            "shifted_s": self.shifted_s,
            "lost_replies": self.lost_replies,
            "wanted_rate_hz": 1.0 / self.period_s,
            "rate_hz": self.ticks / self.loop_s if self.loop_s else None,
            "timings_us": {name: timings.figures_us() for name, timings in self.timings.items()}
            if self.ticks
            else None,
            "clamped": self.clamped,
            "refusals": [{"check": refusal.check, "text": refusal.text} for refusal in self.refusals],
            "parked": self.parked,
            "interrupted": self.interrupted,
        }


class End(Enum):
    """How a phase ended."""

    DONE = "done"
    ASKED = "asked to stop"
    REFUSED = "refused"


Script = Iterator[list[float]]
"""The targets of a phase, one a tick; between two of them the loop has sent one and read the arm."""


class ControlLoop:
    """Moves one arm through its life: soft start, work, and rest; or a hold, if something is refused.

    `work(loop)` gives the targets of the work itself, made by `loop.admit` from what `loop.state` reads. It is called
    again after a reset, to go on with what is left, and is expected to begin softly.
    """

    def __init__(
        self,
        driver: Driver,
        safety: Safety,
        clock: Clock,
        *,
        park_deg: Sequence[float] | None = None,
        shadow: bool = False,
        recorder: "Recorder | None" = None,
        stopped: Callable[[], bool] = lambda: False,
        key: Callable[[], str] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Nothing moves yet. `key()` is what was pressed since, "" for nothing; None where there is no keyboard.

        Raises ValueError if the driver's joints are not the arm's, or the parking pose is outside limits or workspace.
        """
        arm = safety.arm
        if tuple(driver.joint_names) != arm.joint_names:
            raise ValueError(f"the policy moves joints {arm.joint_names}, the arm has {tuple(driver.joint_names)}")
        limits = safety.limits
        self.park_deg = safety.default_pose_deg() if park_deg is None else list(park_deg)
        if len(self.park_deg) != arm.joint_count or self.park_deg != limits.clip(self.park_deg):
            ranges = ", ".join(f"{low:g} to {high:g}" for low, high, _, _ in limits.by_joint)
            raise ValueError(f"parking pose: wanted an angle for each joint, {ranges} degrees, got {self.park_deg}")
        safety.check_pose(self.park_deg, f"the parking pose {self.park_deg}", "--park names another pose")
        self.driver, self.safety, self.clock = driver, safety, clock
        self.shadow, self.recorder, self.stopped, self.key, self.say = shadow, recorder, stopped, key, say
        self.period_s = safety.period_s
        self.torque_on = False  # as far as this loop has switched it
        self.report = LoopReport(self.period_s)
        self.state = JointState(0.0, list(safety.target_deg), [0.0] * arm.joint_count)
        self.phase = "start"
        self.goal_m: tuple[float, ...] | None = None
        self.goal_error_mm: float | None = None
        """Of the goal whose time is over with this tick's reading, to be recorded with it."""
        self._answer_deg: list[float] | None = None
        self._answered_s: float | None = None  # when the arm last did
        self._due_s = 0.0
        self._began_s = clock.now_s()
        self._held = False
        self._times = dict.fromkeys(PHASES, 0.0)
        self._timings = [self.report.timings[name] for name in PHASES]

    def run(self, work: Callable[["ControlLoop"], Script]) -> LoopReport:
        """Do the work, then park. An error on the way parks the arm before it is raised.

        Raises DriverError for an arm that stopped answering: `torque_on` says whether its torque may then be on.
        """
        self.driver.read()  # an arm that does not answer is not switched on
        if not self.shadow:
            self._enable()
        begin_s = time.monotonic()
        try:
            self.state = self.driver.read()
            self._due_s = self._answered_s = self.clock.now_s()
            self.safety.start(self.state, self._answered_s)
            self._begin_tick()
            self._live(work)
        finally:
            self.report.loop_s = time.monotonic() - begin_s
            self.report.clamped = dict(self.safety.clamped)
            self.tell("end", "parked, torque off" if self.report.parked else "torque left on")
        return self.report

    def _enable(self) -> None:
        self.torque_on = True
        try:
            self.driver.enable()
        except TorqueLeftOnError:
            raise
        except DriverError:
            self.torque_on = False
            raise

    def _live(self, work: Callable[["ControlLoop"], Script]) -> None:
        while True:
            try:
                end = self._play("run", work(self))
            except DriverError:
                raise
            except Exception as error:
                self.tell("failure", f"the program failed: {error}")
                self._end_orderly()
                raise
            if end is End.REFUSED and self._hold():
                continue
            if end is not End.REFUSED:
                if end is End.ASKED:
                    self.report.interrupted = True
                    if not self.shadow:
                        self.say("parking; to ask again leaves the arm as it is then")
                self._end_orderly()
            return

    def admit(
        self, answer_deg: Sequence[float], *, share: float = 1.0, follow: bool = False, ticks: int = 1
    ) -> list[float]:
        """The target to send for an answer of the policy; see `Safety.admit`."""
        start = time.perf_counter()
        self._answer_deg = list(answer_deg)
        target = self.safety.admit(answer_deg, share=share, follow=follow, ticks=ticks)
        self._times["limit"] = time.perf_counter() - start
        return target

    def go_on(self, answer_deg: Sequence[float]) -> list[float]:
        """The target to send in the next tick of an answer that holds for several; see `Safety.go_on`."""
        start = time.perf_counter()
        self._answer_deg = list(answer_deg)
        target = self.safety.go_on()
        self._times["limit"] = time.perf_counter() - start
        return target

    def ease(self, pose_deg: Sequence[float]) -> Script:
        """Targets of a slow way to a pose, from where the targets are."""
        start_deg, limits = list(self.safety.target_deg), self.safety.limits
        gaps = [abs(there - here) for here, there in zip(start_deg, pose_deg, strict=True)]
        slowest_s = max(gap / speed for gap, speed in zip(gaps, limits.max_speed_deg_s, strict=True)) / EASE_SPEED_SHARE
        ticks = math.ceil(max(EASE_S, slowest_s) / self.period_s)
        for tick in range(1, ticks + 1):
            share = smooth(tick / ticks)
            yield self.safety.toward([a + share * (b - a) for a, b in zip(start_deg, pose_deg, strict=True)])
        while self.safety.moving:
            yield self.safety.toward(pose_deg)

    def rest(self) -> Script:
        """Targets that come to rest where they are."""
        while True:
            yield self.safety.toward(self.safety.target_deg)

    # Ends.

    def _end_orderly(self) -> None:
        """Park and switch the torque off; if that is refused, hold."""
        if self.shadow:
            return
        while not self._park():
            if not self._hold(parking=True):
                return

    def _park(self) -> bool:
        """Whether the arm is in its parking pose, at rest, with its torque off."""
        if self._play("park", self._way_to_rest(), stoppable=False) is End.REFUSED:
            return False
        self.driver.disable()
        self.torque_on = False
        self.report.parked = True
        self.tell("driver", "torque off")
        return True

    def _way_to_rest(self) -> Script:
        yield from self.ease(self.park_deg)
        end_s = self.clock.now_s() + PARKING_TIME_S
        while not self._is_at_rest():
            if self.clock.now_s() > end_s:
                self.safety.refuse(
                    "parking",
                    f"the arm is at {[round(angle, 1) for angle in self.state.angles_deg]} degrees, not in its parking "
                    f"pose {[round(angle, 1) for angle in self.park_deg]}: "
                    f"{', '.join(self.state.alerts) or 'is something in its way?'}",
                )
            yield self.safety.toward(self.park_deg)

    def _is_at_rest(self) -> bool:
        near = all(
            abs(angle - park) <= PARKED_DEG for angle, park in zip(self.state.angles_deg, self.park_deg, strict=True)
        )
        return near and all(abs(speed) <= PARKED_DEG_S for speed in self.state.speeds_deg_s)

    def _hold(self, parking: bool = False) -> bool:
        """Stay where the arm was stopped, torque on, until a person decides. Returns whether to go on as before.

        R resets and goes on with what is left; P, or a request to stop, parks: that ends the hold in False, as
        does a second refusal where nobody can be asked, and any where the arm is only watched.
        """
        refusal = self.safety.refusal
        assert refusal is not None
        self.report.refusals.append(refusal)
        self.tell("refusal", f"{refusal.check}: {refusal.text}")
        if self.shadow:  # nothing is held
            self.say(f"STOPPED. {refusal.check}: {refusal.text}")
            return False
        self.say(f"STOPPED, and held. {refusal.check}: {refusal.text}")
        asked_before = self.stopped()
        if self.clock.waits and not asked_before:
            keys = ("r or p or " if parking else "r: go on with what is left; p or ") if self.key is not None else ""
            self.say(f"{keys}Ctrl-C or SIGTERM: park")
        self._held = True
        for target in self.rest():
            self._finish_tick(target, "hold")
            self._begin_tick()
            if self.safety.moving:
                continue
            pressed = self.key() if self.key is not None else ""
            asked = self.stopped() and not asked_before
            if pressed in ("p", "r") or asked:
                # What the arm says now, which the last good reading before a fault is not.
                state = self._read or self._wake()
                if state is None and asked:
                    return False
                if state is not None and pressed == "r" and not parking:
                    self._reset(state)
                    return True
                if state is not None:
                    self.report.interrupted = self.stopped()
                    self._reset(state, parking=True)
                    if self._park():
                        return False
                    return self._hold(parking=True)
            if not self.clock.waits or asked_before:
                return False
        raise AssertionError("a rest has no end")

    def _wake(self) -> JointState | None:
        """What an arm reads that has stopped by itself, after it was switched on again; None if it does not answer."""
        try:
            self.driver.enable()
            state = self.driver.read()
        except DriverError as error:
            self.say(f"it does not answer: {error}")
            return None
        self._answered_s = self.clock.now_s()
        return dataclasses.replace(state, stamp_s=self._answered_s)

    def _reset(self, state: JointState, *, parking: bool = False) -> None:
        self.safety.reset(state, self.clock.now_s(), parking=parking)
        if self.safety.refusal is None:
            self.state = state

    # Ticks: one has begun, and is not finished, whenever a phase begins or ends.

    def _play(self, phase: str, script: Script, *, stoppable: bool = True) -> End:
        """Send the targets of a phase, one a tick."""
        self.tell("phase", phase)
        self.phase, self._held = phase, False
        while True:
            if self.safety.refusal is not None:
                return End.REFUSED
            if stoppable and self.stopped():
                return End.ASKED
            start = time.perf_counter()
            self._times["limit"] = 0.0
            target = next(script, None)
            self._times["decide"] = time.perf_counter() - start - self._times["limit"]
            if target is None:
                return End.DONE
            self._finish_tick(target, self.phase)
            self._begin_tick()

    def _begin_tick(self) -> None:
        """Wait until the tick is due, read the arm and judge what it says."""
        self.clock.wait_until(self._due_s)
        now_s = self.clock.now_s()
        self._began, self._began_s = time.perf_counter(), now_s
        self._late_s = late_s = now_s - self._due_s
        if late_s > LATE_SHARE * self.period_s:
            self.report.late_ticks += 1
            self.report.shifted_s += late_s
            self._due_s = now_s
        if late_s > self.safety.settings.stale_s:
            self.safety.stood_still()
        self._due_s += self.period_s
        state = None
        why = f"this program was held up for {1000 * late_s:.0f} ms" if late_s > self.safety.settings.stale_s else ""
        try:
            state = self.driver.read()
        except DriverError as error:
            why = f"{why}; {error}" if why else str(error)
            self._lose(error)
        read = time.perf_counter()
        if state is not None:
            self._answered_s = now_s
        if self.safety.reads(state, self.clock.now_s(), why):
            assert state is not None
            self.state = state
        self._read = state
        self._times["read"], self._times["check"] = read - self._began, time.perf_counter() - read

    def _finish_tick(self, target_deg: list[float], phase: str) -> None:
        """Send the target, and note what this tick was."""
        start = time.perf_counter()
        # Where nobody knows where the arm is, no target is right; its torque holds it as it was switched on.
        sent = not self.shadow and self.safety.placed
        if sent:
            try:
                self.driver.write(target_deg)
            except DriverError as error:
                self.safety.target_lost()
                self._lose(error)
        end = time.perf_counter()
        times, report = self._times, self.report
        times["write"] = end - start
        if self.recorder is not None:
            self._record(target_deg if sent else None, phase)
            times["record"] = time.perf_counter() - end
        for timings, taken in zip(self._timings, times.values(), strict=True):
            timings.add(taken)
        report.timings["tick"].add(time.perf_counter() - self._began)
        report.timings["period error"].add(abs(self._late_s))
        report.ticks += 1
        if self.shadow and self._answer_deg is not None and report.ticks % round(1.0 / self.period_s) == 0:
            self.say(f"  reads {_angles(self.state.angles_deg)}, would send {_angles(target_deg)} degrees")
        self._answer_deg = None
        self.goal_error_mm = None

    def _record(self, target_deg: list[float] | None, phase: str) -> None:
        state, times, count = self._read, self._times, self.safety.arm.joint_count
        assert self.recorder is not None
        self.recorder.tick(
            Tick(
                time_s=self._began_s,
                phase=phase,
                goal_m=self.goal_m,
                goal_error_mm=self.goal_error_mm,
                stamp_s=None if state is None else state.stamp_s,
                angle_deg=None if state is None else _whole(state.angles_deg, count),
                speed_deg_s=None if state is None else _whole(state.speeds_deg_s, count),
                temperature_c=None if state is None else _whole(state.temperatures_c, count),
                load=None if state is None else _whole(state.loads, count),
                voltage_v=None if state is None else _whole(state.voltages_v, count),
                raw_deg=_whole(self._answer_deg, count),
                target_deg=target_deg,
                band=self.safety.band,
                period_error_us=1e6 * self._late_s,
                read_us=1e6 * times["read"],
                decide_us=1e6 * times["decide"],
                safety_us=1e6 * (times["check"] + times["limit"]),
                write_us=1e6 * times["write"],
            )
        )

    def tell(self, kind: str, text: str) -> None:
        """Record that something happened, at the time of the tick in which it did."""
        if self.recorder is not None:
            self.recorder.event(Event(self._began_s, kind, text))

    def _lose(self, error: DriverError) -> None:
        """A reply that did not come. Raises the error of an arm that has not answered for long: nothing can be sent.

        Where a person can be asked it is held until they decide: it may have stopped by itself.
        """
        self.report.lost_replies += 1
        lost = self._answered_s is None or self.clock.now_s() - self._answered_s > LOST_S
        if lost and not (self._held and self.key is not None):
            self.safety.refuse("lost", str(error))
            self.report.refusals.append(Refusal("lost", str(error)))
            self.tell("refusal", f"lost: {error}")
            self.say(f"lost communication for {LOST_S:g} s: giving up. {error}")
            raise error


def _whole(values: list[float] | None, count: int) -> list[float] | None:
    """What has as many numbers as there are joints: a recording takes nothing else, and is to have the tick."""
    return values if values is not None and len(values) == count else None


def _angles(angles_deg: Sequence[float]) -> str:
    return " ".join(f"{angle:.1f}" for angle in angles_deg)


def smooth(share: float) -> float:
    """From 0 to 1 with rest at both ends (3 x^2 - 2 x^3)."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3.0 - 2.0 * share)
