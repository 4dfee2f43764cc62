"""What the reference engine's cycles were spent on, and the result of a layer that is put together from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from simulator.accelerator import Accelerator
from simulator.interconnect import hops
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from simulator.reference.grid import Grid
from simulator.reference.memories import Memories
from simulator.result import STALL_CAUSES, LayerResult, Stall, StallCause


@dataclass
class CyclesSpent:
    """Cycles, counted one by one: the grid's, those that the DRAM's channel was taken and waited for rows."""

    compute: int = 0
    fill_drain: int = 0
    dram_busy: int = 0
    dram_row_cycles: int = 0
    stalls: Counter[tuple[StallCause, str]] = field(default_factory=Counter)


def result_of(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, memories: Memories, grid: Grid,
    spent: CyclesSpent, total_cycles: int, tile_count: int,
) -> LayerResult:
    """Put together what was counted."""
    element = accelerator.processing_element
    possible = total_cycles * accelerator.grid.pe_count * element.lanes(precision)
    utilization = layer.macs * (spent.compute / grid.steps_taken) / possible
    if precision.split is not None:
        narrow = memories.narrow_products
        parts = zip(precision.parts, (layer.macs - narrow, narrow), strict=True)
        needed = sum(count * element.cycles_per_step(part) / element.lanes(part) for part, count in parts)
        utilization = needed / (total_cycles * accelerator.grid.pe_count)
    return LayerResult(
        engine="reference",
        layer=layer.name,
        total_cycles=total_cycles,
        compute_cycles=spent.compute,
        fill_drain_cycles=spent.fill_drain,
        stall_cycles={
            cause: sum(cycles for key, cycles in spent.stalls.items() if key[0] == cause) for cause in STALL_CAUSES
        },
        stalls=tuple(
            Stall(cause=cause, memory=memory.name, cycles=spent.stalls[cause, memory.name])
            for cause in STALL_CAUSES
            for memory in accelerator.memories
            if spent.stalls[cause, memory.name]
        ),
        traffic=memories.traffic(),
        energy_pj=_energy_pj(precision, accelerator, memories, grid, total_cycles),
        macs=layer.macs,
        active_pe_cycles=grid.active_pe_cycles,
        pe_utilization=utilization,
        dram_busy_cycles=spent.dram_busy,
        dram_row_cycles=spent.dram_row_cycles,
        tile_count=tile_count,
        mean_step_cycles=spent.compute / grid.steps_taken,
    )


def _energy_pj(
    precision: LayerPrecision, accelerator: Accelerator, memories: Memories, grid: Grid, total_cycles: int
) -> dict[str, float]:
    """Energy by component, as far as the machine describes it."""
    energy = {memory.name: 0.0 for memory in accelerator.memories}
    for memory in accelerator.memories:
        for row in memories.traffic():
            if row.memory == memory.name:
                energy[memory.name] += row.read_bits * memory.read_energy_pj_per_bit
                energy[memory.name] += row.write_bits * memory.write_energy_pj_per_bit
    element = accelerator.processing_element
    energy["processing_elements"] = (
        (grid.active_pe_cycles - grid.narrow_pe_cycles) * element.energy_pj_per_cycle_at(precision.wide)
        + grid.narrow_pe_cycles * element.energy_pj_per_cycle_at(precision.narrow)
    )
    expansion = element.expansion_energy_pj(precision)
    if expansion is not None:
        energy["weight_expansion"] = memories.expanded_weights * expansion
    wires, stage = accelerator.grid.interconnect, accelerator.output_stage
    if wires is not None:
        distance = hops(accelerator.grid)
        moved = sum(bits * distance[operand] for operand, bits in memories.grid_bits.items())
        energy["interconnect"] = moved * wires.energy_pj_per_bit_hop
    if stage is not None:
        conversion = stage.conversion_energy_pj(precision)
        if conversion is not None:
            energy["conversion"] = memories.converted * conversion
        if stage.scale_energy_pj is not None:
            energy["scaling"] = memories.scaled * stage.scale_energy_pj
    powers = [part.copies * part.leakage_mw for part in accelerator.parts if part.leakage_mw is not None]
    if powers:
        # mW times µs are nJ.
        energy["leakage"] = sum(powers) * (total_cycles / accelerator.clock_mhz) * 1e3
    return energy
