"""Planning a run from a policy or a recording: its work, its arm, its rates, and its safety checks."""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

from arm_control.drivers.base import DriverType
from arm_control.policy_file.onnx_file import LARGEST_FILE
from arm_control.process.console import Console
from arm_control.process.printing import counted
from arm_control.recording.reading import Recording
from arm_control.runner.goal_input import read_goals
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import ControlLoop
from arm_control.runner.motions import Script
from arm_control.runner.policy_runner import PolicyRunner
from arm_control.runner.recorded import RecordingWork, open_recording
from arm_control.runner.report import format_goal
from arm_control.runner.safety import Safety, SafetySettings
from arm_control.runner.safety.tracking import MAX_DELAY_S, MAX_LAG_S
from arm_control.runner.session_config import SessionConfig, parse_workspace
from envs.arm import Arm
from envs.files import read_file
from envs.imperfections import PRESETS, Imperfections, imperfections_from_json, open_imperfections
from envs.limits import JointLimits


@dataclass(frozen=True)
class Plan:
    """The work of a run, and what it requires of the arm."""

    arm: Arm
    limits: JointLimits
    period_s: float
    slowest_rate_hz: float  # the lowest possible rate
    summary: str  # the line that reports the checks of the policy or recording
    metadata: dict[str, str]  # for a recording of this run
    work: Callable[[Safety, Console], Callable[[ControlLoop], Script]]
    imperfections: Imperfections  # of the simulated arm, or expected of a real one
    calibration_sha256: str = ""  # the calibration that it requires; any if empty


def plan_policy(config: SessionConfig, driver_type: DriverType) -> Plan:
    """Plan a run of a policy over its goals. Raises ValueError for an invalid policy or rate."""
    # Load the policy, and choose the control period.
    runner = PolicyRunner.load(config.source)
    contract = runner.contract
    period_s = runner.period_s if config.rate is None else 1.0 / config.rate
    if period_s > runner.period_s * (1.0 + 1e-9):
        raise ValueError(f"--rate: expected at least the policy's {1 / runner.period_s:g} Hz, got {config.rate:g}")

    imperfections = imperfections_of(config, driver_type, imperfections_from_json(contract.imperfections))

    def work(safety: Safety, console: Console) -> GoalWork:
        """Read and check all goals before the arm moves; those on standard input as they arrive."""
        goals = read_goals(config, runner, safety)
        if config.goals_file != "-":
            goals = iter(list(goals))
        return GoalWork(
            runner,
            goals,
            seconds_per_goal=config.seconds_per_goal,
            arm=imperfections,
            on_goal=lambda result: console.out(format_goal(result)),
        )

    # The metadata of a recording that this run makes.
    metadata = {
        "policy": config.source,
        "policy_sha256": hashlib.sha256(read_file(config.source, LARGEST_FILE)).hexdigest(),
        "policy_period_s": repr(runner.period_s),
        "environment": contract.environment,
        "goal_tolerance_m": repr(contract.goal_tolerance_m),
    }
    return Plan(
        arm=runner.arm,
        limits=runner.limits,
        period_s=period_s,
        slowest_rate_hz=1.0 / runner.period_s,
        summary=f"{config.source}: contract and {len(contract.golden.target_deg)} golden samples verified",
        metadata=metadata,
        work=work,
        imperfections=imperfections,
    )


def plan_recording(config: SessionConfig, driver_type: DriverType) -> Plan:
    """Plan a replay of a recording. Raises ValueError for one that cannot be read or has no targets."""
    recording, arm = open_recording(config.source)
    period_s = float(recording.metadata["period_s"]) if config.rate is None else 1.0 / config.rate

    def work(safety: Safety, console: Console) -> RecordingWork:
        """Check every target before the arm moves."""
        try:
            replayed = RecordingWork(recording, speed=config.speed, say=console.err)
            replayed.check(safety)
        except ValueError as error:
            raise ValueError(f"{config.source}: {error}") from None
        return replayed

    metadata = {"recording": config.source}
    for name in ("environment", "goal_tolerance_m"):
        if name in recording.metadata:
            metadata[name] = recording.metadata[name]
    return Plan(
        arm=arm,
        limits=arm.limits,
        period_s=period_s,
        slowest_rate_hz=0.0,
        summary=describe_recording(config.source, recording),
        metadata=metadata,
        work=work,
        imperfections=imperfections_of(config, driver_type),
        calibration_sha256=recording.metadata.get("calibration_sha256", ""),
    )


def describe_recording(path: str, recording: Recording) -> str:
    """The targets of a recording in one line. Raises ValueError for invalid targets."""
    length_s = 0.0
    gaps = 0
    if recording.ticks:
        whole = RecordingWork(recording)
        length_s = whole.length_s
        gaps = whole.gaps
    line = f"{path}: {length_s:.1f} s of targets, all within limits and workspace"
    if gaps:
        line += f"; {counted(gaps, 'gap')}, crossed slowly"
    if recording.lost:
        line += f"; damaged, unreadable: {recording.lost}"
    return line


def imperfections_of(
    config: SessionConfig, driver_type: DriverType, trained: Imperfections = PRESETS["ideal"]
) -> Imperfections:
    """The dynamics of a simulated arm, or those expected of a real one.

    For a real arm: those of --imperfections, else the measured ones that the policy was trained with, else `xl430`.
    """
    if config.imperfections is not None:
        return open_imperfections(config.imperfections)
    if driver_type.simulated:
        return PRESETS["ideal"]
    return PRESETS["xl430"] if trained.name in PRESETS else trained


def make_safety(config: SessionConfig, plan: Plan, driver_type: DriverType, limits: JointLimits) -> Safety:
    """The safety checks, with limits that the flags of the command tighten."""
    # --max-speed and --max-acceleration
    max_speed = math.inf if config.max_speed is None else config.max_speed
    max_acceleration = math.inf if config.max_acceleration is None else config.max_acceleration
    tightened = JointLimits(
        limits.lower_deg,
        limits.upper_deg,
        tuple(min(speed, max_speed) for speed in limits.max_speed_deg_s),
        tuple(min(acceleration, max_acceleration) for acceleration in limits.max_acceleration_deg_s2),
    )
    # --table and --workspace; a real arm stands on a table at z = 0 by default.
    table_m = config.table
    if table_m is None and not driver_type.simulated:
        table_m = 0.0
    # Tracking allows for the delay and lag that the arm is described with.
    described = plan.imperfections
    settings = SafetySettings(
        table_m=table_m,
        workspace_m=parse_workspace(config.workspace),
        max_delay_s=max(MAX_DELAY_S, described.action_delay_s[1] + described.observation_delay_s[1]),
        max_lag_s=max(MAX_LAG_S, described.servo_lag_s[1]),
    )
    # In a dry run, the arm does not follow the targets.
    if config.shadow:
        settings = dataclasses.replace(settings, tracking_deg=math.inf)
    return Safety(plan.arm, tightened, plan.period_s, settings)
