"""Where assignments come from: the ways in which methods turn ratings of layers into proposals to be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitmosaic.exploration import CostAxis
from bitmosaic.network_points import NetworkPoints, Proposal
from mapper.assignment import assignment_front
from simulator.precision import LayerPrecision

AXES: tuple[CostAxis, ...] = ("latency", "energy")


def least_harm(
    run: NetworkPoints, menu: Sequence[LayerPrecision], harms: Mapping[tuple[str, str], float], points: int
) -> list[Proposal]:
    """Least total harm under budgets, ``points`` on each front, by integer program; equal ones once."""
    by_label = {precision.label: precision for precision in menu}
    found: dict[tuple[tuple[str, str], ...], CostAxis] = {}
    for axis in AXES:
        for assignment in assignment_front(run.choices(menu, harms, axis), points=points):
            found.setdefault(tuple(assignment.labels.items()), axis)
    return [
        Proposal(run.mixed({layer: by_label[label] for layer, label in labels}), axis)
        for labels, axis in found.items()
    ]
