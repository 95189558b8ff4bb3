"""Scheduling of trials: each in a process of its own, as many at once as there are cores for."""

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

# Followed by what `arm_control.comparison.trial.main` reads.
TRIAL_COMMAND = python_command("from arm_control.comparison.trial import main; sys.exit(main())")


Result = dict[str, Any]


def run_trials(trials: dict[str, Trial]) -> dict[str, Result]:
    """The results of trials by their names; of one that has crashed, `{"failed": its last words}`.

    Those that need several cores come first, one after the other. Raises ValueError or OSError, before anything is
    trained, for a folder of another comparison or of two trials, and for what `check_trials` finds.
    """
    results = {name: result for name, trial in trials.items() if (result := trial.result()) is not None}
    folders: dict[Path, str] = {}
    for name, trial in trials.items():
        if (other := folders.setdefault(trial.folder, name)) != name:
            raise ValueError(f"'{other}' and '{name}' would have the same folder {trial.folder}")
    left = {name: trial for name, trial in trials.items() if name not in results}
    check_trials(left)
    begin = time.monotonic()

    def tell(name: str, result: Result) -> None:
        """Keep a result and say how far it is."""
        results[name] = result
        to_do, spent = (sum(trial.cores for it, trial in left.items() if (it in results) == done) for done in (0, 1))
        minutes = (time.monotonic() - begin) * to_do / spent / 60
        outcome = result.get("failed") or f"{result['mean_error_mm']:.2f} mm"
        say(f"[{len(results)}/{len(trials)}] {name}: {outcome}  (about {minutes:.0f} min left)")

    if results:
        say(f"[{len(results)}/{len(trials)}] done before")
    cores = sorted(os.sched_getaffinity(0))
    for width in sorted({trial.cores for trial in left.values()}, reverse=True):
        _run_on(cores, width, {name: trial for name, trial in left.items() if trial.cores == width}, tell)
    return results


def check_trials(trials: dict[str, Trial]) -> None:
    """Raise ValueError or OSError for trials that cannot be trained: their arm, their grid, their folder.

    Each would fail by itself otherwise, after those before it were trained.
    """
    checked: set[str] = set()
    for name, trial in trials.items():
        # The same environment for every seed: once is enough.
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


def _run_on(cores: list[int], width: int, trials: dict[str, Trial], tell: Callable[[str, Result], None]) -> None:
    """Run trials of `width` cores, as many at once as there are cores for; an error or Ctrl-C ends them all."""
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    at_once = max(1, len(cores) // width)
    for place in range(at_once):
        free.put(cores[place * width : (place + 1) * width])
    stopping = threading.Event()
    processes = set[subprocess.Popen[str]]()

    def work(trial: Trial) -> Result:
        """One of them, on cores of its own, which its process inherits from this thread."""
        if stopping.is_set():
            raise KeyboardInterrupt
        own = free.get()
        os.sched_setaffinity(0, own)
        try:
            return run_process(trial, processes, stopping)
        finally:
            free.put(own)

    with ThreadPoolExecutor(at_once) as pool:
        waiting: dict[Future[Result], str] = {pool.submit(work, trial): name for name, trial in trials.items()}
        try:
            while waiting:
                for future in wait(waiting, AWAKE_S, return_when=FIRST_COMPLETED).done:
                    tell(waiting.pop(future), future.result())
        except BaseException:
            stopping.set()
            try:
                for process in list(processes):
                    process.terminate()
                pool.shutdown(cancel_futures=True)
            except KeyboardInterrupt:  # a second request: the trials end at once, and go on from older checkpoints
                for process in list(processes):
                    process.kill()
            raise


def run_process(trial: Trial, processes: set[subprocess.Popen[str]], stopping: threading.Event) -> Result:
    """Run a trial in a process, which is among `processes` meanwhile; it ends at once if they are stopping."""
    words = [str(os.getpid()), str(trial.folder), json.dumps(trial.to_json())]
    with subprocess.Popen(
        [*TRIAL_COMMAND, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        process_group=0,  # a Ctrl-C comes to it once, from here
    ) as process:
        processes.add(process)
        if stopping.is_set():  # since this trial was taken up: it was not yet among those that were terminated
            process.terminate()
        said = process.communicate()[1].splitlines()
        processes.discard(process)
    if process.returncode == 0 and (result := trial.result()) is not None:
        return result
    if process.returncode < 0:
        said = [f"killed by signal {-process.returncode}{' (out of memory?)' if process.returncode == -9 else ''}"]
    last = said[-1].removeprefix("arm-control: error: ") if said else f"exit code {process.returncode}"
    return {"failed": last}
