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

from simulator.kernels.tile_walk import C, G, K, N, P, Q, R, S, _advance, _lengths

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

Chunks = namedtuple(
    "Chunks",
    [
        "first",  # (8, most chunks + 1) first element of each chunk, and the extent behind the last
        "count",  # (8,) chunks of each dimension
        "lanes",  # (8,) elements on the lanes of a PE
        "spread",  # (8,) PEs along each dimension
    ],
)


@numba.njit(cache=True)
def _bit_count(value):
    """Set bits of a number below 2^40."""
    count = 0
    while value:
        value &= value - 1
        count += 1
    return count


@numba.njit(cache=True)
def _bit_length(value):
    length = 0
    while value:
        value >>= 1
        length += 1
    return length


@numba.njit(cache=True)
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


@numba.njit(cache=True)
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


@numba.njit(cache=True)
def _pe_range(chunks, d, chunk, pe):
    """First element of a PE's lanes along a dimension, and the one behind its last."""
    begin = chunks.first[d, chunk] + pe * chunks.lanes[d]
    return begin, min(begin + chunks.lanes[d], chunks.first[d, chunk + 1])


@numba.njit(cache=True)
def weight_counts(how, weights, chunks, groups_in_pe, one_place):
    """Table of the weights: shape (chunks of G·K·C·R·S, places), uint8. ``weights``: codes G, K, C, R, S."""
    n = chunks.count
    spread = chunks.spread
    places = 1 if one_place else spread[G] * spread[C] * spread[R] * spread[S] * groups_in_pe
    table = np.zeros((n[G] * n[K] * n[C] * n[R] * n[S], places), dtype=np.uint8)
    codes = np.empty(chunks.lanes[C] * chunks.lanes[R] * chunks.lanes[S], dtype=np.int64)
    row = 0
    for gc in range(n[G]):
        for kc in range(n[K]):
            for cc in range(n[C]):
                for rc in range(n[R]):
                    for sc in range(n[S]):
                        for g in range(chunks.first[G, gc], chunks.first[G, gc + 1]):
                            for c_pe in range(spread[C]):
                                c0, c1 = _pe_range(chunks, C, cc, c_pe)
                                for r_pe in range(spread[R]):
                                    r0, r1 = _pe_range(chunks, R, rc, r_pe)
                                    for s_pe in range(spread[S]):
                                        s0, s1 = _pe_range(chunks, S, sc, s_pe)
                                        place = (g - chunks.first[G, gc]) * spread[C] + c_pe
                                        place = ((place * spread[R] + r_pe) * spread[S] + s_pe) * groups_in_pe
                                        for k in range(chunks.first[K, kc], chunks.first[K, kc + 1]):
                                            products = 0
                                            for c in range(c0, c1):
                                                for r in range(r0, r1):
                                                    for s in range(s0, s1):
                                                        codes[products] = weights[g, k, c, r, s]
                                                        products += 1
                                            _raise_to(how, codes, products, table[row], place, one_place)
                        row += 1
    return table


@numba.njit(cache=True)
def input_counts(how, inputs, geometry, chunks, groups_in_pe, one_place):
    """Table of the inputs: shape (chunks of G·N·P·Q·C·R·S, places), uint8.

    ``inputs``: codes G, N, C, rows, columns; ``geometry`` (2, 3): stride, dilation, padding of both directions.
    """
    n = chunks.count
    spread = chunks.spread
    height, width = inputs.shape[3], inputs.shape[4]
    places = 1 if one_place else spread[G] * spread[C] * spread[R] * spread[S] * groups_in_pe
    table = np.zeros((n[G] * n[N] * n[P] * n[Q] * n[C] * n[R] * n[S], places), dtype=np.uint8)
    codes = np.empty(chunks.lanes[C] * chunks.lanes[R] * chunks.lanes[S], dtype=np.int64)
    row = 0
    for gc in range(n[G]):
        for nc in range(n[N]):
            for pc in range(n[P]):
                for qc in range(n[Q]):
                    for cc in range(n[C]):
                        for rc in range(n[R]):
                            for sc in range(n[S]):
                                for g in range(chunks.first[G, gc], chunks.first[G, gc + 1]):
                                    for pe in range(spread[C] * spread[R] * spread[S]):
                                        s_pe = pe % spread[S]
                                        r_pe = pe // spread[S] % spread[R]
                                        c_pe = pe // spread[S] // spread[R]
                                        c0, c1 = _pe_range(chunks, C, cc, c_pe)
                                        r0, r1 = _pe_range(chunks, R, rc, r_pe)
                                        s0, s1 = _pe_range(chunks, S, sc, s_pe)
                                        place = (g - chunks.first[G, gc]) * spread[C] + c_pe
                                        place = ((place * spread[R] + r_pe) * spread[S] + s_pe) * groups_in_pe
                                        for b in range(chunks.first[N, nc], chunks.first[N, nc + 1]):
                                            for p in range(chunks.first[P, pc], chunks.first[P, pc + 1]):
                                                for q in range(chunks.first[Q, qc], chunks.first[Q, qc + 1]):
                                                    products = 0
                                                    for c in range(c0, c1):
                                                        for r in range(r0, r1):
                                                            y = p * geometry[0, 0] + r * geometry[0, 1]
                                                            y -= geometry[0, 2]
                                                            for s in range(s0, s1):
                                                                x = q * geometry[1, 0] + s * geometry[1, 1]
                                                                x -= geometry[1, 2]
                                                                inside = 0 <= y < height and 0 <= x < width
                                                                codes[products] = inputs[g, b, c, y, x] if inside else 0
                                                                products += 1
                                                    _raise_to(how, codes, products, table[row], place, one_place)
                                row += 1
    return table


@numba.njit(cache=True)
def pass_times(w, chunks, weight_table, input_table, factor, overlapped, least):
    """Times of every pass of a layer, from the tables (one of which may have no rows: nothing of it is skipped).

    ``w``: the walk's input. A step takes ``factor`` · the largest product of counts, less ``overlapped``, and at least
    ``least`` cycles. Returns (compute cycles, occupied cycles, occupied cycles that the results need not wait for),
    int64 by event, and Σ over PEs of the cycles in which they are active.
    """
    index = np.zeros(8, dtype=np.int64)
    inner = np.zeros(8, dtype=np.int64)
    outer_length = np.zeros(8, dtype=np.int64)
    length = np.zeros(8, dtype=np.int64)
    events = 1
    while True:
        _lengths(w, index, inner, outer_length, length)
        if not _advance(w, index, inner, outer_length):
            break
        events += 1
    compute = np.zeros(events, dtype=np.int64)
    occupied = np.zeros(events, dtype=np.int64)
    early = np.zeros(events, dtype=np.int64)
    index[:] = 0
    inner[:] = 0
    active = np.int64(0)
    first = np.zeros(8, dtype=np.int64)
    for event in range(events):
        _lengths(w, index, inner, outer_length, length)
        for d in range(8):
            in_a_tile = -(-w.buffer_tile[d] // w.unroll[d])
            first[d] = index[d] * in_a_tile + inner[d] * (w.grid_tile[d] // w.unroll[d])
        event_active = _pass(
            w, chunks, first, length, weight_table, input_table, factor, overlapped, least, event, compute, occupied,
            early,
        )
        active += event_active
        _advance(w, index, inner, outer_length)
    return compute, occupied, early, active


@numba.njit(cache=True)
def _pass(
    w, chunks, first, length, weight_table, input_table, factor, overlapped, least, event, compute, occupied, early
):
    """Fill in the times of one pass. ``first``, ``length``: its first chunk and extent along each dimension."""
    steps = np.zeros(8, dtype=np.int64)
    active_of = np.zeros(8, dtype=np.int64)  # Σ over the chunks of the PEs at work along a dimension
    seen = np.zeros(8, dtype=np.bool_)  # whether the time of a step depends on the chunk
    for d in range(8):
        steps[d] = -(-length[d] // w.unroll[d])
        for chunk in range(first[d], first[d] + steps[d]):
            active_of[d] += _at_work(chunks, d, chunk)
    for d in (G, K, C, R, S):
        seen[d] |= weight_table.shape[0] > 0
    for d in (G, N, P, Q, C, R, S):
        seen[d] |= input_table.shape[0] > 0
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
            cycles = _step_time(chunks, first, at, weight_table, input_table, factor, overlapped, least)
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
    compute[event] = total
    occupied[event] = held
    early[event] = paced - t if w.overlap else 0
    return active


@numba.njit(cache=True)
def _at_work(chunks, d, chunk):
    """PEs along a dimension that have an element in a chunk."""
    return -(-(chunks.first[d, chunk + 1] - chunks.first[d, chunk]) // chunks.lanes[d])


@numba.njit(cache=True)
def _step_time(chunks, first, at, weight_table, input_table, factor, overlapped, least):
    """Cycles of the step at the chunks ``first + at``."""
    n = chunks.count
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
    return max(least, most * factor - overlapped)
