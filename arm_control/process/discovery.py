"""Discovery of commands and benches: each module in a package's folder is one, named after its file.

A module defines a frozen dataclass, whose fields are the flags, and a function `run` with one parameter of that type.
A command that is chosen by a second word, such as `train AGENT`, also defines `variants`.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Command:
    """A command: the dataclass of its flags, the function that takes one, and their defaults where given."""

    flags: type[Any]
    run: Callable[[Any], None]
    default: Any = None

    @property
    def summary(self) -> str:
        """The first sentence of the help."""
        first_line = inspect.cleandoc(self.flags.__doc__ or "").splitlines()[0]
        return first_line.split(". ")[0].rstrip(".") + "."


@dataclass(frozen=True)
class Variants:
    """What a command's second word may be: `noun` says what it names, `load` gives the command for a name."""

    noun: str
    summary: str
    names: Sequence[str]
    load: Callable[[str], Command]


def module_names(package: ModuleType) -> list[str]:
    """The names of a package's modules in alphabetical order, with hyphens; those that begin with _ are left out."""
    names = [module.name for module in iter_modules(package.__path__)]
    return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))


def load_module(package: ModuleType, name: str) -> ModuleType:
    """Import the module of this name."""
    return import_module(f"{package.__name__}.{name.replace('-', '_')}")


def load_command(package: ModuleType, name: str) -> Command:
    """The command that a module defines."""
    run = load_module(package, name).run
    [flags] = (kind for parameter, kind in get_type_hints(run).items() if parameter != "return")
    return Command(flags, run)


def load_variants(package: ModuleType, name: str) -> Variants | None:
    """The variants of the command that a module defines; None if it has none."""
    variants: Callable[[], Variants] | None = getattr(load_module(package, name), "variants", None)
    return None if variants is None else variants()
