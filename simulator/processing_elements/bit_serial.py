"""``bit_serial``: products whose operands arrive a digit at a time.

One serial operand: Stripes streams the inputs (Judd et al., MICRO 2016), UNPU the weights (Lee et al., JSSC
2019). Two serial operands: Loom (Sharify et al., DAC 2018), BISMO. A step on ``lane_count`` products takes as
many cycles as the serial operands have digits, multiplied where both are serial.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from simulator.layer import Operand
from simulator.precision import LayerPrecision
from simulator.processing_elements.base import BOTH, IntArray, IntegerElementBase, next_power_of_two, signed_digits


class BitSerialElement(IntegerElementBase):
    """``lane_count`` products in Π ⌈width/digit_bits⌉ cycles over the serial operands.

    Attributes:
        serial_operands: which operands arrive digit by digit.
        lane_count: products added up in one step.
        digit_bits: bits of a serial operand that arrive in a cycle.
        width_rounding: ``power_of_two`` where the control only knows widths 1, 2, 4, 8, 16; else ``none``.
        min_bits: narrower serial operands take as long as this width.
        max_bits: widest operand.
    """

    kind: Literal["bit_serial"] = "bit_serial"
    serial_operands: tuple[Literal["weight", "input"], ...] = Field(min_length=1, max_length=2)
    lane_count: int = Field(default=16, ge=1)
    digit_bits: int = Field(default=1, ge=1)
    width_rounding: Literal["none", "power_of_two"] = "none"
    min_bits: int = Field(default=1, ge=1)
    max_bits: int = Field(default=16, ge=1, le=32)

    @model_validator(mode="after")
    def _check(self) -> BitSerialElement:
        if len(set(self.serial_operands)) != len(self.serial_operands):
            raise ValueError(f"serial_operands={list(self.serial_operands)}: must not repeat")
        return self

    def digits(self, bits: int) -> int:
        """Digits in which a serial operand of ``bits`` arrives."""
        width = max(bits, self.min_bits)
        if self.width_rounding == "power_of_two":
            width = next_power_of_two(width)
        return -(-width // self.digit_bits)

    def lanes(self, precision: LayerPrecision) -> int:
        """Return ``lane_count``, at any precision."""
        return self.lane_count

    def cycles_per_step(self, precision: LayerPrecision) -> int:
        """Digits of the serial operand, multiplied where both are serial."""
        widths = {"weight": precision.weight.bits, "input": precision.input.bits}
        cycles = 1
        for operand in self.serial_operands:
            cycles *= self.digits(widths[operand])
        return cycles

    def allowed_bits(self, operand: Operand) -> tuple[int, ...]:
        """Every width up to ``max_bits``."""
        return tuple(range(1, self.max_bits + 1))

    def digit_planes(self, codes: IntArray, operand: Operand, precision: LayerPrecision) -> tuple[IntArray, int]:
        """Split the serial operands into the digits that arrive cycle by cycle; the other one arrives whole."""
        if operand not in self.serial_operands:
            return super().digit_planes(codes, operand, precision)
        number_format = precision.weight if operand == "weight" else precision.input
        count = self.digits(number_format.bits)
        return signed_digits(codes, self.digit_bits, count, number_format.is_signed), self.digit_bits

    def dot(self, weights: IntArray, inputs: IntArray, precision: LayerPrecision) -> IntArray:
        """Add up one digit plane after the other; the top plane of a signed operand counts negative."""
        operands = zip(BOTH, (weights, inputs), strict=True)
        planes = [self.digit_planes(codes, operand, precision)[0] for operand, codes in operands]
        total = np.zeros(weights.shape[:-1], dtype=np.int64)
        for i, weight_plane in enumerate(planes[0]):
            for j, input_plane in enumerate(planes[1]):
                total += (weight_plane * input_plane).sum(axis=-1) << ((i + j) * self.digit_bits)
        return total
