"""Which formats one layer computes in and stores."""

from __future__ import annotations

import math
import re
from typing import Self

from pydantic import Field, model_validator

from simulator.channel_split import ChannelSplit
from simulator.errors import PrecisionError, Problem, closest
from simulator.formats import FLOAT_BITS, Format
from simulator.layer import Frozen, Layer, Operand

_SHORT = re.compile(r"w(\d+)a(\d+)")
_EXPANDED = re.compile(r"w(\d+):(\w+)")
_SPLIT = re.compile(r"(w\d+a\d+)/w(\d+)a(\d+)@(\d+(?:\.\d*)?|\.\d+)(?::(\d+))?")
_SCALE_BITS = 16
_EXPANDED_GROUP = 128


class LayerPrecision(Frozen):
    """Formats of a layer's operands, and how its weights are scaled.

    Attributes:
        weight, input: formats in which the operands are stored and moved, and multiplied but for ``expanded_weight``.
        accumulator: format of partial sums, on chip and where they spill.
        output: format in which the finished output is written to DRAM.
        weight_group: weights that share one scale: 0 one scale a tensor, -1 one an output channel,
            g > 0 one for each g consecutive weights of an output channel.
        scale_bits: width of one scale. Scales are loaded once, with the biases, before the first tile.
        zero_bits: width of the zero point that stands beside each scale; 0: there is none.
        expanded_weight: floating-point format to which integer weights are expanded on their way into the registers,
            with the scale and the zero point of their group; None: they are multiplied as they are stored.
        split: the share of the input channels that has narrower formats than ``weight`` and ``input``; None: all
            channels are alike. Biases, scales, sums and outputs are those of the layer.
    """

    weight: Format = Format("int8")
    input: Format = Format("int8")
    accumulator: Format = Format("int32")
    output: Format = Format("int8")
    weight_group: int = Field(default=-1, ge=-1)
    scale_bits: int = Field(default=_SCALE_BITS, ge=0)
    zero_bits: int = Field(default=0, ge=0, le=32)
    expanded_weight: Format | None = None
    split: ChannelSplit | None = None

    @model_validator(mode="after")
    def _check(self) -> LayerPrecision:
        expanded = self.expanded_weight
        if expanded is not None and (expanded.is_integer or self.input.is_integer or not self.weight.is_integer):
            raise ValueError(f"expanded_weight={expanded}: integer weights expand to floating point, beside inputs in "
                             f"floating point; here weight={self.weight}, input={self.input}")
        if self.split is not None:
            self._check_split(self.split)
        return self

    def _check_split(self, split: ChannelSplit) -> None:
        for name, wide, narrow in (("weight", self.weight, split.weight), ("input", self.input, split.input)):
            if not wide.is_integer:
                raise ValueError(f"{name}={wide}: layers are split by channel in integer formats only")
            if narrow.bits > wide.bits:
                raise ValueError(f"split.{name}={narrow}: must not be wider than {name}={wide}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the short form: ``w4a8`` is int4 weights, int8 inputs, int8 outputs.

        ``bf16`` is bf16 for all three, with sums in fp32; ``fp8_e4m3:fp8_e5m2`` names weights, then activations.
        ``w4:fp8_e4m3`` is W4A8 as in DPQ (arXiv:2505.14638): uint4 weights in groups of 128 with a 16-bit scale and a
        4-bit zero point, expanded to fp8_e4m3, fp8_e4m3 activations, sums in fp32, bf16 outputs.
        ``w8a8/w4a4@0.5`` is w8a8 with half of the input channels in w4a4, ``w8a8/w4a4@0.5:32`` in groups of 32.
        Operands of 16 bits and more are not scaled where both are floating-point: their scales have no bits.
        Raises ``PrecisionError`` where the text has another form.

        >>> LayerPrecision.parse("w4a8").weight
        'int4'
        >>> LayerPrecision.parse("bf16").accumulator
        'fp32'
        >>> LayerPrecision.parse("w4:fp8_e4m3").expanded_weight
        'fp8_e4m3'
        """
        name = text.strip().lower()
        match = _SHORT.fullmatch(name)
        if match is not None:
            weight, activation = Format(f"int{match[1]}"), Format(f"int{match[2]}")
            return cls(weight=weight, input=activation, output=activation)
        if "/" in name or "@" in name:
            return cls._split(name, text)
        match = _EXPANDED.fullmatch(name)
        if match is not None:
            return cls._expanding(Format(f"uint{match[1]}"), Format(match[2]), text)
        if name not in FLOAT_BITS and name.count(":") != 1:
            raise PrecisionError(
                Problem("must name weight and activation bits, or a floating-point format", path="precision",
                        value=repr(text), allowed=("w8a8", "w4a8", "w2a4", "…", "w4:fp8_e4m3", *FLOAT_BITS),
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

    @classmethod
    def _split(cls, name: str, text: str) -> Self:
        match = _SPLIT.fullmatch(name)
        if match is None or float(match[4]) > 1 or match[5] == "0":
            raise PrecisionError(
                Problem("must name the precisions of both parts, and the share of the second, between 0 and 1",
                        path="precision", value=repr(text), allowed=("w8a8/w4a4@0.5", "w8a8/w4a4@0.75:32"))
            )
        split = ChannelSplit(
            share=float(match[4]), channel_group=int(match[5] or 1), weight=Format(f"int{match[2]}"),
            input=Format(f"int{match[3]}"),
        )
        whole = cls.parse(match[1])
        for operand, wide, narrow in (("weight", whole.weight, split.weight), ("input", whole.input, split.input)):
            if narrow.bits > wide.bits:
                raise PrecisionError(
                    Problem(f"the part named behind the slash must not be wider ({operand} {wide})",
                            path="precision", value=repr(text), allowed=("w8a8/w4a4@0.5",))
                )
        return cls(**{**dict(whole), "split": split})

    @classmethod
    def _expanding(cls, weight: Format, activation: Format, text: str) -> Self:
        if activation.is_integer:
            raise PrecisionError(
                Problem("weights expand to the activations' format, which must be a floating-point one",
                        path="precision", value=repr(text), allowed=tuple(FLOAT_BITS))
            )
        return cls(
            weight=weight, input=activation, accumulator=Format("fp32"), output=Format("bf16"),
            weight_group=_EXPANDED_GROUP, zero_bits=weight.bits, expanded_weight=activation,
        )

    @property
    def label(self) -> str:
        """Short name for tables: ``w4a8``, ``w8a8/w4a4@0.5`` where channels are split, ``w4:fp8_e4m3`` where weights
        expand, else the formats' names.

        >>> LayerPrecision().label
        'w8a8'
        """
        if self.weight.is_integer and self.input.is_integer:
            split = "" if self.split is None else f"/{self.split.label}"
            return f"w{self.weight.bits}a{self.input.bits}{split}"
        if self.expanded_weight is not None:
            return f"w{self.weight.bits}:{self.input}"
        return str(self.weight) if self.weight == self.input else f"{self.weight}:{self.input}"

    @property
    def multiplied_weight(self) -> Format:
        """Format of the weights in the registers and at the multipliers."""
        return self.weight if self.expanded_weight is None else self.expanded_weight

    @property
    def wide(self) -> LayerPrecision:
        """The precision of the wide part of the channels, which is all of a layer that is not split."""
        return self if self.split is None else self.model_copy(update={"split": None})

    @property
    def narrow(self) -> LayerPrecision:
        """The precision of the narrow part of the channels; the whole one where the layer is not split."""
        if self.split is None:
            return self
        return self.model_copy(update={"weight": self.split.weight, "input": self.split.input, "split": None})

    @property
    def parts(self) -> tuple[LayerPrecision, ...]:
        """Precisions in which the layer's products are: one, or of a split layer those of the wide and narrow part."""
        return (self,) if self.split is None else (self.wide, self.narrow)

    def stored_bits(self, operand: Operand) -> int:
        """Bits of one element of an operand in DRAM and in the buffers (outputs: the partial sum; of a layer split by
        channel the wide part)."""
        formats = {"weight": self.weight, "input": self.input, "output": self.accumulator}
        return formats[operand].bits

    def scales_per_output(self, layer: Layer) -> int:
        """Multiplications by a scale for each output: one for each group of weights in its sum.

        One scale for a tensor or a channel is multiplied in once, at the end; so is what remains where weights take
        in their groups' scales as they are expanded. 0 where scales have no bits.
        """
        if self.scale_bits == 0:
            return 0
        if self.weight_group <= 0 or layer.weight_is_activation or self.expanded_weight is not None:
            return 1
        return -(-(layer.extent("C") * layer.extent("R") * layer.extent("S")) // self.weight_group)

    def register_bits(self, operand: Operand) -> int:
        """Bits of one element of an operand in the registers of the PEs, where expanded weights are wider."""
        return self.multiplied_weight.bits if operand == "weight" else self.stored_bits(operand)

    def scale_shape(self, layer: Layer) -> tuple[int, int, int]:
        """How many scales a layer's weights have: groups, output channels of each, scales of a channel.

        Weights of a channel count in the order C, R, S, the last fastest; the last scale may serve fewer of them.
        """
        if layer.weight_is_activation or self.weight_group == 0:
            return 1, 1, 1
        in_a_channel = layer.extent("C") * layer.extent("R") * layer.extent("S")
        scales = 1 if self.weight_group < 0 else -(-in_a_channel // self.weight_group)
        return layer.extent("G"), layer.extent("K"), scales

    def parameter_bits(self, layer: Layer) -> int:
        """Bits of biases, scales and zero points, loaded once before the layer's first tile."""
        bias = layer.extent("G") * layer.extent("K") * self.accumulator.bits if layer.has_bias else 0
        return bias + math.prod(self.scale_shape(layer)) * (self.scale_bits + self.zero_bits)
