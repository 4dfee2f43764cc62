"""The ``fast`` engine's walk: from event to event of one layer's tile loop (docs/simulator.md).

The kernel keeps, for each operand and each of its places, when its present and its last run let go of their slots, and
when each port is free next: everything else follows from maxima of these times. Cost grows with the number of events.

The same walk writes a timeline where it is handed a ``Log``; Numba compiles the walk without one apart, and drops
everything that concerns the log from it.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from simulator.kernels.compiled import inner
from simulator.kernels.grid_ports import port_cycles
from simulator.kernels.loop_nest import INPUT, OUTPUT, WEIGHT, C, R, S, advance, same_tile, set_extents, tile_elements
from simulator.kernels.occupation import occupation
from simulator.kernels.plain_walk import ENDLESS, is_plain, plain_walk
from simulator.kernels.transfers import (
    CAUSES,
    COMPUTE,
    DRAM,
    EVENTS,
    FILL_DRAIN,
    HELD0,
    RESULT_SIZE,
    STALL0,
    STALL_PARAMETERS,
    STALL_SLOT,
    STALL_WEIGHT,
    STALL_WRITE,
    TOTAL,
    Log,
    State,
    WalkInput,
    load,
    load_parameters,
    load_sums,
    note,
    outer,
    write_back,
)


@inner()
def _note_pass(log, load, folds, steps, period, start, occupied, event):
    """Add the folds of a pass. ``steps``: compute cycles of one; ``period``: from one fold to the next."""
    if period == steps:  # no gap between folds: one stretch of compute
        folds, steps = 1, folds * steps
    at = start
    for fold in range(folds):
        begin = start + load + fold * period
        note(log, FILL_DRAIN, at, begin - at, 0, event, -1)
        note(log, COMPUTE, begin, steps, 0, event, -1)
        at = begin + steps
    note(log, FILL_DRAIN, at, start + occupied - at, 0, event, -1)


@inner()
def _stall(st, cause, memory, cycles):
    st.result[STALL0 + cause] += cycles
    st.stalls[cause, memory] += cycles


@inner()
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
            note(log, STALL0 + cause, grid_free, start - grid_free, 0, event, memory)
    return start


@inner()
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
        note(log, STALL0 + STALL_WEIGHT + who, start + occupied, longest - occupied, 0, event, memory)
    return longest - occupied


@inner()
def _released(st, operand, place, last, grid_free):
    """When the present run gives up its slot: what the grid reads with the pass, what a smaller buffer copies with
    its last copy, what is nothing but padding as soon as it has the slot."""
    if place == last:
        return grid_free
    return st.moved[operand, place + 1] if st.held_bits[operand, place] > 0 else st.loaded[operand, place]


@inner()
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
                note(log, HELD0 + operand, since, released - since, st.held_bits[operand, place], event, memory)
            st.run[operand, place] += 1
            earliest = st.freed_before[operand, place] if w.double_buffer[operand, place] else released
            load(w, st, log, operand, place, earliest, event + 1, index, begin, length)


@inner()
def _has_sums(w, place, index):
    """Whether an output run begins with partial sums: somewhere a reduced dimension is not at its beginning."""
    for level in range(w.place_level[OUTPUT, place]):
        for d in (C, R, S):
            if index[level, d] > 0:
                return True
    return False


@inner()
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
                load_sums(
                    w, st, log, place, st.freed[OUTPUT, place], event + 1, loop, next_index, next_begin, next_length
                )
    for place in range(count - 1, -1, -1):
        if loop < 0 or loop < w.place_depth[OUTPUT, place]:
            earliest = complete if place == count - 1 else st.moved[OUTPUT, place + 1]
            if place > 0:
                earliest = max(earliest, ready[place - 1])
            written = max(written, write_back(w, st, log, place, earliest, event, index, begin, length))
    for place in range(count):
        if 0 <= loop < w.place_depth[OUTPUT, place]:
            slot = st.freed_before[OUTPUT, place] if w.double_buffer[OUTPUT, place] else st.freed[OUTPUT, place]
            st.sums[place] = _has_sums(w, place, next_index)
            if not st.sums[place]:
                st.loaded[OUTPUT, place] = slot
                st.blame[OUTPUT, place] = outer(w, OUTPUT, place)[0]
            elif not ahead[place]:
                load_sums(w, st, log, place, slot, event + 1, loop, next_index, next_begin, next_length)
            st.empty[place] = not st.sums[place]
            st.held_bits[OUTPUT, place] = -1
    for place in range(count):
        if 0 <= loop < w.place_depth[OUTPUT, place]:
            st.run[OUTPUT, place] += 1
            if st.sums[place]:
                st.held_since[OUTPUT, place] = st.next_since[place]
    return written


@inner()
def _note_outputs(w, st, index, length, start):
    """Remember for the log how much the present output runs hold; the grid writes to its own from its start on."""
    last = w.place_count[OUTPUT] - 1
    for place in range(last + 1):
        if st.held_bits[OUTPUT, place] < 0:
            elements = tile_elements(w, OUTPUT, w.place_level[OUTPUT, place], index, length)
            st.held_bits[OUTPUT, place] = elements * w.place_bits[OUTPUT, place]
    if st.empty[last]:
        st.held_since[OUTPUT, last] = start
        st.empty[last] = False


def walk(w: WalkInput, log: Log | None = None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Walk all events of a layer, the short way where there is one.

    Returns an int64 array of ``RESULT_SIZE`` counts (see the constants) and the stalls, int64 (causes, memories).
    ``log``: a ``Log`` that receives the timeline, or None. Not compiled itself: whose machines are all plain does not
    wait for the full walk's compilation, which takes several times that of the short one.
    """
    counts, stalls = plain_walk(w, ENDLESS) if log is None and is_plain(w) else full_walk(w, log)
    return counts, stalls


@numba.njit(cache=True)
def full_walk(w, log):
    """Walk all events of a layer on any machine; takes and returns what ``walk`` does."""
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
        next_since=np.zeros(places, dtype=np.int64),
        sums=np.zeros(places, dtype=np.bool_), empty=np.ones(places, dtype=np.bool_),
    )
    st.held_bits[OUTPUT] = -1
    grid_free = np.int64(0)
    parameters_done = load_parameters(w, st, log)
    set_extents(w, index, begin, length)
    for operand in (WEIGHT, INPUT):
        for place in range(w.place_count[operand]):
            load(w, st, log, operand, place, grid_free, result[EVENTS], index, begin, length)

    complete = np.int64(0)
    last_write = np.int64(0)
    while True:
        event = result[EVENTS]
        occupied, folds, compute, fold_compute, period, folds_differ, early = occupation(
            w, begin[levels + 1], length[levels + 1]
        )
        if w.pass_compute.size > 0:
            compute, occupied, early = w.pass_compute[event], w.pass_occupied[event], w.pass_early[event]
            folds_differ = True
        if w.grid_ports:
            port_cycles(w, st.run, index, begin, length, hold)
        start = _start_pass(w, st, log, grid_free, parameters_done, hold, event)
        if log is not None:
            if folds_differ:
                # Folds differ in length, and their lengths are not kept: what is no compute is drawn ahead of it.
                note(log, FILL_DRAIN, start, occupied - compute, 0, event, -1)
                note(log, COMPUTE, start + occupied - compute, compute, 0, event, -1)
            else:
                _note_pass(log, w.load_cycles, folds, fold_compute, period, start, occupied, event)
            _note_outputs(w, st, index, length, start)
        stretch = _stretch(w, st, log, start, occupied, hold, event) if w.grid_ports else 0
        result[COMPUTE] += compute
        result[FILL_DRAIN] += occupied - compute
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
        note(log, FILL_DRAIN, grid_free, complete - grid_free, 0, event, -1)
        note(log, STALL0 + STALL_WRITE, complete, result[TOTAL] - complete, 0, event, DRAM)
        for operand in (WEIGHT, INPUT):
            last = w.place_count[operand] - 1
            for place in range(last + 1):
                since = st.held_since[operand, place]
                released = _released(st, operand, place, last, grid_free)
                memory = w.place_memory[operand, place]
                note(log, HELD0 + operand, since, released - since, st.held_bits[operand, place], event, memory)
    return result, st.stalls
