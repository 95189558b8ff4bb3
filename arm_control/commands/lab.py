"""`arm-control lab [NAME|all]`: claims of policy-gradient theory, each run as an experiment, drawn and judged."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from arm_control.process.console import say
from arm_control.process.discovery import Command, Variants
from arm_control.runs.checks import MOST_SEEDS, check_count
from arm_control.runs.figures import check_writable, report_figures

SUMMARY = "Run claims of policy-gradient theory as experiments, and draw and judge them."
ALL = "all"


@dataclass(frozen=True)
class Lab:
    """Run an experiment: measure it, draw it, and print the claim and whether it holds.

    Results are kept in the folder, so that an interrupted experiment continues; those of other settings or of changed
    code are measured again.
    """

    name: tyro.conf.Suppress[str]
    settings: Annotated[Any, tyro.conf.arg(name="")]
    seeds: int | None = None
    """Number of seeds (default: the number that the experiment needs to judge its claim)."""
    quick: bool = False
    """Measure at a reduced size, within a minute and less precisely; settings that are given keep their values."""
    out: str = "runs/lab"
    """Folder that holds a folder for each experiment."""
    json: str | None = None
    """JSON file to write the figures to."""

    def __post_init__(self) -> None:
        if self.seeds is not None:
            check_count("seeds", self.seeds, MOST_SEEDS)


@dataclass(frozen=True)
class LabAll:
    """Run all experiments, and write one illustrated page: index.html, which opens offline, and index.md."""

    quick: bool = False
    """Measure at a reduced size, within minutes and less precisely."""
    out: str = "runs/lab"
    """Folder of the page, which holds a folder for each experiment."""
    json: str | None = None
    """JSON file to write the figures to."""


def variants() -> Variants:
    """The experiments, and all of them."""
    from arm_control.lab.common.experiment import experiment_names

    return Variants(
        "experiment",
        SUMMARY,
        [*experiment_names(), ALL],
        load=load_variant,
        summarise=summarise_variant,
        listed_without_name=True,
    )


def summarise_variant(name: str) -> str:
    """The claim of an experiment, or what is done with all."""
    from arm_control.lab.common.experiment import read_claim

    return Command(LabAll, run_all).summary if name == ALL else read_claim(name)


def load_variant(name: str) -> Command:
    """The command of one experiment with its settings as flags, or of all."""
    from arm_control.lab.common.experiment import load_experiment

    if name == ALL:
        return Command(LabAll, run_all)
    return Command(Lab, run, Lab(name, load_experiment(name).settings))


def run(command: Lab) -> None:
    """Run one experiment, and print its claim and what was measured."""
    from arm_control.lab.common.page import conclusion
    from arm_control.lab.common.running import FIGURE, run_experiment

    check_writable(command.json)
    plan = make_plan(command)
    outcome, rows = run_experiment(plan)
    lines = [
        f"Claim: {outcome.claim}",
        f"Measured: {outcome.verdict.measured} {conclusion(outcome)}",
        f"Figure: {plan.folder / FIGURE}",
    ]
    report_figures(command.json, {**outcome.to_json(), "rows": rows}, "\n".join(lines))


def run_all(command: LabAll) -> None:
    """Run each experiment and write the page."""
    from arm_control.lab.common.experiment import experiment_names, load_experiment
    from arm_control.lab.common.page import conclusion, summary, write_page
    from arm_control.lab.common.running import check_folder, run_experiment

    check_writable(command.json)
    plans = []
    for name in experiment_names():
        one = Lab(name, load_experiment(name).settings, quick=command.quick, out=command.out)
        plans.append(make_plan(one))
    # Find a folder of something else now, not after half an hour.
    for plan in plans:
        check_folder(plan)
    outcomes = []
    for plan in plans:
        begin = time.monotonic()
        outcomes.append(run_experiment(plan)[0])
        seconds = time.monotonic() - begin
        say(f"[{len(outcomes)}/{len(plans)}] {plan.name}: {conclusion(outcomes[-1])}  ({seconds:.0f} s)")
    write_page(outcomes, Path(command.out))
    lines = [f"{summary(outcomes)} See {Path(command.out) / 'index.html'}"]
    report_figures(command.json, {"experiments": [outcome.to_json() for outcome in outcomes]}, "\n".join(lines))


def make_plan(command: Lab) -> Any:
    """Resolve the flags of an experiment. Raises ValueError for invalid settings or too few seeds."""
    from arm_control.lab.common.experiment import check_settings, load_experiment, quick_settings
    from arm_control.lab.common.running import Plan

    experiment = load_experiment(command.name)
    check_settings(command.settings)
    seeds = command.seeds
    if seeds is None:
        seeds = experiment.quick_seeds if command.quick else experiment.seeds
    elif experiment.seeds == 1:
        raise ValueError(f"--seeds: {command.name} is a calculation without randomness")
    elif seeds < experiment.min_seeds:
        raise ValueError(f"--seeds: expected at least {experiment.min_seeds}, for an interval, got {seeds}")
    settings = quick_settings(command.settings, experiment) if command.quick else command.settings
    folder = Path(command.out) / (f"{command.name}-quick" if command.quick else command.name)
    return Plan(command.name, settings, seeds, command.quick, folder)
