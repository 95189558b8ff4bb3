"""Setup for benchmarks of the control loop: an untrained policy on an arm in memory, recorded like a real run."""

import contextlib
import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from arm_control.bench._clocks import PERIOD_S, Times
from arm_control.drivers.base import JointState
from arm_control.exporter.exporter import EnvironmentFacts, golden_samples, make_contract
from arm_control.exporter.graph import ExportedPolicy, trace
from arm_control.exporter.states import environment_path, random_states
from arm_control.recording.recorder import Recorder
from arm_control.runner import PolicyRunner
from arm_control.runner.clocks import Clock
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import ControlLoop
from arm_control.runner.priority import request_priority
from arm_control.runner.safety import Safety, SafetySettings
from arm_control.runs.agent import make_agent
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from envs.arm import Arm
from envs.limits import Box
from envs.tasks.base import StillGoal
from policies.ddpg.settings import DDPGSettings

GOAL_S = 1.0  # duration of a goal
POSES = 200  # number of poses whose tip positions are the goals
WORKSPACE_M: Box = (-0.1, -0.1, 0.0, 0.46, 0.46, 0.75)  # 1 cm beyond the arm's reach, 5 cm upwards and sideways

Pose = list[float]


class MemoryDriver:
    """A driver of an arm in memory, always at its last target and without alarms, so that no bus time is measured."""

    def __init__(self, arm: Arm, now_s: Callable[[], float], period_s: float) -> None:
        """`now_s` gives the time stamps of readings."""
        self.joint_names = arm.joint_names
        self.limits = arm.limits
        self.calibration_sha256: str | None = None
        self.fastest_rate_hz = 1.0 / period_s
        self._now_s = now_s
        self._period_s = period_s
        self._angles = list(arm.limits.lower_deg)
        self._speeds = [0.0] * arm.joint_count
        self._health = [40.0] * arm.joint_count, [0.1] * arm.joint_count, [12.0] * arm.joint_count

    def enable(self) -> None:
        """Do nothing: there is no torque."""

    def read(self) -> JointState:
        """Angles, speeds and the servos' health."""
        return JointState(self._now_s(), self._angles, self._speeds, *self._health)

    def write(self, target_deg: list[float]) -> None:
        """Move to the target immediately."""
        self._speeds = [(to - at) / self._period_s for to, at in zip(target_deg, self._angles, strict=True)]
        self._angles = target_deg

    def disable(self) -> None:
        """Do nothing: there is no torque."""

    def close(self) -> None:
        """Do nothing."""


class SteeredRunner(PolicyRunner):
    """Runs the policy, but returns the pose that reaches the goal, which an untrained policy does not find."""

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
        """Run the inference of `PolicyRunner.decide`, and return the goal's pose instead of its result."""
        super().decide(
            angles_deg, speeds_deg_s, previous_target_deg, previous_target_speed_deg_s, goal_m, goal_velocity_m_s
        )
        return self.poses[tuple(goal_m)]


class LoopRun(NamedTuple):
    """A control loop that has run, and the number of records that its recorder dropped."""

    loop: ControlLoop
    dropped_records: int


class LoopSetup:
    """An exported policy, and an arm in memory to run it on."""

    def __init__(
        self,
        folder: Path,
        settings: DDPGSettings,
        *,
        safety: Callable[..., Safety] = Safety,
        recorder: Callable[..., Recorder] = Recorder,
        pose_count: int = POSES,
    ) -> None:
        """Export an untrained policy into a folder. `safety` and `recorder` are called for each loop."""
        self._safety = safety
        self._recorder = recorder
        # The policy.
        self.arm = Arm()
        self.policy_path = folder / "policy.onnx"
        self.recording = folder / "recording.mcap"
        self.module = export_untrained(self.arm, settings, self.policy_path)
        runner = SteeredRunner.load(self.policy_path)
        assert isinstance(runner, SteeredRunner)
        runner.period_s = PERIOD_S  # so that the policy decides in every tick
        # The goals, and the poses that reach them.
        runner.poses = self._draw_poses(pose_count)
        self.runner = runner
        # The arguments of one inference.
        self.inputs: tuple[Sequence[float], ...] = (
            [10.0, 20.0, 30.0],
            [1.0, 2.0, 3.0],
            [11.0, 21.0, 31.0],
            [4.0, 5.0, 6.0],
            next(iter(runner.poses)),
        )

    def _draw_poses(self, count: int) -> dict[tuple[float, ...], Pose]:
        """Random poses within the workspace, by their tip positions."""
        generator = np.random.default_rng(0)
        safety = self._new_safety()
        poses: dict[tuple[float, ...], Pose] = {}
        while len(poses) < count:
            pose = generator.uniform(self.arm.limits.lower_deg, self.arm.limits.upper_deg).tolist()
            if safety.workspace.outside_m(pose) <= 0.0:
                poses[self.arm.tip_position(pose)] = pose
        return poses

    def _new_safety(self) -> Safety:
        return self._safety(self.arm, self.arm.limits, PERIOD_S, SafetySettings(workspace_m=WORKSPACE_M))

    def goals(self) -> Iterator[StillGoal]:
        """All goals, repeated without end."""
        while True:
            for goal_m in self.runner.poses:
                yield StillGoal(goal_m)

    def run_loop(self, clock: Clock, stopped: Callable[[], bool]) -> LoopRun:
        """Run the control loop with a recorder until `stopped` returns True.

        Raises RuntimeError after a fault stop, which would change what is measured.
        """
        metadata = {
            "arm": self.arm.name,
            "arm_urdf": self.arm.urdf_text,
            "joint_names": json.dumps(self.arm.joint_names),
            "period_s": repr(PERIOD_S),
        }
        with self._recorder(self.recording, metadata) as recorder:
            driver = MemoryDriver(self.arm, clock.now_s, PERIOD_S)
            loop = ControlLoop(driver, self._new_safety(), clock, recorder=recorder, stopped=stopped)
            loop.run(GoalWork(self.runner, self.goals(), seconds_per_goal=GOAL_S))
        self.recording.unlink()
        if loop.report.faults:
            raise RuntimeError(f"expected a bench without a fault stop, got {loop.report.faults[0]}")
        return LoopRun(loop, recorder.dropped)


def export_untrained(arm: Arm, settings: DDPGSettings, path: Path) -> ExportedPolicy:
    """Export an untrained DDPG policy, which is as fast as a trained one; returns the exported module."""
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


def percentiles_us(times_s: Times, rounds: int) -> dict[str, float]:
    """Percentiles in microseconds: p50 and p99 as medians over the rounds, p99 of all rounds together, and the worst.

    The medians are robust against rounds disturbed by other programs.
    """
    times_us = 1e6 * times_s.reshape(rounds, -1)
    p50, p99 = np.median(np.percentile(times_us, (50, 99), axis=1), axis=1).tolist()
    return {"p50": p50, "p99": p99, "p99_of_all": float(np.percentile(times_us, 99)), "worst": float(times_us.max())}


@contextlib.contextmanager
def quiet_process() -> Iterator[str]:
    """Prepare this process as `arm-control run` does: real-time priority if permitted, no garbage collection.

    Yields the line that `run` prints about the priority.
    """
    policy = os.sched_getscheduler(0)
    parameters = os.sched_getparam(0)
    priority = request_priority()
    gc.collect()
    gc.freeze()
    try:
        yield priority
    finally:
        gc.unfreeze()
        os.sched_setscheduler(0, policy, parameters)
