"""Flags of a command, parsed by tyro into its dataclass."""

import contextlib
import dataclasses
import io
import re
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

FLAG_TYPES = ConstructorRegistry()


def parse_flags(kind: type[Any], program: str, arguments: list[str], default: Any, see: str | None = None) -> Any:
    """Parse a command's arguments into its dataclass; returns None after printing help.

    Raises ValueError with tyro's message and the command for help: `see`, by default the program with --help.
    """
    printed = io.StringIO()
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone, tyro.conf.HelptextFromCommentsOff)
    options = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(kind, prog=program, args=arguments, config=config, registry=FLAG_TYPES, **options)
    except SystemExit as end:
        if not end.code:
            return None
        error = read_error(printed.getvalue())
        hint = ""
        for flag in error.suggestions:
            if flag not in arguments:
                hint = f" (did you mean {flag}?)"
                break
        raise ValueError(f"{error.text}{hint}; see {see or f'{program} --help'}") from None


class PrintedError(NamedTuple):
    """An error of tyro: what is wrong, and the flags that may have been meant."""

    text: str
    suggestions: list[str]


def read_error(printed: str) -> PrintedError:
    """Extract the error from what tyro prints before it exits.

    tyro has no public interface to its errors: the exit carries only a code, `console_outputs=False` drops the message,
    and the hook in `tyro._errors` is private and declared unstable.
    """
    # A title; then sections between rules: what is wrong, what may have been meant. In a box if the terminal allows.
    sections: list[list[str]] = [[]]
    for line in printed.splitlines()[1:]:
        row = line.strip("│ ")
        if set(row) <= set("─╰╯-"):
            sections.append([])
        else:
            sections[-1].append(row)
    message, *others = [section for section in sections if section]
    suggestions = []
    for section in others:
        for row in section:
            if row.startswith("--"):
                suggestions.append(row.split()[0])
    text = re.sub(r"^Error parsing (?:[\w.]+: )?", "", " ".join(message))
    return PrintedError(text, suggestions)


@FLAG_TYPES.primitive_rule
def optional_flag(flag: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | UnsupportedTypeAnnotationError | None:
    """Parse a flag of type `T | None` as one of type T; tyro's own rule also accepts the text 'None'."""
    options = [option for option in get_args(flag.type) if option is not NoneType]
    if flag.type_origin not in (Union, UnionType) or len(options) != 1:
        return None
    value = PrimitiveTypeInfo.make(options[0], flag.markers)
    spec = ConstructorRegistry.get_primitive_spec(value)
    if isinstance(spec, UnsupportedTypeAnnotationError):
        return spec
    return dataclasses.replace(
        spec,
        is_instance=lambda given: given is None or spec.is_instance(given),
        str_from_instance=lambda given: ["None"] if given is None else spec.str_from_instance(given),
    )
