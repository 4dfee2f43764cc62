"""Search over loop nests whose costs are products over independent groups of dimensions: exact fronts.

Every quantity (bits of one flow, room in one memory, temporal steps) is a product of one factor from each group, so a
nest is a choice of one option from each group. Both searches walk the groups depth first with the products so far;
``upper`` fills a front for each tile of the array, ``lower`` one front for the layer.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from simulator.kernels.compiled import inner

# Two floats closer than this are equal: sums of the same terms in another order differ in their last digits.
TOLERANCE = 1e-12

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class UpperInput(NamedTuple):
    """What ``upper`` walks. Options of all groups lie one after the other, sorted by group, then by tile.

    ``start[g, t]`` is the first option of group g at its tile number t, and ``start[g, tiles[g]]`` one past its last.
    ``traffic`` and ``room`` (options, 3): factors of each operand's bits and room. ``slides`` (options): 1 where a
    tile passes piece by piece; at most one group may. ``cost`` (1 + ports, 3): energy and port cycles of one bit.
    """

    tiles: Integers
    start: Integers
    traffic: Floats
    room: Floats
    slides: Integers
    cost: Floats
    room_bits: Floats
    capacity_bits: float


class LowerInput(NamedTuple):
    """What ``lower`` walks: options of all groups one after the other.

    ``start`` (groups + 1). ``factors`` (options, quantities): the last quantity is the temporal steps. ``tile`` and
    ``spread`` (options): number of the group's tile, and of its spatial factor. ``stride`` and ``spread_stride``
    (groups): of the numbers of all groups together. ``fits`` (spreads): whether the axes hold that spread.
    ``cost`` (1 + ports, quantities) and ``constant`` (1 + ports): energy and port cycles as linear forms.
    ``least`` and ``most`` (groups + 1, quantities): smallest and largest product of the factors of the groups from
    there on. ``upper_count`` (tiles), ``upper_cost`` (tiles, points, 1 + ports): the fronts that ``upper`` found, and
    ``upper_least`` (groups, tiles, 1 + ports) the least of them over all tiles that begin alike, up to each group.
    """

    start: Integers
    factors: Floats
    room: Floats
    slides: Integers
    tile: Integers
    spread: Integers
    stride: Integers
    spread_stride: Integers
    fits: npt.NDArray[np.bool_]
    cost: Floats
    constant: Floats
    room_bits: Floats
    capacity_bits: float
    least: Floats
    most: Floats
    upper_count: Integers
    upper_cost: Floats
    upper_least: Floats


@numba.njit(cache=True)
def upper(given, order, count, cost, choice):
    """Add the nests of one order of nodes to the front of every tile.

    ``count`` (tiles), ``cost`` (tiles, room for points, 1 + ports) and ``choice`` (tiles, room for points, 1 + groups)
    hold the fronts, and are changed. Returns False where a front has no room left: then they are of no use.
    """
    groups = given.tiles.shape[0]
    width = given.cost.shape[0]
    at = np.zeros(groups, dtype=np.int64)
    tile = np.zeros(groups, dtype=np.int64)
    traffic = np.ones((groups + 1, 3))
    room = np.ones((groups + 1, 3))
    slides = np.zeros(groups + 1, dtype=np.int64)
    point = np.empty(width)
    for number in range(count.shape[0]):
        rest = number
        for group in range(groups - 1, -1, -1):
            tile[group] = rest % given.tiles[group]
            rest //= given.tiles[group]
        level = 0
        at[0] = given.start[0, tile[0]]
        while level >= 0:
            if at[level] == given.start[level, tile[level] + 1]:
                level -= 1
                if level >= 0:
                    at[level] += 1
                continue
            option = at[level]
            taken = 0.0
            slides[level + 1] = slides[level] + given.slides[option]
            for operand in range(3):
                traffic[level + 1, operand] = traffic[level, operand] * given.traffic[option, operand]
                room[level + 1, operand] = room[level, operand] * given.room[option, operand]
                taken += room[level + 1, operand] * given.room_bits[operand]
            passes = taken <= given.capacity_bits and slides[level + 1] <= 1
            if passes:
                for part in range(width):
                    total = 0.0
                    for operand in range(3):
                        total += given.cost[part, operand] * traffic[level + 1, operand]
                    point[part] = total
                # Factors are at least 1, so that a partial product bounds the whole one from below.
                for other in range(count[number]):
                    beaten = True
                    for part in range(width):
                        if cost[number, other, part] > point[part] * (1 + TOLERANCE):
                            beaten = False
                            break
                    if beaten:
                        passes = False
                        break
            if not passes:
                at[level] += 1
                continue
            if level + 1 < groups:
                level += 1
                at[level] = given.start[level, tile[level]]
                continue
            kept = 0
            for other in range(count[number]):
                beaten = True
                for part in range(width):
                    if point[part] > cost[number, other, part]:
                        beaten = False
                        break
                if not beaten:
                    cost[number, kept] = cost[number, other]
                    choice[number, kept] = choice[number, other]
                    kept += 1
            if kept == cost.shape[1]:
                return False
            cost[number, kept] = point
            choice[number, kept, 0] = order
            choice[number, kept, 1:] = at
            count[number] = kept + 1
            at[level] += 1
    return True


@inner()
def _is_beaten(front, size, energy, latency):
    """Whether a point of the front is no worse in energy and in latency (front: sorted by latency)."""
    for place in range(size):
        if front[place, 1] > latency * (1 + TOLERANCE):
            return False
        if front[place, 0] <= energy * (1 + TOLERANCE):
            return True
    return False


@numba.njit(cache=True)
def lower(given, order, front, choice, size):
    """Add the nests of one order of the inner nodes to the front of (energy, latency).

    ``front`` (room for points, 2) is sorted by latency; ``choice`` (room for points, 2 + groups) holds the order, the
    number of the upper point, and the options. Both are changed. Returns (points, nodes visited); points is -1 where
    the front has no room left.
    """
    groups = given.stride.shape[0]
    quantities = given.factors.shape[1]
    width = given.cost.shape[0]
    at = np.zeros(groups, dtype=np.int64)
    product = np.ones((groups + 1, quantities))
    room = np.ones((groups + 1, 3))
    slides = np.zeros(groups + 1, dtype=np.int64)
    tile = np.zeros(groups + 1, dtype=np.int64)
    spread = np.zeros(groups + 1, dtype=np.int64)
    point = np.empty(width)
    visited = 0
    level = 0
    at[0] = given.start[0]
    while level >= 0:
        if at[level] == given.start[level + 1]:
            level -= 1
            if level >= 0:
                at[level] += 1
            continue
        option = at[level]
        visited += 1
        slides[level + 1] = slides[level] + given.slides[option]
        tile[level + 1] = tile[level] + given.tile[option] * given.stride[level]
        spread[level + 1] = spread[level] + given.spread[option] * given.spread_stride[level]
        taken = 0.0
        for operand in range(3):
            room[level + 1, operand] = room[level, operand] * given.room[option, operand]
            taken += room[level + 1, operand] * given.room_bits[operand]
        # Number 0 is a spread of 1: what does not fit so far does not fit with more.
        if taken > given.capacity_bits or slides[level + 1] > 1 or not given.fits[spread[level + 1]]:
            at[level] += 1
            continue
        for quantity in range(quantities):
            product[level + 1, quantity] = product[level, quantity] * given.factors[option, quantity]
        for part in range(width):
            total = given.constant[part]
            for quantity in range(quantities):
                weight = given.cost[part, quantity]
                if weight > 0:
                    total += weight * product[level + 1, quantity] * given.least[level + 1, quantity]
                elif weight < 0:
                    total += weight * product[level + 1, quantity] * given.most[level + 1, quantity]
            point[part] = total
        latency = product[level + 1, quantities - 1] * given.least[level + 1, quantities - 1]
        last = level + 1 == groups
        if not last:
            for part in range(1, width):
                latency = max(latency, point[part] + given.upper_least[level, tile[level + 1], part])
            if _is_beaten(front, size, point[0] + given.upper_least[level, tile[level + 1], 0], latency):
                at[level] += 1
                continue
            level += 1
            at[level] = given.start[level]
            continue
        number = tile[groups]
        for above in range(given.upper_count[number]):
            energy = point[0] + given.upper_cost[number, above, 0]
            longest = latency
            for part in range(1, width):
                longest = max(longest, point[part] + given.upper_cost[number, above, part])
            if _is_beaten(front, size, energy, longest):
                continue
            kept = 0
            for other in range(size):
                if front[other, 0] < energy or front[other, 1] < longest:
                    front[kept] = front[other]
                    choice[kept] = choice[other]
                    kept += 1
            if kept == front.shape[0]:
                return -1, visited
            place = kept
            while place > 0 and front[place - 1, 1] > longest:
                front[place] = front[place - 1]
                choice[place] = choice[place - 1]
                place -= 1
            front[place, 0] = energy
            front[place, 1] = longest
            choice[place, 0] = order
            choice[place, 1] = above
            choice[place, 2:] = at
            size = kept + 1
        at[level] += 1
    return size, visited
