"""The search's problem in its purest form: choose one row of each block.

    minimise   max_i (constant_i + Σ_t coefficient_t · ∏_b factor_tb[row_b])
    subject to Σ_t coefficient_t · ∏_b factor_tb[row_b] ≤ size_j        for each limit j

A *subproblem* is a variant with the set of double-buffered operands fixed, under one objective. Energy has one
sum (as many as latency where something leaks), latency three or four (the grid's, that of a grid whose folds are paced,
the channel's, and all loads with the last pass), and the energy-delay product as many, whose terms are products of
theirs and the energy's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapper.candidates import Block
from mapper.cost_model import CostModel, Term
from mapper.descent import ROUNDING
from mapper.solution import NO_LIMITS, Limits, Objective
from mapper.variants import Variant
from simulator.kernels import non_dominated
from simulator.layer import Operand

Rows = list[npt.NDArray[np.int64]]
TINY = 1e-9


@dataclass(frozen=True)
class Sum:
    """``constant + Σ terms``."""

    constant: float
    terms: tuple[Term, ...]

    def at(self, rows: tuple[int, ...]) -> float:
        """Value for one row of each block."""
        return self.constant + sum(term.at(rows) for term in self.terms)


@dataclass(frozen=True)
class Limit:
    """``Σ terms ≤ size``; ``name`` says of what."""

    name: str
    size: float
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Subproblem:
    """One pure problem. ``double_buffer`` is what was fixed besides the variant."""

    model: CostModel
    double_buffer: tuple[Operand, ...]
    sums: tuple[Sum, ...]
    limits: tuple[Limit, ...]

    @property
    def variant(self) -> Variant:
        """The loop orders and bypass that this subproblem stands for."""
        return self.model.variant

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Candidate rows."""
        return self.model.blocks

    def cost(self, rows: tuple[int, ...]) -> float:
        """The model's cost of one choice, in the objective's unit: what CP-SAT minimises.

        At most the closed-form cost, and equal to it but for negative constants in products (``_product``).
        """
        return max(total.at(rows) for total in self.sums)


def _scaled(term: Term, factor: float) -> Term:
    return Term(term.name, term.coefficient * factor, term.factors, term.floor * factor)


def _without_negative_constant(total: Sum) -> Sum:
    """A lower bound of a sum whose constant is not negative, so that products of sums have no negative terms.

    Where a term's product X is at least 1, ``a·X − c ≥ (a − c)·X`` for ``0 ≤ c ≤ a``. Negative constants stand for
    the first visit of each output, so the outputs' terms take them.
    """
    if total.constant >= 0:
        return total
    rest = -total.constant
    terms = []
    for term in sorted(total.terms, key=lambda term: "output" not in term.name):
        at_least_one = all(factor is None or factor.min() >= 1 for factor in term.factors)
        taken = min(rest, term.coefficient) if at_least_one else 0.0
        rest -= taken
        share = 1 - taken / term.coefficient if taken else 1.0
        terms.append(_scaled(term, share))
    assert rest <= 1e-6 * -total.constant, "a constant more negative than its terms are positive"
    return Sum(0.0, tuple(terms))


def _product(left: Sum, right: Sum) -> Sum:
    """A lower bound of the product of two sums; exact where neither constant is negative."""
    left, right = _without_negative_constant(left), _without_negative_constant(right)
    terms = [_scaled(term, right.constant) for term in left.terms if right.constant]
    terms += [_scaled(term, left.constant) for term in right.terms if left.constant]
    for one in left.terms:
        for other in right.terms:
            factors = tuple(
                a if b is None else b if a is None else a * b for a, b in zip(one.factors, other.factors, strict=True)
            )
            terms.append(Term(f"{one.name}·{other.name}", one.coefficient * other.coefficient, factors,
                              floor=one.smallest * other.smallest))
    return Sum(left.constant * right.constant, tuple(terms))


def _with_leakage(model: CostModel, latency: Sum) -> Sum:
    """Energy of a model where one of its bounds of the latency holds."""
    leakage = model.leakage_pj_per_cycle
    leaked = tuple(_scaled(term, leakage) for term in latency.terms) if leakage else ()
    return Sum(model.energy_constant + leakage * latency.constant, (*model.energy, *leaked))


def build_subproblem(
    model: CostModel, double_buffer: tuple[Operand, ...], objective: Objective, limits_of_cost: Limits = NO_LIMITS, *,
    relaxed: bool = False,
) -> Subproblem:
    """Fix the double-buffered operands of a variant.

    ``limits_of_cost``: limits of what is not the objective; the closed form must keep them too.

    ``relaxed``: double buffering takes no room. Such a subproblem is a relaxation of all those of its variant that
    double-buffer no more operands, so that nothing cheap in it means nothing cheap in any of them.
    """
    waits = []
    waits_constant = 0.0
    for exposed in model.exposed:
        if exposed.operand in double_buffer:
            waits.append(exposed.doubled)
        else:
            waits.append(exposed.single)
            waits_constant += exposed.single_constant
    grid = [Sum(model.grid_constant + waits_constant, (*model.grid, *waits))]
    if model.paced:
        grid.append(Sum(model.paced_constant + waits_constant, (*model.paced, *waits)))
    channel = Sum(model.channel_constant, model.channel)
    final = Sum(model.final_constant, model.final)
    latency = (*grid, channel, final)
    # The latency is the largest of these, and so leakage is in the largest of as many sums too.
    energy = tuple(_with_leakage(model, total) for total in latency)
    sums_of_energy = energy if model.leakage_pj_per_cycle else energy[:1]
    sums = {
        "latency": latency,
        "energy": sums_of_energy,
        "edp": tuple(_product(*pair) for pair in zip(latency, energy, strict=True)),
    }[objective]
    limits = []
    for capacity in model.capacities:
        terms = tuple(
            _scaled(term, 2.0) if operand in capacity.doubled and operand in double_buffer and not relaxed else term
            for operand, term in capacity.tiles.items()
        )
        limits.append(Limit(capacity.memory, float(capacity.size_bits), terms))
    for axis, size in enumerate(model.axis_sizes):
        use = tuple(block.axis_use[:, axis] for block in model.blocks)
        limits.append(Limit(f"axis {axis}", float(size), (Term(f"axis {axis}", 1.0, use),)))
    for name, most, totals in (
        ("latency", limits_of_cost.latency_cycles, latency), ("energy", limits_of_cost.energy_pj, sums_of_energy),
    ):
        if math.isfinite(most):
            # A sum that is over the limit with its constant alone keeps it nowhere; a tiny size says so.
            limits += [
                Limit(name, max(most * (1 + ROUNDING) - total.constant, TINY), total.terms) for total in totals
            ]
    return Subproblem(model, double_buffer, sums, tuple(limits))


def _row_bounds(terms: tuple[Term, ...], rows: Rows) -> list[npt.NDArray[np.float64]]:
    """Lower bounds of a sum for each row of each block: the other blocks at their best, term by term."""
    bounds = [np.zeros(len(kept)) for kept in rows]
    for term in terms:
        smallest = [1.0 if f is None else float(f[kept].min()) for f, kept in zip(term.factors, rows, strict=True)]
        for b, factor in enumerate(term.factors):
            others = term.coefficient
            for other, value in enumerate(smallest):
                if other != b:
                    others *= value
            bounds[b] += np.maximum(term.floor, others if factor is None else others * factor[rows[b]])
    return bounds


def surviving_rows(
    problem: Subproblem, below: float, *, dominated: bool = False
) -> tuple[Rows | None, float]:
    """Drop rows that cannot be part of a choice that costs less than ``below``.

    Rows that another matches or beats in everything are dropped too, unless ``dominated`` asks for them.

    Returns the rows kept of each block (None where no choice is left) and a lower bound of the subproblem.
    """
    rows: Rows = [np.arange(block.size) for block in problem.blocks]
    slack = 1 + 1e-9
    lowest = -np.inf
    while True:
        before = sum(len(kept) for kept in rows)
        for total in problem.sums:
            bounds = _row_bounds(total.terms, rows)
            lowest = max(lowest, total.constant + max(float(bound.min()) for bound in bounds))
            rows = [kept[total.constant + bound < below] for kept, bound in zip(rows, bounds, strict=True)]
            if any(len(kept) == 0 for kept in rows):
                return None, below
        for limit in problem.limits:
            bounds = _row_bounds(limit.terms, rows)
            rows = [kept[bound <= limit.size * slack] for kept, bound in zip(rows, bounds, strict=True)]
            if any(len(kept) == 0 for kept in rows):
                return None, below
        if sum(len(kept) for kept in rows) == before:
            break
    if dominated:
        return rows, lowest
    return [_undominated(problem, b, kept) for b, kept in enumerate(rows)], lowest


def _undominated(problem: Subproblem, b: int, kept: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of the rows of one block, keep those that no other matches or beats in every factor."""
    columns = []
    terms = [term for total in problem.sums for term in total.terms]
    terms += [term for limit in problem.limits for term in limit.terms]
    for term in terms:
        factor = term.factors[b]
        if factor is not None:
            columns.append(factor[kept])
    if not columns:
        return kept[:1]
    survivors: npt.NDArray[np.int64] = kept[non_dominated(np.column_stack(columns).astype(np.int64))]
    return survivors
