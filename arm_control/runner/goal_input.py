"""The goals of a run: from the command line, a file, standard input, or random; metres in the base frame."""

import io
import math
import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TextIO

import numpy as np

from arm_control.runner.policy_runner import PolicyRunner
from arm_control.runner.safety import Safety, WorkspaceError
from arm_control.runner.session_config import MOST_RUN_GOALS, SessionConfig
from envs.files import read_text
from envs.limits import ROUNDING_M, TABLE_M
from envs.tasks import check_task_options, environment_of
from envs.tasks.base import GoalTrajectory, StillGoal, Task

POSE_TRIES = 1000  # random poses that are tried for each goal
PATH_TRIES = 30  # random paths that are tried for each path, which takes longer
QUEUED_GOALS = 100  # goals that are read ahead from standard input
MAX_FILE_BYTES = 2**24
MAX_LINE_CHARACTERS = 1000  # on standard input


def read_goals(config: SessionConfig, runner: PolicyRunner, safety: Safety) -> Iterator[GoalTrajectory | None]:
    """The goals of a run, each checked to be reachable and inside the workspace; None while standard input has no line.

    Raises ValueError for an invalid goal, with the flag or the line that it comes from.
    """
    if config.random is not None:
        yield from random_goals(config, runner, safety)
    elif config.goals_file is None:
        for text in config.goal:
            yield parse_goal(text, "--goal", runner, safety)
    elif config.goals_file == "-":
        yield from standard_input_goals(config, runner, safety)
    else:
        yield from file_goals(config.goals_file, runner, safety)


def standard_input_goals(
    config: SessionConfig, runner: PolicyRunner, safety: Safety
) -> Iterator[GoalTrajectory | None]:
    """The goals from standard input as they arrive; None while there is none."""
    if sys.stdin is None:
        raise ValueError("there is no standard input to read goals from")
    typed = parse_lines(bounded_lines(sys.stdin), "standard input", runner, safety)
    yield from read_ahead(typed, timeout_s=0.0 if config.pace == "realtime" else 0.05)


def file_goals(path: str, runner: PolicyRunner, safety: Safety) -> list[GoalTrajectory]:
    """The goals of a file. Raises ValueError for a file that cannot be read, has no goals, or too many."""
    try:
        # Read all lines, with any line ends.
        lines = io.StringIO(read_text(path, MAX_FILE_BYTES), newline=None).readlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = "; --goals-file - reads standard input" if path.startswith("/dev/") else ""
        raise ValueError(f"cannot read goals from {path}: {reason}{hint}") from None
    count = sum(1 for line in lines if goal_in(line))
    if count > MOST_RUN_GOALS:
        raise ValueError(f"{path} has {count:,} goals; expected at most {MOST_RUN_GOALS:,}")
    goals = list(parse_lines(lines, path, runner, safety))
    if not goals:
        raise ValueError(f"there is no goal in {path}: expected x,y,z in metres on each line")
    return goals


def random_goals(config: SessionConfig, runner: PolicyRunner, safety: Safety) -> Iterator[GoalTrajectory]:
    """Random goals or paths, `config.random` of them, above the table and inside the workspace.

    Raises ValueError if too few of the drawn ones are inside.
    """
    task = task_of(runner)
    generator = np.random.default_rng(config.seed)
    steps = round(config.seconds_per_goal / runner.period_s)
    tries = PATH_TRIES if task.moving else POSE_TRIES
    count = config.random or 0
    found = 0
    tried = 0
    # The number of tries grows with the goals found, so that an empty workspace is reported soon.
    while tried < tries * (found + 1):
        tried += 1
        trajectory = task.draw_goals(runner.arm, generator, steps, runner.period_s, table_m=table_height_m(config))
        if not inside_workspace(trajectory, steps, safety):
            continue
        yield trajectory
        found += 1
        if found == count:
            return
    raise ValueError(
        f"of {tried} random {task.goals_name} above the table at z = {table_height_m(config):g} m only {found} are "
        "inside the workspace: are --workspace and --table in metres?"
    )


def task_of(runner: PolicyRunner) -> Task:
    """The task that the policy was trained for. Raises ValueError for an unknown one."""
    contract = runner.contract
    check_task_options(contract.environment, contract.given_task_options)
    return environment_of(contract.environment).task(**contract.given_task_options)


def inside_workspace(trajectory: GoalTrajectory, steps: int, safety: Safety) -> bool:
    """Return True if all goals of a trajectory are inside the workspace; of a goal drawn as a pose, all link ends."""
    if trajectory.pose_deg is not None:
        return safety.workspace.outside_m(trajectory.pose_deg) <= ROUNDING_M
    try:
        for step in range(steps + 1):
            safety.workspace.check_point(trajectory.goal(step)[:3])
    except WorkspaceError:
        return False
    return True


def table_height_m(config: SessionConfig) -> float:
    """Height above which random goals are drawn: --table, or z = 0 (also for a simulated arm without a table)."""
    return TABLE_M if config.table is None else config.table


def read_ahead(goals: Iterator[GoalTrajectory], timeout_s: float) -> Iterator[GoalTrajectory | None]:
    """Yield goals from standard input, or None if none arrives within the timeout.

    A thread reads and checks them, since the check of an unreachable goal can take a second. It runs at ordinary
    priority, and waits while QUEUED_GOALS goals are queued.
    """
    ready: queue.Queue[GoalTrajectory | Exception | None] = queue.Queue(QUEUED_GOALS)

    def collect() -> None:
        """Put each goal into the queue, then the error of an invalid one or None for the end."""
        try:
            for goal in goals:
                ready.put(goal)
            ready.put(None)
        except OSError:  # the terminal was closed: there are no more goals
            ready.put(None)
        except Exception as error:
            ready.put(error)

    # Let the control loop interrupt this thread after 0.5 ms instead of 5 ms.
    sys.setswitchinterval(0.0005)
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


def bounded_lines(stream: TextIO) -> Iterator[str]:
    """The lines of a stream. Raises ValueError for a line that is too long, before it fills the memory."""
    while line := _read_line(stream):
        if len(line) > MAX_LINE_CHARACTERS:
            raise ValueError(f"standard input: expected lines of at most {MAX_LINE_CHARACTERS} characters")
        yield line


def _read_line(stream: TextIO) -> str:
    try:
        return stream.readline(MAX_LINE_CHARACTERS + 1)
    except UnicodeDecodeError:
        raise ValueError("standard input is not UTF-8: expected goals as UTF-8 text") from None


def parse_lines(lines: Iterable[str], name: str, runner: PolicyRunner, safety: Safety) -> Iterator[GoalTrajectory]:
    """A goal from each line, except for empty lines and # comments."""
    for number, line in enumerate(lines, 1):
        if text := goal_in(line):
            yield parse_goal(text, f"{name}, line {number}", runner, safety)


def goal_in(line: str) -> str:
    """The goal in a line, without a byte order mark; empty for an empty line or a # comment."""
    return line.removeprefix("\ufeff").split("#")[0].strip()


def parse_goal(text: str, where: str, runner: PolicyRunner, safety: Safety) -> StillGoal:
    """A goal from x,y,z or x y z in metres. Raises ValueError, which names its source `where`."""
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{where}: expected a goal x,y,z of finite numbers in metres, got '{text}'")
    try:
        goal = StillGoal(runner.check_goal(numbers))
        safety.workspace.check_point(goal.goal_m)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return goal
