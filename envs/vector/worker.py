"""The worker side of ArmVectorEnv, and the layout of the memory that both sides share."""

import mmap
import os
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.vector.process import serve_calls

Array = NDArray[Any]
Observations = dict[str, Array]
Record = np.dtype[np.void]


class SharedArms:
    """Views (arms, ...) of the shared memory: actions, and the results of the last step or reset.

    The memory holds one record per arm, laid out by `record_of`.
    """

    def __init__(self, memory_fd: int, record: Record, arms: slice = slice(None)) -> None:
        records = np.frombuffer(mmap.mmap(memory_fd, 0), record)[arms]
        self.observation = _columns(records["observation"])
        self.final_observation = _columns(records["final_observation"])
        self.info = _columns(records["info"])
        self.final_info = _columns(records["final_info"])
        self.reward: Array = records["reward"]
        self.terminated: Array = records["terminated"]
        self.truncated: Array = records["truncated"]
        self.action: Array = records["action"]


def _columns(records: Array) -> dict[str, Array]:
    """Views of the fields of records, by name."""
    return {key: records[key] for key in records.dtype.names or ()}


def record_of(observation: Record, info: Record, action: Array) -> Record:
    """The layout of an arm's record, from those of its observations, infos and actions."""
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


def serve(connection_fd: int, memory_fd: int) -> None:
    """Serve calls of the methods of a `Worker` until the caller disconnects."""
    worker = Worker(memory_fd)
    serve_calls(connection_fd, worker, lambda: f"arm {worker.arm} (worker {worker.number})")


class Worker:
    """The arms of one worker process. Results are written into the shared memory."""

    def __init__(self, memory_fd: int) -> None:
        # The number of this worker and of the arm being stepped, for error messages.
        self.number = 0
        self.arm = 0
        self._memory_fd = memory_fd
        self._arms = range(0)
        self._envs: list[gymnasium.Env[Any, Any]] = []

    def make(self, make_env: bytes, number: int, arms: range, record: Record) -> None:
        """Make the environments of these arms with a pickled function."""
        self.number = number
        self._arms = arms
        self._shared = SharedArms(self._memory_fd, record, slice(arms.start, arms.stop))
        os.close(self._memory_fd)
        for self.arm in arms:
            self._envs.append(pickle.loads(make_env)())

    def reset(self, seeds: list[int | None], options: dict[str, Any] | None) -> None:
        """Reset each arm with its seed."""
        for place, env, seed in self._each(seeds):
            self._put(place, *env.reset(seed=seed, options=options))

    def step(self, dtype: str) -> None:
        """Step each arm by its action, of this dtype, and reset it if its episode has ended."""
        shared = self._shared
        for place, env, action in self._each(shared.action.astype(dtype)):
            observation, reward, terminated, truncated, info = env.step(action)
            shared.reward[place] = reward
            shared.terminated[place] = terminated
            shared.truncated[place] = truncated
            # Same-step autoreset: keep the last observation, and return the first of the next episode.
            if terminated or truncated:
                _put(shared.final_observation, place, observation)
                _put(shared.final_info, place, info)
                observation, info = env.reset()
            self._put(place, observation, info)

    def save(self) -> list[Any]:
        """The state of each arm."""
        return [env.unwrapped.save_state() for _, env, _ in self._each(self._arms)]  # type: ignore[attr-defined]

    def restore(self, states: list[Any]) -> None:
        """Restore the state of each arm."""
        for place, env, state in self._each(states):
            env.reset()  # Gymnasium's wrappers require one before the first step
            _put(self._shared.observation, place, env.unwrapped.restore_state(state))  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close the arms."""
        for env in self._envs:
            env.close()

    def _each(self, values: Iterable[Any]) -> Iterator[tuple[int, gymnasium.Env[Any, Any], Any]]:
        """Index in this worker, environment and value of each arm; `arm` is set meanwhile."""
        for place, (arm, env, value) in enumerate(zip(self._arms, self._envs, values, strict=True)):
            self.arm = arm
            yield place, env, value

    def _put(self, place: int, observation: Observations, info: dict[str, Any]) -> None:
        _put(self._shared.observation, place, observation)
        _put(self._shared.info, place, info)


def _put(arrays: dict[str, Array], place: int, values: dict[str, Any]) -> None:
    if len(values) != len(arrays):
        raise ValueError(f"expected {sorted(arrays)}, got {sorted(values)}")
    for key, array in arrays.items():
        array[place] = values[key]
