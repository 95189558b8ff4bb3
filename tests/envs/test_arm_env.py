"""ArmReach-v0: Gymnasium's contract, reproducibility, rewards, invalid input and saved states."""

import contextlib
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_env_gymnasium
from gymnasium.wrappers import RescaleAction
from locations import ROOT
from rollouts import Step, actions, bits, roll, same
from stable_baselines3.common.env_checker import check_env as check_env_stable_baselines3

import envs  # noqa: F401  (registers the ids)
from envs.arm import DEFAULT_URDF, Arm, UnreachableGoalError
from envs.arm_env import ArmEnv
from envs.limits import limit_target
from envs.simulation import Simulation
from envs.tasks.base import StillGoal

START_DEG, GOAL_M, OTHER_GOAL_M = (10.0, 20.0, 30.0), (0.1, 0.2, 0.5), (0.3, 0.1, 0.45)


@pytest.fixture
def env() -> Iterator[ArmEnv]:
    env = ArmEnv("reach")
    yield env
    env.close()


@pytest.fixture
def other() -> Iterator[ArmEnv]:
    env = ArmEnv("reach")
    yield env
    env.close()


def python(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestContract:
    """Gymnasium's contract: ids, spaces, checkers and episode ends."""

    @pytest.mark.parametrize(
        ("check", "advice"),
        [
            (check_env_gymnasium, "For Box action spaces, we recommend using a symmetric and normalized space"),
            (check_env_stable_baselines3, "We recommend you to use a symmetric and normalized Box action space"),
        ],
        ids=["gymnasium", "stable_baselines3"],
    )
    @pytest.mark.parametrize("reward", ["dense", "sparse"])
    @pytest.mark.parametrize(
        ("name", "warnings_wanted"),
        [("ArmReach-v0", 1), ("ArmTrack-v0", 1), ("ArmReachDiscrete-v0", 0), ("ArmReachMultiDiscrete-v0", 0)],
    )
    def test_check_env_passes_and_only_advises_to_normalise_actions(
        self, check: Callable[..., None], advice: str, name: str, warnings_wanted: int, reward: str
    ) -> None:
        """Both checkers pass; their only warning advises normalised actions, since ours are in degrees."""
        env = gymnasium.make(name, render_mode="rgb_array", reward=reward).unwrapped
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            # Gymnasium's render check opens every mode, windows too; tests/envs/test_scene.py looks at rendering.
            check(env, skip_render_check=True)
        env.close()
        assert len(caught) == warnings_wanted, [str(warning.message) for warning in caught]
        assert all(advice in str(warning.message) for warning in caught)

    @pytest.mark.parametrize("name", ["ArmReach-v0", "envs:ArmReach-v0"])
    def test_gymnasium_makes_it_by_its_id(self, name: str) -> None:
        """The id gives an ArmEnv with actions in degrees, 12 observations and goals in metres."""
        env = gymnasium.make(name)
        assert isinstance(env.unwrapped, ArmEnv)
        assert env.action_space == gymnasium.spaces.Box(0, 90, (3,))
        assert {key: space.shape for key, space in env.observation_space.items()} == {  # type: ignore[attr-defined]
            "observation": (12,),
            "achieved_goal": (3,),
            "desired_goal": (3,),
        }
        observation, _ = env.reset(seed=0)
        assert observation in env.observation_space
        env.close()

    def test_the_module_prefixed_id_needs_no_import(self) -> None:
        """`gymnasium.make("envs:ArmReach-v0")` works in a process that has not imported envs."""
        assert python("import gymnasium; print(gymnasium.make('envs:ArmReach-v0').spec.id)") == "ArmReach-v0\n"

    def test_an_episode_is_truncated_after_50_steps_and_never_terminates(self, env: ArmEnv) -> None:
        """Step 50 sets truncated, and no step sets terminated."""
        for episode in range(3):
            env.reset(seed=episode)
            steps = roll(env, actions(50, episode))
            assert [step[3] for step in steps] == [False] * 49 + [True]
            assert not any(step[2] for step in steps)

    def test_reaching_the_goal_does_not_terminate(self, env: ArmEnv) -> None:
        """An episode that starts on its goal succeeds at every step and never terminates."""
        env.reset(options={"angles_deg": START_DEG, "goal_m": env.arm.tip_position(START_DEG)})
        steps = roll(env, [np.array(START_DEG, np.float32)] * 50)
        assert all(step[4]["is_success"] and not step[2] for step in steps)

    def test_episode_steps_sets_the_length(self) -> None:
        """`episode_steps=7` truncates at step 7."""
        env = ArmEnv("reach", episode_steps=7)
        env.reset(seed=0)
        assert [step[3] for step in roll(env, actions(7))] == [False] * 6 + [True]
        env.close()

    def test_the_observation_holds_the_readings_and_the_state_of_the_limiter_in_radians(self, env: ArmEnv) -> None:
        """Observations are angles, speeds, target and its speed in radians, as composed by hand from the parts."""
        observation, info = env.reset(options={"angles_deg": START_DEG, "goal_m": GOAL_M})
        start = np.radians(START_DEG)
        assert observation["observation"] == pytest.approx(
            np.concatenate([start, np.zeros(3), start, np.zeros(3)]), abs=1e-6
        )
        assert observation["achieved_goal"] == pytest.approx(env.arm.tip_position(START_DEG), abs=1e-6)
        assert observation["desired_goal"] == pytest.approx(GOAL_M, abs=1e-7)
        assert info["distance_m"] == pytest.approx(math.dist(env.arm.tip_position(START_DEG), GOAL_M), abs=1e-6)

        # The same arm, limiter and simulation, put together by hand.
        target, speed = list(START_DEG), [0.0] * 3
        with Simulation(Arm()) as simulation:
            simulation.reset(START_DEG)
            for action in actions(20):
                target, speed = limit_target(action.tolist(), target, speed, simulation.arm.limits, 1 / 30)
                simulation.command(target)
                simulation.step()
                observation = env.step(action)[0]
                readings = [*simulation.angles_deg, *simulation.speeds_deg_s, *target, *speed]
                assert observation["observation"] == pytest.approx(np.radians(readings), rel=1e-6, abs=1e-6)
                assert observation["achieved_goal"] == pytest.approx(
                    simulation.arm.tip_position(simulation.angles_deg), abs=1e-6
                )

    def test_observations_stay_inside_their_space(self, env: ArmEnv) -> None:
        """Observations stay inside their space while the joints oscillate between the ends of their ranges."""
        generator = np.random.default_rng(0)
        for episode in range(40):
            observation, _ = env.reset(seed=episode)
            assert observation in env.observation_space
            for _ in range(50):
                observation = env.step(90 * generator.integers(0, 2, 3))[0]
                assert observation in env.observation_space


SEEDED_RUN = """
import numpy as np
from envs.arm_env import ArmEnv
env = ArmEnv("reach")
def show(observation, *rest):
    print({key: [float(x).hex() for x in value] for key, value in observation.items()}, *rest)
show(*env.reset(seed=123))
for action in np.random.default_rng(5).uniform(0, 90, (50, 3)).astype(np.float32):
    observation, reward, terminated, truncated, info = env.step(action)
    show(observation, reward.hex(), terminated, truncated, info["distance_m"].hex(), info["is_success"])
show(*env.reset())
"""


def seeded_run(env: ArmEnv) -> tuple[list[Any], list[Step]]:
    first = env.reset(seed=123)
    steps = roll(env, actions(50, seed=5))
    second = env.reset()
    return [(bits(first[0]), first[1]), (bits(second[0]), second[1])], steps


class TestReproducibility:
    """Seeds, and the source of randomness."""

    def test_a_seed_is_exact_in_one_process_and_after_an_interrupted_episode(self, env: ArmEnv, other: ArmEnv) -> None:
        """A seed gives the same bits in another environment and after an interrupted episode."""
        resets, steps = seeded_run(env)
        env.reset(seed=9, options={"angles_deg": (90, 90, 90)})
        roll(env, actions(33, seed=6))
        again, steps_again = seeded_run(env)
        assert again == resets
        assert same(steps_again, steps)
        elsewhere, steps_elsewhere = seeded_run(other)
        assert elsewhere == resets
        assert same(steps_elsewhere, steps)
        assert bits(env.reset(seed=124)[0]) != resets[0][0]

    def test_a_seed_is_exact_in_a_fresh_process(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A fresh process prints the same 52 lines of hexadecimal floats as this one."""
        exec(SEEDED_RUN, {})
        here = capsys.readouterr().out
        assert len(here.splitlines()) == 52
        assert python(SEEDED_RUN) == here

    def test_start_and_goal_are_drawn_from_the_environments_own_generator(self, env: ArmEnv) -> None:
        """Start and goal are two uniform poses from the environment's generator, independent of NumPy's global one."""
        np.random.seed(0)  # noqa: NPY002
        first = env.reset(seed=7)[0]
        second = env.reset()[0]
        np.random.seed(1)  # noqa: NPY002
        assert bits(env.reset(seed=7)[0]) == bits(first)
        assert bits(env.reset()[0]) == bits(second)

        generator, _ = gymnasium.utils.seeding.np_random(7)
        for observation in (first, second):
            start, pose = generator.uniform(0, 90, 3), generator.uniform(0, 90, 3)
            assert observation["observation"][:3] == pytest.approx(np.radians(start), abs=1e-6)
            assert observation["desired_goal"] == pytest.approx(env.arm.tip_position(pose), abs=1e-6)

    def test_goals_are_always_reachable_and_different(self, env: ArmEnv) -> None:
        """Of 1000 seeds each goal is reachable within 0.01 mm and occurs once."""
        goals = np.array([env.reset(seed=seed)[0]["desired_goal"] for seed in range(1000)], dtype=np.float64)
        angles = env.arm.inverse_kinematics(goals)
        assert np.linalg.norm(env.arm.forward_kinematics(angles) - goals, axis=-1).max() < 1e-5
        assert len({tuple(goal) for goal in goals.tolist()}) == 1000


class TestGoalsAndRewards:
    """Rewards, relabelling and independence from the goal."""

    def test_a_relabelled_transition_equals_a_real_one_towards_that_goal_in_every_field(
        self, env: ArmEnv, other: ArmEnv
    ) -> None:
        """Hindsight relabelling gives the observation, reward and flags of a real episode towards that goal."""
        for reward in ("dense", "sparse"):
            here, there = ArmEnv("reach", reward=reward), ArmEnv("reach", reward=reward)  # type: ignore[arg-type]
            # The other goal lies on the path and is reached for some steps: both values of is_success occur.
            on_the_path = here.arm.tip_position((50.0, 50.0, 50.0))
            moves = [np.array([80, 80, 80], np.float32)] * 20 + [np.array([50, 50, 50], np.float32)] * 30
            before = here.reset(options={"angles_deg": START_DEG, "goal_m": GOAL_M})[0]
            real_before = there.reset(options={"angles_deg": START_DEG, "goal_m": on_the_path})[0]
            goal = real_before["desired_goal"]
            successes = set()
            for move in moves:
                after, _, terminated, truncated, info = here.step(move)
                real_after, real_reward, real_terminated, real_truncated, real_info = there.step(move)
                assert bits(before | {"desired_goal": goal}) == bits(real_before)
                assert bits(after | {"desired_goal": goal}) == bits(real_after)
                assert float(here.compute_reward(after["achieved_goal"], goal, info)) == real_reward
                assert here.compute_terminated(after["achieved_goal"], goal, info) is terminated is real_terminated
                assert here.compute_truncated(after["achieved_goal"], goal, info) is truncated is real_truncated
                distance_m = float(np.linalg.norm(after["achieved_goal"].astype(np.float64) - goal))
                assert real_info["distance_m"] == pytest.approx(distance_m, rel=1e-14)
                assert real_info["is_success"] is (distance_m <= 0.01)
                successes.add(real_info["is_success"])
                before, real_before = after, real_after
            assert successes == {False, True}
            here.close()
            there.close()

    def test_only_the_desired_goal_and_the_score_depend_on_the_goal(self, env: ArmEnv, other: ArmEnv) -> None:
        """With two goals, all other fields of the observations are identical, as hindsight replay requires."""
        for each, goal in ((env, GOAL_M), (other, OTHER_GOAL_M)):
            each.reset(seed=1, options={"goal_m": goal})
        for one, another in zip(roll(env, actions(50)), roll(other, actions(50)), strict=True):
            assert bits(one[0] | {"desired_goal": another[0]["desired_goal"]}) == bits(another[0])
            assert one[2:4] == another[2:4]
            assert one[1] != another[1]

    @pytest.mark.parametrize("reward", ["dense", "sparse"])
    def test_compute_reward_is_the_same_for_batches_rows_and_steps(self, reward: Any) -> None:
        """Batches of any shape, single rows and `step` give the same reward, bit for bit."""
        env = ArmEnv("reach", reward=reward)
        env.reset(seed=3)
        steps = roll(env, actions(50, 8))
        achieved, desired = (np.array([step[0][key] for step in steps]) for key in ("achieved_goal", "desired_goal"))
        batch = env.compute_reward(achieved, desired, [step[4] for step in steps])
        assert batch.shape == (50,)
        assert batch.tolist() == [step[1] for step in steps]

        generator = np.random.default_rng(4)
        achieved = generator.uniform(-0.7, 0.7, (5000, 3)).astype(np.float32)
        desired = (achieved + generator.normal(size=(5000, 3)) * 10 ** generator.uniform(-5, -1, (5000, 1))).astype(
            np.float32
        )
        batch = env.compute_reward(achieved, desired, {})
        assert batch.tolist() == [float(env.compute_reward(a, d, {})) for a, d in zip(achieved, desired, strict=True)]
        boxed = env.compute_reward(achieved.reshape(50, 100, 3), desired.reshape(50, 100, 3), {})
        assert np.array_equal(boxed, batch.reshape(50, 100))
        env.close()

    @pytest.mark.parametrize(
        ("distance_m", "reward"),
        [
            (0.0, 1.0),
            (0.01, -0.01 + 0.36787944117144233),  # 1/e
            (0.05, -0.05 + 0.006737946999085467),  # e^-5
            (0.5, -0.5 + 1.9287498479639178e-22),  # e^-50
        ],
    )
    def test_the_dense_reward_by_hand(self, env: ArmEnv, distance_m: float, reward: float) -> None:
        """The dense reward is -d + exp(-d / 10 mm): hand-computed for four distances."""
        assert float(env.compute_reward([0.1, 0.2, 0.3], [0.1, 0.2 + distance_m, 0.3], {})) == pytest.approx(
            reward, abs=1e-12
        )

    def test_the_sparse_reward_is_0_within_the_tolerance_and_else_minus_1(self) -> None:
        """The sparse reward is 0 up to the tolerance inclusive and -1 beyond, in batches and in steps."""
        env = ArmEnv("reach", reward="sparse", goal_tolerance_m=0.02)
        distances = np.array([0.0, 0.0199, 0.02, 0.0201, 0.5])
        goals = np.zeros((5, 3))
        achieved = np.zeros((5, 3))
        achieved[:, 2] = distances
        assert env.compute_reward(achieved, goals, {}).tolist() == [0, 0, 0, -1, -1]
        tip = env.arm.tip_position(START_DEG)
        env.reset(options={"angles_deg": START_DEG, "goal_m": (tip[0], tip[1], tip[2] - 0.015)})
        _, reward, _, _, info = env.step(np.array(START_DEG, np.float32))
        assert (reward, info["is_success"]) == (0.0, True)
        env.reset(options={"angles_deg": START_DEG, "goal_m": OTHER_GOAL_M})
        _, reward, _, _, info = env.step(np.array(START_DEG, np.float32))
        assert (reward, info["is_success"]) == (-1.0, False)
        env.close()


class TestOptions:
    """Reset options, actions and constructor settings."""

    def test_options_set_the_start_or_the_goal_and_leave_the_rest_as_drawn(self, env: ArmEnv) -> None:
        """A given start or goal leaves everything else that the seed draws unchanged, the next episode included."""
        drawn = env.reset(seed=11)[0]
        after_drawn = env.reset()[0]
        start_only = env.reset(seed=11, options={"angles_deg": list(START_DEG)})[0]
        assert start_only["observation"][:3] == pytest.approx(np.radians(START_DEG), abs=1e-6)
        assert start_only["desired_goal"].tobytes() == drawn["desired_goal"].tobytes()
        goal_only = env.reset(seed=11, options={"goal_m": np.array(GOAL_M)})[0]
        assert goal_only["desired_goal"] == pytest.approx(GOAL_M, abs=1e-7)
        assert goal_only["observation"].tobytes() == drawn["observation"].tobytes()
        assert bits(env.reset()[0]) == bits(after_drawn)  # the generator advanced by as much

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"goal": GOAL_M}, ValueError, r"expected reset options angles_deg and goal_m, got \['goal'\]"),
            (
                {"goal_m": (0.0, 0.0, 0.8)},
                UnreachableGoalError,
                r"goal \(0\.0000, 0\.0000, 0\.8000\) m is out of reach",
            ),
            ({"goal_m": (0.1, math.nan, 0.3)}, ValueError, "finite numbers in metres"),
            ({"goal_m": (0.1, 0.2)}, ValueError, r"expected a goal x,y,z in metres, got \(0\.1, 0\.2\)"),
            ({"angles_deg": (0, 0, 90.1)}, ValueError, r"expected angles from .* degrees, got \[0, 0, 90\.1\]"),
            ({"angles_deg": (0, 0, math.nan), "goal_m": OTHER_GOAL_M}, ValueError, "expected angles from"),
            ({"angles_deg": (0, 0), "goal_m": OTHER_GOAL_M}, ValueError, "expected 3 angles in degrees"),
        ],
    )
    def test_rejected_reset_options_leave_the_episode_unchanged(
        self, env: ArmEnv, other: ArmEnv, options: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        """After a rejected reset, the episode continues bit for bit as in an undisturbed environment."""
        for each in (env, other):
            each.reset(seed=12)
            roll(each, actions(10))
        with pytest.raises(error, match=message):
            env.reset(options=options)
        assert same(roll(env, actions(40, 1)), roll(other, actions(40, 1)))

    @pytest.mark.parametrize(
        "bad",
        [
            np.array([45, np.nan, 45], np.float32),
            np.array([45, np.inf, 45], np.float32),
            np.array([45, 45, 90.01], np.float32),
            np.array([-0.01, 45, 45], np.float32),
            np.array([45, 45], np.float32),
            np.array([45, 45, 45, 45], np.float32),
            np.array([[45, 45, 45]], np.float32),
            np.float32(45),
            np.array([45, 45, 45 + 1j]),
            np.array([True, False, True]),
            np.array(["45", "45", "45"]),
            np.array([45, None, 45], object),
            None,
        ],
        ids=repr,
    )
    def test_rejected_actions_leave_the_episode_unchanged(self, env: ArmEnv, other: ArmEnv, bad: Any) -> None:
        """After a rejected action, the episode continues bit for bit and does not count the step."""
        for each in (env, other):
            each.reset(seed=13)
            roll(each, actions(10))
        with pytest.raises(ValueError, match=r"expected (an action of 3 numbers|target angles from)"):
            env.step(bad)
        steps = roll(env, actions(40, 2))
        assert same(steps, roll(other, actions(40, 2)))
        assert steps[-1][3]

    @pytest.mark.parametrize(
        "good", [[30.0, 45.0, 60.0], np.array([30, 45, 60]), np.array([30, 45, 60], np.float16)], ids=repr
    )
    def test_accepts_lists_and_other_number_types(self, env: ArmEnv, other: ArmEnv, good: Any) -> None:
        """Lists, integers and float16 give the same step as float32."""
        for each in (env, other):
            each.reset(seed=14)
        assert same([env.step(good)], [other.step(np.array([30, 45, 60], np.float32))])

    def test_the_corners_of_the_action_space_are_accepted(self, env: ArmEnv) -> None:
        """The bounds of the action space are valid actions."""
        env.reset(seed=15)
        env.step(env.action_space.low)
        env.step(env.action_space.high)

    def test_rescaled_actions_give_the_same_motion(self, env: ArmEnv, other: ArmEnv) -> None:
        """RescaleAction to [-1, 1] moves the arm as the same angles in degrees do."""
        scaled = RescaleAction(other, -1.0, 1.0)
        assert scaled.action_space == gymnasium.spaces.Box(-1, 1, (3,))
        for each in (env, scaled):
            each.reset(seed=16)
        for action in ([-1, 0, 1], [1, -1, 0], [0.5, -0.5, 1]):
            degrees = 45 * (np.array(action, np.float32) + 1)
            one, another = env.step(degrees), scaled.step(np.array(action, np.float32))
            assert another[0]["observation"] == pytest.approx(one[0]["observation"], abs=1e-6)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"reward": "shaped"}, "reward"),
            ({"goal_tolerance_m": 0.0}, "goal tolerance"),
            ({"goal_tolerance_m": math.nan}, "goal tolerance"),
            ({"episode_steps": 0}, "at least one step"),
            ({"render_mode": "ansi"}, "render mode"),
            ({"arm": "nowhere.urdf"}, r"(?i)arm nowhere\.urdf: no such file"),
            ({"physics_step_s": 1 / 200}, "whole multiple"),
        ],
    )
    def test_invalid_settings_are_rejected_at_construction(self, settings: dict[str, Any], message: str) -> None:
        """Invalid settings raise ValueError when the environment is made."""
        with pytest.raises(ValueError, match=message):
            ArmEnv("reach", **settings)

    def test_rendering_requires_a_render_mode(self, env: ArmEnv) -> None:
        """`render` raises ValueError if the environment has no render mode."""
        env.reset(seed=0)
        with pytest.raises(ValueError, match="render requires a render_mode"):
            env.render()

    def test_close_is_idempotent_and_ends_all_use(self) -> None:
        """Closing twice is allowed; `step` and `reset` then raise RuntimeError."""
        env = ArmEnv("reach")
        env.reset(seed=0)
        env.close()
        env.close()
        with pytest.raises(RuntimeError, match="closed"):
            env.step(actions(1)[0])
        with pytest.raises(RuntimeError, match="closed"):
            env.reset()


class TestSavedState:
    """Saving and restoring an environment's state."""

    def test_a_state_restored_from_json_continues_exactly(self, env: ArmEnv, other: ArmEnv) -> None:
        """Restored from JSON, the episode and those after it repeat bit for bit, generator included."""
        env.reset(seed=17)
        observation = roll(env, actions(23, 3))[-1][0]
        text = json.dumps(env.save_state())
        followed = roll(env, actions(27, 4))
        assert followed[-1][3]  # the steps were counted from the start of the episode
        episodes = [env.reset()[0] for _ in range(3)]
        after = roll(env, actions(20, 5))

        roll(env, actions(11, 6))
        other.reset(seed=99)
        fresh = ArmEnv("reach")
        for each in (env, other, fresh):
            assert bits(each.restore_state(json.loads(text))) == bits(observation)
            assert same(roll(each, actions(27, 4)), followed)
            assert [bits(each.reset()[0]) for _ in range(3)] == [bits(episode) for episode in episodes]
            assert same(roll(each, actions(20, 5)), after)
        fresh.close()

    def test_a_saved_state_is_a_copy(self, env: ArmEnv) -> None:
        """Later steps and resets do not change a state that was saved before."""
        env.reset(seed=18)
        roll(env, actions(5))
        state = env.save_state()
        text = json.dumps(state)
        roll(env, actions(5))
        env.reset()
        assert json.dumps(state) == text


class TestSteering:
    """Moving the arm outside of the agent's interface."""

    def test_steer_equals_a_step_with_the_same_angles(self, env: ArmEnv, other: ArmEnv) -> None:
        """`steer` gives the observation, reward, flags and infos of `step` with the same angles."""
        env.reset(seed=4)
        other.reset(seed=4)
        for action in actions(20):
            one, another = env.step(action), other.steer(action.tolist())
            assert bits(one[0]) == bits(another[0])
            assert one[1:] == another[1:]

    def test_a_new_goal_starts_an_episode_without_moving_the_arm(self, env: ArmEnv) -> None:
        """`change_goals` keeps angles, speeds and target, sets the goal and restarts the step count."""
        env.reset(seed=4)
        for action in actions(7):
            env.step(action)
        before = env.measured_deg, env.measured_deg_s, env.target_deg
        assert np.abs(env.measured_deg_s).max() > 1.0
        goal = env.arm.tip_position([10.0, 20.0, 30.0])
        observation = env.change_goals(StillGoal(goal))
        assert (env.measured_deg, env.measured_deg_s, env.target_deg) == before
        assert env.goal_m == goal
        np.testing.assert_allclose(observation["desired_goal"], goal, atol=1e-6)
        ends = [env.step(action)[3] for action in actions(env.episode_steps)]
        assert ends == [False] * (env.episode_steps - 1) + [True]


SLOW = DEFAULT_URDF.read_text().replace('velocity="5.969"', 'velocity="0.5"')


class TestEpisodeLength:
    """Default episode lengths for arms and control rates."""

    def test_the_default_arm_has_50_steps_and_200_on_a_path(self) -> None:
        """All published figures use 50 steps of 1/30 s to reach and 200 to track, of which 30 to settle."""
        for task, steps in (("reach", 50), ("track", 200)):
            with contextlib.closing(ArmEnv(task)) as env:
                assert env.episode_steps == steps
        assert env.task.settle_steps == 30  # type: ignore[attr-defined]

    def test_a_slow_arm_can_cross_its_range_twice(self, tmp_path: Path) -> None:
        """At 0.5 rad/s, 90 degrees take 3.15 s; twice that is 190 steps, rounded up to tenths of the default."""
        (tmp_path / "slow.urdf").write_text(SLOW)
        assert DEFAULT_URDF.read_text() != SLOW
        crossing_s = math.radians(90) / 0.5 + 0.5 / 40
        for task, steps, settle_steps in (("reach", 50, None), ("track", 200, 30)):
            options = {"speed_m_s": 0.02} if task == "track" else {}
            with contextlib.closing(ArmEnv(task, tmp_path / "slow.urdf", **options)) as env:
                wanted = steps * math.ceil(10 * 2 * crossing_s / (50 / 30)) / 10
                assert env.episode_steps == wanted
                if settle_steps is not None:
                    assert env.task.settle_steps == settle_steps * wanted / steps  # type: ignore[attr-defined]
        assert wanted == 760

    @pytest.mark.parametrize(("rate_hz", "steps"), [(60, 100), (24, 40), (20, 35), (120, 200)])
    def test_another_rate_keeps_the_duration(self, rate_hz: int, steps: int) -> None:
        """At other control rates an episode lasts 1.67 s, or up to a tenth more."""
        with contextlib.closing(ArmEnv("reach", control_period_s=1 / rate_hz)) as env:
            assert env.episode_steps == steps
            assert 50 / 30 <= steps / rate_hz + 1e-9 <= 1.1 * 50 / 30

    def test_a_slow_arm_reaches_its_goals_in_time(self, tmp_path: Path) -> None:
        """The lengthened episode suffices for the direct motion to every goal; 50 steps would not for most."""
        (tmp_path / "slow.urdf").write_text(SLOW)
        with contextlib.closing(ArmEnv("reach", tmp_path / "slow.urdf")) as env:
            early = []
            for seed in range(10):
                observation, _ = env.reset(seed=seed)
                pose = env.arm.inverse_kinematics(observation["desired_goal"], 1e-5).astype(np.float32)
                reached = [env.step(pose)[4]["is_success"] for _ in range(env.episode_steps)]
                assert reached[-1]
                early.append(reached[49])
            assert np.mean(early) < 0.5
