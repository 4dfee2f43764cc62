"""What the reference engine computes is what NumPy computes, and what it counts is conserved."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from simulator.layer import OPERANDS, Layer
from simulator.reference import simulate_reference
from simulator.result import LayerResult
from tests.properties.strategies import Case, cases

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


def run(case: Case) -> tuple[LayerResult, IntArray, IntArray]:
    """Simulate; return the result, the outputs, and NumPy's."""
    weights, inputs = case.operands()
    result, outputs = simulate_reference(
        case.layer, case.precision, case.accelerator, case.mapping, weights, inputs
    )
    return result, outputs, numpy_outputs(case.layer, weights, inputs)


@given(cases())
def test_outputs_are_exact(case: Case) -> None:
    _, outputs, expected = run(case)
    np.testing.assert_array_equal(outputs, expected)


@given(cases())
def test_cycles_and_bits_add_up(case: Case) -> None:
    result, _, _ = run(case)
    layer, precision, machine, mapping = case.layer, case.precision, case.accelerator, case.mapping
    dram = machine.dram.name

    parts = result.compute_cycles + result.fill_drain_cycles + sum(result.stall_cycles.values())
    assert parts == result.total_cycles
    assert result.dram_busy_cycles <= result.total_cycles
    assert result.moved_bits(dram, "parameters") == (precision.parameter_bits(layer), 0)

    compulsory = {"weight": layer.weight_count * precision.weight.bits, "input": 0, "output": 0}
    for operand in OPERANDS:
        read, written = result.moved_bits(dram, operand)
        assert read >= compulsory[operand]
        if operand in mapping.bypass:
            assert result.moved_bits(machine.buffer_of(operand).name, operand) == (0, 0)
        elif operand != "output":
            # What DRAM gives out, the buffer takes in; nothing leaves a buffer that never came.
            assert written == 0
            buffer_read, buffer_written = result.moved_bits(machine.buffer_of(operand).name, operand)
            assert buffer_written == read
            assert (buffer_read > 0) == (buffer_written > 0)

    # Outputs: finished ones leave once; partial sums that leave come back, bit for bit.
    read, written = result.moved_bits(dram, "output")
    assert written == layer.output_count * precision.output.bits + read
    if "output" not in mapping.bypass:
        # On chip every visit writes and all but the first read; a tile that comes or leaves passes once more.
        buffer_read, buffer_written = result.moved_bits(machine.buffer_of("output").name, "output")
        assert buffer_read == buffer_written

    moved = result.energy_pj
    assert set(moved) == {memory.name for memory in machine.memories} | {"processing_elements"}


@given(cases())
def test_compute_is_bounded_by_the_grid(case: Case) -> None:
    result, _, _ = run(case)
    element, precision = case.accelerator.processing_element, case.precision
    lanes, cycles = element.lanes(precision), element.cycles_per_step(precision)
    pes = case.accelerator.grid.pe_count
    assert result.active_pe_cycles <= result.compute_cycles * pes
    assert result.macs * cycles <= result.active_pe_cycles * lanes
    assert 0 < result.pe_utilization <= 1
    assert result.compute_cycles >= math.ceil(result.macs / (pes * lanes)) * cycles


@given(cases(max_macs=300), st.integers(1, 4))
def test_more_bandwidth_never_costs_cycles(case: Case, factor: int) -> None:
    weights, inputs = case.operands()
    machine = case.accelerator
    dram = machine.dram
    faster = dram.model_copy(update={"bandwidth_bits_per_cycle": dram.bandwidth_bits_per_cycle * factor})
    quick = machine.model_copy(update={"memories": (faster, *machine.memories[1:])})
    cycles = [
        simulate_reference(case.layer, case.precision, tile, case.mapping, weights, inputs)[0].total_cycles
        for tile in (machine, quick)
    ]
    assert cycles[1] <= cycles[0]
