"""Training: bit-equal repetition and resumption, the best policy, --init, run folders and validations."""

import contextlib
import copy
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Size, content, exact, reports
from short_trainings import short_validations
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from arm_control.evaluation import controllers, episodes, validation
from arm_control.evaluation.opening import evaluate
from arm_control.evaluation.torch_controller import TorchController
from arm_control.evaluation.validation import Validation
from arm_control.runs import environment
from arm_control.runs.agent import load_policy
from arm_control.runs.checkpoint import list_checkpoints, load_latest, save_checkpoint
from arm_control.runs.config import TrainConfig
from arm_control.runs.run_folder import PolicyOrigin, RunFolder
from arm_control.training import loop
from arm_control.training.loop import Training, resume, train
from envs.arm import DEFAULT_URDF, RADIANS, Arm
from envs.simulation import Simulation
from envs.tasks.reach import Reach
from policies.a2c.settings import A2CSettings
from policies.ddpg.settings import DDPGSettings

# The replay buffer is filled more than twice, and each environment's episodes end eight times.
SETTINGS = DDPGSettings(hidden_units=16, fourier_octaves=1, batch_size=32, learning_starts=200, buffer_size=640)
CONFIG = TrainConfig("ddpg", SETTINGS, num_envs=4, seed=3, steps=1600)
EPISODE_STEPS = 50


@pytest.fixture(autouse=True)
def quick_trainings() -> Iterator[None]:
    """Few reports and short validations for all trainings of this module."""
    with short_validations():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of CONFIG that nothing interrupted; not to be written to."""
    with short_validations():
        return train(CONFIG, tmp_path_factory.mktemp("runs") / "whole", quiet=True)


def final_state(run: Path) -> Any:
    step, state = load_latest(run / "checkpoints")
    assert state["step"] == step
    return exact(state)


def assert_same_run(got: Path, expected: Path) -> None:
    assert reports(got) == reports(expected)
    assert final_state(got) == final_state(expected)


def leftovers(run: Path) -> list[Path]:
    """Files of interrupted writes."""
    return [path for path in run.rglob("*") if path.name.startswith(".")]


DRIVER = """
import sys
from arm_control.evaluation import controllers, episodes, validation
from arm_control.runs import environment
from arm_control.training import loop
from arm_control.runs.config import TrainConfig
from policies.ddpg.settings import DDPGSettings

loop.REPORTS, validation.VALIDATION_GOALS = 4, 2
config = TrainConfig.from_json({config!r})
{body}
"""


def python(body: str, *words: object) -> subprocess.CompletedProcess[str]:
    """A fresh process in which CONFIG is `config`."""
    script = DRIVER.format(config=CONFIG.to_json(), body=body)
    environment = os.environ | {"PYTHONHASHSEED": "random"}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done


KILLS = """
import dataclasses, os, random, shutil, signal, time
from pathlib import Path

loop.CHECKPOINT_EVERY_S = 0.05
runs, most, moments, kills = Path(sys.argv[1]), int(sys.argv[2]), random.Random(7), 0
loop.train(dataclasses.replace(config, steps=240), runs / "warm", quiet=True)  # imports all that a life needs
shutil.rmtree(runs / "warm")

def life(work, run, delay):
    "Train or resume this run in a process of its own that is killed after so long; whether it came to its end."
    child = os.fork()
    if child == 0:
        try:
            work(run, quiet=True)
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == 0

def start(run, **options):
    loop.train(config, run, **options)

begin = time.monotonic()
life(start, runs / "run0", None)
whole_s = time.monotonic() - begin
for number in range(1, 1000):
    run, work = runs / f"run{number}", start
    while not life(work, run, moments.uniform(0, whole_s) if kills < most else None):
        if list((run / "checkpoints").glob("step-*")):
            work, kills = loop.resume, kills + 1
        else:
            shutil.rmtree(run, ignore_errors=True)  # killed before its first checkpoint: there is nothing to resume
    if kills == most:
        break
print(kills)
"""


def change_config(run: Path, **changes: Any) -> None:
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(values | changes))


def drop(run: Path, name: str) -> None:
    target = run / name
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()


class TestReproducibility:
    """The same seed gives the same run, bit for bit."""

    def test_a_run_reports_at_even_fractions_of_its_steps(self, whole: Path) -> None:
        """At the first update and each quarter but the first; one update for every 4 steps from the 200th."""
        rows = reports(whole)
        # At the first update and at each quarter, but for the first one: two validations would take 200 of 400 steps.
        assert [row["step"] for row in rows] == [200, 800, 1200, 1600]
        assert [row["progress"] for row in rows] == [0.125, 0.5, 0.75, 1.0]
        assert [row["updates"] for row in rows] == [1, 151, 251, 351]  # one for every 4 steps from the 200th on
        assert all(np.isfinite(list(row.values())).all() for row in rows)
        assert (whole / "curve.png").read_bytes().startswith(b"\x89PNG")
        assert leftovers(whole) == []

    def test_tensorboard_has_the_metrics_by_group(self, whole: Path) -> None:
        """The scalars of metrics.jsonl, as time/, eval/ and train/."""
        events = EventAccumulator(str(whole / "tensorboard")).Reload()
        tags = set(events.Tags()["scalars"])
        assert {"time/updates", "time/elapsed_s", "time/progress", "eval/mean_error_mm", "train/critic_loss"} <= tags
        names = {tag.split("/")[1] for tag in tags}
        assert names - {"elapsed_s"} == reports(whole)[-1].keys() - {"step"}
        logged = [(event.step, event.value) for event in events.Scalars("eval/mean_error_mm")]
        assert logged == [(row["step"], np.float32(row["mean_error_mm"])) for row in reports(whole)]

    def test_the_same_seed_gives_the_same_run(self, whole: Path, tmp_path: Path) -> None:
        """Reports and final state are bit-equal."""
        assert_same_run(train(CONFIG, tmp_path / "run", quiet=True), whole)

    def test_the_callers_state_is_kept(self, tmp_path: Path) -> None:
        """PyTorch's threads, the global random generators, and signal handlers."""

        def state() -> list[Any]:
            generators = [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[call-overload]  # noqa: NPY002
            return [torch.get_num_threads(), *generators, *map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))]

        threads = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            before = state()
            run = train(replace(CONFIG, steps=400), tmp_path / "run", quiet=True)
            evaluate(run, goals=1)
            assert state() == before
        finally:
            torch.set_num_threads(threads)

    @pytest.mark.slow
    def test_another_seed_gives_another_run(self, whole: Path, tmp_path: Path) -> None:
        """Weights, replay buffer, generators and all eight goals differ."""
        other = train(replace(CONFIG, seed=4), tmp_path / "run", quiet=True)
        assert reports(other) != reports(whole)
        ours, theirs = final_state(other), final_state(whole)
        for part in ("policy", "critic", "target_actor", "replay", "generator"):
            assert ours["agent"][part] != theirs["agent"][part]
        goals = [arm["course"] for state in (ours, theirs) for arm in state["arms"]]
        assert len(set(map(tuple, goals))) == 8  # all environments of both runs have different goals

    @pytest.mark.slow
    def test_another_process_gives_the_same_run(self, whole: Path, tmp_path: Path) -> None:
        """With another hash seed."""
        python("loop.train(config, sys.argv[1], quiet=True)", tmp_path / "run")
        assert_same_run(tmp_path / "run", whole)

    @pytest.mark.slow
    def test_updates_are_counted(self, tmp_path: Path) -> None:
        """Three updates a step are three times as many."""
        settings = replace(SETTINGS, updates_per_step=3)
        run = train(replace(CONFIG, settings=settings, steps=400), tmp_path / "run", quiet=True)
        once = train(replace(CONFIG, steps=400), tmp_path / "once", quiet=True)
        assert RunFolder(run).read_metrics()[-1]["updates"] == 3 * RunFolder(once).read_metrics()[-1]["updates"] > 0


class TestReplay:
    """Contents of the replay buffer."""

    def test_every_step_is_stored_and_none_terminates(self, tmp_path: Path) -> None:
        """Next observations are those before a reset, and time limits are not terminations."""
        config = replace(CONFIG, num_envs=2, steps=2 * 120, settings=replace(SETTINGS, learning_starts=240))
        with Training(config) as run:
            for _ in range(120):
                run.advance()
            replay, agent = run.learner.agent.state_dict()["replay"]["rows"], run.learner.agent
        columns: dict[str, slice] = agent._replay.columns  # type: ignore[attr-defined]
        steps = replay.reshape(120, 2, -1)
        seen, following = steps[..., columns["observation"]], steps[..., columns["next_observation"]]
        tip, next_tip = steps[..., columns["achieved_goal"]], steps[..., columns["next_achieved_goal"]]
        assert (steps[..., columns["terminated"]] == 0).all()
        # A step ends where the next one begins, but for the last of an episode, after which the arm is somewhere else.
        for step in range(119):
            for before, after in ((following, seen), (next_tip, tip)):
                assert (before[step] == after[step + 1]).all() == ((step + 1) % EPISODE_STEPS != 0)
        # That one too ends where it led, not where the arm was put afterwards.
        arm = Arm(DEFAULT_URDF)
        moved = np.abs(following[..., :3] - seen[..., :3]) / RADIANS
        assert (moved <= 1.01 * np.array(arm.limits.max_speed_deg_s) / 30).all()
        np.testing.assert_allclose(next_tip, arm.forward_kinematics(following[..., :3] / RADIANS), rtol=0, atol=1e-6)
        goals = steps[..., columns["desired_goal"]].reshape(-1, 2, 3)
        changes = [step for step in range(1, 120) if (goals[step] != goals[step - 1]).any()]
        assert changes == [EPISODE_STEPS, 2 * EPISODE_STEPS]

    def test_rewards_are_those_of_the_flag(self, tmp_path: Path) -> None:
        """A sparse reward is -1 or 0."""
        config = replace(CONFIG, reward="sparse", goal_tolerance_m=0.2, steps=400)
        run = train(config, tmp_path / "run", quiet=True)
        _, state = load_latest(run / "checkpoints")
        with Training(config) as again:
            rewards = state["agent"]["replay"]["rows"][:, again.learner.agent._replay.columns["reward"]]  # type: ignore[attr-defined]
        assert set(rewards.flatten().tolist()) == {-1.0, 0.0}


class TestInterruption:
    """Runs that are interrupted or killed, and resumed, end as the uninterrupted one."""

    @pytest.mark.slow
    @pytest.mark.parametrize("step", [4, 200, 404, 800, 1600])
    def test_interrupted_once(self, whole: Path, tmp_path: Path, interrupt: Callable[[int], None], step: int) -> None:
        """After the first, last random, mid-episode, reported and last step."""
        interrupt(step)
        run = tmp_path / "run"
        if step < 1600:
            with pytest.raises(KeyboardInterrupt):
                train(CONFIG, run, quiet=True)
            assert list_checkpoints(run / "checkpoints")[-1].name == f"step-{step:010d}"
            assert reports(run) == [row for row in reports(whole) if row["step"] <= step]
        else:
            train(CONFIG, run, quiet=True)
        resume(run, quiet=True)
        assert_same_run(run, whole)
        assert leftovers(run) == []

    @pytest.mark.slow
    def test_interrupted_before_the_first_step(
        self, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The checkpoint of step 0 is enough."""
        save = Training._save

        def save_and_press(self: Training, *arguments: Any) -> None:
            save(self, *arguments)
            signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(Training, "_save", save_and_press)
            with pytest.raises(KeyboardInterrupt):
                train(CONFIG, tmp_path / "run", quiet=True)
        assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-0000000000"]
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
        resume(tmp_path / "run", quiet=True)
        assert_same_run(tmp_path / "run", whole)

    @pytest.mark.slow
    def test_interrupted_many_times(self, whole: Path, tmp_path: Path, interrupt: Callable[[int], None]) -> None:
        """Every 212 steps; two checkpoints are left."""
        go_on: Callable[..., Path] = lambda run, quiet: train(CONFIG, run, quiet=quiet)  # noqa: E731
        for step in range(212, 1600, 212):
            interrupt(step)
            with pytest.raises(KeyboardInterrupt):
                go_on(tmp_path / "run", quiet=True)
            go_on = resume
        resume(tmp_path / "run", quiet=True)
        assert_same_run(tmp_path / "run", whole)
        assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 2

    def test_resuming_a_finished_run_changes_nothing(self, whole: Path, tmp_path: Path) -> None:
        """State and reports are equal."""
        run = Path(shutil.copytree(whole, tmp_path / "run"))
        before = final_state(run)
        resume(run, quiet=True)
        assert final_state(run) == before
        assert reports(run) == reports(whole)

    @pytest.mark.slow
    def test_reports_after_the_checkpoint_are_repeated(
        self, whole: Path, tmp_path: Path, interrupt: Callable[[int], None]
    ) -> None:
        """Wrong and truncated rows after the checkpoint are removed."""
        run = tmp_path / "run"
        interrupt(404)
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, run, quiet=True)
        rows = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
        wrong = rows[1].replace('"mean_error_mm": ', '"mean_error_mm": 9')
        assert wrong != rows[1]
        (run / "metrics.jsonl").write_text(rows[0] + wrong + rows[2][:40])  # the last line cut short by a crash
        resume(run, quiet=True)
        assert_same_run(run, whole)

    @pytest.mark.slow
    def test_files_of_interrupted_writes_are_removed(
        self, whole: Path, tmp_path: Path, interrupt: Callable[[int], None]
    ) -> None:
        """Partial checkpoints, metrics and figures do not affect the run."""
        run = tmp_path / "run"
        interrupt(404)
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, run, quiet=True)
        writing = run / "checkpoints" / ".writing"
        writing.mkdir()
        (writing / "tensors.safetensors").write_bytes(b"\x10\0\0")
        for name in (".metrics.0123456789abcdef.partial.jsonl", ".curve.f0.partial.png"):
            (run / name).write_bytes(b"half")
        resume(run, quiet=True)
        assert_same_run(run, whole)
        assert leftovers(run) == []

    @pytest.mark.slow
    def test_killed_at_random_moments(self, whole: Path, tmp_path: Path, size: Size) -> None:
        """SIGKILL at random moments; runs without a checkpoint start again."""
        most = size(5, full=20, of="kills")
        done = python(KILLS, tmp_path, most)
        assert int(done.stdout) == most
        for run in tmp_path.iterdir():
            assert_same_run(run, whole)
            assert leftovers(run) == []
            assert len(list_checkpoints(run / "checkpoints")) <= 2

    @pytest.mark.slow
    def test_environments_in_processes_give_the_same_run(
        self, tmp_path: Path, interrupt: Callable[[int], None]
    ) -> None:
        """Two processes equal one, also after an interruption."""
        settings = A2CSettings(hidden_units=8, fourier_octaves=1, learning_starts=40, steps_per_update=5)
        config = TrainConfig("a2c", settings, num_envs=4, steps=480)  # each arm's episodes end twice
        here = train(config, tmp_path / "here", quiet=True)
        there = train(replace(config, processes=2), tmp_path / "there", quiet=True)
        assert_same_run(there, here)
        interrupt(252)
        with pytest.raises(KeyboardInterrupt):
            train(replace(config, processes=2), tmp_path / "stopped", quiet=True)
        assert_same_run(resume(tmp_path / "stopped", quiet=True), here)


class TestBestPolicy:
    """The best validated policy is kept beside the last one."""

    @pytest.mark.parametrize(("error_mm", "kept"), [(1.0, True), (1.4, True), (1.5, True), (1.6, False), (36.6, False)])
    def test_a_later_policy_is_kept_unless_it_is_clearly_worse(self, error_mm: float, kept: bool) -> None:
        """Up to 1.5 times the lowest error so far, which is 1 mm."""
        assert validation.is_kept(error_mm, 1.0) == kept

    def test_a_run_is_loaded_with_its_best_policy(self, whole: Path) -> None:
        """The latest within 1.5 times the lowest error until then; validating it again gives its error."""
        lowest_mm = math.inf
        for row in reports(whole):
            lowest_mm = min(lowest_mm, row["mean_error_mm"])
            if row["mean_error_mm"] <= 1.5 * lowest_mm:
                best = row
        loaded = load_policy(whole)
        assert loaded.origin == PolicyOrigin("best", best["step"], best["mean_error_mm"])
        with contextlib.closing(Validation(loaded.config)) as validation:
            figures = validation(TorchController(loaded.policy))
        assert figures["mean_error_mm"] == best["mean_error_mm"]

    def test_the_last_policy_can_be_loaded_too(self, whole: Path) -> None:
        """Validating it gives the error of the last report."""
        loaded = load_policy(whole, last=True)
        assert loaded.origin == PolicyOrigin("last", 1600, None)
        with contextlib.closing(Validation(loaded.config)) as validation:
            figures = validation(TorchController(loaded.policy))
        assert figures["mean_error_mm"] == reports(whole)[-1]["mean_error_mm"]

    def test_a_policy_that_gets_worse_does_not_replace_the_best(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Its networks do not change with further training, and a resumed training keeps them."""
        errors_mm = iter([3.0, 2.0, 2.9, 3.1])
        reporter: Any = SimpleNamespace(report=lambda counters, figures, metrics: None)
        kept: list[Any] = []
        monkeypatch.setattr(Validation, "__call__", lambda self, controller: {"mean_error_mm": next(errors_mm)})
        with Training(CONFIG) as training:
            for _ in range(4):
                for _ in range(70):
                    training.advance()
                training._report(reporter, {})
                kept.append(copy.deepcopy(training.state_dict()["best"]))
            save_checkpoint(tmp_path, training.step, training.state_dict())
        assert [(best["step"], best["mean_error_mm"]) for best in kept] == [
            (280, 3.0),
            (560, 2.0),
            (840, 2.9),
            (840, 2.9),
        ]
        with Training(CONFIG) as resumed:
            resumed.load_state_dict(load_latest(tmp_path)[1])
            best = resumed.state_dict()["best"]
        assert (best["step"], best["mean_error_mm"], best["lowest_mm"]) == (840, 2.9, 2.0)
        assert best["policy"].keys() == kept[2]["policy"].keys()
        assert all(torch.equal(best["policy"][name], kept[2]["policy"][name]) for name in best["policy"])
        name = "net.0.weight"
        assert not torch.equal(kept[1]["policy"][name], kept[2]["policy"][name])

    def test_a_run_without_a_validation_has_only_its_last_policy(self, tmp_path: Path) -> None:
        """Stopped before the first report, it can still be evaluated and exported."""
        run = RunFolder.create(tmp_path / "run", CONFIG.to_json())
        with Training(CONFIG) as training:
            save_checkpoint(run.checkpoints, 0, training.state_dict())
        assert load_policy(run.path).origin == PolicyOrigin("last", 0, None)


class TestInit:
    """Starting from another run's networks."""

    def test_it_starts_with_the_other_runs_policy(self, whole: Path, tmp_path: Path) -> None:
        """Before any update both policies are bit-equal; the replay buffer starts empty."""
        config = replace(CONFIG, steps=100, seed=9, init=str(whole))  # all of them random: nothing is learned
        run = train(config, tmp_path / "run", quiet=True)
        _, teacher, _ = load_policy(whole, last=True)
        _, pupil, _ = load_policy(run)
        generator = torch.Generator().manual_seed(0)
        seen = [torch.rand(100, size, generator=generator) for size in (12, 3, 3)]
        assert torch.equal(pupil(*seen), teacher(*seen))
        _, plain, _ = load_policy(train(replace(config, init=None), tmp_path / "plain", quiet=True))
        assert not torch.equal(plain(*seen), teacher(*seen))
        (only,) = reports(run)  # at the end, also of an agent that has learned nothing
        assert (only["step"], only["updates"]) == (100, 0)
        assert final_state(run)["agent"]["replay"] == final_state(tmp_path / "plain")["agent"]["replay"]

    def test_other_network_sizes_are_an_error(self, whole: Path, tmp_path: Path) -> None:
        """One line, and no run folder."""
        config = replace(CONFIG, settings=replace(SETTINGS, hidden_units=17), init=str(whole))
        with pytest.raises(ValueError, match=r"--init .* does not fit the checkpoint") as error:
            train(config, tmp_path / "run", quiet=True)
        assert "\n" not in str(error.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_run_is_an_error(self, tmp_path: Path) -> None:
        """No run folder is made."""
        with pytest.raises(ValueError, match="no run folder"):
            train(replace(CONFIG, init=str(tmp_path / "missing")), tmp_path / "run", quiet=True)
        assert list(tmp_path.iterdir()) == []

    def test_an_arm_with_other_limits(self, whole: Path, tmp_path: Path) -> None:
        """Targets stay within the limits of the new arm."""
        urdf = tmp_path / "half.urdf"
        urdf.write_text(DEFAULT_URDF.read_text().replace('upper="1.5707963267948966"', 'upper="0.7853981633974483"'))
        run = train(replace(CONFIG, arm=str(urdf), steps=200, init=str(whole)), tmp_path / "run", quiet=True)
        _, policy, _ = load_policy(run)
        with torch.no_grad():
            targets = policy(torch.rand(500, 12) * 2, torch.rand(500, 3), torch.rand(500, 3))
        assert float(targets.max()) <= 45.0


class TestRunFolder:
    """Run folders are protected."""

    def test_an_existing_run_is_not_overwritten(self, whole: Path, tmp_path: Path) -> None:
        """Its files are unchanged."""
        run = Path(shutil.copytree(whole, tmp_path / "run"))
        before = content(run)
        with pytest.raises(ValueError, match="exists already"):
            train(CONFIG, run, quiet=True)
        assert content(run) == before

    def test_other_files_and_folders_are_not_overwritten(self, tmp_path: Path) -> None:
        """Their content is unchanged."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "thesis.txt").write_text("mine")
        (tmp_path / "file").write_text("mine too")
        before = content(tmp_path)
        for name in ("folder", "file"):
            with pytest.raises(ValueError, match=f"{name} exists already"):
                train(CONFIG, tmp_path / name, quiet=True)
        assert content(tmp_path) == before

    def test_a_run_stores_its_configuration(self, whole: Path) -> None:
        """It is read back equal."""
        _, values = RunFolder.open(whole)
        assert TrainConfig.from_json(values) == CONFIG

    def test_settings_missing_in_older_runs_have_their_defaults(self) -> None:
        """Episode length and control rate."""
        values = CONFIG.to_json()
        for name in ("episode_steps", "control_rate_hz"):
            assert values.pop(name) is None
        assert TrainConfig.from_json(values) == CONFIG

    @pytest.mark.parametrize(
        ("harm", "message"),
        [
            (lambda run: shutil.rmtree(run), "no run folder"),
            (lambda run: drop(run, "config.json"), "it has no config.json"),
            (lambda run: drop(run, "checkpoints"), "no checkpoint in"),
            (lambda run: change_config(run, version=7), "config.json has format version 7, this program reads 5 and 6"),
            (lambda run: change_config(run, version=3), "format version 3, .* lacks the previous target's speed"),
            (lambda run: (run / "config.json").write_text("{"), "config.json is damaged"),
            (lambda run: (run / "config.json").write_bytes(b"\xff\xfe"), "config.json is damaged"),
            (lambda run: (run / "config.json").write_text("[]"), "config.json"),
            (lambda run: change_config(run, steps=-5), "config.json is damaged: --steps: expected a positive number"),
            (lambda run: change_config(run, steps="many"), "config.json is damaged.*steps"),
            (lambda run: change_config(run, agent="dagger"), "unknown agent 'dagger'"),
            (
                lambda run: change_config(run, settings={"batch_size": 0}),
                "batch-size",
            ),
            (lambda run: change_config(run, num_envs=5), "the checkpoint is of 4 arms, config.json says 5"),
            (lambda run: change_config(run, settings={"hidden_units": 8}), "hidden|size|others in settings"),
            (lambda run: drop(list_checkpoints(run / "checkpoints")[-1], "manifest.json"), "manifest.json is damaged"),
            (
                lambda run: drop(list_checkpoints(run / "checkpoints")[-1], "tensors.safetensors"),
                "safetensors is missing",
            ),
        ],
        ids=[
            "missing",
            "no config",
            "no checkpoint",
            "newer",
            "older",
            "cut config",
            "binary config",
            "a list",
            "bad number",
            "bad type",
            "unknown agent",
            "bad setting",
            "other arms",
            "other networks",
            "no manifest",
            "no tensors",
        ],
    )
    def test_a_damaged_run_is_not_resumed(
        self, whole: Path, tmp_path: Path, harm: Callable[[Path], Any], message: str
    ) -> None:
        """One line with the reason, and no file changes."""
        run = Path(shutil.copytree(whole, tmp_path / "run"))
        harm(run)
        before = content(run)
        with pytest.raises(ValueError, match=message) as error:
            resume(run, quiet=True)
        assert "\n" not in str(error.value)
        assert content(run) == before

    def test_a_run_with_a_changed_arm_is_an_error(self, tmp_path: Path) -> None:
        """The run's own copy of the URDF counts, not the original."""
        urdf = tmp_path / "arm.urdf"
        urdf.write_text(DEFAULT_URDF.read_text())
        run = train(replace(CONFIG, arm=str(urdf), steps=8), tmp_path / "run", quiet=True)
        urdf.write_text("another file by now: the run has its own")
        load_policy(run)
        urdf = run / "arm.urdf"
        urdf.write_text(urdf.read_text().replace('<origin xyz="0 0 0.25"/>', '<origin xyz="0 0 0.26"/>'))
        for work in (load_policy, resume):
            with pytest.raises(ValueError, match="is not the one that the run was trained on"):
                work(run)

    def test_a_run_is_trained_by_one_process_at_a_time(self, whole: Path, tmp_path: Path) -> None:
        """A second process is an error."""
        run = RunFolder(shutil.copytree(whole, tmp_path / "run"))
        with run.locked(), pytest.raises(ValueError, match="is being trained by another process"):
            resume(run.path, quiet=True)

    def test_only_a_run_that_was_killed_before_its_first_checkpoint_is_replaced(
        self, whole: Path, tmp_path: Path
    ) -> None:
        """Folders with any other file, or with reports, are kept."""
        config = replace(CONFIG, steps=8)
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        (foreign / "config.json").write_text('{"version": 1}')
        diary = Path(shutil.copytree(whole, tmp_path / "diary"))
        shutil.rmtree(diary / "checkpoints")
        (diary / "diary.txt").write_text("dear diary")
        thinned = Path(shutil.copytree(whole, tmp_path / "thinned"))  # its owner kept the metrics and no checkpoint
        shutil.rmtree(thinned / "checkpoints")
        (thinned / "curve.png").unlink()
        for folder in (foreign, diary, thinned, whole):
            before = sorted(path for path in folder.rglob("*"))
            with pytest.raises(ValueError, match="exists already"):
                train(config, folder, quiet=True)
            assert sorted(path for path in folder.rglob("*")) == before
        killed = tmp_path / "killed"
        (killed / "checkpoints" / ".writing").mkdir(parents=True)
        shutil.copy(whole / "config.json", killed)
        train(config, killed, quiet=True)
        assert list_checkpoints(killed / "checkpoints")


class TestValidations:
    """Times of the validations of a policy."""

    def test_there_is_none_before_the_first_update(self, tmp_path: Path) -> None:
        """The first report comes with the first update, at the step of `learning_starts`."""
        settings = replace(SETTINGS, learning_starts=600, buffer_size=640)
        run = train(replace(CONFIG, settings=settings, steps=800), tmp_path / "run", quiet=True)
        rows = reports(run)
        assert [row["step"] for row in rows] == [600, 800]
        assert all(row["updates"] > 0 for row in rows)

    @pytest.mark.parametrize("goals", [1, 3, 9])
    def test_their_steps_are_a_bounded_fraction_of_the_trainings(
        self, goals: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At most a quarter of the steps so far, but for the first and the last; computed here by that rule."""
        monkeypatch.setattr(validation, "validation_goals", lambda config, episode_steps: goals)
        monkeypatch.setattr(loop, "REPORTS", 20)
        rows = reports(train(replace(CONFIG, steps=800), tmp_path / "run", quiet=True))
        *before, last = [row["step"] for row in rows]
        assert last == 800
        # As many as that allows: reports are due at each 40 steps, and learning begins with the 200th.
        possible = [200]
        for step in range(240, 800, 40):
            if (len(possible) + 1) * goals * EPISODE_STEPS <= step / 4:
                possible.append(step)
        assert before == possible

    @pytest.mark.parametrize(
        ("steps", "minutes", "episode_steps", "goals"),
        [
            (200_000, None, 50, 50),
            (None, None, 50, 50),  # 200,000 steps
            (10**9, None, 50, 50),
            (None, 1.5, 50, 50),
            (100_000, None, 50, 25),  # 25,000 steps in 20 validations
            (200_000, None, 200, 12),
            (3_000, None, 50, 5),
        ],
    )
    def test_short_trainings_validate_on_fewer_goals(
        self,
        steps: int | None,
        minutes: float | None,
        episode_steps: int,
        goals: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Twenty validations of a quarter of the steps, but at least 5 goals each."""
        monkeypatch.setattr(validation, "VALIDATION_GOALS", 50)
        config = TrainConfig("ddpg", steps=steps, minutes=minutes)
        assert validation.validation_goals(config, episode_steps) == goals

    def test_by_minutes_it_is_a_fraction_of_the_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a clock on which each validation takes 8 s, by hand."""
        now_s = 0.0

        class Slow:
            """Environments whose roll-outs take 8 s."""

            first = None

            def roll_out(self, *_: Any) -> episodes.Rollouts:
                """Let the time pass."""
                nonlocal now_s
                now_s += 8.0
                return episodes.Rollouts(np.ones((2, 3)), Reach(), 0.1)

        monkeypatch.setattr(validation.time, "monotonic", lambda: now_s)
        validate = validation.Validation(replace(CONFIG, steps=None, minutes=10.0))
        monkeypatch.setattr(validate, "_open", Slow)
        assert validate.is_due(1, 1.0)
        validate(controllers.zero_controller)
        assert [validate.is_due(1, seconds) for seconds in (31.0, 32.0)] == [False, True]
        validate(controllers.zero_controller)
        assert [validate.is_due(1, seconds) for seconds in (63.0, 64.0, 599.0)] == [False, True, True]
        for _ in range(30):
            validate(controllers.zero_controller)
        assert [validate.is_due(1, seconds) for seconds in (599.0, 600.0)] == [False, True]  # the last one

    def test_environments_are_kept_from_one_to_the_next(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three validations create three simulations, and agree."""
        environment.environment_maker(CONFIG)().close()  # fills the caches of the process
        made = []
        init = Simulation.__init__

        def count(self: Simulation, *arguments: Any, **options: Any) -> None:
            made.append(self)
            init(self, *arguments, **options)

        monkeypatch.setattr(Simulation, "__init__", count)
        validate = validation.Validation(CONFIG)
        results = [validate(controllers.zero_controller) for _ in range(3)]
        validate.close()
        assert len(made) == 3  # one of them to know the length of an episode
        assert results[0] == results[1] == results[2]
