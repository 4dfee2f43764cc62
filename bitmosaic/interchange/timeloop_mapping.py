"""A mapping in Timeloop's files as a loop nest: factors and remainders, permutations, splits of spatial loops.

An imperfect factor (``P=3,2``) makes 3 trips, and 2 the last time: the last time of all loops over P around it. So the
last tile of the whole dimension is smaller, and no other. Three loops with trips b and last trips r, the outermost
first, span ((r₁ − 1)·b₂ + r₂ − 1)·b₃ + r₃.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from bitmosaic.interchange.einsum import Einsum
from bitmosaic.interchange.foreign_yaml import Reading
from simulator.counting_rules.loop_nest import Loop, LoopNest, Machine, Store
from simulator.layer import OPERANDS, Operand

if TYPE_CHECKING:
    from bitmosaic.interchange.timeloop import Architecture, Level

SPATIAL = re.compile(r"inter_(\w+)_spatial")
_FACTOR = re.compile(r"(\w*?[A-Za-z_])\s*(?:=|<=|(?=\d))\s*(\d+)")


def _factors(reading: Reading, directive: Any, path: str) -> dict[str, tuple[int, int]]:
    """``R=3,P=3,2``, ``R3 P3,2`` or a list of such: dimension → factor, 0 for what is left; and its remainder, the
    trips of the last time, which is the factor where it is not given."""
    given = directive.get("factors") or ""
    text = " ".join(str(each) for each in given) if isinstance(given, list) else str(given)
    found: dict[str, tuple[int, int]] = {}
    dim = ""
    for part in re.split(r"[,\s]+", re.sub(r"\s*=\s*", "=", text.strip())):
        match = _FACTOR.fullmatch(part)
        if match is not None:
            dim = match[1]
            found[dim] = int(match[2]), int(match[2])
        elif part.isdigit() and dim and found[dim][0] == found[dim][1] >= int(part) > 0:
            found[dim] = found[dim][0], int(part)
        elif part:
            rule = "is no remainder of the factor before it: from 1 to that factor" if part.isdigit() else \
                "must be such as R=3, or R=3,2 where the last time makes 2 trips"
            reading.wrong(rule, f"{path}.factors", part, at=directive)
    return found


class _Cut(NamedTuple):
    """One loop over a dimension: where it stands, outermost first, and the trips that it makes the last time."""

    level: int
    is_temporal: bool
    trips: int
    last_trips: int


def _ragged(reading: Reading, dim: str, extent: int, cuts: list[_Cut]) -> bool:
    """Whether a dimension's last tiles are smaller, as remainders say; that they make its extent, in a way that ours
    has, is checked."""
    cuts = sorted(cuts)
    if all(cut.trips == cut.last_trips for cut in cuts):
        return False
    made = 0
    for cut in cuts:
        made = made * cut.trips + cut.last_trips - 1
    if any(cut.trips == 0 for cut in cuts) or made + 1 != extent:
        rule = "0, what is left, is not understood beside remainders" if any(cut.trips == 0 for cut in cuts) else \
            f"the factors and remainders make {made + 1}, and must make {extent}"
        reading.wrong(rule, f"mapping.{dim}")
    on_array = [place for place, cut in enumerate(cuts) if not cut.is_temporal and cut.trips > 1]
    inside = cuts[on_array[0] :] if on_array else []
    if any(cut.is_temporal and cut.trips > 1 for cut in inside) and any(cut.trips > cut.last_trips for cut in inside):
        reading.wrong("leaves a part of what the array holds at once, which is cut further inside each PE: there the "
                      "last PEs would rest, and here all share the last steps", f"mapping.{dim}")
    return True


def nest_of(
    reading: Reading, architecture: Architecture, machine: Machine, directives: list[Any], einsum: Einsum
) -> LoopNest:
    """Return the nest of a mapping's directives. Raises ``ConfigurationError`` with every mistake in them."""
    temporal: dict[str, list[tuple[str, int]]] = {}
    spatial: dict[str, list[tuple[str, int]]] = {}
    names = {level.name: level for level in architecture.levels}
    order_of = {level.name: place for place, level in enumerate(architecture.levels)}
    cuts: dict[str, list[_Cut]] = {}
    for number, directive in enumerate(directives):
        path = f"mapping[{number}]"
        if not reading.fields(directive, path, ("target", "type"),
                              ("factors", "permutation", "split", "keep", "bypass")):
            continue
        kind, target = directive["type"], str(directive["target"])
        if kind in ("datatype", "dataspace", "bypass"):
            continue
        match = SPATIAL.fullmatch(target)
        target = match[1] if match is not None and target not in names else target
        if target not in names:
            reading.wrong("the architecture has no such level", f"{path}.target", target, at=directive,
                          allowed=tuple(names))
            continue
        with_remainders = _factors(reading, directive, path)
        factors = {dim: factor for dim, (factor, _) in with_remainders.items()}
        for dim, pair in with_remainders.items():
            cuts.setdefault(dim, []).append(_Cut(order_of[target], kind == "temporal", *pair))
        for dim in factors:
            if dim not in einsum.dims:
                reading.wrong("the problem has no such dimension", f"{path}.factors", dim, at=directive,
                              allowed=tuple(einsum.dims))
        given = directive.get("permutation", "")
        order = [str(each) for each in given] if isinstance(given, list) else _letters(str(given), einsum)
        for dim, factor in factors.items():
            if dim not in order:
                if factor != 1 and len([one for one in factors.values() if one != 1]) > 1:
                    reading.wrong("has no place in the permutation", f"{path}.permutation", dim, at=directive)
                order.append(dim)
        loops = [(dim, factors.get(dim, 1)) for dim in order if dim in einsum.dims]
        if kind == "temporal":
            running = [loop for loop in loops if loop[1] != 1]
            if match is not None and running:
                reading.wrong("a fan-out holds no temporal loops", f"{path}.factors", str(dict(running)), at=directive)
            temporal.setdefault(target, []).extend(reversed(running))
        elif kind == "spatial":
            _lay(reading, path, directive, names[target], loops, spatial)
        else:
            reading.wrong("no such type", f"{path}.type", kind, at=directive,
                          allowed=("temporal", "spatial", "datatype", "bypass"))
    reading.finish()
    every = [loop for loops in (*temporal.values(), *spatial.values()) for loop in loops]
    ragged = {dim for dim, ours in einsum.dims.items()
              if _ragged(reading, dim, einsum.layer.extent(ours), cuts.get(dim, []))}
    left = {dim: einsum.layer.extent(ours) for dim, ours in einsum.dims.items() if dim not in ragged}
    for dim, factor in every:
        if factor and dim in left:
            left[dim] = left[dim] // factor if left[dim] % factor == 0 else 0
    for dim, rest in left.items():
        if rest == 0 or (rest > 1 and (dim, 0) not in every):
            reading.wrong(f"the factors must multiply to {einsum.layer.extent(einsum.dims[dim])}", f"mapping.{dim}")
    reading.finish()

    def loop(dim: str, factor: int) -> Loop:
        return Loop(einsum.dims[dim], factor or left[dim])

    nest: list[Loop] = []
    stores: dict[Operand, list[Store]] = {operand: [] for operand in OPERANDS}
    for level in architecture.levels:
        for memory in machine.memories:
            if memory.name == level.name:
                for operand in memory.keeps:
                    stores[operand].append(Store(memory=memory.name, loops_above=len(nest)))
        nest += [one for one in (loop(*each) for each in temporal.get(level.name, ())) if one.trips > 1]
    laid = {axis: tuple(one for one in (loop(*each) for each in reversed(loops)) if one.trips > 1)
            for axis, loops in spatial.items()}
    return LoopNest(temporal=tuple(nest), spatial={axis: loops for axis, loops in laid.items() if loops},
                    stores={operand: tuple(kept) for operand, kept in stores.items()},
                    ragged=tuple(einsum.dims[dim] for dim in einsum.dims if dim in ragged))


def _letters(text: str, einsum: Einsum) -> list[str]:
    """A permutation as a string: names of one letter, or names with commas or blanks between."""
    parts = [part for part in re.split(r"[,\s]+", text) if part]
    return parts if len(parts) > 1 or (parts and parts[0] in einsum.dims) else list(text)


def _lay(
    reading: Reading, path: str, directive: Any, level: Level, loops: list[tuple[str, int]],
    spatial: dict[str, list[tuple[str, int]]],
) -> None:
    """Lay spatial loops along a level's axes: those before the split along X, the others along Y."""
    running = [loop for loop in loops if loop[1] != 1]
    if not running:
        return
    if not level.axes:
        reading.wrong("has no fan-out (spatial: meshX, meshY)", f"{path}.target", level.name, at=directive)
        return
    along_x, along_y = f"{level.name}_X", f"{level.name}_Y"
    if "split" not in directive and len(level.axes) == 2:
        reading.wrong("says which loops lie along X (those before it) and which along Y: required with both meshes",
                      f"{path}.split", at=directive)
        return
    only = next(iter(level.axes))
    split = int(directive.get("split", len(loops) if only == along_x else 0))
    for place, (dim, factor) in enumerate(loops):
        axis = along_x if place < split else along_y
        if factor == 1:
            continue
        if axis not in level.axes:
            reading.wrong(f"lies along {axis[-1]} by its split, where {level.name} has one position",
                          f"{path}.permutation", dim, at=directive)
            continue
        spatial.setdefault(axis, []).append((dim, factor))
