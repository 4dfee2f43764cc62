"""``bit_fusion``: a Fusion Unit, small multipliers that join for wide operands (Sharma et al., ISCA 2018, §III).

A unit for operands of up to ``max_bits`` is made of ``(max_bits / min_bits)²`` BitBricks, each a multiplier of
``min_bits``. Operands of half the width leave half of the bricks free, which then work on another product: all
products of a step are added up. Widths round up to a power of two of at least ``min_bits``. Operands wider than
``max_bits`` take several passes in time.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from simulator.layer import Operand
from simulator.precision import LayerPrecision
from simulator.processing_elements.base import BOTH, IntArray, IntegerElementBase, next_power_of_two, signed_digits


class BitFusionElement(IntegerElementBase):
    """A Fusion Unit: ``(max_bits/a)·(max_bits/w)`` products a cycle for rounded widths a and w."""

    kind: Literal["bit_fusion"] = "bit_fusion"
    max_bits: int = Field(default=8, ge=1, le=32)
    min_bits: int = Field(default=2, ge=1, le=32)

    @model_validator(mode="after")
    def _check(self) -> BitFusionElement:
        for name, bits in (("max_bits", self.max_bits), ("min_bits", self.min_bits)):
            if bits != next_power_of_two(bits):
                raise ValueError(f"{name}={bits}: must be a power of two")
        if self.min_bits > self.max_bits:
            raise ValueError(f"min_bits={self.min_bits}: must not exceed max_bits={self.max_bits}")
        return self

    def rounded_bits(self, bits: int) -> int:
        """Width that an operand of ``bits`` takes in the unit."""
        return next_power_of_two(max(bits, self.min_bits))

    def lanes(self, precision: LayerPrecision) -> int:
        """Products a step: every halving of an operand's width doubles them."""
        lanes = 1
        for bits in (precision.weight.bits, precision.input.bits):
            lanes *= self.max_bits // min(self.rounded_bits(bits), self.max_bits)
        return lanes

    def cycles_per_step(self, precision: LayerPrecision) -> int:
        """1 up to ``max_bits``; each doubling of an operand beyond it doubles the cycles."""
        cycles = 1
        for bits in (precision.weight.bits, precision.input.bits):
            cycles *= max(1, self.rounded_bits(bits) // self.max_bits)
        return cycles

    def allowed_bits(self, operand: Operand) -> tuple[int, ...]:
        """Every width up to twice the unit's (wider ones would need more shifters than the design has)."""
        return tuple(range(1, 2 * self.max_bits + 1))

    def digit_planes(self, codes: IntArray, operand: Operand, precision: LayerPrecision) -> tuple[IntArray, int]:
        """Split both operands into as many digits as they take bricks."""
        number_format = precision.weight if operand == "weight" else precision.input
        count = self.rounded_bits(number_format.bits) // self.min_bits
        return signed_digits(codes, self.min_bits, count, number_format.is_signed), self.min_bits

    def dot(self, weights: IntArray, inputs: IntArray, precision: LayerPrecision) -> IntArray:
        """Multiply brick by brick, shift each partial product to its place and add."""
        operands = zip(BOTH, (weights, inputs), strict=True)
        bricks = [self.digit_planes(codes, operand, precision)[0] for operand, codes in operands]
        total = np.zeros(weights.shape[:-1], dtype=np.int64)
        for i, weight_digit in enumerate(bricks[0]):
            for j, input_digit in enumerate(bricks[1]):
                total += (weight_digit * input_digit).sum(axis=-1) << ((i + j) * self.min_bits)
        return total
