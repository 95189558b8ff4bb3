"""Running an experiment: its cases side by side, each result kept in a file, so that an interrupted run continues."""

import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import arm_control.evaluation
import arm_control.lab.common
import arm_control.runs
import arm_control.training
import envs
import policies
from arm_control.lab.common.experiment import COMMON, Case, Experiment, Row, Verdict, experiment_file, load_experiment
from arm_control.process.console import ProgressLine
from arm_control.process.shared_work import SharedWork, spare_cores
from arm_control.runs.files import read_json, remove_partial, write_text
from arm_control.viewers.common.figures import save

LARGEST_FILE = 2**26  # bytes
MANIFEST = "experiment.json"
FIGURE = "figure.png"
RESULTS = "results.json"
# What results may depend on, beside the experiment's own file.
SOURCES = (arm_control.lab.common, arm_control.evaluation, arm_control.runs, arm_control.training, envs, policies)
OTHER_EXPERIMENT = re.compile(r"^ *(?:from|import) arm_control\.lab\.(\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Plan:
    """An experiment to run: its resolved settings, number of seeds, and folder."""

    name: str
    settings: Any
    seeds: int
    quick: bool
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """An experiment that has run."""

    plan: Plan
    claim: str
    verdict: Verdict
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The figures without the rows."""
        return {
            "name": self.plan.name,
            "claim": self.claim,
            "measured": self.verdict.measured,
            "holds": self.verdict.holds,
            "seeds": self.plan.seeds,
            "quick": self.plan.quick,
            "settings": asdict(self.plan.settings),
            "seconds": self.seconds,
        }


def run_experiment(plan: Plan) -> tuple[Outcome, list[Row]]:
    """Measure what is not yet measured, judge and draw it; write `results.json` and `figure.png` into the folder.

    Raises ValueError for a folder that holds something else, or whose results are damaged.
    """
    experiment = load_experiment(plan.name)
    cases = experiment.cases(plan.settings, plan.seeds)
    open_folder(plan)
    measure_missing(plan, cases, helpers=0 if experiment.alone else spare_cores())

    rows = [read_row(plan, case) for case in cases]
    seconds = sum(row["seconds"] for row in rows)
    judged = experiment.judge(plan.settings, rows)
    verdict = Verdict(bool(judged.holds), judged.measured)  # a NumPy bool is no value of JSON
    outcome = Outcome(plan, experiment.claim, verdict, seconds)
    draw(experiment, plan, rows)
    write_text(plan.folder / RESULTS, json.dumps({**outcome.to_json(), "rows": rows}, indent=1) + "\n")
    return outcome, rows


def draw(experiment: Experiment, plan: Plan, rows: list[Row]) -> None:
    """Write the experiment's figure into its folder."""
    figure = Figure(figsize=experiment.size, layout="constrained")
    experiment.draw(plan.settings, rows, figure)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, plan.folder / FIGURE)


def open_folder(plan: Plan) -> None:
    """Create the folder, or check that it is this experiment's; results of other settings or code are removed."""
    check_folder(plan)
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write into {plan.folder}: {error.strerror}") from None
    manifest = plan.folder / MANIFEST
    identity = {"experiment": plan.name, "fingerprint": fingerprint(plan)}
    if manifest.exists() and read_json(manifest, LARGEST_FILE) == identity:
        return
    for stale in (*plan.folder.glob("case-*.json"), plan.folder / RESULTS, plan.folder / FIGURE):
        stale.unlink(missing_ok=True)
    write_text(manifest, json.dumps(identity) + "\n")


def check_folder(plan: Plan) -> None:
    """Raise ValueError unless a folder does not exist, is empty or belongs to this experiment."""
    if not plan.folder.exists():
        return
    if not plan.folder.is_dir():
        raise ValueError(f"cannot write into {plan.folder}: it is no folder")
    # A run that was killed while it wrote the manifest leaves an unfinished one.
    remove_partial(plan.folder / MANIFEST)
    if not any(plan.folder.iterdir()):
        return
    try:
        owner = read_json(plan.folder / MANIFEST, LARGEST_FILE)["experiment"]
    except (OSError, ValueError, KeyError, TypeError):
        owner = None
    if owner != plan.name:
        raise ValueError(f"{plan.folder} holds something else than the experiment {plan.name}: choose another --out")


def fingerprint(plan: Plan) -> str:
    """A hash of what results depend on: the settings, the experiment's source code, and that of what it may use."""
    digest = hashlib.sha256(repr(plan.settings).encode())
    for path in source_files(plan.name):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def source_files(name: str) -> list[Path]:
    """The files of an experiment, of experiments that it imports, and of what every experiment may use."""
    own = [experiment_file(name)]
    for path in own:
        for imported in OTHER_EXPERIMENT.findall(path.read_text(encoding="utf-8")):
            other = experiment_file(imported)
            if imported != COMMON and other not in own:
                own.append(other)
    shared = [path for package in SOURCES for path in sorted(Path(package.__path__[0]).rglob("*.py"))]
    return own + shared


def measure_missing(plan: Plan, cases: list[Case], helpers: int) -> None:
    """Measure the cases that have no result yet, in this process and in helper processes."""
    missing = [case for case in cases if not row_path(plan, case).exists()]
    if not missing:
        return
    line = ProgressLine(f"lab {plan.name}")
    helpers = min(helpers, len(missing) - 1)
    try:
        with SharedWork(partial(measure_case, plan), missing, helpers) as work:
            work.finish(lambda: line.show(work.done / len(missing)))
    finally:
        line.clear()


def measure_case(plan: Plan, case: Case) -> None:
    """Measure one case and write its row."""
    begin = time.monotonic()
    measured = load_experiment(plan.name).measure(plan.settings, case)
    row = {**case, **measured, "seconds": time.monotonic() - begin}
    write_text(row_path(plan, case), json.dumps(row, default=plain) + "\n")


def plain(value: Any) -> Any:
    """The plain Python value of a NumPy number or array."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no value of JSON")


def row_path(plan: Plan, case: Case) -> Path:
    """The file of a case's row."""
    key = hashlib.sha256(json.dumps(case, sort_keys=True).encode()).hexdigest()[:16]
    return plan.folder / f"case-{key}.json"


def read_row(plan: Plan, case: Case) -> Row:
    """The row of a case. Raises ValueError if its file is damaged."""
    path = row_path(plan, case)
    try:
        row: Row = read_json(path, LARGEST_FILE)
        if not row.keys() > case.keys() | {"seconds"}:
            raise ValueError("it is no row of this case")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it to measure this case again") from None
    return row
