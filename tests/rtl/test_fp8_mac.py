"""The FP8 unit in RTL is what ml_dtypes and NumPy's float32 say, bit for bit, rounding and special values included.

And it is what the simulator's ``floating_point`` element says, in values, their one NaN too, and in cycles.
``float32`` is the oracle of the addition: the product of two FP8 numbers is exact in it, so multiplying and then
adding rounds once, as the unit does.
"""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from simulator.precision import LayerPrecision
from simulator.processing_elements import FloatingPointElement
from tests.rtl import fp8_mac
from tests.rtl.bench import Clock, predict_on_one_unit

FORMATS = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
ELEMENT = FloatingPointElement(energy_pj_per_cycle=0.0, operand_formats=("fp8_e4m3", "fp8_e5m2"))
Pair = tuple[str, str]
PAIRS: list[Pair] = list(itertools.product(FORMATS, repeat=2))
# Zeros, smallest and largest subnormals, smallest and largest normals, ones, infinities (or what E4M3 has there), NaN.
SPECIAL_FP8 = {
    "e4m3": [0x00, 0x01, 0x07, 0x08, 0x38, 0x77, 0x78, 0x7E, 0x7F],
    "e5m2": [0x00, 0x01, 0x03, 0x04, 0x3C, 0x77, 0x7B, 0x7C, 0x7D, 0x7E, 0x7F],
}
SPECIAL_FP32 = [
    0x00000000, 0x00000001, 0x00000003, 0x007FFFFF, 0x00800000, 0x00800001, 0x3F7FFFFF, 0x3F800000, 0x3F800001,
    0x4B7FFFFF, 0x4B800000, 0x7F000000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000,
]


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock(fp8_mac.build())


def all_pairs(*choices: list[int]) -> list[np.ndarray]:
    """Every combination of one of each, as an array for each."""
    return [np.array(column) for column in zip(*itertools.product(*choices), strict=True)]


def both_signs(codes: list[int], sign: int) -> list[int]:
    return codes + [code | sign for code in codes]


def values(codes: np.ndarray, name: str) -> np.ndarray:
    """FP8 codes as float32, which holds them all."""
    return codes.astype(np.uint8).view(FORMATS[name]).astype(np.float32)


def added(totals: np.ndarray, weights: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """One multiplication and one addition, all in float32."""
    with np.errstate(all="ignore"):
        return (totals + (weights * inputs).astype(np.float32)).astype(np.float32)


def held_sums(
    clock: Clock, pair: Pair, weights: np.ndarray, inputs: np.ndarray, presets: np.ndarray, opens: np.ndarray
) -> np.ndarray:
    """What the unit holds after each product, one a cycle, as FP32 codes. The first product must open a sum."""
    formats = {"weight_is_e5m2": int(pair[0] == "e5m2"), "input_is_e5m2": int(pair[1] == "e5m2"), "valid": 1}
    held = []
    for weight, activation, preset, is_first in zip(weights, inputs, presets, opens, strict=True):
        ports = {"weight": int(weight), "input": int(activation), "preset": int(preset), "opens": int(is_first)}
        clock.cycle(formats | ports)
        held.append(clock.seen("sum"))
    clock.cycle({})
    # The sum of a cycle's product shows in the next cycle.
    return np.array([*held[1:], clock.seen("sum")], dtype=np.uint32)


def check_equal(held: np.ndarray, expected: np.ndarray) -> None:
    """Compare bits. Which NaN it is differs between processors; that it is one does not."""
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(held.view(np.float32)), is_nan)
    np.testing.assert_array_equal(held[~is_nan], expected.view(np.uint32)[~is_nan])


def check_each(clock: Clock, pair: Pair, weights: np.ndarray, inputs: np.ndarray, presets: np.ndarray) -> None:
    """Add every product to a preset of its own."""
    presets = presets.astype(np.uint32)
    held = held_sums(clock, pair, weights, inputs, presets, np.ones_like(weights))
    check_equal(held, added(presets.view(np.float32), values(weights, pair[0]), values(inputs, pair[1])))


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_long_sums(clock: Clock, pair: Pair) -> None:
    """Random finite operands: the sum grows and cancels, and most additions round."""
    rng = np.random.default_rng([19, *"".join(pair).encode()])
    finite = [np.flatnonzero(np.isfinite(values(np.arange(256), name))) for name in pair]
    for length in rng.integers(1, 200, size=20):
        weights, inputs = (rng.choice(codes, size=length) for codes in finite)
        zeros = np.zeros(length, dtype=np.int64)
        held = held_sums(clock, pair, weights, inputs, presets=zeros, opens=np.arange(length) == 0)
        total, expected = np.float32(0), []
        for weight, activation in zip(values(weights, pair[0]), values(inputs, pair[1]), strict=True):
            total = added(total, weight, activation)
            expected.append(total)
        check_equal(held, np.array(expected, dtype=np.float32))


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_code_with_every_special_one(clock: Clock, pair: Pair) -> None:
    """Exact products: each is added to zero."""
    weights, inputs = all_pairs(list(range(256)), both_signs(SPECIAL_FP8[pair[1]], 0x80))
    check_each(clock, pair, weights, inputs, np.zeros_like(weights))


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_special_sums(clock: Clock, pair: Pair) -> None:
    operands = [both_signs(SPECIAL_FP8[name], 0x80) for name in pair]
    presets, weights, inputs = all_pairs(both_signs(SPECIAL_FP32, 0x80000000), operands[0], operands[1][::3])
    check_each(clock, pair, weights, inputs, presets)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_sums_near_a_product(clock: Clock, pair: Pair) -> None:
    """Presets with any fraction and an exponent around the product's: alignment, cancellation, ties."""
    rng, count = np.random.default_rng([23, *"".join(pair).encode()]), 3000
    weights, inputs = rng.integers(256, size=(2, count))
    products = added(np.zeros(count, np.float32), values(weights, pair[0]), values(inputs, pair[1]))
    fields = (products.view(np.uint32) >> 23 & 0xFF).astype(np.int64)
    near = np.clip(fields + rng.integers(-30, 31, size=count), 0, 255)
    # A few set bits side by side make ties and near ties likely.
    few_bits = rng.integers(4, size=count) << rng.integers(22, size=count)
    fractions = np.where(rng.random(count) < 0.5, rng.integers(1 << 23, size=count), few_bits)
    check_each(clock, pair, weights, inputs, rng.integers(2, size=count) << 31 | near << 23 | fractions)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_ties_go_to_even(clock: Clock, pair: Pair) -> None:
    """Half a unit in the last place, on sums whose last bit is even and odd, from either side."""
    one = {"e4m3": 0x38, "e5m2": 0x3C}
    # 2^24 + 1 is halfway between two FP32 numbers; so is 2^25 - 1, where the sum's exponent would grow.
    halfway = np.array([0x4B800000, 0x4B800001, 0x4B800002, 0x4BFFFFFE, 0x4BFFFFFF])
    presets, weights, signs = all_pairs([*halfway, *(halfway | 1 << 31)], [one[pair[0]]], [0, 0x80])
    check_each(clock, pair, weights, one[pair[1]] | signs, presets)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_carries_round_with_all_that_fell_off(clock: Clock, pair: Pair) -> None:
    """Significands near 2 on both sides: the sum grows by a place, and bits far below its last one decide."""
    largest = {"e4m3": [0x3E, 0x3F], "e5m2": [0x3E, 0x3F]}
    lifts, low_bits, weights, inputs = all_pairs(
        list(range(-4, 27)), list(range(32)), largest[pair[0]], largest[pair[1]]
    )
    presets = (127 + 1 + lifts << 23) | 0x7FFFE0 | low_bits
    check_each(clock, pair, weights, inputs, presets)


def test_it_holds_its_sum_without_operands(clock: Clock) -> None:
    one = {"weight": 0x38, "input": 0x38, "valid": 1}
    clock.cycle(one | {"opens": 1})
    for _ in range(3):
        clock.cycle({})
        assert clock.seen("sum") == 0x3F800000
    clock.cycle(one)
    clock.cycle({})
    assert clock.seen("sum") == 0x40000000


def simulated(pair: Pair) -> LayerPrecision:
    return LayerPrecision(weight=f"fp8_{pair[0]}", input=f"fp8_{pair[1]}", accumulator="fp32", output="fp32")


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_the_element_adds_as_the_unit_does(clock: Clock, pair: Pair) -> None:
    """Any codes, on presets of any kind: half of them near the product, a fourth special, the rest anything."""
    rng, count = np.random.default_rng([31, *"".join(pair).encode()]), 2000
    weights, inputs = rng.integers(256, size=(2, count))
    near = rng.integers(112, 142, size=count) << 23 | rng.integers(1 << 23, size=count)
    special = rng.choice(both_signs(SPECIAL_FP32, 0x80000000), size=count)
    kind = rng.random(count)
    presets = np.where(kind < 0.5, near, np.where(kind < 0.75, special, rng.integers(1 << 32, size=count)))
    held = held_sums(clock, pair, weights, inputs, presets, np.ones(count, dtype=np.int64))
    products = ELEMENT.dot(weights[:, np.newaxis], inputs[:, np.newaxis], simulated(pair))
    np.testing.assert_array_equal(held, ELEMENT.add(presets.tolist(), products.tolist(), simulated(pair)))


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_matrix_products_have_the_simulator_s_values_and_cycles(clock: Clock, pair: Pair) -> None:
    rng = np.random.default_rng([37, *"".join(pair).encode()])
    finite = [np.flatnonzero(np.isfinite(values(np.arange(256), name))) for name in pair]
    for _ in range(6):
        rows, columns, depth = (int(size) for size in rng.integers(1, (4, 4, 40)))
        weights, inputs = (
            rng.choice(codes, size=(outputs, depth)) for codes, outputs in zip(finite, (columns, rows), strict=True)
        )
        products = [(weight, activation) for activation in inputs for weight in weights]
        flat = [np.concatenate(column) for column in zip(*products, strict=True)]
        opens = np.tile(np.arange(depth) == 0, len(products)).astype(np.int64)
        held = held_sums(clock, pair, *flat, np.zeros_like(opens), opens)
        sums = held[depth - 1 :: depth].reshape(rows, columns)
        expected = predict_on_one_unit(ELEMENT, simulated(pair), weights, inputs)
        np.testing.assert_array_equal(sums, expected.outputs)
        # The unit took a product in every cycle, and the last sum stood in its register in the cycle after them.
        assert expected.cycles == len(held)
