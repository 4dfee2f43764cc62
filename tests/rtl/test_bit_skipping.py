"""Units that skip bits, in RTL, give the products, the values and the cycles of the simulator's."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.formats import Format
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitSparseElement
from tests.rtl.bench import (
    Clock,
    Results,
    dot_product_steps,
    pack,
    predict_on_one_unit,
    random_codes,
    run_dot_products,
)
from tests.rtl.bit_skipping import SkippingUnit

UNITS = {
    "pragmatic": SkippingUnit("zero_bits", lanes=16, magnitude=True),
    "pragmatic_twos_complement": SkippingUnit("zero_bits", lanes=3, magnitude=False, pipeline=1),
    "two_stages_of_1": SkippingUnit("two_stage", lanes=4, magnitude=False, reach=1),
    "two_stages_of_2": SkippingUnit("two_stage", lanes=5, magnitude=True, reach=2, pipeline=2),
    "two_stages_of_4": SkippingUnit("two_stage", lanes=16, magnitude=True, reach=4),
    "bitwave": SkippingUnit("zero_columns", lanes=8, magnitude=True),
    "columns_of_twos_complement": SkippingUnit("zero_columns", lanes=2, magnitude=False, pipeline=1),
    "dynamic_stripes": SkippingUnit("leading_bits", lanes=4, magnitude=False),
    "widths_of_magnitudes": SkippingUnit("leading_bits", lanes=3, magnitude=True, operand_bits=6, pipeline=1),
}
CASES_PER_UNIT = 16


def element(unit: SkippingUnit) -> BitSparseElement:
    """The simulator's description of a unit: its inputs are what it sends bit by bit."""
    return BitSparseElement(
        energy_pj_per_cycle=0.0, serial_operands=("input",), skipped_operands=("input",),
        skipping="zero_bits" if unit.mode == "two_stage" else unit.mode,
        encoding="sign_magnitude" if unit.magnitude else "twos_complement",
        first_stage_bits=unit.reach.bit_length() - 1 if unit.mode == "two_stage" else None,
        lane_count=unit.lanes, max_bits=unit.operand_bits, pipeline_cycles=unit.pipeline,
    )


def sparse_codes(rng: np.random.Generator, number_format: Format, shape: tuple[int, int]) -> np.ndarray:
    """Codes of any magnitude, many of them small or zero."""
    codes = random_codes(rng, number_format, shape) // (1 << rng.integers(0, number_format.bits, size=shape))
    return np.where(rng.random(shape) < 0.3, 0, codes)


def run(
    unit: SkippingUnit, clock: Clock, precision: LayerPrecision, weights: np.ndarray, inputs: np.ndarray
) -> Results:
    settings = {"weight_signed": int(precision.weight.is_signed), "input_signed": int(precision.input.is_signed)}
    steps = [
        step | {name: pack(step[name], unit.operand_bits) for name in ("weights", "inputs")}
        for step in dot_product_steps(weights, inputs, unit.lanes)
    ]
    return run_dot_products(clock, settings, steps)


@pytest.mark.parametrize("name", UNITS)
def test_skipping_unit_is_as_the_simulator_says(name: str) -> None:
    """Compared: cycles from the first operand at the ports to the last sum in the accumulator, and every sum."""
    unit = UNITS[name]
    clock = Clock(unit.build())
    rng = np.random.default_rng([9, *name.encode()])
    for _ in range(CASES_PER_UNIT):
        weight, activation = (Format(f"{rng.choice(['int', 'uint'])}{unit.operand_bits}") for _ in range(2))
        precision = LayerPrecision(weight=weight, input=activation)
        rows, columns, depth = (int(n) for n in rng.integers(1, (4, 4, 3 * unit.lanes + 2)))
        weights, inputs = random_codes(rng, weight, (columns, depth)), sparse_codes(rng, activation, (rows, depth))
        predicted = predict_on_one_unit(element(unit), precision, weights, inputs)
        result = run(unit, clock, precision, weights, inputs)
        sums = np.array(result.values).reshape(len(inputs), len(weights))
        about = f"{weight} {activation} {inputs.shape} {weights.shape}"
        np.testing.assert_array_equal(sums, inputs @ weights.T, err_msg=about)
        np.testing.assert_array_equal(sums, predicted.outputs, err_msg=about)
        assert result.cycles == predicted.cycles, about
