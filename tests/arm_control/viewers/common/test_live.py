"""Live controllers: goals, simulation, trajectories, and goals beside a recording."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from other_arms import KUKA
from recordings import durations

from arm_control.evaluation.controllers import IKController
from arm_control.evaluation.episodes import roll_out as evaluated
from arm_control.evaluation.opening import OpenedController, open_controller
from arm_control.recording.schema import Tick
from arm_control.runs.environment import environment_maker
from arm_control.runs.seeding import EVALUATION, derived_seeds
from arm_control.viewers.common.live import LiveArm, roll_out, roll_out_beside
from arm_control.viewers.common.trajectory import Episode, TicksInMemory, Trajectory
from envs.arm import RADIANS, Arm


@pytest.fixture(scope="module")
def ik() -> OpenedController:
    return open_controller("ik", 3)


@pytest.fixture
def live(ik: OpenedController) -> Iterator[LiveArm]:
    arm = LiveArm(ik, 3)
    yield arm
    arm.close()


def evaluation_goals(source: OpenedController, seed: int, count: int) -> list[list[float]]:
    """The goals of an evaluation with this seed."""
    env: gymnasium.Env[dict[str, np.ndarray], np.ndarray] = environment_maker(source.config)()  # type: ignore[type-arg]
    goals = [env.reset(seed=one)[0]["desired_goal"].tolist() for one in derived_seeds(seed, EVALUATION, count)]
    env.close()
    return goals


def episode(live: LiveArm) -> float:
    """Simulate an episode; returns its last error in mm."""
    for _ in range(live.episode_steps):
        live.step()
    return float(live.recent(0.0).error_mm[-1])


class TestGoals:
    """The goals of a live arm."""

    def test_the_goals_are_those_of_an_evaluation(self, ik: OpenedController, live: LiveArm) -> None:
        """Goals of the same seed are equal, and numbered."""
        goals = [live.now().goal_m]
        for _ in range(3):
            live.next_goal()
            goals.append(live.now().goal_m)
        np.testing.assert_allclose(np.array(goals), np.array(evaluation_goals(ik, 3, 4)), atol=1e-6)
        assert live.goal_number == 4
        assert live.episode_name == "goal 4"

    def test_inverse_kinematics_reaches_each_goal(self, live: LiveArm) -> None:
        """Within 5 mm, and a new goal follows each episode."""
        errors = [episode(live) for _ in range(3)]
        assert max(errors) < 5.0
        assert live.goal_number == 3
        live.step()
        assert live.goal_number == 4

    def test_the_next_goal_begins_where_the_arm_is(self, live: LiveArm) -> None:
        """Angles, speeds and targets do not change."""
        episode(live)
        before = live.now()
        live.next_goal()
        after = live.now()
        assert after.goal_m != before.goal_m
        assert (after.angle_deg, after.speed_deg_s, after.target_deg) == (
            before.angle_deg,
            before.speed_deg_s,
            before.target_deg,
        )

    def test_a_goal_set_by_hand_stays_until_the_next(self, live: LiveArm) -> None:
        """It stays beyond the end of an episode."""
        reachable = live.arm.tip_position([30.0, 60.0, 20.0])
        assert live.move_goal(reachable) == pytest.approx(reachable, abs=1e-5)
        assert (live.held, live.episode_name) == (True, "goal by hand")
        assert episode(live) < 5.0
        assert episode(live) < 5.0  # an episode is over, and it is still there
        assert live.now().goal_m == pytest.approx(reachable, abs=1e-5)
        live.next_goal()
        assert not live.held

    def test_a_goal_out_of_reach_is_moved_to_the_nearest_point(self, live: LiveArm) -> None:
        """As near as the best of 5,000 random poses."""
        far = (2.0, 1.0, 1.0)
        put = live.move_goal(far)
        generator = np.random.default_rng(0)
        poses = generator.uniform(live.arm.limits.lower_deg, live.arm.limits.upper_deg, (5000, 3))
        tips = live.arm.forward_kinematics(poses)
        assert np.linalg.norm(np.subtract(put, far)) <= np.linalg.norm(tips - far, axis=-1).min() + 1e-6
        assert episode(live) < 10.0

    def test_a_goal_on_a_path_cannot_be_moved(self, ik: OpenedController) -> None:
        """Moving it by hand is an error."""
        live = LiveArm(open_controller("ik", 3, env="ArmTrack-v0"), 3)
        with pytest.raises(ValueError, match="cannot be moved by hand"):
            live.move_goal((0.1, 0.1, 0.1))
        assert live.episode_name == "path 1"
        assert len(live.now().goal_m or ()) == 6
        live.close()


class TestSteps:
    """Simulation of a live arm."""

    def test_manual_angles_replace_the_controller(self, live: LiveArm) -> None:
        """They are clipped to the limits, and the controller continues afterwards."""
        live.manual_deg = [20.0, 70.0, 200.0]  # the last beyond its limit
        for _ in range(3 * live.episode_steps):
            live.step()
        np.testing.assert_allclose(live.now().angle_deg or [], [20.0, 70.0, 90.0], atol=1.0)
        live.manual_deg = None
        live.next_goal()
        assert episode(live) < 5.0

    def test_advancing_ends_at_the_time_or_after_a_number_of_steps(self, live: LiveArm) -> None:
        """The result says whether the time was reached."""
        assert live.advance(1.0, 1000)
        assert live.time_s == pytest.approx(1.0)
        assert not live.advance(2.0, 7)
        assert live.time_s == pytest.approx(1.0 + 7 * live.period_s)
        assert live.advance(0.5, 7)  # it is there already
        assert live.time_s == pytest.approx(1.0 + 7 * live.period_s)

    def test_the_recent_segment_ends_now(self, live: LiveArm) -> None:
        """One second at 30 Hz has 31 ticks."""
        live.advance(2.0, 1000)
        recent = live.recent(1.0)
        assert len(recent) == 31
        np.testing.assert_allclose(recent.time_s, np.arange(30, 61) / 30.0, atol=1e-9)
        assert recent.angle_deg[-1].tolist() == live.now().angle_deg
        assert len(live.recent(1e9)) == 61

    def test_the_seed_determines_the_trajectory(self, ik: OpenedController) -> None:
        """Equal seeds are bit-equal, another one differs."""
        one, same, other = (roll_out(ik, 2, seed).segment(0.0, 99.0) for seed in (5, 5, 6))
        np.testing.assert_array_equal(one.angle_deg, same.angle_deg)
        np.testing.assert_array_equal(one.target_deg, same.target_deg)
        assert not np.array_equal(one.angle_deg, other.angle_deg)


def test_angles_are_those_of_the_observation(ik: OpenedController) -> None:
    """Drawn angles equal the observed ones to 1e-3 degrees."""
    live = LiveArm(ik, 3)
    live.advance(0.5, 100)
    seen = live._observation["observation"][:3] / RADIANS
    np.testing.assert_allclose(live.now().angle_deg or [], seen, atol=1e-3)
    live.close()


class CountingController:
    """A controller that counts the calls of `reset`."""

    def __init__(self) -> None:
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def __call__(self, observation: Any, arms: list[Any]) -> Any:
        return IKController()(observation, arms)


class TestRollOut:
    """Trajectories of controllers."""

    def test_a_trajectory_has_every_tick_of_its_episodes(self, ik: OpenedController) -> None:
        """Three episodes of 50 steps have 151 ticks."""
        trajectory = roll_out(ik, 3, 3)
        ticks = trajectory.segment(0.0, trajectory.length_s)
        assert len(ticks) == 3 * 50 + 1
        assert [part.name for part in trajectory.episodes] == ["goal 1 of 3", "goal 2 of 3", "goal 3 of 3"]
        assert [part.start_s for part in trajectory.episodes] == pytest.approx([0.0, 5 / 3, 10 / 3])
        assert trajectory.episodes[-1].end_s == pytest.approx(trajectory.length_s) == pytest.approx(5.0)
        assert np.isfinite(ticks.target_deg).all()
        np.testing.assert_allclose(ticks.goal_m[[0, 50, 100]], evaluation_goals(ik, 3, 3), atol=1e-6)
        assert (ticks.error_mm[[49, 99, 150]] < 5.0).all()

    def test_its_first_goal_is_the_first_episode_of_an_evaluation(self, ik: OpenedController) -> None:
        """The errors of all ticks are equal."""
        known = evaluated(ik.controller, environment_maker(ik.config), derived_seeds(3, EVALUATION, 1))
        errors_mm = roll_out(ik, 1, 3).segment(0.0, 99.0).error_mm
        np.testing.assert_allclose(errors_mm, 1000.0 * known.distances_m[0], atol=1e-3)
        assert errors_mm[0] > 5.0

    def test_beside_a_trajectory_each_goal_is_a_new_episode(self, ik: OpenedController) -> None:
        """It starts at the same pose and reaches each goal within 2 mm."""
        trajectory = roll_out(open_controller("zero", 0), 3, 0)
        controller = CountingController()
        beside = roll_out_beside(dataclasses.replace(ik, controller=controller), trajectory)
        assert controller.resets == 1 + 3  # and once as it begins
        assert beside.episodes == trajectory.episodes
        assert beside.length_s == pytest.approx(trajectory.length_s, abs=trajectory.period_s)
        np.testing.assert_allclose(beside.sample(0.0).angle_deg, trajectory.sample(0.0).angle_deg, atol=1e-5)
        for episode in trajectory.episodes:
            last = beside.sample(episode.end_s - 2 * trajectory.period_s)
            np.testing.assert_allclose(last.goal_m, trajectory.sample(episode.start_s + 0.5).goal_m, atol=1e-6)
            assert last.error_mm[0] < 2.0

    def test_it_starts_at_the_first_reading(self, ik: OpenedController) -> None:
        """A missing first reading is skipped; a trajectory without goals is an error."""
        trajectory = roll_out(open_controller("zero", 0), 1, 0)
        ticks = trajectory._ticks.ticks(0.0, 9.0)
        later = [msgspec.structs.replace(ticks[0], angle_deg=None), *ticks[1:]]
        beside = roll_out_beside(ik, Trajectory("late", trajectory.arm, trajectory.period_s, TicksInMemory(later)))
        np.testing.assert_allclose(beside.sample(0.0).angle_deg[0], ticks[1].angle_deg, atol=1e-5)
        goalless = [msgspec.structs.replace(tick, goal_m=None) for tick in ticks]
        with pytest.raises(ValueError, match="no goals has no goals for ik"):
            roll_out_beside(ik, Trajectory("no goals", trajectory.arm, trajectory.period_s, TicksInMemory(goalless)))

    def test_controllers_for_other_goals_or_arms_are_rejected(self) -> None:
        """A controller of paths, and one of another arm than the recording's."""
        trajectory = roll_out(open_controller("zero", 0), 1, 0)
        with pytest.raises(ValueError, match="follows moving goals"):
            roll_out_beside(open_controller("ik", 0, env="ArmTrack-v0"), trajectory)
        with pytest.raises(ValueError, match="is for another arm: expected arm3"):
            roll_out_beside(open_controller("ik", 0, arm=KUKA), trajectory)


Point = tuple[float, float, float]
GOALS: list[Point] = [Arm().tip_position(pose) for pose in ([20.0, 40.0, 60.0], [70.0, 30.0, 20.0], [45.0, 80.0, 10.0])]


def tick_at(time_s: float, goal_m: Point | None, angle_deg: list[float] | None = None) -> Tick:
    """A tick of a recording."""
    return Tick(
        time_s=time_s, phase="run", goal_m=goal_m, angle_deg=angle_deg or [10.0, 20.0, 30.0], band="pass", **durations()
    )


def recorded(ticks: list[Tick], episodes: list[Episode] | None = None) -> Trajectory:
    """A recording of the default arm at 30 Hz."""
    return Trajectory("recorded", Arm(), 1 / 30, TicksInMemory(ticks), episodes=episodes or [])


class TestGoalsBesideARecording:
    """The controller beside a recording has exactly its goals, whatever the times of the ticks."""

    @settings(max_examples=12)
    @given(
        st.lists(
            st.tuples(st.floats(1e-4, 0.1), st.sampled_from([0, 1, 2, 0, 1, 2, None]), st.floats(0.0, 1.0)),
            min_size=1,
            max_size=10,
        ),
        st.floats(0.0, 1e4),
    )
    def test_every_tick_has_the_goal_of_its_time(
        self, rows: list[tuple[float, int | None, float]], begin_s: float
    ) -> None:
        """Ticks may be late, missing or shifted, and events anywhere within them."""
        ticks = [tick_at(begin_s, GOALS[0])]
        events_s = [0.0]  # of goals
        for gap_s, number, share in rows:
            goal_m = None if number is None else GOALS[number]
            if goal_m is not None and goal_m != ticks[-1].goal_m:
                events_s.append(ticks[-1].time_s - begin_s + gap_s * (1.0 + 0.1 * share))
            ticks.append(tick_at(ticks[-1].time_s + gap_s, goal_m))
        length_s = ticks[-1].time_s - begin_s
        ends_s = [*events_s[1:], max(length_s, events_s[-1])]
        episodes = [Episode("goal", start, end) for start, end in zip(events_s, ends_s, strict=True) if end > start]
        beside = roll_out_beside(open_controller("zero", 0), recorded(ticks, episodes))._ticks
        found = beside.ticks(0.0, math.inf)
        assert len(found) == len([k for k in range(10_000) if k / 30 < length_s]) + 1
        for row in found:
            before = [tick for tick in ticks if tick.time_s - begin_s <= row.time_s + 1e-9]
            assert row.goal_m == before[-1].goal_m

    def test_an_episode_begins_once_with_an_event_after_its_tick(self, ik: OpenedController) -> None:
        """Real-time loops record a goal's event after the start of its tick."""
        jitter_s = np.random.default_rng(0).uniform(0.0, 0.02, 91)
        ticks = [tick_at(k / 30 + late, GOALS[k // 30 % 3]) for k, late in enumerate(jitter_s.tolist())]
        zero_s = ticks[0].time_s
        bounds_s = [ticks[k].time_s - zero_s + 4e-4 for k in (0, 30, 60, 90)]
        episodes = [Episode(f"goal {k + 1}", bounds_s[k], bounds_s[k + 1]) for k in range(3)]
        controller = CountingController()
        beside = roll_out_beside(dataclasses.replace(ik, controller=controller), recorded(ticks, episodes))
        assert controller.resets == 1 + 3
        assert [beside.error_at_end_mm(episode) < 2.0 for episode in episodes] == [True] * 3

    def test_the_error_at_the_end_is_taken_when_the_next_goal_begins(self, ik: OpenedController) -> None:
        """It equals the distance computed from the ticks of a moving arm."""
        ticks = [tick_at(k / 10, GOALS[k // 2 % 3]) for k in range(7)]
        episodes = [Episode(f"goal {k + 1}", k / 5 + 0.003, k / 5 + 0.203) for k in range(3)]
        beside = roll_out_beside(ik, recorded(ticks, episodes))
        rows = beside.segment(0.0, 1.0)
        for number, (episode, goal_m) in enumerate(zip(episodes, GOALS, strict=True)):
            after = int(np.searchsorted(rows.time_s, (number + 1) / 5 - 1e-6))
            wanted_mm = 1000.0 * math.dist(rows.tip_m[after], goal_m)
            assert beside.error_at_end_mm(episode) == pytest.approx(wanted_mm, rel=1e-6)
            assert abs(1000.0 * math.dist(rows.tip_m[after - 1], goal_m) - wanted_mm) > 5.0

    def test_an_arm_without_a_goal_does_not_move(self, ik: OpenedController) -> None:
        """Its error is NaN."""
        goals = [None] * 30 + [GOALS[0]] * 30 + [None] * 30
        ticks = [tick_at(k / 30, goal_m) for k, goal_m in enumerate(goals)]
        found = roll_out_beside(ik, recorded(ticks)).segment(0.0, 3.0)
        np.testing.assert_allclose(found.angle_deg[:30], [[10.0, 20.0, 30.0]] * 30, atol=0.01)
        np.testing.assert_allclose(found.angle_deg[65:], found.angle_deg[65][None].repeat(25, axis=0), atol=0.01)
        assert np.isnan(found.error_mm).tolist() == [goal is None for goal in goals]

    def test_a_goal_out_of_reach_is_shown_and_approached(self, ik: OpenedController) -> None:
        """The final error is that of the nearest reachable point."""
        beyond = (0.0, 0.3, 0.9)
        found = roll_out_beside(ik, recorded([tick_at(k / 30, beyond) for k in range(60)])).segment(0.0, 2.0)
        assert (found.goal_m == beyond).all()
        nearest_mm = 1000.0 * math.dist(Arm().nearest_reachable(beyond), beyond)
        assert found.error_mm[-1] == pytest.approx(nearest_mm, abs=1.0)
