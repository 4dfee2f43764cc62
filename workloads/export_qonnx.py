"""A quantised network as QONNX (Pappalardo et al., arXiv 2206.07527): ``Quant`` nodes with arbitrary widths.

Every quantised tensor passes through a node of the domain ``qonnx.custom_op.general``: ``Quant`` with inputs x, scale,
zero point and bit width for integers, ``FloatQuant`` for floating-point formats. Weights stand in front of theirs with
the values that they have after quantisation, so that rounding changes nothing and codes of GPTQ or DPQ survive; scales
of groups are written out for each weight. Weights that are expanded to FP8 pass through both nodes.

A ``Quant`` node rounds ``x / scale + zero point``, and everything else here ``x / scale``: a value in the middle
between two codes goes to the other one where the zero point is odd. Symmetric activations (``scheme``) have none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

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
    steps_and_scales,
    stored_weights,
)
from workloads.fake_quantised_model import Assignment, Calibrated, check_assignment
from workloads.quantisation import AffineParameters, as_tensor, float_format
from workloads.quantised_graph import rewired, site_prefix, weight_name

DOMAIN = "qonnx.custom_op.general"
_OPSET = 13


def export_qonnx(calibrated: Calibrated, assignment: Assignment) -> onnx.ModelProto:
    """Write a quantised network as QONNX, with a batch of one: tools that read it want shapes that are known.

    Raises ``NetworkError`` for a layer that does not exist, a range that was not calibrated, or a network whose
    operators cannot be brought to opset 13, ``PrecisionError`` for a format that operands cannot have.
    """
    check_assignment(calibrated.network, assignment)
    weights, sites = stored_weights(calibrated, assignment), quantised_sites(calibrated, assignment)
    writer = _QuantWriter()
    chains = {
        site: writer.activation(site, parameters) for site, parameters in sites.items()
    }
    model = rewired(at_opset(calibrated.network, _OPSET), [each.layer for each in weights], chains)
    how: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for each in weights:
        chain, how[each.layer] = writer.weight(each)
        nodes += chain
    finish(model, nodes, writer.constants, described(assignment, how, sites))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    _batch_of_one(model)
    return model


class _QuantWriter:
    """Makes Quant nodes, and collects the constants that they read."""

    def __init__(self) -> None:
        self.constants: dict[str, onnx.TensorProto] = {}

    def activation(self, site: ActivationSite, parameters: AffineParameters) -> list[onnx.NodeProto]:
        """The node that quantises a site."""
        p = site_prefix(site)
        scale = np.asarray(parameters.scale, np.float32)
        if not parameters.format.is_integer:
            return [self._float(p, site.tensor, p + "out", scale, parameters.format)]
        # One code more at the low end is what tells a whole range from a symmetric one.
        is_narrow = parameters.format.is_signed and parameters.lowest > parameters.format.integer_range[0]
        zero = np.asarray(parameters.zero_point, np.float32)
        return [self._integer(p, site.tensor, p + "out", scale, zero, parameters.format, is_narrow=is_narrow)]

    def weight(self, stored: StoredWeights) -> tuple[list[onnx.NodeProto], str]:
        """The nodes that quantise a layer's weights, and how that is said in the metadata."""
        precision, found, name = stored.precision, stored.quantised, weight_name(stored.layer)
        wide, p = precision.expanded_weight, f"{weight_name(stored.layer)}/"
        values = found.values
        if wide is None and precision.weight.is_integer:
            scale, zero = self._of_weights(stored)
            return [self._whole_weight(p, self._constant(p + "x", values), name, scale, zero, stored)], \
                f"Quant to {precision.weight}"
        if wide is None:
            scale = self._of_weights(stored)[0]
            return [self._float(p, self._constant(p + "x", values), name, scale, precision.weight)], \
                f"FloatQuant to {precision.weight}"
        outer = np.float32(found.tensor_scale)
        # Values beyond the protective range are clipped to it and then rounded; the node does it the other way round.
        largest = float(rounded(np.asarray([protective_range(wide)]), wide)[0])
        if not expands_alike(stored):
            # A product of scale and code that FP32 rounds can fall on the other side of an edge of the wide format.
            node = self._float(p, self._constant(p + "x", values), name, outer, wide, largest)
            return [node], f"{precision.weight} codes expanded beforehand, FloatQuant to {wide}"
        scale, zero = self._of_weights(stored)
        steps, scales = steps_and_scales(stored)
        whole = as_tensor((steps * scales)[:, None], stored.shape, stored.channel_axes, -1) * outer
        first = self._whole_weight(p, self._constant(p + "x", whole), p + "whole", scale * outer, zero, stored)
        second = self._float(p + "wide/", p + "whole", name, outer, wide, largest)
        return [first, second], f"Quant to {precision.weight}, then FloatQuant to {wide}"

    def _whole_weight(
        self, p: str, source: str, result: str, scale: NDArray[Any], zero: NDArray[Any], stored: StoredWeights
    ) -> onnx.NodeProto:
        format = stored.precision.weight
        is_narrow = stored.precision.zero_bits == 0 and format.is_signed and format.bits > 1
        return self._integer(p, source, result, scale, zero, format, is_narrow=is_narrow)

    def _of_weights(self, stored: StoredWeights) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scales and zero points in shapes that broadcast with the weights."""
        found, axes, group = stored.quantised, stored.channel_axes, stored.precision.weight_group
        scale, zero = found.scale, np.broadcast_to(found.zero_point, found.scale.shape)
        if group == 0 or scale.ndim == 0:
            return scale, zero.astype(np.float32)
        if group < 0:
            channels = [axis % len(stored.shape) for axis in axes]
            shape = [extent if axis in channels else 1 for axis, extent in enumerate(stored.shape)]
            return tuple(
                as_tensor(each.reshape(-1, 1, 1), tuple(shape), axes, -1).astype(np.float32) for each in (scale, zero)
            )  # type: ignore[return-value]
        place = np.arange(stored.rows.shape[1]) // group
        return tuple(
            as_tensor(each[:, None, place], stored.shape, axes, -1).astype(np.float32) for each in (scale, zero)
        )  # type: ignore[return-value]

    def _integer(
        self, p: str, source: str, result: str, scale: NDArray[Any], zero: NDArray[Any], format: Format, *,
        is_narrow: bool,
    ) -> onnx.NodeProto:
        signed = format.is_signed
        if format == "int1":
            # qonnx reads one signed bit as ±1; codes −1 and 0 are those of an unsigned bit, moved down by one.
            signed, zero = False, zero + 1
        inputs = [source, self._constant(p + "scale", scale), self._constant(p + "zero", zero),
                  self._constant(p + "bits", format.bits)]
        return helper.make_node("Quant", inputs, [result], name=p + "Quant", domain=DOMAIN, signed=int(signed),
                                narrow=int(is_narrow), rounding_mode="ROUND")

    def _float(
        self, p: str, source: str, result: str, scale: NDArray[Any] | np.float32, format: Format,
        largest: float | None = None,
    ) -> onnx.NodeProto:
        shape = float_format(format)
        numbers = {
            "exponent_bits": format.bits - 1 - shape.mantissa_bits, "mantissa_bits": shape.mantissa_bits,
            "exponent_bias": 1 - shape.smallest_exponent, "largest": shape.largest if largest is None else largest,
        }
        inputs = [source, self._constant(p + "scale", scale),
                  *(self._constant(p + name, number) for name, number in numbers.items())]
        has_infinity = format != "fp8_e4m3"
        return helper.make_node("FloatQuant", inputs, [result], name=p + "FloatQuant", domain=DOMAIN,
                                has_inf=int(has_infinity), has_nan=1, has_subnormal=1, saturation=1,
                                rounding_mode="ROUND")

    def _constant(self, name: str, value: Any) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, np.float32)).reshape(
            np.shape(value)), name)
        return name


def _batch_of_one(model: onnx.ModelProto) -> None:
    """Write 1 for the batch that ``with_free_batch`` left open."""
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_param == "batch":
            dims[0].dim_value = 1
