"""Why there is no mapping: which memory, what the smallest tiles demand of it, what it has, what would hold them."""

from __future__ import annotations

from mapper.cost_model import CostModel
from simulator.errors import Problem
from simulator.layer import Layer, Operand
from simulator.precision import LayerPrecision


def explain_infeasible(models: list[CostModel], layer: Layer, precision: LayerPrecision) -> list[Problem]:
    """Name the memories that cannot hold even the smallest tiles, each with the least that any variant asks of it.

    Where every variant overfills some memory, only those that all of them overfill are named, if there are any.
    """
    demands: dict[str, list[tuple[int, dict[Operand, int], int]]] = {}
    for model in models:
        for capacity in model.capacities:
            demand = {operand: int(term.smallest) for operand, term in capacity.tiles.items()}
            if sum(demand.values()) > capacity.size_bits:
                demands.setdefault(capacity.memory, []).append((sum(demand.values()), demand, capacity.size_bits))
    always = {memory: found for memory, found in demands.items() if len(found) == len(models)}
    where = f"layer {layer.name} in {precision.label}"
    problems = []
    for memory, found in (always or demands).items():
        total, demand, size_bits = min(found, key=lambda one: one[0])
        parts = ", ".join(f"{operand} {bits}" for operand, bits in demand.items())
        problems.append(
            Problem(
                f"too small for any tile: the smallest needs {total} bits ({parts}); {total} bits or more would hold "
                "it",
                where=where, path=f"{memory}.size_bits", value=str(size_bits),
            )
        )
    return problems or [Problem("no mapping fits the machine", where=where)]
