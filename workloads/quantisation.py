"""Quantisers: real values to the codes of a number format, and back.

One interface for all formats: ``quantise(values, format, …)`` picks a scale from the values, or takes one,
    and
returns the codes, the scale and the values that the codes stand for. Integers of any width from 1 to 16
bits are rounded to nearest, ties to even (as ONNX and IEEE 754 do); floating-point formats are clipped to
their largest finite value and then cast by ``ml_dtypes`` (the cast alone would turn 500 into NaN in
``fp8_e4m3``). Weights are symmetric (zero is code 0), with one scale a tensor, an output channel, or a
group of consecutive weights of a channel; activations have one scale a tensor, and a zero point unless they
are asked to be symmetric.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.errors import PrecisionError, Problem
from simulator.floating import FLOAT_TYPES
from simulator.formats import Format

Array = NDArray[np.float32]
Scheme = Literal["affine", "symmetric"]

MAX_INTEGER_BITS = 16
# A scale below the smallest normal number would make values / scale overflow.
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Clipping:
    """Which values still fit: the largest magnitude (``percentile`` 100), or a percentile of the magnitudes.

    What lies beyond saturates: a coarse error on few values buys a finer step for all others.
    Raises ``PrecisionError`` unless 0 < percentile ≤ 100.
    """

    percentile: float = 100.0

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise PrecisionError(
                Problem("must be above 0 and at most 100", path="clipping.percentile", value=str(self.percentile))
            )


MAX_ABS = Clipping()


@dataclass(frozen=True)
class FloatFormat:
    """A floating-point format in numbers: mantissa bits, exponent of the smallest normal, largest finite value."""

    mantissa_bits: int
    smallest_exponent: int
    largest: float


@dataclass(frozen=True)
class AffineParameters:
    """How one tensor maps to codes: ``code = clip(round(value / scale) + zero_point, lowest, highest)``.

    For floating-point formats ``code`` is the number itself, ``zero_point`` is 0 and rounding is the
    format's.
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
        scale: float32; 0-d for one scale a tensor, [channels] for one a channel, [channels, groups] for
            groups.
        zero_point: code of the value 0 (0 for weights and for floating-point formats).
        codes: int32 for integer formats, an ``ml_dtypes`` or NumPy float array otherwise; the shape of the
            input.
    """

    values: Array
    scale: Array
    zero_point: int
    codes: NDArray[Any]


def float_format(format: Format) -> FloatFormat:
    """Mantissa, exponent and range of a floating-point format. Raises ``PrecisionError`` for an integer one."""
    if format.is_integer:
        raise PrecisionError(Problem("is no floating-point format", path="format", value=repr(str(format))))
    info: Any = ml_dtypes.finfo(FLOAT_TYPES[format])  # type: ignore[no-untyped-call]
    return FloatFormat(int(info.nmant), int(info.minexp), float(info.max))


def code_range(format: Format, *, symmetric: bool) -> tuple[float, float]:
    """Lowest and highest code. Symmetric signed integers leave out the lowest one, so that −x is as exact
    as x.

    ``int1`` has the codes −1 and 0 (two's complement), and keeps both.
    Raises ``PrecisionError`` for integers wider than 16 bits, which are for accumulators.
    """
    if not format.is_integer:
        largest = float_format(format).largest
        return -largest, largest
    if format.bits > MAX_INTEGER_BITS:
        raise PrecisionError(
            Problem("is for accumulators: operands have at most 16 bits", path="format", value=repr(str(format)))
        )
    lowest, highest = format.integer_range
    if symmetric and format.is_signed and highest > 0:
        lowest = -highest
    return float(lowest), float(highest)


def quantise(
    values: ArrayLike,
    format: Format | str,
    *,
    channel_axes: tuple[int, ...] = (),
    group: int = 0,
    clipping: Clipping = MAX_ABS,
    scale: ArrayLike | None = None,
) -> Quantised:
    """Quantise symmetrically: ``code = clip(round(value / scale))``, ``values = code · scale``.

    Args:
        values: any shape, finite. Unsigned formats turn negative values into 0.
        format: integer of 1 to 16 bits, or a floating-point format.
        channel_axes: axes that number output channels; together they are the rows that get scales of their
            own.
        group: 0 one scale a tensor, -1 one a channel, g > 0 one for each g consecutive values of a channel
            (in the order of the remaining axes; the last group of a channel may be shorter).
        clipping: which magnitude maps to the highest code, within each set of values that share a scale.
        scale: use these scales (shape as in ``Quantised.scale``) instead of choosing them.

    The error of a value inside the range is at most scale / 2 (integers); ``fp16``, ``bf16`` and ``fp32``
    keep scale 1, since they have exponents enough. Raises ``PrecisionError`` for values that are not
    finite, an axis that does not exist, or a scale of the wrong shape.
    """
    format = Format(format)
    array = np.asarray(values, dtype=np.float32)
    if not np.isfinite(array).all():
        raise PrecisionError(Problem("must be finite: NaN or infinity found", path="values"))
    lowest, highest = code_range(format, symmetric=True)
    rows = _as_rows(array, channel_axes, group)
    if scale is None:
        scales = _choose_scales(rows, format, clipping)
    else:
        scales = np.asarray(scale, dtype=np.float32)
        if scales.size != rows.shape[0] * rows.shape[1] or not (scales > 0).all():
            raise PrecisionError(
                Problem("must be positive, one for each set of values that shares it", path="scale",
                        value=f"shape {scales.shape}", allowed=(f"{rows.shape[0]}×{rows.shape[1]}",))
            )
        scales = scales.reshape(rows.shape[:2])
    with np.errstate(over="ignore"):  # a caller's scale may be far too small: the clip catches infinity
        scaled = np.clip(rows / scales[:, :, None], lowest, highest)
    if format.is_integer:
        scaled = np.rint(scaled)
        row_codes: NDArray[Any] = scaled.astype(np.int32)
    else:
        row_codes = scaled.astype(FLOAT_TYPES[format])
        scaled = row_codes.astype(np.float32)
    shape = {0: (), -1: (len(rows),)}.get(group, rows.shape[:2])
    return Quantised(
        values=_as_tensor(scaled * scales[:, :, None], array.shape, channel_axes, group),
        scale=scales.reshape(shape),
        zero_point=0,
        codes=_as_tensor(row_codes, array.shape, channel_axes, group),
    )


def activation_parameters(
    low: float, high: float, format: Format | str, scheme: Scheme = "affine"
) -> AffineParameters:
    """Scale and zero point for activations that lie in ``low`` … ``high``.

    The range is first widened to hold 0, so that padding and ReLU's zeros stay exact. ``affine`` maps it to
    all codes (Jacob et al., arXiv 1712.05877, §2.1); ``symmetric`` maps ±max(−low, high) and keeps the zero
    point at 0. Floating-point formats are symmetric always; the 8-bit ones get a scale that puts the range
    at their largest value, wider ones scale 1. Raises ``PrecisionError`` where the range is empty or not
    finite.
    """
    format = Format(format)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise PrecisionError(Problem("must be a finite range, low ≤ high", path="range", value=f"{low} … {high}"))
    low, high = min(low, 0.0), max(high, 0.0)
    symmetric = scheme == "symmetric" or not format.is_integer
    lowest, highest = code_range(format, symmetric=symmetric)
    if symmetric:
        return AffineParameters(format, _symmetric_scale(max(-low, high), format), 0, lowest, highest)
    scale = float(np.float32((high - low) / (highest - lowest)))
    if scale < _SMALLEST_SCALE:
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
    return Quantised(steps * scale, np.asarray(scale), parameters.zero_point, codes)


def _symmetric_scale(bound: float, format: Format) -> float:
    """Step (integers) or scale (8-bit floats) that puts ``bound`` at the end of the range; 1 where all is zero."""
    if not format.is_integer and format.bits > 8:
        return 1.0
    lowest, highest = code_range(format, symmetric=True)
    scale = float(np.float32(bound / max(-lowest, highest)))
    return scale if scale >= _SMALLEST_SCALE else 1.0


def _choose_scales(rows: Array, format: Format, clipping: Clipping) -> Array:
    """One scale for each [row, group] of ``rows`` [rows, groups, values]; padding is NaN-free zeros."""
    magnitudes = np.abs(rows)
    if format.is_integer and (not format.is_signed or format.bits == 1):
        # Only one sign can be held: the other one must not widen the step.
        magnitudes = np.maximum(-rows if format.is_signed else rows, 0)
    if clipping.percentile == 100:
        bounds = magnitudes.max(axis=2, initial=0)
    else:
        bounds = np.percentile(magnitudes, clipping.percentile, axis=2)
    flat = [_symmetric_scale(float(bound), format) for bound in bounds.ravel()]
    return np.asarray(flat, dtype=np.float32).reshape(bounds.shape)


def _as_rows(array: Array, channel_axes: tuple[int, ...], group: int) -> Array:
    """Arrange as [rows, groups, values]; a short last group is filled with zeros, which never move a maximum."""
    if group == 0:
        return array.reshape(1, 1, -1)
    try:
        front = np.moveaxis(array, channel_axes, range(len(channel_axes)))
    except (ValueError, np.exceptions.AxisError) as error:
        raise PrecisionError(
            Problem(f"no such axes in shape {array.shape}", path="channel_axes", value=str(channel_axes))
        ) from error
    rows = front.reshape(math.prod(front.shape[: len(channel_axes)]), -1)
    if group < 0:
        return rows[:, None, :]
    groups = -(-rows.shape[1] // group)
    filled = np.pad(rows, ((0, 0), (0, groups * group - rows.shape[1])))
    return filled.reshape(len(rows), groups, group)


def _as_tensor(rows: NDArray[Any], shape: tuple[int, ...], channel_axes: tuple[int, ...], group: int) -> NDArray[Any]:
    """Undo ``_as_rows``."""
    if group == 0:
        return rows.reshape(shape)
    channels = tuple(axis % len(shape) for axis in channel_axes)
    rest = tuple(axis for axis in range(len(shape)) if axis not in channels)
    flat = rows.reshape(len(rows), -1)[:, : math.prod(shape[axis] for axis in rest)]
    front = flat.reshape(*(shape[axis] for axis in (*channels, *rest)))
    return np.ascontiguousarray(np.moveaxis(front, range(len(channels)), channel_axes))
