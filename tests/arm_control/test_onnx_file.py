"""The look into an ONNX file before it is loaded: whatever the bytes, an answer or a ValueError, and no side files."""

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from arm_control.runner import PolicyFileError, PolicyRunner
from arm_control.runner.onnx_file import check_self_contained

OPSETS = [helper.make_opsetid("", 18)]
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])


def external(name: str = "weights") -> TensorProto:
    """A tensor whose values are said to be in another file."""
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
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def test_a_real_policy_and_a_plain_model_pass(tiny_policy: Path) -> None:
    check_self_contained(tiny_policy.read_bytes())
    inside = numpy_helper.from_array(np.zeros(3, np.float32), "weights")
    check_self_contained(model([helper.make_node("Add", ["x", "weights"], ["y"])], initializer=[inside]))
    body = branch(inside)
    check_self_contained(model([helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)]))


@pytest.mark.parametrize(
    "content",
    [
        model([helper.make_node("Add", ["x", "weights"], ["y"])], initializer=[external()]),
        model([helper.make_node("Constant", [], ["y"], value=external())]),
        model([helper.make_node("If", ["c"], ["y"], then_branch=branch(external()), else_branch=branch(external()))]),
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
def test_external_data_is_refused_wherever_it_stands(content: bytes) -> None:
    with pytest.raises(ValueError, match="keeps tensors in another file"):
        check_self_contained(content)


def test_a_policy_saved_with_external_data_is_refused_though_its_side_file_is_there(
    tiny_policy: Path, tmp_path: Path
) -> None:
    path = tmp_path / "policy.onnx"
    onnx.save_model(
        onnx.load_model(tiny_policy), path, save_as_external_data=True, location="policy.data", size_threshold=0
    )
    assert (tmp_path / "policy.data").stat().st_size > 0
    with pytest.raises(PolicyFileError, match="keeps tensors in another file"):
        PolicyRunner.load(path)


def test_a_policy_cut_short_anywhere_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    content, path = tiny_policy.read_bytes(), tmp_path / "policy.onnx"
    lengths = {*range(200), *range(0, len(content), 97), *range(len(content) - 200, len(content))}
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        with pytest.raises(PolicyFileError, match=r"policy .* is refused: "):
            PolicyRunner.load(path)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100, b"\xff" * 100, b"\x08\x07", b"PK\x03\x04"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not an ONNX model"):
        check_self_contained(content)


def test_graphs_nested_too_deep_are_refused_without_a_recursion_error() -> None:
    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(5000):
        graph = field(1, field(5, field(6, graph)))  # graph.node.attribute.g
    with pytest.raises(ValueError, match="nested too deep"):
        check_self_contained(field(7, graph))


@settings(max_examples=1000)
@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"\x3a" + bytes([len(tail)]) + tail))
def test_no_bytes_raise_anything_but_value_error(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        check_self_contained(content)


@settings(max_examples=1000)
@given(data=st.data())
def test_a_policy_with_bytes_changed_is_loaded_or_refused_and_nothing_else(
    data: st.DataObject, tiny_policy: Path, scratch: Path
) -> None:
    content = bytearray(tiny_policy.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    changed = scratch / "changed.onnx"
    changed.write_bytes(content)
    said = f"policy {changed} is refused: "
    try:
        PolicyRunner.load(changed)
    except PolicyFileError as error:
        said = str(error)
    assert said.startswith(f"policy {changed} is refused: ")
    assert "\n" not in said
