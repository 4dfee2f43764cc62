"""The exact front of latency and energy of one layer, by ε-constraints.

From the thriftiest mapping to the fastest: the least energy within a limit of latency, then the least latency within
that energy, then a limit one cycle below (Haimes, Lasdon and Wismer 1971). Each point is found by two searches of
``search``, so each has a bound of its own in both costs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from mapper.cache import MODEL_VERSION
from mapper.constrained_space import constrained_models
from mapper.constraints import MappingConstraints
from mapper.descent import ROUNDING
from mapper.pareto import pareto_front
from mapper.planned_steps import planned_machine
from mapper.search import LayerSpace, search_models
from mapper.solution import Limits, Objective, SearchBudget, SearchInterrupted
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, Problem
from simulator.kernels import compile_enumeration
from simulator.layer import Frozen, Layer
from simulator.mapping import Mapping
from simulator.precision import LayerPrecision
from simulator.result import LayerResult
from simulator.shown import Shown

PROVEN = 2e-6  # gap up to which a cost counts as proven, as in ``MappingSolution.status``


class FrontPoint(Frozen):
    """One point of a front: a mapping that none of the space beats in latency and energy both, as far as is proven.

    Attributes:
        latency_lower_bound_cycles: no mapping with at most this point's energy takes fewer cycles.
        energy_lower_bound_pj: no mapping with fewer cycles than the point before it (towards less energy) costs less.
    """

    mapping: Mapping
    result: LayerResult
    latency_lower_bound_cycles: float
    energy_lower_bound_pj: float

    @property
    def latency_cycles(self) -> int:
        """Simulated cycles."""
        return self.result.total_cycles

    @property
    def energy_pj(self) -> float:
        """Simulated energy, leakage included where the machine has it."""
        return self.result.total_energy_pj

    @property
    def gap(self) -> float:
        """The larger of both gaps, (cost − lower bound) / cost."""
        gaps = (
            (self.latency_cycles - self.latency_lower_bound_cycles) / max(self.latency_cycles, 1),
            (self.energy_pj - self.energy_lower_bound_pj) / self.energy_pj if self.energy_pj > 0 else 0.0,
        )
        return max(0.0, *gaps)


class MappingFront(Shown, Frozen):
    """Points of a layer's front, fastest first.

    Attributes:
        points: none of them beats another in both costs.
        complete: every point is proven, and there are no others in the space (but such as cost at most 2e-6 less
            energy than one of them).
        space: the restrictions under which that holds, the user's constraints among them.
        model_version: of the model of machines and of proofs (``MappingSolution``).
    """

    layer: Layer
    precision: LayerPrecision
    points: tuple[FrontPoint, ...]
    complete: bool
    solve_seconds: float
    space: str
    model_version: int | None = None


class FrontInterrupted(KeyboardInterrupt):
    """Ctrl-C: ``front`` has the points found so far, and is not complete."""

    def __init__(self, front: MappingFront) -> None:
        super().__init__()
        self.front = front


class _Found(NamedTuple):
    """What one search of the sweep gave."""

    mapping: Mapping
    result: LayerResult
    lower_bound: float


def map_front(
    layer: Layer,
    precision: LayerPrecision,
    accelerator: Accelerator,
    *,
    budget: SearchBudget | None = None,
    constraints: MappingConstraints | None = None,
    most_points: int | None = None,
    progress: Callable[[FrontPoint], None] | None = None,
) -> MappingFront:
    """Find all mappings of one layer that no other one matches or beats in latency and energy both.

    ``budget`` is for each search, of which a point takes two; ``target_gap`` must be 0. ``most_points``: stop after so
    many from the thriftiest on; the front is then not complete. ``progress`` is called with each point.

    Raises what ``map_layer`` raises, and ``FrontInterrupted`` at Ctrl-C where a point was found.
    """
    budget = budget or SearchBudget()
    if budget.target_gap:
        raise ConfigurationError(Problem("a front is searched for without a gap allowed", path="target_gap",
                                         value=str(budget.target_gap), allowed=("0",)))
    if precision.split is not None:
        raise ConfigurationError(Problem("layers split by channel have no front: their mappings are fitted",
                                         where=f"layer {layer.name}", path="precision", value=precision.label))
    accelerator.processing_element.check(precision)
    constraints = constraints or MappingConstraints()
    machine = planned_machine(accelerator, precision)
    began = time.process_time()
    models = constrained_models(layer, precision, machine, constraints)
    compile_enumeration()
    space = LayerSpace(layer, precision, machine, models, constraints)
    points: list[FrontPoint] = []

    def front(*, complete: bool) -> MappingFront:
        keep = pareto_front([[point.latency_cycles, point.energy_pj] for point in points])
        kept = sorted((point for point, stays in zip(points, keep, strict=True) if stays),
                      key=lambda point: point.latency_cycles)
        proven = all(point.gap <= PROVEN for point in kept)
        return MappingFront(
            layer=layer, precision=precision, points=tuple(kept), complete=complete and proven,
            solve_seconds=time.process_time() - began, space=space.restrictions,
            model_version=MODEL_VERSION,
        )

    try:
        fastest = _search(space, "latency", Limits(), budget, None)
        least_cycles = math.ceil(fastest.lower_bound - 1e-6)
        limit = math.inf
        while most_points is None or len(points) < most_points:
            thrifty = _search(space, "energy", Limits(latency_cycles=limit), budget, fastest.mapping)
            energy = thrifty.result.total_energy_pj
            quick = _search(space, "latency", Limits(energy_pj=energy * (1 + ROUNDING)), budget, thrifty.mapping)
            points.append(
                FrontPoint(
                    mapping=quick.mapping, result=quick.result,
                    latency_lower_bound_cycles=float(math.ceil(quick.lower_bound - 1e-6)),
                    energy_lower_bound_pj=min(thrifty.lower_bound, energy),
                )
            )
            if progress:
                progress(points[-1])
            limit = quick.result.total_cycles - 1
            if limit < fastest.result.total_cycles:
                # What is faster than the fastest known one, where that is not proven, stays unknown.
                return front(complete=limit < least_cycles)
        return front(complete=False)
    except KeyboardInterrupt:
        if not points:
            raise
        raise FrontInterrupted(front(complete=False)) from None


def _search(
    space: LayerSpace, objective: Objective, limits: Limits, budget: SearchBudget, known: Mapping | None
) -> _Found:
    """One search, from a mapping that is known to keep the limits."""
    incumbent = space.incumbent(objective, budget, limits)
    if known is not None:
        incumbent.offer(known)
    try:
        bound = search_models(space, incumbent, budget)
    except SearchInterrupted:
        raise KeyboardInterrupt from None
    assert incumbent.mapping is not None and incumbent.result is not None
    return _Found(incumbent.mapping, incumbent.result, bound)


__all__ = ["FrontInterrupted", "FrontPoint", "MappingFront", "map_front"]
