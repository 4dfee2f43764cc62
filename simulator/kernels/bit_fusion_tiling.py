"""Search over tilings under the Bit Fusion simulator's counting rules: every tile and order, most left out by a bound.

The five loops are b, ow, oh, ic, oc, in this order; the operands weight, input, output. A loop order is given from the
innermost loop out. ``simulator.counting_rules.bit_fusion_simulator`` says what is counted, and is the oracle.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from simulator.kernels.compiled import inner

OUTPUT_BITS = 32
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class TilingInput(NamedTuple):
    """One layer on one machine, and the tiles to try.

    ``whole`` (5): extents of the layer's loops. ``sizes`` (5, most): sizes of a tile along each loop, ascending, of
    which the first ``lengths`` (5) are there. ``square``: 1 where ow must be oh. ``orders`` (orders, 5), ``depends``
    (3, 5): 1 where the operand depends on the loop. ``half`` (3): bits that a tile may take. ``across``: reduced
    products of one cycle. ``energy`` (2 + 3 + 3): pJ a compute cycle, a DRAM bit, a bit read, and a bit written.
    """

    whole: Integers
    sizes: Integers
    lengths: Integers
    square: int
    orders: Integers
    depends: Integers
    half: Integers
    kernel: int
    stride: int
    im2col: int
    input_bits: int
    weight_bits: int
    columns: int
    across: int
    bandwidth: int
    energy: Floats


@inner()
def _ceil(amount, unit):
    return -(-amount // unit)


@inner()
def _tile_bits(given, tile, bits):
    b, ow, oh, ic, oc = tile[0], tile[1], tile[2], tile[3], tile[4]
    taps = given.kernel * given.kernel
    bits[0] = _ceil(taps * ic, given.across) * given.across * oc * given.weight_bits
    if given.im2col:
        bits[1] = oh * ow * taps * ic * b * given.input_bits
    else:
        rows = (oh - 1) * given.stride + given.kernel
        bits[1] = ((ow - 1) * given.stride + given.kernel) * rows * ic * b * given.input_bits
    bits[2] = oh * ow * _ceil(oc, given.columns) * given.columns * b * OUTPUT_BITS


@inner()
def _costs(given, compute, moved, first, last, products, results):
    """Cycles and picojoules of what is moved over the whole nest."""
    dram = moved[0] + moved[1] + 2 * moved[2]
    cycles = max(compute, _ceil(dram - first - last, given.bandwidth))
    cycles += _ceil(first, given.bandwidth) + _ceil(last, given.bandwidth)
    energy = compute * given.energy[0] + dram * given.energy[1]
    energy += products * given.weight_bits * given.energy[2] + moved[0] * given.energy[5]
    energy += products * given.input_bits * given.energy[3] + moved[1] * given.energy[6]
    energy += (moved[2] + results) * (given.energy[4] + given.energy[7])
    return cycles, energy


@numba.njit(cache=True)
def best_tiling(given):
    """Return the tiling of fewest cycles, and of those of least energy.

    Returns (its tile (5), the number of its order, cycles, pJ, tiles that fit, tilings costed). The order is -1 where
    no tile fits. A tile is left out where even an order that moves each operand only once is no better: its cycles are
    at least the larger of all its bits over the bandwidth, and of computing with its first tile before and its last
    tile behind.
    """
    best_cycles = np.int64(9223372036854775807)
    best_energy = np.inf
    best_tile = np.zeros(5, dtype=np.int64)
    best_order = -1
    tile = np.zeros(5, dtype=np.int64)
    trips = np.zeros(5, dtype=np.int64)
    bits = np.zeros(3, dtype=np.int64)
    moved = np.zeros(3, dtype=np.int64)
    taps = given.kernel * given.kernel
    fitting = costed = 0
    # All tiles, numbered with the last loop counting fastest.
    total = np.int64(1)
    for loop in range(5):
        total *= given.lengths[loop]
    number = np.int64(-1)
    while number + 1 < total:
        number += 1
        rest = number
        for loop in range(4, -1, -1):
            tile[loop] = given.sizes[loop, rest % given.lengths[loop]]
            rest //= given.lengths[loop]
        if given.square and tile[1] != tile[2]:
            continue
        _tile_bits(given, tile, bits)
        if bits[0] > given.half[0] or bits[1] > given.half[1] or bits[2] > given.half[2]:
            # Nor does one with more output channels fit.
            number += given.lengths[4] - 1 - number % given.lengths[4]
            continue
        fitting += 1
        tiles = np.int64(1)
        for loop in range(5):
            trips[loop] = _ceil(given.whole[loop], tile[loop])
            tiles *= trips[loop]
        positions = tile[0] * tile[1] * tile[2]
        reduced = _ceil(taps * tile[3], given.across) if given.im2col else taps * _ceil(tile[3], given.across)
        compute = tiles * positions * _ceil(tile[4], given.columns) * reduced
        products = tiles * positions * taps * tile[3] * tile[4]
        results = tiles * positions * tile[4] * OUTPUT_BITS
        for operand in range(3):
            moved[operand] = bits[operand]
            for loop in range(5):
                if given.depends[operand, loop]:
                    moved[operand] *= trips[loop]
        dram = moved[0] + moved[1] + 2 * moved[2]
        least = compute + _ceil(bits[0] + bits[1] + bits[2], given.bandwidth) + _ceil(bits[2], given.bandwidth)
        least = max(least, _ceil(dram, given.bandwidth))
        energy = _costs(given, compute, moved, 0, 0, products, results)[1]
        if least > best_cycles or (least == best_cycles and energy >= best_energy):
            continue
        for order in range(given.orders.shape[0]):
            first = last = np.int64(0)
            for operand in range(3):
                amount = resident = bits[operand]
                kept = True
                for place in range(5):
                    loop = given.orders[order, place]
                    if kept and not given.depends[operand, loop]:
                        continue
                    amount *= trips[loop]
                    kept = kept and amount <= given.half[operand]
                    if kept:
                        resident = amount
                moved[operand] = amount
                first += resident
                last = resident
            costed += 1
            cycles, energy = _costs(given, compute, moved, first, last, products, results)
            if cycles < best_cycles or (cycles == best_cycles and energy < best_energy):
                best_cycles, best_energy, best_order = cycles, energy, order
                best_tile[:] = tile
    return best_tile, best_order, best_cycles, best_energy, fitting, costed
