"""Figures of a command: printed as a table, and written as JSON with `--json FILE`."""

import json
import os
from pathlib import Path
from typing import Any

from arm_control.runs.files import write_text


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
    """Raise ValueError for a file that cannot be written, before the work is done."""
    if path is None:
        return
    folder = Path(path).parent
    if Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "it is a folder" if Path(path).is_dir() else f"{folder} is no folder that can be written to"
        raise ValueError(f"cannot write {path}: {reason}")
