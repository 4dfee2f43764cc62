"""The walk of ``tile_walk`` where no port but the DRAM channel's is limited and each operand has one place: the same
results, and many times the speed.

What a pass and its transfers cost depends on which loops are at their last trips, where tiles are cut short: a table by
that set (a bit a loop) is filled as sets come up, and an event then takes a look at the table and a few maxima. Only
the input's extents depend on where a tile lies, and the channels of a split layer, for which there are a few such
tables (``pass_table``); transfers of as many bits as the last take as long as the last.

Trips of a loop that are alike (neither the first nor the last, and all with the same input extents) soon repeat
themselves: once a trip begins in a state that an earlier one began in, what lies between the two is what follows, again
and again, and is added up without a walk. The state is what the time still to come depends on, relative to the grid's.
"""

from __future__ import annotations

import numba
import numpy as np

from simulator.kernels.compiled import inner
from simulator.kernels.loop_nest import INPUT, OUTPUT, WEIGHT, C, P, Q, R, S
from simulator.kernels.pass_table import (
    BUFFER_LEVEL,
    COLUMNS,
    PASS_COMPUTE,
    PASS_INPUTS,
    PASS_IS_FINISHED,
    PASS_OCCUPIED,
    PASS_SUM_BITS,
    PASS_SUM_CYCLES,
    PASS_TAIL,
    PASS_WEIGHT_BITS,
    PASS_WEIGHT_CYCLES,
    PASS_WRITE_BITS,
    PASS_WRITE_CYCLES,
    all_occupied,
    fill_row,
    loop_of,
    part_of,
    transfer_cycles,
)
from simulator.kernels.transfers import (
    BUSY,
    CAUSES,
    COMPUTE,
    DRAM,
    EVENTS,
    FILL_DRAIN,
    FINAL_WRITE,
    INPUT_READ,
    PARAMETER_READ,
    RESULT_SIZE,
    STALL0,
    STALL_INPUT,
    STALL_PARAMETERS,
    STALL_SLOT,
    STALL_SUM,
    STALL_WEIGHT,
    STALL_WRITE,
    SUM_READ,
    SUM_WRITE,
    TOTAL,
    WEIGHT_READ,
    WalkInput,
)

ENDLESS = 1 << 62  # cycles that no walk takes
MANY_PASSES = 4  # a row of the table, from which on it is worth knowing beforehand how long all passes take
FEWEST_TRIPS = 6  # of a loop whose repetitions are looked for: shorter ones are walked sooner than compared
# Beyond that many loops the table would be larger than walks are long.
MOST_LOOPS = 16

_KEPT = 23  # numbers kept of a trip: eight of the state, then the grid's time and what is counted


def is_plain(w: WalkInput) -> bool:
    """Whether ``plain_walk`` gives the results of the walk; if so, it does for every tiling with the same bypass."""
    return (
        w.tile.shape[0] == 2 and w.loop_dim.shape[0] <= MOST_LOOPS and w.place_level.shape[1] == 1
        and not w.grid_ports and not w.has_rows and w.pass_compute.size == 0
    )


def full_unless_plain(w: WalkInput) -> bool | None:
    """What batches of tilings take as ``full``: None where ``w`` is plain, else True."""
    return None if is_plain(w) else True


@inner(error_model="numpy")
def _output_loops(w):
    """Bits of the loops that move on to further terms of the same output tile, and of those to another one."""
    sum_loops = tile_loops = 0
    for loop in range(w.loop_dim.shape[0]):
        d = w.loop_dim[loop]
        if w.loop_level[loop] < w.place_level[OUTPUT, 0]:
            if d in (C, R, S):
                sum_loops |= 1 << loop
            if w.relevant[OUTPUT, d]:
                tile_loops |= 1 << loop
    return sum_loops, tile_loops


@inner(error_model="numpy")
def _are_alike(w, of_position, of_tap, loop, trips, width, start, size):
    """Whether the tables of touched rows or columns say the same for all trips of a loop but its first and last.

    ``of_position``, ``of_tap``: (outer, inner) loops over the positions and taps; ``trips``: of the inner ones;
    ``size``: of the table, which is ``width`` taps wide.
    """
    for at in range(size):
        position, tap = at // width, at % width
        outer_position, inner_position = position // trips[0], position % trips[0]
        outer_tap, inner_tap = tap // trips[1], tap % trips[1]
        number, step = -1, 0
        if loop == of_position[0]:
            number, step = outer_position, trips[0] * width
        elif loop == of_position[1]:
            number, step = inner_position, width
        elif loop == of_tap[0]:
            number, step = outer_tap, trips[1]
        elif loop == of_tap[1]:
            number, step = inner_tap, 1
        else:
            return True
        of_loop = w.trips[w.loop_level[loop], w.loop_dim[loop]]
        if 1 <= number < of_loop - 2 and w.touched[start + at] != w.touched[start + at + step]:
            return False
    return True


@numba.njit(cache=True, error_model="numpy")
def _write_back(ended, complete, channel, written):
    """Write back the output run that ended, behind what the channel has to do. Returns when that is done.

    ``ended``: row of the table. ``written`` (3,): adds to the bits of partial sums, those of finished outputs, and the
    channel's cycles.
    """
    written[ended[PASS_IS_FINISHED]] += ended[PASS_WRITE_BITS]
    written[2] += ended[PASS_WRITE_CYCLES]
    return max(complete, channel) + ended[PASS_WRITE_CYCLES]


@numba.njit(cache=True, error_model="numpy")
def plain_walk(w, most_cycles):
    """Walk all events of a layer. Returns what ``tile_walk.walk`` returns; ``w`` must be plain (``is_plain``).

    The walk ends early where it is certain to take ``most_cycles`` or more (``ENDLESS``: never): what it then returns
    counts for nothing but for ``TOTAL``, which is at least ``most_cycles``, and at most what the whole walk takes.
    """
    loops = w.loop_dim.shape[0]
    # Where channels are split, a table for each part of them in which the buffer tile, and the pass, may lie.
    is_split = w.split.narrow_channels > 0
    table = np.zeros((9 << loops if is_split else 1 << loops, COLUMNS), dtype=np.int64)
    at = np.zeros(loops + 1, dtype=np.int64)
    # Trips of each loop. Those of an inner loop are fewer in the last trip of the loop around it in its dimension.
    trips, whole, cut = np.ones(loops, np.int64), np.ones(loops, np.int64), np.ones(loops, np.int64)
    inside = np.full(loops, -1, dtype=np.int64)
    for loop in range(loops):
        d = w.loop_dim[loop]
        tile = w.tile[1, d]
        if w.loop_level[loop] == 0:
            whole[loop] = -(-w.extent[d] // tile)
            inside[loop] = loop_of(w, d, BUFFER_LEVEL)
        else:
            around = min(tile, w.extent[d])
            whole[loop] = -(-around // w.grid_tile[d])
            cut[loop] = -(-(w.extent[d] - (w.extent[d] - 1) // tile * tile) // w.grid_tile[d])
        trips[loop] = whole[loop]
    last = np.int64(0)
    moved_on = 0  # loops beyond their first trip
    sum_loops, tile_loops = _output_loops(w)
    # From whenever the grid is free, the passes that are left, the tail of the last one and its write take so long.
    # Of split layers it is not known beforehand: each set of loops has a row in several tables.
    still = np.int64(0)
    if most_cycles < ENDLESS and (is_split or np.prod(whole) < MANY_PASSES << loops):
        most_cycles = ENDLESS
    if most_cycles < ENDLESS:
        still = np.int64(all_occupied(w, table, whole, cut, inside))
        still += table[-1, PASS_TAIL] + table[-1, PASS_WRITE_CYCLES]

    # Where the input's tile lies: its numbers along P, R and Q, S, of loops at its level or outside.
    input_level = w.place_level[INPUT, 0]
    # Behind the loops stands one that never moves.
    of = np.full((2, 4), loops, dtype=np.int64)
    for place, d in enumerate((P, R, Q, S)):
        for level in range(input_level):
            loop = loop_of(w, d, level)
            if loop >= 0:
                of[level, place] = loop
    row_out, row_tap_out, column_out, column_tap_out = of[0]
    row_in, row_tap_in, column_in, column_tap_in = of[1]
    row_trips, row_tap_trips = w.trips[1, P], w.trips[1, R]
    column_trips, column_tap_trips = w.trips[1, Q], w.trips[1, S]
    if input_level == 1:
        row_trips = row_tap_trips = column_trips = column_tap_trips = 1
    touched = w.touched
    start_rows, start_columns = w.touched_start[0, input_level], w.touched_start[1, input_level]
    width_rows, width_columns = w.touched_width[0, input_level], w.touched_width[1, input_level]

    latency, burst, bandwidth = w.latency, w.burst, w.bandwidth
    weight_depth, input_depth = w.place_depth[WEIGHT, 0], w.place_depth[INPUT, 0]
    output_depth = w.place_depth[OUTPUT, 0]
    double_weight, double_input = w.double_buffer[WEIGHT, 0], w.double_buffer[INPUT, 0]
    double_output = w.double_buffer[OUTPUT, 0]

    channel = busy = events = compute = occupied = np.int64(0)
    stall_parameters = stall_weight = stall_input = stall_sum = stall_slot = np.int64(0)
    weight_read = input_read = sum_read = np.int64(0)
    written = np.zeros(3, dtype=np.int64)
    grid_free = complete = np.int64(0)
    parameters = np.int64(0)
    if w.parameter_bits > 0:
        channel = busy = np.int64(transfer_cycles(w.parameter_bits, burst, bandwidth))
        parameters = channel + latency
    weight_loaded = input_loaded = output_loaded = np.int64(0)
    weight_freed = input_freed = output_freed = np.int64(0)
    known_bits = known_cycles = np.int64(0)
    sums = False
    # Loops whose trips may repeat; the trip before which state and counts were kept (0: none).
    alike, taken = np.zeros(loops, dtype=np.bool_), np.zeros(loops, dtype=np.int64)
    kept = np.empty((loops, _KEPT), dtype=np.int64)
    channel_out, channel_in = loop_of(w, C, 0), loop_of(w, C, BUFFER_LEVEL)
    for one in range(loops):
        alike[one] = whole[one] >= FEWEST_TRIPS and not (is_split and one in (channel_out, channel_in)) and _are_alike(
            w, of[:, 0], of[:, 1], one, (row_trips, row_tap_trips), width_rows, start_rows,
            start_columns,
        ) and _are_alike(
            w, of[:, 2], of[:, 3], one, (column_trips, column_tap_trips), width_columns, start_columns,
            touched.size - start_columns,
        )
    loop = -1  # every run begins with the first event
    # Where the buffer tile and the pass begin along C.
    tile_begin = begin = previous = np.int64(0)
    changed = 0
    while True:
        now = last
        if is_split:
            if channel_out >= 0:
                tile_begin = begin = w.tile[1, C] * at[channel_out]
            count = covered = min(w.tile[1, C], w.extent[C] - tile_begin)
            if channel_in >= 0:
                begin = tile_begin + w.grid_tile[C] * at[channel_in]
                covered = min(w.grid_tile[C], tile_begin + count - begin)
            now += (3 * part_of(w.split, tile_begin, count) + part_of(w.split, begin, covered)) << loops
        row = table[now]
        if row[PASS_OCCUPIED] == 0:
            fill_row(w, last, tile_begin, begin, row)
        # Loads of weights and inputs whose runs begin with this event.
        if loop < weight_depth:
            earliest = weight_freed if double_weight else grid_free
            weight_freed = grid_free
            channel = max(earliest, channel) + row[PASS_WEIGHT_CYCLES]
            weight_loaded = channel + latency
            busy += row[PASS_WEIGHT_CYCLES]
            weight_read += row[PASS_WEIGHT_BITS]
        if loop < input_depth:
            earliest = input_freed if double_input else grid_free
            input_freed = grid_free
            position, tap = at[row_out] * row_trips + at[row_in], at[row_tap_out] * row_tap_trips + at[row_tap_in]
            rows = touched[start_rows + position * width_rows + tap]
            position = at[column_out] * column_trips + at[column_in]
            tap = at[column_tap_out] * column_tap_trips + at[column_tap_in]
            columns = touched[start_columns + position * width_columns + tap]
            bits = row[PASS_INPUTS] * rows * columns
            if bits != known_bits:
                known_bits, known_cycles = bits, np.int64(transfer_cycles(bits, burst, bandwidth))
            if bits > 0:
                channel = max(earliest, channel) + known_cycles
                input_loaded = channel + latency
                busy += known_cycles
                input_read += bits
            else:
                input_loaded = earliest
        # Output runs: partial sums ahead, the write-back of the run that ended, other partial sums.
        if events > 0 and loop < output_depth:
            begins_with_sums = moved_on & sum_loops != 0
            ahead = double_output and changed & tile_loops != 0
            before = output_freed
            if ahead and begins_with_sums:
                channel = max(before, channel) + row[PASS_SUM_CYCLES]
                output_loaded = channel + latency
                busy += row[PASS_SUM_CYCLES]
                sum_read += row[PASS_SUM_BITS]
            channel = output_freed = _write_back(table[previous], complete, channel, written)
            if not begins_with_sums:
                output_loaded = before if double_output else channel
            elif not ahead:
                channel += row[PASS_SUM_CYCLES]  # behind the write-back, for which all partial sums wait
                output_loaded = channel + latency
                busy += row[PASS_SUM_CYCLES]
                sum_read += row[PASS_SUM_BITS]
            sums = begins_with_sums

        # The pass, and for what it waits.
        start, cause = grid_free, -1
        if parameters > start:
            start, cause = parameters, STALL_PARAMETERS
        if weight_loaded > start:
            start, cause = weight_loaded, STALL_WEIGHT
        if input_loaded > start:
            start, cause = input_loaded, STALL_INPUT
        if output_loaded > start:
            start, cause = output_loaded, STALL_SUM if sums else STALL_SLOT
        if cause >= 0:
            waited = start - grid_free
            if cause == STALL_WEIGHT:
                stall_weight += waited
            elif cause == STALL_INPUT:
                stall_input += waited
            elif cause == STALL_SUM:
                stall_sum += waited
            elif cause == STALL_SLOT:
                stall_slot += waited
            else:
                stall_parameters += waited
        grid_free = start + row[PASS_OCCUPIED]
        complete = grid_free + row[PASS_TAIL]
        compute += row[PASS_COMPUTE]
        occupied += row[PASS_OCCUPIED]
        events += 1
        still -= row[PASS_OCCUPIED]
        if grid_free + still >= most_cycles:
            hopeless = np.zeros(RESULT_SIZE, dtype=np.int64)
            hopeless[TOTAL] = grid_free + still
            return hopeless, np.zeros((CAUSES, w.memory_count), dtype=np.int64)

        # The next event.
        previous = now
        loop = loops - 1
        changed = 0
        while loop >= 0:
            if at[loop] > 0:
                changed |= 1 << loop
            at[loop] += 1
            if at[loop] < trips[loop]:
                break
            at[loop] = 0
            loop -= 1
        if loop < 0:
            break
        if alike[loop]:
            trip, begun = at[loop], taken[loop]
            then = kept[loop]
            if (
                begun > 0 and then[0] == channel - grid_free and then[1] == max(0, weight_loaded - grid_free)
                and then[2] == max(0, input_loaded - grid_free) and then[3] == max(0, output_loaded - grid_free)
                and then[4] == max(weight_freed, channel) - grid_free
                and then[5] == max(input_freed, channel) - grid_free
                and then[6] == max(0, output_freed - grid_free) and then[7] == sums
            ):
                again = (trips[loop] - 1 - trip) // (trip - begun)
                if again > 0:
                    at[loop] += again * (trip - begun)
                    passed = again * (grid_free - then[8])
                    grid_free += passed
                    channel += passed
                    complete += passed
                    weight_loaded += passed
                    input_loaded += passed
                    output_loaded += passed
                    weight_freed += passed
                    input_freed += passed
                    output_freed += passed
                    busy += again * (busy - then[9])
                    events += again * (events - then[10])
                    compute += again * (compute - then[11])
                    still -= again * (occupied - then[12])
                    occupied += again * (occupied - then[12])
                    stall_weight += again * (stall_weight - then[13])
                    stall_input += again * (stall_input - then[14])
                    stall_sum += again * (stall_sum - then[15])
                    stall_slot += again * (stall_slot - then[16])
                    weight_read += again * (weight_read - then[17])
                    input_read += again * (input_read - then[18])
                    sum_read += again * (sum_read - then[19])
                    for one in range(3):
                        written[one] += again * (written[one] - then[20 + one])
            elif trip & (trip - 1) == 0:
                taken[loop] = trip
                then[0] = channel - grid_free
                then[1] = max(0, weight_loaded - grid_free)
                then[2] = max(0, input_loaded - grid_free)
                then[3] = max(0, output_loaded - grid_free)
                then[4] = max(weight_freed, channel) - grid_free
                then[5] = max(input_freed, channel) - grid_free
                then[6] = max(0, output_freed - grid_free)
                then[7] = sums
                then[8], then[9], then[10], then[11], then[12] = grid_free, busy, events, compute, occupied
                then[13], then[14], then[15], then[16] = stall_weight, stall_input, stall_sum, stall_slot
                then[17], then[18], then[19] = weight_read, input_read, sum_read
                for one in range(3):
                    then[20 + one] = written[one]
        changed |= 1 << loop
        moved_on |= 1 << loop
        for one in range(loop, loops):
            is_last = at[one] == trips[one] - 1
            if is_last:
                last |= 1 << one
            else:
                last &= ~(1 << one)
            if one > loop:
                moved_on &= ~(1 << one)
                taken[one] = 0
            within = inside[one]
            if within >= 0:
                trips[within] = cut[within] if is_last else whole[within]

    last_write = _write_back(table[previous], complete, channel, written)
    result = np.zeros(RESULT_SIZE, dtype=np.int64)
    result[TOTAL] = max(complete, last_write)
    result[COMPUTE], result[EVENTS], result[BUSY] = compute, events, busy + written[2]
    result[FILL_DRAIN] = occupied - compute + complete - grid_free
    result[STALL0 + STALL_PARAMETERS] = stall_parameters
    result[STALL0 + STALL_WEIGHT], result[STALL0 + STALL_INPUT] = stall_weight, stall_input
    result[STALL0 + STALL_SUM], result[STALL0 + STALL_SLOT] = stall_sum, stall_slot
    result[STALL0 + STALL_WRITE] = result[TOTAL] - complete
    result[WEIGHT_READ], result[INPUT_READ], result[PARAMETER_READ] = weight_read, input_read, w.parameter_bits
    result[SUM_READ], result[SUM_WRITE], result[FINAL_WRITE] = sum_read, written[0], written[1]
    stalls = np.zeros((CAUSES, w.memory_count), dtype=np.int64)
    # Whatever is waited for comes from the DRAM, or goes there.
    stalls[:, DRAM] = result[STALL0 : STALL0 + CAUSES]
    return result, stalls
