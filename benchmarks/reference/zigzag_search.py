"""ZigZag's mappings against ours: every one of its search and of the longer annealing must be met or beaten.

All search the same space (spatial loops given, any order of the temporal loops, any place where a memory keeps an
operand) under the same rules, for the same objective. Ours are to be proven optimal, too.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.reference.comparison import Answer, Comparison, Row, compare
from benchmarks.reference.zigzag import MAPPINGS, layers_of, machine_of
from bitmosaic.interchange.zigzag import OPERANDS, read_result
from mapper.zigzag_search import ZigzagSolution, search
from simulator.layer import Layer
from simulator.precision import LayerPrecision

# Energies of equal words, summed in another order.
TOLERANCE = 1e-12


def run(folder: Path) -> Comparison:
    """Search every layer, machine and objective of the file once, and compare each of its mappings."""
    entries = json.loads((folder / MAPPINGS).read_text(encoding="utf-8"))["entries"]
    layers = layers_of(folder)
    machines = {name: machine_of(folder, name) for name in ("ref_ws", "ref_rf")}
    # Have Numba compile the kernels, or load them, before a search is timed.
    search(Layer(name="small", dims={"K": 2, "C": 2}), LayerPrecision(), machines["ref_ws"], {}, "latency")
    known: dict[tuple[str, ...], ZigzagSolution] = {}
    saved: dict[str, list[float]] = {}

    def evaluate(row: Row) -> Answer:
        entry = entries[int(row["entry"])]
        nest = read_result(entry)
        key = entry["accelerator"], entry["layer"], entry["objective"], repr(nest.spatial), *entry["temporal"]
        if key not in known:
            known[key] = search(
                layers[entry["layer"]], LayerPrecision(), machines[entry["accelerator"]], nest.spatial,
                entry["objective"], [OPERANDS[letter] for letter in entry["temporal"]],
            )
        found, theirs = known[key], float(row["value"])
        if entry["by"].startswith("annealing"):
            saved.setdefault(entry["objective"], []).append(1 - found.value / theirs)
        return {"met or beaten": int(found.value <= theirs * (1 + TOLERANCE)), "proven": int(found.status == "optimal")}

    comparison = compare([
        {"entry": str(number), "value": repr(entry[entry["objective"]]), "met or beaten": "1", "proven": "1"}
        for number, entry in enumerate(entries)
    ], evaluate)
    seconds = [found.cpu_seconds for found in known.values()]
    gains = "".join(f", {name} {min(shares):.2%} to {max(shares):.1%} less" for name, shares in saved.items())
    note = f"mappings met or beaten; than annealing{gains}; {len(known)} searches, {sum(seconds):.1f} CPU s"
    return replace(comparison, note=f"{note}, {max(seconds, default=0.0):.1f} at most")
