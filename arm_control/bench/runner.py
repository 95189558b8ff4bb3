"""The cost of running a policy on an arm: one inference, one tick of the control loop, and the jitter of its period.

Compared with Stable-Baselines3's `predict`, PyTorch, onnxruntime alone and an empty loop, all in turns in one process
and on one thread. The arm is in memory, so that no bus time is measured.
"""

import importlib.metadata
import os
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from arm_control.bench._clocks import PERIOD_S, TURN_S, BackToBackClock, EmptyLoop, TurnClock
from arm_control.bench._setup import POSES, LoopSetup, percentiles_us, quiet_process
from arm_control.evaluation.torch_controller import one_thread
from arm_control.policy_file.contract import INPUTS, Contract
from arm_control.policy_file.onnx_file import read_model
from arm_control.process.printing import counted
from arm_control.recording.recorder import Recorder
from arm_control.runner import PolicyRunner
from arm_control.runner.policy_runner import open_session
from arm_control.runner.safety import Safety
from arm_control.runs.checks import (
    MOST_ROUNDS,
    check_count,
)
from arm_control.runs.figures import check_writable, report_figures
from policies.ddpg.settings import DDPGSettings


@dataclass(frozen=True)
class BenchRunner:
    """Measure what an inference and a tick of the control loop cost, and how steady its period is."""

    seconds: float = 60.0
    """Duration in s of the control loop at 500 Hz, and of the empty loop that it is compared with."""
    rounds: int = 20
    """Number of rounds in which inferences and ticks are timed, 500 of each; figures are medians over the rounds."""
    json: str | None = None
    """JSON file to write the figures to."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 3600:
            raise ValueError(f"--seconds: expected 0.1 to 3600, got {self.seconds}")
        check_count("rounds", self.rounds, MOST_ROUNDS)


def run(command: BenchRunner) -> None:
    """Print the cost of running a policy."""
    check_writable(command.json)
    figures = bench_runner(command.seconds, command.rounds)
    report_figures(command.json, figures, format_runner(figures))


BASELINE_HIDDEN_UNITS = 64  # of both layers of Stable-Baselines3's networks
VERSIONS_OF = ("arm-control", "numpy", "onnxruntime", "stable-baselines3", "torch")

Infer = Callable[[], Any]


@dataclass(frozen=True)
class RoundSizes:
    """Number of inferences and ticks timed in a round."""

    calls: int = 500
    """Timed inferences of each kind, and timed ticks."""
    lead_calls: int = 100
    """Further ones before them that are not timed, to warm up the caches."""
    warm_up_ticks: int = 1500
    """Ticks before the first round: a little more than the soft start."""
    pause_s: float = 0.1
    """Pause before each round, in which the recorder's process catches up."""
    poses: int = POSES
    """Number of poses whose tip positions are the goals."""


@one_thread()
def bench_runner(
    seconds: float,
    rounds: int,
    *,
    settings: DDPGSettings | None = None,
    sizes: RoundSizes | None = None,
    safety: Callable[..., Safety] = Safety,
    recorder: Callable[..., Recorder] = Recorder,
) -> dict[str, Any]:
    """Times of inferences and ticks, period errors of both loops, and the ratios between them.

    `settings` are the policy's, by default those of `train ddpg`; `safety` and `recorder` are called for each loop.
    """
    settings = settings or DDPGSettings()
    sizes = sizes or RoundSizes()
    with tempfile.TemporaryDirectory() as folder, quiet_process() as priority:
        setup = LoopSetup(Path(folder), settings, safety=safety, recorder=recorder, pose_count=sizes.poses)
        timed = measure_times(setup, rounds, sizes)
        loops = measure_periods(setup, seconds)
    return {
        "seconds": seconds,
        "rounds": rounds,
        "calls_per_round": sizes.calls,
        "cores": len(os.sched_getaffinity(0)),
        "priority": priority,
        "versions": {package: importlib.metadata.version(package) for package in VERSIONS_OF},
        "hidden_units": settings.hidden_units,
        "sb3_hidden_units": BASELINE_HIDDEN_UNITS,
        "rate_hz": 1.0 / PERIOD_S,
        "times_us": timed.times_us,
        "loops": loops,
        "dropped_records": timed.dropped_records + loops["control"]["dropped_records"],
        "ratios": ratios_of(timed.times_us, loops),
    }


def ratios_of(times_us: dict[str, dict[str, float]], loops: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Ratios between the inference methods, the ticks and the loops."""
    medians = {name: row["p50"] for name, row in times_us.items()}
    control_p99 = loops["control"]["period_error_us"]["p99_of_all"]
    empty_p99 = loops["empty"]["period_error_us"]["p99_of_all"]
    return {
        "sb3_predict_over_inference": medians["sb3_ppo"] / medians["inference"],
        "torch_over_inference": medians["torch"] / medians["inference"],
        "inference_over_bare": medians["inference"] / medians["bare"],
        "tick_over_sb3_predict": medians["tick"] / medians["sb3_ppo"],
        "tick_p99_over_p50": times_us["tick"]["p99"] / medians["tick"],
        "period_p99_over_empty_loop": control_p99 / empty_p99,
    }


# ----------------------------------------------------------------------------------------------------- ways to infer


def ways_to_infer(setup: LoopSetup) -> dict[str, Infer]:
    """One inference in each way: it returns three target angles as floats, or Stable-Baselines3's array."""
    inputs = setup.inputs
    observation = np.concatenate([np.asarray(column, np.float32) for column in inputs])

    def infer_with_torch() -> list[float]:
        """The module that was exported, in PyTorch."""
        with torch.inference_mode():
            columns = [torch.tensor([column]) for column in inputs]
            target_deg: list[float] = setup.module(*columns)[0].tolist()
            return target_deg

    ways: dict[str, Infer] = {}
    for name, baseline in baseline_policies(len(observation), setup.arm.joint_count).items():
        ways[f"sb3_{name}"] = partial(baseline.predict, observation, deterministic=True)
    ways["torch"] = infer_with_torch
    ways["inference"] = lambda: PolicyRunner.decide(setup.runner, *inputs)
    ways["bare"] = bare_onnxruntime(setup.policy_path, setup.runner.contract, inputs)
    return ways


def baseline_policies(observations: int, actions: int) -> dict[str, Any]:
    """Stable-Baselines3's learners with as many observations and actions, and two layers of 64 units."""
    from stable_baselines3 import DDPG, PPO

    class Spaces(gymnasium.Env[Any, Any]):
        """An environment that only has spaces."""

        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (observations,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)

    layers = {"net_arch": [BASELINE_HIDDEN_UNITS, BASELINE_HIDDEN_UNITS]}
    return {
        "ppo": PPO("MlpPolicy", Spaces(), policy_kwargs=layers, device="cpu"),
        "ddpg": DDPG("MlpPolicy", Spaces(), policy_kwargs=layers, device="cpu"),
    }


def bare_onnxruntime(path: Path, contract: Contract, inputs: Sequence[Sequence[float]]) -> Infer:
    """The minimal inference: write the inputs into bound memory, run, and read the outputs as a list."""
    session = open_session(read_model(path))
    binding = session.io_binding()
    values = np.zeros(sum(map(len, inputs)), np.float32)
    target = np.zeros(contract.output.size, np.float32)
    # Bind all inputs side by side in one array, which one call can fill.
    start = 0
    for name, column in zip(INPUTS, inputs, strict=True):
        place = values[start : start + len(column)]
        binding.bind_input(name, "cpu", 0, np.float32, (1, len(column)), place.ctypes.data)
        start += len(column)
    binding.bind_output(contract.output.name, "cpu", 0, np.float32, (1, len(target)), target.ctypes.data)
    # Look everything up in advance.
    angles, speeds, targets, target_speeds, goal = inputs
    write = struct.Struct(f"{len(values)}f").pack_into
    memory = values.data.cast("B")
    run_session = session.run_with_iobinding

    def infer() -> list[float]:
        """Run without checking the goal, without a recurrent state, and without attribute access."""
        write(memory, 0, *angles, *speeds, *targets, *target_speeds, *goal)
        run_session(binding)
        target_deg: list[float] = target.tolist()
        return target_deg

    return infer


# ------------------------------------------------------------------------------------------------------- measurements


class TimedCalls(NamedTuple):
    """Percentiles in us by name, and the number of records dropped meanwhile."""

    times_us: dict[str, dict[str, float]]
    dropped_records: int


class InferenceRounds:
    """Times every kind of inference, one after the other, in rounds."""

    def __init__(self, ways: dict[str, Infer], rounds: int, sizes: RoundSizes) -> None:
        self.times_s: dict[str, list[float]] = {name: [] for name in ways}
        self.done = 0
        self._ways = ways
        self._rounds = rounds
        self._sizes = sizes

    def run_round(self) -> None:
        """Time one round; do nothing after the last one, while the arm parks."""
        if self.done == self._rounds:
            return
        time.sleep(self._sizes.pause_s)
        for name, infer in self._ways.items():
            record = self.times_s[name].append
            # Warm up the caches, then time each call.
            for _ in range(self._sizes.lead_calls):
                infer()
            for _ in range(self._sizes.calls):
                begin = time.perf_counter()
                infer()
                record(time.perf_counter() - begin)
        self.done += 1


def measure_times(setup: LoopSetup, rounds: int, sizes: RoundSizes) -> TimedCalls:
    """Time every kind of inference and whole ticks of the control loop, in turns."""
    inferences = InferenceRounds(ways_to_infer(setup), rounds, sizes)
    clock = BackToBackClock(
        inferences.run_round, calls=sizes.calls, lead_ticks=sizes.lead_calls, warm_up_ticks=sizes.warm_up_ticks
    )
    ran = setup.run_loop(clock, lambda: inferences.done >= rounds)
    # Leave out the ticks after the last round, in which the arm parks.
    times_s = inferences.times_s | {"tick": clock.times_s[: rounds * sizes.calls]}
    times_us = {name: percentiles_us(np.array(values), rounds) for name, values in times_s.items()}
    return TimedCalls(times_us, ran.dropped_records)


def measure_periods(setup: LoopSetup, seconds: float) -> dict[str, dict[str, Any]]:
    """Period errors of the control loop and an empty loop, in turns."""
    turns = max(2, round(seconds / TURN_S))
    turn_ticks = max(1, round(seconds / turns / PERIOD_S))
    ticks = turns * turn_ticks
    # The control loop runs as a whole, and lets the empty loop run in between.
    empty = EmptyLoop(ticks, turn_ticks)
    memory_mb: list[float] = []

    def run_empty_loop() -> None:
        """The empty loop's turn."""
        memory_mb.append(resident_mb())
        empty.turn()

    clock = TurnClock(ticks, turn_ticks, run_empty_loop)
    ran = setup.run_loop(clock, lambda: clock.ticks >= ticks)
    # The last turn, so that both loops have the same number.
    run_empty_loop()
    report = ran.loop.report
    # Ticks are lost if more periods have passed than were reported as ticks or as overruns.
    periods = (clock.last_s - clock.first_s - report.shifted_s) / PERIOD_S
    parts_us = {}
    for name, timings in report.timings.items():
        if name not in ("tick", "period error"):
            parts_us[name] = 1e6 * timings.percentile_s(0.5)
    control = {
        "ticks": ticks,
        "period_error_us": percentiles_us(clock.errors_s, turns),
        "overruns": report.overruns,
        "shifted_ms": 1000.0 * report.shifted_s,
        "lost_ticks": round(periods) - report.ticks,
        "dropped_records": ran.dropped_records,
        "memory_mb": [memory_mb[0], memory_mb[-1]],
        "tick_us": percentiles_us(clock.taken_s, turns),
        "parts_us": parts_us,
    }
    return {
        "control": control,
        "empty": {
            "ticks": empty.clock.ticks,
            "period_error_us": percentiles_us(empty.clock.errors_s, turns),
            "overruns": empty.overruns,
        },
    }


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


# -------------------------------------------------------------------------------------------------------------- table


TITLES = {
    "sb3_ppo": "Stable-Baselines3 predict, PPO, {sb3}-{sb3}",
    "sb3_ddpg": "Stable-Baselines3 predict, DDPG, {sb3}-{sb3}",
    "torch": "PyTorch, the exported module",
    "inference": "PolicyRunner.decide, {own}-{own}",
    "bare": "onnxruntime alone, the same file",
    "tick": "whole tick",
}


def format_runner(figures: dict[str, Any]) -> str:
    """Format the figures as tables."""
    sizes = {"own": figures["hidden_units"], "sb3": figures["sb3_hidden_units"]}
    control = figures["loops"]["control"]
    empty = figures["loops"]["empty"]
    memory_begin_mb, memory_end_mb = control["memory_mb"]
    call_count = figures["rounds"] * figures["calls_per_round"]
    lines = [
        f"{counted(figures['cores'], 'core')}, one thread; {figures['priority']}",
        format_head(f"microseconds, {call_count:,} of each in turns"),
    ]
    lines += [format_row(TITLES[name].format(**sizes), times) for name, times in figures["times_us"].items()]
    lines += [
        format_head(f"{counted(control['ticks'], 'tick')} of each loop at {figures['rate_hz']:g} Hz"),
        format_row("period error of the control loop", control["period_error_us"]),
        format_row("period error of an empty loop", empty["period_error_us"]),
        format_row("whole tick", control["tick_us"]),
        f"  control loop: {counted(control['overruns'], 'overrun')} ({control['shifted_ms']:.1f} ms), "
        f"{control['lost_ticks']} lost unreported, {counted(figures['dropped_records'], 'record')} dropped, "
        f"memory {memory_begin_mb:.1f} to {memory_end_mb:.1f} MB",
        f"  empty loop: {counted(empty['overruns'], 'overrun')}",
    ]
    lines += [f"  {name} {ratio:.2f}" for name, ratio in figures["ratios"].items()]
    return "\n".join(lines)


def format_head(title: str) -> str:
    """The head of a table of percentiles."""
    return f"{title:<48}{'p50':>10}{'p99':>10}{'p99 of all':>12}{'worst':>10}"


def format_row(title: str, values: dict[str, float]) -> str:
    """A row of percentiles."""
    p50, p99, p99_of_all, worst = values.values()
    return f"  {title:<46}{p50:>10,.1f}{p99:>10,.1f}{p99_of_all:>12,.1f}{worst:>10,.1f}"
