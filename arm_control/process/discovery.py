"""Discovery of commands and benches: each module in a package's folder is one, named after its file.

A module defines a frozen dataclass, whose fields are the flags, and a function `run` with one parameter of that type.
A command whose first argument selects a variant, such as `train AGENT`, defines `variants`.
"""

import ast
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Command:
    """A command: the dataclass of its flags, the function that runs it, and default flags if it has any."""

    flags: type[Any]
    run: Callable[[Any], None]
    default: Any = None

    @property
    def summary(self) -> str:
        """The first sentence of the help."""
        return first_sentence(self.flags.__doc__)


@dataclass(frozen=True)
class Variants:
    """The variants of a command, selected by its first argument, such as the agents of `train AGENT`."""

    noun: str
    """The kind of thing that a name denotes, such as "agent"."""
    summary: str
    names: Sequence[str]
    load: Callable[[str], Command]
    """Returns the command of a name."""
    summarise: Callable[[str], str]
    """Returns the summary of a name for help, without heavy imports."""
    listed_without_name: bool = False
    """True if the command alone lists the names, instead of requiring one."""


def first_sentence(docstring: str | None) -> str:
    """The first sentence of a docstring."""
    first_line = inspect.cleandoc(docstring or "").split("\n")[0]
    # A sentence ends where the next one begins with a capital letter: not at "et al. 2016".
    return re.split(r"(?<=\.) (?=[A-Z])", first_line)[0]


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


def parse_module(package: ModuleType, name: str) -> ast.Module:
    """Parse the source of a module without importing it, which may load PyTorch."""
    spec = find_spec(f"{package.__name__}.{name.replace('-', '_')}")
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def module_summary(package: ModuleType, name: str) -> str:
    """The first sentence of a module's docstring."""
    return first_sentence(ast.get_docstring(parse_module(package, name)))


def command_summary(package: ModuleType, name: str) -> str:
    """The summary of the command that a module defines, from the docstring of the dataclass that its `run` takes."""
    definitions: dict[str, ast.ClassDef | ast.FunctionDef] = {}
    for node in parse_module(package, name).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            definitions[node.name] = node
    run = definitions["run"]
    assert isinstance(run, ast.FunctionDef)
    flags = run.args.args[0].annotation
    return first_sentence(ast.get_docstring(definitions[flags.id])) if isinstance(flags, ast.Name) else ""


def load_variants(package: ModuleType, name: str) -> Variants | None:
    """The variants of the command that a module defines; None if it has none."""
    variants: Callable[[], Variants] | None = getattr(load_module(package, name), "variants", None)
    return None if variants is None else variants()
