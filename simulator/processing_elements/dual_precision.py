"""``dual_precision``: weights stored and moved as narrow integers, multiplied in floating point (W4A8).

After DPQ (Gafni, Karnieli and Hanani, arXiv:2505.14638): weights lie in memory as 4-bit integers in groups that share a
scale and a zero point. On their way into the PEs' registers they are expanded to FP8, and multiplied there with FP8
activations at the rate of FP8. Memories down to the buffers thus hold and move the stored width, registers the expanded
one; the groups' scales and zero points are parameters of the layer, and cost storage and traffic.

A weight q of a group with scale s and zero point z becomes ``rounded(clip(s · (q − z), ±limit))``: the product is
exact, and is rounded once to the expanded format. A scale of the whole tensor, a power of two in DPQ, is no part of a
layer here, like all scales outside its sums.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from simulator.errors import Problem
from simulator.floating import Reals, encode, flushed, largest_finite, rounded
from simulator.formats import Format
from simulator.precision import LayerPrecision
from simulator.processing_elements.base import IntArray
from simulator.processing_elements.floating_base import CANNOT_RUN, FloatingElementBase, unless_allowed


class DualPrecisionElement(FloatingElementBase):
    """A floating-point unit behind an expander of integer weights. It runs floating-point weights as well.

    Attributes:
        max_weight_bits: widest integer that the expander takes; narrower ones, signed or not, are taken too.
        expansion_limit: expanded weights are clipped to ± this; None: to the largest finite value of the format. DPQ's
            protective range is 14/15 of the largest value: 224 where that is 240.
        expansion_energy_pj_per_weight: of expanding one weight, each time one comes to the grid; None: not modelled.
    """

    kind: Literal["dual_precision"] = "dual_precision"
    max_weight_bits: int = Field(default=4, ge=1, le=8)
    expansion_limit: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    expansion_energy_pj_per_weight: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _check_limit(self) -> DualPrecisionElement:
        least = min(largest_finite(Format(name)) for name in self.operand_formats)
        if self.expansion_limit is not None and self.expansion_limit > least:
            raise ValueError(f"expansion_limit={self.expansion_limit}: must not exceed {least:g}, the largest value of "
                             "the narrowest of operand_formats")
        return self

    def expansion_energy_pj(self, precision: LayerPrecision) -> float | None:
        """Energy of expanding one weight; None where the precision has nothing to expand, or it is not modelled."""
        return None if precision.expanded_weight is None else self.expansion_energy_pj_per_weight

    def expand(self, codes: IntArray, scales: Reals, zeros: IntArray, precision: LayerPrecision) -> IntArray:
        """Codes of the expanded format. ``scales`` hold values of FP32, so that the products are exact."""
        assert precision.expanded_weight is not None
        expanded = precision.expanded_weight
        limit = largest_finite(expanded) if self.expansion_limit is None else self.expansion_limit
        values = rounded(np.clip(scales * (codes - zeros), -limit, limit), expanded)
        if self.subnormals == "flushed":
            values = flushed(values, expanded)
        return encode(values, expanded)

    def _weight_problems(self, precision: LayerPrecision) -> list[Problem]:
        if precision.expanded_weight is None:
            return unless_allowed("weight", precision.weight, self.operand_formats, CANNOT_RUN)
        widths = range(1, self.max_weight_bits + 1)
        allowed = tuple(f"{sign}int{bits}" for bits in widths for sign in ("", "u"))
        return [
            *unless_allowed("weight", precision.weight, allowed, "the processing element cannot expand this format"),
            *unless_allowed("expanded_weight", precision.expanded_weight, self.operand_formats, CANNOT_RUN),
        ]
