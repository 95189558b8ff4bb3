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

ARMS, CHUNK = 50, 500
SMALL, FULL = 50_000, 1_000_000  # steps: an even number of chunks of ARMS * CHUNK
CASES = [
    ("ArmReach-v0", "ideal"),
    ("ArmReachDiscrete-v0", "ideal"),
    ("ArmReachMultiDiscrete-v0", "ideal"),
    ("ArmTrack-v0", "ideal"),
    ("ArmTrack-v0", "rough"),
]


def shares(chunk: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Actions (CHUNK, ARMS, 3) from 0 to 1 of their range: every other chunk anywhere, else in its corners.

    Corners are held for one step, as a broken controller would, up to twenty, in which a joint gets to full speed.
    """
    anywhere = generator.random((CHUNK, ARMS, 3))
    if chunk % 2 == 0:
        return anywhere
    corners = np.round(anywhere)
    held = generator.random((CHUNK, ARMS, 3)) > 1 / np.linspace(1, 20, ARMS)[:, None]
    for step in range(1, CHUNK):
        corners[step] = np.where(held[step], corners[step - 1], corners[step])
    return corners


def as_actions(space: gymnasium.Space[Any], share: NDArray[np.float64]) -> NDArray[Any]:
    """The environment's actions for such shares (..., 3) of the range."""
    if isinstance(space, gymnasium.spaces.Box):
        return (space.low + share * (space.high - space.low)).astype(np.float32)
    positions = np.round(90 * share).astype(np.int64)
    return positions @ (91 * 91, 91, 1) if isinstance(space, gymnasium.spaces.Discrete) else positions


@pytest.mark.parametrize(("name", "imperfections"), CASES)
def test_random_steps_stay_inside_the_observation_space(name: str, imperfections: str, size: Size) -> None:
    """Half of the actions are uniform, half are corners of the action space that are held for some steps."""
    steps = size(SMALL, full=FULL, of="steps")
    make_env = functools.partial(
        gymnasium.make, name, disable_env_checker=True, imperfections=imperfections, episode_steps=CHUNK - 1
    )
    generator, limits = np.random.default_rng(0), Arm().limits
    lowest, highest, done, violent = np.full(12, np.inf), np.full(12, -np.inf), 0, 0
    with closing(ArmVectorEnv(make_env, ARMS, processes=2)) as env:
        spaces: Any = env.single_observation_space
        columns = {key: np.empty((CHUNK, ARMS, *box.shape), np.float32) for key, box in spaces.items()}
        env.reset(seed=0)
        for chunk in range(steps // (ARMS * CHUNK)):
            actions = as_actions(env.single_action_space, shares(chunk, generator))
            for step in range(CHUNK):
                observation, _, _, truncated, infos = env.step(actions[step])
                for key, column in columns.items():
                    column[step] = observation[key]
                for arm in np.flatnonzero(truncated):  # what it saw last, not what it begins its next episode with
                    for key, column in columns.items():
                        column[step, arm] = infos["final_obs"][arm][key]
            for key, column in columns.items():
                inside = (column >= spaces[key].low) & (column <= spaces[key].high)
                assert inside.all(), (key, chunk, np.argwhere(~inside)[:5].tolist(), column[~inside][:5])
            lowest = np.minimum(lowest, columns["observation"].min((0, 1)))
            highest = np.maximum(highest, columns["observation"].max((0, 1)))
            done, violent = done + CHUNK * ARMS, violent + chunk % 2 * CHUNK * ARMS
    assert (done, violent) == (steps, steps // 2)

    low, high = lowest / RADIANS, highest / RADIANS
    lower, upper, speed = (np.array(row) for row in (limits.lower_deg, limits.upper_deg, limits.max_speed_deg_s))
    # They did go everywhere.
    assert (low[:3] < lower + 1).all()
    assert (high[:3] > upper - 1).all()
    assert (np.minimum(-low[3:6], high[3:6]) > 0.7 * speed).all()
    assert (np.minimum(-low[9:], high[9:]) > 0.7 * speed).all()
    if imperfections == "ideal":
        assert (low[:3] >= lower - ANGLE_MARGIN_DEG).all()
        assert (high[:3] <= upper + ANGLE_MARGIN_DEG).all()
        assert (np.maximum(-low[3:6], high[3:6]) <= SPEED_MARGIN * speed).all()
