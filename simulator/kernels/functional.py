"""What a layer computes: exact integer products, and floating-point sums in a stated order.

Both kernels work on a matrix product. ``patches`` lays a layer's input out as one: a row for each output position, a
column for each weight of an output channel (im2col).
"""

from __future__ import annotations

from collections import namedtuple

import numba
import numpy as np

from simulator.kernels.compiled import inner

BLOCK = 256  # output elements that are added up side by side: their sums stay in the nearest cache
_ROWS = 16

Order = namedtuple(
    "Order",
    [
        "product",  # (products,) index of the reduced dimension, in the order of the additions
        "step_end",  # (steps,) end of each step's products in ``product``
        "group_end",  # (groups,) end of each group's steps in ``step_end``
        "lanes",  # lanes of a PE: steps of fewer products are filled with zeros
        "chain",  # whether lanes are added one after the other, and not as a tree
        "tree",  # whether the steps of a group are added as a tree, and not one after the other
    ],
)

Rounding = namedtuple(
    "Rounding",
    [
        "lost_bits",  # bits of float64's significand that the format has not
        "smallest_normal",
        "largest",
        "quantum",  # distance of neighbours below the smallest normal number
    ],
)


@numba.njit(cache=True)
def patches(stored, first, extents, stride, dilation, padding, rows):
    """Set ``rows`` (positions, C·R·S) to the inputs that the output positions from ``first`` on read.

    ``stored`` (C, H, W); ``extents`` (C, Q, R, S); positions count P, Q, the last fastest; outside of what is stored
    there are zeros.
    """
    channels, columns, taps_down, taps_across = extents
    height, width = stored.shape[1], stored.shape[2]
    for place in range(rows.shape[0]):
        p, q = (first + place) // columns, (first + place) % columns
        at = 0
        for c in range(channels):
            for r in range(taps_down):
                row = p * stride[0] + r * dilation[0] - padding[0]
                for s in range(taps_across):
                    column = q * stride[1] + s * dilation[1] - padding[1]
                    if 0 <= row < height and 0 <= column < width:
                        rows[place, at] = stored[c, row, column]
                    else:
                        rows[place, at] = 0
                    at += 1


@numba.njit(cache=True)
def narrow_products(weights, rows, chunk, outputs):
    """Set ``outputs`` (K, M) int64 to ``weights`` (K, C) times ``rows`` (M, C) transposed; both operands are int16.

    ``chunk``: products that int32 surely adds up without overflow.
    """
    count, reduced = rows.shape
    for begin in range(0, count, _ROWS):
        stop = min(count, begin + _ROWS)
        for k in range(weights.shape[0]):
            for m in range(begin, stop):
                outputs[k, m] = 0
            for start in range(0, reduced, chunk):
                # Slices, so that loops count from 0: an index that might be negative costs Numba its vectors.
                part = slice(start, min(reduced, start + chunk))
                weight = weights[k, part]
                m = begin
                # Four rows at once: a weight is read once for all of them. The casts keep the sums in int32.
                while m + 4 <= stop:
                    row0, row1, row2, row3 = rows[m, part], rows[m + 1, part], rows[m + 2, part], rows[m + 3, part]
                    sum0 = sum1 = sum2 = sum3 = np.int32(0)
                    for i in range(weight.shape[0]):
                        factor = np.int32(weight[i])
                        sum0 = np.int32(sum0 + factor * np.int32(row0[i]))
                        sum1 = np.int32(sum1 + factor * np.int32(row1[i]))
                        sum2 = np.int32(sum2 + factor * np.int32(row2[i]))
                        sum3 = np.int32(sum3 + factor * np.int32(row3[i]))
                    outputs[k, m] += sum0
                    outputs[k, m + 1] += sum1
                    outputs[k, m + 2] += sum2
                    outputs[k, m + 3] += sum3
                    m += 4
                while m < stop:
                    row = rows[m, part]
                    total = np.int32(0)
                    for i in range(weight.shape[0]):
                        total = np.int32(total + np.int32(weight[i]) * np.int32(row[i]))
                    outputs[k, m] += total
                    m += 1


@numba.njit(cache=True)
def wide_products(weights, rows, outputs):
    """As ``narrow_products``, in int64 throughout."""
    for k in range(weights.shape[0]):
        for m in range(rows.shape[0]):
            total = np.int64(0)
            for i in range(rows.shape[1]):
                total += weights[k, i] * rows[m, i]
            outputs[k, m] = total


@inner()
def _rounded(value, target):
    """Round a float64 to the nearest value of ``target``, ties to even; None: the value has its format already."""
    if target is None:
        return value
    if value != value:
        return value
    if abs(value) < target.smallest_normal:
        # Adding 1.5 · 2^52 neighbours' distances makes float64 itself round to that distance.
        shift = target.quantum * 6755399441055744.0
        return np.copysign((value + shift) - shift, value)
    bits = np.float64(value).view(np.int64)
    odd = (bits >> target.lost_bits) & 1
    bits += (np.int64(1) << (target.lost_bits - 1)) - 1 + odd
    bits = (bits >> target.lost_bits) << target.lost_bits
    nearest = np.int64(bits).view(np.float64)
    return nearest if abs(nearest) <= target.largest else np.copysign(np.inf, value)


@inner()
def _kept(value, target, flushes):
    """A product or a sum as the machine keeps it: rounded, and zero where it is subnormal and that is flushed."""
    value = _rounded(value, target)
    if abs(value) < flushes:
        return np.copysign(value - value, value)
    return value


@inner()
def _add_lanes(lane, live, lanes, chain, width, target, flushes):
    """Add the first ``live`` of ``lanes`` rows of ``lane`` up into the first one; the others count as +0."""
    if chain:
        for i in range(1, live):
            for z in range(width):
                lane[0, z] = _kept(lane[0, z] + lane[i, z], target, flushes)
        if live < lanes:
            for z in range(width):
                lane[0, z] += 0  # −0 + 0 is +0; nothing else changes
        return
    while lanes > 1:
        for i in range((live + 1) // 2):
            first, second = 2 * i, 2 * i + 1
            if second < live:
                for z in range(width):
                    lane[i, z] = _kept(lane[first, z] + lane[second, z], target, flushes)
            elif second < lanes:
                for z in range(width):
                    lane[i, z] = lane[first, z] + 0
            else:
                for z in range(width):
                    lane[i, z] = lane[first, z]
        live = (live + 1) // 2
        lanes = (lanes + 1) // 2


@numba.njit(cache=True)
def ordered_sums(rows, columns, order, target, flushes, outputs):
    """Set ``outputs`` (X, Z) to ``rows`` (X, C) times ``columns`` (C, Z), each sum added in the given ``Order``.

    A step's products are rounded and added over the lanes; the steps of a group one after the other, the first taken
    as it is, or as a tree; and the groups onto the output, which starts from +0.

    Arrays are float32, whose arithmetic is that of the format, where ``target`` is None, else float64, each result
    rounded to the ``Rounding`` in ``target``. ``flushes``: results of smaller magnitude become zero; 0: none does.
    """
    lane = np.empty((order.lanes, BLOCK), dtype=rows.dtype)
    held, last = 1, 0
    for end in order.group_end:
        held, last = max(held, end - last) if order.tree else 1, end
    group = np.empty((held, BLOCK), dtype=rows.dtype)
    for x in range(rows.shape[0]):
        for begin in range(0, columns.shape[1], BLOCK):
            width = min(BLOCK, columns.shape[1] - begin)
            total = outputs[x, begin : begin + width]
            for z in range(width):
                total[z] = 0
            product = 0
            step = 0
            for group_end in order.group_end:
                added = 0
                while step < group_end:
                    live = order.step_end[step] - product
                    for i in range(live):
                        place = order.product[product + i]
                        factor = rows[x, place]
                        column = columns[place, begin : begin + width]
                        for z in range(width):
                            lane[i, z] = _kept(factor * column[z], target, flushes)
                    product += live
                    step += 1
                    _add_lanes(lane, live, order.lanes, order.chain, width, target, flushes)
                    if order.tree or added == 0:
                        for z in range(width):
                            group[added, z] = lane[0, z]
                    else:
                        for z in range(width):
                            group[0, z] = _kept(group[0, z] + lane[0, z], target, flushes)
                    added += 1
                if order.tree:
                    _add_lanes(group, added, added, False, width, target, flushes)
                for z in range(width):
                    total[z] = _kept(total[z] + group[0, z], target, flushes)
