"""The control loop: the life cycle of a run, from the first reading to the parked arm.

    WORK ──done, or asked to stop──> PARK ──at rest: torque off──> END
      │ ^                              │ ^
    fault│                           fault│
      v  │ r: reset                    v  │ p, r or a request to stop: reset
    FAULT ──> HOLD                   FAULT ──> HOLD ──nobody to wait for──> END

Each state is a function that returns the next one. The ticks themselves are in `ticks`.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from arm_control.drivers.base import Driver, DriverError, JointState, TorqueLeftOnError
from arm_control.runner.clocks import Clock
from arm_control.runner.report import LoopReport
from arm_control.runner.safety import Safety
from arm_control.runner.ticks import Ticker, TickRecorder

# Near enough to the parking pose, and to rest, to switch the torque off.
PARKED_DEG = 3.0
PARKED_DEG_S = 5.0


@dataclass(frozen=True)
class LoopSettings:
    """Times of a run's life cycle."""

    ease_s: float = 2.0
    """Least time of a soft start, and of the motion to the parking pose."""
    ease_speed_fraction: float = 0.25
    """Mean speed of the motion to the parking pose, as a fraction of the speed limit."""
    parking_s: float = 3.0
    """Time to get near to the parking pose, once the targets are there."""
    lost_s: float = 2.0
    """An arm that has not answered for so long is lost."""


class LoopState(Enum):
    """The states of a run."""

    WORK = "work"
    FAULT = "fault"
    HOLD = "hold"
    PARK = "park"
    END = "end"


class PhaseEnd(Enum):
    """How the targets of a phase ended."""

    DONE = "done"
    STOP_REQUESTED = "stop requested"
    FAULT = "fault"


Script = Iterator[list[float]]
"""The targets of a phase, one a tick; between two of them the loop has sent one and read the arm."""


class ControlLoop:
    """Moves one arm through a run: soft start, work, and parking; or a hold after a fault.

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
        dry_run: bool = False,
        recorder: TickRecorder | None = None,
        stopped: Callable[[], bool] = lambda: False,
        key: Callable[[], str] | None = None,
        say: Callable[[str], None] = lambda text: None,
        settings: LoopSettings = LoopSettings(),
    ) -> None:
        """Nothing moves yet. `key()` is the last key pressed since, "" for none; None where there is no keyboard.

        Raises ValueError if the driver's joints are not the arm's, or the parking pose is outside limits or workspace.
        """
        arm = safety.arm
        if tuple(driver.joint_names) != arm.joint_names:
            raise ValueError(f"the policy moves joints {arm.joint_names}, the arm has {tuple(driver.joint_names)}")
        self.park_deg = parking_pose(safety, park_deg)
        self.driver = driver
        self.safety = safety
        self.clock = clock
        self.dry_run = dry_run
        self.stopped = stopped
        self.key = key
        self.say = say
        self.settings = settings
        self.period_s = safety.period_s
        self.torque_on = False  # as far as this loop has switched it
        self.report = LoopReport(self.period_s)
        self.ticker = Ticker(
            driver,
            safety,
            clock,
            self.report,
            lost_s=settings.lost_s,
            dry_run=dry_run,
            recorder=recorder,
            say=say,
        )
        self._work: Callable[[ControlLoop], Script] = lambda loop: iter(())
        self._is_parking = False
        self._error: Exception | None = None  # of the work, to be raised at the end

    @property
    def state(self) -> JointState:
        """The last reading that tells where the arm is."""
        return self.ticker.state

    def run(self, work: Callable[["ControlLoop"], Script]) -> LoopReport:
        """Do the work, then park. An error on the way parks the arm before it is raised.

        Raises DriverError for an arm that stopped answering: `torque_on` says whether its torque may then be on.
        """
        self._work = work
        self.driver.read()  # an arm that does not answer is not switched on
        if not self.dry_run:
            self._enable()
        begin_s = time.monotonic()
        try:
            self.ticker.start()
            self._run_states()
        finally:
            self.report.loop_s = time.monotonic() - begin_s
            self.report.clamped = dict(self.safety.clamped)
            self.ticker.tell("end", "parked, torque off" if self.report.parked else "torque left on")
        return self.report

    def _run_states(self) -> None:
        functions = {
            LoopState.WORK: self._do_work,
            LoopState.FAULT: self._report_fault,
            LoopState.HOLD: self._hold,
            LoopState.PARK: self._park,
        }
        state = LoopState.WORK
        while state is not LoopState.END:
            state = functions[state]()
        if self._error is not None:
            raise self._error

    def _enable(self) -> None:
        self.torque_on = True
        try:
            self.driver.enable()
        except TorqueLeftOnError:
            raise
        except DriverError:
            self.torque_on = False
            raise

    # States.

    def _do_work(self) -> LoopState:
        """Play the targets of the work; a program that fails, or a request to stop, parks the arm."""
        try:
            end = self._play("run", self._work(self))
        except DriverError:
            raise
        except Exception as error:
            self.ticker.tell("failure", f"the program failed: {error}")
            self._error = error
            return LoopState.PARK
        if end is PhaseEnd.FAULT:
            return LoopState.FAULT
        if end is PhaseEnd.STOP_REQUESTED:
            self.report.interrupted = True
            if not self.dry_run:
                self.say("parking; a second request exits at once, without parking")
        return LoopState.PARK

    def _report_fault(self) -> LoopState:
        """Report the fault that stopped the arm; where nothing was sent, nothing is held."""
        fault = self.safety.fault
        assert fault is not None
        self.report.faults.append(fault)
        self.ticker.tell("refusal", f"{fault.check}: {fault.text}")
        if self.dry_run:
            self.say(f"STOPPED. {fault.check}: {fault.text}")
            return LoopState.END
        self.say(f"STOPPED, and held. {fault.check}: {fault.text}")
        return LoopState.HOLD

    def _hold(self) -> LoopState:
        """Stay where the arm was stopped, torque on, until a person decides; end where nobody can be asked."""
        asked_before = self.stopped()
        if self.clock.waits and not asked_before:
            self.say(f"{self._keys()}Ctrl-C or SIGTERM: park")
        self.ticker.waits_for_person = self.key is not None
        for target in self.rest():
            self.ticker.finish(target, "hold")
            self.ticker.begin()
            if self.safety.moving:
                continue
            next_state = self._decision(asked_before)
            if next_state is not None:
                return next_state
        raise AssertionError("a rest has no end")

    def _park(self) -> LoopState:
        """Move to the parking pose and switch the torque off at rest."""
        if self.dry_run:
            return LoopState.END
        self._is_parking = True
        if self._play("park", self._motion_to_rest(), stoppable=False) is PhaseEnd.FAULT:
            return LoopState.FAULT
        self.driver.disable()
        self.torque_on = False
        self.report.parked = True
        self.ticker.tell("driver", "torque off")
        return LoopState.END

    # Decisions of a person in a hold.

    def _keys(self) -> str:
        """The keys that a person may press, as the beginning of a line."""
        if self.key is None:
            return ""
        return "r or p or " if self._is_parking else "r: go on with what is left; p or "

    def _decision(self, asked_before: bool) -> LoopState | None:
        """The state that a person chooses: r goes on with the work, p or a request to stop parks; None: not yet.

        The hold ends where nobody can be waited for, or where the arm was being parked on request.
        """
        pressed = self.key() if self.key is not None else ""
        asked = self.stopped() and not asked_before
        if pressed in ("p", "r") or asked:
            # A fresh reading: the last good one before a fault does not tell where the arm is now.
            reading = self.ticker.reading or self._wake()
            if reading is not None:
                return self._leave_hold(reading, pressed)
            if asked:
                return LoopState.END
        if not self.clock.waits or asked_before:
            return LoopState.END
        return None

    def _leave_hold(self, reading: JointState, pressed: str) -> LoopState:
        if pressed == "r" and not self._is_parking:
            self._reset(reading)
            return LoopState.WORK
        self.report.interrupted = self.stopped()
        self._reset(reading, parking=True)
        return LoopState.PARK

    def _wake(self) -> JointState | None:
        """The reading of an arm that has stopped by itself, after it was switched on again; None without an answer."""
        try:
            self.driver.enable()
            reading = self.driver.read()
        except DriverError as error:
            self.say(f"it does not answer: {error}")
            return None
        now_s = self.clock.now_s()
        self.ticker.answered_s = now_s
        return dataclasses.replace(reading, stamp_s=now_s)

    def _reset(self, reading: JointState, *, parking: bool = False) -> None:
        self.safety.reset(reading, self.clock.now_s(), parking=parking)
        if self.safety.fault is None:
            self.ticker.state = reading

    # Phases: a tick has begun, and is not finished, whenever one begins or ends.

    def _play(self, phase: str, script: Script, *, stoppable: bool = True) -> PhaseEnd:
        """Send the targets of a phase, one a tick."""
        ticker = self.ticker
        times_s = ticker.times_s
        latch = self.safety.latch
        ticker.tell("phase", phase)
        ticker.phase = phase
        ticker.waits_for_person = False
        while True:
            if latch.fault is not None:
                return PhaseEnd.FAULT
            if stoppable and self.stopped():
                return PhaseEnd.STOP_REQUESTED
            start = time.perf_counter()
            times_s["limit"] = 0.0
            target = next(script, None)
            times_s["decide"] = time.perf_counter() - start - times_s["limit"]
            if target is None:
                return PhaseEnd.DONE
            ticker.finish(target, ticker.phase)
            ticker.begin()

    # Targets, for the work and for parking.

    def admit(
        self, command_deg: Sequence[float], *, blend: float = 1.0, follow: bool = False, ticks: int = 1
    ) -> list[float]:
        """The target to send for a command of the policy; see `TargetLimiter.admit`."""
        start = time.perf_counter()
        self.ticker.command_deg = list(command_deg)
        target = self.safety.targets.admit(command_deg, blend=blend, follow=follow, ticks=ticks)
        self.ticker.times_s["limit"] = time.perf_counter() - start
        return target

    def go_on(self, command_deg: Sequence[float]) -> list[float]:
        """The target to send in the next tick of a command that holds for several; see `TargetLimiter.go_on`."""
        start = time.perf_counter()
        self.ticker.command_deg = list(command_deg)
        target = self.safety.targets.go_on()
        self.ticker.times_s["limit"] = time.perf_counter() - start
        return target

    def ease(self, pose_deg: Sequence[float]) -> Script:
        """Targets of a slow motion to a pose, from where the targets are."""
        start_deg = list(self.safety.target_deg)
        speeds_deg_s = self.safety.limits.max_speed_deg_s
        gaps_deg = [abs(there - here) for here, there in zip(start_deg, pose_deg, strict=True)]
        fastest_s = max(gap / speed for gap, speed in zip(gaps_deg, speeds_deg_s, strict=True))
        length_s = max(self.settings.ease_s, fastest_s / self.settings.ease_speed_fraction)
        ticks = math.ceil(length_s / self.period_s)
        for tick in range(1, ticks + 1):
            fraction = smooth(tick / ticks)
            pairs = zip(start_deg, pose_deg, strict=True)
            yield self.safety.toward([here + fraction * (there - here) for here, there in pairs])
        while self.safety.moving:
            yield self.safety.toward(pose_deg)

    def rest(self) -> Script:
        """Targets that come to rest where they are."""
        while True:
            yield self.safety.toward(self.safety.target_deg)

    def _motion_to_rest(self) -> Script:
        """Targets to the parking pose, until the arm rests there; a fault if it does not."""
        yield from self.ease(self.park_deg)
        end_s = self.clock.now_s() + self.settings.parking_s
        while not self._is_at_rest():
            if self.clock.now_s() > end_s:
                self.safety.fault_stop("parking", self._parking_fault())
            yield self.safety.toward(self.park_deg)

    def _parking_fault(self) -> str:
        angles_deg = [round(angle, 1) for angle in self.state.angles_deg]
        park_deg = [round(angle, 1) for angle in self.park_deg]
        cause = ", ".join(self.state.alerts) or "is something in its way?"
        return f"the arm is at {angles_deg} degrees, not in its parking pose {park_deg}: {cause}"

    def _is_at_rest(self) -> bool:
        """Whether the arm is in its parking pose and does not move."""
        pairs = zip(self.state.angles_deg, self.park_deg, strict=True)
        near = all(abs(angle - park) <= PARKED_DEG for angle, park in pairs)
        return near and all(abs(speed) <= PARKED_DEG_S for speed in self.state.speeds_deg_s)


def parking_pose(safety: Safety, park_deg: Sequence[float] | None) -> list[float]:
    """The pose to park in, by default that of the workspace. Raises ValueError for one outside limits or workspace."""
    pose_deg = safety.workspace.default_pose_deg() if park_deg is None else list(park_deg)
    limits = safety.limits
    if len(pose_deg) != safety.arm.joint_count or pose_deg != limits.clip(pose_deg):
        ranges = ", ".join(f"{low:g} to {high:g}" for low, high, _, _ in limits.by_joint)
        raise ValueError(f"parking pose: expected an angle for each joint, {ranges} degrees, got {pose_deg}")
    safety.workspace.check_pose(pose_deg, f"the parking pose {pose_deg}", "--park names another pose")
    return pose_deg


def smooth(x: float) -> float:
    """From 0 to 1 with rest at both ends (3 x^2 - 2 x^3)."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)
