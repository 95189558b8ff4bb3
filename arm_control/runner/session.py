"""`arm-control run`: a driver, and an exported policy with goals from wherever they come, or a recording."""

import contextlib
import dataclasses
import gc
import hashlib
import io
import json
import math
import os
import queue
import select
import signal
import sys
import tempfile
import termios
import threading
import tty
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from arm_control.drivers.base import Driver, DriverError, DriverType, OpeningContext, round_down
from arm_control.drivers.opening import load_driver
from arm_control.policy_file.onnx_file import LARGEST_FILE
from arm_control.process.console import Console
from arm_control.process.printing import counted
from arm_control.process.signals import stop_on_signals
from arm_control.recording.recorder import Recorder
from arm_control.runner import PolicyRunner
from arm_control.runner.clocks import Clock, FastTime, RealTime
from arm_control.runner.goals import GoalWork
from arm_control.runner.loop import ControlLoop, Script
from arm_control.runner.recorded import RecordingWork, open_recording
from arm_control.runner.report import format_goal, format_report
from arm_control.runner.safety import Fault, Safety, SafetySettings, WorkspaceError
from arm_control.runner.safety.tracking import MAX_DELAY_S, MAX_LAG_S
from arm_control.runner.session_config import MOST_RUN_GOALS, SessionConfig
from arm_control.runs.arm import open_arm
from envs.arm import Arm
from envs.files import read_file, read_text
from envs.imperfections import PRESETS, Imperfections, imperfections_from_json, open_imperfections
from envs.limits import ROUNDING_M, TABLE_M, JointLimits
from envs.tasks import check_task_options, environment_of
from envs.tasks.base import Course, StillGoal, Task

LOWEST_RATE_HZ = 10.0  # that --rate takes
NOT_RANDOM = 1000  # random poses tried for each goal
PATH_TRIES = 30  # random paths tried for each path, each of which takes longer
WAITING_GOALS = 100  # from standard input, read ahead
LARGEST_GOALS = 2**24  # bytes of a file of goals
LONGEST_LINE = 1000  # characters of a goal on standard input


@dataclass(frozen=True)
class Plan:
    """What is to be done, and with what arm."""

    arm: Arm
    limits: JointLimits
    period_s: float
    slowest_rate_hz: float  # that it can be done at
    said: str  # that it was checked, and how
    metadata: dict[str, str]  # of a recording of it
    work: Callable[[Safety, Console], Callable[[ControlLoop], Script]]
    imperfections: Imperfections  # of the simulated arm, or expected of a real one
    calibration_sha256: str = ""  # that it needs; any will do if empty


def run_session(config: SessionConfig, console: Console) -> dict[str, Any]:
    """Drive the arm, print what it did, and return the figures."""
    driver_type = load_driver(config.driver)
    config.check_driver(driver_type)
    clock: Clock = FastTime() if config.pace == "fast" else RealTime()
    plan = plan_recording(config, driver_type) if config.of_recording else plan_policy(config, driver_type)
    with stop_on_signals() as stop, contextlib.ExitStack() as stack:
        # Once before there is an arm, so that a goal out of reach is told before anything is connected to.
        planned = make_safety(config, plan, driver_type, plan.limits)
        plan.work(planned, console)
        start_deg = planned.workspace.default_pose_deg()
        driver = connect(config, plan, driver_type, clock, start_deg)
        stack.callback(driver.close)
        check_driver(driver, plan)
        safety = make_safety(config, plan, driver_type, plan.limits.tightened(driver.limits))
        work = plan.work(safety, console)
        key = None
        if clock.waits and config.goals_file != "-":
            key = stack.enter_context(keyboard())
        recorder = make_recorder(config, plan, driver_type, driver, start_deg)
        stack.callback(close_recorder, recorder, console)
        loop = ControlLoop(
            driver,
            safety,
            clock,
            park_deg=config.park_deg,
            shadow=config.shadow,
            recorder=recorder,
            stopped=stop,
            key=key,
            say=console.err,
        )
        console.out(plan.said + ("; shadow: nothing is sent" if config.shadow else ""))
        if not driver_type.simulated:
            console.out(ask_for_priority())
        if not config.of_recording:
            console.out("        goal x, y, z (m)        error   reached after")
        gc.collect()
        gc.freeze()  # what is there stays: the collector need not look at it between ticks
        stack.callback(gc.unfreeze)
        try:
            report = loop.run(work)
        except (RuntimeError, ValueError, OSError) as error:
            report = loop.report  # what was done is still to be told
            known = isinstance(error, DriverError) and report.faults
            if not known and not loop.torque_on:
                raise
            if not known:
                report.faults.append(Fault("failure", str(error)))
        except KeyboardInterrupt:
            console.err("interrupted again: the arm is not parked, and its torque is as it was")
            raise
        for line in format_report(report, fast=config.pace == "fast"):
            console.out(line)
        if report.interrupted:
            console.err("interrupted; the arm is parked" if report.parked else "interrupted")
        if loop.torque_on:
            console.err("the arm is not parked, and its torque was left on")
    return report.figures()


def plan_policy(config: SessionConfig, driver_type: DriverType) -> Plan:
    """A policy and its goals. Raises ValueError for a policy that is refused."""
    runner = PolicyRunner.load(config.source)
    contract = runner.contract
    period_s = runner.period_s if config.rate is None else 1.0 / config.rate
    if period_s > runner.period_s * (1.0 + 1e-9):
        raise ValueError(f"--rate: wanted at least the policy's {1 / runner.period_s:g} Hz, got {config.rate:g}")

    imperfections = imperfections_of(config, driver_type, imperfections_from_json(contract.imperfections))

    def work(safety: Safety, console: Console) -> GoalWork:
        """All goals are checked before the arm moves; those on standard input as they come."""
        courses = read_goals(config, runner, safety)
        if config.goals_file != "-":
            courses = iter(list(courses))
        return GoalWork(
            runner,
            courses,
            seconds_per_goal=config.seconds_per_goal,
            arm=imperfections,
            on_goal=lambda result: console.out(format_goal(result)),
        )

    metadata = {
        "policy": config.source,
        "policy_sha256": hashlib.sha256(read_file(config.source, LARGEST_FILE)).hexdigest(),
        "policy_period_s": repr(runner.period_s),
        "environment": contract.environment,
        "goal_tolerance_m": repr(contract.goal_tolerance_m),
    }
    said = f"{config.source}: contract and {len(contract.golden.target_deg)} golden samples hold"
    return Plan(runner.arm, runner.limits, period_s, 1.0 / runner.period_s, said, metadata, work, imperfections)


def imperfections_of(
    config: SessionConfig, driver_type: DriverType, trained: Imperfections = PRESETS["ideal"]
) -> Imperfections:
    """The dynamics of a simulated arm, or those expected of a real one.

    A policy that was trained on measured imperfections is for the arm that they were measured on.
    """
    if config.imperfections is not None:
        return open_imperfections(config.imperfections)
    if driver_type.simulated:
        return PRESETS["ideal"]
    return PRESETS["xl430"] if trained.name in PRESETS else trained


def plan_recording(config: SessionConfig, driver_type: DriverType) -> Plan:
    """A recording. Raises ValueError for one that cannot be read or that no arm was moved in."""
    recording, arm = open_recording(config.source)
    period_s = float(recording.metadata["period_s"]) if config.rate is None else 1.0 / config.rate

    def work(safety: Safety, console: Console) -> RecordingWork:
        """Every target is checked before the arm moves."""
        try:
            replayed = RecordingWork(recording, speed=config.speed, say=console.err)
            replayed.check(safety)
        except ValueError as error:
            raise ValueError(f"{config.source}: {error}") from None
        return replayed

    whole = RecordingWork(recording) if recording.ticks else None
    length_s, gaps = (whole.length_s, whole.gaps) if whole else (0.0, 0)
    said = f"{config.source}: {length_s:.1f} s of targets, all within limits and workspace"
    if gaps:
        said += f"; {counted(gaps, 'gap')} that the arm crosses slowly"
    if recording.lost:
        said += f"; damaged, unreadable: {recording.lost}"
    metadata = {
        name: recording.metadata[name] for name in ("environment", "goal_tolerance_m") if name in recording.metadata
    }
    calibration = recording.metadata.get("calibration_sha256", "")
    return Plan(
        arm,
        arm.limits,
        period_s,
        0.0,
        said,
        metadata | {"recording": config.source},
        work,
        imperfections_of(config, driver_type),
        calibration,
    )


def make_safety(config: SessionConfig, plan: Plan, driver_type: DriverType, limits: JointLimits) -> Safety:
    """The limits of policy and arm, tightened by the flags of the command."""
    wanted = JointLimits(
        limits.lower_deg,
        limits.upper_deg,
        tuple(min(speed, config.max_speed or math.inf) for speed in limits.max_speed_deg_s),
        tuple(min(most, config.max_acceleration or math.inf) for most in limits.max_acceleration_deg_s2),
    )
    table_m = config.table
    if table_m is None and not driver_type.simulated:
        table_m = 0.0
    described = plan.imperfections
    settings = SafetySettings(
        table_m=table_m,
        workspace_m=config.box,
        max_delay_s=max(MAX_DELAY_S, described.action_delay_s[1] + described.observation_delay_s[1]),
        max_lag_s=max(MAX_LAG_S, described.servo_lag_s[1]),
    )
    if config.shadow:  # nothing follows the targets
        settings = dataclasses.replace(settings, tracking_deg=math.inf)
    return Safety(plan.arm, wanted, plan.period_s, settings)


def make_recorder(
    config: SessionConfig, plan: Plan, driver_type: DriverType, driver: Driver, start_deg: list[float]
) -> Recorder:
    """Records every tick into the file that the command names; the last seconds before a refusal in any case.

    `start_deg` is where a simulated arm starts, which is needed to simulate the recording again.
    """
    here = Path() if os.access(".", os.W_OK) else Path(tempfile.gettempdir())
    post_mortem = here / datetime.now().strftime(f"post-mortem-%Y%m%d-%H%M%S-{os.getpid()}.mcap")
    if config.record is not None:
        post_mortem = Path(config.record).with_suffix(".post-mortem.mcap")
    metadata = {
        "arm": plan.arm.name,
        "arm_urdf": plan.arm.urdf_text,
        "joint_names": json.dumps(plan.arm.joint_names),
        "period_s": repr(plan.period_s),
        "driver": config.driver,
        "simulated": json.dumps(driver_type.simulated),
        "imperfections": plan.imperfections.to_text(),
        "calibration_sha256": driver.calibration_sha256 or "",
        "shadow": json.dumps(config.shadow),
    }
    if driver_type.simulated:
        metadata["start_deg"] = json.dumps(start_deg)
    return Recorder(config.record, metadata | plan.metadata, post_mortem=post_mortem)


def close_recorder(recorder: Recorder, console: Console) -> None:
    """Finish the recording, and say what became of it."""
    if (problem := recorder.close()) is not None:
        console.err(f"recording: {problem}")
    said = "recorded" if problem is None else "recorded, as far as it goes"
    if not recorder.ticks:
        said = "not a single tick was recorded"
    for path in (recorder.path, recorder.post_mortem):
        if path is not None and path.exists():
            console.err(f"{said}: {path}")


def connect(config: SessionConfig, plan: Plan, driver_type: DriverType, clock: Clock, start_deg: list[float]) -> Driver:
    """Open the driver; a simulated arm starts in the pose `start_deg`."""
    # A simulation needs masses and meshes, which are in the arm's own file.
    arm = open_arm(plan.arm, config.arm) if driver_type.simulated else plan.arm
    context = OpeningContext(plan.period_s, tuple(start_deg), plan.imperfections, clock.now_s)
    return driver_type.open(arm, config.driver_options, context)


def check_driver(driver: Driver, plan: Plan) -> None:
    """Raise ValueError for an arm that is not the one that was planned for, with both values."""
    wanted, got = plan.arm.joint_names, tuple(driver.joint_names)
    if wanted != got:
        raise ValueError(f"the {plan.arm.name} to be moved has joints {wanted}, the driver's arm {got}")
    calibrated = driver.calibration_sha256
    if plan.calibration_sha256 and calibrated and plan.calibration_sha256 != calibrated:
        raise ValueError(
            f"it was recorded with the calibration {plan.calibration_sha256[:12]}, the arm now has {calibrated[:12]}: "
            "its degrees may not be the same"
        )
    check_rate(driver, plan)


def check_rate(driver: Driver, plan: Plan) -> None:
    """Raise ValueError for a rate that the arm's connection does not allow, naming rates that both allow."""
    rate_hz = 1.0 / plan.period_s
    if rate_hz <= driver.fastest_rate_hz * (1.0 + 1e-9):
        return
    slowest_hz, fastest_hz = max(plan.slowest_rate_hz, LOWEST_RATE_HZ), round_down(driver.fastest_rate_hz)
    hint = getattr(driver, "rate_hint", "")
    faster = f"; faster: {hint}" if hint else ""
    if slowest_hz <= fastest_hz:
        raise ValueError(
            f"{rate_hz:g} Hz is more than the arm's connection allows; expected --rate {slowest_hz:g} to "
            f"{fastest_hz:g}{faster}"
        )
    raise ValueError(
        f"the arm's connection allows at most {fastest_hz:g} Hz; expected at least the {slowest_hz:g} Hz of "
        f"{'--rate' if plan.slowest_rate_hz < LOWEST_RATE_HZ else 'the policy'}{faster}"
    )


def ask_for_priority() -> str:
    """Request real-time priority for this thread, but none it starts later; returns whether it was given, in words."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(10))
    except (OSError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "this system has none"
        return f"real-time priority: no ({reason}; 'ulimit -r 10' or CAP_SYS_NICE allows it): others may delay ticks"
    return "real-time priority: yes (SCHED_FIFO 10)"


def read_goals(config: SessionConfig, runner: PolicyRunner, safety: Safety) -> Iterator[Course | None]:
    """The goals that the command asks for, each checked to be reachable inside the workspace.

    None while standard input has no line yet. Raises ValueError, naming where a goal stands.
    """
    if config.random is not None:
        yield from random_goals(config, runner, safety)
    elif config.goals_file is None:
        for text in config.goal:
            yield parse_goal(text, "--goal", runner, safety)
    elif config.goals_file == "-" and sys.stdin is None:
        raise ValueError("there is no standard input to read goals from")
    elif config.goals_file == "-":
        typed = parse_lines(bounded_lines(sys.stdin), "standard input", runner, safety)
        yield from as_they_come(typed, timeout_s=0.0 if config.pace == "realtime" else 0.05)
    else:
        try:
            lines = io.StringIO(read_text(config.goals_file, LARGEST_GOALS), newline=None).readlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            hint = "; --goals-file - reads standard input" if config.goals_file.startswith("/dev/") else ""
            raise ValueError(f"cannot read goals from {config.goals_file}: {reason}{hint}") from None
        if (count := sum(1 for line in lines if goal_in(line))) > MOST_RUN_GOALS:
            raise ValueError(f"{config.goals_file} has {count:,} goals; expected at most {MOST_RUN_GOALS:,}")
        goals = list(parse_lines(lines, config.goals_file, runner, safety))
        if not goals:
            raise ValueError(f"there is no goal in {config.goals_file}: wanted x,y,z in metres on each line")
        yield from goals


def random_goals(config: SessionConfig, runner: PolicyRunner, safety: Safety) -> Iterator[Course]:
    """As many random goals, or paths, as the command asks for, above the table and inside the workspace.

    Raises ValueError if too few of those that are drawn are.
    """
    task = task_of(runner)
    generator = np.random.default_rng(config.seed)
    steps = round(config.seconds_per_goal / runner.period_s)
    tries = PATH_TRIES if task.moving else NOT_RANDOM
    wanted = config.random or 0
    found = 0
    tried = 0
    while tried < tries * (found + 1):  # a workspace without goals is noticed soon, however many are wanted
        tried += 1
        course = task.draw_course(runner.arm, generator, steps, runner.period_s, table_m=table_height_m(config))
        if not inside_workspace(course, steps, safety):
            continue
        yield course
        found += 1
        if found == wanted:
            return
    raise ValueError(
        f"of {tried} random {task.goals_name} above the table at z = {table_height_m(config):g} m only {found} are "
        "inside the workspace: are --workspace and --table in metres?"
    )


def task_of(runner: PolicyRunner) -> Task:
    """The task that the policy was trained for. Raises ValueError if it is not known here."""
    contract = runner.contract
    check_task_options(contract.environment, contract.given_task_options)
    return environment_of(contract.environment).task(**contract.given_task_options)


def inside_workspace(course: Course, steps: int, safety: Safety) -> bool:
    """True if all goals are inside the workspace, and for a goal drawn as a pose the ends of all links in it."""
    if course.pose_deg is not None:
        return safety.workspace.outside_m(course.pose_deg) <= ROUNDING_M
    try:
        for step in range(steps + 1):
            safety.workspace.check_point(course.goal(step)[:3])
    except WorkspaceError:
        return False
    return True


def table_height_m(config: SessionConfig) -> float:
    """Above which random goals are drawn: of the simulated arm too, which has no table unless one is named."""
    return TABLE_M if config.table is None else config.table


def as_they_come(goals: Iterator[Course], timeout_s: float) -> Iterator[Course | None]:
    """Yield goals from standard input, or None when none has come within the timeout.

    A thread reads and checks them, since the check of a goal out of reach can take a second. It runs at ordinary
    priority, and waits while WAITING_GOALS goals are not yet taken.
    """
    ready: queue.Queue[Course | Exception | None] = queue.Queue(WAITING_GOALS)

    def collect() -> None:
        """Put each goal, what is wrong with the last one, and the end into the queue."""
        try:
            for goal in goals:
                ready.put(goal)
            ready.put(None)
        except OSError:  # the terminal was closed: no more goals come
            ready.put(None)
        except Exception as error:
            ready.put(error)

    sys.setswitchinterval(0.0005)  # the loop's turn comes soon, whatever the thread does
    threading.Thread(target=collect, daemon=True).start()
    while True:
        try:
            goal = ready.get(timeout=timeout_s) if timeout_s else ready.get_nowait()
        except queue.Empty:
            yield None
            continue
        if isinstance(goal, Exception):
            raise goal
        if goal is None:
            return
        yield goal


@contextlib.contextmanager
def keyboard() -> Iterator[Callable[[], str] | None]:
    """Yield a function that returns the latest key pressed since its last call; None where there is no terminal.

    A terminal that was closed has no keys, and neither has the foreground terminal of a background job: reading or
    restoring it would stop the job (SIGTTIN, SIGTTOU), with the arm in motion.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        yield None
        return
    descriptor = sys.stdin.fileno()

    def key() -> str:
        """The key, or nothing."""
        try:
            if not select.select([descriptor], [], [], 0.0)[0]:
                return ""
            return os.read(descriptor, 1024).decode(errors="replace").lower()[-1:]
        except OSError:
            return ""

    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTTIN, signal.SIGTTOU)}
    before = None
    try:
        with contextlib.suppress(termios.error, OSError):
            if in_foreground(descriptor):
                before = termios.tcgetattr(descriptor)
                tty.setcbreak(descriptor, termios.TCSANOW)  # keys come at once, without Enter; Ctrl-C is still a signal
        yield key
    finally:
        with contextlib.suppress(termios.error, OSError):
            if before is not None and in_foreground(descriptor):
                termios.tcsetattr(descriptor, termios.TCSANOW, before)  # at once: output may never drain
        for number, handler in previous.items():
            signal.signal(number, handler)


def in_foreground(terminal: int) -> bool:
    """Whether this process is in the terminal's foreground, and not a background job."""
    return os.tcgetpgrp(terminal) == os.getpgrp()


def bounded_lines(stream: TextIO) -> Iterator[str]:
    """The lines of a stream. Raises ValueError for one that does not end soon, before it fills the memory."""
    while line := _read_line(stream):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"standard input: expected lines of at most {LONGEST_LINE} characters")
        yield line


def _read_line(stream: TextIO) -> str:
    try:
        return stream.readline(LONGEST_LINE + 1)
    except UnicodeDecodeError:
        raise ValueError("standard input is not UTF-8: expected goals as UTF-8 text") from None


def parse_lines(lines: Iterable[str], name: str, runner: PolicyRunner, safety: Safety) -> Iterator[Course]:
    """A goal from each line that is not empty or a # comment."""
    for number, line in enumerate(lines, 1):
        if text := goal_in(line):
            yield parse_goal(text, f"{name}, line {number}", runner, safety)


def goal_in(line: str) -> str:
    """The goal in a line, without a byte order mark; empty for an empty line or a # comment."""
    return line.removeprefix("\ufeff").split("#")[0].strip()


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
        safety.workspace.check_point(goal.goal_m)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return goal
