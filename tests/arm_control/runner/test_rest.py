"""Figures of rest: by hand on constructed trajectories, for known controllers, and in the runner."""

import dataclasses
import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from fake_arm import ARM, FakeArm, FakeClock, ScriptedPolicy
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from arm_control.evaluation.controllers import IKController, Observation, actions_for
from arm_control.evaluation.metrics import evaluate_controller
from arm_control.evaluation.table import format_evaluation
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import ControlLoop
from arm_control.runner.report import LoopReport, format_report
from arm_control.runner.rest import Rest, RestWindow, format_rest, joint_rest, rest_fault, rest_figures, rest_steps
from arm_control.runner.safety import Safety
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.runs.seeding import EVALUATION, derived_seeds
from envs.imperfections import Imperfections
from envs.tasks.base import GoalTrajectory, StillGoal
from envs.tasks.track import MovingGoal, Track

FloatArray = NDArray[np.float64]
STEPS = 16
POSE = (30.0, 50.0, 60.0)


def episode(*joints: Any) -> FloatArray:
    """One episode, (1, steps + 1, joints), from each joint's values; a number is a constant."""
    rows = [np.broadcast_to(np.asarray(joint, dtype=np.float64), STEPS + 1) for joint in joints]
    return np.stack(rows, axis=-1)[None]


def figures_of(trajectory: FloatArray) -> Rest:
    """The figures of an arm whose joints are at their targets."""
    return rest_figures(trajectory, trajectory)


def square(half_deg: float) -> FloatArray:
    """An angle that jumps between two values at every step."""
    return np.where(np.arange(STEPS + 1) % 2 == 0, half_deg, -half_deg)


class TestByHand:
    """Trajectories with figures worked out by hand."""

    def test_constant_joints_are_at_rest(self) -> None:
        """All figures are 0 at any pose."""
        assert figures_of(episode(0.0, 45.0, 90.0)) == Rest(0.0, 0.0, 0.0, 0.0)

    def test_a_ramp_has_steps_and_a_range_but_no_reversals(self) -> None:
        """0.2 degrees in each of 16 steps are a range of 3.2."""
        rest = figures_of(episode(10.0 + 0.2 * np.arange(STEPS + 1)))
        assert dataclasses.astuple(rest) == pytest.approx((0.2, 3.2, 3.2, 0.0))

    def test_an_alternating_joint_reverses_at_every_step(self) -> None:
        """31 and 29 degrees alternating are changes of 2 degrees."""
        rest = figures_of(episode(30.0 + square(1.0)))
        assert dataclasses.astuple(rest) == pytest.approx((2.0, 2.0, 2.0, 1.0))

    def test_one_alternating_joint_among_three(self) -> None:
        """The range is that of the worst joint; step and reversals are means over joints."""
        rest = figures_of(episode(10.0, 30.0 + square(1.0), 50.0))
        assert dataclasses.astuple(rest) == pytest.approx((2.0 / 3.0, 2.0, 2.0, 1.0 / 3.0))

    def test_a_sine_of_eight_steps(self) -> None:
        """Two cycles of amplitude 3: mean step 1.5, range 6, and 4 reversals in 15 pairs of changes."""
        rest = figures_of(episode(3.0 * np.sin(2.0 * np.pi * np.arange(STEPS + 1) / 8.0)))
        # The sign flips at 4 peaks, of 15 pairs of changes; the range is peak to peak.
        assert dataclasses.astuple(rest) == pytest.approx((1.5, 6.0, 6.0, 4.0 / 15.0))

    def test_an_oscillation_that_pauses_at_its_ends_has_no_consecutive_reversals(self) -> None:
        """Only range and step show it."""
        rest = figures_of(episode(np.tile([0.0, 1.0, 1.0, 0.0], 5)[: STEPS + 1]))
        assert dataclasses.astuple(rest) == pytest.approx((0.5, 1.0, 1.0, 0.0))

    def test_changes_within_the_dead_band_are_no_reversals(self) -> None:
        """0.0008 degrees are within, 0.0012 are not; the mean step has no dead band."""
        below = figures_of(episode(square(0.0004)))
        above = figures_of(episode(square(0.0006)))
        assert (below.target_step_deg, below.reversals) == (pytest.approx(0.0008), 0.0)
        assert (above.target_step_deg, above.reversals) == (pytest.approx(0.0012), 1.0)

    def test_float32_rounding_is_no_reversal(self) -> None:
        """The two float32 numbers nearest to 89.9 degrees alternate, as rounded outputs do."""
        near = np.float32(89.9)
        rest = figures_of(episode(np.where(square(1.0) > 0, near, np.nextafter(near, np.float32(0)))))
        assert rest.target_step_deg > 0.0
        assert rest.reversals == 0.0

    def test_the_worst_joint_is_that_of_each_episode(self) -> None:
        """Ranges of 4 and 1 degrees in one episode, 1 and 2 in the other: 4 and 2."""
        episodes = np.concatenate([episode(square(2.0), square(0.5)), episode(square(0.5), square(1.0))])
        rest = figures_of(episodes)
        assert rest.angle_range_deg == pytest.approx(3.0)
        assert rest.worst_angle_range_deg == pytest.approx(4.0)

    def test_one_limit_cycle_in_a_thousand_episodes_shows(self) -> None:
        """In the largest range, though hardly in the mean."""
        episodes = np.repeat(episode(10.0, 20.0, 30.0), 1000, axis=0)
        episodes[617, :, 1] += square(1.0)
        rest = figures_of(episodes)
        assert rest.worst_angle_range_deg == pytest.approx(2.0)
        assert rest.angle_range_deg == pytest.approx(0.002)

    def test_angles_may_be_sampled_more_often(self) -> None:
        """A range between two control steps counts."""
        angles = np.zeros((1, 4 * STEPS + 1, 1))
        angles[0, 5] = 7.0
        rest = rest_figures(episode(1.0), angles)
        assert dataclasses.astuple(rest) == (0.0, 7.0, 7.0, 0.0)


# Hundredths of a degree: far from the dead band and exact when added and multiplied.
HUNDREDTHS = st.integers(-9000, 9000)


@st.composite
def trajectories(draw: st.DrawFn) -> NDArray[np.int64]:
    """Whole hundredths of a degree, (episodes, steps + 1, joints)."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(3, 8)), draw(st.integers(1, 4)))
    values = draw(st.lists(HUNDREDTHS, min_size=math.prod(shape), max_size=math.prod(shape)))
    return np.array(values).reshape(shape)


def approximately(rest: Rest) -> Any:
    return pytest.approx(dataclasses.astuple(rest), rel=1e-9, abs=1e-9)


class TestProperties:
    """Properties for any trajectory."""

    @given(trajectories())
    def test_it_equals_a_plain_loop(self, hundredths: NDArray[np.int64]) -> None:
        """In whole hundredths of a degree, number by number."""
        steps, flips, ranges = [], [], []
        for one in hundredths.tolist():
            columns = list(zip(*one, strict=True))
            ranges.append(max(max(column) - min(column) for column in columns))
            for column in columns:
                changes = [after - before for before, after in pairwise(column)]
                steps += [abs(change) for change in changes]
                flips += [first * second < 0 for first, second in pairwise(changes)]
        expected = (
            sum(steps) / len(steps) / 100,
            sum(ranges) / len(ranges) / 100,
            max(ranges) / 100,
            sum(flips) / len(flips),
        )
        assert dataclasses.astuple(figures_of(hundredths / 100)) == pytest.approx(expected)

    @given(trajectories(), HUNDREDTHS)
    def test_a_shift_changes_nothing(self, hundredths: NDArray[np.int64], shift: int) -> None:
        """The figures do not depend on the pose."""
        rest = figures_of(hundredths / 100)
        assert dataclasses.astuple(figures_of((hundredths + shift) / 100)) == approximately(rest)

    @given(trajectories())
    def test_mirrored_and_reversed_trajectories_have_equal_figures(self, hundredths: NDArray[np.int64]) -> None:
        """Neither sign nor direction of time matters."""
        rest = figures_of(hundredths / 100)
        assert dataclasses.astuple(figures_of(-hundredths / 100)) == approximately(rest)
        assert dataclasses.astuple(figures_of(hundredths[:, ::-1] / 100)) == approximately(rest)

    @given(trajectories(), st.integers(1, 50))
    def test_a_larger_motion_has_larger_angles_and_as_many_reversals(
        self, hundredths: NDArray[np.int64], factor: int
    ) -> None:
        """Angles scale with the motion, reversals do not change."""
        rest = figures_of(hundredths / 100)
        larger = figures_of(factor * hundredths / 100)
        assert dataclasses.astuple(larger)[:3] == pytest.approx(
            [factor * figure for figure in dataclasses.astuple(rest)[:3]], rel=1e-9, abs=1e-9
        )
        assert larger.reversals == rest.reversals

    @given(trajectories())
    def test_figures_of_single_goals_combine_to_those_of_all(self, hundredths: NDArray[np.int64]) -> None:
        """In any order, as the runner combines them."""
        parts = [figures_of(one[None] / 100) for one in hundredths[::-1]]
        together = joint_rest(parts)
        assert together is not None
        assert dataclasses.astuple(together) == approximately(figures_of(hundredths / 100))

    @given(trajectories())
    def test_figures_are_bounded(self, hundredths: NDArray[np.int64]) -> None:
        """No mean exceeds a largest value, and no fraction 1."""
        rest = figures_of(hundredths / 100)
        assert 0.0 <= rest.angle_range_deg <= rest.worst_angle_range_deg + 1e-9
        assert 0.0 <= rest.target_step_deg <= rest.worst_angle_range_deg + 1e-9
        assert 0.0 <= rest.reversals <= 1.0


class TestWindow:
    """The last 0.5 s of an episode."""

    @pytest.mark.parametrize(
        ("rate_hz", "episode_steps", "steps"), [(30, 50, 15), (100, 500, 50), (20, 7, 7), (2, 50, 1), (30, 1, 1)]
    )
    def test_number_of_steps(self, rate_hz: float, episode_steps: int, steps: int) -> None:
        """Half the rate, but at most the length of the episode."""
        assert rest_steps(1 / rate_hz, episode_steps) == steps

    @pytest.mark.parametrize(("steps", "moving", "defined"), [(2, False, True), (1, False, False), (15, True, False)])
    def test_when_figures_are_defined(self, steps: int, moving: bool, defined: bool) -> None:
        """With two consecutive changes, at a fixed goal."""
        assert (rest_fault(steps, moving=moving) is None) == defined

    @pytest.mark.parametrize("shape", [(1, 2, 3), (4, 3), (0,)])
    def test_too_few_targets_are_an_error(self, shape: tuple[int, ...]) -> None:
        """And arrays of other dimensions."""
        with pytest.raises(ValueError, match="targets of shape"):
            rest_figures(np.zeros(shape), np.zeros((1, 3, 3)))

    def test_only_the_last_values_are_kept(self) -> None:
        """16 targets of 15 steps at 30 Hz, and 61 angles at four samples a step."""
        window = RestWindow(1 / 30, 50, samples_per_step=4.0)
        for step in range(51):
            window.add_targets([[step, -step], [2 * step, 0.0]])
            for sample in range(4):
                window.add_angles([[4 * step + sample, 0.0], [0.0, 0.0]])
        assert window.targets_deg.shape == (2, 16, 2)
        assert window.targets_deg[0, :, 0].tolist() == list(range(35, 51))
        assert window.targets_deg[1, :, 0].tolist() == list(range(70, 102, 2))
        assert window.angles_deg.shape == (2, 61, 2)
        assert window.angles_deg[0, :, 0].tolist() == list(range(143, 204))


class Trembler:
    """Commands a pose plus and minus some degrees in turn, up to a step, and then the pose itself."""

    def __init__(self, amplitude_deg: float, until_step: int = 10_000) -> None:
        self.amplitude_deg = amplitude_deg
        self.until_step = until_step
        self.step = 0

    def reset(self) -> None:
        """Start again at step 0."""
        self.step = 0

    def __call__(self, observation: Observation, arms: list[Any]) -> NDArray[Any]:
        """The same target for all arms."""
        trembles = self.step < self.until_step
        offset_deg = self.amplitude_deg * (-1) ** self.step * trembles
        self.step += 1
        return actions_for(np.tile(np.array(POSE) + offset_deg, (len(arms), 1)), arms)


def rest_of(controller: Any, goals: int = 6, **options: Any) -> dict[str, float]:
    """The figures of rest of a controller in an environment with these options."""
    figures = evaluate_controller(controller, TrainConfig("ddpg", **options), goals=goals, seed=3)
    rest: dict[str, float] = figures["rest"]
    return rest


class TestEvaluation:
    """Controllers in the simulated environment."""

    def test_a_trembling_controller_is_not_at_rest(self) -> None:
        """It reverses at nearly every step, and the joints move."""
        rest = rest_of(Trembler(1.0))
        assert rest["reversals"] > 0.9
        assert rest["target_step_deg"] > 0.5
        assert 0.2 < rest["angle_range_deg"] <= rest["worst_angle_range_deg"] < 3.0

    def test_inverse_kinematics_is_at_rest(self) -> None:
        """On the ideal and the rough arm, as it does not depend on readings."""
        for imperfections in ("ideal", "rough"):
            rest = rest_of(IKController(), imperfections=imperfections)
            assert rest["reversals"] == 0.0
            assert rest["target_step_deg"] < 1e-3
            assert rest["worst_angle_range_deg"] < 0.02

    def test_only_the_last_half_second_counts(self) -> None:
        """Trembling that ended 0.8 s before the end does not count; one step within the window does."""
        assert rest_of(Trembler(1.0, until_step=25))["target_step_deg"] == 0.0
        assert rest_of(Trembler(1.0, until_step=38))["target_step_deg"] > 0.0

    def test_the_figures_are_those_of_the_environments_targets_and_angles(self) -> None:
        """Equal to those of environments stepped here."""
        seeds = derived_seeds(3, EVALUATION, 6)
        targets, angles = [], []
        env = environment_maker(TrainConfig("ddpg"))().unwrapped
        for seed in seeds:
            env.reset(seed=seed)
            rows = []
            for step in range(50):
                offset_deg = 1.0 if step % 2 == 0 else -1.0
                env.step(np.array(POSE, np.float32) + np.float32(offset_deg))
                rows.append((env.target_deg, list(env.simulation.angles_deg)))
            targets.append([row[0] for row in rows[34:]])
            angles.append([row[1] for row in rows[34:]])
        env.close()
        expected = rest_figures(targets, angles)
        assert np.array(targets).shape == (6, 16, 3)
        assert rest_of(Trembler(1.0)) == pytest.approx(dataclasses.asdict(expected))

    def test_noise_of_the_readings_is_no_motion(self) -> None:
        """Angles are the true ones, without half a degree of noise."""
        rest = rest_of(IKController(), imperfections=Imperfections(angle_noise_deg=(0.5, 0.5)))
        assert rest["worst_angle_range_deg"] < 0.02

    def test_references_and_controllers_are_measured_the_same_way(self) -> None:
        """Inverse kinematics has equal figures in both roles."""
        planner = IKController()
        as_reference = rest_of(planner, episode_steps=14)
        as_controller = rest_of(lambda *arguments: planner(*arguments), episode_steps=14)
        assert as_reference["target_step_deg"] > 0.1  # the episodes are too short to come to rest
        assert as_reference == pytest.approx(as_controller, rel=1e-3)

    @pytest.mark.parametrize(
        ("options", "reason"), [({"env": "ArmTrack-v0", "episode_steps": 20}, "moves"), ({"episode_steps": 1}, "step")]
    )
    def test_where_rest_is_undefined(self, options: dict[str, Any], reason: str) -> None:
        """It is null with the reason for moving goals and episodes of one step."""
        figures = evaluate_controller(IKController(), TrainConfig("ddpg", **options), goals=2, seed=0)
        assert json.loads(json.dumps(figures))["rest"] is None
        assert reason in figures["undefined"]["rest"]
        assert figures["undefined"]["rest"] in format_evaluation("ik", figures)

    def test_the_table_shows_the_figures(self) -> None:
        """They have a line of their own."""
        figures = evaluate_controller(Trembler(1.0), TrainConfig("ddpg"), goals=2, seed=0)
        (line,) = [line for line in format_evaluation("trembler", figures).splitlines() if "at rest" in line]
        assert format_rest(Rest(**figures["rest"])) in line


def trembling(step: int) -> list[float]:
    """A policy's action: half a degree up and down around the pose."""
    return [angle + (0.5 if step % 2 else -0.5) for angle in POSE]


class Run:
    """A run of a scripted policy on a fake arm.

    `sent` are the targets of its ticks up to the end of the last goal; `read` the angles before the first of them, and
    after each.
    """

    def __init__(
        self,
        action: Callable[[int], list[float]],
        goals: list[GoalTrajectory],
        *,
        rate_hz: float = 30.0,
        seconds: float = 1.0,
        **settings: Any,
    ) -> None:
        clock = FakeClock()
        self.arm = FakeArm(clock, POSE)
        self.read: list[list[float]] = []
        self.sent: list[list[float]] = []
        safety = Safety(ARM, ARM.limits, 1 / rate_hz)
        loop = ControlLoop(self.arm, safety, clock, **settings)
        begin, finish = loop.ticker.begin, loop.ticker.finish

        def note_reading() -> None:
            begin()
            if loop.ticker.phase != "park":
                self.read.append(loop.state.angles_deg)

        def note_target(target_deg: list[float], phase: str) -> None:
            if phase != "park":
                self.sent.append(list(target_deg))
            finish(target_deg, phase)

        loop.ticker.begin = note_reading  # type: ignore[method-assign]
        loop.ticker.finish = note_target  # type: ignore[method-assign]
        policy: Any = ScriptedPolicy(action)
        policy.contract.follows = any(isinstance(goal, MovingGoal) for goal in goals)
        self.report: LoopReport = loop.run(GoalWork(policy, goals, seconds_per_goal=seconds))


HERE: list[GoalTrajectory] = [StillGoal(ARM.tip_position(POSE))]


class TestRun:
    """The runner, from sent targets and measured angles."""

    def test_a_trembling_policy_is_not_at_rest(self) -> None:
        """The figures are those of the last 16 targets and of the last 16 readings."""
        run = Run(trembling, HERE)
        (goal,) = run.report.goals
        assert goal.rest is not None
        assert goal.rest.reversals > 0.9
        assert goal.rest.angle_range_deg > 0.05
        assert len(run.read) == len(run.sent) + 1
        assert goal.rest == rest_figures([run.sent[-16:]], [run.read[-16:]])

    def test_a_constant_policy_is_at_rest(self) -> None:
        """At the policy's rate and at a higher one."""
        for rate_hz in (30.0, 100.0):
            (goal,) = Run(lambda call: list(POSE), HERE, rate_hz=rate_hz).report.goals
            assert goal.rest is not None
            assert goal.rest.reversals == 0.0
            assert goal.rest.worst_angle_range_deg < 1e-3

    @pytest.mark.parametrize("rate_hz", [60.0, 100.0])
    def test_targets_are_taken_once_a_period_of_the_policy(self, rate_hz: float) -> None:
        """A trembling policy reverses at every step at higher rates too; angles are those of every tick."""
        run = Run(trembling, HERE, rate_hz=rate_hz)
        (goal,) = run.report.goals
        assert goal.rest is not None
        assert goal.rest.reversals > 0.9
        # The soft start has 60 steps, the goal 30; the window begins 0.5 s before the end.
        ends = [round(step * rate_hz / 30.0) for step in range(90 - 15, 90 + 1)]
        assert ends[-1] == len(run.sent)
        targets = [run.sent[end - 1] for end in ends]
        assert goal.rest == rest_figures([targets], [run.read[-round(rate_hz / 2) - 1 :]])

    def test_figures_of_each_goal_and_of_all(self) -> None:
        """The policy trembles at the second of two goals only, and the report shows both."""
        soft_steps = 60
        run = Run(lambda call: trembling(call) if call >= soft_steps + 30 else list(POSE), [*HERE, *HERE])
        still, shaken = (goal.rest for goal in run.report.goals)
        assert still is not None
        assert shaken is not None
        assert still.reversals == 0.0
        assert shaken.reversals > 0.9
        figures = json.loads(json.dumps(run.report.figures()))
        assert [goal["rest"] for goal in figures["goals"]] == [dataclasses.asdict(still), dataclasses.asdict(shaken)]
        assert figures["rest"]["reversals"] == pytest.approx(0.5 * shaken.reversals)
        assert figures["rest"]["worst_angle_range_deg"] == shaken.worst_angle_range_deg
        (line,) = [line for line in format_report(run.report, fast=True) if "mean error" in line]
        assert run.report.rest is not None
        assert format_rest(run.report.rest) in line

    @pytest.mark.parametrize("settings", [{"seconds": 0.03}, {"dry_run": True}], ids=["one step", "shadow"])
    def test_where_rest_of_a_run_is_undefined(self, settings: dict[str, Any]) -> None:
        """At a goal of one control step, and in a dry run."""
        report = Run(trembling, HERE, **settings).report
        assert [goal.rest for goal in report.goals] == [None]
        assert report.figures()["rest"] is None
        assert not any("at rest" in line for line in format_report(report, fast=True))

    def test_a_path_has_no_rest(self) -> None:
        """Its goal moves."""
        path = Track().draw_path(ARM, np.random.default_rng(0))
        report = Run(trembling, [MovingGoal(path, 30, 1 / 30)]).report
        assert [(goal.path is None, goal.rest) for goal in report.goals] == [(False, None)]
