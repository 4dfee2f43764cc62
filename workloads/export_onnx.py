"""A quantised network as standard ONNX: integer codes, scales and zero points, for onnxruntime and other runtimes.

Weights are stored as codes, in the narrowest type of ONNX that holds their format (int4, uint4, int8, uint8, int16,
uint16, float8e4m3fn, float8e5m2, float16, bfloat16), and DequantizeLinear turns them into what
``workloads.fake_quantised_model`` multiplies by, bit for bit. Integer activations of up to 8 bits pass through
QuantizeLinear and DequantizeLinear in int8 or uint8, and a Clip to the range of their format. Others are rounded by
plain arithmetic: before a QuantizeLinear to FP8 onnxruntime 1.31 drops a Relu, and refuses a Clip. So every format of
``LayerPrecision`` has a form; which one a layer got stands in the metadata ``bitmosaic.layers``.

Because of the Clip, and a Max behind the weights of matrix products, onnxruntime computes in floating point what the
fake-quantised model computes. Without them (``fusible``) it joins the operators around layers into integer kernels,
which round in other places.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from simulator.floating import rounded
from simulator.formats import Format
from workloads.calibration import ActivationSite
from workloads.dpq import protective_range
from workloads.export_operands import (
    StoredWeights,
    at_opset,
    described,
    expands_alike,
    finish,
    quantised_sites,
    rows_of,
    stored_weights,
)
from workloads.fake_quantised_model import Assignment, Calibrated, check_assignment, parameter_arrays
from workloads.quantisation import AffineParameters
from workloads.quantised_graph import CONSTANTS, quantising_nodes, rewired, site_prefix, weight_name

_FLOAT_TYPES = {
    "fp8_e4m3": TensorProto.FLOAT8E4M3FN, "fp8_e4m3_ieee": TensorProto.FLOAT8E4M3FN,
    "fp8_e5m2": TensorProto.FLOAT8E5M2, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16,
}
_INTEGER_TYPES = {
    (4, True): TensorProto.INT4, (4, False): TensorProto.UINT4, (8, True): TensorProto.INT8,
    (8, False): TensorProto.UINT8, (16, True): TensorProto.INT16, (16, False): TensorProto.UINT16,
}
# First opset of QuantizeLinear and DequantizeLinear that takes the type; groups of weights came with the last one.
_BLOCKS = 21
PER_CHANNEL_OPSET = 13
_OPSETS: dict[int, int] = {
    TensorProto.INT8: 13, TensorProto.UINT8: 13, TensorProto.FLOAT8E4M3FN: 19, TensorProto.FLOAT8E5M2: 19,
    TensorProto.FLOAT16: 13, TensorProto.BFLOAT16: 13,
}
_NARROW_BITS = 8
IR_VERSION = 10  # the first with 4-bit integers


def export_onnx(calibrated: Calibrated, assignment: Assignment, *, fusible: bool = False) -> onnx.ModelProto:
    """Write a quantised network as standard ONNX; the batch dimension is free.

    ``fusible`` leaves out the Clip behind integer activations that fill their type and the Max behind weights, so that
    a runtime may choose integer kernels.

    The opset is that of the network, or the first one that has all types (21 for 4 and 16 bits and for groups).
    Raises ``NetworkError`` for a layer that does not exist, a range that was not calibrated, or a network whose
    operators cannot be brought to that opset, ``PrecisionError`` for a format that operands cannot have.
    """
    check_assignment(calibrated.network, assignment)
    weights, sites = stored_weights(calibrated, assignment), quantised_sites(calibrated, assignment)
    model = rewired(
        at_opset(calibrated.network, _opset(weights)), [each.layer for each in weights],
        {site: _activation_nodes(site, parameters, fusible) for site, parameters in sites.items()},
    )
    constants: dict[str, onnx.TensorProto] = {}
    nodes: list[onnx.NodeProto] = []
    how: dict[str, str] = {}
    products = {node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")}
    for each in weights:
        is_product = calibrated.network.bindings[each.layer].node in products
        writer = WeightWriter(each, is_apart=is_product and not fusible)
        how[each.layer] = writer.write()
        nodes += writer.nodes
        constants |= writer.constants
    for site, parameters in sites.items():
        constants |= _activation_constants(site, parameters)
    finish(model, nodes, constants, described(assignment, how, sites))
    model.ir_version = max(model.ir_version, IR_VERSION)
    return model


def code_type(format: Format) -> int:
    """The narrowest type of ONNX that holds a format's codes."""
    if not format.is_integer:
        return int(_FLOAT_TYPES[str(format)])
    bits = next(bits for bits in (4, 8, 16) if bits >= format.bits)
    return int(_INTEGER_TYPES[bits, format.is_signed])


def _opset(weights: list[StoredWeights]) -> int:
    opsets = [PER_CHANNEL_OPSET]
    formats = [each.precision.weight for each in weights]
    formats += [each.precision.expanded_weight for each in weights if each.precision.expanded_weight is not None]
    opsets += [_OPSETS.get(code_type(format), _BLOCKS) for format in formats]
    opsets += [_BLOCKS for each in weights if each.precision.weight_group > 0]
    return max(opsets)


class WeightWriter:
    """Nodes and constants that end in a layer's weight tensor; ``is_apart``: not in a DequantizeLinear."""

    def __init__(self, stored: StoredWeights, *, is_apart: bool) -> None:
        self.stored = stored
        self.is_apart = is_apart
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._name = weight_name(stored.layer)

    def write(self) -> str:
        """Add all nodes, and say how the weights are stored."""
        precision, found = self.stored.precision, self.stored.quantised
        if precision.expanded_weight is None:
            held = precision.weight
            tensor = self._dequantised(found.codes, held, found.scale, found.zero_point, precision.weight_group)
            how = f"{held} codes in {_type_name(held)}"
        elif expands_alike(self.stored):
            held = precision.weight
            tensor = self._dequantised(found.codes, held, found.scale, found.zero_point, precision.weight_group)
            tensor = self._expanded(tensor)
            how = f"{held} codes in {_type_name(held)}, expanded to {precision.expanded_weight}"
        else:
            # A product of scale and code that FP32 rounds can fall on the other side of an edge of the wide format.
            held = precision.expanded_weight
            scale = np.asarray(found.tensor_scale, np.float32)
            codes = rounded(found.values.astype(np.float64) / scale, held)
            tensor = self._dequantised(codes, held, scale, np.zeros((), np.int32), 0)
            how = f"{precision.weight} codes expanded beforehand, {held} in {_type_name(held)}"
        if self.is_apart:
            # Else onnxruntime 1.31 makes MatMulNBits of a DequantizeLinear and a MatMul, and rounds the other operand.
            lowest = self._constant("lowest", found.values.min(), TensorProto.FLOAT)
            tensor = self._add("Max", [tensor, lowest], "kept")
        if self.stored.type != np.float32:
            tensor = self._add("Cast", [tensor], "cast", to=int(helper.np_dtype_to_tensor_dtype(self.stored.type)))
        # The last node makes the tensor that the layer reads.
        self.nodes[-1].output[0] = self._name
        return how

    def _dequantised(
        self, codes: NDArray[Any], format: Format, scale: NDArray[Any], zero: NDArray[Any], group: int
    ) -> str:
        """Values of codes, in the shape of the model's weights."""
        if not format.is_integer and format.bits > 8:
            return self._add("Cast", [self._constant("codes", codes, code_type(format))], "float", to=TensorProto.FLOAT)
        axes = self.stored.channel_axes
        attributes: dict[str, int] = {}
        in_place = group == 0 or (group < 0 and len(axes) == 1)
        if group < 0:
            attributes["axis"] = axes[0] if len(axes) == 1 else 0
        elif group > 0:
            attributes |= {"axis": 1, "block_size": group}
        stored = codes if in_place else rows_of(codes, axes)
        if format.is_integer:
            zero = np.broadcast_to(zero, scale.shape)
        else:
            zero = np.zeros(scale.shape, np.float32)
        inputs = [
            self._constant("codes", stored, code_type(format)), self._constant("scale", scale, TensorProto.FLOAT),
            self._constant("zero", zero, code_type(format)),
        ]
        tensor = self._add("DequantizeLinear", inputs, "values", **attributes)
        return tensor if in_place else self._from_rows(tensor)

    def _from_rows(self, tensor: str) -> str:
        """[channels, weights of a channel] to the shape of the model's weights."""
        shape = self.stored.shape
        channels = [axis % len(shape) for axis in self.stored.channel_axes]
        order = [*channels, *(axis for axis in range(len(shape)) if axis not in channels)]
        front = self._constant("shape", np.array([shape[axis] for axis in order]), TensorProto.INT64)
        tensor = self._add("Reshape", [tensor, front], "front")
        if order == sorted(order):
            return tensor
        return self._add("Transpose", [tensor], "turned", perm=[order.index(axis) for axis in range(len(shape))])

    def _expanded(self, tensor: str) -> str:
        """Clip to the protective range, round to FP8, and multiply by the tensor's scale."""
        wide = self.stored.precision.expanded_weight
        assert wide is not None
        limit, kind = protective_range(wide), code_type(wide)
        bounds = [self._constant(name, np.asarray(value, np.float32), TensorProto.FLOAT)
                  for name, value in (("low", -limit), ("high", limit))]
        one = self._constant("one", np.ones((), np.float32), TensorProto.FLOAT)
        none = self._constant("none", np.zeros((), np.float32), kind)
        outer = self._constant("tensor_scale", np.asarray(self.stored.quantised.tensor_scale, np.float32),
                               TensorProto.FLOAT)
        # No Clip: onnxruntime 1.31 joins it with a QuantizeLinear, and then refuses FP8.
        tensor = self._add("Max", [tensor, bounds[0]], "above")
        tensor = self._add("Min", [tensor, bounds[1]], "clipped")
        tensor = self._add("QuantizeLinear", [tensor, one, none], "wide_codes")
        return self._add("DequantizeLinear", [tensor, outer, none], "wide")

    def _add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = f"{self._name}/{output}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"{name}/{operator}", **attributes))
        return name

    def _constant(self, name: str, array: NDArray[Any], kind: int) -> str:
        full = f"{self._name}/{name}"
        self.constants[full] = typed_tensor(full, array, kind)
        return full


def _activation_nodes(
    site: ActivationSite, parameters: AffineParameters, fusible: bool
) -> list[onnx.NodeProto]:
    p, out = site_prefix(site), site_prefix(site) + "out"
    if not _is_narrow(parameters.format):
        return quantising_nodes(site, "general")
    steps = [("QuantizeLinear", [p + "scale", p + "zero"]), ("DequantizeLinear", [p + "scale", p + "zero"])]
    if not (fusible and _fills_its_type(parameters)):
        steps.append(("Clip", [p + "low_value", p + "high_value"]))
    nodes, tensor = [], site.tensor
    for place, (operator, inputs) in enumerate(steps):
        result = out if place == len(steps) - 1 else f"{p}step{place}"
        nodes.append(helper.make_node(operator, [tensor, *inputs], [result], name=f"{p}{operator}"))
        tensor = result
    return nodes


def _activation_constants(site: ActivationSite, parameters: AffineParameters) -> dict[str, onnx.TensorProto]:
    arrays = parameter_arrays(site, parameters)
    if not _is_narrow(parameters.format):
        arrays |= CONSTANTS
    constants = {name: numpy_helper.from_array(array, name) for name, array in arrays.items()}
    if _is_narrow(parameters.format):
        zero = site_prefix(site) + "zero"
        kind = _INTEGER_TYPES[_NARROW_BITS, parameters.format.is_signed]
        constants[zero] = typed_tensor(zero, np.asarray(parameters.zero_point), kind)
    return constants


def _is_narrow(format: Format) -> bool:
    return format.is_integer and format.bits <= _NARROW_BITS


def _fills_its_type(parameters: AffineParameters) -> bool:
    """Whether the codes are all integers of 8 bits."""
    low, high = parameters.format.integer_range
    return parameters.format.bits == _NARROW_BITS and (parameters.lowest, parameters.highest) == (low, high)


def _type_name(format: Format) -> str:
    return str(TensorProto.DataType.Name(code_type(format))).lower()


def typed_tensor(name: str, array: NDArray[Any], kind: int) -> onnx.TensorProto:
    """An array as a tensor of an ONNX type."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if dtype in (np.dtype(ml_dtypes.int4), np.dtype(ml_dtypes.uint4)):
        array = array.astype(np.int8)
    elif dtype.kind == "V" or dtype.name.startswith(("float8", "bfloat")):
        array = array.astype(np.float32)
    return numpy_helper.from_array(np.ascontiguousarray(array.astype(dtype)).reshape(array.shape), name)
