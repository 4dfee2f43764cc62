"""AccelForge's files: architecture, workload and mapping in YAML, and mappings as the tool prints them.

Formats: the tool's data model (accelforge/frontend of Accelergy-Project/accelforge) and its examples. Energies are in
pJ a bit and throughputs in bits a second; where, as in the architectures read here, a second stands for a cycle, they
are bits a cycle. A loop gives the extent of the tile inside it (``tile_shape``); storage nodes stand between loops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bitmosaic.interchange.design import Design
from bitmosaic.interchange.einsum import Einsum, Index, read_einsum
from bitmosaic.interchange.foreign_yaml import Reading, key_line, tag_of
from simulator.counting_rules.loop_nest import FLOWS, READS, Loop, LoopNest, Machine, Memory, Port, Store
from simulator.errors import NetworkError
from simulator.formats import Format
from simulator.layer import OPERANDS, RELEVANT_DIMS, Dim, Operand
from simulator.precision import LayerPrecision

TOOL = "AccelForge"
SEPARATE_PORTS = "max(a.n_calls / a.throughput for a in actions)"
LETTERS: dict[str, Operand] = {"W": "weight", "I": "input", "O": "output"}
_RANGE = re.compile(r"\s*0\s*<=\s*(\w+)\s*<\s*(\d+)\s*")
_LOOP = re.compile(r"(?:T|S-(?P<axis>\w+))-(?P<rank>\w+) in \[0\.\.(?P<trips>\d+)\)(?: (?:tile_)?shape=\d+)?")
_STORAGE = re.compile(r"\[(?P<kept>.+) in (?P<at>\w+)\]|(?P<reserved>.+) reserves (?P<room>\w+)")


def is_architecture(data: Any) -> bool:
    """Whether this is an architecture's file."""
    return isinstance(data, dict) and "arch" in data


def is_workload(data: Any) -> bool:
    """Whether this is a workload's file."""
    return isinstance(data, dict) and "workload" in data


def is_mapping(data: Any) -> bool:
    """Whether this is a mapping's file: nodes with tags, or lines as they are printed."""
    found = data.get("mapping") if isinstance(data, dict) else None
    if isinstance(found, list):
        return bool(found) and all(isinstance(line, str) for line in found)
    return isinstance(found, dict) and "nodes" in found


def read_machine(data: Any, name: str, label: str) -> Design:
    """Return an architecture, called ``label``. Raises ``ConfigurationError`` with every mistake in the file."""
    reading = Reading(name)
    reading.fields(data, "", ("arch",), ("workload", "mapping", "renames", "variables"))
    reading.fields(data["arch"], "arch", ("nodes",), ("name", "version"))
    memories: list[Memory] = []
    axes: dict[str, int] = {}
    must_reuse: dict[str, Operand] = {}
    mac_energy_pj, computes = 0.0, 0
    for number, node in enumerate(reading.items((data["arch"] or {}).get("nodes"), "arch.nodes")):
        path, kind = f"arch.nodes[{number}]", tag_of(node)
        if kind == "Container":
            reading.fields(node, path, ("name",), ("spatial",))
            _spatial(reading, node, path, axes, must_reuse)
        elif kind == "Memory":
            _spatial(reading, node, path, axes, must_reuse)
            memory = _memory(reading, node, path, tuple(axes))
            if memory is not None:
                memories.append(memory)
        elif kind == "Compute":
            computes += 1
            _spatial(reading, node, path, axes, must_reuse)
            mac_energy_pj = _compute(reading, node, path)
        else:
            reading.wrong("is no node that is understood", path, f"!{kind}" if kind else "no tag", at=node,
                          allowed=("!Memory", "!Container", "!Compute"))
    if computes != 1:
        reading.wrong("must have one !Compute node", "arch.nodes", str(computes))
    if not memories:
        reading.wrong("must have a !Memory node", "arch.nodes")
    reading.finish()
    machine = Machine(name=label, memories=tuple(memories), axes=axes, mac_energy_pj=mac_energy_pj,
                      must_reuse=must_reuse)
    return Design(TOOL, machine=machine, notes=(
        "A second of AccelForge is taken for a cycle: throughputs are bits a cycle, energies pJ.", *reading.notes))


def _spatial(reading: Reading, node: Any, path: str, axes: dict[str, int], must_reuse: dict[str, Operand]) -> None:
    for number, axis in enumerate(node.get("spatial") or ()):
        where = f"{path}.spatial[{number}]"
        if not reading.fields(axis, where, ("name", "fanout"), ("reuse",)):
            continue
        if axis["name"] in axes:
            reading.wrong("the name stands twice: axes must have names of their own", f"{where}.name", axis["name"],
                          at=axis)
        axes[str(axis["name"])] = reading.number(axis, "fanout", where, whole=True, default=1)
        if "reuse" in axis:
            if axis["reuse"] not in OPERANDS:
                reading.wrong("must be one operand", f"{where}.reuse", axis["reuse"], at=axis, allowed=OPERANDS)
            else:
                must_reuse[str(axis["name"])] = axis["reuse"]


def _actions(reading: Reading, node: Any, path: str, wanted: Iterable[str]) -> dict[str, Any]:
    found = {}
    for action in node.get("actions") or ():
        if reading.fields(action, f"{path}.actions", ("name", "energy", "throughput"), ("latency", "bits_per_action")):
            if action.get("bits_per_action", 1) != 1:
                reading.wrong("actions of several bits are not understood", f"{path}.actions.bits_per_action",
                              action["bits_per_action"], at=action, allowed=("1",))
            if float(action.get("latency", 0)) != 0:
                reading.note(f"The latency of an action of {node.get('name')} is not carried over.")
            found[str(action["name"])] = action
    for name in wanted:
        if name not in found:
            reading.wrong("must give this action", f"{path}.actions", name, at=node, allowed=tuple(wanted))
    return found


def _unused(reading: Reading, node: Any) -> None:
    for field in ("leak_power", "area"):
        if float(node.get(field) or 0) != 0:
            reading.note(f"The {field} of {node['name']} is not carried over.")


def _compute(reading: Reading, node: Any, path: str) -> float:
    reading.fields(node, path, ("name", "actions"), ("leak_power", "area", "spatial", "enabled"))
    _unused(reading, node)
    action = _actions(reading, node, path, ("compute",)).get("compute")
    if action is None:
        return 0.0
    if reading.number(action, "throughput", f"{path}.actions.compute") != 1:
        reading.wrong("only one multiply-accumulate a cycle is understood", f"{path}.actions.compute.throughput",
                      action["throughput"], at=action, allowed=("1",))
    return float(reading.number(action, "energy", f"{path}.actions.compute", default=0.0))


def _memory(reading: Reading, node: Any, path: str, axes: tuple[str, ...]) -> Memory | None:
    if not reading.fields(node, path, ("name", "size", "tensors", "actions"),
                          ("leak_power", "area", "total_latency", "spatial")):
        return None
    _unused(reading, node)
    actions = _actions(reading, node, path, ("read", "write"))
    keeps: tuple[Operand, ...] = ()
    if reading.fields(node["tensors"], f"{path}.tensors", ("keep",)):
        expression = str(node["tensors"]["keep"])
        names = [word.strip() for word in expression.split("|")]
        if expression == "All":
            keeps = OPERANDS
        elif all(word in OPERANDS for word in names):
            keeps = tuple(operand for operand in OPERANDS if operand in names)
        else:
            reading.wrong("must be All, or operands joined by |", f"{path}.tensors.keep", expression,
                          at=node["tensors"], allowed=("All", *OPERANDS))
    if len(actions) < 2:
        return None
    limits = {way: reading.number(actions[way], "throughput", f"{path}.actions.{way}", whole=True)
              for way in ("read", "write")}
    reads = frozenset((operand, flow) for operand in OPERANDS for flow in READS)
    writes = frozenset((operand, flow) for operand in OPERANDS for flow in FLOWS if flow not in READS)
    rule = node.get("total_latency")
    if rule == SEPARATE_PORTS:
        ports: tuple[Port, ...] = (Port(name="read", serves=reads, bits_per_cycle=limits["read"]),
                                   Port(name="write", serves=writes, bits_per_cycle=limits["write"]))
    else:
        if rule is not None:
            reading.wrong("this rule of latency is not understood", f"{path}.total_latency", str(rule),
                          at=key_line(node, "total_latency"), allowed=(SEPARATE_PORTS, "none"))
        elif limits["read"] != limits["write"]:
            reading.wrong("reading and writing share a port, so their throughputs must be equal", f"{path}.actions",
                          f"{limits['read']}, {limits['write']}", at=node)
        ports = (Port(name="both", serves=reads | writes, bits_per_cycle=limits["read"]),)
    energies = {way: reading.number(actions[way], "energy", f"{path}.actions.{way}", default=0.0) for way in actions}
    return Memory(
        name=str(node["name"]), keeps=keeps, size_bits=reading.number(node, "size", path, whole=True),
        replicated_along=axes, ports=ports, read_energy_pj=energies["read"], write_energy_pj=energies["write"],
    )


def read_layers(data: Any, name: str) -> dict[str, tuple[Einsum, LayerPrecision, dict[str, Operand]]]:
    """Return the einsums of a workload by name, each with its precision and its tensors' operands.

    Which tensor is the weight is what ``renames`` says; else what its name begins with; else, where the other one has a
    sum of positions and taps, which of them has none. Raises ``ConfigurationError`` with every mistake in the file.
    """
    reading = Reading(name)
    workload = data["workload"]
    reading.fields(workload, "workload", ("einsums",),
                   ("rank_sizes", "iteration_space_shape", "bits_per_value", "renames", "shape", "version"))
    found = {}
    shared_bits = {str(key): value for key, value in (workload.get("bits_per_value") or {}).items()}
    for number, einsum in enumerate(reading.items(workload.get("einsums"), "workload.einsums")):
        path = f"workload.einsums[{number}]"
        if not reading.fields(einsum, path, ("name", "tensor_accesses"), ("renames", "rank_sizes",
                              "iteration_space_shape")):
            continue
        tensors: dict[str, list[Index]] = {}
        output = None
        widths: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for access in einsum["tensor_accesses"]:
            if not reading.fields(access, f"{path}.tensor_accesses", ("name", "projection"),
                                  ("output", "bits_per_value")):
                continue
            tensor = str(access["name"])
            ranks = access["projection"]
            pairs = ranks.items() if isinstance(ranks, dict) else [(str(rank).upper(), rank) for rank in ranks]
            tensors[tensor] = []
            for rank, expression in pairs:
                index = _index(str(expression))
                if index is None:
                    reading.wrong("must be a rank, or a sum such as 2*p+r", f"{path}.{tensor}", expression, at=access)
                    index = {}
                tensors[tensor].append(index)
                if len(index) == 1:
                    size = (workload.get("rank_sizes") or {}).get(rank)
                    if size is not None:
                        sizes[next(iter(index))] = int(size)
            if access.get("output"):
                output = tensor
            bits = access.get("bits_per_value", shared_bits.get(tensor, shared_bits.get("All")))
            widths[tensor] = int(bits) if bits is not None else 8
        for bound in (workload, einsum):
            for text in (bound.get("iteration_space_shape") or {}).values():
                match = _RANGE.fullmatch(str(text))
                if match is None:
                    reading.wrong("must be a range from 0, such as 0 <= m < 128", f"{path}.iteration_space_shape", text)
                else:
                    sizes[match[1]] = int(match[2])
        roles = _roles(reading, path, einsum, tensors, output)
        reading.finish()
        try:
            layer = read_einsum(str(einsum["name"]), {role: tensors[tensor] for tensor, role in roles.items()},
                                {loop: size for loop, size in sizes.items()
                                 if any(loop in index for indices in tensors.values() for index in indices)}, name)
        except NetworkError as error:
            reading.problems += error.problems
            continue
        bits_of = {role: Format(f"int{widths[tensor]}") for tensor, role in roles.items()}
        found[layer.layer.name] = layer, LayerPrecision(
            weight=bits_of["weight"], input=bits_of["input"], accumulator=bits_of["output"], output=bits_of["output"],
        ), roles
    reading.finish()
    return found


def _index(expression: str) -> Index | None:
    found: dict[str, int] = {}
    for term in expression.replace(" ", "").split("+"):
        match = re.fullmatch(r"(?:(\d+)\*)?([A-Za-z]\w*)(?:\*(\d+))?", term)
        if match is None:
            return None
        found[match[2]] = int(match[1] or match[3] or 1)
    return found


def _roles(reading: Reading, path: str, einsum: Any, tensors: Mapping[str, list[Index]], output: str | None
           ) -> dict[str, Operand]:
    renames = {str(value): str(key) for key, value in (einsum.get("renames") or {}).items()}
    others = [tensor for tensor in tensors if tensor != output]
    if output is None or len(others) != 2:
        reading.wrong("must have one output and two other tensors", f"{path}.tensor_accesses", str(len(tensors)),
                      at=einsum)
        return {}
    sliding = [tensor for tensor in others if any(len(index) > 1 for index in tensors[tensor])]
    weights = [tensor for tensor in others if renames.get(tensor) == "weight"]
    weights = weights or [tensor for tensor in others if tensor[:1].upper() in "WF" and not renames]
    if len(weights) != 1 and len(sliding) == 1:
        weights = [tensor for tensor in others if tensor not in sliding]
    if len(weights) != 1:
        reading.wrong("does not say which tensor is the weight: give renames: {weight: …, input: …}",
                      f"{path}.renames", at=einsum)
        return {}
    return {output: "output", weights[0]: "weight", next(one for one in others if one != weights[0]): "input"}


def read_lines(lines: Iterable[str], dims: Mapping[str, Dim], operands: Mapping[str, Operand] = LETTERS) -> LoopNest:
    """Read a mapping as it is printed: storage nodes, reservations and loops, outermost first.

    ``dims``: the names of the loops; ``operands``: of the tensors. Raises ``ValueError`` for a line that is none.
    """
    temporal: list[Loop] = []
    spatial: dict[str, tuple[Loop, ...]] = {}
    above: dict[tuple[Operand, str], int] = {}
    room: dict[tuple[Operand, str], int] = {}
    for line in lines:
        loop = _LOOP.fullmatch(line)
        node = _STORAGE.fullmatch(line)
        if loop is not None:
            if loop["rank"] not in dims:
                raise ValueError(f"line={line!r}: the layer has no loop {loop['rank']}")
            one = Loop(dims[loop["rank"]], int(loop["trips"]))
            if loop["axis"] is None:
                temporal.append(one)
            else:
                spatial[loop["axis"]] = (*spatial.get(loop["axis"], ()), one)
        elif node is not None:
            for tensor in (node["kept"] or node["reserved"]).split(","):
                if tensor not in operands:
                    raise ValueError(f"line={line!r}: the layer has no tensor {tensor}")
                place, memory = (above, node["at"]) if node["kept"] else (room, node["room"])
                place[operands[tensor], memory] = len(temporal)
        elif not re.fullmatch(r"\w+ computes \w+", line):
            raise ValueError(f"line={line!r}: not a line of a mapping that is understood")
    return _nest(temporal, spatial, above, room)


def _nest(
    temporal: list[Loop], spatial: dict[str, tuple[Loop, ...]], above: Mapping[tuple[Operand, str], int],
    room: Mapping[tuple[Operand, str], int],
) -> LoopNest:
    stores: dict[Operand, list[Store]] = {}
    for (operand, memory), loops_above in above.items():
        own_room = room.get((operand, memory), loops_above)
        store = Store(memory=memory, loops_above=loops_above,
                      room_loops_above=None if own_room == loops_above else own_room)
        stores.setdefault(operand, []).append(store)
    return LoopNest(temporal=tuple(temporal), spatial=spatial,
                    stores={operand: tuple(kept) for operand, kept in stores.items()})


def read_mapping(data: Any, name: str, einsum: Einsum, operands: Mapping[str, Operand]) -> LoopNest:
    """Return the nest of a mapping's file for a layer. Raises ``ConfigurationError`` with every mistake in it."""
    reading = Reading(name)
    found = data["mapping"]
    if isinstance(found, list):
        try:
            return read_lines(found, einsum.dims, operands)
        except ValueError as error:
            reading.wrong(str(error), "mapping")
            reading.finish()
    temporal: list[Loop] = []
    spatial: dict[str, tuple[Loop, ...]] = {}
    above: dict[tuple[Operand, str], int] = {}
    left = {loop: einsum.layer.extent(dim) for loop, dim in einsum.dims.items()}
    for number, node in enumerate(reading.items(found["nodes"], "mapping.nodes")):
        path, kind = f"mapping.nodes[{number}]", tag_of(node)
        if kind == "Storage":
            if reading.fields(node, path, ("tensors", "component"), ("persistent",)):
                for tensor in node["tensors"]:
                    if tensor not in operands:
                        reading.wrong("the layer has no such tensor", f"{path}.tensors", tensor, at=node,
                                      allowed=tuple(operands))
                    else:
                        above[operands[str(tensor)], str(node["component"])] = len(temporal)
        elif kind in ("Temporal", "Spatial"):
            wanted = ("rank_variable", "tile_shape", *(("name", "component") if kind == "Spatial" else ()))
            if not reading.fields(node, path, wanted):
                continue
            rank, tile = str(node["rank_variable"]), reading.number(node, "tile_shape", path, whole=True, default=1)
            if rank not in left:
                reading.wrong("the layer has no such loop", f"{path}.rank_variable", rank, at=node, allowed=tuple(left))
                continue
            if tile is None or left[rank] % tile:
                reading.wrong(f"must divide the {left[rank]} that are left: perfect factors only",
                              f"{path}.tile_shape", str(node["tile_shape"]), at=node)
                continue
            loop = Loop(einsum.dims[rank], left[rank] // tile)
            left[rank] = tile
            if kind == "Temporal":
                temporal.append(loop)
            else:
                axis = str(node["name"])
                spatial[axis] = (*spatial.get(axis, ()), loop)
        elif kind != "Compute":
            reading.wrong("is no node that is understood: one layer alone, in one nest", path, f"!{kind}", at=node,
                          allowed=("!Storage", "!Temporal", "!Spatial", "!Compute"))
    for rank, rest in left.items():
        if rest != 1:
            reading.wrong(f"{rest} are left inside all loops: every rank must come down to a tile of 1",
                          f"mapping.{rank}")
    reading.finish()
    return _nest(temporal, spatial, above, {})


def refetch_notes(nest: LoopNest) -> tuple[str, ...]:
    """What AccelForge fetches again and we hold: tiles just inside loops that their operand does not depend on."""
    found = []
    for operand, kept in nest.stores.items():
        for store in kept:
            above = nest.temporal[store.loops_above - 1] if store.loops_above else None
            if above is not None and above.dim not in RELEVANT_DIMS[operand] and above.trips > 1:
                found.append(f"AccelForge fetches the {operand} of {store.memory} again for each of the {above.trips} "
                             f"iterations of {above.dim} around it; here it stays, since it is the same.")
    return tuple(found)
