"""Export: one self-contained file that computes what the policy computes, or no file at all."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from locations import ROOT
from onnx import numpy_helper
from short_trainings import short_validations

import arm_control.exporter.exporter as module
from arm_control.evaluation.opening import evaluate, open_controller
from arm_control.evaluation.torch_controller import TorchController
from arm_control.exporter import agreement
from arm_control.exporter.agreement import ExportError
from arm_control.exporter.exporter import export
from arm_control.exporter.states import random_states
from arm_control.runner import PolicyRunner
from arm_control.runner.description import describe
from arm_control.runs.agent import load_policy
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.runs.run_folder import RunFolder
from arm_control.training.loop import train
from envs.arm import DEFAULT_URDF, RADIANS, Arm
from policies.ddpg.settings import DDPGSettings

INPUTS = {
    "joint_angle_deg": 3,
    "joint_speed_deg_s": 3,
    "previous_target_deg": 3,
    "previous_target_speed_deg_s": 3,
    "goal_m": 3,
}


def states(count: int, seed: int = 1) -> dict[str, Any]:
    arm, generator = Arm(DEFAULT_URDF), np.random.default_rng(seed)
    rows = random_states(arm, count, generator)
    return {name: values[:count] for name, values in rows.items()}


def messages(message: Any) -> Iterator[Any]:
    """A protobuf message and every message inside it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from messages(inner)


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """An existing file in the place of the export."""
    path = tmp_path / "policy.onnx"
    path.write_bytes(b"an older policy")
    return path


@pytest.fixture
def traced_before(monkeypatch: pytest.MonkeyPatch, tiny_policy: Path) -> None:
    """For tests of what follows the tracing: the graph comes from the exported file, and fewer states are compared."""
    monkeypatch.setattr(module, "trace", lambda *_: onnx.load_model(tiny_policy))
    monkeypatch.setattr(module, "RANDOM_STATES", 1000)


def assert_untouched(older: Path) -> None:
    assert older.read_bytes() == b"an older policy"
    assert list(older.parent.iterdir()) == [older]


class TestFile:
    """The content of an exported file."""

    def test_the_file_is_self_contained_and_valid(self, tiny_run: Path, tmp_path: Path) -> None:
        """It has no external data, and ONNX's full check accepts it."""
        path = export(tiny_run, tmp_path / "policy.onnx")
        assert list(tmp_path.iterdir()) == [path]
        model = onnx.load_model(path, load_external_data=False)
        onnx.checker.check_model(model, full_check=True)
        assert not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer)

    @pytest.mark.usefixtures("traced_before")
    def test_the_default_path_is_in_the_run_folder(self, tiny_run: Path, tmp_path: Path) -> None:
        """Without a path the file is `policy.onnx` there, and no other file is added."""
        run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
        before = {path.name for path in run.iterdir()}
        assert export(run) == run / "policy.onnx"
        assert {path.name for path in run.iterdir()} == before | {"policy.onnx"}

    def test_exporting_twice_gives_the_same_bytes(self, tiny_run: Path, tiny_policy: Path, tmp_path: Path) -> None:
        """Two exports of a run are byte-equal."""
        assert export(tiny_run, tmp_path / "again.onnx").read_bytes() == tiny_policy.read_bytes()

    def test_inputs_and_output_have_names_sizes_and_a_free_batch(self, tiny_policy: Path) -> None:
        """All are float32 with one row for each arm."""
        graph = onnx.load_model(tiny_policy).graph
        for values, expected in ((graph.input, INPUTS), (graph.output, {"target_deg": 3})):
            assert {value.name: value.type.tensor_type.shape.dim[1].dim_value for value in values} == expected
            assert all(value.type.tensor_type.shape.dim[0].dim_param for value in values)
            assert {value.type.tensor_type.elem_type for value in values} == {onnx.TensorProto.FLOAT}

    def test_the_file_holds_no_paths_and_no_doc_strings(self, tiny_policy: Path) -> None:
        """Neither folders of this machine nor source positions are stored."""
        content = tiny_policy.read_bytes()
        here = (ROOT, Path(sys.prefix), Path(tempfile.gettempdir()), Path.home(), Path.cwd())
        for word in (*(str(path) for path in here if len(path.parts) > 1), "site-packages", "Traceback", 'File "'):
            assert word.encode() not in content, word
        model = onnx.load_model(tiny_policy)
        assert [entry.key for entry in model.metadata_props] == ["arm_control.contract"]
        assert not [message for message in messages(model) if getattr(message, "doc_string", "")]

    def test_the_contract_describes_the_training(self, tiny_run: Path, tiny_policy: Path) -> None:
        """Arm, limits, rate, task, inputs with units, tolerance and versions are those of the run."""
        contract = PolicyRunner.load(tiny_policy).contract
        arm = Arm(DEFAULT_URDF)
        assert contract.joint_names == arm.joint_names
        assert contract.limits == arm.limits
        assert contract.arm_urdf == DEFAULT_URDF.read_text()
        assert contract.control_rate_hz == pytest.approx(30.0, rel=1e-12)
        assert (contract.agent, contract.environment, contract.goal_tolerance_m) == ("ddpg", "ArmReach-v0", 0.01)
        assert {tensor.name: tensor.size for tensor in contract.inputs} == INPUTS
        assert {tensor.name: tensor.unit for tensor in contract.inputs} == {
            "joint_angle_deg": "degrees",
            "joint_speed_deg_s": "degrees/s",
            "previous_target_deg": "degrees",
            "previous_target_speed_deg_s": "degrees/s",
            "goal_m": "metres",
        }
        assert contract.golden.tolerance_deg == 1e-3
        assert set(contract.versions) == {"python", "arm-control", "torch", "onnx", "onnxruntime", "pybullet"}


class TestTargets:
    """Outputs of an exported policy."""

    @pytest.mark.parametrize("batch", [1, 7, 32])
    def test_targets_do_not_depend_on_the_batch(self, tiny_policy: Path, batch: int) -> None:
        """Rows in batches of 1, 7 and 32 agree to 1e-4 degrees."""
        runner, rows = PolicyRunner.load(tiny_policy), states(64)
        alone = np.concatenate([runner.infer({name: v[i : i + 1] for name, v in rows.items()}) for i in range(64)])
        together = runner.infer({name: values[:batch] for name, values in rows.items()})
        assert together.shape == (batch, 3)
        assert np.ptp(alone, axis=0).min() > 1.0  # the rows differ, so that mixing them up would show
        np.testing.assert_allclose(together, alone[:batch], rtol=0, atol=1e-4)

    @pytest.mark.parametrize("magnitude", [1e3, 1e6, 1e9, 1e15])
    def test_targets_are_within_the_limits_for_any_readings(self, tiny_policy: Path, magnitude: float) -> None:
        """Readings up to 1e15 give finite targets from 0 to 90 degrees."""
        runner = PolicyRunner.load(tiny_policy)
        generator = np.random.default_rng(0)
        inputs = {
            name: generator.choice([-magnitude, 0.0, magnitude], (500, columns)) for name, columns in INPUTS.items()
        }
        targets = runner.infer(inputs)
        assert np.isfinite(targets).all()
        assert (targets >= 0.0).all()
        assert (targets <= 90.0).all()

    def test_it_agrees_with_the_environment_in_motion(self, tiny_run: Path, tiny_policy: Path) -> None:
        """On 200 simulated steps the targets equal PyTorch's to 1e-3 degrees."""
        runner = PolicyRunner.load(tiny_policy)
        config, policy, _ = load_policy(tiny_run)
        controller, generator = TorchController(policy), np.random.default_rng(0)
        env = environment_maker(config)()
        try:
            arm: Any = env.unwrapped
            observation, _ = env.reset(seed=3)
            for step in range(200):
                expected = controller({key: value[None] for key, value in observation.items()}, [arm])[0]
                got = runner.infer(
                    {
                        "joint_angle_deg": [arm.simulation.angles_deg],
                        "joint_speed_deg_s": [arm.simulation.speeds_deg_s],
                        "previous_target_deg": [observation["observation"][6:9] / RADIANS],
                        "previous_target_speed_deg_s": [observation["observation"][9:] / RADIANS],
                        "goal_m": [observation["desired_goal"]],
                    }
                )[0]
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)
                observation, _, _, truncated, _ = env.step(generator.uniform(0, 90, 3).astype(np.float32))
                if truncated:
                    observation, _ = env.reset(seed=step)
        finally:
            env.close()

    def test_verified_states_are_random_ones_and_all_corners(self) -> None:
        """All 2^12 corners of the readings, with all 2^3 of the goals among them."""
        arm = Arm(DEFAULT_URDF)
        assert module.RANDOM_STATES == 10_000
        assert agreement.TOLERANCE_DEG == 1e-3
        rows = np.concatenate(list(random_states(arm, 100, np.random.default_rng(0)).values()), axis=1)
        low, high, speed, reach = 0.0, 90.0, np.array(arm.limits.max_speed_deg_s), np.full(3, arm.reach_m)
        lower = np.concatenate([[low] * 3, -speed, [low] * 3, -speed, -reach]).astype(np.float32)
        upper = np.concatenate([[high] * 3, speed, [high] * 3, speed, reach]).astype(np.float32)
        random, corners = rows[:100], rows[100:]
        assert ((random >= lower) & (random <= upper)).all()
        np.testing.assert_allclose(corners, np.where(corners > (lower + upper) / 2, upper, lower), rtol=1e-6)
        assert len(np.unique(corners[:, :12], axis=0)) == len(corners) == 2**12
        assert len(np.unique(corners[:, 12:], axis=0)) == 2**3


class TestDisagreement:
    """Exports that differ from the policy leave the older file."""

    def test_a_graph_that_differs_from_the_policy_is_not_kept(
        self, tiny_run: Path, older: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A weight off by 1 % is detected."""
        trace = module.trace

        def perturbed(*arguments: Any) -> Any:
            model = trace(*arguments)
            weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
            weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
            return model

        monkeypatch.setattr(module, "trace", perturbed)
        with pytest.raises(ExportError, match="nothing kept"):
            export(tiny_run, older)
        assert_untouched(older)

    @pytest.mark.usefixtures("traced_before")
    def test_a_policy_beyond_the_tolerance_is_not_kept(
        self, tiny_run: Path, older: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rounding itself is an error at a tolerance of 0 degrees."""
        monkeypatch.setattr(agreement, "TOLERANCE_DEG", 0.0)
        with pytest.raises(ExportError, match="nothing kept"):
            export(tiny_run, older)
        assert_untouched(older)

    @pytest.mark.usefixtures("traced_before")
    @pytest.mark.parametrize(("last_random", "wrong"), [(True, 0.0011), (False, 0.0011), (False, np.nan)])
    def test_one_differing_row_is_an_error(
        self,
        tiny_run: Path,
        older: Path,
        monkeypatch: pytest.MonkeyPatch,
        last_random: bool,
        wrong: float,
    ) -> None:
        """0.0011 degrees or NaN in the last random state or the last corner is detected."""
        path = module.environment_path

        def off(*arguments: Any) -> Any:
            targets, memory = path(*arguments)
            targets[module.RANDOM_STATES - 1 if last_random else -1, 1] += wrong
            return targets, memory

        monkeypatch.setattr(module, "environment_path", off)
        with pytest.raises(ExportError, match=r"environment's observation and PyTorch differ by .*joint_angle_deg"):
            export(tiny_run, older)
        assert_untouched(older)

    def test_a_target_outside_the_limits_is_an_error(
        self, tiny_run: Path, older: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A policy shifted by 90 degrees is not exported."""
        load = module.load_policy

        class Shifted(torch.nn.Module):
            def __init__(self, policy: torch.nn.Module) -> None:
                super().__init__()
                self.policy = policy

            def forward(self, *columns: torch.Tensor) -> torch.Tensor:
                return self.policy(*columns) + 90.0

        def shifted(run: RunFolder) -> Any:
            loaded = load(run)
            return loaded._replace(policy=Shifted(loaded.policy))

        monkeypatch.setattr(module, "load_policy", shifted)
        with pytest.raises(ExportError, match="outside the joint limits"):
            export(tiny_run, older)
        assert_untouched(older)


class TestWriting:
    """Paths that cannot be written; no partial file is left."""

    def test_a_missing_folder(self, tiny_run: Path, tmp_path: Path) -> None:
        """The folder is not created."""
        with pytest.raises(ValueError, match=r"cannot write .*there is no folder"):
            export(tiny_run, tmp_path / "missing" / "policy.onnx")
        assert list(tmp_path.iterdir()) == []

    def test_a_path_below_a_file(self, tiny_run: Path, older: Path) -> None:
        """A file in the place of the folder is kept."""
        with pytest.raises(ValueError, match="there is no folder"):
            export(tiny_run, older / "policy.onnx")
        assert_untouched(older)

    @pytest.mark.usefixtures("traced_before")
    def test_a_folder_in_the_place_of_the_file(self, tiny_run: Path, tmp_path: Path) -> None:
        """The folder is kept."""
        target = tmp_path / "policy.onnx"
        target.mkdir()
        with pytest.raises(OSError, match="cannot write"):
            export(tiny_run, target)
        assert list(tmp_path.rglob("*")) == [target]

    @pytest.mark.usefixtures("traced_before")
    @pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="requires /proc, where nobody can write")
    def test_a_folder_without_write_access(self, tiny_run: Path) -> None:
        """Files in /proc cannot be created."""
        with pytest.raises(OSError, match="cannot write /proc/policy"):
            export(tiny_run, "/proc/policy.onnx")

    @pytest.mark.usefixtures("traced_before", "file_permissions")
    def test_a_read_only_folder(self, tiny_run: Path, older: Path) -> None:
        """The older file is kept."""
        older.parent.chmod(0o555)
        try:
            with pytest.raises(OSError, match="cannot write"):
                export(tiny_run, older)
            assert_untouched(older)
        finally:
            older.parent.chmod(0o755)

    @pytest.mark.usefixtures("traced_before")
    def test_a_full_disk_leaves_the_older_file(
        self, files_at_most: Callable[[int], Any], tiny_run: Path, older: Path
    ) -> None:
        """Files are limited to 10 kB here."""
        with files_at_most(10_000), pytest.raises(OSError, match="cannot write"):
            export(tiny_run, older)
        assert_untouched(older)


class TestEpisode:
    """Episode length and control rate of the training."""

    @pytest.fixture(scope="class")
    @staticmethod
    def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A run at 50 Hz, with episodes of 30 steps."""
        settings = DDPGSettings(hidden_units=8, fourier_octaves=0, batch_size=32, learning_starts=100)
        config = TrainConfig("ddpg", settings, num_envs=2, steps=200, episode_steps=30, control_rate_hz=50.0)
        with short_validations(goals=1):
            return train(config, tmp_path_factory.mktemp("runs") / "50hz", quiet=True)

    def test_a_policy_file_is_evaluated_like_its_run(self, run: Path) -> None:
        """Its contract keeps both, so that no flag has to repeat them."""
        policy = export(run)
        contract = PolicyRunner.load(policy).contract
        assert (contract.episode_steps, contract.control_rate_hz) == (30, pytest.approx(50.0, rel=1e-12))
        opened = [open_controller(str(path), 0).config for path in (run, policy)]
        for config in opened:
            env = environment_maker(config)().unwrapped
            assert env.episode_steps == 30  # type: ignore[attr-defined]
            assert env.simulation.control_period_s == pytest.approx(0.02, rel=1e-12)  # type: ignore[attr-defined]
            env.close()
        of_run, of_file = (evaluate(path, goals=3) for path in (run, policy))
        assert of_file["mean_error_mm"] == pytest.approx(of_run["mean_error_mm"], abs=0.05)
        assert "30 steps, 0.60 s" in describe(policy)

    def test_physics_steps_are_no_longer_than_at_30_hz(self) -> None:
        """A whole number of steps of at most 1/240 s makes a control period, and no more than needed."""
        for rate_hz in (1.0, 7.0, 29.97, 30.0, 50.0, 60.0, 100.0, 240.0, 300.0, 1000.0):
            options = TrainConfig("ddpg", control_rate_hz=rate_hz).environment_options()
            substeps = options["control_period_s"] / options["physics_step_s"]
            assert substeps == pytest.approx(round(substeps), rel=1e-12)
            assert options["physics_step_s"] <= 1 / 240 + 1e-12
            assert (substeps - 1) * 240 < 240 * 240 / rate_hz  # and no more of them than that takes
