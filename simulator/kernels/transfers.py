"""What moves between memories: transfers on ports in program order, and the state that the walk carries along.

A *place* is a memory that an operand passes on its way between DRAM and the grid (docs/simulator.md, "Transfers").
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from simulator.kernels.compiled import inner
from simulator.kernels.dram_rows import OUTPUTS, SUMS, WEIGHTS, parameter_row_cycles, tile_row_cycles
from simulator.kernels.grid_ports import READ, WRITE, port_of
from simulator.kernels.loop_nest import OUTPUT, C, R, S, tile_bits, tile_elements
from simulator.kernels.numbers import named_numbers

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
        # Where the time of a step depends on values (else of size 0): what each pass takes, by event. Compute cycles,
        # cycles that it holds the grid, and how many of the latter its results need not wait for.
        "pass_compute", "pass_occupied", "pass_early",
        "bandwidth", "latency", "burst",
        "split",  # SplitInput
        "rows",  # RowInput
        "has_rows",
    ],
)

# Places in the result.
TOTAL, COMPUTE, FILL_DRAIN, STALL0 = 0, 1, 2, 3
BUSY, EVENTS = 9, 10
WEIGHT_READ, INPUT_READ, SUM_READ, FINAL_WRITE, SUM_WRITE, PARAMETER_READ = named_numbers(11, 17)
ROW_WAIT = 17
RESULT_SIZE = 18
# A timeline also has how long tiles stay on chip: HELD0 + operand.
HELD0 = 18
STALL_PARAMETERS, STALL_WEIGHT, STALL_INPUT, STALL_SUM, STALL_SLOT, STALL_WRITE, CAUSES = named_numbers(0, 7)
(DRAM,) = named_numbers(0, 1)  # the memory, and its port

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
        "held_since",  # (3, P) for the log: when the present run took its slot
        "next_since",  # (P,) and of outputs the next one
        "sums",  # (P,) whether the present output run began with partial sums
        "empty",  # (P,) whether nothing has been written to it yet, for the log
    ],
)


@inner()
def note(log, kind, start, cycles, bits, event, memory):
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


@inner()
def _refresh(w, st, earliest):
    """Let all refreshes pass that are due before the channel could take a request. Returns when it can."""
    if w.has_rows and w.rows.refresh_interval_cycles > 0:
        while st.refresh[0] <= max(earliest, st.free[DRAM]):
            st.free[DRAM] = max(st.free[DRAM], st.refresh[0]) + w.rows.refresh_cycles
            st.refresh[0] += w.rows.refresh_interval_cycles
            st.open_rows[:] = -1
    return max(earliest, st.free[DRAM])


@inner()
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
            waits = tile_row_cycles(w.rows, w.split, st.open_rows, operand, region, begin, length, element)
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
        note(log, kind, start, cycles, bits, event, memory)
    return start, end


@inner()
def outer(w, operand, place):
    """Memory, and latency of reads, of the next outer place."""
    if place == 0:
        return DRAM, w.latency
    return w.place_memory[operand, place - 1], w.place_latency[operand, place - 1]


@inner()
def load(w, st, log, operand, place, earliest, event, index, begin, length):
    """Bring the weights or inputs of a new run into their place."""
    level = w.place_level[operand, place]
    bits = tile_bits(w, operand, level, index, begin, length)
    memory, latency = outer(w, operand, place)
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
        # Transfers from different banks may overtake one another.
        st.moved[operand, place] = max(st.moved[operand, place], end)
    else:
        st.blame[operand, place] = memory
        st.loaded[operand, place] = earliest
    st.held_bits[operand, place] = bits
    if log is not None:
        st.held_since[operand, place] = start


@inner()
def load_sums(w, st, log, place, earliest, event, loop, index, begin, length):
    """Bring the partial sums of a new output run into their place. ``loop``: the loop that went on to it."""
    level = w.place_level[OUTPUT, place]
    bits = tile_elements(w, OUTPUT, level, index, length) * w.element_bits[OUTPUT]
    memory, latency = outer(w, OUTPUT, place)
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
        st.next_since[place] = start


@inner()
def write_back(w, st, log, place, earliest, event, index, begin, length):
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
    start, end = _transfer(
        w, st, log, FINAL_WRITE if finished else SUM_WRITE, OUTPUT, place, bits, own_bits, earliest,
        st.run[OUTPUT, place], parent_run, event, begin[level], length[level], OUTPUTS if finished else SUMS,
    )
    if log is not None:
        since = st.held_since[OUTPUT, place]
        memory = w.place_memory[OUTPUT, place]
        note(log, HELD0 + OUTPUT, since, end - since, st.held_bits[OUTPUT, place], event, memory)
        if place > 0 and st.empty[place - 1]:
            st.held_since[OUTPUT, place - 1] = start
            st.empty[place - 1] = False
    st.freed_before[OUTPUT, place] = st.freed[OUTPUT, place]
    st.freed[OUTPUT, place] = end
    st.moved[OUTPUT, place] = max(st.moved[OUTPUT, place], end)
    return end


@inner()
def load_parameters(w, st, log):
    """Bring scales and biases. Returns when they are there."""
    if w.parameter_bits == 0:
        return 0
    start = _refresh(w, st, np.int64(0))
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
        note(log, PARAMETER_READ, start, cycles, w.parameter_bits, 0, DRAM)
    return start + cycles + w.latency
