"""Find the best mapping of one layer, and prove how good it is: propose, simulate, cut.

1. Descents on the closed-form cost give good mappings at once; the best of them by *simulated* cost is the incumbent.
2. The space falls apart into variants (loop orders, bypass). In each, whatever has a closed-form cost, a lower bound
   of the simulated one, that beats the incumbent by more than the target gap is proposed, simulated, may become the
   incumbent, and is cut away. ``enumeration`` proposes by branch and bound; ``cp_sat_proof`` by CP-SAT.
3. When nothing is left, no mapping in the space costs less than the incumbent by more than the gap: that is the proof.

The lower bound reported is the smallest over all variants. A search out of budget reports the bound it reached.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from mapper.cache import MODEL_VERSION
from mapper.candidates import DEEP_SPACE, SPACE
from mapper.constrained_space import constrained_models
from mapper.constraints import MappingConstraints
from mapper.cost_model import CostModel
from mapper.cp_sat_proof import prove_by_cp_sat
from mapper.devices import EVERY_DEVICE, SearchDevices
from mapper.enumeration import least_floor, prove_by_enumeration, relaxed_bound
from mapper.hints import start_from
from mapper.incumbent import PROOF_TOLERANCE, Incumbent
from mapper.infeasible import explain_infeasible
from mapper.planned_steps import planned_machine
from mapper.solution import (
    NO_LIMITS,
    Limits,
    MappingSolution,
    Objective,
    ProofInterrupted,
    SearchBudget,
    SearchInterrupted,
)
from mapper.split_mapping import map_split_layer
from mapper.starts import start
from mapper.twins import distinct_in_time, thriftiest
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, InfeasibleError, Problem
from simulator.kernels import compile_enumeration
from simulator.layer import Layer
from simulator.mapping import Mapping
from simulator.precision import LayerPrecision

START_SHARE = 0.5  # of the budget, for the mappings that descents propose


def prove(models: list[CostModel], incumbent: Incumbent, budget: SearchBudget) -> float:
    """Search every variant. Returns the lower bound of them all. Raises ``ProofInterrupted`` at Ctrl-C."""
    began = time.process_time()
    deadline = began + budget.cpu_seconds
    bound, left, floor = incumbent.proven(), models, 0.0
    if budget.prover != "cp_sat":
        # Where CP-SAT may have to follow, leave it half of the time.
        share = 0.5 if budget.prover == "auto" else 1.0
        bound, left, floor = prove_by_enumeration(models, incumbent, began + share * budget.cpu_seconds, deadline)
    if not left:
        return bound
    try:
        of_left = _prove_left(left, incumbent, budget, deadline)
        return min(bound, incumbent.proven(), max(floor, of_left))
    except KeyboardInterrupt:
        raise ProofInterrupted(min(bound, incumbent.proven(), max(floor, least_floor(left, incumbent)))) from None


def _prove_left(left: list[CostModel], incumbent: Incumbent, budget: SearchBudget, deadline: float) -> float:
    """Bound the variants that enumeration did not finish, and search them unless the budget says otherwise."""
    if budget.prover == "enumeration":
        relaxed = min(relaxed_bound(model, incumbent) for model in left)
        return min(incumbent.proven(), max(relaxed, least_floor(left, incumbent)))
    if left[0].variant.levels == 1:
        return prove_by_cp_sat(left, incumbent, budget, deadline)
    # Of the many variants of deeper machines most are closed, or nearly, without a search.
    bounds: list[float] = []
    for place, model in enumerate(left):
        seconds = max(0.0, deadline - time.process_time()) / (len(left) - place) ** 0.5
        bounds.append(relaxed_bound(model, incumbent, seconds))
    still = [place for place, bound in enumerate(bounds) if bound < incumbent.target() * (1 - 1e-9)]
    lowest = incumbent.proven()
    if still:
        found = prove_by_cp_sat([left[place] for place in still], incumbent, budget, deadline)
        lowest = min(lowest, max(found, min(bounds[place] for place in still)))
    return min(lowest, incumbent.proven())


def map_layer(
    layer: Layer,
    precision: LayerPrecision,
    accelerator: Accelerator,
    objective: Objective = "latency",
    *,
    budget: SearchBudget | None = None,
    constraints: MappingConstraints | None = None,
    latency_limit_cycles: int | None = None,
    energy_limit_pj: float | None = None,
    hint: Mapping | None = None,
    devices: SearchDevices = EVERY_DEVICE,
) -> MappingSolution:
    """Map one layer on one tile, with a proof of how good the mapping is.

    ``cost`` and ``lower_bound`` are in cycles (latency), pJ (energy) or pJ·cycles (edp). Raises ``PrecisionError``
    where the PE cannot run the precision, and ``InfeasibleError`` where no mapping fits, or keeps the constraints: it
    names the memory or the constraint, the smallest demand, the capacity, and what would make it fit.

    ``constraints`` narrow the space (``constraints.py``); the proof then holds within them. ``latency_limit_cycles`` is
    for the objectives energy and edp, ``energy_limit_pj`` (leakage included) for latency and edp, one of them at a
    time: only mappings whose simulated cost keeps it count. Where descents find none that does, the least of what is
    limited is searched for first, with a budget of its own.

    At Ctrl-C ``SearchInterrupted`` is raised, a ``KeyboardInterrupt`` with the best mapping so far in ``solution``.

    Where the time of a step depends on values, which are not known here, mapping, result, cost and bound are those of
    the machine whose steps all take ``planned_step_cycles``; ``simulate`` then gives the mapping's cycles with values.

    A layer split by channel is mapped by ``split_mapping``: found for its parts, simulated with the split, not proven.

    ``hint`` is a mapping to start from that keeps the constraints, such as that of the same layer in another precision
    (``precision_menu``); it need not fit. ``devices`` are for measuring what each of them is worth.
    """
    budget = budget or SearchBudget()
    accelerator.processing_element.check(precision)
    limits = _limits(objective, latency_limit_cycles, energy_limit_pj)
    constraints = constraints or MappingConstraints()
    if precision.split is not None:
        if limits != NO_LIMITS or constraints != MappingConstraints():
            raise ConfigurationError(
                Problem("layers split by channel are mapped without constraints and limits: their mappings are those "
                        "of the parts, fitted", where=f"layer {layer.name}", path="precision", value=precision.label)
            )
        return map_split_layer(layer, precision, accelerator, objective, budget, search=map_layer)
    accelerator = planned_machine(accelerator, precision)
    began = time.process_time()
    models = constrained_models(layer, precision, accelerator, constraints, dominance=devices.dominance)
    compile_enumeration()
    space = LayerSpace(layer, precision, accelerator, models, constraints)
    incumbent = replace(space.incumbent(objective, budget, limits), devices=devices)
    lower_bound = search_models(space, incumbent, budget, hint if devices.hints else None)
    return space.solution(incumbent, lower_bound, time.process_time() - began)


@dataclass(frozen=True)
class LayerSpace:
    """Everything that may be chosen for one layer in one precision on one machine."""

    layer: Layer
    precision: LayerPrecision
    accelerator: Accelerator
    models: list[CostModel]
    constraints: MappingConstraints

    @property
    def restrictions(self) -> str:
        """The restrictions of the space in words, the user's constraints among them."""
        return self.constraints.space(SPACE if self.accelerator.buffer_levels == 1 else DEEP_SPACE)

    def incumbent(self, objective: Objective, budget: SearchBudget, limits: Limits = NO_LIMITS) -> Incumbent:
        """A search that has found nothing yet."""
        return Incumbent(self.layer, self.precision, self.accelerator, objective, budget.target_gap, limits)

    def solution(self, incumbent: Incumbent, lower_bound: float, seconds: float) -> MappingSolution:
        """The incumbent with its certificate."""
        assert incumbent.mapping is not None and incumbent.result is not None
        objective, limits = incumbent.objective, incumbent.limits
        if objective == "latency":
            lower_bound = float(math.ceil(lower_bound - 1e-6))  # cycles are whole
        lower_bound = min(lower_bound, incumbent.cost)
        gap = max(0.0, 1.0 - lower_bound / incumbent.cost) if incumbent.cost > 0 else 0.0
        return MappingSolution(
            layer=self.layer,
            precision=self.precision,
            objective=objective,
            status="optimal" if gap <= 2 * PROOF_TOLERANCE else "feasible",
            mapping=incumbent.mapping,
            result=incumbent.result,
            cost=incumbent.cost,
            lower_bound=lower_bound,
            gap=gap,
            solve_seconds=seconds,
            proposals=incumbent.proposals,
            space=self.restrictions,
            model_version=MODEL_VERSION,
            latency_limit_cycles=None if math.isinf(limits.latency_cycles) else int(limits.latency_cycles),
            energy_limit_pj=None if math.isinf(limits.energy_pj) else limits.energy_pj,
        )


def search_models(
    space: LayerSpace, incumbent: Incumbent, budget: SearchBudget, hint: Mapping | None = None
) -> float:
    """Improve an incumbent until the budget ends or nothing is left. Returns the lower bound.

    ``hint``: a mapping to start from, which need not fit.

    Raises ``InfeasibleError`` where there is no mapping, ``SearchInterrupted`` at Ctrl-C where there is one already.
    """
    models = space.models
    only_latency = incumbent.objective == "latency" and incumbent.limits == NO_LIMITS
    if only_latency and incumbent.devices.twins:
        constrained = space.constraints != MappingConstraints()
        models = distinct_in_time(models, space.accelerator, constrained=constrained)
    began = time.process_time()
    try:
        deadline = time.process_time() + START_SHARE * budget.cpu_seconds
        if hint is not None:
            start_from(models, incumbent, hint, deadline)
            incumbent.hinted = not incumbent.is_empty
        if not incumbent.hinted:
            start(models, incumbent, deadline)
        if incumbent.is_empty and incumbent.limits != NO_LIMITS:
            _start_within(space, incumbent, budget)
        if incumbent.is_empty:
            # Where little fits, descents may see nothing; a search through everything does.
            deadline = time.process_time() + budget.cpu_seconds
            prove_by_enumeration(models, incumbent, deadline, deadline)
        if incumbent.is_empty:
            raise InfeasibleError(_no_mapping(space, incumbent.limits))
        bound = prove(models, incumbent, budget)
        if only_latency and incumbent.mapping is not None:
            for thriftier in thriftiest(space.models, incumbent.mapping, space.accelerator):
                incumbent.offer_thriftier(thriftier)
        return bound
    except KeyboardInterrupt as interrupt:
        mapping = incumbent.mapping
        if mapping is None:
            raise
        # The interrupt may have come between a cost and its mapping: what counts is the mapping.
        incumbent.cost = math.inf
        incumbent.offer(mapping)
        reached = isinstance(interrupt, ProofInterrupted)
        bound = interrupt.lower_bound if reached else least_floor(models, incumbent)  # type: ignore[attr-defined]
        raise SearchInterrupted(space.solution(incumbent, bound, time.process_time() - began)) from None


def _limits(objective: Objective, latency_limit_cycles: int | None, energy_limit_pj: float | None) -> Limits:
    """The limits as the search takes them. Raises ``ConfigurationError`` where they make no sense."""
    problems = []
    given = {"latency": ("latency_limit_cycles", latency_limit_cycles), "energy": ("energy_limit_pj", energy_limit_pj)}
    for what, (name, value) in given.items():
        if value is not None and not value > 0:
            problems.append(Problem("must be greater than 0", path=name, value=str(value)))
        if value is not None and what == objective:
            problems.append(Problem(f"{what} is what is minimised", path=name, value=str(value)))
    if latency_limit_cycles is not None and energy_limit_pj is not None:
        problems.append(Problem("one limit at a time, of latency or of energy", path="energy_limit_pj",
                                value=str(energy_limit_pj)))
    if problems:
        raise ConfigurationError(problems)
    return Limits(
        math.inf if latency_limit_cycles is None else latency_limit_cycles,
        math.inf if energy_limit_pj is None else energy_limit_pj,
    )


def _start_within(space: LayerSpace, incumbent: Incumbent, budget: SearchBudget) -> None:
    """Find a mapping within the limit where descents saw none: the best in what is limited.

    Raises ``InfeasibleError`` where even that one is proven to be beyond the limit.
    """
    limits = incumbent.limits
    limited: Objective = "latency" if math.isfinite(limits.latency_cycles) else "energy"
    limit = min(limits)
    least = space.incumbent(limited, budget)
    try:
        bound = search_models(space, least, budget)
    except SearchInterrupted as interrupt:
        # Found for another objective: to whoever waits it is no mapping yet, unless it keeps the limit.
        incumbent.offer(interrupt.solution.mapping)
        raise KeyboardInterrupt from None
    assert least.mapping is not None
    incumbent.offer(least.mapping)
    if incumbent.is_empty and bound > limit:
        name, unit = ("latency_limit_cycles", "cycles") if limited == "latency" else ("energy_limit_pj", "pJ")
        shown = f"{math.ceil(bound - 1e-6):,}" if limited == "latency" else _rounded(bound, math.floor)
        found = f"{least.cost:,.0f}" if limited == "latency" else _rounded(least.cost, math.ceil)
        raise InfeasibleError(
            Problem(f"no mapping of the space takes fewer than {shown} {unit}; a limit of {found} {unit} or more can "
                    "be met", where=f"layer {space.layer.name} in {space.precision.label}", path=name,
                    value=f"{limit:.10g}")
        )


def _rounded(energy_pj: float, rounded: Callable[[float], int]) -> str:
    """An energy of about six digits, or of whole pJ, in the direction in which what is said of it stays true."""
    digits = max(0, 5 - math.floor(math.log10(energy_pj))) if energy_pj > 0 else 0
    return f"{rounded(energy_pj * 10.0**digits) / 10.0**digits:,.{digits}f}"


def _no_mapping(space: LayerSpace, limits: Limits) -> list[Problem]:
    """Say why there is no mapping; ``constrained_models`` has said what the constraints alone forbid."""
    if limits != NO_LIMITS:
        name = "latency_limit_cycles" if math.isfinite(limits.latency_cycles) else "energy_limit_pj"
        return [Problem("no mapping within the limit was found in time, nor is it proven that there is none",
                        where=f"layer {space.layer.name} in {space.precision.label}", path=name,
                        value=f"{min(limits):.10g}")]
    return explain_infeasible(space.models, space.layer, space.precision)
