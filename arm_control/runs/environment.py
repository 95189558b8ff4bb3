"""The environment of a run's configuration."""

import functools
from collections.abc import Callable
from typing import Any

import gymnasium

import envs  # noqa: F401  (registers the environments)
from arm_control.runs.config import TrainConfig

MakeEnv = Callable[[], gymnasium.Env[Any, Any]]


def environment_maker(config: TrainConfig, **other: Any) -> MakeEnv:
    """A picklable function that makes a run's environment, or one with `other` options.

    It leaves out Gymnasium's checker, which halves the speed.
    """
    options = config.environment_options() | other
    return functools.partial(gymnasium.make, config.env, disable_env_checker=True, **options)
