"""AccelForge's fronts against ours: every point of its search must be met or beaten by a nest that we find.

Both search the same space under the same rules; its search is not complete, ours compares with everything.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.reference.accelforge import FRONTS, layer_of, machine_of, precision_of
from benchmarks.reference.comparison import Answer, Comparison, Row, compare
from mapper.nest_search import NestFront, nest_front
from simulator.layer import Layer

# Costs of whole numbers of bits at "nice" energies: equal costs are equal to the last digits of a sum of floats.
TOLERANCE = 1e-12


def run(folder: Path) -> Comparison:
    """Search every layer of the file once, and compare each point of its front."""
    fronts = json.loads((folder / FRONTS).read_text(encoding="utf-8"))
    _compile(folder)
    found: dict[tuple[str, str, tuple[int, ...]], NestFront] = {}
    theirs_seconds: list[float] = []
    ours_seconds: list[float] = []
    beaten = 0
    rows = []
    for entry, front in fronts.items():
        key = front["arch"], front["layer"], tuple(front["bits"])
        if key not in found:
            found[key] = nest_front(layer_of(key[1]), precision_of(front["bits"]), machine_of(folder, key[0]))
        if "cpu_make" in front:
            theirs_seconds.append(front["cpu_make"])
            ours_seconds.append(found[key].cpu_seconds)
        for energy, latency in front["front"]:
            rows.append({"entry": entry, "energy": repr(energy), "latency": repr(latency), "met or beaten": "1"})

    def evaluate(row: Row) -> Answer:
        nonlocal beaten
        front = fronts[row["entry"]]
        ours = found[front["arch"], front["layer"], tuple(front["bits"])]
        energy, latency = float(row["energy"]) * (1 + TOLERANCE), float(row["latency"]) * (1 + TOLERANCE)
        as_good = [point.cost for point in ours.points
                   if point.cost.energy_pj <= energy and point.cost.latency_cycles <= latency]
        beaten += any(cost.energy_pj < float(row["energy"]) * (1 - TOLERANCE)
                      or cost.latency_cycles < float(row["latency"]) * (1 - TOLERANCE) for cost in as_good)
        return {"met or beaten": int(bool(as_good))}

    comparison = compare(rows, evaluate)
    seconds = [one.cpu_seconds for one in found.values()]
    note = f"points met, {beaten} of them beaten; {len(found)} searches, proven, {sum(seconds):.1f} CPU s in all, "
    note += f"{max(seconds):.1f} at most"
    if ours_seconds:
        note += f"; theirs took {min(a / b for a, b in zip(theirs_seconds, ours_seconds, strict=True)):.0f}× or more"
    return replace(comparison, note=note)


def _compile(folder: Path) -> None:
    """Have Numba compile the kernels, or load them, before a search is timed."""
    small = Layer(name="small", dims={"K": 2, "C": 2, "P": 2, "R": 3})
    nest_front(small, precision_of([8, 8, 8]), machine_of(folder, "A"))
