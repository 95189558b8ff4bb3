"""Evaluation: figures worked out by hand, controllers with known figures, batches, seeds and references."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binomtest

from arm_control.evaluation import episodes, simulation
from arm_control.evaluation.controllers import FloatArray, IKController, Observation, RandomController, zero_controller
from arm_control.evaluation.episodes import Rollouts, roll_out
from arm_control.evaluation.metrics import evaluate_controller, time_to_reach, wilson_interval
from arm_control.evaluation.opening import evaluate
from arm_control.evaluation.references import reference_fault
from arm_control.evaluation.table import format_evaluation
from arm_control.evaluation.torch_controller import TorchController
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.runs.seeding import EVALUATION, TRAINING, VALIDATION, derived_seeds
from envs.arm import DEFAULT_URDF, RADIANS, Arm
from envs.tasks.reach import Reach
from policies.agent import Spec
from policies.common.networks import DeterministicPolicy

ARM = Arm(DEFAULT_URDF)
SPEC = Spec(12, 3, (0.0,) * 3, (90.0,) * 3, measured_columns=(0, 1, 2), measured_unit=1 / RADIANS)


def make_env() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("envs:ArmReach-v0", disable_env_checker=True)


def to_the_middle(observation: Observation, arms: list[Any]) -> FloatArray:
    """Move every joint halfway to 45 degrees."""
    degrees: FloatArray = np.clip(observation["observation"][:, :3] / np.float32(RADIANS), 0, 90)
    return (degrees + np.float32(45)) / np.float32(2)


class TestWilsonInterval:
    """Confidence intervals of success rates."""

    @pytest.mark.parametrize(
        ("successes", "trials", "low", "high"),
        [
            (81, 263, 0.2553, 0.3662),  # these four: Newcombe 1998, "Two-sided confidence intervals for the single
            (15, 148, 0.0624, 0.1605),  # proportion", table I, method 3
            (0, 20, 0.0000, 0.1611),
            (1, 29, 0.0061, 0.1718),
            (0, 10, 0.0000, 0.2775),  # z^2 / (n + z^2)
            (10, 10, 0.7225, 1.0000),
        ],
    )
    def test_published_intervals(self, successes: int, trials: int, low: float, high: float) -> None:
        """Four intervals of Newcombe (1998), table I, method 3, and the closed form of no and all successes."""
        assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)

    @given(
        st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.99])
    )
    def test_it_equals_scipy(self, counts: tuple[int, int], confidence: float) -> None:
        """Any counts give `scipy.stats.binomtest`'s Wilson interval."""
        expected = binomtest(*counts).proportion_ci(confidence, method="wilson")
        low, high = wilson_interval(*counts, confidence)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert 0.0 <= low <= high <= 1.0


def rollouts(*rows: list[float]) -> Rollouts:
    """Distances in mm, the first at reset; a period of a tenth of a second."""
    return Rollouts(np.array(rows) / 1000.0, Reach(), 0.1)


class TestMetrics:
    """Figures of given distances."""

    def test_errors_are_those_of_the_last_step_and_returns_leave_the_reset_out(self) -> None:
        """Two episodes by hand: the last distance, and the sum of the others but the first."""
        episodes = rollouts([100, 50, 7], [30, 20, 3])
        assert episodes.error_mm == pytest.approx([7, 3])
        assert episodes.returns == pytest.approx([-0.057, -0.023])

    @pytest.mark.parametrize(
        ("row", "steps"),
        [
            ([50, 40, 30, 5, 5], 3),
            ([50, 5, 5, 5, 5], 1),
            ([5, 5, 5, 5, 5], 0),
            ([50, 5, 30, 5, 5], 3),  # there, away and there again: only the last time counts
            ([50, 40, 30, 20, 10], 4),  # at the tolerance is within it
            ([5, 5, 5, 5, 11], None),
            ([50, 5, 5, 5, 50], None),
        ],
    )
    def test_the_time_to_reach_ends_with_the_last_step_outside(self, row: list[float], steps: int | None) -> None:
        """By hand: the last entry into the tolerance counts, and leaving it again is not reaching."""
        reached = time_to_reach(rollouts(row), 0.01)
        assert reached == (None if steps is None else pytest.approx(0.1 * steps))

    def test_the_time_to_reach_is_the_median_of_the_episodes_that_end_within(self) -> None:
        """Five episodes by hand, at several tolerances."""
        episodes = rollouts([50, 5, 5, 5], [50, 40, 5, 5], [50, 50, 50, 5], [50, 50, 50, 50], [5, 5, 5, 50])
        assert time_to_reach(episodes, 0.01) == pytest.approx(0.2)
        assert time_to_reach(episodes, 0.045) == pytest.approx(0.1)
        assert time_to_reach(episodes, 0.05) == 0.0
        assert time_to_reach(episodes, 0.001) is None
        assert time_to_reach(rollouts([50, 5, 5, 5], [50, 40, 5, 5]), 0.01) == pytest.approx(0.15)

    def test_figures_are_computed_from_the_episodes(self) -> None:
        """Means, quantiles, shares and returns equal those computed here from the same 12 episodes."""
        figures = evaluate_controller(to_the_middle, TrainConfig("ddpg", goal_tolerance_m=0.15), goals=12, seed=5)
        episodes = roll_out(to_the_middle, make_env, derived_seeds(5, EVALUATION, 12))
        errors = np.sort(episodes.distances_m[:, -1] * 1000)
        assert figures["mean_error_mm"] == pytest.approx(errors.sum() / 12)
        assert figures["median_error_mm"] == pytest.approx((errors[5] + errors[6]) / 2)
        assert figures["p95_error_mm"] == pytest.approx(
            0.55 * errors[10] + 0.45 * errors[11]
        )  # place 0.95 * 11 = 10.45
        assert figures["max_error_mm"] == errors[-1]
        assert figures["time_to_reach_s"] == time_to_reach(episodes, 0.15)
        assert (figures["goals"], figures["seed"]) == (12, 5)
        assert list(figures["success"]) == list(figures["success_interval"]) == ["50", "20", "10", "5", "2", "1"]
        for mm, share in figures["success"].items():
            count = sum(error <= float(mm) for error in errors)
            assert share == count / 12
            assert figures["success_interval"][mm] == list(wilson_interval(count, 12))
        random, planned = figures["return_random"], figures["return_ik"]
        assert figures["normalised_return"] == pytest.approx((figures["return"] - random) / (planned - random))


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, Any]]:
    return {name: evaluate(name, goals=40, seed=1) for name in ("zero", "random", "ik")}


class TestControllers:
    """Controllers whose figures are known."""

    def test_inverse_kinematics_reaches_every_goal(
        self,
        figures: dict[str, dict[str, Any]],
    ) -> None:
        """Its normalised return is 1 by definition."""
        ik = figures["ik"]
        assert ik["mean_error_mm"] < 0.1
        assert ik["success"] == dict.fromkeys(ik["success"], 1.0)
        assert ik["normalised_return"] == pytest.approx(1.0, abs=1e-12)
        assert 0.1 < ik["time_to_reach_s"] < 50 / 30

    def test_random_targets_are_near_the_zero_of_the_normalised_return(
        self, figures: dict[str, dict[str, Any]]
    ) -> None:
        """Random targets score about 0, against the same references as every controller."""
        random = figures["random"]
        assert abs(random["normalised_return"]) < 0.15
        assert random["success"]["10"] < 0.1
        assert random["return_random"] == figures["ik"]["return_random"]  # the same yardstick for everyone
        assert random["return_ik"] == figures["ik"]["return"]

    def test_the_zero_controller_ends_at_the_lower_limits(self, figures: dict[str, dict[str, Any]]) -> None:
        """Its errors are the distances of the goals from the tip at 0 degrees."""
        tip = np.array(ARM.tip_position(ARM.limits.lower_deg))
        arm = make_env().unwrapped
        goals = [arm.reset(seed=seed)[0]["desired_goal"] for seed in derived_seeds(1, EVALUATION, 40)]
        arm.close()
        errors = 1000 * np.linalg.norm(goals - tip, axis=1)
        assert figures["zero"]["mean_error_mm"] == pytest.approx(errors.mean(), abs=0.4)  # 0.05 degrees at arm's length
        assert figures["zero"]["max_error_mm"] == pytest.approx(errors.max(), abs=0.4)

    def test_the_table_shows_the_figures(self, figures: dict[str, dict[str, Any]]) -> None:
        """Error, success with interval, and return appear; an unreached goal is "never"."""
        table = format_evaluation("ik", figures["ik"])
        assert "ik: 40 held-out goals, seed 1" in table
        assert f"mean {figures['ik']['mean_error_mm']:.2f} mm" in table
        assert "within 10 mm    100.0%   (95 % interval 91.2% to 100.0%)" in table
        assert "normalised return   1.000" in table
        assert "never" in format_evaluation("zero", figures["zero"] | {"time_to_reach_s": None})

    def test_the_seed_determines_the_goals(self) -> None:
        """Equal seeds give equal figures, other seeds other ones."""
        first, again, other = (evaluate("zero", goals=3, seed=seed) for seed in (0, 0, 1))
        assert first == again
        assert first["mean_error_mm"] != other["mean_error_mm"]


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, int], np.ndarray[Any, Any]]:
    """A function that returns the distances of 7 episodes, simulated `arms` at a time."""

    def run(controller: Any, arms: int) -> np.ndarray[Any, Any]:
        monkeypatch.setattr(episodes, "ARMS_AT_ONCE", arms)
        return roll_out(controller, make_env, derived_seeds(2, EVALUATION, 7)).distances_m

    return run


class TestBatches:
    """Episodes that are simulated several at a time."""

    @pytest.mark.parametrize("controller", [zero_controller, to_the_middle], ids=["zero", "to the middle"])
    def test_batches_do_not_change_an_episode(self, side_by_side: Callable[..., Any], controller: Any) -> None:
        """Any batch size gives bit-equal distances."""
        alone = side_by_side(controller, 1)
        assert alone.shape == (7, 51)
        for arms in (3, 7, 25):
            np.testing.assert_array_equal(side_by_side(controller, arms), alone)

    def test_batches_change_a_networks_episode_by_rounding_only(self, side_by_side: Callable[..., Any]) -> None:
        """Matrix products of another size differ by less than 1e-6 m in the end."""
        torch.manual_seed(0)
        policy = DeterministicPolicy(SPEC, 32, 2)
        policy.net[-1].weight.data.mul_(10.0)
        controller = TorchController(policy)
        # A matrix product of other size rounds otherwise: far below a thousandth of a millimetre in the end.
        np.testing.assert_allclose(side_by_side(controller, 3), side_by_side(controller, 1), rtol=0, atol=1e-6)

    def test_batches_change_inverse_kinematics_within_its_tolerance(self, side_by_side: Callable[..., Any]) -> None:
        """The search stops when all goals are within 0.01 mm."""
        # The search goes on until all goals are within its tolerance of 0.01 mm.
        np.testing.assert_allclose(side_by_side(IKController(), 3), side_by_side(IKController(), 1), rtol=0, atol=1e-5)


class TestSeeds:
    """Seeds derived for training, validation and evaluation."""

    def test_seeds_of_all_purposes_and_of_many_runs_are_all_different(self) -> None:
        """100 runs with 1,100 seeds each share none."""
        seeds = [
            value
            for seed in range(100)
            for purpose in (TRAINING, VALIDATION, EVALUATION)
            for value in derived_seeds(seed, purpose, 1000 if purpose == EVALUATION else 50)
        ]
        assert len(set(seeds)) == len(seeds)
        assert all(0 <= value < 2**63 for value in seeds)

    @given(
        st.integers(0, 2**70), st.integers(0, 2**70), st.sampled_from([(0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)])
    )
    @example(5 + 1 * 2**32, 5, (TRAINING, VALIDATION))
    @example(7 + 2 * 2**32, 7, (TRAINING, EVALUATION))
    def test_purposes_never_share_a_seed(self, first: int, second: int, purposes: tuple[int, int]) -> None:
        """For any two run seeds, including those whose sums would collide."""
        ours, theirs = derived_seeds(first, purposes[0], 20), derived_seeds(second, purposes[1], 20)
        assert not set(ours) & set(theirs)

    def test_more_goals_begin_with_those_of_fewer(self) -> None:
        """The first 10 of 100 seeds are the 10 seeds."""
        assert derived_seeds(4, EVALUATION, 100)[:10] == derived_seeds(4, EVALUATION, 10)


class TestIKController:
    """The controller that moves to the pose of inverse kinematics."""

    @pytest.fixture
    def solved(self, monkeypatch: pytest.MonkeyPatch) -> list[FloatArray]:
        """The goals passed to inverse kinematics, call by call."""
        calls = []
        solve = Arm.inverse_kinematics

        def count(self: Arm, goals_m: Any, *arguments: Any, **options: Any) -> Any:
            calls.append(np.array(goals_m))
            return solve(self, goals_m, *arguments, **options)

        monkeypatch.setattr(Arm, "inverse_kinematics", count)
        return calls

    def test_a_goal_that_stands_still_is_solved_once(self, solved: list[FloatArray]) -> None:
        """Inverse kinematics runs once for 50 steps."""
        roll_out(IKController(), make_env, derived_seeds(3, EVALUATION, 4))
        assert [call.shape for call in solved] == [(4, 3)]

    def test_only_a_goal_that_has_changed_is_solved_again(self, solved: list[FloatArray]) -> None:
        """Other arms keep their pose, and `reset` solves all of them again."""
        env = make_env().unwrapped
        observation, _ = env.reset(seed=1)
        other, _ = env.reset(seed=2)
        pair = {key: np.stack([observation[key], other[key]]) for key in observation}
        controller = IKController()
        first = controller(pair, [env, env])
        changed = pair | {"desired_goal": pair["desired_goal"].copy()}
        changed["desired_goal"][1] = ARM.tip_position([30.0, 40.0, 50.0])
        second = controller(changed, [env, env])
        assert [len(call) for call in solved] == [2, 1]
        assert np.array_equal(first[0], second[0])
        assert second[1] == pytest.approx([30.0, 40.0, 50.0], abs=0.01)
        controller.reset()
        controller(changed, [env, env])
        assert len(solved[-1]) == 2
        env.close()

    def test_a_moving_goal_is_followed_from_the_pose_of_the_step_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each search starts at the previous solution, not at the arm, which lags behind."""
        starts, ends = [], []
        descend = Arm.descend

        def note(self: Arm, angles: Any, *arguments: Any, **options: Any) -> Any:
            found = descend(self, angles, *arguments, **options)
            starts.append(np.array(angles))
            ends.append(np.array(found))
            return found

        monkeypatch.setattr(Arm, "descend", note)
        make_track = environment_maker(TrainConfig("ddpg", env="ArmTrack-v0"), episode_steps=20)
        roll_out(IKController(), make_track, [1, 2])
        assert len(starts) == 20
        for start, end in zip(starts[1:], ends, strict=False):
            assert np.array_equal(start, end)


class TestReferences:
    """Random targets and inverse kinematics, the references of the normalised return."""

    def test_references_equal_the_controllers_returns(self, figures: dict[str, dict[str, Any]]) -> None:
        """To the order of summation, the references are the mean returns of both controllers."""
        seeds = derived_seeds(1, EVALUATION, 40)
        random = roll_out(RandomController(1), make_env, seeds).returns.mean()
        assert figures["zero"]["return_random"] == pytest.approx(random, rel=1e-12)  # but for the order of the sum
        planned = roll_out(IKController(), make_env, seeds).returns.mean()
        assert figures["zero"]["return_ik"] == pytest.approx(planned, rel=1e-12)

    @pytest.mark.parametrize("env", ["ArmReach-v0", "ArmTrack-v0"])
    def test_helper_processes_change_no_figure(self, env: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Figures are bit-equal with and without a second process."""
        goals = 7
        monkeypatch.setattr(episodes, "ARMS_AT_ONCE", 3)
        config = TrainConfig("ddpg", env=env, episode_steps=8)
        alone = evaluate_controller(zero_controller, config, goals=goals, seed=2)
        monkeypatch.setattr(simulation, "HELPER_STEPS", 10)
        monkeypatch.setattr(simulation, "spare_cores", lambda: 1)
        assert evaluate_controller(zero_controller, config, goals=goals, seed=2) == alone

    def test_a_random_controller_that_skips_goes_on_as_if_it_had_drawn(self) -> None:
        """Skipping 2 steps of 11 arms and 3 joints gives the same next numbers as drawing them."""
        env = make_env().unwrapped
        one, other = RandomController(5), RandomController(5)
        drawn = one.draw(env.action_space, 7, 11)
        other.skip(2 * 11 * 3)
        assert np.array_equal(other.draw(env.action_space, 5, 11), drawn[2:])
        env.close()

    def test_a_return_whose_reference_fails_is_undefined(self, tmp_path: Path) -> None:
        """It is null in JSON, with the reason: inverse kinematics does not reach the goals in time."""
        urdf = DEFAULT_URDF.read_text().replace('velocity="5.969"', 'velocity="0.2"')
        (tmp_path / "slow.urdf").write_text(urdf)
        config = TrainConfig("ddpg", arm=str(tmp_path / "slow.urdf"), episode_steps=20)
        for controller in (zero_controller, IKController()):
            found = evaluate_controller(controller, config, goals=10, seed=0)
            assert found["normalised_return"] is None
            assert json.loads(json.dumps(found))["normalised_return"] is None
            reason = found["undefined"]["normalised_return"]
            assert "inverse kinematics itself reaches" in reason
            assert f"normalised return   undefined: {reason}" in format_evaluation("zero", found)

    @pytest.mark.parametrize(
        ("errors_mm", "random", "planned", "fails"),
        [
            ([1.0, 9.0, 30.0, 40.0], -10.0, -3.0, False),  # half within 10 mm
            ([1.0, 11.0, 30.0, 40.0], -10.0, -3.0, True),
            ([1.0, 1.0, 1.0, 1.0], -10.0, -9.0, False),  # better by a tenth
            ([1.0, 1.0, 1.0, 1.0], -10.0, -9.1, True),
            ([1.0, 1.0, 1.0, 1.0], -10.0, -12.0, True),
        ],
    )
    def test_what_makes_a_reference_fail(
        self, errors_mm: list[float], random: float, planned: float, fails: bool
    ) -> None:
        """Fewer than half the goals within 10 mm, or a return less than a tenth better than random."""
        assert (reference_fault(np.array(errors_mm), 10.0, random, planned) is not None) == fails
