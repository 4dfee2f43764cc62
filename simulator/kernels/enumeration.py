"""All choices whose closed-form cost lies below a limit: branch and bound over trees of each block's rows.

At a node each block is down to some of its rows, which stand at their best in each term on its own: that bounds the
cost of all choices of these rows. The block is cut (``row_trees``) of which that raises the bounds most. What is found
on the way to be too dear, or to fit no axis, is left out of the node before it is cut.
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np
import numpy.typing as npt

from simulator.kernels.choice_cost import LATENCY, MASKS, CostInput, choice_cost, new_scratch
from simulator.kernels.compiled import inner
from simulator.kernels.dominance import non_dominated
from simulator.kernels.row_trees import RowTrees, row_trees

Ints = npt.NDArray[np.int64]


@inner()
def _smallest_factors(m, alive, smallest):
    """Set, for each block, the smallest factor of each term among the rows that are alive (inf without any)."""
    for b in range(smallest.shape[0]):
        for t in range(smallest.shape[1]):
            least = np.inf
            for row in range(m.block_start[b], m.block_start[b + 1]):
                if alive[row]:
                    least = min(least, m.factors[row, t])
            smallest[b, t] = least


@numba.njit(cache=True)
def surviving_rows(m, below, alive, bound, smallest):
    """Clear ``alive`` of the rows that can be no part of a choice that costs less than ``below``.

    Sets ``bound`` (rows,), of the cost of every choice with a row that is alive, and ``smallest`` (blocks, terms), the
    smallest factors of these rows. Returns whether every block has one left.
    """
    blocks, terms = smallest.shape
    scratch, by_mask = new_scratch(m), np.empty(MASKS)
    others, value = np.empty(terms), np.empty(terms)
    changed = True
    while changed:
        changed = False
        _smallest_factors(m, alive, smallest)
        for b in range(blocks):
            for t in range(terms):
                others[t] = m.coefficient[t]
                for other in range(blocks):
                    if other != b:
                        others[t] *= smallest[other, t]
            left = 0
            for row in range(m.block_start[b], m.block_start[b + 1]):
                if not alive[row]:
                    continue
                for t in range(terms):
                    value[t] = max(m.floor[t], others[t] * m.factors[row, t])
                bound[row], _ = choice_cost(m, value, scratch, by_mask)
                if bound[row] < below:
                    left += 1
                else:
                    alive[row] = False
                    changed = True
            if left == 0:
                return False
    return True


@inner()
def _sift(cost, place, count, rows, masks):
    """Restore the order of the heap (dearest on top) below ``place``."""
    while True:
        child = 2 * place + 1
        if child >= count:
            return
        if child + 1 < count and cost[child + 1] > cost[child]:
            child += 1
        if cost[place] >= cost[child]:
            return
        cost[place], cost[child] = cost[child], cost[place]
        masks[place], masks[child] = masks[child], masks[place]
        for b in range(rows.shape[1]):
            rows[place, b], rows[child, b] = rows[child, b], rows[place, b]
        place = child


def least_cost(m: CostInput) -> float:
    """A lower bound of all choices' costs: of each block the best row, with the other blocks at their best."""
    alive, bound = np.ones(len(m.factors), dtype=np.bool_), np.zeros(len(m.factors))
    smallest = np.empty((len(m.block_start) - 1, m.factors.shape[1]))
    surviving_rows(m, np.inf, alive, bound, smallest)
    return max(float(bound[a:b].min()) for a, b in zip(m.block_start[:-1], m.block_start[1:], strict=True))


def enumerate_choices(
    m: CostInput, below: float, most: int, node_limit: int, undominated: bool = False, stop: Ints | None = None,
    *, survivors: bool = True, clustered: bool = True,
) -> tuple[Ints, Ints, npt.NDArray[np.float64], float, bool]:
    """Find the ``most`` cheapest pairs of choice and double buffering that cost less than ``below``.

    Returns (rows (found, blocks), double-buffer bits, costs, floor, finished). No choice costs less than ``floor``
    but those that were found. Where it is not ``finished``, the search gave up after ``node_limit`` nodes, and what
    was found is not the cheapest.
    ``undominated``: of rows of which one is at most another in every term, only that one is tried. The cheapest cost
    is the same then, and sooner found; other choices may be missing.
    ``stop`` (1,): where another thread sets it to other than 0, the search gives up too.
    ``survivors``: rows that can be in no choice below ``below`` are dropped first; ``clustered``: rows that resemble
    each other stand together in the trees. Without them the search is slower, and what it finds the same.
    """
    blocks, terms = len(m.block_start) - 1, m.factors.shape[1]
    alive, bound = np.ones(len(m.factors), dtype=np.bool_), np.zeros(len(m.factors))
    smallest = np.empty((blocks, terms))
    rows, masks, costs = np.empty((most, blocks), dtype=np.int64), np.empty(most, dtype=np.int64), np.empty(most)
    if not surviving_rows(m, below if survivors else np.inf, alive, bound, smallest):
        return rows[:0], masks[:0], costs[:0], below, True
    own = [np.flatnonzero(alive[a:b]) + a for a, b in zip(m.block_start[:-1], m.block_start[1:], strict=True)]
    if undominated:
        tables = [np.column_stack([m.factors[kept].astype(np.int64), m.axis_use[kept]]) for kept in own]
        own = [kept[non_dominated(table)] for kept, table in zip(own, tables, strict=True)]
    count, floor, finished = _branch(
        m, below, node_limit, row_trees(m, own, clustered=clustered), rows, masks, costs,
        np.zeros(1, dtype=np.int64) if stop is None else stop,
    )
    return rows[:count], masks[:count], costs[:count], floor, finished


@cache
def compile_enumeration() -> None:
    """Have Numba compile the search, or load it; once in a process."""
    tiny = CostInput(
        factors=np.ones((1, 1)), block_start=np.array([0, 1]), axis_use=np.ones((1, 1), dtype=np.int64),
        axis_size=np.ones(1, dtype=np.int64), coefficient=np.ones(1), floor=np.zeros(1),
        kind=np.zeros(1, dtype=np.int64), operand=np.zeros(1, dtype=np.int64), capacity=np.zeros(1, dtype=np.int64),
        capacity_size=np.ones(1), capacity_doubles=np.zeros((1, 3), dtype=np.bool_),
        may_double=np.zeros(3, dtype=np.bool_), grid_constant=0.0, channel_constant=0.0, final_constant=0.0,
        energy_constant=0.0, paced_constant=-np.inf, leakage=0.0, single_constant=np.zeros(3), objective=LATENCY,
        latency_limit=np.inf, energy_limit=np.inf,
    )
    enumerate_choices(tiny, np.inf, 1, 1)


@inner()
def _fits(m, trees, here, block, node):
    """Whether some rows below ``here``, and of ``block`` below ``node``, may fit the axes together."""
    for a in range(m.axis_size.shape[0]):
        used = trees.axis_use[node, a]
        for other in range(here.shape[0]):
            if other != block:
                used *= trees.axis_use[here[other], a]
        if used > m.axis_size[a]:
            return False
    return True


@inner()
def _keep(m, trees, here, by_mask, limit, count, rows, masks, cost):
    """Put the one choice below ``here`` into the heap of the cheapest, with each set of double-buffered operands that
    costs less than ``limit``. Returns (found, limit)."""
    most, blocks = cost.shape[0], here.shape[0]
    for mask in range(MASKS):
        if not by_mask[mask] < limit:
            continue
        if count < most:
            # Sift up.
            place = count
            count += 1
            while place > 0 and cost[(place - 1) // 2] < by_mask[mask]:
                parent = (place - 1) // 2
                cost[place], masks[place] = cost[parent], masks[parent]
                for b in range(blocks):
                    rows[place, b] = rows[parent, b]
                place = parent
        else:
            place = 0
        cost[place] = by_mask[mask]
        masks[place] = mask
        for b in range(blocks):
            rows[place, b] = trees.row[here[b]] - m.block_start[b]
        if place == 0:
            _sift(cost, place, count, rows, masks)
        if count == most:
            limit = min(limit, cost[0])
    return count, limit


@numba.njit(cache=True, nogil=True)
def _branch(m, below, node_limit, trees, rows, masks, cost, stop):
    """Fill ``rows``, ``masks``, ``cost`` with the cheapest choices. Returns (found, floor, finished)."""
    blocks, terms = trees.root.shape[0], m.factors.shape[1]
    # Each step down goes down in one tree, and leaves one node behind.
    stack = np.empty((trees.row.shape[0] + 2, blocks), dtype=np.int64)
    bound = np.empty(stack.shape[0])
    here = np.empty(blocks, dtype=np.int64)
    others, value = np.empty(terms), np.empty(terms)
    halves = np.empty(2)
    scratch, by_mask = new_scratch(m), np.empty(MASKS)
    limit = below
    count, nodes, last = 0, 0, blocks - 1
    stack[0] = trees.root
    bound[0] = -np.inf
    depth = 1
    while depth > 0:
        depth -= 1
        if not bound[depth] < limit:
            continue
        nodes += 1
        if nodes > node_limit or (nodes & 255 == 0 and stop[0] != 0):
            floor = limit
            for place in range(depth + 1):
                floor = min(floor, bound[place])
            return count, floor, False
        for b in range(blocks):
            here[b] = stack[depth, b]
        cut, lower, higher = -1, -np.inf, -np.inf
        lower_first = True
        possible = True
        for b in range(blocks):
            if trees.first[here[b]] < 0:
                continue
            for t in range(terms):
                others[t] = m.coefficient[t]
                for other in range(blocks):
                    if other != b:
                        others[t] *= trees.least[here[other], t]
            while trees.first[here[b]] >= 0:
                for half in range(2):
                    node = trees.first[here[b]] + half
                    halves[half] = np.inf
                    if _fits(m, trees, here, b, node):
                        for t in range(terms):
                            value[t] = max(m.floor[t], others[t] * trees.least[node, t])
                        halves[half], _ = choice_cost(m, value, scratch, by_mask)
                if halves[0] < limit and halves[1] < limit:
                    break
                if not (halves[0] < limit or halves[1] < limit):
                    possible = False
                    break
                here[b] = trees.first[here[b]] + (0 if halves[0] < limit else 1)
            if not possible:
                break
            if trees.first[here[b]] < 0:
                continue
            low, high = min(halves[0], halves[1]), max(halves[0], halves[1])
            if low > lower or (low == lower and high > higher):
                cut, lower, higher, lower_first = b, low, high, halves[0] <= halves[1]
        if not possible:
            continue
        if cut >= 0:
            for half in range(2):
                for b in range(blocks):
                    stack[depth, b] = here[b]
                # The cheaper half last: it comes off the stack first.
                stack[depth, cut] = trees.first[here[cut]] + (1 - half if lower_first else half)
                bound[depth] = higher if half == 0 else lower
                depth += 1
        elif _fits(m, trees, here, last, here[last]):
            for t in range(terms):
                value[t] = m.coefficient[t]
                for b in range(blocks):
                    value[t] *= trees.least[here[b], t]
            choice_cost(m, value, scratch, by_mask)
            count, limit = _keep(m, trees, here, by_mask, limit, count, rows, masks, cost)
    return count, limit, True


__all__ = ["RowTrees", "compile_enumeration", "enumerate_choices", "least_cost", "surviving_rows"]
