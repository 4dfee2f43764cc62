"""The functional mode: the outputs of a layer under a mapping, computed fast and without a clock.

Integer elements add exactly, in any order: what they compute is the integer product, and the tests hold each kind's
arithmetic from bits to it. ``bit_level`` computes it from the digits that the circuit works on, all the same.

Floating-point sums round at each addition, so they follow the order in which the mapping lets the machine add
(``addition_order``); the outputs equal those of the ``reference`` engine bit for bit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator import kernels
from simulator.accelerator import Accelerator
from simulator.addition_order import addition_order
from simulator.errors import PrecisionError, Problem
from simulator.floating import largest_finite, mantissa_bits, smallest_normal
from simulator.formats import Format
from simulator.kernels.functional import Rounding
from simulator.layer import Layer
from simulator.mapping import Mapping
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.processing_elements.base import IntArray, IntegerElementBase
from simulator.processing_elements.floating_base import FloatingElementBase
from simulator.scales import GroupScales, check_scales

MOST_PATCH_ELEMENTS = 1 << 22
"""Inputs that are laid out at once, as many as stay in a processor's cache or near it."""

_INT64_LIMIT, _INT32_LIMIT, _INT16_LIMIT = 1 << 63, 1 << 31, 1 << 15
_LEAST_CHUNK = 32


def compute_layer(
    layer: Layer,
    precision: LayerPrecision,
    accelerator: Accelerator,
    mapping: Mapping,
    weights: IntArray,
    inputs: IntArray,
    *,
    scales: GroupScales | None = None,
    bit_level: bool = False,
) -> IntArray:
    """Compute what a layer writes to DRAM: what ``simulate`` gives the cost of.

    Args:
        weights: codes, shape (G, K, C, R, S): whole numbers of an integer format, bit patterns of a floating one; of
            a layer split by channel each in the format of its channel.
        inputs: codes, shape (G, N, C, H, W) with ``layer.stored_input_size`` = (H, W), likewise.
        scales: of the groups of weights, where the precision expands weights; else None.
        bit_level: integer elements multiply digit by digit, as their circuit does; slower by the number of pairs of
            digits, with the same result.

    Returns:
        The outputs, int64 of shape (G, N, K, P, Q): exact sums of integers, or bit patterns of the ``output`` format in
        floating point (docs/simulator.md, "Values").

    Raises ``MappingError`` with every problem of the mapping, ``PrecisionError`` where the processing element cannot
    run the precision, where operands have another shape or codes outside of their format, where scales do not fit, and
    where an integer sum could exceed int64.
    """
    plan = Plan(layer, precision, accelerator, mapping)
    check_scales(layer, precision, scales)
    _check_operands(layer, precision, weights, inputs)
    element = accelerator.processing_element
    if isinstance(element, FloatingElementBase):
        if scales is not None:
            weights = element.expand(weights, *scales.by_weight(layer, precision.weight_group), precision)
        return _floating_outputs(plan, element, weights, inputs)
    assert isinstance(element, IntegerElementBase)
    if not bit_level:
        return _integer_outputs(layer, weights, inputs)
    total = np.zeros(_output_shape(layer), dtype=np.int64)
    for part, (first, last) in zip(precision.parts, _channel_ranges(layer, precision), strict=True):
        if first < last:
            own = layer.model_copy(update={"dims": {**layer.dims, "C": last - first}})
            total += _digit_outputs(own, part, element, weights[:, :, first:last], inputs[:, :, first:last])
    return total


def _channel_ranges(layer: Layer, precision: LayerPrecision) -> list[tuple[int, int]]:
    """First channel of each of the precision's ``parts``, and the one behind its last."""
    if precision.split is None:
        return [(0, layer.extent("C"))]
    narrow = precision.split.channels(layer)
    return [(narrow, layer.extent("C")), (0, narrow)]


def _digit_outputs(
    layer: Layer, precision: LayerPrecision, element: IntegerElementBase, weights: IntArray, inputs: IntArray
) -> IntArray:
    """Sums of products, digit by digit."""
    weight_planes, weight_bits = element.digit_planes(weights, "weight", precision)
    input_planes, input_bits = element.digit_planes(inputs, "input", precision)
    total = np.zeros(_output_shape(layer), dtype=np.int64)
    for i, weight_plane in enumerate(weight_planes):
        for j, input_plane in enumerate(input_planes):
            total += _integer_outputs(layer, weight_plane, input_plane) << (i * weight_bits + j * input_bits)
    return total


def _output_shape(layer: Layer) -> tuple[int, ...]:
    return tuple(layer.extent(dim) for dim in ("G", "N", "K", "P", "Q"))


def _check_operands(layer: Layer, precision: LayerPrecision, weights: IntArray, inputs: IntArray) -> None:
    problems = []
    extent = layer.extent
    for name, codes, shape in (
        ("weights", weights, tuple(extent(dim) for dim in ("G", "K", "C", "R", "S"))),
        ("inputs", inputs, (extent("G"), extent("N"), extent("C"), *layer.stored_input_size)),
    ):
        if codes.shape != shape:
            problems.append(Problem("has another shape", where=layer.name, path=name, value=str(codes.shape),
                                    allowed=(str(shape),)))
            continue
        for part, (first, last) in zip(precision.parts, _channel_ranges(layer, precision), strict=True):
            number_format = part.weight if name == "weights" else part.input
            if first < last:
                problems += _range_problems(layer, name, codes[:, :, first:last], number_format)
    if problems:
        raise PrecisionError(problems)


def _range_problems(layer: Layer, name: str, codes: IntArray, number_format: Format) -> list[Problem]:
    low, high = number_format.integer_range if number_format.is_integer else (0, (1 << number_format.bits) - 1)
    least, most = int(codes.min()), int(codes.max())
    if low <= least and most <= high:
        return []
    return [Problem(f"is no code of {number_format}", where=layer.name, path=name,
                    value=str(least if least < low else most), allowed=(f"{low} … {high}",))]


def _integer_outputs(layer: Layer, weights: IntArray, inputs: IntArray) -> IntArray:
    """Exact sums of products, int64 of shape (G, N, K, P, Q)."""
    reduced = layer.extent("C") * layer.extent("R") * layer.extent("S")
    largest = [int(max(codes.max(), -codes.min(), 1)) for codes in (weights, inputs)]
    product = largest[0] * largest[1]
    if product * reduced >= _INT64_LIMIT:
        raise PrecisionError(Problem("sums of these operands could exceed 64 bits", where=layer.name, path="weights",
                                     value=f"up to {largest[0]}, inputs up to {largest[1]}, {reduced} products"))
    chunk = (_INT32_LIMIT - 1) // product
    is_narrow = max(largest) < _INT16_LIMIT and chunk >= _LEAST_CHUNK
    kind = np.int16 if is_narrow else np.int64
    outputs = np.empty(_output_shape(layer), dtype=np.int64)
    for group, image in np.ndindex(outputs.shape[:2]):
        own = np.ascontiguousarray(weights[group].reshape(layer.extent("K"), reduced), dtype=kind)
        into = outputs[group, image].reshape(layer.extent("K"), -1)
        stored = inputs[group, image].astype(kind)
        for first, rows in _patches(layer, stored):
            part = np.empty((own.shape[0], rows.shape[0]), dtype=np.int64)
            if is_narrow:
                kernels.narrow_products(own, rows, chunk, part)
            else:
                kernels.wide_products(own, rows, part)
            into[:, first : first + rows.shape[0]] = part
    return outputs


def _patches(layer: Layer, stored: npt.NDArray[np.generic]):  # type: ignore[no-untyped-def]
    """Blocks of output positions with the inputs they read: (first position, rows of shape (positions, C·R·S))."""
    positions = layer.extent("P") * layer.extent("Q")
    extents = tuple(layer.extent(dim) for dim in ("C", "Q", "R", "S"))
    reduced = extents[0] * extents[2] * extents[3]
    block = max(1, min(positions, MOST_PATCH_ELEMENTS // reduced))
    for first in range(0, positions, block):
        rows = np.empty((min(block, positions - first), reduced), dtype=stored.dtype)
        kernels.patches(stored, first, extents, layer.stride, layer.dilation, layer.padding_begin, rows)
        yield first, rows


def _floating_outputs(plan: Plan, element: FloatingElementBase, weights: IntArray, inputs: IntArray) -> IntArray:
    """Codes of the output's format, of shape (G, N, K, P, Q)."""
    layer, precision = plan.layer, plan.precision
    accumulator = Format(element.accumulator_format)
    order = addition_order(plan, chain=element.lane_order == "chain")
    kind = np.float32 if accumulator == "fp32" else np.float64
    least = kind(smallest_normal(accumulator) if element.subnormals == "flushed" else 0.0)
    weight_values = element.multiplied(weights, precision.multiplied_weight).astype(kind)
    input_values = element.multiplied(inputs, precision.input).astype(kind)
    outputs = np.empty(_output_shape(layer), dtype=np.float64)
    for group, image in np.ndindex(outputs.shape[:2]):
        own = weight_values[group].reshape(layer.extent("K"), -1)
        into = outputs[group, image].reshape(layer.extent("K"), -1)
        for first, rows in _patches(layer, input_values[group, image]):
            block = into[:, first : first + rows.shape[0]]
            # Outputs side by side are added up at once: positions, or output channels where there are more of them.
            across = rows.shape[0] >= own.shape[0]
            left, right = (own, rows) if across else (rows, own)
            part = np.empty((left.shape[0], right.shape[0]), dtype=kind)
            with np.errstate(all="ignore"):
                kernels.ordered_sums(np.ascontiguousarray(left), np.ascontiguousarray(right.T), order,
                                     _rounding(accumulator), least, part)
            block[...] = part if across else part.T
    return element.output_codes(outputs, precision)


def _rounding(number_format: Format) -> Rounding | None:
    """What rounds float64 to a format; None for FP32, which the processor rounds to itself."""
    if number_format == "fp32":
        return None
    mantissa, normal = mantissa_bits(number_format), smallest_normal(number_format)
    return Rounding(52 - mantissa, normal, largest_finite(number_format), normal * 2.0**-mantissa)
