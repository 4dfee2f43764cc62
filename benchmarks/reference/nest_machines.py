"""Read the machine descriptions of ZigZag and AccelForge into the data model of their counting rules.

Only what the descriptions beside the reference results say is understood; anything else is an error, not a guess.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from simulator.counting_rules.loop_nest import FLOWS, READS, Flow, Machine, Memory, Port
from simulator.errors import ConfigurationError, Problem
from simulator.layer import OPERANDS, Operand

SEPARATE_PORTS = "max(a.n_calls / a.throughput for a in actions)"
ZIGZAG_OPERANDS: dict[str, Operand] = {"I1": "input", "I2": "weight", "O": "output"}
# "fh": filled from the higher memory, "tl": read towards the lower one, and so on.
ZIGZAG_FLOWS: dict[str, Flow] = {"tl": "to_inner", "fl": "from_inner", "th": "to_outer", "fh": "from_outer"}


def _load(path: Path) -> Any:
    return YAML(typ="rt").load(path.read_text(encoding="utf-8"))


def zigzag_machine(path: Path) -> Machine:
    """Return one of ZigZag's accelerators: a port moves one word a cycle, and energies are per word."""
    data = _load(path)
    array = data["operational_array"]
    axes = dict(zip(array["dimensions"], array["sizes"], strict=True))
    memories = []
    for name, memory in data["memories"].items():
        ports = []
        for port in memory["ports"]:
            if port["bandwidth_min"] != port["bandwidth_max"]:
                raise ConfigurationError(Problem("words of several widths are not understood", where=path.name,
                                                 path=f"memories.{name}.ports.{port['name']}"))
            serves = [entry.split(", ") for entry in port["allocation"]]
            ports.append(Port(
                name=port["name"], bits_per_cycle=port["bandwidth_max"], word_bits=port["bandwidth_max"],
                serves=frozenset((ZIGZAG_OPERANDS[operand], ZIGZAG_FLOWS[flow]) for operand, flow in serves),
            ))
        memories.append(Memory(
            name=name, keeps=tuple(ZIGZAG_OPERANDS[operand] for operand in memory["operands"]),
            size_bits=int(memory["size"]), read_energy_pj=float(memory["r_cost"]),
            write_energy_pj=float(memory["w_cost"]), ports=tuple(ports),
            replicated_along=tuple(axis for axis in axes if axis not in memory["served_dimensions"]),
        ))
    return Machine(name=data["name"], memories=tuple(reversed(memories)), axes=axes,
                   mac_energy_pj=float(array["unit_energy"]))


def _limit(text: object) -> int | None:
    """Return a size or a bandwidth: a number, a product of numbers, or ``inf``."""
    if str(text) == "inf":
        return None
    if not re.fullmatch(r"\d+(\s*\*\s*\d+)*", str(text)):
        raise ConfigurationError(Problem("must be a number, a product of numbers, or inf", value=str(text)))
    return math.prod(int(factor) for factor in str(text).split("*"))


def _kept(expression: str) -> tuple[Operand, ...]:
    if expression == "All":
        return OPERANDS
    names = [name.strip() for name in expression.split("|")]
    return tuple(operand for operand in OPERANDS if operand in names)


def accelforge_machine(path: Path, name: str) -> Machine:
    """Return one of AccelForge's architectures: memories from the outermost in, energies per bit."""
    memories: list[Memory] = []
    axes: dict[str, int] = {}
    must_reuse: dict[str, Operand] = {}
    mac_energy_pj = 0.0
    for node in _load(path)["arch"]["nodes"]:
        kind = node.tag.value if isinstance(node, CommentedMap) else None
        actions = {action["name"]: action for action in node.get("actions", ())}
        if kind == "!Container":
            for axis in node["spatial"]:
                axes[axis["name"]] = axis["fanout"]
                if "reuse" in axis:
                    must_reuse[axis["name"]] = axis["reuse"]
        elif kind == "!Memory":
            memories.append(_accelforge_memory(node, actions, tuple(axes), path))
        elif kind == "!Compute":
            mac_energy_pj = float(actions["compute"]["energy"])
            if actions["compute"]["throughput"] != 1:
                raise ConfigurationError(Problem("only one MAC a cycle is understood", where=path.name))
        else:
            raise ConfigurationError(Problem("not a node that is understood", where=path.name, value=str(kind)))
    return Machine(name=name, memories=tuple(memories), axes=axes, mac_energy_pj=mac_energy_pj, must_reuse=must_reuse)


def _accelforge_memory(
    node: CommentedMap, actions: dict[str, Any], axes: tuple[str, ...], path: Path
) -> Memory:
    keeps = _kept(node["tensors"]["keep"])
    limits = {name: _limit(action["throughput"]) for name, action in actions.items()}
    reads = frozenset((operand, flow) for operand in OPERANDS for flow in READS)
    writes = frozenset((operand, flow) for operand in OPERANDS for flow in FLOWS if flow not in READS)
    if node.get("total_latency") == SEPARATE_PORTS:
        ports: tuple[Port, ...] = (Port(name="read", serves=reads, bits_per_cycle=limits["read"]),
                                   Port(name="write", serves=writes, bits_per_cycle=limits["write"]))
    elif "total_latency" in node or limits["read"] != limits["write"]:
        raise ConfigurationError(Problem("this rule of latency is not understood", where=path.name,
                                         path=f"{node['name']}.total_latency", value=str(node.get("total_latency"))))
    else:
        ports = (Port(name="both", serves=reads | writes, bits_per_cycle=limits["read"]),)
    return Memory(
        name=node["name"], keeps=keeps, size_bits=_limit(node["size"]), replicated_along=axes, ports=ports,
        read_energy_pj=float(actions["read"]["energy"]), write_energy_pj=float(actions["write"]["energy"]),
    )
