"""Checks that the top-level packages `envs` and `policies`, whose names are common, are those of arm-control."""

import sys
from contextlib import suppress
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

PACKAGES = ("envs", "policies")
MARK = b'DISTRIBUTION = "arm-control"'  # a line of each package's __init__.py
PROGRAM = "arm-control"
BAD_INPUT = 2  # exit code


def check_own_packages() -> None:
    """Raise ImportError if Python finds another package under one of the names, before it is imported.

    In a process of the command `arm-control` this is one line on standard error and exit code 2.
    """
    faults = [fault for name in PACKAGES if (fault := _fault(name))]
    if not faults:
        return
    if not _is_command():
        raise ImportError(faults[0])
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"{PROGRAM}: error: {faults[0]}", file=sys.stderr)
    raise SystemExit(BAD_INPUT)


def _fault(name: str) -> str | None:
    """The fault of a package and its remedy; None if it is that of arm-control."""
    own = Path(__file__).parents[2] / name / "__init__.py"
    try:
        spec = find_spec(name)
    except ValueError:  # a module without a spec was put into sys.modules
        spec = None
    found = None if spec is None or spec.origin is None else Path(spec.origin)
    # Uninstalling another distribution removes the files that both had.
    is_gone = own.parents[1].is_dir() and not own.is_file()
    if found is None or is_gone:
        return f"package {name!r} is missing: expected {own}; install arm-control again{_others(name)}"
    if not _is_same(found, own):
        return (
            f"another package {name!r} hides that of arm-control: {found}; expected {own}: rename or uninstall the "
            f"other one, or start in another folder{_others(name)}"
        )
    with suppress(OSError):  # not a file, as in a zip archive
        if MARK not in own.read_bytes():
            return (
                f"another package {name!r} was installed over that of arm-control: {own}; uninstall the other one, "
                f"then install arm-control again{_others(name)}"
            )
    return None


def _is_same(found: Path, own: Path) -> bool:
    if found == own:
        return True
    try:
        return found.samefile(own)
    except OSError:
        return False


def _others(name: str) -> str:
    """The other distributions that have a package of this name, as far as they are installed."""
    from importlib.metadata import packages_distributions

    others = sorted({*packages_distributions().get(name, ())} - {PROGRAM})
    return f" (installed with it: {', '.join(others)})" if others else ""


def _is_command() -> bool:
    """Return True if this process is `arm-control` or `python -m arm_control.cli`."""
    arguments = sys.orig_argv
    as_module = ("-m", "arm_control.cli") in pairwise(arguments)
    return as_module or any(Path(argument).name == PROGRAM for argument in arguments[:2])


def python_command(code: str) -> list[str]:
    """The command for a Python process that runs `code` and finds the same packages as this one.

    With -m or -c alone, Python would look for them in the current folder first.
    """
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"]
