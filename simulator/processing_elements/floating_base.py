"""Floating-point arithmetic of a PE: multipliers, an adder over the lanes, and a floating-point sum.

What ``floating_point`` and ``dual_precision`` share.

The arithmetic, in this order (docs/simulator.md, "Values", says how steps and PEs are added up):

1. each product is rounded once to the accumulator's format. In FP32 products of FP8, FP16 and (but for overflow and
   underflow) BF16 operands are exact, so that nothing is lost there;
2. the products of a step are added over the lanes, each addition rounded to the accumulator's format;
3. sums of steps are added to what the unit holds, each addition rounded the same way;
4. a finished sum is rounded once to the output's format; where that is an integer, it is handed out as it is.

All rounding is to nearest, ties to even (IEEE 754-2019, 4.3.1). Infinities and NaN come and go as in IEEE 754; a NaN
that arithmetic gives is always the same one. What differs between machines is a parameter; fused multiply–add with
one rounding, and adders that align all products and cut them off (tensor cores: Fasi et al., "Numerical behavior of
NVIDIA tensor cores", PeerJ Computer Science 7:e330, 2021), are not modelled.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from simulator.errors import Problem, closest
from simulator.floating import Reals, decode, encode, flushed, rounded
from simulator.formats import FLOAT_BITS, FloatName, Format
from simulator.precision import LayerPrecision
from simulator.processing_elements.base import IntArray, ProcessingElementBase

CANNOT_RUN = "the processing element cannot run this format"


class FloatingElementBase(ProcessingElementBase):
    """What the kinds that multiply and accumulate in floating point have in common.

    Attributes:
        operand_formats: formats of weights and inputs as they are multiplied, in any pairing. E4M3 has two ranges:
            ``fp8_e4m3`` has no infinities and reaches 448 (Micikevicius et al., "FP8 Formats for Deep Learning",
            arXiv:2209.05433); ``fp8_e4m3_ieee`` keeps the top exponent for infinities and NaN and reaches 240.
        lane_count: products added up in a step, for operands of the widest of ``operand_formats``.
        lanes_double_at_half_width: a step takes twice as many products of operands of half the width, and so on;
            the wider of the two operands counts.
        step_cycles: cycles between two steps: more than 1 where a sum is not ready for the next step in one cycle.
        accumulator_format: format of products and sums, on chip and where partial sums spill.
        lane_order: ``tree``: neighbouring lanes are added in pairs, then the pairs, and so on (an odd one out passes
            on); ``chain``: lane after lane, from the first.
        subnormals: ``kept`` (IEEE 754), or ``flushed``: subnormal operands, and results that are subnormal once they
            are rounded, count as the zero of their sign (Intel, "BFLOAT16 – Hardware Numerics Definition", 2018).
        output_overflow: finished sums beyond the largest finite output: ``infinity`` (NaN where the format has no
            infinity), or ``saturated`` to the largest finite value, infinite sums too (the two modes of conversion
            of the OCP 8-bit Floating Point Specification 1.0).
    """

    operand_formats: tuple[FloatName, ...] = Field(min_length=1)
    lane_count: int = Field(default=1, ge=1)
    lanes_double_at_half_width: bool = True
    step_cycles: int = Field(default=1, ge=1)
    accumulator_format: Literal["fp32", "fp16", "bf16"] = "fp32"
    lane_order: Literal["tree", "chain"] = "tree"
    subnormals: Literal["kept", "flushed"] = "kept"
    output_overflow: Literal["infinity", "saturated"] = "infinity"

    @model_validator(mode="after")
    def _check(self) -> FloatingElementBase:
        if len(set(self.operand_formats)) != len(self.operand_formats):
            raise ValueError(f"operand_formats={list(self.operand_formats)}: must not repeat")
        return self

    def lanes(self, precision: LayerPrecision) -> int:
        """``lane_count``, times the widest format's width over that of the wider operand where lanes double."""
        if not self.lanes_double_at_half_width:
            return self.lane_count
        widest = max(FLOAT_BITS[name] for name in self.operand_formats)
        return self.lane_count * (widest // max(precision.multiplied_weight.bits, precision.input.bits))

    def cycles_per_step(self, precision: LayerPrecision) -> int:
        """Return ``step_cycles``, in any format."""
        return self.step_cycles

    def problems(self, precision: LayerPrecision) -> list[Problem]:
        """Say what of a precision this PE cannot run; empty if nothing."""
        accumulates = "is not what the processing element adds up in"
        found = self._weight_problems(precision)
        for name, number_format, allowed, rule in (
            ("input", precision.input, self.operand_formats, CANNOT_RUN),
            ("accumulator", precision.accumulator, (self.accumulator_format,), accumulates),
        ):
            found += unless_allowed(name, number_format, allowed, rule)
        return found

    def _weight_problems(self, precision: LayerPrecision) -> list[Problem]:
        if precision.expanded_weight is not None:
            rule = "the processing element does not expand weights"
            return [Problem(rule, path="precision.expanded_weight", value=str(precision.expanded_weight))]
        return unless_allowed("weight", precision.weight, self.operand_formats, CANNOT_RUN)

    def dot(self, weights: IntArray, inputs: IntArray, precision: LayerPrecision) -> IntArray:
        """Sum of products over the last axis, as a code of the accumulator's format."""
        with np.errstate(invalid="ignore"):
            operands = self.multiplied(weights, precision.multiplied_weight), self.multiplied(inputs, precision.input)
            terms = self._rounded(operands[0] * operands[1])
        while terms.shape[-1] > 1:
            if self.lane_order == "chain":
                first, rest = self._sum(terms[..., :1], terms[..., 1:2]), terms[..., 2:]
            else:
                even = terms.shape[-1] // 2 * 2
                first, rest = self._sum(terms[..., :even:2], terms[..., 1:even:2]), terms[..., even:]
            terms = np.concatenate([first, rest], axis=-1)
        return encode(terms[..., 0], self._accumulator)

    def add(self, sums: list[int], values: list[int], precision: LayerPrecision) -> list[int]:
        """Add sums pairwise with one rounding each; all are codes of the accumulator's format."""
        left, right = (decode(codes, self._accumulator) for codes in (sums, values))
        return [int(code) for code in encode(self._sum(left, right), self._accumulator)]

    def finish(self, sums: list[int], precision: LayerPrecision) -> list[int]:
        """Round finished sums to codes of the output's format."""
        return [int(code) for code in self.output_codes(decode(sums, self._accumulator), precision)]

    def output_codes(self, sums: Reals, precision: LayerPrecision) -> IntArray:
        """Codes of the output's format for the values of finished sums.

        Where the output is an integer these are the sums as they are, codes of the accumulator's format: scales, which
        are no part of a layer here, decide the integers.
        """
        if precision.output.is_integer:
            return encode(sums, self._accumulator)
        values = rounded(sums, precision.output)
        if self.subnormals == "flushed":
            values = flushed(values, precision.output)
        return encode(values, precision.output, saturates=self.output_overflow == "saturated")

    def multiplied(self, codes: IntArray, number_format: Format) -> Reals:
        """Values that the multiplier takes for the codes of an operand."""
        values = decode(codes, number_format)
        return flushed(values, number_format) if self.subnormals == "flushed" else values

    @property
    def _accumulator(self) -> Format:
        return Format(self.accumulator_format)

    def _sum(self, left: Reals, right: Reals) -> Reals:
        # Infinities of opposite signs give NaN, which is a result and no mistake.
        with np.errstate(invalid="ignore"):
            return self._rounded(left + right)

    def _rounded(self, values: Reals) -> Reals:
        values = rounded(values, self._accumulator)
        return flushed(values, self._accumulator) if self.subnormals == "flushed" else values


def unless_allowed(name: str, number_format: Format, allowed: tuple[str, ...], rule: str) -> list[Problem]:
    """Return the problem that a format of a precision breaks ``rule``; nothing where it is among those allowed."""
    if number_format in allowed:
        return []
    near = closest(number_format, allowed)
    return [Problem(rule, path=f"precision.{name}", value=str(number_format), allowed=allowed, did_you_mean=near)]
