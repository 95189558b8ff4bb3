"""Configurations: every accepted one is read back equal, also after its run folder was moved."""

import dataclasses
import json
import math
import random
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Size
from hypothesis import given
from hypothesis import strategies as st
from short_trainings import short_validations

from arm_control.cli import main
from arm_control.evaluation.opening import evaluate
from arm_control.exporter import exporter
from arm_control.exporter.exporter import export
from arm_control.runner import PolicyRunner
from arm_control.runs.config import TrainConfig
from arm_control.training.loop import resume, train
from envs.arm import ASSETS, DEFAULT_URDF
from envs.imperfections import PRESETS, Imperfections
from policies.registry import AGENTS

MEASURED = Imperfections(action_delay_s=(0.034, 0.0345), servo_lag_s=(0.087, 0.089), angle_noise_deg=(0.02, 0.05))
NO_SETTINGS = {"agent", "settings", "init", "arm"}


def candidates(name: str, kind: Any, default: Any) -> list[Any]:
    """Values of a setting's type as command lines and Python programs give them, not all of them accepted."""
    kinds = typing.get_args(kind) if type(None) in typing.get_args(kind) else (kind,)
    if name == "imperfections":
        return [*PRESETS, *PRESETS.values(), MEASURED, str(ASSETS / "imperfections" / "rough.json")]
    if name == "task_options":
        return [
            {},
            {"path": "circle"},
            {"speed_m_s": 0.1},
            {"speed_m_s": math.nan},
            {"path": "eight", "speed_m_s": 0.3},
        ]
    values: list[Any] = [None] if type(None) in kinds else []
    for each in kinds:
        if typing.get_origin(each) is typing.Literal:
            values += typing.get_args(each)
        elif each is bool:
            values += [True, False, np.bool_(True)]
        elif each is int:
            values += [0, 1, 2, 7, np.int64(3), *([2 * default] if default else [])]
        elif each is float:
            values += [0.0, 0.1 + 2**-54, 0.5, 1, 3.0, np.float64(0.3), np.float32(0.1), math.nan, math.inf]
        elif each is str:
            values += ["ArmReach-v0", "ArmReachDiscrete-v0", "ArmReachMultiDiscrete-v0", "ArmTrack-v0"]
    return values


def fields_of(kind: type[Any]) -> dict[str, list[Any]]:
    """The candidates of each field of a dataclass."""
    hints = typing.get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.name not in NO_SETTINGS]
    return {field.name: candidates(field.name, hints[field.name], field.default) for field in fields}


FIELDS = fields_of(TrainConfig)
SETTINGS = {name: fields_of(kind) for name, kind in AGENTS.items()}


def build(agent: str, settings: dict[str, Any], fields: dict[str, Any]) -> TrainConfig:
    """A configuration with these values. Raises ValueError for those that are rejected at once."""
    return TrainConfig(agent, AGENTS[agent](**settings), **fields)


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """An agent, and up to three of its settings and of the configuration's fields with other values."""
    agent = draw(st.sampled_from(sorted(AGENTS)))
    drawn = []
    for fields in (SETTINGS[agent], FIELDS):
        names = draw(st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True))
        drawn.append({name: draw(st.sampled_from(fields[name])) for name in names})
    return agent, drawn[0], drawn[1]


class TestReadingBack:
    """Configurations that `train` accepts can be read from the run folder."""

    @given(changes())
    def test_any_accepted_configuration_is_read_back_equal(
        self, change: tuple[str, dict[str, Any], dict[str, Any]]
    ) -> None:
        """With the same hash."""
        try:
            config = build(*change).as_read_back()
        except ValueError:
            return
        stored = json.loads(json.dumps(config.to_json(), allow_nan=False))
        assert TrainConfig.from_json(stored) == config
        assert TrainConfig.from_json(stored | {"version": 3}).sha256() == config.sha256()

    def test_most_of_the_candidates_are_accepted(self) -> None:
        """The test above would pass if every configuration were rejected."""
        generator = random.Random(0)
        accepted = 0
        for _ in range(300):
            agent = generator.choice(sorted(AGENTS))
            name = generator.choice(sorted(SETTINGS[agent]))
            field = generator.choice(sorted(FIELDS))
            settings = {name: generator.choice(SETTINGS[agent][name])}
            fields = {field: generator.choice(FIELDS[field])}
            try:
                build(agent, settings, fields).as_read_back()
                accepted += 1
            except ValueError:
                pass
        assert accepted > 100

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"reward": "denss"}, "reward"),
            ({"control": "relative"}, "control"),
            ({"settings": AGENTS["dqn"]()}, "settings"),
            ({"settings": dataclasses.replace(AGENTS["dqn"](), head="none")}, "settings"),
            ({"arm": b"arm.urdf"}, "cannot be stored|arm"),
            ({"env": "ArmTrack-v0", "task_options": {"path": 1.5}}, "path"),
            ({"seed": 1.5}, "seed"),
            ({"steps": 10.5}, "steps"),
            ({"init": {1}}, "init|cannot be stored"),
        ],
        ids=str,
    )
    def test_values_of_other_types_are_rejected_before_training(
        self, tmp_path: Path, values: dict[str, Any], message: str
    ) -> None:
        """Python does not check types; the training does, before its folder is made."""
        with pytest.raises(ValueError, match=message):
            train(TrainConfig("ddpg", **values), tmp_path / "run", quiet=True)
        assert list(tmp_path.iterdir()) == []

    def test_numpy_numbers_and_paths_are_stored(self) -> None:
        """They are stored as plain numbers and strings."""
        config = TrainConfig("ddpg", seed=np.int64(3), minutes=np.float32(0.5), arm=Path("arm.urdf"))  # type: ignore[arg-type]
        assert config.as_read_back() == TrainConfig("ddpg", seed=3, minutes=0.5, arm="arm.urdf")

    def test_a_preset_is_stored_by_its_name_and_other_ranges_in_full(self) -> None:
        """Also a preset that is given as ranges, or as a file."""
        rough = TrainConfig("ddpg", imperfections="rough")
        assert rough == TrainConfig("ddpg", imperfections=PRESETS["rough"])
        assert rough == TrainConfig("ddpg", imperfections=str(ASSETS / "imperfections" / "rough.json"))
        assert rough.to_json()["imperfections"] == "rough"
        measured = TrainConfig("ddpg", imperfections=MEASURED)
        assert measured.to_json()["imperfections"]["action_delay_s"] == [0.034, 0.0345]

    def test_a_stored_configuration_names_no_file(self) -> None:
        """A run folder of others must not make the program read other files."""
        values = TrainConfig("ddpg").to_json() | {"imperfections": str(ASSETS / "imperfections" / "rough.json")}
        with pytest.raises(ValueError, match=r"config.json is damaged: imperfections: expected ranges"):
            TrainConfig.from_json(values)


def small(generator: random.Random) -> TrainConfig:
    """A configuration that is quick to train, otherwise drawn at random."""
    agent = generator.choice(sorted(AGENTS))
    sizes = {"hidden_units": 16, "critic_units": 16, "fourier_octaves": 1, "batch_size": 16, "learning_starts": 32}
    settings = {name: value for name, value in sizes.items() if name in SETTINGS[agent]}
    for name in generator.sample(sorted(SETTINGS[agent].keys() - sizes.keys()), 2):
        settings[name] = generator.choice(SETTINGS[agent][name])
    fields: dict[str, Any] = {"steps": 128, "num_envs": 4, "grid_step_deg": 30.0 if "dqn" in agent else 1.0}
    for name in generator.sample(["reward", "control", "task_options", "goal_tolerance_m", "env"], 2):
        fields[name] = generator.choice(FIELDS[name])
    if generator.random() < 0.5:
        fields["imperfections"] = generator.choice(FIELDS["imperfections"])
    return build(agent, settings, fields).as_read_back()


def draw_small(seed: int) -> TrainConfig:
    """The first of its draws that is accepted."""
    generator = random.Random(seed)
    while True:
        try:
            return small(generator)
        except ValueError:
            continue


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short validations and exports."""
    monkeypatch.setattr(exporter, "RANDOM_STATES", 100)
    with short_validations(reports=1, goals=1):
        yield


class TestMovedRuns:
    """A run folder is complete."""

    @pytest.mark.slow
    def test_any_run_works_after_a_move(self, tmp_path: Path, quick: None, size: Size) -> None:
        """Moved, and with the arm's file deleted, it is resumed, evaluated and exported."""
        expected = size(2, full=30, of="configurations")
        accepted = seed = 0
        while accepted < expected:
            seed += 1
            arm = tmp_path / "any.urdf"
            shutil.copy(DEFAULT_URDF, arm)
            config = dataclasses.replace(draw_small(seed), arm=str(arm) if seed % 2 else None)
            run = tmp_path / "run"
            try:
                train(config, run, quiet=True)
            except ValueError:  # an environment that is not for the agent
                assert not run.exists()
                continue
            accepted += 1
            arm.unlink()
            moved = tmp_path / "after" / f"run{seed}"
            moved.parent.mkdir(exist_ok=True)
            shutil.move(run, moved)
            resume(moved, quiet=True)
            figures = evaluate(moved, goals=1)
            policy = export(moved)
            assert PolicyRunner.load(policy).contract.config_sha256
            assert evaluate(policy, goals=1)["imperfections"] == figures["imperfections"]

    def test_a_run_keeps_its_arm(self, tmp_path: Path, quick: None) -> None:
        """Its folder holds the URDF, and no path outside itself."""
        arm = tmp_path / "arm.urdf"
        arm.write_text(DEFAULT_URDF.read_text().replace('name="arm3"', 'name="other"'))
        text = arm.read_text()
        run = train(dataclasses.replace(draw_small(0), arm=str(arm)), tmp_path / "run", quiet=True)
        arm.unlink()
        assert (run / "arm.urdf").read_text() == text
        assert str(tmp_path) not in (run / "config.json").read_text()
        assert json.loads((run / "config.json").read_text())["arm"] == "arm.urdf"

    def test_the_arm_flag_accepts_an_equal_arm_only(
        self, tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Another arm is rejected in one line."""
        same = tmp_path / "same.urdf"
        shutil.copy(DEFAULT_URDF, same)
        assert main(["evaluate", str(tiny_run), "--goals", "1", "--arm", str(same)]) == 0
        capfd.readouterr()
        longer = tmp_path / "longer.urdf"
        longer.write_text(DEFAULT_URDF.read_text().replace("0.25", "0.27"))
        assert main(["evaluate", str(tiny_run), "--goals", "1", "--arm", str(longer)]) == 2
        printed = capfd.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert str(longer) in printed.err

    def test_a_run_killed_before_its_first_checkpoint_is_replaced(self, tmp_path: Path, quick: None) -> None:
        """Also one that holds its arm's URDF."""
        config = dataclasses.replace(draw_small(0), arm=str(DEFAULT_URDF))
        run = train(config, tmp_path / "run", quiet=True)
        for name in ("checkpoints", "tensorboard"):
            shutil.rmtree(run / name)
        for name in ("metrics.jsonl", "curve.png"):
            (run / name).unlink()
        assert {path.name for path in run.iterdir()} == {"config.json", "arm.urdf"}
        train(config, run, quiet=True)
