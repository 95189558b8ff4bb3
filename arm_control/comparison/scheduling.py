"""Scheduling of trials: each in a process of its own, as many at once as the cores allow."""

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from arm_control.comparison.baselines import BaselineConfig
from arm_control.comparison.trial import Trial
from arm_control.process.console import say
from arm_control.process.own_packages import python_command
from arm_control.process.signals import AWAKE_S
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.runs.run_folder import RunFolder

# To be followed by the arguments of `arm_control.comparison.trial.main`.
TRIAL_COMMAND = python_command("from arm_control.comparison.trial import main; sys.exit(main())")


Result = dict[str, Any]


def run_trials(trials: dict[str, Trial]) -> dict[str, Result]:
    """Run trials and return their results by name; of a crashed one, `{"failed": its last line on standard error}`.

    Trials that need several cores come first, one after the other. Raises ValueError or OSError, before anything is
    trained, for a folder of another comparison or of two trials, and as `check_trials`.
    """
    # Skip finished trials, and check the others before the first one starts.
    results: dict[str, Result] = {}
    left: dict[str, Trial] = {}
    folders: dict[Path, str] = {}
    for name, trial in trials.items():
        other = folders.setdefault(trial.folder, name)
        if other != name:
            raise ValueError(f"'{other}' and '{name}' would have the same folder {trial.folder}")
        result = trial.result()
        if result is None:
            left[name] = trial
        else:
            results[name] = result
    check_trials(left)
    # Train the others.
    begin = time.monotonic()

    def report(name: str, result: Result) -> None:
        """Keep a result, and print it with an estimate of the time left."""
        results[name] = result
        cores_done = sum(trial.cores for other, trial in left.items() if other in results)
        cores_left = sum(trial.cores for other, trial in left.items() if other not in results)
        minutes = (time.monotonic() - begin) * cores_left / cores_done / 60
        outcome = result.get("failed") or f"{result['mean_error_mm']:.2f} mm"
        say(f"[{len(results)}/{len(trials)}] {name}: {outcome}  (about {minutes:.0f} min left)")

    if results:
        say(f"[{len(results)}/{len(trials)}] already finished")
    cores = sorted(os.sched_getaffinity(0))
    for width in sorted({trial.cores for trial in left.values()}, reverse=True):
        of_width = {name: trial for name, trial in left.items() if trial.cores == width}
        _run_on(cores, width, of_width, report)
    return results


def check_trials(trials: dict[str, Trial]) -> None:
    """Raise ValueError or OSError for trials that cannot be trained: because of their arm, grid or folder.

    Otherwise they would fail only after the trials before them were trained.
    """
    checked: set[str] = set()
    for name, trial in trials.items():
        # All seeds of an agent have the same environment, which is made once.
        task = trial.config.task if isinstance(trial.config, BaselineConfig) else trial.config
        options = f"{task.env} {task.environment_options()}"
        if options not in checked:
            checked.add(options)
            try:
                environment_maker(task)().close()
            except ValueError as error:
                raise ValueError(f"'{name}': {error}") from None
        if isinstance(trial.config, TrainConfig) and trial.config.init is not None:
            RunFolder.open(trial.config.init)
    for trial in trials.values():
        trial.folder.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(trial.folder.parent, os.W_OK):
            raise OSError(f"cannot write into {trial.folder.parent}")


def _run_on(cores: list[int], width: int, trials: dict[str, Trial], report: Callable[[str, Result], None]) -> None:
    """Run trials of `width` cores, as many at once as there are cores for; an error or Ctrl-C ends all of them."""
    # Groups of cores that are free.
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    at_once = max(1, len(cores) // width)
    for place in range(at_once):
        free.put(cores[place * width : (place + 1) * width])
    # All running processes, to be terminated together.
    stopping = threading.Event()
    processes = set[subprocess.Popen[str]]()

    def work(trial: Trial) -> Result:
        """Run a trial on cores of its own, whose affinity its process inherits from this thread."""
        if stopping.is_set():
            raise KeyboardInterrupt
        own = free.get()
        os.sched_setaffinity(0, own)
        try:
            return run_process(trial, processes, stopping)
        finally:
            free.put(own)

    # A thread for each group of cores, which waits for the processes of its trials.
    with ThreadPoolExecutor(at_once) as pool:
        waiting: dict[Future[Result], str] = {pool.submit(work, trial): name for name, trial in trials.items()}
        try:
            while waiting:
                for future in wait(waiting, AWAKE_S, return_when=FIRST_COMPLETED).done:
                    report(waiting.pop(future), future.result())
        except BaseException:
            stopping.set()
            try:
                for process in list(processes):
                    process.terminate()
                pool.shutdown(cancel_futures=True)
            except KeyboardInterrupt:  # a second request: the trials end at once, and resume from older checkpoints
                for process in list(processes):
                    process.kill()
            raise


def run_process(trial: Trial, processes: set[subprocess.Popen[str]], stopping: threading.Event) -> Result:
    """Run a trial in a process, which is in `processes` meanwhile; if `stopping` is set, it is terminated."""
    arguments = [str(os.getpid()), str(trial.folder), json.dumps(trial.to_json())]
    with subprocess.Popen(
        [*TRIAL_COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        process_group=0,  # so that Ctrl-C reaches it only from here, once
    ) as process:
        processes.add(process)
        if stopping.is_set():  # set before the process was in `processes`, so that it was not terminated with them
            process.terminate()
        error_lines = process.communicate()[1].splitlines()
        processes.discard(process)
    # The result, or the reason of the failure.
    if process.returncode == 0 and (result := trial.result()) is not None:
        return result
    if process.returncode < 0:
        hint = " (out of memory?)" if process.returncode == -9 else ""
        return {"failed": f"killed by signal {-process.returncode}{hint}"}
    if not error_lines:
        return {"failed": f"exit code {process.returncode}"}
    return {"failed": error_lines[-1].removeprefix("arm-control: error: ")}
