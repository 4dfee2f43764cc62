"""GPTQ (Frantar et al., arXiv:2210.17323): weights rounded one column after the other, with errors made good.

Against rounding to nearest it lessens the error of a layer's *outputs* on calibration data, not that of its weights.
What it needs of the data is ``H = 2/N · Σ x xᵀ`` (``workloads.input_moments`` records it).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.errors import PrecisionError, Problem
from simulator.floating import FLOAT_TYPES
from simulator.formats import Format
from workloads.error_compensation import (
    BLOCK_COLUMNS,
    DAMPING,
    Matrix,
    compensated,
    inverse_factor,
    without_dead_columns,
)
from workloads.quantisation import MAX_ABS, Clipping, Quantised, as_rows
from workloads.scale_choice import Array, CodeGrid, Integers, choose_scales

ColumnOrder = Literal["natural", "act"]


def gptq(
    weight: NDArray[np.floating],
    hessian: Matrix,
    format: Format | str,
    *,
    group: int = -1,
    symmetric: bool = True,
    clipping: Clipping = MAX_ABS,
    order: ColumnOrder = "natural",
    damping: float = DAMPING,
    scale: ArrayLike | None = None,
    zero_point: ArrayLike = 0,
) -> Quantised:
    """Quantise a weight matrix [rows, columns]; one scale a row (``group`` -1), a group of columns, or the matrix (0).

    Args:
        weight: rows are output channels; finite.
        hessian: float64 [columns, columns], 2/N · Σ x xᵀ of what the columns are multiplied by.
        format: as for ``quantise``.
        group, symmetric, clipping: as for ``quantise``.
        order: ``natural`` rounds columns from the first to the last, and chooses the scale of a group when its first
            column comes, from weights in which the errors so far are made good (the paper's). ``act`` begins with the
            columns of largest ``diag H``, whose errors cost most; a group's columns then do not come one after the
            other, so its scale is chosen from the weights as they were ("static groups").
        damping: this times the mean of ``diag H`` is added to the diagonal.
        scale, zero_point: use these, broadcast to [rows, groups], instead of choosing them.

    Columns that are always fed 0 get weights of 0. With a diagonal H nothing can be made good, and the result is that
    of ``quantise``. Raises ``PrecisionError`` as that does, and where H does not fit or stays singular.
    """
    format = Format(format)
    if order not in ("natural", "act"):
        raise PrecisionError(Problem("no such order of columns", path="order", value=repr(order),
                                     allowed=("natural", "act")))
    weights, moments = without_dead_columns(weight, hessian)
    columns = weights.shape[1]
    width = columns if group <= 0 else group
    grid = CodeGrid.of(format, symmetric=symmetric)
    sequence = np.argsort(-np.diag(moments), kind="stable") if order == "act" else np.arange(columns)
    factor = inverse_factor(moments[np.ix_(sequence, sequence)], damping)
    if scale is None:
        scales, zeros = chosen_scales(weights, grid, group, clipping)
    else:
        sets = len(weights), -(-columns // width)
        scales = np.broadcast_to(np.asarray(scale, np.float32), sets)
        zeros = np.broadcast_to(np.asarray(zero_point, np.int32), sets)
    chooses_late = scale is None and order == "natural" and group > 0
    # A block holds whole groups, so that a group's first column finds all of it up to date.
    block_columns = max(1, BLOCK_COLUMNS // width) * width if chooses_late else BLOCK_COLUMNS
    steps = np.empty(weights.shape, np.float32)

    def round_column(place: int, ahead: Matrix) -> Matrix:
        column = int(sequence[place])
        own = column // width
        if chooses_late and column % width == 0:
            late = ahead[:, None, :width].astype(np.float32)
            scales[:, own : own + 1], zeros[:, own : own + 1] = choose_scales(late, grid, clipping)
        steps[:, column] = grid.steps(ahead[:, 0].astype(np.float32), scales[:, own], zeros[:, own])
        return (steps[:, column] * scales[:, own]).astype(np.float64)

    compensated(weights[:, sequence], factor, round_column, block_columns)
    return assembled(steps, scales, zeros, grid, group)


def assembled(steps: Array, scales: Array, zeros: Integers, grid: CodeGrid, group: int) -> Quantised:
    """Bring together what a matrix was rounded to. ``scales``, ``zeros``: [rows, groups]; ``steps`` [rows, columns]."""
    width = steps.shape[1] if group <= 0 else group
    number = np.arange(steps.shape[1]) // width
    if grid.format.is_integer:
        codes: NDArray[np.generic] = steps.astype(np.int32) + zeros[:, number]
    else:
        codes = steps.astype(FLOAT_TYPES[grid.format])
    shown: dict[int, tuple[slice | int, ...]] = {0: (0, 0), -1: (slice(None), 0)}
    part = shown.get(group, (slice(None), slice(None)))
    return Quantised(steps * scales[:, number], np.asarray(scales[part]), np.asarray(zeros[part]), codes)


def chosen_scales(
    weights: NDArray[np.floating], grid: CodeGrid, group: int, clipping: Clipping
) -> tuple[Array, Integers]:
    """Scales and zero points of the weights as they are, [rows, groups]; one of a tensor stands in every row."""
    rows, last = as_rows(weights.astype(np.float32), (0,), group)
    scales, zeros = choose_scales(rows, grid, clipping, last)
    shape = len(weights), rows.shape[1]
    return np.broadcast_to(scales, shape).copy(), np.broadcast_to(zeros, shape).copy()
