"""`SharedWork`: results do not depend on the process, and no helper process is left."""

import pytest
from helpers import children, stuck, wait_until
from pieces import Refuse, Square

from arm_control.process.shared_work import SharedWork


def nothing() -> None:
    """A callback without effect."""


class TestSharedWork:
    """A list of work items, done here and in helper processes."""

    def test_without_helpers_all_is_done_here(self) -> None:
        """In order, and each item is counted."""
        with SharedWork(Square(), range(7), helpers=0) as work:
            results = work.finish(nothing)
        assert results == [(n * n, False) for n in range(7)]
        assert work.done == 7

    def test_helpers_do_a_part_and_the_results_stay_in_order(self) -> None:
        """No helper process is left."""
        before = set(children())
        with SharedWork(Square(), range(300), helpers=2) as work:
            wait_until(lambda: work.done > 20)  # by them alone
            results = work.finish(nothing)
        assert [square for square, _ in results] == [n * n for n in range(300)]
        assert any(away for _, away in results)
        assert set(children()) <= before

    def test_items_of_a_killed_helper_are_done_here(self) -> None:
        """Results are the same as without it."""
        with SharedWork(Square(deadly=5), range(40), helpers=1) as work:
            wait_until(lambda: work.done == 5 and not any(thread.is_alive() for thread in work._threads))
            results = work.finish(nothing)
        assert results == [(n * n, n < 5) for n in range(40)]

    def test_an_error_of_the_work_is_raised(self) -> None:
        """In whichever process it occurs."""
        with SharedWork(Refuse(), range(10), helpers=1) as work:
            wait_until(lambda: not any(thread.is_alive() for thread in work._threads))
            with pytest.raises(ValueError, match="anything but 3"):
                work.finish(nothing)

    def test_abandoned_work_leaves_no_process(self) -> None:
        """As after Ctrl-C."""
        before = set(children())
        with SharedWork(Square(), range(10**6), helpers=1) as work:
            wait_until(lambda: work.done > 0)
        assert stuck([process for process in children() if process not in before]) == []
