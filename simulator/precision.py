"""Which formats one layer computes in and stores."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field

from simulator.errors import PrecisionError, Problem
from simulator.formats import Format
from simulator.layer import Frozen, Layer, Operand

_SHORT = re.compile(r"w(\d+)a(\d+)")


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
    scale_bits: int = Field(default=16, ge=0)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the short form: ``w4a8`` is int4 weights, int8 inputs, int8 outputs.

        Raises ``PrecisionError`` where the text has another form.

        >>> LayerPrecision.parse("w4a8").weight
        'int4'
        """
        match = _SHORT.fullmatch(text.strip().lower())
        if match is None:
            raise PrecisionError(
                Problem("must name weight and activation bits", path="precision", value=repr(text),
                        allowed=("w8a8", "w4a8", "w2a4", "…"))
            )
        weight, activation = Format(f"int{match[1]}"), Format(f"int{match[2]}")
        return cls(weight=weight, input=activation, output=activation)

    @property
    def label(self) -> str:
        """Short name for tables: ``w4a8``, or the formats' names where they are not plain integers.

        >>> LayerPrecision().label
        'w8a8'
        """
        if self.weight.is_integer and self.input.is_integer:
            return f"w{self.weight.bits}a{self.input.bits}"
        return f"{self.weight}·{self.input}"

    def stored_bits(self, operand: Operand) -> int:
        """Bits of one element of an operand in the buffers and registers (outputs: the partial sum)."""
        formats = {"weight": self.weight, "input": self.input, "output": self.accumulator}
        return formats[operand].bits

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
