"""ArmVectorEnv: each arm is what it would be alone, Gymnasium's own formats, and no way to hang or leave anything."""

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

ARMS = 3
Make = Callable[[], gymnasium.Env[Any, Any]]


def maker(name: str = "ArmReach-v0", **settings: Any) -> Make:
    """Episodes of 4 steps, so that a few steps see several of them."""
    return functools.partial(gymnasium.make, name, disable_env_checker=True, **{"episode_steps": 4, **settings})


@contextlib.contextmanager
def vector(make: Make | None = None, arms: int = ARMS, processes: int = 2, **settings: Any) -> Iterator[ArmVectorEnv]:
    with contextlib.closing(ArmVectorEnv(make or maker(), arms, processes, **settings)) as env:
        yield env


@contextlib.contextmanager
def sync(make: Make | None = None, arms: int = ARMS) -> Iterator[Any]:
    with contextlib.closing(SyncVectorEnv([make or maker()] * arms, autoreset_mode=AutoresetMode.SAME_STEP)) as env:
        yield env


def draw(env: Any, steps: int, seed: int = 0) -> list[Any]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(steps)]


def plain(value: Any) -> Any:
    """The same as comparable objects, to the last bit: arrays with their dtype and shape."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return [plain(part) for part in value] if isinstance(value, tuple) else value


def left() -> tuple[list[int], int]:
    """What an environment might leave behind: child processes and open files, its shared memory among them."""
    return sorted(children()), len([*Path("/proc/self/fd").iterdir()])


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with contextlib.closing(ArmEnv("reach")):  # PyBullet's own first time
        before = left()
    yield
    assert left() == before


# The same as without it


@pytest.mark.parametrize("name", environment_ids())
def test_everything_that_it_returns_is_what_gymnasiums_own_returns(name: str) -> None:
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


def test_the_end_of_an_episode_has_gymnasiums_same_step_format() -> None:
    with vector(maker()) as env, sync(maker()) as other:
        for each in (env, other):
            each.reset(seed=1)
        for actions in draw(env, 4):
            ours, gymnasiums = env.step(actions), other.step(actions)
        assert ours[3].all()
        assert ours[4].keys() == gymnasiums[4].keys()
        assert {"final_obs", "_final_obs", "final_info", "_final_info"} <= ours[4].keys()
        assert plain(ours) == plain(gymnasiums)


class Uneven(ArmEnv):
    """Ends early, terminated, where the goal is on the left: arms then end at different steps."""

    def step(self, action: Any) -> Any:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, self._steps >= 2 and self._goal[0] < 0.2, truncated, info | {"steps": self._steps}

    def reset(self, **keywords: Any) -> Any:
        observation, info = super().reset(**keywords)
        return observation, info | {"steps": 0}


@pytest.mark.slow
def test_arms_that_end_at_different_steps_terminated_or_truncated() -> None:
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
def test_each_arm_is_bit_for_bit_the_same_arm_alone_whatever_the_number_of_processes(name: str) -> None:
    make, seeds, steps = maker(name), [11, 12, 13], 10
    histories = []
    for processes in (1, 3):
        with vector(make, processes=processes) as env:
            history = [env.reset(seed=11)]
            moves = draw(env, steps)
            history += [env.step(actions) for actions in moves]
            histories.append(plain(tuple(history)))
    assert histories[0] == histories[1]

    for arm, seed in enumerate(seeds):
        alone = make()
        observation, info = alone.reset(seed=seed)
        for step, row in enumerate(history):
            if step:
                observation, reward, terminated, truncated, info = alone.step(moves[step - 1][arm])
                assert (row[1][arm], row[2][arm], row[3][arm]) == (reward, terminated, truncated)
                if terminated or truncated:
                    assert plain(row[4]["final_obs"][arm]) == plain(observation)
                    assert row[4]["final_info"]["distance_m"][arm] == info["distance_m"]
                    observation, info = alone.reset()
            assert plain({key: value[arm] for key, value in row[0].items()}) == plain(observation)
            assert {key: row[-1][key][arm] for key in info} == info
        alone.close()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i8", "u1"])
def test_an_arm_gets_its_action_in_the_callers_own_dtype(dtype: str) -> None:
    actions = np.random.default_rng(0).uniform(0, 90, (ARMS, 3)).astype(dtype)
    with vector() as env, sync() as other:
        for each in (env, other):
            each.reset(seed=2)
        assert plain(env.step(actions)) == plain(other.step(actions))


def test_lists_of_actions_are_fine() -> None:
    with vector() as env, sync() as other:
        for each in (env, other):
            each.reset(seed=2)
        assert plain(env.step([[1.0, 2.0, 3.0]] * ARMS)) == plain(other.step(np.array([[1.0, 2.0, 3.0]] * ARMS)))


def test_reset_options_reach_every_arm() -> None:
    options = {"angles_deg": (10.0, 20.0, 30.0)}
    with vector() as env, sync() as other:
        assert plain(env.reset(seed=4, options=options)) == plain(other.reset(seed=4, options=options))
        assert len({row.tobytes() for row in env.reset(options=options)[0]["observation"]}) == 1


def test_what_it_returned_is_never_written_to_again() -> None:
    with vector() as env:
        returned = [env.reset(seed=0)]
        before = [plain(returned[0])]
        for actions in draw(env, 9):
            returned.append(env.step(actions))
            before.append(plain(returned[-1]))
        env.reset(seed=1)
        assert [plain(each) for each in returned] == before
        returned[-1][0]["observation"][:] = 0  # and is the caller's to write to
        assert env.save_state()


def test_states_are_restored_to_the_bit_by_any_number_of_processes() -> None:
    with vector(maker(episode_steps=7)) as env, vector(maker(episode_steps=7), processes=1) as other:
        env.reset(seed=21)
        moves = draw(env, 20)
        for actions in moves[:5]:
            observations = env.step(actions)[0]
        states = pickle.loads(pickle.dumps(env.save_state()))
        followed = [plain(env.step(actions)) for actions in moves[5:]]
        assert len(states) == ARMS
        for each in (env, other):
            assert plain(each.restore_state(states)) == plain(observations)
            assert [plain(each.step(actions)) for actions in moves[5:]] == followed
        with pytest.raises(ValueError, match="expected the states of 3 arms, got 2"):
            env.restore_state(states[:2])


class Odd(ArmEnv):
    """Other infos, one of them an array."""

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


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Odd, Bare])
def test_infos_may_be_any_numbers(kind: type[ArmEnv]) -> None:
    make = functools.partial(kind, "reach", episode_steps=3)
    with vector(make) as env, sync(make) as other:
        assert plain(env.reset(seed=0)) == plain(other.reset(seed=0))
        for actions in draw(env, 4):
            assert plain(env.step(actions)) == plain(other.step(actions))


def test_functions_of_a_script_and_lambdas_will_do() -> None:
    with vector(lambda: gymnasium.make("ArmReach-v0", disable_env_checker=True)) as env:
        env.reset(seed=0)


# What is refused


@pytest.mark.parametrize(
    ("arms", "processes", "message"),
    [
        (0, 1, "expected a positive number of arms, got 0"),
        (2, 0, "expected a positive number of processes, got 0"),
        (2.0, 1, r"expected a positive number of arms, got 2\.0"),
        (True, 1, "expected a positive number of arms, got True"),
        (2, 3, "expected at least one arm a process, got 2 arms for 3 processes"),
    ],
)
def test_bad_numbers_are_refused(arms: Any, processes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArmVectorEnv(maker(), arms, processes)


class Flat(ArmEnv):
    def __init__(self) -> None:
        super().__init__("reach")
        self.observation_space = self.observation_space["observation"]  # type: ignore[assignment]


class Wordy(Bare):
    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {"said": "hello"}


class Late(Bare):
    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {"late": 1.0}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (maker(reward="shaped"), ValueError, "reward"),
        (maker("Nowhere-v0"), gymnasium.error.NameNotFound, "Nowhere"),
        (Flat, ValueError, "expected a Dict of Box as observation space, got Box"),
        (functools.partial(Wordy, "reach"), ValueError, "expected infos that are numbers, got said = 'hello'"),
        (functools.partial(Late, "reach"), ValueError, "expected the same infos at each step"),
        (maker(render_mode="rgb_array"), ValueError, "expected arms without a render mode, got 'rgb_array'"),
        (functools.partial(ArmEnv, "reach", arm=(x for x in ())), ValueError, "expected a make_env that can be sent"),
    ],
    ids=range(7),
)
def test_bad_environments_are_refused(make: Make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ArmVectorEnv(make, ARMS, 2)


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


@pytest.mark.parametrize("name", ["ArmReach-v0", "ArmReachDiscrete-v0", "ArmReachMultiDiscrete-v0"])
def test_a_bad_action_is_refused_before_any_arm_steps_and_the_arm_is_named(name: str) -> None:
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


def test_actions_on_the_edge_are_accepted_with_what_float32_may_add() -> None:
    with vector() as env:
        env.reset(seed=0)
        env.step(env.action_space.low)
        env.step(env.action_space.high)
        env.step(np.full((ARMS, 3), 90.0009))
        with pytest.raises(ValueError, match="arm 0"):
            env.step(np.full((ARMS, 3), 90.002))


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        ([1, 2], "expected 3 seeds, one an arm, got 2"),
        (-1, "arm 0: expected a seed from 0, or None, got -1"),
        ([0, 1, 1.5], r"arm 2: expected a seed from 0, or None, got 1\.5"),
    ],
)
def test_bad_seeds_are_refused(seed: Any, message: str) -> None:
    with vector() as env, pytest.raises(ValueError, match=message):
        env.reset(seed=seed)


def test_a_step_before_the_first_reset_is_refused() -> None:
    with vector() as env, pytest.raises(gymnasium.error.ResetNeeded):
        env.step(draw(env, 1)[0])


def test_an_arms_own_refusal_of_reset_options_names_it_and_changes_nothing() -> None:
    with vector() as env, vector() as other:
        for each in (env, other):
            each.reset(seed=6)
        with pytest.raises(ValueError, match=r"^arm 0 \(worker 0\): expected reset options") as caught:
            env.reset(options={"wrong": 1})
        assert "Traceback" in caught.value.__notes__[0]
        for actions in draw(env, 5):
            assert plain(env.step(actions)) == plain(other.step(actions))


# Ends


class Faulty(ArmEnv):
    """Does what the goal's file says when it is stepped, except in the process that `own` names."""

    def __init__(self, own: int, fault: str) -> None:
        super().__init__("reach")
        self.own, self.fault = own, fault
        if fault == "make" and os.getpid() != own:
            raise RuntimeError("no arm today")

    def reset(self, **keywords: Any) -> Any:
        if self.fault == "reset" and os.getpid() != self.own:
            raise KeyError("no reset today")
        return super().reset(**keywords)

    def step(self, action: Any) -> Any:
        if os.getpid() != self.own and action[0] > 80:
            if self.fault == "raise":
                raise OSError("the motor burns")
            if self.fault == "exit":
                os._exit(3)
            if self.fault == "hang":
                time.sleep(1000)
        return super().step(action)


def faulty(fault: str) -> Make:
    return functools.partial(Faulty, os.getpid(), fault)


@pytest.mark.slow
def test_an_error_while_the_arms_are_made_in_a_worker() -> None:
    with pytest.raises(RuntimeError, match=r"^arm [02] \(worker [01]\): no arm today\n"):
        ArmVectorEnv(faulty("make"), 4, 2)


@pytest.mark.slow
def test_another_kind_of_error_is_a_runtime_error_and_a_failed_reset_leaves_it_open() -> None:
    with vector(faulty("reset")) as env:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"^arm 0 \(worker 0\): KeyError: 'no reset today'\n"):
                env.reset(seed=0)
        assert len(env.save_state()) == ARMS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", r"^arm 2 \(worker 1\): OSError: the motor burns"),
        ("exit", r"^worker 1 \(arms 1 to 2\) ended with exit code 3"),
        ("hang", r"^worker 1 \(arms 1 to 2\) has not answered for 2 s"),
    ],
)
def test_a_worker_that_fails_in_a_step_closes_all_and_says_why(fault: str, message: str) -> None:
    with vector(faulty(fault), timeout_s=2 if fault == "hang" else 60) as env:
        env.reset(seed=0)
        with pytest.raises(RuntimeError, match=message):
            env.step(np.array([[0, 0, 0], [0, 0, 0], [90, 0, 0]], np.float32))
        assert env.closed
        with pytest.raises(RuntimeError, match=f"this environment is closed: {message[1:]}"):
            env.reset()


def go_on(env: ArmVectorEnv) -> None:
    for actions in draw(env, 100):
        env.step(actions)


@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_worker_is_named_and_takes_the_others_with_it(busy: bool) -> None:
    before = children()
    with vector(arms=5) as env:
        env.reset(seed=0)
        workers = sorted(set(children()) - set(before))
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        if not busy:
            assert stuck([workers[1]]) == []
        with pytest.raises(RuntimeError, match=r"^worker 1 \(arms 2 to 4\) was killed by SIGKILL"):
            go_on(env)
        assert stuck(workers) == []


def test_closing_twice_is_fine_and_a_closed_one_says_so() -> None:
    env = ArmVectorEnv(maker(), 2, 1)
    env.reset(seed=0)
    actions = draw(env, 1)[0]
    env.close()
    env.close()
    for use in (env.reset, env.save_state, lambda: env.step(actions), lambda: env.restore_state([{}, {}])):
        with pytest.raises(RuntimeError, match="this environment is closed"):
            use()


def test_one_that_is_forgotten_is_closed() -> None:
    before = set(children())
    env = ArmVectorEnv(maker(), 2, 2)
    workers = list(set(children()) - before)
    assert len(workers) == 2
    del env
    assert stuck(workers) == []


def test_the_shared_memory_has_no_name_that_could_be_left_in_dev_shm() -> None:
    before = set(children())
    with vector():
        for worker in set(children()) - before:
            maps = Path(f"/proc/{worker}/maps").read_text()
            assert "/memfd:arms (deleted)" in maps
            assert "/dev/shm" not in maps


def test_a_worker_has_one_thread_of_each_kind() -> None:
    class Asking(ArmEnv):
        def save_state(self) -> Any:
            return os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]

    with vector(functools.partial(Asking, "reach")) as env:
        assert env.save_state() == [("1", "1")] * ARMS


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


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_the_workers_end_with_a_parent_that_is_killed(tmp_path: Path, ending: signal.Signals) -> None:
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
def test_ctrl_c_is_left_to_the_parent(tmp_path: Path, word: str) -> None:
    with script(tmp_path, word) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        workers = children(parent.pid)
        for process in workers:
            os.kill(process, signal.SIGINT)  # one that would get it all the same
        os.killpg(parent.pid, signal.SIGINT)
        out, err = parent.communicate(timeout=20)
        assert (out, err, parent.returncode) == ("interrupted\n", "", 0)
        assert stuck(workers) == []
