"""References of an evaluation: uniformly random targets (normalised return 0) and inverse kinematics (1)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from arm_control.evaluation.controllers import FloatArray, IKController, RandomController
from arm_control.evaluation.episodes import Arms, Rollouts, joined, record_rest, rollouts_of
from arm_control.runner.rest import RestWindow
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from envs.tasks import continuous_id, environment_of

if TYPE_CHECKING:
    from envs.arm_env import ArmEnv

# The normalised return is defined only if inverse kinematics reaches this fraction of the goals, within this fraction
# of the arm's reach (10 mm for the default arm), and its return exceeds the random one by this fraction of it.
LEAST_REACHED = 0.5
NEAR = 1 / 70
LEAST_GAIN = 0.1

Reference = Literal["random", "ik"]


@dataclass(frozen=True)
class Batch:
    """Consecutive episodes of a reference, with the number of the first one."""

    reference: Reference
    first: int
    seeds: tuple[int, ...]
    measure_rest: bool = False


class ReferenceEpisodes:
    """Simulates the references of an evaluation: uniformly random targets, and inverse kinematics.

    They have the starts and goals of the evaluation, and always continuous targets.
    """

    def __init__(self, config: TrainConfig, seed: int) -> None:
        self._moving = environment_of(config.env).task.moving
        self._config = dataclasses.replace(config, env=continuous_id(config.env), control="absolute", grid_step_deg=1.0)
        self._seed = seed
        self._arms: Arms | None = None

    def fits(self, config: TrainConfig) -> bool:
        """Return True if a configuration has the environment of the references."""
        own = self._config
        return config.env == own.env and config.environment_options() == own.environment_options()

    def share(self, arms: Arms) -> None:
        """Use these environments, which must fit, instead of making others."""
        self._arms = arms

    def __call__(self, batch: Batch) -> Rollouts:
        """Simulate the episodes of a batch, which do not depend on other batches."""
        if self._arms is None:
            # One arm is enough for targets that are known beforehand: making more takes memory and time.
            self._arms = Arms(environment_maker(self._config), len(batch.seeds) if self._moving else 1)
        if self._moving and batch.reference == "ik":
            return self._arms.roll_out(IKController(), batch.seeds)
        env = self._arms.first
        targets = self._random_targets(env, batch) if batch.reference == "random" else _ik_targets(env, batch.seeds)
        parts = []
        for number, seed in enumerate(batch.seeds):
            parts.append(_open_loop(env, seed, targets[:, number], measure_rest=batch.measure_rest))
        return joined(parts)

    def _random_targets(self, env: "ArmEnv", batch: Batch) -> FloatArray:
        """Targets (steps, episodes, joints), as one controller would draw them for all batches in order."""
        controller = RandomController(self._seed)
        controller.skip(batch.first * env.episode_steps * env.arm.joint_count)
        return controller.draw(env.action_space, env.episode_steps, len(batch.seeds))

    def close(self) -> None:
        """Close the environments."""
        if self._arms is not None:
            self._arms.close()


def _open_loop(env: "ArmEnv", seed: int, targets: FloatArray, *, measure_rest: bool) -> Rollouts:
    """Run one episode with given targets (steps, joints)."""
    period_s = env.simulation.control_period_s
    distances = [env.reset(seed=seed)[1]["distance_m"]]
    if not measure_rest:
        distances += [env.step(target)[4]["distance_m"] for target in targets]
        return Rollouts(np.array([distances]), env.task, period_s)
    window = RestWindow(period_s, env.episode_steps)
    record_rest(window, [env])
    for target in targets:
        distances.append(env.step(target)[4]["distance_m"])
        record_rest(window, [env])
    return rollouts_of(env, np.array([distances]), window)


def _ik_targets(env: "ArmEnv", seeds: Sequence[int]) -> FloatArray:
    """Targets (steps, episodes, joints) for fixed goals: the poses from inverse kinematics."""
    observations = [env.reset(seed=seed)[0] for seed in seeds]
    batch = {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
    poses: FloatArray = IKController()(batch, [env])
    return np.broadcast_to(poses, (env.episode_steps, *poses.shape))


def reference_fault(
    planned_error_mm: NDArray[np.float64], near_mm: float, random_return: float, planned_return: float
) -> str | None:
    """The reason why the normalised return is undefined; None if it is defined."""
    reached = float((planned_error_mm <= near_mm).mean())
    if reached < LEAST_REACHED:
        return (
            f"inverse kinematics itself reaches {reached:.1%} of the goals within {near_mm:.3g} mm "
            "(episodes too short for the arm, or an arm too imperfect)"
        )
    if planned_return - random_return < LEAST_GAIN * abs(random_return):
        returns = f"{planned_return:.3g} and {random_return:.3g}"
        return f"inverse kinematics is hardly better than random targets: returns of {returns}"
    return None
