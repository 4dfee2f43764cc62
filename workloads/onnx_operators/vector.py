"""Everything in an ONNX graph that is not a loop nest, and what it costs on the vector unit.

One *operation* is one step of the vector unit on one element: an addition, a multiplication (with an addition
or without), a comparison, a selection, or one look-up of a function (exp, log, tanh, sigmoid, erf, square root,
division). An operator that is built of several such steps counts each. ``processed_count`` says how many
elements go through: the outputs for elementwise work, the inputs for reductions, the taps for windows, the
elements written for movement. Reshape and its kin only rename: they stay in the graph, with all counts zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx

from simulator.layer import VectorKind, VectorOp
from workloads.onnx_operators.view import ModelView, Step, product

Count = Callable[[onnx.NodeProto, ModelView], int]


def _written(node: onnx.NodeProto, view: ModelView) -> int:
    return view.outputs_count(node)


def _first_output(node: onnx.NodeProto, view: ModelView) -> int:
    return view.count(node.output[0])


def _first_input(node: onnx.NodeProto, view: ModelView) -> int:
    return view.count(node.input[0])


def _pairwise(node: onnx.NodeProto, view: ModelView) -> int:
    """Sum, Max, Min of n tensors: n − 1 combinations for each output."""
    return max(len(node.input) - 1, 1) * view.count(node.output[0])


def _every_input(node: onnx.NodeProto, view: ModelView) -> int:
    return len(node.input) * view.count(node.output[0])


def _window(node: onnx.NodeProto, view: ModelView) -> int:
    return view.count(node.output[0]) * product(list(view.attribute(node, "kernel_shape", [1])))


def _resize_taps(node: onnx.NodeProto, view: ModelView) -> int:
    """Input pixels that each output of a resize or grid sample is made of, times the outputs."""
    mode = view.attribute(node, "mode", "linear" if node.op_type == "GridSample" else "nearest")
    source, target = view.shape(node.input[0]), view.shape(node.output[0])
    if node.op_type == "GridSample":
        moved = len(source) - 2
    else:
        moved = sum(before != after for before, after in zip(source, target, strict=True))
    taps = {"nearest": 1, "cubic": 4, "bicubic": 4}.get(mode, 2)
    return int(view.count(node.output[0]) * taps**moved)


def _power_operations(node: onnx.NodeProto, view: ModelView) -> int:
    """Squares, roots and reciprocals are one operation; other powers are exp(y · log x)."""
    exponent = node.input[1]
    if view.is_constant(exponent) and view.count(exponent) == 1:
        return 1 if float(view.value(exponent).item()) in (-1.0, 0.5, 1.0, 2.0) else 3
    return 3


def _top_k_operations(node: onnx.NodeProto, view: ModelView) -> int:
    """Compare with a heap of k: its depth."""
    largest = max(view.shape(node.output[0]), default=1)
    axis = view.attribute(node, "axis", -1)
    kept = view.shape(node.output[0])[axis] if view.shape(node.output[0]) else largest
    return max(1, math.ceil(math.log2(kept + 1)))


def _lrn_operations(node: onnx.NodeProto, view: ModelView) -> int:
    """Square-accumulate over the window, scale and offset, power, divide."""
    return int(view.attribute(node, "size")) + 1 + 3 + 1


@dataclass(frozen=True)
class VectorRule:
    """How one operator becomes a ``VectorOp``.

    Attributes:
        kind: class of operation.
        operations: vector operations for each processed element.
        processed: elements that pass through the vector unit.
        data_inputs: only so many of the inputs are data (the others say how, and cost nothing); None: all.
        reads_what_it_writes: only the selected part of the first input is fetched (Slice, Gather, …).
    """

    kind: VectorKind
    operations: int | Count
    processed: Count
    data_inputs: int | None = None
    reads_what_it_writes: bool = False

    def operations_of(self, node: onnx.NodeProto, view: ModelView) -> int:
        """Vector operations for each element processed by this node."""
        return self.operations if isinstance(self.operations, int) else self.operations(node, view)


def _rules() -> dict[str, VectorRule]:
    rules: dict[str, VectorRule] = {}

    def add(
        names: str, kind: VectorKind, operations: int | Count, processed: Count, *,
        data_inputs: int | None = None, reads_what_it_writes: bool = False,
    ) -> None:
        for name in names.split():
            rules[name] = VectorRule(kind, operations, processed, data_inputs, reads_what_it_writes)

    each, reduce = VectorKind.ELEMENTWISE, VectorKind.REDUCTION
    normalise, move = VectorKind.NORMALISATION, VectorKind.MOVEMENT

    # Functions of one variable: one step, or one look-up.
    add("Abs Neg Relu Sign Ceil Floor Round Not BitwiseNot IsInf IsNaN Cast CastLike BitCast Sigmoid Tanh Exp Log "
        "Sqrt Reciprocal Erf Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh QLinearSigmoid Clip",
        each, 1, _first_output, data_inputs=1)
    add("LeakyRelu ThresholdedRelu HardSigmoid Swish QuickGelu QLinearLeakyRelu", each, 2, _first_output, data_inputs=1)
    add("Elu Celu Selu HardSwish Softsign Softplus Shrink QuantizeLinear", each, 3, _first_output, data_inputs=1)
    add("Gelu FastGelu", each, 4, _first_output)
    add("Mish BiasGelu", each, 5, _first_output)
    add("DequantizeLinear", each, 1, _first_output, data_inputs=1)
    add("PRelu", each, 2, _first_output)
    add("SwiGLU", each, 3, _first_output)
    # Functions of two and more.
    add("Add Sub Mul Div Mod And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual BitShift BitwiseAnd BitwiseOr "
        "BitwiseXor Where QLinearAdd QLinearMul", each, 1, _first_output)
    add("Pow", each, _power_operations, _first_output)
    add("Sum Max Min", each, 1, _pairwise)
    add("Mean", each, 1, _every_input)
    # Two products and a sum for each element; the table of sines and cosines is read.
    add("RotaryEmbedding", each, 2, _first_output)
    # At inference a batch normalisation is one scale and one offset a channel.
    add("BatchNormalization", each, 1, _first_output)

    # Normalisations: softmax = max, subtract, exp, sum, scale; layer norm = sum, centre, squares, scale, affine.
    add("Softmax LogSoftmax QLinearSoftmax", normalise, 5, _first_output, data_inputs=1)
    add("LayerNormalization InstanceNormalization GroupNormalization GroupNorm", normalise, 5, _first_output)
    add("SkipLayerNormalization", normalise, 6, _first_output)
    add("EmbedLayerNormalization", normalise, 8, _first_output, reads_what_it_writes=True)
    add("RMSNormalization SimplifiedLayerNormalization", normalise, 3, _first_output)
    add("SkipSimplifiedLayerNormalization", normalise, 4, _first_output)
    add("MeanVarianceNormalization", normalise, 4, _first_output)
    add("LpNormalization", normalise, 2, _first_output)
    add("Hardmax", normalise, 2, _first_output)
    add("LRN", normalise, _lrn_operations, _first_output)
    add("DynamicQuantizeLinear", normalise, 5, _first_input)

    # Windows and reductions.
    add("MaxPool AveragePool QLinearAveragePool", reduce, 1, _window, data_inputs=1)
    add("LpPool", reduce, 2, _window)
    add("GlobalMaxPool GlobalAveragePool QLinearGlobalAveragePool", reduce, 1, _first_input, data_inputs=1)
    add("GlobalLpPool", reduce, 2, _first_input)
    add("ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceSumSquare ReduceL2 ReduceLogSum "
        "CumSum CumProd", reduce, 1, _first_input, data_inputs=1)
    add("ReduceL1 ArgMax ArgMin", reduce, 2, _first_input, data_inputs=1)
    add("ReduceLogSumExp", reduce, 4, _first_input, data_inputs=1)
    add("TopK", reduce, _top_k_operations, _first_input, data_inputs=1)
    add("Resize Upsample", reduce, 1, _resize_taps, data_inputs=1)
    add("GridSample", reduce, 1, _resize_taps)
    add("Col2Im", reduce, 1, _first_input, data_inputs=1)

    # Movement.
    add("Concat QLinearConcat", move, 1, _written)
    add("Transpose Split Pad Tile Expand DepthToSpace SpaceToDepth Trilu ReverseSequence CenterCropPad OneHot EyeLike "
        "ConstantOfShape", move, 1, _written, data_inputs=1)
    add("Slice", move, 1, _written, data_inputs=1, reads_what_it_writes=True)
    add("Gather GatherND GatherElements", move, 1, _written, reads_what_it_writes=True)
    add("ScatterElements ScatterND Scatter TensorScatter MaxUnpool", move, 1, _written)
    add("Range", move, 1, _written, data_inputs=0)
    add("Reshape Flatten Squeeze Unsqueeze Identity Dropout", move, 1, _nothing, data_inputs=0)
    return rules


def _nothing(node: onnx.NodeProto, view: ModelView) -> int:
    return 0


VECTOR_RULES: dict[str, VectorRule] = _rules()
VIEWS: frozenset[str] = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"))


def is_view(node: onnx.NodeProto, view: ModelView) -> bool:
    """Whether a node only renames its first input, which then moves nowhere.

    Besides Reshape and its kin that is a transposition that moves only axes of extent 1, an Expand or Tile to
    the same shape, and a Concat of one tensor.
    """
    if node.op_type in VIEWS:
        return True
    shape = view.shape(node.input[0]) if node.input and node.input[0] else ()
    if node.op_type == "Transpose":
        order = view.attribute(node, "perm") or list(reversed(range(len(shape))))
        wide = [axis for axis in order if shape[axis] > 1]
        return wide == sorted(wide)
    if node.op_type in ("Expand", "Tile"):
        return view.count(node.input[0]) == view.count(node.output[0])
    return node.op_type == "Concat" and len(node.input) == 1


def lower_vector(node: onnx.NodeProto, view: ModelView) -> tuple[Step, ...]:
    """Lower a node of ``VECTOR_RULES``."""
    rule = VECTOR_RULES[node.op_type]
    tensors = tuple(name for name in node.input if name)
    if is_view(node, view):
        op = VectorOp(name=node.name, operator=node.op_type, kind=VectorKind.MOVEMENT,
                      input_count=0, output_count=0, processed_count=0)
        return (Step(op, tensors, fusable=True),)
    operations = rule.operations_of(node, view)
    data = tuple(name for name in node.input[: rule.data_inputs] if name)
    if rule.reads_what_it_writes:
        reads = view.count(node.output[0]) + sum(view.count(name) for name in data[1:])
    else:
        reads = sum(view.count(name) for name in data)
    op = VectorOp(
        name=node.name,
        operator=node.op_type,
        kind=rule.kind,
        input_count=reads,
        output_count=view.outputs_count(node),
        processed_count=rule.processed(node, view),
        operations_per_element=operations,
    )
    return (Step(op, tensors, fusable=rule.kind is VectorKind.ELEMENTWISE and _constants_are_small(data, view)),)


def _constants_are_small(data: tuple[str, ...], view: ModelView) -> bool:
    """Whether all constants among the operands are scalars or one vector: the drain path holds no tensors."""
    return all(
        sum(extent > 1 for extent in view.shape(name)) <= 1 for name in data if view.is_constant(name)
    )
