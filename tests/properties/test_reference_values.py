"""What the reference engine computes is what NumPy computes, and what it counts is conserved.

In floating point NumPy and ``ml_dtypes`` add in the documented order, bit for bit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from simulator.accelerator import COMPONENTS
from simulator.floating import NAN_CODES
from simulator.layer import Layer, Operand
from simulator.reference import simulate_reference
from simulator.result import LayerResult
from tests.properties.float_oracle import ordered_outputs
from tests.properties.strategies import DATAFLOWS, Case, Dataflow, cases, share_of_examples

IntArray = npt.NDArray[np.int64]


def numpy_outputs(layer: Layer, weights: IntArray, inputs: IntArray) -> IntArray:
    """The layer as NumPy adds it up, from a padded copy of the input."""
    rows, columns = (
        (layer.extent(out) - 1) * layer.stride[axis] + (layer.extent(tap) - 1) * layer.dilation[axis] + 1
        for axis, (out, tap) in enumerate((("P", "R"), ("Q", "S")))
    )
    top, left = layer.padding_begin
    padded = np.pad(inputs, ((0, 0), (0, 0), (0, 0), (top, rows), (left, columns)))[..., :rows, :columns]
    total = np.zeros([layer.extent(dim) for dim in ("G", "N", "K", "P", "Q")], dtype=np.int64)
    for r in range(layer.extent("R")):
        for s in range(layer.extent("S")):
            top, left = r * layer.dilation[0], s * layer.dilation[1]
            part = padded[..., top :: layer.stride[0], left :: layer.stride[1]]
            part = part[..., : layer.extent("P"), : layer.extent("Q")]
            total += np.einsum("gkc,gncpq->gnkpq", weights[..., r, s], part)
    return total


def check_values(outputs: IntArray, case: Case) -> None:
    """What ended up in DRAM is what NumPy computes."""
    if case.precision.input.is_integer:
        np.testing.assert_array_equal(outputs, numpy_outputs(case.layer, *case.operands()))
        return
    expected = ordered_outputs(case, *case.operands(), case.scales())
    expected[expected == "NaN"] = NAN_CODES[case.precision.output]
    np.testing.assert_array_equal(outputs, expected.astype(np.int64))


def check_conservation(result: LayerResult, case: Case) -> None:
    """What one memory gives out, another one takes in."""
    layer, precision, machine, mapping = case.layer, case.precision, case.accelerator, case.mapping
    dram = machine.dram.name
    assert result.moved_bits(dram, "parameters") == (precision.parameter_bits(layer), 0)
    operands: tuple[Operand, ...] = ("weight", "input")
    for operand in operands:
        read, written = result.moved_bits(dram, operand)
        assert written == 0
        for buffer in machine.buffers_of(operand):
            moved = result.moved_bits(buffer.name, operand)
            if mapping.bypasses(operand, machine.level_of(buffer)):
                assert moved == (0, 0)
            else:
                # What one memory gives out the next takes in; nothing leaves a buffer that never came.
                assert moved[1] == read
                assert (moved[0] > 0) == (read > 0)
                read = moved[0]
    assert result.moved_bits(dram, "weight")[0] >= layer.weight_count * precision.weight.bits

    # Outputs: finished ones leave once; partial sums that leave come back.
    read, written = result.moved_bits(dram, "output")
    assert written == layer.output_count * precision.output.bits + read
    for buffer in machine.buffers_of("output"):
        moved = result.moved_bits(buffer.name, "output")
        if mapping.bypasses("output", machine.level_of(buffer)):
            assert moved == (0, 0)
        else:
            # Each visit writes and all but the first read; a tile that comes or leaves passes once more.
            # In a buffer nothing is wider than a partial sum, also where it leaves in a wider format.
            narrowest = min(precision.output.bits, precision.accumulator.bits)
            assert moved[0] == moved[1] >= layer.output_count * narrowest


def check_registers(result: LayerResult, case: Case) -> None:
    """Each product reads its operands in the PE; each PE at work reads and writes its accumulator."""
    element, precision = case.accelerator.processing_element, case.precision
    steps, rest = divmod(result.active_pe_cycles, element.cycles_per_step(precision))
    assert rest == 0
    for file in case.accelerator.register_files:
        for operand in file.keeps:
            # Expanded weights are as wide as the format they are multiplied in.
            bits = (precision.expanded_weight or precision.weight).bits if operand == "weight" else (
                precision.stored_bits(operand))
            expected = (steps * bits,) * 2 if operand == "output" else (result.macs * bits, 0)
            assert result.moved_bits(file.name, operand) == expected


def check_sums(result: LayerResult, case: Case) -> None:
    """Cycles and energy are the sums of their parts, and the grid cannot do more than its lanes."""
    parts = result.compute_cycles + result.fill_drain_cycles + sum(result.stall_cycles.values())
    assert parts == result.total_cycles
    assert result.dram_busy_cycles <= result.total_cycles
    element, precision = case.accelerator.processing_element, case.precision
    lanes, cycles = element.lanes(precision), element.cycles_per_step(precision)
    pes = case.accelerator.grid.pe_count
    assert result.macs * cycles <= result.active_pe_cycles * lanes
    assert result.active_pe_cycles <= result.compute_cycles * pes
    assert 0 < result.pe_utilization <= 1
    memories = {memory.name for memory in case.accelerator.memories}
    assert memories | {"processing_elements"} <= set(result.energy_pj) <= memories | set(COMPONENTS)
    assert ("interconnect" in result.energy_pj) == (case.accelerator.grid.interconnect is not None)
    assert ("leakage" in result.energy_pj) == any(part.leakage_mw is not None for part in case.accelerator.parts)
    expands = getattr(element, "expansion_energy_pj_per_weight", None) is not None and precision.expanded_weight
    assert ("weight_expansion" in result.energy_pj) == bool(expands)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_reference_is_right(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(cases(dataflow))
    def check(case: Case) -> None:
        weights, inputs = case.operands()
        result, outputs = simulate_reference(
            case.layer, case.precision, case.accelerator, case.mapping, weights, inputs, case.scales()
        )
        check_values(outputs, case)
        check_conservation(result, case)
        check_registers(result, case)
        check_sums(result, case)

    check()


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_floating_point_adds_in_the_documented_order(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(cases(dataflow, max_macs=300, kinds=("floating_point", "dual_precision")))
    def check(case: Case) -> None:
        _, outputs = simulate_reference(
            case.layer, case.precision, case.accelerator, case.mapping, *case.operands(), case.scales()
        )
        check_values(outputs, case)

    check()


def test_values_do_not_change_time() -> None:
    """No PE of this version looks at its operands: zeros take as long as anything."""

    @settings(max_examples=20)
    @given(cases(max_macs=100))
    def check(case: Case) -> None:
        weights, inputs = case.operands()
        results = [
            simulate_reference(case.layer, case.precision, case.accelerator, case.mapping, *operands, case.scales())[0]
            for operands in ((weights, inputs), (0 * weights, 0 * inputs))
        ]
        assert results[0] == results[1]

    check()
