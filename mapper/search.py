"""Find the best mapping of one layer, and prove how good it is: propose, simulate, cut.

1. Descents on the closed-form cost give good mappings at once; the best of them by *simulated* cost is the incumbent.
2. The space falls apart into subproblems (loop orders, bypass, double-buffering). In each, CP-SAT looks for a mapping
   whose closed-form cost, a lower bound of the simulated one, beats the incumbent by more than the target gap.
3. What it finds is simulated, may become the incumbent, and is cut away; the subproblem is solved again, until it has
   nothing left. Then no mapping in it can cost less than the incumbent by more than the gap: that is the proof.

The lower bound reported is the smallest over all subproblems. A search out of budget reports the bound it reached.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

from mapper.build_mapping import build_mapping
from mapper.candidates import SPACE, build_blocks
from mapper.cost_terms import CostModel, build_cost_model, variants
from mapper.descent import Candidate, descend, may_double
from mapper.posynomial import Subproblem, build_subproblem, surviving_rows
from mapper.solution import MappingSolution, Objective, SearchBudget, objective_cost
from mapper.tiling_model import TilingModel
from simulator.accelerator import Accelerator
from simulator.engine import simulate
from simulator.errors import InfeasibleError, MappingError, Problem
from simulator.layer import OPERANDS, Layer, Operand
from simulator.mapping import Mapping
from simulator.plan import grid_timing
from simulator.precision import LayerPrecision
from simulator.result import LayerResult

PROOF_TOLERANCE = 1e-6  # relative; the model counts cost in 2^-24 of the incumbent's
DESCENT_STARTS = 40
SIMULATED_STARTS = 48


@dataclass
class _Incumbent:
    """Best simulated mapping so far."""

    objective: Objective
    cost: float = float("inf")
    mapping: Mapping | None = None
    result: LayerResult | None = None
    proposals: int = 0
    seen: set[Mapping] = field(default_factory=set)

    def consider(
        self, model: CostModel, candidate: Candidate, layer: Layer, precision: LayerPrecision,
        accelerator: Accelerator,
    ) -> None:
        """Simulate what a candidate stands for and keep the best."""
        for mapping in build_mapping(model, candidate, accelerator):
            self.proposals += 1
            try:
                result = simulate(layer, precision, accelerator, mapping)
            except MappingError:
                # Tile sizes that share a buffer are only approximated in the model; the plan has the last word.
                continue
            cost = objective_cost(result, self.objective)
            if cost < self.cost:
                self.cost, self.mapping, self.result = cost, mapping, result


class _Search:
    """One layer, precision and objective."""

    def __init__(
        self, layer: Layer, precision: LayerPrecision, accelerator: Accelerator, objective: Objective,
        budget: SearchBudget,
    ) -> None:
        self.layer, self.precision, self.accelerator = layer, precision, accelerator
        self.objective, self.budget = objective, budget
        self.deadline = time.process_time() + budget.cpu_seconds
        blocks = build_blocks(layer, precision, accelerator)
        self.models = [
            build_cost_model(blocks, layer, precision, accelerator, variant)
            for variant in variants(layer, accelerator)
        ]
        self.incumbent = _Incumbent(objective)

    def start(self) -> None:
        """Find a good incumbent by descents.

        The closed form does not see what every event costs beside its own work, so some of the descents put a price on
        events; the simulator then tells which was right.
        """
        found: list[tuple[float, CostModel, Candidate]] = []
        timing_price = self._event_price()
        prices = (0.0, 0.5 * timing_price, 2.0 * timing_price) if self.objective != "energy" else (0.0,)
        for price in prices:
            ends = []
            for model in self.models:
                candidates = descend(model, self.objective, starts=DESCENT_STARTS, event_price_cycles=price)
                ends += [(candidate.cost, model, candidate) for candidate in candidates[:8]]
            ends.sort(key=lambda end: end[0])
            found += ends[: SIMULATED_STARTS // len(prices)]
        for _, model, candidate in found:
            self.incumbent.consider(model, candidate, self.layer, self.precision, self.accelerator)

    def _event_price(self) -> float:
        timing = grid_timing(self.accelerator)
        return float(timing.tail_cycles + self.accelerator.dram.latency_cycles + 1)

    def families(self) -> list[tuple[Subproblem, list[Subproblem]]]:
        """For each variant: its relaxation, and what it stands for, a subproblem a set of double-buffered operands.

        Energy does not depend on double-buffering: there the relaxation is the problem.
        """
        found = []
        for model in self.models:
            doubles = [operand for operand, allowed in zip(OPERANDS, may_double(model), strict=True) if allowed]
            if self.objective == "energy":
                doubles = []
            members = [
                build_subproblem(model, chosen, self.objective)
                for count in range(len(doubles), -1, -1)
                for chosen in itertools.combinations(doubles, count)
            ]
            found.append((build_subproblem(model, tuple(doubles), self.objective, relaxed=True), members))
        return found

    def target(self) -> float:
        """A mapping must cost less than this to matter."""
        return self.incumbent.cost * (1 - max(self.budget.target_gap, PROOF_TOLERANCE))

    def prove(self) -> float:
        """Search every subproblem. Returns the lower bound of them all."""
        families = self.families()
        bounds = [surviving_rows(relaxed, self.target()) for relaxed, _ in families]
        order = sorted(range(len(families)), key=lambda i: bounds[i][1])
        lowest = float("inf")
        for place, i in enumerate(order):
            relaxed, members = families[i]
            if bounds[i][0] is None:
                lowest = min(lowest, bounds[i][1])
                continue
            left = self.deadline - time.process_time()
            seconds = left / (len(order) - place) ** 0.5
            bound = bounds[i][1]
            if left > 0 and len(members) > 1:
                bound = max(bound, self._close(relaxed, bound, 0.5 * seconds, relaxed=True))
            if bound < self.target() * (1 - 1e-9):
                bound = max(bound, self._close_members(members, bound, 0.5 * seconds))
            lowest = min(lowest, bound)
        return lowest

    def _close_members(self, members: list[Subproblem], bound: float, seconds: float) -> float:
        """Close the subproblems of a variant one by one. ``bound`` holds for each of them already."""
        deadline = time.process_time() + seconds
        lowest = float("inf")
        for place, problem in enumerate(members):
            left = deadline - time.process_time()
            found = bound
            if left > 0:
                found = max(found, self._close(problem, bound, left / (len(members) - place) ** 0.5))
            lowest = min(lowest, found)
        return lowest

    def _close(self, problem: Subproblem, bound: float, seconds: float, *, relaxed: bool = False) -> float:
        """Propose, simulate and cut in one subproblem until nothing is left. Returns its lower bound.

        What a relaxation proposes may not fit, so its first real proposal ends it: the members then have the word.
        """
        deadline = time.process_time() + seconds
        below = self.target()
        rows, tighter = surviving_rows(problem, below)
        if rows is None:
            return below
        bound = max(bound, tighter)
        model = TilingModel(problem, rows, below)
        for _ in range(self.budget.cuts):
            answer = model.solve(self.target(), deadline - time.process_time())
            if answer.outcome == "none":
                return self.target()
            bound = max(bound, answer.lower_bound)
            if answer.outcome == "stopped":
                return bound
            candidate = Candidate(answer.rows, problem.double_buffer, problem.cost(answer.rows))
            if not relaxed:
                self.incumbent.consider(problem.model, candidate, self.layer, self.precision, self.accelerator)
            model.refine(answer.rows)
            if relaxed and candidate.cost < self.target():
                return bound
            if candidate.cost <= answer.lower_bound * (1 + 1e-4) or candidate.cost >= self.target():
                # Its true closed-form cost is known now: either it was simulated, or it is too dear.
                model.forbid(answer.rows)
            if time.process_time() >= deadline:
                return bound
        return bound


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
    """
    budget = budget or SearchBudget()
    accelerator.processing_element.check(precision)
    began = time.process_time()
    search = _Search(layer, precision, accelerator, objective, budget)
    search.start()
    incumbent = search.incumbent
    if incumbent.mapping is None or incumbent.result is None:
        raise InfeasibleError(explain_infeasible(search.models, layer))
    lower_bound = min(search.prove(), incumbent.cost)
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
        space=SPACE,
    )


def explain_infeasible(models: list[CostModel], layer: Layer) -> list[Problem]:
    """Name the memories that cannot hold even the smallest tiles."""
    problems = []
    seen: set[str] = set()
    for model in models:
        for capacity in model.capacities:
            demand: dict[Operand, int] = {}
            for operand, term in capacity.tiles.items():
                smallest = term.coefficient
                for factor in term.factors:
                    smallest *= 1 if factor is None else int(factor.min())
                demand[operand] = int(smallest)
            total = sum(demand.values())
            if total > capacity.size_bits and capacity.memory not in seen:
                seen.add(capacity.memory)
                parts = ", ".join(f"{operand} {bits}" for operand, bits in demand.items())
                problems.append(
                    Problem(
                        f"too small for any tile: the smallest needs {total} bits ({parts}); "
                        f"{total} bits or more would hold it",
                        where=f"layer {layer.name}",
                        path=f"{capacity.memory}.size_bits",
                        value=str(capacity.size_bits),
                    )
                )
    return problems or [Problem("no mapping fits the machine", where=f"layer {layer.name}")]
