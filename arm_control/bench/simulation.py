"""Speed of the simulation, compared with its physics engine, panda-gym and vector environments of other libraries."""

import contextlib
import functools
import importlib.metadata
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from arm_control.process.printing import counted
from arm_control.runs.checks import (
    MOST_ROUNDS,
    check_count,
)
from arm_control.runs.figures import check_writable, report_figures
from envs.bullet import bullet_version, pybullet
from envs.vector.env import ArmVectorEnv


@dataclass(frozen=True)
class BenchSimulation:
    """Measure the speed of the simulation, single and vectorised, beside its physics engine and other libraries."""

    seconds: float = 1.0
    """Duration of each measurement in s."""
    rounds: int = 5
    """Number of measurements of each, in turns; the figures are medians."""
    json: str | None = None
    """JSON file to write the figures to."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 60:
            raise ValueError(f"--seconds: expected more than 0 and up to 60, got {self.seconds}")
        check_count("rounds", self.rounds, MOST_ROUNDS)


def run(command: BenchSimulation) -> None:
    """Print the speed of the simulation."""
    check_writable(command.json)
    figures = bench_simulation(command.seconds, command.rounds)
    report_figures(command.json, figures, format_simulation(figures))


MakeEnv = Callable[[], gymnasium.Env[Any, Any]]
Measured = tuple[str, int]  # a library, and its number of processes
Measure = Callable[[float], float]  # seconds -> environment steps a second

ARM = "envs:ArmReach-v0"
PANDA = "PandaReachJoints-v3"
PROCESSES = (1, 2, 4)
ARMS_PER_PROCESS = 16
ACTIONS = 500  # drawn beforehand, then repeated
WARM_UP_STEPS = 20
TITLES = {
    "raw": "PyBullet's stepSimulation alone, in the same motion",
    "single": ARM.removeprefix("envs:"),
    "panda_gym": f"panda-gym {PANDA}",
    "vector": f"ArmVectorEnv, {ARMS_PER_PROCESS} arms a process",
    "async_vector_env": "Gymnasium AsyncVectorEnv, 1 arm a process",
    "subproc_vec_env": "Stable-Baselines3 SubprocVecEnv, 1 arm a process",
}
VERSIONS_OF = ("gymnasium", "numpy", "panda-gym", "stable-baselines3")
BASELINES = ("async_vector_env", "subproc_vec_env")


def bench_simulation(seconds: float, rounds: int) -> dict[str, Any]:
    """Environment steps per second of all arms together: medians of several rounds in which all take turns."""
    # Let all environments take turns, so that a disturbance affects all of them.
    with contextlib.ExitStack() as stack:
        measures = open_environments(stack)
        rates: dict[Measured, list[float]] = {measured: [] for measured in measures}
        for _ in range(rounds):
            for measured, measure in measures.items():
                rates[measured].append(measure(seconds))
    # Medians over the rounds, by the number of processes where there are several.
    median = {measured: statistics.median(values) for measured, values in rates.items()}
    steps_per_s: dict[str, Any] = {name: median[name, 1] for name in ("raw", "single", "panda_gym")}
    for name in ("vector", *BASELINES):
        steps_per_s[name] = {str(count): median[name, count] for count in PROCESSES}
    versions = {package: importlib.metadata.version(package) for package in VERSIONS_OF}
    best_baseline = max(median[name, 2] for name in BASELINES)
    return {
        "seconds": seconds,
        "rounds": rounds,
        "cores": len(os.sched_getaffinity(0)),
        "arms_per_process": ARMS_PER_PROCESS,
        "versions": versions | {"pybullet": bullet_version()},
        "steps_per_s": steps_per_s,
        "ratios": {
            "single_over_panda_gym": median["single", 1] / median["panda_gym", 1],
            "single_over_raw_bound": median["single", 1] / median["raw", 1],
            "vector2_over_vector1": median["vector", 2] / median["vector", 1],
            "vector2_over_best_peer": median["vector", 2] / best_baseline,
        },
    }


def open_environments(stack: contextlib.ExitStack) -> dict[Measured, Measure]:
    """Open every environment, to be closed by the stack, and return a function that measures each."""
    import panda_gym  # noqa: F401  (registers its ids)
    from stable_baselines3.common.vec_env import SubprocVecEnv

    # Single environments.
    make_arm = functools.partial(gymnasium.make, ARM, disable_env_checker=True)
    arm: Any = stack.enter_context(contextlib.closing(make_arm()))
    with _silent_stdout():
        panda: Any = gymnasium.make(PANDA, disable_env_checker=True)
    stack.enter_context(contextlib.closing(panda))
    measures: dict[Measured, Measure] = {
        ("raw", 1): functools.partial(measure_raw, arm),
        ("single", 1): functools.partial(measure_single, arm),
        ("panda_gym", 1): functools.partial(measure_single, panda),
    }

    def add_many(name: str, count: int, env: Any, arms: int) -> None:
        """Measure a vector environment of `count` processes."""
        stack.enter_context(contextlib.closing(env)).reset()
        measures[name, count] = functools.partial(measure_many, env, arms)

    # Vector environments; those of other libraries run one arm a process.
    for count in PROCESSES:
        arms = ARMS_PER_PROCESS * count
        makers: list[MakeEnv] = [make_arm] * count
        add_many("vector", count, ArmVectorEnv(make_arm, arms, count), arms)
        in_gymnasium = AsyncVectorEnv(makers, context="forkserver", autoreset_mode=AutoresetMode.SAME_STEP)
        add_many("async_vector_env", count, in_gymnasium, count)
        add_many("subproc_vec_env", count, SubprocVecEnv(makers, start_method="forkserver"), count)
    return measures


def measure_single(env: gymnasium.Env[Any, Any], seconds: float) -> float:
    """Steps per second of one environment with random actions, resets included."""
    steps, elapsed_s = _play(env, seconds)
    return steps / elapsed_s


def measure_raw(env: gymnasium.Env[Any, Any], seconds: float) -> float:
    """The speed of `measure_single` if only the calls of stepSimulation took time.

    They are timed within the same motion, since the solver is faster for an arm at rest. PyBullet has no hook for its
    calls, so the function is replaced meanwhile.
    """
    step = pybullet.stepSimulation
    spent_s = 0.0
    calls = 0

    def timed(*arguments: Any, **keywords: Any) -> None:
        nonlocal spent_s, calls
        begin = time.perf_counter()
        step(*arguments, **keywords)
        spent_s += time.perf_counter() - begin
        calls += 1

    pybullet.stepSimulation = timed
    try:
        steps, _ = _play(env, seconds)
    finally:
        pybullet.stepSimulation = step
    if calls < steps:
        raise RuntimeError(f"expected at least a call of pybullet.stepSimulation a step, got {calls} in {steps} steps")
    return steps / (spent_s - calls * _clock_s())


def measure_many(env: Any, arms: int, seconds: float) -> float:
    """Steps per second of all arms of a vector environment of Gymnasium or Stable-Baselines3 together."""
    space = getattr(env, "single_action_space", env.action_space)
    # As many rows of actions, one for each arm, as the drawn actions suffice for.
    row_count = ACTIONS // arms
    rows = np.array(_actions(space)[: row_count * arms]).reshape(row_count, arms, *space.shape)
    # Negative numbers count the steps of the warm-up.
    steps = -WARM_UP_STEPS
    begin = end = time.perf_counter()
    for actions in itertools.cycle(rows):
        env.step(actions)
        steps += 1
        end = time.perf_counter()
        if steps <= 0:
            begin = end
        elif end - begin >= seconds:
            break
    return arms * steps / (end - begin)


def format_simulation(figures: dict[str, Any]) -> str:
    """Format the figures as a table."""
    rates = figures["steps_per_s"]
    lines = [
        f"environment steps a second: median of {counted(figures['rounds'], 'round')} of {figures['seconds']:g} s, "
        f"{counted(figures['cores'], 'core')}",
    ]
    for name in ("raw", "single", "panda_gym"):
        lines.append(f"  {TITLES[name]:<52}{rates[name]:>9,.0f}")
    lines.append(f"  {'processes':<52}" + "".join(f"{count:>9}" for count in PROCESSES))
    for name in ("vector", *BASELINES):
        lines.append(f"  {TITLES[name]:<52}" + "".join(f"{rates[name][str(count)]:>9,.0f}" for count in PROCESSES))
    for name, ratio in figures["ratios"].items():
        lines.append(f"  {name} {ratio:.2f}")
    return "\n".join(lines)


def _play(env: gymnasium.Env[Any, Any], seconds: float) -> tuple[int, float]:
    """Take random actions for some time; returns the number of steps and the duration in seconds."""
    env.reset(seed=0)
    steps = 0
    begin = time.perf_counter()
    for action in itertools.cycle(_actions(env.action_space)):
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
        steps += 1
        elapsed_s = time.perf_counter() - begin
        if elapsed_s >= seconds:
            break
    return steps, elapsed_s


def _actions(space: Any) -> list[Any]:
    draws = np.random.default_rng(0).uniform(space.low, space.high, (ACTIONS, *space.shape))
    return list(draws.astype(np.float32))


def _clock_s() -> float:
    """The duration of reading the clock, which each measured time includes."""
    times = [time.perf_counter() for _ in range(1001)]
    return statistics.median(end - begin for begin, end in itertools.pairwise(times))


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Suppress what PyBullet prints from C while a panda-gym environment is made."""
    stdout = os.dup(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(silence)
