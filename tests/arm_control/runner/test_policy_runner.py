"""The policy runner: valid policy files run within their limits, any other is rejected when it is loaded."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import locations
import numpy as np
import onnx
import pytest
from helpers import drive
from onnx import TensorProto, helper, numpy_helper
from policy_files import tampered

from arm_control.drivers.simulation import SimulationDriver
from arm_control.evaluation.opening import evaluate
from arm_control.policy_file.contract import METADATA_KEY, GoldenSamples
from arm_control.runner import PolicyFileError, PolicyRunner
from envs.arm import DEFAULT_URDF, RADIANS, Arm
from envs.tasks.base import StillGoal

ARM = Arm(DEFAULT_URDF)
LOW, HIGH = np.array(ARM.limits.lower_deg), np.array(ARM.limits.upper_deg)
GOALS = [ARM.tip_position(pose) for pose in ([20.0, 40.0, 60.0], [70.0, 30.0, 20.0], [45.0, 80.0, 10.0])]

GOLDEN_ERROR_MM = 46.957  # of policy-v3.onnx, a short training

Edit = Callable[[onnx.ModelProto], None]


def in_contract(path: str, value: Any) -> Edit:
    """An edit that puts a value at a dotted path of the contract in the metadata."""

    def edit(model: onnx.ModelProto) -> None:
        content = json.loads(model.metadata_props[0].value)
        *parents, last = path.split(".")
        place: Any = content
        for key in parents:
            place = place[int(key) if isinstance(place, list) else key]
        if isinstance(place, list):
            place[int(last)] = value
        else:
            assert last in place
            place[last] = value
        model.metadata_props[0].value = json.dumps(content)

    return edit


def both(*edits: Edit) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        for one in edits:
            one(model)

    return edit


def weights_times(factor: float) -> Edit:
    """An edit of every matrix of weights."""

    def edit(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name.endswith("weight"):
                values = numpy_helper.to_array(tensor) * np.float32(factor)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return edit


def rename(old: str, new: str) -> Edit:
    """An edit of a graph's input or output."""

    def edit(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.name = new if value.name == old else value.name
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]

    return edit


def fix_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 16


def widen_input(model: onnx.ModelProto) -> None:
    model.graph.input[4].type.tensor_type.shape.dim[1].dim_value = 4


def more_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("secret", TensorProto.FLOAT, ["batch", 1]))


def more_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("goal_m", TensorProto.FLOAT, ["batch", 3]))


def three_axes(model: onnx.ModelProto) -> None:
    rename("target_deg", "flat")(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    model.graph.node.append(helper.make_node("Unsqueeze", ["flat", "axis"], ["target_deg"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("target_deg", TensorProto.FLOAT, ["batch", 1, 3]))


def double_precision(model: onnx.ModelProto) -> None:
    rename("target_deg", "single")(model)
    model.graph.node.append(helper.make_node("Cast", ["single"], ["target_deg"], to=TensorProto.DOUBLE))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("target_deg", TensorProto.DOUBLE, ["batch", 3]))


def runs_only_with_many_rows(model: onnx.ModelProto) -> None:
    rename("target_deg", "any")(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array([20]), "row"))
    model.graph.node.append(helper.make_node("Gather", ["any", "row"], ["twentieth"]))
    model.graph.node.append(helper.make_node("Add", ["any", "twentieth"], ["target_deg"]))
    model.graph.output[0].name = "target_deg"


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


def without_contract(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def broken_contract(model: onnx.ModelProto) -> None:
    model.metadata_props[0].value = model.metadata_props[0].value[:-1]


def without_input(name: str) -> Edit:
    """An edit that takes an input out of the contract."""

    def edit(model: onnx.ModelProto) -> None:
        content = json.loads(model.metadata_props[0].value)
        content["inputs"] = [tensor for tensor in content["inputs"] if tensor["name"] != name]
        del content["golden"]["inputs"][name]
        model.metadata_props[0].value = json.dumps(content)

    return edit


def another_arms_urdf(model: onnx.ModelProto) -> None:
    urdf = json.loads(model.metadata_props[0].value)["arm_urdf"]
    assert ARM.joint_names[1] in urdf
    in_contract("arm_urdf", urdf.replace(ARM.joint_names[1], "another"))(model)


@pytest.fixture
def handmade(tiny_policy: Path, tmp_path: Path) -> Callable[[float, list[float]], Path]:
    """A function that writes a policy with the target `gain` x goal + `offset` degrees, inside the limits or not."""

    def write(gain: float, offset: list[float]) -> Path:
        contract = PolicyRunner.load(tiny_policy).contract
        goals = np.array(contract.golden.inputs["goal_m"], np.float32)
        targets = goals * np.float32(gain) + np.array(offset, np.float32)
        contract = dataclasses.replace(contract, golden=GoldenSamples(contract.golden.inputs, targets.tolist(), 1e-3))
        inputs = [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, ["batch", t.size]) for t in contract.inputs]
        output = helper.make_tensor_value_info("target_deg", TensorProto.FLOAT, ["batch", 3])
        constants = [
            numpy_helper.from_array(np.array(gain, np.float32), "gain"),
            numpy_helper.from_array(np.array(offset, np.float32), "offset"),
        ]
        nodes = [
            helper.make_node("Mul", ["goal_m", "gain"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offset"], ["target_deg"]),
        ]
        graph = helper.make_graph(nodes, "handmade", inputs, [output], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        entry = model.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, contract.to_json()
        path = tmp_path / f"handmade-{gain}.onnx"
        onnx.save_model(model, path)
        return path

    return write


def rename_goal_everywhere(model: onnx.ModelProto) -> None:
    rename("goal_m", "goal")(model)
    content = json.loads(model.metadata_props[0].value)
    content["inputs"][4]["name"] = "goal"
    content["golden"]["inputs"]["goal"] = content["golden"]["inputs"].pop("goal_m")
    model.metadata_props[0].value = json.dumps(content)


def assert_within_limits(targets: list[list[float]], period: float) -> None:
    """Check position, speed and acceleration limits of targets that begin at rest."""
    position = np.array(targets)
    speed = np.vstack([np.zeros(3), np.diff(position, axis=0) / period])
    acceleration = np.diff(speed, axis=0) / period
    assert (position >= LOW).all()
    assert (position <= HIGH).all()
    assert (np.abs(speed) <= np.array(ARM.limits.max_speed_deg_s) + 1e-6).all()
    assert (np.abs(acceleration) <= np.array(ARM.limits.max_acceleration_deg_s2) + 1e-6).all()


class TestLoading:
    """Policy files that load."""

    def test_a_saved_copy_of_a_policy_loads(self, tiny_policy: Path, tmp_path: Path) -> None:
        """Saving a model again with ONNX keeps it valid."""
        assert PolicyRunner.load(tampered(tiny_policy, tmp_path, lambda model: None)).contract.agent == "ddpg"

    @pytest.mark.parametrize("upper_deg", [90.0, 90.0002, 89.9999])
    def test_limits_that_were_not_rounded_to_whole_degrees_are_the_arms(
        self, tiny_policy: Path, tmp_path: Path, upper_deg: float
    ) -> None:
        """Earlier versions exported 1.5708 rad as 90.0002 degrees."""
        runner = PolicyRunner.load(tampered(tiny_policy, tmp_path, in_contract("joints.0.upper_deg", upper_deg)))
        assert runner.limits.upper_deg[0] == upper_deg

    @pytest.mark.parametrize(
        "use",
        [
            "from arm_control.runner import PolicyRunner; runner = PolicyRunner.load(path); "
            "print(runner.step([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [0.2, 0.2, 0.2]))",
            "from arm_control import PolicyRunner; PolicyRunner.load(path).check_goal(goal)",
            "from arm_control.runner.description import describe; print(describe(path))",
            "import arm_control.runner.loop, arm_control.runner.session, arm_control.drivers.opening",
            "import arm_control.policy_file.contract",
            "from arm_control.cli import main; assert main(['inspect', path]) == 0",
            "from arm_control.cli import main; assert main(['run', path, '--goal', '9,9,9']) == 2",
        ],
    )
    def test_the_runner_loads_neither_torch_nor_pybullet(self, tiny_policy: Path, use: str) -> None:
        """Loading, stepping, describing and the commands need neither."""
        code = (
            f"import sys; path = sys.argv[1]; goal = {GOALS[0]}\n{use}\n"
            "loaded = {'torch', 'pybullet', 'onnx', 'tensorboard', 'matplotlib'} & set(sys.modules)\n"
            "assert not loaded, loaded\n"
        )
        done = subprocess.run([sys.executable, "-c", code, tiny_policy], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


class TestInvalidFiles:
    """Policy files that are rejected, in one line."""

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (weights_times(1.01), "golden samples do not match: off by .* degrees, allowed 0.001"),
            (weights_times(0.0), "golden samples do not match"),
            (weights_times(math.nan), "golden samples do not match: off by nan"),
            (in_contract("golden.target_deg.3.1", 45.0), "golden samples do not match"),
            (in_contract("golden.inputs.goal_m.0", [0.0, 0.0, 9.0]), "golden samples do not match"),
            (in_contract("golden.target_deg.0", [1.0]), "'target_deg'"),
            (in_contract("golden.target_deg", []), "golden samples"),
            (both(in_contract("golden.tolerance_deg", 1e9), weights_times(0.0)), "tolerance"),
            (in_contract("joints.0.upper_deg", -1.0), "lower < upper"),
            (in_contract("joints.0.upper_deg", 180.0), "limits"),
            (in_contract("joints.1.lower_deg", -90.0), "limits"),
            (in_contract("joints.1.max_speed_deg_s", 1e4), "limits"),
            (in_contract("joints.2.max_acceleration_deg_s2", 1e6), "limits"),
            (in_contract("joints.2.max_speed_deg_s", 0.0), "positive speeds"),
            (in_contract("joints.0.name", "another"), "its arm has joints .* its contract"),
            (in_contract("joints", []), "joint limits"),
            (in_contract("control_rate_hz", 0), "control_rate_hz"),
            (in_contract("arm_urdf", "not an arm"), "arm"),
            (another_arms_urdf, "its arm has joints"),
            (in_contract("inputs.4.size", 4), "'goal_m'"),
            (in_contract("inputs.4.name", "goal"), "golden samples"),
            (in_contract("output.name", "torque"), "its outputs are .*target_deg.* its contract has .*torque"),
            (rename("target_deg", "torque"), "its outputs are .*torque.* its contract has .*target_deg"),
            (rename("goal_m", "goal"), "its inputs are .*'goal'.* its contract has .*'goal_m'"),
            (widen_input, "onnxruntime cannot load it"),
            (
                both(in_contract("inputs.4.size", 4), in_contract("golden.inputs.goal_m", [[0.0] * 4] * 16)),
                r"inputs: .*goal_m \(4\); expected .*goal_m \(3\)",
            ),
            (more_input, "its inputs are .*secret"),
            (more_output, "its outputs are .*goal_m"),
            (three_axes, "its outputs are .* its contract has"),
            (double_precision, "its outputs are .*double.* its contract has .*float"),
            (fix_batch, r"have a fixed batch of \[16"),
            (runs_only_with_many_rows, "golden samples do not run"),
            (unknown_operator, "the operator 'NoSuchOperator', which arm-control does not write"),
            (without_contract, "has no contract: it was not written by 'arm-control export'"),
            (in_contract("schema_version", 5), "schema version 5, this program reads 2, 3 and 4"),
            (broken_contract, "the contract is not a JSON object"),
            (in_contract("schema_version", 3), "contract version 3 with the input previous_target_speed_deg_s"),
            (in_contract("schema_version", 2), "contract version 2 with the input previous_target_speed_deg_s"),
            (
                without_input("previous_target_speed_deg_s"),
                "contract version 4 without the input previous_target_speed",
            ),
            (without_input("previous_target_deg"), r"inputs: .* \(3\); expected .*previous_target_deg \(3\)"),
        ],
    )
    def test_a_changed_policy_is_rejected(self, tiny_policy: Path, tmp_path: Path, edit: Edit, message: str) -> None:
        """Changed weights, samples, limits, names, shapes, types, operators and contracts."""
        path = tampered(tiny_policy, tmp_path, edit)
        with pytest.raises(PolicyFileError, match=message) as caught:
            PolicyRunner.load(path)
        text = str(caught.value)
        assert text.startswith(f"policy {path} is invalid: ")
        assert "\n" not in text
        assert len(text) < 800

    def test_a_policy_with_unknown_inputs_is_rejected(self, tiny_policy: Path, tmp_path: Path) -> None:
        """A consistent file with another input name than `step` provides."""
        with pytest.raises(PolicyFileError, match="goal"):
            PolicyRunner.load(tampered(tiny_policy, tmp_path, rename_goal_everywhere))

    def test_missing_and_other_files_are_rejected(self, tmp_path: Path) -> None:
        """Missing, empty and text files, and folders."""
        missing, empty, text = tmp_path / "missing.onnx", tmp_path / "empty.onnx", tmp_path / "text.onnx"
        empty.touch()
        text.write_text("x = 1\n" * 100)
        for path, message in (
            (missing, f"cannot read policy {missing}: No such file"),
            (tmp_path, f"cannot read policy {tmp_path}: Is a directory"),
            (empty, "not an ONNX model"),
            (text, "not an ONNX model"),
        ):
            with pytest.raises(PolicyFileError, match=message):
                PolicyRunner.load(path)


class TestStep:
    """Targets of `step`."""

    def test_targets_are_limited_as_in_the_environment(self, tiny_policy: Path) -> None:
        """At every step of an episode, target and speed equal the environment's."""
        import gymnasium

        import envs  # noqa: F401

        runner = PolicyRunner.load(tiny_policy)
        speed = [0.0] * 3
        fastest = 0.0
        largest_effect = 0.0
        with gymnasium.make("ArmReach-v0") as env:
            arm: Any = env.unwrapped
            observation, _ = env.reset(seed=5)
            goal = observation["desired_goal"].tolist()
            runner.start(arm.simulation.angles_deg)
            truncated = False
            while not truncated:
                reading = (arm.simulation.angles_deg, arm.simulation.speeds_deg_s)
                inputs = {
                    "joint_angle_deg": [reading[0]],
                    "joint_speed_deg_s": [reading[1]],
                    "previous_target_deg": [runner.target_deg],
                    "previous_target_speed_deg_s": [speed],
                    "goal_m": [goal],
                }
                raw = runner.infer(inputs)[0]
                at_rest = runner.infer(inputs | {"previous_target_speed_deg_s": [[0.0] * 3]})[0]
                largest_effect = max(largest_effect, np.abs(raw - at_rest).max())
                assert runner.target_deg is not None
                before = list(runner.target_deg)
                target = runner.step(*reading, goal)
                observation, _, _, truncated, _ = env.step(raw)
                # The speed of the target is the change that it has come by, divided by the period.
                speed = [(now - then) / runner.period_s for now, then in zip(target, before, strict=True)]
                fastest = max(fastest, *map(abs, speed))
                np.testing.assert_allclose(target, observation["observation"][6:9] / RADIANS, rtol=0, atol=1e-4)
                np.testing.assert_allclose(speed, observation["observation"][9:] / RADIANS, rtol=0, atol=3e-3)
        assert fastest > 50.0
        assert largest_effect > 0.1  # the policy does depend on that speed

    @pytest.mark.parametrize("hold", [1, 3, 20])
    def test_targets_keep_the_limits_for_a_jumping_graph(
        self, handmade: Callable[[float, list[float]], Path], hold: int
    ) -> None:
        """Outputs up to 1e36 degrees, held for 1, 3 or 20 steps."""
        runner, generator = PolicyRunner.load(handmade(1e6, [0.0, 0.0, 0.0])), np.random.default_rng(hold)
        start = generator.uniform(LOW, HIGH).tolist()
        runner.start(start)
        targets, raw = [start], []
        for _ in range(4000 // hold):
            goal = generator.uniform(-1e-4, 2e-4, 3) if generator.random() < 0.5 else generator.choice([-1e30, 1e30], 3)
            raw.append(goal * 1e6)
            targets += [
                runner.step(generator.uniform(LOW, HIGH).tolist(), [0.0] * 3, goal.tolist()) for _ in range(hold)
            ]
        assert np.abs(raw).max() > 1e30  # the graph itself does jump
        assert np.ptp(targets, axis=0).min() > 5.0  # and the targets do move
        assert_within_limits(targets, runner.period_s)

    def test_targets_keep_the_limits_for_a_learned_policy(self, tiny_policy: Path) -> None:
        """3,000 steps with noisy speeds and changing goals."""
        runner, generator = PolicyRunner.load(tiny_policy), np.random.default_rng(0)
        start = generator.uniform(LOW, HIGH).tolist()
        runner.start(start)
        targets = [start]
        for tick in range(3000):
            if tick % 7 == 0:
                goal = ARM.tip_position(generator.uniform(LOW, HIGH).tolist())
            targets.append(runner.step(targets[-1], generator.normal(0, 100, 3).tolist(), goal))
        assert_within_limits(targets, runner.period_s)

    def test_a_constant_output_is_reached_and_kept(self, handmade: Callable[[float, list[float]], Path]) -> None:
        """Without overshoot, and clipped to the limits."""
        runner = PolicyRunner.load(handmade(0.0, [10.0, 45.0, 400.0]))
        runner.start([80.0, 0.0, 0.0])
        targets = [runner.step([0.0] * 3, [0.0] * 3, [0.0] * 3) for _ in range(150)]
        np.testing.assert_allclose(targets[-10:], [[10.0, 45.0, 90.0]] * 10, atol=1e-6)
        assert max(row[1] for row in targets) <= 45.0 + 1e-9  # without passing it

    def test_without_start_the_first_target_is_near_the_measured_angles(
        self,
        handmade: Callable[[float, list[float]], Path],
    ) -> None:
        """Within acceleration x period^2."""
        runner = PolicyRunner.load(handmade(0.0, [90.0, 90.0, 90.0]))
        target = runner.step([10.0, 20.0, 30.0], [0.0] * 3, [0.0] * 3)
        allowed = np.array(ARM.limits.max_acceleration_deg_s2) * runner.period_s**2
        assert (np.array(target) > [10.0, 20.0, 30.0]).all()
        assert (np.array(target) <= [10.0, 20.0, 30.0] + allowed + 1e-9).all()

    def test_changing_a_returned_target_has_no_effect(self, tiny_policy: Path) -> None:
        """`step` returns a copy."""
        kept, spoiled = PolicyRunner.load(tiny_policy), PolicyRunner.load(tiny_policy)
        for _ in range(3):
            readings = [10.0, 20.0, 30.0], [0.0, 0.0, 0.0], (0.3, 0.15, 0.3)
            target = spoiled.step(*readings)
            assert target == kept.step(*readings)
            target[0] += 20.0


class TestInvalidInputs:
    """Readings and goals that are rejected."""

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_readings_and_goals_must_be_finite(self, tiny_policy: Path, bad: float) -> None:
        """The previous target is kept."""
        runner = PolicyRunner.load(tiny_policy)
        good = [10.0, 20.0, 30.0]
        for arguments in (
            ([bad, 20.0, 30.0], good, GOALS[0]),
            (good, [0.0, bad, 0.0], GOALS[0]),
            (good, good, [bad] * 3),
        ):
            runner.start(good)
            with pytest.raises(ValueError, match="finite"):
                runner.step(*arguments)
            assert runner.target_deg == good

    def test_check_goal_rejects_goals_out_of_reach(self, tiny_policy: Path) -> None:
        """And those that are not three finite numbers."""
        runner = PolicyRunner.load(tiny_policy)
        assert runner.check_goal(GOALS[0]) == GOALS[0]
        for goal, message in (
            ([5.0, 0.0, 0.0], "out of reach"),
            ([math.nan, 0.0, 0.0], "finite"),
            ([0.1, math.inf, 0.0], "finite"),
            ([0.1, 0.1], "expected a goal x,y,z"),
        ):
            with pytest.raises(ValueError, match=message):
                runner.check_goal(goal)

    @pytest.mark.parametrize(("angles", "speeds"), [([1.0, 2.0], [0.0] * 3), ([1.0] * 3, [0.0] * 4)])
    def test_readings_of_another_number_of_joints_are_rejected(
        self, tiny_policy: Path, angles: list[float], speeds: list[float]
    ) -> None:
        """Two angles, or four speeds, for three joints."""
        with pytest.raises(ValueError, match="of 3 joints"):
            PolicyRunner.load(tiny_policy).step(angles, speeds, (0.3, 0.15, 0.3))


class TestOlderPolicies:
    """Policies with contracts of versions 2 and 3, without the speed of the previous target."""

    GOLDEN = locations.GOLDEN / "policy-v3.onnx"

    @pytest.mark.parametrize("version", [2, 3])
    def test_it_decides_as_it_was_exported(self, tmp_path: Path, version: int) -> None:
        """Its golden samples hold for any speed of the previous target."""
        edit = both(in_contract("schema_version", version), in_contract("imperfections", "ideal"))
        runner = PolicyRunner.load(tampered(self.GOLDEN, tmp_path, edit))
        assert "previous_target_speed_deg_s" not in {tensor.name for tensor in runner.contract.inputs}
        golden = runner.contract.golden
        columns = [golden.inputs[name] for name in ("joint_angle_deg", "joint_speed_deg_s", "previous_target_deg")]
        for row, expected in enumerate(golden.target_deg):
            angles, speeds, target = (column[row] for column in columns)
            for speed in ([0.0] * 3, [300.0, -300.0, 150.0]):
                got = runner.decide(angles, speeds, target, speed, golden.inputs["goal_m"][row])
                np.testing.assert_allclose(got, expected, rtol=0, atol=golden.tolerance_deg)

    def test_its_error_is_that_of_its_own_version(self) -> None:
        """46.957 mm, as `evaluate policy-v3.onnx --goals 20` printed there."""
        figures = evaluate(self.GOLDEN, goals=20)
        assert figures["mean_error_mm"] == pytest.approx(GOLDEN_ERROR_MM, rel=0.02)

    def test_it_runs_in_the_control_loop(self) -> None:
        """No fault, and errors as large as a policy of so short a training has."""
        runner = PolicyRunner.load(self.GOLDEN)
        driver = SimulationDriver(runner.arm, runner.period_s)
        report = drive(runner, driver, [StillGoal(goal) for goal in GOALS], seconds_per_goal=2.0)
        driver.close()
        assert report.faults == []
        assert len(report.goals) == len(GOALS)
        assert max(goal.error_mm for goal in report.goals) < 3.0 * GOLDEN_ERROR_MM

    def test_a_contract_of_version_4_requires_the_input(self, tmp_path: Path) -> None:
        """The file is consistent otherwise."""
        path = tampered(self.GOLDEN, tmp_path, in_contract("schema_version", 4))
        with pytest.raises(PolicyFileError, match="contract version 4 without the input previous_target_speed_deg_s"):
            PolicyRunner.load(path)
