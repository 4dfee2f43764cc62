"""Wires between the edge of the grid and its processing elements (PEs), and how many of them a bit passes.

A *hop* is one wire from the edge to a PE, or from a PE to its neighbour. The count is that of the machine, whichever
PEs a mapping uses, as skew and drain are (docs/simulator.md, "Energy").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from simulator.layer import OPERANDS, Frozen, Operand

if TYPE_CHECKING:
    from simulator.accelerator import Grid

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

    Systolic, R rows and C columns: what streams along a line passes all of it (C to the right, R down), and so do
    partial sums; what stays in one PE of a line passes half of it, (n + 1) / 2 in the mean. Multicast: the mean way
    from a corner to a PE, the sum of (n + 1) / 2 over the axes.
    """
    middle = [(axis.size + 1) / 2 for axis in grid.axes]
    if grid.passing.kind == "multicast":
        return dict.fromkeys(OPERANDS, sum(middle))
    rows, columns = (float(axis.size) for axis in grid.axes)
    found: dict[Operand, float] = {"weight": rows, "input": columns, "output": rows}
    if grid.passing.stationary == "input":
        found["weight"] = columns
    if grid.passing.stationary is not None:
        found[grid.passing.stationary] = middle[0]
    return found
