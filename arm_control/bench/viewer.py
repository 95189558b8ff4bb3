"""Effect of viewers on the control loop: the jitter of its period with and without viewers, in turns.

The loop is that of `bench runner`, at 500 Hz, with a recorder. The web viewer follows the growing recording, shown in a
headless Chromium if one is installed. During the turns without viewers, both processes are stopped.
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
from typing import Any, Self

import psutil

from arm_control.bench._clocks import PERIOD_S, TURN_S, TurnClock
from arm_control.bench._setup import LoopSetup, percentiles_us, quiet_process
from arm_control.evaluation.torch_controller import one_thread
from arm_control.process.own_packages import python_command
from arm_control.process.printing import counted
from arm_control.runs.figures import check_writable, report_figures
from policies.ddpg.settings import DDPGSettings


@dataclass(frozen=True)
class BenchViewer:
    """Measure whether watching an arm slows its control loop: its period with and without viewers, in turns."""

    seconds: float = 60.0
    """Duration in s of the control loop at 500 Hz, half of it with viewers."""
    json: str | None = None
    """JSON file to write the figures to."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 3600:
            raise ValueError(f"--seconds: expected 0.1 to 3600, got {self.seconds}")


def run(command: BenchViewer) -> None:
    """Print the period errors with and without viewers."""
    check_writable(command.json)
    figures = bench_viewer(command.seconds)
    report_figures(command.json, figures, format_viewer(figures))


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAGE_S = 15.0  # for rendering a page in software
SETTLE_S = 0.2  # after viewers are stopped or continued, before ticks are timed


@one_thread()
def bench_viewer(seconds: float, *, settings: DDPGSettings | None = None) -> dict[str, Any]:
    """Period errors of a control loop with and without viewers, and the ratio between them."""
    turns = 2 * max(1, round(seconds / TURN_S / 2))
    turn_ticks = max(1, round(seconds / turns / PERIOD_S))
    ticks = turns * turn_ticks
    with tempfile.TemporaryDirectory() as folder, quiet_process() as priority:
        setup = LoopSetup(Path(folder), settings or DDPGSettings())
        with WatchedTurns(setup.recording, Path(folder)) as viewers:
            clock = TurnClock(ticks, turn_ticks, viewers.next_turn)
            ran = setup.run_loop(clock, lambda: clock.ticks >= ticks)
            has_browser = viewers.has_browser()
            busy_s = viewers.processor_time_s()
    # Turns alternate: the first is without viewers.
    errors_s = clock.errors_s.reshape(turns, turn_ticks)
    taken_s = clock.taken_s.reshape(turns, turn_ticks)
    loops = {}
    for first, name in enumerate(("without", "with")):
        loops[name] = {
            "period_error_us": percentiles_us(errors_s[first::2], turns // 2),
            "tick_us": percentiles_us(taken_s[first::2], turns // 2),
        }
    without_p99 = loops["without"]["period_error_us"]["p99_of_all"]
    with_p99 = loops["with"]["period_error_us"]["p99_of_all"]
    return {
        "seconds": seconds,
        "rate_hz": 1.0 / PERIOD_S,
        "cores": len(os.sched_getaffinity(0)),
        "priority": priority,
        "browser": has_browser,
        "viewers_busy_s": busy_s,
        "loops": loops,
        "overruns": ran.loop.report.overruns,
        "dropped_records": ran.dropped_records,
        "ratios": {"period_p99_with_over_without": with_p99 / without_p99},
    }


class WatchedTurns:
    """The viewers of a recording, which run in every other turn and are stopped in between."""

    def __init__(self, recording: Path, folder: Path) -> None:
        self._recording = recording
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._turn = 0
        self._started_s = 0.0  # processor time used until the viewers were ready

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def next_turn(self) -> None:
        """Start the viewers in the first call; afterwards, stop or continue them."""
        self._turn += 1
        if self._turn == 1:
            self._processes += self._stack.enter_context(watched(self._recording, self._folder))
            self._started_s = processor_time_s([process.pid for process in self._processes])
        for process in self._processes:
            os.killpg(process.pid, signal.SIGCONT if self._turn % 2 else signal.SIGSTOP)
        time.sleep(SETTLE_S)

    def has_browser(self) -> bool:
        """True if a browser is running beside the web viewer."""
        return len(self._processes) > 1 and self._processes[1].poll() is None

    def processor_time_s(self) -> float:
        """Processor time in s used by the viewers since they were ready."""
        return processor_time_s([process.pid for process in self._processes]) - self._started_s


@contextlib.contextmanager
def watched(recording: Path, folder: Path) -> Iterator[Sequence["subprocess.Popen[bytes]"]]:
    """Run the web viewer of a recording and, if one is installed, a browser that shows it."""
    # The commands: the viewer on a free port, and a browser without a window.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    commands = [python_command("from arm_control.cli import program; sys.exit(program())")]
    commands[0] += ["replay", str(recording), "--viewer", "web", "--port", str(port)]
    if browser := next(filter(None, map(shutil.which, BROWSERS)), None):
        profile = f"--user-data-dir={folder / 'profile'}"
        commands.append([browser, "--headless", "--no-sandbox", "--remote-debugging-port=0", profile, url])
    # Start both, and stop them at the end.
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
    """Processor time in s used by processes and their children so far."""
    total_s = 0.0
    for number in processes:
        parent = psutil.Process(number)
        for process in (parent, *parent.children(recursive=True)):
            times = process.cpu_times()
            total_s += times.user + times.system
    return total_s


def ordinary() -> None:
    """Give up the real-time priority of the control loop, which ordinary processes do not have."""
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
    """Format the figures as a table."""
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
        f"  {counted(figures['overruns'], 'overrun')}, {counted(figures['dropped_records'], 'record')} dropped; "
        f"the viewers used {figures['viewers_busy_s']:.0f} s of processor time"
    )
    lines += [f"  {name} {ratio:.2f}" for name, ratio in figures["ratios"].items()]
    return "\n".join(lines)
