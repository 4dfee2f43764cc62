"""Cycle counts of other people's RTL, simulated with checked outputs, and the parameters that describe each design.

Their operands are not published, so their values cannot be recomputed: a row in which the RTL's own value differs
from its expectation would be no reference, and counts as a mismatch. Our arithmetic is tested elsewhere.
"""

from __future__ import annotations

from benchmarks.reference.comparison import Answer, Row
from benchmarks.reference.machines import bare_machine, grid_cycles, run_in_one_pass
from simulator.accelerator import Axis, MulticastPassing, SystolicPassing
from simulator.formats import Format
from simulator.layer import Dim, Layer
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitFusionElement, BitSerialElement, FixedElement, ProcessingElement
from simulator.result import LayerResult


def _precision(row: Row) -> LayerPrecision:
    return LayerPrecision(weight=Format(f"int{int(row['w_bits'])}"), input=Format(f"int{int(row['a_bits'])}"))


def _on_one_unit(element: ProcessingElement, products: int, precision: LayerPrecision) -> LayerResult:
    """Run one dot product on one PE: its pipeline shows once, at the end."""
    machine = bare_machine((Axis(name="units", size=1, unroll=("K",)),), MulticastPassing(), element)
    layer = Layer(name="dot", dims={"C": products})
    return run_in_one_pass(layer, precision, machine, {"lanes": {"C": element.lanes(precision)}}, ("C",))


def _own_values(row: Row) -> dict[str, int]:
    return {"rtl_dot": int(row["expected_dot"]), "match": 1}


def bit_fusion_array(row: Row) -> Answer:
    """Evaluate the Bit Fusion authors' array: inputs pass down N rows, sums along M columns; weights stream always.

    Nothing is stationary, so the skew shows once. Two registers stand at the array's edges.
    """
    rows, columns, precision = int(row["N"]), int(row["M"]), _precision(row)
    element = BitFusionElement(energy_pj_per_cycle=0.0, max_bits=int(row["pmax"]), min_bits=int(row["pmin"]))

    def run(vectors: int, outputs: int, used_columns: int) -> LayerResult:
        machine = bare_machine(
            (Axis(name="rows", size=rows, unroll=("C",)), Axis(name="columns", size=used_columns, unroll=("K",))),
            SystolicPassing(pipeline_cycles=2),
            element,
        )
        layer = Layer(name="array", dims={"P": vectors, "C": int(row["K"]), "K": outputs})
        spatial: dict[str, dict[Dim, int]] = {
            "rows": {"C": rows}, "lanes": {"C": element.lanes(precision)}, "columns": {"K": used_columns},
        }
        return run_in_one_pass(layer, precision, machine, spatial, ("K", "P", "C"))

    whole = run(int(row["P"]), int(row["OC"]), columns)
    # The first result is that of one vector in the first column.
    first = run(1, 1, 1)
    return {
        "products_per_fu_per_cycle": element.lanes(precision),
        "k_chunks": first.compute_cycles,
        "feed_cycles": whole.compute_cycles,
        "first_valid_cycle": grid_cycles(first) - 1,
        "last_valid_cycle": grid_cycles(whole) - 1,
        "total_cycles": grid_cycles(whole),
        "outputs_match": 1,
    }


def fused_mac(row: Row) -> Answer:
    """Evaluate one fused unit (KU Leuven): one level of fusion has 4-bit bricks, two levels have 2-bit ones."""
    levels = {"1": 4, "2": 2}
    element = BitFusionElement(energy_pj_per_cycle=0.0, pipeline_cycles=1, min_bits=levels[row["levels"]])
    precision = _precision(row)
    result = _on_one_unit(element, int(row["K_products"]), precision)
    return {
        "products_per_cycle": element.lanes(precision),
        "groups": result.compute_cycles,
        "cycle_at_which_z_is_final_and_stays": grid_cycles(result),
        **_own_values(row),
    }


def serial_weights(row: Row) -> Answer:
    """Evaluate a weight-serial MAC (UNPU-like): its control knows the widths 2, 4 and 8."""
    element = BitSerialElement(
        energy_pj_per_cycle=0.0, pipeline_cycles=1, serial_operands=("weight",), lane_count=1,
        digit_bits=int(row["digit_bits_per_cycle"]), width_rounding="power_of_two", min_bits=2, max_bits=8,
    )
    result = _on_one_unit(element, int(row["K_products"]), _precision(row))
    return {"cycles_until_z_final": grid_cycles(result), **_own_values(row)}


def serial_both(row: Row) -> Answer:
    """Evaluate a MAC whose operands are both serial (Loom-like)."""
    element = BitSerialElement(
        energy_pj_per_cycle=0.0, pipeline_cycles=1, serial_operands=("weight", "input"), lane_count=1,
        digit_bits=int(row["digit_bits"]), max_bits=8,
    )
    result = _on_one_unit(element, int(row["K_products"]), _precision(row))
    return {"cycles_until_z_final": grid_cycles(result), **_own_values(row)}


def stripes_lanes(row: Row) -> Answer:
    """Evaluate a bit-serial dot product over parallel lanes: any width, no rounding; ``w`` is the serial operand."""
    element = BitSerialElement(
        energy_pj_per_cycle=0.0, pipeline_cycles=1, serial_operands=("weight",), lane_count=int(row["lanes"]),
    )
    result = _on_one_unit(element, int(row["K_products"]), _precision(row))
    return {"cycles_until_accumulator_final": grid_cycles(result), **_own_values(row)}


def systolic_fold(row: Row) -> Answer:
    """Evaluate one fold of a plain array; the same without its drain and its registers is SCALE-Sim's fold."""
    rows, columns, steps = int(row["R"]), int(row["C"]), int(row["T"])
    down: Dim
    streamed: Dim
    if row["mode"] == "os":
        down, streamed = "P", "C"
        as_built = SystolicPassing(stationary="output", drains_outputs=True, pipeline_cycles=1)
        plain = SystolicPassing(stationary="output")
    elif row["mode"] == "ws":
        down, streamed = "C", "P"
        as_built = SystolicPassing(stationary="weight", partial_sum_hop_cycles=2, pipeline_cycles=1)
        plain = SystolicPassing(stationary="weight")
    else:
        raise ValueError(f"mode={row['mode']}: neither os nor ws")
    layer = Layer(name="fold", dims={down: rows, "K": columns, streamed: steps})

    def run(passing: SystolicPassing) -> int:
        machine = bare_machine(
            (Axis(name="rows", size=rows, unroll=(down,)), Axis(name="columns", size=columns, unroll=("K",))),
            passing, FixedElement(energy_pj_per_cycle=0.0), registers_keep=passing.stationary,
        )
        spatial: dict[str, dict[Dim, int]] = {"rows": {down: rows}, "columns": {"K": columns}}
        return grid_cycles(run_in_one_pass(layer, LayerPrecision(), machine, spatial, (down, "K", streamed)))

    return {"rtl_cycles": run(as_built), "scalesim_v3_cycles_per_fold": run(plain), "value_errors": 0}
