"""`arm-control run`: an exported policy, a driver, and goals from wherever they come."""

import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from arm_control.commands import Run
from arm_control.runner import PolicyRunner
from arm_control.runner.loop import PERCENTILES, GoalResult, run_goals
from arm_control.signals import Stop, stop_on_signals
from envs.tasks import Course, MovingGoal, StillGoal, Track


def run_policy(command: Run) -> dict[str, Any]:
    """Drive the arm through the goals, print what it did, and return the figures."""
    runner = PolicyRunner.load(command.policy)
    with stop_on_signals() as stop:
        goals = read_goals(command, runner, stop)
        if command.goals_file != "-":
            goals = iter(list(goals))  # all of them checked before the arm moves; standard input comes as it comes

        # The only part that loads PyBullet.
        from arm_control.drivers.simulation import SimulationDriver
        from arm_control.sources import open_arm

        driver = SimulationDriver(open_arm(runner.arm, command.arm), runner.period_s, command.imperfections)
        samples = len(runner.contract.golden.target_deg)
        print(f"{command.policy}: contract and {samples} golden samples hold", flush=True)
        print("        goal x, y, z (m)        error   reached after", flush=True)
        try:
            report = run_goals(
                runner,
                driver,
                goals,
                seconds_per_goal=command.seconds_per_goal,
                real_time=command.pace == "realtime",
                stopped=stop,
                on_goal=print_goal,
            )
        finally:
            driver.close()
    figures = report.figures()
    if report.goals:
        latency = figures["inference_and_limits_us"]
        rate = "" if command.pace == "fast" else f", wanted {figures['wanted_rate_hz']:.1f}, {report.late_ticks} late"
        print(f"mean error {figures['mean_error_mm']:.2f} mm over {len(report.goals)} goals")
        print(f"loop {figures['rate_hz']:.1f} Hz{rate}")
        print("inference and limits " + ", ".join(f"{name} {latency[name]:.0f} us" for name in PERCENTILES))
    if report.interrupted:
        print("interrupted; the arm is parked", file=sys.stderr)
    return figures


PATH_NAMES = {"eight": "figure of eight"}


def print_goal(result: GoalResult) -> None:
    """One line of the table."""
    x, y, z = result.goal_m
    reached = "not reached" if result.time_to_reach_s is None else f"{result.time_to_reach_s:.2f} s"
    end = reached if result.path is None else f"RMS on a {PATH_NAMES.get(result.path, result.path)}"
    print(f"  {x:8.4f} {y:8.4f} {z:8.4f}   {result.error_mm:7.2f} mm   {end}", flush=True)


def read_goals(command: Run, runner: PolicyRunner, stop: Stop) -> Iterator[Course]:
    """The goals that the command asks for, each checked to be reachable. Raises ValueError, naming where it stands."""
    if command.random is not None and runner.contract.follows:
        contract = runner.contract
        task = Track(path=contract.path or Track.path, speed_m_s=contract.speed_m_s or Track.speed_m_s)
        generator = np.random.default_rng(command.seed)
        steps = round(command.seconds_per_goal / runner.period_s)
        for _ in range(command.random):
            yield MovingGoal(task.draw_path(runner.arm, generator), steps, runner.period_s)
    elif command.random is not None:
        limits = runner.limits
        poses = np.random.default_rng(command.seed).uniform(
            limits.lower_deg, limits.upper_deg, (command.random, len(limits.lower_deg))
        )
        yield from (StillGoal(tuple(tip)) for tip in runner.arm.forward_kinematics(poses).tolist())
    elif command.goals_file is None:
        for text in command.goal:
            yield parse_goal(text, "--goal", runner)
    elif command.goals_file == "-" and sys.stdin is None:
        raise ValueError("there is no standard input to read goals from")
    elif command.goals_file == "-":
        yield from parse_lines(waited_lines(stop), "standard input", runner)
    else:
        try:
            with open(command.goals_file) as file:
                lines = file.readlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read goals from {command.goals_file}: {error}") from None
        goals = list(parse_lines(lines, command.goals_file, runner))
        if not goals:
            raise ValueError(f"there is no goal in {command.goals_file}: wanted x,y,z in metres on each line")
        yield from goals


def waited_lines(stop: Stop) -> Iterator[str]:
    """The lines of standard input as they come, until it ends or Ctrl-C interrupts the waiting."""
    while True:
        stop.waiting = True
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            return
        finally:
            stop.waiting = False
        if not line:
            return
        yield line


def parse_lines(lines: Iterable[str], name: str, runner: PolicyRunner) -> Iterator[Course]:
    """A goal from each line that is not empty or a # comment."""
    for number, line in enumerate(lines, 1):
        if text := line.split("#")[0].strip():
            yield parse_goal(text, f"{name}, line {number}", runner)


def parse_goal(text: str, where: str, runner: PolicyRunner) -> StillGoal:
    """x,y,z or x y z in metres. Raises ValueError, naming where it stands."""
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{where}: wanted a goal x,y,z of finite numbers in metres, got '{text}'")
    try:
        return StillGoal(runner.check_goal(numbers))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
