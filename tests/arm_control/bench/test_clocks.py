"""The clocks of benched control loops, by clocks of their own."""

import pytest

from arm_control.bench._clocks import PERIOD_S, BackToBackClock, EmptyLoop, TurnClock
from arm_control.runner.clocks import RealTime


class TestTurnClock:
    """A clock of loops that take turns."""

    def test_a_loop_that_takes_turns_sees_no_time_pass_in_the_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By a clock on which each turn of the others takes 50 ms and all else takes no time."""
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
    """The loop that does nothing."""

    def test_the_empty_loop_is_late_as_the_control_loop_is(self) -> None:
        """It counts overruns as the control loop does."""

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
    """A clock that times whole ticks."""

    def test_ticks_are_timed_in_turns_and_lead_ticks_are_not_counted(self) -> None:
        """Warm-up and lead ticks are not timed."""
        seen: list[int] = []
        clock = BackToBackClock(lambda: seen.append(len(clock.times_s)), calls=3, lead_ticks=2, warm_up_ticks=4)
        for _ in range(4 + 3 + 2 + 3):
            clock.wait_until(0.0)
        assert seen == [3, 6]
