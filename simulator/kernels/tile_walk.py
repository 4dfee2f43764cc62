"""The ``fast`` engine's walk: from event to event of one layer's tile loop (docs/simulator.md).

The kernel keeps, for each operand and each memory that it passes (its *places*, outermost first), when its present and
its last run let go of their slots, and when each port is free next: everything else follows from maxima of these
times. Cost grows with the number of events.

The same walk writes a timeline where it is handed a ``Log``; Numba compiles the walk without one apart, and drops
everything that concerns the log from it.
"""

from __future__ import annotations

from collections import namedtuple

import numba
import numpy as np

from simulator.kernels.dram_rows import OUTPUTS, SUMS, WEIGHTS, parameter_row_cycles, tile_row_cycles
from simulator.kernels.grid_ports import READ, WRITE, port_cycles, port_of
from simulator.kernels.loop_nest import INPUT, OUTPUT, WEIGHT, C, R, S, advance, same_tile, set_extents, tile_elements

# L: levels of buffers; L + 1 stands for the registers. P: places, the most that an operand has.
WalkInput = namedtuple(
    "WalkInput",
    [
        "loop_dim",  # (loops,) dimension of each event loop, outermost first
        "loop_level",  # (loops,) level whose tile it cuts; L only where an operand bypasses all buffers
        "extent",  # (8,) layer
        "tile",  # (L + 1, 8) the layer, then the buffer tiles
        "trips",  # (L + 1, 8) nominal trips of the loops of each level; on level L 1 where they are no event loops
        "grid_tile",  # (8,) register tile of the whole grid
        "unroll",  # (8,)
        "streamed",  # (8,) dimensions irrelevant to the stationary operand
        "relevant",  # (3, 8)
        "touched",  # input rows and columns of the pairs of tiles of each level, one table behind the other
        "touched_start", "touched_width",  # (2, L + 2) where a table begins, and its tap tiles
        "element_bits",  # (4,) weight, input, partial sum, finished output
        "in_registers",  # (3,) whether a register file keeps the operand
        "place_count",  # (3,)
        "place_level",  # (3, P) level of the place; L + 1 for registers
        "place_depth",  # (3, P) event loops, counted from the outermost, of which each trip begins a new run
        "place_memory",  # (3, P) number of the memory
        "place_latency",  # (3, P) cycles from the end of a transfer out of it to its arrival
        "place_bits",  # (3, P) of an element held there
        "double_buffer",  # (3, P)
        "slot",  # (3, P) number of the operand's first slot in the memory
        "keeps_before",  # (3, 3) whether another operand's slots come before an operand's in its outermost place
        "banks",  # (3, P)
        "port",  # (2, 3, P) first of the ports for reading and writing, one a bank; -1: not limited
        "width",  # (2, 3, P) bits a cycle of such a port
        "port_count",  # with the DRAM channel, port 0
        "memory_count",
        "grid_ports",  # whether a pass can be limited by a port
        "held",  # (3, 8) loops inside a pass across which an operand stays in the registers
        "register_tiles",  # (8,) nominal register tiles of an innermost buffer tile
        "prefix", "prefix_start", "prefix_width",  # sums of the input's rows and columns over register tiles
        "parameter_bits",
        "step_cycles", "load_cycles", "tail_cycles", "drain_cycles", "overlap", "preload", "folds_on",
        "pass_compute", "pass_occupied",  # (events,) where the values decide; else empty
        "bandwidth", "latency", "burst",
        "rows",  # RowInput
        "has_rows",
    ],
)

# Places in the result.
TOTAL, COMPUTE, FILL_DRAIN, STALL0 = 0, 1, 2, 3
BUSY, EVENTS = 9, 10
WEIGHT_READ, INPUT_READ, SUM_READ, FINAL_WRITE, SUM_WRITE, PARAMETER_READ = 11, 12, 13, 14, 15, 16
ROW_WAIT = 17
RESULT_SIZE = 18
# A timeline also has how long tiles stay on chip: HELD0 + operand.
HELD0 = 18
STALL_PARAMETERS, STALL_WEIGHT, STALL_INPUT, STALL_SUM, STALL_SLOT, STALL_WRITE, CAUSES = range(7)
DRAM = 0  # the memory, and its port

Log = namedtuple(
    "Log",
    [
        # (capacity, 6): kind (a place in the result, or HELD0 + operand), start, cycles, bits, event, memory (of a
        # transfer the outer one)
        "rows",
        "count",  # (1,) rows that there are; what is beyond the capacity is counted and not kept
    ],
)

# What a walk carries from event to event.
State = namedtuple(
    "State",
    [
        "result", "stalls",
        "free",  # (ports,) when each port is free
        "open_rows", "refresh",  # DRAM rows: open row of each bank; when the next refresh is due
        "loaded",  # (3, P) when the present run's data, or of a fresh output its slot, is there
        "blame",  # (3, P) memory to name where somebody waits for that
        "freed", "freed_before",  # (3, P) when the last run let go of its slot, and the one before it
        "moved",  # (3, P) when the last transfer into (outputs: out of) the place ended
        "run",  # (3, P) number of the present run
        "held_bits",  # (3, P) of the present run
        "held_since",  # (3, P) for the log
        "sums",  # (P,) whether the present output run began with partial sums
        "fresh",  # (P,) whether no pass of it has started yet, for the log
    ],
)


@numba.njit(cache=True)
def _note(log, kind, start, cycles, bits, event, memory):
    """Add a row to the log; what takes no time is no row."""
    if cycles > 0:
        row = log.count[0]
        if row < log.rows.shape[0]:
            log.rows[row, 0] = kind
            log.rows[row, 1] = start
            log.rows[row, 2] = cycles
            log.rows[row, 3] = bits
            log.rows[row, 4] = event
            log.rows[row, 5] = memory
        log.count[0] = row + 1


@numba.njit(cache=True)
def _note_pass(log, load, folds, steps, period, start, occupied, event):
    """Add the folds of a pass. ``steps``: compute cycles of one; ``period``: from one fold to the next."""
    if period == steps:  # no gap between folds: one stretch of compute
        folds, steps = 1, folds * steps
    at = start
    for fold in range(folds):
        begin = start + load + fold * period
        _note(log, FILL_DRAIN, at, begin - at, 0, event, -1)
        _note(log, COMPUTE, begin, steps, 0, event, -1)
        at = begin + steps
    _note(log, FILL_DRAIN, at, start + occupied - at, 0, event, -1)


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
def _refresh(w, st, earliest):
    """Let all refreshes pass that are due before the channel could take a request. Returns when it can."""
    if w.has_rows and w.rows.refresh_interval_cycles > 0:
        while st.refresh[0] <= max(earliest, st.free[DRAM]):
            st.free[DRAM] = max(st.free[DRAM], st.refresh[0]) + w.rows.refresh_cycles
            st.refresh[0] += w.rows.refresh_interval_cycles
            st.open_rows[:] = -1
    return max(earliest, st.free[DRAM])


@numba.njit(cache=True)
def _transfer(
    w, st, log, kind, operand, place, bits, own_bits, earliest, run, parent_run, event, begin, length, region
):
    """Move bits between a place of an operand and the next outer one. Returns (start, end).

    ``own_bits``: as the place itself holds them, which only for sums that leave finished differ from ``bits``. The
    ports on both sides are taken in the order of the calls, and both are held as long as the slower one needs.
    ``begin``, ``length``: the tile, for the DRAM's rows.
    """
    inward = kind == WEIGHT_READ + operand or kind == SUM_READ
    own = port_of(w, WRITE if inward else READ, operand, place, run)
    cycles = 0
    if own >= 0:
        cycles = -(-own_bits // w.width[WRITE if inward else READ, operand, place])
    if place == 0:
        moved = -(-bits // w.burst) * w.burst
        cycles = max(cycles, -(-moved // w.bandwidth))
        outer = DRAM
        result = st.result
        start = _refresh(w, st, earliest if own < 0 else max(earliest, st.free[own]))
        if w.has_rows:
            element = w.element_bits[3] if kind == FINAL_WRITE else w.element_bits[operand]
            waits = tile_row_cycles(w.rows, st.open_rows, operand, region, begin, length, element)
            result[ROW_WAIT] += waits
            cycles += waits
        result[BUSY] += cycles
        result[kind] += bits
    else:
        outer = port_of(w, READ if inward else WRITE, operand, place - 1, parent_run)
        if outer >= 0:
            cycles = max(cycles, -(-bits // w.width[READ if inward else WRITE, operand, place - 1]))
        start = earliest
        if cycles > 0:
            if own >= 0:
                start = max(start, st.free[own])
            if outer >= 0:
                start = max(start, st.free[outer])
    end = start + cycles
    if cycles > 0:
        if own >= 0:
            st.free[own] = end
        if outer >= 0:
            st.free[outer] = end
    if log is not None:
        memory = w.place_memory[operand, place - 1] if place > 0 else DRAM
        _note(log, kind, start, cycles, bits, event, memory)
    return start, end


@numba.njit(cache=True)
def _outer(w, operand, place):
    """Memory, and latency of reads, of the next outer place."""
    if place == 0:
        return DRAM, w.latency
    return w.place_memory[operand, place - 1], w.place_latency[operand, place - 1]


@numba.njit(cache=True)
def _load(w, st, log, operand, place, earliest, event, index, begin, length):
    """Bring the weights or inputs of a new run into their place."""
    level = w.place_level[operand, place]
    bits = tile_elements(w, operand, level, index, length) * w.element_bits[operand]
    memory, latency = _outer(w, operand, place)
    parent_run = st.run[operand, place - 1] if place > 0 else 0
    start = earliest
    if bits > 0:
        available = st.loaded[operand, place - 1] if place > 0 else 0
        start, end = _transfer(
            w, st, log, WEIGHT_READ + operand, operand, place, bits, bits, max(earliest, available),
            st.run[operand, place], parent_run, event, begin[level], length[level], WEIGHTS + operand,
        )
        # Whoever waits for this waits for the memory outside, or for what that one itself waited for.
        late = place > 0 and start == available and available > earliest
        st.blame[operand, place] = st.blame[operand, place - 1] if late else memory
        st.loaded[operand, place] = end + latency
        st.moved[operand, place] = end
    else:
        st.blame[operand, place] = memory
        st.loaded[operand, place] = earliest
    st.held_bits[operand, place] = bits
    if log is not None:
        st.held_since[operand, place] = start


@numba.njit(cache=True)
def _load_sums(w, st, log, place, earliest, event, loop, index, begin, length):
    """Bring the partial sums of a new output run into their place. ``loop``: the loop that went on to it."""
    level = w.place_level[OUTPUT, place]
    bits = tile_elements(w, OUTPUT, level, index, length) * w.element_bits[OUTPUT]
    memory, latency = _outer(w, OUTPUT, place)
    available = st.loaded[OUTPUT, place - 1] if place > 0 else 0
    earliest = max(earliest, st.moved[OUTPUT, place])
    parent_run = 0
    if place > 0:
        parent_run = st.run[OUTPUT, place - 1] + (loop < w.place_depth[OUTPUT, place - 1])
    start, end = _transfer(
        w, st, log, SUM_READ, OUTPUT, place, bits, bits, max(earliest, available), st.run[OUTPUT, place] + 1,
        parent_run, event, begin[level], length[level], SUMS,
    )
    late = place > 0 and start == available and available > earliest
    st.blame[OUTPUT, place] = st.blame[OUTPUT, place - 1] if late else memory
    st.loaded[OUTPUT, place] = end + latency
    if log is not None:
        st.held_since[OUTPUT, place] = start


@numba.njit(cache=True)
def _write_back(w, st, log, place, earliest, event, index, begin, length):
    """Move an output run that ended out of its place. Returns when that is done."""
    level = w.place_level[OUTPUT, place]
    finished = True
    for d in (C, R, S):
        if begin[level, d] + length[level, d] < w.extent[d]:
            finished = False
    elements = tile_elements(w, OUTPUT, level, index, length)
    bits = elements * w.element_bits[3 if finished else OUTPUT]
    # The grid leaves sums as they are; further out a finished output is stored as such.
    own_bits = elements * w.element_bits[OUTPUT] if place == w.place_count[OUTPUT] - 1 else bits
    parent_run = st.run[OUTPUT, place - 1] if place > 0 else 0
    _, end = _transfer(
        w, st, log, FINAL_WRITE if finished else SUM_WRITE, OUTPUT, place, bits, own_bits, earliest,
        st.run[OUTPUT, place], parent_run, event, begin[level], length[level], OUTPUTS if finished else SUMS,
    )
    if log is not None:
        since = st.held_since[OUTPUT, place]
        memory = w.place_memory[OUTPUT, place]
        _note(log, HELD0 + OUTPUT, since, end - since, st.held_bits[OUTPUT, place], event, memory)
    st.freed_before[OUTPUT, place] = st.freed[OUTPUT, place]
    st.freed[OUTPUT, place] = end
    st.moved[OUTPUT, place] = end
    return end


@numba.njit(cache=True)
def _stall(st, cause, memory, cycles):
    st.result[STALL0 + cause] += cycles
    st.stalls[cause, memory] += cycles


@numba.njit(cache=True)
def _load_parameters(w, st, log):
    """Bring scales and biases. Returns when they are there."""
    if w.parameter_bits == 0:
        return 0
    start = _refresh(w, st, 0)
    moved = -(-w.parameter_bits // w.burst) * w.burst
    cycles = -(-moved // w.bandwidth)
    if w.has_rows:
        waits = parameter_row_cycles(w.rows, st.open_rows, w.parameter_bits)
        st.result[ROW_WAIT] += waits
        cycles += waits
    st.free[DRAM] = start + cycles
    st.result[BUSY] += cycles
    st.result[PARAMETER_READ] += w.parameter_bits
    if log is not None:
        _note(log, PARAMETER_READ, start, cycles, w.parameter_bits, 0, DRAM)
    return start + cycles + w.latency


@numba.njit(cache=True)
def _start_pass(w, st, log, grid_free, parameters_done, hold, event):
    """When a pass may start; what the grid waits for until then is counted as a stall."""
    start, cause, memory = grid_free, -1, -1
    if parameters_done > start:
        start, cause, memory = parameters_done, STALL_PARAMETERS, DRAM
    for operand in (WEIGHT, INPUT, OUTPUT):
        place = w.place_count[operand] - 1
        if st.loaded[operand, place] > start:
            start, memory = st.loaded[operand, place], st.blame[operand, place]
            cause = STALL_WEIGHT + operand
            if operand == OUTPUT and not st.sums[place]:
                cause = STALL_SLOT
    if w.grid_ports:
        for operand in (WEIGHT, INPUT, OUTPUT):
            for port in range(1, w.port_count):
                if hold[port, operand] > 0 and st.free[port] > start:
                    start, memory = st.free[port], w.place_memory[operand, w.place_count[operand] - 1]
                    cause = STALL_WEIGHT + operand
    if cause >= 0:
        _stall(st, cause, memory, start - grid_free)
        if log is not None:
            _note(log, STALL0 + cause, grid_free, start - grid_free, 0, event, memory)
    return start


@numba.njit(cache=True)
def _stretch(w, st, log, start, occupied, hold, event):
    """Cycles that a pass waits for its ports beyond its own; holds the ports as long as the pass needs them."""
    longest, who = 0, 0
    for port in range(1, w.port_count):
        held = 0
        for operand in range(3):
            held += hold[port, operand]
        if held > 0:
            st.free[port] = start + held
        if held > longest:
            longest = held
            who = WEIGHT
            for operand in (INPUT, OUTPUT):
                if hold[port, operand] > hold[port, who]:
                    who = operand
    if longest <= occupied:
        return 0
    memory = w.place_memory[who, w.place_count[who] - 1]
    _stall(st, STALL_WEIGHT + who, memory, longest - occupied)
    if log is not None:
        _note(log, STALL0 + STALL_WEIGHT + who, start + occupied, longest - occupied, 0, event, memory)
    return longest - occupied


@numba.njit(cache=True)
def _released(st, operand, place, last, grid_free):
    """When the present run gives up its slot: what the grid reads with the pass, what a smaller buffer copies with
    its last copy, what is nothing but padding as soon as it has the slot."""
    if place == last:
        return grid_free
    return st.moved[operand, place + 1] if st.held_bits[operand, place] > 0 else st.loaded[operand, place]


@numba.njit(cache=True)
def _next_operands(w, st, log, loop, grid_free, event, index, begin, length):
    """Queue the loads of weights and inputs whose runs begin with the next event."""
    for operand in (WEIGHT, INPUT):
        last = w.place_count[operand] - 1
        for place in range(last + 1):
            if loop >= w.place_depth[operand, place]:
                continue
            st.freed_before[operand, place] = st.freed[operand, place]
            released = _released(st, operand, place, last, grid_free)
            st.freed[operand, place] = released
            if log is not None:
                since = st.held_since[operand, place]
                memory = w.place_memory[operand, place]
                _note(log, HELD0 + operand, since, released - since, st.held_bits[operand, place], event, memory)
            st.run[operand, place] += 1
            earliest = st.freed_before[operand, place] if w.double_buffer[operand, place] else released
            _load(w, st, log, operand, place, earliest, event + 1, index, begin, length)


@numba.njit(cache=True)
def _has_sums(w, place, index):
    """Whether an output run begins with partial sums: somewhere a reduced dimension is not at its beginning."""
    for level in range(w.place_level[OUTPUT, place]):
        for d in (C, R, S):
            if index[level, d] > 0:
                return True
    return False


@numba.njit(cache=True)
def _next_outputs(
    w, st, log, loop, complete, event, index, begin, length, next_index, next_begin, next_length, ahead, ready
):
    """Queue the write-backs of output runs that ended, and the partial sums of those that begin.

    ``loop``: the loop that goes on to the next event, -1 behind the last. Returns when the last write-back is done.
    """
    count = w.place_count[OUTPUT]
    written = 0
    # What a write-back goes into is the present run of the outer place, whatever loads there behind it.
    for place in range(count):
        ready[place] = st.loaded[OUTPUT, place]
    may_be_ahead = True
    for place in range(count):
        ahead[place] = False
        if 0 <= loop < w.place_depth[OUTPUT, place]:
            level = w.place_level[OUTPUT, place]
            ahead[place] = (
                may_be_ahead
                and w.double_buffer[OUTPUT, place]
                and not same_tile(w, OUTPUT, level, index, next_index)
            )
            may_be_ahead = ahead[place]
            if ahead[place] and _has_sums(w, place, next_index):
                # The slot of the last run but one, whose write-back is done at `freed` now, before this run's own
                # write-back takes its place below.
                _load_sums(
                    w, st, log, place, st.freed[OUTPUT, place], event + 1, loop, next_index, next_begin, next_length
                )
    for place in range(count - 1, -1, -1):
        if loop < 0 or loop < w.place_depth[OUTPUT, place]:
            earliest = complete if place == count - 1 else st.moved[OUTPUT, place + 1]
            if place > 0:
                earliest = max(earliest, ready[place - 1])
            written = max(written, _write_back(w, st, log, place, earliest, event, index, begin, length))
    for place in range(count):
        if 0 <= loop < w.place_depth[OUTPUT, place]:
            slot = st.freed_before[OUTPUT, place] if w.double_buffer[OUTPUT, place] else st.freed[OUTPUT, place]
            st.sums[place] = _has_sums(w, place, next_index)
            if not st.sums[place]:
                st.loaded[OUTPUT, place] = slot
                st.blame[OUTPUT, place] = _outer(w, OUTPUT, place)[0]
            elif not ahead[place]:
                _load_sums(w, st, log, place, slot, event + 1, loop, next_index, next_begin, next_length)
            st.fresh[place] = True
    for place in range(count):
        if 0 <= loop < w.place_depth[OUTPUT, place]:
            st.run[OUTPUT, place] += 1
    return written


@numba.njit(cache=True)
def walk(w, log=None):
    """Walk all events of a layer.

    Returns an int64 array of ``RESULT_SIZE`` counts (see the constants) and the stalls, int64 (causes, memories).
    ``log``: a ``Log`` that receives the timeline, or None.
    """
    levels = w.tile.shape[0] - 1
    places = w.place_level.shape[1]
    index = np.zeros((levels + 1, 8), dtype=np.int64)
    next_index = np.zeros((levels + 1, 8), dtype=np.int64)
    begin = np.empty((levels + 2, 8), dtype=np.int64)
    length = np.empty((levels + 2, 8), dtype=np.int64)
    next_begin = np.empty((levels + 2, 8), dtype=np.int64)
    next_length = np.empty((levels + 2, 8), dtype=np.int64)
    hold = np.zeros((w.port_count, 3), dtype=np.int64)
    ahead = np.zeros(places, dtype=np.bool_)
    ready = np.zeros(places, dtype=np.int64)
    result = np.zeros(RESULT_SIZE, dtype=np.int64)
    st = State(
        result=result, stalls=np.zeros((CAUSES, w.memory_count), dtype=np.int64),
        free=np.zeros(w.port_count, dtype=np.int64),
        open_rows=np.full(w.rows.banks, -1, dtype=np.int64),
        refresh=np.full(1, w.rows.refresh_interval_cycles, dtype=np.int64),
        loaded=np.zeros((3, places), dtype=np.int64), blame=np.zeros((3, places), dtype=np.int64),
        freed=np.zeros((3, places), dtype=np.int64), freed_before=np.zeros((3, places), dtype=np.int64),
        moved=np.zeros((3, places), dtype=np.int64), run=np.zeros((3, places), dtype=np.int64),
        held_since=np.zeros((3, places), dtype=np.int64), held_bits=np.zeros((3, places), dtype=np.int64),
        sums=np.zeros(places, dtype=np.bool_), fresh=np.ones(places, dtype=np.bool_),
    )
    parameters_done = _load_parameters(w, st, log)
    set_extents(w, index, begin, length)
    for operand in (WEIGHT, INPUT):
        for place in range(w.place_count[operand]):
            _load(w, st, log, operand, place, 0, 0, index, begin, length)

    grid_free = np.int64(0)
    complete = np.int64(0)
    last_write = np.int64(0)
    while True:
        event = result[EVENTS]
        if w.pass_compute.shape[0] > 0:
            fold_compute, occupied, folds, early = w.pass_compute[event], w.pass_occupied[event], 1, 0
            period = fold_compute
        else:
            occupied, folds, fold_compute, period, early = _occupation(w, length[levels + 1])
        if w.grid_ports:
            port_cycles(w, st.run, index, length, hold)
        start = _start_pass(w, st, log, grid_free, parameters_done, hold, event)
        stretch = _stretch(w, st, log, start, occupied, hold, event) if w.grid_ports else 0
        if log is not None:
            _note_pass(log, w.load_cycles, folds, fold_compute, period, start, occupied, event)
            for place in range(w.place_count[OUTPUT]):
                if st.fresh[place]:
                    level = w.place_level[OUTPUT, place]
                    st.held_bits[OUTPUT, place] = (
                        tile_elements(w, OUTPUT, level, index, length) * w.place_bits[OUTPUT, place]
                    )
                    if not st.sums[place]:
                        st.held_since[OUTPUT, place] = start
                    st.fresh[place] = False
        result[COMPUTE] += folds * fold_compute
        result[FILL_DRAIN] += occupied - folds * fold_compute
        grid_free = start + occupied + stretch
        complete = grid_free - early + (w.tail_cycles if w.overlap else 0)
        result[EVENTS] += 1

        next_index[:] = index
        loop = advance(w, next_index, length)
        if loop >= 0:
            set_extents(w, next_index, next_begin, next_length)
            _next_operands(w, st, log, loop, grid_free, event, next_index, next_begin, next_length)
        if loop < w.place_depth[OUTPUT, w.place_count[OUTPUT] - 1]:
            written = _next_outputs(
                w, st, log, loop, complete, event, index, begin, length, next_index, next_begin, next_length,
                ahead, ready,
            )
            last_write = max(last_write, written)
        if loop < 0:
            break
        index, next_index = next_index, index
        begin, next_begin = next_begin, begin
        length, next_length = next_length, length

    result[FILL_DRAIN] += complete - grid_free
    result[TOTAL] = max(complete, last_write)
    _stall(st, STALL_WRITE, DRAM, result[TOTAL] - complete)
    if log is not None:
        _note(log, FILL_DRAIN, grid_free, complete - grid_free, 0, event, -1)
        _note(log, STALL0 + STALL_WRITE, complete, result[TOTAL] - complete, 0, event, DRAM)
        for operand in (WEIGHT, INPUT):
            last = w.place_count[operand] - 1
            for place in range(last + 1):
                since = st.held_since[operand, place]
                released = _released(st, operand, place, last, grid_free)
                memory = w.place_memory[operand, place]
                _note(log, HELD0 + operand, since, released - since, st.held_bits[operand, place], event, memory)
    return result, st.stalls
