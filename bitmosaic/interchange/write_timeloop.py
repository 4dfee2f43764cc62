"""Write a design as Timeloop's files, version 0.4: architecture, problem, mapping, energies.

A memory has words of one width there: that of the weights and inputs, or of the sums where it keeps outputs alone.
Each axis is a container of its own with a fan-out along X. Accesses are of one word.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from bitmosaic.interchange.design import Design
from bitmosaic.interchange.nest_to_mapping import MOST_PLACES, increasing, repeated
from bitmosaic.interchange.write_yaml import Tagged, number, text_of
from simulator.counting_rules.loop_nest import Loop, LoopNest, Machine, Memory, extents
from simulator.errors import ConfigurationError, Problem
from simulator.layer import OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.precision import LayerPrecision

SPACES: dict[Operand, str] = {"weight": "Weights", "input": "Inputs", "output": "Outputs"}
DIMENSIONS: tuple[Dim, ...] = ("G", "N", "K", "C", "P", "Q", "R", "S")


def files_of(design: Design) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return file name → text, and notes. Raises ``ConfigurationError`` for what Timeloop cannot say."""
    found: dict[str, str] = {}
    notes = list(design.notes)
    precision = design.precision or LayerPrecision()
    if precision.weight.bits != precision.input.bits:
        notes.append(f"Timeloop has words of one width: {max(precision.weight.bits, precision.input.bits)} bits for "
                     "weights and inputs.")
    if design.machine is not None:
        data, table = _architecture(design, design.machine, precision, notes)
        head = tuple(dict.fromkeys(notes))
        found["architecture.yaml"] = text_of(data, head, f"{design.machine.name} for Timeloop")
        found["ERT.yaml"] = text_of(table, ("Energies in pJ, for an access of one word.",))
    if design.layer is not None:
        found["problem.yaml"] = text_of(_problem(design.layer))
    if design.layer is not None and design.machine is not None and design.nest is not None and design.nest.stores:
        found["mapping.yaml"] = text_of(_mapping(design.layer, design.machine, design.nest),
                                        ("Permutations name loops from the innermost out.",))
    return found, tuple(dict.fromkeys(notes))


def _word_bits(memory: Memory, precision: LayerPrecision, notes: list[str]) -> int:
    if memory.keeps == ("output",):
        return precision.accumulator.bits
    width = max(precision.weight.bits, precision.input.bits)
    if "output" in memory.keeps and precision.accumulator.bits != width:
        notes.append(f"{memory.name} has words of {width} bits there, for sums too, which have "
                     f"{precision.accumulator.bits} here.")
    return width


def _architecture(
    design: Design, machine: Machine, precision: LayerPrecision, notes: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    seconds = 1e-6 / (design.clock_mhz or 1000.0)
    nodes: list[Any] = [Tagged("Container", name="system", attributes={"global_cycle_seconds": seconds})]
    tables: list[Any] = []
    opened: list[str] = []
    for memory in sorted(machine.memories, key=lambda each: len(each.replicated_along)):
        nodes += _containers(machine, [axis for axis in memory.replicated_along if axis not in opened])
        opened += [axis for axis in memory.replicated_along if axis not in opened]
        bits = _word_bits(memory, precision, notes)
        reads = next(port for port in memory.ports if any(flow.startswith("to_") for _, flow in port.serves))
        writes = next(port for port in memory.ports if any(flow.startswith("from_") for _, flow in port.serves))
        attributes: dict[str, Any] = {"width": bits, "datawidth": bits}
        if memory.size_bits is not None:
            if memory.size_bits % bits:
                raise ConfigurationError(Problem(f"must be whole words of {bits} bits", value=str(memory.size_bits),
                                                 path=f"memories.{memory.name}.size_bits"))
            attributes["depth"] = memory.size_bits // bits
        sides = (("shared_bandwidth", reads),) if reads is writes else (
            ("read_bandwidth", reads), ("write_bandwidth", writes))
        for side, port in sides:
            if port.bits_per_cycle is not None:
                attributes[side] = number(port.bits_per_cycle / bits)
        is_outermost = memory is machine.memories[0]
        dataspace: dict[str, Any] = {"keep": [SPACES[operand] for operand in OPERANDS if operand in memory.keeps]}
        without = [SPACES[operand] for operand in OPERANDS if operand not in memory.keeps]
        if without:
            dataspace["bypass"] = without
        nodes.append(Tagged("Component", **{
            "name": memory.name, "class": "DRAM" if is_outermost else "storage", "attributes": attributes,
            "constraints": {"dataspace": dataspace}}))
        read, written = (energy / port.word_bits * bits for energy, port in (
            (memory.read_energy_pj, reads), (memory.write_energy_pj, writes)))
        tables.append({"name": f"system.{memory.name}", "actions": [
            {"name": action, "arguments": {}, "energy": number(energy)}
            for action, energy in (("read", read), ("write", written), ("update", written), ("leak", 0))]})
    nodes += _containers(machine, [axis for axis in machine.axes if axis not in opened])
    nodes.append(Tagged("Component", **{"name": "MAC", "class": "intmac", "attributes": {
        "datawidth": max(precision.weight.bits, precision.input.bits)}}))
    tables.append({"name": "system.MAC", "actions": [
        {"name": "compute", "arguments": {}, "energy": number(machine.mac_energy_pj)},
        {"name": "leak", "arguments": {}, "energy": 0}]})
    return ({"architecture": {"version": 0.4, "nodes": nodes}}, {"ERT": {"version": 0.4, "tables": tables}})


def _containers(machine: Machine, axes: list[str]) -> list[Tagged]:
    return [Tagged("Container", name=axis, spatial={"meshX": machine.axes[axis]}) for axis in axes]


def _problem(layer: Layer) -> dict[str, Any]:
    dims = [dim for dim in DIMENSIONS if layer.extent(dim) > 1]
    strides = {"P": ("Pstride", layer.stride[0]), "R": ("Rdilation", layer.dilation[0]),
               "Q": ("Qstride", layer.stride[1]), "S": ("Sdilation", layer.dilation[1])}
    # A stride without a window to slide changes nothing but the addresses; both loops of a window are named.
    coefficients = {name: value for dim, (name, value) in strides.items() if dim in dims and value > 1}

    def index(*names: Dim) -> list[list[Any]]:
        found = []
        for dim in names:
            if dim in dims:
                name = strides[dim][0] if dim in strides else ""
                found.append([dim, name] if name in coefficients else [dim])
        return found

    def plain(*names: Dim) -> list[Any]:
        return [[[dim]] for dim in names if dim in dims]

    windows = [window for window in (index("P", "R"), index("Q", "S")) if window]
    spaces = [
        {"name": "Weights", "projection": plain("G", "K", "C", "R", "S")},
        {"name": "Inputs", "projection": [*plain("G", "N", "C"), *windows]},
        {"name": "Outputs", "projection": plain("G", "N", "K", "P", "Q"), "read_write": True},
    ]
    return {"problem": {
        "version": 0.4,
        "shape": {"name": layer.name, "dimensions": list(dims), "data_spaces": spaces,
                  "coefficients": [{"name": name, "default": 1} for name in coefficients]},
        "instance": {**{dim: layer.extent(dim) for dim in dims}, **coefficients},
    }}


def _mapping(layer: Layer, machine: Machine, nest: LoopNest) -> dict[str, Any]:
    dims = [dim for dim in DIMENSIONS if layer.extent(dim) > 1]
    memories = sorted(machine.memories, key=lambda each: len(each.replicated_along))
    cuts = [0, *_cuts(nest, [memory.name for memory in memories[1:]]), len(nest.temporal)]
    directives: list[dict[str, Any]] = []
    loops_of = {memory.name: nest.temporal[first:last]
                for memory, (first, last) in zip(memories, itertools.pairwise(cuts), strict=True)}
    loops_of |= {axis: nest.spatial.get(axis, ()) for axis in machine.axes}
    last_trips = _last_trips(layer, machine, memories, loops_of)

    def factors_of(target: str, order: list[Dim]) -> list[str]:
        """Each with its remainder, the trips that it makes the last time, where they are fewer."""
        found = []
        for dim in order:
            factor, last = extents(loops_of[target])[dim], last_trips[target, dim]
            found.append(f"{dim}={factor}" if last == factor else f"{dim}={factor},{last}")
        return found

    for memory in memories:
        loops = loops_of[memory.name]
        inner = list(dict.fromkeys(loop.dim for loop in reversed(loops)))
        order = [*inner, *(dim for dim in dims if dim not in inner)]
        directives.append({"target": memory.name, "type": "temporal",
                           "factors": factors_of(memory.name, order), "permutation": list(order)})
        without = [SPACES[operand] for operand in OPERANDS if operand not in memory.keeps]
        directives.append({"target": memory.name, "type": "datatype",
                           "keep": [SPACES[operand] for operand in OPERANDS if operand in memory.keeps],
                           "bypass": without})
    for axis in machine.axes:
        inner = [loop.dim for loop in reversed(loops_of[axis])]
        order = [*inner, *(dim for dim in dims if dim not in inner)]
        directives.append({"target": axis, "type": "spatial", "split": len(order),
                           "factors": factors_of(axis, order), "permutation": list(order)})
    return {"mapping": directives}


def _last_trips(
    layer: Layer, machine: Machine, memories: list[Memory], loops_of: dict[str, tuple[Loop, ...]]
) -> dict[tuple[str, Dim], int]:
    """Memory's or axis's name and dimension → trips of its loop the last time that it runs."""
    targets: list[str] = []
    for memory in memories:
        targets += [axis for axis in memory.replicated_along if axis not in targets] + [memory.name]
    targets += [axis for axis in machine.axes if axis not in targets]
    found: dict[tuple[str, Dim], int] = {}
    for dim in DIMENSIONS:
        left, inside = layer.extent(dim), math.prod(extents(loops_of[target])[dim] for target in targets)
        for target in targets:
            inside //= extents(loops_of[target])[dim]
            found[target, dim] = -(-left // inside)
            left -= (found[target, dim] - 1) * inside
    return found


def _cuts(nest: LoopNest, names: list[str]) -> tuple[int, ...]:
    """Where the loops of each inner level begin: where its operands' tiles meet, and no loop is cut apart."""
    windows = []
    for name in names:
        first, last = 0, len(nest.temporal)
        for operand in OPERANDS:
            for store in nest.stores[operand]:
                if store.memory == name:
                    end = store.loops_above
                    while end < len(nest.temporal) and nest.temporal[end].dim not in RELEVANT_DIMS[operand]:
                        end += 1
                    first, last = max(first, store.loops_above), min(last, end)
        if first > last:
            raise ConfigurationError(Problem(
                "its operands' tiles lie at different places in the order of loops; a level has one tile in Timeloop",
                path=f"mapping.{name}"))
        windows.append((first, last))
    # The innermost memory's loops go down to the multipliers, so the last position is a level's end too.
    ways = itertools.islice(increasing(windows), MOST_PLACES)
    cuts = next((cuts for cuts in ways if repeated(nest, (*cuts, len(nest.temporal))) is None), None)
    if cuts is None:
        raise ConfigurationError(Problem("loops of a dimension are cut apart by others between two memories, and "
                                         "Timeloop has one loop of a dimension at each level", path="mapping"))
    return cuts
