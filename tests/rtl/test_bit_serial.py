"""Bit-serial units in RTL give the products, the values and the cycles of the simulator's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from simulator.formats import Format
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitSerialElement
from tests.rtl.bench import (
    Clock,
    Results,
    dot_product_steps,
    pack,
    predict_on_one_unit,
    random_codes,
    run_dot_products,
)
from tests.rtl.bit_serial import SerialUnit

UNITS = {
    "stripes": SerialUnit(serial=("input",), lanes=16, digit_bits=1),
    "stripes_registered": SerialUnit(serial=("input",), lanes=5, digit_bits=1, pipeline=1),
    "two_bits_of_input": SerialUnit(serial=("input",), lanes=4, digit_bits=2),
    "three_bits_of_weight": SerialUnit(serial=("weight",), lanes=4, digit_bits=3, pipeline=2),
    "unpu": SerialUnit(
        serial=("weight",), lanes=1, digit_bits=1, operand_bits=8, power_of_two_widths=True, least_bits=2, pipeline=1
    ),
    "unpu_digits": SerialUnit(
        serial=("weight",), lanes=3, digit_bits=4, power_of_two_widths=True, least_bits=2
    ),
    "loom": SerialUnit(serial=("weight", "input"), lanes=8, digit_bits=1, operand_bits=8),
    "loom_two_bits": SerialUnit(serial=("weight", "input"), lanes=4, digit_bits=2, pipeline=1),
    "bismo_like": SerialUnit(serial=("weight", "input"), lanes=2, digit_bits=3, operand_bits=9),
    "loom_rounded": SerialUnit(
        serial=("weight", "input"), lanes=2, digit_bits=2, power_of_two_widths=True, least_bits=4
    ),
}
CASES_PER_UNIT = 16


def element(unit: SerialUnit) -> BitSerialElement:
    """The simulator's description of a unit."""
    return BitSerialElement(
        energy_pj_per_cycle=0.0, serial_operands=unit.serial, lane_count=unit.lanes, digit_bits=unit.digit_bits,
        width_rounding="power_of_two" if unit.power_of_two_widths else "none", min_bits=unit.least_bits,
        max_bits=unit.operand_bits, pipeline_cycles=unit.pipeline,
    )


@dataclass(frozen=True)
class Case:
    precision: LayerPrecision
    weights: np.ndarray
    inputs: np.ndarray


def random_case(rng: np.random.Generator, unit: SerialUnit) -> Case:
    weight, activation = (
        Format(f"{rng.choice(['int', 'uint'])}{rng.integers(1, unit.operand_bits, endpoint=True)}") for _ in range(2)
    )
    rows, columns, depth = (int(n) for n in rng.integers(1, (4, 4, 3 * unit.lanes + 2)))
    return Case(
        LayerPrecision(weight=weight, input=activation),
        random_codes(rng, weight, (columns, depth)), random_codes(rng, activation, (rows, depth)),
    )


def run(unit: SerialUnit, clock: Clock, case: Case) -> Results:
    settings = {
        "weight_signed": int(case.precision.weight.is_signed), "input_signed": int(case.precision.input.is_signed),
        "weight_bits": case.precision.weight.bits, "input_bits": case.precision.input.bits,
    }
    # The width of a parallel operand is no port of the unit: it is the same work at any width.
    settings = {name: value for name, value in settings.items() if name in clock.inputs}
    steps = [
        step | {name: pack(step[name], unit.word_bits) for name in ("weights", "inputs")}
        for step in dot_product_steps(case.weights, case.inputs, unit.lanes)
    ]
    return run_dot_products(clock, settings, steps)


@pytest.mark.parametrize("name", UNITS)
def test_serial_unit_is_as_the_simulator_says(name: str) -> None:
    """Compared: cycles from the first operand at the ports to the last sum in the accumulator, and every sum."""
    unit = UNITS[name]
    clock = Clock(unit.build())
    rng = np.random.default_rng([7, *name.encode()])
    for _ in range(CASES_PER_UNIT):
        case = random_case(rng, unit)
        predicted = predict_on_one_unit(element(unit), case.precision, case.weights, case.inputs)
        result = run(unit, clock, case)
        sums = np.array(result.values).reshape(len(case.inputs), len(case.weights))
        about = f"{case.precision.label} {case.precision.input} {case.inputs.shape} {case.weights.shape}"
        np.testing.assert_array_equal(sums, case.inputs @ case.weights.T, err_msg=about)
        np.testing.assert_array_equal(sums, predicted.outputs, err_msg=about)
        assert result.cycles == predicted.cycles, about
