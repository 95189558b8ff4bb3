"""A3C's worker processes: each has arms of its own, and updates network parameters in shared memory.

Each call lets a worker collect steps until its next update. Asynchronous workers are called again at once, so that none
waits for another; otherwise they take turns.
"""

import contextlib
import mmap
import os
import select
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from arm_control.process.printing import counted
from arm_control.runs.config import TrainConfig
from arm_control.runs.seeding import LEARNING, TRAINING, derived_seeds
from arm_control.training.collector import Advance, Collector
from envs.vector.process import START_S, Failure, WorkerDeath, WorkerProcess, end_all, message, serve_calls
from policies.agent import ParameterSharingAgent

Memory = NDArray[np.uint8]

ANSWER_S = 600.0  # timeout of a worker's update
DEATHS_IN_A_ROW = 5  # of workers at one place without an update in between, after which the training fails


class Workers:
    """Several collectors in worker processes with shared parameters, with the methods of `Collector`.

    The first steps, to which the input normaliser is fitted, are made in this process; then the workers are started. A
    worker that dies is replaced by another, with new arms.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._count = config.settings.worker_processes
        self._memory = -1
        self._first = _make_collector(config, 0, self._shared_memory, first=True)
        assert isinstance(self._first.agent, ParameterSharingAgent)
        self._agent = self._first.agent
        self._workers: dict[int, WorkerProcess] = {}
        self._busy: set[int] = set()
        self._started = 0  # number of workers so far, replaced ones included
        self._number = [-1] * self._count  # of the worker at each place, among those; its seeds depend on it
        self._turn = 0
        self._late: list[Advance] = []
        self._deaths = [0] * self._count  # at each place since the last update there
        self.replaced = 0
        self._finalizer = weakref.finalize(self, end_all, self._workers.values(), os.getpid())

    def _shared_memory(self, size: int) -> Memory:
        """Anonymous shared memory of so many bytes, of which nothing remains after exit."""
        self._memory = os.memfd_create("parameters")
        os.ftruncate(self._memory, size)
        return _view(self._memory)

    def advance(self, progress: Callable[[int], float]) -> Advance:
        """Wait for the next worker that completes an update (asynchronous), or let the next one make one (in turns)."""
        # Fit the input normaliser in this process, then start the workers.
        if not self._agent.normalizer_fitted:
            return self._first.advance(progress)
        if not self._workers:
            self._start(dict.fromkeys(range(self._count)))
        # Return progress that was made before a pause.
        if self._late:
            return self._late.pop()
        if self._config.settings.asynchronous:
            # Let all workers run, and take the first that completes an update.
            for place in set(self._workers) - self._busy:
                self._begin(place, progress(0))
            place = self._wait()
        else:
            # Let one worker run, each in its turn.
            place = self._turn
            self._turn = (self._turn + 1) % self._count
            self._begin(place, progress(0))
        return self._finish(place)

    def policy(self) -> torch.nn.Module:
        """The present policy; all workers are paused for it."""
        self._pause()
        return self._agent.policy()

    def load_networks(self, state: dict[str, Any]) -> None:
        """Start from the networks of another run's `state_dict`."""
        self._agent.load_networks(state["agent"])

    def state_dict(self) -> dict[str, Any]:
        """The complete state of all workers, which are paused for it."""
        self._pause()
        state = self._first.state_dict()
        places = range(len(self._workers))
        return state | {
            "workers": [self._saved(place) for place in places],
            "numbers": self._number,
            "started": self._started,
            "turn": self._turn,
            "replaced": self.replaced,
            "late": [[done.steps, done.updates] for done in self._late],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        if len(state["numbers"]) != self._count:
            raise ValueError(f"the checkpoint is of {counted(len(state['numbers']), 'worker')}, not of {self._count}")
        self._first.load_state_dict({key: state[key] for key in ("agent", "arm_urdf", "arms")})
        self._late = [Advance(steps, updates, {}) for steps, updates in state["late"]]
        self._number = state["numbers"]
        self._started = state["started"]
        self._turn = state["turn"]
        self.replaced = state["replaced"]
        self._start(dict(enumerate(state["workers"])))
        # Last, because each worker has loaded its own copy into the shared parameters.
        self._agent.load_state_dict(state["agent"])

    def close(self) -> None:
        """End the workers."""
        self._finalizer()
        self._first.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def _start(self, states: dict[int, dict[str, Any] | None]) -> None:
        """Start workers at these places, from saved states or, if None, with new arms and the present parameters."""
        # Start all processes, and let each make its arms and agent.
        for place, saved in states.items():
            if saved is None:
                self._number[place] = self._started
                self._started += 1
            self._workers[place] = WorkerProcess(f"worker {place}", serve, self._memory)
            arguments = (
                self._config.to_json(),
                self._number[place],
                saved,
                self._agent.state_dict() if saved is None else None,
            )
            with contextlib.suppress(WorkerDeath):  # detected below, when the reply is missing
                self._workers[place].send(message("make", *arguments))
        # Wait until all are ready.
        for place in states:
            try:
                _checked(self._workers[place].receive(START_S))
            except WorkerDeath as death:
                self._replace(place, death, states[place])

    def _begin(self, place: int, progress: float) -> None:
        with contextlib.suppress(WorkerDeath):  # detected by `_finish`
            self._workers[place].send(message("go_on", progress))
        self._busy.add(place)

    def _wait(self) -> int:
        """Wait for a worker to reply or die, and return its place."""
        poll = select.poll()
        places = {self._workers[place].fileno(): place for place in self._busy}
        for descriptor in places:
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll(1000 * ANSWER_S)
        if not ready:
            raise RuntimeError(f"no worker has completed an update for {ANSWER_S:g} s")
        return places[ready[0][0]]

    def _finish(self, place: int) -> Advance:
        """Receive a worker's progress; none if it has died and was replaced."""
        self._busy.discard(place)
        try:
            done: Advance = _checked(self._workers[place].receive(ANSWER_S))
            self._deaths[place] = 0
        except WorkerDeath as death:
            self._replace(place, death)
            done = Advance(0, 0, {})
        return done._replace(metrics=done.metrics | {"workers_replaced": self.replaced})

    def _replace(self, place: int, death: WorkerDeath, saved: dict[str, Any] | None = None) -> None:
        """Replace a dead worker. Raises RuntimeError if too many have died at its place."""
        self._deaths[place] += 1
        if self._deaths[place] >= DEATHS_IN_A_ROW:
            raise RuntimeError(f"{death}, the last of {DEATHS_IN_A_ROW} in a row without an update")
        self.replaced += 1
        dead = self._workers.pop(place)
        dead.disconnect()
        dead.join()
        self._start({place: saved})

    def _pause(self) -> None:
        """Let all workers complete their updates, whose progress is returned by the next calls of `advance`."""
        for place in sorted(self._busy):
            self._late.append(self._finish(place))

    def _saved(self, place: int) -> Any:
        """The state of a paused worker, or of its replacement if it has died."""
        while True:
            try:
                self._workers[place].send(message("save"))
                return _checked(self._workers[place].receive(ANSWER_S))
            except WorkerDeath as death:
                self._replace(place, death)


def _checked(reply: Any) -> Any:
    """Return a reply. Raises the error if it is one."""
    if isinstance(reply, Failure):
        raise reply.noted()
    return reply


def _view(memory: int) -> Memory:
    """The shared memory of a file descriptor, as an array."""
    return np.frombuffer(mmap.mmap(memory, 0), np.uint8)


def _make_collector(
    config: TrainConfig, number: int, shared_memory: Callable[[int], Memory], *, first: bool
) -> Collector:
    """The arms and the agent of the `number`-th worker; the `first` agent's parameters become the shared ones."""
    arms = config.num_envs // config.settings.worker_processes
    seeds = derived_seeds(config.seed, TRAINING, arms * (number + 1))[-arms:]
    seed = derived_seeds(config.seed, LEARNING, number + 1)[-1]
    return Collector(config, seeds, seed=seed, shared_memory=shared_memory, first=first)


class Worker:
    """The side of the worker process: a collector of its own."""

    def __init__(self, memory: int) -> None:
        self.number = -1
        self._memory = memory
        self._collector: Collector | None = None

    def make(self, config: dict[str, Any], number: int, saved: Any, other: Any) -> None:
        """Make the arms and the agent from a saved state or, for a new worker, from the state of another agent."""
        torch.set_num_threads(1)
        self.number = number
        read = TrainConfig.from_json(config)
        self._collector = _make_collector(read, number, lambda _: _view(self._memory), first=False)
        if saved is not None:
            self._collector.load_state_dict(saved)
        else:
            assert isinstance(self._collector.agent, ParameterSharingAgent)
            self._collector.agent.join(other)

    def go_on(self, progress: float) -> Advance:
        """Collect steps until the agent has updated."""
        assert self._collector is not None
        steps = 0
        while True:
            done = self._collector.advance(lambda _: progress)
            steps += done.steps
            if done.updates:
                return Advance(steps, done.updates, done.metrics)

    def save(self) -> dict[str, Any]:
        """The complete state of the worker."""
        assert self._collector is not None
        return self._collector.state_dict()

    def close(self) -> None:
        """Close the arms."""
        if self._collector is not None:
            self._collector.close()


def serve(connection: int, memory: int) -> None:
    """Serve calls of a `Worker` until the caller disconnects."""
    worker = Worker(memory)
    serve_calls(connection, worker, lambda: f"worker {worker.number}")
