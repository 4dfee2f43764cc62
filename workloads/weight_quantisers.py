"""The ways to quantise a layer's trained weights, by name.

``rtn`` rounds each weight to nearest, with scales that hold the largest; ``rtn_least_error`` does so with scales of
least squared error, which may cut off a few large weights. ``gptq`` makes errors good for the layer's outputs on
calibration data, column by column; ``gptq_act`` does so beginning with the columns whose errors cost most. ``dpq`` is
for weights that are stored as narrow integers and expanded to floating point (``LayerPrecision.expanded_weight``),
``dpq_natural`` the same without group-aware reordering, for groups of 32 and fewer; both round weights that are in
floating point anyway. The others quantise weights that are expanded to integers, and expand them afterwards. All but
those of ``ROUNDING`` need the second moments of the layer's inputs; a layer without them is rounded to nearest.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from simulator.errors import PrecisionError, Problem, closest
from simulator.precision import LayerPrecision
from workloads.dpq import dpq, expanded, tensor_scale
from workloads.error_compensation import Moments, without_dead_columns
from workloads.gptq import gptq
from workloads.quantisation import LEAST_ERROR, MAX_ABS, Clipping, Quantised, as_rows, as_tensor, quantise

Quantiser = Literal["rtn", "rtn_least_error", "gptq", "gptq_act", "dpq", "dpq_natural"]
QUANTISERS: tuple[Quantiser, ...] = get_args(Quantiser)
EXPANDING = ("dpq", "dpq_natural")
ROUNDING = ("rtn", "rtn_least_error")
# Of explorations, exports and sweeps: at 8 bits it is as good as ``rtn``, at 4 far better (benchmarks/README.md).
DEFAULT_QUANTISER: Quantiser = "rtn_least_error"
FOR_INTEGERS: tuple[Quantiser, ...] = tuple(name for name in QUANTISERS if name not in EXPANDING)


def check_quantiser(quantiser: str) -> None:
    """Raise ``PrecisionError`` for a name that is no quantiser's."""
    if quantiser not in QUANTISERS:
        raise PrecisionError(
            Problem("no such quantiser", path="quantiser", value=repr(quantiser), allowed=QUANTISERS,
                    did_you_mean=closest(quantiser, QUANTISERS))
        )


def quantise_weight(
    weight: NDArray[Any],
    channel_axes: tuple[int, ...],
    precision: LayerPrecision,
    *,
    clipping: Clipping = MAX_ABS,
    quantiser: Quantiser = "rtn",
    moments: Moments | None = None,
) -> Quantised:
    """Quantise trained weights as a precision says: format, group, zero points where they have bits, expansion.

    Args:
        weight: as in the model, finite.
        channel_axes: axes that number output channels.
        precision: of the layer.
        clipping: of what shares a scale; ``rtn_least_error`` has its own.
        quantiser: one of ``QUANTISERS``.
        moments: [groups, C·R·S, C·R·S] as of ``record_moments``; None: round to nearest.

    Raises ``PrecisionError`` for a quantiser that does not exist, ``dpq`` and ``dpq_natural`` for integers that are not
    expanded, and as the quantisers do: ``dpq`` in groups of 32 and fewer.
    """
    check_quantiser(quantiser)
    if quantiser == "rtn_least_error":
        quantiser, clipping = "rtn", LEAST_ERROR
    symmetric = precision.zero_bits == 0
    wide, group = precision.expanded_weight, precision.weight_group
    if quantiser in EXPANDING and not precision.weight.is_integer:
        quantiser = "rtn"  # layers beside those that are expanded may stay in floating point
    if quantiser in EXPANDING and wide is None:
        raise PrecisionError(
            Problem("is for weights that are expanded to floating point", path="quantiser", value=repr(quantiser),
                    where=f"precision {precision.label}", allowed=("w4:fp8_e4m3", "w4:fp8_e4m3_ieee"))
        )
    if wide is None and (quantiser == "rtn" or moments is None):
        return quantise(weight, precision.weight, channel_axes=channel_axes, group=group, symmetric=symmetric,
                        clipping=clipping)
    array = np.asarray(weight, dtype=np.float32)
    matrix = as_rows(array, channel_axes, -1)[0][:, 0]
    if quantiser != "rtn" and moments is not None:
        # Before any scale: what is never fed must not widen those of the tensor, which all groups of channels share.
        matrix = _fed(matrix, moments)
    outer = 1.0 if wide is None else tensor_scale(matrix, wide)
    nearest = quantise(matrix, precision.weight, channel_axes=(0,), group=group, symmetric=symmetric, clipping=clipping)
    if quantiser == "rtn" or moments is None:
        found = nearest
    else:
        parts = []
        for rows, hessian in zip(np.split(matrix, len(moments)), moments, strict=True):
            if quantiser in EXPANDING:
                assert wide is not None
                parts.append(dpq(rows, hessian, wide, stored_format=precision.weight, group=group, symmetric=symmetric,
                                 clipping=clipping, scale_of_tensor=outer,
                                 order="gar" if quantiser == "dpq" else "natural"))
            else:
                # One scale for the tensor must be that of all groups of channels.
                scale, zero_point = (nearest.scale, nearest.zero_point) if group == 0 else (None, 0)
                parts.append(gptq(rows, hessian, precision.weight, group=group, symmetric=symmetric, clipping=clipping,
                                  order="act" if quantiser == "gptq_act" else "natural", scale=scale,
                                  zero_point=zero_point))
        found = parts[0] if len(parts) == 1 else _stacked(parts, group)
    if wide is not None and (quantiser not in EXPANDING or found is nearest):
        found = expanded(found, wide, group, outer)
    return Quantised(
        as_tensor(found.values[:, None], array.shape, channel_axes, -1), found.scale, found.zero_point,
        as_tensor(found.codes[:, None], array.shape, channel_axes, -1), found.tensor_scale,
    )


def _fed(matrix: NDArray[np.float32], moments: Moments) -> NDArray[np.float32]:
    """The weights with 0 in columns that are never fed; which ones these are differs by group of channels."""
    groups = zip(np.split(matrix, len(moments)), moments, strict=True)
    return np.concatenate([without_dead_columns(*group)[0] for group in groups]).astype(np.float32)


def _stacked(parts: list[Quantised], group: int) -> Quantised:
    """One matrix from those of the groups of channels."""
    first = parts[0]
    return Quantised(
        np.concatenate([part.values for part in parts]),
        first.scale if group == 0 else np.concatenate([part.scale for part in parts]),
        first.zero_point if group == 0 else np.concatenate([part.zero_point for part in parts]),
        np.concatenate([part.codes for part in parts]),
        first.tensor_scale,
    )
