"""The `arm-control` program: from its arguments to a command to an exit code. Heavy imports wait until a command runs.

Bad input ends with one line on standard error and exit code 2, a fault stop of the arm with exit code 3, Ctrl-C with
exit code 130. With `ARM_CONTROL_DEBUG=1` an error shows its traceback.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import arm_control.commands
from arm_control.process.console import write
from arm_control.process.discovery import Command, Variants, load_command, load_variants, module_names
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
    """A command, and the instance of its dataclass with the parsed flags."""

    command: Command
    flags: Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the program was started with the stream closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    finally:
        write(sys.stdout, "")  # flush now: a failure at exit would change the exit code


def _run(arguments: list[str]) -> int:
    """Run one command; errors that a user can correct become a line and an exit code."""
    try:
        # Signals raise KeyboardInterrupt; printed text cannot contain control sequences.
        with interrupt_on_signals():
            parsed = parse(arguments)
            if parsed is not None:
                with printable_output():
                    parsed.command.run(parsed.flags)
            sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of standard output has exited
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
        text = " ".join(str(error).split())
        if isinstance(error, ArmStoppedError):
            complain(text)
            return STOPPED
        return complain(f"not enough memory: {text}" if isinstance(error, MemoryError) else text)


def parse(arguments: list[str]) -> Parsed | None:
    """Parse the command and its flags; returns None after printing help or the version.

    Raises ValueError for unknown commands and bad flags.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return None
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"{PROGRAM} {version('arm-control')}")
        return None
    name, *rest = arguments
    check_choice("command", name, module_names(arm_control.commands))
    program = f"{PROGRAM} {name}"
    variants = load_variants(arm_control.commands, name)
    if variants is None:
        return parse_command(load_command(arm_control.commands, name), program, rest)
    # The first argument selects a variant of the command.
    if rest[:1] in (["-h"], ["--help"]) or (not rest and variants.listed_without_name):
        print(overview_of_variants(program, variants))
        return None
    if not rest or rest[0].startswith("-"):
        raise ValueError(f"{name}: expected the {variants.noun} first; available: {', '.join(variants.names)}")
    check_choice(variants.noun, rest[0], variants.names)
    return parse_command(variants.load(rest[0]), f"{program} {rest[0]}", rest[1:])


def parse_command(command: Command, program: str, arguments: list[str]) -> Parsed | None:
    """Parse the flags of a command; returns None after printing help."""
    flags = parse_flags(command.flags, program, arguments, command.default)
    return None if flags is None else Parsed(command, flags)


def overview() -> str:
    """The help of the whole program."""
    lines = [f"usage: {PROGRAM} COMMAND ...", "", "Train a controller for a robot arm, export it, and run it.", ""]
    for name in module_names(arm_control.commands):
        command = load_variants(arm_control.commands, name) or load_command(arm_control.commands, name)
        lines.append(f"  {name:<10} {command.summary}")
    lines.append("")
    lines.append(
        f"{PROGRAM} COMMAND --help lists its options. Exit codes: 2 for errors, 3 for a fault stop, 130 for Ctrl-C."
    )
    return "\n".join(lines)


def overview_of_variants(program: str, variants: Variants) -> str:
    """The help of a command with variants: each with its summary."""
    noun = variants.noun.upper()
    width = max(len(name) for name in variants.names)
    lines = [f"usage: {program} {noun} [OPTIONS]", "", variants.summary, ""]
    for name in variants.names:
        lines.append(f"  {name:<{width}}  {variants.summarise(name)}")
    lines += ["", f"{program} {noun} --help lists its options."]
    return "\n".join(lines)


def program() -> int:
    """The entry point of the console script: `main` in a process of its own."""
    interrupt_program()
    encode_streams()
    return main()


if __name__ == "__main__":
    sys.exit(program())
