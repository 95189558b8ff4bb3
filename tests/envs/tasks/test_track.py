"""ArmTrack-v0: Gymnasium's contract, a goal that moves as its path does, and errors worked out by hand."""

import json
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_env_gymnasium
from locations import KUKA
from rollouts import Step, actions, bits, roll, same
from stable_baselines3.common.env_checker import check_env as check_env_stable_baselines3

import envs  # noqa: F401  (registers the ids)
from envs.arm import RADIANS, Arm
from envs.arm_env import ArmEnv
from envs.tasks.paths import Path

START_DEG = (10.0, 20.0, 30.0)


@pytest.fixture
def env() -> Iterator[ArmEnv]:
    env = ArmEnv("track")
    yield env
    env.close()


@pytest.fixture
def other() -> Iterator[ArmEnv]:
    env = ArmEnv("track")
    yield env
    env.close()


def path_of(env: ArmEnv) -> Path:
    """The present episode's path."""
    return Path.from_json(env.save_state()["course"])


def follow(env: ArmEnv, steps: int) -> list[Step]:
    """Steps of a controller that aims a little ahead of the goal."""
    state = env.save_state()["steps"]
    motion = path_of(env).motion((state + np.arange(steps)) / 30 + 0.05)
    return roll(env, list(env.arm.inverse_kinematics(motion[:, :3], 1e-3).astype(np.float32)))


class TestContract:
    """Spaces, episode length and checkers of Gymnasium and Stable-Baselines3."""

    @pytest.mark.parametrize(
        ("check", "advice"),
        [
            (check_env_gymnasium, "For Box action spaces, we recommend using a symmetric and normalized space"),
            (check_env_stable_baselines3, "We recommend you to use a symmetric and normalized Box action space"),
        ],
        ids=["gymnasium", "stable_baselines3"],
    )
    @pytest.mark.parametrize(
        "settings", [{}, {"reward": "sparse"}, {"path": "eight", "imperfections": "rough"}], ids=str
    )
    def test_check_env_passes_and_only_advises_to_normalise_actions(
        self, check: Callable[..., None], advice: str, settings: dict[str, Any]
    ) -> None:
        """Both checkers pass; their only warning advises normalised actions, since ours are in degrees."""
        env = gymnasium.make("ArmTrack-v0", render_mode="rgb_array", **settings).unwrapped
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check(env, skip_render_check=True)
        env.close()
        assert len(caught) == 1, [str(warning.message) for warning in caught]
        assert advice in str(caught[0].message)

    @pytest.mark.parametrize("control", ["from_measured", "from_target"])
    @pytest.mark.parametrize("check", [check_env_gymnasium, check_env_stable_baselines3])
    def test_check_env_passes_with_incremental_control(self, check: Callable[..., None], control: str) -> None:
        """Both checkers also pass with actions that are increments of the angles or of the target."""
        env = gymnasium.make("ArmTrack-v0", control=control).unwrapped
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check(env, skip_render_check=True)
        env.close()
        assert all("normalized" in str(warning.message) for warning in caught)

    def test_spaces(self) -> None:
        """Goals are position and velocity; the velocity bound is the reach at the sum of the joints' speeds plus
        1 %."""
        env = gymnasium.make("envs:ArmTrack-v0")
        assert env.action_space == gymnasium.spaces.Box(0, 90, (3,))
        spaces: Any = env.observation_space
        assert {key: space.shape for key, space in spaces.items()} == {
            "observation": (12,),
            "achieved_goal": (6,),
            "desired_goal": (6,),
        }
        arm = Arm()
        assert spaces["achieved_goal"].high[:3] == pytest.approx([arm.reach_m] * 3)
        # Stretched out, with all joints at 1 % over full speed.
        fastest = arm.reach_m * math.radians(sum(arm.limits.max_speed_deg_s)) * 1.01
        assert spaces["achieved_goal"].high[3:] == pytest.approx([fastest] * 3)
        assert spaces["desired_goal"] == spaces["achieved_goal"]
        env.close()

    def test_an_episode_is_truncated_after_200_steps_and_never_terminates(self, env: ArmEnv) -> None:
        """Step 200 sets truncated, and no step sets terminated, with random actions or on the goal."""
        env.reset(seed=0)
        steps = roll(env, actions(200))
        assert [step[3] for step in steps] == [False] * 199 + [True]
        assert not any(step[2] for step in steps)
        assert not any(step[2] for step in (env.reset(seed=1), follow(env, 200))[1])

    def test_observations_stay_inside_their_space(self, env: ArmEnv) -> None:
        """Observations stay inside their space while the joints oscillate between the ends of their ranges."""
        generator = np.random.default_rng(0)
        for episode in range(5):
            assert env.reset(seed=episode)[0] in env.observation_space
            for _ in range(200):
                assert env.step(90 * generator.integers(0, 2, 3))[0] in env.observation_space


class TestGoal:
    """The moving goal, and the tip's position and velocity."""

    @pytest.mark.parametrize("path", ["circle", "eight", "spline"])
    @pytest.mark.parametrize("period_s", [1 / 30, 1 / 60])
    def test_the_goal_is_the_paths_motion_at_the_time_of_the_step(self, path: Any, period_s: float) -> None:
        """The desired goal of step k is the path's motion at k control periods, bit for bit."""
        env = ArmEnv("track", path=path, control_period_s=period_s, episode_steps=80)
        observations = [env.reset(seed=1)[0], *(step[0] for step in roll(env, actions(80)))]
        drawn = path_of(env)
        assert drawn.kind == path
        wanted = drawn.motion(np.arange(81) * period_s).astype(np.float32)
        assert [row["desired_goal"].tobytes() for row in observations] == [row.tobytes() for row in wanted]
        env.close()

    def test_path_any_draws_all_three_kinds(self) -> None:
        """With `path="any"`, 30 seeds draw circles, eights and splines."""
        env = ArmEnv("track", path="any")
        kinds = set()
        for seed in range(30):
            env.reset(seed=seed)
            kinds.add(path_of(env).kind)
        assert kinds == {"circle", "eight", "spline"}
        env.close()

    @pytest.mark.parametrize("speed_m_s", [0.05, 0.3])
    def test_the_goal_moves_at_the_requested_speed(self, speed_m_s: float) -> None:
        """The desired goal's velocity has the norm of the requested speed."""
        env = ArmEnv("track", path="circle", speed_m_s=speed_m_s)
        for seed in range(3):
            goal = env.reset(seed=seed)[0]["desired_goal"]
            assert np.linalg.norm(goal[3:]) == pytest.approx(speed_m_s, rel=1e-6)
        env.close()

    def test_the_observation_and_the_tip_do_not_depend_on_the_goal(self, env: ArmEnv) -> None:
        """Two environments with different paths give identical fields, the desired goal and the reward aside."""
        elsewhere = ArmEnv("track", path="spline", speed_m_s=0.1)
        for each, seed in ((env, 1), (elsewhere, 2)):
            each.reset(seed=seed, options={"angles_deg": START_DEG})
        for one, another in zip(roll(env, actions(60)), roll(elsewhere, actions(60)), strict=True):
            assert (one[0]["desired_goal"] != another[0]["desired_goal"]).all()
            assert bits(one[0] | {"desired_goal": another[0]["desired_goal"]}) == bits(another[0])
            assert one[2:4] == another[2:4]
        elsewhere.close()

    def test_the_arm_moves_as_in_the_reach_task(self, env: ArmEnv) -> None:
        """The same actions give the same observations as in ArmReach-v0: the task does not affect the dynamics."""
        reach = ArmEnv("reach", episode_steps=200)
        for each in (env, reach):
            each.reset(seed=5, options={"angles_deg": START_DEG})
        for track_step, reach_step in zip(roll(env, actions(60)), roll(reach, actions(60)), strict=True):
            assert track_step[0]["observation"].tobytes() == reach_step[0]["observation"].tobytes()
            assert track_step[0]["achieved_goal"][:3] == pytest.approx(reach_step[0]["achieved_goal"], abs=1e-7)
        reach.close()

    def test_the_tips_velocity_is_the_jacobian_times_the_joints_speeds(self, env: ArmEnv) -> None:
        """The achieved velocity is J(q) dq/dt, which central differences of the tip confirm."""
        assert env.reset(seed=3)[0]["achieved_goal"][3:].tolist() == [0, 0, 0]
        fastest = 0.0
        for observation, *_ in roll(env, actions(60)):
            angles, speeds = (observation["observation"][part].astype(float) / RADIANS for part in np.s_[:3, 3:6])
            tip, velocity = np.split(observation["achieved_goal"], 2)
            assert tip == pytest.approx(env.arm.tip_position(angles.tolist()), abs=1e-6)
            assert velocity == pytest.approx(env.arm.jacobian(angles) @ speeds, abs=2e-6)
            before, after = env.arm.forward_kinematics(angles + np.outer((-1e-4, 1e-4), speeds))
            assert velocity == pytest.approx((after - before) / 2e-4, abs=1e-4)
            fastest = max(fastest, float(np.linalg.norm(velocity)))
        assert fastest > 0.5


class TestReward:
    """Reward, error and success."""

    @pytest.mark.parametrize("reward", ["dense", "sparse"])
    def test_compute_reward_is_the_same_for_batches_rows_and_steps(self, reward: Any) -> None:
        """Batches of any shape, single rows and `step` give the same reward, independent of the velocities."""
        env = ArmEnv("track", reward=reward)
        env.reset(seed=4)
        steps = roll(env, actions(40, 8)) + follow(env, 60)
        achieved, desired = (np.array([step[0][key] for step in steps]) for key in ("achieved_goal", "desired_goal"))
        batch = env.compute_reward(achieved, desired, [step[4] for step in steps])
        assert batch.tolist() == [step[1] for step in steps]
        assert len(set(batch.tolist())) > 1
        assert batch.tolist() == [float(env.compute_reward(a, d, {})) for a, d in zip(achieved, desired, strict=True)]
        boxed = env.compute_reward(achieved.reshape(20, 5, 6), desired.reshape(20, 5, 6), {})
        assert np.array_equal(boxed, batch.reshape(20, 5))
        # Velocities do not count.
        other = np.concatenate([desired[:, :3], np.random.default_rng(0).normal(size=(100, 3))], axis=1)
        assert env.compute_reward(achieved, other, {}).tolist() == batch.tolist()
        env.close()

    def test_the_reward_uses_the_goal_after_the_step(self, env: ArmEnv) -> None:
        """The reward is -d + exp(-d / 10 mm), with d the distance to the goal after the step."""
        env.reset(seed=6)
        for observation, reward, *_, info in follow(env, 60):
            goal, tip = (observation[key][:3].astype(float) for key in ("desired_goal", "achieved_goal"))
            d = math.dist(goal, tip)
            assert info["distance_m"] == pytest.approx(d, abs=1e-12)
            assert reward == pytest.approx(-d + math.exp(-d / 0.01), abs=1e-9)

    def test_the_rms_error_and_success_by_hand(self, env: ArmEnv) -> None:
        """The running RMS starts at step 30, success means at most 10 mm, and a reset clears both (hand-computed)."""
        _, first = env.reset(seed=7)
        assert first["rms_error_m"] == first["distance_m"]
        infos = [first] + [step[4] for step in follow(env, 100) + roll(env, actions(5)) + follow(env, 95)]
        distances = np.array([info["distance_m"] for info in infos])
        successes = set()
        for step, info in enumerate(infos):
            wanted = distances[step] if step < 30 else math.sqrt((distances[30 : step + 1] ** 2).mean())
            assert info["rms_error_m"] == pytest.approx(wanted, rel=1e-12)
            assert info["is_success"] is bool(wanted <= 0.01)
            successes.add(info["is_success"])
        assert successes == {True, False}
        assert env.task.errors_m(distances[None]) == pytest.approx([infos[-1]["rms_error_m"]])
        # Another episode starts from nothing.
        assert env.reset()[1]["rms_error_m"] != infos[-1]["rms_error_m"]
        later = [step[4] for step in roll(env, actions(31))]
        assert later[29]["rms_error_m"] == pytest.approx(later[29]["distance_m"])

    def test_a_goal_that_is_followed_well_is_a_success(self, env: ArmEnv) -> None:
        """A controller that aims 50 ms ahead on the path stays below 6 mm RMS and succeeds."""
        for seed in range(3):
            env.reset(seed=seed)
            info = follow(env, 200)[-1][4]
            assert info["rms_error_m"] < 0.006
            assert info["is_success"] is True

    def test_reach_reports_only_distance_and_success(self) -> None:
        """ArmReach-v0 has goals of three numbers that stay constant, and no RMS error in its infos."""
        env = ArmEnv("reach")
        observation, info = env.reset(seed=0)
        assert {key: value.shape for key, value in observation.items()} == {
            "observation": (12,),
            "achieved_goal": (3,),
            "desired_goal": (3,),
        }
        observations = [observation["desired_goal"].tolist()]
        for step in roll(env, actions(50)):
            assert set(step[4]) == set(info) == {"distance_m", "is_success"}
            observations.append(step[0]["desired_goal"].tolist())
        assert observations == [observations[0]] * 51
        env.close()


class TestResetOptions:
    """Reset options and constructor settings."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"goal_m": (0.1, 0.2, 0.5)}, r"expected reset options angles_deg, got \['goal_m'\]"),
            ({"path": "circle"}, r"expected reset options angles_deg, got \['path'\]"),
            ({"angles_deg": (0, 0, 90.1)}, "angles"),
            ({"angles_deg": (0, 0)}, "angles"),
        ],
    )
    def test_rejected_reset_options_leave_the_episode_unchanged(
        self, env: ArmEnv, other: ArmEnv, options: dict[str, Any], message: str
    ) -> None:
        """After a rejected reset, the episode continues bit for bit as in an undisturbed environment."""
        for each in (env, other):
            each.reset(seed=12)
            roll(each, actions(40))
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)
        assert same(roll(env, actions(40, 1)), roll(other, actions(40, 1)))

    def test_a_given_start_leaves_the_drawn_path_unchanged(self, env: ArmEnv) -> None:
        """A given start pose changes neither the path that the seed draws nor the next episode."""
        drawn = env.reset(seed=11)[0]
        after = env.reset()[0]
        given = env.reset(seed=11, options={"angles_deg": START_DEG})[0]
        assert given["observation"][:3] == pytest.approx(np.radians(START_DEG), abs=1e-6)
        assert given["desired_goal"].tobytes() == drawn["desired_goal"].tobytes()
        assert bits(env.reset()[0]) == bits(after)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"path": "square"}, "^path: "),
            ({"speed_m_s": 0.0}, "^speed_m_s: "),
            ({"speed_m_s": -1.0}, "^speed_m_s: "),
            ({"speed_m_s": math.nan}, "^speed_m_s: "),
            (
                {"speed_m_s": 5.0},
                r"expected a speed at which arm3 can follow a path .*got 5 m/s.*best allows 0\.\d+ m/s",
            ),
            ({"goal_m": (0, 0, 0)}, "goal_m"),
        ],
    )
    def test_invalid_settings_are_rejected_at_construction(self, settings: dict[str, Any], message: str) -> None:
        """The constructor rejects invalid settings, and settings of other tasks."""
        with pytest.raises((ValueError, TypeError), match=message):
            ArmEnv("track", **settings)

    def test_reach_has_neither_path_nor_speed(self) -> None:
        """`path` and `speed_m_s` are unexpected arguments of the reach task."""
        for settings in ({"path": "circle"}, {"speed_m_s": 0.2}):
            with pytest.raises(TypeError, match=next(iter(settings))):
                ArmEnv("reach", **settings)


class TestReproducibility:
    """Seeds and saved states."""

    def test_a_seed_is_exact_after_an_interrupted_episode(self, env: ArmEnv, other: ArmEnv) -> None:
        """A seed gives the same episodes bit for bit, whatever the environment did before."""
        first, steps = env.reset(seed=123), roll(env, actions(200, 5))
        second, more = env.reset(), roll(env, actions(20, 5))
        other.reset(seed=9)
        roll(other, actions(77))
        again = other.reset(seed=123)
        assert (bits(again[0]), again[1]) == (bits(first[0]), first[1])
        assert same(roll(other, actions(200, 5)), steps)
        again = other.reset()
        assert (bits(again[0]), again[1]) == (bits(second[0]), second[1])
        assert same(roll(other, actions(20, 5)), more)
        assert bits(env.reset(seed=124)[0]) != bits(first[0])

    @pytest.mark.parametrize("before", [0, 10, 50, 199])
    def test_a_state_restored_from_json_continues_exactly(self, env: ArmEnv, other: ArmEnv, before: int) -> None:
        """Restored from JSON at any step, an episode and its successor repeat bit for bit, in another environment
        too."""
        observation = env.reset(seed=17)[0]
        for step in roll(env, actions(before, 3)):
            observation = step[0]
        text = json.dumps(env.save_state())
        followed = roll(env, actions(200 - before, 4))
        assert followed[-1][3]
        next_episode = env.reset()[0]

        other.reset(seed=99)
        roll(other, actions(60, 6))
        for each in (env, other):
            assert bits(each.restore_state(json.loads(text))) == bits(observation)
            assert same(roll(each, actions(200 - before, 4)), followed)
            assert bits(each.reset()[0]) == bits(next_episode)


class TestOtherArm:
    """Tracking with the KUKA iiwa of pybullet_data."""

    @pytest.mark.parametrize("path", ["circle", "eight", "spline"])
    def test_a_seven_joint_arm_tracks_every_kind_of_path(self, path: str) -> None:
        """Seven joints give 28 observations; the tip's velocity is J(q) dq/dt as for the default arm."""
        env = gymnasium.make("ArmTrack-v0", arm=str(KUKA), path=path)
        observation, _ = env.reset(seed=0)
        assert {key: value.shape for key, value in observation.items()} == {
            "observation": (28,),
            "achieved_goal": (6,),
            "desired_goal": (6,),
        }
        arm: Arm = env.unwrapped.arm  # type: ignore[attr-defined]
        env.action_space.seed(0)
        for _ in range(60):
            observation, reward, *_ = env.step(env.action_space.sample())
            assert env.observation_space.contains(observation)
            assert np.isfinite(reward)
        angles, speeds = (observation["observation"][part].astype(float) / RADIANS for part in np.s_[:7, 7:14])
        assert observation["achieved_goal"][3:] == pytest.approx(arm.jacobian(angles) @ speeds, abs=1e-4)
        env.close()

    def test_its_inverse_kinematics_follows_a_path(self) -> None:
        """Inverse kinematics started at the previous pose follows a circle within 20 mm RMS."""
        env = gymnasium.make("ArmTrack-v0", arm=str(KUKA), path="circle")
        env.reset(seed=1)
        bare: Any = env.unwrapped
        motion = path_of(bare).motion(np.arange(200) / 30 + 0.05)
        angles = bare.arm.inverse_kinematics(motion[0, :3], 1e-4)
        for row in motion:
            angles = bare.arm.inverse_kinematics(row[:3], 1e-4, start_deg=angles)
            *_, info = env.step(angles.astype(np.float32))
        assert info["rms_error_m"] < 0.02
        env.close()
