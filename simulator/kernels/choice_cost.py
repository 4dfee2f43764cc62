"""The closed-form cost of one choice of the search: a row of each block (``mapper.cost_terms``).

The terms lie in one table: ``factors[row, term]``, blocks below one another; a term's value is its coefficient times
the factor of one row of each block. A term's kind says what it adds to. The cost grows with every term, so the same
function of lower bounds of the terms is a lower bound of the cost.
"""

from __future__ import annotations

from collections import namedtuple

import numba
import numpy as np

GRID, CHANNEL, FINAL, ENERGY, DOUBLED, SINGLE, TILE, PACED = range(8)
LATENCY, ENERGY_COST, EDP = range(3)
MASKS = 8  # sets of double-buffered operands, one bit an operand

CostInput = namedtuple(
    "CostInput",
    [
        "factors",  # (rows, terms) float64
        "block_start",  # (blocks + 1,)
        "axis_use",  # (rows, axes) int64
        "axis_size",  # (axes,)
        "coefficient",  # (terms,)
        "floor",  # (terms,) what a term's value is at least, in whatever choice
        "kind",  # (terms,)
        "operand",  # (terms,) of DOUBLED, SINGLE, TILE terms
        "capacity",  # (terms,) of TILE terms
        "capacity_size",  # (capacities,)
        "capacity_doubles",  # (capacities, 3) whether an operand's tile may be kept twice
        "may_double",  # (3,)
        "grid_constant", "channel_constant", "final_constant", "energy_constant",
        "paced_constant",  # -inf where there are no PACED terms
        "leakage",  # added to the energy for each cycle of latency
        "single_constant",  # (3,)
        "objective",
        "latency_limit", "energy_limit",  # a choice beyond one of them costs inf; inf: no limit
    ],
)


@numba.njit(cache=True)
def new_scratch(m):
    """Room that ``choice_cost`` works in, so that it allocates nothing."""
    return np.empty((2 + m.capacity_size.shape[0], 3))


@numba.njit(cache=True)
def _fits_twice(m, scratch, mask):
    """Whether every memory has room for two tiles of each operand of ``mask`` that it may keep twice."""
    for c in range(m.capacity_size.shape[0]):
        need = 0.0
        for operand in range(3):
            twice = m.capacity_doubles[c, operand] and (mask >> operand) & 1
            need += scratch[2 + c, operand] * (2 if twice else 1)
        if need > m.capacity_size[c] * (1 + 1e-12):
            return False
    return True


@numba.njit(cache=True)
def choice_cost(m, value, scratch, by_mask):
    """Cost of one choice from its terms' values; inf where it does not fit.

    Returns (cost, double-buffered operands as bits) of the cheapest set of double-buffered operands, and leaves the
    cost with each set in ``by_mask`` (``MASKS``,). Energy without leakage does not depend on double buffering: there
    only the empty set counts, unless latency is limited.
    """
    grid, channel, final, energy = m.grid_constant, m.channel_constant, m.final_constant, m.energy_constant
    paced = m.paced_constant
    for place in range(scratch.shape[0]):
        for operand in range(3):
            scratch[place, operand] = m.single_constant[operand] if place == 1 else 0.0
    for t in range(value.shape[0]):
        kind = m.kind[t]
        if kind == GRID:
            grid += value[t]
        elif kind == PACED:
            paced += value[t]
        elif kind == CHANNEL:
            channel += value[t]
        elif kind == FINAL:
            final += value[t]
        elif kind == ENERGY:
            energy += value[t]
        elif kind == DOUBLED:
            scratch[0, m.operand[t]] += value[t]
        elif kind == SINGLE:
            scratch[1, m.operand[t]] += value[t]
        else:
            scratch[2 + m.capacity[t], m.operand[t]] += value[t]
    grid, channel = max(grid, paced), max(channel, final)
    best = np.inf
    best_mask = 0
    for mask in range(MASKS):
        by_mask[mask] = np.inf
    once_only = MASKS - 1  # operands of which no tile may be kept twice, one bit an operand
    for operand in range(3):
        if m.may_double[operand]:
            once_only -= 1 << operand
    together = False  # whether two operands may be kept twice in one memory
    for c in range(m.capacity_size.shape[0]):
        one, two, three = scratch[2 + c, 0], scratch[2 + c, 1], scratch[2 + c, 2]
        size = m.capacity_size[c] * (1 + 1e-12)
        # What does not fit once does not fit twice.
        if one + two + three > size:
            return best, best_mask
        twice = 0
        if m.capacity_doubles[c, 0]:
            twice += 1
            if one * 2 + two + three > size:
                once_only |= 1
        if m.capacity_doubles[c, 1]:
            twice += 1
            if one + two * 2 + three > size:
                once_only |= 2
        if m.capacity_doubles[c, 2]:
            twice += 1
            if one + two + three * 2 > size:
                once_only |= 4
        together |= twice > 1
    for mask in range(MASKS):
        if mask & once_only:
            continue
        if mask > 0 and m.objective == ENERGY_COST and m.leakage == 0.0 and m.latency_limit == np.inf:
            continue
        if together and not _fits_twice(m, scratch, mask):
            continue
        exposed = 0.0
        for operand in range(3):
            exposed += scratch[1 - ((mask >> operand) & 1), operand]
        latency = max(grid + exposed, channel)
        with_leakage = energy + m.leakage * latency
        if latency > m.latency_limit or with_leakage > m.energy_limit:
            continue
        if m.objective == LATENCY:
            cost = latency
        elif m.objective == ENERGY_COST:
            cost = with_leakage
        else:
            cost = latency * with_leakage
        by_mask[mask] = cost
        if cost < best:
            best = cost
            best_mask = mask
    return best, best_mask
