"""The counting rules of ZigZag 3.9.1: word accesses, energy, and its latency model of ports.

Own code, from the stated rules (``word_accesses``) and from the published method for latency (Mei et al., "A uniform
latency model for DNN accelerators with diverse architectures and dataflows", DATE 2022), with the choices that the
released tool makes where the paper leaves them open. Where they differ from ``docs/simulator.md``:

* A memory refills once per iteration of the loops above it, but the loops at the bottom of a level that an operand does
  not depend on belong to the next level inside, which holds still over them.
* A transfer is counted in words of the port, the last word in full; each copy of a memory counts its own.
* Partial sums are read back every time, the first one (of zeros) too, in full width while any loop of the reduction is
  left at this level or above, in the width of the finished output otherwise.
* Input tiles carry the halo of the whole tile; nothing of it is kept between tiles, nor shared by neighbouring PEs.
* Latency: steps, plus the stall of the worst port, plus loading before and unloading after. A port stalls by what its
  flows need beyond the windows in which their tiles may change, windows that overlap counted once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.counting_rules.loop_nest import (
    FLOWS,
    Flow,
    Loop,
    LoopNest,
    Machine,
    Memory,
    axes_inside,
    check,
    extents,
    spatial_loops,
    tile_elements,
    tile_extents,
    trips,
)
from simulator.errors import MappingError, Problem
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.precision import LayerPrecision

# Dimensions that an input depends on together with another (position and tap): neither wholly relevant nor irrelevant.
HALO_DIMS: frozenset[Dim] = frozenset(("P", "Q", "R", "S"))

INPUTS: tuple[Operand, ...] = ("input", "weight")
OUTPUTS: tuple[Operand, ...] = ("output",)

FlowKey = tuple[str, Operand, Flow]


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
class Cost:
    """What one layer costs.

    Attributes:
        words: accesses of all copies of a memory, for an operand, in a flow.
        energy_pj_by_level: of each operand at each memory.
        steps: temporal iterations.
        stall_cycles: of the worst port. loading_cycles, unloading_cycles: before the first and after the last step.
        port_stall_cycles: of each (memory, port); slack where negative.
        room: share of each memory's capacity that its tiles take.
        double_buffered: whether an operand's tile may change during the whole period at a memory.
        busiest_port_cycles: all transfers of the busiest port, one after the other.
    """

    words: dict[FlowKey, int]
    mac_energy_pj: float
    energy_pj_by_level: dict[tuple[Operand, str], float]
    steps: int
    stall_cycles: int
    loading_cycles: float
    unloading_cycles: float
    port_stall_cycles: dict[tuple[str, str], int]
    room: dict[str, float]
    double_buffered: dict[tuple[Operand, str], bool]
    busiest_port_cycles: int

    @property
    def memory_energy_pj(self) -> float:
        """Energy of all memories."""
        return math.fsum(self.energy_pj_by_level.values())

    @property
    def energy_pj(self) -> float:
        """Energy of memories and MACs."""
        return self.memory_energy_pj + self.mac_energy_pj

    @property
    def latency_cycles(self) -> float:
        """Steps, stall, loading and unloading."""
        return self.steps + self.stall_cycles + self.loading_cycles + self.unloading_cycles


@dataclass(frozen=True)
class _Level:
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


def count(
    layer: Layer, precision: LayerPrecision, machine: Machine, nest: LoopNest,
    operand_order: Sequence[Operand] = ("output", "weight", "input"),
) -> Cost:
    """Cost of one layer at one mapping.

    ``operand_order`` is the order in which operands claim free room for a second buffer (in the tool: the order of the
    layer's equation). Raises ``MappingError`` for a mapping that does not fit.
    """
    check(layer, machine, nest)
    levels = {operand: _levels(layer, operand, machine, nest) for operand in OPERANDS}
    room = _room(machine, precision, levels)
    overflowing = [Problem(f"its tiles take {share:.3f} of it", path=name) for name, share in room.items() if share > 1]
    if overflowing:
        raise MappingError(overflowing)
    doubled = _double_buffered(machine, precision, levels, operand_order)
    transfers: dict[FlowKey, Transfer] = {}
    words: dict[FlowKey, int] = {}
    for operand in OPERANDS:
        hold = _steps_held_by_macs(operand, nest, levels[operand][0].above)
        for number, level in enumerate(levels[operand]):
            inside = levels[operand][number - 1] if number else None
            outermost = number == len(levels[operand]) - 1
            for flow in FLOWS:
                key = (level.memory.name, operand, flow)
                found = _transfer(operand, flow, precision, nest, level, inside, hold, outermost, doubled)
                words[key] = 0 if found is None else found.words * found.periods * level.copies
                if found is not None:
                    transfers[key] = found
    by_port = {
        (memory.name, port.name): [
            transfers[memory.name, operand, flow] for operand, flow in sorted(port.serves)
            if (memory.name, operand, flow) in transfers
        ]
        for memory in machine.memories for port in memory.ports
    }
    port_stalls = {port: _port_stall(shared) for port, shared in by_port.items()}
    stall = max(0, *port_stalls.values())
    edges = _edge_cycles(machine, precision, transfers, levels, nest.steps + stall)
    return Cost(
        words=words,
        mac_energy_pj=layer.macs * machine.mac_energy_pj,
        energy_pj_by_level={
            (operand, level.memory.name): math.fsum(
                words[level.memory.name, operand, flow] * level.memory.energy_pj(flow) for flow in FLOWS
            )
            for operand in OPERANDS for level in levels[operand]
        },
        steps=nest.steps,
        stall_cycles=stall,
        loading_cycles=_loading(machine, edges, levels),
        unloading_cycles=_unloading(edges, levels),
        port_stall_cycles=port_stalls,
        room=room,
        double_buffered=doubled,
        busiest_port_cycles=max(sum(one.cycles * one.periods for one in shared) for shared in by_port.values()),
    )


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


def _steps_held_by_macs(operand: Operand, nest: LoopNest, innermost_above: int) -> int:
    """Steps over which a MAC's weight or input stays: the irrelevant loops at the bottom of the innermost level."""
    if operand == "output":
        return 1
    return _leading(nest.temporal[: innermost_above - 1 if innermost_above else None : -1], operand, False)


def _levels(layer: Layer, operand: Operand, machine: Machine, nest: LoopNest) -> list[_Level]:
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
        found.append(_Level(
            memory=memory, loops=loops, above=above[number],
            tile=tile_elements(layer, operand, tile_extents(machine, nest, memory, above[number]), False),
            feeds=round(here / inner), copies=trips(outside),
            partial_inside=trips(nest.temporal[: ends[number]] + outside, reduced) > 1,
            partial_here=trips(nest.temporal[: above[number]] + beyond, reduced) > 1,
        ))
        inside_axes = axes
    return found


def _tile_bits(operand: Operand, precision: LayerPrecision, level: _Level) -> int:
    partial = operand != "output" or level.partial_here
    return level.tile * (precision.stored_bits(operand) if partial else precision.output.bits)


def _room(machine: Machine, precision: LayerPrecision, levels: dict[Operand, list[_Level]]) -> dict[str, float]:
    """Share of each memory that the tiles take."""
    taken = {memory.name: 0.0 for memory in machine.memories}
    for operand, of_operand in levels.items():
        for level in of_operand:
            if level.memory.size_bits is not None:
                taken[level.memory.name] += _tile_bits(operand, precision, level) / level.memory.size_bits
    return taken


def _double_buffered(
    machine: Machine, precision: LayerPrecision, levels: dict[Operand, list[_Level]], operand_order: Sequence[Operand]
) -> dict[tuple[Operand, str], bool]:
    """Say which tiles may be replaced during their whole period: where a second one fits.

    What must stay of a tile is the tile without its outermost wholly relevant loops, which bring something new each
    time. Where the memory is at most half full of that, all operands have a second buffer; otherwise those, in order,
    for which there is room left.
    """
    stays: dict[tuple[Operand, str], float] = {}
    for operand, of_operand in levels.items():
        for level in of_operand:
            bits = _tile_bits(operand, precision, level) // _leading(level.loops, operand, True)
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


def _transfer(
    operand: Operand, flow: Flow, precision: LayerPrecision, nest: LoopNest, level: _Level, inside: _Level | None,
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


def _port_stall(transfers: Sequence[Transfer]) -> int:
    """Stall of one port by the flows that share it: those that stall alone, and what does not fit the shared window."""
    if not transfers:
        return 0
    if len(transfers) == 1:
        return transfers[0].stall_cycles
    alone = sum(transfer.stall_cycles for transfer in transfers if transfer.stall_cycles > 0)
    slack = sum(transfer.stall_cycles for transfer in transfers if transfer.stall_cycles <= 0)
    windows = sum(transfer.window_cycles * (transfer.periods - 1) for transfer in transfers)
    return alone + max(0, slack + windows - _union_of_windows(transfers))


def _union_of_windows(transfers: Sequence[Transfer]) -> int:
    """Steps in which any of the flows may use the port. Each window opens at the start of its period."""
    for transfer in transfers:
        if transfer.window_cycles == transfer.period_cycles:
            return transfer.period_cycles * transfer.periods
    longest = max(transfers, key=lambda transfer: transfer.period_cycles)
    is_open = np.zeros(longest.period_cycles, dtype=np.bool_)
    for transfer in transfers:
        is_open.reshape(-1, transfer.period_cycles)[:, : transfer.window_cycles] = True
    return int(is_open.sum()) * longest.periods


def _edge_cycles(
    machine: Machine, precision: LayerPrecision, transfers: dict[FlowKey, Transfer],
    levels: dict[Operand, list[_Level]], computing_cycles: int,
) -> dict[FlowKey, float]:
    """Cycles of each flow's first (or last) transfer outside the computation.

    What moves only once need not be there before the first step, beyond the tile of the innermost memory: the rest
    moves during the computation, as far as the bandwidth that the port's other flows leave it allows.
    """
    found: dict[FlowKey, float] = {}
    for memory in machine.memories:
        for port in memory.ports:
            keys = [
                (memory.name, operand, flow) for operand in (*INPUTS, *OUTPUTS) for flow in FLOWS
                if (operand, flow) in port.serves and (memory.name, operand, flow) in transfers
                # Partial sums neither load nor unload.
                and not (operand == "output" and flow in ("to_inner", "from_outer"))
            ]
            once = [key for key in keys if transfers[key].periods == 1]
            busy = sum(transfers[key].bits // transfers[key].period_cycles for key in keys if key not in once)
            found |= {key: float(transfers[key].cycles) for key in keys}
            if port.bits_per_cycle is None:
                continue
            needed = [-(-_tile_bits(key[1], precision, levels[key[1]][0]) // port.bits_per_cycle) for key in once]
            spare = max(0.0, (port.bits_per_cycle - busy) / port.bits_per_cycle * computing_cycles)
            found |= zip(once, _moved_into_computation([found[key] for key in once], needed, spare), strict=True)
    return found


def _moved_into_computation(cycles: Sequence[float], needed: Sequence[float], spare: float) -> list[float]:
    """Shorten transfers to what is needed of them, the longest first, by ``spare`` cycles in all."""
    left = list(cycles)
    for index in sorted(range(len(left)), key=lambda index: -left[index]):
        moved = max(0.0, min(left[index] - needed[index], spare))
        left[index] -= moved
        spare -= moved
    return left


def _loading(machine: Machine, cycles: dict[FlowKey, float], levels: dict[Operand, list[_Level]]) -> float:
    """Cycles until the first weights and inputs are in place.

    A link between two memories takes its slower end. Links on ports of one operand run beside those of the other;
    links on shared ports run one after the other, in the better of the two orders.
    """
    alone: dict[Operand, float] = {}
    half_shared: dict[Operand, float] = {}
    shared: dict[Operand, float] = {}
    for operand in INPUTS:
        alone[operand] = half_shared[operand] = shared[operand] = 0
        for inside, outside in zip(levels[operand], levels[operand][1:], strict=False):
            ends: tuple[tuple[Memory, Flow], ...] = ((inside.memory, "from_outer"), (outside.memory, "to_inner"))
            link = max(cycles[memory.name, operand, flow] for memory, flow in ends)
            sharing = sum(_serves_both_inputs(memory, operand, flow) for memory, flow in ends)
            if sharing == 0:
                alone[operand] += link
            elif sharing == 2:
                shared[operand] += link
            else:
                # The tool keeps the outermost such link only.
                half_shared[operand] = link
    return min(
        shared[first] + max(shared[second] + half_shared[second] + alone[second], half_shared[first] + alone[first])
        for first, second in (INPUTS, INPUTS[::-1])
    )


def _serves_both_inputs(memory: Memory, operand: Operand, flow: Flow) -> bool:
    return {of for of, _ in memory.port_of(operand, flow).serves}.issuperset(INPUTS)


def _unloading(cycles: dict[FlowKey, float], levels: dict[Operand, list[_Level]]) -> float:
    """Cycles until the last outputs are outside: all links one after the other, each as slow as its slower end."""
    return sum(
        max(cycles[inside.memory.name, "output", "to_outer"], cycles[outside.memory.name, "output", "from_inner"])
        for inside, outside in zip(levels["output"], levels["output"][1:], strict=False)
    )
