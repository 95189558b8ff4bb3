"""The ticks of a control loop: wait until one is due, read and check; then send the target and record the tick.

A tick is due one period after the previous one was due, on the monotonic clock, so that small delays do not add up. A
tick that begins more than a fifth of a period late is an overrun, and delays all later ticks by as much: targets are
made for a whole period, and sending them faster to catch up would exceed the speed that they were made for.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from arm_control.drivers.base import Driver, DriverError, JointState
from arm_control.recording.schema import Event, Tick
from arm_control.runner.clocks import Clock
from arm_control.runner.report import PARTS, LoopReport
from arm_control.runner.safety import Fault, Safety

OVERRUN_FRACTION = 0.2  # of a period


class TickRecorder(Protocol):
    """The interface of `arm_control.recording.recorder.Recorder`."""

    def tick(self, tick: Tick) -> None:
        """Record a tick."""

    def event(self, event: Event) -> None:
        """Record an event."""


class Ticker:
    """Runs the two halves of a tick, `begin` and `finish`; the target is decided between them.

    `phase`, `goal_m` (in the base frame), `goal_error_mm` and `command_deg` are recorded with the tick.
    """

    def __init__(
        self,
        driver: Driver,
        safety: Safety,
        clock: Clock,
        report: LoopReport,
        *,
        lost_s: float,
        dry_run: bool,
        recorder: TickRecorder | None,
        say: Callable[[str], None],
    ) -> None:
        self.driver = driver
        self.safety = safety
        self.clock = clock
        self.report = report
        self.lost_s = lost_s
        self.dry_run = dry_run
        self.recorder = recorder
        self.say = say
        self.period_s = safety.period_s
        self.state = JointState(0.0, list(safety.target_deg), [0.0] * safety.arm.joint_count)
        """The last plausible reading."""
        self.reading: JointState | None = None
        """The reading of the present tick; None if there is none."""
        self.last_reply_s: float | None = None
        """The time of the last reply."""
        self.phase = "start"
        self.goal_m: tuple[float, ...] | None = None
        self.goal_error_mm: float | None = None
        """The error of the goal whose time ends with this tick's reading."""
        self.command_deg: list[float] | None = None
        self.waits_for_person = False
        """True if a person, not a timeout, decides about an arm that does not reply."""
        self.times_s = dict.fromkeys(PARTS, 0.0)
        self._timings = [report.timings[name] for name in PARTS]
        self._due_s = 0.0
        self._late_s = 0.0
        self._began_s = clock.now_s()
        self._began = 0.0

    def start(self) -> None:
        """Read the arm, start the safety checks at its pose, and begin the first tick."""
        self.state = self.driver.read()
        now_s = self.clock.now_s()
        self._due_s = now_s
        self.last_reply_s = now_s
        self.safety.start(self.state, now_s)
        self.begin()

    def begin(self) -> None:
        """Wait until the tick is due, read the arm and check the reading."""
        self.clock.wait_until(self._due_s)
        now_s = self.clock.now_s()
        self._began = time.perf_counter()
        self._began_s = now_s
        late_s = now_s - self._due_s
        self._late_s = late_s
        # An overrun delays all later ticks.
        if late_s > OVERRUN_FRACTION * self.period_s:
            self.report.overruns += 1
            self.report.shifted_s += late_s
            self._due_s = now_s
        self._due_s += self.period_s
        # After a long pause the arm has come to rest at its last target.
        why = ""
        if late_s > self.safety.settings.stale_s:
            self.safety.stood_still()
            why = f"the runner was suspended for {1000 * late_s:.0f} ms"
        # Read the arm.
        reading = None
        try:
            reading = self.driver.read()
            self.last_reply_s = now_s
        except DriverError as error:
            why = f"{why}; {error}" if why else str(error)
            self._count_lost_reply(error)
        read = time.perf_counter()
        # Check the reading.
        if self.safety.reads(reading, self.clock.now_s(), why):
            assert reading is not None
            self.state = reading
        self.reading = reading
        self.times_s["read"] = read - self._began
        self.times_s["check"] = time.perf_counter() - read

    def finish(self, target_deg: list[float], phase: str) -> None:
        """Send the target, and record the tick."""
        # Send. Without a valid reading no target is right: the torque then holds the pose in which it was switched on.
        start = time.perf_counter()
        sent = not self.dry_run and self.safety.placed
        if sent:
            try:
                self.driver.write(target_deg)
            except DriverError as error:
                self.safety.target_lost()
                self._count_lost_reply(error)
        end = time.perf_counter()
        times_s = self.times_s
        times_s["write"] = end - start
        # Record.
        if self.recorder is not None:
            self.recorder.tick(self._tick(target_deg if sent else None, phase))
            times_s["record"] = time.perf_counter() - end
        # Count, in seconds.
        report = self.report
        for timings, taken_s in zip(self._timings, times_s.values(), strict=True):
            timings.add(taken_s)
        report.timings["tick"].add(time.perf_counter() - self._began)
        report.timings["period error"].add(abs(self._late_s))
        report.ticks += 1
        if self.dry_run:
            self._show(target_deg)
        self.command_deg = None
        self.goal_error_mm = None

    def _show(self, target_deg: list[float]) -> None:
        """Print, once per second, the target that is not sent."""
        if self.command_deg is not None and self.report.ticks % round(1.0 / self.period_s) == 0:
            self.say(f"  reads {_angles(self.state.angles_deg)}, would send {_angles(target_deg)} degrees")

    def _tick(self, target_deg: list[float] | None, phase: str) -> Tick:
        """The tick as it is recorded."""
        reading = self.reading
        times_s = self.times_s
        count = self.safety.arm.joint_count
        return Tick(
            time_s=self._began_s,
            phase=phase,
            goal_m=self.goal_m,
            goal_error_mm=self.goal_error_mm,
            stamp_s=None if reading is None else reading.stamp_s,
            angle_deg=None if reading is None else _whole(reading.angles_deg, count),
            speed_deg_s=None if reading is None else _whole(reading.speeds_deg_s, count),
            temperature_c=None if reading is None else _whole(reading.temperatures_c, count),
            load=None if reading is None else _whole(reading.loads, count),
            voltage_v=None if reading is None else _whole(reading.voltages_v, count),
            raw_deg=_whole(self.command_deg, count),
            target_deg=target_deg,
            band=self.safety.level.value,
            period_error_us=1e6 * self._late_s,
            read_us=1e6 * times_s["read"],
            decide_us=1e6 * times_s["decide"],
            safety_us=1e6 * (times_s["check"] + times_s["limit"]),
            write_us=1e6 * times_s["write"],
        )

    def record_event(self, kind: str, text: str) -> None:
        """Record an event, at the time of the present tick."""
        if self.recorder is not None:
            self.recorder.event(Event(self._began_s, kind, text))

    def _count_lost_reply(self, error: DriverError) -> None:
        """Count a lost reply. Raises the error once communication is lost, unless a person is to decide."""
        self.report.lost_replies += 1
        lost = self.last_reply_s is None or self.clock.now_s() - self.last_reply_s > self.lost_s
        if not lost or self.waits_for_person:
            return
        self.safety.fault_stop("lost", str(error))
        self.report.faults.append(Fault("lost", str(error)))
        self.record_event("refusal", f"lost: {error}")
        self.say(f"lost communication for {self.lost_s:g} s: giving up. {error}")
        raise error


def _whole(values: list[float] | None, count: int) -> list[float] | None:
    """The values if there is one for each joint, else None, so that an invalid reading does not cost the tick."""
    return values if values is not None and len(values) == count else None


def _angles(angles_deg: Sequence[float]) -> str:
    return " ".join(f"{angle:.1f}" for angle in angles_deg)
