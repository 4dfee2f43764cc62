"""Rounding a weight matrix column by column, each column's error made good by the columns that are still to come.

A layer computes ``W x``. With ``H = 2/N · Σ x xᵀ`` over what it is fed, rounding W to Ŵ changes the outputs by a mean
square of ``tr((Ŵ − W) H (Ŵ − W)ᵀ) / 2``, the *weighted error*. Rounding column j by ``e`` costs least if the columns F
behind it move by ``−e / [H_F⁻¹]_jj · [H_F⁻¹]_j`` (Hassibi and Stork, "Optimal Brain Surgeon", 1993; Frantar et al.,
"GPTQ", arXiv:2210.17323, §3). All those rows of inverses stand in one upper Cholesky factor of ``H⁻¹``. Columns behind
a block are updated once a block, with one matrix product: the same sums in another order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from simulator.errors import PrecisionError, Problem

Matrix = NDArray[np.float64]
Moments = NDArray[np.float64]
"""Hessians of a layer's groups of channels: [groups, columns, columns]."""

DAMPING = 0.01
BLOCK_COLUMNS = 128

RoundColumn = Callable[[int, Matrix], Matrix]
"""Given a place in the order and the columns from there to the end of the block: the first of them, rounded."""


def weighted_error(difference: NDArray[np.floating], hessian: Matrix) -> float:
    """Mean squared change of the outputs, summed over rows, by a change [rows, columns] of the weights.

    ``hessian``: [columns, columns], 2/N · Σ x xᵀ.
    """
    wide = np.asarray(difference, dtype=np.float64)
    return float(np.einsum("rc,cd,rd->", wide, hessian, wide, optimize=True)) / 2


def without_dead_columns(weight: NDArray[np.floating], hessian: Matrix) -> tuple[Matrix, Matrix]:
    """Copies of both, with the weights of columns that are always fed 0 set to 0, and 1 on their diagonal.

    Raises ``PrecisionError`` where the shapes do not fit or a value is not finite.
    """
    weights, moments = np.array(weight, dtype=np.float64), np.array(hessian, dtype=np.float64)
    if weights.ndim != 2 or moments.shape != (weights.shape[1],) * 2:
        raise PrecisionError(
            Problem("must have a row and a column for each column of the weights", path="hessian",
                    value=f"shape {moments.shape}", allowed=(f"{weights.shape[1:]} twice",))
        )
    for name, array in (("weight", weights), ("hessian", moments)):
        if not np.isfinite(array).all():
            raise PrecisionError(Problem("must be finite: NaN or infinity found", path=name))
    dead = np.diag(moments) <= 0
    moments[dead, dead] = 1.0
    weights[:, dead] = 0.0
    return weights, moments


def inverse_factor(hessian: Matrix, damping: float = DAMPING) -> Matrix:
    """Upper Cholesky factor of the inverse of a damped Hessian: ``UᵀU = (H + damping · mean(diag H) · I)⁻¹``.

    Raises ``PrecisionError`` where the damped Hessian is not positive definite, or damping is negative.
    """
    if not damping >= 0:
        raise PrecisionError(Problem("must be at least 0", path="damping", value=str(damping)))
    damped = hessian + damping * float(np.diag(hessian).mean()) * np.eye(len(hessian))
    try:
        # With rows and columns turned round, H = R Rᵀ with an upper R; so H⁻¹ = (R⁻¹)ᵀ R⁻¹, and R⁻¹ is upper too.
        return np.triu(np.linalg.inv(np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]))
    except np.linalg.LinAlgError as error:
        raise PrecisionError(
            Problem("leaves the Hessian singular: more calibration data, or more damping, is needed", path="damping",
                    value=str(damping))
        ) from error


def compensated(
    weights: Matrix, factor: Matrix, round_column: RoundColumn, block_columns: int = BLOCK_COLUMNS
) -> Matrix:
    """Rounded weights; columns of both arrays stand in the order in which they are rounded.

    Args:
        weights: [rows, columns], overwritten.
        factor: of ``inverse_factor``.
        round_column: given the place of a column and the block's columns from it on, all errors so far made good in
            them.
        block_columns: width of a block; columns behind it are behind in their updates while the block is rounded.
    """
    columns = weights.shape[1]
    rounded = np.empty_like(weights)
    for begin in range(0, columns, block_columns):
        end = min(begin + block_columns, columns)
        errors = np.empty((len(weights), end - begin))
        for place in range(begin, end):
            column = round_column(place, weights[:, place:end])
            rounded[:, place] = column
            error = (weights[:, place] - column) / factor[place, place]
            errors[:, place - begin] = error
            weights[:, place:end] -= np.outer(error, factor[place, place:end])
        weights[:, end:] -= errors @ factor[begin:end, end:]
    return rounded
