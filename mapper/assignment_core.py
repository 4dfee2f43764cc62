"""Exact assignment without terms and with one binding budget: a dynamic program over the core of the knapsack.

In a multiple-choice knapsack all but a few layers take what the linear relaxation says; the few that are undecided are
the core (Balas and Zemel, Oper. Res. 28, 1980; for multiple choice Pisinger, Eur. J. Oper. Res. 83, 1995). With the
budget's Lagrange multiplier λ every option has a reduced cost ≥ 0, its c + λa above the least of its group, and an
assignment costs the relaxation's bound, plus the reduced costs of its options, plus λ for each unit of the budget that
it leaves. So an assignment within Γ of the bound holds no option of a reduced cost above Γ. For a Γ the program keeps
every undominated pair (budget used, cost) that can stay within it: if it ends with an assignment within Γ, that is the
optimum; if not, Γ grows. Where a large step is split, the rest of the budget is shared out at another price than
λ: the same is done with the multipliers of budgets larger and smaller by fractions of that step, and a pair must stay
within reach under each. Nothing is guessed: a multiplier is any number ≥ 0, its bound exact in integers, and where
floating point compares reduced costs, a margin keeps what is near.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mapper.assignment_model import THEN_LEAST, AssignmentProblem, Quantity, Scaled

FIRST_CORE = 10  # Groups that are undecided at the first Γ.
GROWTH = 1.25  # Of Γ where there is no assignment within it: too much of it means many pairs.
MOST_PAIRS = 40_000_000  # Pairs that a program may look at before the problem is left to CP-SAT.
_MARGIN = 1e-9  # Of what is compared, for the rounding of floating-point sums of reduced costs.
_SHIFTS = (1, 4, 16, 64)  # Budgets that differ by the split step divided by these give further multipliers.

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CoreOptimum:
    """An optimum: its least integer sum, its picks, and the options that any optimum can hold.

    ``settled``: of equal optima it is one with least of ``THEN_LEAST``.
    """

    least: int
    picks: list[int]
    options: list[list[int]]
    settled: bool
    complete = True


def core_optimum(
    problem: AssignmentProblem, minimise: Quantity, scaled: Mapping[str, Scaled]
) -> CoreOptimum | None:
    """The optimum; None where there are terms, several binding budgets, no assignment, or too large a core."""
    if problem.terms:
        return None
    binding = problem.binding_budgets(minimise, scaled)
    if len(binding) > 1:
        return None
    found = _settle(problem, minimise, scaled) if not binding else _core(problem, minimise, binding[0], scaled)
    # A budget that is broken by less than the rounding, or by what is minimised itself, is not for this file.
    return found if found is not None and problem.within_budgets(found.picks) else None


def _settle(problem: AssignmentProblem, minimise: Quantity, scaled: Mapping[str, Scaled]) -> CoreOptimum:
    """Every group takes its least: no budget keeps it from that."""
    picks = [
        min(range(len(row)), key=lambda i: (row[i].amounts[minimise], row[i].amounts[THEN_LEAST[minimise]]))
        for row in problem.options
    ]
    least = sum(row[i] for row, i in zip(scaled[minimise].down, picks, strict=True))
    return CoreOptimum(least, picks, [[i] for i in picks], settled=True)


def _core(
    problem: AssignmentProblem, minimise: Quantity, budget: str, scaled: Mapping[str, Scaled]
) -> CoreOptimum | None:
    costs, uses = scaled[minimise].down, scaled[budget].down
    room = problem.room(budget, scaled[budget])
    multipliers = lagrange_multipliers(costs, uses, room)
    if not multipliers:
        return None
    prices = [_Price.of(costs, uses, room, multiplier) for multiplier in multipliers]
    bound = prices[0].bound
    needed = _thresholds(prices)
    seconds = sorted(sorted(row)[1] for row in needed if len(row) > 1)
    # Every group must have an option, and a few of them two.
    first = seconds[min(FIRST_CORE, len(seconds)) - 1] if seconds else 0.0
    threshold = max(1.0, first, *(min(row) for row in needed))
    pairs = MOST_PAIRS
    while pairs > 0:
        kept = [[i for i, least in enumerate(row) if least <= threshold] for row in needed]
        program = _Program(costs, uses, room, prices, kept, threshold)
        pairs -= program.run(pairs)
        picks = program.best()
        if picks is not None:
            least = sum(row[i] for row, i in zip(costs, picks, strict=True))
            if least - bound <= threshold:
                return CoreOptimum(least, picks, kept, settled=budget == THEN_LEAST[minimise])
        if program.is_whole:
            return None
        threshold *= GROWTH
    return None


def _thresholds(prices: Sequence[_Price]) -> list[list[float]]:
    """For each group and option the Γ below which no assignment within it holds the option, less the margin."""
    lower = [float(prices[0].bound - price.bound) for price in prices]
    found = []
    for rows in zip(*(price.reduced for price in prices), strict=True):
        found.append([
            max(value * (1 - _MARGIN) - less for value, less in zip(values, lower, strict=True))
            for values in zip(*rows, strict=True)
        ])
    return found


def lagrange_multipliers(costs: Sequence[Sequence[int]], uses: Sequence[Sequence[int]], room: int) -> list[Fraction]:
    """Multipliers of the budget where the linear relaxation splits a group, first that of ``room``; none: nothing fits.

    Every group walks down the lower hull of its options from the one that uses least, all groups together in the order
    of what a unit of the budget saves; the step that does not fit any more has the multiplier. The others are those
    of rooms that differ by parts of this step.
    """
    left = room
    steps: list[tuple[float, int]] = []
    for cost_row, use_row in zip(costs, uses, strict=True):
        hull: list[tuple[int, int]] = []
        for use, cost in sorted(zip(use_row, cost_row, strict=True)):
            if hull and cost >= hull[-1][1]:
                continue
            while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (use - hull[-1][0]) >= (cost - hull[-1][1]) * (
                hull[-1][0] - hull[-2][0]
            ):
                hull.pop()
            hull.append((use, cost))
        left -= hull[0][0]
        steps += [((a[1] - b[1]) / (b[0] - a[0]), b[0] - a[0]) for a, b in itertools.pairwise(hull)]
    if left < 0:
        return []
    steps.sort(reverse=True)
    ends = list(itertools.accumulate(use for _, use in steps))

    def multiplier(units: int) -> Fraction:
        split = bisect.bisect_right(ends, units)
        return Fraction(steps[split][0]) if split < len(steps) else Fraction(0)

    split = bisect.bisect_right(ends, left)
    whole = steps[split][1] if split < len(steps) else 0
    shifts = [whole // part for part in _SHIFTS]
    return list(dict.fromkeys(multiplier(left + more) for more in [0, *shifts, *(-each for each in shifts)]))


def reduced_costs(
    costs: Sequence[Sequence[int]], uses: Sequence[Sequence[int]], room: int, multiplier: Fraction
) -> tuple[Fraction, list[list[float]]]:
    """Exact lower bound Σ min(c + λa) − λ·room of the relaxation, and every option's c + λa above its group's least."""
    p, q = multiplier.numerator, multiplier.denominator
    total = -p * room
    reduced = []
    for cost_row, use_row in zip(costs, uses, strict=True):
        values = [q * cost + p * use for cost, use in zip(cost_row, use_row, strict=True)]
        least = min(values)
        total += least
        reduced.append([(value - least) / q for value in values])
    return Fraction(total, q), reduced


class _Price(NamedTuple):
    """A multiplier with its bound and reduced costs."""

    multiplier: float
    bound: Fraction
    reduced: list[list[float]]

    @classmethod
    def of(
        cls, costs: Sequence[Sequence[int]], uses: Sequence[Sequence[int]], room: int, multiplier: Fraction
    ) -> _Price:
        return cls(float(multiplier), *reduced_costs(costs, uses, room, multiplier))


class _Step(NamedTuple):
    """For each pair after a group: the pair that it came from, and the option that was taken."""

    group: int
    parents: npt.NDArray[np.int64]
    options: npt.NDArray[np.int64]


class _Program:
    """Undominated pairs (budget used, cost) of assignments within a threshold of the first price's bound.

    ``kept``: options that such assignments can hold, at least one a group. ``is_whole``: that are all there are.
    """

    def __init__(
        self, costs: Sequence[Sequence[int]], uses: Sequence[Sequence[int]], room: int, prices: Sequence[_Price],
        kept: Sequence[Sequence[int]], threshold: float,
    ) -> None:
        self._multipliers = np.array([price.multiplier for price in prices])
        self._limits = np.array([(threshold + float(prices[0].bound - price.bound)) for price in prices])
        self._limits += _MARGIN * np.abs(self._limits)
        self.kept = kept
        self.is_whole = all(len(row) == len(few) for row, few in zip(costs, self.kept, strict=True))
        self._room = room
        self._steps: list[_Step] = []
        self._pairs: tuple[Ints, Ints] | None = None
        self._rows = {
            g: (*(np.array([row[g][i] for i in few], dtype=np.int64) for row in (costs, uses)),
                np.array([[price.reduced[g][i] for i in few] for price in prices]))
            for g, few in enumerate(self.kept)
        }

    def run(self, most: int) -> int:
        """Run over all groups; gives up beyond ``most`` pairs. Returns the pairs that were looked at."""
        rows = self._rows
        decided = [g for g, few in enumerate(self.kept) if len(few) == 1]
        # What is decided counts from the start.
        over = sum((rows[g][2][:, 0] for g in decided), np.zeros(len(self._limits)))[:, None]
        use = np.array([sum(int(rows[g][1][0]) for g in decided)])
        cost = np.zeros(1, np.int64)
        # Groups that move the budget most come first: the others cannot make good for what these leave unused.
        order = sorted(set(rows) - set(decided), key=lambda g: -int(np.ptp(rows[g][1])))
        least_use = sum(int(rows[g][1].min()) for g in order)
        most_use = sum(int(rows[g][1].max()) for g in order)
        seen = 0
        for g in order:
            costs, uses, reduced = rows[g]
            seen += len(cost) * len(costs)
            if seen > most:
                return seen
            least_use -= int(uses.min())
            most_use -= int(uses.max())
            use_then = np.add.outer(use, uses).ravel()
            cost_then = np.add.outer(cost, costs).ravel()
            # Whatever comes, so much of the budget stays unused, and costs the multiplier.
            unused = np.maximum(self._room - most_use - use_then, 0)
            within = use_then + least_use <= self._room
            over_then = np.empty((len(over), len(use_then)))
            for number, (before, more) in enumerate(zip(over, reduced, strict=True)):
                over_then[number] = np.add.outer(before, more).ravel()
                within &= over_then[number] + self._multipliers[number] * unused <= self._limits[number]
            stays = np.flatnonzero(within)
            stays = stays[np.lexsort((cost_then[stays], use_then[stays]))]
            # In the order of use, a pair stands if it costs less than all before it.
            ordered = cost_then[stays]
            if len(ordered):
                stays = stays[np.concatenate(([True], ordered[1:] < np.minimum.accumulate(ordered)[:-1]))]
            cost, use, over = cost_then[stays], use_then[stays], over_then[:, stays]
            self._steps.append(_Step(g, stays // len(costs), stays % len(costs)))
            if len(cost) == 0:
                return seen
        if int(use.min()) <= self._room:
            self._pairs = cost, use
        return max(seen, 1)

    def best(self) -> list[int] | None:
        """Picks of the cheapest pair that is left, of equal ones that which uses least; None where none is."""
        if self._pairs is None:
            return None
        cost, _ = self._pairs
        pair = int(np.argmin(cost))
        picks = [row[0] for row in self.kept]
        for step in reversed(self._steps):
            picks[step.group] = self.kept[step.group][int(step.options[pair])]
            pair = int(step.parents[pair])
        return picks
