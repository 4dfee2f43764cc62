"""The integer model behind precision assignment: tied layers merged, sums scaled to integers, CP-SAT.

CP-SAT computes in integers, so each quantity is measured from its least sum in units of a common divisor: exactly
where that leaves at most ``2**SCALE_BITS`` units, else in units of a power of two. Values are rounded *down*: the
integer problem is then a relaxation, and its bound holds for the true values. Budgets are checked on the true
values (exact sums, rounded once to a float); a solution that breaks one by less than the rounding is cut away and
the search goes on.
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

from mapper.cp_solver import cp_solver
from mapper.interruptible import interruptible
from simulator.errors import BitmosaicError, Problem, closest

Quantity = Literal["cost", "harm"]
QUANTITIES = ("cost", "harm", "weight_bits")
SCALE_BITS = 48
REPAIRS = 20  # Solutions cut away before sums are rounded up instead, which cannot break a budget.


@dataclass(frozen=True)
class Choice:
    """One way to run a layer: what it costs, what harm it does to the accuracy, what its weights take.

    ``cost`` and ``harm`` are in any unit, the same for all layers, and add up over layers; they may be negative.
    """

    label: str
    cost: float
    harm: float
    weight_bits: int = 0


@dataclass(frozen=True)
class Option:
    """A choice that a group of tied layers makes together: exact sums over its members, by quantity."""

    label: str
    amounts: dict[str, Fraction]


@dataclass(frozen=True)
class Scaled:
    """A quantity in integers: ``true = base + unit · integer``, integers rounded down and up, by group and option."""

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
    """Options of each group of tied layers, dominated ones left out, and budgets on their sums."""

    layers: tuple[str, ...]
    groups: list[list[str]]
    options: list[list[Option]]
    budgets: dict[str, float | int]

    @classmethod
    def of(
        cls,
        choices: Mapping[str, Sequence[Choice]],
        tied: Sequence[Sequence[str]],
        budgets: Mapping[str, float | int | None],
    ) -> AssignmentProblem:
        """Check and merge. Raises ``BitmosaicError`` with every mistake."""
        problems = _problems(choices, tied)
        for name, limit in budgets.items():
            if limit is not None and (math.isnan(limit) or limit == -math.inf):
                problems.append(Problem("must be a number", path=f"{name}_budget", value=str(limit)))
        if problems:
            raise BitmosaicError(problems)
        groups = _merge_tied(choices, tied)
        options = [_group_options(choices, group) for group in groups]
        kept = {name: limit for name, limit in budgets.items() if limit is not None and limit != math.inf}
        return cls(tuple(choices), groups, options, kept)

    def without(self, name: str) -> AssignmentProblem:
        """Return the problem without one of its budgets."""
        return replace(self, budgets={other: limit for other, limit in self.budgets.items() if other != name})

    def scaled(self, name: str) -> Scaled:
        """Return a quantity in integers (module docstring)."""
        values = [[option.amounts[name] for option in options] for options in self.options]
        least = [min(row) for row in values]
        above = [[value - low for value in row] for row, low in zip(values, least, strict=True)]
        span = sum((max(row) for row in above), Fraction(0))
        denominator = math.lcm(*(value.denominator for row in above for value in row))
        divisor = math.gcd(*(int(value * denominator) for row in above for value in row))
        unit = Fraction(divisor or 1, denominator)
        exact = span / unit <= 2**SCALE_BITS
        if not exact:
            unit = Fraction(2) ** (math.ceil(math.log2(span)) - SCALE_BITS)
        return Scaled(
            unit=unit,
            base=sum(least, Fraction(0)),
            down=[[math.floor(value / unit) for value in row] for row in above],
            up=[[math.ceil(value / unit) for value in row] for row in above],
            exact=exact,
        )

    def total(self, name: str, picks: Sequence[int]) -> Fraction:
        """Exact sum of a quantity over the picked options."""
        return sum((row[i].amounts[name] for row, i in zip(self.options, picks, strict=True)), Fraction(0))

    def within_budgets(self, picks: Sequence[int]) -> bool:
        """Whether the true sums, as floats (``math.fsum``), keep every budget."""
        return all(float(self.total(name, picks)) <= limit for name, limit in self.budgets.items())

    def picks(self, labels: Mapping[str, str]) -> list[int] | None:
        """Return the option of each group that has the given labels, or None where one has not.

        A dominated choice has no option any more: such a hint is of no use.
        """
        picks = []
        for group, options in zip(self.groups, self.options, strict=True):
            known = [option.label for option in options]
            if labels.get(group[0]) not in known:
                return None
            picks.append(known.index(labels[group[0]]))
        return picks

    def labels(self, picks: Sequence[int]) -> dict[str, str]:
        """Label of each layer, in the order in which the layers were given."""
        found = {layer: self.options[g][i].label for g, i in enumerate(picks) for layer in self.groups[g]}
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
    """The CP-SAT model of a problem: exactly one option a group, sums within budgets."""

    def __init__(self, problem: AssignmentProblem, scaled: Mapping[str, Scaled], round_up: bool = False) -> None:
        self.problem, self.scaled = problem, scaled
        self.model = cp_model.CpModel()
        self.variables = [
            [self.model.new_bool_var(f"{group[0]}={option.label}") for option in options]
            for group, options in zip(problem.groups, problem.options, strict=True)
        ]
        for row in self.variables:
            self.model.add_exactly_one(row)
        for name, limit in problem.budgets.items():
            room = Fraction(limit) - scaled[name].base
            if not round_up and name != "weight_bits":
                # A sum above the budget by half a float's last digit still rounds to the budget.
                room += Fraction(math.ulp(limit)) / 2
            integers = scaled[name].up if round_up else scaled[name].down
            self.limit(integers, math.floor(room / scaled[name].unit))

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
                for row, pick in zip(self.variables, start, strict=True):
                    for i, variable in enumerate(row):
                        self.model.add_hint(variable, i == pick)
            status = interruptible(partial(solver.solve, self.model), solver.stop_search)
            if status == cp_model.INFEASIBLE:
                return bound, True, None
            if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
                return bound, False, None
            bound = max(bound, math.ceil(solver.best_objective_bound - 1e-6))
            picks = [next(i for i, v in enumerate(row) if solver.boolean_value(v)) for row in self.variables]
            if self.problem.within_budgets(picks):
                return bound, status == cp_model.OPTIMAL, picks
            self.model.add_bool_or([row[i].negated() for row, i in zip(self.variables, picks, strict=True)])
        return bound, False, None


def _problems(choices: Mapping[str, Sequence[Choice]], tied: Sequence[Sequence[str]]) -> list[Problem]:
    problems = [] if choices else [Problem("must name at least one layer", path="choices")]
    for layer, row in choices.items():
        labels = [choice.label for choice in row]
        if not row:
            problems.append(Problem("has no choice", path=f"choices.{layer}"))
        if len(set(labels)) != len(labels):
            problems.append(Problem("labels must differ", path=f"choices.{layer}", value=str(labels)))
        for choice in row:
            for name in QUANTITIES:
                value = getattr(choice, name)
                if not math.isfinite(value) or (name == "weight_bits" and value != int(value)):
                    rule = "must be a whole number" if name == "weight_bits" else "must be finite"
                    problems.append(Problem(rule, path=f"choices.{layer}.{choice.label}.{name}", value=str(value)))
    for group in tied:
        for layer in group:
            if layer not in choices:
                problems.append(Problem("no such layer", path="tied", value=layer,
                                        did_you_mean=closest(layer, list(choices))))
    return problems


def _merge_tied(choices: Mapping[str, Sequence[Choice]], tied: Sequence[Sequence[str]]) -> list[list[str]]:
    """Groups of layers that take one label together; groups that share a layer are one."""
    group_of = {layer: [layer] for layer in choices}
    for members in tied:
        for layer in members[1:]:
            first, second = group_of[members[0]], group_of[layer]
            if first is not second:
                first += second
                for moved in second:
                    group_of[moved] = first
    groups = {id(group): group for group in group_of.values()}
    order = {layer: i for i, layer in enumerate(choices)}
    return [sorted(group, key=order.__getitem__) for group in groups.values()]


def _group_options(choices: Mapping[str, Sequence[Choice]], group: Sequence[str]) -> list[Option]:
    by_label = [{choice.label: choice for choice in choices[layer]} for layer in group]
    common = [label for label in by_label[0] if all(label in row for row in by_label)]
    if not common:
        raise BitmosaicError(Problem("tied layers have no label in common", path="tied", value=", ".join(group)))
    options = [
        Option(label, {name: sum((Fraction(getattr(row[label], name)) for row in by_label), Fraction(0))
                       for name in QUANTITIES})
        for label in common
    ]
    return [
        option for i, option in enumerate(options)
        if not any(_beats(other, option, j < i) for j, other in enumerate(options) if j != i)
    ]


def _beats(other: Option, option: Option, earlier: bool) -> bool:
    """Whether an option is never worse than another one; of equals, the earlier."""
    pairs = [(other.amounts[name], option.amounts[name]) for name in QUANTITIES]
    return all(a <= b for a, b in pairs) and (earlier or any(a < b for a, b in pairs))
