"""Find the best mapping of one layer, and prove how good it is: propose, simulate, cut.

1. Descents on the closed-form cost give good mappings at once; the best of them by *simulated* cost is the incumbent.
2. The space falls apart into variants (loop orders, bypass). In each, whatever has a closed-form cost, a lower bound
   of the simulated one, that beats the incumbent by more than the target gap is proposed, simulated, may become the
   incumbent, and is cut away. ``enumeration`` proposes depth-first over the blocks; ``cp_sat_proof`` by CP-SAT.
3. When nothing is left, no mapping in the space costs less than the incumbent by more than the gap: that is the proof.

The lower bound reported is the smallest over all variants. A search out of budget reports the bound it reached.
"""

from __future__ import annotations

import math
import time

from mapper.candidates import DEEP_SPACE, SPACE
from mapper.cost_terms import CostModel, build_cost_models
from mapper.cp_sat_proof import prove_by_cp_sat
from mapper.descent import descend, pass_count
from mapper.enumeration import compile_enumeration, prove_by_enumeration, relaxed_bound
from mapper.incumbent import PROOF_TOLERANCE, Incumbent
from mapper.planned_steps import planned_machine
from mapper.solution import MappingSolution, Objective, SearchBudget
from mapper.split_mapping import map_split_layer
from simulator.accelerator import Accelerator
from simulator.errors import InfeasibleError, Problem
from simulator.layer import Layer
from simulator.plan import grid_timing
from simulator.precision import LayerPrecision

DESCENT_STARTS = 6
START_SHARE = 0.5  # of the budget, for the mappings that descents propose
# The closed form does not see what every event costs beside its own work, so some of the descents put a price on
# events, in multiples of what a pass and a request wait for; the simulator then tells which was right.
EVENT_PRICES = (0.0, 0.5, 2.0)


def _start(models: list[CostModel], incumbent: Incumbent, deadline: float) -> None:
    """Find a good incumbent by descents. Past ``deadline`` (``time.process_time``) nothing more is simulated.

    A mapping of millions of passes takes a good part of a second to simulate, so there may be no time for all.
    """
    accelerator = incumbent.accelerator
    price = grid_timing(accelerator).tail_cycles + accelerator.dram.latency_cycles + 1
    takes_time = incumbent.objective != "energy" or bool(accelerator.leakage_pj_per_cycle)
    prices = EVENT_PRICES if takes_time else (0.0,)
    if models[0].variant.levels > 1:
        _start_deep(models, incumbent, deadline, [factor * price for factor in prices])
        return
    for factor in prices:
        for model in models:
            ends = descend(
                model, incumbent.objective, starts=DESCENT_STARTS, event_price_cycles=float(factor * price)
            )
            for candidate in ends:
                if incumbent.mapping is not None and time.process_time() > deadline:
                    return
                incumbent.consider(model, candidate)


def _start_deep(models: list[CostModel], incumbent: Incumbent, deadline: float, prices: list[float]) -> None:
    """The same with several levels of buffers, where variants are many and simulating takes long: cheapest first.

    One with few passes comes before all, so that there is an incumbent soon.
    """
    for number, price in enumerate(prices):
        until = deadline - (deadline - time.process_time()) * (1 - 1 / (len(prices) - number))
        ends = [
            (candidate.cost, place, candidate)
            for place, model in enumerate(models)
            for candidate in descend(
                model, incumbent.objective, starts=DESCENT_STARTS, event_price_cycles=float(price)
            )
        ]
        ends.sort(key=lambda end: end[:2])
        if incumbent.mapping is None and ends:
            ends.insert(0, min(ends, key=lambda end: pass_count(models[end[1]], end[2])))
        for cost, place, candidate in ends:
            if incumbent.mapping is not None and (time.process_time() > until or cost >= incumbent.target()):
                break
            incumbent.consider(models[place], candidate)


def prove(models: list[CostModel], incumbent: Incumbent, budget: SearchBudget) -> float:
    """Search every variant. Returns the lower bound of them all."""
    began = time.process_time()
    deadline = began + budget.cpu_seconds
    bound, left = incumbent.proven(), models
    if budget.prover != "cp_sat":
        # Where CP-SAT may have to follow, leave it half of the time.
        share = 0.5 if budget.prover == "auto" else 1.0
        bound, left = prove_by_enumeration(models, incumbent, began + share * budget.cpu_seconds, deadline)
    if not left:
        return bound
    if budget.prover == "enumeration":
        return min(bound, *(relaxed_bound(model, incumbent) for model in left))
    if models[0].variant.levels == 1:
        return min(bound, prove_by_cp_sat(left, incumbent, budget, deadline))
    # Of the many variants of deeper machines most are closed, or nearly, without a search.
    relaxed: dict[int, float] = {}
    for place, model in enumerate(left):
        seconds = max(0.0, deadline - time.process_time()) / (len(left) - place) ** 0.5
        relaxed[id(model)] = relaxed_bound(model, incumbent, seconds)
    left = [model for model in left if relaxed[id(model)] < incumbent.target() * (1 - 1e-9)]
    if left:
        found = prove_by_cp_sat(left, incumbent, budget, deadline)
        bound = min(bound, max(found, min(relaxed[id(model)] for model in left)))
    return min(bound, incumbent.proven())


def map_layer(
    layer: Layer,
    precision: LayerPrecision,
    accelerator: Accelerator,
    objective: Objective = "latency",
    *,
    budget: SearchBudget | None = None,
) -> MappingSolution:
    """Map one layer on one tile, with a proof of how good the mapping is.

    ``cost`` and ``lower_bound`` are in cycles (latency), pJ (energy) or pJ·cycles (edp). Raises ``PrecisionError``
    where the PE cannot run the precision, and ``InfeasibleError`` where no mapping fits: it names the memory, the
    smallest demand, the capacity, and what would make it fit.

    Where the time of a step depends on values, which are not known here, mapping, result, cost and bound are those of
    the machine whose steps all take ``planned_step_cycles``; ``simulate`` then gives the mapping's cycles with values.

    A layer split by channel is mapped by ``split_mapping``: found for its parts, simulated with the split, not proven.
    """
    budget = budget or SearchBudget()
    accelerator.processing_element.check(precision)
    if precision.split is not None:
        return map_split_layer(layer, precision, accelerator, objective, budget, search=map_layer)
    accelerator = planned_machine(accelerator, precision)
    began = time.process_time()
    models = build_cost_models(layer, precision, accelerator)
    incumbent = Incumbent(layer, precision, accelerator, objective, budget.target_gap)
    _start(models, incumbent, time.process_time() + START_SHARE * budget.cpu_seconds)
    compile_enumeration(models[0])
    if incumbent.mapping is None:
        # Where little fits, descents may see nothing; a search through everything does.
        deadline = time.process_time() + budget.cpu_seconds
        prove_by_enumeration(models, incumbent, deadline, deadline)
    if incumbent.mapping is None or incumbent.result is None:
        raise InfeasibleError(explain_infeasible(models, layer, precision))
    lower_bound = prove(models, incumbent, budget)
    if objective == "latency":
        lower_bound = float(math.ceil(lower_bound - 1e-6))  # cycles are whole
    lower_bound = min(lower_bound, incumbent.cost)
    gap = max(0.0, 1.0 - lower_bound / incumbent.cost) if incumbent.cost > 0 else 0.0
    return MappingSolution(
        layer=layer,
        precision=precision,
        objective=objective,
        status="optimal" if gap <= 2 * PROOF_TOLERANCE else "feasible",
        mapping=incumbent.mapping,
        result=incumbent.result,
        cost=incumbent.cost,
        lower_bound=lower_bound,
        gap=gap,
        solve_seconds=time.process_time() - began,
        proposals=incumbent.proposals,
        space=SPACE if accelerator.buffer_levels == 1 else DEEP_SPACE,
    )


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
