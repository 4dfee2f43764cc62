"""Which elements of the operands a box of the loop nest touches, and which of them fall to which PE."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from simulator.accelerator import LANES, Accelerator
from simulator.layer import DIMS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping
from simulator.precision import LayerPrecision

Element = tuple[int, ...]
"""Index of one element in its operand's array: weight GKCRS, input GNCHW, output GNKPQ."""

Position = tuple[int, ...]
"""Place of a PE: its index along each axis of the grid."""

Box = dict[Dim, range]
"""For each dimension the indices that a tile covers; along C those of places."""

Point = Sequence[int]
"""One product: an index for each of ``DIMS``."""


def weight_element(point: Point) -> Element:
    """Weight that a product reads."""
    g, _, k, c, _, _, r, s = point
    return g, k, c, r, s


def input_element(layer: Layer, point: Point) -> Element | None:
    """Input that a product reads; None where it is a padding zero, which is stored nowhere."""
    g, n, _, c, p, q, r, s = point
    row = p * layer.stride[0] + r * layer.dilation[0] - layer.padding_begin[0]
    column = q * layer.stride[1] + s * layer.dilation[1] - layer.padding_begin[1]
    rows, columns = layer.stored_input_size
    if 0 <= row < rows and 0 <= column < columns:
        return g, n, c, row, column
    return None


def output_element(point: Point) -> Element:
    """Output that a product is added to."""
    g, n, k, _, p, q, _, _ = point
    return g, n, k, p, q


def elements(layer: Layer, operand: Operand, indices: dict[Dim, Sequence[int]]) -> frozenset[Element]:
    """Distinct stored elements of an operand that the products at ``indices`` touch, one by one."""
    relevant = RELEVANT_DIMS[operand]
    points = itertools.product(*(indices[dim] if dim in relevant else (0,) for dim in DIMS))
    if operand == "weight":
        return frozenset(weight_element(point) for point in points)
    if operand == "output":
        return frozenset(output_element(point) for point in points)
    touched = (input_element(layer, point) for point in points)
    return frozenset(element for element in touched if element is not None)


def channels_by_place(layer: Layer, precision: LayerPrecision, accelerator: Accelerator) -> list[range]:
    """Channels that stand on each place along C: one, or of the narrow part as many as share a lane."""
    channels = range(layer.extent("C"))
    if precision.split is None:
        return tiles(channels, 1)
    narrow = precision.split.channels(layer)
    element, together = accelerator.processing_element, 1
    if "C" in accelerator.grid.lane_unroll:
        together = element.lanes(precision.narrow) // element.lanes(precision.wide)
    return tiles(channels[:narrow], together) + tiles(channels[narrow:], 1)


def tiles(whole: range, extent: int) -> list[range]:
    """Cut a range into tiles of ``extent``; the last may be smaller."""
    return [range(begin, min(begin + extent, whole.stop)) for begin in range(whole.start, whole.stop, extent)]


@dataclass(frozen=True)
class Layout:
    """How a mapping spreads the elements of a register tile over lanes, PEs and time.

    Attributes:
        held: elements of each dimension that the whole grid works on in one step (``u``).
        on_lanes: elements of each dimension on the lanes of a PE.
        place: for each PE in use, its number along each dimension; the last axis counts fastest.
        channels: those on each place along C.
    """

    held: dict[Dim, int]
    on_lanes: dict[Dim, int]
    place: dict[Position, dict[Dim, int]]
    channels: list[range]

    @classmethod
    def of(cls, accelerator: Accelerator, mapping: Mapping, channels: list[range]) -> Layout:
        """Read the spatial part of a mapping."""
        axes = accelerator.grid.axes
        on_lanes = {dim: mapping.spatial.get(LANES, {}).get(dim, 1) for dim in DIMS}
        place = {}
        for position in itertools.product(*(range(axis.size) for axis in axes)):
            numbers: dict[Dim, int] = dict.fromkeys(DIMS, 0)
            in_use = True
            for axis, index in zip(axes, position, strict=True):
                rest = index
                for dim, factor in mapping.spatial.get(axis.name, {}).items():
                    numbers[dim] = numbers[dim] * factor + rest % factor
                    rest //= factor
                in_use = in_use and rest == 0
            if in_use:
                place[position] = numbers
        return cls({dim: mapping.unrolled(dim) for dim in DIMS}, on_lanes, place, channels)

    def share(self, position: Position, dim: Dim, tile: range) -> list[list[int]]:
        """Indices along ``dim`` that a PE works on in a register tile: a list for each step, maybe empty."""
        lanes = self.on_lanes[dim]
        first = self.place[position][dim] * lanes
        steps = []
        for begin in range(tile.start, tile.stop, self.held[dim]):
            mine = range(begin + first, begin + first + lanes)
            steps.append([index for index in mine if index < tile.stop])
        return steps

    def pe_elements(self, layer: Layer, operand: Operand, position: Position, box: Box) -> frozenset[Element]:
        """Distinct elements of an operand that one PE works on in a register tile."""
        indices: dict[Dim, Sequence[int]] = {
            dim: list(itertools.chain.from_iterable(self.share(position, dim, box[dim]))) for dim in DIMS
        }
        return elements(layer, operand, self._with_channels(indices))

    def box_elements(self, layer: Layer, operand: Operand, box: Box) -> frozenset[Element]:
        """Distinct stored elements of an operand that the tile ``box`` touches."""
        return elements(layer, operand, self._with_channels(dict(box)))

    def points(self, indices: dict[Dim, list[int]]) -> list[Point]:
        """Products at some indices, in the order of the loops, the last fastest."""
        return list(itertools.product(*(self._with_channels(dict(indices))[dim] for dim in DIMS)))

    def _with_channels(self, indices: dict[Dim, Sequence[int]]) -> dict[Dim, Sequence[int]]:
        return indices | {"C": [channel for place in indices["C"] for channel in self.channels[place]]}


def walk(order: Iterable[Dim], trips: dict[Dim, list[range]]) -> Iterator[dict[Dim, int]]:
    """Run loops, outermost first: yield the trip number of each."""
    dims = tuple(order)
    for numbers in itertools.product(*(range(len(trips[dim])) for dim in dims)):
        yield dict(zip(dims, numbers, strict=True))
