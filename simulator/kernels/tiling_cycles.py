"""Exact cycles of many tilings of one layer: ``tile_walk`` without a plan for each.

The search asks for thousands of tilings that differ in tiles, unrolling and loop order only; everything else is taken
from the walk of one of them.
"""

from __future__ import annotations

import numba
import numpy as np

from simulator.kernels.compiled import inner
from simulator.kernels.plain_walk import ENDLESS, plain_walk
from simulator.kernels.tile_walk import full_walk
from simulator.kernels.tiling_input import bypassing, tiling_input
from simulator.kernels.transfers import TOTAL


@inner()
def _nominal_events(w, bypass, buffer_tile, register_tile, unroll):
    """Events of a tiling if all its tiles were whole ones; a float, because they may be many."""
    events = 1.0
    for d in range(8):
        events *= -(-w.extent[d] // buffer_tile[d])
        if bypass >= 0 and w.relevant[bypass, d]:
            events *= -(-buffer_tile[d] // (register_tile[d] * unroll[d]))
    return events


@numba.njit(cache=True)
def tiling_cycles(
    w, geometry, dram_order, buffer_order, buffer_tile, register_tile, unroll, doubled, most_events, full, most_cycles,
    least_counts,
):
    """Cycles of each tiling; -1 where it has more than ``most_events`` events and was not walked.

    ``buffer_tile``, ``register_tile``, ``unroll`` (tilings, 8); ``doubled`` (tilings, 3); all else as ``tiling_input``
    takes it, for machines with one level of buffers. ``full``: None where ``w`` is plain (``is_plain``), else not;
    Numba compiles the two apart, and only the one that is asked for.
    ``most_cycles`` (tilings,): a tiling that takes so many or more may be given fewer than it takes, but so many at
    least; with ``least_counts`` the same holds of what takes as many as a tiling before it.
    """
    count = buffer_tile.shape[0]
    cycles = np.full(count, -1, dtype=np.int64)
    bypass = bypassing(w)
    least = np.int64(ENDLESS)
    for i in range(count):
        if _nominal_events(w, bypass, buffer_tile[i], register_tile[i], unroll[i]) <= most_events:
            one = tiling_input(
                w, geometry, dram_order, buffer_order, buffer_tile[i], register_tile[i], unroll[i], doubled[i]
            )
            most = min(most_cycles[i], least)
            cycles[i] = (plain_walk(one, most) if full is None else full_walk(one, None))[0][TOTAL]
            if least_counts:
                least = min(least, cycles[i])
    return cycles
