"""The channels of a split layer, as the search cuts them: in places along C, of which the narrow ones come first.

C is the one dimension that a split changes (docs/simulator.md, "Layers split by channel"). So the closed form stays a
sum of products with one factor a block; only C's factors become other ones: the bits of a tile's channels in the place
of its extent, and the cycles of steps in the place of their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from simulator.accelerator import Accelerator
from simulator.channel_split import ChannelPlaces
from simulator.counts import MOVED_INWARD
from simulator.kernels import largest_tiles, step_cycles
from simulator.layer import Dim, Layer, Operand
from simulator.plan import channel_places
from simulator.precision import LayerPrecision

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SplitChannels:
    """Channels of a layer of which some are narrow.

    Attributes:
        element_bits: for weights and inputs, bits of an element of the wide part and of the narrow one.
        step_cycles: of a step with a wide place, and of one of narrow places alone.
    """

    places: ChannelPlaces
    element_bits: tuple[tuple[int, int], tuple[int, int]]
    step_cycles: tuple[int, int]

    def bits(self, operand: Operand) -> int:
        """Bits of all channels of weights or inputs, one element a channel."""
        return int(self.bits_before(operand)[-1])

    def bits_before(self, operand: Operand) -> Ints:
        """The same of the channels before each place, and of all: shape (places + 1,)."""
        return _bits_before(self.places, *self.element_bits[MOVED_INWARD.index(operand)])

    def widest_bits(self, operand: Operand) -> int:
        """The most bits that one place takes."""
        return int(np.diff(self.bits_before(operand)).max())

    def last_steps_cycles(self, last: Ints, unroll: Ints) -> Ints:
        """Cycles of the steps of stretches of the ``last`` places, each of which begins with a step."""
        first = self.places.count - last
        steps = -(-last // unroll)
        narrow = np.where(
            self.places.count <= self.places.narrow_places, steps,
            np.maximum(0, self.places.narrow_places - first) // unroll,
        )
        wide_cycles, narrow_cycles = self.step_cycles
        return np.asarray(narrow * narrow_cycles + (steps - narrow) * wide_cycles, dtype=np.int64)


@lru_cache(maxsize=256)
def _bits_before(places: ChannelPlaces, wide_bits: int, narrow_bits: int) -> Ints:
    number = np.arange(places.count + 1)
    narrow = np.minimum(number * places.channels_per_place, places.narrow_channels)
    return np.asarray(narrow * narrow_bits + np.maximum(0, number - places.narrow_places) * wide_bits, dtype=np.int64)


def split_channels(layer: Layer, precision: LayerPrecision, accelerator: Accelerator) -> SplitChannels | None:
    """The channels of a layer; None where none of them are narrow."""
    places = channel_places(layer, precision, accelerator)
    if places.narrow_channels == 0:
        return None
    wide, narrow = precision.parts
    element = accelerator.processing_element
    weight, inputs = ((wide.stored_bits(operand), narrow.stored_bits(operand)) for operand in MOVED_INWARD)
    return SplitChannels(places, (weight, inputs), (element.cycles_per_step(wide), element.cycles_per_step(narrow)))


def channels_of_a_step(accelerator: Accelerator, precision: LayerPrecision) -> int:
    """The most input channels that the grid takes in one step of a whole precision: PEs of the axes that C may lie on,
    times their lanes where it may lie on these."""
    rows = math.prod(axis.size for axis in accelerator.grid.axes if "C" in axis.unroll)
    return rows * (accelerator.processing_element.lanes(precision) if "C" in accelerator.grid.lane_unroll else 1)


def layer_in_places(layer: Layer, precision: LayerPrecision, accelerator: Accelerator) -> Layer:
    """A layer with as many channels as the loop nest counts places along C: itself where none are narrow."""
    places = channel_places(layer, precision, accelerator)
    if places.narrow_channels == 0:
        return layer
    dims: dict[Dim, int] = {**layer.dims, "C": places.count}
    return layer.model_copy(update={"dims": dims})


def split_columns(
    split: SplitChannels, tiles: Ints, unroll: Ints, lanes: Ints, grid_tile: Ints, register_places: Ints,
    last: Ints, last_inner: Ints,
) -> dict[str, Ints]:
    """Columns of C's rows for what is counted in bits and in cycles.

    ``tiles`` (rows, levels of buffers), all others (rows,): places that the grid, a PE, the grid's register tile and a
    PE's registers hold, and those of the last innermost tile and of its last register tile.
    """
    columns: dict[str, Ints] = {}
    for operand in MOVED_INWARD:
        before = split.bits_before(operand)
        for level in range(1, tiles.shape[1] + 1):
            nests, which = np.unique(tiles[:, :level], axis=0, return_inverse=True)
            columns[f"tile{level}_{operand}"] = largest_tiles(before, nests)[which.ravel()]
            columns[f"first{level}_{operand}"] = before[tiles[:, level - 1]]
        columns[f"first_grid_{operand}"] = before[np.minimum(grid_tile, tiles[:, -1])]
        columns[f"register_{operand}"] = np.minimum(
            register_places * split.widest_bits(operand), columns[f"tile{tiles.shape[1]}_{operand}"]
        )
    wide_cycles, narrow_cycles = split.step_cycles
    ways, which = np.unique(np.column_stack([tiles, unroll, lanes]), axis=0, return_inverse=True)
    times = step_cycles(
        split.places.count, split.places.narrow_places, narrow_cycles, wide_cycles,
        np.ascontiguousarray(ways[:, :-2]), ways[:, -2], ways[:, -1],
    )[which.ravel()]
    columns["steps_cycles"], columns["wide_cycles"], columns["narrow_cycles"] = times.T
    columns["last_steps_cycles"] = split.last_steps_cycles(last, unroll)
    columns["last_inner_steps_cycles"] = split.last_steps_cycles(last_inner, unroll)
    return columns
