"""Steps of environments under random actions, and their comparison bit for bit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.arm_env import ArmEnv

Step = tuple[dict[str, NDArray[np.float32]], float, bool, bool, dict[str, Any]]


def actions(count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """Random angles of three joints from 0 to 90 degrees."""
    return list(np.random.default_rng(seed).uniform(0, 90, (count, 3)).astype(np.float32))


def roll(env: ArmEnv, moves: list[NDArray[np.float32]]) -> list[Step]:
    """The results of one step an action."""
    return [env.step(move) for move in moves]


def bits(observation: dict[str, NDArray[np.float32]]) -> dict[str, bytes]:
    """An observation as comparable bytes."""
    return {key: value.tobytes() for key, value in observation.items()}


def same(one: list[Step], another: list[Step]) -> bool:
    """Return True if two rollouts are equal to the last bit, in every field."""
    if len(one) != len(another):
        return False
    return all(bits(a[0]) == bits(b[0]) and a[1:] == b[1:] for a, b in zip(one, another, strict=True))
