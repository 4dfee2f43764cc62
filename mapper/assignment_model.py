"""The integer model behind precision assignment: sums scaled to integers, CP-SAT.

CP-SAT computes in integers, so each quantity is measured from its least sum in units of a common divisor: exactly
where that leaves at most ``2**SCALE_BITS`` units, else in units of a power of two. Values are rounded *down*: the
integer problem is then a relaxation, and its bound holds for the true values. Budgets are checked on the true
values (exact sums, rounded once to a float); a solution that breaks one by less than the rounding is cut away and
the search goes on. What groups, options and terms are, is in ``assignment_options``.

A term between groups has a variable for each combination of their options' classes. Those that agree in one group's
class sum to the variables of its options of that class: the local polytope of a Markov random field (Wainwright and
Jordan, 2008, section 4.1), of which no relaxation over single terms is tighter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Literal

from ortools.sat.python import cp_model

from mapper.assignment_options import Choice, Conversion, Groups, Option, Term
from mapper.cp_solver import cp_solver
from mapper.interruptible import interruptible
from simulator.errors import BitmosaicError, Problem

Quantity = Literal["cost", "harm", "weight_bits"]
THEN_LEAST: dict[Quantity, Quantity] = {"cost": "harm", "harm": "cost", "weight_bits": "harm"}
"""Quantity that is minimised → that of which there is least among equal solutions."""
SCALE_BITS = 48
REPAIRS = 20  # Solutions cut away before sums are rounded up instead, which cannot break a budget.


@dataclass(frozen=True)
class Scaled:
    """A quantity in integers: ``true = base + unit · integer``, integers rounded down and up.

    A row a group, with an entry an option, then a row a term, with an entry a combination.
    """

    unit: Fraction
    base: Fraction
    down: list[list[int]]
    up: list[list[int]]
    exact: bool

    @property
    def resolution(self) -> Fraction:
        """Largest difference between a true sum and its integer image; 0 where the scaling is exact."""
        return Fraction(0) if self.exact else self.unit * len(self.down)


@dataclass(frozen=True)
class AssignmentProblem:
    """Options of each group of layers, beaten ones left out, terms between groups, and budgets on the sums."""

    layers: tuple[str, ...]
    groups: list[list[str]]
    options: list[list[Option]]
    terms: list[Term]
    budgets: dict[str, float | int]

    @classmethod
    def of(
        cls,
        choices: Mapping[str, Sequence[Choice]],
        tied: Sequence[Sequence[str]],
        budgets: Mapping[str, float | int | None],
        conversions: Sequence[Conversion] = (),
        *,
        reduce: bool = True,
    ) -> AssignmentProblem:
        """Check, merge and reduce. Raises ``BitmosaicError`` with every mistake."""
        problems = [
            Problem("must be a number", path=f"{name}_budget", value=str(limit))
            for name, limit in budgets.items() if limit is not None and (math.isnan(limit) or limit == -math.inf)
        ]
        if problems:
            raise BitmosaicError(problems)
        groups = Groups.of(choices, tied, conversions)
        if reduce:
            groups = groups.reduced()
        kept = {name: limit for name, limit in budgets.items() if limit is not None and limit != math.inf}
        return cls(tuple(choices), groups.members, groups.options, groups.terms(), kept)

    def without(self, name: str) -> AssignmentProblem:
        """Return the problem without one of its budgets."""
        return replace(self, budgets={other: limit for other, limit in self.budgets.items() if other != name})

    def scaled(self, name: str) -> Scaled:
        """Return a quantity in integers (module docstring)."""
        values = [[option.amounts[name] for option in options] for options in self.options]
        values += [list(term.costs) if name == "cost" else [] for term in self.terms]
        # Whole numbers of a common unit: the same as in fractions, many times as fast.
        common = math.lcm(*{value.denominator for row in values for value in row})
        whole = [[value.numerator * (common // value.denominator) for value in row] for row in values]
        least = [min(row, default=0) for row in whole]
        above = [[value - low for value in row] for row, low in zip(whole, least, strict=True)]
        for row, term in zip(above[len(self.options):], self.terms, strict=True):
            row += [0] * (len(term.costs) - len(row))
        span = sum(max(row) for row in above)
        divisor = math.gcd(*(value for row in above for value in row)) or 1
        unit = Fraction(divisor, common)
        exact = span <= divisor * 2**SCALE_BITS
        if not exact:
            unit = Fraction(2) ** (math.ceil(math.log2(Fraction(span, common))) - SCALE_BITS)
        up, down = unit.denominator, unit.numerator * common
        return Scaled(
            unit=unit,
            base=Fraction(sum(least), common),
            down=[[value * up // down for value in row] for row in above],
            up=[[-(-value * up // down) for value in row] for row in above],
            exact=exact,
        )

    def total(self, name: str, picks: Sequence[int]) -> Fraction:
        """Exact sum of a quantity over the picked options."""
        total = sum(row[i].amounts[name] for row, i in zip(self.options, picks, strict=True))
        if name == "cost":
            total += sum(term.costs[term.combination(picks)] for term in self.terms)
        return Fraction(total)

    def entries(self, picks: Sequence[int]) -> list[int]:
        """The picked entry of each row of a ``Scaled``: of groups, then of terms."""
        return [*picks, *(term.combination(picks) for term in self.terms)]

    def exact_room(self, name: str, scaled: Scaled) -> Fraction:
        """Units of a budgeted quantity that no assignment within the budget exceeds."""
        limit = self.budgets[name]
        room = Fraction(limit) - scaled.base
        if name != "weight_bits":
            # A sum above the budget by half a float's last digit still rounds to the budget.
            room += Fraction(math.ulp(limit)) / 2
        return room / scaled.unit

    def room(self, name: str, scaled: Scaled) -> int:
        """``exact_room``, rounded down."""
        return math.floor(self.exact_room(name, scaled))

    def binding_budgets(self, minimise: Quantity, scaled: Mapping[str, Scaled]) -> list[str]:
        """Budgets, but for that of what is minimised, that some picks exceed."""
        return [
            name for name in self.budgets
            if name != minimise and sum(max(row) for row in scaled[name].down) > self.room(name, scaled[name])
        ]

    def restricted(self, options: Sequence[Sequence[int]]) -> AssignmentProblem:
        """Return the problem with some of each group's options only; it must have no terms."""
        assert not self.terms
        few = [[row[i] for i in kept] for row, kept in zip(self.options, options, strict=True)]
        return replace(self, options=few)

    def within_budgets(self, picks: Sequence[int]) -> bool:
        """Whether the true sums, as floats (``math.fsum``), keep every budget."""
        return all(float(self.total(name, picks)) <= limit for name, limit in self.budgets.items())

    def picks(self, labels: Mapping[str, str]) -> list[int] | None:
        """Return the option of each group that has the given labels, or None where one has not.

        A dominated choice has no option any more: such a hint is of no use.
        """
        picks = []
        for group, options in zip(self.groups, self.options, strict=True):
            known = [option.labels for option in options]
            given = tuple(labels.get(layer, "") for layer in group)
            if given not in known:
                return None
            picks.append(known.index(given))
        return picks

    def labels(self, picks: Sequence[int]) -> dict[str, str]:
        """Label of each layer, in the order in which the layers were given."""
        found = {
            layer: label for g, i in enumerate(picks)
            for layer, label in zip(self.groups[g], self.options[g][i].labels, strict=True)
        }
        return {layer: found[layer] for layer in self.layers}

    def easy_start(self) -> list[int] | None:
        """Return the picks with least of one budgeted quantity, where these keep all budgets."""
        for name in (*self.budgets, "cost"):
            picks = []
            for row in self.options:
                amounts = [option.amounts[name] for option in row]
                picks.append(amounts.index(min(amounts)))
            if self.within_budgets(picks):
                return picks
        return None


class Search:
    """The CP-SAT model of a problem: exactly one option a group, one combination a term, sums within budgets."""

    def __init__(self, problem: AssignmentProblem, scaled: Mapping[str, Scaled], round_up: bool = False) -> None:
        self.problem, self.scaled = problem, scaled
        self.model = cp_model.CpModel()
        self.variables = [
            [self.model.new_bool_var(f"{group[0]}={option.labels[0]}") for option in options]
            for group, options in zip(problem.groups, problem.options, strict=True)
        ]
        for row in self.variables:
            self.model.add_exactly_one(row)
        for term in problem.terms:
            self._add(term)
        for name, limit in problem.budgets.items():
            if round_up:
                self.limit(scaled[name].up, math.floor((Fraction(limit) - scaled[name].base) / scaled[name].unit))
            else:
                self.limit(scaled[name].down, problem.room(name, scaled[name]))

    def _add(self, term: Term) -> None:
        """Add the variables of a term's combinations, bound to those of the options (module docstring)."""
        row = [self.model.new_bool_var(f"term{combination}") for combination in term.combinations]
        for axis, (group, classes) in enumerate(zip(term.groups, term.classes, strict=True)):
            for number in range(max(classes) + 1):
                agreeing = [each for each, of in zip(row, term.combinations, strict=True) if of[axis] == number]
                members = [
                    each for each, of in zip(self.variables[group], classes, strict=True) if of == number
                ]
                self.model.add(sum(agreeing) == sum(members))
        self.variables.append(row)

    def limit(self, integers: list[list[int]], most: int) -> None:
        """Bound the sum of the picked integers from above."""
        self.model.add(self._sum(integers) <= max(-1, min(most, 2**62)))

    def _sum(self, integers: list[list[int]]) -> cp_model.LinearExprT:
        flat = [variable for row in self.variables for variable in row]
        return cp_model.LinearExpr.weighted_sum(flat, [value for row in integers for value in row])

    def minimise(
        self, name: str, start: Sequence[int] | None, deadline: float, workers: int
    ) -> tuple[int, bool, list[int] | None]:
        """Return (lower bound in units, whether the search is complete, picks within the budgets or None)."""
        self.model.minimize(self._sum(self.scaled[name].down))
        bound = 0
        for _ in range(REPAIRS):
            solver = cp_solver(num_workers=workers, random_seed=0, time_limit_seconds=deadline - time.perf_counter())
            self.model.clear_hints()  # type: ignore[no-untyped-call]
            if start is not None:
                for row, pick in zip(self.variables, self.problem.entries(start), strict=True):
                    for i, variable in enumerate(row):
                        self.model.add_hint(variable, i == pick)
            status = interruptible(partial(solver.solve, self.model), solver.stop_search)
            if status == cp_model.INFEASIBLE:
                return bound, True, None
            if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
                return bound, False, None
            bound = max(bound, math.ceil(solver.best_objective_bound - 1e-6))
            groups = self.variables[: len(self.problem.groups)]
            picks = [next(i for i, v in enumerate(row) if solver.boolean_value(v)) for row in groups]
            if self.problem.within_budgets(picks):
                return bound, status == cp_model.OPTIMAL, picks
            self.model.add_bool_or([row[i].negated() for row, i in zip(groups, picks, strict=True)])
        return bound, False, None
