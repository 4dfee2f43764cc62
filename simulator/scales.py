"""Scales and zero points of groups of weights, for weights that are expanded as they enter the grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.errors import PrecisionError, Problem
from simulator.layer import Layer
from simulator.precision import LayerPrecision

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GroupScales:
    """A scale and a zero point for each group of a layer's weights.

    Attributes:
        scales: float64, shape ``precision.scale_shape(layer)``; finite values that FP32 holds.
        zeros: int64 of the same shape, in the range of the weights' format.
    """

    scales: npt.NDArray[np.float64]
    zeros: IntArray

    def check(self, layer: Layer, precision: LayerPrecision) -> None:
        """Raise ``PrecisionError`` with everything that does not fit a layer and its precision."""
        shape = precision.scale_shape(layer)
        problems = [
            Problem("must have one entry a group", path=name, value=f"shape {array.shape}", allowed=(str(shape),))
            for name, array in (("scales", self.scales), ("zeros", self.zeros)) if array.shape != shape
        ]
        with np.errstate(over="ignore"):
            unlike = self.scales[~np.isfinite(self.scales) | (self.scales.astype(np.float32) != self.scales)]
        if unlike.size:
            problems.append(Problem("must be finite and exact in FP32", path="scales", value=str(unlike.flat[0])))
        low, high = precision.weight.integer_range if precision.zero_bits else (0, 0)
        outside = self.zeros[(self.zeros < low) | (self.zeros > high)]
        if outside.size:
            problems.append(
                Problem("must be in the range of the weights, and 0 where zero_bits is 0", path="zeros",
                        value=str(outside.flat[0]), allowed=(f"{low} … {high}",))
            )
        if problems:
            raise PrecisionError(problems)

    def by_weight(self, layer: Layer, group: int) -> tuple[npt.NDArray[np.float64], IntArray]:
        """Scale and zero point of each weight, of shape (G, K, C, R, S). ``group``: ``precision.weight_group``."""
        shape = tuple(layer.extent(dim) for dim in ("G", "K", "C", "R", "S"))
        in_a_channel = shape[2] * shape[3] * shape[4]
        one = self.scales.shape[-1] == 1
        number = np.zeros(in_a_channel, dtype=np.int64) if one else np.arange(in_a_channel) // group
        wide = (shape[0], shape[1], in_a_channel)
        return (
            np.broadcast_to(self.scales[..., number], wide).reshape(shape),
            np.broadcast_to(self.zeros[..., number], wide).reshape(shape),
        )


def check_scales(layer: Layer, precision: LayerPrecision, scales: GroupScales | None) -> None:
    """Raise ``PrecisionError`` where scales are missing, are of no use, or do not fit."""
    if (scales is None) != (precision.expanded_weight is None):
        rule = "weights that expand need their groups' scales" if scales is None else "only expanded weights use scales"
        given = "none" if scales is None else "given"
        raise PrecisionError(Problem(rule, where=f"precision {precision.label}", path="scales", value=given))
    if scales is not None:
        scales.check(layer, precision)
