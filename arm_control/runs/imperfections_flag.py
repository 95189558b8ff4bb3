"""The flag `--imperfections`: a preset's name, or a file that `identify --json` has written."""

from typing import Annotated, Any

import tyro

from envs.imperfections import PRESETS, Imperfections, open_imperfections


def as_imperfections(what: str | Imperfections) -> str | Imperfections:
    """Imperfections as a configuration keeps them: the preset's name, otherwise the ranges, also those of a file.

    A run must not depend on a file that may change or be gone. Raises ValueError as `open_imperfections`.
    """
    opened = open_imperfections(what)
    return opened.name if opened.name in PRESETS else opened


_IMPERFECTIONS_FLAG = tyro.constructors.PrimitiveConstructorSpec[Any](
    nargs=1,
    metavar="PRESET|FILE",
    instance_from_str=lambda words: as_imperfections(words[0]),
    is_instance=lambda value: value is None or isinstance(value, str | Imperfections),
    str_from_instance=lambda value: [value if isinstance(value, str) else "None" if value is None else value.name],
)
ImperfectionsFlag = Annotated[str | Imperfections, _IMPERFECTIONS_FLAG]
OptionalImperfectionsFlag = Annotated[str | Imperfections | None, _IMPERFECTIONS_FLAG]
