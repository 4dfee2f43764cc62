"""The ``fast`` engine's walk: from event to event of one layer's tile loop (docs/simulator.md).

The kernel keeps, for each operand, when its present and its last run let go of their slots, and when the DRAM
channel is free next: everything else follows from maxima of these times. Cost grows with the number of events.

The same walk writes a timeline where it is handed a ``Log``; Numba compiles the walk without one apart, and drops
everything that concerns the log from it.
"""

from __future__ import annotations

from collections import namedtuple

import numba
import numpy as np

# Dimensions in the order of simulator.layer.DIMS.
G, N, K, C, P, Q, R, S = range(8)
WEIGHT, INPUT, OUTPUT = range(3)

WalkInput = namedtuple(
    "WalkInput",
    [
        "loop_dim",  # (loops,) dimension of each event loop, outermost first
        "loop_is_buffer",  # (loops,) whether it is a buffer loop (only where an operand bypasses)
        "extent",  # (8,) layer
        "buffer_tile",  # (8,)
        "grid_tile",  # (8,) register tile of the whole grid
        "unroll",  # (8,)
        "inner_trips",  # (8,) nominal trips of the buffer loop where it is an event loop, else 1
        "streamed",  # (8,) dimensions irrelevant to the stationary operand
        "relevant",  # (3, 8)
        "buffer_rows", "buffer_columns",  # distinct input rows, columns of each pair of tiles
        "grid_rows", "grid_columns",
        "element_bits",  # (4,) weight, input, partial sum, finished output
        "bypass",  # operand that bypasses, or -1
        "bypass_runs_each_event",
        "double_buffer",  # (3,)
        "parameter_bits",
        "step_cycles", "load_cycles", "tail_cycles", "drain_cycles", "overlap", "preload", "folds_on",
        "bandwidth", "latency", "burst",
        # Where the time of a step depends on values (else of size 0): what each pass takes, by event. Compute cycles,
        # cycles that it holds the grid, and how many of the latter its results need not wait for.
        "pass_compute", "pass_occupied", "pass_early",
    ],
)

# Places in the result.
TOTAL, COMPUTE, FILL_DRAIN, STALL0 = 0, 1, 2, 3
BUSY, EVENTS = 9, 10
WEIGHT_READ, INPUT_READ, SUM_READ, FINAL_WRITE, SUM_WRITE, PARAMETER_READ = 11, 12, 13, 14, 15, 16
RESULT_SIZE = 17
# A timeline also has how long tiles stay on chip: HELD0 + operand.
HELD0 = 17
STALL_PARAMETERS, STALL_WEIGHT, STALL_INPUT, STALL_SUM, STALL_SLOT, STALL_WRITE = range(6)

Log = namedtuple(
    "Log",
    [
        "rows",  # (capacity, 5): kind (a place in the result, or HELD0 + operand), start, cycles, bits, event
        "count",  # (1,) rows that there are; what is beyond the capacity is counted and not kept
    ],
)


@numba.njit(cache=True)
def _note(log, kind, start, cycles, bits, event):
    """Add a row to the log; what takes no time is no row."""
    if cycles > 0:
        row = log.count[0]
        if row < log.rows.shape[0]:
            log.rows[row, 0] = kind
            log.rows[row, 1] = start
            log.rows[row, 2] = cycles
            log.rows[row, 3] = bits
            log.rows[row, 4] = event
        log.count[0] = row + 1


@numba.njit(cache=True)
def _note_pass(log, load, folds, steps, period, start, occupied, event):
    """Add the folds of a pass. ``steps``: compute cycles of one; ``period``: from one fold to the next."""
    if period == steps:  # no gap between folds: one stretch of compute
        folds, steps = 1, folds * steps
    at = start
    for fold in range(folds):
        begin = start + load + fold * period
        _note(log, FILL_DRAIN, at, begin - at, 0, event)
        _note(log, COMPUTE, begin, steps, 0, event)
        at = begin + steps
    _note(log, FILL_DRAIN, at, start + occupied - at, 0, event)


@numba.njit(cache=True)
def _request(bandwidth, burst, result, log, kind, bits, channel, earliest, event):
    """Queue a request on the channel. Returns when the channel is free again."""
    moved = -(-bits // burst) * burst
    cycles = -(-moved // bandwidth)
    channel = max(channel, earliest) + cycles
    result[BUSY] += cycles
    result[kind] += bits
    if log is not None:
        _note(log, kind, channel - cycles, cycles, bits, event)
    return channel


@numba.njit(cache=True)
def _occupation(w, length):
    """Cycles that one pass holds the grid. ``length``: extents of the pass.

    Returns (occupied, folds, compute cycles of a fold, cycles from one fold to the next, how many of the occupied
    cycles the results need not wait for).
    """
    folds = 1
    steps = 1
    for d in range(8):
        count = -(-length[d] // w.unroll[d])
        if w.folds_on and not w.streamed[d]:
            folds *= count
        else:
            steps *= count
    t = steps * w.step_cycles
    paced = max(t, w.drain_cycles) if w.overlap else t + w.tail_cycles
    period = max(paced, w.load_cycles) if w.preload else w.load_cycles + paced
    occupied = w.load_cycles + (folds - 1) * period + paced
    return occupied, folds, t, period, paced - t if w.overlap else 0


@numba.njit(cache=True)
def _tile_bits(w, operand, index, inner, outer_length, inner_length):
    """Elements of an operand's tile at an event."""
    at_grid = w.bypass == operand
    count = 1
    for d in range(8):
        if w.relevant[operand, d] and not (operand == INPUT and d >= P):
            count *= inner_length[d] if at_grid else outer_length[d]
    if operand == INPUT:
        if at_grid:
            p = index[P] * w.inner_trips[P] + inner[P]
            q = index[Q] * w.inner_trips[Q] + inner[Q]
            r = index[R] * w.inner_trips[R] + inner[R]
            s = index[S] * w.inner_trips[S] + inner[S]
            count *= w.grid_rows[p, r] * w.grid_columns[q, s]
        else:
            count *= w.buffer_rows[index[P], index[R]] * w.buffer_columns[index[Q], index[S]]
    return count


@numba.njit(cache=True)
def _lengths(w, index, inner, outer_length, inner_length):
    """Set the extents of the buffer tile, and of what the pass covers, from the trip numbers."""
    for d in range(8):
        outer_length[d] = min(w.buffer_tile[d], w.extent[d] - index[d] * w.buffer_tile[d])
        if w.inner_trips[d] > 1:
            inner_length[d] = min(w.grid_tile[d], outer_length[d] - inner[d] * w.grid_tile[d])
        else:
            inner_length[d] = outer_length[d]


@numba.njit(cache=True)
def _advance(w, index, inner, outer_length):
    """Step the odometer of event loops. Returns whether there was a next event."""
    for loop in range(w.loop_dim.shape[0] - 1, -1, -1):
        d = w.loop_dim[loop]
        if w.loop_is_buffer[loop]:
            inner[d] += 1
            if inner[d] * w.grid_tile[d] < outer_length[d]:
                return True
            inner[d] = 0
        else:
            index[d] += 1
            if index[d] * w.buffer_tile[d] < w.extent[d]:
                return True
            index[d] = 0
    return False


@numba.njit(cache=True)
def _same_tile(w, operand, index, inner, next_index, next_inner):
    """Whether two events have the same tile of an operand."""
    for d in range(8):
        if w.relevant[operand, d]:
            if index[d] != next_index[d]:
                return False
            if w.bypass == operand and inner[d] != next_inner[d]:
                return False
    return True


@numba.njit(cache=True)
def walk(w, log=None):
    """Walk all events of a layer. Returns an int64 array of ``RESULT_SIZE`` counts (see the constants).

    ``log``: a ``Log`` that receives the timeline, or None.
    """
    bandwidth, burst = w.bandwidth, w.burst
    result = np.zeros(RESULT_SIZE, dtype=np.int64)
    index = np.zeros(8, dtype=np.int64)
    inner = np.zeros(8, dtype=np.int64)
    next_index = np.zeros(8, dtype=np.int64)
    next_inner = np.zeros(8, dtype=np.int64)
    outer_length = np.zeros(8, dtype=np.int64)
    inner_length = np.zeros(8, dtype=np.int64)

    channel = np.int64(0)
    parameters_done = np.int64(0)
    if w.parameter_bits > 0:
        channel = _request(bandwidth, burst, result, log, PARAMETER_READ, w.parameter_bits, channel, 0, 0)
        parameters_done = channel + w.latency

    loaded = np.zeros(3, dtype=np.int64)  # when the present run's data is there
    freed = np.zeros(3, dtype=np.int64)  # when the last run let go of its slot
    freed_before = np.zeros(3, dtype=np.int64)  # and the one before it
    held_since = np.zeros(3, dtype=np.int64)  # when the present run took its slot, for the log alone
    held_bits = np.zeros(3, dtype=np.int64)
    slot_free = np.int64(0)  # output: when the present run's slot became free
    sums_loaded = np.int64(0)
    starts_output_run = True
    loads_sums = False

    _lengths(w, index, inner, outer_length, inner_length)
    for operand in (WEIGHT, INPUT):
        bits = _tile_bits(w, operand, index, inner, outer_length, inner_length) * w.element_bits[operand]
        if bits > 0:
            if log is not None:
                held_since[operand], held_bits[operand] = channel, bits
            channel = _request(bandwidth, burst, result, log, WEIGHT_READ + operand, bits, channel, 0, 0)
            loaded[operand] = channel + w.latency

    grid_free = np.int64(0)
    complete = np.int64(0)
    last_write = np.int64(0)
    while True:
        # The pass itself.
        event = result[EVENTS]
        occupied, folds, fold_compute, period, early = _occupation(w, inner_length)
        compute = folds * fold_compute
        if w.pass_compute.size > 0:
            compute, occupied, early = w.pass_compute[event], w.pass_occupied[event], w.pass_early[event]
        start = grid_free
        cause = -1
        if parameters_done > start:
            start, cause = parameters_done, STALL_PARAMETERS
        if loaded[WEIGHT] > start:
            start, cause = loaded[WEIGHT], STALL_WEIGHT
        if loaded[INPUT] > start:
            start, cause = loaded[INPUT], STALL_INPUT
        if starts_output_run:
            if loads_sums:
                if sums_loaded > start:
                    start, cause = sums_loaded, STALL_SUM
            elif slot_free > start:
                start, cause = slot_free, STALL_SLOT
        if cause >= 0:
            result[STALL0 + cause] += start - grid_free
        output_elements = _tile_bits(w, OUTPUT, index, inner, outer_length, inner_length)
        if log is not None:
            _note(log, STALL0 + cause, grid_free, start - grid_free, 0, event)
            if w.pass_compute.size > 0:
                # Folds differ in length, and their lengths are not kept: what is no compute is drawn ahead of it.
                _note(log, FILL_DRAIN, start, occupied - compute, 0, event)
                _note(log, COMPUTE, start + occupied - compute, compute, 0, event)
            else:
                _note_pass(log, w.load_cycles, folds, fold_compute, period, start, occupied, event)
            if starts_output_run:
                held_bits[OUTPUT] = output_elements * w.element_bits[OUTPUT]
                if not loads_sums:
                    held_since[OUTPUT] = start
        result[COMPUTE] += compute
        result[FILL_DRAIN] += occupied - compute
        grid_free = start + occupied
        complete = grid_free - early + (w.tail_cycles if w.overlap else 0)
        result[EVENTS] += 1

        # What the next event needs.
        ends_reduction = True
        for d in (C, R, S):
            if (index[d] + 1) * w.buffer_tile[d] < w.extent[d]:
                ends_reduction = False
        for d in range(8):
            next_index[d] = index[d]
            next_inner[d] = inner[d]
        more = _advance(w, next_index, next_inner, outer_length)
        same_output = more and _same_tile(w, OUTPUT, index, inner, next_index, next_inner)
        output_run_ends = not same_output or (w.bypass == OUTPUT and w.bypass_runs_each_event)
        if more:
            _lengths(w, next_index, next_inner, outer_length, inner_length)
            for operand in (WEIGHT, INPUT):
                new_run = (w.bypass == operand and w.bypass_runs_each_event) or not _same_tile(
                    w, operand, index, inner, next_index, next_inner
                )
                if new_run:
                    freed_before[operand] = freed[operand]
                    freed[operand] = grid_free
                    earliest = freed_before[operand] if w.double_buffer[operand] else freed[operand]
                    elements = _tile_bits(w, operand, next_index, next_inner, outer_length, inner_length)
                    bits = elements * w.element_bits[operand]
                    if log is not None:
                        since = held_since[operand]
                        _note(log, HELD0 + operand, since, grid_free - since, held_bits[operand], event)
                        held_since[operand], held_bits[operand] = max(channel, earliest), bits
                    if bits > 0:
                        channel = _request(
                            bandwidth, burst, result, log, WEIGHT_READ + operand, bits, channel, earliest, event + 1
                        )
                        loaded[operand] = channel + w.latency
                    else:
                        loaded[operand] = earliest

        starts_output_run = output_run_ends
        if output_run_ends:
            loads_sums = False
            sum_bits = np.int64(0)
            if more:
                for d in (C, R, S):
                    if next_index[d] > 0:
                        loads_sums = True
                if loads_sums:
                    elements = _tile_bits(w, OUTPUT, next_index, next_inner, outer_length, inner_length)
                    sum_bits = elements * w.element_bits[OUTPUT]
            sums_first = w.double_buffer[OUTPUT] and not same_output
            since = held_since[OUTPUT]
            for turn in range(2):
                if (turn == 0) == sums_first:
                    if loads_sums:
                        # Double-buffered: the slot of the last run but one, whose write-back is complete at
                        # `freed` now, before this run's own write-back takes its place below.
                        earliest = freed[OUTPUT] if sums_first or not w.double_buffer[OUTPUT] else freed_before[OUTPUT]
                        if log is not None:
                            held_since[OUTPUT] = max(channel, earliest)
                        channel = _request(
                            bandwidth, burst, result, log, SUM_READ, sum_bits, channel, earliest, event + 1
                        )
                        sums_loaded = channel + w.latency
                else:
                    bits = output_elements * (w.element_bits[3] if ends_reduction else w.element_bits[OUTPUT])
                    kind = FINAL_WRITE if ends_reduction else SUM_WRITE
                    channel = _request(bandwidth, burst, result, log, kind, bits, channel, complete, event)
                    if log is not None:
                        _note(log, HELD0 + OUTPUT, since, channel - since, held_bits[OUTPUT], event)
                    last_write = max(last_write, channel)
                    freed_before[OUTPUT] = freed[OUTPUT]
                    freed[OUTPUT] = channel
            slot_free = freed_before[OUTPUT] if w.double_buffer[OUTPUT] else freed[OUTPUT]
        if not more:
            break
        for d in range(8):
            index[d] = next_index[d]
            inner[d] = next_inner[d]

    result[FILL_DRAIN] += complete - grid_free
    result[TOTAL] = max(complete, last_write)
    result[STALL0 + STALL_WRITE] = result[TOTAL] - complete
    if log is not None:
        _note(log, FILL_DRAIN, grid_free, complete - grid_free, 0, event)
        _note(log, STALL0 + STALL_WRITE, complete, result[TOTAL] - complete, 0, event)
        for operand in (WEIGHT, INPUT):
            since = held_since[operand]
            _note(log, HELD0 + operand, since, grid_free - since, held_bits[operand], event)
    return result
