"""ArmVectorEnv: many arms at once, several in each worker process, over shared memory."""

import copy
import itertools
import math
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.vector.process import START_S, Failure, WorkerProcess, end_all, message
from envs.vector.worker import Array, Observations, Record, SharedArms, record_of, serve

MakeEnv = Callable[[], gymnasium.Env[Any, Any]]

ACTION_SLACK = 1e-3  # as envs.actions.ROUNDING_DEG: rounding of actions to float32


class ArmVectorEnv(VectorEnv[Observations, Any, Array]):
    """`num_envs` environments of `make_env`, divided among `processes` worker processes.

        make_env = functools.partial(gymnasium.make, "ArmReach-v0", disable_env_checker=True)
        with contextlib.closing(ArmVectorEnv(make_env, num_envs=16, processes=2)) as env:
            observations, infos = env.reset(seed=0)
            observations, rewards, terminated, truncated, infos = env.step(env.action_space.sample())

    Each arm moves bit for bit as it would alone, whatever the number of processes. cloudpickle must be able to send
    `make_env`; functions of a script and lambdas are fine. Its environments must have a `Dict` of `Box` as observation
    space, a `Box`, `Discrete` or `MultiDiscrete` as action space, and numbers as infos, under the same keys at each
    step. With `save_state` and `restore_state` as in `ArmEnv`, all arms can be saved and restored.

    | returned | | |
    |---|---|---|
    | observations | a dict of (arms, ...) | as `observation_space` says |
    | rewards | (arms,) float64 | |
    | terminated, truncated | (arms,) bool | |
    | infos | a dict of (arms,) | such as `distance_m` (m) and `is_success`, and for each key its mask `_key` |

    All arrays are copies, which are not written to later.

    **Autoreset** is Gymnasium's SAME_STEP: an arm whose episode ends is reset within the step. `observations` and
    `infos` are then those of its new episode. The last ones of the old episode are in `infos["final_obs"]` (an object
    array: a dict for each arm that ended, otherwise None) and `infos["final_info"]`, with the masks `_final_obs` and
    `_final_info`.

    **Errors.** Bad actions, seeds or numbers of states raise a ValueError that names the arm, before any arm moves. An
    error in an arm's environment is raised here, as ValueError if it is one, otherwise as RuntimeError. After one in
    `reset`, `save_state` or `restore_state` the environment stays open, though some arms may already be reset or
    restored; one in `step` closes it, as does Ctrl-C during a call. A worker that dies, or does not respond within
    `timeout_s`, raises a RuntimeError with the cause and closes the environment; a closed one raises RuntimeError.

    The workers are in process groups of their own, so that only the caller receives Ctrl-C, and exit whenever the
    caller does. The shared memory is anonymous: nothing remains in /dev/shm.
    """

    def __init__(self, make_env: MakeEnv, num_envs: int, processes: int = 1, *, timeout_s: float = 60.0) -> None:
        """Start the workers and make the arms. One more arm is made and closed here, for its spaces and infos."""
        # Check the arguments before a process is started.
        for name, value in (("arms", num_envs), ("processes", processes)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"expected a positive number of {name}, got {value!r}")
        if processes > num_envs:
            raise ValueError(f"expected at least one arm a process, got {num_envs} arms for {processes} processes")
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"expected a positive timeout in seconds, got {timeout_s}")
        try:
            pickled = cloudpickle.dumps(make_env)
        except Exception as error:
            raise ValueError(f"expected a make_env that can be sent to a process, got {make_env!r}: {error}") from error
        # The spaces, and the layout of the shared memory.
        record = self._inspect(make_env)
        self.num_envs = int(num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._timeout_s = max(timeout_s, START_S)
        self._was_reset = False
        self._why_closed = ""
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, end_all, self._workers, os.getpid())
        # One record of shared memory for each arm, and consecutive arms for each worker.
        memory = os.memfd_create("arms")
        try:
            os.ftruncate(memory, self.num_envs * record.itemsize)
            self._shared = SharedArms(memory, record)
            bounds = [self.num_envs * number // int(processes) for number in range(int(processes) + 1)]
            for number, (first, end) in enumerate(itertools.pairwise(bounds)):
                self._workers.append(_Worker(number, range(first, end), memory))
            self._ask([message("make", pickled, worker.number, worker.arms, record) for worker in self._workers])
            self._timeout_s = timeout_s
        except BaseException:
            self.close()
            raise
        finally:
            os.close(memory)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start an episode of each arm. Arm k gets the seed `seed` + k or `seed[k]`; all get the same `options`."""
        seeds = self._seeds(seed)
        self._ask([message("reset", worker.part_of(seeds), options) for worker in self._workers])
        self._was_reset = True
        return _copied(self._shared.observation), self._infos(self._shared.info)

    def step(self, actions: Any) -> tuple[Observations, Array, Array, Array, dict[str, Any]]:
        """Run one control period of each arm by actions (arms, ...). A bad one is a ValueError that names the arm."""
        self._check_open()
        if not self._was_reset:
            raise gymnasium.error.ResetNeeded("expected a reset before the first step")
        array = self._checked(actions)
        # Let all workers step their arms, with actions in the caller's dtype, as a single environment would get them.
        shared = self._shared
        shared.action[...] = array
        self._ask([message("step", array.dtype.str)] * len(self._workers), fatal=True)
        # Copy the results out of the shared memory; for ended episodes also the last observations and infos.
        terminated = shared.terminated.copy()
        truncated = shared.truncated.copy()
        infos = self._infos(shared.info)
        ended = terminated | truncated
        if ended.any():
            infos |= self._final_infos(ended)
        return _copied(shared.observation), shared.reward.copy(), terminated, truncated, infos

    def save_state(self) -> list[Any]:
        """The complete state of all arms: each arm's `save_state`, in order."""
        states: list[Any] = []
        for states_of_worker in self._ask([message("save")] * len(self._workers)):
            states.extend(states_of_worker)
        return states

    def restore_state(self, states: Sequence[Any]) -> Observations:
        """Restore states of `save_state`, with any number of processes, and return their observations.

        The continuation is bit-exact.
        """
        if len(states) != self.num_envs:
            raise ValueError(f"expected the states of {self.num_envs} arms, got {len(states)}")
        self._ask([message("restore", worker.part_of(states)) for worker in self._workers])
        self._was_reset = True
        return _copied(self._shared.observation)

    def close_extras(self, **_: Any) -> None:
        """End the workers and release the shared memory; called by `close`."""
        self._finalizer()
        vars(self).pop("_shared", None)

    def _inspect(self, make_env: MakeEnv) -> Record:
        """Take the spaces from one environment, and return the layout of an arm's record in shared memory."""
        env = make_env()
        try:
            if env.render_mode is not None:
                raise ValueError(f"expected arms without a render mode, got '{env.render_mode}': many are not shown")
            self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
            self.single_observation_space = env.observation_space
            self.single_action_space = env.action_space
            self._low, self._high = _bounds(env.action_space)
            observation = _observation_record(env.observation_space)
            info = _info_record(env.reset(seed=0)[1])
            following = _info_record(env.step(copy.deepcopy(env.action_space).sample())[4])
            if info != following:
                raise ValueError(f"expected the same infos at each step, got {info} after reset and then {following}")
        finally:
            env.close()
        return record_of(observation, info, self._low)

    def _seeds(self, seed: Any) -> list[int | None]:
        """The seed of each arm. Raises ValueError, naming the arm, for a bad one."""
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + arm for arm in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} seeds, one an arm, got {len(seeds)}")
        for arm, value in enumerate(seeds):
            if value is not None and (not isinstance(value, int | np.integer) or value < 0):
                raise ValueError(f"arm {arm}: expected a seed from 0, or None, got {value!r}")
        return seeds

    def _checked(self, actions: Any) -> Array:
        """The actions (arms, ...) as an array of numbers. Raises ValueError for bad ones."""
        array = _array(actions)
        fine = array.shape[:1] == (self.num_envs,) and self._good(array, array.shape[1:])
        # Check each row of a list as well: its array does not show the types of the rows.
        if not fine or array is not actions:
            self._check_each(actions)
        if not fine:
            raise ValueError(f"expected actions of one kind, got {actions!r}")
        return array

    def _good(self, actions: Array, shape: tuple[int, ...]) -> bool:
        """Return True if actions (..., *shape) have the shape, type and range of the action space."""
        kinds = "fiu" if self._low.dtype.kind == "f" else "iu"
        if shape != self._low.shape or actions.dtype.kind not in kinds or actions.itemsize > 8:
            return False
        return bool(((actions >= self._low) & (actions <= self._high)).all())  # NaN compares as false

    def _check_each(self, actions: Any) -> None:
        """Raise ValueError for the first bad action, naming the arm, what is expected and what was given."""
        space = self.single_action_space
        expected = f"expected an action of {space}"
        if isinstance(space, spaces.Box):
            expected = f"expected an action of shape {space.shape} from {space.low.tolist()} to {space.high.tolist()}"
        try:
            rows = list(actions)
        except TypeError:  # not a sequence
            rows = []
        if len(rows) != self.num_envs:
            raise ValueError(f"{expected} for each of {self.num_envs} arms, got {len(rows) or actions!r} actions")
        for arm, row in enumerate(rows):
            action = _array(row)
            if not self._good(action, action.shape):
                raise ValueError(f"arm {arm}: {expected}, got {row.tolist() if isinstance(row, np.ndarray) else row!r}")

    def _ask(self, messages: list[bytes], *, fatal: bool = False) -> list[Any]:
        """Send each worker its message and wait for all replies. With `fatal`, an error closes the environment."""
        self._check_open()
        try:
            for worker, message in zip(self._workers, messages, strict=True):
                worker.send(message)
            replies = [worker.receive(self._timeout_s) for worker in self._workers]
        except BaseException as error:  # also Ctrl-C: replies that are still to come would be taken for later ones
            self._close_because(error)
            raise
        failure = next((reply for reply in replies if isinstance(reply, Failure)), None)
        if failure is None:
            return replies
        if fatal:
            self._close_because(failure.error)
        try:
            raise failure.noted()
        finally:
            del replies, failure  # break the reference cycle of the error and this frame

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise RuntimeError(f"this environment is closed{self._why_closed}")

    def _close_because(self, error: BaseException) -> None:
        self._why_closed = f": {str(error) or type(error).__name__}"
        self.close()

    def _infos(self, shared: dict[str, Array], arms: Array | None = None) -> dict[str, Any]:
        """Infos in Gymnasium's form: each with a mask of the arms that have it (by default all); 0 for the others."""
        infos: dict[str, Any] = {}
        for key, array in shared.items():
            infos[key] = array.copy()
            if arms is None:
                infos[f"_{key}"] = np.ones(self.num_envs, np.bool_)
            else:
                infos[key][~arms] = 0
                infos[f"_{key}"] = arms.copy()
        return infos

    def _final_infos(self, ended: Array) -> dict[str, Any]:
        """The last observations and infos of the episodes that ended, in Gymnasium's form."""
        final = _copied(self._shared.final_observation)
        observations = np.full(self.num_envs, None, np.object_)
        for arm in np.flatnonzero(ended).tolist():
            observations[arm] = {key: array[arm] for key, array in final.items()}
        return {
            "final_obs": observations,
            "_final_obs": ended.copy(),
            "final_info": self._infos(self._shared.final_info, ended),
            "_final_info": ended.copy(),
        }


class _Worker(WorkerProcess):
    """The caller's end of a worker process and of its arms."""

    def __init__(self, number: int, arms: range, memory: int) -> None:
        self.number = number
        self.arms = arms
        which = f"arm {arms[0]}" if len(arms) == 1 else f"arms {arms[0]} to {arms[-1]}"
        super().__init__(f"worker {number} ({which})", serve, memory)

    def part_of(self, values: Sequence[Any]) -> list[Any]:
        """The values of this worker's arms, from those of all arms."""
        return list(values[self.arms.start : self.arms.stop])


def _array(value: Any) -> Array:
    try:
        return np.asarray(value)
    except ValueError:  # rows of different lengths
        return np.array(None)


def _copied(arrays: Observations) -> Observations:
    return {key: array.copy() for key, array in arrays.items()}


def _observation_record(space: spaces.Space[Any]) -> Record:
    if not isinstance(space, spaces.Dict) or not all(isinstance(box, spaces.Box) for box in space.values()):
        raise ValueError(f"expected a Dict of Box as observation space, got {space}")
    return np.dtype([(key, box.dtype, box.shape) for key, box in space.items()])


def _info_record(info: dict[str, Any]) -> Record:
    arrays = {key: np.asarray(value) for key, value in info.items()}
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"expected infos that are numbers, got {key} = {info[key]!r}")
    return np.dtype([(key, array.dtype, array.shape) for key, array in arrays.items()])


def _bounds(space: spaces.Space[Any]) -> tuple[Array, Array]:
    """The lowest and the highest accepted action."""
    if isinstance(space, spaces.Box):
        return space.low.astype(np.float64) - ACTION_SLACK, space.high.astype(np.float64) + ACTION_SLACK
    if isinstance(space, spaces.Discrete):
        return np.array(space.start), np.array(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return np.array(space.start), np.array(space.start + space.nvec - 1)
    raise ValueError(f"expected a Box, Discrete or MultiDiscrete as action space, got {space}")
