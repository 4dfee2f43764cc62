"""Timeloop's files, version 0.4: architecture, problem, mapping, and Accelergy's energies.

Formats: Timeloop's documentation (timeloop.csail.mit.edu, input formats) and the public exercises
(Accelergy-Project/timeloop-accelergy-exercises). A permutation names loops from the innermost out. Of a spatial one the
loops before ``split`` lie along X, the others along Y. Temporal loops of a level go over the tiles it hands inwards.
Widths are in words of ``datawidth`` bits, bandwidths in words a cycle; an architecture has no energies: those of the
energy reference table (``ERT``) are in pJ for an access of ``width`` bits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bitmosaic.interchange.design import Design
from bitmosaic.interchange.einsum import Einsum, Index, read_einsum
from bitmosaic.interchange.foreign_yaml import Reading, key_line, tag_of
from bitmosaic.interchange.timeloop_mapping import SPATIAL, nest_of
from simulator.counting_rules.loop_nest import FLOWS, READS, Machine, Memory, Port
from simulator.errors import NetworkError
from simulator.formats import Format
from simulator.layer import OPERANDS, Operand
from simulator.precision import LayerPrecision

TOOL = "Timeloop"
_READS = frozenset((operand, flow) for operand in OPERANDS for flow in READS)
_WRITES = frozenset((operand, flow) for operand in OPERANDS for flow in FLOWS if flow not in READS)
# The shape that Timeloop knows by name: dimensions and projections of its convolution.
_CNN_LAYER: dict[str, Any] = {
    "dimensions": ["C", "K", "R", "S", "N", "P", "Q"],
    "coefficients": [{"name": name, "default": 1} for name in ("Wstride", "Hstride", "Wdilation", "Hdilation")],
    "data_spaces": [
        {"name": "Weights", "projection": [[["C"]], [["K"]], [["R"]], [["S"]]]},
        {"name": "Inputs", "projection": [[["N"]], [["C"]], [["R", "Wdilation"], ["P", "Wstride"]],
                                          [["S", "Hdilation"], ["Q", "Hstride"]]]},
        {"name": "Outputs", "projection": [[["N"]], [["K"]], [["Q"]], [["P"]]], "read_write": True},
    ],
}


@dataclass
class Level:
    """A component of the architecture, or a container with a fan-out, outermost first."""

    name: str
    attributes: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, int] = field(default_factory=dict)
    keep: tuple[str, ...] | None = None
    bypass: tuple[str, ...] = ()
    is_component: bool = True


@dataclass
class Architecture:
    """What an architecture's file says, before it is known which operands a mapping keeps where."""

    name: str
    levels: list[Level]
    clock_mhz: float | None
    notes: tuple[str, ...]


def is_architecture(data: Any) -> bool:
    """Whether a file has an architecture."""
    return isinstance(data, dict) and "architecture" in data


def parts_of(data: Any) -> list[str]:
    """Which parts of a design a file has."""
    if not isinstance(data, dict):
        return []
    found = [part for key, part in (("architecture", "architecture"), ("problem", "layer"), ("ERT", "energies"))
             if key in data]
    mapping = data.get("mapping")
    if isinstance(mapping, list) and mapping and isinstance(mapping[0], dict) and "target" in mapping[0]:
        found.append("mapping")
    return found


def read_architecture(data: Any, name: str, label: str) -> Architecture:
    """Return an architecture, called ``label``. Raises ``ConfigurationError`` with every mistake in it."""
    reading = Reading(name)
    found = data["architecture"]
    if isinstance(found, dict) and "subtree" in found:
        reading.wrong("is a hierarchy of versions before 0.4 (subtree); this reads version 0.4 (nodes), as timeloopfe "
                      "writes it", "architecture.subtree", at=found)
        reading.finish()
    if not reading.fields(found, "architecture", ("nodes",), ("version", "name")):
        reading.finish()
    levels: list[Level] = []
    inherited: dict[str, Any] = {}
    _nodes(reading, found["nodes"], "architecture.nodes", inherited, levels)
    components = [level for level in levels if level.is_component]
    if len(components) < 2:
        reading.wrong("must have a memory and a compute unit", "architecture.nodes", str(len(components)))
    seconds = inherited.get("global_cycle_seconds")
    reading.finish()
    return Architecture(label, levels, None if not seconds else round(1e-6 / float(seconds), 9), tuple(reading.notes))


def _nodes(reading: Reading, nodes: Any, path: str, inherited: dict[str, Any], levels: list[Level]) -> None:
    for number, node in enumerate(reading.items(nodes, path)):
        where, kind = f"{path}[{number}]", tag_of(node)
        if kind in ("Hierarchical", "Parallel"):
            if reading.fields(node, where, ("nodes",), ("attributes",)):
                _nodes(reading, node["nodes"], f"{where}.nodes", inherited, levels)
        elif kind == "Nothing":
            continue
        elif kind in ("Component", "Container"):
            if not reading.fields(node, where, ("name",), (
                "class", "subclass", "attributes", "spatial", "constraints", "required_actions", "enabled", "actions",
                "area_scale", "energy_scale", "sparse_optimizations",
            )):
                continue
            own = dict(node.get("attributes") or {})
            if kind == "Container":
                inherited.update(own)
            if node.get("sparse_optimizations"):
                reading.wrong("sparsity has no counterpart", f"{where}.sparse_optimizations", at=node)
            level = Level(str(node["name"]), {**inherited, **own}, is_component=kind == "Component")
            for mesh in ("meshX", "meshY"):
                size = reading.number(node.get("spatial") or {}, mesh, f"{where}.spatial", whole=True, default=1)
                if size is not None and size > 1:
                    level.axes[f"{node['name']}_{mesh[-1]}"] = size
            constraints = node.get("constraints") or {}
            space = constraints.get("dataspace") or {}
            if "keep" in space:
                level.keep = tuple(str(each) for each in space["keep"])
            level.bypass = tuple(str(each) for each in space.get("bypass", ()))
            if set(constraints) - {"dataspace"}:
                reading.note("Constraints on loops are for Timeloop's mapper, and not carried over.")
            levels.append(level)
        else:
            reading.wrong("is no node that is understood", where, f"!{kind}" if kind else "no tag", at=node,
                          allowed=("!Component", "!Container", "!Hierarchical", "!Parallel", "!Nothing"))


def read_energies(data: Any, name: str) -> dict[str, dict[str, float]]:
    """Return component → action → pJ, of an energy reference table."""
    reading = Reading(name)
    found: dict[str, dict[str, float]] = {}
    for number, table in enumerate(reading.items((data["ERT"] or {}).get("tables"), "ERT.tables")):
        path = f"ERT.tables[{number}]"
        if reading.fields(table, path, ("name", "actions")):
            component = re.sub(r"\[.*\]$", "", str(table["name"])).rpartition(".")[2]
            found[component] = {
                str(action["name"]): reading.number(action, "energy", path, default=0.0) for action in table["actions"]
            }
    reading.finish()
    return found


def read_layer(data: Any, name: str) -> tuple[Einsum, dict[str, Operand]]:
    """Return a problem, and the operands of its data spaces. Raises ``ConfigurationError`` or ``NetworkError``."""
    reading = Reading(name)
    problem = data["problem"]
    shape = problem.get("shape", "cnn-layer")
    if isinstance(shape, str):
        if shape != "cnn-layer":
            reading.wrong("no such shape by name: give its dimensions and data_spaces", "problem.shape", shape,
                          at=problem, allowed=("cnn-layer",))
            reading.finish()
        shape = _CNN_LAYER
    instance = dict(problem.get("instance") or {key: value for key, value in problem.items() if key != "shape"})
    values = {str(each["name"]): int(each.get("default", 1)) for each in shape.get("coefficients") or ()}
    values |= {key: int(instance[key]) for key in values if key in instance}
    dimensions = [str(dim) for dim in shape["dimensions"]]
    sizes = {}
    for dim in dimensions:
        if dim in instance:
            sizes[dim] = reading.number(instance, dim, "problem.instance", whole=True, default=1)
        else:
            reading.wrong("has no size", f"problem.instance.{dim}", at=problem)
    spaces: dict[str, list[Index]] = {}
    outputs = []
    for space in shape.get("data_spaces") or shape.get("data-spaces") or ():
        title = str(space["name"])
        if space.get("read_write") or space.get("read-write"):
            outputs.append(title)
        spaces[title] = []
        for index in reading.items(space["projection"], f"problem.shape.{title}.projection"):
            terms: dict[str, int] = {}
            for term in reading.items(index, f"problem.shape.{title}.projection"):
                loop, *factor = term
                if factor and factor[0] not in values and not str(factor[0]).isdigit():
                    reading.wrong("no such coefficient", f"problem.shape.{title}.projection", factor[0], at=space,
                                  allowed=tuple(values))
                    continue
                terms[str(loop)] = values.get(factor[0], 0) or int(factor[0]) if factor else 1
            spaces[title].append(terms)
    others = [title for title in spaces if title not in outputs]
    sliding = [title for title in others if any(len(index) > 1 for index in spaces[title])]
    weights = [title for title in others if title[:1].upper() in "WF"]
    if len(weights) != 1 and len(sliding) == 1:
        weights = [title for title in others if title not in sliding]
    if len(outputs) != 1 or len(others) != 2 or len(weights) != 1:
        reading.wrong("must be one that is written (read_write), weights and inputs, by names or a sliding window",
                      "problem.shape.data_spaces", ", ".join(spaces), at=problem)
    reading.finish()
    inputs = next(title for title in others if title != weights[0])
    roles: dict[str, Operand] = {weights[0]: "weight", inputs: "input", outputs[0]: "output"}
    title = shape.get("name", "layer") if shape is not _CNN_LAYER else "layer"
    try:
        einsum = read_einsum(str(title), {role: spaces[space] for space, role in roles.items()}, sizes, name)
    except NetworkError as error:
        raise NetworkError(error.problems) from error
    return einsum, roles


def design_of(
    architecture: Architecture, energies: Mapping[str, Mapping[str, float]] | None, name: str,
    layer: tuple[Einsum, dict[str, Operand]] | None = None, mapping: Any = None,
) -> Design:
    """Return the design of an architecture, its energies, a layer and a mapping of it, as far as they are given.

    Raises ``ConfigurationError`` with every mistake in the mapping.
    """
    reading = Reading(name)
    roles: dict[str, Operand] = {"Weights": "weight", "Inputs": "input", "Outputs": "output"}
    if layer is not None:
        roles = layer[1]
    directives = [] if mapping is None else reading.items(mapping["mapping"], "mapping")
    keeps = _keeps(reading, architecture, directives, roles)
    machine = _machine(reading, architecture, energies, keeps)
    design = Design(TOOL, machine=machine, clock_mhz=architecture.clock_mhz, energies_known=energies is not None,
                    notes=architecture.notes)
    if energies is None:
        design = design.with_notes("No energies are given: all are 0. They are in Accelergy's ERT.yaml.")
    if layer is not None:
        design = replace(design, layer=layer[0].layer, precision=_precision(architecture, machine))
        design = design.with_notes("Widths of the operands are the datawidths of the memories: finished values as in "
                                   "the outermost, sums as in the widest that keeps outputs.")
    if layer is not None and mapping is not None:
        design = replace(design, nest=nest_of(reading, architecture, machine, directives, layer[0]))
        design = design.with_notes("Timeloop fetches what two neighbouring tiles share once; here each tile is fetched "
                                   "whole.")
    reading.finish()
    return design.with_notes(*reading.notes)


def _operand(reading: Reading, path: str, title: Any, roles: Mapping[str, Operand], at: Any) -> Operand | None:
    if str(title) not in roles:
        reading.wrong("no such data space", path, title, at=at, allowed=tuple(roles))
    return roles.get(str(title))


def _keeps(
    reading: Reading, architecture: Architecture, directives: list[Any], roles: Mapping[str, Operand]
) -> dict[str, tuple[Operand, ...]]:
    """Which operands each memory keeps: what the mapping says, else the architecture's constraints, else all."""
    found: dict[str, tuple[Operand, ...]] = {}
    known = [level.name for level in architecture.levels if level.is_component]
    for level in architecture.levels[:-1]:
        kept = level.keep if level.keep is not None else tuple(roles)
        path = f"architecture.{level.name}.constraints.dataspace"
        operands = [_operand(reading, path, title, roles, None) for title in kept]
        without = [_operand(reading, path, title, roles, None) for title in level.bypass]
        found[level.name] = tuple(one for one in OPERANDS if one in operands and one not in without)
    for number, directive in enumerate(directives):
        if directive.get("type") not in ("datatype", "dataspace", "bypass"):
            continue
        target, path = str(directive.get("target")), f"mapping[{number}]"
        if target not in known:
            if not SPATIAL.fullmatch(target):
                reading.wrong("no such component", f"{path}.target", target, at=directive, allowed=tuple(known))
            continue
        bypassed = [_operand(reading, f"{path}.bypass", title, roles, directive)
                    for title in directive.get("bypass") or ()]
        kept_too = [_operand(reading, f"{path}.keep", title, roles, directive) for title in directive.get("keep") or ()]
        found[target] = tuple(one for one in OPERANDS
                              if one not in bypassed and (one in kept_too or one in found[target]))
    return found


def _machine(
    reading: Reading, architecture: Architecture, energies: Mapping[str, Mapping[str, float]] | None,
    keeps: Mapping[str, tuple[Operand, ...]],
) -> Machine:
    axes: dict[str, int] = {}
    memories = []
    mac_energy_pj = 0.0
    first, *_, last = [level for level in architecture.levels if level.is_component]
    for level in architecture.levels:
        axes |= level.axes
        if not level.is_component:
            continue
        path = f"architecture.{level.name}"
        table = dict((energies or {}).get(level.name, {}))
        if energies is not None and level.name not in energies:
            reading.wrong("the energy reference table has no such component", path, level.name,
                          allowed=tuple(energies))
        if level is last:
            mac_energy_pj = table.get("compute", 0.0)
            continue
        attributes = level.attributes
        bits = reading.number(attributes, "datawidth", path, whole=True, default=None)
        width = reading.number(attributes, "width", path, whole=True, default=bits)
        if bits is None or width is None:
            reading.wrong("a memory needs its datawidth, in bits", f"{path}.attributes.datawidth", at=attributes)
            continue
        depth = reading.number(attributes, "depth", path, whole=True)
        if depth is None and level is not first and "depth" not in attributes:
            reading.wrong("a memory on the chip needs its depth, in words of its width", f"{path}.attributes.depth",
                          at=key_line(attributes, "width"))
        limits: dict[str, int | None] = {}
        for side in ("read_bandwidth", "write_bandwidth", "shared_bandwidth"):
            value = reading.number(attributes, side, path)
            limits[side] = None if value is None else max(1, round(value * bits))
        if limits["shared_bandwidth"] is not None:
            ports: tuple[Port, ...] = (Port(name="both", serves=_READS | _WRITES, word_bits=width,
                                            bits_per_cycle=limits["shared_bandwidth"]),)
        else:
            ports = (Port(name="read", serves=_READS, word_bits=width, bits_per_cycle=limits["read_bandwidth"]),
                     Port(name="write", serves=_WRITES, word_bits=width, bits_per_cycle=limits["write_bandwidth"]))
        if keeps[level.name]:
            memories.append(Memory(
                name=level.name, keeps=keeps[level.name], size_bits=None if depth is None else depth * width,
                read_energy_pj=table.get("read", 0.0), write_energy_pj=table.get("write", 0.0), ports=ports,
                replicated_along=tuple(axes)))
        else:
            reading.note(f"{level.name} keeps nothing, and is left out.")
        if table.get("update", table.get("write")) != table.get("write"):
            reading.note(f"Updates of {level.name} cost what writes cost.")
        if attributes.get("multiple_buffering", 1) not in (1, 1.0, "1"):
            reading.note(f"The multiple buffering of {level.name} is not carried over: tiles are held twice where "
                         "there is room.")
    reading.finish()
    return Machine(name=architecture.name, memories=tuple(memories), axes=axes, mac_energy_pj=mac_energy_pj)


def _precision(architecture: Architecture, machine: Machine) -> LayerPrecision:
    bits = {level.name: int(level.attributes["datawidth"]) for level in architecture.levels
            if "datawidth" in level.attributes}
    outer = bits[machine.memories[0].name]
    sums = max(bits[memory.name] for memory in machine.memories if "output" in memory.keeps)
    plain = Format(f"int{outer}")
    return LayerPrecision(weight=plain, input=plain, output=plain, accumulator=Format(f"int{sums}"))
