"""`arm-control run`: one run on an arm, from connecting to the report.

The control loop runs in the main thread, and with it the driver. A second thread prints (`process.console`), and a
third one reads goals from standard input, if there are any (`goal_input`). A separate process writes the recording
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
from arm_control.runner.loop import ControlLoop
from arm_control.runner.motions import Script
from arm_control.runner.planning import Plan, make_safety, plan_policy, plan_recording
from arm_control.runner.priority import request_priority
from arm_control.runner.report import LoopReport, format_report
from arm_control.runner.run_recorder import close_recorder, make_recorder
from arm_control.runner.safety import Fault
from arm_control.runner.session_config import SessionConfig, parse_pose

Work = Callable[[ControlLoop], Script]


def run_session(config: SessionConfig, console: Console) -> dict[str, Any]:
    """Run a policy or a recording on the arm, print the report, and return its figures."""
    driver_type = load_driver(config.driver)
    config.check_driver(driver_type)
    plan = plan_recording(config, driver_type) if config.of_recording else plan_policy(config, driver_type)
    with stop_on_signals() as stop, contextlib.ExitStack() as stack:
        loop, work = connected_loop(config, plan, driver_type, console, stop, stack)
        announce(config, plan, driver_type, console)
        # Exclude the existing objects from garbage collection, which would interrupt ticks.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        report = run_loop(loop, work, console)
        print_report(config, report, console)
        if loop.torque_on:
            console.err("the arm is not parked, and its torque is on")
    return report.figures()


def connected_loop(
    config: SessionConfig,
    plan: Plan,
    driver_type: DriverType,
    console: Console,
    stop: Callable[[], bool],
    stack: contextlib.ExitStack,
) -> tuple[ControlLoop, Work]:
    """Connect to the arm; returns the control loop and its work, for which `stack` closes everything."""
    clock: Clock = FastTime() if config.pace == "fast" else RealTime()
    # Check the goals once before connecting, so that an unreachable one is reported early.
    planned = make_safety(config, plan, driver_type, plan.limits)
    plan.work(planned, console)
    start_deg = planned.workspace.default_pose_deg()
    # Connect, and check again within the limits of the connected arm.
    driver = connect(config, plan, driver_type, clock, start_deg)
    stack.callback(driver.close)
    check_driver(driver, plan)
    safety = make_safety(config, plan, driver_type, plan.limits.tightened(driver.limits))
    work = plan.work(safety, console)
    # Open the keyboard, unless standard input gives the goals, and the recording.
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
    """Print the line of the checks, and the header of the table of goals."""
    console.out(plan.summary + ("; dry run: nothing is sent" if config.shadow else ""))
    if not driver_type.simulated:
        console.out(request_priority())
    if not config.of_recording:
        console.out("        goal x, y, z (m)        error   reached after")


def run_loop(loop: ControlLoop, work: Work, console: Console) -> LoopReport:
    """Run the loop. An error that leaves the torque on becomes a fault in the report; others are raised."""
    try:
        return loop.run(work)
    except (RuntimeError, ValueError, OSError) as error:
        is_known = isinstance(error, DriverError) and bool(loop.report.faults)
        if not is_known and not loop.torque_on:
            raise
        if not is_known:
            loop.report.faults.append(Fault("failure", str(error)))
        return loop.report  # of the part that was done
    except KeyboardInterrupt:
        console.err("interrupted again: the arm is not parked, and its torque is unchanged")
        raise


def print_report(config: SessionConfig, report: LoopReport, console: Console) -> None:
    """Print the report below the goals."""
    for line in format_report(report, fast=config.pace == "fast"):
        console.out(line)
    if report.interrupted:
        console.err("interrupted; the arm is parked" if report.parked else "interrupted")
