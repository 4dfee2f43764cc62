"""Exact assignment with terms and one binding budget: a dynamic program along a path decomposition.

Groups are decided one after the other. A group stays in the *frontier* as long as a term that it is in waits for
another group, so what is known of those decided is a state: the classes of the frontier's options (Bodlaender, Theor.
Comput. Sci. 209, 1998: path decompositions; in chains of neighbours the frontier is one group). Without the budget the
cheapest assignment is a shortest path through the states. With a Lagrange multiplier λ of the budget that path gives
a lower bound, and from the end of the network the least that is still to come in every state. As in
``assignment_core`` the budget itself is then settled by a program that keeps, for each state, every undominated pair
(budget used, cost) which can still end within Γ of the best bound, under each of several multipliers. If it ends with
an assignment within Γ, that is the optimum; if not, Γ grows, at most to the distance of the best assignment that the
paths have shown. Costs, uses and bounds are 64-bit integers that cannot overflow. Where real numbers were rounded down
to integers, pairs carry what rounding took from their use: without it the cheapest assignment of thousands of layers
would often break its budget by a little. That part is a floating-point number; the result is checked on exact sums.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mapper.assignment_model import THEN_LEAST, AssignmentProblem, Quantity, Scaled
from mapper.assignment_options import Term

MOST_STATES = 4096  # Of a frontier. Wider ones are left to CP-SAT.
MOST_ENTRIES = 20_000_000  # Of all steps' tables together.
MOST_PAIRS = 40_000_000  # That a program may look at before the problem is left to CP-SAT.
MULTIPLIER_STEPS = 40  # Paths that are sought for the best multiplier; each one is a bound.
FIRST_PART = 2**14  # The first Γ is this part of the distance of the best assignment known from the bound.
GROWTH = 2  # Of Γ where there is no assignment within it; its square after a program of few pairs.
FEW_PAIRS = 200_000
_PARTS = (1, 4, 16)  # Of what a split step leaves or lacks: rooms that far from its ends give further multipliers.
_BITS = 61  # Sums of multiplied costs and uses stay below 2 to this power.
_MARGIN = 1e-6  # Of a unit of the budget, for the rounding of floating-point sums of what rounding took.

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PathOptimum:
    """An optimum: its least integer sum, and its picks. Or, not ``complete``, a lower bound and some picks or none.

    ``settled``: of equal optima it is one with least of ``THEN_LEAST``.
    """

    least: int
    picks: list[int] | None
    settled: bool
    complete: bool


def path_optimum(problem: AssignmentProblem, minimise: Quantity, scaled: Mapping[str, Scaled]) -> PathOptimum | None:
    """The optimum; None without terms, with several binding budgets, no assignment, or too wide a frontier.

    What is not ``complete`` had too many pairs, or breaks a budget by less than the numbers here can tell.
    """
    if not problem.terms:
        return None
    binding = problem.binding_budgets(minimise, scaled)
    if len(binding) > 1:
        return None
    costs = scaled[minimise].down
    # Without a budget what comes second takes its place, with room for all of it.
    budget = binding[0] if binding else THEN_LEAST[minimise]
    uses = scaled[budget].down
    room = problem.room(budget, scaled[budget]) if binding else sum(max(row) for row in uses)
    steps = _steps(problem, costs, uses, _remainders(problem, budget, scaled[budget]))
    if steps is None or room < 0:
        return None
    # What rounding down took of the room.
    room_rest = float(problem.exact_room(budget, scaled[budget]) - room) if binding else 1.0
    program = _Program(steps, room, room_rest)
    found = program.optimum()
    if found is None:
        return None
    least, picks, is_optimum = found
    is_within = problem.within_budgets(picks)
    return PathOptimum(
        least, picks if is_within else None, settled=is_within and is_optimum and budget == THEN_LEAST[minimise],
        complete=is_within and is_optimum,
    )


def _remainders(problem: AssignmentProblem, name: str, scaled: Scaled) -> list[list[float]] | None:
    """What rounding down took of each entry of a quantity, in units, 0 … 1; None where nothing was."""
    if scaled.exact:
        return None
    rows = [[option.amounts[name] for option in options] for options in problem.options]
    if name == "cost":
        rows += [list(term.costs) for term in problem.terms]
    found = []
    for row, wholes in zip(rows, scaled.down, strict=False):
        least = min(row)
        found.append([float((value - least) / scaled.unit - whole) for value, whole in zip(row, wholes, strict=True)])
    return found + [[0.0] * len(wholes) for wholes in scaled.down[len(rows):]]


class _Step(NamedTuple):
    """One group decided: tables [states before, options] of the state after, and of the cost and use that are added.

    ``rest``: what rounding took of the use.
    """

    group: int
    after: npt.NDArray[np.int32]
    cost: Ints
    use: Ints
    rest: Floats | None


def decided_in(terms: Sequence[Term], count: int, moved: Sequence[int]) -> list[int]:
    """An order of the groups with a narrow frontier: components one after the other, those first that move most.

    Inside a component next comes, among the groups that a term joins to those decided, the one that leaves fewest
    options in the frontier. ``moved``: how far each group moves the budget; pairs are fewer where the others can make
    good for what the first ones leave unused.
    """
    neighbours: list[set[int]] = [set() for _ in range(count)]
    for term in terms:
        for group in term.groups:
            neighbours[group] |= set(term.groups) - {group}
    waiting = set(range(count))
    components: list[list[int]] = []
    while waiting:
        start = min(waiting)
        component, reached = [], {start}
        frontier: set[int] = set()
        while reached:
            def width(group: int, frontier: set[int] = frontier) -> tuple[int, int]:
                after = {g for g in frontier | {group} if neighbours[g] & waiting - {group}}
                return len(after), group

            group = min(reached, key=width)
            waiting.discard(group)
            component.append(group)
            frontier = {g for g in frontier | {group} if neighbours[g] & waiting}
            reached = (reached | neighbours[group]) & waiting
        components.append(component)
    components.sort(key=lambda component: -sum(moved[group] for group in component))
    return [group for component in components for group in component]


def _steps(
    problem: AssignmentProblem, costs: Sequence[Sequence[int]], uses: Sequence[Sequence[int]],
    remainders: Sequence[Sequence[float]] | None,
) -> list[_Step] | None:
    """The tables of every step; None where a frontier has too many states."""
    count = len(problem.groups)
    order = decided_in(problem.terms, count, [max(row) - min(row) for row in uses[:count]])
    place = {group: number for number, group in enumerate(order)}
    last = [max(place[group] for group in term.groups) for term in problem.terms]
    of_group: list[list[int]] = [[] for _ in range(count)]
    for number, term in enumerate(problem.terms):
        for group in term.groups:
            of_group[group].append(number)

    # Frontier: group → (signature of each state, class of each signature in each term that waits).
    frontier: dict[int, tuple[Ints, dict[int, Ints]]] = {}
    steps: list[_Step] = []
    states, entries = 1, 0
    for now, group in enumerate(order):
        options = len(problem.options[group])
        entries += states * options
        if entries > MOST_ENTRIES:
            return None
        cost = np.tile(np.array(costs[group], np.int64), (states, 1))
        use = np.tile(np.array(uses[group], np.int64), (states, 1))
        rest = None if remainders is None else np.tile(np.array(remainders[group]), (states, 1))
        own = {number: np.array(problem.terms[number].classes[problem.terms[number].groups.index(group)])
               for number in of_group[group]}
        for number in of_group[group]:
            if last[number] != now:
                continue
            term = problem.terms[number]
            axes = tuple(
                own[number][None, :] if g == group else frontier[g][1][number][frontier[g][0]][:, None]
                for g in term.groups
            )
            cost += _dense(term, costs[count + number])[axes]
            use += _dense(term, uses[count + number])[axes]
            if rest is not None and remainders is not None:
                rest += _dense(term, remainders[count + number], np.float64)[axes]
        # Signatures after this step, of those groups for which a term still waits.
        after = np.zeros((states, options), np.int64)
        size = 1
        kept: dict[int, tuple[dict[int, Ints], int]] = {}  # classes, and the scale of the signature in the state
        for g in [*frontier, group]:
            waits = [number for number in of_group[g] if last[number] > now]
            if not waits:
                continue
            classes = own if g == group else frontier[g][1]
            rows, renamed = np.unique(np.stack([classes[number] for number in waits], axis=1), axis=0,
                                      return_inverse=True)
            renamed = renamed.ravel()
            after += size * (renamed[None, :] if g == group else renamed[frontier[g][0]][:, None])
            kept[g] = {number: rows[:, i] for i, number in enumerate(waits)}, size
            size *= len(rows)
            if size > MOST_STATES:
                return None
        every = np.arange(size)
        frontier = {
            g: (every // scale % len(next(iter(classes.values()))), classes)
            for g, (classes, scale) in kept.items()
        }
        steps.append(_Step(group, after.astype(np.int32), cost, use, rest))
        states = size
    return steps


def _dense(term: Term, values: Sequence[float], dtype: type = np.int64) -> npt.NDArray[Any]:
    """The amounts of a term as an array, an axis a group."""
    shape = tuple(max(classes) + 1 for classes in term.classes)
    table: npt.NDArray[Any] = np.zeros(shape, dtype)
    for combination, value in zip(term.combinations, values, strict=True):
        table[combination] = value
    return table


class _Price(NamedTuple):
    """A multiplier p / q with its exact bound, and what is least to come of q·cost + p·use, by step and state."""

    p: int
    q: int
    bound: int
    to_come: list[Ints]


class _Point(NamedTuple):
    """A whole path: its cost, what it uses of the budget, and the pick of each step."""

    cost: int
    use: int
    options: list[int]


class _Program:
    """Paths through the states, without and with the budget."""

    def __init__(self, steps: Sequence[_Step], room: int, room_rest: float) -> None:
        self.steps, self.room, self.room_rest = steps, room, room_rest
        self.most_cost = sum(int(step.cost.max()) for step in steps) + 1
        ends = [int(step.use.max() if step.rest is None else (step.use + np.ceil(step.rest)).max()) for step in steps]
        self.most_use = max(sum(ends), room) + 1
        # What all steps behind a step use at most.
        self.most_behind = [sum(ends) - done for done in itertools.accumulate(ends)]

    def optimum(self) -> tuple[int, list[int], bool] | None:
        """Least cost, picks, True; where pairs are too many, a bound, picks that cost more, False.

        None where nothing keeps the budget.
        """
        least_use = self._to_come(1, 0)
        if int(least_use[0][0]) > self.room:
            return None
        self._seen = [self._path(0, 1, self._to_come(0, 1)), self._path(1, 0, least_use)]
        prices, ends = self._prices(self.room)
        bound = prices[0].bound
        pairs, threshold, is_refined = MOST_PAIRS, (self._best().cost - bound) // FIRST_PART, False
        while True:
            most = pairs if is_refined else min(pairs, FEW_PAIRS)
            found, seen = self._run(prices, least_use, bound + threshold, most)
            pairs -= seen
            if found is not None:
                return (*found, True)
            top = self._best()
            if pairs < 0 or (seen <= FEW_PAIRS and bound + threshold >= top.cost):
                return bound, self._in_groups(top.options), False
            if seen > FEW_PAIRS and not is_refined:
                # Where a large step is split, the others have to make good for what its one end leaves of the budget,
                # or its other end lacks, and that at other prices.
                for part in _PARTS:
                    for room in (ends[0] - (ends[1] - self.room) // part, ends[1] + (self.room - ends[0]) // part):
                        prices += self._prices(room)[0][:1]
                is_refined = True
                continue
            threshold = min(top.cost - bound, max(1, threshold * (GROWTH if seen > FEW_PAIRS else GROWTH**2)))

    def _best(self) -> _Point:
        """The cheapest path seen that keeps the budget."""
        return min((each for each in self._seen if each.use <= self.room), key=lambda each: each.cost)

    def _in_groups(self, options: Sequence[int]) -> list[int]:
        picks = [0] * len(self.steps)
        for step, option in zip(self.steps, options, strict=True):
            picks[step.group] = option
        return picks

    def _to_come(self, p: int, q: int) -> list[Ints]:
        """Least of q·cost + p·use from each step on, by the state before it; behind the last one 0."""
        found = [np.zeros(1, np.int64)]
        for step in reversed(self.steps):
            found.append((q * step.cost + p * step.use + found[-1][step.after]).min(axis=1))
        return found[::-1]

    def _path(self, p: int, q: int, to_come: Sequence[Ints]) -> _Point:
        """A path of least q·cost + p·use."""
        state, cost, use = 0, 0, 0
        options = []
        for step, behind in zip(self.steps, to_come[1:], strict=True):
            after = step.after[state]
            option = int(np.argmin(q * step.cost[state] + p * step.use[state] + behind[after]))
            options.append(option)
            cost, use = cost + int(step.cost[state, option]), use + int(step.use[state, option])
            state = int(after[option])
        return _Point(cost, use, options)

    def _prices(self, room: int) -> tuple[list[_Price], tuple[int, int]]:
        """Multipliers for a room, that of the best bound first, and what the two ends use of the step that it splits.

        Between a path that keeps the budget and a cheaper one that does not, the next multiplier is that at which both
        are worth the same, until no path is worth less: the breakpoints of the Lagrangian dual.
        """
        over = max((each for each in self._seen if each.use > room), key=lambda each: each.cost, default=None)
        within = min((each for each in self._seen if each.use <= room), key=lambda each: each.cost, default=None)
        if over is None or within is None:
            return [self._price(0, 1)], (room, room)
        prices = []
        for _ in range(MULTIPLIER_STEPS):
            if over.cost >= within.cost:
                break
            p, q = self._multiplier(Fraction(within.cost - over.cost, over.use - within.use))
            price = self._price(p, q)
            prices.append(price)
            point = self._path(p, q, price.to_come)
            self._seen.append(point)
            if q * point.cost + p * point.use >= min(q * end.cost + p * end.use for end in (over, within)):
                break
            if point.use <= room:
                within = point
            else:
                over = point
        prices = sorted(prices, key=lambda each: -each.bound)[:2] or [self._price(0, 1)]
        return prices, (within.use, over.use)

    def _multiplier(self, wanted: Fraction) -> tuple[int, int]:
        """p and q with p / q near what is wanted, so that no sum overflows. Any multiplier gives a true bound."""
        q = 1 << max(0, _BITS - 1 - max(self.most_cost, math.ceil(wanted * self.most_use)).bit_length())
        return min(round(wanted * q), (1 << _BITS - 1) // self.most_use), q

    def _price(self, p: int, q: int) -> _Price:
        to_come = self._to_come(p, q)
        return _Price(p, q, -(-(int(to_come[0][0]) - p * self.room) // q), to_come)

    def _run(
        self, prices: Sequence[_Price], least_use: Sequence[Ints], limit: int, most: int
    ) -> tuple[tuple[int, list[int]] | None, int]:
        """The optimum if it costs at most ``limit``, of equal ones that which uses least; and the pairs looked at."""
        state, cost, use = np.zeros(1, np.int32), np.zeros(1, np.int64), np.zeros(1, np.int64)
        rest = np.zeros(1)
        taken: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int16]]] = []
        seen = 0
        for number, step in enumerate(self.steps):
            options = step.cost.shape[1]
            seen += len(state) * options
            if seen > most:
                return None, seen
            cost_then = (cost[:, None] + step.cost[state]).ravel()
            use_then = (use[:, None] + step.use[state]).ravel()
            state_then = step.after[state].ravel()
            if step.rest is not None:
                rest_then = (rest[:, None] + step.rest[state]).ravel()
                carried = np.floor(rest_then)
                use_then += carried.astype(np.int64)
                rest_then -= carried
                left = self.room - use_then - least_use[number + 1][state_then]
                within = (left > 0) | (left == 0) & (rest_then <= self.room_rest + _MARGIN)
            else:
                rest_then = np.zeros(len(use_then))
                within = use_then + least_use[number + 1][state_then] <= self.room
            # Whatever comes, so much of the budget stays unused, and costs the multiplier.
            used = np.maximum(use_then, self.room - self.most_behind[number])
            for price in prices:
                worth = price.q * cost_then + price.p * used + price.to_come[number + 1][state_then]
                within &= worth <= price.q * limit + price.p * self.room
            stays = np.flatnonzero(within)
            stays = stays[np.lexsort((cost_then[stays], rest_then[stays], use_then[stays], state_then[stays]))]
            if len(stays) == 0:
                return None, seen
            # In the order of use, a pair of a state stands if it costs less than all before it in this state.
            ordered = cost_then[stays] - state_then[stays].astype(np.int64) * self.most_cost
            stays = stays[np.concatenate(([True], ordered[1:] < np.minimum.accumulate(ordered)[:-1]))]
            cost, use, state, rest = cost_then[stays], use_then[stays], state_then[stays], rest_then[stays]
            taken.append(((stays // options).astype(np.int32), (stays % options).astype(np.int16)))
        # One state is left at the end, its pairs in the order of use.
        pair = len(cost) - 1
        least = int(cost[pair])
        options_taken = []
        for parents, option in reversed(taken):
            options_taken.append(int(option[pair]))
            pair = int(parents[pair])
        return (least, self._in_groups(options_taken[::-1])), max(seen, 1)
