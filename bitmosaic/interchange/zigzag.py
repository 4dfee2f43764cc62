"""ZigZag's files: accelerator, workload and mapping in YAML, and mappings with their places in JSON.

Formats: ZigZag's documentation (docs/source/hardware.rst, workload.rst, mapping.rst of KULeuven-MICAS/zigzag) and its
input files. A port moves one word a cycle, and energies are per word. A mapping file gives the spatial loops and
perhaps the order of the temporal ones, innermost first, ``*`` for what is left of a dimension; in which memories tiles
lie is then ZigZag's choice. Its result gives them: of each operand, for each of its memories from the innermost, the
loops that lie in it, innermost first (``temporal``, beside ``spatial`` and ``memories``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bitmosaic.interchange.design import Design
from bitmosaic.interchange.einsum import Einsum, Index, read_einsum
from bitmosaic.interchange.foreign_yaml import Reading, key_line
from simulator.counting_rules.loop_nest import Flow, Loop, LoopNest, Machine, Memory, Port, Store
from simulator.errors import ConfigurationError, NetworkError
from simulator.formats import Format
from simulator.layer import Dim, Operand
from simulator.precision import LayerPrecision

TOOL = "ZigZag"
OPERANDS: dict[str, Operand] = {"W": "weight", "I": "input", "O": "output"}
MEMORY_OPERANDS: dict[str, Operand] = {"I1": "input", "I2": "weight", "O": "output"}
# "fh": filled from the higher memory, "tl": read towards the lower one, and so on.
PORT_FLOWS: dict[str, Flow] = {"tl": "to_inner", "fl": "from_inner", "th": "to_outer", "fh": "from_outer"}
# A product's B is our N, on which no kernel slides: ZigZag calls it relevant, and OY, OX partially relevant.
DIMS: dict[str, Dim] = {"G": "G", "B": "N", "K": "K", "C": "C", "OY": "P", "OX": "Q", "FY": "R", "FX": "S"}
_LETTER = re.compile(r"\[(\w+)\]")
_TERM = re.compile(r"(?:(\d+)\*)?(\w+)")


def is_accelerator(data: Any) -> bool:
    """Whether this is an accelerator's file."""
    return isinstance(data, dict) and "operational_array" in data


def is_workload(data: Any) -> bool:
    """Whether this is a workload's file."""
    return isinstance(data, list) and bool(data) and isinstance(data[0], dict) and "equation" in data[0]


def is_mapping(data: Any) -> bool:
    """Whether this is a mapping's file."""
    return isinstance(data, list) and bool(data) and isinstance(data[0], dict) and "spatial_mapping" in data[0]


def is_result(data: Any) -> bool:
    """Whether this is a mapping with its places."""
    return isinstance(data, dict) and {"temporal", "spatial", "memories"} <= set(data)


def read_machine(data: Any, name: str) -> Design:
    """Return an accelerator. Raises ``ConfigurationError`` with every mistake in the file."""
    reading = Reading(name)
    array: Any = {}
    if reading.fields(data, "", ("name", "memories", "operational_array"), ("comment",)):
        array = data["operational_array"]
    if not reading.fields(array, "operational_array", ("unit_energy", "dimensions", "sizes"),
                          ("unit_area", "input_precision")):
        reading.finish()
    dimensions, sizes = list(array["dimensions"]), list(array["sizes"])
    if len(dimensions) != len(sizes):
        reading.wrong("must have one size a dimension", "operational_array.sizes", str(list(sizes)), at=array)
    axes = {str(axis): int(size) for axis, size in zip(dimensions, sizes, strict=False)}
    if array.get("unit_area"):
        reading.note("The area of the multipliers is not carried over: ZigZag gives it no unit.")
    memories = [
        _memory(reading, str(label), memory, axes) for label, memory in data["memories"].items()
    ]
    energy = reading.number(array, "unit_energy", "operational_array", default=0.0)
    reading.finish()
    machine = Machine(name=str(data["name"]), memories=tuple(one for one in reversed(memories) if one is not None),
                      axes=axes, mac_energy_pj=energy)
    return Design(TOOL, machine=machine, notes=tuple(reading.notes))


def _memory(reading: Reading, name: str, memory: Any, axes: Mapping[str, int]) -> Memory | None:
    path = f"memories.{name}"
    if not reading.fields(memory, path, ("size", "r_cost", "w_cost", "operands", "ports", "served_dimensions"),
                          ("area", "latency", "mem_type", "min_r_granularity", "min_w_granularity",
                           "auto_cost_extraction", "double_buffering_support", "shared_memory_group_id")):
        return None
    for field in ("min_r_granularity", "min_w_granularity"):
        if field in memory:
            reading.wrong("accesses narrower than the port's word are not understood", f"{path}.{field}",
                          str(memory[field]), at=key_line(memory, field))
    if memory.get("auto_cost_extraction"):
        reading.wrong("costs that ZigZag extracts by itself are not in the file: give r_cost and w_cost",
                      f"{path}.auto_cost_extraction", "true", at=memory)
    if memory.get("area"):
        reading.note("Areas of memories are not carried over: ZigZag gives them no unit.")
    if int(memory.get("latency", 1)) != 1:
        reading.note(f"The latency of {name} is not carried over.")
    keeps = [str(operand) for operand in memory["operands"]]
    for operand in keeps:
        if operand not in MEMORY_OPERANDS:
            reading.wrong("no such operand", f"{path}.operands", operand, at=memory, allowed=tuple(MEMORY_OPERANDS))
    for axis in memory["served_dimensions"]:
        if axis not in axes:
            reading.wrong("the array has no such dimension", f"{path}.served_dimensions", axis, at=memory,
                          allowed=tuple(axes))
    ports = [_port(reading, f"{path}.ports[{number}]", port) for number, port in enumerate(memory["ports"])]
    size = reading.number(memory, "size", path, whole=True)
    read, written = (reading.number(memory, field, path, default=0.0) for field in ("r_cost", "w_cost"))
    return Memory(
        name=name, keeps=tuple(MEMORY_OPERANDS[operand] for operand in keeps if operand in MEMORY_OPERANDS),
        size_bits=size, read_energy_pj=read, write_energy_pj=written,
        ports=tuple(port for port in ports if port is not None),
        replicated_along=tuple(axis for axis in axes if axis not in memory["served_dimensions"]),
    )


def _port(reading: Reading, path: str, port: Any) -> Port | None:
    if not reading.fields(port, path, ("name", "type", "bandwidth_min", "bandwidth_max", "allocation")):
        return None
    if port["bandwidth_min"] != port["bandwidth_max"]:
        reading.wrong("words of several widths are not understood: bandwidth_min must be bandwidth_max",
                      f"{path}.bandwidth_min", str(port["bandwidth_min"]), at=port)
    serves = set()
    for entry in port["allocation"]:
        operand, _, flow = (part.strip() for part in str(entry).partition(","))
        if operand not in MEMORY_OPERANDS or flow not in PORT_FLOWS:
            reading.wrong("must be an operand (I1, I2, O) and a direction (tl, th, fl, fh)", f"{path}.allocation",
                          entry, at=port)
        else:
            serves.add((MEMORY_OPERANDS[operand], PORT_FLOWS[flow]))
    width = reading.number(port, "bandwidth_max", path, whole=True, default=1)
    return Port(name=str(port["name"]), bits_per_cycle=width, word_bits=width, serves=frozenset(serves))


def read_layers(data: Any, name: str) -> dict[str, tuple[Einsum, LayerPrecision]]:
    """Return the layers of a workload by name. Raises ``ConfigurationError`` with every mistake in the file."""
    reading = Reading(name)
    found = {}
    for number, entry in enumerate(data):
        path = f"[{number}]"
        if not reading.fields(entry, path, ("equation", "loop_dims", "loop_sizes"),
                              ("id", "name", "operator_type", "dimension_relations", "operand_precision",
                               "operand_source", "pr_loop_dims", "pr_loop_sizes", "padding",
                               "operand_source_dimension")):
            continue
        title = str(entry.get("name", f"layer_{entry.get('id', number)}"))
        if entry.get("padding"):
            reading.note("Padding is not carried over: the input is as large as the kernel touches.")
        relations: dict[str, Index] = {}
        for relation in entry.get("dimension_relations") or ():
            whole, _, parts = str(relation).replace(" ", "").partition("=")
            terms = [_TERM.fullmatch(part) for part in parts.split("+")]
            if not all(terms):
                reading.wrong("must be a sum such as ix=2*ox+1*fx", f"{path}.dimension_relations", relation, at=entry)
                continue
            relations[whole] = {term[2].upper(): int(term[1] or 1) for term in terms if term is not None}
        extents = zip(entry["loop_dims"], entry["loop_sizes"], strict=False)
        sizes = {str(dim).upper(): int(size) for dim, size in extents}
        accesses: dict[Operand, list[Index]] = {}
        for part in re.split(r"\+=|\*", str(entry["equation"]).replace(" ", "")):
            operand = OPERANDS.get(part[:1])
            if operand is not None:
                accesses[operand] = [relations.get(index, {index.upper(): 1}) for index in _LETTER.findall(part)]
        if len(accesses) != 3:
            reading.wrong("must name the tensors O, W and I", f"{path}.equation", entry["equation"], at=entry)
            continue
        try:
            einsum = read_einsum(title, accesses, sizes, where=name)
        except NetworkError as error:
            reading.problems += error.problems
            continue
        found[title] = einsum, _precision(entry.get("operand_precision") or {})
    reading.finish()
    return found


def _precision(widths: Mapping[str, Any]) -> LayerPrecision:
    """Widths of the operands; sums are ``O``, finished outputs ``O_final``."""
    sums = int(widths.get("O", 32))
    return LayerPrecision(
        weight=Format(f"int{int(widths.get('W', 8))}"), input=Format(f"int{int(widths.get('I', 8))}"),
        accumulator=Format(f"int{sums}"), output=Format(f"int{int(widths.get('O_final', sums))}"),
    )


def read_result(entry: Mapping[str, Any], dims: Mapping[str, Dim] = DIMS) -> LoopNest:
    """Return the mapping of a result, with its places. Raises ``ValueError`` for one that is none."""
    order = [Loop(dims[dim], int(trips)) for level in entry["temporal"]["O"] for dim, trips in level]
    stores: dict[Operand, tuple[Store, ...]] = {}
    for letter, levels in entry["temporal"].items():
        if [Loop(dims[dim], int(trips)) for level in levels for dim, trips in level] != order:
            raise ValueError(f"temporal.{letter}: its loops are not in the order of the others")
        above, kept = len(order), []
        for memory, level in zip(entry["memories"][letter], levels, strict=True):
            above -= len(level)
            kept.append(Store(memory=memory, loops_above=above))
        stores[OPERANDS[letter]] = tuple(reversed(kept))
    spatial = {}
    for axis, loops in entry["spatial"].items():
        if any(trips != int(trips) for trips in loops.values()):
            raise ValueError(f"spatial.{axis}: only whole numbers of trips are understood")
        spatial[axis] = tuple(Loop(dims[dim], int(trips)) for dim, trips in loops.items())
    return LoopNest(temporal=tuple(reversed(order)), spatial=spatial, stores=stores)


def read_mapping(data: Any, name: str, einsum: Einsum) -> LoopNest:
    """Return the loops of a mapping's file for a layer: the entry of its name, or the default. It has no places.

    Raises ``ConfigurationError`` with every mistake in the entry.
    """
    reading = Reading(name)
    entries = {str(entry.get("name")): entry for entry in data if isinstance(entry, dict)}
    entry: Any = entries.get(einsum.layer.name, entries.get("default"))
    if entry is None:
        reading.wrong("no entry for this layer, and no default", "name", einsum.layer.name, allowed=tuple(entries))
        raise ConfigurationError(reading.problems)
    path = str(entry.get("name"))
    reading.fields(entry, path, ("spatial_mapping",),
                   ("name", "core_allocation", "temporal_ordering", "memory_operand_links", "spatial_mapping_hint"))
    links = {str(key): str(value) for key, value in (entry.get("memory_operand_links") or {}).items()}
    if links and links != {"O": "O", "W": "I2", "I": "I1"}:
        reading.wrong("must be O: O, W: I2, I: I1", f"{path}.memory_operand_links", str(links), at=entry)
    if "temporal_ordering" not in entry:
        reading.wrong("gives no order of the temporal loops: ZigZag chooses it. Give temporal_ordering, or let "
                      "`bitmosaic map` choose", f"{path}.temporal_ordering", at=entry)
    spatial: dict[str, list[tuple[str, int]]] = {}
    for axis, texts in (entry.get("spatial_mapping") or {}).items():
        for text in texts:
            dim, _, trips = (part.strip() for part in str(text).partition(","))
            if not trips.isdigit():
                reading.wrong("must be a loop and a whole number, such as K, 16", f"{path}.spatial_mapping.{axis}",
                              text, at=entry)
            else:
                spatial.setdefault(str(axis), []).append((dim, int(trips)))
    order: list[tuple[str, int | None]] = []
    for loop in entry.get("temporal_ordering") or ():
        if len(loop) != 2 or not (str(loop[1]) == "*" or str(loop[1]).isdigit()):
            reading.wrong("must be a loop and a whole number, or * for what is left", f"{path}.temporal_ordering",
                          str(list(loop)), at=entry)
        else:
            order.append((str(loop[0]), None if str(loop[1]) == "*" else int(loop[1])))
    for dim in dict.fromkeys([*(dim for loops in spatial.values() for dim, _ in loops), *(dim for dim, _ in order)]):
        if dim.upper() not in einsum.dims:
            reading.wrong("the layer has no such loop", path, dim, at=entry, allowed=tuple(einsum.dims))
    reading.finish()
    left = {dim: einsum.layer.extent(ours) for dim, ours in einsum.dims.items()}
    given = [loop for loops in spatial.values() for loop in loops] + [(dim, trips) for dim, trips in order if trips]
    for dim, factor in given:
        name_of = dim.upper()
        left[name_of] = left[name_of] // factor if left[name_of] % factor == 0 else 0
    temporal = []
    for dim, own in reversed(order):
        temporal.append(Loop(einsum.dims[dim.upper()], left[dim.upper()] if own is None else own))
        if own is None:
            left[dim.upper()] = 1
    for dim, rest in left.items():
        if rest != 1:
            reading.wrong(f"the loops must multiply to {einsum.layer.extent(einsum.dims[dim])}, the layer's",
                          f"{path}.{dim}", at=entry)
    reading.finish()
    return LoopNest(
        temporal=tuple(loop for loop in temporal if loop.trips > 1), stores={},
        spatial={axis: tuple(Loop(einsum.dims[dim.upper()], trips) for dim, trips in loops if trips > 1)
                 for axis, loops in spatial.items()},
    )
