"""Channels of a layer that is split: places along C, and bits (docs/simulator.md, "Layers split by channel").

The same as ``simulator.channel_split.ChannelPlaces``, for kernels.
"""

from __future__ import annotations

from collections import namedtuple

from simulator.kernels.compiled import inner

SplitInput = namedtuple(
    "SplitInput",
    [
        "narrow_channels", "narrow_places", "channels_per_place",  # 0, 0, 1 where the layer is not split
        "narrow_bits",  # (3,) weight, input, partial sum, of an element of a narrow channel
        "narrow_step_cycles",  # of a step of narrow places alone
    ],
)


@inner()
def channel_of(split, place):
    """First channel of a place."""
    if place <= split.narrow_places:
        return min(place * split.channels_per_place, split.narrow_channels)
    return split.narrow_channels + place - split.narrow_places


@inner()
def bits_before(narrow_channels, narrow_bits, bits, channel):
    """Bits of an element a channel over all channels before one. ``bits``: of an element of a wide channel."""
    narrow = min(channel, narrow_channels)
    return narrow * narrow_bits + (channel - narrow) * bits


@inner()
def stretch_bits(split, operand, bits, first, count):
    """Bits of an element a channel over ``count`` places."""
    narrow_bits = split.narrow_bits[operand]
    begin = bits_before(split.narrow_channels, narrow_bits, bits, channel_of(split, first))
    return bits_before(split.narrow_channels, narrow_bits, bits, channel_of(split, first + count)) - begin


@inner()
def narrow_steps(split, first, count, unroll):
    """Steps along C that cover narrow places alone, of a stretch of ``count`` places that begins with a step."""
    if first + count <= split.narrow_places:
        return -(-count // unroll)
    return max(0, split.narrow_places - first) // unroll
