"""Running an experiment: only what is missing is measured, and only in a folder of the experiment."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_experiment import Toy, installed

from arm_control.lab.common import running
from arm_control.lab.common.experiment import experiment_names, load_experiment
from arm_control.lab.common.running import Plan, row_path, run_experiment, source_files


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """The toy experiment."""
    with installed(tmp_path / "lab", monkeypatch) as toy:
        yield toy


@pytest.fixture
def plan(toy: Toy, tmp_path: Path) -> Plan:
    """Four seeds of the toy experiment."""
    return Plan("toy", load_experiment("toy").settings, 4, False, tmp_path / "out" / "toy")


def squares(rows: list[dict[str, Any]]) -> list[float]:
    """The measured rows."""
    return [row["square"] for row in rows]


class TestResults:
    """The files that a run leaves."""

    def test_figure_and_results_are_written(self, plan: Plan) -> None:
        """The verdict is NumPy-free JSON, and the figure a PNG."""
        outcome, rows = run_experiment(plan)
        assert outcome.verdict.holds
        assert squares(rows) == [0.0, 1.0, 4.0, 9.0]
        written = json.loads((plan.folder / "results.json").read_text())
        assert written["holds"] is True
        assert written["settings"] == {"scale": 1.0, "pause_s": 0.001, "cubed": False}
        assert written["rows"] == rows
        assert (plan.folder / "figure.png").read_bytes().startswith(b"\x89PNG")


class TestResuming:
    """The cases that are measured again."""

    def test_nothing_is_measured_twice(self, toy: Toy, plan: Plan) -> None:
        """The second run judges and draws the same rows."""
        _, first = run_experiment(plan)
        assert toy.measured() == [0, 1, 2, 3]
        _, second = run_experiment(plan)
        assert toy.measured() == []
        assert first == second

    def test_more_seeds_are_added(self, toy: Toy, plan: Plan) -> None:
        """Those that are there remain."""
        run_experiment(replace(plan, seeds=2))
        toy.measured()
        run_experiment(plan)
        assert toy.measured() == [2, 3]

    def test_an_interrupted_run_continues(self, toy: Toy, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ctrl-C during the third case: two are kept."""
        measure_case = running.measure_case

        def press_ctrl_c(plan: Plan, case: dict[str, Any]) -> None:
            if case["seed"] == 2:
                raise KeyboardInterrupt
            measure_case(plan, case)

        with monkeypatch.context() as patch:
            patch.setattr(running, "measure_case", press_ctrl_c)
            with pytest.raises(KeyboardInterrupt):
                run_experiment(plan)
        assert toy.measured() == [0, 1]
        _, rows = run_experiment(plan)
        assert toy.measured() == [2, 3]
        assert squares(rows) == [0.0, 1.0, 4.0, 9.0]

    def test_other_settings_measure_again(self, toy: Toy, plan: Plan) -> None:
        """Rows of the former settings are gone, with figure and results, even if the run ends early."""
        run_experiment(plan)
        toy.measured()
        other = replace(plan, settings=replace(plan.settings, scale=2.0), seeds=2)
        running.open_folder(other)
        assert [path.name for path in plan.folder.iterdir()] == ["experiment.json"]
        _, rows = run_experiment(other)
        assert toy.measured() == [0, 1]
        assert squares(rows) == [0.0, 2.0]

    def test_changed_source_code_measures_again(self, toy: Toy, plan: Plan) -> None:
        """Of the experiment itself; that of another experiment does not matter."""
        run_experiment(plan)
        toy.measured()
        toy.file.with_name("another.py").write_text("EXPERIMENT = None\n")
        run_experiment(plan)
        assert toy.measured() == []
        toy.file.write_text(toy.file.read_text() + "# changed\n")
        run_experiment(plan)
        assert toy.measured() == [0, 1, 2, 3]

    def test_the_source_code_includes_what_it_imports(self, toy: Toy) -> None:
        """Another experiment, the common code, the agents, the simulation, and the training."""
        toy.file.write_text("from arm_control.lab.corridor import run_episodes\n")
        names = {"/".join(path.parts[-2:]) for path in source_files("toy")}
        expected = {"lab/toy.py", "lab/corridor.py", "common/running.py", "a2c/agent.py", "envs/arm_env.py"}
        assert names > expected | {"training/loop.py", "evaluation/grid_floor.py"}
        assert "lab/grid.py" not in names

    @pytest.mark.parametrize("damage", ["", "[]", "{}", '{"seed": 1', '{"seed": 1}'])
    def test_a_damaged_row_is_named(self, plan: Plan, damage: str) -> None:
        """It is neither used nor overwritten."""
        run_experiment(plan)
        path = row_path(plan, {"seed": 1})
        path.write_text(damage)
        with pytest.raises(ValueError, match="is damaged") as raised:
            run_experiment(plan)
        assert str(path) in str(raised.value)
        path.unlink()
        assert run_experiment(plan)[0].verdict.holds


class TestFolder:
    """Nothing is written into a folder of something else."""

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("notes.txt", "mine"),
            ("experiment.json", '{"experiment": "corridor", "fingerprint": ""}'),
            ("experiment.json", "[]"),
            ("experiment.json", "{"),
        ],
    )
    def test_of_something_else_is_an_error(self, toy: Toy, plan: Plan, name: str, content: str) -> None:
        """Somebody's files, another experiment's folder, and damaged manifests."""
        plan.folder.mkdir(parents=True)
        (plan.folder / name).write_text(content)
        with pytest.raises(ValueError, match="holds something else than the experiment toy"):
            run_experiment(plan)
        assert toy.measured() == []
        assert [path.name for path in plan.folder.iterdir()] == [name]

    def test_that_is_a_file_is_an_error(self, plan: Plan) -> None:
        """In place of the folder, and of the one that holds it."""
        plan.folder.parent.mkdir()
        plan.folder.touch()
        with pytest.raises(ValueError, match="it is no folder"):
            run_experiment(plan)
        with pytest.raises(ValueError, match="Not a directory"):
            run_experiment(replace(plan, folder=plan.folder / "toy"))

    def test_of_a_run_that_was_killed_before_its_manifest_was_complete(self, toy: Toy, plan: Plan) -> None:
        """It belongs to nobody."""
        plan.folder.mkdir(parents=True)
        (plan.folder / ".experiment.0123456789abcdef.partial.json").touch()
        run_experiment(plan)
        assert toy.measured() == [0, 1, 2, 3]


class TestEveryExperiment:
    """Properties of each experiment of the lab."""

    @pytest.mark.parametrize("name", experiment_names())
    def test_its_cases_are_json_and_differ(self, name: str, tmp_path: Path) -> None:
        """Each has a file of its own."""
        experiment = load_experiment(name)
        for settings, seeds in ((experiment.settings, experiment.seeds), (experiment.quick, experiment.quick_seeds)):
            plan = Plan(name, settings, seeds, False, tmp_path)
            cases = experiment.cases(settings, seeds)
            assert json.loads(json.dumps(cases)) == cases
            assert len({row_path(plan, case) for case in cases}) == len(cases)
