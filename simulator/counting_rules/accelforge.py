"""The counting rules of AccelForge 1.0.467, for mappings whose factors are perfect.

Own code, from the stated rules. Where they differ from ``docs/simulator.md``: latency is that of the busiest component
or of the temporal steps, whichever is longer, so nothing waits, fills or drains; tiles need no second buffer; a MAC
reads each operand and reads and writes its output at the innermost memory every time; energy is per bit.

A tile is requested once per iteration of *every* temporal loop above it, and by every copy of the inner memory; copies
that differ only along loops the operand does not depend on ask once (multicast), and their outputs are reduced into
one on the way. Outputs are written back once per iteration and read again once per iteration, but not the first time,
when they are zero. The array stands at one place in the order of the loops: memories outside it keep all their tiles
above that place, those inside it below (this is why a matrix product has 3! · 3! templates there, not 90).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from simulator.counting_rules.loop_nest import (
    READS,
    Flow,
    LoopNest,
    Machine,
    Memory,
    axes_inside,
    check,
    check_precision,
    extents,
    spatial_loops,
    tile_elements,
    tile_extents,
    trips,
)
from simulator.errors import MappingError, Problem
from simulator.layer import OPERANDS, RELEVANT_DIMS, Layer, Operand
from simulator.precision import LayerPrecision

Bits = dict[tuple[str, Operand, Flow], int]


@dataclass(frozen=True)
class Cost:
    """What one layer costs.

    Attributes:
        bits: moved at a memory, for an operand, in a flow; all copies of the memory together.
        cycles: of each memory, and ``steps`` of the array.
    """

    energy_pj: float
    latency_cycles: float
    bits: Bits
    cycles: dict[str, float]
    steps: int

    @property
    def edp(self) -> float:
        """Product of energy and latency."""
        return self.energy_pj * self.latency_cycles

    def access_bits(self, memory: str, operand: Operand, reads: bool) -> int:
        """Bits read from (or written to) a memory for an operand."""
        return sum(
            bits for (at, of, flow), bits in self.bits.items() if (at, of, flow in READS) == (memory, operand, reads)
        )


def rooms(layer: Layer, precision: LayerPrecision, machine: Machine, nest: LoopNest) -> dict[str, int]:
    """Bits that the tiles take in one copy of each memory.

    Here and in ``problems`` and ``count``: raises ``PrecisionError`` for layers split by channel.
    """
    check_precision(precision)
    found = {memory.name: 0 for memory in machine.memories}
    for operand in OPERANDS:
        for memory, store in zip(machine.levels(operand), nest.stores[operand], strict=True):
            tile = tile_extents(machine, nest, memory, store.room_position)
            found[memory.name] += tile_elements(layer, operand, tile, True) * precision.stored_bits(operand)
    return found


def problems(layer: Layer, precision: LayerPrecision, machine: Machine, nest: LoopNest) -> list[Problem]:
    """Say which memories the tiles overflow, and which loops lie along an axis that may not have them."""
    found = []
    for name, bits in rooms(layer, precision, machine, nest).items():
        size = machine.memory(name).size_bits
        if size is not None and bits > size:
            found.append(Problem(f"its tiles take {bits} bits, it has {size}", path=name))
    for axis, operand in machine.must_reuse.items():
        for loop in nest.spatial.get(axis, ()):
            if loop.trips > 1 and loop.dim in RELEVANT_DIMS[operand]:
                found.append(Problem(f"{operand} must be reused along it", path=f"spatial.{axis}", value=loop.dim))
    outside = [store.room_position for operand in OPERANDS for store in nest.stores[operand]
               if not machine.memory(store.memory).replicated_along]
    inside = [store.loops_above for operand in OPERANDS for store in nest.stores[operand]
              if machine.memory(store.memory).replicated_along]
    if inside and max(outside) > min(inside):
        found.append(Problem("the array stands at one place in the order of loops: all memories outside it keep their "
                             "tiles before those inside it do", path="stores"))
    for operand in OPERANDS:
        for store in nest.stores[operand]:
            between = nest.temporal[store.loops_above : store.room_position]
            # What a piece shares with the one before it is only kept along one loop; others must share nothing.
            if any(loop.dim not in RELEVANT_DIMS[operand] for loop in between) or sum(
                operand == "input" and _shares_rows(layer, loop.dim) for loop in between[1:]
            ):
                found.append(Problem("pieces may lie along loops it depends on only, all but the first without a halo",
                                     path=f"stores.{operand}.{store.memory}"))
    return found


def _shares_rows(layer: Layer, dim: str) -> bool:
    pairs = {"P": "R", "R": "P", "Q": "S", "S": "Q"}
    return dim in pairs and layer.extent(pairs[dim]) > 1  # type: ignore[arg-type]


def count(layer: Layer, precision: LayerPrecision, machine: Machine, nest: LoopNest) -> Cost:
    """Cost of one layer at one mapping. Raises ``MappingError`` for a mapping that does not fit."""
    check_precision(precision)
    check(layer, machine, nest)
    found = problems(layer, precision, machine, nest)
    if found:
        raise MappingError(found)
    bits: Bits = {}
    for operand in OPERANDS:
        _count_operand(layer, operand, precision.stored_bits(operand), machine, nest, bits)
    energies = [machine.memory(name).energy_pj(flow) * moved for (name, _, flow), moved in bits.items()]
    cycles = {memory.name: _memory_cycles(memory, nest, bits) for memory in machine.memories}
    return Cost(
        energy_pj=math.fsum((*energies, layer.macs * machine.mac_energy_pj)),
        latency_cycles=max((float(nest.steps), *cycles.values())),
        bits=bits,
        cycles=cycles,
        steps=nest.steps,
    )


def _count_operand(
    layer: Layer, operand: Operand, width_bits: int, machine: Machine, nest: LoopNest, bits: Bits
) -> None:
    """Add the bits of one operand, between each of its memories and the next one inside (at last the MACs)."""
    depends = RELEVANT_DIMS[operand]
    memories = machine.levels(operand)
    for level, outer in enumerate(memories):
        inner = memories[level + 1] if level + 1 < len(memories) else None
        above = len(nest.temporal) if inner is None else nest.stores[operand][level + 1].loops_above
        tile = extents(()) if inner is None else tile_extents(machine, nest, inner, above)
        requests = nest.temporal[:above]
        inner_axes = axes_inside(machine, inner) if inner is not None else ()
        between = spatial_loops(nest, tuple(axis for axis in axes_inside(machine, outer) if axis not in inner_axes))
        one_copy = width_bits * tile_elements(layer, operand, tile, True)
        # Bits per iteration at the outer memory, multicast or reduced; and at all copies inside.
        outer_bits = one_copy * trips(spatial_loops(nest, outer.replicated_along)) * trips(between, depends)
        inner_bits = one_copy * trips(spatial_loops(nest, outer.replicated_along)) * trips(between)
        fetched = trips(requests)
        if operand == "output":
            bits[outer.name, operand, "from_inner"] = fetched * outer_bits
            if inner is not None:
                bits[inner.name, operand, "to_outer"] = fetched * inner_bits
            fetched -= trips(requests, depends)
        bits[outer.name, operand, "to_inner"] = fetched * outer_bits
        if inner is not None:
            bits[inner.name, operand, "from_outer"] = fetched * inner_bits


def _memory_cycles(memory: Memory, nest: LoopNest, bits: Bits) -> float:
    copies = trips(spatial_loops(nest, memory.replicated_along))
    busiest = 0.0
    for port in memory.ports:
        if port.bits_per_cycle is not None:
            moved = sum(bits.get((memory.name, operand, flow), 0) for operand, flow in port.serves)
            busiest = max(busiest, moved / copies / port.bits_per_cycle)
    return busiest
