"""Bits moved and energy spent, from a plan: the same closed forms for every mapping (docs/simulator.md).

``fast`` counts the DRAM's share event by event and takes the rest from here; ``bound`` takes all from here. From the
elements on, a count is a number, or for a batch of mappings an array with an entry for each (``simulator.batch``).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from simulator.accelerator import IDLE_LEAKAGE, LEAKAGE, Accelerator
from simulator.interconnect import INTERCONNECT, hops
from simulator.layer import OPERANDS, Operand
from simulator.plan import Plan
from simulator.result import Traffic, TrafficOperand

PROCESSING_ELEMENTS = "processing_elements"
WEIGHT_EXPANSION = "weight_expansion"

MOVED_INWARD: tuple[Operand, ...] = ("weight", "input")
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
class Moves:
    """What a mapping moves and works on: all that ``counts`` takes from it.

    Attributes:
        filled_bits: of weights and inputs, bits brought to each of their places, outermost first.
        fetched_bits: bits that pass between an operand's innermost place and the grid, in one direction.
        output_passages: outputs that move from each of their places to the next outer one, outermost place first, as
            partial sums or finished.
        read_in_registers_bits: of weights and inputs, bits that the products read in the register files.
        active_pe_steps: pairs of PE and step with at least one product.
    """

    filled_bits: dict[Operand, tuple[Count, ...]]
    fetched_bits: dict[Operand, Count]
    output_passages: tuple[Count, ...]
    read_in_registers_bits: dict[Operand, Count]
    active_pe_steps: Count


class Moved(NamedTuple):
    """Bits that one operand moved out of and into one memory."""

    memory: str
    operand: TrafficOperand
    read_bits: Count
    write_bits: Count


def moves_of(plan: Plan) -> Moves:
    """What a plan moves, by closed form, exact."""
    filled = {
        operand: tuple(
            plan.fill_bits(operand, place.level) * plan.fill_multiplier(operand, place.level)
            for place in plan.places(operand)
        )
        for operand in MOVED_INWARD
    }
    fetched = {
        operand: plan.fill_bits(operand, plan.levels + 1) * plan.grid_multiplier(operand) for operand in OPERANDS
    }
    passages = tuple(
        plan.layer.output_count * plan.fill_multiplier("output", place.level) for place in plan.places("output")
    )
    in_registers = {
        operand: sum(count * part.register_bits(operand) for part, count in plan.products())
        for operand in MOVED_INWARD
    }
    return Moves(filled, fetched, passages, in_registers, plan.active_pe_steps)


def dram_traffic(plan: Plan, moves: Moves) -> DramTraffic:
    """Bits between DRAM and chip. Of the plan, here and below, only what no mapping but the bypass changes."""
    outputs = _outward(plan, moves.output_passages[0])
    return DramTraffic(
        weight_read_bits=moves.filled_bits["weight"][0],
        input_read_bits=moves.filled_bits["input"][0],
        sum_read_bits=outputs.sum_bits,
        final_write_bits=outputs.final_bits,
        sum_write_bits=outputs.sum_bits,
        parameter_read_bits=plan.precision.parameter_bits(plan.layer),
    )


class _Outputs(NamedTuple):
    """Bits of outputs between two places: partial sums (as many inward as outward), finished outputs outward."""

    sum_bits: Count
    final_bits: int


def _outward(plan: Plan, passages: Count) -> _Outputs:
    """Bits of outputs between two places; all but the last passage of each output is one of a partial sum."""
    outputs = plan.layer.output_count
    return _Outputs((passages - outputs) * plan.precision.stored_bits("output"), outputs * plan.precision.output.bits)


def moved_bits(plan: Plan, dram: DramTraffic, moves: Moves) -> list[Moved]:
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
            rows += _buffer_rows(plan, operand, moves)
    for operand in OPERANDS:
        file = plan.accelerator.registers_of(operand)
        if file is None:
            continue
        if operand == "output":
            read = written = moves.active_pe_steps * precision.stored_bits(operand)
        else:
            read, written = moves.read_in_registers_bits[operand], 0
        rows.append(Moved(file.name, operand, read, written))
    return rows


def _buffer_rows(plan: Plan, operand: Operand, moves: Moves) -> list[Moved]:
    """Bits of one operand in each buffer that it passes."""
    fetched = moves.fetched_bits[operand]
    rows = []
    if operand != "output":
        filled = moves.filled_bits[operand]
        for place, written, inner in itertools.zip_longest(plan.places(operand), filled, filled[1:]):
            rows.append(Moved(place.memory.name, operand, fetched if inner is None else inner, written))
        return rows
    passages = moves.output_passages
    for place, own, inner in itertools.zip_longest(plan.places(operand), passages, passages[1:]):
        outward = _outward(plan, own)
        if inner is None:
            # The very first visit of an output has nothing to read back; what leaves is read as sums.
            read, written = fetched + outward.sum_bits, fetched + outward.sum_bits
        else:
            inward = _outward(plan, inner)
            written = inward.sum_bits + inward.final_bits + outward.sum_bits
            read = inward.sum_bits + outward.sum_bits + outward.final_bits
        rows.append(Moved(place.memory.name, operand, read, written))
    return rows


def traffic_rows(rows: Sequence[Moved]) -> tuple[Traffic, ...]:
    """Bits moved, as a result has them."""
    return tuple(Traffic(**row._asdict()) for row in rows)


def bit_hops(plan: Plan, dram: DramTraffic, moves: Moves) -> Count:
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
        total += (moved[operand] if operand == plan.bypass else moves.fetched_bits[operand]) * distance
    return total


def expanded_weights(plan: Plan, rows: Sequence[Moved]) -> Count:
    """Weights that are expanded on their way to the grid: each as often as its memory hands it out."""
    if plan.precision.expanded_weight is None:
        return 0
    memory = plan.accelerator.dram if plan.bypass == "weight" else plan.places("weight")[-1].memory
    moved = sum(row.read_bits for row in rows if row.memory == memory.name and row.operand == "weight")
    return moved // plan.precision.stored_bits("weight")


def energy_pj(
    plan: Plan, dram: DramTraffic, moves: Moves, active_pe_cycles: Count, total_cycles: Count
) -> dict[str, Any]:
    """Energy by component, in pJ (docs/simulator.md, "Energy"). Components that are not modelled are left out."""
    rows = moved_bits(plan, dram, moves)
    accelerator, element = plan.accelerator, plan.accelerator.processing_element
    energy: dict[str, Any] = {}
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
        energy[INTERCONNECT] = bit_hops(plan, dram, moves) * accelerator.grid.interconnect.energy_pj_per_bit_hop
    if accelerator.output_stage is not None:
        energy |= accelerator.output_stage.energy_pj(plan.layer, plan.precision)
    return energy | leakage_pj(accelerator, total_cycles)


def leakage_pj(accelerator: Accelerator, total_cycles: Count) -> dict[str, Any]:
    """Energy in pJ that leaks in so many cycles: of the machine's own parts, and of tiles that rest beside it."""
    rates = {LEAKAGE: accelerator.own_leakage_pj_per_cycle, IDLE_LEAKAGE: accelerator.idle_leakage_pj_per_cycle}
    return {name: total_cycles * rate for name, rate in rates.items() if rate is not None}
