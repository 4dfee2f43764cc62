"""Cycles of the passes of a grid whose steps take as long as their operands ask for (docs/simulator.md).

A step covers a *chunk* of each dimension: the ``unroll`` elements that the grid holds at once, fewer at the end of a
buffer tile. What its groups count of the weights depends on the chunks of G, K, C, R, S, of the inputs on those of G,
N, P, Q, C, R, S; so each operand gets a table by chunk, and a step is a look-up in both. Along K (for the weights) and
along N, P, Q (for the inputs) all PEs meet all: the slowest group is the maximum along these, on either side.

A *place* is a group of lanes at one position along G, C, R, S; counts of both operands meet place by place. Where one
operand alone is skipped, only the largest of all places matters, and the table has one place.
"""

from __future__ import annotations

from collections import namedtuple

import numba
import numpy as np

from simulator.kernels.compiled import inner
from simulator.kernels.loop_nest import C, G, K, N, P, Q, R, S, advance, set_extents, tile_number

ZERO_BITS, ZERO_COLUMNS, LEADING_BITS, SHIFTED = range(4)

Counting = namedtuple(
    "Counting",
    [
        "mode",  # one of the above
        "magnitude",  # whether bits are those of the absolute value
        "signed", "bits",  # of the format
        "sign_cycles",
        "group",  # lanes in a group
        "reach",  # SHIFTED: places that a lane's own shifter reaches
    ],
)

Steps = namedtuple(
    "Steps",
    [
        "weight_counts", "input_counts",  # tables; one without rows: nothing of that operand is skipped
        "factor",  # a step takes this times the largest product of counts,
        "overlapped",  # less this,
        "least",  # and at least this
    ],
)

Chunks = namedtuple(
    "Chunks",
    [
        "first",  # (8, most chunks + 1) first element of each chunk, and the extent behind the last
        "count",  # (8,) chunks of each dimension
        "lanes",  # (8,) elements on the lanes of a PE
        "spread",  # (8,) PEs along each dimension
    ],
)


@inner()
def _bit_count(value):
    """Set bits of a number below 2^40."""
    count = 0
    while value:
        value &= value - 1
        count += 1
    return count


@inner()
def _bit_length(value):
    length = 0
    while value:
        value >>= 1
        length += 1
    return length


@inner()
def _group_count(how, codes, begin, end):
    """Count of one group: ``codes[begin:end]`` are those of its lanes that have a product."""
    negative = False
    for lane in range(begin, end):
        negative |= codes[lane] < 0
    sign = how.sign_cycles if negative else 0
    mask = (1 << how.bits) - 1
    if how.mode == ZERO_BITS:  # groups of one lane
        code = codes[begin]
        return _bit_count(abs(code) if how.magnitude else code & mask) + sign
    if how.mode == ZERO_COLUMNS:
        together = 0
        for lane in range(begin, end):
            together |= abs(codes[lane]) if how.magnitude else codes[lane] & mask
        return _bit_count(together) + sign
    if how.mode == LEADING_BITS:
        together = 0
        for lane in range(begin, end):
            code = codes[lane]
            if how.magnitude:
                together |= abs(code)
            else:
                together |= ~code if code < 0 else code
        width = _bit_length(together)
        if how.signed and not how.magnitude:
            width += 1
        return max(1, width) + sign
    left = np.empty(end - begin, dtype=np.int64)
    any_left = 0
    for lane in range(end - begin):
        code = codes[begin + lane]
        left[lane] = abs(code) if how.magnitude else code & mask
        any_left |= left[lane]
    turns = 0
    while any_left:
        limit = (any_left & -any_left) << how.reach
        any_left = 0
        for lane in range(end - begin):
            bit = left[lane] & -left[lane]
            if bit < limit:
                left[lane] ^= bit
            any_left |= left[lane]
        turns += 1
    return turns


@inner()
def _raise_to(how, codes, products, counts, place, one_place):
    """Raise the counts of a PE's groups to what ``codes[:products]`` ask for; ``place`` is that of its first group."""
    begin = 0
    while begin < products:
        end = min(begin + how.group, products)
        found = _group_count(how, codes, begin, end)
        at = 0 if one_place else place
        counts[at] = max(counts[at], found)
        begin = end
        place += 1


@inner()
def _reduced_ranges(chunks, cc, rc, sc, pe):
    """Elements of C, R, S on the lanes of a PE, numbered along these: first, behind the last, in turn."""
    begin_end = np.empty(6, dtype=np.int64)
    rest = pe
    for place, d, chunk in ((4, S, sc), (2, R, rc), (0, C, cc)):
        begin = chunks.first[d, chunk] + rest % chunks.spread[d] * chunks.lanes[d]
        rest //= chunks.spread[d]
        begin_end[place] = begin
        begin_end[place + 1] = min(begin + chunks.lanes[d], chunks.first[d, chunk + 1])
    return begin_end


@inner()
def _empty_table(chunks, rows, groups_in_pe, one_place):
    """Table of no counts, and room for the codes on the lanes of a PE."""
    spread = chunks.spread
    places = 1 if one_place else spread[G] * spread[C] * spread[R] * spread[S] * groups_in_pe
    lanes = chunks.lanes[C] * chunks.lanes[R] * chunks.lanes[S]
    return np.zeros((rows, places), dtype=np.uint8), np.empty(lanes, dtype=np.int64)


@numba.njit(cache=True)
def weight_counts(how, weights, chunks, groups_in_pe, one_place):
    """Table of the weights: shape (chunks of G·K·C·R·S, places), uint8. ``weights``: codes G, K, C, R, S."""
    n, first = chunks.count, chunks.first
    pes = chunks.spread[C] * chunks.spread[R] * chunks.spread[S]
    table, codes = _empty_table(chunks, n[G] * n[K] * n[C] * n[R] * n[S], groups_in_pe, one_place)
    for row in range(table.shape[0]):
        sc, rest = row % n[S], row // n[S]
        rc, rest = rest % n[R], rest // n[R]
        cc, rest = rest % n[C], rest // n[C]
        kc, gc = rest % n[K], rest // n[K]
        for pe in range(pes):
            c0, c1, r0, r1, s0, s1 = _reduced_ranges(chunks, cc, rc, sc, pe)
            for g in range(first[G, gc], first[G, gc + 1]):
                place = ((g - first[G, gc]) * pes + pe) * groups_in_pe
                for k in range(first[K, kc], first[K, kc + 1]):
                    products = 0
                    for c in range(c0, c1):
                        for r in range(r0, r1):
                            for s in range(s0, s1):
                                codes[products] = weights[g, k, c, r, s]
                                products += 1
                    _raise_to(how, codes, products, table[row], place, one_place)
    return table


@numba.njit(cache=True)
def input_counts(how, inputs, geometry, chunks, groups_in_pe, one_place):
    """Table of the inputs: shape (chunks of G·N·P·Q·C·R·S, places), uint8.

    ``inputs``: codes G, N, C, rows, columns; ``geometry`` (2, 3): stride, dilation, padding of both directions.
    """
    n, first = chunks.count, chunks.first
    pes = chunks.spread[C] * chunks.spread[R] * chunks.spread[S]
    rows = n[G] * n[N] * n[P] * n[Q] * n[C] * n[R] * n[S]
    table, codes = _empty_table(chunks, rows, groups_in_pe, one_place)
    for row in range(rows):
        sc, rest = row % n[S], row // n[S]
        rc, rest = rest % n[R], rest // n[R]
        cc, rest = rest % n[C], rest // n[C]
        qc, rest = rest % n[Q], rest // n[Q]
        pc, rest = rest % n[P], rest // n[P]
        nc, gc = rest % n[N], rest // n[N]
        for pe in range(pes):
            reduced = _reduced_ranges(chunks, cc, rc, sc, pe)
            for g in range(first[G, gc], first[G, gc + 1]):
                place = ((g - first[G, gc]) * pes + pe) * groups_in_pe
                for b in range(first[N, nc], first[N, nc + 1]):
                    image = inputs[g, b]
                    for p in range(first[P, pc], first[P, pc + 1]):
                        for q in range(first[Q, qc], first[Q, qc + 1]):
                            products = _read_inputs(codes, image, geometry, p, q, reduced)
                            _raise_to(how, codes, products, table[row], place, one_place)
    return table


@inner()
def _read_inputs(codes, image, geometry, p, q, reduced):
    """Set ``codes`` to what the lanes of a PE read of an image (C, rows, columns); padding is 0. Returns how many."""
    c0, c1, r0, r1, s0, s1 = reduced
    height, width = image.shape[1], image.shape[2]
    products = 0
    for c in range(c0, c1):
        for r in range(r0, r1):
            y = p * geometry[0, 0] + r * geometry[0, 1] - geometry[0, 2]
            for s in range(s0, s1):
                x = q * geometry[1, 0] + s * geometry[1, 1] - geometry[1, 2]
                codes[products] = image[c, y, x] if 0 <= y < height and 0 <= x < width else 0
                products += 1
    return products


@numba.njit(cache=True)
def pass_times(w, chunks, costs):
    """Times of every pass of a layer. ``w``: the walk's input; ``costs``: ``Steps``.

    Returns int64 arrays by event, (compute cycles, occupied cycles, occupied cycles that the results need not wait
    for), and Σ over PEs of the cycles in which they are active.
    """
    levels = w.tile.shape[0] - 1
    index = np.zeros((levels + 1, 8), dtype=np.int64)
    begin = np.zeros((levels + 2, 8), dtype=np.int64)
    length = np.zeros((levels + 2, 8), dtype=np.int64)
    events = 1
    while True:
        set_extents(w, index, begin, length)
        if advance(w, index, length) < 0:
            break
        events += 1
    times = np.zeros((3, events), dtype=np.int64)
    index[:] = 0
    active = np.int64(0)
    first = np.zeros(8, dtype=np.int64)
    for event in range(events):
        set_extents(w, index, begin, length)
        for d in range(8):
            in_a_tile = -(-w.tile[levels, d] // w.unroll[d])
            inner = index[levels, d] * (w.grid_tile[d] // w.unroll[d])
            first[d] = tile_number(w, index, levels, d) * in_a_tile + inner
        passed = _pass(w, chunks, costs, first, length[levels + 1])
        times[0, event], times[1, event], times[2, event], working = passed
        active += working
        advance(w, index, length)
    return times[0], times[1], times[2], active


@inner()
def _pass(w, chunks, costs, first, length):
    """Times of one pass, as in ``pass_times``. ``first``, ``length``: first chunk and extent along each dimension."""
    steps = np.zeros(8, dtype=np.int64)
    active_of = np.zeros(8, dtype=np.int64)  # Σ over the chunks of the PEs at work along a dimension
    seen = np.zeros(8, dtype=np.bool_)  # whether the time of a step depends on the chunk
    for d in range(8):
        steps[d] = -(-length[d] // w.unroll[d])
        for chunk in range(first[d], first[d] + steps[d]):
            active_of[d] += _at_work(chunks, d, chunk)
    for d in (G, K, C, R, S):
        seen[d] |= costs.weight_counts.shape[0] > 0
    for d in (G, N, P, Q, C, R, S):
        seen[d] |= costs.input_counts.shape[0] > 0
    # Folds one after the other, and in each its steps. Without folds, dimensions that no table sees are counted, not
    # walked.
    at = np.zeros(8, dtype=np.int64)
    trips = np.ones(8, dtype=np.int64)
    order = np.empty(8, dtype=np.int64)
    place = 0
    for streamed in (False, True):
        for d in range(8):
            if w.streamed[d] == streamed:
                order[place] = d
                place += 1
    times = np.int64(1)
    times_active = np.int64(1)
    for d in range(8):
        if seen[d] or (w.folds_on and not w.streamed[d]):
            trips[d] = steps[d]
        else:
            times *= steps[d]
            times_active *= active_of[d]
    folds_left = np.int64(1)
    fold_size = np.int64(1)
    for d in range(8):
        if w.folds_on and not w.streamed[d]:
            folds_left *= trips[d]
        else:
            fold_size *= trips[d]
    total = np.int64(0)
    held = np.int64(w.load_cycles if w.preload else 0)
    active = np.int64(0)
    paced = np.int64(0)
    t = np.int64(0)
    while folds_left > 0:
        t = np.int64(0)
        for _ in range(fold_size):
            cycles = _step_time(chunks, costs, first, at)
            t += cycles * times
            working = times_active
            for d in range(8):
                if seen[d] or (w.folds_on and not w.streamed[d]):
                    working *= _at_work(chunks, d, first[d] + at[d])
            active += cycles * working
            for i in range(7, -1, -1):
                d = order[i]
                at[d] += 1
                if at[d] < trips[d]:
                    break
                at[d] = 0
        total += t
        paced = max(t, w.drain_cycles) if w.overlap else t + w.tail_cycles
        folds_left -= 1
        if w.preload:
            held += max(paced, w.load_cycles) if folds_left > 0 else paced
        else:
            held += w.load_cycles + paced
    return total, held, paced - t if w.overlap else 0, active


@inner()
def _at_work(chunks, d, chunk):
    """PEs along a dimension that have an element in a chunk."""
    return -(-(chunks.first[d, chunk + 1] - chunks.first[d, chunk]) // chunks.lanes[d])


@inner()
def _step_time(chunks, costs, first, at):
    """Cycles of the step at the chunks ``first + at``."""
    n, weight_table, input_table = chunks.count, costs.weight_counts, costs.input_counts
    reduced = first[C] + at[C]
    reduced = (reduced * n[R] + first[R] + at[R]) * n[S] + first[S] + at[S]
    reductions = n[C] * n[R] * n[S]
    weight_row = input_row = 0
    most = np.int64(1)
    if weight_table.shape[0] > 0:
        weight_row = ((first[G] + at[G]) * n[K] + first[K] + at[K]) * reductions + reduced
    if input_table.shape[0] > 0:
        input_row = ((first[G] + at[G]) * n[N] + first[N] + at[N]) * n[P] + first[P] + at[P]
        input_row = (input_row * n[Q] + first[Q] + at[Q]) * reductions + reduced
    if weight_table.shape[0] > 0 and input_table.shape[0] > 0:
        most = np.int64(0)
        for place in range(weight_table.shape[1]):
            together = np.int64(weight_table[weight_row, place]) * np.int64(input_table[input_row, place])
            most = together if together > most else most
    elif weight_table.shape[0] > 0:
        most = np.int64(weight_table[weight_row, 0])
    elif input_table.shape[0] > 0:
        most = np.int64(input_table[input_row, 0])
    return max(costs.least, most * costs.factor - costs.overlapped)
