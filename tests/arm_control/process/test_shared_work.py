"""SharedWork: results are the same whoever does a piece, and no helper outlives it."""

import time
from collections.abc import Callable

import pytest
from helpers import children, stuck
from pieces import Refuse, Square

from arm_control.process.shared_work import SharedWork


def nothing() -> None:
    """Called at every piece."""


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so, for as long as any machine takes."""
    end_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


class TestSharedWork:
    """A list of pieces, done here and in helper processes."""

    def test_without_helpers_all_is_done_here_in_order(self) -> None:
        """And each piece is counted."""
        with SharedWork(Square(), range(7), helpers=0) as work:
            results = work.finish(nothing)
        assert results == [(n * n, False) for n in range(7)]
        assert work.done == 7

    def test_helpers_do_a_part_and_the_results_stay_in_order(self) -> None:
        """Nothing of them is left."""
        before = set(children())
        with SharedWork(Square(), range(300), helpers=2) as work:
            wait_for(lambda: work.done > 20)  # by them alone
            results = work.finish(nothing)
        assert [square for square, _ in results] == [n * n for n in range(300)]
        assert any(away for _, away in results)
        assert set(children()) <= before

    def test_what_a_killed_helper_had_in_hand_is_done_here(self) -> None:
        """As if it had never been there."""
        with SharedWork(Square(deadly=5), range(40), helpers=1) as work:
            wait_for(lambda: work.done == 5 and not any(thread.is_alive() for thread in work._threads))
            results = work.finish(nothing)
        assert results == [(n * n, n < 5) for n in range(40)]

    def test_an_error_of_the_work_is_raised(self) -> None:
        """Whoever met it first."""
        with SharedWork(Refuse(), range(10), helpers=1) as work:
            wait_for(lambda: not any(thread.is_alive() for thread in work._threads))
            with pytest.raises(ValueError, match="anything but 3"):
                work.finish(nothing)

    def test_work_that_is_given_up_leaves_no_process(self) -> None:
        """Such as by Ctrl-C."""
        before = set(children())
        with SharedWork(Square(), range(10**6), helpers=1) as work:
            wait_for(lambda: work.done > 0)
        assert stuck([process for process in children() if process not in before]) == []
