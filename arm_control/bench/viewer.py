"""Whether watching an arm slows its control loop: how steadily it ticks with and without viewers, in turns in one run.

The loop is that of `bench runner`, at 500 Hz, recorded as it goes. The web viewer follows that recording as it grows,
with a headless Chromium looking at it where there is one. While it is the other's turn both are stopped.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from arm_control.bench.runner import PERIOD_S, TURN_S, Bench, TurnTime, percentiles_us, quiet_process
from arm_control.evaluation.torch_controller import one_thread
from arm_control.process.own_packages import python_command
from arm_control.process.printing import counted
from arm_control.runner.safety import Safety
from arm_control.runs.figures import check_writable, report_figures
from policies.common.settings import DDPGSettings


@dataclass(frozen=True)
class BenchViewer:
    """Whether watching an arm slows its control loop: how steadily it ticks with and without viewers, in turns."""

    seconds: float = 60.0
    """How long the control loop runs at 500 Hz, half of it watched."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 3600:
            raise ValueError(f"--seconds: wanted 0.1 to 3600, got {self.seconds}")


def run(command: BenchViewer) -> None:
    """Print what watching costs a control loop."""
    check_writable(command.json)
    figures = bench_viewer(command.seconds)
    report_figures(command.json, figures, format_viewer(figures))


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAGE_S = 15.0  # until a page is drawn by software
SETTLE_S = 0.2  # after viewers are stopped or go on, before it counts


@one_thread()
def bench_viewer(seconds: float, *, settings: DDPGSettings | None = None) -> dict[str, Any]:
    """Period errors of a control loop with and without viewers, and the ratio between them."""
    turns = 2 * max(1, round(seconds / TURN_S / 2))
    turn_ticks = max(1, round(seconds / turns / PERIOD_S))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as viewers, quiet_process() as priority:
        bench = Bench(Path(folder), settings or DDPGSettings(), Safety)
        watching: list[subprocess.Popen[bytes]] = []
        begun, started_s = 0, 0.0

        def others() -> None:
            """Viewers go on, or stop."""
            nonlocal begun, started_s
            begun += 1
            if begun == 1:
                watching.extend(viewers.enter_context(watched(bench.recording, Path(folder))))
                started_s = processor_time_s([process.pid for process in watching])
            for process in watching:
                os.killpg(process.pid, signal.SIGCONT if begun % 2 else signal.SIGSTOP)
            time.sleep(SETTLE_S)

        clock = TurnTime(turns * turn_ticks, turn_ticks, others)
        loop, dropped = bench.control(clock, lambda: clock.ticks >= turns * turn_ticks)
        browser = len(watching) > 1 and watching[1].poll() is None
        busy_s = processor_time_s([process.pid for process in watching]) - started_s
    errors, taken = (times.reshape(turns, turn_ticks) for times in (clock.errors_s, clock.taken_s))
    loops = {
        name: {
            "period_error_us": percentiles_us(errors[first::2], turns // 2),
            "tick_us": percentiles_us(taken[first::2], turns // 2),
        }
        for first, name in enumerate(("without", "with"))
    }
    without, beside = (loops[name]["period_error_us"]["p99_of_all"] for name in ("without", "with"))
    return {
        "seconds": seconds,
        "rate_hz": 1.0 / PERIOD_S,
        "cores": len(os.sched_getaffinity(0)),
        "priority": priority,
        "browser": browser,
        "viewers_busy_s": busy_s,
        "loops": loops,
        "late_ticks": loop.report.overruns,
        "dropped_records": dropped,
        "ratios": {"period_p99_with_over_without": beside / without},
    }


@contextlib.contextmanager
def watched(recording: Path, folder: Path) -> Iterator[Sequence["subprocess.Popen[bytes]"]]:
    """The web viewer of a recording and, where there is one, a browser that looks at it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    commands = [python_command("from arm_control.cli import program; sys.exit(program())")]
    commands[0] += ["replay", str(recording), "--viewer", "web", "--port", str(port)]
    if browser := next(filter(None, map(shutil.which, BROWSERS)), None):
        profile = f"--user-data-dir={folder / 'profile'}"
        commands.append([browser, "--headless", "--no-sandbox", "--remote-debugging-port=0", profile, url])
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=ordinary,
            )
            processes.append(process)
            wait_for(url, processes[0])
        time.sleep(PAGE_S)
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def processor_time_s(processes: Sequence[int]) -> float:
    """What processes and those that they started have used so far."""
    families = [[psutil.Process(number), *psutil.Process(number).children(True)] for number in processes]
    times = [process.cpu_times() for family in families for process in family]
    return float(sum(time.user + time.system for time in times))


def ordinary() -> None:
    """Give up the control loop's priority, as a process that a person starts has none."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    """Wait until a page is served. Raises RuntimeError if its server ends before."""
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except (urllib.error.URLError, OSError):
            if server.poll() is not None:
                raise RuntimeError(
                    f"the viewer ended with exit code {server.returncode} before it was watched"
                ) from None
            time.sleep(0.1)


def format_viewer(figures: dict[str, Any]) -> str:
    """The figures as a table for people."""
    lines = [
        f"{counted(figures['cores'], 'core')}; {figures['priority']}; "
        f"browser: {'Chromium' if figures['browser'] else 'none'}",
        f"{figures['seconds']:g} s at {figures['rate_hz']:g} Hz, microseconds{'p50':>19}{'p99':>10}{'p99 of all':>12}"
        f"{'worst':>10}",
    ]
    for name, rows in figures["loops"].items():
        for title, key in (("period error", "period_error_us"), ("whole tick", "tick_us")):
            values = rows[key]
            shown = "".join(f"{values[k]:>{width},.1f}" for k, width in zip(values, (10, 10, 12, 10), strict=True))
            lines.append(f"  {title} {name + (' viewers'):<32}{shown}")
    lines.append(
        f"  {counted(figures['late_ticks'], 'late tick')}, {counted(figures['dropped_records'], 'record')} dropped; "
        f"the viewers used {figures['viewers_busy_s']:.0f} s of processor time"
    )
    lines += [f"  {name} {ratio:.2f}" for name, ratio in figures["ratios"].items()]
    return "\n".join(lines)
