"""BitSim's Stripes, Pragmatic and BitWave (Chen et al., MICRO 2024, "BBS"): cycles that depend on INT8 weights.

A multicast grid: output channels on the rows, output columns (or tokens) on the columns, weights serial, and a dot
product of neighbouring input channels on the lanes of a PE; where the kernel has more places than the layer input
channels, the lanes hold places of the kernel. In lockstep the whole grid waits for the slowest row.

What its functions count of a group of weights, as options of our element:

- Stripes: 8 bits, whatever the values;
- Pragmatic, "magnitude bits only": set bits of the absolute value of the slowest lane; as released, the sign is a bit
  like another (``sign_cycles`` 1);
- BitWave: columns of sign and absolute value that are not all zero, the sign's among them, less one
  (``sign_cycles`` 1, ``overlapped_cycles`` 1). That is one less than BitWave needs where no weight of the slowest group
  is negative: it is what the rows say, so it is an option here and not what the preset does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.reference.comparison import Answer, NotCovered, Row
from benchmarks.reference.machines import bare_machine, grid_cycles, run_in_one_pass
from simulator.accelerator import Axis, MulticastPassing
from simulator.layer import Dim, Layer
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitSparseElement
from simulator.processing_elements.bit_sparse import Skipping
from simulator.values import LayerValues

# Accelerator → what is skipped, cycles of a sign, cycles not counted.
RULES: dict[str, tuple[Skipping, int, int]] = {
    "Stripes": ("none", 0, 0),
    "Pragmatic(released: sign plane counted)": ("zero_bits", 1, 0),
    "Pragmatic(magnitude bits only)": ("zero_bits", 0, 0),
    "BitWave": ("zero_columns", 1, 1),
}


def element_of(row: Row) -> BitSparseElement:
    """Return the processing element of a row."""
    skipping, sign_cycles, overlapped = RULES[row["accelerator"]]
    return BitSparseElement(
        energy_pj_per_cycle=0.0, serial_operands=("weight",), skipped_operands=("weight",), skipping=skipping,
        encoding="sign_magnitude", sign_cycles=sign_cycles, overlapped_cycles=overlapped,
        lane_count=int(row["dot_group"]), max_bits=8,
    )


def layer_of(row: Row) -> Layer:
    """Return the layer of a row; the places of its kernel stand along R, inputs are as large as these touch."""
    name, outputs, inputs = row["layer"], int(row["cout"]), int(row["cin"])
    if row["tokens"]:
        return Layer(name=name, dims={"K": outputs, "C": inputs, "Q": int(row["tokens"])})
    places = int(row["k"]) ** 2
    return Layer(name=name, dims={"K": outputs, "C": inputs, "R": places, "P": int(row["oh"]), "Q": int(row["ow"])})


def cycles(row: Row, weights: npt.NDArray[np.int8]) -> int:
    """Simulate a row with its weights: (cout, cin) or (cout, cin, k, k)."""
    layer, element = layer_of(row), element_of(row)
    rows, columns, lanes = int(row["pe_rows(cout)"]), int(row["pe_cols(ow or batch)"]), int(row["dot_group"])
    machine = bare_machine(
        (Axis(name="rows", size=rows, unroll=("K",)), Axis(name="columns", size=columns, unroll=("Q",))),
        MulticastPassing(), element,
    )
    on_lanes: Dim = "R" if layer.extent("R") > layer.extent("C") else "C"
    spatial: dict[str, dict[Dim, int]] = {
        "rows": {"K": rows}, "columns": {"Q": columns}, "lanes": {on_lanes: lanes}
    }
    values = LayerValues(
        weights=weights.reshape(1, layer.extent("K"), layer.extent("C"), layer.extent("R"), 1),
        inputs=np.zeros((1, 1, layer.extent("C"), *layer.stored_input_size), dtype=np.int8),
        source="recorded",
    )
    return grid_cycles(
        run_in_one_pass(layer, LayerPrecision(), machine, spatial, ("K", "P", "Q", "C", "R"), values)
    )


def evaluate(folder: Path) -> Callable[[Row], Answer]:
    """Return the evaluation of a row; weights are read from the archives that the rows name."""

    def evaluate_row(row: Row) -> Answer:
        if row["accelerator"] not in RULES:
            return NotCovered(f"no rule for {row['accelerator']}")
        file, _, name = row["weights_file"].partition(":")
        with np.load(folder / file) as archive:
            return {"cycles": cycles(row, archive[name])}

    return evaluate_row
