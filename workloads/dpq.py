"""DPQ: weights stored in four bits and multiplied in FP8 (Gafni, Karnieli and Hanani, arXiv:2505.14638), with
group-aware reordering.

A weight is ``tensor_scale · expand(scale · (code − zero))``, where ``expand`` clips to the *protective range* ± R,
14/15 of the format's largest value, and rounds to the format: FP8 E4M3 with 448 (``fp8_e4m3``) or 240
(``fp8_e4m3_ieee``). The clip stands before the cast: in the format without infinities 500 would become NaN. DPQ lets
GPTQ's error compensation see both roundings, and fits scales and zero points to the weights rounded to FP8. Rounding to
nearest, or GPTQ, and expanding afterwards is what it is compared with (``expanded``).

Group-aware reordering rounds the columns whose errors cost most first, but keeps groups together: inside a group
columns of larger ``diag H`` come first, and groups follow each other by their largest. Weights are stored in their own
order, so it costs nothing when they are used.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simulator.errors import PrecisionError, Problem
from simulator.floating import Reals, rounded
from simulator.formats import Format
from workloads.error_compensation import DAMPING, Matrix, compensated, inverse_factor, without_dead_columns
from workloads.gptq import assembled, chosen_scales
from workloads.quantisation import MAX_ABS, Clipping, Quantised
from workloads.scale_choice import Array, CodeGrid, float_format

DualOrder = Literal["gar", "act", "natural"]

DEFAULT_GROUP = 128
LARGEST_HARMED_GROUP = 32
"""At groups so small, reordering overfits the calibration data and does harm."""


def protective_range(expanded: Format) -> float:
    """Largest magnitude of an expanded weight: 14/15 of the largest value of the format (DPQ, §4)."""
    largest = float_format(expanded).largest
    return largest - largest / 15


def tensor_scale(weight: NDArray[np.floating], expanded: Format) -> float:
    """Power of two, not below 2⁻⁹/R, that brings all weights into the protective range R."""
    limit = protective_range(expanded)
    largest = float(np.abs(weight).max(initial=0.0))
    return float(2.0 ** math.ceil(math.log2(max(largest / limit, 1 / (512 * limit)))))


def expand(steps: Array, scales: Array, expanded_format: Format) -> Reals:
    """Values of stored weights: ``scale · (code − zero)``, exact, clipped to the protective range, rounded once.

    ``steps`` are codes less zero points; both arrays broadcast. What ``DualPrecisionElement.expand`` computes.
    """
    limit = protective_range(expanded_format)
    return rounded(np.clip(scales.astype(np.float64) * steps, -limit, limit), expanded_format)


def expanded(stored: Quantised, number_format: Format, group: int, scale_of_tensor: float) -> Quantised:
    """Weights [rows, columns] that were quantised to integers without regard to FP8, as a W4A8 machine multiplies them.

    ``scale_of_tensor`` a power of two, so that it divides the scales exactly.
    """
    rows, columns = stored.codes.shape
    number = np.arange(columns) // (columns if group <= 0 else group)
    scales = (stored.scale / np.float32(scale_of_tensor)).astype(np.float32)
    sets = rows, int(number[-1]) + 1
    by_group, zeros = (np.broadcast_to(_two_axes(array), sets) for array in (scales, stored.zero_point))
    values = expand((stored.codes - zeros[:, number]).astype(np.float32), by_group[:, number], number_format)
    return Quantised((values * scale_of_tensor).astype(np.float32), scales, stored.zero_point, stored.codes,
                     scale_of_tensor)


def group_aware_order(diagonal: NDArray[np.float64], group: int) -> NDArray[np.int64]:
    """Columns in the order in which they are rounded; equal ones keep their order.

    ``diagonal``: of the Hessian, [columns]; ``group``: columns of a group, -1 all. The last group may be shorter.
    """
    width = len(diagonal) if group <= 0 else group
    groups = [begin + np.argsort(-diagonal[begin : begin + width], kind="stable")
              for begin in range(0, len(diagonal), width)]
    groups.sort(key=lambda columns: -diagonal[columns[0]])
    return np.concatenate(groups)


def dpq(
    weight: NDArray[np.floating],
    hessian: Matrix,
    expanded_format: Format | str,
    *,
    stored_format: Format | str = "uint4",
    group: int = DEFAULT_GROUP,
    symmetric: bool = False,
    clipping: Clipping = MAX_ABS,
    order: DualOrder = "gar",
    damping: float = DAMPING,
    scale_of_tensor: float | None = None,
) -> Quantised:
    """Quantise a weight matrix [rows, columns] to narrow integers that are expanded to a floating-point format.

    Args:
        weight: rows are output channels; finite.
        hessian: float64 [columns, columns], 2/N · Σ x xᵀ of what the columns are multiplied by.
        expanded_format: ``fp8_e4m3`` reaches 448, ``fp8_e4m3_ieee`` 240; any floating-point format is taken.
        stored_format: integers; DPQ's have four bits and a zero point.
        group: columns that share a scale and a zero point; -1: one a row.
        symmetric: no zero points.
        clipping: of the fit of scales and zero points to the weights in ``expanded_format``.
        order: ``gar``; ``act`` by ``diag H`` alone; ``natural``.
        damping: as for ``gptq``.
        scale_of_tensor: a power of two, where the matrix is one of several of a tensor; else ``tensor_scale``'s.

    Returns the weights with scales that the expanded format sees (``scale`` · ``tensor_scale`` is that of the weights).
    Raises ``PrecisionError`` for ``gar`` with groups of 32 or fewer, which it harms, and as ``gptq`` does.
    """
    stored, wide = Format(stored_format), Format(expanded_format)
    _check(stored, wide, group, order)
    weights, moments = without_dead_columns(weight, hessian)
    columns = weights.shape[1]
    width = columns if group <= 0 else group
    grid = CodeGrid.of(stored, symmetric=symmetric)
    diagonal = np.diag(moments)
    sequence = np.arange(columns)
    if order == "gar":
        sequence = group_aware_order(diagonal, group)
    elif order == "act":
        sequence = np.argsort(-diagonal, kind="stable")
    factor = inverse_factor(moments[np.ix_(sequence, sequence)], damping)
    outer = tensor_scale(weights, wide) if scale_of_tensor is None else scale_of_tensor
    limit = protective_range(wide)

    def in_wide_format(values: Matrix) -> Array:
        return rounded(np.clip(values / outer, -limit, limit), wide).astype(np.float32)

    scales, zeros = chosen_scales(in_wide_format(weights), grid, group, clipping)
    steps = np.empty(weights.shape, np.float32)

    def round_column(place: int, ahead: Matrix) -> Matrix:
        column = int(sequence[place])
        own = column // width
        steps[:, column] = grid.steps(in_wide_format(ahead[:, 0]), scales[:, own], zeros[:, own])
        return np.asarray(expand(steps[:, column], scales[:, own], wide) * outer)

    compensated(weights[:, sequence], factor, round_column)
    return expanded(assembled(steps, scales * np.float32(outer), zeros, grid, group), wide, group, outer)


def _check(stored: Format, wide: Format, group: int, order: str) -> None:
    problems = []
    if not stored.is_integer:
        problems.append(Problem("must be an integer format", path="stored_format", value=str(stored)))
    if wide.is_integer:
        problems.append(Problem("must be a floating-point format", path="expanded_format", value=str(wide)))
    if group == 0 or group < -1:
        problems.append(Problem("must be -1, one scale a row, or a number of columns", path="group", value=str(group)))
    if order not in ("gar", "act", "natural"):
        problems.append(Problem("no such order of columns", path="order", value=repr(order),
                                allowed=("gar", "act", "natural")))
    if order == "gar" and 0 < group <= LARGEST_HARMED_GROUP:
        problems.append(
            Problem(f"is too small for group-aware reordering, which does harm at {LARGEST_HARMED_GROUP} and below: "
                    "take larger groups, or the order natural", path="group", value=str(group))
        )
    if problems:
        raise PrecisionError(problems)


def _two_axes(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Scales of one a tensor, one a row, or [rows, groups], as [rows or 1, groups or 1]."""
    return array.reshape((*array.shape, 1, 1)[:2]) if array.ndim else array.reshape(1, 1)
