"""Proof by CP-SAT: for each variant, the loop of propose, simulate and cut (``tiling_model`` is the model).

First a relaxation for all sets of double-buffered operands at once, then each set on its own where that is not enough.
"""

from __future__ import annotations

import itertools
import time

from mapper.cost_model import CostModel
from mapper.descent import Candidate, may_double
from mapper.incumbent import Incumbent
from mapper.posynomial import Subproblem, build_subproblem, surviving_rows
from mapper.solution import NO_LIMITS, SearchBudget
from mapper.tiling_model import TilingModel
from simulator.layer import OPERANDS


def prove_by_cp_sat(models: list[CostModel], incumbent: Incumbent, budget: SearchBudget, deadline: float) -> float:
    """Search every variant until ``deadline`` (``time.process_time``). Returns the lower bound of them all."""
    return _Prover(incumbent, budget.cuts).prove(models, deadline)


class _Prover:
    """One incumbent, and the subproblems that it is held against."""

    def __init__(self, incumbent: Incumbent, cuts: int) -> None:
        self.incumbent, self.cuts = incumbent, cuts

    def _members(self, model: CostModel) -> tuple[Subproblem, list[Subproblem]]:
        """The relaxation of a variant, and what it stands for: a subproblem a set of double-buffered operands.

        Energy without leakage does not depend on double-buffering: there the relaxation is the problem.
        """
        objective, limits = self.incumbent.objective, self.incumbent.limits
        doubles = [operand for operand, allowed in zip(OPERANDS, may_double(model), strict=True) if allowed]
        if objective == "energy" and model.leakage_pj_per_cycle == 0 and limits == NO_LIMITS:
            doubles = []
        members = [
            build_subproblem(model, chosen, objective, limits)
            for count in range(len(doubles), -1, -1)
            for chosen in itertools.combinations(doubles, count)
        ]
        return build_subproblem(model, tuple(doubles), objective, limits, relaxed=True), members

    def prove(self, models: list[CostModel], deadline: float) -> float:
        """Search every variant, the least promising last. Returns the lower bound of them all."""
        families = [self._members(model) for model in models]
        bounds = [surviving_rows(relaxed, self.incumbent.target()) for relaxed, _ in families]
        order = sorted(range(len(families)), key=lambda i: bounds[i][1])
        lowest = self.incumbent.proven()
        for place, i in enumerate(order):
            relaxed, members = families[i]
            if bounds[i][0] is None:
                continue
            left = deadline - time.process_time()
            seconds = left / (len(order) - place) ** 0.5
            bound = bounds[i][1]
            if left > 0 and len(members) > 1:
                bound = max(bound, self._close(relaxed, bound, 0.5 * seconds, relaxed=True))
            if bound < self.incumbent.target() * (1 - 1e-9):
                bound = max(bound, self._close_members(members, bound, 0.5 * seconds))
            lowest = min(lowest, bound)
        return min(lowest, self.incumbent.proven())

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
        incumbent = self.incumbent
        deadline = time.process_time() + seconds
        # Rows that others dominate in the closed form may be left out while nothing is cut: the cheapest remains. A
        # cut takes its row away, and with it what stood for the rows it dominates, so from then on all stay.
        every_row = False
        rows, tighter = surviving_rows(problem, incumbent.target())
        if rows is None:
            return incumbent.proven()
        bound = max(bound, tighter)
        simulated: set[tuple[int, ...]] = set()
        model = TilingModel(problem, rows, incumbent.target())
        for _ in range(self.cuts):
            answer = model.solve(incumbent.target(), deadline - time.process_time())
            if answer.outcome == "none":
                return incumbent.proven()
            bound = max(bound, answer.lower_bound)
            if answer.outcome == "stopped":
                return bound
            cost = problem.cost(answer.rows)
            if not relaxed:
                whole = incumbent.consider(problem.model, Candidate(answer.rows, problem.double_buffer, cost))
                if not whole and cost < incumbent.target():
                    return bound  # too many passes to simulate: it may not be cut away
            model.refine(answer.rows)
            if relaxed and cost < incumbent.target():
                return bound
            if cost >= incumbent.target():
                # Too dear by its true closed-form cost; what it dominates is dearer still.
                model.forbid(answer.rows)
            elif cost <= answer.lower_bound * (1 + 1e-4) or answer.rows in simulated:
                if not every_row:
                    every_row = True
                    kept, _ = surviving_rows(problem, incumbent.target(), dominated=True)
                    if kept is None:
                        return incumbent.proven()
                    model = TilingModel(problem, kept, incumbent.target())
                model.forbid(answer.rows)
            simulated.add(answer.rows)
            if time.process_time() >= deadline:
                return bound
        return bound

