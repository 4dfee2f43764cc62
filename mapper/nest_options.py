"""The space of loop nests as independent groups of dimensions, for the search in ``nest_search``.

A nest is cut at the array: the *upper* block holds the loops outside the array's tile and the places where the shared
memory keeps its operands, the *lower* block the spatial loops, the loops inside each PE and the places of its own
memory. Of each block only the products of the loops between two places matter. They are called sections: section 0
lies outside the first place, the last one inside the last place.

A dimension is its own group, except for positions and taps of a kernel, whose halo ties them. An option of a group
says how its extents are cut into sections; it contributes one factor to every quantity of a nest.

What is left out costs nothing (both are as good as, or better than, what they replace):

* Just inside a place no loop that the operand wholly depends on: outside of it, the same bits move and less room is
  taken. Just outside a place no loop that the operand does not depend on: inside, fewer bits move in the same room.
* Of the options of a group with the same tile (lower: and the same spatial factors), those that another one equals or
  beats in all factors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simulator.counting_rules.loop_nest import spanned
from simulator.kernels import non_dominated
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand

Order = tuple[Operand, ...]
Extents = tuple[int, ...]
TAP_OF: dict[Dim, Dim] = {"P": "R", "Q": "S"}


@dataclass(frozen=True)
class Group:
    """Dimensions whose factors cannot be told apart, and their extents. ``steps``: stride and dilation of a halo."""

    dims: tuple[Dim, ...]
    extents: Extents
    steps: tuple[int, int] | None = None

    @property
    def tiles(self) -> list[Extents]:
        """Every tile of the group."""
        return list(itertools.product(*(divisors(extent) for extent in self.extents)))


@dataclass(frozen=True)
class Option:
    """One way to cut a group.

    Attributes:
        sections: for each dimension its trips in each section of the block, outermost first.
        inside: for each dimension what is below the sections (upper: the array's tile; lower: the spatial factor).
        slides: the dimension whose loop just inside the input's place the tile passes piece by piece, or None.
        traffic: factor of each operand's bits, in the order of ``OPERANDS``. room: of each operand's room.
    """

    sections: tuple[Extents, ...]
    inside: Extents
    slides: Dim | None
    traffic: tuple[int, ...]
    room: tuple[int, ...]


@dataclass
class OptionTable:
    """Options of one group by their key: upper, the tile; lower, spatial factors and extents inside the PE."""

    group: Group
    by_key: dict[tuple[Extents, ...], list[Option]] = field(default_factory=dict)


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, ascending.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [one for one in range(1, math.isqrt(number) + 1) if number % one == 0]
    return small + [number // one for one in reversed(small) if one * one != number]


def cuts(number: int, parts: int) -> Iterator[Extents]:
    """Every way to write a number as a product of so many ordered factors.

    >>> list(cuts(4, 2))
    [(1, 4), (2, 2), (4, 1)]
    """
    if parts == 0:
        if number == 1:
            yield ()
        return
    if parts == 1:
        yield (number,)
        return
    for first in divisors(number):
        for rest in cuts(number // first, parts - 1):
            yield (first, *rest)


def groups_of(layer: Layer) -> list[Group]:
    """Return the groups of a layer's dimensions; those of extent 1 belong to none."""
    found, tied = [], set()
    for axis, (position, tap) in enumerate(TAP_OF.items()):
        stride, dilation = layer.stride[axis], layer.dilation[axis]
        positions, taps = layer.extent(position), layer.extent(tap)
        # Without a halo and without gaps the input's rows multiply like those of any other dimension.
        if not ((taps == 1 and stride == 1) or (positions == 1 and dilation == 1)):
            found.append(Group((position, tap), (positions, taps), (stride, dilation)))
            tied |= {position, tap}
    found += [Group((dim,), (layer.extent(dim),)) for dim in DIMS if dim not in tied and layer.extent(dim) > 1]
    return found


def wholly_relevant(operand: Operand, dim: Dim, group: Group) -> bool:
    """Whether an operand depends on a dimension without a halo."""
    return dim in RELEVANT_DIMS[operand] and not (operand == "input" and group.steps is not None)


def sections_of(dim: Dim, group: Group, places: Order) -> list[int]:
    """Return the sections in which a dimension's loops need to be looked for."""
    return [
        section for section in range(len(places) + 1)
        if (section == 0 or not wholly_relevant(places[section - 1], dim, group))
        and (section == len(places) or dim in RELEVANT_DIMS[places[section]])
    ]


def _sectioned(extent: int, sections: Sequence[int], count: int) -> Iterator[Extents]:
    """Every way to cut an extent over some of ``count`` sections; the others have one trip."""
    for cut in cuts(extent, len(sections)):
        whole = [1] * count
        for section, trips in zip(sections, cut, strict=True):
            whole[section] = trips
        yield tuple(whole)


def upper_options(group: Group, places: Order) -> OptionTable:
    """Options of the loops outside the array, one key for each tile of the array."""
    found = OptionTable(group)
    for tile in group.tiles:
        rows = [
            option
            for sections in itertools.product(*(
                _sectioned(extent // inner, sections_of(dim, group, places), len(places) + 1)
                for dim, extent, inner in zip(group.dims, group.extents, tile, strict=True)
            ))
            for option in _options(group, places, sections, tile, spatial=None)
        ]
        found.by_key[(tile,)] = _undominated(rows)
    return found


def lower_options(group: Group, places: Order, spreads: Sequence[Extents]) -> OptionTable:
    """Options of spatial loops and loops inside a PE, one key for each pair of them.

    Section 0 is all that lies outside the array. ``spreads`` are the spatial factors that may be.
    """
    found = OptionTable(group)
    for spread in spreads:
        for tile in group.tiles:
            if any(inner % across for inner, across in zip(tile, spread, strict=True)):
                continue
            local = tuple(inner // across for inner, across in zip(tile, spread, strict=True))
            outside = [extent // inner for extent, inner in zip(group.extents, tile, strict=True)]
            rows = []
            for sections in itertools.product(*(
                _sectioned(inner, [one for one in sections_of(dim, group, places) if one], len(places) + 1)
                for dim, inner in zip(group.dims, local, strict=True)
            )):
                whole = tuple((above, *cut[1:]) for above, cut in zip(outside, sections, strict=True))
                rows += _options(group, places, whole, tuple(1 for _ in local), spatial=spread)
            if rows:
                found.by_key[spread, local] = _undominated(rows)
    return found


def _options(
    group: Group, places: Order, sections: tuple[Extents, ...], inside: Extents, spatial: Extents | None
) -> list[Option]:
    """Return the options of one cut: as it is, and with each loop of a halo that the input may pass piece by piece."""
    traffic, room = [1] * len(OPERANDS), [1] * len(OPERANDS)
    across = spatial or tuple(1 for _ in inside)
    slidable: list[tuple[Dim, int]] = []
    for number, operand in enumerate(OPERANDS):
        place = places.index(operand) + 1 if operand in places else None
        if place is None and spatial is None:
            continue
        # An operand that no PE keeps is asked for at every step, one element at a time.
        above = [math.prod(cut if place is None else cut[:place]) for cut in sections]
        below = [inner * (1 if place is None else math.prod(cut[place:]))
                 for inner, cut in zip(inside, sections, strict=True)]
        if operand == "input" and group.steps is not None:
            traffic[number] = math.prod(above) * math.prod(across) * spanned(below[0], below[1], *group.steps)
            if place is not None:
                room[number] = spanned(below[0], below[1], *group.steps)
                slidable = [(dim, cut[place]) for dim, cut in zip(group.dims, sections, strict=True) if cut[place] > 1]
            continue
        for dim, extent_above, extent_below, copies in zip(group.dims, above, below, across, strict=True):
            depends = dim in RELEVANT_DIMS[operand]
            traffic[number] *= extent_above * (extent_below * copies if depends else 1)
            if place is not None and depends:
                room[number] *= extent_below
    kept_inside = inside if spatial is None else spatial
    found = [Option(sections, kept_inside, None, tuple(traffic), tuple(room))]
    for slides, trips in slidable:
        number = OPERANDS.index("input")
        place = places.index("input") + 1
        held = [inner * math.prod(cut[place:]) // (trips if dim == slides else 1)
                for dim, inner, cut in zip(group.dims, inside, sections, strict=True)]
        smaller = list(room)
        assert group.steps is not None
        smaller[number] = spanned(held[0], held[1], *group.steps)
        found.append(Option(sections, kept_inside, slides, tuple(traffic), tuple(smaller)))
    return found


def _undominated(rows: list[Option]) -> list[Option]:
    if len(rows) < 2:
        return rows
    table: npt.NDArray[np.int64] = np.array(
        [(*row.traffic, *row.room, row.slides is not None) for row in rows], dtype=np.int64
    )
    return [row for row, stays in zip(rows, non_dominated(table), strict=True) if stays]
