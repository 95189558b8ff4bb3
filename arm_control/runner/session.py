"""`arm-control run`: one run on an arm, from connecting to the report.

The control loop, and with it the driver, is in the main thread. A thread prints (`process.console`), and one reads
goals from standard input, if they come from there (`goal_input`). The recording is written by a process
(`recording.recorder`).
"""

import contextlib
import gc
from collections.abc import Callable
from typing import Any

from arm_control.drivers.base import DriverError, DriverType
from arm_control.drivers.opening import load_driver
from arm_control.process.console import Console
from arm_control.process.signals import stop_on_signals
from arm_control.runner.clocks import Clock, FastTime, RealTime
from arm_control.runner.connection import check_driver, connect
from arm_control.runner.keyboard import keyboard
from arm_control.runner.loop import ControlLoop, Script
from arm_control.runner.planning import Plan, make_safety, plan_policy, plan_recording
from arm_control.runner.priority import ask_for_priority
from arm_control.runner.report import LoopReport, format_report
from arm_control.runner.run_recorder import close_recorder, make_recorder
from arm_control.runner.safety import Fault
from arm_control.runner.session_config import SessionConfig, parse_pose

Work = Callable[[ControlLoop], Script]


def run_session(config: SessionConfig, console: Console) -> dict[str, Any]:
    """Drive the arm, print what it did, and return the figures."""
    driver_type = load_driver(config.driver)
    config.check_driver(driver_type)
    plan = plan_recording(config, driver_type) if config.of_recording else plan_policy(config, driver_type)
    with stop_on_signals() as stop, contextlib.ExitStack() as stack:
        loop, work = connected_loop(config, plan, driver_type, console, stop, stack)
        announce(config, plan, driver_type, console)
        # What is there stays: the collector need not look at it between ticks.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        report = run_loop(loop, work, console)
        print_report(config, report, console)
        if loop.torque_on:
            console.err("the arm is not parked, and its torque was left on")
    return report.figures()


def connected_loop(
    config: SessionConfig,
    plan: Plan,
    driver_type: DriverType,
    console: Console,
    stop: Callable[[], bool],
    stack: contextlib.ExitStack,
) -> tuple[ControlLoop, Work]:
    """Connect to the arm, and return the loop that moves it and its work; `stack` closes what is opened."""
    clock: Clock = FastTime() if config.pace == "fast" else RealTime()
    # Once before there is an arm, so that a goal out of reach is reported before anything is connected to.
    planned = make_safety(config, plan, driver_type, plan.limits)
    plan.work(planned, console)
    start_deg = planned.workspace.default_pose_deg()
    # Connect, and plan again within the limits of the arm that is there.
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
        park_deg=parse_pose(config.park),
        dry_run=config.shadow,
        recorder=recorder,
        stopped=stop,
        key=key,
        say=console.err,
    )
    return loop, work


def announce(config: SessionConfig, plan: Plan, driver_type: DriverType, console: Console) -> None:
    """Print what was checked, and the head of the table of goals."""
    console.out(plan.said + ("; dry run: nothing is sent" if config.shadow else ""))
    if not driver_type.simulated:
        console.out(ask_for_priority())
    if not config.of_recording:
        console.out("        goal x, y, z (m)        error   reached after")


def run_loop(loop: ControlLoop, work: Work, console: Console) -> LoopReport:
    """Run the loop; an error that leaves the torque on becomes a fault of the report, other errors are raised."""
    try:
        return loop.run(work)
    except (RuntimeError, ValueError, OSError) as error:
        is_known = isinstance(error, DriverError) and bool(loop.report.faults)
        if not is_known and not loop.torque_on:
            raise
        if not is_known:
            loop.report.faults.append(Fault("failure", str(error)))
        return loop.report  # with what was done until then
    except KeyboardInterrupt:
        console.err("interrupted again: the arm is not parked, and its torque is as it was")
        raise


def print_report(config: SessionConfig, report: LoopReport, console: Console) -> None:
    """Print the report below the goals."""
    for line in format_report(report, fast=config.pace == "fast"):
        console.out(line)
    if report.interrupted:
        console.err("interrupted; the arm is parked" if report.parked else "interrupted")
