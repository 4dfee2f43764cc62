"""Bits moved and energy spent, from a plan: the same closed forms for every mapping (docs/simulator.md).

``fast`` counts the DRAM's share event by event and takes the rest from here; ``bound`` takes all from here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

from simulator.interconnect import INTERCONNECT, hops
from simulator.layer import OPERANDS, Operand
from simulator.plan import Place, Plan
from simulator.result import Traffic

PROCESSING_ELEMENTS, LEAKAGE = "processing_elements", "leakage"
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
    weights, inputs = (_moved_inward(plan, operand, plan.places(operand)[0]) for operand in ("weight", "input"))
    outputs = _moved_outputs(plan, plan.places("output")[0])
    return DramTraffic(
        weight_read_bits=weights,
        input_read_bits=inputs,
        sum_read_bits=outputs.sum_bits,
        final_write_bits=outputs.final_bits,
        sum_write_bits=outputs.sum_bits,
        parameter_read_bits=plan.precision.parameter_bits(plan.layer),
    )


class _Outputs(NamedTuple):
    """Bits of outputs between two places: partial sums (as many inward as outward), finished outputs outward."""

    sum_bits: int
    final_bits: int


def _moved_inward(plan: Plan, operand: Operand, place: Place) -> int:
    """Bits of weights or inputs that are brought to a place."""
    return plan.fill_bits(operand, place.level) * plan.fill_multiplier(operand, place.level)


def _moved_outputs(plan: Plan, place: Place) -> _Outputs:
    """Bits of outputs between a place and the next outer one."""
    precision, outputs = plan.precision, plan.layer.output_count
    again = plan.fill_multiplier("output", place.level) - 1
    return _Outputs(outputs * again * precision.stored_bits("output"), outputs * precision.output.bits)


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
    for operand in OPERANDS:
        if operand != plan.bypass:
            rows += _buffer_rows(plan, operand)
    for operand in OPERANDS:
        file = plan.accelerator.registers_of(operand)
        if file is None:
            continue
        if operand == "output":
            read = written = plan.active_pe_steps * precision.stored_bits(operand)
        else:
            read = sum(count * part.register_bits(operand) for part, count in plan.products())
            written = 0
        rows.append(Traffic(memory=file.name, operand=operand, read_bits=read, write_bits=written))
    return tuple(rows)


def _buffer_rows(plan: Plan, operand: Operand) -> list[Traffic]:
    """Bits of one operand in each buffer that it passes."""
    places = plan.places(operand)
    bits = plan.precision.stored_bits(operand)
    fetched = plan.fill_bits(operand, plan.levels + 1) * plan.grid_multiplier(operand)
    rows = []
    for place, inner in itertools.zip_longest(places, places[1:]):
        if operand != "output":
            written = _moved_inward(plan, operand, place)
            read = fetched if inner is None else _moved_inward(plan, operand, inner)
        else:
            outward = _moved_outputs(plan, place)
            if inner is None:
                # The very first visit of an output has nothing to read back; what leaves is read as sums.
                again = fetched - plan.layer.output_count * bits
                written = fetched + outward.sum_bits
                read = again + outward.sum_bits + plan.layer.output_count * bits
            else:
                inward = _moved_outputs(plan, inner)
                written = inward.sum_bits + inward.final_bits + outward.sum_bits
                read = inward.sum_bits + outward.sum_bits + outward.final_bits
        rows.append(Traffic(memory=place.memory.name, operand=operand, read_bits=read, write_bits=written))
    return rows


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
        else:
            place = plan.places(operand)[-1]
            row = moved[place.memory.name, operand]
            # What the outputs' buffer takes in beside the partial sums that return from outside comes from the grid.
            bits = row.read_bits if operand != "output" else row.write_bits - _moved_outputs(plan, place).sum_bits
        total += bits * distance
    return total


def expanded_weights(plan: Plan, rows: tuple[Traffic, ...]) -> int:
    """Weights that are expanded on their way to the grid: each as often as its memory hands it out."""
    if plan.precision.expanded_weight is None:
        return 0
    memory = plan.accelerator.dram if plan.bypass == "weight" else plan.places("weight")[-1].memory
    moved = sum(row.read_bits for row in rows if row.memory == memory.name and row.operand == "weight")
    return moved // plan.precision.stored_bits("weight")


def energy_pj(
    plan: Plan, rows: tuple[Traffic, ...], active_pe_cycles: int, total_cycles: int
) -> dict[str, float]:
    """Energy by component, in pJ (docs/simulator.md, "Energy"). Components that are not modelled are left out."""
    accelerator, element = plan.accelerator, plan.accelerator.processing_element
    energy = {}
    for memory in accelerator.memories:
        own = [row for row in rows if row.memory == memory.name]
        energy[memory.name] = (
            sum(row.read_bits for row in own) * memory.read_energy_pj_per_bit
            + sum(row.write_bits for row in own) * memory.write_energy_pj_per_bit
        )
    energy[PROCESSING_ELEMENTS] = active_pe_cycles * element.energy_pj_per_cycle_at(plan.precision)
    if plan.precision.split is not None:
        less = element.energy_pj_per_cycle_at(plan.precision) - element.energy_pj_per_cycle_at(plan.narrow)
        energy[PROCESSING_ELEMENTS] -= plan.narrow_pe_cycles * less
    expansion = element.expansion_energy_pj(plan.precision)
    if expansion is not None:
        energy[WEIGHT_EXPANSION] = expanded_weights(plan, rows) * expansion
    if accelerator.grid.interconnect is not None:
        energy[INTERCONNECT] = bit_hops(plan, rows) * accelerator.grid.interconnect.energy_pj_per_bit_hop
    if accelerator.output_stage is not None:
        energy |= accelerator.output_stage.energy_pj(plan.layer, plan.precision)
    leakage = accelerator.leakage_pj_per_cycle
    if leakage is not None:
        energy[LEAKAGE] = total_cycles * leakage
    return energy
