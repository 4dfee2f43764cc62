"""Convolutions, plain, quantised and transposed, as loop nests.

``Conv``: G groups, K and C channels of one group, P×Q output pixels, R×S taps; one spatial dimension takes the
place of the columns (Q, S) and has P = R = 1. ``auto_pad`` is turned into explicit padding.

``ConvTranspose``: a nest over *input* pixels. Every input pixel is multiplied with the whole kernel (a 1×1
convolution with K = output channels of a group × taps, P×Q input pixels), and a vector operation ``.col2im``
adds the products into the output where they overlap, and the bias. The nest so counts the multiplications that
exist; a nest over output pixels would also count those with the zeros between stretched inputs.
"""

from __future__ import annotations

import onnx

from simulator.layer import Layer, VectorKind, VectorOp
from workloads.network import LayerBinding
from workloads.onnx_operators.view import ModelView, Step, product

# Operator → positions of input, weight and bias among the node's inputs.
SLOTS: dict[str, tuple[int, int, int | None]] = {
    "Conv": (0, 1, 2),
    "ConvInteger": (0, 1, None),
    "QLinearConv": (0, 3, 8),
    "FusedConv": (0, 1, 2),
}


def _plane(values: list[int] | tuple[int, ...], missing: int) -> tuple[int, int]:
    """Turn one or two spatial values into rows and columns."""
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


def _spatial(node: onnx.NodeProto, view: ModelView, weight: str) -> int:
    """Number of spatial dimensions. Raises ``NetworkError`` where the nest has no loops for them."""
    spatial = len(view.shape(weight)) - 2
    if spatial not in (1, 2):
        raise view.refuse(node, f"has {spatial} spatial dimensions; one or two are understood")
    return spatial


def padding_begin(
    node: onnx.NodeProto, view: ModelView, size: list[int], taps: list[int], stride: list[int], dilation: list[int]
) -> list[int]:
    """Zeros before the first element along each spatial dimension, from ``pads`` or ``auto_pad``."""
    mode = view.attribute(node, "auto_pad", "NOTSET")
    if mode == "VALID":
        return [0] * len(size)
    if mode == "NOTSET":
        pads = list(view.attribute(node, "pads", [0] * (2 * len(size))))[: len(size)]
        if min(pads) < 0:
            raise view.refuse(node, "has negative pads; cropping inside a convolution is not understood")
        return pads
    begin = []
    for extent, tap, step, distance in zip(size, taps, stride, dilation, strict=True):
        total = max((-(-extent // step) - 1) * step + (tap - 1) * distance + 1 - extent, 0)
        begin.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
    return begin


def lower_convolution(node: onnx.NodeProto, view: ModelView) -> tuple[Step, ...]:
    """Lower Conv, ConvInteger, QLinearConv and onnxruntime's FusedConv."""
    input_slot, weight_slot, bias_slot = SLOTS[node.op_type]
    data, weight = view.input(node, input_slot), view.input(node, weight_slot)
    spatial = _spatial(node, view, weight)
    batch, _, *size = view.shape(data)
    channels, reduced, *taps = view.shape(weight)
    groups = view.attribute(node, "group", 1)
    stride = list(view.attribute(node, "strides", [1] * spatial))
    dilation = list(view.attribute(node, "dilations", [1] * spatial))
    rows, columns = _plane(view.shape(node.output[0])[2:], 1)
    kernel_rows, kernel_columns = _plane(taps, 1)
    is_constant = view.is_constant(weight)
    layer = Layer(
        name=node.name,
        dims={
            "G": groups, "N": batch, "K": channels // groups, "C": reduced,
            "P": rows, "Q": columns, "R": kernel_rows, "S": kernel_columns,
        },
        stride=_plane(stride, 1),
        dilation=_plane(dilation, 1),
        padding_begin=_plane(padding_begin(node, view, size, taps, stride, dilation), 0),
        input_size=_plane(size, 1),
        weight_is_activation=not is_constant,
        has_bias=bool(view.input(node, bias_slot)),
    )
    binding = LayerBinding(
        node=node.name,
        weight=weight if is_constant else None,
        weight_channel_axes=(0,),
        weight_reduced_axes=tuple(range(1, 2 + spatial)),
        weight_slot=weight_slot,
        input_slot=input_slot,
        weight_loops=(("G0", "K0"), ("C0",), *(("R0",), ("S0",))[-spatial:]),
        input_loops=(("N0",), ("G0", "C0"), *(("H0",), ("W0",))[-spatial:]),
    )
    steps = [Step(layer, (data, weight), binding=binding)]
    count = view.count(node.output[0])
    if node.op_type == "FusedConv":
        if residual := view.input(node, 3):
            add = VectorOp(name=view.step_name(node, "add"), operator="Add", kind=VectorKind.ELEMENTWISE,
                           input_count=2 * count, output_count=count, processed_count=count)
            steps.append(Step(add, (residual,), after=(layer.name,)))
        if activation := view.attribute(node, "activation", ""):
            act = VectorOp(name=view.step_name(node, "activation"), operator=activation, kind=VectorKind.ELEMENTWISE,
                           input_count=count, output_count=count, processed_count=count)
            steps.append(Step(act, (), after=(steps[-1].op.name,), fusable=True))
    return tuple(steps)


def lower_transposed_convolution(node: onnx.NodeProto, view: ModelView) -> tuple[Step, ...]:
    """Lower ConvTranspose to a 1×1 nest over input pixels and a col2im."""
    data, weight, bias = (view.input(node, slot) for slot in range(3))
    spatial = _spatial(node, view, weight)
    batch, input_channels, *size = view.shape(data)
    _, channels, *taps = view.shape(weight)
    groups = view.attribute(node, "group", 1)
    rows, columns = _plane(size, 1)
    is_constant = view.is_constant(weight)
    layer = Layer(
        name=node.name,
        dims={"G": groups, "N": batch, "K": channels * product(taps), "C": input_channels // groups,
              "P": rows, "Q": columns},
        input_size=(rows, columns),
        weight_is_activation=not is_constant,
    )
    binding = LayerBinding(
        node=node.name,
        weight=weight if is_constant else None,
        # Products of several taps meet in one output channel, so they share that channel's scale.
        weight_channel_axes=(1,),
        weight_reduced_axes=(0, *range(2, 2 + spatial)),
        weight_loops=(("G0", "C0"), ("K0",), *(("K1",), ("K2",))[:spatial]),
        input_loops=(("N0",), ("G0", "C0"), *(("H0",), ("W0",))[-spatial:]),
    )
    stride = view.attribute(node, "strides", [1] * spatial)
    dilation = view.attribute(node, "dilations", [1] * spatial)
    overlaps = any((tap - 1) * distance + 1 > step for tap, distance, step in zip(taps, dilation, stride, strict=True))
    scatter = VectorOp(
        name=view.step_name(node, "col2im"),
        operator="Col2Im",
        kind=VectorKind.REDUCTION if overlaps or bias else VectorKind.MOVEMENT,
        input_count=layer.output_count + view.count(bias),
        output_count=view.count(node.output[0]),
        processed_count=layer.output_count,
    )
    return (
        Step(layer, (data, weight), binding=binding),
        Step(scatter, (bias,) if bias else (), after=(layer.name,)),
    )
