"""ArmVectorEnv: equivalence with Gymnasium's vector environments, invalid input, and failures of workers."""

import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import children, stuck
from locations import ROOT

from arm_control.runs.config import environment_ids
from envs.arm_env import ArmEnv
from envs.vector.env import ArmVectorEnv

NUM_ENVS = 3
Make = Callable[[], gymnasium.Env[Any, Any]]


def maker(name: str = "ArmReach-v0", **settings: Any) -> Make:
    """A function that makes environments with episodes of 4 steps."""
    return functools.partial(gymnasium.make, name, disable_env_checker=True, **{"episode_steps": 4, **settings})


@contextlib.contextmanager
def vector(
    make: Make | None = None, num_envs: int = NUM_ENVS, processes: int = 2, **settings: Any
) -> Iterator[ArmVectorEnv]:
    with contextlib.closing(ArmVectorEnv(make or maker(), num_envs, processes, **settings)) as env:
        yield env


@contextlib.contextmanager
def sync(make: Make | None = None, num_envs: int = NUM_ENVS) -> Iterator[Any]:
    with contextlib.closing(SyncVectorEnv([make or maker()] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)) as env:
        yield env


def draw(env: Any, steps: int, seed: int = 0) -> list[Any]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(steps)]


def plain(value: Any) -> Any:
    """Comparable objects for exact equality: arrays as their dtype, shape and bytes."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return [plain(part) for part in value] if isinstance(value, tuple) else value


def leftovers() -> tuple[list[int], int]:
    """Resources that an environment could leak: child processes and open files, shared memory included."""
    return sorted(children()), len([*Path("/proc/self/fd").iterdir()])


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with contextlib.closing(ArmEnv("reach")):  # what PyBullet opens once
        before = leftovers()
    yield
    assert leftovers() == before


class Uneven(ArmEnv):
    """Terminates early if the goal is at x < 0.2 m, so that environments end at different steps."""

    def step(self, action: Any) -> Any:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, self._steps >= 2 and self._goal[0] < 0.2, truncated, info | {"steps": self._steps}

    def reset(self, **keywords: Any) -> Any:
        observation, info = super().reset(**keywords)
        return observation, info | {"steps": 0}


class Odd(ArmEnv):
    """Additional infos, one of them an array."""

    def reset(self, **keywords: Any) -> Any:
        observation, info = super().reset(**keywords)
        return observation, info | self._more()

    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        return *rest, info | self._more()

    def _more(self) -> dict[str, Any]:
        return {"count": self._steps, "half": np.float32(0.5), "goal": np.array(self._goal)}


class Bare(ArmEnv):
    """No infos at all."""

    def reset(self, **keywords: Any) -> Any:
        return super().reset(**keywords)[0], {}

    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {}


class TestEquivalence:
    """Results are those of Gymnasium's SyncVectorEnv and of single environments."""

    @pytest.mark.parametrize("name", environment_ids())
    def test_results_equal_gymnasiums_sync_vector_env(self, name: str) -> None:
        """Spaces, observations, rewards, flags and infos equal SyncVectorEnv's to the last bit."""
        make = maker(name)
        with vector(make) as env, sync(make) as other:
            assert env.num_envs == other.num_envs
            for space in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
                assert getattr(env, space) == getattr(other, space)
            assert env.metadata == other.metadata
            for seed in (5, None, [7, None, 2**40]):
                assert plain(env.reset(seed=seed)) == plain(other.reset(seed=seed))
            for actions in draw(env, 13):
                assert plain(env.step(actions)) == plain(other.step(actions))

    def test_the_end_of_an_episode_has_gymnasiums_same_step_format(self) -> None:
        """The final step returns `final_obs` and `final_info` in Gymnasium's SAME_STEP format."""
        with vector(maker()) as env, sync(maker()) as other:
            for each in (env, other):
                each.reset(seed=1)
            for actions in draw(env, 4):
                ours, gymnasiums = env.step(actions), other.step(actions)
            assert ours[3].all()
            assert ours[4].keys() == gymnasiums[4].keys()
            assert {"final_obs", "_final_obs", "final_info", "_final_info"} <= ours[4].keys()
            assert plain(ours) == plain(gymnasiums)

    @pytest.mark.slow
    def test_episodes_that_end_at_different_steps(self) -> None:
        """Environments that terminate or truncate at different steps give SyncVectorEnv's results."""
        make = functools.partial(Uneven, "reach", episode_steps=5)
        with vector(make, 6) as env, sync(make, 6) as other:
            assert plain(env.reset(seed=3)) == plain(other.reset(seed=3))
            partly = 0
            for actions in draw(env, 20):
                ours, gymnasiums = env.step(actions), other.step(actions)
                assert plain(ours) == plain(gymnasiums)
                ended = ours[2] | ours[3]
                partly += ended.any() and not ended.all()
            assert partly >= 3

    @pytest.mark.parametrize("name", environment_ids())
    def test_each_environment_equals_a_single_one_for_any_number_of_processes(self, name: str) -> None:
        """One or three processes give the same bits as each environment stepped alone."""
        make, seeds, steps = maker(name), [11, 12, 13], 10
        histories = []
        for processes in (1, 3):
            with vector(make, processes=processes) as env:
                history = [env.reset(seed=11)]
                moves = draw(env, steps)
                history += [env.step(actions) for actions in moves]
                histories.append(plain(tuple(history)))
        assert histories[0] == histories[1]

        for index, seed in enumerate(seeds):
            alone = make()
            observation, info = alone.reset(seed=seed)
            for step, row in enumerate(history):
                if step:
                    observation, reward, terminated, truncated, info = alone.step(moves[step - 1][index])
                    assert (row[1][index], row[2][index], row[3][index]) == (reward, terminated, truncated)
                    if terminated or truncated:
                        assert plain(row[4]["final_obs"][index]) == plain(observation)
                        assert row[4]["final_info"]["distance_m"][index] == info["distance_m"]
                        observation, info = alone.reset()
                assert plain({key: value[index] for key, value in row[0].items()}) == plain(observation)
                assert {key: row[-1][key][index] for key in info} == info
            alone.close()

    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i8", "u1"])
    def test_actions_keep_the_callers_dtype(self, dtype: str) -> None:
        """Actions of six dtypes reach the environments unchanged: results equal SyncVectorEnv's."""
        actions = np.random.default_rng(0).uniform(0, 90, (NUM_ENVS, 3)).astype(dtype)
        with vector() as env, sync() as other:
            for each in (env, other):
                each.reset(seed=2)
            assert plain(env.step(actions)) == plain(other.step(actions))

    def test_accepts_lists_of_actions(self) -> None:
        """Nested lists give the results of the same array."""
        with vector() as env, sync() as other:
            for each in (env, other):
                each.reset(seed=2)
            assert plain(env.step([[1.0, 2.0, 3.0]] * NUM_ENVS)) == plain(
                other.step(np.array([[1.0, 2.0, 3.0]] * NUM_ENVS))
            )

    def test_reset_options_reach_every_environment(self) -> None:
        """All environments start in the pose that the options give."""
        options = {"angles_deg": (10.0, 20.0, 30.0)}
        with vector() as env, sync() as other:
            assert plain(env.reset(seed=4, options=options)) == plain(other.reset(seed=4, options=options))
            assert len({row.tobytes() for row in env.reset(options=options)[0]["observation"]}) == 1

    def test_returned_arrays_are_never_reused(self) -> None:
        """Later steps do not modify what was returned, and the caller may write to it."""
        with vector() as env:
            returned = [env.reset(seed=0)]
            before = [plain(returned[0])]
            for actions in draw(env, 9):
                returned.append(env.step(actions))
                before.append(plain(returned[-1]))
            env.reset(seed=1)
            assert [plain(each) for each in returned] == before
            returned[-1][0]["observation"][:] = 0  # the caller may write to it
            assert env.save_state()

    def test_states_are_restored_exactly_by_any_number_of_processes(self) -> None:
        """Pickled states continue bit for bit with one or two processes; a wrong number of states is rejected."""
        with vector(maker(episode_steps=7)) as env, vector(maker(episode_steps=7), processes=1) as other:
            env.reset(seed=21)
            moves = draw(env, 20)
            for actions in moves[:5]:
                observations = env.step(actions)[0]
            states = pickle.loads(pickle.dumps(env.save_state()))
            followed = [plain(env.step(actions)) for actions in moves[5:]]
            assert len(states) == NUM_ENVS
            for each in (env, other):
                assert plain(each.restore_state(states)) == plain(observations)
                assert [plain(each.step(actions)) for actions in moves[5:]] == followed
            with pytest.raises(ValueError, match="expected the states of 3 arms, got 2"):
                env.restore_state(states[:2])

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [Odd, Bare])
    def test_infos_may_be_numbers_arrays_or_empty(self, kind: type[ArmEnv]) -> None:
        """Extra numbers, arrays and missing infos are returned as SyncVectorEnv returns them."""
        make = functools.partial(kind, "reach", episode_steps=3)
        with vector(make) as env, sync(make) as other:
            assert plain(env.reset(seed=0)) == plain(other.reset(seed=0))
            for actions in draw(env, 4):
                assert plain(env.step(actions)) == plain(other.step(actions))

    def test_accepts_lambdas_and_functions_of_scripts(self) -> None:
        """`make_env` may be a function that pickle cannot send by name."""
        with vector(lambda: gymnasium.make("ArmReach-v0", disable_env_checker=True)) as env:
            env.reset(seed=0)


class Flat(ArmEnv):
    """A flat observation space instead of a Dict."""

    def __init__(self) -> None:
        super().__init__("reach")
        self.observation_space = self.observation_space["observation"]  # type: ignore[assignment]


class TextInfo(Bare):
    """An info that is a string."""

    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {"said": "hello"}


class LateInfo(Bare):
    """An info that `reset` does not have."""

    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {"late": 1.0}


BAD_ACTIONS: list[tuple[str, Any]] = [
    ("ArmReach-v0", [45, np.nan, 45]),
    ("ArmReach-v0", [45, np.inf, 45]),
    ("ArmReach-v0", [45, 45, 90.01]),
    ("ArmReach-v0", [-0.01, 45, 45]),
    ("ArmReach-v0", [45, 45]),
    ("ArmReach-v0", [True, False, True]),
    ("ArmReach-v0", ["45", "45", "45"]),
    ("ArmReach-v0", [45, None, 45]),
    ("ArmReach-v0", None),
    ("ArmReachDiscrete-v0", 753571),
    ("ArmReachDiscrete-v0", -1),
    ("ArmReachDiscrete-v0", 1.0),
    ("ArmReachDiscrete-v0", [1]),
    ("ArmReachMultiDiscrete-v0", [0, 91, 0]),
    ("ArmReachMultiDiscrete-v0", [0, -1, 0]),
    ("ArmReachMultiDiscrete-v0", [0.0, 1.0, 2.0]),
    ("ArmReachMultiDiscrete-v0", [1, 2]),
]


class TestRejections:
    """Invalid arguments, environments, actions and seeds."""

    @pytest.mark.parametrize(
        ("num_envs", "processes", "message"),
        [
            (0, 1, "expected a positive number of arms, got 0"),
            (2, 0, "expected a positive number of processes, got 0"),
            (2.0, 1, r"expected a positive number of arms, got 2\.0"),
            (True, 1, "expected a positive number of arms, got True"),
            (2, 3, "expected at least one arm a process, got 2 arms for 3 processes"),
        ],
    )
    def test_rejects_invalid_numbers_of_environments_and_processes(
        self, num_envs: Any, processes: Any, message: str
    ) -> None:
        """Non-positive, non-integer and inconsistent numbers raise ValueError."""
        with pytest.raises(ValueError, match=message):
            ArmVectorEnv(maker(), num_envs, processes)

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (maker(reward="shaped"), ValueError, "reward"),
            (maker("Nowhere-v0"), gymnasium.error.NameNotFound, "Nowhere"),
            (Flat, ValueError, "expected a Dict of Box as observation space, got Box"),
            (functools.partial(TextInfo, "reach"), ValueError, "expected infos that are numbers, got said = 'hello'"),
            (functools.partial(LateInfo, "reach"), ValueError, "expected the same infos at each step"),
            (maker(render_mode="rgb_array"), ValueError, "expected arms without a render mode, got 'rgb_array'"),
            (
                functools.partial(ArmEnv, "reach", arm=(x for x in ())),
                ValueError,
                "expected a make_env that can be sent",
            ),
        ],
        ids=range(7),
    )
    def test_rejects_unsupported_environments(self, make: Make, error: type[Exception], message: str) -> None:
        """Errors of construction and unsupported spaces, infos and render modes are raised in the parent."""
        with pytest.raises(error, match=message):
            ArmVectorEnv(make, NUM_ENVS, 2)

    @pytest.mark.parametrize("name", ["ArmReach-v0", "ArmReachDiscrete-v0", "ArmReachMultiDiscrete-v0"])
    def test_a_bad_action_is_rejected_before_any_environment_steps(self, name: str) -> None:
        """The error names the environment; all environments continue bit for bit as undisturbed ones."""
        with vector(maker(name)) as env, vector(maker(name)) as other:
            for each in (env, other):
                each.reset(seed=6)
            good = draw(env, 6)
            for bad in (action for of, action in BAD_ACTIONS if of == name):
                actions = list(good[0])
                actions[1] = bad
                with pytest.raises(ValueError, match=r"^arm 1: expected an action of .*, got ") as caught:
                    env.step(actions)
                assert "\n" not in str(caught.value)
            for bad in (good[0][:2], 1.0, None, [*good[0], good[0][0]]):
                with pytest.raises(ValueError, match=r"expected an action of .* for each of 3 arms, got"):
                    env.step(bad)
            for actions in good:
                assert plain(env.step(actions)) == plain(other.step(actions))

    def test_accepts_bounds_with_float32_rounding(self) -> None:
        """Bounds and 0.0009 degrees beyond are accepted, 0.002 degrees beyond is rejected."""
        with vector() as env:
            env.reset(seed=0)
            env.step(env.action_space.low)
            env.step(env.action_space.high)
            env.step(np.full((NUM_ENVS, 3), 90.0009))
            with pytest.raises(ValueError, match="arm 0"):
                env.step(np.full((NUM_ENVS, 3), 90.002))

    @pytest.mark.parametrize(
        ("seed", "message"),
        [
            ([1, 2], "expected 3 seeds, one an arm, got 2"),
            (-1, "arm 0: expected a seed from 0, or None, got -1"),
            ([0, 1, 1.5], r"arm 2: expected a seed from 0, or None, got 1\.5"),
        ],
    )
    def test_rejects_invalid_seeds(self, seed: Any, message: str) -> None:
        """A wrong number of seeds, negative and non-integer seeds raise ValueError."""
        with vector() as env, pytest.raises(ValueError, match=message):
            env.reset(seed=seed)

    def test_rejects_a_step_before_the_first_reset(self) -> None:
        """Gymnasium's ResetNeeded is raised."""
        with vector() as env, pytest.raises(gymnasium.error.ResetNeeded):
            env.step(draw(env, 1)[0])

    def test_rejected_reset_options_name_the_environment_and_change_nothing(self) -> None:
        """The environment's own error is raised with its traceback as a note, and all continue unchanged."""
        with vector() as env, vector() as other:
            for each in (env, other):
                each.reset(seed=6)
            with pytest.raises(ValueError, match=r"^arm 0 \(worker 0\): expected reset options") as caught:
                env.reset(options={"wrong": 1})
            assert "Traceback" in caught.value.__notes__[0]
            for actions in draw(env, 5):
                assert plain(env.step(actions)) == plain(other.step(actions))


class Faulty(ArmEnv):
    """Fails as `fault` says in every process but `own`."""

    def __init__(self, own: int, fault: str) -> None:
        super().__init__("reach")
        self.own, self.fault = own, fault
        if fault == "make" and os.getpid() != own:
            raise RuntimeError("construction failed")

    def reset(self, **keywords: Any) -> Any:
        if self.fault == "reset" and os.getpid() != self.own:
            raise KeyError("reset failed")
        return super().reset(**keywords)

    def step(self, action: Any) -> Any:
        if os.getpid() != self.own and action[0] > 80:
            if self.fault == "raise":
                raise OSError("step failed")
            if self.fault == "exit":
                os._exit(3)
            if self.fault == "hang":
                time.sleep(1000)
        return super().step(action)


def faulty(fault: str) -> Make:
    return functools.partial(Faulty, os.getpid(), fault)


def go_on(env: ArmVectorEnv) -> None:
    for actions in draw(env, 100):
        env.step(actions)


class TestFailures:
    """Workers that raise, exit, hang or are killed."""

    @pytest.mark.slow
    def test_an_error_while_a_worker_makes_its_environments(self) -> None:
        """The constructor raises RuntimeError with environment, worker and message."""
        with pytest.raises(RuntimeError, match=r"^arm [02] \(worker [01]\): construction failed\n"):
            ArmVectorEnv(faulty("make"), 4, 2)

    @pytest.mark.slow
    def test_a_failed_reset_leaves_the_environment_open(self) -> None:
        """Other exceptions become RuntimeError, and the environment can still be used after a failed reset."""
        with vector(faulty("reset")) as env:
            for _ in range(2):
                with pytest.raises(RuntimeError, match=r"^arm 0 \(worker 0\): KeyError: 'reset failed'\n"):
                    env.reset(seed=0)
            assert len(env.save_state()) == NUM_ENVS

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("raise", r"^arm 2 \(worker 1\): OSError: step failed"),
            ("exit", r"^worker 1 \(arms 1 to 2\) ended with exit code 3"),
            ("hang", r"^worker 1 \(arms 1 to 2\) has not replied for 2 s"),
        ],
    )
    def test_a_worker_that_fails_in_a_step_closes_all(self, fault: str, message: str) -> None:
        """A worker that raises, exits or hangs closes the environment, whose later uses repeat the reason."""
        with vector(faulty(fault), timeout_s=2 if fault == "hang" else 60) as env:
            env.reset(seed=0)
            with pytest.raises(RuntimeError, match=message):
                env.step(np.array([[0, 0, 0], [0, 0, 0], [90, 0, 0]], np.float32))
            assert env.closed
            with pytest.raises(RuntimeError, match=f"this environment is closed: {message[1:]}"):
                env.reset()

    @pytest.mark.parametrize("busy", [False, True])
    def test_a_killed_worker_ends_the_others(self, busy: bool) -> None:
        """A worker killed while idle or busy is named with its signal, and no worker is left."""
        before = children()
        with vector(num_envs=5) as env:
            env.reset(seed=0)
            workers = sorted(set(children()) - set(before))
            assert len(workers) == 2
            os.kill(workers[1], signal.SIGKILL)
            if not busy:
                assert stuck([workers[1]]) == []
            with pytest.raises(RuntimeError, match=r"^worker 1 \(arms 2 to 4\) was killed by SIGKILL"):
                go_on(env)
            assert stuck(workers) == []


SCRIPT = """
import contextlib, functools, os, sys
import gymnasium
from envs.vector.env import ArmVectorEnv

def make():  # a function of the script, which has no __main__ guard
    return gymnasium.make("ArmReach-v0", disable_env_checker=True)

with contextlib.closing(ArmVectorEnv(make, 4, 2)) as env:
    env.reset(seed=0)
    actions = env.action_space.sample()
    try:
        print("ready", flush=True)
        while True:
            env.step(actions)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
if sys.argv[1] == "forget":
    env = ArmVectorEnv(make, 4, 2)
"""


def script(tmp_path: Path, *words: str) -> "subprocess.Popen[str]":
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, path, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


class TestClosing:
    """Release of processes and memory."""

    def test_close_is_idempotent_and_ends_all_use(self) -> None:
        """Closing twice is allowed; every later use raises RuntimeError."""
        env = ArmVectorEnv(maker(), 2, 1)
        env.reset(seed=0)
        actions = draw(env, 1)[0]
        env.close()
        env.close()
        for use in (env.reset, env.save_state, lambda: env.step(actions), lambda: env.restore_state([{}, {}])):
            with pytest.raises(RuntimeError, match="this environment is closed"):
                use()

    def test_garbage_collection_ends_the_workers(self) -> None:
        """Deleting the last reference ends all workers."""
        before = set(children())
        env = ArmVectorEnv(maker(), 2, 2)
        workers = list(set(children()) - before)
        assert len(workers) == 2
        del env
        assert stuck(workers) == []

    def test_shared_memory_is_anonymous(self) -> None:
        """Shared memory is a deleted memfd, so that nothing can remain in /dev/shm."""
        before = set(children())
        with vector():
            for worker in set(children()) - before:
                maps = Path(f"/proc/{worker}/maps").read_text()
                assert "/memfd:arms (deleted)" in maps
                assert "/dev/shm" not in maps

    def test_workers_use_one_thread_of_each_library(self) -> None:
        """OMP_NUM_THREADS and OPENBLAS_NUM_THREADS are 1 in every worker."""

        class ThreadSettings(ArmEnv):
            def save_state(self) -> Any:
                return os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]

        with vector(functools.partial(ThreadSettings, "reach")) as env:
            assert env.save_state() == [("1", "1")] * NUM_ENVS

    @pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
    def test_workers_end_with_a_killed_parent(self, tmp_path: Path, ending: signal.Signals) -> None:
        """SIGKILL or SIGTERM of the parent ends the workers without output."""
        with script(tmp_path, "run") as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "ready\n"
            workers = children(parent.pid)
            assert len(workers) == 2
            parent.send_signal(ending)
            parent.wait(10)
            assert stuck(workers) == []
            assert parent.stderr is not None
            assert parent.stderr.read() == ""

    @pytest.mark.parametrize("word", ["run", "forget"])
    def test_only_the_parent_handles_ctrl_c(self, tmp_path: Path, word: str) -> None:
        """SIGINT of the group interrupts the parent only, which ends with code 0 and without output of workers."""
        with script(tmp_path, word) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "ready\n"
            workers = children(parent.pid)
            for process in workers:
                os.kill(process, signal.SIGINT)  # workers ignore a signal of their own too
            os.killpg(parent.pid, signal.SIGINT)
            out, err = parent.communicate(timeout=20)
            assert (out, err, parent.returncode) == ("interrupted\n", "", 0)
            assert stuck(workers) == []
