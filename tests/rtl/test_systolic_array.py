"""A systolic array in RTL gives the outputs and the cycles of the simulator's, for all its dataflows and options.

Compared are the cycles of one pass over several folds, from the first operand at the array's edge (for stationary
weights: the first row of weights) to the last result at its end, with compute + fill and drain of the simulator:
the occupation of the grid and its tail. The array is driven by its own sequencer, which starts folds when the
hardware is free for them, so that the fold-to-fold time is the circuit's and not the test's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from benchmarks.reference.machines import bare_machine
from simulator.accelerator import Accelerator, Axis, SystolicPassing
from simulator.formats import Format
from simulator.layer import Dim
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement
from tests.rtl.bench import MOST_CYCLES, Clock, IntArray, Prediction, as_signed, pack, predict, random_codes
from tests.rtl.systolic_array import Circuit, SystolicArray, address

Stationary = Literal["weight", "input", "output"]
# Where the dimensions lie, and which streams: what the simulator's description of each dataflow asks for.
LAYOUT: dict[Stationary, tuple[Dim, Dim, Dim]] = {
    "weight": ("C", "K", "P"), "input": ("C", "P", "K"), "output": ("P", "K", "C"),
}
SHAPES_PER_KIND = 10
WORKLOADS_PER_SHAPE = 3
PRECISION = LayerPrecision()


@dataclass(frozen=True)
class Run:
    """Outputs (P, K), and the cycle in which the last result was seen."""

    outputs: IntArray
    cycles: int


def machine(array: SystolicArray, stationary: Stationary) -> Accelerator:
    """The simulator's description of an array."""
    down, across, _ = LAYOUT[stationary]
    passing = SystolicPassing(
        stationary=stationary, fold_overlap=array.overlap, stationary_preload=array.preload,
        partial_sum_hop_cycles=array.hop, drains_outputs=array.drains, pipeline_cycles=array.exit_registers,
    )
    axes = (
        Axis(name="rows", size=array.rows, unroll=(down,), passing="multicast" if array.rows_multicast else None,
             adder_tree_cycles=array.tree_registers),
        Axis(name="columns", size=array.columns, unroll=(across,),
             passing="multicast" if array.columns_multicast else None),
    )
    element = FixedElement(energy_pj_per_cycle=0.0, operand_bits=array.operand_bits)
    return bare_machine(axes, passing, element, registers_keep=stationary)


def predicted(array: SystolicArray, stationary: Stationary, weights: IntArray, inputs: IntArray) -> Prediction:
    down, across, streamed = LAYOUT[stationary]
    spatial: dict[str, dict[Dim, int]] = {"rows": {down: array.rows}, "columns": {across: array.columns}}
    return predict(machine(array, stationary), PRECISION, weights, inputs, spatial, (down, across, streamed))


def tiles(matrix: IntArray, rows: int, columns: int) -> Iterator[tuple[int, int, IntArray]]:
    """Cut a matrix into folds, the ragged ones filled up with zeros: (first row, first column, tile)."""
    for top, left in itertools.product(range(0, matrix.shape[0], rows), range(0, matrix.shape[1], columns)):
        part = matrix[top : top + rows, left : left + columns]
        yield top, left, np.pad(part, ((0, rows - part.shape[0]), (0, columns - part.shape[1])))


def clocked(
    circuit: Circuit, contents: tuple[dict[int, int], dict[int, int]], folds: int, steps: int, results: int
) -> tuple[dict[str, list[int]], int]:
    """Run the circuit until all results are out: (values at each port in order, cycle of the last one)."""
    clock = Clock(circuit.block, {circuit.left: contents[0], circuit.top: contents[1]})
    ports = [name.removeprefix("valid_") for name in clock.width if name.startswith("valid_")]
    seen: dict[str, list[int]] = {port: [] for port in ports}
    for cycle in range(MOST_CYCLES):
        clock.cycle({"folds": folds, "steps": steps})
        for port in ports:
            if clock.seen(f"valid_{port}"):
                name = f"value_{port}"
                seen[port].append(as_signed(clock.seen(name), clock.width[name]))
        if sum(map(len, seen.values())) == results:
            return seen, cycle
    raise AssertionError(f"not all of {results} results after {MOST_CYCLES} cycles: {seen}")


def run_stationary_weights(array: SystolicArray, circuit: Circuit, weights: IntArray, inputs: IntArray) -> Run:
    """Run ``weights`` (K, C) as what is held, ``inputs`` (P, C) as what streams."""
    bits, steps = array.operand_bits, len(inputs)
    left: dict[int, int] = {}
    top: dict[int, int] = {}
    folds = list(tiles(weights.T, array.rows, array.columns))
    for number, (channel, _, held) in enumerate(folds):
        if array.weights_come_at_once:
            top[address(number, 0)] = pack(held.ravel(), bits)
        else:
            top |= {address(number, row): pack(elements, bits) for row, elements in enumerate(held)}
        streamed = inputs[:, channel : channel + array.rows]
        left |= {address(number, step): pack(elements, bits) for step, elements in enumerate(streamed)}
    seen, cycles = clocked(circuit, (left, top), len(folds), steps, len(folds) * steps * array.columns)
    # What leaves at the bottom are a fold's sums; the buffer behind the array adds up those of all its rows.
    outputs = np.zeros((steps, len(weights) + array.columns), dtype=np.int64)
    for column in range(array.columns):
        values = np.array(seen[str(column)]).reshape(len(folds), steps)
        for (_, first, _), of_fold in zip(folds, values, strict=True):
            outputs[:, first + column] += of_fold
    return Run(outputs[:, : len(weights)], cycles)


def run_stationary_outputs(array: SystolicArray, circuit: Circuit, weights: IntArray, inputs: IntArray) -> Run:
    bits, steps = array.operand_bits, weights.shape[1]
    left: dict[int, int] = {}
    top: dict[int, int] = {}
    starts = list(itertools.product(range(0, len(inputs), array.rows), range(0, len(weights), array.columns)))
    for number, (row, column) in enumerate(starts):
        for step in range(steps):
            left[address(number, step)] = pack(inputs[row : row + array.rows, step], bits)
            top[address(number, step)] = pack(weights[column : column + array.columns, step], bits)
    seen, cycles = clocked(circuit, (left, top), len(starts), steps, len(starts) * array.rows * array.columns)
    outputs = np.zeros((len(inputs) + array.rows, len(weights) + array.columns), dtype=np.int64)
    for (number, (top_row, first)), row, column in itertools.product(
        enumerate(starts), range(array.rows), range(array.columns)
    ):
        if array.drains:
            # The lowest row leaves first.
            value = seen[str(column)][number * array.rows + array.rows - 1 - row]
        else:
            value = seen[f"{row}_{column}"][number]
        outputs[top_row + row, first + column] = value
    return Run(outputs[: len(inputs), : len(weights)], cycles)


def run(array: SystolicArray, circuit: Circuit, stationary: Stationary, weights: IntArray, inputs: IntArray) -> Run:
    if stationary == "output":
        return run_stationary_outputs(array, circuit, weights, inputs)
    if stationary == "weight":
        return run_stationary_weights(array, circuit, weights, inputs)
    # Stationary inputs are the same circuit with the operands changed over.
    mirrored = run_stationary_weights(array, circuit, inputs, weights)
    return Run(mirrored.outputs.T, mirrored.cycles)


def workload(rng: np.random.Generator, array: SystolicArray, stationary: Stationary) -> tuple[IntArray, IntArray]:
    """Random matrices of one to three folds in each direction, ragged as often as not."""
    size: dict[Dim, int] = {}
    down, across, streamed = LAYOUT[stationary]
    size[down] = int(rng.integers(1, 3 * array.rows, endpoint=True))
    size[across] = int(rng.integers(1, 3 * array.columns, endpoint=True))
    size[streamed] = int(rng.integers(1, 10))
    return (
        random_codes(rng, Format("int8"), (size["K"], size["C"])),
        random_codes(rng, Format("int8"), (size["P"], size["C"])),
    )


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
@pytest.mark.parametrize("overlap", [False, True], ids=["", "overlap"])
@pytest.mark.parametrize("stationary", ["weight", "input", "output"])
def test_array_is_as_the_simulator_says(stationary: Stationary, overlap: bool, preload: bool) -> None:
    rng = np.random.default_rng([17, *stationary.encode(), overlap, preload])
    for number in range(SHAPES_PER_KIND):
        rows, columns = (int(n) for n in rng.integers(1, 5, size=2))
        array = SystolicArray(
            rows=rows, columns=columns, stationary="output" if stationary == "output" else "weight",
            overlap=overlap, preload=preload, exit_registers=int(rng.integers(3)),
            hop=1 if stationary == "output" else 1 + number % 2,
            drains=stationary == "output" and bool(number % 2),
        )
        circuit = array.build()
        for _ in range(WORKLOADS_PER_SHAPE):
            compare(rng, array, circuit, stationary)


def compare(rng: np.random.Generator, array: SystolicArray, circuit: Circuit, stationary: Stationary) -> None:
    """One workload gives the same outputs and cycles in the circuit and in the simulator."""
    weights, inputs = workload(rng, array, stationary)
    result = run(array, circuit, stationary, weights, inputs)
    expected = predicted(array, stationary, weights, inputs)
    about = f"{array} weights {weights.shape} inputs {inputs.shape}"
    np.testing.assert_array_equal(result.outputs, inputs @ weights.T, err_msg=about)
    np.testing.assert_array_equal(result.outputs, expected.outputs, err_msg=about)
    assert result.cycles == expected.cycles, about


@pytest.mark.parametrize("multicast", ["rows", "columns"])
@pytest.mark.parametrize("stationary", ["weight", "input", "output"])
def test_mixed_array_is_as_the_simulator_says(stationary: Stationary, multicast: str) -> None:
    rng = np.random.default_rng([18, *stationary.encode(), *multicast.encode()])
    of_rows = multicast == "rows"
    for number in range(SHAPES_PER_KIND):
        rows, columns = (int(n) for n in rng.integers(1, 5, size=2))
        array = SystolicArray(
            rows=rows, columns=columns, stationary="output" if stationary == "output" else "weight",
            rows_multicast=of_rows, columns_multicast=not of_rows, overlap=bool(number & 1), preload=bool(number & 2),
            exit_registers=int(rng.integers(3)),
            tree_registers=int(rng.integers(3)) if of_rows and stationary != "output" else 0,
            hop=1 if of_rows or stationary == "output" else 1 + number // 4 % 2,
            drains=stationary == "output" and not of_rows and number // 4 % 2 == 1,
        )
        circuit = array.build()
        for _ in range(WORKLOADS_PER_SHAPE):
            compare(rng, array, circuit, stationary)


@pytest.fixture(scope="module")
def short_folds() -> tuple[SystolicArray, Run, Prediction, int, int]:
    """Six folds of two vectors on five rows that drain, with overlap: (array, result, prediction, folds, steps)."""
    array = SystolicArray(rows=5, columns=3, stationary="output", overlap=True, drains=True)
    rng = np.random.default_rng(29)
    weights, inputs = (random_codes(rng, Format("int8"), (count, 2)) for count in (9, 10))
    result = run(array, array.build(), "output", weights, inputs)
    np.testing.assert_array_equal(result.outputs, inputs @ weights.T)
    return array, result, predicted(array, "output", weights, inputs), 6, 2


def test_a_drain_paces_short_folds(short_folds: tuple[SystolicArray, Run, Prediction, int, int]) -> None:
    """R rows leave through one port a column in R cycles, so folds cannot follow each other faster than that."""
    array, result, _, folds, steps = short_folds
    skew_and_drain = (array.rows - 1) + (array.columns - 1) + array.rows
    assert result.cycles == (folds - 1) * max(steps, array.rows) + steps + skew_and_drain


def test_the_simulator_paces_short_folds(short_folds: tuple[SystolicArray, Run, Prediction, int, int]) -> None:
    _, result, expected, _, _ = short_folds
    assert result.cycles == expected.cycles
