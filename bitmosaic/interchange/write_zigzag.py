"""Write a design as ZigZag's files: accelerator, workload, mapping.

A mapping's file gives the spatial loops and the order of the temporal ones; ZigZag lays the tiles itself. Where they
lie here is written beside them in JSON, in the form of ZigZag's result (``zigzag.read_result``).
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from bitmosaic.interchange.design import Design
from bitmosaic.interchange.write_yaml import number, text_of
from bitmosaic.interchange.zigzag import DIMS, MEMORY_OPERANDS, PORT_FLOWS
from simulator.counting_rules.loop_nest import Loop, LoopNest, Machine, Memory, Port
from simulator.layer import Dim, Layer, Operand
from simulator.precision import LayerPrecision

ASSUMED_WORD_BITS = 256
"""Width of the words of a buffer whose port has no limit here: ZigZag counts words."""
DRAM_BITS = 1 << 50
_NAMES: dict[Dim, str] = {dim: name for name, dim in DIMS.items()}
_OPERAND: dict[Operand, str] = {operand: name for name, operand in MEMORY_OPERANDS.items()}
_FLOW = {flow: name for name, flow in PORT_FLOWS.items()}
_LETTER: dict[Operand, str] = {"output": "O", "weight": "W", "input": "I"}


def files_of(design: Design) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return file name → text, and notes."""
    design.check_perfect("ZigZag")
    found, notes = {}, list(design.notes)
    if design.machine is not None:
        data = _accelerator(design.machine, design.precision or LayerPrecision(), notes)
        found["accelerator.yaml"] = text_of(data, tuple(dict.fromkeys(notes)), f"{design.machine.name} for ZigZag")
    if design.layer is not None:
        found["workload.yaml"] = text_of([_workload(design.layer, design.precision or LayerPrecision())])
    if design.nest is not None and design.layer is not None:
        notes.append("ZigZag lays tiles in memories itself, given the order of loops: its places may differ from those "
                     "in places.json.")
        found["mapping.yaml"] = text_of([_mapping(design.layer, design.nest)], (notes[-1],))
        if design.nest.stores and design.machine is not None:
            found["places.json"] = json.dumps(_places(design.machine, design.nest), indent=1) + "\n"
    return found, tuple(dict.fromkeys(notes))


def _accelerator(machine: Machine, precision: LayerPrecision, notes: list[str]) -> dict[str, Any]:
    memories = {memory.name: _memory(memory, machine, precision, notes) for memory in reversed(machine.memories)}
    return {
        "name": machine.name, "memories": memories,
        "operational_array": {"unit_energy": number(machine.mac_energy_pj), "unit_area": 0,
                              "dimensions": list(machine.axes), "sizes": list(machine.axes.values())},
    }


def _memory(memory: Memory, machine: Machine, precision: LayerPrecision, notes: list[str]) -> dict[str, Any]:
    ports_of = _without_waiting(memory)
    widths = {port.name: _word_bits(port, memory, precision, notes) for port in ports_of}
    reads = next(port for port in ports_of if any(flow.startswith("to_") for _, flow in port.serves))
    writes = next(port for port in ports_of if any(flow.startswith("from_") for _, flow in port.serves))
    if memory.size_bits is None:
        notes.append(f"{memory.name} has no limit of size: 2^50 bits there.")
    ports = []
    for port in ports_of:
        directions = {flow.partition("_")[0] for _, flow in port.serves}
        kind = "read_write" if len(directions) == 2 else "read" if directions == {"to"} else "write"
        allocation = [
            f"{_OPERAND[operand]}, {_FLOW[flow]}" for operand, flow in sorted(port.serves)
            if operand in memory.keeps and _flows(operand, flow)
        ]
        ports.append({"name": port.name, "type": kind, "bandwidth_min": widths[port.name],
                      "bandwidth_max": widths[port.name], "allocation": allocation})
    return {
        "size": memory.size_bits or DRAM_BITS,
        "r_cost": number(memory.read_energy_pj / reads.word_bits * widths[reads.name]),
        "w_cost": number(memory.write_energy_pj / writes.word_bits * widths[writes.name]),
        "area": 0, "latency": 1, "operands": [_OPERAND[operand] for operand in memory.keeps], "ports": ports,
        "served_dimensions": [axis for axis in machine.axes if axis not in memory.replicated_along],
    }


def _without_waiting(memory: Memory) -> tuple[Port, ...]:
    """The ports of a memory; at the multipliers, where none has a limit, one for each way of each operand."""
    if not memory.replicated_along or any(port.bits_per_cycle is not None for port in memory.ports):
        return memory.ports
    return tuple(
        port.model_copy(update={"name": f"{_OPERAND[operand]}_{_FLOW[flow]}", "serves": frozenset([(operand, flow)])})
        for port in memory.ports for operand, flow in sorted(port.serves)
        if operand in memory.keeps and _flows(operand, flow)
    )


def _flows(operand: Operand, flow: str) -> bool:
    """Whether an operand moves this way: weights and inputs only inwards."""
    return operand == "output" or flow in ("to_inner", "from_outer")


def _word_bits(port: Port, memory: Memory, precision: LayerPrecision, notes: list[str]) -> int:
    if port.bits_per_cycle is not None:
        return port.bits_per_cycle
    if memory.replicated_along:
        return max(precision.stored_bits(operand) for operand in memory.keeps)
    notes.append(f"The port {port.name} of {memory.name} has no limit here; ZigZag counts words: {ASSUMED_WORD_BITS} "
                 "bits a cycle are assumed.")
    return ASSUMED_WORD_BITS


def _workload(layer: Layer, precision: LayerPrecision) -> dict[str, Any]:
    every: tuple[Dim, ...] = ("N", "G", "K", "C", "P", "Q", "R", "S")
    has = {dim for dim in every if layer.extent(dim) > 1}
    slides: tuple[tuple[str, Dim, Dim, int], ...] = (("iy", "P", "R", 0), ("ix", "Q", "S", 1))
    positions, relations = "", []
    for index, position, tap, axis in slides:
        if has & {position, tap}:
            # Both loops are named where either runs, so that the stride has its place.
            has |= {position, tap}
            positions += f"[{index}]"
            relations.append(f"{index}={layer.stride[axis]}*{_NAMES[position].lower()}"
                             f"+{layer.dilation[axis]}*{_NAMES[tap].lower()}")

    def indices(*dims: Dim) -> str:
        return "".join(f"[{_NAMES[dim].lower()}]" for dim in dims if dim in has)

    order = [dim for dim in every if dim in has]
    equation = (f"O{indices('N', 'G', 'K', 'P', 'Q')}+=W{indices('G', 'K', 'C', 'R', 'S')}*"
                f"I{indices('N', 'G', 'C')}{positions}")
    return {
        "id": 0, "name": layer.name, "operator_type": "Conv" if positions else "Gemm", "equation": equation,
        "dimension_relations": relations, "loop_dims": [_NAMES[dim] for dim in order],
        "loop_sizes": [layer.extent(dim) for dim in order],
        "operand_precision": {"W": precision.weight.bits, "I": precision.input.bits, "O": precision.accumulator.bits,
                              "O_final": precision.output.bits},
        "operand_source": {"I": 0, "W": 0},
    }


def _mapping(layer: Layer, nest: LoopNest) -> dict[str, Any]:
    return {
        "name": layer.name,
        "spatial_mapping": {axis: [f"{_NAMES[loop.dim]}, {loop.trips}" for loop in loops]
                            for axis, loops in nest.spatial.items()},
        "temporal_ordering": [_pair(loop) for loop in reversed(nest.temporal)],
        "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"},
    }


def _pair(loop: Loop) -> list[Any]:
    return [_NAMES[loop.dim], loop.trips]


def _places(machine: Machine, nest: LoopNest) -> dict[str, Any]:
    temporal, memories = {}, {}
    for operand, letter in _LETTER.items():
        kept = list(reversed(nest.stores[operand]))
        ends = [len(nest.temporal), *(store.loops_above for store in kept)]
        temporal[letter] = [
            [_pair(loop) for loop in reversed(nest.temporal[first:last])]
            for last, first in itertools.pairwise(ends)
        ]
        temporal[letter][-1] += [_pair(loop) for loop in reversed(nest.temporal[: ends[-1]])]
        memories[letter] = [store.memory for store in kept]
    return {"accelerator": machine.name, "memories": memories, "temporal": temporal,
            "spatial": {axis: {_NAMES[loop.dim]: loop.trips for loop in loops} for axis, loops in nest.spatial.items()}}
