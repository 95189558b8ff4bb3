"""Rollout: the order of its steps, their places in the episodes, and its state."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from arm_control.runs.checkpoint import load_latest, save_checkpoint
from policies.agent import OBSERVATION_KEYS, Observation, Transition
from policies.common.rollout import Rollout, Steps

SIZES = (4, 2, 3)  # of what is observed, in the order of OBSERVATION_KEYS
NUM_ENVS = 3
StoreAndLoad = Callable[[dict[str, Any], Path], dict[str, Any]]  # how a state is stored and read back


def step(
    number: int, *, ended: tuple[int, ...] = (), terminated: tuple[int, ...] = (), num_envs: int = NUM_ENVS
) -> Any:
    """A random transition and its pre-squash samples, determined by the number; episodes of these environments end."""
    generator = np.random.default_rng(number)

    def observation() -> Observation:
        return {
            name: generator.normal(size=(num_envs, size)).astype(np.float32)
            for name, size in zip(OBSERVATION_KEYS, SIZES, strict=True)
        }

    action = generator.normal(size=(num_envs, 2)).astype(np.float32)
    reward = generator.normal(size=num_envs).astype(np.float32)
    first, following = observation(), observation()
    flags = [np.isin(np.arange(num_envs), which) for which in (terminated, ended + terminated)]
    return Transition(first, action, reward, following, *flags), generator.normal(size=(num_envs, 2)).astype(np.float32)


def filled(*steps: Any) -> Rollout:
    rollout = Rollout()
    for transition, choice in steps:
        rollout.add(transition, choice)
    return rollout


def columns(steps: Steps) -> list[Tensor]:
    return [
        *steps.observation,
        *steps.next_observation,
        steps.sample,
        steps.reward,
        steps.terminated,
        steps.ended,
        steps.episode_step,
    ]


def assert_same(first: Steps, second: Steps) -> None:
    for one, other in zip(columns(first), columns(second), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def by_copy(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    return copy.deepcopy(state)


def by_checkpoint(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    save_checkpoint(folder, 0, {"agent": {"rollout": state}})
    loaded: dict[str, Any] = load_latest(folder)[1]["agent"]["rollout"]
    return loaded


class TestRollout:
    """Contents of a rollout."""

    def test_steps_are_returned_in_order_with_all_fields(self) -> None:
        """`take` returns all fields of the steps in their order, as float32."""
        given = [step(0), step(1, ended=(1,)), step(2, terminated=(0,), ended=(2,)), step(3)]
        rollout = filled(*given)
        taken = rollout.take()
        assert len(taken) == 4
        for row, (transition, choice) in enumerate(given):
            for place, name in enumerate(OBSERVATION_KEYS):
                np.testing.assert_array_equal(taken.observation[place][row], transition.observation[name])
                np.testing.assert_array_equal(taken.next_observation[place][row], transition.next_observation[name])
            np.testing.assert_array_equal(taken.sample[row], choice)
            np.testing.assert_array_equal(taken.reward[row], transition.reward)
        assert taken.terminated.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
        assert taken.ended.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]]
        floats = [tensor for tensor in columns(taken) if tensor is not taken.episode_step]
        assert {tensor.dtype for tensor in floats} == {torch.float32}

    def test_take_empties_the_rollout(self) -> None:
        """After `take`, the rollout holds only later steps, whose places continue."""
        rollout = filled(step(0), step(1))
        assert (len(rollout), rollout.count) == (2, 2 * NUM_ENVS)
        rollout.take()
        assert (len(rollout), rollout.count) == (0, 0)
        rollout.add(*step(2))
        assert (len(rollout), rollout.count) == (1, NUM_ENVS)
        taken, alone = rollout.take(), filled(step(2)).take()
        assert taken.episode_step.tolist() == [[2] * NUM_ENVS]
        assert_same(replace(taken, episode_step=alone.episode_step), alone)

    def test_a_new_rollout_is_empty(self) -> None:
        """A new rollout has no steps and no ended episodes."""
        rollout = Rollout()
        assert (len(rollout), rollout.count, rollout.every_env_has_ended) == (0, 0, False)

    def test_places_count_steps_since_the_start_of_the_episode(self) -> None:
        """Places continue across `take` and restart at 0 after terminations and truncations (computed by hand)."""
        ends: list[tuple[int, ...]] = [(), (1,), (), (0, 1), (), (2,), ()]
        wanted = [[0, 0, 0], [1, 1, 1], [2, 0, 2], [3, 1, 3], [0, 0, 4], [1, 1, 5], [2, 2, 0]]
        for takes in ((), (1,), (2, 4), range(7)):
            rollout, places = Rollout(), []
            for number, ended in enumerate(ends):
                transition, choice = step(
                    number, ended=ended if number % 2 else (), terminated=() if number % 2 else ended
                )
                rollout.add(transition, choice)
                if number in takes:
                    places += rollout.take().episode_step.tolist()
            places += rollout.take().episode_step.tolist() if len(rollout) else []
            assert places == wanted

    def test_every_environment_has_ended_since_the_last_take(self) -> None:
        """The flag is set once each environment ended an episode since the last `take`."""
        rollout = Rollout()
        for ended, wanted in [((0,), False), ((), False), ((0, 2), False), ((1,), True), ((), True)]:
            rollout.add(*step(0, ended=ended))
            assert rollout.every_env_has_ended is wanted
        rollout.take()
        assert rollout.every_env_has_ended is False
        rollout.add(*step(1, ended=(1, 2)))  # the end in the first environment was taken
        assert rollout.every_env_has_ended is False
        rollout.add(*step(1, terminated=(0,)))
        assert rollout.every_env_has_ended is True

    def test_observed_returns_all_observations_without_taking_them(self) -> None:
        """`observed` concatenates the observations of all environments and leaves the rollout as it is."""
        given = [step(number) for number in range(4)]
        rollout = filled(*given)
        for place, name in enumerate(OBSERVATION_KEYS):
            wanted = np.concatenate([transition.observation[name] for transition, _ in given])
            np.testing.assert_array_equal(rollout.observations()[place], wanted)
        assert len(rollout.observations()) == 3
        assert len(rollout) == 4

    def test_taken_steps_are_not_modified_later(self) -> None:
        """Later steps do not modify the tensors that `take` returned."""
        rollout = filled(step(0), step(1))
        taken = rollout.take()
        before = [tensor.clone() for tensor in columns(taken)]
        for number in (2, 3):
            rollout.add(*step(number, ended=(0,)))
        for tensor in columns(rollout.take()):
            tensor.zero_()
        assert all(torch.equal(tensor, kept) for tensor, kept in zip(columns(taken), before, strict=True))


def assert_continues_equally(first: Rollout, second: Rollout) -> None:
    """Assert that two rollouts are equal now, after more steps, and after `take`."""
    assert len(first) == len(second)
    assert (first.count, first.every_env_has_ended) == (second.count, second.every_env_has_ended)
    for number, ended in enumerate([(), (0,), (1,), (2,)]):
        for rollout in (first, second):
            rollout.add(*step(30 + number, ended=ended))
        assert (first.count, first.every_env_has_ended) == (second.count, second.every_env_has_ended)
    for one, other in zip(first.observations(), second.observations(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert_same(first.take(), second.take())
    for rollout in (first, second):
        rollout.add(*step(40))
    assert_same(first.take(), second.take())


class TestState:
    """Saving and restoring a rollout."""

    @pytest.mark.parametrize("store_and_load", [by_copy, by_checkpoint])
    @pytest.mark.parametrize("added", [1, 3])
    @pytest.mark.parametrize("taken", [False, True])
    def test_a_restored_rollout_continues_exactly(
        self, store_and_load: StoreAndLoad, added: int, taken: bool, tmp_path: Path
    ) -> None:
        """Copied or read from a checkpoint, a rollout with steps in it continues bit for bit."""
        rollout = Rollout()
        if taken:
            rollout.add(*step(10, ended=(1,)))
            rollout.add(*step(11))
            rollout.take()
        for number in range(added):
            rollout.add(*step(number, ended=(0, 2)[: number + 1]))
        other = Rollout()
        other.load_state_dict(store_and_load(rollout.state_dict(), tmp_path))
        assert_continues_equally(rollout, other)

    @pytest.mark.parametrize("store_and_load", [by_copy, by_checkpoint])
    @pytest.mark.parametrize("used", [False, True])
    def test_a_restored_empty_rollout_continues_exactly(
        self, store_and_load: StoreAndLoad, used: bool, tmp_path: Path
    ) -> None:
        """A new rollout, and one just taken in the middle of episodes, continue bit for bit."""
        rollout = filled(step(10), step(11, ended=(1,))) if used else Rollout()
        if used:
            rollout.take()
        state = rollout.state_dict()
        assert state["columns"] == []
        other = filled(step(20), step(21))  # whose own steps are dropped
        other.load_state_dict(store_and_load(state, tmp_path))
        assert (len(other), other.count) == (0, 0)
        assert_continues_equally(rollout, other)

    def test_a_state_is_a_copy(self) -> None:
        """Later steps do not modify a state that was saved before."""
        rollout = filled(step(0), step(1, ended=(1,)))
        state = rollout.state_dict()
        before = copy.deepcopy(state)
        rollout.add(*step(2, ended=(0, 1, 2)))
        rollout.take()
        for kept, column in zip(before["columns"], state["columns"], strict=True):
            np.testing.assert_array_equal(kept, column)
        for name in ("place", "has_ended"):
            np.testing.assert_array_equal(before[name], state[name])
