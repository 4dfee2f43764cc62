"""Why there is no mapping: which memory, what the smallest tiles demand of it, what it has, what would hold them."""

from __future__ import annotations

from mapper.cost_model import CostModel
from simulator.errors import Problem
from simulator.layer import Layer
from simulator.precision import LayerPrecision


def explain_infeasible(models: list[CostModel], layer: Layer, precision: LayerPrecision) -> list[Problem]:
    """Name the memories that cannot hold even the smallest tiles."""
    problems = []
    seen: set[str] = set()
    for model in models:
        for capacity in model.capacities:
            demand = {operand: int(term.smallest) for operand, term in capacity.tiles.items()}
            total = sum(demand.values())
            if total > capacity.size_bits and capacity.memory not in seen:
                seen.add(capacity.memory)
                parts = ", ".join(f"{operand} {bits}" for operand, bits in demand.items())
                problems.append(
                    Problem(
                        f"too small for any tile: the smallest needs {total} bits ({parts}); "
                        f"{total} bits or more would hold it",
                        where=f"layer {layer.name} in {precision.label}",
                        path=f"{capacity.memory}.size_bits",
                        value=str(capacity.size_bits),
                    )
                )
    return problems or [Problem("no mapping fits the machine", where=f"layer {layer.name} in {precision.label}")]
