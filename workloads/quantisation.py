"""Quantisers: real values to the codes of a number format, and back, each value rounded to nearest.

One interface for all formats: ``quantise(values, format, …)`` picks scales from the values, or takes them, and returns
the codes, the scales and the values that the codes stand for. Integers of any width from 1 to 16 bits are rounded to
nearest, ties to even (as ONNX and IEEE 754 do); floating-point formats are clipped to their largest finite value and
then cast by ``ml_dtypes`` (the cast alone would turn 500 into NaN in ``fp8_e4m3``). Weights have one scale a tensor, an
output channel, or a group of consecutive weights of a channel; they are symmetric (zero is code 0), or have a zero
point beside each scale. Activations have one scale a tensor, and a zero point unless they are asked to be symmetric.
Quantisers that look at what a layer is fed are in ``gptq`` and ``dpq``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.errors import PrecisionError, Problem
from simulator.floating import FLOAT_TYPES
from simulator.formats import Format
from workloads.scale_choice import (
    LEAST_ERROR,
    MAX_ABS,
    SMALLEST_SCALE,
    Array,
    Clipping,
    CodeGrid,
    FloatFormat,
    Integers,
    choose_scales,
    code_range,
    float_format,
    symmetric_scales,
)

__all__ = [
    "LEAST_ERROR", "MAX_ABS", "AffineParameters", "Clipping", "FloatFormat", "Quantised", "Scheme",
    "activation_parameters", "as_rows", "as_tensor", "code_range", "float_format", "quantise", "quantise_activation",
]

Scheme = Literal["affine", "symmetric"]


@dataclass(frozen=True)
class AffineParameters:
    """How one tensor maps to codes: ``code = clip(round(value / scale) + zero_point, lowest, highest)``.

    For floating-point formats ``code`` is the number itself, ``zero_point`` is 0 and rounding is the format's.
    """

    format: Format
    scale: float
    zero_point: int
    lowest: float
    highest: float


@dataclass(frozen=True)
class Quantised:
    """Values as a format holds them.

    Attributes:
        values: float32, the shape of the input: what the codes stand for.
        scale: float32; 0-d for one scale a tensor, [channels] for one a channel, [channels, groups] for groups.
        zero_point: int32, as ``scale``: code of the value 0 (0 where values are symmetric or floating-point).
        codes: int32 for integer formats, an ``ml_dtypes`` or NumPy float array otherwise; the shape of the input.
        tensor_scale: of weights that are expanded to a floating-point format, what all expanded values are multiplied
            by outside the sums; else 1.
    """

    values: Array
    scale: Array
    zero_point: Integers
    codes: NDArray[Any]
    tensor_scale: float = 1.0


def quantise(
    values: ArrayLike,
    format: Format | str,
    *,
    channel_axes: tuple[int, ...] = (),
    group: int = 0,
    symmetric: bool = True,
    clipping: Clipping = MAX_ABS,
    scale: ArrayLike | None = None,
    zero_point: ArrayLike | None = None,
) -> Quantised:
    """Quantise: ``code = clip(round(value / scale) + zero_point)``, ``values = (code − zero_point) · scale``.

    Args:
        values: any shape, finite. Unsigned formats without a zero point turn negative values into 0.
        format: integer of 1 to 16 bits, or a floating-point format.
        channel_axes: axes that number output channels; together they are the rows that get scales of their own.
        group: 0 one scale a tensor, -1 one a channel, g > 0 one for each g consecutive values of a channel (in the
            order of the remaining axes; the last group of a channel may be shorter).
        symmetric: False gives integers a zero point beside each scale: all codes serve the range of the values, widened
            to hold 0. Floating-point formats are symmetric always.
        clipping: which range maps to all codes, within each set of values that share a scale.
        scale: use these scales (shape as in ``Quantised.scale``) instead of choosing them.
        zero_point: beside ``scale``, where not symmetric; whole numbers in the format's range, of its shape.

    The error of a value inside the range is at most scale / 2 (integers); ``fp16``, ``bf16`` and ``fp32`` keep scale 1,
    since they have exponents enough. Raises ``PrecisionError`` for values that are not finite, an axis that does not
    exist, or scales or zero points that do not fit.
    """
    format = Format(format)
    array = np.asarray(values, dtype=np.float32)
    if not np.isfinite(array).all():
        raise PrecisionError(Problem("must be finite: NaN or infinity found", path="values"))
    grid = CodeGrid.of(format, symmetric=symmetric)
    rows, last = as_rows(array, channel_axes, group)
    if scale is None:
        scales, zeros = choose_scales(rows, grid, clipping, last)
    else:
        scales, zeros = _given(rows, grid, scale, zero_point)
    steps = grid.steps(rows, scales[:, :, None], zeros[:, :, None])
    shape = scale_shape(rows, group)
    if format.is_integer:
        row_codes: NDArray[Any] = steps.astype(np.int32) + zeros[:, :, None]
    else:
        row_codes = steps.astype(FLOAT_TYPES[format])
    return Quantised(
        values=as_tensor(steps * scales[:, :, None], array.shape, channel_axes, group),
        scale=scales.reshape(shape),
        zero_point=zeros.reshape(shape),
        codes=as_tensor(row_codes, array.shape, channel_axes, group),
    )


def _given(rows: Array, grid: CodeGrid, scale: ArrayLike, zero_point: ArrayLike | None) -> tuple[Array, Integers]:
    """Check scales and zero points that a caller chose."""
    sets = rows.shape[:2]
    scales, zeros = np.asarray(scale, dtype=np.float32), np.asarray(0 if zero_point is None else zero_point)
    if scales.size != sets[0] * sets[1] or not (scales > 0).all():
        raise PrecisionError(
            Problem("must be positive, one for each set of values that shares it", path="scale",
                    value=f"shape {scales.shape}", allowed=(f"{sets[0]}×{sets[1]}",))
        )
    if zero_point is not None and zeros.size != scales.size:
        raise PrecisionError(
            Problem("must stand one beside each scale", path="zero_point", value=f"shape {zeros.shape}",
                    allowed=(f"{sets[0]}×{sets[1]}",))
        )
    lowest, highest = (0.0, 0.0) if grid.symmetric else (grid.lowest, grid.highest)
    outside = zeros[(zeros < lowest) | (zeros > highest)]
    if outside.size or not np.issubdtype(zeros.dtype, np.integer):
        raise PrecisionError(
            Problem("must be whole numbers, codes of the format, and 0 where values are symmetric", path="zero_point",
                    value=str(outside.flat[0] if outside.size else zeros.dtype), allowed=(f"{lowest:g} … {highest:g}",))
        )
    return scales.reshape(sets), np.broadcast_to(zeros.reshape(-1), scales.size).astype(np.int32).reshape(sets)


def activation_parameters(
    low: float, high: float, format: Format | str, scheme: Scheme = "affine"
) -> AffineParameters:
    """Scale and zero point for activations that lie in ``low`` … ``high``.

    The range is first widened to hold 0, so that padding and ReLU's zeros stay exact. ``affine`` maps it to all codes
    (Jacob et al., arXiv 1712.05877, §2.1); ``symmetric`` maps ±max(−low, high) and keeps the zero point at 0.
    Floating-point formats are symmetric always; the 8-bit ones get a scale that puts the range at their largest value,
    wider ones scale 1. Raises ``PrecisionError`` where the range is empty or not finite.
    """
    format = Format(format)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise PrecisionError(Problem("must be a finite range, low ≤ high", path="range", value=f"{low} … {high}"))
    low, high = min(low, 0.0), max(high, 0.0)
    symmetric = scheme == "symmetric" or not format.is_integer
    lowest, highest = code_range(format, symmetric=symmetric)
    if symmetric:
        scale = float(symmetric_scales(np.asarray(max(-low, high)), CodeGrid.of(format)))
        return AffineParameters(format, scale, 0, lowest, highest)
    scale = float(np.float32((high - low) / (highest - lowest)))
    if scale < SMALLEST_SCALE:
        scale = 1.0
    zero_point = int(min(max(round(lowest - low / scale), lowest), highest))
    return AffineParameters(format, scale, zero_point, lowest, highest)


def quantise_activation(values: ArrayLike, parameters: AffineParameters) -> Quantised:
    """Quantise a tensor with given parameters, as the fake-quantised model does it.

    Raises ``PrecisionError`` for values that are not finite.
    """
    array = np.asarray(values, dtype=np.float32)
    if not np.isfinite(array).all():
        raise PrecisionError(Problem("must be finite: NaN or infinity found", path="values"))
    scale = np.float32(parameters.scale)
    low, high = parameters.lowest - parameters.zero_point, parameters.highest - parameters.zero_point
    if parameters.format.is_integer:
        steps = np.clip(np.rint(array / scale), low, high)
        codes: NDArray[Any] = (steps + parameters.zero_point).astype(np.int32)
    else:
        codes = np.clip(array / scale, low, high).astype(FLOAT_TYPES[parameters.format])
        steps = codes.astype(np.float32)
    return Quantised(steps * scale, np.asarray(scale), np.asarray(parameters.zero_point, np.int32), codes)


def scale_shape(rows: Array, group: int) -> tuple[int, ...]:
    """Shape of ``Quantised.scale`` for values arranged as rows."""
    return {0: (), -1: (len(rows),)}.get(group, rows.shape[:2])


def as_rows(array: Array, channel_axes: tuple[int, ...], group: int) -> tuple[Array, int]:
    """Arrange as [rows, groups, values], and count the values of the last group, which is filled up with zeros.

    Raises ``PrecisionError`` for axes that do not exist.
    """
    if group == 0:
        return array.reshape(1, 1, -1), array.size
    try:
        front = np.moveaxis(array, channel_axes, range(len(channel_axes)))
    except (ValueError, np.exceptions.AxisError) as error:
        raise PrecisionError(
            Problem(f"no such axes in shape {array.shape}", path="channel_axes", value=str(channel_axes))
        ) from error
    rows = front.reshape(math.prod(front.shape[: len(channel_axes)]), -1)
    if group < 0:
        return rows[:, None, :], rows.shape[1]
    groups = -(-rows.shape[1] // group)
    filled = np.pad(rows, ((0, 0), (0, groups * group - rows.shape[1])))
    return filled.reshape(len(rows), groups, group), rows.shape[1] - (groups - 1) * group


def as_tensor(rows: NDArray[Any], shape: tuple[int, ...], channel_axes: tuple[int, ...], group: int) -> NDArray[Any]:
    """Undo ``as_rows``."""
    if group == 0:
        return rows.reshape(shape)
    channels = tuple(axis % len(shape) for axis in channel_axes)
    rest = tuple(axis for axis in range(len(shape)) if axis not in channels)
    flat = rows.reshape(len(rows), -1)[:, : math.prod(shape[axis] for axis in rest)]
    front = flat.reshape(*(shape[axis] for axis in (*channels, *rest)))
    return np.ascontiguousarray(np.moveaxis(front, range(len(channels)), channel_axes))
