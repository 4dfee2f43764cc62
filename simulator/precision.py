"""Which formats one layer computes in and stores."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field

from simulator.errors import PrecisionError, Problem, closest
from simulator.formats import FLOAT_BITS, Format
from simulator.layer import Frozen, Layer, Operand

_SHORT = re.compile(r"w(\d+)a(\d+)")
_SCALE_BITS = 16


class LayerPrecision(Frozen):
    """Formats of a layer's operands, and how its weights are scaled.

    Attributes:
        weight, input: formats in which the operands are stored, moved and multiplied.
        accumulator: format of partial sums, on chip and where they spill.
        output: format in which the finished output is written to DRAM.
        weight_group: weights that share one scale: 0 one scale a tensor, -1 one an output channel,
            g > 0 one for each g consecutive weights of an output channel.
        scale_bits: width of one scale. Scales are loaded once, with the biases, before the first tile.
    """

    weight: Format = Format("int8")
    input: Format = Format("int8")
    accumulator: Format = Format("int32")
    output: Format = Format("int8")
    weight_group: int = Field(default=-1, ge=-1)
    scale_bits: int = Field(default=_SCALE_BITS, ge=0)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the short form: ``w4a8`` is int4 weights, int8 inputs, int8 outputs.

        ``bf16`` is bf16 for all three, with sums in fp32; ``fp8_e4m3:fp8_e5m2`` names weights, then activations.
        Operands of 16 bits and more are not scaled where both are floating-point: their scales have no bits.
        Raises ``PrecisionError`` where the text has another form.

        >>> LayerPrecision.parse("w4a8").weight
        'int4'
        >>> LayerPrecision.parse("bf16").accumulator
        'fp32'
        """
        name = text.strip().lower()
        match = _SHORT.fullmatch(name)
        if match is not None:
            weight, activation = Format(f"int{match[1]}"), Format(f"int{match[2]}")
            return cls(weight=weight, input=activation, output=activation)
        if name not in FLOAT_BITS and name.count(":") != 1:
            raise PrecisionError(
                Problem("must name weight and activation bits, or a floating-point format", path="precision",
                        value=repr(text), allowed=("w8a8", "w4a8", "w2a4", "…", *FLOAT_BITS),
                        did_you_mean=closest(name, list(FLOAT_BITS)))
            )
        first, *second = name.split(":")
        weight, activation = Format(first), Format(*(second or [first]))
        if weight.is_integer and activation.is_integer:
            return cls(weight=weight, input=activation, output=activation)
        is_scaled = any(number_format.is_integer or number_format.bits < 16 for number_format in (weight, activation))
        return cls(
            weight=weight, input=activation, accumulator=Format("fp32"), output=activation,
            scale_bits=_SCALE_BITS if is_scaled else 0,
        )

    @property
    def label(self) -> str:
        """Short name for tables: ``w4a8``, or the formats' names where they are not both integers.

        >>> LayerPrecision().label
        'w8a8'
        """
        if self.weight.is_integer and self.input.is_integer:
            return f"w{self.weight.bits}a{self.input.bits}"
        return str(self.weight) if self.weight == self.input else f"{self.weight}:{self.input}"

    def stored_bits(self, operand: Operand) -> int:
        """Bits of one element of an operand in the buffers and registers (outputs: the partial sum)."""
        formats = {"weight": self.weight, "input": self.input, "output": self.accumulator}
        return formats[operand].bits

    def scales_per_output(self, layer: Layer) -> int:
        """Multiplications by a scale for each output: one for each group of weights in its sum.

        One scale for a tensor or a channel is multiplied in once, at the end. 0 where scales have no bits.
        """
        if self.scale_bits == 0:
            return 0
        if self.weight_group <= 0 or layer.weight_is_activation:
            return 1
        return -(-(layer.extent("C") * layer.extent("R") * layer.extent("S")) // self.weight_group)

    def parameter_bits(self, layer: Layer) -> int:
        """Bits of scales and biases, loaded once before the layer's first tile."""
        channels = layer.extent("G") * layer.extent("K")
        bias = channels * self.accumulator.bits if layer.has_bias else 0
        if layer.weight_is_activation or self.weight_group == 0:
            scales = 1
        elif self.weight_group < 0:
            scales = channels
        else:
            in_a_channel = layer.extent("C") * layer.extent("R") * layer.extent("S")
            scales = channels * -(-in_a_channel // self.weight_group)
        return bias + scales * self.scale_bits
