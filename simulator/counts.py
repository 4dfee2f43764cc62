"""Bits moved and energy spent, from a plan: the same closed forms for every mapping (docs/simulator.md).

``fast`` counts the DRAM's share event by event and takes the rest from here; ``bound`` takes all from here. From the
elements on, a count is a number, or for a batch of mappings an array with an entry for each (``simulator.batch``).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from simulator.interconnect import INTERCONNECT, hops
from simulator.layer import OPERANDS, Operand
from simulator.plan import Plan
from simulator.result import Traffic, TrafficOperand

PROCESSING_ELEMENTS, LEAKAGE = "processing_elements", "leakage"
WEIGHT_EXPANSION = "weight_expansion"

Count = Any
"""An int, or an int64 array with an entry a mapping."""


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
class MovedElements:
    """What a mapping moves and works on: all that ``counts`` takes from it.

    Attributes:
        filled: of each operand, elements that move between each of its places and the next outer one, outermost place
            first: weights and inputs inward, outputs outward, as partial sums or finished.
        fetched: elements that pass between an operand's innermost place and the grid, in one direction.
        active_pe_steps: pairs of PE and step with at least one product.
    """

    filled: dict[Operand, tuple[Count, ...]]
    fetched: dict[Operand, Count]
    active_pe_steps: Count


class Moved(NamedTuple):
    """Bits that one operand moved out of and into one memory."""

    memory: str
    operand: TrafficOperand
    read_bits: Count
    write_bits: Count


def moved_elements(plan: Plan) -> MovedElements:
    """Elements that a plan moves, by closed form, exact."""
    filled = {
        operand: tuple(
            plan.fill_elements(operand, place.level) * plan.fill_multiplier(operand, place.level)
            for place in plan.places(operand)
        )
        for operand in OPERANDS
    }
    fetched = {
        operand: plan.fill_elements(operand, plan.levels + 1) * plan.grid_multiplier(operand) for operand in OPERANDS
    }
    return MovedElements(filled, fetched, plan.active_pe_steps)


def dram_traffic(plan: Plan, elements: MovedElements) -> DramTraffic:
    """Bits between DRAM and chip. Of the plan, here and below, only what no mapping but the bypass changes."""
    bits = {operand: plan.precision.stored_bits(operand) for operand in OPERANDS}
    outputs = _outward(plan, elements.filled["output"][0])
    return DramTraffic(
        weight_read_bits=elements.filled["weight"][0] * bits["weight"],
        input_read_bits=elements.filled["input"][0] * bits["input"],
        sum_read_bits=outputs.sum_bits,
        final_write_bits=outputs.final_bits,
        sum_write_bits=outputs.sum_bits,
        parameter_read_bits=plan.precision.parameter_bits(plan.layer),
    )


class _Outputs(NamedTuple):
    """Bits of outputs between two places: partial sums (as many inward as outward), finished outputs outward."""

    sum_bits: Count
    final_bits: int


def _outward(plan: Plan, elements: Count) -> _Outputs:
    """Bits of outputs between two places; all but the last passage of each output is one of a partial sum."""
    outputs = plan.layer.output_count
    return _Outputs((elements - outputs) * plan.precision.stored_bits("output"), outputs * plan.precision.output.bits)


def moved_bits(plan: Plan, dram: DramTraffic, elements: MovedElements) -> list[Moved]:
    """Bits moved out of and into every memory, by operand."""
    precision = plan.precision
    name = plan.accelerator.dram.name
    rows = [
        Moved(name, "weight", dram.weight_read_bits, 0),
        Moved(name, "input", dram.input_read_bits, 0),
        Moved(name, "output", dram.sum_read_bits, dram.final_write_bits + dram.sum_write_bits),
        Moved(name, "parameters", dram.parameter_read_bits, 0),
    ]
    for operand in OPERANDS:
        if operand != plan.bypass:
            rows += _buffer_rows(plan, operand, elements)
    for operand in OPERANDS:
        file = plan.accelerator.registers_of(operand)
        if file is None:
            continue
        if operand == "output":
            read = written = elements.active_pe_steps * precision.stored_bits(operand)
        else:
            read, written = plan.layer.macs * precision.register_bits(operand), 0
        rows.append(Moved(file.name, operand, read, written))
    return rows


def _buffer_rows(plan: Plan, operand: Operand, elements: MovedElements) -> list[Moved]:
    """Bits of one operand in each buffer that it passes."""
    bits = plan.precision.stored_bits(operand)
    fetched, filled = elements.fetched[operand] * bits, elements.filled[operand]
    rows = []
    for place, own, inner in itertools.zip_longest(plan.places(operand), filled, filled[1:]):
        if operand != "output":
            written = own * bits
            read = fetched if inner is None else inner * bits
        else:
            outward = _outward(plan, own)
            if inner is None:
                # The very first visit of an output has nothing to read back; what leaves is read as sums.
                again = fetched - plan.layer.output_count * bits
                written = fetched + outward.sum_bits
                read = again + outward.sum_bits + plan.layer.output_count * bits
            else:
                inward = _outward(plan, inner)
                written = inward.sum_bits + inward.final_bits + outward.sum_bits
                read = inward.sum_bits + outward.sum_bits + outward.final_bits
        rows.append(Moved(place.memory.name, operand, read, written))
    return rows


def traffic_rows(rows: Sequence[Moved]) -> tuple[Traffic, ...]:
    """Bits moved, as a result has them."""
    return tuple(Traffic(**row._asdict()) for row in rows)


def bit_hops(plan: Plan, dram: DramTraffic, elements: MovedElements) -> Count:
    """Σ over the bits that pass between memories and grid of the hops that each takes (``simulator.interconnect``).

    A visit's results travel from the PEs to the edge; partial sums read back are added there and travel no further.
    An operand that bypasses its buffer travels both ways, as DRAM moves it.
    """
    moved = {
        "weight": dram.weight_read_bits, "input": dram.input_read_bits,
        "output": dram.sum_read_bits + dram.final_write_bits + dram.sum_write_bits,
    }
    total = 0.0
    for operand, distance in hops(plan.accelerator.grid).items():
        fetched = elements.fetched[operand] * plan.precision.stored_bits(operand)
        total += (moved[operand] if operand == plan.bypass else fetched) * distance
    return total


def expanded_weights(plan: Plan, rows: Sequence[Moved]) -> Count:
    """Weights that are expanded on their way to the grid: each as often as its memory hands it out."""
    if plan.precision.expanded_weight is None:
        return 0
    memory = plan.accelerator.dram if plan.bypass == "weight" else plan.places("weight")[-1].memory
    moved = sum(row.read_bits for row in rows if row.memory == memory.name and row.operand == "weight")
    return moved // plan.precision.stored_bits("weight")


def energy_pj(
    plan: Plan, dram: DramTraffic, elements: MovedElements, active_pe_cycles: Count, total_cycles: Count
) -> dict[str, Any]:
    """Energy by component, in pJ (docs/simulator.md, "Energy"). Components that are not modelled are left out."""
    rows = moved_bits(plan, dram, elements)
    accelerator, element = plan.accelerator, plan.accelerator.processing_element
    energy: dict[str, Any] = {}
    for memory in accelerator.memories:
        own = [row for row in rows if row.memory == memory.name]
        energy[memory.name] = (
            sum(row.read_bits for row in own) * memory.read_energy_pj_per_bit
            + sum(row.write_bits for row in own) * memory.write_energy_pj_per_bit
        )
    energy[PROCESSING_ELEMENTS] = active_pe_cycles * element.energy_pj_per_cycle_at(plan.precision)
    expansion = element.expansion_energy_pj(plan.precision)
    if expansion is not None:
        energy[WEIGHT_EXPANSION] = expanded_weights(plan, rows) * expansion
    if accelerator.grid.interconnect is not None:
        energy[INTERCONNECT] = bit_hops(plan, dram, elements) * accelerator.grid.interconnect.energy_pj_per_bit_hop
    if accelerator.output_stage is not None:
        energy |= accelerator.output_stage.energy_pj(plan.layer, plan.precision)
    leakage = accelerator.leakage_pj_per_cycle
    if leakage is not None:
        energy[LEAKAGE] = total_cycles * leakage
    return energy
