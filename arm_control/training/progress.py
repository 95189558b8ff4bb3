"""Reporter: writes a training's progress to the terminal, `metrics.jsonl`, TensorBoard and a learning curve."""

import json
import sys
import time
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from arm_control.process.console import say
from arm_control.runs.config import TrainConfig
from arm_control.runs.run_folder import RunFolder
from arm_control.training.learning_curve import draw_learning_curve
from envs.tasks import environment_of

TICK_S = 0.5


class Reporter:
    """Writes the reports of a training, and a live progress line with the latest validation between them."""

    def __init__(self, run: RunFolder, config: TrainConfig, step: int, elapsed_s: float, *, quiet: bool) -> None:
        self._run = run
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._latest = "not validated yet"
        self._tolerance_mm = 1000 * config.goal_tolerance_m
        self._error_name = environment_of(config.env).task.error_name
        self._last_tick = 0.0
        self._start = time.monotonic()
        self._first_progress = config.progress(step, elapsed_s)
        self._tensorboard = SummaryWriter(str(run.tensorboard), purge_step=step + 1 if step else None)  # type: ignore[no-untyped-call]
        verb = f"resuming from step {step:,}" if step else "training"
        self._say(f"{verb}: {config.agent} on {config.env}, seed {config.seed}, into {run.path}")

    def tick(self, step: int, updates: int, elapsed_s: float, progress: float) -> None:
        """Refresh the live line, twice a second at most."""
        now = time.monotonic()
        if self._live and now - self._last_tick > TICK_S:
            self._last_tick = now
            self._say(self._line(step, updates, elapsed_s, progress), end="\r")

    def report(self, counters: dict[str, Any], evaluation: dict[str, float], train: dict[str, float]) -> None:
        """Write one validation: as a line of metrics.jsonl, and to TensorBoard as time/, eval/ and train/ scalars.

        `counters` are at least step, updates, elapsed_s and progress; `train` are the metrics of the last update.
        """
        row = {**counters, **evaluation, **train}
        # A line of metrics.jsonl, and the same as TensorBoard scalars by group.
        with self._run.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for group, scalars in (("time", counters), ("eval", evaluation), ("train", train)):
            for name, value in scalars.items():
                if name != "step":
                    self._tensorboard.add_scalar(f"{group}/{name}", value, row["step"])  # type: ignore[no-untyped-call]
        # The line on the terminal.
        self._latest = f"error {row['mean_error_mm']:6.2f} mm, success {row['success']:4.0%}"
        self._say(self._line(row["step"], row["updates"], row["elapsed_s"], row["progress"]))

    def flush(self) -> None:
        """Flush TensorBoard's file."""
        self._tensorboard.flush()  # type: ignore[no-untyped-call]

    def close(self, step: int, elapsed_s: float, *, finished: bool) -> None:
        """Draw the learning curve, and print how the training ended and how to resume it."""
        self._tensorboard.close()  # type: ignore[no-untyped-call]
        rows = self._run.read_metrics()
        if rows:
            draw_learning_curve(rows, self._run.curve, self._tolerance_mm, self._error_name)
        how = "finished" if finished else "stopped"
        self._say(f"{how} at step {step:,} after {elapsed_s:.0f} s of training; checkpoint in {self._run.checkpoints}")
        if not finished:
            self._say(f"resume with: arm-control resume {self._run.path}")

    def _line(self, step: int, updates: int, elapsed_s: float, progress: float) -> str:
        speed = step / elapsed_s if elapsed_s else 0.0
        done = progress - self._first_progress  # by this process since its start, validations included
        line = f"{progress:4.0%}  {step:>9,} steps  {updates:>7,} updates  {self._latest}  {speed:5,.0f} steps/s"
        if progress >= 1:
            return f"{line}     0 s left"
        if done <= 0:  # no estimate yet
            return line
        # The time left, if the progress of this process continues.
        left_s = (time.monotonic() - self._start) * (1 - progress) / done
        return f"{line}  {left_s:4.0f} s left"

    def _say(self, text: str, end: str = "\n") -> None:
        if not self._quiet:
            say(text, live=self._live, end=end)
