"""The CP-SAT model of a subproblem: outer approximation of products in logarithms.

One Boolean a row of each block. The logarithm of a product with one factor a block is linear in the Booleans, and
the product itself, its exponential, is convex: every tangent bounds it from below. The model holds tangents, all
rounded so that they stay below the truth; its optimum is a lower bound, and exact enough that the first answer is
nearly always within a fraction of a percent. Where an answer's true cost is higher, tangents at that very point are
added and the model is solved again, so the bound closes on the true optimum (Duran & Grossmann 1986; the convex form
is that of geometric programs, Boyd et al. 2007).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ortools.sat.python import cp_model

from mapper.cost_model import Term
from mapper.cp_solver import cp_solver
from mapper.interruptible import interruptible
from mapper.posynomial import Rows, Subproblem

LOG_SCALE = 1 << 20  # units of a natural logarithm
COST_SCALE = 1 << 24  # units of the cost that is to be beaten
TANGENT_RATIO = 1.12  # between neighbouring tangents; they miss the curve by 0.16 % at most
SMALLEST_TANGENT = 1e-4  # of the cost to beat; smaller terms are bounded by the last tangent

Outcome = Literal["solution", "none", "stopped"]


@dataclass(frozen=True)
class Answer:
    """What one solve gave: rows (of the full blocks) for a solution, and a lower bound in the objective's unit."""

    outcome: Outcome
    rows: tuple[int, ...]
    lower_bound: float


class TilingModel:
    """Choices of one subproblem that cost less than ``below``."""

    def __init__(self, problem: Subproblem, rows: Rows, below: float) -> None:
        self.problem, self.rows, self.below = problem, rows, below
        self.model = cp_model.CpModel()
        self.chosen = [
            [self.model.new_bool_var(f"{b}:{row}") for row in kept] for b, kept in enumerate(rows)
        ]
        for literals in self.chosen:
            self.model.add_exactly_one(literals)
        self.unit = below / COST_SCALE
        self.cost = self.model.new_int_var(0, COST_SCALE, "cost")
        self._curves: list[tuple[cp_model.IntVar, cp_model.IntVar, Term, float]] = []
        for total in problem.sums:
            parts = [self._exponential(term, self.unit, COST_SCALE) for term in total.terms]
            self.model.add(self.cost >= cp_model.LinearExpr.sum(parts) + math.floor(total.constant / self.unit))
        for limit in problem.limits:
            if len(limit.terms) == 1:
                term = limit.terms[0]
                room = math.floor(math.log(limit.size / term.coefficient) * LOG_SCALE) + len(rows)
                self.model.add(self._logarithm(term) <= room)
            else:
                unit = limit.size / COST_SCALE
                parts = [self._exponential(term, unit, COST_SCALE) for term in limit.terms]
                self.model.add(cp_model.LinearExpr.sum(parts) <= COST_SCALE)
        self.model.minimize(self.cost)

    def _logarithm(self, term: Term) -> cp_model.LinearExprT:
        """Logarithm of a term's product (coefficient apart), rounded down, in ``1 / LOG_SCALE``."""
        literals, weights = [], []
        for b, factor in enumerate(term.factors):
            if factor is None:
                continue
            values = np.floor(np.log(np.maximum(factor[self.rows[b]], 1e-9)) * LOG_SCALE).astype(np.int64)
            literals += self.chosen[b]
            weights += values.tolist()
        return cp_model.LinearExpr.weighted_sum(literals, weights)

    def _logarithm_range(self, term: Term) -> tuple[int, int]:
        """Smallest and largest value of ``_logarithm``."""
        low = high = 0
        for b, factor in enumerate(term.factors):
            if factor is not None:
                values = np.floor(np.log(np.maximum(factor[self.rows[b]], 1e-9)) * LOG_SCALE)
                low, high = low + int(values.min()), high + int(values.max())
        return low, high

    def _exponential(self, term: Term, unit: float, limit: int) -> cp_model.LinearExprT:
        """Variable that is at least the term's value in ``unit``, by tangents."""
        lowest = highest = term.coefficient / unit
        for b, factor in enumerate(term.factors):
            if factor is not None:
                lowest *= float(factor[self.rows[b]].min())
                highest *= float(factor[self.rows[b]].max())
        lowest = max(lowest, term.floor / unit)
        if lowest >= highest:
            return math.floor(highest)
        value = self.model.new_int_var(max(0, math.floor(lowest)), max(limit, math.ceil(lowest)), term.name)
        logarithm = self.model.new_int_var(*self._logarithm_range(term), f"log {term.name}")
        self.model.add(logarithm == self._logarithm(term))
        scaled = term.coefficient / unit
        self._curves.append((value, logarithm, term, unit))
        point = max(lowest, limit * SMALLEST_TANGENT)
        while point < min(highest, limit) * TANGENT_RATIO:
            self._tangent(value, logarithm, scaled, point)
            point *= TANGENT_RATIO
        return value

    def _tangent(
        self, value: cp_model.IntVar, logarithm: cp_model.LinearExprT, scaled: float, point: float
    ) -> None:
        """Bound ``value ≥ point · (1 + log(value) − log(point))``, with every rounding downwards."""
        slope = math.floor(point)
        if slope < 1:
            return
        offset = math.ceil(math.log(point / scaled) * LOG_SCALE)
        self.model.add(value * LOG_SCALE >= slope * (logarithm + (LOG_SCALE - offset)))

    def refine(self, rows: tuple[int, ...]) -> None:
        """Add tangents at one choice, so that the model's cost there is the true one."""
        for value, logarithm, term, unit in self._curves:
            self._tangent(value, logarithm, term.coefficient / unit, term.at(rows) / unit)

    def forbid(self, rows: tuple[int, ...]) -> None:
        """Cut one choice away."""
        literals = [
            self.chosen[b][int(np.flatnonzero(self.rows[b] == row)[0])] for b, row in enumerate(rows)
        ]
        self.model.add_bool_or([literal.negated() for literal in literals])

    def solve(self, below: float, seconds: float) -> Answer:
        """Find the cheapest choice that costs less than ``below`` (at most what the model was built for)."""
        ceiling = min(COST_SCALE, math.ceil(below / self.unit) - 1)
        self.model.add(self.cost <= ceiling)
        solver = cp_solver(num_workers=1, random_seed=1, time_limit_seconds=max(seconds, 0.05))
        solver.parameters.linearization_level = 2
        status = interruptible(lambda: solver.solve(self.model), solver.stop_search)
        if status == cp_model.MODEL_INVALID:
            raise RuntimeError(f"the tiling model is malformed: {self.model.validate()}")
        if status == cp_model.INFEASIBLE:
            return Answer("none", (), below)
        bound = max(0.0, solver.best_objective_bound) * self.unit
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            picked = tuple(
                int(kept[next(i for i, literal in enumerate(literals) if solver.boolean_value(literal))])
                for literals, kept in zip(self.chosen, self.rows, strict=True)
            )
            return Answer("solution", picked, bound)
        return Answer("stopped", (), bound)
