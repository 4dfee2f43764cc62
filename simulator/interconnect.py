"""Wires between the edge of the grid and its processing elements (PEs), and how many of them a bit passes.

A *hop* is one wire from the edge to a PE, or from a PE to its neighbour. The count is that of the machine, whichever
PEs a mapping uses, as skew and drain are (docs/simulator.md, "Energy").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from simulator.layer import OPERANDS, Frozen, Operand

if TYPE_CHECKING:
    from simulator.grid import Grid

INTERCONNECT = "interconnect"


class Interconnect(Frozen):
    """What it costs to bring bits to the PEs and back.

    Attributes:
        energy_pj_per_bit_hop: energy of one bit on one hop, registers on the way included.
        area_um2: all wires, repeaters and their registers together; None: not modelled.
        leakage_mw: of all of them; None: not modelled.
    """

    energy_pj_per_bit_hop: Annotated[float, Field(ge=0)]
    area_um2: Annotated[float, Field(ge=0)] | None = None
    leakage_mw: Annotated[float, Field(ge=0)] | None = None


def hops(grid: Grid) -> dict[Operand, float]:
    """Hops of one bit of each operand between the edge of a grid and its PEs.

    The sum over the axes, of n PEs each. Multicast: the mean way from the axis's end to a PE, (n + 1) / 2. Systolic:
    what streams along it passes all of it (to the right along the columns, down along the rows), and so do partial
    sums; what stays in one PE passes (n + 1) / 2 of it in the mean; what enters beside it passes nothing of it.
    """
    found: dict[Operand, float] = dict.fromkeys(OPERANDS, 0.0)
    stationary = None if grid.passing.kind == "multicast" else grid.passing.stationary
    to_the_right: Operand = "weight" if stationary == "input" else "input"
    for number, (axis, kind) in enumerate(zip(grid.axes, grid.axis_passings, strict=True)):
        middle = (axis.size + 1) / 2
        for operand in OPERANDS:
            if kind == "multicast":
                found[operand] += middle
            elif (operand == to_the_right) == (number == 1):
                found[operand] += middle if operand == stationary else axis.size
    return found
