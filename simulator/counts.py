"""Bits moved and energy spent, from a plan: the same closed forms for every mapping (docs/simulator.md).

``fast`` counts the DRAM's share event by event and takes the rest from here; ``bound`` takes all from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from simulator.layer import OPERANDS, Operand
from simulator.plan import Plan
from simulator.result import Traffic, TrafficOperand

PROCESSING_ELEMENTS = "processing_elements"
WEIGHT_EXPANSION = "weight_expansion"


Count = Any
"""A whole number, or an array of them with an entry for each of many mappings (``simulator.batch``)."""


@dataclass(frozen=True)
class DramTraffic:
    """Bits between DRAM and chip."""

    weight_read_bits: Count
    input_read_bits: Count
    sum_read_bits: Count
    final_write_bits: Count
    sum_write_bits: Count
    parameter_read_bits: Count

    @property
    def total_bits(self) -> Count:
        """All bits that the channel moves."""
        return (
            self.weight_read_bits + self.input_read_bits + self.sum_read_bits
            + self.final_write_bits + self.sum_write_bits + self.parameter_read_bits
        )


@dataclass(frozen=True)
class GridTraffic:
    """What moves between buffers and grid, and what the grid does.

    Attributes:
        fetched_elements: elements that pass between an operand's buffer and the grid, in one direction.
        output_tiles: how often each output goes to DRAM, as a partial sum or finished.
        active_pe_steps: pairs of PE and step with at least one product.
    """

    fetched_elements: dict[Operand, Count]
    output_tiles: Count
    active_pe_steps: Count


class Moved(NamedTuple):
    """Bits that one operand moved out of and into one memory."""

    memory: str
    operand: TrafficOperand
    read_bits: Count
    write_bits: Count


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


def grid_traffic(plan: Plan) -> GridTraffic:
    """Elements between buffers and grid by closed form, exact."""
    return GridTraffic(
        fetched_elements={
            operand: plan.grid_fetch_elements(operand) * plan.grid_multiplier(operand) for operand in OPERANDS
        },
        output_tiles=plan.dram_multiplier("output"),
        active_pe_steps=plan.active_pe_steps,
    )


def moved_bits(plan: Plan, dram: DramTraffic, grid: GridTraffic) -> list[Moved]:
    """Bits moved out of and into every memory, by operand. Of the plan, only what no mapping but the bypass changes."""
    precision = plan.precision
    name = plan.accelerator.dram.name
    rows = [
        Moved(name, "weight", dram.weight_read_bits, 0),
        Moved(name, "input", dram.input_read_bits, 0),
        Moved(name, "output", dram.sum_read_bits, dram.final_write_bits + dram.sum_write_bits),
        Moved(name, "parameters", dram.parameter_read_bits, 0),
    ]
    filled = {"weight": dram.weight_read_bits, "input": dram.input_read_bits}
    for operand in OPERANDS:
        if operand == plan.bypass:
            continue
        bits = precision.stored_bits(operand)
        fetched = grid.fetched_elements[operand] * bits
        if operand == "output":
            written_back = plan.layer.output_count * bits * grid.output_tiles
            # The very first visit of an output has nothing to read back.
            sums_read = fetched - plan.layer.output_count * bits
            read, written = sums_read + written_back, fetched + dram.sum_read_bits
        else:
            read, written = fetched, filled[operand]
        rows.append(Moved(plan.accelerator.buffer_of(operand).name, operand, read, written))
    for operand in OPERANDS:
        file = plan.accelerator.registers_of(operand)
        if file is None:
            continue
        if operand == "output":
            read = written = grid.active_pe_steps * precision.stored_bits(operand)
        else:
            read, written = plan.layer.macs * precision.register_bits(operand), 0
        rows.append(Moved(file.name, operand, read, written))
    return rows


def traffic_rows(plan: Plan, dram: DramTraffic) -> tuple[Traffic, ...]:
    """Bits moved out of and into every memory, by operand, as a result has them."""
    rows = moved_bits(plan, dram, grid_traffic(plan))
    return tuple(
        Traffic(memory=row.memory, operand=row.operand, read_bits=row.read_bits, write_bits=row.write_bits)
        for row in rows
    )


def expanded_weights(plan: Plan, rows: Sequence[Traffic | Moved]) -> Count:
    """Weights that are expanded on their way to the grid: each as often as its memory hands it out."""
    if plan.precision.expanded_weight is None:
        return 0
    memory = plan.accelerator.dram if plan.bypass == "weight" else plan.accelerator.buffer_of("weight")
    moved = sum(row.read_bits for row in rows if row.memory == memory.name and row.operand == "weight")
    return moved // plan.precision.stored_bits("weight")


def energy_pj(plan: Plan, rows: Sequence[Traffic | Moved], active_pe_cycles: Count) -> dict[str, Any]:
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
