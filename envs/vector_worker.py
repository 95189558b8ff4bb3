"""The other side of ArmVectorEnv: a worker process, and the memory that it shares with its caller."""

import mmap
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Observations = dict[str, Array]
Record = np.dtype[np.void]

# Waking a core that has gone to sleep takes some 50 us, as much as a step of an arm. The caller of `step` is back
# within about this time if it does no more than choose actions.
SPIN_S = 200e-6


class SharedArms:
    """Views (arms, ...) of what some arms share: the last observations and infos, those at an episode's end, and so on.

    The memory is a record an arm, as `record_of` makes it.
    """

    def __init__(self, memory_fd: int, record: Record, arms: slice = slice(None)) -> None:
        records = np.frombuffer(mmap.mmap(memory_fd, 0), record)[arms]
        self.observation, self.final_observation, self.info, self.final_info = (
            {key: records[part][key] for key in records[part].dtype.names or ()}
            for part in ("observation", "final_observation", "info", "final_info")
        )
        self.reward: Array = records["reward"]
        self.terminated: Array = records["terminated"]
        self.truncated: Array = records["truncated"]
        self.action: Array = records["action"]


def record_of(observation: Record, info: Record, action: Array) -> Record:
    """The record of an arm with such observations, infos and actions."""
    return np.dtype(
        [
            ("observation", observation),
            ("final_observation", observation),
            ("info", info),
            ("final_info", info),
            ("reward", np.float64),
            ("terminated", np.bool_),
            ("truncated", np.bool_),
            ("action", action.dtype, action.shape),
        ],
        align=True,
    )


@dataclass(frozen=True)
class Failure:
    """An arm's error, on its way to the caller."""

    error: Exception
    trace: str


def serve(connection_fd: int, memory_fd: int) -> None:
    """Do what the caller's messages (a method of `Worker`, its arguments) ask for, until the caller is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(connection_fd)
    worker = Worker(memory_fd)
    ready = select.poll()
    ready.register(connection_fd, select.POLLIN)
    try:
        while True:
            _spin(ready)
            name, *arguments = pickle.loads(connection.recv_bytes())
            try:
                reply = pickle.dumps(getattr(worker, name)(*arguments))
            except Exception as error:
                reply = pickle.dumps(_failure(error, f"arm {worker.arm} (worker {worker.number})"))
            connection.send_bytes(reply)
    except (EOFError, OSError):
        pass
    finally:
        worker.close()


class Worker:
    """Some of the arms. What they give goes into the shared memory."""

    def __init__(self, memory_fd: int) -> None:
        self.number = self.arm = 0  # of this worker, and of the arm at work: for errors
        self._memory_fd = memory_fd
        self._arms = range(0)
        self._envs: list[gymnasium.Env[Any, Any]] = []

    def make(self, make_env: bytes, number: int, arms: range, record: Record) -> None:
        """Make these of all the arms, by a pickled function."""
        self.number, self._arms = number, arms
        self._shared = SharedArms(self._memory_fd, record, slice(arms.start, arms.stop))
        os.close(self._memory_fd)
        for self.arm in arms:
            self._envs.append(pickle.loads(make_env)())

    def reset(self, seeds: list[int | None], options: dict[str, Any] | None) -> None:
        """Reset each arm with its seed."""
        for place, env, seed in self._each(seeds):
            self._put(place, *env.reset(seed=seed, options=options))

    def step(self, dtype: str) -> None:
        """Step each arm by its action, an array or number of this dtype, and reset it if its episode has ended."""
        shared = self._shared
        for place, env, action in self._each(shared.action.astype(dtype)):
            observation, reward, terminated, truncated, info = env.step(action)
            shared.reward[place], shared.terminated[place], shared.truncated[place] = reward, terminated, truncated
            if terminated or truncated:
                _put(shared.final_observation, place, observation)
                _put(shared.final_info, place, info)
                observation, info = env.reset()
            self._put(place, observation, info)

    def save(self) -> list[Any]:
        """The state of each arm."""
        return [env.unwrapped.save_state() for _, env, _ in self._each(self._arms)]  # type: ignore[attr-defined]

    def restore(self, states: list[Any]) -> None:
        """Bring each arm into its state."""
        for place, env, state in self._each(states):
            env.reset()  # Gymnasium's wrappers want one before the first step
            _put(self._shared.observation, place, env.unwrapped.restore_state(state))  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close the arms."""
        for env in self._envs:
            env.close()

    def _each(self, values: Iterable[Any]) -> Iterator[tuple[int, gymnasium.Env[Any, Any], Any]]:
        """Place, arm and value, one arm after the other."""
        for place, (arm, env, value) in enumerate(zip(self._arms, self._envs, values, strict=True)):
            self.arm = arm
            yield place, env, value

    def _put(self, place: int, observation: Observations, info: dict[str, Any]) -> None:
        _put(self._shared.observation, place, observation)
        _put(self._shared.info, place, info)


def _spin(ready: select.poll) -> None:
    """Stay awake for a moment, in case that the next message comes soon; others who want the core get it."""
    end = time.perf_counter() + SPIN_S
    while not ready.poll(0) and time.perf_counter() < end:
        os.sched_yield()


def _put(arrays: dict[str, Array], place: int, values: dict[str, Any]) -> None:
    if len(values) != len(arrays):
        raise ValueError(f"wanted {sorted(arrays)}, got {sorted(values)}")
    for key, array in arrays.items():
        array[place] = values[key]


def _failure(error: Exception, place: str) -> Failure:
    """The error, its text beginning with the place; of its own type, if that is one that a caller would expect."""
    kind = next((kind for kind in (ValueError, RuntimeError) if isinstance(error, kind)), None)
    text = f"{place}: {error}" if kind else f"{place}: {type(error).__name__}: {error}"
    trace = "In the worker:\n" + traceback.format_exc()
    try:
        failure = Failure(type(error)(text) if kind else RuntimeError(text), trace)
        pickle.loads(pickle.dumps(failure))
        return failure
    except Exception:  # one that is not made from its text
        return Failure((kind or RuntimeError)(text), trace)
