"""Goals that come while the arm moves."""

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from arm_control.runner.goal_input import QUEUED_GOALS, read_ahead
from envs.tasks.base import StillGoal


class TestGoalsAsTheyCome:
    """Goals from standard input, read by a thread."""

    def test_reading_ahead_is_bounded(self) -> None:
        """`yes GOAL | arm-control run --goals-file -` does not fill the memory."""
        read: list[int] = []

        def endless() -> Iterator[StillGoal]:
            for number in itertools.count(1):
                read.append(number)
                yield StillGoal((0.3, 0.1, 0.3))

        goals = read_ahead(endless(), timeout_s=5.0)
        for _ in range(10):
            assert next(goals) is not None
        end = time.monotonic() + 30
        while len(read) < QUEUED_GOALS + 10 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)
        # In the queue, taken from it, and one that waits to be put.
        assert len(read) <= QUEUED_GOALS + 10 + 1

    def test_goals_keep_their_order(self) -> None:
        """Three times as many goals as may wait arrive, in order."""
        given = [StillGoal((0.3, 0.1, 0.001 * number)) for number in range(3 * QUEUED_GOALS)]
        assert [goal for goal in read_ahead(iter(given), timeout_s=5.0) if goal is not None] == given

    @pytest.mark.parametrize(
        ("error", "expected"), [(OSError(5, "Input/output error"), None), (ValueError("line 2: no"), ValueError)]
    )
    def test_a_terminal_that_was_closed_ends_the_goals_and_a_bad_line_is_an_error(
        self, error: Exception, expected: type[Exception] | None
    ) -> None:
        """Both take effect after the goals before them."""

        def lines() -> Iterator[StillGoal]:
            yield StillGoal((0.3, 0.1, 0.3))
            raise error

        goals = read_ahead(lines(), timeout_s=5.0)
        assert next(goals) == StillGoal((0.3, 0.1, 0.3))
        if expected is None:
            assert list(goals) == []
        else:
            with pytest.raises(expected):
                next(goals)

    def test_the_loop_does_not_wait_for_a_goal(self) -> None:
        """The iterator yields None while no goal has arrived."""
        typed = threading.Event()

        def slow() -> Iterator[StillGoal]:
            typed.wait(60)
            yield StillGoal((0.3, 0.1, 0.3))

        goals = read_ahead(slow(), timeout_s=0.0)
        assert next(goals) is None
        typed.set()
        assert next(goal for goal in goals if goal is not None) == StillGoal((0.3, 0.1, 0.3))
