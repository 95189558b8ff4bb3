"""What it costs to run a policy on an arm: one inference, one whole tick, and how steadily ticks come.

Beside Stable-Baselines3's `predict`, PyTorch, onnxruntime alone and a loop that does nothing, all in turns in one run
and on one thread. The arm is one in memory, so that the time on a bus is in none of the figures.
"""

import contextlib
import gc
import importlib.metadata
import json
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from arm_control.drivers.base import JointState
from arm_control.evaluation.torch_controller import one_thread
from arm_control.exporter.exporter import EnvironmentFacts, golden_samples, make_contract
from arm_control.exporter.graph import ExportedPolicy, trace
from arm_control.exporter.states import environment_path, random_states
from arm_control.policy_file.contract import INPUTS
from arm_control.process.printing import counted
from arm_control.recording.recorder import Recorder
from arm_control.runner import PolicyRunner
from arm_control.runner.clocks import FastTime, RealTime
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import ControlLoop
from arm_control.runner.safety import Safety, SafetySettings
from arm_control.runner.session import ask_for_priority
from arm_control.runner.ticks import OVERRUN_FRACTION
from arm_control.runs.agent import make_agent
from arm_control.runs.checks import (
    MOST_ROUNDS,
    check_count,
)
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.runs.figures import check_writable, report_figures
from envs.arm import Arm
from envs.limits import Box
from envs.tasks.base import StillGoal
from policies.common.settings import DDPGSettings


@dataclass(frozen=True)
class BenchRunner:
    """What an inference and a tick of the control loop cost, and how steadily ticks come, beside other libraries."""

    seconds: float = 60.0
    """How long the control loop runs at 500 Hz, and an empty one beside it."""
    rounds: int = 20
    """How often inferences and ticks are timed, in turns, 500 of each kind; the figures are medians over the rounds."""
    json: str | None = None
    """Also write the figures into this file."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 3600:
            raise ValueError(f"--seconds: wanted 0.1 to 3600, got {self.seconds}")
        check_count("rounds", self.rounds, MOST_ROUNDS)


def run(command: BenchRunner) -> None:
    """Print the cost of running a policy."""
    check_writable(command.json)
    figures = bench_runner(command.seconds, command.rounds)
    report_figures(command.json, figures, format_runner(figures))


PERIOD_S = 0.002  # of both loops
TURN_S = 2.0  # that each of them has before it is the other's turn
CALLS = 500  # of each kind, and ticks, in a round
LEAD = 100  # more before them, which are not counted: memory is then as the others have left it
REST_S = 0.1  # before each round, in which the recorder's process catches up
GOAL_S = 1.0  # between two goals
WARM_UP_TICKS = 1500  # the soft start and a little more
HIDDEN = 64  # of Stable-Baselines3's networks
WORKSPACE_M: Box = (-0.1, -0.1, 0.0, 0.46, 0.46, 0.75)  # the arm reaches 1 cm less, up and sideways 5 cm
POSES = 200

Pose = list[float]
Times = NDArray[np.float64]


class MemoryDriver:
    """An arm in memory: it is where it was told to be, and in good health. `now_s` is what it stamps readings by."""

    def __init__(self, arm: Arm, now_s: Callable[[], float], period_s: float) -> None:
        self.joint_names, self.limits = arm.joint_names, arm.limits
        self.calibration_sha256: str | None = None
        self.fastest_rate_hz = 1.0 / period_s
        self._now_s, self._period_s = now_s, period_s
        self._angles = list(arm.limits.lower_deg)
        self._speeds = [0.0] * arm.joint_count
        self._health = [40.0] * arm.joint_count, [0.1] * arm.joint_count, [12.0] * arm.joint_count

    def enable(self) -> None:
        """It has no torque."""

    def read(self) -> JointState:
        """Angles, speeds and the servos' health."""
        return JointState(self._now_s(), self._angles, self._speeds, *self._health)

    def write(self, target_deg: list[float]) -> None:
        """Be there at once."""
        self._speeds = [(to - at) / self._period_s for to, at in zip(target_deg, self._angles, strict=True)]
        self._angles = target_deg

    def disable(self) -> None:
        """It has no torque."""

    def close(self) -> None:
        """Nothing is open."""


class SteeredRunner(PolicyRunner):
    """Asks the policy, and answers with the pose that the goal was made from: an untrained policy goes nowhere."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.poses: dict[tuple[float, ...], Pose] = {}

    def decide(
        self,
        angles_deg: Sequence[float],
        speeds_deg_s: Sequence[float],
        previous_target_deg: Sequence[float],
        previous_target_speed_deg_s: Sequence[float],
        goal_m: Sequence[float],
        goal_velocity_m_s: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> list[float]:
        """What PolicyRunner.decide says is worked out, and let go."""
        super().decide(
            angles_deg, speeds_deg_s, previous_target_deg, previous_target_speed_deg_s, goal_m, goal_velocity_m_s
        )
        return self.poses[tuple(goal_m)]


class BackToBack(FastTime):
    """A clock that jumps, and times what happens between two waits: the whole of a tick. After a turn, others go."""

    def __init__(self, others: Callable[[], None]) -> None:
        super().__init__()
        self.times_s: list[float] = []
        self._others, self._ticks = others, -WARM_UP_TICKS
        self._began = time.perf_counter()

    def wait_until(self, due_s: float) -> None:
        """Note the tick that ends, and begin the next."""
        taken_s = time.perf_counter() - self._began
        self._ticks += 1
        if self._ticks > 0:
            self.times_s.append(taken_s)
            if self._ticks == CALLS:
                self._others()
                self._ticks = -LEAD
        super().wait_until(due_s)
        self._began = time.perf_counter()


class TurnTime(RealTime):
    """The monotonic clock of one of several loops that take turns: it stands still while it is the others' turn.

    It notes how far from due each tick began and what it took, and when the first was due and the last one began.
    """

    def __init__(self, ticks: int, turn_ticks: int, others: Callable[[], None] = lambda: None) -> None:
        """What is noted of the first `ticks` ticks is kept, in memory that is there from the start."""
        self.errors_s: Times = np.ones(ticks)
        self.taken_s: Times = np.ones(ticks)  # by each, from when it began to when the next is waited for
        self.ticks = 0
        self.first_s = self.last_s = 0.0
        self._turn_ticks, self._others, self._away_s = turn_ticks, others, 0.0

    def now_s(self) -> float:
        """The monotonic time in s, without the others' turns."""
        return super().now_s() - self._away_s

    def wait_until(self, due_s: float) -> None:
        """Sleep; every so many ticks, let the others have their turn first."""
        if 0 < self.ticks <= len(self.taken_s):
            self.taken_s[self.ticks - 1] = self.now_s() - self.last_s
        if 0 < self.ticks < len(self.errors_s) and self.ticks % self._turn_ticks == 0:
            begin_s = super().now_s()
            self._others()
            self._away_s += super().now_s() - begin_s
        super().wait_until(due_s + self._away_s)
        self.last_s = self.now_s()
        if self.ticks == 0:
            self.first_s = due_s
        if self.ticks < len(self.errors_s):
            self.errors_s[self.ticks] = abs(self.last_s - due_s)
        self.ticks += 1


class EmptyLoop:
    """The control loop's pacing, and nothing to do."""

    def __init__(self, ticks: int, turn_ticks: int) -> None:
        self.clock = TurnTime(ticks, turn_ticks)
        self.late_ticks = 0
        self._turn_ticks = turn_ticks

    def turn(self) -> None:
        """Tick for one turn."""
        clock, due_s = self.clock, self.clock.now_s()
        for _ in range(self._turn_ticks):
            clock.wait_until(due_s)
            now_s = clock.now_s()
            if now_s - due_s > OVERRUN_FRACTION * PERIOD_S:
                self.late_ticks += 1
                due_s = now_s
            due_s += PERIOD_S


class Bench:
    """A policy, an arm in memory to run it on, and what it is compared with."""

    def __init__(self, folder: Path, settings: DDPGSettings, safety: Callable[..., Safety]) -> None:
        self.folder, self._safety = folder, safety
        self.arm = Arm()
        self.module = export_untrained(self.arm, settings, folder / "policy.onnx")
        runner = SteeredRunner.load(folder / "policy.onnx")
        assert isinstance(runner, SteeredRunner)
        self.runner = runner
        self.runner.period_s = PERIOD_S  # asked in every tick
        self.recording = folder / "recording.mcap"
        guard = self._new_safety()
        generator = np.random.default_rng(0)
        while len(self.runner.poses) < POSES:
            pose = generator.uniform(self.arm.limits.lower_deg, self.arm.limits.upper_deg).tolist()
            if guard.workspace.outside_m(pose) <= 0.0:
                self.runner.poses[self.arm.tip_position(pose)] = pose
        goal_m = next(iter(self.runner.poses))
        self.inputs: tuple[Sequence[float], ...] = (
            [10.0, 20.0, 30.0],
            [1.0, 2.0, 3.0],
            [11.0, 21.0, 31.0],
            [4.0, 5.0, 6.0],
            goal_m,
        )

    def _new_safety(self) -> Safety:
        return self._safety(self.arm, self.arm.limits, PERIOD_S, SafetySettings(workspace_m=WORKSPACE_M))

    def goals(self) -> Iterator[StillGoal]:
        """The same ones again and again."""
        while True:
            for goal_m in self.runner.poses:
                yield StillGoal(goal_m)

    def control(self, clock: Any, stopped: Callable[[], bool]) -> tuple[ControlLoop, int]:
        """Run the control loop, recorded, until it is stopped; returns it and how many records were dropped."""
        metadata = {
            "arm": self.arm.name,
            "arm_urdf": self.arm.urdf_text,
            "joint_names": json.dumps(self.arm.joint_names),
            "period_s": repr(PERIOD_S),
        }
        with Recorder(self.recording, metadata) as recorder:
            driver = MemoryDriver(self.arm, clock.now_s, PERIOD_S)
            loop = ControlLoop(driver, self._new_safety(), clock, recorder=recorder, stopped=stopped)
            work = GoalWork(self.runner, self.goals(), seconds_per_goal=GOAL_S)
            loop.run(work)
        self.recording.unlink()
        if loop.report.faults:
            raise RuntimeError(f"wanted a bench in which nothing is refused, got {loop.report.faults[0]}")
        return loop, recorder.dropped

    def calls(self) -> dict[str, Callable[[], Any]]:
        """One inference by each way: three target angles as plain floats, or an array of Stable-Baselines3's."""
        inputs, runner = self.inputs, self.runner
        peers = baseline_policies(sum(len(column) for column in inputs), self.arm.joint_count)
        seen = np.concatenate([np.asarray(column, np.float32) for column in inputs])

        def torch_eager() -> list[float]:
            """The same module as was exported, where it came from."""
            with torch.inference_mode():
                columns = [torch.tensor([column]) for column in inputs]
                answer: list[float] = self.module(*columns)[0].tolist()
                return answer

        return {
            **{f"sb3_{name}": partial(peer.predict, seen, deterministic=True) for name, peer in peers.items()},
            "torch": torch_eager,
            "inference": lambda: PolicyRunner.decide(runner, *inputs),
            "bare": bare_onnxruntime(runner, inputs),
        }


def export_untrained(arm: Arm, settings: DDPGSettings, path: Path) -> ExportedPolicy:
    """Write the policy of a DDPG agent that has learned nothing; returns what was exported.

    Trained weights would be others, but no faster.
    """
    config = TrainConfig("ddpg", settings)
    env: Any = environment_maker(config)().unwrapped
    try:
        policy = make_agent(config, env).policy()
        rate_hz = 1.0 / env.simulation.control_period_s
    finally:
        env.close()
    states = random_states(arm, 64, np.random.default_rng(0))
    golden = golden_samples(states, *environment_path(arm, policy, config.control, states))
    module = ExportedPolicy(arm, policy, config.control)
    onnx.save_model(trace(module, make_contract(config, EnvironmentFacts(arm, rate_hz), golden)), path)
    return module


def baseline_policies(observations: int, actions: int) -> dict[str, Any]:
    """Stable-Baselines3's learners with as many observations and actions, and two layers of 64 units."""
    from stable_baselines3 import DDPG, PPO

    class Sizes(gymnasium.Env[Any, Any]):
        """Nothing but spaces."""

        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (observations,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)

    layers = {"net_arch": [HIDDEN, HIDDEN]}
    return {
        name: learner("MlpPolicy", Sizes(), policy_kwargs=layers, device="cpu")
        for name, learner in (("ppo", PPO), ("ddpg", DDPG))
    }


def bare_onnxruntime(runner: PolicyRunner, inputs: Sequence[Sequence[float]]) -> Callable[[], list[float]]:
    """The least that an inference can be: numbers into bound memory, `run_with_iobinding`, numbers out as a list."""
    session = runner._session
    binding = session.io_binding()
    given, answer = np.zeros(sum(map(len, inputs)), np.float32), np.zeros(runner.arm.joint_count, np.float32)
    start = 0
    for name, column in zip(INPUTS, inputs, strict=True):
        place = given[start : start + len(column)]
        binding.bind_input(name, "cpu", 0, np.float32, (1, len(column)), place.ctypes.data)
        start += len(column)
    binding.bind_output(runner.contract.output.name, "cpu", 0, np.float32, (1, len(answer)), answer.ctypes.data)
    angles, speeds, targets, target_speeds, goal = inputs
    write, memory, run = struct.Struct(f"{len(given)}f").pack_into, given.data.cast("B"), session.run_with_iobinding

    def call() -> list[float]:
        """Without a look at the goal, a memory, or anything of an object's."""
        write(memory, 0, *angles, *speeds, *targets, *target_speeds, *goal)
        run(binding)
        numbers: list[float] = answer.tolist()
        return numbers

    return call


@one_thread()
def bench_runner(
    seconds: float,
    rounds: int,
    *,
    settings: DDPGSettings | None = None,
    safety: Callable[..., Safety] = Safety,
) -> dict[str, Any]:
    """Times of inferences and ticks, period errors of both loops, and the ratios between them.

    `settings` are of another policy than the one that `train ddpg` makes by itself; `safety` makes a loop's.
    """
    settings = settings or DDPGSettings()
    with tempfile.TemporaryDirectory() as folder, quiet_process() as priority:
        bench = Bench(Path(folder), settings, safety)
        times, dropped = measure_times(bench, rounds)
        loops = measure_periods(bench, seconds)
    medians = {name: row["p50"] for name, row in times.items()}
    sb3 = medians["sb3_ppo"]
    loop, empty = (loops[name]["period_error_us"]["p99_of_all"] for name in ("control", "empty"))
    packages = ("arm-control", "numpy", "onnxruntime", "stable-baselines3", "torch")
    return {
        "seconds": seconds,
        "rounds": rounds,
        "calls_per_round": CALLS,
        "cores": len(os.sched_getaffinity(0)),
        "priority": priority,
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "hidden_units": settings.hidden_units,
        "sb3_hidden_units": HIDDEN,
        "rate_hz": 1.0 / PERIOD_S,
        "times_us": times,
        "loops": loops,
        "dropped_records": dropped + loops["control"]["dropped_records"],
        "ratios": {
            "sb3_predict_over_inference": sb3 / medians["inference"],
            "torch_over_inference": medians["torch"] / medians["inference"],
            "inference_over_bare": medians["inference"] / medians["bare"],
            "tick_over_sb3_predict": medians["tick"] / sb3,
            "tick_p99_over_p50": times["tick"]["p99"] / medians["tick"],
            "period_p99_over_empty_loop": loop / empty,
        },
    }


def measure_times(bench: Bench, rounds: int) -> tuple[dict[str, dict[str, float]], int]:
    """Percentiles in us of every way to infer, and of ticks, in turns; and how many records were dropped."""
    calls = bench.calls()
    times: dict[str, list[float]] = {name: [] for name in calls}
    done = 0

    def others() -> None:
        """A round of everything but ticks."""
        nonlocal done
        if done == rounds:  # the arm is on its way to park
            return
        time.sleep(REST_S)
        for name, call in calls.items():
            note = times[name].append
            for _ in range(LEAD):
                call()
            for _ in range(CALLS):
                begin = time.perf_counter()
                call()
                note(time.perf_counter() - begin)
        done += 1

    clock = BackToBack(others)
    _, dropped = bench.control(clock, lambda: done >= rounds)
    times["tick"] = clock.times_s[: rounds * CALLS]
    return {name: percentiles_us(np.array(values), rounds) for name, values in times.items()}, dropped


def measure_periods(bench: Bench, seconds: float) -> dict[str, dict[str, Any]]:
    """How steadily the control loop and an empty one tick, in turns."""
    turns = max(2, round(seconds / TURN_S))
    turn_ticks = max(1, round(seconds / turns / PERIOD_S))
    ticks = turns * turn_ticks
    empty = EmptyLoop(ticks, turn_ticks)
    memory_mb: list[float] = []

    def others() -> None:
        """The empty loop's turn."""
        memory_mb.append(resident_mb())
        empty.turn()

    clock = TurnTime(ticks, turn_ticks, others)
    loop, dropped = bench.control(clock, lambda: clock.ticks >= ticks)
    memory_mb.append(resident_mb())
    empty.turn()  # to have had as many
    report = loop.report
    periods = (clock.last_s - clock.first_s - report.shifted_s) / PERIOD_S
    return {
        "control": {
            "ticks": ticks,
            "period_error_us": percentiles_us(clock.errors_s, turns),
            "late_ticks": report.overruns,
            "shifted_ms": 1000.0 * report.shifted_s,
            "lost_ticks": round(periods) - report.ticks,
            "dropped_records": dropped,
            "memory_mb": [memory_mb[0], memory_mb[-1]],
            "tick_us": percentiles_us(clock.taken_s, turns),
            "parts_us": {
                name: 1e6 * timings.percentile_s(0.5)
                for name, timings in report.timings.items()
                if name not in ("tick", "period error")
            },
        },
        "empty": {
            "ticks": empty.clock.ticks,
            "period_error_us": percentiles_us(empty.clock.errors_s, turns),
            "late_ticks": empty.late_ticks,
        },
    }


def percentiles_us(times_s: Times, rounds: int) -> dict[str, float]:
    """Percentiles in microseconds: medians over the rounds, so that one in which others were busy does not count.

    And of all rounds together the 99th percentile and the worst.
    """
    times_us = 1e6 * times_s.reshape(rounds, -1)
    p50, p99 = np.median(np.percentile(times_us, (50, 99), axis=1), axis=1).tolist()
    return {"p50": p50, "p99": p99, "p99_of_all": float(np.percentile(times_us, 99)), "worst": float(times_us.max())}


def resident_mb() -> float:
    """Memory of this process that is in use, in MB."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def quiet_process() -> Iterator[str]:
    """As `arm-control run` prepares itself: real-time priority, if it is given, and nothing old to collect."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    said = ask_for_priority()
    gc.collect()
    gc.freeze()
    try:
        yield said
    finally:
        gc.unfreeze()
        os.sched_setscheduler(0, policy, parameters)


TITLES = {
    "sb3_ppo": "Stable-Baselines3 predict, PPO, {sb3}-{sb3}",
    "sb3_ddpg": "Stable-Baselines3 predict, DDPG, {sb3}-{sb3}",
    "torch": "PyTorch, the exported module",
    "inference": "PolicyRunner.decide, {own}-{own}",
    "bare": "onnxruntime alone, the same file",
    "tick": "whole tick",
}


def format_runner(figures: dict[str, Any]) -> str:
    """The figures as tables for people."""
    loops = figures["loops"]
    head = f"{'p50':>10}{'p99':>10}{'p99 of all':>12}{'worst':>10}"

    def row(title: str, values: dict[str, float]) -> str:
        p50, p99, of_all, worst = values.values()
        return f"  {title:<46}{p50:>10,.1f}{p99:>10,.1f}{of_all:>12,.1f}{worst:>10,.1f}"

    sizes = {"own": figures["hidden_units"], "sb3": figures["sb3_hidden_units"]}
    control, empty = loops["control"], loops["empty"]
    begin, end = control["memory_mb"]
    called = f"microseconds, {figures['rounds'] * figures['calls_per_round']:,} of each in turns"
    looped = f"{counted(control['ticks'], 'tick')} of each loop at {figures['rate_hz']:g} Hz"
    return "\n".join(
        [
            f"{counted(figures['cores'], 'core')}, one thread; {figures['priority']}",
            f"{called:<48}{head}",
            *(row(TITLES[name].format(**sizes), times) for name, times in figures["times_us"].items()),
            f"{looped:<48}{head}",
            row("period error of the control loop", control["period_error_us"]),
            row("period error of an empty loop", empty["period_error_us"]),
            row("whole tick", control["tick_us"]),
            f"  control loop: {counted(control['late_ticks'], 'late tick')} ({control['shifted_ms']:.1f} ms), "
            f"{control['lost_ticks']} lost unreported, {counted(figures['dropped_records'], 'record')} dropped, "
            f"memory {begin:.1f} to {end:.1f} MB",
            f"  empty loop: {counted(empty['late_ticks'], 'late tick')}",
            *(f"  {name} {ratio:.2f}" for name, ratio in figures["ratios"].items()),
        ]
    )
