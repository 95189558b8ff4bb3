"""Episodes of a controller in several environments at once, and the distances and poses recorded in them."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from arm_control.evaluation.controllers import Controller, Observation, begin_episodes
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
    """Episodes of one task: distances to the goal (goals, steps + 1) in metres, the first at reset.

    `targets_deg` and `angles_deg` (goals, steps, joints) are the sent targets and true angles of the last 0.5 s, empty
    if not recorded.
    """

    distances_m: NDArray[np.float64]
    task: Task
    control_period_s: float
    targets_deg: NDArray[np.float64] = field(default_factory=_no_angles)
    angles_deg: NDArray[np.float64] = field(default_factory=_no_angles)

    @property
    def error_mm(self) -> NDArray[np.float64]:
        """The task's error (goals,): the distance at the last step, or the RMS error of tracking."""
        return 1000.0 * self.task.errors_m(self.distances_m)

    @property
    def returns(self) -> NDArray[np.float64]:
        """Return (goals,): the sum of minus the distance over the episode, whatever the reward of the training."""
        sums: NDArray[np.float64] = self.distances_m[:, 1:].sum(axis=1)
        return -sums

    @property
    def rest_fault(self) -> str | None:
        """The reason why figures of rest are undefined; None if they are defined."""
        episode_steps = self.distances_m.shape[1] - 1
        return rest_fault(rest_steps(self.control_period_s, episode_steps), moving=self.task.moving)


class Arms:
    """Several environments, kept from one roll-out to the next, since making one takes longer than an episode."""

    def __init__(self, make_env: MakeEnv, count: int) -> None:
        """Make `count` environments, but no more than ARMS_AT_ONCE."""
        self._envs: list[Any] = [make_env().unwrapped for _ in range(min(ARMS_AT_ONCE, count))]

    def roll_out(
        self, controller: Controller, seeds: Sequence[int], on_episodes: Callable[[int], None] = lambda _: None
    ) -> Rollouts:
        """Run one episode per seed, several at once; without a recurrent state, results do not depend on the others.

        `on_episodes` is called with the number of episodes done so far.
        """
        parts = []
        for start in range(0, len(seeds), len(self._envs)):
            # One episode in each environment; the last time, only in as many as there are seeds left.
            together = self._envs[: len(seeds) - start]
            end = start + len(together)
            parts.append(_episodes(controller, together, seeds[start:end]))
            on_episodes(end)
        return joined(parts)

    @property
    def first(self) -> "ArmEnv":
        """The first environment, for what is the same for all."""
        return cast("ArmEnv", self._envs[0])

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()


def roll_out(controller: Controller, make_env: MakeEnv, seeds: list[int]) -> Rollouts:
    """Run one episode per seed, in new environments."""
    with contextlib.closing(Arms(make_env, len(seeds))) as arms:
        return arms.roll_out(controller, seeds)


def _episodes(controller: Controller, arms: list[Any], seeds: Sequence[int]) -> Rollouts:
    """Run one episode in each environment, with the actions of all computed in one batch."""
    first: ArmEnv = arms[0]
    window = RestWindow(first.simulation.control_period_s, first.episode_steps)
    begin_episodes(controller)
    # Reset.
    observations = []
    distances_m = []
    for arm, seed in zip(arms, seeds, strict=True):
        observation, info = arm.reset(seed=seed)
        observations.append(observation)
        distances_m.append(info["distance_m"])
    distances = [distances_m]
    record_rest(window, arms)
    # Step all environments until their common time limit.
    truncated = False
    while not truncated:
        actions = controller(_stacked(observations), arms)
        observations = []
        distances_m = []
        for arm, action in zip(arms, actions, strict=True):
            observation, _, _, truncated, info = arm.step(action)
            observations.append(observation)
            distances_m.append(info["distance_m"])
        distances.append(distances_m)
        record_rest(window, arms)
    return rollouts_of(first, np.array(distances).T, window)


def _stacked(observations: list[Observation]) -> Observation:
    """The observations of several environments as one batch."""
    batch = {}
    for key in observations[0]:
        batch[key] = np.stack([observation[key] for observation in observations])
    return batch


def record_rest(window: RestWindow, arms: Sequence["ArmEnv"]) -> None:
    """Record the sent targets and the true angles of all arms; measured angles of an imperfect arm have noise."""
    window.add_targets([arm.target_deg for arm in arms])
    window.add_angles([arm.simulation.angles_deg for arm in arms])


def rollouts_of(env: "ArmEnv", distances_m: NDArray[np.float64], window: RestWindow) -> Rollouts:
    """The episodes' distances and window of rest, with the task and period of their environment."""
    period_s = env.simulation.control_period_s
    return Rollouts(distances_m, env.task, period_s, window.targets_deg, window.angles_deg)


def joined(parts: Sequence[Rollouts]) -> Rollouts:
    """Concatenate roll-outs of the same task."""
    return dataclasses.replace(
        parts[0],
        distances_m=np.concatenate([part.distances_m for part in parts]),
        targets_deg=np.concatenate([part.targets_deg for part in parts]),
        angles_deg=np.concatenate([part.angles_deg for part in parts]),
    )
