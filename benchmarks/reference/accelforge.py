"""AccelForge 1.0.467: energy, latency and bits moved at the mappings that it gives, under its counting rules.

Each end of each front is one row. The front's other points come without a mapping: they are met or
beaten by the search (``accelforge_search``), not compared here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.reference.comparison import Answer, Comparison, Row, Value, compare
from bitmosaic.interchange.accelforge import LETTERS as OPERANDS
from bitmosaic.interchange.accelforge import read_lines, read_machine
from bitmosaic.interchange.foreign_yaml import load
from simulator.counting_rules import accelforge as rules
from simulator.counting_rules.loop_nest import LoopNest, Machine
from simulator.formats import Format
from simulator.layer import Dim, Layer
from simulator.precision import LayerPrecision

FRONTS = "accelforge_fronts.json"
INPUTS = "accelforge_inputs"
ENDS = ("min_energy", "min_latency", "min_edp")
# Its names of the loops; its layers, as the reference's notes give them.
MATRIX: dict[str, Dim] = {"m": "N", "n": "K", "k": "C"}
CONVOLUTION: dict[str, Dim] = {"p": "P", "q": "Q", "r": "R", "s": "S", "c": "C", "k": "K"}
DEPTHWISE: dict[str, Dim] = {**CONVOLUTION, "c": "G"}
LAYERS: dict[str, tuple[dict[str, Dim], dict[str, int]]] = {
    "r18_l1_3x3": (CONVOLUTION, {"k": 64, "c": 64, "p": 56, "q": 56, "r": 3, "s": 3}),
    "r18_l4_3x3": (CONVOLUTION, {"k": 512, "c": 512, "p": 7, "q": 7, "r": 3, "s": 3}),
    "mbv2_dw_3x3": (DEPTHWISE, {"c": 144, "p": 56, "q": 56, "r": 3, "s": 3}),
    "bert_ffn1": (MATRIX, {"m": 128, "k": 768, "n": 3072}),
    "llama_decode": (MATRIX, {"m": 1, "k": 4096, "n": 4096}),
}


def layer_of(name: str) -> Layer:
    """Return a layer of the reference by its name."""
    names, sizes = LAYERS[name]
    return Layer(name=name, dims={names[rank]: size for rank, size in sizes.items()})


def precision_of(bits: list[int]) -> LayerPrecision:
    """Return the widths of input, weight and output: outputs have one width everywhere, as our partial sums do."""
    inputs, weights, outputs = (Format(f"int{width}") for width in bits)
    return LayerPrecision(input=inputs, weight=weights, accumulator=outputs, output=outputs)


def machine_of(folder: Path, arch: str) -> Machine:
    """Return an architecture of the reference by its letter."""
    path = folder / INPUTS / f"arch_{arch}.yaml"
    machine = read_machine(load(path), path.name, arch).machine
    assert machine is not None
    return machine


def nest_of(layer: str, lines: list[str]) -> LoopNest:
    """Read a mapping of one of the layers as it is printed."""
    return read_lines(lines, LAYERS[layer][0], OPERANDS)


def _rows(fronts: dict[str, Any]) -> list[dict[str, str]]:
    """Return one row an end of a front, its cells as text; ``entry`` and ``end`` say where it stands in the file."""
    rows = []
    for entry, front in fronts.items():
        for end in ENDS:
            point = front[end]
            cells = {"entry": entry, "end": end}
            for name in ("energy", "latency", "edp"):
                cells[name] = repr(point[name])
            for table in ("actions", "latency_by", "energy_by"):
                cells |= {name: repr(value) for name, value in point[table].items()}
            rows.append(cells)
    return rows


def evaluate(fronts: dict[str, Any], folder: Path, row: Row) -> Answer:
    """Count one mapping, and compare every number that the file gives of it."""
    front = fronts[row["entry"]]
    layer, precision = layer_of(front["layer"]), precision_of(front["bits"])
    machine = machine_of(folder, front["arch"])
    cost = rules.count(layer, precision, machine, nest_of(front["layer"], front[row["end"]]["mapping"]))
    found: dict[str, Value] = {
        "energy": cost.energy_pj, "latency": cost.latency_cycles, "edp": cost.edp,
        "action.MAC.None.compute": layer.macs, "energy.MAC.None.compute": layer.macs * machine.mac_energy_pj,
        "energy.MAC.leak": 0, "L.latency.MAC": cost.steps,
    }
    for memory in machine.memories:
        found[f"L.latency.{memory.name}"] = cost.cycles[memory.name]
        found[f"energy.{memory.name}.leak"] = 0
        for letter, operand in OPERANDS.items():
            if operand not in memory.keeps:
                continue
            for action, energy_pj in (("read", memory.read_energy_pj), ("write", memory.write_energy_pj)):
                bits = cost.access_bits(memory.name, operand, action == "read")
                found[f"action.{memory.name}.{letter}.{action}"] = bits
                if bits:
                    found[f"energy.{memory.name}.{letter}.{action}"] = bits * energy_pj
    forgotten = [name for name in row if name.startswith(("action.", "energy.", "L.latency.")) and name not in found]
    if forgotten:
        raise ValueError(f"numbers of the file that nothing here counts: {', '.join(forgotten)}")
    return found


def run(folder: Path) -> Comparison:
    """Compare every mapping of the file."""
    fronts = json.loads((folder / FRONTS).read_text(encoding="utf-8"))
    rows = _rows(fronts)
    distinct = {json.dumps((row["entry"], fronts[row["entry"]][row["end"]]["mapping"])) for row in rows}
    return compare(rows, lambda row: evaluate(fronts, folder, row), f"{len(distinct)} different mappings")
