"""From a loop nest to a mapping of ours: where the tiles of all operands lie in the order of the loops.

A nest gives each operand its own places; a mapping of ours has one tile a level for all of them, and one loop a
dimension between two levels. A place may move over loops that its operand does not depend on without changing its tile,
so the operands' places of a level often meet; where they do not, the nest cannot be said here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bitmosaic.interchange.to_bitmosaic import Structure, structure_of
from simulator.accelerator import Accelerator
from simulator.counting_rules.loop_nest import Loop, LoopNest, Machine, check
from simulator.engine import simulate
from simulator.errors import MappingError, Problem
from simulator.layer import OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping, MappingLevel
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.result import LayerResult

MOST_PLACES = 20_000
"""Ways to lay the tiles of a nest without places that are bounded."""
MOST_SIMULATED = 16
"""Of these, those of least bound that are simulated."""


@dataclass(frozen=True)
class _Range:
    """Where a level's tile may lie for one operand: positions in the order of the temporal loops."""

    operand: Operand
    memory: str
    first: int
    last: int


def mapping_of(
    layer: Layer, precision: LayerPrecision, machine: Machine, accelerator: Accelerator, nest: LoopNest
) -> tuple[Mapping, tuple[str, ...]]:
    """Return the mapping that a nest is on the accelerator made of its machine, and notes.

    What is held twice is our choice: operands in the order weight, input, output, wherever there is room.
    Raises ``MappingError`` where the nest is not one of the layer, or cannot be said in a mapping.
    """
    check(layer, machine, nest, ragged=True)
    structure = structure_of(machine)
    _check_lanes(nest, structure)
    ranges = ranges_of(machine, accelerator, nest)
    problems = []
    windows: list[tuple[int, int]] = []
    for level, found in enumerate(ranges):
        first = max((each.first for each in found), default=0)
        last = min((each.last for each in found), default=len(nest.temporal))
        if first > last:
            problems.append(_uneven(nest, found, level, len(ranges)))
        windows.append((first, last))
    if problems:
        raise MappingError(problems)
    return _cheapest(layer, precision, accelerator, nest, structure, windows)


def best_places(
    layer: Layer, precision: LayerPrecision, machine: Machine, accelerator: Accelerator, nest: LoopNest
) -> tuple[Mapping, tuple[str, ...]]:
    """Return the mapping with a nest's loops in their order, and the places of least energy-delay product.

    For nests that do not say in which memories their tiles lie, or say it in a way that ours cannot. The places are
    ranked by the ``bound`` engine, and the first of them simulated. Raises ``MappingError`` where no place will do.
    """
    problems = _factor_problems(layer, nest)
    if problems:
        raise MappingError(problems)
    structure = structure_of(machine)
    _check_lanes(nest, structure)
    last = len(nest.temporal)
    register_window = (last, last) if _works_on_one_element(accelerator) else (0, last)
    windows = [(0, last)] * accelerator.buffer_levels + [register_window]
    mapping, notes = _cheapest(layer, precision, accelerator, nest, structure, windows)
    return mapping, ("Loops are in the order given; in which memories their tiles lie is our choice, that of least "
                     "energy-delay product.", *notes)


def _cheapest(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, nest: LoopNest, structure: Structure,
    windows: Sequence[tuple[int, int]],
) -> tuple[Mapping, tuple[str, ...]]:
    """The mapping of least energy-delay product whose tiles lie in the windows, and a note of what it holds twice.

    Of those whose product is least by the lower bound, some are simulated. Raises ``MappingError`` with what stands in
    the way where there is none.
    """
    bounded: list[tuple[float, int, Mapping]] = []
    refused: MappingError | None = None
    cut_apart: Problem | None = None
    for cuts in itertools.islice(increasing(windows), MOST_PLACES):
        clash = repeated(nest, cuts)
        if clash is not None:
            cut_apart = cut_apart or _split_loop(nest, cuts, *clash)
            continue
        mapping = _mapping(layer, nest, structure, cuts, _bypassing(accelerator))
        try:
            result = simulate(layer, precision, accelerator, mapping, engine="bound")
        except MappingError as error:
            refused = error
            continue
        bounded.append((_product(result), len(bounded), mapping))  # of equal ones the innermost places
    if not bounded:
        if refused is not None:
            raise refused
        raise MappingError(cut_apart or Problem("an inner memory's tiles lie outside those of an outer one",
                                               path="stores"))
    best: tuple[float, Mapping, tuple[str, ...]] | None = None
    for _, _, mapping in sorted(bounded)[:MOST_SIMULATED]:
        held, notes = _with_double_buffers(layer, precision, accelerator, mapping)
        if len(bounded) == 1:
            return held, notes
        cost = _product(simulate(layer, precision, accelerator, held))
        if best is None or cost < best[0]:
            best = cost, held, notes
    assert best is not None
    return best[1], best[2]


def _product(result: LayerResult) -> float:
    """Energy-delay product; cycles alone where energies are not known."""
    return result.energy_delay_product or float(result.total_cycles)


def _factor_problems(layer: Layer, nest: LoopNest) -> list[Problem]:
    product: dict[Dim, int] = {}
    for loop in (*nest.temporal, *(loop for loops in nest.spatial.values() for loop in loops)):
        product[loop.dim] = product.get(loop.dim, 1) * loop.trips
    return [
        Problem(f"its loops multiply to {product.get(dim, 1)}, the layer has {layer.extent(dim)}", path=dim)
        for dim in sorted({*product, *layer.dims})
        if product.get(dim, 1) != layer.extent(dim) and not (dim in nest.ragged and product[dim] > layer.extent(dim))
    ]


def _check_lanes(nest: LoopNest, structure: Structure) -> None:
    problems = [
        Problem("outputs are shared along it, so it adds up: only reduced loops may lie there", path=f"spatial.{axis}",
                value=loop.dim, allowed=("C", "R", "S"))
        for axis in structure.lanes for loop in nest.spatial.get(axis, ())
        if loop.trips > 1 and loop.dim not in ("C", "R", "S")
    ]
    if problems:
        raise MappingError(problems)


def _works_on_one_element(accelerator: Accelerator) -> bool:
    """Whether a lane works on one element between two fetches, because some operand has no registers."""
    return any(accelerator.registers_of(operand) is None for operand in OPERANDS)


def ranges_of(machine: Machine, accelerator: Accelerator, nest: LoopNest) -> list[list[_Range]]:
    """For each level of buffers, and for the registers: where the tile of each operand may lie."""
    found: list[list[_Range]] = [[] for _ in range(accelerator.buffer_levels + 1)]
    levels = {buffer.name: accelerator.level_of(buffer) for buffer in accelerator.buffers}
    levels |= {file.name: len(found) for file in accelerator.register_files}
    last = len(nest.temporal)
    for operand in OPERANDS:
        for store in nest.stores[operand]:
            if store.memory not in levels:
                continue
            if store.room_position != store.loops_above:
                raise MappingError(Problem(
                    "its tile passes piece by piece, with less room than what is fetched at once: a tile takes the "
                    "room of all of it here", path=f"stores.{operand}.{store.memory}"))
            first = final = store.loops_above
            while first > 0 and nest.temporal[first - 1].dim not in RELEVANT_DIMS[operand]:
                first -= 1
            while final < last and nest.temporal[final].dim not in RELEVANT_DIMS[operand]:
                final += 1
            found[levels[store.memory] - 1].append(_Range(operand, store.memory, first, final))
        if accelerator.registers_of(operand) is None:
            found[-1].append(_Range(operand, "the multipliers", last, last))
    return found


def _text(loop: Loop) -> str:
    return f"{loop.dim}{loop.trips}"


def _place(nest: LoopNest, position: int) -> str:
    if position == len(nest.temporal):
        return "inside all loops"
    return f"above {_text(nest.temporal[position])} (loop {position + 1} of {len(nest.temporal)})"


def _uneven(nest: LoopNest, found: Sequence[_Range], level: int, levels: int) -> Problem:
    """The tiles of one level do not meet: say whose, and which loops lie between."""
    outer = min(found, key=lambda each: each.last)
    inner = max(found, key=lambda each: each.first)
    between = " ".join(_text(loop) for loop in nest.temporal[outer.last : inner.first])
    what = "registers" if level == levels - 1 else "buffers" if levels == 2 else f"buffers of level {level + 1}"
    return Problem(
        f"{outer.operand} begins in {outer.memory} {_place(nest, outer.last)} at the latest, {inner.operand} in "
        f"{inner.memory} {_place(nest, inner.first)} at the earliest; {between} lies between, and one tile a level is "
        "for all operands here", path=what, allowed=("--places split", "--places best"),
    )


def _split_loop(nest: LoopNest, cuts: Sequence[int], level: int, dim: Dim) -> Problem:
    bounds = [0, *cuts]
    loops = " ".join(_text(loop) for loop in nest.temporal[bounds[level] : bounds[level + 1]])
    where = "dram" if level == 0 else f"buffer level {level}"
    return Problem(f"its loops are cut apart by others between two memories ({loops}), and here a dimension has one "
                   "loop there", path=f"{where}.order", value=dim)


def increasing(windows: Sequence[tuple[int, int]], least: int = 0) -> Iterator[tuple[int, ...]]:
    """Positions in the windows, none before the one outside it; the innermost ones first."""
    if not windows:
        yield ()
        return
    (first, last), *others = windows
    for position in range(last, max(first, least) - 1, -1):
        for inner in increasing(others, position):
            yield (position, *inner)


def repeated(nest: LoopNest, cuts: Sequence[int]) -> tuple[int, Dim] | None:
    """The first level and dimension whose loops are cut apart by others; None where there is none."""
    bounds = [0, *cuts]
    for level in range(len(cuts)):
        order = _order(nest, bounds[level], bounds[level + 1])
        for dim in order:
            if order.count(dim) > 1:
                return level, dim
    return None


def _order(nest: LoopNest, first: int, last: int) -> list[Dim]:
    """Loops of a level, outermost first; neighbours over one dimension are one loop."""
    dims = [loop.dim for loop in nest.temporal[first:last] if loop.trips > 1]
    return [dim for dim, _ in itertools.groupby(dims)]


def _bypassing(accelerator: Accelerator) -> tuple[Operand, ...]:
    """Operands whose only buffer is there to be bypassed."""
    return tuple(
        operand for operand in OPERANDS
        if all(operand in buffer.may_bypass and buffer.size_bits == 1 for buffer in accelerator.buffers_of(operand))
    )


def _mapping(
    layer: Layer, nest: LoopNest, structure: Structure, cuts: Sequence[int], bypass: tuple[Operand, ...] = ()
) -> Mapping:
    spatial: dict[str, dict[Dim, int]] = {}
    for axis, loops in nest.spatial.items():
        # Ours count the first one fastest, a nest names the outermost first.
        for loop in reversed(loops):
            if loop.trips > 1:
                along = spatial.setdefault(structure.place(axis), {})
                along[loop.dim] = along.get(loop.dim, 1) * loop.trips
    unrolled: dict[Dim, int] = {}
    for along in spatial.values():
        for dim, factor in along.items():
            unrolled[dim] = unrolled.get(dim, 1) * factor

    def tile(position: int, is_register: bool) -> dict[Dim, int]:
        extents: dict[Dim, int] = {} if is_register else dict(unrolled)
        for loop in nest.temporal[position:]:
            extents[loop.dim] = extents.get(loop.dim, 1) * loop.trips
        # Of a ragged dimension the only tile may be the last one.
        return {dim: min(extent, layer.extent(dim)) for dim, extent in extents.items() if extent > 1}

    bounds = [0, *cuts]
    levels = [MappingLevel(level="dram", order=tuple(_order(nest, 0, cuts[0])))]
    for number in range(1, len(cuts)):
        levels.append(MappingLevel(level="buffer", tile=tile(bounds[number], False),
                                   order=tuple(_order(nest, bounds[number], bounds[number + 1]))))
    levels.append(MappingLevel(level="register", tile=tile(cuts[-1], True)))
    return Mapping(spatial=spatial, levels=tuple(levels), bypass=bypass)


def _with_double_buffers(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, mapping: Mapping
) -> tuple[Mapping, tuple[str, ...]]:
    """Hold operands twice wherever there is room: level by level from the innermost, weight first, output last."""
    held = []
    for number in range(len(mapping.levels) - 2, 0, -1):
        for operand in OPERANDS:
            level = mapping.levels[number]
            buffers = [buffer for buffer in accelerator.buffers_of(operand) if accelerator.level_of(buffer) == number]
            if not buffers:
                continue
            twice = level.model_copy(update={"double_buffer": (*level.double_buffer, operand)})
            levels = (*mapping.levels[:number], twice, *mapping.levels[number + 1 :])
            wanted = mapping.model_copy(update={"levels": levels})
            try:
                Plan(layer, precision, accelerator, wanted)
            except MappingError:
                continue
            mapping = wanted
            held.append(f"{operand} in {buffers[0].name}")
    note = f"Held twice, so that the next tile loads behind: {', '.join(held) or 'nothing; there is no room'}."
    return mapping, (note,)

