"""``fixed``: a plain multiplier of one width. Narrower operands are padded: they save traffic, not cycles."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from simulator.layer import Operand
from simulator.precision import LayerPrecision
from simulator.processing_elements.base import IntArray, IntegerElementBase


class FixedElement(IntegerElementBase):
    """A multiply-accumulate unit for operands of up to ``operand_bits``; one step a cycle."""

    kind: Literal["fixed"] = "fixed"
    operand_bits: int = Field(default=8, ge=1, le=32)
    lane_count: int = Field(default=1, ge=1)

    def lanes(self, precision: LayerPrecision) -> int:
        """Return ``lane_count``, at any precision."""
        return self.lane_count

    def cycles_per_step(self, precision: LayerPrecision) -> int:
        """Return 1: the width of the multiplier does not change."""
        return 1

    def allowed_bits(self, operand: Operand) -> tuple[int, ...]:
        """Every width up to the multiplier's."""
        return tuple(range(1, self.operand_bits + 1))

    def dot(self, weights: IntArray, inputs: IntArray, precision: LayerPrecision) -> IntArray:
        """Multiply whole words and add."""
        products: IntArray = (weights * inputs).sum(axis=-1)
        return products
