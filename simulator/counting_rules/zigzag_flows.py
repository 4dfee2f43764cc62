"""What ZigZag's rules make of a nest: each operand's levels, and the transfers between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.counting_rules.loop_nest import (
    Flow,
    Loop,
    LoopNest,
    Machine,
    Memory,
    axes_inside,
    extents,
    spatial_loops,
    tile_elements,
    tile_extents,
    trips,
)
from simulator.layer import DIMS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.precision import LayerPrecision

# Dimensions that an input depends on together with another (position and tap): neither wholly relevant nor irrelevant.
HALO_DIMS: frozenset[Dim] = frozenset(("P", "Q", "R", "S"))


@dataclass(frozen=True)
class Transfer:
    """One flow at one memory, for one of its copies.

    Attributes:
        bits: of one transfer (a tile, or what all inner copies take at once).
        period_cycles, periods: steps from one transfer to the next, and how many there are.
        window_cycles: steps of a period in which the transfer may happen.
        cycles: that it takes.
        words: of one transfer.
    """

    bits: int
    period_cycles: int
    periods: int
    window_cycles: int
    cycles: int
    words: int

    @property
    def stall_cycles(self) -> int:
        """Stall (slack where negative) of all transfers but the first, which is part of loading or unloading."""
        return (self.cycles - self.window_cycles) * (self.periods - 1)


@dataclass(frozen=True)
class Level:
    """What one memory does for one operand: level 0 is the innermost.

    ``loops`` are the loops of this level, ``above`` how many loops are outside it, ``tile`` the elements of one copy.
    ``feeds`` is how many different tiles of the level inside (or MACs) one copy feeds at once. ``partial_inside`` and
    ``partial_here``: whether sums arriving from inside, and sums leaving for outside, are partial.
    """

    memory: Memory
    loops: tuple[Loop, ...]
    above: int
    tile: int
    feeds: int
    copies: int
    partial_inside: bool
    partial_here: bool


def _irrelevant(operand: Operand, dim: Dim) -> bool:
    return dim not in RELEVANT_DIMS[operand]


def _wholly_relevant(operand: Operand, dim: Dim) -> bool:
    return not _irrelevant(operand, dim) and not (operand == "input" and dim in HALO_DIMS)


def _leading(loops: Sequence[Loop], operand: Operand, wholly_relevant: bool) -> int:
    """Trips of the outermost loops that are all wholly relevant (or all irrelevant) to an operand."""
    product = 1
    for loop in loops:
        if not (_wholly_relevant if wholly_relevant else _irrelevant)(operand, loop.dim):
            break
        product *= loop.trips
    return product


def _settled(operand: Operand, nest: LoopNest, loops_above: int) -> int:
    """Where a memory's tile starts, once the irrelevant loops just above it have moved down into it."""
    while loops_above and _irrelevant(operand, nest.temporal[loops_above - 1].dim):
        loops_above -= 1
    return loops_above


def steps_held_by_macs(operand: Operand, nest: LoopNest, innermost_above: int) -> int:
    """Steps over which a MAC's weight or input stays: the irrelevant loops at the bottom of the innermost level."""
    if operand == "output":
        return 1
    return _leading(nest.temporal[: innermost_above - 1 if innermost_above else None : -1], operand, False)


def levels_of(layer: Layer, operand: Operand, machine: Machine, nest: LoopNest) -> list[Level]:
    """Return an operand's levels, innermost first."""
    memories = machine.levels(operand)[::-1]
    stores = nest.stores[operand][::-1]
    above = [_settled(operand, nest, store.loops_above) for store in stores]
    above[-1] = 0
    ends = [len(nest.temporal), *above[:-1]]
    reduced = frozenset(DIMS) - RELEVANT_DIMS[operand]
    inside_axes: tuple[str, ...] = ()
    found = []
    for number, memory in enumerate(memories):
        axes = axes_inside(machine, memory)
        outside = spatial_loops(nest, memory.replicated_along)
        loops = nest.temporal[above[number] : ends[number]]
        # Copies that share a result are reduced on the way out of them; what leaves each of them counts as finished.
        beyond = () if number + 1 == len(memories) else spatial_loops(nest, memories[number + 1].replicated_along)
        # Different tiles that the copies inside take: by the axes alone, without what the temporal loops span.
        here, inner = (
            tile_elements(layer, operand, extents(spatial_loops(nest, of)), False) for of in (axes, inside_axes)
        )
        found.append(Level(
            memory=memory, loops=loops, above=above[number],
            tile=tile_elements(layer, operand, tile_extents(machine, nest, memory, above[number]), False),
            feeds=round(here / inner), copies=trips(outside),
            partial_inside=trips(nest.temporal[: ends[number]] + outside, reduced) > 1,
            partial_here=trips(nest.temporal[: above[number]] + beyond, reduced) > 1,
        ))
        inside_axes = axes
    return found


def tile_bits(operand: Operand, precision: LayerPrecision, level: Level) -> int:
    """Bits that one copy of a memory keeps of an operand."""
    partial = operand != "output" or level.partial_here
    return level.tile * (precision.stored_bits(operand) if partial else precision.output.bits)


def room_taken(machine: Machine, precision: LayerPrecision, levels: dict[Operand, list[Level]]) -> dict[str, float]:
    """Share of each memory that the tiles take."""
    taken = {memory.name: 0.0 for memory in machine.memories}
    for operand, of_operand in levels.items():
        for level in of_operand:
            if level.memory.size_bits is not None:
                taken[level.memory.name] += tile_bits(operand, precision, level) / level.memory.size_bits
    return taken


def double_buffered(
    machine: Machine, precision: LayerPrecision, levels: dict[Operand, list[Level]], operand_order: Sequence[Operand]
) -> dict[tuple[Operand, str], bool]:
    """Say which tiles may be replaced during their whole period: where a second one fits.

    What must stay of a tile is the tile without its outermost wholly relevant loops, which bring something new each
    time. Where the memory is at most half full of that, all operands have a second buffer; otherwise those, in order,
    for which there is room left.
    """
    stays: dict[tuple[Operand, str], float] = {}
    for operand, of_operand in levels.items():
        for level in of_operand:
            bits = tile_bits(operand, precision, level) // _leading(level.loops, operand, True)
            stays[operand, level.memory.name] = bits / level.memory.size_bits if level.memory.size_bits else 0.0
    taken = {
        memory.name: sum(stays[operand, memory.name] for operand in operand_order if operand in memory.keeps)
        for memory in machine.memories
    }
    found = {}
    for operand in operand_order:
        for level in levels[operand]:
            name = level.memory.name
            found[operand, name] = taken[name] <= 0.5 or stays[operand, name] <= 1 - taken[name]
            if found[operand, name] and taken[name] > 0.5:
                taken[name] += stays[operand, name]
    return found


def transfer(
    operand: Operand, flow: Flow, precision: LayerPrecision, nest: LoopNest, level: Level, inside: Level | None,
    hold: int, outermost: bool, doubled: dict[tuple[Operand, str], bool],
) -> Transfer | None:
    """Return what one flow moves at one level, None where it moves nothing."""
    outward = flow in ("to_outer", "from_outer")
    partial = level.partial_here if outward else level.partial_inside
    if operand == "output":
        moves = flow in ("from_inner", "to_outer") or partial
        width = precision.stored_bits(operand) if partial else precision.output.bits
    else:
        moves = flow in ("to_inner", "from_outer")
        width = precision.stored_bits(operand)
    # Nothing is outside the outermost memory.
    if not moves or (outward and outermost):
        return None
    # The tile that changes is this level's towards the outside, that of the level inside (or the MACs' own) inwards.
    changing = level if outward else inside
    elements = level.tile if outward else level.feeds * (inside.tile if inside is not None else 1)
    if changing is None:
        period, window = hold, hold
    else:
        period = trips(nest.temporal[changing.above :])
        window = period
        if not doubled[operand, changing.memory.name]:
            window = period // _leading(changing.loops, operand, False)
    port = level.memory.port_of(operand, flow)
    bits = elements * width
    return Transfer(
        bits=bits, period_cycles=period, periods=nest.steps // period, window_cycles=window,
        cycles=-(-bits // port.bits_per_cycle) if port.bits_per_cycle else 0, words=-(-bits // port.word_bits),
    )
