"""Helpers of several test files: runs compared bit for bit, and processes that were left behind."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from arm_control.drivers.base import Driver
from arm_control.drivers.simulation import SimulationDriver
from arm_control.runner import PolicyRunner
from arm_control.runner.clocks import FastTime
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import ControlLoop
from arm_control.runner.report import LoopReport
from arm_control.runner.safety import Safety
from envs.tasks.base import GoalTrajectory

Size = Callable[..., int]  # the fixture `size` of conftest.py
Rejected = Callable[..., str]  # the fixture `rejected` of conftest.py


def content(folder: Path) -> dict[str, bytes | None]:
    """All files of a folder with their content, and its folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def exact(value: Any) -> Any:
    """A state with tensors as their types and bytes, without the wall clock."""
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
        return (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items() if key != "elapsed_s"}
    return [exact(item) for item in value] if isinstance(value, list) else value


def reports(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without the wall clock; none before the file exists."""
    file = run / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [{key: value for key, value in row.items() if key != "elapsed_s"} for row in rows]


def wait_until(
    condition: Callable[[], Any],
    what: str = "the condition never became true",
    *,
    timeout_s: float = 90.0,
    poll_s: float = 0.02,
) -> None:
    """Wait until a condition holds. Raises AssertionError with `what` after the timeout."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(poll_s)


def children(parent: int | None = None) -> list[int]:
    """Ids of the processes that this one, or another, has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == (parent or os.getpid()):
                found.append(int(path.parent.name))
    return found


def running(process: int) -> bool:
    """Return True if a process exists and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stuck(processes: list[int]) -> list[int]:
    """The processes that are still running after 20 s."""
    end = time.monotonic() + 20
    while processes and time.monotonic() < end:
        processes = [process for process in processes if running(process)]
        time.sleep(0.02)
    return processes


def drive(
    runner: PolicyRunner, driver: Driver, goals: Iterable[GoalTrajectory], *, seconds_per_goal: float, **settings: Any
) -> LoopReport:
    """The report of a policy that runs its goals on an arm, faster than real time."""
    safety = Safety(runner.arm, runner.limits, runner.period_s)
    on_goal = settings.pop("on_goal", lambda result: None)
    clock = FastTime()
    if isinstance(driver, SimulationDriver):
        driver.now_s = clock.now_s
    loop = ControlLoop(driver, safety, clock, **settings)
    return loop.run(GoalWork(runner, goals, seconds_per_goal=seconds_per_goal, on_goal=on_goal))
