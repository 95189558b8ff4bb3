"""Validation during a training: on goals of its own, within a bounded fraction of the training's steps or time."""

import contextlib
import time

from arm_control.evaluation.controllers import Controller
from arm_control.evaluation.episodes import Arms
from arm_control.evaluation.metrics import LADDER_MM
from arm_control.runs.config import DEFAULT_STEPS, TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.runs.seeding import VALIDATION, derived_seeds

VALIDATION_GOALS = 50
LEAST_VALIDATION_GOALS = 5
REPORTS = 20  # validations and reports in a training, at most
KEPT_WITHIN = 1.5  # largest error of a policy that is kept, relative to the lowest so far
VALIDATION_FRACTION = 0.25  # of a training's steps or time: validations take at most a fifth of the whole


def validation_goals(config: TrainConfig, episode_steps: int) -> int:
    """Number of goals of each validation: fewer for short trainings, so that all validations fit into their budget."""
    if config.minutes is not None:
        return VALIDATION_GOALS
    budget_steps = VALIDATION_FRACTION * (config.steps or DEFAULT_STEPS)
    affordable = round(budget_steps / (REPORTS * episode_steps))
    return min(VALIDATION_GOALS, max(LEAST_VALIDATION_GOALS, affordable))


class Validation:
    """Evaluates the policy during a training, on a few goals of its own, for `metrics.jsonl`.

    The environments are kept from one validation to the next.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._seeds: list[int] = []
        self._arms: Arms | None = None
        self.count = 0  # number of validations so far, including those before the training was resumed
        self._seconds = 0.0  # duration of the validations of this process

    def is_due(self, step: int, elapsed_s: float) -> bool:
        """Return True if a validation is due: the first one, the one at the end, and others within their budget.

        The budget is a fraction of the training's steps, so that a resumed training repeats it exactly; with --minutes,
        of its time.
        """
        if self.count == 0 or self._config.progress(step, elapsed_s) >= 1.0:
            return True
        if self._config.minutes is not None:
            return self._seconds <= VALIDATION_FRACTION * elapsed_s
        # The steps of all validations so far and this one.
        episode_steps = self._open().first.episode_steps
        return (self.count + 1) * len(self._seeds) * episode_steps <= VALIDATION_FRACTION * step

    def _open(self) -> Arms:
        if self._arms is None:
            make_env = environment_maker(self._config)
            with contextlib.closing(make_env()) as env:
                episode_steps: int = env.unwrapped.episode_steps  # type: ignore[attr-defined]
            self._seeds = derived_seeds(self._config.seed, VALIDATION, validation_goals(self._config, episode_steps))
            self._arms = Arms(make_env, len(self._seeds))
        return self._arms

    def __call__(self, controller: Controller) -> dict[str, float]:
        """Error, success and return of the present policy."""
        begin_s = time.monotonic()
        arms = self._open()
        rollouts = arms.roll_out(controller, self._seeds)
        self._seconds += time.monotonic() - begin_s
        self.count += 1
        error = rollouts.error_mm
        return {
            "mean_error_mm": float(error.mean()),
            "success": float((error <= 1000 * self._config.goal_tolerance_m).mean()),
            **{f"success_{mm}_mm": float((error <= mm).mean()) for mm in LADDER_MM},
            "return": float(rollouts.returns.mean()),
        }

    def close(self) -> None:
        """Close the environments."""
        if self._arms is not None:
            self._arms.close()


def is_kept(error_mm: float, lowest_mm: float) -> bool:
    """Return True if a policy replaces the one kept before it, given its validation error and the lowest so far.

    Validation has too few goals to resolve small differences, and longer training helps. So the latest policy is kept
    unless its error is clearly higher than the lowest.
    """
    return error_mm <= KEPT_WITHIN * lowest_mm
