"""Which axes of a model's tensors count the same channels, so that they can only be reordered together; and reordering.

An axis of a tensor is a *place*. Operators tie places: the input channels of a convolution to an axis of its weights,
the two sides of a residual addition to each other, both to what comes out. Places that are tied, directly or over
others, form a class; permuting the elements along all places of a class, the constants among them, leaves what the
network computes as it was, up to the order of sums. Classes that reach a graph input or output, or an operator whose
axes are not understood here (or that mixes an axis, like a reshape of channels), are *pinned*: they keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from simulator.errors import NetworkError, Problem
from workloads.calibration import trained_model
from workloads.network import Network

Place = tuple[str, int]

_ELEMENTWISE = frozenset((
    "Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "Pow", "PRelu", "Reciprocal", "Relu",
    "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where",
))
_POOLING = frozenset(("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"))
_REDUCTIONS = frozenset(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"))


@dataclass(frozen=True)
class ChannelClasses:
    """Classes of places of one model.

    Attributes:
        members: class → its places, in the order of the graph.
        of_place: place → class.
        extents: class → elements along each of its places.
        pinned: classes that keep their order.
    """

    members: Mapping[int, tuple[Place, ...]]
    of_place: Mapping[Place, int]
    extents: Mapping[int, int]
    pinned: frozenset[int]

    def of_layer(self, network: Network, layer: str) -> int | None:
        """Class of a layer's input channels; None where it has none of its own (several groups, or not known)."""
        binding, nest = network.bindings[layer], network.graph.nodes[layer]["op"]
        if binding.weight is None or binding.input_slot < 0 or nest.extent("G") > 1:
            return None
        # The axis of the weights along which the nest's C lies, alone and whole.
        axes = [axis for axis, loops in enumerate(binding.weight_loops) if loops and loops[0].startswith("C")]
        if len(axes) != 1 or len(binding.weight_loops[axes[0]]) != 1:
            return None
        found = self.of_place.get((binding.weight, axes[0]))
        return found if found is not None and self.extents[found] == nest.extent("C") else None


@dataclass
class _Builder:
    """Union–find over places, while operators are read."""

    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, onnx.TensorProto]
    parent: dict[Place, Place] = field(default_factory=dict)
    pins: set[Place] = field(default_factory=set)

    def root(self, place: Place) -> Place:
        self.parent.setdefault(place, place)
        while self.parent[place] != place:
            self.parent[place] = self.parent[self.parent[place]]
            place = self.parent[place]
        return place

    def rank(self, tensor: str) -> int:
        return len(self.shapes.get(tensor, ()))

    def extent(self, place: Place) -> int:
        return self.shapes[place[0]][place[1]]

    def tie(self, *places: Place) -> None:
        """Join places; those of other extents cannot be permuted alike, and are pinned."""
        if len({self.extent(place) for place in places}) > 1:
            for place in places:
                self.pin(place)
            return
        for place in places[1:]:
            self.parent[self.root(place)] = self.root(places[0])

    def pin(self, place: Place) -> None:
        self.root(place)
        self.pins.add(place)

    def pin_tensor(self, tensor: str, but: Iterable[int] = ()) -> None:
        for axis in set(range(self.rank(tensor))) - set(but):
            self.pin((tensor, axis))

    def pin_node(self, node: onnx.NodeProto) -> None:
        for tensor in (*node.input, *node.output):
            self.pin_tensor(tensor)


def channel_classes(network: Network) -> ChannelClasses:
    """Read the classes of a network's model. Raises ``NetworkError`` for a network without trained weights."""
    graph = trained_model(network).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {name: tuple(tensor.dims) for name, tensor in constants.items()}
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.name not in constants:
            shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    builder = _Builder(shapes, constants)
    for value in (*graph.input, *graph.output):
        builder.pin_tensor(value.name)
    for node in graph.node:
        if any(name and name not in shapes for name in (*node.input, *node.output)):
            builder.pin_node(node)
        else:
            _rule(node)(builder, node)
    roots = {place: builder.root(place) for place in list(builder.parent)}
    number = {root: index for index, root in enumerate(dict.fromkeys(roots.values()))}
    members: dict[int, list[Place]] = {}
    for place, root in roots.items():
        members.setdefault(number[root], []).append(place)
    return ChannelClasses(
        {index: tuple(places) for index, places in members.items()},
        {place: number[root] for place, root in roots.items()},
        {index: builder.extent(places[0]) for index, places in members.items()},
        frozenset(number[roots[place]] for place in builder.pins),
    )


def reordered(network: Network, orders: Mapping[int, Sequence[int]], classes: ChannelClasses | None = None) -> Network:
    """The network with the channels of classes in another order; it computes the same.

    ``orders``: class → the old channel at each new place. Raises ``NetworkError`` for a class that is pinned, does not
    exist, or whose order is no permutation of its channels.
    """
    classes = channel_classes(network) if classes is None else classes
    problems = []
    for index, order in orders.items():
        path = f"class {index}"
        if index not in classes.members or index in classes.pinned:
            problems.append(Problem("cannot be reordered", where=network.name, path=path))
        elif sorted(order) != list(range(classes.extents[index])):
            rule = f"must name each of its {classes.extents[index]} channels once"
            problems.append(Problem(rule, where=network.name, path=path))
    if problems:
        raise NetworkError(problems)
    model = onnx.ModelProto()
    model.CopyFrom(trained_model(network))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        moved = array
        for axis in range(array.ndim):
            own = classes.of_place.get((tensor.name, axis), -1)
            if own in orders:
                moved = np.take(moved, np.asarray(orders[own]), axis=axis)
        if moved is not array:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(moved), tensor.name))
    return replace(network, model=model)


Rule = Callable[[_Builder, onnx.NodeProto], None]


def _rule(node: onnx.NodeProto) -> Rule:
    if node.domain not in ("", "ai.onnx"):
        return _Builder.pin_node
    if node.op_type in _ELEMENTWISE:
        return _elementwise
    if node.op_type in _POOLING:
        return _pooling
    if node.op_type in _REDUCTIONS:
        return _reduction
    return _RULES.get(node.op_type, _Builder.pin_node)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def _elementwise(builder: _Builder, node: onnx.NodeProto) -> None:
    """Axes are matched from the last one; one of extent 1 is the same for all elements of the others."""
    (out,) = node.output
    for axis in range(builder.rank(out)):
        for tensor in filter(None, node.input):
            own = axis - builder.rank(out) + builder.rank(tensor)
            if own >= 0 and (builder.extent((tensor, own)) == builder.extent((out, axis))):
                builder.tie((out, axis), (tensor, own))


def _pooling(builder: _Builder, node: onnx.NodeProto) -> None:
    if len(node.output) > 1:
        builder.pin_node(node)  # places of the largest values count through all channels
        return
    _images(builder, node)


def _images(builder: _Builder, node: onnx.NodeProto) -> None:
    """Batch and channels go through; rows and columns are worked on."""
    data, *others = filter(None, node.input)
    out = node.output[0]
    for tensor in others:
        builder.pin_tensor(tensor)
    for tensor in (data, out):
        builder.pin_tensor(tensor, but=(0, 1))
    for axis in (0, 1):
        builder.tie((data, axis), (out, axis))


def _convolution(builder: _Builder, node: onnx.NodeProto) -> None:
    data, weight, *bias = node.input
    out = node.output[0]
    groups, channels = _attribute(node, "group", 1), builder.extent((data, 1))
    for tensor in (data, weight, out):
        builder.pin_tensor(tensor, but=(0, 1))
    builder.tie((data, 0), (out, 0))
    outputs = [(weight, 0), (out, 1), *((tensor, 0) for tensor in bias if tensor)]
    builder.tie(*outputs)
    if groups == 1:
        builder.tie((data, 1), (weight, 1))
    elif groups == channels == builder.extent((out, 1)):
        builder.tie((data, 1), (out, 1))
    else:
        builder.pin((data, 1))
        builder.pin((out, 1))


def _gemm(builder: _Builder, node: onnx.NodeProto) -> None:
    left, right, *bias = node.input
    turned = [_attribute(node, name, 0) for name in ("transA", "transB")]
    out = node.output[0]
    builder.tie((left, 0 if turned[0] else 1), (right, 1 if turned[1] else 0))
    builder.tie((left, 1 if turned[0] else 0), (out, 0))
    builder.tie((right, 0 if turned[1] else 1), (out, 1))
    for tensor in filter(None, bias):
        for axis in range(builder.rank(tensor)):
            place = axis - builder.rank(tensor) + 2
            if builder.extent((tensor, axis)) > 1:
                builder.tie((tensor, axis), (out, place))


def _matmul(builder: _Builder, node: onnx.NodeProto) -> None:
    left, right = node.input
    out = node.output[0]
    ranks = [builder.rank(tensor) for tensor in (left, right, out)]
    if min(ranks[:2]) < 2:
        builder.pin_node(node)
        return
    builder.tie((left, ranks[0] - 1), (right, ranks[1] - 2))
    builder.tie((left, ranks[0] - 2), (out, ranks[2] - 2))
    builder.tie((right, ranks[1] - 1), (out, ranks[2] - 1))
    for axis in range(ranks[2] - 2):
        for tensor, rank in ((left, ranks[0]), (right, ranks[1])):
            own = axis - ranks[2] + rank
            if own >= 0 and builder.extent((tensor, own)) == builder.extent((out, axis)):
                builder.tie((tensor, own), (out, axis))


def _normalisation(builder: _Builder, node: onnx.NodeProto) -> None:
    """Batch normalisation: its parameters count the channels."""
    data, *parameters = node.input
    out = node.output[0]
    for axis in range(builder.rank(data)):
        builder.tie((data, axis), (out, axis))
    builder.tie((data, 1), *((tensor, 0) for tensor in parameters))


def _layer_normalisation(builder: _Builder, node: onnx.NodeProto) -> None:
    """The mean over an axis does not depend on its order; scale and bias are elementwise."""
    data, *parameters = filter(None, node.input)
    out = node.output[0]
    for axis in range(builder.rank(data)):
        builder.tie((data, axis), (out, axis))
        for tensor in parameters:
            own = axis - builder.rank(data) + builder.rank(tensor)
            if own >= 0 and builder.extent((tensor, own)) == builder.extent((data, axis)):
                builder.tie((data, axis), (tensor, own))
    for other in filter(None, node.output[1:]):
        builder.pin_tensor(other)


def _softmax(builder: _Builder, node: onnx.NodeProto) -> None:
    for axis in range(builder.rank(node.input[0])):
        builder.tie((node.input[0], axis), (node.output[0], axis))


def _reduction(builder: _Builder, node: onnx.NodeProto) -> None:
    """Axes that are kept; over the others the order does not matter."""
    data, out = node.input[0], node.output[0]
    rank = builder.rank(data)
    axes = _attribute(node, "axes", None)
    if axes is None and len(node.input) > 1 and node.input[1]:
        given = builder.constants.get(node.input[1])
        if given is None:
            builder.pin_node(node)
            return
        axes = numpy_helper.to_array(given).ravel().tolist()
    reduced = {axis % rank for axis in (range(rank) if axes is None else axes)}
    place = 0
    for axis in range(rank):
        if axis not in reduced:
            builder.tie((data, axis), (out, place))
        if axis not in reduced or _attribute(node, "keepdims", 1):
            place += 1


def _transpose(builder: _Builder, node: onnx.NodeProto) -> None:
    rank = builder.rank(node.input[0])
    for place, axis in enumerate(_attribute(node, "perm", list(reversed(range(rank))))):
        builder.tie((node.input[0], axis), (node.output[0], place))


def _reshape(builder: _Builder, node: onnx.NodeProto) -> None:
    """Axes survive where only axes of extent 1 come or go."""
    for tensor in node.input[1:]:
        builder.pin_tensor(tensor)
    sides = [
        [(tensor, axis) for axis in range(builder.rank(tensor)) if builder.extent((tensor, axis)) != 1]
        for tensor in (node.input[0], node.output[0])
    ]
    if [builder.extent(place) for place in sides[0]] != [builder.extent(place) for place in sides[1]]:
        builder.pin_tensor(node.input[0])
        builder.pin_tensor(node.output[0])
        return
    for before, after in zip(*sides, strict=True):
        builder.tie(before, after)


def _expand(builder: _Builder, node: onnx.NodeProto) -> None:
    """Axes are matched from the last one; those of extent 1 are repeated."""
    data, shape = node.input
    out = node.output[0]
    builder.pin_tensor(shape)
    for axis in range(builder.rank(data)):
        place = axis - builder.rank(data) + builder.rank(out)
        if builder.extent((data, axis)) == builder.extent((out, place)):
            builder.tie((data, axis), (out, place))


def _slice(builder: _Builder, node: onnx.NodeProto) -> None:
    """Axes that keep their extent are taken whole, in their order unless a step is negative."""
    data, *bounds = node.input
    out = node.output[0]
    for tensor in filter(None, bounds):
        builder.pin_tensor(tensor)
    steps = builder.constants.get(bounds[3]) if len(bounds) > 3 else None
    is_forward = len(bounds) <= 3 or (steps is not None and (numpy_helper.to_array(steps) > 0).all())
    for axis in range(builder.rank(data)):
        if is_forward and builder.extent((data, axis)) == builder.extent((out, axis)):
            builder.tie((data, axis), (out, axis))
        else:
            builder.pin((data, axis))
            builder.pin((out, axis))


def _concat(builder: _Builder, node: onnx.NodeProto) -> None:
    (out,) = node.output
    joined = _attribute(node, "axis", 0) % builder.rank(out)
    for tensor in node.input:
        builder.pin((tensor, joined))
        for axis in set(range(builder.rank(out))) - {joined}:
            builder.tie((tensor, axis), (out, axis))
    builder.pin((out, joined))


_RULES: dict[str, Rule] = {
    "BatchNormalization": _normalisation, "Concat": _concat, "Conv": _convolution, "Expand": _expand,
    "Flatten": _reshape, "Gemm": _gemm, "LayerNormalization": _layer_normalisation, "LogSoftmax": _softmax,
    "MatMul": _matmul, "Reshape": _reshape, "Resize": _images, "Slice": _slice, "Softmax": _softmax,
    "Squeeze": _reshape, "Transpose": _transpose, "Unsqueeze": _reshape,
}
