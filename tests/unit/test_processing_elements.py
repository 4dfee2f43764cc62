"""Every PE multiplies right at every width, and takes as long as its sources say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from simulator.errors import PrecisionError
from simulator.formats import Format
from simulator.precision import LayerPrecision
from simulator.processing_elements import (
    BitFusionElement,
    BitSerialElement,
    FixedElement,
    ProcessingElement,
)
from simulator.processing_elements.base import signed_digits

FIXED = FixedElement(energy_pj_per_cycle=1.0, operand_bits=16)
FUSION = BitFusionElement(energy_pj_per_cycle=1.0)
FUSION_FROM_1_BIT = BitFusionElement(energy_pj_per_cycle=1.0, max_bits=4, min_bits=1)
STRIPES = BitSerialElement(energy_pj_per_cycle=1.0, serial_operands=("input",))
UNPU = BitSerialElement(energy_pj_per_cycle=1.0, serial_operands=("weight",), digit_bits=2)
LOOM = BitSerialElement(energy_pj_per_cycle=1.0, serial_operands=("weight", "input"))
BISMO = BitSerialElement(
    energy_pj_per_cycle=1.0, serial_operands=("input", "weight"), digit_bits=3, min_bits=4,
    width_rounding="power_of_two",
)
ALL = {
    "fixed": FIXED, "fusion": FUSION, "fusion_from_1_bit": FUSION_FROM_1_BIT, "stripes": STRIPES, "unpu": UNPU,
    "loom": LOOM, "bismo": BISMO,
}


def precision(weight: str, activation: str) -> LayerPrecision:
    return LayerPrecision(weight=Format(weight), input=Format(activation))


def w_a(weight_bits: int, input_bits: int) -> LayerPrecision:
    return precision(f"int{weight_bits}", f"int{input_bits}")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("signs", list(itertools.product(("int", "uint"), repeat=2)), ids="-".join)
def test_dot_is_the_sum_of_products(name: str, signs: tuple[str, str]) -> None:
    element: ProcessingElement = ALL[name]
    rng = np.random.default_rng(7)
    for weight_bits in element.allowed_bits("weight"):
        for input_bits in element.allowed_bits("input"):
            formats = precision(f"{signs[0]}{weight_bits}", f"{signs[1]}{input_bits}")
            (w_low, w_high), (i_low, i_high) = formats.weight.integer_range, formats.input.integer_range
            weights = rng.integers(w_low, w_high, size=(5, 6), endpoint=True)
            inputs = rng.integers(i_low, i_high, size=(5, 6), endpoint=True)
            # The corners of the ranges, where signs go wrong, stand in the first row.
            weights[0, :4], inputs[0, :4] = (w_low, w_low, w_high, w_high), (i_low, i_high, i_low, i_high)
            np.testing.assert_array_equal(
                element.dot(weights, inputs, formats), (weights * inputs).sum(axis=-1), err_msg=formats.label
            )


@pytest.mark.parametrize("is_signed", [True, False])
def test_digits_rebuild_their_number(is_signed: bool) -> None:
    codes = np.arange(-128, 128) if is_signed else np.arange(256)
    for digit_bits in (1, 2, 3, 8):
        digits = signed_digits(codes, digit_bits, -(-8 // digit_bits), is_signed)
        rebuilt = sum(digit << (place * digit_bits) for place, digit in enumerate(digits))
        np.testing.assert_array_equal(rebuilt, codes)
        if not is_signed:
            assert digits.min() >= 0 and digits.max() < 1 << digit_bits


def test_fixed_takes_one_cycle_at_any_width() -> None:
    for weight_bits, input_bits in itertools.product(range(1, 17), repeat=2):
        assert FIXED.lanes(w_a(weight_bits, input_bits)) == 1
        assert FIXED.cycles_per_step(w_a(weight_bits, input_bits)) == 1


def test_bit_fusion_joins_sixteen_bricks() -> None:
    """Sharma et al., ISCA 2018: 16 / (⌈a/2⌉ · ⌈w/2⌉) products for widths that round up to 2, 4 and 8."""
    for weight_bits, input_bits in itertools.product((2, 4, 8), repeat=2):
        formats = w_a(weight_bits, input_bits)
        assert FUSION.lanes(formats) == 16 // (-(-input_bits // 2) * -(-weight_bits // 2))
        assert FUSION.cycles_per_step(formats) == 1
    rounded = {1: 2, 2: 2, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8}
    for weight_bits, input_bits in itertools.product(rounded, repeat=2):
        same = w_a(rounded[weight_bits], rounded[input_bits])
        assert FUSION.lanes(w_a(weight_bits, input_bits)) == FUSION.lanes(same)


@pytest.mark.parametrize(("weight_bits", "input_bits", "cycles", "lanes"), [
    (8, 8, 1, 1), (16, 8, 2, 1), (8, 16, 2, 1), (16, 16, 4, 1), (9, 16, 4, 1), (16, 2, 2, 4), (4, 16, 2, 2),
])
def test_bit_fusion_takes_several_passes_beyond_eight_bits(
    weight_bits: int, input_bits: int, cycles: int, lanes: int
) -> None:
    formats = w_a(weight_bits, input_bits)
    assert (FUSION.cycles_per_step(formats), FUSION.lanes(formats)) == (cycles, lanes)


def test_one_serial_operand_takes_its_digits() -> None:
    for weight_bits, input_bits in itertools.product(range(1, 17), repeat=2):
        formats = w_a(weight_bits, input_bits)
        assert STRIPES.cycles_per_step(formats) == input_bits
        assert UNPU.cycles_per_step(formats) == -(-weight_bits // 2)
        assert STRIPES.lanes(formats) == 16


def test_two_serial_operands_multiply() -> None:
    for weight_bits, input_bits in itertools.product(range(1, 17), repeat=2):
        assert LOOM.cycles_per_step(w_a(weight_bits, input_bits)) == weight_bits * input_bits


@pytest.mark.parametrize(("bits", "digits"), [(1, 2), (4, 2), (5, 3), (8, 3), (9, 6), (16, 6)])
def test_control_may_round_widths(bits: int, digits: int) -> None:
    """Widths round up to at least ``min_bits`` = 4 and to a power of two, then to whole digits of 3 bits."""
    assert BISMO.digits(bits) == digits
    assert BISMO.cycles_per_step(w_a(bits, 4)) == digits * 2


@pytest.mark.parametrize(("element", "formats", "path"), [
    (FixedElement(energy_pj_per_cycle=1.0, operand_bits=8), precision("int9", "int8"), "precision.weight"),
    (FUSION, precision("int8", "int17"), "precision.input"),
    (LOOM, precision("fp16", "int8"), "precision.weight"),
    (STRIPES, LayerPrecision(accumulator=Format("fp32")), "precision.accumulator"),
])
def test_a_format_that_does_not_run_is_named(
    element: ProcessingElement, formats: LayerPrecision, path: str
) -> None:
    with pytest.raises(PrecisionError) as caught:
        element.check(formats)
    assert [problem.path for problem in caught.value.problems] == [path]


def test_bit_fusion_widths_are_powers_of_two() -> None:
    with pytest.raises(ValueError, match="max_bits=6: must be a power of two"):
        BitFusionElement(energy_pj_per_cycle=1.0, max_bits=6)
    with pytest.raises(ValueError, match="must not exceed max_bits"):
        BitFusionElement(energy_pj_per_cycle=1.0, max_bits=2, min_bits=4)


def test_a_serial_operand_stands_once() -> None:
    with pytest.raises(ValueError, match="must not repeat"):
        BitSerialElement(energy_pj_per_cycle=1.0, serial_operands=("input", "input"))
