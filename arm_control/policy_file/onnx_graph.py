"""Checks of an ONNX graph: accepted operators, and bounds on tensor sizes and on the work of one inference.

Only the operators in `_OPERATORS` pass: those that arm-control's exporter writes for any of its agents. None of them
holds a graph, loops, reads a file or comes from another package. Small constants can still make huge
tensors (`Expand`, the sum of a column and a row, a `Concat` of a tensor with itself, over and over)
or much work (`MatMul`), so the shapes of all tensors are inferred, for one row of inputs, as in a control loop, and for
`MOST_GOLDEN_SAMPLES` of them, as when a policy is loaded. A graph is rejected if

- a tensor of the file has dimensions that are negative, or other than its bytes make up;
- a tensor, of the file or worked out, has more than `LARGEST_TENSOR` elements or `MOST_AXES` axes;
- what its nodes give comes to more than `LARGEST_TOTAL` elements, or its products to more than `MOST_MULTIPLICATIONS`;
- a shape depends on more than constants and shapes, so that it cannot be worked out;
- whole numbers are divided by what may be 0 or -1, for which some processors end the program.

It says nothing of whether a graph makes sense: shapes that do not fit each other are left for onnxruntime to refuse.
Numbers of fields, from onnx.proto3, stand where they are read.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from arm_control.policy_file.contract import MOST_GOLDEN_SAMPLES
from arm_control.policy_file.protobuf import Message

LARGEST_TENSOR = 2**28  # elements
LARGEST_TOTAL = 2**28  # elements of all that the nodes give; a DQN over 753,571 actions, 16 rows at once, has 2**24.6
MOST_MULTIPLICATIONS = 2**33  # seconds on one core; the same DQN has 2**29.6
MOST_NODES = 4096
MOST_AXES = 8
OLDEST_OPSET = 18  # from which on the operators take shapes and axes as they are read here
ITEM_BYTES = {1: 4, 6: 4, 7: 8, 9: 1, 11: 8}  # by TensorProto.DataType: float, int32, int64, bool, double
WHOLE = (6, 7)
MOST_KNOWN = 64  # numbers of a constant that are kept, for shapes and axes
# AttributeProto.AttributeType
INT = 2
FLOAT = 1
INTS = 7

Shape = tuple[int, ...]
Attribute = int | tuple[int, ...]


def check_graph(graph: Message, opsets: list[Message]) -> None:
    """Raise ValueError, in one line, for a GraphProto and its OperatorSetIdProtos that are not to be run."""
    for opset in opsets:
        if (domain := opset.text(1)) not in ("", "ai.onnx"):
            raise ValueError(f"it requires custom operators, of {_shown(domain)}")
    if len(opsets) != 1 or opsets[0].number(2) < OLDEST_OPSET:
        versions = [opset.number(2) for opset in opsets]
        raise ValueError(f"it has operators of versions {versions[:8]}, expected one from {OLDEST_OPSET}")
    if graph.all(15):
        raise ValueError("it has sparse tensors, which arm-control never writes")
    if len(graph.all(1)) > MOST_NODES:
        raise ValueError(f"it has {len(graph.all(1))} nodes, expected at most {MOST_NODES}")
    nodes = [_node(message) for message in graph.messages(1)]
    constants = _Tensors()
    for tensor in graph.messages(5):
        _add_constant(constants, tensor)
    for rows in (1, MOST_GOLDEN_SAMPLES):
        tensors = _Tensors(dict(constants.shapes), dict(constants.values), constants.divisors)
        for message in graph.messages(11):
            if (name := message.text(1)) not in constants.shapes:
                tensors.add(name, _input_shape(message, rows))
        _run(nodes, tensors)


@dataclass
class _Tensors:
    """Inferred tensors by name: shapes and, for small lists of integers, values."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    divisors: set[str] = field(default_factory=set)  # constants that all may be divided by

    def add(self, name: str, shape: Shape) -> None:
        """Add a tensor. Raises ValueError if it exists already or is too large."""
        if name in self.shapes:
            raise ValueError(f"it has two tensors {_shown(name)}")
        if len(shape) > MOST_AXES or any(size < 0 for size in shape) or math.prod(shape) > LARGEST_TENSOR:
            wanted = f"expected at most {MOST_AXES} axes and {LARGEST_TENSOR} elements"
            raise ValueError(f"its tensor {_shown(name)} has the shape {_sizes(shape)}, {wanted}")
        self.shapes[name] = shape

    def shape(self, name: str) -> Shape:
        """Return the shape of a tensor. Raises ValueError if no tensor has that name so far."""
        if name not in self.shapes:
            raise ValueError(f"it uses a tensor {_shown(name)} before anything gives it")
        return self.shapes[name]


@dataclass
class _Node:
    """One operation."""

    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Attribute]

    def whole(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise _Unclear
        return value


def _node(message: Message) -> _Node:
    operator = message.text(4)
    domain = message.text(7)
    if domain not in ("", "ai.onnx"):
        raise ValueError(f"it has a custom operator, {_shown(operator)} of {_shown(domain)}")
    if operator not in _OPERATORS:
        raise ValueError(f"it has an operator {_shown(operator)}, which arm-control never writes")
    attributes: dict[str, Attribute] = {}
    for attribute in message.messages(5):
        name = attribute.text(1)
        kind = attribute.number(20)
        # Of another kind, or referring to a function's, onnxruntime might take the default instead of what is read.
        known = kind in (INT, INTS) or (kind == FLOAT and name in ("alpha", "beta"))
        if name in attributes or not known or attribute.all(21):
            raise ValueError(f"its {operator} has an attribute {_shown(name)} as arm-control never writes it")
        attributes[name] = attribute.numbers(8) if kind == INTS else attribute.number(3)
    return _Node(operator, message.texts(1), message.texts(2), attributes)


def _add_constant(constants: _Tensors, tensor: Message) -> None:
    name = tensor.text(8)
    kind = tensor.number(2)
    shape = tensor.numbers(1)
    if kind not in ITEM_BYTES:
        raise ValueError(f"its tensor {_shown(name)} has elements of kind {kind}, which arm-control never writes")
    constants.add(name, shape)
    raw = tensor.bytes(9)
    if len(raw) > 1 or any(tensor.all(number) for number in (4, 5, 6, 7, 10, 11)):
        raise ValueError(f"its tensor {_shown(name)} has its values in another form than arm-control writes")
    size = len(raw[0]) if raw else 0
    if size != math.prod(shape) * ITEM_BYTES[kind]:
        raise ValueError(f"its tensor {_shown(name)} has the shape {_sizes(shape)} but {size} bytes of values")
    if kind not in WHOLE:
        constants.divisors.add(name)
    elif math.prod(shape) <= MOST_KNOWN:
        step = ITEM_BYTES[kind]
        places = range(0, size, step)
        values = tuple(int.from_bytes(raw[0][at : at + step], "little", signed=True) for at in places)
        constants.values[name] = values
        if min(values, default=1) > 0:
            constants.divisors.add(name)


def _input_shape(message: Message, rows: int) -> Shape:
    """Return the shape of a ValueInfoProto, with `rows` where the batch size is free."""
    kind = message.message(2)  # TypeProto
    tensor = kind.message(1) if kind else None
    shape = tensor.message(2) if tensor else None  # TensorShapeProto
    if shape is None:
        raise ValueError(f"its input {_shown(message.text(1))} is no tensor with a shape")
    sizes = []
    for axis, dimension in enumerate(shape.messages(1)):
        size = dimension.number(1)
        if axis == 0:
            size = max(size, rows)
        elif size <= 0:
            raise ValueError(f"its input {_shown(message.text(1))} has an axis without a size")
        sizes.append(size)
    return tuple(sizes)


def _run(nodes: list[_Node], tensors: _Tensors) -> None:
    """Infer all shapes, and add up elements and multiplications."""
    elements = multiplications = 0
    for node in nodes:
        try:
            shapes, products = _OPERATORS[node.operator](node, tensors)
        except (IndexError, _Unclear):
            raise ValueError(f"its {node.operator} gives a tensor whose size cannot be worked out") from None
        if node.operator in ("Div", "Mod") and not tensors.divisors.issuperset(node.inputs[1:2]):
            raise ValueError(f"its {node.operator} divides by what is no constant, or not positive")
        for name, shape in zip(node.outputs, shapes, strict=False):
            if name:
                tensors.add(name, shape)
        if len(node.outputs) > len(shapes):
            raise ValueError(f"its {node.operator} has {len(node.outputs)} outputs, expected at most {len(shapes)}")
        elements += sum(map(math.prod, shapes))
        multiplications += products
        if elements > LARGEST_TOTAL or multiplications > MOST_MULTIPLICATIONS:
            wanted = f"{LARGEST_TOTAL} elements and {MOST_MULTIPLICATIONS} multiplications"
            raise ValueError(f"running it gives {elements} elements in {multiplications}, expected at most {wanted}")


class _Unclear(Exception):
    """A shape that depends on more than constants and shapes."""


Rule = Callable[[_Node, _Tensors], tuple[Sequence[Shape], int]]


def _constant(node: _Node, tensors: _Tensors, place: int) -> tuple[int, ...]:
    name = node.inputs[place]
    if name not in tensors.values:
        raise _Unclear
    return tensors.values[name]


def _first_two(node: _Node, tensors: _Tensors) -> tuple[Shape, Shape]:
    return tensors.shape(node.inputs[0]), tensors.shape(node.inputs[1])


def _axis(value: int, shape: Shape) -> int:
    if not -len(shape) <= value < len(shape):
        raise _Unclear
    return value % len(shape)


def _broadcast_shapes(shapes: Sequence[Shape]) -> Shape:
    axes = max(map(len, shapes))
    padded = [(1,) * (axes - len(shape)) + shape for shape in shapes]
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))


def _elementwise(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    """Broadcast the inputs; optional ones may be missing."""
    shapes = [tensors.shape(name) for name in node.inputs if name]
    if not shapes:
        raise _Unclear
    return [_broadcast_shapes(shapes)], 0


def _matrix_product(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    first, second = _first_two(node, tensors)
    if len(first) < 2 or len(second) < 2:
        raise _Unclear
    shape = (*_broadcast_shapes([first[:-2], second[:-2]]), first[-2], second[-1])
    return [shape], math.prod(shape) * max(first[-1], second[-2])


def _gemm(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    first, second = _first_two(node, tensors)
    if len(first) != 2 or len(second) != 2:
        raise _Unclear
    rows, inner = first[::-1] if node.whole("transA", 0) else first
    other, columns = second[::-1] if node.whole("transB", 0) else second
    return [(rows, columns)], rows * columns * max(inner, other)


def _arg_max(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    shape = tensors.shape(node.inputs[0])
    return [_reduced(shape, [node.whole("axis", 0)], node.whole("keepdims", 1))], 0


def _reduce(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    return [_reduced(tensors.shape(node.inputs[0]), _constant(node, tensors, 1), node.whole("keepdims", 1))], 0


def _reduced(shape: Shape, axes: Sequence[int], keep: int) -> Shape:
    gone = {_axis(axis, shape) for axis in axes}
    if not gone:  # which means all of them, or none, by another attribute
        raise _Unclear
    return tuple(1 if axis in gone else size for axis, size in enumerate(shape) if keep or axis not in gone)


def _concat(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    shapes = [tensors.shape(name) for name in node.inputs]
    axis = _axis(node.whole("axis", 0), shapes[0])
    if len({len(shape) for shape in shapes}) != 1:
        raise _Unclear
    if len(shapes[0]) == 1 and all(name in tensors.values for name in node.inputs):
        values = tuple(value for name in node.inputs for value in tensors.values[name])
        if len(values) <= MOST_KNOWN:
            tensors.values[node.outputs[0]] = values
    size = sum(shape[axis] for shape in shapes)
    widest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    return [(*widest[:axis], size, *widest[axis + 1 :])], 0


def _expand(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    return [_broadcast_shapes([tensors.shape(node.inputs[0]), _constant(node, tensors, 1)])], 0


def _shape(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    shape = tensors.shape(node.inputs[0])
    sizes = shape[node.whole("start", 0) : node.whole("end", len(shape))]
    tensors.values[node.outputs[0]] = sizes
    return [(len(sizes),)], 0


def _reshape(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    shape = tensors.shape(node.inputs[0])
    wanted = _constant(node, tensors, 1)
    sizes = list(wanted)
    if not node.whole("allowzero", 0):
        sizes = [shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    if sizes.count(-1) > 1 or min(sizes, default=0) < -1:
        raise _Unclear
    if -1 in sizes:
        rest = math.prod(size for size in sizes if size != -1)
        if rest == 0:
            raise _Unclear
        sizes[sizes.index(-1)] = -(-math.prod(shape) // rest)
    return [tuple(sizes)], 0


def _unsqueeze(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    shape = tensors.shape(node.inputs[0])
    axes = _constant(node, tensors, 1)
    axes_then = (0,) * (len(shape) + len(axes))
    new = {_axis(axis, axes_then) for axis in axes}
    if len(new) != len(axes):
        raise _Unclear
    rest = iter(shape)
    return [tuple(1 if axis in new else next(rest) for axis in range(len(axes_then)))], 0


def _transpose(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    shape = tensors.shape(node.inputs[0])
    order = node.attributes.get("perm", tuple(reversed(range(len(shape)))))
    if not isinstance(order, tuple) or sorted(order) != list(range(len(shape))):
        raise _Unclear
    return [tuple(shape[axis] for axis in order)], 0


def _slice(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    sizes = list(tensors.shape(node.inputs[0]))
    starts, ends, axes, steps = (_constant(node, tensors, place) for place in range(1, 5))
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise _Unclear
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = _axis(axis, tuple(sizes))
        sizes[place] = len(range(*slice(start, end, step).indices(sizes[place])))
    return [tuple(sizes)], 0


def _split(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    shape = tensors.shape(node.inputs[0])
    axis = _axis(node.whole("axis", 0), shape)
    if len(node.inputs) > 1:
        sizes = list(_constant(node, tensors, 1))
    else:
        most = -(-shape[axis] // len(node.outputs))
        sizes = [max(0, min(most, shape[axis] - part * most)) for part in range(len(node.outputs))]
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes], 0


def _gather(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    shape, places = _first_two(node, tensors)
    axis = _axis(node.whole("axis", 0), shape)
    return [(*shape[:axis], *places, *shape[axis + 1 :])], 0


def _gather_elements(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    return [tensors.shape(node.inputs[1])], 0


def _gather_nd(node: _Node, tensors: _Tensors) -> tuple[Sequence[Shape], int]:
    shape, places = _first_two(node, tensors)
    gone = node.whole("batch_dims", 0) + places[-1]
    if not 0 <= node.whole("batch_dims", 0) <= gone <= len(shape):
        raise _Unclear
    return [(*places[:-1], *shape[gone:])], 0


# What torch.onnx makes of the policies of all agents, of the kinematics and of the degree grid, and nothing else: what
# another version of it may write more, `export` finds out, since it loads what it has written.
_OPERATORS: dict[str, Rule] = {
    "Abs": _elementwise,
    "Add": _elementwise,
    "And": _elementwise,
    "ArgMax": _arg_max,
    "Cast": _elementwise,
    "Clip": _elementwise,
    "Concat": _concat,
    "Cos": _elementwise,
    "Div": _elementwise,
    "Equal": _elementwise,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "Less": _elementwise,
    "MatMul": _matrix_product,
    "Max": _elementwise,
    "Min": _elementwise,
    "Mod": _elementwise,
    "Mul": _elementwise,
    "Neg": _elementwise,
    "Reciprocal": _elementwise,
    "ReduceL2": _reduce,
    "ReduceMax": _reduce,
    "Relu": _elementwise,
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _elementwise,
    "Sin": _elementwise,
    "Slice": _slice,
    "Split": _split,
    "Sub": _elementwise,
    "Tanh": _elementwise,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def _shown(name: str) -> str:
    """Quote a name from a file in at most about 60 characters."""
    return repr(name if len(name) <= 60 else name[:57] + "...")


def _sizes(shape: Shape) -> str:
    return str(shape if len(shape) <= MOST_AXES else (*shape[:MOST_AXES], "..."))
