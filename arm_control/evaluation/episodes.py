"""Episodes of a controller in environments side by side, and the distances and poses recorded in them."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from arm_control.evaluation.controllers import Controller, begin_episodes
from arm_control.runner.rest import RestWindow, rest_fault, rest_steps
from arm_control.runs.environment import MakeEnv
from envs.tasks.base import Task

if TYPE_CHECKING:
    from envs.arm_env import ArmEnv

ARMS_AT_ONCE = 25


def _no_angles() -> NDArray[np.float64]:
    return np.empty((0, 0, 0))


@dataclass(frozen=True)
class Rollouts:
    """Distances to the goal (goals, steps + 1) in metres, the first at reset, of a task, and the control period.

    `targets_deg` and `angles_deg` (goals, steps + 1, joints): sent targets and true angles of the last 0.5 s; they are
    empty where not recorded.
    """

    distances_m: NDArray[np.float64]
    task: Task
    control_period_s: float
    targets_deg: NDArray[np.float64] = field(default_factory=_no_angles)
    angles_deg: NDArray[np.float64] = field(default_factory=_no_angles)

    @property
    def error_mm(self) -> NDArray[np.float64]:
        """The error (goals,) as the task has it: at the last step, or the RMS of tracking."""
        return 1000.0 * self.task.errors_m(self.distances_m)

    @property
    def returns(self) -> NDArray[np.float64]:
        """Sum of minus the distance over the episode, whatever reward was trained on."""
        sums: NDArray[np.float64] = self.distances_m[:, 1:].sum(axis=1)
        return -sums

    @property
    def rest_fault(self) -> str | None:
        """The reason why there are no figures of rest; None if there are."""
        episode_steps = self.distances_m.shape[1] - 1
        return rest_fault(rest_steps(self.control_period_s, episode_steps), moving=self.task.moving)


class Arms:
    """Environments side by side, kept from one roll-out to the next: to make one takes longer than an episode."""

    def __init__(self, make_env: MakeEnv, count: int) -> None:
        """Make `count` environments, but no more than ARMS_AT_ONCE."""
        self._envs: list[Any] = [make_env().unwrapped for _ in range(min(ARMS_AT_ONCE, count))]

    def roll_out(
        self, controller: Controller, seeds: Sequence[int], on_episodes: Callable[[int], None] = lambda _: None
    ) -> Rollouts:
        """One episode a seed; a controller without memory gives each the result that it has alone.

        `on_episodes` is called with the number of episodes done so far.
        """
        parts = []
        for start in range(0, len(seeds), len(self._envs)):
            together = self._envs[: len(seeds) - start]
            parts.append(_episodes(controller, together, seeds[start : start + len(together)]))
            on_episodes(start + len(together))
        return joined(parts)

    @property
    def first(self) -> "ArmEnv":
        """One of them, for what is the same of all."""
        return cast("ArmEnv", self._envs[0])

    def close(self) -> None:
        """Close them all."""
        for env in self._envs:
            env.close()


def roll_out(controller: Controller, make_env: MakeEnv, seeds: list[int]) -> Rollouts:
    """One episode a seed, in environments of its own."""
    with contextlib.closing(Arms(make_env, len(seeds))) as arms:
        return arms.roll_out(controller, seeds)


def _episodes(controller: Controller, arms: list[Any], seeds: Sequence[int]) -> Rollouts:
    first: ArmEnv = arms[0]
    window = RestWindow(first.simulation.control_period_s, first.episode_steps)
    begin_episodes(controller)
    results = [arm.reset(seed=seed) for arm, seed in zip(arms, seeds, strict=True)]
    observations = [observation for observation, _ in results]
    distances = [[info["distance_m"] for _, info in results]]
    record_rest(window, arms)
    truncated = False
    while not truncated:
        batch = {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
        steps = [arm.step(action) for arm, action in zip(arms, controller(batch, arms), strict=True)]
        observations = [step[0] for step in steps]
        distances.append([step[4]["distance_m"] for step in steps])
        record_rest(window, arms)
        truncated = steps[0][3]
    return rollouts_of(first, np.array(distances).T, window)


def record_rest(window: RestWindow, arms: Sequence["ArmEnv"]) -> None:
    """Add what was sent to each arm, and where its joints really are: readings of an imperfect arm have noise."""
    window.add_targets([arm.target_deg for arm in arms])
    window.add_angles([arm.simulation.angles_deg for arm in arms])


def rollouts_of(env: "ArmEnv", distances_m: NDArray[np.float64], window: RestWindow) -> Rollouts:
    """Episodes in environments such as this one."""
    period_s = env.simulation.control_period_s
    return Rollouts(distances_m, env.task, period_s, window.targets_deg, window.angles_deg)


def joined(parts: Sequence[Rollouts]) -> Rollouts:
    """Roll-outs of the same task, one after the other."""
    return dataclasses.replace(
        parts[0],
        distances_m=np.concatenate([part.distances_m for part in parts]),
        targets_deg=np.concatenate([part.targets_deg for part in parts]),
        angles_deg=np.concatenate([part.angles_deg for part in parts]),
    )
