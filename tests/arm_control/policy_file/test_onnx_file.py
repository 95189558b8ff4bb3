"""Validation of ONNX files before they are loaded: any bytes pass or give a ValueError, in bounded time and memory."""

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from policy_files import tampered

from arm_control.policy_file import onnx_file
from arm_control.policy_file.onnx_file import check_self_contained, read_model
from arm_control.policy_file.onnx_graph import infer_shapes
from arm_control.policy_file.onnx_shapes import RULES
from arm_control.policy_file.protobuf import Message
from arm_control.runner import PolicyFileError, PolicyRunner

OPSETS = [helper.make_opsetid("", 18)]
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])


def external(name: str = "weights") -> TensorProto:
    """A tensor that refers to another file for its values."""
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), name)
    onnx.external_data_helper.set_external_data(tensor, "side.bin")
    tensor.ClearField("raw_data")
    return tensor


def model(nodes: list[onnx.NodeProto], **more: list[object]) -> bytes:
    functions = more.pop("functions", [])
    graph = helper.make_graph(nodes, "graph", [X], [Y], **more)
    content: bytes = helper.make_model(graph, functions=functions, opset_imports=OPSETS).SerializeToString()
    return content


def branch(values: TensorProto) -> onnx.GraphProto:
    """The body of an If that gives a constant."""
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node("Identity", ["weights"], ["out"])], "body", [], [output], [values])


def sparse() -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(3), "indices")
    return helper.make_sparse_tensor(external("values"), indices, [3])


@pytest.fixture(scope="module")
def genuine(tiny_policy: Path) -> bytes:
    """A real policy's file."""
    return tiny_policy.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def number(name: str, *values: int) -> TensorProto:
    """A constant list of whole numbers."""
    return numpy_helper.from_array(np.array(values, np.int64), name)


def floats(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def more(nodes: list[onnx.NodeProto], *constants: TensorProto) -> Callable[[onnx.ModelProto], None]:
    """An edit that adds nodes, whose results are unused, before those of the policy."""

    def edit(policy: onnx.ModelProto) -> None:
        graph = policy.graph
        graph.initializer.extend(constants)
        rest = list(graph.node)
        del graph.node[:]
        graph.node.extend([*nodes, *rest])

    return edit


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    made: onnx.NodeProto = helper.make_node(operator, inputs.split(), [output], **attributes)
    return made


def body() -> onnx.GraphProto:
    return branch(floats("weights", 3))


def custom_operator(policy: onnx.ModelProto) -> None:
    policy.graph.node[3].domain = "com.microsoft"


def custom_opset(policy: onnx.ModelProto) -> None:
    policy.opset_import.append(helper.make_opsetid("com.example", 1))


def old_opset(policy: onnx.ModelProto) -> None:
    policy.opset_import[0].version = 11


def own_function(policy: onnx.ModelProto) -> None:
    made = helper.make_function("", "Sin", ["a"], ["b"], [helper.make_node("Cos", ["a"], ["b"])], OPSETS)
    policy.functions.append(made)


def training_information(policy: onnx.ModelProto) -> None:
    policy.training_info.add().algorithm.CopyFrom(body())


def dimensions(*shape: int) -> Callable[[onnx.ModelProto], None]:
    def edit(policy: onnx.ModelProto) -> None:
        policy.graph.initializer[0].dims[:] = shape

    return edit


def values_as_list(policy: onnx.ModelProto) -> None:
    weights = policy.graph.initializer[0]
    weights.float_data[:] = numpy_helper.to_array(weights).ravel().tolist()
    weights.ClearField("raw_data")


def text_constant(policy: onnx.ModelProto) -> None:
    policy.graph.initializer.append(helper.make_tensor("text", TensorProto.STRING, [1], [b"x"]))


def endless_input(policy: onnx.ModelProto) -> None:
    policy.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**40


def input_of_no_size(policy: onnx.ModelProto) -> None:
    policy.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "any"


def sequence_input(policy: onnx.ModelProto) -> None:
    policy.graph.input[0].CopyFrom(
        helper.make_tensor_sequence_value_info(policy.graph.input[0].name, TensorProto.FLOAT, ["batch", 3])
    )


def long_text(policy: onnx.ModelProto) -> None:
    policy.doc_string = "x" * 2**21


def many_nodes(policy: onnx.ModelProto) -> None:
    more([node("Neg", "goal_m", f"n{i}") for i in range(5000)])(policy)


def many_fields(policy: onnx.ModelProto) -> None:
    policy.graph.node[0].input.extend([""] * 100_000)


def doubled(times: int) -> list[onnx.NodeProto]:
    return [node("Concat", f"d{i} d{i}", f"d{i + 1}", axis=0) for i in range(times)]


def squared(size: int, times: int) -> Callable[[onnx.ModelProto], None]:
    """A matrix multiplied by itself, over and over."""
    nodes = [node("Expand", "one size", "s0")]
    nodes += [node("MatMul", f"s{i} s{i}", f"s{i + 1}") for i in range(times)]
    return more(nodes, floats("one", 1, 1), number("size", size, size))


REJECTED: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "custom operator": (custom_operator, "custom operator, '.*' of 'com.microsoft'"),
    "custom opset": (custom_opset, "custom operators, of 'com.example'"),
    "old opset": (old_opset, r"opset versions \[11\], expected one from 18 on"),
    "no such operator": (more([node("Own", "goal_m", "own")]), "the operator 'Own', which arm-control does not write"),
    "function": (own_function, "functions of its own, which arm-control does not write"),
    "training": (training_information, "training information"),
    "sparse": (
        lambda policy: policy.graph.sparse_initializer.append(
            helper.make_sparse_tensor(floats("some", 3), numpy_helper.from_array(np.arange(3), "at"), [10**9])
        ),
        "sparse tensors",
    ),
    "if": (more([node("If", "c", "y0", then_branch=body(), else_branch=body())]), "the operator 'If'"),
    "loop": (more([node("Loop", "", "y0", body=body())]), "the operator 'Loop'"),
    "scan": (more([node("Scan", "goal_m", "y0", num_scan_inputs=1, body=body())]), "the operator 'Scan'"),
    "constant of a shape": (more([node("ConstantOfShape", "huge", "y0")], number("huge", 2**40)), "'ConstantOfShape'"),
    "tile": (more([node("Tile", "goal_m huge", "y0")], number("huge", 2**20, 2**20)), "'Tile'"),
    "range": (more([node("Range", "a b c", "y0")], number("a"), number("b"), number("c")), "'Range'"),
    "pad": (more([node("Pad", "goal_m huge", "y0")], number("huge", 0, 0, 2**40, 0)), "'Pad'"),
    "resize": (more([node("Resize", "goal_m", "y0")]), "'Resize'"),
    "random": (more([node("RandomNormal", "", "y0", shape=[2**20, 2**20])]), "'RandomNormal'"),
    "graph as attribute": (more([node("Neg", "goal_m", "y0", body=body())]), "its Neg has an attribute 'body'"),
    "tensor as attribute": (more([node("Neg", "goal_m", "y0", value=floats("v", 3))]), "its Neg has an attribute"),
    "axis of another kind": (
        more([node("Gather", "goal_m n", "y0", axis=1.5)], number("n", 1)),
        "its Gather has an attribute 'axis'",
    ),
    "negative dimensions": (dimensions(-1, -(2**40)), "expected at most 8 axes"),
    "huge dimensions": (dimensions(2**31, 2**31), "expected at most 8 axes and 268435456 elements"),
    "dimensions of other bytes": (dimensions(1000, 1000), r"the shape \(1000, 1000\) but \d+ bytes"),
    "dimensions of nothing": (dimensions(0, 5), r"the shape \(0, 5\) but"),
    "many axes": (dimensions(*[1] * 5000), "more than 4096 numbers"),
    "more axes than 8": (dimensions(*[1] * 9), "expected at most 8 axes"),
    "values as a list": (values_as_list, "has values in a form"),
    "texts": (text_constant, "has the data type 8"),
    "endless input": (endless_input, "has the shape .* expected at most"),
    "input of no size": (input_of_no_size, "has an axis without a size"),
    "input of another kind": (sequence_input, "is not a tensor with a shape"),
    "long text": (long_text, "bytes besides its tensors' values, expected at most 2097152"),
    "many nodes": (many_nodes, "nodes, expected at most 4096"),
    "many fields": (many_fields, "more than 100000 protobuf fields"),
    "two of a name": (more([], floats("twice", 1), floats("twice", 1)), "two tensors 'twice'"),
    "unordered": (more([node("Neg", "later", "y0")]), "the tensor 'later' before any node computes it"),
    "huge expand": (
        more([node("Expand", "one huge", "y0")], floats("one", 1), number("huge", 2**20, 2**20)),
        r"'y0' has the shape \(1048576, 1048576\)",
    ),
    "huge expand by pieces": (
        more(
            [node("Concat", "p p", "huge", axis=0), node("Expand", "one huge", "y0")],
            floats("one", 1),
            number("p", 2**20),
        ),
        r"'y0' has the shape \(1048576, 1048576\)",
    ),
    "expand to a computed shape": (
        more(
            [node("Mul", "p p", "huge"), node("Expand", "one huge", "y0")], floats("one", 1), number("p", 2**20, 2**20)
        ),
        "the size of the output of its Expand cannot be inferred",
    ),
    "huge sum": (
        more([node("Add", "column row", "y0")], floats("column", 2**16, 1), floats("row", 2**16)),
        r"'y0' has the shape \(65536, 65536\)",
    ),
    "huge product": (
        more([node("MatMul", "column row", "y0")], floats("column", 2**16, 1), floats("row", 1, 2**16)),
        r"'y0' has the shape \(65536, 65536\)",
    ),
    "doubled": (more(doubled(40), floats("d0", 1)), "expected at most"),
    "gathered": (
        more(
            [node("Expand", "zero size", "at"), node("Gather", "w at", "y0", axis=0)],
            number("zero", 0),
            number("size", 2**20),
            floats("w", 2, 2**10),
        ),
        r"'y0' has the shape \(1048576, 1024\)",
    ),
    "much in all": (
        more([node("Expand", "one size", f"y{i}") for i in range(40)], floats("one", 1), number("size", 2**23)),
        "one inference computes .* elements",
    ),
    "much work": (squared(2**11, 3), "one inference computes .* elements with .* multiplications, expected at most"),
    "division by zero": (
        more([node("Shape", "goal_m", "s"), node("Div", "s zero", "y0")], number("zero", 0)),
        "its Div divides by something other than a positive constant",
    ),
    "division by minus one": (
        more([node("Div", "least one", "y0")], number("least", -(2**63)), number("one", -1)),
        "its Div divides by something other than a positive constant",
    ),
    "remainder of zero": (
        more([node("Shape", "goal_m", "s"), node("Mod", "s s", "y0")]),
        "its Mod divides by something other than a positive constant",
    ),
}


class TestExternalData:
    """Tensors in other files."""

    def test_a_real_policy_and_a_plain_model_pass(self, tiny_policy: Path) -> None:
        """Files that hold all of their tensors are accepted."""
        check_self_contained(tiny_policy.read_bytes())
        inside = numpy_helper.from_array(np.zeros(3, np.float32), "weights")
        check_self_contained(model([helper.make_node("Add", ["x", "weights"], ["y"])], initializer=[inside]))
        assert read_model(tiny_policy) == tiny_policy.read_bytes()

    @pytest.mark.parametrize(
        "content",
        [
            model([helper.make_node("Add", ["x", "weights"], ["y"])], initializer=[external()]),
            model([helper.make_node("Constant", [], ["y"], value=external())]),
            model(
                [helper.make_node("If", ["c"], ["y"], then_branch=branch(external()), else_branch=branch(external()))]
            ),
            model(
                [
                    helper.make_node(
                        "Scan", ["x"], ["y"], num_scan_inputs=1, body=branch(external("nested in the body of a scan"))
                    )
                ]
            ),
            model([helper.make_node("Add", ["x", "values"], ["y"])], sparse_initializer=[sparse()]),
            model([helper.make_node("Constant", [], ["y"], sparse_value=sparse())]),
            model([helper.make_node("Own", ["x"], ["y"], domain="own", values=[external(), external("b")])]),
            model([helper.make_node("Own", ["x"], ["y"], domain="own", graphs=[branch(external())])]),
            model(
                [helper.make_node("Own", ["x"], ["y"], domain="own")],
                functions=[
                    helper.make_function(
                        "own", "Own", ["x"], ["y"], [helper.make_node("Constant", [], ["y"], value=external())], OPSETS
                    )
                ],
            ),
        ],
        ids=[
            "initializer",
            "constant",
            "branch of an If",
            "body of a Scan",
            "sparse initializer",
            "sparse constant",
            "list of tensors",
            "list of graphs",
            "body of a function",
        ],
    )
    def test_external_data_is_rejected_anywhere(self, content: bytes) -> None:
        """In constants, branches, loop bodies, sparse tensors, attributes and functions."""
        with pytest.raises(ValueError, match="stores tensors in another file"):
            check_self_contained(content)

    def test_external_data_is_rejected_even_if_the_file_exists(self, tiny_policy: Path, tmp_path: Path) -> None:
        """A policy saved with a data file beside it is not loaded."""
        path = tmp_path / "policy.onnx"
        onnx.save_model(
            onnx.load_model(tiny_policy), path, save_as_external_data=True, location="policy.data", size_threshold=0
        )
        assert (tmp_path / "policy.data").stat().st_size > 0
        with pytest.raises(PolicyFileError, match="stores tensors in another file"):
            PolicyRunner.load(path)

    def test_external_data_behind_a_truncated_enum_is_rejected(self) -> None:
        """protobuf keeps 32 bits of an enum, so that 2**32 + 1 is EXTERNAL."""
        tensor = bytes([8, 1, 16, 1, 14 << 3]) + b"\x81\x80\x80\x80\x10"  # dims 1, float, data_location
        graph = bytes([5 << 3 | 2, len(tensor)]) + tensor
        content = bytes([7 << 3 | 2, len(graph)]) + graph
        assert onnx.load_from_string(content).graph.initializer[0].data_location == TensorProto.EXTERNAL
        with pytest.raises(ValueError, match="stores tensors in another file"):
            check_self_contained(content)


class TestDamagedContent:
    """Bytes that are no ONNX model."""

    def test_a_truncated_policy_is_rejected(self, tiny_policy: Path, tmp_path: Path) -> None:
        """Truncated at some 1,000 places."""
        content, path = tiny_policy.read_bytes(), tmp_path / "policy.onnx"
        lengths = {*range(200), *range(0, len(content), 97), *range(len(content) - 200, len(content))}
        for length in sorted(lengths):
            path.write_bytes(content[:length])
            with pytest.raises(PolicyFileError, match=r"policy .* is invalid: "):
                PolicyRunner.load(path)

    @pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100, b"\xff" * 100, b"\x08\x07", b"PK\x03\x04"])
    def test_other_content_is_rejected(self, content: bytes) -> None:
        """Empty files, text, zeros and archives."""
        with pytest.raises(ValueError, match="not an ONNX model"):
            check_self_contained(content)

    def test_deeply_nested_graphs_are_rejected(self) -> None:
        """5,000 nested graphs are a ValueError, not a RecursionError."""

        def field(number: int, content: bytes) -> bytes:
            size, length = len(content), b""
            while size > 127:
                length, size = length + bytes([size & 127 | 128]), size >> 7
            return bytes([number << 3 | 2]) + length + bytes([size]) + content

        graph = b""
        for _ in range(5000):
            graph = field(1, field(5, field(6, graph)))  # graph.node.attribute.g
        with pytest.raises(ValueError, match="nested too deeply"):
            check_self_contained(field(7, graph))

    def test_two_graphs_are_rejected(self, tiny_policy: Path) -> None:
        """protobuf would merge them into one."""
        content = tiny_policy.read_bytes()
        second = onnx.ModelProto()
        second.graph.CopyFrom(body())
        with pytest.raises(ValueError, match="2 fields with the number 7, expected one"):
            check_self_contained(content + second.SerializeToString())

    def test_a_file_of_millions_of_fields_is_rejected_quickly(self) -> None:
        """Five million nodes take less than 5 s."""
        graph = b"\x0a\x00" * 5_000_000  # as many nodes
        content = b"\x3a" + bytes([len(graph) >> shift & 127 | (128 if shift < 21 else 0) for shift in (0, 7, 14, 21)])
        begin = time.process_time()
        with pytest.raises(ValueError, match="more than 100000 protobuf fields"):
            check_self_contained(content + graph)
        assert time.process_time() - begin < 5.0


def outcome(content: bytes) -> str:
    """ "rejected" or "accepted"; accepted content is self-contained by ONNX's own library."""
    try:
        check_self_contained(content)
    except ValueError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 300
        return "rejected"
    try:
        policy = onnx.load_from_string(content)
    except DecodeError:  # bytes without a graph that are no protobuf: onnxruntime rejects them
        return "rejected"
    assert not any(map(onnx.external_data_helper.uses_external_data, policy.graph.initializer))
    assert not policy.functions
    assert {one.op_type for one in policy.graph.node} <= set(RULES)
    return "accepted"


class TestArbitraryContent:
    """Random changes are accepted or rejected with one short line."""

    @settings(max_examples=1000)
    @given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"\x3a" + bytes([len(tail)]) + tail))
    def test_arbitrary_bytes(self, content: bytes) -> None:
        """Nothing but a ValueError is raised."""
        outcome(content)

    def test_a_policy_with_pieces_changed(self, genuine: bytes) -> None:
        """Bytes are flipped, cut, repeated, inserted and dropped; both outcomes occur."""
        outcomes = set()

        @settings(max_examples=500)
        @given(data=st.data())
        def check(data: st.DataObject) -> None:
            content = genuine
            for _ in range(data.draw(st.integers(1, 4))):
                at, length = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 40))
                what = data.draw(st.sampled_from(["flip", "cut", "repeat", "insert", "drop"]))
                piece = content[at : at + length]
                match what:
                    case "flip":
                        piece = bytes(byte ^ data.draw(st.integers(1, 255)) for byte in piece[:3]) + piece[3:]
                    case "cut":
                        content = content[:at]
                    case "repeat":
                        piece = piece * 2
                    case "insert":
                        piece = data.draw(st.binary(max_size=12)) + piece
                    case "drop":
                        piece = b""
                content = content[:at] + piece + content[at + length :]
            outcomes.add(outcome(content))

        check()
        assert outcomes == {"accepted", "rejected"}

    def test_a_policy_with_fields_of_its_graph_changed(self, genuine: bytes) -> None:
        """Operators, edges, attributes and shapes are changed through protobuf; both outcomes occur."""
        outcomes = set()

        @settings(max_examples=300)
        @given(data=st.data())
        def check(data: st.DataObject) -> None:
            policy = onnx.load_from_string(genuine)
            graph = policy.graph
            names = sorted({name for one in graph.node for name in (*one.input, *one.output)})
            whole = st.integers(-3, 20) | st.sampled_from([2**31, 2**40, 2**63 - 1, -(2**63)])
            for _ in range(data.draw(st.integers(1, 3))):
                one = graph.node[data.draw(st.integers(0, len(graph.node) - 1))]
                match data.draw(st.sampled_from(["operator", "input", "output", "attribute", "dims", "drop"])):
                    case "operator":
                        one.op_type = data.draw(st.sampled_from(sorted(RULES)))
                    case "input":
                        del one.input[data.draw(st.integers(0, 3)) :]
                        one.input.extend(data.draw(st.lists(st.sampled_from(["", *names]), max_size=3)))
                    case "output":
                        one.output.extend(data.draw(st.lists(st.sampled_from(["", "y0", *names]), max_size=2)))
                    case "attribute":
                        del one.attribute[:]
                        name = data.draw(
                            st.sampled_from(["axis", "perm", "keepdims", "end", "start", "batch_dims", "transA"])
                        )
                        one.attribute.append(helper.make_attribute(name, data.draw(whole)))
                    case "dims":
                        tensor = graph.initializer[data.draw(st.integers(0, len(graph.initializer) - 1))]
                        values = data.draw(st.lists(whole, max_size=4))
                        if data.draw(st.booleans()):
                            tensor.CopyFrom(number(tensor.name, *values))
                        else:
                            tensor.dims[:] = values
                    case "drop":
                        graph.node.remove(one)
            outcomes.add(outcome(policy.SerializeToString()))

        check()
        assert outcomes == {"accepted", "rejected"}

    @pytest.mark.slow
    def test_a_policy_with_bytes_changed_is_rejected_or_works(self, tiny_policy: Path, scratch: Path) -> None:
        """A file that loads has passed its golden samples and gives finite targets."""
        outcomes = set()

        @settings(max_examples=1000)
        @given(data=st.data())
        def check(data: st.DataObject) -> None:
            content = bytearray(tiny_policy.read_bytes())
            for _ in range(data.draw(st.integers(1, 3))):
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
            changed = scratch / "changed.onnx"
            changed.write_bytes(content)
            try:
                runner = PolicyRunner.load(changed)
            except PolicyFileError as error:
                assert str(error).startswith(f"policy {changed} is invalid: ")
                assert "\n" not in str(error)
                outcomes.add("rejected")
                return
            count = runner.arm.joint_count
            answer = runner.decide([30.0] * count, [0.0] * count, [30.0] * count, [0.0] * count, (0.2, 0.2, 0.3))
            assert len(answer) == count
            assert np.isfinite(answer).all()
            outcomes.add("loaded")

        check()
        assert outcomes == {"loaded", "rejected"}


class TestGraph:
    """Graphs that an exported policy never has."""

    @pytest.mark.parametrize("name", REJECTED)
    def test_unsafe_graphs_are_rejected_before_onnxruntime_loads_them(
        self, name: str, tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Operators, attributes, shapes and amounts of work beyond the limits are named."""
        edit, message = REJECTED[name]
        path = tampered(tiny_policy, tmp_path, edit)
        with pytest.raises(ValueError, match=message) as caught:
            read_model(path)
        text = str(caught.value)
        assert text.isprintable()
        assert len(text) < 300
        monkeypatch.setattr("onnxruntime.InferenceSession", None)
        with pytest.raises(PolicyFileError, match=message):
            PolicyRunner.load(path)

    def test_inferred_shapes_equal_onnxruntimes(self, tiny_policy: Path) -> None:
        """They are equal for each accepted operator, with batches of 1 and 16."""
        policy = onnx.load_model(tiny_policy)
        operators = [
            node("Shape", "goal_m", "rows", start=0, end=1),
            node("Concat", "rows two", "size", axis=0),
            node("Expand", "one size", "expanded"),
            node("Transpose", "weights", "turned", perm=[2, 0, 1]),
            node("Reshape", "weights flat", "reshaped"),
            node("Slice", "weights from to axes steps", "sliced"),
            helper.make_node("Split", ["weights"], ["part0", "part1", "part2"], axis=2, num_outputs=3),
            helper.make_node("Split", ["weights", "uneven"], ["piece0", "piece1"], axis=0),
            node("ArgMax", "weights", "best", axis=1, keepdims=0),
            node("ReduceMax", "weights two", "largest", keepdims=1),
            node("ReduceL2", "weights two", "length", keepdims=1),
            node("ReduceL2", "weights axes", "lengths", keepdims=0),
            node("Reciprocal", "weights", "reciprocals"),
            node("Unsqueeze", "weights axes", "wide"),
            node("MatMul", "weights columns", "product"),
            node("Gather", "weights two", "gathered", axis=-1),
            node("GatherND", "weights places", "picked"),
            node("Gemm", "left right", "gemm", transA=1, transB=1),
            node("Mul", "column row", "outer"),
        ]
        constants = [number("two", 2), number("flat", 0, -1), number("from", -3, 0), number("to", 99, -1)]
        constants += [number("axes", 1, 2), number("steps", 2, 1), number("uneven", 1, 2), floats("one", 1)]
        constants += [
            floats("weights", 3, 4, 8),
            floats("columns", 3, 8, 5),
            floats("left", 3, 2),
            floats("right", 5, 3),
        ]
        constants += [
            floats("column", 4, 1),
            floats("row", 6),
            numpy_helper.from_array(np.ones((2, 5, 2), int), "places"),
        ]
        more(operators, *constants)(policy)
        names = [name for one in policy.graph.node for name in one.output]
        check_self_contained(policy.SerializeToString())
        graph = Message(memoryview(policy.graph.SerializeToString()))
        del policy.graph.output[:]
        for name in names:
            policy.graph.output.add().name = name
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(policy.SerializeToString(), options)
        for rows in (1, 16):
            shapes = infer_shapes(graph, rows)
            inputs = {value.name: np.zeros((rows, value.shape[1]), np.float32) for value in session.get_inputs()}
            got = {name: value.shape for name, value in zip(names, session.run(names, inputs), strict=True)}
            assert got == {name: shapes[name] for name in names}


class TestFile:
    """Paths that are read."""

    def test_only_a_regular_file_is_read(self, tmp_path: Path) -> None:
        """Pipes, devices, folders and missing files are errors."""
        pipe = tmp_path / "pipe.onnx"
        os.mkfifo(pipe)
        for path in (pipe, Path("/dev/zero")):
            with pytest.raises(OSError, match="not a regular file"):
                read_model(path)
        with pytest.raises(IsADirectoryError):
            read_model(tmp_path)
        with pytest.raises(FileNotFoundError):
            read_model(tmp_path / "missing.onnx")

    def test_a_file_that_is_too_large_is_not_read(self, tmp_path: Path) -> None:
        """A file of more than 1 GiB is rejected without reading it."""
        path = tmp_path / "sparse.onnx"
        with path.open("wb") as file:
            file.truncate(onnx_file.LARGEST_FILE + 1)
        tracemalloc.start()
        try:
            with pytest.raises(OSError, match="1,073,741,825 bytes; expected at most 1,073,741,824"):
                read_model(path)
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()
