"""Builders and comparisons for the tests of agents: agents from their settings, random transitions, equal states."""

from typing import Any

import numpy as np
from torch import Tensor

from policies.agent import OBSERVATION_KEYS, FloatArray, Observation, Spec, Transition
from policies.common.settings import AgentSettings
from policies.registry import AGENTS, make_agent

NAMES = {kind: name for name, kind in AGENTS.items()}


def minus_distance(achieved_goal: Any, desired_goal: Any, info: Any = None) -> Any:
    """The dense reward: the negative distance of a point from the goal."""
    return -np.linalg.norm(achieved_goal - desired_goal, axis=-1)


def minus_l1_distance(achieved_goal: FloatArray, desired_goal: FloatArray, info: Any) -> Any:
    """A reward that is easily computed by hand: the negative sum of absolute differences."""
    return -np.abs(achieved_goal - desired_goal).sum(-1)


def make(
    spec: Spec, settings: AgentSettings, seed: int = 0, compute_reward: Any = minus_distance, **options: Any
) -> Any:
    """The agent that these settings belong to, as `policies.registry` makes it by its name."""
    return make_agent(NAMES[type(settings)], spec, settings, compute_reward, seed, **options)


def random_observation(spec: Spec, rows: int, generator: np.random.Generator) -> Observation:
    """Standard normal observations and goals, (rows, size) each."""
    sizes = (spec.observation_size, spec.goal_size, spec.goal_size)
    found = {}
    for name, size in zip(OBSERVATION_KEYS, sizes, strict=True):
        found[name] = generator.normal(size=(rows, size)).astype(np.float32)
    return found


def random_transitions(spec: Spec, count: int, *, terminated: float = 0.3, seed: int = 0) -> Transition:
    """Random transitions, of which this fraction terminates; the first column of `observation` is the row's number.

    Rewards are those of `minus_l1_distance`.
    """
    generator = np.random.default_rng(seed)
    before = random_observation(spec, count, generator)
    after = random_observation(spec, count, generator)
    before["observation"][:, 0] = np.arange(count)
    after["desired_goal"] = before["desired_goal"]
    action = generator.uniform(spec.action_low, spec.action_high, (count, len(spec.action_low))).astype(np.float32)
    reward = minus_l1_distance(after["achieved_goal"], before["desired_goal"], None)
    ended = generator.random(count) < terminated
    return Transition(before, action, reward, after, ended, ended)


def assert_equal(got: Any, wanted: Any) -> None:
    """Assert that two states are equal bit for bit, with the same keys, lengths and dtypes."""
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        for key in wanted:
            assert_equal(got[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert_equal(one, other)
    elif isinstance(wanted, Tensor):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got.detach().numpy(), wanted.detach().numpy())
    elif isinstance(wanted, np.ndarray):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)
    else:
        assert got == wanted
