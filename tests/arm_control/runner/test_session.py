"""`arm-control run`: what is beside its control loop, such as goals that come while the arm moves."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from locations import ROOT

from arm_control.recording.reading import read_recording
from arm_control.recording.recorder import Recorder
from arm_control.recording.schema import Event, Tick
from arm_control.runner.session import WAITING_GOALS, as_they_come, close_recorder
from envs.tasks.base import StillGoal

# Prints the schedulers of the main thread, of a thread, and of a process that start after it.
PRIORITIES = """
import json, os, subprocess, sys, threading
from arm_control.runner.session import ask_for_priority

said, found = ask_for_priority(), []
thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
code = "import os; print(os.sched_getscheduler(0))"
child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
own = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
print(json.dumps({"said": said, "own": own, "thread": found[0], "child": child}))
"""


class TestPriority:
    """Real-time priority is the control loop's alone."""

    def test_threads_and_processes_that_start_later_have_ordinary_priority(self) -> None:
        """A thread that checks goals at the loop's priority would keep it from reading the arm."""
        done = subprocess.run(
            [sys.executable, "-c", PRIORITIES], capture_output=True, text=True, cwd=ROOT, env=os.environ, check=True
        )
        figures = json.loads(done.stdout)
        assert figures["thread"] == figures["child"] == os.SCHED_OTHER
        assert figures["own"] == (os.SCHED_FIFO if ": yes" in figures["said"] else os.SCHED_OTHER)


class TestGoalsAsTheyCome:
    """Goals of standard input, read by a thread."""

    def test_no_more_goals_are_read_than_are_waited_for(self) -> None:
        """`yes GOAL | arm-control run --goals-file -` does not fill the memory."""
        read: list[int] = []

        def endless() -> Iterator[StillGoal]:
            for number in itertools.count(1):
                read.append(number)
                yield StillGoal((0.3, 0.1, 0.3))

        goals = as_they_come(endless(), timeout_s=5.0)
        for _ in range(10):
            assert next(goals) is not None
        end = time.monotonic() + 30
        while len(read) < WAITING_GOALS + 10 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)
        # In the queue, taken from it, and one that waits to be put.
        assert len(read) <= WAITING_GOALS + 10 + 1

    def test_goals_come_in_their_order_to_the_last(self) -> None:
        """More than may wait."""
        given = [StillGoal((0.3, 0.1, 0.001 * number)) for number in range(3 * WAITING_GOALS)]
        assert [goal for goal in as_they_come(iter(given), timeout_s=5.0) if goal is not None] == given

    @pytest.mark.parametrize(
        ("error", "expected"), [(OSError(5, "Input/output error"), None), (ValueError("line 2: no"), ValueError)]
    )
    def test_a_terminal_that_was_closed_ends_the_goals_and_a_bad_line_is_an_error(
        self, error: Exception, expected: type[Exception] | None
    ) -> None:
        """After the goals before it."""

        def lines() -> Iterator[StillGoal]:
            yield StillGoal((0.3, 0.1, 0.3))
            raise error

        goals = as_they_come(lines(), timeout_s=5.0)
        assert next(goals) == StillGoal((0.3, 0.1, 0.3))
        if expected is None:
            assert list(goals) == []
        else:
            with pytest.raises(expected):
                next(goals)

    def test_the_loop_does_not_wait_for_a_goal(self) -> None:
        """None stands for a goal that has not come yet."""
        typed = threading.Event()

        def slow() -> Iterator[StillGoal]:
            typed.wait(60)
            yield StillGoal((0.3, 0.1, 0.3))

        goals = as_they_come(slow(), timeout_s=0.0)
        assert next(goals) is None
        typed.set()
        assert next(goal for goal in goals if goal is not None) == StillGoal((0.3, 0.1, 0.3))


class TestRecorded:
    """What a run says of its recording."""

    @pytest.mark.parametrize(("ticks", "said"), [(0, "not a single tick was recorded"), (1, "recorded")])
    def test_a_recording_without_ticks_is_reported_as_such(self, ticks: int, said: str, tmp_path: Path) -> None:
        """It is there, but there is nothing to replay."""
        times = dict.fromkeys(("period_error_us", "read_us", "decide_us", "safety_us", "write_us"), 1.0)
        recorder = Recorder(tmp_path / "run.mcap", {})
        for _ in range(ticks):
            recorder.tick(Tick(time_s=1.0, phase="run", band="pass", **times))
        recorder.event(Event(2.0, "end", "parked"))
        lines: list[str] = []
        console: Any = SimpleNamespace(err=lines.append)
        close_recorder(recorder, console)
        assert lines == [f"{said}: {tmp_path / 'run.mcap'}"]
        assert len(read_recording(tmp_path / "run.mcap").ticks) == ticks
