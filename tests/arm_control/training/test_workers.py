"""A3C's worker processes: synchronous and asynchronous updates, replacement after a crash, and no remains."""

import contextlib
import gc
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Rejected, Size, children, exact, reports, running, stuck
from short_trainings import short_validations

from arm_control.cli import main
from arm_control.runs.agent import load_policy
from arm_control.runs.checkpoint import list_checkpoints, load_checkpoint, load_latest, save_checkpoint
from arm_control.runs.config import TrainConfig
from arm_control.training import workers
from arm_control.training.collector import Advance
from arm_control.training.loop import Training, resume, train
from arm_control.training.workers import Workers
from envs.arm_env import ArmEnv
from policies.a3c.settings import A3CSettings

# 40 random steps, then updates of 2 environments x 5 steps; episodes of each environment end three times.
SYNCHRONOUS = A3CSettings(
    workers=2, asynchronous=False, hidden_units=8, fourier_octaves=1, learning_starts=40, steps_per_update=5
)
CONFIG = TrainConfig("a3c", SYNCHRONOUS, num_envs=4, seed=3, steps=640)
ASYNCHRONOUS = replace(CONFIG, settings=replace(SYNCHRONOUS, asynchronous=True))
SINGLE = replace(CONFIG, settings=replace(SYNCHRONOUS, workers=1), num_envs=2)
RANDOM_STEPS, UPDATE_STEPS = 40, 10
LONG = 10_000_000


def left() -> tuple[list[int], list[str]]:
    """Resources that workers could leak: processes, connections to them, and shared memory."""
    gc.collect()
    opened = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            opened.append(str(path.readlink()))
    return sorted(children()), sorted(name for name in opened if name.startswith(("socket:", "pipe:", "/memfd:")))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with contextlib.closing(ArmEnv("reach")):  # PyBullet's own first time
        before = left()
    yield
    assert left() == before


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


def pids_of(learner: Workers) -> list[int]:
    """The workers' process ids."""
    return [worker.pid for worker in learner._workers.values()]


def shared_of(learner: Workers) -> Any:
    """A copy of the present shared parameters."""
    shared = learner._agent.shared
    assert shared is not None
    return shared.state_dict()["shared"].clone()


def average_of(learner: Workers) -> torch.Tensor:
    """The average of the shared parameters."""
    shared = learner._agent.shared
    assert shared is not None
    average: torch.Tensor = shared.state_dict()["average"].clone()
    return average


def flat(policy: torch.nn.Module) -> Any:
    """The parameters of a policy, which are the first of the shared ones."""
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])


@contextlib.contextmanager
def workers_of(config: TrainConfig) -> Iterator[Workers]:
    """A learner whose random steps are over, and whose workers are not started yet."""
    with contextlib.closing(Workers(config)) as learner:
        while not learner._agent.normalizer_fitted:
            advance(learner)
        yield learner


def advance(learner: Workers) -> Advance:
    return learner.advance(lambda steps: 0.0)


class TestSynchronous:
    """Workers that take turns."""

    def test_they_equal_one_process_bit_for_bit(self, whole: Path, tmp_path: Path) -> None:
        """The same collectors stepped here give the same parameters, counters and states."""
        memory: list[Any] = []

        def shared_memory(size: int) -> Any:
            """The same memory for all."""
            memory[:] = memory or [np.zeros(size, np.uint8)]
            return memory[0]

        def progress(more: int = 0) -> float:
            return CONFIG.progress(step + more, 0.0)

        step = updates = 0
        first, *others = [
            workers._make_collector(CONFIG, number, shared_memory, first=place == 0)
            for place, number in enumerate((0, 0, 1))
        ]
        agent: Any = first.agent
        while not agent.normalizer_fitted:
            step += first.advance(progress).steps
        for other in others:
            other.agent.join(agent.state_dict())  # type: ignore[attr-defined]
        while progress() < 1.0:
            begun = progress()
            done = Advance(0, 0, {})
            while not done.updates:
                done = others[updates % 2].advance(lambda _: begun)  # noqa: B023
                step += done.steps
            updates += 1
        agent.policy()
        state = {**first.state_dict(), "workers": [other.state_dict() for other in others]}
        for each in (first, *others):
            each.close()

        save_checkpoint(tmp_path, step, state)
        (_, expected), (_, got) = load_latest(tmp_path), load_latest(whole / "checkpoints")
        assert (got["step"], got["updates"]) == (step, updates) == (640, 60)
        assert got["agent"]["optimizer"]["version"] == 60
        for part in ("shared", "square"):
            assert exact(got["agent"]["optimizer"][part]) == exact(expected["agent"]["optimizer"][part])
        assert exact(got["workers"]) == exact(expected["workers"])
        assert exact({key: got[key] for key in expected}) == exact(expected)

    def test_workers_learn_with_noise_and_goals_of_their_own(self, whole: Path) -> None:
        """Goals and generators differ; an update comes every 10 steps, with a staleness of 0."""
        (_, earlier), (_, state) = (load_checkpoint(path) for path in list_checkpoints(whole / "checkpoints"))
        assert earlier["step"] < state["step"]  # 0, unless the training took more than ten seconds
        assert not torch.equal(earlier["agent"]["optimizer"]["shared"], state["agent"]["optimizer"]["shared"])
        one, other = state["workers"]
        assert one["agent"]["generator"] != other["agent"]["generator"]
        goals = {tuple(arm["course"]) for worker in (one, other) for arm in worker["arms"]}
        assert len(goals) == CONFIG.num_envs
        rows = reports(whole)
        assert rows[-1]["step"] == 640
        # The first 40 steps are random; then an update comes every 10 steps.
        assert [row["updates"] for row in rows] == [(row["step"] - 40) // 10 for row in rows]
        assert all(np.isfinite(list(row.values())).all() for row in rows)
        assert {row["staleness"] for row in rows[1:]} == {
            0
        }  # no other update comes between a worker's copy and its own

    @pytest.mark.slow
    @pytest.mark.parametrize("step", [20, 250], ids=["random steps", "between two turns"])
    def test_a_resumed_run_ends_as_the_whole_one(
        self, whole: Path, tmp_path: Path, interrupt: Callable[[int], None], step: int
    ) -> None:
        """Interrupted among the random steps or between two turns, it ends bit-equal."""
        interrupt(step)
        run = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, run, quiet=True)
        (reached, state), (_, policy, _) = load_latest(run / "checkpoints"), load_policy(run, last=True)
        assert reached == step
        parameters = flat(policy)
        assert torch.equal(parameters, state["agent"]["optimizer"]["average"][: len(parameters)])
        resume(run, quiet=True)
        assert reports(run) == reports(whole)
        got, expected = load_latest(run / "checkpoints"), load_latest(whole / "checkpoints")
        assert exact(list(got)) == exact(list(expected))

    def test_resuming_with_another_number_of_workers_is_an_error(self, whole: Path, tmp_path: Path) -> None:
        """Before and after the workers have started."""
        run = Path(shutil.copytree(whole, tmp_path / "run"))
        values = json.loads((run / "config.json").read_text())
        values["settings"]["workers"] = 4
        (run / "config.json").write_text(json.dumps(values))
        message = "the checkpoint is of 2 workers, not of 4"
        with pytest.raises(ValueError, match=message):
            resume(run, quiet=True)
        # The same holds for a training that has not started its workers yet.
        more = replace(CONFIG, num_envs=8, settings=replace(SYNCHRONOUS, workers=4))
        with Training(CONFIG) as before, Training(more) as other, pytest.raises(ValueError, match=message):
            other.load_state_dict(before.state_dict())

    def test_init_starts_from_the_other_runs_networks_without_random_steps(self, whole: Path) -> None:
        """The published policy is bit-equal to the other run's."""
        _, state = load_latest(whole / "checkpoints")
        with Training(replace(CONFIG, seed=9)) as pupil:
            pupil.learner.load_networks(state)
            assert isinstance(pupil.learner, Workers)
            assert pupil.learner._agent.normalizer_fitted
            # What is published is the first process's copy.
            ours, theirs = pupil.learner.policy().state_dict(), state["agent"]["policy"]
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)


HERE = """
import os, signal, sys, time
from pathlib import Path

HERE = Path(__file__).parent

def wait_for(path):
    while not path.exists():
        time.sleep(0.002)
"""

# The first worker stops after the first step of its first rollout until it is released, and the other one begins then.
HELD = """
from arm_control.training.workers import Advance, Worker
from envs.vector.process import serve_calls

class Held(Worker):
    number, made = -1, 0

    def make(self, config, number, saved, other):
        super().make(config, number, saved, other)
        self.number = number

    def go_on(self, progress):
        steps = 0
        if self.made == 0 and self.number == 0:
            steps = self._collector.advance(lambda _: progress).steps
            (HERE / "copied").touch()
            wait_for(HERE / "released")
        elif self.made == 0:
            wait_for(HERE / "copied")
        done = super().go_on(progress)
        steps += done.steps
        self.made += steps
        return Advance(steps, done.updates, {**done.metrics, "number": self.number, "made": self.made})

def serve(connection, memory):
    serve_calls(connection, Held(memory), lambda: "worker")
"""

Serve = Callable[[str], Path]


@pytest.fixture
def served_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A function that replaces the workers' program by this text; returns its folder HERE."""

    def use(text: str) -> Path:
        (tmp_path / "other_worker.py").write_text(HERE + text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "other_worker", raising=False)
        monkeypatch.setattr(workers, "serve", SimpleNamespace(__module__="other_worker", __name__="serve"))
        return tmp_path

    return use


class TestAsynchronous:
    """Workers that do not wait for each other."""

    @pytest.mark.slow
    def test_workers_do_not_wait_and_report_staleness(self, served_by: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        """A held worker delays no other, and its late update reports the updates missed."""
        monkeypatch.setattr(workers, "ANSWER_S", 60.0)  # workers that waited would exceed it
        here = served_by(HELD)
        with workers_of(ASYNCHRONOUS) as learner:
            start = shared_of(learner)
            done = [advance(learner) for _ in range(5)]
            assert [each.metrics["number"] for each in done] == [1] * 5
            assert [each.metrics["staleness"] for each in done] == [0] * 5
            for process in pids_of(learner):
                maps = Path(f"/proc/{process}/maps").read_text()
                assert "/memfd:parameters (deleted)" in maps  # anonymous memory, which ends with its processes
                assert "/dev/shm" not in maps
            (here / "released").touch()
            while done[-1].metrics["number"] != 0:
                assert len(done) < 10_000
                done.append(advance(learner))
            # Updates of the other worker: at least five, and at most one more than are known.
            assert 5 <= done[-1].metrics["staleness"] <= len(done)

            # Both continue; steps that were under way when they had to wait are counted.
            while min(len([each for each in done if each.metrics["number"] == number]) for number in (0, 1)) < 4:
                assert len(done) < 10_000
                done.append(advance(learner))
            policy = learner.policy()
            shared = shared_of(learner)
            # The policy is the average of the shared parameters, which have changed since it was published.
            parameters = flat(policy)
            assert torch.equal(parameters, average_of(learner)[: len(parameters)])
            assert not torch.equal(parameters, shared[: len(parameters)])
            time.sleep(0.1)
            assert torch.equal(shared_of(learner), shared)  # a validation's networks stay as they are
            assert not torch.equal(shared, start)
            done += [advance(learner) for _ in range(4)]
            learner.policy()
            while learner._late:
                done.append(advance(learner))
            assert all((each.steps, each.updates) == (UPDATE_STEPS, 1) for each in done)
            for number in (0, 1):
                own = [each for each in done if each.metrics["number"] == number]
                assert sum(each.steps for each in own) == max(each.metrics["made"] for each in own)

    @pytest.mark.slow
    def test_a_worker_has_one_thread(self, served_by: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever the environment variables or the library's default."""
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
            monkeypatch.setenv(name, "4")
        served_by("""
import torch
from arm_control.training.workers import Advance, Worker
from envs.vector.process import serve_calls

default = torch.get_num_threads()
torch.set_num_threads(3)

class Counted(Worker):
    def go_on(self, progress):
        done = super().go_on(progress)
        return done._replace(metrics={"default": default, "threads": torch.get_num_threads()})

def serve(connection, memory):
    serve_calls(connection, Counted(memory), lambda: "worker")
""")
        with workers_of(SINGLE) as learner:
            assert {"default": 1, "threads": 1}.items() <= advance(learner).metrics.items()
            names = [
                entry.partition("=") for entry in Path(f"/proc/{pids_of(learner)[0]}/environ").read_text().split("\0")
            ]
            assert {value for name, _, value in names if name.endswith("_NUM_THREADS")} == {"1"}


# A worker without an agent, which starts within a tenth of a second. DEATHS lists, for each moment of its life, the
# numbers of the workers that kill themselves then.
LIGHT = """
from collections import namedtuple
from envs.vector.process import serve_calls

Advance = namedtuple("Advance", "steps updates metrics")
DEATHS = {deaths!r}

def die(moment, number):
    if number in DEATHS.get(moment, ()):
        os.kill(os.getpid(), signal.SIGKILL)

def note(name, text):
    with open(HERE / name, "a") as file:
        file.write(f"{{text}}\\n")

class Light:
    number, updates = -1, 0

    def make(self, config, number, saved, other):
        self.number = number
        die("make", number)

    def go_on(self, progress):
        die("second go_on" if self.updates else "go_on", self.number)
        {fault}
        self.updates += 1
        note("updates", self.number)
        return Advance(10, 1, {{"number": self.number}})

    def save(self):
        die("save", self.number)
        return {{}}

    def close(self):
        pass

def serve(connection, memory):
    note("starts", os.getpid())
    die("start", (HERE / "starts").read_text().split().index(str(os.getpid())))
    serve_calls(connection, Light(), lambda: "worker")
"""
Deaths = dict[str, Any]
ALL = range(99)


def light(deaths: Deaths, fault: str = "pass") -> str:
    return LIGHT.format(deaths=deaths, fault=fault)


def lines(path: Path) -> list[str]:
    return path.read_text().split()


class TestReplacement:
    """Workers that are killed are replaced."""

    @pytest.mark.slow
    def test_a_killed_worker_is_replaced_and_learning_continues(self) -> None:
        """Shared parameters are kept, and the new worker has new goals."""
        with workers_of(SINGLE) as learner:
            advance(learner)
            goals, pids = [], []
            uses: list[Callable[[], Any]] = [lambda: advance(learner), learner.state_dict]
            for use in uses:
                state = learner.state_dict()
                goals += [tuple(arm["course"]) for arm in state["workers"][0]["arms"]]
                shared, version = shared_of(learner), state["agent"]["optimizer"]["version"]
                pids += pids_of(learner)
                os.kill(pids[-1], signal.SIGKILL)
                assert stuck([pids[-1]]) == []
                use()
                assert torch.equal(shared_of(learner), shared)  # what has been learned stays
                done = advance(learner)
                assert (done.steps, done.metrics["staleness"]) == (UPDATE_STEPS, 0)
                assert not torch.equal(shared_of(learner), shared)
                assert learner.state_dict()["agent"]["optimizer"]["version"] == version + 1
            assert done.metrics["workers_replaced"] == learner.replaced == 2
            assert len({*pids, *pids_of(learner)}) == 3
            assert len(set(goals)) == 2 * SINGLE.num_envs

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("deaths", "asynchronous"),
        [
            ({"go_on": [0]}, False),
            ({"go_on": [0]}, True),
            ({"go_on": [0, 1, 2, 3]}, False),
            ({"go_on": [0], "start": [1, 2]}, False),
            ({"go_on": [0], "make": [1]}, True),
            ({"start": [0]}, False),
            ({"make": [0]}, False),
            ({"save": [0, 1]}, True),
        ],
        ids=str,
    )
    def test_a_worker_is_replaced_in_any_phase(self, served_by: Serve, deaths: Deaths, asynchronous: bool) -> None:
        """While starting, being set up, stepping or saving."""
        here = served_by(light(deaths))
        died = sum(map(len, deaths.values()))
        with workers_of(
            replace(SINGLE, settings=replace(SYNCHRONOUS, workers=1, asynchronous=asynchronous))
        ) as learner:
            for _ in range(10):
                learner.state_dict()
                done = advance(learner)
            assert (done.steps, done.updates, done.metrics["number"]) == (10, 1, died)
            assert done.metrics["workers_replaced"] == died
            assert len(lines(here / "starts")) == died + 1

    @pytest.mark.slow
    def test_deaths_with_updates_between_them_are_no_error(
        self,
        served_by: Serve,
    ) -> None:
        """Each replacement is reported, and only deaths in a row are limited."""
        served_by(light({"second go_on": range(6)}))
        with workers_of(SINGLE) as learner:
            done = [advance(learner) for _ in range(14)]
        assert [each.metrics["workers_replaced"] for each in done] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6]
        assert [each.updates for each in done] == [1, 0] * 6 + [1, 1]
        assert sum(each.steps for each in done) == 80

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("config", "deaths"),
        [
            (SINGLE, {"go_on": ALL}),
            (SINGLE, {"go_on": [0], "make": ALL[1:]}),
            (SINGLE, {"start": ALL}),
            (ASYNCHRONOUS, {"go_on": [0, *ALL[2:]]}),  # of two places one is as it should be
        ],
        ids=["go_on", "make", "start", "one place"],
    )
    def test_five_deaths_in_a_row_are_an_error(self, served_by: Serve, config: TrainConfig, deaths: Deaths) -> None:
        """One line that names the worker and the signal; no process is left."""

        def go_on() -> None:
            while learner.replaced < 10:
                advance(learner)

        here = served_by(light(deaths))
        with workers_of(config) as learner:
            with pytest.raises(RuntimeError, match=r"^worker 0 was killed by SIGKILL .* without an update$") as error:
                go_on()
            assert "\n" not in str(error.value)
            assert len(lines(here / "starts")) == workers.DEATHS_IN_A_ROW + len(pids_of(learner)) - 1
            assert workers.DEATHS_IN_A_ROW == 5
            pids = pids_of(learner)
        assert stuck(pids) == []

    @pytest.mark.slow
    def test_five_deaths_end_a_training_with_a_checkpoint(
        self, served_by: Serve, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """One line and exit code 2."""
        served_by(light({"go_on": ALL}))
        run = tmp_path / "run"
        words = ["train", "a3c", "--workers", "1", "--num-envs", "1", "--learning-starts", "10", "--out", str(run)]
        assert main(words) == 2
        [line] = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
        assert line.startswith("arm-control: error: worker 0 was killed by SIGKILL")
        load_latest(run / "checkpoints")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("config", "fault", "kind", "message"),
        [
            (
                CONFIG,
                "raise ValueError('expected a number, got NaN')",
                ValueError,
                "^worker.*: expected a number, got NaN",
            ),
            (ASYNCHRONOUS, "[][3]", RuntimeError, "^worker.*: IndexError: list index out of range"),
        ],
        ids=["synchronous", "asynchronous"],
    )
    def test_an_exception_in_a_worker_is_raised_without_replacement(
        self, served_by: Serve, config: TrainConfig, fault: str, kind: type[Exception], message: str
    ) -> None:
        """With its type, message and traceback."""
        here = served_by(light({}, fault))
        with workers_of(config) as learner:
            with pytest.raises(kind, match=message) as error:
                advance(learner)
            assert "other_worker.py" in "".join(error.value.__notes__)  # where it came from
            assert learner.replaced == 0
        assert len(lines(here / "starts")) == 2

    @pytest.mark.slow
    def test_steps_under_way_at_a_checkpoint_are_counted_once(self, served_by: Serve, tmp_path: Path) -> None:
        """Steps and updates of the resumed run equal those that the workers made."""
        here = served_by(light({}))
        with Training(ASYNCHRONOUS) as first, Training(ASYNCHRONOUS) as second:
            while first.updates < 3:
                first.advance()
            learning_starts = first.step - 10 * first.updates
            save_checkpoint(tmp_path / "checkpoints", first.step, first.state_dict())
            assert len(lines(here / "updates")) == 4  # both workers had started another rollout
            second.load_state_dict(load_latest(tmp_path / "checkpoints")[1])
            for _ in range(5):
                second.advance()
            second.learner.policy()
            assert isinstance(second.learner, Workers)
            while second.learner._late:
                second.advance()
            assert second.updates == len(lines(here / "updates"))
            assert second.step == learning_starts + 10 * second.updates

    @pytest.mark.slow
    def test_replacements_in_a_resumed_run_have_new_numbers(self, served_by: Serve, tmp_path: Path) -> None:
        """A number, from which seeds derive, is never used again."""
        served_by(light({"go_on": [0], "second go_on": [1]}))
        with workers_of(SINGLE) as first, workers_of(SINGLE) as second:
            numbers = [advance(first).metrics.get("number") for _ in range(2)]
            save_checkpoint(tmp_path / "checkpoints", 0, first.state_dict())
            second.load_state_dict(load_latest(tmp_path / "checkpoints")[1])
            numbers += [advance(second).metrics.get("number") for _ in range(3)]
        assert numbers == [None, 1, 1, None, 2]

    @pytest.mark.slow
    def test_kills_at_random_moments_do_not_end_a_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: Size
    ) -> None:
        """Parameters stay finite, learning continues, and all steps are counted."""
        monkeypatch.setattr(workers, "DEATHS_IN_A_ROW", 21)  # kills may come faster than workers start
        kills: list[int] = []
        most = size(5, full=20, of="kills")
        others = set(children())

        def kill(moments: random.Random) -> None:
            while len(kills) < most:
                time.sleep(moments.uniform(0.0, 1.0))
                # Skip processes of other tests, and those that were killed and have not ended yet.
                workers = set(children()) - others - set(kills)
                if alive := sorted(process for process in workers if running(process)):
                    kills.append(moments.choice(alive))
                    os.kill(kills[-1], signal.SIGKILL)

        with Training(replace(ASYNCHRONOUS, steps=LONG)) as run:
            assert isinstance(run.learner, Workers)
            while run.updates < 1:
                run.advance()
            start = shared_of(run.learner)
            killer = threading.Thread(target=kill, args=(random.Random(7),), daemon=True)
            killer.start()
            metrics: dict[str, float] = {}
            for number in itertools.count():
                metrics = run.advance()
                if not killer.is_alive() and metrics["workers_replaced"] >= most:
                    break
                if number % 20 == 0:
                    save_checkpoint(tmp_path / "checkpoints", run.step, run.state_dict())
                elif number % 10 == 0:
                    run.learner.policy()
            killed = run.updates
            while run.updates < killed + 10:
                metrics = run.advance()
            assert len(set(kills)) == most
            assert metrics["workers_replaced"] == most
            assert len(pids_of(run.learner)) == 2
            assert torch.isfinite(shared_of(run.learner)).all()
            assert not torch.equal(shared_of(run.learner), start)
            assert run.step == RANDOM_STEPS + UPDATE_STEPS * run.updates
            pids = pids_of(run.learner)
        assert stuck(pids) == []


# The command with short validations, and so many of them that it reports soon and ends late.
COMMAND = """
import sys
from arm_control.evaluation import validation
from arm_control.training import loop
from arm_control import cli

loop.REPORTS, validation.VALIDATION_GOALS = 1000, 2
sys.exit(cli.main(sys.argv[1:]))
"""
WORDS = ["--num-envs", "4", "--workers", "2", "--hidden-units", "8", "--learning-starts", "40", "--steps", "500_000"]


@contextlib.contextmanager
def training_into(run: Path) -> Iterator[subprocess.Popen[str]]:
    """A training in a process of its own, ended whatever happens."""
    command = [sys.executable, "-c", COMMAND, "train", "a3c", *WORDS, "--out", str(run)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class TestProcesses:
    """No process outlives its training."""

    @pytest.mark.slow
    @pytest.mark.parametrize("config", [CONFIG, ASYNCHRONOUS], ids=["synchronous", "asynchronous"])
    def test_no_worker_is_left_after_closing_or_deletion(self, served_by: Serve, config: TrainConfig) -> None:
        """Processes end within seconds."""
        served_by(light({}))
        with workers_of(config) as learner:
            advance(learner)
            pids = pids_of(learner)
            assert len(pids) == 2
            assert all(map(running, pids))
            learner.close()
            assert stuck(pids) == []  # closed again at the end
        forgotten = Workers(config)
        while not pids_of(forgotten):
            advance(forgotten)
        pids = pids_of(forgotten)
        forgotten._first.close()
        os.close(forgotten._memory)
        del forgotten
        gc.collect()
        assert stuck(pids) == []

    @pytest.mark.slow
    @pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda ending: ending.name)
    def test_no_worker_outlives_a_killed_training(
        self, tmp_path: Path, ending: signal.Signals, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SIGINT, SIGTERM and SIGKILL; the first two leave a checkpoint that can be resumed."""
        run = tmp_path / "run"
        with training_into(run) as parent:
            assert parent.stderr is not None
            first = [parent.stderr.readline() for _ in range(3)]  # what it is, a validation, and one while it learns
            assert first[0].startswith("training: a3c")
            assert " 0 updates" not in first[2]
            processes = children(parent.pid)
            assert len(processes) == 2
            for process in (parent.pid, *processes):
                assert "/dev/shm" not in Path(f"/proc/{process}/maps").read_text()
                assert os.getpgid(process) == process  # a worker does not get what the parent's group gets
            os.killpg(parent.pid, ending)  # as a terminal does
            _, error = parent.communicate(timeout=60)
            assert stuck(processes) == []
        assert "Traceback" not in error
        if ending == signal.SIGKILL:
            assert parent.returncode == -signal.SIGKILL
            return
        assert parent.returncode == 130
        assert f"resume with: arm-control resume {run}" in error
        step, state = load_latest(run / "checkpoints")
        rows = reports(run)
        for each in (*rows[1:], state):
            assert each["step"] == RANDOM_STEPS + 20 * each["updates"]
        assert all(row["staleness"] >= 0 for row in rows[1:])
        assert all(np.isfinite(list(row.values())).all() for row in rows)
        assert step >= rows[-1]["step"] > 0
        if ending == signal.SIGINT:
            untouched = Training.advance

            def advance_and_press_soon(self: Training) -> dict[str, float]:
                metrics = untouched(self)
                if self.updates >= state["updates"] + 5:
                    signal.raise_signal(signal.SIGINT)
                return metrics

            monkeypatch.setattr(Training, "advance", advance_and_press_soon)
            with pytest.raises(KeyboardInterrupt):
                resume(run, quiet=True)
            after, resumed = load_latest(run / "checkpoints")
            assert after >= step + 5 * 20
            assert not torch.equal(resumed["agent"]["optimizer"]["shared"], state["agent"]["optimizer"]["shared"])


class TestCommands:
    """The commands with an A3C run."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--num-envs", "5", "--workers", "2"], "--num-envs: expected a multiple of 2 workers, got 5"),
            (["--num-envs", "1"], "--num-envs: expected a multiple of 2 workers, got 1"),
            (["--workers", "0"], "workers: "),
            (["--workers", "65"], "workers: "),
            (["--workers", "two"], "workers"),
            (["--steps-per-update", "0"], "steps-per-update: "),
            (["--processes", "2"], "--processes: expected 1 (a3c simulates its environments in its --workers), got 2"),
            (["--env", "ArmReachDiscrete-v0"], "requires --env ArmReach-v0, got ArmReachDiscrete-v0"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_invalid_flags_are_one_line_and_leave_no_folder(
        self, rejected: Rejected, tmp_path: Path, words: list[str], message: str
    ) -> None:
        """Numbers of environments, workers and steps out of range, and other environments."""
        assert message in rejected("train", "a3c", *words, "--steps", "100", "--out", tmp_path / "run")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_a_run_is_evaluated_and_exported(
        self, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """The exported policy's error equals the run's to 0.01 mm."""
        run = Path(shutil.copytree(whole, tmp_path / "run"))
        assert main(["evaluate", str(run), "--goals", "2", "--json", str(tmp_path / "figures.json")]) == 0
        assert np.isfinite(json.loads((tmp_path / "figures.json").read_text())["mean_error_mm"])
        assert main(["export", str(run)]) == 0
        assert (run / "policy.onnx").is_file()
        assert (
            main(["evaluate", str(run / "policy.onnx"), "--goals", "2", "--json", str(tmp_path / "exported.json")]) == 0
        )
        ours, exported = (json.loads((tmp_path / name).read_text()) for name in ("figures.json", "exported.json"))
        assert exported["mean_error_mm"] == pytest.approx(ours["mean_error_mm"], abs=0.01)
        assert "error" not in capfd.readouterr().err
