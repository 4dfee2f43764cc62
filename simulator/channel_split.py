"""Layers split by channel: a share of the input channels in narrower formats (FlexiQ, arXiv:2510.02822).

The first channels of each group are the *narrow* part, the others the *wide* one; both add up in the same outputs. The
loop nest counts channels in *places*: one is what stands on one lane in a step, a channel of the wide part, or as many
of the narrow part as the lane takes of them at once (docs/simulator.md, "Layers split by channel").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field, model_validator

from simulator.formats import Format
from simulator.layer import Frozen, Layer


class ChannelSplit(Frozen):
    """Which share of a layer's input channels is narrow, and in which formats.

    Attributes:
        share: of the channels of each group, from channel 0 on, between 0 and 1.
        channel_group: channels that are narrow or wide together; FlexiQ takes as many as its array has rows.
        weight, input: integer formats of the narrow part.
    """

    share: float = Field(ge=0, le=1)
    channel_group: int = Field(default=1, ge=1)
    weight: Format = Format("int4")
    input: Format = Format("int4")

    @model_validator(mode="after")
    def _check(self) -> ChannelSplit:
        for name, number_format in (("weight", self.weight), ("input", self.input)):
            if not number_format.is_integer:
                raise ValueError(f"split.{name}={number_format}: must be an integer format")
        return self

    def channels(self, layer: Layer) -> int:
        """Narrow channels of each group of a layer: whole channel groups, as many as come nearest to the share, of two
        equally near the fewer. The last channel group may have fewer channels than the others."""
        extent = layer.extent("C")
        groups = math.ceil(self.share * -(-extent // self.channel_group) - 0.5)
        return min(extent, groups * self.channel_group)

    @property
    def label(self) -> str:
        """Short form: formats of the narrow part, its share, the channel group where it is no single channel."""
        group = f":{self.channel_group}" if self.channel_group > 1 else ""
        return f"w{self.weight.bits}a{self.input.bits}@{self.share:.12g}{group}"


@dataclass(frozen=True)
class ChannelPlaces:
    """The channels of one group of a layer, in places along C: those of the narrow part first.

    Attributes:
        channels, narrow_channels: all input channels, and those that are narrow.
        channels_per_place: narrow channels on one place; the last of the narrow places may have fewer.
    """

    channels: int
    narrow_channels: int = 0
    channels_per_place: int = 1

    @property
    def narrow_places(self) -> int:
        """Places of the narrow part."""
        return -(-self.narrow_channels // self.channels_per_place)

    @property
    def count(self) -> int:
        """All places: the extent of C in the loop nest."""
        return self.narrow_places + self.channels - self.narrow_channels

    def channel(self, place: int) -> int:
        """First channel of a place; for the place behind the last one the number of all channels."""
        if place <= self.narrow_places:
            return min(place * self.channels_per_place, self.narrow_channels)
        return self.narrow_channels + place - self.narrow_places

    def bits(self, first: int, last: int, wide_bits: int, narrow_bits: int) -> int:
        """Bits of one element a channel over the places from ``first`` up to, but not with, ``last``."""
        ends = self.channel(first), self.channel(last)
        narrow = [min(end, self.narrow_channels) for end in ends]
        return (narrow[1] - narrow[0]) * (narrow_bits - wide_bits) + (ends[1] - ends[0]) * wide_bits
