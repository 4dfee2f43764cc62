"""ZigZag 3.9.1: word accesses, energy and latency at the mappings that it gives, under its counting rules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.reference.comparison import Answer, Comparison, Row, Value, compare
from bitmosaic.interchange.foreign_yaml import load
from bitmosaic.interchange.zigzag import OPERANDS, read_layers, read_machine, read_result
from simulator.counting_rules import zigzag as rules
from simulator.counting_rules.loop_nest import FLOWS, Flow, Machine
from simulator.layer import Layer
from simulator.precision import LayerPrecision

MAPPINGS = "zigzag_mappings.json"
INPUTS = "zigzag_inputs"
FLOW_NAMES: dict[Flow, str] = {
    "to_inner": "rd_to_low", "from_inner": "wr_by_low", "to_outer": "rd_to_high", "from_outer": "wr_by_high",
}


def layers_of(folder: Path) -> dict[str, Layer]:
    """Return the layers that the file of inputs describes, by their names."""
    path = folder / INPUTS / "layers.yaml"
    return {name: einsum.layer for name, (einsum, _) in read_layers(load(path), path.name).items()}


def machine_of(folder: Path, name: str) -> Machine:
    """Return an accelerator of the reference by its name."""
    path = folder / INPUTS / f"{name}.yaml"
    machine = read_machine(load(path), path.name).machine
    assert machine is not None
    return machine


def _row(number: int, entry: dict[str, Any]) -> dict[str, str]:
    """Return an entry's numbers as text, one cell a number; ``entry`` is its place in the file."""
    cells = {"entry": str(number)}
    for name in ("macs", "energy", "mac_energy", "mem_energy", "latency", "ideal_temporal_cycle", "stall", "onload",
                 "offload"):
        cells[name] = repr(entry[name])
    for letter, memories in entry["memories"].items():
        for level, memory in enumerate(memories):
            cells[f"energy.{letter}.{memory}"] = repr(entry["energy_per_operand_level"][letter][level])
            cells[f"room.{letter}.{memory}"] = repr(entry["mem_utilization"][letter][level])
            cells[f"double_buffered.{letter}.{memory}"] = str(entry["double_buffered"][letter][level + 1])
            for flow, words in entry["word_accesses"][letter][level].items():
                cells[f"words.{letter}.{memory}.{flow}"] = repr(words)
    for memory, ports in entry["stall_per_port"].items():
        cells |= {f"stall.{memory}.{port}": repr(stall) for port, stall in ports.items()}
    return cells


def answer(layer: Layer, machine: Machine, cost: rules.Cost) -> Answer:
    """Return what was counted, under the names of ``_row``."""
    found: dict[str, Value] = {
        "macs": layer.macs, "energy": cost.energy_pj, "mac_energy": cost.mac_energy_pj,
        "mem_energy": cost.memory_energy_pj, "latency": cost.latency_cycles, "ideal_temporal_cycle": cost.steps,
        "stall": cost.stall_cycles, "onload": cost.loading_cycles, "offload": cost.unloading_cycles,
    }
    for letter, operand in OPERANDS.items():
        for memory in machine.levels(operand):
            found[f"energy.{letter}.{memory.name}"] = cost.energy_pj_by_level[operand, memory.name]
            found[f"room.{letter}.{memory.name}"] = cost.room[memory.name]
            found[f"double_buffered.{letter}.{memory.name}"] = str(cost.double_buffered[operand, memory.name])
            for flow in FLOWS:
                words = cost.words[memory.name, operand, flow]
                found[f"words.{letter}.{memory.name}.{FLOW_NAMES[flow]}"] = words
    for (memory_name, port), stall in cost.port_stall_cycles.items():
        found[f"stall.{memory_name}.{port}"] = stall
    return found


def run(folder: Path) -> Comparison:
    """Compare every mapping of the file."""
    entries = json.loads((folder / MAPPINGS).read_text(encoding="utf-8"))["entries"]
    layers = layers_of(folder)
    machines = {name: machine_of(folder, name) for name in ("ref_ws", "ref_rf")}

    ratios = []

    def evaluate_row(row: Row) -> Answer:
        entry = entries[int(row["entry"])]
        layer, machine = layers[entry["layer"]], machines[entry["accelerator"]]
        order = [OPERANDS[letter] for letter in entry["temporal"]]
        cost = rules.count(layer, LayerPrecision(), machine, read_result(entry), order)
        ratios.append(cost.latency_cycles / max(cost.steps, cost.busiest_port_cycles))
        return answer(layer, machine, cost)

    found = compare([_row(number, entry) for number, entry in enumerate(entries)], evaluate_row)
    if not ratios:
        return found
    return replace(found, note="latency and port stalls too; latency / max(steps, busiest port): "
                               f"{min(ratios):.3f} to {max(ratios):.3f}")
