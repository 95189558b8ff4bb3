"""Flags of a command, parsed by tyro into its dataclass."""

import contextlib
import dataclasses
import io
import re
from itertools import chain, groupby
from types import NoneType, UnionType
from typing import Any, Union, get_args

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

FLAG_TYPES = ConstructorRegistry()


def parse_flags(kind: type[Any], program: str, words: list[str], default: Any, see: str | None = None) -> Any:
    """The command's dataclass from its flags; None if they asked for help.

    Raises ValueError with what tyro says first, and the command that says more, `see`, if not the program's --help.
    """
    said = io.StringIO()
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone, tyro.conf.HelptextFromCommentsOff)
    try:
        with contextlib.redirect_stderr(said):
            known = {} if default is None else {"default": default}
            return tyro.cli(kind, prog=program, args=words, config=config, registry=FLAG_TYPES, **known)
    except SystemExit as end:
        if not end.code:
            return None
        # A title; what is wrong; below a rule, what may have been meant. In a box if the terminal can show one.
        rows = [row.strip("│ ") for row in said.getvalue().splitlines()[1:]]
        parts = [list(part) for rule, part in groupby(rows, lambda row: set(row) <= set("─╰╯-")) if not rule]
        options = [row.split()[0] for row in chain(*parts[1:]) if row.startswith("--")]
        hint = next((f" (did you mean {option}?)" for option in options if option not in words), "")
        text = re.sub(r"^Error parsing (?:[\w.]+: )?", "", " ".join(parts[0]))
        raise ValueError(f"{text}{hint}; see {see or f'{program} --help'}") from None


@FLAG_TYPES.primitive_rule
def optional_flag(flag: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | UnsupportedTypeAnnotationError | None:
    """Parse a flag of type `T | None` as one of type T: tyro's own rule has 'None' among its choices."""
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
