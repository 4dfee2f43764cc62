"""One call for the engines that need no data, and the cost of vector operations."""

from __future__ import annotations

from typing import Literal

from simulator.accelerator import Accelerator
from simulator.bound import simulate_bound
from simulator.counts import leakage_pj
from simulator.fast import simulate_fast
from simulator.layer import Layer, VectorOp
from simulator.mapping import Mapping
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.result import LayerResult, Traffic, VectorResult
from simulator.values import LayerValues

VECTOR_UNIT = "vector_unit"


def simulate(
    layer: Layer,
    precision: LayerPrecision,
    accelerator: Accelerator,
    mapping: Mapping,
    engine: Literal["fast", "bound"] = "fast",
    values: LayerValues | None = None,
) -> LayerResult:
    """Cost of one layer: cycles by kind, bits moved, energy in pJ.

    ``fast`` is exact, ``bound`` a closed-form lower bound of its cycles with exact traffic, and exact energy but for
    leakage, which takes as long as the cycles do (where time depends on values, a lower bound of the energy too).
    ``values``: codes of the operands, which ``fast`` needs on machines whose time depends on them, and ignores on
    others.
    Raises ``MappingError`` with every problem of the mapping, ``PrecisionError`` where the PE cannot run it,
    ``ConfigurationError`` for values that are missing or do not fit the layer.
    """
    plan = Plan(layer, precision, accelerator, mapping)
    return simulate_fast(plan, values) if engine == "fast" else simulate_bound(plan)


def simulate_vector_op(operation: VectorOp, accelerator: Accelerator) -> VectorResult:
    """Cost of one vector operation (docs/simulator.md, "Vector operations")."""
    unit, dram = accelerator.vector_unit, accelerator.dram
    fused = operation.fused and unit.fuses_elementwise
    operations = operation.processed_count * operation.operations_per_element
    compute = -(-operations // unit.lanes)
    read = 0 if fused else operation.input_count * unit.element_bits
    written = 0 if fused else operation.output_count * unit.element_bits
    transfer = -(-(read + written) // dram.bandwidth_bits_per_cycle)
    total = max(compute, transfer) + (dram.latency_cycles if read else 0)
    return VectorResult(
        operation=operation.name,
        operator=operation.operator,
        total_cycles=total,
        compute_cycles=compute,
        stall_cycles=total - compute,
        dram_busy_cycles=transfer,
        traffic=(Traffic(memory=dram.name, operand="input", read_bits=read, write_bits=written),),
        energy_pj={
            dram.name: read * dram.read_energy_pj_per_bit + written * dram.write_energy_pj_per_bit,
            VECTOR_UNIT: operations * unit.energy_pj_per_operation,
            **leakage_pj(accelerator, total),
        },
    )
