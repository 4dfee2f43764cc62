"""RTL of a multiply–accumulate unit for FP8 operands (E4M3 and E5M2, mixed at will) and an FP32 sum.

A product of two FP8 numbers has at most eight significant bits and an exponent well inside that of FP32, so it is
exact. The addition to the sum rounds once, to nearest, ties to even; subnormals, infinities and NaN are those of
IEEE 754. E4M3 has no infinity, and one NaN of each sign (Micikevicius et al., FP8 Formats for Deep Learning, 2022).
One product a cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyrtl

from tests.rtl.wiring import output

SUM_BITS = 32
FRACTION_BITS = 23
EXPONENT_BITS = 8
BIAS = 127
# Significand with its leading one, and guard, round and sticky bit below it.
SIGNIFICAND_BITS = FRACTION_BITS + 1
EXTENDED_BITS = SIGNIFICAND_BITS + 3
QUIET_NAN = 0x7FC00000
# Exponents are added in two's complement, wide enough for all that comes up between the fields.
WORK_BITS = 10


@dataclass(frozen=True)
class Number:
    """An unpacked number: ``significand`` · 2^(``exponent`` - its format's bias - its fraction bits).

    Subnormals have the exponent 1 and no leading one, so that nothing else need know of them.
    """

    sign: pyrtl.WireVector
    exponent: pyrtl.WireVector
    significand: pyrtl.WireVector
    is_infinite: pyrtl.WireVector
    is_nan: pyrtl.WireVector


def build() -> pyrtl.Block:
    """Build the circuit.

    Inputs: ``weight``, ``input``, codes of 8 bits; ``weight_is_e5m2``, ``input_is_e5m2``; ``valid``: there is a
    product in this cycle; ``opens``: it is added to ``preset`` and not to what the unit holds. Output: ``sum``, what
    the unit holds.
    """
    block = pyrtl.Block()
    with pyrtl.set_working_block(block):
        weight, activation = (
            _unpack_fp8(pyrtl.Input(8, name), pyrtl.Input(1, f"{name}_is_e5m2")) for name in ("weight", "input")
        )
        total = pyrtl.Register(SUM_BITS)
        before = pyrtl.select(pyrtl.Input(1, "opens"), pyrtl.Input(SUM_BITS, "preset"), total)
        after = _add(_unpack_fp32(before), _multiply(weight, activation))
        total.next <<= pyrtl.select(pyrtl.Input(1, "valid"), after, total)
        output("sum", total)
    return block


def _unpack_fp8(code: pyrtl.WireVector, is_e5m2: pyrtl.WireVector) -> Number:
    """Unpack to an E5M2-like exponent (bias 15) and a significand of four bits, whichever the format is."""
    e4, m3, e5, m2 = code[3:7], code[:3], code[2:7], code[:2]
    wide, narrow = (_exponent_and_significand(exponent, fraction) for exponent, fraction in ((e5, m2), (e4, m3)))
    # The fraction of E5M2 is a bit shorter; the bias of E4M3 is lower by 8.
    moved = pyrtl.concat(wide[1], pyrtl.Const(0, 1)), (narrow[0] + 8)[:5]
    top_e5, top_e4 = pyrtl.and_all_bits(e5), pyrtl.and_all_bits(code[:7])
    return Number(
        sign=code[7],
        exponent=pyrtl.select(is_e5m2, wide[0], moved[1]),
        significand=pyrtl.select(is_e5m2, moved[0], narrow[1]),
        is_infinite=is_e5m2 & top_e5 & (m2 == 0),
        is_nan=pyrtl.select(is_e5m2, top_e5 & (m2 != 0), top_e4),
    )


def _unpack_fp32(code: pyrtl.WireVector) -> Number:
    field, fraction = code[FRACTION_BITS:-1], code[:FRACTION_BITS]
    exponent, significand = _exponent_and_significand(field, fraction)
    is_top = pyrtl.and_all_bits(field)
    return Number(code[-1], exponent, significand, is_top & (fraction == 0), is_top & (fraction != 0))


def _exponent_and_significand(
    field: pyrtl.WireVector, fraction: pyrtl.WireVector
) -> tuple[pyrtl.WireVector, pyrtl.WireVector]:
    is_normal = field != 0
    return pyrtl.select(is_normal, field, pyrtl.Const(1, len(field))), pyrtl.concat(is_normal, fraction)


def _multiply(left: Number, right: Number) -> Number:
    """Multiply two FP8 numbers, exactly, to one as FP32 unpacks it."""
    product = left.significand * right.significand
    is_zero = product == 0
    zeros = _leading_zeros(product)
    # Both significands count in eighths. With its leading one moved to the top, the product lies in [1, 2) · 2^1
    # before the exponents, less one for each place that it was moved by.
    offset = BIAS - 2 * 15 + 1
    exponent = (left.exponent + right.exponent + offset - zeros)[:WORK_BITS]
    significand = pyrtl.concat(_up(product, zeros), pyrtl.Const(0, SIGNIFICAND_BITS - len(product)))
    is_zero_times_infinity = (left.is_infinite | right.is_infinite) & is_zero
    return Number(
        sign=left.sign ^ right.sign,
        exponent=pyrtl.select(is_zero, pyrtl.Const(1, EXPONENT_BITS), exponent[:EXPONENT_BITS]),
        significand=significand,
        is_infinite=(left.is_infinite | right.is_infinite) & ~is_zero,
        is_nan=left.is_nan | right.is_nan | is_zero_times_infinity,
    )


def _add(left: Number, right: Number) -> pyrtl.WireVector:
    """Add two FP32 numbers with one rounding. Returns the packed sum."""
    magnitude = [pyrtl.concat(number.exponent, number.significand) for number in (left, right)]
    swaps = magnitude[1] > magnitude[0]
    large_exponent, small_exponent = _ordered(swaps, left.exponent, right.exponent)
    large, small = _ordered(swaps, left.significand, right.significand)
    subtracts = left.sign ^ right.sign
    low_bits = pyrtl.Const(0, EXTENDED_BITS - SIGNIFICAND_BITS)
    kept = pyrtl.concat(large, low_bits)
    aligned = _down_with_sticky(small, (large_exponent - small_exponent)[:EXPONENT_BITS])
    # The larger magnitude comes first, so a difference is never negative.
    raw = pyrtl.select(subtracts, kept - aligned, kept + aligned)[: EXTENDED_BITS + 1]
    field, significand = _normalise(raw, large_exponent)
    packed = _round(field, significand)

    is_zero = raw == 0
    sign_of_large = pyrtl.select(swaps, right.sign, left.sign)
    # An exact zero is positive unless both terms were negative zeros.
    sign = pyrtl.select(is_zero, left.sign & right.sign, sign_of_large)
    finite = pyrtl.concat(sign, packed)
    infinity = pyrtl.concat(
        pyrtl.select(left.is_infinite, left.sign, right.sign), pyrtl.Const(2**EXPONENT_BITS - 1, EXPONENT_BITS),
        pyrtl.Const(0, FRACTION_BITS),
    )
    is_nan = left.is_nan | right.is_nan | (left.is_infinite & right.is_infinite & subtracts)
    special = pyrtl.select(is_nan, pyrtl.Const(QUIET_NAN, SUM_BITS), infinity)
    return pyrtl.select(is_nan | left.is_infinite | right.is_infinite, special, finite)


def _ordered(
    swaps: pyrtl.WireVector, first: pyrtl.WireVector, second: pyrtl.WireVector
) -> tuple[pyrtl.WireVector, pyrtl.WireVector]:
    return pyrtl.select(swaps, second, first), pyrtl.select(swaps, first, second)


def _down_with_sticky(significand: pyrtl.WireVector, places: pyrtl.WireVector) -> pyrtl.WireVector:
    """Move a significand right; the lowest of the three bits below it says whether anything fell off."""
    wide = pyrtl.concat(significand, pyrtl.Const(0, EXTENDED_BITS))
    moved = pyrtl.shift_right_logical(wide, places)[: len(wide)]
    upper, lost = moved[EXTENDED_BITS - 2 :], moved[: EXTENDED_BITS - 2]
    near = pyrtl.concat(upper, pyrtl.or_all_bits(lost))
    # A term further below than all three bits is less than a quarter of the last place, whatever the other's leading
    # one does: it does not change what is nearest.
    return pyrtl.select(places < EXTENDED_BITS, near, pyrtl.Const(0, EXTENDED_BITS))


def _normalise(raw: pyrtl.WireVector, exponent: pyrtl.WireVector) -> tuple[pyrtl.WireVector, pyrtl.WireVector]:
    """Bring the leading one to its place: (exponent field, significand with its three low bits).

    A sum too small for that stays where the lowest exponent has it, and its field is 0: a subnormal.
    """
    carried = raw[-1]
    halved = pyrtl.concat(raw[2:], raw[1] | raw[0])
    body = raw[:EXTENDED_BITS]
    zeros = _leading_zeros(body)
    most = (exponent - 1)[:EXPONENT_BITS]
    places = pyrtl.select(zeros.zero_extended(EXPONENT_BITS) > most, most, zeros.zero_extended(EXPONENT_BITS))
    lifted = _up(body, places)
    field = pyrtl.select(lifted[-1], (exponent - places)[:EXPONENT_BITS], pyrtl.Const(0, EXPONENT_BITS))
    return (
        pyrtl.select(carried, (exponent + 1)[:EXPONENT_BITS], field),
        pyrtl.select(carried, halved, lifted),
    )


def _round(field: pyrtl.WireVector, significand: pyrtl.WireVector) -> pyrtl.WireVector:
    """Round to nearest, ties to even, and pack without sign. A carry out of the fraction moves the field by itself."""
    guard, below, is_odd = significand[2], significand[1] | significand[0], significand[3]
    rounded = pyrtl.concat(field, significand[3:-1]) + (guard & (below | is_odd))
    is_overflow = pyrtl.and_all_bits(field)
    largest = pyrtl.concat(field, pyrtl.Const(0, FRACTION_BITS))
    return pyrtl.select(is_overflow, largest, rounded[: SUM_BITS - 1])


def _leading_zeros(wire: pyrtl.WireVector) -> pyrtl.WireVector:
    """Count the zeros above the highest one; all of them where there is none."""
    bits = len(wire).bit_length()
    count: pyrtl.WireVector = pyrtl.Const(len(wire), bits)
    for place in range(len(wire)):
        count = pyrtl.select(wire[place], pyrtl.Const(len(wire) - 1 - place, bits), count)
    return count


def _up(wire: pyrtl.WireVector, places: pyrtl.WireVector) -> pyrtl.WireVector:
    return pyrtl.shift_left_logical(wire, places)[: len(wire)]
