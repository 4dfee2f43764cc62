"""Bits moved and energy spent, from a plan: the same closed forms for every mapping (docs/simulator.md).

``fast`` counts the DRAM's share event by event and takes the rest from here; ``bound`` takes all from here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

from simulator.accelerator import Accelerator
from simulator.layer import OPERANDS, Operand
from simulator.plan import Place, Plan
from simulator.result import Traffic

PROCESSING_ELEMENTS = "processing_elements"


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
    elements = plan.fill_elements(operand, place.level)
    return elements * plan.precision.stored_bits(operand) * plan.fill_multiplier(operand, place.level)


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
            read, written = plan.layer.macs * precision.stored_bits(operand), 0
        rows.append(Traffic(memory=file.name, operand=operand, read_bits=read, write_bits=written))
    return tuple(rows)


def _buffer_rows(plan: Plan, operand: Operand) -> list[Traffic]:
    """Bits of one operand in each buffer that it passes."""
    places = plan.places(operand)
    bits = plan.precision.stored_bits(operand)
    fetched = plan.fill_elements(operand, plan.levels + 1) * bits * plan.grid_multiplier(operand)
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


def energy_pj(accelerator: Accelerator, rows: tuple[Traffic, ...], active_pe_cycles: int) -> dict[str, float]:
    """Energy by component, in pJ: bits by energy a bit, and the working cycles of the PEs."""
    energy = {}
    for memory in accelerator.memories:
        own = [row for row in rows if row.memory == memory.name]
        energy[memory.name] = (
            sum(row.read_bits for row in own) * memory.read_energy_pj_per_bit
            + sum(row.write_bits for row in own) * memory.write_energy_pj_per_bit
        )
    energy[PROCESSING_ELEMENTS] = active_pe_cycles * accelerator.processing_element.energy_pj_per_cycle
    return energy
