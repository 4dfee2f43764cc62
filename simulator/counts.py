"""Bits moved and energy spent, from a plan: the same closed forms for every mapping (docs/simulator.md).

``fast`` counts the DRAM's share event by event and takes the rest from here; ``bound`` takes all from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.interconnect import INTERCONNECT, hops
from simulator.layer import OPERANDS, Operand
from simulator.plan import Plan
from simulator.result import Traffic

PROCESSING_ELEMENTS, LEAKAGE = "processing_elements", "leakage"


@dataclass(frozen=True)
class DramTraffic:
    """Bits between DRAM and chip."""

    weight_read_bits: int
    input_read_bits: int
    sum_read_bits: int
    final_write_bits: int
    sum_write_bits: int
    parameter_read_bits: int

    @property
    def total_bits(self) -> int:
        """All bits that the channel moves."""
        return (
            self.weight_read_bits + self.input_read_bits + self.sum_read_bits
            + self.final_write_bits + self.sum_write_bits + self.parameter_read_bits
        )


def dram_traffic(plan: Plan) -> DramTraffic:
    """Bits between DRAM and chip by closed form, exact."""
    precision, outputs = plan.precision, plan.layer.output_count
    reads = {}
    operand: Operand
    for operand in ("weight", "input"):
        if operand == plan.bypass and plan.buffer_event_loops:
            elements = plan.grid_fetch_elements(operand)
        else:
            elements = plan.buffer_fill_elements(operand)
        reads[operand] = elements * precision.stored_bits(operand) * plan.dram_multiplier(operand)
    spilled = outputs * (plan.dram_multiplier("output") - 1) * precision.stored_bits("output")
    return DramTraffic(
        weight_read_bits=reads["weight"],
        input_read_bits=reads["input"],
        sum_read_bits=spilled,
        final_write_bits=outputs * precision.output.bits,
        sum_write_bits=spilled,
        parameter_read_bits=precision.parameter_bits(plan.layer),
    )


def traffic_rows(plan: Plan, dram: DramTraffic) -> tuple[Traffic, ...]:
    """Bits moved out of and into every memory, by operand."""
    precision = plan.precision
    name = plan.accelerator.dram.name
    rows = [
        Traffic(memory=name, operand="weight", read_bits=dram.weight_read_bits, write_bits=0),
        Traffic(memory=name, operand="input", read_bits=dram.input_read_bits, write_bits=0),
        Traffic(memory=name, operand="output", read_bits=dram.sum_read_bits,
                write_bits=dram.final_write_bits + dram.sum_write_bits),
        Traffic(memory=name, operand="parameters", read_bits=dram.parameter_read_bits, write_bits=0),
    ]
    filled = {"weight": dram.weight_read_bits, "input": dram.input_read_bits}
    for operand in OPERANDS:
        if operand == plan.bypass:
            continue
        bits = precision.stored_bits(operand)
        fetched = plan.grid_fetch_elements(operand) * bits * plan.grid_multiplier(operand)
        if operand == "output":
            written_back = plan.layer.output_count * bits * plan.dram_multiplier(operand)
            # The very first visit of an output has nothing to read back.
            sums_read = fetched - plan.layer.output_count * bits
            read, written = sums_read + written_back, fetched + dram.sum_read_bits
        else:
            read, written = fetched, filled[operand]
        memory = plan.accelerator.buffer_of(operand).name
        rows.append(Traffic(memory=memory, operand=operand, read_bits=read, write_bits=written))
    for operand in OPERANDS:
        file = plan.accelerator.registers_of(operand)
        if file is None:
            continue
        if operand == "output":
            read = written = plan.active_pe_steps * precision.stored_bits(operand)
        else:
            read, written = plan.layer.macs * precision.stored_bits(operand), 0
        rows.append(Traffic(memory=file.name, operand=operand, read_bits=read, write_bits=written))
    return tuple(rows)


def bit_hops(plan: Plan, rows: tuple[Traffic, ...]) -> float:
    """Σ over the bits that pass between memories and grid of the hops that each takes (``simulator.interconnect``).

    A visit's results travel from the PEs to the edge; partial sums read back are added there and travel no further.
    An operand that bypasses its buffer travels both ways, as DRAM moves it.
    """
    accelerator = plan.accelerator
    moved = {(row.memory, row.operand): row for row in rows}
    total = 0.0
    for operand, distance in hops(accelerator.grid).items():
        dram = moved[accelerator.dram.name, operand]
        if operand == plan.bypass:
            bits = dram.read_bits + dram.write_bits
        elif operand == "output":
            # What the buffer takes in beside the partial sums that return from DRAM comes from the grid.
            bits = moved[accelerator.buffer_of(operand).name, operand].write_bits - dram.read_bits
        else:
            bits = moved[accelerator.buffer_of(operand).name, operand].read_bits
        total += bits * distance
    return total


def energy_pj(plan: Plan, rows: tuple[Traffic, ...], total_cycles: int) -> dict[str, float]:
    """Energy by component, in pJ (docs/simulator.md, "Energy"). Components that are not modelled are left out."""
    accelerator, element = plan.accelerator, plan.accelerator.processing_element
    energy = {}
    for memory in accelerator.memories:
        own = [row for row in rows if row.memory == memory.name]
        energy[memory.name] = (
            sum(row.read_bits for row in own) * memory.read_energy_pj_per_bit
            + sum(row.write_bits for row in own) * memory.write_energy_pj_per_bit
        )
    active_pe_cycles = plan.active_pe_steps * plan.step_cycles
    energy[PROCESSING_ELEMENTS] = active_pe_cycles * element.energy_pj_per_cycle_at(plan.precision)
    if accelerator.grid.interconnect is not None:
        energy[INTERCONNECT] = bit_hops(plan, rows) * accelerator.grid.interconnect.energy_pj_per_bit_hop
    if accelerator.output_stage is not None:
        energy |= accelerator.output_stage.energy_pj(plan.layer, plan.precision)
    leakage = accelerator.leakage_pj_per_cycle
    if leakage is not None:
        energy[LEAKAGE] = total_cycles * leakage
    return energy
