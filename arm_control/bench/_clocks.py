"""Clocks for benchmarks of the control loop: they time ticks, and let several loops take turns in one process."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from arm_control.runner.clocks import FastTime, RealTime
from arm_control.runner.ticks import OVERRUN_FRACTION

PERIOD_S = 0.002  # of every benched loop: 500 Hz
TURN_S = 2.0  # duration of a loop's turn

Times = NDArray[np.float64]


class BackToBackClock(FastTime):
    """A clock that does not wait, and times whole ticks, from the end of one wait to the beginning of the next.

    After every `calls` timed ticks it calls `others`. The first `warm_up_ticks`, and `lead_ticks` after each such call,
    are not timed, to warm up the caches.
    """

    def __init__(self, others: Callable[[], None], *, calls: int, lead_ticks: int, warm_up_ticks: int) -> None:
        super().__init__()
        self.times_s: list[float] = []
        self._others = others
        self._calls = calls
        self._lead_ticks = lead_ticks
        self._ticks = -warm_up_ticks
        self._began_s = time.perf_counter()

    def wait_until(self, due_s: float) -> None:
        """Record the duration of the tick that ends, and begin the next one."""
        taken_s = time.perf_counter() - self._began_s
        self._ticks += 1
        if self._ticks > 0:
            self.times_s.append(taken_s)
            if self._ticks == self._calls:
                self._others()
                self._ticks = -self._lead_ticks
        super().wait_until(due_s)
        self._began_s = time.perf_counter()


class TurnClock(RealTime):
    """The monotonic clock of one of several loops that take turns: it stops during the others' turns.

    It records how far from its due time each tick began (`errors_s`), its duration until the wait for the next one
    (`taken_s`), when the first tick was due (`first_s`) and when the last one began (`last_s`).
    """

    def __init__(self, ticks: int, turn_ticks: int, others: Callable[[], None] = lambda: None) -> None:
        """Record the times of the first `ticks` ticks; call `others` after every `turn_ticks`."""
        # Ones, not empty: the memory is allocated by writing to it.
        self.errors_s: Times = np.ones(ticks)
        self.taken_s: Times = np.ones(ticks)
        self.ticks = 0
        self.first_s = 0.0
        self.last_s = 0.0
        self._turn_ticks = turn_ticks
        self._others = others
        self._away_s = 0.0

    def now_s(self) -> float:
        """The monotonic time in s, without the others' turns."""
        return super().now_s() - self._away_s

    def wait_until(self, due_s: float) -> None:
        """Run the others' turn if it is due, then sleep."""
        # The duration of the tick that ends.
        if 0 < self.ticks <= len(self.taken_s):
            self.taken_s[self.ticks - 1] = self.now_s() - self.last_s
        # The others' turn, whose time is left out.
        if 0 < self.ticks < len(self.errors_s) and self.ticks % self._turn_ticks == 0:
            begin_s = super().now_s()
            self._others()
            self._away_s += super().now_s() - begin_s
        # The next tick: how far from its due time it begins.
        super().wait_until(due_s + self._away_s)
        self.last_s = self.now_s()
        if self.ticks == 0:
            self.first_s = due_s
        if self.ticks < len(self.errors_s):
            self.errors_s[self.ticks] = abs(self.last_s - due_s)
        self.ticks += 1


class EmptyLoop:
    """A loop with the control loop's timing and no work: the jitter of the machine itself."""

    def __init__(self, ticks: int, turn_ticks: int) -> None:
        self.clock = TurnClock(ticks, turn_ticks)
        self.overruns = 0
        self._turn_ticks = turn_ticks

    def turn(self) -> None:
        """Tick for one turn."""
        clock = self.clock
        due_s = clock.now_s()
        for _ in range(self._turn_ticks):
            clock.wait_until(due_s)
            now_s = clock.now_s()
            # An overrun postpones all later ticks.
            if now_s - due_s > OVERRUN_FRACTION * PERIOD_S:
                self.overruns += 1
                due_s = now_s
            due_s += PERIOD_S
