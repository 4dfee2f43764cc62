"""Write a design as AccelForge's files: architecture, workload, mapping.

A second stands for a cycle: throughputs are bits a cycle, energies pJ a bit. A buffer of ours with a port for reading
and one for writing is written with the rule of latency for two ports.
"""

from __future__ import annotations

from typing import Any

from bitmosaic.interchange.accelforge import SEPARATE_PORTS
from bitmosaic.interchange.design import Design
from bitmosaic.interchange.write_yaml import Tagged, number, text_of
from simulator.counting_rules.loop_nest import Loop, LoopNest, Machine, Memory
from simulator.errors import ConfigurationError, Problem
from simulator.layer import OPERANDS, Dim, Layer, Operand
from simulator.precision import LayerPrecision

TENSORS: dict[Operand, str] = {"weight": "W", "input": "I", "output": "O"}


def files_of(design: Design) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return file name → text, and notes. Raises ``ConfigurationError`` for what AccelForge cannot say."""
    design.check_perfect("AccelForge")
    found, notes = {}, list(design.notes)
    if design.machine is not None:
        notes.append("A second stands for a cycle, and actions are of one bit.")
        data = _architecture(design.machine, notes)
        found["arch.yaml"] = text_of(data, tuple(dict.fromkeys(notes)), f"{design.machine.name} for AccelForge")
    if design.layer is not None:
        precision = design.precision or LayerPrecision()
        if precision.accumulator.bits != precision.output.bits:
            notes.append(f"AccelForge gives outputs one width: that of sums, {precision.accumulator.bits} bits.")
        found["workload.yaml"] = text_of(_workload(design.layer, precision))
    if design.nest is not None and design.layer is not None and design.nest.stores and design.machine is not None:
        found["mapping.yaml"] = text_of(_mapping(design.layer, design.machine, design.nest))
    return found, tuple(dict.fromkeys(notes))


def _architecture(machine: Machine, notes: list[str]) -> dict[str, Any]:
    nodes: list[Any] = []
    open_axes: list[str] = []
    for memory in sorted(machine.memories, key=lambda each: len(each.replicated_along)):
        new = [axis for axis in machine.axes if axis in memory.replicated_along and axis not in open_axes]
        if new:
            nodes.append(_container(machine, new, len(nodes)))
            open_axes += new
        nodes.append(_memory(memory))
    new = [axis for axis in machine.axes if axis not in open_axes]
    if new:
        nodes.append(_container(machine, new, len(nodes)))
    nodes.append(Tagged("Compute", name="MAC", leak_power=0, area=0, actions=[
        {"name": "compute", "energy": number(machine.mac_energy_pj), "throughput": 1}]))
    return {"arch": {"nodes": nodes}}


def _container(machine: Machine, axes: list[str], place: int) -> Tagged:
    spatial = []
    for axis in axes:
        entry: dict[str, Any] = {"name": axis, "fanout": machine.axes[axis]}
        if axis in machine.must_reuse:
            entry["reuse"] = machine.must_reuse[axis]
        spatial.append(entry)
    return Tagged("Container", name=f"array_{place}", spatial=spatial)


def _memory(memory: Memory) -> Tagged:
    widths = {port.name: "inf" if port.bits_per_cycle is None else port.bits_per_cycle for port in memory.ports}
    reads = next(port for port in memory.ports if any(flow.startswith("to_") for _, flow in port.serves))
    writes = next(port for port in memory.ports if any(flow.startswith("from_") for _, flow in port.serves))
    if len(memory.ports) > 2:
        raise ConfigurationError(Problem("AccelForge has one port, or one for reading and one for writing",
                                         path=f"memories.{memory.name}.ports", value=str(len(memory.ports))))
    keep = "All" if set(memory.keeps) == set(OPERANDS) else " | ".join(
        operand for operand in OPERANDS if operand in memory.keeps)
    fields: dict[str, Any] = {
        "name": memory.name, "size": "inf" if memory.size_bits is None else memory.size_bits, "leak_power": 0,
        "area": 0,
    }
    if reads is not writes and {widths[reads.name], widths[writes.name]} != {"inf"}:
        fields["total_latency"] = SEPARATE_PORTS
    fields["tensors"] = {"keep": keep}
    fields["actions"] = [
        {"name": way, "energy": number(energy / port.word_bits), "throughput": widths[port.name]}
        for way, energy, port in (("read", memory.read_energy_pj, reads), ("write", memory.write_energy_pj, writes))
    ]
    return Tagged("Memory", **fields)


def _loops(layer: Layer) -> dict[Dim, str]:
    return {dim: dim.lower() for dim in layer.dims if layer.extent(dim) > 1}


def _workload(layer: Layer, precision: LayerPrecision) -> dict[str, Any]:
    names = _loops(layer)
    shape = {name: f"0 <= {name} < {layer.extent(dim)}" for dim, name in names.items()}

    def plain(*dims: Dim) -> dict[str, str]:
        return {dim: names[dim] for dim in dims if dim in names}

    sliding: dict[str, str] = {}
    pairs: tuple[tuple[str, Dim, Dim, int], ...] = (("H", "P", "R", 0), ("L", "Q", "S", 1))
    for rank, position, tap, axis in pairs:
        terms = [f"{factor}*{names[dim]}" if factor > 1 else names[dim]
                 for dim, factor in ((position, layer.stride[axis]), (tap, layer.dilation[axis])) if dim in names]
        if terms:
            sliding[rank] = "+".join(terms)
    accesses = [
        {"name": "I", "projection": plain("G", "N", "C") | sliding, "bits_per_value": precision.input.bits},
        {"name": "W", "projection": plain("G", "K", "C", "R", "S"), "bits_per_value": precision.weight.bits},
        {"name": "O", "projection": plain("G", "N", "K", "P", "Q"), "bits_per_value": precision.accumulator.bits,
         "output": True},
    ]
    return {"workload": {"iteration_space_shape": shape, "einsums": [
        {"name": layer.name, "tensor_accesses": accesses, "renames": {"weight": "W", "input": "I", "output": "O"}}]}}


def _mapping(layer: Layer, machine: Machine, nest: LoopNest) -> dict[str, Any]:
    names = _loops(layer)
    left = {dim: layer.extent(dim) for dim in names}
    inside = {memory.name for memory in machine.memories if memory.replicated_along}
    # The array stands where the outermost of the registers' tiles begins.
    array = min((store.loops_above for kept in nest.stores.values() for store in kept if store.memory in inside),
                default=len(nest.temporal))
    order = {memory.name: number for number, memory in enumerate(machine.memories)}
    nodes: list[Any] = []

    def place(position: int, after_array: bool) -> None:
        found: dict[str, list[str]] = {}
        for operand in OPERANDS:
            for store in nest.stores[operand]:
                if store.loops_above == position and (store.memory in inside) == after_array:
                    found.setdefault(store.memory, []).append(TENSORS[operand])
        for memory in sorted(found, key=lambda each: order[each]):
            nodes.append(Tagged("Storage", tensors=found[memory], component=memory))

    def loop(tag: str, one: Loop, **fields: Any) -> None:
        left[one.dim] //= one.trips
        nodes.append(Tagged(tag, rank_variable=names[one.dim], tile_shape=left[one.dim], **fields))

    for position in range(len(nest.temporal) + 1):
        place(position, False)
        if position == array:
            for axis, loops in nest.spatial.items():
                for one in loops:
                    loop("Spatial", one, name=axis, component=_component(machine, axis))
        place(position, True)
        if position < len(nest.temporal):
            loop("Temporal", nest.temporal[position])
    nodes.append(Tagged("Compute", einsum=layer.name, component="MAC"))
    return {"mapping": {"nodes": nodes}}


def _component(machine: Machine, axis: str) -> str:
    """The name of the container that an axis stands in (``_architecture``)."""
    opened: list[str] = []
    place = 0
    for memory in sorted(machine.memories, key=lambda each: len(each.replicated_along)):
        new = [each for each in machine.axes if each in memory.replicated_along and each not in opened]
        if new:
            if axis in new:
                return f"array_{place}"
            opened += new
            place += 1
        place += 1
    return f"array_{place}"
