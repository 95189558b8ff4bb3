"""The goals of a run: from the command line, a file, standard input, or drawn at random."""

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

NOT_RANDOM = 1000  # random poses tried for each goal
PATH_TRIES = 30  # random paths tried for each path, each of which takes longer
WAITING_GOALS = 100  # from standard input, read ahead
LARGEST_GOALS = 2**24  # bytes of a file of goals
LONGEST_LINE = 1000  # characters of a goal on standard input


def read_goals(config: SessionConfig, runner: PolicyRunner, safety: Safety) -> Iterator[GoalTrajectory | None]:
    """The goals that the command asks for, each checked to be reachable inside the workspace.

    None while standard input has no line yet. Raises ValueError, naming where a goal stands.
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
    """The goals from standard input as they come, None while there is none yet."""
    if sys.stdin is None:
        raise ValueError("there is no standard input to read goals from")
    typed = parse_lines(bounded_lines(sys.stdin), "standard input", runner, safety)
    yield from as_they_come(typed, timeout_s=0.0 if config.pace == "realtime" else 0.05)


def file_goals(path: str, runner: PolicyRunner, safety: Safety) -> list[GoalTrajectory]:
    """The goals of a file. Raises ValueError for one that cannot be read or holds none, or too many."""
    try:
        lines = io.StringIO(read_text(path, LARGEST_GOALS), newline=None).readlines()
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
        course = task.draw_goals(runner.arm, generator, steps, runner.period_s, table_m=table_height_m(config))
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


def inside_workspace(course: GoalTrajectory, steps: int, safety: Safety) -> bool:
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
    """Height above which random goals are drawn, also for a simulated arm, which has no table unless one is named."""
    return TABLE_M if config.table is None else config.table


def as_they_come(goals: Iterator[GoalTrajectory], timeout_s: float) -> Iterator[GoalTrajectory | None]:
    """Yield goals from standard input, or None when none has come within the timeout.

    A thread reads and checks them, since the check of a goal out of reach can take a second. It runs at ordinary
    priority, and waits while WAITING_GOALS goals are not yet taken.
    """
    ready: queue.Queue[GoalTrajectory | Exception | None] = queue.Queue(WAITING_GOALS)

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


def parse_lines(lines: Iterable[str], name: str, runner: PolicyRunner, safety: Safety) -> Iterator[GoalTrajectory]:
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
        raise ValueError(f"{where}: expected a goal x,y,z of finite numbers in metres, got '{text}'")
    try:
        goal = StillGoal(runner.check_goal(numbers))
        safety.workspace.check_point(goal.goal_m)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return goal
