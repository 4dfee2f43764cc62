"""The Fusion Unit in RTL gives the products, the values and the cycles of the simulator's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from simulator.formats import Format
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitFusionElement
from tests.rtl import fusion_unit
from tests.rtl.bench import (
    Clock,
    Results,
    dot_product_steps,
    pack,
    predict_on_one_unit,
    random_codes,
    run_dot_products,
)

SIGNS = list(itertools.product(("int", "uint"), repeat=2))


def run(clock: Clock, precision: LayerPrecision, weights: np.ndarray, inputs: np.ndarray) -> Results:
    widths = {"weight": precision.weight, "input": precision.input}
    settings = {f"{name}_bits": number_format.bits for name, number_format in widths.items()}
    settings |= {f"{name}_signed": int(number_format.is_signed) for name, number_format in widths.items()}
    lanes = fusion_unit.lanes(precision.weight.bits, precision.input.bits)
    steps = [
        step | {f"{name}s": pack(step[f"{name}s"], fusion_unit.slot_bits(widths[name].bits)) for name in widths}
        for step in dot_product_steps(weights, inputs, lanes)
    ]
    return run_dot_products(clock, settings, steps)


def check(clock: Clock, element: BitFusionElement, precision: LayerPrecision, rng: np.random.Generator) -> None:
    """Compared: cycles from the first operand at the ports to the last sum in the accumulator, and every sum."""
    rows, columns = rng.integers(1, 3, size=2)
    depth = rng.integers(1, 3 * element.lanes(precision) + 2)
    weights = random_codes(rng, precision.weight, (columns, depth))
    inputs = random_codes(rng, precision.input, (rows, depth))
    predicted = predict_on_one_unit(element, precision, weights, inputs)
    result = run(clock, precision, weights, inputs)
    sums = np.array(result.values).reshape(rows, columns)
    about = f"{precision.weight} {precision.input} {inputs.shape} {weights.shape}"
    np.testing.assert_array_equal(sums, inputs @ weights.T, err_msg=about)
    np.testing.assert_array_equal(sums, predicted.outputs, err_msg=about)
    assert result.cycles == predicted.cycles, about


@pytest.mark.parametrize("pipeline", [0, 1])
def test_fusion_unit_is_as_the_simulator_says(pipeline: int) -> None:
    """Every pair of widths from 1 to 16 bits, each with signs drawn at random."""
    element = BitFusionElement(energy_pj_per_cycle=0.0, pipeline_cycles=pipeline)
    clock = Clock(fusion_unit.build(pipeline))
    rng = np.random.default_rng([11, pipeline])
    for weight_bits, input_bits in itertools.product(range(1, 17), repeat=2):
        weight_kind, input_kind = SIGNS[rng.integers(len(SIGNS))]
        precision = LayerPrecision(
            weight=Format(f"{weight_kind}{weight_bits}"), input=Format(f"{input_kind}{input_bits}")
        )
        assert fusion_unit.lanes(weight_bits, input_bits) == element.lanes(precision)
        check(clock, element, precision, rng)


@pytest.mark.parametrize("signs", SIGNS, ids="-".join)
def test_all_signs_at_the_unit_s_own_widths(signs: tuple[str, str]) -> None:
    element = BitFusionElement(energy_pj_per_cycle=0.0)
    clock = Clock(fusion_unit.build())
    rng = np.random.default_rng([13, *"".join(signs).encode()])
    for weight_bits, input_bits in itertools.product((2, 4, 8, 16), repeat=2):
        precision = LayerPrecision(
            weight=Format(f"{signs[0]}{weight_bits}"), input=Format(f"{signs[1]}{input_bits}")
        )
        check(clock, element, precision, rng)
