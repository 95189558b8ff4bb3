"""`arm-control run`: an exported policy, a driver, and goals from wherever they come."""

import contextlib
import dataclasses
import gc
import hashlib
import json
import math
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from arm_control.commands import Run
from arm_control.drivers import Driver
from arm_control.drivers.opening import open_driver
from arm_control.runner import PolicyRunner
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import Clock, ControlLoop, FastTime, GoalResult, LoopReport, RealTime
from arm_control.runner.safety import Safety, SafetySettings
from arm_control.runner.timings import PERCENTILES
from arm_control.signals import stop_on_signals
from arm_control.trajectory import Recorder
from envs.limits import JointLimits
from envs.tasks import Course, MovingGoal, StillGoal, Track

NOT_RANDOM = 1000  # random poses tried for each goal


def run_policy(command: Run) -> dict[str, Any]:
    """Drive the arm through the goals, print what it did, and return the figures."""
    runner = PolicyRunner.load(command.policy)
    clock: Clock = FastTime() if command.pace == "fast" else RealTime()
    period_s = runner.period_s if command.rate is None else 1.0 / command.rate
    with stop_on_signals() as stop, contextlib.ExitStack() as stack:
        safety = make_safety(command, runner, runner.limits, period_s)
        courses = read_goals(command, runner, safety)
        if command.goals_file != "-":
            courses = iter(list(courses))  # all of them checked before the arm moves; standard input comes as it comes
        driver = connect(command, runner, clock, period_s)
        stack.callback(driver.close)
        check_driver(driver, runner, period_s)
        safety = make_safety(command, runner, runner.limits.tightened(driver.limits), period_s)
        recorder = make_recorder(command, runner, driver, period_s)
        stack.callback(close_recorder, recorder)
        samples = len(runner.contract.golden.target_deg)
        print(f"{command.policy}: contract and {samples} golden samples hold", flush=True)
        loop = ControlLoop(
            driver,
            safety,
            clock,
            park_deg=command.park_deg,
            shadow=command.shadow,
            recorder=recorder,
            stopped=stop,
            key=keyboard() if clock.waits and command.goals_file != "-" else None,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
        work = GoalWork(runner, courses, seconds_per_goal=command.seconds_per_goal, on_goal=print_goal)
        print("        goal x, y, z (m)        error   reached after", flush=True)
        if command.driver != "sim":
            print(ask_for_priority(), flush=True)
        gc.collect()
        gc.freeze()  # what is there stays: the collector need not look at it between ticks
        stack.callback(gc.unfreeze)
        report = loop.run(work)
    print_report(report, fast=command.pace == "fast")
    if report.interrupted and report.parked:
        print("interrupted; the arm is parked", file=sys.stderr)
    return report.figures()


def make_safety(command: Run, runner: PolicyRunner, limits: JointLimits, period_s: float) -> Safety:
    """The limits of policy and arm, tightened by what the command says."""
    joints = range(len(limits.lower_deg))
    wanted = JointLimits(
        limits.lower_deg,
        limits.upper_deg,
        tuple(min(limits.max_speed_deg_s[joint], command.max_speed or math.inf) for joint in joints),
        tuple(min(limits.max_acceleration_deg_s2[joint], command.max_acceleration or math.inf) for joint in joints),
    )
    settings = SafetySettings(table_m=command.table, workspace_m=command.box)
    if command.shadow:  # nothing follows the targets
        settings = dataclasses.replace(settings, tracking_deg=math.inf)
    return Safety(runner.arm, wanted, period_s, settings)


def make_recorder(command: Run, runner: PolicyRunner, driver: Driver, period_s: float) -> Recorder:
    """Records every tick into the file that the command names; the last seconds before a refusal in any case."""
    post_mortem = Path(datetime.now().strftime("post-mortem-%Y%m%d-%H%M%S.mcap"))
    if command.record is not None:
        post_mortem = Path(command.record).with_suffix(".post-mortem.mcap")
    contract = runner.contract
    metadata = {
        "arm": contract.arm,
        "arm_urdf": contract.arm_urdf,
        "joint_names": json.dumps(contract.joint_names),
        "period_s": repr(period_s),
        "policy_period_s": repr(runner.period_s),
        "policy": command.policy,
        "policy_sha256": hashlib.sha256(Path(command.policy).read_bytes()).hexdigest(),
        "environment": contract.environment,
        "goal_tolerance_m": repr(contract.goal_tolerance_m),
        "driver": command.driver,
        "imperfections": command.imperfections,
        "calibration_sha256": driver.calibration_sha256 or "",
        "shadow": json.dumps(command.shadow),
    }
    return Recorder(command.record, metadata, post_mortem=post_mortem)


def close_recorder(recorder: Recorder) -> None:
    """Finish the recording, and say what became of it."""
    if (problem := recorder.close()) is not None:
        print(f"recording: {problem}", file=sys.stderr)
    for path in (recorder.path, recorder.post_mortem):
        if path is not None and path.exists():
            print(f"recorded: {path}", file=sys.stderr)


def connect(command: Run, runner: PolicyRunner, clock: Clock, period_s: float) -> Driver:
    """The arm that the command names."""
    if command.driver != "sim":
        return open_driver(command.driver, runner.arm, command.driver_options)
    # The only part that loads PyBullet.
    from arm_control.drivers.simulation import SimulationDriver
    from arm_control.sources import open_arm

    return SimulationDriver(open_arm(runner.arm, command.arm), period_s, command.imperfections, clock.now_s)


def check_driver(driver: Driver, runner: PolicyRunner, period_s: float) -> None:
    """Raise ValueError for an arm that is not the contract's, with both values."""
    wanted, got = runner.contract.joint_names, tuple(driver.joint_names)
    if wanted != got:
        raise ValueError(f"the policy moves joints {wanted}, the arm has {got}")
    if (rate := 1.0 / period_s) > driver.fastest_rate_hz * (1.0 + 1e-9):
        raise ValueError(
            f"wanted a rate of up to the arm's {driver.fastest_rate_hz:g} Hz, got {rate:g}: --rate lowers it"
        )


def ask_for_priority() -> str:
    """Ask for real-time priority; says in words whether it was given."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except (OSError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "this system has none"
        return f"real-time priority: no ({reason}; 'ulimit -r 10' or CAP_SYS_NICE allows it): others may delay ticks"
    return "real-time priority: yes (SCHED_FIFO 10)"


def print_report(report: LoopReport, *, fast: bool) -> None:
    """What the loop did, below its goals."""
    if report.goals:
        figures = report.figures()
        print(f"mean error {figures['mean_error_mm']:.2f} mm over {len(report.goals)} goals")
    if report.ticks and not fast:
        print(
            f"loop {report.ticks / report.loop_s:.1f} Hz, wanted {1 / report.period_s:.1f}; "
            f"{report.ticks} ticks, {report.late_ticks} late, {report.lost_replies} replies lost"
        )
    if report.ticks:
        for name in ("period error", "tick", "decide", "limit", "read", "write")[fast:]:
            timings = report.timings[name]
            times = (f"{label} {1e6 * timings.percentile_s(share):.0f}" for label, share in PERCENTILES.items())
            print(f"  {name:<12} {', '.join(times)}, worst {1e6 * timings.worst_s:.0f} us")
        clamped = ", ".join(f"{check} {count}" for check, count in report.clamped.items()) or "nothing"
        print(f"clamped: {clamped}; refused: {len(report.refusals) or 'nothing'}")


PATH_NAMES = {"eight": "figure of eight"}


def print_goal(result: GoalResult) -> None:
    """One line of the table."""
    x, y, z = result.goal_m
    reached = "not reached" if result.time_to_reach_s is None else f"{result.time_to_reach_s:.2f} s"
    end = reached if result.path is None else f"RMS on a {PATH_NAMES.get(result.path, result.path)}"
    print(f"  {x:8.4f} {y:8.4f} {z:8.4f}   {result.error_mm:7.2f} mm   {end}", flush=True)


def read_goals(command: Run, runner: PolicyRunner, safety: Safety) -> Iterator[Course | None]:
    """The goals that the command asks for, each checked to be reachable inside the workspace.

    None while standard input has no line yet. Raises ValueError, naming where a goal stands.
    """
    if command.random is not None and runner.contract.follows:
        contract = runner.contract
        task = Track(path=contract.path or Track.path, speed_m_s=contract.speed_m_s or Track.speed_m_s)
        generator = np.random.default_rng(command.seed)
        steps = round(command.seconds_per_goal / runner.period_s)
        for _ in range(command.random):
            yield MovingGoal(task.draw_path(runner.arm, generator), steps, runner.period_s)
    elif command.random is not None:
        limits, generator = runner.limits, np.random.default_rng(command.seed)
        found = 0
        for _ in range(NOT_RANDOM * command.random):
            pose = generator.uniform(limits.lower_deg, limits.upper_deg).tolist()
            if safety.outside_m(pose) <= 0.0:
                yield StillGoal(runner.arm.tip_position(pose))
                found += 1
                if found == command.random:
                    return
        raise ValueError(f"of {NOT_RANDOM * command.random} random poses only {found} are inside the workspace")
    elif command.goals_file is None:
        for text in command.goal:
            yield parse_goal(text, "--goal", runner, safety)
    elif command.goals_file == "-" and sys.stdin is None:
        raise ValueError("there is no standard input to read goals from")
    elif command.goals_file == "-":
        yield from parse_lines(
            waiting_lines(0.0 if command.pace == "realtime" else 0.05), "standard input", runner, safety
        )
    else:
        try:
            with open(command.goals_file) as file:
                lines = file.readlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read goals from {command.goals_file}: {error}") from None
        goals = list(parse_lines(lines, command.goals_file, runner, safety))
        if not goals:
            raise ValueError(f"there is no goal in {command.goals_file}: wanted x,y,z in metres on each line")
        yield from goals


def waiting_lines(timeout_s: float) -> Iterator[str | None]:
    """The lines of standard input as they come, until it ends; None when none has come within the timeout."""
    try:
        descriptor, rest = sys.stdin.fileno(), b""
    except OSError:  # a text, not a file: all of it is there
        yield from sys.stdin
        return
    while True:
        if not select.select([descriptor], [], [], timeout_s)[0]:
            yield None
            continue
        piece = os.read(descriptor, 65_536)
        *lines, rest = (rest + piece).split(b"\n")
        if not piece and rest:
            lines = [rest]
        for line in lines:
            yield line.decode(errors="replace")
        if not piece:
            return


def keyboard() -> Callable[[], str] | None:
    """Tells the letter that was last typed, with Enter, since it was asked; None where there is no terminal."""
    if sys.stdin is None or not sys.stdin.isatty():
        return None
    descriptor = sys.stdin.fileno()

    def key() -> str:
        """The letter, or nothing."""
        if not select.select([descriptor], [], [], 0.0)[0]:
            return ""
        return os.read(descriptor, 1024).decode(errors="replace").strip().lower()[-1:]

    return key


def parse_lines(
    lines: Iterable[str | None], name: str, runner: PolicyRunner, safety: Safety
) -> Iterator[Course | None]:
    """A goal from each line that is not empty or a # comment; None for a line that has not come."""
    number = 0
    for line in lines:
        if line is None:
            yield None
            continue
        number += 1
        if text := line.split("#")[0].strip():
            yield parse_goal(text, f"{name}, line {number}", runner, safety)


def parse_goal(text: str, where: str, runner: PolicyRunner, safety: Safety) -> StillGoal:
    """x,y,z or x y z in metres. Raises ValueError, naming where it stands."""
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{where}: wanted a goal x,y,z of finite numbers in metres, got '{text}'")
    try:
        goal = StillGoal(runner.check_goal(numbers))
        safety.check_point(goal.goal_m)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return goal
