"""Precision assignment: one choice a layer, least cost or least harm under budgets, with a proof; and the front.

A multiple-choice knapsack: minimise Σ cost (or harm) over one choice a layer, so that Σ harm, Σ cost and Σ weight
bits keep their budgets. HAWQ-V3's integer program, AMP's and SEADA's budget rule are of this form. The model, and
what its integers mean, is in ``assignment_model``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from mapper.assignment_model import QUANTITIES, AssignmentProblem, Choice, Quantity, Scaled, Search
from simulator.errors import BitmosaicError, InfeasibleError, Problem

__all__ = ["Assignment", "Choice", "Quantity", "assign", "assignment_front"]


@dataclass(frozen=True)
class Assignment:
    """A choice for each layer, with its certificate.

    Attributes:
        status: ``optimal`` where it is proven that nothing is better by more than ``resolution``, else ``feasible``.
        labels: layer → label of its choice.
        cost, harm, weight_bits: sums over the layers (exactly rounded, as by ``math.fsum``).
        minimised: which of cost and harm was minimised. Of equal solutions it is one with least of the other,
            where the time allowed to prove that too.
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
    time_limit_seconds: float = 10.0,
    hint: Mapping[str, str] | None = None,
    num_workers: int = 1,
) -> Assignment:
    """Choose one of each layer's choices: least ``minimise`` within the budgets (none is ever broken).

    ``tied`` are groups of layers that must take the same label, because their inputs or outputs meet. ``hint`` is
    an assignment to start from. With one worker the answer is the same on every run, unless time runs out.

    Raises ``InfeasibleError`` with the best that can be reached, ``BitmosaicError`` for malformed arguments.
    """
    started = time.perf_counter()
    deadline = started + time_limit_seconds
    if minimise not in ("cost", "harm"):
        raise BitmosaicError(Problem("is nothing to minimise", path="minimise", value=repr(minimise),
                                     allowed=("cost", "harm")))
    budgets = {"harm": harm_budget, "cost": cost_budget, "weight_bits": weight_bits_budget}
    problem = AssignmentProblem.of(choices, tied, budgets)
    _check_hint(choices, hint or {})
    scaled = {name: problem.scaled(name) for name in QUANTITIES}
    start = problem.picks(hint or {})

    bound, complete, found = Search(problem, scaled).minimise(minimise, start, deadline, num_workers)
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
        found = _least_of_the_other(problem, minimise, scaled, found, deadline, num_workers)
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
    points: int | None = None,
    weight_bits_budget: int | None = None,
    tied: Sequence[Sequence[str]] = (),
    time_limit_seconds: float = 10.0,
    num_workers: int = 1,
    max_points: int = 1000,
) -> tuple[Assignment, ...]:
    """Assignments of which none is better in both cost and harm, by ascending cost, both ends included.

    ``points=None``: every point of the front, by an ε-constraint sweep (points whose costs differ by no more than
    the resolution count as one). ``points=k``: least harm under k cost budgets, spread evenly from the least cost
    to the cost of the least harm; fewer where budgets share an answer. ``time_limit_seconds`` is for each point.

    Raises ``BitmosaicError`` where the whole front has more than ``max_points`` points.
    """
    if points is not None and points < 2:
        raise BitmosaicError(Problem("the two ends belong to a front: at least 2", path="points", value=str(points)))

    def least(minimise: Quantity, cost_budget: float | None, hint: Mapping[str, str] | None) -> Assignment:
        return assign(
            choices, minimise=minimise, cost_budget=cost_budget, weight_bits_budget=weight_bits_budget, tied=tied,
            time_limit_seconds=time_limit_seconds, hint=hint, num_workers=num_workers,
        )

    cheapest, best = least("cost", None, None), least("harm", None, None)
    found = [cheapest, best]
    if points is not None:
        step = (best.cost - cheapest.cost) / (points - 1)
        found += [least("harm", cheapest.cost + i * step, cheapest.labels) for i in range(1, points - 1)]
    else:
        cost = AssignmentProblem.of(choices, tied, {}).scaled("cost")
        decrease = Fraction(0) if cost.exact else cost.resolution + cost.unit
        while True:
            budget = math.nextafter(float(Fraction(found[-1].cost) - decrease), -math.inf)
            if budget < cheapest.cost:
                break
            if len(found) > max_points:
                raise BitmosaicError(
                    Problem("the front has more points; ask for points=k", path="max_points", value=str(max_points))
                )
            found.append(least("harm", budget, cheapest.labels))
    front: list[Assignment] = []
    for candidate in sorted(found, key=lambda assignment: (assignment.cost, assignment.harm)):
        if not front or candidate.harm < front[-1].harm:
            front.append(candidate)
    return tuple(front)


def _least_of_the_other(
    problem: AssignmentProblem, minimise: Quantity, scaled: Mapping[str, Scaled], found: list[int],
    deadline: float, workers: int,
) -> list[int]:
    """Among the solutions with the same minimised sum, one with least of the other quantity."""
    search = Search(problem, scaled)
    integers = scaled[minimise].down
    search.limit(integers, sum(row[i] for row, i in zip(integers, found, strict=True)))
    other: Quantity = "harm" if minimise == "cost" else "cost"
    _, _, polished = search.minimise(other, found, deadline, workers)
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
