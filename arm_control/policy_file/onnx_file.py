"""Checks of an ONNX file before onnxruntime loads it: format, completeness, and the cost of running it.

onnxruntime itself reads any side file that a model names, loads custom operators and allocates whatever a graph
requires. The base install has no `onnx`, so the few protobuf fields that matter are read here. A file is accepted if

- it is a regular file of at most `LARGEST_FILE` bytes, and without its tensors' values of at most `LARGEST_REST` bytes
  in `MOST_FIELDS` protobuf fields: onnxruntime then needs no more than a small multiple of the file;
- it stores no tensor in another file, including those in subgraphs, functions or training information;
- its graph passes `onnx_graph.check_graph`: it has only operators that arm-control writes, and tensors within the
  bounds given there.

Of protobuf messages (onnx.proto3) the numbers are: ModelProto.graph = 7, opset_import = 8, metadata_props = 14,
training_info = 20 and functions = 25, TrainingInfoProto.initialization = 1 and algorithm = 2, FunctionProto.node = 7,
GraphProto.node = 1, initializer = 5 and sparse_initializer = 15, NodeProto.attribute = 5, AttributeProto.t = 5, g = 6,
tensors = 10, graphs = 11 and sparse_tensor = 22 and 23, SparseTensorProto.values = 1 and indices = 2,
TensorProto.raw_data = 9, external_data = 13 and data_location = 14.
"""

from pathlib import Path

from arm_control.policy_file.onnx_graph import check_graph
from arm_control.policy_file.protobuf import Message, fields
from envs.files import read_file

LARGEST_FILE = 2**30  # bytes; a DQN over all 753,571 actions with 64 hidden units has 196 MB
LARGEST_REST = 2**21  # bytes of a file without its tensors' values; the largest of arm-control's have 70 kB
MOST_FIELDS = 100_000
DEEPEST_GRAPH = 32

# Which message each field of a message holds.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_NOT_WRITTEN = {20: "training information", 25: "functions of its own"}


def read_model(path: str | Path) -> bytes:
    """Read and check an ONNX file.

    Raises OSError if it cannot be read, is no regular file or is too large, and ValueError, in one line, if
    `check_self_contained` rejects it.
    """
    content = read_file(path, LARGEST_FILE)
    check_self_contained(content)
    return content


def check_self_contained(content: bytes) -> None:
    """Raise ValueError, in one line, for bytes that are no ONNX model or one that onnxruntime must not load.

    Rejected are models with tensors in other files, operators that arm-control does not write, and tensors, stored or
    computed, beyond the bounds.
    """
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it has {len(content)} bytes, expected at most {LARGEST_FILE}")
    # Walk through all fields, which bounds their number and finds external data.
    walk = _Walk()
    walk.message(memoryview(content), "model", 0)
    if len(content) - walk.values > LARGEST_REST:
        raise ValueError(
            f"it has {len(content) - walk.values} bytes besides its tensors' values, expected at most {LARGEST_REST}"
        )
    # Check the graph, and that there is nothing else to execute.
    model = Message(memoryview(content))
    for number, what in _NOT_WRITTEN.items():
        if model.all(number):
            raise ValueError(f"it has {what}, which arm-control does not write")
    graph = model.message(7)
    if graph is None:
        raise ValueError("it is not an ONNX model: it has no graph")
    check_graph(graph, model.messages(8))


class _Walk:
    """Walk through all messages that may contain a tensor, within a bound on the number of fields."""

    def __init__(self) -> None:
        self.fields_left = MOST_FIELDS
        self.values = 0  # bytes of tensors' values

    def message(self, message: memoryview, kind: str, depth: int) -> None:
        """Check a message of this kind and those in it. Raises ValueError for fields that are not accepted."""
        if depth > DEEPEST_GRAPH:
            raise ValueError("its graphs are nested too deeply")
        for number, value, is_bytes in fields(message):
            self.fields_left -= 1
            if self.fields_left < 0:
                raise ValueError(f"it has more than {MOST_FIELDS} protobuf fields")
            # A tensor's values must be in this file.
            if kind == "tensor":
                if number == 13 or (number == 14 and value != 0):
                    raise ValueError("it stores tensors in another file (external data): export it as one file")
                if number == 9 and is_bytes:
                    assert isinstance(value, memoryview)
                    self.values += len(value)
            # Continue with the messages in this one.
            inner = _FIELDS.get(kind, {}).get(number)
            if inner and is_bytes:
                assert isinstance(value, memoryview)
                self.message(value, inner, depth + 1)
