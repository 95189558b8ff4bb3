"""The tasks: one a file, found by listing this folder.

A file that defines `TASK` and `ENVIRONMENTS` (see `envs.tasks.base`) is a task, named after the file. `envs` registers
its environment ids; the rest of the program finds a task here by one of them. Nothing here loads PyBullet.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from envs.control import ActionKind
from envs.tasks.base import Environment, Option, Task


def _load_environments() -> dict[str, Environment]:
    """The environments of all tasks by their ids."""
    found: dict[str, Environment] = {}
    for module in sorted(iter_modules(__path__), key=lambda module: module.name):
        loaded = import_module(f"{__name__}.{module.name}")
        for id, actions in getattr(loaded, "ENVIRONMENTS", {}).items():
            found[id] = Environment(id, module.name, loaded.TASK, actions)
    return found


ENVIRONMENTS = _load_environments()


def environment_of(id: str) -> Environment:
    """The environment of an id. Raises ValueError for one that no task declares."""
    if id not in ENVIRONMENTS:
        raise ValueError(f"unknown environment '{id}'; available: {', '.join(ENVIRONMENTS)}")
    return ENVIRONMENTS[id]


def task_named(name: str) -> type[Task]:
    """The task of a file. Raises ValueError for a name that no task has."""
    tasks = {environment.task_name: environment.task for environment in ENVIRONMENTS.values()}
    if name not in tasks:
        raise ValueError(f"unknown task '{name}'; available: {', '.join(tasks)}")
    return tasks[name]


def id_with_actions(task_name: str, actions: ActionKind) -> str | None:
    """The id of a task's environment with actions of this kind; None if it has none."""
    for id, environment in ENVIRONMENTS.items():
        if (environment.task_name, environment.actions) == (task_name, actions):
            return id
    return None


def continuous_id(id: str) -> str:
    """The id of the same task's environment with actions in degrees. Raises ValueError if there is none."""
    found = id_with_actions(environment_of(id).task_name, "degrees")
    if found is None:
        raise ValueError(f"the task of {id} has no environment with actions in degrees, which evaluations require")
    return found


def all_options() -> dict[str, tuple[Option, list[str]]]:
    """The options of all tasks by their names, each with the ids of the environments that take it.

    Raises ValueError for two tasks that declare one name with different types.
    """
    found: dict[str, tuple[Option, list[str]]] = {}
    for id, environment in ENVIRONMENTS.items():
        for name, declared in environment.options.items():
            first, ids = found.setdefault(name, (declared, []))
            if first.kind != declared.kind:
                raise ValueError(f"option '{name}' of {id} has another type than that of {ids[0]}")
            ids.append(id)
    return found


def check_task_options(id: str, given: dict[str, Any]) -> None:
    """Raise ValueError for options that an environment's task does not take, or with values that it refuses."""
    known = environment_of(id).options
    for name, value in given.items():
        if name not in known:
            others = [other for other, environment in ENVIRONMENTS.items() if name in environment.options]
            takers = ", ".join(others) or "no environment"
            raise ValueError(f"{name}: an option of {takers}, not of {id}")
        known[name].check(value)
