"""What of a mapping cannot be a number: which operands the loops of each level hold, what bypasses which buffers.

An operand is held where the loops irrelevant to it are innermost. Each combination is a *variant* with a closed form of
its own (``cost_terms``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from simulator.accelerator import Accelerator
from simulator.layer import DIMS, OPERANDS, REDUCTION_DIMS, RELEVANT_DIMS, Dim, Operand
from simulator.plan import grid_timing
from simulator.precision import LayerPrecision

IRRELEVANT: dict[Operand, tuple[Dim, ...]] = {
    operand: tuple(dim for dim in DIMS if dim not in RELEVANT_DIMS[operand]) for operand in OPERANDS
}


@dataclass(frozen=True)
class Variant:
    """Which operands the loop orders hold, and which bypass their buffers.

    Levels are counted as in ``Plan``: 0 is DRAM, then those of the buffers, then the registers.

    Attributes:
        held: for DRAM and for each level of buffers but the innermost, the operand that the loops there hold.
        held_by_registers: the same for the innermost one; None: every operand is fetched anew for each register tile.
        places: for each of ``OPERANDS`` the levels that it passes, outermost first.
        held_across: levels whose loops relevant to the operand that they hold make one trip, so that it stays as
            long as the loops of the next outer level hold it. (The innermost one only for an operand that bypasses.)
        single_trip: loops that make one trip: a level and a dimension. Those across which an operand is held; without
            the loops irrelevant to the stationary operand, which must be innermost, another one can be held; and those
            without which no partial sums come to some level.
        finished_to: outputs that are finished lie outside this level (0: only where ``held`` says so).
        second: of the orders of a level's loops (DRAM, and all levels of buffers but the innermost), only the one that
            would hold this operand next; None: both.
    """

    held: tuple[Operand, ...]
    held_by_registers: Operand | None
    places: tuple[tuple[int, ...], ...]
    held_across: frozenset[int] = frozenset()
    single_trip: frozenset[tuple[int, Dim]] = frozenset()
    finished_to: int = 0
    second: tuple[Operand | None, ...] = ()

    @property
    def levels(self) -> int:
        """Levels of buffers."""
        return len(self.held)

    @property
    def bypass(self) -> Operand | None:
        """The operand that bypasses all its buffers."""
        return next((operand for operand in OPERANDS if self.places_of(operand)[0] > self.levels), None)

    def places_of(self, operand: Operand) -> tuple[int, ...]:
        """Levels of the memories that an operand passes between DRAM and the grid, outermost first."""
        return self.places[OPERANDS.index(operand)]

    def refill_level(self, operand: Operand, level: int) -> int:
        """Level down to which the trips of irrelevant loops bring an operand anew to its place at a level; 0: none."""
        held = (*self.held, self.held_by_registers)
        for outer in range(level - 1, -1, -1):
            if held[outer] != operand:
                return outer + 1
            if outer not in self.held_across:
                return outer
        return 0

    def is_finished(self, level: int) -> bool:
        """Whether a buffer of a level only ever receives finished outputs."""
        inner = next((place for place in self.places_of("output") if place > level), None)
        return inner is not None and (inner <= self.finished_to or self.refill_level("output", inner) == 0)


def variants(accelerator: Accelerator, precision: LayerPrecision) -> tuple[Variant, ...]:
    """All variants of a machine: the operands that each level holds, bypasses, and what follows from these."""
    stationary = grid_timing(accelerator).stationary
    levels = accelerator.buffer_levels
    kept: tuple[Operand | None, ...] = tuple(
        operand for operand in OPERANDS if accelerator.registers_of(operand) is not None
    )
    found: list[Variant] = []
    for registers in kept or (None,):
        single = frozenset[tuple[int, Dim]]()
        if stationary is not None and registers != stationary:
            single = frozenset((levels, dim) for dim in IRRELEVANT[stationary])
        for places in _places(accelerator, registers):
            for held in itertools.product(OPERANDS, repeat=levels):
                found += _held_across(Variant(held, registers, places, single_trip=single))
    narrower = precision.output.bits < precision.stored_bits("output")
    return tuple(other for variant in found for other in _finishing(variant, narrower=narrower))


def _places(accelerator: Accelerator, registers: Operand | None) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Ways to bypass buffers: the levels that each operand passes. Only what registers hold may bypass all."""
    options: dict[Operand, list[tuple[int, ...]]] = {}
    for operand in OPERANDS:
        buffers = accelerator.buffers_of(operand)
        levels = [accelerator.level_of(buffer) for buffer in buffers]
        passable = [level for level, buffer in zip(levels, buffers, strict=True) if operand in buffer.may_bypass]
        options[operand] = [
            tuple(level for level in levels if level not in passed)
            for count in range(len(passable) + 1)
            for passed in itertools.combinations(passable, count)
            if count < len(levels) or operand == registers
        ]
    below = (accelerator.buffer_levels + 1,)
    for places in itertools.product(*options.values()):
        yield tuple(levels or below for levels in places)


def _held_across(variant: Variant) -> Iterator[Variant]:
    """A variant, and those in which operands are held across levels whose loops relevant to them make one trip."""
    held = (*variant.held, variant.held_by_registers)
    inner = range(1, variant.levels + (variant.bypass is not None))
    possible = [level for level in inner if held[level] == held[level - 1]]
    for count in range(len(possible) + 1):
        for across in itertools.combinations(possible, count):
            single = {
                (level, dim) for level in across for operand in [held[level]] if operand
                for dim in RELEVANT_DIMS[operand]
            }
            yield replace(variant, held_across=frozenset(across), single_trip=variant.single_trip | single)


def _finishing(variant: Variant, *, narrower: bool) -> Iterator[Variant]:
    """A variant, and where finished outputs take less room than sums, those in which outer buffers get no sums.

    There are none where reduced dimensions make one trip in all loops that bring outputs to a smaller place again.
    """
    yield variant
    for level in variant.places_of("output")[1:] if narrower else ():
        if down_to := variant.refill_level("output", level):
            single = {(outer, dim) for outer in range(down_to) for dim in DIMS if dim in REDUCTION_DIMS}
            yield replace(variant, finished_to=level, single_trip=variant.single_trip | single)
