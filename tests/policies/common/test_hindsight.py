"""Hindsight relabelling: fractions, goals and rewards of relabelled transitions, and n-step returns."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from learners import minus_l1_distance, random_transitions
from torch import Tensor

from policies.agent import ComputeReward, FloatArray, Spec, Transition
from policies.branching_dqn.settings import BranchingDQNSettings
from policies.common.hindsight import sample_relabelled
from policies.common.replay_buffer import ReplayBuffer
from policies.ddpg.settings import DDPGSettings
from policies.dqn.settings import DQNSettings

ARM = Spec(5, 2, (0.0, 10.0), (90.0, 60.0), grid_shape=(91, 51))
SMALL = DDPGSettings(batch_size=32, learning_starts=64, relabel_near=0.0, relabel_other=0.0, relabel_distance=0.1)


def away_from_the_point(achieved_goal: FloatArray, desired_goal: FloatArray, info: Any) -> Any:
    """A reward that depends on the position of a goal only."""
    return -np.abs(achieved_goal[:, :3] - desired_goal[:, :3]).sum(-1)


def sample(
    stored: Transition,
    spec: Spec,
    settings: Any,
    *,
    seed: int,
    compute_reward: ComputeReward = minus_l1_distance,
    tip_at_target: Callable[[dict[str, FloatArray]], FloatArray] | None = None,
) -> dict[str, Tensor]:
    """A batch from a replay buffer with these transitions."""
    replay = ReplayBuffer(len(stored.reward), spec)
    replay.add(stored)
    generator = np.random.default_rng(seed)
    return sample_relabelled(
        replay, spec, settings, compute_reward, generator, discount=0.9, tip_at_target=tip_at_target
    )


def assert_spread_around_the_tip(away: FloatArray) -> None:
    """Assert that distances are log-uniform over two decades up to relabel_distance, and directions uniform."""
    distances = np.linalg.norm(away, axis=1)
    decades = np.log10(distances / SMALL.relabel_distance)
    error = 5 / math.sqrt(len(away))  # five standard deviations of a mean of numbers of unit variance
    assert -2.001 < decades.min() < -1.9
    assert -0.1 < decades.max() < 0.001
    assert decades.mean() == pytest.approx(-1.0, abs=error * 2 / math.sqrt(12))
    assert decades.std() == pytest.approx(2 / math.sqrt(12), rel=0.05)
    directions = away / distances[:, None]
    assert np.abs(directions.mean(0)).max() < error
    assert np.abs((directions**2).mean(0) - 1 / away.shape[1]).max() < error


class TestUnbiasedness:
    """Mean rewards of relabelled transitions where part of the dynamics is hidden."""

    @pytest.mark.parametrize("centre", [0.0, 0.05], ids=["around the tip", "around where the action leads"])
    def test_a_step_that_fails_at_random_keeps_its_mean_reward(self, centre: float) -> None:
        """A step of 0.05 that fails in half the cases: -(|goal| + |goal - 0.05|) / 2 for every goal, by hand."""
        size, move = 100_000, 0.05
        spec = Spec(1, 1, (0.0,), (1.0,))
        coin = np.random.default_rng(5).random(size) < 0.5
        zeros = np.zeros((size, 1), np.float32)
        seen = {"observation": zeros, "achieved_goal": zeros, "desired_goal": zeros}
        after = seen | {"achieved_goal": (move * coin[:, None]).astype(np.float32)}
        nothing = np.zeros(size, bool)
        stored = Transition(seen, zeros, np.zeros(size, np.float32), after, nothing, nothing)
        sizes = {"batch_size": size, "learning_starts": size, "buffer_size": size}
        settings = replace(SMALL, relabel_near=1.0, **sizes)
        centres = np.full((size, 1), centre, np.float32)
        batch = sample(stored, spec, settings, seed=6, tip_at_target=(lambda _: centres) if centre else None)

        goal = batch["desired_goal"][:, 0].double().numpy()
        reward = batch["reward"].double().numpy()
        # By hand: failing leaves the tip |goal| away, succeeding |goal - move|.
        mean_reward = -0.5 * (np.abs(goal) + np.abs(goal - move))
        for low, high in ((-0.1, -0.01), (-0.01, 0.01), (0.01, 0.04), (0.04, 0.06), (0.06, 0.1)):
            low += centre
            high += centre
            inside = (low <= goal) & (goal < high)
            difference = (reward - mean_reward)[inside]
            assert inside.sum() > 1000
            assert abs(difference.mean()) < 5 * difference.std() / math.sqrt(inside.sum()) + 1e-9


class TestRelabelling:
    """Fractions, goals and rewards of relabelled transitions."""

    def test_without_relabelling_transitions_are_unchanged(self) -> None:
        """With both fractions zero, goals and rewards are those that were stored."""
        stored = random_transitions(ARM, 200)
        batch = sample(stored, ARM, SMALL, seed=0)
        rows = batch["observation"][:, 0].long().numpy()
        np.testing.assert_array_equal(batch["desired_goal"], stored.observation["desired_goal"][rows])
        np.testing.assert_array_equal(batch["reward"], stored.reward[rows])
        assert len(set(rows.tolist())) > 16  # many different rows

    @pytest.mark.parametrize(
        ("near", "other"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.3), (0.25, 0.5), (1.0, 0.0), (0.0, 1.0)]
    )
    def test_only_the_given_fractions_are_relabelled(self, near: float, other: float) -> None:
        """Fractions are within five standard errors, new goals log-uniform around the tip, the rest unchanged."""
        size = 20_000
        sizes = {"batch_size": size, "learning_starts": size, "buffer_size": size}
        stored = random_transitions(ARM, size)
        batch = sample(stored, ARM, replace(SMALL, relabel_near=near, relabel_other=other, **sizes), seed=3)
        rows = batch["observation"][:, 0].long().numpy()
        goals, pursued = batch["desired_goal"].numpy(), stored.observation["desired_goal"]
        known = {goal.tobytes() for goal in pursued}
        own = (goals == pursued[rows]).all(1)
        others = ~own & np.array([goal.tobytes() in known for goal in goals])
        new = ~own & ~others

        def expected(
            fraction: float,
        ) -> Any:  # within five standard deviations; another goal may happen to be the own one
            return pytest.approx(fraction, abs=5 * math.sqrt(fraction * (1 - fraction) / size) + 1e-3)

        assert (new.mean(), others.mean(), own.mean()) == (expected(near), expected(other), expected(1 - near - other))
        if near:
            assert_spread_around_the_tip((goals - stored.observation["achieved_goal"][rows])[new])
        # Nothing but goals and their rewards has changed.
        for name in ("observation", "achieved_goal"):
            np.testing.assert_array_equal(batch[name], stored.observation[name][rows])
            np.testing.assert_array_equal(batch[f"next_{name}"], stored.next_observation[name][rows])
        np.testing.assert_array_equal(batch["action"], stored.action[rows])
        np.testing.assert_array_equal(batch["terminated"], stored.terminated[rows])

    def test_goals_may_be_drawn_around_where_the_actions_lead(self) -> None:
        """With `tip_at_target`, new goals lie around the point that the batch's own action leads to."""
        size = 20_000
        sizes = {"batch_size": size, "learning_starts": size, "buffer_size": size}
        stored = random_transitions(ARM, size)
        settings = replace(SMALL, relabel_near=0.5, **sizes)

        def tip_at_target(batch: dict[str, FloatArray]) -> FloatArray:
            return batch["action"] + batch["observation"][:, :1]

        batch = sample(stored, ARM, settings, seed=3, tip_at_target=tip_at_target)
        goals = batch["desired_goal"].numpy()
        pursued = stored.observation["desired_goal"][batch["observation"][:, 0].long().numpy()]
        new = (goals != pursued).any(1)
        assert new.mean() == pytest.approx(0.5, abs=0.02)
        away = goals.astype(np.float64) - (batch["action"] + batch["observation"][:, :1]).double().numpy()
        # The centres are as large as 20,000, where float32 has steps of 0.002.
        small = new & (batch["observation"][:, 0].numpy() < 100)
        distances = np.linalg.norm(away, axis=1)
        assert distances[new].max() < 1.1 * SMALL.relabel_distance
        assert distances[small].min() > 0.9 * SMALL.relabel_distance / 100

    def test_a_relabelled_transition_has_the_reward_of_its_new_goal(self) -> None:
        """Rewards are recomputed from the achieved and the new goal."""
        stored = random_transitions(ARM, 200)
        tensors = sample(stored, ARM, replace(SMALL, relabel_near=0.4, relabel_other=0.4), seed=0)
        batch = {name: value.numpy() for name, value in tensors.items()}
        wanted = minus_l1_distance(batch["next_achieved_goal"], batch["desired_goal"], None)
        np.testing.assert_array_equal(batch["reward"], wanted)
        was = stored.reward[batch["observation"][:, 0].astype(int)]
        assert 0.5 < (batch["reward"] != was).mean() < 1.0

    @pytest.mark.parametrize(("near", "other"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.3, 0.3)])
    def test_a_relabelled_goal_that_moves_keeps_its_motion(self, near: float, other: float) -> None:
        """A moving goal keeps its velocity and displacement; the reward is that of the goal after the step."""
        spec, size = Spec(5, 6, (0.0, 0.0), (1.0, 1.0), goal_point_size=3), 4000
        sizes = {"batch_size": size, "learning_starts": size, "buffer_size": size}
        settings = replace(SMALL, relabel_near=near, relabel_other=other, **sizes)
        stored = random_transitions(spec, size)
        goals, following = stored.observation["desired_goal"], stored.next_observation["desired_goal"].copy()
        following[:, :3] += np.random.default_rng(2).normal(size=(size, 3)).astype(np.float32)
        following[:, 3:] *= 2
        stored.next_observation["desired_goal"] = following
        tensors = sample(stored, spec, settings, seed=1, compute_reward=away_from_the_point)
        batch = {name: value.numpy() for name, value in tensors.items()}
        rows = batch["observation"][:, 0].astype(int)
        goal, next_goal = batch["desired_goal"], batch["next_desired_goal"]

        # Whose goal it is, by its velocity, which nothing changes; the velocity after the step is that same goal's.
        owner = {velocity.tobytes(): row for row, velocity in enumerate(goals[:, 3:])}
        owners = np.array([owner[velocity.tobytes()] for velocity in np.ascontiguousarray(goal[:, 3:])])
        np.testing.assert_array_equal(next_goal[:, 3:], following[owners, 3:])
        # Before and after the step it has moved as it did.
        moved, before = next_goal[:, :3] - goal[:, :3], following[owners, :3] - goals[owners, :3]
        np.testing.assert_allclose(moved, before, rtol=0, atol=1e-5)

        # One that was moved went near to where the tip was; the rest are as they were.
        shifted = (goal[:, :3] != goals[owners, :3]).any(1)
        away = (goal[:, :3] - stored.observation["achieved_goal"][rows, :3])[shifted]
        assert (owners[shifted] == rows[shifted]).all()
        np.testing.assert_array_equal(next_goal[~shifted], following[owners[~shifted]])
        swapped = ~shifted & (owners != rows)
        for fraction, wanted in ((shifted.mean(), near), (swapped.mean(), other)):
            assert fraction == pytest.approx(wanted, abs=5 * math.sqrt(wanted * (1 - wanted) / size) + 1e-3)
        if near:
            assert_spread_around_the_tip(away)

        # The reward is that of the goal after the step.
        np.testing.assert_array_equal(
            batch["reward"], away_from_the_point(batch["next_achieved_goal"], next_goal, None)
        )
        for name in ("observation", "achieved_goal"):
            np.testing.assert_array_equal(batch[name], stored.observation[name][rows])
            np.testing.assert_array_equal(batch[f"next_{name}"], stored.next_observation[name][rows])

    @pytest.mark.parametrize("kind", [DDPGSettings, DQNSettings, BranchingDQNSettings])
    def test_settings_of_every_off_policy_agent_work(self, kind: Any) -> None:
        """The settings of DDPG, DQN and branching DQN give batches of their size with goals of other transitions."""
        stored = random_transitions(ARM, 200)
        if kind is not DDPGSettings:
            stored = replace(stored, action=np.random.default_rng(1).integers((91, 51), size=(200, 2)))
        settings = kind(batch_size=50, learning_starts=64, relabel_near=0.0, relabel_other=1.0)
        batch = sample(stored, ARM, settings, seed=0)
        rows = batch["observation"][:, 0].long().numpy()
        assert len(rows) == 50
        np.testing.assert_array_equal(batch["action"], stored.action[rows])
        assert (batch["desired_goal"].numpy() != stored.observation["desired_goal"][rows]).any(1).mean() > 0.9
        known = {goal.tobytes() for goal in stored.observation["desired_goal"]}
        assert all(goal.tobytes() in known for goal in batch["desired_goal"].numpy())

    def test_the_replay_buffer_is_not_modified(self) -> None:
        """Neither sampling nor writing to the batch changes the stored rows."""
        stored, spec = random_transitions(ARM, 100), ARM
        replay = ReplayBuffer(100, spec)
        replay.add(stored)
        before = replay.state_dict()["rows"]
        settings = replace(SMALL, relabel_near=0.5, relabel_other=0.5)
        batch = sample_relabelled(replay, spec, settings, minus_l1_distance, np.random.default_rng(0), discount=0.9)
        for tensor in batch.values():
            tensor.zero_()
        np.testing.assert_array_equal(replay.state_dict()["rows"], before)

    def test_batches_depend_on_the_generator_alone(self) -> None:
        """Equal generators give equal batches, others different ones."""
        stored, settings = random_transitions(ARM, 200), replace(SMALL, relabel_near=0.4, relabel_other=0.4)
        first, second, other = (sample(stored, ARM, settings, seed=seed) for seed in (1, 1, 2))
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
        assert not np.array_equal(first["desired_goal"], other["desired_goal"])


class TestNStep:
    """Returns over several steps."""

    @pytest.mark.parametrize("steps", [1, 2, 3, 7])
    def test_n_step_returns_equal_the_definition(self, steps: int) -> None:
        """Rewards, bootstrap factors and next states equal a loop over the stored steps of three environments."""
        generator = np.random.default_rng(4)
        num_envs, stored = 3, 40
        replay = ReplayBuffer(100, ARM)
        kept = []
        for number in range(stored):
            step = random_transitions(ARM, num_envs, seed=number)
            ended = generator.random(num_envs) < 0.2
            kept.append(replace(step, ended=ended, terminated=ended & (generator.random(num_envs) < 0.5)))
            kept[-1].observation["observation"][:, 0] = len(kept) - 1
            kept[-1].observation["observation"][:, 1] = np.arange(num_envs)
            replay.add(kept[-1])
        settings = replace(SMALL, relabel_near=0.0, relabel_other=0.0, batch_size=500, learning_starts=500)
        batch = sample_relabelled(
            replay, ARM, settings, minus_l1_distance, np.random.default_rng(1), discount=0.8, steps=steps
        )
        lengths = set()
        for row in range(500):
            first, index = (int(x) for x in batch["observation"][row, :2])
            reward, at = 0.0, first
            for at in range(first, min(first + steps, stored)):
                after = kept[at].next_observation
                reward += 0.8 ** (at - first) * float(
                    minus_l1_distance(after["achieved_goal"], after["desired_goal"], None)[index]
                )
                if kept[at].ended[index]:
                    break
            last = kept[at]
            lengths.add(at - first + 1)
            assert float(batch["reward"][row]) == pytest.approx(reward, rel=1e-5)
            assert float(batch["bootstrap"][row]) == pytest.approx(
                0.8 ** (at - first + 1) * (not last.terminated[index])
            )
            np.testing.assert_array_equal(batch["next_observation"][row], last.next_observation["observation"][index])
            np.testing.assert_array_equal(batch["next_desired_goal"][row], last.next_observation["desired_goal"][index])
        assert lengths == set(range(1, steps + 1))

    def test_a_relabelled_goal_is_the_same_for_all_steps(self) -> None:
        """A stationary goal that is relabelled is one goal for all rewards of the n steps."""
        num_envs, stored = 4, 30
        replay = ReplayBuffer(200, ARM)
        goal = random_transitions(ARM, num_envs).observation["desired_goal"]
        for number in range(stored):
            step = random_transitions(ARM, num_envs, seed=number)
            for observation in (step.observation, step.next_observation):
                observation["desired_goal"] = goal
            replay.add(replace(step, ended=np.zeros(num_envs, bool), terminated=np.zeros(num_envs, bool)))
        goals: list[Any] = []

        def noted(achieved: Any, goal: Any, info: Any, /) -> Any:
            goals.append(goal.copy())
            return minus_l1_distance(achieved, goal, info)

        settings = replace(SMALL, relabel_near=0.5, relabel_other=0.5, batch_size=64)
        batch = sample_relabelled(replay, ARM, settings, noted, np.random.default_rng(1), discount=0.9, steps=3)
        full = (batch["bootstrap"] == 0.9**3).numpy()
        assert full.sum() > 40
        for goal in goals[1:]:
            np.testing.assert_allclose(goal[full], goals[0][full], atol=1e-6)
        np.testing.assert_allclose(batch["next_desired_goal"].numpy()[full], goals[0][full], atol=1e-6)


class TestRepeatedSteps:
    """Actions held for several control steps: rewards are means over these, for any goal."""

    SPEC = Spec(1, 1, (0.0,), (1.0,))

    def held(self, achieved: list[list[float]], desired: list[list[float]]) -> Transition:
        """Repeated actions of several environments that start at 0, from the goals after each control step."""
        after = np.array(achieved, np.float32)[:, :, None]
        goals = np.array(desired, np.float32)[:, :, None]
        zeros = np.zeros((len(after), 1), np.float32)
        nothing = np.zeros(len(after), np.bool_)
        return Transition(
            observation={"observation": zeros, "achieved_goal": zeros, "desired_goal": goals[:, 0]},
            action=zeros,
            reward=np.zeros(len(after), np.float32),  # which is computed anew
            next_observation={"observation": zeros, "achieved_goal": after[:, -1], "desired_goal": goals[:, -1]},
            terminated=nothing,
            ended=nothing,
            achieved_between=after[:, :-1],
            desired_between=goals[:, :-1],
        )

    def drawn(self, stored: list[Transition], steps: int = 1, **changed: Any) -> dict[str, Tensor]:
        """A batch from a replay buffer of these transitions, one environment each."""
        assert stored[0].achieved_between is not None
        replay = ReplayBuffer(100, self.SPEC, action_repeat=stored[0].achieved_between.shape[1] + 1)
        for transition in stored:
            replay.add(transition)
        settings = replace(SMALL, **changed)
        generator = np.random.default_rng(0)
        return sample_relabelled(replay, self.SPEC, settings, minus_l1_distance, generator, discount=0.5, steps=steps)

    def test_rewards_of_all_steps_are_averaged(self) -> None:
        """At 1, 3 and 6.5 with the goal at 10: -(9 + 7 + 3.5) / 3; the bootstrap factor is that of one step."""
        batch = self.drawn([self.held([[1.0, 3.0, 6.5]], [[10.0, 10.0, 10.0]])])
        assert batch["reward"].tolist() == [-6.5] * 32
        assert batch["bootstrap"].tolist() == [0.5] * 32  # one action later, however long it took

    def test_another_transitions_goal_moves_as_it_did_there(self) -> None:
        """At 1, 3 and 5 with the own goal at 10, or with the other's goals 20, 21 and 22: rewards by hand."""
        own, other = [[1.0, 3.0, 5.0]], [[0.0, 0.0, 0.0]]
        stored = [self.held(own, [[10.0, 10.0, 10.0]]), self.held(other, [[20.0, 21.0, 22.0]])]
        batch = self.drawn(stored, relabel_other=1.0)
        # By hand: |goal - tip| of each of the three steps, for each pair of transition and goals.
        wanted = {-(9 + 7 + 5) / 3, -(19 + 18 + 17) / 3, -30 / 3, -63 / 3}
        assert set(batch["reward"].tolist()) == wanted

    def test_a_goal_near_the_tip_is_moved_by_as_much_at_every_step(self) -> None:
        """The new goal x, before the action where 20 was, is x, x + 1 and x + 2 after the steps (by hand)."""
        batch = self.drawn([self.held([[1.0, 3.0, 6.0]], [[20.0, 21.0, 22.0]])], relabel_near=1.0)
        goal = batch["desired_goal"][:, 0].double()
        assert goal.abs().max() < 0.11
        wanted = -((1 - goal).abs() + (3 - goal - 1).abs() + (6 - goal - 2).abs()) / 3
        np.testing.assert_allclose(batch["reward"].double(), wanted, rtol=1e-5)

    def test_n_step_rewards_are_discounted_once_an_action(self) -> None:
        """Two actions of two control steps each give -(9 + 7) / 2 - 0.5 (4 + 2) / 2."""
        goal = [[10.0, 10.0]]
        stored = [self.held([[1.0, 3.0]], goal), self.held([[6.0, 8.0]], goal)]
        batch = self.drawn(stored, steps=2)
        found = set(zip(batch["reward"].tolist(), batch["bootstrap"].tolist(), strict=True))
        assert found == {(-8.0 - 0.5 * 3.0, 0.25), (-3.0, 0.5)}
