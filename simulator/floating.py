"""Floating-point codes and the real numbers that they stand for.

A *code* is the bit pattern of a value, as a whole number. Values are handled as float64, which holds every value of
every format here exactly, and the exact product of any two (at most 24 + 24 significant bits of its 53). A sum of two
values of one format, computed in float64 and then rounded to that format, is the correctly rounded sum: float64 has
more than twice as many significant bits and two more (S. A. Figueroa, "When is double rounding innocuous?", ACM
SIGNUM Newsletter 30(3), 1995), and sums in the range of subnormals are exact.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from simulator.formats import Format

Codes = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

FLOAT_TYPES: dict[str, Any] = {
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e4m3_ieee": ml_dtypes.float8_e4m3,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp32": np.float32,
}
"""The array type of each format: NumPy's, or that of ``ml_dtypes``."""

NAN_CODES: dict[str, int] = {
    "fp8_e4m3": 0x7F, "fp8_e4m3_ieee": 0x7C, "fp8_e5m2": 0x7E, "fp16": 0x7E00, "bf16": 0x7FC0, "fp32": 0x7FC00000,
}
"""The one NaN that arithmetic gives: quiet, positive, without payload. Processors differ in which one they give."""

_WITHOUT_INFINITY = ("fp8_e4m3",)
_CODE_TYPES = {8: np.uint8, 16: np.uint16, 32: np.uint32}


def decode(codes: npt.ArrayLike, number_format: Format) -> Reals:
    """Values of codes of a floating-point format; infinities and NaN are those of float64, every NaN a quiet one."""
    stored = np.asarray(codes).astype(_CODE_TYPES[number_format.bits]).view(FLOAT_TYPES[number_format])
    # A signalling NaN raises a flag in the processor where it is used; here a NaN is a value like any other.
    with np.errstate(invalid="ignore"):
        values = stored.astype(np.float64)
    return np.where(np.isnan(values), np.nan, values)


def rounded(values: Reals, number_format: Format) -> Reals:
    """Round to the nearest value of a format, ties to even; beyond its largest finite one, to an infinity.

    The sign of a zero is kept. An infinity stands for overflow also where the format has none: ``encode`` decides.
    """
    limits = _limits(number_format)
    exponents = np.frexp(values)[1] - 1
    # Below the smallest normal number the distance of neighbours stays what it is there.
    last_place = np.maximum(exponents, limits.minexp) - limits.nmant
    nearest: Reals = np.ldexp(np.rint(np.ldexp(values, -last_place)), last_place)
    return np.where(np.abs(nearest) > float(limits.max), np.copysign(np.inf, nearest), nearest)


def flushed(values: Reals, number_format: Format) -> Reals:
    """Replace subnormal values of a format by the zero of their sign."""
    return np.where(np.abs(values) < smallest_normal(number_format), np.copysign(0.0, values), values)


def encode(values: Reals, number_format: Format, *, saturates: bool = False) -> Codes:
    """Codes of values that ``rounded`` has rounded to the format.

    ``saturates``: infinities become the largest finite value of their sign. Otherwise they stay, or become NaN in a
    format without infinities (OCP 8-bit Floating Point Specification 1.0: saturating and non-saturating conversion).
    """
    if saturates:
        largest = largest_finite(number_format)
        values = np.clip(values, -largest, largest)
    elif number_format in _WITHOUT_INFINITY:
        values = np.where(np.isinf(values), np.nan, values)
    is_nan = np.isnan(values)
    stored = np.where(is_nan, 0.0, values).astype(FLOAT_TYPES[number_format])
    codes = stored.view(_CODE_TYPES[number_format.bits]).astype(np.int64)
    return np.where(is_nan, NAN_CODES[number_format], codes)


def largest_finite(number_format: Format) -> float:
    """Largest finite value of a floating-point format."""
    return float(_limits(number_format).max)


def smallest_normal(number_format: Format) -> float:
    """Smallest positive value of a floating-point format that is not subnormal."""
    return float(_limits(number_format).smallest_normal)


def mantissa_bits(number_format: Format) -> int:
    """Bits of a floating-point format's significand behind the point."""
    return int(_limits(number_format).nmant)


def _limits(number_format: Format) -> Any:
    return ml_dtypes.finfo(FLOAT_TYPES[number_format])  # type: ignore[no-untyped-call]
