"""Checks of an ONNX graph: accepted operators, and bounds on tensor sizes and on the work of one inference.

Only the operators in `onnx_shapes.RULES` are accepted, those that arm-control's exporter writes for any of its agents.
None of them contains a graph, loops, reads a file or comes from another package. The shapes of all tensors are inferred
for one row of inputs, as in a control loop, and for `MOST_GOLDEN_SAMPLES` rows, as when a policy is loaded. A graph is
rejected if

- a tensor of the file has negative dimensions, or dimensions that do not match its number of bytes;
- a tensor, of the file or computed, has more than `LARGEST_TENSOR` elements or `MOST_AXES` axes;
- its nodes compute more than `LARGEST_TOTAL` elements, or its products have more than `MOST_MULTIPLICATIONS`;
- a shape cannot be inferred, because it depends on more than constants and shapes;
- it divides by anything but positive constants: integer division by 0 or -1 ends the program on some processors.

Whether the shapes fit each other is left to onnxruntime. Numbers of fields are those of onnx.proto3.
"""

import math

from arm_control.policy_file.contract import MOST_GOLDEN_SAMPLES
from arm_control.policy_file.onnx_shapes import (
    MOST_KNOWN,
    RULES,
    Attribute,
    Node,
    Shape,
    Tensors,
    UnknownShapeError,
    shown,
    shown_shape,
)
from arm_control.policy_file.protobuf import Message

LARGEST_TOTAL = 2**28  # elements that all nodes compute; a DQN over 753,571 actions, 16 rows at once, has 2**24.6
MOST_MULTIPLICATIONS = 2**33  # seconds on one core; the same DQN has 2**29.6
MOST_NODES = 4096
OLDEST_OPSET = 18  # the first version in which the operators take shapes and axes in the form read here
ITEM_BYTES = {1: 4, 6: 4, 7: 8, 9: 1, 11: 8}  # by TensorProto.DataType: float, int32, int64, bool, double
INTEGER_TYPES = (6, 7)
# AttributeProto.AttributeType
FLOAT = 1
INT = 2
INTS = 7


def check_graph(graph: Message, opsets: list[Message]) -> None:
    """Raise ValueError, in one line, for a GraphProto and its OperatorSetIdProtos that must not be run."""
    _check_opsets(opsets)
    if graph.all(15):
        raise ValueError("it has sparse tensors, which arm-control does not write")
    if len(graph.all(1)) > MOST_NODES:
        raise ValueError(f"it has {len(graph.all(1))} nodes, expected at most {MOST_NODES}")
    for rows in (1, MOST_GOLDEN_SAMPLES):
        infer_shapes(graph, rows)


def infer_shapes(graph: Message, rows: int) -> dict[str, Shape]:
    """The shapes of all tensors of a GraphProto by name, for a number of rows in a batch.

    Raises ValueError, in one line, for a graph that is not accepted.
    """
    nodes = [_read_node(message) for message in graph.messages(1)]
    tensors = Tensors()
    for tensor in graph.messages(5):
        _add_constant(tensors, tensor)
    # An input with the name of a constant has the constant as its default.
    constants = set(tensors.shapes)
    for message in graph.messages(11):
        name = message.text(1)
        if name not in constants:
            tensors.add(name, _input_shape(message, rows))
    _run(nodes, tensors)
    return tensors.shapes


def _check_opsets(opsets: list[Message]) -> None:
    for opset in opsets:
        domain = opset.text(1)
        if domain not in ("", "ai.onnx"):
            raise ValueError(f"it requires custom operators, of {shown(domain)}")
    if len(opsets) != 1 or opsets[0].number(2) < OLDEST_OPSET:
        versions = [opset.number(2) for opset in opsets]
        raise ValueError(f"it has opset versions {versions[:8]}, expected one from {OLDEST_OPSET} on")


def _read_node(message: Message) -> Node:
    """Read a NodeProto. Raises ValueError for an operator or an attribute that is not accepted."""
    operator = message.text(4)
    domain = message.text(7)
    if domain not in ("", "ai.onnx"):
        raise ValueError(f"it has a custom operator, {shown(operator)} of {shown(domain)}")
    if operator not in RULES:
        raise ValueError(f"it has the operator {shown(operator)}, which arm-control does not write")
    attributes: dict[str, Attribute] = {}
    for attribute in message.messages(5):
        name = attribute.text(1)
        kind = attribute.number(20)
        # For an attribute of another type, or a reference to one of a function, onnxruntime could use the default.
        known = kind in (INT, INTS) or (kind == FLOAT and name in ("alpha", "beta"))
        if name in attributes or not known or attribute.all(21):
            raise ValueError(f"its {operator} has an attribute {shown(name)} of a form that arm-control does not write")
        attributes[name] = attribute.numbers(8) if kind == INTS else attribute.number(3)
    return Node(operator, message.texts(1), message.texts(2), attributes)


def _add_constant(tensors: Tensors, tensor: Message) -> None:
    """Add a TensorProto. Raises ValueError for one that is not accepted."""
    name = tensor.text(8)
    kind = tensor.number(2)
    shape = tensor.numbers(1)
    if kind not in ITEM_BYTES:
        raise ValueError(f"its tensor {shown(name)} has the data type {kind}, which arm-control does not write")
    tensors.add(name, shape)
    # The values must be raw bytes, as many as the shape requires.
    raw = tensor.bytes(9)
    if len(raw) > 1 or any(tensor.all(number) for number in (4, 5, 6, 7, 10, 11)):
        raise ValueError(f"its tensor {shown(name)} has values in a form that arm-control does not write")
    size = len(raw[0]) if raw else 0
    if size != math.prod(shape) * ITEM_BYTES[kind]:
        raise ValueError(f"its tensor {shown(name)} has the shape {shown_shape(shape)} but {size} bytes of values")
    # Division by floating-point constants is safe; integers must be known and positive.
    if kind not in INTEGER_TYPES:
        tensors.divisors.add(name)
    elif math.prod(shape) <= MOST_KNOWN:
        step = ITEM_BYTES[kind]
        values = []
        for start in range(0, size, step):
            values.append(int.from_bytes(raw[0][start : start + step], "little", signed=True))
        tensors.values[name] = tuple(values)
        if min(values, default=1) > 0:
            tensors.divisors.add(name)


def _input_shape(message: Message, rows: int) -> Shape:
    """The shape of a ValueInfoProto, with `rows` for a batch size that is not fixed."""
    kind = message.message(2)  # TypeProto
    tensor = kind.message(1) if kind else None
    shape = tensor.message(2) if tensor else None  # TensorShapeProto
    if shape is None:
        raise ValueError(f"its input {shown(message.text(1))} is not a tensor with a shape")
    sizes = []
    for axis, dimension in enumerate(shape.messages(1)):
        size = dimension.number(1)
        if axis == 0:
            size = max(size, rows)
        elif size <= 0:
            raise ValueError(f"its input {shown(message.text(1))} has an axis without a size")
        sizes.append(size)
    return tuple(sizes)


def _run(nodes: list[Node], tensors: Tensors) -> None:
    """Infer the shapes of all outputs in the order of execution, and bound the elements and multiplications."""
    elements = 0
    multiplications = 0
    for node in nodes:
        operator = node.operator
        try:
            shapes, products = RULES[operator](node, tensors)
        except (IndexError, UnknownShapeError):
            raise ValueError(f"the size of the output of its {operator} cannot be inferred") from None
        if operator in ("Div", "Mod") and not tensors.divisors.issuperset(node.inputs[1:2]):
            raise ValueError(f"its {operator} divides by something other than a positive constant")
        for name, shape in zip(node.outputs, shapes, strict=False):
            if name:
                tensors.add(name, shape)
        if len(node.outputs) > len(shapes):
            raise ValueError(f"its {operator} has {len(node.outputs)} outputs, expected at most {len(shapes)}")
        elements += sum(map(math.prod, shapes))
        multiplications += products
        if elements > LARGEST_TOTAL or multiplications > MOST_MULTIPLICATIONS:
            raise ValueError(
                f"one inference computes {elements} elements with {multiplications} multiplications, "
                f"expected at most {LARGEST_TOTAL} and {MOST_MULTIPLICATIONS}"
            )
