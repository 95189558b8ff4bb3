"""The training loop of every agent: collect, update, validate, checkpoint. It can be interrupted and resumed."""

import copy
import shutil
import time
from pathlib import Path
from typing import Any

from arm_control.evaluation.torch_controller import TorchController, one_thread
from arm_control.evaluation.validation import REPORTS, Validation, is_kept
from arm_control.process.signals import stop_on_signals
from arm_control.runs.agent import fit_state
from arm_control.runs.checkpoint import list_checkpoints, load_latest, save_checkpoint
from arm_control.runs.config import TrainConfig
from arm_control.runs.run_folder import RunFolder
from arm_control.runs.seeding import TRAINING, derived_seeds
from arm_control.training.collector import Collector
from arm_control.training.progress import Reporter
from arm_control.training.workers import Workers
from envs.files import read_file
from envs.urdf import LARGEST_URDF

CHECKPOINT_EVERY_S = 10.0


@one_thread()
def train(config: TrainConfig, out: str | Path, *, quiet: bool = False) -> Path:
    """Train from the start into the new folder `out`, and return it.

    Raises ValueError, before anything is written, for a configuration that could not be read back from the folder.
    """
    config = config.as_read_back()
    with Training(config) as training:  # before the folder is made, so that a bad configuration leaves none behind
        # Start from the networks of another run.
        if config.init is not None:
            _, state = load_latest(RunFolder.open(config.init)[0].checkpoints)
            fit_state(lambda: training.learner.load_networks(state), f"--init {config.init}")
        arm_urdf = None if config.arm is None else read_file(config.arm, LARGEST_URDF)
        run = RunFolder.create(out, config.to_json(), arm_urdf)
        try:
            with run.locked():
                training.run(run, quiet=quiet)
        except OSError:
            if not list_checkpoints(run.checkpoints):
                shutil.rmtree(run.path, ignore_errors=True)  # the first checkpoint could not be written
            raise
    return run.path


@one_thread()
def resume(path: str | Path, *, quiet: bool = False) -> Path:
    """Resume an interrupted run. With `--steps`, the result equals that of an uninterrupted run bit for bit."""
    run, values = RunFolder.open(path)
    config = TrainConfig.from_json(values, run.path)
    # Locked before anything is read that another process may be writing, and before the metrics are cut.
    with run.locked():
        step, state = load_latest(run.checkpoints)
        with Training(config) as training:
            fit_state(lambda: training.load_state_dict(state), str(run.config))
            run.cut_metrics(step)
            training.run(run, quiet=quiet)
    return run.path


class Training:
    """One training: its learner (a collector or A3C's workers), its validation, and its counters."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._validation = Validation(config)
        self.learner: Collector | Workers
        if config.settings.worker_processes:
            self.learner = Workers(config)
        else:
            self.learner = Collector(config, derived_seeds(config.seed, TRAINING, config.num_envs))
        self.step = 0
        self.updates = 0
        self.elapsed_s = 0.0
        # The best validated policy: its step, its error, its networks, and the lowest error of all so far.
        self._best: dict[str, Any] | None = None

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_: object) -> None:
        self.learner.close()
        self._validation.close()

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 at the end."""
        return self.config.progress(self.step, self.elapsed_s)

    def state_dict(self) -> dict[str, Any]:
        """The complete state of the training."""
        learner = self.learner.state_dict()
        counters = {"step": self.step, "updates": self.updates, "elapsed_s": self.elapsed_s}
        return {**learner, **counters, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self.learner.load_state_dict(state)
        self.step = state["step"]
        self.updates = state["updates"]
        self.elapsed_s = state["elapsed_s"]
        self._best = state["best"]

    def run(self, run: RunFolder, *, quiet: bool) -> None:
        """Train to the end, with a last checkpoint. On Ctrl-C, write a checkpoint and raise KeyboardInterrupt.

        The caller must have locked the run.
        """
        last_checkpoint = time.monotonic()
        next_report = (int(self.progress * REPORTS + 1e-9) + 1) / REPORTS
        self._validation.count = len(run.read_metrics())
        metrics: dict[str, float] = {}
        with stop_on_signals() as stopped:
            reporter = Reporter(run, self.config, self.step, self.elapsed_s, quiet=quiet)
            if self.step == 0 and not list_checkpoints(run.checkpoints):
                self._save(run, reporter)  # so that a run can be resumed from its start
            while self.progress < 1.0 and not stopped():
                # Collect steps and update the agent; only this time counts as training time.
                begin = time.monotonic()
                metrics |= self.advance()
                self.elapsed_s += time.monotonic() - begin
                # Validate and report: first with the first update, then at fixed fractions of the run.
                report_is_due = self._validation.count == 0
                if self.progress >= next_report:
                    next_report = (int(self.progress * REPORTS + 1e-9) + 1) / REPORTS
                    report_is_due = True
                if report_is_due and self._may_validate():
                    self._report(reporter, metrics)
                elif not quiet:
                    reporter.tick(self.step, self.updates, self.elapsed_s, self.progress)
                # Checkpoint.
                if time.monotonic() - last_checkpoint > CHECKPOINT_EVERY_S:
                    self._save(run, reporter)
                    last_checkpoint = time.monotonic()
            self._save(run, reporter)
            reporter.close(self.step, self.elapsed_s, finished=self.progress >= 1.0)
            if self.progress < 1.0:
                raise KeyboardInterrupt

    def advance(self) -> dict[str, float]:
        """Advance the learner by a step or update, and return the metrics of an update, if there was one."""
        done = self.learner.advance(lambda steps: self.config.progress(self.step + steps, self.elapsed_s))
        self.step += done.steps
        self.updates += done.updates
        return done.metrics

    def _may_validate(self) -> bool:
        """Return True if a validation is allowed: after the first update and within its budget, or at the end."""
        return (self.updates > 0 or self.progress >= 1.0) and self._validation.is_due(self.step, self.elapsed_s)

    def _report(self, reporter: Reporter, metrics: dict[str, float]) -> None:
        """Validate the present policy, keep it if it is the best so far, and report its figures."""
        policy = self.learner.policy()
        figures = self._validation(TorchController(policy))
        error_mm = figures["mean_error_mm"]
        lowest_mm = error_mm if self._best is None else min(error_mm, self._best["lowest_mm"])
        if is_kept(error_mm, lowest_mm):
            networks = copy.deepcopy(policy.state_dict())
            self._best = {"step": self.step, "mean_error_mm": error_mm, "lowest_mm": lowest_mm, "policy": networks}
        counters = {
            "step": self.step,
            "updates": self.updates,
            "elapsed_s": round(self.elapsed_s, 3),
            "progress": self.progress,
        }
        reporter.report(counters, figures, metrics)

    def _save(self, run: RunFolder, reporter: Reporter) -> None:
        reporter.flush()
        save_checkpoint(run.checkpoints, self.step, self.state_dict())
