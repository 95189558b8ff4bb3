"""Clocks of the benches' control loops, tested with simulated time."""

import pytest

from arm_control.bench._clocks import PERIOD_S, BackToBackClock, EmptyLoop, TurnClock
from arm_control.runner.clocks import RealTime


class TestTurnClock:
    """The clock of loops that take turns."""

    def test_a_loop_does_not_see_the_time_of_the_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Turns of 50 ms of other loops are not part of its own time, which is 6 periods of 2 ms."""
        real_s = 100.0

        def others() -> None:
            nonlocal real_s
            real_s += 0.05

        def wait_until(clock: RealTime, due_s: float) -> None:
            nonlocal real_s
            real_s = max(real_s, due_s)

        monkeypatch.setattr(RealTime, "now_s", lambda clock: real_s)
        monkeypatch.setattr(RealTime, "wait_until", wait_until)
        clock = TurnClock(6, 2, others)
        for tick in range(7):
            clock.wait_until(100.0 + 0.002 * tick)
        assert real_s == pytest.approx(100.0 + 0.1 + 0.012)
        assert clock.now_s() == pytest.approx(100.0 + 0.012)
        assert clock.last_s - clock.first_s == pytest.approx(0.012)
        assert list(clock.errors_s) == pytest.approx([0.0] * 6)
        assert clock.ticks == 7


class TestEmptyLoop:
    """The loop without any work."""

    def test_overruns_are_counted_as_in_the_control_loop(self) -> None:
        """A sleep of 4 ms too long is an overrun and shifts the later ticks."""

        class Sleepy(TurnClock):
            """Sleeps too long, once."""

            def wait_until(self, due_s: float) -> None:
                super().wait_until(due_s + (0.004 if self.ticks == 5 else 0.0))

        loop = EmptyLoop(10, 10)
        loop.clock = Sleepy(10, 10)
        loop.turn()
        assert loop.overruns >= 1
        assert loop.clock.ticks == 10
        assert loop.clock.last_s - loop.clock.first_s >= 9 * PERIOD_S + 0.0035


class TestBackToBackClock:
    """The clock that times whole ticks."""

    def test_warm_up_and_lead_ticks_are_not_timed(self) -> None:
        """After 4 warm-up ticks, turns of 3 timed ticks are separated by 2 lead ticks."""
        seen: list[int] = []
        clock = BackToBackClock(lambda: seen.append(len(clock.times_s)), calls=3, lead_ticks=2, warm_up_ticks=4)
        for _ in range(4 + 3 + 2 + 3):
            clock.wait_until(0.0)
        assert seen == [3, 6]
