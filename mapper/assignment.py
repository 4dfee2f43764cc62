"""Precision assignment: one choice a layer, least cost or least harm under budgets, with a proof; and the front.

A multiple-choice knapsack: minimise Σ cost (or harm, or weight bits) over one choice a layer, so that Σ harm, Σ cost
and Σ weight bits keep their budgets. HAWQ-V3's integer program, AMP's and SEADA's budget rule are of this form. Costs
of neighbouring layers together (format conversions) are further terms of Σ cost. What is settled before the search is
in ``assignment_options``, the model, and what its integers mean, in ``assignment_model``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from mapper.assignment_core import CoreOptimum, core_optimum
from mapper.assignment_model import THEN_LEAST, AssignmentProblem, Quantity, Scaled, Search
from mapper.assignment_options import QUANTITIES, Choice, Conversion
from mapper.assignment_path import PathOptimum, path_optimum
from simulator.errors import BitmosaicError, InfeasibleError, Problem
from simulator.shown import Shown

__all__ = ["Assignment", "Choice", "Conversion", "Quantity", "assign", "assignment_front"]


@dataclass(frozen=True)
class Assignment(Shown):
    """A choice for each layer, with its certificate.

    Attributes:
        status: ``optimal`` where it is proven that nothing is better by more than ``resolution``, else ``feasible``.
        labels: layer → label of its choice.
        cost, harm, weight_bits: sums over the layers, of cost with that of the conversions (exactly rounded, as by
            ``math.fsum``).
        minimised: which of cost, harm and weight_bits was minimised. Of equal solutions it is one with least of
            ``THEN_LEAST``, where the time allowed to prove that too.
        lower_bound: no assignment within the budgets has less of what was minimised.
        gap: (minimised value − lower_bound) / |minimised value|.
        resolution: largest error that the integer scaling can make in the minimised sum; 0: none.
    """

    status: Literal["optimal", "feasible"]
    labels: dict[str, str]
    cost: float
    harm: float
    weight_bits: int
    minimised: Quantity
    lower_bound: float
    gap: float
    resolution: float
    solve_seconds: float


def assign(
    choices: Mapping[str, Sequence[Choice]],
    *,
    minimise: Quantity,
    harm_budget: float | None = None,
    cost_budget: float | None = None,
    weight_bits_budget: int | None = None,
    tied: Sequence[Sequence[str]] = (),
    conversions: Sequence[Conversion] = (),
    time_limit_seconds: float = 10.0,
    hint: Mapping[str, str] | None = None,
    num_workers: int = 1,
) -> Assignment:
    """Choose one of each layer's choices: least ``minimise`` within the budgets (none is ever broken).

    ``tied`` are groups of layers that must take the same label, because their inputs or outputs meet. ``conversions``
    are costs by the labels of neighbouring layers, part of Σ cost (``mapper.conversions`` makes them). ``hint`` is an
    assignment to start from. With one worker the answer is the same on every run, unless time runs out.

    ``time_limit_seconds`` (of the clock) ends CP-SAT. The dynamic programs before it are not cut short: they give up
    after so many pairs (``MOST_PAIRS`` of each), so that a small limit can be exceeded, by seconds where layers are
    thousands; what they prove is then kept.

    Raises ``InfeasibleError`` with the best that can be reached, ``BitmosaicError`` for malformed arguments.
    """
    started = time.perf_counter()
    deadline = started + time_limit_seconds
    if minimise not in QUANTITIES:
        raise BitmosaicError(Problem("is nothing to minimise", path="minimise", value=repr(minimise),
                                     allowed=QUANTITIES))
    budgets = {"harm": harm_budget, "cost": cost_budget, "weight_bits": weight_bits_budget}
    problem = AssignmentProblem.of(choices, tied, budgets, conversions)
    _check_hint(choices, hint or {})
    scaled = {name: problem.scaled(name) for name in QUANTITIES}
    start = problem.picks(hint or {})

    core = core_optimum(problem, minimise, scaled) or path_optimum(problem, minimise, scaled)
    bound, complete, found = (core.least, core.complete, core.picks) if core else (0, False, None)
    if not complete:
        start = start if found is None else found
        more, complete, found = Search(problem, scaled).minimise(minimise, start, deadline, num_workers)
        bound = max(bound, more)
    if complete and found is None:
        raise _infeasible(problem, scaled, num_workers)
    if found is None:
        # Rounded up, sums cannot break a budget. This loses only what lies within the resolution of one.
        _, _, found = Search(problem, scaled, round_up=True).minimise(minimise, start, deadline, num_workers)
    if found is None:
        found = start if start is not None and problem.within_budgets(start) else problem.easy_start()
    if found is None:
        raise BitmosaicError(
            Problem("no assignment found in this time, nor proven that there is none",
                    path="time_limit_seconds", value=str(time_limit_seconds))
        )
    least = scaled[minimise].base + scaled[minimise].unit * bound
    proven = problem.total(minimise, found) - least <= scaled[minimise].resolution
    if proven:
        found = _least_of_the_other(problem, minimise, scaled, found, deadline, num_workers, core)
    value = float(problem.total(minimise, found))
    lower_bound = min(value, float(least))
    return Assignment(
        status="optimal" if proven else "feasible",
        labels=problem.labels(found),
        cost=float(problem.total("cost", found)),
        harm=float(problem.total("harm", found)),
        weight_bits=int(problem.total("weight_bits", found)),
        minimised=minimise,
        lower_bound=lower_bound,
        gap=0.0 if value == lower_bound else (value - lower_bound) / abs(value) if value else math.inf,
        resolution=float(scaled[minimise].resolution),
        solve_seconds=time.perf_counter() - started,
    )


def assignment_front(
    choices: Mapping[str, Sequence[Choice]],
    *,
    against: Literal["cost", "weight_bits"] = "cost",
    points: int | None = None,
    cost_budget: float | None = None,
    weight_bits_budget: int | None = None,
    tied: Sequence[Sequence[str]] = (),
    conversions: Sequence[Conversion] = (),
    time_limit_seconds: float = 10.0,
    num_workers: int = 1,
    max_points: int = 1000,
) -> tuple[Assignment, ...]:
    """Assignments of which none is better in both cost and harm, by ascending cost, both ends included.

    ``against="weight_bits"``: the bits of the weights take the part of cost, here and below. ``points=None``: every
    point of the front, by an ε-constraint sweep (points whose costs differ by no more than the resolution count as
    one). ``points=k``: least harm under k cost budgets, spread evenly from the least cost to the cost of the least
    harm; fewer where budgets share an answer. Budgets hold for every point; ``time_limit_seconds`` is for each.

    Raises ``BitmosaicError`` where the whole front has more than ``max_points`` points, or where there is a budget
    for what the front itself goes along.
    """
    budgets = {"cost": cost_budget, "weight_bits": weight_bits_budget}
    if against not in budgets or budgets[against] is not None:
        rule = "the front goes along it: it has no budget" if against in budgets else "is no axis of a front"
        raise BitmosaicError(Problem(rule, path="against", value=repr(against), allowed=tuple(budgets)))
    if points is not None and points < 2:
        raise BitmosaicError(Problem("the two ends belong to a front: at least 2", path="points", value=str(points)))

    def least(minimise: Quantity, limit: float | None, hint: Mapping[str, str] | None) -> Assignment:
        limits = {**budgets, against: limit if limit is None or against == "cost" else math.floor(limit)}
        return assign(
            choices, minimise=minimise, cost_budget=limits["cost"],
            weight_bits_budget=None if limits["weight_bits"] is None else int(limits["weight_bits"]), tied=tied,
            conversions=conversions, time_limit_seconds=time_limit_seconds, hint=hint, num_workers=num_workers,
        )

    def amount(assignment: Assignment) -> float:
        return assignment.cost if against == "cost" else assignment.weight_bits

    cheapest, best = least(against, None, None), least("harm", None, None)
    found = [cheapest, best]
    if points is not None:
        step = (amount(best) - amount(cheapest)) / (points - 1)
        found += [least("harm", amount(cheapest) + i * step, cheapest.labels) for i in range(1, points - 1)]
    else:
        cost = AssignmentProblem.of(choices, tied, {}, conversions).scaled(against)
        decrease = Fraction(0) if cost.exact else cost.resolution + cost.unit
        while True:
            budget = math.nextafter(float(Fraction(amount(found[-1])) - decrease), -math.inf)
            if budget < amount(cheapest):
                break
            if len(found) > max_points:
                raise BitmosaicError(
                    Problem("the front has more points; ask for points=k", path="max_points", value=str(max_points))
                )
            found.append(least("harm", budget, cheapest.labels))
    front: list[Assignment] = []
    for candidate in sorted(found, key=lambda assignment: (amount(assignment), assignment.harm)):
        if not front or candidate.harm < front[-1].harm:
            front.append(candidate)
    return tuple(front)


def _least_of_the_other(
    problem: AssignmentProblem, minimise: Quantity, scaled: Mapping[str, Scaled], found: list[int],
    deadline: float, workers: int, core: CoreOptimum | PathOptimum | None,
) -> list[int]:
    """Among the solutions with the same minimised sum, one with least of the other quantity."""
    if core and core.settled:
        return found
    if isinstance(core, CoreOptimum):
        few = problem.restricted(core.options)
        inside = [kept.index(pick) for kept, pick in zip(core.options, found, strict=True)]
        amounts = {name: few.scaled(name) for name in QUANTITIES}
        inside = _least_of_the_other(few, minimise, amounts, inside, deadline, workers, None)
        return [kept[i] for kept, i in zip(core.options, inside, strict=True)]
    search = Search(problem, scaled)
    integers = scaled[minimise].down
    search.limit(integers, sum(row[i] for row, i in zip(integers, problem.entries(found), strict=True)))
    _, _, polished = search.minimise(THEN_LEAST[minimise], found, deadline, workers)
    if polished is None or problem.total(minimise, polished) > problem.total(minimise, found):
        return found
    return polished


def _check_hint(choices: Mapping[str, Sequence[Choice]], hint: Mapping[str, str]) -> None:
    problems = []
    for layer, label in hint.items():
        known = tuple(choice.label for choice in choices.get(layer, ()))
        if label not in known:
            problems.append(Problem("the layer has no such choice", path=f"hint.{layer}", value=label, allowed=known))
    if problems:
        raise BitmosaicError(problems)


def _infeasible(problem: AssignmentProblem, scaled: Mapping[str, Scaled], workers: int) -> InfeasibleError:
    """Say which budget cannot be kept, and the best that can be reached of it (under the other budgets)."""
    problems = []
    for name, limit in problem.budgets.items():
        if name == "cost" and problem.terms:
            # No assignment need have the least of both options and terms.
            alone = replace(problem, budgets={})
            _, _, picks = Search(alone, scaled).minimise("cost", None, time.perf_counter() + 10, workers)
            least = -math.inf if picks is None else float(alone.total("cost", picks))
        else:
            least = float(scaled[name].base)
        if least > limit:
            problems.append(Problem(f"the least {name} that any assignment reaches is {least:.9g}",
                                    path=f"{name}_budget", value=f"{limit:.9g}"))
    for name, limit in problem.budgets.items() if not problems else ():
        rest = problem.without(name)
        _, _, picks = Search(rest, scaled).minimise(name, None, time.perf_counter() + 10, workers)
        if picks is not None:
            reached = float(problem.total(name, picks))
            problems.append(Problem(f"within the other budgets the least {name} found is {reached:.9g}",
                                    path=f"{name}_budget", value=f"{limit:.9g}"))
    return InfeasibleError(problems or [Problem("no assignment keeps all budgets", path="budgets")])
