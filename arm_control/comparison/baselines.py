"""Baselines: learners of Stable-Baselines3 in the same environments, with the same budgets and evaluation as agents.

Actions are rescaled to [-1, 1] with `RescaleAction`, as learners with Gaussian actions require. The settings are those
of the library, or those of RL Baselines3 Zoo for PyBullet's reacher.
"""

import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
import tyro
from gymnasium.wrappers import RescaleAction
from numpy.typing import NDArray

from arm_control.evaluation.controllers import Observation
from arm_control.runs.checks import MOST_PROCESSES, check_choice, check_count
from arm_control.runs.config import TrainConfig, default_environment
from arm_control.runs.environment import environment_maker
from arm_control.runs.imperfections_flag import ImperfectionsFlag, as_imperfections

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

BASELINES = ("sb3-a2c", "sb3-ddpg", "sb3-ppo", "sb3-td3")
OFF_POLICY = ("sb3-ddpg", "sb3-td3")


@dataclass(frozen=True)
class BaselineConfig:
    """A learner of Stable-Baselines3."""

    agent: tyro.conf.Suppress[str]
    settings: Literal["defaults", "zoo"] = None  # type: ignore[assignment]
    """The library's own settings, or those of its zoo for PyBullet's reacher."""
    discount: float = None  # type: ignore[assignment]
    """Discount factor gamma."""
    processes: int = 1
    """Processes for the environments."""
    env: str = default_environment("degrees")
    """The environment's id."""
    imperfections: ImperfectionsFlag = "ideal"
    """Dynamics randomisation of servos and sensors: ideal, xl430 (a guess at such servos), rough, late, or a file
    written by 'identify --json'."""
    seed: int = 0
    """Seed of all random numbers."""
    steps: int | None = None
    """Length of the training in steps."""
    minutes: float | None = None
    """Length of the training in minutes, instead of --steps."""

    def __post_init__(self) -> None:
        check_choice("baseline", self.agent, BASELINES)
        object.__setattr__(self, "imperfections", as_imperfections(self.imperfections))
        best_settings, best_discount = BEST[self.agent]
        if self.settings is None:
            object.__setattr__(self, "settings", best_settings)
        if self.discount is None:
            object.__setattr__(self, "discount", best_discount)
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount: expected a number from 0 to 1, got {self.discount}")
        check_count("processes", self.processes, MOST_PROCESSES)
        if self.task.on_grid:
            raise ValueError(f"--env: {self.agent} requires actions in degrees, got {self.env}, of the degree grid")

    @property
    def task(self) -> TrainConfig:
        """Environment and length of the training, as a TrainConfig. Raises ValueError for invalid ones."""
        same = {name: getattr(self, name) for name in ("env", "imperfections", "seed", "steps", "minutes")}
        return TrainConfig("ddpg", **same)


# The best of both settings with a discount of 0.5 and of 0.9: see docs/comparison.md.
BEST: dict[str, tuple[Literal["defaults", "zoo"], float]] = {
    "sb3-a2c": ("zoo", 0.9),
    "sb3-ddpg": ("zoo", 0.5),
    "sb3-ppo": ("zoo", 0.5),
    "sb3-td3": ("zoo", 0.5),
}


class BaselineController:
    """A baseline's policy as a controller."""

    def __init__(self, model: "BaseAlgorithm") -> None:
        self._model = model
        self._normalizer = model.get_vec_normalize_env()

    def decide(self, observation: Observation) -> NDArray[np.float32]:
        """Actions from -1 to 1, as predicted by the library."""
        inputs: Any = observation
        if self._normalizer is not None:
            inputs = self._normalizer.normalize_obs(inputs)
        actions: NDArray[np.float32] = self._model.predict(inputs, deterministic=True)[0]
        return actions

    def __call__(self, observation: Observation, arms: list[Any]) -> NDArray[np.float32]:
        """Actions in degrees."""
        space = arms[0].action_space
        targets: NDArray[np.float32] = space.low + 0.5 * (self.decide(observation) + 1) * (space.high - space.low)
        return np.clip(targets, space.low, space.high)

    def snapshot(self) -> Any:
        """Copy the policy's parameters and the statistics of the observations."""
        statistics = None if self._normalizer is None else self._normalizer.obs_rms
        return copy.deepcopy((self._model.policy.state_dict(), statistics))

    def restore(self, snapshot: Any) -> None:
        """Restore what `snapshot` returned."""
        parameters, statistics = snapshot
        self._model.policy.load_state_dict(parameters)
        if self._normalizer is not None:
            self._normalizer.obs_rms = statistics


def train_baseline(
    config: BaselineConfig, reports: int, report: Callable[[BaselineController, int, float], None]
) -> BaselineController:
    """Train for the whole budget; `report(controller, step, elapsed_s)` is called `reports` times, off the clock."""
    from stable_baselines3.common.callbacks import BaseCallback

    task = config.task

    class Clock(BaseCallback):
        """Stops the training at the end of its budget, and the clock during reports."""

        def __init__(self) -> None:
            super().__init__()
            self.begin = time.perf_counter()
            self.reported = 0

        def progress(self) -> float:
            """From 0 to 1."""
            return task.progress(self.num_timesteps, time.perf_counter() - self.begin)

        def _on_step(self) -> bool:
            progress = self.progress()
            # Report, with the clock stopped.
            if progress * reports >= self.reported + 1:
                self.reported = int(progress * reports)
                now = time.perf_counter()
                report(BaselineController(self.model), self.num_timesteps, now - self.begin)
                self.begin += time.perf_counter() - now
            return progress < 1.0

    clock = Clock()
    with contextlib.closing(_environments(config)) as environments:
        model = _model(config, environments, lambda first: lambda _: first * (1.0 - clock.progress()))
        controller = BaselineController(model)
        clock.begin = time.perf_counter()
        model.learn(2**62, clock, log_interval=None)  # type: ignore[arg-type]
        return controller


def _environments(config: BaselineConfig) -> "VecEnv":
    """The environments of a training, scaled as its settings say."""
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

    make_arm = environment_maker(config.task)

    def make() -> gymnasium.Env[Any, Any]:
        """One of them."""
        return RescaleAction(make_arm(), np.float32(-1), np.float32(1))

    count = 1 if config.agent in OFF_POLICY else 8
    environments: VecEnv = (
        SubprocVecEnv([make] * count, start_method="fork") if config.processes > 1 else DummyVecEnv([make] * count)
    )
    environments.seed(config.seed)
    if config.settings == "zoo" and config.agent not in OFF_POLICY:
        environments = VecNormalize(environments, gamma=config.discount)
    return environments


def _model(
    config: BaselineConfig, environments: "VecEnv", linear: Callable[[float], Callable[[float], float]]
) -> "BaseAlgorithm":
    """A learner with its settings; `linear` makes a schedule that falls linearly from its initial value to zero.

    "defaults": those of Stable-Baselines3 2.9, with eight environments for on-policy learners, and the zoo's
    exploration noise for off-policy ones, which have none by default. "zoo": those of RL Baselines3 Zoo for
    ReacherBulletEnv-v0, without its observation of the remaining time.
    """
    import stable_baselines3
    from stable_baselines3.common.noise import NormalActionNoise
    from torch import nn

    # The settings that differ from the library's defaults.
    more: dict[str, Any] = {}
    if config.agent in OFF_POLICY:
        more["action_noise"] = NormalActionNoise(np.zeros(3), 0.1 * np.ones(3))
    if config.settings == "zoo":
        if config.agent in OFF_POLICY:
            more |= {"learning_rate": 1e-3, "buffer_size": 200_000, "learning_starts": 10_000}
            more |= {"policy_kwargs": {"net_arch": [400, 300]}}
        elif config.agent == "sb3-a2c":
            more |= {"learning_rate": linear(8e-4), "n_steps": 8, "gae_lambda": 0.9, "vf_coef": 0.4, "use_sde": True}
            more |= {"policy_kwargs": {"log_std_init": -2.0, "ortho_init": False}}
        else:
            more |= {"learning_rate": 3e-5, "clip_range": linear(0.4), "n_steps": 512, "batch_size": 64}
            more |= {"n_epochs": 20, "gae_lambda": 0.9, "use_sde": True, "sde_sample_freq": 4}
            network = {"net_arch": {"pi": [256, 256], "vf": [256, 256]}, "activation_fn": nn.ReLU}
            more |= {"policy_kwargs": {"log_std_init": -2.7, "ortho_init": False, **network}}
    kind = getattr(stable_baselines3, config.agent.removeprefix("sb3-").upper())
    model: BaseAlgorithm = kind(
        "MultiInputPolicy", environments, gamma=config.discount, seed=config.seed, device="cpu", **more
    )
    return model
