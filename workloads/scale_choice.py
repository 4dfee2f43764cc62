"""Which scale, and which zero point, values get that share them: from their largest magnitude, a percentile, or least
squared error.

Values come as ``rows`` [rows, sets, values]: each set shares a scale and a zero point; a short last set is filled up
with zeros, which no choice here minds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from simulator.errors import PrecisionError, Problem
from simulator.floating import FLOAT_TYPES
from simulator.formats import Format

Array = NDArray[np.float32]
Integers = NDArray[np.int32]

MAX_INTEGER_BITS = 16
# A scale below the smallest normal number would make values / scale overflow.
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
# Steps of the search for least error: shares of the largest magnitude, then least squares with the codes held.
ERROR_SHARES = 64
MOST_REFINEMENTS = 8


@dataclass(frozen=True)
class Clipping:
    """Which values still fit: the largest magnitude (``percentile`` 100), a percentile, or what makes the error least.

    What lies beyond saturates: a coarse error on few values buys a finer step for all others.

    Attributes:
        percentile: of the magnitudes; of weights with a zero point, of both ends.
        minimises_error: least squared error of the values that share a scale, over 64 equal steps of the clipped range
            from all of what ``percentile`` leaves down to 1/64 of it; then the scale of least squares for the codes
            found, up to eight times while it helps. So never worse than not clipping; a local minimum, near the best.

    Raises ``PrecisionError`` unless 0 < percentile ≤ 100.
    """

    percentile: float = 100.0
    minimises_error: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise PrecisionError(
                Problem("must be above 0 and at most 100", path="clipping.percentile", value=str(self.percentile))
            )


MAX_ABS = Clipping()
LEAST_ERROR = Clipping(minimises_error=True)


@dataclass(frozen=True)
class FloatFormat:
    """A floating-point format in numbers: mantissa bits, exponent of the smallest normal, largest finite value."""

    mantissa_bits: int
    smallest_exponent: int
    largest: float


def float_format(format: Format) -> FloatFormat:
    """Mantissa, exponent and range of a floating-point format. Raises ``PrecisionError`` for an integer one."""
    if format.is_integer:
        raise PrecisionError(Problem("is no floating-point format", path="format", value=repr(str(format))))
    info: Any = ml_dtypes.finfo(FLOAT_TYPES[format])  # type: ignore[no-untyped-call]
    return FloatFormat(int(info.nmant), int(info.minexp), float(info.max))


def code_range(format: Format, *, symmetric: bool) -> tuple[float, float]:
    """Lowest and highest code. Symmetric signed integers leave out the lowest one, so that −x is as exact as x.

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


class CodeGrid(NamedTuple):
    """The codes of a format that values are rounded to, with or without a zero point.

    Attributes:
        format: of the codes.
        symmetric: there is no zero point. Floating-point formats never have one.
        lowest, highest: codes.
    """

    format: Format
    symmetric: bool
    lowest: float
    highest: float

    @classmethod
    def of(cls, format: Format, *, symmetric: bool = True) -> CodeGrid:
        """The grid of a format. Raises ``PrecisionError`` for integers wider than 16 bits."""
        without = symmetric or not format.is_integer
        return cls(format, without, *code_range(format, symmetric=without))

    @property
    def has_scale(self) -> bool:
        """Whether scales are chosen: wide floating-point formats have exponents enough, and keep scale 1."""
        return self.format.is_integer or self.format.bits <= 8

    def steps(self, values: Array, scales: Array, zeros: Integers) -> Array:
        """Codes less zero points, as float32: what is multiplied by the scale. All arrays broadcast."""
        with np.errstate(over="ignore"):  # a caller's scale may be far too small: the clip catches infinity
            scaled = values / scales
        if self.format.is_integer:
            # Rounding before the zero point is added keeps zero exact, and ties to even as without one.
            return np.asarray(np.clip(np.rint(scaled), self.lowest - zeros, self.highest - zeros), dtype=np.float32)
        clipped = np.clip(scaled, self.lowest, self.highest)
        return np.asarray(clipped.astype(FLOAT_TYPES[self.format]), dtype=np.float32)


def symmetric_scales(bounds: Array, grid: CodeGrid) -> Array:
    """Step (integers) or scale (8-bit floats) that puts each bound at the end of the range; 1 where all is zero."""
    if not grid.has_scale:
        return np.ones_like(bounds, dtype=np.float32)
    return _usable(np.asarray(bounds, dtype=np.float64) / max(-grid.lowest, grid.highest))


def choose_scales(rows: Array, grid: CodeGrid, clipping: Clipping, last: int | None = None) -> tuple[Array, Integers]:
    """Scale and zero point of each set of ``rows`` [rows, sets, values]: two arrays [rows, sets].

    ``last``: values of the last set that are no filling (all, if not given). Zero points are 0 on symmetric grids; on
    others the range is widened to hold 0, so that zeros stay exact.
    """
    if not grid.has_scale:
        return np.ones(rows.shape[:2], np.float32), np.zeros(rows.shape[:2], np.int32)
    low, high = _ends(rows, clipping.percentile, rows.shape[2] if last is None else last)
    if grid.symmetric:
        if grid.format.is_integer and not grid.format.is_signed:
            bounds = high  # only one sign can be held: the other one must not widen the step
        elif grid.highest == 0:
            bounds = -low
        else:
            bounds = _magnitudes(rows, low, high, clipping.percentile, last)
        scales = symmetric_scales(bounds, grid)
        zeros = np.zeros(scales.shape, np.int32)
    else:
        scales = _usable((high.astype(np.float64) - low) / (grid.highest - grid.lowest))
        nearest = np.rint(grid.lowest - low.astype(np.float64) / scales)
        zeros = np.clip(nearest, grid.lowest, grid.highest).astype(np.int32)
    if clipping.minimises_error:
        scales = _least_error(rows, grid, scales, zeros)
    return scales, zeros


def _usable(scales: NDArray[np.float64]) -> Array:
    narrowed = scales.astype(np.float32)
    return np.where(narrowed >= SMALLEST_SCALE, narrowed, np.float32(1.0))


def _ends(rows: Array, percentile: float, last: int) -> tuple[Array, Array]:
    """Lower and upper end of each set, 0 among them."""
    if percentile == 100:
        return np.minimum(rows.min(axis=2, initial=0), 0), np.maximum(rows.max(axis=2, initial=0), 0)
    low, high = np.nanpercentile(_without_filling(rows, last), [100 - percentile, percentile], axis=2)
    return np.minimum(low, 0).astype(np.float32), np.maximum(high, 0).astype(np.float32)


def _magnitudes(rows: Array, low: Array, high: Array, percentile: float, last: int | None) -> Array:
    if percentile == 100:
        return np.maximum(-low, high)
    kept = _without_filling(np.abs(rows), rows.shape[2] if last is None else last)
    return np.asarray(np.nanpercentile(kept, percentile, axis=2), dtype=np.float32)


def _without_filling(rows: Array, last: int) -> Array:
    """Filling would count among the values of a percentile."""
    kept = rows.copy()
    kept[:, -1, last:] = np.nan
    return kept


def _least_error(rows: Array, grid: CodeGrid, whole: Array, zeros: Integers) -> Array:
    """Scales of least squared error, beginning with those for the whole range (see ``Clipping``)."""
    best = whole
    steps = grid.steps(rows, best[..., None], zeros[..., None])
    least = _squared_error(rows, steps, best)

    def accept(scales: Array) -> bool:
        nonlocal best, least
        error = _squared_error(rows, grid.steps(rows, scales[..., None], zeros[..., None]), scales)
        better = error < least
        best, least = np.where(better, scales, best), np.where(better, error, least)
        return bool(better.any())

    for step in range(ERROR_SHARES - 1, 0, -1):
        accept(_usable(whole.astype(np.float64) * step / ERROR_SHARES))
    for _ in range(MOST_REFINEMENTS):
        steps = grid.steps(rows, best[..., None], zeros[..., None]).astype(np.float64)
        squares = np.einsum("rgv,rgv->rg", steps, steps)
        products = np.einsum("rgv,rgv->rg", steps, rows.astype(np.float64))
        fitted = np.divide(products, squares, out=best.astype(np.float64), where=squares > 0)
        if not accept(_usable(np.maximum(fitted, 0))):
            break
    return best


def _squared_error(rows: Array, steps: Array, scales: Array) -> NDArray[np.float64]:
    difference = rows.astype(np.float64) - steps * scales[..., None]
    return np.asarray(np.einsum("rgv,rgv->rg", difference, difference))
