"""FlexiQ's part of an ONNX graph: activations that become 8-bit codes, lowered where channels are narrow."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from onnx import helper

from workloads.calibration import ActivationSite
from workloads.flexiq import NARROW_BITS, WIDE_BITS, Extraction
from workloads.quantised_graph import site_prefix

HIGHEST = (1 << (WIDE_BITS - 1)) - 1
NARROW_LOW, NARROW_HIGH = -(1 << (NARROW_BITS - 1)), (1 << (NARROW_BITS - 1)) - 1
CONSTANTS = {
    "bitmosaic/flexiq/highest": np.array(HIGHEST, np.float32),
    "bitmosaic/flexiq/lowest": np.array(-HIGHEST, np.float32),
    "bitmosaic/flexiq/half": np.array(0.5, np.float32),
    "bitmosaic/flexiq/two": np.array(2.0, np.float32),
    "bitmosaic/flexiq/log2": np.array(np.log(2.0), np.float32),
    "bitmosaic/flexiq/zero": np.array(0.0, np.float32),
    "bitmosaic/flexiq/most": np.array(WIDE_BITS - NARROW_BITS, np.float32),
    # Length of the magnitude that narrow codes hold without a shift.
    "bitmosaic/flexiq/held": np.array(NARROW_BITS - 2, np.float32),
}
Lowering = Literal["none"] | Extraction


def lowering_nodes(
    site: ActivationSite, lowering: Lowering, channel_axis: int | None, rank: int, opset: int
) -> list[onnx.NodeProto]:
    """Nodes that compute ``…out`` of a site: 8-bit codes, lowered where channels are narrow, times the scale.

    They read ``…scale`` and, where ``lowering`` is not ``none``, vectors of the channels (along ``channel_axis`` of
    ``rank`` axes): ``…low`` and ``…high``, bounds of the codes, and ``…step``, 2 to the shift. Dynamic ones compute the
    step, and read ``…narrow`` (1 or 0) instead. ``opset``: of the model.
    """
    p, c = site_prefix(site), "bitmosaic/flexiq/"
    steps: list[tuple[str, list[str], str]] = [
        ("Div", [site.tensor, p + "scale"], p + "ratio"),
        ("Round", [p + "ratio"], p + "whole"),
        ("Clip", [p + "whole", c + "lowest", c + "highest"], p + "codes"),
    ]
    if lowering == "none" or channel_axis is None:
        steps.append(("Mul", [p + "codes", p + "scale"], p + "out"))
        return _nodes(steps)
    nodes = _nodes(steps)
    if lowering == "dynamic":
        nodes += _dynamic_step(site, channel_axis, rank, opset)
    return nodes + _nodes([
        ("Div", [p + "codes", p + "step"], p + "fine"),
        ("Round", [p + "fine"], p + "rounded"),
        ("Max", [p + "rounded", p + "low"], p + "above"),
        ("Min", [p + "above", p + "high"], p + "narrow_codes"),
        ("Mul", [p + "narrow_codes", p + "step"], p + "lowered"),
        ("Mul", [p + "lowered", p + "scale"], p + "out"),
    ])


def _dynamic_step(site: ActivationSite, channel_axis: int, rank: int, opset: int) -> list[onnx.NodeProto]:
    """``step = 2^(narrow · clip(⌊log2(max|q| + ½)⌋ − (n − 2), 0, b − n))``: the shift is the bits beyond n − 1."""
    p, c = site_prefix(site), "bitmosaic/flexiq/"
    # Every example of a batch by itself; without a batch axis of its own, all of the tensor.
    others = [axis for axis in range(rank) if axis != channel_axis and (axis > 0 or rank == 1)]
    if not others:
        largest = [helper.make_node("Identity", [p + "size"], [p + "largest"])]
    elif opset >= 18:
        axes = helper.make_node("Constant", [], [p + "axes"], value_ints=others)
        largest = [axes, helper.make_node("ReduceMax", [p + "size", p + "axes"], [p + "largest"], keepdims=1)]
    else:
        largest = [helper.make_node("ReduceMax", [p + "size"], [p + "largest"], axes=others, keepdims=1)]
    return [helper.make_node("Abs", [p + "codes"], [p + "size"]), *largest, *_nodes([
        ("Add", [p + "largest", c + "half"], p + "between"),
        ("Log", [p + "between"], p + "natural_log"),
        ("Div", [p + "natural_log", c + "log2"], p + "bits"),
        ("Floor", [p + "bits"], p + "whole_bits"),
        ("Sub", [p + "whole_bits", c + "held"], p + "beyond"),
        ("Clip", [p + "beyond", c + "zero", c + "most"], p + "shift"),
        ("Mul", [p + "shift", p + "narrow"], p + "own_shift"),
        ("Pow", [c + "two", p + "own_shift"], p + "step"),
    ])]


def _nodes(steps: list[tuple[str, list[str], str]]) -> list[onnx.NodeProto]:
    return [helper.make_node(operator, inputs, [output]) for operator, inputs, output in steps]
