"""The declaration of an experiment, and the list of experiments."""

import ast
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arm_control.lab
from arm_control.process.discovery import load_module, module_names, parse_module

if TYPE_CHECKING:  # help lists the experiments, also where matplotlib is not installed
    from matplotlib.figure import Figure

COMMON = "common"  # the package that is no experiment
LARGEST_SETTING = 1e12

# The parameters of a case, and the same with what was measured: values that JSON can hold.
Case = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim: whether it holds, and a sentence with the measured figures."""

    holds: bool
    measured: str


@dataclass(frozen=True)
class Experiment:
    """The declaration of an experiment, which is named after its file.

    `settings` and `quick` are instances of the experiment's own frozen dataclass, whose fields are flags.
    """

    claim: str
    """The claim of the theory, in one sentence."""
    settings: Any
    """Settings of the full experiment."""
    quick: Any
    """Settings of `--quick`."""
    cases: Callable[[Any, int], list[Case]]
    """The independent measurements, from the settings and the number of seeds."""
    measure: Callable[[Any, Case], Row]
    """Measures one case: the same settings and case give the same row, up to times. Runs in a process of its own."""
    judge: Callable[[Any, list[Row]], Verdict]
    """Judges the rows, each a case with what was measured."""
    draw: Callable[[Any, list[Row], "Figure"], None]
    """Draws the rows into an empty figure with a constrained layout."""
    seeds: int = 1
    """Number of seeds of the full experiment; 1 for one without randomness, which has no --seeds."""
    quick_seeds: int = 1
    min_seeds: int = 1
    """Number of seeds that an interval requires."""
    alone: bool = False
    """True if cases run one at a time, because they measure times or use several cores."""
    size: tuple[float, float] = (9.0, 4.0)
    """Size of the figure in inches."""


def experiment_names() -> list[str]:
    """The names of all experiments in alphabetical order."""
    names = module_names(arm_control.lab)
    names.remove(COMMON)
    return names


def load_experiment(name: str) -> Experiment:
    """The experiment of this name."""
    experiment: Experiment = load_module(arm_control.lab, name).EXPERIMENT
    return experiment


def experiment_file(name: str) -> Path:
    """The file of the experiment of this name."""
    spec = find_spec(f"{arm_control.lab.__name__}.{name.replace('-', '_')}")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def read_claim(name: str) -> str:
    """The claim of the experiment of this name, read from its source without importing it, which may load PyTorch."""
    for node in ast.walk(parse_module(arm_control.lab, name)):
        if isinstance(node, ast.keyword) and node.arg == "claim" and isinstance(node.value, ast.Constant):
            return str(node.value.value)
    return ""


def check_settings(settings: Any) -> None:
    """Raise ValueError unless each number among the settings is positive and at most LARGEST_SETTING."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if is_number and not 0 < number <= LARGEST_SETTING:
                flag = field.name.replace("_", "-")
                raise ValueError(f"--{flag}: expected a positive number, up to {LARGEST_SETTING:g}, got {number}")


def quick_settings(settings: Any, experiment: Experiment) -> Any:
    """The settings of `--quick`, but for those that differ from the defaults: they were given."""
    given = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value != getattr(experiment.settings, field.name):
            given[field.name] = value
    return replace(experiment.quick, **given)
