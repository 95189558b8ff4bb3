"""Moving goals, relative actions and imperfect arms, from training to the runner."""

import json
import math
import re
import shutil
import typing
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Rejected, drive, exact, reports
from short_trainings import short_validations

import envs.imperfections
from arm_control.cli import main
from arm_control.drivers.simulation import SimulationDriver
from arm_control.evaluation.opening import ExportedPolicyController, evaluate
from arm_control.evaluation.torch_controller import TorchController
from arm_control.exporter import exporter
from arm_control.exporter.exporter import export
from arm_control.policy_file.contract import GOAL_VELOCITY, INPUTS, READINGS, Contract
from arm_control.runner import PolicyRunner
from arm_control.runner.report import GoalResult
from arm_control.runs.agent import load_policy
from arm_control.runs.checkpoint import list_checkpoints, load_latest
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.runs.seeding import derived_seeds
from arm_control.runs.task_options_flag import TaskOptions
from arm_control.training.loop import Training, resume, train
from arm_control.viewers.video.film import frames_in
from envs.arm import RADIANS, Arm
from envs.tasks.paths import PathKind
from envs.tasks.track import MovingGoal, PathChoice, Track
from policies.ddpg.settings import DDPGSettings

SETTINGS = DDPGSettings(hidden_units=16, fourier_octaves=1, batch_size=32, learning_starts=200, buffer_size=500)
OPTIONS = TaskOptions(path="circle", speed_m_s=0.15)
TRACK = TrainConfig("ddpg", SETTINGS, env="ArmTrack-v0", task_options=OPTIONS, num_envs=4, seed=3, steps=800)
INCREMENTS = TrainConfig("ddpg", SETTINGS, control="from_target", imperfections="rough", num_envs=4, seed=3, steps=800)
CONFIGS = {"track": TRACK, "increments": INCREMENTS}
GOAL_M = (0.25, 0.15, 0.4)


@pytest.fixture(scope="module")
def quick_trainings() -> Iterator[None]:
    """Few reports and short validations for all trainings of this module."""
    with short_validations():
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, quick_trainings: None) -> dict[str, Path]:
    """A run of each configuration, not to be written to."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: train(config, folder / name, quiet=True) for name, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def policies(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Their exported policies, not to be written to."""
    folder = tmp_path_factory.mktemp("policies")
    return {name: export(run, folder / f"{name}.onnx") for name, run in runs.items()}


def columns(run: Path, config: TrainConfig) -> dict[str, Any]:
    """The replay buffer's content by field."""
    _, state = load_latest(run / "checkpoints")
    rows = state["agent"]["replay"]["rows"]
    with Training(config) as again:
        names: dict[str, slice] = again.learner.agent._replay.columns  # type: ignore[attr-defined]
    return {name: np.asarray(rows[:, part]) for name, part in names.items()}


class TestTraining:
    """Trainings with moving goals or relative actions."""

    @pytest.mark.slow
    @pytest.mark.parametrize("name", CONFIGS)
    def test_a_resumed_run_ends_as_the_whole_one(
        self, runs: dict[str, Path], tmp_path: Path, interrupt: Callable[[int], None], name: str
    ) -> None:
        """Reports and final state are bit-equal."""
        interrupt(404)
        with pytest.raises(KeyboardInterrupt):
            train(CONFIGS[name], tmp_path / "run", quiet=True)
        assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-0000000404"
        resume(tmp_path / "run", quiet=True)
        assert reports(tmp_path / "run") == reports(runs[name])
        got, expected = (load_latest(run / "checkpoints")[1] for run in (tmp_path / "run", runs[name]))
        assert exact(got) == exact(expected)

    def test_the_replay_of_tracking_has_the_goal_before_and_after_each_step(self, runs: dict[str, Path]) -> None:
        """At 0.15 m/s the goal moves 5 mm a step, by the mean of its velocities; the reward uses the later one."""
        replay = columns(runs["track"], CONFIGS["track"])
        goal, following = replay["desired_goal"], replay["next_desired_goal"]
        assert goal.shape == (500, 6)
        # In a period of a circle at 0.15 m/s the goal moves 5 mm, and by the mean of its two velocities.
        moved = following[:, :3] - goal[:, :3]
        np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 0.005, rtol=0.01)
        np.testing.assert_allclose(moved, (goal[:, 3:] + following[:, 3:]) / 60, rtol=0, atol=1e-4)
        # The reward is that of the goal after the step.
        task = Track()
        distance = np.linalg.norm(replay["next_achieved_goal"][:, :3].astype(float) - following[:, :3], axis=1)
        np.testing.assert_allclose(replay["reward"][:, 0], task.reward(distance), atol=1e-5)

    def test_relative_actions_are_changes_in_degrees(self, runs: dict[str, Path]) -> None:
        """At most speed limit / 30 Hz in each direction, of which more than half is used."""
        action = columns(runs["increments"], CONFIGS["increments"])["action"]
        high = np.array(Arm().limits.max_speed_deg_s) / 30
        assert (np.abs(action) <= high * 1.0001).all()
        assert (action.min(0) < -0.5 * high).all()
        assert (action.max(0) > 0.5 * high).all()


def states(contract: Contract, count: int) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    spans = dict(zip(READINGS, [(0, 90), (-340, 340), (0, 90), (-340, 340)], strict=True))
    return {
        tensor.name: generator.uniform(*spans.get(tensor.name, (-0.7, 0.7)), (count, 3)).astype(np.float32)
        for tensor in contract.inputs
    }


class TestExport:
    """Exported policies."""

    def test_the_contract_describes_the_task(self, policies: dict[str, Path]) -> None:
        """Environment, path, speed, imperfections and inputs with units."""
        track, increments = (PolicyRunner.load(policies[name]).contract for name in ("track", "increments"))
        assert (track.environment, track.path, track.speed_m_s, track.imperfections) == (
            "ArmTrack-v0",
            "circle",
            0.15,
            "ideal",
        )
        assert (increments.environment, increments.path, increments.speed_m_s) == ("ArmReach-v0", None, None)
        assert (track.imperfections, increments.imperfections) == ("ideal", "rough")
        assert {tensor.name: (tensor.size, tensor.unit) for tensor in track.inputs} == {
            "joint_angle_deg": (3, "degrees"),
            "joint_speed_deg_s": (3, "degrees/s"),
            "previous_target_deg": (3, "degrees"),
            "previous_target_speed_deg_s": (3, "degrees/s"),
            "goal_m": (3, "metres"),
            "goal_velocity_m_s": (3, "m/s"),
        }
        assert tuple(tensor.name for tensor in increments.inputs) == INPUTS
        assert (track.follows, increments.follows) == (True, False)
        for contract in (track, increments):
            assert Contract.from_json(contract.to_json()) == contract

    def test_a_tracking_policys_targets_depend_on_the_goals_velocity(self, policies: dict[str, Path]) -> None:
        """Reversing the velocity changes targets by more than 0.1 degrees."""
        runner = PolicyRunner.load(policies["track"])
        inputs = states(runner.contract, 200)
        moved = runner.infer(inputs | {GOAL_VELOCITY: -inputs[GOAL_VELOCITY]})
        assert np.abs(moved - runner.infer(inputs)).max() > 0.1

    def test_relative_actions_are_added_to_the_previous_target(
        self, runs: dict[str, Path], policies: dict[str, Path]
    ) -> None:
        """The graph's targets equal PyTorch's, clipped to 0 to 90 degrees."""
        runner = PolicyRunner.load(policies["increments"])
        inputs = states(runner.contract, 500)
        _, policy, _ = load_policy(runs["increments"])
        readings = np.concatenate([inputs[name] for name in READINGS], axis=1).astype(np.float64) * RADIANS
        tip = Arm().forward_kinematics(inputs["joint_angle_deg"].astype(np.float64))
        with torch.no_grad():
            action = policy(*(torch.from_numpy(part.astype(np.float32)) for part in (readings, tip, inputs["goal_m"])))
        expected = np.clip(inputs["previous_target_deg"] + action.numpy(), 0, 90)
        np.testing.assert_allclose(runner.infer(inputs), expected, rtol=0, atol=1e-3)
        assert (np.abs(action.numpy()).max(0) > 0.1).all()

    @pytest.mark.parametrize("size", [1e3, 1e6, 1e12])
    @pytest.mark.parametrize("name", CONFIGS)
    def test_targets_are_within_the_limits_for_any_readings(
        self, policies: dict[str, Path], name: str, size: float
    ) -> None:
        """Readings up to 1e12 give finite targets from 0 to 90 degrees."""
        runner = PolicyRunner.load(policies[name])
        generator = np.random.default_rng(0)
        inputs = {tensor.name: generator.choice([-size, 0.0, size], (300, 3)) for tensor in runner.contract.inputs}
        targets = runner.infer(inputs)
        assert np.isfinite(targets).all()
        assert ((targets >= 0) & (targets <= 90)).all()

    def test_only_tracking_policies_accept_a_goal_velocity(
        self,
        policies: dict[str, Path],
    ) -> None:
        """Zero velocity is the default of both."""
        reach, track = (PolicyRunner.load(policies[name]) for name in ("increments", "track"))
        pose, still = (45.0, 45.0, 45.0), (0.0, 0.0, 0.0)
        for runner in (reach, track):
            runner.start(pose)
        with pytest.raises(ValueError, match="expected a goal at rest: the policy was trained on ArmReach-v0"):
            reach.step(pose, still, GOAL_M, (0.0, 0.1, 0.0))
        assert reach.target_deg == list(pose)
        assert reach.step(pose, still, GOAL_M) == (reach.start(pose), reach.step(pose, still, GOAL_M, still))[1]
        resting = track.step(pose, still, GOAL_M)
        track.start(pose)
        assert resting == track.step(pose, still, GOAL_M, still)
        track.start(pose)
        readings = (pose, still, pose, still)
        assert track.decide(*readings, GOAL_M) != track.decide(*readings, GOAL_M, (0.3, 0.3, -0.3))

    @pytest.mark.parametrize("name", CONFIGS)
    def test_run_and_exported_policy_have_the_same_targets(
        self, runs: dict[str, Path], policies: dict[str, Path], name: str
    ) -> None:
        """At each step of an episode, to 1e-3 degrees."""
        config, policy, _ = load_policy(runs[name])
        ours, theirs = TorchController(policy), ExportedPolicyController(PolicyRunner.load(policies[name]))
        env: Any = environment_maker(config)().unwrapped
        observation, _ = env.reset(seed=1)
        for _ in range(50):
            batch = {key: value[None] for key, value in observation.items()}
            action, target = ours(batch, [env])[0], theirs(batch, [env])[0]
            previous = observation["observation"][6:9] / RADIANS
            expected = action if config.control == "absolute" else np.clip(previous + action, 0, 90)
            np.testing.assert_allclose(target, expected, rtol=0, atol=1e-3)
            observation = env.step(action)[0]
        env.close()


class TestEvaluation:
    """Evaluating moving goals and imperfect arms."""

    @pytest.mark.parametrize("name", CONFIGS)
    def test_run_and_exported_policy_have_the_same_figures(
        self, runs: dict[str, Path], policies: dict[str, Path], name: str
    ) -> None:
        """To the rounding of targets, or one step of a servo."""
        ours, theirs = evaluate(runs[name], goals=4, seed=2), evaluate(policies[name], goals=4, seed=2)
        assert ours.keys() == theirs.keys()
        assert (ours["env"], ours["imperfections"]) == (CONFIGS[name].env, CONFIGS[name].imperfections)
        for key in ("env", "imperfections", "goals", "seed", "success", "return_random", "return_ik"):
            assert theirs[key] == ours[key]
        # 0.001 degrees at arm's length are 0.01 mm; a rounding to a servo's step may turn that into one such step.
        slack_mm = 0.05 if name == "track" else 2.0
        for key in ("mean_error_mm", "median_error_mm", "p95_error_mm", "max_error_mm"):
            assert theirs[key] == pytest.approx(ours[key], abs=slack_mm)
        assert theirs["normalised_return"] == pytest.approx(ours["normalised_return"], abs=1e-3 * slack_mm * 20)

    def test_the_imperfections_flag_replaces_those_of_the_training(self, policies: dict[str, Path]) -> None:
        """Figures name the preset, and errors differ."""
        as_trained, ideal = (
            evaluate(policies["increments"], goals=3, imperfections=preset) for preset in (None, "ideal")
        )
        assert (as_trained["imperfections"], ideal["imperfections"]) == ("rough", "ideal")
        assert as_trained["mean_error_mm"] != ideal["mean_error_mm"]

    def test_inverse_kinematics_tracks_within_5_mm(self) -> None:
        """Its normalised return is 1 by definition, and random targets score about 0."""
        figures = evaluate("ik", goals=4, env="ArmTrack-v0")
        assert figures["normalised_return"] == pytest.approx(1.0, abs=1e-12)
        assert figures["mean_error_mm"] < 5
        assert figures["success"]["10"] == 1.0
        assert abs(evaluate("random", goals=4, env="ArmTrack-v0")["normalised_return"]) < 0.2

    def test_the_table_names_paths_and_the_rms_error(self, capfd: pytest.CaptureFixture[str]) -> None:
        """For a tracking task on an `xl430` arm."""
        assert main(["evaluate", "ik", "--env", "ArmTrack-v0", "--goals", "2", "--imperfections", "xl430"]) == 0
        out = capfd.readouterr().out
        assert "ik: 2 held-out paths, seed 0, xl430 arm" in out
        assert "RMS error of tracking" in out


def ran(capfd: pytest.CaptureFixture[str], path: Path, *words: object) -> tuple[dict[str, Any], str]:
    """The figures and the output of a run."""
    capfd.readouterr()
    code = main(["run", *map(str, words), "--pace", "fast", "--json", str(path)])
    printed = capfd.readouterr()
    assert code == 0, printed.err
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures, printed.out


SOFT_STEPS = 60  # the goal waits at the beginning of its path while the arm starts softly


@pytest.fixture
def tracked(
    policies: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[MovingGoal, list[Any], list[float], GoalResult]:
    """A path of 60 ticks: its goals, the goal observed at each, the distances after each, and the result."""
    observed: list[Any] = []
    decide, arm = PolicyRunner.decide, Arm()
    trajectory = MovingGoal(Track(path="eight", speed_m_s=0.1).draw_path(arm, np.random.default_rng(3)), 60, 1 / 30)
    driver = SimulationDriver(arm, 1 / 30)
    distances = []
    write = driver.write

    def recording_decide(
        self: PolicyRunner, angles: Any, speeds: Any, previous: Any, previous_speed: Any, *goal: Any
    ) -> list[float]:
        observed.append(goal)
        return decide(self, angles, speeds, previous, previous_speed, *goal)

    def recording_write(target_deg: list[float]) -> None:
        write(target_deg)
        if SOFT_STEPS + len(distances) < len(observed):  # parking comes after the last tick
            step = len(observed) - SOFT_STEPS
            distances.append(math.dist(arm.tip_position(driver.read().angles_deg), trajectory.goal(step)[:3]))

    monkeypatch.setattr(PolicyRunner, "decide", recording_decide)
    monkeypatch.setattr(driver, "write", recording_write)
    runner = PolicyRunner.load(policies["track"])
    report = drive(runner, driver, [trajectory], seconds_per_goal=2.0)
    driver.close()
    return trajectory, observed, distances, report.goals[0]


class TestRun:
    """Running policies on paths."""

    def test_random_paths_are_those_of_the_training(
        self, policies: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Each ends where the circle of that seed is after 60 periods."""
        words = (policies["track"], "--random", 2, "--seconds-per-goal", 2, "--seed", 5)
        figures, out = ran(capfd, tmp_path / "run.json", *words)
        assert [goal["path"] for goal in figures["goals"]] == ["circle", "circle"]
        assert figures["ticks"] > 60 + 2 * 60  # a soft start, both paths, and parking
        assert len(re.findall(r"mm   RMS on a circle$", out, re.MULTILINE)) == 2
        # Where a circle of that generator and speed is after 60 periods.
        task, generator = Track(path="circle", speed_m_s=0.15), np.random.default_rng(5)
        for goal in figures["goals"]:
            path = task.draw_path(Arm(), generator)
            assert goal["goal_m"] == pytest.approx(path.motion([2.0])[0][:3].tolist(), abs=1e-9)
        assert ran(capfd, tmp_path / "again.json", *words)[0]["goals"] == figures["goals"]

    def test_a_tracking_policy_accepts_a_fixed_goal(
        self, policies: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """The result has no path."""
        goal = ",".join(map(str, GOAL_M))
        figures, out = ran(capfd, tmp_path / "run.json", policies["track"], "--goal", goal, "--seconds-per-goal", 1)
        (result,) = figures["goals"]
        assert result["goal_m"] == list(GOAL_M)
        assert "path" not in result
        assert "RMS" not in out

    @pytest.mark.slow
    @pytest.mark.parametrize("name", CONFIGS)
    @pytest.mark.parametrize("seed", [0, 1])
    def test_a_policy_runs_on_a_rough_arm(
        self, policies: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, seed: int
    ) -> None:
        """It starts at its lower limits, where noisy readings may lie beyond them."""
        words = (policies[name], "--random", 2, "--seconds-per-goal", 1, "--seed", seed)
        ideal, rough = (
            ran(capfd, tmp_path / f"{preset}.json", *words, "--imperfections", preset)[0]
            for preset in ("ideal", "rough")
        )
        assert [goal["goal_m"] for goal in ideal["goals"]] == [goal["goal_m"] for goal in rough["goals"]]
        assert ideal["goals"] != rough["goals"]

    def test_the_policy_observes_position_and_velocity_of_the_goal(self, tracked: Any) -> None:
        """The goal waits at the start of its path during the soft start."""
        trajectory, observed, _, result = tracked
        assert observed[:SOFT_STEPS] == [(trajectory.goal(0)[:3], (0.0, 0.0, 0.0))] * SOFT_STEPS
        assert observed[SOFT_STEPS:] == [(trajectory.goal(tick)[:3], trajectory.goal(tick)[3:]) for tick in range(60)]
        assert (result.path, result.goal_m) == ("eight", trajectory.goal(60)[:3])

    def test_the_error_on_a_path_is_the_rms_from_the_30th_tick_on(self, tracked: Any) -> None:
        """Computed here from the distances, as the environment does."""
        _, _, distances, result = tracked
        assert len(distances) == 60
        settled = np.array(distances[29:])  # the first is that after the first tick
        assert result.error_mm == pytest.approx(1000 * math.sqrt((settled**2).mean()), rel=1e-9)

    @pytest.mark.parametrize("kind", ["run", "policy"])
    def test_a_path_is_replayed_as_a_video(
        self,
        runs: dict[str, Path],
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
    ) -> None:
        """Of a run and of a policy, with a frame for each step."""
        monkeypatch.setattr(Track, "episode_steps", 12)
        source, target = runs["track"], tmp_path / "video.mp4"
        if kind == "policy":  # which keeps the length of the episodes
            monkeypatch.setattr(exporter, "RANDOM_STATES", 100)
            source = export(source, tmp_path / "policy.onnx")
        assert main(["replay", str(source), "--goals", "1", "--save", str(target)]) == 0, capfd.readouterr().err
        assert frames_in(target) == 12


class TestBadInput:
    """Invalid settings; no file is left."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--path", "circle"], "path: an option of ArmTrack-v0"),
            (["--speed-m-s", "0.1"], "speed_m_s: an option of ArmTrack-v0, not of ArmReach-v0"),
            (["--env", "ArmTrack-v0", "--path", "square"], "square"),
            (["--env", "ArmTrack-v0", "--speed-m-s", "5"], "expected a speed at which arm3 can follow a path"),
            (["--env", "ArmTrack-v0", "--speed-m-s", "0"], "expected from 1e-06 to 100 m/s"),
            (["--env", "ArmTrack-v0", "--speed-m-s", "-1"], "expected from 1e-06 to 100 m/s"),
            (["--env", "ArmTrack-v0", "--speed-m-s", "nan"], "expected from 1e-06 to 100 m/s"),
            (["--env", "ArmTrack-v0", "--speed-m-s", "fast"], "fast"),
            (["--env", "ArmTrek-v0"], "unknown environment 'ArmTrek-v0' (did you mean ArmTrack-v0?)"),
            (["--imperfections", "ruff"], "ruff"),
            (["--control", "relative"], "relative"),
            (["--env", "ArmReachDiscrete-v0", "--control", "from_target"], "expected control 'absolute'"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_invalid_training_flags_leave_no_folder(
        self, rejected: Rejected, tmp_path: Path, words: list[str], message: str
    ) -> None:
        """Options of other tasks, speeds out of range, and unknown names."""
        assert message in rejected("train", "ddpg", "--steps", "8", *words, "--out", tmp_path / "run")
        assert list(tmp_path.iterdir()) == []

    def test_the_env_flag_is_for_plain_controllers(
        self, rejected: Rejected, runs: dict[str, Path], policies: dict[str, Path], tmp_path: Path
    ) -> None:
        """Runs and policies have their own environment."""
        for source in (runs["track"], policies["track"]):
            for command, more in (("evaluate", []), ("replay", ["--save", tmp_path / "video.mp4"])):
                message = rejected(command, source, "--env", "ArmTrack-v0", "--goals", "1", *more)
                assert f"--env ArmTrack-v0: {source} has its own environment; --env is for zero, random, ik" in message
        assert "unknown environment" in rejected("evaluate", "ik", "--env", "ArmTrek-v0", "--goals", "1")
        assert list(tmp_path.iterdir()) == []

    def test_unknown_imperfections_are_rejected_by_every_command(
        self, rejected: Rejected, policies: dict[str, Path], tmp_path: Path
    ) -> None:
        """The line lists the presets."""
        for words in (
            ["evaluate", "ik", "--goals", "1"],
            ["run", policies["track"], "--random", "1"],
            ["replay", "ik", "--goals", "1", "--save", tmp_path / "video.mp4"],
            ["bench", "determinism"],
        ):
            message = rejected(*words, "--imperfections", "ruff")
            assert "ruff" in message
            assert "rough" in message
        assert list(tmp_path.iterdir()) == []

    def test_init_requires_the_same_kind_of_environment(
        self, rejected: Rejected, runs: dict[str, Path], tmp_path: Path
    ) -> None:
        """A reaching agent cannot start from a tracking one's networks."""
        words = ["--hidden-units", "16", "--fourier-octaves", "1", "--steps", "8", "--out", tmp_path / "run"]
        assert "does not fit the checkpoint" in rejected("train", "ddpg", "--init", runs["track"], *words)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"path": "circle"}, "config.json is damaged"),
            ({"task_options": {"path": "square"}}, "config.json is damaged"),
            ({"task_options": {"speed_m_s": "fast"}}, "config.json is damaged"),
            ({"env": "ArmReach-v0"}, "an option of ArmTrack-v0"),
            ({"imperfections": "ruff"}, "config.json is damaged"),
            ({"control": "relative"}, "config.json is damaged"),
        ],
        ids=str,
    )
    def test_a_run_with_an_invalid_setting_is_rejected(
        self, rejected: Rejected, runs: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        """Unknown paths, environments, presets and controls in config.json."""
        run = Path(shutil.copytree(runs["track"], tmp_path / "run"))
        values = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(values | change))
        assert message in rejected("resume", run)


class TestConfiguration:
    """Configurations of tasks."""

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            (typing.get_args(PathChoice), (*typing.get_args(PathKind), "any")),
            (typing.get_args(typing.get_args(typing.get_type_hints(Contract)["path"])[0]), typing.get_args(PathChoice)),
        ],
        ids=["path", "contract's path"],
    )
    def test_the_choices_of_flags_and_contract_are_those_of_the_environments(self, ours: Any, theirs: Any) -> None:
        """The literal types of paths list the same names."""
        assert ours == theirs

    def test_top_level_task_options_are_read(self, runs: dict[str, Path]) -> None:
        """As runs wrote them before tasks declared their options."""
        for name, config in CONFIGS.items():
            older = json.loads((runs[name] / "config.json").read_text())
            del older["task_options"]
            older["path"] = config.task_options.get("path")
            older["speed_m_s"] = config.task_options.get("speed_m_s")
            assert TrainConfig.from_json(older) == config

    @pytest.mark.parametrize("name", CONFIGS)
    def test_a_configuration_survives_json_and_reaches_the_environment(self, runs: dict[str, Path], name: str) -> None:
        """Control, imperfections, path and speed of the environment are those of config.json."""
        config = CONFIGS[name]
        assert TrainConfig.from_json(json.loads((runs[name] / "config.json").read_text())) == config
        env: Any = environment_maker(config)().unwrapped
        assert env.control == config.control
        assert env.imperfections == envs.imperfections.open_imperfections(config.imperfections)
        if name == "track":
            assert (env.task.path, env.task.speed_m_s) == ("circle", 0.15)
        env.close()
        assert config.sha256() != replace(config, seed=4).sha256()

    def test_derived_seeds_give_different_paths(self) -> None:
        """Twenty seeds have twenty starts."""
        env: Any = environment_maker(CONFIGS["track"])().unwrapped
        starts = [tuple(env.reset(seed=seed)[0]["desired_goal"].tolist()) for seed in derived_seeds(0, 2, 20)]
        assert len(set(starts)) == 20
        env.close()
