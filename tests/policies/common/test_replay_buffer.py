"""ReplayBuffer: storage, sampling, state and sequences of steps."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from policies.agent import Spec, Transition
from policies.common.replay_buffer import ReplayBuffer

SPEC = Spec(observation_size=2, goal_size=1, action_low=(0.0, 0.0), action_high=(1.0, 1.0))
FIELDS = {  # name: values of the transition numbered n
    "observation": lambda n: [n, n + 0.1],
    "achieved_goal": lambda n: [n + 0.2],
    "desired_goal": lambda n: [n + 0.3],
    "action": lambda n: [n + 0.4, n + 0.5],
    "reward": lambda n: [-n],
    "next_observation": lambda n: [n + 0.6, n + 0.7],
    "next_achieved_goal": lambda n: [n + 0.8],
    "next_desired_goal": lambda n: [n + 0.9],
    "terminated": lambda n: [n % 3 == 0],
    "ended": lambda n: [n % 3 == 0 or n % 5 == 0],
}


def table(name: str, numbers: list[int]) -> NDArray[np.float32]:
    """One field of numbered transitions."""
    return np.array([FIELDS[name](number) for number in numbers], np.float32)


def transition(*numbers: int) -> Transition:
    """One step of one environment per number."""
    columns = {name: table(name, list(numbers)) for name in FIELDS}
    return Transition(
        observation={name: columns[name] for name in ("observation", "achieved_goal", "desired_goal")},
        action=columns["action"],
        reward=columns["reward"][:, 0],
        next_observation={
            "observation": columns["next_observation"],
            "achieved_goal": columns["next_achieved_goal"],
            "desired_goal": columns["next_desired_goal"],
        },
        terminated=columns["terminated"][:, 0].astype(bool),
        ended=columns["ended"][:, 0].astype(bool),
    )


def stored(buffer: ReplayBuffer) -> list[int]:
    """The numbers of the transitions in the buffer, in the order of its rows."""
    return buffer.column("observation")[:, 0].astype(int).tolist()


class TestStorage:
    """Kept and overwritten transitions."""

    def test_every_field_comes_back_from_its_own_column(self) -> None:
        """Each field is read back from its own column."""
        buffer = ReplayBuffer(10, SPEC)
        buffer.add(transition(3, 4))
        buffer.add(transition(5, 6))
        for name in FIELDS:
            np.testing.assert_array_equal(buffer.column(name), table(name, [3, 4, 5, 6]))

    def test_a_full_buffer_overwrites_its_oldest_rows(self) -> None:
        """Rows after four additions to a buffer of five, listed by hand."""
        buffer = ReplayBuffer(5, SPEC)
        buffer.add(transition(1, 2))
        assert (buffer.size, stored(buffer)) == (2, [1, 2])
        buffer.add(transition(3, 4))
        buffer.add(transition(5, 6))  # 6 goes over 1
        assert (buffer.size, stored(buffer)) == (5, [6, 2, 3, 4, 5])
        buffer.add(transition(7, 8))
        assert (buffer.size, stored(buffer)) == (5, [6, 7, 8, 4, 5])
        for name in FIELDS:
            np.testing.assert_array_equal(buffer.column(name), table(name, [6, 7, 8, 4, 5]))

    @given(st.integers(1, 12), st.lists(st.integers(1, 6), max_size=12))
    def test_it_keeps_the_latest_transitions(self, capacity: int, sizes: list[int]) -> None:
        """For any batch sizes, the contents equal a deque with the same maximum length."""
        buffer, wanted, number = ReplayBuffer(capacity, SPEC), deque[int](maxlen=capacity), 0
        for size in sizes:
            numbers = range(number, number + size)
            buffer.add(transition(*numbers))
            wanted.extend(numbers)
            number += size
        assert sorted(stored(buffer)) == list(wanted)
        assert buffer.size == len(wanted)
        assert buffer.capacity == capacity


class TestSampling:
    """Batches."""

    def test_samples_are_stored_transitions(self) -> None:
        """Sampled rows are complete stored transitions, each occurs, and empty rows never do."""
        buffer = ReplayBuffer(1000, SPEC)
        buffer.add(transition(*range(1, 8)))
        batch = buffer.sample(500, np.random.default_rng(0))
        numbers = batch["observation"][:, 0].astype(int).tolist()
        assert set(numbers) == set(range(1, 8))  # the 993 empty rows never, each of the 7 at least once
        assert set(batch) == set(FIELDS)
        for name in FIELDS:
            np.testing.assert_array_equal(batch[name], table(name, numbers))

    def test_sampling_is_uniform(self) -> None:
        """Frequencies of 80,000 draws are within five standard deviations of uniform."""
        buffer = ReplayBuffer(8, SPEC)
        buffer.add(transition(*range(12)))
        draws = buffer.sample(80_000, np.random.default_rng(1))["observation"][:, 0].astype(int)
        counts = np.bincount(draws, minlength=12)
        assert counts[:4].sum() == 0
        assert np.abs(counts[4:] - 10_000).max() < 5 * np.sqrt(80_000 * 1 / 8 * 7 / 8)  # five standard deviations

    def test_batches_depend_on_the_generator_alone(self) -> None:
        """Equal generators give equal batches, others different ones."""
        buffer = ReplayBuffer(100, SPEC)
        buffer.add(transition(*range(100)))
        first, second, other = (buffer.sample(50, np.random.default_rng(seed))["observation"] for seed in (2, 2, 3))
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, other)


class TestState:
    """Saving and restoring."""

    @pytest.mark.parametrize("count", [0, 3, 5, 8])
    def test_a_restored_buffer_continues_exactly(self, count: int) -> None:
        """An empty, partly filled or full buffer continues from its state with the same rows."""
        buffer, copy = ReplayBuffer(5, SPEC), ReplayBuffer(5, SPEC)
        for number in range(count):
            buffer.add(transition(number))
        state = buffer.state_dict()
        copy.load_state_dict(state)
        for number in (100, 101, 102):
            buffer.add(transition(number))
            copy.add(transition(number))
        assert copy.size == buffer.size
        for name in FIELDS:
            np.testing.assert_array_equal(copy.column(name), buffer.column(name))

    def test_a_state_is_a_copy(self) -> None:
        """Later additions do not modify a state that was saved before."""
        buffer, copy = ReplayBuffer(2, SPEC), ReplayBuffer(2, SPEC)
        buffer.add(transition(1, 2))
        state = buffer.state_dict()
        buffer.add(transition(3))
        copy.load_state_dict(state)
        assert stored(copy) == [1, 2]

    @pytest.mark.parametrize("shape", [(3, 14), (3, 12), (6, 13), (13,)])
    def test_rejects_states_of_other_sizes(self, shape: tuple[int, ...]) -> None:
        """Rows of another width or above the capacity raise ValueError and leave the buffer unchanged."""
        buffer = ReplayBuffer(5, SPEC)
        buffer.add(transition(1))
        with pytest.raises(ValueError, match="replay: expected up to"):
            buffer.load_state_dict({"rows": np.zeros(shape, np.float32), "next": 0, "arms": 1})
        assert stored(buffer) == [1]


class TestSequences:
    """Consecutive steps of an environment."""

    def test_following_steps_belong_to_the_same_environment_and_episode(self) -> None:
        """Successors in a ring of two environments and three steps, listed by hand."""
        buffer = ReplayBuffer(6, SPEC)
        for first in (1, 3, 5, 7):
            buffer.add(transition(first, first + 1))
        places = np.arange(6)
        numbers = buffer.at(places)["observation"][:, 0].astype(int).tolist()
        following, goes_on = buffer.following(places)
        found = {
            number: int(buffer.at(following)["observation"][place, 0]) if goes_on[place] else None
            for place, number in enumerate(numbers)
        }
        # 3, 5 and 6 end their episodes; after 7 and 8 there is nothing yet.
        assert found == {3: None, 4: 6, 5: None, 6: None, 7: None, 8: None}

    def test_latest_draws_the_last_step_of_all_environments(self) -> None:
        """With `latest`, only rows of the last step are drawn."""
        buffer = ReplayBuffer(7, SPEC)
        for first in (1, 4, 7):
            buffer.add(transition(first, first + 1, first + 2))
        places = buffer.draw(200, np.random.default_rng(0), latest=True)
        assert set(buffer.at(places)["observation"][:, 0].astype(int).tolist()) == {7, 8, 9}


class TestRepeatedSteps:
    """Goals after the control steps of an action that is held for several."""

    def held(self, number: int) -> Transition:
        """The transition of this number, with the goals after two more control steps."""
        return replace(
            transition(number),
            achieved_between=np.array([[[number + 0.01], [number + 0.02]]], np.float32),
            desired_between=np.array([[[number + 0.03], [number + 0.04]]], np.float32),
        )

    def test_intermediate_goals_are_stored_in_order(self) -> None:
        """Achieved and desired goals between the steps are columns of their own, in the order of the steps."""
        buffer = ReplayBuffer(5, SPEC, action_repeat=3)
        buffer.add(self.held(1))
        buffer.add(self.held(2))
        np.testing.assert_allclose(buffer.column("achieved_between"), [[1.01, 1.02], [2.01, 2.02]])
        np.testing.assert_allclose(buffer.column("desired_between"), [[1.03, 1.04], [2.03, 2.04]])
        for name in FIELDS:
            np.testing.assert_array_equal(buffer.column(name), table(name, [1, 2]))

    def test_without_repeats_rows_keep_their_width(self) -> None:
        """Without repeats, rows have the 13 columns of earlier versions."""
        assert set(ReplayBuffer(5, SPEC, action_repeat=1).columns) == set(FIELDS)
        assert ReplayBuffer(5, SPEC).state_dict()["rows"].shape == (0, 13)

    def test_rows_of_earlier_versions_are_read(self) -> None:
        """Where earlier versions lack intermediate goals, those after the last step are used."""
        before = ReplayBuffer(5, SPEC)
        before.add(transition(1))
        buffer = ReplayBuffer(5, SPEC, action_repeat=3)
        buffer.load_state_dict(before.state_dict())
        np.testing.assert_array_equal(buffer.column("achieved_between"), table("next_achieved_goal", [1]).repeat(2, 1))
        np.testing.assert_array_equal(buffer.column("desired_between"), table("next_desired_goal", [1]).repeat(2, 1))
