"""Matrix products as loop nests: MatMul, Gemm, Einsum, and their integer forms.

All of them are one contraction of two operands whose axes carry labels. A label of extent 1 vanishes; of the
others, one that both operands and the output carry counts groups (G), one that both carry and the output does
not is reduced (C), one of the input alone counts rows (P), one of the weight alone counts columns (K). So the
leading axes of a batched input fold into P where the weight is shared, a broadcast input folds the batch of its
weights into K, and nothing is counted twice.

Trained weights play the ``weight`` operand on whichever side they stand: for W @ X, K = rows of W and
P = columns of X. Where both operands are activations the right one plays it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import onnx

from simulator.layer import Layer, VectorKind, VectorOp
from workloads.network import AxisLoops, LayerBinding
from workloads.onnx_operators.view import ModelView, Step, product

Label = Hashable

# Operator → positions of the two operands among the node's inputs.
MATMUL_SLOTS: dict[str, tuple[int, int]] = {
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "FusedMatMul": (0, 1),
}


@dataclass(frozen=True)
class Side:
    """One operand of a contraction: its place among the node's inputs, and a label for each axis."""

    slot: int
    labels: tuple[Label, ...]


def contract(
    node: onnx.NodeProto, view: ModelView, left: Side, right: Side, output: Sequence[Label], *, has_bias: bool = False
) -> Step:
    """Lower a contraction of two operands.

    Raises ``NetworkError`` where an axis is summed in one operand alone: that is no matrix product.
    """
    left_name, right_name = view.input(node, left.slot), view.input(node, right.slot)
    swapped = weight_stands_left(view, left_name, right_name)
    data, weight = (right, left) if swapped else (left, right)
    weight_name = view.input(node, weight.slot)
    data_extents = _extents(view, view.input(node, data.slot), data.labels)
    weight_extents = _extents(view, weight_name, weight.labels)
    if lone := [label for label in {**data_extents, **weight_extents}
                if label not in output and (label in data_extents) != (label in weight_extents)]:
        raise view.refuse(node, f"sums axis {lone[0]!r} of one operand alone: not a matrix product")
    shared = {label: extent for label, extent in data_extents.items() if label in weight_extents}
    is_constant = view.is_constant(weight_name)
    layer = Layer(
        name=node.name,
        dims={
            "G": product({label: extent for label, extent in shared.items() if label in output}),
            "K": product({label: extent for label, extent in weight_extents.items() if label not in shared}),
            "C": product({label: extent for label, extent in shared.items() if label not in output}),
            "P": product({label: extent for label, extent in data_extents.items() if label not in shared}),
        },
        weight_is_activation=not is_constant,
        has_bias=has_bias,
    )
    kept = [axis for axis, label in enumerate(weight.labels) if label in output]
    wide = [axis for axis in kept if view.shape(weight_name)[axis] > 1]
    binding = LayerBinding(
        node=node.name,
        weight=weight_name if is_constant else None,
        weight_channel_axes=tuple(wide or kept),
        weight_reduced_axes=tuple(axis for axis, label in enumerate(weight.labels) if label not in output),
        weight_slot=weight.slot,
        input_slot=data.slot,
        weight_loops=_loops(weight.labels, weight_extents, data_extents, output, "K"),
        input_loops=_loops(data.labels, data_extents, weight_extents, output, "P"),
    )
    return Step(layer, (left_name, right_name), binding=binding)


def _loops(
    labels: Sequence[Label], own: dict[Label, int], other: dict[Label, int], output: Sequence[Label], lone: str
) -> AxisLoops:
    """Loops that each axis of an operand numbers; shared labels in an order that both operands agree on."""
    shared = sorted((label for label in own if label in other), key=str)
    alone = [label for label in own if label not in other]
    found: list[tuple[str, ...]] = []
    for label in labels:
        if label not in own:
            found.append(())
        elif label in alone:
            found.append((f"{lone}{alone.index(label)}",))
        else:
            found.append((f"{'G' if label in output else 'C'}{shared.index(label)}",))
    return tuple(found)


def weight_stands_left(view: ModelView, left: str, right: str) -> bool:
    """Whether the trained operand of a product is the left one."""
    return view.is_constant(left) and not view.is_constant(right)


def _extents(view: ModelView, tensor: str, labels: Sequence[Label]) -> dict[Label, int]:
    """Extent of each label that is wider than 1."""
    return {label: extent for label, extent in zip(labels, view.shape(tensor), strict=True) if extent != 1}


def _matmul_labels(rank: int, own: str, transposed: bool) -> tuple[Label, ...]:
    """Labels of a MatMul operand: batch axes from the right (2, 3, …), then rows and columns."""
    if rank == 1:
        return ("c",)
    rows_first = (own, "c") if own == "m" else ("c", own)
    return (*range(rank - 1, 1, -1), *(reversed(rows_first) if transposed else rows_first))


def lower_matmul(node: onnx.NodeProto, view: ModelView) -> tuple[Step, ...]:
    """Lower MatMul and its integer and fused forms, with broadcast batches and vectors on either side."""
    slots = MATMUL_SLOTS[node.op_type]
    if view.attribute(node, "transBatchA", 0) or view.attribute(node, "transBatchB", 0):
        raise view.refuse(node, "transposes its batch axes (transBatchA, transBatchB): not understood")
    sides = []
    for slot, own, flag in zip(slots, ("m", "n"), ("transA", "transB"), strict=True):
        rank = len(view.shape(view.input(node, slot)))
        sides.append(Side(slot, _matmul_labels(rank, own, bool(view.attribute(node, flag, 0)))))
    output = {label for side in sides for label in side.labels} - {"c"}
    return (contract(node, view, sides[0], sides[1], tuple(output)),)


def lower_gemm(node: onnx.NodeProto, view: ModelView) -> tuple[Step, ...]:
    """Lower Gemm. ``alpha`` and ``beta`` belong to the scales of weights and bias and cost nothing.

    A third input that is no constant vector along the output channels is added by a vector operation.
    """
    left = Side(0, ("c", "m") if view.attribute(node, "transA", 0) else ("m", "c"))
    right = Side(1, ("n", "c") if view.attribute(node, "transB", 0) else ("c", "n"))
    bias = view.input(node, 2)
    if not bias:
        return (contract(node, view, left, right, ("m", "n")),)
    rows, columns = (1, 1, *view.shape(bias))[-2:]
    across = columns if weight_stands_left(view, node.input[0], node.input[1]) else rows
    is_channel_bias = view.is_constant(bias) and across == 1
    layer = contract(node, view, left, right, ("m", "n"), has_bias=is_channel_bias)
    if is_channel_bias:
        return (layer,)
    count = view.count(node.output[0])
    add = VectorOp(name=view.step_name(node, "add"), operator="Add", kind=VectorKind.ELEMENTWISE,
                   input_count=count + view.count(bias), output_count=count, processed_count=count)
    return layer, Step(add, (bias,), after=(layer.op.name,))


def lower_einsum(node: onnx.NodeProto, view: ModelView) -> tuple[Step, ...]:
    """Lower the Einsum equations that are one matrix product: two operands, no axis summed in one alone.

    Raises ``NetworkError`` for all others (diagonals, sums, transpositions, three operands).
    """
    equation = str(view.attribute(node, "equation", "")).replace(" ", "")
    terms, arrow, output = equation.partition("->")
    operands = terms.split(",")
    if len(operands) != 2 or len(node.input) != 2:
        rule = f"equation {equation!r} has {len(operands)} operands; only products of two are understood"
        raise view.refuse(node, rule)
    sides = []
    for slot, term in enumerate(operands):
        labels = _einsum_labels(term, len(view.shape(node.input[slot])))
        if len(set(labels)) != len(labels):
            raise view.refuse(node, f"equation {equation!r} takes a diagonal: not a matrix product")
        sides.append(Side(slot, labels))
    if arrow:
        kept = set(_einsum_labels(output, len(view.shape(node.output[0]))))
    else:
        # Without an arrow the output carries every label that occurs once, and the broadcast axes.
        everything = [label for side in sides for label in side.labels]
        kept = {label for label in everything if everything.count(label) == 1 or isinstance(label, int)}
    return (contract(node, view, sides[0], sides[1], tuple(kept)),)


def _einsum_labels(term: str, rank: int) -> tuple[Label, ...]:
    """Labels of one term; an ellipsis stands for axes numbered from its right end."""
    if "..." not in term:
        return tuple(term)
    before, after = term.split("...")
    hidden = rank - len(before) - len(after)
    return (*before, *range(hidden - 1, -1, -1), *after)
