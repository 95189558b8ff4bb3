"""A small experiment for tests of the lab, written into a folder of its own beside the real ones."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import arm_control.lab

# Each measured case leaves a line in the file `measured.txt` beside the experiment.
SOURCE = '''
"""Squares of numbers."""

import time
from dataclasses import dataclass
from pathlib import Path

from arm_control.lab.common.experiment import Experiment, Verdict


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    scale: float = 1.0
    """Factor of each square."""
    pause_s: float = 0.001
    """Duration of a case in seconds."""
    cubed: bool = False
    """Measure the cube instead of the square."""


def cases(settings, seeds):
    return [{"seed": seed} for seed in range(seeds)]


def measure(settings, case):
    time.sleep(settings.pause_s)
    with Path(__file__).with_name("measured.txt").open("a") as file:
        print(case["seed"], file=file)
    return {"square": settings.scale * case["seed"] ** 2}


def judge(settings, rows):
    squares = [row["square"] for row in rows]
    return Verdict(squares[1] == settings.scale, f"Squares are {squares}, p* & q* <1>.")


def draw(settings, rows, figure):
    axes = figure.subplots()
    axes.plot([row["square"] for row in rows])
    axes.set_xlabel("number")
    axes.set_ylabel("square")


EXPERIMENT = Experiment(
    claim="The square of 1 is 1.",
    settings=Settings(),
    quick=Settings(scale=0.5, pause_s=0.002),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=4,
    quick_seeds=3,
    min_seeds=2,
    alone=True,
)
'''


class Toy:
    """The file of the toy experiment, and the cases that were measured."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "toy.py"
        self.file.write_text(SOURCE)
        self._measured = folder / "measured.txt"

    def measured(self) -> list[int]:
        """The seeds that were measured since the last call."""
        if not self._measured.exists():
            return []
        seeds = [int(line) for line in self._measured.read_text().split()]
        self._measured.unlink()
        return seeds


@contextmanager
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """The experiment `toy` in a folder that belongs to the lab for a while."""
    folder.mkdir()
    monkeypatch.setattr(arm_control.lab, "__path__", [*arm_control.lab.__path__, str(folder)])
    try:
        yield Toy(folder)
    finally:
        sys.modules.pop("arm_control.lab.toy", None)
        if hasattr(arm_control.lab, "toy"):
            del arm_control.lab.toy
