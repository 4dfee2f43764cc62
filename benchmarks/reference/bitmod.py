"""BitMoD's simulator: layers of language models, 16-bit activations, low-bit weights; compute and DRAM cycles.

Compute is a multicast grid (output channels × tokens) of dot-product PEs. Bit-serial weights arrive two bits a
cycle; the fraction of a weight's width is its share of the group's scale, which moves but is not multiplied. In
attention products both operands are activations, in 16 bits. The product with V is written there with the tokens
reduced, but its moved input is all of a token's features: that size is that of the model's other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from benchmarks.reference.comparison import Answer, NotCovered, Row
from benchmarks.reference.machines import bare_machine, grid_cycles, run_in_one_pass
from simulator.accelerator import Axis, MulticastPassing
from simulator.counting_rules.bitmod import dram_counts
from simulator.formats import Format
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitSerialElement, FixedElement, ProcessingElement

LAYER = "layer(repeated layers once)"


def compute_cycles(row: Row) -> int:
    """Simulate the grid on the row's matrix product."""
    rows, columns, lanes = int(row["pe_rows(cout)"]), int(row["pe_cols(tokens)"]), int(row["pe_dp_size"])
    whole_bits = int(Fraction(row["w_bits"]))
    element: ProcessingElement
    if int(row["bit_serial"]):
        element = BitSerialElement(energy_pj_per_cycle=0.0, serial_operands=("weight",), lane_count=lanes, digit_bits=2)
    else:
        element = FixedElement(energy_pj_per_cycle=0.0, operand_bits=16, lane_count=lanes)
    machine = bare_machine(
        (Axis(name="rows", size=rows, unroll=("K",)), Axis(name="columns", size=columns, unroll=("P",))),
        MulticastPassing(), element,
    )
    layer = Layer(name=row[LAYER], dims={"K": int(row["cout"]), "C": int(row["cin"]), "P": int(row["tokens"])})
    precision = LayerPrecision(weight=Format(f"int{whole_bits}"), input=Format(f"int{int(row['a_bits'])}"))
    spatial = {"rows": {"K": rows}, "columns": {"P": columns}, "lanes": {"C": lanes}}
    return grid_cycles(run_in_one_pass(layer, precision, machine, spatial, ("K", "P", "C")))  # type: ignore[arg-type]


def evaluate(table: Sequence[Row]) -> Callable[[Row], Answer]:
    """Return the evaluation of a row among its model's rows."""
    features = {row["model"]: int(row["cin"]) for row in table if row[LAYER].endswith(("q_proj", "attn_qk"))}

    def evaluate_row(row: Row) -> Answer:
        outputs, reduced, tokens = int(row["cout"]), int(row["cin"]), int(row["tokens"])
        weight_bits, activation_bits = Fraction(row["w_bits"]), int(row["a_bits"])
        moved_inputs = tokens * reduced
        if row[LAYER].endswith(("attn_qk", "attn_v")):
            weight_bits = Fraction(activation_bits)
        if row[LAYER].endswith("attn_v"):
            if row["model"] not in features:
                return NotCovered("no row of the file gives the model's feature size", lacks_inputs=True)
            moved_inputs = tokens * features[row["model"]]
        dram = dram_counts(outputs * reduced * weight_bits, Fraction(moved_inputs * activation_bits), outputs * tokens)
        return {
            "compute_cycles": compute_cycles(row),
            "dram_cycles": dram.cycles,
            "refetch_w": dram.weight_reads,
            "refetch_i": dram.input_reads,
        }

    return evaluate_row
