"""Declarations of experiments: checks of their settings, and properties of each of them."""

from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from arm_control.lab.common.experiment import (
    check_settings,
    experiment_file,
    experiment_names,
    load_experiment,
    quick_settings,
    read_claim,
)
from arm_control.lab.common.running import Plan, run_experiment

# recurrent needs more seeds and steps than --quick has; argmax is judged by durations, which other tests disturb.
UNDECIDED = ("recurrent", "argmax")


@dataclass(frozen=True)
class Settings:
    """Settings of all kinds."""

    rate: float = 0.1
    count: int = 3
    sizes: tuple[int, ...] = (1, 2)
    name: str = "softmax"
    shared: bool = False


class TestCheckSettings:
    """Numbers are positive and finite."""

    def test_accepts_numbers_texts_and_switches(self) -> None:
        """A switch that is off is no zero."""
        check_settings(Settings())

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"rate": float("nan")}, "--rate: expected a positive number, up to 1e.12, got nan"),
            ({"rate": float("inf")}, "--rate: .* got inf"),
            ({"rate": -0.1}, "--rate: .* got -0.1"),
            ({"count": 0}, "--count: .* got 0"),
            ({"count": 10**20}, "--count: .* got 100000000000000000000"),
            ({"sizes": (1, -2)}, "--sizes: .* got -2"),
        ],
    )
    def test_refuses_other_numbers(self, change: dict[str, Any], said: str) -> None:
        """Zero, negative, infinite and huge ones, and NaN."""
        with pytest.raises(ValueError, match=said):
            check_settings(Settings(**change))


class TestQuickSettings:
    """`--quick` reduces what was not given."""

    def test_given_flags_are_kept(self) -> None:
        """Of the corridor, updates and sampled_episodes are reduced."""
        experiment = load_experiment("corridor")
        assert quick_settings(experiment.settings, experiment) == experiment.quick
        given = type(experiment.settings)(updates=7, learning_rate=0.5)
        quick = quick_settings(given, experiment)
        assert quick == type(given)(updates=7, learning_rate=0.5, sampled_episodes=experiment.quick.sampled_episodes)


@pytest.mark.parametrize("name", experiment_names())
class TestEveryExperiment:
    """Properties of each experiment of the lab."""

    def test_its_claim_is_one_sentence(self, name: str) -> None:
        """With a capital letter at its beginning and one full stop, at its end."""
        claim = load_experiment(name).claim
        assert claim[0].isupper()
        assert claim.endswith(".")
        assert ". " not in claim

    def test_its_claim_is_read_without_importing_it(self, name: str) -> None:
        """It is a text in the declaration, not an expression."""
        assert read_claim(name) == load_experiment(name).claim

    def test_its_settings_are_documented_flags(self, name: str) -> None:
        """Each field has a line of help below it, and the quick settings are of the same class."""
        experiment = load_experiment(name)
        assert is_dataclass(experiment.settings)
        assert type(experiment.quick) is type(experiment.settings)
        check_settings(experiment.settings)
        check_settings(experiment.quick)
        source = experiment_file(name).read_text(encoding="utf-8")
        for field in fields(experiment.settings):
            declaration = source.split(f"\n    {field.name}: ")[1]
            assert declaration.splitlines()[1].startswith('    """'), field.name

    def test_it_has_enough_seeds(self, name: str) -> None:
        """For an interval also with `--quick`."""
        experiment = load_experiment(name)
        assert experiment.min_seeds <= experiment.quick_seeds <= experiment.seeds
        assert experiment.min_seeds >= 2 or experiment.seeds == 1

    @pytest.mark.slow
    def test_its_quick_run_holds_and_its_figure_is_labelled(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every axes that is shown has labels; what was measured is a sentence."""
        experiment = load_experiment(name)
        drawn: list[Figure] = []
        draw = experiment.draw

        def keep(settings: Any, rows: Any, figure: Figure) -> None:
            drawn.append(figure)
            draw(settings, rows, figure)

        kept = replace(experiment, draw=keep)
        monkeypatch.setattr("arm_control.lab.common.running.load_experiment", lambda _: kept)
        plan = Plan(name, experiment.quick, experiment.quick_seeds, True, tmp_path / name)
        outcome, _ = run_experiment(plan)
        if name not in UNDECIDED:
            assert outcome.verdict.holds, outcome.verdict.measured
        assert outcome.verdict.measured.endswith(".")
        [figure] = drawn
        shown = [axes for axes in figure.axes if axes.axison]
        assert shown
        for axes in shown:
            assert axes.get_xlabel()
            assert axes.get_ylabel()
