"""Shape inference for ONNX graphs: for each accepted operator, a rule that gives the shapes of its outputs.

Small constants can make huge tensors (`Expand`, the sum of a column and a row, repeated `Concat` of a tensor with
itself) or much work (`MatMul`), so the shapes are inferred before onnxruntime allocates the tensors. The values of
small integer tensors are inferred as well, since shapes depend on them. Where the shapes of inputs do not fit each
other, a rule gives the larger sizes, and onnxruntime rejects the graph.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

LARGEST_TENSOR = 2**28  # elements
MOST_AXES = 8
MOST_KNOWN = 64  # elements of an integer tensor whose values are inferred
LONGEST_NAME = 60  # characters of a name from a file in an error message

Shape = tuple[int, ...]
Attribute = int | tuple[int, ...]


class UnknownShapeError(Exception):
    """A shape cannot be inferred: it depends on more than constants and shapes, or an attribute is invalid."""


@dataclass
class Tensors:
    """Inferred tensors by name: shapes and, of small integer tensors, values."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    divisors: set[str] = field(default_factory=set)
    """Constants that are safe to divide by."""

    def add(self, name: str, shape: Shape) -> None:
        """Add a tensor. Raises ValueError if it exists already or is too large."""
        if name in self.shapes:
            raise ValueError(f"it has two tensors {shown(name)}")
        if len(shape) > MOST_AXES or any(size < 0 for size in shape) or math.prod(shape) > LARGEST_TENSOR:
            raise ValueError(
                f"its tensor {shown(name)} has the shape {shown_shape(shape)}, "
                f"expected at most {MOST_AXES} axes and {LARGEST_TENSOR} elements"
            )
        self.shapes[name] = shape

    def shape(self, name: str) -> Shape:
        """The shape of a tensor. Raises ValueError if there is no tensor with this name so far."""
        if name not in self.shapes:
            raise ValueError(f"it uses the tensor {shown(name)} before any node computes it")
        return self.shapes[name]


@dataclass
class Node:
    """One operation of the graph."""

    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Attribute]

    def integer(self, name: str, default: int) -> int:
        """An integer attribute, or its default. Raises UnknownShapeError for a list."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise UnknownShapeError
        return value


# The shapes of the outputs, and the number of multiplications of a matrix product.
Inferred = tuple[Sequence[Shape], int]
Rule = Callable[[Node, Tensors], Inferred]

# Helpers of the rules


def _values(node: Node, tensors: Tensors, place: int) -> tuple[int, ...]:
    """The values of an input. Raises UnknownShapeError if they are not known."""
    name = node.inputs[place]
    if name not in tensors.values:
        raise UnknownShapeError
    return tensors.values[name]


def _first_two(node: Node, tensors: Tensors) -> tuple[Shape, Shape]:
    return tensors.shape(node.inputs[0]), tensors.shape(node.inputs[1])


def _axis(value: int, shape: Shape) -> int:
    """The number of an axis, which may be counted from the end."""
    if not -len(shape) <= value < len(shape):
        raise UnknownShapeError
    return value % len(shape)


def _broadcast_shapes(shapes: Sequence[Shape]) -> Shape:
    """Align the shapes at their last axes; each size is the largest, or 0 if one of them is 0."""
    axis_count = max(map(len, shapes))
    padded = [(1,) * (axis_count - len(shape)) + shape for shape in shapes]
    broadcast = []
    for sizes in zip(*padded, strict=True):
        broadcast.append(0 if 0 in sizes else max(sizes))
    return tuple(broadcast)


def _reduced(shape: Shape, axes: Sequence[int], keep: int) -> Shape:
    """The shape after a reduction along axes, which are kept with size 1 if `keep`."""
    removed = {_axis(axis, shape) for axis in axes}
    # Without axes, another attribute decides whether all are reduced or none.
    if not removed:
        raise UnknownShapeError
    sizes = []
    for axis, size in enumerate(shape):
        if axis not in removed:
            sizes.append(size)
        elif keep:
            sizes.append(1)
    return tuple(sizes)


# The rules


def _elementwise(node: Node, tensors: Tensors) -> Inferred:
    """Broadcast the inputs; optional ones may be missing."""
    shapes = [tensors.shape(name) for name in node.inputs if name]
    if not shapes:
        raise UnknownShapeError
    return [_broadcast_shapes(shapes)], 0


def _matrix_product(node: Node, tensors: Tensors) -> Inferred:
    """(..., rows, inner) x (..., inner, columns) -> (..., rows, columns)."""
    first, second = _first_two(node, tensors)
    if len(first) < 2 or len(second) < 2:
        raise UnknownShapeError
    shape = (*_broadcast_shapes([first[:-2], second[:-2]]), first[-2], second[-1])
    return [shape], math.prod(shape) * max(first[-1], second[-2])


def _gemm(node: Node, tensors: Tensors) -> Inferred:
    """(rows, inner) x (inner, columns) -> (rows, columns), each input optionally transposed."""
    first, second = _first_two(node, tensors)
    if len(first) != 2 or len(second) != 2:
        raise UnknownShapeError
    rows, inner = first[::-1] if node.integer("transA", 0) else first
    other_inner, columns = second[::-1] if node.integer("transB", 0) else second
    return [(rows, columns)], rows * columns * max(inner, other_inner)


def _arg_max(node: Node, tensors: Tensors) -> Inferred:
    shape = tensors.shape(node.inputs[0])
    return [_reduced(shape, [node.integer("axis", 0)], node.integer("keepdims", 1))], 0


def _reduce(node: Node, tensors: Tensors) -> Inferred:
    shape = tensors.shape(node.inputs[0])
    return [_reduced(shape, _values(node, tensors, 1), node.integer("keepdims", 1))], 0


def _concat(node: Node, tensors: Tensors) -> Inferred:
    shapes = [tensors.shape(name) for name in node.inputs]
    axis = _axis(node.integer("axis", 0), shapes[0])
    if len({len(shape) for shape in shapes}) != 1:
        raise UnknownShapeError
    # The values, if all inputs are known lists.
    if len(shapes[0]) == 1 and all(name in tensors.values for name in node.inputs):
        values: list[int] = []
        for name in node.inputs:
            values += tensors.values[name]
        if len(values) <= MOST_KNOWN:
            tensors.values[node.outputs[0]] = tuple(values)
    # The sizes add up along the axis, and are equal along the others.
    total = sum(shape[axis] for shape in shapes)
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    return [(*largest[:axis], total, *largest[axis + 1 :])], 0


def _expand(node: Node, tensors: Tensors) -> Inferred:
    return [_broadcast_shapes([tensors.shape(node.inputs[0]), _values(node, tensors, 1)])], 0


def _shape(node: Node, tensors: Tensors) -> Inferred:
    """The shape of the input, as a list whose values are known."""
    shape = tensors.shape(node.inputs[0])
    sizes = shape[node.integer("start", 0) : node.integer("end", len(shape))]
    tensors.values[node.outputs[0]] = sizes
    return [(len(sizes),)], 0


def _reshape(node: Node, tensors: Tensors) -> Inferred:
    shape = tensors.shape(node.inputs[0])
    sizes = list(_values(node, tensors, 1))
    # A size of 0 stands for that of the input, unless `allowzero`.
    if not node.integer("allowzero", 0):
        for axis, size in enumerate(sizes):
            if size == 0:
                sizes[axis] = shape[axis]
    if sizes.count(-1) > 1 or min(sizes, default=0) < -1:
        raise UnknownShapeError
    # A size of -1 stands for the number that keeps all elements, here rounded up.
    if -1 in sizes:
        others = math.prod(size for size in sizes if size != -1)
        if others == 0:
            raise UnknownShapeError
        sizes[sizes.index(-1)] = -(-math.prod(shape) // others)
    return [tuple(sizes)], 0


def _unsqueeze(node: Node, tensors: Tensors) -> Inferred:
    """Insert axes of size 1; their numbers are those in the output."""
    shape = tensors.shape(node.inputs[0])
    axes = _values(node, tensors, 1)
    output = (0,) * (len(shape) + len(axes))
    inserted = {_axis(axis, output) for axis in axes}
    if len(inserted) != len(axes):
        raise UnknownShapeError
    sizes = list(shape)
    for axis in sorted(inserted):
        sizes.insert(axis, 1)
    return [tuple(sizes)], 0


def _transpose(node: Node, tensors: Tensors) -> Inferred:
    shape = tensors.shape(node.inputs[0])
    order = node.attributes.get("perm", tuple(reversed(range(len(shape)))))
    if not isinstance(order, tuple) or sorted(order) != list(range(len(shape))):
        raise UnknownShapeError
    return [tuple(shape[axis] for axis in order)], 0


def _slice(node: Node, tensors: Tensors) -> Inferred:
    sizes = list(tensors.shape(node.inputs[0]))
    starts, ends, axes, steps = (_values(node, tensors, place) for place in range(1, 5))
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise UnknownShapeError
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = _axis(axis, tuple(sizes))
        sizes[place] = len(range(*slice(start, end, step).indices(sizes[place])))
    return [tuple(sizes)], 0


def _split(node: Node, tensors: Tensors) -> Inferred:
    shape = tensors.shape(node.inputs[0])
    axis = _axis(node.integer("axis", 0), shape)
    if len(node.inputs) > 1:
        sizes = list(_values(node, tensors, 1))
    else:
        # Equal parts, of which the last ones may be smaller.
        largest = -(-shape[axis] // len(node.outputs))
        sizes = [max(0, min(largest, shape[axis] - part * largest)) for part in range(len(node.outputs))]
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes], 0


def _gather(node: Node, tensors: Tensors) -> Inferred:
    """The indices replace an axis."""
    shape, indices = _first_two(node, tensors)
    axis = _axis(node.integer("axis", 0), shape)
    return [(*shape[:axis], *indices, *shape[axis + 1 :])], 0


def _gather_elements(node: Node, tensors: Tensors) -> Inferred:
    """The output has the shape of the indices."""
    return [tensors.shape(node.inputs[1])], 0


def _gather_nd(node: Node, tensors: Tensors) -> Inferred:
    """The last axis of the indices selects along as many axes, after the `batch_dims` first ones."""
    shape, indices = _first_two(node, tensors)
    batch_axes = node.integer("batch_dims", 0)
    selected = batch_axes + indices[-1]
    if not 0 <= batch_axes <= selected <= len(shape):
        raise UnknownShapeError
    return [(*indices[:-1], *shape[selected:])], 0


# The operators that torch.onnx writes for the policies of all agents, for the kinematics and for the degree grid. If
# another version of torch writes others, `export` reports it, because it loads the file that it has written.
RULES: dict[str, Rule] = {
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


def shown(name: str) -> str:
    """A name from a file in quotes, shortened to LONGEST_NAME characters."""
    return repr(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "...")


def shown_shape(shape: Shape) -> str:
    """A shape as text, shortened to MOST_AXES sizes."""
    return str(shape if len(shape) <= MOST_AXES else (*shape[:MOST_AXES], "..."))
