"""Requests to stop: repeats of one request, second requests, and restored handlers."""

import signal
from collections.abc import Iterator

import pytest

from arm_control.process import signals
from arm_control.process.signals import REPEAT_S, interrupt_on_signals, stop_on_signals

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Clock:
    """A monotonic clock that tests set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(signals, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def same_handlers_afterwards() -> Iterator[None]:
    before = [signal.getsignal(number) for number in ALL]
    yield
    assert [signal.getsignal(number) for number in ALL] == before


class TestOrderlyStop:
    """`stop_on_signals`: the first request is remembered, a second one interrupts."""

    @pytest.mark.parametrize("number", ALL)
    def test_a_request_is_remembered(self, number: signal.Signals, clock: Clock) -> None:
        """Nothing is raised, so that the work decides when to end."""
        with stop_on_signals() as stop:
            assert not stop()
            signal.raise_signal(number)
            assert stop()

    @pytest.mark.parametrize("first", ALL)
    @pytest.mark.parametrize("again", ALL)
    def test_repeats_within_a_second_are_the_same_request(
        self, first: signal.Signals, again: signal.Signals, clock: Clock
    ) -> None:
        """Of any signal: a terminal, a shell and `timeout` send several."""
        with stop_on_signals() as stop:
            signal.raise_signal(first)
            for delay_s in (0.0, 0.3, REPEAT_S - 0.31):
                clock.now_s += delay_s
                signal.raise_signal(again)
            assert stop()

    def test_a_later_request_interrupts(self, clock: Clock) -> None:
        """Counted from the first request, so that holding Ctrl-C does not postpone the end."""
        with stop_on_signals():
            signal.raise_signal(signal.SIGINT)
            clock.now_s += 0.6
            signal.raise_signal(signal.SIGINT)
            clock.now_s += 0.6
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    def test_the_next_work_has_no_earlier_request(self, clock: Clock) -> None:
        """A request soon after the end of earlier work is new."""
        for _ in range(2):
            with stop_on_signals() as stop:
                signal.raise_signal(signal.SIGTERM)
                assert stop()


class TestInterruption:
    """`interrupt_on_signals`, around every command."""

    @pytest.mark.parametrize("number", ALL)
    def test_each_request_raises_once(self, number: signal.Signals, clock: Clock) -> None:
        """Repeats within a second do not disturb the clean-up, a later request does."""
        with interrupt_on_signals():
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            signal.raise_signal(number)
            clock.now_s += REPEAT_S + 0.1
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)

    def test_a_request_that_was_handled_inside_is_not_raised_again_outside(self, clock: Clock) -> None:
        """A repeat after the end of a training does not interrupt the command."""
        with interrupt_on_signals():
            with stop_on_signals() as stop:
                signal.raise_signal(signal.SIGHUP)
                assert stop()
            clock.now_s += 0.5
            signal.raise_signal(signal.SIGHUP)

    def test_an_ignored_sighup_stays_ignored(self, clock: Clock) -> None:
        """Programs under `nohup` do not stop for it."""
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with interrupt_on_signals(), stop_on_signals() as stop:
                signal.raise_signal(signal.SIGHUP)
                assert not stop()
        finally:
            signal.signal(signal.SIGHUP, before)
