"""Nests of least energy or least latency under ZigZag's counting rules, with a bound that proves them.

The space: the spatial loops are given; any order of the temporal loops, cut anywhere into factors that divide; any
place in it where a memory keeps an operand, for each operand by itself. ``zigzag_places`` says why a nest's cost is a
sum over its places, ``zigzag_plan`` what is summed, and the kernel ``chains`` finds the least by walking the lattice of
divisors. Energy is found exactly. For latency the walk gives a lower bound, and its nests are ordered within the
sections between places, counted by the rules, and are optimal where they cost no more than the bound.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mapper.zigzag_places import PlacedLayer, places_of
from mapper.zigzag_plan import Plan, cases, energy_plan, latency_plan
from simulator.counting_rules import zigzag
from simulator.counting_rules.loop_nest import Loop, LoopNest, Machine, Store
from simulator.errors import ConfigurationError, InfeasibleError, MappingError, Problem
from simulator.kernels import chains as kernel
from simulator.layer import OPERANDS, Dim, Layer, Operand
from simulator.precision import LayerPrecision

Objective = Literal["energy", "latency"]
Status = Literal["optimal", "feasible"]
TOLERANCE = 1e-9  # of sums of floats
MOST_LABELS = 2_000_000
FIRST_LABELS = 100_000


@dataclass(frozen=True)
class ZigzagSolution:
    """The best nest that was found.

    Attributes:
        nest, cost: the nest, and what the rules count for it.
        objective, value: what was minimised (pJ or cycles), and the nest's.
        lower_bound: no nest of the space has less. status: optimal where the value is no more than that.
        labels: partial nests that were kept. cpu_seconds: of the search.
    """

    nest: LoopNest
    cost: zigzag.Cost
    objective: Objective
    value: float
    lower_bound: float
    labels: int
    cpu_seconds: float

    @property
    def gap(self) -> float:
        """Share of the value that might be saved."""
        return max(0.0, (self.value - self.lower_bound) / self.value)

    @property
    def status(self) -> Status:
        """Whether the bound proves the nest."""
        return "optimal" if self.gap <= TOLERANCE else "feasible"


@dataclass(frozen=True)
class _Chain:
    """A chain of places, as sections of loops between them, innermost first.

    ``places``: each operand's memories but the outermost one, and how many sections lie inside its place. ``value``:
    its bound.
    """

    sections: tuple[tuple[Loop, ...], ...]
    places: tuple[tuple[Operand, str, int], ...]
    value: float


class _Walks:
    """The plans of all cases, walked again and again with higher limits, until one of them has a chain within it."""

    def __init__(self, problem: PlacedLayer, plans: Sequence[Plan]) -> None:
        self.problem = problem
        self.plans = plans
        self.ahead = [kernel.completions(plan.given) for plan in plans]
        self.roots = [self._root(plan, ahead) for plan, ahead in zip(plans, self.ahead, strict=True)]
        self.labels = 0
        self.room = FIRST_LABELS

    def _root(self, plan: Plan, ahead: npt.NDArray[Any]) -> float:
        """The least that the forms of the objective allow; infinite where a limit cannot be kept."""
        count = len(plan.objective)
        if any(ahead[0, 0, count + row] > limit for row, limit in enumerate(plan.limits)):
            return math.inf
        return max(constant + float(ahead[0, 0, row]) for row, (_, constant) in enumerate(plan.objective))

    def within(self, limit: float) -> list[_Chain] | None:
        """Every undominated chain whose bound is at most the limit, cheapest first; None where they are too many."""
        found: list[_Chain] = []
        for plan, ahead, root in zip(self.plans, self.ahead, self.roots, strict=True):
            if root > limit:
                continue
            limits = np.array([limit - constant for _, constant in plan.objective] + plan.limits)
            while True:
                made, sums, origins, where, ends = kernel.chains(plan.given, ahead, limits, self.room)
                if made >= 0:
                    break
                if self.room >= MOST_LABELS:
                    return None
                self.room = min(MOST_LABELS, 4 * self.room)
            self.labels += made
            count = len(plan.objective)
            for end in ends:
                forms = plan.given.weight[:count] @ sums[end]
                value = max(float(form) + constant for form, (_, constant) in zip(forms, plan.objective, strict=True))
                found.append(_chain(self.problem, plan, origins, where, int(end), value))
        return sorted(found, key=lambda chain: chain.value)


def search(
    layer: Layer, precision: LayerPrecision, machine: Machine, spatial: Mapping[str, Sequence[Loop]],
    objective: Objective, operand_order: Sequence[Operand] = ("output", "weight", "input"),
) -> ZigzagSolution:
    """Return the best nest of a layer, whose spatial loops are given; ``operand_order`` as in ``zigzag.count``.

    Raises ``ConfigurationError`` for an objective, a machine or spatial loops that the search does not know,
    ``MappingError`` for spatial loops that do not fit the axes, ``InfeasibleError`` where no nest fits.
    """
    if objective not in ("energy", "latency"):
        raise ConfigurationError(Problem("not an objective", path="objective", value=objective,
                                         allowed=("energy", "latency")))
    began = time.process_time()
    problem = places_of(layer, precision, machine, {axis: tuple(loops) for axis, loops in spatial.items()})
    walks = _Walks(problem, [energy_plan(problem)])
    if math.isinf(walks.roots[0]):
        raise InfeasibleError(Problem("no nest fits its memories", where=f"{layer.name} on {machine.name}"))
    # A walk for energy is short: its nest is a start for latency, too.
    found, bound = _deepened(walks, walks.roots[0], math.inf)
    best = _realised(problem, found, objective, operand_order, bound if objective == "energy" else 0.0, None)
    labels = walks.labels
    if objective == "latency":
        bound = 0.0
        for close in (False, True):  # close plans take longer, and rarely matter
            walks = _Walks(problem, [latency_plan(problem, case, close) for case in cases(problem)])
            bound = max(bound, min(walks.roots))
            found, bound = _deepened(walks, bound, math.inf if best is None else best.value)
            best = _realised(problem, found, objective, operand_order, bound, best)
            if best is not None and best.value <= bound * (1 + TOLERANCE):
                break
        if best is not None and best.value > bound * (1 + TOLERANCE):
            # No order of the cheapest chain keeps to its bound: another chain's may come closer.
            best = _realised(problem, walks.within(best.value) or [], objective, operand_order, bound, best)
        labels += walks.labels
    if best is None:
        raise InfeasibleError(Problem(f"no nest that fits was found among {labels} partial ones",
                                      where=f"{layer.name} on {machine.name}"))
    return ZigzagSolution(best.nest, best.cost, objective, best.value, min(bound, best.value), labels,
                          time.process_time() - began)


def _deepened(walks: _Walks, bound: float, known: float) -> tuple[list[_Chain], float]:
    """Walk within the bound, then further and further beyond it, until there are chains, or the known value is reached.

    Returns the chains, and what no chain is below.
    """
    reached = bound
    for slack in (0.0, *(1e-6 * 2**power for power in range(40))):
        limit = min(bound * (1 + slack), known) * (1 + TOLERANCE)
        found = walks.within(limit)
        if found is None:
            return [], reached
        if found:
            return found, found[0].value
        if limit >= known:
            return [], known
        reached = limit
    return [], reached


def _chain(
    problem: PlacedLayer, plan: Plan, origins: npt.NDArray[Any], where: npt.NDArray[Any], end: int, value: float
) -> _Chain:
    """Follow a label back to the first one."""
    extent, dims = problem.lattice.extent, problem.lattice.dims
    path = [end]
    while origins[path[-1], 0] >= 0:
        path.append(int(origins[path[-1], 0]))
    path.reverse()
    sections: list[list[Loop]] = [[]]
    places: list[tuple[Operand, str, int]] = []
    for before, label in itertools.pairwise(path):
        step = int(origins[label, 1])
        if step < 0:
            ratio = extent[where[label]] // extent[where[before]]
            number = int(np.argmax(ratio))
            trips = int(ratio[number])
            if sections[-1] and sections[-1][-1].dim == dims[number]:
                trips *= sections[-1].pop().trips
            sections[-1].append(Loop(dims[number], trips))
            continue
        if sections[-1]:
            sections.append([])
        place = plan.steps[step].place
        if place.memory is not None:
            places.append((place.operand, place.memory.name, len(sections) - 1))
    return _Chain(tuple(tuple(section) for section in sections), tuple(places), value)


def _nest(problem: PlacedLayer, chain: _Chain, sections: Sequence[Sequence[Loop]]) -> LoopNest:
    """The nest of a chain with its sections in some order of their loops, innermost first."""
    inside = [0, *itertools.accumulate(len(section) for section in sections)]
    temporal = tuple(loop for section in reversed(sections) for loop in reversed(section))
    stores: dict[Operand, tuple[Store, ...]] = {}
    for operand in OPERANDS:
        kept = [Store(memory=memory, loops_above=len(temporal) - inside[within])
                for of, memory, within in chain.places if of == operand]
        outermost = Store(memory=problem.machine.levels(operand)[0].name, loops_above=0)
        stores[operand] = (outermost, *reversed(kept))
    return LoopNest(temporal=temporal, spatial=problem.spatial, stores=stores)


@dataclass(frozen=True)
class _Counted:
    """A nest, and what the rules count for it."""

    value: float
    nest: LoopNest
    cost: zigzag.Cost


def _realised(
    problem: PlacedLayer, found: Sequence[_Chain], objective: Objective, operand_order: Sequence[Operand],
    bound: float, best: _Counted | None,
) -> _Counted | None:
    """Return the best nest: that known, or one of the chains', whose sections are tried in several orders."""
    for chain in found:
        if best is not None and chain.value >= best.value:
            break
        for nest in _orderings(problem, chain):
            try:
                cost = zigzag.count(problem.layer, problem.precision, problem.machine, nest, operand_order)
            except MappingError:
                continue
            value = cost.energy_pj if objective == "energy" else cost.latency_cycles
            if best is None or value < best.value:
                best = _Counted(value, nest, cost)
            if value <= bound * (1 + TOLERANCE):
                return best
    return best


def _orderings(problem: PlacedLayer, chain: _Chain) -> Iterator[LoopNest]:
    """The nest as it was walked, then with one section in each order of its dimensions."""
    yield _nest(problem, chain, chain.sections)
    for number, section in enumerate(chain.sections):
        whole: dict[Dim, int] = {}
        for loop in section:
            whole[loop.dim] = whole.get(loop.dim, 1) * loop.trips
        for order in itertools.permutations(whole):
            mixed = [Loop(dim, whole[dim]) for dim in order]
            yield _nest(problem, chain, [*chain.sections[:number], mixed, *chain.sections[number + 1:]])
