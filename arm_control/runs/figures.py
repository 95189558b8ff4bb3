"""Figures of a command: printed as a table, and written as JSON with `--json FILE`."""

import json
from pathlib import Path
from typing import Any

from arm_control.runs.files import check_can_write, write_text


def report_figures(path: str | None, figures: dict[str, Any], text: str) -> None:
    """Write figures to a file, if one is named, and print them as text, even if the file cannot be written."""
    try:
        write_json(path, figures)
    finally:
        print(text)


def write_json(path: str | None, figures: dict[str, Any]) -> None:
    """Write figures to a file, if one is named. Raises OSError if it cannot be written."""
    if path is not None:
        write_text(Path(path), json.dumps(figures, indent=2) + "\n")


def check_writable(path: str | None) -> None:
    """Raise ValueError, or OSError with the system's reason, for a file that cannot be written, before the work."""
    if path is None:
        return
    folder = Path(path).parent
    if Path(path).is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    if not folder.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {folder}")
    check_can_write(Path(path))
