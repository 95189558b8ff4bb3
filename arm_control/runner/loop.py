"""The control loop: the life cycle of a run, from the first reading to the parked arm.

    WORK ──done or stop requested──> PARK ──at rest: torque off──> END
      │ ^                              │ ^
    fault│                           fault│
      v  │ r: reset                    v  │ p, r or stop request: reset
    FAULT ──> HOLD                   FAULT ──> HOLD ──no terminal──> END

Each state is a function that returns the next one. The ticks are in `ticks`, the runner's own motions in `motions`.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from arm_control.drivers.base import Driver, DriverError, JointState, TorqueLeftOnError
from arm_control.runner.clocks import Clock
from arm_control.runner.motions import Parking, Script, ease, hold
from arm_control.runner.report import LoopReport
from arm_control.runner.safety import Safety
from arm_control.runner.ticks import Ticker, TickRecorder


@dataclass(frozen=True)
class LoopSettings:
    """Times of the phases of a run."""

    ease_s: float = 2.0
    """Duration of a soft start; shortest duration of the motion to the parking pose."""
    ease_speed_fraction: float = 0.25
    """Mean speed of the motion to the parking pose, as a fraction of the speed limit."""
    parking_s: float = 3.0
    """Longest time for the arm to come to rest in the parking pose, once the targets are there."""
    lost_s: float = 2.0
    """Communication is lost after this time without a reply."""


class LoopState(Enum):
    """The states of a run."""

    WORK = "work"
    FAULT = "fault"
    HOLD = "hold"
    PARK = "park"
    END = "end"


class PhaseEnd(Enum):
    """The reasons for which a phase ends."""

    DONE = "done"
    STOP_REQUESTED = "stop requested"
    FAULT = "fault"


class ControlLoop:
    """Moves one arm through a run: soft start, work, and parking; or a hold after a fault.

    `work(loop)` yields the targets of the work, which `loop.admit` limits, from the readings `loop.state`. It is called
    again after a reset, to continue with what is left, and begins with a soft start.
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
        """Prepare a run; nothing moves yet.

        `stopped()` is True once a stop is requested. `key()` is the last key pressed since its last call, "" for none;
        `key` is None without a keyboard. Raises ValueError if the driver's joints differ from the arm's, and for a
        parking pose outside limits or workspace.
        """
        arm = safety.arm
        if tuple(driver.joint_names) != arm.joint_names:
            raise ValueError(f"the policy moves joints {arm.joint_names}, the arm has {tuple(driver.joint_names)}")
        self.driver = driver
        self.safety = safety
        self.clock = clock
        self.dry_run = dry_run
        self.stopped = stopped
        self.key = key
        self.say = say
        self.settings = settings
        self.period_s = safety.period_s
        self.torque_on = False  # by this loop; a driver may find the torque on
        self.report = LoopReport(self.period_s)
        self.ticker = Ticker(
            driver, safety, clock, self.report, lost_s=settings.lost_s, dry_run=dry_run, recorder=recorder, say=say
        )
        self.parking = Parking(
            safety,
            self.ticker,
            clock,
            park_deg,
            min_s=settings.ease_s,
            speed_fraction=settings.ease_speed_fraction,
            timeout_s=settings.parking_s,
        )
        self._work: Callable[[ControlLoop], Script] = lambda loop: iter(())
        self._is_parking = False
        self._error: Exception | None = None  # raised by the work; raised again once the arm is parked

    @property
    def state(self) -> JointState:
        """The last plausible reading."""
        return self.ticker.state

    def run(self, work: Callable[["ControlLoop"], Script]) -> LoopReport:
        """Do the work, then park. An error raised by the work parks the arm before it is raised again.

        Raises DriverError if communication is lost; `torque_on` is then True if the torque may be on.
        """
        self._work = work
        self.driver.read()  # raises if the arm does not reply, before the torque is switched on
        if not self.dry_run:
            self._enable()
        begin_s = time.monotonic()
        try:
            self.ticker.start()
            self._run_states()
        finally:
            self.report.loop_s = time.monotonic() - begin_s
            self.report.clamped = dict(self.safety.clamped)
            self.ticker.record_event("end", "parked, torque off" if self.report.parked else "torque left on")
        return self.report

    def _run_states(self) -> None:
        """Run the state machine from WORK to END."""
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
        """Switch the torque on; if that fails, `torque_on` is True if it may be on nevertheless."""
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
        """Send the targets of the work; a failure of the work, or a request to stop, parks the arm."""
        try:
            end = self._play("run", self._work(self))
        except DriverError:
            raise
        except Exception as error:
            self.ticker.record_event("failure", f"the program failed: {error}")
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
        """Report the fault that stopped the arm. A dry run, which sends nothing, ends."""
        fault = self.safety.fault
        assert fault is not None
        self.report.faults.append(fault)
        self.ticker.record_event("refusal", f"{fault.check}: {fault.text}")
        if self.dry_run:
            self.say(f"STOPPED. {fault.check}: {fault.text}")
            return LoopState.END
        self.say(f"STOPPED, and held. {fault.check}: {fault.text}")
        return LoopState.HOLD

    def _hold(self) -> LoopState:
        """Hold the arm where it was stopped, torque on, until a person decides; end if no person can."""
        stopped_before = self.stopped()
        if self.clock.waits and not stopped_before:
            self.say(f"{self._keys()}Ctrl-C or SIGTERM: park")
        self.ticker.waits_for_person = self.key is not None
        for target in hold(self.safety):
            self.ticker.finish(target, "hold")
            self.ticker.begin()
            if self.safety.moving:
                continue
            next_state = self._decision(stopped_before)
            if next_state is not None:
                return next_state
        raise AssertionError("hold() ended")

    def _park(self) -> LoopState:
        """Move to the parking pose, and switch the torque off at rest."""
        if self.dry_run:
            return LoopState.END
        self._is_parking = True
        if self._play("park", self.parking.targets(), stoppable=False) is PhaseEnd.FAULT:
            return LoopState.FAULT
        self.driver.disable()
        self.torque_on = False
        self.report.parked = True
        self.ticker.record_event("driver", "torque off")
        return LoopState.END

    # Decisions of a person during a hold.

    def _keys(self) -> str:
        """The keys that are accepted, as the beginning of a line."""
        if self.key is None:
            return ""
        return "r or p or " if self._is_parking else "r: continue with the rest; p or "

    def _decision(self, stopped_before: bool) -> LoopState | None:
        """The state that a person chooses: r continues the work, p or a request to stop parks; None: no choice yet.

        Without a real-time clock, or if a stop was requested before the hold, the run ends at once.
        """
        pressed = self.key() if self.key is not None else ""
        stop_requested = self.stopped() and not stopped_before
        if pressed in ("p", "r") or stop_requested:
            # The present reading: the last plausible one, before the fault, may be out of date.
            reading = self.ticker.reading or self._reconnect()
            if reading is not None:
                return self._leave_hold(reading, pressed)
            if stop_requested:
                return LoopState.END
        if not self.clock.waits or stopped_before:
            return LoopState.END
        return None

    def _leave_hold(self, reading: JointState, pressed: str) -> LoopState:
        """Reset the fault and continue; a fault while parking can only be followed by parking."""
        if pressed == "r" and not self._is_parking:
            self._reset(reading)
            return LoopState.WORK
        self.report.interrupted = self.stopped()
        self._reset(reading, parking=True)
        return LoopState.PARK

    def _reconnect(self) -> JointState | None:
        """Enable an arm that has stopped by itself, and read it; None if it does not reply."""
        try:
            self.driver.enable()
            reading = self.driver.read()
        except DriverError as error:
            self.say(f"cannot re-enable the arm: {error}")
            return None
        now_s = self.clock.now_s()
        self.ticker.last_reply_s = now_s
        return dataclasses.replace(reading, stamp_s=now_s)

    def _reset(self, reading: JointState, *, parking: bool = False) -> None:
        self.safety.reset(reading, self.clock.now_s(), parking=parking)
        if self.safety.fault is None:
            self.ticker.state = reading

    # Phases. Whenever one begins or ends, a tick has begun and is not finished.

    def _play(self, phase: str, script: Script, *, stoppable: bool = True) -> PhaseEnd:
        """Send the targets of a phase, one per tick, until it is done, stopped, or a fault is latched."""
        ticker = self.ticker
        times_s = ticker.times_s
        latch = self.safety.latch
        ticker.record_event("phase", phase)
        ticker.phase = phase
        ticker.waits_for_person = False
        while True:
            if latch.fault is not None:
                return PhaseEnd.FAULT
            if stoppable and self.stopped():
                return PhaseEnd.STOP_REQUESTED
            # Decide on the target. The limiter, which runs within, has its own time.
            start = time.perf_counter()
            times_s["limit"] = 0.0
            target = next(script, None)
            times_s["decide"] = time.perf_counter() - start - times_s["limit"]
            if target is None:
                return PhaseEnd.DONE
            # Send it, wait for the next tick, and read the arm.
            ticker.finish(target, ticker.phase)
            ticker.begin()

    # Targets for the work.

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
        """The target for the next tick of a command that holds for several; see `TargetLimiter.go_on`."""
        start = time.perf_counter()
        self.ticker.command_deg = list(command_deg)
        target = self.safety.targets.go_on()
        self.ticker.times_s["limit"] = time.perf_counter() - start
        return target

    def ease(self, pose_deg: Sequence[float]) -> Script:
        """Targets of a slow motion from the present target to a pose."""
        settings = self.settings
        return ease(self.safety, pose_deg, min_s=settings.ease_s, speed_fraction=settings.ease_speed_fraction)
