"""Random steps of every environment, a million in `make soak`: no measurement leaves the observation space."""

import functools
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
import pytest
from helpers import Size
from numpy.typing import NDArray

import envs  # noqa: F401  (registers the ids)
from envs.arm import RADIANS, Arm
from envs.arm_env import ANGLE_MARGIN_DEG, SPEED_MARGIN
from envs.vector.env import ArmVectorEnv

pytestmark = pytest.mark.slow

NUM_ENVS, CHUNK = 50, 250
SMALL, FULL = 25_000, 1_000_000  # steps: an even number of chunks of NUM_ENVS * CHUNK
CASES = [
    ("ArmReach-v0", "ideal"),
    ("ArmReachDiscrete-v0", "ideal"),
    ("ArmReachMultiDiscrete-v0", "ideal"),
    ("ArmTrack-v0", "ideal"),
    ("ArmTrack-v0", "rough"),
]


def fractions(chunk: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Actions (CHUNK, NUM_ENVS, 3) from 0 to 1 of their range: uniform in even chunks, else in its corners.

    Corners are held for one step, as a broken controller would, up to twenty, in which a joint gets to full speed.
    """
    anywhere = generator.random((CHUNK, NUM_ENVS, 3))
    if chunk % 2 == 0:
        return anywhere
    corners = np.round(anywhere)
    held = generator.random((CHUNK, NUM_ENVS, 3)) > 1 / np.linspace(1, 20, NUM_ENVS)[:, None]
    for step in range(1, CHUNK):
        corners[step] = np.where(held[step], corners[step - 1], corners[step])
    return corners


def as_actions(space: gymnasium.Space[Any], fraction: NDArray[np.float64]) -> NDArray[Any]:
    """The environment's actions at these fractions (..., 3) of the range."""
    if isinstance(space, gymnasium.spaces.Box):
        return (space.low + fraction * (space.high - space.low)).astype(np.float32)
    positions = np.round(90 * fraction).astype(np.int64)
    return positions @ (91 * 91, 91, 1) if isinstance(space, gymnasium.spaces.Discrete) else positions


@pytest.mark.parametrize(("name", "imperfections"), CASES)
def test_random_steps_stay_inside_the_observation_space(name: str, imperfections: str, size: Size) -> None:
    """Uniform actions and held corners of the action space move the joints everywhere, and no measurement leaves it."""
    steps = size(SMALL, full=FULL, of="steps")
    make_env = functools.partial(
        gymnasium.make, name, disable_env_checker=True, imperfections=imperfections, episode_steps=CHUNK - 1
    )
    generator, limits = np.random.default_rng(0), Arm().limits
    lowest, highest, done, violent = np.full(12, np.inf), np.full(12, -np.inf), 0, 0
    with closing(ArmVectorEnv(make_env, NUM_ENVS, processes=2)) as env:
        spaces: Any = env.single_observation_space
        columns = {key: np.empty((CHUNK, NUM_ENVS, *box.shape), np.float32) for key, box in spaces.items()}
        env.reset(seed=0)
        for chunk in range(steps // (NUM_ENVS * CHUNK)):
            actions = as_actions(env.single_action_space, fractions(chunk, generator))
            for step in range(CHUNK):
                observation, _, _, truncated, infos = env.step(actions[step])
                for key, column in columns.items():
                    column[step] = observation[key]
                for index in np.flatnonzero(truncated):  # the last observation, not the first of the next episode
                    for key, column in columns.items():
                        column[step, index] = infos["final_obs"][index][key]
            for key, column in columns.items():
                inside = (column >= spaces[key].low) & (column <= spaces[key].high)
                assert inside.all(), (key, chunk, np.argwhere(~inside)[:5].tolist(), column[~inside][:5])
            lowest = np.minimum(lowest, columns["observation"].min((0, 1)))
            highest = np.maximum(highest, columns["observation"].max((0, 1)))
            done, violent = done + CHUNK * NUM_ENVS, violent + chunk % 2 * CHUNK * NUM_ENVS
    assert (done, violent) == (steps, steps // 2)

    low, high = lowest / RADIANS, highest / RADIANS
    lower, upper, speed = (np.array(row) for row in (limits.lower_deg, limits.upper_deg, limits.max_speed_deg_s))
    # The joints reached both ends and most of their speed.
    assert (low[:3] < lower + 1).all()
    assert (high[:3] > upper - 1).all()
    assert (np.minimum(-low[3:6], high[3:6]) > 0.7 * speed).all()
    assert (np.minimum(-low[9:], high[9:]) > 0.7 * speed).all()
    if imperfections == "ideal":
        assert (low[:3] >= lower - ANGLE_MARGIN_DEG).all()
        assert (high[:3] <= upper + ANGLE_MARGIN_DEG).all()
        assert (np.maximum(-low[3:6], high[3:6]) <= SPEED_MARGIN * speed).all()
