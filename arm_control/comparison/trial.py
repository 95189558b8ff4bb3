"""Trial: one training of a comparison in a process of its own, evaluated on held-out goals, and timed.

The process runs `main`. A trial that was killed is resumed; one of a baseline, which has no checkpoints, is restarted.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from arm_control.comparison.baselines import BASELINES, BaselineConfig, BaselineController, train_baseline
from arm_control.evaluation.metrics import LADDER_MM
from arm_control.evaluation.validation import REPORTS, is_kept
from arm_control.process.console import say
from arm_control.runner.rest import Rest
from arm_control.runs.config import TrainConfig, plain_values
from arm_control.runs.files import check_no_link, read_json, write_text
from arm_control.runs.run_folder import FORMAT_VERSION, RunFolder
from envs.imperfections import imperfections_from_json

LARGEST_RESULT = 2**24  # bytes
MEMORY_EVERY_S = 2.0
DECISIONS = 300


# The columns of a learning curve that are plotted; the file has more.
DRAWN = ("step", "elapsed_s", "mean_error_mm", *(f"success_{mm}_mm" for mm in LADDER_MM))
Point = msgspec.defstruct("Point", [(name, float) for name in DRAWN])


class Result(msgspec.Struct):
    """The figures of a trial that a comparison uses."""

    mean_error_mm: float
    normalised_return: float | None
    memory_mb: float
    decision_us: float
    success: dict[str, float]
    last: Any
    curve: list[Any]
    rest: Rest | None = None  # None for moving goals and older results

    def __post_init__(self) -> None:
        for row in (self.last, *self.curve):
            msgspec.convert(row, Point)
        if not self.curve or not {*map(str, LADDER_MM)} <= self.success.keys():
            raise ValueError(f"expected a curve, and the success within {', '.join(map(str, LADDER_MM))} mm")


class Kept(msgspec.Struct):
    """The content of a result file."""

    trial: dict[str, Any]
    result: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A training and its folder, and the number and seed of the held-out goals for its evaluation."""

    config: TrainConfig | BaselineConfig
    folder: Path
    goals: int
    goals_seed: int

    @property
    def result_file(self) -> Path:
        return self.folder / "trial.json"

    @property
    def cores(self) -> int:
        """Number of cores: one for each process of the training."""
        if isinstance(self.config, BaselineConfig):
            return self.config.processes
        return max(self.config.processes, self.config.settings.worker_processes)

    def to_json(self) -> dict[str, Any]:
        """Plain values for its process, with the format of run folders, since another format is another trial."""
        config = plain_values(self.config)
        return {"config": config, "goals": self.goals, "goals_seed": self.goals_seed, "format_version": FORMAT_VERSION}

    def identity(self) -> dict[str, Any]:
        """Like `to_json`, but independent of the path of the arm's file. Raises OSError if that cannot be read."""
        if isinstance(self.config, BaselineConfig):
            return self.to_json()
        return self.to_json() | {"config": self.config.identity()}

    @classmethod
    def from_json(cls, folder: Path, values: dict[str, Any]) -> "Trial":
        """Rebuild a trial from the values of `to_json`."""
        config = values["config"]
        read: TrainConfig | BaselineConfig
        if config["agent"] in BASELINES:
            read = BaselineConfig(**config | {"imperfections": imperfections_from_json(config["imperfections"])})
        else:
            read = TrainConfig.from_json(config)
        return cls(read, folder, values["goals"], values["goals_seed"])

    def result(self) -> dict[str, Any] | None:
        """Its figures if it is finished, otherwise None. Raises ValueError for a folder of another trial."""
        # A finished trial has a result file.
        if self.result_file.exists():
            try:
                kept = msgspec.convert(read_json(self.result_file, LARGEST_RESULT), Kept)
            except (OSError, ValueError, msgspec.ValidationError) as error:
                raise ValueError(f"{self.result_file} is damaged ({error})") from None
            self._check(kept.trial)
            try:
                msgspec.convert(kept.result, Result)
            except msgspec.ValidationError as error:
                raise ValueError(f"{self.result_file} is damaged ({error})") from None
            return kept.result
        # An interrupted one has a run folder.
        if isinstance(self.config, TrainConfig) and self.folder.exists():
            run, values = RunFolder.open(self.folder)
            config = TrainConfig.from_json(values, run.path)
            self._check(self.identity() | {"config": config.identity()})
        return None

    def _check(self, stored: dict[str, Any]) -> None:
        """Raise ValueError, naming the first field that differs, unless a stored trial is this one."""
        own = self.identity()
        if stored == own:
            return
        # Find a field that differs, in the trial or in its configuration.
        settings = stored.get("config")
        own_fields = {**own, **own["config"]}
        stored_fields = {**stored, **(settings if isinstance(settings, dict) else {})}
        different = "config"
        for name in (*own_fields, *stored_fields):
            if name != "config" and own_fields.get(name) != stored_fields.get(name):
                different = name
                break
        raise ValueError(
            f"{self.folder} is of another comparison, with {different} {stored_fields.get(different)} instead of "
            f"{own_fields.get(different)}: choose another folder with --out"
        )

    def run(self) -> None:
        """Train or resume, evaluate and time; the result is written at the end."""
        if isinstance(self.config, BaselineConfig):
            result = _run_baseline(self, self.config)
        else:
            result = _run_own(self, self.config)
        self.folder.mkdir(parents=True, exist_ok=True)
        check_no_link(self.result_file)
        write_text(self.result_file, json.dumps({"trial": self.identity(), "result": result}) + "\n")


def _run_own(trial: Trial, config: TrainConfig) -> dict[str, Any]:
    """Train one of our agents, evaluate its best policy, and time a decision of the exported policy."""
    from arm_control.evaluation.opening import evaluate
    from arm_control.exporter.exporter import export
    from arm_control.runner import PolicyRunner
    from arm_control.runs.checkpoint import list_checkpoints
    from arm_control.training.loop import resume, train

    run = RunFolder(trial.folder)
    with peak_memory() as memory_mb:
        if list_checkpoints(run.checkpoints):
            resume(run.path)
        else:
            train(config, run.path)
    rows = run.read_metrics()
    figures = evaluate(run.path, goals=trial.goals, seed=trial.goals_seed)
    # Time the exported policy in the middle of the joints' ranges.
    runner = PolicyRunner.load(export(run.path))
    middle = 0.5 * (np.array(runner.limits.lower_deg) + np.array(runner.limits.upper_deg))
    readings = (middle.tolist(), [0.0] * len(middle))
    goal = runner.arm.forward_kinematics(middle).tolist()
    decision_us = median_us(lambda: runner.step(*readings, goal))
    return _figures(rows, figures, memory_mb(), decision_us)


def _run_baseline(trial: Trial, config: BaselineConfig) -> dict[str, Any]:
    """Train a baseline, evaluate its best validated policy, and time its decision."""
    import torch

    from arm_control.evaluation.metrics import evaluate_controller
    from arm_control.evaluation.validation import Validation
    from arm_control.runs.environment import environment_maker

    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    best: Any = None

    def report(controller: BaselineController, step: int, elapsed_s: float) -> None:
        """Validate as often as a training of ours does; keep the figures and the best validated policy."""
        nonlocal best
        if not validation.is_due(step, elapsed_s):
            return
        rows.append({"step": step, "elapsed_s": elapsed_s, **validation(controller)})
        if is_kept(rows[-1]["mean_error_mm"], min(row["mean_error_mm"] for row in rows)):
            best = controller.snapshot()
        say(f"{elapsed_s:5.0f} s  {step:>9,} steps  error {rows[-1]['mean_error_mm']:6.2f} mm")

    with peak_memory() as memory_mb, contextlib.closing(Validation(config.task)) as validation:
        controller = train_baseline(config, REPORTS, report)
    # Evaluate the best validated policy.
    controller.restore(best)
    figures = evaluate_controller(controller, config.task, goals=trial.goals, seed=trial.goals_seed)
    env = environment_maker(config.task)()
    observation, _ = env.reset(seed=0)
    decision_us = median_us(lambda: controller.decide(observation))
    env.close()
    return _figures(rows, figures, memory_mb(), decision_us)


def _figures(
    rows: list[dict[str, Any]], figures: dict[str, Any], memory_mb: float, decision_us: float
) -> dict[str, Any]:
    """The figures of a trial, with the columns of its learning curve that are plotted."""
    names = ("step", "elapsed_s", "mean_error_mm")
    curve = []
    for row in rows:
        curve.append({name: row[name] for name in row if name in names or name.startswith("success_")})
    return {**figures, "last": rows[-1], "memory_mb": memory_mb, "decision_us": decision_us, "curve": curve}


def median_us(work: Callable[[], Any]) -> float:
    """Median duration of an operation in us."""
    times = []
    for _ in range(DECISIONS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return 1e6 * median(times)


@contextmanager
def peak_memory() -> Iterator[Callable[[], float]]:
    """Measure the peak memory in MB of this process and its children; shared memory counts once (PSS)."""
    import psutil

    peak = 0.0
    ended = threading.Event()

    def sample() -> None:
        """Measure now."""
        nonlocal peak
        # The sum over this process and its children.
        total = 0
        own = psutil.Process()
        for process in (own, *own.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except psutil.Error:  # the process has exited meanwhile
                continue
        peak = max(peak, total / 1e6)

    def sample_regularly() -> None:
        """Measure at intervals until the end."""
        while not ended.wait(MEMORY_EVERY_S):
            sample()

    thread = threading.Thread(target=sample_regularly, daemon=True)
    thread.start()
    try:
        yield lambda: peak
        sample()
    finally:
        ended.set()
        thread.join()


def end_with(parent: int) -> None:
    """Let this process receive SIGTERM when its parent exits (Linux: PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


def main() -> int:
    """Run a trial. Arguments: the parent's process id, the folder, and the trial as JSON."""
    from arm_control.process.errors import complain

    parent, folder, values = sys.argv[1:]
    end_with(int(parent))
    try:
        Trial.from_json(Path(folder), json.loads(values)).run()
        return 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        return complain(" ".join(str(error).split()))


if __name__ == "__main__":
    sys.exit(main())
