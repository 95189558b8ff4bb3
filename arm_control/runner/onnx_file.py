"""A look into an ONNX file before onnxruntime loads it: is it one, and is it whole?

The base install has no `onnx`, and onnxruntime reads side files named by a model without asking; so this walks the
few protobuf fields that matter (onnx.proto3: ModelProto.graph = 7, training_info = 20 and functions = 25,
TrainingInfoProto.initialization = 1 and algorithm = 2, FunctionProto.node = 7, GraphProto.node = 1, initializer = 5 and
sparse_initializer = 15, NodeProto.attribute = 5, AttributeProto.t = 5, g = 6, tensors = 10, graphs = 11 and
sparse_tensor = 22 and 23, SparseTensorProto.values = 1 and indices = 2, TensorProto.external_data = 13 and
data_location = 14).
"""

from collections.abc import Iterator

LARGEST_FILE = 2**31  # protobuf's own limit
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


def check_self_contained(content: bytes) -> None:
    """Raise ValueError if this is no ONNX model, or one with tensors in other files."""
    if len(content) >= LARGEST_FILE:
        raise ValueError(f"{len(content)} bytes are more than an ONNX file can have")
    _walk(memoryview(content), "model", 0)
    if not any(number == 7 for number, _, _ in _fields(memoryview(content))):
        raise ValueError("it is not an ONNX model: it has no graph")


def _walk(message: memoryview, kind: str, depth: int) -> None:
    if depth > DEEPEST_GRAPH:
        raise ValueError("its graphs are nested too deep")
    for number, value, is_bytes in _fields(message):
        if kind == "tensor" and (number == 13 or (number == 14 and value == 1)):
            raise ValueError("it keeps tensors in another file (external data); export it as one file")
        inner = _FIELDS.get(kind, {}).get(number)
        if inner and is_bytes:
            assert isinstance(value, memoryview)
            _walk(value, inner, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview, bool]]:
    """(field number, value, whether it is bytes) of one protobuf message."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if not 0 < number < 2**29:
            raise ValueError("it is not an ONNX model")
        if wire == 0:
            value, place = _varint(message, place)
            yield number, value, False
            continue
        if wire == 2:
            length, place = _varint(message, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("it is not an ONNX model")
        if place + length > len(message):
            raise ValueError("it is not an ONNX model, or is cut short")
        yield number, message[place : place + length], wire == 2
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(message) or shift > 63:
            raise ValueError("it is not an ONNX model, or is cut short")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
