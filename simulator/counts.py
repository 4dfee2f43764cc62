"""Bits moved and energy spent, from a plan: the same closed forms for every mapping (docs/simulator.md).

``fast`` counts the DRAM's share event by event and takes the rest from here; ``bound`` takes all from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.layer import OPERANDS, Operand
from simulator.plan import Plan
from simulator.result import Traffic

PROCESSING_ELEMENTS = "processing_elements"
WEIGHT_EXPANSION = "weight_expansion"


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
            read, written = plan.layer.macs * precision.register_bits(operand), 0
        rows.append(Traffic(memory=file.name, operand=operand, read_bits=read, write_bits=written))
    return tuple(rows)


def expanded_weights(plan: Plan, rows: tuple[Traffic, ...]) -> int:
    """Weights that are expanded on their way to the grid: each as often as its memory hands it out."""
    if plan.precision.expanded_weight is None:
        return 0
    memory = plan.accelerator.dram if plan.bypass == "weight" else plan.accelerator.buffer_of("weight")
    moved = sum(row.read_bits for row in rows if row.memory == memory.name and row.operand == "weight")
    return moved // plan.precision.stored_bits("weight")


def energy_pj(plan: Plan, rows: tuple[Traffic, ...], active_pe_cycles: int) -> dict[str, float]:
    """Energy by component, in pJ: bits by energy a bit, the working cycles of the PEs, weights expanded."""
    accelerator = plan.accelerator
    energy = {}
    for memory in accelerator.memories:
        own = [row for row in rows if row.memory == memory.name]
        energy[memory.name] = (
            sum(row.read_bits for row in own) * memory.read_energy_pj_per_bit
            + sum(row.write_bits for row in own) * memory.write_energy_pj_per_bit
        )
    element = accelerator.processing_element
    energy[PROCESSING_ELEMENTS] = active_pe_cycles * element.energy_pj_per_cycle
    expansion = element.expansion_energy_pj(plan.precision)
    if expansion is not None:
        energy[WEIGHT_EXPANSION] = expanded_weights(plan, rows) * expansion
    return energy
