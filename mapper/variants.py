"""What of a mapping cannot be a number: which operand the DRAM loops hold, which the registers hold, what bypasses.

An operand is held where the loops irrelevant to it are innermost. Each combination is a *variant* with a closed form of
its own (``cost_terms``).
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.accelerator import Accelerator
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Operand
from simulator.plan import grid_timing

IRRELEVANT: dict[Operand, tuple[Dim, ...]] = {
    operand: tuple(dim for dim in DIMS if dim not in RELEVANT_DIMS[operand]) for operand in OPERANDS
}


@dataclass(frozen=True)
class Variant:
    """Which operands the loop orders hold, and which one bypasses its buffer.

    ``held_by_registers`` None: every operand is fetched anew for each register tile.
    ``single_trip``: dimensions whose buffer loops have one trip. Without the loops irrelevant to the stationary
    operand, which must be innermost, another operand can be held; without the loops relevant to a bypassing operand,
    its registers hold it across passes.
    ``second_by_dram``: of the orders of the DRAM loops, only the one that would hold this operand next; None: all.
    """

    held_by_dram: Operand
    held_by_registers: Operand | None
    bypass: Operand | None
    single_trip: frozenset[Dim] = frozenset()
    second_by_dram: Operand | None = None

    @property
    def refills_registers(self) -> bool:
        """Whether an operand bypasses and its registers are filled anew for each pass."""
        return self.bypass is not None and not RELEVANT_DIMS[self.bypass] <= self.single_trip


def variants(accelerator: Accelerator) -> tuple[Variant, ...]:
    """All variants of a machine: three operands in DRAM, those kept by registers there, bypasses."""
    stationary = grid_timing(accelerator).stationary
    kept: tuple[Operand | None, ...] = tuple(
        operand for operand in OPERANDS if accelerator.registers_of(operand) is not None
    )
    found = []
    for registers in kept or (None,):
        single = frozenset[Dim]()
        if stationary is not None and registers != stationary:
            single = frozenset(IRRELEVANT[stationary])
        found += [Variant(held, registers, None, single) for held in OPERANDS]
        if registers is not None and registers in accelerator.buffers_of(registers)[0].may_bypass:
            found += [Variant(held, registers, registers, single) for held in OPERANDS]
            found.append(Variant(registers, registers, registers, single | RELEVANT_DIMS[registers]))
    return tuple(found)
