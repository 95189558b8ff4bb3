"""The `arm-control` command: words -> command -> exit code. Heavy imports wait until a command runs.

Bad input ends in one line on standard error and exit code 2, Ctrl-C in exit code 130, an arm that safety stopped in
exit code 3. With `ARM_CONTROL_DEBUG=1` an error shows its traceback.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import arm_control.commands
from arm_control.process.console import write
from arm_control.process.discovery import Command, load_command, load_variants, module_names
from arm_control.process.errors import (
    EXTRAS,
    INTERRUPTED,
    OUTPUT_LOST,
    PROGRAM,
    STOPPED,
    ArmStoppedError,
    complain,
    debugging,
)
from arm_control.process.flags import parse_flags
from arm_control.process.printing import encode_streams, printable_output
from arm_control.process.signals import interrupt_on_signals, interrupt_program
from arm_control.runs.checks import check_choice


class Parsed(NamedTuple):
    """A command, and its dataclass with the flags of the command line."""

    command: Command
    flags: Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    finally:
        write(sys.stdout, "")  # now, where a failure is harmless: at exit it would change the exit code


def _run(arguments: list[str]) -> int:
    """Run one command; the errors that people can mend become a line and an exit code."""
    try:
        with interrupt_on_signals():
            parsed = parse(arguments)
            if parsed is not None:
                with printable_output():
                    parsed.command.run(parsed.flags)
            sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone
        return OUTPUT_LOST
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS or debugging():
            raise
        extra = EXTRAS[package]
        return complain(
            f"this requires {package}, which is not installed: pip install '.[{extra}]' in the folder of arm-control"
        )
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if debugging():
            raise
        said = " ".join(str(error).split())
        if isinstance(error, ArmStoppedError):
            complain(said)
            return STOPPED
        return complain(f"not enough memory: {said}" if isinstance(error, MemoryError) else said)


def parse(words: list[str]) -> Parsed | None:
    """The command and its flags; None if they asked for help. Raises ValueError for words that make no command."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return None
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"{PROGRAM} {version('arm-control')}")
        return None
    name, *rest = words
    check_choice("command", name, module_names(arm_control.commands))
    program = f"{PROGRAM} {name}"
    variants = load_variants(arm_control.commands, name)
    if variants is None:
        return parse_command(load_command(arm_control.commands, name), program, rest)
    # A second word says which variant of the command.
    if rest[:1] in (["-h"], ["--help"]):
        print(f"usage: {program} {variants.noun.upper()} [OPTIONS]\n\n{variants.noun}: {', '.join(variants.names)}")
        return None
    if not rest or rest[0].startswith("-"):
        raise ValueError(f"{name}: expected the {variants.noun} first; available: {', '.join(variants.names)}")
    check_choice(variants.noun, rest[0], variants.names)
    return parse_command(variants.load(rest[0]), f"{program} {rest[0]}", rest[1:])


def parse_command(command: Command, program: str, words: list[str]) -> Parsed | None:
    """A command with its flags; None if they asked for help."""
    flags = parse_flags(command.flags, program, words, command.default)
    return None if flags is None else Parsed(command, flags)


def overview() -> str:
    """The help of the whole program."""
    lines = [f"usage: {PROGRAM} COMMAND ...", "", "Train a controller for a robot arm, export it, and run it.", ""]
    for name in module_names(arm_control.commands):
        command = load_variants(arm_control.commands, name) or load_command(arm_control.commands, name)
        lines.append(f"  {name:<10} {command.summary}")
    lines.append("")
    lines.append(
        f"{PROGRAM} COMMAND --help says more. Errors exit with 2, an arm that was stopped with 3, Ctrl-C with 130."
    )
    return "\n".join(lines)


def program() -> int:
    """The entry point of the program: `main` for a process that ends with it."""
    interrupt_program()
    encode_streams()
    return main()


if __name__ == "__main__":
    sys.exit(program())
