"""SCALE-Sim 3.0.0: compute cycles and SRAM accesses of systolic arrays, output-, weight- and input-stationary.

Its arrays overlap no folds and preload nothing: the defaults of ``SystolicPassing``. A convolution is lowered to a
matrix product, and the number of windows along each side is rounded *up* (``⌈(i − k + stride) / stride⌉``).

One column of it is not a count of accesses: output-stationary, its OFMAP writes are M·N plus rows + columns a fold,
the empty rows of its skewed demand table. We count M·N writes, and add that excess for the comparison.
"""

from __future__ import annotations

from benchmarks.reference.comparison import Answer, Row
from benchmarks.reference.machines import bare_machine, grid_cycles, run_in_one_pass
from simulator.accelerator import Axis, SystolicPassing
from simulator.layer import Dim, Layer, Operand
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement

STATIONARY: dict[str, Operand] = {"os": "output", "ws": "weight", "is": "input"}
# What lies along the rows and the columns, and what streams.
ROWS: dict[Operand, Dim] = {"output": "P", "weight": "C", "input": "C"}
COLUMNS: dict[Operand, Dim] = {"output": "K", "weight": "K", "input": "P"}
STREAMS: dict[Operand, Dim] = {"output": "C", "weight": "P", "input": "K"}


def layer_of(row: Row) -> Layer:
    """Return the row's convolution (or matrix product written as one), lowered to a matrix product."""
    size, kernel, stride = (int(row["ih"]), int(row["iw"])), (int(row["fh"]), int(row["fw"])), int(row["stride"])
    windows = [-(-(i - k + stride) // stride) for i, k in zip(size, kernel, strict=True)]
    convolution = Layer(
        name=row["id"],
        dims={"K": int(row["nf"]), "C": int(row["c"]), "R": kernel[0], "S": kernel[1], "P": windows[0],
              "Q": windows[1]},
        stride=(stride, stride),
        input_size=size,
    )
    return convolution.as_matrix_product()


def evaluate(row: Row) -> Answer:
    """Simulate one layer on one array."""
    stationary = STATIONARY[row["dataflow"]]
    rows, columns = int(row["rows"]), int(row["cols"])
    down, across, streamed = ROWS[stationary], COLUMNS[stationary], STREAMS[stationary]
    layer, precision = layer_of(row), LayerPrecision()
    machine = bare_machine(
        axes=(Axis(name="rows", size=rows, unroll=(down,)), Axis(name="columns", size=columns, unroll=(across,))),
        passing=SystolicPassing(stationary=stationary),
        element=FixedElement(energy_pj_per_cycle=0.0),
        registers_keep=stationary,
    )
    result = run_in_one_pass(
        layer, precision, machine, {"rows": {down: rows}, "columns": {across: columns}}, (down, across, streamed)
    )
    folds = result.compute_cycles // layer.extent(streamed)
    output_writes = result.moved_bits("output", "output")[1] // precision.stored_bits("output")
    if stationary == "output":
        output_writes += folds * (rows + columns)
    return {
        "M": layer.extent("P"),
        "N": layer.extent("K"),
        "K": layer.extent("C"),
        "folds": folds,
        "compute_cycles": grid_cycles(result),
        "sram_ifmap_reads": result.moved_bits("input", "input")[0] // precision.stored_bits("input"),
        "sram_filter_reads": result.moved_bits("weight", "weight")[0] // precision.stored_bits("weight"),
        "sram_ofmap_writes": output_writes,
        "macs": result.macs,
    }
