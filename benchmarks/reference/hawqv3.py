"""HAWQ-V3's bit assignments (ResNet-18 and ResNet-50, 8 or 4 bits a layer): optima of its integer program.

From its published arrays: harm of 8 bits in place of 4 is ``trace · (‖ΔW8‖² − ‖ΔW4‖²)`` (negative), cost is the
model's size, its bit operations or its latency on a T4, and the limit stands at a fraction f of the way from all
layers in 4 bits to all in 8. Layers whose outputs are added share their width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.reference.comparison import Answer, Row
from mapper.assignment import Choice, assign
from simulator.errors import BitmosaicError

TIED: dict[str, tuple[tuple[str, str], ...]] = {
    "resnet18": (("4", "6"), ("9", "11"), ("14", "16")),
    "resnet50": (("0", "3"), ("10", "13"), ("23", "26"), ("42", "45")),
}
SIZE = "params_M(resnet18:/2^20,resnet50:/1e6)"
OBJECTIVE = "exact_objective(sum trace*(dW8-dW4) over 8-bit layers)"
PUBLISHED = "published_bits(as string, layer order as in inputs file)"


def cost_of(row: Row, constraint: str, bits: int) -> float:
    """Cost of a layer in 8 or 4 bits: megabytes, giga bit operations (1 G = 1024 M), or milliseconds."""
    if constraint == "modelsize":
        return float(row[SIZE]) * bits / 8
    if constraint == "bops":
        return float(row["macs_M"]) * bits * bits / 1024
    if constraint == "latency":
        return float(row[f"latency_int{bits}_ms_T4"])
    raise ValueError(f"constraint={constraint}: neither modelsize nor bops nor latency")


def harm_of(row: Row, bits: int) -> float:
    """Harm of a layer in 8 or 4 bits, measured from 4 bits."""
    if bits == 4:
        return 0.0
    return float(row["hutchinson_trace_per_param"]) * (float(row["dW2_int8"]) - float(row["dW2_int4"]))


def choices_of(inputs: Sequence[Row], net: str, constraint: str) -> dict[str, tuple[Choice, ...]]:
    """Return the choices of each layer of a network, in order."""
    rows = sorted((row for row in inputs if row["net"] == net), key=lambda row: int(row["idx"]))
    return {
        row["idx"]: tuple(
            Choice(label=str(bits), cost=cost_of(row, constraint, bits), harm=harm_of(row, bits)) for bits in (8, 4)
        )
        for row in rows
    }


def limit_of(choices: dict[str, tuple[Choice, ...]], fraction: float) -> float:
    """Return the budget: ``c4 + f · (c8 − c4)``."""
    wide, narrow = (sum(row[i].cost for row in choices.values()) for i in (0, 1))
    return narrow + fraction * (wide - narrow)


def optimum(inputs: Sequence[Row]) -> Callable[[Row], Answer]:
    """Return the evaluation of one limit: our proven optimum, and the published vector under the same arithmetic."""

    def evaluate(row: Row) -> Answer:
        choices = choices_of(inputs, row["net"], row["constraint"])
        budget = limit_of(choices, float(row["limit_fraction"]))
        found = assign(choices, minimise="harm", cost_budget=budget, tied=TIED[row["net"]])
        if found.status != "optimal":
            raise BitmosaicError("the optimum was not proven in this time")
        published = row[PUBLISHED]
        picked = [
            next(choice for choice in options if choice.label == bits)
            for options, bits in zip(choices.values(), published, strict=True)
        ]
        ours = "".join(found.labels.values())
        return {
            "budget": budget,
            OBJECTIVE: found.harm,
            "exact_cost": found.cost,
            "exact_bits": ours,
            "published_objective": sum(choice.harm for choice in picked),
            "published_cost": sum(choice.cost for choice in picked),
            "layers_differing": sum(a != b for a, b in zip(ours, published, strict=True)),
        }

    return evaluate
