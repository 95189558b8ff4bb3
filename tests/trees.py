"""Copies of the program, to which tests add files."""

import shutil
from pathlib import Path

from locations import ROOT

PACKAGES = ("arm_control", "envs", "policies", "assets")


def copy_program(folder: Path) -> None:
    """Copy the program's packages into a folder."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
